"""Rows of trips brought together: cut into blocks of whole trips, or dealt out over buckets on disk first.

A table here has a column ``trip``, whole numbers or text, that is never null.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MOST_BUCKETS = 256
_DEAL = 1 << 18  # rows that are dealt out at once, and that a bucket is to have


def changes(names: pa.Array) -> np.ndarray:
    """``[n]`` bool: where a name differs from the one before; True for the first."""
    if not len(names):
        return np.empty(0, bool)
    return np.r_[True, pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)]


def hashes(names: pa.Array) -> np.ndarray:
    """``[n]`` uint64 of names, the same in every run."""
    if pa.types.is_integer(names.type):
        return names.to_numpy(zero_copy_only=False).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    encoded = names.dictionary_encode()
    each = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
            for text in encoded.dictionary.to_pylist()]
    return np.array(each, np.uint64)[encoded.indices.to_numpy()]


def together(tables: Iterator[pa.Table], points: int) -> Iterator[pa.Table]:
    """Blocks of whole trips from a stream of rows in which the rows of each trip follow each other.

    Args:
        tables: The stream.
        points: About how many rows a block has; more where one trip is longer.
    """
    held: list[pa.Table] = []
    size, due = 0, points
    for table in tables:
        held.append(table)
        size += table.num_rows
        if size < due:
            continue
        joined = pa.concat_tables(held).combine_chunks()
        starts = np.flatnonzero(changes(joined["trip"].combine_chunks()))
        begin = int(starts[-1])  # the last trip may go on
        edges = np.unique(starts[np.searchsorted(starts, [*range(0, begin, points), begin])]).tolist()
        yield from (joined[a:b] for a, b in pairwise(edges))
        held, size = [joined[begin:]], joined.num_rows - begin
        due = max(points, 2 * size)  # one long trip is not looked through again at every batch
    if held:
        yield pa.concat_tables(held).combine_chunks()


def shuffled(tables: Iterator[pa.Table], rows: int, points: int, folder: Path | None = None) -> Iterator[pa.Table]:
    """Blocks of whole trips from a stream of rows in any order; the rows of a trip keep theirs.

    Args:
        tables: The stream.
        rows: About how many rows it has.
        points: About how many rows a block has.
        folder: Where buckets are put; None for the system's place for temporary files.
    """
    count = min(max(rows // _DEAL, 1), _MOST_BUCKETS)
    with tempfile.TemporaryDirectory(prefix="shuffled-", dir=folder) as scratch, ExitStack() as stack:
        files = [Path(scratch) / f"{bucket}.arrow" for bucket in range(count)]
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        for table in _joined(tables, _DEAL):
            bucket = (hashes(table["trip"].combine_chunks()) >> np.uint64(32)) % np.uint64(count)
            order = np.argsort(bucket, kind="stable")
            edges = np.searchsorted(bucket[order], np.arange(count + 1))
            dealt = table.take(pa.array(order))
            for number in np.flatnonzero(np.diff(edges)).tolist():
                if number not in writers:
                    writers[number] = stack.enter_context(pa.ipc.new_file(files[number], table.schema))
                writers[number].write_table(dealt[int(edges[number]):int(edges[number + 1])])
        stack.close()
        yield from together((_by_trip(files[number]) for number in sorted(writers)), points)


def _joined(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in larger tables."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.num_rows for one in held) >= rows:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _by_trip(file: Path) -> pa.Table:
    """The rows of a bucket with each trip's together, in the order of its first row."""
    with pa.ipc.open_file(file) as reader:
        table = reader.read_all()
    code = pc.dictionary_encode(table["trip"].combine_chunks()).indices.to_numpy()
    return table.take(pa.array(np.argsort(code, kind="stable")))
