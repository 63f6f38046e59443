"""Cities made from arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.windows import City


def city_of(values: Any, mask: Any = None, time: TimeAxis | None = None, **options: Any) -> City:
    """A city whose only signal is the array ``[T, N, C]``; hourly in UTC where no time axis is given."""
    graph = DynamicHeteroGraph(time=time or TimeAxis(0, 3600, values.shape[0]))
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(values.shape[1])])
    channels = [Channel(f"channel {i}") for i in range(values.shape[2])]
    graph.add_signal("sensor", "readings", Signal(values, mask, channels))
    return City(graph, **options)


def random_readings(rows: int, nodes: int = 3, channels: int = 2, seed: int = 0, hidden: float = 0.2
                    ) -> tuple[np.ndarray, np.ndarray]:
    """Values and mask ``[T, N, C]``: a level and a daily wave per node, noise, and some readings that are missing."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(rows) * 2 * np.pi / 24)[:, None, None] * rng.uniform(1, 5, (1, nodes, channels))
    values = (rng.uniform(10, 50, (1, nodes, channels)) + wave + rng.normal(size=(rows, nodes, channels)))
    mask = rng.random(values.shape) >= hidden
    return np.where(mask, values, 0).astype(np.float32), mask


@pytest.fixture
def make_city() -> Callable[..., City]:
    """The function :func:`city_of`."""
    return city_of


@pytest.fixture
def readings() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The function :func:`random_readings`."""
    return random_readings
