"""Sensors stand on the segment with the lowest score, and on their own where that is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from towns import make_roads, random_town

from stgraph.errors import InputError
from stgraph.roads.attach import attach_sensors, heading_degrees, names_differ, road_name
from stgraph.sources.osm.build import build_osm

NAMES = np.array(["Main Street", "US 101;CA 82", "", "Elm Ave", "I 880"])


def made_sensors(roads, chance, count, noise):
    """Sensors on segments that are known: places with an error, and the direction of driving."""
    segment = chance.choice(np.flatnonzero(roads.length > 20), count)
    offset = roads.length[segment] * chance.uniform(0.3, 0.7, count)
    there = roads.to_metres(roads.locate(segment, offset)) + chance.normal(0, noise, (count, 2))
    return segment, offset, roads.from_metres(there), roads.heading(segment, offset)


def by_brute_force(roads, xy, heading, names, limit):
    """Scores of all segments, one after the other, by shapely: least and most, where a bend has two headings.

    The place where a loop closes is a bend, too.
    """
    lines = [shapely.LineString(roads.line_metres[a:b])
             for a, b in zip(roads.line_ptr[:-1], roads.line_ptr[1:], strict=True)]
    words = roads.attributes["name"] if names is not None else None
    least, most = np.full((2, len(xy), len(lines)), np.inf)
    for row, place in enumerate(shapely.points(xy)):
        for s in np.flatnonzero(shapely.distance(lines, place) <= limit):
            wrong_heading, wrong_name = np.zeros(2), 0.0
            if heading is not None and not np.isnan(heading[row]):
                along = lines[s].project(place) / max(lines[s].length, 1e-9) * roads.length[s]
                places = np.array([along - 1e-3, along + 1e-3])
                if lines[s].is_closed and min(along, roads.length[s] - along) < 1e-3:
                    places = np.array([0.0, roads.length[s]])
                driven = roads.heading(np.array([s, s]), places)
                wrong_heading = (1 - np.cos(np.radians(driven - heading[row]))) / 2
            if names is not None and names[row]:
                wrong_name = names_differ(road_name(names[row]), road_name(words[s]))
            scores = lines[s].distance(place) + limit * (wrong_heading + 2 * wrong_name)
            least[row, s], most[row, s] = scores.min(), scores.max()
    return least, most


# -------------------------------------------------------------------- laws
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_the_score_equals_brute_force_on_made_towns(seed, with_heading, with_name):
    chance = np.random.default_rng(seed)
    roads = random_town(seed, 4)
    roads.attributes["name"] = chance.choice(NAMES, len(roads.tail))
    _, _, xy, heading = made_sensors(roads, chance, 25, 12)
    heading = np.where(chance.random(25) < 0.2, np.nan, heading + chance.normal(0, 30, 25)) % 360 \
        if with_heading else None
    names = chance.choice([*NAMES, "101 N", "Broadway"], 25) if with_name else None
    found = attach_sensors(roads, xy, heading, names, limit=40)
    if with_name and with_heading:
        heading = np.where(np.isnan(heading) & (names == "101 N"), 0.0, heading)
    elif with_name:
        heading = np.where(names == "101 N", 0.0, np.nan)
    least, most = by_brute_force(roads, xy, heading, names, 40)
    assert np.array_equal(found.segment < 0, np.isinf(least).all(1))
    there = np.flatnonzero(found.segment >= 0)
    assert (least[there, found.segment[there]] <= most[there].min(1) + 1e-5).all()
    lines = shapely.linestrings(roads.line_metres, indices=np.repeat(np.arange(len(roads.tail)),
                                                                     np.diff(roads.line_ptr)))
    np.testing.assert_allclose(found.distance[there],
                               shapely.distance(lines[found.segment[there]], shapely.points(xy[there])), atol=1e-5)
    place = roads.locate(found.segment[there], found.offset[there])
    np.testing.assert_allclose(np.hypot(*(place - xy[there]).T), found.distance[there], atol=1e-5)


@pytest.mark.parametrize(("name", "noise", "least"), [("helsinki-centre", 0, 1.0), ("fiji-ferry", 0, 1.0),
                                                      ("helsinki-centre", 6, 0.93), ("porto", 6, 0.93)])
def test_made_sensors_come_back_to_their_segments(shared_data, name, noise, least):
    """With heading and name; without error in the place every one of them does."""
    roads, _ = build_osm(shared_data / "osm_extracts" / f"{name}.osm.pbf")
    chance = np.random.default_rng(1)
    segment, offset, lonlat, heading = made_sensors(roads, chance, 300, noise)
    names = roads.attributes["name"].take(segment).to_pylist()
    found = attach_sensors(roads, lonlat, (heading + chance.normal(0, 2 * noise, 300)) % 360, names)
    right = found.segment == segment
    assert right.mean() >= least
    assert np.abs(found.offset - offset)[right].max() < 5 * noise + 1
    without = attach_sensors(roads, lonlat)
    on_street = (without.segment == segment) | (without.segment == roads.reverse[segment])
    assert on_street.mean() > least - 0.2
    turned = attach_sensors(roads, lonlat, (heading + 180) % 360, names)
    two_way = right & (roads.reverse[segment] >= 0)
    assert (turned.segment == roads.reverse[segment])[two_way].mean() >= least - 0.02
    assert set(turned.reason[turned.segment == segment]) <= {"against its heading"}


# -------------------------------------------------------------------- by hand
def motorway():
    """Two carriageways 20 m apart, a frontage road beside each that is driven both ways, 1 km from west to east."""
    lines = [[(0, 0), (1000, 0)], [(1000, 20), (0, 20)], [(0, -15), (1000, -15)], [(0, 35), (1000, 35)]]
    roads = make_roads(lines, both_ways=[2, 3])
    roads.attributes["name"] = np.array(["Bay Freeway", "Bay Freeway", "Frontage Rd", "", "Frontage Rd", ""])
    roads.attributes["ref"] = np.array(["I 80", "I 80;US 40", "", "", "", ""])
    return roads


@pytest.mark.parametrize(("place", "heading", "name", "segment", "reason"), [
    ((500, 9), None, None, 0, ""),
    ((500, 9), "W", None, 1, ""),
    ((500, 9), "eastbound", None, 0, ""),
    ((500, -8), None, None, 2, "direction unknown"),
    ((500, -8), 270.0, None, 4, ""),
    ((500, -14), None, "I-80 E", 0, ""),
    ((500, -14), None, "80W", 1, ""),
    ((500, -14), None, "US40-W", 1, ""),
    ((500, 9), None, "Frontage Road", 2, "direction unknown"),
    ((500, 9), 80, "frontage rd.", 2, ""),
    ((500, 34), None, "bay fwy", 1, ""),
    ((500, 34), "", "", 3, "direction unknown"),
    ((500, 5), "W", "Elm Street", 5, ""),  # that it has no name speaks less against it
    ((500, 5), "W", "I 880", 4, ""),  # nor that it has no number
    ((500, -30), "E", "Elm Street", 2, "another road name"),
    ((500, -60), None, "US 40", 2, "direction unknown"),
    ((500, -75), None, None, -1, "beyond the limit"),
    ((np.nan, 0), "N", "I 80", -1, "no place"),
])
def test_a_motorway_by_hand(place, heading, name, segment, reason):
    found = attach_sensors(motorway(), np.array([place], float), [heading], [name])
    assert found.segment.tolist() == [segment]
    assert found.reason.tolist() == [reason]
    assert np.isnan(found.offset[0]) == np.isnan(found.distance[0]) == (segment < 0)
    if segment >= 0:
        assert found.offset[0] == 500


def test_against_its_heading_is_said():
    roads = make_roads([[(0, 0), (100, 0)]], both_ways=[])
    found = attach_sensors(roads, np.array([[50, 5], [50, 5.0]]), ["W", "NE"])
    assert found.segment.tolist() == [0, 0]
    assert found.reason.tolist() == ["against its heading", ""]


def test_one_table_of_several_cities(shared_data):
    """Each network takes the sensors of its own city; what is far away is reported, wherever on the globe it is."""
    cities = [build_osm(shared_data / "osm_extracts" / f"{name}.osm.pbf")[0] for name in
              ("helsinki-centre", "fiji-ferry")]
    chance = np.random.default_rng(2)
    made = [made_sensors(roads, chance, 50, 0) for roads in cities]
    freeways = pd.read_csv(shared_data / "sensor_graphs" / "metr_la_sensor_osm_edge.csv")
    elsewhere = np.array([[0.0, 90.0], [0.0, -90.0], [24.94 - 180, -60.17], [np.nan, np.nan]])
    lonlat = np.concatenate([*(one[2] for one in made), freeways[["lng", "lat"]].to_numpy(), elsewhere])
    for number, roads in enumerate(cities):
        found = attach_sensors(roads, lonlat)
        own = np.zeros(len(lonlat), bool)
        own[50 * number:50 * number + 50] = True
        assert np.array_equal(found.segment >= 0, own)
        truth = made[number][0]
        assert np.isin(truth, [found.segment[own], roads.reverse[found.segment[own]]]).all()
        assert set(found.reason[~own][:-1]) == {"beyond the limit"}
        assert found.reason[-1] == "no place"


def test_both_sides_of_the_180th_meridian(shared_data):
    """Fiji lies on it: sensors of both sides find their roads, whether 179.9 or -180.1 is written."""
    roads, _ = build_osm(shared_data / "osm_extracts" / "fiji-ferry.osm.pbf")
    east = roads.junction_xy[:, 0] < 0
    assert 0 < east.mean() < 1
    chance = np.random.default_rng(4)
    segment = np.concatenate([chance.choice(np.flatnonzero((east[roads.tail] == side) & (roads.length > 50)), 40)
                              for side in (False, True)])
    middle = roads.length[segment] / 2
    lonlat, heading = roads.locate(segment, middle), roads.heading(segment, middle)
    found = attach_sensors(roads, lonlat, heading)
    assert np.array_equal(found.segment, segment)
    assert found.distance.max() < 0.1
    other = attach_sensors(roads, lonlat + [[360.0, 0.0]] * np.where(lonlat[:, :1] < 0, 1, -1), heading)
    assert np.array_equal(other.segment, segment)


# -------------------------------------------------------------------- names and headings
def test_names_of_real_freeways_are_understood(shared_data):
    """Every sensor of METR-LA, PEMS-BAY and PeMSD7 has a route and the direction that its name says."""
    for file in ("metr_la", "pems_bay", "pemsd7"):
        table = pd.read_csv(shared_data / "sensor_graphs" / f"{file}_sensor_osm_edge.csv")
        for text in table["fwy"].unique():
            found = road_name(text)
            (system, number), = found.routes
            assert number == "".join(letter for letter in text if letter.isdigit())
            assert system == text[:text.index(number)].lower()
            assert found.heading == {"N": 0, "E": 90, "S": 180, "W": 270}[text[-1]]


@pytest.mark.parametrize(("one", "other", "differ"), [
    ("I-880 N", "I 880", 0), ("Interstate 880", "I-880", 0), ("17N", "CA 17", 0), ("SR 17", "CA 17", 0),
    ("US 101", "SR 101", 1), ("I-80", "I 880", 1), ("US 101", "Bayshore Freeway", 0.5), ("US 101", "", 0.5),
    ("Main St", "MAIN STREET", 0), ("Main St", "Oak Street", 1), ("I 80;I 580", "I-580 W", 0), ("E 80", "A 80", 1),
    ("Avenida São João", "avenida sao joao", 0), ("5th Ave", "5th Avenue", 0), ("Highway 1", "CA 1", 0),
    ("St John's Rd", "St Johns Road", 0), ("Main Street (northbound)", "Main Street", 0),
])
def test_names_that_agree(one, other, differ):
    assert names_differ(road_name(one), road_name(other)) == differ
    assert names_differ(road_name(other), road_name(one)) == differ


@pytest.mark.parametrize(("value", "degrees"), [
    ("N", 0), ("ne", 45), ("EB", 90), ("South-East", 135), ("southbound", 180), ("SW", 225), (270, 270), ("315°", 315),
    (-90, 270), (360.0, 0), ("12.5", 12.5), (None, np.nan), ("", np.nan), (np.nan, np.nan), ("-", np.nan)])
def test_headings(value, degrees):
    assert heading_degrees(value) == pytest.approx(degrees, nan_ok=True)


@pytest.mark.parametrize(("call", "match"), [
    (lambda roads: attach_sensors(roads, np.zeros((1, 2)), ["up"]), "not a heading"),
    (lambda roads: attach_sensors(roads, np.zeros((1, 2)), [999]), "not a heading"),
    (lambda roads: attach_sensors(roads, np.zeros((2, 2)), ["N"]), "not one for each"),
    (lambda roads: attach_sensors(roads, np.zeros((2, 2)), None, ["a"]), "not one for each"),
    (lambda roads: attach_sensors(roads, np.zeros(2)), "two coordinates"),
])
def test_nonsense_is_refused(call, match):
    with pytest.raises(InputError, match=match):
        call(motorway())
