"""How good are the models? Every model on every set, one protocol, each run in a process of its own.

    python benchmarks/accuracy.py                     # all sets and models; about an hour
    python benchmarks/accuracy.py --sets los_loop --models stid --seeds 1

Finished runs are kept in the work folder and not repeated, so an interrupted table goes on where it stopped. The
table is written to ``benchmarks/results/accuracy.md`` and ``accuracy.json`` after every run. Run it on a quiet
machine: budgets are minutes of wall time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from stgraph.datasets import card, sensor_build_arguments
from stgraph.evaluate import summarise
from stgraph.io import write_json, write_text

HERE = Path(__file__).parent
SETS = {"los_loop": None, "melbourne_scats": None, "pems_bay_16": None, "beijing_subway": "inflow"}
MODELS = {"stid": (1.5, 3), "profile_mlp": (2.0, 1), "patchstg": (5.0, 1), "var": (None, 1)}  # minutes, seeds
CONTROLS = ("last_value", "same_slot_yesterday", "same_slot_last_week", "slot_mean")
ORIENTATION = {  # a peer's own STID code, one seed, 1.5 minutes of training, and the design note's profile MLP
    "los_loop": (3.52, 3.49), "melbourne_scats": (10.45, 10.62), "pems_bay_16": (1.66, 1.66),
    "beijing_subway": (19.74, 15.94)}


def stgraph(*words: object) -> dict[str, Any]:
    """Run one verb in its own process and return its JSON object."""
    done = subprocess.run([sys.executable, "-m", "stgraph", *map(str, words), "--json"], stdout=subprocess.PIPE,
                          text=True, check=False)
    answer = json.loads(done.stdout or "{}")
    if done.returncode:
        raise SystemExit(f"stgraph {' '.join(map(str, words))} failed: {answer.get('error', done.returncode)}")
    return answer


def bundle(name: str, data: Path, work: Path) -> Path:
    """Build a set's bundle by its data card's own command, once."""
    path = work / f"{name}.stg"
    if not path.exists():
        stgraph(*sensor_build_arguments(card(name), data / card(name).folder), "-o", path)
    return path


def run(name: str, model: str, seed: int, minutes: float | None, threads: int, path: Path, work: Path
        ) -> dict[str, Any]:
    """Train and score one model with one seed, once."""
    channel = SETS[name]
    folder = work / "runs" / f"{name}-{model}-{seed}"
    kept = folder / "accuracy.json"
    if kept.exists():
        return json.loads(kept.read_text())
    words: list[object] = ["--data", path, "--model", model, "--out", folder, "--seed", seed, "--threads", threads,
                           "--overwrite"]
    words += ["--minutes", minutes] if minutes else []
    words += ["--channels", channel] if channel else []
    trained = stgraph("train", *words)
    record = stgraph("evaluate", "--model", folder, "--data", path, "--split", "test")
    record["slices"].pop("sensor")  # a line for each sensor is too much for a table of tables
    kept_facts = ("steps", "seconds", "stopped_by", "best_validation", "threads")
    record["training"] = {key: trained.get(key) for key in kept_facts}
    write_json(kept, record)
    return record


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """The page: one table a set, and below it what each bar of the project asks and what was measured."""
    first = next(iter(next(iter(results.values())).values()))[0]
    lines = ["# Accuracy", "",
             f"Written by `python benchmarks/accuracy.py` on {datetime.date.today()}, {machine()}, "
             + ", ".join(f"{key} {value}" for key, value in first["versions"].items())
             + f". Training on {first['training']['threads']} thread(s).", "",
             "Protocol: chronological 70/10/20, windows of 12 steps in and 12 out that lie in one part as a whole; "
             "scaler and every descriptor fitted on training rows; masked, in the unit of the source, accumulated over "
             "all elements of the test part (RMSE pooled). MAE at steps 3, 6, 12 and over all 12; several seeds give "
             "mean ± standard deviation. *Reads*: how much of the past a model sees when it forecasts; "
             "models that read more than the window are not ranked beside those that do not.", ""]
    for name, models in results.items():
        lines += section(name, models)
    return "\n".join(lines) + "\n"


def section(name: str, models: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The table of one set and its bars."""
    sample = next(iter(models.values()))[0]
    unit = f"counts per {sample['interval_s'] // 60} min" if sample["unit"] in ("1", "count") else sample["unit"]
    lines = [f"## {name}", "",
             f"{', '.join(sample['scored_channels'])} in {unit}; {sample['split']['windows']} test windows from "
             f"{sample['split']['from']} to {sample['split']['to']}; "
             f"one step is {sample['interval_s'] // 60} minutes; data sha256 `{sample['data_sha256'][:16]}`.", "",
             "| model | reads | nodes | step 3 | step 6 | step 12 | all MAE | all RMSE | all MAPE % | parameters | "
             "seeds | train s | steps | peak MB |", "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for control in CONTROLS:
        scores = sample["controls"][control]
        share = sample["control_fallback_share"][control]
        label = f"*{control.replace('_', ' ')}*" + (f" ({100 * share:.0f} % fell back)" if share > 0.01 else "")
        lines.append(f"| {label} | {reads(control, sample)} | any | "
                     + " | ".join(f"{scores[step]['mae']:.3f}" for step in ("3", "6", "12", "all"))
                     + f" | {scores['all']['rmse']:.3f} | {scores['all']['mape']:.2f} | 0 | – | – | – | – |")
    for model, records in models.items():
        mean = summarise(records)["horizons"]
        cells = [spread(mean[step]["mae"]) for step in ("3", "6", "12", "all")]
        cells += [spread(mean["all"]["rmse"]), spread(mean["all"]["mape"], 2)]
        seconds = [record["training"]["seconds"] or 0 for record in records]
        steps = [record["training"]["steps"] or 0 for record in records]
        lines.append(f"| **{model}** | {reads(model, records[0])} | {'any' if records[0]['inductive'] else 'fixed'} | "
                     + " | ".join(cells) + f" | {records[0]['parameters']:,} | {len(records)} | "
                     f"{sum(seconds) / len(seconds):.0f} | {sum(steps) // len(steps)} | "
                     f"{max(record['peak_memory_mb'] for record in records):.0f} |")
    return [*lines, "", *bars(name, models), ""]


def reads(model: str, record: dict[str, Any]) -> str:
    """How much of the past a model sees."""
    window = f"{record['history_minutes'] / 60:g} h"
    past = {"same_slot_yesterday": "a day", "same_slot_last_week": "a week", "slot_mean": "training mean"}
    if model in past:
        return past[model]
    return window + (" + training profile" if record["reads_profile"] and model not in CONTROLS else "")


def spread(value: dict[str, float | None], digits: int = 3) -> str:
    """Mean, and the spread where there are several seeds."""
    return f"{value['mean']:.{digits}f}" + (f" ± {value['spread']:.{digits}f}" if value["spread"] is not None else "")


def bars(name: str, models: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is asked, and what was measured."""
    lines = []
    mean = {model: summarise(records)["horizons"] for model, records in models.items()}
    if "stid" in mean:
        controls = models["stid"][0]["controls"]
        lost = [f"{control.replace('_', ' ')} at step {step}" for step in ("3", "6", "12") for control in CONTROLS
                if mean["stid"][step]["mae"]["mean"] >= controls[control][step]["mae"]]
        lines.append("* STID below all four controls at steps 3, 6 and 12: "
                     + ("**yes**." if not lost else f"**no**, not below {', '.join(lost)}."))
        peer, mine = ORIENTATION[name][0], mean["stid"]["all"]["mae"]["mean"]
        lines.append(f"* STID against a peer's STID code at the same budget ({peer}): {mine:.3f}, "
                     f"{100 * (mine / peer - 1):+.1f} % (bar: at most +3 %).")
    if "stid" in mean and "patchstg" in mean:
        ratio = mean["patchstg"]["all"]["mae"]["mean"] / mean["stid"]["all"]["mae"]["mean"]
        lines.append(f"* PatchSTG against STID: {100 * (ratio - 1):+.1f} % (bar: at most +5 %).")
    if "profile_mlp" in mean:
        peer, mine = ORIENTATION[name][1], mean["profile_mlp"]["all"]["mae"]["mean"]
        lines.append(f"* Profile MLP against the design note's prototype ({peer}): {mine:.3f}, "
                     f"{100 * (mine / peer - 1):+.1f} %.")
    return lines


def machine() -> str:
    """Processor and cores."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, no GPU used"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, help="seeds of every model (default: STID three, the others one)")
    parser.add_argument("--minutes", type=float, help="training budget of every model (default: per model)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each training")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get(
        "STGRAPH_DATA", HERE.parents[1] / "shared" / "data")), help="folder of the real data sets")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "accuracy", help="bundles and runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "accuracy")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in options.sets:
        path = bundle(name, options.data, options.work)
        for model in options.models:
            minutes, seeds = MODELS[model]
            minutes = None if minutes is None else options.minutes or minutes
            for seed in range(options.seeds or seeds):
                record = run(name, model, seed, minutes, options.threads, path, options.work)
                results.setdefault(name, {}).setdefault(model, []).append(record)
                print(f"{name:16} {model:12} seed {seed}: MAE {record['horizons']['all']['mae']:.3f}", flush=True)
                write_json(options.out.with_suffix(".json"), results)
                write_text(options.out.with_suffix(".md"), table(results))


if __name__ == "__main__":
    main()
