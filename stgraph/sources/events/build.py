"""``build events``: rows of (type, place, time, marks) become event nodes, each attached to exactly one place.

Node types: ``event`` (``node_id``, ``time`` in s UTC, ``type``, ``lonlat`` or ``pos``, marks, ``sequence``), in the
order of sequence and time; the place types of the map as they were, or ``cell`` or ``region``; ``group`` (place, bin,
type). Relations: ``event at PLACE`` (``distance``, and ``offset`` on segments), ``event in group``, ``group of PLACE``.
Row ``i`` of the first two belongs to event ``i``. What could not be attached is the loose table ``unattached``, with
the reason: attached and unattached events together are those that were read.

Real sets, each by one command (``D`` is the folder of data sets; the first two street networks are made before):

.. code-block:: sh

    stgraph build events $D/chicago_crime/chicago_crime.parquet --grid 500m --tz America/Chicago -o chicago.stg
    stgraph build events $D/houston_crime/houston_crime.parquet --type-key offense --mark premise --mark number \
        --grid 1km --limit 80km --tz America/Chicago -o houston.stg
    stgraph build roads --nodes $D/valencia_crime_network/network.npz --edges $D/valencia_crime_network/network.npz \
        --two-way -o valencia-roads.stg
    stgraph build events $D/valencia_crime_network/crimes_2019.parquet --on valencia-roads.stg --crs none \
        --time-key t --start 2010-01-02 --time-unit d --local-clock --tz Europe/Madrid -o valencia.stg
    stgraph build roads --lines $D/montreal_bike_accidents/mtl_network.npz --crs EPSG:3797 --two-way \
        -o montreal-roads.stg
    stgraph build events $D/montreal_bike_accidents/bike_accidents_2016.parquet --on montreal-roads.stg \
        --crs EPSG:3797 --mark victims --tz America/Toronto -o montreal.stg
    stgraph build events $D/earthquake_japan/earthquakes.parquet --grid 100km --sequence-key split \
        --sequence-key sequence --time-unit d --bin 1D -o japan.stg

The times of ``valencia_crime_network`` count days since 2010-01-02: so the day of the year and the hour of the day that
the file also gives come out. ``chicago_crime`` has the hour that spring skips, and those events are kept apart.
"""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError
from stgraph.graph import GraphTables, TimeAxis, data_sha256, save
from stgraph.graph.plain import SOURCE, TARGET, column, numbers
from stgraph.graph.time import seconds, zone
from stgraph.io import sha256
from stgraph.sources.events.cells import GridLayer, HexagonLayer, extent_of, grid_of_map, hexagons_of_map
from stgraph.sources.events.hyperedges import AT, EVENT, group_events, group_tables, time_bins
from stgraph.sources.events.places import Attached, Layer, Map, attach, layer_of, open_map, read_regions
from stgraph.sources.events.read import RawEvents, Wanted, read_events
from stgraph.sources.events.times import Clock, Times
from stgraph.sources.locations import zone_warning
from stgraph.units import unit

REASONS = ("attached", "no coordinates", "coordinates out of range", "no time", "time skipped by the clock",
           "outside the map")
"""Why an event is in the table ``unattached``; the first that applies."""
UNATTACHED = "unattached"
NO_BINS = "none"


@dataclass(frozen=True)
class EventOptions:
    """What :func:`build_events` is told. Every field is an option of ``stgraph build events``, which explains it."""

    # where things are in the file
    type_key: str | None = None
    time_key: str | None = None
    lon_key: str | None = None
    lat_key: str | None = None
    x_key: str | None = None
    y_key: str | None = None
    crs: str | None = None
    id_key: str | None = None
    mark: tuple[str, ...] = ()
    sequence_key: tuple[str, ...] = ()
    # time
    tz: str | None = None
    start: str | None = None
    time_unit: str | None = None
    time_format: str | None = None
    local_clock: bool = False
    bin: str | None = None
    # places
    on: Any = None
    to: str | None = None
    regions: str | None = None
    region_key: str | None = None
    grid: str | None = None
    h3: int | None = None
    limit: str | None = None
    neighbours: int | None = None
    full_grid: bool = False
    # the graph
    name: str | None = None
    simulated: bool = False
    licence: str | None = None
    attribution: str | None = None
    out: str | None = None

    def command(self, source: str) -> str:
        """The command line that says the same, with the names of files and not their folders."""
        words = ["stgraph", "build", "events", Path(source).name]
        for one in fields(self):
            value = getattr(self, one.name)
            if value == one.default or (one.name == "on" and not isinstance(value, str)):
                continue
            option = f"--{one.name.replace('_', '-')}"
            if value is True:
                words.append(option)
            for part in () if value is True else value if isinstance(value, tuple) else (value,):
                words += [option, Path(part).name if one.name in ("on", "regions", "out") else f"{part}"]
        return shlex.join(words)


