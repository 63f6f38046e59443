"""Hypergraph convolution equals its dense formula; events become incidence without loss; learned groups are few."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.nn.hypergraph import HypergraphConvolution, LearnedHypergraph, event_incidence
from stgraph.nn.message_passing import Relation
from stgraph.ops import Adjacency

B, S, N, M, D = 2, 3, 7, 4, 8


def made(edges: int = 13, nodes: int = N) -> tuple[Relation, Tensor]:
    """A weighted incidence and its matrix ``[N, M]``; node 3 is in no hyperedge."""
    pairs = torch.randperm(nodes * M)
    pairs = pairs[pairs % nodes != 3][:edges]
    weight = torch.rand(edges)
    index = torch.stack([pairs % nodes, pairs // nodes])
    return (Relation(Adjacency.of_edges(index, nodes, M), weight),
            torch.zeros(nodes, M).index_put((index[0], index[1]), weight))


def inverse(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1 / x, 0.0).diag()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("between", [False, True])
def test_equals_the_formula_with_dense_matrices(between: bool) -> None:
    relation, matrix = made()
    block, h = HypergraphConvolution(D, between), torch.randn(B, S, N, D)
    group = inverse(matrix.sum(0)) @ matrix.T @ h
    wanted = inverse(matrix.sum(1)) @ matrix @ (block.between(group) if between else group) @ block.out.weight.T
    out = block(h, relation)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
    assert (out[:, :, 3] == 0).all()


def test_membership_in_time_equals_a_loop_over_steps() -> None:
    relation, matrix = made()
    weight = torch.rand(13, S) * (torch.rand(13, S) > 0.4)
    block, h = HypergraphConvolution(D), torch.randn(B, S, N, D)
    out = block(h, Relation(relation.adjacency, weight))
    back = relation.adjacency.transpose
    for s in range(S):
        now = torch.zeros(N, M).index_put((back.row.long(), back.col.long()), weight[back.edge.long(), s])
        assert ((now > 0) <= (matrix > 0)).all()
        wanted = inverse(now.sum(1)) @ now @ inverse(now.sum(0)) @ now.T @ h[:, s] @ block.out.weight.T
        torch.testing.assert_close(out[:, s], wanted, rtol=1e-5, atol=1e-6)


def test_relabelled_nodes_get_the_same_and_hidden_ones_say_nothing() -> None:
    relation, matrix = made()
    block, h, order = HypergraphConvolution(D), torch.randn(B, S, N, D), torch.randperm(N)
    index = matrix[order].nonzero().T
    turned = Relation(Adjacency.of_edges(index, N, M), matrix[order][index[0], index[1]])
    torch.testing.assert_close(block(h[:, :, order], turned), block(h, relation)[:, :, order], rtol=1e-5, atol=1e-6)
    seen = torch.rand(B, S, N) > 0.3
    noise = torch.where(seen[..., None], h, torch.randn_like(h))
    torch.testing.assert_close(block(noise, relation, observed=seen), block(h, relation, observed=seen))
    assert not torch.allclose(block(noise, relation), block(h, relation))


def test_every_weight_learns_and_the_gradient_is_right() -> None:
    block = HypergraphConvolution(4, between=True).double()
    relation, _ = made()
    h, weight = torch.randn(1, 2, N, 4).double().requires_grad_(), torch.rand(13).double().requires_grad_()
    block(h, relation).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in block.parameters())
    assert torch.autograd.gradcheck(lambda x, w: block(x, Relation(relation.adjacency, w)), (h, weight))


# -------------------------------------------------------------------- events
def test_events_are_counted_by_place_group_and_time() -> None:
    count = 200
    place, group, token = torch.randint(N, (count,)), torch.randint(M, (count,)), torch.randint(S, (count,))
    relation = event_incidence(place, group, token, N, M, S)
    cube = torch.zeros(N, M, S)
    for p, g, t in zip(place, group, token, strict=True):
        cube[p, g, t] += 1
    edge = torch.empty(relation.adjacency.edges, 2, dtype=torch.long)
    edge[relation.adjacency.edge.long()] = torch.stack([relation.adjacency.col, relation.adjacency.row], 1).long()
    again = torch.zeros(N, M, S).index_put((edge[:, 0], edge[:, 1]), relation.weight)
    assert torch.equal(again, cube)
    assert relation.adjacency.edges == int((cube.sum(-1) > 0).sum())
    none = event_incidence(*(torch.zeros(0, dtype=torch.long),) * 3, N, M, S)
    assert (HypergraphConvolution(D)(torch.randn(B, S, N, D), none) == 0).all()


def test_crimes_join_places_by_kind_and_day(shared_data) -> None:
    table = pd.read_parquet(shared_data / "chicago_crime/chicago_crime.parquet")
    day = (pd.to_datetime(table["time"]).dt.normalize() - pd.Timestamp("2016-01-01")).dt.days.to_numpy()
    table = table[day < 14]
    cell = (table["latitude"].round(2).astype(str) + table["longitude"].round(2).astype(str)).factorize()[0]
    kind, names = table["offense"].factorize()
    relation = event_incidence(torch.from_numpy(cell), torch.from_numpy(kind), torch.from_numpy(day[day < 14]),
                               cell.max() + 1, len(names), 14)
    assert int(relation.weight.sum()) == len(table)
    h = torch.randn(1, 14, cell.max() + 1, D)
    block = HypergraphConvolution(D)
    with torch.no_grad():
        block.out.weight.copy_(torch.eye(D))
    out = block(h, relation)
    where = (kind == 0) & (day[day < 14] == 3)
    only = [c for c in np.unique(cell[where]) if not (where < (day[day < 14] == 3))[cell == c].any()]
    wanted = h[0, 3, torch.from_numpy(cell[where])].mean(0)  # a cell with crimes of one kind hears the mean over them
    torch.testing.assert_close(out[0, 3, only], wanted.expand(len(only), D), rtol=1e-4, atol=1e-5)


def test_an_event_out_of_range_is_refused() -> None:
    with pytest.raises(InputError) as raised:
        event_incidence(torch.tensor([0]), torch.tensor([M]), torch.tensor([0]), N, M, S)
    assert raised.value.field == "group"
    with pytest.raises(InputError) as raised:
        HypergraphConvolution(D)(torch.randn(1, 1, N + 1, D), made()[0])
    assert raised.value.field == "incidence"


# -------------------------------------------------------------------- learned
def test_the_learned_hypergraph_is_a_mixture_of_low_rank() -> None:
    block, h, code = LearnedHypergraph(D, hyperedges=3, codes=5), torch.randn(B, S, 30, D), torch.randn(30, 5)
    into, back = block.code(code).chunk(2, -1)
    share = (block.member(h) + into).softmax(2)
    group = torch.nn.functional.leaky_relu(torch.einsum("bsnm,bsnd->bsmd", share, block.value(h)))
    wanted = block.out(torch.einsum("bsnm,bsmd->bsnd", (block.reader(h) + back).softmax(-1), group))
    out = block(h, code)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
    assert torch.linalg.matrix_rank(out[0, 0], tol=1e-5) <= 3
    order = torch.randperm(30)
    torch.testing.assert_close(block(h[:, :, order], code[order]), out[:, :, order], rtol=1e-5, atol=1e-6)


def test_learned_groups_hear_only_what_was_observed() -> None:
    block, h, seen = LearnedHypergraph(D, 3), torch.randn(B, S, 9, D), torch.rand(B, S, 9) > 0.4
    seen[0, 1] = False
    noise = torch.where(seen[..., None], h, torch.randn_like(h))
    torch.testing.assert_close(block(noise, observed=seen)[seen], block(h, observed=seen)[seen])
    out = block(h, observed=seen)
    assert (out[0, 1] == 0).all()
    kept = seen[1, 0]
    torch.testing.assert_close(block(h[1:, :1, kept]), out[1:, :1, kept], rtol=1e-5, atol=1e-6)
    block.zero_grad()
    out.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in block.parameters())
    with pytest.raises(InputError, match="place codes"):
        LearnedHypergraph(D, 3, codes=2)(h)
