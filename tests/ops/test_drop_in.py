"""Layers of PyTorch Geometric on our kernels equal themselves: outputs, gradients, parameters, refusals, and back."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyg_cases import ATTENTION, GRAPHS, LAYERS, WEIGHTED, Calls, edges, gin, made, numbers, run, same
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import (
    ChebConv,
    GATConv,
    GATv2Conv,
    GCNConv,
    GraphConv,
    HeteroConv,
    MessagePassing,
    SAGEConv,
    TransformerConv,
)
from torch_geometric.nn import Sequential as GraphSequential

from stgraph.errors import InputError
from stgraph.ops import Adjacency, accelerate, drop_in, pyg_layers

pytestmark = pytest.mark.usefixtures("kernels")


# ---------------------------------------------------------------- equal outputs and gradients
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_on_every_graph(name: str, kind: str) -> None:
    edge_index, nodes = edges(kind)
    x = numbers(nodes, 8).requires_grad_()
    same(made(name), x, edge_index)
    if name in WEIGHTED:
        weight = numbers(edge_index.shape[1], seed=2).abs()
        same(made(name), x, edge_index, weight)
        same(made(name), x, edge_index, edge_weight=weight.requires_grad_())
    if name in ATTENTION:
        same(made(name), x, edge_index, edge_attr=numbers(edge_index.shape[1], 4, seed=2).requires_grad_())


@pytest.mark.parametrize("name", LAYERS)
def test_single_precision_on_a_real_graph(name: str, shared_data: Path) -> None:
    adjacency = torch.from_numpy(np.load(shared_data / "sensor_graphs" / "pems_bay_adj.npz")["adj"])
    edge_index = adjacency.nonzero().t().contiguous()
    weight = adjacency[edge_index[0], edge_index[1]].requires_grad_()
    x = numbers(len(adjacency), 8, dtype=torch.float32).requires_grad_()
    near = {"forward": 1e-5, "backward": 1e-4}
    layer = made(name, torch.float32)
    if name in WEIGHTED:
        same(layer, x, edge_index, weight, **near)
    elif name in ATTENTION:
        same(layer, x, edge_index, weight.detach()[:, None].expand(-1, 4), **near)
    else:
        same(layer, x, edge_index, **near)


@pytest.mark.parametrize("layer", ["sage", "graph", "gin", "gat", "gat2", "transformer", "gat without loops"])
@pytest.mark.parametrize("to", ["features", "size", "fewer sources"])
def test_bipartite(layer: str, to: str) -> None:
    pair = (8, 5)
    torch.manual_seed(0)
    module = {"sage": lambda: SAGEConv(pair, 6), "graph": lambda: GraphConv(pair, 6), "gin": gin,
              "gat": lambda: GATConv(pair, 4, heads=2), "gat2": lambda: GATv2Conv(pair, 4, heads=2),
              "gat without loops": lambda: GATConv(pair, 4, heads=2, add_self_loops=False, residual=True),
              "transformer": lambda: TransformerConv(pair, 4, heads=2)}[layer]().double()
    sources, destinations = (7, 19) if to == "fewer sources" else (19, 7)
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.stack([torch.randint(0, sources, (40,), generator=generator),
                              torch.randint(0, destinations - 1, (40,), generator=generator)])
    source, destination = numbers(sources, 8).requires_grad_(), numbers(destinations, 5, seed=2).requires_grad_()
    if layer == "gin":
        destination = None
    if to == "size":
        if layer in ("gat2", "transformer"):
            return  # these take no size
        same(module, (source, None), edge_index, size=(sources, destinations))
    elif destination is not None:
        same(module, (source, destination), edge_index)


@pytest.mark.parametrize("name", [*WEIGHTED, "sage", "sage max", "sage project", "gin"])
def test_static_graphs(name: str) -> None:
    edge_index, nodes = edges("duplicates")
    x = numbers(3, nodes, 8).requires_grad_()
    same(made(name), x, edge_index)
    if name in WEIGHTED:
        same(made(name), x, edge_index, numbers(edge_index.shape[1], seed=2).abs().requires_grad_())


@pytest.mark.parametrize("name", ["sage max", "gcn max", "graph max"])
def test_equals_share_the_gradient_of_a_maximum(name: str) -> None:
    """Features as ReLU leaves them, over edges that come twice: many are the largest at once."""
    edge_index, nodes = edges("duplicates")
    x = numbers(nodes, 8).relu().round(decimals=0).requires_grad_()
    same(made(name), x, edge_index)


@pytest.mark.parametrize("name", ["gcn", "gcn max", "sage max", "gat", "gat2", "transformer"])
def test_second_derivatives(name: str) -> None:
    edge_index, nodes = edges("isolated")
    module = accelerate(made(name))
    assert torch.autograd.gradgradcheck(lambda x: module(x, edge_index).tanh(), numbers(nodes, 8).requires_grad_(),
                                        fast_mode=True)


def test_a_model_of_several_layers_trains_the_same() -> None:
    edge_index, nodes = edges("self loops")
    torch.manual_seed(0)
    model = GraphSequential("x, edge_index", [(GCNConv(8, 16), "x, edge_index -> x"), torch.nn.ReLU(),
                                              (GATConv(16, 4, heads=2), "x, edge_index -> x"), torch.nn.ELU(),
                                              (SAGEConv(8, 3, aggr="max"), "x, edge_index -> x")]).double()
    twin = accelerate(copy.deepcopy(model))
    assert len(drop_in.report(twin).swapped) == 3
    x, losses = numbers(nodes, 8), []
    for module in (model, twin):
        optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
        for _ in range(20):
            optimiser.zero_grad()
            loss = (module(x, edge_index) - 1).square().mean()
            loss.backward()
            optimiser.step()
        losses.append(loss.item())
    assert losses[0] < 0.5
    assert losses[1] == pytest.approx(losses[0], rel=1e-8)


def test_relations_of_a_heterogeneous_model() -> None:
    generator = torch.Generator().manual_seed(0)
    x = {"a": numbers(9, 8), "b": numbers(6, 8, seed=2)}
    to = {("a", "to", "b"): torch.stack([torch.randint(0, 9, (20,), generator=generator),
                                         torch.randint(0, 6, (20,), generator=generator)]),
          ("b", "near", "b"): torch.randint(0, 6, (2, 15), generator=generator)}
    torch.manual_seed(0)
    model = HeteroConv({("a", "to", "b"): SAGEConv((8, 8), 5), ("b", "near", "b"): GCNConv(8, 5)}).double()
    wanted = model(x, to)["b"]
    accelerate(model)
    assert len(drop_in.report(model).swapped) == 2
    with Calls() as calls:
        torch.testing.assert_close(model(x, to)["b"], wanted)
    assert len(calls.names) == 2


# ---------------------------------------------------------------- dropout
@pytest.mark.parametrize("name", ["gat", "gat2", "transformer"])
def test_dropout_has_the_distribution_of_pyg(name: str) -> None:
    edge_index, nodes = edges("duplicates")
    layer, x = made(name), numbers(nodes, 8)
    layer.dropout = 0.4
    module = accelerate(layer, inplace=False)
    torch.testing.assert_close(module.eval()(x, edge_index), layer.eval()(x, edge_index))
    samples = []
    for one in (layer.train(), module.train()):
        torch.manual_seed(5)
        with torch.no_grad(), Calls() as calls:
            samples.append(torch.stack([one(x, edge_index) for _ in range(200)]))
    assert calls.names  # those of the second
    theirs, ours = samples
    spread = (theirs.var(0) + ours.var(0)).sqrt() / 200 ** 0.5
    assert float(((ours.mean(0) - theirs.mean(0)).abs() / (spread + 1e-12)).max()) < 5
    assert float((ours.var(0) / theirs.var(0)).sqrt().mean()) == pytest.approx(1, abs=0.05)
    torch.manual_seed(5)
    assert torch.equal(module(x, edge_index), ours[0])  # torch's seed decides
    assert not torch.equal(module(x, edge_index), ours[0])


def test_the_gradient_drops_what_the_output_dropped() -> None:
    edge_index, nodes = edges("duplicates")
    module, x = accelerate(made("gat")), numbers(nodes, 8).requires_grad_()
    module.dropout = 0.5

    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return module(x, edge_index)

    assert torch.autograd.gradcheck(seeded, x)


# ---------------------------------------------------------------- graphs that are kept
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a graph is compressed."""
    seen: list[int] = []
    make = Adjacency.of_edges

    def counted(edge_index: Tensor, *sizes: int) -> Adjacency:
        seen.append(edge_index.shape[1])
        return make(edge_index, *sizes)

    monkeypatch.setattr(Adjacency, "of_edges", counted)
    return seen


