"""Ways of computing a case: ours, and rivals. Each is one function of the operands, with gradients by autograd."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from stgraph.bench.case import BOTH, FORWARD, RECORDED, SIZES_FAMILIES, Case
from stgraph.bench.problem import BATCH, NODE, SLOPE, Function, Problem
from stgraph.bench.timing import Call
from stgraph.ops import gat_aggregate, gather_rows, graph_attention, sddmm, segment_reduce, spmm

OWN = "stgraph"
QUICK = (OWN, "torch.sparse", "PyG MessagePassing", "PyG-style eager layer", "torch.index_select", "eager gather")
"""What is timed in a quick run."""
MOST_MESSAGE_BYTES = 512 << 20
"""Rivals that would hold more are left out where sizes are walked through: they take seconds there."""


@dataclass(frozen=True)
class Way:
    """One way of computing a case.

    Args:
        name: Of the library, or of what is done.
        variant: How: layout, index type, function.
        layout: Of the operands that it takes and of the result that it gives.
        make: From the problem to the function; what it prepares is not timed.
        messages: Whether it holds the features of all edges.
    """

    name: str
    variant: str
    layout: str
    make: Callable[[Problem], Function]
    messages: bool = False


@dataclass(frozen=True)
class Absent:
    """A rival that was not timed, and why."""

    name: str
    reason: str


def layouts(case: Case) -> tuple[str, ...]:
    """The layouts that differ for a case: one slab has only one."""
    return (BATCH,) if case.slabs == 1 else (BATCH, NODE)


def calls(problem: Problem, way: Way, run: str, sets: int | None = None) -> list[Call]:
    """One callable for each set of operands, for a pass. A forward pass gives the result; others tuples of gradients.

    Backward passes keep what they were recorded on, so that they can be repeated.
    """
    function = way.make(problem)
    made: list[Call] = []
    for number in range(problem.sets if sets is None else sets):
        operands = dict(problem.operands(number, way.layout))
        above = operands.pop("grad", None)
        if run == FORWARD:
            made.append(functools.partial(function, **operands))
            continue
        names = problem.leaves(run)
        operands = {name: value.detach().requires_grad_(name in names) for name, value in operands.items()}
        leaves = [operands[name] for name in names]
        if run == RECORDED:
            made.append(functools.partial(function, **operands))
        elif run == BOTH:
            made.append(functools.partial(_both, function, operands, leaves, above))
        else:
            made.append(functools.partial(torch.autograd.grad, function(**operands), leaves, above, retain_graph=True))
    return made


def _both(function: Function, operands: dict[str, Tensor], leaves: list[Tensor],
          above: Tensor | None) -> tuple[Tensor, ...]:
    out = function(**operands)
    return (out, *torch.autograd.grad(out, leaves, above))


def results(problem: Problem, way: Way, run: str, found: Any) -> dict[str, Tensor]:
    """What a call gave, by name, as ``[S, N, ...]``."""
    if run in (FORWARD, RECORDED):
        named = {"out": found}
    else:
        names = problem.leaves(run)
        named = dict(zip(("out", *names) if run == BOTH else names, found, strict=True))
    return {name: problem.canonical(value.detach(), way.layout) for name, value in named.items()}


# ---------------------------------------------------------------- all of a case
def collect(case: Case, problem: Problem, suite: str, gemm_flop_s: float) -> tuple[list[Way], list[Absent]]:
    """Ours and all rivals of a case.

    Args:
        case: What is computed.
        problem: Its inputs, whose sizes decide whether a dense matrix can be had.
        suite: ``quick``: only rivals that promises were made about; ``full``: compiled ones too, which take seconds.
        gemm_flop_s: Operations per second of a dense product, to leave out those that would take long.
    """
    from stgraph.bench import rivals_dgl, rivals_pyg, rivals_scatter, rivals_torch

    ways = own(case)
    absent: list[Absent] = []
    quick = suite == "quick"
    some, missing = rivals_torch.ways(case, problem, suite == "full" and case.family == "spmm", gemm_flop_s)
    ways, absent = ways + some, absent + missing
    for module in (rivals_pyg, rivals_scatter, rivals_dgl):
        if not quick or module is rivals_pyg:
            some, missing = module.ways(case)
            ways, absent = ways + some, absent + missing
    if quick:
        left = [name for name in dict.fromkeys(way.name for way in ways) if name not in QUICK]
        absent += [Absent(name, "left out of a quick run") for name in left]
        absent += [Absent(module.NAME, "left out of a quick run" if module.there() else "not installed")
                   for module in (rivals_scatter, rivals_dgl)]
        ways = [way for way in ways if way.name in QUICK]
    size = problem.edges * case.slabs * case.features * problem.dtype.itemsize
    if case.family in SIZES_FAMILIES and size > MOST_MESSAGE_BYTES:
        absent += [Absent(name, f"messages of all edges would take {size / 1e9:.2g} GB")
                   for name in dict.fromkeys(way.name for way in ways if way.messages)]
        ways = [way for way in ways if not way.messages]
    return ways, absent + without_a_way()


def without_a_way() -> list[Absent]:
    """Libraries of the same kind that are not timed, whether they are there or not."""
    found = []
    for package in ("torch-sparse", "pyg-lib", "turbo-gnn"):
        try:
            version = metadata.version(package)
            found.append(Absent(package, f"version {version} is installed, but there is no way for it here"))
        except metadata.PackageNotFoundError:
            found.append(Absent(package, "not installed"))
    return found


def own(case: Case) -> list[Way]:
    """Our operators in each layout."""
    return [Way(OWN, layout, layout, functools.partial(_own, case, layout)) for layout in layouts(case)]


def _own(case: Case, layout: str, problem: Problem) -> Function:
    graph = problem.adjacency
    function = {
        "spmm": lambda: functools.partial(spmm, graph, reduce=case.reduce),
        "gat_aggregate": lambda: functools.partial(gat_aggregate, graph, slope=SLOPE),
        "graph_attention": lambda: functools.partial(graph_attention, graph),
        "sddmm": lambda: functools.partial(sddmm, graph, heads=case.heads),
        "segment_reduce": lambda: functools.partial(segment_reduce, graph.rowptr, reduce=case.reduce),
        "gather_rows": lambda: functools.partial(gather_rows, index=graph.col),
    }[case.operator]()
    return function if layout == BATCH else functools.partial(_node_major, function)


def _node_major(function: Function, **operands: Tensor) -> Tensor:
    turned = {name: value if name == "weight" else value.transpose(0, 1) for name, value in operands.items()}
    return function(**turned).transpose(0, 1)
