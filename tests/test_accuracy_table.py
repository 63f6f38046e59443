"""``benchmarks/accuracy.py``: its page from made records (figures, tests, bars), its entries, and what it keeps."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

DAYS = 8


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script itself."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("accuracy")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def made(script: ModuleType) -> ModuleType:
    """The module that writes the page."""
    return sys.modules["accuracy_page"]


def record(mae: float, days: list[float] | None = None, *, seed: int = 0, role: str = "model", validation: float = 1.0,
           inductive: bool = True, **other: Any) -> dict[str, Any]:
    """A kept record whose MAE is the same at every step; ``days`` are its errors, ten elements each."""
    errors = [mae] * DAYS if days is None else days
    sums = {f"2020-01-{day + 1:02d}": [10 * error, 10.0] for day, error in enumerate(errors)}
    scores = {"mae": mae, "rmse": 2 * mae, "mape": 3 * mae}
    return {
        "model": "made", "data_sha256": "0" * 64, "split": {"windows": 40, "from": "a", "to": "b"}, "history": 12,
        "history_minutes": 60.0, "horizon": 12, "interval_s": 300, "scored_channels": ["speed"], "unit": "mph",
        "inductive": inductive, "parameters": 1234, "horizons": {step: scores for step in ("3", "6", "12", "all")},
        "seed": seed, "peak_memory_mb": 300.0, "versions": {"stgraph": "0"}, "date": "2020-02-01", "reads": "1 h",
        "blocks": {"days": sums, "hours": sums},
        "entry": {"model": "made", "role": role, "settings": {}, "scored_with": {}, "trained_as": None},
        "training": {"steps": 100, "first_steps": None, "seconds": 10.0 + seed, "cpu_s": 9.0, "peak_mb": 400 + seed,
                     "threads": 1, "best_validation": {"score": validation}}} | other


def seeds(*maes: float, **other: Any) -> list[dict[str, Any]]:
    """A record a seed."""
    return [record(mae, seed=seed, **other) for seed, mae in enumerate(maes)]


def test_a_difference_is_that_of_the_means_and_its_interval_that_of_the_days(made: ModuleType) -> None:
    first = [record(3.0, [2.0, 4.0] * 4), record(5.0, [4.0, 6.0] * 4, seed=1)]  # mean over seeds: 3, 5, 3, 5 ...
    second = [record(5.0, [4.0, 6.0] * 4)]
    found = made.compare(first, second)
    assert found.difference == -1.0
    assert found.share == pytest.approx(-0.2)
    assert found.low == found.high == pytest.approx(-1.0)  # every day says the same
    assert found.p_blocks == pytest.approx(2 / 5000)  # the least that so many draws can say
    assert found.blocks == "8 days"
    assert found.p_seeds == pytest.approx(0.5)  # t = -1 of one degree of freedom
    assert found.p_value == pytest.approx(0.5)
    assert not found.is_clear


def test_seeds_are_compared_by_welch(made: ModuleType) -> None:
    t = (2.0 - 5.0) / np.sqrt(1.0 / 3 + 1.0 / 3)  # means 2 and 5, variances 1, three each: four degrees of freedom
    grid = np.linspace(0, abs(t), 20_001)
    density = 0.375 * (1 + grid**2 / 4) ** -2.5
    assert made.p_over_seeds([1, 2, 3], [4, 5, 6]) == pytest.approx(1 - 2 * np.trapezoid(density, grid), abs=1e-6)
    assert made.p_over_seeds([1.0], [2.0]) is None
    one_sample = made.p_over_seeds([1.0, 2.0, 3.0], [4.0])  # t = -2 sqrt(3), two degrees of freedom: closed form
    assert one_sample == pytest.approx(1 - np.sqrt(12 / (12 + 2)))


def test_too_few_days_give_way_to_blocks_of_three_hours(made: ModuleType) -> None:
    short = record(2.0)
    short["blocks"] = {"days": {"2020-01-01": [20.0, 10.0]}, "hours": {str(k): [20.0, 10.0] for k in range(6)}}
    assert made.compare([short], [short]).blocks == "6 blocks of three hours"


def test_entries_on_other_elements_are_not_compared(made: ModuleType) -> None:
    from stgraph.errors import InputError

    other = record(2.0)
    other["blocks"]["days"]["2020-01-01"] = [22.0, 11.0]
    with pytest.raises(InputError, match="not scored on the same elements"):
        made.compare([record(2.0)], [other])


def models(made: ModuleType, house: float, fixed: float, rival: float) -> dict[str, list[dict[str, Any]]]:
    """A set on which all controls have 9, the profile MLP 5."""
    return {**{name: [record(9.0, role="control", control_fallback_share={name: 0.25})] for name in made.CONTROLS},
            made.PROFILE: seeds(5.0, 5.1, 4.9),
            "stid": seeds(rival, rival + 0.01, rival - 0.01, inductive=False),
            made.HOUSE: seeds(house, house + 0.01, house - 0.01, validation=0.5),
            made.HOUSE_FIXED: seeds(fixed, fixed + 0.01, fixed - 0.01, validation=0.4, inductive=False),
            "weave without edges (test)": seeds(*(house + 0.5 + k / 100 for k in (0, 1, -1)), role="ablation")}


@pytest.fixture
def bars(made: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The page of two sets, one where the house model wins in its mode with codes and one where it loses, in pieces."""
    monkeypatch.setitem(made.ORIENTATION, "won", (4.0, 5.0))
    monkeypatch.setitem(made.ORIENTATION, "lost", (4.0, 5.0))
    text = made.page({"won": models(made, 4.0, 3.5, 4.2), "lost": models(made, 6.0, 6.0, 4.2)}, "a machine")
    parts = text.split("\n## ")
    return {part.split("\n")[0]: part for part in parts}


