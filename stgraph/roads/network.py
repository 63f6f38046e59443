"""A road network as arrays: junctions, directed segments with their lines, turns; and the way to and from a bundle.

Both readings stand in one heterogeneous graph: junctions as nodes (``junction -segment-> junction``) and segments as
nodes (``segment -turn-> segment``), joined by ``junction -begins-> segment`` and ``segment -ends-> junction``. Row
``e`` of the relation ``segment`` is node ``e`` of the type ``segment``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.graph import Geometry, GraphTables, load_tables
from stgraph.graph.plain import SOURCE, TARGET, column, numbers
from stgraph.graph.schema import EdgeType
from stgraph.roads.projection import LocalProjection, great_circle

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

ROAD = ("junction", "segment", "junction")
TURN = ("segment", "turn", "segment")
BEGINS = ("junction", "begins", "segment")
ENDS = ("segment", "ends", "junction")
ON = ("traffic_signal", "on", "segment")
IN = ("segment", "in", "restriction")

UNITS: dict[str, tuple[str | None, str]] = {
    "length": ("m", "length along the line"), "road_class": (None, "class of the road, as in the source"),
    "lanes": ("1", "lanes in this direction"), "lanes_imputed": (None, "whether the lanes were filled in"),
    "speed": ("m/s", "speed limit, or free speed where the source has that"),
    "speed_imputed": (None, "whether the speed was filled in"), "oneway": (None, "driven in this direction only"),
    "bridge": (None, "on a bridge"), "tunnel": (None, "in a tunnel"), "name": (None, "name of the road"),
    "osm_way": (None, "OpenStreetMap way of the longest part"), "offset": ("m", "way from the start of the segment"),
    "angle": ("degree", "change of heading, left positive"), "order": (None, "place in the sequence"),
}
"""Unit and meaning of the attributes of roads."""

Column = Any  # numpy array [S] or [J], or an Arrow array


@dataclass(frozen=True)
class Roads:
    """A directed road network: ``J`` junctions, ``S`` segments, ``P`` points of lines, ``K`` turns.

    A two-way street is two segments. Coordinates are longitude and latitude in degrees, or plain metres where
    ``metric``.

    Args:
        junction_id: As in the source map, ``[J]`` int64 or str.
        junction_xy: ``[J, 2]`` float64.
        tail: Junction where each segment starts, ``[S]`` int64 positions.
        head: Junction where each segment ends, ``[S]``.
        length: m, ``[S]`` float64.
        line_ptr: ``[S + 1]`` int64; the line of segment ``s`` is ``line_xy[line_ptr[s]:line_ptr[s + 1]]``, two points
            or more, in driving direction.
        line_xy: ``[P, 2]`` float64.
        metric: Whether coordinates are plain metres without a reference system.
        attributes: More columns of the segments, ``[S]`` numpy or Arrow.
        junction_attributes: More columns of the junctions, ``[J]``.
        turn_index: Permitted moves from a segment to the next, ``[2, K]`` int64; empty where turns are not known.
        turn_angle: Change of heading, degrees, left positive, ``[K]`` float32.
        forbidden_ptr: ``[F + 1]``; sequence ``f`` is ``forbidden[forbidden_ptr[f]:forbidden_ptr[f + 1]]``.
        forbidden: Segments of the sequences of three or more that may not be driven in a row.
        signal_id: Traffic signals: ids ``[L]``.
        signal_xy: Their places ``[L, 2]``.
        signal_segment: The segment each stands on, ``[L]``.
        signal_offset: m after its start, ``[L]``.
        metadata: Where the network comes from, plain values for JSON.
        segment_id: Ids ``[S]`` str; by default "from-to-key", key counting parallel segments.
        alive: Which segments stand, ``[S]`` bool; None for all. The others keep their rows, so that a row means the
            same segment at every time, and nothing is put on them or led over them.
        period: First second, and first after, of the time in which the network is this one; None where it never
            changes.
    """

    junction_id: np.ndarray
    junction_xy: np.ndarray
    tail: np.ndarray
    head: np.ndarray
    length: np.ndarray
    line_ptr: np.ndarray
    line_xy: np.ndarray
    metric: bool = False
    attributes: dict[str, Column] = field(default_factory=dict)
    junction_attributes: dict[str, Column] = field(default_factory=dict)
    turn_index: np.ndarray = field(default_factory=partial(np.zeros, (2, 0), np.int64))
    turn_angle: np.ndarray = field(default_factory=partial(np.zeros, (0,), np.float32))
    forbidden_ptr: np.ndarray = field(default_factory=partial(np.zeros, (1,), np.int64))
    forbidden: np.ndarray = field(default_factory=partial(np.zeros, (0,), np.int64))
    signal_id: np.ndarray = field(default_factory=partial(np.zeros, (0,), np.int64))
    signal_xy: np.ndarray = field(default_factory=partial(np.zeros, (0, 2), np.float64))
    signal_segment: np.ndarray = field(default_factory=partial(np.zeros, (0,), np.int64))
    signal_offset: np.ndarray = field(default_factory=partial(np.zeros, (0,), np.float64))
    metadata: dict[str, Any] = field(default_factory=dict)
    segment_id: Any = None
    alive: np.ndarray | None = None
    period: tuple[int, int] | None = None

    # ---------------------------------------------------------------- places
    @cached_property
    def projection(self) -> LocalProjection | None:
        """The plane for metric work; None where coordinates are metres already."""
        return None if self.metric else LocalProjection.around(self.junction_xy)

    def to_metres(self, xy: np.ndarray) -> np.ndarray:
        """Local metres ``[n, 2]`` of places in the coordinates of the network."""
        return np.asarray(xy, np.float64) if self.projection is None else self.projection.metres(xy)

    def from_metres(self, xy: np.ndarray) -> np.ndarray:
        """The reverse of :meth:`to_metres`."""
        return np.asarray(xy, np.float64) if self.projection is None else self.projection.lonlat(xy)

    @cached_property
    def junction_metres(self) -> np.ndarray:
        """Junctions in local metres, ``[J, 2]``."""
        return self.to_metres(self.junction_xy)

    @cached_property
    def line_metres(self) -> np.ndarray:
        """Points of the lines in local metres, ``[P, 2]``."""
        return self.to_metres(self.line_xy)

    @cached_property
    def along(self) -> np.ndarray:
        """Way from the start of its line to each point, scaled to the length of the segment, ``[P]`` m."""
        step = np.zeros(len(self.line_xy))
        step[1:] = np.linalg.norm(np.diff(self.line_xy, axis=0), axis=1) if self.metric else \
            great_circle(self.line_xy[:-1], self.line_xy[1:])
        step[self.line_ptr[:-1]] = 0.0
        along = np.cumsum(step)
        along -= np.repeat(along[self.line_ptr[:-1]], np.diff(self.line_ptr))
        total = along[self.line_ptr[1:] - 1]
        scale = np.where(total > 0, self.length / np.where(total > 0, total, 1.0), 0.0)
        return along * np.repeat(scale, np.diff(self.line_ptr))

    @cached_property
    def _stride(self) -> float:
        return float(self.length.max(initial=0.0)) + 1.0

    @cached_property
    def _keys(self) -> np.ndarray:
        """Ascending over all points, so that one search finds the leg of any offset on any segment."""
        return self.along + np.repeat(np.arange(len(self.tail)) * self._stride, np.diff(self.line_ptr))

    def _leg(self, segment: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First point of the leg that holds each offset, and the share of the leg before it."""
        segment = np.asarray(segment, np.int64)
        offset = np.clip(offset, 0.0, self.length[segment])
        found = np.searchsorted(self._keys, segment * self._stride + offset, side="right") - 1
        found = np.clip(found, self.line_ptr[segment], self.line_ptr[segment + 1] - 2)
        size = self.along[found + 1] - self.along[found]
        return found, np.clip((offset - self.along[found]) / np.where(size > 0, size, 1.0), 0.0, 1.0)

    def _step(self, leg: np.ndarray) -> np.ndarray:
        """From the first to the second point of legs, in the network's coordinates, the short way round the globe."""
        step = self.line_xy[leg + 1] - self.line_xy[leg]
        if not self.metric:
            step[:, 0] = (step[:, 0] + 180.0) % 360.0 - 180.0
        return step

    def locate(self, segment: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Places ``[n, 2]`` in the network's coordinates, ``offset`` metres after the start of segments ``[n]``."""
        leg, share = self._leg(segment, offset)
        place = self.line_xy[leg] + share[:, None] * self._step(leg)
        if not self.metric:
            place[:, 0] = np.where(np.abs(place[:, 0]) > 180.0, (place[:, 0] + 180.0) % 360.0 - 180.0, place[:, 0])
        return place

    def heading(self, segment: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Driving direction at places on segments, degrees clockwise from north, ``[n]``."""
        leg, _ = self._leg(segment, offset)
        east, north = self._step(leg).T
        if not self.metric:
            east = east * np.cos(np.radians(self.line_xy[leg, 1]))
        return np.degrees(np.arctan2(east, north)) % 360.0

    @cached_property
    def reverse(self) -> np.ndarray:
        """The segment along the same line in the other direction, ``[S]``; -1 where there is none that stands."""
        if self.alive is None:
            return reverse_segments(self.tail, self.head, self.line_ptr, self.line_xy)
        rows = np.flatnonzero(self.alive)
        size = np.diff(self.line_ptr)[rows]
        ptr = np.concatenate([[0], np.cumsum(size)])
        points = np.arange(ptr[-1]) + np.repeat(self.line_ptr[rows] - ptr[:-1], size)
        found = reverse_segments(self.tail[rows], self.head[rows], ptr, self.line_xy[points])
        reverse = np.full(len(self.tail), -1, np.int64)
        reverse[rows] = np.where(found >= 0, rows[found], -1) if len(rows) else found
        return reverse

    # ---------------------------------------------------------------- bundle
    @classmethod
    def of(cls, source: Path | str | DynamicHeteroGraph | GraphTables, at: Any = None) -> Roads:
        """The roads of a bundle or graph as they stand at a time.

        Args:
            source: A bundle or graph that holds roads. A snapshot is taken as it is.
            at: Seconds since 1970-01-01 UTC, an ISO text, or a pandas Timestamp; without an offset, on the graph's
                clock. None for after the last change. For several times see
                :class:`stgraph.roads.history.RoadHistory`.

        Raises:
            InputError: where there are no roads in it, or the time cannot be read.
        """
        from stgraph.roads.history import RoadHistory

        return RoadHistory(source).at(at)

    def tables(self) -> GraphTables:
        """The network as the tables of a bundle: all segments, with the moves that are permitted in ``period``."""
        return _to_tables(self)


def reverse_segments(tail: np.ndarray, head: np.ndarray, line_ptr: np.ndarray, line_xy: np.ndarray) -> np.ndarray:
    """For each segment the one along the same line in the other direction, ``[S]`` int64; -1 where there is none.

    Lines are compared by a polynomial hash of their points, taken from the front and from the back.
    """
    count = len(tail)
    reverse = np.full(count, -1, np.int64)
    if not count:
        return reverse
    size = np.diff(line_ptr)
    powers = np.cumprod(np.full(int(size.max()), 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)
    bits = (np.ascontiguousarray(line_xy, np.float64) + 0.0).view(np.uint64)  # + 0.0: one zero instead of two
    point = _mix(bits[:, 0] + np.uint64(1)) ^ _mix(bits[:, 1] + np.uint64(0x9E3779B97F4A7C15))
    place = np.arange(len(line_xy)) - np.repeat(line_ptr[:-1], size)
    front = np.add.reduceat(point * powers[place], line_ptr[:-1])
    back = np.add.reduceat(point * powers[np.repeat(size, size) - 1 - place], line_ptr[:-1])
    one, other = _mix(tail.astype(np.uint64)), _mix(head.astype(np.uint64))
    there, back_again = front ^ _mix(one * np.uint64(3) + other), back ^ _mix(other * np.uint64(3) + one)
    # of streets that lie on each other the first goes with the first, the second with the second
    order = np.argsort(there, kind="stable")
    keys = there[order]
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count) - np.searchsorted(keys, keys)
    place = np.searchsorted(keys, back_again) + rank
    found = order[np.minimum(place, count - 1)]
    same = (place < count) & (there[found] == back_again) & (found != np.arange(count))
    reverse[same] = found[same]
    return reverse


def _mix(bits: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the input moves every bit of the output.
    """
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def segment_ids(junction_id: np.ndarray, tail: np.ndarray, head: np.ndarray) -> pa.Array:
    """Ids "from-to-key" of segments, ``[S]``; key counts the parallel ones in their order."""
    # a plain "-" would be looked at by pandas, which takes a quarter of a second to import
    key = parallel_key(tail, head, len(junction_id))
    words = column(np.asarray(junction_id)).cast(pa.string())
    return pc.binary_join_element_wise(words.take(column(tail)), words.take(column(head)),
                                       column(key).cast(pa.string()), column(["-"])[0])


def parallel_key(tail: np.ndarray, head: np.ndarray, junctions: int) -> np.ndarray:
    """Number of each segment among those with the same ends, ``[S]``, from 0 in their order."""
    ends = tail.astype(np.int64) * junctions + head
    order = np.argsort(ends, kind="stable")
    sorted_ends = ends[order]
    new = np.ones(len(ends), bool)
    new[1:] = sorted_ends[1:] != sorted_ends[:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(ends)), 0))
    key = np.empty(len(ends), np.int64)
    key[order] = np.arange(len(ends)) - first
    return key


