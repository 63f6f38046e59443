"""Which segment a sensor stands on: by distance, by the direction it watches, and by the name of its road."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError
from stgraph.roads.nearest import Candidates, SegmentIndex
from stgraph.roads.network import Roads

LIMIT = 50.0
"""Farthest a sensor may stand from the middle of its road, m."""

NO_PLACE, BEYOND = "no place", "beyond the limit"
OTHER_NAME, AGAINST, NO_DIRECTION = "another road name", "against its heading", "direction unknown"

_STREETS = 32  # near a sensor, at most
_POINTS = {"n": 0, "ne": 45, "e": 90, "se": 135, "s": 180, "sw": 225, "w": 270, "nw": 315}
_WORDS = {"north": "n", "northeast": "ne", "east": "e", "southeast": "se", "south": "s", "southwest": "sw",
          "west": "w", "northwest": "nw"}
_DIRECTIONS = {short + end: degrees for short, degrees in _POINTS.items() for end in ("", "b")} | {
    word + end: _POINTS[short] for word, short in _WORDS.items() for end in ("", "bound")}
_UNKNOWN = {"", "-", "na", "n/a", "nan", "none", "null", "unknown"}
_SYSTEMS = {"interstate": "i", "ushighway": "us", "usroute": "us", "ushwy": "us"}
_NATIONAL = {"i", "us"}
_ANY_STATE = {"sr", "stateroute", "sh", "statehighway", "hwy", "highway", "route", "rte", "rt"}
_SHORT = {"st": "street", "ave": "avenue", "av": "avenue", "blvd": "boulevard", "rd": "road", "dr": "drive",
          "ln": "lane", "fwy": "freeway", "hwy": "highway", "pkwy": "parkway", "expy": "expressway", "ct": "court",
          "pl": "place", "sq": "square", "str": "strasse"}
_AFTER_NUMBER = re.compile(rf"(.*\d)[\s_-]*({'|'.join(sorted(_DIRECTIONS, key=len, reverse=True))})", re.DOTALL)
_BOUND = re.compile(r"(.*\S)[\s_-]+\(?((?:north|south)?(?:east|west)?bound)\)?", re.DOTALL)
_ROUTE = re.compile(r"([^\d]*?)[\s._-]*(\d+[a-z]?)")


@dataclass(frozen=True)
class Attached:
    """The segments of ``n`` sensors.

    Args:
        segment: ``[n]`` int64; -1 where a sensor is not attached.
        offset: ``[n]`` metres after the start of the segment; NaN where not attached.
        distance: ``[n]`` metres from the sensor to the line of the segment; NaN where not attached.
        reason: ``[n]`` str. Of sensors that are not attached: ``no place`` or ``beyond the limit``. Of those that are:
            empty, or what speaks against it: ``another road name``, ``against its heading`` (more than a right angle
            from it), ``direction unknown`` (no heading on a two-way street: the lower segment number is taken).
    """

    segment: np.ndarray
    offset: np.ndarray
    distance: np.ndarray
    reason: np.ndarray


@dataclass(frozen=True)
class RoadName:
    """What a road is called, in a form that can be compared.

    Args:
        routes: Numbered routes, as (system, number): ``("us", "101")``; the system is empty where it is not said.
        names: Other names, without accents, capitals and abbreviations.
        heading: Direction that stands after the name, degrees; NaN where none does.
    """

    routes: frozenset[tuple[str, str]]
    names: frozenset[str]
    heading: float


def attach_sensors(roads: Roads, lonlat: np.ndarray, heading: Iterable[Any] | None = None,
                   name: Sequence[str | None] | None = None, limit: float = LIMIT) -> Attached:
    """Attach sensors to segments.

    Of the segments within the limit, a sensor gets the one with the lowest score in metres:
    ``distance + limit * (wrong heading + wrong name)``. The wrong heading is ``(1 - cos d) / 2`` for the angle ``d``
    between the heading of the sensor and that of the segment there: 0 for the same, 1 for the opposite. The wrong name
    is 0 where names agree, 2 where they do not, and 1 where it cannot be told because the segment has no name, or one
    of them is numbered and the other is not; so of segments driven the same way, one whose name agrees always wins.
    What is not known of a sensor does not count. A direction that stands after the name of a road (``I-880 N``) is its
    heading where no other is given.

    Distances are taken on a plane around the network, on whichever side of the 180th meridian, so a table may hold
    sensors of several cities: those of others are beyond the limit.

    Args:
        roads: The network; its attributes ``name`` and ``ref`` are compared, where it has them.
        lonlat: ``[n, 2]`` degrees, NaN where unknown; metres where the network is in plain metres.
        heading: ``[n]`` degrees clockwise from north, or words such as ``N``, ``NE``, ``northbound``; None, NaN or
            empty where unknown.
        name: ``[n]`` names of roads: ``I-880 N``, ``US 101``, ``Main Street``; None or empty where unknown.
        limit: Farthest a segment may be, m.

    Raises:
        InputError: where a heading cannot be understood, or the numbers of rows differ.
    """
    lonlat = np.asarray(lonlat, np.float64)
    if lonlat.ndim != 2 or lonlat.shape[1] != 2:
        raise InputError("places have two coordinates", field="lonlat", value=list(lonlat.shape),
                         remedy="give them as [n, 2], longitude first")
    count = len(lonlat)
    called = [road_name(one) for one in _rows(name, count, "name")]
    given = np.array([heading_degrees(one) for one in _rows(heading, count, "heading")], np.float64)
    given = np.where(np.isnan(given), [one.heading for one in called], given)
    found = SegmentIndex(roads).within(roads.to_metres(lonlat), limit, _STREETS)
    sensor = np.repeat(np.arange(count), np.diff(found.ptr))
    away = np.radians(found.heading - given[sensor])
    wrong_heading = np.where(np.isnan(away), 0.0, (1 - np.cos(away)) / 2)
    wrong_name = _wrong_names(roads, called, sensor, found)
    score = found.distance + limit * (wrong_heading + 2 * wrong_name)
    order = np.lexsort((found.segment, np.round(score, 6), sensor))
    best = order[np.flatnonzero(np.diff(sensor[order], prepend=-1))]
    segment, offset, distance = np.full(count, -1), np.full(count, np.nan), np.full(count, np.nan)
    who = sensor[best]
    segment[who], offset[who], distance[who] = found.segment[best], found.offset[best], found.distance[best]
    reason = np.where(np.isfinite(lonlat).all(1), BEYOND, NO_PLACE).astype(object)
    two_way = (roads.reverse[segment[who]] >= 0) & np.isnan(given[who])
    reason[who] = np.select([wrong_name[best] == 1, wrong_heading[best] > 0.5, two_way],
                            [OTHER_NAME, AGAINST, NO_DIRECTION], "")
    return Attached(segment, offset, distance, reason.astype(str))


def _rows(values: Iterable[Any] | None, count: int, field: str) -> list[Any]:
    found = [None] * count if values is None else list(values)
    if len(found) != count:
        raise InputError("not one for each sensor", field=field, value=len(found), remedy=f"give {count}")
    return found


# -------------------------------------------------------------------- headings and names
def heading_degrees(value: Any) -> float:
    """A heading in degrees clockwise from north, from a number or a word; NaN where unknown.

    Raises:
        InputError: where it is neither.
    """
    word = "" if value is None else str(value).strip().casefold()
    if word in _UNKNOWN:
        return float("nan")
    plain = re.sub(r"[\s_.-]", "", word)
    if plain in _DIRECTIONS:
        return float(_DIRECTIONS[plain])
    try:
        degrees = float(word.rstrip("°"))
    except ValueError:
        degrees = np.inf
    if not abs(degrees) <= 360:
        raise InputError("not a heading", field="heading", value=value,
                         remedy="give degrees clockwise from north, a word such as N, NE, northbound, or nothing")
    return degrees % 360.0


def road_name(text: str | None) -> RoadName:
    """Read the name of a road; several may stand with ``;`` between them: ``I 80;I 580``."""
    routes, names, heading = set(), set(), float("nan")
    plain = unicodedata.normalize("NFKD", str(text or "")).casefold()
    for part in "".join(letter for letter in plain if not unicodedata.combining(letter)).split(";"):
        word = part.strip()
        if word in _UNKNOWN:
            continue
        turned = _AFTER_NUMBER.fullmatch(word) or _BOUND.fullmatch(word)
        if turned:
            word, heading = turned[1].strip(), float(_DIRECTIONS.get(turned[2], np.nan))
        numbered = _ROUTE.fullmatch(word)
        if numbered:
            system = re.sub(r"[\s._-]", "", numbered[1])
            routes.add((_SYSTEMS.get(system, system), numbered[2]))
        else:
            words = re.sub(r"[^\w]+", " ", word.replace("'", "")).split()
            names.add(" ".join([*words[:-1], _SHORT.get(words[-1], words[-1])]) if words else word)
    return RoadName(frozenset(routes), frozenset(names), heading)


def names_differ(one: RoadName, other: RoadName) -> float:
    """0 where two names agree, 1 where they do not, 1/2 where that cannot be told."""
    if one.names & other.names or any(_same_route(*pair) for pair in
                                      ((a, b) for a in one.routes for b in other.routes)):
        return 0.0
    comparable = (one.names and other.names) or (one.routes and other.routes)
    return 1.0 if comparable else 0.5


def _same_route(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """The number is the same, and the system, or one of them leaves the system open."""
    (first, number), (second, other_number) = one, other
    if number != other_number:
        return False
    state = (first in _ANY_STATE and second not in _NATIONAL) or (second in _ANY_STATE and first not in _NATIONAL)
    return first == second or not first or not second or state


def _wrong_names(roads: Roads, called: list[RoadName], sensor: np.ndarray, found: Candidates) -> np.ndarray:
    """How wrong the name of each candidate is, ``[rows]``; 0 where the sensor has none."""
    out = np.zeros(len(sensor))
    named = np.flatnonzero(np.array([bool(one.routes or one.names) for one in called], bool)[sensor])
    columns = [roads.attributes[key] for key in ("name", "ref") if key in roads.attributes]
    if not len(named):
        return out
    segment, position = np.unique(found.segment[named], return_inverse=True)
    texts = [";".join(words) for words in zip(*(_texts(column, segment) for column in columns), strict=True)] \
        if columns else [""] * len(segment)
    roads_called = {text: road_name(text) for text in set(texts)}
    known: dict[tuple[RoadName, str], float] = {}
    for row, who, at in zip(named.tolist(), sensor[named].tolist(), position.tolist(), strict=True):
        key = (called[who], texts[at])
        if key not in known:
            known[key] = names_differ(called[who], roads_called[texts[at]])
        out[row] = known[key]
    return out


def _texts(column: Any, rows: np.ndarray) -> list[str]:
    """Some rows of a column of words, numpy or Arrow."""
    taken = column[rows].tolist() if isinstance(column, np.ndarray) else column.take(pa.array(rows)).to_pylist()
    return ["" if word is None else str(word) for word in taken]
