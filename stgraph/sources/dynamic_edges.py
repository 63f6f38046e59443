"""Edges that are listed anew for each step become edges with a life.

An edge is kept once for each run of steps in which it stands with one weight: ``[valid_from, valid_to)`` and
``edge_weight`` per run. That is the sparse form: memory grows with what changes, and never beyond the lists
themselves, where a weight for each step and edge would be an array ``[T, E]`` of mostly nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, TimeAxis, data_sha256, save
from stgraph.graph.schema import EdgeType
from stgraph.io import sha256
from stgraph.sources.clock import parse_stamps, to_utc
from stgraph.sources.pairs import FROM, TO, WEIGHT
from stgraph.sources.raster.options import check_out
from stgraph.sources.readings import Readings
from stgraph.sources.sensors import NEAR, build_sensors
from stgraph.sources.tables import CSV, PARQUET, find_column, form_of, names, read_table, table_columns, to_numbers

STEP, TIME = ("step", "row"), ("time", "timestamp", "datetime", "date")


@dataclass(frozen=True)
class Runs:
    """Runs of consecutive rows in which something holds.

    Args:
        key: ``[R]`` int64, what holds; sorted, and for one key by row.
        first: ``[R]`` int64, first row of the run.
        last: ``[R]`` int64, first row after the run.
        value: ``[R]``, what it is worth in the run; None where there is nothing to tell.
    """

    key: np.ndarray
    first: np.ndarray
    last: np.ndarray
    value: np.ndarray | None = None


def merge_runs(key: np.ndarray, first: np.ndarray, last: np.ndarray, value: np.ndarray | None = None) -> Runs:
    """Join runs ``[first, last)`` of one key and one value that meet; runs of one key must not overlap."""
    order = np.lexsort((first, key))
    key, first, last = key[order], first[order], last[order]
    value = None if value is None else value[order]
    broken = np.ones(len(key), bool)
    broken[1:] = (key[1:] != key[:-1]) | (first[1:] != last[:-1])
    if value is not None:
        broken[1:] |= value[1:] != value[:-1]
    starts = np.flatnonzero(broken)
    ends = np.append(starts[1:], len(key)) - 1
    return Runs(key[starts], first[starts], last[ends[:len(starts)]], None if value is None else value[starts])


def life_of(axis: TimeAxis, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``valid_from`` and ``valid_to`` of runs of rows ``[first, last)``, seconds UTC, ``[R]`` int64 each.

    A run ends with the step of its last row, or where the next row starts: on the day that summer time begins, a daily
    row is an hour shorter.
    """
    end = axis.times(last - 1) + axis.step
    return axis.times(first), np.minimum(end, axis.times(last))


