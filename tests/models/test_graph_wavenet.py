"""Graph WaveNet: its equations, no look into the future, sparse equals dense, who may answer whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from road_graphs import connected, dense_walks, los_loop
from torch import Tensor
from torch.nn import functional

from stgraph.errors import InputError, TransductiveError
from stgraph.models import Forecaster, Sizes
from stgraph.models.graph_wavenet import GraphWaveNet, GraphWaveNetConfig
from stgraph.nn import residual_graph
from stgraph.objectives import GraphPrior, MaskedRegression
from stgraph.windows import City, TrainingBatches, Window

MakeCity = Callable[..., City]
SMALL: dict[str, Any] = {"width": 6, "skip_width": 10, "end_width": 12, "node_width": 4, "candidates": 3, "chosen": 2}
KINDS = ["dense", "sparse", "learned", "none"]


def made(city: City, seed: int = 0, **changes: Any) -> GraphWaveNet:
    """A small model whose running means are those of some windows, and not 0 and 1."""
    torch.manual_seed(seed)
    model = GraphWaveNet.for_city(city, GraphWaveNetConfig(**(SMALL | changes)))
    assert isinstance(model, GraphWaveNet)
    with torch.no_grad():
        model(city.window(range(60, 100)))
    return model


def train(model: GraphWaveNet, windows: list[Window], rate: float) -> list[float]:
    optimizer, objective, losses = torch.optim.Adam(model.parameters(), rate), MaskedRegression(), []
    for window in windows:
        optimizer.zero_grad()
        (loss,) = objective(model, window).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# -------------------------------------------------------------------- a slow reference
def learned_matrix(model: GraphWaveNet, window: Window) -> Tensor | None:
    """The adaptive walk as a dense matrix, by the definition."""
    if model.kind == "none":
        return None
    nodes = window.values.shape[2]
    if model.kind == "learned":
        graph = model.learned_graph(window)
        matrix = torch.zeros(nodes, nodes)
        for node in range(nodes):
            found = graph.candidates.source[node][graph.chosen[node]]
            matrix[node, found] = 1 / max(1, len(found))
        return matrix
    score = torch.relu(model.receiver @ model.sender.T)
    if model.kind == "sparse":
        usable = torch.zeros(nodes, nodes, dtype=torch.bool)
        for node in range(nodes):
            usable[node, model.source[node][model.allowed[node]]] = True
        score = score.masked_fill(~usable, -torch.inf)
    return score.softmax(1)


def by_hand(model: GraphWaveNet, window: Window) -> Tensor:
    """All walks as dense matrices side by side, all steps of the answer, causal convolutions by PyTorch's own."""
    walks = list(dense_walks(window.city, model.config.self_loops))
    learned = learned_matrix(model, window)
    walks += [] if learned is None else [learned]
    x = model.scaler(window)
    x = torch.cat([x.new_zeros(len(x), model.receptive_field - x.shape[1], *x.shape[2:]), x], 1)
    x, total = model.start(x), 0.0
    for layer in model.layers:
        width, taps = model.config.width, layer.gated.taps
        kernel = taps.weight.unflatten(1, (-1, width)).transpose(1, 2)[..., None]             # [2 D, D, taps, 1]
        g = functional.conv2d(x.permute(0, 3, 1, 2), kernel, taps.bias, dilation=(layer.gated.dilation, 1))
        g = g[:, :width].tanh() * g[:, width:].sigmoid()                                      # [B, D, S, N]
        g = g.permute(0, 2, 3, 1)
        total = layer.skip(g) + (total[:, -g.shape[1]:] if isinstance(total, Tensor) else 0)
        if layer.last:
            break
        terms = [g]
        for walk in walks:
            terms.append(torch.einsum("ij,btjd->btid", walk, g))
            terms.append(torch.einsum("ij,btjd->btid", walk, terms[-1]))
        weights = [layer.diffusion.weight] + ([] if layer.adaptive is None else [layer.adaptive])
        x = torch.cat(terms, -1) @ torch.cat(weights).flatten(0, 1) + layer.diffusion.bias + x[:, -g.shape[1]:]
        norm = layer.norm
        x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    assert isinstance(total, Tensor)
    assert total.shape[1] == 1
    h = torch.relu(model.end[1](torch.relu(total[:, 0])))
    y = model.end[3](h).unflatten(-1, (window.horizon, -1)).transpose(1, 2)
    return model.scaler.undo(y, window)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("self_loops", [True, False])
