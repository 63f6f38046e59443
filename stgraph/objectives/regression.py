"""Masked regression: the loss counts observed targets only, on de-scaled forecasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.windows import Window

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": partial(functional.l1_loss, reduction="none"),
    "mse": partial(functional.mse_loss, reduction="none"),
    "huber": partial(functional.huber_loss, reduction="none"),
}


class MaskedRegression(nn.Module):
    """Mean absolute, squared or Huber error over the observed targets, each channel by its own deviation.

    Channels are divided by the deviation of their training rows, so that a channel of large numbers does not drown
    another; with one channel this only changes the scale of the loss. A batch without any observed target gives 0.

    Args:
        kind: ``mae``, ``mse`` or ``huber`` (threshold one deviation).
    """

    def __init__(self, kind: Literal["mae", "mse", "huber"] = "mae") -> None:
        super().__init__()
        if kind not in _LOSSES:
            raise InputError("unknown loss", field="loss", value=kind, remedy="use mae, mse or huber")
        self.kind = kind

    def forward(self, model: Forecaster, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{kind: scalar}``."""
        if window.target is None or window.target_mask is None:
            raise ValueError("a window without targets has no regression loss")
        scale = torch.from_numpy(window.city.context.deviation).to(window.target)
        return {self.kind: self.loss(model(window).mean / scale, window.target / scale, window.target_mask)}

    def loss(self, forecast: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean over the observed entries of ``[B, H, N, C]``."""
        each = _LOSSES[self.kind](torch.where(mask, forecast, 0), torch.where(mask, target, 0))
        return each.sum() / mask.sum().clamp(min=1)
