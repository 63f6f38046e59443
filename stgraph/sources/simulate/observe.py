"""What a simulated city shows of itself: sensors on its roads, their readings with noise and gaps, road distances."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from stgraph.errors import InputError
from stgraph.sources.simulate.flow import Cells, FlowResult
from stgraph.sources.simulate.network import RoadNetwork, to_degrees

_LIKELY = {"freeway": 4.0, "freeway_arm": 1.0, "connector": 1.0, "on_ramp": 0.3, "off_ramp": 0.3, "avenue": 1.0,
           "arterial": 0.6}
"""How likely a cell of each road class is to have a sensor: freeways are watched most."""

_OUTAGE_HOURS = 4.0  # mean length of a sensor's outage
_LONGEST_OUTAGE_HOURS = 48.0


def place_sensors(
    network: RoadNetwork, cells: Cells, busy: np.ndarray, count: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Put sensors on roads, at most one in a cell.

    Args:
        network: The roads.
        cells: Cells of the flow model.
        busy: Whether any route uses each segment, ``[S]``; the others get no sensor.
        count: Number of sensors ``N``.
        rng: Source of chance.

    Returns:
        ``sensor_id, longitude, latitude, heading`` (degrees clockwise from north), ``segment_id, offset_m``, in order
        of segment and offset.

    Raises:
        InputError: where the city has no room for that many sensors.
    """
    likely = network.segments["road_class"].map(_LIKELY).to_numpy(np.float64) * busy
    weight = likely[cells.segment]
    room = int((weight > 0.0).sum())
    if not 1 <= count <= room:
        raise InputError("the simulated city cannot hold that many sensors", field="sensors", value=count,
                         remedy=f"ask for 1 to {room}, or for a larger size")
    cell = np.sort(rng.choice(len(weight), size=count, replace=False, p=weight / weight.sum()))
    segment = cells.segment[cell]
    offset = (cell - cells.first[segment] + rng.uniform(0.2, 0.8, count)) * cells.length[cell]
    offset = np.round(offset, 1)
    place = np.concatenate([network.locate(int(s), np.array([o])) for s, o in zip(segment, offset, strict=True)])
    longitude, latitude = to_degrees(place)
    names = [f"sim{number:04d}" for number in range(1, count + 1)]
    ahead = np.concatenate([network.locate(int(s), np.array([o - 0.5, o + 0.5]))
                            for s, o in zip(segment, offset, strict=True)]).reshape(count, 2, 2)
    east, north = (ahead[:, 1] - ahead[:, 0]).T
    heading = np.round(np.degrees(np.arctan2(east, north)) % 360.0, 1) % 360.0
    return pd.DataFrame({"sensor_id": names, "longitude": longitude, "latitude": latitude, "heading": heading,
                         "segment_id": segment, "offset_m": offset})


def true_readings(traffic: FlowResult, sensors: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Speed (m/s) and flow (veh/h) in the cells of the sensors, ``[T, N]`` float32 each."""
    cell = traffic.cells.at(sensors["segment_id"].to_numpy(), sensors["offset_m"].to_numpy())
    return traffic.speed[:, cell], traffic.flow[:, cell]


def with_noise(truth: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Readings with a Gaussian error in proportion to the true value, never below zero, ``[T, N]`` float32."""
    if noise == 0.0:
        return truth.copy()
    error = rng.standard_normal(truth.shape, dtype=np.float32)
    return np.maximum(truth * (1.0 + np.float32(noise) * error), np.float32(0.0))


def draw_observed(shape: tuple[int, int], missing: float, interval: int, rng: np.random.Generator) -> np.ndarray:
    """Which readings arrive, ``[T, N]`` bool: half of the loss is outages of hours, half single readings.

    Outages start at random and may overlap, so the share of time under at least one of them is
    ``1 - exp(-rate * mean length)``; the rate is chosen to lose the share asked for on average.
    """
    steps, sensors = shape
    each = 1.0 - np.sqrt(1.0 - missing)  # two independent causes
    observed = rng.random(shape) >= each
    longest = int(_LONGEST_OUTAGE_HOURS * 3600 / interval)
    length = 1.0 + np.floor(rng.exponential(_OUTAGE_HOURS * 3600 / interval, 100_000))
    mean = float(np.minimum(length, longest).mean())
    count = int(rng.poisson(-np.log(1.0 - each) / mean * (steps + longest) * sensors))
    start = rng.integers(-longest, steps, count)
    end = start + np.minimum(rng.choice(length, count), longest).astype(np.int64)
    for sensor, first, after in zip(rng.integers(0, sensors, count), np.maximum(start, 0), end, strict=True):
        observed[first:max(after, 0), sensor] = False
    return observed


def sensor_distances(network: RoadNetwork, sensors: pd.DataFrame, farthest: float) -> pd.DataFrame:
    """Shortest ways by road from sensor to sensor, in driving direction.

    Args:
        network: The roads.
        sensors: Sensors with ``sensor_id, segment_id, offset_m``.
        farthest: Longest distance to report, m.

    Returns:
        ``from, to, distance_m``: sensor ids and metres, one row for each ordered pair within reach.
    """
    segments, count = len(network.segments), len(sensors)
    # Nodes: the starts of all segments, then the sensors; each segment is a chain that goes on to the next starts.
    chains = pd.DataFrame({
        "segment": np.r_[np.arange(segments), sensors["segment_id"].to_numpy()],
        "offset": np.r_[np.zeros(segments), sensors["offset_m"].to_numpy()],
        "node": np.arange(segments + count),
    }).sort_values(["segment", "offset", "node"])
    segment, offset, node = (chains[name].to_numpy() for name in ("segment", "offset", "node"))
    along = segment[1:] == segment[:-1]
    last = np.r_[~along, True]
    end_of, rest = node[last], network.lengths - offset[last]
    source, target = network.turns.to_numpy().T
    graph = csr_array(
        (np.r_[np.diff(offset)[along], rest[source]],
         (np.r_[node[:-1][along], end_of[source]], np.r_[node[1:][along], target])),
        shape=(segments + count, segments + count),
    )
    distance = dijkstra(graph, indices=np.arange(segments, segments + count), limit=farthest)[:, segments:]
    np.fill_diagonal(distance, np.inf)
    rows, columns = np.nonzero(np.isfinite(distance))
    names = sensors["sensor_id"].to_numpy()
    return pd.DataFrame({"from": names[rows], "to": names[columns], "distance_m": distance[rows, columns].round(1)})
