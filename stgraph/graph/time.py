"""The time axis of a graph: regular steps in UTC, read on the clock of the place.

Two kinds exist. The plain axis has one step after the other, ``start + i * step``. The **service axis** has days of
``steps_per_day`` steps from ``day_start`` on, as metro data do (108 ten-minute steps from 05:00), and may leave out
Saturdays and Sundays; its rows stay consecutive, the clock jumps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from stgraph.errors import InputError

DAY = 86_400
RowSlice: TypeAlias = slice  # the class below has a method of this name


@dataclass(frozen=True)
class TimeAxis:
    """Times of the rows of every signal of a graph.

    Args:
        start: First row, seconds since 1970-01-01 UTC.
        step: Seconds from one row to the next.
        length: Number of rows ``T``.
        tz: IANA name of the place's time zone; days, weeks and slots follow its clock.
        steps_per_day: Rows of a service day; None for a plain axis.
        weekdays_only: Whether a service axis leaves out Saturdays and Sundays.
        first_slot: Slot of its service day that the first row is in; 0 unless the axis was cut inside a day.

    Raises:
        InputError: where a value is out of range or the zone is not known.
    """

    start: int
    step: int
    length: int
    tz: str = "UTC"
    steps_per_day: int | None = None
    weekdays_only: bool = False
    first_slot: int = 0

    def __post_init__(self) -> None:
        if self.step <= 0:
            raise InputError("the interval must be positive", field="interval", value=self.step,
                             remedy="give it like 5min")
        if self.length < 0:
            raise InputError("the number of steps is negative", field="length", value=self.length)
        zone(self.tz)
        if self.steps_per_day is None:
            if DAY % self.step and self.step % DAY:
                raise InputError("the interval does not divide the day", field="interval", value=f"{self.step} s",
                                 remedy="choose one that does (5min, 15min, 1h, 1D), "
                                        "or say --steps-per-day for service days")
            if self.weekdays_only or self.first_slot:
                raise InputError("a plain axis has no service days", remedy="give --steps-per-day too",
                                 field="weekdays_only" if self.weekdays_only else "first_slot",
                                 value=self.weekdays_only or self.first_slot)
        elif not 0 < self.steps_per_day * self.step <= DAY:
            raise InputError("a service day must be longer than nothing and at most 24 hours", field="steps_per_day",
                             value=self.steps_per_day, remedy=f"at most {DAY // self.step} steps of {self.step} s fit")
        elif not 0 <= self.first_slot < self.steps_per_day:
            raise InputError("the first slot is not one of the service day", field="first_slot", value=self.first_slot,
                             remedy=f"slots run from 0 to {self.steps_per_day - 1}")

    # ---------------------------------------------------------------- rows to times
    def times(self, rows: np.ndarray | RowSlice | None = None) -> np.ndarray:
        """Seconds since 1970-01-01 UTC, ``[len(rows)]`` int64; rows before 0 or after the end are extrapolated."""
        rows = self._rows(rows)
        if self.steps_per_day is None:
            return self.start + rows * self.step
        day, slot = np.divmod(rows + self.first_slot, self.steps_per_day)
        start_day, day_start = divmod(self._first_clock, DAY)
        dates: np.ndarray = start_day + day
        if self.weekdays_only:
            dates = np.busday_offset(np.datetime64(start_day, "D"), day, roll="forward").astype(np.int64)
        return _local_to_utc(dates * DAY + day_start + slot * self.step, self.tz)

    @cached_property
    def clock(self) -> np.ndarray:
        """Seconds of the local wall clock for each row, counted as if it were UTC, ``[T]`` int64."""
        return self.local(self.times())

    @cached_property
    def _times(self) -> np.ndarray:
        return self.times()

    @cached_property
    def _first_clock(self) -> int:
        """Local clock of slot 0 of the first service day."""
        return int(self.local(np.array([self.start]))[0]) - self.first_slot * self.step

    def local(self, utc: np.ndarray) -> np.ndarray:
        """Seconds of the local wall clock at UTC seconds, counted as if the wall clock were UTC."""
        utc = np.asarray(utc, dtype=np.int64)
        if zone(self.tz) == ZoneInfo("UTC"):
            return utc
        import pandas as pd  # here: building a map needs no calendar

        index = pd.DatetimeIndex(utc.astype("datetime64[s]")).tz_localize("UTC").tz_convert(self.tz)
        return index.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)

    def row_of(self, utc: int | np.ndarray) -> Any:
        """The row whose step holds the instant, ``times[row] <= utc < times[row] + step``.

        -1 before the first row, ``T`` from the end of the last row on; between two service days, the last row before.
        """
        utc = np.asarray(utc, dtype=np.int64)
        if self.steps_per_day is None:
            found = (utc - self.start) // self.step
        else:
            times = self._times
            found = np.searchsorted(times, utc, side="right") - 1
            found = found + (utc >= times[-1] + self.step) if len(times) else found
        return np.clip(found, -1, self.length)[()]

    # ---------------------------------------------------------------- the calendar
    @property
    def slots_per_day(self) -> int:
        """Slots of one day: 288 at five minutes, ``steps_per_day`` on a service axis, 1 for steps of days."""
        return self.steps_per_day or max(1, DAY // self.step)

    def calendar(self, rows: np.ndarray | RowSlice | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slot of the day ``0..slots_per_day-1``, day of the week (Monday 0) and day number, each ``[len(rows)]``.

        Rows outside the axis are allowed: the calendar of the future is known.
        """
        clock = self.local(self.times(self._rows(rows)))
        day = clock // DAY
        seconds = clock - day * DAY
        if self.steps_per_day is not None:
            slot = (seconds - self._first_clock) % DAY // self.step
        else:
            slot = seconds // min(self.step, DAY)
        return slot.astype(np.int64), ((day + 3) % 7).astype(np.int64), day  # 1970-01-01 was a Thursday

    def slice(self, start: int, stop: int) -> TimeAxis:
        """The axis of rows ``start <= row < stop``; bounds may count from the end, as in a list."""
        start, stop, _ = slice(start, stop).indices(self.length)
        first_slot = (self.first_slot + start) % self.steps_per_day if self.steps_per_day else 0
        return TimeAxis(int(self.times(np.array([start]))[0]), self.step, max(0, stop - start), self.tz,
                        self.steps_per_day, self.weekdays_only, first_slot)

    # ---------------------------------------------------------------- on disk
    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"start": self.start, "step": self.step, "length": self.length, "tz": self.tz,
                "steps_per_day": self.steps_per_day, "weekdays_only": self.weekdays_only,
                "first_slot": self.first_slot}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TimeAxis:
        """The reverse of :meth:`to_dict`."""
        return cls(**value)

    def _rows(self, rows: np.ndarray | RowSlice | None) -> np.ndarray:
        if rows is None:
            return np.arange(self.length, dtype=np.int64)
        if isinstance(rows, slice):
            return np.arange(*rows.indices(self.length), dtype=np.int64)
        return np.asarray(rows, dtype=np.int64)


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name.

    Raises:
        InputError: for a name that is not known.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError("unknown time zone", field="tz", value=name,
                         remedy="use an IANA name such as America/Los_Angeles") from error


