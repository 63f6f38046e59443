"""What follows from new versions of segments: relations, signals of the city, lives of what hangs on them.

See :mod:`stgraph.roads.edit` for what is promised. Rows of few segments are looked at one by one; tables of all are
only sliced and joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import OPEN_END, OPEN_START, Geometry
from stgraph.graph.schema import EdgeType, label
from stgraph.graph.snapshot import lives
from stgraph.roads.network import BEGINS, ENDS, IN, ON, ROAD, TURN
from stgraph.roads.turns import leg_directions
from stgraph.roads.versions import (
    ALWAYS,
    Groups,
    Life,
    Track,
    assigned,
    codes_of,
    live,
    scalar,
    seen,
    taken,
    union,
    unknown,
    within,
    without,
)

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

DORMANT = "dormant_edges"
FOLLOWERS: dict[str, tuple[EdgeType, int]] = {"traffic_signal": (ON, 1), "restriction": (IN, 0)}
"""Nodes that live while all segments of theirs do: the relation that joins them, and which end of it is the segment."""

End: TypeAlias = tuple[bool, int]  # (whether it is a node with versions being edited, its number or row)


@dataclass
class _Edge:
    """One edge between nodes, whatever their versions: its ends, the present row that its attributes come from (-1:
    those given), attributes given, and its own life."""

    ends: tuple[End, End]
    row: int
    values: dict[str, Any]
    life: Life = ALWAYS


class Editor:
    """One edit of a graph that holds roads.

    Args:
        graph: The graph; it is not changed.

    Raises:
        InputError: where it holds no roads, or its segments were reordered.
    """

    def __init__(self, graph: DynamicHeteroGraph) -> None:
        if "segment" not in graph.node_types or ROAD not in graph.edge_types or \
                graph[ROAD].edge_index.shape[1] != graph.size_of("segment"):
            raise InputError("there are no roads in this graph", field="type", value=", ".join(graph.node_types),
                             remedy="give a bundle made by stgraph build osm or stgraph build roads")
        if "user_index" in graph["segment"]:
            raise InputError("the segments stand in another order", field="segment.user_index",
                             remedy="call undo_reorder() first")
        self.graph = graph
        self.segments = Track(graph, "segment")
        self.tracks: dict[str, Track] = {"segment": self.segments}
        self.tail, self.head = (side.numpy() for side in graph[ROAD].edge_index)
        self.more: dict[EdgeType, list[_Edge]] = {}  # edges that an edit brings in
        self.replaced: set[tuple[int, int]] = set()  # moves between these segments are among them
        self.lines: dict[int, np.ndarray] = {}  # of new segments
        self.ends: dict[int, tuple[int, int]] = {}  # junctions of new segments
        self.dormant: list[dict[str, Any]] = graph.table(DORMANT).to_pylist() if DORMANT in graph.tables else []

    @cached_property
    def _tails(self) -> Groups:
        return Groups(self.tail)

    @cached_property
    def _heads(self) -> Groups:
        return Groups(self.head)

    @cached_property
    def _coordinates(self) -> tuple[np.ndarray, np.ndarray] | None:
        store = self.graph["segment"]
        return store.geometry.coordinates() if "geometry" in store else None

    @cached_property
    def _leavings(self) -> Groups:
        return Groups(self.segments.number[self.graph[TURN].edge_index[0].numpy()])

    # ---------------------------------------------------------------- what is edited
    def find(self, ids: str | int | Sequence[str | int]) -> list[int]:
        """Numbers of segments by their ids or those of their versions, in the order given, each once."""
        wanted = [str(one) for one in ([ids] if isinstance(ids, (str, int, np.integer)) else ids)]
        if not wanted:
            raise InputError("no segment is named", field="segment", remedy="give one id or more")
        rows = np.flatnonzero(np.isin(self.segments.ids, wanted))
        known = self.segments.named | {str(self.segments.ids[row]): int(self.segments.number[row]) for row in rows}
        for name in wanted:
            if name not in known:
                raise InputError("no such segment", field="segment", value=name,
                                 remedy="ids are those of the column node_id of the segments: from-to-key")
        return list(dict.fromkeys(known[name] for name in wanted))

    def junctions(self, ids: Iterable[str | int]) -> list[int]:
        """Rows of junctions by their ids."""
        found = []
        for name in ids:
            rows = np.flatnonzero(self.graph["junction"].node_id == str(name))
            if not len(rows):
                raise InputError("no such junction", field="junction", value=name,
                                 remedy="ids are those of the column node_id of the junctions")
            found.append(int(rows[0]))
        return found

    def add(self, name: str, ends: list[int], line: np.ndarray, start: int, end: int, values: dict[str, Any]) -> None:
        """A new segment between two junctions, with the moves onto it and from it."""
        number = self.segments.add(name, start, end, values)
        tail, head = ends
        self.lines[number], self.ends[number] = line, (tail, head)
        here: End = (True, number)
        for relation, edge in ((BEGINS, ((False, tail), here)), (ENDS, (here, (False, head)))):
            if relation in self.graph.edge_types:
                self.more.setdefault(relation, []).append(_Edge(edge, -1, {}))
        if not self._has_turns():
            return
        for other in self._arriving(tail):
            if other != number and self._reverse(other, [number]) is None:
                self._turn(other, number, ALWAYS)
        for other in self._leaving(head):
            if self._reverse(number, [other]) is None:
                self._turn(number, other, ALWAYS)

    def _has_turns(self) -> bool:
        return TURN in self.graph.edge_types and self.graph[TURN].edge_index.shape[1] > 0

    def _turn(self, one: int, other: int, life: Life) -> None:
        self.segments.versions(one)
        self.segments.versions(other)
        _, last = leg_directions(*self._as_lines(one))
        first, _ = leg_directions(*self._as_lines(other))
        change = float(first[0] - last[0])
        angle = 0.0 if np.isnan(change) else 180.0 - (180.0 - change) % 360.0
        self.more.setdefault(TURN, []).append(_Edge(((True, one), (True, other)), -1, {"angle": angle}, life))

    def _as_lines(self, number: int) -> tuple[np.ndarray, np.ndarray, bool]:
        line = self._line(number)
        return np.array([0, len(line)]), line, "lonlat" not in self.graph["junction"]

    def _line(self, number: int) -> np.ndarray:
        if number not in self.lines:
            if self._coordinates is not None:
                ptr, xy = self._coordinates
                self.lines[number] = xy[ptr[number]:ptr[number + 1]]
            else:
                junction = self.graph["junction"]
                places = (junction.lonlat if "lonlat" in junction else junction.pos).numpy()
                self.lines[number] = places[[self.tail[number], self.head[number]]]
        return self.lines[number]

    def _corners(self, number: int) -> tuple[int, int]:
        return self.ends[number] if number in self.ends else (int(self.tail[number]), int(self.head[number]))

    def _arriving(self, junction: int) -> list[int]:
        found = np.unique(self.segments.number[self._heads.rows(junction)]).tolist()
        return [*found, *(number for number, ends in self.ends.items() if ends[1] == junction)]

    def _leaving(self, junction: int) -> list[int]:
        found = np.unique(self.segments.number[self._tails.rows(junction)]).tolist()
        return [*found, *(number for number, ends in self.ends.items() if ends[0] == junction)]

    def _reverse(self, number: int, among: Iterable[int]) -> int | None:
        """The segment along the same line in the other direction."""
        tail, head = self._corners(number)
        line = self._line(number)[::-1]
        return next((other for other in among if other != number and self._corners(other) == (head, tail)
                     and np.array_equal(self._line(other), line)), None)

    # ---------------------------------------------------------------- the graph after the edit
    def graph_after(self, record: dict[str, Any]) -> DynamicHeteroGraph:
        """The new graph; the edit is noted in its metadata."""
        self._touch_partners()
        if self._has_turns():
            self._turn_back()
        for kind in FOLLOWERS:
            self._follow(kind)
        for track in self.tracks.values():
            track.settle()
        out = self.graph.__copy__()
        out._csr.clear()
        for kind, track in self.tracks.items():
            track.write(out[kind], out.schema.of(kind))
            self._signals(out, kind, track.source)
        asleep: list[dict[str, Any]] = []
        for relation in self.graph.edge_types:
            if relation == ROAD:
                self._write_roads(out)
            elif relation[0] in self.tracks or relation[2] in self.tracks:
                asleep += self._write_edges(out, relation)
        self._write_dormant(out, asleep)
        out.metadata = {**out.metadata, "edits": [*out.metadata.get("edits", []), record]}
        return out

    def _touch_partners(self) -> None:
        """Segments with several versions beside those that change: pairs of versions may come to share time."""
        versioned = np.zeros(self.segments.size, bool)
        for rows in self.segments.several.values():
            versioned[rows] = True
        present = [number for number in self.segments.changed if number < self.segments.size]
        changed = np.isin(self.segments.number, present)
        for relation in self.graph.edge_types:
            if relation[0] == relation[2] == "segment" and versioned.any():
                one, other = self.graph[relation].edge_index.numpy()
                partners = one[changed[other] & versioned[one]], other[changed[one] & versioned[other]]
                for row in np.concatenate(partners):
                    self.segments.versions(int(self.segments.number[row]))
        names = {self.segments.name(number) for number in self.segments.changed}
        for edge in self.dormant:
            for kind, side, other in (("source_type", "source", "target"), ("target_type", "target", "source")):
                partner = "target_type" if kind == "source_type" else "source_type"
                if edge[kind] == "segment" and edge[side] in names and edge[partner] == "segment" and \
                        self.segments.knows(edge[other]):
                    self.segments.versions(self.find(edge[other])[0])

    def _turn_back(self) -> None:
        """Turning back is a move while no other way leads on, as :func:`stgraph.roads.turns.make_turns` has it."""
        corners = {corner for number in list(self.segments.changed) for corner in self._corners(number)}
        for junction in sorted(corners):
            leaving = self._leaving(junction)
            for number in self._arriving(junction):
                back = self._reverse(number, leaving)
                if back is None:
                    continue
                onward = [other for other in leaving if other != back]
                stuck, before = (without(ALWAYS, union(life for other in onward
                                                       for life in self.segments.life(other, before=past)))
                                 for past in (False, True))
                if max(number, back) < self.segments.size and (
                        stuck == before or self._moves(number, back) != self._both_live(number, back, before)):
                    continue  # nothing changes here, or turning back follows other rules on this map
                self.replaced.add((number, back))
                for life in stuck:
                    self._turn(number, back, life)
                self.segments.versions(number)
                self.segments.versions(back)

    def _moves(self, one: int, other: int) -> list[Life]:
        """The intervals in which a segment may be left for another before the edit."""
        store = self.graph[TURN]
        rows = self._leavings.rows(one)
        rows = rows[self.segments.number[store.edge_index[1].numpy()[rows]] == other]
        own = [(int(store.valid_from[row]), int(store.valid_to[row])) if "valid_from" in store else ALWAYS
               for row in rows]
        return self._both_live(one, other, own)

    def _both_live(self, one: int, other: int, parts: list[Life]) -> list[Life]:
        """The parts of intervals in which both segments lived before the edit."""
        both = [part for life in self.segments.life(one, before=True)
                for part in within(life, self.segments.life(other, before=True))]
        return [part for life in both for part in within(life, union(parts))]

    def _follow(self, kind: str) -> None:
        """Versions of traffic signals or restrictions, so that they live while all their segments do."""
        relation, side = FOLLOWERS[kind]
        if relation not in self.graph.edge_types or "node_id" not in self.graph[kind]:
            return
        index = self.graph[relation].edge_index.numpy()
        changed = np.isin(self.segments.number[index[side]], list(self.segments.changed))
        names = {self.segments.name(number) for number in self.segments.changed}
        asleep = [edge for edge in self.dormant if edge["relation"] == label(relation)]
        ends = ("source", "target") if side == 0 else ("target", "source")
        if not changed.any() and not any(edge[ends[0]] in names for edge in asleep):
            return
        track = Track(self.graph, kind)
        members: dict[int, set[int]] = {}
        for node, segment in zip(track.number[index[1 - side]], self.segments.number[index[side]], strict=True):
            members.setdefault(int(node), set()).add(int(segment))
        by_name = {track.name(number): number for number in members}
        for edge in asleep:
            if edge[ends[1]] in by_name and self.segments.knows(edge[ends[0]]):
                members[by_name[edge[ends[1]]]].add(self.find(edge[ends[0]])[0])
        for node, segments in members.items():
            if segments & self.segments.changed.keys():
                wanted = [ALWAYS]
                for segment in segments:
                    wanted = [both for life in wanted for both in within(life, self.segments.life(segment))]
                live(track.versions(node), wanted)
        if track.changed:
            self.tracks[kind] = track

    # ---------------------------------------------------------------- relations
    def _write_roads(self, out: DynamicHeteroGraph) -> None:
        """Row ``e`` of the relation is node ``e``, and lives as long."""
        source, store, present = self.segments.source, out[ROAD], self.graph[ROAD]
        added = [(row, number) for number, rows in self.segments.where.items() if number in self.ends
                 for row, _, _ in rows]
        if len(source) != self.segments.size or self.segments.new:
            for name, value in list(present.items()):
                if name != "edge_index":
                    store[name] = taken(value, source)
                    store[name] = assigned(store[name], [(row, self.segments.changed[number][0].values["length"]
                                                           if name == "distance" else 0) for row, number in added],
                                            name, {})
            index = present.edge_index[:, torch.from_numpy(np.maximum(source, 0))].clone()
            for row, number in added:
                index[0, row], index[1, row] = self.ends[number]
            store.edge_index = index
            self._signals(out, ROAD, source)
        store.valid_from, store.valid_to = out["segment"].valid_from, out["segment"].valid_to

    def _write_edges(self, out: DynamicHeteroGraph, relation: EdgeType) -> list[dict[str, Any]]:
        """One relation after the edit; gives the edges that never live, as rows of the table of dormant edges."""
        store, present = out[relation], self.graph[relation]
        index = present.edge_index.numpy()
        numbers = [self._numbers(kind, side) for kind, side in zip((relation[0], relation[2]), index, strict=True)]
        affected = (numbers[0] >= 0) | (numbers[1] >= 0)
        edges = self._edges(relation, index, numbers, np.flatnonzero(affected))
        moved = any(track.place.shape[0] and (track.place != np.arange(track.size)).any()
                    for kind, track in self.tracks.items() if kind in (relation[0], relation[2]))
        if not edges and not affected.any() and not moved:
            return []
        kept = np.flatnonzero(~affected)
        found, asleep = self._expand(relation, edges)
        rows = np.concatenate([kept, np.array([edge.row for _, _, edge in found], np.int64)])
        new = np.array([[one, other] for one, other, _ in found], np.int64).reshape(-1, 2).T
        old = np.stack([self.tracks[kind].place[side[kept]] if kind in self.tracks else side[kept]
                        for kind, side in zip((relation[0], relation[2]), index, strict=True)])
        if any(edge.life != ALWAYS for _, _, edge in found) and "valid_from" not in store:
            size = index.shape[1]
            store.valid_from, store.valid_to = torch.full((size,), OPEN_START), torch.full((size,), OPEN_END)
        for name, value in list(store.items()):
            if name == "edge_index":
                continue
            values = [(len(kept) + place, {"valid_from": edge.life[0], "valid_to": edge.life[1]}.get(
                name, edge.values.get(name))) for place, (_, _, edge) in enumerate(found)
                if edge.row < 0]
            store[name] = assigned(taken(value, rows), [(row, unknown(value) if one is None else one)
                                                         for row, one in values], name, {})
        store.edge_index = torch.from_numpy(np.concatenate([old, new], axis=1))
        self._signals(out, relation, rows)
        return asleep

    def _numbers(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """Number of the changed node that each row is a version of, ``[E]``; -1 for others."""
        if kind not in self.tracks:
            return np.full(len(rows), -1)
        track = self.tracks[kind]
        group = np.full(track.size, -1)
        for number in track.changed:
            if number < track.size:
                group[track.rows(number)] = number
        return group[rows]

    def _edges(self, relation: EdgeType, index: np.ndarray, numbers: list[np.ndarray],
               affected: np.ndarray) -> list[_Edge]:
        """The affected edges between nodes, each once, whatever the versions that it joins at present."""
        present = self.graph[relation]
        codes = codes_of(present, affected)
        often: dict[Any, dict[Any, list[int]]] = {}
        for place, row in enumerate(affected):
            pair = tuple((True, int(number[row])) if number[row] >= 0 else (False, int(side[row]))
                         for number, side in zip(numbers, index, strict=True))
            if relation == TURN and (pair[0][1], pair[1][1]) in self.replaced:
                continue
            exact = (int(index[0, row]), int(index[1, row]))
            often.setdefault((pair, codes[place]), {}).setdefault(exact, []).append(int(row))
        found = []
        for (pair, _), rows in often.items():
            for row in max(rows.values(), key=len):
                life = tuple(int(present[name][row]) if name in present else ALWAYS[side]
                             for side, name in enumerate(("valid_from", "valid_to")))
                found.append(_Edge(pair, row, {}, (life[0], life[1])))
        return [*found, *self.more.get(relation, []), *self._awake(relation)]

    def _expand(self, relation: EdgeType,
                edges: list[_Edge]) -> tuple[list[tuple[int, int, _Edge]], list[dict[str, Any]]]:
        """Edges between versions that share time, ``(source, target, edge)``, and what is left without any."""
        found: list[tuple[int, int, _Edge]] = []
        asleep = []
        bounds = [lives(self.graph, kind) if kind not in self.tracks else None for kind in (relation[0], relation[2])]
        for edge in edges:
            sides = [self._places(kind, end, life) for kind, end, life in
                     zip((relation[0], relation[2]), edge.ends, bounds, strict=True)]
            pairs = [(one[0], other[0], edge) for one in sides[0] for other in sides[1]
                     if max(one[1], other[1], edge.life[0]) < min(one[2], other[2], edge.life[1])]
            found += pairs
            if not pairs and (row := self._asleep(relation, edge)) is not None:
                asleep.append(row)
        return found, asleep

    def _places(self, kind: str, end: End, bounds: tuple[Tensor, Tensor] | None) -> list[tuple[int, int, int]]:
        """Rows after the edit of one end of an edge, with their lives."""
        changed, number = end
        if kind in self.tracks:
            track = self.tracks[kind]
            return track.where[number] if changed else \
                [(int(track.place[number]), int(track.start[number]), int(track.end[number]))]
        return [(number, *ALWAYS)] if bounds is None else [(number, int(bounds[0][number]), int(bounds[1][number]))]

    # ---------------------------------------------------------------- edges that never live at present
    def _awake(self, relation: EdgeType) -> list[_Edge]:
        """Dormant edges of a relation that touch what changes; they are taken off the list."""
        found, left = [], []
        for row in self.dormant:
            ends = [self._end(kind, row[side]) for kind, side in ((relation[0], "source"), (relation[2], "target"))] \
                if row["relation"] == label(relation) else []
            if len(ends) == 2 and ends[0] is not None and ends[1] is not None and (ends[0][0] or ends[1][0]):
                replaced = relation == TURN and (ends[0][1], ends[1][1]) in self.replaced
                if not replaced:
                    found.append(_Edge((ends[0], ends[1]), -1, json.loads(row["attributes"]),
                                       (row["valid_from"], row["valid_to"])))
            else:
                left.append(row)
        self.dormant = left
        return found

    def _end(self, kind: str, name: str) -> End | None:
        if kind in self.tracks:
            track = self.tracks[kind]
            number = next((number for number in track.changed if track.name(number) == name), None)
            if number is not None:
                return True, number
        store = self.graph[kind]
        rows = np.flatnonzero(store.node_id == name) if "node_id" in store else np.zeros(0, np.int64)
        return (False, int(rows[0])) if len(rows) else None

    def _asleep(self, relation: EdgeType, edge: _Edge) -> dict[str, Any] | None:
        names = []
        for kind, (changed, number) in zip((relation[0], relation[2]), edge.ends, strict=True):
            if "node_id" not in self.graph[kind]:
                return None
            names.append(self.tracks[kind].name(number) if changed else str(self.graph[kind].node_id[number]))
        store = self.graph[relation]
        own = ("edge_index", "valid_from", "valid_to")
        values = {name: scalar(value[edge.row]) for name, value in store.items()
                  if name not in own and not isinstance(value, Geometry)} if edge.row >= 0 else edge.values
        return {"relation": label(relation), "source_type": relation[0], "source": names[0],
                "target_type": relation[2], "target": names[1], "valid_from": edge.life[0], "valid_to": edge.life[1],
                "attributes": json.dumps(values)}

    def _write_dormant(self, out: DynamicHeteroGraph, asleep: list[dict[str, Any]]) -> None:
        rows = [*self.dormant, *asleep]
        if rows:
            texts = ("relation", "source_type", "source", "target_type", "target", "attributes")
            schema = pa.schema([*((name, pa.string()) for name in texts), ("valid_from", pa.int64()),
                                ("valid_to", pa.int64())])
            out.tables[DORMANT] = pa.Table.from_pylist(rows, schema)
        else:
            out.tables.pop(DORMANT, None)

    # ---------------------------------------------------------------- signals
    def _signals(self, out: DynamicHeteroGraph, kind: str | EdgeType, rows: np.ndarray) -> None:
        """Signals of a type whose rows changed, seen through their present rows; new ones were never observed."""
        found = out._signals.get(kind, {})
        if found and not np.array_equal(rows, np.arange(next(iter(found.values())).shape[1])):
            out._signals[kind] = {name: seen(signal, rows) for name, signal in found.items()}
