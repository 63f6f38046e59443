"""How good and how fast is map matching? Made trips on Porto, taxis of Beijing with true paths, a trace of Denver.

    python benchmarks/matching.py                     # all of it; a few minutes
    python benchmarks/matching.py --parts beijing     # one part
    python benchmarks/matching.py --routes 40         # a quick look

Compared with fastmm where it is installed, and with the control: the nearest street of each point, joined by shortest
ways. Everything runs in this process on one thread; speeds are points per second of processor time, the best of three
runs, because the machine may be busy. Written to ``benchmarks/results/matching.md`` and ``matching.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import datetime
import gzip
import importlib.metadata
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from scipy.sparse.csgraph import connected_components, dijkstra

from stgraph.io import sha256, write_json, write_text
from stgraph.roads import Roads
from stgraph.roads.nearest import SegmentIndex
from stgraph.roads.routing import Links, RoutingCells, RoutingTable, routing_table
from stgraph.sources.osm.build import build_osm
from stgraph.sources.trips.matching import MatchSettings, Points, match
from stgraph.sources.trips.walk import Places, walk_of

HERE = Path(__file__).parent
SEEDS = {"routes": 2026, "noise": 7, "tuning routes": 99, "tuning noise": 98}
CASES = ((1, 5.0), (5, 10.0), (15, 10.0), (15, 20.0), (30, 10.0), (30, 20.0))  # s between points, m of noise
NOISES = {"iid": 0.0, "correlated": 0.95}  # correlation of the noise of points a second apart, AR(1)
PROTOTYPE = {(1, 5.0): 0.019, (5, 10.0): 0.024, (15, 10.0): 0.043, (15, 20.0): 0.096}  # mismatch, iid
METHODS = ("stgraph", "fastmm", "nearest + shortest")
BESIDE = 30.0  # m, ways that stay this close to each other are the same way


@dataclass(frozen=True)
class Walked:
    """Segments that trips were said to drive, how many times a trip was cut, and seconds where only a part of the work
    counts."""

    trip: np.ndarray
    segment: np.ndarray
    metres: np.ndarray
    breaks: int
    seconds: float | None = None


Matcher = Callable[[Points], Walked]


# -------------------------------------------------------------------- made trips
def make_routes(roads: Roads, count: int, seed: int) -> list[np.ndarray]:
    """Fastest ways between random junctions, 2.7 to 6.6 km apart, where the time on each segment is made up to 30 %
    longer or shorter by chance, anew after every five routes."""
    chance = np.random.default_rng(seed)
    speed, xy = np.asarray(roads.attributes["speed"], float), roads.junction_metres
    links = Links.of(roads)
    _, part = connected_components(links.weight, connection="strong")
    inside = np.flatnonzero(part == np.bincount(part).argmax())
    routes: list[np.ndarray] = []
    while len(routes) < count:
        if len(routes) % 5 == 0:
            links = Links.of(roads, roads.length / speed * chance.uniform(0.7, 1.3, len(speed)))
        start = chance.choice(inside)
        far = np.hypot(*(xy[inside] - xy[start]).T)
        node = chance.choice(inside[(far > 2700) & (far < 6600)])
        _, before = dijkstra(links.weight, indices=start, return_predecessors=True)
        way = [node]
        while way[-1] != start:
            way.append(before[way[-1]])
        junctions = np.array(way[::-1])
        routes.append(links.between(junctions[:-1], junctions[1:]))
    return routes


def drive(roads: Roads, routes: list[np.ndarray], every: float, sigma: float, correlation: float, seed: int) -> Points:
    """Points of drives at the speed of the segments; noise of points a second apart is correlated by that much."""
    chance = np.random.default_rng(seed)
    speed, parts = np.asarray(roads.attributes["speed"], float), []
    for trip, route in enumerate(routes):
        left = np.cumsum(roads.length[route] / speed[route])
        at = np.arange(0.0, left[-1], every)
        on = np.searchsorted(left, at, side="right")
        offset = roads.length[route[on]] - (left[on] - at) * speed[route[on]]
        noise = chance.normal(0, sigma, (len(at), 2))
        keep = correlation**every
        for row in range(1, len(at)):
            noise[row] = keep * noise[row - 1] + np.sqrt(1 - keep**2) * noise[row]
        parts.append((np.full(len(at), trip), at, roads.to_metres(roads.locate(route[on], offset)) + noise))
    return Points(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def scores(roads: Roads, routes: list[np.ndarray], found: Walked) -> dict[str, float]:
    """Route mismatch of Newson and Krumm (2009): length of segments missed and added over that of the true routes; and
    the same with the metres driven on each segment, so that the first and last do not count as a whole."""
    size = len(roads.tail)
    truth = np.concatenate([trip * size + route for trip, route in enumerate(routes)])
    metres = roads.length[truth % size]
    key, place = np.unique(np.concatenate([truth, found.trip * size + found.segment]), return_inverse=True)
    true = np.bincount(place[:len(truth)], metres, len(key))
    driven = np.bincount(place[len(truth):], found.metres, len(key))
    hit = np.bincount(place[len(truth):], minlength=len(key)) > 0
    whole = roads.length[key % size][(true > 0) != hit].sum()
    return {"mismatch": whole / metres.sum(), "driven_mismatch": np.abs(true - driven).sum() / metres.sum(),
            "breaks": found.breaks}


# -------------------------------------------------------------------- methods
def ours(roads: Roads, settings: MatchSettings, index: SegmentIndex, table: RoutingCells | RoutingTable | None
         ) -> Matcher:
    def run(points: Points) -> Walked:
        got = match(roads, points, settings, index, table)
        return Walked(got.walk_trip, got.walk_segment, got.walk_length, int(got.break_before.sum()))
    return run


def control(roads: Roads, limit: float, index: SegmentIndex, table: RoutingCells | RoutingTable) -> Matcher:
    """The nearest street of each point, in the direction that fits the way to the next point, joined by shortest ways.
    """
    def run(points: Points) -> Walked:
        found = index.nearest(points.xy, limit)
        kept = np.flatnonzero(found.segment >= 0)
        if not len(kept):
            return Walked(kept, kept, np.zeros(0), 0)
        trip, segment, offset = points.trip[kept], found.segment[kept], found.offset[kept]
        first = np.ones(len(kept), bool)
        first[1:] = trip[1:] != trip[:-1]
        ahead = np.zeros((len(kept), 2))
        ahead[:-1] = np.diff(points.xy[kept], axis=0)
        last = np.flatnonzero(np.append(first[1:], True))
        ahead[last] = ahead[np.maximum(last - 1, 0)]
        heading = np.radians(roads.heading(segment, offset))
        back = (ahead * np.column_stack([np.sin(heading), np.cos(heading)])).sum(1) < 0
        back &= roads.reverse[segment] >= 0
        offset = np.where(back, roads.length[segment] - offset, offset)
        segment = np.where(back, roads.reverse[segment], segment)
        begins = first.copy()
        begins[1:] |= ~np.isfinite(table.distances(roads.head[segment[:-1]], roads.tail[segment[1:]]))
        sure = np.ones(len(kept))
        walk, places = walk_of(roads, Places(begins, points.time[kept], segment, offset, sure, sure, 0.0), table)
        return Walked(trip[places.begins][walk.piece], walk.segment, walk.length, int((begins & ~first).sum()))
    return run


class Fastmm:
    """fastmm with its table of shortest ways; its messages are not shown. Coordinates are moved to positive ones: it is
    up to a hundred times slower where they are negative."""

    def __init__(self, roads: Roads, limit: float, folder: str) -> None:
        import fastmm

        self.module, self.roads = fastmm, roads
        self.shift = 1000.0 - roads.line_metres.min(0)
        points, ptr = [tuple(one) for one in (roads.line_metres + self.shift).tolist()], roads.line_ptr.tolist()
        with silence():
            begun = time.process_time()
            self.network = network = fastmm.Network()  # the engine does not keep it alive
            for row, ends in enumerate(zip(roads.tail.tolist(), roads.head.tolist(), strict=True)):
                network.add_edge(row, *ends, points[ptr[row]:ptr[row + 1]])
            network.finalize()
            self.index_seconds = time.process_time() - begun
            begun = time.process_time()
            self.engine = fastmm.FastMapMatch(network, fastmm.TransitionMode.SHORTEST, cache_dir=folder,
                                              max_distance_between_candidates=limit)
            self.table_seconds = time.process_time() - begun

    def matcher(self, candidates: int, radius: float, error: float, reverse: float) -> Matcher:
        def run(points: Points) -> Walked:
            rows, breaks, seconds = [], 0, 0.0
            for part in np.split(np.arange(len(points)), np.flatnonzero(np.diff(points.trip)) + 1):
                places = np.column_stack([points.xy[part] + self.shift, points.time[part]])
                trace = [tuple(one) for one in places.tolist()]
                begun = time.process_time()  # of matching alone, without listing segments in Python
                found = self.engine.match(self.module.Trajectory.from_xyt_tuples(trace), candidates, radius, error,
                                          reverse)
                seconds += time.process_time() - begun
                good = [one for one in found.subtrajectories if one.error_code == self.module.MatchErrorCode.SUCCESS]
                breaks += max(len(good) - 1, 0)
                trip = int(points.trip[part[0]])
                for move in itertools.chain.from_iterable(one.segments for one in good):
                    edges = [edge.edge_id for edge in move.edges]
                    start, end = move.p0.offset_from_start_of_edge, move.p1.offset_from_start_of_edge
                    rows += [(trip, edge, start if number == 0 else 0.0, end if number == len(edges) - 1 else np.inf)
                             for number, edge in enumerate(edges)]
            trip, segment, start, end = np.array(rows).reshape(-1, 4).T
            trip, segment = trip.astype(np.int64), segment.astype(np.int64)
            metres = np.maximum(np.minimum(end, self.roads.length[segment]) - start, 0.0)
            return Walked(trip, segment, metres, breaks, seconds)
        return run


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing that C++ prints is shown."""
    kept, nothing = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nothing, stream)
        yield
    finally:
        for stream, one in zip((1, 2), kept, strict=True):
            os.dup2(one, stream)
            os.close(one)
        os.close(nothing)


