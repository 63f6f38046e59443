"""Graph WaveNet: gated dilated convolutions in time, diffusion on the given and on a learned graph between them.

Z. Wu, S. Pan, G. Long, J. Jiang, C. Zhang: Graph WaveNet for Deep Spatial-Temporal Graph Modeling, IJCAI 2019.
Different here:

* Every walk is ``P x`` as in the paper: a node collects what its row of ``P`` says. The authors' code multiplies with
  the transposes.
* Of every layer only the last step goes to the answer, and the last layer convolves on no graph: the code computes both
  and throws the rest away. Channels are mixed by one product for all walks, as there.
* Dilations of a block grow until the whole history is seen (1, 2 for 12 steps, as in the paper).
* The adaptive graph is dense up to 1000 nodes. Beyond, each node has a bounded number of candidates, those whose
  departures and whose days are most like its own, and the same softmax runs over these. Node vectors start at random.
* ``adaptive="learned"`` scores candidates by the profiles of both ends instead of vectors of nodes, and
  ``adaptive="none"`` leaves the learned graph out: both run on networks that were never seen.
* The day of the week is an input beside the time of day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.models.dcrnn import RoadGraphs
from stgraph.nn import (
    Candidates,
    ChannelScaler,
    DiffusionConvolution,
    GatedDilatedConvolution,
    LearnedGraph,
    SparseGraphLearner,
    find_candidates,
    residual_graph,
)
from stgraph.nn.graph.common import Kept
from stgraph.ops import Adjacency, gather_rows, spmm
from stgraph.windows import City, Forecast, Window

ADAPTIVE = ("auto", "dense", "sparse", "learned", "none")
MOST_DENSE = 1000  # nodes up to which all pairs are scored


@dataclass
class GraphWaveNetConfig:
    """Structure of Graph WaveNet; the defaults are the paper's."""

    width: int = 32  # of the state of a node at a step
    skip_width: int = 256  # of what the layers add up for the answer
    end_width: int = 512  # hidden width of the answer
    blocks: int = 4  # of layers with dilations 1, 2, 4, ..
    layers: int = 0  # of each block; 0: as few as see the whole history
    kernel: int = 2  # taps of a convolution in time
    steps: int = 2  # length of the walks
    dropout: float = 0.3  # on what comes over the graphs
    self_loops: bool = True  # the paper's adjacency has an edge of weight 1 from each node to itself
    adaptive: str = "auto"  # dense, sparse, auto (dense up to 1000 nodes): node vectors; learned: profiles; none
    node_width: int = 10  # of the two vectors of each node
    candidates: int = 16  # sparse, learned: by departures, and as many by profiles
    chosen: int = 8  # learned: edges a node gets


class Layer(nn.Module):
    """Gated convolution in time; what it gives at the last step goes to the answer, and over the graphs to the next.

    Shapes:
        ``x [B, S, N, D]`` -> ``[B, S - reach, N, D]`` (None from the last layer) and ``[B, N, skip_width]``.
    """

    def __init__(self, config: GraphWaveNetConfig, dilation: int, last: bool, adaptive: bool) -> None:
        super().__init__()
        width = config.width
        self.gated = GatedDilatedConvolution(width, config.kernel, dilation, padded=False)
        self.skip = nn.Linear(width, config.skip_width)
        self.last = last
        if not last:
            self.diffusion = DiffusionConvolution(width, width, config.steps)
            self.adaptive = None
            if adaptive and config.steps:
                limit = ((1 + 3 * config.steps) * width) ** -0.5
                self.adaptive = nn.Parameter(torch.empty(config.steps, width, width).uniform_(-limit, limit))
            self.norm = nn.BatchNorm1d(width)
            self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, graph: Adjacency, weight: Tensor, learned: Walk | None
                ) -> tuple[Tensor | None, Tensor]:
        """See the class."""
        g = self.gated(x)                                                           # [B, S', N, D]
        skip = self.skip(g[:, -1])                                                  # [B, N, skip_width]
        if self.last:
            return None, skip
        with torch.autocast(g.device.type, enabled=False):
            mixed = self.over_graphs(g.to(self.diffusion.weight.dtype), graph, weight, learned)
        x = x[:, -g.shape[1]:] + self.dropout(mixed)
        return self.norm(x.flatten(0, 2)).view(x.shape), skip

    def over_graphs(self, g: Tensor, graph: Adjacency, weight: Tensor, learned: Walk | None) -> Tensor:
        """``sum over walks P and k of P^k g W``, the walks being along and against the edges and the learned one."""
        mixed = self.diffusion(g, graph, weight)
        if self.adaptive is None or learned is None:
            return mixed
        powers = []
        for _ in self.adaptive:
            g = learned(g)
            powers.append(g)
        return mixed + torch.cat(powers, -1) @ self.adaptive.flatten(0, 1)


