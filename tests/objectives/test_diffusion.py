"""With the ideal denoiser the samples have the right distribution; known values are never touched."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Bare, Toy, toy_city

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.objectives import DiffusionForecast
from stgraph.objectives.diffusion import CosineDiffusion, RectifiedFlow
from stgraph.windows import City

CORRELATION, LEVEL, SPREAD = 0.8, 1.5, 0.6
PROCESSES = {"flow": RectifiedFlow(), "shifted": RectifiedFlow(3.0), "v": CosineDiffusion("v"),
             "eps": CosineDiffusion("eps")}


class Ideal(nn.Module):
    """Knows that a hidden value is normal given the last known one of its series: mean ``L + R x``, deviation ``S``."""

    def __init__(self, process, spread: float = SPREAD) -> None:
        super().__init__()
        self.process, self.spread = process, spread

    def mean(self, noisy: Tensor, condition: Tensor) -> Tensor:
        known = torch.where(condition, noisy, 0).sum(1, keepdim=True) / condition.sum(1, keepdim=True).clamp(min=1)
        return (LEVEL + CORRELATION * known).expand_as(noisy)

    def denoise(self, window, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        at = time[:, None, None, None].double()
        if isinstance(self.process, RectifiedFlow):
            a, b = 1 - at, at
        else:
            a, b = self.process.shares(at)
        mean, z = self.mean(noisy, condition).double(), noisy.double()
        gain = (a * self.spread) ** 2 + b**2
        value = mean + a * self.spread**2 / gain * (z - a * mean)
        noise = b / gain * (z - a * mean)
        return self.process.target(value, noise, at).to(noisy)


def city_of(history: int = 2, horizon: int = 2, nodes: int = 200) -> City:
    """Standard normal readings without gaps."""
    rng = np.random.default_rng(0)
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, 200))
    graph["sensor"].node_id = np.arange(nodes).astype(str)
    graph.add_signal("sensor", "x", Signal(rng.normal(3, 2, (200, nodes, 1)).astype(np.float32), None, [Channel("x")]))
    return City(graph, history=history, horizon=horizon)


def scaled(city: City, values: Tensor) -> Tensor:
    return (values - float(city.context.mean[0])) / float(city.context.deviation[0])


def objective_for(process) -> DiffusionForecast:
    objective = DiffusionForecast("flow")
    objective.process = process
    return objective


@pytest.mark.parametrize("name", PROCESSES)
def test_samples_of_the_ideal_denoiser_are_the_conditional_distribution(name: str) -> None:
    """Each sample less the closed-form mean given its history, over the closed-form deviation, is standard normal."""
    city, process = city_of(), PROCESSES[name]
    window = city.window(range(50, 90), target=False)
    steps = 150 if name == "shifted" else 60
    paths = scaled(city, objective_for(process).sample(Ideal(process), window, n=5, steps=steps, seed=0))
    assert paths.shape == (5, 40, 2, 200, 1)
    history = scaled(city, window.values).mean(1, keepdim=True)                               # [B, 1, N, 1]
    standard = (paths - LEVEL - CORRELATION * history) / SPREAD
    count = standard.numel()
    # noise without the trace of the value that is left at time 1 shifts the mean by just this trace
    trace = 0.0 if isinstance(process, RectifiedFlow) else float(process.shares(torch.ones(()))[0])
    shift = trace * float((LEVEL + CORRELATION * history).mean())
    assert (standard.mean() + shift).abs() < 4 / math.sqrt(count)
    assert standard.std() == pytest.approx(1.0, rel=0.025)
    assert standard.pow(4).mean() / standard.var() ** 2 == pytest.approx(3.0, abs=4 * math.sqrt(24 / count))
    linked = (standard * (history - history.mean()) / history.std()).mean()
    assert linked.abs() < 4 / math.sqrt(count)
    apart = (standard[0] * standard[1]).mean()  # samples have nothing to do with one another
    assert apart.abs() < 4 / math.sqrt(count / 5)


@pytest.mark.parametrize("name", PROCESSES)
def test_one_step_gives_the_conditional_mean(name: str) -> None:
    city, process = city_of(), PROCESSES[name]
    window = city.window([50], target=False)
    path = scaled(city, objective_for(process).sample(Ideal(process), window, n=1, steps=1, seed=0))[0, 0, :, :, 0]
    expected = LEVEL + CORRELATION * scaled(city, window.values).mean(1)[0, :, 0]
    assert (path - expected).abs().max() < (1e-4 if "flow" in name or name == "shifted" else 0.03)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_exact_velocity_transports_exactly(steps: int, shift: float) -> None:
    """To a single point all ways are straight, so any number of Euler steps ends on it."""
    city, process = city_of(), RectifiedFlow(shift)
    window = city.window([50, 60], target=False)
    paths = scaled(city, objective_for(process).sample(Ideal(process, 1e-9), window, n=3, steps=steps, seed=1))
    expected = LEVEL + CORRELATION * scaled(city, window.values).mean(1)
    torch.testing.assert_close(paths, expected[:, None].expand_as(paths), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_mixing_and_estimating_are_inverse(name: str) -> None:
    process = PROCESSES[name]
    value, noise = torch.randn(2, 4, 3, dtype=torch.float64)
    for time in process.grid(9)[:, None, None].double().expand(-1, 4, 3):
        noisy, answer = process.mix(value, noise, time), process.target(value, noise, time)
        for found, wanted in zip(process.estimate(noisy, answer, time), (value, noise), strict=True):
            torch.testing.assert_close(found, wanted)
        anything = torch.randn(4, 3, dtype=torch.float64)
        torch.testing.assert_close(process.move(noisy, anything, time, time), noisy)  # no time, no move
    start = torch.zeros(4, 3, dtype=torch.float64)
    torch.testing.assert_close(process.mix(value, noise, start), value)
    found = process.estimate(value, torch.randn(4, 3, dtype=torch.float64), start)[0]
    torch.testing.assert_close(found, value)  # at the end the answer has nothing left to say


def test_the_cosine_schedule_is_monotone_and_keeps_the_variance() -> None:
    time = torch.linspace(0, 1, 1001, dtype=torch.float64)
    a, b = CosineDiffusion().shares(time)
    assert (a.diff() < 0).all()
    assert (b.diff() > 0).all()
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a))
    assert a[0] == 1
    assert 0 < a[-1] < 0.01
    for process in PROCESSES.values():
        grid = process.grid(20)
        assert grid[0] == 1
        assert grid[-1] == 0
        assert all(late < early for early, late in pairwise(grid))


def test_a_shift_moves_times_toward_the_noise() -> None:
    times = [RectifiedFlow(k).draw_time(20_000, torch.device("cpu"), torch.Generator().manual_seed(0))
             for k in (1.0, 3.0)]
    assert times[0].mean() == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(times[1], 3 * times[0] / (1 + 2 * times[0]))
    assert all(0 < float(one.min()) <= float(one.max()) < 1 for one in times)


@pytest.mark.parametrize("process", ["flow", "v", "eps"])
def test_observed_cells_are_untouched_by_imputation(process: str) -> None:
    city = toy_city(hidden=0.4)
    window = city.window([50, 60])
    torch.manual_seed(0)
    found = DiffusionForecast(process).impute(Toy.for_city(city), window, n=3, steps=4, seed=0)
    assert found.shape == (3, *window.values.shape)
    assert all(torch.equal(one[window.mask], window.values[window.mask]) for one in found)
    assert torch.isfinite(found).all()
    gaps = found[:, ~window.mask]
    assert (gaps.std(0) > 0).all()


@pytest.mark.parametrize("tasks", [("future",), ("random",), ("block", "whole_node"), ("future", "tube")])
def test_the_model_sees_nothing_hidden_in_the_window_and_known_values_clean(tasks: tuple[str, ...]) -> None:
    city, calls = toy_city(), []
    model = Toy.for_city(city)
    original = model.denoise

    def watched(window, noisy, time, condition):
        calls.append((window, noisy, time, condition))
        return original(window, noisy, time, condition)

    model.denoise = watched
    window = city.window([50, 60, 77])
    for _ in range(4):
        loss = DiffusionForecast("flow", tasks=tasks)(model, window)["diffusion"]
        assert torch.isfinite(loss)
        assert loss > 0
    mean, deviation = torch.from_numpy(city.context.mean), torch.from_numpy(city.context.deviation)
    for blind, noisy, time, condition in calls:
        steps = {8} if "future" not in tasks else {12} if tasks == ("future",) else {8, 12}
        assert noisy.shape[1] in steps  # the wanted steps are there where they are asked for
        assert blind.target is None
        assert torch.equal(blind.mask, condition)
        assert not condition[:, 8:].any()
        assert (blind.values[~condition] == 0).all()
        known = (window.values - mean) / deviation
        assert torch.equal(noisy[:, :8][condition[:, :8]], known[condition[:, :8]])
        assert ((time > 0) & (time < 1)).all()


def test_only_hidden_and_observed_entries_are_scored() -> None:
    """Targets that were not observed may be anything; in imputation no target counts."""
    city = toy_city(hidden=0.3)
    model = Toy.for_city(city)
    window = city.window([50, 60])
    for tasks in (("future",), ("random",)):
        losses = []
        for junk in (0.0, 1e9, float("nan")):
            window.target = torch.where(window.target_mask, window.target, junk)
            torch.manual_seed(5)
            losses.append(DiffusionForecast("v", tasks=tasks)(model, window)["diffusion"])
        assert torch.equal(losses[0], losses[1])
        assert torch.equal(losses[0], losses[2])
    losses = []
    for moved in (0.0, 100.0):
        torch.manual_seed(5)
        moved_window = replace(window, target=window.target + moved)
        losses.append([DiffusionForecast("v", tasks=(task,))(model, moved_window)["diffusion"]
                       for task in ("random", "future")])
    assert torch.equal(losses[0][0], losses[1][0])
    assert not torch.equal(losses[0][1], losses[1][1])
    window.target_mask[:] = False
    assert DiffusionForecast()(model, window)["diffusion"] == 0


def test_samples_do_not_read_the_future_and_repeat_with_a_seed() -> None:
    city = toy_city()
    model = Toy.for_city(city).train()
    window, blind = city.window([50, 60]), city.window([50, 60], target=False)
    objective = DiffusionForecast("flow")
    one, other, another = (objective.sample(model, w, n=2, steps=3, seed=s)
                           for w, s in ((window, 1), (blind, 1), (blind, 2)))
    assert torch.equal(one, other)
    assert not torch.equal(one, another)
    assert not torch.equal(one[0], one[1])
    assert model.training


def test_it_learns_a_bimodal_future_that_no_gaussian_describes() -> None:
    """The next reading is +1 or -1 at random: paths end near one or the other, and hardly ever between."""
    rng = np.random.default_rng(0)
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, 4000))
    graph["sensor"].node_id = np.arange(2).astype(str)
    values = rng.choice([-1.0, 1.0], (4000, 2, 1)).astype(np.float32)
    graph.add_signal("sensor", "x", Signal(values, None, [Channel("x")]))
    city = City(graph, history=1, horizon=1)

    class Small(nn.Module):
        name = "small"

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

        def denoise(self, window, noisy, time, condition):
            return self.net(torch.cat([noisy, time[:, None, None, None].expand_as(noisy)], -1))

    torch.manual_seed(0)
    model, objective = Small(), DiffusionForecast("flow")
    optimizer = torch.optim.Adam(model.parameters(), 8e-3)
    window = city.window(range(1, 2800, 9))
    for _ in range(300):
        optimizer.zero_grad()
        objective(model, window)["diffusion"].backward()
        optimizer.step()
    paths = objective.sample(model, city.window(range(3000, 3200), target=False), n=4, steps=25, seed=0)
    near = ((paths.abs() - 1).abs() < 0.35).float().mean()
    assert near > 0.85
    assert (paths > 0).float().mean() == pytest.approx(0.5, abs=0.06)


def test_bad_settings_and_models_are_refused() -> None:
    for options in ({"process": "sde"}, {"tasks": ()}, {"tasks": ("past",)}, {"shift": 0}, {"rate": 1.5}):
        with pytest.raises(InputError):
            DiffusionForecast(**options)
    city = toy_city()
    with pytest.raises(InputError, match="denoise"):
        DiffusionForecast().prepare(Bare.for_city(city))
    for options in ({"n": 0}, {"steps": 0}):
        with pytest.raises(InputError):
            DiffusionForecast().sample(Toy.for_city(city), city.window([50]), **options)
