"""Heads: from states of nodes to quantiles, missing values, unseen places, classes, clusters and spreads.

States are ``h [B, S, N, D]`` (or ``[..., D]`` where a head works on the last axis alone). No shape of a weight depends
on the number of nodes, of steps, or on the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.errors import InputError
from stgraph.nn.time_patches import PatchValues
from stgraph.ops import Adjacency, spmm


class QuantileHead(nn.Module):
    r"""Quantiles that never cross: the one nearest the middle, and steps up and down from it.

    .. math:: q_m = w_m \cdot h, \quad q_{k+1} = q_k + \mathrm{softplus}(w_{k+1} \cdot h) \ (k \ge m), \quad
              q_{k-1} = q_k - \mathrm{softplus}(w_{k-1} \cdot h) \ (k \le m)

    Args:
        width: Width ``D`` of a state.
        channels: Channels ``C``.
        levels: ``Q`` levels in (0, 1), rising.

    Shapes:
        ``h [..., D]`` -> ``[..., C, Q]``, rising along the last axis.

    Raises:
        InputError: for levels that do not rise or lie outside (0, 1).
    """

    def __init__(self, width: int, channels: int, levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> None:
        super().__init__()
        bounds = [0.0, *levels, 1.0]
        if not levels or not all(low < high for low, high in pairwise(bounds)):
            raise InputError("levels rise between 0 and 1", field="levels", value=levels,
                             remedy="give them like 0.05, 0.5, 0.95")
        self.channels, self.levels = channels, tuple(levels)
        self.middle = min(range(len(levels)), key=lambda k: abs(levels[k] - 0.5))
        self.project = nn.Linear(width, channels * len(levels))

    def forward(self, h: Tensor) -> Tensor:
        """Quantiles."""
        raw = self.project(h).unflatten(-1, (self.channels, len(self.levels)))
        below, middle, above = raw.split([self.middle, 1, len(self.levels) - self.middle - 1], -1)
        down = functional.softplus(below).flip(-1).cumsum(-1).flip(-1)
        return torch.cat([middle - down, middle, middle + functional.softplus(above).cumsum(-1)], -1)


class ReconstructHead(nn.Module):
    """Tokens of a fixed duration back to the values of their steps, at any interval; and gaps filled with them.

    Args:
        width: Width ``D`` of a token.
        channels: Channels ``C``.
        minutes: Length of a token, as of the :class:`~stgraph.nn.TimePatches` that made them.
        resolution_minutes: Length of a cell of it.

    Shapes:
        tokens ``[B, S, N, D]`` -> ``[B, T, N, C]``.
    """

    def __init__(self, width: int, channels: int, minutes: float = 60, resolution_minutes: float = 5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.values = PatchValues(minutes, width, channels, resolution_minutes)

    def forward(self, h: Tensor, steps: int, step_minutes: float) -> Tensor:
        """Values of the ``steps`` steps that end with the last token."""
        return self.values(self.norm(h), steps, step_minutes)

    @staticmethod
    def impute(values: Tensor, mask: Tensor, answer: Tensor) -> Tensor:
        """Readings where they were observed, to the last bit, and the answer elsewhere; all ``[B, T, N, C]``."""
        return torch.where(mask, values, answer)


class KrigeHead(nn.Module):
    r"""Values of a place that shows none in the whole window, from those of the places around it.

    .. math:: \hat x_{tjc} = \frac{\sum_i \kappa_{ij} m_{tic} x_{tic}}{\sum_i \kappa_{ij} m_{tic}} + w \cdot
              [h_j, \sum_i \bar\kappa_{ij} h_i], \quad
              \kappa_{ij} = \exp(-\lambda d_{ij} + (Q s_j) \cdot (K s_i) / \sqrt{A})

    over the neighbours ``i`` of ``j`` other than ``j`` itself, with ``m`` what was observed, ``s`` the place codes and
    ``d`` distances. It starts as interpolation by distance, with a learned range: so a field that is constant is given
    back exactly, and every first answer lies between the neighbours' values. A place none of whose neighbours shows
    anything starts from 0, the mean of scaled values. A place's own values never enter.

    After S. Appleby, L. Liu, L.-P. Liu: Kriging Convolutional Networks, AAAI 2020 (learned weights of the neighbours'
    values); the kernel of place codes and distance is ours.

    Args:
        width: Width ``D`` of a state.
        place_width: Width ``P`` of a place code.
        channels: Channels ``C``.
        attention_width: ``A``.

    Shapes:
        states ``[B, L, N, D]``, place codes ``[N, P]``, scaled values and mask ``[B, L, N, C]``, edges ``[2, E]``
        int64 (from the place that is read to the place that is answered), distances ``[E]`` in any unit that the
        range is learned in -> ``[B, L, N, C]``, on the scale of the values.
    """

    def __init__(self, width: int, place_width: int, channels: int, attention_width: int = 16) -> None:
        super().__init__()
        self.query, self.key = (nn.Linear(place_width, attention_width, bias=False) for _ in range(2))
        nn.init.zeros_(self.query.weight)
        self.decay = nn.Parameter(torch.tensor(0.5413))  # softplus of it is 1
        self.correction = nn.Linear(2 * width, channels)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, h: Tensor, place: Tensor, values: Tensor, mask: Tensor, edges: Tensor,
                distance: Tensor) -> Tensor:
        """Values of every place as if it had shown none."""
        others = edges[0] != edges[1]
        edges, distance = edges[:, others], distance[others]
        kernel = self.kernel(place, edges, distance)
        graph = Adjacency.of_edges(edges, len(place), len(place))
        seen = mask.to(values)
        total = spmm(graph, torch.where(mask, values, 0), weight=kernel)
        count = spmm(graph, seen, weight=kernel)
        first = torch.where(count > 0, total / torch.where(count > 0, count, 1), 0)
        sums = torch.zeros(len(place), dtype=kernel.dtype, device=kernel.device).index_add(0, edges[1], kernel)
        around = spmm(graph, h, weight=kernel / sums[edges[1]])
        return first + self.correction(torch.cat([h, around], -1))

    def kernel(self, place: Tensor, edges: Tensor, distance: Tensor) -> Tensor:
        """``kappa [E]``, over the largest of each place so that it neither over- nor underflows."""
        alike = (self.query(place)[edges[1]] * self.key(place)[edges[0]]).sum(-1) * self.key.out_features ** -0.5
        log = alike - functional.softplus(self.decay) * distance.to(alike)
        top = log.detach().new_zeros(len(place)).scatter_reduce(0, edges[1], log.detach(), "amax", include_self=False)
        return (log - top[edges[1]]).exp()


class ClassificationHead(nn.Module):
    """Classes of nodes or of edges, from the states of all tokens.

    A node's state is the mean over its tokens plus the last one, normalised; an edge is judged from the states of its
    source and its target, in this order, and their product.

    Args:
        width: Width ``D`` of a state.
        classes: Number of classes ``K``.
        of: ``node`` or ``edge``.
        hidden: Width of the layer between.
        dropout: After that layer.

    Shapes:
        ``h [B, S, N, D]`` -> logits ``[B, N, K]``; for edges also ``edges [2, E]`` -> ``[B, E, K]``.

    Raises:
        InputError: for less than two classes, or classes of something else.
    """

    def __init__(self, width: int, classes: int, of: str = "node", hidden: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if classes < 2 or of not in ("node", "edge"):
            raise InputError("classes are at least two, of nodes or of edges", field="classes, of",
                             value=(classes, of), remedy="use of='node' or of='edge'")
        self.of = of
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width * (1 if of == "node" else 3), hidden), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(hidden, classes))

    def forward(self, h: Tensor, edges: Tensor | None = None) -> Tensor:
        """Logits."""
        state = self.norm(h.mean(1) + h[:, -1])                                               # [B, N, D]
        if self.of == "edge":
            if edges is None:
                raise InputError("classes of edges need edges", field="edges", remedy="give them as [2, E]")
            source, target = state[:, edges[0]], state[:, edges[1]]
            state = torch.cat([source, target, source * target], -1)
        return self.mlp(state)


class ClusterHead(nn.Module):
    r"""Unit vectors of nodes for clustering, and soft membership in learned clusters.

    .. math:: z = \frac{P h}{|P h|}, \quad
              p_k = \frac{\exp(z \cdot c_k / \tau)}{\sum_j \exp(z \cdot c_j / \tau)}, \quad |c_k| = 1

    Args:
        width: Width ``D`` of a state.
        clusters: Number of clusters ``K``.
        embedding: Length of the vectors.
        temperature: ``tau``.

    Shapes:
        ``h [..., D]`` -> vectors ``[..., embedding]`` of length 1 and memberships ``[..., K]`` that sum to 1.
    """

    def __init__(self, width: int, clusters: int = 8, embedding: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(width, embedding)
        self.centres = nn.Parameter(nn.init.orthogonal_(torch.empty(clusters, embedding)))
        self.temperature = temperature

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors and memberships."""
        z = functional.normalize(self.project(h), dim=-1)
        return z, (z @ functional.normalize(self.centres, dim=-1).T / self.temperature).softmax(-1)


