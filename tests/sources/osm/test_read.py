"""Reading: every form of a file says the same; signals, restrictions, cut ways, ids as they are."""

from __future__ import annotations

import bz2
import gzip

import numpy as np
import osmium
import pytest
from maps import convert, map_xml, write_map

from stgraph.sources.osm.filters import network_filter
from stgraph.sources.osm.read import DEGREE, Restriction, read_osm

ROADS = network_filter(own='["highway"]')
NODES = {
    10: (8.0, 41.0), -11: (8.001, 41.0), 12: (8.002, 41.0005, {"highway": "traffic_signals"}),
    5_000_000_000: (179.9999999, -89.9999999, {"highway": "traffic_signals", "traffic_signals:direction": "backward"}),
    14: (8.004, 41.0, {"highway": "crossing", "crossing": "traffic_signals"}),
    15: (8.005, 41.0, {"name": "highway", "note": "traffic_signals"}), 16: (-180.0, 90.0),
    17: (8.1, 41.1, {"highway": "traffic_signals"}),
}
WAYS = {
    1: ((10, -11, 12), {"highway": "primary", "name": "Rua Ção “é”", "lanes": "2"}),
    7_000_000_000: ((12, 5_000_000_000), {"highway": "primary", "name": "highway"}),
    -3: ((14, 15, 16, 14), {"highway": "residential", "lanes": "1"}),
    4: ((15, 999, 16, 998), {"highway": "service"}),
    5: ((17, 10), {"building": "yes"}),
    6: ((), {"highway": "path"}),
}
MOVE = (("w", 1, "from"), ("n", 12, "via"), ("w", 2, "to"))


def members(*rows):
    return tuple(({"n": "node", "w": "way", "r": "relation"}[kind], ref, role) for kind, ref, role in rows)


