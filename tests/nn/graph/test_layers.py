"""Laws that every layer on one relation obeys, and its formula."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layer_formulas as dense
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.nn.graph import (
    DiffusionConvolution,
    GraphAttention,
    GraphConvolution,
    GraphGRUCell,
    GraphTransformer,
    adjacency_of,
)
from stgraph.ops import Adjacency

NODES, EDGES, WIDTH = 9, 30, 4
Maker = Callable[..., nn.Module]
CASES: dict[str, tuple[Maker, Any]] = {
    "convolution": (lambda w=False: GraphConvolution(WIDTH, 3), dense.convolution),
    "convolution out of few": (lambda w=False: GraphConvolution(WIDTH, 7, bias=False), dense.convolution),
    "random walk": (lambda w=False: GraphConvolution(WIDTH, 3, "random_walk"), dense.convolution),
    "random walk without loops": (lambda w=False: GraphConvolution(WIDTH, 3, "random_walk", self_loops=False),
                                  dense.convolution),
    "symmetric without loops": (lambda w=False: GraphConvolution(WIDTH, 5, self_loops=False), dense.convolution),
    "plain sum": (lambda w=False: GraphConvolution(WIDTH, 3, None), dense.convolution),
    "diffusion": (lambda w=False: DiffusionConvolution(WIDTH, 3), dense.diffusion_convolution),
    "diffusion out of few": (lambda w=False: DiffusionConvolution(WIDTH, 16, steps=3, recurrence="chebyshev"),
                             dense.diffusion_convolution),
    "one direction": (lambda w=False: DiffusionConvolution(WIDTH, 3, both=False), dense.diffusion_convolution),
    "attention": (lambda w=False: GraphAttention(WIDTH, 3, 2, edge_weights=w), dense.attention),
    "mean attention": (lambda w=False: GraphAttention(WIDTH, 3, 4, concat=False, self_loops=False, edge_weights=w),
                       dense.attention),
    "transformer": (lambda w=False: GraphTransformer(WIDTH, 3, 2, edge_weights=w), dense.transformer),
    "transformer with loops": (lambda w=False: GraphTransformer(WIDTH, 5, concat=False, self_loops=True, root=False,
                                                                edge_weights=w), dense.transformer),
    "cell": (lambda w=False: GraphGRUCell(WIDTH, 5), dense.cell),
}


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edges_of(nodes: int = NODES, edges: int = EDGES) -> Tensor:
    """Random edges, doubles and loops among them; the last two nodes are isolated."""
    return torch.randint(nodes - 2, (2, edges), generator=torch.Generator().manual_seed(edges))


def layer_of(name: str, weighted: bool = False, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Any]:
    torch.manual_seed(3)
    make, slow = CASES[name]
    layer = make(weighted).to(dtype)
    for parameter in layer.parameters():  # biases start at 0, which would hide that they are there
        parameter.data.add_(torch.randn_like(parameter) / 8)
    return layer, slow


def weights(weighted: str | None, dtype: torch.dtype = torch.float64, time: int = 3) -> Tensor | None:
    shape = {None: None, "static": (EDGES,), "steps": (time, EDGES)}[weighted]
    return None if shape is None else numbers(*shape, seed=8).abs().to(dtype)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weighted", [None, "static", "steps"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_formula_and_its_gradients(name: str, weighted: str | None, dtype: torch.dtype, tolerance: float) -> None:
    layer, slow = layer_of(name, weighted is not None)
    edges, graph = edges_of(), Adjacency.of_edges(edges_of(), NODES, NODES)
    exact = [numbers(2, 3, NODES, WIDTH), *([] if weighted is None else [weights(weighted)])]
    exact = [one.to(dtype).double().requires_grad_() for one in exact]
    wanted = slow(layer, exact[0], edges, exact[1] if weighted else None)
    leaves = [*exact, *layer.parameters()]
    grad = numbers(*wanted.shape, seed=4)
    gradients = torch.autograd.grad(wanted, leaves, grad, materialize_grads=True)
    mine = copy.deepcopy(layer).to(dtype)
    given = [one.detach().to(dtype).requires_grad_() for one in exact]
    out = mine(given[0], graph, given[1] if weighted else None)
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(out, [*given, *mine.parameters()], grad.to(dtype), materialize_grads=True)
    for one, other in zip(found, gradients, strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weighted", [None, "static", "steps"])
def test_entries_of_a_batch_do_not_see_each_other(name: str, weighted: str | None) -> None:
    layer, _ = layer_of(name, weighted is not None)
    graph, weight = Adjacency.of_edges(edges_of(), NODES, NODES), weights(weighted)
    x = numbers(4, 3, NODES, WIDTH)
    whole = layer(x, graph, weight)
    for b in range(4):
        torch.testing.assert_close(whole[b], layer(x[b], graph, weight), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(whole[b:b + 1], layer(x[b:b + 1], graph, weight), rtol=1e-13, atol=1e-13)
    deep = layer(x.unflatten(0, (2, 2)), graph, weight)
    torch.testing.assert_close(deep.flatten(0, 1), whole, rtol=1e-13, atol=1e-13)
    if weighted != "steps":
        torch.testing.assert_close(layer(x[0, 0], graph, weight), whole[0, 0], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(layer(x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3), graph, weight), whole,
                                   rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["convolution", "diffusion", "attention", "transformer", "cell"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiles_whole_after_a_call(name: str, dropout: float) -> None:
    torch._dynamo.reset()
    layer, _ = layer_of(name, weighted=True)
    if hasattr(layer, "dropout"):
        layer.dropout = dropout
    graph, weight, x = Adjacency.of_edges(edges_of(), NODES, NODES), weights("static"), numbers(2, 3, NODES, WIDTH)
    layer(x, graph, weight).sum().backward()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    layer.train(not dropout)
    torch.testing.assert_close(compiled(x, graph, weight), layer(x, graph, weight), rtol=1e-12, atol=1e-12)
    layer.train()
    compiled(x, graph, weight).sum().backward()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weighted", [None, "static", "steps"])
def test_under_autocast_as_a_linear_layer(name: str, weighted: str | None) -> None:
    """Features of either type give its type, a state stays what it was; parameters get gradients of their own type."""
    layer, _ = layer_of(name, weighted is not None, torch.float32)
    graph, weight = Adjacency.of_edges(edges_of(), NODES, NODES), weights(weighted, torch.float32)
    x = numbers(2, 3, NODES, WIDTH).float()
    leaves = list(layer.parameters())
    exact = layer(x, graph, weight)
    wanted = torch.autograd.grad(exact.square().sum(), leaves)
    for given in (x, x.bfloat16()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(given, graph, weight)
            assert out.dtype == (given.dtype if name == "cell" else torch.bfloat16)
            found = torch.autograd.grad(out.float().square().sum(), leaves)
        assert float((out - exact).detach().abs().max()) < 0.03 * float(exact.detach().abs().max())
        assert all(one.dtype == torch.float32 for one in found)
        of_all, exactly = (torch.cat([one.flatten() for one in each]) for each in (found, wanted))
        assert float((of_all - exactly).norm()) < 0.05 * float(exactly.norm())


def test_a_state_may_be_wider_than_what_enters_under_autocast() -> None:
    layer, graph = GraphGRUCell(WIDTH, 5), Adjacency.of_edges(edges_of(), NODES, NODES)
    x, state = numbers(2, NODES, WIDTH).bfloat16(), numbers(2, NODES, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x, graph, state=state).dtype == torch.float32
    with pytest.raises(InputError) as caught:
        layer(x.float(), graph, state=state.double())
    assert caught.value.field == "state"


@pytest.mark.parametrize("name", CASES)
def test_a_permutation_of_nodes_permutes_the_result(name: str) -> None:
    layer, _ = layer_of(name, weighted=True)
    edges, weight, x = edges_of(), weights("static"), numbers(2, 3, NODES, WIDTH)
    order = torch.randperm(NODES, generator=torch.Generator().manual_seed(5))
    place = torch.empty_like(order)
    place[order] = torch.arange(NODES)
    moved = layer(x[:, :, order], Adjacency.of_edges(place[edges], NODES, NODES), weight)
    wanted = layer(x, Adjacency.of_edges(edges, NODES, NODES), weight)[:, :, order]
    torch.testing.assert_close(moved, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_an_isolated_node_sees_itself_at_most(name: str) -> None:
    """Its result is finite, and does not change with the other nodes, nor theirs with it."""
    layer, _ = layer_of(name)
    graph, x = Adjacency.of_edges(edges_of(), NODES, NODES), numbers(2, NODES, WIDTH)
    out = layer(x, graph)
    assert torch.isfinite(out).all()
    others = torch.cat([numbers(2, NODES - 1, WIDTH, seed=6), x[:, -1:]], 1)
    torch.testing.assert_close(layer(others, graph)[:, -1], out[:, -1], rtol=1e-13, atol=1e-13)
    own = torch.cat([x[:, :-1], numbers(2, 1, WIDTH, seed=7)], 1)
    torch.testing.assert_close(layer(own, graph)[:, :-1], out[:, :-1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("nodes", "edges"), [(0, 0), (3, 0), (1, 4)])
def test_small_graphs_and_no_edges(name: str, nodes: int, edges: int) -> None:
    layer, slow = layer_of(name)
    index = torch.zeros(2, edges, dtype=torch.int64)
    x = numbers(2, 3, nodes, WIDTH).requires_grad_()
    out = layer(x, Adjacency.of_edges(index, nodes, nodes))
    assert out.shape[:3] == (2, 3, nodes)
    if nodes:
        torch.testing.assert_close(out, slow(layer, x, index, None), rtol=1e-12, atol=1e-12)
    grad, = torch.autograd.grad(out, x, torch.ones_like(out))
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("name", CASES)
def test_no_parameter_has_the_size_of_a_graph(name: str) -> None:
    layer, _ = layer_of(name)
    before = {key: value.shape for key, value in layer.state_dict().items()}
    for nodes, edges in ((NODES, EDGES), (31, 200)):
        layer(numbers(2, nodes, WIDTH), Adjacency.of_edges(edges_of(nodes, edges), nodes, nodes))
    assert {key: value.shape for key, value in layer.state_dict().items()} == before
    assert {31, NODES, EDGES}.isdisjoint(size for shape in before.values() for size in shape)


def graph_of(edges: Tensor, weight: Tensor | None = None) -> DynamicHeteroGraph:
    graph = DynamicHeteroGraph()
    graph["sensor"].num_nodes = NODES
    graph["sensor", "near", "sensor"].edge_index = edges
    if weight is not None:
        graph["sensor", "near", "sensor"].edge_weight = weight
    return graph


@pytest.mark.parametrize("name", CASES)
def test_a_relation_of_a_graph_is_its_adjacency(name: str) -> None:
    layer, _ = layer_of(name, weighted=True)
    edges, weight, x = edges_of(), weights("static"), numbers(2, 3, NODES, WIDTH)
    graph = graph_of(edges, weight)
    wanted = layer(x, Adjacency.of_edges(edges, NODES, NODES), weight)
    for given in ((graph, weight), (graph, "edge_weight"), (graph, weight, ("sensor", "near", "sensor"))):
        torch.testing.assert_close(layer(x, *given), wanted, rtol=1e-13, atol=1e-13)
    # a second relation: the first must now be named; another edge index: other results
    graph["sensor", "far", "sensor"].edge_index = edges.flip(0)
    with pytest.raises(InputError) as caught:
        layer(x, graph, weight)
    assert caught.value.field == "relation"
    turned = layer(x, graph, weight, ("sensor", "far", "sensor"))
    torch.testing.assert_close(turned, layer(x, Adjacency.of_edges(edges.flip(0), NODES, NODES), weight), rtol=1e-13,
                               atol=1e-13)
    graph["sensor", "near", "sensor"].edge_index = edges.flip(0)
    torch.testing.assert_close(layer(x, graph, weight, ("sensor", "near", "sensor")), turned, rtol=1e-13, atol=1e-13)


def test_compressed_rows_are_made_once_per_graph() -> None:
    graph = graph_of(edges_of())
    first = adjacency_of(graph)
    assert adjacency_of(graph, ("sensor", "near", "sensor")) is first
    assert adjacency_of(graph, device=torch.device("cpu")) is first
    moved = adjacency_of(graph, device=torch.device("meta"))
    assert moved.col.device.type == "meta"
    assert adjacency_of(graph, device=torch.device("meta")) is moved
    graph["sensor", "near", "sensor"].edge_index[0, 0] = 6  # changed in place
    assert adjacency_of(graph) is not first
    assert adjacency_of(graph_of(edges_of())) is not first


@pytest.mark.parametrize("name", ["convolution", "diffusion", "cell"])
def test_what_is_kept_follows_its_inputs(name: str) -> None:
    """Normalised weights are kept between calls, and made anew when the weights, the graph or the type change."""
    layer, slow = layer_of(name)
    edges, x = edges_of(), numbers(2, 3, NODES, WIDTH)
    graph, weight = Adjacency.of_edges(edges, NODES, NODES), weights("static")

    def same(graph: Adjacency, edges: Tensor, weight: Tensor | None) -> None:
        torch.testing.assert_close(layer(x, graph, weight), slow(layer, x, edges, weight), rtol=1e-12, atol=1e-12)

    same(graph, edges, weight)
    kept = layer._kept._value
    same(graph, edges, weight)
    assert layer._kept._value is kept
    weight.mul_(torch.linspace(0.5, 2, EDGES))
    same(graph, edges, weight)
    assert layer._kept._value is not kept
    same(graph, edges, None)
    same(Adjacency.of_edges(edges.flip(0), NODES, NODES), edges.flip(0), weight)
    half = copy.deepcopy(layer).float()
    assert half(x.float(), graph, weight).dtype == torch.float32
    restored = pickle.loads(pickle.dumps(layer))
    torch.testing.assert_close(restored(x, graph, weight), layer(x, graph, weight))
    with torch.inference_mode():
        fresh, _ = layer_of(name)
        fresh.load_state_dict(layer.state_dict())
    trained = copy.deepcopy(layer)
    with torch.inference_mode():
        trained(x, graph, weight)
    trained(x.requires_grad_(), graph, weight).sum().backward()


def test_a_sequence_is_its_steps() -> None:
    torch.manual_seed(0)
    layer = GraphGRUCell(WIDTH, 5).double()
    edges, x = edges_of(), numbers(2, 6, NODES, WIDTH).requires_grad_()
    graph = Adjacency.of_edges(edges, NODES, NODES)
    for weight in (None, weights("static"), weights("steps", time=6)):
        for start in (None, numbers(2, NODES, 5)):
            out = layer.sequence(x, graph, weight, state=start)
            state, states = start, []
            for step in range(6):
                now = weight[step] if weight is not None and weight.dim() == 2 else weight
                state = dense.cell(layer, x[:, step], edges, now, state)
                states.append(state)
            wanted = torch.stack(states, 1)
            torch.testing.assert_close(out, wanted, rtol=1e-11, atol=1e-11)
            for one, other in zip(torch.autograd.grad(out.square().sum(), [x, *layer.parameters()]),
                                  torch.autograd.grad(wanted.square().sum(), [x, *layer.parameters()]), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    single = layer.sequence(x[0], graph, weights("steps", time=6))
    torch.testing.assert_close(single, layer.sequence(x, graph, weights("steps", time=6))[0], rtol=1e-12, atol=1e-12)
    assert layer.sequence(x[:, :0], graph).shape == (2, 0, NODES, 5)
    assert layer.bias[:10].tolist() == [1.0] * 10
    assert layer.bias[10:].tolist() == [0.0] * 5


def test_without_edges_a_cell_is_one_unit_for_all_nodes() -> None:
    """The states of all nodes follow the same recurrence, here by hand from the terms without a step."""
    layer, _ = layer_of("cell")
    x, h = numbers(NODES, WIDTH), numbers(NODES, 5, seed=2)
    out = layer(x, Adjacency.of_edges(torch.zeros(2, 0, dtype=torch.int64), NODES, NODES), state=h)
    of_x, of_h = x @ layer.weight[0] + layer.bias, h @ layer.gates[0]
    z, r = (of_x[:, :10] + of_h).sigmoid().split(5, -1)
    candidate = (of_x[:, 10:] + (r * h) @ layer.candidate[0]).tanh()
    torch.testing.assert_close(out, z * h + (1 - z) * candidate, rtol=1e-13, atol=1e-13)


def test_dropout_is_of_training_only() -> None:
    edges = edges_of()
    graph, x = Adjacency.of_edges(edges, NODES, NODES), numbers(2, 3, NODES, WIDTH)
    for make in (GraphAttention, GraphTransformer):
        torch.manual_seed(1)
        layer = make(WIDTH, 3, 2, dropout=0.5).double()
        assert not torch.equal(layer(x, graph), layer(x, graph))
        torch.manual_seed(2)
        first = layer(x, graph)
        torch.manual_seed(2)
        assert torch.equal(first, layer(x, graph))
        layer.eval()
        slow = dense.attention if make is GraphAttention else dense.transformer
        torch.testing.assert_close(layer(x, graph), slow(layer, x, edges, None), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["convolution", "diffusion", "transformer"])
def test_compiles_whole(name: str) -> None:
    torch._dynamo.reset()
    layer, _ = layer_of(name, dtype=torch.float32)
    graph, x = Adjacency.of_edges(edges_of(), NODES, NODES), numbers(2, 3, NODES, WIDTH).float().requires_grad_()
    wanted = layer(x, graph)
    out = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, graph)
    torch.testing.assert_close(out, wanted)
    for one, other in zip(torch.autograd.grad(out.square().sum(), [x, *layer.parameters()]),
                          torch.autograd.grad(wanted.square().sum(), [x, *layer.parameters()]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_real_sensor_graph(name: str, shared_data: Path) -> None:
    """Los-loop: 207 sensors, the directed road graph, one hour of two days, against the formula."""
    found = np.load(shared_data / "los_loop" / "adj.npz")["adj_dcrnn"]
    source, destination = np.nonzero(found)
    edges = torch.from_numpy(np.stack([source, destination]))
    weight = torch.from_numpy(found[source, destination].astype(np.float64))
    speed = np.load(shared_data / "los_loop" / "speed.npz")["speed_mph"]
    days = torch.from_numpy(np.stack([speed[96:108], speed[384:396]]).astype(np.float64))
    x = torch.stack([(days - days.mean()) / days.std(), days.diff(dim=1, prepend=days[:, :1]), days / 70,
                     torch.ones_like(days)], -1)
    layer, slow = layer_of(name, weighted=True)
    graph = DynamicHeteroGraph()
    graph["sensor"].num_nodes = 207
    graph["sensor", "near", "sensor"].edge_index = edges
    graph["sensor", "near", "sensor"].edge_weight = weight
    torch.testing.assert_close(layer(x, graph, "edge_weight"), slow(layer, x, edges, weight), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("field", "call"), [
    ("normalise", lambda g, x, w: GraphConvolution(4, 3, "left")),
    ("steps", lambda g, x, w: DiffusionConvolution(4, 3, steps=-1)),
    ("recurrence", lambda g, x, w: GraphGRUCell(4, 3, recurrence="cubic")),
    ("heads", lambda g, x, w: GraphAttention(4, 3, 0)),
    ("dropout", lambda g, x, w: GraphTransformer(4, 3, dropout=1.0)),
    ("graph", lambda g, x, w: GraphConvolution(4, 3)(x, w)),
    ("x", lambda g, x, w: GraphConvolution(4, 3)(x[:, :, 1:], g)),
    ("relation", lambda g, x, w: GraphConvolution(4, 3)(x, Adjacency.of_edges(edges_of(), NODES, NODES + 1))),
    ("relation", lambda g, x, w: GraphConvolution(4, 3)(x, graph_of(edges_of()), w, ("sensor", "is", "sensor"))),
    ("edge_weight", lambda g, x, w: GraphConvolution(4, 3)(x, g, w[1:])),
    ("edge_weight", lambda g, x, w: DiffusionConvolution(4, 3)(x, g, w.expand(2, -1))),
    ("edge_weight", lambda g, x, w: GraphConvolution(4, 3)(x, graph_of(edges_of()), "length")),
    ("edge_weight", lambda g, x, w: GraphAttention(4, 3)(x, g, w)),
    ("edge_weight", lambda g, x, w: GraphTransformer(4, 3, edge_weights=True)(x, g)),
    ("state", lambda g, x, w: GraphGRUCell(4, 3)(x, g, w, state=x)),
    ("x", lambda g, x, w: GraphGRUCell(4, 3).sequence(x[0, 0], g)),
])
def test_bad_input_is_named(field: str, call: Any) -> None:
    graph = Adjacency.of_edges(edges_of(), NODES, NODES)
    with pytest.raises(InputError) as caught:
        call(graph, numbers(2, 3, NODES, WIDTH).float(), weights("static", torch.float32))
    assert caught.value.field == field
