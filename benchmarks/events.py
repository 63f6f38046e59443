"""How fast do events find their place? A million made events to the streets of Porto, checked by looking at all.

    python benchmarks/events.py --data ../shared/data            # about five minutes
    python benchmarks/events.py --data ../shared/data --events 100000 --no-peers

The events are made (simulated): four of five lie 15 m (standard deviation) off a random place on a random street, the
rest anywhere in the box of the map; five types, minutes of a year. The map is built first and not timed. Results go to
``benchmarks/results/events.md`` and ``events.json``. Peers find nearest streets for a sample of the same points.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stgraph.graph import load_tables
from stgraph.graph.plain import categories, column, numbers
from stgraph.io import sha256, write_json, write_text
from stgraph.roads import Roads
from stgraph.roads.nearest import TIE, SegmentIndex
from stgraph.sources.events.hyperedges import group_events, time_bins

HERE = Path(__file__).parent
SEED, TYPES, LIMIT, BAR_S = 20, ["burglary", "crash", "fire", "robbery", "theft"], 200.0, 5.0
YEAR = (1_420_070_400, 1_451_606_400)  # 2015, UTC


def stgraph(*words: object) -> dict[str, Any]:
    """Run one verb in its own process: its JSON object, the wall time and the peak memory of the process."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "stgraph", *map(str, words), "--json"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"stgraph {' '.join(map(str, words))} failed: {text}")
    return json.loads(text) | {"wall_s": round(wall, 2), "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
                               "peak_mb": round(usage.ru_maxrss / 1024)}


