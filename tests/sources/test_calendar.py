"""The calendar of a region: weekends by the local date, holidays by the table, known ahead."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, TimeAxis, load
from stgraph.graph.time import instant
from stgraph.sources.calendar import AFFECTS, CALENDAR, add_calendar, future_flags, read_holidays

TZ = "Europe/Amsterdam"
HOLIDAYS = pd.DataFrame({"date": ["2020-04-27", "2020-04-13", "2020-05-01"],
                         "name": ["King's Day", "Easter Monday", "Labour Day"], "country": ["NL", "", "BE"]})
SCHOOL = pd.DataFrame({"from": ["2020-04-25"], "to": ["2020-05-03"], "name": ["May holiday"]})


def graph(tz=TZ, start="2020-04-20T00:00", steps=24 * 14, name="town") -> DynamicHeteroGraph:
    made = DynamicHeteroGraph(time=TimeAxis(instant(start, tz), 3600, steps, tz), metadata={"name": name})
    made["sensor"].node_id = np.array(["a", "b", "c"])
    made["sensor"].country = np.array(["NL", "BE", "NL"])
    made["sensor"].num_nodes = 3
    made["segment"].country = torch.tensor([1, 1], dtype=torch.int32)
    made["segment"].num_nodes = 2
    made.declare("segment", "country", categories=["NL", "BE"])
    return made


def dates(axis: TimeAxis, rows) -> list[datetime.date]:
    stamps = pd.to_datetime(axis.times(np.asarray(rows)), unit="s", utc=True).tz_convert(axis.tz)
    return list(stamps.date)


def test_flags_are_those_of_the_local_date(tmp_path):
    made = add_calendar(graph(), HOLIDAYS, SCHOOL, region="country")
    made.save(tmp_path / "g.stg")
    made = load(tmp_path / "g.stg")
    assert made[CALENDAR].node_id.tolist() == ["BE", "NL"]
    flags = made.signal(CALENDAR)
    assert flags.channel_names == ["weekend", "holiday", "school_holiday"]
    values, mask = flags.read(0, flags.shape[0])
    assert mask.all()
    off = {"BE": {datetime.date(2020, 5, 1), datetime.date(2020, 4, 13)},
           "NL": {datetime.date(2020, 4, 27), datetime.date(2020, 4, 13)}}
    for row, date in enumerate(dates(made.time, np.arange(made.time.length))):
        for i, region in enumerate(("BE", "NL")):
            school = datetime.date(2020, 4, 25) <= date <= datetime.date(2020, 5, 3)
            assert values[row, i].tolist() == [date.weekday() > 4, date in off[region], school]
    assert made[CALENDAR, AFFECTS, "sensor"].edge_index.tolist() == [[1, 0, 1], [0, 1, 2]]
    assert made[CALENDAR, AFFECTS, "segment"].edge_index.tolist() == [[0, 0], [0, 1]]
    assert all(kind[2] != CALENDAR for kind in made.edge_types)


def test_the_same_instant_is_another_date_elsewhere():
    west = add_calendar(graph("America/Los_Angeles", "2020-05-01T00:00"), HOLIDAYS)
    east = add_calendar(graph("Asia/Tokyo", "2020-05-01T16:00"), HOLIDAYS)
    assert west.time.times()[0] == east.time.times()[0]
    assert west.signal(CALENDAR).values[:24, 0, 0].sum() == 0  # a Friday
    assert east.signal(CALENDAR).values[:9, 0, 0].tolist() == [0] * 8 + [1]  # Saturday after eight hours


def test_it_is_known_ahead_and_the_same_as_on_a_longer_axis(tmp_path):
    short = add_calendar(graph(steps=100), HOLIDAYS, SCHOOL, region="country")
    long = add_calendar(graph(steps=400), HOLIDAYS, SCHOOL, region="country")
    short.save(tmp_path / "g.stg")
    ahead = future_flags(load(tmp_path / "g.stg"), horizon=300)
    assert np.array_equal(ahead.values, long.signal(CALENDAR).values[100:])
    assert np.array_equal(future_flags(short, np.arange(100)).values, short.signal(CALENDAR).values)
    assert short.metadata["calendar"]["known_ahead"]


def test_without_tables_holidays_are_not_known():
    made = add_calendar(graph(), to=["sensor"], weekend=(4, 5))
    flags = made.signal(CALENDAR)
    assert made[CALENDAR].node_id.tolist() == ["town"]
    assert flags.mask.reshape(-1, 3).all(0).tolist() == [True, False, False]
    assert not flags.mask[..., 1:].any()
    day = [date.weekday() for date in dates(made.time, np.arange(made.time.length))]
    assert flags.values[:, 0, 0].tolist() == [float(one in (4, 5)) for one in day]
    assert made.edge_types == [(CALENDAR, AFFECTS, "sensor")]


def test_tables_on_disk_are_the_same_as_in_memory(tmp_path):
    HOLIDAYS.to_csv(tmp_path / "h.csv", index=False)
    SCHOOL.assign(**{"from": pd.to_datetime(SCHOOL["from"])}).to_parquet(tmp_path / "s.parquet")
    one = add_calendar(graph(), HOLIDAYS, SCHOOL, region="country")
    other = add_calendar(graph(), tmp_path / "h.csv", tmp_path / "s.parquet", region="country")
    assert np.array_equal(one.signal(CALENDAR).values, other.signal(CALENDAR).values)
    assert read_holidays(tmp_path / "h.csv").name == HOLIDAYS["name"].tolist()


@pytest.mark.parametrize(("call", "problem", "field"), [
    (lambda: read_holidays(pd.DataFrame({"name": ["x"]})), "no column of dates", "date"),
    (lambda: read_holidays(pd.DataFrame({"date": ["2020-01-01", "2020-02-30"]})), "not a date in row 2", "date"),
    (lambda: read_holidays(pd.DataFrame({"date": ["2020-01-01", None]})), "not a date in row 2", "date"),
    (lambda: read_holidays(pd.DataFrame({"date": ["2020-01-05"], "until": ["2020-01-01"]})), "end before", "until"),
    (lambda: add_calendar(graph(), to=["trip"]), "no such nodes", "to"),
    (lambda: add_calendar(graph(), region="county"), "do not name their region", "sensor.county"),
    (lambda: add_calendar(graph(), weekend=(7,)), "not a day", "weekend"),
    (lambda: add_calendar(add_calendar(graph())), "a calendar already", "type"),
    (lambda: add_calendar(DynamicHeteroGraph()), "needs a time axis", "time"),
    (lambda: future_flags(graph()), "has no calendar", "type")])
def test_faults_are_named(call, problem, field):
    with pytest.raises(InputError, match=problem) as error:
        call()
    assert error.value.field == field
    assert error.value.remedy
