"""Turns: equal to a walk over every pair of segments, angles to hand-computed ones."""

from __future__ import annotations

import numpy as np
import pytest

from stgraph.roads.network import reverse_segments
from stgraph.roads.turns import leg_directions, make_turns

PLACES = np.array([[0.0, 0.0], [0.0, 100.0], [100.0, 0.0], [-100.0, 0.0], [0.0, -100.0], [200.0, 0.0]])
MIDDLE, NORTH, EAST, WEST, SOUTH, FAR = range(6)


def lines_of(*lines):
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    return ptr, np.array([point for line in lines for point in line], float)


def straight(*pairs):
    """Segments between places: tail, head, line_ptr, line_xy, reverse."""
    tail, head = np.array(pairs).T
    ptr, xy = lines_of(*(PLACES[list(pair)] for pair in pairs))
    return tail, head, ptr, xy, reverse_segments(tail, head, ptr, xy)


def by_hand(tail, head, reverse):
    """Every pair of segments, looked at one by one."""
    found = set()
    for a in range(len(tail)):
        onward = [b for b in range(len(tail)) if head[a] == tail[b]]
        forward = [b for b in onward if b != reverse[a]]
        found |= {(a, b) for b in forward or onward}
    return found


def test_angles_at_a_crossing_are_the_ones_of_the_compass():
    roads = straight((SOUTH, MIDDLE), (MIDDLE, NORTH), (MIDDLE, EAST), (MIDDLE, WEST), (MIDDLE, SOUTH))
    index, angle = make_turns(*roads, metric=True)
    assert index.tolist()[0][:3] == [0, 0, 0]
    assert dict(zip(index[1][index[0] == 0].tolist(), angle[index[0] == 0].tolist(), strict=True)) == {
        1: 0.0, 2: -90.0, 3: 90.0}
    assert index.dtype == np.int64
    assert angle.dtype == np.float32


def test_no_way_back_but_at_the_end_of_a_dead_end():
    roads = straight((MIDDLE, EAST), (EAST, MIDDLE), (EAST, FAR), (FAR, EAST), (MIDDLE, NORTH))
    index, angle = make_turns(*roads, metric=True)
    moves = dict(zip(map(tuple, index.T.tolist()), angle.tolist(), strict=True))
    assert moves == {(0, 2): 0.0, (1, 4): -90.0, (2, 3): 180.0, (3, 1): 0.0}


def test_a_loop_may_be_driven_on_but_not_turned_round_in():
    corner = [[0, 0], [50, 50], [-40, 60], [0, 0]]
    ptr, xy = lines_of(corner, corner[::-1], [[0, 0], [0, -100]], [[0, -100], [0, 0]])
    tail, head = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])
    reverse = reverse_segments(tail, head, ptr, xy)
    assert reverse.tolist() == [1, 0, 3, 2]
    index, _ = make_turns(tail, head, ptr, xy, reverse, metric=True)
    assert set(map(tuple, index.T.tolist())) == {(0, 0), (0, 2), (1, 1), (1, 2), (2, 3), (3, 0), (3, 1)}


def test_legs_without_extent_are_passed_over():
    ptr, xy = lines_of([[0, 0], [0, 0], [1, 0], [1, 0]], [[1, 0], [1, 0], [1, 1]], [[1, 0], [1, 0]])
    first, last = leg_directions(ptr, xy, metric=True)
    np.testing.assert_array_equal(first, [0, 90, np.nan])
    np.testing.assert_array_equal(last, [0, 90, np.nan])
    _, angle = make_turns(np.array([0, 1, 1]), np.array([1, 2, 3]), ptr, xy, np.full(3, -1), metric=True)
    assert angle.tolist() == [90.0, 0.0]


def test_degrees_of_longitude_are_shorter_in_the_north_and_wrap_round():
    ptr, xy = lines_of([[179.99, 60.0], [-180.0, 60.0]], [[-180.0, 60.0], [-179.99, 60.005]])
    first, last = leg_directions(ptr, xy)
    assert last[0] == pytest.approx(0.0, abs=1e-9)  # east, not west round the globe
    assert first[1] == pytest.approx(45.0, abs=0.01)  # 0.01 degrees of longitude are as long as 0.005 of latitude


def test_nothing_gives_nothing():
    empty = np.zeros(0, np.int64)
    index, angle = make_turns(empty, empty, np.zeros(1, np.int64), np.zeros((0, 2)), empty)
    assert index.shape == (2, 0)
    assert angle.shape == (0,)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_equal_a_walk_over_all_pairs(seed):
    random = np.random.default_rng(seed)
    junctions, streets = 30, 50
    ends = random.integers(0, junctions, (streets, 2))
    ends = np.concatenate([ends, ends[random.random(streets) < 0.6][:, ::-1]])  # two-way, parallel, loops
    places = random.normal(0, 100, (junctions, 2))
    ptr, xy = lines_of(*(places[pair] for pair in ends))
    reverse = reverse_segments(ends[:, 0], ends[:, 1], ptr, xy)
    index, angle = make_turns(ends[:, 0], ends[:, 1], ptr, xy, reverse, metric=True)
    found = list(map(tuple, index.T.tolist()))
    assert found == sorted(found)
    assert len(found) == len(set(found))
    assert set(found) == by_hand(ends[:, 0], ends[:, 1], reverse)
    assert ((angle > -180) & (angle <= 180)).all()
    for (a, b), turned in zip(found, angle, strict=True):  # turning by the angle leads into the next heading
        u, v = (xy[ptr[s] + 1] - xy[ptr[s]] for s in (a, b))
        if np.hypot(*u) and np.hypot(*v):
            c, s = np.cos(np.radians(turned)), np.sin(np.radians(turned))
            np.testing.assert_allclose(np.array([c * u[0] - s * u[1], s * u[0] + c * u[1]]) / np.hypot(*u),
                                       v / np.hypot(*v), atol=1e-5)
