"""Map matching: points of trips become ordered, connected walks of road segments with times.

A hidden Markov model (Newson and Krumm, "Hidden Markov map matching through noise and sparseness", ACM SIGSPATIAL
2009). States are places on directed segments near a point. A state is the likelier the nearer it is to the point
(Gaussian), and a move the likelier the less its way differs from the straight line (exponential), where the line is
rid of what noise adds to it; U-turns cost extra. All trips of a block are solved together, step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from stgraph.errors import InputError
from stgraph.roads.nearest import SegmentIndex
from stgraph.roads.network import Roads
from stgraph.roads.routing import RoutingCells, RoutingTable
from stgraph.sources.trips.candidates import Moves, States, log_transition
from stgraph.sources.trips.viterbi import Pairs, Steps, solve
from stgraph.sources.trips.walk import Places, Walk, walk_of

BLOCK = 20_000  # points worked on at once, unless one trip has more


@dataclass(frozen=True)
class MatchSettings:
    """The model; every number has a default that suits cars in a city.

    Attributes:
        sigma: m, standard deviation of the error of points.
        radius: m, a vehicle is not farther from its point than this; 10 m plus 3.5 sigma where not given.
        most: Streets considered for each point, the nearest; each in its one or two directions.
        beta: m, scale of the difference between the way driven from point to point and the straight line.
        beta_growth: m/s, how much larger that scale is for every second between the points.
        limit: m, longest way between the ends of the segments of two points; more is a break.
        backward: How far, in sigma, a place may seem to slip back on its segment.
        u_turn: Log weight that a turn onto the other direction of a segment costs.
        max_speed: m/s, a vehicle is not faster.
        bridge: s, points without a street nearby are left out up to this long; then there is a break.
    """

    sigma: float = 10.0
    radius: float | None = None
    most: int = 16
    beta: float = 5.0
    beta_growth: float = 0.5
    limit: float = 1000.0
    backward: float = 4.0
    u_turn: float = 5.0
    max_speed: float = 60.0
    bridge: float = 60.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            least = 0.0 if one.name in _MAY_BE_ZERO else np.nextafter(0.0, 1.0)
            if value is not None and not (np.isfinite(value) and value >= least):
                raise InputError("this setting of map matching is out of range", field=one.name, value=value,
                                 remedy="give a positive number")

    @classmethod
    def sampled(cls, interval: float, **changes: Any) -> MatchSettings:
        """Settings for points about ``interval`` seconds apart: the limit is what is driven in that time at 35 m/s."""
        return cls(**{"limit": min(max(35.0 * interval, cls.limit), 12_000.0), **changes})

    @property
    def reach(self) -> float:
        """The radius in force, m."""
        return 10.0 + 3.5 * self.sigma if self.radius is None else self.radius


_MAY_BE_ZERO = ("beta_growth", "backward", "u_turn", "bridge")


@dataclass(frozen=True)
class Points:
    """Points of trips, ``n`` rows; the points of a trip stand together in the order of time.

    Attributes:
        trip: ``[n]`` int64, ascending.
        time: ``[n]`` float64 s, ascending within a trip.
        xy: ``[n, 2]`` local metres of the roads.
    """

    trip: np.ndarray
    time: np.ndarray
    xy: np.ndarray

    def __post_init__(self) -> None:
        if not (len(self.trip) == len(self.time) == len(self.xy)) or np.ndim(self.xy) != 2:
            raise InputError("trip, time and place of points do not have the same length", field="points",
                             value=[np.shape(self.trip), np.shape(self.time), np.shape(self.xy)])
        step = np.diff(self.trip)
        if (step < 0).any():
            raise InputError("points are not sorted by trip", field="trip", remedy="sort them by trip, then time")
        late = np.flatnonzero((step == 0) & ~(np.diff(self.time) > 0))
        if len(late):
            raise InputError("times of a trip do not increase", field="time", value=self.time[late[0] + 1],
                             remedy="sort them by trip, then time, and keep one point of each time")

    def __len__(self) -> int:
        return len(self.trip)

    def __getitem__(self, rows: Any) -> Points:
        return Points(self.trip[rows], self.time[rows], self.xy[rows])


@dataclass(frozen=True)
class Matched:
    """Where ``n`` points were matched, and the walks of ``w`` segments driven.

    Attributes:
        point_segment: ``[n]`` int64, -1 where the point was not matched.
        point_offset: ``[n]`` m after the start of the segment; NaN where not matched.
        point_confidence: ``[n]`` probability of the segment, given all points of its piece (forward-backward); 0 where
            not matched.
        break_before: ``[n]`` whether the walk does not lead from the matched point before, of the same trip, to here.
        walk_trip: ``[w]`` the trip, ascending.
        walk_piece: ``[w]`` the piece of the trip, from 0: a new one after every break.
        walk_seq: ``[w]`` place in the piece, from 0.
        walk_segment: ``[w]`` int64; the head of a segment is the tail of the next of its piece.
        walk_entered_at: ``[w]`` s, never decreasing within a trip; at the start of a piece the time of its first
            point, else between two points by the way driven.
        walk_length: ``[w]`` m driven on the segment.
        walk_confidence: ``[w]`` the largest confidence of the points on it; where it was passed between two points, the
            probability of both their segments together.
    """

    point_segment: np.ndarray
    point_offset: np.ndarray
    point_confidence: np.ndarray
    break_before: np.ndarray
    walk_trip: np.ndarray
    walk_piece: np.ndarray
    walk_seq: np.ndarray
    walk_segment: np.ndarray
    walk_entered_at: np.ndarray
    walk_length: np.ndarray
    walk_confidence: np.ndarray


def match(roads: Roads, points: Points, settings: MatchSettings | None = None, index: SegmentIndex | None = None,
          table: RoutingTable | RoutingCells | None = None) -> Matched:
    """Match trips to roads.

    A trip is cut where a point has no street within the radius (for longer than ``bridge``), where no way within the
    limit leads to the next point, or none that could be driven in the time. Moves that the map does not permit are not
    made; turning back is, at a cost. Sequences of three or more segments that are forbidden are not looked at.

    Args:
        roads: The map.
        points: The trips.
        settings: The model.
        index: An index of the same roads, to be used again.
        table: Shortest ways of the same roads, to be used again; by default they are found where they are needed,
            with permitted moves only. Ways longer than its own limit are not found.

    Returns:
        One row for each point, and the walks. A trip's result does not depend on the other trips.
    """
    settings = MatchSettings() if settings is None else settings
    index = SegmentIndex(roads) if index is None else index
    table = RoutingCells(roads, settings.limit, turns=True) if table is None else table
    count = len(points)
    matched = {"point_segment": np.full(count, -1, np.int64), "point_offset": np.full(count, np.nan),
               "point_confidence": np.zeros(count), "break_before": np.zeros(count, bool)}
    walks: list[tuple[np.ndarray, Walk]] = []
    for rows in _blocks(points):
        block = points[rows]
        used, places = _match_block(roads, block, settings, index, table)
        if not len(used):
            continue
        walk, places = walk_of(roads, places, table)
        begins = np.flatnonzero(places.begins)
        walks.append((block.trip[used[begins]][walk.piece], walk))
        used = rows[used]
        matched["point_segment"][used] = places.segment
        matched["point_offset"][used] = places.offset
        matched["point_confidence"][used] = places.confidence
        trip = points.trip[used]
        matched["break_before"][used[1:]] = places.begins[1:] & (trip[1:] == trip[:-1])
    return Matched(**matched, **_joined(walks))


def _blocks(points: Points) -> Iterator[np.ndarray]:
    """Rows of whole trips, about ``BLOCK`` at once; trips that start near each other come together."""
    if not len(points):
        return
    first = np.flatnonzero(np.diff(points.trip, prepend=points.trip[0] - 1))
    length = np.diff(first, append=len(points))
    square = np.floor(np.nan_to_num(points.xy[first]) / 5000.0)
    order = np.lexsort((square[:, 0], square[:, 1]))
    block = (np.cumsum(length[order]) - 1) // BLOCK
    for trips in np.split(order, np.flatnonzero(np.diff(block)) + 1):
        trips = np.sort(trips)
        start = np.cumsum(length[trips]) - length[trips]
        yield np.repeat(first[trips] - start, length[trips]) + np.arange(length[trips].sum())


def _match_block(roads: Roads, points: Points, settings: MatchSettings, index: SegmentIndex,
                 table: RoutingTable | RoutingCells) -> tuple[np.ndarray, Places]:
    """Rows of the points that have a place, and the places."""
    found = index.within(points.xy, settings.reach, settings.most)
    used = np.flatnonzero(np.diff(found.ptr))
    trip, time, xy = points.trip[used], points.time[used], points.xy[used]
    begins = np.ones(len(used), bool)
    begins[1:] = (trip[1:] != trip[:-1]) | ((np.diff(used) > 1) & (np.diff(time) > settings.bridge))
    steps = Steps.of(begins)
    order = steps.order
    gap = time[order] - time[order][steps.previous]
    seen = np.hypot(*(xy[order] - xy[order][steps.previous]).T)
    # the noise of both points adds 4 sigma^2 to the square of the line between them, in the mean
    straight = np.sqrt(np.maximum(seen**2 - 4.0 * settings.sigma**2, 0.0))
    blur = settings.sigma**2 / (seen + settings.sigma)  # and noise across the line this much to the line, about
    states = States.of(roads, found, used[order])
    pairs = Pairs.of(steps, states.ptr)
    moves = Moves(straight, settings.max_speed * gap + 4.0 * settings.sigma,
                  settings.beta + settings.beta_growth * gap + blur, settings.backward * settings.sigma,
                  settings.u_turn)
    solution = solve(steps, pairs, -0.5 * (states.distance / settings.sigma) ** 2,
                     log_transition(roads, states, pairs, moves, table))
    begins[order] |= solution.broken
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    chosen = solution.state[row]
    return used, Places(begins, time, states.segment[chosen], states.offset[chosen], solution.confidence[row],
                        solution.joint[row], moves.backward)


def _joined(walks: list[tuple[np.ndarray, Walk]]) -> dict[str, np.ndarray]:
    """The walks of all blocks, by trip."""
    if not walks:
        nothing = np.zeros(0, np.int64)
        walks = [(nothing, Walk(nothing, nothing, np.zeros(0), np.zeros(0), np.zeros(0)))]
    trip = np.concatenate([one for one, _ in walks])
    order = np.argsort(trip, kind="stable")
    piece, segment, entered_at, length, confidence = (
        np.concatenate([getattr(walk, one.name) for _, walk in walks])[order] for one in fields(Walk))
    trip = trip[order]
    new_trip = np.diff(trip, prepend=trip[:1] - 1) != 0
    new_piece = new_trip | (np.diff(piece, prepend=-1) != 0)
    starts = np.flatnonzero(new_piece)
    seq = np.arange(len(trip)) - np.repeat(starts, np.diff(starts, append=len(trip)))
    number = np.cumsum(new_piece)
    number -= np.repeat(number[new_trip], np.diff(np.flatnonzero(new_trip), append=len(trip)))
    return {"walk_trip": trip, "walk_piece": number, "walk_seq": seq, "walk_segment": segment,
            "walk_entered_at": entered_at, "walk_length": length, "walk_confidence": confidence}
