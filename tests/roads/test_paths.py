"""Shortest ways equal networkx without restrictions, and an enumeration of all ways with them."""

from __future__ import annotations

import heapq
import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from towns import make_roads, random_town

from stgraph.errors import InputError
from stgraph.graph import GraphTables, load, save
from stgraph.roads import Roads
from stgraph.roads.paths import Router, consecutive, shortest_distances, shortest_path
from stgraph.sources.osm.build import build_osm


def multigraph(roads, cost) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(roads.junction_id.tolist())
    graph.add_weighted_edges_from(zip(roads.junction_id[roads.tail].tolist(), roads.junction_id[roads.head].tolist(),
                                      cost.tolist(), strict=True))
    return graph


def by_enumeration(roads, sources, cost) -> np.ndarray:
    """Cost from junctions to all junctions: every walk in order of cost, told apart by all it has driven lately."""
    turns: dict[int, list[int]] = {}
    for first, second in roads.turn_index.T.tolist():
        turns.setdefault(first, []).append(second)
    sequences = {tuple(one.tolist()) for one in np.split(roads.forbidden, roads.forbidden_ptr[1:-1]) if len(one)}
    memory = max((len(one) for one in sequences), default=2) - 1
    out = np.full((len(sources), len(roads.junction_id)), np.inf)
    for row, source in enumerate(sources):
        out[row, source] = 0.0
        queue = [(cost[s], (s,)) for s in np.flatnonzero(roads.tail == source).tolist()]
        heapq.heapify(queue)
        done = set()
        while queue:
            spent, walk = heapq.heappop(queue)
            if walk in done:
                continue
            done.add(walk)
            end = roads.head[walk[-1]]
            out[row, end] = min(out[row, end], spent)
            for onward in turns.get(walk[-1], []):
                longer = (*walk, onward)
                if not any(longer[-len(one):] == one for one in sequences):
                    heapq.heappush(queue, (spent + cost[onward], longer[-memory:]))
    return out


def restricted(roads, chance, share=0.3, sequences=25) -> Roads:
    """The same town with some turns taken out, and sequences of three to five segments forbidden."""
    kept = roads.turn_index[:, chance.random(roads.turn_index.shape[1]) >= share]
    onward = [kept[1, kept[0] == s] for s in range(len(roads.tail))]
    made = []
    for _ in range(sequences):
        walk = [int(chance.integers(len(roads.tail)))]
        for _ in range(chance.integers(2, 5)):
            if len(onward[walk[-1]]):
                walk.append(int(chance.choice(onward[walk[-1]])))
        if len(walk) >= 3:
            made += [walk, [*walk[1:], walk[0]]] if len(walk) > 3 else [walk]  # some begin inside another
    return Roads(roads.junction_id, roads.junction_xy, roads.tail, roads.head, roads.length, roads.line_ptr,
                 roads.line_xy, metric=True, turn_index=kept, turn_angle=np.zeros(kept.shape[1], np.float32),
                 forbidden_ptr=np.cumsum([0, *map(len, made)]).astype(np.int64),
                 forbidden=np.array([s for walk in made for s in walk], np.int64))


def check_path(roads, path, origin, destination, cost) -> None:
    """A path is a permitted walk from its origin to its destination, and costs what its segments cost."""
    assert roads.junction_id[roads.tail[path.segments[0]]] == origin
    assert roads.junction_id[roads.head[path.segments[-1]]] == destination
    moves = set(map(tuple, roads.turn_index.T.tolist()))
    walk = tuple(path.segments.tolist())
    assert all(pair in moves for pair in itertools.pairwise(walk))
    for one in np.split(roads.forbidden, roads.forbidden_ptr[1:-1]):
        size = len(one)
        assert not size or tuple(one.tolist()) not in {walk[i:i + size] for i in range(len(walk))}
    assert path.cost == pytest.approx(cost[path.segments].sum())
    assert path.length == pytest.approx(roads.length[path.segments].sum())


# -------------------------------------------------------------------- laws
@given(st.integers(0, 10**6), st.booleans())
def test_without_turns_it_is_networkx_on_made_towns(seed, zero):
    roads = random_town(seed, 4)
    cost = np.where(np.random.default_rng(seed).random(len(roads.length)) < 0.3 * zero, 0.0, roads.length)
    graph = multigraph(roads, cost)
    found = shortest_distances(roads, roads.junction_id, weight=cost, turns=False)
    for row, origin in enumerate(roads.junction_id.tolist()):
        expected = nx.single_source_dijkstra_path_length(graph, origin)
        np.testing.assert_allclose(found[row], [expected.get(j, np.inf) for j in roads.junction_id.tolist()], atol=1e-6)


