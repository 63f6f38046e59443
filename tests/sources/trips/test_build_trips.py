"""Points to walks, counts and ways: what was driven comes out, nothing is lost on the way, faults write nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from stgraph.cli.build import app
from stgraph.errors import InputError
from stgraph.graph import data_sha256, load, save
from stgraph.graph.plain import numbers
from stgraph.roads import LocalProjection, Roads
from stgraph.roads.edit import change_speed, close_segment
from stgraph.roads.history import RoadHistory
from stgraph.sources.trips.aggregate import Aggregates, Bins
from stgraph.sources.trips.build import build_trips
from stgraph.sources.trips.graph import DRIVES, THEN
from stgraph.sources.trips.journeys import Walks
from stgraph.sources.trips.tokens import FEATURES, make_tokens

START = 1_700_000_000.0
SIDE, GAP = 12, 150.0


def town() -> Roads:
    """144 junctions on a square grid of two-way streets."""
    plane, number = LocalProjection(-8.6, 41.15), np.arange(SIDE * SIDE)
    place = plane.lonlat(np.column_stack([number % SIDE - SIDE / 2, number // SIDE - SIDE / 2]) * GAP)
    one = np.concatenate([np.column_stack([number, number + 1])[number % SIDE < SIDE - 1],
                          np.column_stack([number, number + SIDE])[number < SIDE * (SIDE - 1)]])
    ends = np.concatenate([one, one[:, ::-1]])
    words = np.where(np.arange(len(ends)) % 3 == 0, "primary", "residential")
    return Roads(number + 1000, place, ends[:, 0], ends[:, 1], np.full(len(ends), GAP), 2 * np.arange(len(ends) + 1),
                 place[ends.reshape(-1)], attributes={"road_class": pa.array(words.tolist()).dictionary_encode()},
                 metadata={"sources": [{"role": "map", "file": "town.osm", "licence": "ODbL-1.0",
                                        "attribution": "(c) the town"}]})


def drives(trips: int, seed: int = 0, segments: int = 25, noise: float = 4.0,
           every: float = 5.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ways without turning back, at another speed on each segment: points, and what was driven."""
    roads, chance = town(), np.random.default_rng(seed)
    on = [[s for s in np.flatnonzero(roads.tail == j)] for j in range(len(roads.junction_xy))]
    points, truth = [], []
    for trip in range(trips):
        way = [int(chance.integers(0, len(roads.tail)))]
        while len(way) < segments:
            way.append(int(chance.choice([s for s in on[roads.head[way[-1]]] if roads.head[s] != roads.tail[way[-1]]])))
        speed = chance.uniform(5, 14, segments)
        passed = START + chance.uniform(0, 7000) + np.r_[0, np.cumsum(GAP / speed)]
        clock = np.arange(passed[0], passed[-1], every)
        row = np.searchsorted(passed, clock, side="right") - 1
        place = roads.to_metres(roads.locate(np.array(way)[row], (clock - passed[row]) * speed[row]))
        lonlat = roads.from_metres(place + chance.normal(0, noise, place.shape))
        points.append(pd.DataFrame({"trip": trip, "time": clock, "lon": lonlat[:, 0], "lat": lonlat[:, 1]}))
        truth.append(pd.DataFrame({"trip": trip, "segment": way, "entered_at": passed[:-1], "left_at": passed[1:]}))
    return pd.concat(points, ignore_index=True), pd.concat(truth, ignore_index=True)


POINTS, TRUTH = drives(30)


def built(points: pd.DataFrame, roads: Roads | None = None, **options):
    graph, report = build_trips(pa.Table.from_pandas(points, preserve_index=False), roads or town(), **options)
    return graph, report, graph.tables["matches"].to_pandas()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(town().tables(), "town.stg")
    POINTS.to_parquet("points.parquet")
    return tmp_path


