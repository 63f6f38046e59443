"""Joining layers in space, by the rules of :mod:`stgraph.sources.merge`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.graph import Geometry, GraphTables
from stgraph.graph.plain import SOURCE, TARGET, numbers
from stgraph.graph.schema import EdgeType, label
from stgraph.roads import LocalProjection, Roads
from stgraph.roads.attach import AGAINST, BEYOND, NO_DIRECTION, NO_PLACE, OTHER_NAME, attach_sensors, heading_degrees
from stgraph.roads.history import RoadHistory
from stgraph.roads.network import ROAD
from stgraph.sources.merge.layers import WEATHER, Group, Layers
from stgraph.sources.merge.unite import Part, unite

SENSORS, EVENTS = ("sensor", "station"), ("event", "poi")
HEADINGS, NAMES = ("heading", "bearing", "direction"), ("road_name", "road", "freeway", "street")
"""Columns of sensors that say which way they look, and on which road."""
BY_ID, NO_COORDINATES, OUTSIDE = "by its segment_id", "other coordinates", "outside of all regions"


@dataclass(frozen=True)
class JoinOptions:
    """How layers are joined.

    Args:
        attach_limit: Farthest a sensor may stand from its segment, m.
        event_limit: Farthest an event may lie from its segment, m.
        stations: How many weather stations affect a sensor.
        weather_limit: Farthest of them, m; None for no limit.
    """

    attach_limit: float = 50.0
    event_limit: float = 200.0
    stations: int = 3
    weather_limit: float | None = None

    def __post_init__(self) -> None:
        for name in ("attach_limit", "event_limit", "stations", "weather_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise InputError("out of range", field=name, value=value, remedy="give a positive number")


@dataclass(frozen=True)
class _Found:
    """What one join found: for each of the nodes, its partner (-1: none), attributes, and the reason in words."""

    partner: np.ndarray
    attributes: dict[str, np.ndarray]
    reason: np.ndarray


def join_in_space(tables: GraphTables, layers: Layers, rows: dict[tuple[int, str], np.ndarray],
                  options: JoinOptions) -> list[dict[str, Any]]:
    """Add the edges between layers of different bundles.

    Args:
        tables: The merged graph; edges are added to it.
        layers: What was merged.
        rows: Rows of the merged type, per bundle and type.
        options: Limits.

    Returns:
        One entry for each pair of types that was joined: how many nodes were, how many were not, and why.
    """
    report = []
    for kind in list(tables.nodes):
        family = layers.of_kind(kind)[0].family
        for target in list(tables.nodes):
            over = layers.of_kind(target)[0].family
            rule: tuple[str, Callable[..., _Found]] | None = None
            if over == "segment" and ROAD in tables.edges and family in SENSORS:
                rule = ("on", _sensors_on_segments)
            elif over == "segment" and ROAD in tables.edges and family in EVENTS:
                rule = ("at", _events_at_segments)
            elif over == "region" and family in (*SENSORS, *EVENTS):
                rule = ("in" if family in SENSORS else "at", _in_regions)
            if rule is not None:
                entry = _join(tables, layers, rows, (kind, rule[0], target), rule[1], options)
                report += [entry] if entry else []
        if family in SENSORS:
            for source in list(tables.nodes):
                if layers.of_kind(source)[0].family == WEATHER:
                    report += _weather(tables, layers, rows, (source, "affects", kind), options)
    return report


def _unjoined(layers: Layers, rows: dict[tuple[int, str], np.ndarray], kind: str, target: str,
              relation: EdgeType, size: int) -> np.ndarray:
    """Nodes whose own bundle neither has this relation nor is the only one that has the other layer."""
    free = np.zeros(size, bool)
    taken = np.zeros(size, bool)
    others = {place for group in layers.of_kind(target) for place in group.members}
    for group in layers.of_kind(kind):
        for place in group.members:
            own = rows[place, group.family]
            has = any(layers.kind_of(place, edge) == relation for edge in layers.bundles[place].tables.edges)
            taken[own] |= has
            free[own] |= bool(others - {place})
    return np.flatnonzero(free & ~taken)


def _join(tables: GraphTables, layers: Layers, rows: dict[tuple[int, str], np.ndarray], relation: EdgeType,
          rule: Callable[..., _Found], options: JoinOptions) -> dict[str, Any] | None:
    kind, _, target = relation
    nodes = _unjoined(layers, rows, kind, target, relation, len(tables.nodes[kind]))
    if not len(nodes) and (len(tables.nodes[kind]) or relation in tables.edges):
        return None
    found = rule(tables, layers, rows, kind, target, nodes, options)
    there = np.flatnonzero(found.partner >= 0)
    _add(tables, relation, nodes[there], found.partner[there],
         {name: values[there] for name, values in found.attributes.items()})
    apart = Counter(found.reason[found.partner < 0].tolist())
    said = Counter(reason for reason in found.reason[there].tolist() if reason)
    return {"relation": label(relation), "nodes": len(nodes), "joined": len(there), "apart": len(nodes) - len(there),
            "reasons": dict(apart), "remarks": dict(said)}


def _add(tables: GraphTables, relation: EdgeType, source: np.ndarray, target: np.ndarray,
         attributes: dict[str, np.ndarray]) -> None:
    """Edges beside those that are there."""
    new = pa.table({SOURCE: pa.array(source.astype(np.int64)), TARGET: pa.array(target.astype(np.int64)),
                    **{name: pa.array(values) for name, values in attributes.items()}})
    before = tables.edges.get(relation)
    if before is not None:
        count = len(before)
        new = unite([Part("before", before, np.arange(count)), Part("new", new, count + np.arange(len(new)))],
                    count + len(new), label(relation))
    tables.edges[relation] = new
    for name in attributes:
        words = {"offset": ("m", "way from the start of the segment"),
                 "distance": ("m", f"from the {relation[0]} to the {relation[2]}"),
                 "edge_weight": ("1", "strength of the connection")}
        tables.declare(relation, name, *words[name])


# ---------------------------------------------------------------- places on roads
@dataclass(frozen=True)
class _City:
    """The roads of one layer of segments: their arrays, and the first of their rows in the merged type.

    ``roads`` are those of the end of the readings, where the graph has any; otherwise after the last change.
    """

    roads: Roads
    history: RoadHistory
    first: int
    prefix: str


def _cities(tables: GraphTables, layers: Layers, rows: dict[tuple[int, str], np.ndarray], kind: str) -> list[_City]:
    found = []
    end = None if tables.time is None or not tables.time.length else \
        int(tables.time.times(np.array([tables.time.length - 1]))[0])
    for group in layers.of_kind(kind):
        segments = _span(layers, rows, group)
        junctions = _span(layers, rows, layers.group(next(
            place for place in group.members if layers.bundles[place].has_roads), "junction"))
        part = GraphTables({"junction": tables.nodes["junction"].slice(junctions.start, len(junctions)),
                            kind: tables.nodes[kind].slice(segments.start, len(segments))}, metadata={})
        road = tables.edges[ROAD].slice(segments.start, len(segments))
        part.edges[ROAD] = pa.table({end: pa.array(numbers(road[end]) - junctions.start) for end in (SOURCE, TARGET)})
        history = RoadHistory(part)
        found.append(_City(history.at(end), history, segments.start, group.prefix))
    return found


def _span(layers: Layers, rows: dict[tuple[int, str], np.ndarray], group: Group) -> range:
    """The rows of a layer, which stand together."""
    every = np.concatenate([rows[place, group.family] for place in group.members])
    return range(int(every.min()), int(every.max()) + 1)


def _places(table: pa.Table, metric: bool, nodes: np.ndarray) -> np.ndarray | None:
    name = "pos" if metric else "lonlat"
    return np.asarray(numbers(table[name])[nodes], np.float64) if name in table.column_names else None


def _sensors_on_segments(tables: GraphTables, layers: Layers, rows: dict[tuple[int, str], np.ndarray], kind: str,
                         target: str, nodes: np.ndarray, options: JoinOptions) -> _Found:
    """By the segment that a sensor names, else the best one near it."""
    table = tables.nodes[kind].take(pa.array(nodes))
    partner, reason = np.full(len(nodes), -1), np.full(len(nodes), NO_PLACE, dtype=object)
    offset, distance = np.full(len(nodes), np.nan), np.full(len(nodes), np.nan)
    heading, names = _heading(table, layers, kind), _texts(table, NAMES)
    for city in _cities(tables, layers, rows, target):
        xy = _places(table, city.roads.metric, np.arange(len(nodes)))
        named = _named(table, city)
        own = np.flatnonzero((named >= 0) & (partner < 0))
        if len(own):
            along = numbers(table["offset"])[own] if "offset" in table.column_names else np.full(len(own), np.nan)
            offset[own], distance[own] = _foot(city.roads, named[own], along, None if xy is None else xy[own])
            partner[own], reason[own] = city.first + named[own], BY_ID
        if xy is None:
            reason[partner < 0] = NO_COORDINATES
            continue
        free = np.flatnonzero(reason != BY_ID)
        found = attach_sensors(city.roads, xy[free], None if heading is None else heading[free],
                               None if names is None else [names[i] for i in free], options.attach_limit)
        better = (found.segment >= 0) & ~(distance[free] <= found.distance)
        chosen = free[better]
        partner[chosen] = city.first + found.segment[better]
        offset[chosen], distance[chosen] = found.offset[better], found.distance[better]
        reason[chosen] = found.reason[better]
        beyond = free[(partner[free] < 0) & (found.reason == BEYOND)]
        reason[beyond] = BEYOND
    return _Found(partner, {"offset": offset, "distance": distance}, reason)


def _heading(table: pa.Table, layers: Layers, kind: str) -> np.ndarray | None:
    name = next((one for one in HEADINGS if one in table.column_names), None)
    if name is None:
        return None
    try:
        return np.array([heading_degrees(one) for one in table[name].to_pylist()], np.float64)
    except InputError as error:
        layers.notes.append(f"{kind}.{name} is no heading and was not used to choose between directions: {error.value}")
        return None


def _texts(table: pa.Table, columns: tuple[str, ...]) -> list[str] | None:
    name = next((one for one in columns if one in table.column_names), None)
    return None if name is None else [str(one) for one in table[name].to_pylist()]


def _named(table: pa.Table, city: _City) -> np.ndarray:
    """Row among the city's segments that each sensor names, ``[n]``; -1 where it names none of them."""
    if "segment_id" not in table.column_names:
        return np.full(len(table), -1)
    ids = city.roads.segment_id
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else pa.array(ids)
    wanted = pc.binary_join_element_wise(pa.scalar(city.prefix), table["segment_id"].cast(pa.string()), "")
    named = np.asarray(pc.fill_null(pc.index_in(wanted, ids), -1), np.int64)
    alive = city.roads.alive
    if alive is None or "version" not in city.roads.attributes:
        return named
    versions = numbers(city.roads.attributes["version"])  # of a segment with several, the one that stands
    whole = np.array([name.removesuffix(f"@{version}") for name, version in zip(ids.to_pylist(), versions.tolist(),
                                                                              strict=True)])
    standing = {name: row for row, name in enumerate(whole.tolist()) if alive[row]}
    return np.array([standing.get(whole[row], row) if row >= 0 and not alive[row] else row for row in named.tolist()])


