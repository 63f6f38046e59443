"""``stgraph train``: one JSON object, several bundles, and going on after Ctrl-C with two words."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch
from tiny import make_city

from stgraph.cli.main import main
from stgraph.graph import save
from stgraph.models.stid import STID

SMALL = ["--set", "width=4", "--history", "6", "--horizon", "3"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name, nodes, seed in (("one", 3, 0), ("two", 5, 1)):
        save(make_city(nodes=nodes, seed=seed, name=name).graph, folder / f"{name}.stg")
    return folder


def run(capfd, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, words)])
    out, err = capfd.readouterr()
    return caught.value.code, out, err


def test_one_json_object_on_stdout_and_what_to_type_next_on_stderr(bundles, tmp_path, capfd):
    code, out, err = run(capfd, "--data", bundles / "one.stg", "--model", "stid", "--out", tmp_path / "run", "--steps",
                         20, "--seed", 3, "--json", *SMALL)
    assert code == 0
    result = json.loads(out)
    assert out.count("\n") == 1
    assert {"model", "run", "data", "data_sha256", "steps", "seconds", "parameters", "best_validation", "stopped_by",
            "seed", "history", "horizon", "device", "versions", "next"} <= set(result)
    assert (result["model"], result["steps"], result["seed"], result["history"]) == ("stid", 20, 3, 6)
    assert result["data"] == [str(bundles / "one.stg")]
    assert result["next"] == f"stgraph evaluate --model {tmp_path / 'run'} --data {bundles / 'one.stg'}"
    assert result["next"] in err
    assert "mph" in err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"][0]["data_sha256"] == result["data_sha256"]
    assert len(result["data_sha256"]) == 64
    assert record["config"]["width"] == 4
    assert record["learning_rate"] == STID.recipe["learning_rate"]


@pytest.mark.parametrize("form", [["--data", "one", "two"], ["--data", "one", "--data", "two"]])
def test_several_bundles_in_either_form(bundles, tmp_path, capfd, form):
    words = [bundles / f"{word}.stg" if word in ("one", "two") else word for word in form]
    code, out, _ = run(capfd, *words, "--model", "stid", "--set", "node_table=false", "--out", tmp_path / "run",
                       "--steps", 5, "--json", *SMALL)
    assert code == 0
    assert json.loads(out)["data"] == [str(bundles / "one.stg"), str(bundles / "two.stg")]
    assert len(json.loads(out)["data_sha256"]) == 2


def test_ctrl_c_exits_with_130_and_two_words_go_on(bundles, tmp_path, capfd, monkeypatch):
    words = ["--data", bundles / "one.stg", "--model", "stid", "--steps", 20, "--seed", 1, "--batch-size", 16, *SMALL]
    assert run(capfd, *words, "--out", tmp_path / "whole")[0] == 0
    forward, calls = STID.forward, []

    def pressed(self, window):
        calls.append(self.training)
        if sum(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, window)

    with monkeypatch.context() as patch:
        patch.setattr(STID, "forward", pressed)
        code, out, err = run(capfd, *words, "--out", tmp_path / "run")
    assert code == 130
    assert out == ""
    assert f"stgraph train --out {tmp_path / 'run'} --resume" in err
    assert "Traceback" not in err
    code, out, _ = run(capfd, "--out", tmp_path / "run", "--resume", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 20
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_resume_names_what_differs(bundles, tmp_path, capfd):
    words = ["--data", bundles / "one.stg", "--model", "stid", "--steps", 5, *SMALL]
    assert run(capfd, *words, "--out", tmp_path / "run")[0] == 0
    for change, field in ((["--seed", 9], "seed"), (["--model", "patchstg"], "model"), (["--steps", 6], "steps"),
                          (["--data", bundles / "two.stg"], "data_sha256"), (["--set", "width=8"], "width")):
        code, out, err = run(capfd, "--out", tmp_path / "run", "--resume", "--json", *change)
        assert code == 2
        assert json.loads(out)["error"]["field"] == field
        assert "Remedy" in err


def test_a_formula_and_a_control_have_runs_too(bundles, tmp_path, capfd):
    for model in ("slot_mean", "var"):
        code, out, _ = run(capfd, "--data", bundles / "one.stg", "--model", model, "--out", tmp_path / model, "--json",
                           "--history", 6, "--horizon", 3)
        assert code == 0
        assert json.loads(out)["best_validation"]["score"] > 0
        assert (tmp_path / model / "model.json").is_file()


@pytest.mark.parametrize(("words", "field"), [
    (["--model", "stid", "--out", "OUT"], "data"),
    (["--data", "ONE", "--out", "OUT"], "model"),
    (["--data", "ONE", "--model", "stid"], "out"),
    (["--data", "ONE", "--model", "stjd", "--out", "OUT"], "model"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--set", "width"], "set"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--set", "depth=3"], "depth"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--split", "most"], "split"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--split", "0.9,0.05,0.05"], "split"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--channels", "flow"], "channels"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--history", "0"], "history, horizon"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--minutes", "1", "--steps", "5"], "minutes, steps"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--minutes", "-1"], "minutes"),
    (["--data", "ONE", "--model", "stid", "--out", "OUT", "--resume"], "resume"),
    (["--data", "ONE", "TWO", "--model", "stid", "--out", "OUT"], "data"),
], ids=lambda value: value if isinstance(value, str) else None)
def test_what_the_user_can_mend_is_named_and_nothing_is_written(bundles, tmp_path, capfd, words, field):
    places = {"OUT": tmp_path / "out", "ONE": bundles / "one.stg", "TWO": bundles / "two.stg"}
    code, out, err = run(capfd, *(places.get(word, word) for word in words), "--json")
    assert code == 2
    assert json.loads(out)["error"]["field"] == field
    assert "Remedy" in err or field in ("history, horizon", "minutes")
    assert not (tmp_path / "out").exists()


def test_half_of_the_data_gives_another_run(bundles, tmp_path, capfd):
    weights = []
    for name, split in (("all", "0.7,0.1,0.2"), ("less", "0.5,0.2,0.3")):
        run(capfd, "--data", bundles / "one.stg", "--model", "stid", "--out", tmp_path / name, "--steps", 5, "--split",
            split, *SMALL)
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert record["split"]["fractions"] == [float(part) for part in split.split(",")]
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert weights[0] != weights[1]
    assert np.isfinite(record["best_validation"]["score"])
    assert torch.get_num_threads() == 1
