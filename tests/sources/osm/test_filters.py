"""Filters: the named ones are those of osmnx, own ones say what they say."""

from __future__ import annotations

import pytest

pytest.importorskip("osmnx")

import osmium
from maps import osmnx_keeps

from stgraph.errors import InputError
from stgraph.sources.osm.filters import NETWORKS, network_filter
from stgraph.sources.osm.tags import Tags

MADE = [{"highway": highway, **more} for highway in (
    "motorway", "residential", "service", "services", "footway", "cycleway", "path", "steps", "track", "no",
    "construction", "busway", "motor;x", "living_street", "rest_area", "raceway", "corridor", "bridleway", "platform")
    for more in ({}, {"area": "yes"}, {"access": "private"}, {"access": "no"}, {"service": "alley"},
                 {"service": "parking_aisle"}, {"service": "private"}, {"service": "emergency_access"}, {"foot": "no"},
                 {"bicycle": "no"}, {"motor_vehicle": "no"}, {"motorcar": "nope"}, {"sidewalk": "separate"},
                 {"sidewalk:both": "separate"}, {"sidewalk:left": "separate"}, {"sidewalk:right": "separate"})
] + [{"name": "no highway"}]


def keep(way_filter, ways):
    return way_filter.keep(Tags.of({key: [way.get(key) for way in ways] for key in way_filter.keys})).tolist()


@pytest.mark.parametrize("network", NETWORKS)
def test_named_networks_let_the_same_ways_through_as_osmnx(network, shared_data):
    extract = shared_data / "osm_extracts" / "helsinki-centre.osm.pbf"
    ways = [dict(way.tags) for way in osmium.FileProcessor(str(extract), osmium.osm.WAY)] + MADE
    found = keep(network_filter(network), ways)
    assert found == [osmnx_keeps(network, way) for way in ways]
    assert 0 < sum(found) < len(ways)


@pytest.mark.parametrize(("text", "kept"), [
    ('["highway"]', "abcd"),
    ("[highway]", "abcd"),
    ('["highway"="primary"]', "a"),
    ("[highway=primary]", "a"),
    ('["highway"!="primary"]', "bcde"),
    ('["highway"~"primary"]', "ab"),  # found anywhere, as in Overpass
    ('["highway"~"^primary$"]', "a"),
    ('["highway"~"PRIMARY"]', ""),
    ('["highway"~"PRIMARY",i]', "ab"),
    ('["highway"!~"primary"]', "cde"),
    ('["highway"]["lanes"]', "ac"),
    ('["highway"][!"lanes"]', "bd"),
    ('["name"="a \\"b\\" ]["]', "d"),
    (' ["highway"] [lanes = 2] ', "c"),
    (["[lanes=2]", "[name=x]"], "ce"),
])
def test_own_filters(text, kept):
    ways = [{"highway": "primary", "lanes": "1"}, {"highway": "primary_link"}, {"highway": "trunk", "lanes": "2"},
            {"highway": "no", "name": 'a "b" ]['}, {"name": "x"}]
    found = keep(network_filter(own=text), ways)
    assert "".join(letter for letter, one in zip("abcde", found, strict=True) if one) == kept


@pytest.mark.parametrize("text", ["", "highway", '["highway"', '["highway"~"("]', '["highway"]x', '[!"a"="b"]',
                                  '["a"="b",i]', "[]", '["a"~]'])
def test_what_is_no_filter_is_refused(text):
    with pytest.raises(InputError) as caught:
        network_filter(own=text)
    assert caught.value.field == "filter"
    assert caught.value.remedy


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="drive_service"):
        network_filter("car")
