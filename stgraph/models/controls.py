"""The four controls of every table: forecasts without a parameter, which a model must beat to be worth its name.

Each says for every entry whether it had what its name promises, or had to fall back on something plainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stgraph.models.base import Capabilities, Forecaster
from stgraph.windows import Forecast, Window


@dataclass(frozen=True)
class ControlConfig:
    """A control has no settings."""


class Control(Forecaster):
    """Base of the controls: no parameter, nothing to train, at home in any city."""

    Config = ControlConfig
    needs: frozenset[str] = frozenset()

    @classmethod
    def describe(cls, config: Any) -> Capabilities:
        """Inductive, any horizon, nothing to train."""
        return Capabilities(inductive=True, needs=cls.needs, training="none", any_horizon=True)

    def forecast_with_source(self, window: Window) -> tuple[Tensor, Tensor]:
        """The forecast ``[B, H, N, C]`` and, of the same shape, True where it fell back on something plainer."""
        raise TypeError(f"{type(self).__name__} has no forecast")

    def forward(self, window: Window) -> Forecast:
        """The forecast ``[B, H, N, C]`` in SI units."""
        return Forecast(self.forecast_with_source(window)[0])


class LastValue(Control):
    """The last observed reading of the window; a node without any shows its level over the fitted rows."""

    name = "last_value"

    def forecast_with_source(self, window: Window) -> tuple[Tensor, Tensor]:
        """See :class:`Control`."""
        value, seen = last_observed(window)
        return _spread_out(value, window.horizon), _spread_out(~seen, window.horizon)


class SameSlotYesterday(Control):
    """The reading at the same clock time on the (service) day before; else the last value."""

    name = "same_slot_yesterday"
    needs = frozenset({"lags"})

    def forecast_with_source(self, window: Window) -> tuple[Tensor, Tensor]:
        """See :class:`Control`."""
        return _lagged(window, "yesterday")


class SameSlotLastWeek(Control):
    """The reading at the same clock time a week before; else that of yesterday, else the last value."""

    name = "same_slot_last_week"
    needs = frozenset({"lags"})

    def forecast_with_source(self, window: Window) -> tuple[Tensor, Tensor]:
        """See :class:`Control`."""
        return _lagged(window, "last_week", "yesterday")


class SlotMean(Control):
    """Mean of (node, slot of the week) over the fitted rows; else of the slot of the day, else the node's level."""

    name = "slot_mean"

    def forecast_with_source(self, window: Window) -> tuple[Tensor, Tensor]:
        """See :class:`Control`."""
        rows = (window.origin[:, None] + torch.arange(window.horizon, device=window.origin.device)).cpu().numpy()
        mean, count = window.city.context.slot_mean(rows)
        return torch.from_numpy(mean).to(window.values), torch.from_numpy(count == 0).to(window.mask.device)


def last_observed(window: Window) -> tuple[Tensor, Tensor]:
    """The last observed reading of each node and channel, and whether there is one, each ``[B, N, C]``.

    Where none is observed the value is the node's level over the fitted rows.
    """
    steps = torch.arange(1, window.mask.shape[1] + 1, device=window.mask.device)
    last = (window.mask * steps[:, None, None]).amax(1)  # 1 + step of the last reading; 0 for none
    value = window.values.gather(1, (last - 1).clamp(min=0)[:, None])[:, 0]
    level = torch.from_numpy(window.city.context.level).to(value)
    return torch.where(last > 0, value, level), last > 0


def _lagged(window: Window, *lags: str) -> tuple[Tensor, Tensor]:
    """The first of the lags that is observed, else the last value; and where it is not the first."""
    assert window.lags is not None, "the window was cut without lags"
    mean = _spread_out(last_observed(window)[0], window.horizon)
    for name in reversed(lags):
        value, seen = window.lags[name]
        mean = torch.where(seen, value, mean)
    return mean, ~window.lags[lags[0]][1]


def _spread_out(value: Tensor, horizon: int) -> Tensor:
    """``[B, N, C]`` to ``[B, H, N, C]``."""
    return value[:, None].expand(-1, horizon, -1, -1)
