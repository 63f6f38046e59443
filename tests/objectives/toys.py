"""A small city with edges, and a model that offers everything an objective may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import Capabilities, Forecaster, Sizes
from stgraph.nn.learned_graph import SparseGraphLearner, find_candidates
from stgraph.windows import City, Forecast, Window


def toy_city(nodes: int = 6, days: int = 12, channels: int = 2, hidden: float = 0.1, seed: int = 0, step: int = 3600,
             **options: Any) -> City:
    """Readings with a daily wave, noise and gaps, on a ring of nodes with edges in both directions and loops."""
    rng = np.random.default_rng(seed)
    rows = days * 86_400 // step
    wave = np.sin(np.arange(rows)[:, None, None] * 2 * np.pi * step / 86_400 + rng.uniform(0, 6, (1, nodes, channels)))
    values = 20 + rng.uniform(-5, 5, (1, nodes, channels)) + 4 * wave + rng.normal(0, 0.5, (rows, nodes, channels))
    mask = rng.random(values.shape) >= hidden
    graph = DynamicHeteroGraph(time=TimeAxis(0, step, rows))
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(nodes)])
    around = np.arange(nodes)
    index = np.concatenate([[around, (around + 1) % nodes], [(around + 1) % nodes, around], [around, around]], 1)
    graph["sensor", "near", "sensor"].edge_index = torch.from_numpy(index)
    graph["sensor", "near", "sensor"].edge_weight = torch.from_numpy(rng.uniform(0.5, 1, index.shape[1])).float()
    graph.add_signal("sensor", "readings", Signal(
        np.where(mask, values, 0).astype(np.float32), mask,
        [Channel(f"speed {i}", "speed", "mph") for i in range(channels)]))
    return City(graph, **({"history": 8, "horizon": 4} | options))


@dataclass
class ToyConfig:
    width: int = 8
    levels: tuple[float, ...] = ()


class Mixer(nn.Module):
    """Each entry from itself, from the other steps of its series and from the other series of its step."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(inputs, width), nn.Linear(width, outputs)

    def states(self, x: Tensor) -> Tensor:
        h = self.inside(x)
        return torch.tanh(h + h.mean(1, keepdim=True) + h.mean(2, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.states(x))


class Toy(Forecaster):
    """It reads every tensor of the window, so that what is left in a window by mistake shows in the answer."""

    name = "toy"
    Config = ToyConfig

    def __init__(self, config: ToyConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        channels, width = sizes.channels, config.width
        self.embedding_width = width
        self.mixer = Mixer(3 * channels, channels, width)
        self.denoiser = Mixer(4 * channels + 1, channels, width)
        self.head = nn.Linear(width, sizes.horizon * channels * max(1, len(config.levels)))
        self.learner = SparseGraphLearner(2, k=2)

    @classmethod
    def describe(cls, config: ToyConfig) -> Capabilities:
        return Capabilities(inductive=True)

    def inputs(self, window: Window) -> Tensor:
        mean, deviation = (torch.from_numpy(n).to(window.values) for n in (window.city.context.mean,
                                                                           window.city.context.deviation))
        extra = torch.zeros_like(window.values)
        for one in (window.profile_past, window.target):
            if one is not None:
                extra = extra + one.mean()
        for value, _ in (window.lags or {}).values():
            extra = extra + value.mean()
        return torch.cat([(window.values - mean) / deviation, window.mask.to(window.values), extra], -1)

    def undo(self, scaled: Tensor, window: Window) -> Tensor:
        mean, deviation = (torch.from_numpy(n).to(scaled) for n in (window.city.context.mean,
                                                                    window.city.context.deviation))
        return scaled * deviation + mean

    def forward(self, window: Window) -> Forecast:
        last = self.mixer.states(self.inputs(window))[:, -1]                                  # [B, N, D]
        y = self.head(last).unflatten(-1, (self.sizes.horizon, self.sizes.channels, -1)).transpose(1, 2)
        if not self.config.levels:
            return Forecast(self.undo(y[..., 0], window))
        mean, deviation = (torch.from_numpy(n)[:, None] for n in (window.city.context.mean,
                                                                  window.city.context.deviation))
        quantiles = y * deviation + mean
        return Forecast(quantiles.mean(-1), quantiles, self.config.levels)

    def reconstruct(self, window: Window, hidden: Tensor) -> Tensor:
        return self.undo(self.mixer(self.inputs(window)), window)

    def embed(self, window: Window) -> Tensor:
        return self.mixer.states(self.inputs(window)).mean(1)

    def denoise(self, window: Window, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        at = time[:, None, None, None].expand(*noisy.shape[:3], 1)
        return self.denoiser(torch.cat([self.inputs(window), noisy, at], -1))

    def learned_graph(self, window: Window):
        level = torch.from_numpy(window.city.context.level)
        return self.learner(level[:, :2], find_candidates(level[:, :2], nearest=3, prior=1))


class Bare(Forecaster):
    """A model that forecasts and offers nothing else."""

    name = "bare"
    Config = ToyConfig

    def __init__(self, config: ToyConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.weight = nn.Parameter(torch.zeros(()))

    @classmethod
    def describe(cls, config: ToyConfig) -> Capabilities:
        return Capabilities(inductive=True)

    def forward(self, window: Window) -> Forecast:
        shape = (window.batch_size, window.horizon, *window.values.shape[2:])
        return Forecast(self.weight.expand(shape))
