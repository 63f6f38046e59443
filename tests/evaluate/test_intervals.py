"""Intervals and scores of distributions: what the command line says equals what stands in the definitions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from stgraph.cli.main import app
from stgraph.errors import InputError
from stgraph.evaluate.conformal import ConformalQuantiles, SplitConformal
from stgraph.evaluate.intervals import CalibratedIntervals, evaluate_intervals
from stgraph.evaluate.predict import forecast
from stgraph.evaluate.probabilistic import (
    EmpiricalResiduals,
    GaussianResiduals,
    central_interval,
    crps_quantiles,
    predictions,
)
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, save
from stgraph.models import Capabilities, Forecaster, Sizes, model_class
from stgraph.windows import City, Forecast, Window

MPH = 0.44704
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def noisy(days: int = 30, nodes: int = 4, seed: int = 0) -> DynamicHeteroGraph:
    """Hourly readings whose noise is three times as large by day as by night; a tenth is missing."""
    rng = np.random.default_rng(seed)
    rows = np.arange(24 * days)
    size = np.where(rows % 24 < 12, 1.0, 3.0)[:, None, None]
    values = 40 + size * rng.normal(size=(len(rows), nodes, 1))
    mask = rng.random(values.shape) > 0.1
    graph = DynamicHeteroGraph(time=TimeAxis(1_709_510_400, 3600, len(rows)), metadata={"name": "noisy"})
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(nodes)])
    graph.add_signal("sensor", "speed", Signal(np.where(mask, values * MPH, 0).astype(np.float32), mask,
                                               [Channel("speed", "speed", "mph")]))
    return graph


def city(**options: Any) -> City:
    return City(noisy(**options), history=3, horizon=6)


@dataclass
class Config:
    levels: tuple[float, ...] = LEVELS
    samples: int = 0
    stretch: float = 1.0


class Knows(Forecaster):
    """The true distribution, stretched: normal about 40 mph, narrow by night and wide by day."""

    name = "knows"
    Config = Config

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)

    @classmethod
    def describe(cls, config: Config) -> Capabilities:
        return Capabilities(inductive=True, gives="samples" if config.samples else "quantiles")

    def forward(self, window: Window) -> Forecast:
        shape = (window.batch_size, window.horizon, *window.values.shape[2:])
        size = torch.where(window.future.minute < 720, 1.0, 3.0)[:, :, None, None] * self.config.stretch
        mean = torch.full(shape, 40 * MPH)
        if self.config.samples:
            z = torch.randn((self.config.samples, *shape), generator=torch.Generator().manual_seed(0))
            return Forecast(mean, samples=mean + MPH * size * z)
        z = math.sqrt(2) * torch.erfinv(2 * torch.tensor(self.config.levels, dtype=torch.float32) - 1)
        return Forecast(mean, mean[..., None] + MPH * size[..., None] * z, self.config.levels)


# -------------------------------------------------------------------- own intervals
def test_an_own_interval_lies_between_the_levels() -> None:
    quantiles = torch.tensor([[[[[0.0, 10.0, 20.0, 40.0, 80.0]]]]])
    answer = Forecast(quantiles[..., 2], quantiles, LEVELS)
    for level, wanted in ((0.9, (0, 80)), (0.5, (10, 40)), (0.7, (5, 60)), (0.2, (16, 28))):
        low, high = (float(bound) for bound in central_interval(answer, level))
        assert (low, high) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
    assert central_interval(answer, 0.95) is None
    assert central_interval(Forecast(quantiles[..., 2]), 0.9) is None
    samples = torch.arange(101.0).view(101, 1, 1, 1, 1)
    low, high = central_interval(Forecast(samples[0], samples=samples), 0.9)
    assert (float(low), float(high)) == (pytest.approx(5), pytest.approx(95))


def test_predictions_hold_the_crps_of_the_models_own_distribution() -> None:
    given = city()
    found = predictions(Knows.for_city(given), given, "test", level=0.5, batch_size=7)
    window = given.window(np.arange(given.split.origins("test")[0], given.split.origins("test")[0] + 5))
    answer = Knows.for_city(given)(window)
    torch.testing.assert_close(found.crps[:5], crps_quantiles(answer.quantiles, LEVELS, window.target))
    torch.testing.assert_close(found.high[:5], answer.quantiles[..., 3].double())
    sampled = predictions(Knows.for_city(given, Config(samples=300)), given, "test")
    assert sampled.crps[sampled.mask].mean() == pytest.approx(float(found.crps[found.mask].mean()), rel=0.06)
    assert predictions(model_class("last_value").for_city(given), given, "test").crps is None


# -------------------------------------------------------------------- conformalised quantiles
def test_the_correction_is_the_one_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    low = torch.from_numpy(rng.normal(-1, 1, (41, 2, 3, 1)))
    high = low + torch.from_numpy(rng.uniform(0, 3, low.shape))
    target = torch.from_numpy(rng.normal(0, 2, low.shape))
    mask = torch.from_numpy(rng.random(low.shape) > 0.3)
    band = ConformalQuantiles(0.8).fit(low, high, torch.where(mask, target, math.nan), mask).interval(low, high)
    for step in range(2):
        outside = sorted(torch.maximum(low - target, target - high)[:, step][mask[:, step]].tolist())
        correction = outside[math.ceil(round((len(outside) + 1) * 0.8, 9)) - 1]
        torch.testing.assert_close(band.low[:, step], low[:, step] - correction)
        torch.testing.assert_close(band.high[:, step], high[:, step] + correction)
    wide = ConformalQuantiles(0.8).fit(low - 50, high + 50, target, mask)
    assert (wide.quantile < -45).all()  # it narrows what is too wide
    crossed = wide.interval(low, low + 1)
    torch.testing.assert_close(crossed.low, low + 0.5)
    torch.testing.assert_close(crossed.high, low + 0.5)


@pytest.mark.parametrize("stretch", [0.4, 1.0, 2.5])
def test_calibrated_quantiles_cover_what_they_promise_and_know_day_from_night(stretch: float) -> None:
    given = city(days=90)
    model = Knows.for_city(given, Config(stretch=stretch))
    record = evaluate_intervals(model, given)["interval"]
    assert record["conformal_quantiles"]["all"]["coverage"] == pytest.approx(0.9, abs=0.02)
    assert record["split"]["all"]["coverage"] == pytest.approx(0.9, abs=0.02)
    own = 2 * 1.6449 * stretch * 2  # twice the deviation, which is 1 and 3 in equal parts
    assert record["own"]["all"]["width"] == pytest.approx(own, rel=0.02)
    if stretch == 1.0:
        assert record["own"]["all"]["coverage"] == pytest.approx(0.9, abs=0.02)
        assert record["conformal_quantiles"]["all"]["score"] < 0.97 * record["split"]["all"]["score"]
    else:
        assert abs(record["own"]["all"]["coverage"] - 0.9) > 0.05  # it was wrong before


# -------------------------------------------------------------------- the record
def test_the_record_equals_the_definitions_in_the_unit_of_the_source() -> None:
    given = city()
    model = Knows.for_city(given)
    record = evaluate_intervals(model, given, level=0.8)
    known, new = (predictions(model, given, part) for part in ("validation", "test"))
    band = SplitConformal(0.8).fit(known.residual, known.mask).interval(new.mean)
    inside = ((new.target >= band.low) & (new.target <= band.high))[new.mask].double()
    assert record["interval"]["split"]["all"]["coverage"] == pytest.approx(float(inside.mean()))
    width = ((band.high - band.low) / MPH)[:, 2][new.mask[:, 2]]
    assert record["interval"]["split"]["3"]["width"] == pytest.approx(float(width.mean()))
    assert set(record["interval"]["split"]) == {"3", "6", "all"}
    assert record["interval"]["unit"] == record["crps"]["unit"] == "mph"
    for name, kind in (("gaussian", GaussianResiduals), ("empirical", EmpiricalResiduals)):
        for by_node in (False, True):
            fitted = kind(by_node).fit(known.residual, known.mask) if name == "gaussian" else \
                kind(by_node, LEVELS).fit(known.residual, known.mask)
            score = fitted.crps(new.mean, new.target, LEVELS) if name == "gaussian" else \
                fitted.crps(new.mean, new.target)
            assert record["crps"][name + "_by_node" * by_node]["all"] == pytest.approx(
                float(score[new.mask].mean()) / MPH)
    assert record["crps"]["model"]["all"] < record["crps"]["gaussian"]["all"]  # it knows day from night
    assert record["crps"]["levels"] == list(LEVELS)
    point = evaluate_intervals(model_class("slot_mean").for_city(given), given)
    assert set(point["interval"]) == {"level", "unit", "calibrated_on", "split", "adaptive"}
    assert "model" not in point["crps"]
    assert point["crps"]["levels"] is None


@pytest.mark.parametrize("levels", [LEVELS, (0.5,), tuple((np.arange(19) + 1) / 20)])
def test_a_normal_at_some_levels_is_the_crps_of_its_quantiles(levels: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    residual = torch.from_numpy(rng.normal(0.5, 2, (300, 2, 3, 1)))
    mask = torch.ones_like(residual, dtype=torch.bool)
    for by_node in (False, True):
        normal = GaussianResiduals(by_node).fit(residual, mask)
        mean, target = torch.from_numpy(rng.normal(size=(2, 5, 2, 3, 1)))
        z = math.sqrt(2) * torch.erfinv(2 * torch.tensor(levels, dtype=torch.float64) - 1)
        quantiles = (mean + normal.bias)[..., None] + normal.deviation[..., None] * z
        torch.testing.assert_close(normal.crps(mean, target, levels), crps_quantiles(quantiles, levels, target))
    exact, many = (normal.crps(mean, target, given) for given in ((), ((np.arange(999) + 0.5) / 999).tolist()))
    torch.testing.assert_close(many, exact, rtol=5e-3, atol=1e-3)


def test_the_validation_part_cannot_judge_itself() -> None:
    given = city()
    with pytest.raises(InputError, match="cannot be scored on it"):
        evaluate_intervals(Knows.for_city(given), given, "validation")


# -------------------------------------------------------------------- forecasts
def test_a_forecast_carries_its_bounds_and_quantiles() -> None:
    given = city()
    model = Knows.for_city(given)
    intervals = CalibratedIntervals(model, given, 0.9)
    table = forecast(model, given, int(given.time.times()[-24 + 9]), intervals)  # 9 to 15 h
    assert {"low", "high", "q5", "q25", "q50", "q75", "q95"} <= set(table)
    assert (table["low"] < table["q50"]).all()
    assert (table["high"] > table["q50"]).all()
    night = table["time"].dt.hour < 12
    assert (table["high"] - table["low"])[night].max() < (table["high"] - table["low"])[~night].min()
    point = forecast(model_class("slot_mean").for_city(given), given)
    assert list(point) == ["sensor", "time", "horizon", "channel", "value", "unit"]


def test_the_command_line_gives_intervals(tmp_path: Path) -> None:
    save(noisy(days=90), tmp_path / "noisy.stg")
    words = ["--model", "slot_mean", "--data", str(tmp_path / "noisy.stg"), "--interval", "0.8", "--json"]
    done = CliRunner().invoke(app, ["evaluate", *words])
    assert done.exit_code == 0, done.exception
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["interval"]["split"]["all"]["coverage"] == pytest.approx(0.8, abs=0.05)
    assert record["crps"]["gaussian"]["all"] > 0
    assert "all steps" in done.stderr
    done = CliRunner().invoke(app, ["forecast", *words, "-o", str(tmp_path / "next.parquet")])
    assert done.exit_code == 0, done.exception
    table = pd.read_parquet(tmp_path / "next.parquet")
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    width = (table["high"] - table["low"])[table["horizon"] == 3]
    assert width.iloc[0] == pytest.approx(record["interval"]["split"]["3"]["width"], rel=1e-6)