def timed(work: Callable[[], Any], times: int = 3) -> tuple[Any, float]:
    """The result, and the least seconds of processor time."""
    best = np.inf
    for _ in range(times):
        begun = time.process_time()
        result = work()
        best = min(best, time.process_time() - begun)
    return result, best


# -------------------------------------------------------------------- Porto
def porto(data: Path, count: int, seeds: dict[str, int]) -> dict[str, Any]:
    source = data / "osm_extracts" / "porto.osm.pbf"
    roads = build_osm(source)[0]
    roads.junction_metres, roads.line_metres, roads.reverse  # noqa: B018  made once, not part of any method's time
    index, index_seconds = timed(lambda: SegmentIndex(roads), 1)
    table, table_seconds = timed(lambda: routing_table(roads, MatchSettings().limit), 1)
    answer: dict[str, Any] = {
        "file": source.name, "sha256": sha256(source), "junctions": len(roads.junction_xy), "segments": len(roads.tail),
        "stgraph": {"index_seconds": index_seconds, "table_seconds": table_seconds, "table_rows": len(table)}}
    routes = make_routes(roads, count, seeds["routes"])
    answer |= {"routes": count, "mean_km": float(np.mean([roads.length[one].sum() for one in routes]) / 1000)}
    with tempfile.TemporaryDirectory() as folder:
        peer = None
        with contextlib.suppress(ImportError):
            peer = Fastmm(roads, MatchSettings().limit, folder)
            answer["fastmm"] = {"index_seconds": peer.index_seconds, "table_seconds": peer.table_seconds}
        tuning = make_routes(roads, 10, seeds["tuning routes"]) if peer else []
        answer["cases"] = [one_case(roads, routes, tuning, index, table, peer, noise, every, sigma, seeds)
                           for noise in NOISES for every, sigma in CASES]
    return answer


