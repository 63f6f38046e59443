"""Rivals of torch-scatter, where it is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

from torch import Tensor

from stgraph.bench.case import Case
from stgraph.bench.problem import NODE, Function, Problem
from stgraph.bench.ways import Absent, Way, layouts

NAME = "torch-scatter"
_OPERATORS = ("spmm", "segment_reduce")


def ways(case: Case) -> tuple[list[Way], list[Absent]]:
    """The ways of torch-scatter for a case, or why there are none."""
    if case.operator not in _OPERATORS:
        return [], []
    try:
        library = importlib.import_module("torch_scatter")
    except Exception as error:  # a library built for another torch fails in many ways
        return [], [Absent(NAME, why(error))]
    # segment_csr reduces the first axis
    choices = [(function, layout) for layout in layouts(case) for function in ("scatter", "segment_csr")
               if function == "scatter" or layout == NODE or case.slabs == 1]
    return [Way(NAME, f"{function}, {layout}", layout, functools.partial(_reduced, library, function, layout), True)
            for function, layout in choices], []


def there() -> bool:
    """Whether the package is installed, working or not."""
    return importlib.util.find_spec("torch_scatter") is not None


def why(error: Exception) -> str:
    """Why a library is not there, in a line."""
    if isinstance(error, ModuleNotFoundError):
        return "not installed"
    return f"cannot be imported: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _reduced(library: Any, function: str, layout: str, problem: Problem) -> Function:
    row, rowptr, col, reduce = problem.row, problem.rowptr, problem.col, problem.case.reduce

    def reduce_messages(messages: Tensor, axis: int) -> Tensor:
        if function == "segment_csr":
            return library.segment_csr(messages, rowptr, reduce=reduce)
        return library.scatter(messages, row, dim=axis, dim_size=problem.nodes, reduce=reduce)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        axis = 0 if layout == NODE or x.dim() == 2 else 1
        return reduce_messages(x.index_select(axis, col) * weight.view(-1, *(1,) * (x.dim() - 1 - axis)), axis)

    def segments(src: Tensor) -> Tensor:
        return reduce_messages(src, 0 if layout == NODE or src.dim() == 2 else 1)

    return product if problem.case.operator == "spmm" else segments
