"""Tables that people have: CSV (also compressed) and Parquet, read strictly."""

from __future__ import annotations

import contextlib
import csv
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as arrow_parquet

from stgraph.errors import InputError

CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")
_MISSING = {"", "na", "n/a", "nan", "null", "none", "#n/a"}
_PLAIN = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_string,
          pa.types.is_large_string, pa.types.is_string_view, pa.types.is_timestamp, pa.types.is_date,
          pa.types.is_time, pa.types.is_null)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_WHOLE = re.compile(r"^([+-]?\d+)\.0+$")


def form_of(path: Path | str) -> str:
    """The ending that says how a file is read: ``.csv`` for ``data.csv`` and for ``data.csv.gz``.

    Raises:
        InputError: where the file is missing, empty, or a folder.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such file", file=path, value=path.name, remedy="check the path")
    if path.is_dir():
        raise InputError("is a folder, not a file", file=path, remedy="name the file inside it")
    if not path.stat().st_size:
        raise InputError("the file is empty", file=path, value="0 bytes", remedy="download or export it again")
    endings = [ending.lower() for ending in path.suffixes]
    return "".join(endings[-2:-1]) if endings[-1:] == [".gz"] else "".join(endings[-1:])


def table_columns(path: Path | str) -> list[str]:
    """Names of the columns of a CSV or Parquet file, in order.

    Raises:
        InputError: where the file cannot be read.
    """
    path = Path(path)
    if form_of(path) in PARQUET:
        return list(_parquet_file(path).schema_arrow.names)
    return _header(path)[0]


def separator_of(path: Path | str) -> str:
    """The character between the fields of a CSV file, as its first line shows it: comma, semicolon or tab."""
    return _header(Path(path))[1]


def time_index(path: Path | str) -> str | None:
    """The column of a Parquet file that pandas kept its index in; None for other files."""
    path = Path(path)
    if form_of(path) not in PARQUET:
        return None
    described = _parquet_file(path).schema_arrow.pandas_metadata or {}
    kept = [name for name in described.get("index_columns", []) if isinstance(name, str)]
    return kept[0] if len(kept) == 1 else None


def read_table(path: Path | str, text: Sequence[str], numbers: Sequence[str] = (),
               dtype: Any = np.float64) -> tuple[dict[str, pd.Series], np.ndarray]:
    """Some columns of a CSV or Parquet file.

    A CSV file is comma, semicolon or tab separated (as its first line is), in UTF-8, perhaps gzipped. Every row must
    have as many fields as the first line. An empty field, ``NA``, ``NaN``, ``null`` or ``None`` is a missing number.

    Args:
        path: The file.
        text: Columns to give as they are: as text from CSV, in their own type from Parquet.
        numbers: Columns to read as numbers.
        dtype: Floating type of the numbers.

    Returns:
        The text columns by name, and the numbers ``[rows, len(numbers)]`` with NaN where missing.

    Raises:
        InputError: for a ragged row, a field that is not a number, a column that is not there or is of lists and the
            like.
    """
    path = Path(path)
    there = table_columns(path)
    for name in (*text, *numbers):
        if name not in there:
            raise InputError("no such column", file=path, field=name, value=name, remedy=f"choose among {_some(there)}")
    arrow = _read_parquet(path, [*text, *numbers]) if form_of(path) in PARQUET else \
        _read_csv(path, text, numbers, pa.from_numpy_dtype(dtype))
    if not arrow.num_rows:
        raise InputError("the table has no rows", file=path, value="0 rows", remedy="export it again")
    values = np.empty((arrow.num_rows, len(numbers)), dtype)
    with np.errstate(over="ignore"):  # too large for the dtype: infinite
        for i, name in enumerate(numbers):
            values[:, i] = _as_numbers(arrow.column(name), path, name)
    return {name: arrow.column(name).to_pandas() for name in text}, values


def to_numbers(column: pd.Series, file: object, field: str) -> np.ndarray:
    """A text column as float64 numbers; missing fields are NaN.

    Raises:
        InputError: where a field is not a number; its row (from 1, the header not counted) and value are named.
    """
    found = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    said = column.astype(str).str.strip().str.lower()
    bad = np.flatnonzero(np.isnan(found) & ~(column.isna() | said.isin(_MISSING)).to_numpy())
    if len(bad):
        raise InputError(f"not a number in row {bad[0] + 1} of column {field}", file=file, field=field,
                         value=column.iloc[bad[0]],
                         remedy="correct it, or leave the field empty where nothing was measured")
    return found


def names(values: Any) -> list[str]:
    """Identifiers as texts: ``773869``, ``773869.0`` and ``" 773869 "`` are the same name."""
    array = values.to_numpy() if isinstance(values, (pd.Series, pd.Index)) else np.asarray(values)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    return [_WHOLE.sub(r"\1", str(value).strip()) for value in array.tolist()]


def check_names(ids: Sequence[str], file: object, field: str) -> None:
    """Refuse names that are empty or given twice.

    Raises:
        InputError: naming the first such name.
    """
    found = pd.Series(list(ids), dtype=object)
    nothing = np.flatnonzero(found.str.lower().isin(_MISSING).to_numpy())
    if len(nothing):
        raise InputError(f"sensor number {nothing[0] + 1} has no name", file=file, field=field,
                         value=repr(found[nothing[0]]), remedy="give each sensor a name of its own")
    twice = found.duplicated()
    if twice.any():
        first = found[twice].iloc[0]
        raise InputError(f"two sensors have one id ({int(twice.sum())} in all)", file=file, field=field, value=first,
                         remedy="give each sensor an id of its own; an array of groups or sites is not one of ids")


def plain_column(column: pa.ChunkedArray, file: object, field: str) -> pa.ChunkedArray:
    """A column each entry of which is one number, text or time; bytes that are UTF-8 become texts.

    Raises:
        InputError: for lists, structs, other bytes and the like; the column and its type are named.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_float16(kind):  # arrow computes little with them
        return column.cast(pa.float32())
    if any(test(kind) for test in _PLAIN):
        return column
    if any(test(kind) for test in _BYTES):
        with contextlib.suppress(pa.ArrowInvalid):
            return column.cast(kind).cast(pa.binary()).cast(pa.string())
    raise InputError(f"the column {field} does not hold one number, text or time in each row", file=file, field=field,
                     value=str(kind), remedy="write it as a column of numbers, times or texts in UTF-8")


