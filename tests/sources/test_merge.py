"""``build_merge``: nothing is lost or made up, whatever the order of the bundles; joins equal brute force."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from typer.testing import CliRunner

from stgraph.cli.main import app
from stgraph.errors import InputError
from stgraph.graph import (
    OPEN_END,
    OPEN_START,
    Channel,
    DynamicHeteroGraph,
    Geometry,
    GraphTables,
    Signal,
    TimeAxis,
    data_sha256,
    load,
    save,
)
from stgraph.graph.plain import SOURCE, TARGET, categories, column, numbers
from stgraph.graph.time import DAY
from stgraph.roads import Roads
from stgraph.roads.edit import change_speed, close_segment
from stgraph.sources.clock import lay_out
from stgraph.sources.merge import build_merge, merge_tables
from stgraph.sources.sensors import NEAR

MONDAY = 1_709_510_400
ON, AT, IN, AFFECTS = (("sensor", "on", "segment"), ("event", "at", "segment"), ("sensor", "in", "region"),
                       ("weather", "affects", "sensor"))


# -------------------------------------------------------------------- made bundles
def roads(seed: int = 0, name: str = "roads", west: float = 8.0, side: int = 4, first: int = 0) -> GraphTables:
    """Streets both ways on a square grid of junctions about 200 m apart, with names of their own."""
    chance = np.random.default_rng(seed)
    places = np.stack(np.unravel_index(np.arange(side * side), (side, side)), axis=1)[:, ::-1] * (0.0026, 0.0018)
    places = places + chance.uniform(-2e-4, 2e-4, places.shape) + (west, 47.0)
    number = np.arange(side * side).reshape(side, side)
    one = np.concatenate([np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()]),
                          np.stack([number[:-1].ravel(), number[1:].ravel()])], axis=1)
    tail, head = np.concatenate([one, one[::-1]], axis=1)
    ptr, xy = 2 * np.arange(len(tail) + 1), places[np.column_stack([tail, head]).reshape(-1)]
    length = np.array(Geod(ellps="WGS84").inv(*places[tail].T, *places[head].T)[2])
    tables = Roads(first + np.arange(side * side), places, tail, head, length, ptr, xy, attributes={
        "speed": chance.uniform(5, 25, len(tail)).astype(np.float32),
        "road_class": categories(np.arange(len(tail)) % 2, ["residential", "primary"])},
        turn_index=np.array([[0, 1], [1, 0]]), turn_angle=np.zeros(2, np.float32)).tables()
    tables.metadata = {"name": name, "simulated": False, "sources": [
        {"file": f"{name}.osm.pbf", "licence": "ODbL-1.0", "attribution": "(c) OpenStreetMap contributors"}]}
    return tables


def readings(axis: TimeAxis, places: np.ndarray, name: str, ids: list[str], seed: int = 0,
             channels: tuple[Channel, ...] = (Channel("speed", "speed", "km/h"),), lives: bool = False) -> GraphTables:
    """Sensors with readings, some of them missing, joined in a ring."""
    chance = np.random.default_rng(seed)
    count = len(ids)
    tables = GraphTables(metadata={"name": name, "sources": [{"file": f"{name}.csv", "licence": "CC0",
                                                              "attribution": f"Office of {name}"}]}, time=axis)
    tables.nodes["sensor"] = pa.table({"node_id": ids, "lonlat": column(places)})
    if lives:
        start = MONDAY + 300 * chance.integers(-2, 6, count)
        tables.nodes["sensor"] = tables.nodes["sensor"].append_column("valid_from", pa.array(start)).append_column(
            "valid_to", pa.array(start + 300 * chance.integers(1, 9, count)))
    ring = np.arange(count)
    tables.edges[NEAR] = pa.table({SOURCE: ring, TARGET: np.roll(ring, 1),
                                   "edge_weight": chance.random(count).astype(np.float32)})
    if lives:  # an edge lives only while both its ends do
        span = [numbers(tables.nodes["sensor"][end]) for end in ("valid_from", "valid_to")]
        first, last = (pick(one[ring], one[np.roll(ring, 1)]) for pick, one in zip((np.maximum, np.minimum), span,
                                                                                  strict=True))
        tables.edges[NEAR] = tables.edges[NEAR].filter(pa.array(first < last))
    shape = (axis.length, count, len(channels))
    mask = chance.random(shape) < 0.8
    values = np.where(mask, chance.integers(1, 40, shape), 0).astype(np.float32)
    tables.signals["sensor"] = {"readings": Signal(values, mask, channels)}
    return tables


def events(seed: int, count: int = 30, west: float = 8.0, name: str = "events") -> GraphTables:
    chance = np.random.default_rng(seed)
    tables = GraphTables(metadata={"name": name, "sources": [{"file": f"{name}.csv"}], "tz": "UTC"})
    start = MONDAY + 300 * chance.integers(-2, 6, count)
    tables.nodes["event"] = pa.table({
        "node_id": [f"{name}{i}" for i in range(count)], "time": start,
        "lonlat": column(chance.uniform((west - 0.002, 46.999), (west + 0.01, 47.007), (count, 2))),
        "type": categories(chance.integers(0, 2, count), ["theft", "noise"]),
        "valid_from": start, "valid_to": start + 600})
    return tables


def town(seed: int = 0, lives: bool = False) -> list[GraphTables]:
    """Roads, sensors of five minutes, events, and weather of an hour."""
    chance = np.random.default_rng(seed)
    places = chance.uniform((8.0, 47.0), (8.008, 47.0055), (9, 2))
    places[0] = np.nan
    places[1] = (8.5, 47.0)  # far off
    return [
        roads(seed), events(seed),
        readings(TimeAxis(MONDAY, 300, 30, "Europe/Zurich"), places, "loops", [f"s{i}" for i in range(9)], seed,
                 lives=lives),
        readings(TimeAxis(MONDAY - 7200, 3600, 4, "Europe/Zurich"), chance.uniform((8, 47), (8.01, 47.01), (5, 2)),
                 "meteo", [f"w{i}" for i in range(5)], seed + 1, (Channel("temperature", "temperature", "degC"),))]


def facts(tables: GraphTables) -> dict[str, Any]:
    """What a graph says, by ids: nodes with attributes, edges as a multiset, signals per node."""
    said: dict[str, Any] = {}
    ids = {}
    for kind, table in tables.nodes.items():
        ids[kind] = table["node_id"].to_pylist() if "node_id" in table.column_names else list(range(len(table)))
        names = sorted(set(table.column_names) - {"node_id", "n_id"})
        said[kind] = {one: [_plain(table[name][row].as_py()) for name in names] for row, one in enumerate(ids[kind])}
        said[kind]["columns"] = names
    for edge, table in tables.edges.items():
        names = sorted(set(table.column_names) - {SOURCE, TARGET, "e_id"})
        rows = zip(*(table[name].to_pylist() for name in (SOURCE, TARGET, *names)), strict=True)
        said[str(edge)] = sorted((ids[edge[0]][a], ids[edge[2]][b], *map(_plain, rest)) for a, b, *rest in rows)
    for kind, found in tables.signals.items():
        for name, signal in found.items():
            values, mask = signal.read(0, signal.shape[0])
            said[f"{kind}/{name}"] = {one: np.where(mask[:, row], values[:, row], -1.0).tolist()
                                      for row, one in enumerate(ids[kind])}
    said["time"] = None if tables.time is None else tables.time.to_dict()
    return said


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "nan" if np.isnan(value) else round(value, 5)
    return tuple(map(_plain, value)) if isinstance(value, list) else value


# -------------------------------------------------------------------- laws
@pytest.mark.parametrize("place", range(4))
def test_one_bundle_alone_comes_back_as_it_is(place: int, tmp_path: Path) -> None:
    bundle = town()[place]
    save(bundle, tmp_path / "one.stg")
    tables, _ = merge_tables([tmp_path / "one.stg"], out=tmp_path / "merged.stg")
    assert facts(tables) == facts(bundle)
    assert data_sha256(tmp_path / "merged.stg") == data_sha256(tmp_path / "one.stg")
    assert tables.metadata == bundle.metadata


def test_the_order_of_bundles_does_not_matter(tmp_path: Path) -> None:
    found = set()
    for order in list(itertools.permutations(town(3)))[::4]:
        merge_tables(order, out=tmp_path / "city.stg")
        found.add(data_sha256(tmp_path / "city.stg"))
    assert len(found) == 1


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_nothing_is_lost_or_made_up(seed: int) -> None:
    bundles = town(seed)
    graph, report = build_merge(bundles)
    graph.validate()
    counts = {"junction": 16, "segment": 48, "event": 30, "sensor": 9, "weather": 5}
    assert {kind: graph.size_of(kind) for kind in graph.node_types} == counts == report["nodes"]
    merged, apart = facts(GraphTables.of_graph(graph)), [facts(bundle) for bundle in bundles]
    for kind, found in (("segment", apart[0]), ("junction", apart[0]), ("event", apart[1]), ("sensor", apart[2])):
        assert merged[kind] == found[kind]
    assert merged["weather"] == apart[3]["sensor"]
    for edge in bundles[0].edges:
        assert merged[str(edge)] == apart[0][str(edge)]
    assert merged[str(NEAR)] == apart[2][str(NEAR)]
    values = graph.signal("sensor")
    rows = slice(*(np.array([0, 30]) + (MONDAY - graph.time.start) // 300))
    own = bundles[2].signals["sensor"]["readings"]
    assert np.array_equal(values.values[rows], own.values)
    assert np.array_equal(values.mask[rows], own.mask)
    assert values.mask.sum() == own.mask.sum()


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(-1, 8))
def test_a_snapshot_of_the_merged_is_the_merge_of_snapshots(seed: int, step: int) -> None:
    made = town(seed, lives=True)
    made[3].time, made[3].signals = None, {}  # of an hour a snapshot holds one row: no other time to hold it in
    bundles = [bundle.graph() for bundle in made]
    t = MONDAY + 300 * step + 150
    whole, _ = build_merge(bundles, weather=["meteo"])
    parts, _ = build_merge([bundle.at(t) for bundle in bundles], weather=["meteo"])
    one, other = (facts(GraphTables.of_graph(graph.at(t))) for graph in (whole, parts))
    assert one == other
    assert str(ON) in one


def test_merging_in_two_goes_equals_merging_at_once(tmp_path: Path) -> None:
    bundles = town(5)
    at_once, _ = merge_tables(bundles)
    first, _ = merge_tables(bundles[:3], name="city")
    twice, _ = merge_tables([first, bundles[3]])
    assert facts(twice) == facts(at_once)


# -------------------------------------------------------------------- joined in space
def nearest(network: GraphTables, place: np.ndarray) -> tuple[float, set[str]]:
    """Distance to the nearest street and the ids of the segments along it, by shapely in metres."""
    net = Roads.of(network)
    metres = net.to_metres(net.line_xy)
    lines = [shapely.linestrings(metres[a:b]) for a, b in itertools.pairwise(net.line_ptr)]
    away = shapely.distance(np.array(lines), shapely.Point(net.to_metres(place[None])[0]))
    ids = network.nodes["segment"]["node_id"].to_pylist()
    return float(away.min()), {ids[i] for i in np.flatnonzero(away < away.min() + 1e-3)}


def joined(tables: GraphTables, edge: tuple[str, str, str]) -> dict[str, tuple[str, float]]:
    """Partner and distance of each node, by ids."""
    table = tables.edges[edge]
    ids = [tables.nodes[end]["node_id"].to_pylist() for end in (edge[0], edge[2])]
    distance = table["distance"].to_pylist() if "distance" in table.column_names else [0.0] * len(table)
    return {ids[0][a]: (ids[1][b], away) for a, b, away in
            zip(table[SOURCE].to_pylist(), table[TARGET].to_pylist(), distance, strict=True)}


@pytest.mark.parametrize(("kind", "edge", "limit"), [("sensor", ON, 50.0), ("event", AT, 200.0)])
def test_points_go_to_the_nearest_segment(kind: str, edge: tuple[str, str, str], limit: float) -> None:
    bundles = town(1)
    tables, report = merge_tables(bundles)
    found = joined(tables, edge)
    places = numbers(tables.nodes[kind]["lonlat"])
    for name, place in zip(tables.nodes[kind]["node_id"].to_pylist(), places, strict=True):
        away, ids = nearest(bundles[0], place) if np.isfinite(place).all() else (np.inf, set())
        assert (name in found) == (away <= limit)
        if name in found:
            assert found[name][0] in ids
            assert found[name][1] == pytest.approx(away, abs=1e-3)
    entry = next(one for one in report["joins"] if one["relation"] == "__".join(edge))
    assert (entry["joined"], entry["apart"]) == (len(found), len(places) - len(found))
    assert sum(entry["reasons"].values()) == entry["apart"]
    if kind == "sensor":
        assert entry["reasons"]["no place"] == 1
        assert entry["reasons"]["beyond the limit"] >= 1


def test_a_sensor_that_names_its_segment_goes_there_and_headings_choose_the_side() -> None:
    bundles = town(1)
    table = bundles[2].nodes["sensor"]
    here = bundles[0].nodes["segment"]["node_id"].to_pylist()
    named = [here[7] if i == 3 else here[9] if i == 0 else "" for i in range(9)]
    middle = numbers(bundles[0].nodes["segment"]["lonlat"])
    places = np.array(numbers(table["lonlat"]))
    places[4:6] = middle[2], middle[2]  # on a street that is driven to the east and to the west
    bundles[2].nodes["sensor"] = pa.table({
        "node_id": table["node_id"], "lonlat": column(places), "segment_id": named,
        "heading": ["", "", "", "", "E", "W", "", "", ""]})
    tables, report = merge_tables(bundles)
    found = joined(tables, ON)
    assert found["s3"][0] == here[7]
    assert found["s0"][0] == here[9]  # its place is not known
    net = Roads.of(bundles[0])
    for name, heading in (("s4", 90), ("s5", 270)):
        segment = here.index(found[name][0])
        assert np.cos(np.radians(net.heading(np.array([segment]), np.array([50.0]))[0] - heading)) > 0.9
    join = next(one for one in report["joins"] if one["relation"] == "sensor__on__segment")
    assert join["remarks"]["by its segment_id"] == 2


def test_events_and_sensors_meet_the_roads_of_their_time() -> None:
    bundles = town(1)
    ids = bundles[0].nodes["segment"]["node_id"].to_pylist()
    change = MONDAY + 450
    graph = change_speed(bundles[0].graph(), ids, 7.0, change)
    graph = close_segment(graph, ids[:20], change, MONDAY + 100_000)
    named = ["", ids[30], *[""] * 7]
    bundles[2].nodes["sensor"] = bundles[2].nodes["sensor"].append_column("segment_id", pa.array(named))
    tables, _ = merge_tables([GraphTables.of_graph(graph), *bundles[1:]])
    rows = {name: row for row, name in enumerate(tables.nodes["segment"]["node_id"].to_pylist())}
    start, end = (numbers(tables.nodes["segment"][name]) for name in ("valid_from", "valid_to"))
    times = dict(zip(tables.nodes["event"]["node_id"].to_pylist(), numbers(tables.nodes["event"]["time"]).tolist(),
                     strict=True))
    whole, part = (joined(merge_tables([one, *town(1)[1:]])[0], AT) for one in
                   (bundles[0], GraphTables.of_graph(graph.at(change))))
    found = joined(tables, AT)
    assert {times[name] < change for name in found} == {False, True}
    for name, (segment, distance) in found.items():
        assert start[rows[segment]] <= times[name] < end[rows[segment]]
        assert (segment, distance) == (whole if times[name] < change else part)[name]
    assert set(found) == {name for name in times if name in (whole if times[name] < change else part)}
    sensors = joined(tables, ON)
    assert all(segment.endswith("@2") for segment, _ in sensors.values())
    assert sensors["s1"][0] == f"{ids[30]}@2"  # the version that stands


def test_every_sensor_is_affected_by_its_nearest_stations() -> None:
    bundles = town(2)
    tables, _ = merge_tables(bundles, stations=2)
    table = tables.edges[AFFECTS]
    found: dict[int, list[int]] = {}
    for station, sensor in zip(table[SOURCE].to_pylist(), table[TARGET].to_pylist(), strict=True):
        found.setdefault(sensor, []).append(station)
    stations, places = (numbers(tables.nodes[kind]["lonlat"]) for kind in ("weather", "sensor"))
    geod = Geod(ellps="WGS84")
    for sensor, place in enumerate(places):
        if not np.isfinite(place).all():
            assert sensor not in found
            continue
        away = [geod.inv(*place, *station)[2] for station in stations]
        assert sorted(found[sensor]) == sorted(np.argsort(away)[:2].tolist())


def test_sensors_and_events_are_in_the_regions_that_cover_them() -> None:
    bundles = town(4)
    shapes = [shapely.box(8.0, 47.0, 8.004, 47.01), shapely.box(8.004, 47.0, 8.02, 47.003)]
    regions = GraphTables(metadata={"name": "regions"}, nodes={"region": pa.table({
        "node_id": ["west", "east"], "lonlat": column(np.array([[8.002, 47.005], [8.012, 47.0015]])),
        "geometry": Geometry.from_shapely(shapes).wkb})})
    tables, report = merge_tables([*bundles, regions])
    for kind, edge in (("sensor", IN), ("event", ("event", "at", "region"))):
        found = joined(tables, edge)
        for name, place in zip(tables.nodes[kind]["node_id"].to_pylist(), numbers(tables.nodes[kind]["lonlat"]),
                               strict=True):
            inside = [shapely.covers(shape, shapely.Point(place)) if np.isfinite(place).all() else False
                      for shape in shapes]
            assert found.get(name, ("nowhere", 0))[0] == ("west" if inside[0] else "east" if inside[1] else "nowhere")
    assert any(one["relation"] == "sensor__in__region" for one in report["joins"])


def test_what_a_bundle_joined_itself_is_not_joined_again() -> None:
    bundles = town(1)
    first, _ = merge_tables(bundles[:2])
    again, report = merge_tables([first, bundles[0]])
    assert len(again.edges[AT]) == len(first.edges[AT])
    assert not report["joins"]


# -------------------------------------------------------------------- layers
def trips_on(network: GraphTables, rows: list[int], axis: TimeAxis, name: str, signal: str = "traffic",
             seed: int = 0) -> GraphTables:
    """Counts on some segments of a network, as build trips gives them."""
    chance = np.random.default_rng(seed)
    tables = GraphTables(metadata={"name": name, "sources": [{"file": f"{name}.csv"}]}, time=axis)
    tables.nodes["segment"] = network.nodes["segment"].take(pa.array(rows)).append_column("road_segment",
                                                                                         pa.array(rows))
    mask = chance.random((axis.length, len(rows), 1)) < 0.7
    values = np.where(mask, chance.integers(0, 9, mask.shape), 0).astype(np.float32)
    tables.signals["segment"] = {signal: Signal(values, mask, [Channel("count", "count")])}
    tables.tables["matches"] = pa.table({"trip": [name]})
    return tables


def test_the_segments_of_trips_are_those_of_the_roads() -> None:
    network, axis = roads(), TimeAxis(MONDAY, 900, 8)
    rows = [30, 2, 17]
    tables, report = merge_tables([trips_on(network, rows, axis, "trips"), network])
    assert tables.nodes["segment"]["node_id"].to_pylist() == network.nodes["segment"]["node_id"].to_pylist()
    assert Roads.of(tables).tail.tolist() == Roads.of(network).tail.tolist()
    expected = np.full(48, -1)
    expected[rows] = rows
    assert tables.nodes["segment"]["road_segment"].to_pylist() == expected.tolist()
    own = trips_on(network, rows, axis, "trips").signals["segment"]["traffic"]
    merged = tables.signals["segment"]["traffic"]
    assert np.array_equal(merged.values[:, rows], own.values)
    assert np.array_equal(merged.mask[:, rows], own.mask)
    assert merged.mask.sum() == own.mask.sum()
    layer = next(one for one in report["layers"] if one["type"] == "segment")
    assert (layer["how"], layer["nodes"], sorted(layer["of_each"])) == ("joined by id", 48, [3, 48])


def test_two_months_of_trips_become_one_signal_and_two_tables() -> None:
    network = roads()
    months = [trips_on(network, [1, 2], TimeAxis(MONDAY + start, 900, 8), name, seed=start)
              for start, name in ((0, "may"), (7200, "june"))]
    tables, _ = merge_tables([network, *months])
    merged = tables.signals["segment"]["traffic"]
    assert tables.time == TimeAxis(MONDAY, 900, 16)
    for half, month in enumerate(months):
        own = month.signals["segment"]["traffic"]
        assert np.array_equal(merged.mask[8 * half:8 * half + 8, [1, 2]], own.mask)
        assert np.array_equal(merged.values[8 * half:8 * half + 8, [1, 2]], own.values)
    assert sorted(tables.tables) == ["matches_june", "matches_may"]


def test_two_cities_stand_side_by_side() -> None:
    """Ids collide: they get the names of the cities; each sensor is on a street of its own city."""
    cities = [roads(1, "bern", 7.4), roads(2, "basel", 107.6)]
    axis = TimeAxis(MONDAY, 300, 4)
    sensors = []
    for name, city in zip(("b", "z"), cities, strict=True):
        middle = numbers(city.nodes["segment"]["lonlat"])[[3, 8]]
        sensors.append(readings(axis, np.array(middle), f"loops {name}", ["1", "2"], seed=len(sensors)))
    tables, report = merge_tables([*cities, *sensors])
    tables.validate()
    assert len(tables.nodes["segment"]) == 96
    assert tables.nodes["junction"]["node_id"].to_pylist()[0].split("/")[0] in ("bern", "basel")
    merged = Roads.of(tables)
    ids = tables.nodes["segment"]["node_id"].to_pylist()
    for city, name in zip(cities, ("bern", "basel"), strict=True):
        own = Roads.of(city)
        rows = [ids.index(f"{name}/{one}") for one in city.nodes["segment"]["node_id"].to_pylist()]
        assert np.array_equal(merged.length[rows], own.length)
        assert np.array_equal(merged.junction_xy[merged.tail[rows]], own.junction_xy[own.tail])
    found = joined(tables, ON)
    assert len(found) == 4
    assert all(away < 0.1 for _, away in found.values())
    where = {name.split("/")[0]: segment.split("/")[0] for name, (segment, _) in found.items()}
    assert where == {"loops_b": "bern", "loops_z": "basel"}
    assert any("collide" in note for note in report["notes"])


def test_sensors_of_another_kind_are_kept_apart() -> None:
    axis = TimeAxis(MONDAY, 300, 4)
    places = np.array([[8.001, 47.001], [8.002, 47.002]])
    speed = readings(axis, places, "loops", ["1", "2"])
    air = readings(axis, places, "air", ["3", "4"], channels=(Channel("pm25", "concentration", "ug/m3"),))
    tables, report = merge_tables([speed, air, roads()])
    assert set(tables.nodes) == {"sensor_loops", "sensor_air", "junction", "segment"}
    assert ("sensor_air", "near", "sensor_air") in tables.edges
    assert {one["relation"] for one in report["joins"]} == {"sensor_loops__on__segment", "sensor_air__on__segment"}
    assert any("kept apart" in note for note in report["notes"])


def test_ids_of_unplaced_networks_are_not_taken_for_the_same() -> None:
    """Two metros with stations 0, 1 and no places: both have readings, so these are not the same stations."""
    axis = TimeAxis(MONDAY, 300, 4)
    metros = [readings(axis, np.full((2, 2), np.nan), name, ["0", "1"], seed) for seed, name in enumerate("ab")]
    tables, _ = merge_tables(metros)
    assert sorted(tables.nodes["sensor"]["node_id"].to_pylist()) == ["a/0", "a/1", "b/0", "b/1"]


def test_weather_is_known_by_what_it_measures_or_by_name() -> None:
    axis, places = TimeAxis(MONDAY, 300, 4), np.array([[8.001, 47.001]])
    loops = readings(axis, places, "loops", ["1"])
    other = readings(axis, places, "sky", ["1"], channels=(Channel("blue"),))
    assert "weather" not in merge_tables([loops, other])[0].nodes
    assert "weather" in merge_tables([loops, other], weather=["sky"])[0].nodes
    windy = readings(axis, places, "sky", ["1"], channels=(Channel("wind_speed", "speed", "m/s"), Channel("rain")))
    tables, report = merge_tables([loops, windy])
    assert "weather" in tables.nodes
    assert any("weather stations" in note for note in report["notes"])


def test_contradictions_are_refused_unless_one_is_preferred() -> None:
    one, other = roads(0, "old"), roads(0, "new")
    faster = pa.array(numbers(other.nodes["segment"]["speed"]) + 5)
    other.nodes["segment"] = other.nodes["segment"].set_column(
        other.nodes["segment"].column_names.index("speed"), "speed", faster)
    with pytest.raises(InputError, match="contradict") as error:
        merge_tables([one, other])
    assert error.value.field == "segment.speed"
    for prefer, bundle in (("old", one), ("new", other)):
        tables, _ = merge_tables([one, other], prefer=prefer)
        assert tables.nodes["segment"]["speed"].to_pylist() == bundle.nodes["segment"]["speed"].to_pylist()
        assert len(tables.nodes["segment"]) == 48
        assert len(tables.edges["segment", "turn", "segment"]) == 2


def test_readings_that_contradict_each_other_are_refused() -> None:
    axis, places = TimeAxis(MONDAY, 300, 6), np.array([[8.001, 47.001], [8.002, 47.002]])
    one, other = (readings(axis, places, name, ["1", "2"], seed) for seed, name in enumerate(("one", "two")))
    other.edges = dict(one.edges)
    with pytest.raises(InputError, match="different values"):
        merge_tables([one, other])
    merged = merge_tables([one, other], prefer="two")[0].signals["sensor"]["readings"]
    first, second = (bundle.signals["sensor"]["readings"] for bundle in (one, other))
    assert np.array_equal(merged.mask, first.mask | second.mask)
    assert np.array_equal(merged.values, np.where(second.mask, second.values, first.values))


def test_what_only_some_say_is_unknown_for_the_others() -> None:
    one, other = roads(1, "bern", 7.4), roads(2, "basel", 107.6, first=100)
    count = len(other.nodes["segment"])
    other.nodes["segment"] = other.nodes["segment"].append_column("grade", pa.array(np.ones(count))).append_column(
        "lanes", pa.array(np.full(count, 2, np.int16))).append_column("note", pa.array(["x"] * count)).append_column(
        "bridge", pa.array(np.arange(count) % 2 == 0)).append_column(
        "surface", categories(np.zeros(count, int), ["paved"])).append_column(
        "valid_from", pa.array(np.full(count, 5, np.int64)))
    tables, _ = merge_tables([one, other])
    table = tables.nodes["segment"]
    mine = np.array([len(one.split("-")[0]) < 3 for one in table["node_id"].to_pylist()])  # basel has 100-101-0
    assert mine.sum() == 48
    assert np.isnan(numbers(table["grade"])[mine]).all()
    assert set(numbers(table["lanes"])[mine]) == {-1}
    assert table["lanes"].type == pa.int16()
    assert set(np.array(table["note"].to_pylist())[mine]) == {""}
    assert set(numbers(table["bridge"])[mine]) == {-1}
    assert set(numbers(table["bridge"])[~mine]) == {0, 1}
    assert set(np.array(table["surface"].to_pylist())[mine]) == {""}
    assert set(numbers(table["valid_from"])[mine]) == {OPEN_START}
    tables.graph().validate()


# -------------------------------------------------------------------- time
def two_axes(step: int, channels: tuple[Channel, ...], seed: int = 0, **options: Any) -> tuple[Any, Any, GraphTables]:
    """Sensors of five minutes and others of ``step``, merged on the coarser or finer axis."""
    places = np.array([[8.001, 47.001], [8.002, 47.002]])
    fine = readings(TimeAxis(MONDAY, 300, 48), places, "fine", ["a", "b"], seed, channels)
    coarse = readings(TimeAxis(MONDAY, step, 48 * 300 // step), places + 0.1, "coarse", ["c", "d"], seed + 1, channels)
    return fine.signals["sensor"]["readings"], coarse.signals["sensor"]["readings"], merge_tables(
        [fine, coarse], **options)[0]


FLOWS = (Channel("speed", "speed", "m/s"), Channel("count", "count"))


def columns(tables: GraphTables, names: list[str]) -> list[int]:
    ids = tables.nodes["sensor"]["node_id"].to_pylist()
    return [ids.index(name) for name in names]


@pytest.mark.parametrize("interval", ["15min", "1h", "4h"])
def test_finer_steps_become_means_and_sums(interval: str) -> None:
    fine, _, tables = two_axes(900, FLOWS, interval=interval)
    merged, picked = tables.signals["sensor"]["readings"], columns(tables, ["a", "b"])
    step = tables.time.step
    per = step // 300
    assert tables.time.length == 48 // per
    for row in range(tables.time.length):
        for node in range(2):
            here = slice(row * per, (row + 1) * per)
            seen, values = fine.mask[here, node], fine.values[here, node]
            found = merged.values[row, picked[node]], merged.mask[row, picked[node]]
            assert found[1].tolist() == [seen[:, 0].any(), seen[:, 1].all()]
            if seen[:, 0].any():
                assert found[0][0] == pytest.approx(values[seen[:, 0], 0].mean(), rel=1e-6)
            if seen[:, 1].all():
                assert found[0][1] == values[:, 1].sum()


def test_coarser_steps_are_held_from_when_they_were_known() -> None:
    _, coarse, tables = two_axes(3600, FLOWS)
    merged, picked = tables.signals["sensor"]["readings"], columns(tables, ["c", "d"])
    assert tables.time.step == 300
    for row in range(48):
        end = (row + 1) * 300
        known = end // 3600 - 1  # the last hour that is over when the row is
        for node in range(2):
            found = merged.mask[row, picked[node]]
            assert found.tolist() == (coarse.mask[known, node].tolist() if known >= 0 else [False, False])
            if found[0]:
                assert merged.values[row, picked[node], 0] == coarse.values[known, node, 0]
            if found[1]:
                assert merged.values[row, picked[node], 1] == pytest.approx(coarse.values[known, node, 1] / 12)
    total = coarse.values[:-1, :, 1][coarse.mask[:-1, :, 1]].sum()  # the last hour is known when the axis ends
    last = coarse.values[-1, :, 1][coarse.mask[-1, :, 1]].sum() / 12
    assert merged.values[:, picked, 1].sum() == pytest.approx(total + last, rel=1e-5)


def test_readings_at_an_instant_are_held_from_then() -> None:
    _, coarse, tables = two_axes(3600, FLOWS, instant=True)
    merged, picked = tables.signals["sensor"]["readings"], columns(tables, ["c", "d"])
    assert np.array_equal(merged.mask[:, picked], np.repeat(coarse.mask, 12, axis=0))
    assert np.array_equal(merged.values[:, picked, 0], np.repeat(coarse.values[..., 0], 12, axis=0))


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 47))
def test_no_row_knows_the_future(seed: int, row: int) -> None:
    """Other readings from a time on leave all rows before it as they were."""
    places = np.array([[8.001, 47.001]])
    bundles = [readings(TimeAxis(MONDAY, step, 4 * 3600 // step), places + step / 1e5, f"s{step}", [str(step)], seed,
                        FLOWS) for step in (300, 900, 3600)]
    before = merge_tables(bundles)[0].signals["sensor"]["readings"]
    changed = []
    for bundle in bundles:
        signal = bundle.signals["sensor"]["readings"]
        ends = bundle.time.times() + bundle.time.step
        values = np.where((ends > MONDAY + 300 * row)[:, None, None], signal.values + 1, signal.values)
        copy = GraphTables(dict(bundle.nodes), dict(bundle.edges), dict(bundle.metadata), bundle.time)
        copy.signals["sensor"] = {"readings": Signal(values.astype(np.float32), signal.mask, FLOWS)}
        changed.append(copy)
    after = merge_tables(changed)[0].signals["sensor"]["readings"]
    assert np.array_equal(before.values[:row], after.values[:row])
    assert np.array_equal(before.mask[:row], after.mask[:row])


def test_service_days_meet_plain_days() -> None:
    """Nights that the metro does not run are nights without readings."""
    places = np.array([[8.001, 47.001]])
    metro = readings(TimeAxis(MONDAY + 5 * 3600, 600, 3 * 108, "UTC", 108), places, "metro", ["m"])
    loops = readings(TimeAxis(MONDAY, 600, 3 * 144), places + 0.1, "loops", ["l"])
    tables, _ = merge_tables([metro, loops])
    assert tables.time == TimeAxis(MONDAY, 600, 3 * 144)
    mask = tables.signals["sensor"]["readings"].mask[:, columns(tables, ["m"])[0], 0].reshape(3, 144)
    assert not mask[:, :30].any()
    assert np.array_equal(mask[:, 30:138].reshape(-1), metro.signals["sensor"]["readings"].mask[:, 0, 0])
    assert not mask[:, 138:].any()


def local_days(first: str, last: str, name: str, place: float, tz: str = "Europe/Berlin") -> GraphTables:
    """Readings of days from midnight to midnight, as ``build sensors`` lays them: the number of the day in 1970."""
    stamps = pd.date_range(first, last, freq="1D", tz=tz)
    days = stamps.tz_localize(None).to_numpy().astype("datetime64[D]").astype(np.int64)
    layout = lay_out(stamps.as_unit("s").asi8, tz, DAY, None, repair=False, file=name, field="time")
    tables = readings(layout.axis, np.array([[8.0 + place, 47.001]]), name, [name], channels=FLOWS[1:])
    tables.signals["sensor"]["readings"] = Signal(days.astype(np.float32)[:, None, None], None, FLOWS[1:])
    return tables


@pytest.mark.parametrize("spans", [
    (("2024-03-20", "2024-04-10"), ("2024-03-25", "2024-04-15")),  # over the change, both
    (("2024-03-20", "2024-03-31"), ("2024-03-25", "2024-03-31")),  # up to the day of 23 hours
    (("2024-10-20", "2024-10-27"), ("2024-10-28", "2024-11-03")),  # from the day of 25 hours on
    (("2024-01-01", "2024-01-05"), ("2024-07-01", "2024-07-05")),  # regular in UTC, each for itself
    (("2024-10-29", "2024-11-03"), ("2024-10-01", "2024-10-31"))])
def test_days_of_one_zone_stay_days(spans: tuple[tuple[str, str], tuple[str, str]]) -> None:
    bundles = [local_days(*span, f"n{i}", i / 100) for i, span in enumerate(spans)]
    tables, _ = merge_tables(bundles, allow_gaps=spans[0][0] == "2024-01-01")
    first, last = min(one for one, _ in spans), max(one for _, one in spans)
    wanted = np.arange(np.datetime64(first, "D"), np.datetime64(last, "D") + 1)
    assert np.array_equal(tables.time.clock, wanted.astype("datetime64[s]").astype(np.int64))
    signal = tables.signals["sensor"]["readings"]
    for node, (begin, end) in zip(columns(tables, ["n0", "n1"]), spans, strict=True):
        there = (wanted >= np.datetime64(begin)) & (wanted <= np.datetime64(end))
        assert np.array_equal(signal.mask[:, node, 0], there)
        assert np.array_equal(signal.values[there, node, 0], wanted[there].astype(np.int64))


@pytest.mark.parametrize(("interval", "hours"), [("1D", [24, 23, 24, 25]), ("12h", [12, 12, 11, 12, 12, 12, 13, 12])])
def test_hours_become_whole_days_of_the_clock(interval: str, hours: list[int]) -> None:
    """Days of 23 and 25 hours have all their hours, and every count is in one of them."""
    total = []
    for first in ("2024-03-30", "2024-10-26"):
        start, end = (pd.Timestamp(first, tz="Europe/Berlin") + pd.DateOffset(days=days) for days in (0, 2))
        axis = TimeAxis(int(start.timestamp()), 3600, int((end - start).total_seconds()) // 3600, "Europe/Berlin")
        loops = readings(axis, np.array([[8.0, 47.001]]), "loops", ["l"], channels=FLOWS[1:])
        loops.signals["sensor"]["readings"] = Signal(np.ones((axis.length, 1, 1), np.float32), None, FLOWS[1:])
        other = local_days(first, str(end.date() - pd.Timedelta(days=1)), "days", 0.1)
        tables, _ = merge_tables([loops, other], interval=interval)
        signal = tables.signals["sensor"]["readings"]
        node = columns(tables, ["l"])[0]
        assert signal.mask[:, node].all()
        total += signal.values[:, node, 0].tolist()
    assert total == hours


def test_steps_that_are_regular_in_utc_stay_so() -> None:
    """Synoptic readings at 00 and 12 UTC are on no clock with summer time."""
    start = 1_711_497_600  # 2024-03-27T00:00 UTC
    axes = [TimeAxis(start + days * DAY, 43_200, 14, "Europe/Berlin") for days in (0, 2)]
    bundles = [readings(axis, np.array([[8.0 + i, 47.0]]), f"n{i}", [f"{i}"]) for i, axis in enumerate(axes)]
    assert merge_tables(bundles)[0].time == TimeAxis(start, 43_200, 18, "Europe/Berlin")


def test_weeks_do_not_hold_days_of_the_clock() -> None:
    bundles = [local_days("2024-03-20", end, f"n{i}", i / 10) for i, end in enumerate(("2024-04-10", "2024-04-12"))]
    with pytest.raises(InputError, match="do not stay on the clock") as error:
        merge_tables(bundles, interval="7D")
    assert "1D" in error.value.remedy


def test_equal_axes_are_kept_even_with_service_days() -> None:
    places = np.array([[8.001, 47.001]])
    axis = TimeAxis(MONDAY + 5 * 3600, 600, 216, "UTC", 108)
    tables, _ = merge_tables([readings(axis, places, "a", ["1"]), readings(axis, places + 0.1, "b", ["2"])])
    assert tables.time == axis


def test_signals_of_edges_follow_their_edges() -> None:
    places = np.array([[8.001, 47.001], [8.002, 47.002], [8.003, 47.003]])
    axis = TimeAxis(MONDAY, 300, 4)
    one, other = readings(axis, places, "one", ["a", "b", "c"]), readings(axis, places + 1, "two", ["d", "e", "f"])
    values = np.arange(12, dtype=np.float32).reshape(4, 3, 1)
    for bundle in (one, other):
        bundle.signals[NEAR] = {"travel": Signal(values.copy(), None, [Channel("travel_time", "travel_time", "s")])}
        values = values + 100
    tables, _ = merge_tables([other, one])
    signal = tables.signals[NEAR]["travel"]
    ids = tables.nodes["sensor"]["node_id"].to_pylist()
    ends = {(ids[a], ids[b]): row for row, (a, b) in enumerate(zip(
        tables.edges[NEAR][SOURCE].to_pylist(), tables.edges[NEAR][TARGET].to_pylist(), strict=True))}
    for bundle, names in ((one, "abc"), (other, "def")):
        table, own = bundle.edges[NEAR], bundle.signals[NEAR]["travel"].values
        for row, (a, b) in enumerate(zip(table[SOURCE].to_pylist(), table[TARGET].to_pylist(), strict=True)):
            assert np.array_equal(signal.values[:, ends[names[a], names[b]]], own[:, row])


@pytest.mark.parametrize(("axes", "options", "problem"), [
    ((TimeAxis(MONDAY, 300, 10), TimeAxis(MONDAY + 86400, 300, 10)), {}, "leave a gap"),
    ((TimeAxis(MONDAY, 600, 10), TimeAxis(MONDAY, 900, 10)), {}, "do not fit into each other"),
    ((TimeAxis(MONDAY, 300, 10), TimeAxis(MONDAY + 100, 300, 10)), {}, "do not begin together"),
    ((TimeAxis(MONDAY, 300, 10), TimeAxis(MONDAY, 600, 10)), {"interval": "7min"}, "do not fit into each other")])
def test_times_that_do_not_fit_are_refused(axes: tuple[TimeAxis, TimeAxis], options: dict[str, Any],
                                           problem: str) -> None:
    places = np.array([[8.001, 47.001]])
    with pytest.raises(InputError, match=problem) as error:
        merge_tables([readings(axis, places + i, f"n{i}", [f"{i}"]) for i, axis in enumerate(axes)], **options)
    assert error.value.remedy


def test_gaps_may_be_allowed() -> None:
    axes = TimeAxis(MONDAY, 300, 10), TimeAxis(MONDAY + 86400, 300, 10)
    places = np.array([[8.001, 47.001]])
    days = [readings(axis, places, f"n{i}", ["s"], i) for i, axis in enumerate(axes)]
    days[1].edges = dict(days[0].edges)
    tables, _ = merge_tables(days, allow_gaps=True)
    assert tables.time.length == 288 + 10
    assert len(tables.nodes["sensor"]) == 1  # the same sensor on two days
    assert not tables.signals["sensor"]["readings"].mask[10:288].any()


def test_large_signals_are_not_made_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is made when rows are read equals what is made at once."""
    import stgraph.sources.merge.align as align

    bundles = town(2)
    at_once, _ = merge_tables(bundles)
    monkeypatch.setattr(align, "IN_MEMORY", 0)
    lazy, _ = merge_tables(bundles, out=tmp_path / "city.stg")
    assert not isinstance(lazy.signals["weather"]["readings"].values, np.ndarray)
    assert facts(lazy) == facts(at_once)
    assert facts(GraphTables.of_graph(load(tmp_path / "city.stg"))) == facts(at_once)


