"""Simplification: equal to osmnx on made graphs with all kinds of faults, and linear in time."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import numpy as np
import pytest

from stgraph.sources.osm.simplify import simplify


def made_ways(random):
    """Ways over few nodes: crossing, running back, doubled, closed, one-way or not."""
    count = int(random.integers(3, 14))
    ways = []
    for _ in range(int(random.integers(1, 6))):
        size = int(random.integers(2, 8))
        first = int(random.integers(0, count))
        nodes = random.integers(0, count, size).tolist() if random.random() < 0.5 else \
            [(first + step) % count for step in range(size)]
        ways.append((nodes[::-1] if random.random() < 0.3 else nodes, bool(random.random() < 0.4)))
    if random.random() < 0.4:
        ways.append((ways[int(random.integers(0, len(ways)))][0], bool(random.random() < 0.5)))
    return ways, random.random((count, 2)).round(4)


def legs_of(ways):
    start, end, both = [], [], []
    for nodes, single in ways:
        for one, other in itertools.pairwise(nodes):
            if one != other:
                start.append(one)
                end.append(other)
                both.append(not single)
    return np.array(start, np.int32), np.array(end, np.int32), np.array(both, bool)


def node_rows(segments, start, end):
    """The nodes along each segment."""
    rows = []
    for first, last in zip(segments.ptr, segments.ptr[1:], strict=False):
        steps = [(int(start[step >> 1]), int(end[step >> 1]))[::-1 if step & 1 else 1]
                 for step in segments.step[first:last].tolist()]
        assert all(one[1] == other[0] for one, other in itertools.pairwise(steps))
        rows.append([steps[0][0], *(step[1] for step in steps)])
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_it_is_osmnx_on_made_graphs(seed):
    osmnx = pytest.importorskip("osmnx")
    from osmnx.graph import _create_graph

    random = np.random.default_rng(seed)
    compared = 0
    for _ in range(150):
        ways, place = made_ways(random)
        start, end, both = legs_of(ways)
        if not len(start):
            continue
        elements = [{"type": "node", "id": node, "lon": x, "lat": y} for node, (x, y) in enumerate(place.tolist())]
        elements += [{"type": "way", "id": row, "nodes": nodes, "tags": {"oneway": "yes" if single else "no"}}
                     for row, (nodes, single) in enumerate(ways)]
        graph = osmnx.simplify_graph(_create_graph([{"elements": elements}], False))
        segments = simplify(start, end, both, len(place))
        rows = node_rows(segments, start, end)
        theirs = Counter((tail, head, tuple(data["geometry"].coords) if "geometry" in data else None)
                         for tail, head, data in graph.edges(data=True))
        ours = Counter((row[0], row[-1], tuple(map(tuple, place[row].tolist())) if len(row) > 2 else None)
                       for row in rows)
        assert ours == theirs, ways
        assert [(row[0], row[-1]) for row in rows] == list(zip(segments.tail, segments.head, strict=True))
        for row, back in zip(rows, segments.reverse.tolist(), strict=True):
            assert back < 0 or rows[back] == row[::-1]
        compared += len(rows)
    assert compared > 500


@pytest.mark.parametrize("seed", range(3))
def test_without_merging_every_leg_is_a_segment(seed):
    ways, place = made_ways(np.random.default_rng(seed))
    start, end, both = legs_of(ways)
    segments = simplify(start, end, both, len(place), merge=False)
    expected = Counter(zip(start.tolist(), end.tolist(), strict=True))
    expected += Counter(zip(end[both].tolist(), start[both].tolist(), strict=True))
    assert Counter(zip(segments.tail.tolist(), segments.head.tolist(), strict=True)) == expected
    assert np.array_equal(np.sort(segments.reverse[segments.reverse >= 0]), np.flatnonzero(segments.reverse >= 0))
    assert (segments.reverse >= 0).sum() == 2 * both.sum()


def test_a_chain_of_a_hundred_thousand_legs_takes_no_longer_than_many_short_ones():
    count = 100_000
    node = np.arange(count + 1)
    started = time.process_time()
    segments = simplify(node[:-1], node[1:], np.ones(count, bool), count + 1)
    assert time.process_time() - started < 3
    assert (segments.tail.tolist(), segments.head.tolist()) == ([0, count], [count, 0])
    assert np.array_equal(segments.step, np.concatenate([2 * node[:-1], 2 * node[:-1][::-1] + 1]))
    assert segments.reverse.tolist() == [1, 0]


def test_a_cul_de_sac_with_a_loop_has_the_loop_twice_and_a_ring_alone_is_dropped():
    ways = [([0, 1, 2, 3, 1], False), ([4, 5, 6, 4], False)]
    start, end, both = legs_of(ways)
    segments = simplify(start, end, both, 7)
    rows = node_rows(segments, start, end)
    assert sorted(map(tuple, rows)) == [(0, 1), (1, 0), (1, 2, 3, 1), (1, 3, 2, 1)]


def doubled_row(count, ring):
    """One-way streets in a row, every other one drawn twice: where they meet is a junction until they are merged."""
    ways = []
    for place in range(0, 4 * count, 4):
        last = 0 if ring and place == 4 * (count - 1) else place + 4
        ways += [([place, place + 1, place + 2], True)] * 2 + [([place + 2, place + 3, last], True)]
    return ways, 4 * count + (not ring)


@pytest.mark.parametrize(("ring", "segments"), [(False, 2), (True, 0)])
def test_what_is_a_ring_once_it_is_merged_is_dropped_by_osmnx_and_here(ring, segments):
    osmnx = pytest.importorskip("osmnx")
    from osmnx.graph import _create_graph

    ways, count = doubled_row(3, ring)
    elements = [{"type": "node", "id": node, "lon": node / 100, "lat": 0.0} for node in range(count)]
    elements += [{"type": "way", "id": row, "nodes": nodes, "tags": {"oneway": "yes"}}
                 for row, (nodes, _) in enumerate(ways)]
    graph = osmnx.simplify_graph(_create_graph([{"elements": elements}], False))
    assert len(graph.edges) == len(simplify(*legs_of(ways), count).tail) == 3 * segments
    ways, count = doubled_row(30_000, ring)
    start, end, both = legs_of(ways)
    started = time.process_time()
    assert len(simplify(start, end, both, count).tail) == 30_000 * segments
    assert time.process_time() - started < 3  # steps in a row are not gone over again and again
