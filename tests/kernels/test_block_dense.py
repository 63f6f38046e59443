"""Products by blocks of rows: equal to a sum edge by edge, with gradients, and one plan for PyTorch and the kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated import Graph, Kernels
from emulated_checks import halo_plan

from stgraph.errors import InputError
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.block_dense import block_dense_spmm, plan


def made(rows: int, columns: int, edges: int, seed: int = 0) -> Adjacency:
    """Random edges in any order, some of them twice."""
    draw = torch.Generator().manual_seed(seed)
    if not rows or not columns:
        edges = 0
    ends = torch.stack([torch.randint(max(size, 1), (edges,), generator=draw) for size in (columns, rows)])
    return Adjacency.of_edges(torch.cat([ends, ends[:, :3]], 1), columns, rows)


def by_edges(graph: Adjacency, x: torch.Tensor, weight: torch.Tensor | None, reduce: str) -> torch.Tensor:
    """The slow way, in float64."""
    messages = x.double()[..., graph.col.long(), :]
    if weight is not None:
        messages = messages * (weight if graph.edge is None else weight[graph.edge.long()]).double()[:, None]
    out = torch.zeros(*x.shape[:-2], graph.rows, x.shape[-1], dtype=torch.float64)
    out = out.index_add(-2, graph.row.long(), messages)
    return out / graph.rowptr.diff().clamp(min=1)[:, None] if reduce == "mean" else out


@pytest.mark.parametrize(("rows", "columns", "edges"), [(50, 40, 300), (1, 9, 30), (64, 64, 0), (0, 5, 0), (5, 0, 0),
                                                        (33, 7, 60)])
@pytest.mark.parametrize(("row_block", "reduce", "weighted"), [(16, "sum", True), (16, "mean", False),
                                                               (128, "mean", True), (1, "sum", False)])
def test_equals_the_sum_over_edges(rows: int, columns: int, edges: int, row_block: int, reduce: str,
                                   weighted: bool) -> None:
    graph = made(rows, columns, edges)
    x = torch.randn(2, 3, columns, 5)
    weight = torch.randn(graph.edges) if weighted else None
    addend = torch.randn(2, 3, rows, 5)
    out = block_dense_spmm(plan(graph, row_block), x, weight, reduce, addend)
    assert out.shape == (2, 3, rows, 5)
    torch.testing.assert_close(out.double(), by_edges(graph, x, weight, reduce) + addend, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_number_types(dtype: torch.dtype) -> None:
    graph = made(30, 30, 200)
    x, weight = torch.randn(30, 8).to(dtype), torch.randn(graph.edges).to(dtype)
    out = block_dense_spmm(plan(graph, 16), x, weight)
    assert out.dtype == dtype
    limit = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(out.double(), by_edges(graph, x, weight, "sum"), atol=limit, rtol=limit)


def test_gradients() -> None:
    graph = made(12, 9, 40)
    blocks = plan(graph, 5)
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(graph.edges, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: block_dense_spmm(blocks, x, w, "mean"), (x, weight))


@pytest.mark.parametrize("row_block", [1, 7, 64])
def test_the_plan_lists_each_source_of_a_block_once(row_block: int) -> None:
    graph = made(50, 40, 300)
    blocks = plan(graph, row_block)
    pointer, halo, local = halo_plan(Graph(graph.rowptr.numpy(), graph.col.numpy(), None, 40), row_block)
    assert np.array_equal(blocks.pointer.numpy(), pointer)
    assert np.array_equal(blocks.halo.numpy(), halo)
    assert np.array_equal(blocks.local.numpy(), local)
    assert blocks.widest == np.diff(pointer).max()
    assert blocks.reuse == graph.edges / len(halo)


def test_neighbours_that_stand_together_are_read_again() -> None:
    """A ring in order reuses its sources; the same ring in random order does not."""
    n = 512
    source = (torch.arange(n)[:, None] + torch.arange(-4, 5)) % n
    ring = torch.stack([source.flatten(), torch.arange(n).repeat_interleave(9)])
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0))[ring]
    assert plan(Adjacency.of_edges(ring, n, n), 64).reuse == 64 * 9 / (64 + 8)
    assert plan(Adjacency.of_edges(shuffled, n, n), 64).reuse < 2


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_the_kernel_takes_the_same_plan(kernels: Kernels, reduce: str) -> None:
    graph = made(50, 40, 300)
    blocks = plan(graph, 16)
    x, weight = torch.randn(1, 1, 40, 12), torch.randn(graph.edges)
    g = Graph(graph.rowptr.numpy(), graph.col.numpy(), graph.edge.numpy() if graph.edge is not None else None, 40)
    got = kernels.staged(g, x.numpy(), weight.numpy()[:, None, None, None], reduce=reduce, row_block=16,
                         plan=(blocks.pointer.numpy(), blocks.halo.numpy(), blocks.local.numpy()))
    torch.testing.assert_close(torch.from_numpy(got), block_dense_spmm(blocks, x, weight, reduce), atol=1e-5, rtol=1e-5)


def test_wrong_arguments() -> None:
    blocks = plan(made(12, 9, 40), 5)
    x = torch.randn(9, 3)
    with pytest.raises(InputError, match="at least one row"):
        plan(made(3, 3, 3), 0)
    for call in (lambda: block_dense_spmm(blocks, x[:8]), lambda: block_dense_spmm(blocks, x, torch.ones(3)),
                 lambda: block_dense_spmm(blocks, x, None, "max"),
                 lambda: block_dense_spmm(blocks, x, None, "sum", x)):
        with pytest.raises(InputError):
            call()
