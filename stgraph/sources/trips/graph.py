"""The graph of trips: driven segments, journeys, moves between segments.

Nodes ``segment`` are the segments that were driven, with all that the map says of them; ``road_segment`` is their row
in the map. Nodes ``trip`` are journeys, which live from their start to their end. Edges:

* ``trip drives segment``: the traversals of a journey in order.
* ``segment then segment``: moves from a segment to the next, one edge for each time bin in which they were seen, with
  count and travel time; it lives in that bin.

Loose tables: ``matches`` (traversals), ``trips`` (journeys), ``traffic`` (segment x bin: count, distance, duration),
``origin_destination`` (junction x junction x bin), and where asked for ``recovered`` and ``tokens``. Where there are
very many traversals, trips stay in the loose tables and are no nodes, so that memory does not grow with them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stgraph.graph import GraphTables
from stgraph.graph.plain import SOURCE, TARGET, column, numbers
from stgraph.roads import Roads
from stgraph.sources.trips.aggregate import Aggregates, traffic_signal

DRIVES = ("trip", "drives", "segment")
THEN = ("segment", "then", "segment")
SIGNAL = "traffic"


def trips_graph(roads: Roads, sums: Aggregates, matches: Path, trips: Path | None, signals: bool = False,
                penetration: float | None = None) -> GraphTables:
    """Assemble the graph.

    Args:
        roads: The map.
        sums: What was counted.
        matches: The table ``matches``.
        trips: The table ``trips``; None leaves journeys out of the graph.
        signals: Whether traffic becomes a dense signal of the segments.
        penetration: Share of vehicles that were recorded, for the flow of all.

    Raises:
        InputError: for a signal that would be too large.
    """
    traffic = sums.traffic()
    driven = np.unique(traffic.segment)
    tables = GraphTables()
    whole = roads.tables()
    tables.schema.of("segment").update(whole.schema.of("segment"))
    tables.nodes["segment"] = whole.nodes["segment"].take(pa.array(driven)).append_column("road_segment",
                                                                                         pa.array(driven))
    tables.declare("segment", "road_segment", None, "row of the segment in the map")
    _add_moves(tables, sums, driven)
    if trips is not None:
        _add_trips(tables, roads, pq.read_table(trips), pq.read_table(
            matches, columns=["journey", "segment", "seq", "entered_at", "length_m", "confidence"]), driven)
    if signals:
        signal, tables.time = traffic_signal(traffic, sums.bins, driven, penetration)
        tables.signals["segment"] = {SIGNAL: signal}
    tables.tables["traffic"] = pa.table({"segment": traffic.segment, "bin": traffic.bin, "count": traffic.count,
                                         "distance_m": traffic.distance, "duration_s": traffic.duration})
    flows = sums.flows()
    tables.tables["origin_destination"] = pa.table({
        "from_node": column(roads.junction_id[flows.origin]), "to_node": column(roads.junction_id[flows.destination]),
        "bin": flows.bin, "count": flows.count})
    return tables


def _add_moves(tables: GraphTables, sums: Aggregates, driven: np.ndarray) -> None:
    moves = sums.transitions()
    tables.edges[THEN] = pa.table({
        SOURCE: np.searchsorted(driven, moves.segment), TARGET: np.searchsorted(driven, moves.then),
        "count": moves.count, "travel_time": moves.travel_time, "valid_from": moves.bin,
        "valid_to": sums.bins.end(moves.bin)})
    tables.declare(THEN, "count", "1", "times that the move was driven, its first segment entered in the bin")
    tables.declare(THEN, "travel_time", "s", "from the start of the first segment to that of the next; NaN where no "
                                             "time was spent")


def _add_trips(tables: GraphTables, roads: Roads, trips: pa.Table, drives: pa.Table, driven: np.ndarray) -> None:
    start, end = (numbers(trips[name]) for name in ("start", "end"))
    names = pc.binary_join_element_wise(trips["trip"].cast(pa.string()), trips["part"].cast(pa.string()), "/")
    tables.nodes["trip"] = pa.table({
        "node_id": names, "origin": trips["origin"], "destination": trips["destination"],
        "valid_from": np.floor(start).astype(np.int64), "valid_to": np.floor(end).astype(np.int64) + 1,
        "length": trips["length_m"], "confidence": trips["confidence"]})
    tables.edges[DRIVES] = pa.table({
        SOURCE: drives["journey"], TARGET: np.searchsorted(driven, numbers(drives["segment"])),
        "seq": drives["seq"], "entered_at": drives["entered_at"], "length": drives["length_m"],
        "confidence": drives["confidence"]})
    place = "m" if roads.metric else "degree"
    for kind, name, unit, said in (
            ("trip", "origin", place, "where the journey starts"), ("trip", "destination", place, "where it ends"),
            ("trip", "length", "m", "way driven"), ("trip", "confidence", "1", "of the match, weighted by length"),
            (DRIVES, "seq", None, "place in the trip"), (DRIVES, "entered_at", "s", "since 1970-01-01 UTC"),
            (DRIVES, "length", "m", "driven on the segment"), (DRIVES, "confidence", "1", "of the match")):
        tables.declare(kind, name, unit, said)