# -------------------------------------------------------------------- provenance and faults
def test_licences_and_attributions_of_all_are_carried_along(tmp_path: Path) -> None:
    bundles = town(1)
    bundles[3].metadata["simulated"] = True
    bundles[1].metadata["sources"] = bundles[0].metadata["sources"]
    tables, _ = merge_tables(bundles, out=tmp_path / "city.stg")
    story = tables.metadata
    assert story["name"] == "city"
    assert story["simulated"] is True
    files = [source["file"] for source in story["sources"]]
    assert sorted(files) == ["loops.csv", "meteo.csv", "roads.osm.pbf"]
    assert {source.get("attribution") for source in story["sources"]} == {
        "(c) OpenStreetMap contributors", "Office of loops", "Office of meteo"}
    assert [one["name"] for one in story["bundles"]] == ["roads", "events", "loops", "meteo"]
    written = json.loads((tmp_path / "city.stg" / "graph.json").read_text(encoding="utf-8"))
    assert written["licences"] == ["ODbL-1.0", "CC0"]


@pytest.mark.parametrize(("make", "options", "problem", "field"), [
    (lambda: [], {}, "nothing to merge", "bundles"),
    (lambda: [roads(), roads()], {}, "one name", "bundles"),
    (lambda: [roads(), events(0)], {"prefer": "else"}, "no bundle has this name", "prefer"),
    (lambda: [roads(), events(0)], {"weather": ["else"]}, "no bundle has this name", "weather"),
    (lambda: [roads(), events(0)], {"stations": 0}, "out of range", "stations"),
    (lambda: [roads(), events(0)], {"attach_limit": -1.0}, "out of range", "attach_limit"),
    (lambda: town()[1:], {"interval": "soon"}, "not an interval", "interval"),
    (lambda: [roads(), trips_on(roads(1, first=500), [1], TimeAxis(MONDAY, 900, 4), "trips")], {},
     "roads are not there", "segment")])
