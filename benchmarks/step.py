"""Does a week of history pay? STEP in both stages on five months of sixteen sensors, beside the same forecasters alone.

    python benchmarks/step.py                                  # all; about 15 minutes of one core
    python benchmarks/step.py --encoder-steps 50 --steps 100 --seeds 1 --work /tmp/step --out /tmp/step/page

Stage 1: how well hidden hours are filled in, beside the mean of what is visible, linear interpolation and the slot
profile of the training rows, all on the same hidden hours. Stage 2: a back-end alone, with the join that STEP adds but
without the states, and with them, at the same number of steps. Which states (and of several back-ends, which) count is
chosen on validation.

Finished runs are kept in the work folder and not repeated, and one that was interrupted goes on where it stopped. The
page is written to ``benchmarks/results/step.md`` and ``step.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stgraph.datasets import card, sensor_build_arguments
from stgraph.evaluate import block_bootstrap, evaluate, summarise
from stgraph.io import atomic_path, write_json, write_text
from stgraph.models import Forecaster, model_class
from stgraph.models.step import STEP, STEPConfig
from stgraph.models.step_encoder import StepEncoder
from stgraph.objectives import draw_mask
from stgraph.objectives.views import hide, long
from stgraph.train import Budget, fit
from stgraph.train.folder import RunFolder
from stgraph.version import versions
from stgraph.windows import City

HERE = Path(__file__).parent
SET = "pems_bay_16"
ENCODER = {"width": "64", "layers": "2", "dropout": "0"}  # what one core can train in a few minutes
BATCH = 4  # weeks of all sensors in a batch of stage 1
RATES = (0.25, 0.75)
SPACING = 41  # rows from one scored week to the next: no divisor of a day, so that all hours of the day begin one
RIVALS = ("mean of the visible part", "linear interpolation")
AHEAD = 2  # hours after the boundary whose decoded states are given in one of the arms
ARMS = {"alone": "back-end alone", "join": "join without states", "last": "join, last state (as in the paper)",
        "step": "join, last state and two hours ahead"}
JOINS: dict[str, dict[str, object]] = {"join": {"states": "no"}, "last": {"ahead": 0}, "step": {"ahead": AHEAD}}
WITH = ("last", "step")
Daily = dict[str, tuple[float, float]]  # of each local day: sum of absolute errors, number of elements


# -------------------------------------------------------------------- runs
def bundle(data: Path, work: Path) -> Path:
    """The set's bundle, built once by its data card's own command."""
    path = work / f"{SET}.stg"
    if not path.exists():
        words = sensor_build_arguments(card(SET), data / card(SET).folder)
        subprocess.run([sys.executable, "-m", "stgraph", *map(str, words), "-o", str(path)], check=True)
    return path


def train(city: City, model: str, folder: Path, steps: int, **options: Any) -> tuple[Forecaster, dict[str, Any]]:
    """Train a model, or go on, or take it as it is where it is finished; with what is known of its training."""
    kept = folder / "training.json"
    cpu, resume = time.process_time(), RunFolder(folder).holds_run
    trained = fit([city], model, folder, budget=Budget(steps=steps), threads=1, progress=False, resume=resume,
                  **options)
    if not kept.exists():
        facts = {key: trained.record[key] for key in ("steps", "seconds", "parameters", "best_validation", "seed")}
        write_json(kept, facts | {"cpu_seconds": None if resume else time.process_time() - cpu})
    return trained.model, json.loads(kept.read_text())


def score(model: Forecaster, city: City, part: str, folder: Path) -> dict[str, Any]:
    """Scores of a run on a part, taken once: the record of ``stgraph evaluate`` and the errors of each day."""
    kept = folder / f"{part}.json"
    if not kept.exists():
        found = evaluate(model, city, part, controls=False)
        found.record["slices"].pop("sensor")
        write_json(kept, {"record": found.record, "daily": found.daily})
    return json.loads(kept.read_text())


# -------------------------------------------------------------------- stage 1: hidden hours
def visible_mean(values: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The mean of what is visible of each series ``[B, L, N, C]``, at all its steps."""
    count = visible.sum(1, keepdims=True)
    return np.broadcast_to(np.where(visible, values, 0).sum(1, keepdims=True) / np.maximum(count, 1), values.shape)