@pytest.mark.parametrize("name", LAYERS)
def test_an_edge_index_edited_in_place_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "gcn cached":
        pytest.skip("PyG keeps the first graph there")
    edge_index, nodes = edges("isolated")
    layer, x = made(name), numbers(nodes, 8)
    module, seen = accelerate(layer, inplace=False), builds(monkeypatch)
    for _ in range(3):
        torch.testing.assert_close(module(x, edge_index), layer(x, edge_index))
    assert len(seen) == 1
    edge_index[0, 3] = 29
    torch.testing.assert_close(module(x, edge_index), layer(x, edge_index))
    assert len(seen) == 2
    edge_index[:, :2].copy_(torch.tensor([[5, 5], [6, 7]]))  # through a view
    torch.testing.assert_close(module(x, edge_index), layer(x, edge_index))
    assert len(seen) == 3


def test_edited_weights_are_noticed() -> None:
    edge_index, nodes = edges("isolated")
    layer, x, weight = made("gcn"), numbers(nodes, 8), numbers(edge_index.shape[1], seed=2).abs()
    module = accelerate(layer, inplace=False)
    before = module(x, edge_index, weight)
    weight.mul_(torch.arange(len(weight)))
    torch.testing.assert_close(module(x, edge_index, weight), layer(x, edge_index, weight))
    assert not torch.equal(module(x, edge_index, weight), before)