def _middles(roads: Roads, block: int = 16_384) -> np.ndarray:
    """Place halfway along each segment, ``[S, 2]``; in blocks, so that it costs no memory to speak of."""
    out = np.zeros((len(roads.tail), 2))
    for first in range(0, len(out), block):
        last = min(first + block, len(out))
        ptr = roads.line_ptr[first:last + 1]
        part = Roads(roads.junction_id[:0], roads.junction_xy[:0], roads.tail[first:last], roads.head[first:last],
                     roads.length[first:last], ptr - ptr[0], roads.line_xy[ptr[0]:ptr[-1]], roads.metric)
        out[first:last] = part.locate(np.arange(last - first), part.length / 2)
    return out


def _to_tables(roads: Roads) -> GraphTables:
    place = "pos" if roads.metric else "lonlat"
    rows = np.arange(len(roads.tail))
    segment_id = roads.segment_id if roads.segment_id is not None \
        else segment_ids(roads.junction_id, roads.tail, roads.head)
    middle = _middles(roads)
    tables = GraphTables(metadata=dict(roads.metadata))
    tables.nodes["junction"] = pa.table({"node_id": _texts(roads.junction_id), place: column(roads.junction_xy),
                                         **{name: _column(one) for name, one in roads.junction_attributes.items()}})
    tables.nodes["segment"] = pa.table({
        "node_id": _texts(segment_id), place: column(middle), "length": column(roads.length),
        **{name: _column(one) for name, one in roads.attributes.items()},
        "geometry": Geometry.from_lines(roads.line_ptr, roads.line_xy).wkb})
    tables.edges[ROAD] = _edges(roads.tail, roads.head, distance=roads.length)
    tables.edges[BEGINS] = _edges(roads.tail, rows)
    tables.edges[ENDS] = _edges(rows, roads.head)
    tables.edges[TURN] = _edges(*roads.turn_index, angle=roads.turn_angle)
    if len(roads.signal_id):
        tables.nodes["traffic_signal"] = pa.table({"node_id": _texts(roads.signal_id), place: column(roads.signal_xy)})
        tables.edges[ON] = _edges(np.arange(len(roads.signal_id)), roads.signal_segment, offset=roads.signal_offset)
    if len(roads.forbidden_ptr) > 1:
        size = np.diff(roads.forbidden_ptr)
        tables.nodes["restriction"] = pa.table({"node_id": _texts(np.arange(len(size)))})
        tables.edges[IN] = _edges(roads.forbidden, np.repeat(np.arange(len(size)), size),
                                  order=np.arange(len(roads.forbidden)) - np.repeat(roads.forbidden_ptr[:-1], size))
    for kind, table in tables.items():
        for name in table.column_names:
            if name in UNITS:
                tables.declare(kind, name, *UNITS[name])
    tables.declare("segment", "geometry", "m" if roads.metric else "degree", "line in driving direction")
    return tables


