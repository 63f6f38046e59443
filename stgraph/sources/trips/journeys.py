"""Walks: the segments that trips drove, in order, with times; and where a vehicle was between its points.

A *journey* is a part of a trip without a stop or a gap; a *piece* of it is a stretch that was matched without a break.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stgraph.graph.plain import numbers
from stgraph.roads import Roads

if TYPE_CHECKING:
    from stgraph.sources.trips.matching import Matched, Points


@dataclass(frozen=True)
class Walks:
    """Driven segments, ``w`` rows; those of a journey stand together, in order.

    Args:
        journey: ``[w]`` int64, ascending.
        piece: ``[w]`` int64, ascending within the journey.
        segment: ``[w]`` int64.
        offset: ``[w]`` metres after the start of the segment where driving on it begins: 0 but where a piece starts.
        length: ``[w]`` metres driven on it.
        entered_at: ``[w]`` float64 seconds UTC.
        left_at: ``[w]`` float64 seconds UTC.
        confidence: ``[w]`` 0 to 1.
    """

    journey: np.ndarray
    piece: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    entered_at: np.ndarray
    left_at: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def starts(self) -> np.ndarray:
        """``[w]`` bool, rows where a piece starts."""
        return np.r_[True, (np.diff(self.journey) != 0) | (np.diff(self.piece) != 0)][:len(self)]

    @classmethod
    def of_table(cls, matches: pa.Table) -> Walks:
        """Walks of the table ``matches`` of a bundle of trips."""
        return cls(*(numbers(matches[name]) for name in (
            "journey", "piece", "segment", "offset_m", "length_m", "entered_at", "left_at", "confidence")))


@dataclass(frozen=True)
class Recovered:
    """Places of vehicles at the times asked for, ``q`` rows.

    Args:
        row: ``[q]`` int64, the row of the walks that the vehicle was on; -1 where it was on none.
        segment: ``[q]`` int64; -1 where there is none.
        offset: ``[q]`` metres after the start of the segment; NaN where there is none.
    """

    row: np.ndarray
    segment: np.ndarray
    offset: np.ndarray


def walks_of(points: Points, matched: Matched) -> Walks:
    """Walks with the times when segments were left, and where on their first segment they start.

    A segment is left when the next is entered; the last of a piece, at the last point of the piece. A piece of one
    point is no walk: nothing was seen to be driven.
    """
    journey, piece, entered = matched.walk_trip, matched.walk_piece, matched.walk_entered_at
    count = len(journey)
    start = np.r_[True, (np.diff(journey) != 0) | (np.diff(piece) != 0)][:count]
    first = np.flatnonzero(start)
    last = np.r_[first[1:] - 1, count - 1][:len(first)]
    seen = np.flatnonzero(matched.point_segment >= 0)
    trip, time = points.trip[seen], points.time[seen]
    begin = _at(trip, time, journey[first], entered[first])  # a piece starts at its first point
    end = np.r_[begin[1:] - 1, len(seen) - 1][:len(first)]
    end = np.minimum(end, _at(trip, time, journey[first], np.full(len(first), np.inf)))
    left = np.r_[entered[1:], 0.0][:count]
    left[last] = np.maximum(time[end], entered[last])
    offset = np.zeros(count)
    offset[first] = matched.point_offset[seen[begin]]
    kept = np.flatnonzero((begin < end)[np.cumsum(start) - 1]) if count else np.zeros(0, np.int64)
    walks = Walks(journey[kept], piece[kept], matched.walk_segment[kept], offset[kept], matched.walk_length[kept],
                  entered[kept], left[kept], matched.walk_confidence[kept])
    return walks if len(kept) == count else replace(walks, piece=_numbered(walks))


def _numbered(walks: Walks) -> np.ndarray:
    """Numbers of the pieces of each journey, from 0 and without a gap, ``[w]``."""
    number = np.cumsum(walks.starts)
    new = np.diff(walks.journey, prepend=-1) != 0
    return number - np.repeat(number[new], np.diff(np.flatnonzero(new), append=len(walks)))


def resumed(walks: Walks, trip: np.ndarray, backward: float) -> np.ndarray:
    """Where a piece goes on, on the segment on which the piece before it ended: one vehicle, one traversal.

    So it is after a stop, and wherever else a trip was cut on a segment. Whoever is seen further back on it has come
    there anew.

    Args:
        walks: The walks.
        trip: ``[k]`` the trip of each journey, those of a trip one after the other.
        backward: How far back a place may seem to be because of noise, m.

    Returns:
        ``[w]`` bool.
    """
    found = np.zeros(len(walks), bool)
    row = np.flatnonzero(walks.starts)[1:]
    same = (trip[walks.journey[row]] == trip[walks.journey[row - 1]]) & (walks.segment[row] == walks.segment[row - 1])
    found[row] = same & (walks.offset[row] >= walks.offset[row - 1] + walks.length[row - 1] - backward)
    return found


def recover(walks: Walks, journey: np.ndarray, time: np.ndarray, points: Points | None = None,
            segment: np.ndarray | None = None, offset: np.ndarray | None = None) -> Recovered:
    """Where vehicles were at any time between their points: on the way that was matched, not on the straight line.

    Between two points with a known place, and between points and the entries of segments, the vehicle is taken to
    drive at one speed.

    Args:
        walks: The walks.
        journey: ``[q]`` int64, whom to look for.
        time: ``[q]`` seconds UTC, when.
        points: Points that were matched, ``[n]``, ``trip`` being the journey; their places make those in between more
            exact.
        segment: ``[n]`` int64, what they were matched to; -1 for nothing.
        offset: ``[n]`` metres after its start.
    """
    count = len(walks)
    if not count:
        return Recovered(np.full(len(time), -1), np.full(len(time), -1), np.full(len(time), np.nan))
    begin = np.cumsum(walks.length) - walks.length  # metres driven until each row, all pieces in a row
    ends = np.flatnonzero(np.r_[walks.starts[1:], True])
    knots = [(walks.journey, walks.entered_at, begin),
             (walks.journey[ends], walks.left_at[ends], begin[ends] + walks.length[ends])]
    if points is not None and segment is not None and offset is not None:
        seen = np.flatnonzero(segment >= 0)
        row = _at(walks.journey, walks.entered_at, points.trip[seen], points.time[seen])
        same = (walks.segment[row] == segment[seen]) & (points.time[seen] <= walks.left_at[row])
        seen, row = seen[same], row[same]
        on = np.clip(offset[seen] - walks.offset[row], 0, walks.length[row])
        knots.append((points.trip[seen], points.time[seen], begin[row] + on))
    of, at, along = (np.concatenate(column) for column in zip(*knots, strict=True))
    order = np.lexsort((along, at, of))
    of, at, along = of[order], at[order], np.maximum.accumulate(along[order])
    row = _at(walks.journey, walks.entered_at, journey, time)
    known = (row >= 0) & (walks.journey[row] == journey) & (time <= walks.left_at[row])
    row = np.where(known, row, 0)
    before = np.clip(_at(of, at, journey, time), 0, len(at) - 1)
    after = np.minimum(before + 1, len(at) - 1)
    spent = np.where(of[after] == of[before], at[after] - at[before], 0.0)
    share = np.where(spent > 0, (time - at[before]) / np.where(spent > 0, spent, 1.0), 0.0)
    gone = along[before] + np.clip(share, 0, 1) * (along[after] - along[before])
    found = walks.offset[row] + np.clip(gone - begin[row], 0, walks.length[row])
    return Recovered(np.where(known, row, -1), np.where(known, walks.segment[row], -1), np.where(known, found, np.nan))


def places_of(roads: Roads, recovered: Recovered) -> np.ndarray:
    """Places ``[q, 2]`` in the coordinates of the map; NaN where there is none."""
    known = recovered.row >= 0
    place = np.full((len(known), 2), np.nan)
    place[known] = roads.locate(recovered.segment[known], recovered.offset[known])
    return place


def _at(trip: np.ndarray, time: np.ndarray, of: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Position of the last of sorted ``(trip, time)`` not after each ``(of, at)``; -1 where there is none."""
    count = len(trip)
    asks = np.repeat([False, True], [count, len(of)])
    order = np.lexsort((asks, np.r_[time, at], np.r_[trip, of]))
    rank = np.cumsum(~asks[order]) - 1
    found = np.empty(len(of), np.int64)
    questions = asks[order]
    found[order[questions] - count] = rank[questions]
    return found
