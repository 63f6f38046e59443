"""``stgraph train``: a forecaster for one bundle or several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json
from stgraph.errors import InputError

Bundles = Annotated[list[Path] | None, typer.Argument(metavar="BUNDLE", help="Further bundles.")]
Data = Annotated[list[Path] | None, typer.Option(
    "--data", help="The bundle (.stg) to train on; several for an inductive model.")]
Model = Annotated[str | None, typer.Option("--model", help="Name of the model, such as stid, profile_mlp, patchstg.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="Time budget; 2 where no budget is given.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Budget in training steps: repeatable to the bit.")]
Passes = Annotated[float | None, typer.Option("--passes", help="Budget in passes over the training part.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, batches and noise; 0 if not given.")]
History = Annotated[int | None, typer.Option("--history", help="Input steps; 12 if not given.")]
Horizon = Annotated[int | None, typer.Option("--horizon", help="Steps to forecast; 12 if not given.")]
Shares = Annotated[str | None, typer.Option(
    "--split", help="Shares of train, validation and test; 0.7,0.1,0.2 if not given.")]
Channels = Annotated[str | None, typer.Option(
    "--channels", help="Channels to read and forecast, comma-separated; all if not given.")]
NodeType = Annotated[str | None, typer.Option(
    "--node-type", help="Whose signal to forecast: sensor if not given, else the only type that has signals.")]
SignalName = Annotated[str | None, typer.Option(
    "--signal", help="Which signal, where the nodes have several.")]
Also = Annotated[list[str] | None, typer.Option(
    "--also", metavar="TYPE[:SIGNAL[:CHANNEL+...]]",
    help="Another type of nodes to train with at once, such as segment:traffic:count; one without a signal by its "
         "attributes, such as event:6h, remembered for so long. May be given several times.")]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="KEY=VALUE", help="A setting of the model, such as width=64; may be given several times.")]
Objective = Annotated[str | None, typer.Option(
    "--objective", metavar="NAME[:WEIGHT],...",
    help="What to train for, such as 'mae:1,masked(rate=0.5):0.5'; mae if not given.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Windows in a batch.")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate", help="Highest learning rate.")]
WeightDecay = Annotated[float | None, typer.Option("--weight-decay", help="Weight decay.")]
Precision = Annotated[str | None, typer.Option("--precision", help="32-true, bf16-mixed, or 16-mixed on a GPU.")]
Patience = Annotated[int | None, typer.Option(
    "--patience", help="End after so many validations without a better score; never if not given.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes that cut windows.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads on the CPU.")]
Device = Annotated[str | None, typer.Option("--device", help="auto (a GPU where there is one), cpu or cuda.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; unless said, all as before.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def train(
    more: Bundles = None, data: Data = None, model: Model = None, out: Out = None, minutes: Minutes = None,
    steps: Steps = None, passes: Passes = None, seed: Seed = None, history: History = None, horizon: Horizon = None,
    split: Shares = None, channels: Channels = None, node_type: NodeType = None, signal: SignalName = None,
    also: Also = None, settings: Settings = None, objective: Objective = None,
    batch_size: BatchSize = None, learning_rate: LearningRate = None, weight_decay: WeightDecay = None,
    precision: Precision = None, patience: Patience = None, workers: Workers = None, threads: Threads = None,
    device: Device = None, resume: Resume = False, overwrite: Overwrite = False, json: Json = False,
) -> None:
    """Train a forecaster and keep the weights of its best validation.

    Example: stgraph train --data los.stg --model stid --out runs/los --minutes 2 --seed 0

    After Ctrl-C, or a crash: stgraph train --out runs/los --resume
    """
    if out is None:
        raise InputError("no folder for the run", field="out", remedy="name it, such as --out runs/first")
    training = {"seed": seed, "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay,
                "precision": precision, "patience": patience, "workers": workers, "threads": threads, "device": device}
    request: dict[str, Any] = {
        "data": [*(data or []), *(more or [])], "model": model, "settings": _settings(settings), "history": history,
        "horizon": horizon, "split": split, "channels": channels, "node_type": node_type, "signal": signal,
        "also": also or [], "objectives": _objectives(objective), **training}
    if resume:
        request = _from_run(out, request)
    _check(request)

    from stgraph.train import Budget, TrainingInterrupted, fit
    from stgraph.windows import City
    from stgraph.windows.city import also_of

    options = {name: 12 if request[name] is None else request[name] for name in ("history", "horizon")}
    options |= {"fractions": _fractions(request["split"]), "channels": _names(request["channels"]),
                "node_type": request.get("node_type"), "signal": request.get("signal"),
                "also": also_of(request["also"]) if isinstance(request["also"], list) else request["also"]}
    extra: dict[str, Any] = {name: request.get(name) for name in ("clip", "objectives", "weights", *training)}
    budget = Budget(minutes=minutes, steps=steps, passes=passes)
    cities = [City.open(path, **options) for path in request["data"]]
    try:
        trained = fit(cities, request["model"], out, settings=request["settings"], budget=budget, resume=resume,
                      overwrite=overwrite, paths=request["data"], command=["stgraph", *sys.argv[1:]],
                      **extra)
    except TrainingInterrupted as error:
        note(str(error))
        if json:
            print_json({"error": {"message": str(error)}, "run": str(out)})
        raise typer.Exit(130) from None
    result = _result(trained.record, out)
    note(_words(trained.record, result), style="bold")
    if json:
        print_json(result)


def _from_run(out: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A request whose gaps are filled with what the run was made with."""
    from stgraph.train.folder import RunFolder

    record = RunFolder(out).record()
    known = {"data": [item["path"] for item in record["data"]], "model": record["model"],
             "settings": record["config"], "split": record["split"]["fractions"], "weights": record["city_weights"],
             **{name: record["data"][0].get(name) for name in ("node_type", "signal")},
             "also": record["data"][0].get("also", {}),
             **{name: record.get(name) for name in ("history", "horizon", "channels", "seed", "batch_size",
                                                    "learning_rate", "weight_decay", "clip", "precision", "patience",
                                                    "objectives", "threads")}}
    if None in known["data"] and not request["data"]:
        raise InputError("the run does not say where its data lies", file=out, field="data",
                         remedy="name the bundle with --data")
    given = {name: value for name, value in request.items() if value not in (None, [], {})}
    if given.get("model", known["model"]) == known["model"]:
        given["settings"] = known["settings"] | request["settings"]
    else:
        given["settings"] = request["settings"]  # of another model: the difference is named later
    return dict.fromkeys(request) | known | given


