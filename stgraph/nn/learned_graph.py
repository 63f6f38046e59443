"""Graphs that are found in the data: of correlated series, and learned and sampled with ``k`` edges a node.

Neither ever holds a number for each pair of nodes: neighbours are searched in blocks of rows, and only the ``K``
candidates of a node are scored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.errors import InputError
from stgraph.nn.message_passing import Relation, TypedMessagePassing
from stgraph.ops import Adjacency, gather_rows

if TYPE_CHECKING:
    from stgraph.windows import City

_BLOCK_BYTES = 64 * 2**20
_NEVER = -3e4  # a score that is never chosen, and fits 16 bits
_FLAT = 1e-6  # of a series' size: a deviation below it is rounding


# -------------------------------------------------------------------- neighbours without N x N numbers
def most_similar(vectors: Tensor, count: int, common: Tensor | None = None, least: float = 1.0,
                 block_bytes: int = _BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """For each row the other rows with the largest products, exactly, in blocks of rows of bounded memory.

    Args:
        vectors: ``[N, F]`` float.
        count: How many; cut down to ``N - 1``.
        common: ``[N, F]`` of 0 and 1: a product is divided by the number of entries that both rows have, and pairs
            with fewer than ``least`` come last, as -1; None: not divided.
        least: See ``common``.
        block_bytes: Memory of a block of products.

    Returns:
        Similarities ``[N, K]``, largest first, and rows ``[N, K]`` int64. Equal ones come in the order of
        :func:`torch.topk`, the same in every call.
    """
    nodes = len(vectors)
    count = min(count, nodes - 1)
    similarity = vectors.new_empty((nodes, max(count, 0)))
    index = torch.empty((nodes, max(count, 0)), dtype=torch.long, device=vectors.device)
    if count < 1:
        return similarity, index
    size = max(1, block_bytes // (nodes * vectors.element_size()))
    for first in range(0, nodes, size):
        rows = slice(first, min(first + size, nodes))
        product = vectors[rows] @ vectors.T                                                   # [rows, N]
        if common is not None:
            both = common[rows] @ common.T
            product = torch.where(both >= least, product / both.clamp(min=1), -1.0)
        here = torch.arange(rows.start, rows.stop, device=vectors.device)
        product[here - first, here] = -torch.inf  # nobody is its own neighbour
        similarity[rows], index[rows] = product.topk(count)
    return similarity, index


def unit_profiles(profile: Tensor | np.ndarray) -> Tensor:
    """Profiles ``[N, F]`` about their means and of length 1, so that products are correlations; flat ones become 0."""
    vectors = torch.as_tensor(profile).float()
    vectors = vectors - vectors.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    flat = length <= _FLAT * torch.as_tensor(profile).float().norm(dim=1, keepdim=True)
    return torch.where(flat, 0.0, vectors / torch.where(flat, 1.0, length))


def correlation_graph(values: np.ndarray | Tensor, mask: np.ndarray | Tensor | None, k: int,
                      rows: tuple[int, int], least: float = 0.1, block_bytes: int = _BLOCK_BYTES) -> Relation:
    """Edges to each node from the ``k`` whose series correlate most with its own, weighted by the correlation.

    Each series is standardised over its observed rows; the correlation of two is the mean product over the rows that
    both have, channels together. Only positive correlations make an edge, so a constant or dead series has none.

    Args:
        values: ``[T, N]`` or ``[T, N, C]``: departures from the profile; of raw readings the day alone would correlate.
        mask: Of the same shape, True where observed; None: everywhere.
        k: Edges per node at most.
        rows: First row and row after the last that may be looked at: the training rows.
        least: Share of these rows that a pair must have in common.
        block_bytes: Memory of a block of products.

    Returns:
        The relation, on ``N`` nodes, with weights ``[E]`` in ``(0, 1]``.

    Raises:
        InputError: where ``rows`` are no rows of the series.
    """
    start, stop = rows
    if not 0 <= start < stop <= len(values):
        raise InputError("there are no such rows", field="rows", value=f"{start} to {stop - 1}",
                         remedy=f"the series has rows 0 to {len(values) - 1}")
    series = torch.as_tensor(values[start:stop]).float()
    series = series.reshape(*series.shape[:2], -1)                                            # [T, N, C]
    seen = torch.ones_like(series, dtype=torch.bool) if mask is None else \
        torch.as_tensor(mask[start:stop]).reshape(series.shape)
    series = torch.where(seen, series, 0.0)
    count = seen.sum(0).clamp(min=1)                                                          # [N, C]
    mean = series.sum(0) / count
    series = torch.where(seen, series - mean, 0.0)
    deviation = (series.square().sum(0) / count).sqrt()
    flat = deviation <= _FLAT * mean.abs().clamp(min=_FLAT)
    series = torch.where(flat, 0.0, series / torch.where(flat, 1.0, deviation))
    vectors = series.permute(1, 2, 0).reshape(series.shape[1], -1)                            # [N, C T]
    if bool(seen.all()):
        similarity, index = most_similar(vectors / vectors.shape[1] ** 0.5, k, block_bytes=block_bytes)
    else:
        common = seen.permute(1, 2, 0).reshape(vectors.shape).float()
        similarity, index = most_similar(vectors, k, common, max(1.0, least * vectors.shape[1]), block_bytes)
    kept = similarity > 0
    rowptr = functional.pad(kept.sum(1).cumsum(0), (1, 0))
    return Relation(Adjacency(rowptr, index[kept], columns=len(vectors)), similarity[kept].clamp(max=1.0))


def residual_graph(city: City, k: int = 8, most_rows: int = 4096) -> Relation:
    """The :func:`correlation_graph` of a city's departures from its profile, over the rows its context was fitted on.

    Args:
        city: The city.
        k: Edges per node at most.
        most_rows: Rows looked at, evenly spaced over the fitted ones.
    """
    context = city.context
    chosen = np.unique(np.linspace(context.start, context.stop - 1, min(most_rows, context.stop - context.start))
                       .round().astype(np.int64))
    departure = np.empty((len(chosen), *city.signal.shape[1:]), np.float32)
    seen = np.empty(departure.shape, bool)
    size = max(1, _BLOCK_BYTES // (4 * departure[0].size))
    for first in range(0, len(chosen), size):
        part = slice(first, first + size)
        low, high = int(chosen[part][0]), int(chosen[part][-1]) + 1
        values, mask = city.signal.read(low, high)
        values, mask = values[chosen[part] - low], mask[chosen[part] - low]
        seen[part] = mask
        departure[part] = np.where(mask, values - context.profile(chosen[part], (values, mask)), 0)
    return correlation_graph(departure, seen, k, (0, len(chosen)))


# -------------------------------------------------------------------- candidates of a learned graph
@dataclass(frozen=True)
class Candidates:
    """Which edges a learned graph may choose from: ``K`` places for each of ``N`` nodes.

    Args:
        source: ``[N, K]`` int64 node at the other end; 0 in an empty place.
        allowed: ``[N, K]`` bool, False in an empty place.
        prior: ``[N, K]`` bool, whether the edge is one of the prior graph.
    """

    source: Tensor
    allowed: Tensor
    prior: Tensor

    @cached_property
    def adjacency(self) -> Adjacency:
        """All places as edges, row after row."""
        nodes, places = self.source.shape
        rowptr = torch.arange(nodes + 1, dtype=torch.int32, device=self.source.device) * places
        return Adjacency(rowptr, self.source.flatten().to(torch.int32), columns=nodes)

    def to(self, device: torch.device | str) -> Candidates:
        """On another device."""
        return replace(self, source=self.source.to(device), allowed=self.allowed.to(device),
                       prior=self.prior.to(device))


def find_candidates(profile: Tensor | np.ndarray, nearest: int = 16, prior: int = 8, given: Adjacency | None = None,
                    random: int = 0, seed: int = 0, block_bytes: int = _BLOCK_BYTES) -> Candidates:
    """The nodes of most similar profiles, the given neighbours, and some at random; each once, never the node itself.

    Args:
        profile: ``[N, F]`` descriptor of each node: its daily profile of the training rows, or pooled states.
        nearest: Candidates by correlation of profiles.
        prior: How many of these, the most similar ones, make the prior graph; with ``given``, its edges do instead.
        given: A known relation on the same nodes; of each node the first ``nearest`` in-edges are taken.
        random: Candidates at random.
        seed: Of these.
        block_bytes: Memory of a block of products.

    Raises:
        InputError: where ``given`` is a relation of other nodes.
    """
    vectors = unit_profiles(profile)
    nodes = len(vectors)
    similarity, source = most_similar(vectors, nearest, block_bytes=block_bytes)
    wanted = (torch.arange(source.shape[1], device=source.device) < prior) & (similarity > 0)
    wanted = wanted & (given is None)
    columns, flags, allowed = [source], [wanted], [torch.ones_like(wanted)]
    if given is not None:
        if (given.rows, given.columns) != (nodes, nodes):
            raise InputError("the given relation is of other nodes", field="given",
                             value=f"{given.columns} -> {given.rows}", remedy=f"there are {nodes} nodes")
        place = torch.arange(nearest, device=source.device)
        there = place < given.rowptr.diff()[:, None]
        entry = (given.rowptr[:-1, None] + place).clamp(max=max(given.edges - 1, 0)).long()
        found = given.col.long()[entry] if given.edges else torch.zeros_like(entry)
        columns, flags, allowed = [*columns, found], [*flags, there], [*allowed, there]
    if random and nodes > 1:
        drawn = torch.randint(nodes - 1, (nodes, random), generator=torch.Generator().manual_seed(seed))
        drawn = (drawn + (drawn >= torch.arange(nodes)[:, None])).to(source.device)
        columns, flags = [*columns, drawn], [*flags, torch.zeros_like(drawn, dtype=torch.bool)]
        allowed = [*allowed, torch.ones_like(drawn, dtype=torch.bool)]
    return _each_once(torch.cat(columns, 1), torch.cat(allowed, 1), torch.cat(flags, 1))


def _each_once(source: Tensor, allowed: Tensor, prior: Tensor) -> Candidates:
    """Empty all but the first place of a source, which is in the prior graph if any of its places was."""
    allowed = allowed & (source != torch.arange(len(source), device=source.device)[:, None])
    same = (source[:, :, None] == source[:, None, :]) & allowed[:, :, None] & allowed[:, None, :]  # [N, K, K]
    prior = (same & prior[:, None, :]).any(-1)
    earlier = torch.ones(same.shape[1:], dtype=torch.bool, device=source.device).tril(-1)
    allowed = allowed & ~(same & earlier).any(-1)
    return Candidates(torch.where(allowed, source, 0), allowed, prior & allowed)


# -------------------------------------------------------------------- the learner
@dataclass(frozen=True)
class LearnedGraph:
    """What a :class:`SparseGraphLearner` found.

    Args:
        relation: All candidates as edges with weights ``[E]`` or ``[E, B, 1]``: exactly 1 where chosen, 0 elsewhere,
            with the gradient of the smooth choice.
        score: ``[N, K]`` or ``[B, N, K]`` logits.
        chosen: Of the same shape, bool.
        candidates: What was chosen from.
    """

    relation: Relation
    score: Tensor
    chosen: Tensor
    candidates: Candidates

    def prior_loss(self) -> Tensor:
        """Binary cross-entropy of the candidates' probabilities against the prior graph; a scalar, 0 without any."""
        target = self.candidates.prior.to(self.score).expand_as(self.score)
        weight = self.candidates.allowed.to(self.score).expand_as(self.score)
        each = functional.binary_cross_entropy_with_logits(self.score, target, weight, reduction="sum")
        return each / weight.sum().clamp(min=1)


