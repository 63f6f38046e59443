"""How sure a forecaster is: intervals calibrated on the validation part, and the score of its distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.evaluate.conformal import AdaptiveConformal, Band, ConformalQuantiles, SplitConformal
from stgraph.evaluate.evaluate import scored_channels
from stgraph.evaluate.metrics import REPORTED
from stgraph.evaluate.probabilistic import (
    EmpiricalResiduals,
    GaussianResiduals,
    Predictions,
    central_interval,
    interval_score,
    masked_mean,
    predictions,
)
from stgraph.models import Forecaster
from stgraph.windows import City, Forecast


class CalibratedIntervals:
    """Intervals of one model on one city, calibrated on its validation part.

    Around the model's own interval where it gives one (:class:`~stgraph.evaluate.conformal.ConformalQuantiles`), else
    around its point forecast (:class:`~stgraph.evaluate.conformal.SplitConformal`).

    Args:
        model: The forecaster.
        city: The city, with the split that the model was trained by.
        level: Promised coverage, in (0, 1).
        device: Where the model runs.

    Raises:
        InputError: where the model cannot answer for this city, the part holds no window, or nothing is observed in it.
    """

    def __init__(self, model: Forecaster, city: City, level: float = 0.9, device: str | torch.device = "cpu") -> None:
        self.level = level
        self._split, self._quantiles = SplitConformal(level), ConformalQuantiles(level)
        known = predictions(model, city, "validation", level=level, device=device)
        _check_observed(known)
        self._split.fit(known.residual, known.mask)
        if known.low is not None and known.high is not None:
            self._quantiles.fit(known.low, known.high, known.target, known.mask)

    def __call__(self, answer: Forecast) -> Band:
        """The intervals of a forecast, ``[B, H, N, C]``."""
        own = central_interval(answer, self.level)
        return self._split.interval(answer.mean) if own is None else self._quantiles.interval(*own)


def evaluate_intervals(model: Forecaster, city: City, part: str = "test", level: float = 0.9, *,
                       device: str | torch.device = "cpu") -> dict[str, Any]:
    """Coverage and width of a model's intervals, and CRPS of its distribution beside plain ones.

    All is calibrated on the validation part. Intervals by name:

    * ``split``: :class:`~stgraph.evaluate.conformal.SplitConformal` around the point forecast;
    * ``adaptive``: :class:`~stgraph.evaluate.conformal.AdaptiveConformal`, which goes on learning in the part that is
      scored, from what was known by then;
    * ``own``, ``conformal_quantiles``: the model's own interval, as it is and calibrated, where it gives one.

    Distributions: ``model``, where it gives quantiles or samples; the point forecast plus a normal (``gaussian``) or
    plus the validation residuals themselves (``empirical``), with moments of each step, ``_by_node`` of each step and
    sensor. A model with quantiles and these baselines are scored at the model's levels; ``gaussian_exact`` is in closed
    form, over all levels.

    Args:
        model: The forecaster.
        city: The city.
        part: The part that is scored, after validation.
        level: Promised coverage.
        device: Where the model runs.

    Returns:
        ``interval``: ``level``, ``unit`` and for each name ``{"3" | "6" | "12" | "all": {coverage, width, score}}``:
        share of targets inside, mean width, Winkler's score, in the unit of the source; with infinite bounds, width is
        that of the others and ``infinite`` their share. ``crps``: ``unit``, ``levels`` and ``{step: CRPS}`` for each
        distribution.

    Raises:
        InputError: as for :class:`CalibratedIntervals`, and for the validation part itself.
    """
    if part == "validation":
        raise InputError("intervals are calibrated on the validation part and cannot be scored on it", field="split",
                         value=part, remedy="score the test part")
    known, new = (predictions(model, city, one, level=level, device=device) for one in ("validation", part))
    _check_observed(known)
    channels = scored_channels(city)
    factor = torch.tensor([channel.source.factor for channel in city.signal.channels], dtype=torch.float64)
    unit = city.signal.channels[0].source_unit
    bands = {"split": SplitConformal(level).fit(known.residual, known.mask).interval(new.mean),
             "adaptive": AdaptiveConformal(level).fit(known.residual, known.mask).run(new.mean, new.target, new.mask)}
    if known.low is not None and known.high is not None and new.low is not None and new.high is not None:
        quantiles = ConformalQuantiles(level).fit(known.low, known.high, known.target, known.mask)
        bands |= {"own": Band(new.low, new.high), "conformal_quantiles": quantiles.interval(new.low, new.high)}
    crps = {name: _by_step(score / factor, new.mask, channels) for name, score in _distributions(known, new).items()}
    return {"interval": {"level": level, "unit": unit, "calibrated_on": "validation",
                         **{name: _band_table(band, new, level, factor, channels) for name, band in bands.items()}},
            "crps": {"unit": unit, "levels": list(new.levels) or None, **crps}}


def _distributions(known: Predictions, new: Predictions) -> dict[str, Tensor]:
    """CRPS of every entry ``[M, H, N, C]`` in SI units."""
    found = {} if new.crps is None else {"model": new.crps}
    for by_node in (False, True):
        name = "_by_node" if by_node else ""
        normal = GaussianResiduals(by_node).fit(known.residual, known.mask)
        kept = EmpiricalResiduals(by_node, new.levels or 99).fit(known.residual, known.mask)
        found |= {f"gaussian{name}": normal.crps(new.mean, new.target, kept.levels),
                  f"empirical{name}": kept.crps(new.mean, new.target)}
        if not by_node:
            found["gaussian_exact"] = normal.crps(new.mean, new.target)
    return found


def _band_table(band: Band, new: Predictions, level: float, factor: Tensor, channels: slice
                ) -> dict[str, dict[str, float | None]]:
    low, high, target, mask = (one[..., channels] for one in (band.low, band.high, new.target, new.mask))
    scale = factor[channels]
    score = interval_score(low, high, target, level) / scale
    width, bounded = (high - low) / scale, torch.isfinite(high - low)
    inside = (target >= low) & (target <= high)
    table = {}
    for name, steps in _steps(mask.shape[1]).items():
        seen, finite = mask[:, steps], bounded[:, steps]
        infinite = masked_mean((~finite).double(), seen)
        cell = {"coverage": masked_mean(inside[:, steps].double(), seen),
                "width": masked_mean(width[:, steps], seen & finite),
                "score": math.inf if infinite else masked_mean(score[:, steps], seen)}
        table[name] = cell | ({"infinite": infinite} if infinite else {})
    return table


def _by_step(score: Tensor, mask: Tensor, channels: slice) -> dict[str, float | None]:
    return {name: masked_mean(score[:, steps, :, channels], mask[:, steps, :, channels])
            for name, steps in _steps(mask.shape[1]).items()}


def _steps(horizon: int) -> dict[str, slice]:
    return {**{str(step): slice(step - 1, step) for step in REPORTED if step <= horizon}, "all": slice(None)}


def _check_observed(known: Predictions) -> None:
    if not bool(known.mask.any(2).any(0).all()):
        raise InputError("nothing was observed at some step of the validation part", field="mask",
                         remedy="use more validation data")
