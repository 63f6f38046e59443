"""Node and edge tables of a bundle: Parquet, GeoParquet where there are shapes or places; and the way to tensors.

A node type without shapes but with places has a ``geometry`` column of points (WKB, GeoParquet 1.1) beside ``lonlat``,
for other tools; it is not read back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stgraph.errors import BundleError, InputError
from stgraph.graph.geometry import Geometry
from stgraph.graph.plain import SOURCE, TARGET, GraphTables, numbers
from stgraph.graph.plain import column as column_of
from stgraph.graph.schema import GEOMETRY, Attribute, GraphType, label, torch_dtype

if TYPE_CHECKING:
    from stgraph.graph.dynamic import DynamicHeteroGraph

ROWS = 1 << 15
"""Rows that are encoded at a time, which bounds what writing a table holds in memory."""


# ---------------------------------------------------------------- on disk
def write_table(path: Path, table: pa.Table, declared: Mapping[str, Attribute]) -> None:
    """Write the table of one type.

    Args:
        path: File to write.
        table: Its columns.
        declared: What the schema says of them.
    """
    metadata: dict[str, str] = {}
    if GEOMETRY in table.column_names:
        # "crs": null says a plane without a reference; nothing said means longitude and latitude
        plane = {"crs": None} if declared[GEOMETRY].unit == "m" else {}
        kinds = sorted(Geometry(table[GEOMETRY]).kinds())
        metadata["geo"] = _described({"encoding": "WKB", "geometry_types": kinds, **plane})
    elif "lonlat" in table.column_names:
        column, metadata["geo"] = _points(numbers(table["lonlat"]))
        table = table.append_column(GEOMETRY, column)
    texts = [name for name in table.column_names if _is_text(table[name].type)]
    # a dictionary of floats would merge the bit patterns of NaN; texts gain from one
    pq.write_table(table.replace_schema_metadata(metadata or None), path, use_dictionary=texts, compression="zstd",
                   row_group_size=ROWS)


def read_table(path: Path, declared: Mapping[str, Attribute], size: int) -> pa.Table:
    """Read what :func:`write_table` wrote.

    Args:
        path: The file.
        declared: What the schema says of every attribute.
        size: Number of nodes or edges.

    Returns:
        The columns, bit for bit what was written.

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
    found: dict[str, pa.Array] = {}
    for name, attribute in declared.items():
        for column in (SOURCE, TARGET) if name == "edge_index" else (name,):
            if column not in table.column_names:
                raise BundleError("the table has no such column", file=path, field=column,
                                  remedy="make the bundle again")
            kind = Attribute("int64", ("E",)) if name == "edge_index" else attribute
            found[column] = _checked(table[column], kind, size, path, column)
    return pa.table(found)


def _checked(column: pa.ChunkedArray, attribute: Attribute, size: int, path: Path, name: str) -> pa.Array:
    shape = tuple(int(one) for one in attribute.shape[1:])
    expected = _arrow_type(attribute)
    given = column.type
    if pa.types.is_dictionary(given):
        given = given.value_type
    if attribute.dtype == GEOMETRY and pa.types.is_binary(given):
        given = pa.large_binary()
    same = given.equals(expected) or (shape and pa.types.is_fixed_size_list(given) and
                                      given.list_size == prod(shape) and given.value_type.equals(expected.value_type))
    if not same or column.null_count:
        raise BundleError("the column is not what graph.json says", file=path, field=name, value=column.type,
                          remedy=f"make the bundle again: {attribute.dtype} {list(attribute.shape)} is due")
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if shape:
        entries = array.flatten()
        if len(entries) != size * prod(shape) or entries.null_count:
            raise BundleError("the column has missing entries", file=path, field=name, remedy="make the bundle again")
        return pa.FixedSizeListArray.from_arrays(entries, prod(shape))  # Parquet gives the entries another name
    if attribute.categories is None:
        return array if not pa.types.is_dictionary(array.type) else array.dictionary_decode()
    words = column_of(list(attribute.categories))
    if pa.types.is_dictionary(array.type):
        codes = pc.take(pc.index_in(array.dictionary.cast(pa.string()), words), array.indices)
    else:
        codes = pc.index_in(array, words)
    if codes.null_count:
        raise BundleError("a word of the column is not one that graph.json lists", file=path, field=name,
                          remedy="make the bundle again")
    return pa.DictionaryArray.from_arrays(codes.cast(pa.int32()), words)


def _arrow_type(attribute: Attribute) -> pa.DataType:
    shape = tuple(int(one) for one in attribute.shape[1:])
    if attribute.dtype == GEOMETRY:
        return pa.large_binary()
    text = attribute.dtype == "str" or attribute.categories is not None
    flat = pa.string() if text else pa.from_numpy_dtype(np.dtype(attribute.dtype))
    return pa.list_(flat, prod(shape)) if shape else flat


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_dictionary(kind)