# -------------------------------------------------------------------- lists
def set_edges_per_step(graph: DynamicHeteroGraph, kind: EdgeType, lists: pd.DataFrame,
                       file: str = "") -> dict[str, Any]:
    """Give a graph the edges of a relation from one list per step; edges of that relation that it had are replaced.

    Args:
        graph: A graph with a time axis; it is changed.
        kind: The relation.
        lists: A row for each step and edge: ``step`` (row of the time axis) or ``utc`` (seconds), ``from``, ``to``
            (names of nodes) and, if known, ``weight``. A step without a row has no edges. A loop is an edge.
        file: For messages.

    Returns:
        What a report says of it.

    Raises:
        InputError: for a step that is not on the axis, a name that is no node, one edge twice in a step, or a weight
            that is negative or not a number.
    """
    if graph.time is None:
        raise InputError("edges per step need a time axis", field="time", remedy="set graph.time first")
    row = _rows(graph.time, lists, file)
    ends = [_positions(lists[end], graph[node].node_id, file, end)
            for end, node in (("from", kind[0]), ("to", kind[2]))]
    count = graph.size_of(kind[2])
    key = ends[0] * count + ends[1]
    weight = lists["weight"].to_numpy(np.float32) if "weight" in lists else None
    if weight is not None and not ((weight >= 0) & np.isfinite(weight)).all():
        bad = int(np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))[0])
        raise InputError(f"the weight in row {bad + 1} is negative or not a finite number", file=file, field="weight",
                         value=weight[bad], remedy="correct it, or remove the row")
    twice = pd.DataFrame({"row": row, "key": key}).duplicated()
    if twice.any():
        bad = int(twice.to_numpy().argmax())
        raise InputError(f"{int(twice.sum())} edges are listed twice in one step", file=file, field="edges",
                         value=f"{lists['from'].iloc[bad]} -> {lists['to'].iloc[bad]} in step {row[bad]}",
                         remedy="keep one row for each step and edge")
    runs = merge_runs(key, row, row + 1, weight)
    store = graph[kind]
    store.clear()
    store.edge_index = torch.from_numpy(np.stack(np.divmod(runs.key, count)))
    store.edge_weight = torch.ones(len(runs.key)) if runs.value is None else torch.from_numpy(runs.value)
    store.valid_from, store.valid_to = (torch.from_numpy(one) for one in life_of(graph.time, runs.first, runs.last))
    per_step = np.bincount(row, minlength=graph.time.length)
    return {"edges": len(runs.key), "edge_rows": len(row), "edge_pairs": len(np.unique(key)),
            "edges_per_step": [int(per_step.min()), int(per_step.max())],
            "steps_without_edges": int((per_step == 0).sum()), "self_loops": int((ends[0] == ends[1]).sum())
            if kind[0] == kind[2] else 0}


def read_edges_per_step(path: Path | str, tz: str = "UTC", local_clock: bool = False) -> pd.DataFrame:
    """A CSV or Parquet table of edges per step, for :func:`set_edges_per_step`.

    Columns ``from`` and ``to`` (or ``source, target``), ``step`` (row from 0) or ``time``, and perhaps ``weight``.

    Args:
        path: The table.
        tz: Zone of times without an offset.
        local_clock: Whether whole-number times count on that clock.

    Raises:
        InputError: where a column is missing, or a value is not of its kind.
    """
    path = Path(path)
    if form_of(path) not in (*CSV, *PARQUET):
        raise InputError("edges per step are a CSV or Parquet table", file=path, field="edges", value=path.name,
                         remedy="write columns step, from, to, weight")
    columns = table_columns(path)
    found = {word: find_column(columns, known) for word, known in (
        ("from", FROM), ("to", TO), ("weight", WEIGHT), ("step", STEP), ("time", TIME))}
    for wanted, there in (("from", found["from"]), ("to", found["to"]), ("step", found["step"] or found["time"])):
        if there is None:
            raise InputError(f"no column '{wanted}'", file=path, field=wanted, value=", ".join(columns),
                             remedy="name the columns step (or time), from, to, and perhaps weight")
    table, _ = read_table(path, text=[name for name in found.values() if name])
    frame = pd.DataFrame({end: names(table[str(found[end])]) for end in ("from", "to")})
    if found["weight"]:
        frame["weight"] = to_numbers(table[found["weight"]], path, found["weight"])
    if found["step"]:
        steps = to_numbers(table[found["step"]], path, found["step"])
        wrong = ~(np.abs(steps) < 2**53) | (steps != np.floor(steps))
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(f"the step in row {row + 1} is not a whole number that can be counted", file=path,
                             field=found["step"], value=steps[row], remedy="count rows from 0, or give times")
        return frame.assign(step=steps.astype(np.int64))
    stamps = parse_stamps(table[str(found["time"])], local_clock, path, str(found["time"]), floor=True)
    # many edges share one time: order and doubles say nothing here
    utc, keep, _ = to_utc(stamps, tz, repair=True, file=path, field=str(found["time"]))
    return frame.assign(utc=utc)[keep].reset_index(drop=True)