def build_events(source: Any, **options: Any) -> tuple[GraphTables, dict[str, Any]]:
    """Make a graph of events.

    Args:
        source: A file of events (CSV, Parquet, GeoParquet, GeoJSON, NPZ), or a table in memory (Arrow,
            pandas or geopandas).
        **options: Fields of :class:`EventOptions`; ``on`` is a bundle or a graph; with ``out`` the graph is saved there
            as a ``.stg`` bundle.

    Returns:
        The graph as tables (``.graph()`` gives tensors), and the report that the command prints with ``--json``.

    Raises:
        InputError: where something given cannot be used; file, field, value and remedy are named, and nothing is
            written.
    """
    started = time.perf_counter()
    chosen = _checked_options(options)
    found = open_map(chosen.on, chosen.to) if chosen.on is not None else None
    raw = read_events(source, Wanted(**{one.name: getattr(chosen, one.name) for one in fields(Wanted)}),
                      None if found is None else found.plain)
    if found is not None and found.plain != raw.plain:
        raise InputError("the map is in plain metres, and the events have a reference system" if found.plain else
                         "the map has a reference system, and the events have none", file=raw.file, field="crs",
                         value=chosen.crs, remedy="give the events in the coordinates of the map, with --x-key, "
                         "--y-key and --crs none" if found.plain else "give --crs EPSG:n")
    times = raw.times.times(Clock(chosen.tz, chosen.start, chosen.time_unit, chosen.local_clock,
                                  bool(chosen.sequence_key)))
    reason = _reasons(raw, times)
    usable = np.flatnonzero(reason == 0)
    if not len(usable):
        raise InputError("no event has both a place and a time", file=raw.file, value=_counted(reason),
                         remedy="check --lon-key, --lat-key and --time-key")
    layer = _layer(chosen, found, raw, usable)
    timed = raw.sequence is None or chosen.start is not None  # others count from the start of their sequence
    attached = attach(layer, raw.xy[usable], times.utc[usable] if timed else None)
    reason[usable[attached.place < 0]] = REASONS.index("outside the map")
    _refuse_none(raw, reason, found, layer)
    order = _order(raw, times, usable, attached)
    tables, axis = _graph(raw, times, layer, usable[order], attached, order, chosen)
    tables.tables[UNATTACHED] = _unattached(raw, times, reason)
    report = _report(chosen, raw, times, layer, attached, tables, reason, axis)
    tables.metadata |= _metadata(chosen, raw.file, found, report)
    if chosen.out is not None:
        save(tables, chosen.out)
        report |= {"out": chosen.out, "data_sha256": data_sha256(chosen.out)}
    return tables, report | {"seconds": round(time.perf_counter() - started, 3)}


# -------------------------------------------------------------------- options
def _checked_options(options: dict[str, Any]) -> EventOptions:
    """Options as given from Python or the command line: paths become text, lists tuples; contradictions are refused."""
    plain: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
        for name, value in options.items()}
    chosen = EventOptions(**plain)
    if chosen.tz is not None:
        zone(chosen.tz)
    layers = [name for name in ("grid", "h3", "regions") if getattr(chosen, name) is not None]
    for field_name, wrong, remedy in (
            ("on", not layers and chosen.on is None, "say what events are put on: --on GRAPH.stg, --grid 500m, --h3 8 "
                                                     "or --regions FILE"),
            (layers[-1] if layers else "", len(layers) > 1, "give one of --grid, --h3 and --regions"),
            ("to", bool(layers) and chosen.to is not None, f"events go to those of --{layers[0] if layers else ''}"),
            ("region_key", chosen.region_key is not None and chosen.regions is None, "give --regions"),
            ("full_grid", chosen.full_grid and chosen.grid is None, "give --grid"),
            ("neighbours", chosen.neighbours is not None and chosen.grid is None, "give --grid"),
            ("neighbours", chosen.neighbours not in (None, 4, 8), "a cell of a grid has 4 or 8 neighbours"),
            ("h3", chosen.h3 is not None and not 0 <= chosen.h3 <= 15, "resolutions run from 0 to 15"),
            ("local_clock", chosen.local_clock and chosen.tz is None, "give --tz, such as America/Chicago"),
            ("start", chosen.start is not None and chosen.time_unit is None, "give --time-unit, such as d")):
        if wrong:
            raise InputError("the options do not go together", field=field_name, value=getattr(chosen, field_name),
                             remedy=remedy)
    if chosen.bin not in (None, NO_BINS):
        seconds(str(chosen.bin))
    for name in ("grid", "limit"):
        if getattr(chosen, name) is not None:
            _metres(getattr(chosen, name), name)
    if chosen.out is not None and Path(chosen.out).suffix != ".stg":
        raise InputError("a graph is saved as a .stg bundle", field="out", value=chosen.out,
                         remedy="end the name in .stg")
    return chosen


