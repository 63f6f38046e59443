"""Graphs of osmnx: equal to what networkx reads and to what ``build osm`` makes of the same extract."""

from __future__ import annotations

import gzip
from collections import Counter

import networkx
import numpy as np
import osmium
import osmnx
import pytest
import requests
import shapely

from stgraph.errors import InputError
from stgraph.graph import save
from stgraph.roads import Roads
from stgraph.sources.osm.build import build_osm
from stgraph.sources.osm.doors import (
    roads_from_bbox,
    roads_from_graphml,
    roads_from_osmnx,
    roads_from_place,
    words_of,
)
from stgraph.sources.osm.filters import network_filter
from stgraph.sources.osm.read import read_osm
from stgraph.sources.roads import build_roads


def facts(roads, digits=2):
    """Directed segments by the ids of their ends, with length and line."""
    ids = roads.junction_id.tolist()
    return Counter((ids[a], ids[b], round(float(length), digits),
                    tuple(map(tuple, np.round(roads.line_xy[start:end], 7).tolist())))
                   for a, b, length, start, end in zip(roads.tail, roads.head, roads.length, roads.line_ptr[:-1],
                                                       roads.line_ptr[1:], strict=True))


def as_texts(column):
    return column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()


@pytest.fixture(scope="module")
def denver(shared_data):
    return shared_data / "denver_traces" / "osmnx_drive_graph.graphml.gz"


@pytest.fixture(scope="module", params=["west-oakland.osm.bz2", "liechtenstein-latest.osm.pbf"])
def extract(request, shared_data, tmp_path_factory):
    """An extract, and its drivable ways as the XML that osmnx reads."""
    path = shared_data / "osm_extracts" / request.param
    data = read_osm(path, network_filter("drive"))
    ways, nodes = set(data.way_id.tolist()), set(data.node_id.tolist())
    small = tmp_path_factory.mktemp("extract") / "drive.osm"
    with osmium.SimpleWriter(str(small)) as writer:
        for one in osmium.FileProcessor(str(path)):
            if (one.is_node() and one.id in nodes) or (one.is_way() and one.id in ways):
                writer.add(one)
    return path, small


# -------------------------------------------------------------------- laws
def test_graphml_is_read_as_networkx_reads_it(denver):
    roads, report = roads_from_graphml(denver)
    assert (report["junctions"], report["segments"], report["simplified"]) == (377, 1028, True)
    graph = networkx.read_graphml(denver, force_multigraph=True)
    place = {int(node): (float(data["x"]), float(data["y"])) for node, data in graph.nodes(data=True)}
    assert dict(zip(roads.junction_id.tolist(), map(tuple, roads.junction_xy.tolist()), strict=True)) == place
    expected = Counter()
    for one, other, data in graph.edges(data=True):
        line = shapely.from_wkt(data["geometry"]).coords if "geometry" in data else (place[int(one)], place[int(other)])
        expected[int(one), int(other), round(float(data["length"]), 2),
                 tuple(map(tuple, np.round(list(line), 7).tolist()))] += 1
    assert facts(roads) == expected
    assert report["length_km"] == pytest.approx(sum(float(one) for _, _, one in graph.edges(data="length")) / 1000,
                                                abs=1e-3)


def test_a_graph_object_and_its_file_give_the_same_roads(denver, tmp_path):
    graph = osmnx.load_graphml(denver)
    read, report = roads_from_graphml(denver)
    taken, again = roads_from_osmnx(graph)
    assert facts(taken, 9) == facts(read, 9)
    assert taken.attributes.keys() == read.attributes.keys()
    for name in read.attributes:
        if name not in ("name", "road_class", "lanes", "speed", "osm_way"):  # lists lose their order in osmnx
            assert as_texts(taken.attributes[name]) == as_texts(read.attributes[name])
    assert np.array_equal(taken.turn_index, read.turn_index)
    assert {**again, "imputed_speed_share": 0} == {**report, "imputed_speed_share": 0}
    osmnx.save_graphml(graph, tmp_path / "saved.graphml")
    saved, _ = roads_from_graphml(tmp_path / "saved.graphml")
    assert facts(saved, 9) == facts(read, 9)