# -------------------------------------------------------------------- what comes out
def test_what_was_driven_comes_out_with_times_and_ids():
    _, report, matches = built(POINTS)
    roads = town()
    assert matches["trip"].dtype == np.int64
    wrong = 0
    for trip, driven in TRUTH.groupby("trip"):
        found = matches[matches["trip"] == trip]
        assert found["seq"].tolist() == list(range(len(found)))
        assert np.array_equal(found["from_node"], roads.junction_id[roads.tail[found["segment"]]])
        assert np.array_equal(found["to_node"], roads.junction_id[roads.head[found["segment"]]])
        assert np.array_equal(found["from_node"].iloc[1:], found["to_node"].iloc[:-1])
        wrong += len(set(driven["segment"]) ^ set(found["segment"]))
        inside = found[1:-1].merge(driven, on="segment", suffixes=("", "_true"))
        inside = inside[~inside["segment"].duplicated(keep=False)]
        assert np.abs(inside["entered_at"] - inside["entered_at_true"]).max() < 5
        assert np.abs(inside["left_at"] - inside["left_at_true"]).max() < 5
    assert wrong < 0.03 * len(TRUTH)
    assert abs(report["length_km"] - GAP * len(TRUTH) / 1000) < 0.02 * report["length_km"]
    assert (report["points"], report["trips"], report["journeys"]) == (len(POINTS), 30, 30)


def test_nothing_is_lost_between_points_and_counts():
    messy = POINTS.copy()
    messy.loc[[40, 200, 500], "lat"] += 0.02  # 2 km off: jumps
    messy.loc[300:320, "lon"] -= 0.2  # 17 km off the map
    messy.loc[[60, 61], "lon"] = np.nan
    graph, report, matches = built(messy)
    assert report["dropped"]["jumps"] == 3
    assert report["dropped"]["off_map"] == 21
    assert report["dropped"]["missing"] == 2
    assert report["points"] == report["matched"] + report["unmatched"] + sum(report["dropped"].values())
    traffic, flows = (graph.tables[name].to_pandas() for name in ("traffic", "origin_destination"))
    assert traffic["count"].sum() == len(matches) == report["traversals"] == len(graph.edges[DRIVES])
    assert flows["count"].sum() == report["journeys"] == len(graph.nodes["trip"]) == len(graph.tables["trips"])
    assert numbers(graph.edges[THEN]["count"]).sum() == report["traversals"] - report["pieces"]
    np.testing.assert_allclose(traffic["distance_m"].sum(), matches["length_m"].sum())
    np.testing.assert_allclose(traffic["duration_s"].sum(), (matches["left_at"] - matches["entered_at"]).sum())
    assert report["pieces"] == matches.groupby(["journey", "piece"]).ngroups


def test_the_size_of_blocks_does_not_matter():
    whole, report, matches = built(POINTS)
    parts, other, again = built(POINTS, block=150)
    pd.testing.assert_frame_equal(matches, again)
    for name in ("traffic", "origin_destination", "trips"):
        pd.testing.assert_frame_equal(whole.tables[name].to_pandas(), parts.tables[name].to_pandas())
    for kind, table in whole.items():
        pd.testing.assert_frame_equal(table.to_pandas(), parts.of(kind).to_pandas())
    ignored = ("seconds", "points_per_second", "peak_memory_mb")
    assert {k: v for k, v in report.items() if k not in ignored} == {k: v for k, v in other.items() if k not in ignored}


def test_trips_are_split_and_numbered():
    points = POINTS.copy()
    rest = (points["trip"] == 3) & (points.groupby("trip").cumcount() >= 30)
    points.loc[rest, "time"] += 1200
    _, report, matches = built(points, stop_time="0")  # the vehicle stands still in that time
    three = matches[matches["trip"] == 3]
    assert report["splits"]["gaps"] == 1
    assert built(points)[1]["splits"] == report["splits"] | {"gaps": 0, "stops": 1}
    assert (report["trips"], report["journeys"]) == (30, 31)
    assert three["part"].unique().tolist() == [0, 1]
    assert three["seq"].tolist() == list(range(len(three)))
    assert three["journey"].unique().tolist() == [3, 4]
    assert three[three["part"] == 1]["entered_at"].iloc[0] == points[rest]["time"].iloc[0]
    assert three[three["part"] == 0]["left_at"].iloc[-1] == points[(points["trip"] == 3) & ~rest]["time"].iloc[-1]


