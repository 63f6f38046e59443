"""Readings to signals: the mask is exactly what was observed, and values come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import Channel
from stgraph.sources.values import channels_of, check_finite, code_missing, implausible, on_grid, to_signal


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), unit=st.sampled_from([("speed", "mph"), ("speed", "km/h"), ("temperature", "degC"),
                                                       ("flow", "veh/5min"), ("count", "1"), ("occupancy", "%")]))
def test_values_come_back_in_the_unit_of_the_source(seed, unit):
    random = np.random.default_rng(seed)
    source = random.uniform(0, 100, (50, 4, 1)).astype(np.float32)
    source[random.random(source.shape) < 0.2] = np.nan
    signal = to_signal(source, [Channel("x", *unit)])
    assert signal.values.dtype == np.float32
    assert np.array_equal(signal.mask, ~np.isnan(source))
    assert (signal.values[~signal.mask] == 0).all()
    seen = signal.mask[..., 0]
    back = signal.to_source(signal.values[..., 0].astype(np.float64), 0)
    largest = np.abs(signal.values).max() / signal.channels[0].source.factor  # with an offset, rounding is of the sum
    np.testing.assert_allclose(back[seen], source[..., 0][seen], rtol=2e-7, atol=1e-7 * largest)


def test_codes_for_missing_and_only_they_are_missing():
    values = np.array([0, -1, -9999.9, 5, np.nan, 0.001], np.float32).reshape(6, 1, 1)
    coded, count = code_missing(values, (0, -9999.9))
    assert count == 2
    assert np.isnan(coded[:, 0, 0]).tolist() == [True, False, True, False, True, False]
    assert not np.isnan(values[0, 0, 0])  # what was given stays as it was


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999))
def test_rows_that_meet_become_the_mean_of_what_was_observed(seed):
    random = np.random.default_rng(seed)
    rows = random.integers(0, 8, 12)
    values = random.integers(0, 100, (12, 3, 2)).astype(np.float32)
    values[random.random(values.shape) < 0.4] = np.nan
    found = on_grid(values, rows, 9)
    for row in range(9):
        for place in np.ndindex(3, 2):
            seen = [value for value in values[rows == row][:, *place] if not np.isnan(value)]
            expected = np.mean(seen) if seen else np.nan
            np.testing.assert_allclose(found[row][place], expected, rtol=1e-6)


def test_an_infinite_reading_is_named():
    values = np.ones((5000, 3, 1), np.float32)
    values[4500, 2, 0] = -np.inf
    with pytest.raises(InputError, match="infinite reading in row 4501 of sensor c") as error:
        check_finite(values, ["a", "b", "c"], "speed.csv")
    assert (error.value.file, error.value.field, error.value.value) == ("speed.csv", "c", "-inf")


def test_channels_are_named_by_the_user_the_file_or_the_quantity():
    assert [c.name for c in channels_of(2, [], ["in", "out"], "count", None, "f")] == ["in", "out"]
    assert [c.name for c in channels_of(2, ["x", "y"], [], "count", None, "f")] == ["x", "y"]
    assert [c.name for c in channels_of(1, [], [], "speed", "mph", "f")] == ["speed"]
    assert [c.name for c in channels_of(2, [], [], "count", None, "f")] == ["count0", "count1"]
    several = channels_of(3, [], [], "flow, occupancy, speed", "veh/5min, 1, mph", "f")
    assert [(c.name, c.source_unit, c.unit) for c in several] == [
        ("flow", "veh/5min", "veh/h"), ("occupancy", "1", "1"), ("speed", "mph", "m/s")]


@pytest.mark.parametrize(("arguments", "problem", "field"), [
    ((2, [], ["in"], "count", None), "1 given for 2 channels", "channels"),
    ((1, [], ["in", "out"], "count", None), "2 given for 1 channel", "channels"),
    ((3, [], [], "count,speed", None), "2 given for 3 channels", "quantity"),
    ((3, [], [], "speed", "mph,mph"), "2 given for 3 channels", "unit"),
    ((2, [], ["a", "a"], "count", None), "two channels have one name", "channels"),
    ((1, [], [], "speed", "ug/m3"), "a speed is not measured in ug/m3", "unit"),
    ((1, [], [], "velocity", None), "unknown quantity", "quantity")])
def test_channels_that_do_not_fit(arguments, problem, field):
    with pytest.raises(InputError, match=problem) as error:
        channels_of(*arguments, "speed.csv")
    assert error.value.field == field
    assert error.value.remedy


@pytest.mark.parametrize(("quantity", "unit", "value", "said"), [
    ("speed", "m/s", 110, "km/h or mph"), ("speed", "mph", -1, "--missing-value"), ("occupancy", "1", 40, "in %"),
    ("temperature", "K", 21, "--missing-value"), ("count", "1", -9999, "--missing-value"),
    ("speed", "mph", 0, "exactly 0")])
def test_readings_that_are_hardly_possible_are_warned_of(quantity, unit, value, said):
    values = np.array([value, np.nan], np.float32).reshape(2, 1, 1)
    found = implausible(to_signal(values, [Channel("x", quantity, unit)]), False)
    assert len(found) == 1
    assert said in found[0]


def test_plausible_readings_are_not():
    values = np.array([60, np.nan], np.float32).reshape(2, 1, 1)
    assert implausible(to_signal(values, [Channel("x", "speed", "mph")]), False) == []
    assert implausible(to_signal(values * 0, [Channel("x", "speed", "mph")]), True) == []
