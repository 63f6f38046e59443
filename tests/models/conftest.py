"""Small cities made from arrays, and the accelerator kept quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # road_graphs.py

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.windows import City


def small_city(nodes: int = 7, days: int = 12, channels: int = 1, seed: int = 0, order: np.ndarray | None = None,
               placed: bool = True, hidden: float = 0.1, **options: Any) -> City:
    """Hourly readings with a daily wave, noise and gaps; ``order`` names which node of the same city comes where."""
    rng = np.random.default_rng(seed)
    rows = 24 * days
    wave = np.sin(np.arange(rows)[:, None, None] * 2 * np.pi / 24 + rng.uniform(0, 6, (1, nodes, channels)))
    values = 20 + rng.uniform(-5, 5, (1, nodes, channels)) + 4 * wave + rng.normal(0, 0.5, (rows, nodes, channels))
    mask = rng.random(values.shape) >= hidden
    lonlat = np.array([-118.3, 34.1]) + rng.uniform(-0.2, 0.2, (nodes, 2))
    order = np.arange(nodes) if order is None else order
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, rows))
    graph["sensor"].node_id = np.array([f"s{i}" for i in order])
    if placed:
        graph["sensor"].lonlat = torch.from_numpy(lonlat[order])
    graph.add_signal("sensor", "readings", Signal(
        np.where(mask, values, 0).astype(np.float32)[:, order], mask[:, order],
        [Channel(f"speed {i}", "speed", "mph") for i in range(channels)]))
    return City(graph, **({"history": 6, "horizon": 3} | options))


@pytest.fixture
def make_city() -> Callable[..., City]:
    """The function :func:`small_city`."""
    return small_city


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
