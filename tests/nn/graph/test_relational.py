"""Convolution over several relations: its formula relation by relation, and what a missing part costs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.nn.graph import RelationalConvolution
from stgraph.nn.graph import relational as module
from stgraph.ops import Adjacency

SIZES = {"sensor": 7, "segment": 9, "event": 4}
WIDTHS = {"sensor": 3, "segment": 5, "event": 2}
RELATIONS = (("sensor", "near", "sensor"), ("sensor", "beside", "sensor"), ("segment", "under", "sensor"),
             ("segment", "before", "segment"), ("event", "at", "segment"), ("sensor", "far", "sensor"))
Given = dict[tuple[str, str, str], Tensor]


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edges_of(relation: tuple[str, str, str]) -> Tensor:
    """Random edges that leave out the last node on either side; none at all for one relation."""
    generator = torch.Generator().manual_seed(len(relation[1]))
    count = 0 if relation[1] == "far" else 8 + len(relation[1])
    return torch.stack([torch.randint(SIZES[kind] - 1, (count,), generator=generator)
                        for kind in (relation[0], relation[2])])


def graph_of(relations: tuple[tuple[str, str, str], ...] = RELATIONS, weighted: bool = False) -> DynamicHeteroGraph:
    graph = DynamicHeteroGraph()
    for kind, size in SIZES.items():
        graph[kind].num_nodes = size
    for relation in relations:
        graph[relation].edge_index = edges_of(relation)
        if weighted:
            graph[relation].length = numbers(edges_of(relation).shape[1], seed=len(relation[1])).abs()
    return graph


def features(seed: int = 2) -> dict[str, Tensor]:
    return {kind: numbers(2, 3, SIZES[kind], WIDTHS[kind], seed=seed + len(kind)) for kind in SIZES}


def layer_of(**options: Any) -> RelationalConvolution:
    torch.manual_seed(4)
    layer = RelationalConvolution(WIDTHS, 6, RELATIONS, **options).double()
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 8)
    return layer


def slow(layer: RelationalConvolution, x: dict[str, Tensor], weight: Given) -> dict[str, Tensor]:
    """Relation by relation with dense matrices; weights ``[E]`` or ``[T, E]``."""
    out = {}
    for kind in {destination for _, _, destination in RELATIONS}:
        own = x[kind].new_zeros((*x[kind].shape[:-1], layer.outputs))
        for relation in (one for one in RELATIONS if one[2] == kind):
            source = relation[0]
            matrix = layer.weight[source]
            place = layer.by_source[source].index(relation)
            matrix = matrix[place] if layer.coefficient is None else torch.einsum(
                "b,bfg->fg", layer.coefficient[source][place], matrix)
            edges = edges_of(relation)
            values = weight.get(relation, torch.ones(edges.shape[1], dtype=torch.float64))
            if layer.normalise == "mean":
                values = values / torch.bincount(edges[1], minlength=SIZES[kind])[edges[1]]
            sent = (x[source] @ matrix)[..., edges[0], :] * values[..., None]
            own = own.index_add(-2, edges[1], sent)
        if kind in layer.root:
            own = own + x[kind] @ layer.root[kind]
        out[kind] = own + layer.bias[kind] if kind in layer.bias else own
    return out


OPTIONS = ({}, {"bases": 2}, {"normalise": None, "root": False}, {"bases": 1, "bias": False})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("weighted", ["none", "all", "some per step"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_formula_and_its_gradients(options: dict[str, Any], weighted: str, dtype: torch.dtype,
                                       tolerance: float) -> None:
    layer = layer_of(**options)
    weight: Given = {}
    if weighted != "none":
        weight = {one: numbers(edges_of(one).shape[1], seed=9).abs().requires_grad_() for one in RELATIONS}
    if weighted == "some per step":
        del weight[RELATIONS[0]]
        weight[RELATIONS[1]] = numbers(3, edges_of(RELATIONS[1]).shape[1]).abs().requires_grad_()
    x = {kind: one.requires_grad_() for kind, one in features().items()}
    wanted = slow(layer, x, weight)
    leaves = [*x.values(), *weight.values(), *layer.parameters()]
    total = sum((one * numbers(*one.shape, seed=6)).sum() for _, one in sorted(wanted.items()))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    mine = copy.deepcopy(layer).to(dtype)
    own_x = {kind: one.detach().to(dtype).requires_grad_() for kind, one in x.items()}
    own_weight = {one: value.detach().to(dtype).requires_grad_() for one, value in weight.items()}
    out = mine(own_x, graph_of(), own_weight or None)
    assert set(out) == set(wanted)
    for kind, one in wanted.items():
        torch.testing.assert_close(out[kind].double(), one, rtol=tolerance, atol=tolerance)
    total = sum((one * numbers(*one.shape, seed=6).to(dtype)).sum() for _, one in sorted(out.items()))
    found = torch.autograd.grad(total, [*own_x.values(), *own_weight.values(), *mine.parameters()], allow_unused=True,
                                materialize_grads=True)
    for one, other in zip(found, gradients, strict=True):
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batches_permutations_and_adjacencies(options: dict[str, Any]) -> None:
    layer, x, graph = layer_of(**options), features(), graph_of()
    whole = layer(x, graph)
    for b in range(2):
        part = layer({kind: one[b] for kind, one in x.items()}, graph)
        for kind, one in part.items():
            torch.testing.assert_close(one, whole[kind][b], rtol=1e-12, atol=1e-12)
    plain = {one: Adjacency.of(graph, one) for one in RELATIONS}
    for kind, one in layer(x, plain).items():
        assert torch.equal(one, whole[kind])
    order = {kind: torch.randperm(size, generator=torch.Generator().manual_seed(size)) for kind, size in SIZES.items()}
    moved = {}
    for one in RELATIONS:
        place = {kind: torch.argsort(order[kind]) for kind in (one[0], one[2])}
        edges = edges_of(one)
        moved[one] = Adjacency.of_edges(torch.stack([place[one[0]][edges[0]], place[one[2]][edges[1]]]), SIZES[one[0]],
                                        SIZES[one[2]])
    out = layer({kind: one[:, :, order[kind]] for kind, one in x.items()}, moved)
    for kind, one in out.items():
        torch.testing.assert_close(one, whole[kind][:, :, order[kind]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_whole_after_a_call(weighted: bool) -> None:
    torch._dynamo.reset()
    layer, x = layer_of(bases=2), features()
    graph = {relation: Adjacency.of(graph_of(), relation) for relation in RELATIONS}
    weight = {RELATIONS[0]: numbers(graph[RELATIONS[0]].edges).abs()} if weighted else None
    wanted = layer(x, graph, weight)
    sum(one.sum() for one in wanted.values()).backward()
    found = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, graph, weight)
    for kind, one in wanted.items():
        torch.testing.assert_close(found[kind], one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_under_autocast_as_a_linear_layer(options: dict[str, Any]) -> None:
    layer, x = layer_of(**options).float(), {kind: one.float() for kind, one in features().items()}
    exact = layer(x, graph_of())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, graph_of())
        found = torch.autograd.grad(sum(one.float().square().sum() for one in out.values()), list(layer.parameters()),
                                    allow_unused=True)
    for kind, one in out.items():
        assert one.dtype == torch.bfloat16
        assert float((one - exact[kind]).detach().abs().max()) < 0.03 * float(exact[kind].detach().abs().max())
    assert all(one is None or one.dtype == torch.float32 for one in found)


def test_isolated_nodes_get_what_they_have() -> None:
    layer, x = layer_of(), features()
    out = layer(x, graph_of())
    for kind in ("sensor", "segment"):
        wanted = x[kind][:, :, -1] @ layer.root[kind] + layer.bias[kind]
        torch.testing.assert_close(out[kind][:, :, -1], wanted, rtol=1e-12, atol=1e-12)


def test_a_missing_type_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is made for a type that is not given, a relation that the graph lacks, or one without edges."""
    calls: list[tuple[int, int]] = []
    product = module.typed_spmm
    monkeypatch.setattr(module, "typed_spmm", lambda typed, x, *rest, **more: calls.append(
        (x.shape[-1], typed.types)) or product(typed, x, *rest, **more))
    layer, x = layer_of(bases=2), features()
    whole = layer(x, graph_of())
    assert sorted(calls) == [(2, 1), (3, 2), (5, 1), (5, 1)]  # near and beside are one product, far has no edges
    calls.clear()
    without = layer({kind: one for kind, one in x.items() if kind != "event"}, graph_of())
    assert sorted(calls) == [(3, 2), (5, 1), (5, 1)]
    assert torch.equal(without["sensor"], whole["sensor"])
    less = slow_without_events(layer, x)
    torch.testing.assert_close(without["segment"], less, rtol=1e-12, atol=1e-12)
    calls.clear()
    layer(x, graph_of(RELATIONS[:1]))
    assert calls == [(3, 1)]
    calls.clear()
    only = layer({"segment": x["segment"]}, graph_of())
    assert set(only) == {"sensor", "segment"}
    assert only["sensor"].shape == (2, 3, SIZES["sensor"], 6)
    calls.clear()
    nothing = layer({"event": x["event"]}, graph_of(RELATIONS[:1]))
    assert (nothing, calls) == ({}, [])


