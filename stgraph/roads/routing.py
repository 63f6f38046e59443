"""Bounded shortest ways between junctions: every pair within a limit, as flat arrays or cell by cell on demand.

The map is cut into spatial cells of at most 256 junctions. Each cell is searched in the small part of the map that its
junctions can reach within the limit, so time and memory follow the number of pairs and not the size of the map.
A way is one from junction to junction. Where ``turns`` are to be permitted, junctions with forbidden moves are taken
apart (the expanded network of Caldwell, "On finding minimum routes in a network with turn penalties", CACM 1961, at
these junctions only): ways are then asked for from the node where one segment ends to that where another one starts.
Sequences of three or more segments that are forbidden are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from stgraph.errors import InputError
from stgraph.roads.network import Roads
from stgraph.roads.turns import forbidden_moves

CELL = 256  # junctions a cell
_DENSE = 2**22  # pairs in the dense answer of one search
SHORTEST = 1e-6  # a weight of zero would read as "no segment" in a sparse matrix


@dataclass(frozen=True)
class Links:
    """The cheapest segment from node to node: what a search sees of a map. Nodes are junctions, or parts of them.

    Attributes:
        weight: ``[V, V]`` sparse, cost of the cheapest of parallel segments; self loops are left out.
        segment: ``[V, V]`` sparse, its position plus one; 0 where a link leads from a part of a junction to another.
        tail: ``[S]`` int64, node where each segment starts.
        head: ``[S]`` int64, node where each segment ends.
        place: ``[V]`` int64, junction of each node; the first ``J`` are the junctions themselves.
    """

    weight: csr_array
    segment: csr_array
    tail: np.ndarray
    head: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, roads: Roads, weight: np.ndarray | None = None, turns: bool = False) -> Links:
        """Links of a map.

        Args:
            roads: The map; segments that do not stand are left out.
            weight: Cost of each segment ``[S]``; its length where not given.
            turns: Whether only permitted moves are made.
        """
        cost = np.asarray(roads.length if weight is None else weight, np.float64)
        if cost.shape != roads.tail.shape or not np.isfinite(cost).all() or (cost < 0).any():
            raise InputError("the cost of segments must be one finite number of at least zero each", field="weight")
        start, end, place, inner = _taken_apart(roads) if turns else _whole_junctions(roads)
        rows = np.arange(len(cost)) if roads.alive is None else np.flatnonzero(roads.alive)
        tail, head = np.concatenate([start[rows], inner[0]]), np.concatenate([end[rows], inner[1]])
        cost = np.maximum(np.concatenate([cost[rows], np.zeros(inner.shape[1])]), SHORTEST)
        number = np.concatenate([rows + 1, np.zeros(inner.shape[1], np.int64)])
        order = np.lexsort((cost, head, tail))
        order = order[tail[order] != head[order]]
        tail, head = tail[order], head[order]
        first = np.ones(len(order), bool)
        first[1:] = (tail[1:] != tail[:-1]) | (head[1:] != head[:-1])
        order, tail, head = order[first], tail[first], head[first]
        count = len(place)
        ptr, head = np.searchsorted(tail, np.arange(count + 1)).astype(np.int32), head.astype(np.int32)
        return cls(csr_array((cost[order], head, ptr), shape=(count, count)),
                   csr_array((number[order], head, ptr), shape=(count, count)), start, end, place)

    def between(self, tail: np.ndarray, head: np.ndarray) -> np.ndarray:
        """The cheapest segment ``[n]`` of each pair of nodes ``[n]``; -1 where there is none."""
        return np.asarray(self.segment[tail, head], np.int64) - 1 if len(tail) else np.zeros(0, np.int64)


def _whole_junctions(roads: Roads) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where segments start and end, the junction of each node, and links inside of junctions: none."""
    return roads.tail, roads.head, np.arange(len(roads.junction_xy)), np.zeros((2, 0), np.int64)


