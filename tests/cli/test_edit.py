"""``stgraph edit``: roads are edited at a time, from the command line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from stgraph.cli.edit import edit
from stgraph.errors import InputError
from stgraph.graph import data_sha256, load, save
from stgraph.roads import Roads
from stgraph.roads.paths import shortest_distances

APP = typer.Typer()
APP.command()(edit)
NOON = "1970-01-01T12:00"


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """A triangle of streets both ways; from junction 1 to 2 the straight one is the shortest."""
    places = np.array([(8.0, 47.0), (8.01, 47.0), (8.005, 47.005)])
    tail, head = np.array(list(itertools.permutations(range(3), 2))).T
    ptr, xy = 2 * np.arange(7), places[np.column_stack([tail, head]).reshape(-1)]
    save(Roads(np.array([1, 2, 3]), places, tail, head, np.array([760.0 if a + b == 1 else 670.0 for a, b in
                                                                  zip(tail, head, strict=True)]), ptr, xy,
               attributes={"speed": np.full(6, 14.0, np.float32), "oneway": np.zeros(6, bool)}).tables(),
         tmp_path / "roads.stg")
    return str(tmp_path / "roads.stg")


def run(bundle: str, *words: str) -> dict[str, Any]:
    out = str(Path(bundle).with_name("out.stg"))
    done = CliRunner().invoke(APP, [bundle, *words, "-o", out, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["data_sha256"] == data_sha256(out)
    return report


def test_a_street_is_closed_for_some_hours(bundle: str) -> None:
    report = run(bundle, "--close", "1-2-0", "--from", NOON, "--to", "1970-01-01T14:00")
    assert report["edits"] == [{"edit": "close", "segments": ["1-2-0"], "count": 1, "from": 43_200, "to": 50_400}]
    assert (report["rows_before"], report["rows"]) == (6, 7)
    graph = load(report["out"])
    ways = [float(shortest_distances(graph.at(t), [1], [2])[0, 0]) for t in ("1970-01-01T11:59", NOON,
                                                                            "1970-01-01T14:00")]
    assert ways == [760.0, 1340.0, 760.0]


def test_streets_are_opened_slowed_down_and_added(bundle: str) -> None:
    closed = run(bundle, "--close", "1-2-0", "--close", "2-1-0", "--from", NOON)["out"]
    assert load(closed).at("1970-01-02").size_of("segment") == 4
    saved = str(Path(closed).with_name("closed.stg"))
    Path(closed).rename(saved)
    opened = run(saved, "--open", "2-1-0", "--from", "1970-01-03")
    assert load(opened["out"]).at("1970-01-04").size_of("segment") == 5
    slow = run(bundle, "--change-speed", "1-2-0", "--speed", "30", "--unit", "km/h", "--from", NOON)
    snapshot = load(slow["out"]).at("1970-01-02")
    assert float(snapshot["segment"].speed[snapshot["segment"].node_id == "1-2-0@2"]) == pytest.approx(30 / 3.6)
    added = run(bundle, "--add", "1", "3", "--both-ways", "--id", "bridge", "--line",
                "LINESTRING (8 47, 8.001 47.004, 8.005 47.005)", "--speed", "36", "--from", NOON)
    store = load(added["out"])["segment"]
    assert store.node_id[-2:].tolist() == ["bridge", "bridge-back"]
    assert store.speed[-2:].tolist() == [10.0, 10.0]
    assert store.oneway[-2:].tolist() == [False, False]
    assert added["segments"] == 2
    ptr, xy = store.geometry.coordinates()
    assert np.array_equal(xy[ptr[-3]:ptr[-2]], xy[ptr[-2]:][::-1])


@pytest.mark.parametrize(("words", "problem"), [
    (["--from", NOON], "one kind of edit"), (["--close", "1-2-0", "--open", "1-2-0", "--from", NOON], "one kind"),
    (["--close", "nowhere", "--from", NOON], "no such segment"),
    (["--close", "1-2-0", "--from", "noon"], "usable time"),
    (["--change-speed", "1-2-0", "--from", NOON], "a speed goes with"),
    (["--close", "1-2-0", "--speed", "3", "--from", NOON], "a speed goes with"),
    (["--close", "1-2-0", "--both-ways", "--from", NOON], "one of --add"),
    (["--add", "1", "3", "--line", "POINT (8 47)", "--from", NOON], "not a line"),
    (["--add", "1", "3", "--line", "LINE", "--from", NOON], "well-known text"),
    (["--change-speed", "1-2-0", "--speed", "3", "--unit", "furlong", "--from", NOON], "unknown unit")])
def test_faults_write_nothing(bundle: str, words: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        run(bundle, *words)
    assert [path.name for path in Path(bundle).parent.iterdir()] == ["roads.stg"]


def test_a_bundle_is_a_bundle(bundle: str) -> None:
    done = CliRunner().invoke(APP, [bundle, "--close", "1-2-0", "--from", NOON, "-o", "x.zip"])
    assert ".stg" in str(done.exception)
