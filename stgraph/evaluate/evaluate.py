"""Score a model and the controls on one part of a city, in one pass, by the protocol of numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.evaluate.metrics import MaskedErrors, SlicedErrors
from stgraph.io import peak_memory_mb
from stgraph.models import CONTROLS, Forecaster, model_class
from stgraph.version import versions
from stgraph.windows import City, PartBatches, Window, loader

HOURS = [f"{hour:02d}:00" for hour in range(24)]
WEEK = ["weekday", "weekend"]


@dataclass
class Evaluation:
    """Scores of one model on one part of one city.

    Args:
        record: The JSON object of ``stgraph evaluate --json``.
        errors: Sums per (step, node, channel) of the model, in source units.
        control_errors: The same for each control.
        daily: For each local day, sum of absolute errors and count: what the significance test reads.
        control_daily: The same for each control.
    """

    record: dict[str, Any]
    errors: MaskedErrors
    control_errors: dict[str, MaskedErrors] = field(default_factory=dict)
    daily: dict[str, tuple[float, float]] = field(default_factory=dict)
    control_daily: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)


class _Scorer:
    """Errors of one forecaster: pooled, by local day, and for the model itself by slices."""

    def __init__(self, city: City, part: str, sliced: bool) -> None:
        self.errors = MaskedErrors(city.horizon, city.num_nodes, city.num_channels)
        self.scored = scored_channels(city)
        self.days = _days(city, part)
        self.by_day = SlicedErrors([str(day) for day in self.days])
        self.slices = {"hour": SlicedErrors(HOURS), "week": SlicedErrors(WEEK),
                       "level": SlicedErrors(_levels(city))} if sliced else {}

    def update(self, forecast: Tensor, target: Tensor, window: Window, bounds: Tensor) -> None:
        """Add a batch; forecast and target ``[B, H, N, C]`` in the source's unit."""
        mask, city = window.target_mask, window.city
        assert mask is not None
        self.errors.update(forecast, target, mask)
        error, mask = (forecast - target)[..., self.scored], mask[..., self.scored]
        rows = window.origin[:, None].numpy() + np.arange(city.horizon)
        self.by_day.update(error, mask, torch.from_numpy(np.searchsorted(self.days, _dates(city)[rows])))
        if self.slices:
            self.slices["hour"].update(error, mask, window.future.minute // 60)
            self.slices["week"].update(error, mask, (window.future.weekday >= 5).long())
            self.slices["level"].update(error, mask, (target[..., None] >= bounds).sum(-1)[..., self.scored])

    @property
    def daily(self) -> dict[str, tuple[float, float]]:
        """Sum of absolute errors and count of each local day with observed targets."""
        sums = zip(self.by_day.names, self.by_day.absolute.tolist(), self.by_day.count.tolist(), strict=True)
        return {day: (total, count) for day, total, count in sums if count}


def evaluate(model: Forecaster, city: City, part: str = "test", *, batch_size: int = 64, controls: bool = True,
             device: str | torch.device = "cpu") -> Evaluation:
    """Score a model and the four controls on every window of a part.

    A missing target counts nowhere, a true zero counts (but not in MAPE). Scores are in the unit of the source and
    accumulated over all elements; RMSE is pooled. Descriptors and controls see the rows of ``city.context`` only,
    which are the training rows unless the caller fitted others.

    Args:
        model: The forecaster.
        city: The city.
        part: ``train``, ``validation`` or ``test``.
        batch_size: Windows at a time; it does not change the scores.
        controls: Whether to score the controls too.
        device: Where the model runs.

    Raises:
        InputError: where the model cannot answer for this city, or the part holds no window.
    """
    model.check(city)
    model = model.to(device).eval()
    rivals = {name: model_class(name).for_city(city).eval() for name in CONTROLS} if controls else {}
    scorers = {name: _Scorer(city, part, sliced=name == "model") for name in ("model", *rivals)}
    needs = frozenset().union(model.capabilities.needs, *(rival.capabilities.needs for rival in rivals.values()))
    batches = PartBatches(city, part, batch_size, needs)
    if len(batches) == 0:
        raise InputError(f"the {part} part holds no window", field="split", value=city.split.rows(part),
                         remedy="choose another part or other shares")
    fallback = {name: 0 for name in rivals}
    bounds = _bounds(city)
    seconds, windows = 0.0, 0
    for window in loader(batches):
        target = _source(city, window.target)
        started = time.perf_counter()
        with torch.inference_mode():
            answer = model(window.to(device)).mean.cpu()
        seconds += time.perf_counter() - started
        windows += window.batch_size
        scorers["model"].update(_source(city, answer), target, window, bounds)
        for name, rival in rivals.items():
            mean, missing = rival.forecast_with_source(window)  # type: ignore[operator]
            fallback[name] += int(missing.sum())
            scorers[name].update(_source(city, mean), target, window, bounds)
    record = _record(model, city, part, scorers, seconds, windows, str(device))
    elements = windows * city.horizon * city.num_nodes * city.num_channels
    record["control_fallback_share"] = {name: count / elements for name, count in fallback.items()}
    return Evaluation(record, scorers["model"].errors, {name: scorers[name].errors for name in rivals},
                      scorers["model"].daily, {name: scorers[name].daily for name in rivals})


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over runs that differ in the seed only: ``{step: {mae: {mean, spread}, ...}}``.

    ``spread`` is the standard deviation over runs (divisor n - 1), None for one run.

    Raises:
        InputError: where the runs differ in more than the seed.
    """
    for key in ("model", "data_sha256", "split", "history", "horizon", "scored_channels"):
        found = [record.get(key) for record in records]
        if any(value != found[0] for value in found):
            raise InputError("these runs differ in more than the seed", field=key, value=found,
                             remedy="give runs of one model on one bundle, or score them one by one")
    table: dict[str, Any] = {}
    for step in records[0]["horizons"]:
        table[step] = {}
        for name in records[0]["horizons"][step]:
            values = np.array([record["horizons"][step][name] for record in records], float)
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            table[step][name] = {"mean": float(values.mean()), "spread": spread}
    return {"runs": len(records), "seeds": [record["seed"] for record in records], "horizons": table}


def scored_channels(city: City) -> slice:
    """The channels that are scored together: all where they share a unit, else the first alone."""
    return slice(None) if len({channel.source_unit for channel in city.signal.channels}) == 1 else slice(0, 1)


def _record(model: Forecaster, city: City, part: str, scorers: dict[str, _Scorer], seconds: float, windows: int,
            device: str) -> dict[str, Any]:
    start, stop = city.split.rows(part)
    channels = [{"name": c.name, "quantity": c.quantity, "unit": c.source_unit} for c in city.signal.channels]
    main = scored_channels(city)
    first, last = (pd.Timestamp(int(city.time.times(np.array([row]))[0]), unit="s", tz="UTC").tz_convert(city.time.tz)
                   for row in (start, stop - 1))
    needs = model.capabilities.needs
    return {
        "model": model.name,
        "data": city.name,
        "data_sha256": city.sha256,
        "simulated": bool(city.graph.metadata.get("simulated", False)),
        "split": {"part": part, "first_row": start, "last_row": stop - 1, "from": first.isoformat(),
                  "to": last.isoformat(), "fractions": list(city.split.fractions), "windows": windows},
        "history": city.history,
        "history_minutes": city.history * city.time.step / 60,
        "reads_profile": "profile" in needs,
        "horizon": city.horizon,
        "interval_s": city.time.step,
        "channels": channels,
        "scored_channels": [c["name"] for c in channels[main]],
        "unit": channels[0]["unit"],
        "inductive": model.capabilities.inductive,
        "parameters": model.parameter_count,
        "horizons": scorers["model"].errors.horizons(main),
        "controls": {name: scorer.errors.horizons(main) for name, scorer in scorers.items() if name != "model"},
        "by_channel": {c["name"]: scorers["model"].errors.horizons(slice(i, i + 1)) for i, c in enumerate(channels)},
        "slices": {name: slices.table() for name, slices in scorers["model"].slices.items()}
        | {"sensor": _by_sensor(city, scorers["model"].errors)},
        "seed": None,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
        "device": device,
        "versions": versions(),
    }


def _by_sensor(city: City, errors: MaskedErrors) -> dict[str, dict[str, Any]]:
    scored = scored_channels(city)
    count, found = errors.count[..., scored].sum((0, 2)).tolist(), errors.mae_by("node", scored).tolist()
    return {str(name): {"mae": mae, "count": int(seen)}
            for name, mae, seen in zip(city.node_ids, found, count, strict=True) if seen}


def _dates(city: City) -> np.ndarray:
    """Local date of each row, ``[T]`` datetime64[D]."""
    return city.time.clock.astype("datetime64[s]").astype("datetime64[D]")


def _days(city: City, part: str) -> np.ndarray:
    return np.unique(_dates(city)[slice(*city.split.rows(part))])


def _source(city: City, values: Tensor | None) -> Tensor:
    """``[..., C]`` from SI to the unit of the source, in double precision."""
    assert values is not None
    factor = torch.tensor([c.source.factor for c in city.signal.channels], dtype=torch.float64)
    offset = torch.tensor([c.source.offset for c in city.signal.channels], dtype=torch.float64)
    return (values.double() - offset) / factor


def _bounds(city: City) -> Tensor:
    """Bounds of the congestion levels ``[C, 2]``: thirds of mean +- 0.43 deviations of the training rows."""
    mean, deviation = torch.from_numpy(city.context.mean), torch.from_numpy(city.context.deviation)
    return _source(city, torch.stack([mean - 0.43 * deviation, mean + 0.43 * deviation], 0)).T.contiguous()


def _levels(city: City) -> list[str]:
    if city.signal.channels[0].quantity == "speed":
        return ["low speed", "medium speed", "high speed"]
    return ["low", "medium", "high"]
