"""The order of nodes: along a space-filling curve, by degree, or as given; and the way back to the user's order.

The positions of the nodes in the user's order travel with them as the attribute ``user_index``, so that every part
that is later cut from a reordered graph still knows the way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph.snapshot import take

if TYPE_CHECKING:
    from stgraph.graph.dynamic import DynamicHeteroGraph

BITS = 16
"""Bits per axis of a Hilbert key."""


def reorder(graph: DynamicHeteroGraph, order: Literal["hilbert", "degree"] | np.ndarray | Tensor,
            node_type: str | None = None) -> DynamicHeteroGraph:
    """A graph whose nodes stand in another order; edges keep theirs, with their ends renumbered.

    Args:
        graph: The graph; it is not changed.
        order: ``hilbert``: along a Hilbert curve through ``pos`` or ``lonlat``, nodes without a place last.
            ``degree``: most connected first. Otherwise positions ``[N]``: node ``order[i]`` becomes node ``i``. Ties
            keep their order.
        node_type: Whose nodes; None for all types, and with ``hilbert`` all that have places.

    Raises:
        InputError: for an order that is not known or is no permutation, or places that are not there.
    """
    kinds = [node_type] if node_type is not None else graph.node_types
    for kind in kinds:
        graph.size_of(kind)
    if not isinstance(order, str) and len(kinds) != 1:
        raise InputError("one permutation does not fit several node types", field="type",
                         remedy=f"say which one of {', '.join(graph.node_types)}")
    chosen: dict[str, Tensor] = {}
    for kind in kinds:
        if not isinstance(order, str):
            chosen[kind] = _permutation(order, graph.size_of(kind))
        elif order == "hilbert":
            store = graph[kind]
            if node_type is None and "pos" not in store and "lonlat" not in store:
                continue
            chosen[kind] = torch.from_numpy(np.argsort(hilbert_key(_places(graph, kind)), kind="stable"))
        elif order == "degree":
            chosen[kind] = torch.argsort(_degree(graph, kind), descending=True, stable=True)
        else:
            raise InputError("no such order", field="order", value=order,
                             remedy="use hilbert, degree, or an array of positions")
    out = take(graph, chosen)
    for kind, permutation in chosen.items():
        if "user_index" not in out[kind]:
            out[kind].user_index = permutation
    return out


def undo_reorder(graph: DynamicHeteroGraph) -> DynamicHeteroGraph:
    """The graph in the order of the user; a graph that was never reordered comes back as it is."""
    chosen = {kind: torch.argsort(graph[kind].user_index.cpu(), stable=True)
              for kind in graph.node_types if "user_index" in graph[kind]}
    out = take(graph, chosen)
    for kind in chosen:
        del out[kind].user_index
        out.schema.of(kind).pop("user_index", None)
    return out


def to_user_order(graph: DynamicHeteroGraph, node_type: str, array: Any, dim: int = 0) -> Any:
    """Results of a reordered graph in the order of the user.

    Args:
        graph: The reordered graph, or a part of one.
        node_type: Whose nodes.
        array: Tensor or numpy array with the nodes on axis ``dim``.
        dim: The axis of the nodes; negative counts from the end.

    Raises:
        InputError: where the axis has another size than the node type.
    """
    size = graph.size_of(node_type)
    if array.shape[dim] != size:
        raise InputError("the axis does not hold the nodes", field="dim", value=f"size {array.shape[dim]} at {dim}",
                         remedy=f"choose the axis of size {size}")
    if "user_index" not in graph[node_type]:
        return array
    back = torch.argsort(graph[node_type].user_index, stable=True)
    if isinstance(array, Tensor):
        return array.index_select(dim, back.to(array.device))
    return np.take(array, back.cpu().numpy(), axis=dim)


def hilbert_key(places: np.ndarray) -> np.ndarray:
    """Position along a Hilbert curve of 2^16 x 2^16 cells over the bounding square of the places.

    The curve of D. Hilbert, "Ueber die stetige Abbildung einer Linie auf ein Flaechenstueck" (1891); from the coarsest
    to the finest of 16 levels, each quadrant is numbered and turned into the frame of the whole.

    Args:
        places: ``[N, 2]`` float; NaN for a place that is not known.

    Returns:
        ``[N]`` int64; unknown places come after all others.
    """
    known = np.isfinite(places).all(1)
    key = np.full(len(places), 1 << 2 * BITS, dtype=np.int64)
    if not known.any():
        return key
    inside = places[known].astype(np.float64)
    low = inside.min(0)
    extent = (inside.max(0) - low).max()  # one scale for both axes, so that cells are squares
    cells = np.zeros(inside.shape, dtype=np.int64) if extent == 0 else \
        np.minimum((inside - low) / extent * (1 << BITS), (1 << BITS) - 1).astype(np.int64)
    x, y = cells.T
    found = np.zeros(len(inside), dtype=np.int64)
    for level in range(BITS - 1, -1, -1):
        half = 1 << level
        right, upper = (x & half) > 0, (y & half) > 0
        found += half * half * (3 * right ^ upper)
        x, y = x & (half - 1), y & (half - 1)
        mirror = right & ~upper
        x, y = np.where(mirror, half - 1 - x, x), np.where(mirror, half - 1 - y, y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)  # the lower quadrants run with their axes exchanged
    key[known] = found
    return key


def _places(graph: DynamicHeteroGraph, kind: str) -> np.ndarray:
    store = graph[kind]
    for name in ("pos", "lonlat"):
        if name in store:
            return store[name].cpu().numpy()
    raise InputError("the Hilbert order needs places", field=kind, remedy="give lonlat or pos, or order by degree")


def _degree(graph: DynamicHeteroGraph, kind: str) -> Tensor:
    degree = torch.zeros(graph.size_of(kind), dtype=torch.int64)
    for source, relation, destination in graph.edge_types:
        index = graph[source, relation, destination].edge_index.cpu()
        for side, node_type in enumerate((source, destination)):
            if node_type == kind:
                degree += torch.bincount(index[side], minlength=len(degree))
    return degree


def _permutation(order: np.ndarray | Tensor, size: int) -> Tensor:
    chosen = torch.as_tensor(order).cpu()
    if chosen.dtype == torch.bool or chosen.is_floating_point() or chosen.dim() != 1 or len(chosen) != size \
            or not torch.equal(chosen.sort().values, torch.arange(size)):
        raise InputError("the order is not a permutation of the nodes", field="order", value=tuple(chosen.shape),
                         remedy=f"give every position from 0 to {size - 1} once")
    return chosen.long()
