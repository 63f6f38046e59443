"""A matrix per type of edge: every way equals the sum edge by edge, and the way is chosen by bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from kernel_graphs import KINDS, adjacency
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import Adjacency, typed
from stgraph.ops.typed import BASIS_ORDERS, ORDERS, TypedAdjacency, TypedSizes, grouped_product, typed_order, typed_spmm

TYPES = 5


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def made(kind: str) -> tuple[TypedAdjacency, Tensor, Tensor]:
    """The graph, its edges and their types, of which type 2 has none."""
    graph, edges = adjacency(kind)
    edge_type = torch.randint(0, TYPES, (graph.edges,), generator=torch.Generator().manual_seed(7))
    edge_type[edge_type == 2] = 4
    return TypedAdjacency(graph, edge_type, TYPES), edges, edge_type


def slow(edges: Tensor, edge_type: Tensor, x: Tensor, matrices: Tensor, rows: int, weight: Tensor | None) -> Tensor:
    """Edge by edge; ``weight [E, B?, T?, 1]``."""
    sent = torch.einsum("btef,efg->bteg", x[:, :, edges[0]], matrices[edge_type])
    if weight is not None:
        sent = sent * weight.permute(1, 2, 0, 3)
    out = x.new_zeros((*x.shape[:2], rows, matrices.shape[2]))
    return out.index_add(2, edges[1], sent)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [*ORDERS, *BASIS_ORDERS])
@pytest.mark.parametrize("weighted", [None, "edge", "time"])
def test_every_way_and_its_gradients(kind: str, order: str, weighted: str | None) -> None:
    graph, edges, edge_type = made(kind)
    based = order in BASIS_ORDERS
    x = numbers(2, 3, graph.adjacency.columns, 4)
    given = [x, numbers(2 if based else TYPES, 4, 3, seed=2)]
    if based:
        given.append(numbers(TYPES, 2, seed=3))
    if weighted:
        given.append(numbers(graph.adjacency.edges, 1, 3 if weighted == "time" else 1, 1, seed=4))
    given = [one.requires_grad_() for one in given]
    coefficient = given[2] if based else None
    weight = given[-1] if weighted else None
    matrices = torch.einsum("rb,bfg->rfg", coefficient, given[1]) if based else given[1]
    out = typed_spmm(graph, given[0], given[1], coefficient, weight, order=order)
    wanted = slow(edges, edge_type, given[0], matrices, graph.adjacency.rows, weight)
    torch.testing.assert_close(out, wanted, rtol=1e-11, atol=1e-11)
    if not out.requires_grad:
        return
    grad = numbers(*out.shape, seed=5)
    for mine, other in zip(torch.autograd.grad(out, given, grad, materialize_grads=True, allow_unused=True),
                           torch.autograd.grad(wanted, given, grad, materialize_grads=True), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [*ORDERS, *BASIS_ORDERS[2:]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1), (torch.float16, 1e-2)])
def test_types_and_layouts(order: str, dtype: torch.dtype, tolerance: float) -> None:
    """With 8 and 16 channels, of which torch multiplies groups, and 5 and 3, of which it does not."""
    graph, edges, edge_type = made("bipartite")
    based = order in BASIS_ORDERS[2:]
    for width, outputs in ((8, 16), (5, 3)):
        weight = numbers(2 if based else TYPES, width, outputs, dtype=dtype)
        coefficient = numbers(TYPES, 2, dtype=dtype) if based else None
        matrices = weight.double() if coefficient is None else \
            torch.einsum("rb,bfg->rfg", coefficient.double(), weight.double())
        for x in (numbers(11, width, dtype=dtype), numbers(2, 3, 11, width, dtype=dtype),
                  numbers(11, 2, 3, width, dtype=dtype).permute(1, 2, 0, 3),
                  numbers(2, 2, 3, 11, width, dtype=dtype)):
            out = typed_spmm(graph, x, weight, coefficient, order=order)
            four = x.double().reshape(-1, 1, *x.shape[-2:])
            wanted = slow(edges, edge_type, four, matrices, 17, None).view(out.shape)
            torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance * 4)


def test_groups_are_multiplied_by_torch_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, edges, edge_type = made("bipartite")
    calls = []
    product = torch.nn.functional.grouped_mm
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", lambda *a, **k: calls.append(1) or product(*a, **k))
    for dtype, width, expected in ((torch.float32, 8, 1), (torch.float64, 8, 0), (torch.float32, 5, 0)):
        calls.clear()
        x, weight = numbers(11, width, dtype=dtype).requires_grad_(), numbers(TYPES, width, 8, dtype=dtype)
        weight.requires_grad_()
        assert grouped_product("cpu", dtype, width, 8) == bool(expected)
        out = typed_spmm(graph, x, weight, order="aggregate")
        assert len(calls) == expected
        wanted = slow(edges, edge_type, x[None, None], weight, 17, None)[0, 0]
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)
        for mine, other in zip(torch.autograd.grad(out.sum(), (x, weight)),
                               torch.autograd.grad(wanted.sum(), (x, weight)), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [*ORDERS, *BASIS_ORDERS[2:]])
@pytest.mark.parametrize(("leading", "width", "outputs"), [((2, 3), 0, 8), ((2, 3), 8, 0), ((), 0, 0), ((0, 3), 8, 8)])
def test_no_channels_and_no_slabs(order: str, leading: tuple[int, ...], width: int, outputs: int) -> None:
    graph, _, _ = made("bipartite")
    based = order in BASIS_ORDERS[2:]
    x = numbers(*leading, 11, width, dtype=torch.float32).requires_grad_()
    weight = numbers(2 if based else TYPES, width, outputs, dtype=torch.float32).requires_grad_()
    out = typed_spmm(graph, x, weight, numbers(TYPES, 2, dtype=torch.float32) if based else None, order=order)
    assert torch.equal(out, torch.zeros(*leading, 17, outputs))
    assert [float(one.abs().sum()) for one in torch.autograd.grad(out.sum(), (x, weight))] == [0, 0]


def test_pairs_are_sorted_and_distinct() -> None:
    graph, edges, edge_type = made("power law")
    for pairs, end, nodes in ((graph.by_destination, 1, graph.adjacency.rows),
                              (graph.by_source, 0, graph.adjacency.columns)):
        wanted = (edge_type * nodes + edges[end]).unique()
        assert pairs.count == len(wanted)
        assert pairs.present == tuple(edge_type.unique().tolist())
        assert pairs.sizes == tuple(torch.bincount(wanted // nodes)[list(pairs.present)].tolist())
    counts = torch.zeros(TYPES, graph.adjacency.rows).index_put((edge_type, edges[1]), torch.ones(len(edge_type)),
                                                                accumulate=True)
    assert graph.count().tolist() == counts[edge_type, edges[1]].tolist()


def test_relations_become_types() -> None:
    one, first = adjacency("bipartite")
    other = Adjacency.of_edges(torch.tensor([[3, 0], [16, 2]]), 11, 17)
    both = TypedAdjacency.of([one, other])
    assert both.edge_type.tolist() == [0] * one.edges + [1, 1]
    assert typed.edge_list(both.adjacency).tolist() == torch.cat([first, torch.tensor([[3, 0], [16, 2]])], 1).tolist()
    with pytest.raises(InputError) as caught:
        TypedAdjacency.of([one, adjacency("star")[0]])
    assert caught.value.field == "relations"


def test_types_without_edges_and_types_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 types three have edges: no matrix of another is made from the bases."""
    graph, edges = adjacency("bipartite")
    edge_type = torch.randint(0, 3, (graph.edges,)) * 400
    formed = []
    einsum = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda *a: formed.append(einsum(*a)) or formed[-1])
    x, bases, coefficient = numbers(11, 4), numbers(2, 4, 3), numbers(1000, 2)
    out = typed_spmm(TypedAdjacency(graph, edge_type, 1000), x, bases, coefficient, order="aggregate")
    assert [one.shape[0] for one in formed] == [3]
    formed.clear()
    for order in BASIS_ORDERS[2:]:
        other = typed_spmm(TypedAdjacency(graph, edge_type, 1000), x, bases, coefficient, order=order)
        torch.testing.assert_close(out, other)
    assert not formed
    wanted = slow(edges, edge_type, x[None, None], torch.einsum("rb,bfg->rfg", coefficient, bases), 17, None)
    torch.testing.assert_close(out, wanted[0, 0])


