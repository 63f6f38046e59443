"""Signals of several bundles on one time axis, by the rules of :mod:`stgraph.sources.merge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stgraph.errors import InputError
from stgraph.graph import Channel, Signal, TimeAxis
from stgraph.graph.time import DAY, seconds
from stgraph.sources.clock import HOUR, clock_instant

IN_MEMORY = 1 << 28
"""Bytes of a merged signal that is made at once; larger ones are made when rows are read."""
_BLOCK = 1 << 22  # entries looked at in one go


def common_axis(axes: dict[str, TimeAxis], interval: str | int | None, allow_gaps: bool) -> TimeAxis:
    """The axis of the merged graph: the finest one, from the first to the last row of any bundle.

    Long steps follow the clock of the place where summer time would push them off it, as they do in the bundles: a day
    is then from midnight to midnight, be it 23, 24 or 25 hours long.

    Args:
        axes: Axis of each bundle that has signals, not empty.
        interval: Another step.
        allow_gaps: Whether there may be times between the bundles of which none says anything.

    Raises:
        InputError: where steps or phases do not fit, or the bundles leave a gap.
    """
    finest = min(axes.items(), key=lambda item: (item[1].step, -item[1].length, item[0]))[1]
    step = finest.step if interval is None else seconds(interval)
    if len({_shape(axis) for axis in axes.values()}) == 1 and step == finest.step:
        return finest
    for name, axis in axes.items():
        if axis.step % step and step % axis.step:
            raise InputError("the steps of the time axes do not fit into each other", file=name, field="interval",
                             value=f"{axis.step} s against {step} s",
                             remedy="choose an --interval that all of them divide, or that divides all of them")
    spans = sorted((_ends(axis), name) for name, axis in axes.items())
    if not allow_gaps:
        reach, before = _reach(axes[spans[0][1]]), spans[0][1]
        for (first, _), name in spans[1:]:
            if first > reach:
                raise InputError("the time spans of the bundles leave a gap", field="time",
                                 value=f"{before} ends {_iso(reach)}, {name} starts {_iso(first)}",
                                 remedy="merge bundles of one time, or give --allow-gaps")
            reach, before = max((reach, before), (_reach(axes[name]), name))
    start, end = spans[0][0][0], max(stop for (_, stop), _ in spans)
    if DAY % step and step % DAY:
        raise InputError("a step that does not divide the day cannot hold several bundles", field="interval",
                         value=f"{step} s", remedy="choose an --interval that divides the day")
    origin = finest.start if step == finest.step else _day_start(finest)
    first, phase = (int(one) for one in finest.local(np.array([start, origin])))
    if _on_clock(list(axes.values()), phase, step, start, end, finest.tz):
        if step > DAY:
            raise InputError("steps of several days do not stay on the clock of a zone with summer time",
                             field="interval", value=f"{step // DAY} days in {finest.tz}",
                             remedy="choose an --interval of at most 1D")
        first = phase + (first - phase) // step * step
        if int(finest.local(np.array([clock_instant(first, finest.tz)]))[0]) != first:
            first -= DAY  # summer time starts at that midnight
        length = -(-(max(_clock_end(axis, finest.tz) for axis in axes.values()) - first) // step)
        return TimeAxis(clock_instant(first, finest.tz), step, length, finest.tz, DAY // step)
    start = origin + (start - origin) // step * step
    return TimeAxis(start, step, -(-(end - start) // step), finest.tz)


def _shape(axis: TimeAxis) -> tuple[Any, ...]:
    return tuple(axis.to_dict().items())


def _ends(axis: TimeAxis) -> tuple[int, int]:
    """First second of an axis, and the first after it."""
    rows = np.array([0, max(axis.length - 1, 0)])
    return int(axis.times(rows)[0]), int((axis.times(rows) + _lengths(axis, rows))[1])


def _lengths(axis: TimeAxis, rows: np.ndarray) -> np.ndarray:
    """Seconds that rows of an axis last; where days follow the clock, some are an hour shorter or longer."""
    if axis.steps_per_day is None or axis.steps_per_day * axis.step < DAY or axis.weekdays_only:
        return np.full(len(rows), axis.step)
    return axis.times(rows + 1) - axis.times(rows)


def _reach(axis: TimeAxis) -> int:
    """The first second after an axis; a day of 25 hours ends where the clock says so."""
    end = _ends(axis)[1]
    return end if axis.step <= HOUR else max(end, clock_instant(_clock_end(axis, axis.tz), axis.tz))


def _clock_end(axis: TimeAxis, tz: str) -> int:
    """What the clock of a zone shows when an axis ends, seconds."""
    last = axis.times(np.array([max(axis.length - 1, 0)]))
    return int(TimeAxis(0, 1, 0, tz).local(last)[0]) + axis.step


def _on_clock(axes: Sequence[TimeAxis], phase: int, step: int, start: int, end: int, tz: str) -> bool:
    """Whether common steps follow the clock: summer time moves it by a part of a step meanwhile, and all rows that are
    not longer are on its grid from ``phase`` on."""
    clock = TimeAxis(0, 1, 0, tz)
    days = np.append(np.arange(start, end, DAY), end)
    if not (np.diff(clock.local(days) - days) % step).any():
        return False
    inside = [axis for axis in axes if axis.step <= step]
    if step > DAY:  # no axis can: only bundles that follow it themselves make that a fault
        return any(axis.steps_per_day is not None and axis.steps_per_day * axis.step == DAY for axis in inside)
    rows = [axis.times(slice(0, 1) if axis.steps_per_day else None) for axis in inside]  # service days are on the clock
    return all(not ((clock.local(one) - phase) % axis.step).any() for one, axis in zip(rows, inside, strict=True))


def _day_start(axis: TimeAxis) -> int:
    """A midnight on the clock of the axis, UTC seconds: where coarser steps begin."""
    return axis.start - int(axis.local(np.array([axis.start]))[0]) % DAY


def _iso(utc: int) -> str:
    return str(np.datetime64(utc, "s"))


@dataclass(frozen=True)
class Alignment:
    """How rows of one axis become rows of another.

    Args:
        axis: The axis of a bundle.
        target: The common axis.
        instant: Whether a coarser reading was taken at its time, rather than in the step that begins then.
    """

    axis: TimeAxis
    target: TimeAxis
    instant: bool = False

    @property
    def finer(self) -> bool:
        """Whether several rows become one."""
        return self.axis.step < self.target.step

    def words(self, counts: bool) -> str:
        """How, in words; ``counts``: whether there are counts among the channels."""
        if self.finer:
            sums = ", the sum of counts where all were" if counts else ""
            return f"{self.target.step // self.axis.step} steps become one: the mean of what was observed{sums}"
        if self.axis.step > self.target.step:
            ratio = self.axis.step // self.target.step
            known = "" if self.instant else ", from when it was known"
            return f"each step is held for {ratio}{known}" + (f"; counts are divided by {ratio}" if counts else "")
        return "as it is"

    def rows(self) -> np.ndarray:
        """Where several rows become one, the row of the target for each row, ``[own length]``; else the row for each
        of the target, ``[target length]``. -1 where there is none.

        Raises:
            InputError: where rows of equal or finer step do not begin where rows of the target do.
        """
        own = self.axis.times()
        if self.axis.step > self.target.step:
            from stgraph.sources.weather import latest_rows

            found = latest_rows(self.axis, self.target, self.instant)
            shift = 0 if self.instant else self.axis.step
            due = self.target.times() + (0 if self.instant else self.target.step)
            age = due - (own + shift)[np.maximum(found, 0)] if len(own) else np.zeros(len(found), np.int64)
            return np.where((found >= 0) & (age < self.axis.step), found, -1)
        row = np.asarray(replace(self.target, length=self.target.length + 1).row_of(own))  # the last may be longer
        row = np.where((row < 0) | (row >= self.target.length), -1, row)
        inside = row[row >= 0]
        away = own[row >= 0] - self.target.times(inside)
        if (away % self.axis.step).any() or (away >= _lengths(self.target, inside)).any():
            raise InputError("the rows of two time axes do not begin together", field="time",
                             value=f"{int(away.max())} s apart", remedy="choose a coarser --interval")
        if self.finer:
            return row
        back = np.full(self.target.length, -1)
        back[row[row >= 0]] = np.flatnonzero(row >= 0)
        return back

    def read(self, signal: Signal, rows: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask of rows of the target; ``rows`` is what :meth:`rows` gave."""
        counts = np.array([channel.quantity == "count" for channel in signal.channels], bool)
        if self.finer:
            return self._gathered(signal, rows, counts, start, stop)
        wanted = rows[start:stop]
        values = np.zeros((stop - start, *signal.shape[1:]), signal.values.dtype)
        mask = np.zeros(values.shape, bool)
        there = wanted >= 0
        if there.any():
            first, last = int(wanted[there].min()), int(wanted[there].max()) + 1
            read, seen = signal.read(first, last)
            values[there], mask[there] = read[wanted[there] - first], seen[wanted[there] - first]
        if self.axis.step > self.target.step and counts.any():
            values[..., counts] *= self.target.step / self.axis.step
        return np.where(mask, values, 0), mask

    def _gathered(self, signal: Signal, rows: np.ndarray, counts: np.ndarray, start: int,
                  stop: int) -> tuple[np.ndarray, np.ndarray]:
        inside = np.flatnonzero((rows >= start) & (rows < stop))
        total = np.zeros((stop - start, *signal.shape[1:]))
        seen = np.zeros(total.shape, np.int64)
        if len(inside):
            first = int(inside[0])
            read, observed = signal.read(first, int(inside[-1]) + 1)
            number = _offset(rows[inside])
            for offset in range(int(number.max()) + 1):  # few: no two rows of one offset meet
                mine = inside[number == offset]
                total[rows[mine] - start] += np.where(observed[mine - first], read[mine - first], 0)
                seen[rows[mine] - start] += observed[mine - first]
        whole = _lengths(self.target, np.arange(start, stop)) // self.axis.step
        mask = np.where(counts, seen == whole[:, None, None], seen > 0)
        values = np.where(counts, total, total / np.maximum(seen, 1))
        return np.where(mask, values, 0).astype(signal.values.dtype), mask


