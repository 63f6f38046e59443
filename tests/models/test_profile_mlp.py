"""The profile MLP: no shape depends on the city, units and labels do not matter, and it learns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import Forecaster
from stgraph.models.profile_mlp import ProfileMLP, ProfileMLPConfig
from stgraph.objectives import MaskedRegression
from stgraph.windows import City, TrainingBatches, Window

NEEDS = frozenset({"profile"})


def random_model(city: City, seed: int = 0) -> ProfileMLP:
    """A model with every weight drawn at random, so that each input matters."""
    torch.manual_seed(seed)
    model = ProfileMLP.for_city(city, ProfileMLPConfig(width=16))
    torch.nn.init.normal_(model.outside.weight, std=0.3)
    torch.nn.init.normal_(model.outside.bias, std=0.3)
    return model.eval()


def answer(model: ProfileMLP, window: Window) -> Tensor:
    with torch.no_grad():
        return model(window).mean


def with_signal(city: City, change: Callable[[np.ndarray], np.ndarray]) -> City:
    """The same city with other values where something was observed."""
    signal = city.signal
    graph = DynamicHeteroGraph(time=city.time)
    graph["sensor"].node_id = city.node_ids
    values = np.where(signal.mask, change(signal.values), 0).astype(np.float32)
    graph.add_signal("sensor", "readings", Signal(values, signal.mask, signal.channels))
    return City(graph, history=city.history, horizon=city.horizon)


def test_it_starts_from_the_mean_of_profile_and_last_value(make_city) -> None:
    city = make_city(hidden=0)
    window = city.window([100, 130], NEEDS)
    expected = (window.profile_future + window.values[:, -1:]) / 2
    torch.testing.assert_close(answer(ProfileMLP.for_city(city).eval(), window), expected)


def test_no_shape_depends_on_the_city(make_city) -> None:
    one = ProfileMLP.for_city(make_city(history=12, horizon=12))
    other = ProfileMLP.for_city(make_city(nodes=3, channels=2, days=20, history=12, horizon=12))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    assert sum(p.numel() for p in one.parameters()) == 122_136
    assert one.capabilities.inductive
    assert one.capabilities.needs == {"profile"}


def test_the_same_weights_run_on_another_city(make_city) -> None:
    """Other nodes, channels, interval and calendar; history and horizon stay."""
    model = random_model(make_city())
    rng = np.random.default_rng(0)
    time = TimeAxis(1_456_693_200, 1800, 36 * 20, "Asia/Shanghai", steps_per_day=36, weekdays_only=True)
    graph = DynamicHeteroGraph(time=time)
    graph["sensor"].node_id = np.array(["a", "b"])
    values = rng.uniform(0, 3000, (time.length, 2, 3)).astype(np.float32)
    graph.add_signal("sensor", "flow", Signal(values, None, [Channel(name) for name in "abc"]))
    city = City(graph, history=6, horizon=3)
    model.check(city)
    found = answer(model, city.window([100, 200, 720 - 3], NEEDS))
    assert found.shape == (3, 3, 2, 3)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("options", [{"history": 7}, {"horizon": 4}])
def test_another_window_is_refused(make_city, options: dict) -> None:
    with pytest.raises(InputError, match="was trained with") as caught:
        random_model(make_city()).check(make_city(**options))
    assert caught.value.field == next(iter(options))


def test_relabelling_nodes_permutes_the_answer(make_city) -> None:
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    city, shuffled = make_city(), make_city(order=order)
    model = random_model(city)
    one, other = (answer(model, place.window([100, 130], NEEDS)) for place in (city, shuffled))
    torch.testing.assert_close(other, one[:, :, order])


def test_series_are_answered_one_by_one(make_city) -> None:
    """What a node or a channel shows now changes nothing elsewhere; a channel alone is answered as among others."""
    city = make_city(channels=2)
    model = random_model(city)
    window = city.window([100], NEEDS)
    before = answer(model, window)
    window.values[:, :, 3, 1] += 7.0
    changed = (answer(model, window) != before).any(1)[0]
    assert changed[3, 1]
    assert changed.sum() == 1
    alone = City(city.graph, channels=["speed 1"], history=6, horizon=3)
    torch.testing.assert_close(answer(model, alone.window([100], NEEDS)), before[..., 1:])


def test_units_do_not_matter(make_city) -> None:
    """Readings ``a * x + b`` are forecast as ``a * forecast + b``."""
    city = make_city()
    other = with_signal(city, lambda x: 3.6 * x + 40)
    model = random_model(city)
    one, two = (answer(model, place.window([50, 130], NEEDS)) for place in (city, other))
    torch.testing.assert_close(two, 3.6 * one + 40, rtol=1e-3, atol=1e-2)


def test_what_was_not_observed_does_not_matter(make_city) -> None:
    city = make_city(hidden=0.4)
    window = city.window([100], NEEDS)
    model = random_model(city)
    before = answer(model, window)
    window.values[~window.mask] = 1e9
    assert torch.equal(answer(model, window), before)


def test_nothing_observed_leaves_the_profile(make_city) -> None:
    city = make_city()
    window = city.window([100], NEEDS)
    window.mask[:] = False
    torch.testing.assert_close(answer(ProfileMLP.for_city(city).eval(), window), window.profile_future)
    assert torch.isfinite(answer(random_model(city), window)).all()


def test_dead_and_constant_nodes_give_finite_answers_and_gradients(make_city) -> None:
    city = make_city()
    city.signal.mask[:, 1] = False
    city.signal.values[:, 1] = 0
    city.signal.values[:, 2] = 5.0
    city.signal.mask[:, 2] = True
    model = random_model(city).train()
    loss = MaskedRegression("mae")(model, city.window([100, 110], NEEDS))["mae"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(answer(model.eval(), city.window([250], NEEDS))).all()


@pytest.mark.parametrize("kind", ["mae", "mse", "huber"])
def test_a_missing_target_pulls_nowhere(make_city, kind: str) -> None:
    city = make_city(hidden=0.5)
    model = random_model(city)
    window = city.window([100, 120], NEEDS)
    mean = model(window).mean.detach().requires_grad_()
    loss = MaskedRegression(kind)
    loss.loss(mean, window.target, window.target_mask).backward()
    assert (mean.grad[~window.target_mask] == 0).all()
    assert (mean.grad[window.target_mask] != 0).all()
    before = loss(model, window)[kind]
    window.target[~window.target_mask] = 1e9
    assert loss(model, window)[kind] == before


def test_a_short_training_beats_profile_and_last_value() -> None:
    """Departures from a daily wave that fade slowly: neither part of the answer is right alone."""
    rng = np.random.default_rng(0)
    rows, nodes = 24 * 60, 8
    departure = np.zeros((rows, nodes))
    for t in range(1, rows):
        departure[t] = 0.85 * departure[t - 1] + rng.normal(0, 1, nodes)
    wave = 6 * np.sin(np.arange(rows)[:, None] * 2 * np.pi / 24 + rng.uniform(0, 6, nodes))
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, rows))
    graph["sensor"].node_id = np.array([str(i) for i in range(nodes)])
    graph.add_signal("sensor", "x", Signal((30 + wave + departure).astype(np.float32)[..., None], None,
                                           [Channel("x")]))
    city = City(graph, history=6, horizon=3)
    torch.manual_seed(0)
    model = ProfileMLP.for_city(city, ProfileMLPConfig(width=24))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    objective = MaskedRegression("mae")
    batches = TrainingBatches([city], 32, 150, needs=NEEDS)
    for step in range(150):
        loss = objective(model, batches[step])["mae"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    window = city.window(np.arange(*city.split.origins("test")), NEEDS)
    errors = [(mean - window.target).abs().mean() for mean in (
        answer(model.eval(), window), window.profile_future, window.values[:, -1:].expand_as(window.target))]
    assert errors[0] < 0.95 * min(errors[1:])


def test_saved_and_read_it_answers_the_same(make_city, tmp_path) -> None:
    city = make_city()
    model = random_model(city)
    model.save_pretrained(tmp_path)
    read = Forecaster.from_pretrained(tmp_path)
    window = city.window([100], NEEDS)
    assert torch.equal(answer(read, window), answer(model, window))
