"""Made road networks for tests: from lists of points, and random towns with everything that streets do."""

from __future__ import annotations

import numpy as np

from stgraph.roads import Roads
from stgraph.roads.network import reverse_segments
from stgraph.roads.turns import make_turns


def make_roads(lines, both_ways=None, turns=True, **more) -> Roads:
    """A network in plain metres; junctions are the ends of the lines, named 0, 1, ... in the order they occur.

    Segments are the lines as given, then the other direction of those that ``both_ways`` names (default: all).
    """
    lines = [np.asarray(line, float) for line in lines]
    both = range(len(lines)) if both_ways is None else both_ways
    lines += [lines[one][::-1] for one in both]
    names: dict[tuple[float, float], int] = {}
    for line in lines:
        for point in (line[0], line[-1]):
            names.setdefault(tuple(point), len(names))
    tail, head = (np.array([names[tuple(line[end])] for line in lines], np.int64) for end in (0, -1))
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in lines])]).astype(np.int64)
    xy = np.concatenate(lines) if lines else np.zeros((0, 2))
    if turns:
        more.setdefault("turn_index", make_turns(tail, head, ptr, xy, reverse_segments(tail, head, ptr, xy), True)[0])
        more.setdefault("turn_angle", np.zeros(more["turn_index"].shape[1], np.float32))
    length = np.array([np.hypot(*np.diff(line, axis=0).T).sum() for line in lines])
    return Roads(np.arange(len(names)), np.array(list(names), float).reshape(-1, 2), tail, head, length, ptr, xy,
                 metric=True, **more)


def random_town(seed: int, size: int = 6, block: float = 120.0) -> Roads:
    """A jittered grid with gaps, one-way streets, bends, parallel streets, loops, dead ends and lines of no length."""
    chance = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) * block
    places = places + chance.normal(0, block / 8, places.shape)
    lines = []
    for i in range(size):
        for j in range(size):
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < size and m < size and chance.random() < 0.85:
                    lines += [bent(chance, places[i, j], places[k, m])] * (1 + (chance.random() < 0.05))
    for corner in places.reshape(-1, 2)[chance.integers(0, size * size, 4)]:
        lines.append(corner + np.array([[0, 0], [20, 5], [10, 30], [0, 0]]))  # a loop
        lines.append(np.array([corner, corner + chance.normal(0, 30, 2)]))  # a dead end
    lines.append(np.array([places[0, 0], places[0, 0]]))  # a line of no length
    one_way = chance.random(len(lines)) < 0.3
    return make_roads(lines, np.flatnonzero(~one_way))


def bent(chance: np.random.Generator, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """A line with up to five points between its ends, one of them perhaps twice."""
    share = np.sort(chance.random(chance.integers(0, 6)))[:, None]
    between = start + share * (end - start) + chance.normal(0, 8, (len(share), 2))
    if len(between) > 3:
        between[2] = between[1]
    return np.vstack([start, between, end])
