"""Journeys matched to the network of their time, with ways as long as their points are far apart in time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields, replace
from typing import Any

import numpy as np

from stgraph.roads import Roads
from stgraph.roads.history import RoadHistory
from stgraph.roads.nearest import SegmentIndex
from stgraph.roads.routing import RoutingCells
from stgraph.roads.turns import permits
from stgraph.sources.trips.matching import Matched, MatchSettings, Points, match

LIMITS = (1000.0, 2000.0, 4000.0, 8000.0, 12_000.0)
"""Longest ways between two points, m: a journey takes the first that is not driven at 35 m/s in the median time between
its points, or the last."""

_FASTEST = 35.0  # m/s
_KEPT = 3  # indexes, and tables of ways, held at a time


class Matcher:
    """Matches journeys; each meets the roads as they stand when it begins.

    Args:
        history: The roads.
        settings: The model.
        limit: Longest way between two points, m; None for one of :data:`LIMITS`, by the journey.

    Attributes:
        journeys: How many journeys were matched with each limit.
        networks: Numbers of the networks that were met.
        not_permitted: Moves of the walks that the map does not permit, and sequences of moves.
    """

    def __init__(self, history: RoadHistory, settings: MatchSettings, limit: float | None) -> None:
        self.history, self.settings, self.limit = history, settings, limit
        self.journeys: dict[float, int] = {}
        self.networks: set[int] = set()
        self.not_permitted = 0
        self._indexes: OrderedDict[int, SegmentIndex] = OrderedDict()
        self._tables: OrderedDict[tuple[int, float], RoutingCells] = OrderedDict()

    def match(self, points: Points) -> Matched:
        """Match the journeys of a block; see :func:`stgraph.sources.trips.matching.match`."""
        if not len(points):
            return match(self.history.at(), points, self.settings, *self._made(len(self.history) - 1, LIMITS[0]))
        first = np.flatnonzero(np.diff(points.trip, prepend=points.trip[0] - 1))
        size = np.diff(first, append=len(points))
        period = self.history.period(points.time[first])
        limit = np.full(len(first), self.limit) if self.limit is not None else \
            np.array(LIMITS)[np.minimum(np.searchsorted(LIMITS, _FASTEST * median_gaps(points)), len(LIMITS) - 1)]
        parts: list[tuple[np.ndarray, Matched]] = []
        for number, longest in sorted(set(zip(period.tolist(), limit.tolist(), strict=True))):
            mine = (period == number) & (limit == longest)
            rows = np.flatnonzero(np.repeat(mine, size))
            roads = self.history.roads(number)
            found = match(roads, points[rows], replace(self.settings, limit=longest), *self._made(number, longest))
            self.not_permitted += not_permitted(roads, found)
            self.networks.add(number)
            self.journeys[longest] = self.journeys.get(longest, 0) + int(mine.sum())
            parts.append((rows, found))
        return parts[0][1] if len(parts) == 1 else _joined(len(points), parts)

    def _made(self, number: int, limit: float) -> tuple[SegmentIndex, RoutingCells]:
        """Index and table of ways of a network."""
        roads = self.history.roads(number)
        if number not in self._indexes:
            self._indexes[number] = SegmentIndex(roads)
        if (number, limit) not in self._tables:
            self._tables[number, limit] = RoutingCells(roads, limit, turns=True)
        return _used(self._indexes, number), _used(self._tables, (number, limit))


def _used(held: OrderedDict[Any, Any], key: Any) -> Any:
    """The entry of a key, which is used; those not used for longest are forgotten."""
    held.move_to_end(key)
    while len(held) > _KEPT:
        held.popitem(last=False)
    return held[key]


def median_gaps(points: Points) -> np.ndarray:
    """Median time between the points of each trip, in the order of trips, s; 0 where a trip has one point."""
    new = np.diff(points.trip, prepend=points.trip[0] - 1) != 0
    trip = np.cumsum(new) - 1
    gap = np.where(new, 0.0, np.diff(points.time, prepend=points.time[0]))
    order = np.lexsort((gap, ~new, trip))  # the zero of the first point stands first
    first = np.flatnonzero(new)
    gaps = np.diff(first, append=len(new)) - 1
    low, high = first + (gaps + 1) // 2, first + gaps // 2 + (gaps > 0)
    return np.asarray((gap[order[low]] + gap[order[high]]) / 2)


def not_permitted(roads: Roads, matched: Matched) -> int:
    """How many moves of walks a map does not permit, a forbidden sequence counting once; turning back is permitted."""
    segment = matched.walk_segment
    piece = np.cumsum(matched.walk_seq == 0)
    count = 0
    if roads.turn_index.shape[1] and len(segment):
        on = np.flatnonzero(np.diff(piece) == 0)
        joined = on[roads.head[segment[on]] == roads.tail[segment[on + 1]]]
        count += int((~permits(roads, segment[joined], segment[joined + 1])).sum())
    for sequence in np.split(roads.forbidden, roads.forbidden_ptr[1:-1]) if len(roads.forbidden_ptr) > 1 else ():
        at = np.flatnonzero(segment[:max(len(segment) - len(sequence) + 1, 0)] == sequence[0])
        for place in range(1, len(sequence)):
            at = at[(segment[at + place] == sequence[place]) & (piece[at + place] == piece[at])]
        count += len(at)
    return count


def _joined(count: int, parts: list[tuple[np.ndarray, Matched]]) -> Matched:
    """The results of groups of journeys, in the order of their points ``[count]``."""
    columns: dict[str, np.ndarray] = {}
    order = np.argsort(np.concatenate([found.walk_trip for _, found in parts]), kind="stable")
    for one in fields(Matched):
        values = [getattr(found, one.name) for _, found in parts]
        if one.name.startswith("walk_"):
            columns[one.name] = np.concatenate(values)[order]
        else:
            columns[one.name] = np.empty(count, values[0].dtype)
            for (rows, _), part in zip(parts, values, strict=True):
                columns[one.name][rows] = part
    return Matched(**columns)
