"""``build_sensors``: the graph says what the files said, whatever their form and order; faults write nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stgraph.errors import InputError
from stgraph.graph import load
from stgraph.graph.time import instant
from stgraph.sources.readings import Readings
from stgraph.sources.sensors import NEAR, SensorOptions, build_sensors

LA = "America/Los_Angeles"
COUNT, STEPS = 6, 288
RANDOM = np.random.default_rng(7)
IDS = [f"s{i}" for i in range(COUNT)]
TIMES = pd.date_range("2017-03-01T00:00", periods=STEPS, freq="5min")
SPEED = RANDOM.integers(10, 700, (STEPS, COUNT)).astype(np.float32) / 10
SPEED[RANDOM.random(SPEED.shape) < 0.05] = np.nan
FRAME = pd.DataFrame(SPEED.astype(float), TIMES, IDS)
PLACES = pd.DataFrame({"sensor_id": IDS, "latitude": 34 + RANDOM.normal(0, 0.05, COUNT),
                       "longitude": -118 + RANDOM.normal(0, 0.05, COUNT)})
OPTIONS = {"quantity": "speed", "unit": "mph", "tz": LA}


@pytest.fixture
def files(tmp_path):
    FRAME.to_csv(tmp_path / "speed.csv", index_label="time")
    PLACES.to_csv(tmp_path / "places.csv", index=False)
    return tmp_path


def facts(graph):
    """What a graph says, with nodes by name."""
    signal = graph.signal("sensor")
    ids = graph["sensor"].node_id.tolist()
    at = [ids.index(name) for name in IDS]
    edges = {(ids[i], ids[j]): (float(weight), float(distance)) for (i, j), weight, distance in zip(
        graph[NEAR].edge_index.T.tolist(), graph[NEAR].edge_weight, graph[NEAR].distance, strict=True)}
    return signal.values[:, at], signal.mask[:, at], graph["sensor"].lonlat.numpy()[at], edges, graph.time


def equal(one, other):
    for first, second in zip(one, other, strict=True):
        if isinstance(first, np.ndarray):
            assert np.array_equal(first, second, equal_nan=True)
        else:
            assert first == second


# -------------------------------------------------------------------- laws
def test_the_graph_says_what_the_file_said(files):
    graph, report = build_sensors(files / "speed.csv", locations=files / "places.csv", **OPTIONS)
    signal = graph.signal("sensor")
    seen = ~np.isnan(SPEED)
    assert np.array_equal(signal.mask[..., 0], seen)
    np.testing.assert_allclose(signal.to_source(signal.values[..., 0].astype(float), 0)[seen], SPEED[seen], rtol=2e-7)
    np.testing.assert_allclose(signal.values[..., 0][seen], SPEED[seen] * 0.44704, rtol=2e-7)
    assert np.array_equal(graph["sensor"].lonlat, PLACES[["longitude", "latitude"]])
    assert graph["sensor"].node_id.tolist() == IDS
    assert graph.time.start == instant("2017-03-01T00:00", LA)
    assert (graph.time.step, graph.time.length, graph.time.tz) == (300, STEPS, LA)
    assert (report["sensors"], report["steps"], report["interval_s"], report["edge_rule"]) == (6, STEPS, 300, "knn")
    assert report["observed_share"] == pytest.approx(seen.mean(), abs=1e-6)
    assert (report["start"], report["end"]) == ("2017-03-01T00:00:00-08:00", "2017-03-01T23:55:00-08:00")
    assert graph.metadata["build"]["edges"] == report["edges"] == COUNT * (COUNT - 1)


def test_the_order_of_sensors_in_files_does_not_matter(files):
    options = {**OPTIONS, "neighbours": 2}
    one, _ = build_sensors(files / "speed.csv", locations=files / "places.csv", **options)
    order = RANDOM.permutation(COUNT)
    FRAME.iloc[:, order].to_csv(files / "turned.csv", index_label="time")
    PLACES.sample(frac=1, random_state=3).to_csv(files / "turned-places.csv", index=False)
    other, _ = build_sensors(files / "turned.csv", locations=files / "turned-places.csv", **options)
    assert other["sensor"].node_id.tolist() == [IDS[i] for i in order]
    equal(facts(one), facts(other))


def test_every_form_of_the_same_readings_gives_the_same_graph(files):
    with_places = {**OPTIONS, "locations": files / "places.csv"}
    wide, _ = build_sensors(files / "speed.csv", **with_places)
    long = FRAME.rename_axis("time").reset_index().melt("time", var_name="sensor", value_name="speed")
    long.to_csv(files / "long.csv", index=False)
    FRAME.to_parquet(files / "wide.parquet")
    FRAME.to_hdf(files / "speed.h5", key="df")
    np.save(files / "speed.npy", SPEED)
    clock = TIMES.to_numpy().astype("datetime64[s]").astype(np.int64)
    np.savez(files / "speed.npz", speed=SPEED[..., None], t=clock, ids=np.array(IDS))
    utc = clock + 8 * 3600
    for path, more in (("long.csv", {}), ("long.csv", {"sensor_key": "sensor", "value_key": ["speed"]}),
                       ("wide.parquet", {}), ("speed.h5", {"key": "df"}),
                       ("speed.npy", {"start": "2017-03-01T00:00", "interval": "5min"}),
                       ("speed.npz", {"time_key": "t", "local_clock": True, "ids_key": "ids"})):
        other, _ = build_sensors(files / path, **with_places, **more)
        equal(facts(wide), facts(other))
    for times in ({"clock": clock}, {"utc": utc}):
        readings = Readings(SPEED[..., None], IDS, ["speed"], **times, locations=PLACES.set_index("sensor_id"))
        equal(facts(wide), facts(build_sensors(readings, **OPTIONS)[0]))


def test_saved_and_loaded_it_is_the_same_and_says_where_it_comes_from(files):
    out = files / "made" / "la.stg"
    graph, report = build_sensors(files / "speed.csv", locations=files / "places.csv", out=out, repair=True,
                                  licence="CC-BY-4.0", attribution="the city", simulated=True, **OPTIONS)
    again = load(out)
    equal(facts(graph), facts(again))
    assert report["out"] == str(out)
    assert len(report["data_sha256"]) == 64
    assert again.metadata["name"] == "la"
    assert again.metadata["simulated"] is True
    assert again.metadata["command"] == ("stgraph build sensors speed.csv --quantity speed --unit mph --tz "
                                         f"{LA} --repair --locations places.csv --simulated --licence CC-BY-4.0 "
                                         "--attribution 'the city' --out la.stg")
    first, second = again.metadata["sources"]
    assert (first["role"], first["file"], second["role"], second["file"]) == ("readings", "speed.csv", "locations",
                                                                            "places.csv")
    assert first["licence"] == "CC-BY-4.0"
    assert len(first["sha256"]) == 64
    assert str(files) not in str(again.metadata)
    _, twice = build_sensors(files / "speed.csv", locations=files / "places.csv", out=files / "b.stg", **OPTIONS)
    assert twice["data_sha256"] == report["data_sha256"]


def test_missing_codes_are_not_observed_and_zeros_are_unless_said(files):
    coded = FRAME.fillna(-9).mask(FRAME > 60, 0)
    coded.to_csv(files / "coded.csv", index_label="time")
    missing = FRAME.isna().to_numpy()
    high = (FRAME > 60).to_numpy()
    one, _ = build_sensors(files / "coded.csv", missing_value=[-9], **OPTIONS)
    assert np.array_equal(one.signal("sensor").mask[..., 0], ~missing)
    both, report = build_sensors(files / "coded.csv", missing_value=[-9, 0], **OPTIONS)
    assert np.array_equal(both.signal("sensor").mask[..., 0], ~(missing | high))
    assert report["missing_coded"] == (missing | high).sum()


# -------------------------------------------------------------------- time
def test_gaps_become_rows_that_were_not_observed(files):
    FRAME.drop(TIMES[[10, 11, 12, 50]]).to_csv(files / "holes.csv", index_label="time")
    graph, report = build_sensors(files / "holes.csv", **OPTIONS)
    whole, _ = build_sensors(files / "speed.csv", **OPTIONS)
    assert (report["gaps"], report["longest_gap_steps"], report["missing_steps"]) == (2, 3, 4)
    mask = whole.signal("sensor").mask.copy()
    mask[[10, 11, 12, 50]] = False
    assert np.array_equal(graph.signal("sensor").mask, mask)
    assert graph.time == whole.time


def test_repair_sorts_and_merges_and_reports(files):
    twice = FRAME.iloc[[5, 9]] + 2
    pd.concat([FRAME.iloc[:200], twice, FRAME.iloc[200:]]).to_csv(files / "messy.csv", index_label="time")
    with pytest.raises(InputError, match="2 duplicate and 1 decreasing") as error:
        build_sensors(files / "messy.csv", **OPTIONS)
    assert error.value.field == "time"
    graph, report = build_sensors(files / "messy.csv", repair=True, **OPTIONS)
    assert report["repaired"] == {"sorted": 1, "merged": 2}
    assert report["duplicates"] == 2
    expected = FRAME.copy()
    expected.iloc[[5, 9]] += 1  # the mean of x and x + 2
    clean, _ = build_sensors(Readings(expected.to_numpy(np.float32)[..., None], IDS, ["speed"],
                                      clock=TIMES.to_numpy().astype("datetime64[s]").astype(np.int64)), **OPTIONS)
    np.testing.assert_allclose(graph.signal("sensor").values, clean.signal("sensor").values, rtol=1e-6)
    assert np.array_equal(graph.signal("sensor").mask, clean.signal("sensor").mask)


def test_repair_of_a_shuffled_long_table(files):
    long = FRAME.rename_axis("time").reset_index().melt("time", var_name="sensor", value_name="speed")
    pd.concat([long, long.iloc[:7]]).sample(frac=1, random_state=1).to_csv(files / "long.csv", index=False)
    with pytest.raises(InputError, match=r"7 duplicate and \d+ decreasing"):
        build_sensors(files / "long.csv", **OPTIONS)
    graph, report = build_sensors(files / "long.csv", repair=True, **OPTIONS)
    assert report["duplicates"] == 7
    assert report["repaired"]["merged"] >= 1
    whole, _ = build_sensors(files / "speed.csv", **OPTIONS)
    ids = graph["sensor"].node_id.tolist()
    at = [ids.index(name) for name in IDS]
    assert np.array_equal(graph.signal("sensor").values[:, at], whole.signal("sensor").values)
    assert np.array_equal(graph.signal("sensor").mask[:, at], whole.signal("sensor").mask)


def test_a_year_of_local_time_has_no_gap_in_spring_and_no_duplicate_in_autumn(files):
    utc = pd.date_range("2017-01-01T08:00", "2018-01-01T07:00", freq="1h", tz="UTC")
    local = utc.tz_convert(LA).tz_localize(None)
    pd.DataFrame({"a": np.arange(1.0, len(utc) + 1)}, local).to_csv(files / "year.csv", index_label="time")
    graph, report = build_sensors(files / "year.csv", tz=LA)
    assert (report["steps"], report["gaps"], report["duplicates"]) == (8760, 0, 0)
    assert graph.signal("sensor").values[:, 0, 0].tolist() == list(range(1, 8761))


def test_the_hour_that_spring_skips_is_left_out_and_said(files):
    day = pd.date_range("2017-03-12T00:00", periods=288, freq="5min")
    pd.DataFrame({"a": 1.0}, day).to_csv(files / "day.csv", index_label="time")
    _, report = build_sensors(files / "day.csv", tz=LA)
    assert (report["steps"], report["skipped_hour"], report["gaps"]) == (276, 12, 0)
    assert "2017-03-12T02:00:00" in report["warnings"][0]
    assert "Etc/GMT+8" in report["warnings"][0]


def test_service_days_from_stamps_or_from_the_start_are_the_same(files):
    options = {"interval": "10min", "day_start": "05:00", "steps_per_day": 108, "weekdays_only": True,
               "tz": "Asia/Shanghai", "quantity": "count"}
    values = np.arange(2 * 108 * 3, dtype=np.float32).reshape(216, 3)
    np.save(files / "flow.npy", values)
    one, report = build_sensors(files / "flow.npy", start="2016-03-04", **options)  # a Friday
    clock = np.concatenate([instant("2016-03-04T05:00") + 600 * np.arange(108),
                            instant("2016-03-07T05:00") + 600 * np.arange(108)])
    np.savez(files / "flow.npz", flow=values, t=clock)
    other, _ = build_sensors(files / "flow.npz", time_key="t", local_clock=True, **options)
    assert one.time == other.time
    assert np.array_equal(one.signal("sensor").values, other.signal("sensor").values)
    assert report["end"] == "2016-03-07T22:50:00+08:00"
    assert report["partial_last_day_steps"] == 0
    np.save(files / "part.npy", values[:200])
    assert build_sensors(files / "part.npy", start="2016-03-04", **options)[1]["partial_last_day_steps"] == 92


# -------------------------------------------------------------------- places and edges
def test_what_is_in_one_file_only_is_kept_and_reported(files):
    PLACES.assign(sensor_id=["s0", "s1", "s2", "s3", "x4", "x5"]).to_csv(files / "other.csv", index=False)
    pd.DataFrame({"from": ["s0", "s4", "q"], "to": ["s4", "s5", "s0"], "distance_m": [100, 900, 7]}).to_csv(
        files / "edges.csv", index=False)
    graph, report = build_sensors(files / "speed.csv", locations=files / "other.csv", edges=files / "edges.csv",
                                  sigma=1000, **OPTIONS)
    assert graph["sensor"].node_id.tolist() == IDS
    assert report["without_location"] == ["s4", "s5"]
    assert report["unused_locations"] == ["x4", "x5"]
    assert report["unused_in_edges"] == ["q"]
    assert report["isolated_sensors"] == ["s1", "s2", "s3"]
    assert graph.metadata["build"]["unused_locations"] == ["x4", "x5"]
    assert np.isnan(graph["sensor"].lonlat[4:].numpy()).all()
    assert graph[NEAR].edge_index.tolist() == [[0, 4], [4, 5]]
    np.testing.assert_allclose(graph[NEAR].edge_weight, np.exp([-0.01, -0.81]), rtol=1e-6)
    assert graph[NEAR].distance.tolist() == [100, 900]


def test_edges_of_readings_and_their_rules():
    clock = TIMES.to_numpy().astype("datetime64[s]").astype(np.int64)
    edges = pd.DataFrame({"from": ["s0", "s1"], "to": ["s1", "s2"], "weight": [0.5, 0.25]})
    readings = Readings(SPEED[..., None], IDS, ["speed"], clock=clock, edges=edges,
                        locations=PLACES.set_index("sensor_id"))
    given, report = build_sensors(readings, **OPTIONS)
    assert report["edge_rule"] == "given"
    assert given[NEAR].edge_weight.tolist() == [0.5, 0.25]
    assert build_sensors(readings, edge_rule="knn", **OPTIONS)[1]["edge_rule"] == "knn"


def test_readings_in_memory_are_not_changed():
    values = SPEED[..., None].copy()
    readings = Readings(values, IDS, ["speed"], clock=TIMES.to_numpy().astype("datetime64[s]").astype(np.int64))
    build_sensors(readings, missing_value=[50.0], **OPTIONS)
    assert np.array_equal(values[..., 0], SPEED, equal_nan=True)


# -------------------------------------------------------------------- faults: nothing is written
def table_fault(change):
    def make(files):
        table = FRAME.astype(object)
        change(table)
        table.to_csv(files / "speed.csv", index_label="time")
    return make


def all_missing(table):
    table["s3"] = None


def infinite(table):
    table.iloc[4, 2] = np.inf


def words(table):
    table.iloc[4, 2] = "fast"


def swapped(files):
    PLACES.rename(columns={"latitude": "longitude", "longitude": "latitude"}).to_csv(files / "places.csv", index=False)


def small_matrix(files):
    np.savez(files / "adj.npz", adj=np.eye(5))


@pytest.mark.parametrize(("break_it", "options", "problem", "file", "field", "value", "remedy"), [
    (table_fault(all_missing), {}, "1 sensor has not a single reading", "speed.csv", "sensors", "s3", "--allow-empty"),
    (table_fault(infinite), {}, "infinite reading in row 5 of sensor s2", "speed.csv", "s2", "inf", "empty"),
    (table_fault(words), {}, "not a number in row 5 of column s2", "speed.csv", "s2", "fast", "empty"),
    (swapped, {"locations": "places.csv"}, "look exchanged", "places.csv", "latitude", "latitude -11", "swap"),
    (small_matrix, {"adjacency": "adj.npz"}, "wrong size", "adj.npz", "adjacency", "5 x 5", "6 x 6"),
    (None, {"interval": "7min"}, "does not divide the day", None, "interval", "420 s", "--steps-per-day"),
    (None, {"tz": "Mars/Olympus"}, "unknown time zone", None, "tz", "Mars/Olympus", "IANA"),
    (None, {"unit": "ug/m3"}, "a speed is not measured in ug/m3", None, "unit", "ug/m3", "m/s"),
    (None, {"channels": "a,b"}, "2 given for 1 channel", "speed.csv", "channels", "a, b", "give one"),
    (None, {"interval": "soon"}, "not an interval", None, "interval", "soon", "5min"),
    (None, {"day_start": "05:00"}, "do not go together", None, "day_start", "05:00", "--steps-per-day"),
    (None, {"weekdays_only": True}, "do not go together", None, "weekdays_only", "True", "--steps-per-day"),
    (None, {"start": "2017-03-01"}, "do not go together", None, "interval", None, "--interval"),
    (None, {"start": "2017-03-01", "interval": "5min", "time_key": "time"}, "do not go together", None, "start",
     "2017-03-01", "leave out --start"),
    (None, {"edges": "e.csv", "adjacency": "a.npz"}, "do not go together", None, "edges", "e.csv", "not both"),
    (None, {"edge_rule": "near"}, "out of range", None, "edge_rule", "near", "gaussian"),
    (None, {"out": "city.zip"}, "saved as a .stg bundle", None, "out", "city.zip", ".stg"),
    (None, {"locations": "gone.csv"}, "no such file", "gone.csv", None, None, "path")])
def test_faults_name_their_parts_and_write_nothing(files, monkeypatch, break_it, options, problem, file, field, value,
                                                   remedy):
    monkeypatch.chdir(files)
    if break_it is not None:
        break_it(files)
    before = sorted(path.name for path in files.rglob("*"))
    with pytest.raises(InputError, match=problem) as error:
        build_sensors("speed.csv", **{**OPTIONS, "out": "city.stg", **options})
    assert error.value.file == file
    assert error.value.field == field
    assert value is None or value in error.value.value
    assert remedy in error.value.remedy
    assert sorted(path.name for path in files.rglob("*")) == before


def test_sensors_without_readings_can_be_kept(files):
    table_fault(all_missing)(files)
    graph, report = build_sensors(files / "speed.csv", allow_empty=True, **OPTIONS)
    assert report["all_missing_sensors"] == ["s3"]
    assert not graph.signal("sensor").mask[:, 3].any()


def test_an_interval_that_does_not_divide_the_day_needs_service_days(files):
    np.save(files / "flow.npy", SPEED)
    graph, _ = build_sensors(files / "flow.npy", start="2020-01-01T06:00", interval="7min", steps_per_day=144)
    assert graph.time.slots_per_day == 144
    assert graph.time.times(np.array([144])).tolist() == [instant("2020-01-02T06:00")]


def test_readings_hardly_possible_are_only_warned_of(files):
    _, report = build_sensors(files / "speed.csv", quantity="speed", unit="m/s", tz=LA, missing_value=[0])
    assert report["warnings"] == []
    (FRAME * 2).to_csv(files / "fast.csv", index_label="time")
    _, report = build_sensors(files / "fast.csv", quantity="speed")
    assert "km/h or mph" in report["warnings"][1]
    assert "read as UTC" in report["warnings"][0]
    assert "no --unit was given: taken as speed in m/s" in report["warnings"][2]


def test_every_option_has_its_place_in_the_command():
    options = SensorOptions(missing_value=(0.0, -1.0), weekdays_only=True, edges="folder/e.csv")
    assert options.command("folder/x.npz") == ("stgraph build sensors x.npz --missing-value 0.0 --missing-value -1.0 "
                                               "--weekdays-only --edges e.csv")
