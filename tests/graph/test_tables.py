"""Tables on disk: what is written is read, and nothing that was not declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch

from stgraph.errors import BundleError, InputError
from stgraph.graph.geometry import Geometry
from stgraph.graph.schema import Attribute, infer
from stgraph.graph.tables import read_table, to_table
from stgraph.graph.tables import write_table as write

NAN = float("nan")


def write_table(path: Path, attributes: dict[str, Any]) -> None:
    declared = {name: infer(name, value, "N") for name, value in attributes.items()}
    write(path, to_table("place", attributes, declared), declared)


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
    assert back.to_pylist() == value.tolist()


def test_words_are_codes_in_the_graph_and_words_on_disk(tmp_path: Path) -> None:
    declared = {"kind": Attribute("int32", ("N",), categories=("road", "park", "never used"))}
    write(tmp_path / "a.parquet", to_table("place", {"kind": torch.tensor([1, 0, 1]).int()}, declared), declared)
    assert pq.read_table(tmp_path / "a.parquet")["kind"].to_pylist() == ["park", "road", "park"]
    back = read_table(tmp_path / "a.parquet", declared, 3)["kind"].chunk(0)
    assert back.indices.to_pylist() == [1, 0, 1]
    assert back.dictionary.to_pylist() == ["road", "park", "never used"]


def test_a_code_without_a_word_is_refused() -> None:
    with pytest.raises(InputError, match="stands for no word"):
        to_table("place", {"kind": torch.tensor([2]).int()},
                 {"kind": Attribute("int32", ("N",), categories=("a", "b"))})


def test_a_word_that_was_not_listed_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"kind": ["road", "river"]}), tmp_path / "a.parquet")
    with pytest.raises(BundleError, match="not one that"):
        read_table(tmp_path / "a.parquet", {"kind": Attribute("int32", ("N",), categories=("road",))}, 2)


@pytest.mark.parametrize(("unit", "crs"), [("degree", False), ("m", True)])
def test_shapes_are_geoparquet(tmp_path: Path, unit: str, crs: bool) -> None:
    shapes = Geometry.from_shapely([shapely.LineString([(0, 0), (1, 2)]), shapely.box(0, 0, 1, 1)])
    declared = {"geometry": Attribute("geometry", ("N",), unit)}
    write(tmp_path / "a.parquet", to_table("place", {"geometry": shapes}, declared), declared)
    described = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"geo"])["columns"]["geometry"]
    assert described["geometry_types"] == ["LineString", "Polygon"]
    assert ("crs" in described) is crs  # null: a plane without a reference; absent: longitude and latitude
    back = geopandas.read_parquet(tmp_path / "a.parquet")
    assert back.geometry.iloc[1].equals(shapely.box(0, 0, 1, 1))
    assert Geometry(read_table(tmp_path / "a.parquet", declared, 2)["geometry"]) == shapes
