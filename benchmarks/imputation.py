"""Can the house model fill gaps? Random, block and dead-sensor gaps in real readings, beside lines in time and kriging.

    python benchmarks/imputation.py                        # two sets, three seeds: some minutes of one core
    python benchmarks/imputation.py --sets aqi36_beijing --seeds 1
    python benchmarks/imputation.py --part validation --out /tmp/page    # what settings were chosen by

One run of the model for each set and seed, trained to give back what is hidden from it; it fills all kinds of gaps. The
gaps of a part are drawn once, by a seed, and are the same for all ways. Finished runs are kept in the work folder and
done anew where their settings differ from what is asked now. The page is written to
``benchmarks/results/imputation.md`` and ``.json`` after every run.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probabilistic import arguments, bundle, machine, spread, train

from stgraph.evaluate import block_bootstrap
from stgraph.evaluate.imputation import PLAIN, Way, draw_gaps, fill, score_gaps
from stgraph.io import read_json, write_json, write_text
from stgraph.version import versions
from stgraph.windows import City

VERSION = 1  # of a kept record
SEED = 0  # of the gaps
RATES = {"random": 0.25, "block": 0.2, "dead": 0.25}
BATCH = 16
OBJECTIVE = "mae:0.3,masked(kind=block,rate=0.25,minutes={minutes}),masked(kind=whole_node,rate=0.25)"
SETTINGS = {"parts": "graph,mlp", "lags": False, "width": 64, "layers": 2}


@dataclass(frozen=True)
class Case:
    """How a set is cut and what is taken out.

    Args:
        steps: Of training.
        history: Steps of a window.
        run: Steps of a gap of a block.
        settings: Of the model, beside ``SETTINGS``.
        own: Key of the same readings without those that the source hides for tests.
    """

    steps: int
    history: int
    run: int
    settings: tuple[tuple[str, float], ...] = ()
    own: str | None = None


CASES = {
    "aqi36_beijing": Case(400, 24, 12, (("minutes", 1440.0), ("cell", 60.0)), "pm25_missing"),
    "pems_bay_16": Case(400, 72, 24),
}
Results = dict[str, dict[str, Any]]


# -------------------------------------------------------------------- runs
def gaps_of(name: str, city: City, part: str, data: Path, work: Path) -> dict[str, list[np.ndarray]]:
    """The gaps of a part by kind, ``[rows, N, C]`` bool each."""
    first, last = city.split.rows(part)
    observed = city.signal.read(first, last)[1]
    case = CASES[name]
    found = {kind: draw_gaps(kind, observed, rate, length=case.run, seed=SEED) for kind, rate in RATES.items()}
    if case.own:
        left = City.open(bundle(name, data, work, key=case.own)).signal.read(first, last)[1]
        found["own"] = [observed & ~left]
    return found


def scores(ways: Mapping[str, Way], city: City, gaps: Mapping[str, list[np.ndarray]], part: str) -> dict[str, Any]:
    """``{way: {kind: {mae, rmse, count, daily}}}``."""
    by_kind = {kind: score_gaps(ways, city, masks, part) for kind, masks in gaps.items()}
    return {way: {kind: by_kind[kind][way] for kind in by_kind} for way in ways}


def case_of(name: str, part: str) -> dict[str, Any]:
    """What the scores of a set depend on beside runs and data."""
    case = CASES[name]
    return {"version": VERSION, "part": part, "seed": SEED, "rates": RATES, "run": case.run, "own": case.own}


def plain(name: str, city: City, gaps: Mapping[str, list[np.ndarray]], part: str, work: Path) -> dict[str, Any]:
    """Scores of the plain ways, taken once."""
    kept = work / f"{name}-plain-{part}.json"
    asked = case_of(name, part) | {"data_sha256": city.sha256, "ways": list(PLAIN)}
    if not kept.exists() or read_json(kept)["asked"] != asked:
        write_json(kept, {"asked": asked, "ways": scores(PLAIN, city, gaps, part)})
    return dict(read_json(kept)["ways"])


def model(name: str, city: City, gaps: Mapping[str, list[np.ndarray]], part: str, seed: int, steps: int, work: Path
          ) -> dict[str, Any]:
    """Train the model and score what it fills in, once."""
    case, folder = CASES[name], work / "runs" / f"{name}-{seed}"
    objective = OBJECTIVE.format(minutes=f"{case.run * city.time.step / 60:g}")
    trained, made = train(city, folder, steps, objective, seed, BATCH, SETTINGS | dict(case.settings))
    kept, asked = folder / f"gaps-{part}.json", case_of(name, part) | {"created": made["created"]}
    if not kept.exists() or read_json(kept)["asked"] != asked:
        found = scores({"weave": partial(fill, trained)}, city, gaps, part)
        facts = {key: made[key] for key in ("seed", "steps", "seconds", "parameters", "best_validation")}
        write_json(kept, {"asked": asked, **facts, "kinds": found["weave"]})
    return dict(read_json(kept))


# -------------------------------------------------------------------- the page
def page(results: Results, part: str) -> str:
    """All tables."""
    lines = ["# Filling gaps", "",
             f"Written by `python benchmarks/imputation.py` on {datetime.date.today()}, {machine()}, "
             + ", ".join(f"{key} {value}" for key, value in versions().items()) + ". Training on one thread.", "",
             f"Gaps in the {part} part of a chronological 70/10/20 split, drawn with seed {SEED}, the same for all "
             f"ways. *random*: {100 * RATES['random']:g} % of the readings; *block*: {100 * RATES['block']:g} %, in "
             f"runs of one series; *dead*: {100 * RATES['dead']:g} % of the sensors show nothing in the whole part, "
             f"in {round(1 / RATES['dead'])} draws, so that each sensor is dead once; *own*: what the source itself "
             "hides for tests. Errors over hidden, observed entries only. All ways know the training part, from which "
             "come means, profiles, variograms and covariances; weights are trained on it alone. *Departures*: from "
             "the profile (the usual value at the slot of day and week), in spreads of the series. *Kriging*: "
             "ordinary, of the 16 nearest sensors, exponential variogram. *Covariance*: the best linear guess from "
             "the 16 sensors most alike, by the sample covariance; it serves only sensors with a past. `weave` reads "
             "windows; the plain ways read the whole part. Mean ± standard deviation over seeds.", ""]
    for name, result in results.items():
        lines += section(name, result)
    return "\n".join(lines) + "\n"


def section(name: str, result: dict[str, Any]) -> list[str]:
    """The table of a set and its bars."""
    case, runs, ways = CASES[name], result["weave"], result["plain"]
    kinds = list(next(iter(ways.values())))
    hours = result["interval_s"] / 3600
    lines = [f"## {name}", "",
             f"{result['unit']}, {result['sensors']} sensors, {result['rows']} rows of {result['interval_s'] // 60} "
             f"minutes; runs of {case.run * hours:g} h, windows of {case.history * hours:g} h; data sha256 "
             f"`{result['data_sha256'][:16]}`. Hidden entries: "
             + ", ".join(f"{kind} {ways['mean'][kind]['count']:,}" for kind in kinds) + ".", "",
             "| way | " + " | ".join(f"{kind} MAE | {kind} RMSE" for kind in kinds) + " |",
             "|---|" + "---|---|" * len(kinds)]
    for way, cells in ways.items():
        lines.append(f"| {way} | " + " | ".join(f"{cells[kind]['mae']:.3f} | {cells[kind]['rmse']:.3f}"
                                                for kind in kinds) + " |")
    lines.append("| **weave** | " + " | ".join(
        spread(runs, lambda record, k=kind, m=measure: record["kinds"][k][m])
        for kind in kinds for measure in ("mae", "rmse")) + " |")
    lines += ["", f"`weave`: {runs[0]['parameters']:,} parameters, {runs[0]['steps']} steps, "
              f"{spread(runs, lambda record: record['seconds'], 0)} s of training, seeds "
              f"{', '.join(str(record['seed']) for record in runs)}.", ""]
    return [*lines, *(bar(kind, runs, ways) for kind in kinds), ""]


def bar(kind: str, runs: list[dict[str, Any]], ways: dict[str, Any]) -> str:
    """What is asked of one kind of gaps, and what was measured."""
    daily = {day: (float(np.mean([record["kinds"][kind]["daily"][day][0] for record in runs])), count)
             for day, (_, count) in runs[0]["kinds"][kind]["daily"].items()}
    own = float(np.mean([record["kinds"][kind]["mae"] for record in runs]))
    asked = [way for way in ways if way.startswith(("line", "kriging"))]
    words = []
    for way in ways:
        against = block_bootstrap(daily, {day: tuple(one) for day, one in ways[way][kind]["daily"].items()})
        p = "" if against["p_value"] is None else f", p {against['p_value']:.2g}"
        words.append(f"{way} {100 * (own / ways[way][kind]['mae'] - 1):+.1f} %{p}")
    lost = [way for way in asked if own >= ways[way][kind]["mae"]]
    verdict = "**yes**" if not lost else f"**no**, not below {', '.join(lost)}"
    what = "Asked" if kind in ("block", "dead") else "Not asked, shown"
    return (f"* {kind}. {what}: MAE below lines in time and kriging, of readings and of departures: {verdict}. "
            f"weave against each: {'; '.join(words)}.")


def main() -> None:
    """Run what is missing and write the page."""
    parser = arguments(__doc__, "imputation")
    parser.add_argument("--sets", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps of every run (default: by set)")
    parser.add_argument("--part", default="test", choices=["validation", "test"])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results: Results = {}
    for name in options.sets:
        path = bundle(name, options.data, options.work)
        city = City.open(path, history=CASES[name].history)
        first, last = city.split.rows(options.part)
        gaps = gaps_of(name, city, options.part, options.data, options.work)
        results[name] = {
            "data_sha256": city.sha256, "unit": city.signal.channels[0].source_unit, "sensors": city.num_nodes,
            "rows": last - first, "interval_s": city.time.step, "weave": [],
            "plain": plain(name, city, gaps, options.part, options.work)}
        for seed in range(options.seeds):
            record = model(name, city, gaps, options.part, seed, options.steps or CASES[name].steps, options.work)
            results[name]["weave"].append(record)
            print(f"{name:16} seed {seed}: MAE " + ", ".join(f"{kind} {cells['mae']:.3f}" for kind, cells in
                                                             record["kinds"].items()), flush=True)
            write_json(options.out.with_suffix(".json"), results)
            write_text(options.out.with_suffix(".md"), page(results, options.part))


if __name__ == "__main__":
    main()
