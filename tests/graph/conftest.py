"""Random graphs that use everything a graph can hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from stgraph.graph import OPEN_END, OPEN_START, Channel, DynamicHeteroGraph, Signal, TimeAxis

NEAR = ("sensor", "near", "sensor")
SERVES = ("station", "serves", "sensor")
START = 1_330_588_800  # 2012-03-01 00:00 in Los Angeles
STEP = 300


def random_graph(seed: int, sensors: int = 7, edges: int = 12, length: int = 9) -> DynamicHeteroGraph:
    """Two node types, two relations, lives of nodes and edges, signals on nodes and on edges; it validates."""
    rng = np.random.default_rng(seed)
    stations = 3
    graph = DynamicHeteroGraph(time=TimeAxis(START, STEP, length, "America/Los_Angeles"),
                               metadata={"name": f"random {seed}", "simulated": True, "sources": [
                                   {"file": "a.csv", "licence": "CC-BY-4.0", "attribution": "City of A"}]})
    store = graph["sensor"]
    store.node_id = np.array([f"s-{i}ü" for i in rng.permutation(sensors)], dtype=str)
    store.lonlat = torch.from_numpy(rng.uniform((-118.6, 33.9), (-118.1, 34.3), (sensors, 2)))
    store.lonlat[rng.random(sensors) < 0.2] = float("nan")
    store.lanes = torch.from_numpy(rng.integers(1, 5, sensors).astype(np.int16))
    store.profile = torch.from_numpy(rng.normal(size=(sensors, 3)).astype(np.float32))
    store.profile[rng.random((sensors, 3)) < 0.2] = float("nan")
    store.ramp = torch.from_numpy(rng.random(sensors) < 0.5)
    store.road = np.array([f"I-{i}" for i in rng.integers(5, 405, sensors)], dtype=str)
    store.valid_from, store.valid_to = _lives(rng, sensors)
    graph["station"].num_nodes = stations
    graph["station"].height = torch.from_numpy(rng.normal(size=stations))
    for kind, count in ((NEAR, sensors), (SERVES, stations)):
        index = np.stack([rng.integers(0, count, edges), rng.integers(0, sensors, edges)])
        start, end = _lives(rng, edges)
        lives_from = torch.maximum(start, store.valid_from[index[1]])
        lives_to = torch.minimum(end, store.valid_to[index[1]])
        if kind == NEAR:
            lives_from = torch.maximum(lives_from, store.valid_from[index[0]])
            lives_to = torch.minimum(lives_to, store.valid_to[index[0]])
        kept = (lives_from < lives_to).numpy()
        graph[kind].edge_index = torch.from_numpy(index[:, kept])
        graph[kind].edge_weight = torch.from_numpy(rng.random(edges).astype(np.float32)[kept])
        if kind == NEAR:
            graph[kind].distance = torch.from_numpy(rng.uniform(10, 900, edges).astype(np.float32)[kept])
            graph[kind].valid_from, graph[kind].valid_to = start[kept], end[kept]
    graph.declare("sensor", "profile", unit="m/s", description="mean speeds")
    values = rng.normal(15, 4, (length, sensors, 2)).astype(np.float32)
    mask = rng.random(values.shape) < 0.8
    channels = [Channel("speed", "speed", "mph"), Channel("flow", "flow", "veh/5min")]
    graph.add_signal("sensor", "traffic", Signal(np.where(mask, values, 0).astype(np.float32), mask, channels))
    count = graph[NEAR].edge_index.shape[1]
    graph.add_signal(NEAR, "travel", Signal(rng.random((length, count, 1)), None, [Channel("travel_time", "travel_time",
                                                                                          "min")]))
    return graph


def _lives(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    start = START + rng.integers(-3, 5, count) * STEP // 2
    end = start + rng.integers(1, 9, count) * STEP // 2
    start, end = np.where(rng.random(count) < 0.4, OPEN_START, start), np.where(rng.random(count) < 0.4, OPEN_END, end)
    return torch.from_numpy(start), torch.from_numpy(end)


def assert_same(one: DynamicHeteroGraph, other: DynamicHeteroGraph) -> None:
    """Both graphs hold the same bits: types, attributes, time, signals, schema, provenance."""
    assert one.node_types == other.node_types
    assert one.edge_types == other.edge_types
    for kind in (*one.node_types, *one.edge_types):
        names = {name for name in one._store(kind) if name != "num_nodes"}
        assert names == {name for name in other._store(kind) if name != "num_nodes"}
        assert one.size_of(kind) == other.size_of(kind)
        for name in names:
            assert_same_array(one._store(kind)[name], other._store(kind)[name])
        assert one.signals(kind).keys() == other.signals(kind).keys()
        for name, signal in one.signals(kind).items():
            twin = other.signal(kind, name)
            assert signal.channels == twin.channels
            for array, copy in zip(signal.read(0, signal.shape[0]), twin.read(0, twin.shape[0]), strict=True):
                assert_same_array(array, copy)
    assert one.time == other.time
    assert one.complete_schema() == other.complete_schema()
    assert one.metadata == other.metadata


def assert_same_array(one: object, other: object) -> None:
    """Bit for bit, data type and container included; texts may differ in the width of their numpy type."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        one, other = one.numpy(), other.numpy()
    assert one.shape == other.shape
    assert one.dtype.kind == other.dtype.kind
    if one.dtype.kind == "U":
        assert one.tolist() == other.tolist()
    else:
        assert one.dtype == other.dtype
        assert np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., DynamicHeteroGraph]:
    """``make_graph(seed, sensors=7, edges=12, length=9)`` gives a random graph that validates."""
    return random_graph


@pytest.fixture(scope="session")
def same() -> Callable[[DynamicHeteroGraph, DynamicHeteroGraph], None]:
    """``same(one, other)`` fails where two graphs differ in any bit."""
    return assert_same
