"""Times of GPS points: columns of many kinds become seconds, with parts of a second kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (np.inf, 10**9))  # below this: parts of a second
_LATEST = 7.26e9  # s, in the year 2200
_NUMBER, _OFFSET = r"^\s*[+-]?\d+(\.\d*)?\s*$", r":\d\d(\.\d+)?\s*([Zz]|[+-]\d\d(:?\d\d)?)$"


def to_seconds(column: pa.Array, before: int, *, file: object, field: str) -> tuple[np.ndarray, bool]:
    """Seconds since 1970-01-01 of a column of times.

    Numbers are seconds, ms, us or ns by their size, and count in UTC. Texts are ISO 8601 or such numbers; texts and
    dates without an offset are on a local clock.

    Args:
        column: ``[n]`` times; what is null is missing.
        before: Rows that came before these, for messages.
        file: For messages.
        field: For messages.

    Returns:
        ``[n]`` float64 seconds, NaN where missing, and whether they are on a local clock.

    Raises:
        InputError: for what is not a time, or texts some of which carry an offset; the row is named, from 1.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), False
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _epoch(column, before, file, field), False
    if pa.types.is_timestamp(kind):
        return _seconds(column), kind.tz is None
    if not pa.types.is_string(kind):
        raise InputError("not a column of times", file=file, field=field, value=kind,
                         remedy="give seconds since 1970, or texts like 2012-03-01T00:05:00Z")
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    if pc.all(pc.match_substring_regex(text, _NUMBER)).as_py():
        return _epoch(text.cast(pa.float64()), before, file, field), False
    offset = pc.match_substring_regex(text, _OFFSET)
    some = bool(pc.any(offset).as_py())
    if some and not pc.all(offset).as_py():
        row = pc.index(offset, not offset.drop_null()[0].as_py()).as_py()
        raise InputError(f"some times carry an offset and others do not (row {before + row + 1})", file=file,
                         field=field, value=text[row], remedy="write all of them in one way")
    wanted = pa.timestamp("us", "UTC" if some else None)
    try:
        return _seconds(text.cast(wanted)), not some
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


def _epoch(column: pa.Array, before: int, file: object, field: str) -> np.ndarray:
    valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    largest = float(np.abs(np.where(np.isfinite(numbers), numbers, 0)).max(initial=0))
    parts = next(parts for limit, parts in _EPOCH if largest < limit)
    if largest / parts > _LATEST:
        row = int(np.nanargmax(np.abs(numbers)))
        raise InputError(f"not a time since 1970 in row {before + row + 1}", file=file, field=field,
                         value=column[row], remedy="dates without separators are written like 2012-03-01T00:05:00Z")
    whole, rest = np.divmod(numbers, parts)
    return np.where(valid, whole + rest / parts, np.nan)


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
