"""Points of interest and land use from the same extract as the roads, as nodes of their own types.

Which tags count, and what they are called, stands in :data:`POI` and :data:`LAND_USE`. Points of interest are nodes,
closed ways and multipolygons; the latter two are represented by a point inside them. Land use are closed ways and
multipolygons, which osmium assembles; those whose parts are not all in the file are counted and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyproj
import shapely

from stgraph.errors import InputError
from stgraph.graph import Geometry, GraphTables
from stgraph.graph.plain import SOURCE, TARGET, categories, column
from stgraph.roads import LocalProjection, Roads
from stgraph.sources.osm.guard import check_size, form_of
from stgraph.sources.osm.read import MOST_OBJECTS

FARTHEST = 500.0
"""Points of interest farther than this from every road stand at no segment, m."""

POI: dict[str, dict[str, str]] = {
    "amenity": {
        "food": "restaurant cafe fast_food bar pub food_court ice_cream biergarten nightclub",
        "education": "school university college kindergarten childcare library language_school music_school "
                     "driving_school research_institute",
        "health": "hospital clinic doctors dentist pharmacy veterinary nursing_home",
        "money": "bank atm bureau_de_change money_transfer",
        "fuel": "fuel charging_station",
        "parking": "parking parking_entrance bicycle_parking motorcycle_parking",
        "mobility": "taxi car_rental car_sharing car_wash bicycle_rental boat_rental bicycle_repair_station",
        "transit": "bus_station ferry_terminal",
        "worship": "place_of_worship monastery",
        "culture": "theatre cinema arts_centre community_centre events_venue conference_centre exhibition_centre "
                   "casino social_centre studio planetarium",
        "public": "townhall courthouse police fire_station post_office embassy prison social_facility ranger_station",
        "market": "marketplace",
    },
    "shop": {"groceries": "supermarket convenience bakery butcher greengrocer beverages deli kiosk",
             "mall": "mall department_store", "": "vacant no", "shop": "*"},
    "tourism": {"lodging": "hotel hostel guest_house motel apartment chalet camp_site caravan_site",
                "": "information artwork picnic_site no", "sight": "*"},
    "office": {"": "vacant no", "office": "*"},
    "leisure": {"sport": "sports_centre stadium fitness_centre swimming_pool pitch golf_course ice_rink track "
                         "sports_hall water_park",
                "play": "playground amusement_arcade bowling_alley escape_game adult_gaming_centre dance"},
    "public_transport": {"transit": "station platform"},
    "railway": {"transit": "station halt tram_stop subway_entrance"},
    "highway": {"transit": "bus_stop"},
    "aeroway": {"transit": "terminal aerodrome"},
}
"""Category of a point of interest by key and value; the first key that fits counts. ``*`` is every other value, an
empty category is none."""

LAND_USE: dict[str, dict[str, str]] = {
    "landuse": {
        "residential": "residential garages",
        "commercial": "commercial retail",
        "industrial": "industrial quarry landfill port depot",
        "railway": "railway",
        "farmland": "farmland farmyard meadow orchard vineyard allotments plant_nursery greenhouse_horticulture",
        "forest": "forest",
        "green": "grass recreation_ground village_green greenfield flowerbed",
        "cemetery": "cemetery",
        "military": "military",
        "construction": "construction brownfield",
        "education": "education",
        "water": "reservoir basin salt_pond",
    },
    "leisure": {"green": "park garden nature_reserve golf_course common dog_park", "sport": "sports_centre stadium"},
    "natural": {"water": "water bay", "wetland": "wetland", "forest": "wood", "scrub": "scrub heath grassland",
                "bare": "beach sand bare_rock scree"},
}
"""Category of an area by key and value."""


@dataclass(frozen=True)
class Side:
    """What stands beside the roads: ``N`` points of interest and ``R`` regions; texts are of dtype object.

    Args:
        poi_id: ``n``, ``w`` or ``r`` and the id of the node, way or relation, ``[N]``.
        poi_xy: Longitude and latitude, ``[N, 2]``.
        poi_category: As in :data:`POI`, ``[N]``.
        poi_kind: The tag itself, such as ``amenity=cafe``, ``[N]``.
        poi_name: Empty where there is none, ``[N]``.
        region_id: ``[R]``.
        region_shape: shapely (multi)polygons in degrees, ``[R]``.
        region_category: As in :data:`LAND_USE`, ``[R]``.
        region_kind: ``[R]``.
        region_name: ``[R]``.
        left_out: How many areas were not used, by reason.
    """

    poi_id: np.ndarray
    poi_xy: np.ndarray
    poi_category: np.ndarray
    poi_kind: np.ndarray
    poi_name: np.ndarray
    region_id: np.ndarray
    region_shape: np.ndarray
    region_category: np.ndarray
    region_kind: np.ndarray
    region_name: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)


def _table(text: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Category by value, per key."""
    return {key: {value: category for category, values in row.items() for value in values.split()}
            for key, row in text.items()}


