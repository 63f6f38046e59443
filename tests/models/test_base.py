"""The contract: what is saved is what is loaded, and what cannot be answered is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stgraph.errors import InputError, TransductiveError
from stgraph.models import CONTROLS, Forecaster, config_from, model_class, model_names
from stgraph.windows import City

ON_TRAINED = ("step_encoder", "step")  # the one gives no forecast, the other builds on it: see test_step


@pytest.mark.parametrize("name", [name for name in model_names() if name not in ON_TRAINED])
def test_every_model_keeps_the_contract(name: str, make_city: Callable[..., City], tmp_path: Path) -> None:
    city = make_city(channels=2)
    kind = model_class(name)
    assert kind.name == name
    model = kind.for_city(city).eval()
    model.fit(city)
    window = city.window([150, 170], model.capabilities.needs)
    with torch.inference_mode():
        answer = model(window).mean
    assert answer.shape == (2, city.horizon, city.num_nodes, 2)
    assert torch.isfinite(answer).all()
    window.values = torch.where(window.mask, window.values, 1e4)  # what was not observed may hold anything
    with torch.inference_mode():
        assert torch.equal(model(window).mean, answer)
    model.save_pretrained(tmp_path, {"seed": 3})
    again = Forecaster.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(window).mean, answer)
    assert json.loads((tmp_path / "model.json").read_text())["manifest"] == {"seed": 3}


@pytest.mark.parametrize("name", [name for name in model_names() if name not in CONTROLS])
def test_shapes_of_inductive_models_do_not_depend_on_the_city(name: str, make_city: Callable[..., City]) -> None:
    kind = model_class(name)
    if not kind.describe(kind.Config()).inductive:
        pytest.skip("transductive: it has a table of nodes")
    small, large = (kind.for_city(make_city(nodes=n)).state_dict() for n in (3, 11))
    assert {key: value.shape for key, value in small.items()} == {key: value.shape for key, value in large.items()}


def test_another_network_is_refused_by_name(make_city: Callable[..., City]) -> None:
    model = model_class("stid").for_city(make_city(nodes=4))
    with pytest.raises(TransductiveError, match="'stid' is transductive") as caught:
        model.check(make_city(nodes=5))
    assert "profile_mlp" in str(caught.value)
    model_class("profile_mlp").for_city(make_city(nodes=4)).check(make_city(nodes=5))


def test_another_number_of_channels_or_another_window_is_refused(make_city: Callable[..., City]) -> None:
    model = model_class("stid").for_city(make_city())
    for options, field in (({"channels": 2}, "channels"), ({"history": 8}, "history"), ({"horizon": 2}, "horizon")):
        with pytest.raises(InputError) as caught:
            model.check(make_city(**options))
        assert caught.value.field == field
        assert caught.value.remedy


def _damage(folder: Path, how: str) -> None:
    card, weights = folder / "model.json", folder / "weights.safetensors"
    value = json.loads(card.read_text())
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "flipped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif how == "missing":
        weights.unlink()
    elif how == "no json":
        card.write_text("{")
    elif how == "newer":
        card.write_text(json.dumps(value | {"version": 99}))
    elif how == "other format":
        card.write_text(json.dumps(value | {"format": "pickle"}))
    elif how == "unknown model":
        card.write_text(json.dumps(value | {"model": "os:system"}))
    elif how == "other sizes":
        card.write_text(json.dumps(value | {"sizes": value["sizes"] | {"history": 7}}))


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "no json", "newer", "other format",
                                 "unknown model", "other sizes"])
def test_damaged_weights_are_refused_with_the_file(how: str, make_city: Callable[..., City], tmp_path: Path) -> None:
    model_class("stid").for_city(make_city()).save_pretrained(tmp_path)
    _damage(tmp_path, how)
    with pytest.raises(InputError) as caught:
        Forecaster.from_pretrained(tmp_path)
    assert caught.value.remedy
    assert caught.value.file or how == "unknown model"


def test_settings_are_converted_or_refused() -> None:
    kind = model_class("stid")
    config = config_from(kind, {"width": "48", "node_table": "false", "dropout": "0.5"})
    assert (config.width, config.node_table, config.dropout) == (48, False, 0.5)
    for settings, field in (({"widht": 3}, "widht"), ({"width": "wide"}, "width"), ({"node_table": "maybe"},
                                                                                     "node_table")):
        with pytest.raises(InputError) as caught:
            config_from(kind, settings)
        assert caught.value.field == field
    with pytest.raises(InputError, match="unknown model"):
        model_class("best_model")


def test_networks_that_were_only_numbered_are_told_apart_by_their_places(make_city: Callable[..., City]) -> None:
    cities = [make_city(seed=seed) for seed in (0, 0, 1)]
    for city in cities:
        city.graph["sensor"].node_id = np.array([str(i) for i in range(city.num_nodes)])
    model = model_class("stid").for_city(cities[0])
    model.check(cities[1])
    with pytest.raises(TransductiveError):
        model.check(cities[2])
