"""STAEformer: counts of the paper, its layer against PyTorch's, and a table of steps and nodes that ties it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stgraph.errors import InputError, TransductiveError
from stgraph.models import Forecaster, Sizes
from stgraph.models.staeformer import Layer, STAEformer, STAEformerConfig
from stgraph.objectives import MaskedRegression
from stgraph.sources.sensors import build_sensors
from stgraph.windows import City, Window

MakeCity = Callable[..., City]


def small(**changes: Any) -> STAEformerConfig:
    sizes = {"input_width": 8, "slot_width": 4, "weekday_width": 4, "adaptive_width": 16, "layers": 1, "hidden": 32}
    return STAEformerConfig(**(sizes | changes))


def model_for(city: City, **changes: Any) -> STAEformer:
    torch.manual_seed(0)
    model = STAEformer.for_city(city, small(**changes)).eval()
    assert isinstance(model, STAEformer)
    return model


@pytest.mark.parametrize(("nodes", "expected"), [(207, 1_258_980), (325, 1_372_260), (307, 1_354_980),
                                                 (170, 1_223_460)], ids=["METR-LA", "PEMS-BAY", "PEMS04", "PEMS08"])
def test_parameter_counts_are_those_of_the_paper(nodes: int, expected: int) -> None:
    with torch.device("meta"):
        model = STAEformer(STAEformerConfig(), Sizes(1, 12, 12, 288, nodes=nodes, network="x"))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@torch.no_grad()
def test_a_layer_is_a_post_norm_encoder_layer() -> None:
    torch.manual_seed(0)
    layer = Layer(16, small(heads=2)).eval()
    twin = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    twin.load_state_dict({
        "self_attn.in_proj_weight": layer.attention.qkv.weight, "self_attn.in_proj_bias": layer.attention.qkv.bias,
        **{f"{theirs}.{kind}": getattr(ours, kind) for theirs, ours in (
            ("self_attn.out_proj", layer.attention.out), ("linear1", layer.mlp[0]), ("linear2", layer.mlp[2]),
            ("norm1", layer.norm_attention), ("norm2", layer.norm_mlp)) for kind in ("weight", "bias")}})
    h = torch.randn(3, 6, 5, 16)                                                       # six tokens, five groups
    expected = torch.stack([twin(h[:, :, group]) for group in range(5)], 2)
    torch.testing.assert_close(layer(h), expected, rtol=1e-5, atol=1e-5)


def test_another_order_of_nodes_and_embedding_permutes_the_forecast(make_city: MakeCity) -> None:
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    city, other = make_city(), make_city(order=order)
    model, twin = model_for(city), model_for(other)
    weights = model.state_dict()
    twin.load_state_dict(weights | {"adaptive": weights["adaptive"][:, order]})
    forecast, permuted = (one(place.window([30, 90])).mean for one, place in ((model, city), (twin, other)))
    torch.testing.assert_close(permuted, forecast[:, :, order], rtol=1e-4, atol=1e-4)


def test_every_step_of_every_node_is_heard_by_all_others(make_city: MakeCity) -> None:
    city = make_city(channels=2)
    model = model_for(city)
    window = city.window([30])
    before = model(window).mean
    assert before.shape == (1, 3, 7, 2)
    for step in (0, 5):
        values = window.values.clone()
        values[:, step, 4] += 10
        window.mask[:, step, 4] = True
        assert ((model(replace(window, values=values)).mean - before).abs().amax((0, 1, 3)) > 0).all()


def test_the_clock_of_every_step_is_read(make_city: MakeCity) -> None:
    city = make_city()
    model = model_for(city)
    window = city.window([30])
    before = model(window).mean
    for field in ("slot", "weekday"):
        index = getattr(window.past, field).clone()
        index[:, 1] = (index[:, 1] + 2) % 7
        assert not torch.equal(model(replace(window, past=replace(window.past, **{field: index}))).mean, before)


def test_what_was_not_observed_has_no_influence(make_city: MakeCity) -> None:
    city = make_city()
    model = model_for(city)
    window = city.window(range(30, 60))
    hidden = replace(window, values=torch.where(window.mask, window.values, 1e6))
    assert not window.mask.all()
    assert torch.equal(model(window).mean, model(hidden).mean)


def test_forecasts_are_in_the_unit_of_the_readings(make_city: MakeCity) -> None:
    """A head that gives 0 means the mean of the training rows, channel by channel."""
    city = make_city(channels=2)
    model = model_for(city)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    mean = model(city.window([30])).mean
    torch.testing.assert_close(mean, torch.from_numpy(city.context.mean).expand_as(mean))


def test_saved_and_read_again_it_answers_bit_by_bit_the_same(make_city: MakeCity, tmp_path: Path) -> None:
    city = make_city()
    model = model_for(city)
    model.train()(city.window([30, 90]))                                               # two days of the week are seen
    model.eval().save_pretrained(tmp_path)
    window = city.window(range(30, 100))
    assert torch.equal(model(window).mean, Forecaster.from_pretrained(tmp_path)(window).mean)


def losses_of(model: STAEformer, windows: list[Window], steps: int) -> list[float]:
    optimizer, objective, losses = torch.optim.Adam(model.parameters(), 5e-3), MaskedRegression(), []
    for step in range(steps):
        optimizer.zero_grad()
        (loss,) = objective(model.train(), windows[step % len(windows)]).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_learns_eight_windows_by_heart(make_city: MakeCity) -> None:
    city = make_city()
    losses = losses_of(model_for(city, dropout=0.0), [city.window(range(40, 120, 10))], 150)
    assert losses[-1] < 0.1 * losses[0]


def test_it_learns_from_real_readings(shared_data: Path) -> None:
    graph, _ = build_sensors(shared_data / "los_loop/speed.npz", key="speed_mph", ids_key="sensor_id",
                             locations=shared_data / "los_loop/sensors.csv", quantity="speed", unit="mph",
                             interval="5min", start="2012-03-01T00:00", tz="America/Los_Angeles")
    city = City(graph)
    origins = np.random.default_rng(0).permutation(np.arange(*city.split.origins("train")))
    losses = losses_of(model_for(city), [city.window(origins[2 * i : 2 * i + 2]) for i in range(25)], 25)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_other_nodes_and_other_windows_are_refused(make_city: MakeCity) -> None:
    model = model_for(make_city())
    assert not model.capabilities.inductive
    with pytest.raises(TransductiveError, match="'staeformer' is transductive"):
        model.check(make_city(nodes=5))
    with pytest.raises(InputError, match="trained with history 6"):
        model.check(make_city(history=8))
    for changes, field in (({"heads": 3}, "heads"), ({"layers": 0}, "layers")):
        with pytest.raises(InputError) as caught:
            model_for(make_city(), **changes)
        assert caught.value.field == field
