"""DCRNN: a recurrent encoder and decoder in which every matrix product is a diffusion convolution. Inductive.

Y. Li, R. Yu, C. Shahabi, Y. Liu: Diffusion Convolutional Recurrent Neural Network: Data-Driven Traffic Forecasting,
ICLR 2018. Different here:

* Both walks start from the features, and their powers are the paper's. In the authors' code the second walk starts from
  what the first one filtered, and polynomials stand in place of powers (``recurrence="chebyshev"`` gives these).
* Nodes without out-edges or in-edges have an empty row in the walk, where the code divides by zero.
* The day of the week is an input beside the time of day.
* The truth gives way to the model's own forecasts twenty times as fast (``truth_decay``), since runs are shorter; where
  the truth was not observed, the own forecast is fed back.
* The draws of scheduled sampling follow from a seed and the number of the training step, so a run that was resumed
  draws as if it had not stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.nn import ChannelScaler, GraphGRUCell
from stgraph.ops import Adjacency
from stgraph.windows import City, Forecast, Window


@dataclass
class DCRNNConfig:
    """Structure of DCRNN; the defaults are the paper's, but for ``truth_decay``."""

    width: int = 64  # of the state of each layer
    layers: int = 2  # recurrent layers of the encoder, and of the decoder
    steps: int = 2  # length K of the walks; 0: no edges, a recurrent unit that all nodes share
    recurrence: str = "power"  # power (the paper's) or chebyshev (the authors' code)
    self_loops: bool = True  # the paper's adjacency has an edge of weight 1 from each node to itself
    truth_decay: int = 100  # k of scheduled sampling; the paper's 2000 is for 40,000 steps; 0: never the truth


class RoadGraphs:
    """The edges of cities as compressed rows with weights, made once per city and device.

    Args:
        self_loops: Whether a node without an edge to itself gets one of weight 1.
    """

    def __init__(self, self_loops: bool) -> None:
        self.self_loops = self_loops
        self._kept: WeakKeyDictionary[City, dict[torch.device, tuple[Adjacency, Tensor]]] = WeakKeyDictionary()

    def of(self, city: City, device: torch.device) -> tuple[Adjacency, Tensor]:
        """The graph of ``N`` nodes and the weights ``[E]`` of its edges."""
        kept = self._kept.setdefault(city, {})
        if device not in kept:
            with torch.inference_mode(False):  # what is kept must serve a training too
                index, weight = city.edges
                own = torch.arange(city.num_nodes)
                own = own[~torch.isin(own, index[0, index[0] == index[1]])] if self.self_loops else own[:0]
                index = torch.cat([index, own.expand(2, -1)], 1)
                weight = torch.cat([weight, torch.ones(len(own))])
                graph = Adjacency.of_edges(index, city.num_nodes, city.num_nodes)
                kept[device] = graph.to(device), weight.to(device)
        return kept[device]


class ScheduledSampling(nn.Module):
    r"""When a decoder is given the truth in training instead of its own last forecast.

    In training step ``i`` with probability :math:`k / (k + e^{i / k})`, drawn for each wanted step of a batch
    (S. Bengio et al., Scheduled Sampling, NeurIPS 2015). The draws follow from :attr:`seed` and ``i`` alone; both are
    kept with the weights.

    Args:
        decay: ``k``: half of the steps see the truth at ``i = k log(k)``; 0: none ever does.

    Raises:
        InputError: for a negative ``k``.
    """

    step: Tensor
    seed: Tensor

    def __init__(self, decay: int) -> None:
        super().__init__()
        if decay < 0:
            raise InputError("the truth fades in a number of steps", field="truth_decay", value=decay,
                             remedy="give a number of steps, or 0 for never the truth")
        self.decay = decay
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("seed", torch.randint(2**31, ()))  # with the first weights, so it follows from their seed

    def probability(self, step: int) -> float:
        """Of the truth in one training step, counted from 0."""
        if self.decay == 0 or step > 500 * self.decay:  # the exponential would leave the range of floats
            return 0.0
        return self.decay / (self.decay + math.exp(step / self.decay))

    def draw(self, step: int, count: int) -> list[bool]:
        """Whether the truth is given after each of ``count`` wanted steps, in one training step."""
        drawn = np.random.default_rng((int(self.seed), step)).random(count)
        return (drawn < self.probability(step)).tolist()

    def forward(self, count: int) -> list[bool]:
        """The draws of this training step; the next call is the next one."""
        drawn = self.draw(int(self.step), count)
        self.step += 1
        return drawn


