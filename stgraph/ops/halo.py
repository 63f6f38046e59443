"""``torch.ops.stgraph.spmm_halo``: sparse times dense by blocks of rows whose distinct sources are staged once.

The same sums as ``spmm``, in the same order of the entries. The CUDA kernel keeps the halo of each block of rows in
shared memory (``kernels/cuda/staged.cu``). On a CPU, where caches do that, it is ``spmm`` itself. Which of the two a
product takes is decided in :mod:`stgraph.ops.plan`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stgraph.ops import regime
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.block_dense import BlockPlan, block_dense_spmm
from stgraph.ops.library import define, like, ops, ready
from stgraph.ops.names import NAMESPACE, REDUCTIONS
from stgraph.ops.torch_backend import in_layout

_SCHEMA = ("(Tensor rowptr, Tensor col, Tensor? edge, Tensor? weight, Tensor x, Tensor? addend, int reduce, "
           "Tensor pointer, Tensor halo, Tensor local, int row_block, int widest, "
           "Tensor? rowptr_t, Tensor? col_t, Tensor? edge_t, "
           "Tensor? pointer_t, Tensor? halo_t, Tensor? local_t, int widest_t) -> Tensor")


def block_dense(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor,
                addend: Tensor | None, reduce: int, pointer: Tensor, halo: Tensor, local: Tensor, row_block: int,
                widest: int) -> Tensor:
    """The operator as one small dense product per block; for weights that all slabs and heads share."""
    graph = Adjacency._checked(rowptr, col, edge, x.shape[2])
    blocks = BlockPlan(graph, row_block, pointer, halo, local, widest)
    name = "mean" if reduce == REDUCTIONS["mean"] else "sum"
    out = block_dense_spmm(blocks, x, None if weight is None else weight.reshape(-1), name, addend)
    return in_layout(out, x)


def _spmm_halo(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor,
               addend: Tensor | None, reduce: int, pointer: Tensor, halo: Tensor, local: Tensor, row_block: int,
               widest: int, rowptr_t: Tensor | None, col_t: Tensor | None, edge_t: Tensor | None,
               pointer_t: Tensor | None, halo_t: Tensor | None, local_t: Tensor | None, widest_t: int) -> Tensor:
    """Where no kernel was loaded, and on the CPU."""
    shared = weight is None or weight.numel() == col.shape[0]
    if x.is_cuda and shared and regime.FINITE:
        return block_dense(rowptr, col, edge, weight, x, addend, reduce, pointer, halo, local, row_block, widest)
    return ops.spmm(rowptr, col, edge, weight, x, addend, reduce, None, None, None)[0]


define("spmm_halo", _SCHEMA, _spmm_halo)


@torch.library.register_fake(f"{NAMESPACE}::spmm_halo")
def _fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor, *_: Any) -> Tensor:
    return like(x, rowptr.shape[0] - 1)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rowptr, col, edge, weight, x, addend, ctx.reduce, pointer, halo, local, ctx.row_block, ctx.widest, \
        rowptr_t, col_t, edge_t, pointer_t, halo_t, local_t, ctx.widest_t = inputs
    ctx.has_addend = addend is not None
    keep = weight is not None and weight.requires_grad
    ctx.save_for_backward(rowptr, col, edge, weight, x if keep else None, pointer, halo, local,
                          rowptr_t, col_t, edge_t, pointer_t, halo_t, local_t)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 19
    rowptr, col, edge, weight, x, pointer, halo, local, rowptr_t, col_t, edge_t, pointer_t, halo_t, local_t = \
        ctx.saved_tensors
    grad_x = grad_weight = None
    through, total = ready(grad), REDUCTIONS["sum"]
    if ctx.reduce == REDUCTIONS["mean"]:
        through = through / rowptr.diff().clamp(min=1).to(through.dtype)[:, None]
    if ctx.needs_input_grad[4] and pointer_t is None:  # the other way round, blocks do not pay
        grad_x = ops.spmm(rowptr_t, col_t, edge_t, weight, through, None, total, rowptr, col, edge)[0]
    elif ctx.needs_input_grad[4]:
        grad_x = ops.spmm_halo(rowptr_t, col_t, edge_t, weight, through, None, total, pointer_t, halo_t, local_t,
                               ctx.row_block, ctx.widest_t, rowptr, col, edge, pointer, halo, local, ctx.widest)
    if ctx.needs_input_grad[3]:
        grad_weight = ops.sddmm(rowptr, col, edge, through, x, weight.shape[1] != 1, weight.shape[2] != 1,
                                weight.shape[3], rowptr_t, col_t, edge_t)
    return (None, None, None, grad_weight, grad_x, grad if ctx.has_addend else None, *(None,) * 13)


torch.library.register_autograd(f"{NAMESPACE}::spmm_halo", _backward, setup_context=_context)
