"""The operators in PyTorch's own ones: what runs where no kernel was loaded, and what the kernels are tested against.

Same arguments as ``torch.ops.stgraph.*`` (see :mod:`stgraph.ops.library`). Messages of all edges stand in memory here.
Nothing depends on the order in which threads come: on the CPU rows are added one after the other, on a GPU every row is
reduced by one thread, and maxima do not depend on order. 16-bit numbers are summed in 32 bits.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from stgraph.ops.adjacency import entry_rows
from stgraph.ops.names import NAMESPACE, REDUCTIONS


def wide(x: Tensor) -> Tensor:
    """In the type in which sums are taken: 16-bit floats in 32 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def in_layout(out: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The result ``[B, T, M, F]`` in the layout of ``like``, and in its type if no other is given."""
    by_node = _node_major(like)
    out = out.to(dtype or like.dtype)
    return out.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3) if by_node else out.contiguous()


def _node_major(x: Tensor) -> bool:
    b, t, n, _ = x.shape
    node = x.stride(2)
    return bool((b > 1 or t > 1) and n > 1 and (b == 1 or node > x.stride(0)) and (t == 1 or node > x.stride(1)))


def _scaled(messages: Tensor, weight: Tensor | None, edge: Tensor | None) -> Tensor:
    """Messages ``[B, T, E, F]`` times the weights ``[E, B?, T?, H?]`` of their edges."""
    if weight is None:
        return messages
    of_entry = wide(weight) if edge is None else wide(weight).index_select(0, edge)
    of_entry = of_entry.permute(1, 2, 0, 3)  # [B?, T?, E, H]
    heads = weight.shape[3]
    if heads == 1:
        return messages * of_entry
    return (messages.unflatten(-1, (heads, -1)) * of_entry[..., None]).flatten(-2)


def _row_sums(rowptr: Tensor, messages: Tensor) -> Tensor:
    """Sums of consecutive messages ``[B, T, E, F]`` for each row: ``[B, T, rows, F]``."""
    b, t, entries, f = messages.shape
    rows = rowptr.shape[0] - 1
    if messages.is_cuda:  # index_add would use atomics there
        flat = messages.permute(2, 0, 1, 3).reshape(entries, b * t * f)
        out = torch.segment_reduce(flat, "sum", offsets=rowptr.long(), axis=0, initial=0, unsafe=True)
        return out.view(rows, b, t, f).permute(1, 2, 0, 3)
    return messages.new_zeros((b, t, rows, f)).index_add_(2, entry_rows(rowptr, entries), messages)


def _row_maxima(rowptr: Tensor, messages: Tensor, edge: Tensor | None) -> tuple[Tensor, Tensor]:
    """Largest message of each row and its edge: the first of equals, a NaN before all; 0 and -1 if there is none."""
    b, t, entries, f = messages.shape
    rows = rowptr.shape[0] - 1
    row = entry_rows(rowptr, entries).long()[:, None].expand(b, t, entries, f)
    best = messages.new_zeros((b, t, rows, f)).scatter_reduce_(2, row, messages, "amax", include_self=False)
    entry = torch.arange(entries, device=messages.device)[:, None]
    wins = (messages == best.gather(2, row)) | messages.isnan()
    entry = torch.where(wins, entry, entries)
    first = torch.full((b, t, rows, f), entries, device=messages.device).scatter_reduce_(2, row, entry, "amin")
    if edge is not None and entries:
        argument = torch.where(first < entries, edge.long()[first.clamp(max=entries - 1)], -1)
    else:
        argument = torch.where(first < entries, first, -1)
    return best, argument


@functools.cache
def _quiet() -> None:
    """Let PyTorch say once that its sparse matrices are in beta, where nobody hears it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))


def _one_product(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor) -> Tensor | None:
    """Sums by one sparse product where all slabs share one weight per edge; None where PyTorch has none for this."""
    shared = weight is None or weight.numel() == len(col)
    if x.is_cuda or x.dtype not in (torch.float32, torch.float64) or not torch.backends.mkl.is_available():
        return None
    if not shared or len(col) == 0 or x.numel() == 0:
        return None
    _quiet()
    b, t, nodes, f = x.shape
    values = torch.ones(len(col), dtype=x.dtype) if weight is None else weight.reshape(-1)
    if weight is not None and edge is not None:
        values = values.index_select(0, edge)
    matrix = torch.sparse_csr_tensor(rowptr, col, values.contiguous(), (len(rowptr) - 1, nodes), check_invariants=False)
    with torch.autocast("cpu", enabled=False):  # there is no product of sparse 16-bit numbers
        out = matrix @ x.permute(2, 0, 1, 3).reshape(nodes, b * t * f)
    return out.view(-1, b, t, f).permute(1, 2, 0, 3)