@pytest.mark.parametrize("name", ["helsinki-centre", "fiji-ferry"])
@pytest.mark.parametrize("weight", ["length", "time"])
def test_without_turns_it_is_networkx_on_real_extracts(shared_data, name, weight):
    roads, _ = build_osm(shared_data / "osm_extracts" / f"{name}.osm.pbf")
    cost = roads.length if weight == "length" else roads.length / np.asarray(roads.attributes["speed"], float)
    graph = multigraph(roads, cost)
    chance = np.random.default_rng(0)
    sources, targets = chance.choice(roads.junction_id, (2, 12))
    router = Router(roads, weight, turns=False)
    found = router.distances(sources, targets)
    reached = 0
    for row, origin in enumerate(sources.tolist()):
        expected = nx.single_source_dijkstra_path_length(graph, origin)
        for column, target in enumerate(targets.tolist()):
            assert found[row, column] == pytest.approx(expected.get(target, np.inf), abs=1e-6)
            path = router.path(origin, target)
            assert (path is None) == (target not in expected)
            if path is not None:
                assert path.cost == pytest.approx(expected[target], abs=1e-6)
                reached += 1
    assert reached > 20


@given(st.integers(0, 10**6))
def test_with_restrictions_it_is_an_enumeration_of_walks(seed):
    chance = np.random.default_rng(seed)
    roads = restricted(random_town(seed, 3), chance)
    cost = chance.integers(1, 50, len(roads.tail)).astype(float)
    sources = chance.integers(0, len(roads.junction_id), 4)
    expected = by_enumeration(roads, sources, cost)
    router = Router(roads, cost)
    np.testing.assert_allclose(router.distances(roads.junction_id[sources]), expected, atol=1e-6)
    for row, origin in enumerate(roads.junction_id[sources].tolist()):
        for column in np.flatnonzero(expected[row] > 0)[:6]:
            path = router.path(origin, int(roads.junction_id[column]))
            assert (path is None) == np.isinf(expected[row, column])
            if path is not None:
                check_path(roads, path, origin, roads.junction_id[column], cost)
                assert path.cost == pytest.approx(expected[row, column], abs=1e-6)


@given(st.integers(0, 10**6))
def test_places_on_segments_are_junctions_of_a_cut_network(seed):
    """Cutting segments at the places, with junctions there, changes nothing."""
    chance = np.random.default_rng(seed)
    roads = random_town(seed, 3)
    segment = chance.choice(np.flatnonzero(roads.length > 0), 5)
    segment[3] = segment[0]
    offset = chance.random(5) * roads.length[segment]
    graph = nx.DiGraph()  # nodes: starts of segments, and the places
    marks = {s: sorted((offset[i], i) for i in np.flatnonzero(segment == s)) for s in set(segment.tolist())}
    onward = roads.turn_index
    for s in range(len(roads.tail)):
        chain = [(0.0, ("start", s)), *[(at, ("place", i)) for at, i in marks.get(s, [])]]
        for (a, u), (b, v) in itertools.pairwise(chain):
            graph.add_edge(u, v, weight=b - a)
        for t in onward[1, onward[0] == s].tolist():
            graph.add_edge(chain[-1][1], ("start", t), weight=roads.length[s] - chain[-1][0])
    found = shortest_distances(roads, (segment, offset), (segment, offset))
    for i in range(5):
        expected = nx.single_source_dijkstra_path_length(graph, ("place", i)) if ("place", i) in graph else {}
        for j in range(5):
            wanted = 0.0 if i == j else expected.get(("place", j), np.inf)
            assert found[i, j] == pytest.approx(wanted, abs=1e-6)
            path = shortest_path(roads, (int(segment[i]), offset[i]), (int(segment[j]), offset[j]))
            assert (path is None) == np.isinf(wanted)
            if path is not None:
                assert path.length == pytest.approx(path.cost, abs=1e-9)
                assert path.length == pytest.approx(wanted, abs=1e-6)
                assert (path.segments[0], path.segments[-1]) == (segment[i], segment[j])


