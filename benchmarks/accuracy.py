"""How good are the models? Every model on every set, one protocol, each run in a process of its own.

    python benchmarks/accuracy.py                     # all sets, models and three seeds: some hours
    python benchmarks/accuracy.py --jobs 2            # two runs at a time, one thread each
    python benchmarks/accuracy.py --sets los_loop --models stid weave --seeds 1

Budgets are steps (``STEPS``), so what else the machine does changes the seconds and not the scores. Finished runs are
kept in the work folder and done anew only where their settings differ from what is asked now (steps, config, recipe,
data); a change of a model's code is not noticed, ``--redo`` with its name is for that. The page is written to
``benchmarks/results/accuracy.md`` and ``accuracy.json`` after every run.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_page import CONTROLS, HOUSE, HOUSE_FIXED, PROFILE, Models, Record, page, span

from stgraph.datasets import card, sensor_build_arguments
from stgraph.evaluate import evaluate
from stgraph.evaluate.evaluate import scored_channels
from stgraph.facade import Run
from stgraph.graph import data_sha256
from stgraph.io import read_json, write_json, write_text
from stgraph.models import Forecaster, config_from, model_class
from stgraph.windows import City, Forecast, Window

HERE = Path(__file__).parent
VERSION = 2  # of a kept record
SETS = {"los_loop": None, "melbourne_scats": None, "pems_bay_16": None, "beijing_subway": "inflow"}  # channels
DAY = {"los_loop": 288, "melbourne_scats": 96, "pems_bay_16": 288, "beijing_subway": 108}  # steps of a (service) day
BLOCK_SECONDS = 3 * 3600
STEPS = {  # of each set in the order of SETS: about two minutes of one quiet thread
    "profile_mlp": (1000, 1200, 8500, 550),
    "stid": (1000, 1400, 8500, 750),
    "patchstg": (1200, 1300, 8000, 700),
    "graph_wavenet": (330, 550, 3500, 230),
    "dcrnn": (220, 320, 1200, 160),
    "staeformer": (80, 110, 900, 60),
    "opencity": (230, 430, 2500, 170),
    "opencity, a day": (130, 200, 1200, 140),
    "step_encoder": (80, 120, 900, 60),
    "step": (800, 1100, 7000, 600),
    "weave": (600, 700, 5000, 400),
}


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Args:
        model: Its name in the package.
        settings: ``--set`` options; ``{first}`` stands for the folder of the run of :attr:`first`.
        role: ``control``, ``model``, ``ablation`` of the house model, or ``stage``: trained for others, not scored.
        by_set: Further settings for some sets.
        training: Options of ``stgraph train`` that differ from the model's recipe.
        steps: Whose row of ``STEPS`` is the budget; None for the model's own.
        first: The entry that is trained before, with the same seed and a budget of its own.
        a_day: Whether the history is a day of steps instead of 12.
        trained_as: The entry whose runs are scored again; None: it has runs of its own.
        scored_with: Settings of the config that are changed after training.
    """

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    role: str = "model"
    by_set: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    steps: str | None = None
    first: str | None = None
    a_day: bool = False
    trained_as: str | None = None
    scored_with: dict[str, Any] = field(default_factory=dict)


def ablation(**settings: Any) -> Entry:
    """The house model with other settings."""
    return Entry(HOUSE, settings, role="ablation")


TOKENS = {"los_loop": 15, "melbourne_scats": 45, "pems_bay_16": 15, "beijing_subway": 30}  # minutes: 3 steps, 4 tokens
ENTRIES = {
    **{name: Entry(name, role="control") for name in CONTROLS},
    "var": Entry("var"),
    PROFILE: Entry(PROFILE),
    "stid": Entry("stid"),
    "patchstg": Entry("patchstg"),
    "graph_wavenet": Entry("graph_wavenet", training={"batch-size": 8}),  # smaller than the recipes', for more steps
    "dcrnn": Entry("dcrnn", training={"batch-size": 4}),
    "staeformer": Entry("staeformer", training={"batch-size": 4}),
    "opencity": Entry("opencity", by_set={name: {"minutes": minutes} for name, minutes in TOKENS.items()}),
    "opencity, a day": Entry("opencity", training={"batch-size": 2}, steps="opencity, a day", a_day=True),
    "step_encoder": Entry("step_encoder", {"width": 64, "layers": 2, "dropout": 0}, role="stage",
                          training={"batch-size": 4}),
    "step": Entry("step", {"encoder": "{first}", "backend": "stid"}, first="step_encoder"),
    HOUSE: Entry(HOUSE),
    HOUSE_FIXED: Entry(HOUSE, {"node_codes": "true"}),
    "weave - city mean": ablation(city_mean="false"),
    "weave - days before": ablation(lags="false"),
    "weave + graph": ablation(parts="graph,mlp"),
    "weave + graph (given)": ablation(parts="graph,mlp", alike=0),
    "weave + graph (alike)": ablation(parts="graph,mlp", given="false"),
    "weave + patches": ablation(parts="patch,mlp"),
    "weave + a week (step)": Entry("step", {"encoder": "{first}", "backend": HOUSE}, role="ablation", steps=HOUSE,
                                   first="step_encoder"),
    "weave + graph, without edges (test)": Entry(HOUSE, role="ablation", trained_as="weave + graph",
                                                 scored_with={"given": False, "alike": 0}),
}


