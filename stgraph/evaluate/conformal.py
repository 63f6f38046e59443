"""Intervals with a promised coverage around any point forecast, from the residuals of the validation part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stgraph.errors import InputError


@dataclass(frozen=True)
class Band:
    """Intervals of a forecast, ``[M, H, N, C]`` each, in the unit of the forecast; a bound may be infinite."""

    low: Tensor
    high: Tensor


class SplitConformal:
    r"""Split conformal intervals per horizon step and channel: ``forecast +- q s``.

    .. math:: q_{hc} = \text{the } \lceil (n + 1) \, level \rceil \text{-th smallest of } |y - \hat y| / s

    over the ``n`` observed validation residuals of step ``h`` and channel ``c``, all nodes together. Where validation
    and test residuals are exchangeable, at least ``level`` of the test targets lie inside, on average, whatever their
    distribution (V. Vovk, A. Gammerman, G. Shafer: Algorithmic Learning in a Random World, 2005; J. Lei et al., JASA
    2018). With too few residuals for the level the interval is infinite.

    Args:
        level: Promised coverage, in (0, 1).
        scale: ``s``, ``[N, C]``, such as a node's spread over the training rows, so that quiet nodes get narrow
            intervals; None for 1.

    Raises:
        InputError: for a level outside (0, 1), or scales that are not positive.
    """

    def __init__(self, level: float = 0.9, scale: Tensor | None = None) -> None:
        _check(level, scale)
        self.level, self.scale = level, scale
        self.quantile = torch.zeros(0)

    def fit(self, residual: Tensor, mask: Tensor) -> SplitConformal:
        """Take validation residuals ``[M, H, N, C]`` in."""
        scores, count = _sorted(_by_origin(residual, mask, self.scale))
        self.quantile = _pick(scores, count, torch.full(count.shape, 1 - self.level, dtype=torch.float64))
        return self

    def interval(self, mean: Tensor) -> Band:
        """The intervals of point forecasts ``[M, H, N, C]``."""
        half = _half(self.quantile[:, None], self.scale)
        return Band(mean - half, mean + half)


class ConformalQuantiles:
    r"""Split conformal around a model's own interval: ``[low - q, high + q]``, wide where the model is unsure.

    .. math:: q_{hc} = \text{the } \lceil (n + 1) \, level \rceil \text{-th smallest of } \max(low - y, y - high)

    over the ``n`` observed validation targets of step ``h`` and channel ``c`` (Y. Romano, E. Patterson, E. Candès:
    Conformalized Quantile Regression, NeurIPS 2019). The promise is that of :class:`SplitConformal`; ``q`` is negative
    where the model's interval is too wide.

    Args:
        level: Promised coverage, in (0, 1).

    Raises:
        InputError: for a level outside (0, 1).
    """

    def __init__(self, level: float = 0.9) -> None:
        _check(level, None)
        self.level = level
        self.quantile = torch.zeros(0)

    def fit(self, low: Tensor, high: Tensor, target: Tensor, mask: Tensor) -> ConformalQuantiles:
        """Take validation intervals, targets and mask in, ``[M, H, N, C]`` each."""
        outside = torch.maximum(low.double() - target, target - high.double())
        scores, count = _sorted(torch.where(mask, outside, math.nan))
        self.quantile = _pick(scores, count, torch.full(count.shape, 1 - self.level, dtype=torch.float64))
        return self

    def interval(self, low: Tensor, high: Tensor) -> Band:
        """The intervals of own intervals ``[M, H, N, C]``; one that would be turned round is its middle."""
        half, middle = self.quantile[:, None], (low + high) / 2
        return Band(torch.minimum(low - half, middle), torch.maximum(high + half, middle))


class AdaptiveConformal:
    r"""Conformal intervals that follow a drift: wider after misses, narrower after hits.

    .. math:: \alpha_{t+1} = \alpha_t + \gamma \, (1 - level - err_t)

    (I. Gibbs, E. Candès: Adaptive Conformal Inference Under Distribution Shift, NeurIPS 2021), for each horizon step
    and channel; ``err_t`` is the share of nodes that were outside at origin ``t``. The interval of origin ``t`` is
    that of split conformal at level ``1 - alpha_t``; it is infinite where ``alpha_t <= 0`` and empty of width where
    ``alpha_t >= 1``. Whatever comes, the mean of ``err_t`` of step ``h`` over ``M`` origins differs from ``1 - level``
    by at most ``(1 + h gamma) / (gamma M)``: their proposition 4.1, with ``h`` for the delay.

    Origins are consecutive rows; the truth of step ``h`` (from 1) of an origin is known ``h`` origins later and is
    used from then on, not before.

    Args:
        level: Wanted coverage, in (0, 1).
        gamma: How quickly it follows.
        memory: Origins, the newest ones known, from which the residuals are taken; None keeps those of validation.
        refresh: Origins from one look at the newest residuals to the next.
        scale: As for :class:`SplitConformal`.

    Raises:
        InputError: for numbers out of range.
    """

    def __init__(self, level: float = 0.9, gamma: float = 0.01, memory: int | None = None, refresh: int = 96,
                 scale: Tensor | None = None) -> None:
        _check(level, scale)
        if not gamma > 0 or refresh < 1 or (memory is not None and memory < 1):
            raise InputError("must be positive", field="gamma, memory, refresh", value=(gamma, memory, refresh))
        self.level, self.gamma, self.memory, self.refresh, self.scale = level, gamma, memory, refresh, scale
        self.past = torch.zeros(0)

    def fit(self, residual: Tensor, mask: Tensor) -> AdaptiveConformal:
        """Take validation residuals ``[M, H, N, C]`` of consecutive origins in."""
        self.past = _by_origin(residual, mask, self.scale)
        return self

    def run(self, mean: Tensor, target: Tensor, mask: Tensor) -> Band:
        """Intervals of consecutive origins in order, ``[M, H, N, C]``; each from what was known before it only."""
        residual = torch.where(mask, target - mean, 0)
        new = _by_origin(residual, mask, self.scale)                                          # [M, H, N, C]
        origins, horizon, _, channels = new.shape
        alpha = torch.full((horizon, channels), 1 - self.level, dtype=torch.float64)
        sorted_scores, count = _sorted(self.past)
        quantiles = torch.empty((origins, horizon, channels), dtype=torch.float64)
        for origin in range(origins):
            if self.memory is not None and origin and origin % self.refresh == 0:
                sorted_scores, count = _sorted(self._known(new, origin))
            quantiles[origin] = _pick(sorted_scores, count, alpha)
            step = torch.arange(min(horizon, origin + 1))  # of these the truth has come in when the next one is due
            score = new[origin - step, step]                                                  # [h, N, C]
            seen = torch.isfinite(score)
            missed = ((score > quantiles[origin - step, step][:, None]) & seen).sum(1)
            change = self.gamma * (1 - self.level - missed / seen.sum(1).clamp(min=1))
            alpha[: len(step)] += torch.where(seen.any(1), change, 0)
        half = _half(quantiles[:, :, None], self.scale)
        return Band(mean - half, mean + half)

    def _known(self, new: Tensor, origin: int) -> Tensor:
        """Scores of the newest ``memory`` origins as they are known at an origin; the rest is NaN."""
        assert self.memory is not None
        kept = torch.cat([self.past, new[:origin]])[-self.memory:].clone()
        for step in range(1, kept.shape[1]):
            kept[max(0, len(kept) - step):, step] = math.nan
        return kept


def _check(level: float, scale: Tensor | None) -> None:
    if not 0 < level < 1:
        raise InputError("a coverage lies between 0 and 1", field="level", value=level)
    if scale is not None and not bool((scale > 0).all()):
        raise InputError("scales are positive", field="scale", value=float(scale.min()))


def _by_origin(residual: Tensor, mask: Tensor, scale: Tensor | None) -> Tensor:
    """Absolute residuals over the scale, NaN where nothing was observed, ``[M, H, N, C]`` float64."""
    score = residual.double().abs()
    if scale is not None:
        score = score / scale.to(score)
    return torch.where(mask, score, math.nan)


def _sorted(scores: Tensor) -> tuple[Tensor, Tensor]:
    """``[M, H, N, C]`` to rising ``[M N, H, C]`` with NaN last, and how many are none, ``[H, C]``."""
    flat = scores.movedim(2, 1).flatten(0, 1).sort(0).values
    return flat, torch.isfinite(flat).sum(0)


def _pick(scores: Tensor, count: Tensor, alpha: Tensor) -> Tensor:
    """The ``ceil((n + 1)(1 - alpha))``-th smallest score of each column, ``[H, C]``; infinite beyond the last."""
    rank = ((count + 1) * (1 - alpha) - 1e-9).ceil().long()  # a whole number is not pushed up by rounding
    found = scores.gather(0, (rank - 1).clamp(min=0, max=len(scores) - 1)[None])[0]
    found = torch.where(rank > count, math.inf, found)
    return torch.where(rank < 1, 0.0, found)


def _half(quantile: Tensor, scale: Tensor | None) -> Tensor:
    """Half widths: ``quantile [..., 1, C]`` times ``scale [N, C]``."""
    return quantile if scale is None else quantile * scale.double()
