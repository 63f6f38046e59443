"""A summary of a graph: counts, spans, gaps, ranges, provenance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from stgraph.graph.dynamic import DynamicHeteroGraph
from stgraph.graph.signal import Signal


def describe(graph: DynamicHeteroGraph) -> dict[str, Any]:
    """Counts of nodes and edges, the time span, each signal's channels (in the unit of the source), provenance."""
    span = None
    if graph.time is not None and graph.time.length:
        ends = graph.time.times(np.array([0, graph.time.length - 1]))
        first, last = (pd.Timestamp(int(end), unit="s", tz="UTC").tz_convert(graph.time.tz).isoformat()
                       for end in ends)
        span = {"from": first, "to": last, "step_s": graph.time.step, "steps": graph.time.length,
                "tz": graph.time.tz, "steps_per_day": graph.time.steps_per_day}
    signals = {}
    for kind in [*graph.node_types, *graph.edge_types]:
        for name, signal in graph.signals(kind).items():
            label = kind if isinstance(kind, str) else "__".join(kind)
            signals[f"{label}/{name}"] = _signal(signal)
    return {
        "name": graph.metadata.get("name"),
        "simulated": bool(graph.metadata.get("simulated", False)),
        "nodes": {kind: int(graph[kind].num_nodes) for kind in graph.node_types},
        "edges": {"__".join(kind): int(graph[kind].edge_index.shape[1]) for kind in graph.edge_types},
        "time": span,
        "signals": signals,
        "sources": graph.metadata.get("sources", []),
    }


def _signal(signal: Signal, chunk: int = 2048) -> dict[str, Any]:
    rows, _, channels = signal.shape
    count, total = np.zeros(channels), np.zeros(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    silent, run, longest = 0, 0, 0
    for start in range(0, rows, chunk):
        values, mask = signal.read(start, min(start + chunk, rows))
        count += mask.sum((0, 1))
        total += np.where(mask, values, 0).sum((0, 1), dtype=np.float64)
        low = np.minimum(low, np.where(mask, values, np.inf).min((0, 1)))
        high = np.maximum(high, np.where(mask, values, -np.inf).max((0, 1)))
        for empty in np.logical_not(mask.any((1, 2))):
            run = run + 1 if empty else 0
            silent, longest = silent + int(empty), max(longest, run)
    entries = []
    for index, channel in enumerate(signal.channels):
        seen = count[index] > 0
        in_source = [float(signal.to_source(value, index)) if seen else None
                     for value in (low[index], high[index], total[index] / max(count[index], 1))]
        entries.append(channel.to_dict() | {
            "observed_share": float(count[index] / max(1, signal.shape[0] * signal.shape[1])),
            "min": in_source[0], "max": in_source[1], "mean": in_source[2]})
    return {"shape": list(signal.shape), "channels": entries, "rows_without_reading": silent,
            "longest_gap_steps": longest}
