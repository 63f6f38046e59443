"""Ways cut into legs: the straight pieces between neighbouring nodes, with direction and length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stgraph.roads.projection import great_circle
from stgraph.sources.osm.read import DEGREE, OsmData
from stgraph.sources.osm.tags import Tags

ONE_WAY = frozenset({"yes", "true", "1", "-1", "reverse", "T", "F"})
AGAINST = frozenset({"-1", "reverse", "T"})
"""Values of ``oneway`` that say one way, and those that say against the order of the nodes, as in osmnx."""


_PART = 1 << 16


@dataclass
class Legs:
    """``M`` legs in the order of the file; each starts where one may drive it from.

    Attributes:
        start: Place of a node in ``node_id`` of the data, ``[M]`` int32.
        end: The other one, ``[M]``.
        both: Whether it may be driven in both directions, ``[M]`` bool.
        along: Whether start to end is the order of the nodes in the way, ``[M]`` bool.
        way: Place of the way in the data, ``[M]`` int32.
        length: Great circle, m, ``[M]``.
        clipped: Ways with a node that is not in the file; they end there.
    """

    start: np.ndarray
    end: np.ndarray
    both: np.ndarray
    along: np.ndarray
    way: np.ndarray
    length: np.ndarray
    clipped: int

    @property
    def ends(self) -> np.ndarray:
        """Node where each step starts, ``[2 M]``: of step ``2 m`` the start of leg ``m``, of ``2 m + 1`` its end."""
        return np.stack([self.start, self.end], 1).reshape(-1)


def one_way(tags: Tags) -> tuple[np.ndarray, np.ndarray]:
    """Which ways are one-way, and which of these against the order of their nodes, ``[W]`` bool each."""
    tagged = tags.values_of("oneway", lambda value: value in ONE_WAY, np.bool_, False)
    roundabout = tags.values_of("junction", lambda value: value == "roundabout", np.bool_, False)
    return tagged | roundabout, tags.values_of("oneway", lambda value: value in AGAINST, np.bool_, False)


def make_legs(data: OsmData, both_ways: bool = False) -> Legs:
    """Cut ways into legs. Nodes that follow themselves are passed over, as in osmnx; missing ones end the way.

    Args:
        data: What was read.
        both_ways: Whether every way may be used in both directions, as on foot.
    """
    way = np.repeat(np.arange(len(data.way_id), dtype=np.int32), np.diff(data.way_ptr))
    start, end = data.node[:-1], data.node[1:]
    rows = np.flatnonzero((way[:-1] == way[1:]) & (start >= 0) & (end >= 0) & (start != end))
    clipped = len(set(way[data.node < 0].tolist()))
    start, end, way = start[rows], end[rows], way[rows]
    single, against = one_way(data.tags)
    if both_ways:
        single = np.zeros(len(single), bool)
    swapped = (single & against)[way]
    start, end = np.where(swapped, end, start), np.where(swapped, start, end)
    return Legs(start, end, ~single[way], ~swapped, way, _lengths(data, start, end), clipped)


def _lengths(data: OsmData, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Great circles in m, ``[M]``; part by part, because what is worked out on the way is many times as large."""
    length = np.empty(len(start))
    for first in range(0, len(start), _PART):
        part = slice(first, first + _PART)
        length[part] = great_circle(data.node_xy[start[part]] / DEGREE, data.node_xy[end[part]] / DEGREE)
    return length
