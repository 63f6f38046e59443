"""``build moving``: stations that move (buoys, balloons, probe cars) become one graph whose edges live in time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal, TimeAxis, data_sha256, save
from stgraph.graph.schema import EdgeType
from stgraph.graph.signal import Channel
from stgraph.graph.time import seconds, zone
from stgraph.sources import values as raw
from stgraph.sources.clock import StampNotes, check_divides_day, parse_stamps, to_utc
from stgraph.sources.dynamic_edges import life_of, merge_runs
from stgraph.sources.events.hyperedges import time_bins
from stgraph.sources.locations import LATITUDE, LONGITUDE, places_of
from stgraph.sources.pairs import nearest_pairs, pairs_within
from stgraph.sources.raster.options import check_out, provenance, span, words_of
from stgraph.sources.tables import (
    CSV,
    PARQUET,
    check_names,
    find_column,
    form_of,
    names,
    read_table,
    table_columns,
    to_numbers,
)

STATION, POSITION, READINGS = "station", "position", "readings"
NEAR: EdgeType = (STATION, "near", STATION)
IDS = ("station", "station_id", "sensor", "sensor_id", "buoy", "vehicle", "vehicle_id", "trip", "id", "name")
TIME = ("time", "timestamp", "datetime", "date")
_CHUNK = 256  # steps whose edges are held before runs of them are joined


@dataclass(frozen=True)
class MovingOptions:
    """What :func:`build_moving` is told. Every field is an option of ``stgraph build moving``, which explains it."""

    station_key: str | None = None
    time_key: str | None = None
    longitude_key: str | None = None
    latitude_key: str | None = None
    value_key: tuple[str, ...] = ()
    local_clock: bool = False
    quantity: str = "value"
    unit: str | None = None
    channels: str | None = None
    missing_value: tuple[float, ...] = ()
    tz: str | None = None
    interval: str | None = None
    repair: bool = False
    neighbours: int = 4
    radius: float | None = None
    name: str | None = None
    simulated: bool = False
    licence: str | None = None
    attribution: str | None = None
    out: str | None = None


@dataclass
class _Points:
    """Rows of the file: station, time, place, values."""

    ids: list[str]
    station: np.ndarray  # [rows] int64
    utc: np.ndarray  # [rows] int64
    lonlat: np.ndarray  # [rows, 2], NaN where unknown
    values: np.ndarray  # [rows, C] float32 in the unit of the source, NaN where missing
    channels: list[str]
    notes: StampNotes
    zero: int
    on_clock: bool


def build_moving(source: Path | str | pd.DataFrame, **options: Any) -> tuple[DynamicHeteroGraph, dict[str, Any]]:
    """Make a graph of stations that move: nodes ``station``, edges ``station near station`` that live in time.

    Row ``i`` of the time axis holds what was measured in ``[t_i, t_i + step)``. The signal ``position`` ``[T, N, 2]``
    (longitude, latitude in degrees, float64) is the last place that a station reported in the step; where it reported
    none, its place is not observed, and it has no edges. The signal ``readings`` ``[T, N, C]`` is the mean of what was
    measured in the step. Edges are made anew for each step by geodesic distance, so neither the date line nor the
    poles matter, and edges that stay are joined: ``graph.at(t)`` has the edges of :func:`edges_of` at that step.

    Args:
        source: A CSV or Parquet table with a row for each station and time, or a frame.
        **options: Fields of :class:`MovingOptions`; with ``out`` the graph is saved there as a ``.stg`` bundle.

    Returns:
        The graph, and the report that the command prints with ``--json``.

    Raises:
        InputError: where something given cannot be used; file, field, value and remedy are named, and nothing is
            written.
    """
    started = time.perf_counter()
    chosen = _checked(options)
    file = "" if isinstance(source, pd.DataFrame) else str(source)
    points = _read(source, chosen)
    axis, row = _axis(points, chosen, file)
    positions, readings, merged = _signals(points, axis, row, chosen, file)
    index, first, last, per_step = _edges(positions, points.ids, chosen)
    graph = DynamicHeteroGraph(time=axis)
    graph[STATION].node_id = np.asarray(points.ids, dtype=str)
    graph[STATION].num_nodes = len(points.ids)
    graph[NEAR].edge_index = torch.from_numpy(index)
    graph[NEAR].edge_weight = torch.ones(index.shape[1])
    graph[NEAR].valid_from, graph[NEAR].valid_to = (torch.from_numpy(one) for one in life_of(axis, first, last))
    graph.add_signal(STATION, POSITION, positions)
    if readings is not None:
        graph.add_signal(STATION, READINGS, readings)
    report = _report(points, axis, positions, readings, merged, index, per_step, chosen)
    graph.metadata = provenance("moving", "points", file, chosen, report)
    graph.validate()
    if chosen.out is not None:
        save(graph, chosen.out)
        report |= {"out": chosen.out, "data_sha256": data_sha256(chosen.out)}
    return graph, report | {"seconds": round(time.perf_counter() - started, 3)}


def edges_of(lonlat: np.ndarray, ids: list[str], neighbours: int = 4, radius: float | None = None) -> np.ndarray:
    """Edges among stations at one instant, ``[2, E]`` int64, source and target, sorted.

    To each station from its nearest ``neighbours``, ties in the order of names; or, with a radius, both directions of
    every pair not farther apart. Distances are geodesic.

    Args:
        lonlat: ``[N, 2]`` degrees, NaN where a station's place is not known.
        ids: Names of the stations.
        neighbours: How many neighbours.
        radius: In m; None for the nearest.
    """
    if int((~np.isnan(lonlat).any(1)).sum()) < 2:
        return np.zeros((2, 0), np.int64)
    pairs = nearest_pairs(lonlat, ids, neighbours) if radius is None else pairs_within(lonlat, radius)
    order = np.lexsort((pairs.target, pairs.source))
    return np.stack([pairs.source[order], pairs.target[order]]).astype(np.int64)


# -------------------------------------------------------------------- input
def _checked(options: dict[str, Any]) -> MovingOptions:
    plain: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
        for name, value in options.items()}
    chosen = MovingOptions(**plain)
    zone(chosen.tz or "UTC")
    for field, wrong, remedy in (
            ("neighbours", chosen.neighbours < 1, "give a positive number of stations"),
            ("radius", chosen.radius is not None and not 0 < chosen.radius < np.inf, "give a positive number of m")):
        if wrong:
            raise InputError("out of range", field=field, value=getattr(chosen, field), remedy=remedy)
    check_out(chosen.out)
    return chosen


def _read(source: Path | str | pd.DataFrame, chosen: MovingOptions) -> _Points:
    if isinstance(source, pd.DataFrame):
        columns, path = [str(name) for name in source.columns], Path("points")
    else:
        path = Path(source)
        if form_of(path) not in (*CSV, *PARQUET):
            raise InputError("points are a CSV or Parquet table", file=path, field="points", value=path.name,
                             remedy="write columns station, time, longitude, latitude, and what was measured")
        columns = table_columns(path)
    found = {}
    for what, given, known in (("station", chosen.station_key, IDS), ("time", chosen.time_key, TIME),
                               ("longitude", chosen.longitude_key, LONGITUDE),
                               ("latitude", chosen.latitude_key, LATITUDE)):
        column = given or find_column(columns, known)
        if column is None or column not in columns:
            raise InputError(f"no column of the {what}", file=path, field=f"{what}_key", value=", ".join(columns),
                             remedy=f"name it with --{what}-key")
        found[what] = column
    channels = list(chosen.value_key) or [name for name in columns if name not in found.values()
                                          and not name.startswith("__index_level_")]
    text = list(dict.fromkeys([*found.values(), *channels]))
    if isinstance(source, pd.DataFrame):
        if missing := [name for name in channels if name not in columns]:
            raise InputError("no such column", field=missing[0], remedy=f"choose among {', '.join(columns)}")
        table: dict[str, pd.Series] = {name: source[name].reset_index(drop=True) for name in text}
    else:
        table, _ = read_table(path, text=text)
    return _points(table, found, channels, path, chosen)


def _points(table: dict[str, pd.Series], found: dict[str, str], channels: list[str], path: Path,
            chosen: MovingOptions) -> _Points:
    named = names(table[found["station"]])
    station, ids = pd.factorize(pd.Series(named, dtype=object))
    check_names([str(one) for one in ids], path, found["station"])
    stamps = parse_stamps(table[found["time"]], chosen.local_clock, path, found["time"], floor=True)
    utc, keep, notes = to_utc(stamps, chosen.tz or "UTC", repair=chosen.repair, file=path, field=found["time"],
                              groups=station)
    lonlat = np.stack([to_numbers(table[found[axis]], path, found[axis]) for axis in ("longitude", "latitude")], axis=1)
    places = places_of(lonlat, None, file=str(path))
    values = np.zeros((len(utc), len(channels)), np.float32)
    for i, name in enumerate(channels):
        values[:, i] = _readings(to_numbers(table[name], path, name), chosen.missing_value, path, name)
    return _Points([str(one) for one in ids], station[keep].astype(np.int64), utc[keep], places.lonlat[keep],
                   values[keep], channels, notes, len(places.zero), stamps.on_clock)


def _readings(numbers: np.ndarray, missing: tuple[float, ...], path: Path, name: str) -> np.ndarray:
    """Readings ``[rows]`` float32, NaN where one is a code for missing."""
    with np.errstate(over="ignore"):  # too large becomes infinite, and is refused
        values, _ = raw.code_missing(numbers.astype(np.float32), missing)
    large = np.flatnonzero(np.isinf(values))
    if len(large):
        problem = "an infinite reading" if np.isinf(numbers[large[0]]) else "a reading that is too large"
        raise InputError(f"{problem} in row {large[0] + 1}", file=path, field=name, value=numbers[large[0]],
                         remedy="correct it, or leave it empty where nothing was measured")
    return values


# -------------------------------------------------------------------- time and signals
def _axis(points: _Points, chosen: MovingOptions, file: str) -> tuple[TimeAxis, np.ndarray]:
    """The axis, whole steps from a local midnight on that begin with the first point, and the row of each point."""
    tz = chosen.tz or "UTC"
    if not len(points.utc):
        raise InputError("no usable time is left", file=file, field="time", remedy="check --tz and the times")
    step = seconds(chosen.interval) if chosen.interval is not None else _usual_step(points, file)
    check_divides_day(step)
    first, last = int(points.utc.min()), int(points.utc.max())
    cells = ((last - first) // step + 1) * len(points.ids)
    if cells > max(50_000_000, 50 * len(points.utc)):
        raise InputError(f"{len(points.utc):,} points would be spread over {cells:,} steps of stations", file=file,
                         field="interval", value=f"{step} s", remedy="correct the times that are far from the others, "
                                                                     "or give a longer --interval")
    axis, row = time_bins(points.utc, step, tz)
    return axis.slice(int(row.min()), axis.length), row - row.min()


def _usual_step(points: _Points, file: str) -> int:
    """The most common time between two points of one station, in s."""
    order = np.lexsort((points.utc, points.station))
    apart = np.diff(points.utc[order])[np.diff(points.station[order]) == 0]
    differences, counts = np.unique(apart[apart > 0], return_counts=True)
    if not len(differences):
        raise InputError("no station has two times, so the interval cannot be seen", file=file, field="interval",
                         remedy="give --interval")
    return int(differences[counts.argmax()])


def _signals(points: _Points, axis: TimeAxis, row: np.ndarray, chosen: MovingOptions,
             file: str) -> tuple[Signal, Signal | None, int]:
    """The last place and the mean reading of each station in each step; how many points shared theirs."""
    count = len(points.ids)
    cell = row * count + points.station
    size = axis.length * count
    place, known = np.zeros((size, 2)), np.zeros(size, bool)
    fixed = np.flatnonzero(~np.isnan(points.lonlat).any(1))
    fixed = fixed[np.argsort(points.utc[fixed], kind="stable")]
    place[cell[fixed]] = points.lonlat[fixed]  # of several, the last is kept
    known[cell[fixed]] = True
    degrees = [Channel(name, "value", "degree") for name in ("longitude", "latitude")]
    positions = Signal(place.reshape(axis.length, count, 2),
                       np.repeat(known.reshape(axis.length, count, 1), 2, axis=2), degrees)
    merged = len(cell) - len(np.unique(cell))
    if not points.channels:
        return positions, None, merged
    means = np.full((size, len(points.channels)), np.nan, np.float32)
    for channel in range(len(points.channels)):
        seen = ~np.isnan(points.values[:, channel])
        counts = np.bincount(cell[seen], minlength=size)
        totals = np.bincount(cell[seen], points.values[seen, channel].astype(np.float64), minlength=size)
        means[counts > 0, channel] = totals[counts > 0] / counts[counts > 0]
    channels = raw.channels_of(len(points.channels), points.channels, words_of(chosen.channels), chosen.quantity,
                               chosen.unit, file)
    return positions, raw.to_signal(means.reshape(axis.length, count, -1), channels), merged


# -------------------------------------------------------------------- edges and report
def _edges(positions: Signal, ids: list[str],
           chosen: MovingOptions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges ``[2, E]``, first row and row after the last of each, and how many there are in each step."""
    length, count, _ = positions.shape
    per_step = np.zeros(length, np.int64)
    runs = merge_runs(*(np.zeros(0, np.int64) for _ in range(3)))
    for start in range(0, length, _CHUNK):
        keys, rows = [], []
        for step in range(start, min(start + _CHUNK, length)):
            values, mask = positions.read(step, step + 1)
            index = edges_of(np.where(mask[0], values[0], np.nan), ids, chosen.neighbours, chosen.radius)
            per_step[step] = index.shape[1]
            keys.append(index[0] * count + index[1])
            rows.append(np.full(index.shape[1], step, np.int64))
        key, row = np.concatenate(keys), np.concatenate(rows)
        runs = merge_runs(np.concatenate([runs.key, key]), np.concatenate([runs.first, row]),
                          np.concatenate([runs.last, row + 1]))
    return np.stack(np.divmod(runs.key, count)), runs.first, runs.last, per_step