def test_it_is_the_papers_equations(make_city: MakeCity, kind: str, self_loops: bool) -> None:
    city = connected(make_city(channels=2, nodes=9), 15)
    model, window = made(city, adaptive=kind, self_loops=self_loops).eval(), city.window([30, 90, 200])
    answer = model(window).mean
    assert answer.shape == (3, 3, 9, 2)
    torch.testing.assert_close(answer, by_hand(model, window), rtol=1e-5, atol=1e-4)


def test_parameters_are_those_of_the_authors_less_what_feeds_nothing() -> None:
    """309,400 for 207 stations: theirs hold residual products that no graph needs, and a graph for the last layer."""
    model = GraphWaveNet(GraphWaveNetConfig(), Sizes(1, 12, 12, 288, nodes=207, network="x"))
    residual, last, weekday = 8 * (32 * 32 + 32), 7 * 32 * 32 + 32 + 2 * 32, 32
    assert model.parameter_count == 309_400 - residual - last + weekday
    assert model.receptive_field == 13


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_no_state_looks_into_the_future(make_city: MakeCity, kind: str) -> None:
    """Changing the last input step changes the last state of each layer, and none before."""
    city = connected(make_city(history=12))
    model, window = made(city, adaptive=kind).eval(), city.window([30, 90])
    values = window.values.clone()
    values[:, -1] += 10
    later = replace(window, values=values, mask=torch.ones_like(window.mask))
    window = replace(window, mask=later.mask)
    graph, weight = model.graphs.of(city, torch.device("cpu"))
    states = [model.start(functional.pad(model.scaler(one), (0, 0, 0, 0, 1, 0))) for one in (window, later)]
    lengths = [states[0].shape[1]]
    for layer in model.layers[:-1]:
        states = [layer(x, graph, weight, model.walk(window))[0] for x in states]
        lengths.append(states[0].shape[1])
        change = (states[0] - states[1]).abs().amax((0, 2, 3))
        assert (change[:-1] == 0).all()
        assert change[-1] > 0
    assert lengths == [13, 12, 10, 9, 7, 6, 4, 3]


@torch.no_grad()
def test_sparse_equals_dense_where_all_nodes_are_candidates(make_city: MakeCity) -> None:
    city = connected(make_city(nodes=9), 15)
    dense, sparse = made(city).eval(), made(city, seed=1, adaptive="sparse", candidates=8).eval()
    sparse.load_state_dict(dense.state_dict(), strict=False)
    window = city.window(range(30, 60))
    assert (dense.kind, sparse.kind) == ("dense", "sparse")
    torch.testing.assert_close(sparse(window).mean, dense(window).mean, rtol=1e-5, atol=1e-5)
    few = made(city, seed=1, adaptive="sparse", candidates=1).eval()
    few.load_state_dict(dense.state_dict(), strict=False)
    assert not torch.allclose(few(window).mean, dense(window).mean, atol=1e-3)


def test_candidates_are_few_and_those_of_alike_departures_are_among_them(make_city: MakeCity) -> None:
    city = make_city(nodes=30)
    model = made(city, adaptive="sparse", candidates=4)
    assert model.source.shape == (30, 9)
    assert (model.source[:, 0] == torch.arange(30)).all()
    alike = residual_graph(city, 4).adjacency
    for node in range(30):
        found = model.source[node][model.allowed[node]].tolist()
        assert len(found) == len(set(found)) >= 5
        assert set(alike.col[alike.rowptr[node]:alike.rowptr[node + 1]].tolist()) <= set(found)
    large = Sizes(1, 12, 12, 288, nodes=1001, network="x")
    assert GraphWaveNet(GraphWaveNetConfig(), large).kind == "sparse"
    assert GraphWaveNet(GraphWaveNetConfig(), replace(large, nodes=1000)).kind == "dense"


@pytest.mark.parametrize(("history", "layers", "field"), [(5, 1, 5), (6, 2, 13), (12, 2, 13), (24, 3, 29)])
def test_the_whole_history_is_seen(make_city: MakeCity, history: int, layers: int, field: int) -> None:
    city = connected(make_city(history=history))
    model, window = made(city).eval(), city.window([60])
    assert (len(model.layers), model.receptive_field) == (4 * layers, field)
    values = window.values.requires_grad_()
    model(window).mean.sum().backward()
    assert (values.grad[window.mask] != 0).all()
    with pytest.raises(InputError, match="whole history"):
        made(make_city(history=history + 24, days=40), layers=layers)


# -------------------------------------------------------------------- who may answer whom
@pytest.mark.parametrize("kind", ["learned", "none"])
def test_without_vectors_of_nodes_it_answers_for_networks_it_never_saw(make_city: MakeCity, kind: str) -> None:
    city, other = connected(make_city()), connected(make_city(nodes=20, seed=1), 60)
    model = made(city, adaptive=kind).eval()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in made(other, adaptive=kind).state_dict().items()}
    with torch.no_grad():
        for place in (city, other, make_city(nodes=1)):
            model.check(place)
            window = place.window([30, 90])
            torch.testing.assert_close(model(window).mean, by_hand(model, window), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["auto", "dense", "sparse"])
