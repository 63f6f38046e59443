"""The record of a run, ``run.json``: what was trained on what, how, where and with what result."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.train.budget import Budget
from stgraph.train.settings import TrainingSettings
from stgraph.version import versions
from stgraph.windows import City

FORMAT = "stgraph-run"
VERSION = 1

# What must be the same for a run to go on, in the order in which a difference is named.
_FIXED = ("model", "data", "sizes", "config", "split", "seed", "batch_size", "learning_rate", "weight_decay", "clip",
          "precision", "patience", "objectives", "city_weights")
_TELLING = ("channels", "data_sha256", "fractions")  # named before what follows from them


def describe(model: Forecaster, cities: Sequence[City], settings: TrainingSettings, budget: Budget,
             paths: Sequence[Path | str] = (), command: Sequence[str] = ()) -> dict[str, Any]:
    """The part of the record that is known before the first step."""
    names: list[str | None] = [str(path) for path in paths] or [None for _ in cities]
    data = [{"name": city.name, "path": path, "data_sha256": city.sha256, "channels": city.signal.channel_names,
             "node_type": city.node_type, "signal": city.signal_name,
             "nodes": city.num_nodes, "rows": city.time.length, "interval_s": city.time.step,
             **({"also": city.also, "other_nodes": {kind: other.num_nodes for kind, other in city.others.items()}}
                if city.others else {})}
            for city, path in zip(cities, names, strict=True)]
    objectives = [[item if isinstance(item, str) else type(item).__name__, weight]
                  for item, weight in settings.objectives]
    return {
        "format": FORMAT, "version": VERSION, "status": "running",
        "model": model.name, "config": dataclasses.asdict(model.config), "sizes": dataclasses.asdict(model.sizes),
        "parameters": model.parameter_count,
        "data": data, "channels": cities[0].signal.channel_names, "split": cities[0].split.to_dict(),
        "history": cities[0].history, "horizon": cities[0].horizon,
        "seed": settings.seed, "batch_size": settings.batch_size, "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay, "clip": settings.clip, "precision": settings.precision,
        "patience": settings.patience, "objectives": objectives,
        "city_weights": None if settings.weights is None else [float(weight) for weight in settings.weights],
        "budget": dataclasses.asdict(budget), "minutes": budget.minutes,
        "steps": 0, "steps_done": 0, "seconds": 0.0, "best_validation": None, "validation": None, "stopped_by": None,
        "device": device_words(settings), "threads": torch.get_num_threads(), "machine": machine(),
        "versions": versions(), "command": list(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "resumed": 0, "notes": [],
    }


def check_same(old: dict[str, Any], new: dict[str, Any], file: Path) -> None:
    """Refuse to go on with a run whose data, model or settings are not those of now.

    Args:
        old: The record of the run.
        new: What was asked for now, or a part of it.
        file: Where the record lies.

    Raises:
        InputError: naming the first thing that differs.
    """
    for name in (name for name in _FIXED if name in new):
        if difference := _first_difference(name, old.get(name), new[name]):
            field, was, now = difference
            raise InputError(f"the run was made with {field} {_words(was)}", file=file, field=field, value=now,
                             remedy="resume with what the run was made with, or start another run with another --out")


def machine() -> dict[str, Any]:
    """The processor and its cores."""
    name = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        named = [line.partition(":")[2].strip() for line in listing.read_text().splitlines()
                 if line.startswith("model name")]
        name = named[0] if named else name
    return {"cpu": name, "cores": os.cpu_count(), "system": platform.system()}


def device_words(settings: TrainingSettings) -> str:
    """``cpu``, or the name of the GPU."""
    return f"cuda ({torch.cuda.get_device_name()})" if settings.on_gpu else "cpu"


def _first_difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The innermost field in which two values differ, with both; paths of files may differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys(), key=lambda k: (k not in _TELLING, k)):
            if key not in ("path", "name") and (found := _first_difference(key, old.get(key), new.get(key))):
                return found
        return None
    if name == "data" and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return next((found for a, b in zip(old, new, strict=True) if (found := _first_difference(name, a, b))), None)
    return None if _plain(old) == _plain(new) else (name, old, new)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _words(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(str(item.get("name")) for item in value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
