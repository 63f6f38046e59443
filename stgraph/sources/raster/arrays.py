"""Rasters in NPZ and NPY files, and in arrays of Zarr without names."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stgraph.errors import InputError
from stgraph.sources.arrays import NPY, npz_entries, read_npz
from stgraph.sources.clock import parse_stamps
from stgraph.sources.raster.grid import globe_places, masked_cells
from stgraph.sources.raster.options import CHANNEL, COLUMN, ROW, TIME, RasterOptions
from stgraph.sources.raster.source import Raster, check_believable, disk_bytes, roles_of


def open_arrays(path: Path, form: str, chosen: RasterOptions) -> Raster:
    """Open the raster of an NPZ or NPY file; several arrays stand side by side as channels.

    An NPY file is mapped, not read; an array of an NPZ file is read whole.

    Raises:
        InputError: where there is no such array, it is not numeric, has other axes, or what goes with it does not fit.
    """
    if form in NPY:
        _refuse_keys(path, chosen)
        raster = _raster([("", _mapped(path))], path, chosen)
        check_believable(_bytes(raster), disk_bytes(path), chosen.max_bytes, path)
        return raster
    with_names = [(name, _packed(path, name, chosen)) for name in chosen.key or (_only(path, chosen),)]
    raster = _raster(with_names, path, chosen)
    rows, columns = raster.shape[1:3]
    if chosen.latitude_key and chosen.longitude_key:
        raster.lonlat = globe_places(_packed(path, chosen.longitude_key, chosen),
                                     _packed(path, chosen.latitude_key, chosen), rows, columns, path)
    if chosen.mask_key:
        raster.left_out = masked_cells(_packed(path, chosen.mask_key, chosen), rows, columns, path, chosen.mask_key)
    if chosen.time_key:
        times = _packed(path, chosen.time_key, chosen)
        if times.shape != (raster.shape[0],):
            raise InputError("the times do not go with the raster", file=path, field=chosen.time_key,
                             value=f"shape {times.shape}", remedy=f"give one for each of the {raster.shape[0]} steps")
        raster.stamps = parse_stamps(times, chosen.local_clock, path, chosen.time_key)
    return raster


def open_plain_zarr(path: Path, array: Any, chosen: RasterOptions) -> Raster:
    """The raster of one Zarr array without names; it stays on disk."""
    _refuse_keys(path, chosen)
    _check_numeric(array.dtype, path, None)
    raster = _raster([("", array)], path, chosen)
    check_believable(_bytes(raster), disk_bytes(path), chosen.max_bytes, path)
    raster.form = "zarr"
    return raster


def _raster(arrays: list[tuple[str, Any]], path: Path, chosen: RasterOptions) -> Raster:
    """The raster of arrays that slice like numpy arrays."""
    parts: list[Callable[[int, int], np.ndarray]] = []
    shape: tuple[int, ...] = ()
    channels: list[str] = []
    chunk = 1
    for name, array in arrays:
        roles = roles_of(chosen.axes, len(array.shape), path)
        sizes = dict(zip(roles, array.shape, strict=True))
        count = sizes.setdefault(CHANNEL, 1)
        if shape and shape != (sizes[TIME], sizes[ROW], sizes[COLUMN]):
            raise InputError("the arrays have different steps, rows or columns", file=path, field=name,
                             value=f"shape {tuple(array.shape)}", remedy="build them one by one")
        shape = (sizes[TIME], sizes[ROW], sizes[COLUMN])
        if 0 in (*shape, count):
            raise InputError("the array is empty", file=path, field=name or None, value=f"shape {tuple(array.shape)}",
                             remedy="save it again")
        channels += [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        chunk = max(chunk, int(getattr(array, "chunks", array.shape)[roles.index(TIME)])
                    if hasattr(array, "chunks") else 1)
        parts.append(_reader(array, roles))

    def read(start: int, stop: int) -> np.ndarray:
        return np.concatenate([part(start, stop) for part in parts], axis=3)

    return Raster((shape[0], shape[1], shape[2], len(channels)), read, chunk, file=str(path),
                  channels=channels if arrays[0][0] and (len(arrays) > 1 or len(channels) == 1) else [],
                  units=[None] * len(channels))


def _reader(array: Any, roles: list[str]) -> Callable[[int, int], np.ndarray]:
    axis = roles.index(TIME)
    order = [roles.index(role) for role in (TIME, ROW, COLUMN, CHANNEL) if role in roles]

    def read(start: int, stop: int) -> np.ndarray:
        cut = (*(slice(None),) * axis, slice(start, stop))
        with np.errstate(over="ignore"):  # too large becomes infinite, and is refused
            block = np.asarray(array[cut], np.float32).transpose(order)
        return block if block.ndim == 4 else block[..., None]

    return read


def _bytes(raster: Raster) -> int:
    return 4 * int(np.prod(raster.shape, dtype=object))


def _refuse_keys(path: Path, chosen: RasterOptions) -> None:
    for field in ("key", "time_key", "mask_key", "latitude_key", "longitude_key"):
        if value := getattr(chosen, field):
            raise InputError("the file holds one array, and nothing beside it", file=path, field=field, value=value,
                             remedy="save all arrays with numpy.savez")


def _check_numeric(dtype: Any, path: Path, name: str | None) -> None:
    if np.dtype(dtype).kind not in "biuf":
        raise InputError("the array is not numeric", file=path, field=name, value=f"dtype {dtype}",
                         remedy="save it with a numeric dtype")


def _mapped(path: Path) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"not readable as NPY: {error}", file=path,
                         remedy="save it with numpy.save and a numeric dtype") from error
    _check_numeric(array.dtype, path, None)
    return array


def _packed(path: Path, name: str, chosen: RasterOptions) -> np.ndarray:
    """An array of an NPZ file, once its header has shown that it can be believed."""
    entries = npz_entries(path)
    if entries.get(name) is not None:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as stream:
                header = np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(stream) == (1, 0) \
                    else np.lib.format.read_array_header_2_0
                shape, _, dtype = header(stream)
        unfolded = int(np.prod(shape, dtype=object)) * dtype.itemsize
        check_believable(max(unfolded, entry.file_size), entry.compress_size, chosen.max_bytes, path)
    array = read_npz(path, name)
    if name != chosen.time_key:
        _check_numeric(array.dtype, path, name)
    return array


def _only(path: Path, chosen: RasterOptions) -> str:
    wanted = (3, 4) if chosen.axes is None else (len(chosen.axes.split(",")),)
    entries = npz_entries(path)
    fitting = [name for name, shape in entries.items() if shape is not None and len(shape) in wanted]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(f"{name} {list(shape) if shape is not None else '(objects)'}" for name, shape in entries.items())
    raise InputError("several arrays could be meant" if fitting else "no array has the axes of a raster", file=path,
                     field="key", value=", ".join(fitting) or None,
                     remedy=f"name one with --key, or several that stand side by side: {there}")
