"""Each series of each window on a scale of its own, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stgraph.errors import InputError


@dataclass(frozen=True, eq=False)
class WindowScale:
    """The scale of each series of a batch of windows.

    Args:
        mean: ``[B, 1, N, C]``.
        deviation: ``[B, 1, N, C]``, more than 0.
        features: ``[B, N, 2 C]`` what scaling takes away, without a unit: where the mean lies among the city's readings
            (in deviations of the city), then the logarithm of the deviation over the city's.
    """

    mean: Tensor
    deviation: Tensor
    features: Tensor

    def apply(self, values: Tensor, mask: Tensor) -> Tensor:
        """Readings ``[..., B, L, N, C]`` on this scale; 0 where ``mask`` is False, whatever stands there."""
        return torch.where(mask, (values - self.mean) / self.deviation, 0)

    def undo(self, scaled: Tensor) -> Tensor:
        """Scaled values ``[..., B, L, N, C]`` back in the unit of the readings."""
        return scaled * self.deviation + self.mean


class WindowScaler(nn.Module):
    r"""Scales each series by its own mean and deviation over what the window shows of it.

    .. math:: z_t = (x_t - \mu) / \sigma, \qquad \mu = \operatorname{mean}_{t \in O} x_t, \qquad
              \sigma = \max(\operatorname{std}_{t \in O} x_t,\; \text{floor} \cdot \sigma_{city})

    with ``O`` the observed steps. A series without any observed step takes the city's numbers. A constant one does not
    get a deviation next to nothing, which would put a first spike after a quiet history out of reach: its deviation is
    a share of the city's. No gradient runs through the numbers. If all readings become ``a x + b``, ``a > 0``, the
    city's among them, the scaled values and the features stay the same, and only the mean and deviation follow.

    Idea: T. Kim et al.: Reversible Instance Normalization, ICLR 2022; without its learned scale and shift.

    Args:
        floor: Least deviation, as a share of the city's.

    Shapes:
        values, mask ``[B, T, N, C]``; mean, deviation of the city (or of each node over its training rows)
        ``[C]`` or ``[N, C]`` -> scaled values ``[B, T, N, C]`` and their :class:`WindowScale`.

    Raises:
        InputError: for a floor that is not in ``(0, 1]``.
    """

    def __init__(self, floor: float = 0.05) -> None:
        super().__init__()
        if not 0 < floor <= 1:
            raise InputError("the least deviation is a share of the city's", field="floor", value=floor,
                             remedy="choose it above 0 and up to 1")
        self.floor = floor

    def forward(self, values: Tensor, mask: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, WindowScale]:
        """Scaled readings, and what undoes it; ``mean`` and ``deviation`` are the city's."""
        scale = self.scale_of(values, mask, mean, deviation)
        return scale.apply(values, mask), scale

    @torch.no_grad()
    def scale_of(self, values: Tensor, mask: Tensor, mean: Tensor, deviation: Tensor) -> WindowScale:
        """The scale of each series."""
        count = mask.sum(1, keepdim=True)                                              # [B, 1, N, C]
        divisor, seen = count.clamp(min=1), count > 0
        own_mean = torch.where(seen, torch.where(mask, values, 0).sum(1, keepdim=True) / divisor, mean)
        departures = torch.where(mask, values - own_mean, 0)
        own = (departures.square().sum(1, keepdim=True) / divisor).sqrt()
        own = torch.where(seen, torch.maximum(own, self.floor * deviation), deviation)
        features = torch.cat([(own_mean - mean) / deviation, (own / deviation).log()], -1)
        return WindowScale(own_mean, own, features.squeeze(1))