def test_the_first_graph_stays_where_pyg_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    edge_index, nodes = edges("isolated")
    layer, x = made("gcn cached"), numbers(nodes, 8)
    module = accelerate(layer, inplace=False)
    first = module(x, edge_index)
    assert torch.equal(module(x, edge_index.flip(0)), first)
    module.reset_parameters()
    module.load_state_dict(layer.state_dict())
    torch.testing.assert_close(module(x, edge_index.flip(0)), layer(x, edge_index.flip(0)))


def test_graphs_are_shared_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    pyg_layers._KEPT.clear()
    seen = builds(monkeypatch)
    edge_index, nodes = edges("isolated")
    x = numbers(nodes, 8)
    one, two = accelerate(made("sage")), accelerate(made("graph"))
    one(x, edge_index)
    two(x, edge_index)
    assert len(seen) == 1  # one graph for both layers
    many = [edge_index.clone() for _ in range(pyg_layers.LIMIT + 5)]
    for other in many:
        one(x, other)
    assert len(pyg_layers._KEPT) == pyg_layers.LIMIT
    del many, other
    gc.collect()
    assert len(pyg_layers._KEPT) == 0


def test_an_evaluation_before_the_training() -> None:
    """What is kept from inference mode serves a call that saves it for its gradient."""
    for name in LAYERS:
        edge_index, nodes = edges("self loops")
        layer, x = made(name), numbers(nodes, 8)
        module = accelerate(layer, inplace=False)
        with torch.inference_mode():
            module(x, edge_index)
            found = module(x, edge_index.clone())
        if name != "gcn cached":
            run(module, x.requires_grad_(), edge_index)
        torch.testing.assert_close(found.clone(), layer(x, edge_index))


# ---------------------------------------------------------------- calls that PyG answers itself
@pytest.mark.parametrize("name", ["gat", "gat2", "transformer"])
def test_attention_weights_come_from_pyg(name: str) -> None:
    edge_index, nodes = edges("self loops")
    layer, x = made(name), numbers(nodes, 8)
    module = accelerate(layer, inplace=False)
    wanted, (edges_of, shares) = layer(x, edge_index, return_attention_weights=True)
    with Calls() as calls:
        out, (found_edges, found) = module(x, edge_index, return_attention_weights=True)
    assert not calls.names
    assert torch.equal(out, wanted)
    assert torch.equal(found_edges, edges_of)
    assert torch.equal(found, shares)


