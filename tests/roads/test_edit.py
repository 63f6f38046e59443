"""Edits of roads: a snapshot equals the network built from scratch with the edits that hold then, ways included."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from changing import ON_SEGMENT, SPAN, graph_of, lines_of, town
from hypothesis import given, settings
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import OPEN_END, OPEN_START, DynamicHeteroGraph, Geometry, load
from stgraph.roads import Roads
from stgraph.roads.edit import add_segment, change_speed, close_segment, open_segment
from stgraph.roads.network import ROAD, reverse_segments
from stgraph.roads.paths import shortest_distances
from stgraph.roads.turns import make_turns


class Reference:
    """What every segment is like at every instant: its speed, NaN while it is closed."""

    def __init__(self, graph: DynamicHeteroGraph) -> None:
        self.roads = Roads.of(graph)
        names = graph["segment"].node_id.tolist()
        self.speed = {name: np.full(SPAN + 2, speed) for name, speed in
                      zip(names, graph["segment"].speed.tolist(), strict=True)}
        self.ends = {name: (int(t), int(h)) for name, t, h in zip(names, self.roads.tail, self.roads.head, strict=True)}
        full, _ = make_turns(self.roads.tail, self.roads.head, self.roads.line_ptr, self.roads.line_xy,
                             self.roads.reverse, metric=True)
        present = set(map(tuple, self.roads.turn_index.T.tolist()))
        self.banned = {(names[a], names[b]) for a, b in full.T.tolist() if (a, b) not in present}
        self.chains = [tuple(names[i] for i in self.roads.forbidden[a:b])
                       for a, b in itertools.pairwise(self.roads.forbidden_ptr)]
        self.lights = {light: names[segment] for light, segment in
                       zip(self.roads.signal_id.tolist(), self.roads.signal_segment, strict=True)}
        self.sensors = {(f"s{a}", names[b]) for a, b in graph[ON_SEGMENT].edge_index.T.tolist()}
        self.rows = {name: row for row, name in enumerate(names)}
        self.lines = {name: self.roads.line_xy[a:b] for name, (a, b) in
                      zip(names, itertools.pairwise(self.roads.line_ptr), strict=True)}

    # one place more at the front: what was before 0; the last place stands for the time from SPAN on
    def part(self, start: int, end: int | None) -> slice:
        return slice(start + 1, SPAN + 2 if end is None else end + 1)

    def edit(self, word: str, name: str, start: int, end: int | None, speed: float) -> bool:
        """Whether the edit is possible; the state follows it."""
        state, part = self.speed[name], self.part(start, end)
        if np.isnan(state).all():
            return False
        if word == "open":
            if not np.isnan(state[part]).any():
                return False
            before = state.copy()
            place = part.start
            while place < part.stop:
                if np.isnan(before[place]):
                    begin = place
                    while place < part.stop and np.isnan(before[place]):
                        place += 1
                    earlier = before[:begin][~np.isnan(before[:begin])]
                    state[begin:place] = earlier[-1] if len(earlier) else before[~np.isnan(before)][0]
                else:
                    place += 1
            return True
        if np.isnan(state[part]).all():
            return False
        state[part] = np.nan if word == "close" else np.where(np.isnan(state[part]), np.nan, speed)
        return True

    def add(self, name: str, ends: tuple[int, int], start: int, end: int | None, speed: float) -> np.ndarray:
        """Gives the line, whose bend no other segment in this direction has."""
        bend = sum(other == ends for other in self.ends.values())
        one, other = self.roads.junction_xy[sorted(ends)]
        middle = (one + other) / 2 + 0.1 * bend * (other - one)[::-1] * (1, -1)
        line = np.array([one, middle, other]) if bend else np.array([one, other])
        self.lines[name] = line if ends[0] < ends[1] else line[::-1]
        self.speed[name] = np.full(SPAN + 2, np.nan)
        self.speed[name][self.part(start, end)] = speed
        self.ends[name] = ends
        return self.lines[name]

    def at(self, t: int) -> Roads:
        """The network built from scratch from what is open at ``t``."""
        place = min(max(t, -1) + 1, SPAN + 1)
        names = [name for name, state in self.speed.items() if not np.isnan(state[place])]
        tail, head = np.array([self.ends[name] for name in names], np.int64).reshape(-1, 2).T
        ptr = np.cumsum([0, *(len(self.lines[name]) for name in names)])
        xy = np.concatenate([self.lines[name] for name in names])
        turns, angle = make_turns(tail, head, ptr, xy, reverse_segments(tail, head, ptr, xy), metric=True)
        kept = np.array([(names[a], names[b]) not in self.banned for a, b in turns.T], bool)
        row = {name: i for i, name in enumerate(names)}
        chains = [chain for chain in self.chains if all(name in row for name in chain)]
        lights = [light for light, name in self.lights.items() if name in row]
        return Roads(
            self.roads.junction_id, self.roads.junction_xy, tail, head,
            np.array([np.linalg.norm(np.diff(self.lines[name], axis=0), axis=1).sum() for name in names]), ptr, xy,
            metric=True,
            attributes={"speed": np.array([self.speed[name][place] for name in names])},
            turn_index=turns[:, kept], turn_angle=angle[kept], forbidden_ptr=3 * np.arange(len(chains) + 1),
            forbidden=np.array([row[name] for chain in chains for name in chain], np.int64),
            signal_id=np.array(lights), signal_segment=np.array([row[self.lights[light]] for light in lights], int),
            segment_id=names)


def facts(roads: Roads, names: list[str]) -> dict[str, Any]:
    """What a network says, whatever the order of its segments."""
    lines = [tuple(map(tuple, roads.line_xy[a:b])) for a, b in itertools.pairwise(roads.line_ptr)]
    speeds = np.asarray(roads.attributes["speed"]).tolist()
    return {
        "segments": {name: (int(t), int(h), float(size), line, float(speed)) for name, t, h, size, line, speed in
                     zip(names, roads.tail, roads.head, roads.length, lines, speeds, strict=True)},
        "turns": {(names[a], names[b]): round(float(angle), 3) for (a, b), angle in
                  zip(roads.turn_index.T.tolist(), roads.turn_angle, strict=True)},
        "chains": {tuple(names[i] for i in roads.forbidden[a:b]) for a, b in itertools.pairwise(roads.forbidden_ptr)},
        "count": (len(names), roads.turn_index.shape[1], len(roads.forbidden_ptr))}


def plain_names(graph: DynamicHeteroGraph) -> list[str]:
    if "version" not in graph["segment"]:
        return graph["segment"].node_id.tolist()
    return [name.removesuffix(f"@{version}") if version > 1 else name
            for name, version in zip(graph["segment"].node_id.tolist(), graph["segment"].version.tolist(), strict=True)]


def check(graph: DynamicHeteroGraph, reference: Reference, t: int) -> None:
    """The snapshot equals the rebuild: arrays, what hangs on segments, series, and all shortest ways."""
    snapshot = graph.at(t)
    names = plain_names(snapshot)
    roads, rebuilt = Roads.of(snapshot), reference.at(t)
    assert facts(roads, names) == facts(rebuilt, list(rebuilt.segment_id))
    alive = set(names)
    on = snapshot["traffic_signal", "on", "segment"].edge_index.T.tolist()
    lights = [light.split("@")[0] for light in snapshot["traffic_signal"].node_id.tolist()]
    assert {(lights[a], names[b]) for a, b in on} == \
        {(light, name) for light, name in reference.lights.items() if name in alive}
    assert len(on) == len(lights) == len(rebuilt.signal_id)
    sensors = snapshot[ON_SEGMENT].edge_index.T.tolist()
    assert sorted((f"s{a}", names[b]) for a, b in sensors) == sorted(
        pair for pair in reference.sensors if pair[1] in alive)
    for end, relation in ((0, ("junction", "begins", "segment")), (1, ("segment", "ends", "junction"))):
        index = snapshot[relation].edge_index.T.tolist()
        found = {names[pair[1 - end]]: pair[end] for pair in index}
        assert found == {name: reference.ends[name][end] for name in alive}
        assert len(index) == len(names)
    if 0 <= t < SPAN:
        signal = snapshot.signal("segment", "counts")
        values, mask = signal.read(0, 1)
        for column, name in enumerate(names):
            row = reference.rows.get(name)
            assert bool(mask[0, column, 0]) == (row is not None)
            if row is not None:
                assert values[0, column, 0] == t * len(reference.rows) + row
    one, other = (shortest_distances(net, net.junction_id) for net in (roads, rebuilt))
    np.testing.assert_allclose(one, other)


WORDS = st.sampled_from(["close", "close", "open", "speed", "add"])
EDITS = st.lists(st.tuples(WORDS, st.integers(0, 10_000), st.integers(0, SPAN - 1), st.integers(1, SPAN + 4),
                           st.integers(2, 40)), min_size=1, max_size=9)


@settings(max_examples=25)
@given(st.integers(0, 3), EDITS)
def test_a_snapshot_equals_a_rebuild(seed: int, edits: list[tuple[str, int, int, int, int]]) -> None:
    graph = graph_of(town(seed))
    reference = Reference(graph)
    verbs = {"close": close_segment, "open": open_segment}
    for word, pick, start, length, speed in edits:
        end = start + length if start + length <= SPAN else None
        if word == "add":
            tail, head = pick % 10, (pick // 10) % 10
            if tail == head:
                continue
            name = f"new {len(reference.speed)}"
            line = reference.add(name, (tail, head), start, end, float(speed))
            graph = add_segment(graph, 100 + tail, 100 + head, start, end, segment_id=name, geometry=line, speed=speed)
        else:
            name = sorted(reference.speed)[pick % min(len(reference.speed), 5)]  # few, so that edits meet
            possible = reference.edit(word, name, start, end, float(speed))
            arguments = (float(speed),) if word == "speed" else ()
            if not possible:
                with pytest.raises(InputError):
                    verbs.get(word, change_speed)(graph, name, *arguments, start, end)
                continue
            graph = verbs.get(word, change_speed)(graph, name, *arguments, start, end)
        graph.validate()
    for t in (-1, 2, 5, 8, SPAN + 5):
        check(graph, reference, t)


@settings(max_examples=10)
@given(st.integers(0, 3), EDITS)
def test_an_edited_graph_is_the_same_after_the_disk(tmp_path_factory: pytest.TempPathFactory, seed: int,
                                                    edits: list[tuple[str, int, int, int, int]]) -> None:
    graph = graph_of(town(seed))
    reference = Reference(graph)
    folder = tmp_path_factory.mktemp("edit")
    for place, (_, pick, start, length, _) in enumerate(edits[:3]):
        name = sorted(reference.speed)[pick % 5]
        if reference.edit("close", name, start, start + min(length, SPAN - start), 0.0):
            graph = close_segment(graph, name, start, start + min(length, SPAN - start))
        graph.save(folder / f"{place}.stg")
        graph = load(folder / f"{place}.stg")
    for t in (-1, 3, 7, SPAN + 5):
        check(graph, reference, t)


def test_what_is_unchanged_is_shared_and_the_old_graph_stays() -> None:
    graph = graph_of(town())
    before = {kind: dict(graph._store(kind).items()) for kind in (*graph.node_types, *graph.edge_types)}
    name = graph["segment"].node_id[3]
    closed = close_segment(graph, name, 3)
    for kind, values in before.items():
        assert set(graph._store(kind).keys()) == set(values)
        for attribute, value in values.items():
            assert graph._store(kind)[attribute] is value
    assert closed["junction"].pos is graph["junction"].pos
    assert closed["segment"].geometry is graph["segment"].geometry  # a closure for good is one time, nothing else
    assert closed["segment"].speed is graph["segment"].speed
    assert closed[ROAD].edge_index is graph[ROAD].edge_index
    assert closed.signal("segment") is graph.signal("segment")
    assert closed["segment"].valid_to[3] == 3
    assert (closed["segment"].valid_to[torch.arange(len(before["segment"]["node_id"])) != 3] == OPEN_END).all()
    assert "edits" not in graph.metadata
    assert closed.metadata["edits"] == [{"edit": "close", "segments": [str(name)], "count": 1, "from": 3, "to": None}]


def test_versions_are_rows_with_lives_of_their_own() -> None:
    graph = graph_of(town())
    name = str(graph["segment"].node_id[0])
    slow = float(graph["segment"].speed[0])
    edited = change_speed(close_segment(graph, name, 2, 4), f"{name}", 3.0, 6, 8)
    store = edited["segment"]
    found = {row_name: (int(a), int(b), float(speed)) for row_name, a, b, speed in
             zip(store.node_id.tolist(), store.valid_from, store.valid_to, store.speed, strict=True)
             if row_name.split("@")[0] == name}
    assert found == {name: (OPEN_START, 2, slow), f"{name}@2": (4, 6, slow), f"{name}@3": (6, 8, 3.0),
                     f"{name}@4": (8, OPEN_END, slow)}
    assert store.version[-3:].tolist() == [2, 3, 4]
    again = close_segment(edited, f"{name}@3", 5, 9)  # any version names the segment
    assert sorted(row for row in again["segment"].node_id.tolist() if row.split("@")[0] == name) == [
        name, f"{name}@2", f"{name}@4"]


def test_a_closure_that_is_lifted_leaves_one_version() -> None:
    graph = graph_of(town())
    name = graph["segment"].node_id[0]
    lifted = open_segment(close_segment(graph, name, 5), name, 5)
    assert lifted["segment"].node_id.tolist() == graph["segment"].node_id.tolist()
    assert lifted["segment"].valid_to[0] == OPEN_END


def test_a_closed_street_makes_the_way_longer_by_hand() -> None:
    places = np.array([(0.0, 0.0), (100.0, 0.0), (50.0, 100.0)])
    tail, head = np.array([0, 0, 2]), np.array([1, 2, 1])
    ptr, xy = lines_of(places, tail, head)
    turns, angle = make_turns(tail, head, ptr, xy, np.full(3, -1), metric=True)
    graph = Roads(np.array([1, 2, 3]), places, tail, head, np.linalg.norm(places[tail] - places[head], axis=1), ptr,
                  xy, metric=True, turn_index=turns, turn_angle=angle).tables().graph()
    closed = close_segment(graph, "1-2-0", 1000, 2000)
    way = [float(shortest_distances(closed.at(t), [1], [2])[0, 0]) for t in (999, 1000, 1999, 2000)]
    assert way == pytest.approx([100.0, 2 * np.hypot(50, 100), 2 * np.hypot(50, 100), 100.0])
    shut = close_segment(closed, ["1-3-0"], 1500, 1600)
    assert np.isinf(shortest_distances(shut.at(1500), [1], [2])).all()


def test_a_new_street_is_filled_in_and_used() -> None:
    graph = graph_of(town())
    built = add_segment(graph, 100, 108, "1970-01-01T00:00:05", geometry=[(0, 0), (150, 0), (200, 200)],
                        road_class="ferry")
    store = built["segment"]
    assert store.node_id[-1] == "100-108-0"
    assert float(store.length[-1]) == pytest.approx(150 + np.hypot(50, 200))
    assert bool(store.speed_imputed[-1])
    assert float(store.speed[-1]) == pytest.approx(float(graph["segment"].speed.median()))
    words = built.schema.of("segment")["road_class"].categories
    assert words == ("primary", "residential", "ferry")
    assert words[int(store.road_class[-1])] == "ferry"
    assert graph.schema.of("segment")["road_class"].categories == ("primary", "residential")
    assert store.pos[-1].tolist() == pytest.approx([150 + 50 * (178.0776 - 150) / 206.1553,
                                                    200 * (178.0776 - 150) / 206.1553], rel=1e-5)
    before, after = (shortest_distances(built.at(t), [100], [108])[0, 0] for t in (4, 5))
    assert after == pytest.approx(float(store.length[-1]))
    assert before > after
    twice = add_segment(built, 100, 108, 5)
    assert twice["segment"].node_id[-1] == "100-108-1"
    built.validate()


def test_turning_back_is_a_move_where_every_other_way_is_closed() -> None:
    graph = graph_of(town())
    dead_end = {"102-109-0", "109-102-0"}
    there = [name for name in graph["segment"].node_id.tolist() if name.startswith("102-") and name not in dead_end]
    closed = close_segment(graph, there, 2, 4)

    def back(t: int) -> bool:
        snapshot = closed.at(t)
        names = plain_names(snapshot)
        pairs = {(names[a], names[b]) for a, b in snapshot["segment", "turn", "segment"].edge_index.T.tolist()}
        return ("109-102-0", "102-109-0") in pairs

    assert [back(t) for t in (1, 2, 3, 4)] == [False, True, True, False]


@pytest.mark.parametrize(("edit", "problem", "field"), [
    (lambda g: close_segment(g, "nowhere", 1), "no such segment", "segment"),
    (lambda g: close_segment(g, [], 1), "no segment is named", "segment"),
    (lambda g: close_segment(g, g["segment"].node_id[0], 5, 5), "ends before it starts", "interval"),
    (lambda g: close_segment(g, g["segment"].node_id[0], "noon"), "not a usable time", "time"),
    (lambda g: close_segment(close_segment(g, g["segment"].node_id[0], 1), g["segment"].node_id[0], 3), "closed all",
     "segment"),
    (lambda g: open_segment(g, g["segment"].node_id[0], 1), "open all", "segment"),
    (lambda g: change_speed(g, g["segment"].node_id[0], 0.0, 1), "positive", "speed"),
    (lambda g: add_segment(g, 100, 999, 1), "no such junction", "junction"),
    (lambda g: add_segment(g, 100, 104, 1, segment_id=g["segment"].node_id[0]), "taken", "segment_id"),
    (lambda g: add_segment(g, 100, 104, 1, colour="red"), "no such attribute", "colour"),
    (lambda g: add_segment(g, 100, 104, 1, speed="fast"), "not a value", "speed"),
    (lambda g: add_segment(g, 100, 104, 1, length=-1.0), "positive", "length"),
    (lambda g: add_segment(g, 100, 104, 1, geometry=[(0, 0), (0, 90)]), "from its junction", "geometry"),
    (lambda g: add_segment(g, 100, 104, 1, geometry=[(0, 0)]), "two points", "geometry"),
    (lambda g: close_segment(g.reorder("hilbert"), "100-101-0", 1), "another order", "segment.user_index")])
def test_faults_name_their_parts(edit: Any, problem: str, field: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        edit(graph_of(town()))
    assert error.value.field == field
    assert error.value.remedy


def test_a_graph_without_roads_is_refused() -> None:
    graph = DynamicHeteroGraph()
    graph["sensor"].node_id = np.array(["a"])
    with pytest.raises(InputError, match="no roads"):
        close_segment(graph, "a", 1)


def test_an_id_that_looks_like_a_version_is_one_of_its_own() -> None:
    roads = town()
    names = [f"x{i}" for i in range(len(roads.tail))]
    names[1] = "x0@2"
    roads = Roads(**{**{name: getattr(roads, name) for name in roads.__dataclass_fields__}, "segment_id": names})
    graph = roads.tables().graph()
    edited = close_segment(graph, "x0", 2, 4)
    assert edited["segment"].node_id[-1] == "x0@3"
    assert edited["segment"].valid_to[1] == OPEN_END
    again = close_segment(edited, "x0@2", 2, 4)  # the segment of that name, not a version of x0
    assert again["segment"].node_id[-1] == "x0@2@2"


def test_shapes_of_new_rows_follow() -> None:
    graph = graph_of(town())
    name = graph["segment"].node_id[7]
    edited = close_segment(graph, name, 2, 4)
    assert isinstance(edited["segment"].geometry, Geometry)
    assert edited["segment"].geometry[[-1 + len(edited["segment"].node_id)]] == graph["segment"].geometry[[7]]


def test_a_move_that_no_time_allows_waits_for_one() -> None:
    graph = graph_of(town())
    name = next(name for name in graph["segment"].node_id.tolist() if name.endswith("-102-0"))
    closed = close_segment(graph, name, 2)
    built = add_segment(closed, 102, 100, 5, segment_id="new")
    assert "dormant_edges" in built.tables
    opened = open_segment(built, name, 8)
    for t, wanted in ((6, False), (9, True)):
        snapshot = opened.at(t)
        names = plain_names(snapshot)
        pairs = {(names[a], names[b]) for a, b in snapshot["segment", "turn", "segment"].edge_index.T.tolist()}
        assert ((name, "new") in pairs) == wanted