def _check(request: dict[str, Any]) -> None:
    if not request["data"]:
        raise InputError("no data to train on", field="data", remedy="name a bundle, such as --data los.stg; "
                                                                     "make one with stgraph build")
    if request["model"] is None:
        from stgraph.models import model_names

        raise InputError("no model named", field="model", remedy=f"use --model with one of {', '.join(model_names())}")


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    """``["width=64"]`` as a dictionary."""
    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InputError("not a setting", field="set", value=pair, remedy="write it like --set width=64")
        found[key.strip()] = value.strip()
    return found


def _objectives(text: str | None) -> list[tuple[str, float]] | None:
    """``"mae:1,masked:0.5"`` as names and weights."""
    if text is None:
        return None
    from stgraph.objectives import parse_objectives

    return parse_objectives(text)


def _fractions(value: str | list[float] | None) -> tuple[float, ...]:
    """``"0.7,0.1,0.2"`` as numbers."""
    if isinstance(value, list):
        return tuple(value)
    try:
        return tuple(float(part) for part in (value or "0.7,0.1,0.2").split(","))
    except ValueError as error:
        raise InputError("not three shares", field="split", value=value, remedy="write it like 0.7,0.1,0.2") from error


def _names(value: str | list[str] | None) -> list[str] | None:
    """``"inflow,outflow"`` as a list."""
    return value.split(",") if isinstance(value, str) else value


def _result(record: dict[str, Any], out: Path) -> dict[str, Any]:
    """The object of ``--json``."""
    data = [item["path"] for item in record["data"]]
    hashes = [item["data_sha256"] for item in record["data"]]
    return {"model": record["model"], "run": str(out), "data": data,
            "data_sha256": hashes[0] if len(hashes) == 1 else hashes,
            **{name: record[name] for name in ("steps", "seconds", "parameters", "best_validation", "stopped_by",
                                               "seed", "history", "horizon", "channels", "device", "threads", "notes",
                                               "versions")},
            "next": f"stgraph evaluate --model {out} --data {data[0]}"}


def _words(record: dict[str, Any], result: dict[str, Any]) -> str:
    """What was made, how good it is, what to type next."""
    from stgraph.train.validation import Score

    best = record["best_validation"]
    how = "no validation part" if best is None else \
        f"validation MAE {Score(best['score'], best['cities']).words()} at step {best['step']:,} of {record['steps']:,}"
    if record["steps"] == 0 and best is not None:
        how = f"validation MAE {Score(best['score'], best['cities']).words()}"
    lines = [f"Trained {record['model']} ({record['parameters']:,} parameters) in {record['seconds']:.0f} s: {how}.",
             *(f"Note: {text}." for text in record["notes"]),
             f"The run is in {result['run']}. Next: {result['next']}"]
    return "\n".join(lines)