def test_a_graph_of_osmnx_equals_what_build_osm_makes_of_the_extract(extract):
    path, small = extract
    graph = osmnx.graph_from_xml(small, retain_all=True)
    ours, _ = build_osm(path)
    roads, report = roads_from_osmnx(graph)
    assert facts(roads) == facts(ours)
    assert report["simplified"]
    assert roads.attributes.keys() == ours.attributes.keys()
    rows = [Counter(zip(ids[one.tail].tolist(), ids[one.head].tolist(), np.round(one.length, 2).tolist(),
                        as_texts(one.attributes["oneway"]), strict=True))
            for one in (roads, ours) for ids in (one.junction_id,)]
    assert rows[0] == rows[1]
    same = [Counter(zip(as_texts(one.attributes["road_class"]), np.round(one.length).tolist(), strict=True))
            for one in (roads, ours)]
    assert sum((same[0] & same[1]).values()) > 0.97 * len(ours.tail)  # parts of two classes: osmnx lost which is longer
    for name in ("lanes", "speed"):
        assert roads.attributes[name].dtype == ours.attributes[name].dtype


def test_a_graph_that_is_not_simplified_stays_so(extract):
    path, small = extract
    graph = osmnx.graph_from_xml(small, simplify=False, retain_all=True)
    ours, _ = build_osm(path, simplify=False)
    roads, report = roads_from_osmnx(graph)
    assert facts(roads) == facts(ours)
    assert not report["simplified"]
    assert any("not simplified" in said for said in report["warnings"])


def test_a_projected_graph_comes_back_to_degrees(denver):
    graph = osmnx.load_graphml(denver)
    plain, _ = roads_from_osmnx(graph)
    back, report = roads_from_osmnx(osmnx.project_graph(graph))
    assert report["coordinates"].startswith("EPSG:326")
    assert facts(back) == facts(plain)  # to the seventh digit, as the map has them


def test_every_signal_stands_once_at_its_junction(denver):
    roads, report = roads_from_graphml(denver)
    lit = roads.junction_id[np.asarray(roads.junction_attributes["traffic_signal"])]
    assert sorted(roads.signal_id.tolist()) == sorted(lit.tolist())
    assert report["traffic_signals"] == len(lit) > 100
    at_end = roads.signal_offset > 0
    assert np.array_equal(roads.junction_id[roads.head[roads.signal_segment]][at_end], roads.signal_id[at_end])
    np.testing.assert_allclose(roads.locate(roads.signal_segment, roads.signal_offset), roads.signal_xy, atol=1e-7)