def _taken_apart(roads: Roads) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same where only permitted moves are made.

    A junction with forbidden moves becomes: a node at the end of each segment that may not go on to all others, one at
    the start of each that may not be entered from all others, the junction itself, where the rest ends, and one where
    the rest starts. Links inside of it are the moves that remain.
    """
    forbidden, permitted = forbidden_moves(roads)
    tail, head, place, _ = _whole_junctions(roads)
    if not forbidden.shape[1]:
        return tail, head, place, np.zeros((2, 0), np.int64)
    ending, starting = np.unique(forbidden[0]), np.unique(forbidden[1])
    junction = np.unique(head[ending])
    first = np.cumsum([len(place), len(ending), len(starting)])
    out = np.arange(len(place))  # where segments start that are entered from all others
    out[junction] = first[2] + np.arange(len(junction))
    start, end = out[tail], head.copy()
    end[ending], start[starting] = first[0] + np.arange(len(ending)), first[1] + np.arange(len(starting))
    special = np.isin(permitted[0], ending) & np.isin(permitted[1], starting)
    between = permitted[:, special]
    inner = [np.stack([junction, out[junction]]), np.stack([end[ending], out[head[ending]]]),
             np.stack([tail[starting], start[starting]]), np.stack([end[between[0]], start[between[1]]])]
    place = np.concatenate([place, head[ending], tail[starting], junction])
    return start, end, place, np.concatenate(inner, axis=1)


@dataclass(frozen=True)
class RoutingTable:
    """Shortest ways from junctions to all junctions within a limit, sorted by origin, then by target.

    Attributes:
        ptr: ``[J + 1]`` int64, rows of each origin.
        target: ``[R]`` int32, junctions reached, ascending; the origin itself is one of them.
        distance: ``[R]`` float32, cost of the way, in metres unless another weight was given.
        previous: ``[R]`` int32, row of the junction before the target on the way, counted from the first row of the
            origin; of the origin itself, its own row.
        limit: No way costs more.
        links: The segments between neighbouring junctions.
    """

    ptr: np.ndarray
    target: np.ndarray
    distance: np.ndarray
    previous: np.ndarray
    limit: float
    links: Links

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def previous_segment(self) -> np.ndarray:
        """``[R]`` int64: the last segment of each way; -1 of the origin itself."""
        before = np.repeat(self.ptr[:-1], np.diff(self.ptr)) + self.previous
        return self.links.between(self.target[before], self.target)

    def distances(self, origin: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Cost ``[n]`` float32 of the shortest way of each pair of junctions ``[n]``; infinite beyond the limit."""
        return _distances(self, origin, origin, target)

    def paths(self, origin: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The segments of many ways: ``ptr [n + 1]`` and segments.

        Raises:
            ValueError: where a pair is farther apart than the limit.
        """
        return _paths(self, origin, origin, target)

    @cached_property
    def matrix(self) -> csr_array:
        """``[J, J]`` distances, sparse."""
        return csr_array((self.distance, self.target, self.ptr), shape=(len(self.ptr) - 1, self.links.weight.shape[0]))


class RoutingCells:
    """The same answers as :class:`RoutingTable`, found cell by cell when first asked for.

    With ``turns`` only permitted moves are made, and origins and targets are nodes of ``links``: those of
    ``links.head`` and ``links.tail``. Where a cell reaches far beyond itself, only the origins asked for are searched.
    When there would be more than ``most_rows`` rows (12 bytes each), all but those just asked for are forgotten.
    """

    def __init__(self, roads: Roads, limit: float, weight: np.ndarray | None = None,
                 most_rows: int = 30_000_000, turns: bool = False) -> None:
        self.limit = _checked_limit(limit)
        self.links = Links.of(roads, weight, turns)
        self.most_rows = most_rows
        self._members = cells(roads.junction_metres[self.links.place])
        self._cell = np.empty(len(self.links.place), np.int64)
        for number, members in enumerate(self._members):
            self._cell[members] = number
        self._place = np.full(len(self.links.place), -1, np.int64)  # origin -> its place in the table
        self._table = _no_ways(self.limit, self.links)

    def __len__(self) -> int:
        return len(self._table)

    def distances(self, origin: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Cost ``[n]`` float32 of the shortest way of each pair of junctions ``[n]``; infinite beyond the limit."""
        self._find(origin)
        return _distances(self._table, self._place[origin], origin, target)

    def paths(self, origin: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The segments of many ways: ``ptr [n + 1]`` and segments.

        Raises:
            ValueError: where a pair is farther apart than the limit.
        """
        self._find(origin)
        return _paths(self._table, self._place[origin], origin, target)

    def _find(self, origin: np.ndarray) -> None:
        """Search from the origins that are not in the table yet."""
        asked = np.zeros(len(self._place), bool)
        asked[origin] = True
        new = np.flatnonzero(asked & (self._place < 0))
        if not len(new):
            return
        found, parts = [], []
        for cell in np.unique(self._cell[new]):
            members = self._members[cell]
            wanted, junctions = _reach(self.links, members, asked[members] & (self._place[members] < 0), self.limit)
            found.append(members[wanted & (self._place[members] < 0)])
            parts.append(_search(self.links, found[-1], junctions, self.limit))
        if len(self._table) + sum(map(len, parts)) > self.most_rows:
            self._forget(asked)
        known = len(self._table.ptr) - 1
        self._table = _stack([self._table, *parts])
        self._place[np.concatenate(found)] = np.arange(known, len(self._table.ptr) - 1)

    def _forget(self, asked: np.ndarray) -> None:
        """Keep only the rows of the origins asked for."""
        keep = np.flatnonzero(asked & (self._place >= 0))
        self._table = _take(self._table, self._place[keep])
        self._place[:] = -1
        self._place[keep] = np.arange(len(keep))


def routing_table(roads: Roads, limit: float, weight: np.ndarray | None = None, turns: bool = False) -> RoutingTable:
    """Shortest ways between all pairs of junctions (or nodes, see :class:`Links`) at most ``limit`` apart.

    Args:
        roads: The map, ``J`` junctions and ``S`` segments.
        limit: Largest cost of a way: metres, or the unit of ``weight``.
        weight: Cost of each segment ``[S]``, at least zero; its length where not given.
        turns: Whether only permitted moves are made.

    Raises:
        InputError: where limit or weights are not numbers of at least zero.
    """
    limit, links = _checked_limit(limit), Links.of(roads, weight, turns)
    members = cells(roads.junction_metres[links.place])
    if not members:
        return _no_ways(limit, links)
    table = _stack([_search(links, one, _within(links, one, limit), limit) for one in members])
    return _take(table, np.argsort(np.concatenate(members), kind="stable"))


def cells(xy: np.ndarray, most: int = CELL) -> list[np.ndarray]:
    """Positions of places ``[J, 2]`` in compact groups of at most ``most``, halved along the longer side."""
    found: list[np.ndarray] = []
    waiting = [np.arange(len(xy))] if len(xy) else []
    while waiting:
        group = waiting.pop()
        if len(group) <= most:
            found.append(np.sort(group))
            continue
        places = xy[group]
        order = np.argpartition(places[:, np.argmax(np.ptp(places, axis=0))], len(group) // 2)
        waiting += [group[order[len(group) // 2:]], group[order[:len(group) // 2]]]
    return found


# -------------------------------------------------------------------- search
def _reach(links: Links, members: np.ndarray, wanted: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Members of a cell to search from, ``[members]`` bool, and the junctions within the limit of any of them.

    Where those are few, all members are searched from, because the others will be asked for soon.
    """
    junctions = _within(links, members, limit)
    if len(junctions) <= 16 * CELL:
        return np.ones(len(members), bool), junctions
    return wanted, _within(links, members[wanted], limit)


def _within(links: Links, origins: np.ndarray, limit: float) -> np.ndarray:
    # exact for any weights, where a halo in metres would need them to be no smaller than the straight line
    return np.flatnonzero(dijkstra(links.weight, indices=origins, min_only=True, limit=limit) < np.inf)


def _search(links: Links, origins: np.ndarray, junctions: np.ndarray, limit: float) -> RoutingTable:
    """Rows from some origins, in their order; ``junctions``, ascending, are all that any of them can reach."""
    part = links.weight[junctions][:, junctions]
    names, width = junctions.astype(np.int32), len(junctions)
    local = np.searchsorted(junctions, origins)
    found: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(origins), step := max(1, _DENSE // width)):
        distance, before = dijkstra(part, indices=local[start:start + step], limit=limit, return_predecessors=True)
        reached = distance < np.inf
        count, place = np.count_nonzero(reached, axis=1), np.flatnonzero(reached)
        line = np.repeat(np.arange(len(count)) * width, count)  # place where the line of each origin begins
        row = np.empty(distance.size, np.int32)  # of each place, counted from the first row of its origin
        row[place] = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        before = before.ravel()[place]
        before = np.where(before < 0, place - line, before)  # of the origin itself, the origin
        found.append((count, names[place - line], distance.ravel()[place].astype(np.float32), row[line + before]))
    count, target, length, previous = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return RoutingTable(_ptr(count), target, length, previous, limit, links)


def _no_ways(limit: float, links: Links) -> RoutingTable:
    empty = np.zeros(0, np.int32)
    return RoutingTable(np.zeros(1, np.int64), empty, empty.astype(np.float32), empty, limit, links)


def _stack(tables: list[RoutingTable]) -> RoutingTable:
    """The rows of all tables, one after the other."""
    target, distance, previous = (np.concatenate([getattr(one, name) for one in tables])
                                  for name in ("target", "distance", "previous"))
    ptr = _ptr(np.concatenate([np.diff(one.ptr) for one in tables]))
    return RoutingTable(ptr, target, distance, previous, tables[0].limit, tables[0].links)


def _take(table: RoutingTable, origins: np.ndarray) -> RoutingTable:
    """The rows of some origins, in this order."""
    count = np.diff(table.ptr)[origins]
    ptr = _ptr(count)
    rows = np.repeat(table.ptr[origins] - ptr[:-1], count) + np.arange(ptr[-1])
    return RoutingTable(ptr, table.target[rows], table.distance[rows], table.previous[rows], table.limit, table.links)


def _ptr(count: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(count, dtype=np.int64)])


# -------------------------------------------------------------------- look-ups
def _distances(table: RoutingTable, place: np.ndarray, origin: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Distances from the origins that stand at ``place`` in the table."""
    if not len(place):
        return np.zeros(0, np.float32)
    found = np.asarray(table.matrix[place, target])
    found[(found == 0) & (origin != target)] = np.inf  # a sparse matrix gives 0 where it holds nothing
    return found


def _paths(table: RoutingTable, place: np.ndarray, origin: np.ndarray, target: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray]:
    """Walk all ways back from their targets at once, one segment a round."""
    start = table.ptr[place]
    row = _rows(table, place, target)
    if (row < 0).any():
        raise ValueError(f"a pair of junctions is more than {table.limit:g} apart")
    active = np.flatnonzero(np.asarray(origin) != target)
    row = row[active]
    rounds: list[tuple[np.ndarray, np.ndarray]] = []
    count = np.zeros(len(start), np.int64)
    while len(active):
        before = start[active] + table.previous[row]
        rounds.append((active, table.links.between(table.target[before], table.target[row])))
        count[active] += 1
        on = np.flatnonzero(table.target[before] != origin[active])
        active, row = active[on], before[on]
    ptr = _ptr(count)
    segment = np.empty(ptr[-1], np.int64)
    for number, (ways, last) in enumerate(rounds):
        segment[ptr[ways + 1] - 1 - number] = last
    driven = segment >= 0  # the rest are links inside of junctions
    return np.concatenate([[0], np.cumsum(driven)])[ptr], segment[driven]


def _rows(table: RoutingTable, place: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Row ``[n]`` of each target among those of its origin, by halving; -1 where it is not among them."""
    low, high = table.ptr[place], table.ptr[np.asarray(place) + 1]
    end = high
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) // 2
        right = table.target[np.minimum(middle, len(table.target) - 1)] < target
        right &= low < high
        low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
    there = low < end
    there[there] = table.target[low[there]] == np.asarray(target)[there]
    return np.where(there, low, -1)


def _checked_limit(limit: float) -> float:
    if not (np.isfinite(limit) and limit >= 0):
        raise InputError("a routing limit is a finite number of at least zero", field="limit", value=limit,
                         remedy="give it in metres, for example 1000")
    return float(limit)
