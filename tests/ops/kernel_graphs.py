"""Small graphs of every kind, and the slow answers in 64 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from stgraph.ops import Adjacency


def graph(kind: str, seed: int = 0) -> tuple[Tensor, int, int]:
    """Edges ``[2, E]`` in no order, number of sources, number of destinations."""
    generator = torch.Generator().manual_seed(seed)

    def some(high: int, count: int) -> Tensor:
        return torch.randint(0, high, (count,), generator=generator)

    if kind == "no nodes":
        return torch.zeros(2, 0, dtype=torch.int64), 0, 0
    if kind == "no edges":
        return torch.zeros(2, 0, dtype=torch.int64), 5, 4
    if kind == "isolated":
        return torch.stack([some(4, 9) * 3, some(3, 9) * 4]), 12, 12
    if kind == "duplicates":
        pairs = torch.stack([some(6, 8), some(6, 8)])
        return torch.cat([pairs, pairs, pairs], dim=1), 6, 6
    if kind == "self loops":
        nodes = torch.arange(7)
        return torch.cat([torch.stack([nodes, nodes]), torch.stack([some(7, 10), some(7, 10)])], dim=1), 7, 7
    if kind == "star":
        leaves = torch.arange(1, 600)
        return torch.stack([leaves, torch.zeros_like(leaves)]), 600, 600
    if kind == "power law":
        rank = (torch.rand(400, generator=generator) ** 4 * 60).long()
        return torch.stack([some(60, 400), rank]), 60, 60
    assert kind == "bipartite", kind
    return torch.stack([some(11, 70), some(17, 70)]), 11, 17


KINDS = ("no nodes", "no edges", "isolated", "duplicates", "self loops", "star", "power law", "bipartite")


def adjacency(kind: str, dtype: torch.dtype = torch.int32) -> tuple[Adjacency, Tensor]:
    """The graph for the kernels, and its edges for the slow answer."""
    edges, sources, destinations = graph(kind)
    made = Adjacency.of_edges(edges, sources, destinations)
    if dtype != made.col.dtype:
        made = Adjacency(made.rowptr.to(dtype), made.col.to(dtype), made.edge.to(dtype), columns=sources)
    return made, edges


def full(weight: Tensor | None, edges: int, batch: int, time: int, width: int) -> Tensor:
    """Weights of any kind ``[E, B?, T?, H?]`` as ``[B, T, E, F]`` in 64 bits."""
    if weight is None:
        return torch.ones(batch, time, edges, width, dtype=torch.float64)
    heads = weight.shape[3]
    spread = weight.double().expand(edges, batch, time, heads).permute(1, 2, 0, 3)
    return spread[..., None].expand(batch, time, edges, heads, width // heads).reshape(batch, time, edges, width)


def slow_sum(edges: Tensor, weight: Tensor | None, x: Tensor, rows: int) -> Tensor:
    """Sums of weighted messages ``[B, T, rows, F]`` in 64 bits, by index_add."""
    b, t, _, f = x.shape
    messages = x.double()[:, :, edges[0]] * full(weight, edges.shape[1], b, t, f)
    return torch.zeros(b, t, rows, f, dtype=torch.float64).index_add_(2, edges[1], messages)


def slow_max(edges: Tensor, weight: Tensor | None, x: Tensor, rows: int) -> Tensor:
    """Largest weighted message of every row, 0 where there is none; one row after the other."""
    b, t, _, f = x.shape
    messages = x.double()[:, :, edges[0]] * full(weight, edges.shape[1], b, t, f)
    out = torch.zeros(b, t, rows, f, dtype=torch.float64)
    for row in edges[1].unique():
        out[:, :, row] = messages[:, :, edges[1] == row].amax(2)
    return out


def slow_reduce(edges: Tensor, weight: Tensor | None, x: Tensor, rows: int, reduce: str) -> Tensor:
    """The reduction of that name."""
    if reduce == "max":
        return slow_max(edges, weight, x, rows)
    out = slow_sum(edges, weight, x, rows)
    if reduce == "mean":
        out = out / torch.bincount(edges[1], minlength=rows).clamp(min=1)[:, None]
    return out
