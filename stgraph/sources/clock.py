"""Time stamps of files become a regular axis: zones, summer time, duplicates, order, gaps, service days."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from stgraph.errors import InputError
from stgraph.graph.time import DAY, TimeAxis, instant, zone

HOUR = 3600
_OFFSET = r"(?:[Zz]|[+-]\d\d:?\d\d)$"
_EPOCH = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (np.inf, 10**9))  # below this: parts of a second


@dataclass(frozen=True)
class Stamps:
    """Time stamps as read.

    Args:
        seconds: ``[rows]`` int64, since 1970-01-01, of UTC or of the local wall clock.
        on_clock: Whether they are of the local wall clock.
        fractional: How many stamps had parts of a second, which were rounded or left out.
    """

    seconds: np.ndarray
    on_clock: bool
    fractional: int = 0


@dataclass
class StampNotes:
    """What was found in the stamps: counts for the report, and for the refusal."""

    duplicates: int = 0  # a sensor's stamp that it had already
    decreasing: int = 0  # a stamp earlier than the one before it
    nonexistent: int = 0  # in the hour that the clock skips in spring
    nonexistent_at: str = ""  # the first of these
    ambiguous: int = 0  # in the hour that the clock doubles in autumn, and only one of the two is there
    fractional: int = 0  # with parts of a second


@dataclass(frozen=True)
class Service:
    """Days of service, as metro data have them.

    Args:
        steps_per_day: Rows of one day.
        day_start: Seconds from midnight to the first row of a day; None where the first time says it.
        weekdays_only: Whether Saturdays and Sundays are left out.
    """

    steps_per_day: int
    day_start: int | None = None
    weekdays_only: bool = False


@dataclass(frozen=True)
class Layout:
    """Where each row of a file belongs on a regular axis.

    Args:
        axis: The axis.
        rows: ``[rows of the file]`` int64, row on the axis; several may be equal, and not every row is taken.
        rounded: How many times were off the grid, and were rounded.
    """

    axis: TimeAxis
    rows: np.ndarray
    rounded: int = 0

    def gaps(self) -> dict[str, int]:
        """Runs of rows of the axis that the file does not have: how many, the longest, and all their rows."""
        empty = np.diff(np.concatenate([[-1], np.unique(self.rows), [self.axis.length]])) - 1
        return {"gaps": int((empty > 0).sum()), "longest_gap_steps": int(empty.max(initial=0)),
                "missing_steps": int(empty.sum())}


# -------------------------------------------------------------------- reading stamps
def parse_stamps(values: Any, local_clock: bool, file: object, field: str, floor: bool = False) -> Stamps:
    """Read time stamps: ISO text with or without offset, seconds, ms, us or ns since 1970, or a datetime column.

    Whole numbers count in UTC, or on the local clock where ``local_clock`` says so. Texts and datetimes without an
    offset are on the local clock; those with one are not.

    Args:
        values: The stamps.
        local_clock: Whether whole numbers count on the local clock.
        file: For messages.
        field: For messages.
        floor: Whether parts of a second are left out, so that no instant moves to a later step; else they are rounded,
            so that a jittered clock comes back to its grid.

    Raises:
        InputError: for a stamp that is missing or not a time (its row is named, from 1, the header not counted), for
            stamps some of which carry an offset, and for row numbers taken for times.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    series = pd.Series(values).reset_index(drop=True)
    if series.isna().any():
        row = int(np.flatnonzero(series.isna())[0])
        raise InputError(f"row {row + 1} has no time", file=file, field=field, value="nothing",
                         remedy="fill it in, or remove the row")
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        return _stamps(series.dt.tz_convert("UTC").dt.tz_localize(None), _no_offset(local_clock, file, field), floor)
    if pd.api.types.is_datetime64_dtype(series.dtype):
        return _stamps(series, True, floor)
    if pd.api.types.is_numeric_dtype(series.dtype):
        return _epoch(series.to_numpy(), local_clock, file, field, floor)
    text = series.astype(str).str.strip()
    if text.str.fullmatch(r"[+-]?\d{9,}(?:\.0+)?").all():
        whole = text.str.replace(r"\.0+$", "", regex=True).astype(np.int64).to_numpy()
        return _epoch(whole, local_clock, file, field, floor)
    offset = text.str.contains(rf"\d{_OFFSET}", regex=True) & text.str.contains(":")
    if offset.any() and not offset.all():
        row = int(np.flatnonzero(offset != offset[0])[0])
        raise InputError(f"some stamps carry an offset and others do not (row {row + 1} differs from row 1)",
                         file=file, field=field, value=text[row], remedy="write all of them in one way")
    found = pd.to_datetime(text, format="ISO8601", utc=bool(offset.any()), errors="coerce")
    if found.isna().any():
        row = int(np.flatnonzero(found.isna())[0])
        raise InputError(f"not a time in row {row + 1}", file=file, field=field, value=text[row],
                         remedy="write it like 2012-03-01T00:05, or as seconds since 1970; "
                                "a file without times takes --start and --interval")
    if offset.any():
        return _stamps(found.dt.tz_localize(None), _no_offset(local_clock, file, field), floor)
    return _stamps(found, True, floor)