@pytest.mark.parametrize("name", ["gcn", "sage", "graph", "gin", "gat", "gat2", "transformer"])
def test_sparse_matrices_hooks_and_explanations_go_to_pyg(name: str) -> None:
    edge_index, nodes = edges("duplicates")
    layer, x = made(name), numbers(nodes, 8)
    module = accelerate(layer, inplace=False)
    matrix = torch.sparse_coo_tensor(edge_index.flip(0), torch.ones(edge_index.shape[1], dtype=torch.float64),
                                     (nodes, nodes)).coalesce()
    handed = [EdgeIndex(edge_index, sparse_size=(nodes, nodes))]
    if not name.startswith("gat"):  # self loops of sparse matrices need another package there
        handed.append(matrix)
    with Calls() as calls:
        for other in handed:
            assert torch.equal(module(x, other), layer(x, other))
        seen = []
        hook = module.register_message_forward_hook(lambda *given: seen.append(given[2].shape[0]))
        module(x, edge_index)
        hook.remove()
        assert seen
        module.explain = True
        module._edge_mask, module._loop_mask = torch.zeros(edge_index.shape[1]), torch.ones(edge_index.shape[1]).bool()
        if not name.startswith("g"):
            module(x, edge_index)
        module.explain = False
    assert not calls.names
    with Calls() as calls:
        torch.testing.assert_close(module(x, edge_index), layer(x, edge_index))
    assert calls.names


def test_pyg_says_what_is_wrong_with_a_call() -> None:
    edge_index, nodes = edges("isolated")
    x = numbers(nodes, 8)
    with pytest.raises(ValueError, match="bipartite"):
        accelerate(made("gcn"))((x, x), edge_index)
    with pytest.raises(ValueError, match="size"):
        accelerate(made("sage"))(x, edge_index, size=(4, 4))
    with pytest.raises(AssertionError):
        accelerate(made("gat"))(x[None], edge_index)
    with pytest.raises(ValueError, match="integer"):
        accelerate(made("sage"))(x, edge_index.double())
    edge_index[0, 0] = nodes
    with pytest.raises(InputError) as caught:
        accelerate(made("sage"))(x, edge_index)
    assert caught.value.field == "edge_index"


@pytest.mark.parametrize("name", ["graph max", "gat without loops"])
def test_compiles_where_pyg_does(name: str) -> None:
    torch._dynamo.reset()
    edge_index, nodes = edges("duplicates")
    layer, x = made(name), numbers(nodes, 8)
    module = torch.compile(accelerate(layer, inplace=False), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(module(x, edge_index), layer(x, edge_index))
    torch._dynamo.reset()


def test_autocast_goes_to_pyg() -> None:
    edge_index, nodes = edges("duplicates")
    layer, x = made("gat", torch.float32), numbers(nodes, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(accelerate(layer, inplace=False)(x, edge_index), layer(x, edge_index))


# ---------------------------------------------------------------- what is left alone, and the way back
class Doubled(GCNConv):
    def message(self, x_j: Tensor, edge_weight: Tensor | None) -> Tensor:
        return 2 * super().message(x_j, edge_weight)


class Loud(SAGEConv):
    def propagate(self, edge_index: Tensor, **words: Any) -> Tensor:
        return -super().propagate(edge_index, **words)


class Named(GCNConv):
    """Changes nothing."""


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: Doubled(8, 6), "message"), (lambda: Loud(8, 6), "propagate"), (lambda: ChebConv(8, 6, 2), "adapter"),
    (lambda: SAGEConv(8, 6, aggr="median"), "aggregation"), (lambda: SAGEConv(8, 6, aggr=["mean", "max"]), "aggreg"),
    (lambda: GCNConv(8, 6, flow="target_to_source"), "flow"), (lambda: SAGEConv(8, 6, decomposed_layers=2), "decomp"),
    (lambda: TransformerConv(8, 6, edge_dim=3), "edge_dim"), (lambda: GATConv(8, 6, negative_slope=-0.1), "slope"),
    (lambda: GCNConv(8, 6, node_dim=0), "node_dim"), (lambda: GATConv(8, 6, aggr="mean"), "aggregation"),
])
def test_what_is_left_alone_is_told_why(make: Callable[[], MessagePassing], reason: str) -> None:
    layer = make()
    model = torch.nn.ModuleDict({"odd": layer, "known": GCNConv(8, 6)})
    before = dict(layer.__dict__)
    accelerate(model)
    assert layer.__dict__ == before
    found = drop_in.report(model)
    assert [one.name for one in found.swapped] == ["known"]
    assert [one.name for one in found.left] == ["odd"]
    assert reason in found.left[0].reason
    assert reason in str(found)


