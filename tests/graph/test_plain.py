"""A graph without torch: what is written from tables is what is written from tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Geometry, GraphTables, data_sha256, load, load_tables, save
from stgraph.graph.plain import _distinct, categories, column

KIND = ("place", "to", "place")


def made() -> GraphTables:
    tables = GraphTables(metadata={"name": "made"})
    tables.nodes["place"] = pa.table({
        "node_id": ["a", "b", "c"], "lonlat": column(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])),
        "kind": categories(np.array([0, 1, 0]), ["road", "park"]), "open": [True, False, True],
        "geometry": Geometry.from_shapely([shapely.Point(1, 2), shapely.box(0, 0, 1, 1), shapely.Point(5, 6)]).wkb})
    tables.edges[KIND] = pa.table({"source_index": [0, 1], "target_index": [1, 2], "length": [1.5, 2.5]})
    tables.tables["notes"] = pa.table({"word": ["x", "y"]})
    tables.declare(KIND, "length", "m", "way")
    return tables


def test_tables_become_a_graph_and_come_back() -> None:
    graph = made().graph()
    assert graph.validate()
    assert graph["place"].kind.tolist() == [0, 1, 0]
    assert graph.schema.of("place")["kind"].categories == ("road", "park")
    assert graph.schema.of(KIND)["length"].unit == "m"
    assert graph[KIND].edge_index.tolist() == [[0, 1], [1, 2]]
    assert graph.table("notes")["word"].to_pylist() == ["x", "y"]
    back = GraphTables.of_graph(graph)
    assert back.complete_schema() == made().complete_schema()
    for (_, one), (_, other) in zip(made().items(), back.items(), strict=True):
        assert {name: one[name].to_pylist() for name in one.column_names} == \
            {name: other[name].to_pylist() for name in other.column_names}


def test_both_ways_give_the_same_bundle(tmp_path: Path) -> None:
    save(made(), tmp_path / "tables.stg")
    save(made().graph(), tmp_path / "graph.stg")
    save(load_tables(tmp_path / "graph.stg"), tmp_path / "again.stg")
    assert data_sha256(tmp_path / "tables.stg") == data_sha256(tmp_path / "graph.stg")
    assert data_sha256(tmp_path / "tables.stg") == data_sha256(tmp_path / "again.stg")
    loaded = load(tmp_path / "tables.stg")
    assert loaded["place"].geometry == made().graph()["place"].geometry
    assert loaded.table("notes").equals(made().tables["notes"])
    only = load_tables(tmp_path / "tables.stg", nodes=("place",), edges=())
    assert not only.edges
    assert only.nodes["place"]["kind"].to_pylist() == ["road", "park", "road"]


def test_a_part_keeps_shapes_and_words() -> None:
    part = made().graph().subgraph({"place": torch.tensor([1, 2])})
    assert part.validate()
    assert part["place"].geometry.shapely()[0].equals(shapely.box(0, 0, 1, 1))
    assert part.schema.of("place")["kind"].categories == ("road", "park")


def test_a_loose_table_travels_and_is_checked(tmp_path: Path) -> None:
    save(made(), tmp_path / "a.stg")
    save(load(tmp_path / "a.stg"), tmp_path / "b.stg")
    assert data_sha256(tmp_path / "a.stg") == data_sha256(tmp_path / "b.stg")
    with pytest.raises(InputError, match="still read from"):
        save(load(tmp_path / "a.stg"), tmp_path / "a.stg")
    (tmp_path / "b.stg" / "notes.parquet").write_bytes(b"other")
    with pytest.raises(InputError, match="another size"):
        load(tmp_path / "b.stg")
    (tmp_path / "a.stg" / "more.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="do not belong"):
        load(tmp_path / "a.stg")


def test_faults_are_named() -> None:
    for kind, name, values, words in (
            ("place", "node_id", ["a", "a", "c"], "more than one node"),
            ("place", "lonlat", column(np.array([[1.0, 91.0], [0.0, 0.0], [0.0, 0.0]])), "out of range"),
            ("place", "open", [True, None, True], "missing entries"),
            (KIND, "target_index", [1, 3], "not a node")):
        tables = made()
        table = tables.of(kind)
        changed = table.set_column(table.column_names.index(name), name, [values] if isinstance(values, list)
                                   else values)
        (tables.nodes if isinstance(kind, str) else tables.edges)[kind] = changed  # type: ignore[index]
        with pytest.raises(InputError, match=words):
            tables.validate()


def test_writing_and_reading_tables_needs_no_torch(tmp_path: Path) -> None:
    save(made(), tmp_path / "a.stg")
    code = (f"import sys; from stgraph.graph import load_tables, save; save(load_tables({str(tmp_path / 'a.stg')!r}), "
            f"{str(tmp_path / 'b.stg')!r}); print(sorted({{'torch', 'pandas', 'shapely', 'zarr'}} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_geometry_goes_through_geopandas_and_networkx() -> None:
    graph = made().graph()
    shown = graph.to_geopandas()["place"]
    assert shown.geometry.iloc[1].equals(shapely.box(0, 0, 1, 1))
    for back in (DynamicHeteroGraph.from_geopandas(graph.to_geopandas()),
                 DynamicHeteroGraph.from_networkx(graph.to_networkx())):
        assert back["place"].geometry == graph["place"].geometry


@given(st.lists(st.text(max_size=4), max_size=40))
def test_ids_are_distinct_or_not(words: list[str]) -> None:
    """Also over slices, whose texts do not start where the memory does."""
    both = pa.chunked_array([pa.array(["x", *words])[1:], pa.array(words[:1] if len(words) % 2 else [], pa.string())])
    assert _distinct(both, block=7) is (len(set(both.to_pylist())) == len(both))
