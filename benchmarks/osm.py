"""From a map to a road network: how fast, how much memory, and is it the network that osmnx makes?

    python benchmarks/osm.py                    # Porto, beside osmnx
    python benchmarks/osm.py --all --tiles 8    # every extract, and eight Portos side by side as one file

Every run is a fresh process: time is from its start to its end, memory the most it held (as the system counts). Ours
is the command line, from the extract to a bundle on disk with turns; osmnx goes from XML that holds the ways of the
drive network and their nodes, nothing else, to a simplified graph with speeds in memory. The page is written to
``benchmarks/results/osm.md`` and ``osm.json``. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stgraph.io import sha256, write_json, write_text

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "osm_extracts"
FASTER, LEANER = 20.0, 8.0  # what this project asks of itself, against osmnx
OSMNX = """
import json, sys, time
started = time.perf_counter()
import osmnx
parts = {"import": time.perf_counter() - started}
def timed(name, make):
    started = time.perf_counter()
    made = make()
    parts[name] = time.perf_counter() - started
    return made
graph = timed("parse", lambda: osmnx.graph_from_xml(sys.argv[1], retain_all=True, simplify=False))
legs = len(graph.edges)
graph = timed("simplify", lambda: osmnx.simplify_graph(graph))
lengths = [length for *_, length in graph.edges(data="length")]
try:
    graph = timed("speeds", lambda: osmnx.add_edge_speeds(graph))
except ValueError:  # osmnx fills nothing in where a map knows no speed at all
    parts["speeds"] = None
print(json.dumps({"junctions": sum(degree > 0 for _, degree in graph.degree()), "segments": len(lengths),
                  "length_km": sum(lengths) / 1000, "directed_legs": legs, "parts": parts}))
