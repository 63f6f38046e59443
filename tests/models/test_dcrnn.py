"""DCRNN: its equations step by step, teacher forcing that resumes, any network, horizon and interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from road_graphs import connected, dense_walks, los_loop
from torch import Tensor

from stgraph.errors import InputError
from stgraph.models import Forecaster, Sizes
from stgraph.models.dcrnn import DCRNN, DCRNNConfig, ScheduledSampling
from stgraph.nn import GraphGRUCell
from stgraph.objectives import MaskedRegression
from stgraph.windows import City, TrainingBatches, Window

MakeCity = Callable[..., City]


def small(**changes: Any) -> DCRNNConfig:
    return DCRNNConfig(**({"width": 6} | changes))


def made(city: City, seed: int = 0, **changes: Any) -> DCRNN:
    torch.manual_seed(seed)
    model = DCRNN.for_city(city, small(**changes))
    assert isinstance(model, DCRNN)
    return model


def train(model: DCRNN, windows: list[Window], optimizer: torch.optim.Optimizer) -> list[float]:
    objective, losses = MaskedRegression(), []
    for window in windows:
        optimizer.zero_grad()
        (loss,) = objective(model, window).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# -------------------------------------------------------------------- a slow reference
def convolve(walks: tuple[Tensor, ...], x: Tensor, weight: Tensor, recurrence: str) -> Tensor:
    out, steps = x @ weight[0], (len(weight) - 1) // 2
    for direction, walk in enumerate(walks):
        terms = [x, walk @ x]
        for _ in range(steps - 1):
            terms.append(walk @ terms[-1] if recurrence == "power" else 2 * walk @ terms[-1] - terms[-2])
        for k in range(steps):
            out = out + terms[k + 1] @ weight[1 + direction * steps + k]
    return out


def cell_by_hand(cell: GraphGRUCell, walks: tuple[Tensor, ...], x: Tensor, h: Tensor) -> Tensor:
    """The paper's equations, ``x`` and ``h`` side by side."""
    split = 2 * cell.hidden
    gates = torch.cat([cell.weight[:, :, :split], cell.gates], 1)
    candidate = torch.cat([cell.weight[:, :, split:], cell.candidate], 1)
    z, r = (convolve(walks, torch.cat([x, h], 1), gates, cell.recurrence) + cell.bias[:split]).sigmoid().chunk(2, 1)
    c = (convolve(walks, torch.cat([x, r * h], 1), candidate, cell.recurrence) + cell.bias[split:]).tanh()
    return z * h + (1 - z) * c


def by_hand(model: DCRNN, window: Window, told: list[bool]) -> Tensor:
    """Window by window, step by step, all layers in each step: ``[B, H, N, C]``."""
    walks = dense_walks(window.city, model.config.self_loops)
    mean, deviation = model.scaler.numbers(window)
    inputs, answers = model.scaler(window), []
    for b in range(window.batch_size):
        states = [torch.zeros(inputs.shape[2], model.config.width) for _ in range(model.config.layers)]
        for step in range(inputs.shape[1]):
            x = inputs[b, step]
            for layer, cell in enumerate(model.encoder):
                states[layer] = x = cell_by_hand(cell, walks, x, states[layer])
        given, answer = torch.zeros(inputs.shape[2], model.sizes.channels), []
        for step in range(window.horizon):
            x = given
            for layer, cell in enumerate(model.decoder):
                states[layer] = x = cell_by_hand(cell, walks, x, states[layer])
            given = model.head(x)
            answer.append(given * deviation + mean)
            if told[step]:
                truth = (window.target[b, step] - mean) / deviation
                given = torch.where(window.target_mask[b, step], truth, given)
        answers.append(torch.stack(answer))
    return torch.stack(answers)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"recurrence": "chebyshev", "steps": 3}, {"self_loops": False, "layers": 1}],
                         ids=str)
def test_it_is_the_papers_equations(make_city: MakeCity, changes: dict[str, Any]) -> None:
    city = connected(make_city(channels=2))
    assert (city.edges[0].shape, city.num_nodes - 1 in city.edges[0]) == ((2, 12), False)
    model, window = made(city, **changes).eval(), city.window([30, 90, 200])
    torch.testing.assert_close(model(window).mean, by_hand(model, window, [False] * 3), rtol=1e-5, atol=1e-4)