class AnomalyHead(nn.Module):
    r"""How unusual a reading is: its distance from what was expected, over a spread that the state tells.

    .. math:: score = |x - \hat x| / s(h), \qquad L = \log s + \tfrac{1}{2} ((x - \hat x) / s)^2

    ``L`` is the negative logarithm of a normal density without its constant; it is least where ``s`` is the root mean
    square of the residual. Thresholds come from validation: :class:`stgraph.evaluate.anomaly.AnomalyDetector`.

    Args:
        width: Width ``D`` of a state.
        channels: Channels ``C``.
        least: Smallest spread, in the unit of the residuals.

    Shapes:
        ``h [..., D]``, residuals ``[..., C]`` -> ``[..., C]``.
    """

    def __init__(self, width: int, channels: int, least: float = 1e-3) -> None:
        super().__init__()
        self.project, self.least = nn.Linear(width, channels), least

    def spread(self, h: Tensor) -> Tensor:
        """``s``, more than 0."""
        return functional.softplus(self.project(h)) + self.least

    def forward(self, h: Tensor, residual: Tensor, mask: Tensor | None = None) -> Tensor:
        """The scores; 0 where nothing was observed."""
        score = residual.abs() / self.spread(h)
        return score if mask is None else torch.where(mask, score, 0)

    def loss(self, h: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
        """Mean of ``L`` over the observed entries; the residual is taken as given (no gradient goes into it)."""
        spread = self.spread(h)
        each = spread.log() + 0.5 * (torch.where(mask, residual.detach(), 0) / spread).square()
        return torch.where(mask, each, 0).sum() / mask.sum().clamp(min=1)