def test_walks_of_the_table_give_the_same_counts_and_tokens():
    graph, _, matches = built(POINTS, tokens=True)
    roads, walks = town(), Walks.of_table(graph.tables["matches"])
    sums = Aggregates(Bins(900), roads.length, roads.tail, roads.head)
    sums.add(walks)
    traffic = graph.tables["traffic"]
    for name, other in (("segment", "segment"), ("bin", "bin"), ("count", "count"), ("distance", "distance_m")):
        np.testing.assert_allclose(getattr(sums.traffic(), name), numbers(traffic[other]))
    tokens = graph.tables["tokens"]
    expected = make_tokens(roads, walks).values
    np.testing.assert_allclose(np.column_stack([numbers(tokens[name]) for name in FEATURES]), expected, atol=1e-6)
    assert tokens["seq"].to_pylist() == matches["seq"].tolist()


def test_recovered_places_are_nearer_than_the_straight_line():
    dense, _ = drives(20, seed=5, noise=0.5, every=1.0)
    order = dense.groupby("trip").cumcount()
    kept = dense[order % 20 == 0]
    graph, _, _ = built(kept.assign(time=np.floor(kept["time"])), recover="1s")
    found = graph.tables["recovered"].to_pandas().rename(columns={"lon": "lon_found", "lat": "lat_found"})
    dropped = dense[order % 20 != 0].assign(time=lambda table: np.floor(table["time"]))
    for axis in ("lon", "lat"):
        dropped[f"{axis}_line"] = np.concatenate([
            np.interp(rows["time"], np.floor(mine["time"]), mine[axis])
            for (_, rows), (_, mine) in zip(dropped.groupby("trip"), kept.groupby("trip"), strict=True)])
    both = dropped.merge(found, on=["trip", "time"])
    assert len(both) > 0.9 * len(dropped)
    roads = town()
    true = roads.to_metres(both[["lon", "lat"]].to_numpy())
    off = {kind: np.hypot(*(roads.to_metres(both[[f"lon_{kind}", f"lat_{kind}"]].to_numpy()) - true).T)
           for kind in ("found", "line")}
    assert off["found"].mean() < 0.6 * off["line"].mean()
    turns = off["line"] > 30  # where the straight line cuts a corner
    assert turns.mean() > 0.05
    assert (off["found"][turns] < off["line"][turns]).mean() > 0.9


def test_the_graph_holds_driven_segments_moves_and_journeys():
    graph, _, matches = built(POINTS, signals=True, penetration=0.1, interval="5min")
    graph.validate()
    segment, then = graph.nodes["segment"], graph.edges[THEN]
    driven = numbers(segment["road_segment"])
    assert driven.tolist() == sorted(matches["segment"].unique())
    roads = town().tables().nodes["segment"].take(pa.array(driven))
    assert segment.drop(["road_segment"]).equals(roads)
    one, other = (driven[numbers(then[end])] for end in ("source_index", "target_index"))
    assert np.array_equal(town().head[one], town().tail[other])
    assert (numbers(then["valid_to"]) - numbers(then["valid_from"]) == 300).all()
    time = numbers(then["travel_time"])
    assert ((time > GAP / 20) & (time < GAP / 3)).mean() > 0.98  # driven at 5 to 14 m/s
    drives_ = graph.edges[DRIVES]
    assert np.array_equal(driven[numbers(drives_["target_index"])], matches["segment"])
    assert np.array_equal(numbers(drives_["source_index"]), matches["journey"])
    signal = graph.signals["segment"]["traffic"]
    assert signal.channel_names == ["count", "speed", "flow"]
    assert signal.values[..., 0].sum() == len(matches)
    np.testing.assert_allclose(signal.values[..., 2], signal.values[..., 0] * 120)


