"""Cleaning of points: every rule is the one that its words say, looked at point by point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.sources.trips.clean import CleanSettings, clean, jumps, out_of_reach, stops

OFF = CleanSettings(max_speed=0, max_gap=0, stop_radius=0, stop_time=0, min_length=0)


def drive(count=60, speed=10.0, step=5.0):
    """One vehicle straight to the east: trip, time, place."""
    time = np.arange(count) * step
    return np.zeros(count, np.int64), time, np.column_stack([speed * time, np.zeros(count)])


def settings(**given_):
    return CleanSettings(**{"max_speed": 0, "max_gap": 0, "stop_radius": 0, "stop_time": 0, "min_length": 0} | given_)


def wander(seed, count=120, trips=3):
    """Vehicles that stand, drive and now and then are somewhere else."""
    chance = np.random.default_rng(seed)
    trip = np.sort(chance.integers(0, trips, count))
    time = np.cumsum(chance.integers(1, 60, count)).astype(float)
    stand = chance.random(count) < 0.6
    xy = np.cumsum(np.where(stand[:, None], chance.normal(0, 4, (count, 2)), chance.normal(0, 300, (count, 2))), axis=0)
    xy[chance.random(count) < 0.05] += 20_000
    return trip, time, xy


# -------------------------------------------------------------------- jumps
def test_a_point_out_of_reach_of_both_neighbours_is_a_jump():
    trip, time, xy = drive()
    for wrong in (7, 23, 40):
        xy[wrong] += (0, 5000)
    assert np.flatnonzero(jumps(trip, time, xy, 40, 100)).tolist() == [7, 23, 40]
    cleaned = clean(trip, time, xy, settings=settings(max_speed=40))
    assert cleaned.keep.tolist() == [i for i in range(60) if i not in (7, 23, 40)]
    assert (cleaned.part == 0).all()
    assert cleaned.notes.jumps == 3


def test_every_other_of_several_jumps_in_a_row():
    trip, time, xy = drive(9)
    xy[[3, 5]] += (0, 5000)  # point 4 is out of reach of both, too, until these are gone
    assert np.flatnonzero(jumps(trip, time, xy, 40, 100)).tolist() == [3, 5]


def test_noise_is_no_jump():
    trip, time, xy = drive(500, 15, 1)
    noisy = xy + np.random.default_rng(0).normal(0, 20, xy.shape)
    assert (np.hypot(*np.diff(noisy, axis=0).T) > 60).any()  # faster than can be, from second to second
    assert not jumps(trip, time, noisy, 60, 100).any()


def test_a_trip_is_split_where_its_vehicle_is_suddenly_elsewhere():
    trip, time, xy = drive()
    xy[30:] += (0, 50_000)
    cleaned = clean(trip, time, xy, settings=settings(max_speed=40))
    assert cleaned.keep.tolist() == list(range(60))
    assert np.flatnonzero(np.diff(cleaned.part)).tolist() == [29]
    assert cleaned.notes.split_at_jumps == 1


@given(st.integers(0, 10_000))
def test_reach_equals_a_look_at_each_pair(seed):
    trip, time, xy = wander(seed)
    for i, away in enumerate(out_of_reach(trip, time, xy, 30, 50)):
        assert away == (i > 0 and trip[i] == trip[i - 1]
                        and np.linalg.norm(xy[i] - xy[i - 1]) > 30 * (time[i] - time[i - 1]) + 50)


# -------------------------------------------------------------------- stops
def stops_by_hand(trip, time, xy, radius, duration):
    stop, inside = np.full(len(trip), -1), np.zeros(len(trip), bool)
    for i in range(len(trip)):
        for j in range(i + 1, len(trip)):
            if trip[j] != trip[i] or np.linalg.norm(xy[j] - xy[i]) > radius:
                break
            if time[j] - time[i] >= duration:
                inside[i:j + 1] = True
                break
    number = -1
    for i in range(len(trip)):
        if inside[i]:
            number += i == 0 or not inside[i - 1] or trip[i] != trip[i - 1]
            stop[i] = number
    return stop


@given(st.integers(0, 10_000), st.sampled_from([20.0, 60.0, 400.0]), st.sampled_from([60.0, 180.0]))
def test_stops_equal_a_look_at_each_pair(seed, radius, duration):
    trip, time, xy = wander(seed)
    np.testing.assert_array_equal(stops(trip, time, xy, radius, duration),
                                  stops_by_hand(trip, time, xy, radius, duration))


def test_a_stop_parts_the_trip_between_its_ends():
    _, time, xy = drive(60)
    xy = np.concatenate([xy[:20], np.repeat(xy[20:21], 80, axis=0), xy[20:]])
    time = np.arange(140) * 5.0
    cleaned = clean(np.zeros(140, np.int64), time, xy, settings=settings(stop_radius=30, stop_time=300))
    stop = stops(np.zeros(140), time, xy, 30, 300)
    first, last = np.flatnonzero(stop == 0)[[0, -1]]
    assert last - first > 60
    assert cleaned.keep.tolist() == [*range(first + 1), *range(last, 140)]
    assert np.flatnonzero(np.diff(cleaned.part)).tolist() == [first]
    assert (cleaned.notes.stops, cleaned.notes.split_at_stops) == (1, 1)
    assert cleaned.notes.stop_points == last - first - 1


# -------------------------------------------------------------------- splits, map, length
def test_gaps_and_changes_of_state_split():
    trip, time, xy = drive()
    time[25:] += 600
    cut = np.zeros(60, bool)
    cut[[10, 40]] = True
    cleaned = clean(trip, time, xy, cut, settings=settings(max_gap=600))
    assert np.flatnonzero(np.diff(cleaned.part)).tolist() == [9, 24, 39]
    assert (cleaned.notes.split_at_gaps, cleaned.notes.split_at_changes) == (1, 2)
    time[25:] -= 5  # the gap is now 600 s, which is allowed
    assert clean(trip, time, xy, settings=settings(max_gap=600)).part.max() == 0


def test_a_trip_that_leaves_the_map_and_comes_back_is_two():
    trip, time, xy = drive()
    away = (np.arange(60) >= 20) & (np.arange(60) < 30)
    cleaned = clean(trip, time, xy, off_map=away, settings=OFF)
    assert cleaned.keep.tolist() == [*range(20), *range(30, 60)]
    assert np.flatnonzero(np.diff(cleaned.part)).tolist() == [19]
    assert (cleaned.notes.off_map, cleaned.notes.split_off_map) == (10, 1)


def test_single_points_and_short_parts_are_dropped_and_counted():
    trip = np.array([0, 1, 1, 1, 2, 2, 3, 3, 3])
    time = np.arange(9.0)
    xy = np.column_stack([[0, 0, 40, 80, 0, 200, 0, 10, 20], np.zeros(9)]).astype(float)
    cleaned = clean(trip, time, xy, settings=settings(min_points=3, min_length=50))
    assert cleaned.keep.tolist() == [1, 2, 3]
    assert cleaned.part.tolist() == [0, 0, 0]
    assert (cleaned.notes.single_points, cleaned.notes.short_parts, cleaned.notes.short) == (1, 2, 6)


@given(st.integers(0, 10_000))
def test_every_point_is_kept_or_counted_and_parts_are_of_one_trip(seed):
    trip, time, xy = wander(seed)
    chance = np.random.default_rng(seed)
    cleaned = clean(trip, time, xy, chance.random(len(trip)) < 0.05, chance.random(len(trip)) < 0.1,
                    CleanSettings(max_speed=30, stop_time=120, max_gap=50, min_length=20))
    notes = cleaned.notes
    assert len(cleaned.keep) + notes.off_map + notes.jumps + notes.stop_points + notes.short == len(trip)
    assert (np.diff(cleaned.keep) > 0).all()
    assert np.array_equal(np.unique(cleaned.part), np.arange(cleaned.part.max(initial=-1) + 1))
    together = np.diff(cleaned.part) == 0
    assert (np.diff(trip[cleaned.keep])[together] == 0).all()
    assert not (out_of_reach(cleaned.part, time[cleaned.keep], xy[cleaned.keep], 30, 100)).any()
    assert (np.diff(time[cleaned.keep])[together] <= 50).all()


def test_nothing_comes_of_nothing_and_clean_drives_stay_whole():
    empty = clean(np.empty(0, np.int64), np.empty(0), np.empty((0, 2)), np.empty(0, bool), np.empty(0, bool))
    assert len(empty.keep) == 0
    _, time, xy = drive()
    cleaned = clean(np.repeat([4, 9], 30), time, xy, settings=CleanSettings())
    assert cleaned.keep.tolist() == list(range(60))
    assert cleaned.part.tolist() == [0] * 30 + [1] * 30
    assert vars(cleaned.notes) == vars(type(cleaned.notes)())


@pytest.mark.parametrize(("name", "value"), [("max_speed", -1), ("min_points", 1), ("stop_time", float("nan"))])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match="out of range") as error:
        CleanSettings(**{name: value})
    assert error.value.field == name
