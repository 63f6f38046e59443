"""Descriptors of a city's nodes, fitted on given rows only (the training part, or the days that are given).

The **profile** of a node is what it usually shows at a slot of the day and week. For a row that is itself among the
fitted rows its own reading is left out: each slot has one row a day, so this leaves the row's own day out. With the
plain mean the reading leaks into its own feature and a model learns to trust it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stgraph.errors import InputError
from stgraph.graph.signal import Signal
from stgraph.graph.time import TimeAxis

_CHUNK_BYTES = 32 * 2**20


class Context:
    """What the fitted rows tell of a signal; all arrays are in SI units.

    Args:
        signal: The series ``[T, N, C]``.
        time: Its time axis.
        start: First fitted row.
        stop: Row after the last fitted row; nothing outside ``start .. stop - 1`` is read.
        shrinkage: Pseudo-counts that pull the mean of the slot of the week toward the mean of the slot of the day.

    Attributes:
        mean, deviation: ``[C]`` over all observed entries.
        level: ``[N, C]`` mean of each node (the channel's mean for a node without any reading).
        spread: ``[N, C]`` standard deviation of each node's departures from its profile.

    Raises:
        InputError: where no entry of a channel is observed.
    """

    def __init__(self, signal: Signal, time: TimeAxis, start: int, stop: int, shrinkage: float = 2.0) -> None:
        self.signal, self.time, self.start, self.stop, self.shrinkage = signal, time, start, stop, shrinkage
        _, nodes, channels = signal.shape
        self.slots = time.slots_per_day
        self._day_sum = np.zeros((self.slots, nodes, channels), np.float32)
        self._day_count = np.zeros((self.slots, nodes, channels), np.float32)
        self._week_sum = np.zeros((7 * self.slots, nodes, channels), np.float32)
        self._week_count = np.zeros((7 * self.slots, nodes, channels), np.float32)
        total, square = np.zeros((2, nodes, channels))
        count = np.zeros((nodes, channels))
        for rows, values, mask in self._chunks():
            slot, weekday, _ = time.calendar(rows)
            seen = np.where(mask, values, 0).astype(np.float32)
            np.add.at(self._day_sum, slot, seen)
            np.add.at(self._day_count, slot, mask)
            np.add.at(self._week_sum, weekday * self.slots + slot, seen)
            np.add.at(self._week_count, weekday * self.slots + slot, mask)
            total += seen.sum(0, dtype=np.float64)
            square += np.square(seen, dtype=np.float64).sum(0)
            count += mask.sum(0)
        if not count.sum(0).all():
            empty = signal.channel_names[int(np.argmin(count.sum(0)))]
            raise InputError("no reading is observed in the rows to learn from", field=empty,
                             value=f"rows {start} to {stop - 1}", remedy="use more data or leave the channel out")
        self.count = count
        mean = total.sum(0) / count.sum(0)
        self.mean = mean.astype(np.float32)
        variance = np.maximum(square.sum(0) / count.sum(0) - mean**2, 0)
        self.deviation = np.sqrt(variance).astype(np.float32)
        self.deviation[self.deviation < 1e-6 * np.maximum(1, np.abs(self.mean))] = 1.0  # a constant series
        self.level = np.where(count > 0, total / np.maximum(count, 1), mean).astype(np.float32)
        self.spread = self._spread()

    def profile(self, rows: np.ndarray) -> np.ndarray:
        """The usual value at rows of any shape ``[...]``, each row's own reading left out: ``[..., N, C]`` float32.

        A slot never seen falls back to the slot of the day, then to the node's level.
        """
        rows = np.asarray(rows)
        flat = rows.reshape(-1)
        slot, weekday, _ = self.time.calendar(flat)
        week = weekday * self.slots + slot
        day_sum, day_count = self._day_sum[slot], self._day_count[slot]
        week_sum, week_count = self._week_sum[week], self._week_count[week]
        own = np.flatnonzero((flat >= self.start) & (flat < self.stop))
        if own.size:
            low, high = int(flat[own].min()), int(flat[own].max()) + 1
            values, mask = self._read_rows(flat[own], low, high)
            day_sum[own] -= values
            day_count[own] -= mask
            week_sum[own] -= values
            week_count[own] -= mask
        day = np.where(day_count > 0.5, day_sum / np.maximum(day_count, 1), self.level)
        result = (week_sum + self.shrinkage * day) / (week_count + self.shrinkage)
        return result.reshape(*rows.shape, *self.level.shape)

    def slot_mean(self, rows: np.ndarray) -> np.ndarray:
        """Plain mean of (node, slot of the week) over the fitted rows ``[..., N, C]``: the usual control.

        A slot of the week never seen falls back to the slot of the day, then to the node's level. For rows outside
        the fitted ones only: a fitted row would see itself.
        """
        rows = np.asarray(rows)
        slot, weekday, _ = self.time.calendar(rows.reshape(-1))
        week = weekday * self.slots + slot
        day_count, week_count = self._day_count[slot], self._week_count[week]
        day = np.where(day_count > 0, self._day_sum[slot] / np.maximum(day_count, 1), self.level)
        result = np.where(week_count > 0, self._week_sum[week] / np.maximum(week_count, 1), day)
        return result.reshape(*rows.shape, *self.level.shape)

    def day_profile(self) -> np.ndarray:
        """Mean of each slot of the day, ``[slots, N, C]`` float32; an empty slot gives the node's level."""
        mean = self._day_sum / np.maximum(self._day_count, 1)
        return np.where(self._day_count > 0, mean, self.level).astype(np.float32)

    def _spread(self) -> np.ndarray:
        square = np.zeros_like(self.level, dtype=np.float64)
        for rows, values, mask in self._chunks():
            square += np.square(np.where(mask, values - self.profile(rows), 0), dtype=np.float64).sum(0)
        spread = np.sqrt(square / np.maximum(self.count, 1)).astype(np.float32)
        floor = 1e-3 * self.deviation  # a dead or constant sensor must not divide by nothing
        return np.maximum(spread, np.broadcast_to(floor, spread.shape))

    def _chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        row_bytes = max(1, int(np.prod(self.signal.shape[1:])) * 4)
        size = max(1, _CHUNK_BYTES // row_bytes)
        for first in range(self.start, self.stop, size):
            last = min(first + size, self.stop)
            yield np.arange(first, last), *self.signal.read(first, last)

    def _read_rows(self, rows: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self.signal.values, np.ndarray):
            values, mask = self.signal.values[rows], None if self.signal.mask is None else self.signal.mask[rows]
        elif high - low <= 4 * len(rows):
            block, seen = self.signal.read(low, high)
            values, mask = block[rows - low], seen[rows - low]
        else:
            parts = [self.signal.read(int(row), int(row) + 1) for row in rows]
            values, mask = (np.concatenate(part) for part in zip(*parts, strict=True))
        mask = np.ones(values.shape, bool) if mask is None else mask
        return np.where(mask, values, 0), mask
