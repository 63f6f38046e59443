"""Windows equal naive slicing; the calendar and the lags equal the clock on the wall."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, TimeAxis
from stgraph.graph.signal import LazyArray
from stgraph.windows import City, Window

HOUR = 3600
SPRING = 1_331_280_000  # 2012-03-09 00:00 in Los Angeles; the clock jumps forward in the night to the 11th
AUTUMN = 1_351_839_600  # 2012-11-02 00:00 there; the clock goes back in the night to the 4th
AXES = {
    "utc": TimeAxis(0, HOUR, 24 * 20),
    "spring forward": TimeAxis(SPRING, HOUR, 24 * 20, "America/Los_Angeles"),
    "fall back": TimeAxis(AUTUMN, HOUR, 24 * 20, "America/Los_Angeles"),
    "service days": TimeAxis(1_456_693_200, 2 * HOUR, 9 * 25, "Asia/Shanghai", steps_per_day=9),
    "service weekdays": TimeAxis(1_456_693_200, 2 * HOUR, 9 * 25, "Asia/Shanghai", steps_per_day=9,
                                 weekdays_only=True),
}
NEEDS = frozenset({"profile", "lags"})


@pytest.fixture(params=AXES, ids=list(AXES))
def city(request, make_city, readings) -> City:
    time = AXES[request.param]
    return make_city(*readings(time.length), time, history=6, horizon=4)


def test_windows_equal_naive_slicing(city: City) -> None:
    origins = [6, 100, 37, city.time.length - 4]
    window = city.window(origins)
    values, mask = city.signal.values, city.signal.mask
    assert window.values.dtype == torch.float32
    for row, origin in enumerate(origins):
        np.testing.assert_array_equal(window.values[row], values[origin - 6 : origin])
        np.testing.assert_array_equal(window.mask[row], mask[origin - 6 : origin])
        np.testing.assert_array_equal(window.target[row], values[origin : origin + 4])
        np.testing.assert_array_equal(window.target_mask[row], mask[origin : origin + 4])
    assert window.origin.tolist() == origins
    assert window.city is city
    assert window.profile_past is None
    assert window.lags is None


@pytest.mark.parametrize("origins", [[50, 51, 52, 53], [50, 300, 17]], ids=["side by side", "far apart"])
def test_a_signal_on_disk_gives_the_same_windows(make_city, readings, origins: list[int]) -> None:
    values, mask = readings(24 * 20)
    near = make_city(values, mask).window(origins, NEEDS)
    far = make_city(LazyArray(values), LazyArray(mask)).window(origins, NEEDS)
    assert_same(near, far)


def assert_same(one: Window, other: Window) -> None:
    """Every tensor of two windows is equal."""
    for key, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(other, key)), key
    for part in ("past", "future"):
        for field in ("slot", "weekday", "minute"):
            assert torch.equal(getattr(getattr(one, part), field), getattr(getattr(other, part), field))
    for name, (values, mask) in (one.lags or {}).items():
        assert torch.equal(values, other.lags[name][0])
        assert torch.equal(mask, other.lags[name][1])


def test_a_hidden_reading_is_zero_whatever_the_signal_holds(make_city, readings) -> None:
    values, mask = readings(24 * 20)
    clean = make_city(values, mask).window([50, 400], NEEDS)
    dirty = make_city(np.where(mask, values, np.float32("nan")), mask).window([50, 400], NEEDS)
    assert_same(clean, dirty)


def test_the_calendar_is_the_clock_of_the_place(city: City) -> None:
    origin = 40
    window = city.window([origin, city.time.length - 4])
    for part, row in ((window.past, origin - 6), (window.future, origin)):
        for step in range(part.slot.shape[1]):
            utc = int(city.time.times(np.array([row + step]))[0])
            wall = pd.Timestamp(utc, unit="s", tz="UTC").tz_convert(ZoneInfo(city.time.tz))
            assert part.minute[0, step] == wall.hour * 60 + wall.minute
            assert part.weekday[0, step] == wall.weekday()
            first = 5 if city.time.steps_per_day else 0
            assert part.slot[0, step] == (wall.hour - first) * HOUR // city.time.step


def lag_by_hand(city: City, row: int, origin: int, days: int) -> int | None:
    """The row at the same clock time some (service) days before, by going through all rows."""
    dates = city.time.clock.astype("datetime64[s]").astype("datetime64[D]")
    minutes = city.time.clock % 86_400 // 60
    served = np.unique(dates)
    while row >= origin:
        if city.time.steps_per_day:
            place = np.searchsorted(served, dates[row]) - (days if days == 1 or not city.time.weekdays_only else 5)
            wanted = served[place] if place >= 0 else None
        else:
            wanted = dates[row] - days
        found = np.flatnonzero((dates == wanted) & (minutes == minutes[row])) if wanted is not None else []
        if len(found) == 0:
            return None
        row = int(found[-1])
    return row


@pytest.mark.parametrize(("name", "days"), [("yesterday", 1), ("last_week", 7)])
def test_lags_are_the_same_clock_time_earlier(city: City, name: str, days: int) -> None:
    origins = list(range(6, city.time.length - 3))
    values, mask = city.window(origins, NEEDS).lags[name]
    jumps = set(np.diff(city.time.local(city.time.times()) - city.time.times()).nonzero()[0])
    compared = known = 0
    for index, origin in enumerate(origins):
        for step in range(4):
            row = lag_by_hand(city, origin + step, origin, days)
            near_jump = any(abs(origin + step - jump - 24 * days) <= 3 or abs(origin + step - jump) <= 3
                            for jump in jumps)
            if near_jump and not city.time.steps_per_day:
                continue  # a clock time that exists twice, or not at all: see the tests below
            compared += 1
            if row is None:
                assert not mask[index, step].any()
                assert not values[index, step].any()
            else:
                known += 1
                np.testing.assert_array_equal(mask[index, step], city.signal.mask[row])
                np.testing.assert_array_equal(values[index, step], city.signal.values[row])
    assert known > 0.3 * compared


@pytest.mark.parametrize(("zone_start", "clock", "expected"), [
    (SPRING, "2012-03-12T01:00", "2012-03-11T01:00-08:00"),
    (SPRING, "2012-03-12T02:00", "2012-03-11T03:00-07:00"),  # 02:00 did not exist the day before
    (SPRING, "2012-03-12T03:00", "2012-03-11T03:00-07:00"),
    (SPRING, "2012-03-11T03:00", "2012-03-10T03:00-08:00"),
    (AUTUMN, "2012-11-05T01:00", "2012-11-04T01:00-08:00"),  # 01:00 existed twice: the later
    (AUTUMN, "2012-11-05T00:00", "2012-11-04T00:00-07:00"),
    (AUTUMN, "2012-11-04T02:00", "2012-11-03T02:00-07:00"),
])
def test_yesterday_across_a_change_of_the_clock(make_city, readings, zone_start: int, clock: str,
                                                expected: str) -> None:
    time = TimeAxis(zone_start, HOUR, 24 * 20, "America/Los_Angeles")
    city = make_city(*readings(time.length, hidden=0), time, history=6, horizon=4)
    row = int(time.row_of(int(pd.Timestamp(clock, tz=time.tz).timestamp())))
    lagged = city.window([row], NEEDS).lags["yesterday"][0][0, 0]
    wanted = int(time.row_of(int(pd.Timestamp(expected).timestamp())))
    np.testing.assert_array_equal(lagged, city.signal.values[wanted])


def test_a_horizon_beyond_the_lag_goes_back_once_more(make_city, readings) -> None:
    values, mask = readings(24 * 30, hidden=0)
    city = make_city(values, mask, history=6, horizon=60)
    for origin, target in ((300, True), (24 * 30, False)):  # also beyond the end of the axis
        lagged = city.window([origin], NEEDS, target=target).lags["yesterday"][0][0]
        expected = np.concatenate([values[origin - 24 : origin]] * 3)[:60]
        np.testing.assert_array_equal(lagged, expected)


def test_profiles_are_those_of_the_context(city: City) -> None:
    origins = np.array([6, 80, 133, city.time.length - 4])
    window = city.window(origins, NEEDS)
    rows = origins[:, None] + np.arange(-6, 4)
    profile = city.context.profile(rows)
    np.testing.assert_array_equal(window.profile_past, profile[:, :6])
    np.testing.assert_array_equal(window.profile_future, profile[:, 6:])


def test_the_context_sees_the_training_rows_only(city: City) -> None:
    assert (city.context.start, city.context.stop) == city.split.rows("train")
    city.use_context(10, 90)
    assert (city.context.start, city.context.stop) == (10, 90)


def test_the_step_after_the_last_row_can_be_forecast(city: City) -> None:
    length = city.time.length
    window = city.window([length], NEEDS, target=False)
    assert window.target is None
    np.testing.assert_array_equal(window.values[0], city.signal.values[-6:])
    np.testing.assert_array_equal(window.profile_future[0], city.context.profile(np.arange(length, length + 4)))
    assert torch.isfinite(window.profile_future).all()
    if not city.time.steps_per_day:
        np.testing.assert_array_equal(window.lags["yesterday"][1][0, 0], city.signal.mask[length - 24])


@pytest.mark.parametrize(("origins", "target"), [([5], True), ([10, 477], True), ([481], False)])
def test_a_window_that_leaves_the_axis_is_refused(make_city, readings, origins: list[int], target: bool) -> None:
    city = make_city(*readings(24 * 20), history=6, horizon=4)
    with pytest.raises(InputError, match="choose origins from 6 to") as caught:
        city.window(origins, target=target)
    assert caught.value.field == "origin"


def test_channels_are_chosen_by_name(make_city, readings) -> None:
    values, mask = readings(24 * 20)
    city = make_city(values, mask, channels=["channel 1"])
    assert city.num_channels == 1
    np.testing.assert_array_equal(city.window([50]).values[0], values[38:50, :, 1:])
    with pytest.raises(InputError, match="no such channel"):
        make_city(values, mask, channels=["volume"])


def test_a_graph_without_time_is_refused() -> None:
    with pytest.raises(InputError, match="no time axis"):
        City(DynamicHeteroGraph())


def test_edges_of_all_relations_among_the_nodes(make_city: Callable[..., City], readings) -> None:
    city = make_city(*readings(24 * 20))
    assert city.edges[0].shape == (2, 0)
    graph = city.graph
    graph["sensor", "near", "sensor"].edge_index = torch.tensor([[0, 1], [1, 2]])
    graph["sensor", "near", "sensor"].edge_weight = torch.tensor([0.5, 0.25])
    graph["sensor", "follows", "sensor"].edge_index = torch.tensor([[2], [0]])
    index, weight = City(graph).edges
    found = {(int(a), int(b)): float(w) for a, b, w in zip(*index, weight, strict=True)}
    assert found == {(0, 1): 0.5, (1, 2): 0.25, (2, 0): 1.0}
