"""Scores of distributions: CRPS of samples, of quantiles and of a normal; coverage; the Gaussian-residual baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.windows import City, Forecast, PartBatches, loader

_LEAST = 1e-12


@dataclass(frozen=True)
class Predictions:
    """Point forecasts of consecutive origins and what came true, in SI units.

    Args:
        mean: ``[M, H, N, C]`` float64.
        target: ``[M, H, N, C]`` float64; 0 where nothing was observed.
        mask: ``[M, H, N, C]`` bool, True where the target was observed.
        origin: ``[M]`` int64 row of the first wanted step.
        crps: ``[M, H, N, C]`` float64 of the model's own distribution; None for a model without one.
        levels: Levels of its quantiles; empty for samples.
        low, high: ``[M, H, N, C]`` float64, the model's own central interval; None where it gives none.
    """

    mean: Tensor
    target: Tensor
    mask: Tensor
    origin: Tensor
    crps: Tensor | None = None
    levels: tuple[float, ...] = ()
    low: Tensor | None = None
    high: Tensor | None = None

    @property
    def residual(self) -> Tensor:
        """Target less forecast; 0 where nothing was observed."""
        return torch.where(self.mask, self.target - self.mean, 0)


def predictions(model: Forecaster, city: City, part: str, *, level: float = 0.9, batch_size: int = 64,
                device: str | torch.device = "cpu") -> Predictions:
    """Forecasts of every window of a part, in memory: ``M H N C`` numbers of 17 bytes, 41 with a distribution.

    Args:
        model: The forecaster.
        city: The city.
        part: ``train``, ``validation`` or ``test``.
        level: Coverage of the model's own interval, where it gives quantiles or samples.
        batch_size: Windows at a time.
        device: Where the model runs.

    Raises:
        InputError: where the model cannot answer for this city, or the part holds no window.
    """
    model.check(city)
    model = model.to(device).eval()
    batches = PartBatches(city, part, batch_size, model.capabilities.needs)
    if len(batches) == 0:
        raise InputError(f"the {part} part holds no window", field="split", value=city.split.rows(part),
                         remedy="choose another part or other shares")
    found: list[dict[str, Tensor]] = []
    levels: tuple[float, ...] = ()
    with torch.inference_mode():
        for window in loader(batches):
            assert window.target is not None
            assert window.target_mask is not None
            answer, target = model(window.to(device)), window.target.double()
            levels = answer.levels
            one = {"mean": answer.mean.cpu().double(), "target": target, "mask": window.target_mask,
                   "origin": window.origin}
            if answer.samples is not None:
                one["crps"] = crps_samples(answer.samples.cpu(), target)
            elif answer.quantiles is not None:
                one["crps"] = crps_quantiles(answer.quantiles.cpu(), answer.levels, target)
            if (band := central_interval(answer, level)) is not None:
                one["low"], one["high"] = (bound.cpu().double() for bound in band)
            found.append(one)
    return Predictions(**{name: torch.cat([one[name] for one in found]) for name in found[0]}, levels=levels)


def central_interval(answer: Forecast, level: float) -> tuple[Tensor, Tensor] | None:
    """Lower and upper bound ``[B, H, N, C]`` of a forecast's own central interval.

    Quantiles between two levels lie on a straight line. None for a point forecast, and where the outermost levels do
    not reach so far.
    """
    wanted = ((1 - level) / 2, (1 + level) / 2)
    if answer.samples is not None:
        low, high = torch.quantile(answer.samples.float(), answer.samples.new_tensor(wanted, dtype=torch.float32), 0)
        return low, high
    known = torch.tensor(answer.levels, dtype=torch.float64)
    if answer.quantiles is None or known[0] > wanted[0] + 1e-9 or known[-1] < wanted[1] - 1e-9:
        return None
    bounds = []
    for one in wanted:
        above = int(torch.searchsorted(known, one - 1e-9).clamp(1, len(known) - 1))
        share = float(((one - known[above - 1]) / (known[above] - known[above - 1])).clamp(0, 1))
        bounds.append(torch.lerp(answer.quantiles[..., above - 1], answer.quantiles[..., above], share))
    return bounds[0], bounds[1]


# -------------------------------------------------------------------- continuous ranked probability score
def crps_samples(samples: Tensor, target: Tensor) -> Tensor:
    r"""CRPS of the distribution of some samples, exactly, in ``O(S log S)``.

    .. math:: \int (F(z) - [y \le z])^2 dz
              = \frac{1}{S} \sum_i |x_i - y| - \frac{1}{S^2} \sum_i (2 i - S - 1) x_{(i)}

    with ``F`` the step function of the samples and ``x_(i)`` the samples in order (T. Gneiting, A. Raftery: Strictly
    Proper Scoring Rules, JASA 2007; the sorted form of F. Laio, S. Tamea, 2007). Of one sample it is the absolute
    error.

    Args:
        samples: ``[S, ...]``.
        target: ``[...]``.

    Returns:
        ``[...]`` float64, in the unit of the target.
    """
    ordered, size = samples.double().sort(0).values, len(samples)
    weight = (2 * torch.arange(1, size + 1, dtype=torch.float64, device=samples.device) - size - 1) / size**2
    spread = torch.einsum("s,s...->...", weight, ordered)
    return (ordered - target.double()).abs().mean(0) - spread


def crps_quantiles(quantiles: Tensor, levels: Sequence[float], target: Tensor) -> Tensor:
    r"""CRPS from quantiles: twice the pinball loss integrated over the levels, by the trapezoid rule.

    .. math:: CRPS = 2 \int_0^1 \rho_q(y, F^{-1}(q)) \, dq

    The loss of the first and last level stands for all levels beyond. With few levels this is an approximation, alike
    for all models that give the same ones.

    Args:
        quantiles: ``[..., Q]``.
        levels: ``Q`` levels in (0, 1), rising.
        target: ``[...]``.

    Returns:
        ``[...]`` float64.
    """
    total = torch.zeros_like(target, dtype=torch.float64)
    for level, share, quantile in zip(levels, _shares(levels), quantiles.unbind(-1), strict=True):  # to spare memory
        above = target.double() - quantile.double()
        total += share * torch.maximum(level * above, (level - 1) * above)
    return 2 * total


def _shares(levels: Sequence[float]) -> list[float]:
    """How much of the levels from 0 to 1 each one stands for."""
    level = torch.tensor(levels, dtype=torch.float64)
    bounds = torch.cat([level.new_zeros(1), (level[1:] + level[:-1]) / 2, level.new_ones(1)])
    return [float(share) for share in bounds.diff()]


def crps_gaussian(mean: Tensor, deviation: Tensor, target: Tensor) -> Tensor:
    r"""CRPS of a normal distribution in closed form (Gneiting and Raftery 2007, equation 21).

    .. math:: \sigma \left( z (2 \Phi(z) - 1) + 2 \varphi(z) - \pi^{-1/2} \right), \quad z = (y - \mu) / \sigma
    """
    spread = deviation.double().clamp(min=_LEAST)
    z = (target.double() - mean.double()) / spread
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return spread * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


# -------------------------------------------------------------------- intervals
def coverage(low: Tensor, high: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor | float | None]:
    """Share of the observed targets in ``[low, high]``; all ``[M, H, N, C]``.

    Returns:
        ``all`` (None where nothing was observed) and ``steps``, ``[H]`` (NaN where a step has no observation).
    """
    inside = ((target >= low) & (target <= high) & mask).sum((0, 2, 3)).double()
    count = mask.sum((0, 2, 3)).double()
    return {"all": float(inside.sum() / count.sum()) if count.sum() else None, "steps": inside / count}


def interval_score(low: Tensor, high: Tensor, target: Tensor, level: float) -> Tensor:
    r"""Winkler's score: the width of an interval, and a fine of ``2 / (1 - level)`` times what it missed by."""
    missed = (low - target).clamp(min=0) + (target - high).clamp(min=0)
    return high - low + 2 / (1 - level) * missed


