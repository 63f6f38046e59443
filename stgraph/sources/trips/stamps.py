"""Times of GPS points: columns of many kinds become seconds, with parts of a second kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_LARGEST = np.array([1e11, 1e14, 1e17])  # of numbers of s, ms and us since 1970; larger ones are ns
_SMALLEST = 1e8  # s, in 1973: smaller numbers count from somewhere else
_LATEST = 7.26e9  # s, in the year 2200
_NUMBER, _OFFSET = r"^\s*[+-]?\d+(\.\d*)?\s*$", r":\d\d(\.\d+)?\s*([Zz]|[+-]\d\d(:?\d\d)?)$"


def to_seconds(column: pa.Array, before: int, *, file: object, field: str,
               unit: str | None = None) -> tuple[np.ndarray, bool, str | None]:
    """Seconds since 1970-01-01 of a column of times.

    Numbers are seconds, ms, us or ns by their size, all in one unit, and count in UTC. Texts are ISO 8601 or such
    numbers; texts and dates without an offset are on a local clock.

    Args:
        column: ``[n]`` times; what is null is missing.
        before: Rows that came before these, for messages.
        file: For messages.
        field: For messages.
        unit: Unit of the numbers of the rows before; None where there were none.

    Returns:
        ``[n]`` float64 seconds, NaN where missing, whether they are on a local clock, and the unit of the numbers.

    Raises:
        InputError: for what is not a time, numbers that count from somewhere else or in several units, or texts some of
            which carry an offset; the row is named, from 1.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), False, unit
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        seconds, unit = _epoch(column, before, file, field, unit)
        return seconds, False, unit
    if pa.types.is_timestamp(kind):
        return _seconds(column), kind.tz is None, unit
    if not pa.types.is_string(kind):
        raise InputError("not a column of times", file=file, field=field, value=kind,
                         remedy="give seconds since 1970, or texts like 2012-03-01T00:05:00Z")
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    if pc.all(pc.match_substring_regex(text, _NUMBER)).as_py():
        seconds, unit = _epoch(text.cast(pa.float64()), before, file, field, unit)
        return seconds, False, unit
    offset = pc.match_substring_regex(text, _OFFSET)
    some = bool(pc.any(offset).as_py())
    if some and not pc.all(offset).as_py():
        row = pc.index(offset, not offset.drop_null()[0].as_py()).as_py()
        raise InputError(f"some times carry an offset and others do not (row {before + row + 1})", file=file,
                         field=field, value=text[row], remedy="write all of them in one way")
    wanted = pa.timestamp("us", "UTC" if some else None)
    try:
        return _seconds(text.cast(wanted)), not some, unit
    except pa.ArrowInvalid as error:
        row = _first_bad(text, wanted)
        raise InputError(f"not a time in row {before + row + 1}", file=file, field=field, value=text[row],
                         remedy="write it like 2012-03-01T00:05:00Z, or as seconds since 1970") from error


def from_local_clock(clock: np.ndarray, tz: str, trip: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """UTC seconds of local-clock seconds with parts; which exist; how many could be either of two, taken for the first.

    The hour that autumn doubles is told apart by the order of the points of a trip; see
    :func:`stgraph.sources.clock.to_utc`.
    """
    from stgraph.sources.clock import Stamps, to_utc

    whole = np.floor(clock).astype(np.int64)
    utc, keep, notes = to_utc(Stamps(whole, True), tz, repair=True, file=None, field="time", groups=trip)
    return utc + (clock - whole), keep, notes.ambiguous


def _seconds(column: pa.Array) -> np.ndarray:
    parts = _UNITS[column.type.unit]
    count = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    whole, rest = np.divmod(count, parts)
    return np.where(pc.is_valid(column).to_numpy(zero_copy_only=False), whole + rest / parts, np.nan)


def _epoch(column: pa.Array, before: int, file: object, field: str, unit: str | None) -> tuple[np.ndarray, str | None]:
    """Seconds of numbers, and their unit."""
    valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(valid & np.isfinite(numbers))
    size = np.abs(numbers[rows].astype(np.float64))
    if not len(rows):
        return np.full(len(numbers), np.nan), unit

    def refuse(which: np.ndarray, problem: str, remedy: str) -> None:
        if which.any():
            row = int(rows[which.argmax()])
            raise InputError(f"{problem} (row {before + row + 1})", file=file, field=field, value=column[row],
                             remedy=remedy)

    refuse(size < _SMALLEST, "this number is too small for seconds since 1970",
           "give seconds since 1970, or texts like 2012-03-01T00:05:00Z")
    refuse(np.full(len(rows), _dates(size)), "these look like dates written without separators",
           "write them like 2012-03-01T00:05:00Z, or as seconds since 1970")
    names = list(_UNITS)
    kind = np.searchsorted(_LARGEST, size, side="right")
    wanted = kind[0] if unit is None else names.index(unit)
    refuse(kind != wanted, f"this time is in {names[kind[(kind != wanted).argmax()]]}, the ones before it in "
                           f"{names[wanted]}", "write all of them in one unit")
    parts = _UNITS[names[wanted]]
    refuse(size / parts > _LATEST, "not a time since 1970", "dates without separators are written like "
                                                            "2012-03-01T00:05:00Z")
    whole, rest = np.divmod(numbers, parts)
    return np.where(valid, whole + rest / parts, np.nan), names[wanted]


def _dates(size: np.ndarray) -> bool:
    """Whether all numbers can be read as YYYYmmddHH, with minutes and with seconds or without."""
    for digits in (10, 12, 14):
        if not ((size >= 10 ** (digits - 1)) & (size < 10**digits) & (size % 1 == 0)).all():
            continue
        fields = [size // 10 ** (digits - end) % 10**wide for end, wide in ((4, 4), (6, 2), (8, 2), (10, 2), (12, 2),
                                                                            (14, 2)) if end <= digits]
        bounds = ((1900, 2099), (1, 12), (1, 31), (0, 23), (0, 59), (0, 59))
        return all(bool(((low <= part) & (part <= high)).all())
                   for part, (low, high) in zip(fields, bounds, strict=False))
    return False


def _first_bad(text: pa.Array, kind: pa.DataType) -> int:
    """The first entry that cannot be cast, by halving."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            text[low:middle].cast(kind)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
