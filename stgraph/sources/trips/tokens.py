"""Trips as tokens without ids: every step of a walk as numbers that exist on any map.

Nothing in a token says which segment, junction or city it is of, nor where north is: two walks of the same shape on
the same kinds of road at the same hour give the same tokens, so what a model learns on them can be used elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.graph.plain import numbers
from stgraph.graph.time import DAY, TimeAxis
from stgraph.roads import Roads
from stgraph.sources.trips.journeys import Walks

CLASSES = ("motorway", "trunk", "primary", "secondary", "tertiary", "unclassified", "residential", "living_street",
           "service", "pedestrian", "footway", "cycleway", "path", "track", "other")
"""Words for the class of a road; ``motorway_link`` and its like count as their class."""

_STATIC = ("log_length", "lanes", "speed_limit", "curvature", "degree", "link", *(f"class_{word}" for word in CLASSES))
_STEP = ("turn_sin", "turn_cos", "driven_share", "log_time", "minute_sin", "minute_cos", "weekday_sin", "weekday_cos")
FEATURES = (*_STATIC, *_STEP)
"""Names of the features of a token, in order."""

_UNITS = {"log_length": "log(1 + m)", "speed_limit": "m/s", "curvature": "rad/m", "log_time": "log(1 + s)"}
UNITS = tuple(_UNITS.get(name, "1") for name in FEATURES)
"""Unit of each feature."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of the pieces of walks.

    Args:
        ptr: ``[k + 1]`` int64; piece ``i`` has the rows ``ptr[i] .. ptr[i + 1]``.
        values: ``[L, F]`` float32, a row for each step, a column for each of :data:`FEATURES`.
    """

    ptr: np.ndarray
    values: np.ndarray


def segment_features(roads: Roads) -> np.ndarray:
    """What does not change from drive to drive, for every segment.

    Returns:
        ``[S, F']`` float32: log of the length; lanes and speed limit, 0 where the map does not know them; curvature,
        all turning along the line over its length; degree, how many segments start where it ends; whether it is a
        link; class, one of :data:`CLASSES`.
    """
    classes, link = _classes(roads)
    degree = np.bincount(roads.tail, minlength=len(roads.junction_xy))[roads.head]
    columns = [np.log1p(roads.length), _known(roads, "lanes"), _known(roads, "speed"), _curvature(roads), degree, link,
               *(classes == code for code in range(len(CLASSES)))]
    return np.column_stack(columns).astype(np.float32)


def make_tokens(roads: Roads, walks: Walks, tz: str = "UTC", features: np.ndarray | None = None) -> Tokens:
    """Tokens of walks.

    Beside :func:`segment_features`, a step has: sine and cosine of the turn that led onto its segment, left positive
    (both 0 at the start of a piece); the share of the segment that was driven; the log of the time spent; sine and
    cosine of the minute of the day and of the day of the week at which it was entered, on the clock of the place.

    Args:
        roads: The map.
        walks: The walks.
        tz: Zone of the place.
        features: ``[S, F']`` from :func:`segment_features`, where they are at hand.
    """
    static = (segment_features(roads) if features is None else features)[walks.segment]
    start = walks.starts
    now, before = walks.segment, np.r_[walks.segment[:1], walks.segment[:-1]]
    angle = np.radians(roads.heading(before, roads.length[before]) - roads.heading(now, np.zeros(len(walks))))
    clock = TimeAxis(0, 1, 0, tz).local(np.floor(walks.entered_at).astype(np.int64))
    day = 2 * np.pi * (clock % DAY) / DAY
    week = 2 * np.pi * ((clock // DAY + 3) % 7) / 7  # 1970-01-01 was a Thursday; Monday is 0
    share = np.clip(walks.length / np.maximum(roads.length[now], 1e-9), 0, 1)
    step = np.column_stack([np.where(start, 0, np.sin(angle)), np.where(start, 0, np.cos(angle)), share,
                            np.log1p(np.maximum(walks.left_at - walks.entered_at, 0)),
                            np.sin(day), np.cos(day), np.sin(week), np.cos(week)])
    ptr = np.append(np.flatnonzero(start), len(walks))
    return Tokens(ptr, np.column_stack([static, step]).astype(np.float32))


def _classes(roads: Roads) -> tuple[np.ndarray, np.ndarray]:
    """Code of the class of each segment ``[S]``, and whether it is a link ``[S]``."""
    given = roads.attributes.get("road_class")
    other = CLASSES.index("other")
    if given is None:
        return np.full(len(roads.tail), other), np.zeros(len(roads.tail), bool)
    words = _arrow(given).cast(pa.string())
    link = pc.fill_null(pc.ends_with(words, "_link"), False)
    known = pc.index_in(pc.replace_substring_regex(words, "_link$", ""), pa.array(CLASSES))
    return pc.fill_null(known, other).to_numpy(zero_copy_only=False), link.to_numpy(zero_copy_only=False)


def _known(roads: Roads, name: str) -> np.ndarray:
    given = roads.attributes.get(name)
    return np.zeros(len(roads.tail)) if given is None else np.nan_to_num(numbers(_arrow(given)).astype(np.float64))


def _arrow(column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return column if isinstance(column, pa.Array) else pa.array(np.asarray(column).tolist())


def _curvature(roads: Roads) -> np.ndarray:
    """All turning along the line of each segment over its length, ``[S]`` rad/m."""
    step = np.diff(roads.line_metres, axis=0)
    heading = np.arctan2(step[:, 1], step[:, 0])
    turn = np.abs((np.diff(heading) + np.pi) % (2 * np.pi) - np.pi)
    still = (step == 0).all(axis=1)  # points that stand twice have no heading
    turn[still[:-1] | still[1:]] = 0
    bend = np.zeros(len(roads.line_xy))
    bend[1:-1] = turn
    bend[roads.line_ptr[:-1]] = bend[roads.line_ptr[1:] - 1] = 0  # the ends of a line are no bends
    total = np.r_[0.0, np.cumsum(bend)]
    return (total[roads.line_ptr[1:]] - total[roads.line_ptr[:-1]]) / np.maximum(roads.length, 1e-9)
