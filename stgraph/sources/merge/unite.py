"""Tables of one type from several bundles, put together row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError
from stgraph.graph import OPEN_END, OPEN_START
from stgraph.graph.plain import SOURCE, TARGET, numbers
from stgraph.graph.plain import column as column_of
from stgraph.roads.projection import great_circle

SAME_PLACE = 10.0
"""Two places of one node may lie this far apart, m."""
BOOKKEEPING = ("n_id", "e_id", "user_index")
"""Positions in another graph or order: they mean nothing once graphs are merged."""


@dataclass(frozen=True)
class Part:
    """The rows of one bundle.

    Args:
        name: Of the bundle, for messages.
        table: Its rows.
        rows: Row of the united table for each of them, ``[n]``.
    """

    name: str
    table: pa.Table
    rows: np.ndarray


def unite(parts: Sequence[Part], size: int, what: str, prefer: str | None = None) -> pa.Table:
    """One table of ``size`` rows with the columns of all parts.

    Where several parts say something of a row they must agree, or one of them is preferred. What no part says is NaN,
    an empty text, -1 for a whole number (0, 1 or -1 for yes, no and unknown), and a life without bounds.

    Args:
        parts: The parts; every row of the result is in one of them.
        size: Number of rows.
        what: The type, for messages.
        prefer: Name of the bundle that is right where two contradict each other.

    Raises:
        InputError: where two parts contradict each other, or a column is of two kinds.
    """
    if len(parts) == 1 and np.array_equal(parts[0].rows, np.arange(size)):
        return parts[0].table
    ordered = sorted(parts, key=lambda part: part.name != prefer)
    names = list(dict.fromkeys(name for part in parts for name in part.table.column_names if name not in BOOKKEEPING))
    return pa.table({name: _column(name, [part for part in ordered if name in part.table.column_names], size, what,
                                   prefer) for name in names})


def _column(name: str, parts: list[Part], size: int, what: str, prefer: str | None) -> pa.Array:
    owner, row = np.full(size, -1), np.zeros(size, np.int64)
    for place, part in enumerate(parts):
        taken = owner[part.rows] >= 0
        if taken.any() and parts[0].name != prefer:
            _agree(name, parts, place, np.flatnonzero(taken), owner, row, what)
        new = np.flatnonzero(~taken)
        owner[part.rows[new]], row[part.rows[new]] = place, new
    missing = np.flatnonzero(owner < 0)
    columns = [_plain(part.table[name]) for part in parts]
    joined = _joined(columns, name, what, bool(len(missing)))
    starts = np.concatenate([[0], np.cumsum([len(one) for one in columns])])
    where = starts[np.maximum(owner, 0)] + row
    if not len(missing):
        return joined.take(pa.array(where))
    filler = _filler(joined.type, name, what)
    where[missing] = len(joined)
    return pa.concat_arrays([joined, filler]).take(pa.array(where)) if not pa.types.is_dictionary(joined.type) else \
        _categories(joined, filler, where)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _joined(columns: list[pa.Array], name: str, what: str, gaps: bool) -> pa.Array:
    """The columns of all parts one after the other, in a type that holds them, and gaps if there are any."""
    kinds = {str(column.type) for column in columns}
    if any(pa.types.is_dictionary(column.type) for column in columns):
        texts = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in columns]
        if not all(pa.types.is_string(column.type) for column in texts):
            raise _unlike(name, what, kinds)
        if len(columns) == 1:
            return columns[0]
        return pa.concat_arrays(texts).dictionary_encode()
    if all(pa.types.is_boolean(column.type) for column in columns):
        return pa.concat_arrays(columns) if not gaps else pa.concat_arrays([one.cast(pa.int8()) for one in columns])
    if all(pa.types.is_integer(column.type) for column in columns):
        wide = pa.int64() if len(kinds) > 1 or (gaps and pa.types.is_unsigned_integer(columns[0].type)) \
            else columns[0].type
        return pa.concat_arrays([column.cast(wide) for column in columns])
    if len(kinds) > 1 and all(pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
                              for column in columns):
        return pa.concat_arrays([column.cast(pa.float64(), safe=False) for column in columns])
    if any(pa.types.is_large_binary(column.type) or pa.types.is_binary(column.type) for column in columns):
        return pa.concat_arrays([column.cast(pa.large_binary()) for column in columns])
    if len(kinds) > 1:
        raise _unlike(name, what, kinds)
    return pa.concat_arrays(columns)


def _unlike(name: str, what: str, kinds: set[str]) -> InputError:
    return InputError("the column is of another kind in another bundle", field=f"{what}.{name}",
                      value=" and ".join(sorted(kinds)), remedy="rename it in one of the bundles")


def _filler(kind: pa.DataType, name: str, what: str) -> pa.Array:
    """One entry that says that nothing is known."""
    if name in ("valid_from", "valid_to"):
        return pa.array([OPEN_START if name == "valid_from" else OPEN_END], kind)
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return column_of(np.full((1, kind.list_size), np.nan)).cast(kind)
    if pa.types.is_floating(kind):
        return pa.array([float("nan")]).cast(kind)
    if pa.types.is_integer(kind):
        return pa.array([-1], kind)
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return pa.array([""], pa.string())
    raise InputError("some nodes have this and others do not, and it cannot be left empty", field=f"{what}.{name}",
                     value=str(kind), remedy="keep the bundles apart, or give it to all")


def _categories(joined: pa.DictionaryArray, filler: pa.Array, where: np.ndarray) -> pa.Array:
    words = joined.dictionary.to_pylist()
    if "" not in words:
        words.append("")
    codes = np.append(np.asarray(joined.indices, np.int32), words.index(filler[0].as_py())).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes[where]), pa.array(words, pa.string()))


# ---------------------------------------------------------------- agreement
def _agree(name: str, parts: list[Part], place: int, mine: np.ndarray, owner: np.ndarray, row: np.ndarray,
           what: str) -> None:
    """Refuse rows of a part that say something else than an earlier part did."""
    part = parts[place]
    targets = part.rows[mine]
    for other in np.unique(owner[targets]):
        here = owner[targets] == other
        one = part.table[name].take(pa.array(mine[here]))
        two = parts[other].table[name].take(pa.array(row[targets[here]]))
        wrong = np.flatnonzero(~alike(name, one, two))
        if len(wrong):
            first = int(wrong[0])
            said = f"{_short(two[first])} in {parts[other].name}, {_short(one[first])} in {part.name}"
            raise InputError(f"two bundles contradict each other, in {len(wrong)} rows", field=f"{what}.{name}",
                             value=f"{said}, at {int(targets[here][first])}",
                             remedy="say which is right with --prefer NAME, or leave one of them out")


def _short(value: pa.Scalar) -> str:
    text = str(value.as_py())
    return text if len(text) < 60 else text[:57] + "..."


def alike(name: str, one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Whether entries of two columns say the same, ``[n]``; what is unknown contradicts nothing."""
    columns = [_plain(column) for column in (one, other)]
    kinds = [column.type for column in columns]
    if name in ("lonlat", "pos") and all(pa.types.is_fixed_size_list(kind) for kind in kinds):
        places = [numbers(column) for column in columns]
        away = great_circle(*places) if name == "lonlat" else np.linalg.norm(places[0] - places[1], axis=1)
        return ~(away > SAME_PLACE)
    if all(pa.types.is_fixed_size_list(kind) or pa.types.is_primitive(kind) for kind in kinds):
        values = [numbers(column).astype(float).reshape(len(column), -1) for column in columns]
        if values[0].shape != values[1].shape:
            return np.zeros(len(one), bool)
        unknown = np.isnan(values[0]) | np.isnan(values[1])
        with np.errstate(invalid="ignore"):
            return np.asarray((unknown | np.isclose(values[0], values[1], rtol=1e-6, atol=1e-9)).all(1))
    texts = [np.array(column.to_pylist(), dtype=object) for column in columns]
    return np.asarray([a == b or a == "" or b == "" for a, b in zip(*texts, strict=True)], bool)