def to_utc(stamps: Stamps, tz: str, *, repair: bool, file: object, field: str,
           groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, StampNotes]:
    """Stamps as UTC, checked for order.

    An hour that exists twice in autumn is told apart by the order of the stamps: once they step back, the second has
    begun. Where only one of the two is there it is taken for the first, and counted. Stamps in the hour that the clock
    skips in spring are of no instant: their rows are not kept, and counted.

    Args:
        stamps: As read, in the order of the file.
        tz: Zone of the local clock.
        repair: Whether to go on with what would be refused.
        file: For messages.
        field: For messages.
        groups: ``[rows]`` int, the sensor of each row of a long table; None where every row is of all sensors.

    Returns:
        Seconds since 1970-01-01 UTC ``[rows]``, which rows to keep ``[rows]`` bool, and what was found.

    Raises:
        InputError: for duplicate or decreasing stamps, and for parts of a second, unless ``repair``.
    """
    notes = StampNotes(fractional=stamps.fractional)
    keep = np.ones(len(stamps.seconds), bool)
    group = np.zeros(len(keep), np.int64) if groups is None else np.asarray(groups)
    if stamps.fractional and not repair:
        raise InputError(f"{stamps.fractional} stamps have parts of a second", file=file, field=field,
                         remedy="round them, or let --repair do it")
    utc = stamps.seconds
    if stamps.on_clock:
        utc, keep, notes.ambiguous = _from_clock(stamps.seconds, tz, group)
        if not keep.all():
            notes.nonexistent = int((~keep).sum())
            notes.nonexistent_at = _iso(stamps.seconds[np.flatnonzero(~keep)[0]])
    notes.duplicates = int(pd.DataFrame({"group": group, "utc": utc})[keep].duplicated().sum())
    by_group = np.argsort(group, kind="stable")
    by_group = by_group[keep[by_group]]
    same = np.diff(group[by_group]) == 0
    notes.decreasing = int((same & (np.diff(utc[by_group]) < 0)).sum())
    if (notes.duplicates or notes.decreasing) and not repair:
        raise InputError(f"{notes.duplicates} duplicate and {notes.decreasing} decreasing time stamps", file=file,
                         field=field, value=_first_disorder(utc, group, by_group, tz),
                         remedy="sort and merge them, or let --repair do it: it sorts by time and takes the mean of "
                                "what was observed twice")
    return utc, keep, notes


