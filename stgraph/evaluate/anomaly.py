"""Which readings are out of the ordinary: residuals over their spread, against a threshold from validation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stgraph.errors import InputError

_NORMAL = 1.4826  # from the median absolute residual to the deviation of a normal


class AnomalyDetector:
    r"""Marks readings whose distance from the forecast is rare in the validation part.

    .. math:: score = |y - \hat y - b_{nc}| / s_{nc}, \qquad
              threshold = \text{the } \lceil (n + 1)(1 - rate) \rceil \text{-th smallest validation score}

    with ``b`` the median and ``s`` 1.4826 times the median absolute residual about it, for each node and channel, so
    that anomalies in the validation part itself hardly move them. Where test residuals are like those of validation,
    a share ``rate`` of the readings is marked, on average. With too few readings for the rate nothing is.

    Args:
        rate: Stated rate of false alarms, in (0, 1).
        least: Smallest spread, as a share of the median spread of all nodes of a channel: for nodes that stand still.

    Raises:
        InputError: for a rate outside (0, 1).
    """

    def __init__(self, rate: float = 0.01, least: float = 0.05) -> None:
        if not 0 < rate < 1:
            raise InputError("a rate lies between 0 and 1", field="rate", value=rate)
        self.rate, self.least = rate, least
        self.bias = self.spread = self.threshold = torch.zeros(0)

    def fit(self, residual: Tensor, mask: Tensor) -> AnomalyDetector:
        """Learn from validation residuals ``[M, N, C]``, one row a moment; a node without any is like the others.

        Raises:
            InputError: where a channel has no observed residual.
        """
        seen = torch.where(mask, residual.double(), math.nan)
        everywhere = seen.flatten(0, 1).nanmedian(0).values                                   # [C]
        if bool(everywhere.isnan().any()):
            raise InputError("a channel has no observed residual", field="mask", remedy="use more validation data")
        bias = seen.nanmedian(0).values                                                       # [N, C]
        self.bias = torch.where(bias.isnan(), everywhere, bias)
        spread = _NORMAL * (seen - self.bias).abs().nanmedian(0).values
        usual = spread.nanmedian(0).values
        usual = torch.where(usual > 0, usual, 1)
        self.spread = torch.maximum(torch.where(spread.isnan(), usual, spread), self.least * usual)
        scores = self.score(residual, mask).masked_fill(~mask, math.inf).flatten(0, 1).sort(0).values
        count = mask.sum((0, 1))
        rank = ((count + 1) * (1 - self.rate) - 1e-9).ceil().long()
        found = scores.gather(0, (rank - 1).clamp(min=0)[None].clamp(max=len(scores) - 1))[0]
        self.threshold = torch.where(rank > count, math.inf, found)                           # [C]
        return self

    def score(self, residual: Tensor, mask: Tensor) -> Tensor:
        """Scores ``[..., N, C]`` of residuals; 0 where nothing was observed."""
        return torch.where(mask, (residual.double() - self.bias).abs() / self.spread, 0)

    def flag(self, residual: Tensor, mask: Tensor) -> Tensor:
        """Whether each reading is out of the ordinary, ``[..., N, C]`` bool."""
        return self.score(residual, mask) > self.threshold
