"""``build_roads``: the roads say what the tables said, whatever their form; faults are named and write nothing."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import geopandas
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from typer.testing import CliRunner

from stgraph.cli.build import app
from stgraph.cli.build_roads import roads as roads_verb
from stgraph.errors import InputError
from stgraph.graph import Geometry
from stgraph.roads import Roads
from stgraph.sources.roads import RoadOptions, build_roads
from stgraph.sources.simulate.city import simulate_city, write_source_files

RANDOM = np.random.default_rng(5)
COUNT, STREETS = 40, 90
LONLAT = np.round(np.array([-8.61, 41.15]) + RANDOM.normal(0, 0.02, (COUNT, 2)), 7)
IDS = RANDOM.permutation(np.arange(1000, 1000 + COUNT))
ENDS = np.array([pair for pair in RANDOM.integers(0, COUNT, (3 * STREETS, 2)).tolist() if pair[0] < pair[1]][:STREETS])
MIDDLES = np.round(LONLAT[ENDS].mean(1) + RANDOM.normal(0, 0.001, (STREETS, 2)), 7)
LINES = [shapely.LineString([LONLAT[a], middle, LONLAT[b]]) for (a, b), middle in zip(ENDS, MIDDLES, strict=True)]
JUNCTIONS = pd.DataFrame({"id": IDS, "lon": LONLAT[:, 0], "lat": LONLAT[:, 1], "height": RANDOM.normal(80, 20, COUNT)})
SEGMENTS = pd.DataFrame({"u": IDS[ENDS[:, 0]], "v": IDS[ENDS[:, 1]], "highway": RANDOM.choice(["primary", "service"],
                                                                                           STREETS)})


def with_lines(frame=SEGMENTS):
    return frame.assign(geometry=[line.wkt for line in LINES])


@pytest.fixture
def files(tmp_path):
    JUNCTIONS.to_csv(tmp_path / "junctions.csv", index=False)
    with_lines().to_csv(tmp_path / "segments.csv", index=False)
    return tmp_path


def built(folder, nodes="junctions.csv", edges="segments.csv", **options):
    return build_roads(nodes=folder / nodes, edges=folder / edges, **options)


def haversine(one, other):
    """Radius of osmnx; written out by hand."""
    (x1, y1), (x2, y2) = np.radians(one), np.radians(other)
    half = math.sin((y2 - y1) / 2) ** 2 + math.cos(y1) * math.cos(y2) * math.sin((x2 - x1) / 2) ** 2
    return 2 * 6_371_009 * math.asin(math.sqrt(half))


def along(line):
    return sum(haversine(one, other) for one, other in pairwise(line))


def facts(roads, digits=9):
    """Segments by the ids of their ends, with length and line; the same whatever the order of rows."""
    ids = roads.junction_id.tolist()
    return Counter((str(ids[a]), str(ids[b]), round(float(length), 4),
                    tuple(map(tuple, np.round(roads.line_xy[start:end], digits).tolist())))
                   for a, b, length, start, end in zip(roads.tail, roads.head, roads.length, roads.line_ptr[:-1],
                                                       roads.line_ptr[1:], strict=True))


EXPECTED = Counter((str(IDS[a]), str(IDS[b]), round(along(np.array(line.coords)), 4),
                    tuple(map(tuple, np.round(np.array(line.coords), 9).tolist())))
                   for (a, b), line in zip(ENDS, LINES, strict=True))


# -------------------------------------------------------------------- laws
def test_the_roads_say_what_the_tables_said(files):
    roads, report = built(files)
    assert facts(roads) == EXPECTED
    assert np.array_equal(roads.junction_id, IDS)
    assert np.array_equal(roads.junction_xy, LONLAT)
    assert not roads.metric
    assert roads.attributes["road_class"].to_pylist() == SEGMENTS["highway"].tolist()
    np.testing.assert_array_equal(roads.junction_attributes["height"], JUNCTIONS["height"])
    assert (report["junctions"], report["segments"]) == (COUNT, len(SEGMENTS))
    assert report["length_km"] == pytest.approx(sum(along(np.array(line.coords)) for line in LINES) / 1000, abs=1e-3)
    assert report["turns"] == sum((SEGMENTS["u"] == v).sum() for v in SEGMENTS["v"])


def test_every_form_of_the_same_network_gives_the_same_roads(files):
    frame = geopandas.GeoDataFrame(SEGMENTS, geometry=LINES, crs="EPSG:4326")
    points = geopandas.GeoDataFrame(JUNCTIONS[["id"]], geometry=shapely.points(LONLAT), crs="EPSG:4326")
    for ending in ("geojson", "gpkg", "parquet"):
        for table, name in ((frame, "segments"), (points, "junctions")):
            (table.to_parquet if ending == "parquet" else table.to_file)(files / f"{name}.{ending}")
        assert facts(built(files, f"junctions.{ending}", f"segments.{ending}")[0]) == EXPECTED
        assert facts(built(files, "junctions.csv", f"segments.{ending}")[0]) == EXPECTED
    JUNCTIONS.to_parquet(files / "plain.parquet")
    with_lines().to_csv(files / "segments.csv.gz", index=False, sep=";")
    assert facts(built(files, "plain.parquet", "segments.csv.gz")[0]) == EXPECTED
    hexadecimal = SEGMENTS.assign(shape=[line.wkb_hex for line in LINES])
    hexadecimal.rename(columns={"u": "a", "v": "b"}).to_csv(files / "hex.csv", index=False)
    assert facts(built(files, edges="hex.csv", from_key="a", to_key="b")[0]) == EXPECTED


def test_arrays_name_junctions_by_id_or_by_position(files):
    straight = Counter((str(IDS[a]), str(IDS[b]), round(haversine(LONLAT[a], LONLAT[b]), 4)) for a, b in ENDS)
    np.savez(files / "position.npz", node_xy=LONLAT, osm_node_id=IDS, edge_from=ENDS[:, 0], edge_to=ENDS[:, 1])
    np.savez(files / "id.npz", lonlat=LONLAT, node_id=IDS, edge_index=IDS[ENDS].T)
    for name, by in (("position.npz", "position"), ("id.npz", "id")):
        roads, report = built(files, name, name)
        assert Counter(row[:3] for row in facts(roads).elements()) == straight
        assert report["ends_by"] == by


def test_ids_are_texts_where_any_is_and_numbers_written_otherwise_are_the_same(files):
    names = {number: f"{number}" if place else "corner" for place, number in enumerate(IDS.tolist())}
    JUNCTIONS.assign(id=JUNCTIONS["id"].map(names)).to_csv(files / "named.csv", index=False)
    SEGMENTS.assign(u=SEGMENTS["u"].map(names), v=SEGMENTS["v"].map(lambda v: f"{v}.0" if v != IDS[0] else "corner")
                    ).to_csv(files / "mixed.csv", index=False)
    roads, _ = built(files, "named.csv", "mixed.csv")
    assert roads.junction_id[0] == "corner"
    assert roads.junction_id[roads.head].tolist() == [names[v] for v in SEGMENTS["v"]]


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:25829", "EPSG:2263", "EPSG:4258"])
def test_a_reference_system_is_converted_and_lengths_are_those_on_the_ground(files, crs):
    there = LONLAT - LONLAT.mean(0) + [-73.95, 40.7] if crs == "EPSG:2263" else LONLAT  # feet of New York
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(there[:, 0], there[:, 1])
    pd.DataFrame({"id": IDS, "x": x, "y": y}).to_csv(files / "plane.csv", index=False)
    SEGMENTS.to_csv(files / "straight.csv", index=False)
    roads, report = built(files, "plane.csv", "straight.csv", crs=crs)
    np.testing.assert_allclose(roads.junction_xy, there, atol=1e-8)
    np.testing.assert_allclose(roads.length, [haversine(there[a], there[b]) for a, b in ENDS], rtol=1e-7)
    assert report["coordinates"] == crs


def test_plain_metres_stay_plain_metres(files):
    xy = RANDOM.uniform(-3000, 9000, (COUNT, 2))
    pd.DataFrame({"id": IDS, "x": xy[:, 0], "y": xy[:, 1]}).to_csv(files / "plane.csv", index=False)
    SEGMENTS.to_csv(files / "straight.csv", index=False)
    expected = [math.dist(xy[a], xy[b]) for a, b in ENDS]
    for options, factor in (({}, 1.0), ({"coordinate_unit": "m"}, 1.0), ({"coordinate_unit": "km"}, 1000.0)):
        roads, _ = built(files, "plane.csv", "straight.csv", **options)
        assert roads.metric
        np.testing.assert_allclose(roads.junction_xy, xy * factor)
        np.testing.assert_allclose(roads.length, np.array(expected) * factor)


def test_two_way_adds_the_way_back_of_what_is_not_one_way(files):
    said = ["yes", "no", "-1", ""] * (STREETS // 4 + 1)
    table = with_lines(SEGMENTS.assign(oneway=said[:STREETS], number=range(STREETS)))
    table.to_csv(files / "said.csv", index=False)
    roads, report = built(files, edges="said.csv", two_way=True)
    expected = Counter()
    for (one, other, length, line), word in zip(EXPECTED.elements(), said, strict=False):
        if word != "-1":
            expected[one, other, length, line] += 1
        if word != "yes":
            expected[other, one, length, line[::-1]] += 1
    assert facts(roads) == expected
    again = roads.reverse
    assert np.array_equal(np.asarray(roads.attributes["oneway"]), again < 0)
    number = np.asarray(roads.attributes["number"])
    both = again >= 0
    assert np.array_equal(number[again[both]], number[both])
    assert report["one_way_segments"] == sum(word in ("yes", "-1") for word in said[:STREETS])


def test_lines_against_their_row_are_turned_round_and_missing_ones_are_straight(files):
    lines = [line.reverse() if i % 3 == 0 else line for i, line in enumerate(LINES)]
    texts = [line.wkt if i % 5 else "" for i, line in enumerate(lines)]
    SEGMENTS.assign(wkt=texts).to_csv(files / "odd.csv", index=False)
    roads, report = built(files, edges="odd.csv")
    assert np.array_equal(roads.line_xy[roads.line_ptr[:-1]], LONLAT[ENDS[:, 0]])
    assert np.array_equal(roads.line_xy[roads.line_ptr[1:] - 1], LONLAT[ENDS[:, 1]])
    missing = np.arange(STREETS) % 5 == 0
    assert np.array_equal(np.diff(roads.line_ptr), np.where(missing, 2, 3))
    assert report["lines_straight"] == missing.sum()
    assert report["lines_turned_round"] == (~missing & (np.arange(STREETS) % 3 == 0)).sum()


def test_lines_alone_meet_where_their_ends_coincide(files):
    frame = geopandas.GeoDataFrame(SEGMENTS, geometry=LINES, crs="EPSG:4326")
    frame.to_file(files / "lines.gpkg")
    points = np.concatenate([np.array(line.coords) for line in LINES])
    np.savez(files / "lines.npz", xy=points, ptr=3 * np.arange(STREETS + 1),
             road_class=SEGMENTS["highway"].to_numpy(str))
    used = np.unique(ENDS)
    for name in ("lines.gpkg", "lines.npz", "segments.csv"):
        roads, report = build_roads(lines=files / name)
        assert len(roads.junction_id) == len(used)
        assert sorted(map(tuple, roads.junction_xy)) == sorted(map(tuple, LONLAT[used]))
        assert np.array_equal(roads.junction_xy[roads.tail], LONLAT[ENDS[:, 0]])
        assert np.array_equal(roads.junction_xy[roads.head], LONLAT[ENDS[:, 1]])
        assert roads.attributes["road_class"].to_pylist() == SEGMENTS["highway"].tolist()
        assert report["lines_split"] == 0


def test_ends_that_nearly_meet_are_joined_when_asked(files):
    lines = [[[0, 0], [500, 0]], [[500.4, 0.3], [900, 200]], [[500.0, 0.9], [500, 900]], [[503, 0], [700, -200]]]
    np.savez(files / "near.npz", xy=np.array(lines).reshape(-1, 2), ptr=2 * np.arange(5))
    assert build_roads(lines=files / "near.npz")[1]["junctions"] == 8
    roads, report = build_roads(lines=files / "near.npz", snap=1.0)
    assert report["junctions"] == 6
    assert roads.tail[1] == roads.tail[2] == roads.head[0] != roads.tail[3]
    assert roads.line_xy[roads.line_ptr[1]].tolist() == [500, 0]
    assert report["turns"] == 2


def test_parts_of_a_line_are_joined_or_become_lines_of_their_own(files):
    joined = shapely.MultiLineString([[(0.1, 0), (0.2, 0)], [(0.2, 0), (0.3, 0)]])
    apart = shapely.MultiLineString([[(0.3, 0), (0.4, 0)], [(0.5, 0), (0.6, 0)]])
    pd.DataFrame({"wkt": [joined.wkt, apart.wkt], "name": ["a", "b"]}).to_csv(files / "parts.csv", index=False)
    roads, report = build_roads(lines=files / "parts.csv")
    assert np.diff(roads.line_ptr).tolist() == [3, 2, 2]
    assert roads.attributes["name"].to_pylist() == ["a", "b", "b"]
    assert report["lines_split"] == 1


# -------------------------------------------------------------------- lengths, speeds, other columns
def test_lengths_given_are_kept_in_their_unit(files):
    true = np.array([along(np.array(line.coords)) for line in LINES]) * 1.03
    for column, factor, options in (("length_km", 1e-3, {}), ("length", 1.0, {}), ("dist_mi", 1 / 1609.344,
                                    {"length_key": "dist_mi", "length_unit": "mile"})):
        with_lines(SEGMENTS.assign(**{column: true * factor})).to_csv(files / "long.csv", index=False)
        roads, report = built(files, edges="long.csv", **options)
        np.testing.assert_allclose(roads.length, true, rtol=1e-9)
        assert report["length_ratio"] == pytest.approx(1.03, abs=1e-3)
        assert column not in roads.attributes
    measured, _ = built(files, edges="long.csv", lengths="measured", **options)
    np.testing.assert_allclose(measured.length, true / 1.03)
    holes = np.where(np.arange(STREETS) % 4, true, [-1.0 if i % 8 else np.nan for i in range(STREETS)])
    with_lines(SEGMENTS.assign(length=holes)).to_csv(files / "holes.csv", index=False)
    mended, report = built(files, edges="holes.csv", lengths="mended")
    np.testing.assert_allclose(mended.length, np.where(np.arange(STREETS) % 4, true, true / 1.03))
    assert report["lengths_mended"] == (np.arange(STREETS) % 4 == 0).sum()


def test_speeds_come_in_si_and_gaps_hold_the_mean_of_their_class(files):
    speed = np.where(SEGMENTS["highway"] == "primary", 80.0, 20.0) + np.arange(STREETS) % 7
    speed[::6] = np.nan
    length = np.array([along(np.array(line.coords)) for line in LINES])
    for column, factor, options in (("speed_kmh", 1.0, {}), ("speed", 1 / 3.6, {}),
                                    ("limit", 1 / 1.609344, {"speed_key": "limit", "speed_unit": "mph"})):
        with_lines(SEGMENTS.assign(**{column: speed * factor})).to_csv(files / "fast.csv", index=False)
        roads, _ = built(files, edges="fast.csv", **options)
        known = ~np.isnan(speed)
        assert np.array_equal(roads.attributes["speed_imputed"], ~known)
        np.testing.assert_allclose(roads.attributes["speed"][known], speed[known] / 3.6, rtol=1e-6)
        for word in ("primary", "service"):
            own = (SEGMENTS["highway"] == word).to_numpy()
            mean = np.average(speed[own & known], weights=length[own & known]) / 3.6
            np.testing.assert_allclose(roads.attributes["speed"][own & ~known], mean, rtol=1e-6)
    texts = ["50", "30 mph", "DE:urban", ""] * 30
    with_lines(SEGMENTS.assign(maxspeed=texts[:STREETS])).to_csv(files / "texts.csv", index=False)
    roads, _ = built(files, edges="texts.csv")
    np.testing.assert_allclose(roads.attributes["speed"][:3], [50 / 3.6, 30 * 0.44704, 50 / 3.6], rtol=1e-6)
    assert roads.attributes["speed_imputed"][:4].tolist() == [False, False, False, True]


def test_other_columns_travel_under_their_own_names(files):
    table = SEGMENTS.assign(**{"edge_id": [f"e{i}" for i in range(STREETS)], "paved?": ["yes", "no"] * (STREETS // 2),
                               "width": np.where(np.arange(STREETS) % 2, np.nan, 7.5), "lanes": ["2", "1;2", ""] * 30,
                               "osmid": np.arange(STREETS) + 2**40, "y": 1.0})
    table.to_csv(files / "wide.csv", index=False)
    roads, report = built(files, edges="wide.csv", out=files / "wide.stg")
    again = Roads.of(files / "wide.stg")
    assert again.attributes["paved_"].to_pylist() == table["paved?"].tolist()
    np.testing.assert_array_equal(again.attributes["width"], table["width"])
    assert again.attributes["osmid"].to_pylist() == table["osmid"].tolist()
    assert again.attributes["lanes"].to_pylist() == [2, 2, 2] * 30
    assert again.attributes["lanes_imputed"].to_pylist() == [False, False, True] * 30
    assert again.segment_id.to_pylist() == table["edge_id"].tolist() == roads.segment_id.tolist()
    assert report["columns_left_out"] == ["y"]


def test_saved_and_loaded_they_are_the_same_and_say_where_they_come_from(files):
    roads, report = built(files, out=files / "city.stg", licence="ODbL-1.0", attribution="the city", simulated=True)
    again = Roads.of(files / "city.stg")
    assert facts(again) == facts(roads)
    assert np.array_equal(again.turn_index, roads.turn_index)
    assert np.array_equal(again.turn_angle, roads.turn_angle)
    assert Geometry.from_lines(again.line_ptr, again.line_xy) == Geometry.from_lines(roads.line_ptr, roads.line_xy)
    assert again.metadata["name"] == "city"
    assert again.metadata["simulated"] is True
    assert [one["file"] for one in again.metadata["sources"]] == ["junctions.csv", "segments.csv"]
    assert again.metadata["sources"][0]["licence"] == "ODbL-1.0"
    assert again.metadata["command"] == ("stgraph build roads --nodes junctions.csv --edges segments.csv --simulated "
                                         "--licence ODbL-1.0 --attribution 'the city' --out city.stg")
    assert str(files) not in json.dumps(again.metadata)
    assert len(report["data_sha256"]) == 64


def test_loops_parallels_and_duplicates_are_kept_and_counted(files):
    odd = pd.DataFrame({"from": IDS[[0, 0, 0, 3, 3]], "to": IDS[[1, 1, 1, 3, 4]],
                        "length": [9000, 9000, 9500, 10, 9000]})
    odd.to_csv(files / "odd.csv", index=False)
    roads, report = built(files, edges="odd.csv")
    assert roads.length.tolist() == odd["length"].tolist()
    assert (report["self_loops"], report["parallel_segments"], report["duplicate_segments"]) == (1, 2, 1)
    assert report["isolated_junctions"] == COUNT - 4
    assert (report["components"], report["largest_component"]) == (2, 2)
    assert roads.tables().nodes["segment"]["node_id"].to_pylist()[:3] == [f"{IDS[0]}-{IDS[1]}-{k}" for k in range(3)]


# -------------------------------------------------------------------- real networks
def test_beijing_is_what_its_card_says(shared_data):
    path = shared_data / "beijing_sparsetaxi" / "network.npz"
    roads, report = build_roads(nodes=path, edges=path, coordinate_unit="km", lengths="mended")
    with np.load(path) as arrays:
        assert np.array_equal(roads.junction_id, arrays["osm_node_id"])
        assert np.array_equal(roads.junction_xy, arrays["node_xy"] * 1000)
        good = arrays["edge_length"] >= 0
        np.testing.assert_allclose(roads.length[good], arrays["edge_length"][good].astype(float) * 1000)
        assert (arrays["edge_length"] < 0).sum() == report["lengths_mended"]
    assert (report["junctions"], report["segments"], report["self_loops"]) == (32552, 70310, 1573)
    assert 70310 - report["parallel_segments"] == 68540
    assert roads.metric
    pairs = set(zip(roads.tail.tolist(), roads.head.tolist(), strict=True))
    for line in (path.parent / "set60_node_paths.txt").read_text().splitlines():
        path_of = [int(word) for word in line.replace(",", " ").split()]
        assert all(step in pairs for step in pairwise(path_of))


def test_valencia_and_montreal_are_driven_both_ways(shared_data):
    path = shared_data / "valencia_crime_network" / "network.npz"
    roads, report = build_roads(nodes=path, edges=path, crs="EPSG:32631", two_way=True)
    assert (report["junctions"], report["segments"], report["components"]) == (12848, 2 * 19372, 1)
    assert (roads.reverse[roads.reverse] == np.arange(len(roads.tail))).all()
    np.testing.assert_allclose(roads.junction_xy.mean(0), [-0.37, 39.47], atol=0.02)  # the city of Valencia
    path = shared_data / "montreal_bike_accidents" / "mtl_network.npz"
    roads, report = build_roads(lines=path, crs="EPSG:3797", two_way=True)
    assert (report["segments"], report["largest_component"]) == (2 * 2945, 1837)
    np.testing.assert_allclose(roads.junction_xy.mean(0), [-73.6, 45.52], atol=0.05)
    with np.load(path) as arrays:
        assert roads.attributes["road_class"].to_pylist() == 2 * arrays["road_class"].tolist()


def test_the_simulated_city_comes_in_by_its_files(tmp_path):
    city = simulate_city(size="small", days=1, trips=2)
    write_source_files(city, tmp_path)
    roads, report = built(tmp_path)
    np.testing.assert_array_equal(roads.junction_id, city.junctions["junction_id"])
    np.testing.assert_allclose(roads.length, city.segments["length_m"])
    np.testing.assert_allclose(roads.attributes["speed"], city.segments["free_speed"], rtol=1e-6)
    assert roads.segment_id.tolist() == city.segments["segment_id"].astype(str).tolist()
    assert roads.attributes["road_class"].to_pylist() == city.segments["road_class"].tolist()
    assert report["largest_gap_m"] < 0.02  # geometry is rounded to seven digits
    turns = set(map(tuple, roads.turn_index.T.tolist()))
    assert set(map(tuple, city.network.turns.to_numpy().tolist())) <= turns


# -------------------------------------------------------------------- faults
def write(folder, nodes=JUNCTIONS, edges=SEGMENTS):
    nodes.to_csv(folder / "junctions.csv", index=False)
    edges.to_csv(folder / "segments.csv", index=False)


def plane(crs):
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*LONLAT.T)
    return pd.DataFrame({"id": IDS, "x": x, "y": y})


SWAPPED = JUNCTIONS.rename(columns={"lon": "lat", "lat": "lon"})
DEGREES = pd.DataFrame({"id": IDS, "x": LONLAT[:, 0], "y": LONLAT[:, 1]})
TRUE = np.array([haversine(LONLAT[a], LONLAT[b]) for a, b in ENDS])
HALF = plane("EPSG:25829").assign(x=lambda t: np.where(t.index % 2, t["x"], LONLAT[:, 0]),
                                  y=lambda t: np.where(t.index % 2, t["y"], LONLAT[:, 1]))
FAULTS = {
    "unknown end": ({"edges": SEGMENTS.replace({"v": {SEGMENTS["v"][3]: 77}})}, {}, "an end that is no junction"),
    "missing coordinate": ({"nodes": JUNCTIONS.assign(lat=JUNCTIONS["lat"].where(JUNCTIONS.index != 4))}, {},
                           "missing or not finite, first in row 5"),
    "infinite coordinate": ({"nodes": JUNCTIONS.assign(lat=np.inf)}, {}, "not finite"),
    "a word for a coordinate": ({"nodes": JUNCTIONS.astype({"lat": object}).assign(lat="north")}, {}, "not a number"),
    "no rows of junctions": ({"nodes": JUNCTIONS[:0]}, {}, "no rows"),
    "no rows of segments": ({"edges": SEGMENTS[:0]}, {}, "no rows"),
    "duplicate ids": ({"nodes": JUNCTIONS.assign(id=JUNCTIONS["id"].where(JUNCTIONS.index != 4, IDS[0]))}, {},
                      "two junctions have one id"),
    "negative length": ({"edges": SEGMENTS.assign(length=np.where(SEGMENTS.index == 6, -1.0, TRUE))}, {},
                        "first in row 7"),
    "swapped, out of range": ({"nodes": JUNCTIONS.assign(lon=JUNCTIONS["lat"], lat=JUNCTIONS["lon"] - 100)}, {},
                              "exchanged"),
    "swapped, told by lengths": ({"nodes": SWAPPED, "edges": SEGMENTS.assign(length=TRUE)}, {}, "exchanged"),
    "east and north swapped": ({"nodes": plane("EPSG:25829").rename(columns={"x": "y", "y": "x"})},
                               {"crs": "EPSG:25829"}, "exchanged"),
    "metres in columns of degrees": ({"nodes": plane("EPSG:25829").rename(columns={"x": "lon", "y": "lat"})}, {},
                                     "are no degrees"),
    "metres said to be degrees": ({"nodes": plane("EPSG:25829")}, {"crs": "EPSG:4326"}, "are no degrees"),
    "degrees said to be metres": ({"nodes": DEGREES}, {"coordinate_unit": "m"}, "look like degrees"),
    "degrees said to be Mercator": ({"nodes": DEGREES}, {"crs": "EPSG:3857"}, "look like degrees"),
    "another zone": ({"nodes": plane("EPSG:25829")}, {"crs": "EPSG:2154"}, "do not lie where EPSG:2154 is used"),
    "a mixture": ({"nodes": HALF}, {}, "look like degrees, 20 like metres"),
    "lines elsewhere": ({"nodes": DEGREES.assign(x=DEGREES["x"] + 1), "edges": with_lines()}, {},
                        "far from their junctions"),
    "lines in another system": ({"nodes": plane("EPSG:25829"), "edges": with_lines()}, {},
                                "different reference systems"),
    "lengths in another unit": ({"edges": SEGMENTS.assign(length=TRUE / 1000)}, {}, "say --length-unit km"),
    "a speed of lightning": ({"edges": SEGMENTS.assign(speed=120)}, {}, "median speed would be 432 km/h"),
    "no such system": ({}, {"crs": "EPSG:99999"}, "no such reference system"),
    "no such column": ({}, {"from_key": "a", "to_key": "b"}, "no such column"),
    "half a choice": ({}, {"from_key": "u"}, "do not go together"),
    "a unit of time": ({"nodes": plane("EPSG:25829")}, {"coordinate_unit": "min"}, "not measured in this"),
    "a length in hours": ({}, {"length_unit": "h"}, "converts to m"),
    "both directions twice": ({"edges": pd.concat([SEGMENTS, SEGMENTS.rename(columns={"u": "v", "v": "u"})])},
                              {"two_way": True}, "their way back in the table already"),
    "ids that repeat": ({"edges": SEGMENTS.assign(link="one")}, {"edge_id_key": "link"}, "more than one segment"),
    "no ends": ({"edges": SEGMENTS.drop(columns="v")}, {}, "no column of last ends"),
    "not a line": ({"edges": SEGMENTS.assign(geometry="POINT (1 2)")}, {}, "not one line, first in row 1"),
    "not a shape": ({"edges": SEGMENTS.assign(geometry="LINE 1 2")}, {}, "not a shape in row 1"),
    "parts apart": ({"edges": SEGMENTS.assign(geometry="MULTILINESTRING ((0 0, 1 1), (2 2, 3 3))")}, {},
                    "not one line, first in row 1"),
    "a wrong choice": ({}, {"lengths": "guessed"}, "no such choice"),
    "a wrong ending": ({}, {"out": "city.zip"}, "saved as a .stg bundle"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_used_is_named_and_nothing_is_written(tmp_path, name):
    tables, options, said = FAULTS[name]
    write(tmp_path, **tables)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=said.replace("(", r"\(")) as caught:
        built(tmp_path, **{"out": tmp_path / "city.stg", **options})
    assert caught.value.remedy
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_are_something_else_are_refused(files):
    (files / "notes.docx").write_text("roads")
    (files / "broken.parquet").write_bytes(b"PAR1 and no more")
    (files / "broken.geojson").write_text("{")
    np.savez(files / "objects.npz", node_xy=np.array([{}], dtype=object))
    frame = geopandas.GeoDataFrame(SEGMENTS, geometry=LINES, crs="EPSG:4326").to_crs("EPSG:25829")
    frame.to_file(files / "plane.gpkg")
    for edges, options, said in (("notes.docx", {}, "not read"), ("broken.parquet", {}, "not readable as Parquet"),
                                 ("broken.geojson", {}, "not readable as geojson"), ("gone.csv", {}, "no such file"),
                                 ("objects.npz", {}, "no column of first ends"),
                                 ("plane.gpkg", {"crs": "EPSG:4326"}, "another reference system")):
        with pytest.raises(InputError, match=said):
            built(files, edges=edges, **options)
    for given, said in (({}, "made of junctions and segments"), ({"nodes": "a"}, "made of junctions and segments"),
                        ({"lines": "a", "nodes": "b"}, "do not go together")):
        with pytest.raises(InputError, match=said):
            build_roads(**given)
    for arrays, said in (({"xy": np.zeros((4, 2)), "ptr": [0, 3]}, "do not fit"), ({"xy": np.zeros(4), "ptr": [0, 4]},
                                                                                   "array \\[points, 2\\]")):
        np.savez(files / "lines.npz", **arrays)
        with pytest.raises(InputError, match=said):
            build_roads(lines=files / "lines.npz")


def test_arrays_without_rows_are_refused(files):
    none, some = np.zeros((0, 2)), np.zeros((4, 2)) + np.arange(4)[:, None] * 500
    for options in ({}, {"coordinate_unit": "km"}, {"crs": "EPSG:25829"}):
        np.savez(files / "none.npz", xy=none, u=np.zeros(0, int), v=np.zeros(0, int))
        with pytest.raises(InputError, match="no junctions"):
            built(files, "none.npz", "none.npz", **options)
    np.savez(files / "none.npz", xy=some, u=np.zeros(0, int), v=np.zeros(0, int))
    with pytest.raises(InputError, match="no segments"):
        built(files, "none.npz", "none.npz")


def test_a_network_that_is_one_way_throughout_is_remarked_on(files):
    assert any("--two-way" in said for said in built(files)[1]["warnings"])
    assert not any("--two-way" in said for said in built(files, two_way=True)[1]["warnings"])


# -------------------------------------------------------------------- command line
def test_the_command_line_has_every_option_and_says_what_it_did(files):
    words = ["roads", "--nodes", str(files / "junctions.csv"), "--edges", str(files / "segments.csv"), "--two-way",
             "-o", str(files / "city.stg"), "--json"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["segments"], report["out"]) == (2 * STREETS, str(files / "city.stg"))
    assert Roads.of(files / "city.stg").length.sum() / 1000 == pytest.approx(report["length_km"], abs=1e-3)
    options = {name: one.default for name, one in inspect.signature(roads_verb).parameters.items()
               if name not in ("json", "out")}
    assert options == {one.name: one.default for one in RoadOptions.__dataclass_fields__.values() if one.name != "out"}


def test_the_module_of_the_command_imports_nothing_heavy():
    code = "import stgraph.cli.build_roads, json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pandas", "torch", "shapely"} & {name.split(".")[0] for name in json.loads(done.stdout)}


# -------------------------------------------------------------------- directions, lengths and columns in the wild
WAYS = {1: ("yes", "Y", "true", "1", "1.0", "F", "FT", "forward", "[True]", "one-way"),
        -1: ("-1", "reverse", "T", "TF", "backward", "-1.0"),
        0: ("no", "N", "false", "0", "B", "both", "", "reversible", "[False, True]", "[False]")}


@pytest.mark.parametrize("two_way", [False, True])
def test_every_word_for_one_way_streets_is_understood_in_both_modes(files, two_way):
    said = [(word, way) for way, words in WAYS.items() for word in words]
    words = [said[place % len(said)] for place in range(STREETS)]
    with_lines(SEGMENTS.assign(oneway=[word for word, _ in words])).to_csv(files / "said.csv", index=False)
    roads, _ = built(files, edges="said.csv", two_way=two_way)
    expected, single = Counter(), 0
    for (one, other, length, line), (_, way) in zip(EXPECTED.elements(), words, strict=True):
        single += way != 0
        if way >= 0:
            expected[one, other, length, line] += 1
        if way < 0 or (two_way and way == 0):
            expected[other, one, length, line[::-1]] += 1
    assert facts(roads) == expected
    assert np.asarray(roads.attributes["oneway"]).sum() == single
    for end, place in ((roads.tail, roads.line_ptr[:-1]), (roads.head, roads.line_ptr[1:] - 1)):
        assert np.array_equal(roads.junction_xy[end], roads.line_xy[place])


@pytest.mark.parametrize("word", ["vielleicht", "2", "[True, perhaps]"])
def test_a_word_that_is_not_known_is_refused_with_the_list(files, word):
    SEGMENTS.assign(oneway=["yes", "no", word] * (STREETS // 3)).to_csv(files / "said.csv", index=False)
    with pytest.raises(InputError, match="not known whether this is a one-way street") as error:
        built(files, edges="said.csv")
    assert error.value.field == "oneway"
    assert str(error.value.value) in word
    assert "first in row 3" in error.value.problem
    assert all(known in error.value.remedy for known in ("ft", "tf", "reversible", "--oneway-key"))


def northern_grid() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Blocks as many degrees wide as high at 60 degrees north: half as wide on the ground, square if exchanged."""
    number = np.arange(36)
    junctions = pd.DataFrame({"id": number, "lon": 10 + number % 6 * 0.005, "lat": 60 + number // 6 * 0.005})
    east, north = number[number % 6 < 5], number[number < 30]
    return junctions, pd.DataFrame({"u": np.r_[east, north], "v": np.r_[east + 1, north + 6]})


@pytest.mark.parametrize("length", [300.0, 1.0, 1e300])
def test_places_that_are_right_do_not_look_exchanged(tmp_path, length):
    junctions, edges = northern_grid()
    write(tmp_path, junctions, edges.assign(length=length))
    if length == 300:
        assert built(tmp_path)[0].length.tolist() == [300.0] * 60
    else:
        with pytest.raises(InputError, match="times those of the lines") as error:
            built(tmp_path)
        assert "--lengths measured" in error.value.remedy
    assert built(tmp_path, lengths="measured")[1]["lengths"] == "measured"


def test_exchanged_places_are_still_told_by_lengths_and_there_is_a_way_out(tmp_path):
    write(tmp_path, SWAPPED, SEGMENTS.assign(length=TRUE))
    with pytest.raises(InputError, match="look exchanged") as error:
        built(tmp_path)
    assert "--lengths measured" in error.value.remedy


def test_lengths_of_nothing_and_speeds_that_are_none_are_counted(files):
    zero = np.where(np.arange(STREETS) % 2, TRUE, 0.0)
    SEGMENTS.assign(length=zero).to_csv(files / "zero.csv", index=False)
    warnings = built(files, edges="zero.csv")[1]["warnings"]
    assert any(said.startswith("45 of 90 lengths given are 0") and "--lengths measured" in said for said in warnings)
    SEGMENTS.assign(length=0.0).to_csv(files / "zero.csv", index=False)
    assert any(said.startswith("90 of 90 lengths") for said in built(files, edges="zero.csv")[1]["warnings"])
    speeds = np.where(np.arange(STREETS) % 2, 50.0, -50.0)
    SEGMENTS.assign(speed_kmh=speeds).to_csv(files / "speed.csv", index=False)
    roads, report = built(files, edges="speed.csv")
    assert any("45 of 90 values are no speed" in said for said in report["warnings"])
    assert np.asarray(roads.attributes["speed_imputed"]).sum() == 45
    assert not any("lengths given are 0" in said or "no speed" in said for said in built(files)[1]["warnings"])


@pytest.mark.parametrize("lists", [[[1, 2]] * STREETS, [[1] * (place % 3) for place in range(STREETS)],
                                   [{"a": place} for place in range(STREETS)]])
def test_columns_of_lists_are_left_out_by_name(files, lists):
    with_lines(SEGMENTS.assign(turns=lists)).to_parquet(files / "lists.parquet")
    roads, report = built(files, edges="lists.parquet")
    assert facts(roads) == EXPECTED
    assert report["columns_left_out"] == ["turns"]


@pytest.mark.parametrize("name", ["geometry", "shape"])
def test_a_column_of_shapes_that_are_numbers_is_refused(files, name):
    SEGMENTS.assign(**{name: np.arange(STREETS)}).to_parquet(files / "numbers.parquet")
    with pytest.raises(InputError, match="not a shape in row 1") as error:
        built(files, edges="numbers.parquet")
    assert error.value.field == name


def test_what_is_read_is_not_written_over(files):
    result = CliRunner().invoke(app, ["roads", "--nodes", str(files / "junctions.csv"), "--edges",
                                      str(files / "segments.csv"), "-o", str(files / "segments.csv")])
    assert isinstance(result.exception, InputError)
    assert (files / "segments.csv").read_text().startswith("u,v")