_POI, _LAND_USE = _table(POI), _table(LAND_USE)


def category_of(tags: Mapping[str, str], table: Mapping[str, Mapping[str, str]]) -> tuple[str, str] | None:
    """Category and tag of the first key that has one; None where none does."""
    for key, row in table.items():
        value = tags.get(key)
        if value is not None:
            category = row.get(value.split(";")[0].strip(), row.get("*", ""))
            if category:
                return category, f"{key}={value}"
    return None


# -------------------------------------------------------------------- reading
def read_side(path: Path | str, poi: bool = True, land_use: bool = True, max_bytes: int | None = None,
              max_objects: int = MOST_OBJECTS) -> Side:
    """Read points of interest and land use.

    Args:
        path: ``.osm.pbf``, ``.osm``, ``.osm.gz`` or ``.osm.bz2``.
        poi: Whether to read points of interest.
        land_use: Whether to read land use.
        max_bytes: See :func:`stgraph.sources.osm.guard.check_size`.
        max_objects: The most objects with such tags.

    Raises:
        InputError: for a file that is damaged or too large, or holds no such object.
    """
    path = Path(path)
    form = form_of(path)
    check_size(path, form, max_bytes)
    rows = _Rows(_POI if poi else {}, _LAND_USE if land_use else {}, path, max_objects)
    _walk(path, form, rows)
    if not rows.points and not rows.areas and not rows.regions:
        raise InputError("there is no point of interest and no land use in this file", file=path,
                         remedy="leave out --poi and --land-use, or take an extract that has more than roads")
    return rows.side()


@dataclass
class _Rows:
    """Collects objects as osmium gives them."""

    poi: Mapping[str, Mapping[str, str]]
    land_use: Mapping[str, Mapping[str, str]]
    path: Path
    left: int
    points: list[tuple[str, str, str, str, float, float]] = field(default_factory=list)
    areas: list[tuple[str, str, str, str, str]] = field(default_factory=list)  # the last one is binary
    regions: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)  # ways and relations that should be areas
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, one: Any, binary: Any) -> None:
        """Take a node or an area; ``binary`` makes well-known binary of the latter."""
        self.left -= 1
        if self.left < 0:
            raise InputError("the file holds more points of interest and regions than allowed", file=self.path,
                             field="max_objects", remedy="if you trust it, allow more with --max-objects")
        tags = dict(one.tags)
        poi, use = category_of(tags, self.poi), category_of(tags, self.land_use)
        if poi is None and use is None:
            return
        name = tags.get("name", "")
        if one.is_node():
            if poi is not None and one.location.valid():
                self.points.append((f"n{one.id}", *poi, name, one.location.lon, one.location.lat))
            elif poi is not None:
                self.broken["out_of_range"] += 1
        elif one.is_way() or one.is_relation():
            if one.is_relation() and tags.get("type") in ("multipolygon", "boundary"):
                self.wanted.add(f"r{one.id}")
            elif one.is_way() and len(one.nodes) > 3 and one.is_closed() and tags.get("area") != "no":
                self.wanted.add(f"w{one.id}")
        else:
            number = f"{'w' if one.from_way() else 'r'}{one.orig_id()}"
            try:
                shape = binary(one)
            except RuntimeError:
                return  # counted with those that osmium does not assemble
            self.wanted.discard(number)
            if poi is not None:
                self.areas.append((number, *poi, name, shape))
            if use is not None:
                self.regions.append((number, *use, name, shape))

    def side(self) -> Side:
        """The columns."""
        points, areas, regions = (pd.DataFrame(rows, columns=["id", "category", "kind", "name", *more], dtype=object)
                                  for rows, more in ((self.points, ["x", "y"]), (self.areas, ["shape"]),
                                                     (self.regions, ["shape"])))
        inside = _points_inside(shapely.from_wkb(areas["shape"].to_numpy(object)))
        both = pd.concat([points, areas], ignore_index=True)
        left_out = {**self.broken, **({"incomplete_areas": len(self.wanted)} if self.wanted else {})}
        return Side(
            both["id"].to_numpy(object), np.concatenate([points[["x", "y"]].to_numpy(np.float64), inside]),
            both["category"].to_numpy(object), both["kind"].to_numpy(object), both["name"].to_numpy(object),
            regions["id"].to_numpy(object), shapely.from_wkb(regions["shape"].to_numpy(object)),
            regions["category"].to_numpy(object), regions["kind"].to_numpy(object), regions["name"].to_numpy(object),
            left_out)