def test_the_way_by_bytes() -> None:
    base = TypedSizes(sources=1000, destinations=1000, edges=20_000, by_source=4000, by_destination=4000, present=5,
                      inputs=64, outputs=64)
    assert typed_order(dataclasses.replace(base, inputs=8, outputs=256)) == "aggregate"
    assert typed_order(dataclasses.replace(base, inputs=256, outputs=8)) == "transform"
    # few sources that send everything, and few destinations that get everything
    assert typed_order(dataclasses.replace(base, by_source=20)) == "transform"
    assert typed_order(dataclasses.replace(base, by_destination=20)) == "aggregate"
    # hundreds of types with a handful of edges each: their matrices are more than the features
    many = dataclasses.replace(base, present=2000, edges=3000, by_source=3000, by_destination=3000, bases=2)
    assert typed_order(many).startswith("basis")
    assert typed_order(dataclasses.replace(many, inputs=8, outputs=64)) == "basis aggregate"
    assert typed_order(dataclasses.replace(many, inputs=64, outputs=8)) == "basis transform"
    # few types on wide features: one matrix each beats a pass over all edges per basis
    assert not typed_order(dataclasses.replace(base, bases=30, slabs=100)).startswith("basis")


def test_second_derivatives() -> None:
    graph, _, _ = made("isolated")
    for order in ORDERS:
        parts = [numbers(12, 2).requires_grad_(), numbers(TYPES, 2, 3).requires_grad_()]
        assert torch.autograd.gradgradcheck(lambda x, w, order=order: typed_spmm(graph, x, w, order=order), parts)
    for order in BASIS_ORDERS[2:]:
        parts = [numbers(12, 2).requires_grad_(), numbers(2, 2, 3).requires_grad_(), numbers(TYPES, 2).requires_grad_()]
        assert torch.autograd.gradgradcheck(lambda x, w, c, order=order: typed_spmm(graph, x, w, c, order=order), parts)


