"""The layers by their formulas, with dense matrices and one softmax per node: slow, and plain to read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stgraph.nn.graph import (
    DiffusionConvolution,
    GraphAttention,
    GraphConvolution,
    GraphGRUCell,
    GraphTransformer,
)

Edges = Tensor


def matrix_of(edges: Edges, weight: Tensor, nodes: int) -> Tensor:
    """``A[..., i, j]``: the weights ``[..., E]`` of all edges from j to i."""
    out = weight.new_zeros((*weight.shape[:-1], nodes, nodes))
    flat = out.view(math.prod(weight.shape[:-1]), nodes, nodes)
    rows = weight.reshape(len(flat), weight.shape[-1])
    return torch.stack([flat[k].index_put((edges[1], edges[0]), rows[k], accumulate=True)
                        for k in range(len(rows))]).view(out.shape)


def inverse(values: Tensor) -> Tensor:
    return torch.where(values == 0, 0.0, 1.0 / torch.where(values == 0, 1.0, values))


def ones(edges: Edges, x: Tensor, weight: Tensor | None) -> Tensor:
    return x.new_ones(edges.shape[1]) if weight is None else weight


def with_loops(edges: Edges, nodes: int) -> Edges:
    """With an edge from each node to itself, where it has none."""
    missing = torch.tensor([i for i in range(nodes) if not bool(((edges[0] == i) & (edges[1] == i)).any())],
                           dtype=torch.int64)
    return torch.cat([edges, torch.stack([missing, missing])], 1)


def convolution(layer: GraphConvolution, x: Tensor, edges: Edges, weight: Tensor | None) -> Tensor:
    nodes = x.shape[-2]
    values = ones(edges, x, weight)
    if layer.self_loops:
        looped = with_loops(edges, nodes)
        values = torch.cat([values, values.new_ones((*values.shape[:-1], looped.shape[1] - edges.shape[1]))], -1)
        edges = looped
    matrix = matrix_of(edges, values, nodes)
    degree = matrix.sum(-1)
    if layer.normalise == "symmetric":
        root = inverse(degree).sqrt()
        matrix = root[..., :, None] * matrix * root[..., None, :]
    elif layer.normalise == "random_walk":
        matrix = inverse(degree)[..., None] * matrix
    out = matrix @ x @ layer.weight
    return out if layer.bias is None else out + layer.bias


def walks(edges: Edges, values: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """``D_O^-1 W`` and ``D_I^-1 W^T``."""
    backward = matrix_of(edges, values, nodes)
    forward = backward.mT
    return inverse(forward.sum(-1))[..., None] * forward, inverse(backward.sum(-1))[..., None] * backward


def diffusion(x: Tensor, matrices: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None, recurrence: str) -> Tensor:
    steps = (weight.shape[0] - 1) // len(matrices)
    out = x @ weight[0]
    for direction, matrix in enumerate(matrices):
        before, now = x, matrix @ x
        for k in range(steps):
            out = out + now @ weight[1 + direction * steps + k]
            before, now = now, matrix @ now if recurrence == "power" else 2 * matrix @ now - before
    return out if bias is None else out + bias


def diffusion_convolution(layer: DiffusionConvolution, x: Tensor, edges: Edges, weight: Tensor | None) -> Tensor:
    both = walks(edges, ones(edges, x, weight), x.shape[-2])
    return diffusion(x, both if layer.both else both[:1], layer.weight, layer.bias, layer.recurrence)


def _attended(layer: GraphAttention | GraphTransformer, x: Tensor, edges: Edges, weight: Tensor | None,
              score: Tensor, value: Tensor) -> Tensor:
    """``score [..., E, H]`` without the part of the weights, for edges with loops."""
    nodes = x.shape[-2]
    if weight is not None:
        assert layer.edge is not None
        part = torch.cat([weight, weight.new_zeros((*weight.shape[:-1], edges.shape[1] - weight.shape[-1]))], -1)
        score = score + part[..., None] * layer.edge
    rows = []
    for i in range(nodes):
        mine = edges[1] == i
        share = torch.softmax(score[..., mine, :], -2)
        rows.append((share[..., None] * value[..., edges[0][mine], :, :]).sum(-3))
    out = torch.stack(rows, -3)
    out = out.flatten(-2) if layer.concat else out.mean(-2)
    return out if layer.bias is None else out + layer.bias


def attention(layer: GraphAttention, x: Tensor, edges: Edges, weight: Tensor | None) -> Tensor:
    edges = with_loops(edges, x.shape[-2]) if layer.self_loops else edges
    value = (x @ layer.weight).unflatten(-1, (layer.heads, layer.outputs))
    score = (value * layer.source).sum(-1)[..., edges[0], :] + (value * layer.destination).sum(-1)[..., edges[1], :]
    if weight is None:
        return _attended(layer, x, edges, None, nn.functional.leaky_relu(score, layer.slope), value)
    assert layer.edge is not None
    part = torch.cat([weight, weight.new_zeros((*weight.shape[:-1], edges.shape[1] - weight.shape[-1]))], -1)
    score = nn.functional.leaky_relu(score + part[..., None] * layer.edge, layer.slope)
    return _attended(layer, x, edges, None, score, value)


def transformer(layer: GraphTransformer, x: Tensor, edges: Edges, weight: Tensor | None) -> Tensor:
    edges = with_loops(edges, x.shape[-2]) if layer.self_loops else edges
    q, k, v = (x @ layer.weight + layer.offset).unflatten(-1, (3, layer.heads, layer.outputs)).unbind(-3)
    score = (q[..., edges[1], :, :] * k[..., edges[0], :, :]).sum(-1) / layer.outputs ** 0.5
    out = _attended(layer, x, edges, weight, score, v)
    return out if layer.root is None else out + x @ layer.root


def cell(layer: GraphGRUCell, x: Tensor, edges: Edges, weight: Tensor | None, state: Tensor | None = None) -> Tensor:
    """One step, with x and h side by side as in the paper."""
    h = x.new_zeros((*x.shape[:-1], layer.hidden)) if state is None else state
    both = walks(edges, ones(edges, x, weight), x.shape[-2])
    both = both if layer.both else both[:1]
    width = layer.hidden
    gates = torch.cat([layer.weight[:, :, :2 * width], layer.gates], 1)
    pre = diffusion(torch.cat([x, h], -1), both, gates, layer.bias[:2 * width], layer.recurrence)
    z, r = pre.sigmoid().split(width, -1)
    last = torch.cat([layer.weight[:, :, 2 * width:], layer.candidate], 1)
    candidate = diffusion(torch.cat([x, r * h], -1), both, last, layer.bias[2 * width:], layer.recurrence).tanh()
    return z * h + (1 - z) * candidate
