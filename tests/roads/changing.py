"""A small made town whose roads can be edited, as a graph."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.roads import Roads
from stgraph.roads.network import reverse_segments
from stgraph.roads.turns import make_turns

SPAN = 12  # edits begin and end at 0 .. SPAN
ON_SEGMENT = ("sensor", "on", "segment")
CLASSES = ["primary", "residential"]


def lines_of(places: np.ndarray, tail: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ptr = 2 * np.arange(len(tail) + 1)
    return ptr, places[np.column_stack([tail, head]).reshape(-1)]


def town(seed: int = 0) -> Roads:
    """A 3 x 3 grid in metres with two-way and one-way streets, a dead end, turn restrictions and signals."""
    chance = np.random.default_rng(seed)
    places = np.array([(100.0 * x, 100.0 * y) for y in range(3) for x in range(3)] + [(300.0, 50.0)])
    ways = [(a, b) for a, b in itertools.combinations(range(9), 2)
            if abs(a % 3 - b % 3) + abs(a // 3 - b // 3) == 1] + [(2, 9)]
    ends = []
    for a, b in ways:
        ends.append((a, b))
        if chance.random() < 0.75 or b == 9:
            ends.append((b, a))
    tail, head = np.array(ends).T
    ptr, xy = lines_of(places, tail, head)
    turns, angle = make_turns(tail, head, ptr, xy, reverse_segments(tail, head, ptr, xy), metric=True)
    onward = np.abs(angle) < 179
    kept = ~(onward & (chance.random(len(angle)) < 0.15))  # some turns are forbidden
    turns, angle = turns[:, kept], angle[kept]
    chains = [(a, b, c) for a, b in turns.T for c in turns[1, turns[0] == b] if c != a][::17][:3]
    lights = chance.choice(len(tail), 3, replace=False)
    return Roads(
        np.arange(100, 110), places, tail, head, np.linalg.norm(places[tail] - places[head], axis=1), ptr, xy,
        metric=True, attributes={"speed": chance.integers(5, 15, len(tail)).astype(np.float32),
                                 "speed_imputed": np.ones(len(tail), bool)},
        turn_index=turns, turn_angle=angle, forbidden_ptr=3 * np.arange(len(chains) + 1),
        forbidden=np.array(chains, np.int64).reshape(-1), signal_id=np.array([f"light {i}" for i in range(3)]),
        signal_xy=places[tail[lights]], signal_segment=lights, signal_offset=np.zeros(3))


def graph_of(roads: Roads) -> DynamicHeteroGraph:
    """The town with words for classes, sensors on segments and a signal of the segments."""
    graph = roads.tables().graph()
    count = len(roads.tail)
    graph["segment"].road_class = (torch.arange(count) % 2).int()
    graph.declare("segment", "road_class", categories=CLASSES)
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(4)])
    graph[ON_SEGMENT].edge_index = torch.tensor([[0, 1, 2, 3], [0, 1, 1, count - 1]])
    graph[ON_SEGMENT].offset = torch.tensor([1.0, 2.0, 3.0, float("nan")])
    graph.time = TimeAxis(0, 1, SPAN)
    values = np.arange(SPAN * count, dtype=np.float32).reshape(SPAN, count, 1)
    graph.add_signal("segment", "counts", Signal(values, None, [Channel("count", "count")]))
    graph.validate()
    return graph
