"""Rivals of DGL, where it is installed. Its last build needs help to be imported beside a current torch.

The package was built for torch 2.0 to 2.2; with a current one its import fails on three pieces that message passing on
one machine does not need. They are replaced by empty modules, and only here, where a rival is timed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import types
from typing import Any

import torch
from torch import Tensor

from stgraph.bench.case import Case
from stgraph.bench.problem import BATCH, NODE, SLOPE, Function, Problem
from stgraph.bench.rivals_scatter import why
from stgraph.bench.ways import Absent, Way

NAME = "DGL"
_OPERATORS = ("spmm", "gat_aggregate", "sddmm")
_STUBS = ("dgl.graphbolt", "setuptools.extern", "torchdata", "torchdata.datapipes", "torchdata.datapipes.iter")


def ways(case: Case) -> tuple[list[Way], list[Absent]]:
    """The ways of DGL for a case, or why there are none."""
    if case.operator not in _OPERATORS:
        return [], []
    try:
        library = import_dgl()
    except Exception as error:  # its binary parts fail with FileNotFoundError, AttributeError and others
        return [], [Absent(NAME, why(error))]
    # DGL takes nodes as the first axis
    layout = BATCH if case.slabs == 1 else NODE
    make = {"spmm": _product, "gat_aggregate": _gat, "sddmm": _dot}[case.operator]
    return [Way(NAME, layout, layout, functools.partial(make, library))], []


def there() -> bool:
    """Whether the package is installed, working or not."""
    return importlib.util.find_spec("dgl") is not None


@functools.cache
def import_dgl() -> Any:
    """The package ``dgl``, with empty modules in place of the pieces that are missing.

    Raises:
        Exception: of whatever kind, where it is not installed or fails all the same.
    """
    if not there():
        raise ModuleNotFoundError("dgl")
    os.environ.setdefault("DGLBACKEND", "pytorch")  # else it asks, and writes the answer into the home folder
    with contextlib.redirect_stdout(sys.stderr):
        with contextlib.suppress(Exception):
            return importlib.import_module("dgl")
        for name in [name for name in sys.modules if name == "dgl" or name.startswith("dgl.")]:
            del sys.modules[name]  # what a failed import left behind
        for name in _STUBS:
            if name not in sys.modules:
                sys.modules[name] = _Empty(name)
        return importlib.import_module("dgl")


class _Empty(types.ModuleType):
    """A module in which every name is there and means nothing."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _graph(library: Any, problem: Problem) -> Any:
    graph = library.graph((problem.col, problem.row), num_nodes=problem.nodes, device=problem.device)
    return graph.formats(["coo", "csr", "csc"])


def _product(library: Any, problem: Problem) -> Function:
    graph, reduce = _graph(library, problem), problem.case.reduce
    operator = getattr(library.ops, f"u_mul_e_{reduce}")

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return operator(graph, x, weight.view(-1, *(1,) * (x.dim() - 1)))

    return product


def _gat(library: Any, problem: Problem) -> Function:
    graph = _graph(library, problem)

    def attend(score_source: Tensor, score_destination: Tensor, v: Tensor) -> Tensor:
        score = torch.nn.functional.leaky_relu(library.ops.u_add_v(graph, score_source, score_destination), SLOPE)
        share = library.ops.edge_softmax(graph, score)
        return library.ops.u_mul_e_sum(graph, v, share[..., None])

    return attend


def _dot(library: Any, problem: Problem) -> Function:
    graph, heads = _graph(library, problem), problem.case.heads

    def product(a: Tensor, b: Tensor) -> Tensor:
        return library.ops.u_dot_v(graph, b.unflatten(-1, (heads, -1)), a.unflatten(-1, (heads, -1))).squeeze(-1)

    return product
