"""Tables of events, read block after block: which column is what, coordinates, types, marks.

Only the columns that are needed are read, and of each block only numbers and codes are kept: memory is about 8 bytes
for each event and column, whatever the file takes. GeoJSON and NPZ are read in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.graph.plain import categories, numbers
from stgraph.sources.events.files import DEGREES, EventFile, open_events
from stgraph.sources.events.times import MISSING, TimeColumn
from stgraph.sources.tables import find_column, plain_column
from stgraph.units import unit

PLAIN = "none"
TYPE = ("event_type", "offense", "category", "kind", "class", "type")
TIME = ("time", "datetime", "timestamp", "date_time", "occurred_at", "date", "t")
LONGITUDE, LATITUDE = ("longitude", "lon", "lng", "long"), ("latitude", "lat")
EAST, NORTH = ("x", "easting", "x_coordinate"), ("y", "northing", "y_coordinate")
TAKEN = ("node_id", "time", "type", "lonlat", "pos", "sequence", "geometry", "valid_from", "valid_to")
"""Attributes of events that a mark cannot be called."""


@dataclass(frozen=True)
class Wanted:
    """Which columns to read; fields are options of ``stgraph build events``, which explains them."""

    type_key: str | None = None
    time_key: str | None = None
    time_format: str | None = None
    lon_key: str | None = None
    lat_key: str | None = None
    x_key: str | None = None
    y_key: str | None = None
    crs: str | None = None
    id_key: str | None = None
    mark: tuple[str, ...] = ()
    sequence_key: tuple[str, ...] = ()


@dataclass
class Mark:
    """What an event carries besides type, place and time: numbers in SI units, or words."""

    values: np.ndarray | pa.DictionaryArray
    unit: str | None = None


@dataclass
class RawEvents:
    """``n`` events as read, in the order of the file.

    Args:
        file: For messages.
        columns: Which column was taken for what.
        xy: ``[n, 2]`` longitude and latitude in degrees, or plain metres; NaN where not given.
        plain: Whether they are plain metres.
        times: The column of times.
        types: Category of each.
        ids: Identifier of each, the row number where the file has none.
        marks: By name.
        sequence: Sequence of each; None where there are none.
        zero: How many gave longitude 0 with latitude 0, which is taken for not given.
    """

    file: str
    columns: dict[str, Any]
    xy: np.ndarray
    plain: bool
    times: TimeColumn
    types: pa.DictionaryArray
    ids: pa.Array
    marks: dict[str, Mark] = field(default_factory=dict)
    sequence: pa.DictionaryArray | None = None
    zero: int = 0

    def __len__(self) -> int:
        return len(self.xy)


# -------------------------------------------------------------------- columns
@dataclass(frozen=True)
class _Columns:
    time: str
    places: tuple[str, ...]  # two columns of numbers, or one of points
    crs: Any  # None: plain metres
    type: str | None
    id: str | None
    marks: dict[str, tuple[str, str | None]]  # name -> column, unit
    sequence: tuple[str, ...]

    def all(self) -> list[str]:
        one = [name for name in (self.type, self.id) if name]
        return list(dict.fromkeys([self.time, *self.places, *one, *(column for column, _ in self.marks.values()),
                                   *self.sequence]))

    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = {"time": self.time, "place": list(self.places), "type": self.type, "id": self.id,
                                 "marks": [column for column, _ in self.marks.values()],
                                 "sequence": list(self.sequence)}
        return {role: name for role, name in found.items() if name}


def _find(file: EventFile, wanted: Wanted, plain: bool | None) -> _Columns:
    for key in (wanted.type_key, wanted.time_key, wanted.lon_key, wanted.lat_key, wanted.x_key, wanted.y_key,
                wanted.id_key, *wanted.sequence_key):
        if key is not None and key not in file.columns:
            raise InputError("no such column", file=file.name, field=key, value=key, remedy=_among(file.columns))
    time = wanted.time_key or find_column(file.columns, TIME)
    if time is None:
        raise InputError("no column of times", file=file.name, field="time", value=", ".join(file.columns[:12]),
                         remedy="name it with --time-key")
    places, crs = _places(file, wanted, plain)
    used = {time, *places, wanted.id_key, *wanted.sequence_key}
    free = [name for name in file.columns if name not in used]
    return _Columns(time, places, crs, wanted.type_key or find_column(free, TYPE), wanted.id_key,
                    _marks(file, wanted.mark), wanted.sequence_key)


def _places(file: EventFile, wanted: Wanted, plain: bool | None) -> tuple[tuple[str, ...], Any]:
    degrees, plane = wanted.lon_key or wanted.lat_key, wanted.x_key or wanted.y_key
    if degrees and (plane or wanted.crs):
        raise InputError("the options do not go together", file=file.name, field="lon_key", value=degrees,
                         remedy="give --lon-key and --lat-key for degrees, or --x-key, --y-key and --crs")
    longitude = wanted.lon_key or find_column(file.columns, LONGITUDE)
    latitude = wanted.lat_key or find_column(file.columns, LATITUDE)
    east = wanted.x_key or find_column(file.columns, EAST)
    north = wanted.y_key or find_column(file.columns, NORTH)
    if not (plane or wanted.crs) and longitude and latitude and (degrees or not (plain and east and north)):
        return (longitude, latitude), DEGREES
    if not plane and not degrees and file.geometry is not None:
        return (file.geometry,), _crs(wanted.crs, file.crs)
    if degrees or east is None or north is None:
        raise InputError("no two columns of coordinates", file=file.name, field="lon_key, lat_key",
                         value=", ".join(file.columns[:12]),
                         remedy="name them with --lon-key and --lat-key, or --x-key, --y-key and --crs")
    if wanted.crs is None and not plain:
        raise InputError("it is not said in which reference system the coordinates are", file=file.name, field="crs",
                         value=f"{east}, {north}", remedy="give --crs EPSG:n, or --crs none for plain metres")
    return (east, north), _crs(wanted.crs, None)


def _crs(given: str | None, default: Any) -> Any:
    return default if given is None else None if given.lower() == PLAIN else given


def _marks(file: EventFile, marks: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    found: dict[str, tuple[str, str | None]] = {}
    for text in marks:
        column, colon, unit_name = (text, "", "") if text in file.columns else text.rpartition(":")
        column = column or text
        if column not in file.columns:
            raise InputError("no such column", file=file.name, field="mark", value=column,
                             remedy=_among(file.columns))
        if colon:
            unit(unit_name)
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", column).strip("_.") or "mark"
        if name in TAKEN or name in found:
            raise InputError("the name is taken by an attribute of events", file=file.name, field="mark", value=name,
                             remedy="rename the column")
        found[name] = (column, unit_name if colon else None)
    return found


def _among(columns: Sequence[str]) -> str:
    return f"choose among {', '.join(columns[:16])}" + (f" and {len(columns) - 16} more" if len(columns) > 16 else "")


# -------------------------------------------------------------------- reading
def read_events(source: Any, wanted: Wanted, plain: bool | None = None) -> RawEvents:
    """Read a table of events.

    Args:
        source: A file, or a table in memory: see :func:`stgraph.sources.events.files.open_events`.
        wanted: Which columns.
        plain: Whether the map they are put on is in plain metres; None where there is no map.

    Raises:
        InputError: naming file, column, row and remedy.
    """
    file = open_events(source)
    columns = _find(file, wanted, plain)
    times = TimeColumn(file.name, columns.time, wanted.time_format)
    places: list[np.ndarray] = []
    parts: dict[str, list[Any]] = {}
    for block in file.blocks(columns.all()):
        block = _plain(block, file)
        places.append(_coordinates(block, columns.places, times.rows, file))
        if columns.type:
            parts.setdefault("type", []).append(_words(block[columns.type]))
        if columns.id:
            parts.setdefault("id", []).extend(_as_text(block[columns.id]).chunks)
        for name, (column, _) in columns.marks.items():
            parts.setdefault(f"mark {name}", []).append(_mark_block(block[column], file.name, name))
        if columns.sequence:
            texts = [_as_text(block[name]) for name in columns.sequence]
            parts.setdefault("sequence", []).append(_words(pc.binary_join_element_wise(*texts, "-")))
        times.add(block[columns.time])
    if not times.rows:
        raise InputError("the table has no rows", file=file.name, value="0 rows", remedy="export it again")
    xy, zero = _in_degrees(np.concatenate(places), columns.crs, file.name)
    ids = pa.chunked_array(parts["id"]).combine_chunks() if columns.id else pa.array(np.arange(len(xy)))
    one_type = categories(np.zeros(len(xy), np.int32), ["event"])
    return RawEvents(
        file.name, columns.said(), xy, columns.crs is None, times,
        _joined(parts["type"]) if columns.type else one_type, ids.cast(pa.string()),
        {name: _mark(parts[f"mark {name}"], named) for name, (_, named) in columns.marks.items()},
        _joined(parts["sequence"]) if columns.sequence else None, zero)


def _plain(block: pa.Table, file: EventFile) -> pa.Table:
    """A block whose columns, but for points, have one number, text or time in each row."""
    return pa.table({name: block[name] if name == file.geometry else plain_column(block[name], file.name, name)
                     for name in block.column_names})


def _in_degrees(xy: np.ndarray, crs: Any, file: str) -> tuple[np.ndarray, int]:
    """Places in degrees, or as they are where there is no reference system; and how many rows said 0, 0."""
    xy[~np.isfinite(xy).all(1)] = np.nan
    if crs is None:
        return xy, 0
    if crs != DEGREES:
        from pyproj import CRS, Transformer
        from pyproj.exceptions import CRSError

        try:
            turned = Transformer.from_crs(CRS.from_user_input(crs), DEGREES, always_xy=True)
        except CRSError as error:
            raise InputError(f"not a reference system: {error}", file=file, field="crs", value=crs,
                             remedy="give it like EPSG:3797") from error
        known = ~np.isnan(xy[:, 0])
        xy[known] = np.column_stack(turned.transform(xy[known, 0], xy[known, 1]))
    zero = (xy == 0).all(1)
    xy[zero] = np.nan
    return xy, int(zero.sum())


def _coordinates(block: pa.Table, places: tuple[str, ...], row: int, file: EventFile) -> np.ndarray:
    if len(places) == 2:
        return np.column_stack([_numbers(block[name], row, file.name, name) for name in places])
    import shapely

    try:
        points = shapely.from_wkb(np.asarray(block[places[0]].to_pylist(), dtype=object))
    except (shapely.errors.GEOSException, TypeError) as error:
        raise InputError(f"not shapes in well-known binary: {error}", file=file.name, field=places[0],
                         remedy="write the points again") from error
    wrong = np.flatnonzero(~np.isin(shapely.get_type_id(points), (-1, 0)))  # nothing, or a point
    if len(wrong):
        raise InputError(f"row {row + int(wrong[0]) + 1} is not a point", file=file.name, field=places[0],
                         value=points[wrong[0]].geom_type, remedy="give one point for each event")
    xy = np.full((len(points), 2), np.nan)
    there = ~(shapely.is_missing(points) | shapely.is_empty(points))
    xy[there] = np.column_stack([shapely.get_x(points[there]), shapely.get_y(points[there])])
    return xy


def _numbers(column: pa.ChunkedArray, row: int, file: str, name: str) -> np.ndarray:
    """Numbers ``[n]`` float64 of a column of numbers or texts, NaN where missing."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_numpy()
    found = _numbers_of_texts(_as_text(column))
    wrong = np.flatnonzero(found[1])
    if len(wrong):
        raise InputError(f"not a number in row {row + int(wrong[0]) + 1} of column {name}", file=file, field=name,
                         value=column[int(wrong[0])].as_py(), remedy="correct it, or leave the field empty")
    return found[0]


