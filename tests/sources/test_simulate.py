"""Laws of the simulated city: vehicles are conserved, waves travel at the speeds of the fundamental diagram."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pandas as pd
import pytest
from shapely import LineString, Point, from_wkt

from stgraph.errors import InputError
from stgraph.sources.simulate import (
    FlowResult,
    Incident,
    Moves,
    NetworkBuilder,
    RoadNetwork,
    SimulatedCity,
    simulate_city,
    simulate_flow,
    write_source_files,
)
from stgraph.sources.simulate.demand import make_demand
from stgraph.sources.simulate.flow import CellTransmission, largest_step
from stgraph.sources.simulate.layout import lay_out, plan_of
from stgraph.sources.simulate.network import to_degrees, to_metres
from stgraph.sources.simulate.observe import draw_observed

STEP = 20
CELL = 29.0 * STEP  # m: a freeway cell that free traffic crosses in exactly one step


def corridor(*cells: float) -> RoadNetwork:
    """A straight freeway of several segments with the given numbers of cells."""
    builder = NetworkBuilder()
    ends = np.cumsum([0, *cells]) * CELL
    junctions = [builder.junction((x, 0.0), kind="freeway") for x in ends]
    for start, end in pairwise(junctions):
        builder.segment(start, end, "freeway")
    return builder.build()


def drive(network: RoadNetwork, arrivals: np.ndarray, **options: Any) -> FlowResult:
    """Traffic from the first to the last junction of a corridor, recorded at every step."""
    end = len(network.junctions) - 1
    moves = Moves.of(network, [0], [end])
    inflow = np.column_stack([arrivals, np.zeros_like(arrivals)])
    return simulate_flow(network, moves, inflow, lambda _: np.ones(len(moves.source)),
                         **{"interval": STEP, "step": STEP} | options)


@pytest.fixture(scope="module")
def city() -> SimulatedCity:
    """Two days without noise or gaps."""
    return simulate_city(seed=1, days=2, size="small", noise=0.0, missing=0.0, gps_noise=0.0)


@pytest.fixture(scope="module")
def every_step() -> SimulatedCity:
    """A day of which every time step is recorded."""
    return simulate_city(seed=2, days=1, size="small", interval=STEP, trips=0)


# ---------------------------------------------------------------- laws of the flow
def test_free_wave_travels_at_free_speed_across_segments() -> None:
    platoon = np.array([10.0] + [0.0] * 19)
    result = drive(corridor(6, 3, 5), platoon)
    expected = np.zeros((20, 14))
    for step in range(1, 15):
        expected[step, step - 1] = 10.0  # one cell a step, nothing spread
    np.testing.assert_allclose(result.occupancy, expected, atol=1e-5)
    np.testing.assert_allclose(result.speed, 29.0, rtol=1e-6)


def test_free_wave_in_long_cells_keeps_its_mean_speed() -> None:
    result = drive(corridor(*[1.6] * 40), np.array([10.0] + [0.0] * 30))
    middle = (np.arange(40) + 0.5) * 1.6 * CELL
    centre = (result.occupancy @ middle)[1:] / 10.0
    assert (result.occupancy[20] > 0.1).sum() > 5  # 1.6 steps a cell: it spreads, but its centre moves at free speed
    np.testing.assert_allclose(np.diff(centre) / STEP, 29.0, rtol=1e-4)


@pytest.mark.parametrize("demand", [4000.0, 3000.0])
def test_congestion_travels_upstream_at_the_speed_of_the_diagram(demand: float) -> None:
    network, share, blocked_at = corridor(30, 10), 0.4, 40
    wave, capacity, jam = network.wave_speed[0], 4000.0 / 3600.0, 0.25
    assert wave == pytest.approx(capacity / (jam - capacity / 29.0))
    start, steps = 90 * STEP, 700
    result = drive(network, np.full(steps, demand * STEP / 3600.0),
                   incidents=[Incident(1, 9.5 * CELL, start, steps * STEP, share)])
    inflow, outflow = demand / 3600.0, share * capacity
    free, queued = inflow / 29.0, jam - outflow / wave
    # Rankine-Hugoniot; where the free side is at capacity this is the wave speed itself.
    shock = (inflow - outflow) / (queued - free)
    assert bool(shock == pytest.approx(wave)) is (demand == 4000.0)
    density = result.occupancy / CELL
    reached = np.array([np.argmax(density[:, cell] > (free + queued) / 2) for cell in range(5, 39)]) * STEP
    expected = start + (blocked_at - 1 - (np.arange(5, 39) + 0.5)) * CELL / shock
    assert np.abs(reached - expected).max() <= CELL / shock + STEP
    travelled = np.polyfit(reached, np.arange(5, 39) * CELL, 1)[0]
    assert -travelled == pytest.approx(shock, rel=0.02)
    np.testing.assert_allclose(density[-1, 5:39], queued, rtol=1e-4)
    np.testing.assert_allclose(result.flow[-1, 5:], outflow * 3600.0, rtol=1e-4)


def test_release_after_an_incident_travels_upstream_at_the_wave_speed() -> None:
    network, end = corridor(40), 450 * STEP
    result = drive(network, np.full(800, 4000.0 * STEP / 3600.0),
                   incidents=[Incident(0, 35.5 * CELL, 100 * STEP, end, 0.3)])
    flow = result.flow[450:, 8:34]
    freed = np.array([np.argmax(column > 0.65 * 4000.0) for column in flow.T]) * STEP
    travelled = np.polyfit(freed, np.arange(8, 34) * CELL, 1)[0]
    assert -travelled == pytest.approx(network.wave_speed[0], rel=0.03)


def test_vehicles_wait_at_a_full_road_and_none_is_lost() -> None:
    result = drive(corridor(10), np.full(100, 6000.0 * STEP / 3600.0))  # half as much again as the road takes
    account = result.vehicles
    np.testing.assert_allclose(account["entered"], account["left"] + account["inside"] + account["queued"], rtol=1e-12)
    assert account["queued"].iloc[-1] == pytest.approx(100 * 2000.0 * STEP / 3600.0)
    assert result.flow[-1, -1] == pytest.approx(4000.0)


def fork(passing: float) -> tuple[RoadNetwork, Moves]:
    """A road that parts in two."""
    builder = NetworkBuilder()
    corners = ((0.0, 0.0), (5 * CELL, 0.0), (5 * CELL, 4 * CELL), (5 * CELL, -4 * CELL))
    places = [builder.junction(corner, kind="freeway") for corner in corners]
    for start, end in ((0, 1), (1, 2), (1, 3)):
        builder.segment(places[start], places[end], "freeway")
    network = builder.build()
    network.segments["passing"] = passing
    return network, Moves.of(network, [0], [2, 3])


@pytest.mark.parametrize(("passing", "taken", "on_the_open_way"), [
    (0.0, 0.5, 0.0),  # order is kept: nobody gets through
    (1.0, 0.5, 2000.0),  # a lane for each way: half of what a full road sends
    (0.5, 0.5, 1000.0),
    (0.0, 0.0, 3000.0),  # a way that nobody wants holds up nobody
])
def test_a_blocked_way_holds_up_those_behind_unless_they_may_pass(
    passing: float, taken: float, on_the_open_way: float
) -> None:
    network, moves = fork(passing)
    shares = np.ones(len(moves.source))
    shares[(moves.source == 0) & (moves.target == 1)] = taken
    shares[(moves.source == 0) & (moves.target == 2)] = 1.0 - taken
    arrivals = np.zeros((200, 3))
    arrivals[:, 0] = 3000.0 * STEP / 3600.0
    wall = Incident(1, 1.0, 0.0, 200 * STEP, 0.0)
    result = simulate_flow(network, moves, arrivals, lambda _: shares, interval=STEP, incidents=[wall])
    first = result.cells.first
    assert result.flow[:, first[1]].max() == 0.0
    assert result.flow[-1, first[2]] == pytest.approx(on_the_open_way)


def test_a_merge_shares_the_room_in_proportion_to_the_wishes() -> None:
    builder = NetworkBuilder()
    places = [builder.junction(place, kind="freeway") for place in ((0, 900), (0, -900), (5 * CELL, 0), (15 * CELL, 0))]
    for start, end in ((0, 2), (1, 2), (2, 3)):
        builder.segment(places[start], places[end], "freeway")
    moves = Moves.of(network := builder.build(), [0, 1], [3])
    arrivals = np.tile(np.array([3600.0, 3600.0, 0.0]) * STEP / 3600.0, (400, 1))
    result = simulate_flow(network, moves, arrivals, lambda _: np.ones(len(moves.source)), interval=STEP, step=STEP)
    ends = result.cells.first + result.cells.count - 1
    np.testing.assert_allclose(result.flow[-1, ends], [2000.0, 2000.0, 4000.0], rtol=1e-5)


def slow_step(state: CellTransmission, network: RoadNetwork, shares: np.ndarray, arrivals: np.ndarray) -> np.ndarray:
    """One step of the model written out cell by cell and move by move; returns the vehicles after it."""
    moves, cells, count = state.moves, state.cells, len(network.segments)
    queue = state.queue + arrivals
    sends, takes = {}, {}
    for cell in range(len(cells.segment)):
        road = network.segments.iloc[cells.segment[cell]]
        most = road.capacity * state.step / 3600.0
        is_last = cell + 1 == len(cells.segment) or cells.segment[cell + 1] != cells.segment[cell]
        sends[cell] = min(state.vehicles[cell] * road.free_speed * state.step / cells.length[cell],
                          most * (road.green_share if is_last else 1.0))
        wave = network.wave_speed[cells.segment[cell]] * state.step / cells.length[cell]
        takes[cell] = min(wave * (road.jam_density / 1000.0 * cells.length[cell] - state.vehicles[cell]), most)
    after = state.vehicles.copy()
    for cell in range(len(cells.segment) - 1):
        if cells.segment[cell] == cells.segment[cell + 1]:
            moved = min(sends[cell], takes[cell + 1])
            after[cell] -= moved
            after[cell + 1] += moved
    wish = {source: sends[cells.first[source] + cells.count[source] - 1] if source < count
            else min(queue[source - count], state.entry_capacity[source - count]) for source in set(moves.source)}
    rows = list(zip(moves.source.tolist(), moves.target.tolist(), shares.tolist(), strict=True))
    room = {target: 1.0 if target >= count else
            min(1.0, takes[cells.first[target]] / max(sum(wish[s] * p for s, t, p in rows if t == target), 1e-12))
            for target in set(moves.target)}
    for source, target, share in rows:
        order = min(room[t] for s, t, p in rows if s == source and p > 0.0)
        passing = network.segments["passing"].iloc[source] if source < count else 1.0
        moved = wish[source] * share * (order + passing * (room[target] - order))
        if source < count:
            after[cells.first[source] + cells.count[source] - 1] -= moved
        if target < count:
            after[cells.first[target]] += moved
    return after


def test_a_step_equals_a_slow_reference_in_the_rush_hour() -> None:
    network = lay_out(plan_of("small"), np.random.default_rng(0))
    demand = make_demand(network, 1, 300, np.random.default_rng(1))
    state = CellTransmission(network, demand.routes.moves, STEP)
    for number in range(18 * 12):
        for _ in range(300 // STEP):
            state.advance(demand.arrivals[number] * STEP / 300, demand.shares(number))
    assert (state.vehicles / state.jam).max() > 0.5  # it is congested
    arrivals, shares = demand.arrivals[216] * STEP / 300, demand.shares(216)
    expected = slow_step(state, network, shares, arrivals)
    state.advance(arrivals, shares)
    np.testing.assert_allclose(state.vehicles, expected, rtol=1e-10, atol=1e-10)


def test_shares_of_every_source_sum_to_one(city: SimulatedCity) -> None:
    demand = make_demand(city.network, 1, 300, np.random.default_rng(0))
    for number in (0, 96, 210):
        total = np.bincount(demand.routes.moves.source, demand.shares(number))
        np.testing.assert_allclose(total, 1.0, rtol=1e-12)


# ---------------------------------------------------------------- laws of the city
def test_vehicles_are_conserved_at_every_step(city: SimulatedCity) -> None:
    account = city.vehicles
    assert len(account) == 2 * 86_400 / city.traffic.step
    np.testing.assert_allclose(account["left"] + account["inside"] + account["queued"], account["entered"], rtol=1e-10)
    assert account["left"].iloc[-1] > 0.99 * account["entered"].iloc[-1]
    assert (account["left"].diff().dropna() >= -1e-6).all()


def test_density_stays_between_nothing_and_jam(every_step: SimulatedCity) -> None:
    cells = every_step.traffic.cells
    assert every_step.traffic.step == every_step.traffic.interval == STEP
    jam = every_step.segments["jam_density"].to_numpy()[cells.segment] / 1000.0 * cells.length
    share = every_step.traffic.occupancy / jam
    assert share.min() >= -1e-9
    assert 0.3 < share.max() <= 1.0 + 1e-6
    np.testing.assert_allclose(every_step.traffic.occupancy[1:].sum(axis=1), every_step.vehicles["inside"].iloc[:-1],
                               rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_city_and_another_seed_another() -> None:
    one, other = (simulate_city(seed=seed, days=1, size="small", trips=5) for seed in (3, 4))
    settings = dict(one.settings)
    assert settings.pop("simulated") is True
    again = simulate_city(**settings)
    for name in ("speed", "flow", "observed", "true_speed"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    for name in ("sensors", "distances", "segments", "events", "trips", "trip_segments", "vehicles"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(again, name), check_exact=True)
        assert not getattr(one, name).equals(getattr(other, name))


def test_readings_without_noise_are_the_truth_of_the_cell(city: SimulatedCity) -> None:
    cells = city.traffic.cells
    assert city.observed.all()
    for column, sensor in enumerate(city.sensors.itertuples()):
        ends = np.cumsum(cells.length[cells.segment == sensor.segment_id])
        cell = np.flatnonzero(cells.segment == sensor.segment_id)[np.searchsorted(ends, sensor.offset_m)]
        np.testing.assert_array_equal(city.speed[:, column], city.traffic.speed[:, cell])
        np.testing.assert_array_equal(city.flow[:, column], city.traffic.flow[:, cell])


def test_speed_flow_and_density_obey_the_diagram(city: SimulatedCity) -> None:
    road = city.segments.iloc[city.traffic.cells.segment]
    assert (city.traffic.flow <= road["capacity"].to_numpy() * (1 + 1e-5)).all()
    assert (city.traffic.speed <= road["free_speed"].to_numpy() * (1 + 1e-6)).all()
    assert city.true_speed.min() < 0.5 * city.true_speed.max()  # there is congestion to forecast


def test_noise_has_the_size_asked_for() -> None:
    noisy = simulate_city(seed=1, days=2, size="small", noise=0.1, missing=0.2, trips=0)
    error = (noisy.speed / noisy.true_speed - 1.0)[noisy.observed]
    assert error.mean() == pytest.approx(0.0, abs=0.01)
    assert error.std() == pytest.approx(0.1, rel=0.05)
    np.testing.assert_array_equal(np.isnan(noisy.speed), ~noisy.observed)
    np.testing.assert_array_equal(np.isnan(noisy.flow), ~noisy.observed)


@pytest.mark.parametrize("missing", [0.02, 0.1, 0.4])
def test_missing_share_is_near_what_was_asked_and_comes_in_outages(missing: float) -> None:
    lost = ~draw_observed((8064, 60), missing, 300, np.random.default_rng(0))
    assert lost.mean() == pytest.approx(missing, rel=0.15)
    assert lost[1:][lost[:-1]].mean() > missing + 0.2  # single losses alone would give the share itself


def test_demand_has_a_week_and_a_day() -> None:
    network = lay_out(plan_of("small"), np.random.default_rng(5))
    trips = make_demand(network, 14, 3600, np.random.default_rng(6)).arrivals.sum(axis=1).reshape(14, 24)
    weekend = np.arange(14) % 7 >= 5
    assert trips[weekend].sum() / 4 < 0.85 * trips[~weekend].sum() / 10
    weekday = trips[~weekend].mean(axis=0)
    assert min(weekday[8], weekday[17]) > 1.3 * weekday[12]
    assert weekday[3] < 0.2 * weekday[12]
    assert trips[weekend].mean(axis=0)[8] < 0.5 * weekday[8]
    assert trips[~weekend].sum(axis=1).std() > 0.01 * trips[~weekend].sum(axis=1).mean()


def test_an_incident_limits_the_flow_past_it() -> None:
    city = simulate_city(seed=0, days=2, size="small", incidents_per_day=20.0, trips=0)
    first = pd.Timestamp(city.timestamp[0], unit="s", tz="UTC")
    bitten = 0
    for event in city.events.itertuples():
        span = [(moment - first).total_seconds() / 300 for moment in (event.start, event.end)]
        rows = slice(int(np.ceil(span[0])), int(np.floor(span[1])))
        cell = city.traffic.cells.at(np.array([event.segment_id]), np.array([event.offset_m]))[0]
        left = event.capacity_share * city.segments["capacity"].iloc[event.segment_id]
        flow = city.traffic.flow[rows, cell]
        assert (flow <= left * (1 + 1e-5)).all()
        bitten += bool((flow > 0.99 * left).any())
    assert len(city.events) > 20
    assert bitten > 3
    assert (city.events["end"] > city.events["start"]).all()
    assert city.events["capacity_share"].between(0.2, 0.6).all()


# ---------------------------------------------------------------- sensors, roads, trips
def test_sensors_lie_on_their_segments(city: SimulatedCity) -> None:
    place = to_metres(*city.sensors[["longitude", "latitude"]].to_numpy().T)
    for sensor, point in zip(city.sensors.itertuples(), place, strict=True):
        line = LineString(city.network.lines[sensor.segment_id])
        assert line.distance(Point(point)) < 0.01
        assert line.project(Point(point)) == pytest.approx(sensor.offset_m, abs=0.1)
    assert city.sensors["sensor_id"].is_unique
    assert len(city.sensors) == 16


def test_roads_are_one_piece_with_lengths_and_geometry_that_agree(city: SimulatedCity) -> None:
    segments, turns = city.segments, city.network.turns
    ends = segments.set_index("segment_id")[["from_junction", "to_junction"]]
    assert (ends.loc[turns["from_segment"], "to_junction"].to_numpy()
            == ends.loc[turns["to_segment"], "from_junction"].to_numpy()).all()
    graph = networkx.DiGraph(list(zip(segments["from_junction"], segments["to_junction"], strict=True)))
    assert networkx.is_strongly_connected(graph)
    assert graph.number_of_edges() == len(segments)  # no two segments join the same two junctions in one direction
    for segment in segments.itertuples():
        line = from_wkt(segment.geometry)
        metres = to_metres(*np.array(line.coords).T)
        assert np.linalg.norm(np.diff(metres, axis=0), axis=1).sum() == pytest.approx(segment.length_m, rel=1e-3)
        assert np.linalg.norm(metres[-1] - metres[0]) > 0.85 * segment.length_m  # no detours
        junctions = city.junctions.iloc[[segment.from_junction, segment.to_junction]]
        np.testing.assert_allclose(np.array(line.coords)[[0, -1]], junctions[["longitude", "latitude"]], atol=1e-6)


def test_local_metres_are_true_near_the_anchor() -> None:
    longitude, latitude = to_degrees(np.array([[0.0, 0.0], [0.0, 1000.0]]))
    np.testing.assert_allclose((longitude[0], latitude[0]), (-30.0, 30.0), atol=1e-9)
    assert (latitude[1] - latitude[0]) * 110_852.0 == pytest.approx(1000.0, rel=1e-4)  # a degree at 30 N on WGS84
    points = np.array([[5000.0, -7000.0], [-300.0, 20.0]])
    np.testing.assert_allclose(to_metres(*to_degrees(points)), points, atol=1e-5)


def test_distances_equal_a_slow_search(city: SimulatedCity) -> None:
    lengths, sensors = city.network.lengths, city.sensors
    starts = networkx.DiGraph()
    for before, after in city.network.turns.itertuples(index=False):
        starts.add_edge(before, after, weight=lengths[before])
    expected = {}
    for one in sensors.itertuples():
        for other in sensors.itertuples():
            ways = [other.offset_m - one.offset_m] if one.segment_id == other.segment_id else []
            ways = [way for way in ways if way > 0.0]
            for after in starts.successors(one.segment_id) if one.segment_id in starts else ():
                if networkx.has_path(starts, after, other.segment_id):
                    onward = networkx.dijkstra_path_length(starts, after, other.segment_id)
                    ways.append(lengths[one.segment_id] - one.offset_m + onward + other.offset_m)
            if one.sensor_id != other.sensor_id and min(ways, default=np.inf) <= 10_000.0:
                expected[one.sensor_id, other.sensor_id] = min(ways)
    found = city.distances.set_index(["from", "to"])["distance_m"]
    assert set(found.index) == set(expected)
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), atol=0.06)


def test_trips_drive_connected_edges_no_faster_than_allowed(city: SimulatedCity) -> None:
    segments = city.segments.set_index("segment_id")
    allowed = set(city.network.turns.itertuples(index=False, name=None))
    assert city.trip_segments["trip"].nunique() == 40
    for _, trip in city.trip_segments.groupby("trip"):
        assert trip["seq"].tolist() == list(range(len(trip)))
        taken = trip["segment_id"].tolist()
        assert all(pair in allowed for pair in pairwise(taken))
        assert all(segments["to_junction"][a] == segments["from_junction"][b] for a, b in pairwise(taken))
        seconds = trip["entered_at"].diff().dt.total_seconds().to_numpy()[1:]
        fastest = (segments["length_m"] / segments["free_speed"]).loc[taken[:-1]].to_numpy()
        assert (seconds >= fastest - 0.01).all()


def test_trips_drive_at_the_simulated_speeds(city: SimulatedCity) -> None:
    cells, tick, slower = city.traffic.cells, 0.25, 0
    first = pd.Timestamp(city.timestamp[0], unit="s", tz="UTC")
    for _, trip in city.trip_segments.groupby("trip"):
        entered = (trip["entered_at"] - first).dt.total_seconds().to_numpy()
        for segment, start, end in zip(trip["segment_id"], entered[:-1], entered[1:], strict=False):
            place, now = 0.0, start  # small steps instead of the exact sum
            while place < city.network.lengths[segment]:
                cell = cells.at(np.array([segment]), np.array([place]))[0]
                place += tick * city.traffic.speed[int(now // 300), cell]
                now += tick
            assert end == pytest.approx(now, abs=3.0)
            slower += (end - start) > 1.5 * city.network.lengths[segment] / city.segments["free_speed"].iloc[segment]
    assert slower > 5


def test_points_without_noise_lie_on_the_edge_driven_at_that_time(city: SimulatedCity) -> None:
    metres = to_metres(*city.trips[["longitude", "latitude"]].to_numpy().T)
    lines = [LineString(line) for line in city.network.lines]
    for trip, rows in city.trips.groupby("trip").indices.items():
        truth = city.trip_segments[city.trip_segments["trip"] == trip]
        clock = city.trips["time"].iloc[rows]
        assert (clock.diff().dropna().dt.total_seconds() == 15.0).all()
        leg = np.searchsorted(truth["entered_at"].to_numpy(), clock.to_numpy(), side="right") - 1
        since = (clock.to_numpy() - truth["entered_at"].to_numpy()[leg]) / np.timedelta64(1, "s")
        for point, segment, seconds in zip(metres[rows], truth["segment_id"].to_numpy()[leg], since, strict=True):
            assert lines[segment].distance(Point(point)) < 0.1
            assert lines[segment].project(Point(point)) <= seconds * city.segments["free_speed"].iloc[segment] + 0.1
        spread = np.linalg.norm(np.diff(metres[rows], axis=0), axis=1)
        assert (spread > 0.2 * 15 * 0.5).all()  # they move on, in jams and round corners too


def test_gps_noise_has_the_size_asked_for(city: SimulatedCity) -> None:
    noisy = simulate_city(seed=1, days=2, size="small", noise=0.0, missing=0.0, gps_noise=8.0)
    seen, true = (to_metres(*table[["longitude", "latitude"]].to_numpy().T)[:20] for table in (noisy.trips, city.trips))
    assert 4.0 < (seen - true).std() < 12.0


# ---------------------------------------------------------------- files and bad input
def test_source_files_hold_what_the_city_shows(tmp_path: Path) -> None:
    city = simulate_city(seed=0, days=1, size="small", sensors=9, missing=0.1, trips=4)
    (tmp_path / "mine.txt").write_text("stays")
    paths = write_source_files(city, tmp_path)
    with np.load(paths["readings"], allow_pickle=False) as readings:
        np.testing.assert_array_equal(readings["speed"], city.speed)
        np.testing.assert_array_equal(readings["flow"], city.flow)
        assert readings["timestamp"].dtype == np.int64
        assert readings["timestamp"][1] - readings["timestamp"][0] == 300
        assert pd.Timestamp(readings["timestamp"][0], unit="s").day_name() == "Monday"
        assert readings["sensor_id"].tolist() == city.sensors["sensor_id"].tolist()
        assert np.isnan(readings["speed"]).mean() == pytest.approx((~city.observed).mean())
    sensors = pd.read_csv(paths["sensors"])
    assert sensors.columns.tolist() == ["sensor_id", "longitude", "latitude", "heading", "segment_id", "offset_m"]
    assert pd.read_csv(paths["distances"]).columns.tolist() == ["from", "to", "distance_m"]
    assert pd.read_parquet(paths["trips"]).columns.tolist() == ["trip", "time", "lon", "lat"]
    pd.testing.assert_frame_equal(pd.read_parquet(paths["events"]), city.events)
    pd.testing.assert_frame_equal(pd.read_parquet(paths["trip_segments"]), city.trip_segments)
    assert "simulated city" in paths["simulated"].read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths.values()} | {"mine.txt"}


@pytest.mark.parametrize(("options", "field"), [
    ({"size": "tiny"}, "size"), ({"days": 0}, "days"), ({"interval": 7}, "interval"), ({"interval": 0}, "interval"),
    ({"missing": 1.0}, "missing"), ({"noise": -0.1}, "noise"), ({"noise": float("nan")}, "noise"),
    ({"sensors": 0}, "sensors"), ({"sensors": 10_000}, "sensors"), ({"seed": -1}, "seed"),
    ({"incidents_per_day": -1.0}, "incidents_per_day"), ({"gps_interval": 0}, "gps_interval"), ({"trips": -1}, "trips"),
])
def test_a_bad_argument_is_named_with_a_remedy(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        simulate_city(**{"days": 1, "size": "small", "trips": 0} | options)
    assert caught.value.field == field
    assert caught.value.value == str(options[field])
    assert caught.value.remedy


def test_a_step_that_breaks_the_courant_condition_is_refused() -> None:
    network = corridor(1, 3)
    assert largest_step(network, 300) == STEP
    with pytest.raises(InputError, match="longer than the shortest segment"):
        drive(network, np.ones(3), step=25, interval=25)
    with pytest.raises(InputError, match="does not divide the interval"):
        drive(network, np.ones(3), step=15, interval=20)


def test_arrivals_where_no_trip_can_start_are_refused() -> None:
    network = corridor(2)
    moves = Moves.of(network, [0], [1])
    with pytest.raises(InputError, match="no origin"):
        simulate_flow(network, moves, np.ones((3, 2)), lambda _: np.ones(2), interval=STEP)
    with pytest.raises(InputError, match="a column for each zone"):
        simulate_flow(network, moves, np.ones((3, 1)), lambda _: np.ones(2), interval=STEP)
    with pytest.raises(InputError, match="leads nowhere"):
        Moves.of(network, [0], [0])
    with pytest.raises(InputError, match="no road leaves"):
        Moves.of(network, [1], [1])


def test_importing_the_simulation_loads_no_heavy_package() -> None:
    code = ("import sys, stgraph.sources.simulate; "
            "print([name for name in ('torch', 'geopandas', 'zarr', 'lightning') if name in sys.modules])")
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
