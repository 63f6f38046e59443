"""Scores by the protocol of numbers: masked, on raw values, accumulated over all elements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

REPORTED = (3, 6, 12)


class MaskedErrors(Metric):
    """Sums of absolute, squared and relative errors per (horizon step, node, channel), and their counts.

    Every score is a ratio of these sums: MAE, RMSE (pooled, the root is taken last) and MAPE (in percent, over
    observed targets that are not zero). Nothing is averaged over batches. The sums add up over processes.

    Args:
        horizon: Steps ``H``.
        nodes: Nodes ``N``.
        channels: Channels ``C``.
    """

    full_state_update = False
    absolute: Tensor
    square: Tensor
    relative: Tensor
    count: Tensor
    nonzero: Tensor

    def __init__(self, horizon: int, nodes: int, channels: int) -> None:
        super().__init__()
        for name in ("absolute", "square", "relative", "count", "nonzero"):
            self.add_state(name, torch.zeros(horizon, nodes, channels, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, forecast: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add a batch; all ``[B, H, N, C]`` in the unit of the report, ``mask`` True where the target was observed."""
        error = torch.where(mask, forecast - target, 0).double()
        nonzero = mask & (target != 0)
        relative = torch.where(nonzero, error.abs() / target.double().abs().clamp(min=1e-12), 0)
        self.absolute += error.abs().sum(0)
        self.square += error.square().sum(0)
        self.relative += relative.sum(0)
        self.count += mask.sum(0)
        self.nonzero += nonzero.sum(0)

    def compute(self) -> dict[str, dict[str, float | None]]:
        """``{"3" | "6" | "12" | "all": {mae, rmse, mape}}``; ``all`` is the mean over all steps and elements."""
        return self.horizons()

    def horizons(self, channels: slice = slice(None)) -> dict[str, dict[str, float | None]]:
        """The scores of some channels together; a step beyond the horizon is left out."""
        steps = self.absolute.shape[0]
        table = {str(step): self.score(slice(step - 1, step), channels) for step in REPORTED if step <= steps}
        return {**table, "all": self.score(slice(None), channels)}

    def score(self, steps: slice, channels: slice = slice(None)) -> dict[str, float | None]:
        """MAE, RMSE and MAPE (percent) over some steps; None where nothing was observed."""
        absolute, square, relative, count, nonzero = (
            float(getattr(self, name)[steps, :, channels].sum())
            for name in ("absolute", "square", "relative", "count", "nonzero"))
        return {"mae": absolute / count if count else None, "rmse": (square / count) ** 0.5 if count else None,
                "mape": 100 * relative / nonzero if nonzero else None}

    def mae_by(self, axis: str, channels: slice = slice(None)) -> Tensor:
        """MAE per ``horizon`` step ``[H]`` or per ``node`` ``[N]``; NaN where nothing was observed."""
        over = {"horizon": (1, 2), "node": (0, 2)}[axis]
        return self.absolute[..., channels].sum(over) / self.count[..., channels].sum(over)


class SlicedErrors:
    """Absolute errors summed by groups of elements, such as the hour of the target.

    Args:
        names: Names of the groups in order.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.absolute = torch.zeros(len(names), dtype=torch.float64)
        self.count = torch.zeros(len(names), dtype=torch.float64)

    def update(self, error: Tensor, mask: Tensor, group: Tensor) -> None:
        """Add a batch: ``error`` and ``mask`` ``[B, H, N, C]``, ``group`` index ``[B, H]`` or ``[B, H, N, C]``."""
        absolute, count = torch.where(mask, error.abs(), 0).double(), mask.double()
        if group.dim() == 2:  # one group for all places of a step
            absolute, count = absolute.sum((2, 3)), count.sum((2, 3))
        size = len(self.names)
        self.absolute += torch.bincount(group.reshape(-1), absolute.reshape(-1), minlength=size)
        self.count += torch.bincount(group.reshape(-1), count.reshape(-1), minlength=size)

    def table(self) -> dict[str, dict[str, Any]]:
        """``{group: {mae, count}}`` of the groups with observed elements."""
        return {name: {"mae": float(total / count), "count": int(count)}
                for name, total, count in zip(self.names, self.absolute, self.count, strict=True) if count}
