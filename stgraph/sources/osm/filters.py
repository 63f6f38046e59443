"""Which ways belong to a network: the named filters of osmnx, or one's own in the language of Overpass.

A filter is a row of conditions, all of which must hold: ``["highway"]`` (has the tag), ``[!"highway"]`` (has it not),
``["lanes"="2"]``, ``["lanes"!="2"]``, ``["highway"~"motorway|trunk"]`` (the regular expression is found anywhere in
the value), ``["service"!~"alley"]``; after ``~"..."`` a ``,i`` ignores case. A way without the tag fulfils ``!=`` and
``!~``. Quotes may be left out around plain words. Several filters may be joined: a way that fulfils any of them is
kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stgraph.errors import InputError

if TYPE_CHECKING:
    from stgraph.sources.osm.tags import Tags

_OPEN = '["area"!~"yes"]'
_PUBLIC = '["access"!~"private"]'
_UNBUILT = "abandoned|construction|no|planned|platform|proposed|raceway|razed|rest_area|services"
_NO_CARS = ("bridleway|bus_guideway|corridor|cycleway|elevator|escalator|footway|path|pedestrian|steps|track|"
            + _UNBUILT)

NETWORKS: dict[str, str] = {
    "drive": f'["highway"]{_OPEN}{_PUBLIC}["highway"!~"{_NO_CARS}|service"]["motor_vehicle"!~"no"]["motorcar"!~"no"]'
             '["service"!~"alley|driveway|emergency_access|parking|parking_aisle|private"]',
    "drive_service": f'["highway"]{_OPEN}{_PUBLIC}["highway"!~"{_NO_CARS}"]["motor_vehicle"!~"no"]["motorcar"!~"no"]'
                     '["service"!~"emergency_access|parking|parking_aisle|private"]',
    "bike": f'["highway"]{_OPEN}{_PUBLIC}["highway"!~"bus_guideway|corridor|elevator|escalator|footway|motor|steps|'
            f'{_UNBUILT}"]["bicycle"!~"no"]["service"!~"private"]',
    "walk": f'["highway"]{_OPEN}{_PUBLIC}["highway"!~"bus_guideway|cycleway|motor|{_UNBUILT}"]["foot"!~"no"]'
            '["service"!~"private"]["sidewalk"!~"separate"]["sidewalk:both"!~"separate"]'
            '["sidewalk:left"!~"separate"]["sidewalk:right"!~"separate"]',
    "all_public": f'["highway"]{_OPEN}{_PUBLIC}["highway"!~"{_UNBUILT}"]["service"!~"private"]',
    "all": f'["highway"]{_OPEN}["highway"!~"{_UNBUILT}"]',
}
"""The networks of osmnx 2.1 (``network_type``); each lets the same ways through as there."""

BOTH_WAYS = frozenset({"walk"})
"""Networks in which every way may be used in both directions, as in osmnx."""

_CONDITION = re.compile(r"""
    \[ \s* (?P<no>!)? \s* (?P<key>"(?:[^"\\]|\\.)+"|'[^']+'|[\w:.-]+) \s*
    (?: (?P<how>!=|!~|=|~) \s* (?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\]"',]+) (?P<case>\s*,\s*i)? \s* )? \]
    """, re.VERBOSE)


@dataclass(frozen=True)
class Condition:
    """One condition on one tag."""

    key: str
    holds: Callable[[str], bool]
    without: bool  # whether a way without the tag fulfils it


@dataclass(frozen=True)
class WayFilter:
    """Conditions on tags: a way is kept where all conditions of any one row hold."""

    rows: tuple[tuple[Condition, ...], ...]
    text: str

    @property
    def keys(self) -> set[str]:
        """The tags that are looked at."""
        return {condition.key for row in self.rows for condition in row}

    def keep(self, tags: Tags) -> np.ndarray:
        """Which ways fulfil the filter, ``[W]`` bool. Every distinct value is looked at once."""
        kept = np.zeros(tags.count, bool)
        for row in self.rows:
            fits = np.ones(tags.count, bool)
            for condition in row:
                fits &= tags.values_of(condition.key, condition.holds, np.bool_, condition.without)
            kept |= fits
        return kept


def network_filter(network: str = "drive", own: str | Iterable[str] | None = None) -> WayFilter:
    """The filter of a named network, or one's own.

    Args:
        network: A key of :data:`NETWORKS`; not looked at where ``own`` is given.
        own: Filter in the language above; several join the ways of each.

    Raises:
        InputError: for a name that is not known, or a filter that cannot be read.
    """
    if own is None:
        if network not in NETWORKS:
            raise InputError("this network is not known", field="network", value=network,
                             remedy=f"choose among {', '.join(NETWORKS)}, or give --filter")
        return WayFilter((_row(NETWORKS[network]),), NETWORKS[network])
    texts = (own,) if isinstance(own, str) else tuple(own)
    return WayFilter(tuple(_row(text) for text in texts), " ".join(texts))


def _row(text: str) -> tuple[Condition, ...]:
    conditions, position, stripped = [], 0, text.strip()
    while position < len(stripped):
        found = _CONDITION.match(stripped, position)
        if found is None:
            raise _unreadable(text, stripped[position:])
        conditions.append(_condition(found, text))
        position = found.end()
        while position < len(stripped) and stripped[position].isspace():
            position += 1
    if not conditions:
        raise _unreadable(text, text)
    return tuple(conditions)


def _condition(found: re.Match[str], text: str) -> Condition:
    key, how, value = _plain(found["key"]), found["how"], _plain(found["value"] or "")
    if (found["no"] and how) or (found["case"] and how not in ("~", "!~")):
        raise _unreadable(text, found[0])
    if how is None:
        return Condition(key, lambda _: not found["no"], bool(found["no"]))
    if how in ("=", "!="):
        return Condition(key, lambda given: (given == value) == (how == "="), how == "!=")
    try:
        pattern = re.compile(value, re.IGNORECASE if found["case"] else 0)
    except re.error as error:
        raise InputError(f"not a regular expression: {error}", field="filter", value=value,
                         remedy='an example: ["highway"~"motorway|trunk"]') from error
    return Condition(key, lambda given: bool(pattern.search(given)) == (how == "~"), how == "!~")


def _plain(word: str) -> str:
    if word[:1] == '"':
        return re.sub(r'\\(["\\])', r"\1", word[1:-1])
    return word[1:-1] if word[:1] == "'" else word.strip()


def _unreadable(text: str, rest: str) -> InputError:
    return InputError(f"the filter cannot be read at '{rest[:40]}'", field="filter", value=text,
                      remedy='write conditions in brackets: ["highway"~"motorway|trunk"]["access"!~"private"]')
