"""Edges listed for each step: every snapshot has exactly its list, and what does not change is kept once."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stgraph.cli.build import app as build
from stgraph.cli.data import app as data
from stgraph.datasets import build_source, card, edges_per_step
from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, TimeAxis, load
from stgraph.sources.dynamic_edges import build_dynamic, merge_runs, read_edges_per_step, set_edges_per_step
from stgraph.sources.readings import Readings
from stgraph.sources.sensors import NEAR

HOUR = 3600


def snapshot(graph, row, kind=NEAR) -> dict[tuple[int, int], float]:
    """Edges of one step by their ends, through ``graph.at``."""
    part = graph.at(int(graph.time.times(np.array([row]))[0]))[kind]
    pairs = list(map(tuple, part.edge_index.T.tolist()))
    assert len(pairs) == len(set(pairs))
    return dict(zip(pairs, part.edge_weight.tolist(), strict=True))


def expected_of(lists, steps) -> list[dict[tuple[int, int], float]]:
    """The same from the lists, row by row."""
    out: list[dict[tuple[int, int], float]] = [{} for _ in range(steps)]
    for row in lists.itertuples(index=False):
        out[row.step][int(row._1), int(row.to)] = float(row.weight)
    return out


def empty(steps=6, nodes=5, **axis) -> DynamicHeteroGraph:
    graph = DynamicHeteroGraph(time=TimeAxis(0, HOUR, steps, **axis))
    graph["sensor"].node_id = np.array([str(i) for i in range(nodes)])
    graph["sensor"].num_nodes = nodes
    return graph


# -------------------------------------------------------------------- real data
def test_england_has_every_day_its_own_graph(shared_data, tmp_path):
    one = card("england_covid")
    source, options = build_source(one, shared_data)
    lists = edges_per_step(one, shared_data)
    graph, report = build_dynamic(source, lists, out=tmp_path / "england.stg", **options)
    graph = load(tmp_path / "england.stg")
    expected = expected_of(lists, 61)
    assert [len(day) for day in (expected[0], expected[30])] == [2158, 836]
    for day in range(61):
        assert snapshot(graph, day) == expected[day]
    # noon and the last minute of the day on which the clock is put forward, which is 23 hours long
    for clock in ("2020-03-29T12:00", "2020-03-29T23:59", "2020-03-30T00:00"):
        part = graph.at(clock)
        day = 16 if clock.startswith("2020-03-29") else 17
        assert part[NEAR].edge_index.shape[1] == len(expected[day])
        assert np.array_equal(part.signal("sensor").values[0], graph.signal("sensor").values[day])
    assert (report["edge_rows"], report["edge_pairs"], report["self_loops"]) == (82529, 2347, 61 * 129)
    assert report["edges"] == graph[NEAR].edge_index.shape[1] < report["edge_rows"]
    assert one.licence.attribution in str(graph.metadata)


def test_the_commands_make_the_bundle_and_print_one_object(shared_data, tmp_path):
    result = CliRunner().invoke(data, ["build", "england_covid", str(shared_data), "-o", f"{tmp_path}/e.stg", "--json"],
                                catch_exceptions=False)
    report = json.loads(result.stdout)
    assert (report["sensors"], report["edge_rule"], report["edge_rows"]) == (129, "per step", 82529)
    one = card("england_covid")
    readings = build_source(one, shared_data)[0]
    np.save(tmp_path / "y.npy", readings.values[..., 0])
    edges_per_step(one, shared_data).to_parquet(tmp_path / "e.parquet")
    words = (f"dynamic {tmp_path}/y.npy --edges {tmp_path}/e.parquet --quantity count --start 2020-03-13 --interval 1D "
             f"--tz Europe/London -o {tmp_path}/d.stg --json")
    result = CliRunner().invoke(build, words.split(), catch_exceptions=False)
    assert json.loads(result.stdout)["edges"] == report["edges"]
    first, second = (load(tmp_path / f"{name}.stg") for name in "ed")
    assert np.array_equal(first[NEAR].edge_weight, second[NEAR].edge_weight)
    assert np.array_equal(first[NEAR].valid_to, second[NEAR].valid_to)


# -------------------------------------------------------------------- laws
@st.composite
def drawn(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    steps, nodes = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    random = np.random.default_rng(seed)
    there = random.random((steps, nodes, nodes)) < 0.6
    step, source, target = np.nonzero(there)
    weight = random.integers(0, 3, len(step)) / 2  # few different ones, so that runs come about
    lists = pd.DataFrame({"step": step, "from": source, "to": target, "weight": weight})
    return lists.sample(frac=1, random_state=int(seed % 1000)), steps, nodes


@given(drawn())
def test_every_snapshot_is_its_list_and_no_run_could_be_joined(case):
    lists, steps, nodes = case
    graph = empty(steps, nodes)
    if not len(lists):
        with pytest.raises(InputError, match="there is no edge"):
            set_edges_per_step(graph, NEAR, lists)
        return
    report = set_edges_per_step(graph, NEAR, lists)
    graph.validate()
    expected = expected_of(lists, steps)
    for row in range(steps):
        assert snapshot(graph, row) == expected[row]
        assert graph.at(row * HOUR + HOUR - 1)[NEAR].edge_index.shape[1] == len(expected[row])
    starts = sum(1 for row in range(steps) for pair, weight in expected[row].items()
                 if row == 0 or expected[row - 1].get(pair) != weight)
    assert report["edges"] == graph[NEAR].edge_index.shape[1] == starts
    assert report["steps_without_edges"] == sum(not one for one in expected)


def test_runs_of_runs_are_runs():
    key, first = np.array([7, 7, 3, 7, 3, 7]), np.array([4, 0, 1, 1, 5, 2])
    last = first + np.array([1, 1, 2, 1, 1, 2])
    whole = merge_runs(key, first, last)
    assert whole.key.tolist() == [3, 3, 7]
    assert list(zip(whole.first.tolist(), whole.last.tolist(), strict=True)) == [(1, 3), (5, 6), (0, 5)]
    half = merge_runs(key[:3], first[:3], last[:3])
    again = merge_runs(*(np.concatenate([one, other]) for one, other in (
        (half.key, key[3:]), (half.first, first[3:]), (half.last, last[3:]))))
    assert np.array_equal(again.first, whole.first)
    assert np.array_equal(again.last, whole.last)
    assert len(merge_runs(key[:0], key[:0], key[:0]).key) == 0


def test_edges_of_service_days_live_to_the_last_step_of_the_day():
    graph = empty(4, 2, steps_per_day=2)
    set_edges_per_step(graph, NEAR, pd.DataFrame({"step": [1, 2], "from": ["0", "1"], "to": ["1", "0"]}))
    assert graph[NEAR].valid_from.tolist() == [HOUR, 86_400]
    assert graph[NEAR].valid_to.tolist() == [2 * HOUR, 86_400 + HOUR]


# -------------------------------------------------------------------- tables
def test_a_table_by_step_or_by_time_gives_the_same_graph(tmp_path):
    clock = pd.date_range("2020-01-01", periods=4, freq="1h")
    pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [5.0, 6, 7, 8]}, clock).to_csv(tmp_path / "v.csv", index_label="time")
    lists = pd.DataFrame({"step": [0, 1, 1, 3], "source": ["a", "a", "b", "b"], "target": ["b", "b", "a", "b"],
                          "weight": [2, 2, 1, 4]})
    lists.to_csv(tmp_path / "e.csv", index=False)
    stamps = clock[lists["step"]].strftime("%Y-%m-%dT%H:%M")
    lists.drop(columns="step").assign(time=stamps).sample(frac=1, random_state=2).to_parquet(tmp_path / "e.parquet")
    one, report = build_dynamic(tmp_path / "v.csv", tmp_path / "e.csv", tz="Europe/Paris", out=tmp_path / "g.stg")
    other, _ = build_dynamic(tmp_path / "v.csv", tmp_path / "e.parquet", tz="Europe/Paris")
    for name in ("edge_index", "edge_weight", "valid_from", "valid_to"):
        assert one[NEAR][name].tolist() == other[NEAR][name].tolist()
    assert snapshot(one, 1) == {(0, 1): 2, (1, 0): 1}
    assert snapshot(one, 2) == {}
    assert report["edges_per_step"] == [0, 2]
    assert load(tmp_path / "g.stg").metadata["command"] == (
        "stgraph build dynamic v.csv --tz Europe/Paris --name g --edges e.csv --out g.stg")


@pytest.mark.parametrize(("rows", "problem", "field", "value"), [
    ("step,from,to,weight\n0,a,b,1\n9,a,b,1\n", "in no step of the readings", "step", "9 in row 2"),
    ("step,from,to,weight\n0,a,c,1\n", "no sensor of the readings", "to", "c in row 1"),
    ("step,from,to,weight\n0,a,b,1\n0,a,b,2\n", "listed twice in one step", "edges", "a -> b in step 0"),
    ("step,from,to,weight\n0,a,b,-1\n", "negative or not a finite", "weight", "-1"),
    ("step,from,to,weight\n0,a,b,\n", "negative or not a finite", "weight", "nan"),
    ("step,from,to\n0.5,a,b\n", "step in row 1 is not a whole number", "step", "0.5"),
    ("step,from,to\n0,a,b\n1e300,a,b\n", "step in row 2 is not a whole number", "step", "1e+300"),
    ("step,from,to\n0,a,b\n-inf,a,b\n", "step in row 2 is not a whole number", "step", "-inf"),
    ("step,from,to\n0,a,b\n,a,b\n", "step in row 2 is not a whole number", "step", "nan"),
    ("from,to\na,b\n", "no column 'step'", "step", "from, to"),
    ("step,to\n0,b\n", "no column 'from'", "from", "step, to")])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_faults_name_their_parts_and_write_nothing(tmp_path, rows, problem, field, value):
    (tmp_path / "e.csv").write_text(rows)
    readings = Readings(np.ones((4, 2, 1), np.float32), ["a", "b"], ["x"], utc=np.arange(4) * HOUR)
    with pytest.raises(InputError, match=problem) as error:
        build_dynamic(readings, tmp_path / "e.csv", out=tmp_path / "g.stg")
    assert error.value.field == field
    assert value in error.value.value
    assert [path.name for path in tmp_path.iterdir()] == ["e.csv"]


def test_options_of_other_edges_are_refused(tmp_path):
    readings = Readings(np.ones((4, 2, 1), np.float32), ["a", "b"], ["x"], utc=np.arange(4) * HOUR)
    lists = pd.DataFrame({"step": [0], "from": ["a"], "to": ["b"]})
    for options, field in (({"edge_rule": "knn"}, "edge_rule"), ({"adjacency": "a.npz"}, "adjacency"),
                           ({"out": "g.zip"}, "out")):
        with pytest.raises(InputError) as error:
            build_dynamic(readings, lists, **options)
        assert error.value.field == field
    with pytest.raises(InputError, match="need a time axis"):
        set_edges_per_step(DynamicHeteroGraph(), NEAR, lists)
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(InputError, match="CSV or Parquet"):
        read_edges_per_step(tmp_path / "e.json")
