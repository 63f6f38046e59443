"""Places: what a slow look at every place gives, whatever the coordinates; ties go to the place that comes first."""

from __future__ import annotations

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import shapely

from stgraph.errors import InputError
from stgraph.graph import GraphTables
from stgraph.graph.plain import column, numbers
from stgraph.roads import LocalProjection
from stgraph.sources.events.build import build_events
from stgraph.sources.events.places import TIE, layer_of, nearest_points, open_map, read_regions

RANDOM = np.random.default_rng(5)


def to_segments(roads, xy):
    """Distance of points ``[n, 2]`` to every segment ``[n, S]``, by looking at every leg."""
    start, end = roads.line_metres[:-1], roads.line_metres[1:]
    inside = np.ones(len(start), bool)
    inside[roads.line_ptr[1:-1] - 1] = False
    segment = np.repeat(np.arange(len(roads.tail)), np.diff(roads.line_ptr) - 1)
    start, along = start[inside], (end - start)[inside]
    share = np.clip(((xy[:, None] - start) * along).sum(2) / (along**2).sum(1), 0, 1)
    distance = np.linalg.norm(start + share[..., None] * along - xy[:, None], axis=2)
    return np.minimum.reduceat(distance, np.flatnonzero(np.diff(segment, prepend=-1)), axis=1)


@pytest.mark.parametrize("metric", [False, True])
def test_the_nearest_segment_is_what_looking_at_all_of_them_gives(make_roads, metric):
    roads = make_roads(metric=metric)
    metres = RANDOM.uniform(-200, 1000, (2000, 2))
    metres[:40] = roads.line_metres[RANDOM.integers(0, len(roads.line_metres), 40)]  # on a bend or a junction
    xy = roads.from_metres(metres)
    found = layer_of(open_map(roads.tables()), 60.0).attach(xy)
    distance = to_segments(roads, roads.to_metres(xy))
    best = distance.min(1)
    first = (distance <= best[:, None] + TIE).argmax(1)
    near = best <= 60
    assert 0.2 < near.mean() < 0.99
    assert np.array_equal(found.place, np.where(near, first, -1))
    np.testing.assert_allclose(found.distance[near], best[near], atol=1e-6)
    there = roads.to_metres(roads.locate(found.place[near], found.offset[near]))
    np.testing.assert_allclose(np.linalg.norm(there - metres[near], axis=1), best[near], atol=1e-3)
    assert np.isnan(found.distance[~near]).all()


def test_the_nearest_point_is_what_looking_at_all_of_them_gives():
    places = np.stack(np.meshgrid(np.arange(7.0), np.arange(7.0)), -1).reshape(-1, 2)[RANDOM.permutation(49)]
    places = np.concatenate([places, places[:9], [[np.nan, np.nan]]])  # some twice, one unknown
    xy = RANDOM.integers(-4, 18, (3000, 2)) / 2  # many are equally near to two, four or eight places
    distance = np.linalg.norm(places[None, :49 + 9] - xy[:, None], axis=2)
    best = distance.min(1)
    found = nearest_points(places, xy, 2.0)
    assert ((distance <= best[:, None] + TIE).sum(1) > 4).any()
    assert np.array_equal(found.place, np.where(best <= 2, (distance <= best[:, None] + TIE).argmax(1), -1))
    np.testing.assert_allclose(found.distance[best <= 2], best[best <= 2])


def test_events_go_to_the_nearest_sensor_within_the_limit(make_events):
    events = make_events(300)
    projection = LocalProjection(-8.61, 41.15)
    metres = RANDOM.uniform(0, 800, (12, 2))
    lonlat = projection.lonlat(metres)
    lonlat[5] = np.nan
    tables = GraphTables({"sensor": pa.table({"node_id": column([f"s{i}" for i in range(12)]),
                                              "lonlat": column(lonlat)})})
    graph, report = build_events(events, on=tables, limit="250m")
    distance = np.linalg.norm(metres - projection.metres(events[["longitude", "latitude"]].to_numpy())[:, None], axis=2)
    distance[:, 5] = np.inf
    at = graph.edges["event", "at", "sensor"]
    rows = graph.nodes["event"]["node_id"].cast(pa.int64()).to_numpy()
    assert np.array_equal(numbers(at["target_index"]), distance.argmin(1)[rows])
    np.testing.assert_allclose(at["distance"].to_numpy(), distance.min(1)[rows], rtol=1e-4)
    assert sorted(rows) == np.flatnonzero(distance.min(1) <= 250).tolist()
    assert report["unattached"] == (distance.min(1) > 250).sum() > 0


