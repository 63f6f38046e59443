"""A relation as the kernels want it: compressed rows, their transpose, and checks made once."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph
    from stgraph.ops.block_dense import BlockPlan


_LARGE = 1 << 14
"""From so many rows on their order matters: the features of fewer stay in the caches."""
_BLOCK = 2048
"""Rows that follow each other and should share their sources: those of so many stay in the cache."""


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

    blocks: BlockPlan | None = None
    """What :meth:`halo_plan` found."""
    arranged: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    """Row pointers, columns and edge positions in the order that :meth:`arrange` found, and that order ``[N]``."""
    _weight: tuple[weakref.ref[Tensor], int, Tensor] | None = None

    def __init__(self, rowptr: Tensor, col: Tensor, edge: Tensor | None = None, *, columns: int) -> None:
        self.columns = _size(columns, "columns")
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
        if not isinstance(edge_index, Tensor) or edge_index.dim() != 2 or edge_index.shape[0] != 2:
            raise InputError("an edge index is [2, E]", field="edge_index",
                             value=list(edge_index.shape) if isinstance(edge_index, Tensor)
                             else type(edge_index).__name__,
                             remedy="give sources in its first and destinations in its second row")
        sources, destinations = _size(sources, "sources"), _size(destinations, "destinations")
        source, destination = edge_index
        shapes.indices(source, "edge_index", sources, edge_index)
        shapes.indices(destination, "edge_index", destinations, edge_index)
        placed, order = torch.sort(destination, stable=True)
        rowptr = row_pointer(placed, destinations)
        dtype = index_type(order.shape[0], sources, destinations)
        return cls._checked(rowptr.to(dtype), source[order].to(dtype), order.to(dtype), sources)

    @classmethod
    def of(cls, graph: DynamicHeteroGraph, relation: tuple[str, str, str]) -> Adjacency:
        """The relation of a graph; a large one is arranged."""
        out = cls.of_edges(graph[relation].edge_index, graph.size_of(relation[0]), graph.size_of(relation[2]))
        return out.arrange() if out.rows >= _LARGE else out

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
            if self.arranged is not None:
                self._transpose.arranged = arranged_rows(self._transpose, self.arranged[3])
        return self._transpose

    def halo_plan(self, rows_per_block: int = 128) -> BlockPlan:
        """Blocks of consecutive rows and the distinct sources of each, kept once they are found.

        Good where neighbours stand together (``graph.reorder('hilbert')``): see its ``reuse``.
        """
        if self.blocks is None or self.blocks.row_block != rows_per_block:
            from stgraph.ops.block_dense import plan

            self.blocks = plan(self, rows_per_block)
        return self.blocks

    def arrange(self) -> Adjacency:
        """Go through the rows in an order in which neighbours follow each other, where that helps a CPU's caches.

        Nodes keep their numbers and results their places; every row is summed as before. The order is that of Cuthill
        and McKee, reversed (1969; George 1971), of the graph without directions: about 0.3 s for a million edges.

        Returns:
            This adjacency.
        """
        if self.arranged is None and self.rows == self.columns and self.col.is_cpu and self.edges:
            order = neighbour_order(self.rowptr, self.col)
            if order is not None:
                self.arranged = arranged_rows(self, order)
                if self._transpose is not None:
                    self._transpose.arranged = arranged_rows(self._transpose, order)
        return self

    def arranged_weight(self, weight: Tensor) -> Tensor:
        """Weights ``[E]`` in the order of :attr:`arranged`; those of the last call are kept until they are edited."""
        assert self.arranged is not None, "the adjacency was not arranged"
        if self._weight is not None and not weight.is_inference():
            given, version, found = self._weight
            if given() is weight and version == weight._version:
                return found
        found = weight.detach().index_select(0, self.arranged[2])
        if not weight.is_inference():  # which has no version
            self._weight = weakref.ref(weight), weight._version, found
        return found

    @classmethod
    def _checked(cls, rowptr: Tensor, col: Tensor, edge: Tensor | None, columns: int) -> Adjacency:
        """From parts that are known to fit."""
        out = object.__new__(cls)
        out.rowptr, out.col, out.edge, out.columns, out._row, out._transpose = rowptr, col, edge, columns, None, None
        return out

    def check(self) -> None:
        """Look at all row pointers, columns and edge positions again, as operators do under ``STGRAPH_DEBUG=1``.

        Raises:
            InputError: naming the argument, where they were edited since and do not fit any more.
        """
        check_rows(self.rowptr, self.col.shape[0])
        shapes.indices(self.col, "col", self.columns, self.col)
        if self.edge is not None:
            shapes.indices(self.edge, "edge", self.col.shape[0], self.col)

    def to(self, device: torch.device | str) -> Adjacency:
        """On another device."""
        edge = None if self.edge is None else self.edge.to(device)
        return Adjacency._checked(self.rowptr.to(device), self.col.to(device), edge, self.columns)

    def __repr__(self) -> str:
        return f"Adjacency({self.columns} -> {self.rows}, {self.edges} edges, {self.col.dtype})"


def neighbour_order(rowptr: Tensor, col: Tensor) -> Tensor | None:
    """An order ``[N]`` of the rows of a square matrix with neighbours side by side; None where theirs is as good."""
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    pointer, source = rowptr.numpy(), col.numpy()
    rows = len(pointer) - 1
    both = csr_array((np.ones(len(source), np.int8), source, pointer), shape=(rows, rows))
    order = reverse_cuthill_mckee((both + both.T).tocsr(), symmetric_mode=True)
    row = np.repeat(np.arange(rows), np.diff(pointer))
    rank = np.empty(rows, np.int64)
    rank[order] = np.arange(rows)

    def read(place: np.ndarray) -> int:  # distinct sources of all blocks of rows
        return len(np.unique((place // _BLOCK) * rows + source))

    return torch.from_numpy(order.copy()).to(col.dtype) if read(rank[row]) < 0.9 * read(row) else None


def arranged_rows(graph: Adjacency, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row pointers, columns and edge positions of the rows in another order, and the order."""
    place = order.long()
    count = graph.rowptr.diff()[place]
    rowptr = torch.cat([graph.rowptr[:1], count.cumsum(0)]).to(graph.col.dtype)
    entry = torch.repeat_interleave(graph.rowptr[place] - rowptr[:-1], count.long()) + torch.arange(graph.edges)
    edge = entry if graph.edge is None else graph.edge[entry]
    return rowptr, graph.col[entry], edge.to(graph.col.dtype), order


def _size(value: int, name: str) -> int:
    """A number of nodes.

    Raises:
        InputError: where it is negative.
    """
    if value < 0:
        raise InputError("a number of nodes is not negative", field=name, value=value, remedy="give 0 or more")
    return int(value)


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
        others = f", as the others, which are {like.dtype} on {like.device}" if isinstance(like, Tensor) else ""
        raise InputError("indices are tensors of one axis on one device, all int32 or all int64", field=name,
                         value=found, remedy=f"convert with .int() or .long(), move with .to(device){others}")


def index_type(*sizes: int) -> torch.dtype:
    """int32 where all sizes fit, else int64."""
    return torch.int32 if max(0, *sizes) < 2**31 - 1 else torch.int64


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
