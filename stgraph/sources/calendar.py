"""The calendar as nodes: weekends, holidays and school days of a region, known ahead, with edges to what they affect.

Holidays are those of a table; none are built in.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal, TimeAxis
from stgraph.graph.signal import Channel
from stgraph.graph.time import DAY
from stgraph.sources.tables import find_column, read_table, table_columns

CALENDAR, AFFECTS, FLAGS = "calendar", "affects", "flags"
CHANNELS = ("weekend", "holiday", "school_holiday")
TABLE = "holidays"
_DATE, _UNTIL, _NAME, _REGION = (("date", "from", "day", "start"), ("until", "to", "end"), ("name", "holiday"),
                                 ("region", "country", "city"))


@dataclass(frozen=True)
class Holidays:
    """Days off.

    Args:
        first: ``[D]`` int64, first day of each, counted from 1970-01-01.
        last: ``[D]`` int64, last day of each.
        name: ``[D]`` names.
        region: ``[D]`` regions; an empty text means all.
        kind: ``[D]`` ``holiday`` or ``school_holiday``.
    """

    first: np.ndarray
    last: np.ndarray
    name: list[str]
    region: list[str]
    kind: list[str]

    def flags(self, days: np.ndarray, region: str, kind: str) -> np.ndarray:
        """Whether each day ``[T]`` is one of a kind in a region."""
        out = np.zeros(len(days), bool)
        for i, name in enumerate(self.region):
            if self.kind[i] == kind and name in ("", region):
                out |= (days >= self.first[i]) & (days <= self.last[i])
        return out


def read_holidays(source: Path | str | pd.DataFrame, kind: str = "holiday") -> Holidays:
    """Days off from a CSV or Parquet table, or a frame: ``date``, perhaps ``until`` (the last day), ``name``, and
    ``region`` or ``country``.

    Args:
        source: The table.
        kind: ``holiday`` or ``school_holiday``.

    Raises:
        InputError: where the column of dates is missing, or a date is none.
    """
    if isinstance(source, pd.DataFrame):
        columns, file = [str(name) for name in source.columns], "holidays"
    else:
        columns, file = table_columns(source), str(source)
    found = {what: find_column(columns, known) for what, known in (
        ("date", _DATE), ("until", _UNTIL), ("name", _NAME), ("region", _REGION))}
    if found["date"] is None:
        raise InputError("no column of dates", file=file, field="date", value=", ".join(columns),
                         remedy="write columns date, name and, if they differ, region")
    used = [name for name in found.values() if name]
    table = {name: source[name] for name in used} if isinstance(source, pd.DataFrame) else \
        read_table(source, text=used)[0]
    first = _days(table[found["date"]], file, found["date"])
    last = first if found["until"] is None else _days(table[found["until"]], file, found["until"], first)
    if (last < first).any():
        row = int((last < first).argmax())
        raise InputError(f"the days off in row {row + 1} end before they begin", file=file, field=found["until"],
                         value=str(np.datetime64(int(last[row]), "D")), remedy="swap the two dates")

    def words(what: str) -> list[str]:
        column = found[what]
        return [""] * len(first) if column is None else \
            table[column].where(table[column].notna(), "").astype(str).str.strip().tolist()

    return Holidays(first, last, words("name"), words("region"), [kind] * len(first))


def add_calendar(graph: DynamicHeteroGraph, holidays: Path | str | pd.DataFrame | None = None,
                 school: Path | str | pd.DataFrame | None = None, *, to: Sequence[str] | None = None,
                 region: str | None = None, weekend: Sequence[int] = (5, 6)) -> DynamicHeteroGraph:
    """A graph with a calendar: a node ``calendar`` for each region, its signal ``flags``, edges ``calendar affects X``.

    The channels of ``flags`` are ``weekend``, ``holiday`` and ``school_holiday``, 1 or 0 by the local date of each row.
    Where no table of holidays is given they are not known, which the mask says; none are built in. A calendar is known
    ahead: the tables travel with the graph, and :func:`future_flags` gives any rows after the last.

    Args:
        graph: A graph with a time axis; it is not changed.
        holidays: Table of public holidays, see :func:`read_holidays`; None where they are not known.
        school: Table of school holidays, in the same form.
        to: Node types that the calendar affects; None for all.
        region: Attribute (texts) of those types that names the region of each node; None: all are in one region, that
            has the name of the graph.
        weekend: Days of the week that are weekend; Monday is 0.

    Raises:
        InputError: where the graph has no time axis, a type or attribute is missing, or a table cannot be read.
    """
    if graph.time is None:
        raise InputError("a calendar needs a time axis", field="time", remedy="build the graph with readings first")
    if CALENDAR in graph.node_types:
        raise InputError("the graph has a calendar already", field="type", value=CALENDAR, remedy="add it once")
    if bad := [day for day in weekend if day not in range(7)]:
        raise InputError("not a day of the week", field="weekend", value=bad[0], remedy="0 is Monday, 6 is Sunday")
    kinds = list(graph.node_types) if to is None else list(to)
    member = {kind: _regions(graph, kind, region) for kind in kinds}
    names = sorted(set().union(*(set(one.tolist()) for one in member.values())))
    table = _table(holidays, school)
    out = copy.copy(graph)
    out[CALENDAR].node_id = np.asarray(names, dtype=str)
    out[CALENDAR].num_nodes = len(names)
    for kind, regions in member.items():
        index = np.stack([np.searchsorted(names, regions), np.arange(len(regions))]).astype(np.int64)
        out[CALENDAR, AFFECTS, kind].edge_index = torch.from_numpy(index)
    out.tables[TABLE] = table
    known = {"holiday": holidays is not None, "school_holiday": school is not None}
    out.metadata["calendar"] = {"weekend": [int(day) for day in weekend], "known": known, "known_ahead": True}
    out.add_signal(CALENDAR, FLAGS, _flags(out, graph.time, np.arange(graph.time.length)))
    return out


def future_flags(graph: DynamicHeteroGraph, rows: np.ndarray | None = None, horizon: int = 0) -> Signal:
    """The calendar of any rows, also after the last: ``[rows, regions, 3]``.

    Args:
        graph: A graph of :func:`add_calendar`.
        rows: Rows of its time axis, may be beyond its end; None for the ``horizon`` rows after the last.
        horizon: How many rows.

    Raises:
        InputError: where the graph has no calendar.
    """
    if CALENDAR not in graph.node_types or graph.time is None:
        raise InputError("the graph has no calendar", field="type", value=CALENDAR, remedy="add one with add_calendar")
    wanted = np.arange(graph.time.length, graph.time.length + horizon) if rows is None else np.asarray(rows, np.int64)
    return _flags(graph, graph.time, wanted)


# -------------------------------------------------------------------- parts
def _flags(graph: DynamicHeteroGraph, axis: TimeAxis, rows: np.ndarray) -> Signal:
    said = graph.metadata["calendar"]
    table = graph.table(TABLE)
    held = Holidays(*(table[name].to_numpy() for name in ("first", "last")),
                    *(table[name].to_pylist() for name in ("name", "region", "kind")))
    _, weekday, day = axis.calendar(rows)
    regions = graph[CALENDAR].node_id.tolist()
    values = np.zeros((len(rows), len(regions), len(CHANNELS)), np.float32)
    mask = np.ones(values.shape, bool)
    values[..., 0] = np.isin(weekday, said["weekend"])[:, None]
    for channel, kind in enumerate(CHANNELS[1:], 1):
        mask[..., channel] = said["known"][kind]
        for i, name in enumerate(regions):
            values[:, i, channel] = held.flags(day, name, kind)
    return Signal(values, mask, [Channel(name, "share") for name in CHANNELS])


def _table(holidays: Path | str | pd.DataFrame | None, school: Path | str | pd.DataFrame | None) -> pa.Table:
    parts = [read_holidays(source, kind) for source, kind in ((holidays, "holiday"), (school, "school_holiday"))
             if source is not None]
    days = {name: np.concatenate([np.zeros(0, np.int64), *(getattr(one, name) for one in parts)])
            for name in ("first", "last")}
    texts = {name: pa.array([word for one in parts for word in getattr(one, name)], pa.string())
             for name in ("name", "region", "kind")}
    return pa.table({**{name: pa.array(values) for name, values in days.items()}, **texts})


def _regions(graph: DynamicHeteroGraph, kind: str, attribute: str | None) -> np.ndarray:
    """Name of the region of each node, ``[N]`` str."""
    if kind not in graph.node_types:
        raise InputError("the graph has no such nodes", field="to", value=kind,
                         remedy=f"choose among {', '.join(graph.node_types)}")
    if attribute is None:
        return np.full(graph.size_of(kind), str(graph.metadata.get("name") or CALENDAR))
    values = graph[kind].get(attribute)
    if isinstance(values, torch.Tensor) and attribute in graph.schema.of(kind):
        words = graph.schema.of(kind)[attribute].categories
        values = None if words is None else np.asarray(words, dtype=str)[values.numpy()]
    if not isinstance(values, np.ndarray):
        raise InputError("the nodes do not name their region", field=f"{kind}.{attribute}",
                         remedy="give an attribute of texts, or leave out the region")
    return values.astype(str)


def _days(column: pd.Series, file: str, field: str, otherwise: np.ndarray | None = None) -> np.ndarray:
    """Dates as days since 1970-01-01; where one is missing, that of ``otherwise``."""
    text = column.reset_index(drop=True)
    found = pd.to_datetime(text if text.dtype.kind == "M" else text.astype("string").str.strip(), format="ISO8601",
                           errors="coerce")
    empty = text.isna() | (text.astype("string").str.strip() == "")
    bad = np.flatnonzero((found.isna() & ~(empty if otherwise is not None else False)).to_numpy(bool))
    if len(bad):
        raise InputError(f"not a date in row {bad[0] + 1}", file=file, field=field, value=text[bad[0]],
                         remedy="write it like 2020-12-25")
    days = found.to_numpy().astype("datetime64[s]").astype(np.int64) // DAY
    return days if otherwise is None else np.where(found.isna(), otherwise, days)
