"""OpenCity: the paper's block in plain loops, one set of weights for any network, interval and horizon."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models.opencity import Block, OpenCity, OpenCityConfig, same_hour, smoothing_relations
from stgraph.nn.time_patches import patch_layout
from stgraph.objectives import MaskedRegression
from stgraph.sources.sensors import build_sensors
from stgraph.windows import City, Window

MakeCity = Callable[..., City]
NEAR = ("sensor", "near", "sensor")


def small(**changes: Any) -> OpenCityConfig:
    return OpenCityConfig(**({"width": 16, "layers": 2, "heads": 2} | changes))


def join(city: City, edges: np.ndarray, weight: np.ndarray) -> City:
    """The city with edges ``[2, E]`` between the nodes ``s0``, ``s1``, ... whatever their order."""
    number = np.array([int(name[1:]) for name in city.node_ids])
    city.graph[NEAR].edge_index = torch.from_numpy(np.argsort(number)[edges])
    city.graph[NEAR].edge_weight = torch.from_numpy(weight.astype(np.float32))
    return city


def joined(make_city: MakeCity, nodes: int = 7, seed: int = 0, **options: Any) -> City:
    """A city with a one-way ring and some more streets."""
    rng = np.random.default_rng(seed)
    ring = np.stack([np.arange(nodes), np.roll(np.arange(nodes), -1)])
    edges = np.concatenate([ring, rng.integers(0, nodes, (2, nodes))], 1)
    edges = np.unique(edges[:, edges[0] != edges[1]], axis=1)
    return join(make_city(nodes=nodes, seed=seed, **({"history": 24, "horizon": 24, "days": 24} | options)), edges,
                rng.uniform(0.5, 2, edges.shape[1]))


def plain_city(values: np.ndarray, step: int, history: int, horizon: int, **axis: Any) -> City:
    """A city of readings ``[T, N, C]`` without gaps, edges or places."""
    graph = DynamicHeteroGraph(time=TimeAxis(0, step, len(values), **axis))
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(values.shape[1])])
    graph.add_signal("sensor", "x", Signal(values.astype(np.float32), None,
                                           [Channel(f"c{i}") for i in range(values.shape[2])]))
    return City(graph, history=history, horizon=horizon)


def model_for(city: City, **changes: Any) -> OpenCity:
    torch.manual_seed(0)
    return OpenCity.for_city(city, small(**changes)).eval()


@torch.no_grad()
def loud(model: OpenCity) -> OpenCity:
    """Matrices three times as large, so that what comes from afar is more than rounding."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(3)
    return model


@torch.no_grad()
def answer(model: OpenCity, window: Window) -> Tensor:
    return model(window).mean


