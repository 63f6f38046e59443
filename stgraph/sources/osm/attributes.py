"""Speed, lanes, class and names of segments from the tags of the ways that they run over.

A *run* is the part of a segment that lies on one way; most segments have one. The rules, for speed and lanes alike:

1. A tag that cannot be read counts as absent. ``maxspeed`` may be km/h (``50``, ``50 km/h``), ``30 mph``,
   ``10 knots``, a zone (``RO:urban``, ``DE:zone:30``), ``none`` (130 km/h) or ``walk`` (7 km/h); a value with several
   numbers (``50; 40``, ``30|50``) is their mean; what holds only at times (``80 @ (wet)``) is passed over.
   ``maxspeed:forward`` and ``maxspeed:backward`` come first, and likewise ``lanes:forward``, ``lanes:backward``.
2. Lanes are those in driving direction: ``lanes`` of a two-way street is shared by both directions, half each, rounded
   up, and never less than one.
3. Where the tag is known on at least half of a segment's length, the segment has that value: the speed at which the
   known part takes as long as it does at the speeds of its runs; the mean of the lanes, weighted by length, rounded.
4. Elsewhere it gets the mean over the segments of the same class whose value is known, weighted by length, and is
   flagged (``speed_imputed``, ``lanes_imputed``). Where the map knows none of the class, a usual value for it stands
   in (:data:`USUAL_SPEED`, :data:`USUAL_LANES`).

Class, name and way of a segment are those of its greatest length; it is on a bridge or in a tunnel if any part is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stgraph.graph.plain import categories
from stgraph.sources.osm.legs import Legs, one_way
from stgraph.sources.osm.simplify import Segments
from stgraph.sources.osm.tags import Tags

KEYS = frozenset({"highway", "junction", "oneway", "name", "bridge", "tunnel", "maxspeed", "maxspeed:forward",
                  "maxspeed:backward", "lanes", "lanes:forward", "lanes:backward"})
"""The tags that are needed here and for the directions."""

KMH = 1 / 3.6
_UNITS = {"": KMH, "km/h": KMH, "kmh": KMH, "kph": KMH, "kmph": KMH, "mph": 0.44704, "knots": 1852 / 3600,
          "kn": 1852 / 3600}
_SPEED = re.compile(r"(\d+(?:[.,]\d+)?)\s*([a-z/]*)")
_ZONE = re.compile(r"(?:[a-z-]+:)?(?:zone:?)?(\d+)")
_FASTEST = 300 * KMH
_WORDS = {"none": 130, "unlimited": 130, "walk": 7, "living_street": 10, "urban": 50, "rural": 90, "trunk": 100,
          "motorway": 120, "bicycle_road": 30,
          "at:rural": 100, "at:motorway": 130, "ch:rural": 80, "cz:motorway": 130, "de:rural": 100,
          "de:motorway": 130, "dk:rural": 80, "dk:motorway": 130, "fi:rural": 80, "fr:rural": 80, "fr:motorway": 130,
          "gb:urban": 48, "gb:nsl_single": 97, "gb:nsl_dual": 113, "gb:motorway": 113, "it:motorway": 130,
          "nl:rural": 80, "nl:motorway": 100, "no:rural": 80, "no:motorway": 110, "pl:motorway": 140,
          "ro:motorway": 130, "ru:urban": 60, "ru:motorway": 110, "se:rural": 70, "se:motorway": 110}
"""Limits in km/h that are written as words; after a country where that has its own."""

USUAL_SPEED = {"motorway": 110, "motorway_link": 60, "trunk": 90, "trunk_link": 50, "primary": 60, "primary_link": 45,
               "secondary": 55, "secondary_link": 40, "tertiary": 45, "tertiary_link": 35, "unclassified": 45,
               "residential": 35, "living_street": 15, "service": 20, "road": 40, "track": 20, "busway": 40,
               "cycleway": 18, "bridleway": 10, "pedestrian": 6, "footway": 5, "path": 5, "steps": 3, "corridor": 5}
"""km/h by class, where a map knows none; 30 for other classes."""
USUAL_LANES = {"motorway": 2, "trunk": 2}
"""Lanes in one direction by class, where a map knows none; 1 for other classes."""


@dataclass
class Runs:
    """``R`` runs: segment by segment, in driving order.

    Attributes:
        ptr: ``[S + 1]``; the runs of segment ``s`` are ``ptr[s]:ptr[s + 1]``.
        way: Place of the way in the data, ``[R]``.
        along: Whether it is driven in the order of the nodes of the way, ``[R]`` bool.
        length: m, ``[R]``.
    """

    ptr: np.ndarray
    way: np.ndarray
    along: np.ndarray
    length: np.ndarray

    @property
    def segment(self) -> np.ndarray:
        """The segment of each run, ``[R]``."""
        return np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))


def make_runs(segments: Segments, legs: Legs) -> Runs:
    """Join the legs of each segment that lie on the same way."""
    leg = segments.leg
    way = legs.way[leg]
    new = np.ones(len(way), bool)
    np.not_equal(way[1:], way[:-1], out=new[1:])
    new[segments.ptr[:-1]] = True
    first = np.flatnonzero(new)
    ptr = np.searchsorted(first, segments.ptr)
    along = legs.along[leg[first]] ^ segments.back[first]
    return Runs(ptr, way[first], along, np.add.reduceat(legs.length[leg], first) if len(first) else np.zeros(0))


def segment_attributes(runs: Runs, tags: Tags, way_id: np.ndarray, both_ways: bool = False) -> dict[str, np.ndarray]:
    """The columns of segments ``[S]``: road_class, lanes, lanes_imputed, speed (m/s), speed_imputed, oneway, bridge,
    tunnel, name, osm_way. Classes and names are dictionaries of words.

    Args:
        runs: Where the segments run.
        tags: Of the ways.
        way_id: Of the ways.
        both_ways: Whether one-way streets may be used in both directions.
    """
    highway, name = tags.codes("highway")[runs.way], tags.codes("name")[runs.way]
    road_class = longest(runs, highway, runs.length)
    main_way = longest(runs, runs.way, runs.length)
    single, _ = one_way(tags)
    speed, speed_known = known_speed(runs, direction_speed(tags, runs))
    lanes, lanes_known = known_mean(runs, direction_lanes(tags, runs, single))
    total = np.add.reduceat(runs.length, runs.ptr[:-1])
    speed = impute(speed, speed_known, road_class, total, usual(tags.words, road_class, USUAL_SPEED, 30) * KMH)
    lanes = impute(lanes, lanes_known, road_class, total, usual(tags.words, road_class, USUAL_LANES, 1))
    return {
        "road_class": words_column(road_class, tags.words),
        "lanes": np.clip(np.floor(lanes + 0.5), 1, 99).astype(np.int16), "lanes_imputed": ~lanes_known,
        "speed": speed.astype(np.float32), "speed_imputed": ~speed_known,
        "oneway": np.zeros(len(main_way), bool) if both_ways else single[main_way],
        "bridge": np.logical_or.reduceat(tags.has("bridge")[runs.way], runs.ptr[:-1]),
        "tunnel": np.logical_or.reduceat(tags.has("tunnel")[runs.way], runs.ptr[:-1]),
        "name": words_column(longest(runs, name, np.where(name < 0, 0.0, runs.length)), tags.words),
        "osm_way": way_id[main_way],
    }


# ---------------------------------------------------------------- reading tags
def parse_speed(text: str) -> float:
    """A speed limit in m/s; NaN where it cannot be read. The forms are those of rule 1 above."""
    word = re.sub(r"@\s*\([^)]*\)?", "@", text).lower()  # what stands in brackets is when, not how fast
    found = [_one_speed(part.strip(" (")) for part in re.split(r"[;|]|,(?=\s*\d{2})", word) if "@" not in part]
    known = [speed for speed in found if 0 < speed <= _FASTEST]
    return sum(known) / len(known) if known else math.nan


def _one_speed(word: str) -> float:
    if match := _SPEED.fullmatch(word):
        return float(match[1].replace(",", ".")) * _UNITS.get(match[2], math.nan)
    if match := _ZONE.fullmatch(word):
        return float(match[1]) * KMH
    return _WORDS.get(word, _WORDS.get(word.split(":")[-1], math.nan)) * KMH


def parse_lanes(text: str) -> float:
    """A number of lanes; the mean of several (``1;2``); NaN where it cannot be read."""
    found = []
    for part in re.split(r"[;|,]", text):
        try:
            found.append(float(part))
        except ValueError:
            continue
    known = [lanes for lanes in found if 0 < lanes < 100]
    return sum(known) / len(known) if known else math.nan


def direction_speed(tags: Tags, runs: Runs) -> np.ndarray:
    """Speed limit of each run in driving direction, m/s, ``[R]``; NaN where unknown."""
    along, against = (_first_known(tags, key, "maxspeed", parse_speed) for key in
                      ("maxspeed:forward", "maxspeed:backward"))
    return np.where(runs.along, along[runs.way], against[runs.way])


def direction_lanes(tags: Tags, runs: Runs, single: np.ndarray) -> np.ndarray:
    """Lanes of each run in driving direction, ``[R]``; NaN where unknown."""
    lanes = tags.values_of("lanes", parse_lanes, np.float64, np.nan)
    share = np.where(single, lanes, np.maximum(np.ceil(lanes / 2), 1.0))
    along, against = (tags.values_of(key, parse_lanes, np.float64, np.nan) for key in
                      ("lanes:forward", "lanes:backward"))
    along = np.where(np.isnan(along), share, along)
    against = np.where(np.isnan(against), share, against)
    return np.where(runs.along, along[runs.way], against[runs.way])


def _first_known(tags: Tags, key: str, other: str, parse: Callable[[str], float]) -> np.ndarray:
    one = tags.values_of(key, parse, np.float64, np.nan)
    return np.where(np.isnan(one), tags.values_of(other, parse, np.float64, np.nan), one)


# ---------------------------------------------------------------- from runs to segments
def longest(runs: Runs, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each segment, the value ``[R]`` of whole numbers that the greatest weight of its runs has, ``[S]``."""
    size = np.diff(runs.ptr)
    chosen = value[runs.ptr[:-1]].copy()
    rows = np.flatnonzero(np.repeat(size > 1, size))
    if not len(rows):
        return chosen
    segment = runs.segment[rows]
    order = np.lexsort((value[rows], segment))
    segment, rows = segment[order], rows[order]
    new = np.ones(len(rows), bool)
    new[1:] = (segment[1:] != segment[:-1]) | (value[rows][1:] != value[rows][:-1])
    first = np.flatnonzero(new)
    total = np.add.reduceat(weight[rows], first)
    order = np.lexsort((total, segment[first]))  # the greatest comes last, and the last assignment stays
    last = np.append(segment[first][order][1:] != segment[first][order][:-1], True)
    chosen[segment[first][order][last]] = value[rows[first]][order][last]
    return chosen


