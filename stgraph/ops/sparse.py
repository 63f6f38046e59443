"""Sparse times dense, and dense times dense at the edges: ``spmm`` and ``sddmm``."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.library import Product, below_autograd, ops

_SPMM = ops.spmm.default
_NO_GRAPH = (None, None, None)


@overload
def spmm(rowptr: Adjacency, col: Tensor, x: None = None, weight: Tensor | None = None, reduce: str = "sum",
         addend: Tensor | None = None, *, per: str | None = None, heads: int | None = None) -> Tensor: ...
@overload
def spmm(rowptr: Tensor, col: Tensor, x: Tensor, weight: Tensor | None = None, reduce: str = "sum",
         addend: Tensor | None = None, *, per: str | None = None, heads: int | None = None) -> Tensor: ...
def spmm(rowptr: Adjacency | Tensor, col: Tensor | None = None, x: Tensor | None = None, weight: Tensor | None = None,
         reduce: str = "sum", addend: Tensor | None = None, *, per: str | None = None,
         heads: int | None = None) -> Tensor:
    """Each destination reduces what its sources send: ``out[i] = reduce over e of weight[e] * x[col[e]], + addend[i]``.

    ``spmm(rowptr, col, x, weight=w)`` on bare tensors checks them and, where ``x`` needs a gradient, transposes them on
    every call; ``spmm(adjacency, x, weight=w)`` has that done once. A NaN reaches exactly the out-neighbours of its
    node. An empty row gives 0. 16-bit numbers are summed in 32 bits, edges of a row in their order.

    Args:
        rowptr: ``[N_destination + 1]`` row pointers, int32 or int64; or an :class:`Adjacency`.
        col: ``[E]`` sources of the entries, same type; with an adjacency, ``x`` stands here.
        x: ``[..., N_source, F]`` features with any leading axes; the last two of these are batch and time.
        weight: ``[E]``; ``[E, H]``, one per head of ``F / H`` channels; ``[E, T]`` with ``per='time'``; ``[E, B]`` with
            ``per='batch'``; ``[E, B or 1, T or 1, H or 1]``; in the order of the edges. None: all ones.
        reduce: ``sum``, ``mean`` (over the in-edges, of the weighted messages) or ``max``.
        addend: ``[..., N_destination, F]`` added to the result.
        per: What the second axis of ``weight`` runs over, if not over heads.
        heads: Number of heads, as a check.

    Returns:
        ``[..., N_destination, F]``, in the layout of ``x``.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    if isinstance(rowptr, Adjacency):
        graph = rowptr
        given = col if x is None else x
        bare = False
    else:
        given, bare = x, True
        if not isinstance(x, Tensor) or x.dim() < 2:
            raise InputError("features are [..., N, F]", field="x",
                             value=list(x.shape) if isinstance(x, Tensor) else type(x).__name__,
                             remedy="give rowptr, col and x; or an adjacency and x")
        graph = Adjacency(rowptr, col, columns=x.shape[-2])  # type: ignore[arg-type]
    if given is None:
        raise InputError("features are missing", field="x", remedy="give an adjacency and x")
    dense = shapes.features(given, "x", graph.columns)
    if dense.device != graph.col.device:
        raise InputError("the graph and the features are on different devices", field="x", value=str(dense.device),
                         remedy=f"the graph is on {graph.col.device}")
    batch, time, _, width = dense.shape
    if weight is not None:
        weight = shapes.weights(weight, graph.edges, batch, time, width, per, heads, dense)
        if (bare and dense.device.type == "cpu") or shapes.DEBUGGING:
            shapes.finite(weight, "weight")
    if addend is not None:
        shapes.same(addend, dense, "addend", (*given.shape[:-2], graph.rows, width))
        addend = shapes.four(addend, addend.dim())
    number = shapes.reduction(reduce)
    needs_x = dense.requires_grad and torch.is_grad_enabled()
    inputs = (*graph.parts, weight, dense, addend, number,
              *(graph.transpose.parts if needs_x else _NO_GRAPH))
    if torch.compiler.is_compiling():
        out = _SPMM(*inputs)[0]
    elif needs_x or (torch.is_grad_enabled() and ((weight is not None and weight.requires_grad)
                                                  or (addend is not None and addend.requires_grad))):
        out = Product.apply(*inputs)[0]
    else:
        with below_autograd():  # there is nothing to record
            out = _SPMM(*inputs)[0]
    return shapes.unfold(out, given)


def sddmm(adjacency: Adjacency, a: Tensor, b: Tensor, heads: int = 1) -> Tensor:
    """For every edge the product of the features at its two ends: ``out[e] = a[destination] . b[source]`` per head.

    Args:
        adjacency: The graph.
        a: ``[..., N_destination, F]``.
        b: ``[..., N_source, F]``, leading axes as ``a``.
        heads: Number of groups of channels with a product of their own; it divides F.

    Returns:
        ``[..., E, heads]`` in the order of the edges.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    left = shapes.features(a, "a", adjacency.rows)
    shapes.same(b, a, "b", (*a.shape[:-2], adjacency.columns, a.shape[-1]))
    if heads < 1 or a.shape[-1] % heads:
        raise InputError("heads divide the channels", field="heads", value=heads,
                         remedy=f"there are {a.shape[-1]} channels")
    if left.device != adjacency.col.device:
        raise InputError("the graph and the features are on different devices", field="a", value=str(left.device),
                         remedy=f"the graph is on {adjacency.col.device}")
    right = shapes.four(b, b.dim())
    needs = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    out = ops.sddmm.default(*adjacency.parts, left, right, True, True, heads,
                            *(adjacency.transpose.parts if needs else _NO_GRAPH))
    return shapes.unfold(out.permute(1, 2, 0, 3), a)
