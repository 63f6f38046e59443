"""Rivals of PyTorch Geometric: its layers' aggregation, and plain ``MessagePassing``.

Layers are timed without their dense parts: what is called is ``propagate``, with projections made before, as for ours.
``GATConv`` and ``TransformerConv`` take no axis of batch or time, so the slabs are one graph of S N nodes, as PyG
batches graphs.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch_geometric.nn import GATConv, MessagePassing, SimpleConv, TransformerConv
from torch_geometric.typing import OptPairTensor
from torch_geometric.utils import softmax

from stgraph.bench.case import Case
from stgraph.bench.problem import BATCH, NODE, SLOPE, Function, Problem
from stgraph.bench.ways import Absent, Way, layouts

PASSING, NODES_FIRST, SIMPLE, GAT, TRANSFORMER, EAGER = (
    "PyG MessagePassing", "PyG MessagePassing, node-major", "PyG SimpleConv", "PyG GATConv", "PyG TransformerConv",
    "PyG-style eager layer")


def ways(case: Case) -> tuple[list[Way], list[Absent]]:
    """The ways of PyG for a case."""
    if case.operator == "spmm":
        # two rivals: features [B T, N, F], which is how layers of PyG take a batch, and [N, B T, F], which it can do
        names = {BATCH: PASSING, NODE: NODES_FIRST}
        found = [Way(names[layout], layout, layout, functools.partial(_passing, layout), True)
                 for layout in layouts(case)]
        return [*found, Way(SIMPLE, BATCH, BATCH, _simple, True)], []
    if case.operator == "gat_aggregate":
        found = [Way(EAGER, layout, layout, functools.partial(_eager_gat, layout), True) for layout in layouts(case)]
        return [*found, Way(GAT, "slabs as one graph", BATCH, _gat, True)], []
    if case.operator == "graph_attention":
        return [Way(TRANSFORMER, "slabs as one graph", BATCH, _transformer, True)], []
    return [], []


# ---------------------------------------------------------------- products
class Weighted(MessagePassing):
    """Messages times weights, along the axis of nodes."""

    def forward(self, edge_index: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Sum, mean or maximum of the messages of each node."""
        # propagate_type: (x: Tensor, weight: Tensor)
        return self.propagate(edge_index, x=x, weight=weight, size=None)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """A source's features times the edge's weight."""
        return x_j * weight


def _passing(layout: str, problem: Problem) -> Function:
    axis = -2 if layout == BATCH or problem.slabs == 1 else 0
    layer = Weighted(aggr=problem.case.reduce, node_dim=axis)
    edges = torch.stack([problem.col, problem.row])

    def product(x: Tensor, weight: Tensor) -> Tensor:
        spread = weight.view(-1, *(1,) * (x.dim() - 1 if axis == 0 else 1))
        return layer(edges, x, spread)

    return product


def _simple(problem: Problem) -> Function:
    layer = SimpleConv(aggr=problem.case.reduce)
    edges = torch.stack([problem.col, problem.row])
    return lambda x, weight: layer(x, edges, weight)


# ---------------------------------------------------------------- attention
class EagerGat(MessagePassing):
    """Additive attention as a user of PyG writes it for features with an axis of time: softmax, then messages."""

    def forward(self, edge_index: Tensor, score: OptPairTensor, v: Tensor) -> Tensor:
        """Sum of the messages of each node; scores of sources and destinations."""
        # propagate_type: (score: OptPairTensor, v: Tensor)
        return self.propagate(edge_index, score=score, v=v, size=None)

    def message(self, score_j: Tensor, score_i: Tensor, v_j: Tensor, index: Tensor, size_i: int) -> Tensor:
        """A source's values times the share of the edge; scores have a last axis of size 1."""
        score = torch.nn.functional.leaky_relu(score_j + score_i, SLOPE)
        return softmax(score, index, num_nodes=size_i, dim=self.node_dim) * v_j


def _eager_gat(layout: str, problem: Problem) -> Function:
    layer = EagerGat(aggr="sum", node_dim=0 if layout == NODE else -3)
    edges = torch.stack([problem.col, problem.row])

    def attend(score_source: Tensor, score_destination: Tensor, v: Tensor) -> Tensor:
        return layer(edges, (score_source[..., None], score_destination[..., None]), v)

    return attend


def _one_graph(problem: Problem) -> Tensor:
    """Edges of all slabs as those of one graph of S N nodes, ``[2, S E]``."""
    shift = torch.arange(problem.slabs, device=problem.device)[:, None, None] * problem.nodes
    return (torch.stack([problem.col, problem.row]) + shift).transpose(0, 1).reshape(2, -1)


def _gat(problem: Problem) -> Function:
    heads, width = problem.case.heads, problem.case.features // problem.case.heads
    layer = GATConv(1, width, heads, negative_slope=SLOPE, add_self_loops=False, bias=False)
    edges = _one_graph(problem)

    def attend(score_source: Tensor, score_destination: Tensor, v: Tensor) -> Tensor:
        flat = v.view(-1, heads, width)
        scores = score_source.view(-1, heads), score_destination.view(-1, heads)
        share = layer.edge_updater(edges, alpha=scores, edge_attr=None, size=None)
        return layer.propagate(edges, x=(flat, flat), alpha=share, size=None).view(v.shape)

    return attend


def _transformer(problem: Problem) -> Function:
    heads, width = problem.case.heads, problem.case.features // problem.case.heads
    layer = TransformerConv(1, width, heads, root_weight=False)
    edges = _one_graph(problem)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query, key, value = (part.view(-1, heads, width) for part in (q, k, v))
        out = layer.propagate(edges, query=query, key=key, value=value, edge_attr=None)
        return out.view(v.shape)

    return attend
