"""Read OpenStreetMap files: ways, their nodes and tags, traffic signals and turn restrictions, as columns.

osmium parses every form of file and writes what is needed (all nodes, ways with a ``highway`` tag) as one plain PBF
file into a temporary folder; :mod:`stgraph.sources.osm.blocks` reads that block by block with numpy. So memory grows
with the roads that are kept, not with the file, and no file that a stranger made is parsed but by osmium.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from stgraph.errors import InputError
from stgraph.sources.osm.blocks import NODES, WAYS, NodeBlock, WayBlock, blocks
from stgraph.sources.osm.filters import WayFilter
from stgraph.sources.osm.guard import check_size, form_of
from stgraph.sources.osm.memory import give_back
from stgraph.sources.osm.tags import Tags

MOST_OBJECTS = 400_000_000
"""Nodes and roads that are read without asking."""
_BUFFER = 1 << 19  # bytes; osmium holds several
DEGREE = 10_000_000  # OpenStreetMap counts in ten-millionths of a degree


@dataclass(frozen=True)
class Restriction:
    """A turn restriction as it stands in the map: ids of OSM objects, none of which need be in the network.

    Attributes:
        id: Id of the relation.
        kind: ``"no"``: this move may not be driven; ``"only"``: from here no other move may be.
        from_way: Way that one comes from.
        via_nodes: Nodes between the ways (one, in nearly all relations), in the order of the members.
        via_ways: Ways between the ways, in the order of the members; by the rules of the map empty where ``via_nodes``
            is not.
        to_way: Way that one goes to.
    """

    id: int
    kind: Literal["no", "only"]
    from_way: int
    via_nodes: tuple[int, ...]
    via_ways: tuple[int, ...]
    to_way: int


@dataclass
class OsmData:
    """What a file says about the ways that a filter keeps: ``W`` ways, ``N`` nodes on them.

    Attributes:
        way_id: ``[W]`` int64, in the order of the file.
        way_ptr: ``[W + 1]``; the nodes of way ``w`` are ``node[way_ptr[w]:way_ptr[w + 1]]``.
        node: Places in ``node_id``, int32; -1 where the node is not in the file.
        tags: Of the ways.
        node_id: ``[N]`` int64, ascending.
        node_xy: ``[N, 2]`` int32, 1e-7 degrees, longitude first.
        signal: Places in ``node_id`` of the traffic signals, ascending, ``[L]``.
        signal_direction: ``[L]`` int8: 1 for signals in the direction of the way, -1 against it, 0 not said.
        restrictions: Turn restrictions, all of the file.
        left_out: How many restrictions were not used, by reason.
        highways: Ways with a ``highway`` tag in the file, kept or not.
        nodes: Nodes in the file, needed or not.
        unpacked: Size of the file in bytes when unpacked.
    """

    way_id: np.ndarray
    way_ptr: np.ndarray
    node: np.ndarray
    tags: Tags
    node_id: np.ndarray
    node_xy: np.ndarray
    signal: np.ndarray
    signal_direction: np.ndarray
    restrictions: list[Restriction]
    left_out: dict[str, int]
    highways: int
    nodes: int
    unpacked: int


def read_osm(path: Path | str, keep: WayFilter, keys: frozenset[str] = frozenset(), *, vehicle: str = "motorcar",
             max_bytes: int | None = None, max_objects: int = MOST_OBJECTS) -> OsmData:
    """Read the ways that a filter keeps, with the places of their nodes.

    Args:
        path: ``.osm.pbf``, ``.osm``, ``.osm.gz`` or ``.osm.bz2``; what counts is the content, not the name.
        keep: Which ways to keep; ways without a ``highway`` tag are never kept.
        keys: Tags that are read beside those that the filter looks at.
        vehicle: Whose turn restrictions to read: ``motorcar`` or ``bicycle``.
        max_bytes: See :func:`stgraph.sources.osm.guard.check_size`.
        max_objects: The most nodes and roads.

    Raises:
        InputError: for a file that is damaged, too large, a history, or holds no such way; for ids that stand in it
            twice; for coordinates out of range.
    """
    path = Path(path)
    form = form_of(path)
    unpacked = check_size(path, form, max_bytes)
    rules = _Restrictions(vehicle)
    with tempfile.TemporaryDirectory(prefix="stgraph-") as folder:
        plain = Path(folder) / "plain.osm.pbf"
        _normalise(path, form, plain, rules)
        give_back()
        with plain.open("rb") as stream:
            budget = _Budget(path, max_objects)
            ways = _read_ways(stream, keep, sorted(keep.keys | keys), budget, path)
            places = _read_nodes(stream, distinct(ways.ref), budget, path)
    order = places.found
    node = np.full(len(order), -1, np.int32)
    node[order] = np.arange(int(order.sum()), dtype=np.int32)
    return OsmData(ways.id, ways.ptr, node[np.searchsorted(places.id, ways.ref)], ways.tags, places.id[order],
                   places.xy[order], node[places.signal], places.signal_direction, rules.found, dict(rules.left_out),
                   ways.seen, places.seen, unpacked)


def distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values in ascending order; on ids of OpenStreetMap several times faster than ``np.unique``."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _normalise(path: Path, form: str, plain: Path, rules: _Restrictions) -> None:
    """Let osmium check and parse the file, and write nodes and roads without compression."""
    import osmium

    try:
        with osmium.io.Reader(osmium.io.File(str(path.resolve()), form)) as reader:
            if reader.header().has_multiple_object_versions:
                raise InputError("this is a history: objects stand in it several times", file=path,
                                 remedy="cut one day out of it with 'osmium time-filter'")
            roads, turns = osmium.filter.KeyFilter("highway"), osmium.filter.TagFilter(("type", "restriction"))
            roads.enable_for(osmium.osm.WAY)
            turns.enable_for(osmium.osm.RELATION)
            plain_form = osmium.io.File(str(plain), "pbf,pbf_compression=none,add_metadata=false")
            with osmium.SimpleWriter(plain_form, bufsz=_BUFFER) as writer:
                osmium.apply(reader, roads, turns, rules, writer)
    except (RuntimeError, ValueError, osmium.InvalidLocationError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not readable as OpenStreetMap data: {error}", file=path,
                         remedy="download the file again; where it is whole, make room for temporary files") from error


class _Budget:
    """Counts objects and stops at the allowed number."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.left, self.most = path, most, most

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise InputError(f"the file holds more than {self.most:,} nodes and roads", file=self.path,
                             field="max_objects", remedy="if you trust it, allow more with --max-objects")


