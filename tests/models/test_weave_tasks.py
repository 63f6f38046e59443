"""Weave's tasks: gaps, noise, quantiles, embeddings; one set of weights at any interval, history and horizon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError, TransductiveError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models.weave import Weave, WeaveConfig
from stgraph.nn.time_patches import patch_layout
from stgraph.objectives.views import hide, joint
from stgraph.windows import City, Window

MakeCity = Callable[..., City]
PROFILE = frozenset({"profile", "lags"})
HOURS, DAYS, NODES, CHANNELS = 24, 20, 5, 2
ALL = "graph,patch,time,mlp"


def hourly_city(step: int = 3600, history: int = 6, horizon: int = 6, factor: float = 1.0) -> City:
    """Readings that hold for a whole hour, on a ring, read every ``step`` seconds; lengths of windows in hours."""
    rng = np.random.default_rng(4)
    hours = np.arange(HOURS * DAYS)[:, None, None]
    wave = np.sin(2 * np.pi * hours / 24 + rng.uniform(0, 6, (NODES, CHANNELS)))
    values = 20 + rng.uniform(-5, 5, (NODES, CHANNELS)) + 4 * wave + rng.normal(0, 1, (len(hours), NODES, CHANNELS))
    mask, per_hour = rng.random(values.shape) > 0.1, 3600 // step
    graph = DynamicHeteroGraph(time=TimeAxis(0, step, len(hours) * per_hour))
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(NODES)])
    graph["sensor"].lonlat = torch.from_numpy(rng.uniform(0, 0.1, (NODES, 2)))
    ring = torch.arange(NODES)
    graph["sensor", "near", "sensor"].edge_index = torch.stack([ring, ring.roll(-1)])
    graph.add_signal("sensor", "readings", Signal(
        (factor * np.where(mask, values, 0)).astype(np.float32).repeat(per_hour, 0), mask.repeat(per_hour, 0),
        [Channel(f"c{i}") for i in range(CHANNELS)]))
    return City(graph, history=history * per_hour, horizon=horizon * per_hour)


def model_of(city: City, gate: float = 0.3, **options: Any) -> Weave:
    """A model whose every weight matters, unless ``gate`` is 0, which leaves its gates half open."""
    torch.manual_seed(0)
    model = Weave.for_city(city, WeaveConfig(**(
        {"parts": "graph,mlp", "width": 16, "layers": 2, "alike": 2, "patch_size": 2} | options)))
    assert isinstance(model, Weave)
    torch.nn.init.normal_(model.ends["any"].correct.weight, std=0.3)
    if gate:
        torch.nn.init.normal_(model.ends["any"].gate.weight, std=gate)
    for name, parameter in model.stack.named_parameters():
        if "modulation" in name:  # what hears the time of a diffusion starts at 0
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def drawn(mask: Tensor, rate: float = 0.3) -> Tensor:
    """Observed entries to hide."""
    return mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < rate)


def noise(window: Window) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy values, times and what is known, for the steps of a window."""
    rng = torch.Generator().manual_seed(2)
    known = window.mask & (torch.rand(window.mask.shape, generator=rng) < 0.5)
    return torch.randn(window.values.shape, generator=rng), torch.rand(window.batch_size, generator=rng), known


# -------------------------------------------------------------------- filling gaps
@torch.no_grad()
def test_before_training_a_filled_reading_is_midway_to_its_profile() -> None:
    """Heads of 0: (profile + reading) / 2 where observed, and (profile + line between readings) / 2 in gaps."""
    city = hourly_city(history=12)
    model = Weave.for_city(city, WeaveConfig(width=16, parts=ALL)).eval()
    window = city.window([100, 131], PROFILE)
    found = model.reconstruct(window, torch.zeros_like(window.mask))
    torch.testing.assert_close(found[window.mask], ((window.profile_past + window.values) / 2)[window.mask])
    for b, n, c in np.ndindex(2, NODES, CHANNELS):
        at = np.flatnonzero(window.mask[b, :, n, c])
        line = np.interp(np.arange(12), at, window.values[b, at, n, c])
        expected = (window.profile_past[b, :, n, c] + torch.from_numpy(line).float()) / 2
        torch.testing.assert_close(found[b, :, n, c], expected)


