"""Sensors on roads: which segment each stands on, and how far it is by road from one to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stgraph.errors import InputError
from stgraph.roads import Roads
from stgraph.roads.attach import LIMIT, NO_DIRECTION, Attached, attach_sensors
from stgraph.roads.network import segment_ids
from stgraph.roads.paths import Router
from stgraph.sources.pairs import Pairs

REACH = 10_000.0
"""Longest way between two sensors that is looked for, where no radius is given, m."""

_BLOCK = 1 << 22  # distances held at a time


@dataclass(frozen=True)
class OnRoads:
    """``N`` sensors on a road network.

    Args:
        attached: The segment of each.
        segment_id: Ids of the segments ``[N]`` str, as in the bundle of the roads; empty where not attached.
        pairs: Ways by road in driving direction, no longer than ``reach``.
        reach: m.
        roads: Name of the file or bundle of the roads.
        sources: Where the roads come from, with licence and attribution.
        period: First second, and first after, of the time in which the network is the one that was taken; None where
            it never changes.
    """

    attached: Attached
    segment_id: np.ndarray
    pairs: Pairs
    reach: float
    roads: str
    sources: list[dict[str, Any]]
    period: tuple[int, int] | None = None

    def report(self, ids: Sequence[str]) -> dict[str, Any]:
        """What became of each sensor, for people: counts, names, distances."""
        there = self.attached.segment >= 0
        reasons, counts = np.unique(self.attached.reason[self.attached.reason != ""], return_counts=True)
        return {"roads": self.roads, "roads_period": list(self.period) if self.period is not None else None,
                "reach_m": self.reach, "attached": int(there.sum()),
                "unattached": [name for name, found in zip(ids, there, strict=True) if not found],
                "attach_notes": dict(zip(reasons.tolist(), counts.tolist(), strict=True)),
                "attach_distance_m": {"median": round(float(np.median(self.attached.distance[there])), 2),
                                      "max": round(float(self.attached.distance[there].max()), 2)},
                "road_pairs": len(self.pairs.source)}

    def warnings(self, ids: Sequence[str]) -> list[str]:
        """Sentences about sensors that are not on a road, or perhaps on the wrong side of it."""
        said = []
        away = [name for name, segment in zip(ids, self.attached.segment, strict=True) if segment < 0]
        if away:
            said.append(f"{len(away)} of {len(ids)} sensors are on no road and have no edges: {', '.join(away[:8])}")
        guessed = int((self.attached.reason == NO_DIRECTION).sum())
        if guessed:
            said.append(f"{guessed} sensors are on two-way streets and no heading is given: their direction is a guess "
                        "(--heading-key)")
        return said


def put_on_roads(roads: Roads | Path | str, lonlat: np.ndarray, heading: Iterable[Any] | None = None,
                 name: Sequence[str | None] | None = None, limit: float = LIMIT,
                 radius: float | None = None, at: Any = None) -> OnRoads:
    """Attach sensors to a road network, and find the ways between them.

    Args:
        roads: The network, or a bundle that holds one.
        lonlat: ``[N, 2]`` degrees, NaN where unknown.
        heading: See :func:`stgraph.roads.attach.attach_sensors`.
        name: See there.
        limit: Farthest a sensor may be from its road, m.
        radius: Longest way, m; None for :data:`REACH`.
        at: When, where the roads of a bundle change with time: seconds since 1970-01-01 UTC, an ISO text, or a pandas
            Timestamp; None for after their last change.

    Raises:
        InputError: where the roads have no longitudes and latitudes, or no sensor is near one of them.
    """
    file = "" if isinstance(roads, Roads) else str(roads)
    network = roads if isinstance(roads, Roads) else Roads.of(roads, at)
    if network.metric:
        raise InputError("the roads are in plain metres, sensors in degrees", file=file or None, field="roads",
                         remedy="give the roads a reference system: stgraph build roads --crs EPSG:...")
    attached = attach_sensors(network, lonlat, heading, name, limit)
    there = np.flatnonzero(attached.segment >= 0)
    if not len(there):
        raise InputError(f"no sensor is within {limit:g} m of a road", file=file or None, field="locations",
                         value="; ".join(f"{longitude:.5f}, {latitude:.5f}" for longitude, latitude in lonlat[:3]),
                         remedy="give the roads of the same city, or raise --attach-limit")
    ids = network.segment_id if network.segment_id is not None else \
        segment_ids(network.junction_id, network.tail, network.head)
    segment_id = np.full(len(lonlat), "", dtype=object)
    segment_id[there] = np.asarray(ids)[attached.segment[there]]
    reach = REACH if radius is None else float(radius)
    pairs = road_pairs(network, attached.segment, attached.offset, reach, file)
    title = Path(file).name or str(network.metadata.get("name", "roads"))
    return OnRoads(attached, segment_id.astype(str), pairs, reach, title, list(network.metadata.get("sources", [])),
                   network.period)


def road_pairs(roads: Roads, segment: np.ndarray, offset: np.ndarray, radius: float, file: str = "") -> Pairs:
    """Shortest ways by road from sensor to sensor, in driving direction and with the turns that are permitted.

    A way passes other sensors freely: every ordered pair within the radius is one row, but none from a sensor to
    itself.

    Args:
        roads: The network.
        segment: ``[N]`` int64; -1 for sensors that are on no road.
        offset: ``[N]`` metres after the start of the segment.
        radius: Longest way, m.
        file: For messages.
    """
    there = np.flatnonzero(segment >= 0)
    places = segment[there], offset[there]
    router = Router(roads)
    found = []
    step = max(_BLOCK // max(len(there), 1), 1)
    for start in range(0, len(there), step):
        part = slice(start, start + step)
        distance = router.distances((places[0][part], places[1][part]), places, radius)
        distance[np.arange(len(distance)), np.arange(start, start + len(distance))] = np.inf
        source, target = np.nonzero(np.isfinite(distance))
        found.append((there[source + start], there[target], distance[source, target]))
    nothing = np.zeros(0, np.int64)
    source, target, way = (np.concatenate(column) for column in
                           zip((nothing, nothing, np.zeros(0)), *found, strict=True))
    return Pairs(source, target, way, file=file)
