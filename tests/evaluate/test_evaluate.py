"""The evaluator equals a slow reference, on made-up and on real readings; forecasts continue the series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stgraph.errors import InputError
from stgraph.evaluate import evaluate
from stgraph.evaluate.predict import forecast, write_forecast
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import CONTROLS, model_class
from stgraph.windows import City


def _city(units: tuple[str, ...] = ("mph",), days: int = 21, nodes: int = 3) -> City:
    rng = np.random.default_rng(0)
    shape = (24 * days, nodes, len(units))
    values = rng.uniform(5, 30, shape).astype(np.float32)
    values[rng.random(shape) < 0.1] = 0  # true zeros
    mask = rng.random(shape) > 0.2
    values[~mask] = 0
    graph = DynamicHeteroGraph(time=TimeAxis(1_330_588_800, 3600, shape[0], "America/Los_Angeles"))
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(nodes)])
    quantity = {"mph": "speed", "veh/h": "flow"}
    graph.add_signal("sensor", "readings", Signal(values, mask, [Channel(f"c{i}", quantity[u], u)
                                                                 for i, u in enumerate(units)]))
    return City(graph, history=4, horizon=12)


def test_scores_equal_a_loop_over_windows() -> None:
    city = _city()
    found = evaluate(model_class("last_value").for_city(city), city, batch_size=7)
    values, mask = city.signal.read(0, city.time.length)
    values = values / 0.44704
    absolute, square, relative, level = [], [], [], city.context.profile
    first, last = city.split.rows("test")
    for origin in range(first + 4, last - 12 + 1):
        for node in range(3):
            seen = [row for row in range(origin - 4, origin) if mask[row, node, 0]]
            guess = values[seen[-1], node, 0] if seen else None
            for row in range(origin, origin + 12):
                if mask[row, node, 0]:
                    if guess is None:
                        continue  # a fallback, compared elsewhere
                    error = abs(values[row, node, 0] - guess)
                    absolute.append(error)
                    square.append(error**2)
                    if values[row, node, 0]:
                        relative.append(error / values[row, node, 0])
    assert level is not None
    share = found.record["control_fallback_share"]["last_value"]
    assert share < 0.01  # so the loop above left next to nothing out
    scores = found.record["horizons"]["all"]
    assert scores["mae"] == pytest.approx(np.mean(absolute), rel=2e-3)
    assert scores["rmse"] == pytest.approx(np.mean(square) ** 0.5, rel=2e-3)
    assert scores["mape"] == pytest.approx(100 * np.mean(relative), rel=4e-3)


def test_batch_size_does_not_change_the_record() -> None:
    city = _city()
    model = model_class("slot_mean").for_city(city)
    one, other = (evaluate(model, city, batch_size=size).record for size in (5, 64))
    assert one["horizons"]["12"]["mae"] == pytest.approx(other["horizons"]["12"]["mae"], rel=1e-12)
    assert one["slices"]["hour"].keys() == other["slices"]["hour"].keys()


def test_slices_and_days_add_up_to_the_score() -> None:
    city = _city()
    found = evaluate(model_class("slot_mean").for_city(city), city)
    mae = found.record["horizons"]["all"]["mae"]
    for name, table in found.record["slices"].items():
        count = sum(cell["count"] for cell in table.values())
        assert sum(cell["mae"] * cell["count"] for cell in table.values()) / count == pytest.approx(mae), name
    assert sum(a for a, _ in found.daily.values()) / sum(c for _, c in found.daily.values()) == pytest.approx(mae)


def test_the_model_and_the_control_of_the_same_name_agree() -> None:
    city = _city()
    for name in CONTROLS:
        record = evaluate(model_class(name).for_city(city), city).record
        assert record["horizons"] == record["controls"][name]


def test_channels_in_different_units_are_never_pooled() -> None:
    city = _city(("mph", "veh/h"))
    record = evaluate(model_class("slot_mean").for_city(city), city).record
    assert record["scored_channels"] == ["c0"]
    assert record["horizons"] == record["by_channel"]["c0"] != record["by_channel"]["c1"]
    same = evaluate(model_class("slot_mean").for_city(_city(("mph", "mph"))), _city(("mph", "mph"))).record
    assert same["scored_channels"] == ["c0", "c1"]


def test_a_part_without_rows_is_refused() -> None:
    city = _city()
    empty = City(city.graph, history=4, horizon=12, fractions=(0.8, 0.2, 0.0))
    with pytest.raises(InputError, match="no window"):
        evaluate(model_class("slot_mean").for_city(empty), empty)


def test_a_forecast_continues_the_axis_in_the_unit_of_the_source(tmp_path: Path) -> None:
    city = _city()
    table = forecast(model_class("last_value").for_city(city), city)
    assert len(table) == 3 * 12
    first = pd.Timestamp(int(city.time.times()[-1]) + 3600, unit="s", tz="UTC")
    assert table["time"].iloc[0] == first
    assert str(table["time"].dt.tz) == "America/Los_Angeles"
    assert table["horizon"].tolist() == np.repeat(np.arange(1, 13), 3).tolist()
    values, mask = city.signal.read(city.time.length - 4, city.time.length)
    for node in range(3):
        seen = values[mask[:, node, 0], node, 0]
        if len(seen):
            assert table[table["sensor"] == f"s{node}"]["value"].iloc[0] == pytest.approx(seen[-1] / 0.44704, rel=1e-6)
    write_forecast(table, tmp_path / "f.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "f.parquet"), table, check_dtype=False)


def test_a_forecast_at_a_time_sees_nothing_after_it() -> None:
    city = _city()
    at = int(city.time.times()[300])
    answers = []
    for poison in (0.0, 1e6):
        other = _city()
        other.signal.values[300:] += np.float32(poison)
        model = model_class("profile_mlp").for_city(other)
        torch.manual_seed(0)
        model = model_class("profile_mlp")(model.config, model.sizes)
        torch.nn.init.normal_(model.outside.weight)
        answers.append(forecast(model, other, at)["value"])
    assert answers[0].equals(answers[1])
    with pytest.raises(InputError, match="no full window") as caught:
        forecast(model_class("last_value").for_city(city), city, int(city.time.times()[2]))
    assert "choose a time from" in str(caught.value)
