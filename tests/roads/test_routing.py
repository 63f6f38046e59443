"""Bounded shortest ways equal networkx's, on a real network and on made ones, found at once or cell by cell."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

from stgraph.errors import InputError
from stgraph.roads import Roads
from stgraph.roads.routing import CELL, RoutingCells, cells, routing_table
from stgraph.sources.osm.build import build_osm

RANDOM = np.random.default_rng(5)


def network(xy, links, length=None):
    """Roads with straight segments in plain metres."""
    xy, (tail, head) = np.asarray(xy, float), np.asarray(links, np.int64).reshape(-1, 2).T
    line = np.stack([xy[tail], xy[head]], 1).reshape(-1, 2)
    if length is None:
        length = np.hypot(*(xy[head] - xy[tail]).T)
    return Roads(np.arange(len(xy)), xy, tail, head, np.asarray(length, float), 2 * np.arange(len(tail) + 1), line,
                 metric=True)


@pytest.fixture(scope="module")
def helsinki(shared_data):
    return build_osm(shared_data / "osm_extracts" / "helsinki-centre.osm.pbf")[0]


def as_networkx(roads, cost):
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(len(roads.junction_xy)))
    graph.add_edges_from((tail, head, {"cost": value}) for tail, head, value in zip(
        roads.tail.tolist(), roads.head.tolist(), cost.tolist(), strict=True))
    return graph


def check_paths(roads, cost, table, origin, target):
    """Every path is connected, leads from origin to target, and costs what the table says."""
    ptr, segment = table.paths(origin, target)
    distance = table.distances(origin, target)
    assert len(ptr) == len(origin) + 1
    for row, (start, end) in enumerate(itertools.pairwise(ptr)):
        way = segment[start:end]
        assert [origin[row], *roads.head[way]] == [*roads.tail[way], target[row]]
        assert cost[way].sum() == pytest.approx(distance[row], rel=1e-5, abs=1e-3)


# -------------------------------------------------------------------- equal to networkx
@pytest.mark.parametrize("of_time", [False, True])
def test_ways_equal_networkx_on_a_real_network(helsinki, of_time):
    cost = helsinki.length / RANDOM.uniform(3, 20, len(helsinki.tail)) if of_time else helsinki.length
    limit = 60.0 if of_time else 800.0
    table = routing_table(helsinki, limit, cost if of_time else None)
    graph = as_networkx(helsinki, cost)
    reached = 0
    for origin in RANDOM.choice(len(helsinki.junction_xy), 40, replace=False):
        expected = nx.single_source_dijkstra_path_length(graph, int(origin), limit, "cost")
        rows = slice(table.ptr[origin], table.ptr[origin + 1])
        assert table.target[rows].tolist() == sorted(expected)
        np.testing.assert_allclose(table.distance[rows], [expected[one] for one in sorted(expected)], rtol=1e-6,
                                   atol=1e-4)
        check_paths(helsinki, cost, table, np.full(len(expected), origin), table.target[rows].astype(np.int64))
        reached += len(expected)
    assert reached > 2000


def test_the_last_segment_of_a_way_is_that_of_its_path(helsinki):
    table = routing_table(helsinki, 500.0)
    origin = np.repeat(np.arange(len(table.ptr) - 1), np.diff(table.ptr))
    own = origin == table.target
    assert (table.previous_segment[own] == -1).all()
    rows = RANDOM.choice(np.flatnonzero(~own), 500)
    ptr, segment = table.paths(origin[rows], table.target[rows])
    assert (segment[ptr[1:] - 1] == table.previous_segment[rows]).all()


# -------------------------------------------------------------------- cell by cell
@pytest.mark.parametrize("most_rows", [10, 30_000_000])
def test_cell_by_cell_is_the_same_as_at_once(helsinki, most_rows):
    table, part = routing_table(helsinki, 700.0), RoutingCells(helsinki, 700.0, most_rows=most_rows)
    count = len(helsinki.junction_xy)
    assert count > CELL  # more than one cell
    for size in (1, 5, 400, 400):
        origin, target = RANDOM.integers(0, count, (2, size))
        rows = table.ptr[origin] + (RANDOM.random(size) * np.diff(table.ptr)[origin]).astype(int)
        target = np.where(RANDOM.random(size) < 0.5, target, table.target[rows])
        expected = table.distances(origin, target)
        assert np.array_equal(part.distances(origin, target), expected)
        near = np.isfinite(expected)
        for one, other in zip(part.paths(origin[near], target[near]), table.paths(origin[near], target[near]),
                              strict=True):
            assert np.array_equal(one, other)
    assert (len(part) < len(table)) == (most_rows == 10)


def test_where_cells_reach_far_only_what_is_asked_is_searched(monkeypatch, helsinki):
    monkeypatch.setattr("stgraph.roads.routing.CELL", 4)  # cells stay large, but 64 junctions are "far" now
    table, part = routing_table(helsinki, 900.0), RoutingCells(helsinki, 900.0)
    origin, target = RANDOM.integers(0, len(helsinki.junction_xy), (2, 9))
    for _ in range(2):
        assert np.array_equal(part.distances(origin, target), table.distances(origin, target))
        assert len(part) == np.diff(table.ptr)[np.unique(origin)].sum()
    more = np.arange(50)
    assert np.array_equal(part.distances(more, more + 1), table.distances(more, more + 1))


def test_cells_hold_every_junction_once():
    for count in (0, 1, 256, 257, 5000):
        xy = RANDOM.normal(size=(count, 2)) * [1000, 10]
        found = cells(xy)
        assert sorted(np.concatenate([*found, []]).tolist()) == list(range(count))
        assert all(0 < len(one) <= CELL for one in found)
    assert len(cells(np.zeros((600, 2)))) == 4  # all in one place


# -------------------------------------------------------------------- by hand
def test_parallel_segments_self_loops_and_segments_of_no_length():
    #  0 -> 1 twice (9 and 5 m), 1 -> 1 a loop, 1 -> 2 of no length, 2 -> 3 of 4 m, 4 alone
    places, links = [[0, 0], [5, 0], [5, 0], [9, 0], [50, 0]], [(0, 1), (0, 1), (1, 1), (1, 2), (2, 3)]
    roads = network(places, links, [9, 5, 1, 0, 4])
    for table in (routing_table(roads, 9.0), RoutingCells(roads, 9.0)):
        origin = np.array([0, 0, 0, 0, 0, 1, 1, 3, 4])
        target = np.array([0, 1, 2, 3, 4, 1, 3, 0, 4])
        np.testing.assert_allclose(table.distances(origin, target), [0, 5, 5, np.inf, np.inf, 0, 4, np.inf, 0],
                                   atol=1e-5)  # 0 -> 3 is 9 m and the millionth for the segment of no length
        ptr, segment = table.paths(origin[[2, 5, 6]], target[[2, 5, 6]])
        assert ptr.tolist() == [0, 2, 2, 4]
        assert segment.tolist() == [1, 3, 3, 4]
        with pytest.raises(ValueError, match="more than 9 apart"):
            table.paths(origin[:4], target[:4])


def test_the_limit_itself_is_within():
    roads = network([[0, 0], [3, 4], [6, 8]], [(0, 1), (1, 2)])
    assert routing_table(roads, 10.0).distances(np.array([0]), np.array([2])).tolist() == [10.0]
    assert routing_table(roads, 9.99).distances(np.array([0]), np.array([2])).tolist() == [np.inf]
    assert len(routing_table(roads, 0.0)) == 3  # each junction reaches itself


def test_nothing_to_search():
    nothing, none = network(np.zeros((0, 2)), []), np.zeros(0, np.int64)
    for table in (routing_table(nothing, 5.0), RoutingCells(nothing, 5.0)):
        assert len(table) == 0
        assert len(table.distances(none, none)) == 0
        assert table.paths(none, none)[0].tolist() == [0]
    apart = network([[0, 0], [9, 9]], [])
    assert routing_table(apart, 5.0).distances(np.array([0, 0]), np.array([0, 1])).tolist() == [0, np.inf]


@pytest.mark.parametrize(("limit", "weight"), [
    (-1, None), (np.nan, None), (np.inf, None), (5, [1, -1]), (5, [1, np.nan]), (5, [1, np.inf]), (5, [1])])
def test_bad_limits_and_weights_are_refused(limit, weight):
    roads = network([[0, 0], [3, 4], [6, 8]], [(0, 1), (1, 2)])
    weight = None if weight is None else np.array(weight, float)
    for make in (routing_table, RoutingCells):
        with pytest.raises(InputError, match="limit" if weight is None else "weight"):
            make(roads, limit, weight)