@pytest.mark.parametrize("parts", ["mlp", ALL])
@pytest.mark.parametrize("task", ["reconstruct", "denoise"])
@torch.no_grad()
def test_hidden_readings_never_reach_the_answer(task: str, parts: str) -> None:
    """Two cities that differ in hidden readings of the test part alone; the same weights say the same to the bit."""
    city, other = hourly_city(), hourly_city()
    model = model_of(city, parts=parts, diffusion=task == "denoise")
    origins = [400, 430]
    hidden = drawn(joint(city.window(origins, PROFILE)).mask)
    assert hidden.any()
    for b, t, n, c in hidden.nonzero().tolist():
        other.signal.values[origins[b] - 6 + t, n, c] += 50
    answers = []
    for place in (city, other):
        window = hide(joint(place.window(origins, PROFILE)), hidden)
        noisy, time, known = noise(window)
        answers.append(model.reconstruct(window, hidden) if task == "reconstruct" else
                       model.denoise(window, noisy, time, known))
    assert torch.equal(*answers)
    window.values = torch.where(window.mask, window.values, torch.nan)  # nor is what stands in their place read
    again = model.reconstruct(window, hidden) if task == "reconstruct" else model.denoise(window, noisy, time, known)
    assert torch.equal(again, answers[0])
    window.values[window.mask] += 1  # while what is visible is
    moved = model.reconstruct(window, hidden) if task == "reconstruct" else model.denoise(window, noisy, time, known)
    assert not torch.isclose(moved, answers[0]).all(1).any()


@torch.no_grad()
def test_a_series_of_which_nothing_is_left_is_filled_about_its_profile() -> None:
    city = hourly_city()
    window = city.window([100], PROFILE)
    hidden = torch.zeros_like(window.mask)
    hidden[:, :, 3] = True
    bare = hide(window, hidden)
    zero = Weave.for_city(city, WeaveConfig(width=16)).eval()
    torch.testing.assert_close(zero.reconstruct(bare, hidden)[:, :, 3], window.profile_past[:, :, 3])
    assert model_of(city, parts=ALL).reconstruct(bare, hidden).isfinite().all()


# -------------------------------------------------------------------- any interval, history, horizon
def at_intervals(task: Callable[[Weave, Window], Tensor], gate: float, **options: Any) -> list[Tensor]:
    """Hourly means of what the same weights answer at 60, 15 and 5 minutes."""
    answers, weights = [], None
    for step in (3600, 900, 300):
        city = hourly_city(step)
        model = model_of(city, gate, **options)
        weights = model.state_dict() if weights is None else weights
        model.load_state_dict(weights)
        with torch.no_grad():
            per_hour = 3600 // step
            answer = task(model, city.window([100 * per_hour, 131 * per_hour], PROFILE))
        answers.append(answer.unflatten(1, (6, per_hour)).mean(2))
    return answers


def noisy_hours(model: Weave, window: Window) -> Tensor:
    """The velocity for noise that holds for whole hours."""
    rng = torch.Generator().manual_seed(3)
    per_hour = window.values.shape[1] // 6
    noisy = torch.randn(2, 6, NODES, CHANNELS, generator=rng).repeat_interleave(per_hour, 1)
    return model.denoise(window, noisy, torch.tensor([0.2, 0.7]), window.mask)


TASKS: dict[str, Callable[[Weave, Window], Tensor]] = {
    "forecast": lambda model, window: model(window).mean,
    "reconstruct": lambda model, window: torch.where(  # a line over a gap of hours is another one at another interval
        window.mask, model.reconstruct(window, torch.zeros_like(window.mask)), 0),
    "denoise": noisy_hours}


@pytest.mark.parametrize("parts", ["graph,mlp", ALL])
@pytest.mark.parametrize("task", list(TASKS))
def test_readings_that_hold_for_an_hour_are_one_signal_at_any_interval(task: str, parts: str) -> None:
    hourly, quarters, fives = at_intervals(TASKS[task], 0.0, parts=parts, diffusion=task == "denoise")
    for found in (quarters, fives):
        torch.testing.assert_close(found, hourly, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("task", ["forecast", "reconstruct"])
def test_gates_that_differ_within_the_hour_too(task: str) -> None:
    hourly, quarters, fives = at_intervals(TASKS[task], 1.0)
    for found in (quarters, fives):
        torch.testing.assert_close(found, hourly, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"quantiles": "0.1,0.5,0.9"}, {"lags": True}],
                         ids=["point", "quantiles", "lags"])
