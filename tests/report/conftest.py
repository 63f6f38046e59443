"""Made-up report content: values from a seeded function, measured nowhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest

from stgraph.report import ReportContent

STEPS = 12
CONTROLS = {"last_value": (0.62, 0.22), "same_slot_yesterday": (1.55, 0.0), "same_slot_last_week": (1.42, 0.0),
            "slot_mean": (1.22, 0.0)}


@pytest.fixture
def content() -> ReportContent:
    return made_up()


@pytest.fixture(scope="session")
def make_content() -> Callable[..., ReportContent]:
    """:func:`made_up`, for tests that want another size."""
    return made_up


def made_up(sensors: int = 64, rows: int = 288, curves: int = 12, seed: int = 0) -> ReportContent:
    """A made-up city: sensors along a few straight roads, speeds that fall twice a day, a forecast that lags."""
    rng = np.random.default_rng(seed)
    positions, edges = _roads(sensors, rng)
    positions[-3:] = np.nan  # three sensors whose place nobody wrote down
    times = [datetime(2012, 6, 20, 0, 0) + timedelta(minutes=5 * row) for row in range(rows)]
    hour = np.array([time.hour + time.minute / 60 for time in times])[:, None]
    depth = rng.uniform(6, 34, sensors)
    speed = 64 - depth * (np.exp(-((hour - 8) / 1.6) ** 2) + 0.8 * np.exp(-((hour - 17.5) / 2) ** 2))
    wander = _smooth(rng.normal(0, 1, (rows + STEPS, sensors)), 9)[:rows]
    truth = np.clip(speed + wander * (2 + depth * 0.35), 3, 71)
    missing = truth.copy()
    missing[rng.random(truth.shape) < 0.01] = np.nan
    missing[rows // 2: rows // 2 + 20, 0] = np.nan
    forecast_at = {step: _forecast(truth, speed, step) for step in (3, 6, 12)}
    origins = list(range(36, rows - STEPS, 3))
    errors = 0.9 + 0.11 * depth + rng.gamma(2.0, 0.25, sensors)
    errors[5] = np.nan  # a sensor without any reading in the test part
    chosen = np.argsort(np.nan_to_num(errors, nan=99.0))[np.linspace(0, sensors - 2, curves).astype(int)]
    ahead = np.stack([np.stack([_forecast(truth, speed, step)[min(origin + step, rows - 1), chosen]
                                for step in range(1, STEPS + 1)]) for origin in origins])
    grow = 2.1 + 2.2 * np.sqrt(np.arange(1, STEPS + 1) / STEPS)
    control_steps = {name: grow.mean() * (level + slope * np.arange(STEPS) / 3)
                     for name, (level, slope) in CONTROLS.items()}
    return ReportContent(
        title="Made-up city, STID", simulated=True, model="stid", summary=_summary(grow, control_steps),
        quantity="speed", unit="mph", step_seconds=300.0, sensor_ids=[str(716300 + 37 * i) for i in range(sensors)],
        positions=positions, edges=edges, error_by_sensor=errors,
        error_by_sensor_at={step: errors * factor for step, factor in ((3, 0.78), (6, 0.97), (12, 1.24))},
        times=[time.isoformat(timespec="minutes") for time in times], curve_sensors=[int(i) for i in chosen],
        truth=missing[:, chosen], forecast_at={step: values[:, chosen] for step, values in forecast_at.items()},
        origins=origins, forecast_from=ahead, error_by_step=grow, control_error_by_step=control_steps,
        provenance=_provenance(), next_command="stgraph build sensors readings.csv --locations sensors.csv --quantity "
        "speed --unit km/h --interval 5min -o city.stg && stgraph train --data city.stg --model stid --out runs/city",
        curve_labels=["smallest error", *[""] * (curves - 2), "largest error"] if curves >= 2 else [])


def _roads(sensors: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sensors on six straight roads, joined to the next on the same road."""
    places, pairs = [], []
    for road in range(6):
        start, turn = rng.uniform(-0.12, 0.12, 2), rng.uniform(0, 2 * np.pi)
        count = sensors // 6 + (1 if road < sensors % 6 else 0)
        along = np.sort(rng.uniform(-0.16, 0.16, count))
        bend = 0.03 * np.sin(along * 12 + road)
        pairs += [(len(places) + i, len(places) + i + 1) for i in range(count - 1)]
        places += [(-118.3 + start[0] + a * np.cos(turn) - b * np.sin(turn),
                    34.1 + start[1] * 0.6 + 0.75 * (a * np.sin(turn) + b * np.cos(turn)))
                   for a, b in zip(along, bend, strict=True)]
    return np.array(places), np.array(pairs).T


def _smooth(noise: np.ndarray, width: int) -> np.ndarray:
    kernel = np.ones(width) / np.sqrt(width)
    return np.apply_along_axis(lambda column: np.convolve(column, kernel, mode="same"), 0, noise)


def _forecast(truth: np.ndarray, usual: np.ndarray, step: int) -> np.ndarray:
    """What a forecaster that shrinks the last deviation towards the usual day would have said, by target row."""
    rows = np.maximum(np.arange(len(truth)) - step, 0)
    return usual + (truth - usual)[rows] * 0.93**step


def _summary(grow: np.ndarray, controls: dict[str, np.ndarray]) -> dict:
    def scores(errors: np.ndarray) -> dict:
        picked = {"3": errors[2], "6": errors[5], "12": errors[11], "all": errors.mean()}
        return {key: {"mae": float(e), "rmse": float(1.9 * e), "mape": float(2.7 * e)} for key, e in picked.items()}

    hours = [2.2 + 2.6 * np.exp(-((h - 8) / 2) ** 2) + 2.1 * np.exp(-((h - 17.5) / 2.2) ** 2) for h in range(24)]
    return {
        "horizons": scores(grow), "controls": {name: scores(errors) for name, errors in controls.items()},
        "model": "stid", "data": "made-up.stg", "data_sha256": "0f" * 32, "split": "test", "history": 12, "seed": 0,
        "parameters": 118_412, "seconds": 3.4127, "peak_memory_mb": 512.5, "device": "cpu",
        "versions": {"stgraph": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "slices": {"hour": {str(h): {"mae": float(e), "count": 9000} for h, e in enumerate(hours)},
                   "day": {"weekday": {"mae": 3.91, "count": 160_112}, "weekend": {"mae": 2.44, "count": 61_004}},
                   "congestion": {"free": {"mae": 2.1, "count": 150_000}, "slow": {"mae": 5.2, "count": 50_100},
                                  "jam": {"mae": 8.3, "count": 21_016}}},
    }


def _provenance() -> dict:
    return {
        "bundle": "made-up.stg", "sha256": "0f" * 32,
        "split": {"train": "2012-06-01 to 2012-06-14, 4032 rows", "validation": "2012-06-15 to 2012-06-16, 576 rows",
                  "test": "2012-06-17 to 2012-06-20, 1152 rows"},
        "machine": "2 cores, 8 GB, Linux", "date": "2012-06-21", "seed": 0, "licences": ["Apache-2.0 (made-up values)"],
        "notes": ["Missing readings are left out of every score.", "Errors are in the unit of the source."],
        "commands": ["stgraph train --data made-up.stg --model stid --out runs/made-up --seed 0",
                     "stgraph report runs/made-up"],
        "attributions": ["Made-up sensors", "Roads like those of https://example.org/roads."],
    }
