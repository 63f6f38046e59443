"""The choice of a kernel, as a table."""

from __future__ import annotations

import re

import pytest
from emulated import ROOT

from stgraph.errors import InputError
from stgraph.ops.regime import LONG_ROW, STAGED_BYTES, STAGED_CHANNELS, Regime, choose

METR = {"rows": 207, "sources": 207, "edges": 1515}
BAY = {"rows": 325, "sources": 325, "edges": 2369}
PEMS07 = {"rows": 883, "sources": 883, "edges": 866 * 2}
CA = {"rows": 8600, "sources": 8600, "edges": 201_363}
ROAD = {"rows": 1_000_000, "sources": 1_000_000, "edges": 2_600_000}


@pytest.mark.parametrize(("graph", "more", "regime"), [
    # small graphs: dense where matrix units may round, else all sources staged
    (METR, {"reduced_precision": True}, Regime.DENSE),
    (METR, {}, Regime.STAGED),
    (BAY, {"reduced_precision": True, "itemsize": 2}, Regime.DENSE),
    (BAY, {}, Regime.STAGED),
    # 781 sources of 64 float32 channels fit, 782 do not; twice as many in 16 bits
    ({"rows": 781, "sources": 781, "edges": 3000}, {}, Regime.STAGED),
    ({"rows": 782, "sources": 782, "edges": 3000}, {}, Regime.ROWS),
    ({"rows": 1562, "sources": 1562, "edges": 3000}, {"itemsize": 2}, Regime.STAGED),
    ({"rows": 1563, "sources": 1563, "edges": 3000}, {"itemsize": 2}, Regime.ROWS),
    (PEMS07, {}, Regime.ROWS),
    (PEMS07, {"channels": 32}, Regime.STAGED),
    # density decides beyond 360 nodes
    ({"rows": 2000, "sources": 2000, "edges": 28_000}, {"reduced_precision": True}, Regime.DENSE),
    ({"rows": 2000, "sources": 2000, "edges": 27_999}, {"reduced_precision": True}, Regime.ROWS),
    ({"rows": 2000, "sources": 2000, "edges": 160_000}, {}, Regime.DENSE),
    ({"rows": 2000, "sources": 2000, "edges": 159_999}, {}, Regime.ROWS),
    # weights per step or batch entry are no one matrix
    (METR, {"reduced_precision": True, "shared_weight": False}, Regime.STAGED),
    ({"rows": 2000, "sources": 2000, "edges": 160_000}, {"shared_weight": False}, Regime.ROWS),
    # blocks with a halo need many entries per row and per source
    (CA, {"reuse": 14.5}, Regime.BLOCK),
    (CA, {"reuse": 4.0}, Regime.BLOCK),
    (CA, {"reuse": 3.9}, Regime.ROWS),
    (CA, {"reuse": 1.2}, Regime.ROWS),
    (CA, {}, Regime.ROWS),
    (ROAD, {"reuse": 2.1}, Regime.ROWS),
    (ROAD, {"reuse": 9.0}, Regime.ROWS),
    ({"rows": 10_000, "sources": 10_000, "edges": 80_000}, {"reuse": 5.0}, Regime.BLOCK),
    ({"rows": 10_000, "sources": 10_000, "edges": 79_999}, {"reuse": 5.0}, Regime.ROWS),
    # the widest halo has to fit: 781 sources of 64 float32 channels
    (CA, {"reuse": 14.5, "widest": 781}, Regime.BLOCK),
    (CA, {"reuse": 14.5, "widest": 782}, Regime.ROWS),
    # products with zeros only where nothing is NaN or infinite
    (METR, {"reduced_precision": True, "finite": False}, Regime.STAGED),
    ({"rows": 2000, "sources": 2000, "edges": 160_000}, {"finite": False}, Regime.ROWS),
    # a maximum is taken row by row
    (METR, {"reduce": "max", "reduced_precision": True}, Regime.ROWS),
    (CA, {"reduce": "max", "reuse": 14.5}, Regime.ROWS),
    (CA, {"reduce": "mean", "reuse": 14.5}, Regime.BLOCK),
    # a CPU: sparse below a density of 0.45
    (METR, {"device": "cpu"}, Regime.ROWS),
    ({"rows": 100, "sources": 100, "edges": 4500}, {"device": "cpu"}, Regime.DENSE),
    ({"rows": 100, "sources": 100, "edges": 4499}, {"device": "cpu"}, Regime.ROWS),
    ({"rows": 100, "sources": 100, "edges": 4500}, {"device": "cpu", "finite": False}, Regime.ROWS),
    (CA, {"device": "cpu", "reuse": 14.5}, Regime.ROWS),
    # nothing to do
    ({"rows": 0, "sources": 5, "edges": 0}, {}, Regime.ROWS),
    ({"rows": 5, "sources": 0, "edges": 0}, {"reduced_precision": True}, Regime.ROWS),
    (CA, {"channels": 0}, Regime.ROWS),
])
def test_table(graph: dict[str, int], more: dict[str, object], regime: Regime) -> None:
    given = {"device": "cuda", "channels": 64, "itemsize": 4, **graph, **more}
    chosen = choose(**given)  # type: ignore[arg-type]
    assert chosen.regime is regime, chosen.reason
    assert chosen == choose(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "longest", "split"), [
    ("cuda", 512, False), ("cuda", 513, True), ("cuda", None, True), ("cpu", 9000, False),
])
def test_long_rows_are_split(device: str, longest: int | None, split: bool) -> None:
    chosen = choose(device=device, channels=64, itemsize=4, longest_row=longest, **ROAD)
    assert (chosen.regime, chosen.split) == (Regime.ROWS, split)


def test_no_row_is_long_where_there_are_few_entries() -> None:
    assert not choose(device="cuda", rows=9, sources=9000, edges=512, channels=64, itemsize=4).split


@pytest.mark.parametrize(("file", "name", "limit"), [
    ("cuda/spmm.cu", "kWindow", LONG_ROW), ("cuda/staged.cu", "kTile", STAGED_CHANNELS),
    ("cuda_register.cpp", "kStagedChannels", STAGED_CHANNELS), ("cuda_register.cpp", "kStagedBytes", STAGED_BYTES),
])
def test_the_limits_are_those_of_the_kernels(file: str, name: str, limit: int) -> None:
    """That they also act alike is seen in ``test_register.py``."""
    assert re.findall(rf"{name} = (\d+);", (ROOT / file).read_text(encoding="utf-8")) == [str(limit)]


@pytest.mark.parametrize("wrong", [{"device": "tpu"}, {"reduce": "min"}, {"rows": -1}, {"itemsize": 0}])
def test_wrong_arguments(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        choose(**{"device": "cuda", "channels": 64, "itemsize": 4, **METR, **wrong})  # type: ignore[arg-type]
