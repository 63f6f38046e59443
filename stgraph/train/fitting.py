"""``fit``: from cities and a model's name to trained weights and the record of the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stgraph.errors import InputError, TransductiveError
from stgraph.models import Forecaster, config_from, model_class
from stgraph.train.budget import DEFAULT_MINUTES, Budget
from stgraph.train.folder import RunFolder
from stgraph.train.job import Job, Trained
from stgraph.train.record import check_same, describe
from stgraph.train.settings import TrainingSettings
from stgraph.train.threads import choose_threads, threads
from stgraph.windows import City


def fit(cities: Sequence[City], model: Forecaster | str, out: Path | str | None = None, *,
        settings: dict[str, Any] | None = None, budget: Budget | None = None, resume: bool = False,
        overwrite: bool = False, progress: bool = True, checkpoint_seconds: float = 30.0,
        paths: Sequence[Path | str] = (), command: Sequence[str] = (), **training: Any) -> Trained:
    """Train a forecaster on one city or several.

    The weights of the best validation are what is kept. With the same seed, budget in steps and number of threads, two
    runs on a CPU give the same weights to the last bit, and so does a run that was interrupted and resumed.

    Args:
        cities: The cities; an inductive model may train on several in turn.
        model: Name of a model, or a forecaster to go on training from the weights it has.
        out: Folder of the run; None keeps everything in memory.
        settings: Settings of the model's config that differ from its defaults; for a model given by name.
        budget: What the run may cost; two minutes where nothing is said.
        resume: Go on with the run in ``out``, which must have been made with the same data, model and settings.
        overwrite: Replace the run in ``out``.
        progress: Whether to show progress on stderr.
        checkpoint_seconds: Seconds from one checkpoint to the next.
        paths: The cities' bundles as the user named them, for the record.
        command: The words of the command line, for the record.
        training: Fields of :class:`~stgraph.train.settings.TrainingSettings` (``seed``, ``batch_size``,
            ``learning_rate``, ``precision``, ``patience``, ``workers``, ...); None stands for the model's own
            ``recipe``, where it has one, or the default.

    Returns:
        The trained forecaster, the folder and the record.

    Raises:
        InputError: where the data does not fit the model, the folder is taken, the run cannot be resumed, the loss is
            not finite or the disk is full.
        TransductiveError: for several cities and a model that learns a table of one network's nodes.
        TrainingInterrupted: after Ctrl-C; the run can be resumed.
    """
    started = time.perf_counter()
    cities, budget = list(cities), budget or Budget()
    chosen = _training_settings(model_class(model) if isinstance(model, str) else type(model), training)
    folder, old = _open_folder(out, resume, overwrite)
    if folder and old:
        check_same(old, {"model": model if isinstance(model, str) else model.name}, folder.run)
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.manual_seed(chosen.seed)
        forecaster = _make_model(cities, model, settings or {})
        _check_objectives(forecaster, cities, chosen)
        if budget.is_open:
            budget = Budget(**old["budget"]) if old else Budget(minutes=DEFAULT_MINUTES)
        record = describe(forecaster, cities, chosen, budget, paths, command)
        record["threads"] = chosen.threads or choose_threads(forecaster, cities, chosen.batch_size)
        if folder and old:
            check_same(old, record, folder.run)
            record = _resumed_record(old, record, folder)
            if old["status"] == "finished":
                return Trained(_saved_model(folder, forecaster), folder.path, old)
        job = Job(forecaster, cities, chosen, budget, folder, record, progress, checkpoint_seconds, started)
        with threads(record["threads"]):
            if forecaster.capabilities.training == "gradient":
                return job.by_gradient()
            return job.by_formula()


def _open_folder(out: Path | str | None, resume: bool, overwrite: bool
                 ) -> tuple[RunFolder | None, dict[str, Any] | None]:
    """The folder of the run, and the record of the run in it that shall go on."""
    if out is None and (resume or overwrite):
        raise InputError("there is no folder of a run", field="out", remedy="name it with --out")
    if resume and overwrite:
        raise InputError("a run is either resumed or replaced", field="resume, overwrite", remedy="leave one out")
    if out is None:
        return None, None
    folder = RunFolder(out)
    if resume:
        return folder, folder.record()
    folder.check_free(overwrite)
    return folder, None


def _training_settings(kind: type[Forecaster], training: dict[str, Any]) -> TrainingSettings:
    """Settings from keywords; None stands for the model's own recipe, where it has one, or the default."""
    known = set(TrainingSettings.__dataclass_fields__)
    for name in training:
        if name not in known:
            raise InputError("no such training setting", field=name, value=training[name],
                             remedy=f"settings are {', '.join(sorted(known))}")
    given = {name: value for name, value in training.items() if value is not None}
    return TrainingSettings(**(getattr(kind, "recipe", {}) | given))


