"""What the verbs share: nothing that is read is written over."""

from __future__ import annotations

import pytest

from stgraph.cli.shared import refuse_input_as_output
from stgraph.errors import InputError


def test_an_input_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.stg").mkdir()
    (tmp_path / "points.csv").write_text("x")
    (tmp_path / "link.stg").symlink_to("map.stg")
    (tmp_path / "old.stg").mkdir()
    (tmp_path / "old.stg" / "matches.parquet").write_text("x")
    for out, read in (("map.stg", "map.stg"), ("./map.stg", tmp_path / "map.stg"), ("link.stg", "map.stg"),
                      ("map.stg/new.stg", "map.stg"), ("old.stg", "old.stg/matches.parquet")):
        with pytest.raises(InputError, match="write over what is read") as error:
            refuse_input_as_output(out, [None, "points.csv", read])
        assert error.value.field == "out"
    refuse_input_as_output("new.stg", ["map.stg", "points.csv", None])
    refuse_input_as_output("new.stg", ["."])  # a folder of rasters may get the result
    refuse_input_as_output(None, ["map.stg"])
