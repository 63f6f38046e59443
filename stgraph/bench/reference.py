"""The right answer in float64, by NumPy and SciPy alone, and the size by which an error is measured.

An error is measured against the sum of the sizes of the terms that were added up, so that a long row with a small sum
is not held to digits that nobody's sum has; for attention, against the largest number of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from stgraph.bench.case import Case
from stgraph.bench.graphs import BenchGraph

TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Largest error that passes. A sum that is rounded to 16 bits at every addition passes where rows are short."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Values and the sizes that their errors are divided by, by name: ``out``, and the operands that have gradients.

    Args:
        values: ``[S, N, ...]`` float64; of weights ``[E]``.
        sizes: Of the same shape, or one number.
    """

    values: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]

    def error(self, name: str, value: np.ndarray) -> float:
        """Largest error of a result; infinite for another shape, or numbers that are not finite."""
        wanted, size = self.values[name], self.sizes[name]
        if value.shape != wanted.shape or not np.isfinite(value).all():
            return float("inf")
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.abs(value - wanted) / size
        return float(np.where((size == 0) & (value == wanted), 0.0, error).max(initial=0.0))


def reference(case: Case, graph: BenchGraph, operands: dict[str, np.ndarray], gradients: bool,
              slope: float) -> Reference:
    """Results of a case, and its gradients where asked for.

    Args:
        case: What is computed.
        graph: The graph.
        operands: ``[S, N, ...]`` float64 by name; ``weight`` is ``[E]``.
        gradients: Of all operands that have one.
        slope: Of the leaky ReLU.
    """
    if case.operator == "spmm":
        return _spmm(case, graph, operands, gradients)
    if case.operator in ("gat_aggregate", "graph_attention"):
        return _attention(case, graph, operands, gradients, slope)
    if case.operator == "sddmm":
        a, b = operands["a"], operands["b"]
        terms = [_by_head(left[graph.destination] * right[graph.source], case.heads)
                 for left, right in zip(a, b, strict=True)]
        return Reference({"out": np.stack([term.sum(-1) for term in terms])},
                         {"out": np.stack([np.abs(term).sum(-1) for term in terms])})
    if case.operator == "segment_reduce":
        src = operands["src"]
        rows = _matrix(graph, np.ones(graph.edges), np.arange(graph.edges), graph.edges)
        return Reference({"out": np.stack([rows @ slab for slab in src])},
                         {"out": np.stack([rows @ np.abs(slab) for slab in src])})
    out = operands["x"][:, graph.source]
    return Reference({"out": out}, {"out": np.abs(out)})


def _matrix(graph: BenchGraph, values: np.ndarray, columns: np.ndarray, width: int) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array((values, columns, graph.rowptr), shape=(graph.nodes, width))


def _by_head(x: np.ndarray, heads: int) -> np.ndarray:
    return x.reshape(*x.shape[:-1], heads, -1)


# ---------------------------------------------------------------- products
def _spmm(case: Case, graph: BenchGraph, operands: dict[str, np.ndarray], gradients: bool) -> Reference:
    x, weight = operands["x"], operands["weight"]
    if case.reduce == "max":
        out = np.stack([_row_maximum(graph, weight[:, None] * slab[graph.source]) for slab in x])
        return Reference({"out": out}, {"out": np.full_like(out, np.abs(out).max(initial=0.0))})
    if case.reduce == "mean":
        weight = weight / np.maximum(np.diff(graph.rowptr), 1)[graph.destination]
    product = _matrix(graph, weight, graph.source, graph.nodes)
    values = {"out": np.stack([product @ slab for slab in x])}
    sizes = {"out": np.stack([product @ np.abs(slab) for slab in x])}
    if gradients:
        back, grad = product.T.tocsr(), operands["grad"]
        values["x"] = np.stack([back @ slab for slab in grad])
        sizes["x"] = np.stack([back @ np.abs(slab) for slab in grad])
        values["weight"], sizes["weight"] = np.zeros(graph.edges), np.zeros(graph.edges)
        for above, below in zip(grad, x, strict=True):
            for part in _parts(graph.edges, x.shape[-1]):
                terms = above[graph.destination[part]] * below[graph.source[part]]
                values["weight"][part] += terms.sum(-1)
                sizes["weight"][part] += np.abs(terms).sum(-1)
    return Reference(values, sizes)


def _parts(entries: int, width: int, most: int = 1 << 25) -> list[slice]:
    """Slices of the entries whose products have at most so many numbers."""
    step = max(most // max(width, 1), 1)
    return [slice(start, start + step) for start in range(0, entries, step)]


def _row_maximum(graph: BenchGraph, messages: np.ndarray) -> np.ndarray:
    """Largest message of each row; 0 for a row without."""
    out = np.zeros((graph.nodes, *messages.shape[1:]))
    filled = np.diff(graph.rowptr) > 0
    if len(messages):
        out[filled] = np.maximum.reduceat(messages, graph.rowptr[:-1][filled], axis=0)
    return out


def _row_sum(graph: BenchGraph, messages: np.ndarray) -> np.ndarray:
    rows = _matrix(graph, np.ones(graph.edges), np.arange(graph.edges), graph.edges)
    return (rows @ messages.reshape(len(messages), -1)).reshape(graph.nodes, *messages.shape[1:])


# ---------------------------------------------------------------- attention
def _attention(case: Case, graph: BenchGraph, operands: dict[str, np.ndarray], gradients: bool,
               slope: float) -> Reference:
    found: dict[str, list[np.ndarray]] = {}
    for slab in range(len(operands["v"])):
        one = {name: value[slab] for name, value in operands.items()}
        for name, value in _attend(graph, one, gradients, slope).items():
            found.setdefault(name, []).append(value)
    values = {name: np.stack(parts) for name, parts in found.items()}
    return Reference(values, {name: np.array(np.abs(value).max(initial=0.0)) for name, value in values.items()})


def _attend(graph: BenchGraph, one: dict[str, np.ndarray], gradients: bool, slope: float) -> dict[str, np.ndarray]:
    """Attention of one slab: ``[N, H, D]`` values; gradients by hand, from the formula of the softmax."""
    source, destination = graph.source, graph.destination
    product = "q" in one
    if product:
        scale = 1 / np.sqrt(one["q"].shape[-1])
        score = (one["q"][destination] * one["k"][source]).sum(-1) * scale
    else:
        raw = one["score_source"][source] + one["score_destination"][destination]
        score = np.where(raw > 0, raw, slope * raw)
    mass = np.exp(score - _row_maximum(graph, score)[destination])
    share = mass / _row_sum(graph, mass)[destination]
    value = one["v"][source]
    out = {"out": _row_sum(graph, share[..., None] * value)}
    if not gradients:
        return out
    order = np.argsort(source, kind="stable")
    turned = BenchGraph("", graph.nodes, destination[order], source[order], "")
    above = one["grad"][destination]
    through = (above * value).sum(-1)
    through = share * (through - _row_sum(graph, share * through)[destination])
    out["v"] = _row_sum(turned, (share[..., None] * above)[order])
    if product:
        through = through[..., None] * scale
        out["q"] = _row_sum(graph, through * one["k"][source])
        out["k"] = _row_sum(turned, (through * one["q"][destination])[order])
    else:
        through = through * np.where(raw > 0, 1.0, slope)
        out["score_source"] = _row_sum(turned, through[order])
        out["score_destination"] = _row_sum(graph, through)
    return out
