"""Under autocast dense products are those of its type, all else those of the widest type given; backward too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import (
    Adjacency,
    TypedAdjacency,
    gat_aggregate,
    graph_attention,
    gru_blend,
    gru_gate,
    sddmm,
    spmm,
    typed_spmm,
)
from stgraph.ops.block_dense import block_dense_spmm
from stgraph.ops.diffusion import diffusion_conv, random_walks

NODES, EDGES, TYPES, HALF = 20, 100, 3, torch.bfloat16
DRAW = torch.Generator().manual_seed(0)
GRAPH = Adjacency.of_edges(torch.randint(NODES, (2, EDGES), generator=DRAW), NODES, NODES)
TYPED = TypedAdjacency(GRAPH, torch.randint(TYPES, (EDGES,), generator=DRAW), TYPES)
Operator = Callable[..., Any]


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def diffusion(order: str) -> Operator:
    return lambda x, weight, bias, along: diffusion_conv(GRAPH.transpose, x, weight, GRAPH, along, bias=bias,
                                                         order=order)


def typed(order: str) -> Operator:
    return lambda x, *rest: typed_spmm(TYPED, x, *rest, order=order)


WIDE = ((2, 3, NODES, 8), (5, 8, 4), (4,), (EDGES,))
FEW = ((2, 3, NODES, 1), (3, 1, 16), (2, 3, NODES, 16), (EDGES, 1, 3, 1))
BASES = ((2, 3, NODES, 8), (2, 8, 4), (TYPES, 2), (EDGES,))
PRODUCTS: dict[str, tuple[Operator, tuple[tuple[int, ...], ...]]] = {
    "diffusion horner": (diffusion("horner"), WIDE), "diffusion powers": (diffusion("powers"), WIDE),
    "diffusion of few channels": (diffusion("powers"), FEW),
    "typed aggregate": (typed("aggregate"), (WIDE[0], (TYPES, 8, 4))),
    "typed transform": (typed("transform"), (WIDE[0], (TYPES, 8, 4))),
    "basis aggregate": (typed("basis aggregate"), BASES), "basis transform": (typed("basis transform"), BASES),
    "made of bases": (typed("aggregate"), BASES),
}
CELLS = (2, NODES, 2, 4)
OTHERS: dict[str, tuple[Operator, tuple[tuple[int, ...], ...]]] = {
    "spmm": (lambda x, weight, addend: spmm(GRAPH, x, weight=weight, addend=addend), (CELLS[:3], (EDGES,), CELLS[:3])),
    "spmm at once": (lambda x, weight: spmm(GRAPH, x, weight=weight), (CELLS[:3], (EDGES,))),
    "sddmm": (lambda a, b: sddmm(GRAPH, a, b), (CELLS[:3], CELLS[:3])),
    "gat_aggregate": (lambda *given: gat_aggregate(GRAPH, *given), (CELLS[:3], CELLS[:3], CELLS, (EDGES, 2))),
    "graph_attention": (lambda *given: graph_attention(GRAPH, *given), (CELLS, CELLS, CELLS, (EDGES, 2))),
    "gru_gate": (lambda *given: sum(gru_gate(*given)), (CELLS, CELLS, CELLS)),
    "gru_blend": (gru_blend, (CELLS, CELLS, CELLS)),
    "blocks": (lambda x, weight, y: block_dense_spmm(GRAPH.halo_plan(8), x, weight, addend=y),
               (CELLS[:3], (EDGES,), CELLS[:3])),
}


def gradients(out: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, given, torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))


def inside(operator: Operator, given: list[Tensor], backward: bool = True) -> tuple[Tensor, ...]:
    """The result and the gradients, both passes under autocast; the second one too only where that is asked for."""
    with torch.autocast("cpu", dtype=HALF):
        out = operator(*given)
        if backward:
            return (out, *gradients(out, given))
    return (out, *gradients(out, given))


def converted(operator: Operator, given: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The same with all that is given in this type and no autocast."""
    out = operator(*(one.to(dtype) for one in given))
    return (out, *gradients(out, given))


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("entering", [torch.float32, HALF])
def test_products_are_those_of_its_type(name: str, entering: torch.dtype) -> None:
    operator, shapes = PRODUCTS[name]
    given = [numbers(*shape, dtype=entering if place == 0 else torch.float32, seed=place)
             for place, shape in enumerate(shapes)]
    found = inside(operator, given)
    assert found[0].dtype == HALF
    assert [one.dtype for one in found[1:]] == [one.dtype for one in given]
    for one, other in zip(found, converted(operator, given, HALF), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("narrow", [(), (0,), (1, 2), (0, 1, 2, 3)])
def test_all_else_is_that_of_the_widest_type(name: str, narrow: tuple[int, ...]) -> None:
    operator, shapes = OTHERS[name]
    given = [numbers(*shape, dtype=HALF if place in narrow else torch.float32, seed=place)
             for place, shape in enumerate(shapes)]
    widest = HALF if all(one.dtype == HALF for one in given) else torch.float32
    found = inside(operator, given, backward=name != "blocks")  # its gradients are PyTorch's own products
    assert found[0].dtype == widest
    assert [one.dtype for one in found[1:]] == [one.dtype for one in given]
    for one, other in zip(found, converted(operator, given, widest), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", [*PRODUCTS, *OTHERS])
def test_float64_stays_and_outside_nothing_is_converted(name: str) -> None:
    operator, shapes = (PRODUCTS | OTHERS)[name]
    exact = [numbers(*shape, seed=place).detach().double().requires_grad_() for place, shape in enumerate(shapes)]
    for one, other in zip(inside(operator, exact), converted(operator, exact, torch.float64), strict=True):
        assert torch.equal(one, other)
    mixed = [numbers(*shape, dtype=HALF if place else torch.float32) for place, shape in enumerate(shapes)]
    with pytest.raises(InputError):
        operator(*mixed)
    with torch.autocast("cpu", dtype=HALF), pytest.raises(InputError):
        operator(exact[0], *mixed[1:])


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_backward_pass_under_autocast_of_a_forward_pass_that_was_not(name: str) -> None:
    operator, shapes = PRODUCTS[name]
    given = [numbers(*shape, seed=place) for place, shape in enumerate(shapes)]
    out = operator(*given)
    with torch.autocast("cpu", dtype=HALF):
        found = gradients(out, given)
    for one, other in zip(found, gradients(operator(*given), given), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).abs().max()) <= 0.05 * float(other.abs().max())  # torch's own products may round


@pytest.mark.parametrize("name", ["diffusion horner", "typed transform", "basis transform", "graph_attention",
                                  "gru_blend"])
def test_compiles_whole(name: str) -> None:
    torch._dynamo.reset()
    operator, shapes = (PRODUCTS | OTHERS)[name]
    given = [numbers(*shape, seed=place) for place, shape in enumerate(shapes)]

    def step(*given: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=HALF):
            return operator(*given)

    out = torch.compile(step, fullgraph=True, backend="aot_eager")(*given)
    wanted = step(*given)
    assert out.dtype == wanted.dtype
    torch.testing.assert_close(out, wanted)
    for one, other in zip(gradients(out, given), gradients(wanted, given), strict=True):
        torch.testing.assert_close(one, other)


def test_walks_are_those_without_autocast() -> None:
    weight = numbers(EDGES).detach().abs()
    wanted = random_walks(GRAPH, weight)
    with torch.autocast("cpu", dtype=HALF):
        found = random_walks(GRAPH, weight)
    assert torch.equal(found.forward_weight, wanted.forward_weight)
    assert torch.equal(found.backward_weight, wanted.backward_weight)
