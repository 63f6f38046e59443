"""Snapshots and windows equal a rebuild from plain records; parts of a graph take everything with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import OPEN_END, OPEN_START, Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.graph.signal import LazyArray
from stgraph.graph.time import instant

MakeGraph = Callable[..., DynamicHeteroGraph]
NEAR, SERVES = ("sensor", "near", "sensor"), ("station", "serves", "sensor")
START, STEP = 1_330_588_800, 300


def records(graph: DynamicHeteroGraph, kind: Any) -> list[dict[str, Any]]:
    """One dictionary per node or edge, with open ends where no life is given."""
    store, out = graph[kind], []
    for i in range(graph.size_of(kind)):
        record = {name: value[i] for name, value in store.items() if name not in ("edge_index", "num_nodes")}
        record["from"] = int(record.get("valid_from", OPEN_START))
        record["to"] = int(record.get("valid_to", OPEN_END))
        if "edge_index" in store:
            record["ends"] = [int(end) for end in store.edge_index[:, i]]
        out.append({**record, "position": i})
    return out


def rebuilt(graph: DynamicHeteroGraph, first: int, last: int) -> dict[Any, list[dict[str, Any]]]:
    """What lives at some second of ``[first, last)``, by asking every node and edge; ends renumbered."""
    found: dict[Any, list[dict[str, Any]]] = {}
    everyone = {kind: records(graph, kind) for kind in graph.node_types}
    for kind, nodes in everyone.items():
        found[kind] = [node for node in nodes if node["from"] < last and node["to"] > first]
    for kind in graph.edge_types:
        found[kind] = []
        for edge in records(graph, kind):
            parts = [edge, everyone[kind[0]][edge["ends"][0]], everyone[kind[2]][edge["ends"][1]]]
            if max(first, *(part["from"] for part in parts)) < min(last, *(part["to"] for part in parts)):
                ends = [[node["position"] for node in found[node_type]].index(end)
                        for node_type, end in zip((kind[0], kind[2]), edge["ends"], strict=True)]
                found[kind].append({**edge, "ends": ends})
    return found


def assert_rebuilt(cut: DynamicHeteroGraph, expected: dict[Any, list[dict[str, Any]]]) -> None:
    for kind, parts in expected.items():
        store = cut[kind]
        ids = store.n_id if isinstance(kind, str) else store.e_id
        assert ids.tolist() == [part["position"] for part in parts]
        assert cut.size_of(kind) == len(parts)
        for name, value in store.items():
            if name == "edge_index":
                assert value.t().tolist() == [part["ends"] for part in parts]
            elif name not in ("num_nodes", "n_id", "e_id"):
                np.testing.assert_array_equal(np.asarray(value), np.asarray([part[name] for part in parts]).reshape(
                    np.asarray(value).shape))


@given(st.integers(0, 10_000), st.integers(-4, 24), st.sampled_from([-1, 0, 1, 77]))
def test_a_snapshot_is_a_rebuild(make_graph: MakeGraph, seed: int, half_steps: int, seconds: int) -> None:
    graph = make_graph(seed)
    moment = START + half_steps * STEP // 2 + seconds
    cut = graph.at(moment)
    assert_rebuilt(cut, rebuilt(graph, moment, moment + 1))
    row = (moment - START) // STEP
    assert cut.time is not None
    assert cut.time == TimeAxis(START + row * STEP, STEP, 1, "America/Los_Angeles")
    for kind, name in (("sensor", "traffic"), (NEAR, "travel")):
        whole, part = graph.signal(kind, name), cut.signal(kind, name)
        places = (cut[kind].n_id if kind == "sensor" else cut[kind].e_id).numpy()
        values, mask = part.read(0, 1)
        assert values.shape == (1, len(places), whole.shape[2])
        if 0 <= row < graph.time.length:
            for one, other in zip((values, mask), whole.read(row, row + 1), strict=True):
                np.testing.assert_array_equal(one, other[:, places])
        else:
            assert not mask.any()
            assert not values.any()
    assert cut.validate()


@given(st.integers(0, 10_000), st.integers(-4, 20), st.integers(1, 12), st.sampled_from([0, 1, 149]))
def test_a_window_is_a_rebuild(make_graph: MakeGraph, seed: int, half_steps: int, width: int, seconds: int) -> None:
    graph = make_graph(seed)
    first = START + half_steps * STEP // 2 + seconds
    last = first + width * STEP // 2
    cut = graph.window(first, last)
    assert_rebuilt(cut, rebuilt(graph, first, last))
    times = graph.time.times()
    rows = np.flatnonzero((times >= first) & (times < last))
    np.testing.assert_array_equal(cut.time.times(), times[rows])
    whole, part = graph.signal("sensor"), cut.signal("sensor")
    np.testing.assert_array_equal(part.values, whole.values[rows][:, cut["sensor"].n_id.numpy()])
    assert cut.signal(NEAR).shape == (len(rows), cut[NEAR].edge_index.shape[1], 1)


@given(st.integers(0, 1000))
def test_a_snapshot_of_a_window_is_a_snapshot(make_graph: MakeGraph, seed: int) -> None:
    graph = make_graph(seed)
    moment = START + 4 * STEP + 10
    direct, through = graph.at(moment), graph.window(moment - 2 * STEP, moment + STEP).at(moment)
    assert direct["sensor"].node_id.tolist() == through["sensor"].node_id.tolist()
    torch.testing.assert_close(direct[NEAR].edge_index, through[NEAR].edge_index)
    np.testing.assert_array_equal(direct.signal("sensor").values, through.signal("sensor").values)


def test_a_window_of_a_graph_on_which_all_lives_is_a_view() -> None:
    graph = DynamicHeteroGraph(time=TimeAxis(0, 60, 10))
    graph["sensor"].node_id = np.array(["a", "b"])
    signal = Signal(np.zeros((10, 2, 1), np.float32), None, [Channel("value")])
    graph.add_signal("sensor", "level", signal)
    assert np.shares_memory(graph.window(120, 300).signal("sensor").values, signal.values)
    graph.add_signal("sensor", "level", Signal(LazyArray(signal.values), None, signal.channels))
    assert isinstance(graph.window(120, 300).signal("sensor").values, LazyArray)


def test_times_are_read_on_the_clock_of_the_graph(make_graph: MakeGraph) -> None:
    graph = make_graph(3)
    moment = instant("2012-03-01T00:12", "America/Los_Angeles")
    expected = graph.at(moment).time
    for t in ("2012-03-01T00:12", pd.Timestamp("2012-03-01 08:12", tz="UTC"), np.int64(moment),
              "2012-03-01T08:12+00:00"):
        assert graph.at(t).time == expected
    for broken in ("noon", "2012-03-11T02:30"):
        with pytest.raises(InputError) as caught:
            graph.at(broken)
        assert caught.value.field == "time"
    with pytest.raises(InputError, match="ends before"):
        graph.window("2012-03-01T00:10", "2012-03-01T00:10")


def test_a_service_day_has_its_slot_and_its_night_has_none() -> None:
    axis = TimeAxis(instant("2016-02-29T05:00", "Asia/Shanghai"), 600, 216, "Asia/Shanghai", 108, True)
    graph = DynamicHeteroGraph(time=axis)
    graph["sensor"].node_id = np.array(["a"])
    graph.add_signal("sensor", "riders", Signal(np.arange(216.0).reshape(-1, 1, 1), None, [Channel("n", "count")]))
    morning = graph.at("2016-03-01T06:05")
    assert morning.signal("sensor").values.item() == 114
    assert [int(part[0]) for part in morning.time.calendar()[:2]] == [6, 1]
    night = graph.at("2016-03-01T02:00")
    assert not night.signal("sensor").mask.any()
    assert int(night.time.times()[0]) == instant("2016-03-01T02:00", "Asia/Shanghai")
    assert not graph.at("2016-03-05T12:00").signal("sensor").mask.any()


def test_a_graph_without_a_clock_has_snapshots_too() -> None:
    graph = DynamicHeteroGraph()
    graph["event"].valid_from = torch.tensor([0, 10])
    graph["event"].valid_to = torch.tensor([10, 20])
    assert graph.at(10)["event"].n_id.tolist() == [1]
    assert graph.at("1970-01-01T00:00:05")["event"].n_id.tolist() == [0]
    assert graph.window(9, 11)["event"].n_id.tolist() == [0, 1]


@given(st.integers(0, 1000), st.data())
def test_a_subgraph_takes_everything_along(make_graph: MakeGraph, seed: int, data: st.DataObject) -> None:
    graph = make_graph(seed)
    chosen = data.draw(st.lists(st.integers(0, 6), unique=True))
    mask = torch.zeros(7, dtype=torch.bool)
    mask[chosen] = True
    for subset in (torch.tensor(chosen, dtype=torch.int64), mask):
        part = graph.subgraph({"sensor": subset})
        order = chosen if subset.dtype == torch.int64 else sorted(chosen)
        assert part["sensor"].node_id.tolist() == graph["sensor"].node_id[order].tolist()
        np.testing.assert_array_equal(part.signal("sensor").values, graph.signal("sensor").values[:, order])
        kept = [e for e, ends in enumerate(graph[NEAR].edge_index.t().tolist()) if set(ends) <= set(order)]
        assert part[NEAR].edge_index.t().tolist() == [[order.index(end) for end in graph[NEAR].edge_index[:, e]]
                                                      for e in kept]
        np.testing.assert_array_equal(part.signal(NEAR).values, graph.signal(NEAR).values[:, kept])
        assert part["station"].num_nodes == 3
        assert part.validate()


def test_an_edge_subgraph_keeps_all_nodes(make_graph: MakeGraph) -> None:
    graph = make_graph(5)
    part = graph.edge_subgraph({NEAR: torch.tensor([3, 0])})
    assert part.size_of("sensor") == graph.size_of("sensor")
    assert part[NEAR].edge_index.tolist() == graph[NEAR].edge_index[:, [3, 0]].tolist()
    np.testing.assert_array_equal(part.signal(NEAR).values, graph.signal(NEAR).values[:, [3, 0]])
    assert part[SERVES].edge_index is graph[SERVES].edge_index