def spmm(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor, addend: Tensor | None,
         reduce: int, rowptr_t: Tensor | None, col_t: Tensor | None, edge_t: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sparse times dense; see :func:`stgraph.ops.spmm`."""
    argument = x.new_empty((0,), dtype=torch.int64)
    if reduce == REDUCTIONS["max"]:
        out, argument = _row_maxima(rowptr, _scaled(wide(x).index_select(2, col), weight, edge), edge)
        argument = in_layout(argument, x, torch.int64)
    else:
        product = _one_product(rowptr, col, edge, weight, x)
        out = _row_sums(rowptr, _scaled(wide(x).index_select(2, col), weight, edge)) if product is None else product
        if reduce == REDUCTIONS["mean"]:
            out = out / rowptr.diff().clamp(min=1).to(out.dtype)[:, None]
    if addend is not None:
        out = out + wide(addend)
    return in_layout(out, x), argument


def weighted_sum(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, x: Tensor, mean: bool,
                 order: Tensor | None) -> Tensor:
    """Sums and means of features ``[..., N, F]`` of two to four axes; the result of row ``r`` goes to ``order[r]``."""
    axes = x.dim()
    wide = x if axes == 4 else x.unsqueeze(1) if axes == 3 else x[None, None]
    scale = None if weight is None else weight[:, None, None, None]
    reduce = REDUCTIONS["mean" if mean else "sum"]
    out = getattr(torch.ops, NAMESPACE).spmm.default(rowptr, col, edge, scale, wide, None, reduce, None, None, None)[0]
    if order is not None:
        out = torch.empty_like(out).index_copy_(2, order.long(), out)
    return out if axes == 4 else out.squeeze(1) if axes == 3 else out[0, 0]


def sddmm(rowptr: Tensor, col: Tensor, edge: Tensor | None, a: Tensor, b: Tensor, by_batch: bool, by_time: bool,
          heads: int, rowptr_t: Tensor | None, col_t: Tensor | None, edge_t: Tensor | None) -> Tensor:
    """Products of the rows at the two ends of every edge; see :func:`stgraph.ops.sddmm`."""
    products = wide(a).index_select(2, entry_rows(rowptr, len(col))) * wide(b).index_select(2, col)
    products = products.unflatten(-1, (heads, -1)).sum(-1)  # [B, T, E, H]
    if not by_batch:
        products = products.sum(0, keepdim=True)
    if not by_time:
        products = products.sum(1, keepdim=True)
    return by_edge(products.permute(2, 0, 1, 3), edge).to(a.dtype)


def by_edge(of_entry: Tensor, edge: Tensor | None) -> Tensor:
    """From the order of the entries to that of the edges, along the first axis."""
    if edge is None:
        return of_entry.contiguous()
    return torch.empty_like(of_entry, memory_format=torch.contiguous_format).index_copy_(0, edge.long(), of_entry)


def _edges_of(col: Tensor, edge: Tensor | None) -> Tensor:
    return torch.arange(len(col), device=col.device) if edge is None else edge.long()


def spmm_max_x(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor | None, grad: Tensor, argument: Tensor,
               rowptr_t: Tensor | None, col_t: Tensor | None, edge_t: Tensor | None) -> Tensor:
    """Gradient of a maximum: each source collects from the destinations that chose one of its edges."""
    chose = argument.index_select(2, col) == _edges_of(col, edge)[:, None]
    messages = torch.where(chose, _scaled(wide(grad).index_select(2, col), weight, edge), 0)
    return in_layout(_row_sums(rowptr, messages), grad)


def spmm_max_weight(rowptr: Tensor, col: Tensor, edge: Tensor | None, weight: Tensor, x: Tensor, grad: Tensor,
                    argument: Tensor, rowptr_t: Tensor | None, col_t: Tensor | None, edge_t: Tensor | None) -> Tensor:
    """Gradient of a maximum by its weights: grad * x, where a place chose the edge."""
    row = entry_rows(rowptr, len(col))
    chose = argument.index_select(2, row) == _edges_of(col, edge)[:, None]
    products = torch.where(chose, wide(grad).index_select(2, row) * wide(x).index_select(2, col), 0)
    products = products.unflatten(-1, (weight.shape[3], -1)).sum(-1)
    for axis in (0, 1):
        if weight.shape[axis + 1] == 1:
            products = products.sum(axis, keepdim=True)
    return by_edge(products.permute(2, 0, 1, 3), edge).to(weight.dtype)


def segment_reduce(ptr: Tensor, src: Tensor, reduce: int) -> tuple[Tensor, Tensor]:
    """Reduce consecutive rows; see :func:`stgraph.ops.segment_reduce`."""
    argument = src.new_empty((0,), dtype=torch.int64)
    if reduce == REDUCTIONS["max"]:
        out, argument = _row_maxima(ptr, wide(src), None)
        argument = in_layout(argument, src, torch.int64)
    else:
        out = _row_sums(ptr, wide(src))
        if reduce == REDUCTIONS["mean"]:
            out = out / ptr.diff().clamp(min=1).to(out.dtype)[:, None]
    return in_layout(out, src), argument


def gather_rows(x: Tensor, index: Tensor, rowptr_t: Tensor | None, col_t: Tensor | None) -> Tensor:
    """Rows of x by their positions; see :func:`stgraph.ops.gather_rows`."""
    return in_layout(x.index_select(2, index), x)
