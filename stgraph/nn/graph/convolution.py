"""Convolutions on a graph: by a normalised adjacency, and by random walks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.graph.common import (
    Kept,
    Relation,
    adjacency_of,
    as_four,
    edge_weights,
    glorot,
    loopless,
    multiply,
    on_nodes,
    square,
    with_bias,
)
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.autocast import in_the_widest
from stgraph.ops.diffusion import RECURRENCES, Walks, diffusion_conv, random_walks
from stgraph.ops.sparse import sddmm, spmm

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

NORMALISATIONS = ("symmetric", "random_walk", None)


@in_the_widest
def normalised(adjacency: Adjacency, weight: Tensor | None, how: str | None, self_loops: bool,
               like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Weights of a convolution: of the edges, and of each node's own features.

    Args:
        adjacency: The graph.
        weight: ``[E]`` or ``[E, B or 1, T or 1, 1]``.
        how: ``symmetric``, ``random_walk`` or None.
        self_loops: Whether a node that has no edge to itself counts as having one of weight 1.
        like: A tensor of the type and on the device wanted.

    Returns:
        ``[E, ...]`` (None: all ones) and ``[B or 1, T or 1, N, 1]`` (None: all zeros).
    """
    own = loopless(adjacency).to(like.dtype)[None, None, :, None] if self_loops else None
    if how is None:
        return weight, own
    axes = 1 if weight is None else weight.dim()
    if weight is None:
        weight = torch.ones(adjacency.edges, dtype=like.dtype, device=like.device)
    four = weight if axes == 4 else weight[:, None, None, None]
    ones = four.new_ones((four.shape[1], four.shape[2], adjacency.columns, 1))
    degree = spmm(adjacency, ones, weight=four)
    if own is not None:
        degree = degree + own
    usable = degree > 0 if how == "symmetric" else degree != 0
    safe = torch.where(usable, degree, 1.0)
    if how == "symmetric":
        root = torch.where(usable, safe.rsqrt(), 0.0)
        ends, inverse = sddmm(adjacency, root, root), root * root
    else:
        inverse = torch.where(usable, 1.0 / safe, 0.0)
        ends = sddmm(adjacency, inverse, ones)
    edges = ends.permute(2, 0, 1, 3) * four
    return edges.view(-1) if axes == 1 else edges, None if own is None else inverse * own


class GraphConvolution(nn.Module):
    """Graph convolution: ``out = S x W + b``, where ``S`` is the normalised matrix of the in-edges.

    With ``A[i, j]`` the weight of an edge j to i and ``A' = A + I`` (``I`` only at nodes without an edge to
    themselves), ``S = D^-1/2 A' D^-1/2`` (symmetric), ``D^-1 A'`` (random walk) or ``A'`` (None); ``D`` are the row
    sums of ``A'``, and ``D^-1`` is 0 where they are 0. The loops are not made into edges: each node's own features are
    added with their weight. The narrower of both sides is what is sent along the edges.

    Kipf and Welling, "Semi-supervised classification with graph convolutional networks", ICLR 2017.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result.
        normalise: ``symmetric``, ``random_walk`` or None.
        self_loops: Whether nodes see themselves.
        bias: Whether a number per channel is added.

    Raises:
        InputError: for an unknown normalisation.

    Shapes: ``x [..., T, N, inputs]``, ``edge_weight [E]`` or ``[T, E]``; result ``[..., T, N, outputs]``.
    """

    def __init__(self, inputs: int, outputs: int, normalise: str | None = "symmetric", self_loops: bool = True,
                 bias: bool = True) -> None:
        super().__init__()
        if normalise not in NORMALISATIONS:
            raise InputError("unknown normalisation", field="normalise", value=normalise,
                             remedy=f"one of {', '.join(map(str, NORMALISATIONS))}")
        self.normalise, self.self_loops = normalise, self_loops
        self.weight = glorot(inputs, outputs, fan_in=inputs, fan_out=outputs)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self._kept = Kept()

    def forward(self, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None = None,
                relation: Relation | None = None) -> Tensor:
        """See the class."""
        adjacency = adjacency_of(graph, relation, x.device)
        square(adjacency, x)
        given = edge_weights(edge_weight, graph, relation, adjacency, x)
        edges, own = self._kept.get(
            (adjacency, given, x.dtype, x.dim() == 3),
            lambda: normalised(adjacency, as_four(given, x), self.normalise, self.self_loops, x))
        first = self.weight.shape[0] >= self.weight.shape[1]
        sent = multiply(x, self.weight) if first else x
        edges, own = (None if one is None else one.to(sent.dtype) for one in (edges, own))
        out = spmm(adjacency, sent, weight=edges, addend=None if own is None else sent * on_nodes(own, x))
        return with_bias(out, self.bias) if first else multiply(out, self.weight, self.bias)


