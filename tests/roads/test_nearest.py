"""Nearest streets equal a look at every street, on made towns and on real extracts."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from towns import make_roads, random_town

from stgraph.errors import InputError
from stgraph.roads.nearest import TIE, SegmentIndex
from stgraph.sources.osm.build import build_osm


def directions(roads):
    """The other direction of each segment, -1 where there is none; of doubled streets each pair only once."""
    other = roads.reverse
    return np.where(other[other] == np.arange(len(other)), other, -1)


def streets_of(roads):
    """Numbers and shapes of the streets without direction."""
    number, other = np.arange(len(roads.tail)), directions(roads)
    street = number[(other < 0) | (number < other)]
    lines = shapely.linestrings(roads.line_metres, indices=np.repeat(number, np.diff(roads.line_ptr)))
    return street, lines[street]


def check_nearest(roads, xy, limit=np.inf):
    found = SegmentIndex(roads).nearest(xy, limit)
    street, lines = streets_of(roads)
    away = shapely.distance(shapely.points(xy)[:, None], lines[None])
    nearest = away.min(1)
    there = nearest <= limit + TIE
    assert np.array_equal(found.segment >= 0, there)
    np.testing.assert_allclose(found.distance[there], nearest[there], atol=2 * TIE)
    assert np.isinf(found.distance[~there]).all()
    assert np.isnan(found.point[~there]).all()
    assert np.isnan(found.offset[~there]).all()
    tied = np.where(away <= nearest[:, None] + TIE / 2, street, len(roads.tail)).min(1)
    near_tie = np.where(away <= nearest[:, None] + 2 * TIE, street, len(roads.tail)).min(1)
    assert ((found.segment == tied) | (found.segment == near_tie))[there].all()
    place = roads.to_metres(roads.locate(found.segment[there], found.offset[there]))
    np.testing.assert_allclose(place, found.point[there], atol=1e-5 if roads.metric else 2e-3)
    np.testing.assert_allclose(np.hypot(*(found.point - xy)[there].T), found.distance[there], atol=2 * TIE)


def check_within(roads, xy, radius, most):
    found = SegmentIndex(roads).within(xy, radius, most)
    (street, lines), other = streets_of(roads), directions(roads)
    away = shapely.distance(shapely.points(xy)[:, None], lines[None])
    full = np.minimum((away <= radius + TIE).sum(1), most)
    for row in range(len(xy)):
        part = slice(found.ptr[row], found.ptr[row + 1])
        segment, distance = found.segment[part], found.distance[part]
        one = np.where(other[segment] >= 0, np.minimum(segment, other[segment]), segment)
        chosen = one[np.concatenate([[True], one[1:] != one[:-1]])] if len(one) else one
        assert len(chosen) == len(set(chosen)) == full[row]  # each street once, both directions together
        for name in chosen:
            both = {name, other[name]} - {-1}
            assert set(segment[one == name]) == both
        column = np.searchsorted(street, chosen)
        np.testing.assert_allclose(away[row, column], np.sort(away[row])[:full[row]], atol=2 * TIE)
        np.testing.assert_allclose(distance, np.repeat(away[row, column], 1 + (other[chosen] >= 0)),
                                   atol=2 * TIE)
        steps = np.rint(away[row, column] / TIE)
        close = np.abs(np.diff(away[row, column])) < TIE / 4
        assert (np.diff(chosen)[close & (np.diff(steps) == 0)] > 0).all()  # ties by number
    place = roads.to_metres(roads.locate(found.segment, found.offset))
    point = np.repeat(np.arange(len(xy)), np.diff(found.ptr))
    np.testing.assert_allclose(np.hypot(*(place - xy[point]).T), found.distance, atol=1e-5 if roads.metric else 2e-3)
    return found


@given(st.integers(0, 10**6), st.sampled_from([5.0, 60.0, 5000.0]), st.sampled_from([np.inf, 30.0, 0.0]))
def test_nearest_equals_brute_force_on_made_towns(seed, spread, limit):
    roads = random_town(seed, 4)
    chance = np.random.default_rng(seed)
    on_line = roads.line_metres[chance.integers(0, len(roads.line_metres), 60)]
    check_nearest(roads, np.concatenate([on_line, on_line + chance.normal(0, spread, (60, 2))]), limit)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 15.0, 80.0, 3000.0]), st.integers(1, 12))
def test_within_equals_brute_force_on_made_towns(seed, radius, most):
    roads = random_town(seed, 4)
    chance = np.random.default_rng(seed)
    on_line = roads.line_metres[chance.integers(0, len(roads.line_metres), 15)]
    check_within(roads, np.concatenate([on_line, on_line + chance.normal(0, 60, (15, 2))]), radius, most)


@pytest.mark.parametrize("name", ["helsinki-centre", "fiji-ferry", "porto"])
def test_real_extracts_equal_brute_force(shared_data, name):
    roads, _ = build_osm(shared_data / "osm_extracts" / f"{name}.osm.pbf")
    chance = np.random.default_rng(3)
    count = 10 if name == "porto" else 400
    xy = roads.line_metres[chance.integers(0, len(roads.line_metres), count)] + chance.normal(0, 40, (count, 2))
    check_nearest(roads, np.concatenate([xy, np.add(xy[:5], [6000, 0])]))
    found = check_within(roads, xy[:40], 60.0, 8)
    turned = np.abs((found.heading - roads.heading(found.segment, found.offset) + 180) % 360 - 180)
    assert np.median(turned) < 1e-6  # at a bend either leg may give the direction
    assert (found.ptr[1:] > found.ptr[:-1]).mean() > 0.6


def test_points_in_any_order_and_number_get_the_same_answers():
    """More points than fit into one block, in another order, alone: the same."""
    roads = random_town(5)
    index = SegmentIndex(roads)
    chance = np.random.default_rng(0)
    xy = chance.uniform(-100, 800, (150_000, 2))
    whole, order = index.nearest(xy), chance.permutation(len(xy))
    turned = index.nearest(xy[order])
    assert np.array_equal(turned.segment, whole.segment[order])
    assert np.array_equal(turned.offset, whole.offset[order])
    near = index.within(xy, 40, 5)
    for row in chance.integers(0, len(xy), 50):
        alone = index.within(xy[row:row + 1], 40, 5)
        part = slice(near.ptr[row], near.ptr[row + 1])
        for name in ("segment", "offset", "distance", "heading"):
            assert np.array_equal(getattr(alone, name), getattr(near, name)[part])


def test_the_middle_of_a_ring_is_equally_far_from_all_of_it():
    """The samples asked for first do not settle it: all of them are equally far."""
    angle = np.linspace(0, 2 * np.pi, 721)
    ring = 1000 * np.stack([np.cos(angle), np.sin(angle)], 1)
    ring[-1] = ring[0]
    roads = make_roads([ring, [(3000, 0), (4000, 0)]])
    found = SegmentIndex(roads).nearest(np.array([[0.0, 0.0], [0.5, 0.0]]))
    assert found.segment.tolist() == [0, 0]
    np.testing.assert_allclose(found.distance, [1000 * np.cos(np.pi / 720), 999.5], atol=0.01)


def test_directions_by_hand():
    """A bent two-way street and a one-way street; the point sees the second leg of the first."""
    roads = make_roads([[(0, 0), (100, 0), (100, 50)], [(0, -30), (100, -30)]], both_ways=[0])
    found = SegmentIndex(roads).within(np.array([[110.0, 30.0], [50.0, -14.0], [np.nan, 0.0], [900.0, 0.0]]), 20)
    assert found.ptr.tolist() == [0, 2, 5, 5, 5]
    assert found.segment.tolist() == [0, 2, 0, 2, 1]
    np.testing.assert_allclose(found.offset, [130, 20, 50, 100, 50])
    np.testing.assert_allclose(found.distance, [10, 10, 14, 14, 16])
    np.testing.assert_allclose(found.heading, [0, 180, 90, 270, 90])


def test_lengths_of_the_map_scale_the_offsets():
    """A length that differs from that on the plane, as of a great circle, is divided along the line."""
    roads = make_roads([[(0, 0), (60, 0), (60, 40)]])
    object.__setattr__(roads, "length", np.array([200.0, 200.0]))
    index = SegmentIndex(roads)
    assert index.nearest(np.array([[60.0, 0.0]])).offset.tolist() == [120]
    assert index.within(np.array([[60.0, 20.0]]), 1).offset.tolist() == [160, 40]


def test_nothing_in_nothing_out():
    empty = SegmentIndex(make_roads([]))
    assert empty.nearest(np.array([[0.0, 0.0]])).segment.tolist() == [-1]
    assert empty.within(np.array([[0.0, 0.0]]), 50).ptr.tolist() == [0, 0]
    index = SegmentIndex(random_town(1))
    assert len(index.nearest(np.zeros((0, 2))).segment) == 0
    assert index.within(np.zeros((0, 2)), 50).ptr.tolist() == [0]
    lost = index.nearest(np.array([[np.nan, 0.0], [np.inf, 0.0], [0.0, 0.0]]))
    assert lost.segment[:2].tolist() == [-1, -1]
    assert lost.segment[2] >= 0
    assert np.isinf(lost.distance[:2]).all()


@pytest.mark.parametrize(("call", "match"), [
    (lambda index: index.nearest(np.zeros(2)), "east and a north"),
    (lambda index: index.nearest(np.zeros((1, 3))), "east and a north"),
    (lambda index: index.nearest(np.zeros((1, 2)), -1), "limit"),
    (lambda index: index.within(np.zeros((1, 2)), np.nan), "radius"),
    (lambda index: index.within(np.zeros((1, 2)), np.inf), "radius"),
    (lambda index: index.within(np.zeros((1, 2)), 10, 0), "most"),
])
def test_nonsense_is_refused(call, match):
    with pytest.raises(InputError, match=match):
        call(SegmentIndex(random_town(1)))
