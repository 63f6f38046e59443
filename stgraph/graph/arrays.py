"""Signals of a bundle: Zarr v3 arrays, cut into chunks of some rows, each with a checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from stgraph.errors import BundleError
from stgraph.graph.signal import LazyArray
from stgraph.io import read_json

CHUNK_BYTES = 2 << 20
_CODECS = {"bytes", "zstd", "crc32c"}
DTYPES = {"float16", "float32", "float64", "bool"}
"""Data types of values and masks."""


def write_array(folder: Path, values: Any, axes: tuple[str, str, str]) -> None:
    """Write ``[T, N, C]`` in blocks of rows; nothing else is held in memory.

    Args:
        folder: Folder to make.
        values: Array of a type in :data:`DTYPES`; it is read block by block.
        axes: Names of the axes.
    """
    length, places, channels = values.shape
    dtype = np.dtype(values.dtype).newbyteorder("=")
    rows = max(1, min(max(length, 1), CHUNK_BYTES // max(1, places * channels * dtype.itemsize)))
    array = zarr.create_array(
        str(folder), shape=values.shape, dtype=dtype, chunks=(rows, max(1, places), max(1, channels)),
        serializer=BytesCodec(endian="little"), compressors=[ZstdCodec(level=3), Crc32cCodec()], filters=None,
        fill_value=False if dtype == np.bool_ else 0.0, dimension_names=axes,
        config={"write_empty_chunks": True})  # a chunk that is left out would be as good as a chunk that was lost
    for start in range(0, length, rows):
        array[start:start + rows] = np.asarray(values[start:start + rows])


def open_array(folder: Path, shape: tuple[int, int, int], dtype: str) -> zarr.Array:
    """Open what :func:`write_array` wrote, for reading.

    Raises:
        BundleError: for an array of another shape, type or encoding than was written.
    """
    if dtype not in DTYPES:
        raise BundleError("not a data type of a signal", file=folder, field="data_type", value=dtype,
                          remedy=f"known are {', '.join(sorted(DTYPES))}")
    described = read_json(folder / "zarr.json")
    found = {
        "format": described.get("zarr_format"), "node_type": described.get("node_type"),
        "shape": described.get("shape"), "data_type": described.get("data_type"),
        "codecs": {codec.get("name") for codec in described.get("codecs", ())} <= _CODECS,
        "storage_transformers": not described.get("storage_transformers"),
    }
    wanted = {"format": 3, "node_type": "array", "shape": list(shape), "data_type": dtype, "codecs": True,
              "storage_transformers": True}
    for field, value in wanted.items():
        if found[field] != value:
            raise BundleError("the array is not what graph.json says", file=folder / "zarr.json", field=field,
                              value=found[field], remedy="make the bundle again")
    return zarr.open_array(str(folder), mode="r", zarr_format=3)


def read_array(array: zarr.Array, folder: Path) -> np.ndarray:
    """All of an array in memory.

    Raises:
        BundleError: where a chunk is damaged.
    """
    try:
        return np.asarray(array[:])
    except (ValueError, RuntimeError, OSError) as error:
        raise BundleError(f"a chunk cannot be read: {error}", file=folder, remedy="make the bundle again") from error


def folder_of(array: Any) -> Path | None:
    """The folder that an array on disk is read from; None for one in memory."""
    while isinstance(array, LazyArray):
        array = array.array
    if isinstance(array, zarr.Array):
        root = getattr(array.store, "root", None)
        return None if root is None else Path(root).resolve()
    return Path(array.filename).resolve() if isinstance(array, np.memmap) and array.filename else None
