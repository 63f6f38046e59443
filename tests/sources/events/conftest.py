"""Made maps and events."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stgraph.roads import LocalProjection, Roads

MIDDLE = LocalProjection(-8.61, 41.15)


def made_roads(seed: int = 0, side: int = 6, spacing: float = 150.0, metric: bool = False) -> Roads:
    """A crooked grid of streets: most are two-way with a bend in the middle, some are one-way."""
    random = np.random.default_rng(seed)
    at = np.arange(side * side).reshape(side, side)
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * spacing
    xy = xy + random.uniform(-40, 40, xy.shape)
    tail = np.concatenate([at[:, :-1].ravel(), at[:-1].ravel()])
    head = np.concatenate([at[:, 1:].ravel(), at[1:].ravel()])
    bend = (xy[tail] + xy[head]) / 2 + random.uniform(-25, 25, (len(tail), 2))
    lines = np.stack([xy[tail], bend, xy[head]], axis=1)
    two_way = random.random(len(tail)) < 0.8
    tail, head = np.concatenate([tail, head[two_way]]), np.concatenate([head, tail[two_way]])
    lines = np.concatenate([lines, lines[two_way, ::-1]])
    order = random.permutation(len(tail))
    tail, head, lines = tail[order], head[order], lines[order]
    length = np.linalg.norm(np.diff(lines, axis=1), axis=2).sum(1)
    place = (lambda metres: metres) if metric else MIDDLE.lonlat
    return Roads(np.arange(len(xy)), place(xy), tail, head, length, 3 * np.arange(len(tail) + 1),
                 place(lines.reshape(-1, 2)), metric=metric)


def made_events(count: int, seed: int = 1, low: float = -150.0, high: float = 900.0) -> pd.DataFrame:
    """Events around the made roads, in degrees, some at one place, some at one time."""
    random = np.random.default_rng(seed)
    lonlat = MIDDLE.lonlat(random.uniform(low, high, (count, 2)).round(-1))
    return pd.DataFrame({
        "event": [f"e{i}" for i in range(count)], "kind": random.choice(["theft", "crash", "fire"], count),
        "time": random.integers(1_500_000_000, 1_500_000_000 + 3 * 86_400, count) // 600 * 600,
        "longitude": lonlat[:, 0], "latitude": lonlat[:, 1], "depth": random.uniform(0, 9, count).round(3),
        "premise": random.choice(["street", "park"], count)})


@pytest.fixture(scope="session")
def roads() -> Roads:
    return made_roads()


@pytest.fixture(scope="session")
def events() -> pd.DataFrame:
    return made_events(400)


@pytest.fixture(scope="session")
def make_roads():
    return made_roads


@pytest.fixture(scope="session")
def make_events():
    return made_events
