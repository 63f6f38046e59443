"""Cleaning of GPS points: jumps, stops, gaps, what is too short; pure functions over arrays of whole trips.

Rows of one trip (or part of a trip) stand together and are in the order of time. Places are metres.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from stgraph.errors import InputError


@dataclass(frozen=True)
class CleanSettings:
    """Rules of cleaning. A rule whose number is 0 is not applied.

    Args:
        max_speed: Fastest that a vehicle moves, m/s.
        slack: How far two points may be apart beyond that because of their noise, m.
        max_gap: Longest time between two points of one part of a trip, s.
        stop_radius: Within how many metres a vehicle stands, m.
        stop_time: For how long, to be a stop, s.
        min_points: Fewest points of a part; at least 2.
        min_length: Smallest extent of a part (diagonal of its bounding box), m.

    Raises:
        InputError: for a number out of range.
    """

    max_speed: float = 60.0
    slack: float = 100.0
    max_gap: float = 600.0
    stop_radius: float = 50.0
    stop_time: float = 300.0
    min_points: int = 2
    min_length: float = 50.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least = getattr(self, one.name), 2 if one.name == "min_points" else 0
            if not value >= least:
                raise InputError("out of range", field=one.name, value=value, remedy=f"give at least {least}")


@dataclass
class CleanNotes:
    """What cleaning did: counts of points, but for the splits and parts."""

    off_map: int = 0  # outside of the map
    jumps: int = 0  # points out of reach of both neighbours
    stop_points: int = 0  # points inside a stop, but for its first and last
    short: int = 0  # points of parts that are too short
    stops: int = 0
    split_at_stops: int = 0
    split_at_gaps: int = 0
    split_at_jumps: int = 0
    split_off_map: int = 0
    split_at_changes: int = 0  # of the column that splits
    single_points: int = 0  # trips or parts of one point
    short_parts: int = 0  # other parts with too few points, or too short

    def add(self, other: CleanNotes) -> None:
        """Add the counts of another block."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(frozen=True)
class Cleaned:
    """Points that are left, as parts of trips: ``m`` points of ``p`` parts.

    Args:
        keep: ``[m]`` int64 rows of the points given, ascending.
        part: ``[m]`` int64, ``0 .. p-1``; the points of a part stand together.
        notes: What was done.
    """

    keep: np.ndarray
    part: np.ndarray
    notes: CleanNotes


def clean(trip: np.ndarray, time: np.ndarray, xy: np.ndarray, cut: np.ndarray | None = None,
          off_map: np.ndarray | None = None, settings: CleanSettings | None = None) -> Cleaned:
    """Drop points that cannot be, and split trips where a vehicle stood, was not seen, or was elsewhere.

    In this order: jumps are dropped; then points off the map, where the trip is split; stops, where it is split
    between the first and the last point of the stop; it is split at gaps in time, and where a point is still out of
    reach of the one before; last, parts that are too short are dropped.

    Args:
        trip: ``[n]`` int64, the trip of each point.
        time: ``[n]`` seconds, strictly increasing within a trip.
        xy: ``[n, 2]`` metres.
        cut: ``[n]`` bool, where the source says that a new part begins; None for nowhere.
        off_map: ``[n]`` bool, points outside of the map; None for none.
        settings: The rules.
    """
    settings, notes = settings or CleanSettings(), CleanNotes()
    stretch = np.cumsum(_new(trip) | (np.zeros(len(trip), bool) if cut is None else cut))
    notes.split_at_changes = int((np.diff(stretch) != 0).sum() - (np.diff(trip) != 0).sum())
    bad = jumps(stretch, time, xy, settings.max_speed, settings.slack)
    notes.jumps = int(bad.sum())
    rows = np.flatnonzero(~bad)
    if off_map is not None and off_map.any():
        gone = off_map[rows]
        notes.off_map = int(gone.sum())
        inside = np.cumsum(np.r_[False, np.diff(gone) != 0][:len(rows)])[~gone]
        rows = rows[~gone]
        parted = np.r_[False, (np.diff(inside) != 0) & (np.diff(stretch[rows]) == 0)][:len(rows)]
        notes.split_off_map = int(parted.sum())
        stretch = np.cumsum(_new(stretch[rows]) | parted)
    else:
        stretch = stretch[rows]
    stop = stops(stretch, time[rows], xy[rows], settings.stop_radius, settings.stop_time)
    inner = (stop >= 0) & ~_new(stop) & ~_new(stop[::-1])[::-1]
    notes.stops, notes.stop_points = int(stop.max(initial=-1)) + 1, int(inner.sum())
    rows, stretch, stop = rows[~inner], stretch[~inner], stop[~inner]
    same = np.r_[False, np.diff(stretch) == 0][:len(rows)]
    stood = same & np.r_[False, (np.diff(stop) == 0) & (stop[1:] >= 0)][:len(rows)]
    gap = same & ~stood & (np.diff(time[rows], prepend=np.inf) > (settings.max_gap or np.inf))
    away = same & ~stood & ~gap & out_of_reach(stretch, time[rows], xy[rows], settings.max_speed, settings.slack)
    notes.split_at_stops, notes.split_at_gaps, notes.split_at_jumps = (int(one.sum()) for one in (stood, gap, away))
    part = np.cumsum(~same | stood | gap | away) - 1
    enough = _long_enough(part, xy[rows], settings, notes)
    notes.short = int((~enough).sum())
    return Cleaned(rows[enough], np.cumsum(_new(part[enough])) - 1, notes)


