"""The road network of a simulated city: junctions, directed segments, the ways on from one to the next.

Coordinates are local metres ``x`` (east) and ``y`` (north) around an anchor in the open Atlantic, so that nobody takes
a simulated city for a real one; longitude and latitude follow from an azimuthal equidistant projection (pyproj).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import pandas as pd
from pyproj import CRS, Transformer

from stgraph.errors import InputError

ANCHOR = (-30.0, 30.0)
"""Longitude and latitude of the middle of every simulated city: open sea."""


@dataclass(frozen=True)
class RoadClass:
    """What roads of one class share; a lane's fundamental diagram is a triangle.

    Args:
        lanes: Number of lanes.
        free_speed: Speed without congestion, m/s.
        lane_capacity: Largest flow of a lane, veh/h.
        lane_jam_density: Density of a standing queue in a lane, veh/km.
        green_share: Share of the time that the end of the segment is open; 1 without a traffic signal.
        passing: Share of the drivers whom a blocked way on at its end does not hold up unless they take it: 0 where
            vehicles keep their order, 1 with a lane for each turn.
    """

    lanes: int
    free_speed: float
    lane_capacity: float
    lane_jam_density: float
    green_share: float = 1.0
    passing: float = 0.0


ROAD_CLASSES = {
    "freeway": RoadClass(2, 29.0, 2000.0, 125.0, passing=0.6),
    "freeway_arm": RoadClass(3, 30.0, 2000.0, 125.0, passing=0.6),
    "connector": RoadClass(2, 20.0, 1600.0, 125.0),
    "on_ramp": RoadClass(1, 16.0, 1700.0, 135.0),
    "off_ramp": RoadClass(2, 16.0, 1700.0, 135.0, green_share=0.75, passing=1.0),
    "avenue": RoadClass(3, 13.5, 1700.0, 140.0, green_share=0.9, passing=1.0),
    "arterial": RoadClass(3, 12.5, 1700.0, 140.0, green_share=0.55, passing=1.0),
}


@dataclass(frozen=True)
class RoadNetwork:
    """A directed road network; the id of a junction or segment is its row.

    Args:
        junctions: ``junction_id, kind, x, y, longitude, latitude`` (metres, degrees).
        segments: ``segment_id, from_junction, to_junction, road_class, lanes, length_m, free_speed`` (m/s),
            ``capacity`` (veh/h), ``jam_density`` (veh/km), ``green_share``, ``passing`` and
            ``geometry`` (WKT, degrees).
        turns: ``from_segment, to_segment``: every way on that a driver may choose.
        lines: Polyline of each segment in local metres, ``[points, 2]``.
    """

    junctions: pd.DataFrame
    segments: pd.DataFrame
    turns: pd.DataFrame
    lines: list[np.ndarray]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each segment, m, ``[S]``."""
        return self.segments["length_m"].to_numpy(np.float64)

    @cached_property
    def wave_speed(self) -> np.ndarray:
        """Speed at which congestion travels upstream on each segment, m/s, ``[S]``.

        The falling side of the triangle: capacity / (jam density - capacity / free speed).
        """
        capacity = self.segments["capacity"].to_numpy() / 3600.0
        jam = self.segments["jam_density"].to_numpy() / 1000.0
        return capacity / (jam - capacity / self.segments["free_speed"].to_numpy())

    def locate(self, segment: int, offset: np.ndarray) -> np.ndarray:
        """Local metres ``[n, 2]`` of the places ``offset`` metres (``[n]``) after the start of a segment."""
        line = self.lines[segment]
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        return np.column_stack([np.interp(offset, along, line[:, axis]) for axis in (0, 1)])


@dataclass(frozen=True)
class Moves:
    """Every move from where vehicles come to where they go, sorted by where they come from.

    A vehicle comes from a segment (``0 .. S-1``) or from the queue of a zone (``S + zone``); it goes to a segment
    (``0 .. S-1``) or ends its trip in a zone (``S + zone``).

    Args:
        zones: Junctions at which trips start and end, ``[Z]``.
        source: Segment or queue of each move, ``[M]``, ascending.
        target: Segment or zone of each move, ``[M]``.
    """

    zones: np.ndarray
    source: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, network: RoadNetwork, origins: Iterable[int], destinations: Iterable[int] | None = None) -> Moves:
        """Moves of a network whose trips start and end at the given junctions.

        Args:
            network: The roads.
            origins: Junctions where trips may start.
            destinations: Junctions where trips may end; None means the origins.

        Raises:
            InputError: where a segment leads nowhere, or a zone has no road out of it.
        """
        starts = list(origins)
        ends = starts if destinations is None else list(destinations)
        zones = np.unique(np.array(starts + ends, dtype=np.int64))
        count = len(network.segments)
        leaves = network.segments["from_junction"].to_numpy()
        reaches = network.segments["to_junction"].to_numpy()
        pairs = [network.turns.to_numpy(np.int64).reshape(-1, 2)]
        for zone, junction in enumerate(zones):
            if junction in starts:
                out = np.flatnonzero(leaves == junction)
                pairs.append(np.column_stack([np.full_like(out, count + zone), out]))
            if junction in ends:
                into = np.flatnonzero(reaches == junction)
                pairs.append(np.column_stack([into, np.full_like(into, count + zone)]))
        table = np.concatenate(pairs)
        table = table[np.lexsort((table[:, 1], table[:, 0]))]
        missing = np.setdiff1d(np.arange(count), table[:, 0])
        if len(missing):
            raise InputError("a segment leads nowhere", field="turns", value=int(missing[0]),
                             remedy="give it a turn, or let trips end at its last junction")
        without_road = [j for z, j in enumerate(zones) if j in starts and count + z not in table[:, 0]]
        if without_road:
            raise InputError("no road leaves this origin", field="origins", value=int(without_road[0]),
                             remedy="choose a junction at which a segment starts")
        return cls(zones, table[:, 0], table[:, 1])