# -------------------------------------------------------------------- regions
SIZE, WEST, SOUTH = 1 / 128, -8.625, 41.125  # exact in binary and with seven decimals, so that borders are shared


def squares(count=4):
    """A board of squares in degrees, with one more that overlaps the first four."""
    corners = [(WEST + SIZE * i, SOUTH + SIZE * j) for j in range(count) for i in range(count)]
    shapes = [shapely.box(x, y, x + SIZE, y + SIZE) for x, y in corners]
    return np.array([*shapes, shapely.box(WEST, SOUTH, WEST + 1.5 * SIZE, SOUTH + 1.5 * SIZE)])


@pytest.fixture
def region_file(tmp_path):
    def make(form="geojson", shapes=None, **columns):
        shapes = squares() if shapes is None else shapes
        columns = columns or {"region_id": [f"r{i}" for i in range(len(shapes))]}
        frame = geopandas.GeoDataFrame(columns, geometry=list(shapes), crs="EPSG:4326")
        path = tmp_path / f"regions.{form}"
        if form == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_file(path)
        return path
    return make


@pytest.mark.parametrize("form", ["geojson", "gpkg", "parquet"])
def test_regions_are_what_shapely_says_one_by_one(region_file, form):
    shapes = squares()
    xy = np.array([WEST, SOUTH]) + SIZE * RANDOM.uniform(-1, 5, (1500, 2))
    xy[:500] = np.rint(xy[:500] / SIZE) * SIZE  # corners of squares
    xy[500:900, 0] = np.rint(xy[500:900, 0] / SIZE) * SIZE  # borders
    layer = read_regions(region_file(form), None, False, None)
    found = layer.attach(xy)
    for point, place in zip(xy, found.place, strict=True):
        covered = [i for i, shape in enumerate(shapes) if shape.covers(shapely.Point(point))]
        assert place == (covered[0] if covered else -1)
    several = sum(sum(shape.covers(shapely.Point(point)) for shape in shapes) > 1 for point in xy)
    assert found.several == several > 300
    assert layer.tables().nodes["region"]["node_id"].to_pylist() == [f"r{i}" for i in range(17)]


def test_a_corner_of_four_regions_goes_to_exactly_one(region_file, make_events):
    events = make_events(8).assign(longitude=WEST + SIZE, latitude=SOUTH + SIZE)
    events.loc[4:, "longitude"] = WEST + 3 * SIZE
    graph, report = build_events(events, regions=region_file(), tz="UTC")
    assert numbers(graph.edges["event", "at", "region"]["target_index"]).tolist().count(0) == 4
    assert report["events"] == 8
    assert report["in_several_regions"] == 8


def test_outside_of_all_regions_the_nearest_within_the_limit(region_file):
    corners = np.array([WEST, SOUTH]) + SIZE * np.array([[0, 0], [4, 4]])
    projection = LocalProjection.around(corners)
    east = corners[1] - SIZE * np.array([[0, 3.5], [0, 1.5]])  # on the border in the east
    away = np.array([[20.0, 0.0], [80.0, 0.0]])
    xy = projection.lonlat(projection.metres(east) + away)
    found = read_regions(region_file(), None, False, 50.0).attach(xy)
    assert found.place.tolist() == [3, -1]
    assert found.distance[0] == pytest.approx(20, abs=0.05)
    assert read_regions(region_file(), None, False, None).attach(xy).place.tolist() == [-1, -1]


