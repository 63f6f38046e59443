"""``build sensors``: readings of sensors, their places and their connections become one graph."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal, TimeAxis, data_sha256, save
from stgraph.graph.time import instant, seconds, zone
from stgraph.io import sha256
from stgraph.roads.attach import LIMIT
from stgraph.sources import values as raw
from stgraph.sources.clock import (
    Layout,
    Service,
    StampNotes,
    Stamps,
    axis_from_start,
    fixed_zone,
    lay_out,
    seconds_of_day,
    to_utc,
    usual_step,
)
from stgraph.sources.edges import EdgeRule, Edges, make_edges
from stgraph.sources.locations import Placed, Places, place_sensors, places_of, read_locations, zone_warning
from stgraph.sources.pairs import Pairs, list_pairs, read_adjacency, read_edges
from stgraph.sources.read import Found, ReadOptions, read_readings
from stgraph.sources.readings import Readings
from stgraph.sources.road_distances import REACH, OnRoads, put_on_roads
from stgraph.sources.tables import check_names, form_of, names, read_table, table_columns
from stgraph.units import QUANTITIES

SIGNAL = "readings"
NEAR = ("sensor", "near", "sensor")


@dataclass(frozen=True)
class SensorOptions:
    """What :func:`build_sensors` is told. Every field is an option of ``stgraph build sensors``, which explains it."""

    # where things are in the file of readings
    key: str | None = None
    ids_key: str | None = None
    time_key: str | None = None
    sensor_key: str | None = None
    value_key: tuple[str, ...] = ()
    local_clock: bool = False
    # what the readings are
    quantity: str = "value"
    unit: str | None = None
    channels: str | None = None
    missing_value: tuple[float, ...] = ()
    # time
    tz: str | None = None
    start: str | None = None
    interval: str | None = None
    day_start: str | None = None
    steps_per_day: int | None = None
    weekdays_only: bool = False
    repair: bool = False
    # places and edges
    locations: str | None = None
    locations_key: str | None = None
    adjacency: str | None = None
    adjacency_key: str | None = None
    edges: str | None = None
    distance_unit: str | None = None
    roads: str | None = None
    heading_key: str | None = None
    road_name_key: str | None = None
    attach_limit: float = LIMIT
    at: str | None = None
    edge_rule: str = "auto"
    neighbours: int = 8
    radius: float | None = None
    threshold: float = 0.1
    sigma: float | None = None
    # the graph
    allow_empty: bool = False
    name: str | None = None
    simulated: bool = False
    licence: str | None = None
    attribution: str | None = None
    out: str | None = None

    def command(self, source: str) -> str:
        """The command line that says the same, with the names of files and not their folders."""
        words = ["stgraph", "build", "sensors", Path(source).name]
        for one in fields(self):
            value = getattr(self, one.name)
            if value == one.default:
                continue
            option = f"--{one.name.replace('_', '-')}"
            if value is True:
                words.append(option)
            for part in () if value is True else value if isinstance(value, tuple) else (value,):
                words += [option, Path(part).name if one.name in _FILES else f"{part}"]
        return shlex.join(words)


_FILES = ("locations", "adjacency", "edges", "roads", "out")


@dataclass
class _Timed:
    """Readings on a regular axis, and what it took."""

    values: np.ndarray  # [T, N, C] in the unit of the source, NaN where missing
    axis: TimeAxis
    layout: Layout
    notes: StampNotes
    coded: int = 0  # readings that were a code for missing
    merged: int = 0  # rows that fell on a row already taken
    warnings: list[str] = field(default_factory=list)


def build_sensors(source: Path | str | Readings, **options: Any) -> tuple[DynamicHeteroGraph, dict[str, Any]]:
    """Make a graph of sensors: nodes ``sensor``, edges ``sensor near sensor``, and the signal ``readings``.

    With ``roads`` every sensor also has the id of its segment, ``segment_id`` (empty where it is on none), and
    ``offset``, the metres after the start of that segment; edges are then ways by road, in driving direction.

    Values are stored in SI units as float32 ``[T, N, C]`` with a mask of what was observed; times as a regular axis in
    UTC that knows its zone. Whatever was repaired, dropped, or could not be matched is in the report and, but for the
    running time, in ``graph.metadata["build"]``.

    Args:
        source: A file of readings (see :func:`stgraph.sources.read.read_readings`), or readings.
        **options: Fields of :class:`SensorOptions`; with ``out`` the graph is saved there as a ``.stg`` bundle.

    Returns:
        The graph, and the report that the command prints with ``--json``.

    Raises:
        InputError: where something given cannot be used; file, field, value and remedy are named, and nothing is
            written.
    """
    started = time.perf_counter()
    chosen = _checked_options(options)
    found = _read(source, chosen)
    places = _places(chosen, found.readings)
    placed = place_sensors(found.readings.ids or None, found.readings.values.shape[1], places)
    check_names(placed.ids, found.readings.file, chosen.ids_key or "sensors")
    timed = _on_axis(found, placed.ids, chosen)
    channels = raw.channels_of(found.readings.values.shape[2], found.readings.channels, _split(chosen.channels),
                               chosen.quantity, chosen.unit, found.readings.file)
    signal = raw.to_signal(timed.values, channels)
    empty = _refuse_empty(signal, placed.ids, chosen, found.readings.file)
    on_roads = _on_roads(chosen, found.readings, placed, places, timed.axis)
    given = on_roads.pairs if on_roads is not None else _given_pairs(chosen, found.readings, placed.ids)
    edges = make_edges(_rule(chosen), placed.lonlat, placed.ids, given)
    warnings = [*timed.warnings, *_warnings(chosen, found, placed, signal, timed.axis),
                *(on_roads.warnings(placed.ids) if on_roads is not None else [])]
    report = _report(chosen, found, placed, timed, signal, edges, given, empty, warnings)
    if on_roads is not None:
        report |= on_roads.report(placed.ids)
    graph = _graph(placed, timed.axis, signal, edges, on_roads)
    graph.metadata = _metadata(chosen, found.readings.file, report, on_roads)
    graph.validate()
    if chosen.out is not None:
        save(graph, chosen.out)
        report |= {"out": chosen.out, "data_sha256": data_sha256(chosen.out)}
    return graph, report | {"seconds": round(time.perf_counter() - started, 3)}


# -------------------------------------------------------------------- options and input
def _checked_options(options: dict[str, Any]) -> SensorOptions:
    """Options as given from Python or the command line: paths become text, lists tuples; contradictions are refused."""
    plain: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
        for name, value in options.items()}
    chosen = SensorOptions(**plain)
    if chosen.tz is not None:
        zone(chosen.tz)
    for field_name, wrong, remedy in (
            ("start", chosen.start is not None and chosen.time_key is not None,
             "the file has times (--time-key), so leave out --start"),
            ("interval", chosen.start is not None and chosen.interval is None, "give --interval with --start"),
            ("day_start", chosen.day_start is not None and chosen.steps_per_day is None, "give --steps-per-day too"),
            ("weekdays_only", chosen.weekdays_only and chosen.steps_per_day is None, "give --steps-per-day too"),
            ("edges", chosen.edges is not None and chosen.adjacency is not None,
             "give --adjacency or --edges, not both"),
            ("roads", chosen.roads is not None and (chosen.adjacency or chosen.edges) is not None,
             "give --roads, --adjacency or --edges, only one of them"),
            ("edge_rule", chosen.roads is not None and chosen.edge_rule == "given",
             "with --roads edges are made of the ways by road: use gaussian, distance or knn"),
            ("heading_key", chosen.heading_key is not None and chosen.roads is None, "give --roads too"),
            ("road_name_key", chosen.road_name_key is not None and chosen.roads is None, "give --roads too"),
            ("at", chosen.at is not None and chosen.roads is None, "give --roads too")):
        if wrong:
            raise InputError("the options do not go together", field=field_name, value=getattr(chosen, field_name),
                             remedy=remedy)
    if not 0 < chosen.attach_limit < np.inf:
        raise InputError("out of range", field="attach_limit", value=chosen.attach_limit,
                         remedy="give a positive number of metres")
    if chosen.out is not None and Path(chosen.out).suffix != ".stg":
        raise InputError("a graph is saved as a .stg bundle", field="out", value=chosen.out,
                         remedy="end the name in .stg")
    _rule(chosen)
    return chosen


def _read(source: Path | str | Readings, chosen: SensorOptions) -> Found:
    """Readings with times in UTC, or without times."""
    tz = chosen.tz or "UTC"
    if not isinstance(source, Readings):
        return read_readings(source, ReadOptions(
            chosen.key, chosen.ids_key, chosen.time_key, chosen.sensor_key, chosen.value_key, chosen.local_clock, tz,
            chosen.start is not None, chosen.repair))
    source = replace(source, ids=names(source.ids))
    stamps = source.utc if source.clock is None else source.clock
    if stamps is None:
        if chosen.start is None:
            raise InputError("the readings have no times", file=source.file, field="start",
                             remedy="give --start and --interval")
        return Found(source, "array", StampNotes())
    if chosen.start is not None:
        raise InputError("the readings have times of their own", file=source.file, field="start", value=chosen.start,
                         remedy="leave out --start")
    utc, keep, notes = to_utc(Stamps(np.asarray(stamps, np.int64), source.clock is not None), tz,
                              repair=chosen.repair, file=source.file, field="time")
    return Found(replace(source, values=source.values[keep], utc=utc[keep], clock=None), "array", notes,
                 source.clock is not None)


def _places(chosen: SensorOptions, readings: Readings) -> Places | None:
    if chosen.locations is not None:
        key = chosen.locations_key
        hint = chosen.ids_key or chosen.sensor_key
        if key is None and hint and form_of(chosen.locations) and hint in table_columns(chosen.locations):
            key = hint
        return read_locations(chosen.locations, key)
    if readings.locations is None:
        return None
    table = readings.locations
    return places_of(table[["longitude", "latitude"]].to_numpy(np.float64), names(table.index), file=readings.file)


def _given_pairs(chosen: SensorOptions, readings: Readings, ids: list[str]) -> Pairs | None:
    """Pairs of an adjacency or edge list; None where there is none, or a rule of places was asked for."""
    if chosen.adjacency is not None:
        return read_adjacency(chosen.adjacency, chosen.adjacency_key, chosen.ids_key, ids,
                              as_distance=chosen.edge_rule in ("distance", "gaussian", "knn"))
    if chosen.edges is not None:
        return read_edges(chosen.edges, ids, chosen.distance_unit)
    if readings.edges is None:
        return None
    if chosen.edge_rule not in ("auto", "given") and "distance_m" not in readings.edges:
        return None
    table = readings.edges.assign(**{end: names(readings.edges[end]) for end in ("from", "to")})
    return list_pairs(table, ids, readings.file)


def _on_roads(chosen: SensorOptions, readings: Readings, placed: Placed, places: Places | None,
              axis: TimeAxis) -> OnRoads | None:
    """Sensors on the roads that were given, as these stand at the end of the readings or when it is said, and the ways
    between them; None without roads."""
    if chosen.roads is None:
        return None
    if places is None:
        raise InputError("sensors without places cannot be put on roads", field="roads", value=Path(chosen.roads).name,
                         remedy="give --locations")
    heading, name = (_of_places(chosen, key, readings, placed, places) if key is not None else None
                     for key in (chosen.heading_key, chosen.road_name_key))
    return put_on_roads(chosen.roads, placed.lonlat, heading, None if name is None else names(name),
                        chosen.attach_limit, chosen.radius,
                        instant(chosen.at, axis.tz) if chosen.at is not None else
                        int(axis.times(np.array([axis.length - 1]))[0]))


def _of_places(chosen: SensorOptions, key: str, readings: Readings, placed: Placed, places: Places) -> np.ndarray:
    """Another column of the table of places, a value for each sensor; None where it has no row."""
    if chosen.locations is not None:
        column = read_table(chosen.locations, [key])[0][key].to_numpy(object)
    else:
        assert readings.locations is not None  # that is where the places are from
        if key not in readings.locations:
            raise InputError("no such column", file=readings.file, field=key, value=key,
                             remedy=f"choose among {', '.join(map(str, readings.locations.columns))}")
        column = readings.locations[key].to_numpy(object)
    number = np.arange(len(column), dtype=np.float64)
    matched = replace(places, lonlat=np.column_stack([number, number]))  # the same match, with rows for places
    row = place_sensors(readings.ids or None, len(placed.ids), matched).lonlat[:, 0]
    found = np.full(len(row), None, dtype=object)
    found[~np.isnan(row)] = column[row[~np.isnan(row)].astype(np.int64)]
    return found


def _rule(chosen: SensorOptions) -> EdgeRule:
    radius = REACH if chosen.radius is None and chosen.roads is not None else chosen.radius
    return EdgeRule(chosen.edge_rule, chosen.neighbours, radius, chosen.threshold, chosen.sigma)


# -------------------------------------------------------------------- time and values
def _on_axis(found: Found, ids: list[str], chosen: SensorOptions) -> _Timed:
    readings, tz = found.readings, chosen.tz or "UTC"
    values, coded = raw.code_missing(np.asarray(readings.values, np.float32), chosen.missing_value)
    raw.check_finite(values, ids, readings.file)
    step = seconds(chosen.interval) if chosen.interval is not None else None
    service = None
    if chosen.steps_per_day is not None:
        day_start = seconds_of_day(chosen.day_start) if chosen.day_start is not None else None
        service = Service(chosen.steps_per_day, day_start, chosen.weekdays_only)
    if readings.utc is None:
        assert step is not None  # checked with the options
        axis = axis_from_start(str(chosen.start), step, len(readings.values), tz, service)
        layout = Layout(axis, np.arange(axis.length))
        return _Timed(values, axis, layout, found.notes, coded)
    where = {"file": readings.file, "field": chosen.time_key or "time"}
    layout = lay_out(readings.utc, tz, step, service, repair=chosen.repair, **where)
    merged = len(layout.rows) - len(np.unique(layout.rows))
    values = raw.on_grid(values, layout.rows, layout.axis.length)
    timed = _Timed(values, layout.axis, layout, found.notes, coded, merged)
    if step is not None and len(layout.rows) > 1 and (usual := usual_step(readings.utc, **where)) != step:
        timed.warnings.append(f"most times are {usual} s apart, but --interval is {step} s")
    if found.on_clock and chosen.tz is None:
        timed.warnings.append("the times carry no offset and no --tz was given: they are read as UTC")
    return timed


def _refuse_empty(signal: Signal, ids: list[str], chosen: SensorOptions, file: str) -> list[str]:
    empty = raw.empty_sensors(signal, ids)
    if empty and not chosen.allow_empty:
        raise InputError(f"{len(empty)} sensor{'s have' if len(empty) > 1 else ' has'} not a single reading", file=file,
                         field="sensors", value=", ".join(empty[:8]),
                         remedy="remove them, correct --missing-value, or keep them with --allow-empty")
    return empty


# -------------------------------------------------------------------- graph and report
def _graph(placed: Placed, axis: TimeAxis, signal: Signal, edges: Edges,
           on_roads: OnRoads | None = None) -> DynamicHeteroGraph:
    graph = DynamicHeteroGraph(time=axis)
    graph["sensor"].node_id = np.asarray(placed.ids, dtype=str)
    graph["sensor"].lonlat = torch.from_numpy(np.ascontiguousarray(placed.lonlat, np.float64))
    graph["sensor"].num_nodes = len(placed.ids)
    graph[NEAR].edge_index = torch.from_numpy(edges.index)
    graph[NEAR].edge_weight = torch.from_numpy(edges.weight)
    if edges.distance is not None:
        graph[NEAR].distance = torch.from_numpy(edges.distance)
    if on_roads is not None:
        graph["sensor"].segment_id = on_roads.segment_id
        graph["sensor"].offset = torch.from_numpy(on_roads.attached.offset)
        graph.declare("sensor", "segment_id", description="id of the segment it stands on; empty where on none")
        graph.declare("sensor", "offset", "m", "way from the start of the segment")
        if edges.distance is not None:
            graph.declare(NEAR, "distance", "m", "shortest way by road, in driving direction")
    graph.add_signal("sensor", SIGNAL, signal)
    return graph


def _warnings(chosen: SensorOptions, found: Found, placed: Placed, signal: Signal, axis: TimeAxis) -> list[str]:
    said = raw.implausible(signal, bool(chosen.missing_value))
    dimensional = sorted({channel.quantity for channel in signal.channels if QUANTITIES[channel.quantity] != "1"})
    if chosen.unit is None and dimensional:
        units = ", ".join(f"{name} in {QUANTITIES[name]}" for name in dimensional)
        said.append(f"no --unit was given: taken as {units}")
    if placed.matched == "by order":
        said.append("sensors and places were matched by order, not by name")
    if placed.zero:
        said.append(f"latitude 0 with longitude 0 is taken for an unknown place: {', '.join(placed.zero[:8])}")
    if found.notes.ambiguous:
        said.append(f"{found.notes.ambiguous} times are in the doubled hour of autumn, of which the file has only one: "
                    "taken for the first")
    if found.notes.nonexistent:
        said.append(f"{found.notes.nonexistent} times from {found.notes.nonexistent_at} on are in the hour that the "
                    f"clock of {axis.tz} skips: those rows are left out. If the clock of this file ignores summer "
                    f"time, give --tz {fixed_zone(axis)}")
    exchanged = zone_warning(placed.lonlat, axis.tz, axis.start)
    return [*said, exchanged] if exchanged else said


def _report(chosen: SensorOptions, found: Found, placed: Placed, timed: _Timed, signal: Signal, edges: Edges,
            given: Pairs | None, empty: list[str], warnings: list[str]) -> dict[str, Any]:
    axis, notes = timed.axis, timed.notes
    joined = np.zeros(len(placed.ids), bool)
    joined[edges.index.reshape(-1)] = True
    repaired = {"sorted": notes.decreasing, "merged": timed.merged, "rounded": timed.layout.rounded + notes.fractional}
    report: dict[str, Any] = {
        "sensors": len(placed.ids), "steps": axis.length, "channels": signal.channel_names,
        "quantity": [channel.quantity for channel in signal.channels],
        "unit": [channel.source_unit for channel in signal.channels],
        "interval_s": axis.step, "start": _local_time(axis, 0), "end": _local_time(axis, axis.length - 1),
        "tz": axis.tz, "steps_per_day": axis.steps_per_day, "weekdays_only": axis.weekdays_only,
        "form": found.form, "observed_share": round(float(np.asarray(signal.mask).mean()), 6),
        "missing_coded": timed.coded, "all_missing_sensors": empty, **timed.layout.gaps(),
        "duplicates": notes.duplicates, "ambiguous_hour": notes.ambiguous,
        "skipped_hour": notes.nonexistent,
        "repaired": {what: count for what, count in repaired.items() if count},
        "edges": edges.index.shape[1], "edge_rule": edges.rule, "self_loops_dropped": edges.loops,
        "isolated_sensors": [name for name, any_edge in zip(placed.ids, joined, strict=True) if not any_edge],
        "unused_in_edges": list(given.unused) if given is not None else [],
        "locations_matched": placed.matched, "without_location": placed.without, "unused_locations": placed.unused,
        "zero_locations": placed.zero, "warnings": warnings,
    }
    if edges.sigma is not None:
        report["sigma_m"] = round(edges.sigma, 3)
    if axis.steps_per_day is not None:
        report["partial_last_day_steps"] = axis.length % axis.steps_per_day
    return report


def _metadata(chosen: SensorOptions, file: str, report: dict[str, Any],
              on_roads: OnRoads | None = None) -> dict[str, Any]:
    """Where the graph comes from; names of files, never their folders."""
    sources = []
    files = [("readings", file), *((role, getattr(chosen, role)) for role in ("locations", "adjacency", "edges"))]
    for role, path in files:
        if path:
            entry = {"role": role, "file": Path(path).name, "licence": chosen.licence,
                     "attribution": chosen.attribution}
            if Path(path).is_file():
                entry["sha256"] = sha256(Path(path))
            sources.append({key: value for key, value in entry.items() if value})
    if on_roads is not None:  # the map keeps its own licence
        sources += [{"role": "roads", **one} for one in on_roads.sources] or [{"role": "roads", "file": on_roads.roads}]
    default = Path(chosen.out).stem if chosen.out else Path(file).stem
    return {"name": chosen.name or default or "sensors", "simulated": chosen.simulated, "sources": sources,
            "command": chosen.command(file or "READINGS"), "notes": report["warnings"],
            "build": {key: value for key, value in report.items() if key != "warnings"}}


def _local_time(axis: TimeAxis, row: int) -> str:
    instant = pd.Timestamp(int(axis.times(np.array([row]))[0]), unit="s", tz="UTC")
    return instant.tz_convert(axis.tz).isoformat()


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []
