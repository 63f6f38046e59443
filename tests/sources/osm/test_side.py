"""Points of interest and land use: a map made by hand, and real ones against slow looks at every object."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections import Counter
from dataclasses import replace

import numpy as np
import osmium
import pyproj
import pytest
import shapely

from stgraph.errors import InputError
from stgraph.graph import Geometry, load_tables, save
from stgraph.graph.plain import numbers
from stgraph.sources.osm.build import build_osm
from stgraph.sources.osm.side import (
    _POI,
    FARTHEST,
    LAND_USE,
    POI,
    add_side,
    add_side_information,
    areas_of,
    category_of,
    read_side,
)

AT = ("poi", "at", "segment")
JUNCTION_IN, SEGMENT_IN = ("junction", "inside", "region"), ("segment", "inside", "region")


def osm(nodes, ways=(), relations=()):
    """A map as XML: nodes {id: (lon, lat, tags)}, ways (id, nodes, tags), relations (id, members, tags)."""
    root = xml.Element("osm", version="0.6")

    def add(name, number, tags, **more):
        one = xml.SubElement(root, name, id=str(number), version="1", **more)
        for key, value in tags.items():
            xml.SubElement(one, "tag", k=key, v=value)
        return one

    for number, (lon, lat, tags) in nodes.items():
        add("node", number, tags, lon=f"{lon:.7f}", lat=f"{lat:.7f}")
    for number, line, tags in ways:
        one = add("way", number, tags)
        for node in line:
            xml.SubElement(one, "nd", ref=str(node))
    for number, members, tags in relations:
        one = add("relation", number, tags)
        for way, role in members:
            xml.SubElement(one, "member", type="way", ref=str(way), role=role)
    return xml.tostring(root, encoding="unicode")


def square(first, west, south, size):
    """Four nodes and the closed line through them."""
    corners = [(west, south), (west + size, south), (west + size, south + size), (west, south + size)]
    return {first + i: (*corner, {}) for i, corner in enumerate(corners)}, [*range(first, first + 4), first]


OUTER, HOLE, SCHOOL, FAR, OPEN, MARKED = (square(100 * k, *place) for k, place in enumerate((
    (8.000, 47.000, 0.010), (8.004, 47.004, 0.002), (8.001, 47.001, 0.001), (8.5, 47.5, 0.01), (8.02, 47.0, 0.001),
    (8.03, 47.0, 0.001)), start=1))
PLACES = {1: (8.000, 47.005, {}), 2: (8.005, 47.005, {}), 3: (8.010, 47.005, {}), 4: (8.02, 47.005, {}),
          11: (8.002, 47.0051, {"amenity": "restaurant", "name": "Krone"}), 12: (8.007, 47.0049, {"shop": "books"}),
          13: (8.003, 47.006, {"amenity": "bench"}), 14: (8.004, 47.005, {"highway": "bus_stop"}),
          15: (8.005, 47.3, {"tourism": "hotel", "name": "Far off"}), 16: (8.004, 47.0, {"shop": "vacant"}),
          17: (8.004, 47.001, {"amenity": "fuel", "shop": "convenience"})}
MAP = osm(
    PLACES | OUTER[0] | HOLE[0] | SCHOOL[0] | FAR[0] | OPEN[0] | MARKED[0],
    [(1, [1, 2, 3, 4], {"highway": "residential"}), (2, OUTER[1], {}), (3, HOLE[1], {"natural": "water"}),
     (4, SCHOOL[1], {"amenity": "school", "landuse": "education", "name": "Oak"}), (5, FAR[1], {"landuse": "forest"}),
     (6, OPEN[1][:-1], {"landuse": "forest"}), (7, MARKED[1], {"leisure": "playground", "area": "no"}),
     (8, [100, 2], {"highway": "service"})],
    [(1, [(2, "outer"), (3, "inner")], {"type": "multipolygon", "landuse": "residential", "name": "Town"}),
     (2, [(2, "outer"), (999, "inner")], {"type": "multipolygon", "landuse": "farmland"})])


@pytest.fixture
def town(tmp_path):
    path = tmp_path / "town.osm"
    path.write_text(MAP)
    return path


def links(tables, kind):
    table = tables.edges[kind]
    ids = [tables.nodes[kind[end]]["node_id"].to_pylist() for end in (0, 2)]
    return {(ids[0][a], ids[1][b]) for a, b in zip(table["source_index"].to_pylist(), table["target_index"].to_pylist(),
                                                   strict=True)}


# -------------------------------------------------------------------- a map made by hand
def test_every_object_has_the_category_of_its_tag(town):
    side = read_side(town)
    assert dict(zip(side.poi_id, zip(side.poi_category, side.poi_kind, side.poi_name, strict=True), strict=True)) == {
        "n11": ("food", "amenity=restaurant", "Krone"), "n12": ("shop", "shop=books", ""),
        "n14": ("transit", "highway=bus_stop", ""), "n15": ("lodging", "tourism=hotel", "Far off"),
        "n17": ("fuel", "amenity=fuel", ""), "w4": ("education", "amenity=school", "Oak")}
    assert dict(zip(side.region_id, zip(side.region_category, side.region_name, strict=True), strict=True)) == {
        "r1": ("residential", "Town"), "w3": ("water", ""), "w4": ("education", "Oak"), "w5": ("forest", "")}
    assert side.left_out == {"incomplete_areas": 1}  # the relation whose way is not in the file
    shapes = dict(zip(side.region_id, side.region_shape, strict=True))
    assert shapely.equals(shapes["r1"], shapely.difference(shapely.box(8.0, 47.0, 8.01, 47.01),
                                                           shapely.box(8.004, 47.004, 8.006, 47.006)))
    school = side.poi_xy[side.poi_id.tolist().index("w4")]
    assert shapely.contains(shapely.box(8.001, 47.001, 8.002, 47.002), shapely.Point(school))


def test_places_stand_at_the_nearest_road_and_regions_cover_what_is_in_them(town):
    roads, _ = build_osm(town, network="drive_service")
    tables = roads.tables()
    before = {kind: len(table) for kind, table in tables.items()}
    out, report = add_side_information(tables, roads, town)
    assert {kind: len(table) for kind, table in tables.items()} == before
    out.validate()
    at = dict(links(out, AT))
    assert set(at) == {"n11", "n12", "n14", "n17", "w4"}  # the hotel is thirty kilometres off
    ends = {name: {int(roads.junction_id[roads.tail[row]]), int(roads.junction_id[roads.head[row]])}
            for row, name in enumerate(out.nodes["segment"]["node_id"].to_pylist())}
    assert {place: ends[segment] for place, segment in at.items()} == {
        "n11": {1, 2}, "n12": {2, 4}, "n14": {1, 2}, "n17": {2, 100}, "w4": {2, 100}}
    table = out.edges[AT]
    place = roads.to_metres(np.array(out.nodes["poi"]["lonlat"].to_pylist())[numbers(table["source_index"])])
    foot = roads.to_metres(roads.locate(numbers(table["target_index"]), numbers(table["offset"])))
    np.testing.assert_allclose(np.linalg.norm(place - foot, axis=1), numbers(table["distance"]), atol=0.02)
    # 2 lies in the lake, the town is around it; 1 lies on the edge of the town, 4 outside
    assert links(out, JUNCTION_IN) == {("1", "r1"), ("2", "w3"), ("100", "r1")}
    assert report["poi"] == 6
    assert report["poi_far_from_roads"] == 1
    assert report["regions"] == 4
    assert report["side_left_out"] == {"incomplete_areas": 1}


def test_only_what_is_asked_for_is_added_and_it_is_saved_with_the_roads(town, tmp_path):
    roads, _ = build_osm(town)
    same, nothing = add_side_information(roads.tables(), roads, town, poi=False, land_use=False)
    assert set(same.nodes) == {"junction", "segment"}
    assert nothing == {}
    points, report = add_side_information(roads.tables(), roads, town, land_use=False)
    assert set(points.nodes) == {"junction", "segment", "poi"}
    assert "regions" not in report
    regions, report = add_side_information(roads.tables(), roads, town, poi=False)
    assert set(regions.nodes) == {"junction", "segment", "region"}
    assert "poi" not in report
    out, _ = add_side_information(roads.tables(), roads, town)
    save(out, tmp_path / "town.stg")
    again = load_tables(tmp_path / "town.stg")
    for kind in ("poi", "region", AT, JUNCTION_IN, SEGMENT_IN):
        assert again.of(kind).to_pylist() == out.of(kind).select(again.of(kind).column_names).to_pylist()
    assert again.schema.of(AT)["offset"].unit == "m"
    graph = again.graph()
    assert graph.schema.of("poi")["category"].categories == ("education", "food", "fuel", "lodging", "shop", "transit")
    assert isinstance(graph["region"].geometry, Geometry)


def test_tags_are_looked_at_key_by_key():
    assert category_of({"shop": "yes"}, _POI) == ("shop", "shop=yes")
    assert category_of({"amenity": "cafe;bar"}, _POI) == ("food", "amenity=cafe;bar")
    assert category_of({"amenity": "bench", "shop": "bakery"}, _POI) == ("groceries", "shop=bakery")
    assert category_of({"shop": "vacant"}, _POI) is None
    assert category_of({"building": "yes"}, _POI) is None
    for table in (POI, LAND_USE):  # no value has two categories
        for row in table.values():
            values = [value for words in row.values() for value in words.split()]
            assert len(values) == len(set(values))


# -------------------------------------------------------------------- real maps
@pytest.fixture(scope="module", params=["helsinki-centre.osm.pbf", "monaco.osm.gz"])
def city(request, shared_data):
    path = shared_data / "osm_extracts" / request.param
    roads, _ = build_osm(path)
    side = read_side(path)
    return path, roads, side, add_side(roads.tables(), roads, side)


def test_every_tagged_node_of_a_real_map_is_there(city):
    path, _, side, _ = city
    counted = Counter(f"amenity={one.tags['amenity']}" for one in osmium.FileProcessor(str(path))
                      if one.is_node() and one.tags.get("amenity") in ("restaurant", "cafe", "bank", "pharmacy"))
    found = Counter(kind for kind, number in zip(side.poi_kind, side.poi_id, strict=True)
                    if number.startswith("n") and kind in counted)
    assert found == counted
    assert sum(counted.values()) > 20
    assert len(set(side.poi_id)) == len(side.poi_id)
    assert len(set(side.region_id)) == len(side.region_id)


def test_the_nearest_segment_is_the_one_found_by_looking_at_all(city):
    _, roads, side, out = city
    table = out.edges[AT]
    source, target, distance = (numbers(table[name]) for name in ("source_index", "target_index", "distance"))
    of = np.repeat(np.arange(len(roads.tail)), np.diff(roads.line_ptr))
    lines = shapely.linestrings(roads.line_metres, indices=of)
    points = shapely.points(roads.to_metres(side.poi_xy))
    least = np.array([shapely.distance(point, lines).min() for point in points[:300]])
    rows = np.searchsorted(source, np.arange(300))
    there = least <= FARTHEST
    assert np.array_equal(np.isin(np.arange(len(least)), source), there)
    np.testing.assert_allclose(distance[rows[:len(least)][there]], least[there], atol=1e-6)
    np.testing.assert_allclose(shapely.distance(points[source], lines[target]), distance, atol=1e-6)


def test_regions_cover_what_a_look_at_every_pair_says(city):
    _, roads, side, out = city
    for kind, places in ((JUNCTION_IN, roads.junction_xy),
                         (SEGMENT_IN, roads.locate(np.arange(len(roads.tail)), roads.length / 2))):
        points = shapely.points(places[:400])
        ends = (out.edges[kind][end].to_pylist() for end in ("source_index", "target_index"))
        found = {(a, b) for a, b in zip(*ends, strict=True) if a < 400}
        expected = {(a, b) for b, shape in enumerate(side.region_shape)
                    for a in np.flatnonzero(shapely.covers(shape, points)).tolist()}
        assert found == expected
        assert found


def test_areas_are_those_on_the_ellipsoid(city):
    _, _, side, out = city
    geod = pyproj.Geod(ellps="WGS84")
    true = [abs(geod.geometry_area_perimeter(shapely.orient_polygons(shape))[0]) for shape in side.region_shape]
    np.testing.assert_allclose(numbers(out.nodes["region"]["area"]), true, rtol=1e-6, atol=0.01)
    assert areas_of(np.zeros(0, dtype=object)).shape == (0,)
    inside = shapely.points(np.array(out.nodes["region"]["lonlat"].to_pylist()))
    assert shapely.covers(side.region_shape, inside).all()


# -------------------------------------------------------------------- faults
def test_files_without_such_objects_and_damaged_ones_are_refused(town, tmp_path):
    (tmp_path / "bare.osm").write_text(osm({1: (8, 47, {})}))
    with pytest.raises(InputError, match="no point of interest and no land use"):
        read_side(tmp_path / "bare.osm")
    (tmp_path / "cut.osm").write_text(MAP[:-200])
    with pytest.raises(InputError, match="not readable as OpenStreetMap"):
        read_side(tmp_path / "cut.osm")
    (tmp_path / "bomb.osm").write_text('<!DOCTYPE l [<!ENTITY a "ha">]>' + MAP.replace("Krone", "&a;"))
    with pytest.raises(InputError, match="not readable as OpenStreetMap"):
        read_side(tmp_path / "bomb.osm")
    with pytest.raises(InputError, match="more points of interest and regions"):
        read_side(town, max_objects=3)
    with pytest.raises(InputError, match="unpacks to more than"):
        read_side(town, max_bytes=100)
    with pytest.raises(InputError, match="cannot be read"):
        read_side(tmp_path / "gone.osm")


def test_plain_metres_have_no_place_on_earth(town):
    roads, _ = build_osm(town)
    with pytest.raises(InputError, match="plain metres"):
        add_side(roads.tables(), replace(roads, metric=True), read_side(town))
