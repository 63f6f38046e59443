"""Typed message passing equals its formula written with dense matrices, step by step, whatever form the edges have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.nn.message_passing import Relation, TypedMessagePassing, relations_of, with_reversed
from stgraph.ops import Adjacency
from stgraph.sources.sensors import NEAR, build_sensors

B, S, D = 2, 3, 8


def made(sources: int, destinations: int, edges: int, seed: int = 0) -> tuple[Adjacency, Tensor]:
    """A random relation without double edges, and its edge list ``[2, E]``."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(sources * destinations, generator=generator)[:edges]
    index = torch.stack([pairs % sources, pairs // sources])
    return Adjacency.of_edges(index, sources, destinations), index


def dense(index: Tensor, weight: Tensor, sources: int, destinations: int) -> Tensor:
    """``[destinations, sources]``."""
    return torch.zeros(destinations, sources, dtype=weight.dtype).index_put((index[1], index[0]), weight)


def by_hand(block: TypedMessagePassing, name: object, matrix: Tensor, x: Tensor, gate: Tensor | float = 1.0) -> Tensor:
    """One relation at one time token, ``x [B, N, D]``, with a dense matrix."""
    mass = matrix.sum(1, keepdim=True)
    matrix = gate * matrix / torch.where(mass > 0, mass, 1.0)
    return matrix @ x @ block.projection(name)  # type: ignore[arg-type]


def shaken(block: TypedMessagePassing) -> TypedMessagePassing:
    """With every weight away from where it starts."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block.eval()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -------------------------------------------------------------------- equal to the formula
def test_equals_dense_matrices_over_relations_and_types() -> None:
    block = shaken(TypedMessagePassing(D, [("sensor", "near", "sensor"), "on"], bases=3))
    h = {"sensor": torch.randn(B, S, 6, D), "segment": torch.randn(B, S, 9, D)}
    kinds = {("sensor", "near", "sensor"): (6, 6, 14), ("sensor", "on", "segment"): (6, 9, 7),
             ("segment", "turn", "segment"): (9, 9, 20), ("segment", "of", "sensor"): (9, 6, 9)}
    relations, wanted = {}, {kind: torch.zeros_like(x) for kind, x in h.items()}
    for number, (kind, (sources, destinations, edges)) in enumerate(kinds.items()):
        adjacency, index = made(sources, destinations, edges, number)
        weight = torch.rand(edges)
        relations[kind] = Relation(adjacency, weight)
        matrix = dense(index, weight, sources, destinations)
        wanted[kind[2]] = wanted[kind[2]] + by_hand(block, kind, matrix, h[kind[0]])
    out = block(h, relations)
    for kind in h:
        torch.testing.assert_close(out[kind], wanted[kind], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["steps", "windows", "lives", "lives of each window"])
def test_weights_in_time_equal_a_loop_over_steps(form: str) -> None:
    block = shaken(TypedMessagePassing(D, ["near"]))
    adjacency, index = made(7, 7, 18)
    h, weight, times = torch.randn(B, S, 7, D), torch.rand(18), torch.arange(S) * 3600
    relation = Relation(adjacency, weight)
    full = weight[:, None, None].expand(-1, B, S)
    if form == "steps":
        full = torch.rand(18, 1, S).expand(-1, B, -1)
        relation = Relation(adjacency, full[:, 0])
    elif form == "windows":
        full = torch.rand(18, B, S)
        relation = Relation(adjacency, full)
    else:
        begin, end = torch.randint(0, 2 * 3600, (18,)), torch.randint(3600, 3 * 3600, (18,))
        relation = replace(relation, valid_from=begin, valid_to=end)
        times = times + (torch.arange(B) * 1800)[:, None] if form.endswith("window") else times
        now = times.expand(B, S)
        full = full * ((begin[:, None, None] <= now) & (now < end[:, None, None]))
        assert 0 < (full == 0).float().mean() < 1
    out = block(h, {"near": relation}, times=times)
    for b in range(B):
        for s in range(S):
            wanted = by_hand(block, "near", dense(index, full[:, b, s], 7, 7), h[b, s][None])[0]
            torch.testing.assert_close(out[b, s], wanted, rtol=1e-5, atol=1e-6)


def test_the_gate_equals_its_formula_edge_by_edge() -> None:
    block = shaken(TypedMessagePassing(D, ["near"], gate=True, heads=2, edge_features=3))
    adjacency, index = made(5, 5, 11)
    weight, features, h = torch.rand(11), torch.randn(11, 3), torch.randn(1, 1, 5, D)
    out = block(h, {"near": Relation(adjacency, weight, features=features)})[0, 0]
    query, key = (layer(h[0, 0]).view(5, 2, D // 2) for layer in (block.query, block.key))
    score = (query[index[1]] * key[index[0]]).sum(-1) / (D / 2) ** 0.5
    gate = 2 * torch.sigmoid(score + block.shared_gate + block.own_gate[0] + features @ block.feature.weight.T)
    share = weight / torch.zeros(5).index_add(0, index[1], weight)[index[1]]
    message = (share[:, None, None] * gate[..., None] * h[0, 0][index[0]].view(-1, 2, D // 2)).flatten(1)
    wanted = torch.zeros(5, D).index_add(0, index[1], message) @ block.projection("near")
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)


def test_without_what_was_learned_the_gate_is_open() -> None:
    block = TypedMessagePassing(D, ["near"], gate=True)
    adjacency, _ = made(5, 5, 11)
    torch.nn.init.zeros_(block.query.weight)
    h = torch.randn(B, S, 5, D)
    plain = TypedMessagePassing(D, ["near"])
    plain.load_state_dict({name: value for name, value in block.state_dict().items() if name in plain.state_dict()})
    torch.testing.assert_close(block(h, {"near": adjacency}), plain(h, {"near": adjacency}))


# -------------------------------------------------------------------- laws
@pytest.mark.parametrize("gate", [False, True])
def test_relabelled_nodes_get_the_same_messages(gate: bool) -> None:
    block = shaken(TypedMessagePassing(D, ["near"], gate=gate, heads=2))
    _, index = made(9, 9, 30)
    order = torch.randperm(9)
    place = torch.argsort(order)  # where each node stands now
    h, weight = torch.randn(B, S, 9, D), torch.rand(30)
    out = block(h, {"near": Relation(Adjacency.of_edges(index, 9, 9), weight)})
    turned = block(h[:, :, order], {"near": Relation(Adjacency.of_edges(place[index], 9, 9), weight)})
    torch.testing.assert_close(turned, out[:, :, order], rtol=1e-5, atol=1e-6)


def test_a_node_without_edges_gets_exactly_nothing() -> None:
    index = torch.tensor([[0, 1, 2], [1, 0, 0]])
    block = shaken(TypedMessagePassing(D, ["near"], gate=True))
    out = block(torch.randn(B, S, 4, D), {"near": Adjacency.of_edges(index, 4, 4)})
    assert (out[:, :, 2:] == 0).all()
    assert (out[:, :, :2] != 0).all()
    opened = Relation(Adjacency.of_edges(index, 4, 4), valid_from=torch.tensor([0, 5, 5]))
    out = block(torch.randn(B, 2, 4, D), {"near": opened}, times=torch.tensor([4, 5]))
    assert (out[:, 0, 0] == 0).all()
    assert (out[:, 1, 0] != 0).all()
    closed = Relation(Adjacency.of_edges(index, 4, 4), valid_to=torch.tensor([9, 5, 5]))
    out = block(torch.randn(B, 2, 4, D), {"near": closed}, times=torch.tensor([4, 5]))
    assert (out[:, 0, 0] != 0).all()
    assert (out[:, 1, 0] == 0).all()
    assert (out[:, 1, 1] != 0).all()


@pytest.mark.parametrize("gate", [False, True])
def test_what_is_not_observed_says_nothing_and_counts_for_nothing(gate: bool) -> None:
    block = shaken(TypedMessagePassing(D, ["near"], gate=gate))
    adjacency, index = made(6, 6, 20)
    h, seen = torch.randn(B, S, 6, D), torch.ones(B, S, 6, dtype=torch.bool)
    seen[:, :, 2] = False
    relation = Relation(adjacency, torch.rand(20))
    out = block(h, {"near": relation}, observed=seen)
    noise = h.clone()
    noise[:, :, 2] = torch.randn(B, S, D)
    others = [0, 1, 3, 4, 5]  # the gate of node 2 reads its own state
    torch.testing.assert_close(block(noise, {"near": relation}, observed=seen)[:, :, others], out[:, :, others])
    kept = index[0] != 2
    without = Relation(Adjacency.of_edges(index[:, kept], 6, 6), relation.weight[kept])
    torch.testing.assert_close(block(h, {"near": without}), out, rtol=1e-5, atol=1e-6)


def test_an_unknown_relation_is_read_by_what_all_share() -> None:
    block = shaken(TypedMessagePassing(D, ["near", ("a", "on", "b")], bases=3))
    shared = torch.einsum("b,bij->ij", block.shared, block.basis)
    for unknown in ("flow", ("b", "on2", "a")):
        assert torch.equal(block.projection(unknown), shared)
    assert torch.equal(block.projection("near"), block.projection(("x", "near", "y")))
    assert not torch.equal(block.projection("near"), shared)
    assert torch.equal(block.projection(("b", "on", "a")), shared)  # only one triple of this name is known
    block.zero_grad()
    block(torch.randn(B, S, 5, D), {"near": made(5, 5, 9)[0]}).sum().backward()
    assert block.shared.grad.abs().min() > 0  # a known relation trains the unknown ones


def test_a_missing_type_changes_and_costs_nothing() -> None:
    block = shaken(TypedMessagePassing(D, ["near"]))
    near, on = made(6, 6, 14)[0], made(9, 6, 10)[0]
    h = torch.randn(B, S, 6, D)
    relations = {("sensor", "near", "sensor"): near, ("weather", "over", "sensor"): on}
    out = block({"sensor": h}, relations)
    assert set(out) == {"sensor"}
    torch.testing.assert_close(out["sensor"], block(h, {"near": near}))
    assert (block({"event": h}, relations)["event"] == 0).all()


def test_reversed_relations_go_against_the_edges() -> None:
    adjacency, index = made(6, 9, 15)
    weight = torch.rand(15)
    both = with_reversed({("sensor", "on", "segment"): Relation(adjacency, weight)})
    assert list(both) == [("sensor", "on", "segment"), ("segment", "reversed on", "sensor")]
    block = shaken(TypedMessagePassing(D))
    h = {"sensor": torch.randn(B, S, 6, D), "segment": torch.randn(B, S, 9, D)}
    out = block(h, both)["sensor"]
    wanted = by_hand(block, "reversed on", dense(index, weight, 6, 9).T, h["segment"])
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)


def test_one_set_of_weights_for_networks_of_any_size_and_every_weight_learns() -> None:
    block = TypedMessagePassing(D, ["near"], gate=True, edge_features=2).double()
    for nodes, edges in ((4, 7), (50, 300)):
        relation = Relation(made(nodes, nodes, edges)[0], features=torch.randn(edges, 2))
        block.zero_grad()
        block(torch.randn(B, S, nodes, D).double(), {"near": relation}).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@pytest.mark.parametrize("gate", [False, True])
def test_gradients_by_differences(gate: bool) -> None:
    block = shaken(TypedMessagePassing(4, ["near"], gate=gate, heads=2)).double()
    adjacency, _ = made(4, 4, 9)
    h, weight = torch.randn(1, 2, 4, 4).double(), torch.rand(9, 1, 2).double()
    assert torch.autograd.gradcheck(lambda x, w: block(x, {"near": Relation(adjacency, w)}),
                                    (h.requires_grad_(), weight.requires_grad_()))


# -------------------------------------------------------------------- graphs, real data, bad input
def test_relations_of_a_graph_bring_weights_and_lives(shared_data) -> None:
    graph, _ = build_sensors(shared_data / "los_loop/speed.npz", key="speed_mph", ids_key="sensor_id",
                             locations=shared_data / "los_loop/sensors.csv",
                             adjacency=shared_data / "los_loop/adj.npz", adjacency_key="adj_dcrnn", quantity="speed",
                             unit="mph", interval="5min", start="2012-03-01T00:00", tz="America/Los_Angeles")
    given = np.load(shared_data / "los_loop/adj.npz")["adj_dcrnn"]
    np.fill_diagonal(given, 0)
    relation = relations_of(graph)[NEAR]
    matrix = dense(graph[NEAR].edge_index, relation.weight, 207, 207)
    np.testing.assert_allclose(matrix.T, given, rtol=1e-6)
    block = shaken(TypedMessagePassing(D, ["near"]))
    h = torch.randn(1, 1, 207, D)
    torch.testing.assert_close(block({"sensor": h}, {NEAR: relation})["sensor"], by_hand(block, "near", matrix, h),
                               rtol=1e-5, atol=1e-5)
    graph[NEAR].valid_to = torch.full((relation.adjacency.edges,), 100)
    assert (block({"sensor": h}, relations_of(graph), times=torch.tensor([100]))["sensor"] == 0).all()


def test_a_graph_without_weights() -> None:
    graph = DynamicHeteroGraph(time=TimeAxis(0, 300, 4))
    graph["sensor"].node_id = np.array(["a", "b"])
    graph[NEAR].edge_index = torch.tensor([[0], [1]])
    graph.add_signal("sensor", "readings", Signal(np.ones((4, 2, 1), np.float32), None, [Channel("speed")]))
    relation = relations_of(graph)[NEAR]
    assert relation.weight is None
    assert relation.valid_from is None


@pytest.mark.parametrize(("call", "field"), [
    (lambda: TypedMessagePassing(8, heads=3), "heads"),
    (lambda: TypedMessagePassing(8, bases=0), "bases"),
    (lambda: Relation(made(3, 3, 4)[0], torch.ones(5)), "weight"),
    (lambda: Relation(made(3, 3, 4)[0], features=torch.ones(4)), "features"),
    (lambda: TypedMessagePassing(8)(torch.ones(1, 1, 4, 8), {"near": made(3, 3, 4)[0]}), "relations['near']"),
    (lambda: TypedMessagePassing(8)(torch.ones(1, 1, 3, 8), {("a", "b", "c"): made(3, 3, 4)[0]}), "relations"),
    (lambda: TypedMessagePassing(8)({"a": torch.ones(1, 1, 3, 8)}, {"near": made(3, 3, 4)[0]}), "relations"),
    (lambda: TypedMessagePassing(8)(torch.ones(1, 1, 3, 8), {
        "near": Relation(made(3, 3, 4)[0], valid_to=torch.ones(4, dtype=torch.long))}), "times"),
])
def test_bad_input_is_refused_by_name(call, field: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    assert raised.value.field == field
