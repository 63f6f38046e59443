"""Ways between sensors equal networkx and the simulated city's own; ``build sensors --roads`` makes a graph of them."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from stgraph.cli.main import app
from stgraph.errors import InputError
from stgraph.graph import load, save
from stgraph.roads import LocalProjection, Roads
from stgraph.roads.edit import change_speed, close_segment
from stgraph.sources.osm.build import build_osm
from stgraph.sources.readings import Readings
from stgraph.sources.road_distances import REACH, put_on_roads, road_pairs
from stgraph.sources.sensors import NEAR, build_sensors
from stgraph.sources.simulate.city import simulate_city

sys.path.insert(0, str(Path(__file__).parents[1] / "roads"))
from towns import make_roads, random_town

TIMES = pd.date_range("2024-03-04", periods=24, freq="1h")


def on_the_globe(roads: Roads) -> Roads:
    """A made town around a place in degrees."""
    plane = LocalProjection(24.94, 60.17)
    return replace(roads, metric=False, junction_xy=plane.lonlat(roads.junction_xy),
                   line_xy=plane.lonlat(roads.line_xy))


def by_networkx(roads, segment, offset, radius) -> dict[tuple[int, int], float]:
    """Dijkstra from each sensor on a graph of starts of segments and of sensors, which lie between."""
    graph = nx.DiGraph()
    marks: dict[int, list[tuple[float, tuple]]] = {}
    for row in np.argsort(offset, kind="stable").tolist():
        marks.setdefault(int(segment[row]), []).append((float(offset[row]), ("sensor", row)))
    last = {}
    for s, length in enumerate(roads.length.tolist()):
        chain = [(0.0, ("start", s)), *marks.get(s, [])]
        for (a, u), (b, v) in itertools.pairwise(chain):
            graph.add_edge(u, v, weight=b - a)
        last[s] = chain[-1][1], length - chain[-1][0]
    for s, t in roads.turn_index.T.tolist():
        graph.add_edge(last[s][0], ("start", t), weight=last[s][1])
    out = {}
    for row in range(len(segment)):
        found = nx.single_source_dijkstra_path_length(graph, ("sensor", row), cutoff=radius + 1e-6)
        out |= {(row, node[1]): way for node, way in found.items() if node[0] == "sensor" and node[1] != row}
    return out


def check(roads, segment, offset, radius) -> dict[tuple[int, int], float]:
    pairs = road_pairs(roads, segment, offset, radius)
    found = dict(zip(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True), pairs.distance.tolist(),
                     strict=True))
    expected = by_networkx(roads, segment, offset, radius)
    assert len(found) == len(pairs.source)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-5)
    return found


def sensors_on(roads, chance, count):
    """Sensors anywhere on segments, some on one segment; at least 1 m from its ends."""
    segment = chance.choice(np.flatnonzero(roads.length > 5), count)
    segment[count // 2:count // 2 + 3] = segment[0]
    return segment, 1 + chance.random(count) * (roads.length[segment] - 2)


# -------------------------------------------------------------------- distances
@pytest.mark.parametrize("seed", range(5))
def test_ways_equal_networkx_on_made_towns(seed):
    roads = on_the_globe(random_town(seed))
    found = check(roads, *sensors_on(roads, np.random.default_rng(seed), 20), 700.0)
    other_way = [(way, found.get((j, i), np.inf)) for (i, j), way in found.items()]
    assert any(abs(one - other) > 1 for one, other in other_way)  # one-way streets


@pytest.mark.parametrize(("name", "count", "radius"), [("helsinki-centre", 60, 900.0), ("fiji-ferry", 40, 20_000.0),
                                                       ("columbus", 15, 3000.0)])
def test_ways_equal_networkx_on_real_extracts(shared_data, name, count, radius):
    roads, _ = build_osm(shared_data / "osm_extracts" / f"{name}.osm.pbf")
    found = check(roads, *sensors_on(roads, np.random.default_rng(5), count), radius)
    assert 0 < len(found) < count * (count - 1)  # some are beyond the radius, or cut off


def test_ways_of_the_simulated_city_are_its_own():
    city = simulate_city(seed=3, days=1, size="small")
    roads = roads_of(city.network)
    sensors = city.sensors
    pairs = road_pairs(roads, sensors["segment_id"].to_numpy(), sensors["offset_m"].to_numpy(), 10_000.0)
    names = sensors["sensor_id"].to_numpy()
    found = pd.DataFrame({"from": names[pairs.source], "to": names[pairs.target], "distance_m": pairs.distance})
    both = city.distances.merge(found, on=["from", "to"], how="outer", suffixes=("", "_found"))
    assert len(both) == len(city.distances) == len(found) > 50
    np.testing.assert_allclose(both["distance_m_found"], both["distance_m"], atol=0.051)
    heading = roads.heading(sensors["segment_id"].to_numpy(), sensors["offset_m"].to_numpy())
    on = put_on_roads(roads, sensors[["longitude", "latitude"]].to_numpy(), heading)
    assert np.array_equal(on.attached.segment, sensors["segment_id"])
    # lengths within a segment are shared out on the globe as a sphere: 0.3 % off where it bends
    np.testing.assert_allclose(on.attached.offset, sensors["offset_m"], atol=0.7)
    assert np.array_equal(on.pairs.source, pairs.source)
    np.testing.assert_allclose(on.pairs.distance, pairs.distance, atol=1.4)


def roads_of(network) -> Roads:
    """The made network as roads, from its tables."""
    plane = LocalProjection(-30.0, 30.0)
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in network.lines])]).astype(np.int64)
    return Roads(network.junctions["junction_id"].to_numpy(), network.junctions[["longitude", "latitude"]].to_numpy(),
                 network.segments["from_junction"].to_numpy(), network.segments["to_junction"].to_numpy(),
                 network.lengths, ptr, plane.lonlat(np.concatenate(network.lines)),
                 turn_index=network.turns.to_numpy().T)


def test_a_ring_by_hand():
    """A one-way ring of 400 m; two sensors on one side, one on the other; none elsewhere is reached."""
    lines = [[(0, 0), (200, 0)], [(200, 0), (200, 1), (0, 1), (0, 0)], [(900, 0), (990, 0)]]
    roads = make_roads(lines, both_ways=[])
    segment, offset = np.array([0, 0, 1, 2, -1]), np.array([150.0, 50.0, 101.0, 10.0, np.nan])
    pairs = road_pairs(roads, segment, offset, 1000.0)
    found = {(i, j): way for i, j, way in zip(pairs.source.tolist(), pairs.target.tolist(), pairs.distance.tolist(),
                                              strict=True)}
    around = 200 + 202
    assert found == pytest.approx({(0, 1): around - 100, (1, 0): 100, (0, 2): 50 + 101, (2, 0): 101 + 150,
                                   (1, 2): 150 + 101, (2, 1): 101 + 50})
    bounded = road_pairs(roads, segment, offset, 151.0)
    assert set(zip(bounded.source.tolist(), bounded.target.tolist(), strict=True)) == {(1, 0), (0, 2), (2, 1)}
    assert len(road_pairs(roads, segment[3:], offset[3:], 1000.0).source) == 0


# -------------------------------------------------------------------- build sensors --roads
@pytest.fixture(scope="module")
def files(tmp_path_factory, shared_data):
    """Readings of twelve sensors in the centre of Helsinki, one of them in the sea, and their roads as a bundle."""
    folder = tmp_path_factory.mktemp("helsinki")
    roads, _ = build_osm(shared_data / "osm_extracts" / "helsinki-centre.osm.pbf")
    save(roads.tables(), folder / "roads.stg")
    chance = np.random.default_rng(9)
    segment, offset = sensors_on(roads, chance, 12)
    lonlat = roads.locate(segment, offset)
    lonlat[11] = [24.97, 60.10]
    ids = [f"h{number:02d}" for number in range(12)]
    heading = [f"{one:.1f}" for one in roads.heading(segment, offset)]
    street = roads.attributes["name"].take(segment).to_pylist()
    places = pd.DataFrame({"sensor_id": ids, "longitude": lonlat[:, 0], "latitude": lonlat[:, 1], "watches": heading,
                           "street": street})
    places.sample(frac=1, random_state=1).to_csv(folder / "places.csv", index=False)
    frame = pd.DataFrame(chance.uniform(5, 20, (24, 12)), TIMES, ids)
    frame.to_csv(folder / "speed.csv", index_label="time")
    return folder, roads, segment, offset, frame, places


OPTIONS = {"quantity": "speed", "unit": "m/s", "heading_key": "watches", "road_name_key": "street"}


def test_a_graph_of_sensors_on_roads(files):
    folder, roads, segment, offset, _, _ = files
    graph, report = build_sensors(folder / "speed.csv", locations=folder / "places.csv", roads=folder / "roads.stg",
                                  out=folder / "city.stg", **OPTIONS)
    graph = load(folder / "city.stg")
    names = np.asarray(load(folder / "roads.stg")["segment"].node_id)
    assert graph["sensor"].segment_id.tolist() == [*names[segment[:11]], ""]
    np.testing.assert_allclose(graph["sensor"].offset[:11], offset[:11], atol=0.05)
    assert np.isnan(graph["sensor"].offset[11])
    expected = by_networkx(roads, segment[:11], offset[:11], REACH)
    sigma = np.std(list(expected.values()))
    weights = {pair: np.exp(-(way / sigma) ** 2) for pair, way in expected.items()}
    edges = dict(zip(map(tuple, graph[NEAR].edge_index.T.tolist()), graph[NEAR].edge_weight.tolist(), strict=True))
    assert edges == pytest.approx({pair: weight for pair, weight in weights.items() if weight >= 0.1}, abs=1e-3)
    ways = dict(zip(map(tuple, graph[NEAR].edge_index.T.tolist()), graph[NEAR].distance.tolist(), strict=True))
    assert ways == pytest.approx({pair: expected[pair] for pair in edges}, abs=0.1)
    assert report["sigma_m"] == pytest.approx(sigma, abs=0.1)
    assert report["edge_rule"] == "gaussian"
    assert (report["roads"], report["attached"], report["unattached"]) == ("roads.stg", 11, ["h11"])
    assert report["attach_notes"] == {"beyond the limit": 1}
    assert "h11" in report["isolated_sensors"]
    assert any("1 of 12 sensors are on no road" in warning for warning in report["warnings"])
    (source,) = [one for one in graph.metadata["sources"] if one["role"] == "roads"]
    assert source["licence"] == "ODbL-1.0"
    assert "OpenStreetMap" in source["attribution"]
    assert graph.metadata["build"]["road_pairs"] == len(expected)
    assert "--roads roads.stg --heading-key watches" in graph.metadata["command"]
    assert str(folder) not in str(graph.metadata)
    assert graph.schema.of("sensor")["offset"].unit == "m"


def test_other_rules_take_the_ways_by_road_too(files):
    folder, roads, segment, offset, _, _ = files
    common = {"locations": folder / "places.csv", "roads": folder / "roads.stg", **OPTIONS}
    expected = by_networkx(roads, segment[:11], offset[:11], 800.0)
    graph, _ = build_sensors(folder / "speed.csv", edge_rule="distance", radius=800, **common)
    assert set(map(tuple, graph[NEAR].edge_index.T.tolist())) == expected.keys()
    graph, _ = build_sensors(folder / "speed.csv", edge_rule="distance", **common)  # as far as --help of --roads says
    assert set(map(tuple, graph[NEAR].edge_index.T.tolist())) == by_networkx(roads, segment[:11], offset[:11],
                                                                             10_000.0).keys()
    graph, _ = build_sensors(folder / "speed.csv", edge_rule="knn", neighbours=1, radius=800, **common)
    for source, target in graph[NEAR].edge_index.T.tolist():
        assert expected[source, target] == min(way for (_, end), way in expected.items() if end == target)


def test_without_headings_the_guess_is_said(files):
    folder, *_ = files
    _, report = build_sensors(folder / "speed.csv", locations=folder / "places.csv", roads=folder / "roads.stg",
                              quantity="speed", unit="m/s")
    assert report["attach_notes"]["direction unknown"] > 3
    assert any("direction is a guess" in warning for warning in report["warnings"])


def test_readings_in_memory_bring_their_own_places(files):
    folder, _, _, _, frame, places = files
    readings = Readings(frame.to_numpy()[..., None], list(frame.columns), ["speed"],
                        utc=TIMES.to_numpy().astype("datetime64[s]").astype(np.int64),
                        locations=places.set_index("sensor_id"))
    one, _ = build_sensors(readings, roads=folder / "roads.stg", **OPTIONS)
    other, _ = build_sensors(folder / "speed.csv", locations=folder / "places.csv", roads=folder / "roads.stg",
                             **OPTIONS)
    assert one["sensor"].segment_id.tolist() == other["sensor"].segment_id.tolist()
    assert one[NEAR].distance.tolist() == other[NEAR].distance.tolist()
    with pytest.raises(InputError, match="no such column"):
        build_sensors(readings, roads=folder / "roads.stg", **{**OPTIONS, "heading_key": "looks"})


def test_sensors_out_of_each_others_reach_have_no_edges(files):
    folder, *_ = files
    graph, report = build_sensors(folder / "speed.csv", locations=folder / "places.csv", roads=folder / "roads.stg",
                                  radius=0.5, **OPTIONS)
    assert graph[NEAR].edge_index.shape == (2, 0)
    assert report["edges"] == report["road_pairs"] == 0


def test_the_command_line_says_what_it_did(files):
    folder, *_ = files
    done = CliRunner().invoke(app, [
        "build", "sensors", str(folder / "speed.csv"), "--locations", str(folder / "places.csv"), "--roads",
        str(folder / "roads.stg"), "--heading-key", "watches", "--road-name-key", "street", "--attach-limit", "30",
        "--quantity", "speed", "--unit", "m/s", "-o", str(folder / "cli.stg"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["attached"], report["edge_rule"]) == (11, "gaussian")
    assert "11 on roads.stg" in done.stderr


@pytest.mark.parametrize(("options", "match"), [
    ({"adjacency": "a.npz"}, "do not go together"),
    ({"edges": "e.csv"}, "do not go together"),
    ({"edge_rule": "given"}, "do not go together"),
    ({"roads": None, "heading_key": "watches"}, "do not go together"),
    ({"roads": None, "road_name_key": "street"}, "do not go together"),
    ({"attach_limit": 0.0}, "attach_limit"),
    ({"heading_key": "sensor_id"}, "not a heading"),
    ({"heading_key": "nothing"}, "no such column"),
    ({"locations": None}, "without places"),
    ({"roads": "nowhere.stg"}, "nowhere"),
])
def test_nonsense_is_refused_and_writes_nothing(files, options, match):
    folder, *_ = files
    given = {"quantity": "speed", "unit": "m/s", "locations": folder / "places.csv", "roads": folder / "roads.stg",
             "out": folder / "none.stg", **options}
    with pytest.raises(InputError, match=match):
        build_sensors(folder / "speed.csv", **{key: value for key, value in given.items() if value is not None})
    assert not (folder / "none.stg").exists()


def test_roads_of_another_city_and_in_plain_metres_are_refused(files, tmp_path):
    folder, *_ = files
    save(random_town(1).tables(), tmp_path / "plain.stg")
    town, east = on_the_globe(random_town(1)), np.array([5.0, 0.0])
    save(replace(town, junction_xy=town.junction_xy + east, line_xy=town.line_xy + east).tables(),
         tmp_path / "far.stg")
    for name, match in (("plain.stg", "plain metres"), ("far.stg", "no sensor is within 50 m")):
        with pytest.raises(InputError, match=match):
            build_sensors(folder / "speed.csv", locations=folder / "places.csv", roads=tmp_path / name,
                          quantity="speed", unit="m/s")


# -------------------------------------------------------------------- roads that change
def test_sensors_meet_the_roads_of_the_time_they_are_told(tmp_path):
    """Four blocks in a row, and a way around two of them; one is closed from 2020, another one slower from 2021."""
    plane = LocalProjection(24.94, 60.17)
    row = [[[i * 100.0, 0.0], [i * 100.0 + 100.0, 0.0]] for i in range(4)]
    roads = on_the_globe(make_roads([*row, [[100.0, 0.0], [150.0, 200.0], [200.0, 0.0]]]))
    graph = roads.tables().graph()
    graph["segment"].speed = torch.full((graph.size_of("segment"),), 10.0)
    graph = close_segment(graph, ["1-2-0", "2-1-0"], "2020-01-01")
    graph = change_speed(graph, "3-4-0", 5.0, "2021-01-01")
    save(graph, tmp_path / "roads.stg")
    lonlat = plane.lonlat(np.array([[50.0, 1.0], [350.0, 1.0], [150.0, 1.0]]))
    around = 2 * np.hypot(50.0, 200.0)
    for at, way, names, period in (
            ("2019-06-01", 300.0, ["0-1-0", "3-4-0", "1-2-0"], [np.iinfo(np.int64).min, 1_577_836_800]),
            (1_600_000_000, 200.0 + around, ["0-1-0", "3-4-0", ""], [1_577_836_800, 1_609_459_200]),
            (None, 200.0 + around, ["0-1-0", "3-4-0@2", ""], [1_609_459_200, np.iinfo(np.int64).max])):
        found = put_on_roads(tmp_path / "roads.stg", lonlat, heading=[90, 90, 90], radius=5000.0, limit=20.0, at=at)
        ways = dict(zip(zip(found.pairs.source.tolist(), found.pairs.target.tolist(), strict=True),
                        found.pairs.distance.tolist(), strict=True))
        assert found.segment_id.tolist() == names
        assert ways[0, 1] == pytest.approx(way, abs=0.5)
        assert found.report(["a", "b", "c"])["roads_period"] == period
    assert put_on_roads(roads, lonlat).report(["a", "b", "c"])["roads_period"] is None