def _foot(roads: Roads, segment: np.ndarray, offset: np.ndarray,
          xy: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Where sensors stand on the segments that they name, and how far from them: ``offset`` where it is not known is
    that of the nearest of 64 places along the segment."""
    offset = offset.copy()
    if xy is None:
        return offset, np.full(len(segment), np.nan)
    metres = roads.to_metres(xy)
    unknown = np.flatnonzero(np.isnan(offset) & np.isfinite(xy).all(1))
    if len(unknown):
        along = roads.length[segment[unknown], None] * np.linspace(0, 1, 64)
        places = roads.to_metres(roads.locate(np.repeat(segment[unknown], 64), along.reshape(-1)))
        away = np.linalg.norm(places.reshape(-1, 64, 2) - metres[unknown, None], axis=2)
        offset[unknown] = along[np.arange(len(unknown)), away.argmin(1)]
    known = np.isfinite(offset)
    distance = np.full(len(segment), np.nan)
    if known.any():
        distance[known] = np.linalg.norm(roads.to_metres(roads.locate(segment[known], offset[known])) - metres[known],
                                         axis=1)
    return offset, distance


def _events_at_segments(tables: GraphTables, layers: Layers, rows: dict[tuple[int, str], np.ndarray], kind: str,
                        target: str, nodes: np.ndarray, options: JoinOptions) -> _Found:
    """The nearest street, in the network of the time of each event where it has one."""
    from stgraph.sources.events.places import snap

    table = tables.nodes[kind]
    timed = "time" in table.column_names and pa.types.is_integer(table["time"].type)
    utc = numbers(table["time"])[nodes] if timed else None
    partner, reason = np.full(len(nodes), -1), np.full(len(nodes), NO_PLACE, dtype=object)
    offset, distance = np.full(len(nodes), np.nan), np.full(len(nodes), np.inf)
    for city in _cities(tables, layers, rows, target):
        xy = _places(tables.nodes[kind], city.roads.metric, nodes)
        if xy is None:
            reason[partner < 0] = NO_COORDINATES
            continue
        found = snap(city.history, xy, utc, options.event_limit)
        better = found.distance < distance
        partner[better], offset[better] = city.first + found.segment[better], found.offset[better]
        distance[better] = found.distance[better]
        reason[(partner < 0) & np.isfinite(xy).all(1)] = BEYOND
        reason[better] = ""
    return _Found(partner, {"offset": offset, "distance": distance}, reason)


# ---------------------------------------------------------------- regions and weather
def _in_regions(tables: GraphTables, layers: Layers, rows: dict[tuple[int, str], np.ndarray], kind: str, target: str,
                nodes: np.ndarray, options: JoinOptions) -> _Found:
    """The first region that covers the place."""
    from stgraph.sources.events.places import RegionLayer

    regions = tables.nodes[target]
    metric = "lonlat" not in regions.column_names
    xy = _places(tables.nodes[kind], metric, nodes)
    reason = np.full(len(nodes), NO_COORDINATES, dtype=object)
    if xy is None or "geometry" not in regions.column_names:
        return _Found(np.full(len(nodes), -1), {}, reason)
    plane = None if metric else LocalProjection.around(numbers(regions["lonlat"]))
    known = np.flatnonzero(np.isfinite(xy).all(1))
    partner = np.full(len(nodes), -1)
    partner[known] = RegionLayer(Geometry(regions["geometry"]).shapely(), plane, 0.0, tables,
                                 target).attach(xy[known]).place
    reason[:] = NO_PLACE
    reason[known] = np.where(partner[known] < 0, OUTSIDE, "")
    return _Found(partner, {}, reason)


def _weather(tables: GraphTables, layers: Layers, rows: dict[tuple[int, str], np.ndarray], relation: EdgeType,
             options: JoinOptions) -> list[dict[str, Any]]:
    """Every sensor from its nearest stations."""
    from stgraph.sources.weather import nearest_stations

    source, _, kind = relation
    nodes = _unjoined(layers, rows, kind, source, relation, len(tables.nodes[kind]))
    places = [_places(tables.nodes[one], False, here) for one, here in
              ((source, np.arange(len(tables.nodes[source]))), (kind, nodes))]
    if not len(nodes) and (len(tables.nodes[kind]) or relation in tables.edges):
        return []
    if places[0] is None or places[1] is None:
        return [{"relation": label(relation), "nodes": len(nodes), "joined": 0, "apart": len(nodes),
                 "reasons": {NO_COORDINATES: len(nodes)}, "remarks": {}}]
    ids = np.array(tables.nodes[source]["node_id"].to_pylist(), dtype=str)
    index, distance = nearest_stations(places[0], places[1], ids, options.stations, options.weather_limit)
    _add(tables, relation, index[0], nodes[index[1]], {"edge_weight": np.ones(len(distance), np.float32),
                                                       "distance": distance.astype(np.float32)})
    joined = len(np.unique(index[1]))
    nowhere = int((~np.isfinite(places[1]).all(1)).sum())
    reasons = {NO_PLACE: nowhere, BEYOND: len(nodes) - joined - nowhere}
    return [{"relation": label(relation), "nodes": len(nodes), "joined": joined, "apart": len(nodes) - joined,
             "reasons": {word: count for word, count in reasons.items() if count}, "remarks": {}}]


__all__ = ["AGAINST", "NO_DIRECTION", "OTHER_NAME", "JoinOptions", "join_in_space"]