class DiffusionConvolution(nn.Module):
    """Diffusion convolution: ``out = x W_0 + sum over k of P_f^k x W_k + sum over k of P_b^k x W_(K+k) + b``.

    ``P_f = D_O^-1 W`` walks along the edges, ``P_b = D_I^-1 W^T`` against them, ``k`` runs from 1 to K; nodes without
    out-edges or in-edges have empty rows. With ``recurrence='chebyshev'`` the powers are the polynomials
    ``T_k = 2 P T_(k-1) - T_(k-2)`` of the authors' code; every direction starts from ``x``.

    Li, Yu, Shahabi and Liu, "Diffusion convolutional recurrent neural network: data-driven traffic forecasting",
    ICLR 2018.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result.
        steps: Length of the walks, K.
        both: Whether walks against the edges count too.
        recurrence: ``power`` or ``chebyshev``.
        bias: Whether a number per channel is added.

    Raises:
        InputError: for an unknown recurrence or a negative number of steps.

    Shapes: ``x [..., T, N, inputs]``, ``edge_weight [E]`` or ``[T, E]``; result ``[..., T, N, outputs]``.
    """

    def __init__(self, inputs: int, outputs: int, steps: int = 2, both: bool = True, recurrence: str = "power",
                 bias: bool = True) -> None:
        super().__init__()
        check_walk(steps, recurrence)
        self.both, self.recurrence = both, recurrence
        matrices = 1 + steps * (2 if both else 1)
        self.weight = glorot(matrices, inputs, outputs, fan_in=matrices * inputs, fan_out=outputs)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self._kept = Kept()

    def forward(self, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None = None,
                relation: Relation | None = None) -> Tensor:
        """See the class."""
        walks = walks_of(self._kept, x, graph, edge_weight, relation)
        return walk(walks, x, self.weight, self.bias, self.both, self.recurrence)


def check_walk(steps: int, recurrence: str) -> None:
    """Refuse what is no walk.

    Raises:
        InputError: naming the argument.
    """
    if steps < 0:
        raise InputError("a walk has at least no steps", field="steps", value=steps, remedy="2 is usual")
    if recurrence not in RECURRENCES:
        raise InputError("unknown recurrence", field="recurrence", value=recurrence,
                         remedy=f"one of {', '.join(RECURRENCES)}")


def walks_of(kept: Kept, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None,
             relation: Relation | None) -> Walks:
    """The random walks of a relation, kept while it and its weights stay."""
    adjacency = adjacency_of(graph, relation, x.device)
    square(adjacency, x)
    given = edge_weights(edge_weight, graph, relation, adjacency, x)
    return kept.get((adjacency, given, x.dtype, x.dim() == 3),
                    lambda: random_walks(adjacency, as_four(given, x), x.dtype))


def walk(walks: Walks, x: Tensor, weight: Tensor, bias: Tensor | None, both: bool, recurrence: str) -> Tensor:
    """A diffusion convolution over one or both walks."""
    return diffusion_conv(walks.forward, x, weight, walks.backward if both else None, walks.forward_weight,
                          walks.backward_weight if both else None, bias, recurrence=recurrence)
