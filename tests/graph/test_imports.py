"""What importing costs: the time axis needs no torch, a graph in memory no file libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

import stgraph.graph


@pytest.mark.parametrize(("statement", "absent"), [
    ("from stgraph.graph.time import TimeAxis", ["torch", "torch_geometric", "zarr", "geopandas"]),
    ("from stgraph.graph import DynamicHeteroGraph, Signal", ["zarr", "geopandas", "pyarrow.parquet", "dgl"]),
])
def test_light_imports(statement: str, absent: list[str]) -> None:
    code = f"{statement}; import sys; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in stgraph.graph.__all__:
        assert getattr(stgraph.graph, name) is not None
    with pytest.raises(AttributeError, match="hexagon"):
        _ = stgraph.graph.hexagon