@torch.no_grad()
def test_any_history_and_horizon_run_on_the_same_weights(options: dict[str, Any]) -> None:
    model = model_of(hourly_city(), parts=ALL, **options)
    for history, horizon in ((1, 1), (2, 30), (40, 4)):
        city = hourly_city(history=history, horizon=horizon)
        model.check(city)
        answer = model(city.window([120, 150], model.capabilities.needs)).mean
        assert answer.shape == (2, horizon, NODES, CHANNELS)
        assert answer.isfinite().all()


def first_steps(parts: str) -> tuple[Tensor, Tensor]:
    """Three hours, asked for alone (one token) and as the first of nine."""
    model, answers = model_of(hourly_city(), parts=parts), []
    for horizon in (3, 9):
        city = hourly_city(horizon=horizon)
        city.use_context(0, 300)  # the parts of the split end elsewhere for another horizon
        with torch.no_grad():
            answers.append(model(city.window([400, 420], PROFILE)).mean[:, :3])
    return answers[0], answers[1]


def test_whole_tokens_do_not_depend_on_how_much_more_is_asked() -> None:
    """Where tokens do not mix. A token that is wanted in part knows that it is, so its steps may differ."""
    for parts in ("mlp", "graph,mlp"):
        torch.testing.assert_close(*first_steps(parts), rtol=1e-5, atol=1e-5)
    short, long = first_steps("time,mlp")
    assert not torch.allclose(short, long, rtol=1e-3)


