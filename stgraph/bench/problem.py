"""The inputs of a case: the graph as indices, several sets of operands in both layouts, and the right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stgraph.bench.case import BACKWARD, FORWARD, RECORDED, Case
from stgraph.bench.costs import cost
from stgraph.bench.graphs import BenchGraph
from stgraph.bench.reference import Reference, reference
from stgraph.ops import Adjacency

BATCH, NODE = "batch-major", "node-major"
Function = Callable[..., Tensor]
"""Operands by name in a layout, to the result in the same layout."""
MOST_SETS = 8
SLOPE = 0.2


class Problem:
    """Operands of a case, laid out as each way of computing it wants them.

    Operands with an axis of nodes are ``[S, N, ...]`` in batch-major and ``[N, S, ...]`` in node-major layout, both
    contiguous, where S = B T; ``[N, ...]`` where S = 1. With rotation there are as many sets of them as fill the
    last-level cache twice, at most eight.

    Args:
        case: What is computed; its pass does not matter.
        graph: The graph.
        device: ``cpu`` or ``cuda``.
        cache: Bytes of the last-level cache; 0: one set.
        seed: Of the operands.
        most_checked: Slabs of attention, of which there is an answer; None: all.
    """

    def __init__(self, case: Case, graph: BenchGraph, device: str = "cpu", cache: int = 0, seed: int = 0,
                 most_checked: int | None = None) -> None:
        self.case, self.graph, self.device, self.seed = case, graph, torch.device(device), seed
        self.dtype: torch.dtype = getattr(torch, case.dtype)
        self.nodes, self.edges, self.slabs = graph.nodes, graph.edges, case.slabs
        need = cost(replace(case, run=FORWARD), graph.nodes, graph.edges)
        self.set_bytes = need.inputs + need.outputs
        self.sets = max(1, min(MOST_SETS, -(-2 * cache // max(self.set_bytes, 1))))
        self.rotated = cache > 0 and self.sets * self.set_bytes >= 2 * cache
        attention = case.operator in ("gat_aggregate", "graph_attention")
        count = min(case.slabs, most_checked) if attention and most_checked else case.slabs
        self.checked_slabs = np.linspace(0, case.slabs - 1, count).astype(int)
        self._arranged: dict[tuple[int, str], dict[str, Tensor]] = {}
        self._answers: dict[bool, Reference] = {}

    # ---------------------------------------------------------------- the graph
    @cached_property
    def adjacency(self) -> Adjacency:
        """In-edges as rows with indices of 32 bits; entries stand in the order of the edges. Arranged beforehand."""
        return Adjacency(self._index(self.graph.rowptr, torch.int32), self._index(self.graph.source, torch.int32),
                         columns=self.nodes).arrange()

    @cached_property
    def rowptr(self) -> Tensor:
        """Where each destination's edges begin, int64."""
        return self._index(self.graph.rowptr)

    @cached_property
    def col(self) -> Tensor:
        """Source of each edge, int64."""
        return self._index(self.graph.source)

    @cached_property
    def row(self) -> Tensor:
        """Destination of each edge, int64."""
        return self._index(self.graph.destination)

    @cached_property
    def degree(self) -> Tensor:
        """In-edges of each node, at least 1, in the type of the features."""
        return self.rowptr.diff().clamp(min=1).to(self.dtype)

    def _index(self, values: np.ndarray, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, dtype)

    # ---------------------------------------------------------------- operands
    def operands(self, number: int, layout: str) -> dict[str, Tensor]:
        """Operands of one set, by name; the gradient that comes from above is ``grad``."""
        key = (number, layout)
        if key not in self._arranged:
            if layout == BATCH:
                self._arranged[key] = self._drawn(number)
            else:
                batch = self.operands(number, BATCH)
                self._arranged[key] = {name: value if name == "weight" or self.slabs == 1
                                       else value.transpose(0, 1).contiguous() for name, value in batch.items()}
        return self._arranged[key]

    def _drawn(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        case, lead = self.case, () if self.slabs == 1 else (self.slabs,)
        heads, width = case.heads, case.features // case.heads
        rows, cells = (*lead, self.nodes, case.features), (*lead, self.nodes, heads, width)
        shapes: dict[str, tuple[int, ...]] = {
            "spmm": {"x": rows, "grad": rows},
            "gat_aggregate": {"score_source": cells[:-1], "score_destination": cells[:-1], "v": cells, "grad": cells},
            "graph_attention": dict.fromkeys(("q", "k", "v", "grad"), cells),
            "sddmm": {"a": rows, "b": rows},
            "segment_reduce": {"src": (*lead, self.edges, case.features)},
            "gather_rows": {"x": rows},
        }[case.operator]
        drawn = {name: torch.randn(shape, generator=generator).to(self.device, self.dtype)
                 for name, shape in shapes.items()}
        if case.operator == "spmm":  # one matrix serves all sets, as one graph serves all batches
            drawn["weight"] = self.operands(0, BATCH)["weight"] if number else \
                (0.1 + torch.rand(self.edges, generator=generator)).to(self.device, self.dtype)
        return drawn

    def leaves(self, run: str) -> tuple[str, ...]:
        """Operands whose gradient a pass computes."""
        names = {"spmm": ("x", "weight"), "gat_aggregate": ("score_source", "score_destination", "v"),
                 "graph_attention": ("q", "k", "v")}[self.case.operator]
        return names[:1] if run == BACKWARD and self.case.operator == "spmm" else names

    def canonical(self, value: Tensor, layout: str) -> Tensor:
        """A result as ``[S, N, ...]``; weights as they are."""
        if value.shape == (self.edges,):
            return value
        if self.slabs == 1:
            return value.unsqueeze(0)
        return value if layout == BATCH else value.transpose(0, 1)

    # ---------------------------------------------------------------- the right answer
    def checked(self, value: Tensor) -> np.ndarray:
        """The slabs of ``[S, N, ...]`` that are compared, as float64; weights as they are."""
        wide: np.ndarray = value.double().cpu().numpy()
        return wide if wide.shape == (self.edges,) else wide[self.checked_slabs]

    def answer(self, run: str) -> Reference:
        """Results of set 0 in float64, with what an error is measured by; gradients too where the pass has them."""
        gradients = run not in (FORWARD, RECORDED)
        if gradients not in self._answers:
            found = {name: self.checked(self.canonical(value, BATCH))
                     for name, value in self.operands(0, BATCH).items()}
            self._answers[gradients] = reference(self.case, self.graph, found, gradients, SLOPE)
        return self._answers[gradients]
