"""The hidden states of map matching: places on segments near each point, and how likely the moves between them are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stgraph.roads.nearest import Candidates
from stgraph.roads.network import Roads
from stgraph.roads.routing import RoutingCells, RoutingTable
from stgraph.sources.trips.viterbi import Pairs, ranges

_LOOK_UPS = 2**22  # ways looked up at once
_MOVES = 2**16  # moves worked on at once: few enough to stay in the processor's cache
_SAME = 0.01  # m, ways that differ less are the same


@dataclass(frozen=True)
class States:
    """Places on segments where a vehicle can have been, ``S`` states of ``n`` points.

    Attributes:
        ptr: ``[n + 1]`` int64; the states of point ``i`` are ``ptr[i]`` to ``ptr[i + 1]``, one at least.
        segment: ``[S]`` int64.
        offset: ``[S]`` m after the start of the segment.
        distance: ``[S]`` m from the point.
    """

    ptr: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, roads: Roads, found: Candidates, points: np.ndarray) -> States:
        """The candidates of some points, in this order."""
        count = np.diff(found.ptr)[points]
        rows = ranges(found.ptr[points], count)
        segment = found.segment[rows]
        offset = np.clip(found.offset[rows], 0.0, roads.length[segment])  # no rounding beyond the ends
        return cls(np.concatenate([[0], np.cumsum(count)]), segment, offset, found.distance[rows])


@dataclass(frozen=True)
class Moves:
    """What is known of the move to each of ``n`` points from the point before it.

    Attributes:
        straight: ``[n]`` m between the two points as the crow flies, without noise.
        longest: ``[n]`` m, no way may be longer.
        scale: ``[n]`` m, decay of the weight with the difference of way and straight line.
        backward: m, how far a place may seem to slip back on one segment.
        u_turn: Log weight that a turn onto the other direction of a segment costs.
    """

    straight: np.ndarray
    longest: np.ndarray
    scale: np.ndarray
    backward: float
    u_turn: float


def log_transition(roads: Roads, states: States, pairs: Pairs, moves: Moves, table: RoutingTable | RoutingCells
                   ) -> np.ndarray:
    """Log weight ``[P]`` of the move of each pair of states.

    It is ``-|way - straight| / scale``, the exponential of Newson and Krumm (2009), less the cost of a U-turn; minus
    infinity where there is no way, or only one that is too long.
    """
    links = table.links
    head, tail, length = links.head[states.segment], links.tail[states.segment], roads.length[states.segment]
    row = np.repeat(np.arange(len(states.ptr) - 1), np.diff(states.ptr))
    between = np.empty(len(pairs.source), np.float32)  # from the end of one segment to the start of the other
    for part, state in _parts(pairs.ptr, _LOOK_UPS):
        between[part] = table.distances(head.take(pairs.source[part]), tail.take(state))
    rest, back = length - states.offset, roads.reverse[states.segment]
    straight, scale = moves.straight[row], -moves.scale[row]
    start, longest = states.offset - straight, moves.longest[row] - straight
    around = _Around.of(roads, states, pairs, row)
    weight = np.empty(len(pairs.source))
    for part, state in _parts(pairs.ptr, _MOVES):
        source = pairs.source[part]
        more = between[part] + rest.take(source)  # way less straight line
        more += start.take(state)
        other = states.segment.take(state)
        same = np.flatnonzero(states.segment.take(source) == other)
        along = states.offset[state[same]] - states.offset[source[same]]
        near = along >= -moves.backward
        stays = same[near]
        more[stays] = np.maximum(along[near], 0.0) - straight[state[stays]]  # slipping back is standing still
        turns = around.turns(between, part, source, state)
        turns[stays] = False
        turns |= other == back.take(source)
        more[more > longest.take(state)] = np.inf
        np.divide(np.abs(more, out=more), scale.take(state), out=weight[part])
        weight[part][turns] -= moves.u_turn
    return weight


def _parts(ptr: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Pairs in parts of about a size, and the later state of each."""
    cuts = np.unique(np.searchsorted(ptr, np.arange(0, ptr[-1], size), side="right") - 1)
    for first, last in itertools.pairwise([*cuts, len(ptr) - 1]):
        yield slice(ptr[first], ptr[last]), np.repeat(np.arange(first, last), np.diff(ptr[first:last + 1]))


@dataclass(frozen=True)
class _Around:
    """Where to see whether a way begins or ends with a turn onto the other direction of a segment.

    It begins so if it leads back along the first segment. Then it is that segment and the way from its other
    direction, which is a state of the same point, so the way between that state and the later one is known; and the
    end likewise.

    Attributes:
        back: ``[S]`` m to drive back along the segment of a state; infinite where there is no other direction.
        earlier: ``[S]`` from the pairs of a state, as the earlier one, to those of its other direction.
        later: ``[S]`` the same for the later one.
    """

    back: np.ndarray
    earlier: np.ndarray
    later: np.ndarray

    @classmethod
    def of(cls, roads: Roads, states: States, pairs: Pairs, row: np.ndarray) -> _Around:
        here = np.arange(len(row))
        other = here.copy()  # the two directions of a street stand together
        first = np.flatnonzero((roads.reverse[states.segment[:-1]] == states.segment[1:]) & (row[:-1] == row[1:]))
        other[first], other[first + 1] = first + 1, first
        back = np.where(other == here, np.inf, roads.length[states.segment] - _SAME).astype(np.float32)
        return cls(back, other - here, pairs.ptr[other] - pairs.ptr[here])

    def turns(self, between: np.ndarray, part: slice, source: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Whether the way of each pair of a part turns so; ``between`` is given for all pairs."""
        pair, way = np.arange(part.start, part.stop), between[part]
        begins = way >= between.take(pair + self.earlier.take(source)) + self.back.take(source)
        return begins | (way >= between.take(pair + self.later.take(state)) + self.back.take(state))
