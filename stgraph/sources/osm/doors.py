"""Other doors for OpenStreetMap: graphs of osmnx, in memory or as GraphML, and places fetched by osmnx.

A graph of osmnx says which ways a segment runs over, but not how long each of them is: they count alike, so that class,
name and lanes of a segment may differ from those that ``build osm`` finds in the map itself, and signals are known at
junctions only. Turn restrictions are not in such a graph: every move but turning back is a turn.
"""

from __future__ import annotations

import gzip
import re
import socket
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import shapely

from stgraph.errors import InputError
from stgraph.roads.network import Roads, reverse_segments
from stgraph.roads.projection import great_circle
from stgraph.roads.turns import make_turns
from stgraph.sources.osm.attributes import Runs, segment_attributes
from stgraph.sources.osm.build import ATTRIBUTION, LICENCE, bounds
from stgraph.sources.osm.filters import NETWORKS, network_filter
from stgraph.sources.osm.guard import check_size, form_of
from stgraph.sources.osm.tags import Tags
from stgraph.sources.road_network import crs_of, table_lines
from stgraph.sources.road_tables import Columns, Plane, choose_plane
from stgraph.sources.roads import RoadOptions

if TYPE_CHECKING:
    import networkx

WAY_TAGS = ("highway", "junction", "name", "bridge", "tunnel", "maxspeed", "lanes")
NEEDED = (*WAY_TAGS, "oneway", "reversed", "osmid", "length", "geometry", "speed_kph")
_ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,\[\]]+)""")
_NO_GRAPH = "save it with osmnx.save_graphml"


@dataclass
class _Graph:
    """What a graph of osmnx says: ``J`` nodes, ``S`` edges; values are texts, numbers or lists, as there."""

    file: str
    node: list[Any] = field(default_factory=list)
    x: list[Any] = field(default_factory=list)
    y: list[Any] = field(default_factory=list)
    signal: list[bool] = field(default_factory=list)
    source: list[Any] = field(default_factory=list)
    target: list[Any] = field(default_factory=list)
    key: list[Any] = field(default_factory=list)
    values: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in NEEDED})
    about: dict[str, Any] = field(default_factory=dict)

    def add_node(self, node: Any, data: Mapping[str, Any]) -> None:
        self.node.append(node)
        self.x.append(data.get("x"))
        self.y.append(data.get("y"))
        self.signal.append("traffic_signals" in words_of(data.get("highway")))

    def add_edge(self, source: Any, target: Any, key: Any, data: Mapping[str, Any]) -> None:
        self.source.append(source)
        self.target.append(target)
        self.key.append(key)
        for name, column in self.values.items():
            column.append(data.get(name))


# -------------------------------------------------------------------- doors
def roads_from_graphml(path: Path | str, max_bytes: int | None = None) -> tuple[Roads, dict[str, Any]]:
    """Read a graph that osmnx saved as GraphML, plain or gzipped, simplified or not, in degrees or projected.

    Args:
        path: ``.graphml`` or ``.graphml.gz``.
        max_bytes: See :func:`stgraph.sources.osm.guard.check_size`.

    Returns:
        The roads, and counts for the report.

    Raises:
        InputError: for a file that is damaged, too large, declares entities, or is no such graph.
    """
    import defusedxml.common
    import defusedxml.ElementTree

    path = Path(path)
    form = form_of(path)
    if form not in ("osm", "osm.gz"):
        raise InputError("this is not GraphML", file=path, value=form, remedy=_NO_GRAPH)
    check_size(path, form, max_bytes)
    try:
        with (gzip.open(path) if form == "osm.gz" else path.open("rb")) as stream:
            graph = _parse(defusedxml.ElementTree.iterparse(stream, ("start", "end"), forbid_dtd=True), str(path))
    except (defusedxml.ElementTree.ParseError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"not readable as GraphML: {error}", file=path, remedy=_NO_GRAPH) from error
    except defusedxml.common.DefusedXmlException as error:
        raise InputError(f"the file declares entities, which no GraphML of osmnx does: {type(error).__name__}",
                         file=path, remedy="do not use this file") from error
    return _roads(graph)


def roads_from_osmnx(graph: networkx.MultiDiGraph) -> tuple[Roads, dict[str, Any]]:
    """Take over a graph of osmnx, simplified or not, in degrees or projected.

    Returns:
        The roads, and counts for the report.

    Raises:
        InputError: for a graph without directions, or without places of its nodes.
    """
    if not graph.is_directed():
        raise InputError("the graph has no directions, so one-way streets are lost", field="graph",
                         value=type(graph).__name__, remedy="take the MultiDiGraph that osmnx made first")
    found = _Graph("graph of osmnx", about=dict(graph.graph))
    for node, data in graph.nodes(data=True):
        found.add_node(node, data)
    edges = graph.edges(keys=True, data=True) if graph.is_multigraph() else \
        ((source, target, 0, data) for source, target, data in graph.edges(data=True))
    for source, target, key, data in edges:
        found.add_edge(source, target, key, data)
    return _roads(found)


def roads_from_place(text: str, network: str = "drive", cache: Path | str | None = None
                     ) -> tuple[Roads, dict[str, Any]]:
    """Fetch the network of a place by its name, such as "Porto, Portugal", through osmnx; answers are cached.

    Args:
        text: What Nominatim is asked.
        network: A key of :data:`stgraph.sources.osm.filters.NETWORKS`.
        cache: Folder of the answers; by default ``osmnx`` in the user's cache of stgraph.

    Raises:
        InputError: where osmnx is not installed, there is no connection, or no such place.
    """
    if not text.strip():
        raise InputError("no place is named", field="place", value=text, remedy='an example: "Porto, Portugal"')
    return _fetched(f"place: {text}", network, cache,
                    lambda osmnx: osmnx.graph_from_place(text, network_type=network, retain_all=True))


def roads_from_bbox(bbox: Iterable[float], network: str = "drive", cache: Path | str | None = None
                    ) -> tuple[Roads, dict[str, Any]]:
    """Fetch the network within a box through osmnx; answers are cached.

    Args:
        bbox: West, south, east, north in degrees.
        network: A key of :data:`stgraph.sources.osm.filters.NETWORKS`.
        cache: Folder of the answers; by default ``osmnx`` in the user's cache of stgraph.

    Raises:
        InputError: where the box is none, osmnx is not installed, there is no connection, or nothing there.
    """
    box = tuple(float(side) for side in bbox)
    good = len(box) == 4 and -180 <= box[0] < box[2] <= 180 and -90 <= box[1] < box[3] <= 90
    if not good:
        raise InputError("a box is west, south, east, north in degrees, west < east and south < north", field="bbox",
                         value=",".join(f"{side:g}" for side in box),
                         remedy="an example: -8.63,41.14,-8.60,41.16; across the 180th meridian fetch both halves")
    return _fetched(f"bbox: {','.join(f'{side:g}' for side in box)}", network, cache,
                    lambda osmnx: osmnx.graph_from_bbox(box, network_type=network, retain_all=True))


def _fetched(what: str, network: str, cache: Path | str | None, fetch: Any) -> tuple[Roads, dict[str, Any]]:
    if network not in NETWORKS:
        network_filter(network)  # which says what there is
    try:
        import osmnx
        from requests.exceptions import RequestException
    except ImportError as error:
        raise InputError("osmnx is not installed, through which places are fetched", field="place",
                         remedy="pip install 'osmnx>=2.0,<3', or download an extract (.osm.pbf) and give the file"
                         ) from error
    folder = Path(cache) if cache is not None else Path.home() / ".cache" / "stgraph" / "osmnx"
    settings = osmnx.settings
    before = settings.use_cache, settings.cache_folder, settings.overpass_rate_limit
    settings.use_cache, settings.cache_folder = True, folder
    settings.overpass_rate_limit = before[2] and _is_known(settings.overpass_url)  # else it waits a minute for nothing
    try:
        graph = fetch(osmnx)
    except (RequestException, OSError) as error:
        raise InputError(f"OpenStreetMap cannot be reached, and {folder} holds no answer from before: "
                         f"{type(error).__name__}", field=what.split(":")[0], value=what,
                         remedy="go online, or download an extract (.osm.pbf), for instance from "
                                "https://download.geofabrik.de, and give the file") from error
    except (ValueError, TypeError, osmnx._errors.InsufficientResponseError) as error:
        raise InputError(f"osmnx finds nothing there: {error}", field=what.split(":")[0], value=what,
                         remedy="write the place otherwise, or give --bbox W,S,E,N") from error
    finally:
        settings.use_cache, settings.cache_folder, settings.overpass_rate_limit = before
    roads, report = roads_from_osmnx(graph)
    roads.metadata["sources"][0] |= {"file": what, "through": f"osmnx {osmnx.__version__}"}
    return roads, report | {"source": what, "network": network, "cache": str(folder)}


def _is_known(url: str) -> bool:
    """Whether the name of a server can be looked up, which it cannot without a connection."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True