def test_with_too_many_traversals_trips_stay_in_tables():
    graph, report, matches = built(POINTS, max_traversals=100)
    assert set(graph.nodes) == {"segment"}
    assert set(graph.edges) == {THEN}
    assert not report["trips_in_graph"]
    assert any("--max-traversals" in said for said in report["warnings"])
    assert len(graph.tables["trips"]) == 30
    assert len(matches) == report["traversals"]


def test_points_off_the_map_are_counted_and_split_trips():
    points = POINTS[POINTS["trip"] < 3].copy()
    mine = np.flatnonzero(points["trip"] == 1)
    points.iloc[mine[30:40], points.columns.get_loc("lat")] += 0.1  # 11 km to the north
    points = pd.concat([points, POINTS[POINTS["trip"] == 5].assign(lat=lambda one: one["lat"] + 0.06)])  # 5 km off
    _, report, matches = built(points, max_speed=0)
    assert report["dropped"]["off_map"] == 10 + (POINTS["trip"] == 5).sum()
    assert report["splits"]["off_map"] == 1
    assert matches["trip"].unique().tolist() == [0, 1, 2]
    assert (report["trips"], report["journeys"]) == (4, 4)


def test_single_points_are_dropped_and_counted():
    points = pd.concat([POINTS[POINTS["trip"] < 2], POINTS[POINTS["trip"] == 7].iloc[:1]])
    _, report, matches = built(points)
    assert report["single_points"] == 1
    assert report["dropped"]["short"] == 1
    assert matches["trip"].unique().tolist() == [0, 1]


def test_names_of_trips_and_a_metric_map():
    roads = town()
    metric = Roads(np.array([f"n{i}" for i in roads.junction_id]), roads.junction_metres, roads.tail, roads.head,
                   roads.length, roads.line_ptr, roads.line_metres, metric=True)
    xy = roads.to_metres(POINTS[["lon", "lat"]].to_numpy()) / 1000
    points = pd.DataFrame({"cab": [f"cab {i:02d}" for i in POINTS["trip"]], "time": POINTS["time"], "x": xy[:, 0],
                           "y": xy[:, 1]})
    graph, _, matches = built(points, metric, coordinate_unit="km", recover="10s")
    _, _, expected = built(POINTS)
    assert (matches["segment"] == expected["segment"]).mean() > 0.99
    assert matches["trip"].iloc[0] == "cab 00"
    assert matches["from_node"].iloc[0].startswith("n1")
    assert {"x", "y"} < set(graph.tables["recovered"].column_names)


# -------------------------------------------------------------------- the bundle and the command
def test_the_promised_line_works_as_written(folder):
    line = "trips --roads town.stg points.parquet -o trips.stg --json"
    result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert {"points", "matched", "breaks", "trips", "points_per_second", "seconds", "peak_memory_mb"} <= set(report)
    assert report["data_sha256"] == data_sha256("trips.stg")
    assert sorted(path.name for path in folder.iterdir()) == ["points.parquet", "town.stg", "trips.stg"]
    matches = pq.read_table("trips.stg/matches.parquet")
    assert matches.column_names[:7] == ["trip", "seq", "from_node", "to_node", "entered_at", "left_at", "length_m"]
    assert "confidence" in matches.column_names
    graph = load("trips.stg")
    assert graph.validate()
    assert graph.table("matches").equals(matches)
    assert graph.metadata["command"] == "stgraph build trips points.parquet --roads town.stg --out trips.stg"
    assert [one["role"] for one in graph.metadata["sources"]] == ["traces", "map"]
    assert json.loads((folder / "trips.stg/graph.json").read_text())["attribution"] == ["(c) the town"]
    assert str(folder) not in json.dumps(graph.metadata)
    CliRunner().invoke(app, [*line.split()[:-3], "-o", "again.stg"], catch_exceptions=False)
    assert data_sha256("again.stg") == report["data_sha256"]


