"""What a case cannot do without: bytes that must move, operations, and bytes that are gathered edge by edge.

Minimal bytes: every input is read once, every output written once, indices and weights included; what a cache saves or
costs is not counted. Operations: a multiplication and an addition each count as one; exponentials are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from stgraph.bench.case import BACKWARD, BOTH, FORWARD, RECORDED, WEIGHTS, Case
from stgraph.errors import InputError

INDEX = 4
"""Bytes of an index."""
ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Cost:
    """The least a case costs.

    Args:
        moved: Bytes read and written at least.
        operations: Floating-point operations.
        gathered: Bytes of the features of all edges' sources, which an unfused product reads.
        inputs: Bytes of the features and weights that are read.
        outputs: Bytes of the results.
    """

    moved: int
    operations: int
    gathered: int
    inputs: int
    outputs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.moved + other.moved, self.operations + other.operations, self.gathered + other.gathered,
                    self.inputs + other.inputs, self.outputs + other.outputs)


def cost(case: Case, nodes: int, edges: int) -> Cost:
    """The least that a case costs on a graph of so many nodes and directed edges.

    Raises:
        InputError: for an operator or a pass that is not known.
    """
    if case.run == BOTH:
        return _one_pass(case, FORWARD, nodes, edges) + _one_pass(case, WEIGHTS, nodes, edges)
    return _one_pass(case, case.run, nodes, edges)


def _one_pass(case: Case, run: str, nodes: int, edges: int) -> Cost:
    size = ITEMSIZE[case.dtype]
    width = case.slabs * case.features
    rows = nodes * width * size  # features of all nodes
    per_edge = edges * width * size
    scores = nodes * case.slabs * case.heads * size
    wide_lse = nodes * case.slabs * case.heads * max(size, 4)
    graph = (edges + nodes + 1) * INDEX
    product = 2 * edges * width
    if run in (FORWARD, RECORDED):
        lse = 0 if run == FORWARD else wide_lse
        table = {  # inputs, outputs, operations, indices
            "spmm": (rows + edges * size, rows, product, graph),
            "gat_aggregate": (rows + 2 * scores, rows + lse, product, graph),
            "graph_attention": (3 * rows, rows + lse, 2 * product, graph),
            "sddmm": (2 * rows, edges * case.slabs * case.heads * size, product, graph),
            "segment_reduce": (per_edge, rows, edges * width, (nodes + 1) * INDEX),
            "gather_rows": (rows, per_edge, 0, edges * INDEX),
        }
    elif run in (BACKWARD, WEIGHTS):
        also = run == WEIGHTS
        table = {
            "spmm": (rows + edges * size + also * rows, rows + also * edges * size, product * (1 + also),
                     graph + edges * INDEX + also * graph),
            "gat_aggregate": (3 * rows + 2 * scores + wide_lse, rows + 2 * scores, 2 * product, 2 * graph),
            "graph_attention": (5 * rows + wide_lse, 3 * rows, 5 * product, 2 * graph),
        }
    else:
        raise InputError("no such pass", field="run", value=run)
    if case.operator not in table:
        raise InputError("this operator is not timed in this pass", field="operator", value=f"{case.operator}, {run}")
    inputs, outputs, operations, indices = table[case.operator]
    return Cost(inputs + outputs + indices, operations, per_edge, inputs, outputs)
