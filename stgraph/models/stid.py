"""STID: identity vectors of place and time, and an MLP. No graph; the floor that every other model must beat.

Z. Shao, Z. Zhang, F. Wang, W. Wei, Y. Xu: Spatial-Temporal Identity, CIKM 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.nn import CalendarTable, ChannelScaler
from stgraph.windows import City, Forecast, Window


@dataclass
class STIDConfig:
    """Structure of STID; the defaults are the paper's."""

    width: int = 32  # of the window's code and of each identity vector
    layers: int = 3  # residual MLP blocks
    dropout: float = 0.15  # inside each block
    node_table: bool = True  # one learned vector a node: worth much, but ties the model to one network
    time_of_day: bool = True  # one learned vector for each slot of the day
    day_of_week: bool = True  # one learned vector for each day of the week


class ResidualMLP(nn.Module):
    """``h + W2 dropout(relu(W1 h))`` on the last axis ``[..., D]``."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Same shape."""
        return h + self.second(self.dropout(torch.relu(self.first(h))))


class STID(Forecaster):
    """Each node by itself: its window, its own vector, the slot of the day and the day of the week -> ``H`` steps.

    The calendar is that of the last input step, as in the paper.
    """

    name = "stid"
    Config = STIDConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 5e-3, "weight_decay": 1e-4, "batch_size": 32}

    def __init__(self, config: STIDConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        width = config.width
        self.scaler = ChannelScaler(sizes.channels, fixed=config.node_table)
        self.window = nn.Linear(sizes.history * (sizes.channels + 2), width)
        self.node = None
        if config.node_table:
            self.node = nn.Parameter(nn.init.xavier_uniform_(torch.empty(sizes.nodes or 0, width)))
        self.slot = CalendarTable(sizes.slots_per_day, width) if config.time_of_day else None
        self.weekday = CalendarTable(7, width, weekly=True) if config.day_of_week else None
        total = width * (1 + config.node_table + config.time_of_day + config.day_of_week)
        self.blocks = nn.Sequential(*(ResidualMLP(total, config.dropout) for _ in range(config.layers)))
        self.head = nn.Linear(total, sizes.horizon * sizes.channels)

    @classmethod
    def describe(cls, config: STIDConfig) -> Capabilities:
        """Inductive only without the node table."""
        return Capabilities(inductive=not config.node_table)

    def prepare(self, city: City) -> None:
        """Fit the scaler on the training rows."""
        self.scaler.fit(city)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        inputs = self.scaler(window)                                                # [B, T, N, C + 2]
        codes = [self.window(inputs.transpose(1, 2).flatten(2))]                    # [B, N, D]
        if self.node is not None:
            codes.append(self.node.expand_as(codes[0]))
        if self.slot is not None:
            codes.append(self.slot(window.past.slot[:, -1])[:, None].expand_as(codes[0]))
        if self.weekday is not None:
            codes.append(self.weekday(window.past.weekday[:, -1])[:, None].expand_as(codes[0]))
        h = self.blocks(torch.cat(codes, -1))                                       # [B, N, 4 D]
        y = self.head(h).unflatten(-1, (self.sizes.horizon, self.sizes.channels))   # [B, N, H, C]
        return Forecast(self.scaler.undo(y.transpose(1, 2), window))
