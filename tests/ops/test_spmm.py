"""Sparse times dense equals a slow sum in 64 bits, on every graph, width, layout, weight, type; and its gradients."""

from __future__ import annotations

import pytest
import torch
from kernel_graphs import KINDS, adjacency, full, slow_reduce, slow_sum
from torch import Tensor

from stgraph import ops
from stgraph.errors import InputError
from stgraph.ops.names import NAMESPACE

pytestmark = pytest.mark.usefixtures("kernels")
WIDTHS = (1, 2, 3, 4, 5, 31, 32, 33, 64, 100, 257)
REDUCTIONS = ("sum", "mean", "max")
BATCH, TIME = 2, 3


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weights(kind: str, edges: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor | None, dict[str, object]]:
    """A weight of this kind and the words that go with it."""
    if kind == "none":
        return None, {}
    if kind == "heads":
        return numbers(edges, 4, dtype=dtype, seed=2), {"heads": 4}
    if kind == "time":
        return numbers(edges, TIME, dtype=dtype, seed=2), {"per": "time"}
    if kind == "batch":
        return numbers(edges, BATCH, dtype=dtype, seed=2), {"per": "batch"}
    if kind == "all":
        return numbers(edges, BATCH, TIME, 2, dtype=dtype, seed=2), {}
    if kind == "zero stride":
        return torch.tensor(0.5, dtype=dtype).expand(edges), {}
    return numbers(edges, dtype=dtype, seed=2), {}