def _report(points: _Points, axis: TimeAxis, positions: Signal, readings: Signal | None, merged: int,
            index: np.ndarray, per_step: np.ndarray, chosen: MovingOptions) -> dict[str, Any]:
    warnings = [] if readings is None else raw.implausible(readings, bool(chosen.missing_value))
    if points.on_clock and chosen.tz is None:
        warnings.append("the times carry no offset and no --tz was given: they are read as UTC")
    if points.zero:
        warnings.append(f"{points.zero} points say latitude 0 with longitude 0: taken for an unknown place")
    if points.notes.nonexistent:
        warnings.append(f"{points.notes.nonexistent} points are in the hour that the clock of {axis.tz} skips: "
                        "left out")
    channels = () if readings is None else readings.channels
    repaired = {"sorted": points.notes.decreasing, "merged": points.notes.duplicates,
                "rounded": points.notes.fractional}
    return {
        "stations": len(points.ids), "points": len(points.utc), "channels": [one.name for one in channels],
        "quantity": [one.quantity for one in channels], "unit": [one.source_unit for one in channels], **span(axis),
        "position_share": round(float(np.asarray(positions.mask)[..., 0].mean()), 6),
        "observed_share": None if readings is None else round(float(np.asarray(readings.mask).mean()), 6),
        "points_merged_in_steps": merged, "repaired": {what: many for what, many in repaired.items() if many},
        "edges": index.shape[1], "edge_rule": "knn" if chosen.radius is None else "distance",
        "edges_per_step": [int(per_step.min()), int(per_step.max())],
        "edge_steps": int(per_step.sum()), "warnings": warnings,
    }