def known(values: pa.ChunkedArray) -> np.ndarray:
    """Which entries of a column say something, ``[n]``."""
    array = _plain(values)
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_primitive(array.type):
        return ~np.isnan(numbers(array).astype(float).reshape(len(array), -1)).any(1)
    return np.array([one != "" for one in array.to_pylist()], bool)


# ---------------------------------------------------------------- edges
def same_edges(parts: Sequence[tuple[str, pa.Table, np.ndarray, np.ndarray]]) -> tuple[list[Part], int]:
    """Edges of one relation from several bundles: those with equal ends and lives are one.

    Args:
        parts: Per bundle its name, its edges, and their sources and targets in the merged graph.

    Returns:
        The parts, with ends in the merged graph, for :func:`unite`; and the number of edges.
    """
    keys = []
    for _, table, source, target in parts:
        columns = [source, target]
        for name, otherwise in (("valid_from", OPEN_START), ("valid_to", OPEN_END)):
            columns.append(numbers(table[name]) if name in table.column_names else np.full(len(table), otherwise))
        keys.append(np.stack([*columns, _rank(np.stack(columns))]))
    everything = np.concatenate(keys, axis=1)
    _, first, inverse = np.unique(everything, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # in the order in which they come up
    rows = order[inverse.reshape(-1)]
    ends = np.cumsum([len(table) for _, table, _, _ in parts])[:-1]
    found = []
    for (name, table, source, target), part in zip(parts, np.split(rows, ends), strict=True):
        for column, values in ((SOURCE, source), (TARGET, target)):
            table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
        found.append(Part(name, table, part))
    return found, len(first)


def _rank(columns: np.ndarray) -> np.ndarray:
    """Number of each row among equal ones, from 0."""
    if not columns.shape[1]:
        return np.zeros(0, np.int64)
    order = np.lexsort(columns[::-1])
    new = np.ones(len(order), bool)
    new[1:] = (columns[:, order[1:]] != columns[:, order[:-1]]).any(0)
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first
    return rank
