"""Descriptors of a city's nodes, fitted on given rows only (the training part, or the days that are given).

The **profile** of a node is what it usually shows at a slot of the day and week. For a row that is itself among the
fitted rows its own reading is left out: each slot has one row a day, so this leaves the row's own day out. With the
plain mean the reading leaks into its own feature and a model learns to trust it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy import sparse

from stgraph.errors import InputError
from stgraph.graph.signal import Signal
from stgraph.graph.time import TimeAxis

_CHUNK_BYTES = 2 * 2**20


class Context:
    """What the fitted rows tell of a signal; all arrays are in SI units.

    Args:
        signal: The series ``[T, N, C]``.
        time: Its time axis.
        start: First fitted row.
        stop: Row after the last fitted row; nothing outside ``start .. stop - 1`` is read.
        shrinkage: Two pseudo-counts, more than 0. The first pulls the mean of a slot on days of one kind (Monday to
            Friday, or the weekend) toward the mean of that slot on all days; the second pulls the mean of the slot
            of the week toward that of its kind of day. The defaults were chosen on validation parts.

    Attributes:
        count: ``[N, C]`` observed readings.
        mean, deviation: ``[C]`` over all observed entries.
        level: ``[N, C]`` mean of each node (the channel's mean for a node without any reading).
        scale: ``[N, C]`` standard deviation of each node about its level.

    Raises:
        InputError: where no entry of a channel is observed.
    """

    def __init__(self, signal: Signal, time: TimeAxis, start: int, stop: int,
                 shrinkage: tuple[float, float] = (0.5, 8.0)) -> None:
        self.signal, self.time, self.start, self.stop, self.shrinkage = signal, time, start, stop, shrinkage
        _, nodes, channels = signal.shape
        self.slots = time.slots_per_day
        slot, weekday, _ = time.calendar()
        self._places = (weekday * self.slots + slot).astype(np.int32)  # slot of the week of every row of the axis
        self._sum = np.zeros((7 * self.slots, nodes, channels), np.float32)
        self._count = np.zeros_like(self._sum)
        total, square, self.count = np.zeros((3, nodes, channels))
        for rows, values, mask in self._chunks():
            seen = np.where(mask, values, 0).astype(np.float32, copy=False)
            self._add(self._places[rows], seen, mask)
            total += seen.sum(0, dtype=np.float64)
            square += np.square(seen, dtype=np.float64).sum(0)
            self.count += mask.sum(0)
        if not self.count.sum(0).all():
            empty = signal.channel_names[int(np.argmin(self.count.sum(0)))]
            raise InputError("no reading is observed in the rows to learn from", field=empty,
                             value=f"rows {start} to {stop - 1}", remedy="use more data or leave the channel out")
        mean = total.sum(0) / self.count.sum(0)
        self.mean = mean.astype(np.float32)
        variance = np.maximum(square.sum(0) / self.count.sum(0) - mean**2, 0)
        self.deviation = np.sqrt(variance).astype(np.float32)
        self.deviation[self.deviation < 1e-6 * np.maximum(1, np.abs(self.mean))] = 1.0  # a constant series
        level = np.where(self.count > 0, total / np.maximum(self.count, 1), mean)
        self.level = level.astype(np.float32)
        variance = np.maximum(square / np.maximum(self.count, 1) - level**2, 0)
        self.scale = self._above_nothing(np.sqrt(variance))

    @cached_property
    def spread(self) -> np.ndarray:
        """``[N, C]`` root mean square of each node's departures from its profile."""
        square = np.zeros_like(self.level, dtype=np.float64)
        for rows, values, mask in self._chunks():
            departure = np.where(mask, values - self.profile(rows, (values, mask)), 0)
            square += np.square(departure, dtype=np.float64).sum(0)
        return self._above_nothing(np.sqrt(square / np.maximum(self.count, 1)))

    def profile(self, rows: np.ndarray, readings: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """The usual value at rows of any shape ``[...]``, each row's own reading left out: ``[..., N, C]`` float32.

        A slot of the week never seen shows that slot on days of its kind, else on any day, else the node's level.

        Args:
            rows: Rows; those outside the axis are allowed.
            readings: Values and mask ``[..., N, C]`` of these rows where they were read already.
        """
        rows = np.asarray(rows)
        usual, base, weight = self._tables
        places = self._place(rows)
        result = np.take(usual, places, axis=0)
        own = (rows >= self.start) & (rows < self.stop)
        if own.all() and rows.size:
            values, mask = self._read(rows) if readings is None else readings
            without = np.take(weight, places, axis=0)
            without *= values
            np.subtract(np.take(base, places, axis=0), without, out=without)
            np.copyto(result, without, where=mask)
        elif own.any():
            part = None if readings is None else (readings[0][own], readings[1][own])
            result[own] = self.profile(rows[own], part)
        return result

    def slot_mean(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Plain mean of (node, slot of the week) over the fitted rows, and of how many readings, ``[..., N, C]``.

        Where the count is 0 the mean is that of the slot of the day, else the node's level. A fitted row's own
        reading is left out; where it was the only one, the node's level stands.
        """
        rows = np.asarray(rows)
        places = self._place(rows)
        mean, count = np.take(self._slot_means, places, axis=0), np.take(self._count, places, axis=0)
        own = (rows >= self.start) & (rows < self.stop)
        if own.any():
            values, mask = self._read(rows[own])
            rest = count[own] - mask
            without = (mean[own] * count[own] - np.where(mask, values, 0)) / np.maximum(rest, 1)
            level = np.broadcast_to(self.level, without.shape)
            mean[own] = np.where(mask, np.where(rest > 0, without, level), mean[own])
            count[own] = rest
        return mean, count

    def day_profile(self) -> np.ndarray:
        """Mean of each slot of the day, ``[slots, N, C]`` float32; an empty slot gives the node's level."""
        total, count = self._by_day
        return np.where(count > 0, total / np.maximum(count, 1), self.level)

    # ---------------------------------------------------------------- tables by slot of the week
    @property
    def _by_day(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum and count of each slot of the day, ``[slots, N, C]``."""
        shape = (7, self.slots, *self.level.shape)
        return self._sum.reshape(shape).sum(0), self._count.reshape(shape).sum(0)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three tables ``[7 * slots, N, C]``: the profile, and ``base``, ``weight`` of the profile without a reading.

        Without the reading ``v`` the sums become ``sum - v`` and the counts ``count - 1``, so what is left is a
        straight line in ``v``: ``base - weight * v``.
        """
        shape = (7, self.slots, *self.level.shape)
        total, count = self._sum.reshape(shape), self._count.reshape(shape)
        everyday = self._every_day()
        tables = np.empty((3, *shape), np.float32)
        for days in (slice(0, 5), slice(5, 7)):
            alike = _pool(total[days].sum(0), count[days].sum(0), everyday, self.shrinkage[0])
            for weekday in range(7)[days]:
                tables[:, weekday] = _pool(total[weekday], count[weekday], alike, self.shrinkage[1])
        usual, base, weight = tables.reshape(3, *self._sum.shape)
        return usual, base, weight

    def _every_day(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean of the slot of the day, and ``base``, ``weight`` of the mean without one reading: ``[slots, N, C]``."""
        total, count = self._by_day
        rest = np.maximum(count - 1, 1)
        return (self.day_profile(), np.where(count > 1, total / rest, self.level),
                np.where(count > 1, 1 / rest, 0).astype(np.float32))

    @cached_property
    def _slot_means(self) -> np.ndarray:
        fallback = np.tile(self.day_profile(), (7, 1, 1))
        return np.divide(self._sum, self._count, out=fallback, where=self._count > 0)

    def _above_nothing(self, scale: np.ndarray) -> np.ndarray:
        """Scales ``[N, C]`` that are safe to divide by, for dead and constant nodes too."""
        return np.maximum(scale.astype(np.float32), 1e-3 * self.deviation)

    # ---------------------------------------------------------------- reading
    def _place(self, rows: np.ndarray) -> np.ndarray:
        """Slot of the week of each row; rows outside the axis are read off the calendar."""
        if rows.size and rows.min() >= 0 and rows.max() < self.time.length:
            return self._places[rows]
        slot, weekday, _ = self.time.calendar(rows.reshape(-1))
        return (weekday * self.slots + slot).reshape(rows.shape)

    def _add(self, places: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
        """Add rows to the sums and counts of their places; a place may come more than once."""
        unique, inverse = np.unique(places, return_inverse=True)
        ones, columns = np.ones(len(places), np.float32), np.arange(len(places))
        gather = sparse.csr_array((ones, (inverse, columns)), shape=(len(unique), len(places)))
        shape = (len(unique), *self._sum.shape[1:])
        self._sum[unique] += (gather @ values.reshape(len(places), -1)).reshape(shape)
        self._count[unique] += (gather @ mask.reshape(len(places), -1).astype(np.float32)).reshape(shape)

    def _chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        row_bytes = max(1, int(np.prod(self.signal.shape[1:])) * 4)
        size = max(1, _CHUNK_BYTES // row_bytes)
        for first in range(self.start, self.stop, size):
            last = min(first + size, self.stop)
            yield np.arange(first, last), *self.signal.read(first, last)

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask of fitted rows ``[...]``, which need not be in order."""
        unique, inverse = np.unique(rows, return_inverse=True)
        starts = np.flatnonzero(np.diff(unique, prepend=-2) != 1)
        parts = [self.signal.read(int(run[0]), int(run[-1]) + 1) for run in np.split(unique, starts[1:])]
        values, mask = (np.concatenate(part) for part in zip(*parts, strict=True))
        return values[inverse.reshape(rows.shape)], mask[inverse.reshape(rows.shape)]


def _pool(total: np.ndarray, count: np.ndarray, wider: tuple[np.ndarray, np.ndarray, np.ndarray], pull: float
          ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mean pulled toward one of more days, and ``base``, ``weight`` of the same without one reading."""
    usual, base, weight = wider
    others = np.maximum(count - 1, 0) + pull
    return (total + pull * usual) / (count + pull), (total + pull * base) / others, (1 + pull * weight) / others