def interpolated(values: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """A line between the visible readings before and after, in each series ``[B, L, N, C]``; flat at the ends."""
    steps = values.shape[1]
    row = np.arange(steps)[:, None, None]
    before = np.maximum.accumulate(np.where(visible, row, -1), 1)
    after = np.minimum.accumulate(np.where(visible, row, steps)[:, ::-1], 1)[:, ::-1]
    first, last = np.where(before < 0, after, before), np.where(after == steps, before, after)
    low, high = (np.take_along_axis(values, np.clip(one, 0, steps - 1), 1) for one in (first, last))
    return low + (high - low) * (row - first) / np.maximum(last - first, 1)


def filled(encoder: StepEncoder, city: City, part: str, rate: float) -> dict[str, Daily]:
    """Errors of every way to fill in hidden hours, day by day in the unit of the source.

    The weeks lie in the part as a whole, so nothing that is hidden or visible was trained on.
    """
    start, stop = city.split.rows(part)
    steps = city.long_steps(encoder.capabilities.long_minutes)
    length = round(encoder.config.minutes * 60 / city.time.step)
    days = city.time.clock.astype("datetime64[s]").astype("datetime64[D]").astype(str)
    factor = np.array([channel.source.factor for channel in city.signal.channels])
    generator = torch.Generator().manual_seed(0)
    sums: dict[str, dict[str, np.ndarray]] = {}
    for origins in np.split(np.arange(start + steps, stop + 1, SPACING), range(4, (stop - start) // SPACING, 4)):
        if not len(origins):
            continue
        window = long(city.window(origins, encoder.capabilities.needs, target=False))
        hidden = draw_mask("whole_step", window.mask, rate, length=length, generator=generator)
        rows = origins[:, None] + np.arange(-steps, 0)
        for name, answer in _fillings(encoder, city, window, hidden, rows).items():
            error = np.where(hidden, np.abs(answer - window.values.numpy()) / factor, 0).sum((2, 3))
            for day in np.unique(days[rows]):
                here = days[rows] == day
                sums.setdefault(name, {}).setdefault(day, np.zeros(2))[:] += (
                    error[here].sum(), hidden.sum((2, 3)).numpy()[here].sum())
    return {name: {day: (float(total), float(count)) for day, (total, count) in table.items() if count}
            for name, table in sums.items()}


@torch.no_grad()
def _fillings(encoder: StepEncoder, city: City, window: Any, hidden: Tensor, rows: np.ndarray
              ) -> dict[str, np.ndarray]:
    """What each way says of a batch of weeks, ``[B, L, N, C]`` in SI units."""
    bare = hide(window, hidden)
    values, visible = bare.values.numpy().astype(np.float64), bare.mask.numpy()
    return {"encoder": encoder.reconstruct(bare, hidden).numpy(), "mean of the visible part": visible_mean(
        values, visible), "linear interpolation": interpolated(values, visible),
        "slot profile of training": city.context.profile(rows)}


def mae(daily: Daily) -> float:
    """Mean absolute error over all days."""
    total, count = np.array(list(daily.values())).sum(0)
    return float(total / count)


# -------------------------------------------------------------------- stage 2: forecasts
def forecaster(city: City, backend: str, arm: str, seed: int, steps: int, encoder: Path, work: Path
               ) -> tuple[Forecaster, Path, dict[str, Any]]:
    """One run of stage 2; all arms learn at the rate that the back-end alone is trained with."""
    folder = work / f"{backend}-{arm}-{seed}"
    recipe = {key: model_class(backend).recipe[key] for key in ("learning_rate", "weight_decay", "batch_size")}
    settings: dict[str, Any] = {}
    if arm != "alone":
        settings = {"encoder": str(encoder), "backend": backend, "graph": "off"} | JOINS[arm]
    model, facts = train(city, backend if arm == "alone" else "step", folder, steps, settings=settings, seed=seed,
                         **recipe)
    return model, folder, facts


def pooled(scores: list[dict[str, Any]]) -> Daily:
    """Errors of each day over several seeds."""
    return {day: (sum(one["daily"][day][0] for one in scores), sum(one["daily"][day][1] for one in scores))
            for day in scores[0]["daily"]}


def states_once(city: City, encoder: Path) -> float:
    """Compute the states at all patch boundaries, or read them where they are kept; the processor seconds it took."""
    kept = encoder / "states.safetensors"
    first, all_of_it = (STEP.for_city(city, STEPConfig(encoder=str(encoder), ahead=ahead)) for ahead in (0, AHEAD))
    states = all_of_it.states_of(city)
    if not kept.exists():
        before = time.process_time()
        states.fill(np.arange(len(states.values)), all_of_it.encoder, city)
        with atomic_path(kept) as path:
            save_file({"values": states.values, "seconds": torch.tensor(time.process_time() - before)}, path)
    found = load_file(kept)
    for one in (states, first.states_of(city)):  # the last state stands first
        one.values, one.known[:] = found["values"][..., : one.values.shape[2]].contiguous(), True
    return float(found["seconds"])


# -------------------------------------------------------------------- the page
def page(result: dict[str, Any]) -> str:
    """The page: protocol, stage 1, the choice, stage 2, bars."""
    facts = result["facts"]
    lines = ["# STEP: does a week of history pay?", "",
             f"Written by `python benchmarks/step.py` on {facts['date']}, {facts['machine']}, "
             + ", ".join(f"{name} {value}" for name, value in facts["versions"].items()) + ", one thread.", "",
             f"`{SET}`: 16 sensors, five months, 5 minutes, speed in {facts['unit']}, data sha256 "
             f"`{facts['data_sha256'][:16]}`. Chronological 70/10/20, windows of 12 steps in and 12 out; everything is "
             "fitted on training rows and chosen on validation. Seconds are of the processor; the machine was shared.",
             "", *_stage_one(result), *_choice(result), *_stage_two(result)]
    return "\n".join(lines) + "\n"


def _stage_one(result: dict[str, Any]) -> list[str]:
    first, training = result["stage_1"], result["encoder"]
    names = list(next(iter(first.values()))["mae"])
    lines = ["## Stage 1: hidden hours of a week", "",
             f"`step_encoder` with {', '.join(f'{key} {value}' for key, value in ENCODER.items())}: "
             f"{training['parameters']:,} parameters, {training['steps']:,} steps of {BATCH} weeks, "
             f"{_seconds(training)} s, weights sha256 `{result['encoder_sha256'][:16]}`. Whole hours of all sensors "
             f"are hidden, the same for all ways; weeks lie in the part as a whole, one every {SPACING} rows. Masked "
             f"MAE in {result['facts']['unit']}. The slot profile reads the training part and nothing of the week.", "",
             "| part | hidden | " + " | ".join(f"**{name}**" if name == "encoder" else name for name in names) + " |",
             "|---|---|" + "---|" * len(names)]
    lines += [f"| {found['part']} | {found['rate']:.0%} | "
              + " | ".join(f"{value:.3f}" for value in found["mae"].values()) + " |" for found in first.values()]
    lines.append("")
    for found in first.values():
        if found["part"] == "test":
            lines += [f"* {found['rate']:.0%} hidden, encoder minus {name}: {_verdict(against)}"
                      for name, against in found["against"].items()]
    for found in first.values():
        if found["part"] == "test":
            yes = all(found["against"][name]["high"] < 0 for name in RIVALS)
            lines.append(f"* {found['rate']:.0%} hidden (it learned with 75%): encoder significantly below "
                         f"{' and '.join(RIVALS)}: **{'yes' if yes else 'no'}**.")
    return [*lines, ""]


def _choice(result: dict[str, Any]) -> list[str]:
    chosen = result["chosen"]
    lines = ["## Which back-end, which states: chosen on validation", "",
             f"Seed 0, {result['facts']['steps']:,} steps of 32 windows at the back-end's own learning rate, MAE of "
             "the validation part over all 12 steps. The learned graph is off, so that the arms differ in the states "
             "alone.", "",
             "| back-end | " + " | ".join(ARMS.values()) + " |", "|---|" + "---|" * len(ARMS)]
    for backend, arms in result["choice"].items():
        cells = [f"**{arms[arm]:.4f}**" if [backend, arm] == [chosen["backend"], chosen["arm"]] else f"{arms[arm]:.4f}"
                 for arm in ARMS]
        lines.append(f"| {backend} | " + " | ".join(cells) + " |")
    return [*lines, "", f"The lowest with states is `{chosen['backend']}`, {ARMS[chosen['arm']]}.", ""]


def _stage_two(result: dict[str, Any]) -> list[str]:
    lines = ["## Stage 2: forecasts of the test part", "",
             f"Back-end `{result['chosen']['backend']}`, {len(result['seeds'])} seeds, equal steps and learning rate, "
             "mean ± standard deviation over seeds, one encoder for all. *Reads*: what of the past a forecast is made "
             "from; a model that reads a week is not ranked beside those that read an hour. The states of all "
             f"boundaries took {result['states_seconds']:.0f} s once, which are not in the column.", "",
             "| model | reads | step 3 | step 6 | step 12 | all MAE | all RMSE | parameters trained | train s |",
             "|---|---|---|---|---|---|---|---|---|"]
    for arm, found in result["stage_2"].items():
        mean = found["mean"]["horizons"]
        cells = [_spread(mean[step]["mae"]) for step in ("3", "6", "12", "all")] + [_spread(mean["all"]["rmse"])]
        seconds = [_seconds(one) for one in found["training"]]
        lines.append(f"| {ARMS[arm]} | {'1 h + the last week' if arm in WITH else '1 h'} | " + " | ".join(cells)
                     + f" | {found['trained_parameters']:,} | {' / '.join(seconds)} |")
    lines.append("")
    for pair, against in result["significance"].items():
        mine, rival = pair.split(" - ")
        lines.append(f"* {ARMS[mine]} minus {ARMS[rival]}, all seeds pooled: {_verdict(against['pooled'])} "
                     "Seed by seed: " + ", ".join(f"{one['difference']:+.4f} (p {one['p_value']:.4f})"
                                                  for one in against["seeds"]) + ".")
    lines += ["", "Paired bootstrap over the days of the test part (5,000 draws of days): p is at least 0.0004.", ""]
    for rival in ("alone", "join"):
        found = result["significance"][f"{result['chosen']['arm']} - {rival}"]["pooled"]
        yes = found["difference"] < 0 and found["p_value"] < 0.05
        lines.append(f"* With states significantly below {ARMS[rival]}, at equal steps: **{'yes' if yes else 'no'}**.")
    return lines


def _verdict(found: dict[str, Any]) -> str:
    return (f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}], p {found['p_value']:.4f}, "
            f"{found['days']} days.")


def _spread(value: dict[str, float | None]) -> str:
    return f"{value['mean']:.3f}" + (f" ± {value['spread']:.3f}" if value["spread"] is not None else "")


def _seconds(training: dict[str, Any]) -> str:
    """Processor seconds; those of the clock, in brackets, of a run that was interrupted."""
    cpu = training["cpu_seconds"]
    return f"({training['seconds']:.0f})" if cpu is None else f"{cpu:.0f}"


def machine() -> str:
    """Processor and cores."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, no GPU used"


# -------------------------------------------------------------------- all of it
def stage_one(city: City, encoder: Forecaster, folder: Path) -> dict[str, Any]:
    """Scores of filling in, by part and share; taken once."""
    assert isinstance(encoder, StepEncoder)
    kept, found = folder / "filled.json", {}
    if not kept.exists():
        for part in ("validation", "test"):
            for rate in RATES:
                daily = filled(encoder, city, part, rate)
                rivals = [name for name in daily if name != "encoder"]
                found[f"{part} {rate}"] = {
                    "part": part, "rate": rate, "mae": {name: mae(table) for name, table in daily.items()},
                    "against": {name: block_bootstrap(daily["encoder"], daily[name]) for name in rivals}}
        write_json(kept, found)
    return json.loads(kept.read_text())


def stage_two(backend: str, seeds: range, run: Callable[[str, str, int], Any], city: City) -> dict[str, Any]:
    """Scores of a back-end on the test part, and what the states are worth."""
    arms: dict[str, Any] = {}
    scores: dict[str, list[dict[str, Any]]] = {}
    for arm in ARMS:
        runs = [run(backend, arm, seed) for seed in seeds]
        scores[arm] = [score(model, city, "test", folder) for model, folder, _ in runs]
        records = [one["record"] | {"seed": seed} for one, seed in zip(scores[arm], seeds, strict=True)]
        trained = sum(weight.numel() for weight in runs[0][0].parameters() if weight.requires_grad)
        arms[arm] = {"mean": summarise(records), "training": [facts for _, _, facts in runs],
                     "trained_parameters": trained}
    pairs = [(mine, rival) for mine in WITH for rival in ("alone", "join")]
    return {"stage_2": arms, "significance": {f"{mine} - {rival}": {
        "pooled": block_bootstrap(pooled(scores[mine]), pooled(scores[rival])),
        "seeds": [block_bootstrap(_days(a), _days(b)) for a, b in zip(scores[mine], scores[rival], strict=True)]}
        for mine, rival in pairs}}


def _days(scores: dict[str, Any]) -> Daily:
    return {day: (total, count) for day, (total, count) in scores["daily"].items()}


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["stid"],
                        help="of several the lowest on validation with states is scored on test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoder-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=2000, help="steps of every run of stage 2")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get(
        "STGRAPH_DATA", HERE.parents[1] / "shared" / "data")), help="folder of the real data sets")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "step", help="bundle and runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    city = City.open(bundle(options.data, options.work))
    folder = options.work / "encoder"
    encoder, training = train(city, "step_encoder", folder, options.encoder_steps, settings=ENCODER, seed=0,
                              batch_size=BATCH, learning_rate=2e-3)
    result: dict[str, Any] = {"facts": {
        "date": str(datetime.date.today()), "machine": machine(), "versions": versions(), "steps": options.steps,
        "data_sha256": city.sha256, "unit": city.signal.channels[0].source_unit, "set": SET}, "encoder": training,
        "encoder_sha256": json.loads((folder / "model.json").read_text())["weights_sha256"],
        "stage_1": stage_one(city, encoder, folder), "seeds": list(range(options.seeds))}

    def run(backend: str, arm: str, seed: int) -> tuple[Forecaster, Path, dict[str, Any]]:
        if "states_seconds" not in result:
            result["states_seconds"] = states_once(city, folder)
        found = forecaster(city, backend, arm, seed, options.steps, folder, options.work)
        print(f"{backend:14} {arm:6} seed {seed}: validation {found[2]['best_validation']['score']:.4f}", flush=True)
        return found

    result["choice"] = {}
    for backend in options.backends:
        result["choice"][backend] = {}
        for arm in ARMS:
            model, place, _ = run(backend, arm, 0)
            record = score(model, city, "validation", place)["record"]
            result["choice"][backend][arm] = record["horizons"]["all"]["mae"]
    choice = result["choice"]
    best, backend, arm = min((choice[backend][arm], backend, arm) for backend in choice for arm in WITH)
    result["chosen"] = {"backend": backend, "arm": arm, "validation_mae": best}
    result |= stage_two(backend, range(options.seeds), run, city)
    write_json(options.out.with_suffix(".json"), result)
    write_text(options.out.with_suffix(".md"), page(result))


if __name__ == "__main__":
    main()
