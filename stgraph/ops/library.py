"""The operators ``torch.ops.stgraph.*``: their schemas, fakes and gradients, written once for every backend.

Features are ``x [B, T, N, F]`` with a contiguous last axis; weights ``[E, B or 1, T or 1, H or 1]``, one number per
edge, batch entry, step and head, whose axes of size 1 are shared. The last three arguments of an operator are the
transposed graph, which only its gradient reads. Every row is summed in a fixed order, nothing with atomics, so
results do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stgraph.ops import torch_backend
from stgraph.ops.adjacency import entry_rows
from stgraph.ops.loader import backend
from stgraph.ops.names import NAMESPACE, REDUCTIONS

_GRAPH = "Tensor rowptr, Tensor col, Tensor? edge"
_BACK = "Tensor? rowptr_t, Tensor? col_t, Tensor? edge_t"
SCHEMAS = {
    "spmm": f"({_GRAPH}, Tensor? weight, Tensor x, Tensor? addend, int reduce, {_BACK}) -> (Tensor, Tensor)",
    # spmm without gradient, for features of two to four axes and weights [E]; the result of row r goes to order[r]
    "weighted_sum": f"({_GRAPH}, Tensor? weight, Tensor x, bool mean, Tensor? order) -> Tensor",
    # out[e, b?, t?, h?] = sum over the axes that are not kept, and over the channels of a head, of a[i] * b[j]
    "sddmm": f"({_GRAPH}, Tensor a, Tensor b, bool by_batch, bool by_time, int heads, {_BACK}) -> Tensor",
    # the gradient of a maximum: each source collects from the destinations that chose its edge
    "spmm_max_x": f"({_GRAPH}, Tensor? weight, Tensor grad, Tensor argument, {_BACK}) -> Tensor",
    "spmm_max_weight": f"({_GRAPH}, Tensor weight, Tensor x, Tensor grad, Tensor argument, "
                       f"{_BACK}) -> Tensor",
    "segment_reduce": "(Tensor ptr, Tensor src, int reduce) -> (Tensor, Tensor)",
    "gather_rows": "(Tensor x, Tensor index, Tensor? rowptr_t, Tensor? col_t) -> Tensor",
}

LIBRARY = torch.library.Library(NAMESPACE, "DEF")
ops = getattr(torch.ops, NAMESPACE)
below_autograd = torch._C._AutoDispatchBelowAutograd


def define(name: str, schema: str, function: Callable[..., Any]) -> None:
    """Make an operator: its schema, and what runs on devices for which no kernel was loaded.

    Args:
        name: Of the operator.
        schema: Its arguments and results, as torch writes them.
        function: The operator in PyTorch's own ones.
    """
    LIBRARY.define(name + schema)
    backend()
    for key in ("CPU", "CUDA"):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", key):
            LIBRARY.impl(name, function, key)


for _name, _schema in SCHEMAS.items():
    define(_name, _schema, getattr(torch_backend, _name))


def _weighted_sum_gradients(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor, x: Tensor, grad: Tensor,
                            order: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where no kernel was loaded: the transposed product, and products at the edges."""
    grad_x = ops.weighted_sum(rowptr, col, edge, weight, grad, False, order)
    placed = x if order is None else x.index_select(-2, order)
    ends = (y.flatten(0, -3).unsqueeze(1) if y.dim() > 2 else y[None, None] for y in (placed, grad))
    return grad_x, ops.sddmm(rowptr, col, edge, *ends, False, False, 1, None, None, None).view(-1)


# both gradients of weighted_sum, from the transposed graph, for contiguous features of a multiple of 16 channels
define("weighted_sum_gradients", f"({_GRAPH}, Tensor weight, Tensor x, Tensor grad, Tensor? order) -> (Tensor, Tensor)",
       _weighted_sum_gradients)
for _name in ("weighted_sum", "weighted_sum_gradients"):  # they are never asked for a gradient
    LIBRARY.impl(_name, torch.library.fallthrough_kernel, "Autograd")


def node_major(x: Tensor) -> bool:
    """Whether nodes are the slowest axis of ``x [B, T, N, F]``; the kernels give their result the same layout."""
    b, t, n, _ = x.shape
    node = x.stride(2)
    return bool((b > 1 or t > 1) and n > 1 and (b == 1 or node > x.stride(0)) and (t == 1 or node > x.stride(1)))


