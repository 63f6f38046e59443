"""Edges for small cities, and their random walks as dense matrices, by the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stgraph.sources.sensors import build_sensors
from stgraph.windows import City


def connected(city: City, edges: int = 12, seed: int = 0) -> City:
    """The city with weighted edges in one direction each; the last node has none."""
    nodes = city.num_nodes - 1
    pairs = np.random.default_rng(seed).permutation(nodes * nodes)
    source, target = pairs // nodes, pairs % nodes
    keep = source < target
    swap = np.random.default_rng(seed + 1).random(keep.sum()) < 0.5
    index = np.where(swap, [source[keep], target[keep]], [target[keep], source[keep]])[:, :edges]
    store = city.graph["sensor", "near", "sensor"]
    store.edge_index = torch.from_numpy(np.ascontiguousarray(index))
    store.edge_weight = torch.from_numpy(np.random.default_rng(seed + 2).uniform(0.1, 1, index.shape[1])).float()
    return city


def dense_walks(city: City, self_loops: bool) -> tuple[Tensor, Tensor]:
    """``D_O^-1 W`` and ``D_I^-1 W^T``, ``[N, N]``; a row without edges is empty."""
    index, weight = city.edges
    matrix = torch.zeros(city.num_nodes, city.num_nodes)
    for source, target, value in zip(*index.tolist(), weight.tolist(), strict=True):
        matrix[source, target] += value
    if self_loops:
        matrix += torch.diag((matrix.diagonal() == 0).float())
    return tuple(one / one.sum(1, keepdim=True).where(one.sum(1, keepdim=True) > 0, torch.ones(())) for one in (
        matrix, matrix.T))


def los_loop(shared_data: Path) -> City:
    """A week of 207 stations with the published adjacency."""
    folder = shared_data / "los_loop"
    graph, _ = build_sensors(folder / "speed.npz", key="speed_mph", ids_key="sensor_id",
                             locations=folder / "sensors.csv", adjacency=folder / "adj.npz",
                             adjacency_key="adj_dcrnn", quantity="speed", unit="mph", interval="5min",
                             start="2012-03-01T00:00", tz="America/Los_Angeles")
    return City(graph, history=12, horizon=12)
