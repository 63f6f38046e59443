"""Times of events: what files write becomes seconds UTC; what has no instant is told apart, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.graph.time import DAY, TimeAxis, instant, zone
from stgraph.sources.clock import parse_stamps

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86_400.0}
"""Seconds of a unit of time; the first four may count from 1970, the others need a start."""

MISSING = pa.array(["", "na", "n/a", "nan", "nat", "null", "none", "#n/a"])
_OFFSET = r":.*([Zz]|[+-]\d\d(:?\d\d)?)$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NEVER = np.iinfo(np.int64).min  # as a time without a value looks in numpy
_SMALLEST_EPOCH = 1e8  # 1973: smaller numbers without a unit are counts of something


@dataclass(frozen=True)
class Clock:
    """How the times of a file are meant; fields are options of ``stgraph build events``, which explains them."""

    tz: str | None = None
    start: str | None = None
    time_unit: str | None = None
    local_clock: bool = False
    per_sequence: bool = False


@dataclass(frozen=True)
class Times:
    """Instants of ``n`` events.

    Args:
        utc: ``[n]`` int64, seconds since 1970-01-01 UTC; 0 where there is none.
        missing: ``[n]`` bool, no time was given.
        skipped: ``[n]`` bool, the local time lies in the hour that the clock skips in spring.
        ambiguous: How many lie in the hour that the clock doubles in autumn; they are taken for the first of the two.
        fractional: How many had parts of a second, which were left out.
        dates_only: Whether all are midnights of the local clock.
    """

    utc: np.ndarray
    missing: np.ndarray
    skipped: np.ndarray
    ambiguous: int = 0
    fractional: int = 0
    dates_only: bool = False


@dataclass
class TimeColumn:
    """A column of times, taken up block after block.

    Args:
        file: For messages.
        name: Of the column, for messages.
        form: ``strptime`` form of the texts; None for ISO 8601.
    """

    file: str
    name: str
    form: str | None = None
    rows: int = 0
    parts: list[tuple[str | None, np.ndarray]] = field(default_factory=list)

    def add(self, column: pa.ChunkedArray) -> None:
        """Take up one block.

        Raises:
            InputError: for an entry that is not a time; its row (from 1, the header not counted) is named.
        """
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_null(kind):
            self.parts.append((None, np.full(len(column), np.nan)))
        elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            self._refuse_form()
            zoned = getattr(kind, "tz", None)
            stamps = column.cast(pa.timestamp("us", zoned), safe=False).to_numpy()
            self.parts.append(("instant" if zoned else "clock", _micro(stamps)))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            self._refuse_form()
            self.parts.append(("number", column.cast(pa.float64(), safe=False).to_numpy()))
        else:
            self.parts.append(self._texts(pc.utf8_trim_whitespace(column.cast(pa.string()))))
        self.rows += len(column)

    def times(self, clock: Clock) -> Times:
        """The instants of all rows.

        Raises:
            InputError: where entries are of several kinds, or it is not said how they are meant.
        """
        kinds = {kind for kind, _ in self.parts if kind is not None}
        if len(kinds) > 1:
            raise self._error("times are written in several ways: some are numbers or carry an offset, others do not",
                              ", ".join(sorted(kinds)), "write all of them in one way")
        if not kinds:
            nothing = np.zeros(self.rows, bool)
            return Times(np.zeros(self.rows, np.int64), ~nothing, nothing)
        kind = kinds.pop()
        if kind == "number":
            return self._from_numbers(np.concatenate([values.astype(np.float64) for _, values in self.parts]), clock)
        micro = np.concatenate([values if part is not None else np.full(len(values), _NEVER)
                                for part, values in self.parts])
        return self._from_micro(micro, kind, clock)

    # ---------------------------------------------------------------- texts
    def _texts(self, column: pa.ChunkedArray) -> tuple[str | None, np.ndarray]:
        missing = pc.or_(pc.is_null(column), pc.is_in(pc.utf8_lower(column), MISSING)).to_numpy()
        there = np.flatnonzero(~missing)
        text = column.filter(pa.array(~missing))
        if not len(there):
            return None, np.full(len(missing), np.nan)
        if self.form is None:
            numeric = pc.match_substring_regex(text, _NUMBER).to_numpy()
            if numeric.all():
                numbers = np.full(len(missing), np.nan)
                numbers[there] = text.cast(pa.float64()).to_numpy()
                return "number", numbers
            zoned = pc.match_substring_regex(text, _OFFSET).to_numpy()
            if zoned.any() and not zoned.all():
                first = int(np.flatnonzero(zoned != zoned[0])[0])
                raise self._row_error("some times carry an offset and others do not", there[first], text[first])
            utc, form = bool(zoned[0]), "ISO8601"
        else:
            utc, form = "%z" in self.form, self.form
        found = pd.to_datetime(text.to_pandas(), format=form, utc=utc, errors="coerce")
        wrong = np.flatnonzero(found.isna().to_numpy())
        if len(wrong):
            raise self._row_error("not a time", there[wrong[0]], text[int(wrong[0])])
        micro = np.full(len(missing), _NEVER)
        micro[there] = _micro((found.dt.tz_localize(None) if utc else found).to_numpy())
        return "instant" if utc else "clock", micro

    def _refuse_form(self) -> None:
        if self.form is not None:
            raise self._error("the times are not texts", self.form, "leave out --time-format")

    # ---------------------------------------------------------------- kinds of times
    def _from_micro(self, micro: np.ndarray, kind: str, clock: Clock) -> Times:
        for name, given in (("start", clock.start), ("time_unit", clock.time_unit)):
            if given is not None:
                raise InputError("the file has times of its own", file=self.file, field=name, value=given,
                                 remedy=f"leave out --{name.replace('_', '-')}")
        missing = micro == _NEVER
        whole = np.where(missing, 0, micro) // 1_000_000  # a second lasts until the next, as bins do
        fractional = int((~missing & (micro != whole * 1_000_000)).sum())
        if kind == "instant":
            if clock.local_clock:
                raise self._error("the times carry an offset, so they are not of a local clock", "--local-clock",
                                  "leave out --local-clock")
            return Times(whole, missing, np.zeros(len(whole), bool), 0, fractional)
        if clock.tz is None:
            raise self._error("the times carry no offset, and no time zone was given",
                              str(np.datetime64(int(whole[~missing][0]), "s")),
                              "say whose clock it is, such as --tz America/Chicago or --tz UTC")
        return _on_clock(whole, missing, clock.tz, fractional)

    def _from_numbers(self, values: np.ndarray, clock: Clock) -> Times:
        missing = ~np.isfinite(values)
        values = np.where(missing, 0.0, values)
        if clock.time_unit is not None and clock.time_unit not in UNITS:
            raise InputError("unknown unit of time", field="time_unit", value=clock.time_unit,
                             remedy=f"use one of {', '.join(UNITS)}")
        if clock.start is None and not clock.per_sequence and clock.time_unit is None:
            return self._since_1970(values, missing, clock)
        if clock.time_unit is None:
            raise self._error("it is not said in which unit the times count", "--start", "give --time-unit, such as d")
        if clock.start is None and not clock.per_sequence and UNITS[clock.time_unit] > 1:
            raise self._error(f"it is not said from when on the times count ({clock.time_unit})", values[0],
                              "give --start, such as 2010-01-01")
        elapsed = values * UNITS[clock.time_unit]
        if np.abs(elapsed).max(initial=0) > 1e11:
            raise self._error("times lie thousands of years away", values[np.abs(elapsed).argmax()],
                              "correct --time-unit")
        # decimals of minutes, hours and days seldom meet a second: there the nearest is meant
        whole = np.floor(elapsed + (0.5 if UNITS[clock.time_unit] > 1 else 1e-6)).astype(np.int64)
        fractional = int((np.abs(elapsed - whole) > 1e-6).sum())
        if clock.local_clock:
            return _on_clock(whole + self._start(clock, "UTC"), missing, self._zone(clock), fractional)
        base = 0 if clock.start is None else self._start(clock, clock.tz)
        return Times(np.where(missing, 0, whole + base), missing, np.zeros(len(whole), bool), 0, fractional)

    def _start(self, clock: Clock, tz: str | None) -> int:
        """Seconds of the start, which is read on the clock of ``tz`` unless it carries an offset."""
        try:
            aware = pd.Timestamp(clock.start or 0).tzinfo is not None
        except ValueError:
            aware = True  # the next line says what is wrong with it
        if tz is None and not aware:
            raise InputError("the start carries no offset, and no time zone was given", field="start",
                             value=clock.start, remedy="give --tz, or a start like 2010-01-01T00:00+01:00")
        if clock.local_clock and aware:
            raise InputError("the start carries an offset, so the times are not of a local clock", field="start",
                             value=clock.start, remedy="leave out the offset, or --local-clock")
        return 0 if clock.start is None else instant(clock.start, tz or "UTC")

    def _zone(self, clock: Clock) -> str:
        if clock.tz is None:
            raise self._error("it is not said whose clock the times are of", "--local-clock",
                              "give --tz, such as America/Chicago")
        return clock.tz

    def _since_1970(self, values: np.ndarray, missing: np.ndarray, clock: Clock) -> Times:
        known = values[~missing]
        if not len(known):
            return Times(np.zeros(len(values), np.int64), missing, np.zeros(len(values), bool))
        if np.abs(known).max() < _SMALLEST_EPOCH:
            raise self._error("these numbers are too small for seconds since 1970", f"{known[0]} .. {known[-1]}",
                              "say what they count, with --start and --time-unit, or --sequence-key where each "
                              "sequence has a clock of its own")
        stamps = parse_stamps(known, clock.local_clock, self.file, self.name, floor=True)
        whole = np.zeros(len(values), np.int64)
        whole[~missing] = stamps.seconds
        if stamps.on_clock:
            return _on_clock(whole, missing, self._zone(clock), stamps.fractional)
        return Times(whole, missing, np.zeros(len(values), bool), 0, stamps.fractional)

    # ---------------------------------------------------------------- messages
    def _error(self, problem: str, value: Any, remedy: str) -> InputError:
        return InputError(problem, file=self.file, field=self.name, value=value, remedy=remedy)

    def _row_error(self, problem: str, row: int, value: pa.Scalar) -> InputError:
        return self._error(f"{problem} (row {self.rows + int(row) + 1})", value.as_py(),
                           "write all times in one way, like 2012-03-01T00:05+01:00, or say how with --time-format")


def clock_to_utc(clock: np.ndarray, tz: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UTC of wall-clock seconds, the first of two where the clock was set back.

    Args:
        clock: ``[n]`` int64, seconds of the local wall clock, counted as if it were UTC.
        tz: IANA name of the zone.

    Returns:
        Seconds UTC ``[n]``, shifted to the end of the gap where the clock skips; whether each exists ``[n]`` bool;
        and whether it exists twice.
    """
    zone(tz)
    unique, inverse = np.unique(clock, return_inverse=True)
    index = pd.DatetimeIndex(unique.astype("datetime64[s]"))
    one, other = (index.tz_localize(tz, nonexistent="shift_forward", ambiguous=np.full(len(index), summer))
                  .tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
                  for summer in (True, False))
    first = np.minimum(one, other)
    exists = TimeAxis(0, 1, 0, tz).local(first) == unique
    return first[inverse], exists[inverse], (one != other)[inverse]


def _on_clock(clock: np.ndarray, missing: np.ndarray, tz: str, fractional: int) -> Times:
    known = clock[~missing]
    dates_only = bool(len(known)) and not (known % DAY).any()
    utc, exists, twice = np.zeros(len(clock), np.int64), np.ones(len(clock), bool), np.zeros(len(clock), bool)
    utc[~missing], exists[~missing], twice[~missing] = clock_to_utc(known, tz)
    # a day exists even where its midnight does not: there it starts when the clock has moved on
    skipped = ~exists & (not dates_only)
    return Times(utc, missing, skipped, int(twice.sum()), fractional, dates_only)


def _micro(stamps: np.ndarray) -> np.ndarray:
    return stamps.astype("datetime64[us]").astype(np.int64)