def road_tables(source: Path | str | DynamicHeteroGraph | GraphTables) -> GraphTables:
    """The tables of a bundle or graph that holds roads.

    Raises:
        InputError: where there are no roads in it.
    """
    if isinstance(source, (str, Path)):
        tables = load_tables(source, nodes=("junction", "segment", "traffic_signal", "restriction"),
                             edges=(ROAD, TURN, BEGINS, ENDS, ON, IN), in_memory=False)
    else:
        tables = source if isinstance(source, GraphTables) else GraphTables.of_graph(source)
    if "junction" not in tables.nodes or "segment" not in tables.nodes or ROAD not in tables.edges:
        file = source if isinstance(source, (str, Path)) else None
        raise InputError("there are no roads in this graph", file=file, field="type", value=", ".join(tables.nodes),
                         remedy="give a bundle made by stgraph build osm or stgraph build roads")
    return tables


def roads_of_tables(tables: GraphTables) -> Roads:
    """All segments of the tables, whenever they live, without moves, signals and restrictions."""
    junctions, segments, road = tables.nodes["junction"], tables.nodes["segment"], tables.edges[ROAD]
    metric = "lonlat" not in junctions.column_names
    place = "pos" if metric else "lonlat"
    tail, head = np.array(numbers(road[SOURCE])), np.array(numbers(road[TARGET]))
    if BEGINS in tables.edges and ENDS in tables.edges:  # right in any order of the nodes
        begins, ends = tables.edges[BEGINS], tables.edges[ENDS]
        tail[numbers(begins[TARGET])] = numbers(begins[SOURCE])
        head[numbers(ends[SOURCE])] = numbers(ends[TARGET])
    if "geometry" in segments.column_names:
        line_ptr, line_xy = Geometry(segments["geometry"]).coordinates()
    else:
        line_ptr = 2 * np.arange(len(tail) + 1, dtype=np.int64)
        line_xy = numbers(junctions[place])[np.column_stack([tail, head]).reshape(-1)]
    used = {"node_id", place, "length", "geometry", "n_id", "e_id"}
    return Roads(
        junction_id=_ids(junctions), junction_xy=np.array(numbers(junctions[place])), tail=tail,
        head=head, length=np.array(numbers(segments["length"])), line_ptr=line_ptr, line_xy=line_xy,
        metric=metric, attributes={name: segments[name] for name in segments.column_names if name not in used},
        junction_attributes={name: junctions[name] for name in junctions.column_names if name not in used},
        metadata=tables.metadata, segment_id=segments["node_id"])