def like(x: Tensor, rows: Any, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised ``[B, T, rows, F]`` in the layout of ``x``."""
    b, t, _, f = x.shape
    if node_major(x):
        return x.new_empty((rows, b, t, f), dtype=dtype).permute(1, 2, 0, 3)
    return x.new_empty((b, t, rows, f), dtype=dtype)


def ready(x: Tensor) -> Tensor:
    """The tensor with a contiguous last axis; a copy only where it has none."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


# ---------------------------------------------------------------- spmm
@torch.library.register_fake(f"{NAMESPACE}::spmm")
def _spmm_fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor,
               addend: Tensor | None, reduce: int, rowptr_t: Tensor | None, col_t: Tensor | None,
               edge_t: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = rowptr.shape[0] - 1
    maximum = reduce == REDUCTIONS["max"]
    return like(x, rows), like(x, rows, torch.int64) if maximum else x.new_empty((0,), dtype=torch.int64)


def _spmm_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    rowptr, col, edge, weight, x, addend, reduce, rowptr_t, col_t, edge_t = inputs
    ctx.reduce, ctx.has_addend = reduce, addend is not None
    keep = weight is not None and weight.requires_grad
    argument = output[1] if reduce == REDUCTIONS["max"] else None
    ctx.save_for_backward(rowptr, col, edge, weight, x if keep else None, rowptr_t, col_t, edge_t, argument)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _spmm_backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    rowptr, col, edge, weight, x, rowptr_t, col_t, edge_t, argument = ctx.saved_tensors
    grad_x = grad_weight = None
    through = ready(grad)
    if ctx.reduce == REDUCTIONS["max"]:
        if ctx.needs_input_grad[4]:
            grad_x = ops.spmm_max_x(rowptr_t, col_t, edge_t, weight, through, argument, rowptr, col, edge)
        if ctx.needs_input_grad[3]:
            grad_weight = ops.spmm_max_weight(rowptr, col, edge, weight, x, through, argument, rowptr_t, col_t, edge_t)
    else:
        if ctx.reduce == REDUCTIONS["mean"]:
            through = through / rowptr.diff().clamp(min=1).to(through.dtype)[:, None]
        if ctx.needs_input_grad[4]:
            grad_x = ops.spmm(rowptr_t, col_t, edge_t, weight, through, None, REDUCTIONS["sum"], rowptr, col, edge)[0]
        if ctx.needs_input_grad[3]:
            grad_weight = ops.sddmm(rowptr, col, edge, through, x, weight.shape[1] != 1, weight.shape[2] != 1,
                                    weight.shape[3], rowptr_t, col_t, edge_t)
    return (None, None, None, grad_weight, grad_x, grad if ctx.has_addend else None, None, None, None, None)


torch.library.register_autograd(f"{NAMESPACE}::spmm", _spmm_backward, setup_context=_spmm_context)


class Product(torch.autograd.Function):
    """``spmm`` with its gradient, without the way through the dispatcher's Python: half the time of a small call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        """The operator itself."""
        with below_autograd():
            output = ops.spmm.default(*inputs)
        _spmm_context(ctx, inputs, output)
        return output

    backward = staticmethod(_spmm_backward)


@torch.library.register_fake(f"{NAMESPACE}::weighted_sum")
def _sum_fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor, mean: bool,
              order: Tensor | None) -> Tensor:
    axes = x.dim()
    wide = x if axes == 4 else x.unsqueeze(1) if axes == 3 else x[None, None]
    out = like(wide, rowptr.shape[0] - 1)
    return out if axes == 4 else out.squeeze(1) if axes == 3 else out[0, 0]


@torch.library.register_fake(f"{NAMESPACE}::weighted_sum_gradients")
def _sum_gradients_fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor, x: Tensor, grad: Tensor,
                        order: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), weight.new_empty((col.shape[0],))


# ---------------------------------------------------------------- sddmm
@torch.library.register_fake(f"{NAMESPACE}::sddmm")
def _sddmm_fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, a: Tensor, b: Tensor, by_batch: bool, by_time: bool,
                heads: int, rowptr_t: Tensor | None, col_t: Tensor | None, edge_t: Tensor | None) -> Tensor:
    return a.new_empty((col.shape[0], a.shape[0] if by_batch else 1, a.shape[1] if by_time else 1, heads))


def _sddmm_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rowptr, col, edge, a, b, _, _, _, rowptr_t, col_t, edge_t = inputs
    ctx.save_for_backward(rowptr, col, edge, a, b, rowptr_t, col_t, edge_t)


def _sddmm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, edge, a, b, rowptr_t, col_t, edge_t = ctx.saved_tensors
    grad_a = grad_b = None
    total = REDUCTIONS["sum"]
    if ctx.needs_input_grad[3]:  # out[e] = a[i] . b[j], so a collects grad[e] * b[j] over its in-edges
        grad_a = ops.spmm(rowptr, col, edge, grad, b, None, total, rowptr_t, col_t, edge_t)[0]
    if ctx.needs_input_grad[4]:
        grad_b = ops.spmm(rowptr_t, col_t, edge_t, grad, a, None, total, rowptr, col, edge)[0]
    return (None, None, None, grad_a, grad_b, None, None, None, None, None, None)


torch.library.register_autograd(f"{NAMESPACE}::sddmm", _sddmm_backward, setup_context=_sddmm_context)


# ---------------------------------------------------------------- gradients of a maximum
def chosen(weight: Tensor | None, x: Tensor, argument: Tensor, source: Tensor) -> Tensor:
    """``weight[edge] * x[source of the edge]`` for the edge that each place chose, 0 where it chose none."""
    edge = argument.clamp(min=0)
    out = x.gather(2, source[edge].long())
    if weight is not None:
        b, t, _, f = argument.shape
        places = [torch.arange(size, device=x.device) * (of > 1) for size, of in zip((b, t), weight.shape[1:3],
                                                                                     strict=True)]
        head = torch.arange(f, device=x.device) // max(f // weight.shape[3], 1)
        out = out * weight[edge, places[0][:, None, None, None], places[1][:, None, None], head]
    return torch.where(argument >= 0, out, 0)


def edge_sources(col: Tensor, edge: Tensor | None) -> Tensor:
    """The source node of each edge, in the order of the edge list."""
    return col if edge is None else torch.empty_like(col).index_copy_(0, edge.long(), col)


@torch.library.register_fake(f"{NAMESPACE}::spmm_max_x")
def _max_x_fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, grad: Tensor,
                argument: Tensor, rowptr_t: Tensor | None, col_t: Tensor | None, edge_t: Tensor | None) -> Tensor:
    return like(grad, rowptr.shape[0] - 1)


def _max_x_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _max_x_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, edge, weight, inner, argument, rowptr_t, col_t, edge_t = ctx.saved_tensors
    through = ready(grad)
    grad_inner = grad_weight = None
    if ctx.needs_input_grad[4]:
        grad_inner = chosen(weight, through, argument, edge_sources(col_t, edge_t))
    if ctx.needs_input_grad[3]:
        grad_weight = ops.spmm_max_weight(rowptr_t, col_t, edge_t, weight, through, ready(inner), argument, rowptr,
                                          col, edge)
    return (None, None, None, grad_weight, grad_inner, None, None, None, None)


torch.library.register_autograd(f"{NAMESPACE}::spmm_max_x", _max_x_backward, setup_context=_max_x_context)


@torch.library.register_fake(f"{NAMESPACE}::spmm_max_weight")
def _max_weight_fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor, x: Tensor, grad: Tensor,
                     argument: Tensor, rowptr_t: Tensor | None, col_t: Tensor | None,
                     edge_t: Tensor | None) -> Tensor:
    return weight.new_empty(weight.shape)


def _max_weight_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _max_weight_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, edge, _, x, inner, argument, rowptr_t, col_t, edge_t = ctx.saved_tensors
    grad_x = grad_inner = None
    if ctx.needs_input_grad[4]:
        grad_x = ops.spmm_max_x(rowptr_t, col_t, edge_t, grad, inner, argument, rowptr, col, edge)
    if ctx.needs_input_grad[5]:
        grad_inner = chosen(grad, x, argument, edge_sources(col, edge))
    return (None, None, None, None, grad_x, grad_inner, None, None, None, None)


torch.library.register_autograd(f"{NAMESPACE}::spmm_max_weight", _max_weight_backward,
                                setup_context=_max_weight_context)


# ---------------------------------------------------------------- segments and rows
@torch.library.register_fake(f"{NAMESPACE}::segment_reduce")
def _segment_fake(ptr: Tensor, src: Tensor, reduce: int) -> tuple[Tensor, Tensor]:
    segments = ptr.shape[0] - 1
    maximum = reduce == REDUCTIONS["max"]
    return like(src, segments), like(src, segments, torch.int64) if maximum else src.new_empty((0,), dtype=torch.int64)


def _segment_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ptr, src, reduce = inputs
    ctx.reduce, ctx.rows = reduce, src.shape[2]
    ctx.save_for_backward(ptr, output[1] if reduce == REDUCTIONS["max"] else None)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _segment_backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    ptr, argument = ctx.saved_tensors
    if ctx.reduce == REDUCTIONS["mean"]:
        grad = grad / ptr.diff().clamp(min=1).to(grad.dtype)[:, None]
    segment = entry_rows(ptr, ctx.rows)
    rows = torch.arange(ctx.rows, dtype=ptr.dtype, device=ptr.device)
    grad_src = ops.gather_rows(ready(grad), segment, ptr, rows)
    if argument is not None:
        picked = ops.gather_rows(argument, segment, None, None) == rows[:, None]
        grad_src = torch.where(picked, grad_src, 0)
    return None, grad_src, None


torch.library.register_autograd(f"{NAMESPACE}::segment_reduce", _segment_backward, setup_context=_segment_context)


@torch.library.register_fake(f"{NAMESPACE}::gather_rows")
def _gather_fake(x: Tensor, index: Tensor, rowptr_t: Tensor | None, col_t: Tensor | None) -> Tensor:
    return like(x, index.shape[0])


def _gather_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, index, rowptr_t, col_t = inputs
    ctx.save_for_backward(index, rowptr_t, col_t)


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    index, rowptr_t, col_t = ctx.saved_tensors
    one_each = torch.arange(index.shape[0] + 1, dtype=index.dtype, device=index.device)
    grad_x = ops.spmm(rowptr_t, col_t, None, None, ready(grad), None, REDUCTIONS["sum"], one_each, index, None)[0]
    return grad_x, None, None, None


torch.library.register_autograd(f"{NAMESPACE}::gather_rows", _gather_backward, setup_context=_gather_context)
