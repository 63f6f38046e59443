"""Every operator is traced whole, and twice at most while the numbers of nodes and edges change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stgraph import ops
from stgraph.ops import Adjacency

pytestmark = pytest.mark.usefixtures("kernels")
SIZES = ((9, 7, 31), (20, 13, 77), (33, 41, 120), (50, 50, 12))
HEADS, WIDTH = 2, 6


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Nothing compiled before counts."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def graph(sources: int, destinations: int, edges: int) -> Adjacency:
    generator = torch.Generator().manual_seed(edges)
    return Adjacency.of_edges(torch.stack([torch.randint(0, sources, (edges,), generator=generator),
                                           torch.randint(0, destinations, (edges,), generator=generator)]),
                              sources, destinations)


def reduced(name: str) -> Callable[..., Tensor]:
    return lambda graph, x, weight: ops.spmm(graph, x, weight=weight, reduce=name)


# what is traced, given a graph and tensors [.., nodes, ..] of sources (s), destinations (d) or edges (e)
TRACED: dict[str, tuple[Callable[..., Tensor], tuple[tuple[Any, ...], ...]]] = {
    "spmm sum": (reduced("sum"), ((3, "s", WIDTH), ("e",))),
    "spmm mean": (reduced("mean"), ((3, "s", WIDTH), ("e", HEADS))),
    "spmm max": (reduced("max"), (("s", WIDTH), ("e",))),
    "spmm addend": (lambda graph, x, y: ops.spmm(graph, x, addend=y), ((2, 3, "s", WIDTH), (2, 3, "d", WIDTH))),
    "sddmm": (lambda graph, a, b: ops.sddmm(graph, a, b, heads=HEADS), ((3, "d", WIDTH), (3, "s", WIDTH))),
    "segment_reduce": (lambda graph, x: ops.segment_reduce(graph.rowptr, x, "mean"), ((3, "e", WIDTH),)),
    "segment_reduce max": (lambda graph, x: ops.segment_reduce(graph.rowptr, x, "max"), (("e", WIDTH),)),
    "gather_rows": (lambda graph, x: ops.gather_rows(x, graph.col), ((3, "s", WIDTH),)),
    "gat_aggregate": (lambda graph, a, b, v, e: ops.gat_aggregate(graph, a, b, v, e, dropout=0.2, seed=3),
                      ((3, "s", HEADS), (3, "d", HEADS), (3, "s", HEADS, WIDTH), ("e", HEADS))),
    "graph_attention": (lambda graph, q, k, v: ops.graph_attention(graph, q, k, v),
                        (("d", HEADS, WIDTH), ("s", HEADS, WIDTH), ("s", HEADS, WIDTH))),
}


@pytest.mark.parametrize("how", ["tensors", "adjacency"])
@pytest.mark.parametrize("name", TRACED)
def test_one_graph_for_changing_sizes(name: str, how: str) -> None:
    function, shapes = TRACED[name]
    traced = []

    def count(module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        traced.append(module)
        return module

    def by_tensors(columns: int, index: tuple[Tensor, ...], *given: Tensor) -> Tensor:
        return function(Adjacency(*index, columns=columns), *(x.sin() for x in given)).cos()

    def by_adjacency(graph: Adjacency, *given: Tensor) -> Tensor:
        return function(graph, *(x.sin() for x in given)).cos()

    body = by_tensors if how == "tensors" else by_adjacency
    compiled = torch.compile(body, fullgraph=True, backend=count)
    for sources, destinations, edges in SIZES:
        made = graph(sources, destinations, edges)
        _ = made.transpose
        size = {"s": sources, "d": destinations, "e": edges}
        given = [numbers(*(size.get(axis, axis) for axis in shape), seed=seed) for seed, shape in enumerate(shapes)]
        first = (sources, made.parts) if how == "tensors" else (made,)
        out, wanted = compiled(*first, *given), body(*first, *given)
        torch.testing.assert_close(out, wanted)
        for mine, other in zip(torch.autograd.grad(out.sum(), given), torch.autograd.grad(wanted.sum(), given),
                               strict=True):
            torch.testing.assert_close(mine, other)
    assert len(traced) <= 2, f"traced {len(traced)} times for {len(SIZES)} sizes"