def _numbers_of_texts(texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of texts, NaN where missing or no number; and which are neither a number nor missing."""
    missing = pc.is_in(pc.utf8_lower(texts), MISSING)
    kept = pc.if_else(missing, pa.scalar(None, pa.string()), texts)
    try:
        return kept.cast(pa.float64()).to_numpy(zero_copy_only=False), np.zeros(len(kept), bool)
    except pa.ArrowInvalid:
        import pandas as pd

        numbers = pd.to_numeric(kept.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
        return numbers, np.isnan(numbers) & ~np.asarray(missing)


# -------------------------------------------------------------------- words
def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as texts without spaces around; whole numbers without a point; nothing where missing is empty."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        whole = pc.equal(column, pc.floor(column))
        if pc.all(whole, skip_nulls=True).as_py() is not False and pc.all(pc.is_finite(column)).as_py() is not False:
            column = column.cast(pa.int64())
    return pc.fill_null(pc.utf8_trim_whitespace(column.cast(pa.string())), "")


def _words(column: pa.ChunkedArray) -> pa.ChunkedArray:
    known = pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type)
    return column if known else _as_text(column).dictionary_encode()


def _joined(parts: list[pa.ChunkedArray]) -> pa.DictionaryArray:
    """Blocks of words as one column of categories, the words in alphabetical order."""
    whole = pa.chunked_array([chunk for part in parts for chunk in part.chunks]).unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    given = [(word or "").strip() for word in whole.dictionary.to_pylist()]
    words = sorted({*given, *([""] if whole.null_count else [])})
    rank = {word: code for code, word in enumerate(words)}
    place = np.array([rank[word] for word in given], np.int32)
    codes = pc.fill_null(whole.indices, -1).to_numpy(zero_copy_only=False)
    return categories(np.where(codes < 0, 0, place[codes] if len(place) else 0), words)


# -------------------------------------------------------------------- marks
def _mark_block(column: pa.ChunkedArray, file: str, name: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type) and not pa.types.is_string(column.type.value_type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) \
            or pa.types.is_null(kind):
        return _words(column)
    if pa.types.is_boolean(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return column
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        return column.cast(pa.float64())
    raise InputError("a mark is made of numbers or words", file=file, field=name, value=str(kind),
                     remedy="write the column as numbers or texts")


def _mark(parts: list[pa.ChunkedArray], unit_name: str | None) -> Mark:
    """Blocks of one mark: numbers where all are, in SI units; else categories."""
    if pa.types.is_dictionary(parts[0].type):
        words = _joined(parts)
        values, wrong = _numbers_of_texts(words.dictionary)
        if wrong.any() and unit_name is None:
            return Mark(words)
        if wrong.any():
            raise InputError("a mark with a unit is made of numbers", field="mark",
                             value=words.dictionary[int(wrong.argmax())].as_py(), remedy="leave out its unit")
        found = values[numbers(words)]
        if unit_name is None and len(found) and np.isfinite(found).all() and (found == np.floor(found)).all():
            return Mark(found.astype(np.int64))
    else:
        column = pa.chunked_array([chunk for part in parts for chunk in part.chunks])
        exact = column.null_count == 0 and unit_name is None
        found = column.to_numpy() if exact else column.cast(pa.float64()).to_numpy()
    if unit_name is None:
        return Mark(np.ascontiguousarray(found))
    source = unit(unit_name)
    return Mark(found * source.factor + source.offset, source.si)