# -------------------------------------------------------------------- GraphML
def _parse(events: Iterable[tuple[str, Any]], file: str) -> _Graph:
    """Nodes and edges one after the other; what has been read is let go."""
    graph = _Graph(file)
    keys: dict[str, str] = {}
    first = parent = None
    for event, element in events:
        name = element.tag.rpartition("}")[2]
        if first is None:
            first = name
            if name != "graphml":
                raise InputError("this is not GraphML", file=file, value=name, remedy=_NO_GRAPH)
        if event == "start" and name == "graph":
            if parent is not None:
                raise InputError("there are several graphs in this file", file=file, remedy=_NO_GRAPH)
            if element.get("edgedefault") != "directed":
                raise InputError("the graph has no directions, so one-way streets are lost", file=file,
                                 field="edgedefault", value=element.get("edgedefault"), remedy=_NO_GRAPH)
            parent = element
        elif event == "end" and name == "key":
            keys[element.get("id", "")] = element.get("attr.name", "")
        elif event == "end" and name in ("node", "edge") and parent is not None:
            data = dict(_data(element, keys))
            if name == "node":
                graph.add_node(element.get("id"), data)
            else:
                graph.add_edge(element.get("source"), element.get("target"), element.get("id", "0"), data)
            if parent[-1] is element:
                del parent[-1]
        elif event == "end" and name == "graph":
            graph.about |= dict(_data(element, keys))
    if parent is None:
        raise InputError("there is no graph in this file", file=file, remedy=_NO_GRAPH)
    return graph