def seconds(interval: str | int) -> int:
    """Seconds of an interval such as ``5min``, ``1h`` or ``1D``.

    Raises:
        InputError: for a text that is not a whole, positive number of seconds.
    """
    import pandas as pd

    try:
        value = pd.Timedelta(interval if isinstance(interval, str) else f"{interval}s").total_seconds()
    except ValueError:
        value = -1.0
    if not value > 0 or value != int(value):  # NaT gives a NaN
        raise InputError("not an interval of whole seconds", field="interval", value=interval,
                         remedy="write it like 30s, 5min, 1h or 1D")
    return int(value)


def instant(text: str, tz: str = "UTC") -> int:
    """Seconds since 1970-01-01 UTC of an ISO text; without an offset it is read on the clock of ``tz``.

    Raises:
        InputError: for a text that is not a time, or a clock time that does not exist or exists twice in the zone.
    """
    import pandas as pd

    try:
        stamp = pd.Timestamp(text)
        if stamp is pd.NaT:
            raise ValueError(text)
        if stamp.tzinfo is None:
            stamp = stamp.tz_localize(zone(tz))
    except (ValueError, TypeError) as error:
        raise InputError(f"not a usable time in {tz}: {error}", field="time", value=text,
                         remedy="write it like 2012-03-01T00:00, or with an offset like 2012-03-01T00:00-08:00"
                         ) from error
    return int(stamp.tz_convert("UTC").timestamp())


def _local_to_utc(clock: np.ndarray, tz: str) -> np.ndarray:
    """UTC seconds of local wall-clock seconds; a time that does not exist moves forward, one that exists twice is
    the first."""
    if zone(tz) == ZoneInfo("UTC"):
        return clock
    import pandas as pd

    index = pd.DatetimeIndex(clock.astype("datetime64[s]"))
    utc = index.tz_localize(tz, nonexistent="shift_forward", ambiguous=np.ones(len(index), bool)).tz_convert("UTC")
    return utc.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
