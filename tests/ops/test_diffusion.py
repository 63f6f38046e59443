"""Diffusion convolution equals sums of dense powers, in both orders, and never puts powers side by side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_graphs import adjacency
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stgraph.errors import InputError
from stgraph.ops import Adjacency
from stgraph.ops.diffusion import Products, diffusion_conv, diffusion_order, random_walks

SQUARE = ("no nodes", "isolated", "duplicates", "self loops", "power law")


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def dense(edges: Tensor, weight: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """``D_O^-1 W`` and ``D_I^-1 W^T`` with ``W[j, i]`` the weight of an edge j to i, by the definition."""
    matrix = weight.new_zeros(nodes, nodes).index_put((edges[0], edges[1]), weight, accumulate=True)

    def divided(one: Tensor) -> Tensor:
        total = one.sum(1, keepdim=True)
        return torch.where(total == 0, 0.0, one / torch.where(total == 0, 1.0, total))

    return divided(matrix), divided(matrix.T)


def slow(walks: list[Tensor], x: Tensor, weight: Tensor, recurrence: str) -> Tensor:
    steps = (weight.shape[0] - 1) // len(walks)
    out = x @ weight[0]
    for direction, matrix in enumerate(walks):
        before, now = x, matrix @ x
        for k in range(steps):
            out = out + now @ weight[1 + direction * steps + k]
            if recurrence == "power":
                now = matrix @ now
            else:
                before, now = now, 2 * matrix @ now - before
    return out


@pytest.mark.parametrize("kind", SQUARE)
def test_walks_are_the_definition_and_share_indices(kind: str) -> None:
    graph, edges = adjacency(kind)
    weight = numbers(graph.edges).abs().requires_grad_()
    walks = random_walks(graph, weight)
    wanted = dense(edges, weight, graph.rows)
    for one, numbers_of, matrix in ((walks.forward, walks.forward_weight, wanted[0]),
                                    (walks.backward, walks.backward_weight, wanted[1])):
        made = torch.zeros_like(matrix)
        position = one.edge.long()
        made.index_put_((one.row.long(), one.col.long()), numbers_of[position], accumulate=True)
        torch.testing.assert_close(made, matrix, rtol=1e-12, atol=1e-12)
    assert walks.backward is graph
    assert walks.forward is graph.transpose
    loss = (walks.forward_weight ** 2).sum() + (walks.backward_weight ** 3).sum()
    if graph.edges:
        position = graph.edge.long()
        per_edge = [matrix[row, col] for matrix, row, col in ((wanted[0], edges[0], edges[1]),
                                                              (wanted[1], edges[1], edges[0]))]
        if kind != "duplicates":  # where edges repeat an entry is the sum of several
            single = torch.ones(graph.rows, graph.rows).index_put((edges[0], edges[1]), torch.ones(graph.edges),
                                                                  accumulate=True)[edges[0], edges[1]] == 2
            torch.testing.assert_close(walks.forward_weight[single], per_edge[0][single])
        assert torch.isfinite(torch.autograd.grad(loss, weight)[0]).all()


def test_gradient_of_walks() -> None:
    graph, _ = adjacency("isolated")
    weight = (numbers(graph.edges).abs() + 0.1).requires_grad_()

    def parts(weight: Tensor) -> tuple[Tensor, Tensor]:
        walks = random_walks(graph, weight)
        return walks.forward_weight, walks.backward_weight

    assert torch.autograd.gradcheck(parts, weight)


def test_a_row_of_zeros_has_no_inverse() -> None:
    graph = Adjacency.of_edges(torch.tensor([[0, 0, 1], [1, 2, 2]]), 3, 3)
    walks = random_walks(graph, torch.tensor([0.0, 0.0, 5.0]))
    assert walks.forward_weight.tolist() == [0, 0, 1]
    assert walks.backward_weight.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", SQUARE)
@pytest.mark.parametrize("order", ["horner", "powers"])
@pytest.mark.parametrize("recurrence", ["power", "chebyshev"])
@pytest.mark.parametrize(("steps", "both"), [(0, True), (1, True), (2, True), (3, False), (4, True)])
def test_convolution_and_gradients(kind: str, order: str, recurrence: str, steps: int, both: bool) -> None:
    graph, edges = adjacency(kind)
    nodes = graph.rows
    matrices = 1 + steps * (2 if both else 1)
    given = [numbers(2, 3, nodes, 5, seed=2), numbers(matrices, 5, 4, seed=3), numbers(4, seed=4),
             numbers(graph.edges, seed=5).abs()]
    given = [one.requires_grad_() for one in given]
    x, weight, bias, of_edges = given
    walks = random_walks(graph, of_edges)
    out = diffusion_conv(walks.forward, x, weight, walks.backward if both else None, walks.forward_weight,
                         walks.backward_weight if both else None, bias, recurrence=recurrence, order=order)
    wanted = slow(list(dense(edges, of_edges, nodes))[:2 if both else 1], x, weight, recurrence) + bias
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-10)
    grad = numbers(*out.shape, seed=6)
    for mine, other in zip(torch.autograd.grad(out, given, grad, materialize_grads=True),
                           torch.autograd.grad(wanted, given, grad, materialize_grads=True), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["horner", "powers"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-2),
                                                  (torch.float16, 6e-3)])
def test_types_layouts_and_an_added_tensor(order: str, dtype: torch.dtype, tolerance: float) -> None:
    graph, edges = adjacency("power law")
    walks = random_walks(graph, dtype=dtype)
    weight, added = numbers(5, 6, 3, dtype=dtype) / 4, numbers(2, 4, 60, 3, dtype=dtype)
    exact = list(dense(edges, torch.ones(graph.edges, dtype=torch.float64), 60))
    for x in (numbers(2, 4, 60, 6, dtype=dtype), numbers(60, 2, 4, 6, dtype=dtype).permute(1, 2, 0, 3),
              numbers(2, 4, 60, 7, dtype=dtype)[..., 1:]):
        out = diffusion_conv(walks.forward, x, weight, walks.backward, walks.forward_weight, walks.backward_weight,
                             added, order=order)
        wanted = slow(exact, x.double(), weight.double(), "power") + added.double()
        torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)
        assert (out.stride(2) > out.stride(1)) == (x.stride(2) > x.stride(1))


def test_weights_per_step_and_leading_axes() -> None:
    graph, edges = adjacency("isolated")
    nodes, time = graph.rows, 3
    x, weight = numbers(2, 4, time, nodes, 2), numbers(5, 2, 3)
    of_edges = numbers(time, graph.edges, seed=9).abs()
    walks = random_walks(graph, of_edges.T[:, None, :, None])
    out = diffusion_conv(walks.forward, x, weight, walks.backward, walks.forward_weight, walks.backward_weight)
    for step in range(time):
        wanted = slow(list(dense(edges, of_edges[step], nodes)), x[:, :, step], weight, "power")
        torch.testing.assert_close(out[:, :, step], wanted, rtol=1e-10, atol=1e-10)
    assert out.shape == (2, 4, time, nodes, 3)


@pytest.mark.parametrize("order", ["horner", "powers"])
@pytest.mark.parametrize(("leading", "width", "outputs"), [((2, 3), 0, 3), ((2, 3), 3, 0), ((), 0, 0), ((0, 3), 3, 2),
                                                           ((2, 0), 1, 4)])
def test_no_channels_and_no_slabs(order: str, leading: tuple[int, ...], width: int, outputs: int) -> None:
    graph, _ = adjacency("isolated")
    x = numbers(*leading, graph.rows, width).requires_grad_()
    weight, bias = numbers(5, width, outputs).requires_grad_(), numbers(outputs).requires_grad_()
    out = diffusion_conv(graph, x, weight, graph.transpose, bias=bias, order=order)
    assert torch.equal(out, bias.expand(*leading, graph.rows, outputs))
    assert [one.abs().sum() for one in torch.autograd.grad(out.sum(), (x, weight))] == [0, 0]


def test_second_derivatives() -> None:
    graph, _ = adjacency("isolated")
    for order in ("horner", "powers"):
        x, weight = numbers(graph.rows, 2).requires_grad_(), numbers(5, 2, 2).requires_grad_()
        bias = numbers(graph.rows, 2).requires_grad_()

        def run(x: Tensor, weight: Tensor, bias: Tensor, order: str = order) -> Tensor:
            return diffusion_conv(graph, x, weight, graph.transpose, bias=bias, order=order)

        assert torch.autograd.gradcheck(run, (x, weight, bias))
        assert torch.autograd.gradgradcheck(run, (x, weight, bias))


# ---------------------------------------------------------------- memory
class Allocations(TorchDispatchMode):
    """The largest result of an operator, and the names of operators that put large tensors side by side."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.large, self.most, self.joined = large, 0, []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        results = out if isinstance(out, (tuple, list)) else (out,)
        for one in results:
            if isinstance(one, Tensor) and one._base is None:
                self.most = max(self.most, one.numel())
                if one.numel() >= self.large and function.overloadpacket.__name__ in ("cat", "stack", "concat"):
                    self.joined.append(str(function))
        return out