def make_events(roads: Roads, count: int, path: Path) -> np.ndarray:
    """Write made events as Parquet; their places ``[n, 2]`` in degrees."""
    random = np.random.default_rng(SEED)
    segment = random.integers(0, len(roads.tail), count)
    metres = roads.to_metres(roads.locate(segment, random.uniform(0, roads.length[segment])))
    metres += random.normal(0, 15, metres.shape)
    anywhere = np.flatnonzero(random.random(count) < 0.2)
    low, high = roads.junction_metres.min(0), roads.junction_metres.max(0)
    metres[anywhere] = random.uniform(low, high, (len(anywhere), 2))
    lonlat = roads.from_metres(metres)
    pq.write_table(pa.table({
        "time": column(random.integers(*YEAR, count) // 60 * 60),
        "type": categories(random.integers(0, len(TYPES), count), TYPES),
        "longitude": column(np.ascontiguousarray(lonlat[:, 0])), "latitude": column(np.ascontiguousarray(lonlat[:, 1])),
        "severity": column(random.integers(1, 6, count))}), path)
    return lonlat


def by_looking_at_all(roads: Roads, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest segment and distance of points in metres: every leg of every segment, one block of points at a time."""
    inside = np.ones(len(roads.line_metres) - 1, bool)
    inside[roads.line_ptr[1:-1] - 1] = False
    start, along = roads.line_metres[:-1][inside], np.diff(roads.line_metres, axis=0)[inside]
    segment = np.repeat(np.arange(len(roads.tail)), np.diff(roads.line_ptr) - 1)
    (east, north), (along_east, along_north) = start.T.copy(), along.T.copy()
    squared = along_east**2 + along_north**2
    squared[squared == 0] = 1.0
    place, best = np.empty(len(xy), np.int64), np.empty(len(xy))
    for row, (x, y) in enumerate(xy.tolist()):
        to_east, to_north = x - east, y - north
        share = np.clip((to_east * along_east + to_north * along_north) / squared, 0.0, 1.0)
        to_east -= share * along_east
        to_north -= share * along_north
        square = to_east * to_east + to_north * to_north
        best[row] = np.sqrt(square.min())
        place[row] = segment[np.flatnonzero(square <= (best[row] + TIE) ** 2)[0]]
    return place, best


def check(roads: Roads, tables: Any, lonlat: np.ndarray, sample: np.ndarray) -> dict[str, Any]:
    """Compare the bundle with the slow answer for a sample of rows."""
    started = time.perf_counter()
    place, distance = by_looking_at_all(roads, roads.to_metres(lonlat[sample]))
    seconds = time.perf_counter() - started
    at = tables.edges["event", "at", "segment"]
    rows = tables.nodes["event"]["node_id"].cast(pa.int64()).to_numpy()
    given = np.full(len(lonlat), -1)
    given[rows] = numbers(at["target_index"])
    far = np.full(len(lonlat), np.nan)
    far[rows] = numbers(at["distance"])
    near = distance <= LIMIT
    same = given[sample] == np.where(near, place, -1)
    apart = np.abs(far[sample] - distance)[near & same].max(initial=0.0)
    return {"points": len(sample), "same": int(same.sum()), "within_limit": int(near.sum()),
            "largest_difference_m": float(apart), "seconds": round(seconds, 1)}


def stages(roads: Roads, lonlat: np.ndarray) -> dict[str, float]:
    """Seconds of the parts, wall and processor, in this process: projection, index, nearest; then bins and groups."""
    marks = [(time.perf_counter(), time.process_time())]

    def mark() -> None:
        marks.append((time.perf_counter(), time.process_time()))

    xy = roads.to_metres(lonlat)
    mark()
    index = SegmentIndex(roads)
    mark()
    found = index.nearest(xy, LIMIT)
    mark()
    random = np.random.default_rng(SEED + 1)
    utc, kind = random.integers(*YEAR, len(xy)), random.integers(0, len(TYPES), len(xy))
    mark()
    _, row = time_bins(utc, "1min", "UTC")
    groups = group_events(np.maximum(found.segment, 0), row, kind)
    mark()
    names = ("projection", "index", "nearest", None, "hyperedges_by_minute")
    taken: dict[str, float] = {"groups": len(groups)}
    for name, before, after in zip(names, marks[:-1], marks[1:], strict=True):
        if name:
            taken |= {name: round(after[0] - before[0], 3), f"{name}_cpu": round(after[1] - before[1], 3)}
    return taken


def peers(roads: Roads, lonlat: np.ndarray) -> dict[str, Any]:
    """Rates of osmnx and geopandas on a sample, index included, in points per second."""
    import geopandas
    import networkx
    import osmnx
    import shapely

    xy = roads.to_metres(lonlat)
    lines = shapely.linestrings(roads.line_metres, indices=np.repeat(np.arange(len(roads.tail)),
                                                                     np.diff(roads.line_ptr)))
    crs = "EPSG:32629"  # osmnx wants a projected one; distances are those of the metres given
    graph = networkx.MultiDiGraph(crs=crs)
    graph.add_nodes_from((i, {"x": x, "y": y}) for i, (x, y) in enumerate(roads.junction_metres.tolist()))
    graph.add_edges_from((tail, head, {"geometry": line}) for tail, head, line in
                         zip(roads.tail.tolist(), roads.head.tolist(), lines, strict=True))
    started = time.perf_counter()
    _, distance = osmnx.distance.nearest_edges(graph, xy[:, 0], xy[:, 1], return_dist=True)
    first = time.perf_counter() - started
    streets = geopandas.GeoDataFrame(geometry=lines, crs=crs)
    points = geopandas.GeoDataFrame(geometry=shapely.points(xy), crs=crs)
    started = time.perf_counter()
    joined = geopandas.sjoin_nearest(points, streets, distance_col="far")
    second = time.perf_counter() - started
    started = time.perf_counter()
    own = SegmentIndex(roads).nearest(xy)
    third = time.perf_counter() - started
    joined = joined[~joined.index.duplicated()].sort_index()["far"].to_numpy()
    return {"points": len(xy),
            "osmnx.nearest_edges": {"seconds": round(first, 2), "points_per_second": round(len(xy) / first),
                                    "largest_difference_m": float(np.abs(distance - own.distance).max())},
            "geopandas.sjoin_nearest": {"seconds": round(second, 2), "points_per_second": round(len(xy) / second),
                                        "largest_difference_m": float(np.abs(joined - own.distance).max())},
            "stgraph": {"seconds": round(third, 2), "points_per_second": round(len(xy) / third)}}


def machine() -> str:
    """Processor, cores and system."""
    path = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in path.read_text().splitlines()
             if line.startswith("model name")] if path.exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}, no GPU used"


def page(result: dict[str, Any]) -> str:
    """The results as a page."""
    runs, checked, parts = result["runs"], result["check"], result["stages"]
    best = min(run["wall_s"] for run in runs)
    attach, attach_cpu = (sum(parts[f"{name}{kind}"] for name in ("projection", "index", "nearest"))
                          for kind in ("", "_cpu"))
    count = result["events"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Events to streets", "",
        f"Written by `python benchmarks/events.py` on {result['date']}: {result['machine']}; load before and after "
        f"{result['load']} (others shared the machine where it is above 1; processor seconds tell); {versions}. "
        f"Seed {result['seed']}.", "",
        f"{count:,} made events (simulated; SHA-256 `{result['events_sha256'][:16]}`) on Porto "
        f"(`{result['map']}`, SHA-256 `{result['map_sha256'][:16]}`, {result['segments']:,} directed segments, "
        f"{result['streets']:,} streets), limit {LIMIT:g} m.", "",
        "| | wall s | processor s | |", "|---|---|---|---|",
        f"| the whole command, Parquet and map in, `.stg` out: best of {len(runs)} | {best:.2f} | "
        f"{min(run['cpu_s'] for run in runs):.2f} | {count / best:,.0f} events/s, "
        f"peak {max(run['peak_mb'] for run in runs):,} MB |",
        f"| all runs | {', '.join(format(run['wall_s'], '.2f') for run in runs)} | "
        f"{', '.join(format(run['cpu_s'], '.2f') for run in runs)} | |",
        f"| attaching alone: projection {parts['projection']:.2f}, index {parts['index']:.2f}, nearest "
        f"{parts['nearest']:.2f} | {attach:.2f} | {attach_cpu:.2f} | {count / attach:,.0f} events/s |",
        f"| hyperedges of street, minute and type | {parts['hyperedges_by_minute']:.2f} | "
        f"{parts['hyperedges_by_minute_cpu']:.2f} | {parts['groups']:,} groups |",
        "",
        f"* Bar: at most {BAR_S:g} s for 1,000,000 events. Attaching: **{verdict(attach, count)}**. The whole command: "
        f"**{verdict(best, count)}**.",
        f"* The same as looking at every street: **{checked['same']:,} of {checked['points']:,}** points "
        f"({checked['within_limit']:,} within the limit), largest difference of distances "
        f"{checked['largest_difference_m']:.1e} m. Looking took {checked['seconds']:g} s.",
        f"* {runs[0]['events']:,} attached + {runs[0]['unattached']:,} kept apart = {runs[0]['read']:,} read.", ""]
    if "peers" in result:
        found = result["peers"]
        lines += [f"Peers, {found['points']:,} of the same points, in one process, index included:", "",
                  "| | seconds | points/s | largest difference of distances |", "|---|---|---|---|"]
        for name in ("osmnx.nearest_edges", "geopandas.sjoin_nearest", "stgraph"):
            one = found[name]
            apart = f"{one['largest_difference_m']:.1e} m" if "largest_difference_m" in one else "–"
            lines.append(f"| {name} | {one['seconds']:.2f} | {one['points_per_second']:,} | {apart} |")
        lines.append("")
    return "\n".join(lines)


def verdict(seconds: float, count: int) -> str:
    """Whether the bar was met; only a million events show it."""
    said = "not shown by so few events" if count < 1_000_000 else "met" if seconds <= BAR_S else "missed"
    return f"{said} ({seconds:.2f} s)"


def main() -> None:
    """Make, run, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=10_000, help="points checked by looking at every street")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    extract = chosen.data / "osm_extracts" / "porto.osm.pbf"
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        stgraph("build", "osm", extract, "-o", work / "porto.stg")
        roads = Roads.of(work / "porto.stg")
        lonlat = make_events(roads, chosen.events, work / "events.parquet")
        runs = [stgraph("build", "events", work / "events.parquet", "--on", work / "porto.stg", "--mark", "severity",
                        "--limit", f"{LIMIT:g}m", "-o", work / "events.stg", "--simulated")
                for _ in range(chosen.repeats)]
        tables = load_tables(work / "events.stg", nodes=("event", "segment"), edges=[("event", "at", "segment")])
        sample = np.random.default_rng(SEED + 2).choice(chosen.events, min(chosen.sample, chosen.events), replace=False)
        result: dict[str, Any] = {
            "date": str(datetime.date.today()), "machine": machine(), "seed": SEED,
            "versions": {"python": platform.python_version(),
                         **{name: importlib.metadata.version(name) for name in
                            ("stgraph-city", "numpy", "scipy", "pyarrow", "shapely", "pyproj", "osmnx", "geopandas")}},
            "events": chosen.events, "simulated": True, "events_sha256": sha256(work / "events.parquet"),
            "map": extract.name, "map_sha256": sha256(extract), "segments": len(roads.tail),
            "streets": int(((roads.reverse < 0) | (np.arange(len(roads.tail)) < roads.reverse)).sum()),
            "runs": [{key: run[key] for key in ("wall_s", "cpu_s", "seconds", "peak_mb", "read", "events", "unattached",
                                                "groups", "data_sha256")} for run in runs],
            "stages": stages(roads, lonlat), "check": check(roads, tables, lonlat, sample)}
        if not chosen.no_peers:
            result["peers"] = peers(roads, lonlat[:100_000])
    result["load"] = f"{load:.1f} and {os.getloadavg()[0]:.1f}"
    write_json(chosen.out / "events.json", result)
    write_text(chosen.out / "events.md", page(result))
    print(page(result))


if __name__ == "__main__":
    main()