class SparseGraphLearner(nn.Module):
    r"""Chooses ``k`` of each node's candidates, by scores of the pair, with a gradient through the choice.

    .. math:: \theta_{ij} = v \cdot \mathrm{ReLU}(A g_j + B g_i) \quad\text{or}\quad
              \theta_{ij} = (A g_j) \cdot (B g_i) / \sqrt{h}

    After the graph learner of STEP (Z. Shao et al., KDD 2022), which scores all pairs of nodes from a layer as long as
    the training series. Here ``g`` is a descriptor of any network's nodes, only candidates are scored, and ``k`` of
    them are taken: the largest of ``theta`` plus Gumbel noise in training, of ``theta`` itself otherwise. Forward a
    chosen edge weighs 1; backward the weight is ``sigmoid((theta - c) / temperature)``, ``c`` midway between the last
    chosen and the first that is not.

    Args:
        features: Length ``F`` of a descriptor.
        k: Edges per node; all candidates where there are fewer.
        hidden: Width ``h`` of the pair score.
        scorer: ``mlp`` (first formula) or ``bilinear`` (second).
        temperature: Of the smooth choice.

    Raises:
        InputError: for an unknown scorer or sizes below 1.
    """

    def __init__(self, features: int, k: int = 8, hidden: int = 32, scorer: Literal["mlp", "bilinear"] = "mlp",
                 temperature: float = 0.5) -> None:
        super().__init__()
        if scorer not in ("mlp", "bilinear"):
            raise InputError("unknown scorer", field="scorer", value=scorer, remedy="use mlp or bilinear")
        if k < 1 or temperature <= 0:
            raise InputError("a learned graph has k >= 1 edges a node and a temperature above 0", field="k",
                             value=f"k={k}, temperature={temperature}", remedy="choose others")
        self.k, self.temperature, self.scorer = k, temperature, scorer
        self.norm = nn.LayerNorm(features)
        self.destination = nn.Linear(features, hidden)
        self.source = nn.Linear(features, hidden, bias=False)
        self.out = nn.Linear(hidden, 1) if scorer == "mlp" else None

    def forward(self, states: Tensor, candidates: Candidates) -> LearnedGraph:
        """Score and choose.

        Args:
            states: Descriptors ``[N, F]``, or of each window ``[B, N, F]``.
            candidates: What to choose from, on the same ``N`` nodes.

        Raises:
            InputError: where states and candidates are of different nodes.
        """
        nodes, places = candidates.source.shape
        if states.shape[-2] != nodes:
            raise InputError("states and candidates are of different nodes", field="states",
                             value=list(states.shape), remedy=f"there are candidates for {nodes} nodes")
        score = self.scores(states, candidates)                                               # [..., N, K]
        noisy = score
        if self.training:
            noise = torch.rand_like(score).clamp(min=torch.finfo(score.dtype).tiny)
            noisy = score - (-noise.log()).clamp(min=torch.finfo(score.dtype).tiny).log()
        noisy = noisy.masked_fill(~candidates.allowed, _NEVER)
        count = min(self.k, places)
        best = noisy.topk(min(count + 1, places))
        chosen = torch.zeros_like(noisy, dtype=torch.bool).scatter(-1, best.indices[..., :count], True)
        chosen = chosen & candidates.allowed
        weight = chosen.to(score.dtype)
        if places > count:  # the limit has a gradient too: to raise all scores alike changes no choice
            limit = best.values[..., count - 1:].mean(-1, keepdim=True)
            smooth = ((noisy - limit) / self.temperature).sigmoid()
            weight = weight + (smooth - smooth.detach())
        if weight.dim() == 3:
            weight = weight.flatten(1).T[..., None]                                           # [E, B, 1]
        relation = Relation(candidates.adjacency, weight if weight.dim() == 3 else weight.flatten())
        return LearnedGraph(relation, score, chosen, candidates)

    def scores(self, states: Tensor, candidates: Candidates) -> Tensor:
        """Scores of all candidates, ``[N, K]`` or ``[B, N, K]``; in empty places a number without meaning."""
        g = self.norm(states)
        to = self.destination(g)[..., None, :]                                                # [..., N, 1, h]
        source = gather_rows(self.source(g), candidates.source.flatten())
        source = source.unflatten(-2, candidates.source.shape)                                # [..., N, K, h]
        if self.out is not None:
            return self.out(torch.relu(to + source)).squeeze(-1)
        return (to * source).sum(-1) * source.shape[-1] ** -0.5


