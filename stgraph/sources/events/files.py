"""Files of events: CSV, Parquet, GeoParquet, GeoJSON, NPZ or a table in memory, opened and given block after block."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError
from stgraph.sources.arrays import npz_entries, read_npz
from stgraph.sources.tables import CSV, PARQUET, form_of, read_table, separator_of, table_columns

GEOJSON, NPZ = (".geojson", ".json"), (".npz",)
DEGREES = "OGC:CRS84"
BLOCK = 1 << 18  # rows


@dataclass(frozen=True)
class EventFile:
    """A table of events that was opened.

    Args:
        name: For messages.
        columns: Names of its columns.
        blocks: Gives the named columns, block after block.
        geometry: Column of points in well-known binary.
        crs: Their reference system; None for a plain plane.
    """

    name: str
    columns: list[str]
    blocks: Callable[[Sequence[str]], Iterator[pa.Table]]
    geometry: str | None = None
    crs: Any = None


def open_events(source: Any) -> EventFile:
    """Open a file of events, or a table in memory (Arrow, pandas or geopandas).

    Raises:
        InputError: where it is not there, empty, or of a form that is not read.
    """
    if isinstance(source, pa.Table):
        return EventFile("the table", source.column_names, lambda names: _sliced(source.select(list(names))))
    if hasattr(source, "to_wkb"):
        table = pa.Table.from_pandas(source.to_wkb(), preserve_index=False)
        crs = None if source.crs is None else source.crs.to_wkt()
        return EventFile("the table", table.column_names, open_events(table).blocks, source.geometry.name, crs)
    if hasattr(source, "iloc"):
        return open_events(pa.Table.from_pandas(source, preserve_index=False))
    path = Path(source)
    form = form_of(path)
    if form in PARQUET:
        return _open_parquet(path)
    if form in GEOJSON:
        return _open_geojson(path)
    if form in NPZ:
        names = [name for name, shape in npz_entries(path).items() if shape is not None and len(shape) == 1]
        return EventFile(str(path), names, lambda wanted: _sliced(_npz_table(path, wanted)))
    if form in CSV:
        return EventFile(str(path), table_columns(path), lambda wanted: _csv_blocks(path, wanted))
    raise InputError("events are a CSV, Parquet, GeoJSON or NPZ file", file=path, field="events", value=path.name,
                     remedy=f"write one of {', '.join((*CSV, *PARQUET, *GEOJSON, *NPZ))}")


def _sliced(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), BLOCK):
        yield table.slice(start, BLOCK)


def _open_parquet(path: Path) -> EventFile:
    import pyarrow.parquet as pq

    columns = table_columns(path)  # refuses what is not Parquet
    described = (pq.ParquetFile(path).schema_arrow.metadata or {}).get(b"geo")

    def blocks(names: Sequence[str]) -> Iterator[pa.Table]:
        try:
            for batch in pq.ParquetFile(path).iter_batches(BLOCK, columns=list(names), use_pandas_metadata=False):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"not readable as Parquet: {error}", file=path, remedy="write it again") from error

    if described is None:
        return EventFile(str(path), columns, blocks)
    try:
        geo = json.loads(described)
        primary = geo["primary_column"]
        shape = geo["columns"][primary]
        crs = shape.get("crs", DEGREES)  # GeoParquet: nothing said means longitude and latitude
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"its GeoParquet description is broken: {error}", file=path, field="geo",
                         remedy="write it again") from error
    wkb = primary in columns and str(shape.get("encoding")).upper() == "WKB"
    return EventFile(str(path), columns, blocks, primary if wkb else None, crs)


def _csv_blocks(path: Path, names: Sequence[str]) -> Iterator[pa.Table]:
    import pyarrow.csv as arrow_csv

    convert = arrow_csv.ConvertOptions(include_columns=list(names), column_types=dict.fromkeys(names, pa.string()))
    try:
        with arrow_csv.open_csv(path, arrow_csv.ReadOptions(block_size=1 << 23),
                                arrow_csv.ParseOptions(delimiter=separator_of(path)), convert) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        read_table(path, text=list(names))  # says in which row, where it can
        raise InputError(f"not readable as CSV: {error}", file=path, remedy="save it as CSV in UTF-8") from error


def _npz_table(path: Path, names: Sequence[str]) -> pa.Table:
    arrays = {name: read_npz(path, name) for name in names}
    if len(sizes := {len(array) for array in arrays.values()}) > 1:
        raise InputError("the arrays are of several lengths", file=path, field=", ".join(names),
                         value=", ".join(str(size) for size in sorted(sizes)), remedy="give one entry for each event")
    columns = {}
    for name, array in arrays.items():
        array = np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
        columns[name] = pa.array(array.tolist(), pa.string()) if array.dtype.kind == "U" else pa.array(array)
    return pa.table(columns)


def _open_geojson(path: Path) -> EventFile:
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8") as stream:
            document = json.load(stream)
        features = document["features"]
        properties = [feature["properties"] or {} for feature in features]
        crs = document.get("crs") and document["crs"]["properties"]["name"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"not readable as GeoJSON: {type(error).__name__}: {error}", file=path,
                         remedy="give a FeatureCollection of points (RFC 7946)") from error
    columns = list(dict.fromkeys(name for one in properties for name in one if name != "geometry"))

    def blocks(names: Sequence[str]) -> Iterator[pa.Table]:
        read = {name: _geojson_points(features, path) if name == "geometry"
                else _mixed([one.get(name) for one in properties]) for name in names}
        return _sliced(pa.table(read))

    return EventFile(str(path), columns, blocks, "geometry", crs or DEGREES)


def _geojson_points(features: list[Any], path: Path) -> pa.Array:
    from stgraph.graph import Geometry

    xy = np.full((len(features), 2), np.nan)
    for row, feature in enumerate(features):
        shape = feature.get("geometry")
        if shape is None:
            continue
        try:
            if shape["type"] != "Point":
                raise ValueError(shape["type"])
            place = [float(number) for number in shape["coordinates"][:2]]
            if len(place) == 1:
                raise ValueError("one number is no place")
            if place:  # without coordinates it is a point without a place, as RFC 7946 has it
                xy[row] = place
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"feature {row + 1} is not a point: {error}", file=path, field="geometry",
                             value=json.dumps(shape), remedy="give one point for each event") from error
    return Geometry.from_points(xy).wkb


def _mixed(values: list[Any]) -> pa.Array:
    """Values of a JSON property as a column; as texts where they are of several kinds."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
