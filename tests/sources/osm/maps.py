"""Made OpenStreetMap files: as XML from nodes, ways and relations, and as blobs of PBF, honest and lying."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

Nodes = Mapping[int, tuple]  # id -> (longitude, latitude) or (longitude, latitude, tags)
Ways = Mapping[int, tuple[Iterable[int], Mapping[str, str]]]
Relations = Mapping[int, tuple[Iterable[tuple[str, int, str]], Mapping[str, str]]]


def tags_xml(tags: Mapping[str, str]) -> str:
    return "".join(f"<tag k={quoteattr(key)} v={quoteattr(value)}/>" for key, value in tags.items())


def map_xml(nodes: Nodes, ways: Ways, relations: Relations | None = None, before: str = "") -> str:
    """A map; ``before`` stands before the root, such as a document type."""
    parts = [f'<?xml version="1.0" encoding="UTF-8"?>{before}<osm version="0.6">']
    for node, (longitude, latitude, *tags) in nodes.items():
        parts.append(f'<node id="{node}" lon="{longitude}" lat="{latitude}">{tags_xml(tags[0] if tags else {})}</node>')
    for way, (refs, tags) in ways.items():
        parts.append(f'<way id="{way}">' + "".join(f'<nd ref="{ref}"/>' for ref in refs) + tags_xml(tags) + "</way>")
    for relation, (members, tags) in (relations or {}).items():
        parts.append(f'<relation id="{relation}">' + "".join(
            f'<member type="{kind}" ref="{ref}" role="{role}"/>' for kind, ref, role in members) + tags_xml(tags)
            + "</relation>")
    return "\n".join([*parts, "</osm>"])


def write_map(path: Path, nodes: Nodes, ways: Ways, relations: Relations | None = None) -> Path:
    path.write_text(map_xml(nodes, ways, relations), encoding="utf-8")
    return path


def convert(source: Path, target: Path) -> Path:
    """The same map in another form, by osmium."""
    import osmium

    with osmium.SimpleWriter(str(target), overwrite=True) as writer:
        for entity in osmium.FileProcessor(str(source)):
            writer.add(entity)
    return target


# ---------------------------------------------------------------- PBF by hand
def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(raw: bytes, kind: bytes = b"OSMData", says: int | None = None) -> bytes:
    """A blob with its header; ``says`` is the unpacked size that it declares, if that is a lie."""
    body = field(2, len(raw) if says is None else says) + field(3, zlib.compress(raw, 9))
    header = field(1, kind) + field(3, len(body))
    return struct.pack(">I", len(header)) + header + body


HEADER = blob(field(4, b"OsmSchema-V0.6") + field(4, b"DenseNodes"), b"OSMHeader")


# ---------------------------------------------------------------- osmnx as an oracle
def osmnx_keeps(network: str, tags: Mapping[str, str]) -> bool:
    """Whether the filter that osmnx sends to Overpass lets a way through, read here once more."""
    from osmnx._overpass import _get_network_filter

    conditions = re.findall(r'\["([^"]+)"(?:(!~|~)"([^"]*)")?\]', _get_network_filter(network))
    for key, how, pattern in conditions:
        if how == "" and key not in tags:
            return False
        if how == "!~" and key in tags and re.search(pattern, tags[key]):
            return False
        if how == "~" and not (key in tags and re.search(pattern, tags[key])):
            return False
    return True


def extract_for_osmnx(source: Path, target: Path, network: str) -> Path:
    """XML with the ways that osmnx would have fetched and their nodes, because it does not filter files."""
    import osmium

    ways, nodes = set(), set()
    for way in osmium.FileProcessor(str(source), osmium.osm.WAY).with_filter(osmium.filter.KeyFilter("highway")):
        if osmnx_keeps(network, dict(way.tags)):
            ways.add(way.id)
            nodes.update(ref.ref for ref in way.nodes)
    with osmium.SimpleWriter(str(target), overwrite=True) as writer:
        for entity in osmium.FileProcessor(str(source), osmium.osm.NODE | osmium.osm.WAY):
            if entity.id in (nodes if entity.is_node() else ways):
                writer.add(entity)
    return target