@dataclass
class NetworkBuilder:
    """Collects junctions and segments, then makes a :class:`RoadNetwork`."""

    _places: list[tuple[float, float, str]] = field(default_factory=list)
    _rows: list[dict[str, object]] = field(default_factory=list)
    _lines: list[np.ndarray] = field(default_factory=list)

    def junction(self, place: Sequence[float] | np.ndarray, kind: str = "surface") -> int:
        """Add a junction at local metres ``(x, y)``; returns its id."""
        self._places.append((float(place[0]), float(place[1]), kind))
        return len(self._places) - 1

    def position(self, junction: int) -> np.ndarray:
        """Local metres ``[2]`` of a junction."""
        return np.array(self._places[junction][:2])

    def segment(
        self, start: int, end: int, road_class: str, *, via: np.ndarray | None = None, pace: float = 1.0
    ) -> int:
        """Add a directed segment; returns its id.

        Args:
            start: Junction it leaves.
            end: Junction it reaches.
            road_class: A key of :data:`ROAD_CLASSES`.
            via: Points between the two in local metres, ``[points, 2]``; None for a straight line.
            pace: Free speed as a share of that of the class.
        """
        road = ROAD_CLASSES[road_class]
        line = np.vstack([self.position(start), *([] if via is None else [via]), self.position(end)])
        self._lines.append(line)
        self._rows.append({
            "from_junction": start, "to_junction": end, "road_class": road_class, "lanes": road.lanes,
            "length_m": float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum()),
            "free_speed": road.free_speed * pace,
            "capacity": road.lane_capacity * road.lanes,
            "jam_density": road.lane_jam_density * road.lanes,
            "green_share": road.green_share, "passing": road.passing,
        })
        return len(self._rows) - 1

    def build(self) -> RoadNetwork:
        """The network with all turns but U-turns, those at a gate, and those off a freeway that enter it again."""
        places = pd.DataFrame(self._places, columns=["x", "y", "kind"])
        longitude, latitude = to_degrees(places[["x", "y"]].to_numpy())
        junctions = pd.DataFrame({"junction_id": np.arange(len(places)), "kind": places["kind"], "x": places["x"],
                                  "y": places["y"], "longitude": longitude, "latitude": latitude})
        segments = pd.DataFrame(self._rows)
        segments.insert(0, "segment_id", np.arange(len(segments)))
        segments["geometry"] = [_wkt(line) for line in self._lines]
        ways = segments[["segment_id", "from_junction", "to_junction", "road_class"]]
        pairs = ways.merge(ways, left_on="to_junction", right_on="from_junction", suffixes=("", "_next"))
        back = pairs["to_junction_next"] == pairs["from_junction"]
        bounce = (pairs["road_class"] == "off_ramp") & (pairs["road_class_next"] == "on_ramp")
        outside = pairs["to_junction"].map(places["kind"]) == "gate"
        turns = pairs.loc[~back & ~bounce & ~outside, ["segment_id", "segment_id_next"]].reset_index(drop=True)
        turns.columns = ["from_segment", "to_segment"]
        return RoadNetwork(junctions, segments, turns, list(self._lines))


def to_degrees(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude ``[n]`` each of local metres ``[n, 2]``."""
    longitude, latitude = _projection().transform(points[:, 0], points[:, 1], direction="INVERSE")
    return np.asarray(longitude), np.asarray(latitude)


def to_metres(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Local metres ``[n, 2]`` of longitude and latitude ``[n]`` each."""
    return np.column_stack(_projection().transform(longitude, latitude))


@cache
def _projection() -> Transformer:
    local = CRS.from_dict({"proj": "aeqd", "lon_0": ANCHOR[0], "lat_0": ANCHOR[1], "datum": "WGS84", "units": "m"})
    return Transformer.from_crs("EPSG:4326", local, always_xy=True)


def _wkt(line: np.ndarray) -> str:
    longitude, latitude = to_degrees(line)
    return "LINESTRING (" + ", ".join(f"{x:.7f} {y:.7f}" for x, y in zip(longitude, latitude, strict=True)) + ")"