def find_column(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of the known names, in their order, that is a column; upper and lower case are the same."""
    lower = {name.strip().lower(): name for name in reversed(columns)}
    return next((lower[name] for name in known if name in lower), None)


# -------------------------------------------------------------------- CSV
def _header(path: Path) -> tuple[list[str], str]:
    """Column names and the separator."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as text: {error}", file=path, remedy="save it as CSV in UTF-8") from error
    separator = max(",;\t", key=first.count)
    return next(csv.reader([first.rstrip("\r\n")], delimiter=separator), []), separator


def _read_csv(path: Path, text: Sequence[str], numbers: Sequence[str], kind: pa.DataType) -> pa.Table:
    separator = separator_of(path)
    parse = arrow_csv.ParseOptions(delimiter=separator)
    read = arrow_csv.ReadOptions(block_size=1 << 24)
    types = dict.fromkeys(text, pa.string()) | dict.fromkeys(numbers, kind)

    def convert(types: dict[str, pa.DataType]) -> arrow_csv.ConvertOptions:
        return arrow_csv.ConvertOptions(column_types=types, include_columns=list(types))

    try:
        return arrow_csv.read_csv(path, read, parse, convert(types))
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        _refuse_ragged(path, separator)
        try:  # the error does not say in which row: read the numbers as text, and look for it
            return arrow_csv.read_csv(path, read, parse, convert(dict.fromkeys(types, pa.string())))
        except (pa.ArrowInvalid, OSError, EOFError):
            raise InputError(f"not readable as CSV: {error}", file=path, remedy="save it as CSV in UTF-8") from error


def _refuse_ragged(path: Path, separator: str) -> None:
    """Raise an error that names the first row with too few or too many fields; return where there is none."""
    found: list[Any] = []

    def remember(row: Any) -> str:
        found.append(row)
        return "skip"

    with contextlib.suppress(pa.ArrowInvalid, OSError, EOFError):  # the caller knows of these
        arrow_csv.read_csv(path, arrow_csv.ReadOptions(block_size=1 << 24, use_threads=False),
                           arrow_csv.ParseOptions(delimiter=separator, invalid_row_handler=remember),
                           arrow_csv.ConvertOptions(include_columns=_header(path)[0][:1]))
    if found:
        row = found[0]
        raise InputError(f"ragged: row {row.number - 1} has {row.actual_columns} fields where the first line has "
                         f"{row.expected_columns}", file=path, field=f"row {row.number - 1}", value=row.text,
                         remedy="give every row the same fields; leave a field empty where nothing was measured")


# -------------------------------------------------------------------- Parquet
def _parquet_file(path: Path) -> Any:
    try:
        return arrow_parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"not readable as Parquet: {error}", file=path, remedy="write it again") from error


def _read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        table = _parquet_file(path).read(list(columns), use_pandas_metadata=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"not readable as Parquet: {error}", file=path, remedy="write it again") from error
    plain = [plain_column(column, path, name) for name, column in zip(table.column_names, table.columns, strict=True)]
    return pa.Table.from_arrays(plain, names=table.column_names)


def _as_numbers(column: pa.ChunkedArray, path: Path, name: str) -> np.ndarray:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy()
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy()
    return to_numbers(column.cast(pa.string()).to_pandas(), path, name)


def _some(values: Sequence[str], limit: int = 12) -> str:
    return ", ".join(values[:limit]) + (f" and {len(values) - limit} more" if len(values) > limit else "")
