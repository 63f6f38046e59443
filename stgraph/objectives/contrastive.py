"""Contrast: two views of one window shall agree, and differ from what was seen at another time of day.

Each objective here asks the model for ``embed(window) -> [B, N, D]`` (:class:`stgraph.objectives.protocols.Embeds`)
and keeps the rest, projections and prototypes, among its own weights: nothing of it is there at inference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.errors import InputError
from stgraph.objectives.augmentations import augmentation
from stgraph.objectives.protocols import Embeds, require
from stgraph.objectives.views import seeded, uniform
from stgraph.windows import Window

_DAY = 1440  # minutes


def contrastive_loss(first: Tensor, second: Tensor, negative: Tensor, temperature: float) -> Tensor:
    r"""The loss of STGCL, averaged over the rows that have a negative; 0 where none has.

    .. math:: -\frac{1}{M} \sum_i \log \frac{\exp(s_{ii} / \tau)}{\sum_{j \in Neg(i)} \exp(s_{ij} / \tau)}

    with ``s`` the cosine between row ``i`` of one view and row ``j`` of the other.

    Args:
        first, second: ``[M, D]``.
        negative: ``[M, M]`` bool, True where ``j`` is a negative of ``i``; the diagonal never counts.
        temperature: ``tau``.
    """
    score = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T / temperature
    negative = negative & ~torch.eye(len(first), dtype=torch.bool, device=first.device)
    usable = negative.any(1)
    against = score.masked_fill(~negative, torch.finfo(score.dtype).min).logsumexp(1)
    each = torch.where(usable, against - score.diagonal(), 0)
    return each.sum() / usable.sum().clamp(min=1)


def far_in_time(minute: Tensor, limit: float) -> Tensor:
    """Whether two samples start at least ``limit`` minutes apart on the clock, whatever the day: ``[B] -> [B, B]``."""
    apart = (minute[:, None] - minute).abs()
    return torch.minimum(apart, _DAY - apart) >= limit


def sinkhorn(score: Tensor, sharpness: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments ``[M, K]`` of which each row sums to 1 and, the more iterations, each column to ``M / K``.

    M. Cuturi: Sinkhorn Distances, NIPS 2013; as in SwAV (M. Caron et al., NeurIPS 2020).

    Args:
        score: ``[M, K]``, how well row and cluster fit.
        sharpness: Weight of the entropy, ``epsilon``.
        iterations: Rounds of making columns, then rows, sum to what they should.
    """
    log = score / sharpness
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp()


class _Views(nn.Module, ABC):
    """What the objectives share: the other view, and the width of the model's vectors."""

    name = "contrast"

    def __init__(self, view: str, seed: int | None) -> None:
        super().__init__()
        self.augment, self.seed = augmentation(view), seed

    def prepare(self, model: nn.Module) -> None:
        """Make the weights that depend on the width of the model's vectors, once.

        Raises:
            InputError: for a model that gives no vectors.
        """
        require(model, Embeds, self.name)
        if not any(True for _ in self.parameters()):
            self.build(int(model.embedding_width))  # type: ignore[arg-type]

    @abstractmethod
    def build(self, width: int) -> None:
        """Make the weights for vectors ``[D]`` of this width."""

    def embed_twice(self, model: Embeds, window: Window) -> tuple[Tensor, Tensor]:
        """Vectors of the window and of its other view, ``[B, N, D]`` each; the targets are taken out of both."""
        if not any(True for _ in self.parameters()):
            raise ValueError(f"call prepare(model) before '{self.name}' is used")
        window = replace(window, target=None, target_mask=None)
        return model.embed(window), model.embed(self.augment(window, seeded(self.seed)))


