"""From legs between neighbouring map nodes to segments between junctions, as osmnx simplifies a graph.

Boeing, G. (2025), "Topological Graph Simplification Solutions to the Street Intersection Miscount Problem",
Transactions in GIS 29 (3), e70037. The rules are those of ``osmnx.simplify_graph``; the result is the same, edge for
edge. What is done there node by node is done here for all nodes at once: every directed edge knows the edge that
follows it through a node that is no junction, and all chains are followed together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_FEW = 64  # chains still open; fewer are followed one by one
_NONE, _BROKEN = -1, -2


@dataclass
class Segments:
    """``S`` directed segments, each a row of steps: ``step[ptr[s]:ptr[s + 1]]`` in driving order.

    Attributes:
        tail: Node where each starts, ``[S]``; segments are sorted by tail, then head.
        head: Node where each ends, ``[S]``.
        ptr: ``[S + 1]``.
        step: Twice the position of a leg, plus 1 where it is driven from its end to its start, ``[L]``.
        reverse: The segment over the same legs in the other direction, ``[S]`` int64; -1 where there is none.
    """

    tail: np.ndarray
    head: np.ndarray
    ptr: np.ndarray
    step: np.ndarray
    reverse: np.ndarray

    @property
    def leg(self) -> np.ndarray:
        """Position of the leg of each step, ``[L]``."""
        return self.step >> 1

    @property
    def back(self) -> np.ndarray:
        """Whether each step is driven from the end of its leg to its start, ``[L]`` bool."""
        return (self.step & 1).astype(bool)


@dataclass
class _Edges:
    """Distinct directed edges: ``2 k`` leads from ``low[k]`` to ``high[k]``, ``2 k + 1`` back.

    ``step`` is the first that makes each edge, as in :class:`Segments`; -1 where an edge may not be driven.
    """

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray


def simplify(start: np.ndarray, end: np.ndarray, both: np.ndarray, count: int, merge: bool = True) -> Segments:
    """Merge legs into segments.

    A node ends segments if no leg leaves it, or none arrives, or it does not have two neighbours and two or four
    directed legs. Of several legs between the same nodes within a chain the first is taken; between two junctions all
    are kept. Rings without a junction are dropped. A chain that comes to a node where no leg goes on, because ways were
    drawn twice there, is dropped if another chain leads over that node, which then is gone.

    Args:
        start: Node where each leg starts, ``[M]`` whole numbers, never its end.
        end: Node where it ends, ``[M]``.
        both: Whether it may be driven in both directions, ``[M]`` bool.
        count: Number of nodes.
        merge: If False, every leg is a segment, and two where it may be driven both ways.
    """
    edges = _distinct_edges(start, end, both, count)
    junction = _junctions(edges, start, end, both, count) if merge else np.ones(count, bool)
    chain_ptr, chain, kept = _chains(edges, junction)
    steps = _direct(start, end, both, kept, edges.step.dtype)
    segments = _assemble(steps, chain_ptr, chain, edges, start, end, count)
    del edges, junction, kept, chain_ptr, chain, steps
    return _without_rings(segments) if merge else segments


def _distinct_edges(start: np.ndarray, end: np.ndarray, both: np.ndarray, count: int) -> _Edges:
    index: type[np.signedinteger] = np.int32 if 2 * len(start) < 1 << 31 else np.int64
    key = np.minimum(start, end) * np.int64(count) + np.maximum(start, end)
    order = np.argsort(key)
    key = key[order]
    new = _changes(key)
    key = key[new]
    pair = np.empty(len(order), index)
    pair[order] = np.cumsum(new, dtype=index) - 1
    del order, new
    nowhere = np.iinfo(index).max
    step = np.full(2 * len(key), nowhere, index)
    leg = np.arange(len(pair), dtype=index)
    back = start > end
    np.minimum.at(step, 2 * pair + back, 2 * leg)
    np.minimum.at(step, (2 * pair + ~back)[both], 2 * leg[both] + 1)
    step[step == nowhere] = _NONE
    return _Edges((key // count).astype(start.dtype), (key % count).astype(start.dtype), step)


def _changes(ordered: np.ndarray) -> np.ndarray:
    """Where another value begins, ``[n]`` bool."""
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return new


def _junctions(edges: _Edges, start: np.ndarray, end: np.ndarray, both: np.ndarray, count: int) -> np.ndarray:
    """Which nodes end segments, ``[count]`` bool."""
    neighbours = np.bincount(edges.low, minlength=count) + np.bincount(edges.high, minlength=count)
    leaving = np.bincount(start, minlength=count) + np.bincount(end[both], minlength=count)
    arriving = np.bincount(end, minlength=count) + np.bincount(start[both], minlength=count)
    degree = leaving + arriving
    return ~((neighbours == 2) & ((degree == 2) | (degree == 4)) & (leaving > 0) & (arriving > 0))


def _direct(start: np.ndarray, end: np.ndarray, both: np.ndarray, junction: np.ndarray, index: Any) -> np.ndarray:
    """Steps that lead from a junction to a junction, in the order of the legs."""
    leg = np.flatnonzero(junction[start] & junction[end]).astype(index)
    steps = np.empty(2 * len(leg), index)
    steps[::2], steps[1::2] = 2 * leg, np.where(both[leg], 2 * leg + 1, _NONE)
    return steps[steps >= 0]


def _chains(edges: _Edges, junction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of edges from a junction over other nodes to the next junction: ``ptr`` and edges; and which nodes stay:
    the junctions, and the few others over which no chain leads."""
    pairs, index = len(edges.low), edges.step.dtype
    # a node that is no junction has two pairs: from their sum and the one that led here follows the other
    both_pairs = np.zeros(len(junction), np.int64)
    for ends in (edges.low, edges.high):
        both_pairs += np.bincount(ends, np.arange(pairs, dtype=np.float64), minlength=len(junction)).astype(np.int64)
    following = np.full(2 * pairs, _NONE, index)
    first = []
    for way, (tail, head) in enumerate(((edges.low, edges.high), (edges.high, edges.low))):
        pair = np.flatnonzero((edges.step[way::2] >= 0) & ~junction[head]).astype(index)
        other = (both_pairs[head[pair]] - pair).astype(index)
        onward = 2 * other + (edges.low[other] != head[pair])
        following[2 * pair + way] = np.where(edges.step[onward] >= 0, onward, _BROKEN)
        first.append((2 * pair + way)[junction[tail[pair]]])
    ptr, chain = _follow(np.concatenate(first), following)
    kept = np.ones(len(junction), bool)
    inner = np.ones(len(chain), bool)
    inner[ptr[:-1]] = False
    kept[_ends(edges, chain[inner] ^ 1)] = False
    last = chain[ptr[1:] - 1]
    size = np.diff(ptr)
    whole = (following[last] != _BROKEN) | ((size > 1) & kept[_ends(edges, last)])
    return np.concatenate([[0], np.cumsum(size[whole])]), chain[np.repeat(whole, size)], kept


