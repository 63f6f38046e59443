"""How sure is the house model, and is it right? Quantile forecasts and conformal intervals on real readings.

    python benchmarks/probabilistic.py                        # two sets, three seeds: some ten minutes of one core
    python benchmarks/probabilistic.py --sets melbourne_scats --seeds 1

Two runs of the model for each set and seed: one trained for quantiles, one for its point forecast. Both are scored as
by ``stgraph evaluate --interval 0.9``: CRPS beside normal and empirical residuals, coverage and width of intervals.
Finished runs are kept in the work folder and done anew where their settings differ from what is asked now; one that
was interrupted goes on. The page is written to ``benchmarks/results/probabilistic.md`` and ``.json`` after every run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stgraph.datasets import card, sensor_build_arguments
from stgraph.evaluate import evaluate
from stgraph.evaluate.intervals import evaluate_intervals
from stgraph.io import read_json, write_json, write_text
from stgraph.models import Forecaster
from stgraph.objectives import parse_objectives
from stgraph.train import Budget, fit
from stgraph.train.folder import RunFolder
from stgraph.windows import City

HERE = Path(__file__).parent
STEPS = {"los_loop": 300, "pems_bay_16": 600, "melbourne_scats": 400}
BATCH = {"los_loop": 8, "pems_bay_16": 32, "melbourne_scats": 8}
LEVELS = ",".join(f"{level / 20:g}" for level in range(1, 20))
LEVEL = 0.9
PARTS = {"parts": "graph,mlp", "lags": False}
KINDS = {"quantiles": ("quantile", PARTS | {"quantiles": LEVELS}), "point": ("mae", PARTS)}  # objective and settings
SHOWN = ("3", "6", "12", "all")
BASELINES = {"gaussian": "point + normal residuals", "gaussian_by_node": "point + normal residuals of each sensor",
             "empirical": "point + its residuals", "empirical_by_node": "point + its residuals of each sensor"}
BANDS = {"split": "split conformal, around the point forecast", "adaptive": "adaptive conformal, around the same",
         "own": "the quantiles as they are", "conformal_quantiles": "conformal around the quantiles"}
Records = dict[str, dict[str, list[dict[str, Any]]]]


# -------------------------------------------------------------------- runs
def bundle(name: str, data: Path, work: Path, **options: str) -> Path:
    """A set's bundle by its data card's own command, built once; with some options of that command changed."""
    path = work / f"{'-'.join((name, *options.values()))}.stg"
    if not path.exists():
        words = sensor_build_arguments(card(name), data / card(name).folder)
        for option, value in options.items():
            words[words.index(f"--{option}") + 1] = value
        subprocess.run([sys.executable, "-m", "stgraph", *words, "-o", path], check=True)
    return path


def train(city: City, folder: Path, steps: int, objective: str, seed: int, batch: int, settings: dict[str, Any]
          ) -> tuple[Forecaster, dict[str, Any]]:
    """A run of the house model and its record: trained, gone on with, or taken as it is where it was made like this."""
    asked = {"steps": steps, "objective": objective, "seed": seed, "batch": batch, "settings": settings,
             "history": city.history, "data_sha256": city.sha256}
    note = folder.with_suffix(".json")
    same = note.exists() and read_json(note) == asked and RunFolder(folder).holds_run
    write_json(note, asked)
    made = fit([city], "weave", folder, settings=settings, budget=Budget(steps=steps), threads=1, progress=False,
               seed=seed, batch_size=batch, objectives=parse_objectives(objective), resume=same, overwrite=not same)
    return made.model, made.record


def run(name: str, kind: str, seed: int, steps: int, city: City, work: Path) -> dict[str, Any]:
    """Train and score one run, once."""
    folder = work / "runs" / f"{name}-{kind}-{seed}"
    objective, settings = KINDS[kind]
    model, made = train(city, folder, steps, objective, seed, BATCH[name], settings)
    kept = folder / f"interval-{LEVEL}.json"
    if not kept.exists() or read_json(kept)["created"] != made["created"]:
        record = evaluate(model, city, controls=False).record | evaluate_intervals(model, city, level=LEVEL)
        record = {key: value for key, value in record.items() if key not in ("slices", "by_channel", "controls")}
        write_json(kept, record | {name: made[name] for name in ("created", "seed", "steps", "batch_size")}
                   | {"train_seconds": made["seconds"]})
    return dict(read_json(kept))


# -------------------------------------------------------------------- the page
def spread(records: list[dict[str, Any]], pick: Callable[[dict[str, Any]], float | None], digits: int = 3,
           factor: float = 1) -> str:
    """Mean over runs, and the standard deviation where there are several; a dash where a run has no such number."""
    found = [pick(record) for record in records]
    if any(value is None for value in found):
        return "–"
    values = factor * np.array(found, float)
    return f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")


def mean(records: list[dict[str, Any]], *keys: str) -> float:
    """Mean over runs of a number that lies under some keys."""
    values = []
    for record in records:
        value: Any = record
        for key in keys:
            value = value[key]
        values.append(value)
    return float(np.mean(values))


def page(results: Records) -> str:
    """All tables."""
    first = next(iter(next(iter(results.values())).values()))[0]
    lines = ["# Quantiles and intervals", "",
             f"Written by `python benchmarks/probabilistic.py` on {datetime.date.today()}, {machine()}, "
             + ", ".join(f"{key} {value}" for key, value in first["versions"].items())
             + ". Training on one thread.", "",
             "The house model `weave`, inductive. *Quantiles*: trained by the pinball loss of 19 levels, 0.05 to 0.95; "
             "its point forecast is the median. *Point*: trained by the mean absolute error. Protocol of "
             "`accuracy.md`: 70/10/20, 12 steps in and 12 out, masked, in the unit of the source. All residuals and "
             f"intervals are calibrated on the validation part; the level is {100 * LEVEL:g} %. Mean ± standard "
             "deviation over seeds. CRPS by the 19 levels, for the model and the baselines alike, except *over all "
             "levels*, in closed form. The weights that are kept are those of the lowest validation MAE.", ""]
    for name, kinds in results.items():
        lines += section(name, kinds)
    return "\n".join(lines) + "\n"


def section(name: str, kinds: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The two tables of a set and its bars."""
    sample = next(iter(kinds.values()))[0]
    unit = f"counts per {sample['interval_s'] // 60} min" if sample["unit"] in ("1", "count") else sample["unit"]
    lines = [f"## {name}", "", f"{unit}; {sample['split']['windows']} test windows from {sample['split']['from']} to "
             f"{sample['split']['to']}; {sample['parameters']:,} parameters, {sample['steps']} steps of "
             f"{sample['batch_size']} windows; seeds "
             f"{', '.join(str(record['seed']) for record in next(iter(kinds.values())))}; data sha256 "
             f"`{sample['data_sha256'][:16]}`.", "",
             "| CRPS | " + " | ".join("all steps" if step == "all" else f"step {step}" for step in SHOWN) + " |",
             "|---|---|---|---|---|"]
    for kind, records in kinds.items():
        if "model" in records[0]["crps"]:
            lines.append("| **weave, quantiles** | " + " | ".join(
                spread(records, lambda record, s=step: record["crps"]["model"][s]) for step in SHOWN) + " |")
        for key, label in BASELINES.items():
            lines.append(f"| {kind}: {label} | " + " | ".join(
                spread(records, lambda record, k=key, s=step: record["crps"][k][s]) for step in SHOWN) + " |")
        lines.append(f"| {kind}: point + normal residuals, over all levels | " + " | ".join(
            spread(records, lambda record, s=step: record["crps"]["gaussian_exact"][s]) for step in SHOWN) + " |")
        lines.append(f"| {kind}: the point alone (MAE) | " + " | ".join(
            spread(records, lambda record, s=step: record["horizons"][s]["mae"]) for step in SHOWN) + " |")
    lines += ["", "| interval | share inside %, " + ", ".join(SHOWN) + f" | width ({unit}), " + ", ".join(SHOWN)
              + " | Winkler score |", "|---|---|---|---|"]
    for kind, records in kinds.items():
        for key, label in BANDS.items():
            if key in records[0]["interval"]:
                cells = [", ".join(spread(records, lambda record, k=key, s=step, w=what:
                                          record["interval"][k][s][w], digits, factor) for step in SHOWN)
                         for what, digits, factor in (("coverage", 1, 100), ("width", 2, 1))]
                score = spread(records, lambda record, k=key: record["interval"][k]["all"]["score"], 2)
                lines.append(f"| {kind}: {label} | {cells[0]} | {cells[1]} | {score} |")
    return [*lines, "", *bars(kinds), ""]