def _rows(axis: TimeAxis, lists: pd.DataFrame, file: str) -> np.ndarray:
    if not len(lists):
        raise InputError("there is no edge", file=file, field="edges", value="0 rows", remedy="list them")
    by = "step" if "step" in lists else "utc"
    given = lists[by].to_numpy(np.int64)
    row = given if by == "step" else np.asarray(axis.row_of(given))
    wrong = np.flatnonzero((row < 0) | (row >= axis.length))
    if len(wrong):
        raise InputError(f"{len(wrong)} edges are in no step of the readings", file=file, field=by,
                         value=f"{given[wrong[0]]} in row {wrong[0] + 1}",
                         remedy=f"the readings have steps 0 to {axis.length - 1}: remove those rows")
    return row


def _positions(named: pd.Series, ids: np.ndarray, file: str, field: str) -> np.ndarray:
    place = pd.Index(ids.astype(object))
    found = place.get_indexer(pd.Index(named.astype(str)))
    wrong = np.flatnonzero(found < 0)
    if len(wrong):
        raise InputError(f"{len(wrong)} edges name what is no sensor of the readings", file=file, field=field,
                         value=f"{named.iloc[wrong[0]]} in row {wrong[0] + 1}; sensors are {', '.join(place[:3])}",
                         remedy="name the sensors as in the readings")
    return found.astype(np.int64)


# -------------------------------------------------------------------- the builder
def build_dynamic(source: Path | str | Readings, edges: Path | str | pd.DataFrame,
                  **options: Any) -> tuple[DynamicHeteroGraph, dict[str, Any]]:
    """Make a graph of sensors whose edges are listed for each step.

    Everything but the edges is as in :func:`stgraph.sources.sensors.build_sensors`. The relation is ``sensor near
    sensor``; see the head of this module for the form of its edges. ``graph.at(t)`` has exactly the list of that step.

    Args:
        source: Readings, as for ``build_sensors``.
        edges: A table for :func:`read_edges_per_step`, or a frame for :func:`set_edges_per_step`.
        **options: Options of ``build_sensors`` but for adjacency, edges and the edge rule.

    Raises:
        InputError: where something given cannot be used; nothing is written.
    """
    started = time.perf_counter()
    for name in ("adjacency", "edges", "edge_rule"):
        if options.get(name) not in (None, "auto"):
            raise InputError("edges are listed per step, so there is no other rule", field=name, value=options[name],
                             remedy="leave it out")
    out = options.pop("out", None)
    out = None if out is None else str(out)
    check_out(out)
    if out is not None and options.get("name") is None:
        options["name"] = Path(out).stem
    graph, report = build_sensors(source, **options)
    file = "" if isinstance(edges, pd.DataFrame) else str(edges)
    lists = edges if isinstance(edges, pd.DataFrame) else \
        read_edges_per_step(edges, options.get("tz") or "UTC", bool(options.get("local_clock")))
    listed = set_edges_per_step(graph, NEAR, lists, file=file)
    joined = np.zeros(graph.size_of("sensor"), bool)
    joined[graph[NEAR].edge_index.numpy().reshape(-1)] = True
    isolated = [str(name) for name in graph["sensor"].node_id[~joined]]
    report |= listed | {"edge_rule": "per step", "self_loops_dropped": 0, "isolated_sensors": isolated,
                        "unused_in_edges": []}
    report.pop("sigma_m", None)
    report.pop("seconds", None)
    graph.metadata["build"] = {key: value for key, value in report.items() if key != "warnings"}
    graph.metadata["command"] = _command(str(graph.metadata["command"]), file, out)
    if file:
        graph.metadata["sources"].append({"role": "edges", "file": Path(file).name, "sha256": sha256(Path(file))})
    graph.validate()
    if out is not None:
        save(graph, out)
        report |= {"out": out, "data_sha256": data_sha256(out)}
    return graph, report | {"seconds": round(time.perf_counter() - started, 3)}


def _command(sensors: str, edges: str, out: str | None) -> str:
    words = sensors.replace("stgraph build sensors", "stgraph build dynamic", 1)
    return words + (f" --edges {Path(edges).name}" if edges else "") + (f" --out {Path(out).name}" if out else "")
