"""Where events happen: the segments, regions, or points (sensors, stations, cells) of a map, one for each event.

Ties are settled by position: of places equally near (to a micrometre), or regions that share a border or overlap, an
event goes to the one that comes first in its table. A layer keeps all its places, used or not, and their relations: a
bundle of events is complete for a model without the map it was made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from scipy.spatial import cKDTree

from stgraph.errors import InputError
from stgraph.graph import Geometry, GraphTables, load_tables
from stgraph.graph.plain import SOURCE, TARGET, column, numbers
from stgraph.graph.schema import EdgeType
from stgraph.roads import LocalProjection
from stgraph.roads.history import RoadHistory
from stgraph.roads.nearest import SegmentIndex, Snapped
from stgraph.sources.tables import PARQUET, find_column, form_of, names

if TYPE_CHECKING:
    import geopandas

    from stgraph.graph import DynamicHeteroGraph

ROADS = ("junction", "segment", "traffic_signal", "restriction")
ORDER = ("segment", "region", "sensor", "cell")
"""Which places of a map are taken where none are named: the first of these that it has."""
LIMITS = {"segment": 200.0, "region": 0.0}
"""Largest distance from an event to its place where none is given, m; ``LIMIT`` for points."""
LIMIT = 5000.0
TIE = 1e-6  # m
REGION_IDS = ("region_id", "geoid", "fid", "id", "code", "name")
REGION_FILES = (".geojson", ".json", ".gpkg", *PARQUET)
_BLOCK = 1 << 18  # points looked up at a time


@dataclass(frozen=True)
class Attached:
    """The place of each of ``n`` events.

    Args:
        place: ``[n]`` int64, position in the table of places; -1 where there is none within the limit.
        distance: ``[n]`` metres from the event to its place; NaN where there is none.
        offset: ``[n]`` metres after the start of the segment; None for other places.
        several: How many events could have gone to more than one region.
    """

    place: np.ndarray
    distance: np.ndarray
    offset: np.ndarray | None = None
    several: int = 0


class Layer(Protocol):
    """Places that events can be put on."""

    kind: str
    limit: float | None

    def attach(self, xy: np.ndarray) -> Attached:
        """The place of events at ``[n, 2]``, in the coordinates of the map."""

    def tables(self) -> GraphTables:
        """The places and their relations; called after :meth:`attach`."""


@dataclass(frozen=True)
class Map:
    """Places of a graph that events are put on.

    Args:
        file: For messages.
        kind: Node type that events go to.
        tables: The place types and the relations among them, without signals.
        plain: Whether its coordinates are plain metres.
    """

    file: str
    kind: str
    tables: GraphTables
    plain: bool

    @property
    def xy(self) -> np.ndarray:
        """Coordinates ``[N, 2]`` of the places, in degrees or plain metres."""
        return np.asarray(numbers(self.tables.nodes[self.kind]["pos" if self.plain else "lonlat"]), np.float64)

    def projection(self) -> LocalProjection | None:
        """The plane around the map; None where it is plain metres."""
        return None if self.plain else LocalProjection.around(self.xy)


def open_map(source: Path | str | GraphTables | DynamicHeteroGraph, kind: str | None = None) -> Map:
    """The place types of a graph.

    Args:
        source: A bundle, or a graph.
        kind: Node type that events go to; None for the first of :data:`ORDER` that it has.

    Raises:
        InputError: where it has no such places.
    """
    if isinstance(source, (str, Path)):
        file, schema = str(source), load_tables(source, nodes=(), edges=(), verify=False).schema
        kinds, relations = list(schema.nodes), list(schema.edges)
    else:
        file = "the graph"
        source = source if isinstance(source, GraphTables) else GraphTables.of_graph(source)
        kinds, relations = list(source.nodes), list(source.edges)
    chosen = kind or next((one for one in ORDER if one in kinds), None)
    if chosen is None or chosen not in kinds:
        raise InputError("the graph has no such places" if kind else "the graph has no places for events", file=file,
                         field="to", value=kind or ", ".join(kinds), remedy=f"choose among {', '.join(kinds)} with "
                         "--to, or give --regions, --grid or --h3")
    kept = [one for one in (ROADS if chosen == "segment" else (chosen,)) if one in kinds]
    inside: list[EdgeType] = [one for one in relations if one[0] in kept and one[2] in kept]
    if not isinstance(source, GraphTables):
        tables = load_tables(source, nodes=kept, edges=inside, in_memory=False)
    else:
        tables = source
    part = GraphTables({one: tables.nodes[one] for one in kept}, {one: tables.edges[one] for one in inside},
                       dict(tables.metadata), schema=tables.schema.copy())
    for declared, _ in list(part.schema.items()):
        if declared not in kept and declared not in inside:
            part.schema.drop(declared)
    columns = part.nodes[chosen].column_names
    if "lonlat" not in columns and "pos" not in columns:
        raise InputError("these nodes have no places", file=file, field="to", value=chosen,
                         remedy="choose another node type with --to")
    return Map(file, chosen, part, "lonlat" not in columns)


def layer_of(found: Map, limit: float | None) -> Layer:
    """The layer of a map: its segments, its regions (nodes with shapes), or points.

    Args:
        found: The map.
        limit: Largest distance from an event to its place, m; None for the usual one.
    """
    table = found.tables.nodes[found.kind]
    limit = LIMITS.get(found.kind, LIMIT) if limit is None else limit
    if found.kind == "segment":
        return SegmentLayer(found, limit)
    if "geometry" in table.column_names:
        shapes = Geometry(table["geometry"])
        if shapes.kinds() <= {"Polygon", "MultiPolygon"}:
            return RegionLayer(shapes.shapely(), found.projection(), limit, found.tables, found.kind)
    return PointLayer(found, limit)


# -------------------------------------------------------------------- segments and points
def attach(layer: Layer, xy: np.ndarray, utc: np.ndarray | None) -> Attached:
    """The place of events; on roads that change, in the network of the time of each event.

    Args:
        layer: The places.
        xy: ``[n, 2]`` in the coordinates of the map.
        utc: ``[n]`` seconds UTC; None where events have no time, and meet roads as they are after their last change.
    """
    return layer.attach(xy, utc) if isinstance(layer, SegmentLayer) else layer.attach(xy)


def snap(history: RoadHistory, xy: np.ndarray, utc: np.ndarray | None, limit: float) -> Snapped:
    """The nearest segment of the network of each instant; see :meth:`stgraph.roads.nearest.SegmentIndex.nearest`.

    Args:
        history: The networks.
        xy: ``[n, 2]`` in the coordinates of the map.
        utc: ``[n]`` seconds UTC; None for after the last change.
        limit: m.
    """
    period = np.full(len(xy), len(history) - 1) if utc is None else history.period(utc)
    found = Snapped(np.full(len(xy), -1), np.full(len(xy), np.nan), np.full(len(xy), np.inf),
                    np.full((len(xy), 2), np.nan))
    for number in np.unique(period).tolist():
        roads, rows = history.roads(number), np.flatnonzero(period == number)
        part = SegmentIndex(roads).nearest(roads.to_metres(xy[rows]), limit)
        for name, values in vars(part).items():
            getattr(found, name)[rows] = values
    return found


class SegmentLayer:
    """Segments of a road network: the nearest street, and of a two-way street the segment that comes first."""

    kind = "segment"

    def __init__(self, found: Map, limit: float) -> None:
        self.limit: float | None = limit
        self._tables = found.tables
        self.history = RoadHistory(found.tables)

    def attach(self, xy: np.ndarray, utc: np.ndarray | None = None) -> Attached:
        """The nearest segment within the limit, in the network of the time of each event: see :func:`snap`."""
        snapped = snap(self.history, xy, utc, self.limit or 0.0)
        none = snapped.segment < 0
        return Attached(snapped.segment, np.where(none, np.nan, snapped.distance), snapped.offset)

    def tables(self) -> GraphTables:
        """The whole network, as it was in the map."""
        return self._tables


class PointLayer:
    """Nodes that are points, such as sensors: the nearest."""

    def __init__(self, found: Map, limit: float) -> None:
        self.kind = found.kind
        self.limit: float | None = limit
        self._map = found

    def attach(self, xy: np.ndarray) -> Attached:
        """The nearest node within the limit; one whose place is not known gets nothing."""
        projection = self._map.projection()
        places = self._map.xy
        if projection is not None:
            places, xy = projection.metres(places), projection.metres(xy)
        return nearest_points(places, xy, self.limit or 0.0)

    def tables(self) -> GraphTables:
        """The nodes and the relations among them, as they were in the map."""
        return self._map.tables


def nearest_points(places: np.ndarray, xy: np.ndarray, limit: float) -> Attached:
    """The nearest of some places within a limit, the first of those equally near.

    Args:
        places: ``[P, 2]`` metres; NaN where not known.
        xy: ``[n, 2]`` metres.
        limit: m.
    """
    known = np.flatnonzero(np.isfinite(places).all(1))
    place, distance = np.full(len(xy), -1), np.full(len(xy), np.nan)
    tree, rows, count = cKDTree(places[known]), np.arange(len(xy)), min(4, len(known))
    while len(rows):
        near, at = tree.query(xy[rows], k=np.arange(1, count + 1), distance_upper_bound=np.nextafter(limit, np.inf))
        tied = (near <= near[:, :1] + TIE) & np.isfinite(near)
        first = np.where(tied, known[np.minimum(at, len(known) - 1)], len(places)).min(1)
        there = tied[:, 0]
        place[rows[there]], distance[rows[there]] = first[there], near[there, 0]
        rows = rows[tied[:, -1]] if count < len(known) else rows[:0]  # perhaps more are as near as these
        count = min(4 * count, len(known))
    return Attached(place, distance)


# -------------------------------------------------------------------- regions
class RegionLayer:
    """Regions: polygons that may touch and even overlap; an event on a border goes to the one that comes first.

    Args:
        shapes: ``[N]`` polygons, in degrees or plain metres.
        projection: The plane for distances; None where the shapes are in metres.
        limit: How far outside of a region an event may lie and still go to the nearest, m.
        tables: Nodes and relations.
        kind: Node type.
    """

    def __init__(self, shapes: np.ndarray, projection: LocalProjection | None, limit: float, tables: GraphTables,
                 kind: str = "region") -> None:
        self.kind = kind
        self.limit: float | None = limit
        self.shapes, self.projection, self._tables = shapes, projection, tables

    def attach(self, xy: np.ndarray) -> Attached:
        """The first region that covers the event, its border included; else the nearest within the limit."""
        place, distance, several = np.full(len(xy), -1), np.full(len(xy), np.nan), 0
        for start in range(0, len(xy), _BLOCK):
            found, more = self._covering(xy[start:start + _BLOCK])
            place[start:start + _BLOCK] = found
            several += more
        distance[place >= 0] = 0.0
        outside = np.flatnonzero(place < 0)
        if self.limit and len(outside):
            place[outside], distance[outside] = self._nearest(xy[outside])
        return Attached(place, distance, several=several)

    def _covering(self, xy: np.ndarray) -> tuple[np.ndarray, int]:
        import shapely

        region, event = shapely.STRtree(shapely.points(xy)).query(self.shapes, predicate="intersects")
        first = np.full(len(xy), len(self.shapes))
        np.minimum.at(first, event, region)
        return np.where(first == len(self.shapes), -1, first), int((np.bincount(event, minlength=1) > 1).sum())

    def _nearest(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import shapely

        shapes = self.shapes if self.projection is None else shapely.transform(self.shapes, self.projection.metres)
        points = shapely.points(xy if self.projection is None else self.projection.metres(xy))
        (event, region), distance = shapely.STRtree(shapes).query_nearest(
            points, max_distance=self.limit, return_distance=True, all_matches=True)
        order = np.lexsort((region, event))
        event, first = np.unique(event[order], return_index=True)
        place, far = np.full(len(xy), -1), np.full(len(xy), np.nan)
        place[event], far[event] = region[order][first], distance[order][first]
        return place, far

    def tables(self) -> GraphTables:
        """The regions, and which lie beside which."""
        return self._tables


def read_regions(path: Path | str, key: str | None, plain: bool, limit: float | None) -> RegionLayer:
    """Regions from a file of polygons: nodes ``region`` with ``geometry``, ``region adjacent region`` where two touch.

    Args:
        path: GeoJSON, GeoPackage or GeoParquet.
        key: Column of names; None for one of the usual ones, or the row number.
        plain: Whether events are in plain metres; the file must then have no reference system.
        limit: How far outside of a region an event may lie, m.

    Raises:
        InputError: where the file cannot be read, or holds other shapes than polygons.
    """
    import shapely

    frame = _read_shapes(Path(path), plain)
    shapes = np.asarray(frame.geometry.array, dtype=object)
    wrong = np.flatnonzero(~np.isin(shapely.get_type_id(shapes), (3, 6)) | shapely.is_empty(shapes))
    if len(wrong):
        found = getattr(shapes[wrong[0]], "geom_type", "nothing")
        raise InputError("a region is not a polygon", file=path, field="geometry",
                         value=f"row {wrong[0] + 1}: {found}", remedy="give one polygon for each region")
    invalid = ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid], method="structure", keep_collapsed=False)
    columns = [str(name) for name in frame.columns if name != frame.geometry.name]
    if key is not None and key not in columns:
        raise InputError("no such column", file=path, field="region_key", value=key,
                         remedy=f"choose among {', '.join(columns[:16])}")
    chosen = key or find_column(columns, REGION_IDS)
    ids = names(frame[chosen]) if chosen is not None else [str(row) for row in range(len(shapes))]
    if len(set(ids)) < len(ids):
        raise InputError("some regions have one name", file=path, field=chosen, value=f"{len(ids)} regions, "
                         f"{len(set(ids))} names", remedy="name a column that tells them apart with --region-key")
    projection = None if plain else LocalProjection.around(shapely.bounds(shapes).reshape(-1, 2))
    return RegionLayer(shapes, projection, LIMITS["region"] if limit is None else limit,
                       _region_tables(shapes, ids, projection))


def _read_shapes(path: Path, plain: bool) -> geopandas.GeoDataFrame:
    import geopandas

    form = form_of(path)
    if form not in REGION_FILES:
        raise InputError("regions are a GeoJSON, GeoPackage or GeoParquet file", file=path, field="regions",
                         value=path.name, remedy=f"write one of {', '.join(REGION_FILES)}")
    try:
        frame = geopandas.read_parquet(path) if form in PARQUET else geopandas.read_file(path)
        frame.geometry  # noqa: B018  # a table without shapes says so here
    except Exception as error:  # every driver has errors of its own
        raise InputError(f"not readable as polygons: {error}", file=path, field="regions",
                         remedy="write it again") from error
    if not len(frame):
        raise InputError("there are no regions", file=path, field="regions", value="0 rows",
                         remedy="export the file again")
    if (frame.crs is None) != plain:
        raise InputError("the regions have no reference system, and the events have" if frame.crs is None else
                         "the regions have a reference system, and the events have none", file=path, field="crs",
                         value=str(frame.crs), remedy="give both the same")
    return frame if plain else frame.to_crs("OGC:CRS84")


def _region_tables(shapes: np.ndarray, ids: list[str], projection: LocalProjection | None) -> GraphTables:
    import shapely

    middle = shapely.get_coordinates(shapely.centroid(shapes))
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = one != other
    order = np.lexsort((other[apart], one[apart]))
    one, other = one[apart][order], other[apart][order]
    metres = middle if projection is None else projection.metres(middle)
    place = "pos" if projection is None else "lonlat"
    tables = GraphTables()
    tables.nodes["region"] = pa.table({"node_id": column(ids), place: column(middle),
                                       "geometry": Geometry.from_shapely(shapes).wkb})
    tables.edges["region", "adjacent", "region"] = pa.table({
        SOURCE: column(one.astype(np.int64)), TARGET: column(other.astype(np.int64)),
        "distance": column(np.linalg.norm(metres[one] - metres[other], axis=1))})
    tables.declare("region", "geometry", "m" if projection is None else "degree", "outline")
    tables.declare(("region", "adjacent", "region"), "distance", "m", "from middle to middle")
    return tables
