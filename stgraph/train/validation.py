"""The validation score of a run: masked MAE over all elements, or the objectives' loss where nothing is forecast."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stgraph.models import Forecaster
from stgraph.windows import City, PartBatches, Window


@dataclass(frozen=True)
class Score:
    """What one validation found.

    Args:
        value: Masked MAE, each channel in units of its standard deviation over the training rows; with several types of
            nodes the mean over these, with several cities the mean over cities. None where no target is observed. Of a
            model without a forecast the weighted loss of the objectives.
        cities: For each city and channel the masked MAE in the unit of the source, channels of other types of nodes
            after the name of the type; without a forecast one entry ``loss`` in place of the channels.
    """

    value: float | None
    cities: dict[str, dict[str, dict[str, Any]]]

    def words(self) -> str:
        """The errors for people: ``3.41 mph``."""
        single = len(self.cities) == 1
        parts = []
        for city, channels in self.cities.items():
            for channel, found in channels.items():
                if found["mae"] is not None:
                    unit = "" if found["unit"] == "1" else f" {found['unit']}"
                    where = [] if single else [city]
                    where += [channel] if len(channels) > 1 else []
                    parts.append(" ".join([*where, f"{found['mae']:.4g}{unit}"]))
        return ", ".join(parts) or "no observed target"


class Validation:
    """Scores a model on an evenly spaced choice of the validation batches of some cities.

    Args:
        cities: The cities.
        batch_size: Windows in a batch.
        needs: What the model needs beyond the values.
        precision: As in training, see :func:`autocast`.
        judges: Objectives and their weights by which a model without a forecast is scored; None for MAE.
    """

    def __init__(self, cities: Sequence[City], batch_size: int, needs: frozenset[str], precision: str = "32-true",
                 judges: tuple[list[nn.Module], list[float]] | None = None) -> None:
        self.parts = [PartBatches(city, "validation", batch_size, needs) for city in cities]
        self.precision, self.judges = precision, judges

    @property
    def available(self) -> int:
        """Batches of all validation parts."""
        return sum(len(part) for part in self.parts)

    def choose(self, batches: int) -> list[np.ndarray]:
        """Indices of about so many batches, for each city in proportion and at least one."""
        chosen = []
        for part in self.parts:
            count = min(len(part), max(1, round(batches * len(part) / max(1, self.available))))
            chosen.append(((np.arange(count) + 0.5) * len(part) / max(1, count)).astype(int))
        return chosen

    def score(self, model: Forecaster, batches: int, device: torch.device | str = "cpu") -> Score:
        """Score a model in evaluation mode, and leave it in the mode it was in.

        Args:
            model: The model.
            batches: How many batches to score.
            device: Where the model is.
        """
        was_training = model.training
        model.eval()
        values: list[float] = []
        cities: dict[str, dict[str, dict[str, Any]]] = {}
        with torch.no_grad(), autocast(self.precision, device):
            for part, chosen in zip(self.parts, self.choose(batches), strict=True):
                name = part.city.name if part.city.name not in cities else f"{part.city.name} ({len(cities) + 1})"
                if self.judges is not None:
                    if len(chosen):
                        values.append(_city_loss(model, self.judges, part, chosen, device))
                    cities[name] = {"loss": {"mae": values[-1] if len(chosen) else None, "unit": "1"}}
                    continue
                cities[name], by_type = {}, []
                for kind, (error, count) in _city_errors(model, part, chosen, device).items():
                    city = part.city if kind == part.city.node_type else part.city.others[kind]
                    assert isinstance(city, City)
                    before = "" if city is part.city else f"{kind} "
                    if count.sum():
                        by_type.append(float((error / city.context.deviation).sum() / count.sum()))
                    cities[name] |= {
                        f"{before}{channel.name}": {"mae": float(e / n / channel.source.factor) if n else None,
                                                    "unit": channel.source_unit}
                        for channel, e, n in zip(city.signal.channels, error, count, strict=True)}
                values += [float(np.mean(by_type))] if by_type else []
        model.train(was_training)
        return Score(float(np.mean(values)) if values else None, cities)


def autocast(precision: str, device: torch.device | str) -> contextlib.AbstractContextManager[Any]:
    """The context of a precision: ``32-true`` changes nothing, the mixed ones cast where it is safe."""
    if precision == "32-true":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16 if precision == "bf16-mixed" else torch.float16)


def _city_loss(model: Forecaster, judges: tuple[list[nn.Module], list[float]], part: PartBatches, chosen: np.ndarray,
               device: torch.device | str) -> float:
    """Weighted loss of the objectives, mean over windows; what is drawn at random is the same in every validation."""
    device = torch.device(device)
    total, windows = 0.0, 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for index in chosen:
            window = part[int(index)]
            window = window if device.type == "cpu" else window.to(device)
            for objective, weight in zip(*judges, strict=True):
                losses = objective.to(device).eval()(model, window)
                total += weight * sum(float(loss) for loss in losses.values()) * window.batch_size
            windows += window.batch_size
    return total / windows


def _city_errors(model: Forecaster, part: PartBatches, chosen: np.ndarray, device: torch.device | str
                 ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By type of nodes that is forecast, the city's own first: sum of absolute errors and number of observed targets
    per channel, ``[C]`` each, in SI units."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for index in chosen:
        window = part[int(index)]
        window = window if torch.device(device).type == "cpu" else window.to(device)
        answer = model(window)
        pairs = {part.city.node_type: (answer, window)} | {kind: (found, window.others[kind])
                                                          for kind, found in answer.others.items()}
        for kind, (found, one) in pairs.items():
            assert isinstance(one, Window)
            assert one.target is not None
            assert one.target_mask is not None
            each = (found.mean.float() - one.target).abs().where(one.target_mask, 0)
            error, count = each.sum((0, 1, 2), dtype=torch.float64).cpu(), one.target_mask.sum((0, 1, 2)).cpu()
            before = sums.get(kind, (torch.zeros_like(error), torch.zeros_like(error)))
            sums[kind] = before[0] + error, before[1] + count
    return {kind: (error.numpy(), count.numpy()) for kind, (error, count) in sums.items()}
