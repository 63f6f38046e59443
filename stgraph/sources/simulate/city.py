"""A whole simulated city in one call, and the files that a user would have of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stgraph.errors import InputError
from stgraph.io import atomic_path, write_json
from stgraph.sources.simulate.demand import DAY, make_demand
from stgraph.sources.simulate.flow import FlowResult, simulate_flow
from stgraph.sources.simulate.incidents import draw_incidents, event_table
from stgraph.sources.simulate.layout import lay_out, plan_of
from stgraph.sources.simulate.network import RoadNetwork
from stgraph.sources.simulate.observe import draw_observed, place_sensors, sensor_distances, true_readings, with_noise
from stgraph.sources.simulate.osm import write_osm
from stgraph.sources.simulate.trips import drive_trips

START = pd.Timestamp("2024-03-04T00:00:00Z")
"""First instant of every simulated city, a Monday; its clock is UTC."""

MAP = "roads.osm.pbf"
"""The file of the map."""

FARTHEST = 10_000.0
"""Longest road distance between sensors that is reported, m."""


@dataclass(frozen=True)
class SimulatedCity:
    """A simulated city: what it shows, and the truth behind it. ``T`` intervals, ``N`` sensors, ``C`` cells.

    Args:
        settings: The arguments that made it.
        network: Junctions, segments and turns.
        sensors: ``sensor_id, longitude, latitude, heading`` (degrees from north), ``segment_id, offset_m``.
        distances: ``from, to, distance_m``: shortest ways by road between sensors, in driving direction.
        timestamp: Start of each interval, seconds since 1970-01-01 UTC, ``[T]`` int64.
        speed: Readings, m/s, ``[T, N]`` float32, NaN where missing.
        flow: Readings, veh/h, ``[T, N]`` float32, NaN where missing.
        observed: Which readings arrived, ``[T, N]`` bool.
        true_speed: Speed without noise and gaps, m/s, ``[T, N]`` float32.
        true_flow: Flow without noise and gaps, veh/h, ``[T, N]`` float32.
        events: Incidents: ``event_id, kind, segment_id, offset_m, longitude, latitude, start, end, capacity_share``.
        trips: GPS points: ``trip, time, longitude, latitude``.
        trip_segments: What the trips truly drove: ``trip, seq, segment_id, entered_at``.
        traffic: The whole state of the roads, per cell, and the account of vehicles per step.
    """

    settings: dict[str, Any]
    network: RoadNetwork
    sensors: pd.DataFrame
    distances: pd.DataFrame
    timestamp: np.ndarray
    speed: np.ndarray
    flow: np.ndarray
    observed: np.ndarray
    true_speed: np.ndarray
    true_flow: np.ndarray
    events: pd.DataFrame
    trips: pd.DataFrame
    trip_segments: pd.DataFrame
    traffic: FlowResult

    @property
    def junctions(self) -> pd.DataFrame:
        """``junction_id, kind, x, y, longitude, latitude``."""
        return self.network.junctions

    @property
    def segments(self) -> pd.DataFrame:
        """``segment_id, from_junction, to_junction, road_class, lanes, length_m, free_speed, ..., geometry``."""
        return self.network.segments

    @property
    def vehicles(self) -> pd.DataFrame:
        """The account per time step: ``entered, left, inside, queued``."""
        return self.traffic.vehicles


def simulate_city(
    seed: int = 0,
    days: int = 28,
    sensors: int | None = None,
    interval: int = 300,
    size: str = "default",
    *,
    noise: float = 0.02,
    missing: float = 0.03,
    incidents_per_day: float | None = None,
    trips: int | None = None,
    gps_interval: int = 15,
    gps_noise: float = 6.0,
) -> SimulatedCity:
    """Simulate kinematic-wave traffic in a made-up city; the same arguments give the same city, bit for bit.

    Args:
        seed: Source of all chance.
        days: Whole days from Monday 2024-03-04 00:00 UTC on.
        sensors: Number of sensors ``N``; None takes that of the size (small 16, default 80, large 240).
        interval: Seconds between readings; divides the day.
        size: ``small``, ``default`` or ``large``.
        noise: Standard deviation of a reading's error as a share of the true value.
        missing: Share of the readings that do not arrive, on average.
        incidents_per_day: Mean number of incidents; None takes that of the size (4, 8, 20).
        trips: Number of recorded trips; None takes that of the size (40, 400, 1000).
        gps_interval: Seconds between the points of a trip.
        gps_noise: Standard deviation of a point's error to the east and to the north, m.

    Raises:
        InputError: for an argument that is out of range.
    """
    plan = plan_of(size)
    settings: dict[str, Any] = {
        "simulated": True, "seed": seed, "days": days, "sensors": _given(sensors, plan.sensors), "interval": interval,
        "size": size, "noise": noise, "missing": missing, "trips": _given(trips, plan.trips),
        "incidents_per_day": _given(incidents_per_day, plan.incidents_per_day),
        "gps_interval": gps_interval, "gps_noise": gps_noise}
    _check(settings)
    chance = dict(zip(("roads", "demand", "incidents", "sensors", "readings", "trips"),
                      np.random.default_rng(seed).spawn(6), strict=True))
    network = lay_out(plan, chance["roads"])
    demand = make_demand(network, days, interval, chance["demand"])
    incidents = draw_incidents(network, demand, interval, settings["incidents_per_day"], chance["incidents"])
    traffic = simulate_flow(network, demand.routes.moves, demand.arrivals, demand.shares, interval=interval,
                            incidents=incidents)
    places = place_sensors(network, traffic.cells, demand.traffic() > 0.0, settings["sensors"], chance["sensors"])
    true_speed, true_flow = true_readings(traffic, places)
    observed = draw_observed(true_speed.shape, missing, interval, chance["readings"])
    speed, flow = (np.where(observed, with_noise(truth, noise, chance["readings"]), np.float32(np.nan))
                   for truth in (true_speed, true_flow))
    points, driven = drive_trips(network, traffic, demand, START, count=settings["trips"],
                                 gps_interval=gps_interval, gps_noise=gps_noise, rng=chance["trips"])
    return SimulatedCity(
        settings=settings, network=network, sensors=places, distances=sensor_distances(network, places, FARTHEST),
        timestamp=int(START.timestamp()) + np.arange(len(true_speed), dtype=np.int64) * interval,
        speed=speed, flow=flow, observed=observed, true_speed=true_speed, true_flow=true_flow,
        events=event_table(network, incidents, START), trips=points, trip_segments=driven, traffic=traffic,
    )


def write_source_files(city: SimulatedCity, folder: Path | str) -> dict[str, Path]:
    """Write what a user would have of the city, so that it can enter by the same door as real data.

    ``readings.npz`` (``speed`` m/s and ``flow`` veh/h ``[T, N]`` with NaN for missing, ``timestamp`` seconds UTC,
    ``sensor_id``), ``sensors.csv``, ``distances.csv``, ``roads.osm.pbf`` (the map, as from OpenStreetMap),
    ``junctions.csv``, ``segments.csv``, ``events.parquet``, ``trips.parquet`` (``trip, time, lon, lat``),
    ``trip_segments.parquet`` (the truth), ``simulated.json`` (how it was made). Other files of the folder stay
    as they are.

    Returns:
        Path of each file by its name without ending.

    Raises:
        InputError: where the folder cannot be written to.
    """
    folder = Path(folder)
    tables = {"sensors.csv": city.sensors, "distances.csv": city.distances, "junctions.csv": city.junctions,
              "segments.csv": city.segments, "events.parquet": city.events,
              "trips.parquet": city.trips.rename(columns={"longitude": "lon", "latitude": "lat"}),
              "trip_segments.parquet": city.trip_segments}
    with atomic_path(folder / "readings.npz") as work:
        np.savez_compressed(work, speed=city.speed, flow=city.flow, timestamp=city.timestamp,
                            sensor_id=city.sensors["sensor_id"].to_numpy(str))
    for name, table in tables.items():
        with atomic_path(folder / name) as work:
            if name.endswith(".csv"):
                table.to_csv(work, index=False)
            else:
                table.to_parquet(work, index=False)
    write_osm(city.network, folder / MAP)
    write_json(folder / "simulated.json", {
        "description": "A simulated city: made up by a traffic simulation, not measured anywhere.", **city.settings,
        "units": {"speed": "m/s", "flow": "veh/h", "distance_m": "m"}, "tz": "UTC"})
    return {Path(name).name.split(".")[0]: folder / name
            for name in ("readings.npz", *tables, MAP, "simulated.json")}


def _given(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _check(settings: dict[str, Any]) -> None:
    if settings["interval"] < 1 or DAY % settings["interval"]:
        raise InputError("the interval does not divide the day", field="interval", value=settings["interval"],
                         remedy="choose one that does, such as 300 s")
    if not 0.0 <= settings["missing"] < 1.0:
        raise InputError("the missing share is out of range", field="missing", value=settings["missing"],
                         remedy="choose 0 or more and less than 1")
    lowest = {"seed": 0, "days": 1, "sensors": 1, "noise": 0.0, "incidents_per_day": 0.0, "trips": 0,
              "gps_interval": 1, "gps_noise": 0.0}
    for name, least in lowest.items():
        if not settings[name] >= least:
            raise InputError("too small for a simulated city", field=name, value=settings[name],
                             remedy=f"choose {least} or more")