@given(st.integers(0, 10**6), st.floats(0, 400))
def test_a_limit_only_takes_away_what_is_beyond(seed, limit):
    roads = random_town(seed, 4)
    chance = np.random.default_rng(seed)
    segment = chance.choice(np.flatnonzero(roads.length > 0), 6)
    places = (segment, chance.random(6) * roads.length[segment])
    whole = shortest_distances(roads, places)
    bounded = shortest_distances(roads, places, limit=limit)
    assert np.array_equal(bounded, np.where(whole <= limit, whole, np.inf))


# -------------------------------------------------------------------- by hand
def crossing(**more) -> Roads:
    """Four two-way streets meet at junction 1: 0 west, 2 east, 3 north, 4 south; east and north are joined.

    Segments: 0 west-in, 1 east-out, 2 north-out, 3 south-out, 4 east-north; then the other directions 5 .. 9.
    """
    lines = [[(-100, 0), (0, 0)], [(0, 0), (100, 0)], [(0, 0), (0, 100)], [(0, 0), (0, -150)],
             [(100, 0), (100, 100), (0, 100)]]
    return make_roads(lines, **more)


def test_a_crossing_by_hand():
    free = crossing()
    assert shortest_path(free, 0, 3).segments.tolist() == [0, 2]
    left_forbidden = free.turn_index[:, ~((free.turn_index[0] == 0) & (free.turn_index[1] == 2))]
    no_left = crossing(turn_index=left_forbidden)
    assert shortest_path(no_left, 0, 3).segments.tolist() == [0, 1, 4]
    assert shortest_path(no_left, 0, 3).length == 400
    assert shortest_path(no_left, 0, 3, turns=False).segments.tolist() == [0, 2]
    # over a via way: west to east is permitted, and then on to the north is not
    via = crossing(turn_index=left_forbidden, forbidden_ptr=np.array([0, 3]), forbidden=np.array([0, 1, 4]))
    path = shortest_path(via, 0, 3)
    assert path.segments.tolist() == [0, 3, 8, 2]  # to the end of the road in the south, and back
    assert shortest_path(via, 1, 3, weight=np.array([1, 1, 99, 1, 1, 1, 1, 1, 1, 1.0])).segments.tolist() == [1, 4]
    assert shortest_path(via, (0, 99.0), 3).segments.tolist() == [0, 3, 8, 2]  # begun on the first of the sequence
    assert shortest_distances(via, [0], [3]).tolist() == [[500]]
    assert by_enumeration(via, [0], via.length)[0, 3] == 500


def test_round_the_block_to_a_place_just_behind():
    """On a one-way ring of 400 m the place 10 m behind is 390 m ahead."""
    ring = make_roads([[(0, 0), (100, 0)], [(100, 0), (100, 100)], [(100, 100), (0, 100)], [(0, 100), (0, 0)]],
                      both_ways=[])
    path = shortest_path(ring, (0, 60.0), (0, 50.0))
    assert (path.segments.tolist(), path.length) == ([0, 1, 2, 3, 0], 390)
    assert shortest_path(ring, (0, 50.0), (0, 60.0)).length == pytest.approx(10)
    same = shortest_path(ring, (0, 50.0), (0, 50.0))
    assert (same.segments.tolist(), same.length) == ([0], 0)
    both = ([0, 0], [60.0, 50.0])
    np.testing.assert_allclose(shortest_distances(ring, both, both), [[0, 390], [10, 0]])
    assert shortest_distances(ring, [0], ([0, 3], [50.0, 50.0])).tolist() == [[50, 350]]
    assert shortest_path(ring, 0, (3, 100.0)).length == 400
    assert shortest_path(ring, 0, 0).segments.tolist() == []


def test_of_parallel_streets_the_shortest_is_taken_and_zero_is_a_weight():
    twice = make_roads([[(0, 0), (50, 50), (100, 0)], [(0, 0), (100, 0)], [(100, 0), (200, 0)]], both_ways=[])
    assert shortest_path(twice, 0, 2).segments.tolist() == [1, 2]
    assert shortest_path(twice, 0, 2, weight=[0.0, 1, 0]).segments.tolist() == [0, 2]
    assert shortest_path(twice, 0, 2, weight=[0.0, 1, 0]).cost == 0
    assert shortest_distances(twice, [0], weight=[0.0, 1, 0]).max() < 1e-6
    doubled = make_roads([[(0, 0), (100, 0)], [(100, 0), (200, 0)]], both_ways=[],
                         turn_index=np.array([[0, 0], [1, 1]]))  # a move given twice costs once
    assert shortest_distances(doubled, [0], [2]).tolist() == [[200]]


