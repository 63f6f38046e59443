"""``stgraph data``: one JSON object on stdout, people read stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stgraph.cli.data import _bytes, app
from stgraph.errors import InputError


def run(*words: str) -> tuple[dict, str, int]:
    """The JSON object of stdout, the text of stderr, the exit code."""
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout), result.stderr, result.exit_code


def test_list_gives_every_card():
    answer, people, code = run("list")
    assert code == 0
    by_name = {one["name"]: one for one in answer["datasets"]}
    assert len(by_name) == 28
    assert by_name["metr_la"] | {"title": ""} == {
        "name": "metr_la", "title": "", "type": "road", "place": "Los Angeles, California, USA", "nodes": 207,
        "steps": 34272, "interval": "5min", "quantity": "speed", "unit": "mph",
        "licence": "none stated for the readings; MIT (DCRNN repository)", "pinned": True, "public_address": True}
    assert not by_name["largest_ca"]["pinned"]
    assert "metr_la" in people


def test_info_gives_the_card_and_the_line_to_build_it():
    answer, people, _ = run("info", "los_loop")
    assert answer["missing"]["coding"] == "none"
    assert answer["build_line"].startswith("stgraph build sensors data/los_loop/speed.npz --key speed_mph")
    assert "NOT PINNED" not in people
    _, people, _ = run("info", "largest_sd")
    assert "NOT PINNED" in people


def test_get_copies_checks_and_names_the_next_step(known, tmp_path: Path):
    known({"name": "toy.npz", "content": b"good"})
    (tmp_path / "toy.npz").write_bytes(b"good")
    answer, people, code = run("get", "toy", "--from", str(tmp_path), "--out", str(tmp_path / "out"))
    assert (code, answer["files"][0]["state"], answer["warnings"]) == (0, "copied", [])
    assert answer["attribution"] == "Nobody"
    assert "Next: stgraph build sensors" in people
    assert run("verify", "toy", str(tmp_path / "out"))[0]["ok"]


def test_get_is_loud_about_a_file_that_nobody_vouches_for(known, tmp_path: Path):
    known({"name": "toy.npz"})
    (tmp_path / "toy.npz").write_bytes(b"whatever")
    answer, people, _ = run("get", "toy", "--from", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "NOT PINNED" in answer["warnings"][0]
    assert "WARNING" in people
    assert not answer["files"][0]["pinned"]


def test_verify_ends_with_2_where_a_file_is_wrong(known, tmp_path: Path):
    known({"name": "toy.npz", "content": b"good"})
    (tmp_path / "toy.npz").write_bytes(b"altered")
    answer, people, code = run("verify", "toy", str(tmp_path))
    assert (code, answer["ok"], answer["files"][0]["state"]) == (2, False, "wrong")
    assert f"stgraph data get toy --out {tmp_path}" in people


def test_build_makes_a_bundle_by_the_card(shared_data: Path, tmp_path: Path):
    out = tmp_path / "parking.stg"
    answer, people, _ = run("build", "birmingham_parking", str(shared_data), "-o", str(out))
    assert (answer["sensors"], answer["steps"]) == (30, 1386)
    assert out.is_dir()
    assert f"stgraph info {out}" in people


@pytest.mark.parametrize(("text", "count"), [("1000", 1000), ("20GB", 20 * 10**9), ("2GiB", 2 * 2**30), ("1.5k", 1500),
                                             ("500 MB", 500 * 10**6)])
def test_bytes_are_read_as_people_write_them(text, count):
    assert _bytes(text) == count


@pytest.mark.parametrize("text", ["", "lots", "-5", "0", "5 apples"])
def test_other_texts_are_no_bytes(text):
    with pytest.raises(InputError) as caught:
        _bytes(text)
    assert caught.value.field == "--max-bytes"
