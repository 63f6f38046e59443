"""Trips driven through a simulated city: noisy GPS points, and the edges that were truly driven."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stgraph.sources.simulate.demand import Demand
from stgraph.sources.simulate.flow import FlowResult
from stgraph.sources.simulate.network import RoadNetwork, to_degrees

_CRAWL = 0.5  # m/s: the slowest that a recorded vehicle drives
_LAST_HOUR = 3600.0  # s before the end in which no recorded trip starts, so that trips end in time


def drive_trips(
    network: RoadNetwork,
    traffic: FlowResult,
    demand: Demand,
    start: pd.Timestamp,
    *,
    count: int,
    gps_interval: int,
    gps_noise: float,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Send recorded vehicles along routes of the demand, at the simulated speeds of the cells that they cross.

    Args:
        network: The roads.
        traffic: Simulated speeds.
        demand: Where trips start and end, when, and which routes they take.
        start: Time of the first interval.
        count: Number of trips.
        gps_interval: Seconds between points.
        gps_noise: Standard deviation of a point's error to the east and to the north, m.
        rng: Source of chance.

    Returns:
        Points ``trip, time, longitude, latitude``, and the truth ``trip, seq, segment_id, entered_at`` (UTC).
    """
    points, truth = [], []
    for trip in range(count):
        route, departure = _choose(traffic, demand, rng)
        passed, entered = _drive(traffic, route, departure)
        clock = np.arange(departure, passed[-1, 0], gps_interval)
        along = np.interp(clock, passed[:, 0], passed[:, 1])
        place = _places(network, route, along) + rng.normal(0.0, gps_noise, (len(clock), 2))
        points.append(np.column_stack([np.full(len(clock), trip), clock, place]))
        truth.append(np.column_stack([np.full(len(route), trip), np.arange(len(route)), route, entered]))
    point, edge = np.concatenate([np.empty((0, 4)), *points]), np.concatenate([np.empty((0, 4)), *truth])
    longitude, latitude = to_degrees(point[:, 2:])
    return (
        pd.DataFrame({"trip": point[:, 0].astype(np.int64), "time": _times(start, point[:, 1]),
                      "longitude": longitude, "latitude": latitude}),
        pd.DataFrame({"trip": edge[:, 0].astype(np.int64), "seq": edge[:, 1].astype(np.int64),
                      "segment_id": edge[:, 2].astype(np.int64), "entered_at": _times(start, edge[:, 3])}),
    )


def _choose(traffic: FlowResult, demand: Demand, rng: np.random.Generator) -> tuple[list[int], float]:
    """A route and a departure, seconds since the start, as likely as in the demand."""
    started = demand.arrivals[:max(len(demand.arrivals) - round(_LAST_HOUR / traffic.interval), 1)]
    number = int(rng.choice(len(started), p=started.sum(axis=1) / started.sum()))
    origin = int(rng.choice(started.shape[1], p=started[number] / started[number].sum()))
    ends = demand.weights[number] @ demand.pairs[:, origin]
    destination = int(rng.choice(len(ends), p=ends / ends.sum()))
    route = demand.routes.segments(int(rng.integers(len(demand.routes.previous))), origin, destination)
    return route, float(np.floor((number + rng.random()) * traffic.interval))


def _drive(traffic: FlowResult, route: list[int], departure: float) -> tuple[np.ndarray, np.ndarray]:
    """Time and distance at every change of speed, ``[points, 2]``, and when each segment was entered."""
    cells, last = traffic.cells, len(traffic.speed) - 1
    now, gone = departure, 0.0
    passed, entered = [(now, gone)], []
    for segment in route:
        entered.append(now)
        for cell in range(cells.first[segment], cells.first[segment] + cells.count[segment]):
            left = float(cells.length[cell])
            while left > 0.0:
                number = int(now // traffic.interval)
                speed = max(float(traffic.speed[min(number, last), cell]), _CRAWL)
                until = (number + 1) * traffic.interval
                if (reach := (until - now) * speed) >= left or number >= last:
                    now, gone, left = now + left / speed, gone + left, 0.0
                else:
                    now, gone, left = until, gone + reach, left - reach
                passed.append((now, gone))
    return np.array(passed), np.array(entered)


def _places(network: RoadNetwork, route: list[int], along: np.ndarray) -> np.ndarray:
    """Local metres ``[n, 2]`` at distances ``[n]`` along a route."""
    ends = np.cumsum(network.lengths[route])
    leg = np.minimum(np.searchsorted(ends, along, side="right"), len(route) - 1)
    offset = along - np.r_[0.0, ends[:-1]][leg]
    place = np.empty((len(along), 2))
    for number, segment in enumerate(route):
        place[leg == number] = network.locate(segment, offset[leg == number])
    return place


def _times(start: pd.Timestamp, seconds: np.ndarray) -> pd.DatetimeIndex:
    return (start + pd.to_timedelta(np.round(seconds * 1000.0), unit="ms")).as_unit("ms")
