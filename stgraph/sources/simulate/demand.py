"""Who travels when and where in a simulated city: zones, patterns of the day and week, routes, trips started.

Three patterns of travel (from homes to work, from work to homes, all else) follow a gravity law each and rise and fall
over the day. Routes are shortest in time; several rounds, each on the travel times that the flows of the rounds before
would cause (BPR volume-delay function, method of successive averages), spread the traffic over alternatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from stgraph.sources.simulate.network import Moves, RoadNetwork

DAY = 86_400
_ROUNDS = 6  # of route choice
_TOP_LOAD = 1.3  # volume over capacity of the busiest 5 % of segments at the mean weekday peak: queues form
_PEAK = np.array([0.5, 0.8, 0.8])  # share of each pattern (other, to work, to home) in the mean peak hour


@dataclass(frozen=True)
class Routes:
    """The routes that drivers take, several per pair of zones.

    Args:
        moves: The moves that routes consist of.
        previous: Per round and origin zone, the node before each node, ``[R, Z, S + 2 Z]``; nodes are segments, then
            origins, then destinations.
    """

    moves: Moves
    previous: np.ndarray

    def segments(self, round_number: int, origin: int, destination: int) -> list[int]:
        """Segments of a route in driving order; empty where there is none."""
        tree, zones = self.previous[round_number, origin], len(self.moves.zones)
        count = tree.shape[0] - 2 * zones
        route: list[int] = []
        node = tree[count + zones + destination]
        while 0 <= node < count:
            route.append(int(node))
            node = tree[node]
        return route[::-1]


@dataclass(frozen=True)
class Demand:
    """What the flow model and the recorded trips draw from; ``K`` patterns: other, to work, to home.

    Args:
        arrivals: Vehicles that start a trip, per interval and origin zone, ``[T, Z]``, whole numbers.
        weights: Strength of each pattern in each interval, ``[T, K]``.
        pairs: Vehicles per hour from zone to zone at full strength of each pattern, ``[K, Z, Z]``.
        volumes: Vehicles per hour on each move at full strength of each pattern, ``[M, K]``.
        routes: The routes.
    """

    arrivals: np.ndarray
    weights: np.ndarray
    pairs: np.ndarray
    volumes: np.ndarray
    routes: Routes

    def shares(self, number: int) -> np.ndarray:
        """Share of each source's vehicles that take each move in interval ``number``, ``[M]``."""
        return _shares(self.routes.moves, self.volumes @ self.weights[number])

    def traffic(self) -> np.ndarray:
        """Vehicles per hour at the end of each segment at full strength of all patterns together, ``[S]``."""
        moves = self.routes.moves
        segments = self.routes.previous.shape[2] - 2 * len(moves.zones)
        return np.bincount(moves.source, self.volumes.sum(axis=1))[:segments]


def make_demand(network: RoadNetwork, days: int, interval: int, rng: np.random.Generator) -> Demand:
    """Demand of a simulated city for whole days from a Monday on.

    Args:
        network: The roads; trips start and end at surface junctions and gates.
        days: Number of days.
        interval: Seconds; divides the day.
        rng: Source of chance.
    """
    places = network.junctions[~network.junctions["kind"].isin(["freeway", "crossing"])]
    moves = Moves.of(network, places["junction_id"].tolist())
    pairs = _gravity(network, moves)
    volumes, routes, scale = _assign(network, moves, pairs)
    pairs, volumes = pairs * scale, volumes * scale
    weights, shifted = _profiles(days, interval, len(moves.zones), rng)
    rates = np.einsum("tzk,kz->tz", shifted, pairs.sum(axis=2))  # veh/h
    rates *= _chance(days, interval, len(moves.zones), rng)
    arrivals = rng.poisson(rates * (interval / 3600.0)).astype(np.float64)
    return Demand(arrivals, weights, pairs, volumes, routes)


def _gravity(network: RoadNetwork, moves: Moves) -> np.ndarray:
    """Trips from zone to zone as shares of all trips, per pattern, ``[K, Z, Z]``."""
    zones = network.junctions.iloc[moves.zones]
    gate, suburb = ((zones["kind"] == kind).to_numpy() for kind in ("gate", "suburb"))
    place = zones[["x", "y"]].to_numpy()
    distance = np.linalg.norm(place[:, None] - place[None], axis=2)
    from_centre = np.hypot(*place.T)
    radius = from_centre[~gate].max()
    # Relative sizes: people live in suburbs and beyond the gates, and work in the middle of the grid.
    homes = np.select([gate, suburb], [5.0, 7.0], 0.8)
    jobs = np.select([gate, suburb], [4.0, 3.0], 0.3 + 2.0 * np.exp(-((2.0 * from_centre / radius) ** 2)))
    likes = [np.outer(homes + jobs, homes + jobs), np.outer(homes, jobs), np.outer(jobs, homes)]
    near = np.exp(-distance / (4.0 * radius))
    np.fill_diagonal(near, 0.0)
    return np.stack([like * near / (like * near).sum() for like in likes])