def slow_without_events(layer: RelationalConvolution, x: dict[str, Tensor]) -> Tensor:
    relation = RELATIONS[3]
    edges = edges_of(relation)
    matrix = torch.einsum("b,bfg->fg", layer.coefficient["segment"][layer.by_source["segment"].index(relation)],
                          layer.weight["segment"])
    values = 1.0 / torch.bincount(edges[1], minlength=9)[edges[1]].double()
    sent = (x["segment"] @ matrix)[..., edges[0], :] * values[:, None]
    own = x["segment"] @ layer.root["segment"] + layer.bias["segment"]
    return own.index_add(-2, edges[1], sent)


def test_parameters_do_not_depend_on_graphs_and_bases_share() -> None:
    layer = layer_of(bases=2)
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    layer(features(), graph_of())
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == shapes
    assert shapes["weight.sensor"] == (2, 3, 6)
    assert shapes["coefficient.sensor"] == (3, 2)
    assert shapes["coefficient.segment"] == (2, 2)


def test_real_heterogeneous_graph(shared_data: Path) -> None:
    """METR-LA sensors, those near each other, and the freeways they stand on, with one hour of speeds."""
    rows = np.genfromtxt(shared_data / "sensor_graphs" / "metr_la_sensor_osm_edge.csv", delimiter=",", names=True,
                         dtype=None, encoding="utf-8")
    freeways, road = np.unique(rows["fwy"], return_inverse=True)
    found = np.load(shared_data / "los_loop" / "adj.npz")
    place = {int(sensor): k for k, sensor in enumerate(found["sensor_id"])}
    sensor = np.array([place[int(one)] for one in rows["sid"]])
    near = np.stack(np.nonzero(found["adj_dcrnn"]))
    graph = DynamicHeteroGraph()
    graph["sensor"].num_nodes, graph["freeway"].num_nodes = 207, len(freeways)
    graph["sensor", "near", "sensor"].edge_index = torch.from_numpy(near)
    graph["sensor", "on", "freeway"].edge_index = torch.from_numpy(np.stack([sensor, road]))
    graph["freeway", "carries", "sensor"].edge_index = torch.from_numpy(np.stack([road, sensor]))
    speed = torch.from_numpy(np.load(shared_data / "los_loop" / "speed.npz")["speed_mph"][96:108].astype(np.float64))
    x = {"sensor": speed[None, :, :, None] / 70, "freeway": torch.ones(1, 12, len(freeways), 1, dtype=torch.float64)}
    relations = graph.edge_types
    layer = RelationalConvolution({"sensor": 1, "freeway": 1}, 4, relations).double()
    out = layer(x, graph)
    mean = torch.stack([speed[:, torch.from_numpy(sensor[road == k])].mean(1) / 70 for k in range(len(freeways))], 1)
    at = layer.by_source["sensor"].index(("sensor", "on", "freeway"))
    wanted = mean[None, :, :, None] * layer.weight["sensor"][at] + x["freeway"] @ layer.root["freeway"]
    torch.testing.assert_close(out["freeway"], wanted, rtol=1e-10, atol=1e-10)
    assert torch.isfinite(out["sensor"]).all()


@pytest.mark.parametrize(("field", "call"), [
    ("relations", lambda: RelationalConvolution({"a": 3}, 4, [("a", "to", "b")])),
    ("relations", lambda: RelationalConvolution({"a": 3}, 4, [])),
    ("bases", lambda: RelationalConvolution({"a": 3}, 4, [("a", "to", "a")], bases=0)),
    ("normalise", lambda: RelationalConvolution({"a": 3}, 4, [("a", "to", "a")], normalise="max")),
    ("x", lambda: layer_of()({**features(), "sensor": features()["event"]}, graph_of())),
    ("edge_weight", lambda: layer_of()(features(), graph_of(), {RELATIONS[0]: numbers(2)})),
    ("edge_weight", lambda: layer_of()(features(), graph_of(), "width")),
])
def test_bad_input_is_named(field: str, call: Any) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field


def test_weights_by_name() -> None:
    layer, graph = layer_of(), graph_of(weighted=True)
    named = layer(features(), graph, "length")
    given = layer(features(), graph, {one: graph[one].length for one in RELATIONS})
    for kind, one in named.items():
        assert torch.equal(one, given[kind])
