"""Attention over in-edges: against a dense reference in float64, its gradients, and the laws it promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import Adjacency, backend
from stgraph.ops import attention as module
from stgraph.ops.attention import dropout_mask, gat_aggregate, graph_attention

both = pytest.mark.usefixtures("kernels")  # the compiled kernels, and PyTorch's own operators
BATCH, TIME = 2, 3


def ring(nodes: int) -> list[tuple[int, int]]:
    return [(j, (j + 1) % nodes) for j in range(nodes)]


def random_edges(sources: int, destinations: int, edges: int) -> list[tuple[int, int]]:
    generator = torch.Generator().manual_seed(edges)
    return list(zip(torch.randint(sources, (edges,), generator=generator).tolist(),
                    torch.randint(destinations, (edges,), generator=generator).tolist(), strict=True))


GRAPHS: dict[str, tuple[int, int, list[tuple[int, int]]]] = {
    "no nodes": (0, 0, []),
    "no edges": (3, 2, []),
    "isolated": (6, 6, [(0, 1), (2, 1), (1, 4)]),
    "duplicates": (3, 3, [(0, 1), (0, 1), (2, 1), (0, 1), (1, 0)]),
    "self loops": (4, 4, [(j, j) for j in range(4)] + ring(4)),
    "star in": (71, 71, [(j, 0) for j in range(71)]),
    "star out": (71, 71, [(0, j) for j in range(71)]),
    "bipartite": (5, 9, random_edges(5, 9, 30)),
    "random": (12, 12, random_edges(12, 12, 200)),
}


def graph(name: str, index: torch.dtype = torch.int64) -> Adjacency:
    sources, destinations, edges = GRAPHS[name]
    out = Adjacency.of_edges(torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T, sources, destinations)
    edge = None if out.edge is None else out.edge.to(index)
    return Adjacency(out.rowptr.to(index), out.col.to(index), edge, columns=sources)


def normal(*shape: int, dtype: torch.dtype = torch.float64, nodes_first: bool = False, seed: int = 0) -> Tensor:
    """Normal numbers ``[B, T, N, ...]``, in memory batch by batch or node by node."""
    out = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if nodes_first:
        back = (1, 2, 0, *range(3, len(shape)))
        out = out.permute(2, 0, 1, *range(3, len(shape))).contiguous().permute(back)
    return out


def inputs(kind: str, adjacency: Adjacency, heads: int, width: int, dtype: torch.dtype = torch.float64,
           nodes_first: bool = False, lead: tuple[int, ...] = (BATCH, TIME)) -> list[Tensor]:
    """What the sources and destinations give, values, and a number per edge."""
    rest = (heads,) if kind == "gat" else (heads, width)
    ends = (adjacency.columns, adjacency.rows) if kind == "gat" else (adjacency.rows, adjacency.columns)
    shapes = [(*lead, ends[0], *rest), (*lead, ends[1], *rest), (*lead, adjacency.columns, heads, width)]
    first = nodes_first and len(lead) == 2
    out = [normal(*shape, dtype=dtype, nodes_first=first, seed=i) for i, shape in enumerate(shapes)]
    return [*out, normal(adjacency.edges, heads, dtype=dtype, seed=9)]


def run(kind: str, adjacency: Adjacency, given: list[Tensor], **options: object) -> Tensor:
    function: Callable[..., Tensor] = gat_aggregate if kind == "gat" else graph_attention
    return function(adjacency, *given, **options)


def dense(kind: str, adjacency: Adjacency, given: list[Tensor], dropout: float = 0.0, seed: int = 0) -> Tensor:
    """The definition, edge by edge in float64, with one softmax per destination."""
    first, second, v, bias = (x.double() for x in given)
    edges = adjacency.edges
    position = torch.arange(edges) if adjacency.edge is None else adjacency.edge.long()
    row = adjacency.row.long()
    source, destination = torch.empty(edges, dtype=torch.int64), torch.empty(edges, dtype=torch.int64)
    source[position], destination[position] = adjacency.col.long(), row
    if kind == "gat":
        score = torch.nn.functional.leaky_relu(first[:, :, source] + second[:, :, destination] + bias, 0.2)
    else:
        score = (first[:, :, destination] * second[:, :, source]).sum(-1) / v.shape[-1] ** 0.5 + bias
    mask = torch.ones_like(score)
    if dropout:
        mask = dropout_mask(torch.arange(edges), v.shape[0], v.shape[1], v.shape[3], dropout, seed)
    rows = []
    for i in range(adjacency.rows):
        mine = destination == i
        share = torch.softmax(score[:, :, mine], 2) * mask[:, :, mine]
        rows.append((share[..., None] * v[:, :, source[mine]]).sum(2))
    return torch.stack(rows, 2) if rows else v.new_zeros((*v.shape[:2], 0, *v.shape[3:]))


def gradients(out: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, given, normal(*out.shape, seed=77).to(out.dtype), allow_unused=True)


def fresh(given: list[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in given]


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_result_and_gradients_equal_the_definition(kind: str, name: str, index: torch.dtype, dropout: float) -> None:
    adjacency = graph(name, index)
    for heads, width in ((1, 5), (4, 16)):
        given = fresh(inputs(kind, adjacency, heads, width))
        out = run(kind, adjacency, given, dropout=dropout, seed=3)
        same = fresh(given)
        wanted = dense(kind, adjacency, same, dropout, 3)
        torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
        if wanted.requires_grad:
            for mine, other in zip(gradients(out, given), gradients(wanted, same), strict=True):
                torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=1e-11,
                                           atol=1e-11)


@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("nodes_first", [False, True])
@pytest.mark.parametrize("width", [1, 3, 4, 8, 16, 31, 33, 64, 100])
@pytest.mark.parametrize("heads", [1, 4])
def test_any_width_and_layout_without_a_copy(kind: str, nodes_first: bool, width: int, heads: int) -> None:
    from stgraph.ops import copies

    adjacency = graph("random")
    given = fresh(inputs(kind, adjacency, heads, width, nodes_first=nodes_first))
    copies.count = 0
    out = run(kind, adjacency, given)
    assert copies.count == 0
    assert (out.stride(2) > out.stride(1)) == nodes_first  # the layout of the values
    same = fresh(given)
    wanted = dense(kind, adjacency, same)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
    for mine, other in zip(gradients(out, given), gradients(wanted, same), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.float16, 1e-2), (torch.bfloat16, 6e-2)])
@pytest.mark.parametrize("width", [7, 16, 33])
def test_narrow_numbers_are_summed_in_32_bits(kind: str, dtype: torch.dtype, error: float, width: int) -> None:
    adjacency = graph("random")
    given = fresh(inputs(kind, adjacency, 4, width, dtype=dtype))
    out = run(kind, adjacency, given, dropout=0.25, seed=1)
    assert out.dtype == dtype
    same = fresh([x.double() for x in given])
    wanted = dense(kind, adjacency, same, 0.25, 1)
    assert float((out.detach() - wanted.detach()).abs().max()) < error
    for mine, other in zip(gradients(out, given), gradients(wanted, same), strict=True):
        assert mine.dtype == dtype
        assert float((mine - other).abs().max() / (1 + other.abs().max())) < error


def test_a_long_row_of_halves_loses_nothing() -> None:
    # 16-bit sums of 4,000 equal shares would stop growing; the mean of ones is one
    nodes = 4000
    adjacency = Adjacency.of_edges(torch.stack([torch.arange(nodes), torch.zeros(nodes, dtype=torch.int64)]), nodes, 1)
    for dtype in (torch.float16, torch.bfloat16):
        out = gat_aggregate(adjacency, torch.zeros(nodes, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype),
                            torch.ones(nodes, 1, 16, dtype=dtype))
        assert torch.equal(out, torch.ones(1, 1, 16, dtype=dtype))


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradcheck(kind: str, dropout: float) -> None:
    adjacency = graph("bipartite")
    for number in (True, False):
        given = fresh(inputs(kind, adjacency, 2, 3, lead=(1, 2)))
        given = given if number else given[:3]
        assert torch.autograd.gradcheck(lambda *x: run(kind, adjacency, list(x), dropout=dropout, seed=2), given)


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("name", ["isolated", "bipartite", "no edges"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_second_derivatives_are_those_of_small_differences(kind: str, name: str, dropout: float) -> None:
    adjacency = graph(name)
    for number in (True, False):
        given = fresh(inputs(kind, adjacency, 2, 3, lead=(1, 2)))
        given = given if number else given[:3]
        assert torch.autograd.gradgradcheck(lambda *x: run(kind, adjacency, list(x), dropout=dropout, seed=2), given,
                                            fast_mode=True)


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_a_third_derivative_equals_that_of_the_definition(kind: str) -> None:
    adjacency = graph("duplicates")
    results = []
    for function in (run, dense):
        given = fresh(inputs(kind, adjacency, 2, 3, lead=(1, 2)))
        value = function(kind, adjacency, given).square().sum()
        for order in range(3):
            grads = torch.autograd.grad(value, given, create_graph=order < 2)
            value = sum((grad * (grad + normal(*grad.shape, seed=order))).sum() for grad in grads)
        results.append(grads)
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def test_second_derivatives_of_one_tensor_as_query_key_and_value() -> None:
    """As in attention to oneself without projections; and in one call for halves, which are as good as halves are."""
    adjacency = graph("random")
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        x = normal(1, 1, 12, 2, 4).to(dtype).requires_grad_()
        out = graph_attention(adjacency, x, x, x)
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), x)[0].double())
    y = normal(1, 1, 12, 2, 4).requires_grad_()
    wanted = dense("dot", adjacency, [y, y, y, torch.zeros(adjacency.edges, 2)])
    (first,) = torch.autograd.grad(wanted.square().sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), y)
    torch.testing.assert_close(results[0], second, rtol=1e-11, atol=1e-11)
    assert float((results[1] - second).abs().max() / second.abs().max()) < 0.1


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_second_derivatives_of_rows_that_are_taken_out(kind: str) -> None:
    adjacency = graph("star in")
    first, second, v, bias = inputs(kind, adjacency, 2, 4)
    for out_of in (slice(5, None), slice(None)):
        bias[out_of] = -torch.inf
        given = fresh([first, second, v, bias])
        grads = torch.autograd.grad(run(kind, adjacency, given).square().sum(), given, create_graph=True)
        found = torch.autograd.grad(sum(grad.square().sum() for grad in grads), given)
        assert all(bool(grad.isfinite().all()) for grad in found)
    assert all(not grad.any() for grad in found)


@both
@pytest.mark.parametrize("nodes_first", [False, True])
@pytest.mark.parametrize("with_edge", [False, True])
def test_opcheck(nodes_first: bool, with_edge: bool) -> None:
    adjacency = graph("bipartite")
    back = adjacency.transpose
    ends = (back.rowptr, back.col, back.edge)
    for kind, name in (("gat", "gat_aggregate"), ("dot", "graph_attention")):
        first, second, v, bias = inputs(kind, adjacency, 2, 4, nodes_first=nodes_first)
        first, second = (second, first) if kind == "gat" else (first, second)
        given = [*fresh([first, second, v]), bias.requires_grad_() if with_edge else None]
        graph_of = (adjacency.rowptr, adjacency.col, adjacency.edge)
        forward = getattr(module.ops, name).default
        torch.library.opcheck(forward, (*graph_of, *given, 0.5, 0.2, 7, *ends))
        with torch.no_grad():
            out, lse = forward(*graph_of, *given, 0.5, 0.2, 7, *ends)
            still = [None if x is None else x.detach() for x in given]
        backward = getattr(module.ops, name + "_backward").default
        torch.library.opcheck(backward, (*graph_of, *still, torch.randn_like(out), out, lse, 0.5, 0.2, 7, with_edge,
                                         *ends))


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_compiles_as_one_graph(kind: str) -> None:
    def step(adjacency: Adjacency, *given: Tensor) -> Tensor:
        return run(kind, adjacency, list(given), dropout=0.1, seed=4).sin()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for name in ("random", "bipartite"):  # other numbers of nodes and edges
        adjacency = graph(name)
        _ = adjacency.transpose
        given = fresh(inputs(kind, adjacency, 2, 4))
        same = fresh(given)
        out, wanted = compiled(adjacency, *given), step(adjacency, *same)
        torch.testing.assert_close(out, wanted)
        for mine, other in zip(gradients(out, given), gradients(wanted, same), strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_a_seed_for_every_step_is_no_other_program(kind: str) -> None:
    adjacency, traced = graph("random"), []
    given = fresh(inputs(kind, adjacency, 2, 4))
    _ = adjacency.transpose

    def count(program: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        traced.append(program)
        return program

    torch._dynamo.reset()
    compiled = torch.compile(lambda seed, *x: run(kind, adjacency, list(x), dropout=0.5, seed=seed), fullgraph=True,
                             backend=count)
    for seed in (3, 4, 5, -1, 2**40, 2**62, 7, 8, 9, 10):
        assert torch.equal(compiled(seed, *given), run(kind, adjacency, given, dropout=0.5, seed=seed))
    assert len(traced) <= 2


@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_a_batch_equals_its_entries_one_by_one(kind: str) -> None:
    adjacency = graph("random")
    given = fresh(inputs(kind, adjacency, 4, 16, dtype=torch.float32))
    out = run(kind, adjacency, given)
    for b in range(BATCH):
        alone = [x[b] if i < 3 else x for i, x in enumerate(given)]
        assert torch.equal(out[b], run(kind, adjacency, alone))
        for t in range(TIME):
            assert torch.equal(out[b, t], run(kind, adjacency, [x[t] if i < 3 else x for i, x in enumerate(alone)]))
    many = [x[None, :, None].expand(2, *x[:, None].shape) if i < 3 else x for i, x in enumerate(given)]
    assert torch.equal(run(kind, adjacency, many)[1, :, 0], out)


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_slices_of_one_tensor_need_no_copy(kind: str) -> None:
    from stgraph.ops import copies

    adjacency = graph("random")
    first, second, v, bias = inputs(kind, adjacency, 2, 8, dtype=torch.float32)
    packed = torch.cat([first, second], -1)  # as one projection gives them
    parts = list(packed.split(first.shape[-1], -1))
    behind = torch.cat([v, v], -1)[..., 1:9]  # not aligned
    copies.count = 0
    out = run(kind, adjacency, [*parts, behind, bias])
    assert copies.count == 0
    assert torch.equal(out, run(kind, adjacency, [first, second, behind.contiguous(), bias]))
    turned = run(kind, adjacency, [first, second, v.transpose(-1, -2).contiguous().transpose(-1, -2), bias])
    assert copies.count == 1
    assert torch.equal(turned, run(kind, adjacency, [first, second, v, bias]))


@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("nodes_first", [False, True])
def test_bits_do_not_depend_on_run_or_threads(kind: str, nodes_first: bool) -> None:
    nodes = 300
    edges = torch.randint(nodes, (2, 15000), generator=torch.Generator().manual_seed(1))  # long enough for two threads
    adjacency = Adjacency.of_edges(edges, nodes, nodes)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            given = fresh(inputs(kind, adjacency, 4, 16, dtype=torch.float32, nodes_first=nodes_first,
                                 lead=(2, 12)))
            out = run(kind, adjacency, given, dropout=0.2, seed=1)
            results.append((out, *gradients(out, given)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_nan_reaches_its_neighbours_and_no_other(kind: str, place: int) -> None:
    adjacency = graph("isolated")
    given = inputs(kind, adjacency, 2, 16, dtype=torch.float32)
    given[place][0, 1, 2] = torch.nan
    of_source = place == 2 or (kind == "gat") == (place == 0)
    hit = torch.zeros(BATCH, TIME, 6, dtype=torch.bool)
    hit[0, 1, 1 if of_source else 2] = of_source  # node 2 sends to node 1 and hears from none
    out = run(kind, adjacency, given)
    assert torch.equal(out.isnan().all((-1, -2)), hit)
    assert torch.equal(out.isnan().any(-1).any(-1), hit)


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores_and_rows_taken_out(kind: str, dtype: torch.dtype) -> None:
    adjacency = graph("star in")
    first, second, v, bias = inputs(kind, adjacency, 2, 4, dtype=dtype)
    bias = bias * 1e4
    out = run(kind, adjacency, [first, second, v, bias])
    torch.testing.assert_close(out, dense(kind, adjacency, [first, second, v, bias]).to(dtype), rtol=1e-3, atol=1e-3)
    bias[5:] = -torch.inf
    given = fresh([first, second, v, bias])
    out = run(kind, adjacency, given)
    torch.testing.assert_close(out, dense(kind, adjacency, given).to(dtype), rtol=1e-3, atol=1e-3)
    assert all(bool(g.isfinite().all()) for g in gradients(out, given))
    bias = torch.full_like(bias, -torch.inf)
    given = fresh([first, second, v, bias])
    out = run(kind, adjacency, given)
    assert torch.equal(out, torch.zeros_like(out))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(out, given))


@both
@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_log_of_the_sum_of_exponentials(kind: str) -> None:
    adjacency = graph("isolated")
    first, second, v, bias = inputs(kind, adjacency, 2, 4)
    first, second = (second, first) if kind == "gat" else (first, second)
    name = "gat_aggregate" if kind == "gat" else "graph_attention"
    graph_of = (adjacency.rowptr, adjacency.col, adjacency.edge)
    lse = getattr(module.ops, name)(*graph_of, first, second, v, bias, 0.5, 0.0, 0, None, None, None)[1]
    assert torch.equal(lse[:, :, [0, 2, 3, 5]], torch.full((BATCH, TIME, 4, 2), -torch.inf, dtype=torch.float64))
    if kind == "gat":  # node 4 hears from node 1 over edge 2 only, so the sum is its one score
        score = torch.nn.functional.leaky_relu(first[:, :, 4] + second[:, :, 1] + bias[2], 0.5)
    else:
        score = (first[:, :, 4] * second[:, :, 1]).sum(-1) * 0.5 + bias[2]
    torch.testing.assert_close(lse[:, :, 4], score, rtol=1e-13, atol=1e-13)


def test_dropout_has_its_rate_and_depends_on_every_index() -> None:
    for rate in (0.1, 0.5, 0.9):
        mask = dropout_mask(torch.arange(500), 3, 5, 4, rate, 11)
        assert set(mask.unique().tolist()) == {0.0, 1 / (1 - rate)}
        dropped = (mask == 0).double()
        assert abs(float(dropped.mean()) - rate) < 5 * (rate * (1 - rate) / mask.numel()) ** 0.5
        for axis in range(4):  # neighbours along any axis are dropped independently
            a, b = dropped.narrow(axis, 0, mask.shape[axis] - 1), dropped.narrow(axis, 1, mask.shape[axis] - 1)
            spread = rate * (1 - rate) / a.numel() ** 0.5
            assert abs(float(((a - rate) * (b - rate)).mean())) < 5 * spread
    one, two = (dropout_mask(torch.arange(500), 3, 5, 4, 0.5, seed) for seed in (11, 12))
    assert abs(float((one == two).double().mean()) - 0.5) < 0.05
    assert torch.equal(dropout_mask(torch.arange(9), 1, 1, 1, 0.5, -1), dropout_mask(torch.arange(9), 1, 1, 1, 0.5, -1))


@pytest.mark.parametrize("kind", ["gat", "dot"])
def test_dropout_follows_the_seed(kind: str) -> None:
    adjacency = graph("random")
    given = inputs(kind, adjacency, 4, 16, dtype=torch.float32)
    out = run(kind, adjacency, given, dropout=0.5, seed=1)
    assert torch.equal(out, run(kind, adjacency, given, dropout=0.5, seed=1))
    assert not torch.equal(out, run(kind, adjacency, given, dropout=0.5, seed=2))
    assert not torch.equal(out, run(kind, adjacency, given))


@pytest.mark.skipif(backend().name != "native", reason="compares the kernels with PyTorch's own operators")
@pytest.mark.parametrize("kind", ["gat", "dot"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("nodes_first", [False, True])
def test_kernels_equal_the_operators_of_pytorch(kind: str, dropout: float, nodes_first: bool) -> None:
    adjacency = graph("star in")
    back = adjacency.transpose
    graph_of, ends = (adjacency.rowptr, adjacency.col, adjacency.edge), (back.rowptr, back.col, back.edge)
    first, second, v, bias = inputs(kind, adjacency, 4, 16, nodes_first=nodes_first)
    first, second = (second, first) if kind == "gat" else (first, second)
    numbers = (0.3, dropout, 5)
    name = "gat_aggregate" if kind == "gat" else "graph_attention"
    results = [getattr(module.ops, name)(*graph_of, first, second, v, bias, *numbers, *ends),
               module._forward(*graph_of, first, second, v, bias, *numbers, *ends)]
    grad = torch.randn_like(results[0][0])
    results += [getattr(module.ops, name + "_backward")(*graph_of, first, second, v, bias, grad, *results[0], *numbers,
                                                        True, *ends),
                module._backward(*graph_of, first, second, v, bias, grad, results[0][0], results[0][1], *numbers, True,
                                 *ends)]
    for mine, other in ((results[0], results[1]), (results[2], results[3])):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            assert a.stride() == b.stride()


@pytest.mark.parametrize(("change", "field"), [
    ({"v": torch.zeros(2, 3, 12, 4)}, "v"),
    ({"v": torch.zeros(12, 4, 16, dtype=torch.int64)}, "v"),
    ({"q": torch.zeros(12, 4, 15)}, "q"),
    ({"q": torch.zeros(12, 4, 16, dtype=torch.float64)}, "q"),
    ({"k": torch.zeros(1, 12, 4, 16)}, "k"),
    ({"bias": torch.zeros(200)}, "bias"),
    ({"bias": torch.zeros(199, 4)}, "bias"),
    ({"dropout": 1.0}, "dropout"),
    ({"dropout": -0.1}, "dropout"),
    ({"adjacency": torch.zeros(2, 5)}, "adjacency"),
])
def test_what_does_not_fit_is_named(change: dict[str, object], field: str) -> None:
    cells = torch.zeros(12, 4, 16)
    given: dict[str, object] = {"adjacency": graph("random"), "q": cells, "k": cells, "v": cells} | change
    with pytest.raises(InputError) as caught:
        graph_attention(**given)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_what_does_not_fit_additive_attention_is_named() -> None:
    adjacency, scores, v = graph("bipartite"), torch.zeros(5, 2), torch.zeros(5, 2, 8)
    with pytest.raises(InputError) as caught:
        gat_aggregate(adjacency, scores, scores, v)
    assert caught.value.field == "score_destination"
    with pytest.raises(InputError) as caught:
        gat_aggregate(adjacency, torch.zeros(9, 2), torch.zeros(9, 2), v)
    assert caught.value.field == "score_source"
    with pytest.raises(InputError) as caught:
        gat_aggregate(adjacency, scores, torch.zeros(9, 2), v, slope=-0.1)
    assert caught.value.field == "slope"