def test_its_tables_come_in_by_build_roads_as_well(denver, tmp_path):
    nodes, edges = osmnx.graph_to_gdfs(osmnx.load_graphml(denver))
    nodes.reset_index().to_csv(tmp_path / "nodes.csv", index=False)
    edges.reset_index().to_csv(tmp_path / "edges.csv", index=False)
    tables, report = build_roads(nodes=tmp_path / "nodes.csv", edges=tmp_path / "edges.csv")
    roads, _ = roads_from_graphml(denver)
    assert facts(tables) == facts(roads)
    assert report["length_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert tables.attributes["oneway"].sum() == np.sum(roads.attributes["oneway"])


def test_speeds_that_the_user_has_set_are_taken(denver):
    graph = osmnx.load_graphml(denver)
    edges = list(graph.edges(keys=True))
    graph.edges[edges[5]]["speed_kph"] = 36.0
    roads, _ = roads_from_osmnx(graph)
    plain, _ = roads_from_graphml(denver)
    row = roads.segment_id.tolist().index("-".join(map(str, edges[5])))
    assert roads.attributes["speed"][row] == pytest.approx(10.0)
    assert np.isclose(roads.attributes["speed"], plain.attributes["speed"]).sum() > 1000


def test_they_are_saved_like_any_roads(denver, tmp_path):
    roads, _ = roads_from_graphml(denver)
    save(roads.tables(), tmp_path / "denver.stg")
    again = Roads.of(tmp_path / "denver.stg")
    assert facts(again, 9) == facts(roads, 9)
    assert again.metadata["sources"][0] == {"file": denver.name, "licence": "ODbL-1.0",
                                            "attribution": "(c) OpenStreetMap contributors"}


@pytest.mark.parametrize(("value", "words"), [
    (None, []), (float("nan"), []), ("", []), ("50", ["50"]), (50, ["50"]), (True, ["True"]), (["3", "4"], ["3", "4"]),
    ("['3', '4']", ["3", "4"]), ("[600545932, 600545925]", ["600545932", "600545925"]),
    ("[True, False]", ["True", "False"]),
    ("""["King's Road", 'A, B', "[c]"]""", ["King's Road", "A, B", "[c]"]), (r"['O\'Hare']", ["O'Hare"]),
    ("__import__('os')", ["__import__('os')"]), ("[" * 5000, ["[" * 5000])])
def test_lists_are_read_without_running_anything(value, words):
    assert words_of(value) == words


# -------------------------------------------------------------------- faults
HEAD = ('<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><key id="x" for="node" attr.name="x"/>'
        '<key id="y" for="node" attr.name="y"/><key id="l" for="edge" attr.name="length"/>'
        '<key id="g" for="edge" attr.name="geometry"/>')
TWO = ('<node id="1"><data key="x">0.1</data><data key="y">0.2</data></node>'
       '<node id="2"><data key="x">0.2</data><data key="y">0.2</data></node>')


def graphml(inside, kind="directed"):
    return f'{HEAD}<graph edgedefault="{kind}">{inside}</graph></graphml>'


FAULTS = {
    "an entity bomb": ('<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>' + graphml(TWO), "declares entities"),
    "an external entity": ('<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + graphml("&a;"),
                           "declares entities"),
    "cut off": (graphml(TWO)[:-30], "not readable as GraphML"),
    "another document": ("<osm><graph/></osm>", "not GraphML"),
    "no graph": ("<graphml></graphml>", "no graph in this file"),
    "two graphs": (f'{HEAD}<graph edgedefault="directed"/><graph edgedefault="directed"/></graphml>', "several graphs"),
    "no directions": (graphml(TWO, "undirected"), "no directions"),
    "nothing in it": (graphml(""), "no nodes or no edges"),
    "no edges": (graphml(TWO), "no nodes or no edges"),
    "an unknown node": (graphml(TWO + '<edge source="1" target="3"/>'), "an end that is no node"),
    "a node twice": (graphml(TWO + TWO + '<edge source="1" target="2"/>'), "two nodes have one id"),
    "no places": (graphml('<node id="1"/><node id="2"/><edge source="1" target="2"/>'), "missing or not finite"),
    "a word for a place": (graphml(TWO.replace("0.1", "here") + '<edge source="1" target="2"/>'), "not a number"),
    "a negative length": (graphml(TWO + '<edge source="1" target="2"><data key="l">-1</data></edge>'), "negative"),
    "no line": (graphml(TWO + '<edge source="1" target="2"><data key="g">LINE</data></edge>'), "not a line"),
    "a point": (graphml(TWO + '<edge source="1" target="2"><data key="g">POINT (0.1 0.2)</data></edge>'),
                "not one line"),
    "off the globe": (graphml(TWO.replace("0.1", "181") + '<edge source="1" target="2"/>'), "are no degrees"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_graph_of_osmnx_is_refused(tmp_path, name, packed):
    text, said = FAULTS[name]
    path = tmp_path / ("graph.graphml" + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(InputError, match=said) as caught:
        roads_from_graphml(path)
    assert caught.value.remedy


def test_packed_files_that_are_damaged_or_grow_too_much_are_refused(denver, tmp_path):
    cut = tmp_path / "cut.graphml.gz"
    cut.write_bytes(denver.read_bytes()[:-4000])
    with pytest.raises(InputError, match="damaged"):
        roads_from_graphml(cut)
    bomb = tmp_path / "bomb.graphml.gz"
    bomb.write_bytes(gzip.compress(HEAD.encode() + b" " * (80 << 20)))
    with pytest.raises(InputError, match="unpacks to more than"):
        roads_from_graphml(bomb)
    with pytest.raises(InputError, match="unpacks to more than"):
        roads_from_graphml(denver, max_bytes=1000)
    (tmp_path / "text.graphml").write_text("roads")
    with pytest.raises(InputError, match="not an OpenStreetMap file"):
        roads_from_graphml(tmp_path / "text.graphml")


def test_a_graph_object_without_directions_or_places_is_refused():
    with pytest.raises(InputError, match="no directions"):
        roads_from_osmnx(networkx.MultiGraph([(1, 2)]))
    with pytest.raises(InputError, match="missing or not finite"):
        roads_from_osmnx(networkx.MultiDiGraph([(1, 2)]))
    with pytest.raises(InputError, match="no nodes or no edges"):
        roads_from_osmnx(networkx.MultiDiGraph())


# -------------------------------------------------------------------- places
@pytest.mark.parametrize("door", [lambda **more: roads_from_place("Porto, Portugal", **more),
                                  lambda **more: roads_from_bbox((-8.63, 41.14, -8.60, 41.16), **more)])
def test_a_place_is_fetched_through_osmnx_and_without_a_connection_says_what_to_do(door, denver, tmp_path, monkeypatch):
    asked = []

    def answer(where, network_type, retain_all):
        asked.append((where, network_type, retain_all, osmnx.settings.use_cache, osmnx.settings.cache_folder))
        return osmnx.load_graphml(denver)

    def offline(where, network_type, retain_all):
        raise requests.exceptions.ConnectionError("no route to host")

    def nothing(where, network_type, retain_all):
        raise osmnx._errors.InsufficientResponseError("no results")

    before = osmnx.settings.use_cache, osmnx.settings.cache_folder
    for name in ("graph_from_place", "graph_from_bbox"):
        monkeypatch.setattr(osmnx, name, answer)
    roads, report = door(network="bike", cache=tmp_path)
    assert asked[0][1:] == ("bike", True, True, tmp_path)
    assert (len(roads.tail), report["network"]) == (1028, "bike")
    assert roads.metadata["sources"][0]["licence"] == "ODbL-1.0"
    assert roads.metadata["sources"][0]["file"] == report["source"]
    for fault, said, remedy in ((offline, "cannot be reached", "osm.pbf"), (nothing, "finds nothing", "--bbox")):
        for name in ("graph_from_place", "graph_from_bbox"):
            monkeypatch.setattr(osmnx, name, fault)
        with pytest.raises(InputError, match=said) as caught:
            door(cache=tmp_path)
        assert remedy in caught.value.remedy
    assert (osmnx.settings.use_cache, osmnx.settings.cache_folder) == before


@pytest.mark.parametrize("box", [(-8.60, 41.14, -8.63, 41.16), (-8.63, 41.16, -8.60, 41.14), (0, 0, 1), (0, 0, 181, 1),
                                 (0, -91, 1, 1), (0, 0, float("nan"), 1)])
def test_a_box_that_is_none_is_refused_before_anything_is_fetched(box):
    with pytest.raises(InputError, match="west, south, east, north"):
        roads_from_bbox(box)


def test_a_network_without_a_name_and_a_place_without_one_are_refused():
    with pytest.raises(InputError, match="network is not known"):
        roads_from_place("Porto", network="ferry")
    with pytest.raises(InputError, match="no place is named"):
        roads_from_place(" ")