def _metres(text: str, field: str) -> float:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)\s*", str(text))
    length = unit(match[2] or "m") if match else None
    if match is None or length is None or length.si != "m" or (field == "grid" and float(match[1]) <= 0):
        raise InputError("not a length", field=field, value=text, remedy="write it like 500m or 1.5km")
    return float(match[1]) * length.factor


def _layer(chosen: EventOptions, found: Map | None, raw: RawEvents, usable: np.ndarray) -> Layer:
    """The places that were asked for."""
    limit = None if chosen.limit is None else _metres(chosen.limit, "limit")
    if chosen.regions is not None:
        return read_regions(chosen.regions, chosen.region_key, raw.plain, limit)
    if chosen.grid is None and chosen.h3 is None:
        assert found is not None  # checked with the options
        cells = (grid_of_map(found) or hexagons_of_map(found)) if found.kind == "cell" else None
        if cells is not None and limit is not None:
            raise InputError("an event is in a cell or in none", field="limit", value=chosen.limit,
                             remedy="leave out --limit")
        return cells or layer_of(found, limit)
    projection, extent = extent_of(found, raw.xy[usable], raw.plain, limit)
    if chosen.grid is not None:
        return GridLayer(_metres(chosen.grid, "grid"), projection, extent, chosen.neighbours or 4, chosen.full_grid)
    if projection is None or chosen.h3 is None:
        raise InputError("cells of H3 lie on the globe, and the events have no reference system", file=raw.file,
                         field="h3", value=chosen.h3, remedy="give --crs EPSG:n, or use --grid")
    return HexagonLayer(chosen.h3, projection, extent)


# -------------------------------------------------------------------- which events, in which order
def _reasons(raw: RawEvents, times: Times) -> np.ndarray:
    """Code of the reason of each event that cannot be attached, ``[n]`` int8; 0 for the others."""
    nowhere = np.isnan(raw.xy).any(1)
    outside = np.zeros(len(raw), bool) if raw.plain else ~nowhere & (np.abs(raw.xy) > (180.0, 90.0)).any(1)
    if outside.any() and 2 * outside.sum() >= (~nowhere).sum():
        longitude, latitude = raw.xy[outside][0]
        exchanged = abs(longitude) <= 90 and abs(latitude) <= 180
        raise InputError("most coordinates are out of range" + ("; longitude and latitude look exchanged" if exchanged
                                                                else ""), file=raw.file, field="latitude",
                         value=f"longitude {longitude}, latitude {latitude}",
                         remedy="swap --lon-key and --lat-key" if exchanged else
                                "give degrees, or say which reference system it is with --crs")
    reason = np.zeros(len(raw), np.int8)
    for code, which in ((4, times.skipped), (3, times.missing), (2, outside), (1, nowhere)):
        reason[which] = code
    return reason


def _refuse_none(raw: RawEvents, reason: np.ndarray, found: Map | None, layer: Layer) -> None:
    """Refuse a file none of whose events is on the map, or most of which are when coordinates are exchanged."""
    attached, outside = int((reason == 0).sum()), reason == REASONS.index("outside the map")
    exchanged = False
    if 2 * attached < attached + int(outside.sum()) and not raw.plain and (found is not None or layer.kind == "region"):
        places = found.xy if found is not None else numbers(layer.tables().nodes[layer.kind]["lonlat"])
        low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
        turned = raw.xy[outside][:, ::-1]
        exchanged = bool(2 * ((turned >= low) & (turned <= high)).all(1).sum() > len(turned))
    if attached and not exchanged:
        return
    first = raw.xy[outside][0].tolist() if outside.any() else None
    raise InputError("longitude and latitude look exchanged: the events are on the map with them swapped" if exchanged
                     else "no event is on the map", file=raw.file, field="place", value=first,
                     remedy="swap --lon-key and --lat-key" if exchanged else
                            "check the coordinates and --crs, or allow a larger --limit")