def _data(element: Any, keys: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for child in element:
        if child.tag.rpartition("}")[2] == "data":
            yield keys.get(child.get("key"), ""), child.text or ""


def words_of(value: Any) -> list[str]:
    """The texts that a value stands for: none, one, or those of a list, which GraphML has as ``['a', 'b']``."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return []
    if isinstance(value, (list, tuple, set)):
        return [str(one) for one in value]
    text = str(value).strip()
    if text[:1] == "[" and text[-1:] == "]":
        return [re.sub(r"\\(.)", r"\1", one or other) or bare for one, other, bare in _ITEM.findall(text[1:-1])]
    return [text] if text else []


# -------------------------------------------------------------------- the network
def _roads(graph: _Graph) -> tuple[Roads, dict[str, Any]]:
    if not graph.node or not graph.source:
        raise InputError("the graph has no nodes or no edges", file=graph.file, value=f"{len(graph.node)} nodes, "
                         f"{len(graph.source)} edges", remedy="make it again with osmnx")
    junction_id, tail, head = _ends(graph)
    columns = Columns({}, graph.file, _shapes(graph), _system(graph))
    place = np.column_stack([_numbers(graph, "x", graph.x), _numbers(graph, "y", graph.y)])
    plane = choose_plane(place, graph.file, columns.crs, None, False)
    xy = plane.apply(place)
    line_ptr, line_xy, facts = table_lines(columns, RoadOptions(), plane, xy, tail, head)
    length = _lengths(graph, plane, line_ptr, line_xy)
    attributes, along = _attributes(graph, length)
    signals = _signals(np.array(graph.signal), tail, head, along, length)
    reverse = reverse_segments(tail, head, line_ptr, line_xy)
    turn_index, turn_angle = make_turns(tail, head, line_ptr, line_xy, reverse, plane.metric)
    key = pd.Series([f"{source}-{target}-{key}" for source, target, key in
                     zip(graph.source, graph.target, graph.key, strict=True)])
    simplified = str(graph.about.get("simplified", False)) == "True"
    entry = {"file": Path(graph.file).name, "licence": LICENCE, "attribution": ATTRIBUTION}
    roads = Roads(
        junction_id, xy, tail, head, length, line_ptr, line_xy, plane.metric, attributes,
        {"traffic_signal": np.array(graph.signal)}, turn_index, turn_angle, signal_id=junction_id[signals[0]],
        signal_xy=xy[signals[0]], signal_segment=signals[1], signal_offset=signals[2],
        metadata={"sources": [entry], "build": {"simplified": simplified}},
        segment_id=None if key.duplicated().any() else key.to_numpy(str))
    return roads, {
        "junctions": len(junction_id), "segments": len(tail), "length_km": round(float(length.sum()) / 1000, 3),
        "turns": turn_index.shape[1], "traffic_signals": len(signals[0]), "coordinates": plane.text,
        "simplified": simplified, **facts,
        "imputed_speed_share": round(float(attributes["speed_imputed"].mean()), 4),
        "imputed_lanes_share": round(float(attributes["lanes_imputed"].mean()), 4),
        **({} if plane.metric else {"bounds": bounds(line_xy)}),
        "warnings": ["a graph of osmnx knows no turn restrictions: every move but turning back is a turn",
                     *([] if simplified else ["the graph is not simplified: every node of a way is a junction"])]}


def _ends(graph: _Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of the junctions, numbers where all are, and the positions of the ends of edges."""
    index = pd.Index([str(node) for node in graph.node])
    if not index.is_unique:
        raise InputError("two nodes have one id", file=graph.file, value=index[index.duplicated()][0],
                         remedy="make the graph again with osmnx")
    tail, head = (index.get_indexer(pd.Index([str(node) for node in ends])) for ends in (graph.source, graph.target))
    missing = (tail < 0) | (head < 0)
    if missing.any():
        row = int(missing.argmax())
        raise InputError(f"{int(missing.sum())} edges have an end that is no node", file=graph.file, field="edge",
                         value=f"{graph.source[row]} -> {graph.target[row]}", remedy="make the graph again with osmnx")
    return Columns({"id": index.to_numpy(str)}, graph.file).ids("id"), tail, head


def _system(graph: _Graph) -> Any:
    said = graph.about.get("crs", "EPSG:4326")
    return crs_of(RoadOptions(crs=str(said)), Columns({}, graph.file))


def _shapes(graph: _Graph) -> np.ndarray:
    shapes = np.full(len(graph.source), None, dtype=object)
    for row, value in enumerate(graph.values["geometry"]):
        if isinstance(value, str) and value:
            shapes[row] = shapely.from_wkt(value, on_invalid="ignore")
            if shapes[row] is None:
                raise InputError("the geometry of an edge is not a line", file=graph.file, field="geometry",
                                 value=value, remedy="make the graph again with osmnx")
        elif value is not None and value == value and value != "":
            shapes[row] = value
    return shapes


def _numbers(graph: _Graph, name: str, values: list[Any]) -> np.ndarray:
    try:
        return np.array([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise InputError(f"not a number: {error}", file=graph.file, field=name, remedy="make the graph again with osmnx"
                         ) from error


def _lengths(graph: _Graph, plane: Plane, line_ptr: np.ndarray, line_xy: np.ndarray) -> np.ndarray:
    """Lengths as osmnx has them; along the line where it has none."""
    given = _numbers(graph, "length", graph.values["length"])
    if (given < 0).any() or np.isinf(given).any():
        raise InputError("a length is negative or not finite", file=graph.file, field="length",
                         value=given[(given < 0) | np.isinf(given)][0], remedy="make the graph again with osmnx")
    step = np.zeros(len(line_xy))
    step[1:] = np.linalg.norm(np.diff(line_xy, axis=0), axis=1) if plane.metric else \
        great_circle(line_xy[:-1], line_xy[1:])
    step[line_ptr[:-1]] = 0.0
    return np.where(np.isnan(given), np.add.reduceat(step, line_ptr[:-1]), given)


def _attributes(graph: _Graph, length: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The columns that ``build osm`` makes, from edges whose ways count alike; and which edges follow their way."""
    listed = {name: [words_of(value) for value in graph.values[name]] for name in (*WAY_TAGS, "osmid")}
    count = np.array([max(1, *(len(listed[name][row]) for name in listed)) for row in range(len(length))])
    ptr = np.concatenate([[0], np.cumsum(count)])
    tags: dict[str, list[str | None]] = {
        name: [values[part * len(values) // parts] if values else None
               for values, parts in zip(listed[name], count.tolist(), strict=True) for part in range(parts)]
        for name in listed}
    way = [int(word) if word is not None and re.fullmatch(r"\d{1,18}", word) else 0 for word in tags.pop("osmid")]
    oneway = ["yes" if words_of(value) == ["True"] else "no" for value in graph.values["oneway"]]
    tags["oneway"] = [oneway[row] for row in np.repeat(np.arange(len(length)), count).tolist()]
    along = np.array([words_of(value) != ["True"] for value in graph.values["reversed"]])
    runs = Runs(ptr, np.arange(ptr[-1]), np.repeat(along, count), np.repeat(length / count, count))
    found: dict[str, Any] = segment_attributes(runs, Tags.of(tags), np.array(way, np.int64))
    speed = _numbers(graph, "speed_kph", graph.values["speed_kph"]) / 3.6
    known = np.isfinite(speed) & (speed > 0)
    if known.any():  # the user's own, or those of osmnx.add_edge_speeds
        found["speed"] = np.where(known, speed, found["speed"]).astype(np.float32)
    return found, along


def _signals(lit: np.ndarray, tail: np.ndarray, head: np.ndarray, along: np.ndarray,
             length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Junctions with a signal, the segment each stands on (at its end, where one leads there), and where on it."""
    segment = np.concatenate([np.flatnonzero(lit[head]), np.flatnonzero(lit[tail])])
    arrives = np.arange(len(segment)) < lit[head].sum()
    junction = np.where(arrives, head[segment], tail[segment])
    order = np.lexsort((segment, ~along[segment], ~arrives, junction))
    first = order[np.append(True, junction[order][1:] != junction[order][:-1])] if len(order) else order
    return junction[first], segment[first], np.where(arrives[first], length[segment[first]], 0.0)
