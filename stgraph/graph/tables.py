"""Node and edge tables of a bundle: Parquet, and GeoParquet where nodes have places.

Texts are string columns; ``[N]`` tensors are columns of their type, ``[N, k, ...]`` tensors fixed-size lists of
``k * ...`` entries. A ``geometry`` column (WKB points, GeoParquet 1.1, longitude and latitude) is written beside
``lonlat`` for other tools and is not read back. The ends of edges are the columns ``source_index`` and
``target_index``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import torch
from torch import Tensor

from stgraph.errors import BundleError, InputError
from stgraph.graph.schema import DTYPES, Attribute

GEOMETRY, SOURCE, TARGET = "geometry", "source_index", "target_index"


def write_table(path: Path, attributes: Mapping[str, Any]) -> None:
    """Write the attributes of one type.

    Args:
        path: File to write.
        attributes: Values by name, as :meth:`DynamicHeteroGraph.validate` accepts them.

    Raises:
        InputError: for an attribute whose name is that of a column with a meaning of its own.
    """
    columns: dict[str, pa.Array] = {}
    metadata: dict[str, str] = {}
    for name, value in attributes.items():
        if name in (GEOMETRY, SOURCE, TARGET):
            raise InputError("the name is taken by a column of the bundle", field=name, remedy="rename the attribute")
        if name == "edge_index":
            columns[SOURCE], columns[TARGET] = (pa.array(side.numpy()) for side in value.cpu())
        else:
            columns[name] = _to_arrow(value)
    if "lonlat" in attributes and isinstance(attributes["lonlat"], Tensor):
        columns[GEOMETRY], metadata["geo"] = _geometry(attributes["lonlat"].cpu().numpy())
    texts = [name for name, column in columns.items() if pa.types.is_string(column.type)]
    # a dictionary of floats would merge the bit patterns of NaN; texts gain from one
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata or None), path, use_dictionary=texts,
                   compression="zstd")


def read_table(path: Path, declared: Mapping[str, Attribute], size: int) -> dict[str, Any]:
    """Read what :func:`write_table` wrote.

    Args:
        path: The file.
        declared: What the schema says of every attribute.
        size: Number of nodes or edges.

    Returns:
        Values by name, bit for bit what was written.

    Raises:
        BundleError: for a file that is not Parquet, or does not hold what the schema says.
    """
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise BundleError(f"not readable as Parquet: {error}", file=path, remedy="make the bundle again") from error
    if table.num_columns and table.num_rows != size:
        raise BundleError("the table has another number of rows than graph.json says", file=path, value=table.num_rows,
                          remedy=f"make the bundle again: {size} rows are due")
    ends = {SOURCE, TARGET} if "edge_index" in declared else set()
    if extra := set(table.column_names) - set(declared) - ends - {GEOMETRY}:
        raise BundleError("the table has a column that graph.json does not declare", file=path, field=min(extra),
                          remedy="make the bundle again")
    found: dict[str, Any] = {}
    for name, attribute in declared.items():
        wanted = [SOURCE, TARGET] if name == "edge_index" else [name]
        for column in wanted:
            if column not in table.column_names:
                raise BundleError("the table has no such column", file=path, field=column,
                                  remedy="make the bundle again")
        if name == "edge_index":
            side = Attribute("int64", ("E",))
            found[name] = torch.stack([_from_arrow(table[column], side, size, path, column) for column in wanted])
        else:
            found[name] = _from_arrow(table[name], attribute, size, path, name)
    return found


def _to_arrow(value: Any) -> pa.Array:
    if isinstance(value, np.ndarray):
        return _list_of(pa.array(value.reshape(-1).tolist(), pa.string()), value.shape[1:])
    flat = value.detach().cpu().contiguous().numpy().reshape(-1)
    return _list_of(pa.array(flat), tuple(value.shape[1:]))


def _list_of(flat: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(flat, prod(shape)) if shape else flat


def _from_arrow(column: pa.ChunkedArray, attribute: Attribute, size: int, path: Path, name: str) -> Any:
    shape = tuple(int(one) for one in attribute.shape[1:])
    flat = pa.string() if attribute.dtype == "str" else pa.from_numpy_dtype(np.dtype(attribute.dtype))
    expected = pa.list_(flat, prod(shape)) if shape else flat
    same = column.type.equals(expected) or (shape and pa.types.is_fixed_size_list(column.type)
                                            and column.type.list_size == prod(shape)
                                            and column.type.value_type.equals(flat))
    if not same or column.null_count:
        raise BundleError("the column is not what graph.json says", file=path, field=name, value=column.type,
                          remedy=f"make the bundle again: {attribute.dtype} {list(attribute.shape)} is due")
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    entries = array.flatten() if shape else array
    if len(entries) != size * prod(shape) or entries.null_count:
        raise BundleError("the column has missing entries", file=path, field=name, remedy="make the bundle again")
    if attribute.dtype == "str":
        return np.array(entries.to_pylist(), dtype=str).reshape(size, *shape)
    values = entries.to_numpy(zero_copy_only=False).reshape(size, *shape)
    return torch.from_numpy(np.array(values, dtype=np.dtype(attribute.dtype))).to(DTYPES[attribute.dtype])


def _geometry(lonlat: np.ndarray) -> tuple[pa.Array, str]:
    known = np.isfinite(lonlat).all(1)
    points = shapely.to_wkb(shapely.points(lonlat[known]), byte_order=1)
    column = np.full(len(lonlat), None, dtype=object)
    column[known] = points
    described: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Point"]}  # no "crs": longitude, latitude
    if known.any():
        described["bbox"] = [*lonlat[known].min(0).tolist(), *lonlat[known].max(0).tolist()]
    return pa.array(column, pa.binary()), json.dumps(
        {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: described}})