# -------------------------------------------------------------------- the block of the paper
def root_mean_square(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def slow_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Per sample, node, head and query, ``[B, S, N, D]`` each."""
    out = torch.zeros_like(q)
    size = q.shape[-1] // heads
    for b, n, head, s in np.ndindex(q.shape[0], q.shape[2], heads, q.shape[1]):
        part = slice(head * size, (head + 1) * size)
        score = torch.stack([q[b, s, n, part] @ k[b, past, n, part] for past in range(k.shape[1])]) / size**0.5
        out[b, s, n, part] = score.softmax(0) @ v[b, :, n, part]
    return out


@torch.no_grad()
def test_a_block_is_that_of_the_paper_on_a_dense_graph(make_city: MakeCity) -> None:
    """With projections after the heads that do nothing, no turning by minutes and what is carried over the state."""
    torch.manual_seed(0)
    city = joined(make_city, nodes=5)
    block = Block(small(width=8)).eval().double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    block.neighbours.shared.fill_(1.0)
    for layer in (block.calendar.out, block.content.out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    h, query, key = torch.randn(3, 2, 4, 5, 8, dtype=torch.double)
    found = block(h, h, query, key, None, torch.zeros(4), smoothing_relations(city))

    source, target = city.graph[NEAR].edge_index
    a = torch.zeros(5, 5, dtype=torch.double)
    a[source, target] = city.graph[NEAR].edge_weight.double()
    a = (a + a.T) / 2
    degree = a.sum(1)
    smooth = torch.eye(5) + a / (degree[:, None] * degree).sqrt()
    smooth = smooth / smooth.sum(1, keepdim=True)                                     # dense, rows sum to 1
    u = root_mean_square(h, block.before.weight)
    context = slow_attention(block.calendar.query(query), block.calendar.key(key), block.calendar.value(u), 2)
    c = root_mean_square(u + context, block.between.weight)
    t = root_mean_square(c + slow_attention(*block.content.qkv(c).chunk(3, -1), 2), block.after.weight)
    g = torch.einsum("ij,bsjd->bsid", smooth, t) @ block.neighbours.basis[0]
    expected = h + (0.05 * t + 0.95 * g) @ block.mix.weight.T + block.mix.bias
    normal = root_mean_square(expected, block.last.weight)
    gate, value = (normal @ block.feed.up.weight.T).chunk(2, -1)
    expected = expected + (torch.nn.functional.silu(gate) * value) @ block.feed.down.weight.T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_city_without_edges_hears_itself(make_city: MakeCity) -> None:
    (relation,) = smoothing_relations(make_city(nodes=4)).values()
    assert relation.adjacency.row.tolist() == relation.adjacency.col.tolist() == [0, 1, 2, 3]
    model = model_for(make_city(nodes=4))
    window = make_city(nodes=4).window([100])
    before = answer(model, window)
    window.values[:, :, 2] *= 1.1
    changed = (answer(model, window) != before).any(1)[0, :, 0]
    assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("layers", [1, 3])
def test_a_block_reaches_one_hop(make_city: MakeCity, layers: int) -> None:
    """Along a line of one-way streets, and as far against them."""
    line = np.stack([np.arange(8), np.arange(1, 9)])
    city = join(make_city(nodes=9, hidden=0), line, np.ones(8))
    model = loud(model_for(city, layers=layers))
    window = city.window([100])
    before = answer(model, window)
    window.values[:, -1, 4] += 5
    changed = (answer(model, window) - before).abs().amax((0, 1, 3)) > 0
    assert changed.tolist() == [abs(node - 4) <= layers for node in range(9)]


def test_an_edge_that_does_not_live_yet_sends_nothing(make_city: MakeCity) -> None:
    city, alone = (join(make_city(nodes=2), np.array([[0], [1]]), np.ones(1)) for _ in range(2))
    alone.graph[NEAR].edge_index = torch.zeros((2, 0), dtype=torch.long)
    alone.graph[NEAR].edge_weight = torch.zeros(0)
    city.graph[NEAR].valid_from = torch.tensor([150 * 3600])
    model = model_for(city, place="metres")
    early, late = (answer(model, city.window([row])) for row in (149, 150))
    torch.testing.assert_close(answer(model, alone.window([149])), early)
    assert (answer(model, alone.window([150])) - late).abs().max() > 1e-3


# -------------------------------------------------------------------- past to future
def test_a_day_in_and_a_day_out_keep_the_numbers_of_tokens() -> None:
    for step in (5, 10, 30, 60):
        steps = 24 * 60 // step
        past, future = patch_layout(steps, step, 60, 12), patch_layout(steps, step, 60, 12, ahead=True)
        assert same_hour(past, future, 1440).tolist() == list(range(24))


@pytest.mark.parametrize(("tokens_past", "tokens_future", "hours"), [(24, 60, 24), (50, 30, 24), (5, 40, 24),
                                                                     (36, 20, 18), (1, 1, 24)])
def test_a_future_hour_goes_on_from_the_same_hour_of_the_latest_day(tokens_past: int, tokens_future: int,
                                                                    hours: int) -> None:
    """Hour by hour: go back whole days until the hour lies in the past; the last hour where the window is too short."""
    past, future = patch_layout(tokens_past, 60, 60, 12), patch_layout(tokens_future, 60, 60, 12, ahead=True)
    expected = []
    for hour in range(tokens_future):
        while hour >= 0:
            hour -= hours
        expected.append(tokens_past + hour if tokens_past + hour >= 0 else tokens_past - 1)
    assert same_hour(past, future, hours * 60).tolist() == expected


def test_the_calendar_of_the_future_is_asked_and_its_readings_are_not(make_city: MakeCity) -> None:
    city = joined(make_city)
    model = loud(model_for(city))
    window = city.window([150, 170])
    before = answer(model, window)
    window.target = torch.full_like(window.target, 1e6)
    assert torch.equal(answer(model, window), before)
    city.signal.values[150:] = np.nan                                                  # what comes after the origin
    torch.testing.assert_close(answer(model, city.window([150], target=False)), before[:1], rtol=1e-5, atol=1e-4)
    later = replace(window, future=replace(window.future, minute=(window.future.minute + 360) % 1440))
    assert (answer(model, later) - before).abs().max() > 1e-3


# -------------------------------------------------------------------- any network, interval, unit
def test_no_shape_depends_on_the_city(make_city: MakeCity) -> None:
    one, other = (model_for(city) for city in (joined(make_city), make_city(nodes=3, channels=2)))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}


def test_the_same_weights_answer_another_network_interval_and_calendar(make_city: MakeCity) -> None:
    model = model_for(joined(make_city))
    values = np.random.default_rng(0).uniform(0, 3000, (36 * 20, 2, 3))
    city = plain_city(values, 1800, 40, 7, tz="Asia/Shanghai", steps_per_day=36, weekdays_only=True)
    model.check(city)
    found = answer(model, city.window([100, 200]))
    assert found.shape == (2, 7, 2, 3)
    assert torch.isfinite(found).all()
    alone = plain_city(values[..., 1:2], 1800, 40, 7, tz="Asia/Shanghai", steps_per_day=36, weekdays_only=True)
    torch.testing.assert_close(answer(model, alone.window([100, 200])), found[..., 1:2], rtol=1e-4, atol=1e-2)


def test_readings_that_hold_for_an_hour_are_one_signal_at_any_interval() -> None:
    """The hourly forecast is the mean of the six that the same weights give at 10 minutes."""
    hourly = np.random.default_rng(0).uniform(10, 60, (24 * 20, 4, 1))
    coarse, fine = plain_city(hourly, 3600, 24, 24), plain_city(hourly.repeat(6, 0), 600, 144, 144)
    model = model_for(coarse)
    one, other = answer(model, coarse.window([200])), answer(model, fine.window([1200]))
    torch.testing.assert_close(other.unflatten(1, (24, 6)).mean(2), one, rtol=1e-4, atol=1e-3)


def test_another_order_of_nodes_permutes_the_forecast(make_city: MakeCity) -> None:
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    city, other = joined(make_city), joined(make_city, order=order)
    assert not torch.equal(city.graph[NEAR].edge_index, other.graph[NEAR].edge_index)
    model = model_for(city, place="laplacian,walk,degree,metres,profile")
    one, two = (answer(model, place.window([50, 130])) for place in (city, other))
    torch.testing.assert_close(two, one[:, :, order], rtol=1e-4, atol=1e-4)


def test_units_do_not_matter(make_city: MakeCity) -> None:
    """Readings ``a x + b`` are forecast as ``a * forecast + b``."""
    city, other = joined(make_city), joined(make_city)
    other.signal.values[:] = np.where(other.signal.mask, 3.6 * other.signal.values + 40, 0)
    model = model_for(city)
    one, two = (answer(model, place.window([50, 130])) for place in (city, other))
    torch.testing.assert_close(two, 3.6 * one + 40, rtol=1e-4, atol=1e-2)


def test_cities_of_one_size_keep_their_own_edges(make_city: MakeCity) -> None:
    city, across = joined(make_city), np.stack([np.arange(7), (np.arange(7) + 3) % 7])
    other = join(make_city(days=24, history=24, horizon=24), across, np.ones(7))
    model = model_for(city)
    before = answer(model, city.window([100]))
    assert (answer(model, other.window([100])) - before).abs().max() > 1e-3
    assert torch.equal(answer(model, city.window([100])), before)
    assert model.map_of(city, torch.device("cpu"))[1] is model.map_of(city, torch.device("cpu"))[1]
    assert torch.equal(answer(copy.deepcopy(model), city.window([100])), before)


# -------------------------------------------------------------------- gaps
@pytest.mark.parametrize("history", [6, 30])
def test_what_was_not_observed_has_no_influence(make_city: MakeCity, history: int) -> None:
    city = joined(make_city, hidden=0.4, history=history, horizon=3)
    model = model_for(city)
    window = city.window([100, 150])
    before = answer(model, window)
    window.values[~window.mask] = 1e9
    assert torch.equal(answer(model, window), before)


def test_dead_and_constant_nodes_give_finite_answers_and_gradients(make_city: MakeCity) -> None:
    city = joined(make_city)
    city.signal.mask[:, 1] = False
    city.signal.values[:, 2], city.signal.mask[:, 2] = 5.0, True
    model = model_for(city).train()
    window = city.window([100, 110])
    window.mask[1] = False                                                             # and a day without any reading
    (loss,) = MaskedRegression()(model, window).values()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# -------------------------------------------------------------------- learning
def losses_of(model: OpenCity, windows: list[Window], steps: int, rate: float) -> list[float]:
    optimizer, objective, losses = torch.optim.Adam(model.parameters(), rate), MaskedRegression(), []
    for step in range(steps):
        optimizer.zero_grad()
        (loss,) = objective(model.train(), windows[step % len(windows)]).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_learns_eight_windows_by_heart(make_city: MakeCity) -> None:
    city = joined(make_city)
    model = model_for(city, width=32, dropout=0.0, attention_dropout=0.0)
    losses = losses_of(model, [city.window(range(40, 120, 10))], 200, 5e-3)
    assert losses[-1] < 0.15 * losses[0]


def test_it_learns_from_real_readings(shared_data: Path) -> None:
    graph, _ = build_sensors(shared_data / "los_loop/speed.npz", key="speed_mph", ids_key="sensor_id",
                             locations=shared_data / "los_loop/sensors.csv",
                             adjacency=shared_data / "los_loop/adj.npz", adjacency_key="adj_dcrnn", quantity="speed",
                             unit="mph", interval="5min", start="2012-03-01T00:00", tz="America/Los_Angeles")
    city = City(graph, history=144, fractions=(0.6, 0.2, 0.2))
    model = model_for(city)
    origins = np.random.default_rng(0).permutation(np.arange(*city.split.origins("train")))
    losses = losses_of(model, [city.window(origins[4 * i : 4 * i + 4]) for i in range(25)], 25, 5e-3)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize(("changes", "field"), [
    ({"layers": 0}, "layers"), ({"heads": 3}, "heads"), ({"minutes": 42.0}, "resolution_minutes"),
    ({"place": "laplacian,elevation"}, "parts"), ({"place": ""}, "place"), ({"floor": 0.0}, "floor"),
    ({"bases": 0}, "bases"),
], ids=str)
def test_settings_that_cannot_be_are_named(make_city: MakeCity, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        model_for(make_city(), **changes)
    assert caught.value.field == field