def equal(one, other):
    for name in ("way_id", "way_ptr", "node", "node_id", "node_xy", "signal", "signal_direction"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for key in one.tags.columns:
        assert one.tags.values_of(key, str, object, None).tolist() == other.tags.values_of(key, str, object, None
                                                                                           ).tolist()
    assert (one.restrictions, one.left_out, one.nodes, one.highways) == (
        other.restrictions, other.left_out, other.nodes, other.highways)


def test_the_columns_say_what_the_file_said(tmp_path):
    data = read_osm(write_map(tmp_path / "a.osm", NODES, WAYS), ROADS, frozenset({"name", "lanes", "bridge"}))
    assert data.way_id.tolist() == [1, 7_000_000_000, -3, 4, 6]
    assert data.node_id.tolist() == [-11, 10, 12, 14, 15, 16, 5_000_000_000]  # 17 is on no road
    assert (data.node_xy / DEGREE).tolist() == [list(NODES[node][:2]) for node in data.node_id.tolist()]
    rows = [data.node[first:last].tolist() for first, last in zip(data.way_ptr, data.way_ptr[1:], strict=False)]
    assert [[None if place < 0 else int(data.node_id[place]) for place in row] for row in rows] == [
        [10, -11, 12], [12, 5_000_000_000], [14, 15, 16, 14], [15, None, 16, None], []]
    for key in ("name", "lanes", "bridge", "highway"):
        assert data.tags.values_of(key, str, object, None).tolist() == [
            WAYS[way][1].get(key) for way in data.way_id.tolist()]
    assert dict(zip(data.node_id[data.signal].tolist(), data.signal_direction.tolist(), strict=True)) == {
        12: 0, 5_000_000_000: -1}
    assert (data.highways, data.nodes) == (5, len(NODES))


def test_every_form_of_a_file_says_the_same(tmp_path):
    relations = {8: (members(*MOVE), {"type": "restriction", "restriction": "no_left_turn"})}
    plain = write_map(tmp_path / "a.osm", NODES, WAYS, relations)
    data = read_osm(plain, ROADS, frozenset({"name"}))
    (tmp_path / "a.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "wrong-name.osm.pbf").write_bytes(bz2.compress(plain.read_bytes()))  # what counts is the content
    for path in (tmp_path / "a.gz", tmp_path / "wrong-name.osm.pbf", convert(plain, tmp_path / "a.osm.pbf")):
        equal(read_osm(path, ROADS, frozenset({"name"})), data)


def test_the_order_of_the_file_does_not_matter(tmp_path):
    text = map_xml(NODES, WAYS)
    lines = text.split("\n")
    shuffled = tmp_path / "b.osm"
    shuffled.write_text("\n".join([lines[0], *(line for line in lines if line.startswith("<way")),
                                   *(line for line in lines[::-1] if line.startswith("<node")), lines[-1]]))
    equal(read_osm(shuffled, ROADS), read_osm(write_map(tmp_path / "a.osm", NODES, WAYS), ROADS))


def test_many_blocks_are_read_as_one(tmp_path):
    """Blocks hold 8,000 objects; ids jump up and down, coordinates fill all their bits."""
    random = np.random.default_rng(3)
    ids = random.choice(np.arange(-10**9, 10**9, 9973), 20_000, replace=False)
    xy = np.column_stack([random.integers(-1_800_000_000, 1_800_000_001, 20_000),
                          random.integers(-900_000_000, 900_000_001, 20_000)])
    nodes = {node: (x / DEGREE, y / DEGREE) for node, (x, y) in zip(ids.tolist(), xy.tolist(), strict=True)}
    rows = [random.choice(ids, random.integers(2, 9)).tolist() for _ in range(9_000)]
    ways = {way: (row, {"highway": f"class {way % 700}", f"key {way % 90}": "x"}) for way, row in enumerate(rows, 1)}
    plain = write_map(tmp_path / "a.osm", nodes, ways)
    data = read_osm(convert(plain, tmp_path / "a.osm.pbf"), ROADS, frozenset({"key 7"}))
    assert data.way_id.tolist() == list(ways)
    assert data.node_id[data.node].tolist() == [node for row in rows for node in row]
    used = sorted({node for row in rows for node in row})
    assert data.node_id.tolist() == used
    place = {node: at for at, node in enumerate(ids.tolist())}
    assert np.array_equal(data.node_xy, xy[[place[node] for node in used]])
    assert data.tags.values_of("highway", str, object, None).tolist() == [f"class {way % 700}" for way in ways]
    assert data.tags.has("key 7").tolist() == [way % 90 == 7 for way in ways]


def test_a_real_extract_is_what_osmium_reads(shared_data):
    path = shared_data / "osm_extracts" / "monaco.osm.gz"
    data = read_osm(path, ROADS, frozenset({"name"}))
    ways = list(osmium.FileProcessor(str(path), osmium.osm.WAY).with_filter(osmium.filter.KeyFilter("highway")))
    expected = [(way.id, [node.ref for node in way.nodes], way.tags.get("name")) for way in
                osmium.FileProcessor(str(path), osmium.osm.WAY).with_filter(osmium.filter.KeyFilter("highway"))]
    names = data.tags.values_of("name", str, object, None).tolist()
    assert [(way, data.node_id[data.node[first:last]].tolist(), name) for way, first, last, name in
            zip(data.way_id.tolist(), data.way_ptr, data.way_ptr[1:], names, strict=False)] == expected
    assert len(ways) == data.highways
    place = {node.id: (node.location.x, node.location.y) for node in osmium.FileProcessor(str(path), osmium.osm.NODE)}
    assert len(place) == data.nodes
    assert [tuple(xy) for xy in data.node_xy.tolist()] == [place[node] for node in data.node_id.tolist()]
    signals = {node.id for node in osmium.FileProcessor(str(path), osmium.osm.NODE)
               if node.tags.get("highway") == "traffic_signals"} & set(data.node_id.tolist())
    assert set(data.node_id[data.signal].tolist()) == signals
    assert signals


@pytest.mark.parametrize(("tags", "rows", "car", "bicycle"), [
    ({"restriction": "no_left_turn"}, MOVE, "no", "no"),
    ({"restriction": "only_straight_on"}, MOVE, "only", "only"),
    ({"restriction:motorcar": "no_u_turn"}, MOVE, "no", "other_vehicles"),
    ({"restriction:bicycle": "no_u_turn"}, MOVE, "other_vehicles", "no"),
    ({"restriction:hgv": "no_left_turn"}, MOVE, "other_vehicles", "other_vehicles"),
    ({"restriction:hgv": "no_left_turn", "restriction": "no_u_turn"}, MOVE, "no", "no"),
    ({"restriction": "no_left_turn", "except": "psv; bicycle"}, MOVE, "no", "other_vehicles"),
    ({"restriction": "no_left_turn", "except": "motorcar"}, MOVE, "other_vehicles", "no"),
    ({"restriction:conditional": "no_left_turn @ (Mo-Fr 07:00-09:00)"}, MOVE, "conditional", "conditional"),
    ({"restriction": "no_left_turn @ (Mo-Fr)"}, MOVE, "conditional", "conditional"),
    ({"restriction": "no_left_turn", "day_on": "Monday"}, MOVE, "conditional", "conditional"),
    ({"restriction": "left_only"}, MOVE, "unknown_kind", "unknown_kind"),
    ({"restriction": "no_left_turn"}, MOVE[:2], "incomplete", "incomplete"),
    ({"restriction": "no_left_turn"}, MOVE[1:], "incomplete", "incomplete"),
    ({"restriction": "no_left_turn"}, (MOVE[0], MOVE[2]), "incomplete", "incomplete"),
    ({"restriction": "only_left_turn"}, (*MOVE, ("w", 3, "to")), "incomplete", "incomplete"),
])
def test_restrictions_of_a_vehicle(tmp_path, tags, rows, car, bicycle):
    path = write_map(tmp_path / "a.osm", NODES, WAYS, {8: (members(*rows), {"type": "restriction", **tags})})
    for vehicle, expected in (("motorcar", car), ("bicycle", bicycle)):
        data = read_osm(path, ROADS, vehicle=vehicle)
        if expected in ("no", "only"):
            assert data.restrictions == [Restriction(8, expected, 1, (12,), (), 2)]
            assert not data.left_out
        else:
            assert data.restrictions == []
            assert data.left_out == {expected: 1}


def test_restrictions_over_ways_and_with_several_ends(tmp_path):
    path = write_map(tmp_path / "a.osm", NODES, WAYS, {
        8: (members(("w", 1, "from"), ("w", 5, "via"), ("w", 6, "via"), ("w", 2, "to")),
            {"type": "restriction", "restriction": "no_u_turn"}),
        9: (members(("w", 1, "from"), ("w", 2, "from"), ("n", 12, "via"), ("w", 3, "to")),
            {"type": "restriction", "restriction": "no_entry"}),
        10: (members(*MOVE), {"type": "route", "restriction": "no_entry"})})
    assert read_osm(path, ROADS).restrictions == [
        Restriction(8, "no", 1, (), (5, 6), 2), Restriction(9, "no", 1, (12,), (), 3),
        Restriction(9, "no", 2, (12,), (), 3)]