def test_neighbouring_regions_are_adjacent(region_file):
    tables = read_regions(region_file(shapes=squares()[:16]), None, False, None).tables()
    edges = tables.edges["region", "adjacent", "region"]
    pairs = set(zip(edges["source_index"].to_pylist(), edges["target_index"].to_pylist(), strict=True))
    assert {other for one, other in pairs if one == 5} == {0, 1, 2, 4, 6, 8, 9, 10}
    assert pairs == {(other, one) for one, other in pairs}
    assert len(pairs) == 2 * (12 + 12 + 9 + 9)


def test_regions_of_a_graph_serve_again(region_file, make_events, tmp_path):
    events = make_events(50).assign(longitude=WEST + 0.9 * SIZE, latitude=SOUTH + SIZE)
    first, _ = build_events(events, regions=region_file(), out=tmp_path / "one.stg")
    again, report = build_events(events, on=tmp_path / "one.stg")
    assert report["place"] == "region"
    assert again.edges["event", "at", "region"] == first.edges["event", "at", "region"]
    assert again.edges["region", "adjacent", "region"] == first.edges["region", "adjacent", "region"]


def test_crossed_polygons_are_mended(region_file):
    bow = shapely.Polygon([(-8.61, 41.15), (-8.60, 41.16), (-8.60, 41.15), (-8.61, 41.16)])
    layer = read_regions(region_file(shapes=np.array([bow])), None, False, None)
    assert layer.attach(np.array([[-8.6099, 41.155], [-8.605, 41.151], [-8.6001, 41.155]])).place.tolist() == [0, -1, 0]


@pytest.mark.parametrize(("change", "options", "problem", "field"), [
    ({"shapes": np.array([shapely.Point(-8.6, 41.1)])}, {}, "not a polygon", "geometry"),
    ({"region_id": ["a"] * 17}, {}, "some regions have one name", "region_id"),
    ({}, {"region_key": "nr"}, "no such column", "region_key"),
    ({}, {"regions": "no.geojson"}, "no such file", None),
    ({}, {"crs": "none", "x_key": "longitude", "y_key": "latitude"}, "have a reference system", "crs")])
def test_regions_that_cannot_be_used_are_refused(region_file, make_events, change, options, problem, field):
    with pytest.raises(InputError, match=problem) as error:
        build_events(make_events(9), **{"regions": region_file(**change), "tz": "UTC", **options})
    assert error.value.field == field


def test_a_file_that_is_no_map_of_regions_is_refused(make_events, tmp_path):
    (tmp_path / "regions.geojson").write_text("{]")
    with pytest.raises(InputError, match="not readable as polygons"):
        build_events(make_events(9), regions=tmp_path / "regions.geojson")
    (tmp_path / "regions.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match=r"no regions|not readable"):
        build_events(make_events(9), regions=tmp_path / "regions.geojson")
    (tmp_path / "regions.zip").write_text("{]")
    with pytest.raises(InputError, match="regions are"):
        build_events(make_events(9), regions=tmp_path / "regions.zip")


# -------------------------------------------------------------------- maps
def test_the_map_travels_with_the_events_as_it_was(roads, events):
    tables = roads.tables()
    graph, _ = build_events(events, on=tables)
    for kind, table in tables.items():
        assert graph.of(kind) == table
    assert graph.schema.nodes["segment"] == tables.schema.nodes["segment"]
    graph.graph().validate()


def test_a_node_type_can_be_named(roads, events):
    assert build_events(events, on=roads.tables(), to="junction")[1]["place"] == "junction"
    with pytest.raises(InputError, match="no such places"):
        build_events(events, on=roads.tables(), to="sensor")
    with pytest.raises(InputError, match="no places for events"):
        build_events(events, on=GraphTables({"crossing": roads.tables().nodes["junction"]}))
    with pytest.raises(InputError, match="these nodes have no places"):
        build_events(events, on=GraphTables({"sensor": pa.table({"node_id": ["a"]})}))
