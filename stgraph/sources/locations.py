"""Where sensors stand: tables of coordinates, and which row belongs to which sensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from stgraph.errors import InputError
from stgraph.graph.time import TimeAxis
from stgraph.sources.tables import (
    CSV,
    PARQUET,
    check_names,
    find_column,
    form_of,
    names,
    read_table,
    table_columns,
    to_numbers,
)

LONGITUDE = ("longitude", "lon", "lng", "long", "x")
LATITUDE = ("latitude", "lat", "y")
IDS = ("sensor_id", "sensor", "station_id", "station", "detector_id", "id", "sid", "name")
ORDER = ("column", "index")


@dataclass(frozen=True)
class Places:
    """A table of coordinates.

    Args:
        lonlat: ``[M, 2]`` longitude and latitude in degrees, NaN where unknown.
        ids: Name of each row; None where the table has no names.
        order: Column of the readings that each row belongs to, where the table says so; None where it does not.
        zero: Rows that said 0, 0, which is taken for unknown.
        file: For messages.
    """

    lonlat: np.ndarray
    ids: list[str] | None
    order: np.ndarray | None = None
    zero: tuple[int, ...] = ()
    file: str = ""


@dataclass
class Placed:
    """Sensors with their places.

    Args:
        ids: Name of each sensor.
        lonlat: ``[N, 2]`` degrees, NaN where unknown.
        matched: How rows were matched: ``by id``, ``by order``, or ``none``.
        without: Sensors whose place is unknown.
        unused: Names in the table that are no sensor of the readings.
        zero: Sensors whose row said 0, 0.
    """

    ids: list[str]
    lonlat: np.ndarray
    matched: str = "none"
    without: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)


def read_locations(path: Path | str, key: str | None = None) -> Places:
    """Read a CSV or Parquet table with columns for longitude, latitude and, if it has them, sensor names.

    Columns are known by their usual names (``longitude, lon, lng``; ``latitude, lat``; ``sensor_id, station_id, id``);
    ``column`` or ``index`` says which column of the readings a row belongs to. Latitude 0 with longitude 0 is an
    unknown place.

    Args:
        path: The table.
        key: Column of the names; None for one of the usual names.

    Raises:
        InputError: where a column is missing, a coordinate is not a number, or is out of range.
    """
    path = Path(path)
    if form_of(path) not in (*CSV, *PARQUET):
        raise InputError("locations are a CSV or Parquet table", file=path, field="locations", value=path.name,
                         remedy="write columns sensor_id, longitude, latitude")
    columns = table_columns(path)
    found = {"longitude": find_column(columns, LONGITUDE), "latitude": find_column(columns, LATITUDE)}
    for wanted, column in found.items():
        if column is None:
            raise InputError(f"no column of the {wanted}", file=path, field=wanted, value=", ".join(columns),
                             remedy=f"name the column {wanted}")
    id_column = key or find_column(columns, IDS)
    order_column = find_column(columns, ORDER)
    wanted_columns = [name for name in (found["longitude"], found["latitude"], id_column, order_column) if name]
    table, _ = read_table(path, text=list(dict.fromkeys(wanted_columns)))
    lonlat = np.stack([to_numbers(table[str(found[axis])], path, str(found[axis]))
                       for axis in ("longitude", "latitude")], axis=1)
    ids = names(table[id_column]) if id_column else None
    order = _order(table[order_column]) if order_column and order_column != id_column else None
    return places_of(lonlat, ids, order, str(path), id_column or "")


def places_of(lonlat: np.ndarray, ids: list[str] | None, order: np.ndarray | None = None, file: str = "",
              id_column: str = "sensor_id") -> Places:
    """Check coordinates ``[M, 2]`` (longitude, latitude) and names, and find rows whose place is unknown.

    Raises:
        InputError: for coordinates out of range (longitude and latitude may be exchanged), and names given twice.
    """
    if ids is not None:
        check_names(ids, file, id_column)
    lonlat = np.array(lonlat, np.float64)
    bad = np.flatnonzero((np.abs(lonlat[:, 0]) > 180) | (np.abs(lonlat[:, 1]) > 90) | np.isinf(lonlat).any(1))
    if len(bad):
        longitude, latitude = lonlat[bad[0]]
        exchanged = abs(latitude) <= 180 and abs(longitude) <= 90
        who = f"row {bad[0] + 1}" + (f" ({ids[bad[0]]})" if ids else "")
        raise InputError(f"{len(bad)} coordinates are out of range, first in {who}"
                         + ("; longitude and latitude look exchanged" if exchanged else ""), file=file,
                         field="latitude" if abs(latitude) > 90 else "longitude",
                         value=f"longitude {longitude}, latitude {latitude}",
                         remedy="swap the names of the two columns" if exchanged else
                                "give degrees: longitude within -180..180, latitude within -90..90")
    zero = np.flatnonzero((lonlat == 0).all(1))
    lonlat[zero] = np.nan
    lonlat[np.isnan(lonlat).any(1)] = np.nan
    return Places(lonlat, ids, order, tuple(int(row) for row in zero), file)


def place_sensors(ids: list[str] | None, count: int, places: Places | None) -> Placed:
    """Match sensors with rows of the table: by name, or by order where one side has no names.

    Args:
        ids: Names of the sensors; None where the readings have none. The table's names are then taken, or
            ``"0" .. "N-1"``.
        count: Number of sensors ``N``.
        places: The table; None where there is none.

    Raises:
        InputError: where no name fits, or rows cannot be told apart without names.
    """
    if places is None:
        placed = Placed(ids or [str(i) for i in range(count)], np.full((count, 2), np.nan))
        placed.without = list(placed.ids)
        return placed
    if ids is not None and places.ids is not None:
        placed, rows = _by_id(ids, places)
    elif len(places.lonlat) == count:
        rows = np.arange(count) if places.order is None or not _is_order(places.order, count) \
            else np.argsort(places.order)
        adopted = [places.ids[row] for row in rows] if places.ids is not None else None
        placed = Placed(ids or adopted or [str(i) for i in range(count)], places.lonlat[rows], "by order")
    else:
        raise InputError("the sensors cannot be matched with their places: the readings have no names"
                         if ids is None else "the table of places has no column of names", file=places.file,
                         field="locations", value=f"{len(places.lonlat)} rows for {count} sensors",
                         remedy="say where the names are, with --ids-key or --locations-key")
    placed.without = [name for name, place in zip(placed.ids, placed.lonlat, strict=True) if np.isnan(place).any()]
    placed.zero = [name for name, row in zip(placed.ids, rows, strict=True) if row in places.zero]
    return placed


def zone_warning(lonlat: np.ndarray, tz: str, utc: int) -> str | None:
    """A sentence where the places lie far from the zone, and would not if longitude and latitude were exchanged."""
    known = lonlat[~np.isnan(lonlat).any(1)]
    if tz == "UTC" or not len(known):
        return None
    offset = (int(TimeAxis(0, 1, 0, tz).local(np.array([utc]))[0]) - utc) / 3600
    longitude, latitude = np.median(known, axis=0)
    given, swapped = (abs((angle / 15 - offset + 12) % 24 - 12) for angle in (longitude, latitude))
    if given > 2.5 and swapped < 1.8:
        return (f"the sensors are around longitude {longitude:.2f}, latitude {latitude:.2f}, far from {tz}: "
                "are longitude and latitude exchanged?")
    return None


def _by_id(ids: list[str], places: Places) -> tuple[Placed, np.ndarray]:
    """Sensors at the rows of their names, and that row of each, -1 where there is none."""
    table = pd.Series(np.arange(len(places.lonlat)), index=places.ids)
    rows = table.reindex(ids).fillna(-1).to_numpy(np.int64)
    if (rows < 0).all():
        raise InputError("no sensor of the readings is in the table of places", file=places.file, field="locations",
                         value=f"sensors {', '.join(ids[:3])}; places {', '.join(table.index[:3])}",
                         remedy="say where the names are, with --ids-key or --locations-key")
    lonlat = np.where(rows[:, None] < 0, np.nan, places.lonlat[rows])
    known = set(ids)
    return Placed(list(ids), lonlat, "by id", unused=[name for name in table.index if name not in known]), rows


def _order(column: pd.Series) -> np.ndarray | None:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return numbers.astype(np.int64) if np.isfinite(numbers).all() else None


def _is_order(order: np.ndarray, count: int) -> bool:
    return bool((np.sort(order) == np.arange(count)).all())
