"""Roads that change: whatever is asked of them at a time is what a snapshot of that time says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changing import graph_of, town
from towns import make_roads, random_town

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, GraphTables, load, save
from stgraph.roads import Roads, SegmentIndex
from stgraph.roads.edit import add_segment, change_speed, close_segment, open_segment
from stgraph.roads.history import RoadHistory
from stgraph.roads.paths import Router, shortest_distances, shortest_path
from stgraph.roads.routing import RoutingCells, routing_table
from stgraph.roads.turns import forbidden_moves, permits

JANUARY = 1_704_067_200  # 2024-01-01


def edited(seed: int) -> DynamicHeteroGraph:
    """A town with closed, opened, new and slower streets between the seconds 2 and 9."""
    roads, chance = town(seed), np.random.default_rng(seed)
    graph = graph_of(roads)
    ids = graph["segment"].node_id
    one, other, third, fourth = chance.choice(len(ids), 4, replace=False)
    graph = close_segment(graph, ids[one], 3, 7)
    graph = close_segment(graph, [ids[other], ids[one]], 5, 9)
    graph = change_speed(graph, ids[third], 3.0, 4)
    graph = close_segment(graph, ids[fourth], 2)
    graph = open_segment(graph, ids[fourth], 6, 8)
    return add_segment(graph, 100, 108, 4, 8, speed=9.0)


def line() -> DynamicHeteroGraph:
    """Three blocks in a row, driven both ways."""
    return make_roads([[[i * 100.0, 0.0], [i * 100.0 + 100.0, 0.0]] for i in range(3)],
                      attributes={"speed": np.full(6, 10.0, np.float32)}).tables().graph()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_network_of_a_time_is_that_of_the_snapshot(seed, on_disk, tmp_path):
    graph = edited(seed)
    if on_disk:
        save(graph, tmp_path / "town.stg")
    history = RoadHistory(tmp_path / "town.stg" if on_disk else graph)
    assert {2, 4} <= set(history.starts[1:].tolist()) <= set(range(2, 10))
    chance = np.random.default_rng(seed)
    xy = chance.uniform(-50, 350, (80, 2))
    junctions = np.arange(100, 110)
    for moment in range(12):
        snapshot = graph.at(moment)
        rows = snapshot["segment"].n_id.numpy()
        now, then = history.at(moment), Roads.of(snapshot)
        assert then.alive is None
        alive = np.ones(len(now.tail), bool) if now.alive is None else now.alive
        assert np.flatnonzero(alive).tolist() == rows.tolist()
        assert set(map(tuple, now.turn_index.T.tolist())) == set(map(tuple, rows[then.turn_index].T.tolist()))
        assert [one.tolist() for one in np.split(now.forbidden, now.forbidden_ptr[1:-1])] == \
            [rows[one].tolist() for one in np.split(then.forbidden, then.forbidden_ptr[1:-1])]
        signals = dict(zip(now.signal_id.tolist(), now.signal_segment.tolist(), strict=True))
        assert signals == dict(zip(then.signal_id.tolist(), rows[then.signal_segment].tolist(), strict=True))
        assert np.array_equal(now.reverse[rows], np.where(then.reverse < 0, -1, rows[then.reverse]))
        one, other = SegmentIndex(now).nearest(xy), SegmentIndex(then).nearest(xy)
        assert np.array_equal(one.segment, rows[other.segment])
        assert np.array_equal(one.distance, other.distance)
        near = SegmentIndex(now).within(xy, 120.0)
        assert np.array_equal(near.segment, rows[SegmentIndex(then).within(xy, 120.0).segment])
        for turns in (True, False):
            assert np.array_equal(shortest_distances(graph, junctions, weight="time", turns=turns, at=moment),
                                  shortest_distances(snapshot, junctions, weight="time", turns=turns))
        assert np.array_equal(routing_table(now, 500.0).matrix.toarray(), routing_table(then, 500.0).matrix.toarray())
        assert now.period[0] <= moment < now.period[1]
        assert now.period[0] in history.starts
    last = Roads.of(graph)
    assert np.array_equal(last.alive, history.at(10**6).alive)
    assert last.period[0] == history.starts[-1]


def test_a_closed_street_is_not_driven_after_it_was_closed():
    closed = close_segment(line(), ["1-2-0", "2-1-0"], "2020-01-01")
    ids = closed["segment"].node_id
    before = shortest_path(closed, 0, 3, at="2019-12-31T23:59:59")
    assert [ids[row] for row in before.segments] == ["0-1-0", "1-2-0", "2-3-0"]
    assert before.period == (np.iinfo(np.int64).min, 1_577_836_800)
    assert shortest_path(closed, 1, 2, at="2020-01-01") is None
    assert shortest_path(closed, 1, 2) is None
    later = close_segment(line(), "1-2-0", "2030-01-01", "2031-01-01")
    assert shortest_path(later, 1, 2).length == 100
    assert shortest_path(later, 1, 2, at="2030-06-01") is None
    assert shortest_path(line(), 1, 2).period is None
    assert SegmentIndex(Roads.of(closed)).nearest(np.array([[150.0, 1.0]])).distance[0] > 50


def test_rows_are_those_of_the_graph_and_the_version_is_that_of_the_time():
    slower = change_speed(line(), ["1-2-0", "2-1-0"], 5.0, JANUARY)
    ids = slower["segment"].node_id
    for at, name in ((JANUARY - 1, "1-2-0"), (JANUARY, "1-2-0@2"), (None, "1-2-0@2")):
        way = shortest_path(slower, 0, 3, weight="time", at=at)
        assert ids[way.segments[1]] == name
        assert way.cost == pytest.approx(30.0 if name == "1-2-0" else 40.0)
        found = SegmentIndex(Roads.of(slower, at)).nearest(np.array([[150.0, 1.0]]))
        assert ids[found.segment[0]] == name


def test_a_network_without_changes_is_one_and_is_not_touched():
    roads = random_town(1)
    for source in (roads, roads.tables(), roads.tables().graph()):
        history = RoadHistory(source)
        assert len(history) == 1
        assert history.at(JANUARY) is history.at()
        assert history.at().alive is None
        assert history.at().period is None
    assert history.period(np.array([-1e18, 0.0, 1e18])).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="those of one time"):
        Router(roads, at=JANUARY)
    with pytest.raises(InputError, match="not a usable time"):
        Roads.of(roads.tables(), "soon")


def test_few_networks_are_held_and_made_again():
    graph = line()
    for day in range(20):
        graph = close_segment(graph, "1-2-0", 1000 * day, 1000 * day + 500)
    history = RoadHistory(GraphTables.of_graph(graph))
    assert len(history) == 41
    first = history.roads(1)
    for number in range(41):
        alive = history.roads(number).alive
        assert alive.sum() == 6 - number % 2
    assert len(history._made) == 4
    assert history.roads(1) is not first
    assert np.array_equal(history.roads(1).alive, first.alive)


def test_the_edited_bundle_of_the_command_is_read_the_same(tmp_path):
    save(close_segment(line(), "1-2-0", JANUARY), tmp_path / "closed.stg")
    assert shortest_path(load(tmp_path / "closed.stg"), 1, 2) is None
    assert Roads.of(tmp_path / "closed.stg", JANUARY - 1).alive is None


# -------------------------------------------------------------------- permitted moves in bounded ways
@pytest.mark.parametrize("seed", range(5))
def test_bounded_ways_of_permitted_moves_equal_a_search_over_segments(seed):
    free, chance = random_town(seed), np.random.default_rng(seed)
    ends, starts = free.turn_index
    kept = chance.random(len(ends)) > 0.15
    roads = replace(free, turn_index=free.turn_index[:, kept], turn_angle=free.turn_angle[kept])
    forbidden, permitted = forbidden_moves(roads)
    banned = set(zip(ends[~kept].tolist(), starts[~kept].tolist(), strict=True))
    back = {(a, b) for a, b in banned if free.reverse[a] == b}
    assert set(map(tuple, forbidden.T.tolist())) == banned - back
    assert forbidden.shape[1] > 10
    reference = Router(replace(roads, turn_index=permitted, turn_angle=np.zeros(permitted.shape[1], np.float32)))
    for table in (RoutingCells(roads, 600.0, turns=True), routing_table(roads, 600.0, turns=True)):
        head, tail = table.links.head, table.links.tail
        for one in chance.choice(len(roads.tail), 12, replace=False).tolist():
            count = len(roads.tail)
            expected = reference.distances((np.array([one]), roads.length[[one]]),
                                           (np.arange(count), np.zeros(count)), 600.0)[0]
            if roads.length[one] == 0:
                continue
            expected[one] = np.nan  # the table does not know that a place on the segment itself may be behind
            found = table.distances(np.full(count, head[one]), tail)
            found = np.where(np.isfinite(expected) | np.isinf(expected), found, np.nan)
            close = ~np.isclose(expected, 600.0, atol=0.01)
            np.testing.assert_allclose(found[close], expected[close], atol=0.01)
            there = np.flatnonzero(np.isfinite(found))
            ptr, segment = table.paths(np.full(len(there), head[one]), tail[there])
            for row, last in enumerate(there.tolist()):
                way = np.array([one, *segment[ptr[row]:ptr[row + 1]], last])
                assert (roads.head[way[:-1]] == roads.tail[way[1:]]).all()
                assert permits(roads, way[:-1], way[1:]).all()
                assert roads.length[way[1:-1]].sum() == pytest.approx(found[last], abs=0.01)