def test_closed_and_unreachable():
    line = make_roads([[(0, 0), (100, 0)], [(100, 0), (200, 0)], [(500, 0), (600, 0)]], both_ways=[])
    assert shortest_path(line, 0, 3) is None
    assert shortest_path(line, 2, 0) is None
    assert np.isinf(shortest_distances(line, [2], [0, 3, 4])).all()
    closed = [1.0, np.inf, 1.0]
    assert shortest_path(line, 0, 2, weight=closed) is None
    assert shortest_path(line, (1, 10.0), 2, weight=closed) is None
    assert shortest_path(line, (1, 10.0), (1, 20.0), weight=closed) is None
    never = [np.inf] * 3
    assert shortest_distances(line, [0, 1], weight=closed).tolist() == [[0, 1, *never], [np.inf, 0, *never]]


def test_without_known_turns_every_move_is_permitted():
    roads = crossing(turns=False)
    assert roads.turn_index.shape == (2, 0)
    assert shortest_path(roads, 0, 3).segments.tolist() == [0, 2]
    pairs = {(s, t) for s in range(10) for t in range(10) if roads.head[s] == roads.tail[t]}
    assert set(map(tuple, consecutive(roads.tail, roads.head).T.tolist())) == pairs


def test_a_graph_and_its_snapshots_have_the_ways_of_their_roads(tmp_path):
    import torch

    save(crossing().tables(), tmp_path / "roads.stg")
    graph = load(tmp_path / "roads.stg")
    assert shortest_path(graph, 0, 3).segments.tolist() == [0, 2]
    assert shortest_path(GraphTables.of_graph(graph), "0", "3").length == 200
    ends = torch.full((10,), 2**62)
    ends[2] = 1000  # the street to the north is closed from then on
    graph["segment"].valid_from, graph["segment"].valid_to = torch.zeros(10, dtype=torch.int64), ends
    for relation in (("junction", "segment", "junction"),):
        graph[relation].valid_from, graph[relation].valid_to = torch.zeros(10, dtype=torch.int64), ends.clone()
    assert shortest_path(graph.at(999), 0, 3).length == 200
    assert shortest_path(graph.at(1000), 0, 3).length == 400


# -------------------------------------------------------------------- nonsense
@pytest.mark.parametrize(("call", "match"), [
    (lambda roads: shortest_path(roads, 99, 0), "no such junction"),
    (lambda roads: shortest_path(roads, "zoo", 0), "no such junction"),
    (lambda roads: shortest_path(roads, 0.5, 0), "no such junction"),
    (lambda roads: shortest_path(roads, (77, 0.0), 0), "no such segment"),
    (lambda roads: shortest_path(roads, (0, 101.0), 0), "100.000 m long"),
    (lambda roads: shortest_path(roads, (0, np.nan), 0), "100.000 m long"),
    (lambda roads: shortest_distances(roads, ([0.5], [1.0])), "whole numbers"),
    (lambda roads: shortest_distances(roads, [0], limit=-1), "limit"),
    (lambda roads: shortest_path(roads, 0, 1, weight="price"), "no such weight"),
    (lambda roads: shortest_path(roads, 0, 1, weight="time"), "no speed"),
    (lambda roads: shortest_path(roads, 0, 1, weight=np.ones(3)), "cost"),
    (lambda roads: shortest_path(roads, 0, 1, weight=-np.ones(10)), "cost"),
    (lambda roads: shortest_path(roads, 0, 1, weight=np.full(10, np.nan)), "cost"),
])
def test_nonsense_is_refused(call, match):
    with pytest.raises(InputError, match=match):
        call(crossing())


def test_names_of_junctions_are_compared_whole():
    roads = crossing()
    object.__setattr__(roads, "junction_id", np.array(["a", "b", "c", "d", "e"]))
    assert shortest_path(roads, "a", "d").length == 200
    with pytest.raises(InputError, match="no such junction"):
        shortest_path(roads, "ab", "d")
