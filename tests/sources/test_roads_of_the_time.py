"""From edited roads to events and sensors by the command line: everything meets the roads of its time."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from stgraph.cli.build import app
from stgraph.graph import load, save
from stgraph.roads import LocalProjection, Roads
from stgraph.roads.edit import change_speed, close_segment

PLANE = LocalProjection(-8.6, 41.15)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six blocks to the east and a way around the third, which is closed from 2020 on; the fifth is slower then."""
    monkeypatch.chdir(tmp_path)
    place = np.column_stack([np.arange(7) * 200.0, np.zeros(7)])
    one = np.column_stack([np.arange(6), np.arange(6) + 1])
    ends = np.concatenate([one, one[:, ::-1]])
    lines = [place[pair] for pair in ends] + [np.array([[400.0, 0], [500, 300], [600, 0]])]
    ends = np.concatenate([ends, [[2, 3]]])
    length = np.array([np.hypot(*np.diff(line, axis=0).T).sum() for line in lines])
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    graph = Roads(np.arange(7), PLANE.lonlat(place), ends[:, 0], ends[:, 1], length, ptr,
                  PLANE.lonlat(np.concatenate(lines)),
                  attributes={"speed": np.full(13, 10.0, np.float32)}).tables().graph()
    graph = close_segment(graph, ["2-3-0", "3-2-0"], "2020-01-01")
    save(change_speed(graph, ["4-5-0", "5-4-0"], 5.0, "2020-01-01"), "edited.stg")
    return tmp_path


def run(line: str) -> dict:
    result = CliRunner().invoke(app, [*line.split(), "--json"], catch_exceptions=False)
    return json.loads(result.stdout)


def test_events_are_on_the_version_of_their_time(folder):
    x, day = np.array([500.0, 900, 500, 900]), ["2019-06-01", "2019-06-01", "2024-06-01", "2024-06-01"]
    lonlat = PLANE.lonlat(np.column_stack([x, np.full(4, 2.0)]))
    pd.DataFrame({"time": [f"{one}T12:00Z" for one in day], "lon": lonlat[:, 0], "lat": lonlat[:, 1]}).to_csv(
        "events.csv", index=False)
    report = run("events events.csv --on edited.stg --limit 50m -o events.stg")
    assert report["reasons"] == {"outside the map": 1}
    graph = load("events.stg")
    at = graph["event", "at", "segment"].edge_index
    assert graph["segment"].node_id[at[1]].tolist() == ["2-3-0", "4-5-0", "4-5-0@2"]
    assert graph.at("2024-06-01T12:00")["event", "at", "segment"].edge_index.shape[1] == 1


def test_sensors_are_on_the_roads_of_their_last_reading_or_of_the_time_said(folder):
    lonlat = PLANE.lonlat(np.array([[300.0, 1.0], [900.0, 1.0]]))
    pd.DataFrame({"sensor_id": ["a", "b"], "lon": lonlat[:, 0], "lat": lonlat[:, 1], "way": ["E", "E"]}).to_csv(
        "places.csv", index=False)
    around = 2 * np.hypot(100.0, 300.0)
    for year, at, way, name in ((2019, "", 600.0, "4-5-0"), (2024, "", 400.0 + around, "4-5-0@2"),
                                (2024, "--at 2019-01-01", 600.0, "4-5-0")):
        times = pd.date_range(f"{year}-03-01", periods=24, freq="1h", tz="UTC")
        pd.DataFrame({"time": times.map(lambda one: one.isoformat()), "a": np.arange(24.0), "b": 2.0}).to_csv(
            "readings.csv", index=False)
        report = run(f"sensors readings.csv --locations places.csv --roads edited.stg --heading-key way "
                     f"--edge-rule distance --radius 5000 -o sensors.stg {at}")
        graph = load("sensors.stg")
        edges = graph["sensor", "near", "sensor"]
        assert graph["sensor"].segment_id.tolist() == ["1-2-0", name]
        assert float(edges.distance[(edges.edge_index[0] == 0).nonzero()[0, 0]]) == pytest.approx(way, abs=1)
        assert (report["roads_period"][0] == 1_577_836_800) == (name == "4-5-0@2")