def _walk(path: Path, form: str, rows: _Rows) -> None:
    import osmium

    keys = osmium.filter.KeyFilter(*{**rows.poi, **rows.land_use})
    factory = osmium.geom.WKBFactory()
    try:
        found = osmium.FileProcessor(osmium.io.File(str(path.resolve()), form)).with_areas(keys).with_filter(keys)
        for one in found:
            rows.add(one, factory.create_multipolygon)
    except (RuntimeError, ValueError, osmium.InvalidLocationError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not readable as OpenStreetMap data: {error}", file=path,
                         remedy="download the file again") from error


def _points_inside(shapes: np.ndarray) -> np.ndarray:
    """A point inside each shape, ``[n, 2]``."""
    points = shapely.point_on_surface(shapes)
    return np.column_stack([shapely.get_x(points), shapely.get_y(points)]).reshape(-1, 2).astype(np.float64)


# -------------------------------------------------------------------- joining
def add_side(tables: GraphTables, roads: Roads, side: Side) -> GraphTables:
    """Add nodes ``poi`` and ``region``, and where they are on the roads.

    ``poi -at-> segment`` leads to the nearest segment (of a two-way street, the first of its two), with ``offset`` m
    after its start and ``distance`` m from it; there is none farther than :data:`FARTHEST`. The relations
    ``junction -inside-> region`` and ``segment -inside-> region`` say which regions cover a junction, or the middle of
    a segment; regions may overlap.

    Args:
        tables: The graph of the roads; it is not changed.
        roads: The same roads.
        side: What to add.

    Raises:
        InputError: for roads in plain metres, which are nowhere on Earth.
    """
    if roads.metric:
        raise InputError("the roads are in plain metres, so nothing on Earth can be put beside them", field="roads",
                         remedy="build them with a reference system")
    out = replace(tables, nodes=dict(tables.nodes), edges=dict(tables.edges), schema=tables.schema.copy())
    if len(side.poi_id):
        _add_points(out, roads, side)
    if len(side.region_id):
        _add_regions(out, roads, side)
    return out


def _add_points(out: GraphTables, roads: Roads, side: Side) -> None:
    from stgraph.roads.nearest import SegmentIndex

    out.nodes["poi"] = pa.table({"node_id": pa.array(side.poi_id, pa.string()), "lonlat": column(side.poi_xy),
                                 "category": _words(side.poi_category), "kind": _words(side.poi_kind),
                                 "name": pa.array(side.poi_name, pa.string())})
    found = SegmentIndex(roads).nearest(roads.to_metres(side.poi_xy), FARTHEST)
    rows = np.flatnonzero(found.segment >= 0)
    kind = ("poi", "at", "segment")
    out.edges[kind] = pa.table({SOURCE: pa.array(rows), TARGET: pa.array(found.segment[rows].astype(np.int64)),
                                "offset": pa.array(found.offset[rows]), "distance": pa.array(found.distance[rows])})
    out.declare("poi", "category", None, "what it is, in one of a few words")
    out.declare("poi", "kind", None, "its tag in OpenStreetMap")
    out.declare("poi", "name", None, "its name; empty where it has none")
    out.declare(kind, "offset", "m", "way from the start of the segment")
    out.declare(kind, "distance", "m", "from the segment to the place, as the crow flies")


