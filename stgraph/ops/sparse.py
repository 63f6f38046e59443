"""Sparse times dense, and dense times dense at the edges: ``spmm`` and ``sddmm``."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import plan, shapes
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.autocast import in_the_widest, mixed
from stgraph.ops.library import Product, below_autograd, ops

_SPMM, _SUM = ops.spmm.default, ops.weighted_sum.default
_NO_GRAPH = (None, None, None)
_FAR = 8 << 20  # bytes of features that do not stay in the caches of a core, so that the order of rows matters


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
    node. An empty row gives 0. 16-bit numbers are summed in 32 bits, the edges of a row always in the
    same order.

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
        graph, given, bare = rowptr, col if x is None else x, False
        if addend is None and per is None and heads is None and reduce != "max" and type(given) is Tensor:
            out = _at_once(graph, given, weight, reduce)
            if out is not None:
                return out
    else:
        given, bare = x, True
        if not isinstance(x, Tensor) or x.dim() < 2:
            raise InputError("features are [..., N, F]", field="x",
                             value=list(x.shape) if isinstance(x, Tensor) else type(x).__name__,
                             remedy="give rowptr, col and x; or an adjacency and x")
        graph = Adjacency(rowptr, col, columns=x.shape[-2])  # type: ignore[arg-type]
    if given is None:
        raise InputError("features are missing", field="x", remedy="give an adjacency and x")
    if mixed(given, weight, addend):
        return in_the_widest(spmm)(graph, given, weight=weight, reduce=reduce, addend=addend, per=per, heads=heads)
    if shapes.DEBUGGING:
        graph.check()
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
    if dense.is_cuda:
        return shapes.unfold(plan.run(graph, dense, weight, addend, number, lasting=not bare), given)
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


def _at_once(graph: Adjacency, x: Tensor, weight: Tensor | None, reduce: str) -> Tensor | None:
    """The most common product on a CPU, with next to nothing done in Python; None: not that, or something is wrong."""
    if not (x.is_cpu and graph.col.is_cpu and 2 <= x.dim() <= 4 and x.size(-2) == graph.columns and x.stride(-1) == 1) \
            or reduce not in ("sum", "mean") or shapes.DEBUGGING or torch.compiler.is_compiling():
        return None
    if weight is not None and (type(weight) is not Tensor or weight.dim() != 1 or not weight.is_cpu
                               or weight.dtype is not x.dtype or weight.size(0) != graph.edges):
        return None
    if torch.is_grad_enabled() and (x.requires_grad or (weight is not None and weight.requires_grad)):
        return Sum.apply(graph, weight, x, reduce) if x.dtype in shapes.FLOATS else None
    try:
        return _sum(graph, x, weight, reduce)
    except RuntimeError:
        return None


def _sum(graph: Adjacency, x: Tensor, weight: Tensor | None, reduce: str) -> Tensor:
    if graph.arranged is not None and x.numel() * x.element_size() > _FAR:
        rowptr, col, edge, order = graph.arranged
        if weight is None or (torch.is_grad_enabled() and weight.requires_grad):
            return _SUM(rowptr, col, edge, weight, x, reduce == "mean", order)
        return _SUM(rowptr, col, None, graph.arranged_weight(weight), x, reduce == "mean", order)
    return _SUM(graph.rowptr, graph.col, graph.edge, weight, x, reduce == "mean", None)


class Sum(torch.autograd.Function):
    """The most common product with its gradient, without the way through the dispatcher's Python."""

    @staticmethod
    def forward(ctx: Any, graph: Adjacency, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
        """Sum or mean."""
        ctx.graph, ctx.reduce = graph, reduce
        ctx.save_for_backward(weight, x if weight is not None and weight.requires_grad else None)
        return _sum(graph, x, weight, reduce)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The transposed product, and products at the edges; may be differentiated again."""
        graph: Adjacency = ctx.graph
        weight, x = ctx.saved_tensors
        if ctx.reduce == "mean":
            grad = grad / graph.rowptr.diff().clamp(min=1).to(grad.dtype)[:, None]
        if all(ctx.needs_input_grad[1:3]) and _at_one_go(grad, x):
            back, far = graph.transpose, x.numel() * x.element_size() > _FAR
            parts = back.arranged if far and back.arranged is not None else (*back.parts, None)
            grad_x, grad_weight = ops.weighted_sum_gradients.default(*parts[:3], weight, x, grad, parts[3])
            return None, grad_weight, grad_x, None
        grad_x = spmm(graph.transpose, grad, weight=weight) if ctx.needs_input_grad[2] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            axes = grad.dim()
            ends = shapes.four(grad, axes), shapes.four(x, axes)
            grad_weight = ops.sddmm.default(*graph.parts, *ends, False, False, 1, *graph.transpose.parts).view(-1)
        return None, grad_weight, grad_x, None


def _at_one_go(grad: Tensor, x: Tensor) -> bool:
    """Whether both gradients can be had together: one kernel reads what two would."""
    return x.shape[-1] % 16 == 0 and x.is_contiguous() and grad.is_contiguous() and not torch.is_grad_enabled()


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
    if not isinstance(adjacency, Adjacency):
        raise InputError("the graph is an adjacency", field="adjacency", value=type(adjacency).__name__,
                         remedy="make one: Adjacency.of_edges(edge_index, sources, destinations)")
    if mixed(a, b):
        return in_the_widest(sddmm)(adjacency, a, b, heads)
    if shapes.DEBUGGING:
        adjacency.check()
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
