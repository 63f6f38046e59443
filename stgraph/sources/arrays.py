"""Arrays that people have: NPZ, NPY and the HDF5 of pandas, read without ever running pickled code."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stgraph.errors import InputError

NPZ, NPY, HDF5 = (".npz",), (".npy",), (".h5", ".hdf5", ".hdf")
_BROKEN = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_PICKLED = "holds Python objects, which would have to be unpickled, and that can run code"


def npz_entries(path: Path | str) -> dict[str, tuple[int, ...] | None]:
    """Shape of each array of an NPZ file, None where it holds objects; only the headers are read.

    Raises:
        InputError: where the file is not an NPZ file.
    """
    found: dict[str, tuple[int, ...] | None] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith(".npy"):
                    with archive.open(entry) as stream:
                        version = np.lib.format.read_magic(stream)
                        read = np.lib.format.read_array_header_1_0 if version == (1, 0) \
                            else np.lib.format.read_array_header_2_0
                        shape, _, dtype = read(stream)
                        found[entry[:-4]] = None if dtype.hasobject else shape
    except _BROKEN as error:
        raise InputError(f"not readable as NPZ: {error}", file=path, remedy="download or save it again") from error
    return found


def read_npz(path: Path | str, key: str) -> np.ndarray:
    """One array of an NPZ file.

    Raises:
        InputError: for a key that is not there (the keys that are there are named), or an array of objects.
    """
    entries = npz_entries(path)
    if key not in entries:
        raise InputError("no such key", file=path, field=key, value=key, remedy=f"choose among {_shapes(entries)}")
    if entries[key] is None:
        raise InputError(f"the array {_PICKLED}", file=path, field=key, value="dtype object",
                         remedy="save it with a numeric or text dtype")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except _BROKEN as error:
        raise InputError(f"not readable as NPZ: {error}", file=path, field=key,
                         remedy="download or save it again") from error


def read_array(path: Path | str, form: str, key: str | None, dimensions: tuple[int, ...]) -> np.ndarray:
    """A numeric array of an NPZ or NPY file.

    Args:
        path: The file.
        form: ``.npz`` or ``.npy``.
        key: Which array of an NPZ file; None for the only one with fitting dimensions.
        dimensions: How many axes it may have, e.g. ``(2, 3)``.

    Raises:
        InputError: where there is no such array, several could be meant, or it is not numeric.
    """
    if form in NPY:
        try:
            array = np.load(path, allow_pickle=False)
        except _BROKEN as error:
            reason = f"the array {_PICKLED}" if "pickle" in str(error).lower() else f"not readable as NPY: {error}"
            raise InputError(reason, file=path, remedy="save it with numpy.save and a numeric dtype") from error
    else:
        if key is None:
            entries = npz_entries(path)
            fitting = [name for name, shape in entries.items() if shape is not None and len(shape) in dimensions]
            if len(fitting) != 1:
                reason = "several arrays could be meant" if fitting else f"no array has {_axes(dimensions)} axes"
                raise InputError(reason, file=path, field="key", value=", ".join(fitting) or None,
                                 remedy=f"name one with --key: {_shapes(entries)}")
            key = fitting[0]
        array = read_npz(path, key)
    if array.dtype.kind not in "fiu":
        raise InputError("the array is not numeric", file=path, field=key, value=f"dtype {array.dtype}",
                         remedy="save it with a numeric dtype")
    if array.ndim not in dimensions:
        raise InputError(f"the array must have {_axes(dimensions)} axes", file=path, field=key,
                         value=f"shape {array.shape}", remedy="reshape it, or name another array with --key")
    return array


def read_pandas_hdf5(path: Path | str, key: str | None) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    """A DataFrame that pandas stored as HDF5 in its ``fixed`` form, as METR-LA and PEMS-BAY are published.

    The file is read as plain arrays; attributes and axes that are pickled inside it are never opened.

    Args:
        path: The file.
        key: Name of the frame; None for the only one.

    Returns:
        Values ``[T, N]`` float32, column names ``[N]``, and the row index (a DatetimeIndex where it holds times).

    Raises:
        InputError: where the file holds no such frame, or one that only unpickling could read.
    """
    import h5py  # only here: the other forms do without it

    try:
        with h5py.File(path, "r") as file:
            frames: dict[str, Any] = {}
            file.visititems(lambda name, node: frames.update({name: node}) if isinstance(node, h5py.Group)
                            and ("axis1" in node or "table" in node) else None)
            if key is not None and key.strip("/") not in frames:
                raise InputError("no such data frame", file=path, field="key", value=key,
                                 remedy=f"choose among {', '.join(frames) or 'none: the file holds no pandas frame'}")
            if key is None and len(frames) != 1:
                raise InputError("several data frames could be meant" if frames else "no pandas data frame inside",
                                 file=path, field="key", value=", ".join(frames) or ", ".join(file) or None,
                                 remedy="name one with --key" if frames else "write it with DataFrame.to_hdf")
            group = frames[key.strip("/")] if key is not None else next(iter(frames.values()))
            return _fixed_frame(group, path)
    except (OSError, KeyError) as error:
        raise InputError(f"not readable as HDF5: {error}", file=path,
                         remedy="save it again, without a compression that only PyTables knows") from error


def _fixed_frame(group: Any, path: Path | str) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    if "axis1" not in group:
        raise InputError(f"the column names of pandas' 'table' form are stored in a way that {_PICKLED}", file=path,
                         field=group.name, remedy="save it with to_hdf(..., format='fixed') or to_parquet")
    columns, index = _plain(group["axis0"], path), _plain(group["axis1"], path)
    values = np.full((len(index), len(columns)), np.nan, np.float32)
    place = {name: i for i, name in enumerate(columns.tolist())}
    if len(place) != len(columns):
        raise InputError("two sensors have one id", file=path, field=f"{group.name}/axis0",
                         value=next(name for name in place if columns.tolist().count(name) > 1),
                         remedy="give each column a name of its own")
    for block in range(int(group.attrs.get("nblocks", 1))):
        items = _plain(group[f"block{block}_items"], path)
        stored = _plain(group[f"block{block}_values"], path)
        if stored.dtype.kind not in "fiu":
            raise InputError("the readings are not numeric", file=path, field=f"{group.name}/block{block}_values",
                             value=f"dtype {stored.dtype}", remedy="save them with a numeric dtype")
        rows = stored if group[f"block{block}_values"].attrs.get("transposed", 1) else stored.T
        values[:, [place[name] for name in items.tolist()]] = rows
    return values, columns, _row_index(index, group["axis1"].attrs)


def _plain(node: Any, path: Path | str) -> np.ndarray:
    if node.dtype.hasobject:
        raise InputError(f"{node.name} {_PICKLED}", file=path, field=node.name, value="dtype object",
                         remedy="save the frame with number or text names, or write Parquet or CSV")
    return node[()]


def _row_index(index: np.ndarray, attributes: Any) -> pd.Index:
    kind = attributes.get("kind", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if not kind.startswith("datetime64"):
        return pd.Index(np.char.decode(index, "utf-8") if index.dtype.kind == "S" else index)
    resolution = kind[len("datetime64["):-1] or "ns"  # older pandas wrote nanoseconds and did not say so
    times = pd.DatetimeIndex(index.astype(np.int64).view(f"datetime64[{resolution}]"))
    return times.tz_localize("UTC") if "tz" in attributes else times  # with a zone, the file counts in UTC


def _shapes(entries: dict[str, tuple[int, ...] | None]) -> str:
    return ", ".join(f"{name} {list(shape) if shape is not None else '(objects)'}" for name, shape in entries.items())


def _axes(dimensions: tuple[int, ...]) -> str:
    return " or ".join(str(number) for number in dimensions)
