"""Events meet the roads of their own time: the same places as in the snapshot of that moment."""

from __future__ import annotations

import numpy as np
import pytest

from stgraph.graph import DynamicHeteroGraph
from stgraph.roads import LocalProjection, Roads, SegmentIndex
from stgraph.roads.edit import add_segment, change_speed, close_segment
from stgraph.sources.events.places import SegmentLayer, attach, open_map

CHANGE = 1_577_836_800  # 2020-01-01
PLANE = LocalProjection(-8.6, 41.15)


def edited() -> DynamicHeteroGraph:
    """Six blocks of 200 m to the east; then one is closed, one slower, and there is a way around to the north."""
    place = PLANE.lonlat(np.column_stack([np.arange(7) * 200.0, np.zeros(7)]))
    ends = np.concatenate([np.column_stack([np.arange(6), np.arange(6) + 1]),
                           np.column_stack([np.arange(6) + 1, np.arange(6)])])
    roads = Roads(np.arange(7), place, ends[:, 0], ends[:, 1], np.full(12, 200.0), 2 * np.arange(13),
                  place[ends.reshape(-1)], attributes={"speed": np.full(12, 10.0, np.float32)})
    graph = close_segment(roads.tables().graph(), ["2-3-0", "3-2-0"], CHANGE)
    graph = change_speed(graph, ["4-5-0", "5-4-0"], 5.0, CHANGE + 1000)
    around = PLANE.lonlat(np.array([[400.0, 0], [500, 150], [600, 0]]))
    return add_segment(graph, 2, 3, CHANGE, geometry=around)


def places(x, y=3.0) -> np.ndarray:
    return PLANE.lonlat(np.column_stack([x, np.broadcast_to(y, np.shape(x))]))


def test_an_event_is_on_the_version_of_its_time():
    graph = edited()
    layer = SegmentLayer(open_map(graph, "segment"), 60.0)
    ids = graph["segment"].node_id
    utc = np.array([0, CHANGE - 1, CHANGE, CHANGE + 999, CHANGE + 1000, 2 * CHANGE])
    closed = attach(layer, places(np.full(6, 500.0)), utc)
    assert [ids[row] if row >= 0 else "" for row in closed.place] == ["2-3-0"] * 2 + [""] * 4
    assert np.isnan(closed.distance).tolist() == [False] * 2 + [True] * 4
    slower = attach(layer, places(np.full(6, 900.0)), utc)
    assert [ids[row] for row in slower.place] == ["4-5-0"] * 4 + ["4-5-0@2"] * 2
    for moment, row in zip(utc, slower.place, strict=True):  # the edge from the event is there in the snapshot
        assert row in graph.at(int(moment))["segment"].n_id
    assert ids[attach(layer, places(np.array([450.0]), 75.0), np.array([CHANGE])).place[0]] == "2-3-1"
    assert attach(layer, places(np.array([500.0]), 75.0), np.array([CHANGE - 1])).place[0] == -1


def test_without_a_time_it_is_the_network_after_the_last_change():
    graph = edited()
    found = attach(SegmentLayer(open_map(graph, "segment"), 60.0), places(np.array([500.0, 900.0])), None)
    assert found.place[0] == -1
    assert graph["segment"].node_id[found.place[1]] == "4-5-0@2"


@pytest.mark.parametrize("seed", range(3))
def test_every_event_is_where_the_snapshot_of_its_moment_has_it(seed):
    graph, chance = edited(), np.random.default_rng(seed)
    xy = PLANE.lonlat(chance.uniform([-100, -60], [1300, 160], (200, 2)))
    utc = CHANGE + chance.choice([-5000, -1, 0, 500, 1000, 99_999], 200)
    found = attach(SegmentLayer(open_map(graph, "segment"), 60.0), xy, utc)
    for moment in np.unique(utc).tolist():
        snapshot = graph.at(moment)
        roads, rows = Roads.of(snapshot), np.flatnonzero(utc == moment)
        expected = SegmentIndex(roads).nearest(roads.to_metres(xy[rows]), 60.0)
        number = np.append(snapshot["segment"].n_id.numpy(), -1)
        assert np.array_equal(found.place[rows], number[expected.segment])
        np.testing.assert_allclose(found.offset[rows], expected.offset, rtol=0, atol=1e-6)
    assert (found.place < 0).any()