def _assign(network: RoadNetwork, moves: Moves, pairs: np.ndarray) -> tuple[np.ndarray, Routes, float]:
    """Volumes of moves ``[M, K]`` for the given trips, the routes, and the scale that makes the peak busy."""
    free = network.lengths / network.segments["free_speed"].to_numpy()
    capacity = (network.segments["capacity"] * network.segments["green_share"]).to_numpy()
    freeway = network.segments["road_class"].isin(["freeway", "freeway_arm", "connector"]).to_numpy()
    count, zones = len(free), len(moves.zones)
    load, scale = np.zeros(count), 1.0
    rounds, total = [], np.zeros((len(moves.source), len(pairs)))
    for number in range(_ROUNDS):
        cost = free * (1.0 + 0.6 * np.minimum(load, 2.0) ** 4)  # steeper than the usual 0.15: few rounds spread it
        tree = _shortest(moves, cost, count, zones)
        rounds.append(tree)
        total += _load(moves, tree, pairs, count)
        volumes = total / (number + 1)
        through = np.stack([np.bincount(moves.source, volume, minlength=count + zones)[:count]
                            for volume in volumes.T], axis=1)
        peaks = np.maximum(through @ (_PEAK * [1, 1, 0]), through @ (_PEAK * [1, 0, 1])) / capacity
        busiest = max(np.quantile(peaks[freeway], 0.95), np.quantile(peaks[~freeway], 0.95))
        scale = _TOP_LOAD / busiest
        load = peaks * scale
    return volumes, Routes(moves, np.stack(rounds)), scale


def _shortest(moves: Moves, cost: np.ndarray, count: int, zones: int) -> np.ndarray:
    """Predecessors on the fastest ways from every origin, ``[Z, S + 2 Z]``; origins are nodes of their own."""
    ends = moves.target >= count
    target = np.where(ends, moves.target + zones, moves.target)
    price = np.where(ends, 1e-3, cost[np.minimum(moves.target, count - 1)])
    nodes = count + 2 * zones
    graph = csr_array((price, (moves.source, target)), shape=(nodes, nodes))
    return dijkstra(graph, indices=count + np.arange(zones), return_predecessors=True)[1]


def _load(moves: Moves, tree: np.ndarray, pairs: np.ndarray, count: int) -> np.ndarray:
    """Trips of each pattern put on the trees of routes: volume of each move, ``[M, K]``."""
    zones = len(moves.zones)
    row_of = {(int(a), int(b)): row for row, (a, b) in enumerate(zip(moves.source, moves.target, strict=True))}
    volumes = np.zeros((len(moves.source), len(pairs)))
    routes = Routes(moves, tree[None])
    for origin in range(zones):
        for destination in range(zones):
            if origin != destination and (route := routes.segments(0, origin, destination)):
                chain = [count + origin, *route, count + destination]
                rows = [row_of[step] for step in pairwise(chain)]
                volumes[rows] += pairs[:, origin, destination]
    return volumes


def _shares(moves: Moves, volume: np.ndarray) -> np.ndarray:
    """Volumes of moves to shares of their source; a source without volume takes all its moves alike."""
    total = np.bincount(moves.source, volume)
    ways = np.bincount(moves.source)
    return np.where(total[moves.source] > 0.0, volume, 1.0) / np.where(total > 0.0, total, ways)[moves.source]


def _profiles(days: int, interval: int, zones: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Strength of the patterns over time: for the city ``[T, K]``, and as each zone lives it ``[T, Z, K]``."""
    hour = (np.arange(DAY // interval) + 0.5) * interval / 3600.0
    late = rng.normal(0.0, 0.2, days)  # hours by which a whole day runs late
    own = rng.normal(0.0, 0.25, zones)  # hours by which a zone keeps later hours than the city
    strength = rng.lognormal(0.0, 0.05, (days, 3))
    city = np.stack([_day(day, hour - late[day]) * strength[day] for day in range(days)])
    zone = np.stack([_day(day, hour[:, None] - late[day] - own) * strength[day] for day in range(days)])
    return city.reshape(-1, 3), zone.reshape(-1, zones, 3)


def _day(day: int, hour: np.ndarray) -> np.ndarray:
    """Strength of the patterns (other, to work, to home) at local hours of a day, ``[..., K]``; day 0 is a Monday."""
    weekday = day % 7
    if weekday < 5:
        awake = _rise(hour, 6.3, 0.5) * (1.0 - _rise(hour, 20.5, 0.9))
        home_hour = 16.8 if weekday == 4 else 17.4  # Fridays end early
        other = 0.05 + (0.60 if weekday == 4 else 0.55) * awake
        to_work = 0.80 * np.exp(-0.5 * ((hour - 7.9) / 1.0) ** 2)
        to_home = 0.80 * np.exp(-0.5 * ((hour - home_hour) / 1.4) ** 2)
    else:
        awake = _rise(hour, 9.5, 1.0) * (1.0 - _rise(hour, 20.5, 1.3))
        other = 0.06 + (0.75 if weekday == 5 else 0.60) * awake
        to_work, to_home = 0.10 * awake, 0.15 * awake
    return np.stack([other, to_work, to_home], axis=-1)


def _rise(hour: np.ndarray, middle: float, width: float) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-(hour - middle) / width))


def _chance(days: int, interval: int, zones: int, rng: np.random.Generator) -> np.ndarray:
    """Random factor on the demand: a whole day's, a zone's on a day, and one that wanders within hours, ``[T, Z]``."""
    slots = DAY // interval
    day = rng.lognormal(0.0, 0.06, (days, 1)) * rng.lognormal(0.0, 0.08, (days, zones))
    keep = np.exp(-interval / 5400.0)  # correlation time of an hour and a half
    shocks = rng.normal(0.0, 0.12 * np.sqrt(1.0 - keep**2), (days * slots, zones))
    wander = np.empty_like(shocks)
    level = np.zeros(zones)
    for number, shock in enumerate(shocks):
        level = keep * level + shock
        wander[number] = level
    return np.repeat(day, slots, axis=0) * np.exp(wander)
