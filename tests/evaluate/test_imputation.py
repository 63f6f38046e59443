"""Gaps are what was asked for, nothing hidden reaches a way, and fills equal slow references."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from stgraph.cli.main import app
from stgraph.errors import InputError
from stgraph.evaluate.imputation import (
    PLAIN,
    by_covariance,
    by_line,
    by_mean,
    by_profile,
    draw_gaps,
    fill,
    of_departures,
    score_gaps,
    with_gaps,
)
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, load, save
from stgraph.models import Capabilities, Forecaster, Sizes, model_class
from stgraph.windows import City, Window

MPH = 0.44704


def readings(nodes: int = 6, days: int = 20, channels: int = 1, hidden: float = 0.1, noise: float = 1.0,
             seed: int = 0) -> DynamicHeteroGraph:
    """Hourly readings with a daily wave, noise that places share, and gaps; in a valley of sensors."""
    rng = np.random.default_rng(seed)
    rows = np.arange(24 * days)
    wave = 10 * np.sin(2 * np.pi * rows / 24)[:, None, None] + rng.uniform(20, 40, (1, nodes, channels))
    shared = rng.normal(size=(len(rows), 1, channels))
    values = wave + noise * (shared + 0.5 * rng.normal(size=(len(rows), nodes, channels)))
    mask = rng.random(values.shape) >= hidden
    graph = DynamicHeteroGraph(time=TimeAxis(1_709_510_400, 3600, len(rows)), metadata={"name": "valley"})
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(nodes)])
    graph["sensor"].lonlat = torch.from_numpy(np.stack([np.linspace(11, 11.1, nodes), np.full(nodes, 48.0)], 1))
    graph.add_signal("sensor", "readings", Signal(
        np.where(mask, values * MPH, 0).astype(np.float32), mask,
        [Channel(f"speed {i}", "speed", "mph") for i in range(channels)]))
    return graph


def city(history: int = 6, **options: Any) -> City:
    return City(readings(**options), history=history, horizon=2)


@dataclass
class NoConfig:
    pass


class Neighbourly(Forecaster):
    """Fills a gap with the mean of all that its window shows, plus how far into the window the step lies."""

    name = "neighbourly"
    Config = NoConfig

    def __init__(self, config: NoConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    @classmethod
    def describe(cls, config: NoConfig) -> Capabilities:
        return Capabilities(inductive=True, needs=frozenset({"profile"}))

    def reconstruct(self, window: Window, hidden: Tensor) -> Tensor:
        self.asked.append((window.origin, window.mask, hidden))
        mean = window.values.sum((1, 2, 3), keepdim=True) / window.mask.sum((1, 2, 3), keepdim=True)
        step = torch.arange(window.values.shape[1], dtype=torch.float32)[:, None, None]
        return (mean + 1000 * step).expand(window.values.shape)


# -------------------------------------------------------------------- gaps
def test_gaps_hide_the_stated_share_of_what_was_observed() -> None:
    observed = np.random.default_rng(0).random((500, 7, 2)) > 0.3
    for kind, length in (("random", 1), ("block", 12)):
        gap, = draw_gaps(kind, observed, 0.2, length=length, seed=3)
        assert gap.sum() == round(0.2 * observed.sum())
        assert not (gap & ~observed).any()
        assert np.array_equal(gap, draw_gaps(kind, observed, 0.2, length=length, seed=3)[0])
        assert not np.array_equal(gap, draw_gaps(kind, observed, 0.2, length=length, seed=4)[0])


def test_blocks_are_long_runs_of_one_series() -> None:
    observed = np.ones((2400, 5, 1), bool)
    gap, = draw_gaps("block", observed, 0.2, length=12, seed=0)
    bounds = np.flatnonzero(np.diff(np.pad(gap[:, 2, 0], 1).astype(int))).reshape(-1, 2)
    length = np.diff(bounds, axis=1)[:, 0]
    assert (length % 12 == 0).mean() > 0.9  # one may be cut to the count, and one at each end of the rows
    assert not np.array_equal(gap[:, 0], gap[:, 1])


@pytest.mark.parametrize(("nodes", "rate", "folds"), [(16, 0.25, 4), (7, 0.25, 4), (5, 0.5, 2), (2, 0.1, 2)])
def test_each_sensor_is_dead_once(nodes: int, rate: float, folds: int) -> None:
    observed = np.random.default_rng(0).random((40, nodes, 1)) > 0.2
    masks = draw_gaps("dead", observed, rate, seed=5)
    assert len(masks) == folds
    assert np.array_equal(np.sum(masks, 0), observed.astype(int))
    for gap in masks:
        dead = gap.any(0)
        assert np.array_equal(gap, observed & dead)


def test_bad_gaps_are_refused() -> None:
    observed = np.ones((10, 4, 1), bool)
    for kind, rate in (("holes", 0.2), ("random", 0.0), ("block", 1.5), ("dead", 0.8)):
        with pytest.raises(InputError):
            draw_gaps(kind, observed, rate)


def test_a_hidden_reading_is_known_to_no_way() -> None:
    """Whatever stands where something is hidden, all ways give the same, and leave what was observed."""
    whole = city(channels=2)
    first, last = whole.split.rows("test")
    hidden = np.zeros(whole.signal.shape, bool)
    hidden[first:last] = draw_gaps("block", whole.signal.mask[first:last], 0.3, length=9, seed=0)[0]
    hidden[first:last, 2] |= whole.signal.mask[first:last, 2]  # and a dead sensor
    hidden[5:9, 1] = whole.signal.mask[5:9, 1]  # in the fitted rows too
    torch.manual_seed(0)
    ways = {**PLAIN, "model": partial(fill, Neighbourly.for_city(whole)), "encoder": partial(fill, encoder(whole))}
    answers: list[dict[str, np.ndarray]] = []
    for junk in (0.0, 1e5):
        other = city(channels=2)
        other.signal.values[hidden] += np.float32(junk)
        gapped = with_gaps(other, hidden)
        answers.append({name: way(gapped, first, last) for name, way in ways.items()})
    kept = whole.signal.mask[first:last] & ~hidden[first:last]
    for name in ways:
        assert np.array_equal(answers[0][name], answers[1][name]), name
        assert np.isfinite(answers[0][name]).all(), name
        assert np.array_equal(answers[0][name][kept], whole.signal.values[first:last][kept]), name
        assert answers[0][name].shape == (last - first, 6, 2)


def test_with_gaps_leaves_the_city_as_it_was() -> None:
    whole = city()
    before = whole.signal.values.copy(), whole.signal.mask.copy(), whole.context.level.copy()
    gapped = with_gaps(whole, np.ones(whole.signal.shape, bool) & (np.arange(6) == 3)[:, None])
    assert not gapped.signal.mask[:, 3].any()
    assert all(np.array_equal(a, b) for a, b in zip(before, (whole.signal.values, whole.signal.mask,
                                                             whole.context.level), strict=True))


# -------------------------------------------------------------------- models
@pytest.mark.parametrize(("first", "last", "history"), [(0, 480, 6), (100, 131, 6), (100, 106, 6), (7, 100, 5),
                                                        (3, 60, 1)])
def test_a_fill_comes_from_the_window_in_whose_middle_the_gap_lies(first: int, last: int, history: int) -> None:
    given = city(history)
    model = Neighbourly.for_city(given)
    found = fill(model, given, first, last, batch_size=3)
    values, mask = given.signal.read(first, last)
    assert np.array_equal(found[mask], values[mask])
    starts = sorted({*range(first, last - history, max(1, history // 2)), last - history})
    for row in np.flatnonzero(~mask.all((1, 2))):
        centre = {start: abs(first + row - (start + (history - 1) / 2)) for start in starts}
        best = {start for start in starts if centre[start] == min(centre.values())}
        wanted = []
        for start in best:
            shown, seen = given.signal.read(start, start + history)
            wanted.append(shown[seen].mean() + 1000 * (first + row - start))
        for got in found[row][~mask[row]]:
            assert any(got == pytest.approx(one, rel=1e-5) for one in wanted)
    for origin, seen, hidden in model.asked:
        assert torch.equal(hidden, ~seen)
        assert first + history <= int(origin.min()) <= int(origin.max()) <= last


def encoder(given: City) -> Forecaster:
    kind = model_class("step_encoder")
    config = kind.Config(tokens=24, resolution_minutes=60.0, width=8, heads=1, layers=1, dropout=0.0)
    return kind.for_city(given, config).eval()


def test_a_model_of_states_fills_windows_of_its_long_history() -> None:
    given = city(channels=1)
    torch.manual_seed(0)
    model = encoder(given)
    found = fill(model, given, 48, 120)
    _, mask = given.signal.read(48, 120)
    window = given.long_window([48 + 24], 24 * 60.0)
    with torch.inference_mode():
        wanted = model.reconstruct(window, ~window.mask)[0].numpy()
    rows = slice(0, 18)  # the middle between the first two windows
    np.testing.assert_allclose(found[rows][~mask[rows]], wanted[rows][~mask[rows]], rtol=1e-4, atol=1e-4)


def test_models_and_rows_that_do_not_fit_are_refused() -> None:
    given = city()
    with pytest.raises(InputError, match="does not offer reconstruct"):
        fill(model_class("last_value").for_city(given), given)
    with pytest.raises(InputError, match="windows of 6 steps"):
        fill(Neighbourly.for_city(given), given, 0, 5)
    graph = readings()
    del graph["sensor"].lonlat
    with pytest.raises(InputError, match="coordinates"):
        PLAIN["kriging"](City(graph, history=6, horizon=2), 0, 50)


# -------------------------------------------------------------------- plain ways
def test_a_line_in_time_by_hand() -> None:
    graph = readings(nodes=3, hidden=0.0)
    signal = graph.signal("sensor")
    signal.values[100:110, 0, 0] = [1, 0, 0, 4, 0, 0, 0, 8, 0, 0]
    signal.mask[100:110, 0, 0] = [1, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    signal.values[100:110, 1, 0] = [0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
    signal.mask[100:110, 1, 0] = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    signal.mask[100:110, 2, 0] = False
    given = City(graph, history=6, horizon=2)
    found = by_line(given, 100, 110)
    assert found[:, 0, 0] == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8, 8, 8])
    assert (found[:, 1, 0] == 5).all()
    assert found[:, 2, 0] == pytest.approx(given.context.level[2, 0])
    assert by_mean(given, 100, 110)[1, 0, 0] == pytest.approx(given.context.level[0, 0])


def test_departures_give_a_perfect_day_back() -> None:
    """Readings that repeat every day depart from nothing; a line through the readings themselves cuts the corners."""
    given = city(noise=0.0, hidden=0.3)
    truth = city(noise=0.0, hidden=0.0).signal.values
    first, last = given.split.rows("test")
    gaps = ~given.signal.mask[first:last]
    for way in (by_line, by_mean, by_covariance):
        found = of_departures(way)(given, first, last)
        np.testing.assert_allclose(found[gaps], truth[first:last][gaps], rtol=1e-3)
    assert np.abs(by_line(given, first, last) - truth[first:last])[gaps].max() > 0.5
    np.testing.assert_allclose(by_profile(given, first, last)[gaps], truth[first:last][gaps], rtol=1e-3)


def test_neighbours_that_share_their_noise_tell_what_a_dead_sensor_would_show() -> None:
    given = city(noise=3.0, days=60)
    first, last = given.split.rows("test")
    dead = draw_gaps("dead", given.signal.mask[first:last], 0.25, seed=0)
    found = score_gaps(PLAIN, given, dead)
    profile = found["profile"]["mae"]
    assert found["kriging, departures"]["mae"] < 0.7 * profile
    assert found["covariance, departures"]["mae"] < 0.7 * profile
    assert found["line in time"]["mae"] == pytest.approx(found["mean"]["mae"])  # nothing to draw a line between
    assert found["line in time, departures"]["mae"] == pytest.approx(profile)


# -------------------------------------------------------------------- scores
def test_scores_equal_a_loop_in_the_unit_of_the_source() -> None:
    given = city(channels=2)
    first, last = given.split.rows("test")
    gaps = draw_gaps("dead", given.signal.mask[first:last], 0.5, seed=1)
    found = score_gaps({"mean": by_mean}, given, gaps)["mean"]
    errors = []
    for gap in gaps:
        for row, node, channel in np.argwhere(gap):
            errors.append((given.signal.values[first + row, node, channel] - given.context.level[node, channel]) / MPH)
    assert found["count"] == len(errors) == given.signal.mask[first:last].sum()
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert found["rmse"] == pytest.approx(np.square(errors).mean() ** 0.5, rel=1e-5)
    total, count = np.sum(list(found["daily"].values()), 0)
    assert (total / count, count) == (pytest.approx(found["mae"]), len(errors))


# -------------------------------------------------------------------- the command line
def _run(*words: object) -> dict[str, Any]:
    """The JSON object of a verb, or the parts of its refusal."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    if isinstance(done.exception, InputError):
        return {"error": done.exception.as_dict()}
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout.splitlines()[-1])


