"""Laws that the other tests of the operators do not show: each catches a bug that was once planted in the kernels."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from stgraph import ops
from stgraph.ops import attention

pytestmark = pytest.mark.usefixtures("kernels")


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_graph(sources: int, destinations: int, edges: int) -> tuple[ops.Adjacency, Tensor]:
    draw = torch.Generator().manual_seed(edges)
    ends = torch.stack([torch.randint(n, (edges,), generator=draw) for n in (sources, destinations)])
    return ops.Adjacency.of_edges(ends, sources, destinations), ends


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("width", [1, 4, 20, 64])
def test_an_addend_may_lie_otherwise_than_the_features(reduce: str, width: int) -> None:
    graph, _ = random_graph(12, 9, 60)
    x, addend = numbers(2, 3, 12, width), numbers(2, 3, 9, width, seed=2)
    plain = ops.spmm(graph, x, reduce=reduce)
    for order in ((0, 1, 2, 3), (2, 0, 1, 3), (1, 2, 0, 3)):
        back = [order.index(axis) for axis in range(4)]
        lying = addend.permute(order).contiguous().permute(back)
        torch.testing.assert_close(ops.spmm(graph, x, reduce=reduce, addend=lying), plain + addend)
        wide = torch.cat([lying, lying], 3)[..., width:]
        torch.testing.assert_close(ops.spmm(graph, x, reduce=reduce, addend=wide), plain + addend)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_sddmm_over_more_edges_than_a_block_holds(heads: int, index: torch.dtype) -> None:
    graph, ends = random_graph(30, 40, 9000)
    assert graph.edge is not None
    graph = ops.Adjacency(graph.rowptr.to(index), graph.col.to(index), graph.edge.to(index), columns=30)
    a, b = numbers(2, 40, 8), numbers(2, 30, 8, seed=2)
    wanted = (a[:, ends[1]] * b[:, ends[0]]).unflatten(-1, (heads, -1)).sum(-1)
    torch.testing.assert_close(ops.sddmm(graph, a, b, heads=heads), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 4, 8, 16, 64, 100])
@pytest.mark.parametrize("lead", [(), (4, 2)])
def test_results_are_rounded_once_and_to_the_nearest(dtype: torch.dtype, width: int, lead: tuple[int, ...]) -> None:
    """A row of one entry is one product, whose rounding is known; halfway goes to the even neighbour."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    graph = ops.Adjacency.of_edges(torch.stack([order, torch.arange(64)]), 64, 64)
    x, weight = numbers(*lead, 64, width, dtype=dtype), numbers(64, dtype=dtype, seed=2)
    x[..., order[:3], :], weight[:3] = 1.0, torch.tensor([1.0, 1.0, 3.0], dtype=dtype)
    wanted = (x.float()[..., order, :] * weight.float()[:, None]).to(dtype)
    assert torch.equal(ops.spmm(graph, x, weight=weight), wanted)
    tie = torch.finfo(dtype).eps / 2  # 1 + eps / 2 and 1 + 3 eps / 2 lie halfway
    addend = torch.full_like(x, tie)
    both = ops.spmm(graph, torch.ones_like(x), addend=addend)
    assert torch.equal(both, torch.ones_like(x))
    odd = torch.full_like(x, 1 + torch.finfo(dtype).eps)
    assert torch.equal(ops.spmm(graph, odd, addend=addend), torch.full_like(x, 1 + 2 * torch.finfo(dtype).eps))


@pytest.mark.parametrize("width", [1, 4, 20])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_weights_of_entries_need_not_lie_side_by_side(width: int, index: torch.dtype) -> None:
    graph, _ = random_graph(12, 9, 60)
    graph = ops.Adjacency(graph.rowptr.to(index), graph.col.to(index), columns=12)  # entries are edges
    x, weight = numbers(2, 3, 12, width), numbers(60, 3, seed=2)
    apart = ops.spmm(graph, x, weight=weight[:, 1])
    assert torch.equal(apart, ops.spmm(graph, x, weight=weight[:, 1].contiguous()))
    assert torch.equal(ops.spmm(graph, x, weight=weight[:1, 0].expand(60)),
                       ops.spmm(graph, x, weight=weight[:1, 0].repeat(60)))


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("degree", [1, 7, 40, 70])
def test_what_attention_keeps_is_the_logarithm_of_the_sum_of_exponentials(dot: bool, degree: int) -> None:
    """Over rows of any length, as they are gone through in blocks."""
    source = torch.arange(3 * degree) % 11
    graph = ops.Adjacency.of_edges(torch.stack([source, torch.arange(3).repeat_interleave(degree)]), 11, 3)
    axes = (2, 4) if dot else (2,)
    query, key = numbers(2, 3, 3, *axes), numbers(2, 3, 11, *axes, seed=2)
    value, bias = numbers(2, 3, 11, 2, 4, seed=3), numbers(3 * degree, 2, seed=4)
    name = "graph_attention" if dot else "gat_aggregate"
    operator = getattr(attention.ops, name)
    lse = operator(*graph.parts, query, key, value, bias, 0.3, 0.0, 0, None, None, None)[1]
    at, to = query[:, :, torch.arange(3).repeat_interleave(degree)], key[:, :, source]
    score = (at * to).sum(-1) * 0.3 + bias if dot else torch.nn.functional.leaky_relu(at + to + bias, 0.3)
    torch.testing.assert_close(lse, score.unflatten(2, (3, degree)).logsumexp(3))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_few_channels_of_one_slab(width: int, reduce: str, index: torch.dtype) -> None:
    """Rows of 0 to 9 entries, with no weights, weights in their order and in any other."""
    degrees = torch.arange(40) % 10
    destination = torch.arange(40).repeat_interleave(degrees)
    source = torch.randint(0, 30, (len(destination),), generator=torch.Generator().manual_seed(1))
    mixed = torch.randperm(len(source), generator=torch.Generator().manual_seed(2))
    wide = numbers(30, width + 2)
    for order in (torch.arange(len(source)), mixed):
        ends = torch.stack([source, destination])[:, order]
        made = ops.Adjacency.of_edges(ends, 30, 40)
        edge = None if order is not mixed else made.edge.to(index)
        graph = ops.Adjacency(made.rowptr.to(index), made.col.to(index), edge, columns=30)
        for x, weight in itertools.product((wide[:, 1:width + 1], wide[:, :width].contiguous()),
                                           (None, numbers(len(source), seed=3))):
            messages = x[ends[0]] if weight is None else x[ends[0]] * weight[:, None]
            wanted = torch.zeros(40, width).index_add(0, ends[1], messages)
            wanted = wanted / degrees.clamp(min=1)[:, None] if reduce == "mean" else wanted
            torch.testing.assert_close(ops.spmm(graph, x, weight=weight, reduce=reduce), wanted)