# -------------------------------------------------------------------- laying rows on an axis
def lay_out(utc: np.ndarray, tz: str, step: int | None, service: Service | None, *, repair: bool, file: object,
            field: str) -> Layout:
    """Find the regular axis of some times, and the row of each.

    Long steps follow the clock of the place where they are not regular in UTC: a day is then from midnight to
    midnight, be it 23, 24 or 25 hours long.

    Args:
        utc: Times ``[rows]``, seconds since 1970-01-01 UTC, in any order.
        tz: Zone of the place.
        step: Interval in s; None for the most common difference.
        service: Service days; None for a plain axis.
        repair: Whether to round times that are off the grid.
        file: For messages.
        field: For messages.

    Raises:
        InputError: where no interval can be seen, it does not divide the day, or times are off the grid.
    """
    if not len(utc):
        raise InputError("no usable time stamp is left", file=file, field=field, remedy="check --tz and the stamps")
    step = step or usual_step(utc, file, field)
    if service is None:
        check_divides_day(step)
        start, rows, off = _plain_rows(utc, step)
        if not off.any() or not _follows_clock(utc, step, tz, file):
            axis = TimeAxis(start, step, int(rows.max()) + 1, tz)
            return _checked(axis, rows, off, utc, repair, file, field)
        first = int(_clock(np.array([utc.min()]), tz)[0])
        service = Service(DAY // step, first % DAY)
    if service.day_start is None:
        service = replace(service, day_start=int(_clock(np.array([utc.min()]), tz)[0] % DAY))
    start, rows, off = _service_rows(utc, step, tz, service, file, field)
    axis = TimeAxis(start, step, int(rows.max()) + 1, tz, service.steps_per_day, service.weekdays_only)
    return _checked(axis, rows, off, utc, repair, file, field)


def axis_from_start(start: str, step: int, length: int, tz: str, service: Service | None) -> TimeAxis:
    """The axis of a file without time stamps: row ``i`` is ``start + i * step``, or the ``i``-th step of service.

    Steps so long that summer time would push them off the clock of the place, such as days, follow that clock.

    Raises:
        InputError: where the start is not a time, contradicts the day's start, or is no day of service.
    """
    first = instant(start, tz)
    if service is None:
        check_divides_day(step)
        if not _follows_clock(np.array([first, first + (length - 1) * step]), step, tz, None):
            return TimeAxis(first, step, length, tz)
        service = Service(DAY // step)
    clock = int(_clock(np.array([first]), tz)[0])
    if service.day_start is not None:
        if clock % DAY not in (0, service.day_start):
            raise InputError("the first row is not at the start of a service day", field="start", value=start,
                             remedy="give --start as a date, or with the time of --day-start")
        clock = clock - clock % DAY + service.day_start
    if service.weekdays_only and (clock // DAY + 3) % 7 > 4:
        raise InputError("the first row is on a weekend, but only weekdays are in the data", field="start",
                         value=start, remedy="start on a weekday, or leave out --weekdays-only")
    return TimeAxis(clock_instant(clock, tz), step, length, tz, service.steps_per_day, service.weekdays_only)


def usual_step(utc: np.ndarray, file: object, field: str) -> int:
    """The most common difference between neighbouring times, in s.

    Raises:
        InputError: for fewer than two different times.
    """
    differences, counts = np.unique(np.diff(np.unique(utc)), return_counts=True)
    if not len(differences):
        raise InputError("one time alone does not show the interval", file=file, field=field, remedy="give --interval")
    return int(differences[counts.argmax()])


def seconds_of_day(text: str) -> int:
    """Seconds from midnight of a clock time ``HH:MM``.

    Raises:
        InputError: for a text that is not such a time.
    """
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", text.strip())
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise InputError("not a time of day", field="day_start", value=text, remedy="write it like 05:00")
    return int(found[1]) * HOUR + int(found[2]) * 60


def fixed_zone(axis: TimeAxis) -> str:
    """The zone without summer time that keeps the standard time of an axis's zone."""
    year = axis.start + np.arange(0, 366 * DAY, 30 * DAY)
    hours = int((_clock(year, axis.tz) - year).min()) // HOUR
    return f"Etc/GMT{-hours:+d}"  # in these names, plus is behind UTC


def check_divides_day(step: int) -> None:
    """Refuse an interval that neither divides the day nor is whole days.

    Raises:
        InputError: for such an interval.
    """
    if DAY % step and step % DAY:
        raise InputError("the interval does not divide the day", field="interval", value=f"{step} s",
                         remedy="choose one that does (5min, 15min, 1h, 1D), or say --steps-per-day for service days")


# -------------------------------------------------------------------- parts
def _no_offset(local_clock: bool, file: object, field: str) -> bool:
    if local_clock:
        raise InputError("the stamps carry an offset, so they are not of a local clock", file=file, field=field,
                         value="--local-clock", remedy="leave out --local-clock")
    return False


def _stamps(times: pd.Series, on_clock: bool, floor: bool) -> Stamps:
    exact = times.to_numpy().astype("datetime64[us]").astype(np.int64)
    whole = (exact + (0 if floor else 500_000)) // 1_000_000
    return Stamps(whole, on_clock, int((exact != whole * 1_000_000).sum()))


def _epoch(numbers: np.ndarray, local_clock: bool, file: object, field: str, floor: bool) -> Stamps:
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise InputError("a time is not finite", file=file, field=field, remedy="correct it, or remove the row")
    largest = float(np.abs(numbers).max(initial=0))
    if largest < 1e8:
        raise InputError("these look like row numbers, not like times since 1970", file=file, field=field,
                         value=f"{numbers[0]} .. {numbers[-1]}", remedy="leave out --time-key; give --start and "
                                                                        "--interval")
    if any(1900 <= numbers[0] // 10 ** digits < 2100 for digits in (8, 10)):  # YYYYmmddHHMM, and with SS
        raise InputError("these look like dates written without separators", file=file, field=field, value=numbers[0],
                         remedy="write them like 2012-03-01T00:05, or as seconds since 1970")
    parts = next(parts for limit, parts in _EPOCH if largest < limit)
    if numbers.dtype.kind == "f":
        whole = np.floor(numbers / parts + (0 if floor else 0.5)).astype(np.int64)
    else:
        numbers = numbers.astype(np.int64)
        whole = (numbers + (0 if floor else parts // 2)) // parts
    return Stamps(whole, local_clock, int((numbers != whole * parts).sum()))


def _from_clock(clock: np.ndarray, tz: str, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """UTC of wall-clock seconds, which of them exist, and how many could be either of two."""
    zone(tz)
    unique, inverse = np.unique(clock, return_inverse=True)
    index = pd.DatetimeIndex(unique.astype("datetime64[s]"))
    both = [index.tz_localize(tz, nonexistent="shift_forward", ambiguous=np.full(len(index), summer))
            .tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
            for summer in (True, False)]
    first, second = np.minimum(*both), np.maximum(*both)
    exists = (_clock(first, tz) == unique)[inverse]
    doubled = (first != second)[inverse]
    first, second = first[inverse], second[inverse]
    if not doubled.any():
        return first, exists, 0
    frame = pd.DataFrame({"group": group, "night": clock // DAY, "clock": clock})[doubled]
    nights = frame.groupby(["group", "night"], sort=False)["clock"]
    step = nights.diff()
    # hourly data have one stamp in that hour, twice: there, standing still is the step back
    back = (step < 0) | ((step == 0) & (nights.transform("nunique") == 1))
    later = back.groupby([frame["group"], frame["night"]], sort=False)
    utc = first.copy()
    utc[doubled] = np.where(later.cumsum() > 0, second[doubled], first[doubled])
    return utc, exists, int((~later.transform("any")).sum())


def _follows_clock(utc: np.ndarray, step: int, tz: str, file: object) -> bool:
    """Whether the zone's offset changes among the times by what is not a multiple of the step."""
    days = np.append(np.arange(utc.min(), utc.max(), DAY), utc.max())
    moves = bool((np.diff(_clock(days, tz) - days) % step).any())
    if moves and step > DAY:
        raise InputError("steps of several days do not stay on the clock of a zone with summer time", file=file,
                         field="interval", value=f"{step // DAY} days in {tz}", remedy="give --tz UTC: such steps "
                                                                                       "have no time of day")
    return moves


def _plain_rows(utc: np.ndarray, step: int) -> tuple[int, np.ndarray, np.ndarray]:
    phases, counts = np.unique(utc % step, return_counts=True)
    phase = int(phases[counts.argmax()])
    start = (int(utc.min()) - phase + step // 2) // step * step + phase
    rows = (utc - start + step // 2) // step
    return start, rows, utc - (start + rows * step)


def _service_rows(utc: np.ndarray, step: int, tz: str, service: Service, file: object,
                  field: str) -> tuple[int, np.ndarray, np.ndarray]:
    day_start = service.day_start or 0
    clock = _clock(utc, tz) - day_start
    day = clock // DAY
    slot = (clock - day * DAY + step // 2) // step
    off = clock - day * DAY - slot * step
    outside = slot >= service.steps_per_day
    if service.steps_per_day * step == DAY:  # the day is full: what rounds up to its end is the next day's first
        day, slot = day + outside, np.where(outside, 0, slot)
    elif outside.any():
        raise InputError(f"{int(outside.sum())} times are outside the hours of service", file=file, field=field,
                         value=_iso(clock[outside][0] + day_start),
                         remedy="correct --day-start and --steps-per-day, or remove those rows")
    first = day.min()
    if not service.weekdays_only:
        count = day - first
    else:
        weekend = (day + 3) % 7 > 4  # 1970-01-01 was a Thursday
        if weekend.any():
            raise InputError(f"{int(weekend.sum())} times are on a weekend", file=file, field=field,
                             value=_iso(clock[weekend][0] + day_start), remedy="leave out --weekdays-only")
        count = np.busday_count(first.astype("datetime64[D]"), day.astype("datetime64[D]"))
    return clock_instant(int(first) * DAY + day_start, tz), count * service.steps_per_day + slot, off


def _checked(axis: TimeAxis, rows: np.ndarray, off: np.ndarray, utc: np.ndarray, repair: bool, file: object,
             field: str) -> Layout:
    rounded = int((off != 0).sum())
    if rounded and not repair:
        row = int(np.flatnonzero(off)[0])
        raise InputError(f"{rounded} times are off the grid of {axis.step} s; the first by {abs(int(off[row]))} s",
                         file=file, field=field, value=_iso(axis.local(utc[row:row + 1])[0]),
                         remedy="let --repair round them to the nearest step, or give another --interval")
    if axis.length > 50 * len(rows) + 1000:
        raise InputError(f"the axis would have {axis.length} rows for {len(rows)} times", file=file, field=field,
                         value=f"{_iso(axis.local(utc.min()[None])[0])} .. {_iso(axis.local(utc.max()[None])[0])}",
                         remedy="correct the times that are far from the others, or give another --interval")
    return Layout(axis, rows, rounded)


def _clock(utc: np.ndarray, tz: str) -> np.ndarray:
    """Seconds of the wall clock of a zone."""
    return TimeAxis(0, 1, 0, tz).local(utc)


def clock_instant(clock: int, tz: str) -> int:
    """UTC seconds of one wall-clock time; one that is skipped in spring moves to the end of the skipped hour."""
    stamp = pd.Timestamp(clock, unit="s").tz_localize(tz, nonexistent="shift_forward", ambiguous=True)
    return int(stamp.timestamp())


def _first_disorder(utc: np.ndarray, group: np.ndarray, by_group: np.ndarray, tz: str) -> str:
    """The first stamp that is a duplicate or earlier than the one before it, on the local clock."""
    seen = pd.DataFrame({"group": group, "utc": utc}).iloc[by_group]
    earlier = np.concatenate([[False], (np.diff(seen["group"]) == 0) & (np.diff(seen["utc"]) < 0)])
    row = int(by_group[seen.duplicated().to_numpy() | earlier].min())
    return f"{_iso(_clock(utc[row:row + 1], tz)[0])} in row {row + 1}"


def _iso(clock: int | np.integer) -> str:
    return str(np.datetime64(int(clock), "s"))
