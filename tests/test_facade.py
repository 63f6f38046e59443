"""The chain in Python: a run knows its data, weights alone know their windows, nothing of the user's is replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import stgraph
from stgraph.errors import InputError
from stgraph.evaluate import evaluate, summarise
from stgraph.facade import Run, fit, open_model
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, save
from stgraph.models import model_class
from stgraph.windows import City


def _bundle(path: Path, rows: int = 24 * 20, channels: int = 1) -> Path:
    rng = np.random.default_rng(0)
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, rows), metadata={"name": path.stem})
    graph["sensor"].node_id = np.array(["a", "b", "c"])
    graph["sensor"].lonlat = torch.tensor([[8.5, 47.4], [8.6, 47.4], [8.5, 47.5]], dtype=torch.float64)
    wave = 10 + 3 * np.sin(np.arange(rows) * 2 * np.pi / 24)[:, None, None]
    values = (wave + rng.normal(0, 0.5, (rows, 3, channels))).astype(np.float32)
    graph.add_signal("sensor", "readings", Signal(values, None, [
        Channel(("flow", "speed")[i], ("flow", "speed")[i], ("veh/h", "mph")[i]) for i in range(channels)]))
    save(graph, path)
    return path


def test_a_run_made_in_python_knows_its_data_and_can_be_resumed(tmp_path: Path) -> None:
    data = stgraph.load(_bundle(tmp_path / "a.stg"))
    run = data.fit("profile_mlp", tmp_path / "run", steps=10, fractions=(0.6, 0.2, 0.2), progress=False)
    again = stgraph.load(tmp_path / "run")
    assert isinstance(again, Run)
    assert again.evaluate()["horizons"] == run.evaluate()["horizons"]
    assert fit(data, "profile_mlp", tmp_path / "run", resume=True, fractions=(0.6, 0.2, 0.2), progress=False
               ).record["steps"] == 10
    (tmp_path / "run" / "run.json").unlink()  # weights alone still say how their windows were cut
    assert stgraph.load(tmp_path / "run").evaluate()["split"] == run.evaluate()["split"]


def test_a_control_is_cut_like_the_run_beside_it(tmp_path: Path) -> None:
    path = _bundle(tmp_path / "a.stg", channels=2)
    run = fit(path, "profile_mlp", tmp_path / "run", passes=1, history=6, horizon=3, channels=["speed"],
              progress=False)
    _, city = open_model("slot_mean", run.window_options(), path)
    assert (city.history, city.horizon, city.signal.channel_names) == (6, 3, ["speed"])


def test_a_forecast_needs_one_window_and_no_more(tmp_path: Path) -> None:
    run = fit(_bundle(tmp_path / "a.stg"), "profile_mlp", steps=5, progress=False)
    short = _bundle(tmp_path / "short.stg", rows=30)
    assert len(run.forecast(short)) == 3 * 12
    with pytest.raises(InputError, match="no full window"):
        run.forecast(short, at="2099-01-01")


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    run = fit(_bundle(tmp_path / "a.stg"), "profile_mlp", steps=2, progress=False)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="a folder is there"):
        run.report(tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_channels_in_different_units_are_never_pooled_anywhere(tmp_path: Path) -> None:
    path = _bundle(tmp_path / "a.stg", channels=2)
    both, flow = City.open(path), City.open(path, channels=["flow"])
    kind = model_class("slot_mean")
    first, second = (evaluate(kind.for_city(city), city) for city in (both, flow))
    for part in ("horizons", "slices"):
        assert first.record[part] == second.record[part]
    assert first.daily == second.daily


def test_the_slot_mean_does_not_see_its_own_target_on_the_training_part(tmp_path: Path) -> None:
    city = City.open(_bundle(tmp_path / "a.stg", rows=24 * 10))
    found = evaluate(model_class("slot_mean").for_city(city), city, "train").record
    assert found["horizons"]["all"]["mae"] > 0.3  # the noise has a mean size of 0.4; zero would be a leak


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path: Path) -> None:
    path = _bundle(tmp_path / "a.stg")
    records = []
    for name in ("last_value", "slot_mean"):
        city = City.open(path)
        records.append(evaluate(model_class(name).for_city(city), city, controls=False).record)
    with pytest.raises(InputError, match="differ in more than the seed"):
        summarise(records)
