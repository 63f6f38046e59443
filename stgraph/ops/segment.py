"""Rows in a row: reduce consecutive ones, gather single ones."""

from __future__ import annotations

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes
from stgraph.ops.adjacency import check_rows, row_pointer
from stgraph.ops.library import ops


def segment_reduce(ptr: Tensor, src: Tensor, reduce: str = "sum") -> Tensor:
    """Reduce consecutive rows: segment ``s`` are rows ``ptr[s]`` to ``ptr[s + 1]`` of ``src``.

    Args:
        ptr: ``[S + 1]`` int32 or int64, from 0 to M, never falling.
        src: ``[..., M, F]``.
        reduce: ``sum``, ``mean`` or ``max``; an empty segment gives 0.

    Returns:
        ``[..., S, F]``.

    Raises:
        InputError: naming the argument.
    """
    dense = shapes.features(src, "src")
    if not isinstance(ptr, Tensor) or ptr.device != dense.device:
        raise InputError("the segments and the features are on different devices", field="ptr",
                         value=str(getattr(ptr, "device", type(ptr).__name__)),
                         remedy=f"the features are on {dense.device}")
    check_rows(ptr, dense.shape[2], name="ptr")
    return shapes.unfold(ops.segment_reduce.default(ptr, dense, shapes.reduction(reduce))[0], src)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``x`` by their positions, any of them any number of times; the gradient adds up in order.

    Args:
        x: ``[..., N, F]``.
        index: ``[M]`` int32 or int64.

    Returns:
        ``[..., M, F]``.

    Raises:
        InputError: naming the argument.
    """
    dense = shapes.features(x, "x")
    nodes = dense.shape[2]
    shapes.indices(index, "index", nodes, dense)
    rowptr = order = None
    if torch.is_grad_enabled() and dense.requires_grad:
        placed, order = torch.sort(index, stable=True)
        rowptr, order = row_pointer(placed, nodes).to(index.dtype), order.to(index.dtype)
    return shapes.unfold(ops.gather_rows.default(dense, index.contiguous(), rowptr, order), x)
