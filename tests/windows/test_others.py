"""Windows of several types of nodes: the same origins for all, and nothing before it has happened."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))  # joint_city.py
from joint_city import HOUR, KINDS, SIZES, joint_city, joint_graph

from stgraph.cli.main import app
from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, save
from stgraph.windows import AttributeWindow, City, Layer, TrainingBatches, Window, loader
from stgraph.windows.city import also_of

NEEDS = frozenset({"profile", "lags"})


def timed_layer(times: list[int], memory: int = 100, **lives: list[int]) -> Layer:
    """Nodes that happen at given seconds, with a number that is twice their time."""
    graph = DynamicHeteroGraph()
    graph["event"].node_id = np.array([str(i) for i in range(len(times))])
    graph["event"].time = torch.tensor(times)
    graph["event"].size = 2.0 * torch.tensor(times)
    for name, values in lives.items():
        graph["event"][name] = torch.tensor(values)
    return Layer(graph, "event", memory, stop=500)


def test_others_are_cut_at_the_same_origins() -> None:
    city = joint_city()
    window = city.window([50, 70], NEEDS)
    assert list(window.others) == ["segment", "region", "event", "junction"]
    alone = City(joint_graph(), node_type="segment", history=6, horizon=3).window([50, 70], NEEDS)
    other = window.others["segment"]
    assert isinstance(other, Window)
    for name in ("values", "mask", "target", "target_mask", "profile_past", "profile_future", "origin"):
        assert torch.equal(getattr(other, name), getattr(alone, name)), name
    assert city.window([288], target=False).others["region"].target is None  # type: ignore[union-attr]


def test_what_has_happened_is_there_until_it_is_forgotten() -> None:
    """By hand: memory 100 s; what happens at the origin's own second is not known yet."""
    layer = timed_layer([0, 100, 199, 200, 260])
    window = layer.window(np.array([200, 100, 261]))
    assert [nodes[there].tolist() for nodes, there in zip(window.nodes, window.present, strict=True)] == [
        [1, 2], [0], [2, 3, 4]]
    assert window.present.int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert window.age.mul(60).round().int().tolist() == [[100, 1, 0], [100, 0, 0], [62, 61, 1]]
    assert layer.window(np.array([100])).nodes.tolist() == [[0]]
    assert layer.window(np.array([0])).nodes.shape == (1, 0)


def test_a_life_ends_before_it_is_forgotten() -> None:
    layer = timed_layer([0, 100], valid_from=[0, 100], valid_to=[50, 150])
    assert [layer.window(np.array([moment])).nodes[0].tolist() for moment in (1, 50, 51, 100, 101, 151)] == [
        [0], [0], [], [], [1], []]


def test_deviations_are_of_what_training_knows() -> None:
    """Sizes 200, 400, 800 before second 500: mean 1400 / 3; what comes later moves nothing."""
    known, more = timed_layer([100, 200, 400]), timed_layer([100, 200, 400, 600, 10**6])
    expected = (torch.tensor([200.0, 400, 800]) - 1400 / 3) / float(np.std([200, 400, 800]))
    torch.testing.assert_close(known.numbers["size"], expected)
    assert torch.equal(more.numbers["size"][:3], known.numbers["size"])
    more.use_context(10**7)
    assert not torch.equal(more.numbers["size"][:3], known.numbers["size"])


def test_attributes_are_numbers_and_words() -> None:
    graph = joint_graph()
    graph["event"].street = np.array(["Main Street"] * SIZES["event"])
    graph["event"].row = torch.arange(SIZES["event"])  # an integer without a unit is a label
    graph["event"].type[3] = 2
    graph.declare("event", "type", None, "what happened", (*KINDS[:2], ""))
    event, junction = (Layer(graph, kind, HOUR, 100 * HOUR) for kind in ("event", "junction"))
    assert list(event.words) == ["type"]
    assert list(event.numbers) == ["weight"]
    assert int(event.words["type"][0][3]) == -1  # no word: unknown
    assert sorted(junction.numbers) == ["lanes", "light"]
    assert not junction.timed
    assert junction.window(np.array([0, 5])).present.all()


def test_what_is_over_only_later_is_refused() -> None:
    graph = joint_graph()
    graph["trip"].node_id = np.array(["a"])
    for also, match in (({"trip": {}}, "only when they are over"), ({"sensor": {}}, "forecast already"),
                        ({"event": {"signal": "readings"}}, "no signal"), ({"region": {"memory": "1h"}}, "no such opt"),
                        ({"square": {}}, "no such type"), ({"region": {"signal": "flow"}}, "no such signal")):
        with pytest.raises(InputError, match=match):
            joint_city(also, graph)
    graph["event"].sequence = torch.zeros(SIZES["event"])
    with pytest.raises(InputError, match="clocks of their own"):
        joint_city({"event": {}}, graph)