def one_case(roads: Roads, routes: list[np.ndarray], tuning: list[np.ndarray], index: SegmentIndex,
             table: RoutingTable, peer: Fastmm | None, noise: str, every: float, sigma: float, seeds: dict[str, int]
             ) -> dict[str, Any]:
    """All methods on one set of made trips."""
    points = drive(roads, routes, every, sigma, NOISES[noise], seeds["noise"])
    settings = MatchSettings(sigma=sigma)
    case: dict[str, Any] = {"noise": noise, "every_s": every, "sigma_m": sigma, "points": len(points), "methods": {}}
    methods = {"stgraph": ours(roads, settings, index, table),
               "nearest + shortest": control(roads, settings.reach, index, table)}
    if peer is not None:
        trial = drive(roads, tuning, every, sigma, NOISES[noise], seeds["tuning noise"])
        grid = [dict(zip(("candidates", "radius", "error", "reverse"), one, strict=True)) for one in itertools.product(
            (8, 16), (settings.reach, 2 * settings.reach), (sigma, 2 * sigma, 4 * sigma), (2 * sigma, 4 * sigma))]
        tried = [scores(roads, tuning, peer.matcher(**one)(trial))["mismatch"] for one in grid]
        case["fastmm_settings"] = grid[int(np.argmin(tried))]
        methods["fastmm"] = peer.matcher(**case["fastmm_settings"])
    for name, run in methods.items():
        found, seconds = timed(lambda run=run: run(points))
        case["methods"][name] = scores(roads, routes, found) | {"points_per_second": len(points) / (
            found.seconds or seconds)}
    _, seconds = timed(lambda: ours(roads, settings, index, None)(points), 1)
    case["methods"]["stgraph"]["points_per_second_with_table"] = len(points) / seconds
    print(json.dumps(case), flush=True)
    return case