@dataclass(frozen=True)
class Task:
    """One run: an entry on a set with a seed."""

    name: str
    data: str
    seed: int
    path: Path
    work: Path
    threads: int
    steps: int | None = None  # in place of the budget of STEPS
    redo: bool = False

    @property
    def entry(self) -> Entry:
        """The row of the table."""
        return ENTRIES[self.name]

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        name = "".join(letter if letter.isalnum() or letter in "+-" else "_" for letter in self.name)
        return self.work / "runs" / f"{self.data}-{name}-{self.seed}"


# ---------------------------------------------------------------- one run
def perform(task: Task) -> Record:
    """Train and score, or take what is kept. Runs in a process of its own, so its peak of memory is that of scoring."""
    torch.set_num_threads(task.threads)
    kept = task.folder / "accuracy.json"
    asked = request(task)
    if kept.exists() and not task.redo:
        record = read_json(kept)
        if record.get("request") == asked:
            return record | {"entry": dataclasses.asdict(task.entry)}
    base = other(task, task.entry.trained_as) if task.entry.trained_as else task
    training = train(base)
    if task.entry.role == "stage":
        return {}
    record = score(task, base.folder / "run") | {"training": training, "request": asked}
    write_json(kept, record)
    return record


def other(task: Task, name: str) -> Task:
    """The run of another entry on the same set with the same seed, which is kept by now."""
    return dataclasses.replace(task, name=name, redo=False)


def request(task: Task) -> dict[str, Any]:
    """Everything that decides the scores but the code, as plain values of JSON."""
    entry = task.entry
    asked: dict[str, Any] = {"version": VERSION, "model": entry.model, "seed": task.seed, "threads": task.threads,
                             "data": data_sha256(task.path), "channels": SETS[task.data], "a_day": entry.a_day}
    if entry.trained_as:
        return plain({"trained": request(other(task, entry.trained_as)), "scored_with": entry.scored_with})
    kind = model_class(entry.model)
    config = config_from(kind, entry.settings | entry.by_set.get(task.data, {}))
    return plain(asked | {"steps": budget(task), "recipe": kind.recipe, "training": entry.training,
                          "config": dataclasses.asdict(config),
                          "first": request(other(task, entry.first)) if entry.first else None})


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def budget(task: Task) -> int | None:
    """Steps of an entry on a set; None for what is not trained by steps."""
    row = STEPS.get(task.entry.steps or task.entry.model)
    return None if row is None else task.steps or row[list(SETS).index(task.data)]


def train(task: Task) -> dict[str, Any]:
    """Train an entry with one seed, once; what it cost, both stages together."""
    kept, asked, entry = task.folder / "training.json", request(task), task.entry
    if kept.exists() and not task.redo:
        training = read_json(kept)
        if training["request"] == asked:
            return training["facts"]
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    if entry.role == "control":
        return {"steps": None, "first_steps": None, "seconds": None, "cpu_s": None, "peak_mb": None, "threads": None,
                "best_validation": None}
    first = train(other(task, entry.first)) if entry.first else None
    facts = stgraph(*words_of_training(task), log=task.folder / "run.log", threads=task.threads)
    facts = {key: facts[key] for key in ("steps", "seconds", "cpu_s", "peak_mb", "threads", "best_validation")}
    facts["first_steps"] = None
    if first:
        facts |= {"first_steps": first["steps"], "peak_mb": max(facts["peak_mb"], first["peak_mb"])}
        facts |= {key: facts[key] + first[key] for key in ("seconds", "cpu_s")}
    write_json(kept, {"request": asked, "facts": facts})
    return facts


