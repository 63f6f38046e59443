"""``build osm``: a map of OpenStreetMap becomes a road network with segments, turns and traffic signals."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgraph.errors import InputError
from stgraph.graph import GraphTables, data_sha256, save
from stgraph.io import peak_memory_mb, sha256
from stgraph.roads import Roads
from stgraph.roads.turns import make_turns
from stgraph.sources.osm.attributes import KEYS, make_runs, segment_attributes
from stgraph.sources.osm.filters import BOTH_WAYS, NETWORKS, network_filter
from stgraph.sources.osm.guard import is_graphml
from stgraph.sources.osm.legs import Legs, make_legs
from stgraph.sources.osm.memory import give_back
from stgraph.sources.osm.read import DEGREE, MOST_OBJECTS, OsmData, read_osm
from stgraph.sources.osm.restrictions import APPLIED, Applied, apply_restrictions
from stgraph.sources.osm.simplify import Segments
from stgraph.sources.osm.simplify import simplify as merge_legs

if TYPE_CHECKING:
    import networkx

ATTRIBUTION = "(c) OpenStreetMap contributors"
LICENCE = "ODbL-1.0"


@dataclass(frozen=True)
class OsmOptions:
    """What :func:`build_osm` is told beside the source.

    Attributes:
        place: Name of a place to fetch through osmnx, instead of a file.
        bbox: West, south, east, north of a box to fetch, instead of a file.
        cache: Folder of what was fetched.
        network: ``drive``, ``drive_service``, ``bike``, ``walk``, ``all_public`` or ``all``; see
            :data:`stgraph.sources.osm.filters.NETWORKS`.
        filter: One's own choice of ways instead, such as ``["highway"~"motorway|trunk"]``; see
            :mod:`stgraph.sources.osm.filters`. ``network`` then only says who moves: on foot, by bike, by car.
        name: Of the network; by default that of the bundle, or of the source.
        simplify: If False, every node of a way is a junction.
        poi: Whether to add points of interest of the same extract; see :mod:`stgraph.sources.osm.side`.
        land_use: Whether to add its land use.
        max_bytes: See :func:`stgraph.sources.osm.guard.check_size`.
        max_objects: The most nodes and roads in the file.
    """

    place: str | None = None
    bbox: tuple[float, ...] | None = None
    cache: Path | str | None = None
    network: str = "drive"
    filter: str | None = None
    name: str | None = None
    simplify: bool = True
    poi: bool = False
    land_use: bool = False
    simulated: bool = False
    max_bytes: int | None = None
    max_objects: int = MOST_OBJECTS


def build_osm(source: Path | str | networkx.MultiDiGraph | None = None, *, out: Path | str | None = None,
              **options: Any) -> tuple[Roads, dict[str, Any]]:
    """Make the road network of a map of OpenStreetMap.

    Which ways belong to it, which way they may be driven, where segments end and how long they are is as in osmnx 2.1
    (all components of the network are kept). Ways that lead out of a clipped file are cut there. Attributes of
    segments: :mod:`stgraph.sources.osm.attributes`. Turn restrictions are applied, but on foot.

    Args:
        source: ``.osm.pbf``, ``.osm``, ``.osm.gz``, ``.osm.bz2``, GraphML of osmnx, or a graph of osmnx.
        out: Where to save the bundle.
        **options: Fields of :class:`OsmOptions`.

    Returns:
        The network, and the report that the command prints with ``--json``.

    Raises:
        InputError: for a file that is damaged, too large, or has no such way; nothing is written.
    """
    started = time.perf_counter()
    chosen = OsmOptions(**options)
    roads, report = _make(source, out, chosen)
    if out is not None:
        tables, more = _tables(roads, source, chosen)
        report |= more | _save(tables, out)
    return roads, report | _cost(started)


def write_osm(source: Path | str | None, out: Path | str, **options: Any) -> dict[str, Any]:
    """As :func:`build_osm`, but the network is not held while it is written, which takes less memory.

    Returns:
        The report.
    """
    started = time.perf_counter()
    chosen = OsmOptions(**options)
    roads, report = _make(source, out, chosen)
    give_back()
    tables, more = _tables(roads, source, chosen)
    del roads
    give_back()
    return report | more | _save(tables, out) | _cost(started)


def _tables(roads: Roads, source: Any, options: OsmOptions) -> tuple[GraphTables, dict[str, Any]]:
    """The tables of the bundle, and what was added to the roads."""
    tables = roads.tables()
    if not (options.poi or options.land_use):
        return tables, {}
    from stgraph.sources.osm.side import add_side, read_side

    side = read_side(source, options.poi, options.land_use, options.max_bytes, options.max_objects)
    return add_side(tables, roads, side), {"points_of_interest": len(side.poi_id), "regions": len(side.region_id),
                                           "areas_left_out": dict(side.left_out)}


def _save(tables: GraphTables, out: Path | str) -> dict[str, Any]:
    save(tables, out)
    return {"out": str(out), "data_sha256": data_sha256(out)}


def _cost(started: float) -> dict[str, Any]:
    return {"seconds": round(time.perf_counter() - started, 3), "peak_memory_mb": round(peak_memory_mb(), 1)}


def _make(source: Path | str | networkx.MultiDiGraph | None, out: Path | str | None, options: OsmOptions
          ) -> tuple[Roads, dict[str, Any]]:
    """The network with its metadata, and the report."""
    given = [source is not None, options.place is not None, options.bbox is not None]
    if sum(given) != 1:
        raise InputError("give one of a file, a place and a box", field="source", value=f"{sum(given)} given",
                         remedy="an example: stgraph build osm porto.osm.pbf -o porto.stg")
    if isinstance(source, (str, Path)) and not is_graphml(Path(source)):
        file = Path(source)
        roads, found = _read_extract(file, options)
        entry = {"file": file.name, "sha256": sha256(file), "licence": LICENCE, "attribution": ATTRIBUTION}
        if options.simulated:  # nobody's data
            entry = {"file": file.name, "sha256": entry["sha256"]}
    else:
        roads, found = _other_door(source, options)
        entry = roads.metadata["sources"][0]
        if isinstance(source, (str, Path)):
            entry["sha256"] = sha256(Path(source))
    title = options.name or (Path(out).stem if out is not None else str(entry["file"]).split(".")[0])
    chosen = {"network": options.network, "filter": options.filter or NETWORKS[options.network],
              "simplify": options.simplify}
    roads.metadata.update({"name": title, "simulated": options.simulated, "sources": [entry],
                           "build": {"command": "stgraph build osm", **chosen, **found}})
    report = {**found, **chosen, "name": title, "source": entry["file"], "sha256": entry.get("sha256"),
              "licence": entry.get("licence"), "attribution": entry.get("attribution")}
    return roads, report


def _other_door(source: Any, options: OsmOptions) -> tuple[Roads, dict[str, Any]]:
    """Graphs of osmnx, which need more packages."""
    from stgraph.sources.osm import doors

    network_filter(options.network)
    for name, given in (("filter", options.filter is not None), ("simplify", not options.simplify),
                        ("poi", options.poi), ("land_use", options.land_use)):
        if given:
            raise InputError("only an extract can be filtered, left unsimplified, or give more than roads", field=name,
                             remedy="give .osm.pbf, .osm, .osm.gz or .osm.bz2, or leave the option out")
    if options.place is not None:
        return doors.roads_from_place(options.place, options.network, options.cache)
    if options.bbox is not None:
        return doors.roads_from_bbox(options.bbox, options.network, options.cache)
    if isinstance(source, (str, Path)):
        return doors.roads_from_graphml(source, options.max_bytes)
    return doors.roads_from_osmnx(source)


def _read_extract(file: Path, options: OsmOptions) -> tuple[Roads, dict[str, Any]]:
    network_filter(options.network)  # whoever moves has to be known beside one's own filter, too
    on_foot = options.network in BOTH_WAYS
    data = read_osm(file, network_filter(options.network, options.filter), KEYS,
                    vehicle="bicycle" if options.network == "bike" else "motorcar", max_bytes=options.max_bytes,
                    max_objects=options.max_objects)
    if on_foot:
        data.restrictions = []
    give_back()
    return _network(data, on_foot, options.simplify, file)


def _network(data: OsmData, on_foot: bool, merge: bool, source: Path) -> tuple[Roads, dict[str, Any]]:
    """The network, and what is to be reported of it. Large parts are let go as soon as they have served."""
    legs = make_legs(data, on_foot)
    facts = {"directed_legs": len(legs.start) + int(legs.both.sum()), "clipped_ways": legs.clipped}
    segments = merge_legs(legs.start, legs.end, legs.both, len(data.node_id), merge)
    if not len(segments.tail):
        raise InputError("no road is left: all ways are rings without a junction, or cut by the edge of the file",
                         file=source, value=f"{len(data.way_id):,} ways, {legs.clipped:,} of them clipped",
                         remedy="take a larger extract, or one with complete ways")
    runs = make_runs(segments, legs)
    signals = _signals(data, segments, legs)
    line_ptr, line_xy = _lines(segments, legs, data)
    length = np.add.reduceat(legs.length[segments.leg], segments.ptr[:-1])
    reverse = segments.reverse
    at_junction = np.zeros(len(data.node_id), bool)
    at_junction[segments.tail] = at_junction[segments.head] = True
    junction = np.flatnonzero(at_junction)
    place = np.cumsum(at_junction) - 1
    tail, head = place[segments.tail], place[segments.head]
    del legs, segments, place, at_junction
    give_back()
    turn_index, turn_angle = make_turns(tail, head, line_ptr, line_xy, reverse)
    applied = apply_restrictions(data.restrictions, turn_index, turn_angle, runs.ptr, data.way_id[runs.way], tail, head,
                                 data.node_id[junction])
    del turn_index, turn_angle, reverse
    attributes = segment_attributes(runs, data.tags, data.way_id, on_foot)
    lit = np.zeros(len(data.node_id), bool)
    lit[data.signal] = True
    roads = Roads(
        junction_id=data.node_id[junction], junction_xy=data.node_xy[junction] / DEGREE, tail=tail, head=head,
        length=length, line_ptr=line_ptr, line_xy=line_xy, attributes=attributes,
        junction_attributes={"traffic_signal": lit[junction]}, turn_index=applied.turn_index,
        turn_angle=applied.turn_angle, forbidden_ptr=applied.forbidden_ptr, forbidden=applied.forbidden,
        signal_id=data.node_id[signals.node], signal_xy=data.node_xy[signals.node] / DEGREE,
        signal_segment=signals.segment, signal_offset=signals.offset)
    return roads, _report(data, roads, applied) | facts


def _report(data: OsmData, roads: Roads, applied: Applied) -> dict[str, Any]:
    return {
        "junctions": len(roads.junction_id), "segments": len(roads.tail),
        "length_km": round(float(roads.length.sum()) / 1000, 3), "turns": roads.turn_index.shape[1],
        "traffic_signals": len(roads.signal_id),
        "restrictions": len(data.restrictions) + sum(data.left_out.values()),
        "restrictions_applied": applied.counts().get(APPLIED, 0),
        "restrictions_left_out": {**data.left_out, **{reason: count for reason, count in applied.counts().items()
                                                      if reason != APPLIED}},
        "forbidden_sequences": len(roads.forbidden_ptr) - 1,
        "ways": len(data.way_id), "highways_in_file": data.highways,
        "nodes_in_file": data.nodes, "unpacked_bytes": data.unpacked,
        "imputed_speed_share": round(float(np.mean(roads.attributes["speed_imputed"])), 4),
        "imputed_lanes_share": round(float(np.mean(roads.attributes["lanes_imputed"])), 4),
        "bounds": bounds(roads.line_xy),
    }


def bounds(xy: np.ndarray) -> list[float]:
    """West, south, east, north of places ``[n, 2]`` in degrees. Where they lie on both sides of the 180th meridian,
    west is greater than east: what is left out is the widest gap between them."""
    south, north = float(xy[:, 1].min()), float(xy[:, 1].max())
    west, east = float(xy[:, 0].min()), float(xy[:, 0].max())
    if east - west > 180.0:
        longitude = np.sort(xy[:, 0])
        widest = int(np.diff(longitude).argmax())
        if longitude[widest + 1] - longitude[widest] > 360.0 - (east - west):
            west, east = float(longitude[widest + 1]), float(longitude[widest])
    return [west, south, east, north]


def _lines(segments: Segments, legs: Legs, data: OsmData) -> tuple[np.ndarray, np.ndarray]:
    """Lines of the segments in driving direction: ``line_ptr [S + 1]`` and ``line_xy [P, 2]`` in degrees."""
    line_ptr = segments.ptr + np.arange(len(segments.ptr))  # one point more than legs
    node = np.empty(line_ptr[-1], np.int32)
    inner = np.ones(line_ptr[-1], bool)
    inner[line_ptr[1:] - 1] = False
    node[inner] = legs.ends[segments.step]
    node[~inner] = segments.head
    return line_ptr, data.node_xy[node] / DEGREE


@dataclass
class _OnSegment:
    """Traffic signals on segments: place of the node in the data, segment, metres after its start, ``[L]`` each."""

    node: np.ndarray
    segment: np.ndarray
    offset: np.ndarray


def _signals(data: OsmData, segments: Segments, legs: Legs) -> _OnSegment:
    """Put every traffic signal on one segment: the one whose direction it is for, where the map says so, otherwise one
    that leads to it, in the order of the way rather than against it. Only a signal that no segment leads to stands at
    the start of one."""
    if not len(data.signal):
        return _OnSegment(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    direction = np.zeros(len(data.node_id), np.int8)
    direction[data.signal] = data.signal_direction
    lit = np.zeros(len(data.node_id), bool)
    lit[data.signal] = True
    ends = legs.ends
    ahead = np.flatnonzero(lit[ends][segments.step ^ 1])
    behind = segments.ptr[:-1][lit[segments.tail]]
    step = np.concatenate([ahead, behind])
    node = np.concatenate([ends[segments.step[ahead] ^ 1], ends[segments.step[behind]]])
    at_start = np.arange(len(step)) >= len(ahead)
    along = np.where(legs.along[segments.step[step] >> 1] ^ (segments.step[step] & 1 == 1), 1, -1)
    order = np.lexsort((step, along < 0, at_start, direction[node] * along < 0, node))
    chosen = order[np.append(True, node[order][1:] != node[order][:-1])] if len(order) else order
    segment = np.searchsorted(segments.ptr, step[chosen], side="right") - 1
    offset = [0.0 if start else float(legs.length[segments.step[first:last + 1] >> 1].sum()) for first, last, start in
              zip(segments.ptr[segment].tolist(), step[chosen].tolist(), at_start[chosen].tolist(), strict=True)]
    return _OnSegment(node[chosen], segment, np.array(offset))