# -------------------------------------------------------------------- Beijing
def beijing(data: Path) -> dict[str, Any]:
    folder = data / "beijing_sparsetaxi"
    network = np.load(folder / "network.npz")
    ends = np.unique(np.stack([network["edge_from"], network["edge_to"]], 1), axis=0).astype(np.int64)
    tail, head = ends[ends[:, 0] != ends[:, 1]].T
    xy = network["node_xy"] * 1000.0  # about metres
    roads = Roads(network["osm_node_id"], xy, tail, head, np.hypot(*(xy[head] - xy[tail]).T),
                  2 * np.arange(len(tail) + 1), np.stack([xy[tail], xy[head]], 1).reshape(-1, 2), metric=True)
    index, number = SegmentIndex(roads), {pair: row for row, pair in enumerate(zip(tail, head, strict=True))}
    fixes = pd.read_parquet(folder / "gps.parquet")
    drawn = pd.read_parquet(folder / "ground_truth_polyline.parquet")
    paths = [list(map(int, line.split())) for line in (folder / "set60_node_paths.txt").read_text().splitlines()]
    answer: dict[str, Any] = {"junctions": len(xy), "segments": len(tail), "sets": {}, "sha256": {
        name: sha256(folder / name) for name in ("network.npz", "gps.parquet", "ground_truth_polyline.parquet",
                                                 "set60_node_paths.txt")}}
    for name in ("set60", "set120", "set300", "setOther", "sparse"):
        rows = fixes[fixes["set"] == name].sort_values(["trajectory", "time"], kind="stable")
        rows = rows[~rows.duplicated(["trajectory", "time"])]
        rows["time"] *= 3 if name == "sparse" else 1  # placeholders a minute apart, too little for the ways between
        points = Points(rows.trajectory.to_numpy(np.int64), rows.time.to_numpy(float),
                        rows[["x", "y"]].to_numpy() * 1000.0)
        gap = float(np.quantile(np.diff(points.time)[np.diff(points.trip) == 0], 0.95))
        settings = replace(MatchSettings.sampled(gap, sigma=25.0, radius=200.0), bridge=gap)
        table = RoutingCells(roads, settings.limit)
        lines = {trip: shapely.LineString(one[["x", "y"]].to_numpy() * 1000.0)
                 for trip, one in drawn[drawn["set"] == name].sort_values("seq").groupby("trajectory")}
        answer["sets"][name] = entry = {"trips": len(lines), "points": len(points), "gap_s": gap,
                                        "settings": asdict(settings), "methods": {}}
        for method, run in (("stgraph", ours(roads, settings, index, table)),
                            ("nearest + shortest", control(roads, settings.reach, index, table))):
            found = run(points)
            entry["methods"][method] = {"breaks": found.breaks} | along_lines(roads, found, lines)
            if name == "set60":
                truth = [np.array([number[pair] for pair in itertools.pairwise(path)]) for path in paths]
                entry["methods"][method] |= edge_scores(roads, truth, found)
    return answer


