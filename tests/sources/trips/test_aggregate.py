"""Counts, speeds, transitions and pairs of walks: each equals a count by hand, and nothing is lost."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.sources.events.hyperedges import time_bins
from stgraph.sources.trips import aggregate
from stgraph.sources.trips.aggregate import Aggregates, Bins, SparseSums, traffic_signal
from stgraph.sources.trips.journeys import Walks

SEGMENTS, JUNCTIONS = 30, 12
CHANCE = np.random.default_rng(7)
TAIL, HEAD = CHANCE.integers(0, JUNCTIONS, (2, SEGMENTS))
LENGTH = CHANCE.uniform(20, 400, SEGMENTS)
START = 1_700_000_000.0


def made(seed: int, journeys: int = 60) -> Walks:
    """Walks of 1 to 12 segments in one or two pieces; some traversals take no time."""
    chance = np.random.default_rng(seed)
    columns = defaultdict(list)
    for journey in range(journeys):
        now = START + chance.uniform(0, 20_000)
        for piece in range(chance.integers(1, 3)):
            for step in range(chance.integers(1, 7)):
                segment = chance.integers(0, SEGMENTS)
                share = chance.uniform(0.2, 1) if step == 0 else 1.0
                spent = chance.choice([0.0, chance.uniform(1, 200)], p=[0.1, 0.9])
                row = (journey, piece, segment, LENGTH[segment] * (1 - share), LENGTH[segment] * share, now,
                       now + spent, 0.9)
                for name, value in zip(Walks.__dataclass_fields__, row, strict=True):
                    columns[name].append(value)
                now += spent
            now += 100
    return Walks(**{name: np.array(values) for name, values in columns.items()})


def part(walks: Walks, rows: np.ndarray) -> Walks:
    return Walks(**{name: getattr(walks, name)[rows] for name in Walks.__dataclass_fields__})


def collected(walks: Walks, bins: Bins, blocks: int = 1) -> Aggregates:
    sums = Aggregates(bins, LENGTH, TAIL, HEAD)
    for journeys in np.array_split(np.unique(walks.journey), blocks):
        sums.add(part(walks, np.isin(walks.journey, journeys)))
    return sums


def bin_of(utc, step):
    return int(utc // step * step)


@given(st.integers(0, 1000), st.sampled_from([60, 900, 86_400]), st.integers(1, 9))
def test_traffic_equals_a_count_row_by_row(seed, step, blocks):
    walks = made(seed)
    expected = defaultdict(lambda: np.zeros(3))
    for i in range(len(walks)):
        expected[walks.segment[i], bin_of(walks.entered_at[i], step)] += (
            1, walks.length[i], walks.left_at[i] - walks.entered_at[i])
    traffic = collected(walks, Bins(step), blocks).traffic()
    keys = list(zip(traffic.segment.tolist(), traffic.bin.tolist(), strict=True))
    assert keys == sorted(expected)
    found = np.column_stack([traffic.count, traffic.distance, traffic.duration])
    np.testing.assert_allclose(found, [expected[key] for key in keys], rtol=1e-9, atol=1e-6)
    assert traffic.count.sum() == len(walks)
    with np.errstate(invalid="ignore", divide="ignore"):
        speed = found[:, 1] / found[:, 2]
    np.testing.assert_allclose(traffic.speed, np.where(found[:, 2] > 0, speed, np.nan))


@given(st.integers(0, 1000), st.integers(1, 9))
def test_transitions_equal_a_count_row_by_row(seed, blocks):
    walks = made(seed)
    expected = defaultdict(list)
    for i in range(len(walks) - 1):
        if (walks.journey[i], walks.piece[i]) == (walks.journey[i + 1], walks.piece[i + 1]):
            expected[walks.segment[i], walks.segment[i + 1], bin_of(walks.entered_at[i], 900)].append(i)
    found = collected(walks, Bins(900), blocks).transitions()
    keys = list(zip(found.segment.tolist(), found.then.tolist(), found.bin.tolist(), strict=True))
    assert keys == sorted(expected)
    for key, count, time in zip(keys, found.count, found.travel_time, strict=True):
        rows = expected[key]
        metres, seconds = walks.length[rows].sum(), (walks.left_at - walks.entered_at)[rows].sum()
        assert count == len(rows)
        np.testing.assert_allclose(time, LENGTH[key[0]] * seconds / metres)


@given(st.integers(0, 1000), st.integers(1, 9))
def test_pairs_of_origin_and_destination_equal_a_count(seed, blocks):
    walks = made(seed)
    expected = defaultdict(int)
    for journey in np.unique(walks.journey):
        rows = np.flatnonzero(walks.journey == journey)
        first, last = rows[0], rows[-1]
        expected[TAIL[walks.segment[first]], HEAD[walks.segment[last]], bin_of(walks.entered_at[first], 900)] += 1
    flows = collected(walks, Bins(900), blocks).flows()
    found = dict(zip(zip(flows.origin.tolist(), flows.destination.tolist(), flows.bin.tolist(), strict=True),
                     flows.count.tolist(), strict=True))
    assert found == expected
    assert flows.count.sum() == len(np.unique(walks.journey))


def test_a_drive_by_hand():
    """200 m in 20 s and 100 m of 400 m in 20 s; the second is entered in the next quarter of an hour."""
    walks = Walks(np.zeros(3, int), np.zeros(3, int), np.array([4, 5, 4]), np.array([0.0, 0, 0]),
                  np.array([200.0, 100, 200]), np.array([880.0, 900, 920]), np.array([900.0, 920, 970]), np.ones(3))
    sums = Aggregates(Bins(900), np.array([0, 0, 0, 0, 200.0, 400]), np.arange(6), np.arange(6) + 10)
    sums.add(walks)
    traffic = sums.traffic()
    assert traffic.segment.tolist() == [4, 4, 5]
    assert traffic.bin.tolist() == [0, 900, 900]
    assert traffic.speed.tolist() == [10, 4, 5]
    then = sums.transitions()
    assert then.travel_time.tolist() == [20, 80]  # all 400 m at 5 m/s
    flows = sums.flows()
    assert (flows.origin.tolist(), flows.destination.tolist(), flows.bin.tolist()) == ([4], [14], [0])


def test_sums_do_not_grow_with_rows(monkeypatch):
    monkeypatch.setattr(aggregate, "_MERGE", 10)
    sums, held = SparseSums(2, 1), []
    for seed in range(200):
        chance = np.random.default_rng(seed)
        sums.add((chance.integers(0, 5, 50), chance.integers(-2, 2, 50)), (np.ones(50),))
        held.append(len(sums._keys) + sums._size)
    assert 20 < max(held) <= 40  # there are 20 keys, and as many rows may wait
    keys, values = sums.result()
    assert values.sum() == 200 * 50
    assert keys.tolist() == sorted([i, j] for i in range(5) for j in range(-2, 2))


@pytest.mark.parametrize(("tz", "day"), [
    ("Europe/Berlin", "2024-03-30"), ("Europe/Berlin", "2024-10-26"), ("Australia/Lord_Howe", "2024-04-06"),
    ("Australia/Lord_Howe", "2024-10-05"), ("Asia/Kolkata", "2024-03-30"), ("Asia/Beirut", "2024-03-30")])
@pytest.mark.parametrize("step", [900, 3600, 7200, 21_600, 43_200, 86_400])
def test_bins_follow_the_clock_of_the_place(tz, day, step):
    """Two days before and after the clock changes, by an hour or by half of one, at midnight or later."""
    utc = int(np.datetime64(day, "s").astype(np.int64)) + np.arange(0, 3 * 86_400, 420) + 0.5
    bins = Bins.on_clock(step, tz, float(utc[0]))
    start = bins.start(utc)
    assert np.array_equal(start, np.concatenate([bins.start(part) for part in np.array_split(utc, 7)]))
    end = bins.end(start)
    assert ((start <= utc) & (utc < end)).all()
    first = np.unique(start)
    assert np.array_equal(bins.end(first)[:-1], first[1:])
    clock = [datetime.fromtimestamp(one, ZoneInfo(tz)) for one in first.tolist()]
    off = [one for one in clock if (one.hour * 3600 + one.minute * 60 + one.second) % step]
    assert len(off) <= (step <= 7200 or tz == "Asia/Beirut")  # one begins where the clock goes on: it skips its start
    if tz != "Asia/Kolkata":
        lengths = set((bins.end(first) - first).tolist())
        assert (lengths != {step}) == (step > 3600 or (tz == "Australia/Lord_Howe" and step == 3600))
    axis = bins.axis(int(first[0]), int(first[-1]))
    assert np.array_equal(np.unique(axis.times()), first)  # an hour that the clock skips is a step of no length
    expected, row = time_bins(np.floor(utc).astype(np.int64), step, tz)
    assert np.array_equal(expected.times(row), start)


def test_a_day_of_23_hours_has_its_flow():
    utc = np.arange(1_711_666_800, 1_711_666_800 + 71 * 3600, 1800.0)  # from 2024-03-29 00:00 in Berlin
    count = len(utc)
    walks = Walks(np.arange(count), np.zeros(count, int), np.zeros(count, int), np.zeros(count), np.ones(count), utc,
                  utc + 1, np.ones(count))
    bins = Bins.on_clock(86_400, "Europe/Berlin", float(utc[0]))
    sums = Aggregates(bins, LENGTH, TAIL, HEAD)
    sums.add(walks)
    signal, axis = traffic_signal(sums.traffic(), bins, np.array([0]), penetration=0.5)
    assert signal.values[:, 0, 0].tolist() == [48, 48, 46]
    np.testing.assert_allclose(signal.values[:, 0, 2], 4.0)  # two in an hour, and half of all were seen
    assert (axis.clock % 86_400 == 0).all()
    with pytest.raises(InputError, match="several days"):
        Bins.on_clock(7 * 86_400, "Europe/Berlin", float(utc[0])).start(utc[0] + np.arange(10) * 7 * 86_400.0)


def test_bins_of_a_plain_clock():
    assert Bins.on_clock(900, "Europe/Lisbon", START).phase == 0
    assert (Bins.on_clock(86_400, "Asia/Kolkata", START).start(np.array([START])) + 19_800).tolist() == [
        (int(START) + 19_800) // 86_400 * 86_400]
    instants = np.array([0.0, 899.99, 900, -0.01])
    assert Bins(900).start(instants).tolist() == [0, 0, 900, -900]


# -------------------------------------------------------------------- dense
def test_the_dense_signal_holds_the_same_numbers():
    walks = made(3, 200)
    traffic = collected(walks, Bins(900)).traffic()
    segments = np.unique(traffic.segment)[1:-2]
    signal, axis = traffic_signal(traffic, Bins(900), segments, penetration=0.05)
    assert signal.channel_names == ["count", "speed", "flow"]
    kept = np.isin(traffic.segment, segments)
    assert signal.values[..., 0].sum() == traffic.count[kept].sum()
    rows, columns = np.nonzero(signal.values[..., 0])
    times, inverse = axis.times(), dict(zip(segments.tolist(), range(len(segments)), strict=True))
    found = {(int(segments[j]), int(times[i])): tuple(signal.values[i, j]) for i, j in zip(rows, columns, strict=True)}
    assert len(found) == kept.sum()
    for segment, start, count, speed in zip(traffic.segment[kept].tolist(), traffic.bin[kept].tolist(),
                                            traffic.count[kept], traffic.speed[kept], strict=True):
        values = found[segment, start]
        assert values[0] == count
        np.testing.assert_allclose(values[1], np.nan_to_num(speed), rtol=1e-6)
        np.testing.assert_allclose(values[2], count / 0.05 * 4, rtol=1e-6)
        assert signal.mask[axis.row_of(start), inverse[segment], 1] == np.isfinite(speed)
    assert signal.mask[..., [0, 2]].all()
    assert not signal.mask[..., 1][signal.values[..., 0] == 0].any()


def test_a_signal_that_would_be_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(aggregate, "MOST_ENTRIES", 100)
    traffic = collected(made(0), Bins(60)).traffic()
    with pytest.raises(InputError, match="the signal would have") as error:
        traffic_signal(traffic, Bins(60), np.unique(traffic.segment))
    assert "--interval" in error.value.remedy
    with pytest.raises(InputError, match="out of range"):
        traffic_signal(traffic, Bins(60), np.unique(traffic.segment), penetration=1.2)
