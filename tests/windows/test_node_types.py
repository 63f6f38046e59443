"""Which nodes' signal a city forecasts, where the graph has no sensors or several types with signals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stgraph.cli.main import app
from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, save
from stgraph.windows import City


def graph_of(*kinds: str, rows: int = 24 * 14) -> DynamicHeteroGraph:
    """Nodes of each type with hourly readings that differ by type."""
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, rows))
    for number, kind in enumerate(kinds):
        graph[kind].node_id = np.array([f"{kind} {i}" for i in range(3)])
        wave = 10 * (number + 1) + np.sin(np.arange(rows) * 2 * np.pi / 24)
        values = np.repeat(wave[:, None, None], 3, 1).astype(np.float32)
        graph.add_signal(kind, "readings", Signal(values, None, [Channel("count", "count", "1")]))
    return graph


def test_the_only_type_with_signals_is_meant() -> None:
    assert City(graph_of("cell")).node_type == "cell"


def test_sensors_come_first() -> None:
    city = City(graph_of("cell", "sensor"))
    assert (city.node_type, city.signal_name) == ("sensor", "readings")


def test_several_types_must_be_told_apart() -> None:
    graph = graph_of("cell", "segment")
    with pytest.raises(InputError, match="several types") as caught:
        City(graph)
    assert caught.value.field == "node_type"
    assert City(graph, node_type="segment").context.mean[0] == pytest.approx(20, abs=0.1)


def test_training_on_another_type_is_remembered(tmp_path: Path) -> None:
    """Trained on the segments of a graph that has cells too, a run is scored on the segments without being told."""
    save(graph_of("cell", "segment"), tmp_path / "city.stg")
    words = ["train", "--data", str(tmp_path / "city.stg"), "--model", "profile_mlp", "--steps", "3", "--node-type",
             "segment", "--out", str(tmp_path / "run"), "--json"]
    assert CliRunner().invoke(app, words).exit_code == 0
    scored = CliRunner().invoke(app, ["evaluate", "--model", str(tmp_path / "run"), "--data",
                                      str(tmp_path / "city.stg"), "--json"])
    assert scored.exit_code == 0, scored.output
    found = json.loads(scored.stdout)["horizons"]["all"]
    assert found["mape"] < 20  # of 20 a segment and 10 a cell
    assert found["mae"] < 2
