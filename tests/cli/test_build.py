"""``stgraph build sensors``: the promised lines work as written, on real data."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from stgraph.cli.build import app
from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, data_sha256, load
from stgraph.graph.time import instant
from stgraph.sources.sensors import NEAR

LA = "America/Los_Angeles"


def line(text: str, shared_data, tmp_path) -> list[str]:
    """The words after ``stgraph build``, with the folders put in."""
    return [word.replace("$D", str(shared_data)) if "$D" in word else str(tmp_path / word) if word.endswith(".stg")
            else word for word in text.split()]


def built(text: str, shared_data, tmp_path) -> tuple[DynamicHeteroGraph, dict]:
    words = line(text, shared_data, tmp_path)
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)  # exactly one object: anything else on stdout would not parse
    out = words[words.index("-o") + 1]
    assert report["out"] == out
    assert report["data_sha256"] == data_sha256(out)
    assert "Next: stgraph train --data" in result.stderr
    return load(out), report


LOS = ("sensors $D/los_loop/speed.npz --key speed_mph --ids-key sensor_id --locations $D/los_loop/sensors.csv "
       "--adjacency $D/los_loop/adj.npz --adjacency-key adj_dcrnn --quantity speed --unit mph --interval 5min "
       f"--start 2012-03-01T00:00 --tz {LA} -o los.stg --json")
BAY = ("sensors $D/pems_bay_16/speed.npz --key speed_mph --ids-key sensor_id --time-key timestamp --local-clock "
       "--locations $D/pems_bay_16/sensors.csv --edges $D/pems_bay_16/distances.csv --missing-value 0 "
       f"--quantity speed --unit mph --tz {LA} -o bay.stg --json")
METRO = ("sensors $D/beijing_subway/beijing_subway.npz --key flow_10min --channels inflow,outflow "
         "--adjacency $D/beijing_subway/beijing_subway.npz --adjacency-key adj --quantity count --interval 10min "
         "--start 2016-02-29 --day-start 05:00 --steps-per-day 108 --weekdays-only -o metro.stg --json")
SCATS = ("sensors $D/melbourne_scats/volume.npz --key volume --time-key timestamp --local-clock "
         "--locations $D/melbourne_scats/approaches.csv --quantity count --interval 15min --tz Australia/Melbourne "
         "-o scats.stg --json")
AIR = ("sensors $D/aqi36_beijing/pm25.npz --key pm25 --ids-key station_id --time-key timestamp --local-clock "
       "--locations $D/aqi36_beijing/stations.csv --quantity concentration --unit ug/m3 --tz Asia/Shanghai "
       "-o air.stg --json")


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def test_los_loop_as_promised(shared_data, tmp_path):
    graph, report = built(LOS, shared_data, tmp_path)
    source = arrays(shared_data / "los_loop" / "speed.npz")
    signal = graph.signal("sensor")
    np.testing.assert_allclose(signal.to_source(signal.values[..., 0], 0), source["speed_mph"], rtol=3e-7)
    assert signal.read(0, 2016)[1].all()
    assert graph["sensor"].node_id.tolist() == [str(name) for name in source["sensor_id"]]
    assert graph["sensor"].lonlat[0].tolist() == [-118.31829, 34.15497]
    matrix = arrays(shared_data / "los_loop" / "adj.npz")["adj_dcrnn"].copy()
    np.fill_diagonal(matrix, 0)
    made = np.zeros_like(matrix)
    made[tuple(graph[NEAR].edge_index)] = graph[NEAR].edge_weight
    assert np.array_equal(made, matrix)
    assert (report["sensors"], report["steps"], report["edges"], report["edge_rule"]) == (207, 2016, 1515, "given")
    assert report["self_loops_dropped"] == 207
    assert report["without_location"] == report["unused_locations"] == report["all_missing_sensors"] == []
    assert report["start"] == "2012-03-01T00:00:00-08:00"


def test_pems_bay_as_promised(shared_data, tmp_path):
    """The gap that daylight saving leaves on the local clock is none in UTC; zeros are missing."""
    graph, report = built(BAY, shared_data, tmp_path)
    source = arrays(shared_data / "pems_bay_16" / "speed.npz")
    assert graph.time.length == len(source["timestamp"]) == 43476
    assert (report["interval_s"], report["gaps"], report["skipped_hour"], report["duplicates"]) == (300, 0, 0, 0)
    assert graph.time.start == instant("2017-01-01T00:00", LA)
    assert np.array_equal(graph.time.clock, source["timestamp"])
    values, mask = graph.signal("sensor").read(0, 43476)
    assert np.array_equal(mask[..., 0], source["speed_mph"] != 0)
    assert report["missing_coded"] == 7
    np.testing.assert_allclose(values[..., 0] / 0.44704, source["speed_mph"], rtol=3e-7)
    assert report["edge_rule"] == "gaussian"
    weight, distance = graph[NEAR].edge_weight.numpy(), graph[NEAR].distance.numpy()
    np.testing.assert_allclose(weight, np.exp(-(distance / report["sigma_m"]) ** 2), rtol=1e-5)


def test_beijing_subway_as_promised(shared_data, tmp_path):
    """Service days of 18 hours on weekdays; readings and adjacency in one file; no places."""
    graph, report = built(METRO, shared_data, tmp_path)
    source = arrays(shared_data / "beijing_subway" / "beijing_subway.npz")
    assert np.array_equal(graph.signal("sensor").read(0, 2700)[0], source["flow_10min"])
    assert report["channels"] == ["inflow", "outflow"]
    assert (report["steps_per_day"], report["weekdays_only"], report["partial_last_day_steps"]) == (108, True, 0)
    assert (report["start"], report["end"]) == ("2016-02-29T05:00:00+00:00", "2016-04-01T22:50:00+00:00")
    slot, weekday, _ = graph.time.calendar()
    assert np.array_equal(slot, np.tile(np.arange(108), 25))
    assert np.array_equal(weekday, np.tile(np.repeat(np.arange(5), 108), 5))
    assert report["edges"] == 630
    assert set(graph[NEAR].edge_weight.tolist()) == {1.0}
    assert np.isnan(graph["sensor"].lonlat.numpy()).all()
    assert len(report["without_location"]) == 276


def test_melbourne_scats(shared_data, tmp_path):
    """No names: places by order. One place is 0, 0. The clock skips an hour on 29 October, the file does not."""
    graph, report = built(SCATS, shared_data, tmp_path)
    source = arrays(shared_data / "melbourne_scats" / "volume.npz")
    values, mask = graph.signal("sensor").read(0, 2972)
    kept = np.r_[0:28 * 96 + 8, 28 * 96 + 12:2976]
    assert np.array_equal(mask[..., 0], ~np.isnan(source["volume"][kept]))
    assert np.array_equal(values[..., 0], np.nan_to_num(source["volume"][kept]))
    assert (report["sensors"], report["steps"], report["gaps"], report["skipped_hour"]) == (140, 2972, 0, 4)
    assert np.array_equal(graph.time.clock, source["timestamp"][kept])
    assert report["without_location"] == report["zero_locations"] == report["isolated_sensors"] == ["111"]
    assert report["locations_matched"] == "by order"
    assert report["edge_rule"] == "knn"
    assert report["edges"] == 139 * 8
    words = line(SCATS + " --ids-key scats_site", shared_data, tmp_path / "other")
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, InputError)
    assert (result.exception.field, result.exception.value) == ("scats_site", "970")


def test_air_quality(shared_data, tmp_path):
    graph, report = built(AIR, shared_data, tmp_path)
    source = arrays(shared_data / "aqi36_beijing" / "pm25.npz")["pm25"]
    assert graph["sensor"].node_id[0] == "001001"  # leading zeros stay
    assert np.array_equal(graph.signal("sensor").read(0, 8759)[1][..., 0], ~np.isnan(source))
    assert (report["interval_s"], report["edge_rule"], report["without_location"]) == (3600, "knn", [])


def test_every_option_has_help_and_there_is_an_example():
    result = CliRunner().invoke(app, ["sensors", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    text = re.sub(r"\s+", " ", result.stdout)
    assert "Example: stgraph build sensors" in text
    command = typer.main.get_command(app).commands["sensors"]
    assert all(getattr(option, "help", None) for option in command.params if option.name != "help")
    assert len(command.params) > 35


def test_people_get_a_table_and_the_next_command_and_nothing_on_stdout(tmp_path):
    np.savez(tmp_path / "a.npz", v=np.ones((24, 2)))
    result = CliRunner().invoke(app, ["sensors", str(tmp_path / "a.npz"), "--start", "2020-01-01", "--interval", "1h",
                                      "-o", str(tmp_path / "a.stg")], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    for part in ("sensors", "2020-01-01T00:00:00+00:00", "0 (none)", "Next: stgraph train --data"):
        assert part in result.stderr


@pytest.mark.parametrize(("words", "field"), [
    (["--start", "2020-01-01", "--interval", "7h"], "interval"), (["--start", "soon", "--interval", "1h"], "time"),
    (["--time-key", "t"], "t"), (["--start", "2020-01-01", "--interval", "1h", "--edge-rule", "knn"], "edge_rule")])
def test_a_fault_writes_nothing(tmp_path, words, field):
    np.savez(tmp_path / "a.npz", v=np.ones((24, 2)))
    result = CliRunner().invoke(app, ["sensors", str(tmp_path / "a.npz"), "-o", str(tmp_path / "a.stg"), *words])
    assert isinstance(result.exception, InputError)
    assert result.exception.field == field
    assert result.exception.remedy
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("words", [
    "events x.stg --grid 1km", "events a.csv --on x.stg", "events a.csv --regions x.stg", "merge x.stg y.stg",
    "moving x.stg", "dynamic x.stg --edges a.csv", "dynamic a.csv --edges x.stg", "raster x.stg", "osm x.stg",
    "dynamic a.csv --edges a.csv --locations x.stg", "sensors x.stg", "sensors a.csv --locations x.stg",
    "sensors a.csv --adjacency x.stg", "sensors a.csv --edges x.stg", "sensors a.csv --roads x.stg"])
def test_no_verb_writes_over_what_it_reads(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.stg").write_text("kept")
    with pytest.raises(InputError, match="would write over what is read") as error:
        CliRunner().invoke(app, [*words.split(), "-o", str(tmp_path / "x.stg")], catch_exceptions=False)
    assert (error.value.field, error.value.value) == ("out", "x.stg")
    assert (tmp_path / "x.stg").read_text() == "kept"


def test_importing_the_command_imports_nothing_heavy():
    code = "import json, sys, stgraph.cli.build; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "numpy", "pyarrow", "scipy"} & set(json.loads(done.stdout))
