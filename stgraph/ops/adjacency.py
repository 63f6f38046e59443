"""A relation as the kernels want it: compressed rows, their transpose, and checks made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph


class Adjacency:
    """In-edges of each destination as compressed rows; validated when made, the transpose is kept once it is asked for.

    Entry ``e`` of row ``i`` says that node ``col[e]`` sends to node ``i``. Weights are given per edge, in the order of
    the edge list; ``edge[e]`` is the position of entry ``e`` there.

    Args:
        rowptr: ``[N_destination + 1]`` int32 or int64.
        col: ``[E]`` of the same type.
        edge: ``[E]`` of the same type; None: entries stand in the order of the edges.
        columns: Number of source nodes.

    Raises:
        InputError: naming the argument, for types, sizes, row pointers that fall, or columns out of range.
    """

    def __init__(self, rowptr: Tensor, col: Tensor, edge: Tensor | None = None, *, columns: int) -> None:
        self.columns = int(columns)
        check_index(col, col, "col")
        check_rows(rowptr, col.shape[0])
        check_index(rowptr, col, "rowptr")
        if edge is not None:
            check_index(edge, col, "edge")
            if edge.shape[0] != col.shape[0]:
                raise InputError("there is one edge position per entry", field="edge", value=len(edge),
                                 remedy=f"give {len(col)}")
            shapes.indices(edge, "edge", edge.shape[0], col)
            if not torch.compiler.is_compiling() and (edge.device.type == "cpu" or shapes.DEBUGGING) \
                    and bool((torch.bincount(edge, minlength=edge.shape[0]) != 1).any()):
                raise InputError("every edge has one entry", field="edge",
                                 value=f"position {int((torch.bincount(edge) != 1).nonzero()[0])}",
                                 remedy="give each position once")
        shapes.indices(col, "col", self.columns, col)
        self.rowptr, self.col = rowptr.contiguous(), col.contiguous()
        self.edge = None if edge is None else edge.contiguous()
        self._row: Tensor | None = None
        self._transpose: Adjacency | None = None

    @classmethod
    def of_edges(cls, edge_index: Tensor, sources: int, destinations: int) -> Adjacency:
        """From an edge list ``[2, E]`` of sources and destinations; edges of one destination keep their order.

        Indices become int32 where they fit, which halves what the kernels read of them.
        """
        if edge_index.dim() != 2 or edge_index.shape[0] != 2:
            raise InputError("an edge index is [2, E]", field="edge_index", value=tuple(edge_index.shape),
                             remedy="give sources in its first and destinations in its second row")
        source, destination = edge_index
        shapes.indices(source, "edge_index", sources, edge_index)
        shapes.indices(destination, "edge_index", destinations, edge_index)
        placed, order = torch.sort(destination, stable=True)
        rowptr = row_pointer(placed, destinations)
        dtype = index_type(order.shape[0], sources, destinations)
        return cls._checked(rowptr.to(dtype), source[order].to(dtype), order.to(dtype), int(sources))

    @classmethod
    def of(cls, graph: DynamicHeteroGraph, relation: tuple[str, str, str]) -> Adjacency:
        """The relation of a graph."""
        return cls.of_edges(graph[relation].edge_index, graph.size_of(relation[0]), graph.size_of(relation[2]))

    @property
    def rows(self) -> int:
        """Number of destination nodes."""
        return self.rowptr.shape[0] - 1

    @property
    def edges(self) -> int:
        """Number of edges."""
        return self.col.shape[0]

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Row pointers, columns, and edge positions, as the operators take them."""
        return self.rowptr, self.col, self.edge

    @property
    def row(self) -> Tensor:
        """Destination of each entry, ``[E]``."""
        if self._row is None:
            self._row = entry_rows(self.rowptr, self.col.shape[0])
        return self._row

    @property
    def transpose(self) -> Adjacency:
        """The same edges as rows of the sources, each in the order of its destinations."""
        if self._transpose is None:
            rowptr, col, edge = transpose_rows(self.rowptr, self.col, self.edge, self.columns)
            self._transpose = Adjacency._checked(rowptr, col, edge, self.rows)
            self._transpose._transpose = self
        return self._transpose

    @classmethod
    def _checked(cls, rowptr: Tensor, col: Tensor, edge: Tensor | None, columns: int) -> Adjacency:
        """From parts that are known to fit."""
        out = object.__new__(cls)
        out.rowptr, out.col, out.edge, out.columns, out._row, out._transpose = rowptr, col, edge, columns, None, None
        return out

    def to(self, device: torch.device | str) -> Adjacency:
        """On another device."""
        edge = None if self.edge is None else self.edge.to(device)
        return Adjacency._checked(self.rowptr.to(device), self.col.to(device), edge, self.columns)

    def __repr__(self) -> str:
        return f"Adjacency({self.columns} -> {self.rows}, {self.edges} edges, {self.col.dtype})"