class LearnedMessagePassing(nn.Module):
    """Messages along a learned graph: a :class:`SparseGraphLearner` and typed message passing on what it chose.

    Args:
        width: Channels ``D``.
        descriptors: Length ``F`` of the nodes' descriptors that edges are scored by; 0: by the states of each window,
            averaged over its tokens, so that each window has a graph of its own.
        k: Edges per node.
        hidden: Width of the pair score.
        scorer: ``mlp`` or ``bilinear``.
        dropout: On the messages.

    Shapes:
        ``h [B, S, N, D]`` -> ``[B, S, N, D]``, and the graph.
    """

    def __init__(self, width: int, descriptors: int = 0, k: int = 8, hidden: int = 32,
                 scorer: Literal["mlp", "bilinear"] = "mlp", dropout: float = 0.0) -> None:
        super().__init__()
        self.descriptors = descriptors
        self.learner = SparseGraphLearner(descriptors or width, k, hidden, scorer)
        self.messages = TypedMessagePassing(width, bases=1, dropout=dropout)

    def forward(self, h: Tensor, candidates: Candidates, descriptors: Tensor | None = None,
                observed: Tensor | None = None) -> tuple[Tensor, LearnedGraph]:
        """Messages, and the graph whose :meth:`LearnedGraph.prior_loss` may be added to the loss.

        Args:
            h: States.
            candidates: What edges may be chosen.
            descriptors: ``[N, F]``, where edges are scored by them.
            observed: ``[B, S, N]`` bool; nodes that are not observed send nothing.

        Raises:
            InputError: where descriptors are wanted and not given.
        """
        if self.descriptors and descriptors is None:
            raise InputError("the learned graph is scored by descriptors of the nodes", field="descriptors",
                             remedy=f"give [N, {self.descriptors}], or make the block with descriptors=0")
        if self.descriptors:
            states = descriptors
        elif observed is None:
            states = h.mean(1)
        else:
            states = torch.where(observed[..., None], h, 0.0).sum(1) / observed.sum(1).clamp(min=1)[..., None]
        assert states is not None
        graph = self.learner(states, candidates)
        return self.messages(h, {"learned": graph.relation}, observed=observed), graph
