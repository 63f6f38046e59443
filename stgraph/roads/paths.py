"""Shortest ways by road that obey turn restrictions: between junctions, and between places on segments.

The search runs over segments, not junctions: a way is a sequence of permitted turns (the dual graph: Winter, "Modeling
costs of turns in route planning", GeoInformatica 2002). Where a sequence of three or more segments is forbidden, a
segment is there several times, once for each beginning of a forbidden sequence that may lie behind (the automaton of
Aho and Corasick, CACM 1975). Dijkstra's algorithm is that of scipy.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from stgraph.errors import InputError
from stgraph.roads.network import Roads
from stgraph.roads.turns import consecutive

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph, GraphTables

Place = int | str | tuple[int, float]
"""The id of a junction as in the source map, or a segment (its row) with metres after its start."""

Places = Any
"""A list or array of ids of junctions ``[n]``; or a tuple of two, segments ``[n]`` and metres after their starts."""

SMALLEST = 1e-9
"""Least cost of a segment in the search: a sparse matrix need not keep an entry of zero."""


@dataclass(frozen=True)
class Path:
    """A way by road.

    Args:
        segments: ``[k]`` int64, the segments in the order they are driven, the first and last perhaps in part; none
            where origin and destination are one junction.
        length: Metres driven.
        cost: Sum of the weights; of a segment driven in part, that part.
        period: First second, and first after, of the time in which the network is the one that was searched; None
            where it never changes.
    """

    segments: np.ndarray
    length: float
    cost: float
    period: tuple[int, int] | None = None


def shortest_path(roads: Roads | DynamicHeteroGraph | GraphTables, origin: Place, destination: Place,
                  weight: str | np.ndarray = "length", turns: bool = True, at: Any = None) -> Path | None:
    """The cheapest way from one place to another; None where there is no way.

    Args:
        roads: The network, or a graph that holds it.
        origin: Where it starts: id of a junction, or ``(segment, offset)``.
        destination: Where it ends.
        weight: ``length`` (m), ``time`` (s, by the attribute ``speed``), or the cost of each segment ``[S]``, where
            infinity closes a segment.
        turns: Whether turns must be permitted; False lets every segment be followed by every other that starts at its
            end. A network whose turns are not known is read so in any case.
        at: When a graph is searched whose roads change with time: seconds since 1970-01-01 UTC, an ISO text, or a
            pandas Timestamp; None for after the last change. Rows of segments are those of the graph.

    Raises:
        InputError: where a place or a weight is not of this network, or the time cannot be read.
    """
    return Router(roads, weight, turns, at).path(origin, destination)


def shortest_distances(roads: Roads | DynamicHeteroGraph | GraphTables, sources: Places, targets: Places | None = None,
                       limit: float = np.inf, weight: str | np.ndarray = "length", turns: bool = True,
                       at: Any = None) -> np.ndarray:
    """Costs of the cheapest ways, ``[sources, targets]``; infinite where there is no way within the limit.

    Args:
        roads: The network, or a graph that holds it.
        sources: Ids of junctions, or a pair of arrays: segments, metres after their starts.
        targets: The same; None for all junctions in their order.
        limit: Largest cost, in the unit of the weight.
        weight: As for :func:`shortest_path`.
        turns: As for :func:`shortest_path`.
        at: As for :func:`shortest_path`.

    Raises:
        InputError: where a place or a weight is not of this network, or the time cannot be read.
    """
    return Router(roads, weight, turns, at).distances(sources, targets, limit)


class Router:
    """A road network made ready for many searches with one weight.

    Args:
        roads: The network, or a graph that holds it.
        weight: As for :func:`shortest_path`.
        turns: As for :func:`shortest_path`.
        at: As for :func:`shortest_path`.

    Raises:
        InputError: where the weight is not one cost for each segment, not negative.
    """

    def __init__(self, roads: Roads | DynamicHeteroGraph | GraphTables, weight: str | np.ndarray = "length",
                 turns: bool = True, at: Any = None) -> None:
        if at is not None and isinstance(roads, Roads):
            raise InputError("these roads are those of one time", field="at", value=at,
                             remedy="give the graph, or Roads.of(graph, at)")
        self.roads = roads if isinstance(roads, Roads) else Roads.of(roads, at)
        self.weight = _costs(self.roads, weight)
        if self.roads.alive is not None:
            self.weight = np.where(self.roads.alive, self.weight, np.inf)
        count = len(self.roads.tail)
        known = turns and self.roads.turn_index.shape[1] > 0
        index = self.roads.turn_index if known else consecutive(self.roads.tail, self.roads.head)
        sequences = np.split(self.roads.forbidden, self.roads.forbidden_ptr[1:-1]) if known else []
        index, self._segment = _with_memory(index, count, [tuple(one.tolist()) for one in sequences if len(one)])
        cost = self.weight[self._segment]
        index = index[:, np.isfinite(cost[index]).all(0)]
        states = len(self._segment)
        index = np.stack(np.divmod(np.unique(index[0] * states + index[1]), states))  # a sparse matrix adds doubles
        self._matrix = csr_array((np.maximum(cost[index[0]], SMALLEST), (index[0], index[1])), shape=(states, states))
        junctions = len(self.roads.junction_id)
        self._leaving, self._reaching = _Rows(self.roads.tail, junctions), _Rows(self.roads.head, junctions)
        self._named = np.argsort(self.roads.junction_id, kind="stable")

    # ---------------------------------------------------------------- one way
    def path(self, origin: Place, destination: Place) -> Path | None:
        """The cheapest way; None where there is none. See :func:`shortest_path`.

        Raises:
            InputError: where a place is not of this network.
        """
        start, end = self._place(origin, "origin"), self._place(destination, "destination")
        if start.segment < 0 and start.junction == end.junction:
            return Path(np.zeros(0, np.int64), 0.0, 0.0, self.roads.period)
        segments, best = np.zeros(0, np.int64), np.inf
        if start.segment >= 0 and start.segment == end.segment and start.share <= end.share:
            segments = np.array([start.segment])
            best = float(_part(end.share - start.share, self.weight[start.segment]))
        around = self._around(start, end, best)
        if around is not None:
            segments, best = around, self._sum(self.weight, around, start, end)
        if not best < np.inf:
            return None
        return Path(segments, self._sum(self.roads.length, segments, start, end), best, self.roads.period)

    def _around(self, start: _End, end: _End, best: float) -> np.ndarray | None:
        """Segments of the cheapest way that takes a turn or starts at a junction, if it costs less than the best."""
        states, spent = self._starts(start)
        last = self._reaching.of(end.junction) if end.segment < 0 else np.array([end.segment])
        final = np.flatnonzero(np.isin(self._segment, last))
        if not len(states) or not len(final) or not spent < best:
            return None
        cost, before, _ = dijkstra(self._matrix, indices=states, min_only=True, return_predecessors=True)
        total = spent + cost[final] + _part(end.share if end.segment >= 0 else 1.0, self.weight[self._segment[final]])
        if not total.min() < best:
            return None
        way, state = [], int(final[np.argmin(total)])
        while state >= 0:
            way.append(int(self._segment[state]))
            state = int(before[state])
        return np.array([start.segment, *way[::-1]] if start.segment >= 0 else way[::-1])

    # ---------------------------------------------------------------- many distances
    def distances(self, sources: Places, targets: Places | None = None, limit: float = np.inf) -> np.ndarray:
        """Costs ``[sources, targets]``, infinite where there is no way. See :func:`shortest_distances`.

        Raises:
            InputError: where a place is not of this network, or the limit is negative or not a number.
        """
        if not limit >= 0:
            raise InputError("out of range", field="limit", value=limit, remedy="give a cost that is not negative")
        starts = self._places(sources, "sources")
        ends = self._places(targets, "targets") if targets is not None else \
            _Ends(np.arange(len(self.roads.junction_id)), np.full(len(self.roads.junction_id), -1),
                  np.zeros(len(self.roads.junction_id)))
        out = np.full((len(starts.junction), len(ends.junction)), np.inf)
        on_segment = ends.segment >= 0
        part = np.zeros(len(ends.share))
        part[on_segment] = _part(ends.share[on_segment], self.weight[ends.segment[on_segment]])
        for row in range(len(out)):
            start = starts[row]
            states, spent = self._starts(start)
            if len(states) and spent <= limit:
                begun = self._begun(states, limit - spent)
                out[row, on_segment] = spent + begun[ends.segment[on_segment]] + part[on_segment]
                if not on_segment.all():
                    out[row, ~on_segment] = spent + self._reached(begun + self.weight)[ends.junction[~on_segment]]
            if start.segment < 0:
                out[row, ~on_segment & (ends.junction == start.junction)] = 0.0
            else:
                ahead = on_segment & (ends.segment == start.segment) & (ends.share >= start.share)
                direct = _part(ends.share[ahead] - start.share, self.weight[start.segment])
                out[row, ahead] = np.minimum(out[row, ahead], direct)
        out[out > limit] = np.inf
        return out

    def _begun(self, states: np.ndarray, limit: float) -> np.ndarray:
        """Cost of the way from the start of any of the states to the start of each segment, ``[S]``."""
        cost = dijkstra(self._matrix, indices=states, min_only=True, limit=limit)
        count = len(self.roads.tail)
        begun: np.ndarray = cost[:count]
        np.minimum.at(begun, self._segment[count:], cost[count:])
        return begun

    def _reached(self, ended: np.ndarray) -> np.ndarray:
        """Cost of the way to each junction ``[J]``, from that to the end of each segment ``[S]``."""
        out = np.full(len(self.roads.junction_id), np.inf)
        np.minimum.at(out, self.roads.head, ended)
        return out

    # ---------------------------------------------------------------- places
    def _starts(self, start: _End) -> tuple[np.ndarray, float]:
        """States a way from here can go on with, at the start of a segment, and the cost until there."""
        if start.segment < 0:
            states = self._leaving.of(start.junction)
            return states[np.isfinite(self.weight[states])], 0.0
        rows = slice(self._matrix.indptr[start.segment], self._matrix.indptr[start.segment + 1])
        return self._matrix.indices[rows], float(_part(1.0 - start.share, self.weight[start.segment]))

    def _sum(self, values: np.ndarray, segments: np.ndarray, start: _End, end: _End) -> float:
        """Sum of a value of segments over a way, of its first and last only the part that is driven."""
        total = float(values[segments].sum())
        if start.segment >= 0:
            total -= float(_part(start.share, values[segments[0]]))
        if end.segment >= 0:
            total -= float(_part(1.0 - end.share, values[segments[-1]]))
        return max(total, 0.0)

    def _place(self, place: Place, field: str) -> _End:
        single = ([place[0]], [place[1]]) if isinstance(place, tuple) else [place]
        return self._places(single, field)[0]

    def _places(self, places: Places, field: str) -> _Ends:
        if isinstance(places, tuple) and len(places) == 2:
            segment, offset = np.asarray(places[0]), np.asarray(places[1], np.float64)
            return self._on_segments(segment, offset, field)
        junction = self._junctions(np.asarray(places), field)
        return _Ends(junction, np.full(len(junction), -1), np.zeros(len(junction)))

    def _on_segments(self, segment: np.ndarray, offset: np.ndarray, field: str) -> _Ends:
        count = len(self.roads.tail)
        if segment.dtype.kind not in "iu" or segment.shape != offset.shape or segment.ndim != 1:
            raise InputError("places are segments (whole numbers [n]) with metres after their starts [n]", field=field,
                             value=f"{segment.dtype} {segment.shape}, {offset.shape}", remedy="give a pair of arrays")
        if len(bad := np.flatnonzero((segment < 0) | (segment >= count))):
            raise InputError("no such segment", field=field, value=int(segment[bad[0]]),
                             remedy=f"give rows from 0 to {count - 1}")
        length = self.roads.length[segment]
        if len(bad := np.flatnonzero(~((offset >= -1e-3) & (offset <= length + 1e-3)))):
            raise InputError(f"not on segment {int(segment[bad[0]])}, which is {length[bad[0]]:.3f} m long",
                             field=field, value=float(offset[bad[0]]),
                             remedy="give metres after the start of the segment")
        share = np.clip(np.divide(offset, length, out=np.zeros(len(offset)), where=length > 0), 0.0, 1.0)
        return _Ends(np.full(len(segment), -1), segment.astype(np.int64), share)

    def _junctions(self, ids: np.ndarray, field: str) -> np.ndarray:
        """Rows of junctions by their ids; a number may be given as a word."""
        known, wanted = self.roads.junction_id, ids
        if ids.dtype.kind in "iuU":
            with contextlib.suppress(ValueError, OverflowError):  # a word that is no number is no id either
                wanted = ids.astype(str if known.dtype.kind == "U" else known.dtype)
        if wanted.dtype.kind == known.dtype.kind and len(known):
            place = np.minimum(np.searchsorted(known, wanted, sorter=self._named), len(known) - 1)
            found: np.ndarray = self._named[place]
            bad = np.flatnonzero(known[found] != wanted)
        else:
            found, bad = np.zeros(0, np.int64), np.arange(len(ids))
        if len(bad):
            raise InputError("no such junction", field=field, value=ids[bad[0]],
                             remedy="give an id as in the source map, or a place on a segment: (segment, metres)")
        return found


@dataclass(frozen=True)
class _End:
    """A place: a junction, or a share of a segment; the other one is -1."""

    junction: int
    segment: int
    share: float


@dataclass(frozen=True)
class _Ends:
    """Places ``[n]``."""

    junction: np.ndarray
    segment: np.ndarray
    share: np.ndarray

    def __getitem__(self, row: int) -> _End:
        return _End(int(self.junction[row]), int(self.segment[row]), float(self.share[row]))


class _Rows:
    """Rows of each value of a column of whole numbers, ascending."""

    def __init__(self, values: np.ndarray, count: int) -> None:
        self._order = np.argsort(values, kind="stable")
        self._start = np.searchsorted(values[self._order], np.arange(count + 1))

    def of(self, value: int) -> np.ndarray:
        return self._order[self._start[value]:self._start[value + 1]]


def _costs(roads: Roads, weight: str | np.ndarray) -> np.ndarray:
    """Cost of each segment ``[S]``; infinite where it is closed."""
    if isinstance(weight, str):
        if weight == "length":
            return roads.length
        if weight != "time":
            raise InputError("no such weight", field="weight", value=weight,
                             remedy="use length, time, or give the cost of each segment")
        if "speed" not in roads.attributes:
            raise InputError("the segments have no speed", field="speed", remedy="use the weight length")
        speed = np.asarray(roads.attributes["speed"]).astype(np.float64)
        if not (speed > 0).all():
            raise InputError("a speed is not positive", field="speed", value=speed[~(speed > 0)][0],
                             remedy="give every segment a speed in m/s")
        return roads.length / speed
    costs = np.asarray(weight, np.float64)
    if costs.shape != roads.length.shape or not (costs >= 0).all():
        raise InputError("a cost is missing, negative or not a number", field="weight",
                         value=list(costs.shape) if costs.shape != roads.length.shape else costs[~(costs >= 0)][0],
                         remedy=f"give [{len(roads.length)}] costs; infinity closes a segment")
    return costs


def _with_memory(index: np.ndarray, count: int, forbidden: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Moves between states that know which beginnings of forbidden sequences lie behind.

    Args:
        index: Moves between segments ``[2, K]``.
        count: Number of segments ``S``; the first ``S`` states are the segments with nothing behind.
        forbidden: Sequences of segments.

    Returns:
        Moves between states ``[2, *]``, and the segment of each state.
    """
    begun = sorted({one[:size] for one in forbidden for size in range(2, len(one))})
    state = {beginning: count + number for number, beginning in enumerate(begun)}
    segment = np.concatenate([np.arange(count), np.array([one[-1] for one in begun], np.int64)])
    whole = set(forbidden)
    moves = []
    for beginning, source in state.items():
        for onward in index[1, index[0] == beginning[-1]].tolist():
            behind = [(*beginning, onward)[first:] for first in range(len(beginning))]  # the longest first
            if not whole.intersection(behind):
                moves.append((source, next((state[one] for one in behind if one in state), onward)))
    target = index[1].copy()
    for beginning in begun:
        if len(beginning) == 2:
            target[(index[0] == beginning[0]) & (index[1] == beginning[1])] = state[beginning]
    plain = np.stack([index[0], target])
    return np.concatenate([plain, np.array(moves, np.int64).reshape(-1, 2).T], axis=1), segment


def _part(share: float | np.ndarray, cost: float | np.ndarray) -> np.ndarray:
    """``share * cost``; nothing of a closed segment costs nothing."""
    share, cost = np.broadcast_arrays(np.asarray(share, np.float64), np.asarray(cost, np.float64))
    return np.multiply(share, cost, out=np.zeros(share.shape), where=share > 0)
