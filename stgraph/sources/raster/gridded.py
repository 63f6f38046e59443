"""NetCDF and Zarr by way of xarray: dimensions known by the CF conventions, times decoded, readings left on disk."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgraph.errors import InputError
from stgraph.sources.clock import Stamps
from stgraph.sources.raster.arrays import open_plain_zarr
from stgraph.sources.raster.codecs import check_codecs
from stgraph.sources.raster.grid import globe_places, masked_cells
from stgraph.sources.raster.options import CHANNEL, COLUMN, ROW, TIME, RasterOptions
from stgraph.sources.raster.source import Raster, check_believable, disk_bytes, named_roles

if TYPE_CHECKING:
    import xarray

NETCDF = (".nc", ".nc4", ".cdf", ".netcdf")
CIVIL = ("standard", "gregorian", "proleptic_gregorian")
_OTHER = ("360_day", "365_day", "366_day", "noleap", "all_leap", "julian", "none")
_NAMES = {TIME: ("time", "t", "valid_time", "datetime", "date"),
          ROW: ("latitude", "lat", "y", "row", "northing", "south_north", "nj", "j"),
          COLUMN: ("longitude", "lon", "x", "column", "col", "easting", "west_east", "ni", "i")}
_STANDARD = {TIME: ("time",), ROW: ("latitude", "grid_latitude", "projection_y_coordinate"),
             COLUMN: ("longitude", "grid_longitude", "projection_x_coordinate")}
_AXIS = {TIME: "T", ROW: "Y", COLUMN: "X"}
_PLACE = {"latitude": ("latitude", "lat", "xlat", "nav_lat"), "longitude": ("longitude", "lon", "xlong", "nav_lon")}
_METRES = {"m": 1.0, "metre": 1.0, "meter": 1.0, "metres": 1.0, "meters": 1.0, "km": 1000.0}


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def open_gridded(path: Path, chosen: RasterOptions) -> Raster:
    """Open the raster of a NetCDF file or a Zarr folder; readings stay on disk.

    Several variables stand side by side as channels; a fourth dimension makes several channels of one variable.

    Raises:
        InputError: where there is no such raster, a calendar is not the civil one, or a store could run code.
    """
    if path.is_dir():
        check_codecs(path)
        plain = _plain_array(path)
        if plain is not None:
            return open_plain_zarr(path, plain, chosen)
    dataset = _open(path)
    names = _variables(dataset, path, chosen)
    roles = _dimensions(dataset, names, path, chosen)
    raster = _raster(dataset, names, roles, path)
    check_believable(4 * int(np.prod(raster.shape, dtype=object)), disk_bytes(path), chosen.max_bytes, path)
    _check_chunks(dataset, names, chosen, path)
    _place(raster, dataset, names, roles, chosen)
    if chosen.mask_key:
        _, rows, columns, _ = raster.shape
        mask = _numbers(dataset, chosen.mask_key, path)
        if set(mask.dims) == {roles[ROW], roles[COLUMN]}:
            mask = mask.transpose(roles[ROW], roles[COLUMN])
        raster.left_out = masked_cells(mask.to_numpy(), rows, columns, path, chosen.mask_key)
    raster.stamps = _stamps(dataset, roles[TIME], raster, chosen)
    return raster


# -------------------------------------------------------------------- opening
def _xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise InputError("NetCDF and Zarr are read with xarray, which is not installed", field="raster",
                         remedy="run: pip install 'stgraph-city[raster]'") from error
    return xarray


def _plain_array(path: Path) -> Any:
    """The array of a Zarr folder that is no group; None where it is one."""
    import zarr

    if (path / ".zgroup").is_file():
        return None
    try:
        found = zarr.open(str(path), mode="r")
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InputError(f"not readable as Zarr: {error}", file=path, remedy="make the store again") from error
    return found if isinstance(found, zarr.Array) else None


def _open(path: Path) -> xarray.Dataset:
    xr = _xarray()
    if path.is_dir():
        options: dict[str, Any] = {"engine": "zarr", "consolidated": False}
    else:
        with path.open("rb") as stream:
            start = stream.read(8)
        if not start.startswith((b"\x89HDF", b"CDF")):
            raise InputError("not a NetCDF file", file=path, value=start[:4], remedy="download or export it again")
        options = {"engine": "h5netcdf" if start.startswith(b"\x89HDF") else "scipy"}
    try:
        found: xarray.Dataset = xr.open_dataset(path, decode_times=False, cache=False, **options)
    except ImportError as error:
        raise InputError(f"a package is missing: {error}", file=path,
                         remedy="run: pip install 'stgraph-city[raster]'") from error
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, IndexError, EOFError) as error:
        if "engine" in str(error):
            raise InputError("NetCDF is read with h5netcdf, which is not installed", file=path,
                             remedy="run: pip install 'stgraph-city[raster]'") from error
        raise InputError(f"not readable: {error}", file=path, remedy="download or export it again") from error
    return found


def _variables(dataset: xarray.Dataset, path: Path, chosen: RasterOptions) -> list[str]:
    """Variables that were named, else all with three or four dimensions, which must be the same."""
    if chosen.key:
        for name in chosen.key:
            _numbers(dataset, name, path)
        names = list(chosen.key)
    else:
        names = [str(name) for name, one in dataset.data_vars.items()
                 if one.ndim in (3, 4) and one.dtype.kind in "iufb" and name != chosen.mask_key]
    there = ", ".join(f"{name} [{', '.join(map(str, one.dims))}]" for name, one in dataset.data_vars.items())
    if not names:
        raise InputError("no variable has the axes of a raster", file=path, field="key",
                         remedy=f"time, row and column are needed; there are {there or 'no variables'}")
    first = dataset[names[0]]
    for name in names:
        if set(dataset[name].dims) != set(first.dims):
            raise InputError("the variables have different dimensions", file=path, field="key", value=there,
                             remedy="name those that go together, with --key")
        if dataset[name].ndim not in (3, 4):
            raise InputError("a raster has three or four axes: time, row, column and, if several, channel", file=path,
                             field=name, value=f"[{', '.join(map(str, dataset[name].dims))}]",
                             remedy="name another variable with --key")
    return names


def _numbers(dataset: xarray.Dataset, name: str, path: Path) -> xarray.DataArray:
    if name not in dataset.variables:
        raise InputError("no such variable", file=path, field=name, value=name,
                         remedy=f"choose among {', '.join(map(str, dataset.variables))}")
    if dataset[name].dtype.kind not in "iufb":
        raise InputError("the variable is not numeric", file=path, field=name, value=f"dtype {dataset[name].dtype}",
                         remedy="name another one")
    return dataset[name]


# -------------------------------------------------------------------- dimensions and places
def _dimensions(dataset: xarray.Dataset, names: list[str], path: Path, chosen: RasterOptions) -> dict[str, str]:
    """The dimension of each meaning; ``channel`` where there are four."""
    dimensions = [str(one) for one in dataset[names[0]].dims]
    roles = named_roles(chosen.axes, path)
    for dimension in roles.values():
        if dimension not in dimensions:
            raise InputError("no such dimension", file=path, field="axes", value=dimension,
                             remedy=f"choose among {', '.join(dimensions)}")
    for role in (TIME, ROW, COLUMN):
        left = [one for one in dimensions if one not in roles.values()]
        found = [one for one in left if _means(dataset, one, role)]
        if role not in roles and len(found) == 1:
            roles[role] = found[0]
        elif role not in roles:
            raise InputError(f"it is not clear which dimension is the {role}", file=path, field="axes",
                             value=", ".join(dimensions),
                             remedy=f"say it: --axes {','.join(f'{one}=NAME' for one in (TIME, ROW, COLUMN))}")
    rest = [one for one in dimensions if one not in roles.values()]
    return roles | ({CHANNEL: rest[0]} if rest else {})


def _means(dataset: xarray.Dataset, dimension: str, role: str) -> bool:
    """Whether a dimension has a meaning, by the attributes of its coordinate, else by its name."""
    said = dataset[dimension].attrs if dimension in dataset.coords else {}
    if said.get("standard_name") or said.get("axis"):
        return said.get("standard_name") in _STANDARD[role] or said.get("axis") == _AXIS[role]
    return dimension.lower() in _NAMES[role]


def _place(raster: Raster, dataset: xarray.Dataset, names: list[str], roles: dict[str, str],
           chosen: RasterOptions) -> None:
    """Put longitudes and latitudes, or metres, of the file into the raster."""
    path = raster.file
    _, rows, columns, _ = raster.shape
    found = [_coordinate(dataset, names, place, chosen, roles) for place in ("longitude", "latitude")]
    if found[0] is not None and found[1] is not None:
        longitude, latitude = (one.transpose(*(roles[role] for role in (ROW, COLUMN) if roles[role] in one.dims))
                               for one in found if one is not None)
        raster.lonlat = globe_places(longitude.to_numpy(), latitude.to_numpy(), rows, columns, path)
        return
    sides = []
    for role in (COLUMN, ROW):
        one = dataset.coords.get(roles[role])
        factor = None if one is None else _METRES.get(str(one.attrs.get("units", "")).strip().lower())
        if one is None or factor is None:
            return
        sides.append(one.to_numpy().astype(np.float64) * factor)
    raster.pos = np.stack(np.broadcast_arrays(sides[0][None, :], sides[1][:, None]), axis=-1)


def _coordinate(dataset: xarray.Dataset, names: list[str], place: str, chosen: RasterOptions,
                roles: dict[str, str]) -> xarray.DataArray | None:
    """The variable of longitudes or latitudes of rows, columns or cells; None where there is none."""
    key = chosen.longitude_key if place == "longitude" else chosen.latitude_key
    grid = {roles[ROW], roles[COLUMN]}
    if key is not None:
        one = _numbers(dataset, key, Path(str(dataset.encoding.get("source", ""))))
        if not set(one.dims) <= grid or not one.dims:
            raise InputError("the coordinates do not go with the raster", field=key, value=list(one.dims),
                             remedy=f"name a variable of {' and '.join(sorted(grid))}")
        return one
    for name, held in dataset.variables.items():
        known = str(held.attrs.get("standard_name", "")).lower() or str(name).lower()
        fits = set(held.dims) <= grid and held.ndim and str(name) not in names and held.dtype.kind in "iuf"
        if fits and known in _PLACE[place]:
            return dataset[name]
    return None


# -------------------------------------------------------------------- readings
def _raster(dataset: xarray.Dataset, names: list[str], roles: dict[str, str], path: Path) -> Raster:
    first = dataset[names[0]]
    sizes: dict[str, int] = {str(one): int(size) for one, size in first.sizes.items()}
    if 0 in sizes.values():
        raise InputError("the raster is empty", file=path, field=names[0], value=sizes, remedy="export it again")
    wide = sizes[roles[CHANNEL]] if CHANNEL in roles else 1
    order = [roles[role] for role in (TIME, ROW, COLUMN, CHANNEL) if role in roles]

    def read(start: int, stop: int) -> np.ndarray:
        parts = []
        for name in names:
            try:
                part = dataset[name].isel({roles[TIME]: slice(start, stop)}).transpose(*order).to_numpy()
            except (ValueError, OSError, RuntimeError, KeyError) as error:
                raise InputError(f"the readings of rows {start} to {stop - 1} cannot be read: {error}", file=path,
                                 field=name, remedy="download or export the file again") from error
            with np.errstate(over="ignore"):  # too large becomes infinite, and is refused
                part = part.astype(np.float32, copy=False)
            parts.append(part if part.ndim == 4 else part[..., None])
        return np.concatenate(parts, axis=3)

    channels, units = [], []
    for name in names:
        channels += [name] if wide == 1 else [f"{name}_{word}" for word in _levels(dataset, roles[CHANNEL], wide)]
        units += [dataset[name].attrs.get("units")] * wide
    chunk = max(_chunk_of(dataset[name], roles[TIME]) for name in names)
    return Raster((sizes[roles[TIME]], sizes[roles[ROW]], sizes[roles[COLUMN]], len(channels)), read, chunk,
                  channels=channels, units=[None if one is None else str(one) for one in units],
                  form="zarr" if path.is_dir() else "netcdf", file=str(path))


def _levels(dataset: xarray.Dataset, dimension: str, count: int) -> list[str]:
    """A word for each entry of the fourth dimension."""
    if dimension not in dataset.coords:
        return [str(i) for i in range(count)]
    words = [f"{one:g}" if isinstance(one, float) else str(one) for one in dataset[dimension].to_numpy().tolist()]
    return words if len(set(words)) == count else [str(i) for i in range(count)]


def _stored(variable: xarray.DataArray) -> dict[Hashable, int]:
    """Sizes of the chunks that a variable is stored in, by dimension; nothing where it is stored in one piece."""
    sizes = variable.encoding.get("chunksizes") or variable.encoding.get("chunks")
    return {} if not sizes else dict(zip(variable.dims, sizes, strict=True))


def _chunk_of(variable: xarray.DataArray, dimension: str) -> int:
    return int(_stored(variable).get(dimension, 1))


def _check_chunks(dataset: xarray.Dataset, names: list[str], chosen: RasterOptions, path: Path) -> None:
    """Refuse chunks so large that reading one row would unpack very much."""
    limit = max(ALWAYS_UNPACKED, chosen.max_bytes or 0)
    for name in names:
        size = int(np.prod(list(_stored(dataset[name]).values()) or [1], dtype=object)) * dataset[name].dtype.itemsize
        if size > limit:
            raise InputError(f"one chunk unfolds to {size:,} bytes", file=path, field=name, value=limit,
                             remedy=f"store it in smaller chunks of time, or give --max-bytes {size}")


ALWAYS_UNPACKED = 1 << 30
"""Bytes that one chunk may have without being told so."""


# -------------------------------------------------------------------- time
def _stamps(dataset: xarray.Dataset, dimension: str, raster: Raster, chosen: RasterOptions) -> Stamps | None:
    """Times by the CF conventions; None where ``--start`` says them, or the file has none."""
    if chosen.start is not None:
        if dimension in dataset.variables:
            raster.notes.append("the times of the file are not used: --start and --interval say them")
        return None
    name = chosen.time_key or dimension
    if name not in dataset.variables:
        return None
    variable = dataset[name].variable
    where = {"file": raster.file, "field": name}
    units, calendar = str(variable.attrs.get("units", "")), str(variable.attrs.get("calendar", "standard")).lower()
    if variable.dims != (dimension,):
        raise InputError("the times do not go with the raster", value=variable.dims,
                         remedy=f"name a variable of {dimension} alone", **where)
    if calendar not in CIVIL:
        problem = "the calendar is not the civil one, so its days are not days of a city" if calendar in _OTHER else \
            "the calendar is not known"
        raise InputError(problem, value=calendar, remedy="convert the times with xarray's dataset.convert_calendar("
                         "'standard'), or say them with --start and --interval", **where)
    if " since " not in units:
        raise InputError("the times do not say since when they count", value=units or "no attribute 'units'",
                         remedy="write units like 'hours since 2020-01-01', or give --start and --interval", **where)
    try:
        times = _xarray().coders.CFDatetimeCoder(use_cftime=False).decode(variable).to_numpy()
        times = times.astype("datetime64[us]")
    except (ValueError, OverflowError, TypeError, ImportError) as error:
        raise InputError(f"not readable as times: {str(error).splitlines()[0]}", value=units,
                         remedy="say them with --start and --interval", **where) from error
    if np.isnat(times).any():
        raise InputError("a step has no time", value=f"row {int(np.isnat(times).argmax()) + 1}",
                         remedy="fill it in, or leave the step out", **where)
    exact = times.astype(np.int64)
    return Stamps((exact + 500_000) // 1_000_000, chosen.local_clock)
