"""Profile MLP: what is usual at this place and hour, corrected by what the last steps show. No graph, no node table.

A control of our own for transfer: everything it knows of a node comes from the node's profile over the days that are
given, so one set of weights runs on any city. The profile leaves each training row's own day out
(:mod:`stgraph.windows.context`); without that the row leaks into its own feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.models.controls import last_observed
from stgraph.windows import Calendar, Forecast, Window


@dataclass(frozen=True)
class ProfileMLPConfig:
    """Structure of the profile MLP."""

    width: int = 96  # of the hidden vector of each series
    layers: int = 3  # residual MLP blocks
    expansion: int = 2  # width inside a block, in widths
    dropout: float = 0.1  # inside each block
    harmonics: int = 4  # of the time of day


class Block(nn.Module):
    """``h + W2 dropout(relu(W1 norm(h)))`` on the last axis ``[..., D]``."""

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Same shape."""
        return h + self.second(self.dropout(torch.relu(self.first(self.norm(h)))))


class ProfileMLP(Forecaster):
    """Each node and channel is a series by itself; all share one MLP.

    It reads the last ``T`` steps as departures from the profile (in spreads) and about the node's level (in the
    node's deviations), what was observed, the profile of the past and of the wanted steps, the calendar, and how the
    node differs from its city. It answers, per series and step, with a gate ``g`` and a correction ``d``:
    ``g * profile + (1 - g) * last value + spread * d``.

    No parameter's shape depends on the number of nodes, channels or slots of a day; the number of input and output
    steps is fixed.
    """

    name = "profile_mlp"
    Config = ProfileMLPConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "weight_decay": 1e-4, "batch_size": 32}

    def __init__(self, config: ProfileMLPConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        features = 4 * sizes.history + sizes.horizon + 2 * config.harmonics + 7 + 3
        self.inside = nn.Linear(features, config.width)
        self.blocks = nn.Sequential(*(Block(config.width, config.expansion, config.dropout)
                                      for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.outside = nn.Linear(config.width, 2 * sizes.horizon)
        nn.init.zeros_(self.outside.weight)  # it starts from the mean of profile and last value
        nn.init.zeros_(self.outside.bias)

    @classmethod
    def describe(cls, config: Any) -> Capabilities:
        """Inductive; needs the profile."""
        return Capabilities(inductive=True, needs=frozenset({"profile"}), any_series=True)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        features = torch.cat(series_features(window, self.config.harmonics), -1)  # [B, N, C, F]
        return gated_answer(window, self.outside(self.norm(self.blocks(self.inside(features)))))


def series_features(window: Window, harmonics: int) -> list[Tensor]:
    """What the profile MLP knows of each series, ``[B, N, C, F]`` each, without a unit; its departures come first."""
    assert window.profile_past is not None, "the window was cut without a profile"
    assert window.profile_future is not None, "the window was cut without a profile"
    context = window.city.context
    level, scale, spread = (torch.from_numpy(value).to(window.values)[..., None]  # [N, C, 1]
                            for value in (context.level, context.scale, context.spread))
    past, future = window.profile_past.movedim(1, -1), window.profile_future.movedim(1, -1)  # [B, N, C, T or H]
    values, mask = window.values.movedim(1, -1), window.mask.movedim(1, -1)
    mean, deviation = (torch.from_numpy(value).to(values) for value in (context.mean, context.deviation))  # [C]
    place = torch.stack([(level[..., 0] - mean) / deviation, (scale[..., 0] / deviation).log(),
                         (spread[..., 0] / scale[..., 0]).log()], -1)  # [N, C, 3]
    clock = calendar_code(window.future, harmonics).to(values)[:, None, None]  # [B, 1, 1, K]
    return [torch.where(mask, (values - past) / spread, 0), torch.where(mask, (values - level) / scale, 0),
            mask.to(values), (past - level) / scale, (future - level) / scale,
            clock.expand(*values.shape[:3], -1), place.expand(len(values), -1, -1, -1)]


def gated_answer(window: Window, answer: Tensor) -> Forecast:
    """From a gate and a correction ``[B, N, C, 2 H]`` to ``g * profile + (1 - g) * last value + spread * d``."""
    assert window.profile_future is not None, "the window was cut without a profile"
    gate, correction = answer.chunk(2, -1)
    usual = window.profile_future.movedim(1, -1)  # [B, N, C, H]
    last, seen = last_observed(window)
    last = torch.where(seen[..., None], last[..., None], usual)
    spread = torch.from_numpy(window.city.context.spread).to(usual)[..., None]
    return Forecast((torch.lerp(last, usual, gate.sigmoid()) + spread * correction).movedim(-1, 1))


def calendar_code(calendar: Calendar, harmonics: int) -> Tensor:
    """Time of day as sines and cosines, and day of the week, of the first step: ``[B, 2 * harmonics + 7]``."""
    minute = calendar.minute[:, :1]
    angle = minute * torch.arange(1, harmonics + 1, device=minute.device) * (2 * math.pi / 1440)
    return torch.cat([angle.sin(), angle.cos(), functional.one_hot(calendar.weekday[:, 0], 7)], 1)