def masked_mean(score: Tensor, mask: Tensor) -> float | None:
    """Mean over the observed entries; None where there are none."""
    count = int(mask.sum())
    return float(torch.where(mask, score, 0).sum(dtype=torch.float64) / count) if count else None


class GaussianResiduals:
    """The plainest forecast distribution: the point forecast plus a normal with the moments of validation residuals.

    Any probabilistic model must beat its CRPS to be worth its cost.

    Args:
        by_node: Moments for each horizon step, node and channel; else for each horizon step and channel.
    """

    def __init__(self, by_node: bool = False) -> None:
        self.by_node = by_node
        self.bias = self.deviation = torch.zeros(0)

    def fit(self, residual: Tensor, mask: Tensor) -> GaussianResiduals:
        """Take the moments of residuals ``[M, H, N, C]``; a place without any takes those of all places.

        Raises:
            InputError: where a channel has no observed residual at some step.
        """
        _check_observed(mask)
        pooled = _moments(residual, mask, (0, 2))
        bias, deviation, count = _moments(residual, mask, (0,)) if self.by_node else pooled
        few = count < 2
        self.bias = torch.where(few, pooled[0], bias)[0]
        self.deviation = torch.where(few, pooled[1], deviation)[0]
        return self

    def crps(self, mean: Tensor, target: Tensor, levels: Sequence[float] = ()) -> Tensor:
        """CRPS of every entry ``[M, H, N, C]`` of a point forecast; at some levels alone where these are given, to
        compare with a model that has no others."""
        if not levels:
            return crps_gaussian(mean + self.bias, self.deviation, target)
        z = math.sqrt(2) * torch.erfinv(2 * torch.tensor(levels, dtype=torch.float64) - 1)
        return _crps_around(mean, self.bias + self.deviation * z.view(-1, 1, 1, 1), levels, target)

    def interval(self, mean: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the central interval."""
        half = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64))) * self.deviation
        centre = mean + self.bias
        return centre - half, centre + half


class EmpiricalResiduals:
    """The point forecast plus the validation residuals themselves, by their quantiles: no normal is assumed.

    Where residuals have heavy tails this is a much harder baseline than :class:`GaussianResiduals`.

    Args:
        by_node: Quantiles for each horizon step, node and channel; else for each horizon step and channel.
        levels: ``Q`` levels in (0, 1), rising, or their number, evenly spaced: ``(k + 1/2) / Q``.
    """

    def __init__(self, by_node: bool = False, levels: int | Sequence[float] = 99) -> None:
        self.by_node = by_node
        self.levels = [(k + 0.5) / levels for k in range(levels)] if isinstance(levels, int) else list(levels)
        if not self.levels:
            raise InputError("there is at least one level", field="levels", value=levels)
        self.offset = torch.zeros(0)

    def fit(self, residual: Tensor, mask: Tensor) -> EmpiricalResiduals:
        """Take the quantiles of residuals ``[M, H, N, C]``; a place without any takes those of all places.

        Raises:
            InputError: where a channel has no observed residual at some step.
        """
        _check_observed(mask)
        seen = torch.where(mask, residual.double(), math.nan)
        pooled = _quantiles(seen.movedim(2, 1).flatten(0, 1), self.levels)[:, :, None]         # [Q, H, 1, C]
        self.offset = pooled
        if self.by_node:
            own = _quantiles(seen, self.levels)
            self.offset = torch.where(own.isnan(), pooled, own)
        return self

    def crps(self, mean: Tensor, target: Tensor) -> Tensor:
        """CRPS of every entry ``[M, H, N, C]`` of a point forecast."""
        return _crps_around(mean, self.offset, self.levels, target)


def _crps_around(mean: Tensor, offset: Tensor, levels: Sequence[float], target: Tensor) -> Tensor:
    """CRPS of quantiles ``mean + offset [Q, ...]``, level by level to spare memory."""
    above, total = target.double() - mean.double(), torch.zeros_like(target, dtype=torch.float64)
    for level, share, one in zip(levels, _shares(levels), offset, strict=True):
        missed = above - one
        total += share * torch.maximum(level * missed, (level - 1) * missed)
    return 2 * total


def _check_observed(mask: Tensor) -> None:
    if not bool(mask.any(2).any(0).all()):
        raise InputError("no residual is observed at some step of the horizon", field="mask",
                         remedy="use more validation data")


def _quantiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles ``[Q, ...]`` over the first axis of what is not NaN; NaN where there is nothing."""
    ordered = values.sort(0).values
    last = (~ordered.isnan()).sum(0) - 1
    place = torch.tensor(levels, dtype=torch.float64).view(-1, *[1] * last.dim()) * last
    low = place.floor().long().clamp(min=0)
    bottom, top = ordered.gather(0, low), ordered.gather(0, torch.minimum(low + 1, last.clamp(min=0)))
    return bottom + (place - low) * (top - bottom)


def _moments(residual: Tensor, mask: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, deviation and count over some axes, which stay as 1."""
    seen = torch.where(mask, residual, 0).double()
    count = mask.sum(over, keepdim=True)
    mean = seen.sum(over, keepdim=True) / count.clamp(min=1)
    square = torch.where(mask, seen - mean, 0).square().sum(over, keepdim=True)
    return mean, (square / count.clamp(min=1)).sqrt(), count
