"""A card is read strictly: every fault names its field."""

from __future__ import annotations

import pytest

from stgraph.datasets.schema import load_card, parse_card
from stgraph.errors import InputError

FILE = {"name": "toy.npz", "sha256": "", "bytes": 0, "holds": "x"}


def test_a_complete_card_is_read(card_table):
    card = parse_card(card_table(), "toy.toml")
    assert (card.name, card.channels, card.split) == ("toy", ("speed",), (0.7, 0.1, 0.2))
    assert not card.pinned
    assert card.as_dict()["files"][0]["name"] == "toy.npz"


@pytest.mark.parametrize(("changes", "field"), [
    ({"colour": "red"}, "colour"),
    ({"nodes": "two"}, "nodes"),
    ({"nodes": True}, "nodes"),
    ({"name": "../toy"}, "name"),
    ({"type": "stars"}, "type"),
    ({"clock": "sundial"}, "clock"),
    ({"split": [0.8, 0.1, 0.1]}, "split"),
    ({"channels": []}, "nodes, steps, channels, files"),
    ({"missing": {"coding": "none", "true_zeros": "no"}}, "missing.note"),
    ({"missing": {"coding": "value", "true_zeros": "no", "note": ""}}, "missing.value"),
    ({"missing": {"coding": "none", "true_zeros": "no", "note": "", "value": 0}}, "missing.value"),
    ({"missing": {"coding": "holes", "true_zeros": "no", "note": ""}}, "missing.coding"),
    ({"missing": {"coding": "none", "true_zeros": "maybe", "note": ""}}, "missing.true_zeros"),
    ({"licence": {"name": "CC0"}}, "licence.attribution"),
    ({"files": [FILE | {"name": "../toy.npz"}]}, "files.name"),
    ({"files": [FILE | {"name": "..\\toy.npz"}]}, "files.name"),
    ({"files": [FILE | {"sha256": "abc"}]}, "files.sha256"),
    ({"files": [FILE | {"bytes": -1}]}, "files.bytes"),
    ({"files": [FILE | {"sources": ["file:///etc/passwd"]}]}, "files.sources"),
    ({"files": [FILE | {"sources": ["ftp://example.org/x"]}]}, "files.sources"),
    ({"files": [FILE | {"sources": [{"url": "http://example.org", "part": "x"}]}]}, "files.sources.part"),
    ({"files": [FILE | {"packed": {"name": "x.gz", "sha256": "", "bytes": "1"}}]}, "files.packed.bytes"),
    ({"build": {"readings": "other.npz"}}, "files"),
    ({"build": {"readings": "toy.npz", "speed": 1}}, "build.speed"),
    ({"build": {"readings": "toy.npz", "steps_per_day": "108"}}, "build.steps_per_day"),
    ({"build": {"readings": "toy.npz", "reader": "x"}}, "build"),
    ({"build": {}}, "build"),
    ({"build": {"reader": "os.system"}}, "build.reader"),
])
def test_every_fault_names_its_field_and_a_remedy(card_table, changes, field):
    with pytest.raises(InputError) as caught:
        parse_card(card_table(**changes), "toy.toml")
    assert caught.value.field == field
    assert "toy.toml" in str(caught.value.file)
    assert caught.value.remedy


@pytest.mark.parametrize("field", ["name", "place", "steps", "tz", "split", "alternatives", "citation"])
def test_a_missing_field_is_named(card_table, field):
    table = card_table()
    del table[field]
    with pytest.raises(InputError, match="required field is missing") as caught:
        parse_card(table, "toy.toml")
    assert caught.value.field == field


def test_what_is_not_toml_is_named(tmp_path):
    (tmp_path / "x.toml").write_text("name = ")
    with pytest.raises(InputError, match="not readable as TOML"):
        load_card(tmp_path / "x.toml")
