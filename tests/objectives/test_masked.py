"""Masked modelling: the model is blind to what it has to find, and only that is scored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import Bare, Toy, ToyConfig, toy_city

from stgraph.errors import InputError
from stgraph.objectives import DecoupledMasked, MaskedModelling
from stgraph.objectives.masks import MASKS
from stgraph.objectives.views import hide, joint

NEEDS = frozenset({"profile", "lags"})


@pytest.fixture(scope="module")
def city():
    return toy_city()


@pytest.fixture
def model(city):
    torch.manual_seed(1)
    return Toy.for_city(city)


def record(model: nn.Module) -> list[tuple]:
    """Every answer of the model from now on, with what was hidden."""
    calls, original = [], model.reconstruct

    def watched(window, hidden):
        answer = original(window, hidden)
        calls.append((window, hidden, answer.detach()))
        return answer

    model.reconstruct = watched
    return calls


@pytest.mark.parametrize("span", ["past", "joint"])
@pytest.mark.parametrize("kind", MASKS)
def test_hidden_values_never_reach_the_model(city, model, kind: str, span: str) -> None:
    """Other numbers where something was hidden: the same answer to the last bit, and another loss."""
    objective = MaskedModelling(kind, 0.5, minutes=180, span=span, seed=4)
    window = city.window([50, 77, 200], NEEDS)
    calls = record(model)
    before = objective(model, window)["masked"]
    hidden = calls[0][1]
    assert hidden.any()
    past = hidden[:, :8]
    changed = replace(window, values=torch.where(past, 1e3 + window.values, window.values))
    if span == "joint":
        changed.target = torch.where(hidden[:, 8:], window.target - 500, window.target)
    after = objective(model, changed)["masked"]
    assert torch.equal(calls[1][1], hidden)
    assert torch.equal(calls[1][2], calls[0][2])
    assert abs(after - before) > 10


def test_what_is_visible_does_reach_the_model(city, model) -> None:
    """The test above can fail: a value that was not hidden changes the answer."""
    objective = MaskedModelling("random", 0.5, seed=4)
    window = city.window([50], NEEDS)
    calls = record(model)
    objective(model, window)
    visible = window.mask & ~calls[0][1]
    objective(model, replace(window, values=torch.where(visible, window.values + 1, window.values)))
    assert not torch.equal(calls[1][2], calls[0][2])


def test_only_hidden_and_observed_entries_are_scored(city, model) -> None:
    objective = MaskedModelling("random", 0.3, seed=0, loss="mae")
    window = city.window([50, 60], NEEDS)
    calls = record(model)
    loss = objective(model, window)["masked"]
    _, hidden, answer = calls[0]
    assert not (hidden & ~window.mask).any()
    scale = torch.from_numpy(city.context.deviation)
    total, count = 0.0, 0
    for b, t, n, c in hidden.nonzero().tolist():
        total += abs(float(answer[b, t, n, c] - window.values[b, t, n, c])) / float(scale[c])
        count += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_lags_that_may_hold_hidden_values_are_hidden(city) -> None:
    """History and horizon of a day and more reach back to what 'yesterday' holds."""
    short, long = (toy_city(days=20, history=steps).window([300], NEEDS) for steps in (8, 24))
    for window, left in ((short, True), (long, False)):
        blind = hide(window, torch.zeros_like(window.mask))
        assert bool(blind.lags["yesterday"][1].any()) == left
        assert blind.lags["last_week"][1].any()
        assert blind.target is None
        assert blind.target_mask is None


def test_a_joint_window_is_past_then_future(city) -> None:
    window = city.window([40, 99], NEEDS)
    whole = joint(window)
    longer = toy_city(history=12).window([44, 103], NEEDS)
    assert torch.equal(whole.values, longer.values)
    assert torch.equal(whole.mask, longer.mask)
    assert torch.equal(whole.past.minute, longer.past.minute)
    torch.testing.assert_close(whole.profile_past, longer.profile_past)
    unknown = joint(city.window([40, 99], target=False))
    assert not unknown.mask[:, 8:].any()


def test_a_ramp_goes_from_easy_to_hard_and_is_kept(city, model) -> None:
    objective = MaskedModelling("whole_node", 0.0, last_rate=0.5, ramp_steps=4)
    window = city.window([50])
    shares = [objective.draw(window)[0].any(0).any(-1).sum().item() for _ in range(6)]
    assert shares == [0, 1, 2, 2, 3, 3]  # of 6 nodes: 0, 1/8, 1/4, 3/8, 1/2, 1/2, rounded half up
    again = MaskedModelling("whole_node", 0.0, last_rate=0.5, ramp_steps=4)
    again.load_state_dict(objective.state_dict())
    assert again.rate() == 0.5
    objective.eval()
    assert [objective.rate.step.item() for _ in range(2) if objective.draw(window) is not None] == [6, 6]


def test_it_learns(city) -> None:
    model = Toy.for_city(city, ToyConfig(width=32))
    objective, window = MaskedModelling("random", 0.25, seed=0), city.window([50])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(150):
        loss = objective(model, window)["masked"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_decoupled_losses_reach_their_own_encoder_only(city) -> None:
    torch.manual_seed(0)
    model = Toy.for_city(city)
    model.reconstructors = nn.ModuleDict({"time": Toy.for_city(city), "node": Toy.for_city(city)})
    objective = DecoupledMasked(0.25, 0.5, minutes=120, seed=3)
    objective.prepare(model)
    calls = {axis: record(model.reconstructors[axis]) for axis in ("time", "node")}
    losses = objective(model, city.window([50, 60]))
    assert list(losses) == ["masked_time", "masked_node"]
    for axis, other in (("time", "node"), ("node", "time")):
        model.zero_grad()
        losses[f"masked_{axis}"].backward(retain_graph=True)
        assert any(p.grad is not None and p.grad.any() for p in model.reconstructors[axis].parameters())
        assert all(p.grad is None for p in model.reconstructors[other].parameters())
    window, hidden, _ = calls["node"][0]
    whole = hidden.any(1).any(-1)                                                             # [B, N]
    assert (whole.sum(1) == 3).all()
    assert not window.mask[whole[:, None, :, None].expand_as(window.mask)].any()  # no value of a hidden node is left
    hours = calls["time"][0][1].any(2).any(-1)                                                # [B, T]
    assert torch.equal(hours[:, 0::2], hours[:, 1::2])
    assert (hours.sum(1) == 2).all()


def test_one_model_may_do_both(city, model) -> None:
    losses = DecoupledMasked()(model, city.window([50, 60]))
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_nothing_to_hide_gives_zero(city, model) -> None:
    window = city.window([50])
    window.mask[:] = False
    loss = MaskedModelling("random", 0.5)(model, window)["masked"]
    assert loss == 0
    loss.backward()


def test_bad_settings_and_models_are_refused(city) -> None:
    for options in ({"kind": "chess"}, {"rate": 2.0}, {"span": "future"}, {"minutes": 0}, {"last_rate": -1.0}):
        with pytest.raises(InputError):
            MaskedModelling(**options)
    for objective in (MaskedModelling(), DecoupledMasked()):
        with pytest.raises(InputError, match="'bare' cannot be trained by") as caught:
            objective.prepare(Bare.for_city(city))
        assert "reconstruct" in caught.value.problem
    lopsided = Toy.for_city(city)
    lopsided.reconstructors = {"time": lopsided}
    with pytest.raises(InputError, match="two encoders"):
        DecoupledMasked().prepare(lopsided)
