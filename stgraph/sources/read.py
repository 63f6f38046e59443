"""Readings from the files that people have: wide or long tables, pandas HDF5, NPZ and NPY."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stgraph.errors import InputError
from stgraph.sources.arrays import HDF5, NPY, NPZ, npz_entries, read_array, read_npz, read_pandas_hdf5
from stgraph.sources.clock import StampNotes, parse_stamps, to_utc
from stgraph.sources.readings import Readings
from stgraph.sources.tables import (
    CSV,
    PARQUET,
    check_names,
    find_column,
    form_of,
    names,
    read_table,
    table_columns,
    time_index,
)

SENSOR = ("sensor", "sensor_id", "station", "station_id", "detector_id")
TIME = ("time", "timestamp", "datetime", "date")
UNNAMED_INDEX = "__index_level_"  # how pandas calls an index without a name in Parquet
FORMS = (*CSV, *PARQUET, *HDF5, *NPZ, *NPY)


@dataclass(frozen=True)
class ReadOptions:
    """Where things are in a file.

    Args:
        key: Array of an NPZ file, or frame of an HDF5 file; None for the only one.
        ids_key: Array of sensor names in an NPZ file.
        time_key: Array or column of times; None for the index or first column of a table.
        sensor_key: Column of sensor names; it makes the table a long one.
        value_keys: Columns of readings in a long table, one per channel; empty for all other columns.
        local_clock: Whether whole-number times count on the local wall clock rather than in UTC.
        tz: Zone of times without an offset.
        no_times: Whether the file has no times (they are given as start and interval).
        repair: Whether to go on with times that would be refused.
    """

    key: str | None = None
    ids_key: str | None = None
    time_key: str | None = None
    sensor_key: str | None = None
    value_keys: tuple[str, ...] = ()
    local_clock: bool = False
    tz: str = "UTC"
    no_times: bool = False
    repair: bool = False


@dataclass(frozen=True)
class Found:
    """What a file held.

    Args:
        readings: The readings; ``ids`` or ``channels`` is empty where the file does not name them.
        form: ``wide``, ``long``, ``frame`` (HDF5) or ``array``.
        notes: What was found in the time stamps.
        on_clock: Whether the stamps were without an offset.
    """

    readings: Readings
    form: str
    notes: StampNotes
    on_clock: bool = False


def read_readings(path: Path | str, options: ReadOptions | None = None) -> Found:
    """Read a file of readings.

    Times become UTC here, because only the order of the file tells the doubled hour of autumn apart.

    * ``.csv``, ``.tsv`` (perhaps ``.gz``), ``.parquet``: **wide**, a column of times and one column for each sensor;
      or **long**, where a column of sensor names is named or is called ``sensor``, ``sensor_id``, ``station`` ...
    * ``.h5``: a frame that pandas stored in its ``fixed`` form, rows times and columns sensors.
    * ``.npz``, ``.npy``: an array ``[T, N]`` or ``[T, N, C]``.

    Args:
        path: The file.
        options: Where things are in it.

    Raises:
        InputError: where the file cannot be read as one of these; it names the row, column or key at fault.
    """
    path, options = Path(path), options or ReadOptions()
    form = form_of(path)
    if form in (*NPZ, *NPY):
        return _read_array(path, form, options)
    if form in HDF5:
        return _read_frame(path, options)
    if form in (*CSV, *PARQUET):
        columns = table_columns(path)
        named = find_column(columns, SENSOR) is not None and find_column(columns, TIME) is not None
        return _read_long(path, columns, options) if options.sensor_key or named else \
            _read_wide(path, columns, options)
    pickled = " (a pickle can run code, so it is not read)" if form in (".pkl", ".pickle") else ""
    raise InputError(f"this ending is not known{pickled}", file=path, field="readings", value=form or path.name,
                     remedy=f"give one of {', '.join(FORMS)}")


def _times(stamps: Any, options: ReadOptions, path: Path, field: str,
           groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, StampNotes, bool]:
    """UTC seconds, which rows to keep, what was found, and whether the stamps were of the local clock."""
    parsed = parse_stamps(stamps, options.local_clock, path, field)
    utc, keep, notes = to_utc(parsed, options.tz, repair=options.repair, file=path, field=field, groups=groups)
    return utc, keep, notes, parsed.on_clock


# -------------------------------------------------------------------- arrays
def _read_array(path: Path, form: str, options: ReadOptions) -> Found:
    array = read_array(path, form, options.key, (2, 3))
    with np.errstate(over="ignore"):  # too large becomes infinite, and is refused
        values = array.reshape(*array.shape[:2], -1).astype(np.float32, copy=False)
    steps, count = values.shape[:2]
    if not steps or not count:
        raise InputError("the array is empty", file=path, field=options.key, value=f"shape {array.shape}",
                         remedy="save it again")
    if form in NPY and (options.ids_key or options.time_key):
        raise InputError("an NPY file holds one array, and no names or times beside it", file=path,
                         field="ids_key" if options.ids_key else "time_key",
                         value=options.ids_key or options.time_key, remedy="save all arrays with numpy.savez")
    ids = []
    if options.ids_key:
        ids = names(_beside(path, options.ids_key, count, f"{count} sensors", array.shape))
        check_names(ids, path, options.ids_key)
    if options.time_key:
        stamps = _beside(path, options.time_key, steps, f"{steps} steps", array.shape)
        utc, keep, notes, on_clock = _times(stamps, options, path, options.time_key)
        return Found(Readings(values[keep] if not keep.all() else values, ids, [], utc[keep], file=str(path)), "array",
                     notes, on_clock)
    if not options.no_times:
        shapes = npz_entries(path) if form in NPZ else {}
        fitting = [name for name, shape in shapes.items() if shape == (steps,)]
        raise InputError("the readings have no times", file=path, field="time_key",
                         remedy=(f"name them with --time-key (perhaps {', '.join(fitting)}), or " if fitting else "")
                         + "give --start and --interval")
    return Found(Readings(values, ids, [], file=str(path)), "array", StampNotes())


def _beside(path: Path, key: str, size: int, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """A 1-d array of the same file that goes with an axis of the readings."""
    array = read_npz(path, key)
    if array.shape != (size,):
        turned = " The readings may be transposed: the first axis is time, the second sensors" \
            if array.shape in ((shape[0],), (shape[1],)) else ""
        raise InputError(f"does not go with {what} of the readings {list(shape)}.{turned}".rstrip("."), file=path,
                         field=key, value=f"shape {array.shape}", remedy=f"give one entry for each of the {what}")
    return array


def _read_frame(path: Path, options: ReadOptions) -> Found:
    values, columns, index = read_pandas_hdf5(path, options.key)
    ids = names(columns)
    check_names(ids, path, options.key or "columns")
    if not options.no_times:
        utc, keep, notes, on_clock = _times(index, options, path, "index")
        return Found(Readings(values[keep][..., None], ids, [], utc[keep], file=str(path)), "frame", notes, on_clock)
    if isinstance(index, pd.DatetimeIndex):
        raise InputError("the file has times of its own", file=path, field="start", remedy="leave out --start")
    return Found(Readings(values[..., None], ids, [], file=str(path)), "frame", StampNotes())


# -------------------------------------------------------------------- tables
def _read_wide(path: Path, columns: list[str], options: ReadOptions) -> Found:
    time_column = None if options.no_times else options.time_key or time_index(path) or columns[0]
    sensors = [name for name in columns if name == time_column or not name.startswith(UNNAMED_INDEX)]
    if time_column in sensors:
        sensors.remove(time_column)
    if not sensors:
        raise InputError("there is no column of readings", file=path, field=columns[0],
                         remedy="write one column for each sensor, or name the columns of a long table")
    ids = names(np.asarray(sensors))
    check_names(ids, path, "first line")
    text = [] if time_column is None else [time_column]
    stamps, values = read_table(path, text=text, numbers=sensors, dtype=np.float32)
    if time_column is None:
        return Found(Readings(values[..., None], ids, [], file=str(path)), "wide", StampNotes())
    utc, keep, notes, on_clock = _times(stamps[time_column], options, path, time_column)
    values = values if keep.all() else values[keep]
    return Found(Readings(values[..., None], ids, [], utc[keep], file=str(path)), "wide", notes, on_clock)


def _read_long(path: Path, columns: list[str], options: ReadOptions) -> Found:
    sensor_column = options.sensor_key or find_column(columns, SENSOR)
    time_column = options.time_key or find_column(columns, TIME)
    if time_column is None or options.no_times:
        raise InputError("a long table needs a column of times", file=path, field="time_key",
                         value=", ".join(columns), remedy="name it with --time-key, and leave out --start")
    assert sensor_column is not None
    others = [name for name in columns if name not in (sensor_column, time_column)
              and not name.startswith(UNNAMED_INDEX)]
    channels = list(options.value_keys) or others
    if not channels:
        raise InputError("a long table needs a column of readings", file=path, field="value_key",
                         value=", ".join(columns), remedy="name it with --value-key")
    text, values = read_table(path, text=[sensor_column, time_column], numbers=channels, dtype=np.float32)
    sensor, found = pd.factorize(text[sensor_column])
    if (sensor < 0).any():
        raise InputError(f"row {int(np.flatnonzero(sensor < 0)[0]) + 1} has no sensor", file=path,
                         field=sensor_column, remedy="fill it in, or remove the row")
    same, ids = pd.factorize(pd.Series(names(found), dtype=object))
    sensor = same[sensor]
    check_names(list(ids), path, sensor_column)
    utc, keep, notes, on_clock = _times(text[time_column], options, path, time_column, groups=sensor)
    return Found(_pivot(values[keep], utc[keep], sensor[keep], list(ids), channels, path), "long", notes, on_clock)


def _pivot(values: np.ndarray, utc: np.ndarray, sensor: np.ndarray, ids: list[str], channels: list[str],
           path: Path) -> Readings:
    """Rows of one sensor and time each become ``[T, N, C]``; a sensor's repeated time gets a row of its own."""
    repeat = pd.DataFrame({"sensor": sensor, "utc": utc}).groupby(["sensor", "utc"]).cumcount().to_numpy()
    most = int(repeat.max(initial=0)) + 1
    times, rank = np.unique(utc, return_inverse=True)
    keys, row = np.unique(rank * most + repeat, return_inverse=True)
    size = len(keys) * len(ids)
    if size > max(50_000_000, 50 * len(values)):
        raise InputError(f"the sensors do not share their times: {len(values)} rows have {len(times)} different ones",
                         file=path, field="time", remedy="round the times to the interval first")
    table = np.full((len(keys), len(ids), len(channels)), np.nan, np.float32)
    table[row, sensor] = values
    return Readings(table, ids, channels, times[keys // most], file=str(path))
