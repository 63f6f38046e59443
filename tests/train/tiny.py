"""A tiny city and tiny models that train in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import Capabilities, Forecaster, Sizes
from stgraph.windows import City, Forecast, Window


def make_city(nodes: int = 4, days: int = 10, seed: int = 0, name: str = "tiny", channels: int = 1,
              hidden: float = 0.05, **options) -> City:
    """Hourly speeds with a daily wave, noise and some missing readings."""
    generator = np.random.default_rng(seed)
    rows = 24 * days
    wave = np.sin(np.arange(rows) * 2 * np.pi / 24)[:, None, None] * generator.uniform(2, 5, (1, nodes, channels))
    values = (20 + wave + generator.normal(0, 0.5, (rows, nodes, channels))).astype(np.float32)
    mask = generator.random(values.shape) >= hidden
    values[~mask] = 0
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, rows))
    graph["sensor"].node_id = np.array([f"{name}-{i}" for i in range(nodes)])
    graph.add_signal("sensor", "readings", Signal(values, mask, tuple(
        Channel(f"speed{i}" if i else "speed", "speed", "mph") for i in range(channels))))
    return City(graph, name=name, **({"history": 6, "horizon": 3} | options))


@dataclass
class TinyConfig:
    width: int = 8
    dropout: float = 0.2


class Tiny(Forecaster):
    """Every node by itself, scaled by the first city's mean and deviation; with dropout, so that noise matters."""

    name = "tiny"
    Config = TinyConfig

    def __init__(self, config: TinyConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.register_buffer("mean", torch.zeros(sizes.channels))
        self.register_buffer("deviation", torch.ones(sizes.channels))
        self.inside = nn.Linear(sizes.history * sizes.channels, config.width)
        self.outside = nn.Linear(config.width, sizes.horizon * sizes.channels)
        self.dropout = nn.Dropout(config.dropout)

    @classmethod
    def describe(cls, config: TinyConfig) -> Capabilities:
        return Capabilities(inductive=True)

    def prepare(self, city: City) -> None:
        self.mean.copy_(torch.from_numpy(city.context.mean))
        self.deviation.copy_(torch.from_numpy(city.context.deviation))

    def forward(self, window: Window) -> Forecast:
        x = torch.where(window.mask, (window.values - self.mean) / self.deviation, 0)
        h = self.dropout(torch.relu(self.inside(x.transpose(1, 2).flatten(2))))
        y = self.outside(h).unflatten(-1, (self.sizes.horizon, self.sizes.channels)).transpose(1, 2)
        return Forecast(y * self.deviation + self.mean)


class TinyTable(Tiny):
    """The same, tied to one network."""

    name = "tiny_table"

    @classmethod
    def describe(cls, config: TinyConfig) -> Capabilities:
        return Capabilities(inductive=False)


class TinyMean(Forecaster):
    """The mean of each channel, found by a formula."""

    name = "tiny_mean"
    Config = TinyConfig

    def __init__(self, config: TinyConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.register_buffer("mean", torch.zeros(sizes.channels))

    @classmethod
    def describe(cls, config: TinyConfig) -> Capabilities:
        return Capabilities(inductive=True, training="closed_form")

    def fit(self, city: City) -> None:
        self.mean.copy_(torch.from_numpy(city.context.mean))

    def forward(self, window: Window) -> Forecast:
        shape = (window.batch_size, window.horizon, *window.values.shape[2:])
        return Forecast(self.mean.expand(shape))


def make_model(city: City, kind: type[Forecaster] = Tiny, seed: int = 0, **config) -> Forecaster:
    """A new model with seeded first weights."""
    torch.manual_seed(seed)
    return kind.for_city(city, TinyConfig(**config))