def _order(raw: RawEvents, times: Times, usable: np.ndarray, attached: Attached) -> np.ndarray:
    """Positions among the usable events of those attached, by sequence and time; the rest in the order of the file."""
    kept = np.flatnonzero(attached.place >= 0)
    rows = usable[kept]
    sequence = numbers(raw.sequence)[rows] if raw.sequence is not None else np.zeros(len(rows), np.int32)
    return kept[np.lexsort((times.utc[rows], sequence))]


# -------------------------------------------------------------------- the graph
def _graph(raw: RawEvents, times: Times, layer: Layer, rows: np.ndarray, attached: Attached, order: np.ndarray,
           chosen: EventOptions) -> tuple[GraphTables, TimeAxis | None]:
    """The graph, and the axis of its bins; event ``i`` is row ``rows[i]`` of the file."""
    places = layer.tables()
    tables = GraphTables(dict(places.nodes), dict(places.edges), schema=places.schema.copy())
    if "cells" in places.metadata:
        tables.metadata["cells"] = places.metadata["cells"]
    tables.metadata["tz"] = chosen.tz or "UTC"
    tables.nodes[EVENT] = _event_table(raw, times, rows)
    place = attached.place[order]
    edges = {SOURCE: column(np.arange(len(rows))), TARGET: column(place), "distance": column(attached.distance[order])}
    if attached.offset is not None:
        edges["offset"] = column(attached.offset[order])
    at = (EVENT, AT, layer.kind)
    tables.edges[at] = pa.table(edges)
    tables.declare(EVENT, "time", "s", "instant, UTC" if raw.sequence is None or chosen.start is not None
                   else "since the start of its sequence")
    tables.declare(EVENT, "type", None, "what happened")
    for name, mark in raw.marks.items():
        tables.declare(EVENT, name, mark.unit, "mark of the event")
    tables.declare(at, "distance", "m", f"from the event to its {layer.kind}; 0 inside")
    if attached.offset is not None:
        tables.declare(at, "offset", "m", "way from the start of the segment")
    interval = chosen.bin or ("1D" if times.dates_only else "1h")
    if interval == NO_BINS:
        return tables, None
    axis, row = time_bins(times.utc[rows], interval, chosen.tz or "UTC")
    sequence = None if raw.sequence is None else numbers(raw.sequence)[rows]
    groups = group_events(place, row, numbers(raw.types)[rows], sequence)
    found = group_tables(groups, axis, layer.kind, raw.types.dictionary.to_pylist(),
                         None if raw.sequence is None else raw.sequence.dictionary.to_pylist())
    tables.nodes |= found.nodes
    tables.edges |= found.edges
    tables.schema.nodes |= found.schema.nodes
    tables.schema.edges |= found.schema.edges
    tables.metadata["bins"] = axis.to_dict()
    return tables, axis


def _event_table(raw: RawEvents, times: Times, rows: np.ndarray) -> pa.Table:
    taken = pa.array(rows)
    columns = {"node_id": raw.ids.take(taken), "time": column(times.utc[rows]), "type": raw.types.take(taken),
               "pos" if raw.plain else "lonlat": column(raw.xy[rows])}
    for name, mark in raw.marks.items():
        columns[name] = mark.values.take(taken) if isinstance(mark.values, pa.Array) else column(mark.values[rows])
    if raw.sequence is not None:
        columns["sequence"] = raw.sequence.take(taken)
    return pa.table(columns)


def _unattached(raw: RawEvents, times: Times, reason: np.ndarray) -> pa.Table:
    """Events that are at no place, with the reason and their row in the file (from 0); unknown entries are empty."""
    rows = np.flatnonzero(reason)
    table = _event_table(raw, times, rows)
    untimed = times.missing[rows] | times.skipped[rows]
    place = "pos" if raw.plain else "lonlat"
    unknown = np.isnan(raw.xy[rows]).any(1)
    return table.set_column(1, "time", pa.array(times.utc[rows], mask=untimed)).set_column(
        3, place, pa.FixedSizeListArray.from_arrays(pa.array(raw.xy[rows].reshape(-1)), 2, mask=pa.array(unknown))
    ).append_column("row", pa.array(rows)).append_column(
        "reason", pa.array(REASONS).take(pa.array(reason[rows])))