def check_rows(rowptr: Tensor, entries: int, name: str = "rowptr") -> None:
    """Refuse what are no row pointers of so many entries; values are looked at on the CPU, elsewhere when debugging.

    Raises:
        InputError: naming the argument.
    """
    check_index(rowptr, rowptr, name)
    if rowptr.shape[0] < 1:
        raise InputError("row pointers have one entry more than there are rows", field=name, value=0,
                         remedy="give at least [0]")
    if torch.compiler.is_compiling() or not (rowptr.device.type == "cpu" or shapes.DEBUGGING):
        return
    if int(rowptr[0]) != 0 or int(rowptr[-1]) != entries:
        raise InputError("row pointers run from 0 to the number of entries", field=name,
                         value=f"{int(rowptr[0])} .. {int(rowptr[-1])}", remedy=f"there are {entries} entries")
    if bool((rowptr[1:] < rowptr[:-1]).any()):
        raise InputError("row pointers never fall", field=name, value=f"at row {int((rowptr.diff() < 0).nonzero()[0])}",
                         remedy="sort the entries by row and count them")


def check_index(value: Tensor, like: Tensor, name: str) -> None:
    """Refuse what is no contiguous axis of int32 or int64, of the type and on the device of ``like``.

    Raises:
        InputError: naming the argument.
    """
    if not isinstance(value, Tensor) or value.dtype not in (torch.int32, torch.int64) or value.dim() != 1 \
            or value.dtype != like.dtype or value.device != like.device:
        found = f"{value.dtype} {list(value.shape)} on {value.device}" if isinstance(value, Tensor) \
            else type(value).__name__
        raise InputError("indices are tensors of one axis on one device, all int32 or all int64", field=name,
                         value=found, remedy="convert them with .int() or .long(), move them with .to(device)")


def index_type(*sizes: int) -> torch.dtype:
    """int32 where all sizes fit, else int64."""
    return torch.int32 if max(sizes, default=0) < 2**31 - 1 else torch.int64


def row_pointer(placed: Tensor, rows: int) -> Tensor:
    """Where each row starts, ``[rows + 1]`` int64, from the rows of the entries in rising order."""
    return torch.searchsorted(placed, torch.arange(rows + 1, dtype=placed.dtype, device=placed.device))


def entry_rows(rowptr: Tensor, entries: int) -> Tensor:
    """The row of each entry, ``[E]``."""
    rows = torch.arange(len(rowptr) - 1, dtype=rowptr.dtype, device=rowptr.device)
    return torch.repeat_interleave(rows, rowptr.diff(), output_size=entries)


def transpose_rows(rowptr: Tensor, col: Tensor, edge: Tensor | None, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row pointers, columns and edge positions of the transposed graph, each row in the order of destinations."""
    placed, order = torch.sort(col, stable=True)
    row = entry_rows(rowptr, col.shape[0])
    return (row_pointer(placed, columns).to(col.dtype), row[order],
            order.to(col.dtype) if edge is None else edge[order])