def edge_scores(roads: Roads, truth: list[np.ndarray], found: Walked) -> dict[str, float]:
    """Precision and recall of segments, by number and by length, over all trips; and without regard to direction."""
    answer = {}
    one_name = np.where(roads.reverse >= 0, np.minimum(np.arange(len(roads.tail)), roads.reverse),
                        np.arange(len(roads.tail)))
    for label, name in (("edge", np.arange(len(roads.tail))), ("street", one_name)):
        true = np.unique(np.concatenate([trip * len(name) + name[way] for trip, way in enumerate(truth)]))
        said = np.unique(found.trip * len(name) + name[found.segment])
        both = np.intersect1d(true, said)
        for how, weight in (("", lambda keys: float(len(keys))),
                            ("_by_length", lambda keys: float(roads.length[keys % len(roads.tail)].sum()))):
            precision, recall = weight(both) / weight(said), weight(both) / weight(true)
            answer |= {f"{label}_precision{how}": precision, f"{label}_recall{how}": recall,
                       f"{label}_f1{how}": 2 * precision * recall / (precision + recall)}
    return answer


def along_lines(roads: Roads, found: Walked, lines: dict[int, shapely.LineString]) -> dict[str, float]:
    """Share of the way found that lies beside the way drawn (precision), and of the drawn beside the found (recall).
    Segments that were driven less than half are left out of the way found."""
    good = said = hit = true = 0
    for trip, line in lines.items():
        rows = np.flatnonzero((found.trip == trip) & (found.metres >= roads.length[found.segment] / 2))
        true += len(places := shapely.points(shapely.segmentize(line, 10.0).coords))
        if len(rows):
            points = np.concatenate([np.arange(*roads.line_ptr[[one, one + 1]]) for one in found.segment[rows]])
            way = shapely.MultiLineString(list(shapely.linestrings(roads.line_metres[points], indices=np.repeat(
                np.arange(len(rows)), np.diff(roads.line_ptr)[found.segment[rows]]))))
            hit += int((shapely.distance(places, way) <= BESIDE).sum())
            steps = shapely.points(shapely.get_coordinates(shapely.segmentize(way, 10.0)))
            said += len(steps)
            good += int((shapely.distance(steps, line) <= BESIDE).sum())
    precision, recall = good / max(said, 1), hit / true
    return {"line_precision": precision, "line_recall": recall,
            "line_f1": 2 * precision * recall / max(precision + recall, 1e-9)}


# -------------------------------------------------------------------- Denver
def denver(data: Path) -> dict[str, Any]:
    from defusedxml import ElementTree

    folder = data / "denver_traces"
    roads = build_osm(folder / "osmnx_drive_graph.graphml.gz")[0]
    with gzip.open(folder / "test_trace.gpx.gz") as stream:
        marks = [one for one in ElementTree.parse(stream).iter() if one.tag.endswith("}trkpt")]
    traces = {"test_trace.gpx.gz": np.array([[float(one.get("lon")), float(one.get("lat"))] for one in marks])}
    for number in (1, 2, 3):
        name = f"sample_trace_{number}.csv"
        traces[name] = pd.read_csv(folder / name)[["longitude", "latitude"]].to_numpy(float)
    index, table, settings = SegmentIndex(roads), RoutingCells(roads, MatchSettings().limit), MatchSettings()
    answer: dict[str, Any] = {"traces": {}, "sha256": {
        name: sha256(folder / name) for name in ("osmnx_drive_graph.graphml.gz", *traces)}}
    for name, lonlat in traces.items():
        xy = roads.to_metres(lonlat)
        near = index.nearest(xy, settings.reach)
        answer["traces"][name] = entry = {"points": len(xy), "near": int((near.segment >= 0).sum()), "methods": {}}
        if not entry["near"]:
            continue
        points = Points(np.zeros(len(xy), np.int64), np.arange(len(xy), dtype=float), xy)  # no times: 1 s apart
        got = match(roads, points, settings, index, table)
        other = control(roads, settings.reach, index, table)(points)
        there = got.point_segment >= 0
        place = roads.to_metres(roads.locate(got.point_segment[there], got.point_offset[there]))
        line = np.hypot(*np.diff(xy, axis=0).T)[there[1:] & there[:-1]].sum()
        entry["methods"] = {
            "stgraph": {"matched": int(there.sum()), "breaks": int(got.break_before.sum()),
                        "mean_distance_m": float(np.hypot(*(place - xy[there]).T).mean()),
                        "mean_confidence": float(got.point_confidence[there].mean()),
                        "length_ratio": float(got.walk_length.sum() / line)},
            "nearest + shortest": {"matched": entry["near"], "breaks": other.breaks,
                                   "mean_distance_m": float(near.distance[near.segment >= 0].mean()),
                                   "length_ratio": float(other.metres.sum() / line)}}
    return answer


