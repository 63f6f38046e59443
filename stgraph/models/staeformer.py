"""STAEformer: a plain transformer over steps, then over nodes, on an embedding learned for every step and node.

H. Liu, Z. Dong, R. Jiang, J. Deng, J. Deng, Q. Chen, X. Song: Spatio-Temporal Adaptive Embedding Makes Vanilla
Transformer SOTA for Traffic Forecasting, CIKM 2023. Different here: the day of the week enters the input as a
fraction; a slot or weekday that training never showed is answered by the nearest one that it did; several channels are
read and answered together; the loss is the run's choice and counts observed targets only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.nn import CalendarTable, ChannelScaler, TemporalAttention
from stgraph.windows import City, Forecast, Window


@dataclass(frozen=True)
class STAEformerConfig:
    """Structure of STAEformer; the defaults are the paper's."""

    input_width: int = 24  # of the code of a reading and its clock
    slot_width: int = 24  # of the vector for the slot of the day
    weekday_width: int = 24  # of the vector for the day of the week
    adaptive_width: int = 80  # of the vector of each input step and node
    layers: int = 3  # over steps, and as many over nodes
    heads: int = 4  # attention heads; twice their number divides the sum of the widths
    hidden: int = 256  # inside the feed-forward part
    dropout: float = 0.1  # on what attention and feed-forward add


class Layer(nn.Module):
    """``h = norm(h + attention(h)); h = norm(h + mlp(h))`` along the second axis ``[B, L, G, D]``."""

    def __init__(self, width: int, config: STAEformerConfig) -> None:
        super().__init__()
        self.attention = TemporalAttention(width, config.heads)
        self.mlp = nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, width))
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Same shape."""
        nowhere = h.new_zeros(h.shape[1])  # no positions: plain attention, the adaptive embedding tells steps apart
        h = self.norm_attention(h + self.drop(self.attention(h, nowhere)))
        return self.norm_mlp(h + self.drop(self.mlp(h)))


class STAEformer(Forecaster):
    """Reading, clock and a vector of each step and node -> attention over steps, then over nodes -> ``H`` steps."""

    name = "staeformer"
    Config = STAEformerConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "weight_decay": 3e-4, "batch_size": 16}

    def __init__(self, config: STAEformerConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        if config.layers < 1:
            raise InputError("steps and nodes meet in layers only", field="layers", value=config.layers,
                             remedy="choose at least 1")
        width = config.input_width + config.slot_width + config.weekday_width + config.adaptive_width
        self.scaler = ChannelScaler(sizes.channels, fixed=True)
        self.inside = nn.Linear(sizes.channels + 2, config.input_width)
        self.slot = CalendarTable(sizes.slots_per_day, config.slot_width)
        self.weekday = CalendarTable(7, config.weekday_width, weekly=True)
        self.adaptive = nn.Parameter(nn.init.xavier_uniform_(
            torch.empty(sizes.history, sizes.nodes or 0, config.adaptive_width)))
        self.over_steps = nn.Sequential(*(Layer(width, config) for _ in range(config.layers)))
        self.over_nodes = nn.Sequential(*(Layer(width, config) for _ in range(config.layers)))
        self.head = nn.Linear(sizes.history * width, sizes.horizon * sizes.channels)

    @classmethod
    def describe(cls, config: STAEformerConfig) -> Capabilities:
        """Transductive, in the nodes and in the input steps."""
        return Capabilities(inductive=False)

    def prepare(self, city: City) -> None:
        """Fit the scaler on the training rows."""
        self.scaler.fit(city)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        inputs = self.scaler(window)                                                # [B, T, N, C + 2]
        batch, steps, nodes, _ = inputs.shape
        clock = [table(index.flatten()).view(batch, steps, 1, -1).expand(-1, -1, nodes, -1)
                 for table, index in ((self.slot, window.past.slot), (self.weekday, window.past.weekday))]
        h = torch.cat([self.inside(inputs), *clock, self.adaptive.expand(batch, -1, -1, -1)], -1)  # [B, T, N, D]
        h = self.over_steps(h)
        h = self.over_nodes(h.transpose(1, 2))                                      # [B, N, T, D]
        y = self.head(h.flatten(2)).unflatten(-1, (self.sizes.horizon, self.sizes.channels))       # [B, N, H, C]
        return Forecast(self.scaler.undo(y.transpose(1, 2), window))
