"""Does one model train on nodes of several types at once? A simulated city, and the crimes of Chicago.

    python benchmarks/joint.py                         # both sets, about ten minutes of one thread
    python benchmarks/joint.py --sets chicago --steps 200

Bundles are made and merged by the command line, each set is trained jointly and each of its types alone with the same
steps, seed and settings. Every loss is looked at before and after, on the same batches of the training and of the
validation part; test errors stand beside those of each type alone and of the slot mean. Finished runs are kept in the
work folder. After each set the page is written to ``benchmarks/results/joint.md`` and ``joint.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stgraph.evaluate import evaluate
from stgraph.facade import Run
from stgraph.graph import Channel, Signal, data_sha256, load_tables, save
from stgraph.io import read_json, sha256, write_json, write_text
from stgraph.models import Capabilities
from stgraph.models.weave import Weave, WeaveConfig
from stgraph.objectives import make_objective, parse_objectives
from stgraph.sources.events.hyperedges import event_counts
from stgraph.version import versions
from stgraph.windows import AttributeWindow, City, PartBatches, Window
from stgraph.windows.city import also_of

HERE = Path(__file__).parent
BATCHES = 12  # of each part that losses are looked at on


@dataclass(frozen=True)
class Setting:
    """A set and how it is trained.

    Args:
        title: Its name on the page.
        about: What it is, in a sentence.
        main: Words of the type of nodes in front, as for ``--also``.
        also: Words of the others.
        objective: What to train for, jointly.
        steps: Training steps of every run.
        options: Further options of ``stgraph train``.
    """

    title: str
    about: str
    main: str
    also: tuple[str, ...]
    objective: str
    steps: int
    options: dict[str, str] = field(default_factory=dict)


SETTINGS = {
    "simulated": Setting(
        "Simulated city", "A simulated city (nothing in it was measured anywhere): speeds of sensors, vehicles counted "
        "on segments from matched GPS traces, incidents counted in squares of 3 km, and the incidents themselves.",
        "sensor:readings", ("segment:traffic:count", "region:counts", "event:3h"),
        "mae,attributes(type=event,name=capacity_share):0.5", 100,
        {"history": "12", "horizon": "12", "batch-size": "16"}),
    "chicago": Setting(
        "Chicago", "Crimes of Chicago in 2017 (`chicago_crime`, City of Chicago): counts of every three hours in "
        "cells of 2 km and in squares of 6 km, and the crimes themselves with their kind.",
        "cell:counts", ("region:counts", "event:6h"),
        "mae,attributes(type=event,name=type):0.5", 100,
        {"history": "8", "horizon": "4", "batch-size": "16"}),
}
MODEL = {"parts": "graph,mlp", "lags": "false", "width": "32", "layers": "2", "relations": "at,on,in,then"}


# ---------------------------------------------------------------- bundles
def stgraph(*words: object) -> dict[str, Any]:
    """Run one verb in a process of its own: its JSON object."""
    done = subprocess.run([sys.executable, "-m", "stgraph", *map(str, words), "--json"], stdout=subprocess.PIPE,
                          text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"stgraph {' '.join(map(str, words))} failed: {done.stdout}")
    return json.loads(done.stdout)


def build_simulated(folder: Path, data: Path) -> dict[str, Any]:
    """Simulate the city, make a bundle of each layer and merge them."""
    from stgraph.sources.simulate import simulate_city, write_source_files

    settings: dict[str, Any] = {
        "seed": 0, "days": 14, "interval": 900, "incidents_per_day": 40.0, "trips": 4000, "gps_interval": 30}
    city = simulate_city(**settings)
    files = write_source_files(city, folder / "source")
    squares(city.events, 3000, folder / "regions.geojson")
    stgraph("build", "osm", files["roads"], "-o", folder / "roads.stg")
    stgraph("build", "sensors", files["readings"], "--key", "speed", "--ids-key", "sensor_id", "--time-key",
            "timestamp", "--locations", files["sensors"], "--heading-key", "heading", "--roads", folder / "roads.stg",
            "--quantity", "speed", "--unit", "m/s", "--simulated", "-o", folder / "sensors.stg")
    stgraph("build", "trips", files["trips"], "--roads", folder / "roads.stg", "--signals", "--interval", "15min",
            "--max-traversals", "0", "--simulated", "-o", folder / "trips.stg")
    events = ("build", "events", files["events"], "--type-key", "kind", "--time-key", "start", "--mark",
              "capacity_share", "--bin", "none", "--simulated")
    stgraph(*events, "--on", folder / "roads.stg", "-o", folder / "events.stg")
    stgraph(*events, "--regions", folder / "regions.geojson", "-o", folder / "regions.stg")
    count_events(folder / "regions.stg", "15min", folder / "counts.stg")
    return merged(folder, "sensors", "trips", "events", "counts") | {"simulation": settings}


def build_chicago(folder: Path, data: Path) -> dict[str, Any]:
    """Crimes of one year in cells and in squares, merged."""
    source = data / "chicago_crime" / "chicago_crime.parquet"
    crimes = pd.read_parquet(source)
    crimes = crimes[crimes["time"] >= "2017-01-01"].reset_index(drop=True)
    crimes.to_parquet(folder / "crimes.parquet")
    squares(crimes, 6000, folder / "regions.geojson")
    events = ("build", "events", folder / "crimes.parquet", "--tz", "America/Chicago", "--bin", "none")
    stgraph(*events, "--grid", "2km", "-o", folder / "grid.stg")
    stgraph(*events, "--regions", folder / "regions.geojson", "-o", folder / "squares.stg")
    for name in ("grid", "squares"):
        count_events(folder / f"{name}.stg", "3h", folder / f"{name}-counts.stg")
    return merged(folder, "grid-counts", "squares-counts") | {"source_sha256": sha256(source)}


BUILD = {"simulated": build_simulated, "chicago": build_chicago}


def squares(places: pd.DataFrame, side: float, out: Path) -> None:
    """Squares of so many metres over the box of some places, as polygons."""
    low, high = (places[["longitude", "latitude"]].agg(how).to_numpy(float) for how in ("min", "max"))
    degree = 111_195.0 * np.array([math.cos(math.radians((low[1] + high[1]) / 2)), 1.0])
    step = side / degree
    columns, rows = (int(one) for one in np.floor((high - low) / step) + 1)
    features = []
    for row in range(rows):
        for column in range(columns):
            west, south = low + step * (column, row)
            east, north = low + step * (column + 1, row + 1)
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            features.append({"type": "Feature", "properties": {"name": f"square {row},{column}"},
                             "geometry": {"type": "Polygon", "coordinates": [ring]}})
    write_json(out, {"type": "FeatureCollection", "features": features})


def count_events(bundle: Path, interval: str, out: Path) -> None:
    """Events of a bundle counted by place and time, as the signal ``counts`` of the places."""
    found, tables = event_counts(bundle, interval), load_tables(bundle)
    values = np.asarray(found.signal().values).sum(2, keepdims=True)
    tables.time = found.axis
    tables.signals[found.kind] = {"counts": Signal(values, None, [Channel("events", "count")])}
    save(tables, out)


def merged(folder: Path, *names: str) -> dict[str, Any]:
    """The bundles as one."""
    report = stgraph("build", "merge", *(folder / f"{name}.stg" for name in names), "-o", folder / "city.stg")
    return {key: report[key] for key in ("nodes", "edges")}


# ---------------------------------------------------------------- runs
def train(setting: Setting, bundle: Path, out: Path, steps: int, kind: str | None) -> dict[str, Any]:
    """One run, of all types or of one alone; a finished run of the same command is kept."""
    words = ["train", "--data", bundle, "--model", "weave", "--steps", steps, "--seed", 0, "--threads", 1,
             "--device", "cpu"]
    for name, value in setting.options.items():
        words += [f"--{name}", value]
    own = setting.main if kind is None else next(word for word in (setting.main, *setting.also)
                                                 if word.split(":")[0] == kind)
    for option, value in zip(("--node-type", "--signal", "--channels"), own.split(":"), strict=False):
        words += [option, value]
    types = signals(setting) if kind is None else [kind]
    for name, value in (MODEL | {"types": ",".join(types)}).items():
        words += ["--set", f"{name}={value}"]
    if kind is None:
        for word in setting.also:
            words += ["--also", word]
        words += ["--objective", setting.objective]
    command = [str(word) for word in words]
    kept = out / "command.json"
    if not kept.is_file() or read_json(kept) != {"command": command, "data_sha256": data_sha256(bundle)}:
        stgraph(*command, "--out", out, "--overwrite")
        write_json(kept, {"command": command, "data_sha256": data_sha256(bundle)})
    return {"command": " ".join(["stgraph", *(Path(word).name if word == str(bundle) else word for word in command)])}


def signals(setting: Setting) -> list[str]:
    """The types of nodes with a signal."""
    return [word.split(":")[0] for word in (setting.main, *setting.also) if word.split(":")[0] != "event"]


def losses(model: Any, city: City, part: str, objective: str) -> dict[str, float]:
    """Every loss of an objective by name, mean over some batches of a part; what is drawn is the same in every call."""
    batches = PartBatches(city, part, 32, model.capabilities.needs)
    chosen = np.linspace(0, len(batches) - 1, min(BATCHES, len(batches))).round().astype(int)
    found: dict[str, list[float]] = {}
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for index in chosen:
            window = batches[int(index)]
            for text, _ in parse_objectives(objective):
                for name, value in make_objective(text)(model, window).items():
                    found.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in found.items()}


class TrainingShares(torch.nn.Module):
    """Tells of every event what those of the training rows show in all: the shares of words, the mean of a number."""

    capabilities = Capabilities(inductive=True)

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def tell(self, window: Window, kind: str, name: str) -> torch.Tensor:
        """Log shares ``[B, M, K]``, one more of each word than was seen, or 0 ``[B, M]``."""
        other = window.others[kind]
        assert isinstance(other, AttributeWindow)
        layer = other.city
        if name not in layer.words:
            return torch.zeros(other.present.shape)
        codes, words = layer.words[name]
        known = codes >= 0 if layer.begins is None else (codes >= 0) & (layer.begins < self.stop)
        count = torch.bincount(codes[known], minlength=len(words)) + 1.0
        return (count / count.sum()).log().expand(*other.present.shape, -1)


def without_a_model(city: City, objective: str) -> dict[str, float]:
    """The losses of hidden attributes on the same test windows and nodes, told from the training rows as a whole."""
    asked = ",".join(text for text, _ in parse_objectives(objective) if text.startswith("attributes"))
    stop = int(city.time.times(np.array([city.split.rows("train")[1]]))[0])
    return losses(TrainingShares(stop), city, "test", asked)


def run_set(name: str, work: Path, data: Path, steps: int | None) -> dict[str, Any]:
    """Build, train and score one set."""
    setting, folder = SETTINGS[name], work / name
    steps = setting.steps if steps is None else steps
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "made.json"
    if not made.is_file():
        write_json(made, BUILD[name](folder, data))
    bundle = folder / "city.stg"
    result: dict[str, Any] = {"setting": asdict(setting), "made": read_json(made), "steps": steps,
                              "data_sha256": data_sha256(bundle)}
    result["joint"] = train(setting, bundle, folder / "joint", steps, None)
    run = Run.open(folder / "joint")
    city = run.city(bundle, also=also_of(setting.also))
    torch.manual_seed(0)
    first = Weave.for_city(city, WeaveConfig(**run.record["config"]))
    result["losses"] = {f"{part} {when}": losses(model, city, part, setting.objective)
                        for part in ("train", "validation") for when, model in (("start", first), ("end", run.model))}
    result["test_losses"] = losses(run.model, city, "test", setting.objective)
    result["without_a_model"] = without_a_model(city, setting.objective)
    result |= {key: run.record[key] for key in ("parameters", "seconds", "split")}
    result["nodes"] = {city.node_type: city.num_nodes} | {kind: one.num_nodes for kind, one in city.others.items()}
    result["interval_s"], result["types"] = city.time.step, {}
    for kind in signals(setting):
        print(f"{name}: test of {kind}", file=sys.stderr)
        train(setting, bundle, folder / f"{kind}-alone", steps, kind)
        alone = Run.open(folder / f"{kind}-alone")
        led = city if kind == city.node_type else city.led_by(kind)
        together, apart = (evaluate(model, here).record for model, here in (
            (run.model, led), (alone.model, alone.city(bundle))))
        result["types"][kind] = {
            "unit": together["unit"], "channel": together["channels"][0]["name"], "joint": together["horizons"]["all"],
            "alone": apart["horizons"]["all"], "slot_mean": together["controls"]["slot_mean"]["all"],
            "last_value": together["controls"]["last_value"]["all"], "alone_seconds": alone.record["seconds"]}
    return result


# ---------------------------------------------------------------- page
def machine() -> str:
    """Processor, cores and system."""
    path = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in path.read_text().splitlines()
             if line.startswith("model name")] if path.exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}, no GPU used"


def page(result: dict[str, Any]) -> str:
    """The results as a page."""
    told = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = ["# Nodes of several types in one model", "",
             f"Written by `python benchmarks/joint.py` on {result['date']}, {result['machine']}, {told}. Seed 0 (one "
             "run each), one thread. Chronological 70/10/20; test errors are masked, in the unit of the source, over "
             "all elements of the test part.", ""]
    for one in result["sets"].values():
        lines += section(one)
    return "\n".join(lines)


def section(one: dict[str, Any]) -> list[str]:
    """The part of a set."""
    setting, made, looked = one["setting"], one["made"], one["losses"]
    fell = [name for name in looked["train start"] if looked["train end"][name] < looked["train start"][name]]
    held = [name for name in looked["validation start"]
            if looked["validation end"][name] < looked["validation start"][name]]
    count = len(looked["train start"])
    nodes = ", ".join(f"{number:,} {kind}" for kind, number in one["nodes"].items())
    edges = ", ".join(f"{number:,} {name.replace('__', ' ')}" for name, number in made["edges"].items())
    lines = [
        f"## {setting['title']}", "", f"{setting['about']}", "",
        f"Nodes: {nodes} (events are in a window as long as they are remembered). Relations of the graph: {edges}. "
        f"One step is {one['interval_s'] // 60} minutes; data sha256 "
        f"`{one['data_sha256'][:16]}`.", "", f"    {one['joint']['command']}", "",
        f"{one['steps']:,} steps, {one['parameters']:,} parameters, {one['seconds']:.0f} s. Losses on the same "
        f"{BATCHES} batches before training and with the weights of the best validation (errors in deviations of the "
        "training rows; an attribute of `event` in nats for words, as Huber error in "
        "deviations for numbers):", "",
        "| loss | train, start | train, end | validation, start | validation, end | test |",
        "|---|---|---|---|---|---|"]
    for name in looked["train start"]:
        cells = [looked[f"{part} {when}"][name] for part in ("train", "validation") for when in ("start", "end")]
        lines.append(f"| `{name}` | " + " | ".join(f"{value:.4f}" for value in (*cells, one["test_losses"][name]))
                     + " |")
    lines += ["", f"* Losses that fell on the training part: {len(fell)} of {count}: **"
              f"{'yes' if len(fell) == count else 'no'}**; on the validation part: {len(held)} of {count}."]
    for name, value in one["without_a_model"].items():
        lines.append(f"* `{name}` on the same hidden test events, told by what the training events show in all (shares "
                     f"of words, mean of a number): {value:.4f}; by the model: {one['test_losses'][name]:.4f}.")
    lines += ["", "Test MAE over all steps:", "",
              "| type | channel | unit | together | alone, same steps | together against alone | slot mean "
              "| last value |",
              "|---|---|---|---|---|---|---|---|"]
    for kind, found in one["types"].items():
        joint, alone = found["joint"]["mae"], found["alone"]["mae"]
        lines.append(f"| {kind} | {found['channel']} | {found['unit']} | {joint:.4f} | {alone:.4f} | "
                     f"{100 * (joint / alone - 1):+.1f} % | {found['slot_mean']['mae']:.4f} | "
                     f"{found['last_value']['mae']:.4f} |")
    return [*lines, ""]


def main() -> None:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("runs/joint"))
    parser.add_argument("--sets", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--steps", type=int, help="Training steps of every run, in place of those of the set.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "joint")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions(),
                              "sets": {}}
    for name in chosen.sets:
        result["sets"][name] = run_set(name, chosen.work, chosen.data, chosen.steps)
        write_json(chosen.out.with_suffix(".json"), result)
        write_text(chosen.out.with_suffix(".md"), page(result))
    print(page(result))


if __name__ == "__main__":
    main()
