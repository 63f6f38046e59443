"""Compressed rows of a relation: the form in which sparse products run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stgraph.errors import InputError


@dataclass(frozen=True, eq=False)
class CSR:
    """Compressed sparse rows of one relation.

    Row ``i`` holds entries ``rowptr[i] .. rowptr[i + 1]`` of ``col`` and ``edge_id``, in the order of the edge list.

    Args:
        rowptr: ``[N + 1]`` int64, where each row starts.
        col: ``[E]`` int64, the node at the other end of each entry.
        edge_id: ``[E]`` int64, the position of each entry in the edge list; ``attribute[edge_id]`` is in CSR order.
        columns: How many nodes there are at the other end.

    Raises:
        InputError: where the parts do not fit, or a column is out of range.
    """

    rowptr: Tensor
    col: Tensor
    edge_id: Tensor
    columns: int

    def __post_init__(self) -> None:
        if self.rowptr.dim() != 1 or len(self.rowptr) < 1 or len(self.col) != len(self.edge_id) \
                or int(self.rowptr[0]) != 0 or int(self.rowptr[-1]) != len(self.col):
            raise InputError("row starts, columns and edge positions do not fit", field="rowptr",
                             value=tuple(self.rowptr.shape),
                             remedy="rowptr runs from 0 to the number of edges in N + 1 steps")
        if len(self.col) and not 0 <= int(self.col.min()) <= int(self.col.max()) < self.columns:
            raise InputError("a column is out of range", field="col", value=(int(self.col.min()), int(self.col.max())),
                             remedy=f"columns run from 0 to {self.columns - 1}")

    @property
    def rows(self) -> int:
        """Number of rows ``N``."""
        return len(self.rowptr) - 1

    @property
    def degree(self) -> Tensor:
        """Entries per row, ``[N]`` int64."""
        return self.rowptr.diff()


def build_csr(row: Tensor, col: Tensor, rows: int, columns: int) -> CSR:
    """Sort an edge list by row; edges of one row keep their order.

    Args:
        row: ``[E]`` int64.
        col: ``[E]`` int64.
        rows: Number of nodes on the row side.
        columns: Number of nodes on the column side.

    Raises:
        InputError: where a row or column is out of range.
    """
    if len(row) and not 0 <= int(row.min()) <= int(row.max()) < rows:
        raise InputError("a row is out of range", field="edge_index", value=(int(row.min()), int(row.max())),
                         remedy=f"rows run from 0 to {rows - 1}")
    edge_id = torch.argsort(row, stable=True)
    rowptr = torch.zeros(rows + 1, dtype=torch.int64, device=row.device)
    rowptr[1:] = torch.bincount(row, minlength=rows).cumsum(0)
    return CSR(rowptr, col[edge_id], edge_id, columns)