def test_parameters_are_those_of_the_paper_and_the_day_of_the_week() -> None:
    model = DCRNN(DCRNNConfig(), Sizes(1, 12, 12, 288))
    assert model.parameter_count == 372_353 + 5 * 3 * 64
    for cell in (*model.encoder, *model.decoder):
        assert cell.bias.tolist() == [1.0] * 128 + [0.0] * 64


@pytest.mark.parametrize("self_loops", [False, True])
def test_without_edges_it_is_one_recurrent_unit_for_all_nodes(make_city: MakeCity, self_loops: bool) -> None:
    """Its matrices are then ``W_0``, or the sum of all where each node walks to itself; nobody hears another."""
    city = make_city()
    assert city.edges[0].shape == (2, 0)
    model, window = made(city, self_loops=self_loops).eval(), city.window([30, 90])
    shared = made(city, steps=0).eval()
    for name, parameter in shared.named_parameters():
        other = model.get_parameter(name).data
        parameter.data = (other.sum(0, keepdim=True) if self_loops else other[:1]) if other.dim() == 3 else other
    with torch.no_grad():
        before = model(window).mean
        torch.testing.assert_close(before, shared(window).mean, rtol=1e-5, atol=1e-5)
        values = window.values.clone()
        values[:, :, 4] += 10
        change = (model(replace(window, values=values)).mean - before).abs().amax((0, 1, 3))
    assert change[4] > 0
    assert (change[[0, 1, 2, 3, 5, 6]] == 0).all()


# -------------------------------------------------------------------- scheduled sampling
def test_the_truth_is_told_less_and_less() -> None:
    sampling = ScheduledSampling(2000)
    assert sampling.probability(0) == 2000 / 2001
    assert sampling.probability(round(2000 * math.log(2000))) == pytest.approx(0.5, abs=1e-3)
    chances = [sampling.probability(step) for step in (0, 10**4, 2 * 10**4, 10**7)]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] == 0
    assert ScheduledSampling(0).probability(0) == 0
    for step in (0, 15_202, 18_000):
        assert np.mean(sampling.draw(step, 20_000)) == pytest.approx(sampling.probability(step), abs=0.02)
    with pytest.raises(InputError, match="number of steps"):
        ScheduledSampling(-1)


def test_draws_follow_from_seed_and_step_alone() -> None:
    torch.manual_seed(3)
    one, other = ScheduledSampling(5), ScheduledSampling(5)
    assert one.seed != other.seed
    wanted = [one.draw(step, 12) for step in range(6)]
    assert [one(12) for _ in range(3)] == wanted[:3]
    torch.rand(7)  # noise of something else, such as dropout
    other.load_state_dict(one.state_dict())
    assert [other(12) for _ in range(3)] == wanted[3:]
    assert len({tuple(told) for told in wanted}) > 1


@torch.no_grad()
def test_what_is_told_is_the_target_where_it_was_observed(make_city: MakeCity) -> None:
    city = connected(make_city(hidden=0.3, horizon=6))
    model = made(city, truth_decay=1)
    told: list[bool] = []
    while told[:5] != [False, True, True, False, True]:  # after the last wanted step it does not matter
        model.sampling.seed += 1
        told = model.sampling.draw(0, 6)
    window = city.window([30, 90])
    assert not window.target_mask[:, told].all()
    expected = by_hand(model, window, told)
    torch.testing.assert_close(model(window).mean, expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(expected, by_hand(model, window, [False] * 6), atol=1e-3)
    assert int(model.sampling.step) == 1
    unseen = replace(window, target=torch.where(window.target_mask, window.target, 1e6))
    model.sampling.step.zero_()
    torch.testing.assert_close(model(unseen).mean, expected, rtol=1e-5, atol=1e-4)
    model.eval()
    without = model(replace(window, target=None, target_mask=None)).mean
    assert torch.equal(model(window).mean, without)  # asked for a forecast, it looks at no target
    assert int(model.sampling.step) == 1


def test_a_resumed_training_draws_as_if_it_had_not_stopped(make_city: MakeCity) -> None:
    city = connected(make_city(horizon=6))
    windows = [city.window([origin, origin + 9]) for origin in range(30, 90, 10)]

    def start(seed: int) -> tuple[DCRNN, torch.optim.Optimizer]:
        model = made(city, seed, truth_decay=2)
        return model, torch.optim.Adam(model.parameters(), 1e-2)

    def answer(model: DCRNN) -> Tensor:
        return model.eval()(windows[0]).mean

    whole, optimizer = start(0)
    train(whole, windows, optimizer)
    half, optimizer = start(0)
    train(half, windows[:3], optimizer)
    answers = []
    for step in (3, 0):
        resumed, again = start(1)
        resumed.load_state_dict(half.state_dict())
        again.load_state_dict(optimizer.state_dict())
        resumed.sampling.step.fill_(step)
        train(resumed, windows[3:], again)
        answers.append(answer(resumed))
    assert torch.equal(answers[0], answer(whole))
    assert not torch.equal(answers[1], answers[0])  # so the number of the step is what makes it


# -------------------------------------------------------------------- any network, any window
def test_the_same_weights_answer_other_networks_horizons_and_intervals(make_city: MakeCity) -> None:
    city = connected(make_city(nodes=7))
    other = connected(make_city(nodes=20, seed=1, history=9, horizon=5), edges=60)
    model = made(city)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in made(other).state_dict().items()}
    model.eval().check(other)
    with torch.no_grad():
        for place, nodes, horizon in ((city, 7, 3), (other, 20, 5)):
            window = place.window([30, 90])
            assert model(window).mean.shape == (2, horizon, nodes, 1)
            torch.testing.assert_close(model(window).mean, by_hand(model, window, [False] * horizon),
                                       rtol=1e-5, atol=1e-4)
            assert model.embed(window).shape == (2, nodes, model.embedding_width)


