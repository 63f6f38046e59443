"""Rivals that come with PyTorch: ``torch.sparse``, a dense product, and gathering with ``index_add``."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from stgraph.bench.case import BOTH, FORWARD, WEIGHTS, Case
from stgraph.bench.problem import BATCH, NODE, Function, Problem
from stgraph.bench.ways import Absent, Way, layouts

SPARSE, DENSE, EAGER, COMPILED = "torch.sparse", "dense GEMM", "eager index_add", "compiled index_add"
MOST_DENSE_BYTES, MOST_DENSE_SECONDS = 400 << 20, 2.0


def ways(case: Case, problem: Problem, compiled: bool, gemm_flop_s: float) -> tuple[list[Way], list[Absent]]:
    """The ways of PyTorch for a case, and those that are left out."""
    made = {"spmm": _spmm_ways, "gat_aggregate": _attention_ways, "graph_attention": _attention_ways}
    if case.operator in made:
        found = made[case.operator](case)
    elif case.operator == "sddmm":
        found = [Way(EAGER.replace("index_add", "gather"), "index_select, product, sum", BATCH, _eager_sddmm)]
        if case.slabs == 1 and case.heads == 1:
            found.append(Way(SPARSE, "sampled_addmm", BATCH, _sampled))
    elif case.operator == "segment_reduce":
        found = [Way("torch.segment_reduce", "offsets", BATCH, _segment),
                 Way(EAGER, BATCH, BATCH, _eager_segment)]
    else:
        found = [Way("torch.index_select", BATCH, BATCH, lambda p: lambda x: x.index_select(x.dim() - 2, p.col))]
    absent = []
    if case.operator == "spmm" and case.reduce != "max":
        reason = _too_dense(problem, gemm_flop_s)
        if case.run in (WEIGHTS, BOTH):
            reason = "its gradient of the weights would be that of all pairs"
        if reason:
            absent.append(Absent(DENSE, reason))
        else:
            found += [Way(DENSE, layout, layout, functools.partial(_dense, layout)) for layout in layouts(case)]
        if compiled and case.run == FORWARD and case.reduce == "sum":
            found += [Way(COMPILED, layout, layout, functools.partial(_compiled, layout)) for layout in layouts(case)]
        else:
            absent.append(Absent(COMPILED, "compiled for sums forward in a full run only"))
    return found, absent


def _too_dense(problem: Problem, gemm_flop_s: float) -> str | None:
    size = problem.nodes**2 * problem.dtype.itemsize
    if size > MOST_DENSE_BYTES:
        return f"the matrix would have {size / 1e9:.2g} GB"
    seconds = 2 * problem.nodes**2 * problem.slabs * problem.case.features / gemm_flop_s
    return f"it would take {seconds:.2g} s" if seconds > MOST_DENSE_SECONDS else None


# ---------------------------------------------------------------- spmm
def _spmm_ways(case: Case) -> list[Way]:
    found = []
    if case.reduce == "max" or case.run in (WEIGHTS, BOTH):
        # torch.sparse.mm with a reduction gives gradients of values; plain products of CSR need them as a tensor
        names = {"sum": "sum", "mean": "mean", "max": "amax"}
        found += [Way(SPARSE, f"{_shape_words(layout, case)}, reduce", layout,
                      functools.partial(_sparse_reduce, layout, names[case.reduce])) for layout in layouts(case)]
        if case.reduce == "sum":
            found += [Way(SPARSE, f"{_shape_words(layout, case)}, values", layout,
                          functools.partial(_sparse_values, layout)) for layout in layouts(case)]
    else:
        for layout in layouts(case):
            words = _shape_words(layout, case)
            found += [Way(SPARSE, f"{words}, {str(index).removeprefix('torch.')}", layout,
                          functools.partial(_sparse, layout, index)) for index in (torch.int32, torch.int64)]
            found.append(Way(SPARSE, f"{words}, reduce", layout,
                             functools.partial(_sparse_reduce, layout, case.reduce)))
    name = EAGER if case.reduce != "max" else "eager scatter_reduce"
    return found + [Way(name, layout, layout, functools.partial(_eager, layout), True) for layout in layouts(case)]


def _shape_words(layout: str, case: Case) -> str:
    if case.slabs == 1:
        return "one product"
    return "node-major, one product" if layout == NODE else "batch-major, a loop"


def _csr(problem: Problem, values: Tensor, index: torch.dtype) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is in beta
        return torch.sparse_csr_tensor(problem.rowptr.to(index), problem.col.to(index), values,
                                       (problem.nodes, problem.nodes), check_invariants=False)


def _values(problem: Problem) -> Tensor:
    """Entries of the matrix: weights, divided by the degree for a mean."""
    weight = problem.operands(0, BATCH)["weight"]
    return weight / problem.degree[problem.row] if problem.case.reduce == "mean" else weight


def _sparse(layout: str, index: torch.dtype, problem: Problem) -> Function:
    matrix = _csr(problem, _values(problem), index)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        if layout == NODE or x.dim() == 2 or x.requires_grad:
            return _by_layout(layout, functools.partial(torch.sparse.mm, matrix), x)
        out = torch.empty_like(x)
        for target, slab in zip(out, x, strict=True):
            torch.mm(matrix, slab, out=target)
        return out

    return product


def _by_layout(layout: str, multiply: Function, x: Tensor) -> Tensor:
    """A product that takes ``[N, C]``, for features in a layout."""
    if x.dim() == 2:
        return multiply(x)
    if layout == NODE:
        return multiply(x.flatten(1)).view(x.shape)
    return torch.stack([multiply(slab) for slab in x])


def _sparse_reduce(layout: str, reduce: str, problem: Problem) -> Function:
    def product(x: Tensor, weight: Tensor) -> Tensor:
        matrix = _csr(problem, weight, torch.int64)
        return _by_layout(layout, lambda slab: torch.sparse.mm(matrix, slab, reduce), x)

    return product


def _sparse_values(layout: str, problem: Problem) -> Function:
    def product(x: Tensor, weight: Tensor) -> Tensor:
        return _by_layout(layout, functools.partial(torch.sparse.mm, _csr(problem, weight, torch.int64)), x)

    return product


def _dense(layout: str, problem: Problem) -> Function:
    values = _values(problem)
    matrix = values.new_zeros(problem.nodes, problem.nodes)
    matrix.index_put_((problem.row, problem.col), values, accumulate=True)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        if layout == NODE:
            return (matrix @ x.flatten(1)).view(x.shape)
        return torch.matmul(matrix, x)

    return product


def _eager(layout: str, problem: Problem) -> Function:
    row, col, nodes, reduce = problem.row, problem.col, problem.nodes, problem.case.reduce
    degree = problem.degree

    def product(x: Tensor, weight: Tensor) -> Tensor:
        axis = 0 if layout == NODE or x.dim() == 2 else 1
        spread = weight.view(-1, *(1,) * (x.dim() - 1 - axis))
        messages = x.index_select(axis, col) * spread
        shape = [*x.shape]
        shape[axis] = nodes
        if reduce == "max":
            place = row.view(-1, *(1,) * (x.dim() - 1 - axis)).expand_as(messages)
            return x.new_zeros(shape).scatter_reduce(axis, place, messages, "amax", include_self=False)
        out = x.new_zeros(shape).index_add_(axis, row, messages)
        return out / degree.view(-1, *(1,) * (x.dim() - 1 - axis)) if reduce == "mean" else out

    return product


def _compiled(layout: str, problem: Problem) -> Function:
    return torch.compile(_eager(layout, problem), fullgraph=True, dynamic=False)


# ---------------------------------------------------------------- attention
def _attention_ways(case: Case) -> list[Way]:
    if case.operator == "gat_aggregate" or case.run != FORWARD:
        return []
    return [Way("dense attention", "scaled_dot_product_attention with a mask", BATCH, _sdpa)]


def _sdpa(problem: Problem) -> Function:
    if problem.nodes > 1000 or len(torch.unique(problem.row * problem.nodes + problem.col)) < problem.edges:
        raise NotImplementedError("all pairs are too many, or an edge is there twice")
    mask = torch.zeros(problem.nodes, problem.nodes, dtype=torch.bool, device=problem.device)
    mask[problem.row, problem.col] = True
    alone = ~mask.any(1)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query, key, value = (part.transpose(-3, -2) for part in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return out.transpose(-3, -2).masked_fill(alone[:, None, None], 0)

    return attend


# ---------------------------------------------------------------- edges, segments
def _eager_sddmm(problem: Problem) -> Function:
    row, col, heads = problem.row, problem.col, problem.case.heads

    def product(a: Tensor, b: Tensor) -> Tensor:
        axis = a.dim() - 2
        return (a.index_select(axis, row) * b.index_select(axis, col)).unflatten(-1, (heads, -1)).sum(-1)

    return product


def _sampled(problem: Problem) -> Function:
    matrix = _csr(problem, torch.zeros(problem.edges, dtype=problem.dtype, device=problem.device), torch.int64)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.sparse.sampled_addmm(matrix, a, b.t()).values()[:, None]

    return product


def _segment(problem: Problem) -> Function:
    offsets, reduce = problem.rowptr, problem.case.reduce

    def product(src: Tensor) -> Tensor:
        return torch.segment_reduce(src, reduce, offsets=offsets, axis=0, initial=0, unsafe=True)

    if problem.slabs > 1:
        raise NotImplementedError("it reduces one slab")
    return product


def _eager_segment(problem: Problem) -> Function:
    row, nodes = problem.row, problem.nodes

    def product(src: Tensor) -> Tensor:
        axis = src.dim() - 2
        return src.new_zeros(*src.shape[:axis], nodes, src.shape[-1]).index_add_(axis, row, src)

    return product

