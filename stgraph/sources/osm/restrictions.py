"""Turn restrictions of the map, applied to directed and simplified roads.

A relation says: coming by way ``from``, over a node or over ways ``via``, driving on by way ``to`` is forbidden
(``no_*``), or is the only move allowed (``only_*``); see https://wiki.openstreetmap.org/wiki/Relation:restriction.
Here every relation becomes the walks over segments that it is about. A walk that is forbidden and has two segments is a
turn that is taken out; a longer one is a sequence that may not be driven in a row. An ``only_*`` relation forbids to
leave its walk at any of its junctions, the first included.

All relations are read against the same turns, so their order does not matter. Where several ``only_*`` relations begin
with the same move, any of their walks may be driven: in the map they stand for lanes, and together they would leave no
way on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stgraph.sources.osm.read import Restriction

APPLIED = "applied"
UNCLEAR = "unclear_via"  # no via member, several via nodes, or nodes and ways
FROM_MISSING, VIA_MISSING, TO_MISSING = "from_way_not_in_network", "via_way_not_in_network", "to_way_not_in_network"
NO_JUNCTION = "via_node_is_no_junction"
INSIDE = "inside_a_segment"  # the whole move lies between two junctions
NO_MOVE = "no_such_move"  # not possible anyhow: members do not meet, a one-way street, a way back
TOO_MANY = "too_many_walks"
MOST_STEPS = 10_000  # of the search for the walks of one relation

Walk = tuple[int, ...]


@dataclass(frozen=True)
class Applied:
    """Turns after restrictions.

    Args:
        turn_index: Moves that are left, ``[2, K]`` int64.
        turn_angle: Their angles, ``[K]``.
        forbidden_ptr: ``[F + 1]`` int64 into ``forbidden``.
        forbidden: Segments of sequences of three or more that may not be driven in a row; each of their single moves
            is still there.
        forbidden_relation: Id of the relation behind each sequence, ``[F]`` int64.
        outcome: What became of each relation, in their order: :data:`APPLIED`, or why it was not.
    """

    turn_index: np.ndarray
    turn_angle: np.ndarray
    forbidden_ptr: np.ndarray
    forbidden: np.ndarray
    forbidden_relation: np.ndarray
    outcome: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Number of relations by outcome, the most frequent first."""
        return dict(Counter(self.outcome).most_common())


def apply_restrictions(relations: Sequence[Restriction], turn_index: np.ndarray, turn_angle: np.ndarray,
                       way_ptr: np.ndarray, way_of: np.ndarray, tail: np.ndarray, head: np.ndarray,
                       junction_osm_id: np.ndarray) -> Applied:
    """Take the moves out that turn restrictions forbid, and list the longer sequences that they forbid.

    Args:
        relations: The restrictions; members need not be in the network.
        turn_index: Moves ``[2, K]`` from segment to segment.
        turn_angle: ``[K]``.
        way_ptr: ``[S + 1]``; the ways of segment ``s`` are ``way_of[way_ptr[s]:way_ptr[s + 1]]``, at least one.
        way_of: Ids of the ways along each segment in driving order; a way may be repeated for each of its legs.
        tail: Junction where each segment starts, ``[S]`` positions.
        head: Junction where each segment ends, ``[S]``.
        junction_osm_id: Node id of each junction, ``[J]`` int64.
    """
    roads = _Roads(relations, turn_index, way_ptr, way_of, tail, head, junction_osm_id)
    outcome: list[str] = []
    banned: dict[Walk, int] = {}
    allowed: defaultdict[Walk, set[int]] = defaultdict(set)
    said_by: dict[Walk, int] = {}
    for relation in relations:
        found, walks = roads.walks(relation)
        outcome.append(found)
        for walk in walks:
            if relation.kind == "no":
                banned.setdefault(walk, relation.id)
                continue
            for end in range(1, len(walk)):
                allowed[walk[:end]].add(walk[end])
                said_by.setdefault(walk[:end], relation.id)
    for prefix, onward in allowed.items():
        for other in roads.onward(prefix[-1]):
            if other not in onward:
                banned.setdefault((*prefix, other), said_by[prefix])
    key = turn_index[0] * len(tail) + turn_index[1]
    keep = ~_among(key, _keys([walk for walk in banned if len(walk) == 2], len(tail)))
    longer = [walk for walk in banned if len(walk) > 2]
    moves = _keys([move for walk in longer for move in pairwise(walk)], len(tail))
    possible = _among(moves, key[keep & _among(key, moves)])
    size = np.array([len(walk) - 1 for walk in longer], np.int64)
    whole = np.bincount(np.repeat(np.arange(len(size)), size), possible, minlength=len(size)) == size
    longer = [walk for walk, is_whole in zip(longer, whole.tolist(), strict=True) if is_whole]
    return Applied(turn_index[:, keep], turn_angle[keep],
                   np.concatenate([[0], np.cumsum([len(walk) for walk in longer])]).astype(np.int64),
                   np.array([segment for walk in longer for segment in walk], np.int64),
                   np.array([banned[walk] for walk in longer], np.int64), tuple(outcome))


def _keys(moves: Sequence[Walk], segments: int) -> np.ndarray:
    """One number for each move."""
    pairs = np.array(moves, np.int64).reshape(-1, 2)
    return pairs[:, 0] * segments + pairs[:, 1]


