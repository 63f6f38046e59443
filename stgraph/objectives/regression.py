"""Masked regression: the loss counts observed targets only, on de-scaled forecasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.windows import Forecast, Window

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": partial(functional.l1_loss, reduction="none"),
    "mse": partial(functional.mse_loss, reduction="none"),
    "huber": partial(functional.huber_loss, reduction="none"),
}


class MaskedRegression(nn.Module):
    r"""Mean absolute, squared, Huber or quantile error over the observed targets, each channel by its own deviation.

    Channels are divided by the deviation of their training rows, so that a channel of large numbers does not drown
    another; with one channel this only changes the scale of the loss. A batch without any observed target gives 0.

    ``quantile`` is the pinball loss of R. Koenker and G. Bassett (Regression Quantiles, Econometrica 1978), averaged
    over the levels that the model gives:

    .. math:: \rho_q(y, \hat y) = \max(q (y - \hat y), (q - 1) (y - \hat y))

    Args:
        kind: ``mae``, ``mse``, ``huber`` (threshold one deviation) or ``quantile``.
        channel_weights: How much each channel counts, ``C`` numbers, not negative; None for all alike. The loss is
            the weighted mean over the observed entries.

    Raises:
        InputError: for an unknown loss, or weights of which none is positive.
    """

    channel_weights: Tensor | None

    def __init__(self, kind: Literal["mae", "mse", "huber", "quantile"] = "mae",
                 channel_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if kind not in _LOSSES and kind != "quantile":
            raise InputError("unknown loss", field="loss", value=kind, remedy="use mae, mse, huber or quantile")
        if channel_weights is not None and not (min(channel_weights) >= 0 < sum(channel_weights) < float("inf")):
            raise InputError("weights of channels are not negative, and one is positive", field="channel_weights",
                             value=channel_weights)
        self.kind = kind
        weights = None if channel_weights is None else torch.tensor(list(channel_weights), dtype=torch.float32)
        self.register_buffer("channel_weights", weights, persistent=False)

    def forward(self, model: Forecaster, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{kind: scalar}``; with other types of nodes one each, ``{kind/type: scalar}``.

        Raises:
            InputError: where quantiles are asked of a model that gives none, or there is another number of channels.
        """
        answer = model(window)
        if not answer.others:
            return {self.kind: self._of(answer, window, model.name)}
        windows = {window.city.node_type: (answer, window)}
        for kind, found in answer.others.items():
            other = window.others[kind]
            assert isinstance(other, Window)
            windows[kind] = found, other
        return {f"{self.kind}/{kind}": self._of(found, other, model.name) for kind, (found, other) in windows.items()}

    def _of(self, answer: Forecast, window: Window, name: str) -> Tensor:
        """The loss of one type of nodes."""
        if window.target is None or window.target_mask is None:
            raise ValueError("a window without targets has no regression loss")
        scale = torch.from_numpy(window.city.context.deviation).to(window.target)
        target = window.target / scale
        if self.kind != "quantile":
            return self.loss(answer.mean / scale, target, window.target_mask)
        if answer.quantiles is None:
            raise InputError(f"the model '{name}' gives no quantiles", field="loss", value="quantile",
                             remedy="use a model with a quantile head, or another loss")
        return self.pinball(answer.quantiles / scale[:, None], answer.levels, target, window.target_mask)

    def loss(self, forecast: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean over the observed entries of ``[B, H, N, C]``."""
        each = _LOSSES[self.kind](torch.where(mask, forecast, 0), torch.where(mask, target, 0))
        return self._mean(each, mask)

    def pinball(self, quantiles: Tensor, levels: Sequence[float], target: Tensor, mask: Tensor) -> Tensor:
        """Mean over levels and observed entries; ``quantiles [B, H, N, C, Q]``, ``levels`` ``Q`` numbers in (0, 1)."""
        level = torch.tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
        above = torch.where(mask[..., None], target[..., None] - quantiles, 0)
        return self._mean(torch.maximum(level * above, (level - 1) * above).mean(-1), mask)

    def _mean(self, each: Tensor, mask: Tensor) -> Tensor:
        if self.channel_weights is None:
            return each.sum() / mask.sum().clamp(min=1)
        if len(self.channel_weights) != each.shape[-1]:
            raise InputError(f"there are {each.shape[-1]} channels", field="channel_weights",
                             value=self.channel_weights.tolist(), remedy="give one weight for each")
        total = (self.channel_weights * mask).sum()
        return (self.channel_weights * each).sum() / torch.where(total > 0, total, 1)
