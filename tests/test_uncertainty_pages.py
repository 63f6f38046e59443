"""The pages of ``benchmarks/probabilistic.py`` and ``benchmarks/imputation.py`` from made records, by hand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STEPS = ("3", "6", "12", "all")


@pytest.fixture(scope="module")
def scripts() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The two scripts as modules."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("probabilistic"), importlib.import_module("imputation")
    finally:
        sys.path.remove(folder)


def scored(crps: float, gaussian: float, coverage: float, seed: int = 0) -> dict[str, Any]:
    """A kept record whose numbers are the same at every step."""
    def same(value: float) -> dict[str, float]:
        return dict.fromkeys(STEPS, value)

    band = {step: {"coverage": coverage, "width": 8.0, "score": 12.0} for step in STEPS}
    return {"seed": seed, "unit": "mph", "interval_s": 300, "parameters": 10, "steps": 5, "batch_size": 8,
            "data_sha256": "0" * 64, "versions": {"stgraph": "0"}, "split": {"windows": 4, "from": "a", "to": "b"},
            "horizons": {step: {"mae": 2.0} for step in STEPS},
            "crps": {"unit": "mph", "levels": [0.5], "model": same(crps), "gaussian": same(gaussian),
                     "gaussian_by_node": same(1.9), "empirical": same(1.6), "empirical_by_node": same(1.7),
                     "gaussian_exact": same(gaussian)},
            "interval": {"level": 0.9, "unit": "mph", "calibrated_on": "validation", "split": band, "adaptive": band}}


def test_the_bars_of_a_set_follow_from_its_means(scripts: tuple[ModuleType, ModuleType]) -> None:
    page = scripts[0].page({"made": {"quantiles": [scored(1.4, 2.0, 0.87, 0), scored(1.6, 2.0, 0.91, 1)]}})
    assert "| **weave, quantiles** | 1.500 ± 0.141 |" in page
    assert "**yes**, 1.500 against gaussian 2.000 (-25.0 %)" in page
    assert "empirical 1.600 (-6.2 %)" in page
    assert page.count("89.0 % inside; between 88 and 92: **yes**") == 2  # split and adaptive
    lost = scripts[0].page({"made": {"quantiles": [scored(2.1, 2.0, 0.93)]}})
    assert "**no**, 2.100 against gaussian 2.000 (+5.0 %)" in lost
    assert lost.count("93.0 % inside; between 88 and 92: **no**") == 2
    point = scored(1.0, 1.0, 0.9)
    point["crps"].pop("model")
    both = scripts[0].page({"made": {"quantiles": [scored(1.4, 2.0, 0.9)], "point": [point]}})
    assert "residuals of the point run: **no**, 1.400 against gaussian 1.000" in both


def filled(mae: float, seed: int = 0) -> dict[str, Any]:
    """Six days with the same error each, ten elements a day."""
    daily = {f"2020-01-0{day + 1}": [10 * mae, 10.0] for day in range(6)}
    return {"mae": mae, "rmse": 2 * mae, "count": 60, "daily": daily}


def test_a_way_is_lost_against_where_its_error_is_not_larger(scripts: tuple[ModuleType, ModuleType]) -> None:
    ways = {"mean": {"block": filled(9.0)}, "line in time": {"block": filled(4.0)}, "kriging": {"block": filled(3.0)},
            "covariance, departures": {"block": filled(1.0)}}
    runs = [{"seed": seed, "parameters": 1000, "steps": 5, "seconds": 1.0, "kinds": {"block": filled(mae)}}
            for seed, mae in enumerate((3.2, 3.6))]
    result = {"data_sha256": "0" * 64, "unit": "mph", "sensors": 3, "rows": 60, "interval_s": 300, "plain": ways,
              "weave": runs}
    lines = scripts[1].section("pems_bay_16", result)
    assert "| **weave** | 3.400 ± 0.283 | 6.800 ± 0.566 |" in lines
    bar = next(line for line in lines if line.startswith("* block"))
    assert "**no**, not below kriging." in bar  # the covariance is shown and not asked
    assert "line in time -15.0 %, p 0.0004" in bar
    assert "covariance, departures +240.0 %" in bar
    runs[1]["kinds"]["block"] = filled(2.0)
    won = next(line for line in scripts[1].section("pems_bay_16", result) if line.startswith("* block"))
    assert "**yes**" in won
