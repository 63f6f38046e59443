"""Tables on disk: what is written is read, and nothing that was not declared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch

from stgraph.errors import BundleError, InputError
from stgraph.graph.schema import Attribute, infer
from stgraph.graph.tables import read_table, write_table

NAN = float("nan")


def test_places_are_points_of_geoparquet(tmp_path: Path) -> None:
    lonlat = torch.tensor([[-8.6, 41.1], [NAN, NAN], [-8.5, 41.2]], dtype=torch.float64)
    write_table(tmp_path / "a.parquet", {"lonlat": lonlat})
    table = pq.read_table(tmp_path / "a.parquet")
    described = json.loads(table.schema.metadata[b"geo"])
    assert described["version"] == "1.1.0"
    assert described["columns"]["geometry"]["bbox"] == [-8.6, 41.1, -8.5, 41.2]
    assert "crs" not in described["columns"]["geometry"]  # by the standard: longitude and latitude, WGS 84
    points = shapely.from_wkb(table["geometry"].to_pylist())
    assert points[1] is None
    np.testing.assert_array_equal(shapely.get_coordinates(points), lonlat[[0, 2]])


def test_a_table_without_places_is_plain(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", {"edge_index": torch.tensor([[0, 1], [1, 0]]), "name": np.array(["", "ü"])})
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["source_index", "target_index", "name"]
    assert not table.schema.metadata


@pytest.mark.parametrize("name", ["geometry", "source_index", "target_index"])
def test_columns_with_a_meaning_are_taken(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="rename"):
        write_table(tmp_path / "a.parquet", {name: torch.zeros(2)})


@pytest.mark.parametrize(("declared", "column"), [
    ({"a": Attribute("float32", ("N",)), "b": Attribute("str", ("N",))}, "b"), ({}, "a"),
    ({"a": Attribute("float64", ("N",))}, "a"), ({"a": Attribute("str", ("N",))}, "a"),
    ({"a": Attribute("float32", ("N", 1))}, "a"), ({"edge_index": Attribute("int64", (2, "E"))}, "a"),
    ({"a": Attribute("float32", ("N",)), "edge_index": Attribute("int64", (2, "E"))}, "source_index"),
])
def test_a_table_that_is_not_what_was_declared(tmp_path: Path, declared: dict[str, Attribute], column: str) -> None:
    write_table(tmp_path / "a.parquet", {"a": torch.zeros(2)})
    with pytest.raises(BundleError) as caught:
        read_table(tmp_path / "a.parquet", declared, 2)
    assert caught.value.file == str(tmp_path / "a.parquet")
    assert caught.value.field == column


def test_lists_with_gaps_are_refused(tmp_path: Path) -> None:
    pairs = pa.FixedSizeListArray.from_arrays(pa.array([1.0, None, 3.0, 4.0]), 2)
    pq.write_table(pa.table({"a": pairs}), tmp_path / "a.parquet")
    with pytest.raises(BundleError, match="missing entries"):
        read_table(tmp_path / "a.parquet", {"a": Attribute("float64", ("N", 2))}, 2)


def test_texts_of_several_columns(tmp_path: Path) -> None:
    value = np.array([["a", "bcd"], ["", "ü"]])
    write_table(tmp_path / "a.parquet", {"names": value})
    back = read_table(tmp_path / "a.parquet", {"names": infer("names", value, "N")}, 2)["names"]
    assert back.tolist() == value.tolist()