def test_another_type_leads() -> None:
    city = joint_city()
    led = city.led_by("region")
    assert (led.node_type, list(led.others)) == ("region", ["sensor", "segment", "event", "junction"])
    one, other = city.window([60], NEEDS), led.window([60], NEEDS)
    assert torch.equal(one.others["region"].values, other.values)  # type: ignore[union-attr]
    assert torch.equal(one.values, other.others["sensor"].values)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="not another type with a signal"):
        city.led_by("event")


def test_descriptors_of_all_types_follow_the_fitted_rows() -> None:
    city = joint_city()
    before = city.others["segment"].context.mean.copy()  # type: ignore[union-attr]
    weight = city.others["event"].numbers["weight"].clone()  # type: ignore[union-attr]
    city.use_context(0, 30)
    assert not np.array_equal(before, city.others["segment"].context.mean)  # type: ignore[union-attr]
    assert not torch.equal(weight, city.others["event"].numbers["weight"])  # type: ignore[union-attr]


def test_edges_that_begin_after_the_training_rows_are_not_known() -> None:
    city = City(joint_graph(), node_type="segment", history=6, horizon=3)
    moves = city.graph["segment", "then", "segment"]
    known = moves.valid_from < city.split.rows("train")[1] * HOUR
    assert 0 < int(known.sum()) < len(known)
    assert city.edges[0].shape[1] == 5 + int(known.sum())
    assert city.lasting_edges[0].shape[1] == 5


def test_windows_are_the_same_from_worker_processes() -> None:
    city = joint_city()
    batches = TrainingBatches([city], 4, 3, needs=NEEDS)
    for one, other in zip(loader(batches), loader(batches, workers=1), strict=True):
        assert other.others["event"].city is city.others["event"]
        assert other.others["region"].city is city.others["region"]
        assert torch.equal(one.others["event"].present, other.others["event"].present)  # type: ignore[union-attr]
        assert torch.equal(one.others["region"].values, other.others["region"].values)  # type: ignore[union-attr]


def test_words_of_the_command_line() -> None:
    assert also_of(["segment:traffic:count+speed", "region", "event:6h", "cell:counts"]) == {
        "segment": {"signal": "traffic", "channels": ["count", "speed"]}, "region": {}, "event": {"memory": "6h"},
        "cell": {"signal": "counts"}}
    for words in (["a:b:c:d"], [""], ["a:"], ["a", "a:b"]):
        with pytest.raises(InputError):
            also_of(words)


def test_a_run_with_other_types_is_recorded_and_resumed(tmp_path: Path) -> None:
    bundle, run = str(tmp_path / "city.stg"), tmp_path / "run"
    save(joint_graph(), bundle)
    words = ["train", "--data", bundle, "--model", "weave", "--history", "6", "--horizon", "3", "--set", "width=16",
             "--set", "parts=graph,mlp",
             "--set", "layers=1", "--also", "segment", "--also", "event:6h", "--objective",
             "mae,attributes(type=event,name=type):0.5", "--steps", "4", "--out", str(run), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    record = json.loads((run / "run.json").read_text())
    assert record["data"][0]["also"] == {"segment": {}, "event": {"memory": "6h"}}
    assert record["data"][0]["other_nodes"] == {"segment": 6, "event": 60}
    assert set(record["best_validation"]["cities"]["city"]) == {"channel 0", "segment channel 0"}
    head = (run / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert head[-3:] == ["loss/mae/sensor", "loss/mae/segment", "loss/event.type"]
    again = CliRunner().invoke(app, ["train", "--out", str(run), "--resume", "--json"])
    assert again.exit_code == 0, again.output
    other = CliRunner().invoke(app, ["train", "--out", str(run), "--resume", "--also", "region", "--json"])
    assert isinstance(other.exception, InputError)
    unknown = CliRunner().invoke(app, [*words[:-3], "--objective", "attributes(type=event,name=colour)", "--out",
                                       str(tmp_path / "other")])
    assert "no such attribute" in str(unknown.exception)
    assert not (tmp_path / "other").exists()


def test_a_model_of_one_type_refuses_others(tmp_path: Path) -> None:
    save(joint_graph(), tmp_path / "city.stg")
    found = CliRunner().invoke(app, ["train", "--data", str(tmp_path / "city.stg"), "--model", "profile_mlp", "--also",
                                     "segment", "--out", str(tmp_path / "run"), "--json"])
    assert isinstance(found.exception, InputError)
    assert "reads one type of nodes" in str(found.exception)


def test_an_attribute_window_moves() -> None:
    window = joint_city().window([60], NEEDS).others["event"]
    assert isinstance(window, AttributeWindow)
    window.hidden = {"type": window.present}
    moved = window.to("cpu")
    assert torch.equal(moved.present, window.present)
    assert torch.equal(moved.hidden["type"], window.hidden["type"])