@pytest.mark.parametrize("order", ["horner", "powers"])
def test_powers_are_never_side_by_side(order: str) -> None:
    """Horner has one product of ``(1 + 2 K) N G``, nothing else of that size, powers nothing over ``N max(F, G)``."""
    graph, _ = adjacency("power law")
    slab, width, outputs, steps = 6 * 60, 24, 16, 3
    walks = random_walks(graph, dtype=torch.float64)
    x = numbers(2, 3, 60, width).requires_grad_()
    weight = numbers(1 + 2 * steps, width, outputs).requires_grad_()
    with Allocations(large=slab * outputs) as seen:
        out = diffusion_conv(walks.forward, x, weight, walks.backward, walks.forward_weight, walks.backward_weight,
                             order=order)
    assert seen.most == slab * (outputs * (1 + 2 * steps) if order == "horner" else max(width, outputs))
    assert not seen.joined
    grad = numbers(*out.shape)
    with Allocations(large=slab * outputs) as seen:
        torch.autograd.grad(out, (x, weight), grad)
    assert seen.most == slab * max(width, outputs)
    assert not seen.joined


def test_powers_of_few_channels_are_no_more_than_the_result() -> None:
    graph, _ = adjacency("power law")
    for width, joined in ((1, 1), (4, 1), (5, 0)):
        x, weight = numbers(2, 3, 60, width), numbers(7, width, 28)
        with Allocations(large=360) as seen:
            out = diffusion_conv(graph, x, weight, graph.transpose, order="powers")
        assert seen.most <= 360 * 28
        assert len(seen.joined) == joined
        wanted = diffusion_conv(graph, x, weight, graph.transpose, order="horner")
        torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-8)