def test_faults_name_their_parts_and_write_nothing(tmp_path: Path, make: Any, options: dict[str, Any], problem: str,
                                                   field: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        build_merge(make(), out=tmp_path / "city.stg", **options)
    assert error.value.field == field
    assert error.value.remedy
    assert not list(tmp_path.iterdir())


def test_segments_that_the_roads_lack_are_refused() -> None:
    network = roads()
    part = GraphTables(dict(network.nodes), dict(network.edges), dict(network.metadata))
    trips = trips_on(network, [0, 1, 47], TimeAxis(MONDAY, 900, 4), "trips")
    names = trips.nodes["segment"]["node_id"].to_pylist()
    trips.nodes["segment"] = trips.nodes["segment"].set_column(0, "node_id", pa.array([*names[:2], "elsewhere"]))
    with pytest.raises(InputError, match="not among the roads") as error:
        merge_tables([part, trips])
    assert error.value.value == "elsewhere"


def test_roads_in_plain_metres_and_in_degrees_are_refused() -> None:
    plain = Roads(np.array([1, 2]), np.array([[0.0, 0], [9, 0]]), np.array([0]), np.array([1]), np.array([9.0]),
                  np.array([0, 2]), np.array([[0.0, 0], [9, 0]]), metric=True).tables()
    plain.metadata = {"name": "plain"}
    with pytest.raises(InputError, match="plain metres"):
        merge_tables([roads(), plain])


# -------------------------------------------------------------------- the command, on a simulated city and on real data
def command(*words: str) -> tuple[int, dict[str, Any], str]:
    done = CliRunner().invoke(app, ["build", *words, "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout), done.stderr


def test_a_city_from_files_to_one_graph(tmp_path: Path) -> None:
    """Map, loops, trips, incidents and weather of the simulated city in one graph."""
    from stgraph.sources.simulate.city import simulate_city, write_source_files

    city = simulate_city(size="small", days=1)
    files = write_source_files(city, tmp_path)
    bundle = {name: str(tmp_path / f"{name}.stg") for name in ("roads", "loops", "trips", "incidents", "sky", "city")}
    command("osm", str(files["roads"]), "-o", bundle["roads"])
    command("sensors", str(files["readings"]), "--key", "speed", "--ids-key", "sensor_id", "--time-key", "timestamp",
            "--locations", str(files["sensors"]), "--quantity", "speed", "--tz", "UTC", "--simulated", "-o",
            bundle["loops"])
    command("trips", str(files["trips"]), "--roads", bundle["roads"], "--signals", "-o", bundle["trips"])
    command("events", str(files["events"]), "--on", bundle["roads"], "--type-key", "kind", "--time-key", "start", "-o",
            bundle["incidents"])
    hours = pd.date_range("2024-03-03T20:00Z", periods=30, freq="1h")
    pd.DataFrame({"w": np.arange(30.0)}, hours).to_csv(tmp_path / "sky.csv", index_label="time")
    pd.DataFrame({"id": ["w"], "longitude": [-30.0], "latitude": [30.0]}).to_csv(tmp_path / "places.csv", index=False)
    command("sensors", str(tmp_path / "sky.csv"), "--locations", str(tmp_path / "places.csv"), "--quantity",
            "temperature", "--unit", "degC", "-o", bundle["sky"])
    code, report, people = command("merge", bundle["loops"], bundle["sky"], bundle["incidents"], bundle["trips"],
                                   bundle["roads"], "-o", bundle["city"])
    assert code == 0
    graph = load(bundle["city"])
    assert report["data_sha256"] == data_sha256(bundle["city"])
    assert graph.size_of("sensor") == len(city.sensors)
    assert graph.size_of("event") == len(city.events)
    assert graph.size_of("segment") == load(bundle["roads"]).size_of("segment")
    assert graph["trip", "drives", "segment"].edge_index.shape[1] == len(load(bundle["trips"]).table("matches"))
    assert graph.signal("weather").shape[1] == 1
    assert graph.simulated
    joins = {one["relation"]: one for one in report["joins"]}
    assert joins["sensor__on__segment"]["joined"] == len(city.sensors)
    assert joins["weather__affects__sensor"]["joined"] == len(city.sensors)
    assert "sensor on segment" in " ".join(people.split())
    at = graph[AT].edge_index
    assert at.shape[1] == len(city.events)  # as the events were built, not once more


def test_a_bundle_is_not_written_over_by_its_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(roads(), "a.stg")
    save(roads(1, "b", west=9.0), "b.stg")
    before = data_sha256("a.stg")
    with pytest.raises(InputError, match="write over what is read"):
        command("merge", "a.stg", "b.stg", "-o", "./a.stg")
    assert data_sha256("a.stg") == before


def test_a_fault_on_the_command_line(tmp_path: Path) -> None:
    save(roads(), tmp_path / "a.stg")
    with pytest.raises(InputError):
        command("merge", str(tmp_path / "a.stg"), str(tmp_path / "b.stg"), "-o", str(tmp_path / "c.stg"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.stg"]


def test_loops_of_two_real_cities(shared_data: Path, tmp_path: Path) -> None:
    """Los Angeles 2012 and San Jose 2017: refused for the gap, then one type of 223 sensors that is read by part."""
    made = []
    for name, words in (("los", ["los_loop/speed.npz", "--start", "2012-03-01T00:00", "--interval", "5min",
                                 "--locations", "los_loop/sensors.csv"]),
                        ("bay", ["pems_bay_16/speed.npz", "--time-key", "timestamp", "--local-clock", "--missing-value",
                                 "0", "--locations", "pems_bay_16/sensors.csv"])):
        paths = [str(shared_data / word) if "/" in word else word for word in words]
        made.append(str(tmp_path / f"{name}.stg"))
        command("sensors", *paths, "--key", "speed_mph", "--ids-key", "sensor_id", "--quantity", "speed", "--unit",
                "mph", "--tz", "America/Los_Angeles", "-o", made[-1])
    with pytest.raises(InputError, match="leave a gap"):
        merge_tables(made)
    tables, _ = merge_tables(made, allow_gaps=True)
    assert len(tables.nodes["sensor"]) == 223
    signal = tables.signals["sensor"]["readings"]
    assert signal.shape[0] > 500_000
    los = load(made[0])
    first, mask = signal.read(0, los.time.length)
    rows = [tables.nodes["sensor"]["node_id"].to_pylist().index(one) for one in los["sensor"].node_id.tolist()]
    assert np.array_equal(first[:, rows], los.signal("sensor").values)
    assert mask.sum() == los.signal("sensor").read(0, los.time.length)[1].sum()


def test_lives_without_end_stay_so() -> None:
    graph = DynamicHeteroGraph(metadata={"name": "one"})
    graph["sensor"].node_id = np.array(["a", "b"])
    graph["sensor"].valid_to = torch.tensor([OPEN_END, 7])
    merged, _ = build_merge([graph, roads()])
    assert merged["sensor"].valid_to.tolist() == [OPEN_END, 7]
