"""Moves from a segment to a segment that starts where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stgraph.roads.network import Roads


def make_turns(tail: np.ndarray, head: np.ndarray, line_ptr: np.ndarray, line_xy: np.ndarray, reverse: np.ndarray,
               metric: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All moves from one segment to the next, before turn restrictions.

    Turning back onto the same street (``reverse``) is no move, except at the end of a dead end, where it is the only
    way on: there it stays, because a way over turns that enters a cul-de-sac has to come out of it again.

    Args:
        tail: Junction where each segment starts, ``[S]`` int64 positions.
        head: Junction where each segment ends, ``[S]``.
        line_ptr: ``[S + 1]``; the line of segment ``s`` is ``line_xy[line_ptr[s]:line_ptr[s + 1]]``, two points or
            more.
        line_xy: ``[P, 2]`` degrees, longitude first, or metres where ``metric``.
        reverse: Segment along the same line in the other direction, ``[S]``, -1 where there is none.
        metric: Whether coordinates are plain metres.

    Returns:
        ``turn_index [2, K]`` int64, sorted by the first segment, then by the second; ``turn_angle [K]`` float32, the
        change of heading in degrees, left positive, in (-180, 180]; 0 where a segment has no extent.
    """
    count = len(tail)
    tail, head = np.asarray(tail, np.int64), np.asarray(head, np.int64)
    leaving = np.argsort(tail, kind="stable")
    junctions = int(max(tail.max(initial=-1), head.max(initial=-1))) + 1
    start = np.searchsorted(tail[leaving], np.arange(junctions + 1))
    ways = np.diff(start)[head]
    source = np.repeat(np.arange(count), ways)
    rank = np.arange(len(source)) - np.repeat(np.cumsum(ways) - ways, ways)
    target = leaving[start[head[source]] + rank]
    onward = target != reverse[source]
    dead_end = np.bincount(source[onward], minlength=count) == 0
    keep = onward | dead_end[source]
    source, target = source[keep], target[keep]
    first, last = leg_directions(line_ptr, line_xy, metric)
    change = first[target] - last[source]
    angle = np.nan_to_num(change - 360.0 * np.rint(change / 360.0)).astype(np.float32)
    angle[angle <= -180.0] = 180.0
    return np.stack([source, target]), angle


def consecutive(tail: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Every pair of a segment and one that starts at its end, back along the same street too, ``[2, K]``.

    Args:
        tail: Junction where each segment starts, ``[S]``.
        head: Junction where each segment ends, ``[S]``.
    """
    junctions = int(max(tail.max(initial=-1), head.max(initial=-1))) + 1
    order = np.argsort(tail, kind="stable")
    start = np.searchsorted(tail[order], np.arange(junctions + 1))
    ways = np.diff(start)[head]
    rank = np.arange(ways.sum()) - np.repeat(np.cumsum(ways) - ways, ways)
    return np.stack([np.repeat(np.arange(len(tail)), ways), order[np.repeat(start[head], ways) + rank]])


def forbidden_moves(roads: Roads) -> tuple[np.ndarray, np.ndarray]:
    """Moves from a segment to one that starts at its end: those that restrictions forbid, and the others.

    Turning back onto the same street counts among the others. Where the turns of a network are not known, nothing is
    forbidden.

    Returns:
        Two arrays ``[2, *]`` int64.
    """
    moves = consecutive(roads.tail, roads.head)
    if roads.alive is not None:
        moves = moves[:, roads.alive[moves].all(0)]
    if not roads.turn_index.shape[1]:
        return moves[:, :0], moves
    forbidden = ~permits(roads, *moves)
    return moves[:, forbidden], moves[:, ~forbidden]


def permits(roads: Roads, segment: np.ndarray, onward: np.ndarray) -> np.ndarray:
    """Whether moves from segments to the next ``[n]`` are permitted, or turn back onto the same street; bool."""
    count = len(roads.tail)
    known = np.sort(roads.turn_index[0] * count + roads.turn_index[1])
    wanted = segment * count + onward
    at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    found = known[at] == wanted if len(known) else np.ones(len(wanted), bool)
    return np.asarray(found | (roads.reverse[segment] == onward))


def leg_directions(line_ptr: np.ndarray, line_xy: np.ndarray, metric: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Direction of the first and of the last leg of each line, ``[S]`` degrees counter-clockwise from east.

    Legs without extent are passed over; NaN where a line has no other.
    """
    first, last = line_ptr[:-1], line_ptr[1:] - 2
    return (_directions(first, last, 1, line_xy, metric), _directions(last, first, -1, line_xy, metric))


def _directions(leg: np.ndarray, final: np.ndarray, way: int, line_xy: np.ndarray, metric: bool) -> np.ndarray:
    """Direction of the first leg with extent, looking from ``leg`` to ``final`` in steps of ``way``."""
    directions = np.full(len(leg), np.nan)
    rows = np.arange(len(leg))
    while len(rows):
        here = leg[rows]
        east, north = (line_xy[here + 1] - line_xy[here]).T
        if not metric:
            east -= 360.0 * np.rint(east / 360.0)  # the short way round the globe
            east *= np.cos(np.radians(line_xy[here, 1]))
        moves = (east != 0.0) | (north != 0.0)
        directions[rows[moves]] = np.degrees(np.arctan2(north[moves], east[moves]))
        rows = rows[~moves & (here != final[rows])]
        leg = leg + way
    return directions