def test_the_guard_against_joining_can_fail() -> None:
    with Allocations(large=10) as seen:
        torch.cat([torch.zeros(6), torch.zeros(6)])
    assert seen.joined
    assert seen.most == 12


def test_the_order_is_that_of_the_channels() -> None:
    """Powers where few channels become many, Horner where many become few or as many, on any graph."""
    for nodes, edges in ((207, 1_722), (8_600, 201_000), (1_000_000, 2_600_000)):
        for steps, directions in ((1, 1), (2, 2), (3, 2)):
            assert diffusion_order(nodes, edges, 2, 64, steps, directions) == "powers"
            assert diffusion_order(nodes, edges, 66, 128, steps, directions) == "powers"
            assert diffusion_order(nodes, edges, 66, 64, steps, directions) == "horner"
            assert diffusion_order(nodes, edges, 64, 64, steps, directions) == "horner"
            assert diffusion_order(nodes, edges, 128, 64, steps, directions) == "horner"


def test_the_order_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = adjacency("power law")
    calls = []
    apply = Products.apply
    monkeypatch.setattr(Products, "apply", lambda *given: calls.append(1) or apply(*given))
    diffusion_conv(graph, numbers(60, 2), numbers(3, 2, 64))
    assert not calls
    diffusion_conv(graph, numbers(60, 64), numbers(3, 64, 2))
    assert calls