def relations_of_tables(tables: GraphTables, kept: dict[EdgeType, np.ndarray]) -> dict[str, Any]:
    """Moves, signals and restrictions: fields of :class:`Roads`.

    Args:
        tables: The tables of the roads.
        kept: Which rows of a relation stand, bool; relations that are left out stand as a whole.
    """
    more: dict[str, Any] = {}
    edges = {kind: tables.edges[kind].filter(pa.array(kept[kind])) if kind in kept else tables.edges[kind]
             for kind in (TURN, ON, IN) if kind in tables.edges}
    if TURN in edges:
        turns = edges[TURN]
        more["turn_index"] = np.stack([numbers(turns[SOURCE]), numbers(turns[TARGET])])
        more["turn_angle"] = numbers(turns["angle"]) if "angle" in turns.column_names else \
            np.zeros(len(turns), np.float32)
    if ON in edges:
        lights, on = tables.nodes["traffic_signal"], edges[ON]
        light, row = np.unique(numbers(on[SOURCE]), return_index=True)
        place = "lonlat" if "lonlat" in lights.column_names else "pos"
        more |= {"signal_id": _ids(lights)[light], "signal_xy": numbers(lights[place])[light],
                 "signal_segment": numbers(on[TARGET])[row], "signal_offset": numbers(on["offset"])[row]}
    if IN in edges:
        member = edges[IN]
        order = np.lexsort((numbers(member["order"]), numbers(member[TARGET])))
        size = np.bincount(numbers(member[TARGET]), minlength=len(tables.nodes["restriction"]))
        if IN in kept:
            size = size[size > 0]
        more |= {"forbidden": numbers(member[SOURCE])[order],
                 "forbidden_ptr": np.concatenate([[0], np.cumsum(size)]).astype(np.int64)}
    return more


def _edges(source: np.ndarray, target: np.ndarray, **attributes: np.ndarray) -> pa.Table:
    return pa.table({SOURCE: column(np.asarray(source, np.int64)), TARGET: column(np.asarray(target, np.int64)),
                     **{name: column(values) for name, values in attributes.items()}})


def _texts(ids: Any) -> pa.Array:
    if isinstance(ids, (pa.Array, pa.ChunkedArray)):
        return ids
    return column(np.asarray(ids)).cast(pa.string())


def _ids(table: pa.Table) -> np.ndarray:
    """Ids as whole numbers where all of them are (as in OpenStreetMap), otherwise as texts."""
    words = table["node_id"]
    if len(words) and pc.all(pc.match_substring_regex(words, r"^(0|-?[1-9][0-9]{0,17})$")).as_py():
        return np.array(words.cast(pa.int64()).to_numpy())
    return np.array(words.to_pylist(), dtype=str)


def _column(values: Any) -> Any:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    return column(np.asarray(values))
