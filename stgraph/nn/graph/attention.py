"""Attention over in-edges: additive (GAT), and by products (graph transformer)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.graph.common import Relation, adjacency_of, edge_weights, glorot, looped, multiply, square, with_bias
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.attention import gat_aggregate, graph_attention

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph


class _Heads(nn.Module):
    """What both layers share: heads, the part of the score that comes from weights of edges, dropout, the end."""

    def __init__(self, outputs: int, heads: int, concat: bool, self_loops: bool, edge_weights: bool, dropout: float,
                 bias: bool) -> None:
        super().__init__()
        if heads < 1 or outputs < 1:
            raise InputError("there is at least one head and one channel", field="heads" if heads < 1 else "outputs",
                             value=heads if heads < 1 else outputs, remedy="give 1 or more")
        if not 0.0 <= dropout < 1.0:
            raise InputError("a rate of dropout is at least 0 and below 1", field="dropout", value=dropout,
                             remedy="give 0 for none")
        self.outputs, self.heads, self.concat = outputs, heads, concat
        self.self_loops, self.dropout = self_loops, dropout
        self.edge = glorot(heads, fan_in=1, fan_out=heads) if edge_weights else None
        self.bias = nn.Parameter(torch.zeros(outputs * heads if concat else outputs)) if bias else None

    def bind(self, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None,
             relation: Relation | None) -> tuple[Adjacency, Tensor | None]:
        """The graph, and a number per edge and head: ``[E, H]``, ``[T, E, H]`` or None."""
        adjacency = adjacency_of(graph, relation, x.device)
        square(adjacency, x)
        given = edge_weights(edge_weight, graph, relation, adjacency, x)
        if (given is None) != (self.edge is None):
            raise InputError("the layer was made without weights of edges" if self.edge is None else
                             "the layer was made for weights of edges", field="edge_weight",
                             value=None if given is None else list(given.shape),
                             remedy="make it with edge_weights=True" if self.edge is None else "give them")
        score = None if given is None or self.edge is None else given.to(x)[..., None] * self.edge
        if self.self_loops:
            adjacency = looped(adjacency)
            if score is not None:
                added = score.new_zeros((*score.shape[:-2], adjacency.edges - score.shape[-2], self.heads))
                score = torch.cat([score, added], -2)
        return adjacency, score

    def seed(self) -> int:
        """A number for the dropout of one call."""
        return int(torch.randint(2**62, ())) if self.rate else 0

    @property
    def rate(self) -> float:
        """The dropout in force."""
        return self.dropout if self.training else 0.0

    def end(self, out: Tensor) -> Tensor:
        """Heads side by side or their mean, and the bias."""
        return with_bias(out.flatten(-2) if self.concat else out.mean(-2), self.bias)


def per_step(run: Callable[..., Tensor], score: Tensor | None, time: int, *features: Tensor) -> Tensor:
    """``run(*features, score)`` with scores ``[E, H]``; with ``[T, E, H]`` one step after the other.

    Args:
        run: The attention.
        score: Numbers of edges.
        time: Axis of the steps from the first, in all features and in the result.
        features: What the attention takes.
    """
    score = None if score is None else score.to(features[0].dtype)
    if score is None or score.dim() == 2:
        return run(*features, score)
    steps = [run(*[x.select(time, step) for x in features], score[step]) for step in range(score.shape[0])]
    return torch.stack(steps, time)


class GraphAttention(_Heads):
    """Graph attention: ``out_i = sum over in-edges of a_ij W x_j``, where for each head ``a_ij`` is the softmax over
    ``j`` of ``leaky_relu(s . W x_j + d . W x_i + c w_ij)``.

    A node without an edge to itself is given one, with ``w = 0`` (``self_loops``). The scores are made from ``x`` and
    ``W s``, ``W d`` directly; nothing is held per edge and channel.

    Velickovic et al., "Graph attention networks", ICLR 2018.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of each head.
        heads: Number of heads H.
        concat: Whether heads stand side by side; else their mean is taken.
        slope: Of the leaky ReLU below 0.
        self_loops: Whether nodes attend to themselves.
        edge_weights: Whether weights of edges are part of the score.
        dropout: Rate at which attention weights are dropped in training.
        bias: Whether a number per channel is added.

    Raises:
        InputError: naming the argument.

    Shapes: ``x [..., T, N, inputs]``, ``edge_weight [E]`` or ``[T, E]`` (then step after step); result
    ``[..., T, N, H * outputs]``, or ``[..., T, N, outputs]`` for the mean.
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 1, concat: bool = True, slope: float = 0.2,
                 self_loops: bool = True, edge_weights: bool = False, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(outputs, heads, concat, self_loops, edge_weights, dropout, bias)
        self.slope = slope
        self.weight = glorot(inputs, heads * outputs, fan_in=inputs, fan_out=heads * outputs)
        self.source = glorot(heads, outputs, fan_in=outputs, fan_out=1)
        self.destination = glorot(heads, outputs, fan_in=outputs, fan_out=1)

    def forward(self, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None = None,
                relation: Relation | None = None) -> Tensor:
        """See the class."""
        adjacency, score = self.bind(x, graph, edge_weight, relation)
        value = multiply(x, self.weight).unflatten(-1, (self.heads, self.outputs))
        ends = torch.stack([self.source, self.destination])
        direct = torch.einsum("fhd,ehd->feh", self.weight.unflatten(1, (self.heads, self.outputs)), ends).flatten(1)
        source, destination = multiply(x, direct).split(self.heads, -1)
        seed = self.seed()

        def run(source: Tensor, destination: Tensor, value: Tensor, score: Tensor | None) -> Tensor:
            return gat_aggregate(adjacency, source, destination, value, score, self.slope, self.rate, seed)

        return self.end(per_step(run, score, x.dim() - 3, source, destination, value))