# -------------------------------------------------------------------- report
def _counted(reason: np.ndarray) -> dict[str, int]:
    count = np.bincount(reason, minlength=len(REASONS))
    return {name: int(count[code]) for code, name in enumerate(REASONS) if code and count[code]}


def _report(chosen: EventOptions, raw: RawEvents, times: Times, layer: Layer, attached: Attached, tables: GraphTables,
            reason: np.ndarray, axis: TimeAxis | None) -> dict[str, Any]:
    utc = times.utc[reason == 0]
    types = numbers(raw.types)[reason == 0]
    count = np.bincount(types, minlength=len(raw.types.dictionary))
    by_type = dict(sorted(zip(raw.types.dictionary.to_pylist(), count.tolist(), strict=True), key=lambda one: -one[1]))
    place = attached.place[attached.place >= 0]
    distance = attached.distance[attached.place >= 0]
    tz = chosen.tz or "UTC"
    start, end = (str(np.datetime64(int(one), "s")) for one in
                  TimeAxis(0, 1, 0, tz).local(np.array([utc.min(), utc.max()])))
    report: dict[str, Any] = {
        "events": len(utc), "read": len(raw), "unattached": int((reason > 0).sum()), "reasons": _counted(reason),
        "place": layer.kind, "places": len(tables.nodes[layer.kind]),
        "places_used": int((np.bincount(place) > 0).sum()),
        "limit_m": layer.limit if chosen.limit is None else _metres(chosen.limit, "limit"),
        "distance_m": {name: round(float(np.quantile(distance, share)), 3)
                       for name, share in (("median", 0.5), ("p95", 0.95), ("largest", 1.0))},
        "types": len(by_type), "by_type": dict(list(by_type.items())[:50]), "start": start, "end": end, "tz": tz,
        "sequences": None if raw.sequence is None else len(raw.sequence.dictionary),
        "bin_s": None if axis is None else axis.step, "groups": 0 if axis is None else len(tables.nodes["group"]),
        "incidences": 0 if axis is None else len(utc), "columns": raw.columns, "marks": list(raw.marks),
        "zero_coordinates": raw.zero, "ambiguous_hour": times.ambiguous, "fractional_times": times.fractional,
        "in_several_regions": attached.several}
    report["warnings"] = _warnings(chosen, raw, times)
    return report


def _warnings(chosen: EventOptions, raw: RawEvents, times: Times) -> list[str]:
    said = []
    if raw.zero:
        said.append(f"latitude 0 with longitude 0 is taken for an unknown place: {raw.zero:,} events")
    if times.ambiguous:
        said.append(f"{times.ambiguous:,} events are in the doubled hour of autumn: taken for the first of the two")
    if times.fractional and raw.sequence is None:
        said.append(f"{times.fractional:,} times have parts of a second, which were left out")
    if "type" not in raw.columns:
        said.append("no column of types: all events are of one type")
    if not raw.plain and chosen.on is None and raw.sequence is None and chosen.tz is not None:
        exchanged = zone_warning(raw.xy, chosen.tz, int(times.utc[~times.missing][0]))
        said += [exchanged.replace("the sensors are", "the events are")] if exchanged else []
    return said


def _metadata(chosen: EventOptions, file: str, found: Map | None, report: dict[str, Any]) -> dict[str, Any]:
    """Where the graph comes from; names of files, never their folders. Sources of the map come along."""
    sources: list[dict[str, Any]] = []
    for role, path in (("events", file), ("regions", chosen.regions), ("map", chosen.on)):
        entry: dict[str, Any] = {"role": role}
        if role == "map" and isinstance(path, str):
            entry |= {"file": Path(path).name, "data_sha256": data_sha256(path)}
        elif role != "map" and path is not None and Path(path).is_file():
            entry |= {"file": Path(path).name, "sha256": sha256(Path(path))}
        if role == "events":
            entry |= {"licence": chosen.licence, "attribution": chosen.attribution}
        entry = {key: value for key, value in entry.items() if value}
        sources += [entry] if len(entry) > 1 else []
    simulated = chosen.simulated
    if found is not None:
        sources += found.tables.metadata.get("sources") or []
        simulated = simulated or bool(found.tables.metadata.get("simulated"))
    default = Path(chosen.out).stem if chosen.out else Path(file).stem
    return {"name": chosen.name or default or "events", "simulated": simulated, "sources": sources,
            "command": chosen.command(file), "notes": report["warnings"],
            "build": {key: value for key, value in report.items() if key != "warnings"}}
