"""Descriptors equal slow references, and see the fitted rows only."""

from __future__ import annotations

import numpy as np
import pytest

from stgraph.errors import InputError
from stgraph.graph import Channel, Signal, TimeAxis
from stgraph.graph.signal import LazyArray
from stgraph.windows import Context

HOUR = 3600
SPRING = 1_331_280_000  # 2012-03-09 00:00 in Los Angeles; the clock jumps in the night to the 11th
AXES = {
    "hourly": TimeAxis(0, HOUR, 24 * 30),
    "daylight saving": TimeAxis(SPRING, HOUR, 24 * 30, "America/Los_Angeles"),
    "service days": TimeAxis(1_456_693_200, 2 * HOUR, 9 * 30, "Asia/Shanghai", steps_per_day=9, weekdays_only=True),
    "daily": TimeAxis(0, 24 * HOUR, 200),
}


def signal_of(values: np.ndarray, mask: np.ndarray | None) -> Signal:
    return Signal(values, mask, [Channel(f"channel {i}") for i in range(values.shape[2])])


@pytest.fixture(params=AXES, ids=list(AXES))
def fitted(request, readings) -> tuple[Signal, TimeAxis, Context]:
    time = AXES[request.param]
    signal = signal_of(*readings(time.length, hidden=0.3))
    return signal, time, Context(signal, time, 20, time.length - 60)


def profile_by_hand(signal: Signal, time: TimeAxis, start: int, stop: int, row: int, level: np.ndarray,
                    pulls: tuple[float, float]) -> np.ndarray:
    """The profile of one row ``[N, C]``, one reading after the other; the row's own is passed over."""
    slots, weekdays, _ = time.calendar(np.arange(time.length + 100))
    result = np.empty(signal.shape[1:])
    for node, channel in np.ndindex(*result.shape):
        every, alike, same = [], [], []  # readings of this slot: of every day, of days of this kind, of this weekday
        for other in range(start, stop):
            if other != row and slots[other] == slots[row] and signal.mask[other, node, channel]:
                reading = float(signal.values[other, node, channel])
                every.append(reading)
                if (weekdays[other] >= 5) == (weekdays[row] >= 5):
                    alike.append(reading)
                if weekdays[other] == weekdays[row]:
                    same.append(reading)
        usual = np.mean(every) if every else level[node, channel]
        for readings, pull in zip((alike, same), pulls, strict=True):
            usual = (sum(readings) + pull * usual) / (len(readings) + pull)
        result[node, channel] = usual
    return result


def test_the_profile_leaves_the_rows_own_reading_out(fitted) -> None:
    signal, time, context = fitted
    rows = np.array([20, 21, 45, time.length - 61, 5, time.length - 10, time.length + 30])
    expected = np.stack([profile_by_hand(signal, time, 20, time.length - 60, int(row), context.level,
                                         context.shrinkage) for row in rows])
    np.testing.assert_allclose(context.profile(rows), expected, rtol=2e-5)


def test_the_slot_mean_is_the_plain_mean(fitted) -> None:
    signal, time, context = fitted
    slots, weekdays, _ = time.calendar()
    row = time.length - 30
    alike = np.flatnonzero((slots == slots[row]) & (weekdays == weekdays[row]))
    alike = alike[(alike >= 20) & (alike < time.length - 60)]
    mean, count = context.slot_mean(np.array([row]))
    np.testing.assert_array_equal(count[0], signal.mask[alike].sum(0))
    seen = count[0] > 0
    expected = signal.values[alike].sum(0, dtype=float) / np.maximum(count[0], 1)
    np.testing.assert_allclose(mean[0][seen], expected[seen], rtol=1e-5)


def test_levels_scales_and_spreads(fitted) -> None:
    signal, time, context = fitted
    start, stop = 20, time.length - 60
    part = np.ma.masked_array(signal.values[start:stop].astype(float), ~signal.mask[start:stop])
    np.testing.assert_allclose(context.level, part.mean(0), rtol=1e-5)
    np.testing.assert_allclose(context.scale, part.std(0), rtol=1e-3)
    np.testing.assert_allclose(context.mean, part.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(context.deviation, part.std((0, 1)), rtol=1e-4)
    np.testing.assert_array_equal(context.count, part.count(0))
    departures = part - context.profile(np.arange(start, stop))
    np.testing.assert_allclose(context.spread, np.sqrt((departures**2).mean(0)), rtol=1e-4)


@pytest.mark.parametrize("poison", [np.nan, 1e9])
def test_rows_outside_and_hidden_readings_change_nothing(readings, poison: float) -> None:
    time = AXES["hourly"]
    values, mask = readings(time.length)
    clean = Context(signal_of(values, mask), time, 48, 500)
    bad = np.where(mask, values, np.float32(poison))
    bad[:48], bad[500:] = poison, poison
    seen = mask.copy()
    seen[:48], seen[500:] = True, True
    dirty = Context(signal_of(bad, seen), time, 48, 500)
    for name in ("level", "scale", "spread", "mean", "deviation", "count"):
        np.testing.assert_array_equal(getattr(clean, name), getattr(dirty, name), err_msg=name)
    rows = np.arange(time.length + 5)
    np.testing.assert_array_equal(clean.profile(rows), dirty.profile(rows))
    np.testing.assert_array_equal(clean.slot_mean(rows)[0], dirty.slot_mean(rows)[0])
    np.testing.assert_array_equal(clean.day_profile(), dirty.day_profile())


def test_a_fitted_row_does_not_know_its_own_reading(readings) -> None:
    """Changing a reading changes the profile of every other day, and not that of its own."""
    time = AXES["hourly"]
    values, mask = readings(time.length, hidden=0)
    changed = values.copy()
    changed[100] += 1000
    before, after = (Context(signal_of(v, mask), time, 0, 600) for v in (values, changed))
    np.testing.assert_allclose(after.profile(np.array([100])), before.profile(np.array([100])), rtol=1e-5)
    assert (after.profile(np.array([124, 268, 700])) > before.profile(np.array([124, 268, 700])) + 1).all()


def test_rows_of_any_shape_and_readings_at_hand(readings) -> None:
    time = AXES["hourly"]
    values, mask = readings(time.length)
    context = Context(signal_of(values, mask), time, 30, 400)
    rows = np.random.default_rng(0).integers(0, time.length, (4, 5))
    found = context.profile(rows)
    assert found.shape == (4, 5, 3, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, context.profile(rows, (values[rows], mask[rows])))
    np.testing.assert_array_equal(found[2, 3], context.profile(rows[2, 3:4])[0])


def test_a_signal_on_disk_gives_the_same(readings) -> None:
    time = AXES["hourly"]
    values, mask = readings(time.length)
    near = Context(signal_of(values, mask), time, 30, 400)
    far = Context(signal_of(LazyArray(values), LazyArray(mask)), time, 30, 400)
    rows = np.array([[31, 32, 33], [399, 400, 401], [32, 31, 5]])
    np.testing.assert_array_equal(near.profile(rows), far.profile(rows))
    np.testing.assert_array_equal(near.spread, far.spread)


def test_dead_and_constant_nodes_are_safe() -> None:
    time = AXES["hourly"]
    values = np.random.default_rng(0).normal(30, 4, (time.length, 3, 1)).astype(np.float32)
    values[:, 1] = 7.0
    mask = np.ones(values.shape, bool)
    mask[:, 2] = False
    values[:, 2] = 0
    context = Context(signal_of(values, mask), time, 0, 500)
    assert context.level[2, 0] == context.mean[0]  # never observed: it shows what the others show
    assert (context.spread > 0).all()
    assert (context.scale > 0).all()
    profile = context.profile(np.arange(time.length))
    assert np.isfinite(profile).all()
    np.testing.assert_allclose(profile[:, 1], 7.0, rtol=1e-5)
    np.testing.assert_allclose(profile[:, 2], context.mean[0], rtol=1e-5)


def test_one_day_of_rows_knows_no_other_day(readings) -> None:
    """With a single fitted day every slot is its own day, so its rows see the level alone."""
    time = AXES["hourly"]
    context = Context(signal_of(*readings(time.length, hidden=0)), time, 24, 48)
    np.testing.assert_allclose(context.profile(np.arange(24, 48)),
                               np.broadcast_to(context.level, (24, 3, 2)), rtol=1e-5)


def test_a_channel_without_a_reading_is_refused(readings) -> None:
    time = AXES["hourly"]
    values, mask = readings(time.length)
    mask[:300, :, 1] = False
    with pytest.raises(InputError, match="no reading is observed") as caught:
        Context(signal_of(values, mask), time, 0, 300)
    assert (caught.value.field, caught.value.value) == ("channel 1", "rows 0 to 299")
