"""Counts, speeds, transitions and origin-destination pairs of walks, sparse until asked to be dense.

What is kept grows with the different keys, (segment, bin) and the like, and not with segments x bins nor with trips.
A traversal belongs to the bin in which its segment was entered. One vehicle that stops on a segment and drives on is
one traversal; metres and seconds are those of driving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stgraph.errors import InputError
from stgraph.graph.signal import Channel, Signal
from stgraph.graph.time import DAY, TimeAxis, zone
from stgraph.sources.trips.journeys import Walks

MOST_ENTRIES = 1 << 28  # of a dense signal
_MERGE = 1 << 18  # rows that wait to be merged, at least


@dataclass(frozen=True)
class Bins:
    """Time bins of equal length: ``[phase + k * step, phase + (k + 1) * step)``.

    Where a change of the clock would push such bins off it, they follow the clock, as those of events do
    (:func:`stgraph.sources.events.hyperedges.time_bins`): a day is then 23, 24 or 25 hours long.

    Args:
        step: Length of a bin, s.
        phase: Any start of a bin, seconds since 1970-01-01 UTC.
        tz: Zone whose clock the bins were laid on.
    """

    step: int
    phase: int = 0
    tz: str = "UTC"

    @property
    def follow(self) -> bool:
        """Whether the clock of the zone may push bins off it; the least that clocks are changed by is half an hour."""
        return bool(1800 % self.step) and zone(self.tz) != zone("UTC")

    @classmethod
    def on_clock(cls, step: int, tz: str, utc: float) -> Bins:
        """Bins that start on the full step of the local clock, as it is at an instant: days start at midnight."""
        zone(tz)
        at = int(np.floor(utc))
        return cls(step, -(int(TimeAxis(0, 1, 0, tz).local(np.array([at]))[0]) - at) % step, tz)

    def start(self, utc: np.ndarray) -> np.ndarray:
        """Start of the bin of each instant, ``[n]`` int64 seconds UTC.

        Raises:
            InputError: for bins of several days in a zone whose clock changes between the instants.
        """
        if self.follow and self.step <= DAY and len(utc):
            axis, row = self._laid(np.floor(utc).astype(np.int64))
            return axis.times(row)
        start = np.asarray(np.floor((np.asarray(utc, np.float64) - self.phase) / self.step).astype(np.int64)
                           * self.step + self.phase)
        if self.follow and (TimeAxis(0, 1, 0, self.tz).local(start) % DAY).any():
            raise InputError("steps of several days do not stay on the clock of a zone with summer time",
                             field="interval", value=f"{self.step // DAY} days in {self.tz}",
                             remedy="give --interval 1D, or --tz UTC: such steps have no time of day")
        return start

    def end(self, start: np.ndarray) -> np.ndarray:
        """End of the bins that start at ``[n]``, seconds UTC."""
        if self.follow and self.step <= DAY and len(start):
            axis, row = self._laid(np.append(start, start.max() + 2 * self.step))  # the clock may change in the last
            return axis.times(row[:-1] + 1)
        return start + self.step

    def axis(self, first: int, last: int) -> TimeAxis:
        """The axis from one start of a bin to another, both included."""
        if self.follow and self.step <= DAY:
            axis, row = self._laid(np.array([first, last]))
            return axis.slice(int(row[0]), int(row[1]) + 1)
        return TimeAxis(first, self.step, (last - first) // self.step + 1, self.tz)

    def _laid(self, utc: np.ndarray) -> tuple[TimeAxis, np.ndarray]:
        from stgraph.sources.events.hyperedges import time_bins

        return time_bins(utc, self.step, self.tz)


class SparseSums:
    """Sums of values by whole-number keys.

    Args:
        keys: How many numbers make a key.
        values: How many values are summed.
    """

    def __init__(self, keys: int, values: int) -> None:
        self._keys, self._values = np.empty((0, keys), np.int64), np.empty((0, values))
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._size = 0

    def add(self, keys: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> None:
        """Add rows: the numbers of their keys ``[n]`` each, and their values ``[n]`` each."""
        merged = _merge(np.column_stack(keys).astype(np.int64, copy=False),
                        np.column_stack(values).astype(np.float64, copy=False))
        self._waiting.append(merged)
        self._size += len(merged[0])
        if self._size > max(_MERGE, len(self._keys)):
            self._settle()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys ``[rows, keys]`` int64 in ascending order, and their sums ``[rows, values]`` float64."""
        self._settle()
        return self._keys, self._values

    def _settle(self) -> None:
        if self._waiting:
            keys, values = zip((self._keys, self._values), *self._waiting, strict=True)
            self._keys, self._values = _merge(np.concatenate(keys), np.concatenate(values))
            self._waiting, self._size = [], 0


