"""Both gradients of a weighted sum at one go equal those of the transposed product and of the products at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_graphs import KINDS, adjacency, slow_sum
from torch import Tensor

from stgraph import ops
from stgraph.ops import Adjacency, library, sparse
from stgraph.ops.adjacency import arranged_rows
from stgraph.ops.library import ops as operators

pytestmark = pytest.mark.usefixtures("kernels")
LEADS = ((), (3,), (2, 3))


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradients(graph: Adjacency, x: Tensor, weight: Tensor, above: Tensor, reduce: str = "sum") -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    return torch.autograd.grad(ops.spmm(graph, x, weight=weight, reduce=reduce), (x, weight), above)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each backward pass went at one go."""
    found: list[bool] = []
    ask = sparse._at_one_go
    monkeypatch.setattr(sparse, "_at_one_go", lambda *given: found.append(ask(*given)) or found[-1])
    return found


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_equal_to_a_sum_in_64_bits(kind: str, lead: tuple[int, ...], index: torch.dtype, calls: list[bool]) -> None:
    graph, edges = adjacency(kind, index)
    x, weight = numbers(*lead, graph.columns, 80), numbers(graph.edges, seed=2)
    above = numbers(*lead, graph.rows, 80, seed=3)
    grad_x, grad_weight = gradients(graph, x, weight, above)
    assert calls == [True]
    slabs = math.prod(lead)
    wide, wide_above = x.view(slabs, 1, graph.columns, 80), above.view(slabs, 1, graph.rows, 80)
    wanted = slow_sum(edges.flip(0), weight[:, None, None, None], wide_above, graph.columns)
    torch.testing.assert_close(grad_x, wanted.float().view(x.shape), rtol=1e-5, atol=1e-5)
    dots = (wide.double()[:, 0, edges[0]] * wide_above.double()[:, 0, edges[1]]).sum((0, 2))
    torch.testing.assert_close(grad_weight, dots.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_equal_to_the_two_kernels(dtype: torch.dtype, reduce: str, calls: list[bool],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = adjacency("power law")
    given = (numbers(3, graph.columns, 64, dtype=dtype), numbers(graph.edges, dtype=dtype, seed=2),
             numbers(3, graph.rows, 64, dtype=dtype, seed=3))
    together = gradients(graph, *given, reduce)
    monkeypatch.setattr(sparse, "_at_one_go", lambda *_: False)
    apart = gradients(graph, *given, reduce)
    assert calls == [True]
    epsilon = torch.finfo(dtype).eps
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=4 * epsilon, atol=4 * epsilon * float(other.abs().max()))


@pytest.mark.parametrize("slabs", [1, 40])
def test_to_the_bit_over_threads(slabs: int, kernels: str, calls: list[bool]) -> None:
    """Large enough for several threads and blocks."""
    if kernels == "torch":
        pytest.skip("the kernels are looked at")
    generator = torch.Generator().manual_seed(0)
    graph = Adjacency.of_edges(torch.randint(3000, (2, 70_000), generator=generator), 3000, 3000)
    given = numbers(slabs, 3000, 16), numbers(graph.edges, seed=2), numbers(slabs, 3000, 16, seed=3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(graph, *given))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    assert calls == [True] * 3


def test_a_row_of_more_edges_than_a_block_holds(calls: list[bool]) -> None:
    edges = torch.stack([torch.zeros(40_000, dtype=torch.int64), torch.arange(40_000) % 50])
    graph = Adjacency.of_edges(edges, 2, 50)
    x, weight, above = numbers(2, 2, 16), numbers(40_000, seed=2), numbers(2, 50, 16, seed=3)
    grad_x, grad_weight = gradients(graph, x, weight, above)
    wanted = (weight.double()[:, None] * above.double()[:, edges[1]]).sum(1)
    torch.testing.assert_close(grad_x[:, 0], wanted.float(), rtol=1e-4, atol=1e-3)
    assert not grad_x[:, 1].any()
    torch.testing.assert_close(grad_weight, (x[:, :1] * above[:, edges[1]]).sum((0, 2)), rtol=1e-4, atol=1e-4)
    assert calls == [True]


@pytest.mark.parametrize("why", ["narrow", "strides of x", "strides above", "twice"])
def test_what_does_not_fit_goes_the_other_way(why: str, calls: list[bool]) -> None:
    graph, edges = adjacency("bipartite")
    width = 24 if why == "narrow" else 32
    x, weight = numbers(3, graph.columns, width), numbers(graph.edges, seed=2)
    above = numbers(3, graph.rows, width, seed=3)
    if why == "strides of x":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    if why == "strides above":
        above = above.transpose(0, 1).contiguous().transpose(0, 1)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    out = ops.spmm(graph, x, weight=weight)
    grad_x, grad_weight = torch.autograd.grad(out, (x, weight), above, create_graph=why == "twice")
    assert calls == [False]
    wanted = slow_sum(edges.flip(0), weight.detach()[:, None, None, None], above[:, None], graph.columns)
    torch.testing.assert_close(grad_x, wanted[:, 0].float(), rtol=1e-5, atol=1e-5)
    if why == "twice":  # x moves the gradient of the weights
        assert torch.autograd.grad(grad_weight.sum(), x)[0].any()


@pytest.mark.parametrize("lead", LEADS)
def test_rows_in_another_order_with_and_without_kernels(lead: tuple[int, ...]) -> None:
    graph, _ = adjacency("power law")
    back = graph.transpose
    order = torch.randperm(back.rows, generator=torch.Generator().manual_seed(0)).int()
    given = numbers(graph.edges), numbers(*lead, back.rows, 16), numbers(*lead, back.columns, 16, seed=2)
    wanted = operators.weighted_sum_gradients.default(*back.parts, *given, None)
    *parts, _ = arranged_rows(back, order)
    for function in (operators.weighted_sum_gradients.default, library._weighted_sum_gradients):
        for one, other in zip(function(*parts, *given, order), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_opcheck() -> None:
    graph, _ = adjacency("power law")
    given = numbers(graph.edges), numbers(2, graph.columns, 16), numbers(2, graph.rows, 16, seed=2)
    torch.library.opcheck(operators.weighted_sum_gradients.default, (*graph.transpose.parts, *given, None))


@pytest.mark.parametrize("bad", ["width", "strides", "rows", "leading", "weight", "type"])
def test_the_operator_refuses_what_it_cannot_do(bad: str, kernels: str) -> None:
    if kernels == "torch":
        pytest.skip("the kernels are looked at")
    graph, _ = adjacency("bipartite")
    x, weight, above = numbers(2, graph.columns, 16), numbers(graph.edges), numbers(2, graph.rows, 16)
    if bad == "width":
        x, above = x[..., :8].contiguous(), above[..., :8].contiguous()
    elif bad == "strides":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif bad == "rows":
        x = x[:, 1:].contiguous()
    elif bad == "leading":
        above = above[:1]
    elif bad == "weight":
        weight = weight[1:]
    else:
        above = above.double()
    with pytest.raises(RuntimeError, match="expected"):
        operators.weighted_sum_gradients.default(*graph.transpose.parts, weight, x, above, None)