# ---------------------------------------------------------------- ways
@dataclass
class _Ways:
    id: np.ndarray
    ptr: np.ndarray
    ref: np.ndarray
    tags: Tags
    seen: int


def _read_ways(stream: BinaryIO, keep: WayFilter, keys: list[str], budget: _Budget, path: Path) -> _Ways:
    words: dict[bytes, int] = {}
    ids, refs, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    columns: dict[str, list[np.ndarray]] = {key: [np.zeros(0, np.int32)] for key in keys}
    texts: list[str] = []
    seen = 0
    for block in blocks(stream, WAYS):
        assert isinstance(block, WayBlock)
        seen += len(block.id)
        budget.spend(len(block.id))
        found = _columns(block, keys, words)
        texts += [word.decode("utf-8", "replace") for word in list(words)[len(texts):]]
        kept = keep.keep(Tags(len(block.id), texts, found))
        size = np.diff(block.ref_ptr)
        ids.append(block.id[kept])
        refs.append(block.ref[np.repeat(kept, size)])
        sizes.append(size[kept])
        for key, column in found.items():
            columns[key].append(column[kept])
    way_id = np.concatenate(ids)
    if not seen:
        raise InputError("there is no road in this file: no way has a highway tag", file=path,
                         remedy="take an extract of OpenStreetMap with roads; if this is one, download it again")
    if not len(way_id):
        raise InputError(f"the filter keeps none of the {seen:,} roads in this file", file=path, field="filter",
                         value=keep.text, remedy="choose another --network or --filter")
    _refuse_twice(np.sort(way_id), "way", path)
    tags = Tags(len(way_id), texts, {key: np.concatenate(parts) for key, parts in columns.items()})
    return _Ways(way_id, np.concatenate([[0], np.cumsum(np.concatenate(sizes))]), np.concatenate(refs), tags, seen)


def _columns(block: WayBlock, keys: list[str], words: dict[bytes, int]) -> dict[str, np.ndarray]:
    """The tags of a block as columns of codes; new values are added to ``words``."""
    place = {word: index for index, word in enumerate(block.strings)}
    way = np.repeat(np.arange(len(block.id)), np.diff(block.tag_ptr))
    columns = {}
    for key in keys:
        column = columns[key] = np.full(len(block.id), -1, np.int32)
        rows = np.flatnonzero(block.key == place.get(key.encode(), -1))
        if len(rows):
            value = block.value[rows]
            code = np.zeros(len(block.strings), np.int32)
            for local in np.flatnonzero(np.bincount(value)).tolist():
                code[local] = words.setdefault(block.strings[local], len(words))
            column[way[rows]] = code[value]
    return columns


def _refuse_twice(ordered: np.ndarray, what: str, path: Path) -> None:
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        raise InputError(f"the id of a {what} stands in the file twice, {int(twice.sum())} in all", file=path,
                         field=f"{what} id", value=int(ordered[1:][twice][0]),
                         remedy="files that were joined want 'osmium merge'; otherwise download it again")


# ---------------------------------------------------------------- nodes
@dataclass
class _Places:
    id: np.ndarray
    xy: np.ndarray
    found: np.ndarray
    signal: np.ndarray
    signal_direction: np.ndarray
    seen: int


