"""Weather stations as nodes of a graph, with edges towards what they affect and none back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal, TimeAxis, load
from stgraph.graph.time import seconds
from stgraph.sources.pairs import FLATTENING, geodesic
from stgraph.sources.readings import Readings
from stgraph.sources.sensors import build_sensors

WEATHER, AFFECTS = "weather", "affects"


def add_weather(graph: DynamicHeteroGraph, weather: DynamicHeteroGraph | Readings | Path | str, *, k: int = 3,
                max_distance: float | None = None, to: Sequence[str] | None = None, instant: bool = False,
                max_age: str | int | None = None, **options: Any) -> tuple[DynamicHeteroGraph, dict[str, Any]]:
    """A graph with weather: nodes ``weather``, their signals on the graph's time axis, edges ``weather affects X``.

    **Time.** A row of the graph has the latest weather that was known when the row was over, never later weather. A
    row of weather is what was measured in ``[t, t + step)``, so it is known at ``t + step``; a daily mean therefore
    appears in the last row of its day and holds through the next day. With ``instant`` it was read at ``t`` itself and
    is taken from the rows on that start then. A station that missed a reading keeps its last, up to ``max_age``; where
    there is none the mask says so.

    **Space.** Each node has edges from the ``k`` nearest stations by geodesic distance, ties in the order of names. No
    edge leads to a station, so nothing that happens in the city can reach the weather. Stations without an edge are
    left out.

    Args:
        graph: The graph; it is not changed.
        weather: A graph whose nodes have places and signals (or its bundle), or readings with places.
        k: Stations for each node.
        max_distance: Longest edge in m; None for no limit.
        to: Node types that weather affects; None for all with ``lonlat``.
        instant: Whether a row of weather was read at its time, rather than in the step that begins then.
        max_age: Longest time that a reading is kept, such as ``1D``, counted from when it was known; None for no limit.
        **options: For readings, options of :func:`stgraph.sources.sensors.build_sensors`.

    Returns:
        The graph with weather, and what a report says of it.

    Raises:
        InputError: where either has no time axis or no places, or no station is near enough to anything.
    """
    if k < 1 or (max_distance is not None and not 0 < max_distance < np.inf):
        raise InputError("out of range", field="k" if k < 1 else "max_distance", value=k if k < 1 else max_distance,
                         remedy="give a positive number")
    if isinstance(weather, Readings):
        weather, _ = build_sensors(weather, **options)
    elif not isinstance(weather, DynamicHeteroGraph):
        weather = load(weather)
    kind = _station_type(weather)
    if graph.time is None or weather.time is None:
        raise InputError("weather needs a time axis on both sides", field="time",
                         remedy="build the graph with readings first")
    if WEATHER in graph.node_types:
        raise InputError("the graph has weather already", field="type", value=WEATHER, remedy="add it once")
    targets = _targets(graph, to)
    edges = {name: nearest_stations(weather[kind].lonlat.numpy(), graph[name].lonlat.numpy(), weather[kind].node_id, k,
                                    max_distance) for name in targets}
    used = np.unique(np.concatenate([index[0] for index, _ in edges.values()]))
    if not len(used):
        raise InputError("no station is near enough to anything", field="max_distance", value=max_distance,
                         remedy="allow a longer distance, or check the places on both sides")
    limit = None if max_age is None else seconds(max_age)
    signals = {name: _aligned(signal, weather.time, graph.time, used, instant, limit)
               for name, signal in weather.signals(kind).items()}
    out = _joined(graph, weather, kind, edges, used)
    for name, signal in signals.items():
        out.add_signal(WEATHER, name, signal)
    report = _report(weather, kind, edges, signals, used, graph)
    out.metadata["sources"] = [*graph.metadata.get("sources", []), *weather.metadata.get("sources", [])]
    out.metadata["build"] = graph.metadata.get("build", {}) | {WEATHER: report}
    return out, report


def latest_rows(weather: TimeAxis, axis: TimeAxis, instant: bool = False) -> np.ndarray:
    """For each row of an axis, the latest row of weather that was known by then, ``[T]`` int64; -1 where none was.

    Args:
        weather: Time axis of the weather.
        axis: The axis to align with.
        instant: As for :func:`add_weather`.
    """
    known = weather.times() + (0 if instant else weather.step)
    due = axis.times() + (0 if instant else axis.step)
    return np.searchsorted(known, due, side="right") - 1


def nearest_stations(stations: np.ndarray, places: np.ndarray, ids: Sequence[str] | np.ndarray, k: int,
                     max_distance: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Edges to each place from its ``k`` nearest stations by geodesic distance.

    Stations equally far (to the millimetre) are taken in the order of their names; places and stations that are not
    known have no edges.

    Args:
        stations: ``[M, 2]`` degrees.
        places: ``[N, 2]`` degrees.
        ids: Names of the stations.
        k: How many.
        max_distance: In m; None for no limit.

    Returns:
        ``[2, E]`` int64 of stations and places, sorted by place and distance, and the distances ``[E]`` in m.
    """
    station, place = (np.flatnonzero(np.isfinite(one).all(1)) for one in (stations, places))
    if not len(station) or not len(place):
        return np.zeros((2, 0), np.int64), np.zeros(0)
    tree, points = cKDTree(_on_sphere(stations[station])), _on_sphere(places[place])
    count = min(k, len(station))
    candidates = min(len(station), count + 8)
    chord, found = tree.query(points, k=candidates)
    chord, found = chord.reshape(len(place), -1), found.reshape(len(place), -1)
    source, target = found.reshape(-1), np.repeat(np.arange(len(place)), candidates)
    # on the ellipsoid the order may differ a little: where that could reach beyond the candidates, look at more
    reach = chord[:, count - 1] * FLATTENING + 1e-9
    wide = np.flatnonzero(chord[:, -1] <= reach) if candidates < len(station) else np.zeros(0, np.int64)
    if len(wide):
        more = tree.query_ball_point(points[wide], reach[wide])
        keep = ~np.isin(target, wide)
        source = np.concatenate([source[keep], *(np.asarray(one, np.int64) for one in more)])
        target = np.concatenate([target[keep], np.repeat(wide, [len(one) for one in more])])
    source, target = station[source], place[target]
    distance = geodesic(stations[source], places[target])
    order = np.lexsort((np.asarray(ids, dtype=str)[source], np.round(distance, 3), target))
    source, target, distance = source[order], target[order], distance[order]
    near = np.arange(len(target)) - np.searchsorted(target, target) < count
    if max_distance is not None:
        near &= distance <= max_distance
    return np.stack([source[near], target[near]]), distance[near]


