"""STEP: hidden hours stay hidden, states are those of the past and computed once, the encoder never moves."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError, TransductiveError
from stgraph.evaluate.evaluate import evaluate
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import Forecaster
from stgraph.models import step as step_module
from stgraph.models.step import STEP, STEPConfig
from stgraph.models.step_encoder import CachedStates, StepEncoder, StepEncoderConfig
from stgraph.nn import is_frozen
from stgraph.objectives import GraphPrior, MaskedModelling, MaskedRegression
from stgraph.objectives.views import hide, long
from stgraph.train import Budget, fit
from stgraph.windows import City

MakeCity = Callable[..., City]
SMALL = StepEncoderConfig(minutes=120, tokens=12, resolution_minutes=60, width=16, heads=2, layers=2)
MASKED = "masked(kind=whole_step,rate=0.75,minutes=120,span=long)"


def ring(city: City) -> City:
    """The city with edges to the next node."""
    nodes = torch.arange(city.num_nodes)
    city.graph["sensor", "near", "sensor"].edge_index = torch.stack([nodes, (nodes + 1) % city.num_nodes])
    city.graph["sensor", "near", "sensor"].edge_weight = torch.ones(city.num_nodes)
    return city


def encoder_of(city: City, **options: Any) -> StepEncoder:
    torch.manual_seed(0)
    model = StepEncoder.for_city(city, replace(SMALL, **options)).eval()
    assert isinstance(model, StepEncoder)
    return model


@pytest.fixture
def folder(make_city: MakeCity, tmp_path: Path) -> Path:
    """The folder of an encoder that learned nothing yet."""
    encoder_of(make_city()).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def step_of(city: City, folder: Path, **options: Any) -> STEP:
    torch.manual_seed(1)
    return STEP.for_city(city, STEPConfig(**({"encoder": str(folder), "width": 16} | options)))


def stir(model: STEP) -> STEP:
    """The model with a correction that is not 0."""
    torch.manual_seed(2)
    torch.nn.init.normal_(model.correction.weight)
    return model


# -------------------------------------------------------------------- stage 1
def plain_layer(layer: torch.nn.Module, h: Tensor, hours: Tensor, seen: list[int]) -> Tensor:
    """One layer on the tokens ``[S, D]`` of one node, number by number."""
    q, k, v = layer.attention.qkv(layer.norm_attention(h)).chunk(3, -1)
    heads, width = layer.attention.heads, h.shape[1] // layer.attention.heads
    half, out = width // 2, torch.zeros_like(h)
    for head in range(heads):
        place = slice(head * width, (head + 1) * width)
        for i in range(len(h)):
            if not seen:
                continue  # the bias of the projection alone
            score = []
            for j in seen:
                total = 0.0
                for c in range(half):  # a pair of channels, turned by the hours between the two tokens
                    angle = (hours[i] - hours[j]) * 10 ** (-4 * c / half)
                    a, b, e, f = q[i, place][c], q[i, place][c + half], k[j, place][c], k[j, place][c + half]
                    total += (a * e + b * f) * math.cos(angle) + (a * f - b * e) * math.sin(angle)
                score.append(float(total) / math.sqrt(width))
            weight = np.exp(np.array(score) - max(score))
            out[i, place] = sum(float(w) * v[j, place] for w, j in zip(weight / weight.sum(), seen, strict=True))
    h = h + layer.attention.out(out)
    inside = torch.relu(layer.mlp[0](layer.norm_mlp(h)))
    return h + layer.mlp[3](inside)


@torch.no_grad()
def test_states_equal_the_formula_node_by_node(make_city: MakeCity) -> None:
    city = make_city(nodes=3, hidden=0.7)
    model = encoder_of(city, tokens=5)
    window = city.long_window([7, 100], 600)  # the first reaches back over the start
    found = model.states(window)
    h, seen, _, minutes = model.tokens(window)
    assert minutes.tolist() == [-540, -420, -300, -180, -60]
    assert not seen.all()
    for b in range(2):
        for n in range(3):
            x, there = h[b, :, n], seen[b, :, n].nonzero().flatten().tolist()
            for layer in model.layers:
                x = plain_layer(layer, x, minutes / 60, there)
            torch.testing.assert_close(found[b, :, n], model.norm(x), rtol=1e-4, atol=1e-4)


def test_a_token_is_what_was_read_in_its_minutes(make_city: MakeCity) -> None:
    """``W [mean of each cell, observed share of each cell] + b`` plus its clock: by hand for one token."""
    city = make_city(nodes=2)
    model = encoder_of(city)
    window = city.long_window([200], 24 * 60)
    h, seen, clock, _ = model.tokens(window)
    rows = slice(200 - 24 + 2 * 4, 200 - 24 + 2 * 5)  # token 4 holds two hours
    values, mask = city.signal.values[rows, 1, 0], city.signal.mask[rows, 1, 0]
    scaled = np.where(mask, (values - city.context.mean[0]) / city.context.deviation[0], 0)
    expected = model.patches.project(torch.tensor([scaled[0], mask[0], scaled[1], mask[1]], dtype=torch.float32))
    torch.testing.assert_close(h[0, 4, 1], expected + clock[0, 4], rtol=1e-4, atol=1e-5)
    assert seen[0, 4, 1] == mask.any()


def test_three_quarters_of_the_tokens_are_hidden_to_the_letter(make_city: MakeCity) -> None:
    city = make_city(hidden=0.0)
    window = long(city.window([40, 100, 170], StepEncoder.describe(SMALL).needs))
    hidden = MaskedModelling("whole_step", 0.75, minutes=120).draw(window)
    tokens = hidden.unflatten(1, (12, 2))
    assert (tokens.all(2) == tokens.any(2)).all()  # whole tokens
    assert tokens.any(2).sum(1).unique().tolist() == [9]
    assert (tokens.any(2) == tokens.any(2)[:, :, :1]).all()  # the same for all nodes of a sample


@pytest.mark.parametrize("kind", ["whole_step", "random", "block", "whole_node"])
def test_what_is_hidden_does_not_reach_the_answer(make_city: MakeCity, kind: str) -> None:
    city = make_city()
    model = encoder_of(city)
    window = city.window([20, 170], model.capabilities.needs)
    objective = MaskedModelling(kind, 0.5, minutes=120, span="long", seed=1)
    hidden = objective.draw(long(window))
    answers = []
    original = model.reconstruct
    model.reconstruct = lambda *given: answers.append(original(*given)) or answers[-1]  # type: ignore[method-assign]
    objective(model, window)
    values = torch.where(hidden, 1e3 - window.long[0], window.long[0])
    objective(model, replace(window, long=(values, window.long[1])))
    assert torch.equal(answers[0], answers[1])
    assert answers[0].shape == (2, 24, 7, 1)
    assert torch.isfinite(answers[0]).all()


def test_the_loss_asks_for_hidden_readings_only(make_city: MakeCity) -> None:
    city = make_city()
    model = encoder_of(city)
    window = city.window([60, 170], model.capabilities.needs)
    objective = MaskedModelling("whole_step", 0.75, minutes=120, span="long", seed=1)
    hidden = objective.draw(long(window))
    original, plain = model.reconstruct, objective(model, window)["masked"]
    model.reconstruct = lambda *given: original(*given) + 50.0 * ~hidden  # type: ignore[method-assign]
    assert torch.equal(objective(model, window)["masked"], plain)
    model.reconstruct = lambda *given: original(*given) + 50.0 * hidden  # type: ignore[method-assign]
    assert objective(model, window)["masked"] > plain


@torch.no_grad()
def test_the_encoder_runs_on_visible_tokens_only_and_all_of_them_give_the_same(make_city: MakeCity) -> None:
    city = make_city(hidden=0.3)
    model = encoder_of(city)
    window = long(city.window([60, 170], model.capabilities.needs))
    lengths = []
    original = model.encode
    model.encode = lambda h, *given: lengths.append(h.shape[1]) or original(h, *given)  # type: ignore[method-assign]
    hidden = MaskedModelling("whole_step", 0.75, minutes=120, seed=1).draw(window)
    bare = replace(window, mask=window.mask & ~hidden, values=torch.where(hidden, 0, window.values))
    short = model.reconstruct(bare, hidden)
    assert lengths[-1] == 3
    h, seen, clock, minutes = model.tokens(bare)
    code = model.hand_over(original(h, minutes, seen))  # unseen tokens ask too, but nobody looks at them
    full = torch.where(seen[..., None], code, (model.mask_token + clock)[:, :, None])
    asked = hidden.unflatten(1, (12, 2)).any(2).any(-1)
    for layer in model.decoder:
        full = layer(full, minutes, seen | asked)
    expected = model.scaler.undo(model.values(model.decoder_norm(full), 24, 60.0), bare)
    torch.testing.assert_close(short, expected, rtol=1e-4, atol=1e-3)


def test_a_short_history_is_that_history_padded(make_city: MakeCity) -> None:
    """Rows before the axis count no more than tokens that never were."""
    city = make_city()
    model = encoder_of(city)
    padded = model.states(city.long_window([10], 24 * 60))[:, -5:]
    torch.testing.assert_close(padded, model.states(city.long_window([10], 10 * 60)), rtol=1e-4, atol=1e-5)


def test_no_weight_knows_how_many_nodes_or_which_interval(make_city: MakeCity) -> None:
    one, two = encoder_of(make_city(nodes=3)), encoder_of(make_city(nodes=11, history=8, horizon=5))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in two.state_dict().items()}
    one.check(make_city(nodes=11, history=8, horizon=5))
    with pytest.raises(InputError, match="1 channel"):
        one.check(make_city(channels=2))


def test_it_learns_eight_windows_by_heart(make_city: MakeCity) -> None:
    city = make_city(nodes=3)
    model = encoder_of(city, dropout=0.0).train()
    window = city.window(range(40, 120, 10), model.capabilities.needs)
    objective = MaskedModelling("whole_step", 0.5, minutes=120, span="long", seed=3)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        (loss,) = objective(model, window).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


# -------------------------------------------------------------------- states of a city
def test_cached_states_are_the_live_ones_at_patch_boundaries(make_city: MakeCity) -> None:
    city = make_city()
    model = encoder_of(city)
    cache = CachedStates(model, city)
    assert cache.values.shape == (12 * 24 // 2 + 1, 7, 16)
    boundaries = np.array([3, 40, 77, 144])
    found = cache.at(boundaries, model, city)
    for state, boundary in zip(found, boundaries, strict=True):
        window = city.window([boundary * 2], model.capabilities.needs, target=False)
        torch.testing.assert_close(state, model.states(long(window))[0, -1].detach(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hours_to_come_are_hidden_hours_of_a_longer_history(make_city: MakeCity) -> None:
    """What the decoder says of the next tokens is what it fills in at the end of a window that holds them hidden."""
    city = make_city(hidden=0.3)
    model, origins = encoder_of(city), np.array([57, 200])
    found = model.outlook(city.long_window(origins, 24 * 60), 2)
    assert found.shape == (2, 7, 3 * 16)
    window = city.long_window(origins + 4, 28 * 60)  # four hours more: two tokens
    hidden = window.mask & (torch.arange(28) >= 24)[:, None, None]
    hidden[:, -4:] = True  # asked for, whether or not there was a reading
    filled = model.reconstruct(hide(window, hidden), hidden)[:, -4:]
    tokens = found.unflatten(2, (3, 16))[:, :, 1:].transpose(1, 2)                     # [B, 2, N, D]
    answer = model.scaler.undo(model.values(tokens, 4, 60.0), window)
    torch.testing.assert_close(answer, filled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[..., :16], model.states(city.long_window(origins, 24 * 60))[:, -1])


def test_each_state_is_computed_once_whoever_asks(make_city: MakeCity, monkeypatch: pytest.MonkeyPatch) -> None:
    city = make_city()
    model = encoder_of(city)
    asked: list[int] = []
    original = City.long_window
    monkeypatch.setattr(City, "long_window", lambda self, rows, minutes: asked.extend(rows) or original(
        self, rows, minutes))
    monkeypatch.setattr("stgraph.models.step_encoder._SERIES", 14)  # two boundaries in a block
    one, two = CachedStates(model, city), CachedStates(model, city)
    first = one.at(np.array([3, 40, 41]), model, city)
    assert sorted(asked) == [4, 6, 80, 82]
    again = one.at(np.array([41, 2, 3, 40]), model, city)
    assert len(asked) == 4
    assert torch.equal(again[[2, 3, 0]], first)
    backwards = torch.cat([two.at(np.array([b]), model, city) for b in (41, 40, 3)])
    assert torch.equal(backwards.flip(0), first)  # to the last bit


def test_models_on_one_encoder_share_the_states_of_a_city(make_city: MakeCity, folder: Path) -> None:
    city = make_city()
    one, two = step_of(city, folder).eval(), copy.deepcopy(step_of(city, folder, backend="profile_mlp")).eval()
    one(city.window([30]))
    (kept,) = vars(city.context)["step_states"].values()
    before = kept[0]
    two(city.window([31, 200], two.capabilities.needs))
    assert list(vars(city.context)["step_states"].values()) == [kept]
    assert kept[0] is before
    city.use_context(0, 100)  # other rows, other scale: states anew
    assert "step_states" not in vars(city.context)


# -------------------------------------------------------------------- stage 2
@pytest.mark.parametrize("backend", ["stid", "profile_mlp", "patchstg", "graph_wavenet", "dcrnn"])
def test_any_back_end_and_first_it_is_the_back_end(make_city: MakeCity, folder: Path, tmp_path: Path,
                                                   backend: str) -> None:
    city = ring(make_city())
    model = step_of(city, folder, backend=backend).eval()
    window = city.window([150, 170], model.capabilities.needs)
    with torch.inference_mode():
        assert torch.equal(model(window).mean, model.backend(window).mean)
        answer = stir(model)(window).mean
        assert not torch.allclose(answer, model.backend(window).mean)
    assert answer.shape == (2, 3, 7, 1)
    junk = replace(window, values=torch.where(window.mask, window.values, 1e4))
    with torch.inference_mode():
        assert torch.equal(model(junk).mean, answer)  # what was not observed may hold anything
    model.save_pretrained(tmp_path / "step")
    (folder / "weights.safetensors").unlink()  # it stands alone
    again = Forecaster.from_pretrained(tmp_path / "step")
    with torch.inference_mode():
        assert torch.equal(again(window).mean, answer)
    assert all(is_frozen(part) for part in again.encoder.modules())
    assert (model.messages is not None) == (backend in ("graph_wavenet", "dcrnn"))


@pytest.mark.parametrize("ahead", ["0", "2"])
def test_a_forecast_knows_nothing_of_the_origin_and_after(make_city: MakeCity, folder: Path, ahead: str) -> None:
    """Later rows changed in the very arrays: the same answer. The week before changed: another one."""
    for earlier in (False, True):
        for origin in (240, 241, 263):
            answers = []
            for shift in (0.0, 5.0):
                city = make_city(fractions=(0.7, 0.1, 0.2))
                model = stir(step_of(city, folder, ahead=int(ahead))).eval()
                _ = city.context  # fitted on the training rows, which are all before
                rows = slice(origin - 20, origin - 10) if earlier else slice(origin, None)
                city.signal.values[rows] += shift
                answers.append(model(city.window([origin])).mean)
            assert torch.equal(*answers) is not earlier


def test_the_state_is_that_of_the_last_boundary(make_city: MakeCity, folder: Path) -> None:
    city = make_city()
    model = step_of(city, folder).eval()
    window = city.window([200, 201, 202])
    state = model.context(window)
    assert torch.equal(state[0], state[1])
    assert not torch.equal(state[1], state[2])
    assert model.age(window).tolist() == [0, 0.5, 0]


def test_the_correction_equals_its_formula(make_city: MakeCity, folder: Path) -> None:
    city = make_city(channels=1)
    model = stir(step_of(city, folder)).eval()
    window = city.window([150, 171])
    answer, state = model(window).mean, model.context(window)
    plain = model.backend(window).mean
    mean, deviation = float(city.context.mean[0]), float(city.context.deviation[0])
    for b, n in ((0, 3), (1, 6)):
        seen = window.mask[b, :, n, 0]
        x = torch.where(seen, (window.values[b, :, n, 0] - mean) / deviation, 0)
        y = (plain[b, :, n, 0] - mean) / deviation
        series = torch.cat([x, seen.float(), y, torch.tensor([0.0, 0.5])[b : b + 1]])
        u = model.mlp(torch.relu(model.state(state[b, n]) + model.now(series)))
        expected = plain[b, :, n, 0] + deviation * torch.sigmoid(model.gate(u)) * model.correction(u)
        torch.testing.assert_close(answer[b, :, n, 0], expected, rtol=1e-4, atol=1e-4)


def test_without_states_the_encoder_has_no_say(make_city: MakeCity, folder: Path) -> None:
    city = make_city()
    window = city.window([150, 171])
    answers = {}
    for states in (True, False):
        for seed in (3, 4):
            model = stir(step_of(city, folder, states=states)).eval()
            torch.manual_seed(seed)
            torch.nn.init.normal_(model.encoder.norm.weight)
            model._own = object()  # another encoder now
            answers[states, seed] = model(window).mean
    assert torch.equal(answers[False, 3], answers[False, 4])
    assert not torch.equal(answers[True, 3], answers[True, 4])


def test_the_encoder_does_not_move_to_the_last_bit(make_city: MakeCity, folder: Path) -> None:
    city = make_city()
    before = {key: value.clone() for key, value in Forecaster.from_pretrained(folder).state_dict().items()}
    trained = fit([city], "step", settings={"encoder": str(folder), "width": "16"}, budget=Budget(steps=25),
                  objectives=[("mae", 1.0)], weight_decay=0.1, progress=False)
    model = trained.model
    assert isinstance(model, STEP)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model.correction.weight.abs().sum() > 0
    model.train()
    assert not any(part.training for part in model.encoder.modules())
    assert not any(weight.requires_grad for weight in model.encoder.parameters())
    window = city.window([100])
    assert torch.equal(model.context(window), model.context(window))


def test_the_back_end_and_the_join_learn_eight_windows_by_heart(make_city: MakeCity, folder: Path) -> None:
    city = make_city()
    model = step_of(city, folder, dropout=0.0, graph="on", backend_settings="dropout=0")
    window, objective = city.window(range(40, 120, 10)), MaskedRegression()
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], 5e-3)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        (loss,) = objective(model, window).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_evaluated_first_it_can_be_trained_after(make_city: MakeCity, folder: Path) -> None:
    """What an evaluation kept of a city is no obstacle to gradients."""
    city = make_city()
    model = stir(step_of(city, folder, graph="on")).eval()
    window = city.window([100, 120])
    with torch.inference_mode():
        model(window)
    model.train()
    (MaskedRegression()(model, window)["mae"] + model.learned_graph(window).prior_loss()).backward()
    assert model.messages.learner.source.weight.grad.abs().sum() > 0


# -------------------------------------------------------------------- the learned graph
def test_the_learned_graph_has_no_loops_k_edges_and_any_number_of_nodes(make_city: MakeCity, folder: Path) -> None:
    city, other = make_city(nodes=9), make_city(nodes=5, seed=3)
    model = step_of(city, folder, graph="on", k=3, backend="profile_mlp").eval()
    for place in (city, other):
        graph = model.learned_graph(place.window([100], model.capabilities.needs))
        own = torch.arange(place.num_nodes)[:, None]
        assert not ((graph.candidates.source == own) & graph.candidates.allowed).any()
        assert (graph.chosen.sum(1) == 3).all()
        assert graph.candidates.prior.sum(1).max() <= 3
        model.check(place)
        assert model(place.window([100], model.capabilities.needs)).mean.shape == (1, 3, place.num_nodes, 1)
    fading = GraphPrior(every=1)
    fading.prepare(model)
    window = city.window([100])
    first, second = (fading.train()(model, window)["graph_prior"].item() for _ in range(2))
    assert second == pytest.approx(first / 2)
    with pytest.raises(InputError, match="learns no graph"):
        step_of(city, folder, graph="off").learned_graph(window)


def test_descriptors_are_of_the_training_rows(make_city: MakeCity, folder: Path) -> None:
    found = []
    for shift in (0.0, 9.0):
        city = make_city()
        model = step_of(city, folder, graph="on").eval()
        _ = city.context
        city.signal.values[city.split.rows("train")[1] :] += shift
        found.append(model.places(city.window([100]))[1])
    assert torch.equal(*found)


def test_another_numbering_of_the_nodes_is_another_order_of_the_answer(make_city: MakeCity, folder: Path) -> None:
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    city, other = make_city(), make_city(order=order)
    model = stir(step_of(city, folder, backend="profile_mlp", graph="on", k=6)).eval()  # all others are neighbours
    answer, permuted = (model(one.window([30, 90], model.capabilities.needs)).mean for one in (city, other))
    torch.testing.assert_close(permuted, answer[:, :, order], rtol=1e-4, atol=1e-3)


# -------------------------------------------------------------------- as users do
def test_both_stages_as_runs(make_city: MakeCity, tmp_path: Path) -> None:
    city = make_city(days=20)
    small = {"minutes": "120", "tokens": "12", "resolution_minutes": "60", "width": "16", "heads": "2", "layers": "1"}
    first = fit([city], "step_encoder", tmp_path / "encoder", settings=small, objectives=[(MASKED, 1.0)],
                budget=Budget(steps=60), progress=False)
    with (tmp_path / "encoder" / "logs" / "metrics.csv").open() as stream:
        scores = [float(row["validation"]) for row in csv.DictReader(stream) if row["validation"]]
    best = first.record["best_validation"]
    assert best["score"] == min(scores) < 0.8 * scores[0]
    assert best["cities"] == {"city": {"loss": {"mae": best["score"], "unit": "1"}}}
    with pytest.raises(InputError, match="states and no forecast"):
        evaluate(first.model, city)
    second = fit([city], "step", tmp_path / "step", settings={"encoder": str(tmp_path / "encoder"), "width": "16"},
                 budget=Budget(steps=20), progress=False)
    described = json.loads((tmp_path / "step" / "model.json").read_text())["config"]
    assert described["encoder_settings"] == "minutes=120.0,tokens=12,resolution_minutes=60.0,width=16,heads=2,layers=1"
    (tmp_path / "encoder" / "model.json").unlink()
    again = Forecaster.from_pretrained(tmp_path / "step")
    scored = [evaluate(model, city).record["horizons"] for model in (second.model, again)]
    assert scored[0] == scored[1]


def test_the_validation_hides_the_same_each_time(make_city: MakeCity) -> None:
    from stgraph.train.settings import TrainingSettings
    from stgraph.train.validation import Validation

    city = make_city()
    model = encoder_of(city)
    settings = TrainingSettings(objectives=[(MASKED, 2.0)])
    validation = Validation([city], 8, model.capabilities.needs, judges=settings.make_objectives(model))
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = validation.score(model, 99)
    assert torch.equal(torch.rand(3), wanted)  # the noise of training is left as it was
    assert first.value == validation.score(model, 99).value
    single = Validation([city], 8, model.capabilities.needs,
                        judges=TrainingSettings(objectives=[(MASKED, 1.0)]).make_objectives(model))
    assert first.value == pytest.approx(2 * single.score(model, 99).value)


def test_what_does_not_fit_is_refused_by_name_and_writes_nothing(make_city: MakeCity, folder: Path,
                                                                 tmp_path: Path) -> None:
    city, out = make_city(), tmp_path / "run"
    quick: dict[str, Any] = {"budget": Budget(steps=2), "progress": False}

    def refused(match: str, model: str, settings: dict[str, str], **options: Any) -> None:
        with pytest.raises(InputError, match=match) as caught:
            fit([options.pop("city", city)], model, out, settings=settings, **quick, **options)
        assert caught.value.remedy
        assert not out.exists()

    named = {"encoder": str(folder)}
    refused("none is named", "step", {})
    refused("no such file", "step", {"encoder": str(tmp_path / "nowhere")})
    refused("cannot be the back-end", "step", named | {"backend": "slot_mean"})
    refused("cannot be the back-end", "step", named | {"backend": "step"})
    refused("cannot be the back-end", "step", named | {"backend": "step_encoder"})
    refused("unknown model", "step", named | {"backend": "no_such"})
    refused("no such setting", "step", named | {"backend_settings": "no_such=3"})
    refused("not a list of settings", "step", named | {"backend_settings": "layers"})
    refused("unknown choice", "step", named | {"graph": "perhaps"})
    refused("1 channel", "step", named, city=make_city(channels=2))
    refused("gives no forecast", "step_encoder", {}, objectives=[("mae", 1.0)])
    refused("cannot be trained by 'masked'", "stid", {}, objectives=[(MASKED, 1.0)])
    refused("do not fill one", "step_encoder", {"minutes": "20160", "resolution_minutes": "60"})
    step_of(city, folder).save_pretrained(tmp_path / "other")
    refused("is a 'step', not a 'step_encoder'", "step", {"encoder": str(tmp_path / "other")})
    with pytest.raises(TransductiveError, match="'stid' is transductive"):
        step_of(city, folder).check(make_city(nodes=4))
    with pytest.raises(InputError, match="horizon 3"):
        step_of(city, folder, backend="profile_mlp").check(make_city(horizon=4))


def test_an_encoder_that_saw_the_test_rows_is_refused(make_city: MakeCity, tmp_path: Path) -> None:
    manifest = {"split": {"fractions": [0.9, 0.05, 0.05]}, "data": [{"data_sha256": "abc"}]}
    encoder_of(make_city()).save_pretrained(tmp_path, manifest)
    city = make_city(sha256="abc")
    with pytest.raises(InputError, match="rows that are for validation or test here"):
        step_of(city, tmp_path)
    step_of(make_city(sha256="abc", fractions=(0.9, 0.05, 0.05), history=3), tmp_path)
    step_of(make_city(sha256="other"), tmp_path)


def test_settings_come_back_as_they_were() -> None:
    for config in (SMALL, StepEncoderConfig(), STEPConfig(width=3)):
        kind = STEP if isinstance(config, STEPConfig) else StepEncoder
        read = step_module._settings(step_module._words(config), "x")
        assert step_module.config_from(kind, read) == config


@pytest.fixture(scope="module")
def los(shared_data: Path) -> City:
    """Twelve sensors of Los Angeles for a week, every five minutes."""
    with np.load(shared_data / "los_loop" / "speed.npz") as data:
        table = data["speed_mph"][:, :12] * np.float32(0.44704)
    graph = DynamicHeteroGraph(time=TimeAxis(1_330_560_000, 300, len(table), "America/Los_Angeles"))
    graph["sensor"].node_id = np.arange(12).astype(str)
    graph.add_signal("sensor", "speed", Signal(table[..., None], (table > 0)[..., None], [Channel("speed")]))
    return City(graph, history=12, horizon=12)


def test_on_real_readings_both_losses_fall(los: City, tmp_path: Path) -> None:
    small = {"tokens": "24", "width": "32", "heads": "2", "layers": "1"}
    first = fit([los], "step_encoder", tmp_path / "encoder", settings=small, budget=Budget(steps=60), progress=False,
                batch_size=8, learning_rate=3e-3)
    with (tmp_path / "encoder" / "logs" / "metrics.csv").open() as stream:
        scores = [float(row["validation"]) for row in csv.DictReader(stream) if row["validation"]]
    assert min(scores) < 0.9 * scores[0]
    second = fit([los], "step", settings={"encoder": str(first.folder), "width": "32"}, budget=Budget(steps=40),
                 progress=False)
    window = los.window(range(*los.split.origins("test"), 20))
    with torch.no_grad():
        error = (second.model(window).mean - window.target).abs()[window.target_mask].mean()
    assert error < 0.9 * (los.context.mean[0] - window.target).abs()[window.target_mask].mean()
