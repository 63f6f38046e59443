"""Attributes: every form of a tag, and the rules by which segments get values, against slow references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stgraph.sources.osm.attributes import (
    KMH,
    USUAL_LANES,
    USUAL_SPEED,
    Runs,
    impute,
    longest,
    parse_lanes,
    parse_speed,
    segment_attributes,
)
from stgraph.sources.osm.tags import Tags

MPH = 0.44704


@pytest.mark.parametrize(("text", "speed"), [
    ("50", 50 * KMH), (" 50 ", 50 * KMH), ("50 km/h", 50 * KMH), ("50kmh", 50 * KMH), ("7.5", 7.5 * KMH),
    ("7,5", 7.5 * KMH), ("30 mph", 30 * MPH), ("30mph", 30 * MPH), ("10 knots", 10 * 1852 / 3600),
    ("50; 40", 45 * KMH), ("50;40", 45 * KMH), ("30|50", 40 * KMH), ("30,50", 40 * KMH), ("20 mph;30 mph", 25 * MPH),
    ("none", 130 * KMH), ("walk", 7 * KMH), ("RO:urban", 50 * KMH), ("DE:rural", 100 * KMH), ("xx:rural", 90 * KMH),
    ("DE:zone:30", 30 * KMH), ("FR:zone30", 30 * KMH), ("RU:40", 40 * KMH),
    ("50; 40 @ (22:00-06:00)", 50 * KMH), ("80 @ (Mo-Fr 07:00-09:00; Sa, 12:00); 100", 100 * KMH),
    ("60;30 @ wet", 60 * KMH), ("50;fast", 50 * KMH), ("30 MPH", 30 * MPH),
])
def test_speeds_are_read(text, speed):
    assert parse_speed(text) == pytest.approx(speed)


@pytest.mark.parametrize("text", ["", "fast", "signals", "variable", "0", "-50", "9999", "50 furlongs", "1e3", "nan",
                                  ";", "②", "inf", "80 @ (wet)", "40 @ (22:00-06:00)",
                                  "30 @ (06:00-08:00; 12:00-14:00)"])
def test_what_is_no_speed_is_unknown(text):
    assert math.isnan(parse_speed(text))


@pytest.mark.parametrize(("text", "lanes"), [("2", 2), ("1;2", 1.5), ("1.5", 1.5), ("2 ", 2), ("3|2", 2.5)])
def test_lanes_are_read(text, lanes):
    assert parse_lanes(text) == lanes


@pytest.mark.parametrize("text", ["", "two", "0", "-1", "1000", "nan", "inf"])
def test_what_is_no_number_of_lanes_is_unknown(text):
    assert math.isnan(parse_lanes(text))


def attributes(ways, runs, both_ways=False):
    """``runs``: for each segment, rows of (way, along, length)."""
    keys = sorted({key for way in ways for key in way} | {"highway"})
    tags = Tags.of({key: [way.get(key) for way in ways] for key in keys})
    rows = [run for segment in runs for run in segment]
    ptr = np.concatenate([[0], np.cumsum([len(segment) for segment in runs])])
    way, along, length = (np.array(column) for column in zip(*rows, strict=True))
    found = segment_attributes(Runs(ptr, way, along, length.astype(float)), tags, 100 + np.arange(len(ways)), both_ways)
    return {name: column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()
            for name, column in found.items()}


def test_values_of_hand_made_segments():
    ways = [
        {"highway": "primary", "maxspeed": "72", "lanes": "4", "name": "A", "oneway": "yes", "bridge": "yes"},
        {"highway": "primary", "maxspeed": "36", "name": "B", "bridge": "no"},
        {"highway": "primary", "lanes": "3"},
        {"highway": "residential", "name": "C", "tunnel": "building_passage"},
        {"highway": "trunk", "maxspeed:forward": "90", "maxspeed:backward": "54", "lanes:forward": "2",
         "lanes:backward": "1", "lanes": "3"},
        {"highway": "secondary", "lanes": "1"},
    ]
    found = attributes(ways, [
        [(0, True, 100)],                    # 20 m/s, 4 lanes
        [(0, True, 100), (1, True, 300)],    # 400 m in 5 s + 30 s
        [(2, True, 50), (1, True, 49)],      # the speed is known on less than half
        [(3, True, 10)],                     # nothing known of the class
        [(4, True, 80)], [(4, False, 80)],   # each direction its own
        [(5, False, 30)],                    # one lane for both directions
        [(2, True, 0)],                      # without extent
    ])
    mean = (100 * 20 + 400 * 400 / 35) / 500  # over the known of the class, weighted by length
    assert found["speed"] == pytest.approx([20, 400 / 35, mean, USUAL_SPEED["residential"] * KMH, 25, 15,
                                            USUAL_SPEED["secondary"] * KMH, mean])
    assert found["speed_imputed"] == [False, False, True, True, False, False, True, True]
    # known of primary: 4 on 100 m, 3 / 2 rounded up on 99 m and on 0 m; the second knows 100 m of 400
    assert found["lanes"] == [4, 3, 2, 1, 2, 1, 1, 2]
    assert found["lanes_imputed"] == [False, True, False, True, False, False, False, False]
    assert found["road_class"] == ["primary"] * 3 + ["residential", "trunk", "trunk", "secondary", "primary"]
    assert found["name"] == ["A", "B", "B", "C", "", "", "", ""]  # a name known for a part is better than none
    assert found["osm_way"] == [100, 101, 102, 103, 104, 104, 105, 102]
    assert found["oneway"] == [True, False, False, False, False, False, False, False]
    assert found["bridge"] == [True, True, False, False, False, False, False, False]
    assert found["tunnel"] == [False, False, False, True, False, False, False, False]


def test_on_foot_nothing_is_one_way():
    ways = [{"highway": "primary", "oneway": "yes", "lanes": "2"}]
    assert attributes(ways, [[(0, True, 1)]])["oneway"] == [True]
    assert attributes(ways, [[(0, True, 1)]], both_ways=True)["oneway"] == [False]


def test_usual_values_stand_in_where_a_map_knows_nothing():
    ways = [{"highway": "motorway"}, {"highway": "by;hand"}]
    found = attributes(ways, [[(0, True, 1)], [(1, True, 1)]])
    assert found["speed"] == pytest.approx([USUAL_SPEED["motorway"] * KMH, 30 * KMH])
    assert found["lanes"] == [USUAL_LANES["motorway"], 1]
    assert found["speed_imputed"] == found["lanes_imputed"] == [True, True]


@pytest.mark.parametrize("seed", range(5))
def test_longest_is_brute_force(seed):
    random = np.random.default_rng(seed)
    size = random.integers(1, 6, 200)
    ptr = np.concatenate([[0], np.cumsum(size)])
    value, weight = random.integers(-1, 4, ptr[-1]), random.random(ptr[-1])
    runs = Runs(ptr, np.zeros(ptr[-1], int), np.ones(ptr[-1], bool), weight)
    expected = []
    for first, last in itertools.pairwise(ptr):
        total = {one: weight[first:last][value[first:last] == one].sum() for one in value[first:last].tolist()}
        expected.append(max(total, key=total.__getitem__))
    assert longest(runs, value, weight).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_imputing_is_brute_force_and_leaves_what_is_known(seed):
    random = np.random.default_rng(seed)
    value, length, known = random.random(300), random.random(300), random.random(300) < 0.3
    road_class = random.integers(0, 6, 300)
    known[road_class == 5] = False
    filled = impute(value, known, road_class, length, np.full(300, 7.0))
    for row in range(300):
        same = known & (road_class == road_class[row])
        expected = value[row] if known[row] else np.average(value[same], weights=length[same]) if same.any() else 7.0
        assert filled[row] == pytest.approx(expected)