def _on_sphere(lonlat: np.ndarray) -> np.ndarray:
    longitude, latitude = np.radians(lonlat).T
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)],
                    axis=1)


def _station_type(weather: DynamicHeteroGraph) -> str:
    found = [name for name in weather.node_types if "lonlat" in weather[name] and weather.signals(name)]
    if len(found) != 1:
        raise InputError("the weather needs one type of nodes with places and signals", field="weather",
                         value=", ".join(found) or "none",
                         remedy="build it with stgraph build sensors, with --locations")
    return found[0]


def _targets(graph: DynamicHeteroGraph, to: Sequence[str] | None) -> list[str]:
    placed = [name for name in graph.node_types if "lonlat" in graph[name]]
    for name in to or ():
        if name not in placed:
            raise InputError("the graph has no such nodes with places", field="to", value=name,
                             remedy=f"choose among {', '.join(placed)}")
    if not placed:
        raise InputError("the graph has no nodes with places", field="to", remedy="build it with --locations")
    return list(to) if to is not None else placed


def _joined(graph: DynamicHeteroGraph, weather: DynamicHeteroGraph, kind: str,
            edges: dict[str, tuple[np.ndarray, np.ndarray]], used: np.ndarray) -> DynamicHeteroGraph:
    """The graph with the stations that are used, and their edges."""
    out = copy.copy(graph)
    out[WEATHER].node_id = weather[kind].node_id[used]
    out[WEATHER].lonlat = weather[kind].lonlat[used]
    out[WEATHER].num_nodes = len(used)
    for name, (index, distance) in edges.items():
        store = out[WEATHER, AFFECTS, name]
        store.edge_index = torch.from_numpy(np.stack([np.searchsorted(used, index[0]), index[1]]))
        store.edge_weight = torch.ones(index.shape[1])
        store.distance = torch.from_numpy(distance.astype(np.float32))
    return out


def _aligned(signal: Signal, weather: TimeAxis, axis: TimeAxis, nodes: np.ndarray, instant: bool,
             limit: int | None) -> Signal:
    """The signal of some stations, the latest known reading in each row of the axis."""
    values, mask = signal.select(nodes=nodes).read(0, signal.shape[0])
    rows = latest_rows(weather, axis, instant)
    own = np.arange(len(values))[:, None, None]
    latest = np.maximum.accumulate(np.where(mask, own, -1), axis=0)
    picked = np.where(rows[:, None, None] >= 0, latest[np.maximum(rows, 0)], -1) if len(latest) else \
        np.full((axis.length, *values.shape[1:]), -1)
    seen = picked >= 0
    if limit is not None:
        shift = (0, 0) if instant else (weather.step, axis.step)
        age = (axis.times() + shift[1])[:, None, None] - (weather.times() + shift[0])[np.maximum(picked, 0)]
        seen &= age <= limit
    out = np.take_along_axis(values, np.maximum(picked, 0), axis=0)
    return Signal(np.where(seen, out, 0).astype(values.dtype), seen, signal.channels)


def _report(weather: DynamicHeteroGraph, kind: str, edges: dict[str, tuple[np.ndarray, np.ndarray]],
            signals: dict[str, Signal], used: np.ndarray, graph: DynamicHeteroGraph) -> dict[str, Any]:
    joined = {name: len(np.unique(index[1])) for name, (index, _) in edges.items()}
    return {
        "stations": len(used), "stations_unused": weather.size_of(kind) - len(used),
        "edges": {name: index.shape[1] for name, (index, _) in edges.items()},
        "without_weather": {name: graph.size_of(name) - count for name, count in joined.items()},
        "longest_m": round(float(max((distance.max(initial=0) for _, distance in edges.values()), default=0.0)), 1),
        "observed_share": {name: round(float(np.asarray(signal.mask).mean()), 6) for name, signal in signals.items()},
    }
