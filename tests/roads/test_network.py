"""Road networks: the bundle gives back the arrays, places along lines are where they must be."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stgraph.errors import InputError
from stgraph.graph import GraphTables, load, save
from stgraph.roads import LocalProjection, Roads
from stgraph.roads.network import parallel_key, reverse_segments
from stgraph.roads.projection import great_circle


def town() -> Roads:
    """A two-way street with a bend, a one-way back, a loop driven both ways; metres."""
    lines = [[(0, 0), (100, 0), (100, 50)], [(100, 50), (100, 0), (0, 0)], [(100, 50), (0, 0)],
             [(0, 0), (0, 10), (-10, 10), (0, 0)], [(0, 0), (-10, 10), (0, 10), (0, 0)]]
    xy = np.array([point for line in lines for point in line], float)
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    length = np.array([sum(np.hypot(*np.subtract(b, a)) for a, b in itertools.pairwise(line))
                       for line in lines])
    return Roads(np.array([7, 9]), np.array([[0.0, 0.0], [100.0, 50.0]]), np.array([0, 1, 1, 0, 0]),
                 np.array([1, 0, 0, 0, 0]), length, ptr, xy, metric=True, attributes={"lanes": np.ones(5, np.int16)},
                 turn_index=np.array([[0, 0, 1], [2, 1, 0]]), turn_angle=np.array([10, 180, 180], np.float32),
                 forbidden_ptr=np.array([0, 3]), forbidden=np.array([0, 2, 3]), signal_id=np.array(["s"]),
                 signal_xy=np.array([[100.0, 0.0]]), signal_segment=np.array([0]), signal_offset=np.array([100.0]))


def test_the_other_direction_is_found() -> None:
    assert town().reverse.tolist() == [1, 0, -1, 4, 3]


def test_the_other_direction_equals_brute_force() -> None:
    chance = np.random.default_rng(0)
    lines = [chance.integers(0, 3, (chance.integers(2, 5), 2)).astype(float) for _ in range(60)]
    lines += [line[::-1] for line in lines[:30]]
    lines += [line.copy() for line in lines[:5]] + [line[::-1] for line in lines[:5]]  # streets that lie on each other
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    names = {point: i for i, point in enumerate({tuple(line[i]) for line in lines for i in (0, -1)})}
    tail, head = (np.array([names[tuple(line[i])] for line in lines]) for i in (0, -1))
    found = reverse_segments(tail, head, ptr, np.concatenate(lines))
    for i, line in enumerate(lines):
        others = [j for j, other in enumerate(lines) if np.array_equal(other, line[::-1])]
        alike = [j for j, other in enumerate(lines) if np.array_equal(other, line)]
        if np.array_equal(line, line[::-1]):
            continue  # a way out and back on itself is its own reverse
        number = alike.index(i)  # the first of a street goes with the first back, the second with the second
        assert found[i] == (others[number] if number < len(others) else -1)
        if found[i] >= 0:
            assert found[found[i]] == i


def test_parallel_segments_are_counted() -> None:
    assert parallel_key(np.array([0, 1, 0, 0]), np.array([1, 0, 1, 1]), 2).tolist() == [0, 0, 1, 2]


def test_places_along_a_line() -> None:
    roads = town()
    np.testing.assert_allclose(roads.locate(np.array([0, 0, 0, 1]), np.array([-5, 50, 125, 50.0])),
                               [[0, 0], [50, 0], [100, 25], [100, 0]])
    np.testing.assert_allclose(roads.heading(np.array([0, 0, 1]), np.array([10.0, 120, 120])), [90, 0, 270])


def test_a_bundle_gives_the_network_back(tmp_path: Path) -> None:
    save(town().tables(), tmp_path / "roads.stg")
    graph = load(tmp_path / "roads.stg")
    assert graph.validate()
    for back in (Roads.of(tmp_path / "roads.stg"), Roads.of(graph), Roads.of(GraphTables.of_graph(graph))):
        for name in ("junction_id", "junction_xy", "tail", "head", "length", "line_ptr", "line_xy", "metric",
                     "turn_index", "turn_angle", "forbidden_ptr", "forbidden", "signal_xy", "signal_segment",
                     "signal_offset"):
            np.testing.assert_array_equal(getattr(back, name), getattr(town(), name), name)
        assert pa.chunked_array(back.segment_id).to_pylist() == ["7-9-0", "9-7-0", "9-7-1", "7-7-0", "7-7-1"]
        assert back.attributes["lanes"].to_pylist() == [1] * 5


def test_a_graph_without_roads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no roads"):
        Roads.of(GraphTables(nodes={"sensor": pa.table({"node_id": ["a"]})}))


@pytest.mark.parametrize("middle", [(-8.6, 41.1), (179.99, -16.5), (-180.0, 60.0), (20.0, 0.0)])
def test_the_plane_keeps_lengths_and_comes_back(middle: tuple[float, float]) -> None:
    from pyproj import Geod

    chance = np.random.default_rng(1)
    lonlat = np.array(middle) + chance.uniform(-0.2, 0.2, (50, 2))
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180
    plane = LocalProjection.around(lonlat)
    xy = plane.metres(lonlat)
    assert np.abs(xy).max() < 40_000
    _, _, true = Geod(ellps="WGS84").inv(*lonlat[:-1].T, *lonlat[1:].T)
    np.testing.assert_allclose(np.linalg.norm(np.diff(xy, axis=0), axis=1), true, rtol=1e-4)
    np.testing.assert_allclose(great_circle(lonlat[:-1], lonlat[1:]), true, rtol=6e-3)
    back = plane.lonlat(xy)
    np.testing.assert_allclose((back[:, 0] - lonlat[:, 0] + 180) % 360 - 180, 0, atol=1e-9)
    np.testing.assert_allclose(back[:, 1], lonlat[:, 1], atol=1e-9)


def test_places_across_the_180th_meridian() -> None:
    xy = np.array([[179.9, -17.0], [-179.9, -17.0]])
    roads = Roads(np.array([0, 1]), xy, np.array([0]), np.array([1]), great_circle(xy[:1], xy[1:]),
                  np.array([0, 2]), xy)
    place = roads.locate(np.array([0]), roads.length / 2)
    assert abs(abs(place[0, 0]) - 180) < 1e-6
    assert abs(roads.heading(np.array([0]), np.array([1.0]))[0] - 90) < 1e-6


def test_a_graph_in_another_order_holds_the_same_roads() -> None:
    graph = town().tables().graph()
    back = Roads.of(graph.reorder(np.array([3, 1, 4, 0, 2]), "segment").reorder(np.array([1, 0]), "junction"))
    ids = pa.chunked_array([pa.array(["7-9-0", "9-7-0", "9-7-1", "7-7-0", "7-7-1"])]).to_pylist()
    for position, name in enumerate(pa.chunked_array(back.segment_id).to_pylist()):
        was = ids.index(name)
        assert back.junction_id[back.tail[position]] == town().junction_id[town().tail[was]]
        assert back.junction_id[back.head[position]] == town().junction_id[town().head[was]]
        assert back.length[position] == town().length[was]
