"""An adjacency that was arranged gives the same results, wherever rows stand and however weights change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.ops import Adjacency, spmm

NODES, WIDTH = 40_000, 64  # features beyond the size from which the order counts


@pytest.fixture(scope="module")
def edges() -> Tensor:
    """A grid of streets whose junctions are numbered at random."""
    side = int(NODES**0.5)
    node = np.arange(side * side)
    right, down = node[node % side < side - 1], node[:-side]
    source = np.concatenate([right, right + 1, down, down + side])
    target = np.concatenate([right + 1, right, down + side, down])
    number = np.random.default_rng(0).permutation(side * side)
    return torch.from_numpy(np.stack([number[source], number[target]]))


def both(edges: Tensor) -> tuple[Adjacency, Adjacency]:
    plain, arranged = (Adjacency.of_edges(edges, NODES, NODES) for _ in range(2))
    assert arranged.arrange().arranged is not None
    assert plain.arranged is None
    return plain, arranged


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_same_sums_to_the_bit(edges: Tensor, reduce: str, weighted: bool) -> None:
    plain, arranged = both(edges)
    x = torch.randn(NODES, WIDTH, generator=torch.manual_seed(0))
    weight = torch.rand(plain.edges) if weighted else None
    assert torch.equal(spmm(arranged, x, weight=weight, reduce=reduce), spmm(plain, x, weight=weight, reduce=reduce))


def test_the_same_gradients(edges: Tensor) -> None:
    found = []
    for graph in both(edges):
        torch.manual_seed(0)
        x, weight = torch.randn(NODES, WIDTH, requires_grad=True), torch.rand(graph.edges, requires_grad=True)
        spmm(graph, x, weight=weight).square().sum().backward()
        found.append((x.grad, weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_edited_in_place_count(edges: Tensor) -> None:
    plain, arranged = both(edges)
    x, weight = torch.randn(NODES, WIDTH), torch.rand(plain.edges)
    spmm(arranged, x, weight=weight)
    weight[::2] *= 3
    torch.testing.assert_close(spmm(arranged, x, weight=weight), spmm(plain, x, weight=weight))
    other = torch.rand(plain.edges)
    torch.testing.assert_close(spmm(arranged, x, weight=other), spmm(plain, x, weight=other))
    with torch.inference_mode():
        inside = torch.rand(plain.edges)
        torch.testing.assert_close(spmm(arranged, x, weight=inside), spmm(plain, x, weight=inside))
        inside *= 2
        torch.testing.assert_close(spmm(arranged, x, weight=inside), spmm(plain, x, weight=inside))


def test_an_order_that_is_good_stays() -> None:
    """Rows that stand beside their neighbours already are not moved."""
    line = torch.stack([torch.arange(9_999), torch.arange(1, 10_000)])
    assert Adjacency.of_edges(line, 10_000, 10_000).arrange().arranged is None
