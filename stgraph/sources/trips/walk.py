"""From the likeliest place of each point to the ordered, connected walk of segments with times."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stgraph.roads.network import Roads
from stgraph.roads.routing import RoutingCells, RoutingTable

TOUCH = 0.01  # m; less of a segment is only its junction


@dataclass(frozen=True)
class Places:
    """Where each of ``n`` points, one at least, was matched; in driving order, pieces one after the other.

    Attributes:
        begins: ``[n]`` whether a new piece begins at the point.
        time: ``[n]`` s.
        segment: ``[n]`` int64.
        offset: ``[n]`` m after its start.
        confidence: ``[n]`` probability of the segment.
        joint: ``[n]`` probability of the move from the point before; not used where a piece begins.
        backward: m, how far a place may slip back on its segment without a way around.
    """

    begins: np.ndarray
    time: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    confidence: np.ndarray
    joint: np.ndarray
    backward: float


@dataclass(frozen=True)
class Walk:
    """Segments driven, ``w`` rows in order of piece and time.

    Attributes:
        piece: ``[w]`` number of the piece, from 0.
        segment: ``[w]`` int64; the head of one is the tail of the next of the same piece.
        entered_at: ``[w]`` s; at the start of a piece the time of its first point.
        length: ``[w]`` m driven on it.
        confidence: ``[w]`` the largest probability of the points matched to it here; without points, of the move that
            passes over it.
    """

    piece: np.ndarray
    segment: np.ndarray
    entered_at: np.ndarray
    length: np.ndarray
    confidence: np.ndarray


def walk_of(roads: Roads, places: Places, table: RoutingTable | RoutingCells) -> tuple[Walk, Places]:
    """Join the places of points by shortest ways and say when each segment was entered.

    Between two points the vehicle is taken to drive at one speed. A piece does not begin or end with a segment of which
    only the junction was touched: points there are moved to the segment beyond the junction, hence places are returned.
    """
    row, segment, confidence = _sequence(roads, places, table)
    places, row, kept = _without_touched_ends(roads, places, row, segment)
    segment, confidence = segment[kept], confidence[kept]
    first = np.flatnonzero(places.begins)
    last = np.append(first[1:], len(places.time)) - 1
    piece = np.repeat(np.arange(len(first)), row[last] - row[first] + 1)
    length = roads.length[segment]
    entry = np.cumsum(length) - length  # m driven until there, all pieces in a row
    position = np.maximum.accumulate(entry[row] + places.offset)  # slipping back is standing still
    driven = np.minimum(entry + length, position[last][piece]) - np.maximum(entry, position[first][piece])
    return Walk(piece, segment, _entry_times(places.time, position, entry, first[piece]), np.maximum(driven, 0.0),
                confidence), places


def _without_touched_ends(roads: Roads, places: Places, row: np.ndarray, segment: np.ndarray
                          ) -> tuple[Places, np.ndarray, np.ndarray]:
    """Places and rows of points without first and last segments that were not driven; and which rows ``[w]`` stay."""
    first = np.flatnonzero(places.begins)
    last = np.append(first[1:], len(row)) - 1
    single = row[first] == row[last]
    late = first[~single & (places.offset[first] >= roads.length[places.segment[first]] - TOUCH)]
    farthest = np.zeros(len(segment))
    np.maximum.at(farthest, row, places.offset)
    early = last[~single & (farthest[row[last]] <= TOUCH)]
    early = early[~np.isin(row[early] - 1, row[late])]  # one segment stays in any case
    kept = np.ones(len(segment), bool)
    kept[row[late]] = kept[row[early]] = False
    on = row + np.isin(row, row[late]) - np.isin(row, row[early])
    moved = on != row
    offset = np.where(moved, np.where(on > row, 0.0, roads.length[segment[on]]), places.offset)
    places = replace(places, segment=segment[on], offset=offset)
    return places, (np.cumsum(kept) - 1)[on], kept


def _sequence(roads: Roads, places: Places, table: RoutingTable | RoutingCells
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row of the walk of each point ``[n]``, and the segment and confidence of each row."""
    count = len(places.segment)
    stays = np.zeros(count, bool)
    stays[1:] = (places.segment[1:] == places.segment[:-1]) \
        & (places.offset[1:] - places.offset[:-1] >= -places.backward) & ~places.begins[1:]
    moves = np.flatnonzero(~stays & ~places.begins)
    links = table.links
    ptr, passed = table.paths(links.head[places.segment[moves - 1]], links.tail[places.segment[moves]])
    between = np.zeros(count, np.int64)
    between[moves] = np.diff(ptr)
    row = np.cumsum(between + ~stays) - 1
    enters = np.flatnonzero(~stays)
    segment = np.full(row[-1] + 1, -1, np.int64)
    confidence = np.empty(len(segment))
    segment[row[enters]] = places.segment[enters]
    confidence[row[enters]] = np.maximum.reduceat(places.confidence, enters)
    gaps = np.flatnonzero(segment < 0)
    segment[gaps] = passed
    confidence[gaps] = np.repeat(places.joint[moves], between[moves])
    return row, segment, confidence


def _entry_times(time: np.ndarray, position: np.ndarray, entry: np.ndarray, first: np.ndarray) -> np.ndarray:
    """When positions ``entry`` were first reached, each in the piece whose first point is ``first``."""
    after = np.maximum(np.searchsorted(position, entry, side="left"), first)
    before = np.maximum(after - 1, first)
    way = position[after] - position[before]
    share = np.clip((entry - position[before]) / np.where(way > 0, way, 1.0), 0.0, 1.0)
    return time[before] + share * (time[after] - time[before])