def test_a_filled_bundle_says_what_was_filled(tmp_path: Path) -> None:
    graph = readings(channels=2, hidden=0.2)
    graph.signal("sensor").mask[:, 4] = False  # a sensor that never showed anything
    save(graph, tmp_path / "valley.stg")
    given = City.open(tmp_path / "valley.stg", channels=["speed 1"], history=6, horizon=2)
    torch.manual_seed(0)
    encoder(given).save_pretrained(tmp_path / "run", {"channels": ["speed 1"]})
    told = _run("impute", "--model", tmp_path / "run", "--data", tmp_path / "valley.stg", "--out",
                tmp_path / "filled.stg")
    before, after = graph.signal("sensor"), load(tmp_path / "filled.stg").signal("sensor")
    gaps = ~before.mask[..., 1]
    assert told["entries"] == gaps.sum()
    assert told["silent_sensors"] == 1
    assert after.mask[..., 1].all()
    assert np.array_equal(after.mask[..., 0], before.mask[..., 0])
    assert np.array_equal(np.where(before.mask, after.values, 0), np.where(before.mask, before.values, 0))
    assert np.isfinite(after.values).all()
    filled = load(tmp_path / "filled.stg")
    table = filled.table("filled").to_pandas()
    marked = np.zeros_like(gaps)
    for node, row, last, steps in zip(table["node"], table["first"], table["last"], table["steps"], strict=True):
        begin, end = ((int(t.timestamp()) - graph.time.start) // 3600 for t in (row, last))
        assert end - begin + 1 == steps
        assert not marked[begin : end + 1, int(node[1:])].any()
        marked[begin : end + 1, int(node[1:])] = True
    assert len(table) == told["runs"]
    assert np.array_equal(marked, gaps)
    assert filled.metadata["filled"][0]["data_sha256"] == told["data_sha256"]
    assert set(table["channel"]) == {"speed 1"}
    again = _run("impute", "--model", tmp_path / "run", "--data", tmp_path / "filled.stg", "--channels", "speed 0",
                 "--out", tmp_path / "both.stg")
    both = load(tmp_path / "both.stg")
    assert both.signal("sensor").mask is None  # nothing is missing
    assert len(both.metadata["filled"]) == 2
    assert both.table("filled").num_rows == told["runs"] + again["runs"]


def test_impute_refuses_what_cannot_be(tmp_path: Path) -> None:
    save(readings(), tmp_path / "valley.stg")
    given = City.open(tmp_path / "valley.stg", history=6, horizon=2)
    model_class("profile_mlp").for_city(given).save_pretrained(tmp_path / "run")
    words = ("impute", "--model", tmp_path / "run", "--data", tmp_path / "valley.stg", "--out")
    assert "reconstruct" in _run(*words, tmp_path / "filled.stg")["error"]["message"]
    assert _run(*words, tmp_path / "valley.stg")["error"]["field"] == "out"
    assert _run(*words, tmp_path / "filled.parquet")["error"]["field"] == "out"
    assert not (tmp_path / "filled.stg").exists()