def _offset(rows: np.ndarray) -> np.ndarray:
    """Number of each row among its neighbours that become the same row; rows are ascending."""
    new = np.ones(len(rows), bool)
    new[1:] = rows[1:] != rows[:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
    return np.arange(len(rows)) - first


@dataclass(frozen=True)
class SignalPart:
    """A signal of one bundle on its way into a merged one.

    Args:
        name: Of the bundle.
        signal: The signal.
        nodes: Position of each of its nodes in the merged type.
        alignment: From its axis to the common one.
    """

    name: str
    signal: Signal
    nodes: np.ndarray
    alignment: Alignment


class Merged:
    """Signals of several bundles as one, made when rows are read.

    Args:
        parts: The parts; where two observe one entry the first counts.
        size: Number of nodes.
    """

    def __init__(self, parts: Sequence[SignalPart], size: int) -> None:
        self.parts = parts
        self.rows = [part.alignment.rows() for part in parts]
        self.shape = (parts[0].alignment.target.length, size, parts[0].signal.shape[2])
        self.dtype = np.result_type(*(part.signal.values.dtype for part in parts))

    def read(self, start: int, stop: int, check: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask of rows; with ``check``, refuse parts that contradict each other."""
        values = np.zeros((stop - start, *self.shape[1:]), self.dtype)
        mask = np.zeros(values.shape, bool)
        for part, rows in zip(self.parts, self.rows, strict=True):
            own, seen = part.alignment.read(part.signal, rows, start, stop)
            both = seen & mask[:, part.nodes]
            if check and both.any():
                self._agree(part, values[:, part.nodes], own, both)
            new = seen & ~both
            values[:, part.nodes] = np.where(new, own, values[:, part.nodes])
            mask[:, part.nodes] |= new
        return values, mask

    def _agree(self, part: SignalPart, before: np.ndarray, own: np.ndarray, both: np.ndarray) -> None:
        wrong = both & ~np.isclose(before, own, rtol=1e-5, atol=1e-6)
        if wrong.any():
            row, node, channel = (int(one) for one in np.argwhere(wrong)[0])
            raise InputError("two bundles observed different values of one node at one time", file=part.name,
                             field=part.signal.channel_names[channel],
                             value=f"{before[row, node, channel]} and {own[row, node, channel]}, "
                                   f"{int(wrong.sum())} in this block",
                             remedy="say which is right with --prefer NAME, or leave one of them out")

    def signal(self, channels: Sequence[Channel], check: bool) -> Signal:
        """The merged signal, in memory where it is small."""
        length, size, width = self.shape
        overlap = sum(len(part.nodes) for part in self.parts) > len(np.unique(np.concatenate(
            [part.nodes for part in self.parts])))
        step = max(1, _BLOCK // max(1, size * width))
        if length * size * width * (self.dtype.itemsize + 1) > IN_MEMORY:
            for start in range(0, length if check and overlap else 0, step):
                self.read(start, min(start + step, length), check=True)
            return Signal(_View(self, 0, self.dtype), _View(self, 1, np.dtype(bool)), channels)
        blocks = [self.read(start, min(start + step, length), check) for start in range(0, length, step)]
        if not blocks:
            return Signal(np.zeros(self.shape, self.dtype), None, channels)
        return Signal(np.concatenate([values for values, _ in blocks]), np.concatenate([mask for _, mask in blocks]),
                      channels)


class _View:
    """Values or mask of a merged signal, that slices like an array."""

    def __init__(self, merged: Merged, which: int, dtype: np.dtype[Any]) -> None:
        self.merged, self.which, self.dtype, self.shape = merged, which, dtype, merged.shape

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(self.shape[0])
        return self.merged.read(start, max(start, stop))[self.which][::step]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)