def test_a_method_of_the_object_and_an_unknown_option_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = GCNConv(8, 6)
    layer.message = lambda x_j, edge_weight: x_j  # type: ignore[method-assign]
    assert "message" in drop_in.report(accelerate(layer)).left[0].reason
    monkeypatch.setattr(pyg_layers.SageLayer, "options", frozenset(("aggr", "normalize", "root_weight")))
    assert "project" in drop_in.report(accelerate(SAGEConv(8, 6))).left[0].reason


def test_a_subclass_that_changes_nothing_is_swapped() -> None:
    edge_index, nodes = edges("self loops")
    layer = Named(8, 6).double()
    same(layer, numbers(nodes, 8).requires_grad_(), edge_index)


@pytest.mark.parametrize("name", LAYERS)
def test_twice_is_once_and_restore_is_bit_for_bit(name: str) -> None:
    edge_index, nodes = edges("self loops")
    layer, x = made(name), numbers(nodes, 8)
    assert "not accelerated yet" in str(drop_in.report(layer))
    before, attributes = layer(x, edge_index), set(layer.__dict__)
    parameters = list(layer.parameters())
    assert accelerate(layer) is layer
    function = layer.__dict__["forward"]
    assert accelerate(layer).__dict__["forward"] is function
    assert all(a is b for a, b in zip(parameters, layer.parameters(), strict=True))
    assert drop_in.restore(layer) is layer
    assert set(layer.__dict__) == attributes
    with Calls() as calls:
        assert torch.equal(layer(x, edge_index), before)
    assert not calls.names
    drop_in.restore(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_go_both_ways(name: str) -> None:
    edge_index, nodes = edges("self loops")
    layer, x = made(name), numbers(nodes, 8)
    module = accelerate(LAYERS[name]().double())
    assert list(module.state_dict()) == list(layer.state_dict())
    module.load_state_dict(layer.state_dict())
    torch.testing.assert_close(module(x, edge_index), layer(x, edge_index))
    back = LAYERS[name]().double()
    back.load_state_dict(module.state_dict())
    assert torch.equal(back(x, edge_index), layer(x, edge_index))


def test_a_copy_has_parameters_of_its_own() -> None:
    edge_index, nodes = edges("self loops")
    layer, x = accelerate(made("gcn")), numbers(nodes, 8)
    before, other = layer(x, edge_index), copy.deepcopy(layer)
    with torch.no_grad():
        other.bias += 1
    torch.testing.assert_close(other(x, edge_index), before + 1)
    assert torch.equal(layer(x, edge_index), before)
    assert drop_in.report(other).swapped


def test_a_whole_saved_layer_comes_back_as_pyg_made_it() -> None:
    edge_index, nodes = edges("self loops")
    layer, x = accelerate(made("gat")), numbers(nodes, 8)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    back = torch.load(file, weights_only=False)
    assert not drop_in.report(back).swapped
    torch.testing.assert_close(back(x, edge_index), layer(x, edge_index))
    assert drop_in.report(accelerate(back)).swapped


def test_what_is_no_module_is_named() -> None:
    for function in (accelerate, drop_in.restore, drop_in.report):
        with pytest.raises(InputError) as caught:
            function("GCNConv")  # type: ignore[type-var]
        assert caught.value.field == "module"
