"""Tables that pandas wrote to HDF5 in its fixed form, read without unpickling anything.

pandas and PyTables keep some attributes as pickles and load them unasked. Here only the numeric arrays are read:
``axis1`` (row times), ``block0_items`` (column names) and ``block0_values`` (``[T, N]``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from stgraph.errors import InputError

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Table:
    """A table that is still on disk.

    Args:
        columns: Names of the ``N`` columns.
        seconds: Time of each row on the clock of the file, seconds since 1970-01-01, ``[T]`` int64.
        values: The values ``[T, N]``, read when sliced.
    """

    columns: list[str]
    seconds: np.ndarray
    values: h5py.Dataset


@contextlib.contextmanager
def fixed_table(path: Path, key: str = "") -> Iterator[Table]:
    """Open one table.

    Args:
        path: An HDF5 file.
        key: Name of the table; needed only where the file holds several.

    Raises:
        InputError: where the file is not HDF5, or holds no such table, or a table of mixed types.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"not readable as HDF5: {error}", file=path, remedy="get the file again") from error
    with file:
        tables = sorted(name for name, group in file.items() if isinstance(group, h5py.Group) and "axis1" in group)
        if (key and key not in tables) or (not key and len(tables) != 1):
            raise InputError("no such table" if key else "the file does not hold exactly one table", file=path,
                             field="key", value=key or tables, remedy=f"it holds {', '.join(tables) or 'none'}")
        group = file[key or tables[0]]
        if "block0_values" not in group or "block1_values" in group:
            raise InputError("the columns of the table are of several types", file=path, field=key or tables[0],
                             remedy="write the table again with numbers only")
        yield Table(_names(group["block0_items"]), _seconds(group["axis1"], path), group["block0_values"])


def _names(items: h5py.Dataset) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in items[:].tolist()]


def _seconds(axis: h5py.Dataset, path: Path) -> np.ndarray:
    kind = axis.attrs.get("kind", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if not kind.startswith("datetime64"):
        raise InputError("the rows of the table have no times", file=path, field="index", value=kind,
                         remedy="write the table with a time index")
    unit = kind.partition("[")[2].rstrip("]").split(",")[0] or "ns"  # older pandas wrote nanoseconds without saying so
    return np.asarray(axis[:], dtype=np.int64) // _PER_SECOND[unit]