def _read_nodes(stream: BinaryIO, needed: np.ndarray, budget: _Budget, path: Path) -> _Places:
    """Places of the nodes that are needed, whose ids ascend."""
    xy = np.zeros((len(needed), 2), np.int32)
    last = np.full(len(needed), -1, np.int64)  # where in the file each was met
    signals, directions = [np.zeros(0, np.int64)], [np.zeros(0, np.int8)]
    seen = 0
    for block in blocks(stream, NODES):
        assert isinstance(block, NodeBlock)
        budget.spend(len(block.id))
        at = np.minimum(np.searchsorted(needed, block.id), len(needed) - 1)
        rows = np.flatnonzero(needed[at] == block.id)
        at, number = at[rows], seen + rows
        seen += len(block.id)
        again = last[at] >= 0
        last[at] = number
        again |= last[at] != number
        if again.any():
            _refuse_twice(np.repeat(block.id[rows[again]], 2), "node", path)
        xy[at] = _in_range(block.xy[rows], block.id[rows], path)
        signal, direction = _signals(block)
        place = np.searchsorted(rows, signal)
        here = np.flatnonzero(place < len(rows))
        here = here[rows[place[here]] == signal[here]]
        signals.append(at[place[here]])
        directions.append(direction[here])
    found = last >= 0
    signal, direction = np.concatenate(signals), np.concatenate(directions)
    order = np.argsort(signal)
    return _Places(needed, xy, found, signal[order], direction[order], seen)


def _in_range(xy: np.ndarray, node_id: np.ndarray, path: Path) -> np.ndarray:
    wrong = (np.abs(xy) > (180 * DEGREE, 90 * DEGREE)).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError("coordinates are out of range", file=path, field=f"node {node_id[row]}",
                         value=(xy[row] / DEGREE).tolist(),
                         remedy="download the file again: degrees are due, longitude -180 to 180, latitude -90 to 90")
    return xy


def _signals(block: NodeBlock) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the nodes that are traffic signals, and the direction along the way that each is for."""
    place = {word: index for index, word in enumerate(block.strings)}
    if not len(block.tags) or b"traffic_signals" not in place:
        return np.zeros(0, np.int64), np.zeros(0, np.int8)
    ends = np.flatnonzero(block.tags == 0)
    size = np.diff(ends, prepend=-1)
    node = np.repeat(np.arange(len(ends)), size)
    pair = np.flatnonzero((np.arange(len(node)) - (ends - size + 1)[node]) % 2 == 0)
    pair = pair[block.tags[pair] != 0]  # the closing 0 of a node is no key
    key, value, node = block.tags[pair], block.tags[pair + 1], node[pair]
    signal = node[(key == place.get(b"highway", 0)) & (value == place[b"traffic_signals"])]
    direction = np.zeros(len(block.id), np.int8)
    said = key == place.get(b"traffic_signals:direction", 0)
    for word, sign in ((b"forward", 1), (b"backward", -1)):
        direction[node[said & (value == place.get(word, 0))]] = sign
    return signal, direction[signal]


# ---------------------------------------------------------------- turn restrictions
_KINDS_OF_VEHICLE = {"motorcar": ("motorcar", "motor_vehicle", "vehicle"), "bicycle": ("bicycle", "vehicle")}
_AT_TIMES = ("day_on", "day_off", "hour_on", "hour_off")


@dataclass
class _Restrictions:
    """Collects turn restrictions while osmium reads; it is called for those relations only.

    Restrictions that hold at times only (conditional), or not for the vehicle, are counted and left out.
    """

    vehicle: str
    found: list[Restriction] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def relation(self, relation: Any) -> None:
        """Take one relation."""
        reason = self._take(relation.id, dict(relation.tags), [(one.type, one.ref, one.role)
                                                               for one in relation.members])
        if reason:
            self.left_out[reason] += 1

    def _take(self, relation_id: int, tags: dict[str, str], members: list[tuple[str, int, str]]) -> str | None:
        """Why it is left out; None where it is taken."""
        kinds = _KINDS_OF_VEHICLE[self.vehicle]
        named = [tags[key] for key in (*(f"restriction:{kind}" for kind in kinds), "restriction") if key in tags]
        if not named:
            return "conditional" if any(key.endswith(":conditional") for key in tags) else "other_vehicles"
        if any(key in tags for key in _AT_TIMES) or "@" in named[0]:
            return "conditional"
        if set(kinds) & {word.strip() for word in tags.get("except", "").split(";")}:
            return "other_vehicles"
        word = named[0].split("_")[0]
        ways = {role: [ref for kind, ref, its in members if kind == "w" and its == role]
                for role in ("from", "via", "to")}
        nodes = tuple(ref for kind, ref, role in members if kind == "n" and role == "via")
        if word not in ("no", "only"):
            return "unknown_kind"
        if not ways["from"] or not ways["to"] or not (nodes or ways["via"]) or (word == "only" and len(ways["to"]) > 1):
            return "incomplete"
        via = tuple(ways["via"])
        self.found += [Restriction(relation_id, "no" if word == "no" else "only", start, nodes, via, end)
                       for start, end in _pairs(ways["from"], ways["to"])]
        return None


def _pairs(starts: list[int], ends: list[int]) -> Iterator[tuple[int, int]]:
    """Every way in with every way out: no_entry has several of the first, no_exit several of the second."""
    for start in starts:
        for end in ends:
            yield start, end