class DCRNN(Forecaster):
    """The encoder reads ``T`` steps; the decoder starts from its states and answers ``H``, each fed back as an input.

    A cell is ``z, r = sigmoid(G [x; h])``, ``c = tanh(G [x; r h])``, ``h' = z h + (1 - z) c``, where ``G`` mixes the
    features of a node with those ``1 .. K`` steps of a random walk away, along and against the edges. The decoder first
    reads zeros. No parameter's shape depends on nodes, history, horizon or interval. On a graph without edges every
    node is by itself.
    """

    name = "dcrnn"
    Config = DCRNNConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 5e-3, "weight_decay": 0.0, "batch_size": 16}

    def __init__(self, config: DCRNNConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        if config.layers < 1 or config.width < 1:
            raise InputError("there is at least one layer of one channel", field="layers, width",
                             value=f"{config.layers}, {config.width}", remedy="give 1 or more")
        self.embedding_width = config.width
        self.graphs = RoadGraphs(config.self_loops)
        self.scaler = ChannelScaler(sizes.channels, fixed=False)
        self.encoder, self.decoder = (nn.ModuleList(
            GraphGRUCell(inputs if layer == 0 else config.width, config.width, config.steps,
                         recurrence=config.recurrence)
            for layer in range(config.layers)) for inputs in (sizes.channels + 2, sizes.channels))
        self.head = nn.Linear(config.width, sizes.channels)
        self.sampling = ScheduledSampling(config.truth_decay)

    @classmethod
    def describe(cls, config: DCRNNConfig) -> Capabilities:
        """Inductive, for any horizon; edges are used where there are some."""
        return Capabilities(inductive=True, any_horizon=True)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units; in training the decoder may be told the target."""
        with torch.autocast(window.values.device.type, enabled=False):  # a recurrence adds up what 16 bits round off
            scaled = self.decode(window, self.encode(window))
        return Forecast(self.scaler.undo(scaled, window))

    def embed(self, window: Window) -> Tensor:
        """The state of each node after the last input step, ``[B, N, D]``."""
        return self.encode(window)[-1]

    def encode(self, window: Window) -> list[Tensor]:
        """States of all layers after the last input step, each ``[B, N, D]``."""
        graph, weight = self.graphs.of(window.city, window.values.device)
        h = self.scaler(window)                                                     # [B, T, N, C + 2]
        states = []
        for cell in self.encoder:  # layer by layer is the same as step by step: a layer never hears a later one
            assert isinstance(cell, GraphGRUCell)
            h = cell.sequence(h, graph, weight)                                     # [B, T, N, D]
            states.append(h[:, -1])
        return states

    def decode(self, window: Window, states: list[Tensor]) -> Tensor:
        """Forecasts in deviations, ``[B, H, N, C]``, from the states of all layers."""
        graph, weight = self.graphs.of(window.city, window.values.device)
        states, told = list(states), [False] * window.horizon
        if self.training and window.target is not None:
            assert window.target_mask is not None
            told = self.sampling(window.horizon)
            mean, deviation = self.scaler.numbers(window)
            truth, seen = (window.target - mean) / deviation, window.target_mask    # [B, H, N, C]
        given = states[0].new_zeros(*states[0].shape[:2], self.sizes.channels)      # [B, N, C]
        answers = []
        for step in range(window.horizon):
            h = given
            for layer, cell in enumerate(self.decoder):
                states[layer] = h = cell(h, graph, weight, state=states[layer])     # [B, N, D]
            given = self.head(h)                                                    # [B, N, C]
            answers.append(given)
            if told[step]:
                given = torch.where(seen[:, step], truth[:, step], given)
        return torch.stack(answers, 1)
