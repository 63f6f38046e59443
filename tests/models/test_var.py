"""The vector autoregression recovers a known process, equals its formula, and refuses what does not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from stgraph.errors import InputError, TransductiveError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import Forecaster
from stgraph.models.var import VectorAutoregression, VectorAutoregressionConfig
from stgraph.windows import City

NODES = 4


def known_process(rows: int = 24 * 200, noise: float = 1.0) -> tuple[City, np.ndarray, np.ndarray]:
    """``x_t = 50 + x_{t-1} A + x_{t-2} B + noise`` with weak daily habits."""
    rng = np.random.default_rng(0)
    first = 0.3 * np.eye(NODES) + rng.uniform(-0.15, 0.15, (NODES, NODES))
    second = 0.2 * np.eye(NODES) + rng.uniform(-0.05, 0.05, (NODES, NODES))
    z = rng.normal(0, noise, (rows, NODES))
    for t in range(2, rows):
        z[t] += z[t - 1] @ first + z[t - 2] @ second
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, rows))
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(NODES)])
    graph.add_signal("sensor", "readings", Signal((50 + z).astype(np.float32)[..., None], None, [Channel("a")]))
    return City(graph, history=6, horizon=3), first, second


def fitted(city: City, **config) -> VectorAutoregression:
    model = VectorAutoregression.for_city(city, VectorAutoregressionConfig(**config))
    model.fit(city)
    return model


def test_a_known_process_is_recovered() -> None:
    city, first, second = known_process()
    model = fitted(city, order=2, ridge=1e-3)
    spread = city.context.spread[:, 0]
    scaled = spread[:, None] / spread[None]  # z is in spreads: A_ij of z times spread_j / spread_i is that of x
    found = model.coefficients.numpy() / np.concatenate([scaled, scaled])
    np.testing.assert_allclose(found, np.concatenate([first, second]), atol=0.06)
    assert np.abs(found - np.concatenate([first, second])).mean() < 0.02


def test_blocks_of_rows_add_up_to_ridge_regression(make_city, monkeypatch: pytest.MonkeyPatch) -> None:
    city = make_city(hidden=0.2)
    start, stop = city.split.rows("train")
    rows = np.arange(start, stop)
    z = np.where(city.signal.mask[rows], city.signal.values[rows] - city.context.profile(rows), 0)
    z = (z / city.context.spread)[..., 0].astype(np.float64)
    x = np.concatenate([z[1:-1], z[:-2]], 1)
    # ridge regression as plain least squares with rows of zeros that pull toward none
    stacked = np.concatenate([x, np.sqrt(30.0) * np.eye(x.shape[1])])
    wanted = np.concatenate([z[2:], np.zeros((x.shape[1], z.shape[1]))])
    expected = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
    for chunk in (2048, 17):
        monkeypatch.setattr("stgraph.models.var._CHUNK_ROWS", chunk)
        np.testing.assert_allclose(fitted(city, order=2, ridge=30.0).coefficients, expected, atol=1e-5)


def test_the_fit_reads_training_rows_only(make_city) -> None:
    clean, dirty = make_city(days=20), make_city(days=20)
    dirty.signal.values[dirty.split.rows("train")[1] :] = np.nan
    assert torch.equal(fitted(clean).coefficients, fitted(dirty).coefficients)


def test_steps_are_iterated_by_hand(make_city) -> None:
    city = make_city(channels=2)
    model = fitted(city, order=2, ridge=5.0)
    window = city.window([150, 200], model.capabilities.needs)
    spread = city.context.spread
    z = np.where(window.mask, (window.values - window.profile_past).numpy() / spread, 0).reshape(2, 6, -1)
    states = [z[:, -2], z[:, -1]]
    own = model.coefficients.numpy()
    for _ in range(3):
        states.append(np.concatenate([states[-1], states[-2]], 1) @ own)
    expected = np.stack(states[2:], 1).reshape(2, 3, *spread.shape) * spread + window.profile_future.numpy()
    np.testing.assert_allclose(model(window).mean, expected, rtol=1e-4)


def test_an_endless_ridge_gives_the_profile(make_city) -> None:
    city = make_city()
    window = city.window([150], frozenset({"profile"}))
    torch.testing.assert_close(fitted(city, ridge=1e12).forward(window).mean, window.profile_future, rtol=1e-4,
                               atol=1e-4)


def test_it_beats_the_profile_on_a_process_with_memory() -> None:
    city, *_ = known_process()
    model = fitted(city)
    window = city.window(np.arange(4000, 4500), model.capabilities.needs)
    error = (model(window).mean - window.target).abs()[:, 0].mean()
    assert error < 0.93 * (window.profile_future - window.target).abs()[:, 0].mean()


def test_saved_and_read_it_answers_the_same(make_city, tmp_path) -> None:
    city = make_city()
    model = fitted(city)
    model.save_pretrained(tmp_path)
    window = city.window([150], model.capabilities.needs)
    read = Forecaster.from_pretrained(tmp_path)
    assert isinstance(read, VectorAutoregression)
    assert torch.equal(read(window).mean, model(window).mean)


def test_another_network_is_refused(make_city) -> None:
    model = fitted(make_city())
    assert not model.capabilities.inductive
    assert model.capabilities.training == "closed_form"
    with pytest.raises(TransductiveError, match="'var' is transductive"):
        model.check(make_city(nodes=5))


@pytest.mark.parametrize(("config", "field", "words"), [
    ({"order": 7}, "order", "within the history"),
    ({"order": 0}, "order", "within the history"),
    ({"ridge": 0.0}, "ridge", "must be positive"),
])
def test_settings_out_of_range_are_refused(make_city, config: dict, field: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        fitted(make_city(), **config)
    assert caught.value.field == field


def test_a_network_too_large_is_refused_before_memory_is_taken(make_city) -> None:
    model = VectorAutoregression.for_city(make_city())
    with pytest.raises(InputError, match="3 x 100000 = 300000 inputs") as caught:
        VectorAutoregression(model.config, dataclasses.replace(model.sizes, nodes=100_000))
    assert caught.value.field == "order"
    assert "lower the order" in caught.value.remedy
