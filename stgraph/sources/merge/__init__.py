"""``build merge``: bundles of one city, or of several, become one graph whose layers are joined in space and time.

**Which nodes are one.** Bundles are looked at in an order of their own (roads first, then by size and name), so the
order in which they are given does not matter.

==========================================  ===========================================================================
Two bundles have a node type of one name    In the merged graph
==========================================  ===========================================================================
with shared ids that mean the same nodes    one layer, joined by ``node_id``: the segments of trips or events are those
                                            of the roads. They mean the same where more than half of them lie at the
                                            same places (within 10 m), or without places agree in all else; junctions,
                                            segments, traffic signals and restrictions are one layer together
of the same form, but other nodes           one type with the nodes of both (several cities); where ids collide, those
                                            of each begin with the name of a bundle: ``porto/17``
of another form (other columns or           two types, ``sensor_los`` and ``sensor_air``, and a note
channels); never roads
==========================================  ===========================================================================

What two bundles say of one node or edge must agree, or ``prefer`` names the one that is right. Edges are one where
their ends and lives are. A node of one layer that only some bundles describe has NaN, an empty text, or -1 for what
the others would say.

**Which layers are joined in space.** Only nodes whose own bundle does not have the relation already.

==============================  ========================  =============================================================
From                            Relation                  Rule
==============================  ========================  =============================================================
sensor, station                 ``on`` segment            the one that its ``segment_id`` names; else by distance, by
                                                          heading and road name where known, within ``attach_limit``
event, poi                      ``at`` segment            the nearest street, within ``event_limit``
weather                         ``affects`` sensor,       each from its ``stations`` nearest, within ``weather_limit``
                                station
sensor, station                 ``in`` region             the first that covers it
event, poi                      ``at`` region             the first that covers it
==============================  ========================  =============================================================

Sensors that measure nothing but weather, or whose bundle is named with ``weather``, are nodes ``weather``.

**Time.** One bundle with signals, or several on one axis, keep it. Otherwise the axis has the finest step
(``interval`` says another) from the first to the last row of any, and long steps such as days follow the clock of the
place through summer time where the bundles allow it; a gap that no bundle covers is refused unless ``allow_gaps``.
Finer rows become one: the mean of what was observed, the sum of counts where all were. A coarser row is held from when
it was known, which is at its end, for as long as it lasted, and counts are divided: no row of the merged graph knows
what was measured later (``instant``: it was read at its beginning). What was not observed stays so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.graph import GraphTables, TimeAxis, data_sha256, save
from stgraph.graph.plain import SOURCE, TARGET, numbers
from stgraph.graph.schema import EdgeType, GraphType, label
from stgraph.roads.network import ROAD
from stgraph.sources.merge.align import Alignment, Merged, SignalPart, common_axis
from stgraph.sources.merge.joins import JoinOptions, join_in_space
from stgraph.sources.merge.layers import Bundle, Layers, check_roads, find_layers, open_bundles
from stgraph.sources.merge.unite import Part, same_edges, unite

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

Rows = dict[tuple[int, str], np.ndarray]
"""Rows of the merged type, per bundle and type of the bundle."""
_OWN = ("name", "simulated", "sources", "build", "command", "notes", "bundles")


@dataclass(frozen=True)
class MergeOptions:
    """What :func:`build_merge` is told. Every field is an option of ``stgraph build merge``, which explains it."""

    interval: str | None = None
    instant: bool = False
    allow_gaps: bool = False
    weather: tuple[str, ...] = ()
    prefer: str | None = None
    attach_limit: float = 50.0
    event_limit: float = 200.0
    stations: int = 3
    weather_limit: float | None = None
    name: str | None = None
    out: str | None = None


def build_merge(sources: Sequence[Path | str | DynamicHeteroGraph | GraphTables],
                **options: Any) -> tuple[DynamicHeteroGraph, dict[str, Any]]:
    """Merge bundles into one graph, by the rules of this module.

    Args:
        sources: Paths of bundles, or graphs. One alone comes back as it is.
        **options: Fields of :class:`MergeOptions`; with ``out`` the graph is saved there as a ``.stg`` bundle.

    Returns:
        The graph, and the report that the command prints with ``--json``.

    Raises:
        InputError: where bundles contradict each other, their times do not fit, or an option is not usable; nothing is
            written.
    """
    tables, report = merge_tables(sources, **options)
    return tables.graph(), report


def merge_tables(sources: Sequence[Path | str | DynamicHeteroGraph | GraphTables],
                 **options: Any) -> tuple[GraphTables, dict[str, Any]]:
    """As :func:`build_merge`, but the graph stays tables, without torch."""
    started = time.perf_counter()
    chosen = _checked(options)
    joins = JoinOptions(chosen.attach_limit, chosen.event_limit, chosen.stations, chosen.weather_limit)
    if not sources:
        raise InputError("there is nothing to merge", field="bundles", remedy="name two bundles or more")
    bundles, notes = open_bundles(sources, chosen.weather)
    if chosen.prefer is not None and chosen.prefer not in [bundle.name for bundle in bundles]:
        raise InputError("no bundle has this name", field="prefer", value=chosen.prefer,
                         remedy=f"choose among {', '.join(bundle.name for bundle in bundles)}")
    layers = find_layers(bundles, notes)
    check_roads(layers)
    made: dict[str, Any]
    if len(bundles) == 1 and chosen.interval is None:
        tables, made = bundles[0].tables, {"layers": [], "joins": [], "time": _axis_words(bundles[0].tables.time, {})}
    else:
        tables, rows = _united(layers, chosen.prefer)
        made = {"layers": _layer_report(layers, rows), "joins": join_in_space(tables, layers, rows, joins),
                "time": _merge_signals(tables, layers, rows, chosen)}
    report: dict[str, Any] = {"bundles": [bundle.name for bundle in bundles],
              "nodes": {kind: len(table) for kind, table in tables.nodes.items()},
              "edges": {label(kind): len(table) for kind, table in tables.edges.items()}, **made,
              "notes": layers.notes}
    tables.metadata = _metadata(bundles, report, chosen)
    if chosen.out is not None:
        save(tables, chosen.out)
        report |= {"out": chosen.out, "data_sha256": data_sha256(chosen.out)}
    return tables, report | {"seconds": round(time.perf_counter() - started, 3)}


def _checked(options: dict[str, Any]) -> MergeOptions:
    plain: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
        for name, value in options.items()}
    chosen = MergeOptions(**plain)
    if chosen.out is not None and Path(chosen.out).suffix != ".stg":
        raise InputError("a graph is saved as a .stg bundle", field="out", value=chosen.out,
                         remedy="end the name in .stg")
    return chosen


# -------------------------------------------------------------------- nodes and edges
def _united(layers: Layers, prefer: str | None) -> tuple[GraphTables, Rows]:
    """Nodes and edges of all bundles, before layers are joined in space."""
    out, rows = GraphTables(), {}
    for kind in dict.fromkeys(group.kind for group in layers.groups):
        parts: list[Part] = []
        size = 0
        for group in layers.of_kind(kind):
            known: Any = None
            for place in group.members:
                table = layers.bundles[place].tables.nodes[group.family]
                if "node_id" not in table.column_names:
                    own = size + np.arange(_size(layers.bundles[place], group.family))
                    size += len(own)
                else:
                    ids = _prefixed(table["node_id"], group.prefix)
                    table = table.set_column(table.schema.get_field_index("node_id"), "node_id", ids)
                    own, known, size = _rows_of(ids, known, size)
                rows[place, group.family] = own
                parts.append(Part(layers.bundles[place].name, table, own))
        out.nodes[kind] = unite(parts, size, kind, prefer)
    for edge in dict.fromkeys(layers.kind_of(place, kind) for place, bundle in enumerate(layers.bundles)
                              for kind in bundle.tables.edges):
        out.edges[edge] = _united_edges(edge, layers, rows, len(out.nodes.get("segment", ())), prefer)
    _unite_schema(out, layers)
    _unite_loose(out, layers)
    return out, rows


def _size(bundle: Bundle, family: str) -> int:
    """Number of nodes of a type; of one without columns, what its edges or signals tell."""
    tables = bundle.tables
    if tables.nodes[family].num_columns:
        return len(tables.nodes[family])
    ends = [int(pc.max(table[column]).as_py()) + 1 for edge, table in tables.edges.items() if len(table)
            for end, column in ((edge[0], SOURCE), (edge[2], TARGET)) if end == family]
    return max([signal.shape[1] for signal in tables.signals.get(family, {}).values()] + ends, default=0)


def _prefixed(ids: pa.ChunkedArray, prefix: str) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(pa.scalar(prefix), ids, "") if prefix else ids


def _rows_of(ids: pa.ChunkedArray, known: Any, first: int) -> tuple[np.ndarray, Any, int]:
    """Rows of nodes by their ids: those that are known, and new ones from ``first`` on.

    Returns:
        The rows, all ids known now with their rows, and the next free row.
    """
    if known is None:
        own = first + np.arange(len(ids))
        return own, (ids.combine_chunks(), own), first + len(ids)
    words, places = known
    found = np.asarray(pc.fill_null(pc.index_in(ids, words), -1), np.int64)
    new = np.flatnonzero(found < 0)
    own = np.where(found >= 0, places[np.maximum(found, 0)], -1) if len(places) else np.full(len(ids), -1)
    own[new] = first + np.arange(len(new))
    fresh = ids.take(pa.array(new)).combine_chunks()
    plain = [part.chunk(0) if isinstance(part, pa.ChunkedArray) else part for part in (words, fresh)]
    return own, (pa.concat_arrays(plain), np.concatenate([places, own[new]])), first + len(new)


def _united_edges(edge: EdgeType, layers: Layers, rows: Rows, segments: int, prefer: str | None) -> pa.Table:
    parts = []
    aligned = edge == ROAD
    for place, bundle in enumerate(layers.bundles):
        for kind, table in bundle.tables.edges.items():
            if layers.kind_of(place, kind) == edge:
                source, target = (rows[place, end][numbers(table[column])]
                                  for end, column in ((kind[0], SOURCE), (kind[2], TARGET)))
                parts.append((bundle.name, table, source, target, place))
                aligned &= bundle.has_roads
    if aligned:  # row e belongs to segment e
        found = [Part(name, _with_ends(table, source, target), rows[place, "segment"])
                 for name, table, source, target, place in parts]
        return unite(found, segments, label(edge), prefer)
    united, size = same_edges([part[:4] for part in parts])
    return unite(united, size, label(edge), prefer)


def _with_ends(table: pa.Table, source: np.ndarray, target: np.ndarray) -> pa.Table:
    for column, values in ((SOURCE, source), (TARGET, target)):
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    return table


def _unite_schema(out: GraphTables, layers: Layers) -> None:
    for place, bundle in enumerate(layers.bundles):
        for kind, attributes in bundle.tables.schema.items():
            present = kind in bundle.tables.nodes if isinstance(kind, str) else kind in bundle.tables.edges
            if present:
                merged: GraphType = layers.group(place, kind).kind if isinstance(kind, str) else \
                    layers.kind_of(place, kind)
                columns = out.of(merged).column_names
                for name, attribute in attributes.items():
                    if name in columns:
                        out.schema.of(merged).setdefault(name, attribute)


def _unite_loose(out: GraphTables, layers: Layers) -> None:
    names = [name for bundle in layers.bundles for name in bundle.tables.tables]
    for bundle in layers.bundles:
        for name, table in bundle.tables.tables.items():
            out.tables[name if names.count(name) == 1 else f"{name}_{bundle.name}"] = table


# -------------------------------------------------------------------- signals
def _merge_signals(out: GraphTables, layers: Layers, rows: Rows, chosen: MergeOptions) -> dict[str, Any] | None:
    axes = {bundle.name: bundle.tables.time for bundle in layers.bundles
            if bundle.tables.time is not None and any(bundle.tables.signals.values())}
    if not axes:
        out.time = next((bundle.tables.time for bundle in layers.bundles if bundle.tables.time is not None), None)
        return _axis_words(out.time, {})
    out.time = common_axis(axes, chosen.interval, chosen.allow_gaps)
    if len({axis.tz for axis in axes.values()}) > 1:
        layers.notes.append(f"the bundles are in several time zones: calendars follow {out.time.tz}")
    alignments = {name: Alignment(axis, out.time, chosen.instant) for name, axis in axes.items()}
    parts: dict[GraphType, dict[str, list[SignalPart]]] = {}
    ordered = sorted(range(len(layers.bundles)), key=lambda place: layers.bundles[place].name != chosen.prefer)
    for place in ordered:
        bundle = layers.bundles[place]
        for kind, found in bundle.tables.signals.items():
            if isinstance(kind, str):
                merged: GraphType = layers.group(place, kind).kind
                nodes = rows[place, kind]
            else:
                merged, nodes = _edge_rows(out, layers, rows, place, kind)
            for name, signal in found.items():
                parts.setdefault(merged, {}).setdefault(name, []).append(
                    SignalPart(bundle.name, signal, nodes, alignments[bundle.name]))
    for merged, named in parts.items():
        for name, several in named.items():
            _put(out, merged, name, several, chosen.prefer is None)
    counted = {part.name for named in parts.values() for several in named.values() for part in several
               if any(channel.quantity == "count" for channel in part.signal.channels)}
    return _axis_words(out.time, {name: alignment.words(name in counted) for name, alignment in alignments.items()})


def _put(out: GraphTables, kind: GraphType, name: str, parts: list[SignalPart], check: bool) -> None:
    """One signal for parts with equal channels; others get the names of their bundles."""
    alike: dict[Any, list[SignalPart]] = {}
    for part in parts:
        channels = tuple((channel.name, channel.quantity) for channel in part.signal.channels)
        alike.setdefault(channels, []).append(part)
    for same in alike.values():
        called = name if len(alike) == 1 else f"{name}_{min(part.name for part in same)}"
        size = len(out.of(kind))
        only = same[0]
        whole = len(same) == 1 and only.alignment.axis == out.time and np.array_equal(only.nodes, np.arange(size))
        signal = only.signal if whole else Merged(same, size).signal(only.signal.channels, check)
        out.signals.setdefault(kind, {})[called] = signal


def _edge_rows(out: GraphTables, layers: Layers, rows: Rows, place: int,
               kind: EdgeType) -> tuple[EdgeType, np.ndarray]:
    """Rows of the edges of a bundle among the merged ones."""
    merged = layers.kind_of(place, kind)
    own = layers.bundles[place].tables.edges[kind]
    source, target = (rows[place, end][numbers(own[column])]
                      for end, column in ((kind[0], SOURCE), (kind[2], TARGET)))
    table = out.edges[merged]
    united, size = same_edges([("merged", table, numbers(table[SOURCE]), numbers(table[TARGET])),
                               ("own", own, source, target)])
    if size != len(table):
        raise InputError("a signal of edges cannot follow them into the merged graph", field=label(kind),
                         remedy="merge bundles whose edges agree")
    back = np.empty(size, np.int64)
    back[united[0].rows] = np.arange(size)
    return merged, back[united[1].rows]


def _axis_words(axis: TimeAxis | None, how: dict[str, str]) -> dict[str, Any] | None:
    return None if axis is None else {**axis.to_dict(), "how": how}


# -------------------------------------------------------------------- report
def _layer_report(layers: Layers, rows: Rows) -> list[dict[str, Any]]:
    entries = []
    for group in layers.groups:
        several = [rows[place, group.family] for place in group.members]
        beside = len(layers.of_kind(group.kind)) > 1
        entries.append({
            "type": group.kind, "bundles": [layers.bundles[place].name for place in group.members],
            "nodes": len(np.unique(np.concatenate(several))), "of_each": [len(one) for one in several],
            "how": "joined by id" if len(several) > 1 else "side by side" if beside else
            "kept apart" if group.kind != group.family else "alone", "prefix": group.prefix})
    return entries


def _metadata(bundles: list[Bundle], report: dict[str, Any], chosen: MergeOptions) -> dict[str, Any]:
    """Provenance of all: sources and licences joined, what only one bundle says or all say alike as it is."""
    if len(bundles) == 1:
        return dict(bundles[0].tables.metadata) | ({"name": chosen.name} if chosen.name else {})
    stories = [bundle.tables.metadata for bundle in bundles]
    sources: list[Any] = []
    for story in stories:
        sources += [source for source in story.get("sources", []) if source not in sources]
    named = chosen.name or (Path(chosen.out).stem if chosen.out else "-".join(sorted(one.name for one in bundles)))
    merged: dict[str, Any] = {
        "name": named, "simulated": any(bool(story.get("simulated")) for story in stories), "sources": sources,
        "command": " ".join(["stgraph build merge", *(f"{bundle.name}.stg" for bundle in bundles)]),
        "notes": report["notes"], "build": {key: value for key, value in report.items() if key != "notes"},
        "bundles": [{"name": bundle.name, "data_sha256": bundle.digest,
                     **{key: story[key] for key in ("command", "simulated", "build", "notes", "bundles", "edits")
                        if key in story}} for bundle, story in zip(bundles, stories, strict=True)]}
    for key in dict.fromkeys(key for story in stories for key in story if key not in _OWN):
        values = [story[key] for story in stories if key in story]
        if all(value == values[0] for value in values):
            merged[key] = values[0]
    return merged
