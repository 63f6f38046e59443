"""The time axis: rows to times and back, clocks, days, weeks, service days, daylight saving."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph.time import DAY, TimeAxis, instant, seconds

ZONES = ["UTC", "America/Los_Angeles", "Asia/Shanghai", "Australia/Melbourne", "Asia/Kolkata"]
METRO = TimeAxis(instant("2016-02-29T05:00", "Asia/Shanghai"), 600, 5 * 108, "Asia/Shanghai", 108, True)


@st.composite
def axes(draw: st.DrawFn) -> TimeAxis:
    step = draw(st.sampled_from([60, 300, 600, 900, 3600, DAY, 7 * DAY]))
    start = draw(st.integers(0, 2_000_000_000 // step)) * step
    if step < DAY and draw(st.booleans()):
        zone = draw(st.sampled_from(["UTC", "Asia/Shanghai"]))  # without daylight saving every slot exists once
        slots = draw(st.integers(1, DAY // step))
        return TimeAxis(start, step, draw(st.integers(1, 400)), zone, slots, first_slot=draw(st.integers(0, slots - 1)))
    return TimeAxis(start, step, draw(st.integers(1, 400)), draw(st.sampled_from(ZONES)))


@given(axes())
def test_row_of_is_the_inverse_of_times(axis: TimeAxis) -> None:
    times = axis.times()
    assert (np.diff(times) >= axis.step).all()
    rows = np.arange(axis.length)
    for inside in (0, axis.step // 2, axis.step - 1):
        np.testing.assert_array_equal(axis.row_of(times + inside), rows)
    assert axis.row_of(int(times[0]) - 1) == -1
    assert axis.row_of(int(times[-1]) + axis.step) == axis.length


@given(axes(), st.data())
def test_a_slice_has_the_times_and_the_calendar_of_its_rows(axis: TimeAxis, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, axis.length))
    stop = data.draw(st.integers(start, axis.length))
    part = axis.slice(start, stop)
    np.testing.assert_array_equal(part.times(), axis.times()[start:stop])
    for one, other in zip(part.calendar(), axis.calendar(), strict=True):
        np.testing.assert_array_equal(one, other[start:stop])
    assert TimeAxis.from_dict(part.to_dict()) == part


@given(axes())
def test_the_calendar_follows_the_clock_of_the_place(axis: TimeAxis) -> None:
    clock = pd.to_datetime(axis.times(), unit="s", utc=True).tz_convert(axis.tz)
    slot, weekday, day = axis.calendar()
    np.testing.assert_array_equal(weekday, clock.weekday)
    assert ((slot >= 0) & (slot < axis.slots_per_day)).all()
    dates = clock.tz_localize(None).to_numpy().astype("datetime64[D]")
    np.testing.assert_array_equal(day, dates.astype(np.int64))
    if axis.steps_per_day is None and axis.step < DAY:
        np.testing.assert_array_equal(slot, (clock.hour * 3600 + clock.minute * 60 + clock.second) // axis.step)


def test_midnight_and_sunday_wrap() -> None:
    axis = TimeAxis(instant("2012-03-04T23:50", "America/Los_Angeles"), 300, 4, "America/Los_Angeles")
    slot, weekday, day = axis.calendar()
    assert slot.tolist() == [286, 287, 0, 1]
    assert weekday.tolist() == [6, 6, 0, 0]
    assert np.diff(day).tolist() == [0, 1, 0]


@pytest.mark.parametrize(("date", "hours"), [("2012-03-11", 23), ("2012-11-04", 25), ("2012-06-01", 24)])
def test_days_of_daylight_saving_have_their_hours(date: str, hours: int) -> None:
    axis = TimeAxis(instant(date, "America/Los_Angeles"), 3600, 30, "America/Los_Angeles")
    slot, _, day = axis.calendar()
    assert (day == day[0]).sum() == hours
    shown = slot[:hours].tolist()
    assert shown == {23: [0, 1, *range(3, 24)], 24: list(range(24)), 25: [0, 1, 1, *range(2, 24)]}[hours]
    assert (np.diff(axis.times()) == 3600).all()


def test_metro_weeks_have_five_days_of_108_slots() -> None:
    slot, weekday, day = METRO.calendar()
    assert slot.reshape(5, 108).tolist() == [list(range(108))] * 5
    assert weekday[::108].tolist() == [0, 1, 2, 3, 4]
    rows = np.arange(0, 15 * 108, 108)
    assert METRO.calendar(rows)[1].tolist() == [0, 1, 2, 3, 4] * 3
    np.testing.assert_array_equal(np.diff(METRO.calendar(rows)[2])[:5], [1, 1, 1, 1, 3])
    assert METRO.calendar(np.array([-1]))[1].tolist() == [4]
    clock = pd.to_datetime(METRO.times(), unit="s", utc=True).tz_convert("Asia/Shanghai")
    assert {clock[0].strftime("%H:%M"), clock[108].strftime("%H:%M")} == {"05:00"}
    assert clock[107].strftime("%H:%M") == "22:50"
    assert (day[0], len(np.unique(day))) == (day.min(), 5)


def test_the_night_of_a_service_axis_belongs_to_the_last_row_before_it() -> None:
    night = int(METRO.times()[107]) + METRO.step + 1000
    assert METRO.row_of(night) == 107
    assert METRO.row_of(int(METRO.times()[108])) == 108


@pytest.mark.parametrize(("values", "field"), [
    ({"step": 0}, "interval"), ({"step": 7 * 60}, "interval"), ({"length": -1}, "length"), ({"tz": "Mars/Base"}, "tz"),
    ({"weekdays_only": True}, "weekdays_only"), ({"steps_per_day": 289}, "steps_per_day"),
    ({"steps_per_day": 0}, "steps_per_day"), ({"first_slot": 1}, "first_slot"),
    ({"steps_per_day": 10, "first_slot": 10}, "first_slot"),
])
def test_an_axis_that_cannot_be(values: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        TimeAxis(**{"start": 0, "step": 300, "length": 3, **values})
    assert caught.value.field == field


@pytest.mark.parametrize(("text", "expected"), [("5min", 300), ("1h", 3600), ("1D", DAY), ("30s", 30), (600, 600)])
def test_intervals_are_read(text: str | int, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-5min", "0s", "1500ms"])
def test_intervals_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="interval"):
        seconds(text)


def test_instants_are_read_on_the_clock_of_the_place() -> None:
    assert instant("2012-03-01T00:00", "America/Los_Angeles") == instant("2012-03-01T08:00+00:00")
    for text in ("2012-03-11T02:30", "2012-11-04T01:30", "yesterday-ish", "NaT"):
        with pytest.raises(InputError) as caught:
            instant(text, "America/Los_Angeles")
        assert caught.value.field == "time"