def words_of_training(task: Task) -> list[object]:
    """The words after ``stgraph`` that train an entry."""
    entry, steps = task.entry, budget(task)
    words: list[object] = ["train", "--data", task.path, "--model", entry.model, "--out", task.folder / "run",
                           "--seed", task.seed, "--threads", task.threads]
    words += ["--steps", steps] if steps else []
    words += ["--channels", SETS[task.data]] if SETS[task.data] else []
    words += ["--history", DAY[task.data]] if entry.a_day else []
    for key, value in entry.training.items():
        words += [f"--{key}", value]
    for key, value in (entry.settings | entry.by_set.get(task.data, {})).items():
        if entry.first and isinstance(value, str):
            value = value.format(first=other(task, entry.first).folder / "run")
        words += ["--set", f"{key}={value}"]
    return words


def stgraph(*words: object, log: Path, threads: int = 1) -> dict[str, Any]:
    """Run one verb in its own process: its JSON object, and the processor time and peak memory of the process."""
    with log.open("w") as errors, subprocess.Popen(
            [sys.executable, "-m", "stgraph", *map(str, words), "--json"], stdout=subprocess.PIPE, stderr=errors,
            text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    answer = json.loads(text or "{}")
    if process.returncode:
        raise RuntimeError(f"stgraph {' '.join(map(str, words))} failed: {answer.get('error', process.returncode)}; "
                           f"see {log}")
    return answer | {"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_mb": round(usage.ru_maxrss / 1024)}


# ---------------------------------------------------------------- scores
class BlockSums:
    """Sums of absolute errors and counts over blocks of three hours of the scored rows, seen as a forward hook.

    Args:
        city: The city whose windows are scored.
    """

    def __init__(self, city: City) -> None:
        self.city, self.length = city, max(1, BLOCK_SECONDS // city.time.step)
        self.sums: dict[str, list[float]] = {}

    def __call__(self, model: Forecaster, inputs: tuple[Window], answer: Forecast) -> None:
        """Add a batch."""
        window, channels = inputs[0], scored_channels(self.city)
        assert window.target is not None
        assert window.target_mask is not None
        factor = torch.tensor([c.source.factor for c in self.city.signal.channels], dtype=torch.float64)
        error = ((answer.mean - window.target).double() / factor).abs().where(window.target_mask, 0)
        absolute, count = (each[..., channels].sum((2, 3)).double() for each in (error, window.target_mask))  # [B, H]
        block = (window.origin[:, None].numpy() + np.arange(absolute.shape[1])) // self.length
        for number in np.unique(block).tolist():
            inside = torch.from_numpy(block == number)
            sums = self.sums.setdefault(str(number), [0.0, 0.0])
            sums[0] += float(absolute[inside].sum())
            sums[1] += float(count[inside].sum())

    def kept(self) -> dict[str, list[float]]:
        """The blocks with observed targets, in order of time."""
        return {name: self.sums[name] for name in sorted(self.sums, key=int) if self.sums[name][1]}


def score(task: Task, folder: Path) -> Record:
    """Score a run on the test part of its set, with what the page and its tests need."""
    entry = task.entry
    if entry.role == "control":
        city = City.open(task.path, channels=[SETS[task.data]] if SETS[task.data] else None)
        model = model_class(entry.model).for_city(city)
    else:
        run = Run.open(folder)
        model, city = run.model, run.city(task.path)
    if entry.scored_with:
        model.config = dataclasses.replace(model.config, **entry.scored_with)
    blocks = BlockSums(city)
    model.register_forward_hook(blocks)
    scored = evaluate(model, city, "test", controls=entry.role == "control" or entry.a_day)
    record = {key: value for key, value in scored.record.items()
              if key not in ("slices", "by_channel", "channels") and (key != "controls" or entry.a_day)}
    return record | {
        "entry": dataclasses.asdict(entry), "seed": task.seed, "reads": reads(model, city),
        "date": datetime.date.today().isoformat(),
        "blocks": {"days": {day: list(sums) for day, sums in scored.daily.items()}, "hours": blocks.kept()}}


def reads(model: Forecaster, city: City) -> str:
    """How much of the past a model sees when it forecasts."""
    abilities = model.capabilities
    own = {"same_slot_yesterday": "a day", "same_slot_last_week": "a week", "slot_mean": "training mean"}
    if model.name in own:
        return own[model.name]
    words = [span(city.history * city.time.step / 60)]
    words += ["a day and a week before"] if "lags" in abilities.needs else []
    words += [f"the last {span(abilities.long_minutes)}"] if abilities.long_minutes else []
    words += ["training profile"] if "profile" in abilities.needs else []
    return " + ".join(words)


# ---------------------------------------------------------------- all runs
def bundle(name: str, data: Path, work: Path) -> Path:
    """Build a set's bundle by its data card's own command, once."""
    path = work / f"{name}.stg"
    if not path.exists():
        stgraph(*sensor_build_arguments(card(name), data / card(name).folder), "-o", path, log=work / f"{name}.log")
    return path


def phases(options: argparse.Namespace) -> list[list[Task]]:
    """What is to be run, in three phases: what others build on, what is trained, what scores a kept run again."""
    wanted = set(options.models)
    wanted |= {base for name in options.models for base in (ENTRIES[name].first, ENTRIES[name].trained_as) if base}
    found: list[list[Task]] = [[], [], []]
    for data in options.sets:
        path = bundle(data, options.data, options.work)
        for name, entry in ENTRIES.items():
            if name in wanted:
                seeds = 1 if entry.role == "control" or name == "var" else options.seeds
                phase = 0 if entry.role == "stage" else 2 if entry.trained_as else 1
                found[phase] += [Task(name, data, seed, path, options.work, options.threads, options.steps,
                                      name in options.redo) for seed in range(seeds)]
    return found


def run_all(found: list[Task], jobs: int) -> Iterator[tuple[Task, Record | Exception]]:
    """Records as they come, or why there is none; each task in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(perform, task): task for task in found}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.exception() or done.result()  # type: ignore[misc]
        finally:
            pool.shutdown(cancel_futures=True)


def ordered(found: dict[Task, Record], sets: list[str]) -> dict[str, Models]:
    """Records by set and entry in the order of the table, seeds in order."""
    results: dict[str, Models] = {}
    for task in sorted(found, key=lambda t: (sets.index(t.data), list(ENTRIES).index(t.name), t.seed)):
        results.setdefault(task.data, {}).setdefault(task.name, []).append(found[task])
    return results


def write(results: dict[str, Models], out: Path) -> None:
    """The page, and its records without what only the tests draw from."""
    slim = {data: {name: [{key: value for key, value in record.items() if key not in ("blocks", "request")}
                          for record in records] for name, records in models.items()}
            for data, models in results.items()}
    write_json(out.with_suffix(".json"), slim)
    write_text(out.with_suffix(".md"), page(results, machine()))


def machine() -> str:
    """Processor and cores."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, no GPU used"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), metavar="SET",
                        help=f"of {', '.join(SETS)}")
    parser.add_argument("--models", nargs="+", default=list(ENTRIES), choices=list(ENTRIES), metavar="MODEL",
                        help=f"of {'; '.join(ENTRIES)}")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every model that has one (default 3)")
    parser.add_argument("--steps", type=int, help="steps of every run, to try the script (default: STEPS)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    parser.add_argument("--redo", nargs="+", default=[], choices=list(ENTRIES), metavar="MODEL",
                        help="models whose kept runs are done anew")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get(
        "STGRAPH_DATA", HERE.parents[1] / "shared" / "data")), help="folder of the real data sets")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "accuracy", help="bundles and runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "accuracy")
    return parser.parse_args()


def main() -> None:
    """Run what is missing and write the page."""
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[Task, Record] = {}
    started, failed = time.perf_counter(), 0
    for phase in phases(options):
        for task, record in run_all(phase, options.jobs):
            figure = "trained"
            if isinstance(record, Exception):
                failed, figure = failed + 1, f"FAILED: {record}"
            elif record:
                found[task] = record
                figure = f"MAE {record['horizons']['all']['mae']:.3f}"
                write(ordered(found, options.sets), options.out)
            print(f"{time.perf_counter() - started:7.0f} s  {task.data:16} {task.name:26} seed {task.seed}: {figure}",
                  flush=True)
    if failed:
        raise SystemExit(f"{failed} runs failed; what is there is in {options.out.with_suffix('.md')}")


if __name__ == "__main__":
    main()