def bars(kinds: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is asked, and what was measured."""
    lines = []
    if "quantiles" in kinds:
        own = mean(kinds["quantiles"], "crps", "model", "all")
        for kind, records in kinds.items():
            words = []
            for key in ("gaussian", "gaussian_by_node", "empirical", "empirical_by_node"):
                rival = mean(records, "crps", key, "all")
                words.append(f"{key.replace('_', ' ')} {rival:.3f} ({100 * (own / rival - 1):+.1f} %)")
            below = own < mean(records, "crps", "gaussian", "all")
            lines.append(f"* CRPS below the normal residuals of the {'same' if kind == 'quantiles' else kind} run: "
                         f"**{'yes' if below else 'no'}**, {own:.3f} against {', '.join(words)}.")
    for kind, records in kinds.items():
        for key, label in BANDS.items():
            if key in records[0]["interval"] and key != "own":
                share = 100 * mean(records, "interval", key, "all", "coverage")
                lines.append(f"* {kind}, {label}: {share:.1f} % inside; between 88 and 92: "
                             f"**{'yes' if 88 <= share <= 92 else 'no'}**.")
    return lines


def machine() -> str:
    """Processor and cores."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, no GPU used"


def arguments(text: str | None, name: str) -> argparse.ArgumentParser:
    """The options that this script and its neighbour share."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get(
        "STGRAPH_DATA", HERE.parents[1] / "shared" / "data")), help="folder of the real data sets")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / name, help="bundles and runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / name, help="the page, without its ending")
    return parser


def main() -> None:
    """Run what is missing and write the page."""
    parser = arguments(__doc__, "probabilistic")
    parser.add_argument("--sets", nargs="+", default=["los_loop", "pems_bay_16"], choices=list(STEPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps of every run (default: by set)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results: Records = {}
    for seed in range(options.seeds):
        for name in options.sets:
            city = City.open(bundle(name, options.data, options.work))
            for kind in KINDS:
                record = run(name, kind, seed, options.steps or STEPS[name], city, options.work)
                results.setdefault(name, {}).setdefault(kind, []).append(record)
                shown = record["crps"].get("model", record["crps"]["gaussian"])["all"]
                print(f"{name:16} {kind:10} seed {seed}: CRPS {shown:.3f}, split conformal "
                      f"{100 * record['interval']['split']['all']['coverage']:.1f} %", flush=True)
            write_json(options.out.with_suffix(".json"), results)
            write_text(options.out.with_suffix(".md"), page(results))


if __name__ == "__main__":
    main()
