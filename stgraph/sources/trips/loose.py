"""Loose tables of a bundle of trips, written row group by row group: matches, trips, recovered places, tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stgraph.graph.plain import column
from stgraph.roads import Roads
from stgraph.sources.trips.grouping import changes
from stgraph.sources.trips.journeys import Recovered, Walks, places_of
from stgraph.sources.trips.tokens import FEATURES, Tokens


class TableWriter:
    """Parquet files of a folder that grow block by block.

    Args:
        folder: Where they are written, as ``NAME.parquet``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, name: str, table: pa.Table) -> None:
        """Add rows to a table; the first rows say what columns it has."""
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self.folder / f"{name}.parquet", table.schema, compression="zstd")
        self._writers[name].write_table(table)

    def close(self) -> dict[str, Path]:
        """Finish the files, and say where they are."""
        for writer in self._writers.values():
            writer.close()
        return {name: self.folder / f"{name}.parquet" for name in self._writers}


def matches_table(roads: Roads, walks: Walks, trip: pa.Array, part: np.ndarray, first: int,
                  resumed: np.ndarray) -> pa.Table:
    """The table ``matches``: a row for each traversal, and one more wherever it was ``resumed``.

    Args:
        roads: The map.
        walks: The walks of a block; ``journey`` counts from 0 without a gap.
        trip: Name of the trip of each journey ``[k]``.
        part: Number of each journey in its trip ``[k]``.
        first: Number of the block's first journey in the table ``trips``.
        resumed: Rows that go on with the traversal of the row before ``[w]``.
    """
    names = trip.take(pa.array(walks.journey))
    begin = np.flatnonzero(changes(names))
    seq = np.arange(len(walks)) - np.repeat(begin, np.diff(begin, append=len(walks)))
    return pa.table({
        "trip": names, "seq": pa.array(seq, pa.int32()),
        "from_node": column(roads.junction_id[roads.tail[walks.segment]]),
        "to_node": column(roads.junction_id[roads.head[walks.segment]]),
        "entered_at": walks.entered_at, "left_at": walks.left_at, "length_m": walks.length,
        "confidence": pa.array(walks.confidence, pa.float32()), "journey": walks.journey + first,
        "part": pa.array(part[walks.journey], pa.int32()), "piece": pa.array(walks.piece, pa.int32()),
        "segment": walks.segment, "offset_m": walks.offset, "resumed": pa.array(resumed)})


def trips_table(roads: Roads, walks: Walks, trip: pa.Array, part: np.ndarray, points: np.ndarray,
                matched: np.ndarray) -> pa.Table:
    """The table ``trips``: a row for each journey.

    Args:
        roads: The map.
        walks: The walks of a block; ``journey`` counts from 0 without a gap.
        trip: Name of the trip of each journey ``[k]``.
        part: Number of each journey in its trip ``[k]``.
        points: Points of each journey ``[k]``.
        matched: Those of them that were matched ``[k]``.
    """
    first = np.flatnonzero(np.r_[True, np.diff(walks.journey) != 0])
    last = np.r_[first[1:], len(walks)] - 1
    segment = walks.segment
    length = np.add.reduceat(walks.length, first)
    weight = walks.length + 1e-3  # a journey of no length has a confidence, too
    confidence = np.add.reduceat(walks.confidence * weight, first) / np.add.reduceat(weight, first)
    end = walks.offset[last] + walks.length[last]
    return pa.table({
        "trip": trip, "part": pa.array(part, pa.int32()), "start": walks.entered_at[first],
        "end": walks.left_at[last], "from_node": column(roads.junction_id[roads.tail[segment[first]]]),
        "to_node": column(roads.junction_id[roads.head[segment[last]]]),
        "origin": column(roads.locate(segment[first], walks.offset[first])),
        "destination": column(roads.locate(segment[last], end)), "length_m": length,
        "points": pa.array(points, pa.int32()), "matched": pa.array(matched, pa.int32()),
        "pieces": pa.array(walks.piece[last] + 1, pa.int32()), "confidence": pa.array(confidence, pa.float32())})


def recovered_table(roads: Roads, recovered: Recovered, time: np.ndarray, matches: pa.Table) -> pa.Table:
    """The table ``recovered``: where vehicles were at regular times; times between pieces are left out."""
    known = np.flatnonzero(recovered.row >= 0)
    place = places_of(roads, recovered)[known]
    of = matches.select(["trip", "part", "piece"]).take(pa.array(recovered.row[known]))
    lon, lat = ("x", "y") if roads.metric else ("lon", "lat")
    return pa.table({"trip": of["trip"], "part": of["part"], "piece": of["piece"], "time": time[known],
                     lon: place[:, 0], lat: place[:, 1], "segment": recovered.segment[known],
                     "offset_m": recovered.offset[known]})


def tokens_table(tokens: Tokens, matches: pa.Table) -> pa.Table:
    """The table ``tokens``: what :data:`~stgraph.sources.trips.tokens.FEATURES` lists, for each row of ``matches``."""
    columns = {name: tokens.values[:, i] for i, name in enumerate(FEATURES)}
    return pa.table({**{name: matches[name] for name in ("trip", "part", "piece", "seq")}, **columns})
