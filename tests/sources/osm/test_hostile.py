"""Hostile and broken files: refused with what is wrong and what to do, nothing written; cut where that is enough."""

from __future__ import annotations

import bz2
import gzip
import json
import struct
import time

import pytest
from maps import HEADER, blob, convert, field, map_xml, write_map

from stgraph.cli.main import main
from stgraph.errors import InputError
from stgraph.sources.osm.build import build_osm
from stgraph.sources.osm.guard import check_size, form_of

NODES = {node: (8 + node / 1000, 41 + node % 3 / 1000) for node in range(1, 7)}
WAYS = {1: ((1, 2, 3), {"highway": "primary"}), 2: ((3, 4, 5), {"highway": "residential"})}
XML = map_xml(NODES, WAYS)
BOMB = '<!DOCTYPE osm [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)) + "]>"
OUTSIDE = '<!DOCTYPE osm [<!ENTITY i SYSTEM "file:///etc/hostname">]>'
ENTITY = XML.replace("primary", "&i;").split("?>", 1)[1]
ZEROS = bytes(30 << 20)


def pbf(tmp_path):
    return convert(write_map(tmp_path / "whole.osm", NODES, WAYS), tmp_path / "whole.osm.pbf").read_bytes()


FILES = {
    "entity bomb": lambda _: f'<?xml version="1.0"?>{BOMB}{ENTITY}'.encode(),
    "external entity": lambda _: f'<?xml version="1.0"?>{OUTSIDE}{ENTITY}'.encode(),
    "cut XML": lambda _: XML.encode()[:-40],
    "cut gzip": lambda _: gzip.compress(XML.encode())[:-20],
    "cut bzip2": lambda _: bz2.compress(XML.encode())[:-20],
    "damaged gzip": lambda _: gzip.compress(XML.encode())[:60] + b"\0" * 100,
    "cut PBF": lambda path: pbf(path)[:-7],
    "PBF cut in a header": lambda path: pbf(path) + b"\0\0\0\x20ab",
    "length of a header": lambda path: pbf(path) + struct.pack(">I", 1 << 30) + b"x" * 100,
    "blob that says it is 2 GiB": lambda path: pbf(path) + struct.pack(">I", 15) + field(1, b"OSMData") + field(
        3, 2 << 30),
    "blob that says it unpacks to 2 GiB": lambda path: pbf(path) + blob(b"\0" * 1000, says=2 << 30),
    "blob that says too little": lambda path: pbf(path) + blob(b"\0" * 1000, says=10),
    "blob that says too much": lambda path: pbf(path) + blob(b"\0" * 1000, says=20 << 20),
    "blob of zeros": lambda path: pbf(path) + blob(b"\0" * 1000),
    "field longer than its blob": lambda _: HEADER + blob(field(1, field(1, b"")) + field(
        2, field(3, b"\x08\x05\x12\xff\xff\xff\x0f"))),
    "bomb of blobs": lambda _: HEADER + blob(ZEROS) * 64,
    "bomb of gzip": lambda _: gzip.compress(bytes(70 << 20)) * 16,
    "bomb of bzip2": lambda _: bz2.compress(bytes(70 << 20)) * 16,
    "nothing": lambda _: b"",
    "no object": lambda _: map_xml({}, {}).encode(),
    "header alone": lambda _: HEADER,
    "nodes alone": lambda _: map_xml(NODES, {}).encode(),
    "no road": lambda _: map_xml(NODES, {1: ((1, 2), {"building": "yes"})}).encode(),
    "no road for cars": lambda _: map_xml(NODES, {1: ((1, 2), {"highway": "footway"})}).encode(),
    "a ring without a junction": lambda _: map_xml(NODES, {1: ((1, 2, 3, 1), {"highway": "primary"})}).encode(),
    "all ways cut off": lambda _: map_xml(NODES, {1: ((1, 77, 2), {"highway": "primary"})}).encode(),
    "latitude out of range": lambda _: map_xml(NODES | {2: (8.0, 90.0000001)}, WAYS).encode(),
    "longitude out of range": lambda _: map_xml(NODES | {2: (-180.5, 41.0)}, WAYS).encode(),
    "coordinate that is none": lambda _: map_xml(NODES | {2: ("nan", 41.0)}, WAYS).encode(),
    "node without a place": lambda _: XML.replace(' lat="41.002"', "").encode(),
    "way twice": lambda _: XML.replace("<way", '<way id="1"><tag k="highway" v="primary"/></way><way', 1).encode(),
    "node twice": lambda _: XML.replace("<way", '<node id="2" lon="8" lat="41"/><way', 1).encode(),
    "id beyond all numbers": lambda _: XML.replace('id="1"', 'id="99999999999999999999"', 1).encode(),
    "a change file": lambda _: b'<osmChange version="0.6"><modify><node id="1" lon="8" lat="41"/></modify></osmChange>',
    "a page of a website": lambda _: b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>",
    "a text": lambda _: b"Too many requests",
    "a picture": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_and_nothing_is_written(name, tmp_path):
    path, out = tmp_path / "map.osm.pbf", tmp_path / "out" / "map.stg"
    path.write_bytes(FILES[name](tmp_path))
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        build_osm(path, out=out)
    assert time.process_time() - started < 3
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert not out.parent.exists()


def test_the_command_says_so_and_ends_with_2(tmp_path, capsys):
    path = tmp_path / "map.osm.gz"
    path.write_bytes(FILES["bomb of gzip"](tmp_path))
    with pytest.raises(SystemExit) as caught:
        main(["build", "osm", str(path), "-o", str(tmp_path / "map.stg"), "--json"])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["field"] == "max_bytes"
    assert "--max-bytes" in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bz2.compress])