def test_the_bars_say_what_was_won_and_what_was_lost(bars: dict[str, str]) -> None:
    verdicts = bars["Bars over all sets"]
    assert "below the profile MLP and the four controls on every set: **no** (lost: profile_mlp)." in verdicts
    assert "lowest or tied with the lowest on every set: **no** (lost: stid is lower than weave, node" in verdicts
    assert "hurts on at least two sets: **yes** (won, lost)." in verdicts
    assert "weave below the control of our own (profile_mlp): **yes**, -1.000 (-20.0 %" in bars["won"]
    assert "weave below the control of our own (profile_mlp): **no**, +1.000 (+20.0 %" in bars["lost"]
    assert "weave below the best of the four controls (last_value): **yes**, -3.000 (-33.3 %" in bars["lost"]
    assert "(weave, node codes) is **below** the best of the others (stid): -0.700" in bars["won"]
    assert "(weave, node codes) is **above** the best of the others (stid): +1.800" in bars["lost"]
    assert "STID below all four controls at steps 3, 6 and 12: **yes**." in bars["won"]
    assert "STID against a peer's STID code after 1.5 minutes (4.0): 4.200, +5.0 %" in bars["won"]


def test_bold_is_the_lowest_and_what_is_tied_with_it(made: ModuleType) -> None:
    a, b = seeds(4.0, 4.2, 3.8), seeds(4.05, 4.25, 3.85)  # seeds explain the difference
    c = seeds(5.0, 5.2, 4.8)
    found = {"a": a, "b": b, "c": c}
    assert [made.cell(found, name).startswith("**") for name in "abc"] == [True, True, False]
    assert made.cell(found, "a") == "**4.000 ± 0.200**"
    assert made.cell(found, "d") == "–"


def test_a_row_holds_means_cost_and_the_difference(made: ModuleType, bars: dict[str, str]) -> None:
    lines = [line for line in bars["won"].splitlines() if line.startswith("| **stid**")]
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    got = dict(zip(made.COLUMNS, cells, strict=True))
    assert got["history"] == "12 (1 h)"
    assert got["nodes"] == "fixed"
    assert got["all MAE"] == "4.200 ± 0.010"
    assert got["against weave"].startswith("+0.200, p ")
    assert got["all RMSE"] == "8.400 ± 0.020"
    assert got["seeds"] == "3"
    assert got["steps"] == "100"
    assert got["train s"] == "11"  # mean of 10, 11, 12
    assert got["train CPU s"] == "9"
    assert got["peak MB"] == "402"
    assert "| *slot mean* (25 % fell back) |" in bars["won"]


