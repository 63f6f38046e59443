"""Versions of the nodes of one type: lives, rows before and after an edit, values that change.

See :mod:`stgraph.roads.edit` for what is promised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import OPEN_END, OPEN_START, Geometry, Signal
from stgraph.graph.schema import Attribute
from stgraph.graph.snapshot import lives

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

Life: TypeAlias = tuple[int, int]
ALWAYS: Life = (OPEN_START, OPEN_END)


@dataclass
class Version:
    """One version of a node: a present row, or a copy of one with other values.

    Args:
        row: Present row that it stays in; -1 for a new row.
        parent: Present row that its values come from; -1 for none.
        start: First second of its life.
        end: First second after.
        values: Attributes that differ from those of the parent.
    """

    row: int
    parent: int
    start: int
    end: int
    values: dict[str, Any] = field(default_factory=dict)

    def split(self, parts: list[tuple[int, int, dict[str, Any]]]) -> list[Version]:
        """Parts ``(start, end, values)`` that are not empty: the first stays in the row, the others are copies."""
        found = [part for part in parts if part[0] < part[1]]
        return [Version(self.row if place == 0 else -1, self.parent, start, end, {**self.values, **values})
                for place, (start, end, values) in enumerate(found)]

    def copy(self, start: int, end: int) -> Version:
        """A new version with the same values and another life."""
        return Version(-1, self.parent, start, end, dict(self.values))


class Track:
    """All versions of the nodes of one type. A node is numbered by one of its rows.

    Args:
        graph: The graph.
        kind: Node type; it has ids.
    """

    def __init__(self, graph: DynamicHeteroGraph, kind: str) -> None:
        self.kind, self.store, self.size = kind, graph[kind], graph.size_of(kind)
        if "node_id" not in self.store:
            raise InputError("the nodes have no ids", field=f"{kind}.node_id", remedy="give every node its own id")
        self.ids: np.ndarray = self.store.node_id
        self.version = self.store.version.numpy() if "version" in self.store else np.ones(self.size, np.int64)
        found = lives(graph, kind)
        self.start: np.ndarray = np.full(self.size, OPEN_START) if found is None else found[0].numpy().copy()
        self.end: np.ndarray = np.full(self.size, OPEN_END) if found is None else found[1].numpy().copy()
        self.number = np.arange(self.size)
        self.several: dict[int, list[int]] = {}  # number: all its rows, where there is more than one
        self.named: dict[str, int] = {}
        self._group()
        self.changed: dict[int, list[Version]] = {}
        self.names: dict[int, str] = {}  # of nodes that are new

    def _group(self) -> None:
        later = np.flatnonzero(self.version > 1)
        if not len(later):
            return
        names = {int(row): self.ids[row].removesuffix(f"@{self.version[row]}") for row in later}
        first = np.flatnonzero(np.isin(self.ids, list(set(names.values()))) & (self.version == 1))
        self.named = {str(self.ids[row]): int(row) for row in first}
        for row, name in names.items():
            number = self.named.setdefault(name, row)
            self.number[row] = number
            self.several.setdefault(number, [number] if number != row else []).append(row)

    def knows(self, name: str) -> bool:
        """Whether there is a node or version of this id."""
        return name in self.named or name in self._words

    @cached_property
    def _words(self) -> set[str]:
        return set(self.ids.tolist())

    def name(self, number: int) -> str:
        """The id of a node, without the count of the version."""
        if number in self.names:
            return self.names[number]
        version = int(self.version[number])
        return str(self.ids[number]).removesuffix(f"@{version}") if version > 1 else str(self.ids[number])

    def rows(self, number: int) -> list[int]:
        """Present rows of a node."""
        return self.several.get(number, [number])

    def versions(self, number: int) -> list[Version]:
        """The versions of a node, to be edited in place; from now on the node counts as changed."""
        if number not in self.changed:
            self.changed[number] = [Version(row, row, int(self.start[row]), int(self.end[row]))
                                    for row in self.rows(number)]
        return self.changed[number]

    def life(self, number: int, before: bool = False) -> list[Life]:
        """The intervals in which some version lives, or lived ``before`` the edit, in order, none empty."""
        if before and number >= self.size:
            return []
        if number in self.changed and not before:
            return union((version.start, version.end) for version in self.changed[number])
        return union((int(self.start[row]), int(self.end[row])) for row in self.rows(number))

    def add(self, name: str, start: int, end: int, values: dict[str, Any]) -> int:
        """A node that was not there; gives its number."""
        number = self.size + len(self.names)
        self.names[number] = name
        self.changed[number] = [Version(-1, -1, start, end, values)]
        return number

    # ---------------------------------------------------------------- the table after the edit
    def settle(self) -> None:
        """Fix the rows after the edit: present rows in their order, then new ones.

        Sets ``source`` ``[M]``, the present row that each row's values come from (-1: none), ``place`` ``[N]``, where
        present rows went (-1: nowhere), and ``where``: per changed node, ``(row, start, end)`` of its versions.
        """
        gone = np.zeros(self.size, bool)
        for number, versions in self.changed.items():
            if number < self.size:
                gone[self.rows(number)] = True
                gone[[version.row for version in versions if version.row >= 0]] = False
        self.place = np.where(gone, -1, np.cumsum(~gone) - 1)
        self.source = np.flatnonzero(~gone)
        self.new: list[tuple[int, Version]] = [(number, version) for number, versions in self.changed.items()
                                               for version in versions if version.row < 0]
        self.source = np.concatenate([self.source, np.array([version.parent for _, version in self.new], np.int64)])
        fresh = iter(range(len(self.source) - len(self.new), len(self.source)))
        position = {id(version): next(fresh) for _, version in self.new}
        self.where: dict[int, list[tuple[int, int, int]]] = {
            number: [(position[id(version)] if version.row < 0 else int(self.place[version.row]), version.start,
                      version.end) for version in versions] for number, versions in self.changed.items()}

    def write(self, store: Any, declared: dict[str, Attribute]) -> None:
        """Put the table after the edit into the store of the new graph; what stays as it is is shared."""
        start, end, version = self.start[self.source], self.end[self.source], self.version[self.source].astype(np.int32)
        ids = self.ids[self.source].astype(object)
        values: dict[str, list[tuple[int, Any]]] = {}
        for number, rows in self.where.items():
            count = max((int(self.version[row]) for row in self.rows(number)), default=0) if number < self.size else 0
            for (row, begin, stop), one in zip(rows, self.changed[number], strict=True):
                start[row], end[row] = begin, stop
                for name, value in one.values.items():
                    values.setdefault(name, []).append((row, value))
                if one.row < 0:
                    count += 1
                    while count > 1 and self.knows(f"{self.name(number)}@{count}"):
                        count += 1
                    version[row] = count
                    ids[row] = self.name(number) if count == 1 else f"{self.name(number)}@{count}"
        same_rows = len(self.source) == self.size and not self.new
        for name, value in list(store.items()):
            if name == "num_nodes":
                store.num_nodes = len(self.source)
            elif not same_rows or name in values:
                rows = value if same_rows else taken(value, self.source)
                store[name] = assigned(rows, values.get(name, []), name, declared)
        store.node_id = np.array(ids.tolist(), dtype=str) if self.new else store.node_id
        store.valid_from, store.valid_to = torch.from_numpy(start), torch.from_numpy(end)
        if (version > 1).any() or "version" in store:
            store.version = torch.from_numpy(version)
            declared["version"] = Attribute("int32", ("N",), "1", "count of the versions of one node, from 1")


class Groups:
    """Rows by their value, for looking many values up.

    Args:
        values: ``[N]`` whole numbers.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.order = np.argsort(values, kind="stable")
        self.values = values[self.order]

    def rows(self, value: int) -> np.ndarray:
        """The rows of a value, in order."""
        return self.order[slice(*np.searchsorted(self.values, [value, value + 1]))]