def _add_regions(out: GraphTables, roads: Roads, side: Side) -> None:
    shapes = side.region_shape
    out.nodes["region"] = pa.table({
        "node_id": pa.array(side.region_id, pa.string()), "lonlat": column(_points_inside(shapes)),
        "category": _words(side.region_category), "kind": _words(side.region_kind),
        "name": pa.array(side.region_name, pa.string()), "area": pa.array(areas_of(shapes)),
        "geometry": Geometry.from_shapely(shapes).wkb})
    tree = shapely.STRtree(shapes)
    number = np.arange(len(roads.tail))
    for kind, places in (("junction", roads.junction_xy), ("segment", roads.locate(number, roads.length / 2))):
        place, region = tree.query(shapely.points(places), predicate="covered_by")
        order = np.lexsort((region, place))
        out.edges[kind, "inside", "region"] = pa.table({SOURCE: pa.array(place[order].astype(np.int64)),
                                                        TARGET: pa.array(region[order].astype(np.int64))})
    out.declare("region", "category", None, "what it is, in one of a few words")
    out.declare("region", "kind", None, "its tag in OpenStreetMap")
    out.declare("region", "name", None, "its name; empty where it has none")
    out.declare("region", "area", None, "square metres on the ellipsoid")
    out.declare("region", "geometry", "degree", "outline")


def areas_of(shapes: np.ndarray) -> np.ndarray:
    """Area of polygons in degrees, m2, ``[n]``: on a Lambert azimuthal equal-area plane around them all."""
    if not len(shapes):
        return np.zeros(0)
    middle = LocalProjection.around(shapely.get_coordinates(shapes))
    plane = pyproj.Transformer.from_crs(
        "EPSG:4326", f"+proj=laea +lon_0={middle.longitude!r} +lat_0={middle.latitude!r} +datum=WGS84 +units=m",
        always_xy=True)
    return np.asarray(shapely.area(shapely.transform(
        shapes, lambda xy: np.column_stack(plane.transform(xy[:, 0], xy[:, 1])))))


def _words(texts: np.ndarray) -> pa.DictionaryArray:
    codes, words = pd.factorize(texts, sort=True)
    return categories(codes, [str(word) for word in words])


def add_side_information(tables: GraphTables, roads: Roads, source: Path | str, poi: bool = True, land_use: bool = True,
                         max_bytes: int | None = None, max_objects: int = MOST_OBJECTS
                         ) -> tuple[GraphTables, dict[str, Any]]:
    """Read points of interest and land use from the extract that the roads come from, and add them.

    Args:
        tables: The graph of the roads; it is not changed.
        roads: The same roads.
        source: The extract.
        poi: Whether to add points of interest.
        land_use: Whether to add land use.
        max_bytes: See :func:`stgraph.sources.osm.guard.check_size`.
        max_objects: The most objects with such tags.

    Returns:
        The graph with them, and counts for the report.

    Raises:
        InputError: for a file that is damaged or too large, or holds no such object.
    """
    if not poi and not land_use:
        return tables, {}
    side = read_side(source, poi, land_use, max_bytes, max_objects)
    out = add_side(tables, roads, side)
    report: dict[str, Any] = {}
    if poi:
        at = len(out.edges["poi", "at", "segment"]) if len(side.poi_id) else 0
        report |= {"poi": len(side.poi_id), "poi_categories": _counts(side.poi_category),
                   "poi_far_from_roads": len(side.poi_id) - at}
    if land_use:
        report |= {"regions": len(side.region_id), "region_categories": _counts(side.region_category)}
    return out, report | {"side_left_out": side.left_out}


def _counts(texts: np.ndarray) -> dict[str, int]:
    return dict(Counter(texts.tolist()).most_common())