def _points(lonlat: np.ndarray) -> tuple[pa.Array, str]:
    known = np.isfinite(lonlat).all(1)
    points = Geometry.from_points(lonlat).wkb.cast(pa.binary())
    if not known.all():
        points = pc.if_else(column_of(known), points, pa.scalar(None, pa.binary()))
    described: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Point"]}  # no "crs": longitude, latitude
    if known.any():
        described["bbox"] = [*lonlat[known].min(0).tolist(), *lonlat[known].max(0).tolist()]
    return points, _described(described)


def _described(column: dict[str, Any]) -> str:
    return json.dumps({"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}})


# ---------------------------------------------------------------- tensors
def from_graph(graph: DynamicHeteroGraph) -> GraphTables:
    """The tables of a graph, whose schema is completed.

    Raises:
        InputError: as :func:`to_table`.
    """
    schema = graph.complete_schema()
    out = GraphTables(metadata=dict(graph.metadata), time=graph.time, tables=dict(graph.tables), schema=schema.copy(),
                      signals={kind: dict(found) for kind, found in graph._signals.items() if found})
    for kind in (*graph.node_types, *graph.edge_types):
        attributes = {name: value for name, value in graph._store(kind).items() if name != "num_nodes"}
        table = to_table(kind, attributes, schema.of(kind))
        if isinstance(kind, str):
            out.nodes[kind] = table
        else:
            out.edges[kind] = table
    return out


def to_table(kind: GraphType, attributes: Mapping[str, Any], declared: Mapping[str, Attribute]) -> pa.Table:
    """The attributes of one type as columns.

    Raises:
        InputError: for an attribute whose name is that of a column with a meaning of its own, or a code without a
            word.
    """
    columns: dict[str, pa.Array] = {}
    for name, value in attributes.items():
        if name in (SOURCE, TARGET):
            raise InputError("the name is taken by a column of the bundle", field=f"{label(kind)}.{name}",
                             remedy="rename the attribute")
        if name == "edge_index":
            columns[SOURCE], columns[TARGET] = (pa.array(side.numpy()) for side in value.cpu())
        else:
            columns[name] = _to_arrow(value, declared[name], f"{label(kind)}.{name}")
    return pa.table(columns)


def _to_arrow(value: Any, attribute: Attribute, field: str) -> pa.Array:
    if isinstance(value, Geometry):
        return value.wkb
    if attribute.dtype == GEOMETRY or field.endswith(f".{GEOMETRY}"):
        raise InputError("shapes are kept as stgraph.graph.Geometry", field=field, value=type(value).__name__,
                         remedy="use Geometry.from_shapely(shapes), or rename the attribute")
    shape = tuple(value.shape[1:])
    if isinstance(value, np.ndarray):
        flat = pa.array(value.reshape(-1).tolist(), pa.string())
    else:
        flat = pa.array(value.detach().cpu().contiguous().numpy().reshape(-1))
    if attribute.categories is not None:
        words = column_of(list(attribute.categories))
        if len(flat) and not 0 <= pc.min(flat).as_py() <= pc.max(flat).as_py() < len(words):
            raise InputError("a code stands for no word", field=field, value=pc.max(flat).as_py(),
                             remedy=f"codes run from 0 to {len(words) - 1}")
        return pa.DictionaryArray.from_arrays(flat.cast(pa.int32()), words)
    return pa.FixedSizeListArray.from_arrays(flat, prod(shape)) if shape else flat


def to_graph(tables: GraphTables, sizes: Mapping[GraphType, int] | None = None) -> DynamicHeteroGraph:
    """The graph of tables.

    Args:
        tables: The tables.
        sizes: Number of nodes of types whose table has no column.
    """
    from stgraph.graph.dynamic import DynamicHeteroGraph

    graph = DynamicHeteroGraph(metadata=tables.metadata, time=tables.time)
    graph.schema = tables.complete_schema()
    graph.tables = dict(tables.tables)
    for kind, table in tables.items():
        store = graph.get_node_store(kind) if isinstance(kind, str) else graph.get_edge_store(*kind)
        for name, attribute in graph.schema.of(kind).items():
            store[name] = _edge_index(table) if name == "edge_index" else _to_tensor(table[name], attribute)
        if isinstance(kind, str) and not store.can_infer_num_nodes:
            store.num_nodes = (sizes or {}).get(kind, len(table))
    for of, found in tables.signals.items():
        for name, signal in found.items():
            graph.add_signal(of, name, signal)
    return graph


def _edge_index(table: pa.Table) -> Any:
    import torch

    return torch.from_numpy(np.stack([numbers(table[SOURCE]), numbers(table[TARGET])]))


def _to_tensor(column: pa.ChunkedArray, attribute: Attribute) -> Any:
    import torch

    shape = tuple(int(one) for one in attribute.shape[1:])
    size = len(column)
    if attribute.dtype == GEOMETRY:
        return Geometry(column)
    if attribute.dtype == "str":
        array = column.combine_chunks()
        array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
        return np.array((array.flatten() if shape else array).to_pylist(), dtype=str).reshape(size, *shape)
    values = numbers(column).reshape(size, *shape)
    return torch.from_numpy(np.array(values, dtype=np.dtype(attribute.dtype))).to(torch_dtype(attribute.dtype))