"""


def measure(*command: object) -> dict[str, Any]:
    """Run a command that prints JSON, in a process of its own; its answer with ``wall_s``, ``cpu_s``, ``peak_mb``.

    A process starts with the peak of the one that started it, so this one stays small: others do the work.
    """
    started = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(map(str, command))[:200]} failed: {text.decode()[:500]}")
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    said = {key: value for key, value in json.loads(text).items() if key != "out"}  # a temporary folder
    return said | {"wall_s": round(wall, 3), "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
                   "peak_mb": round(peak, 1)}


def ours(source: Path, work: Path) -> dict[str, Any]:
    """Build a bundle by the command line."""
    return measure(sys.executable, "-m", "stgraph", "build", "osm", source, "-o", work / "roads.stg", "--json")


def theirs(source: Path, work: Path) -> dict[str, Any]:
    """Let osmnx make the same network; the XML that it needs is written before the clock runs."""
    write("--write-xml", source, work / "drive.osm")
    return measure(sys.executable, "-W", "ignore", "-c", OSMNX, work / "drive.osm")


def write(*words: object) -> None:
    """Have a file written by this script, in another process."""
    subprocess.run([sys.executable, __file__, *map(str, words)], check=True)


def drive_xml(source: Path, target: Path) -> None:
    """The ways of the drive network and their nodes, as osmnx would have fetched them."""
    import osmium

    from stgraph.sources.osm.filters import network_filter
    from stgraph.sources.osm.read import read_osm

    data = read_osm(source, network_filter("drive"))
    ways, nodes = set(data.way_id.tolist()), set(data.node_id.tolist())
    with osmium.SimpleWriter(str(target), overwrite=True) as writer:
        for entity in osmium.FileProcessor(str(source), osmium.osm.NODE | osmium.osm.WAY):
            if entity.id in (nodes if entity.is_node() else ways):
                writer.add(entity)


def tiled(source: Path, target: Path, copies: int) -> None:
    """The same city several times as one file: ids and places are shifted from copy to copy."""
    import osmium
    from osmium.osm.mutable import Node, Relation, Way

    apart, step = 10**11, 0.6  # between ids, between longitudes
    with osmium.SimpleWriter(str(target), overwrite=True) as writer:
        for kind in (osmium.osm.NODE, osmium.osm.WAY, osmium.osm.RELATION):
            for copy in range(copies):
                shift = copy * apart
                for entity in osmium.FileProcessor(str(source), kind):
                    base = {"id": entity.id + shift, "tags": dict(entity.tags), "version": 1}
                    if entity.is_node():
                        writer.add_node(Node(location=(entity.lon + copy * step, entity.lat), **base))
                    elif entity.is_way():
                        writer.add_way(Way(nodes=[node.ref + shift for node in entity.nodes], **base))
                    else:
                        writer.add_relation(Relation(members=[(one.type, one.ref + shift, one.role)
                                                              for one in entity.members], **base))


# ---------------------------------------------------------------- questions
def against_osmnx(source: Path, work: Path, runs: int) -> dict[str, Any]:
    """One extract, ours several times and osmnx once, and whether they agree."""
    mine = [ours(source, work) for _ in range(runs)]
    other = theirs(source, work)
    best = min(mine, key=lambda run: run["wall_s"])
    same = all(run["segments"] == other["segments"] and run["junctions"] == other["junctions"]
               and abs(run["length_km"] - other["length_km"]) < 0.002 for run in mine)
    return {"file": source.name, "sha256": sha256(source), "ours": mine, "osmnx": other, "same_network": same,
            "times_faster": round(other["wall_s"] / best["wall_s"], 1),
            "times_faster_worst": round(other["wall_s"] / max(run["wall_s"] for run in mine), 1),
            "times_less_memory": round(other["peak_mb"] / max(run["peak_mb"] for run in mine), 2)}


def every_extract(sources: list[Path], work: Path) -> list[dict[str, Any]]:
    """Build every extract once; compare with osmnx where no way leads out of the file."""
    rows = []
    for source in sources:
        mine = ours(source, work)
        other = None if mine["clipped_ways"] else theirs(source, work)
        same = other and all(mine[key] == other[key] for key in ("junctions", "segments", "directed_legs")) and \
            abs(mine["length_km"] - other["length_km"]) < 0.002
        rows.append({"file": source.name, "sha256": sha256(source), "ours": mine, "osmnx": other, "same_network": same})
        print(f"{source.name}: {mine['segments']:,} segments, {mine['wall_s']} s, as osmnx: {same}", file=sys.stderr)
    return rows


def many_copies(source: Path, work: Path, copies: int) -> dict[str, Any]:
    """One copy and several: what the next million directed legs cost."""
    target = work / f"tiles-{copies}.osm.pbf"
    write("--write-tiles", source, target, copies)
    one, many = ours(source, work), ours(target, work)
    more = (many["directed_legs"] - one["directed_legs"]) / 1e6
    return {"file": source.name, "copies": copies, "bytes": target.stat().st_size, "one": one, "many": many,
            "multiplies": all(many[key] == copies * one[key] for key in
                              ("junctions", "segments", "directed_legs", "turns", "restrictions_applied")),
            "seconds_per_million": round((many["wall_s"] - one["wall_s"]) / more, 3),
            "mb_per_million": round((many["peak_mb"] - one["peak_mb"]) / more, 1)}


# ---------------------------------------------------------------- the page
def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# From a map to a road network", "",
             f"Written by `python benchmarks/osm.py` on {result['date']}, {result['machine']}; "
             + ", ".join(f"{name} {number}" for name, number in result["versions"].items()) + ". Every run is a fresh "
             "process, from its start to its end; memory is the most it held. Ours: `stgraph build osm FILE -o "
             "roads.stg`, from the extract to a bundle on disk with turns. osmnx: from XML of the drive network alone "
             "to a simplified graph with speeds, in memory. Data: (c) OpenStreetMap contributors, ODbL 1.0.", ""]
    lines += _beside(result["against_osmnx"])
    if "extracts" in result:
        lines += ["## Every extract", "", "| file | junctions | segments | km | turns | ways cut | s | MB | as osmnx |",
                  "|---|---|---|---|---|---|---|---|---|"]
        for row in result["extracts"]:
            run = row["ours"]
            said = "it refuses a clipped file" if row["osmnx"] is None else "the same" if row["same_network"] else "NO"
            lines.append(f"| {row['file']} | {run['junctions']:,} | {run['segments']:,} | {run['length_km']:,.1f} | "
                         f"{run['turns']:,} | {run['clipped_ways']:,} | {run['wall_s']:.2f} | {run['peak_mb']:.0f} | "
                         f"{said} |")
        lines.append("")
    if "tiles" in result:
        found = result["tiles"]
        lines += [f"## {found['copies']} times {found['file']} in one file", "",
                  "| | directed legs | segments | s | MB |", "|---|---|---|---|---|"]
        lines += [f"| {label} | {run['directed_legs']:,} | {run['segments']:,} | {run['wall_s']:.2f} | "
                  f"{run['peak_mb']:.0f} |" for label, run in (("one", found["one"]), ("all", found["many"]))]
        lines += ["", f"Each further million directed legs (pieces between neighbouring map nodes, by direction): "
                      f"{found['seconds_per_million']:.2f} s and {found['mb_per_million']:.0f} MB. Counts multiply: "
                      f"{'yes' if found['multiplies'] else 'NO'}.", ""]
    return "\n".join(lines)


def _beside(found: dict[str, Any]) -> list[str]:
    other, same = found["osmnx"], "equal" if found["same_network"] else "NO"
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in other["parts"].items() if seconds is not None)
    lines = [f"## {found['file']}", "", f"sha256 `{found['sha256']}`", "",
             "| | wall s | CPU s | MB | junctions | segments | km |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {label} | {run['wall_s']:.2f} | {run['cpu_s']:.2f} | {run['peak_mb']:.0f} | {run['junctions']:,} | "
              f"{run['segments']:,} | {run['length_km']:,.3f} |" for label, run in
              (*((f"stgraph, run {number}", run) for number, run in enumerate(found["ours"], 1)),
               (f"osmnx ({parts} s)", other))]
    return [*lines, "", "| bar | asked | measured |", "|---|---|---|",
            f"| faster than osmnx, best run (worst run) | {FASTER:g} x | **{found['times_faster']:g} x** "
            f"({found['times_faster_worst']:g} x) |",
            f"| less memory than osmnx, worst run | {LEANER:g} x | **{found['times_less_memory']:g} x** |",
            f"| junctions, segments and total length as osmnx | equal | **{same}** |", ""]


def machine() -> str:
    """Processor and cores."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the extracts")
    parser.add_argument("--file", default="porto.osm.pbf", help="the extract to compare and to tile")
    parser.add_argument("--runs", type=int, default=3, help="runs of ours")
    parser.add_argument("--all", action="store_true", help="build every extract in the folder, too")
    parser.add_argument("--tiles", type=int, default=0, metavar="N", help="build N copies as one file, too")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the page")
    parser.add_argument("--write-xml", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write-tiles", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write_xml:
        drive_xml(*given.write_xml)
        return
    if given.write_tiles:
        source, target, copies = given.write_tiles
        tiled(Path(source), Path(target), int(copies))
        return
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("osmnx", "osmium", "numpy", "pyarrow")}}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ours(given.data / given.file, work)  # once for the disk
        result["against_osmnx"] = against_osmnx(given.data / given.file, work, given.runs)
        if given.tiles:
            result["tiles"] = many_copies(given.data / given.file, work, given.tiles)
        if given.all:
            result["extracts"] = every_extract(sorted(given.data.glob("*.osm*")), work)
    write_json(given.out / "osm.json", result)
    write_text(given.out / "osm.md", page(result))
    print((given.out / "osm.md").read_text())


if __name__ == "__main__":
    main()
