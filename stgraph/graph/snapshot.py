"""Cutting a graph: by nodes, by edges, and by time.

A node lives in ``[valid_from, valid_to)``; an edge lives only while it and both its ends do, so its own interval is
clipped to theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph.geometry import Geometry
from stgraph.graph.schema import EdgeType, GraphType
from stgraph.graph.signal import Signal
from stgraph.graph.time import TimeAxis, instant

if TYPE_CHECKING:
    from stgraph.graph.dynamic import DynamicHeteroGraph

OPEN_START = int(np.iinfo(np.int64).min)
"""``valid_from`` of what has always been there."""
OPEN_END = int(np.iinfo(np.int64).max)
"""``valid_to`` of what never ends."""


def at(graph: DynamicHeteroGraph, t: Any) -> DynamicHeteroGraph:
    """The graph as it stands at an instant.

    Nodes and edges that live at ``t``, relabelled; ``n_id`` and ``e_id`` give their positions in ``graph``. Signals
    are reduced to the one row whose step holds ``t``; outside the axis (or in the night of a service axis) that row
    is there and nothing in it is observed.

    Args:
        graph: The graph.
        t: Seconds since 1970-01-01 UTC, an ISO text, or a pandas Timestamp; without an offset, on the graph's clock.

    Raises:
        InputError: for a time that cannot be read.
    """
    moment = _seconds(graph, t)
    out = _living(graph, moment, None)
    if graph.time is None:
        return out
    axis = graph.time
    row = int(axis.row_of(moment))
    held = 0 <= row < axis.length and moment < int(axis.times(np.array([row]))[0]) + axis.step
    if held:
        _cut_rows(out, axis.slice(row, row + 1), row, row + 1)
    else:
        start = moment - (moment - axis.start) % axis.step
        out.time = TimeAxis(start, axis.step, 1, axis.tz, axis.steps_per_day)
        for kind, found in out._signals.items():
            out._signals[kind] = {name: _unobserved(signal) for name, signal in found.items()}
    return out


def window(graph: DynamicHeteroGraph, t0: Any, t1: Any) -> DynamicHeteroGraph:
    """Everything that lives at some time in ``[t0, t1)``, with its intervals as they are.

    Signals keep the rows that start in ``[t0, t1)``, as views: the windows of adjacent intervals share no row and
    lose none. ``n_id`` and ``e_id`` give positions in ``graph``.

    Args:
        graph: The graph.
        t0: First instant, as for :func:`at`.
        t1: First instant after the window.

    Raises:
        InputError: for a time that cannot be read, or an empty window.
    """
    first, last = _seconds(graph, t0), _seconds(graph, t1)
    if first >= last:
        raise InputError("the window ends before it starts", field="window", value=f"{t0} .. {t1}",
                         remedy="give the earlier time first")
    out = _living(graph, first, last)
    if graph.time is not None:
        start, stop = (int(row) for row in np.searchsorted(graph.time.times(), [first, last]))
        _cut_rows(out, graph.time.slice(start, stop), start, stop)
    return out


def take(graph: DynamicHeteroGraph, nodes: dict[str, Tensor],
         edges: dict[EdgeType, Tensor] | None = None) -> DynamicHeteroGraph:
    """The graph of chosen nodes with the chosen edges among them, both in the given order.

    Args:
        graph: The graph; it is not changed.
        nodes: Per node type, distinct positions ``[n]`` int64; types that are left out stay whole.
        edges: Per edge type, positions ``[e]`` int64; types that are left out keep every edge whose ends are there.
    """
    out = graph.__copy__()
    out._csr.clear()
    renumber: dict[str, Tensor] = {}
    for kind, chosen in nodes.items():
        renumber[kind] = torch.full((graph.size_of(kind),), -1, dtype=torch.int64)
        renumber[kind][chosen] = torch.arange(len(chosen))
        store = out._node_store_dict[kind]
        _select(store, graph._node_store_dict[kind], chosen, graph.size_of(kind))
        if "num_nodes" in store:
            store.num_nodes = len(chosen)
        _select_signals(out, kind, chosen)
    for kind in graph.edge_types:
        source, _, destination = kind
        wanted = (edges or {}).get(kind)
        if wanted is None and source not in nodes and destination not in nodes:
            continue
        kept_store = graph._edge_store_dict[kind]
        index = kept_store.edge_index
        chosen = torch.arange(index.shape[1]) if wanted is None else wanted
        ends = [renumber[end][side] if end in renumber else side
                for end, side in zip((source, destination), index[:, chosen].cpu(), strict=True)]
        alive = (ends[0] >= 0) & (ends[1] >= 0)
        chosen = chosen[alive]
        _select(out._edge_store_dict[kind], kept_store, chosen, index.shape[1])
        out._edge_store_dict[kind].edge_index = torch.stack(ends)[:, alive].to(index.device)
        if len(chosen) < index.shape[1] or wanted is not None:
            _select_signals(out, kind, chosen)
    return out


def positions(subset: Any, size: int) -> Tensor:
    """Positions ``[n]`` int64 from positions or a mask ``[size]``."""
    chosen = torch.as_tensor(subset).cpu()
    return chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen.long()


def lives(graph: DynamicHeteroGraph, kind: GraphType) -> tuple[Tensor, Tensor] | None:
    """``valid_from`` and ``valid_to`` of every node or edge of a type, ``[N]`` int64 each; None where all live always.

    The intervals of edges are clipped to those of their ends.
    """
    size = graph.size_of(kind)
    store = graph._store(kind)
    given = "valid_from" in store or "valid_to" in store
    start = store.valid_from.cpu() if "valid_from" in store else torch.full((size,), OPEN_START)
    end = store.valid_to.cpu() if "valid_to" in store else torch.full((size,), OPEN_END)
    if not isinstance(kind, str):
        for side, node_type in zip(store.edge_index.cpu(), (kind[0], kind[2]), strict=True):
            if (life := lives(graph, node_type)) is not None:
                given = True
                start, end = torch.maximum(start, life[0][side]), torch.minimum(end, life[1][side])
    return (start, end) if given else None


def _living(graph: DynamicHeteroGraph, first: int, last: int | None) -> DynamicHeteroGraph:
    """The part of a graph that lives at ``first``, or somewhere in ``[first, last)``, with ``n_id`` and ``e_id``."""
    chosen: dict[GraphType, Tensor] = {}
    for kind in (*graph.node_types, *graph.edge_types):
        life = lives(graph, kind)
        if life is None:
            continue
        # an interval clipped to nothing (start >= end) meets no window, so the clipped bounds are compared with it
        start, end = life[0].clamp(min=first), life[1] if last is None else life[1].clamp(max=last)
        chosen[kind] = ((life[0] <= first) & (first < end) if last is None else start < end).nonzero().squeeze(1)
    out = take(graph, {kind: found for kind, found in chosen.items() if isinstance(kind, str)},
               {kind: found for kind, found in chosen.items() if not isinstance(kind, str)})
    for kind in out.node_types:
        out._node_store_dict[kind].n_id = chosen.get(kind, torch.arange(graph.size_of(kind)))
    for kind in out.edge_types:
        out._edge_store_dict[kind].e_id = chosen.get(kind, torch.arange(graph.size_of(kind)))
    return out


def _seconds(graph: DynamicHeteroGraph, t: Any) -> int:
    if isinstance(t, (int, np.integer)):
        return int(t)
    return instant(t, graph.time.tz if graph.time is not None else "UTC")


def _select(target: Any, source: Any, chosen: Tensor, size: int) -> None:
    for name, value in source.items():
        if name in ("edge_index", "num_nodes"):
            continue
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == size:
            target[name] = value.index_select(0, chosen.to(value.device))
        elif isinstance(value, (np.ndarray, Geometry)) and value.ndim and value.shape[0] == size:
            target[name] = value[chosen.numpy()]


def _select_signals(out: DynamicHeteroGraph, kind: GraphType, chosen: Tensor) -> None:
    if kind in out._signals:
        out._signals[kind] = {name: signal.select(nodes=chosen.numpy())
                              for name, signal in out._signals[kind].items()}


def _cut_rows(out: DynamicHeteroGraph, axis: TimeAxis, start: int, stop: int) -> None:
    out.time = axis
    for kind, found in out._signals.items():
        out._signals[kind] = {name: signal.select(rows=slice(start, stop)) for name, signal in found.items()}


def _unobserved(signal: Signal) -> Signal:
    shape = (1, *signal.shape[1:])
    return Signal(np.zeros(shape, signal.values.dtype), np.zeros(shape, bool), signal.channels)