def test_compiles_whole() -> None:
    graph, _ = adjacency("power law")
    walks = random_walks(graph)
    torch._dynamo.reset()
    for width in (2, 9):
        weight = numbers(5, width, 6, dtype=torch.float32).requires_grad_()
        x = numbers(2, 3, 60, width, dtype=torch.float32).requires_grad_()

        def run(x: Tensor, weight: Tensor) -> Tensor:
            return diffusion_conv(walks.forward, x, weight, walks.backward, walks.forward_weight,
                                  walks.backward_weight)

        out, wanted = torch.compile(run, fullgraph=True, backend="aot_eager")(x, weight), run(x, weight)
        torch.testing.assert_close(out, wanted)
        for mine, other in zip(torch.autograd.grad(out.square().sum(), (x, weight)),
                               torch.autograd.grad(wanted.square().sum(), (x, weight)), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("field", "call"), [
    ("forward", lambda g, x, w: diffusion_conv("graph", x, w)),
    ("forward", lambda g, x, w: diffusion_conv(adjacency("bipartite")[0], x, w)),
    ("backward", lambda g, x, w: diffusion_conv(g, x, w, adjacency("star")[0])),
    ("x", lambda g, x, w: diffusion_conv(g, x[1:], w)),
    ("weight", lambda g, x, w: diffusion_conv(g, x, w[:, 1:])),
    ("weight", lambda g, x, w: diffusion_conv(g, x, w[:2], g.transpose)),
    ("weight", lambda g, x, w: diffusion_conv(g, x, w.float())),
    ("forward_weight", lambda g, x, w: diffusion_conv(g, x, w, forward_weight=numbers(3))),
    ("forward_weight", lambda g, x, w: diffusion_conv(g, x, w, forward_weight=numbers(g.edges, 2))),  # no heads
    ("forward_weight", lambda g, x, w: diffusion_conv(g, x, w, forward_weight=numbers(g.edges, 1, 2, 1))),
    ("backward_weight", lambda g, x, w: diffusion_conv(g, x, w, g.transpose, backward_weight=numbers(3))),
    ("backward_weight", lambda g, x, w: diffusion_conv(g, x, w, backward_weight=numbers(g.edges))),
    ("bias", lambda g, x, w: diffusion_conv(g, x, w, bias=numbers(5))),
    ("bias", lambda g, x, w: diffusion_conv(g, x, w, bias=[1.0, 2.0, 3.0, 4.0])),
    ("recurrence", lambda g, x, w: diffusion_conv(g, x, w, recurrence="cubic")),
    ("order", lambda g, x, w: diffusion_conv(g, x, w, order="backwards")),
    ("adjacency", lambda g, x, w: random_walks(adjacency("bipartite")[0])),
    ("weight", lambda g, x, w: random_walks(g, numbers(3))),
    ("weight", lambda g, x, w: random_walks(g, [1.0] * g.edges)),
    ("weight", lambda g, x, w: random_walks(g, torch.ones(g.edges, dtype=torch.int64))),
    ("weight", lambda g, x, w: random_walks(g, numbers(g.edges).to("meta"))),
])
def test_bad_input_is_named(field: str, call: Any) -> None:
    graph, _ = adjacency("isolated")
    with pytest.raises(InputError) as caught:
        call(graph, numbers(graph.rows, 2), numbers(3, 2, 4))
    assert caught.value.field == field