def out_of_reach(trip: np.ndarray, time: np.ndarray, xy: np.ndarray, max_speed: float, slack: float) -> np.ndarray:
    """``[n]`` bool: whether a point is further from the one before it in its trip than speed and slack allow."""
    if not max_speed or not len(trip):
        return np.zeros(len(trip), bool)
    far = np.hypot(*np.diff(xy, axis=0).T) > max_speed * np.diff(time) + slack
    return np.r_[False, far & (np.diff(trip) == 0)]


def jumps(trip: np.ndarray, time: np.ndarray, xy: np.ndarray, max_speed: float, slack: float) -> np.ndarray:
    """``[n]`` bool: points that are out of reach of both neighbours, while these are in reach of each other.

    Of several such points in a row every other one is a jump: the rest come into reach once those are gone.
    """
    found = np.zeros(len(trip), bool)
    if len(trip) < 3:
        return found
    away = out_of_reach(trip, time, xy, max_speed, slack)
    over = np.hypot(*(xy[2:] - xy[:-2]).T) <= max_speed * (time[2:] - time[:-2]) + slack
    found[1:-1] = away[1:-1] & away[2:] & over
    place = np.arange(len(found))
    begin = np.maximum.accumulate(np.where(found & ~np.r_[False, found[:-1]], place, 0))
    return found & ((place - begin) % 2 == 0)


def stops(trip: np.ndarray, time: np.ndarray, xy: np.ndarray, radius: float, duration: float) -> np.ndarray:
    """The stop that each point belongs to (stay points of Li et al., ACM GIS 2008), ``[n]`` int64, -1 for none.

    A point begins a stay if all points from it up to the first that is ``duration`` or more later are within
    ``radius`` of it; these points are the stay. Stays that overlap are one stop. Of a stay that has only one place
    where the vehicle was not seen for long, its two ends are the stop.
    """
    count = len(trip)
    none = np.full(count, -1, np.int64)
    if not radius or not duration or not count:
        return none
    last = np.arange(count)  # the last point of the stay that a point begins
    begins = np.zeros(count, bool)
    active, step = np.arange(count), 0
    while len(active):
        step += 1
        active = active[active + step < count]
        reached = active + step
        near = (trip[reached] == trip[active]) & (np.hypot(*(xy[reached] - xy[active]).T) <= radius)
        active, reached = active[near], reached[near]
        done = time[reached] - time[active] >= duration
        begins[active[done]], last[active[done]] = True, reached[done]
        active = active[~done]
    opened = np.bincount(np.flatnonzero(begins), minlength=count + 1)
    closed = np.bincount(last[begins] + 1, minlength=count + 1)
    inside = np.cumsum(opened - closed)[:count] > 0
    first = inside & (~np.r_[False, inside[:-1]] | _new(trip))
    return np.where(inside, np.cumsum(first) - 1, none)


def _long_enough(part: np.ndarray, xy: np.ndarray, settings: CleanSettings, notes: CleanNotes) -> np.ndarray:
    """``[n]`` bool: points of parts with enough points and a large enough extent."""
    if not len(part):
        return np.zeros(0, bool)
    first = np.flatnonzero(_new(part))
    size = np.diff(first, append=len(part))
    extent = np.hypot(*(np.maximum.reduceat(xy, first) - np.minimum.reduceat(xy, first)).T)
    enough = (size >= settings.min_points) & (extent >= settings.min_length)
    notes.single_points = int((size == 1).sum())
    notes.short_parts = int((~enough & (size > 1)).sum())
    return np.repeat(enough, size)


def _new(values: np.ndarray) -> np.ndarray:
    """``[n]`` bool: whether each value differs from the one before it; the first does."""
    return np.r_[True, np.diff(values) != 0][:len(values)]