def test_what_was_scored_on_other_windows_is_shown_and_not_ranked(made: ModuleType,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(made.ORIENTATION, "won", (4.0, 5.0))
    there = models(made, 4.0, 3.5, 4.2)
    there["long"] = seeds(1.0, 1.0, 1.0, history=288, history_minutes=1440.0,
                          split={"windows": 7, "from": "a", "to": "b"}, controls={"last_value": {"all": {"mae": 8.5}}})
    text = made.page({"won": there}, "a machine")
    assert "lowest or tied with the lowest on every set: **yes**." in text
    assert "* long reads 1 d, so its part of the test rows holds 7 windows. It is not ranked. On these windows: " \
           "last value 8.500." in text


def test_the_table_of_parts_gives_percent_of_the_house_model(bars: dict[str, str]) -> None:
    lines = {line.split("|")[1].strip(): line for line in bars["What the parts are worth"].splitlines() if "%" in line}
    assert "| +25.0 %, p " in lines["profile_mlp"]
    assert "| -16.7 %, p " in lines["profile_mlp"]
    assert "| +12.5 %, p " in lines["weave without edges (test)"]


# ---------------------------------------------------------------- what is run
def test_every_entry_can_be_run_as_it_stands(script: ModuleType) -> None:
    from stgraph.models import config_from, model_class

    for name, entry in script.ENTRIES.items():
        kind = model_class(entry.model)
        for data in script.SETS:
            config = config_from(kind, entry.settings | entry.by_set.get(data, {}))
            assert all(hasattr(config, field) for field in entry.scored_with), name
        for base in (entry.first, entry.trained_as):
            assert base is None or (script.ENTRIES[base].first is None and script.ENTRIES[base].trained_as is None)
        learns = kind.describe(config).training == "gradient"
        row = script.STEPS.get(entry.steps or entry.model)
        assert (row is not None) == learns, name
        assert row is None or len(row) == len(script.SETS)


def test_each_run_has_a_folder_of_its_own(script: ModuleType) -> None:
    folders = [script.Task(name, data, seed, Path("x.stg"), Path("work"), 1).folder
               for name in script.ENTRIES for data in script.SETS for seed in range(3)]
    assert len(set(folders)) == len(folders)


def test_what_others_build_on_is_run_first(script: ModuleType, tmp_path: Path) -> None:
    import argparse

    (tmp_path / "los_loop.stg").mkdir()
    options = argparse.Namespace(models=["step", "weave + graph, without edges (test)", "var"], sets=["los_loop"],
                                 seeds=2, data=tmp_path, work=tmp_path, threads=1, steps=None, redo=["step"])
    found = [[(task.name, task.seed, task.redo) for task in phase] for phase in script.phases(options)]
    assert found == [[("step_encoder", 0, False), ("step_encoder", 1, False)],
                     [("var", 0, False), ("step", 0, True), ("step", 1, True), ("weave + graph", 0, False),
                      ("weave + graph", 1, False)],
                     [("weave + graph, without edges (test)", 0, False),
                      ("weave + graph, without edges (test)", 1, False)]]


def test_a_kept_run_is_done_anew_only_where_what_is_asked_differs(script: ModuleType, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int | None]] = []

    def trained(task: Any) -> dict[str, Any]:
        ran.append((task.name, script.budget(task)))
        return {"steps": script.budget(task)}

    monkeypatch.setattr(script, "train", trained)
    monkeypatch.setattr(script, "score", lambda task, folder: {"mae": 1.0})
    monkeypatch.setattr(script, "data_sha256", lambda path: "0" * 64)
    task = script.Task("stid", "los_loop", 0, tmp_path / "los_loop.stg", tmp_path, 1)
    first = script.perform(task)
    assert first["training"]["steps"] == script.STEPS["stid"][0]
    assert script.perform(task)["request"] == first["request"]
    assert ran == [("stid", script.STEPS["stid"][0])]
    script.perform(script.dataclasses.replace(task, steps=7))
    assert ran[1:] == [("stid", 7)]
    script.perform(script.dataclasses.replace(task, steps=7, redo=True))
    assert ran[2:] == [("stid", 7)]
    monkeypatch.setattr(script.model_class("stid"), "recipe", {"learning_rate": 0.1})
    script.perform(script.dataclasses.replace(task, steps=7))
    assert ran[3:] == [("stid", 7)]


def test_blocks_add_up_to_the_errors_of_the_part(script: ModuleType) -> None:
    from stgraph.evaluate import evaluate
    from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
    from stgraph.models import model_class
    from stgraph.windows import City

    random = np.random.default_rng(0)
    values = random.normal(20, 4, (600, 3, 1)).astype(np.float32)
    graph = DynamicHeteroGraph(time=TimeAxis(1_330_588_800, 1800, len(values)))
    graph["sensor"].node_id = np.array(["a", "b", "c"])
    graph.add_signal("sensor", "readings", Signal(values, random.random(values.shape) > 0.1,
                                                  [Channel("speed", "speed", "mph")]))
    city = City(graph)
    model = model_class("last_value").for_city(city)
    blocks = script.BlockSums(city)
    model.register_forward_hook(blocks)
    scored = evaluate(model, city, "test", controls=False)
    kept = blocks.kept()
    assert sum(count for _, count in kept.values()) == float(scored.errors.count.sum())
    assert sum(total for total, _ in kept.values()) == pytest.approx(float(scored.errors.absolute.sum()), rel=1e-6)
    first, last = city.split.rows("test")
    assert list(kept) == [str(number) for number in range((first + 12) // 6, (last - 1) // 6 + 1)]  # 6 rows in 3 hours
