"""Stations that move: each step has the edges of a build from scratch, whatever the names, wherever on the globe."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod
from typer.testing import CliRunner

from stgraph.cli.build import app
from stgraph.errors import InputError
from stgraph.graph import data_sha256, load
from stgraph.graph.time import instant
from stgraph.sources.moving import NEAR, POSITION, READINGS, STATION, build_moving

START = instant("2020-06-01T00:00")


def walk(stations=7, steps=12, seed=0, middle=(179.9, 10.0), reach=0.4, known=0.9) -> pd.DataFrame:
    """Stations that wander around a place, some of whose reports are lost."""
    random = np.random.default_rng(seed)
    place = np.array(middle) + random.normal(0, reach, (stations, 2))
    rows = []
    for step in range(steps):
        place = place + random.normal(0, reach / 3, (stations, 2)) * (random.random((stations, 1)) < 0.4)
        for i in range(stations):
            if random.random() < known or step == 0:
                longitude = (place[i, 0] + 180) % 360 - 180
                rows.append((f"b{i}", START + 3600 * step, longitude, np.clip(place[i, 1], -90, 90), 10.0 * i + step))
    return pd.DataFrame(rows, columns=["station", "time", "lon", "lat", "temperature"])


def edges_at(graph, row) -> set[tuple[str, str]]:
    """Edges of one step by the names of their ends, through ``graph.at``."""
    part = graph.at(int(graph.time.times(np.array([row]))[0]))
    names = part[STATION].node_id
    pairs = [(str(names[a]), str(names[b])) for a, b in part[NEAR].edge_index.T.tolist()]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


def brute(points, row, neighbours=None, radius=None) -> set[tuple[str, str]]:
    """The same by looking at every pair of places in the table."""
    here = points[points["time"] == START + 3600 * row].set_index("station")
    geod = Geod(ellps="WGS84")
    far = {(a, b): geod.inv(*here.loc[a, ["lon", "lat"]], *here.loc[b, ["lon", "lat"]])[2]
           for a, b in itertools.permutations(here.index, 2)}
    if radius is not None:
        return {pair for pair, distance in far.items() if distance <= radius}
    out = set()
    for b in here.index:
        near = sorted((a for a in here.index if a != b), key=lambda a: (round(far[a, b], 3), a))
        out |= {(a, b) for a in near[:neighbours]}
    return out


# -------------------------------------------------------------------- laws
@pytest.mark.parametrize("middle", [(179.9, 10.0), (30.0, 89.8), (-60.0, -89.9), (4.9, 52.4)])
@pytest.mark.parametrize("rule", [{"neighbours": 2}, {"radius": 30_000.0}])
def test_every_step_has_the_edges_of_a_build_from_scratch(middle, rule):
    points = walk(middle=middle)
    graph, report = build_moving(points, interval="1h", **rule)
    assert graph.time.length == 12
    counts = []
    for row in range(12):
        expected = brute(points, row, **rule)
        counts.append(len(expected))
        assert edges_at(graph, row) == expected
    assert report["edges_per_step"] == [min(counts), max(counts)]
    assert report["edge_steps"] == sum(counts)
    assert report["edges"] < sum(counts)  # what stays is kept once
    assert max(counts) > 0


@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
def test_other_names_are_the_same_graph(seed, order):
    points = walk(5, 5, seed, reach=0.2)
    renamed = points.assign(station=points["station"].map({f"b{i}": f"b{name}" for i, name in enumerate(order)}))
    one, _ = build_moving(points, interval="1h", neighbours=2)
    other, _ = build_moving(renamed.sample(frac=1, random_state=seed % 99), interval="1h", neighbours=2, repair=True)
    back = {f"b{name}": f"b{i}" for i, name in enumerate(order)}
    for row in range(5):
        assert edges_at(one, row) == {(back[a], back[b]) for a, b in edges_at(other, row)}
    place = {str(name): i for i, name in enumerate(other[STATION].node_id)}
    nodes = [place[f"b{order[int(name[1:])]}"] for name in one[STATION].node_id]
    for name in (POSITION, READINGS):
        for part in ("values", "mask"):
            assert np.array_equal(getattr(one.signal(STATION, name), part),
                                  getattr(other.signal(STATION, name), part)[:, nodes])


def test_runs_that_meet_are_joined_across_blocks_of_steps(monkeypatch):
    from stgraph.sources import moving

    points = walk(steps=12, seed=3)
    whole, _ = build_moving(points, interval="1h")
    monkeypatch.setattr(moving, "_CHUNK", 5)
    parts, _ = build_moving(points, interval="1h")
    for name in ("edge_index", "valid_from", "valid_to"):
        assert whole[NEAR][name].tolist() == parts[NEAR][name].tolist()


# -------------------------------------------------------------------- places and readings
def test_places_and_readings_are_those_of_the_table(tmp_path):
    points = walk(seed=1)
    graph, report = build_moving(points, interval="1h", quantity="temperature", unit="degC", out=tmp_path / "b.stg")
    graph = load(tmp_path / "b.stg")
    position, readings = graph.signal(STATION, POSITION), graph.signal(STATION, READINGS)
    node = {str(name): i for i, name in enumerate(graph[STATION].node_id)}
    seen = np.zeros(position.shape[:2], bool)
    for row in points.itertuples():
        step, i = (row.time - START) // 3600, node[row.station]
        seen[step, i] = True
        assert position.values[step, i].tolist() == [row.lon, row.lat]
        assert readings.values[step, i, 0] == pytest.approx(row.temperature + 273.15)
    assert np.array_equal(np.asarray(position.mask).all(2), seen)
    assert np.array_equal(np.asarray(readings.mask)[..., 0], seen)
    assert [one.unit for one in position.channels] == ["degree", "degree"]
    assert report["position_share"] == pytest.approx(seen.mean(), abs=1e-6)


def test_a_step_has_the_last_place_and_the_mean_reading():
    points = pd.DataFrame({"id": ["a"] * 4 + ["b"], "time": START + np.array([0, 100, 250, 300, 10]),
                           "longitude": [1.0, 2, 3, np.nan, 5], "latitude": [1.0, 2, 3, np.nan, 5],
                           "speed": [10.0, np.nan, 20, 7, 1]})
    graph, report = build_moving(points, interval="5min", quantity="speed")
    position, readings = graph.signal(STATION, POSITION), graph.signal(STATION, READINGS)
    assert position.values[:, 0].tolist() == [[3, 3], [0, 0]]
    assert position.mask[:, 0, 0].tolist() == [True, False]
    assert readings.values[:, :, 0].tolist() == [[15, 1], [7, 0]]
    assert readings.mask[:, :, 0].tolist() == [[True, True], [True, False]]
    assert report["points_merged_in_steps"] == 2
    assert edges_at(graph, 0) == {("a", "b"), ("b", "a")}
    assert edges_at(graph, 1) == set()


def test_a_table_on_disk_is_the_same_as_in_memory(tmp_path):
    points = walk(seed=2)
    points.to_parquet(tmp_path / "p.parquet")
    points.assign(time=pd.to_datetime(points["time"], unit="s").dt.strftime("%Y-%m-%dT%H:%M")).to_csv(
        tmp_path / "p.csv", index=False)
    one, _ = build_moving(points)
    for name in ("p.parquet", "p.csv"):
        other, _ = build_moving(tmp_path / name)
        assert other[NEAR].edge_index.tolist() == one[NEAR].edge_index.tolist()
        assert np.array_equal(other.signal(STATION, POSITION).values, one.signal(STATION, POSITION).values)
    assert other.metadata["command"] == "stgraph build moving p.csv"


def test_the_command_makes_the_bundle_and_prints_one_object(tmp_path):
    walk(middle=(4.0, 52.0)).to_csv(tmp_path / "p.csv", index=False)
    words = (f"moving {tmp_path}/p.csv --interval 1h --radius 30000 --quantity temperature --unit degC "
             f"-o {tmp_path}/b.stg --json")
    result = CliRunner().invoke(app, words.split(), catch_exceptions=False)
    report = json.loads(result.stdout)
    assert (report["stations"], report["steps"], report["edge_rule"]) == (7, 12, "distance")
    assert report["data_sha256"] == data_sha256(tmp_path / "b.stg")
    assert "Next: stgraph info" in result.stderr


def test_days_follow_the_clock_of_the_place():
    clock = pd.date_range("2020-10-23T12:00", periods=4, freq="1D")  # summer time ends on the 25th
    points = pd.DataFrame({"station": np.repeat(["a", "b"], 4), "time": np.tile(clock.astype(str), 2),
                           "lon": 4.0 + np.arange(8) / 100, "lat": 52.0, "x": np.arange(8.0)})
    graph, _ = build_moving(points, interval="1D", tz="Europe/Amsterdam")
    assert graph.time.length == 4
    assert graph.signal(STATION, READINGS).values[:, 0, 0].tolist() == [0, 1, 2, 3]
    for day in range(4):
        assert graph.at(f"2020-10-{23 + day}T12:00")[NEAR].edge_index.shape[1] == 2


@pytest.mark.parametrize(("tz", "interval"), [
    ("America/Los_Angeles", "12h"), ("America/Los_Angeles", "6h"), ("Asia/Kolkata", "1h"), ("Asia/Kolkata", "6h"),
    ("Europe/Berlin", "4h"), ("UTC", "12h"), ("Australia/Lord_Howe", "1h")])
def test_steps_begin_on_the_clock_of_the_place(tz, interval):
    """Through the change to summer time and back, as far as the clock shows the hour at which a step would begin."""
    step = int(pd.Timedelta(interval).total_seconds())
    for begin in ("2024-03-05T13:10", "2024-03-28T13:10", "2024-10-04T13:10", "2024-10-24T13:10"):
        times = np.arange(instant(begin, tz), instant(begin, tz) + 7 * 86_400, 1700)
        points = pd.DataFrame({"station": "a", "time": times, "lon": 1.0, "lat": 2.0, "x": np.arange(len(times)) + 1.0})
        axis = (graph := build_moving(points, interval=interval, tz=tz)[0]).time
        off = axis.clock % step
        assert (off == 0).mean() > 0.9
        assert set(axis.clock[off != 0] % 86_400) <= {3 * 3600, 9000}  # begins at the end of the skipped hour
        assert axis.times(slice(0, 1))[0] <= times[0] < axis.times(slice(0, 2))[1]
        row = np.searchsorted(axis.times(), times, side="right") - 1
        sums, counts = (np.bincount(row, one, axis.length) for one in (points["x"], np.ones(len(row))))
        np.testing.assert_allclose(graph.signal(STATION, READINGS).values[:, 0, 0], sums / np.maximum(counts, 1),
                                   rtol=1e-6)


def test_parts_of_a_second_stay_in_their_step():
    points = pd.DataFrame({"station": "a", "time": ["2020-06-01T10:59:59.6Z", "2020-06-01T11:00:00.2Z"], "lon": 1.0,
                           "lat": 2.0, "x": [1.0, 2.0]})
    graph, _ = build_moving(points, interval="1h", repair=True)
    assert graph.signal(STATION, READINGS).values[:, 0, 0].tolist() == [1, 2]


@pytest.mark.filterwarnings("error")
def test_what_is_too_large_is_refused_without_a_warning(tmp_path):
    points = walk(middle=(150.0, 10.0))
    points.loc[2, "temperature"] = 1e300
    points.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match="too large in row 3") as error:
        build_moving(tmp_path / "p.csv", interval="1h")
    assert (error.value.field, error.value.value) == ("temperature", "1e+300")
    graph, _ = build_moving(tmp_path / "p.csv", interval="1h", missing_value=[1e300])
    assert int(graph.signal(STATION, READINGS).mask.sum()) == len(points) - 1


def test_one_place_alone_or_none_has_no_edges():
    points = pd.DataFrame({"station": ["a", "b"], "time": [START, START + 3600], "lon": [1.0, np.nan],
                           "lat": [2.0, np.nan]})
    graph, report = build_moving(points, interval="1h")
    assert (report["edges"], report["observed_share"], report["channels"]) == (0, None, [])
    assert READINGS not in graph.signals(STATION)


# -------------------------------------------------------------------- faults
@pytest.mark.parametrize(("change", "options", "problem", "field", "remedy"), [
    (lambda p: p.rename(columns={"lon": "lat", "lat": "lon"}), {}, "look exchanged", "latitude", "swap"),
    (lambda p: p.assign(lat=p["lat"] + 200), {}, "out of range", "latitude", "degrees"),
    (lambda p: p.drop(columns="lat"), {}, "no column of the latitude", "latitude_key", "--latitude-key"),
    (lambda p: pd.concat([p, p.iloc[:2]]), {}, "2 duplicate and 2 decreasing", "time", "--repair"),
    (lambda p: p.assign(temperature="hot"), {}, "not a number in row 1", "temperature", "empty"),
    (lambda p: p.assign(temperature=np.inf), {}, "infinite reading in row 1", "temperature", "empty"),
    (lambda p: p.assign(time=np.arange(len(p))), {}, "not a time in row 1", "time", "seconds since 1970"),
    (lambda p: p.drop_duplicates("station"), {"interval": None}, "interval cannot be seen", "interval", "--interval"),
    (lambda p: p, {"interval": "7min"}, "does not divide the day", "interval", "5min"),
    (lambda p: p.assign(time=p["time"] + np.where(np.arange(len(p)) == len(p) - 1, 10**9, 0)), {"interval": "1s"},
     "would be spread over", "interval", "far from the others"),
    (lambda p: p, {"neighbours": 0}, "out of range", "neighbours", "positive"),
    (lambda p: p, {"radius": -1.0}, "out of range", "radius", "positive"),
    (lambda p: p, {"value_key": ["wind"]}, "no such column", "wind", "station"),
    (lambda p: p, {"out": "b.zip"}, "saved as a .stg", "out", ".stg")])
def test_faults_name_their_parts_and_write_nothing(tmp_path, monkeypatch, change, options, problem, field, remedy):
    monkeypatch.chdir(tmp_path)
    change(walk(middle=(150.0, 10.0))).to_csv("p.csv", index=False)
    given = {name: value for name, value in ({"interval": "1h", "out": "b.stg"} | options).items() if value is not None}
    with pytest.raises(InputError, match=problem) as error:
        build_moving("p.csv", **given)
    assert error.value.field == field
    assert remedy in error.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