def test_the_budget_of_bytes_is_exact_and_can_be_raised(pack, tmp_path):
    path = tmp_path / "map.osm"
    path.write_bytes(pack(XML.encode()))
    assert build_osm(path, max_bytes=len(XML))[1]["unpacked_bytes"] == len(XML)
    with pytest.raises(InputError, match="max-bytes"):
        build_osm(path, max_bytes=len(XML) - 1)


def test_the_blobs_of_a_file_are_counted_from_their_headers(tmp_path):
    path = tmp_path / "map.osm.pbf"
    path.write_bytes(HEADER + blob(ZEROS) * 64)
    header = len(field(4, b"OsmSchema-V0.6") + field(4, b"DenseNodes"))
    assert check_size(path, form_of(path), 2 << 30) == 64 * len(ZEROS) + header
    with pytest.raises(InputError, match="max-bytes"):
        check_size(path, form_of(path), 64 * len(ZEROS) + header - 1)


def test_the_budget_of_objects_is_exact_and_can_be_raised(tmp_path):
    path = write_map(tmp_path / "map.osm", NODES, WAYS)
    count = len(NODES) + len(WAYS)
    assert build_osm(path, max_objects=count)[1]["segments"] == 2
    with pytest.raises(InputError, match="max-objects"):
        build_osm(path, max_objects=count - 1)


def test_a_way_that_leads_out_of_the_file_is_cut_there_and_reported(tmp_path):
    nodes = {node: (8 + node / 1000, 41.0) for node in range(1, 9)}
    ways = {1: ((1, 2, 3, 70, 71, 4, 5, 72), {"highway": "primary"}), 2: ((73, 6, 7), {"highway": "primary"}),
            3: ((74, 8, 75), {"highway": "primary"}), 4: ((1, 8), {"highway": "primary"})}
    roads, report = build_osm(write_map(tmp_path / "map.osm", nodes, ways))
    pairs = {(int(roads.junction_id[tail]), int(roads.junction_id[head])) for tail, head in
             zip(roads.tail, roads.head, strict=True)}
    assert pairs == {(3, 8), (8, 3), (4, 5), (5, 4), (6, 7), (7, 6)}
    assert report["clipped_ways"] == 3


def test_only_one_way_dead_ends_make_a_network_without_turns(tmp_path):
    nodes = {node: (8 + node / 1000, 41 + node / 1000) for node in range(4)}
    ways = {way: ((0, way), {"highway": "primary", "oneway": "yes"}) for way in (1, 2, 3)}
    roads, report = build_osm(write_map(tmp_path / "map.osm", nodes, ways), out=tmp_path / "map.stg")
    assert (report["segments"], report["turns"], report["junctions"]) == (3, 0, 4)
    assert set(roads.junction_id[roads.tail].tolist()) == {0}


def test_no_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "no.osm.pbf", tmp_path):
        with pytest.raises(InputError, match="path"):
            build_osm(path)