def four(weight: Tensor | None, words: dict[str, object]) -> Tensor | None:
    if weight is None or weight.dim() == 4:
        return weight
    if weight.dim() == 1:
        return weight[:, None, None, None]
    per = words.get("per")
    return weight[:, None, :, None] if per == "time" else weight[:, :, None, None] if per else weight[:, None, None]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_every_graph(kind: str, reduce: str, index: torch.dtype) -> None:
    graph, edges = adjacency(kind, index)
    x, weight = numbers(BATCH, TIME, graph.columns, 20), numbers(graph.edges, seed=2)
    wanted = slow_reduce(edges, weight[:, None, None, None], x, graph.rows, reduce)
    torch.testing.assert_close(ops.spmm(graph, x, weight=weight, reduce=reduce), wanted.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("layout", ["batch", "node"])
def test_every_width_and_layout(width: int, layout: str, reduce: str) -> None:
    graph, edges = adjacency("power law")
    x, weight = numbers(BATCH, TIME, graph.columns, width), numbers(graph.edges, seed=2)
    if layout == "node":
        x = x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    before = ops.copies.count
    out = ops.spmm(graph, x, weight=weight, reduce=reduce)
    assert ops.copies.count == before
    assert (out.permute(2, 0, 1, 3) if layout == "node" else out).is_contiguous()
    wanted = slow_reduce(edges, weight[:, None, None, None], x, graph.rows, reduce)
    torch.testing.assert_close(out, wanted.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("kind", ["none", "edge", "heads", "time", "batch", "all", "zero stride"])
@pytest.mark.parametrize("width", [4, 64, 136])
def test_every_weight_with_addend(kind: str, reduce: str, width: int) -> None:
    graph, edges = adjacency("bipartite")
    x, addend = numbers(BATCH, TIME, graph.columns, width), numbers(BATCH, TIME, graph.rows, width, seed=3)
    weight, words = weights(kind, graph.edges)
    out = ops.spmm(graph, x, weight=weight, reduce=reduce, addend=addend, **words)
    wanted = slow_reduce(edges, four(weight, words), x, graph.rows, reduce) + addend
    torch.testing.assert_close(out, wanted.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"),
                         [(torch.float64, 1e-13), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("width", [1, 6, 23, 64])
def test_every_type(dtype: torch.dtype, tolerance: float, reduce: str, width: int) -> None:
    graph, edges = adjacency("star")
    x, weight = numbers(graph.columns, width, dtype=dtype), numbers(graph.edges, dtype=dtype, seed=2)
    out = ops.spmm(graph, x, weight=weight, reduce=reduce)
    assert out.dtype == dtype
    wanted = slow_reduce(edges, weight[:, None, None, None], x[None, None], graph.rows, reduce)[0, 0]
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)


def test_sixteen_bits_are_summed_in_thirty_two() -> None:
    """4096 ones in bfloat16: a sum in 16 bits stops at 256."""
    edges = torch.stack([torch.arange(4096), torch.zeros(4096, dtype=torch.int64)])
    graph = ops.Adjacency.of_edges(edges, 4096, 1)
    for dtype in (torch.bfloat16, torch.float16):
        assert ops.spmm(graph, torch.ones(4096, 3, dtype=dtype)).tolist() == [[4096.0] * 3]


def test_bare_tensors_and_leading_axes() -> None:
    graph, edges = adjacency("power law")
    order = graph.edge.long()
    weight = numbers(graph.edges, seed=2)
    for leading in ((), (5,), (2, 3), (2, 2, 3)):
        x = numbers(*leading, graph.columns, 8)
        out = ops.spmm(graph.rowptr, graph.col, x, weight=weight[order], reduce="sum")
        assert out.shape == (*leading, graph.rows, 8)
        assert torch.equal(out, ops.spmm(graph, x, weight=weight))
        wanted = slow_sum(edges, weight[:, None, None, None], x.reshape(1, -1, graph.columns, 8), graph.rows)
        torch.testing.assert_close(out, wanted.reshape(out.shape).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("how", ["part of the nodes", "part of the batch", "misaligned", "expanded nodes",
                                 "expanded batch", "transposed", "time first", "expanded channels"])
def test_strides(how: str, reduce: str) -> None:
    graph, edges = adjacency("self loops")
    n = graph.columns
    x = {"part of the nodes": numbers(BATCH, TIME, 2 * n, 20)[:, :, ::2],
         "part of the batch": numbers(2 * BATCH, TIME, n, 20)[1::2],
         "misaligned": numbers(BATCH, TIME, n, 21)[..., 1:],
         "expanded nodes": numbers(BATCH, TIME, 1, 20).expand(-1, -1, n, -1),
         "expanded batch": numbers(1, TIME, n, 20).expand(BATCH, -1, -1, -1),
         "transposed": numbers(BATCH, TIME, 20, n).transpose(2, 3),
         "time first": numbers(TIME, BATCH, n, 20).transpose(0, 1),
         "expanded channels": numbers(BATCH, TIME, n, 1).expand(-1, -1, -1, 20)}[how]
    weight = numbers(graph.edges, 2, seed=2)[:, 1]
    before = ops.copies.count
    out = ops.spmm(graph, x, weight=weight, reduce=reduce)
    assert ops.copies.count - before == (how in ("transposed", "expanded channels"))
    wanted = slow_reduce(edges, weight[:, None, None, None], x, graph.rows, reduce)
    torch.testing.assert_close(out, wanted.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("width", [1, 40])
def test_a_nan_reaches_exactly_the_out_neighbours(reduce: str, width: int) -> None:
    graph, edges = adjacency("power law")
    x = numbers(4, 1, graph.columns, width)
    x[:, :, 7] = float("nan")
    out = ops.spmm(graph, x, reduce=reduce)
    reached = torch.zeros(graph.rows, dtype=torch.bool)
    reached[edges[1][edges[0] == 7]] = True
    assert reached.any()
    assert not reached.all()
    assert torch.equal(out.isnan(), reached[:, None].expand_as(out))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_empty_rows_are_zero_and_chose_nothing(reduce: str) -> None:
    graph, _ = adjacency("no edges")
    out, argument = getattr(torch.ops, NAMESPACE).spmm(
        graph.rowptr, graph.col, graph.edge, None, numbers(1, 1, 5, 3) - 9, None,
        {"sum": 0, "mean": 1, "max": 2}[reduce], None, None, None)
    assert torch.equal(out, torch.zeros(1, 1, 4, 3))
    if reduce == "max":
        assert torch.equal(argument, torch.full((1, 1, 4, 3), -1))


def test_the_maximum_says_which_edge_it_came_over() -> None:
    graph, edges = adjacency("power law")
    x, weight = numbers(2, 1, graph.columns, 19), numbers(graph.edges, 1, 1, 1, seed=2)
    out, argument = getattr(torch.ops, NAMESPACE).spmm(graph.rowptr, graph.col, graph.edge, weight, x, None, 2, None,
                                                       None, None)
    for b, _, i, c in (argument >= 0).nonzero().tolist():
        edge = argument[b, 0, i, c]
        assert edges[1, edge] == i
        assert out[b, 0, i, c] == x[b, 0, edges[0, edge], c] * weight[edge, 0, 0, 0]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("width", [1, 3, 64, 200])
def test_runs_and_threads_and_batches_agree_to_the_bit(reduce: str, width: int) -> None:
    edges = torch.randint(0, 300, (2, 6000), generator=torch.Generator().manual_seed(5))
    graph = ops.Adjacency.of_edges(edges, 300, 300)
    x, weight = numbers(6, 2, 300, width), numbers(6000, seed=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.spmm(graph, x, weight=weight, reduce=reduce)
        assert torch.equal(one, ops.spmm(graph, x, weight=weight, reduce=reduce))
        torch.set_num_threads(2)
        assert torch.equal(one, ops.spmm(graph, x, weight=weight, reduce=reduce))
    finally:
        torch.set_num_threads(threads)
    apart = torch.stack([ops.spmm(graph, part, weight=weight, reduce=reduce) for part in x])
    torch.testing.assert_close(apart, one, rtol=0, atol=1e-5)
    if reduce == "max":
        assert torch.equal(apart, one)


# ---------------------------------------------------------------- gradients
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("kind", ["none", "edge", "heads", "time", "batch", "all"])
@pytest.mark.parametrize("layout", ["batch", "node"])
def test_gradients_are_those_of_small_differences(reduce: str, kind: str, layout: str) -> None:
    edges = torch.tensor([[0, 1, 2, 2, 0, 1, 1], [1, 0, 1, 3, 3, 3, 3]])
    graph = ops.Adjacency.of_edges(edges, 3, 5)
    weight, words = weights(kind, 7, torch.float64)
    x = numbers(BATCH, TIME, 3, 4, dtype=torch.float64)
    if layout == "node":
        x = x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    addend = numbers(BATCH, TIME, 5, 4, dtype=torch.float64, seed=3)
    inputs = [value.detach().requires_grad_() for value in (x, addend, weight) if value is not None]

    def run(x: Tensor, addend: Tensor, weight: Tensor | None = None) -> Tensor:
        return ops.spmm(graph, x, weight=weight, reduce=reduce, addend=addend, **words)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_on_every_graph(kind: str) -> None:
    graph, edges = adjacency(kind)
    x, weight = numbers(2, 1, graph.columns, 20), numbers(graph.edges, seed=2)
    given = numbers(2, 1, graph.rows, 20, seed=4)
    fast_x, fast_weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    ops.spmm(graph, fast_x, weight=fast_weight).backward(given)
    slow_x, slow_weight = x.double().requires_grad_(), weight.double().requires_grad_()
    slow_sum(edges, slow_weight[:, None, None, None], slow_x, graph.rows).backward(given.double())
    torch.testing.assert_close(fast_x.grad, slow_x.grad.float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(fast_weight.grad, slow_weight.grad.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradients_in_sixteen_bits(dtype: torch.dtype, reduce: str) -> None:
    graph, _ = adjacency("power law")
    x, weight = numbers(2, graph.columns, 20, dtype=dtype), numbers(graph.edges, dtype=dtype, seed=2)
    given = numbers(2, graph.rows, 20, dtype=dtype, seed=4)
    grads = []
    for number in (dtype, torch.float32):
        leaf, factor = (value.detach().clone().to(number).requires_grad_() for value in (x, weight))
        ops.spmm(graph, leaf, weight=factor, reduce=reduce).backward(given.to(number))
        grads.append((leaf.grad.float(), factor.grad.float()))
    for low, high in zip(*grads, strict=True):
        torch.testing.assert_close(low, high, rtol=2e-2, atol=2e-1)


def test_gradients_agree_to_the_bit_over_threads() -> None:
    edges = torch.randint(0, 300, (2, 6000), generator=torch.Generator().manual_seed(5))
    graph = ops.Adjacency.of_edges(edges, 300, 300)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            x, weight = numbers(4, 300, 48).requires_grad_(), numbers(6000, seed=2).requires_grad_()
            ops.spmm(graph, x, weight=weight).backward(numbers(4, 300, 48, seed=3))
            found.append((x.grad, weight.grad))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# ---------------------------------------------------------------- sddmm
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("width", [4, 20, 64, 132])
def test_sddmm(kind: str, heads: int, width: int) -> None:
    graph, edges = adjacency(kind)
    a, b = numbers(BATCH, TIME, graph.rows, width), numbers(BATCH, TIME, graph.columns, width, seed=2)
    wanted = (a.double()[:, :, edges[1]] * b.double()[:, :, edges[0]]).unflatten(-1, (heads, -1)).sum(-1)
    out = ops.sddmm(graph, a, b, heads=heads)
    assert out.shape == (BATCH, TIME, graph.edges, heads)
    torch.testing.assert_close(out, wanted.float(), rtol=1e-5, atol=1e-4)


def test_sddmm_gradients() -> None:
    edges = torch.tensor([[0, 1, 2, 2, 0, 1, 1], [1, 0, 1, 3, 3, 3, 3]])
    graph = ops.Adjacency.of_edges(edges, 3, 5)
    a = numbers(2, 5, 4, dtype=torch.float64).requires_grad_()
    b = numbers(2, 3, 4, dtype=torch.float64, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ops.sddmm(graph, a, b, heads=2), (a, b))
    assert torch.autograd.gradgradcheck(lambda a, b: ops.sddmm(graph, a, b, heads=2), (a, b))


# ---------------------------------------------------------------- the tracer
@pytest.mark.parametrize("reduce", [0, 1, 2])
@pytest.mark.parametrize("kind", ["none", "edge", "all"])
def test_opcheck(reduce: int, kind: str) -> None:
    graph, _ = adjacency("bipartite")
    back = graph.transpose
    weight = four(*weights(kind, graph.edges))
    if weight is not None:
        weight = weight.detach().requires_grad_()
    x = numbers(BATCH, TIME, graph.columns, 8).requires_grad_()
    addend = numbers(BATCH, TIME, graph.rows, 8).requires_grad_()
    here = getattr(torch.ops, NAMESPACE)
    torch.library.opcheck(here.spmm.default, (graph.rowptr, graph.col, graph.edge, weight, x, addend, reduce,
                                              back.rowptr, back.col, back.edge))


def test_opcheck_of_the_rest() -> None:
    graph, _ = adjacency("bipartite")
    back, here = graph.transpose, getattr(torch.ops, NAMESPACE)
    a, b = numbers(BATCH, TIME, graph.rows, 8).requires_grad_(), numbers(BATCH, TIME, graph.columns, 8).requires_grad_()
    there, again = (graph.rowptr, graph.col, graph.edge), (back.rowptr, back.col, back.edge)
    for by_batch, by_time in ((True, True), (False, True), (False, False)):
        torch.library.opcheck(here.sddmm.default, (*there, a, b, by_batch, by_time, 2, *again))
    weight = numbers(graph.edges, 1, TIME, 2).requires_grad_()
    argument = here.spmm(*there, weight, b, None, 2, *again)[1]
    torch.library.opcheck(here.spmm_max_x.default, (*again, weight, a, argument, *there))
    torch.library.opcheck(here.spmm_max_weight.default, (*there, weight, b, a, argument, *again))


def test_compiles_whole_with_changing_sizes(kernels: str) -> None:
    torch._dynamo.reset()
    calls = []

    def count(module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        calls.append(module)
        return module

    @torch.compile(fullgraph=True, dynamic=True, backend=count)
    def run(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return ops.spmm(rowptr, col, x.relu(), weight=weight, reduce="sum").sigmoid()

    for nodes, count_of_edges in ((9, 31), (20, 77), (33, 12)):
        edges = torch.randint(0, nodes, (2, count_of_edges), generator=torch.Generator().manual_seed(nodes))
        graph = ops.Adjacency.of_edges(edges, nodes, nodes)
        x, weight = numbers(3, nodes, 5).requires_grad_(), numbers(count_of_edges, seed=2).requires_grad_()
        out = run(graph.rowptr, graph.col, x, weight)
        order = graph.edge.long()
        wanted = slow_sum(edges[:, order], weight[:, None, None, None], x.relu()[:, None], nodes)[:, 0].sigmoid()
        torch.testing.assert_close(out, wanted.float())
        grads = torch.autograd.grad(out.sum(), (x, weight))
        for fast, slow in zip(grads, torch.autograd.grad(wanted.sum(), (x, weight)), strict=True):
            torch.testing.assert_close(fast, slow.float(), rtol=1e-4, atol=1e-5)
    assert len(calls) <= 2


def test_compiles_forward_and_backward() -> None:
    torch._dynamo.reset()
    graph, edges = adjacency("power law")
    weight = numbers(graph.edges, seed=2).requires_grad_()
    step = torch.compile(lambda x: ops.spmm(graph, x, weight=weight, reduce="mean").tanh(), fullgraph=True,
                         backend="aot_eager")
    x = numbers(2, graph.columns, 6).requires_grad_()
    wanted = slow_reduce(edges, weight[:, None, None, None], x[:, None], graph.rows, "mean")[:, 0].tanh()
    out = step(x)
    torch.testing.assert_close(out, wanted.float())
    for fast, slow in zip(torch.autograd.grad(out.sum(), (x, weight)),
                          torch.autograd.grad(wanted.sum(), (x, weight)), strict=True):
        torch.testing.assert_close(fast, slow.float(), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(("field", "change"), [
    ("rowptr", {"rowptr": [0, 3, 2, 4]}), ("rowptr", {"rowptr": [0, 2, 3, 5]}), ("rowptr", {"rowptr": [1, 2, 3, 4]}),
    ("rowptr", {"rowptr": []}), ("rowptr", {"rowptr": [0.0, 2.0, 3.0, 4.0]}), ("col", {"col": [0, 1, 3, 0]}),
    ("col", {"col": [0, -1, 1, 0]}), ("col", {"col": [[0, 1], [1, 0]]}),
    ("weight", {"weight": torch.ones(3)}), ("weight", {"weight": torch.ones(4, dtype=torch.float64)}),
    ("weight", {"weight": torch.tensor([1.0, float("inf"), 1.0, 1.0])}), ("weight", {"weight": torch.ones(2, 4)}),
    ("weight", {"weight": torch.ones(4, 5), "per": "time"}), ("weight", {"weight": torch.ones(4, 2), "per": "node"}),
    ("heads", {"weight": torch.ones(4, 4)}), ("heads", {"weight": torch.ones(4, 2), "heads": 3}),
    ("x", {"x": torch.ones(3, dtype=torch.int64)}), ("x", {"x": torch.ones(3, 6, dtype=torch.int64)}),
    ("x", {"x": torch.ones(3)}), ("x", {"x": None}), ("x", {"x": torch.ones(3, 6, device="meta")}),
    ("reduce", {"reduce": "median"}), ("addend", {"addend": torch.ones(2, 6)}),
    ("addend", {"addend": torch.ones(3, 6, dtype=torch.float64)}),
])
def test_bad_input_is_named(field: str, change: dict[str, object]) -> None:
    given = {"rowptr": [0, 2, 3, 4], "col": [0, 1, 2, 0], "x": torch.ones(3, 6), "weight": torch.ones(4), **change}
    for name in ("rowptr", "col"):
        given[name] = torch.tensor(given[name])
    with pytest.raises(InputError) as caught:
        ops.spmm(**given)
    assert caught.value.field == field
    assert caught.value.remedy


def test_full_spreads_weights() -> None:
    """The slow answer itself, by hand."""
    weight = torch.arange(2.0).view(1, 1, 1, 2)
    assert full(weight, 1, 1, 1, 4).flatten().tolist() == [0, 0, 1, 1]
    x = torch.tensor([[1.0], [10.0]])[None, None]
    edges = torch.tensor([[0, 1, 1], [0, 0, 1]])
    assert slow_reduce(edges, None, x, 2, "sum").flatten().tolist() == [11, 10]
    assert slow_reduce(edges, None, x, 2, "mean").flatten().tolist() == [5.5, 10]
    assert slow_reduce(edges, None, x, 2, "max").flatten().tolist() == [10, 10]
