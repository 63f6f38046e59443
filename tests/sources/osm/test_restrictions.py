"""Turn restrictions: hand-made crossings, and a walk over every way through random networks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from stgraph.roads.turns import make_turns
from stgraph.sources.osm import build as build_module
from stgraph.sources.osm.attributes import KEYS
from stgraph.sources.osm.filters import network_filter
from stgraph.sources.osm.read import Restriction, read_osm
from stgraph.sources.osm.restrictions import (
    APPLIED,
    FROM_MISSING,
    INSIDE,
    NO_JUNCTION,
    NO_MOVE,
    TO_MISSING,
    UNCLEAR,
    VIA_MISSING,
    apply_restrictions,
)


class Map:
    """A small map, made into segments leg by leg: ``ways`` are lists of nodes, one-way where named so."""

    def __init__(self, ways, oneway=(), repeat=True):
        legs = {}
        for way, nodes in ways.items():
            for one, other in pairwise(nodes):
                legs[one, other] = way
                if way not in oneway:
                    legs[other, one] = way
        out = {}
        for one, other in sorted(legs):
            out.setdefault(one, []).append(other)
        nodes = sorted({end for leg in legs for end in leg})
        into = {node: [one for one, other in legs if other == node] for node in nodes}
        near = {node: set(out.get(node, [])) | set(into[node]) for node in nodes}
        ends = [n for n in nodes if len(near[n]) != 2 or len(out.get(n, [])) != len(into[n])]
        self.segments = []
        for start in ends:
            for second in out.get(start, []):
                line = [start, second]
                while line[-1] not in ends:
                    line.append(next(n for n in out[line[-1]] if n != line[-2]))
                self.segments.append(line)
        self.junctions = np.array(ends)
        self.ways = [[legs[leg] for leg in pairwise(line)] for line in self.segments]
        place = {node: position for position, node in enumerate(ends)}
        self.tail = np.array([place[line[0]] for line in self.segments])
        self.head = np.array([place[line[-1]] for line in self.segments])
        reverse = np.array([self.segments.index(line[::-1]) if line[::-1] in self.segments else -1
                            for line in self.segments])
        ptr = np.concatenate([[0], np.cumsum([len(line) for line in self.segments])])
        xy = np.array([[np.cos(7.0 * n), np.sin(5.0 * n)] for line in self.segments for n in line])
        self.index, self.angle = make_turns(self.tail, self.head, ptr, xy, reverse, metric=True)
        told = self.ways if repeat else [[way for k, way in enumerate(one) if not k or way != one[k - 1]]
                                         for one in self.ways]
        self.way_ptr = np.concatenate([[0], np.cumsum([len(one) for one in told])])
        self.way_of = np.array([way for one in told for way in one])

    def apply(self, *relations):
        return apply_restrictions(relations, self.index, self.angle, self.way_ptr, self.way_of, self.tail, self.head,
                                  self.junctions)

    def moves(self, applied=None):
        """Turns by the nodes of their segments."""
        index = self.index if applied is None else applied.turn_index
        return {(tuple(self.segments[a]), tuple(self.segments[b])) for a, b in index.T.tolist()}

    def sequences(self, applied):
        return [[tuple(self.segments[s]) for s in applied.forbidden[start:end]]
                for start, end in pairwise(applied.forbidden_ptr)]

    def walks(self, most):
        """Every walk over turns, of up to ``most`` segments."""
        onward = {}
        for a, b in self.index.T.tolist():
            onward.setdefault(a, []).append(b)
        found = walks = [(s,) for s in range(len(self.segments))]
        for _ in range(most - 1):
            walks = [(*walk, b) for walk in walks for b in onward.get(walk[-1], [])]
            found = found + walks
        return found


def no(from_way, via, to_way, number=1):
    return relation("no", from_way, via, to_way, number)


def only(from_way, via, to_way, number=1):
    return relation("only", from_way, via, to_way, number)


def relation(kind, from_way, via, to_way, number=1):
    """Via a node (a number) or via ways (a list)."""
    nodes, ways = ((), tuple(via)) if isinstance(via, list) else ((via,), ())
    return Restriction(number, kind, from_way, nodes, ways, to_way)


# -------------------------------------------------------------------- hand-made crossings
CROSSING = {10: [1, 0], 20: [0, 2], 30: [0, 3], 40: [4, 0]}  # four streets that meet in 0


@pytest.fixture(params=[True, False], ids=["a way for each leg", "a way for each stretch"])
def crossing(request):
    return Map(CROSSING, repeat=request.param)


def test_no_takes_one_turn_out(crossing):
    applied = crossing.apply(no(10, 0, 20))
    assert crossing.moves() - crossing.moves(applied) == {((1, 0), (0, 2))}
    assert applied.outcome == (APPLIED,)
    kept = {tuple(move): angle for move, angle in zip(crossing.index.T.tolist(), crossing.angle, strict=True)}
    assert [kept[tuple(move)] for move in applied.turn_index.T.tolist()] == applied.turn_angle.tolist()


def test_only_takes_the_other_turns_out(crossing):
    applied = crossing.apply(only(10, 0, 20))
    assert crossing.moves() - crossing.moves(applied) == {((1, 0), (0, 3)), ((1, 0), (0, 4))}


def test_two_only_relations_of_one_arm_leave_both_ways_on(crossing):
    for order in ((0, 1), (1, 0)):
        applied = crossing.apply(*[(only(10, 0, 20, 1), only(10, 0, 30, 2))[i] for i in order])
        assert crossing.moves() - crossing.moves(applied) == {((1, 0), (0, 4))}


def test_only_and_no_together_take_out_what_either_does(crossing):
    applied = crossing.apply(only(10, 0, 20), no(40, 0, 10), no(40, 0, 10, 2))
    assert crossing.moves() - crossing.moves(applied) == {((1, 0), (0, 3)), ((1, 0), (0, 4)), ((4, 0), (0, 1))}


def test_a_way_back_is_forbidden_only_where_it_was_a_move():
    dead_end = Map(CROSSING | {50: [2, 5]})
    applied = dead_end.apply(no(10, 0, 10), no(50, 5, 50, 2))  # the second one is the only way out of 5
    assert applied.outcome == (NO_MOVE, APPLIED)
    assert dead_end.moves() - dead_end.moves(applied) == {((0, 2, 5), (5, 2, 0))}


def test_a_way_that_goes_on_beyond_its_node_may_still_be_driven_along():
    through = Map({10: [1, 0, 2], 30: [0, 3], 40: [0, 4]})
    back = through.apply(no(10, 0, 10))
    assert back.outcome == (NO_MOVE,)
    assert through.moves(back) == through.moves()
    along = through.apply(only(10, 0, 10))  # both directions of the way
    assert {a for a, _ in through.moves() - through.moves(along)} == {(1, 0), (2, 0)}
    assert {((1, 0), (0, 2)), ((2, 0), (0, 1))} <= through.moves(along)


DOUBLE = {1: [10, 11], 2: [11, 12], 3: [23, 22], 4: [22, 21], 5: [11, 22], 6: [11, 6], 7: [22, 7]}  # dual carriageway
BOTH = (1, 2, 3, 4)


def test_no_over_a_way_forbids_the_sequence_and_leaves_its_moves():
    roads = Map(DOUBLE, BOTH)
    applied = roads.apply(no(1, [5], 4, 77))
    assert roads.moves(applied) == roads.moves()
    assert roads.sequences(applied) == [[(10, 11), (11, 22), (22, 21)]]
    assert applied.forbidden_relation.tolist() == [77]


def test_only_over_a_way_forbids_to_leave_it_anywhere():
    roads = Map(DOUBLE, BOTH)
    applied = roads.apply(only(1, [5], 4))
    assert roads.moves() - roads.moves(applied) == {((10, 11), (11, 12)), ((10, 11), (11, 6))}
    assert roads.sequences(applied) == [[(10, 11), (11, 22), (22, 7)]]


def test_a_sequence_with_a_forbidden_move_need_not_be_listed():
    roads = Map(DOUBLE, BOTH)
    applied = roads.apply(no(1, [5], 4), no(5, 22, 4))
    assert roads.sequences(applied) == []
    assert applied.outcome == (APPLIED, APPLIED)


def test_a_via_way_that_was_merged_becomes_a_turn():
    merged = Map({1: [1, 2], 2: [2, 3], 3: [3, 4], 4: [3, 5]})  # node 2 lies between two segments' ends
    applied = merged.apply(no(1, [2], 3))
    assert merged.moves() - merged.moves(applied) == {((1, 2, 3), (3, 4))}
    assert merged.sequences(applied) == []


def test_a_via_way_of_several_segments_and_several_via_ways():
    roads = Map({1: [1, 2], 2: [2, 3, 4], 9: [3, 30], 3: [4, 5], 8: [2, 20], 7: [4, 40], 4: [5, 6], 5: [5, 50]})
    applied = roads.apply(no(1, [2], 3), no(1, [2, 3], 4, 2))
    assert roads.sequences(applied) == [[(1, 2), (2, 3), (3, 4), (4, 5)], [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]]


def test_every_reason_not_to_apply_is_counted():
    roads = Map(CROSSING | {50: [2, 6], 60: [6, 7], 61: [6, 8], 70: [0, 9]}, oneway=(70,))
    applied = roads.apply(no(99, 0, 20), no(10, [98], 20), no(10, 0, 97), no(10, 55, 20), no(20, 2, 50),
                          Restriction(1, "no", 10, (), (), 20), Restriction(1, "no", 10, (0, 2), (), 20),
                          Restriction(1, "no", 10, (0,), (20,), 50), no(70, 0, 10), no(10, [20], 30), no(20, [50], 60),
                          only(10, 0, 10), no(50, [60], 61))
    assert applied.outcome == (FROM_MISSING, VIA_MISSING, TO_MISSING, NO_JUNCTION, INSIDE, UNCLEAR, UNCLEAR, UNCLEAR,
                               NO_MOVE, NO_MOVE, APPLIED, NO_MOVE, APPLIED)
    assert applied.counts() == {UNCLEAR: 3, NO_MOVE: 3, APPLIED: 2, FROM_MISSING: 1, VIA_MISSING: 1, TO_MISSING: 1,
                                NO_JUNCTION: 1, INSIDE: 1}


def test_no_relation_changes_nothing(crossing):
    applied = crossing.apply()
    assert np.array_equal(applied.turn_index, crossing.index)
    assert applied.forbidden_ptr.tolist() == [0]


# -------------------------------------------------------------------- every walk of random networks
def matches(roads, walk, one):
    """Whether a relation is about this walk, from the last leg on way ``from`` to the first one on way ``to``."""
    legs = [(*leg, way) for s in walk for leg, way in zip(pairwise(roads.segments[s]), roads.ways[s], strict=True)]
    first, last = len(roads.ways[walk[0]]), len(legs) - len(roads.ways[walk[-1]])
    if one.via_nodes:
        (start, node, came), (_, end, goes) = legs[first - 1], legs[first] if len(walk) == 2 else (0, 0, 0)
        turned = one.from_way != one.to_way or (start == end) == (one.kind == "no")
        return len(walk) == 2 and (came, node, goes) == (one.from_way, one.via_nodes[0], one.to_way) and turned
    wanted = [one.from_way, *one.via_ways, one.to_way]
    for i in range(first):
        for j in range(max(last, i + 1), len(legs)):
            ways = [way for _, _, way in legs[i:j + 1]]
            runs = [way for k, way in enumerate(ways) if not k or way != ways[k - 1]]
            if runs == wanted and ways[1] != wanted[0] and ways[-2] != wanted[-1]:
                return len(walk) > 1
    return False


def inside(walk, part):
    return any(walk[k:k + len(part)] == part for k in range(len(walk) - len(part) + 1))


def permitted_by_hand(roads, walks, relations):
    """Walks that violate no relation."""
    banned, allowed = set(), {}
    for walk in walks:
        for one in relations:
            if matches(roads, walk, one):
                if one.kind == "no":
                    banned.add(walk)
                for end in range(1, len(walk) if one.kind == "only" else 0):
                    allowed.setdefault(walk[:end], set()).add(walk[end])
    left = {(*prefix, other) for prefix, good in allowed.items() for other in range(len(roads.segments))
            if other not in good}
    bad = banned | left
    lengths = sorted({len(walk) for walk in bad})
    return {walk for walk in walks
            if not any(walk[k:k + n] in bad for n in lengths for k in range(len(walk) - n + 1))}


def permitted_by_turns(walks, applied):
    moves = set(map(tuple, applied.turn_index.T.tolist()))
    sequences = [tuple(applied.forbidden[a:b].tolist()) for a, b in pairwise(applied.forbidden_ptr)]
    return {walk for walk in walks if all(move in moves for move in pairwise(walk))
            and not any(inside(walk, sequence) for sequence in sequences)}


def random_map(random):
    """Streets cut out of a grid; each edge belongs to one way, no way meets itself."""
    width = 4
    free = {frozenset(pair) for n in range(width * width) for pair in ((n, n + 1), (n, n + width))
            if pair[1] < width * width and (pair[1] == n + width or n % width < width - 1)}
    free = {edge for edge in sorted(free, key=sorted) if random.random() < 0.85}
    ways, number = {}, 100
    while free:
        line = list(sorted(free, key=sorted)[random.integers(len(free))])
        free.discard(frozenset(line))
        while random.random() < 0.6:
            options = sorted({n for edge in free if line[-1] in edge for n in edge} - set(line))
            if not options:
                break
            line.append(int(random.choice(options)))
            free.discard(frozenset(line[-2:]))
        ways[number] = line
        number += 1
    return Map(ways, oneway=[way for way in ways if random.random() < 0.3], repeat=bool(random.random() < 0.5))


def random_relation(random, roads, walks, number):
    """About a walk that is there, so that most relations mean something."""
    kind = "no" if random.random() < 0.6 else "only"
    walk = walks[random.integers(len(walks))]
    runs = [way for s in walk for way in roads.ways[s]]
    runs = [way for k, way in enumerate(runs) if not k or way != runs[k - 1]]
    if len(walk) > 1 and random.random() < 0.5:
        return relation(kind, roads.ways[walk[0]][-1], int(roads.segments[walk[0]][-1]), roads.ways[walk[1]][0], number)
    size = min(len(runs), int(random.integers(3, 5)))
    start = int(random.integers(0, len(runs) - size + 1))
    part = runs[start:start + size]
    return relation(kind, part[0], part[1:-1], part[-1], number) if size > 2 and len(set(part)) == size else \
        relation(kind, part[0], int(random.choice(roads.junctions)), part[-1], number)


@pytest.mark.parametrize("seed", range(30))
def test_a_walk_is_permitted_if_and_only_if_it_violates_no_relation(seed):
    random = np.random.default_rng(seed)
    roads = random_map(random)
    walks = roads.walks(4)
    relations = [random_relation(random, roads, walks, number) for number in range(8)]
    # a way through longer than the walks looked at here would be judged by its beginning only
    deep = roads.walks(6)
    short = [one for one in relations if not any(len(walk) > 4 and matches(roads, walk, one) for walk in deep)]
    applied = roads.apply(*short)
    assert permitted_by_turns(walks, applied) == permitted_by_hand(roads, walks, short)
    assert len(applied.outcome) == len(short)


# -------------------------------------------------------------------- a real city
@pytest.fixture(scope="module")
def porto(shared_data):
    """The network, its file, all turns before restrictions, and the legs (place, place, ways) of each segment."""
    path = shared_data / "osm_extracts" / "porto.osm.pbf"
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "make_turns", lambda *one: given.append(one) or make_turns(*one))
        roads, report = build_module.build_osm(path)
    index, _ = make_turns(*given[0])
    back = index[1] == given[0][4][index[0]]
    data = read_osm(path, network_filter("drive"), KEYS)
    ways = {}
    for way, start, end in zip(data.way_id.tolist(), data.way_ptr[:-1], data.way_ptr[1:], strict=True):
        for pair in pairwise(map(tuple, data.node_xy[data.node[start:end]].tolist())):
            ways.setdefault(frozenset(pair), set()).add(way)
    places = list(map(tuple, np.rint(roads.line_xy * 1e7).astype(np.int64).tolist()))
    legs = [[(*leg, ways[frozenset(leg)]) for leg in pairwise(places[start:end])]
            for start, end in pairwise(roads.line_ptr.tolist())]
    return roads, report, data, index, legs, back


def test_porto_has_the_turns_that_were_counted(porto):
    roads, _, _, index, _, back = porto
    assert (~back).sum() == 226_522
    alone = np.bincount(index[0], minlength=len(roads.tail)) == 1
    assert alone[index[0][back]].all()
    assert np.isin(np.arange(len(roads.tail)), index[0]).sum() == np.isin(roads.head, roads.tail).sum()


def test_in_porto_exactly_the_moves_that_a_relation_names_are_gone(porto):
    roads, report, data, index, legs, _ = porto
    gone = set(map(tuple, index.T.tolist())) - set(map(tuple, roads.turn_index.T.tolist()))
    at = {}
    for a, b in index.T.tolist():
        at.setdefault(int(roads.junction_id[roads.head[a]]), []).append((a, b))
    named, allowed = set(), {}
    for one in data.restrictions:
        for a, b in at.get(one.via_nodes[0], []) if one.via_nodes else []:
            (start, _, came), (_, end, goes) = legs[a][-1], legs[b][0]
            if one.from_way in came and one.to_way in goes and (one.from_way != one.to_way or
                                                               (start == end) == (one.kind == "no")):
                if one.kind == "no":
                    named.add((a, b))
                else:
                    allowed.setdefault(a, set()).add(b)
    for a, good in allowed.items():
        named |= {move for move in at[int(roads.junction_id[roads.head[a]])] if move[0] == a and move[1] not in good}
    assert len(gone) > 300
    assert gone == named
    assert report["restrictions_applied"] == 307
    assert {kind: count for kind, count in report["restrictions_left_out"].items() if count > 10} == {
        "no_such_move": 24, "incomplete": 15, "from_way_not_in_network": 11}


def test_in_porto_no_walk_of_three_violates_the_relation_over_a_way(porto):
    roads, _, data, _, legs, _ = porto
    over = [one for one in data.restrictions if one.via_ways]
    assert [one.kind for one in over] == ["no"]
    onward = {}
    for a, b in roads.turn_index.T.tolist():
        onward.setdefault(a, []).append(b)
    wanted = (over[0].from_way, *over[0].via_ways, over[0].to_way)
    walks = [(a, b, c) for a in range(len(legs)) if any(wanted[0] in leg[2] for leg in legs[a])
             for b in onward.get(a, []) for c in onward.get(b, [])]
    found = []
    for walk in walks:
        told = [leg[2] for s in walk for leg in legs[s]]
        runs = [next(iter(one)) for k, one in enumerate(told) if not k or one != told[k - 1]]
        if any(tuple(runs[k:k + 3]) == wanted for k in range(len(runs) - 2)):
            found.append(walk)
    assert found == [tuple(roads.forbidden.tolist())]
