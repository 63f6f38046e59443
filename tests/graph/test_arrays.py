"""Signals on disk: written block by block, opened only as what they are said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stgraph.errors import BundleError
from stgraph.graph.arrays import CHUNK_BYTES, folder_of, open_array, read_array, write_array
from stgraph.graph.signal import LazyArray

AXES = ("time", "node", "channel")


class Counted:
    """An array that remembers the largest block that was read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.most = values, values.shape, values.dtype, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.most = max(self.most, self.values[rows].nbytes)
        return self.values[rows]


def test_blocks_of_rows_are_read_and_written(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(1000, 800, 2)).astype(np.float32)
    source = Counted(values)
    write_array(tmp_path / "a", source, AXES)
    assert 0 < source.most <= CHUNK_BYTES
    array = open_array(tmp_path / "a", values.shape, "float32")
    np.testing.assert_array_equal(read_array(array, tmp_path), values)
    assert sum(file.is_file() for file in (tmp_path / "a" / "c").rglob("*")) == -(-1000 // array.chunks[0])


def test_a_chunk_of_zeros_is_written_too(tmp_path: Path) -> None:
    write_array(tmp_path / "a", np.zeros((3, 2, 1), bool), AXES)
    assert (tmp_path / "a" / "c" / "0" / "0" / "0").is_file()


@pytest.mark.parametrize("dtype", ["object", "int64", "str", "datetime64"])
def test_only_floats_and_masks_are_opened(tmp_path: Path, dtype: str) -> None:
    write_array(tmp_path / "a", np.zeros((3, 2, 1), np.float32), AXES)
    with pytest.raises(BundleError) as caught:
        open_array(tmp_path / "a", (3, 2, 1), dtype)
    assert (caught.value.field, caught.value.value) == ("data_type", dtype)


def test_where_an_array_is_read_from(tmp_path: Path) -> None:
    write_array(tmp_path / "a", np.zeros((3, 2, 1), np.float32), AXES)
    array = open_array(tmp_path / "a", (3, 2, 1), "float32")
    assert folder_of(LazyArray(LazyArray(array, (0, 2)), (0, 1))) == (tmp_path / "a").resolve()
    np.save(tmp_path / "b.npy", np.zeros(3))
    assert folder_of(np.load(tmp_path / "b.npy", mmap_mode="r")) == (tmp_path / "b.npy").resolve()
    assert folder_of(np.zeros(3)) is folder_of(None) is None