def test_another_order_of_nodes_permutes_the_forecast(make_city: MakeCity) -> None:
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    city, other = connected(make_city()), make_city(order=order)
    place = torch.from_numpy(np.argsort(order))
    store = other.graph["sensor", "near", "sensor"]
    store.edge_index, store.edge_weight = place[city.edges[0]], city.edges[1]
    model = made(city).eval()
    with torch.no_grad():
        forecast, permuted = (model(one.window([30, 90])).mean for one in (city, other))
    torch.testing.assert_close(permuted, forecast[:, :, order], rtol=1e-5, atol=1e-4)


def test_what_was_not_observed_has_no_influence(make_city: MakeCity) -> None:
    city = connected(make_city())
    model, window = made(city).eval(), city.window(range(30, 60))
    hidden = replace(window, values=torch.where(window.mask, window.values, 1e6))
    assert not window.mask.all()
    assert torch.equal(model(window).mean, model(hidden).mean)


def test_saved_and_read_again_it_answers_and_draws_the_same(make_city: MakeCity, tmp_path: Path) -> None:
    city = connected(make_city())
    model, window = made(city), city.window(range(30, 60))
    model(window)
    model.eval().save_pretrained(tmp_path)
    again = Forecaster.from_pretrained(tmp_path)
    assert isinstance(again, DCRNN)
    assert torch.equal(model(window).mean, again(window).mean)
    assert again.sampling(12) == model.sampling(12)


def test_a_graph_kept_from_forecasting_serves_training_in_any_precision(make_city: MakeCity) -> None:
    city = connected(make_city())
    model, window = made(city), city.window([30, 90])
    with torch.inference_mode():
        wanted = model.eval()(window).mean
    with torch.autocast("cpu", torch.bfloat16):
        answer, loss = model(window).mean, model.train()(window).mean.mean()
    loss.backward()
    torch.testing.assert_close(answer, wanted, rtol=1e-2, atol=1e-2)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# -------------------------------------------------------------------- training
def test_it_learns_eight_windows_by_heart(make_city: MakeCity) -> None:
    city = connected(make_city())
    model = made(city, width=24, layers=1, truth_decay=20)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = train(model, [city.window(range(40, 120, 10))] * 200, optimizer)
    assert losses[-1] < 0.1 * losses[0]


def test_it_learns_from_a_week_of_los_angeles(shared_data: Path) -> None:
    city = los_loop(shared_data)
    model = made(city, width=16, layers=1, truth_decay=0)
    batches = TrainingBatches([city], 4, 30)
    losses = train(model, [batches[step] for step in range(30)], torch.optim.Adam(model.parameters(), 1e-2))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def test_settings_that_cannot_be_are_named(make_city: MakeCity) -> None:
    city = make_city()
    for changes, field in (({"recurrence": "fourier"}, "recurrence"), ({"steps": -1}, "steps"),
                           ({"truth_decay": -5}, "truth_decay"), ({"layers": 0}, "layers, width")):
        with pytest.raises(InputError) as caught:
            made(city, **changes)
        assert caught.value.field == field
