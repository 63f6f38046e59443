"""A graph as Arrow tables: what builders of large graphs make and what a bundle holds; torch is not needed.

Numbers are columns of numbers, ``[N, k]`` values fixed-size lists, texts strings, words of a small vocabulary
dictionaries, shapes binary (well-known binary). The ends of edges are the columns ``source_index`` and
``target_index``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.graph.schema import (
    DTYPES,
    GEOMETRY,
    KNOWN,
    Attribute,
    EdgeType,
    GraphType,
    Schema,
    check_name,
    check_unit,
    label,
)
from stgraph.graph.signal import Signal
from stgraph.graph.time import TimeAxis

if TYPE_CHECKING:
    from stgraph.graph.dynamic import DynamicHeteroGraph

SOURCE, TARGET = "source_index", "target_index"
_DTYPES_OF_ARROW = {"halffloat": "float16", "float": "float32", "double": "float64"}


@dataclass
class GraphTables:
    """A heterogeneous graph that lives in time, as Arrow tables.

    Args:
        nodes: One table per node type.
        edges: One table per edge type, with the columns ``source_index`` and ``target_index``.
        metadata: Where the graph comes from, plain values for JSON.
        time: The time axis of the signals; None where there are none.
        signals: Per type, its signals ``[T, N, C]`` by name.
        tables: Loose tables that travel with the graph, in memory or as the path of a Parquet file.
        schema: Units and meanings that were declared; the rest is read off the columns.
    """

    nodes: dict[str, pa.Table] = field(default_factory=dict)
    edges: dict[EdgeType, pa.Table] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    time: TimeAxis | None = None
    signals: dict[GraphType, dict[str, Signal]] = field(default_factory=dict)
    tables: dict[str, pa.Table | Path] = field(default_factory=dict)
    schema: Schema = field(default_factory=Schema)

    def items(self) -> list[tuple[GraphType, pa.Table]]:
        """Every type with its table, node types first."""
        return [*self.nodes.items(), *self.edges.items()]

    def of(self, kind: GraphType) -> pa.Table:
        """The table of a type.

        Raises:
            InputError: where there is no such type.
        """
        found = self.nodes.get(kind) if isinstance(kind, str) else self.edges.get(kind)
        if found is None:
            raise InputError("the graph has no such type", field="type", value=label(kind),
                             remedy=f"choose among {', '.join(label(one) for one, _ in self.items())}")
        return found

    def declare(self, kind: GraphType, attribute: str, unit: str | None = None, description: str = "") -> Attribute:
        """Declare what a column is; its type and shape are read off the column.

        Raises:
            InputError: where there is no such column, or the unit is not SI.
        """
        table = self.of(kind)
        if attribute not in table.column_names:
            raise InputError("the attribute is not set", field=f"{label(kind)}.{attribute}",
                             remedy="add the column, then declare it")
        check_unit(unit)
        found = attribute_of(attribute, table[attribute], "N" if isinstance(kind, str) else "E")
        declared = Attribute(found.dtype, found.shape, unit or found.unit, description or found.description,
                             found.categories)
        self.schema.of(kind)[attribute] = declared
        return declared

    def complete_schema(self) -> Schema:
        """The schema of every column of every type, with what was declared.

        Raises:
            InputError: for a column that a graph cannot hold.
        """
        complete = Schema()
        for kind, table in self.items():
            letter = "N" if isinstance(kind, str) else "E"
            attributes = complete.of(kind)
            if not isinstance(kind, str):
                attributes["edge_index"] = Attribute("int64", (2, "E"), *KNOWN["edge_index"])
            for name in table.column_names:
                if not isinstance(kind, str) and name in (SOURCE, TARGET):
                    continue
                try:
                    found = attribute_of(name, table[name], letter)
                except InputError as error:
                    raise InputError(error.problem, field=f"{label(kind)}.{name}", value=error.value,
                                     remedy=error.remedy) from error
                said = self.schema.of(kind).get(name)
                if said is not None:  # a list of k * l entries may be declared as [N, k, l]
                    same = said.shape[:1] == found.shape[:1] and prod(said.shape[1:]) == prod(found.shape[1:])
                    found = Attribute(found.dtype, said.shape if same else found.shape, said.unit or found.unit,
                                      said.description or found.description, found.categories)
                attributes[name] = found
        return complete

    def validate(self) -> None:
        """Check the ends of edges, ids, places, lives and missing entries.

        Raises:
            InputError: naming the field and the remedy.
        """
        for kind, table in self.nodes.items():
            check_name(kind, "node type")
            self._check_columns(kind, table)
            if "node_id" in table.column_names and not _distinct(table["node_id"]):
                raise InputError("some ids belong to more than one node", field=f"{kind}.node_id",
                                 remedy="give every node its own id")
            if "lonlat" in table.column_names:
                size = np.abs(numbers(table["lonlat"]))
                half = np.isnan(size).any(1) & ~np.isnan(size).all(1)
                wrong = half | (size > (180.0, 90.0)).any(1)
                if wrong.any():
                    raise InputError("coordinates are out of range", field=f"{kind}.lonlat",
                                     value=f"{int(wrong.sum())}, the first at node {int(wrong.argmax())}",
                                     remedy="give degrees, WGS 84, longitude first; NaN twice where unknown")
        for edge_kind, table in self.edges.items():
            self._check_columns(edge_kind, table)
            for end, column in ((edge_kind[0], SOURCE), (edge_kind[2], TARGET)):
                size = len(self.of(end))
                ends = numbers(table[column])
                if len(ends) and (ends.min() < 0 or ends.max() >= size):
                    raise InputError(f"an end of an edge is not a node: '{end}' has {size}",
                                     field=f"{label(edge_kind)}.{column}", value=int(ends.max()),
                                     remedy=f"positions run from 0 to {size - 1}")
        for of, found in self.signals.items():
            for name, signal in found.items():
                if self.time is None or signal.shape[:2] != (self.time.length, len(self.of(of))):
                    raise InputError("the signal has another number of steps or places than the graph",
                                     field=f"{label(of)}.{name}", value=signal.shape,
                                     remedy="give it on the time axis, for every node")

    def _check_columns(self, kind: GraphType, table: pa.Table) -> None:
        for name in table.column_names:
            check_name(name, "attribute")
            if table[name].null_count:
                raise InputError("the column has missing entries", field=f"{label(kind)}.{name}",
                                 value=f"{table[name].null_count} of {len(table)}",
                                 remedy="fill them: NaN for numbers, an empty text for texts")
        if "valid_from" in table.column_names and "valid_to" in table.column_names:
            wrong = numbers(table["valid_from"]) >= numbers(table["valid_to"])
            if wrong.any():
                raise InputError(f"a life ends before it starts, {int(wrong.sum())} in all",
                                 field=f"{label(kind)}.valid_from", value=f"at {int(wrong.argmax())}",
                                 remedy="the interval is [valid_from, valid_to)")

    def graph(self) -> DynamicHeteroGraph:
        """The same graph with tensors, for models."""
        from stgraph.graph.tables import to_graph

        return to_graph(self)

    @classmethod
    def of_graph(cls, graph: DynamicHeteroGraph) -> GraphTables:
        """The same graph without tensors; the schema of the graph is completed."""
        from stgraph.graph.tables import from_graph

        return from_graph(graph)


def _distinct(words: pa.ChunkedArray, block: int = 1 << 14) -> bool:
    """Whether all texts differ. Hashes are compared first, in blocks: a table of the texts takes ten times as much."""
    hashes = np.zeros(len(words), np.uint64)
    powers = np.cumprod(np.full(256, 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)
    for start in range(0, len(words), block):
        part = pa.concat_arrays(words.slice(start, block).chunks).cast(pa.large_string())
        _, ends, data = part.buffers()
        offsets = np.frombuffer(ends, np.int64)[part.offset:part.offset + len(part) + 1]
        size = np.diff(offsets)
        letters = np.frombuffer(data or b"", np.uint8)[offsets[0]:offsets[-1]].astype(np.uint64) + np.uint64(1)
        place = np.arange(len(letters)) - np.repeat(offsets[:-1] - offsets[0], size)
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(letters * powers[place % 256], dtype=np.uint64)])
        hashes[start:start + len(part)] = total[offsets[1:] - offsets[0]] - total[offsets[:-1] - offsets[0]]
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return True
    return int(pc.count_distinct(words).as_py()) == len(words)  # two texts may share a hash


def numbers(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of numbers as ``[N]``, of fixed-size lists as ``[N, k]``; codes of a dictionary column.

    Nothing is copied; pyarrow's own way to numpy imports pandas first.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_dictionary(array.type):
        return numbers(array.indices)
    if pa.types.is_fixed_size_list(array.type):
        return numbers(array.flatten()).reshape(-1, array.type.list_size)
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros(0, _numpy_type(array.type))
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
        return bits[array.offset:array.offset + len(array)].astype(bool)
    return np.frombuffer(buffer, _numpy_type(array.type))[array.offset:array.offset + len(array)]


def _numpy_type(kind: pa.DataType) -> np.dtype[Any]:
    return np.dtype(_DTYPES_OF_ARROW.get(str(kind), str(kind)))


def column(values: np.ndarray | list[str]) -> pa.Array:
    """Numbers ``[N]`` or ``[N, k]``, or texts ``[N]``, as a column; pyarrow's own door imports pandas first.

    Numbers are not copied where they lie in one piece.
    """
    array = np.asarray(values)
    if array.ndim == 2:
        flat = column(np.ascontiguousarray(array).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    if array.dtype.kind in "UO" or not isinstance(values, np.ndarray):
        words = [str(word).encode() for word in values]
        offsets = np.zeros(len(words) + 1, np.int32)
        np.cumsum([len(word) for word in words], out=offsets[1:])
        return pa.Array.from_buffers(pa.string(), len(words),
                                     [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(words))])
    if array.dtype == np.bool_:
        return pa.Array.from_buffers(pa.bool_(), len(array),
                                     [None, pa.py_buffer(np.packbits(array, bitorder="little"))])
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return pa.Array.from_buffers(pa.from_numpy_dtype(plain.dtype), len(plain), [None, pa.py_buffer(plain)])


def categories(codes: np.ndarray, words: list[str]) -> pa.DictionaryArray:
    """Codes ``[N]`` and the words they stand for as a column."""
    return pa.DictionaryArray.from_arrays(column(np.asarray(codes, np.int32)), column(words))


def attribute_of(name: str, column: pa.ChunkedArray, letter: str) -> Attribute:
    """The declaration of a column, read off its type.

    Raises:
        InputError: for a type that a graph does not hold.
    """
    kind = column.type
    shape: tuple[str | int, ...] = (letter,)
    unit, description = KNOWN.get(name, (None, ""))
    if pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type):
        words = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        return Attribute("int32", shape, unit, description, tuple(words))
    if pa.types.is_fixed_size_list(kind):
        shape, kind = (letter, kind.list_size), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Attribute("str", shape, unit, description)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Attribute(GEOMETRY, shape, unit, description)
    dtype = _DTYPES_OF_ARROW.get(str(kind), str(kind))
    if dtype not in DTYPES:
        raise InputError("a graph does not hold this type of column", field="dtype", value=kind,
                         remedy=f"convert it to text or to one of {', '.join(DTYPES)}")
    return Attribute(dtype, shape, unit, description)
