"""Events that share place, time bin and type: one hyperedge each, kept as incidence; and counts made of events.

A hyperedge is a node ``group``; ``event in group`` is its incidence, ``group of PLACE`` says where it is. Only groups
with an event exist, so memory grows with events and never with places times bins. Expanding them to pairs of events
would take several times the events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError
from stgraph.graph import GraphTables, TimeAxis, load_tables
from stgraph.graph.plain import SOURCE, TARGET, categories, column, numbers
from stgraph.graph.time import DAY, seconds
from stgraph.sources.clock import axis_from_start
from stgraph.sources.events.times import clock_to_utc

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph, Signal

EVENT, GROUP, AT, IN, OF = "event", "group", "at", "in", "of"
DENSE_BYTES = 1 << 30
"""Largest dense table of counts that is made unless more is allowed."""


@dataclass(frozen=True)
class Groups:
    """``G`` groups of ``n`` events, in the order of sequence, bin, place and type.

    Args:
        of_event: ``[n]`` int64, the group of each event.
        place: ``[G]`` int64 position of its place.
        row: ``[G]`` int64 time bin.
        type: ``[G]`` int64 code of its type.
        sequence: ``[G]`` int64 code of its sequence; None where there are none.
        count: ``[G]`` int64, how many events it has.
    """

    of_event: np.ndarray
    place: np.ndarray
    row: np.ndarray
    type: np.ndarray
    sequence: np.ndarray | None
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.count)


def group_events(place: np.ndarray, row: np.ndarray, type: np.ndarray,
                 sequence: np.ndarray | None = None) -> Groups:
    """Group events by sequence, time bin, place and type: sort and unique, whatever their order.

    Args:
        place: ``[n]`` whole numbers, not negative, as are the others.
        row: ``[n]`` time bin.
        type: ``[n]`` code.
        sequence: ``[n]`` code; None where there are none.
    """
    parts = [np.asarray(part, np.int64) for part in ((sequence,) if sequence is not None else ()) + (row, place, type)]
    sizes = [int(part.max(initial=0)) + 1 for part in parts]
    total = 1
    for size in sizes:  # Python numbers: they do not overflow
        total *= size
    if total < np.iinfo(np.int64).max:
        key = parts[0]
        for part, size in zip(parts[1:], sizes[1:], strict=True):
            key = key * size + part
        _, first, of_event, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    else:
        order = np.lexsort(parts[::-1])
        new = np.zeros(len(order), bool)
        new[:1] = True
        for part in parts:
            new[1:] |= part[order][1:] != part[order][:-1]
        first = order[new]
        of_event = np.empty(len(order), np.int64)
        of_event[order] = np.cumsum(new) - 1
        count = np.bincount(of_event, minlength=len(first))
    found = [part[first] for part in parts]
    return Groups(of_event, found[-2], found[-3], found[-1], found[0] if sequence is not None else None, count)


def time_bins(utc: np.ndarray, interval: str | int, tz: str) -> tuple[TimeAxis, np.ndarray]:
    """Regular bins from the local midnight before the first time on, and the bin of each time.

    Bins that the change to summer time would push off the clock of the place, such as days, follow that clock: a day
    is then 23, 24 or 25 hours long.

    Args:
        utc: ``[n]`` int64, seconds UTC, at least one.
        interval: Of the bins, such as ``1h`` or ``1D``.
        tz: Zone of the place.

    Raises:
        InputError: for an interval that neither divides the day nor is whole days, and for several days in a zone with
            summer time.
    """
    step = seconds(interval)
    clock = int(TimeAxis(0, 1, 0, tz).local(utc.min(keepdims=True))[0])
    midnights, exist, _ = clock_to_utc(clock - clock % DAY - np.array([0, DAY]), tz)
    start = int(midnights[0] if exist[0] else midnights[1])  # where summer time starts at midnight, a day earlier
    length = (int(utc.max()) - start) // step + 1
    axis = axis_from_start(f"{np.datetime64(start, 's')}+00:00", step, length, tz, None)
    row = replace(axis, length=length + 2).row_of(utc)  # a day of 23 hours needs one more
    return replace(axis, length=int(row.max()) + 1), row


def group_tables(groups: Groups, axis: TimeAxis, kind: str, types: list[str],
                 sequences: list[str] | None) -> GraphTables:
    """Nodes ``group`` and the relations ``event in group`` and ``group of PLACE``.

    Args:
        groups: The groups; event ``i`` is row ``i`` of the table of events.
        axis: Of the bins.
        kind: Node type of the places.
        types: Words of the types.
        sequences: Words of the sequences.
    """
    tables = GraphTables()
    columns = {"place": column(groups.place), "bin_start": column(axis.times(groups.row)),
               "type": categories(groups.type, types), "count": column(groups.count)}
    if groups.sequence is not None and sequences is not None:
        columns["sequence"] = categories(groups.sequence, sequences)
    tables.nodes[GROUP] = pa.table(columns)
    tables.edges[EVENT, IN, GROUP] = _edges(np.arange(len(groups.of_event)), groups.of_event)
    tables.edges[GROUP, OF, kind] = _edges(np.arange(len(groups)), groups.place)
    tables.declare(GROUP, "place", "1", f"position of its {kind}")
    tables.declare(GROUP, "bin_start", "s", "first second of its time bin, UTC")
    tables.declare(GROUP, "type", None, "type of its events")
    tables.declare(GROUP, "count", "1", "number of its events")
    return tables


def _edges(source: np.ndarray, target: np.ndarray) -> pa.Table:
    return pa.table({SOURCE: column(np.asarray(source, np.int64)), TARGET: column(np.asarray(target, np.int64))})


# -------------------------------------------------------------------- counts
@dataclass(frozen=True)
class EventCounts:
    """Counts of events by place, time bin and type; only those that are not zero.

    Args:
        kind: Node type of the places.
        places: How many places there are ``N``.
        axis: Of the bins ``T``.
        types: Words of the types ``C``.
        groups: The counts.
        sequences: Words of the sequences, each on a clock of its own; None where there are none.
    """

    kind: str
    places: int
    axis: TimeAxis
    types: list[str]
    groups: Groups
    sequences: list[str] | None = None

    def table(self) -> pa.Table:
        """The counts as a table: ``place`` (position), ``bin_start`` (s UTC), ``type``, ``count``, ``sequence``."""
        groups = self.groups
        columns = {"place": column(groups.place), "bin_start": column(self.axis.times(groups.row)),
                   "type": categories(groups.type, self.types), "count": column(groups.count)}
        if groups.sequence is not None and self.sequences is not None:
            columns["sequence"] = categories(groups.sequence, self.sequences)
        return pa.table(columns)

    def signal(self, most_bytes: int = DENSE_BYTES) -> Signal:
        """All counts, zeros too, as a signal ``[T, N, C]`` on :attr:`axis`, a channel for each type.

        Args:
            most_bytes: Largest size that is made.

        Raises:
            InputError: where it would be larger, or sequences have clocks of their own.
        """
        from stgraph.graph.signal import Channel, Signal

        if self.groups.sequence is not None:
            raise InputError("each sequence has a clock of its own, so they have no common time axis",
                             field="sequence", value=f"{len(self.sequences or [])} sequences",
                             remedy="use the sparse table, or count one sequence: event_counts(..., sequence=NAME)")
        shape = (self.axis.length, self.places, len(self.types))
        size = 4 * shape[0] * shape[1] * shape[2]
        if size > most_bytes:
            raise InputError("the dense counts are too large", field="interval", value=f"{list(shape)}, {size:,} bytes",
                             remedy="use the sparse table, a longer interval, or allow more with most_bytes")
        values = np.zeros(shape, np.float32)
        values[self.groups.row, self.groups.place, self.groups.type] = self.groups.count
        return Signal(values, None, [Channel(word or "unknown", "count") for word in self.types])


def event_counts(graph: GraphTables | DynamicHeteroGraph | Path | str, interval: str | int,
                 sequence: str | None = None) -> EventCounts:
    """Count the events of a graph by place, time bin and type, sparsely.

    Args:
        graph: A graph of events, or its bundle.
        interval: Of the bins, such as ``15min`` or ``1D``, from local midnight on.
        sequence: Only the events of this sequence.

    Raises:
        InputError: where the graph has no events, or no such sequence.
    """
    tables = _events_of(graph)
    relation = next((kind for kind in tables.edges if kind[:2] == (EVENT, AT)), None)
    if EVENT not in tables.nodes or relation is None or not len(tables.nodes[EVENT]):
        raise InputError("there are no events in this graph", field="type", value=", ".join(tables.nodes),
                         remedy="give a graph made by stgraph build events")
    events, edges = tables.nodes[EVENT], tables.edges[relation]
    order = np.argsort(numbers(edges[SOURCE]), kind="stable")
    place, utc, types = numbers(edges[TARGET])[order], numbers(events["time"]), numbers(events["type"])
    sequences = None
    code = None
    if "sequence" in events.column_names:
        sequences, code = _words(events["sequence"]), numbers(events["sequence"])
        if sequence is not None:
            if sequence not in sequences:
                raise InputError("no such sequence", field="sequence", value=sequence,
                                 remedy=f"choose among {', '.join(sequences[:12])}")
            kept = code == sequences.index(sequence)
            place, utc, types, code, sequences = place[kept], utc[kept], types[kept], None, None
    axis, row = time_bins(utc, interval, str(tables.metadata.get("tz", "UTC")))
    return EventCounts(relation[2], len(tables.nodes[relation[2]]), axis, _words(events["type"]),
                       group_events(place, row, types, code), sequences)


def _events_of(graph: GraphTables | DynamicHeteroGraph | Path | str) -> GraphTables:
    if isinstance(graph, GraphTables):
        return graph
    if not isinstance(graph, (str, Path)):
        return GraphTables.of_graph(graph)
    schema = load_tables(graph, nodes=(), edges=(), verify=False).schema
    relations = [kind for kind in schema.edges if kind[:2] == (EVENT, AT)]
    return load_tables(graph, nodes=(EVENT, *(kind[2] for kind in relations)), edges=relations, in_memory=False)


def _words(values: pa.ChunkedArray) -> list[str]:
    found: list[str] = values.chunk(0).dictionary.to_pylist()
    return found