class Columns:
    """An array ``[T, N, C]`` seen with other columns; nothing is copied until rows are read.

    Args:
        array: The array; None for one that is True everywhere.
        rows: Column of the array for each column; -1 for none, which holds 0 or False.
        shape: ``[T, N, C]``.
        dtype: Type of the numbers.
    """

    def __init__(self, array: Any, rows: np.ndarray, shape: tuple[int, int, int], dtype: Any) -> None:
        self.array, self.rows, self.shape, self.dtype = array, rows, shape, np.dtype(dtype)

    def __getitem__(self, part: slice) -> np.ndarray:
        if self.array is None:
            found = np.ones((len(range(*part.indices(self.shape[0]))), *self.shape[1:]), self.dtype)
        else:
            found = np.asarray(self.array[part])[:, np.maximum(self.rows, 0)]
        found[:, self.rows < 0] = 0
        return found

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


def seen(signal: Signal, rows: np.ndarray) -> Signal:
    shape = (signal.shape[0], len(rows), signal.shape[2])
    mask = None if signal.mask is None and (rows >= 0).all() else Columns(signal.mask, rows, shape, bool)
    return Signal(Columns(signal.values, rows, shape, signal.values.dtype), mask, signal.channels)


# ---------------------------------------------------------------- intervals
def union(parts: Iterable[Life]) -> list[Life]:
    """Intervals joined where they meet or overlap, in order."""
    found: list[Life] = []
    for start, end in sorted(part for part in parts if part[0] < part[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def within(life: Life, others: list[Life]) -> list[Life]:
    """The parts of an interval that lie in others."""
    cut = [(max(life[0], start), min(life[1], end)) for start, end in others]
    return [part for part in cut if part[0] < part[1]]


def without(life: Life, others: list[Life]) -> list[Life]:
    """What remains of an interval."""
    found, place = [], life[0]
    for start, end in others:
        if start > place:
            found.append((place, min(start, life[1])))
        place = max(place, end)
    return [*found, (place, life[1])] if place < life[1] else found


def live(versions: list[Version], wanted: list[Life]) -> None:
    """Give a node these lives: its versions are used in order, missing ones are copied, the rest goes."""
    versions.sort(key=lambda one: one.start)
    model = versions[0]
    for place, (start, end) in enumerate(wanted):
        if place < len(versions):
            versions[place].start, versions[place].end = start, end
        else:
            versions.append(model.copy(start, end))
    del versions[len(wanted):]


# ---------------------------------------------------------------- values
def taken(value: Any, rows: np.ndarray) -> Any:
    """Rows of an attribute; -1 takes any, to be overwritten."""
    rows = np.maximum(rows, 0)
    if isinstance(value, Tensor):
        return value[torch.from_numpy(rows)]
    return value[rows]


def assigned(value: Any, changes: list[tuple[int, Any]], name: str, declared: dict[str, Attribute]) -> Any:
    """An attribute with other values in some rows; a new word of a category is added to its declaration."""
    if not changes:
        return value
    rows = [row for row, _ in changes]
    if isinstance(value, Geometry):
        order = np.arange(len(value))
        order[rows] = len(value) + np.arange(len(rows))
        return Geometry(pa.concat_arrays([value.wkb, *(one.wkb for _, one in changes)]))[order]
    if isinstance(value, np.ndarray):
        texts = value.astype(object)
        texts[rows] = [str(one) for _, one in changes]
        return np.array(texts.tolist(), dtype=str).reshape(value.shape)
    said = declared.get(name)
    given = [one for _, one in changes]
    if said is not None and said.categories is not None:
        words = list(said.categories)
        words += [word for word in dict.fromkeys(str(one) for one in given) if word not in words]
        declared[name] = Attribute(said.dtype, said.shape, said.unit, said.description, tuple(words))
        given = [words.index(str(one)) for one in given]
    changed = value.clone()
    try:
        changed[rows] = torch.as_tensor(np.array(given), dtype=value.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("not a value of this attribute", field=name, value=given[0],
                         remedy=f"give {str(value.dtype).removeprefix('torch.')}") from error
    return changed


def unknown(value: Any) -> Any:
    """What stands for a value that is not known."""
    if isinstance(value, Tensor):
        return float("nan") if value.is_floating_point() else 0
    return ""


def scalar(value: Any) -> Any:
    """One value as JSON holds it."""
    return value.tolist() if isinstance(value, Tensor) else str(value)


def codes_of(store: Any, rows: np.ndarray) -> list[int]:
    """One number for each of the rows, the same where all attributes are."""
    codes = np.zeros(len(rows), np.int64)
    for name, value in store.items():
        if name == "edge_index" or not len(rows):
            continue
        part = taken(value, rows)
        array = np.array(part.wkb.to_pylist(), dtype=object) if isinstance(part, Geometry) else np.asarray(part)
        if array.dtype.kind == "f":  # bits, so that NaN equals NaN
            array = np.ascontiguousarray(array).view(np.dtype(f"i{array.dtype.itemsize}"))
        array = array.reshape(len(rows), -1)
        _, inverse = np.unique(array, axis=0, return_inverse=True) if array.shape[1] > 1 else \
            np.unique(array[:, 0], return_inverse=True)
        _, codes = np.unique(np.stack([codes, inverse.reshape(-1)]), axis=1, return_inverse=True)
        codes = codes.reshape(-1)
    return [int(code) for code in codes]
