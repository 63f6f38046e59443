"""A summary of a graph: counts, spans, gaps, ranges, words, likeness in space and time, provenance.

The work is bounded: of a signal with more than :data:`LIMIT` entries some stretches of rows are read, and of a signal
with many long series some series are compared with their past; how many is in the summary (``sample``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.graph.plain import SOURCE, TARGET, GraphTables, numbers
from stgraph.graph.schema import EdgeType, GraphType, label
from stgraph.graph.signal import Signal
from stgraph.graph.statistics import AutocorrelationSums, MoranResult, morans_i, smirnov
from stgraph.graph.time import DAY, TimeAxis

if TYPE_CHECKING:
    from stgraph.graph.dynamic import DynamicHeteroGraph

LIMIT = 50_000_000
"""Entries of a signal that are looked at."""
SERIES = 16_000_000
"""Entries of the series that are compared with their past and with each other."""
WORDS = 5
"""Words of a category that are named, the most frequent."""
_CHUNK = 4_000_000
_SLOTS, _EDGES = 8, 2_000_000
_SAMPLE = 50_000  # values of one distribution
_BOOKKEEPING = {"node_id", "n_id", "e_id", "user_index", "geometry", SOURCE, TARGET}


def describe(graph: DynamicHeteroGraph | GraphTables, distribution: bool = False, limit: int = LIMIT) -> dict[str, Any]:
    """Counts of nodes and edges, the time span, each signal's channels (in the unit of the source), provenance.

    Args:
        graph: The graph, or its tables.
        distribution: Whether the values of different days and places are compared too.
        limit: Entries of a signal to look at; of a larger one, stretches of rows are.

    Returns:
        Plain values for JSON: ``name, simulated, nodes, edges, attributes, extent, lives, time, signals, tables,
        sources, licences, attribution``.
    """
    tables: GraphTables = graph if isinstance(graph, GraphTables) else GraphTables.of_graph(graph)
    signals = {f"{label(kind)}/{name}": _signal(tables, kind, signal, distribution, limit)
               for kind, found in tables.signals.items() for name, signal in found.items()}
    sizes = {} if isinstance(graph, GraphTables) else {kind: graph.size_of(kind) for kind in graph.node_types}
    sources = tables.metadata.get("sources", [])
    return {
        "name": tables.metadata.get("name"),
        "simulated": bool(tables.metadata.get("simulated", False)),
        "nodes": {kind: sizes.get(kind, len(table)) for kind, table in tables.nodes.items()},
        "edges": {label(kind): len(table) for kind, table in tables.edges.items()},
        "attributes": _attributes(tables),
        "extent": _extent(tables),
        "lives": {label(kind): _lives(table) for kind, table in tables.items()
                  if {"valid_from", "valid_to"} & set(table.column_names)},
        "time": _span(tables.time),
        "signals": signals,
        "tables": sorted(tables.tables),
        "sources": sources,
        "licences": _distinct(sources, "licence"),
        "attribution": _distinct(sources, "attribution"),
    }


# ---------------------------------------------------------------- attributes and places
def _attributes(tables: GraphTables) -> dict[str, dict[str, Any]]:
    """Per type and attribute: data type, unit, and the range, or the most frequent words, of its values."""
    found: dict[str, dict[str, Any]] = {}
    schema = tables.complete_schema()
    for kind, table in tables.items():
        described = {name: {"dtype": attribute.dtype, "unit": attribute.unit} | _values(table[name])
                     for name, attribute in schema.of(kind).items()
                     if name in table.column_names and name not in _BOOKKEEPING and name != "lonlat"}
        if described:
            found[label(kind)] = described
    return found


def _values(column: pa.ChunkedArray) -> dict[str, Any]:
    if pa.types.is_dictionary(column.type):
        words = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        counts = np.bincount(numbers(column), minlength=len(words)) if len(column) else np.zeros(len(words), np.int64)
        order = np.argsort(-counts, kind="stable")[:WORDS]
        return {"words": {words[i]: int(counts[i]) for i in order if counts[i]},
                "distinct": int((counts > 0).sum())}
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return {"distinct": int(pc.count_distinct(column).as_py())}
    if pa.types.is_fixed_size_list(column.type):
        return {"shape": [column.type.list_size]}
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return {}
    values = numbers(column)
    if values.dtype == np.bool_:
        return {"share": float(values.mean()) if len(values) else None}
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not len(known):
        return {"min": None, "max": None, "mean": None, "known_share": 0.0 if len(values) else None}
    low, high = known.min(), known.max()
    return {"min": low.item(), "max": high.item(), "mean": float(known.mean(dtype=np.float64)),
            "known_share": len(known) / len(values)}


def _extent(tables: GraphTables) -> dict[str, list[float]]:
    """Per node type, west, south, east and north in degrees; west is larger than east across the 180th meridian."""
    found = {}
    for kind, table in tables.nodes.items():
        if "lonlat" not in table.column_names:
            continue
        places = numbers(table["lonlat"])
        places = places[np.isfinite(places).all(1)]
        if len(places):
            west, east = _narrowest(places[:, 0])
            found[kind] = [west, float(places[:, 1].min()), east, float(places[:, 1].max())]
    return found


def _narrowest(longitude: np.ndarray) -> tuple[float, float]:
    """The ends of the shortest arc that holds all longitudes."""
    ordered = np.unique(longitude)
    gaps = np.append(np.diff(ordered), ordered[0] + 360.0 - ordered[-1])
    widest = len(gaps) - 1 - int(np.argmax(gaps[::-1]))  # the gap round the back of the globe, where gaps are equal
    return float(ordered[(widest + 1) % len(ordered)]), float(ordered[widest])


def _lives(table: pa.Table) -> dict[str, int]:
    """How many nodes or edges do not live always, and how many instants something begins or ends."""
    bounds = {name: numbers(table[name]) for name in ("valid_from", "valid_to") if name in table.column_names}
    open_ends = {"valid_from": np.iinfo(np.int64).min, "valid_to": np.iinfo(np.int64).max}
    bounded = [values != open_ends[name] for name, values in bounds.items()]
    instants = [values[some] for values, some in zip(bounds.values(), bounded, strict=True)]
    return {"bounded": int(np.logical_or.reduce(bounded).sum()), "changes": len(np.unique(np.concatenate(instants)))}


def _distinct(sources: Any, key: str) -> list[str]:
    found = [str(source[key]) for source in sources or () if isinstance(source, dict) and source.get(key)]
    return list(dict.fromkeys(found))


def _span(axis: TimeAxis | None) -> dict[str, Any] | None:
    if axis is None or not axis.length:
        return None
    ends = axis.times(np.array([0, axis.length - 1]))
    first, last = (pd.Timestamp(int(end), unit="s", tz="UTC").tz_convert(axis.tz).isoformat() for end in ends)
    return {"from": first, "to": last, "step_s": axis.step, "steps": axis.length, "tz": axis.tz,
            "steps_per_day": axis.steps_per_day}


# ---------------------------------------------------------------- signals
@dataclass
class _Sums:
    """What one pass over the rows of a signal gives. ``N`` places, ``C`` channels, ``K`` kept series."""

    count: np.ndarray  # [N, C]
    total: np.ndarray  # [N, C]
    low: np.ndarray  # [C]
    high: np.ndarray  # [C]
    slot_count: np.ndarray  # [slots, N, C]
    slot_total: np.ndarray  # [slots, N, C]
    silent: int = 0
    longest: int = 0
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)  # rows, values, mask [R, K, C]


def stretches(rows: int, wanted: int, per_day: int) -> list[tuple[int, int]]:
    """Stretches of at most ``wanted`` of so many rows: all, or up to eight of some days spread evenly."""
    if rows <= wanted:
        return [(0, rows)] if rows else []
    wanted = max(1, wanted)
    number = int(np.clip(wanted // (8 * per_day), 1, 8))
    length = wanted // number
    return [(int(start), int(start) + length) for start in np.linspace(0, rows - length, number)]


def _signal(tables: GraphTables, kind: GraphType, signal: Signal, distribution: bool, limit: int) -> dict[str, Any]:
    axis = tables.time
    assert axis is not None  # a graph with signals has one
    rows, places, channels = signal.shape
    parts = stretches(rows, limit // max(1, places * channels), axis.slots_per_day)
    read = sum(stop - start for start, stop in parts)
    kept = np.unique(np.linspace(0, places - 1, max(1, min(places, SERIES // max(1, read * channels)))).astype(int)) \
        if places else np.zeros(0, int)
    slots = np.unique(np.linspace(0, axis.slots_per_day, _SLOTS, endpoint=False).astype(int))
    sums = _pass(signal, axis, parts, kept, slots)
    lags = _lags(axis)
    entries = []
    for index, channel in enumerate(signal.channels):
        count, total = float(sums.count[:, index].sum()), float(sums.total[:, index].sum())
        in_source = [float(signal.to_source(value, index)) if count else None
                     for value in (sums.low[index], sums.high[index], total / max(count, 1))]
        entries.append(channel.to_dict() | {
            "observed_share": count / max(1, read * places), "min": in_source[0], "max": in_source[1],
            "mean": in_source[2], "gaps": _gaps(sums.kept, index),
            "autocorrelation": _past(sums, kept, index, lags),
            "moran": _moran(tables, kind, signal, axis, sums, parts, slots, index)})
        if distribution:
            ids = tables.nodes[kind]["node_id"] if isinstance(kind, str) and \
                "node_id" in tables.nodes[kind].column_names else None
            entries[-1]["distribution"] = _distribution(sums, axis, kept, index, ids)
    whole = len(kept) == places and read == rows
    return {"shape": list(signal.shape), "channels": entries, "rows_without_reading": sums.silent,
            "longest_gap_steps": sums.longest,
            "sample": None if whole else {"rows": read, "of_rows": rows, "series": len(kept), "of_series": places}}


def _pass(signal: Signal, axis: TimeAxis, parts: list[tuple[int, int]], kept: np.ndarray, slots: np.ndarray) -> _Sums:
    _, places, channels = signal.shape
    size = (places, channels)
    sums = _Sums(np.zeros(size), np.zeros(size), np.full(channels, np.inf), np.full(channels, -np.inf),
                 np.zeros((len(slots), *size), np.float32), np.zeros((len(slots), *size)))
    step = max(1, _CHUNK // max(1, places * channels))
    for first, last in parts:
        run, pieces = 0, []
        for start in range(first, last, step):
            stop = min(start + step, last)
            values, mask = signal.read(start, stop)
            filled = np.where(mask, values, 0)
            sums.count += mask.sum(0)
            sums.total += filled.sum(0, dtype=np.float64)
            if values.size:
                sums.low = np.minimum(sums.low, np.where(mask, values, np.inf).min((0, 1)))
                sums.high = np.maximum(sums.high, np.where(mask, values, -np.inf).max((0, 1)))
            slot = axis.calendar(np.arange(start, stop))[0]
            for place, wanted in enumerate(slots):
                here = slot == wanted
                sums.slot_count[place] += mask[here].sum(0, dtype=np.float32)
                sums.slot_total[place] += filled[here].sum(0, dtype=np.float64)
            silent, longest, run = _runs(np.logical_not(mask.any((1, 2))), run)
            sums.silent, sums.longest = sums.silent + silent, max(sums.longest, longest)
            pieces.append((filled[:, kept], mask[:, kept]))
        sums.kept.append((np.arange(first, last), np.concatenate([values for values, _ in pieces]),
                          np.concatenate([mask for _, mask in pieces])))
    return sums


def _runs(missing: np.ndarray, before: int) -> tuple[int, int, int]:
    """How many are missing, the longest run (with ``before`` missing just before), and the run at the end."""
    if not len(missing):
        return 0, before, before
    place = np.arange(len(missing))
    run = place - np.maximum.accumulate(np.where(missing, -1 - before, place))
    return int(missing.sum()), int(run.max()), int(run[-1])


def _gaps(kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]], channel: int) -> dict[str, Any]:
    """Gaps of single series: how many, the longest in steps, and the share of their entries."""
    number, longest, missing, entries = 0, 0, 0, 0
    for _, _, mask in kept:
        away = ~mask[..., channel]
        if not away.size:
            continue
        place = np.arange(len(away))[:, None]
        longest = max(longest, int((place - np.maximum.accumulate(np.where(away, -1, place))).max()))
        number += int(away[0].sum()) + int((away[1:] & ~away[:-1]).sum())
        missing, entries = missing + int(away.sum()), entries + away.size
    return {"number": number, "longest_steps": longest, "share": missing / max(entries, 1)}


def _lags(axis: TimeAxis) -> dict[str, int]:
    """One step, one hour, one day and one week in rows; those that are whole numbers of rows."""
    week = axis.slots_per_day * (5 if axis.weekdays_only else 7)
    named = {"1 step": 1, "1 hour": 3600 // axis.step if 3600 % axis.step == 0 else 0,
             "1 day": axis.slots_per_day if axis.step <= DAY else 0,
             "1 week": week if axis.step <= DAY else (7 * DAY // axis.step if 7 * DAY % axis.step == 0 else 0)}
    return {name: rows for name, rows in named.items() if rows > 0}


def _past(sums: _Sums, kept: np.ndarray, channel: int, lags: dict[str, int]) -> dict[str, float | None]:
    """Median over the series of their autocorrelation at each lag; None where no series is long enough."""
    running = AutocorrelationSums(list(lags.values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.total[kept, channel] / sums.count[kept, channel]
    for _, values, mask in sums.kept:
        running.add(values[..., channel], mask[..., channel], mean)
    found = np.broadcast_to(running.result(), (len(lags), len(kept)))
    return {name: _median(row) for name, row in zip(lags, found, strict=True)}


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


# ---------------------------------------------------------------- likeness in space
def _moran(tables: GraphTables, kind: GraphType, signal: Signal, axis: TimeAxis, sums: _Sums,
           parts: list[tuple[int, int]], slots: np.ndarray, channel: int) -> dict[str, Any]:
    """Per relation among the nodes: Moran's I of the time mean, and of what remains after the daily profile."""
    found: dict[str, Any] = {}
    for relation in tables.edges:
        if isinstance(kind, str) and relation[0] == kind == relation[2] and len(tables.edges[relation]):
            index, weight = _relation(tables, relation)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = sums.total[:, channel] / sums.count[:, channel]
            entry = _plain(morans_i(mean, index, weight)) | {"weighted": weight is not None}
            rows = _residual_rows(axis, parts, slots, max(4, min(32, _EDGES // index.shape[1])))
            results = [morans_i(_residual(signal, sums, int(row), place, channel), index, weight)
                       for row, place in rows]
            entry["residual"] = _mean_result(results)
            found[label(relation)] = entry
    return found


def _relation(tables: GraphTables, relation: EdgeType) -> tuple[np.ndarray, np.ndarray | None]:
    table = tables.edges[relation]
    weight = numbers(table["edge_weight"]) if "edge_weight" in table.column_names else None
    if weight is not None and not (np.isfinite(weight) & (weight >= 0)).all():
        weight = None
    return np.stack([numbers(table[SOURCE]), numbers(table[TARGET])]), weight


def _residual_rows(axis: TimeAxis, parts: list[tuple[int, int]], slots: np.ndarray,
                   wanted: int) -> list[tuple[int, int]]:
    """Rows in the chosen slots of the day, spread over what was read, each with the position of its slot."""
    rows = np.concatenate([np.arange(*part) for part in parts]) if parts else np.zeros(0, np.int64)
    slot = axis.calendar(rows)[0] if len(rows) else rows
    place = np.searchsorted(slots, slot)
    chosen = np.flatnonzero((place < len(slots)) & (slots[np.minimum(place, len(slots) - 1)] == slot))
    if len(chosen) <= len(slots):
        return []  # less than two days: each row is its own profile
    few = np.unique(np.linspace(0, len(chosen) - 1, min(wanted, len(chosen))).astype(int))
    return [(int(rows[at]), int(place[at])) for at in chosen[few]]


def _residual(signal: Signal, sums: _Sums, row: int, place: int, channel: int) -> np.ndarray:
    values, mask = signal.read(row, row + 1)
    count = sums.slot_count[place, :, channel]
    with np.errstate(invalid="ignore", divide="ignore"):
        profile = sums.slot_total[place, :, channel] / count
    return np.where(mask[0, :, channel] & (count > 1), values[0, :, channel] - profile, np.nan)


def _plain(result: MoranResult) -> dict[str, Any]:
    return {"value": _finite(result.value), "expected": _finite(result.expected), "z": _finite(result.z),
            "nodes": result.nodes}


def _mean_result(results: list[MoranResult]) -> dict[str, Any] | None:
    """The mean over rows; ``z`` is that of a single row, on average."""
    known = [result for result in results if np.isfinite(result.value)]
    if not known:
        return None
    return {name: _finite(float(np.mean([getattr(result, name) for result in known])))
            for name in ("value", "expected", "z")} | {"rows": len(known)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# ---------------------------------------------------------------- likeness of distributions
def _distribution(sums: _Sums, axis: TimeAxis, kept: np.ndarray, channel: int, ids: Any) -> dict[str, Any]:
    """Smirnov's statistic between weekdays and weekends, between the halves of the span, and from place to place.

    The statistic alone: with series that depend on their own past there are no honest probabilities to go with it.
    """
    rows = np.concatenate([row for row, _, _ in sums.kept]) if sums.kept else np.zeros(0, np.int64)
    if not len(rows) or not len(kept):
        return {"weekday_weekend": None, "halves": None, "places": None}
    values = np.concatenate([one[..., channel] for _, one, _ in sums.kept])
    mask = np.concatenate([one[..., channel] for _, _, one in sums.kept])
    weekend = axis.calendar(rows)[1] >= 5
    late = np.arange(len(rows)) >= len(rows) // 2

    def between(one: np.ndarray, other: np.ndarray) -> float | None:
        return _finite(smirnov(*(_thin(values[part][mask[part]]) for part in (one, other))))

    everything = _thin(values[mask])
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), 200)).astype(int))
    each = np.array([smirnov(_thin(values[mask[:, place], place]), everything) for place in chosen])
    known = np.flatnonzero(np.isfinite(each))
    places = None
    if len(known):
        most = int(kept[chosen[known[np.argmax(each[known])]]])
        places = {"median": float(np.median(each[known])), "largest": float(each[known].max()), "places": len(known),
                  "most_unlike": ids[most].as_py() if ids is not None else most}
    return {"weekday_weekend": between(weekend, ~weekend), "halves": between(~late, late), "places": places}


def _thin(values: np.ndarray) -> np.ndarray:
    """At most :data:`_SAMPLE` of the values, evenly."""
    return values if len(values) <= _SAMPLE else values[np.linspace(0, len(values) - 1, _SAMPLE).astype(int)]