@dataclass
class Walk:
    """One step of a learned random walk.

    Args:
        matrix: ``[N, N]``, rows sum to 1; or ``[E]``, the numbers at the edges of ``graph``.
        graph: None for a dense matrix.
    """

    matrix: Tensor
    graph: Adjacency | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """``P x`` for ``x [B, S, N, D]``."""
        if self.graph is None:
            return torch.einsum("ij,bsjd->bsid", self.matrix, x)
        return spmm(self.graph, x, weight=self.matrix)


class GraphWaveNet(Forecaster):
    """Window -> layers of ``x + mix(tanh(F x) sigmoid(G x))`` -> all ``H`` steps at once from the last step."""

    name = "graph_wavenet"
    Config = GraphWaveNetConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "weight_decay": 1e-4, "batch_size": 32}
    source: Tensor
    allowed: Tensor

    def __init__(self, config: GraphWaveNetConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.kind = _kind(config, sizes)
        dilations = [2**layer for layer in range(_layers(config, sizes.history))] * config.blocks
        self.receptive_field = 1 + (config.kernel - 1) * sum(dilations)
        self.embedding_width = config.skip_width
        self.graphs = RoadGraphs(config.self_loops)
        self.scaler = ChannelScaler(sizes.channels, fixed=not self.describe(config).inductive)
        self.start = nn.Linear(sizes.channels + 2, config.width)
        self.layers = nn.ModuleList(Layer(config, dilation, place == len(dilations) - 1, self.kind != "none")
                                    for place, dilation in enumerate(dilations))
        self.end = nn.Sequential(nn.ReLU(), nn.Linear(config.skip_width, config.end_width), nn.ReLU(),
                                 nn.Linear(config.end_width, sizes.horizon * sizes.channels))
        if self.kind in ("dense", "sparse"):
            self.receiver, self.sender = (nn.Parameter(torch.randn(sizes.nodes or 0, config.node_width))
                                          for _ in range(2))
        if self.kind == "sparse":  # [N, K], found in prepare and kept with the weights
            self.register_buffer("source", torch.zeros(0, 0, dtype=torch.long))
            self.register_buffer("allowed", torch.zeros(0, 0, dtype=torch.bool))
            self._table = Kept()
        if self.kind == "learned":
            self.learner = SparseGraphLearner(sizes.channels * sizes.slots_per_day, config.chosen)
            self._found: WeakKeyDictionary[Any, dict[torch.device, tuple[Tensor, Candidates]]] = WeakKeyDictionary()

    @classmethod
    def describe(cls, config: GraphWaveNetConfig) -> Capabilities:
        """Inductive without vectors of nodes; edges are used where there are some."""
        return Capabilities(inductive=config.adaptive in ("learned", "none"))

    def prepare(self, city: City) -> None:
        """Fit the scaler on the training rows, and find candidates there."""
        self.scaler.fit(city)
        if self.kind == "sparse":
            found = _candidates(city, self.config)[1]
            own = torch.arange(city.num_nodes)[:, None]  # the paper's softmax has a place for the node itself
            device = self.start.weight.device
            self.source = torch.cat([own, found.source], 1).to(device)
            self.allowed = torch.cat([torch.ones_like(own, dtype=torch.bool), found.allowed], 1).to(device)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        y = self.end(self.embed(window)).unflatten(-1, (-1, self.sizes.channels))   # [B, N, H, C]
        return Forecast(self.scaler.undo(y.transpose(1, 2), window))

    def embed(self, window: Window) -> Tensor:
        """What the layers added up for each node, ``[B, N, skip_width]``."""
        graph, weight = self.graphs.of(window.city, window.values.device)
        learned = self.walk(window)
        x = self.scaler(window)                                                     # [B, T, N, C + 2]
        missing = self.receptive_field - x.shape[1]
        x = self.start(functional.pad(x, (0, 0, 0, 0, missing, 0)))                 # [B, receptive field, N, D]
        total = x.new_zeros(())
        for layer in self.layers:
            x, skip = layer(x, graph, weight, learned)
            total = total + skip
        return total

    # ---------------------------------------------------------------- the adaptive graph
    def walk(self, window: Window) -> Walk | None:
        """The learned random walk: ``softmax over senders j of ReLU(r_i . s_j)``, or a mean over the chosen senders."""
        if self.kind == "none":
            return None
        with torch.autocast(window.values.device.type, enabled=False):
            if self.kind == "dense":
                return Walk(torch.relu(self.receiver @ self.sender.T).softmax(1))
            if self.kind == "sparse":
                graph = self._table.get((self.source,), lambda: Candidates(self.source, self.allowed, self.allowed)
                                        .adjacency)
                sender = gather_rows(self.sender, self.source.flatten()).view(*self.source.shape, -1)  # [N, K, width]
                score = torch.relu((self.receiver[:, None] * sender).sum(-1))       # [N, K]
                return Walk(score.masked_fill(~self.allowed, -torch.inf).softmax(1).flatten(), graph)
            learned = self.learned_graph(window)
            given = learned.relation.weight
            assert given is not None
            weight = given.view(learned.candidates.source.shape)                    # [N, K], 1 where chosen
            return Walk((weight / weight.sum(1, keepdim=True).clamp(min=1)).flatten(), learned.relation.adjacency)

    def learned_graph(self, window: Window) -> LearnedGraph:
        """Candidates with scores from the profiles at both ends; the prior graph is that of alike departures.

        Raises:
            InputError: where the model's adaptive graph is of another kind.
        """
        if self.kind != "learned":
            raise InputError(f"the adaptive graph of this model is '{self.kind}' and has no prior", field="adaptive",
                             value=self.kind, remedy="use adaptive=learned")
        city, device = window.city, window.values.device
        kept = self._found.setdefault(city.context, {})
        if device not in kept:
            with torch.inference_mode(False):  # what is kept must serve a training too
                profile, candidates = _candidates(city, self.config)
                kept[device] = profile.to(device), candidates.to(device)
                _ = kept[device][1].adjacency
        return self.learner(*kept[device])


def _kind(config: GraphWaveNetConfig, sizes: Sizes) -> str:
    if config.adaptive not in ADAPTIVE:
        raise InputError("unknown choice", field="adaptive", value=config.adaptive,
                         remedy=f"use one of {', '.join(ADAPTIVE)}")
    if config.adaptive == "auto":
        return "dense" if (sizes.nodes or 0) <= MOST_DENSE else "sparse"
    return config.adaptive


def _layers(config: GraphWaveNetConfig, history: int) -> int:
    """Layers of a block: as wanted, if they see the whole history, or as few as do."""
    if config.blocks < 1 or config.kernel < 2 or config.layers < 0:
        raise InputError("there is a block, of convolutions of two taps or more", field="blocks, kernel, layers",
                         value=f"{config.blocks}, {config.kernel}, {config.layers}", remedy="choose others")
    layers = 1
    while 1 + (config.kernel - 1) * config.blocks * (2**layers - 1) < history:
        layers += 1
    if config.layers and config.layers < layers:
        raise InputError("the layers do not see the whole history", field="layers", value=config.layers,
                         remedy=f"{history} steps need {layers} layers in each of {config.blocks} blocks")
    return config.layers or layers


def _candidates(city: City, config: GraphWaveNetConfig) -> tuple[Tensor, Candidates]:
    """Daily profiles of the training rows ``[N, C * slots]``, and who may send to whom."""
    profile = city.context.day_profile() / city.context.deviation                   # [slots, N, C]
    vectors = torch.from_numpy(profile.transpose(1, 2, 0).reshape(city.num_nodes, -1).copy())
    alike = residual_graph(city, config.candidates).adjacency
    return vectors, find_candidates(vectors, config.candidates, given=alike)