def _merge(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort(keys.T[::-1])
    keys = keys[order]
    first = np.flatnonzero(np.r_[True, (np.diff(keys, axis=0) != 0).any(1)][:len(keys)])
    if not len(first):
        return keys, values
    return keys[first], np.add.reduceat(values[order], first, axis=0)


@dataclass(frozen=True)
class Traffic:
    """Traversals of segments by time bin, ``r`` rows, sorted by segment and bin.

    Args:
        segment: ``[r]`` int64.
        bin: ``[r]`` int64, start of the bin, seconds UTC.
        count: ``[r]`` int64 traversals entered in the bin.
        distance: ``[r]`` metres driven on these traversals.
        duration: ``[r]`` seconds spent on them.
    """

    segment: np.ndarray
    bin: np.ndarray
    count: np.ndarray
    distance: np.ndarray
    duration: np.ndarray

    @property
    def speed(self) -> np.ndarray:
        """``[r]`` space-mean speed, all metres over all seconds, m/s; NaN where no time was spent."""
        return _ratio(self.distance, self.duration)


@dataclass(frozen=True)
class Transitions:
    """Moves from a segment to the next by time bin, ``r`` rows, sorted by segment, next segment and bin.

    Args:
        segment: ``[r]`` int64.
        then: ``[r]`` int64, the segment driven next.
        bin: ``[r]`` int64, start of the bin in which the first segment was entered, seconds UTC.
        count: ``[r]`` int64.
        travel_time: ``[r]`` seconds from the start of the first segment to that of the next, at the space-mean speed
            of these traversals; NaN where they took no time.
    """

    segment: np.ndarray
    then: np.ndarray
    bin: np.ndarray
    count: np.ndarray
    travel_time: np.ndarray


@dataclass(frozen=True)
class Flows:
    """Journeys from junction to junction by time bin, ``r`` rows, sorted by origin, destination and bin.

    Args:
        origin: ``[r]`` int64, the junction where the first segment starts.
        destination: ``[r]`` int64, the junction where the last segment ends.
        bin: ``[r]`` int64, start of the bin in which the journey began, seconds UTC.
        count: ``[r]`` int64.
    """

    origin: np.ndarray
    destination: np.ndarray
    bin: np.ndarray
    count: np.ndarray


class Aggregates:
    """Collects walks, block by block.

    Args:
        bins: The time bins.
        length: ``[S]`` metres, of every segment.
        tail: ``[S]`` junction where each segment starts.
        head: ``[S]`` junction where each segment ends.
    """

    def __init__(self, bins: Bins, length: np.ndarray, tail: np.ndarray, head: np.ndarray) -> None:
        self.bins, self._length, self._tail, self._head = bins, length, tail, head
        self._traffic, self._then, self._flows = SparseSums(2, 3), SparseSums(3, 3), SparseSums(3, 1)

    def add(self, walks: Walks, resumed: np.ndarray | None = None) -> None:
        """Add whole journeys.

        Args:
            walks: Their walks.
            resumed: Rows that go on with the traversal of the row before ``[w]``; None for none.
        """
        if not len(walks):
            return
        begins, spent, one = self.bins.start(walks.entered_at), walks.left_at - walks.entered_at, np.ones(len(walks))
        again = np.zeros(len(walks), bool) if resumed is None else resumed
        start = begins[np.maximum.accumulate(np.where(again, 0, np.arange(len(walks))))]  # where it was entered
        self._traffic.add((walks.segment, start), (one - again, walks.length, spent))
        on = np.flatnonzero(~walks.starts) - 1  # rows that another one of their piece follows
        self._then.add((walks.segment[on], walks.segment[on + 1], start[on]), (one[on], walks.length[on], spent[on]))
        first = np.flatnonzero(np.r_[True, np.diff(walks.journey) != 0])
        last = np.r_[first[1:] - 1, len(walks) - 1]
        ends = self._tail[walks.segment[first]], self._head[walks.segment[last]]
        self._flows.add((*ends, begins[first]), (one[first],))

    def traffic(self) -> Traffic:
        """Traversals by segment and bin."""
        keys, sums = self._traffic.result()
        return Traffic(keys[:, 0], keys[:, 1], _whole(sums[:, 0]), sums[:, 1], sums[:, 2])

    def transitions(self) -> Transitions:
        """Moves from segment to segment by bin."""
        keys, sums = self._then.result()
        time = self._length[keys[:, 0]] * _ratio(sums[:, 2], sums[:, 1])
        return Transitions(keys[:, 0], keys[:, 1], keys[:, 2], _whole(sums[:, 0]), time)

    def flows(self) -> Flows:
        """Journeys by origin, destination and bin."""
        keys, sums = self._flows.result()
        return Flows(keys[:, 0], keys[:, 1], keys[:, 2], _whole(sums[:, 0]))


def traffic_signal(traffic: Traffic, bins: Bins, segments: np.ndarray,
                   penetration: float | None = None) -> tuple[Signal, TimeAxis]:
    """Traffic as a dense signal of some segments, from the first bin to the last.

    Args:
        traffic: Counts by segment and bin.
        bins: The bins they were counted in.
        segments: ``[N]`` int64 ascending; rows of other segments are left out.
        penetration: Share of all vehicles that were recorded, 0 to 1; gives the channel ``flow``.

    Returns:
        A signal ``[T, N, C]`` and its axis. Channels: ``count`` (of recorded vehicles, observed everywhere), ``speed``
        (space mean, m/s, observed where one drove), and ``flow`` of all vehicles (veh/h) where ``penetration`` is
        given.

    Raises:
        InputError: where there is no traffic, the signal would be too large, or the share is out of range.
    """
    if penetration is not None and not 0 < penetration <= 1:
        raise InputError("out of range", field="penetration", value=penetration,
                         remedy="give a share above 0, at most 1")
    if not len(traffic.bin):
        raise InputError("nothing was driven", field="signals", remedy="leave out --signals")
    axis = bins.axis(int(traffic.bin.min()), int(traffic.bin.max()))
    channels = [Channel("count", "count"), Channel("speed", "speed", "m/s")]
    if penetration is not None:
        channels.append(Channel("flow", "flow", "veh/h"))
    shape = (axis.length, len(segments), len(channels))
    if int(np.prod(shape, dtype=object)) > MOST_ENTRIES:
        raise InputError(f"the signal would have {shape[0]} bins x {shape[1]} segments", field="signals",
                         value=f"{shape[0] * shape[1] * shape[2]} entries",
                         remedy="give a longer --interval, take fewer days, or leave out --signals: the table "
                                "'traffic' of the bundle holds the same numbers")
    column = np.searchsorted(segments, traffic.segment)
    kept = column < len(segments)
    kept[kept] = segments[column[kept]] == traffic.segment[kept]
    place = axis.row_of(traffic.bin[kept]), column[kept]
    values, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
    mask[..., [0, *range(2, shape[2])]] = True
    values[(*place, 0)] = traffic.count[kept]
    speed = traffic.speed[kept]
    values[(*place, 1)], mask[(*place, 1)] = np.nan_to_num(speed), np.isfinite(speed)
    if penetration is not None:
        start = axis.times()
        values[..., 2] = values[..., 0] / penetration * (3600 / (bins.end(start) - start))[:, None]
    return Signal(values, mask, channels), axis


def _whole(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int64)


def _ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.divide(one, other, out=np.full(len(one), np.nan), where=other > 0)
