"""Incidents of a simulated city: where and when a road loses a part of its capacity."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stgraph.sources.simulate.demand import DAY, Demand
from stgraph.sources.simulate.flow import Incident
from stgraph.sources.simulate.network import RoadNetwork, to_degrees

_MINUTES = (10.0, 150.0)  # shortest and longest incident


def draw_incidents(
    network: RoadNetwork, demand: Demand, interval: int, per_day: float, rng: np.random.Generator
) -> list[Incident]:
    """Incidents in proportion to the distance driven: busy roads and busy hours have more.

    Args:
        network: The roads.
        demand: Trips started per interval, and volumes of the moves.
        interval: Length of an interval, s.
        per_day: Mean number of incidents a day.
        rng: Source of chance.

    Returns:
        Incidents in order of their start, which is a whole minute.
    """
    started = demand.arrivals.sum(axis=1)
    end_of_all = len(started) * interval
    count = int(rng.poisson(per_day * end_of_all / DAY))
    driven = demand.traffic() * network.lengths
    segment = rng.choice(len(driven), size=count, p=driven / driven.sum())
    when = rng.choice(len(started), size=count, p=started / started.sum()) * interval + rng.uniform(0, interval, count)
    start = np.floor(when / 60.0) * 60.0
    minutes = np.clip(np.round(rng.lognormal(np.log(35.0), 0.5, count)), *_MINUTES)
    end = np.minimum(start + 60.0 * minutes, end_of_all)
    share = np.round(rng.uniform(0.2, 0.6, count), 2)
    offset = rng.uniform(0.1, 0.9, count) * network.lengths[segment]
    return [Incident(int(segment[i]), float(offset[i]), float(start[i]), float(end[i]), float(share[i]))
            for i in np.argsort(start, kind="stable")]


def event_table(network: RoadNetwork, incidents: list[Incident], start: pd.Timestamp) -> pd.DataFrame:
    """Incidents as a table of events.

    Returns:
        ``event_id, kind, segment_id, offset_m, longitude, latitude, start, end`` (UTC) and ``capacity_share``.
    """
    place = [network.locate(incident.segment, np.array([incident.offset]))[0] for incident in incidents]
    longitude, latitude = to_degrees(np.array(place).reshape(-1, 2))
    seconds = np.array([[incident.start, incident.end] for incident in incidents]).reshape(-1, 2)
    times = [(start + pd.to_timedelta(column, unit="s")).as_unit("ms") for column in seconds.T]
    return pd.DataFrame({
        "event_id": np.arange(len(incidents)), "kind": "incident",
        "segment_id": np.array([incident.segment for incident in incidents], dtype=np.int64),
        "offset_m": np.array([incident.offset for incident in incidents], dtype=np.float64),
        "longitude": longitude, "latitude": latitude, "start": times[0], "end": times[1],
        "capacity_share": np.array([incident.capacity_share for incident in incidents], dtype=np.float64),
    })
