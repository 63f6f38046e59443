"""Files of GPS points as streams of record batches: CSV, Parquet, GPX and NPZ; what is in memory does not grow."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as arrow_parquet

from stgraph.errors import InputError
from stgraph.sources.arrays import NPZ, npz_entries, read_npz
from stgraph.sources.tables import CSV, PARQUET, form_of, separator_of, table_columns

Source: TypeAlias = Path | pa.Table
"""Where points come from: a file, or a table in memory."""

GPX = (".gpx",)
FORMS = (*CSV, *PARQUET, *GPX, *NPZ)
ROWS = 1 << 16  # rows of a batch
MAX_GPX_BYTES = 1 << 30  # of one GPX file, uncompressed
_GPX_COLUMNS = ("trip", "longitude", "latitude", "time")


def columns_of(source: Source) -> list[str]:
    """Names of the columns of a source; a GPX file has ``trip, longitude, latitude`` and, if it has times, ``time``.

    Raises:
        InputError: where the file is missing, empty or not readable, or its ending is not known.
    """
    if isinstance(source, pa.Table):
        return list(source.column_names)
    form = known_form(source)
    if form in GPX:
        first = next(_gpx_points(source), None)
        return list(_GPX_COLUMNS[:3] if first is None or first[3] is None else _GPX_COLUMNS)
    if form in NPZ:
        return list(npz_entries(source))
    return table_columns(source)


def known_form(path: Path) -> str:
    """The ending of a file of points, without ``.gz``.

    Raises:
        InputError: for an ending that is not known.
    """
    form = form_of(path)
    if form not in FORMS:
        raise InputError("this ending is not known", file=path, field="traces", value=form or path.name,
                         remedy=f"give one of {', '.join(FORMS)}")
    return form


def stream(source: Source, text: Sequence[str], numbers: Sequence[str], rows: int = ROWS) -> Iterator[pa.RecordBatch]:
    """Some columns of a source, batch by batch, in the order of the file.

    Args:
        source: The file or table.
        text: Columns to give as they are: as text from CSV and GPX, in their own type from others.
        numbers: Columns to give as float64.
        rows: Most rows of a batch.

    Raises:
        InputError: where the file cannot be read to its end, or a field of ``numbers`` is not a number.
    """
    if isinstance(source, pa.Table):
        batches: Iterator[pa.RecordBatch] = iter(source.select([*text, *numbers]).to_batches(rows))
    else:
        form = known_form(source)
        batches = (_from_csv(source, text, numbers, rows) if form in CSV else
                   _from_gpx(source, rows) if form in GPX else
                   _from_npz(source, [*text, *numbers], rows) if form in NPZ else
                   _from_parquet(source, [*text, *numbers], rows))
    for batch in batches:
        columns = {name: plain(batch.column(name)) for name in text}
        columns |= {name: _float64(plain(batch.column(name)), source, name) for name in numbers}
        yield pa.record_batch(columns)


def plain(column: pa.Array) -> pa.Array:
    """A column without dictionary, and with one kind of text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column


def _float64(column: pa.Array, source: Source, name: str) -> pa.Array:
    try:
        return column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"not a column of numbers: {error}", file=name_of(source), field=name, value=column.type,
                         remedy="give degrees, or metres on a metric map") from error


def name_of(source: Source) -> str:
    """How messages call a source."""
    return "table" if isinstance(source, pa.Table) else str(source)


# -------------------------------------------------------------------- tables and arrays
def _from_csv(path: Path, text: Sequence[str], numbers: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    types = dict.fromkeys(text, pa.string()) | dict.fromkeys(numbers, pa.float64())
    try:
        reader = arrow_csv.open_csv(
            path, arrow_csv.ReadOptions(block_size=max(1 << 12, 64 * rows), use_threads=False),
            arrow_csv.ParseOptions(delimiter=separator_of(path)),
            arrow_csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=True))
        yield from reader
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise InputError(f"not readable as CSV: {error}", file=path,
                         remedy="give every row the same fields, and numbers where numbers belong; leave a field "
                                "empty where nothing was measured") from error


def _from_parquet(path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    try:
        with arrow_parquet.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(rows, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"not readable as Parquet: {error}", file=path, remedy="write it again") from error


def _from_npz(path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    arrays = {name: read_npz(path, name) for name in columns}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise InputError("the arrays do not go together", file=path, field=", ".join(columns),
                         value=", ".join(str(array.shape) for array in arrays.values()),
                         remedy="give each of them one entry a point")
    table = pa.table({name: pa.array(array.tolist() if array.dtype.kind in "US" else array)
                      for name, array in arrays.items()})
    yield from table.to_batches(rows)


# -------------------------------------------------------------------- GPX
class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes:
        """Some bytes."""


class _Budget:
    """A stream that ends with an error once more than so many bytes were read: a small file can unpack to anything."""

    def __init__(self, stream: _Readable, path: Path, limit: int) -> None:
        self.stream, self.path, self.limit, self.read_so_far = stream, path, limit, 0

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.read_so_far += len(data)
        if self.read_so_far > self.limit:
            raise InputError(f"unpacks to more than {self.limit >> 20} MiB", file=self.path, field="traces",
                             value=f"{self.path.stat().st_size} bytes packed", remedy="split it into several files")
        return data


def _gpx_points(path: Path) -> Iterator[tuple[str, float, float, str | None]]:
    """Track points in order: name of the track segment, longitude, latitude, text of the time."""
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    stem, number, segment = path.name.split(".")[0], -1, None
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            for event, element in iterparse(_Budget(stream, path, MAX_GPX_BYTES), ("start", "end"), forbid_dtd=True):
                tag = element.tag.rpartition("}")[2]
                if tag == "trkseg" and event == "start":
                    number, segment = number + 1, element
                elif tag == "trkpt" and event == "end":
                    time = next((child.text for child in element if child.tag.rpartition("}")[2] == "time"), None)
                    yield f"{stem}/{number}", float(element.get("lon")), float(element.get("lat")), time
                    if segment is not None:
                        segment.clear()  # points that were read do not stay in memory
    except (ParseError, DefusedXmlException, OSError, EOFError) as error:
        raise InputError(f"not readable as GPX: {error or type(error).__name__}", file=path,
                         remedy="export it again; documents with a DTD or entities are not read") from error
    except (TypeError, ValueError) as error:
        raise InputError("a track point has no usable lon and lat", file=path, field="trkpt", value=str(error),
                         remedy="export it again") from error


def _from_gpx(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    held: list[tuple[str, float, float, str | None]] = []
    for point in _gpx_points(path):
        held.append(point)
        if len(held) == rows:
            yield _gpx_batch(held)
            held = []
    if held:
        yield _gpx_batch(held)


def _gpx_batch(points: list[tuple[str, float, float, str | None]]) -> pa.RecordBatch:
    trip, longitude, latitude, time = zip(*points, strict=True)
    return pa.record_batch({"trip": pa.array(trip, pa.string()), "longitude": pa.array(longitude, pa.float64()),
                            "latitude": pa.array(latitude, pa.float64()), "time": pa.array(time, pa.string())})
