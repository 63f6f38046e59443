"""Tokens of trips say how the way goes, and nothing of where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from stgraph.roads import Roads
from stgraph.sources.trips.journeys import Walks
from stgraph.sources.trips.tokens import CLASSES, FEATURES, UNITS, make_tokens, segment_features

START = 1_700_000_000.0  # 2023-11-14T22:13:20Z, a Tuesday


def at(name: str) -> int:
    return FEATURES.index(name)


def country(seed: int = 0, junctions: int = 25) -> Roads:
    """Junctions anywhere, joined by bent lines, some with two more points than others; metres."""
    chance = np.random.default_rng(seed)
    place = chance.uniform(-2000, 2000, (junctions, 2))
    tail, head = chance.integers(0, junctions, (2, 120))
    tail, head = tail[tail != head], head[tail != head]
    lines = [np.vstack([place[a], *(place[a] + (place[b] - place[a]) * share + chance.normal(0, 60, 2)
                                    for share in np.linspace(0, 1, chance.integers(0, 4) + 2)[1:-1]), place[b]])
             for a, b in zip(tail, head, strict=True)]
    length = np.array([np.hypot(*np.diff(line, axis=0).T).sum() for line in lines])
    words = [*CLASSES[:-1], "trunk_link", "busway"]
    return Roads(np.arange(junctions), place, tail, head, length, np.r_[0, np.cumsum([len(line) for line in lines])],
                 np.concatenate(lines), metric=True, attributes={
                     "road_class": pa.array(chance.choice(words, len(tail)).tolist()).dictionary_encode(),
                     "lanes": chance.integers(1, 5, len(tail)).astype(np.int16),
                     "speed": chance.uniform(5, 30, len(tail))})


def walks(roads: Roads, seed: int = 0, count: int = 20) -> Walks:
    """Ways over the map, each in one or two pieces."""
    chance = np.random.default_rng(seed)
    rows = []
    for journey in range(count):
        segment, now = chance.integers(0, len(roads.tail)), START + chance.uniform(0, 1e6)
        for step in range(chance.integers(2, 15)):
            spent, share = chance.uniform(5, 60), 0.5 if step == 0 else 1.0
            rows.append((journey, int(step > 7), segment, 0.0, roads.length[segment] * share, now, now + spent, 1.0))
            now += spent
            segment = chance.choice(np.flatnonzero(roads.tail == roads.head[segment]))
    return Walks(*(np.array(column) for column in zip(*rows, strict=True)))


def lines_of(roads: Roads, order) -> list[np.ndarray]:
    return [roads.line_xy[roads.line_ptr[s]:roads.line_ptr[s + 1]] for s in order]


def test_tokens_do_not_depend_on_the_numbers_of_segments_and_junctions():
    roads = country()
    driven = walks(roads)
    order = np.random.default_rng(1).permutation(len(roads.tail))
    names = np.random.default_rng(2).permutation(len(roads.junction_xy))
    lines = lines_of(roads, order)
    other = replace(
        roads, junction_xy=roads.junction_xy[np.argsort(names)], tail=names[roads.tail[order]],
        head=names[roads.head[order]], length=roads.length[order], line_xy=np.concatenate(lines),
        line_ptr=np.r_[0, np.cumsum([len(line) for line in lines])],
        attributes={"road_class": roads.attributes["road_class"].take(pa.array(order)),
                    "lanes": roads.attributes["lanes"][order], "speed": roads.attributes["speed"][order]})
    there = make_tokens(other, replace(driven, segment=np.argsort(order)[driven.segment]))
    here = make_tokens(roads, driven)
    np.testing.assert_array_equal(here.ptr, there.ptr)
    np.testing.assert_allclose(here.values, there.values, atol=1e-6)


@pytest.mark.parametrize(("matrix", "turned"), [([[1, 0], [0, -1]], True), ([[-1, 0], [0, 1]], True),
                                                ([[0, -1], [1, 0]], False), ([[0.6, -0.8], [0.8, 0.6]], False)])
def test_a_mirrored_map_turns_the_other_way_and_a_turned_map_says_the_same(matrix, turned):
    roads = country()
    driven = walks(roads)
    other = replace(roads, junction_xy=roads.junction_xy @ np.array(matrix).T,
                    line_xy=roads.line_xy @ np.array(matrix).T + (300, -70))
    here, there = make_tokens(roads, driven).values, make_tokens(other, driven).values.copy()
    assert np.abs(here[:, at("turn_sin")]).max() > 0.5
    if turned:
        assert not np.allclose(here, there)
        there[:, at("turn_sin")] *= -1
    np.testing.assert_allclose(here, there, atol=2e-5)


def test_a_way_by_hand():
    """100 m east on a primary road, then left, 50 m to the north and again 50 m to the east on one link."""
    place = np.array([[0.0, 0], [100, 0], [150, 50]])
    lines = np.array([[0.0, 0], [100, 0], [100, 0], [100, 50], [150, 50], [100, 0], [0, 0]])
    roads = Roads(np.arange(3), place, np.array([0, 1, 1]), np.array([1, 2, 0]), np.array([100.0, 100, 100]),
                  np.array([0, 2, 5, 7]), lines, metric=True, attributes={
                      "road_class": np.array(["primary", "motorway_link", "primary"]),
                      "lanes": np.array([2, 1, 2], np.int16), "speed": np.array([10.0, 20, 10])})
    driven = Walks(np.zeros(2, int), np.zeros(2, int), np.array([0, 1]), np.array([60.0, 0]), np.array([40.0, 100]),
                   np.array([START, START + 9]), np.array([START + 9, START + 9]), np.ones(2))
    tokens = make_tokens(roads, driven, "Asia/Kolkata")
    first, second = tokens.values
    assert tokens.ptr.tolist() == [0, 2]
    clock = 2 * np.pi * (3 + 43 / 60 + 20 / 3600) / 24  # 03:43:20 on Wednesday
    week = 2 * np.pi * 2 / 7
    expected = {"log_length": np.log(101), "lanes": 2, "speed_limit": 10, "curvature": 0, "degree": 2, "link": 0,
                "class_primary": 1, "turn_sin": 0, "turn_cos": 0, "driven_share": 0.4, "log_time": np.log(10),
                "minute_sin": np.sin(clock), "minute_cos": np.cos(clock), "weekday_sin": np.sin(week),
                "weekday_cos": np.cos(week)}
    np.testing.assert_allclose(first, [expected.get(name, 0) for name in FEATURES], atol=1e-6)
    then = {"lanes": 1, "speed_limit": 20, "curvature": np.pi / 200, "degree": 0, "link": 1, "class_motorway": 1,
            "turn_sin": 1, "turn_cos": 0, "driven_share": 1, "log_time": 0}
    for name, value in then.items():
        np.testing.assert_allclose(second[at(name)], value, atol=1e-6, err_msg=name)


def test_every_piece_is_a_sequence_and_every_token_is_a_number():
    roads = country()
    driven = walks(roads)
    tokens = make_tokens(roads, driven)
    assert tokens.values.shape == (len(driven), len(FEATURES)) == (len(driven), len(UNITS))
    assert tokens.values.dtype == np.float32
    assert np.isfinite(tokens.values).all()
    for a, b in zip(tokens.ptr[:-1], tokens.ptr[1:], strict=True):
        assert len({(driven.journey[i], driven.piece[i]) for i in range(a, b)}) == 1
        assert (tokens.values[a, [at("turn_sin"), at("turn_cos")]] == 0).all()
    classes = tokens.values[:, [at(f"class_{word}") for word in CLASSES]]
    assert (classes.sum(1) == 1).all()


def test_a_map_that_knows_less_gives_tokens_too():
    bare = replace(country(), attributes={})
    features = segment_features(bare)
    assert (features[:, at("class_other")] == 1).all()
    assert (features[:, [at("lanes"), at("speed_limit"), at("link")]] == 0).all()
    words = replace(bare, attributes={"road_class": np.array(["busway"] * len(bare.tail))})
    np.testing.assert_array_equal(segment_features(words), features)