def test_with_vectors_of_nodes_it_refuses_other_networks(make_city: MakeCity, kind: str) -> None:
    assert not GraphWaveNet.describe(GraphWaveNetConfig(adaptive=kind)).inductive
    with pytest.raises(TransductiveError, match="7 nodes"):
        made(make_city(), adaptive=kind).check(make_city(nodes=5))


def test_another_order_of_nodes_and_vectors_permutes_the_forecast(make_city: MakeCity) -> None:
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    city, other = connected(make_city()), make_city(order=order)
    store = other.graph["sensor", "near", "sensor"]
    store.edge_index, store.edge_weight = torch.from_numpy(np.argsort(order))[city.edges[0]], city.edges[1]
    for kind in KINDS:
        model, twin = made(city, adaptive=kind).eval(), made(other, adaptive=kind).eval()
        weights = {key: value for key, value in model.state_dict().items() if key not in ("source", "allowed")}
        for key in {"receiver", "sender"} & set(weights):
            weights[key] = weights[key][order]
        twin.load_state_dict(weights, strict=False)
        with torch.no_grad():
            forecast, permuted = (one(place.window([30, 90])).mean for one, place in ((model, city), (twin, other)))
        torch.testing.assert_close(permuted, forecast[:, :, order], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_observed_has_no_influence(make_city: MakeCity, kind: str) -> None:
    city = connected(make_city())
    model, window = made(city, adaptive=kind).eval(), city.window(range(30, 60))
    hidden = replace(window, values=torch.where(window.mask, window.values, 1e6))
    assert not window.mask.all()
    assert torch.equal(model(window).mean, model(hidden).mean)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_read_again_it_answers_bit_by_bit_the_same(make_city: MakeCity, tmp_path: Path, kind: str) -> None:
    city = connected(make_city())
    model, window = made(city, adaptive=kind).eval(), city.window(range(30, 60))
    model.save_pretrained(tmp_path)
    again = Forecaster.from_pretrained(tmp_path)
    assert isinstance(again, GraphWaveNet)
    assert torch.equal(model(window).mean, again(window).mean)
    assert torch.equal(model.embed(window), again.embed(window))


# -------------------------------------------------------------------- training
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_kept_from_forecasting_serve_training_in_any_precision(make_city: MakeCity, kind: str) -> None:
    city = connected(make_city())
    model, window = made(city, adaptive=kind), city.window([30, 90])
    with torch.inference_mode():
        wanted = model.eval()(window).mean
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(window).mean, wanted, rtol=2e-2, atol=0.3)
        loss = model.train()(window).mean.mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_eight_windows_by_heart(make_city: MakeCity, kind: str) -> None:
    city = connected(make_city())
    changes = {"width": 12, "skip_width": 32, "end_width": 32, "dropout": 0.0}
    losses = train(made(city, adaptive=kind, **changes), [city.window(range(40, 120, 10))] * 120, 1e-2)
    assert np.mean(losses[-5:]) < 0.15 * losses[0]


def test_the_learned_graph_can_be_drawn_to_its_prior(make_city: MakeCity) -> None:
    city = connected(make_city(nodes=12), 20)
    model, window, objective = made(city, adaptive="learned"), city.window([30, 90]), GraphPrior()
    objective.prepare(model)
    optimizer, losses = torch.optim.Adam(model.learner.parameters(), 1e-2), []
    for _ in range(60):
        (loss,) = objective(model, window).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    with pytest.raises(InputError, match="adaptive=learned"):
        objective(made(city), window)


def test_it_learns_from_a_week_of_los_angeles(shared_data: Path) -> None:
    city = los_loop(shared_data)
    torch.manual_seed(0)
    model = GraphWaveNet.for_city(city, GraphWaveNetConfig(width=12, skip_width=32, end_width=32))
    assert isinstance(model, GraphWaveNet)
    batches = TrainingBatches([city], 8, 30)
    losses = train(model, [batches[step] for step in range(30)], 1e-2)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def test_settings_that_cannot_be_are_named(make_city: MakeCity) -> None:
    for changes, field in (({"adaptive": "svd"}, "adaptive"), ({"kernel": 1}, "blocks, kernel, layers"),
                           ({"steps": -1}, "steps"), ({"chosen": 0, "adaptive": "learned"}, "k")):
        with pytest.raises(InputError) as caught:
            made(make_city(), **changes)
        assert caught.value.field == field