@torch.no_grad()
def test_units_do_not_matter() -> None:
    """Readings in another unit: the forecast, and its quantiles, in that unit."""
    city, other = hourly_city(), hourly_city(factor=0.25)
    model = model_of(city, parts=ALL, quantiles="0.1,0.5,0.9")
    one, two = (model(place.window([100, 400], PROFILE)) for place in (city, other))
    torch.testing.assert_close(two.mean, one.mean / 4, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two.quantiles, one.quantiles / 4, rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------- quantiles
@torch.no_grad()
def test_quantiles_rise_and_the_middle_one_is_the_forecast() -> None:
    city = hourly_city(900)
    model = model_of(city, parts=ALL, quantiles="0.05, 0.25, 0.6, 0.9")
    found = model(city.window([400, 600], PROFILE))
    assert model.capabilities.gives == "quantiles"
    assert found.levels == (0.05, 0.25, 0.6, 0.9)
    assert found.quantiles.shape == (2, city.horizon, NODES, CHANNELS, 4)
    assert (found.quantiles.diff(dim=-1) > 0).all()
    assert torch.equal(found.mean, found.quantiles[..., 2])
    assert found.mean.std() > 1


# -------------------------------------------------------------------- embedding
@torch.no_grad()
def test_an_embedding_is_one_vector_a_node_whatever_the_order_of_channels() -> None:
    city = hourly_city()
    model = model_of(city, parts=ALL)
    found = model.embed(city.window([100, 131], PROFILE))
    assert found.shape == (2, NODES, model.embedding_width)
    swapped = City(city.graph, history=6, horizon=6, channels=["c1", "c0"])
    torch.testing.assert_close(model.embed(swapped.window([100, 131], PROFILE)), found, rtol=1e-4, atol=1e-4)
    alone = City(city.graph, history=6, horizon=6, channels=["c0"])
    assert not torch.allclose(model.embed(alone.window([100, 131], PROFILE)), found, rtol=1e-2)


@torch.no_grad()
def test_an_embedding_knows_nothing_of_what_comes_after() -> None:
    city, other = hourly_city(), hourly_city()
    other.signal.values[400:] += 9
    model = model_of(city, parts=ALL)
    assert torch.equal(*(model.embed(place.window([400], PROFILE)) for place in (city, other)))
    assert not torch.isclose(*(model.embed(place.window([401], PROFILE)) for place in (city, other))).all()


# -------------------------------------------------------------------- noise
@torch.no_grad()
def test_each_window_hears_its_own_time_noise_and_what_is_known() -> None:
    city = hourly_city()
    model = model_of(city, parts=ALL, diffusion=True)
    window = city.window([100, 131], PROFILE)
    noisy, time, known = noise(window)
    before = model.denoise(window, noisy, time, known)
    assert before.shape == window.values.shape
    for change in ({"time": time + torch.tensor([0.0, 0.2])}, {"noisy": torch.cat([noisy[:1], noisy[1:] + 1])},
                   {"condition": torch.cat([known[:1], ~known[1:]])}):
        after = model.denoise(window, **({"noisy": noisy, "time": time, "condition": known} | change))
        assert torch.equal(after[0], before[0])
        assert not torch.isclose(after[1], before[1]).any(0).all()
        assert (after[1] - before[1]).abs().max() > 1e-3


@torch.no_grad()
def test_noise_of_one_series_stays_there_without_parts_that_join_them() -> None:
    city = hourly_city()
    window = city.window([100], PROFILE)
    noisy, time, known = noise(window)
    louder = noisy.clone()
    louder[:, 2, 1, 1] += 3
    for parts, heard in (("mlp", 1), ("graph,mlp", NODES)):  # messages go from node to node, not between channels
        model = model_of(city, parts=parts, diffusion=True)
        moved = model.denoise(window, louder, time, known) != model.denoise(window, noisy, time, known)
        assert moved.any(1)[0].sum(0).tolist() == [0, heard]
        assert moved.any(1)[0, 1, 1]


def test_a_model_that_cannot_take_noise_away_says_so() -> None:
    city = hourly_city()
    window = city.window([100], PROFILE)
    with pytest.raises(InputError) as caught:
        model_of(city).denoise(window, *noise(window))
    assert caught.value.field == "diffusion"
    assert "--set diffusion=true" in caught.value.remedy


# -------------------------------------------------------------------- forecast, then trained
@pytest.mark.parametrize("parts", ["mlp", "graph,mlp", "patch,mlp"])
def test_asked_first_it_can_be_trained_after(parts: str) -> None:
    patch_layout.cache_clear()
    city = hourly_city()
    model, window = model_of(city, parts=parts), city.window([100], PROFILE)
    try:
        with torch.inference_mode():
            before = model(window).mean
        after = model(window).mean
        after.sum().backward()
        torch.testing.assert_close(before, after.detach())
    finally:
        patch_layout.cache_clear()  # others in this process must not find what was made here


# -------------------------------------------------------------------- codes of nodes
def test_codes_of_nodes_tie_it_to_one_network(make_city: MakeCity) -> None:
    city, other = hourly_city(), make_city(nodes=NODES, channels=CHANNELS, history=6, horizon=6)
    model = model_of(city, node_codes=True)
    assert not model.capabilities.inductive
    assert model.nodes is not None
    assert model.nodes.shape == (NODES, 16)
    model.check(hourly_city(900))  # the same network at another interval
    other.graph["sensor"].node_id = np.array([f"t{i}" for i in range(NODES)])
    with pytest.raises(TransductiveError, match="'weave' is transductive") as caught:
        model.check(other)
    assert "inductive" in caught.value.remedy
    model_of(city).check(other)


@torch.no_grad()
def test_codes_that_learned_nothing_change_nothing_and_then_only_their_node() -> None:
    city = hourly_city()
    window = city.window([100], PROFILE)
    plain, coded = model_of(city, parts="mlp"), model_of(city, parts="mlp", node_codes=True)
    assert torch.equal(plain(window).mean, coded(window).mean)
    assert coded.nodes is not None
    coded.nodes[2] += 1
    moved = (plain(window).mean != coded(window).mean).flatten(0, 1).any(-1).view(-1, NODES).any(0)
    assert moved.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(("options", "field"), [
    ({"cell": 7.0}, "cell"), ({"heads": 5}, "heads"), ({"parts": "graph,wavelet"}, "parts"),
    ({"quantiles": "0.9,0.1"}, "levels"), ({"quantiles": "0.1,1.5"}, "levels"), ({"place": "smell"}, "parts"),
])
def test_settings_that_cannot_be_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        Weave.for_city(hourly_city(), replace(WeaveConfig(), **options))
    assert field in caught.value.field
    assert caught.value.remedy