def _ends(edges: _Edges, edge: np.ndarray) -> np.ndarray:
    """Nodes that edges lead to."""
    return np.where(edge & 1 == 1, edges.low[edge >> 1], edges.high[edge >> 1])


def _follow(first: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Follow all chains at once until each comes to a negative number: ``ptr`` and the edges of each in order."""
    row, edge = np.arange(len(first), dtype=first.dtype), first
    rows, found = [row], [edge]
    while len(row) > _FEW:
        edge = following[edge]
        row, edge = row[edge >= 0], edge[edge >= 0]
        rows.append(row)
        found.append(edge)
    for one, last in zip(row.tolist(), edge.tolist(), strict=True):
        rest = []
        while (last := int(following[last])) >= 0:
            rest.append(last)
        rows.append(np.full(len(rest), one, first.dtype))
        found.append(np.array(rest, first.dtype))
    all_rows = np.concatenate(rows)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(all_rows, minlength=len(first)))])
    return ptr, np.concatenate(found)[np.argsort(all_rows, kind="stable")]


def _assemble(steps: np.ndarray, chain_ptr: np.ndarray, chain: np.ndarray, edges: _Edges, start: np.ndarray,
              end: np.ndarray, count: int) -> Segments:
    """Direct steps and chains together, sorted by tail and head."""
    direct, chains = len(steps), len(chain_ptr) - 1
    reverse = np.full(direct + chains, _NONE, np.int64)
    paired = np.flatnonzero((steps[:-1] ^ steps[1:]) == 1)  # the same leg, forwards and then backwards
    paired = paired[steps[paired] % 2 == 0]
    reverse[paired], reverse[paired + 1] = paired + 1, paired
    begun_by = np.full(len(edges.step), _NONE, edges.step.dtype)
    begun_by[chain[chain_ptr[:-1]]] = direct + np.arange(chains)
    reverse[direct:] = begun_by[chain[chain_ptr[1:] - 1] ^ 1]
    step = np.concatenate([steps, edges.step[chain]])
    ptr = np.concatenate([np.arange(direct), direct + chain_ptr])
    tail, head = _first_node(step[ptr[:-1]], start, end), _first_node(step[ptr[1:] - 1] ^ 1, start, end)
    order = np.argsort(tail * np.int64(count) + head, kind="stable")
    return _take(Segments(tail, head, ptr, step, reverse), order)


def _first_node(step: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return np.where(step % 2 == 1, end[step // 2], start[step // 2])


def _take(segments: Segments, rows: np.ndarray) -> Segments:
    """Some of the segments, in the order of ``rows``."""
    size = np.diff(segments.ptr)[rows]
    ptr = np.concatenate([[0], np.cumsum(size)])
    step = np.arange(ptr[-1])
    step += np.repeat(segments.ptr[rows] - ptr[:-1], size)
    place = np.full(len(segments.tail) + 1, _NONE, np.int64)  # the last for -1
    place[rows] = np.arange(len(rows))
    return Segments(segments.tail[rows], segments.head[rows], ptr, segments.step[step], place[segments.reverse[rows]])


def _without_rings(segments: Segments) -> Segments:
    """Drop parts of the network that are rings without a junction even after merging (osmnx looks again, too)."""
    used = np.zeros(max(segments.tail.max(initial=0), segments.head.max(initial=0)) + 1, bool)
    used[segments.tail] = used[segments.head] = True
    place = np.cumsum(used, dtype=segments.tail.dtype) - 1
    tail, head, count = place[segments.tail], place[segments.head], int(used.sum())
    key = np.sort(np.minimum(tail, head) * np.int64(count) + np.maximum(tail, head))
    pair = key[_changes(key)]
    low, high = pair // max(count, 1), pair % max(count, 1)
    neighbours = np.bincount(low, minlength=count) + np.bincount(high, minlength=count)
    leaving, arriving = np.bincount(tail, minlength=count), np.bincount(head, minlength=count)
    degree = leaving + arriving
    loose = (neighbours == 2) & ((degree == 2) | (degree == 4)) & (leaving > 0) & (arriving > 0)
    loose[tail[tail == head]] = False
    if not loose.any():
        return segments
    # from each junction follow the rows of other nodes, of which each has two neighbours
    both = np.bincount(low, high, minlength=count) + np.bincount(high, low, minlength=count)
    for held, other in ((low, high), (high, low)):
        here = loose[other] & ~loose[held]
        for before, node in zip(held[here].tolist(), other[here].tolist(), strict=True):
            while loose[node]:
                loose[node] = False
                before, node = node, int(both[node]) - before
    return _take(segments, np.flatnonzero(~loose[tail])) if loose.any() else segments
