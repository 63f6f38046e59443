"""A small city with five types of nodes: sensors, segments and regions with signals; junctions and events without."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.windows import City

HOUR = 3600
ALSO: dict[str, dict[str, Any]] = {"segment": {}, "region": {}, "event": {"memory": "6h"}, "junction": {}}
SIZES = {"sensor": 5, "segment": 6, "region": 2, "junction": 4, "event": 60}
KINDS = ("accident", "closure", "match")


def joint_graph(days: int = 12, seed: int = 0, hidden: float = 0.1, channels: int = 1,
                orders: dict[str, np.ndarray] | None = None) -> DynamicHeteroGraph:
    """The graph; ``orders`` names which node of the same city comes where, for each type."""
    rng = np.random.default_rng(seed)
    rows = 24 * days
    graph = DynamicHeteroGraph(time=TimeAxis(0, HOUR, rows))
    order = {kind: np.arange(size) for kind, size in SIZES.items()} | (orders or {})
    for kind in SIZES:
        graph[kind].node_id = np.array([f"{kind}{i}" for i in order[kind]])
    for number, kind in enumerate(("sensor", "segment", "region")):
        shape = (rows, SIZES[kind], channels if kind == "sensor" else 1)
        wave = np.sin(np.arange(rows)[:, None, None] * 2 * np.pi / 24 + rng.uniform(0, 6, (1, *shape[1:])))
        values = 20 * (number + 1) + 4 * wave + rng.normal(0, 0.5, shape)
        mask = rng.random(shape) >= hidden
        values = np.where(mask, values, 0).astype(np.float32)
        graph.add_signal(kind, "readings", Signal(values[:, order[kind]], mask[:, order[kind]],
                                                  [Channel(f"channel {i}", "count") for i in range(shape[2])]))
    _attributes(graph, rng, rows, order)
    _edges(graph, rng, rows, {kind: np.argsort(one) for kind, one in order.items()})
    return graph


def _attributes(graph: DynamicHeteroGraph, rng: np.random.Generator, rows: int, order: dict[str, np.ndarray]) -> None:
    time = np.sort(rng.integers(0, rows * HOUR, SIZES["event"]))
    kind, weight = rng.integers(0, len(KINDS), SIZES["event"]), rng.normal(5, 2, SIZES["event"])
    lanes, light = rng.integers(1, 4, SIZES["junction"]), rng.random(SIZES["junction"]) < 0.5
    events, junctions = graph["event"], graph["junction"]
    events.time = torch.from_numpy(time[order["event"]])
    events.type = torch.from_numpy(kind[order["event"]]).int()
    events.weight = torch.from_numpy(weight[order["event"]])
    junctions.lanes = torch.from_numpy(lanes[order["junction"]])
    junctions.light = torch.from_numpy(light[order["junction"]])
    graph.declare("event", "type", None, "what happened", KINDS)
    graph.declare("junction", "lanes", "1", "lanes that meet")


def _edges(graph: DynamicHeteroGraph, rng: np.random.Generator, rows: int, place: dict[str, np.ndarray]) -> None:
    def put(source: str, relation: str, target: str, index: np.ndarray) -> Any:
        store = graph[source, relation, target]
        store.edge_index = torch.from_numpy(np.stack([place[source][index[0]], place[target][index[1]]]))
        return store

    def each(kind: str, target: str) -> np.ndarray:
        return np.stack([np.arange(SIZES[kind]), rng.integers(0, SIZES[target], SIZES[kind])])

    ring = np.arange(SIZES["sensor"])
    put("sensor", "near", "sensor", np.stack([ring, (ring + 1) % len(ring)]))
    put("sensor", "on", "segment", each("sensor", "segment"))
    put("sensor", "in", "region", each("sensor", "region"))
    put("segment", "turn", "segment", np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]))
    put("junction", "begins", "segment", np.array([[0, 1, 2, 3, 0], [0, 1, 2, 3, 4]]))
    put("event", "at", "segment", each("event", "segment"))
    put("event", "at", "region", each("event", "region"))
    moves = rng.integers(0, SIZES["segment"], (2, 200))
    begin = rng.integers(0, rows // 2, 200) * 2 * HOUR
    store = put("segment", "then", "segment", moves)
    store.valid_from, store.valid_to = torch.from_numpy(begin), torch.from_numpy(begin + 2 * HOUR)
    store["count"] = torch.from_numpy(rng.integers(1, 5, 200))


def joint_city(also: dict[str, dict[str, Any]] | None = None, graph: DynamicHeteroGraph | None = None, **options: Any
               ) -> City:
    """The city of sensors with all other types, or those named; options go to :func:`joint_graph`."""
    return City(joint_graph(**options) if graph is None else graph, history=6, horizon=3,
                also=ALSO if also is None else also)
