"""``stgraph demo``: the whole chain on a simulated city, from files to a report, in a few minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stgraph.cli.shared import note, print_json, scores_table, verdict


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for all that is made.")] = Path("runs/demo"),
    minutes: Annotated[float | None, typer.Option("--minutes", help="Training budget; 1.5 if neither minutes nor "
                                                  "steps are given.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Training budget in steps.")] = None,
    days: Annotated[int, typer.Option("--days", help="Days to simulate.")] = 28,
    size: Annotated[str, typer.Option("--size", help="small, default or large.")] = "default",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the city and of the training.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Simulate a city, build its graph, train a forecaster, score it, write a report.

    Example: stgraph demo --out runs/demo
    """
    from rich.console import Console

    from stgraph.evaluate import evaluate
    from stgraph.facade import fit
    from stgraph.graph import data_sha256
    from stgraph.sources.simulate import simulate_city, write_source_files

    started = time.perf_counter()
    console = Console(stderr=True, markup=False)
    files, roads, bundle = out / "source", out / "simulated-roads.stg", out / "simulated-city.stg"
    note(f"1/5  Simulating {days} days of traffic in a made-up city (a kinematic-wave model; no reading is real)",
         style="bold")
    with console.status("vehicles are on the road ..."):
        city = simulate_city(seed=seed, days=days, size=size)
        write_source_files(city, files)
    note(f"     {len(city.sensors)} sensors, {len(city.trips):,} GPS points, {len(city.events)} incidents and a map in "
         f"OpenStreetMap's form, all in {files}")
    note("2/5  Building the graph from these files, as from anybody's", style="bold")
    _build_roads(files, roads, out)
    _build_sensors(files, roads, bundle)
    note("3/5  Training the profile MLP (12 steps in, 12 out; the first 70 % of the time)", style="bold")
    run = fit(bundle, "profile_mlp", out / "run", seed=seed, steps=steps, overwrite=True,
              minutes=1.5 if minutes is None and steps is None else minutes)
    note("4/5  Scoring on the last 20 % of the time, which no model has seen", style="bold")
    scored = evaluate(run.model, run.city(bundle)).record | {"seed": seed}
    note("5/5  Writing the report", style="bold")
    page = run.report(out / "report.html", bundle)
    console.print(scores_table(scored))
    _end(out, bundle, page, verdict(scored), time.perf_counter() - started)
    if json:
        print_json({**scored, "bundle": str(bundle), "data_sha256": data_sha256(bundle), "run": str(out / "run"),
                    "report": str(page), "total_seconds": time.perf_counter() - started})


def _build_roads(files: Path, roads: Path, out: Path) -> None:
    """The map becomes a road network; trips are matched to it, incidents attached."""
    from stgraph.sources.events.build import build_events
    from stgraph.sources.osm.build import build_osm
    from stgraph.sources.trips.build import build_trips

    _, made = build_osm(files / "roads.osm.pbf", out=roads, simulated=True)
    note(f"     {made['junctions']} junctions, {made['segments']} segments, {made['length_km']:,.0f} km, "
         f"{made['restrictions_applied']} turn restrictions in {roads}")
    _, driven = build_trips(files / "trips.parquet", roads, out=out / "simulated-trips.stg", simulated=True)
    note(f"     {driven['trips']} trips: {driven['matched']:,} of {driven['points']:,} points lie on "
         f"{driven['traversals']:,} drives along segments ({out / 'simulated-trips.stg'})")
    _, happened = build_events(files / "events.parquet", on=roads, time_key="start", type_key="kind",
                               out=out / "simulated-events.stg", simulated=True)
    note(f"     {happened['events']} incidents on their segments ({out / 'simulated-events.stg'})")


def _build_sensors(files: Path, roads: Path, bundle: Path) -> None:
    """The sensors stand on segments, joined by the shortest ways between them."""
    from stgraph.sources.sensors import build_sensors

    _, built = build_sensors(files / "readings.npz", key="speed", ids_key="sensor_id", time_key="timestamp",
                             locations=files / "sensors.csv", heading_key="heading", roads=roads, quantity="speed",
                             unit="m/s", name="simulated city", simulated=True, out=bundle)
    note(f"     {built['sensors']} sensors, {built['edges']} edges along the roads, {built['steps']:,} steps of 5 "
         f"minutes in {bundle}")


def _end(out: Path, bundle: Path, page: Path, quality: str, seconds: float) -> None:
    """What was made, how good it is, and what to type next."""
    note()
    note(f"Made in {seconds:.0f} s:  {bundle} (the graph), {out / 'run'} (the forecaster), {page} (open it in a "
         "browser)")
    note(f"How good:  {quality} The city is simulated.", style="bold")
    note("Next, with your own data:")
    note("  stgraph build osm CITY.osm.pbf -o roads.stg")
    note("  stgraph build sensors READINGS.csv --locations SENSORS.csv --roads roads.stg --quantity speed --unit km/h "
         "-o mycity.stg")
    note("  stgraph train --data mycity.stg --model profile_mlp --out runs/mycity")
    note("  stgraph evaluate --model runs/mycity --data mycity.stg")
    note("  stgraph forecast --model runs/mycity --data mycity.stg -o forecast.parquet")
