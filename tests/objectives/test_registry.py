"""Objectives by name, schedules, the graph prior, and losses in balance."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from toys import Bare, Toy, toy_city

from stgraph.errors import InputError
from stgraph.objectives import GradientBalance, GraphPrior, make_objective, objective_names, parse_objectives
from stgraph.objectives.schedule import Fading, Ramp


@pytest.fixture(scope="module")
def city():
    return toy_city()


def test_text_names_objectives_settings_and_weights() -> None:
    assert parse_objectives("mae") == [("mae", 1.0)]
    assert parse_objectives("regression:1,masked:0.5") == [("regression", 1.0), ("masked", 0.5)]
    text = " mae : 2 , masked( kind = block, rate=0.5 ) : 1e-1, contrast(view=mask+edges)"
    found = parse_objectives(text)
    assert found == [("mae", 2.0), ("masked(kind=block,rate=0.5)", 0.1), ("contrast(view=mask+edges)", 1.0)]
    masked = make_objective(found[1][0])
    assert (masked.kind, masked.rate.first) == ("block", 0.5)
    assert make_objective("regression(kind=huber)").kind == "huber"
    assert make_objective("mae(channel_weights=1+0.5)").channel_weights.tolist() == [1.0, 0.5]
    assert make_objective("diffusion(process=v,tasks=future+block)").tasks == ("future", "block")


def test_every_name_makes_an_objective_that_trains_a_model(city) -> None:
    window = city.window([50, 56, 62])
    for name in set(objective_names()) - {"attributes"}:  # which asks for nodes that this city has not
        model = Toy.for_city(city) if name != "quantile" else Toy.for_city(city, Toy.Config(levels=(0.1, 0.9)))
        objective = make_objective(name)
        if hasattr(objective, "prepare"):
            objective.prepare(model)
        losses = objective(model, window)
        sum(losses.values()).backward()
        assert any(p.grad is not None and p.grad.any() for p in model.parameters()), name


@pytest.mark.parametrize("text", ["", "mae,", "masks", "mae:x", "mae:-1", "mae:inf", "mae:nan", "masked(rate)",
                                  "masked(rate=)", "masked(rate=many)", "masked(speed=1)", "mae(kind=mse)", "mae:1:2",
                                  "attributes", "masked(rate=0.5", "masked(rate=2)", "masked(minutes=0)", "mae mse"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_objectives(text)


def test_schedules_are_as_configured() -> None:
    assert [Ramp(1.0, 0.0, 4).at(k) for k in (0, 1, 2, 4, 9)] == [1.0, 0.75, 0.5, 0.0, 0.0]
    assert Ramp(1.0, 0.2, 0).at(0) == 0.2
    fading = Fading(2.0, 3)
    assert [fading() for _ in range(7)] == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, pytest.approx(2 / 3)]
    fading.eval()
    assert fading() == fading() == pytest.approx(2 / 3)
    with pytest.raises(InputError):
        Fading(1.0, 0)
    with pytest.raises(InputError):
        Ramp(1.0, 0.0, -1)


def test_the_graph_prior_is_cross_entropy_and_fades(city) -> None:
    model, window = Toy.for_city(city), city.window([50])
    objective = GraphPrior(weight=2.0, every=2)
    learned = model.learned_graph(window)
    by_hand = []
    for score, prior, allowed in zip(learned.score.flatten(), learned.candidates.prior.flatten(),
                                     learned.candidates.allowed.flatten(), strict=True):
        if allowed:
            chance = torch.sigmoid(score)
            by_hand.append(-torch.log(chance if prior else 1 - chance).item())
    assert 0 < int(learned.candidates.prior.sum()) < len(by_hand)
    losses = [objective(model, window)["graph_prior"].item() for _ in range(5)]
    plain = sum(by_hand) / len(by_hand)
    assert losses == pytest.approx([2 * plain, 2 * plain, plain, plain, 2 / 3 * plain], rel=1e-4)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        model.learned_graph(window).prior_loss().backward()
        optimizer.step()
    assert model.learned_graph(window).prior_loss() < 0.7 * plain
    with pytest.raises(InputError, match="learned_graph"):
        objective.prepare(Bare.for_city(city))


def test_balance_brings_gradients_to_their_mean() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    losses = {"large": (300 * weight).sum(), "small": (weight * torch.tensor([0.3, 0.4])).sum(),
              "constant": torch.tensor(5.0)}
    balance = GradientBalance(every=1, smoothing=0.0)
    factors = balance(losses, [weight])
    norms = {}
    for name in ("large", "small"):
        gradient, = torch.autograd.grad(factors[name] * losses[name], [weight], retain_graph=True)
        norms[name] = gradient.norm().item()
    mean = (300 * 2**0.5 + 0.5) / 2
    assert norms == pytest.approx({"large": mean, "small": mean}, rel=1e-5)
    assert factors["constant"] == 1.0
    with pytest.raises(InputError):
        GradientBalance(every=0)


def test_balance_looks_now_and_then_and_remembers() -> None:
    weight = nn.Parameter(torch.ones(1))
    balance = GradientBalance(every=2, smoothing=0.5)
    seen = []
    for factor in (1.0, 100.0, 3.0):
        losses = {"a": (factor * weight).sum(), "b": weight.sum()}
        seen.append(balance(losses, [weight]))
    assert seen[0] == seen[1] == {"a": 1.0, "b": 1.0}
    assert seen[2]["a"] == pytest.approx((2 + 1) / 2 / 2)  # the norm of a: half of 1 and half of 3
    stream = io.BytesIO()
    torch.save(balance.state_dict(), stream)
    stream.seek(0)
    again = GradientBalance(every=2, smoothing=0.5)
    again.load_state_dict(torch.load(stream, weights_only=True))
    assert (again.calls, again.norms) == (balance.calls, balance.norms)
    assert copy.deepcopy(balance).norms == balance.norms