# -------------------------------------------------------------------- report
def page(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = ["# Map matching", "",
             f"Written by `python benchmarks/matching.py` on {record['date']}, {record['machine']}, load "
             f"{record['load']}; {versions}; seeds {record['seeds']}.", "",
             "One process, one thread; speeds are points per second of processor time (the best of three runs). "
             "*Nearest + shortest* is the control: the nearest street of each point, joined by shortest ways.", ""]
    lines += porto_page(record["porto"]) if "porto" in record else []
    lines += beijing_page(record["beijing"]) if "beijing" in record else []
    lines += denver_page(record["denver"]) if "denver" in record else []
    return "\n".join(lines) + "\n"


def porto_page(part: dict[str, Any]) -> list[str]:
    peer = part.get("fastmm")
    lines = ["## Porto, made trips", "",
             f"{part['file']} (sha256 `{part['sha256'][:16]}`): {part['junctions']:,} junctions, {part['segments']:,} "
             f"segments. {part['routes']} made routes of {part['mean_km']:.1f} km in the mean: fastest ways with times "
             "made up to 30 % longer or shorter, driven at the speed of the segments; Gaussian noise, iid or AR(1) "
             f"with {NOISES['correlated']} between points a second apart. Mismatch is that of Newson and Krumm: length "
             "of whole segments missed and added over that of the true routes; in brackets with the metres driven on "
             "each. Sigma is told to every method. Settings of fastmm are the best of 24 on 10 other made routes, for "
             "each row; its speed is that of matching alone, without listing the segments in Python.", "",
             f"| noise | every | sigma | points | {' | '.join(METHODS)} | points/s {' | points/s '.join(METHODS)} | "
             "bar |", "|---" * 11 + "|"]
    lines += [porto_row(case) for case in part["cases"]]
    at_15 = [case["methods"]["stgraph"]["points_per_second"] for case in part["cases"] if case["every_s"] == 15]
    with_table = ", ".join(thousands(case["methods"]["stgraph"]["points_per_second_with_table"])
                           for case in part["cases"])
    built = (f"* Built beforehand: index {part['stgraph']['index_seconds']:.2f} s, shortest ways of 1 km "
             f"{part['stgraph']['table_seconds']:.2f} s ({part['stgraph']['table_rows']:,} rows)")
    if peer:
        built += f"; fastmm: network {peer['index_seconds']:.2f} s, table {peer['table_seconds']:.2f} s"
    lines += ["", f"* Bar: at least 40k points/s at 15 s: {thousands(min(at_15))} at least, "
              f"**{'yes' if min(at_15) >= 40_000 else 'no'}**.", built + ".",
              f"* Points/s of stgraph with finding the shortest ways included, row by row: {with_table}."]
    if peer:
        lines.append("* Settings of fastmm (candidates, radius, error, reverse tolerance), row by row: " + "; ".join(
            "{candidates}, {radius:g}, {error:g}, {reverse:g}".format(**case["fastmm_settings"])
            for case in part["cases"]) + ".")
    return [*lines, ""]


def porto_row(case: dict[str, Any]) -> str:
    cells = [case["methods"].get(name) for name in METHODS]
    bar = 1.1 * PROTOTYPE.get((case["every_s"], case["sigma_m"]), np.nan)
    words = [case["noise"], f"{case['every_s']} s", f"{case['sigma_m']:g} m", f"{case['points']:,}"]
    words += ["-" if one is None else f"{one['mismatch']:.4f} ({one['driven_mismatch']:.4f})" for one in cells]
    words += ["-" if one is None else thousands(one["points_per_second"]) for one in cells]
    words.append("" if case["noise"] != "iid" or np.isnan(bar) else
                 f"<= {bar:.3f}: {'yes' if cells[0]['mismatch'] <= bar else '**no**'}")
    return f"| {' | '.join(words)} |"


def thousands(value: float) -> str:
    return f"{value / 1000:.0f}k"


def beijing_page(part: dict[str, Any]) -> list[str]:
    lines = ["## Beijing taxis", "",
             f"`beijing_sparsetaxi`: {part['junctions']:,} junctions, {part['segments']:,} segments, coordinates about "
             "metres; real fixes, true paths drawn by hand. Sigma 25 m, radius 200 m, limit 35 m/s over the 95 % "
             "quantile of the gaps. set60 has true node paths: precision / recall / F1 of directed segments over all "
             "trips. Times of the set sparse are placeholders, taken as 180 s apart. All sets have a drawn line: share "
             f"of the way found within {BESIDE:g} m of it, and of it within {BESIDE:g} m of the way found.", "",
             "| set | trips | points | gap s | method | breaks | edges P / R / F1 | by length | without direction | "
             "line P / R / F1 |", "|---" * 10 + "|"]
    kinds = (("edge", ""), ("edge", "_by_length"), ("street", ""))
    for name, entry in part["sets"].items():
        for method, one in entry["methods"].items():
            edges = [three(one, f"{kind}_{{}}{how}") if "edge_f1" in one else "" for kind, how in kinds]
            lines.append(f"| {name} | {entry['trips']} | {entry['points']} | {entry['gap_s']:g} | {method} | "
                         f"{one['breaks']} | {' | '.join(edges)} | {three(one, 'line_{}')} |")
    mine, other = (part["sets"]["set60"]["methods"][name]["edge_f1"] for name in ("stgraph", "nearest + shortest"))
    return [*lines, "", f"* Bar: better than nearest + shortest on set60: {mine:.3f} against {other:.3f}, "
            f"**{'yes' if mine > other else 'no'}**.", ""]


def three(one: dict[str, float], name: str) -> str:
    return " / ".join(f"{one[name.format(what)]:.3f}" for what in ("precision", "recall", "f1"))


def denver_page(part: dict[str, Any]) -> list[str]:
    lines = ["## Denver", "", "`denver_traces` on osmnx's drive graph of the centre; no times (taken as 1 s apart), no "
             "true path. Most points lie off that graph; *near* are those within the radius of a street. Ratio: way "
             "over the line of the points.", "",
             "| trace | points | near | method | matched | mean distance m | ratio | breaks |", "|---" * 8 + "|"]
    for name, entry in part["traces"].items():
        lines += [f"| {name} | {entry['points']} | {entry['near']} | {method} | {one['matched']} | "
                  f"{one['mean_distance_m']:.2f} | {one['length_ratio']:.3f} | {one['breaks']} |"
                  for method, one in entry["methods"].items()]
    nothing = [name for name, entry in part["traces"].items() if not entry["near"]]
    return [*lines, "", f"No point near a street: {', '.join(nothing)}.", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--routes", type=int, default=300)
    parser.add_argument("--parts", default="porto,beijing,denver")
    chosen = parser.parse_args()
    parts = {"porto": lambda: porto(chosen.data, chosen.routes, SEEDS), "beijing": lambda: beijing(chosen.data),
             "denver": lambda: denver(chosen.data)}
    packages = ("numpy", "scipy", "shapely", "fastmm")
    versions = {"python": platform.python_version(), "stgraph": importlib.metadata.version("stgraph-city")}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    record: dict[str, Any] = {
        "date": str(datetime.date.today()), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1), "versions": versions, "seeds": SEEDS,
        "settings": asdict(MatchSettings())}
    for name in chosen.parts.split(","):
        record[name] = parts[name]()
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_json(chosen.out / "matching.json", record)
    write_text(chosen.out / "matching.md", page(record))
    print(page(record))


if __name__ == "__main__":
    main()