def _make_model(cities: list[City], model: Forecaster | str, settings: dict[str, Any]) -> Forecaster:
    """The forecaster for these cities: all of them must suit it."""
    if not cities:
        raise InputError("no city to train on", field="data", remedy="give at least one bundle")
    if isinstance(model, str):
        kind = model_class(model)
        config = config_from(kind, settings)
        name, abilities = kind.name, kind.describe(config)
    else:
        if settings:
            raise InputError("a forecaster that exists has its settings already", field="settings",
                             value=sorted(settings), remedy="give the model by name, or leave them out")
        name, abilities = model.name, model.capabilities
    if len(cities) > 1 and not abilities.inductive:
        raise TransductiveError(f"the model '{name}' is transductive: it learns a table of one network's nodes and "
                                f"cannot train on {len(cities)} networks", field="data",
                                value=", ".join(city.name for city in cities),
                                remedy="give one bundle, or use an inductive model (profile_mlp)")
    if len(cities) > 1 and abilities.training == "closed_form":
        raise InputError(f"the model '{name}' is fitted by a formula on one city", field="data",
                         value=", ".join(city.name for city in cities), remedy="give one bundle")
    forecaster = kind.for_city(cities[0], config) if isinstance(model, str) else model
    for city in cities:
        if city.others and not forecaster.several_types:
            raise InputError(f"the model '{name}' reads one type of nodes", field="also",
                             value=", ".join(city.others), remedy="leave out --also, or use --model weave")
        forecaster.check(city)
    return forecaster


def _check_objectives(model: Forecaster, cities: list[City], settings: TrainingSettings) -> None:
    """Refuse a model or a city that an objective cannot train on, before anything is written."""
    if model.capabilities.training != "gradient":
        return
    made, _ = settings.make_objectives(model)
    for (item, _), objective in zip(settings.objectives, made, strict=True):
        check = getattr(objective, "check", None)
        if callable(check):
            for city in cities:
                check(city)
        if model.capabilities.gives == "states" and not hasattr(objective, "prepare"):  # it asks for a forecast
            raise InputError(f"the model '{model.name}' gives no forecast, which this objective scores",
                             field="objectives", value=item if isinstance(item, str) else type(item).__name__,
                             remedy="leave the objective out, or use masked(kind=whole_step,rate=0.75,span=long)")


def _resumed_record(old: dict[str, Any], new: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """The record of a run that goes on: what was recorded, with the session of now."""
    if old["budget"] != new["budget"]:
        name = next(key for key in new["budget"] if new["budget"][key] != old["budget"].get(key))
        raise InputError(f"the run was made with {name} {old['budget'].get(name)}", file=folder.run, field=name,
                         value=new["budget"][name], remedy="leave it out, or start another run with another --out")
    kept = {"steps", "threads", "created", "command", "notes", "seconds", "steps_done", "best_validation",
            "stopped_by", "validation"}
    return new | {key: old[key] for key in kept if key in old} | {"resumed": old.get("resumed", 0) + 1}


def _saved_model(folder: RunFolder, model: Forecaster) -> Forecaster:
    """The weights of a run that is finished."""
    model.load_state_dict(Forecaster.from_pretrained(folder.path).state_dict())
    return model.eval()