@pytest.mark.parametrize("order", ["transform", "basis aggregate"])
def test_compiles_whole_for_any_number_of_slabs(order: str) -> None:
    torch._dynamo.reset()
    graph, _, _ = made("power law")
    based = order in BASIS_ORDERS[2:]
    weight = numbers(2 if based else TYPES, 8, 4).requires_grad_()
    coefficient = numbers(TYPES, 2).requires_grad_() if based else None
    compiled = torch.compile(typed_spmm, fullgraph=True, backend="aot_eager", dynamic=True)
    for slabs in (2, 5):
        x, edge_weight = numbers(slabs, 60, 8).requires_grad_(), numbers(graph.adjacency.edges).requires_grad_()
        leaves = [x, weight, edge_weight]
        results = [run(graph, x, weight, coefficient, edge_weight, order=order) for run in (compiled, typed_spmm)]
        found, wanted = ((out, *torch.autograd.grad(out.square().sum(), leaves)) for out in results)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [*ORDERS, *BASIS_ORDERS[2:]])
def test_two_runs_are_equal_to_the_bit(order: str) -> None:
    graph, _, _ = made("power law")
    coefficient = numbers(TYPES, 2, dtype=torch.float32) if order in BASIS_ORDERS[2:] else None
    results = []
    for _ in range(2):
        x = numbers(3, 60, 8, dtype=torch.float32).requires_grad_()
        weight = numbers(TYPES if coefficient is None else 2, 8, 8, dtype=torch.float32).requires_grad_()
        out = typed_spmm(graph, x, weight, coefficient, order=order)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, weight))))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_inference_mode_leaves_nothing_that_training_cannot_use() -> None:
    graph, _, _ = made("power law")
    x, weight = numbers(60, 4), numbers(TYPES, 4, 3)
    with torch.inference_mode():
        for order in ORDERS:
            typed_spmm(graph, x, weight, order=order)
    for order in ORDERS:
        typed_spmm(graph, x.requires_grad_(), weight, order=order).sum().backward()


@pytest.mark.parametrize(("field", "call"), [
    ("graph", lambda g, x, w: typed_spmm(g.adjacency, x, w)),
    ("edge_type", lambda g, x, w: TypedAdjacency(g.adjacency, g.edge_type[1:], TYPES)),
    ("edge_type", lambda g, x, w: TypedAdjacency(g.adjacency, g.edge_type, 3)),
    ("edge_type", lambda g, x, w: TypedAdjacency(g.adjacency, g.edge_type.float(), TYPES)),
    ("x", lambda g, x, w: typed_spmm(g, x[1:], w)),
    ("weight", lambda g, x, w: typed_spmm(g, x, w[1:])),
    ("weight", lambda g, x, w: typed_spmm(g, x, w.float())),
    ("edge_weight", lambda g, x, w: typed_spmm(g, x, w, edge_weight=numbers(3))),
    ("edge_weight", lambda g, x, w: typed_spmm(g, x, w, edge_weight=numbers(g.adjacency.edges, 3, 1, 1))),
    ("edge_weight", lambda g, x, w: typed_spmm(g, x, w, edge_weight=[1.0])),
    ("adjacency", lambda g, x, w: TypedAdjacency((1, 2), g.edge_type, TYPES)),
    ("coefficient", lambda g, x, w: typed_spmm(g, x, w[:2], numbers(TYPES, 3))),
    ("order", lambda g, x, w: typed_spmm(g, x, w, order="sideways")),
    ("order", lambda g, x, w: typed_spmm(g, x, w, order="basis aggregate")),
])
def test_bad_input_is_named(field: str, call: Any) -> None:
    graph, _, _ = made("isolated")
    with pytest.raises(InputError) as caught:
        call(graph, numbers(12, 2), numbers(TYPES, 2, 4))
    assert caught.value.field == field