def _among(values: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Whether values are among a few, ``[n]`` bool; faster than ``np.isin`` where they are many."""
    if not len(few):
        return np.zeros(len(values), bool)
    ordered = np.sort(few)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


class _Roads:
    """Segments by the ways that relations name."""

    def __init__(self, relations: Sequence[Restriction], turn_index: np.ndarray, way_ptr: np.ndarray,
                 way_of: np.ndarray, tail: np.ndarray, head: np.ndarray, junction_osm_id: np.ndarray) -> None:
        self.way_ptr, self.way_of, self.tail, self.head = way_ptr, way_of, tail, head
        order = np.argsort(turn_index[0], kind="stable")
        self._target = turn_index[1][order]
        self._start = np.searchsorted(turn_index[0][order], np.arange(len(tail) + 1))
        by_id = np.argsort(junction_osm_id, kind="stable")
        self._sorted_ids, self._junction = junction_osm_id[by_id], by_id
        named = {way for one in relations for way in (one.from_way, *one.via_ways, one.to_way)}
        self._places = self._find(np.array(sorted(named), np.int64))

    def _find(self, named: np.ndarray) -> dict[int, list[tuple[int, int]]]:
        """Segment and place in ``way_of`` of the end of each stretch of the named ways."""
        ends = np.ones(len(self.way_of), bool)
        ends[:-1] = self.way_of[1:] != self.way_of[:-1]
        ends[self.way_ptr[1:] - 1] = True
        at = np.flatnonzero(ends & _among(self.way_of, named))
        segment = np.searchsorted(self.way_ptr, at, side="right") - 1
        found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for way, where, place in zip(self.way_of[at].tolist(), segment.tolist(), at.tolist(), strict=True):
            found[way].append((where, place))
        return dict(found)

    def onward(self, segment: int) -> list[int]:
        """Segments that a segment leads to."""
        found: list[int] = self._target[self._start[segment]:self._start[segment + 1]].tolist()
        return found

    def walks(self, relation: Restriction) -> tuple[str, list[Walk]]:
        """The outcome of a relation, and the walks that it forbids or prescribes."""
        if len(relation.via_nodes) + bool(relation.via_ways) != 1:
            return UNCLEAR, []
        for ways, missing in (((relation.from_way,), FROM_MISSING), (relation.via_ways, VIA_MISSING),
                              ((relation.to_way,), TO_MISSING)):
            if not all(way in self._places for way in ways):
                return missing, []
        return self._over_ways(relation) if relation.via_ways else self._over_node(relation)

    def _over_node(self, relation: Restriction) -> tuple[str, list[Walk]]:
        at = int(np.searchsorted(self._sorted_ids, relation.via_nodes[0]))
        if at == len(self._sorted_ids) or self._sorted_ids[at] != relation.via_nodes[0]:
            inside = any(place + 1 < self.way_ptr[segment + 1] and self.way_of[place + 1] == relation.to_way
                         for segment, place in self._places[relation.from_way])
            return (INSIDE if inside else NO_JUNCTION), []
        junction = self._junction[at]
        found: list[Walk] = []
        for segment, place in self._places[relation.from_way]:
            if self.head[segment] != junction or place != self.way_ptr[segment + 1] - 1:
                continue
            for onward in self.onward(segment):
                back = self.head[onward] == self.tail[segment]
                # on one and the same way, "no" is about turning back and "only" about driving on
                means = relation.from_way != relation.to_way or back == (relation.kind == "no")
                if self.way_of[self.way_ptr[onward]] == relation.to_way and means:
                    found.append((segment, onward))
        return (APPLIED if found else NO_MOVE), found

    def _over_ways(self, relation: Restriction) -> tuple[str, list[Walk]]:
        """Walks whose ways are those of the relation, one after the other; each may be several segments long."""
        ways = (relation.from_way, *relation.via_ways, relation.to_way)
        last = len(ways) - 1
        found: list[Walk] = []
        inside = False
        open_walks: list[tuple[Walk, int, int]] = [((segment,), place, 0) for segment, place in self._places[ways[0]]]
        for _ in range(MOST_STEPS):  # each step drives on to the end of a segment
            if not open_walks:
                return (APPLIED if found else INSIDE if inside else NO_MOVE), found
            walk, place, at = open_walks.pop()
            for way in self.way_of[place + 1:self.way_ptr[walk[-1] + 1]].tolist():
                if at in (-1, last):
                    break
                at = _next(ways, at, way)
            if at == last and len(walk) > 1:
                found.append(walk)
            elif at == last:
                inside = True
            elif at >= 0:
                open_walks += self._continued(walk, ways, at)
        return TOO_MANY, []

    def _continued(self, walk: Walk, ways: Walk, at: int) -> Iterator[tuple[Walk, int, int]]:
        for onward in self.onward(walk[-1]):
            first = int(self.way_ptr[onward])
            reached = _next(ways, at, int(self.way_of[first]))
            if reached > 0 and onward not in walk:
                yield (*walk, onward), first, reached


def _next(ways: Walk, at: int, way: int) -> int:
    """Place in the list of ways after driving onto a way: one further, the same, or -1 where the list is left."""
    if at + 1 < len(ways) and way == ways[at + 1]:
        return at + 1
    return at if at and way == ways[at] else -1
