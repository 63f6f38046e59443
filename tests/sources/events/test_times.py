"""Times of events: all ways to write an instant say the same; what is not said is refused, not guessed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from stgraph.errors import InputError
from stgraph.sources.events.times import Clock, TimeColumn, clock_to_utc

BERLIN = "Europe/Berlin"
STAMPS = pd.DatetimeIndex(["2017-01-05T10:00:30", "2017-07-05T00:00:00", "2017-10-01T23:59:59"], tz="UTC")
UTC = [1483610430, 1499212800, 1506902399]


def times(values, clock=None, form=None, blocks=1):
    column = TimeColumn("file", "time", form)
    for part in np.array_split(np.arange(len(values)), blocks):
        column.add(pa.chunked_array([pa.array(values).take(pa.array(part))]))
    return column.times(clock or Clock())


LOCAL = STAMPS.tz_convert(BERLIN)


@pytest.mark.parametrize(("values", "clock", "form"), [
    (UTC, Clock(), None),
    ([float(one) for one in UTC], Clock(), None),
    ([one * 1000 for one in UTC], Clock(), None),
    ([one * 10**9 for one in UTC], Clock(), None),
    ([str(one) for one in UTC], Clock(), None),
    (UTC, Clock(time_unit="s"), None),
    ([one * 1000 for one in UTC], Clock(time_unit="ms"), None),
    ([stamp.isoformat() for stamp in STAMPS], Clock(), None),
    ([stamp.strftime("%Y-%m-%dT%H:%M:%SZ") for stamp in STAMPS], Clock(tz=BERLIN), None),
    ([stamp.isoformat() for stamp in LOCAL], Clock(), None),
    ([stamp.strftime("%Y-%m-%d %H:%M:%S") for stamp in LOCAL], Clock(tz=BERLIN), None),
    ([stamp.strftime("%d.%m.%Y %I:%M:%S %p") for stamp in LOCAL], Clock(tz=BERLIN), "%d.%m.%Y %I:%M:%S %p"),
    ([stamp.strftime("%d.%m.%Y %H:%M:%S %z") for stamp in LOCAL], Clock(), "%d.%m.%Y %H:%M:%S %z"),
    (STAMPS.to_pydatetime().tolist(), Clock(), None),
    ([stamp.tz_localize(None).to_pydatetime() for stamp in LOCAL], Clock(tz=BERLIN), None),
    ([(one - UTC[0]) / 86_400 for one in UTC], Clock(start="2017-01-05T10:00:30", time_unit="d", tz="UTC"), None),
    ([(one - UTC[0]) / 3600 for one in UTC], Clock(start="2017-01-05T11:00:30+01:00", time_unit="h"), None),
    ([(stamp.tz_localize(None) - pd.Timestamp("2017-01-01")) / pd.Timedelta("1D") for stamp in LOCAL],
     Clock(start="2017-01-01", time_unit="d", tz=BERLIN, local_clock=True), None)])
def test_every_way_to_write_an_instant_says_the_same(values, clock, form):
    for blocks in (1, 2, 3):
        found = times(values, clock, form, blocks)
        assert found.utc.tolist() == UTC
        assert not found.missing.any()
        assert not found.skipped.any()


def test_days_have_their_own_midnight_and_are_known_as_dates():
    found = times(["2017-01-05", "2017-07-05"], Clock(tz=BERLIN))
    assert found.dates_only
    assert found.utc.tolist() == [1483570800, 1499205600]  # 23:00 and 22:00 UTC of the day before
    assert not times(["2017-01-05", "2017-07-05T01:00"], Clock(tz=BERLIN)).dates_only
    assert times([pd.Timestamp("2017-01-05").date()], Clock(tz=BERLIN)).dates_only


@pytest.mark.parametrize("missing", [None, "", "NA", "nan", " null "])
def test_missing_texts_are_missing_and_hide_nothing(missing):
    found = times(["2017-01-05T10:00Z", missing, missing, "2017-01-05T11:00Z"], blocks=2)
    assert found.missing.tolist() == [False, True, True, False]
    assert found.utc.tolist() == [1483610400, 0, 0, 1483614000]


def test_missing_numbers_and_a_column_without_any():
    assert times([np.nan, 1.5e9, None]).missing.tolist() == [True, False, True]
    assert times([None, None]).missing.all()
    assert times(["", " "], blocks=2).missing.all()


def test_the_skipped_hour_is_told_and_the_doubled_one_is_the_first():
    found = times(["2017-03-26T02:30", "2017-10-29T02:30", "2017-10-29T03:00"], Clock(tz=BERLIN))
    assert found.skipped.tolist() == [True, False, False]
    assert found.ambiguous == 1
    assert found.utc[1:].tolist() == [1509237000, 1509242400]  # 00:30 and 02:00 UTC


def test_a_day_whose_midnight_is_skipped_is_still_a_day():
    found = times(["2017-10-15", "2017-10-16"], Clock(tz="America/Sao_Paulo"))
    assert not found.skipped.any()
    assert found.utc.tolist() == [1508036400, 1508119200]  # 01:00 of that day, 00:00 of the next


def test_local_clocks_and_back():
    utc = np.arange(1483228800, 1483228800 + 365 * 86_400, 1800)
    local = pd.DatetimeIndex(utc.astype("datetime64[s]"), tz="UTC").tz_convert(BERLIN).tz_localize(None)
    found, exists, twice = clock_to_utc(local.to_numpy().astype("datetime64[s]").astype(np.int64), BERLIN)
    assert exists.all()
    assert twice.sum() == 4  # two half hours, each twice
    assert (found == utc)[~twice].all()


@pytest.mark.parametrize(("values", "clock"), [
    (["2017-01-05T10:59:59.6Z"], Clock()), (["2017-01-05T11:59:59.6"], Clock(tz=BERLIN)),
    ([pd.Timestamp("2017-01-05T10:59:59.6Z")], Clock()), ([1483613999.6], Clock()), ([1483613999600], Clock()),
    ([1483613999.6], Clock(time_unit="s")), ([1483613999600], Clock(time_unit="ms")),
    ([3599.6], Clock(start="2017-01-05T10:00Z", time_unit="s")),
    ([1483617599.6], Clock(tz=BERLIN, local_clock=True))])
def test_parts_of_a_second_do_not_move_an_event_into_the_next_hour(values, clock):
    found = times(values, clock)
    assert (found.utc.tolist(), found.fractional) == ([1483613999], 1)


def test_instants_before_1970_and_decimals_of_days():
    assert times(["1969-12-31T23:59:58.5Z"]).utc.tolist() == [-2]
    found = times([0.5, 1.25 / 86_400, 0.333333], Clock(time_unit="d", per_sequence=True))  # eight in the morning
    assert (found.utc.tolist(), found.fractional) == ([43200, 1, 28800], 2)


@pytest.mark.parametrize(("values", "clock", "problem", "field"), [
    (["2017-01-05T10:00"], Clock(), "no time zone was given", "time"),
    ([pd.Timestamp("2017-01-05").to_pydatetime()], Clock(), "no time zone was given", "time"),
    (["2017-01-05"], Clock(), "no time zone was given", "time"),
    (["2017-01-05T10:00Z", "2017-01-05T10:00"], Clock(tz="UTC"), r"offset and others do not \(row 2\)", "time"),
    (["2017-01-05T10:00Z", "yesterday"], Clock(), r"offset and others do not \(row 2\)", "time"),
    (["2017-01-05T10:00", "yesterday"], Clock(tz="UTC"), r"not a time \(row 2\)", "time"),
    ([3286.5, 3290.0], Clock(), "too small for seconds since 1970", "time"),
    ([201701051000], Clock(), "dates written without separators", "time"),
    ([3286.5], Clock(time_unit="d"), "from when on", "time"),
    ([3286.5], Clock(start="2010-01-01", time_unit="d"), "no time zone was given", "start"),
    ([3286.5], Clock(start="2010-01-01", tz="UTC"), "in which unit", "time"),
    ([3286.5], Clock(start="2010-01-01", tz="UTC", time_unit="fortnight"), "unknown unit", "time_unit"),
    ([3286.5], Clock(per_sequence=True), "in which unit", "time"),
    ([1e12], Clock(start="2010-01-01", tz="UTC", time_unit="d"), "thousands of years", "time"),
    ([1.5e9], Clock(local_clock=True), "whose clock", "time"),
    (["2017-01-05T10:00Z"], Clock(local_clock=True, tz=BERLIN), "not of a local clock", "time"),
    (["2017-01-05T10:00Z"], Clock(start="2010-01-01", tz="UTC", time_unit="d"), "times of its own", "start")])
def test_what_is_not_said_is_refused(values, clock, problem, field):
    with pytest.raises(InputError, match=problem) as error:
        times(values, clock)
    assert error.value.field == field


def test_rows_are_named_across_blocks_and_kinds_do_not_mix():
    with pytest.raises(InputError, match=r"not a time \(row 5\)"):
        times(["2017-01-05"] * 4 + ["05.01.2017"], Clock(tz="UTC"), blocks=5)
    with pytest.raises(InputError, match="written in several ways"):
        times(["2017-01-05T10:00", "2017-01-05T10:00Z"], Clock(tz="UTC"), blocks=2)
