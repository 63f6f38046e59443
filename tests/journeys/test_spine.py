"""From files to a forecast and a page, through the command line, on simulated and on real data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import stgraph


def _stgraph(*words: object, cwd: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "stgraph", *map(str, words), "--json"], capture_output=True, text=True,
                          cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 1, "more than one line on stdout"
    return json.loads(done.stdout)


SCORES = {"mae", "rmse", "mape"}
RECORD = {"model", "data", "data_sha256", "split", "history", "seed", "parameters", "seconds", "peak_memory_mb",
          "device", "versions", "horizons", "controls"}


@pytest.mark.journey
def test_the_demo(tmp_path: Path) -> None:
    made = _stgraph("demo", "--out", "demo", "--days", 5, "--size", "small", "--steps", 40, cwd=tmp_path)
    assert made["simulated"] is True
    assert made["horizons"]["all"]["mae"] > 0
    page = (tmp_path / made["report"]).read_text(encoding="utf-8")
    assert "simulated" in page
    assert stgraph.load(tmp_path / made["bundle"]).graph.simulated


@pytest.mark.journey
def test_real_readings_to_a_forecast(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "pems_bay_16"
    built = _stgraph("build", "sensors", folder / "speed.npz", "--key", "speed_mph", "--ids-key", "sensor_id",
                     "--time-key", "timestamp", "--local-clock", "--locations", folder / "sensors.csv", "--edges",
                     folder / "distances.csv", "--missing-value", 0, "--quantity", "speed", "--unit", "mph", "--tz",
                     "America/Los_Angeles", "-o", "bay.stg", cwd=tmp_path)
    assert (built["sensors"], built["steps"], built["missing_coded"]) == (16, 43476, 7)
    trained = _stgraph("train", "--data", "bay.stg", "--model", "stid", "--out", "runs/bay", "--steps", 300, "--seed",
                       0, cwd=tmp_path)
    assert trained["data_sha256"] == built["data_sha256"]
    scored = _stgraph("evaluate", "--model", "runs/bay", "--data", "bay.stg", "--split", "test", cwd=tmp_path)
    assert scored.keys() >= RECORD
    assert scored["horizons"].keys() == {"3", "6", "12", "all"}
    assert all(table.keys() == SCORES for table in scored["horizons"].values())
    assert scored["controls"].keys() == {"last_value", "same_slot_yesterday", "same_slot_last_week", "slot_mean"}
    assert scored["horizons"]["all"]["mae"] < min(c["all"]["mae"] for c in scored["controls"].values())
    assert scored["unit"] == "mph"
    assert scored["slices"]["sensor"].keys() == {str(i) for i in pd.read_csv(folder / "sensors.csv")["sensor_id"]}
    rival = _stgraph("evaluate", "--model", "runs/bay", "--data", "bay.stg", "--against", "last_value",
                     cwd=tmp_path)["against"]
    assert rival["high"] < 0 < rival["days"]  # better than the last value, and not by the luck of the days
    assert rival["p_value"] < 0.05
    _stgraph("forecast", "--model", "runs/bay", "--data", "bay.stg", "-o", "next.parquet", cwd=tmp_path)
    table = pd.read_parquet(tmp_path / "next.parquet")
    assert {"sensor", "time", "horizon", "value"} <= set(table.columns)
    assert len(table) == 16 * 12
    assert table["time"].min() == pd.Timestamp("2017-06-01T00:00", tz="America/Los_Angeles")
    assert table["value"].between(0, 90).all()
    page = _stgraph("report", "runs/bay", "--data", "bay.stg", cwd=tmp_path)["report"]
    assert (tmp_path / page).stat().st_size > 50_000
    _refusals(tmp_path)


def _refusals(folder: Path) -> None:
    """What a trained run says to data it cannot answer."""
    _stgraph("demo", "--out", "demo", "--days", 4, "--size", "small", "--steps", 5, cwd=folder)
    words = [sys.executable, "-m", "stgraph", "evaluate", "--model", "runs/bay", "--data", "demo/simulated-city.stg"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 2
    assert "transductive" in done.stderr
    assert "profile_mlp" in done.stderr  # what to use instead
    # an inductive model answers for a city it never saw, with weights of another
    scored = _stgraph("evaluate", "--model", "demo/run", "--data", "bay.stg", cwd=folder)
    assert scored["horizons"]["all"]["mae"] is not None
