"""Files are written whole or not at all, and errors name what is wrong and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from stgraph import io
from stgraph.errors import BundleError, InputError


def _leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".part" in path.name]


def test_an_error_names_file_field_value_and_remedy() -> None:
    error = InputError("not a number", file="a.csv", field="speed", value="fast", remedy="write 12.5")
    assert str(error) == "a.csv, field 'speed': not a number (value: fast).\nRemedy: write 12.5."
    assert error.as_dict() == {"message": "not a number", "file": "a.csv", "field": "speed", "value": "fast",
                               "remedy": "write 12.5"}
    assert issubclass(BundleError, InputError)
    assert len(InputError("long", value="x" * 1000).value or "") <= 160


def test_a_file_and_a_folder_are_replaced_as_a_whole(tmp_path: Path) -> None:
    io.write_text(tmp_path / "deep" / "note.txt", "one")
    io.write_text(tmp_path / "deep" / "note.txt", "two")
    assert (tmp_path / "deep" / "note.txt").read_text() == "two"
    for text in ("old", "new"):
        with io.atomic_path(tmp_path / "box", folder=True) as work:
            (work / text).write_text(text)
    assert [path.name for path in (tmp_path / "box").iterdir()] == ["new"]
    assert not _leftovers(tmp_path)


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_leaves_what_stood_there(tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "kept"
    with io.atomic_path(target, folder) as work:
        (work / "a" if folder else work).write_text("first")
    before = io.sha256(target)
    with pytest.raises(RuntimeError), io.atomic_path(target, folder) as work:
        (work / "a" if folder else work).write_text("half")
        raise RuntimeError("the program broke")
    assert io.sha256(target) == before

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left") as caught, io.atomic_path(target, folder) as work:
        (work / "a" if folder else work).write_text("second")
    assert "free some disk space" in str(caught.value)
    assert io.sha256(target) == before
    assert not _leftovers(tmp_path)


def test_a_folder_hash_sees_names_and_contents(tmp_path: Path) -> None:
    for name, files in {"a": {"x": "1", "y": "2"}, "b": {"y": "2", "x": "1"}, "c": {"x": "2", "y": "1"}}.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert io.sha256(tmp_path / "a") == io.sha256(tmp_path / "b") != io.sha256(tmp_path / "c")


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    value = {"name": "Zürich", "numbers": [1, 2.5, None]}
    io.write_json(tmp_path / "a.json", value)
    assert io.read_json(tmp_path / "a.json") == value
    (tmp_path / "b.json").write_text("{ half")
    for name, message in (("b.json", "not readable as JSON"), ("c.json", "no such file")):
        with pytest.raises(InputError, match=message) as caught:
            io.read_json(tmp_path / name)
        assert name in str(caught.value)
