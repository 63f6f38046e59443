"""``build osm``: equal to osmnx edge for edge on real extracts; lengths, lines, turns and signals hold together."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("osmnx")

import osmium
import osmnx
from maps import convert, extract_for_osmnx, write_map

from stgraph.cli.main import main
from stgraph.errors import InputError
from stgraph.graph import data_sha256, load_tables
from stgraph.roads import Roads
from stgraph.roads.network import reverse_segments
from stgraph.roads.projection import great_circle
from stgraph.sources.osm.build import bounds, build_osm, write_osm

EXTRACTS = {"krems.osm.gz": "drive", "monaco.osm.gz": "walk", "west-oakland.osm.bz2": "all", "moscow.osm.gz": "bike",
            "fiji-ferry.osm.pbf": "drive_service", "liechtenstein-latest.osm.pbf": "drive"}
# two streets that cross at 3, a signal on one, a one-way lane against its nodes, a roundabout; every 0.001 degrees
TOWN = {node: (8 + x / 1000, 41 + y / 1000) for node, (x, y) in {
    1: (0, 0), 2: (1, 0), 3: (2, 0), 4: (3, 0), 5: (2, 1), 6: (2, -1), 7: (3, 1), 8: (4, 0), 9: (4, 1)}.items()}
TOWN[2] = (*TOWN[2], {"highway": "traffic_signals"})
TOWN[3] = (*TOWN[3], {"highway": "traffic_signals"})
STREETS = {100: ((1, 2, 3, 4), {"highway": "primary", "maxspeed": "36"}), 101: ((5, 3, 6), {"highway": "residential"}),
           102: ((5, 7), {"highway": "service", "oneway": "-1"}),
           103: ((4, 8, 9, 4), {"highway": "primary", "junction": "roundabout"})}


def moves(roads):
    """Turns as walks over nodes."""
    ids, tail, head = roads.junction_id, roads.tail, roads.head
    return {(int(ids[tail[one]]), int(ids[head[one]]), int(ids[head[other]])) for one, other in roads.turn_index.T}


@pytest.mark.parametrize("name", EXTRACTS)
def test_it_is_osmnx_edge_for_edge(name, shared_data, tmp_path):
    source, network = shared_data / "osm_extracts" / name, EXTRACTS[name]
    graph = osmnx.graph_from_xml(extract_for_osmnx(source, tmp_path / "extract.osm", network), retain_all=True,
                                 bidirectional=network == "walk")
    roads, report = build_osm(source, network=network)
    theirs = Counter((tail, head, round(100 * data["length"])) for tail, head, data in graph.edges(data=True))
    ours = Counter(zip(roads.junction_id[roads.tail].tolist(), roads.junction_id[roads.head].tolist(),
                       np.rint(100 * roads.length).astype(int).tolist(), strict=True))
    assert ours == theirs
    place = {node: (data["x"], data["y"]) for node, data in graph.nodes(data=True) if graph.degree(node)}
    assert dict(zip(roads.junction_id.tolist(), map(tuple, roads.junction_xy.tolist()), strict=True)) == place
    assert report["segments"] == len(graph.edges)
    assert report["clipped_ways"] == 0
    if network != "walk":
        single = Counter((tail, head, round(100 * data["length"])) for tail, head, data in graph.edges(data=True)
                         if data["oneway"] is True)
        mine = np.flatnonzero(roads.attributes["oneway"])
        assert single == Counter(zip(roads.junction_id[roads.tail[mine]].tolist(),
                                     roads.junction_id[roads.head[mine]].tolist(),
                                     np.rint(100 * roads.length[mine]).astype(int).tolist(), strict=True))


def test_without_simplification_it_is_osmnx_too(shared_data, tmp_path):
    source = shared_data / "osm_extracts" / "krems.osm.gz"
    graph = osmnx.graph_from_xml(extract_for_osmnx(source, tmp_path / "extract.osm", "drive"), retain_all=True,
                                 simplify=False)
    roads, _ = build_osm(source, simplify=False)
    assert Counter((tail, head, round(100 * data["length"])) for tail, head, data in graph.edges(data=True)) == Counter(
        zip(roads.junction_id[roads.tail].tolist(), roads.junction_id[roads.head].tolist(),
            np.rint(100 * roads.length).astype(int).tolist(), strict=True))


@pytest.mark.parametrize("name", ["monaco.osm.gz", "helsinki-centre.osm.pbf", "fiji-ferry.osm.pbf",
                                  "paris_bss.osm.pbf"])
def test_lines_lengths_directions_and_turns_hold_together(name, shared_data):
    roads, report = build_osm(shared_data / "osm_extracts" / name)
    first, last = roads.line_ptr[:-1], roads.line_ptr[1:] - 1
    assert np.array_equal(roads.line_xy[first], roads.junction_xy[roads.tail])
    assert np.array_equal(roads.line_xy[last], roads.junction_xy[roads.head])
    leg = great_circle(roads.line_xy[:-1], roads.line_xy[1:])
    leg[last[:-1]] = 0
    assert np.add.reduceat(leg, first[:len(first)]) == pytest.approx(roads.length)
    assert report["length_km"] == pytest.approx(roads.length.sum() / 1000, abs=1e-3)
    assert np.array_equal(roads.head[roads.turn_index[0]], roads.tail[roads.turn_index[1]])
    reverse = reverse_segments(roads.tail, roads.head, roads.line_ptr, roads.line_xy)
    oneway = np.asarray(roads.attributes["oneway"])
    assert (reverse[~oneway] >= 0).all()
    lines = [line.tobytes() for line in np.split(roads.line_xy, roads.line_ptr[1:-1])]
    once = np.array([count == 1 for count in map(Counter(lines).__getitem__, lines)])  # some streets are drawn twice
    source, target = roads.turn_index[:, once[roads.turn_index[0]]]
    back = target == reverse[source]
    onward = np.bincount(source[~back], minlength=len(roads.tail))
    assert back.any()
    assert not onward[source[back]].any()  # only where a dead end leaves no other way
    assert np.all(roads.attributes["speed"] > 0)
    assert np.all(roads.attributes["lanes"] >= 1)
    place = roads.locate(roads.signal_segment, roads.signal_offset)
    assert great_circle(place, roads.signal_xy).max(initial=0) < 0.01
    assert len(np.unique(roads.signal_id)) == len(roads.signal_id) == report["traffic_signals"]


def test_each_signal_on_a_road_is_there_once(shared_data):
    path = shared_data / "osm_extracts" / "helsinki-centre.osm.pbf"
    roads, _ = build_osm(path)
    wanted = {node.id for node in osmium.FileProcessor(str(path), osmium.osm.NODE)
              if node.tags.get("highway") == "traffic_signals"}
    seen = {tuple(xy) for xy in roads.line_xy.tolist()}
    place = {node.id: (node.lon, node.lat) for node in osmium.FileProcessor(str(path), osmium.osm.NODE)}
    assert set(roads.signal_id.tolist()) == {node for node in wanted if place[node] in seen}
    lit = {node for node in roads.junction_id.tolist() if node in wanted}
    assert set(roads.junction_id[roads.junction_attributes["traffic_signal"]].tolist()) == lit
    assert lit


def test_a_made_town_by_hand(tmp_path):
    roads, report = build_osm(write_map(tmp_path / "town.osm", TOWN, STREETS), network="drive_service")
    ids = roads.junction_id.tolist()
    walks = [tuple(ids[node] for node in ends) for ends in zip(roads.tail, roads.head, strict=True)]
    # 5 and 7 are ends: of a way, where one way in meets two ways; 2 and 8 are not
    assert sorted(walks) == [(1, 3), (3, 1), (3, 4), (3, 5), (3, 6), (4, 3), (4, 4), (5, 3), (6, 3), (7, 5)]
    assert moves(roads) == {(1, 3, 4), (1, 3, 5), (1, 3, 6), (3, 1, 3), (3, 4, 4), (3, 6, 3), (4, 3, 1), (4, 3, 5),
                            (4, 3, 6), (4, 4, 3), (5, 3, 1), (5, 3, 4), (5, 3, 6), (6, 3, 1), (6, 3, 4), (6, 3, 5),
                            (7, 5, 3), (3, 5, 3), (4, 4, 4)}
    row = walks.index((1, 3))
    assert roads.line_xy[roads.line_ptr[row]:roads.line_ptr[row + 1]].tolist() == [
        [8.0, 41.0], [8.001, 41.0], [8.002, 41.0]]
    assert roads.attributes["speed"][row] == 10
    assert dict(zip(roads.signal_id.tolist(), roads.signal_segment.tolist(), strict=True))[2] == row  # as the way runs
    at = roads.signal_id.tolist().index(2)
    assert roads.signal_offset[at] == pytest.approx(great_circle(np.array([[8.0, 41.0]]), np.array([[8.001, 41.0]]))[0])
    assert report["bounds"] == [8.0, 40.999, 8.004, 41.001]
    assert roads.metadata["sources"][0]["attribution"] == "(c) OpenStreetMap contributors"
    assert roads.metadata["sources"][0]["licence"] == "ODbL-1.0"


@pytest.mark.parametrize(("said", "walk"), [(None, (1, 3)), ("forward", (1, 3)), ("backward", (3, 1)),
                                              ("both", (1, 3))])
def test_a_signal_stands_in_the_direction_it_is_for(said, walk, tmp_path):
    tags = {"highway": "traffic_signals"} | ({"traffic_signals:direction": said} if said else {})
    roads, _ = build_osm(write_map(tmp_path / "town.osm", TOWN | {2: (*TOWN[2][:2], tags)}, STREETS))
    row = int(roads.signal_segment[roads.signal_id.tolist().index(2)])
    assert (roads.junction_id[roads.tail[row]], roads.junction_id[roads.head[row]]) == walk


def test_restrictions_are_applied_but_on_foot(tmp_path):
    relations = {1: ((("way", 100, "from"), ("node", 3, "via"), ("way", 101, "to")),
                     {"type": "restriction", "restriction": "no_left_turn"})}
    path = write_map(tmp_path / "town.osm", TOWN, STREETS, relations)
    free, _ = build_osm(write_map(tmp_path / "free.osm", TOWN, STREETS))
    roads, report = build_osm(path)
    assert (report["restrictions"], report["restrictions_applied"]) == (1, 1)
    assert moves(free) - moves(roads)
    assert all(middle == 3 for _, middle, _ in moves(free) - moves(roads))
    assert build_osm(path, network="walk")[1]["restrictions"] == 0


def test_on_foot_every_way_leads_both_ways(tmp_path):
    roads, _ = build_osm(write_map(tmp_path / "town.osm", TOWN, STREETS), network="walk")
    walks = Counter(zip(roads.tail.tolist(), roads.head.tolist(), strict=True))
    assert walks == Counter({(head, tail): count for (tail, head), count in walks.items()})
    assert not roads.attributes["oneway"].any()


def test_an_own_filter_chooses_the_ways(tmp_path):
    path = write_map(tmp_path / "town.osm", TOWN, STREETS)
    _, report = build_osm(path, filter='["highway"~"residential|service"]')
    assert report["ways"] == 2
    assert report["filter"] == '["highway"~"residential|service"]'


def test_the_bundle_holds_the_network(shared_data, tmp_path):
    source = shared_data / "osm_extracts" / "helsinki-centre.osm.pbf"
    roads, report = build_osm(source, out=tmp_path / "h.stg")
    again = Roads.of(tmp_path / "h.stg")
    for name in ("junction_id", "junction_xy", "tail", "head", "length", "line_ptr", "line_xy", "turn_index",
                 "turn_angle", "signal_id", "signal_xy", "signal_segment", "signal_offset", "forbidden"):
        np.testing.assert_array_equal(getattr(again, name), getattr(roads, name), err_msg=name)
    for name, column in roads.attributes.items():
        there = again.attributes[name].to_pylist()
        assert there == (column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()), name
    assert report["data_sha256"] == data_sha256(tmp_path / "h.stg")
    other = write_osm(source, tmp_path / "w.stg", name="h")
    assert other["data_sha256"] == report["data_sha256"]
    assert {**other, "out": 0, "seconds": 0, "peak_memory_mb": 0} == {
        **report, "out": 0, "seconds": 0, "peak_memory_mb": 0}


def test_both_sides_of_the_180th_meridian(shared_data):
    roads, report = build_osm(shared_data / "osm_extracts" / "fiji-ferry.osm.pbf")
    west, south, east, north = report["bounds"]
    assert 177 < west < 180
    assert -180 < east < -179
    assert -19 < south < north < -16
    assert roads.length.max() < 60_000
    assert roads.junction_xy[:, 0].max() - roads.junction_xy[:, 0].min() > 350


@pytest.mark.parametrize(("longitude", "expected"), [
    ([8.0, 9.0], (8, 9)), ([-100, 100], (100, -100)), ([-179, 179, 178], (178, -179)), ([0.0], (0, 0)),
    ([-170, -20, 60, 170], (-20, -170)), ([-80, -20, 60, 90], (-80, 90)), ([-170, 5, 10], (-170, 10))])
def test_bounds_leave_out_the_widest_gap(longitude, expected):
    west, south, east, north = bounds(np.column_stack([longitude, np.arange(len(longitude))]))
    assert (west, east) == expected
    assert (south, north) == (0, len(longitude) - 1)


def test_the_command_prints_the_report(tmp_path, capsys):
    source = convert(write_map(tmp_path / "town.osm", TOWN, STREETS), tmp_path / "town.osm.pbf")
    with pytest.raises(SystemExit) as caught:
        main(["build", "osm", str(source), "-o", str(tmp_path / "town.stg"), "--network", "drive_service", "--json"])
    assert caught.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["segments"] == 10
    assert report["clipped_ways"] == 0
    assert report["peak_memory_mb"] > 0
    tables = load_tables(tmp_path / "town.stg")
    assert len(tables.nodes["segment"]) == 10
    assert tables.metadata["name"] == "town"
    with pytest.raises(SystemExit) as caught:
        main(["build", "osm", str(source), "-o", str(tmp_path / "town.stg"), "--no-simplify"])
    assert caught.value.code == 0
    assert "OpenStreetMap contributors" in capsys.readouterr().err


def test_points_of_interest_and_land_use_stand_beside_the_same_roads(shared_data, tmp_path):
    source = shared_data / "osm_extracts" / "helsinki-centre.osm.pbf"
    alone, more = (write_osm(source, tmp_path / name, poi=given, land_use=given) for name, given in
                   (("a.stg", False), ("b.stg", True)))
    tables = load_tables(tmp_path / "b.stg")
    assert len(tables.nodes["poi"]) == more["points_of_interest"] > 0
    assert len(tables.nodes["region"]) == more["regions"] > 0
    one, other = (Roads.of(tmp_path / name) for name in ("a.stg", "b.stg"))
    assert np.array_equal(one.line_xy, other.line_xy)
    assert more["segments"] == alone["segments"]


@pytest.mark.parametrize("option", [{"filter": "[highway]"}, {"simplify": False}, {"poi": True}, {"land_use": True}])
def test_what_only_an_extract_can_give_is_refused_elsewhere(option, shared_data):
    with pytest.raises(InputError, match="only an extract"):
        build_osm(shared_data / "denver_traces" / "osmnx_drive_graph.graphml.gz", **option)


def test_a_file_takes_no_folder_of_what_is_fetched(tmp_path, capsys):
    source = write_map(tmp_path / "town.osm", TOWN, STREETS)
    with pytest.raises(SystemExit) as caught:
        main(["build", "osm", str(source), "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "town.stg")])
    assert caught.value.code == 2
    assert "'cache'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["town.osm"]


def test_one_source_is_due(shared_data):
    for source, options in ((None, {}), (shared_data / "osm_extracts" / "krems.osm.gz", {"place": "Krems"})):
        with pytest.raises(InputError, match="one of a file, a place and a box"):
            build_osm(source, **options)


def test_a_graph_of_osmnx_goes_through_the_same_door(shared_data, tmp_path):
    source = shared_data / "osm_extracts" / "krems.osm.gz"
    graph = osmnx.graph_from_xml(extract_for_osmnx(source, tmp_path / "extract.osm", "drive"), retain_all=True)
    osmnx.save_graphml(graph, tmp_path / "krems.graphml")
    roads, report = build_osm(source)
    for other in (graph, tmp_path / "krems.graphml"):
        found, facts = build_osm(other, out=tmp_path / "krems.stg")
        assert (facts["segments"], facts["junctions"]) == (report["segments"], report["junctions"])
        assert found.length.sum() == pytest.approx(roads.length.sum())
        assert facts["attribution"] == report["attribution"]