class Contrast(_Views):
    """Contrast of samples or of nodes, with the negatives filtered by time of day.

    X. Liu, Y. Liang et al.: When Do Contrastive Learning Signals Help Spatio-Temporal Graph Forecasting? (STGCL),
    SIGSPATIAL 2022. A sample is a negative of another only where they start at least ``minutes`` apart on the clock;
    at node level, neighbours in the graph are no negatives either. Different here: the mean over nodes in place of the
    sum, LayerNorm in place of BatchNorm, and at node level at most ``anchors`` nodes of a batch, drawn at random.

    Args:
        level: ``graph``: one vector a sample; ``node``: one vector a node.
        view: Augmentations, joined by ``+``.
        temperature: Of the softmax.
        minutes: How far on the clock a negative must be.
        width: Length of the projected vectors.
        anchors: Nodes to contrast at most, at node level: the cost is its square.
        seed: Draw the same view whenever called; None draws from torch's generator.
    """

    def __init__(self, level: Literal["graph", "node"] = "graph", view: str = "mask", temperature: float = 0.1,
                 minutes: float = 60.0, width: int = 64, anchors: int = 1024, seed: int | None = None) -> None:
        super().__init__(view, seed)
        if level not in ("graph", "node"):
            raise InputError("unknown level", field="level", value=level, remedy="use graph or node")
        if not temperature > 0:
            raise InputError("must be positive", field="temperature", value=temperature)
        self.level, self.temperature, self.minutes = level, temperature, minutes
        self.width, self.anchors = width, anchors

    def build(self, width: int) -> None:
        """See :class:`_Views`."""
        self.projection = nn.Sequential(nn.Linear(width, self.width), nn.LayerNorm(self.width), nn.ReLU(),
                                        nn.Linear(self.width, self.width))

    def forward(self, model: Embeds, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{"contrast": scalar}``; 0 where there is no negative."""
        first, second = self.embed_twice(model, window)
        far = far_in_time(window.past.minute[:, 0], self.minutes)                             # [B, B]
        if self.level == "graph":
            first, second, negative = first.mean(1), second.mean(1), far
        else:
            nodes = first.shape[1]
            chosen = uniform((first.shape[0] * nodes,), first.device, seeded(self.seed)).argsort()[: self.anchors]
            sample, node = chosen // nodes, chosen % nodes
            first, second = first[sample, node], second[sample, node]
            negative = far[sample][:, sample] & ~_neighbours(window.city.edges[0].to(node), node, nodes)
        return {"contrast": contrastive_loss(self.projection(first), self.projection(second), negative,
                                             self.temperature)}


class TemporalContrast(_Views):
    """Is this node's state from the same moment as this summary of the city?

    J. Ji, J. Wang, C. Huang et al.: Spatio-Temporal Self-Supervised Learning for Traffic Flow Prediction (ST-SSL), AAAI
    2023. ``h = z * w1 + z' * w2`` of the two views, the summary ``sigmoid(mean over nodes of h)``, a bilinear
    discriminator and binary cross-entropy: positives are the nodes of the same sample, negatives those of another.
    Different here: ``w1``, ``w2`` are shared by all nodes, so that nothing is tied to one network, and a sample of
    the same time of day is no negative.

    Args:
        view: Augmentations, joined by ``+``.
        minutes: How far on the clock a negative must be.
        seed: As for :class:`Contrast`.
    """

    name = "temporal_contrast"

    def __init__(self, view: str = "mask+edges", minutes: float = 60.0, seed: int | None = None) -> None:
        super().__init__(view, seed)
        self.minutes = minutes

    def build(self, width: int) -> None:
        """See :class:`_Views`."""
        self.first, self.second = (nn.Parameter(torch.full((width,), 0.5)) for _ in range(2))
        self.judge = nn.Bilinear(width, width, 1)

    def forward(self, model: Embeds, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{"temporal_contrast": scalar}``; 0 where no sample has a negative."""
        one, other = self.embed_twice(model, window)
        state = one * self.first + other * self.second                                        # [B, N, D]
        summary = state.mean(1, keepdim=True).sigmoid().expand_as(state).contiguous()
        far = far_in_time(window.past.minute[:, 0], self.minutes)
        draw = uniform(far.shape, far.device, seeded(self.seed)).masked_fill(~far, -1.0)
        usable, partner = far.any(1), draw.argmax(1)                                          # one negative a sample
        same, differs = self.judge(state, summary)[..., 0], self.judge(state[partner], summary)[..., 0]
        each = (functional.softplus(-same) + functional.softplus(differs)).mean(1) / 2        # [B]
        return {"temporal_contrast": torch.where(usable, each, 0).sum() / usable.sum().clamp(min=1)}


class SpatialContrast(_Views):
    """Do two views of a node fall into the same cluster?

    ST-SSL (AAAI 2023), after SwAV (M. Caron et al., NeurIPS 2020): cosines with learned prototypes; the balanced soft
    assignment of one view (:func:`sinkhorn`, no gradient) is the target of the other, and the other way round.

    Args:
        clusters: Number of prototypes.
        view: Augmentations, joined by ``+``.
        temperature: Of the softmax over prototypes.
        sharpness: ``epsilon`` of the assignment.
        iterations: Rounds of balancing.
        width: Length of the projected vectors.
        seed: As for :class:`Contrast`.
    """

    name = "spatial_contrast"

    def __init__(self, clusters: int = 16, view: str = "mask+edges", temperature: float = 0.5, sharpness: float = 0.05,
                 iterations: int = 3, width: int = 64, seed: int | None = None) -> None:
        super().__init__(view, seed)
        if clusters < 2:
            raise InputError("clusters are at least two", field="clusters", value=clusters)
        self.clusters, self.temperature, self.width = clusters, temperature, width
        self.sharpness, self.iterations = sharpness, iterations

    def build(self, width: int) -> None:
        """See :class:`_Views`."""
        self.projection = nn.Linear(width, self.width)
        self.prototypes = nn.Parameter(nn.init.orthogonal_(torch.empty(self.clusters, self.width)))

    def forward(self, model: Embeds, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{"spatial_contrast": scalar}``."""
        prototypes = functional.normalize(self.prototypes, dim=1)
        one, other = (functional.normalize(self.projection(h).flatten(0, 1), dim=1) @ prototypes.T
                      for h in self.embed_twice(model, window))                               # [B N, K]
        with torch.no_grad():
            targets = [sinkhorn(score, self.sharpness, self.iterations) for score in (other, one)]
        losses = [-(target * (score / self.temperature).log_softmax(1)).sum(1).mean()
                  for target, score in zip(targets, (one, other), strict=True)]
        return {"spatial_contrast": (losses[0] + losses[1]) / 2}


def _neighbours(edges: Tensor, node: Tensor, nodes: int) -> Tensor:
    """Whether an edge joins two of the chosen nodes, in either direction: ``[M] -> [M, M]`` bool."""
    known = torch.cat([edges[0] * nodes + edges[1], edges[1] * nodes + edges[0]])
    return torch.isin(node[:, None] * nodes + node, known)