class GraphTransformer(_Heads):
    """Attention by products: ``out_i = sum over in-edges of a_ij v_j + R x_i``, where for each head ``a_ij`` is the
    softmax over ``j`` of ``q_i . k_j / sqrt(outputs) + c w_ij``, and ``q, k, v`` are affine in ``x``.

    Vaswani et al., "Attention is all you need", NeurIPS 2017, over in-edges as in Shi et al., "Masked label prediction:
    unified message passing model for semi-supervised classification", IJCAI 2021, with weights of edges as a bias.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of each head.
        heads: Number of heads H.
        concat: Whether heads stand side by side; else their mean is taken.
        self_loops: Whether nodes attend to themselves.
        root: Whether ``R x`` is added.
        edge_weights: Whether weights of edges are part of the score.
        dropout: Rate at which attention weights are dropped in training.
        bias: Whether a number per channel is added.

    Raises:
        InputError: naming the argument.

    Shapes: ``x [..., T, N, inputs]``, ``edge_weight [E]`` or ``[T, E]`` (then step after step); result
    ``[..., T, N, H * outputs]``, or ``[..., T, N, outputs]`` for the mean.
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 1, concat: bool = True, self_loops: bool = False,
                 root: bool = True, edge_weights: bool = False, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(outputs, heads, concat, self_loops, edge_weights, dropout, bias)
        width = heads * outputs
        self.weight = glorot(inputs, 3 * width, fan_in=inputs, fan_out=width)
        self.offset = nn.Parameter(torch.zeros(3 * width))
        end = width if concat else outputs
        self.root = glorot(inputs, end, fan_in=inputs, fan_out=end) if root else None

    def forward(self, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None = None,
                relation: Relation | None = None) -> Tensor:
        """See the class."""
        adjacency, score = self.bind(x, graph, edge_weight, relation)
        parts = multiply(x, self.weight, self.offset).unflatten(-1, (3 * self.heads, self.outputs))
        seed = self.seed()

        def run(query: Tensor, key: Tensor, value: Tensor, score: Tensor | None) -> Tensor:
            return graph_attention(adjacency, query, key, value, score, None, self.rate, seed)

        out = self.end(per_step(run, score, x.dim() - 3, *parts.split(self.heads, -2)))
        return out if self.root is None else out + multiply(x, self.root)