def known_speed(runs: Runs, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed of segments by rule 3, m/s, and whether it is known, ``[S]`` each."""
    known, length = _known(runs, speed)
    seconds = np.add.reduceat(np.where(np.isnan(speed), 0.0, runs.length / speed), runs.ptr[:-1])
    mean = _plain_mean(runs, speed)
    return np.where(seconds > 0, length / np.where(seconds > 0, seconds, 1.0), mean), known


def known_mean(runs: Runs, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of segments by rule 3, and whether it is known, ``[S]`` each."""
    known, length = _known(runs, value)
    summed = np.add.reduceat(np.where(np.isnan(value), 0.0, runs.length * value), runs.ptr[:-1])
    mean = _plain_mean(runs, value)
    return np.where(length > 0, summed / np.where(length > 0, length, 1.0), mean), known


def _known(runs: Runs, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a value is known on half of each segment, and the length where it is, ``[S]`` each."""
    there = ~np.isnan(value)
    length = np.add.reduceat(np.where(there, runs.length, 0.0), runs.ptr[:-1])
    total = np.add.reduceat(runs.length, runs.ptr[:-1])
    return np.logical_or.reduceat(there, runs.ptr[:-1]) & (length >= 0.5 * total), length


def _plain_mean(runs: Runs, value: np.ndarray) -> np.ndarray:
    """Mean over runs, whatever their length: for segments without extent."""
    there = ~np.isnan(value)
    count = np.add.reduceat(there.astype(np.int64), runs.ptr[:-1])
    return np.add.reduceat(np.where(there, value, 0.0), runs.ptr[:-1]) / np.maximum(count, 1)


def impute(value: np.ndarray, known: np.ndarray, road_class: np.ndarray, length: np.ndarray, usual: np.ndarray
           ) -> np.ndarray:
    """Fill what is not known by rule 4.

    Args:
        value: ``[S]``.
        known: Whether it is, ``[S]`` bool.
        road_class: Codes from 0, ``[S]``.
        length: Weights, ``[S]``.
        usual: What stands in where no segment of the class is known, ``[S]``.
    """
    classes = int(road_class.max(initial=0)) + 1
    weight = np.bincount(road_class[known], length[known], minlength=classes)
    summed = np.bincount(road_class[known], (length * value)[known], minlength=classes)
    mean = summed / np.where(weight > 0, weight, 1.0)
    return np.where(known, value, np.where(weight[road_class] > 0, mean[road_class], usual))


def usual(words: list[str], codes: np.ndarray, table: dict[str, int], other: int) -> np.ndarray:
    """The usual value of the class of each segment, ``[S]``."""
    values = np.full(len(words) + 1, float(other))
    for code in np.flatnonzero(np.bincount(codes, minlength=len(words))).tolist():
        values[code] = table.get(words[code], other)
    return values[codes]


def words_column(codes: np.ndarray, words: list[str]) -> np.ndarray:
    """Codes into words, -1 for none, as a dictionary of the words that occur; none is an empty text."""
    used = np.flatnonzero(np.bincount(codes + 1, minlength=len(words) + 1))
    place = np.zeros(len(words) + 1, np.int32)
    place[used] = np.arange(len(used))
    return categories(place[codes + 1], ["" if code == 0 else words[code - 1] for code in used.tolist()])