@pytest.mark.parametrize(("change", "options", "problem", "field", "remedy"), [
    (lambda p: p.rename(columns={"lon": "lat", "lat": "lon"}), {}, "look exchanged", "lon_key", "--lon-key"),
    (lambda p: p.assign(lat=p["lat"] + 0.07), {}, "no point lies on the map", "traces", "one place"),
    (lambda p: p.groupby("trip").head(1), {}, "no point could be matched", "traces", "cleaning"),
    (lambda p: p.assign(time=p["time"].iloc[::-1].to_numpy()), {}, "must increase", "time", "--repair"),
    (lambda p: pd.concat([p, p.iloc[-1:]]), {}, "there twice", "time", "--repair"),
    (lambda p: p.assign(time=pd.to_datetime(p["time"], unit="s")), {}, "carry no zone", "time", "--tz"),
    (lambda p: p.rename(columns={"lon": "east"}), {}, "no column of the longitude", "lon_key", "--lon-key"),
    (lambda p: p.iloc[:0], {}, "no usable point", "traces", "check"),
    (None, {"roads": "gone.stg"}, "no such bundle", None, "path"),
    (None, {"out": "trips.zip"}, "saved as a .stg bundle", "out", ".stg"),
    (None, {"penetration": 0.1}, "do not go together", "penetration", "--signals"),
    (None, {"interval": "soon"}, "not an interval", "interval", "5min"),
    (None, {"sigma": -1.0}, "out of range", "sigma", "positive"),
    (None, {"stop_radius": -1.0}, "out of range", "stop_radius", "at least 0"),
    (None, {"tz": "Mars/Olympus"}, "unknown time zone", "tz", "IANA"),
    (None, {"signals": True, "interval": "7min"}, "does not divide", "interval", "5min"),
])
def test_faults_name_their_parts_and_write_nothing(folder, change, options, problem, field, remedy):
    if change is not None:
        change(POINTS).to_parquet("points.parquet")
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(InputError, match=problem) as error:
        build_trips("points.parquet", **{"roads": "town.stg", "out": "trips.stg", **options})
    assert field is None or error.value.field == field
    assert remedy in error.value.remedy
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_an_error_on_the_command_line_ends_with_code_2(folder):
    POINTS.rename(columns={"lon": "lat", "lat": "lon"}).to_csv("swapped.csv", index=False)
    line = "stgraph build trips --roads town.stg swapped.csv -o t.stg"
    done = subprocess.run([sys.executable, "-m", *line.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "look exchanged" in done.stderr
    assert not Path("t.stg").exists()


MEMORY = """
import sys
from stgraph.sources.trips.build import build_trips
_, report = build_trips(sys.argv[1], "town.stg", block=5_000, max_traversals=0, out=sys.argv[1] + ".stg")
print(report["points"], report["peak_memory_mb"])
"""


def test_memory_does_not_follow_the_number_of_trips(folder):
    """Ten times the trips take less than 15 MB more; worked on at once would take 75 MB more."""
    points, peaks = POINTS[POINTS["trip"] < 20], []
    for copies in (10, 100):
        shift = np.repeat(np.arange(copies), len(points))
        many = pd.concat([points] * copies, ignore_index=True)
        many["trip"] += 20 * shift
        many.to_parquet("many.parquet", row_group_size=50_000)
        count, peak = subprocess.run([sys.executable, "-c", MEMORY, "many.parquet"], capture_output=True, text=True,
                                     check=True).stdout.split()
        assert int(count) == copies * len(points)
        peaks.append(float(peak))
    assert peaks[1] - peaks[0] < 15


# -------------------------------------------------------------------- real maps
def run(line: str) -> dict:
    result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_from_an_extract_to_trips(shared_data, tmp_path, monkeypatch):
    """Drives made on the streets of Liechtenstein, along permitted turns, are found again on them."""
    monkeypatch.chdir(tmp_path)
    run(f"osm {shared_data}/osm_extracts/liechtenstein-latest.osm.pbf -o land.stg --json")
    roads, chance = Roads.of("land.stg"), np.random.default_rng(0)
    order = np.argsort(roads.turn_index[0], kind="stable")
    ptr = np.searchsorted(roads.turn_index[0][order], np.arange(len(roads.tail) + 1))
    onward = roads.turn_index[1][order]
    speed = np.array(numbers(roads.attributes["speed"]), float)
    points, truth = [], []
    for trip in range(40):
        way = [int(chance.integers(0, len(roads.tail)))]
        while roads.length[way].sum() < 6000 and ptr[way[-1]] < ptr[way[-1] + 1]:
            way.append(int(chance.choice(onward[ptr[way[-1]]:ptr[way[-1] + 1]])))
        passed = START + np.r_[0, np.cumsum(roads.length[way] / speed[way])]
        clock = np.arange(passed[0], passed[-1], 5.0)
        row = np.searchsorted(passed, clock, side="right") - 1
        on = np.array(way)[row]
        place = roads.to_metres(roads.locate(on, (clock - passed[row]) * speed[on])) + chance.normal(0, 5, (len(on), 2))
        lonlat = roads.from_metres(place)
        points.append(pd.DataFrame({"trip": f"drive {trip}", "time": clock, "lon": lonlat[:, 0], "lat": lonlat[:, 1]}))
        truth.append((set(way), f"drive {trip}"))
    pd.concat(points).to_csv("points.csv", index=False)
    report = run("trips --roads land.stg points.csv --stop-time 0 -o trips.stg --json")
    matches = pq.read_table("trips.stg/matches.parquet").to_pandas()
    length, wrong, total = roads.length, 0.0, 0.0
    for way, trip in truth:
        found = set(matches[matches["trip"] == trip]["segment"])
        wrong += length[list(way ^ found)].sum()
        total += length[list(way)].sum()
    assert wrong / total < 0.06
    assert report["matched"] == report["points"]
    graph = load("trips.stg")
    assert {"(c) OpenStreetMap contributors"} <= {one.get("attribution") for one in graph.metadata["sources"]}
    assert graph.schema.of("segment")["road_class"].categories


def test_taxis_on_the_streets_of_beijing(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shared_data / "beijing_sparsetaxi"
    run(f"roads --nodes {folder}/network.npz --edges {folder}/network.npz --coordinate-unit km --lengths measured "
        "-o beijing.stg --json")
    report = run(f"trips --roads beijing.stg {folder}/gps.parquet --where set=set60 --coordinate-unit km --repair "
                 "--limit 5000 --sigma 30 --max-gap 0 --stop-time 0 -o trips.stg --json")
    assert (report["points"], report["trips"]) == (1173, 18)
    assert report["points"] == report["matched"] + report["unmatched"] + sum(report["dropped"].values())
    assert report["dropped"]["left_out"] == 1173 - 225
    matches = pq.read_table("trips.stg/matches.parquet").to_pandas()
    with np.load(folder / "network.npz") as network:
        ids = network["osm_node_id"]
    found, there = set(), set()
    for trip, line in enumerate((folder / "set60_node_paths.txt").read_text().splitlines()):
        path = ids[[int(word) for word in line.split()]]
        there |= {(trip, a, b) for a, b in pairwise(path) if a != b}
        mine = matches[matches["trip"] == trip]
        found |= {(trip, a, b) for a, b in zip(mine["from_node"], mine["to_node"], strict=True) if a != b}
    assert len(found & there) > 0.7 * len(there)
    assert len(found & there) > 0.7 * len(found)


# -------------------------------------------------------------------- roads of their time, sparse points, stops
PLANE = LocalProjection(-8.6, 41.15)


def street(blocks: int, block: float) -> Roads:
    """A straight two-way street to the east, junctions 0, 1, ..., with a speed."""
    place = PLANE.lonlat(np.column_stack([np.arange(blocks + 1) * block, np.zeros(blocks + 1)]))
    ends = np.concatenate([np.column_stack([np.arange(blocks), np.arange(blocks) + 1]),
                           np.column_stack([np.arange(blocks) + 1, np.arange(blocks)])])
    return Roads(np.arange(blocks + 1), place, ends[:, 0], ends[:, 1], np.full(2 * blocks, block),
                 2 * np.arange(2 * blocks + 1), place[ends.reshape(-1)],
                 attributes={"speed": np.full(2 * blocks, 10.0, np.float32)})


def on_street(x, start=START, every=10.0, trip=0, y=2.0) -> pd.DataFrame:
    x = np.asarray(x, float)
    lonlat = PLANE.lonlat(np.column_stack([x, np.full(len(x), y)]))
    return pd.DataFrame({"trip": trip, "time": start + np.arange(len(x)) * every, "lon": lonlat[:, 0],
                         "lat": lonlat[:, 1]})


def test_trips_meet_the_roads_of_their_time(tmp_path):
    graph = street(6, 200.0).tables().graph()
    change = int(START) + 3600
    graph = close_segment(graph, ["2-3-0", "3-2-0"], change)
    graph = change_speed(graph, "4-5-0", 5.0, change)
    save(graph, tmp_path / "edited.stg")
    x = np.arange(20, 1190, 60.0)
    points = pd.concat([on_street(x, start, trip=trip) for trip, start in enumerate(
        (START, change - 60, change, change + 86_400))])  # the second begins before the change, and ends after it
    trips, report, matches = built(points, tmp_path / "edited.stg")
    ids = np.array(trips.nodes["segment"]["node_id"].to_pylist())
    edge = trips.edges[DRIVES]
    names = ids[numbers(edge["target_index"])]
    open_street = [f"{j}-{j + 1}-0" for j in range(6)]
    for trip in range(4):
        driven = names[numbers(edge["source_index"]) == trip].tolist()
        assert driven == (open_street if trip < 2 else ["0-1-0", "1-2-0", "3-4-0", "4-5-0@2", "5-6-0"])
    rows = Roads.of(graph).segment_id.to_pylist()
    assert [rows[row] for row in matches["segment"]] == names.tolist()
    assert numbers(trips.nodes["segment"]["road_segment"]).tolist() == sorted(set(matches["segment"]))
    assert report["networks"] == 2
    assert report["breaks"] == 2
    for trip, start in ((0, START), (3, change + 86_400)):  # the graph of that time has all that was driven then
        there = trips.graph().at(int(start) + 100)
        assert there["trip", "drives", "segment"].edge_index.shape[1] == [6, 0, 0, 5][trip]
    plain, _, _ = built(on_street(x), street(6, 200.0))
    again, once, _ = built(on_street(x), RoadHistory(street(6, 200.0)).at())
    assert again.nodes["segment"].equals(plain.nodes["segment"])
    assert once["networks"] == 1


def test_points_minutes_apart_are_driven_between():
    points = on_street(500 + np.arange(9) * 1800.0, every=90.0)
    _, report, matches = built(points, street(41, 500.0))
    assert (report["breaks"], report["warnings"], report["limits_m"]) == (0, [], {"4000": 1})
    assert report["length_km"] == pytest.approx(14.4, abs=0.01)
    assert matches["segment"].tolist() == list(range(1, 30))
    with pytest.raises(InputError, match="no two points in a row could be matched"):
        built(points, street(41, 500.0), limit=500.0)
    dense = on_street(np.arange(100, 4000, 100.0), trip=1)
    _, report, matches = built(pd.concat([points, dense]), street(41, 500.0), limit=500.0)
    assert report["breaks"] == 8
    assert any("8 breaks" in said and "--limit" in said for said in report["warnings"])
    assert matches["trip"].unique().tolist() == [1]
    assert (report["pieces"], report["journeys"], report["traversals"]) == (1, 1, 8)


def test_pieces_of_one_point_are_not_driven_and_the_others_are_numbered_on():
    x = np.r_[np.arange(100, 900, 100), 4100, np.arange(8100, 8900, 100)]
    _, report, matches = built(on_street(x, every=120.0), street(41, 500.0), limit=1000.0, stop_time="0")
    assert report["breaks"] == 2
    assert matches["piece"].tolist() == [0, 0, 1, 1]
    assert report["pieces"] == 2
    assert report["matched"] == 17


def test_a_stop_in_a_street_is_one_traversal():
    halt = np.full(8, 650.0)
    x = np.r_[100, 300, 500, 600, halt, 700, 900, 1100]
    time = np.r_[0, 20, 40, 50, 60 + 60 * np.arange(8), 500, 520, 540]
    points = on_street(x).assign(time=START + time)
    graph, report, matches = built(points, street(10, 500.0))
    assert report["splits"]["stops"] == 1
    assert matches["segment"].tolist() == [0, 1, 1, 2]
    assert matches["resumed"].tolist() == [False, False, True, False]
    assert (report["journeys"], report["pieces"], report["traversals"], report["resumed"]) == (2, 2, 3, 1)
    traffic = graph.tables["traffic"].to_pandas()
    assert traffic.groupby("segment")["count"].sum().tolist() == [1, 1, 1]
    assert traffic["distance_m"].sum() == pytest.approx(1000.0, abs=1e-6) == matches["length_m"].sum()
    then = graph.edges[THEN].to_pandas()
    assert then["count"].tolist() == [1, 1]
    assert graph.tables["origin_destination"]["count"].to_pylist() == [1, 1]
    away = np.r_[100, 300, 500, 600, halt, 900, 1300, 900, 600, 520, 800, 1100]  # leaves, and comes back to it
    back = on_street(away).assign(time=START + np.r_[time[:12], 500 + 40 * np.arange(7)])
    graph, _, matches = built(back, street(10, 500.0))
    counts = graph.tables["traffic"].to_pandas().groupby("segment")["count"].sum()
    assert counts[1] == (matches["segment"] == 1).sum() - 1
    assert counts[1] >= 2


def test_days_follow_the_clock(tmp_path):
    """Four drives in Berlin, before and after summer time begins on 2024-03-31."""
    times = ["2024-03-29T12:00", "2024-04-02T00:10", "2024-04-02T23:10", "2024-04-03T00:10"]
    utc = [pd.Timestamp(one, tz="Europe/Berlin").timestamp() for one in times]
    points = pd.concat([on_street(np.arange(100, 1000, 100), start, trip=trip) for trip, start in enumerate(utc)])
    graph, _, _ = built(points, street(10, 500.0), tz="Europe/Berlin", interval="1D", signals=True)
    flows = graph.tables["origin_destination"].to_pandas()
    days = [pd.Timestamp(one, unit="s", tz="UTC").tz_convert("Europe/Berlin").isoformat() for one in flows["bin"]]
    assert days == ["2024-03-29T00:00:00+01:00", "2024-04-02T00:00:00+02:00", "2024-04-03T00:00:00+02:00"]
    assert flows["count"].tolist() == [1, 2, 1]
    assert (graph.time.clock % 86_400 == 0).all()
    values = graph.signals["segment"]["traffic"].values
    assert values[:, 0, 0].tolist() == [1, 0, 0, 0, 2, 1]
    lives = graph.edges[THEN].to_pandas()
    assert set(lives["valid_to"] - lives["valid_from"]) == {86_400}


def test_the_map_and_the_points_are_not_written_over(folder):
    before = data_sha256("town.stg")
    for roads, out in (("town.stg", "town.stg"), ("./town.stg", "town.stg"), ("town.stg", "town.stg/trips.stg")):
        result = CliRunner().invoke(app, ["trips", "--roads", roads, "points.parquet", "-o", out])
        assert isinstance(result.exception, InputError)
        assert "write over what is read" in str(result.exception)
    assert data_sha256("town.stg") == before


@pytest.mark.parametrize(("options", "field"), [({"coordinate_unit": "km"}, "coordinate_unit"),
                                                ({"max_traversals": -3}, "max_traversals")])
def test_options_that_do_nothing_are_refused(options, field):
    with pytest.raises(InputError) as error:
        built(POINTS, **options)
    assert error.value.field == field
