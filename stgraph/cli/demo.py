"""``stgraph demo``: the whole chain on a simulated city, from files to a report, in a few minutes."""

from __future__ import annotations

import shlex
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
    from stgraph.graph import data_sha256, save
    from stgraph.sources.sensors import build_sensors
    from stgraph.sources.simulate import simulate_city, write_source_files

    started = time.perf_counter()
    console = Console(stderr=True, markup=False)
    files, bundle = out / "source", out / "simulated-city.stg"
    note(f"1/4  Simulating {days} days of traffic in a made-up city (a kinematic-wave model; no reading is real)",
         style="bold")
    with console.status("vehicles are on the road ..."):
        city = simulate_city(seed=seed, days=days, size=size)
        write_source_files(city, files)
    note(f"     {len(city.sensors)} sensors on {len(city.segments)} road segments; readings, sensors, road distances, "
         f"trips and incidents in {files}")
    note("2/4  Building the graph from these files, as from anybody's", style="bold")
    words = _build_words(files, bundle)
    graph, built = build_sensors(files / "readings.npz", key="speed", ids_key="sensor_id", time_key="timestamp",
                                 locations=files / "sensors.csv", edges=files / "distances.csv", quantity="speed",
                                 unit="m/s", name="simulated city", simulated=True)
    graph.metadata["command"] = words
    save(graph, bundle)
    note(f"     {built['sensors']} sensors, {built['edges']} edges, {built['steps']:,} steps of 5 minutes in {bundle}")
    note("3/4  Training the profile MLP (12 steps in, 12 out; the first 70 % of the time)", style="bold")
    run = fit(bundle, "profile_mlp", out / "run", seed=seed, steps=steps, overwrite=True,
              minutes=1.5 if minutes is None and steps is None else minutes)
    note("4/4  Scoring on the last 20 % of the time, which no model has seen", style="bold")
    scored = evaluate(run.model, run.city(bundle)).record | {"seed": seed}
    page = run.report(out / "report.html", bundle)
    console.print(scores_table(scored))
    _end(out, bundle, page, verdict(scored), time.perf_counter() - started)
    if json:
        print_json({**scored, "bundle": str(bundle), "data_sha256": data_sha256(bundle), "run": str(out / "run"),
                    "report": str(page), "total_seconds": time.perf_counter() - started})


def _build_words(files: Path, bundle: Path) -> str:
    return shlex.join(["stgraph", "build", "sensors", str(files / "readings.npz"), "--key", "speed", "--ids-key",
                       "sensor_id", "--time-key", "timestamp", "--locations", str(files / "sensors.csv"), "--edges",
                       str(files / "distances.csv"), "--quantity", "speed", "--unit", "m/s", "--simulated", "-o",
                       str(bundle)])


def _end(out: Path, bundle: Path, page: Path, quality: str, seconds: float) -> None:
    """What was made, how good it is, and what to type next."""
    note()
    note(f"Made in {seconds:.0f} s:  {bundle} (the graph), {out / 'run'} (the forecaster), {page} (open it in a "
         "browser)")
    note(f"How good:  {quality} The city is simulated.", style="bold")
    note("Next, with your own data:")
    note("  stgraph build sensors READINGS.csv --locations SENSORS.csv --quantity speed --unit km/h -o mycity.stg")
    note("  stgraph train --data mycity.stg --model profile_mlp --out runs/mycity")
    note("  stgraph evaluate --model runs/mycity --data mycity.stg")
    note("  stgraph forecast --model runs/mycity --data mycity.stg -o forecast.parquet")
