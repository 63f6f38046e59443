"""A road network that changes with time: one network for each stretch of time between two changes.

The rule wherever something is put on roads or led over them: it meets the network as it stands at its time. Trips meet
the one of the moment they begin, events the one of their own moment. What has no time of its own is told one (``at``),
or meets the network after its last change.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stgraph.graph import GraphTables
from stgraph.graph.plain import SOURCE, TARGET, numbers
from stgraph.graph.schema import EdgeType
from stgraph.graph.time import instant
from stgraph.roads.network import IN, ON, TURN, Roads, relations_of_tables, road_tables, roads_of_tables

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

_OPEN_START, _OPEN_END = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
_KEPT = 4  # networks held at a time
_SHARED = ("projection", "junction_metres", "line_metres", "along", "_stride", "_keys")  # the same at every time

Life = tuple[np.ndarray, np.ndarray]
"""First second of each row, and first second after, ``[n]`` int64."""


class RoadHistory:
    """The networks that a map was, one after the other.

    A map that never changes is one network, and costs no more than :meth:`Roads.of`. The others are made when they are
    first asked for. Rows of segments are those of the whole table in all of them.

    Args:
        source: A bundle or graph that holds roads, or a network that does not change. A snapshot (``graph.at(t)``) is
            taken as it is.

    Attributes:
        starts: ``[P]`` int64, the first second of each network, seconds UTC; the first one has always been.

    Raises:
        InputError: where there are no roads in it.
    """

    def __init__(self, source: Path | str | Roads | DynamicHeteroGraph | GraphTables) -> None:
        self.starts = np.array([_OPEN_START])
        self._lives: dict[EdgeType | str, Life] = {}
        self._made: OrderedDict[int, Roads] = OrderedDict()
        self._tz = "UTC"
        if isinstance(source, Roads):
            self._made[0] = source
            return
        self._tables = road_tables(source)
        self._tz = self._tables.time.tz if self._tables.time is not None else "UTC"
        self._base = roads_of_tables(self._tables)
        self._find_lives()
        if not self._lives:
            self._made[0] = replace(self._base, **relations_of_tables(self._tables, {}))

    def __len__(self) -> int:
        return len(self.starts)

    def period(self, utc: np.ndarray) -> np.ndarray:
        """Number of the network that stands at each instant ``[n]``, seconds UTC."""
        return np.searchsorted(self.starts, np.floor(utc).astype(np.int64), side="right") - 1

    def at(self, time: Any = None) -> Roads:
        """The network of an instant; None for the last one.

        Args:
            time: Seconds since 1970-01-01 UTC, an ISO text, or a pandas Timestamp.

        Raises:
            InputError: for a time that cannot be read.
        """
        if time is None:
            return self.roads(len(self) - 1)
        utc = int(time) if isinstance(time, (int, np.integer)) else instant(time, self._tz)
        return self.roads(int(self.period(np.array([utc]))[0]))

    def roads(self, number: int) -> Roads:
        """One of the networks, by its number."""
        if number not in self._made:
            self._made[number] = self._make(number)
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(number)
        return self._made[number]

    # ---------------------------------------------------------------- parts
    def _find_lives(self) -> None:
        """Lives of segments, moves, signals and restrictions, those of edges clipped to their ends."""
        tables, roads = self._tables, self._base
        nodes = {kind: _life(table) for kind, table in tables.nodes.items()}
        segment = _clipped(nodes["segment"], (nodes["junction"], roads.tail), (nodes["junction"], roads.head))
        if segment is None or ("n_id" in tables.nodes["segment"].column_names and _together(segment)):
            return
        found: dict[EdgeType | str, Life] = {"segment": segment}
        for kind in (TURN, ON, IN):
            if kind in tables.edges:
                edges = tables.edges[kind]
                ends = ((segment if end == "segment" else nodes.get(end), numbers(edges[side]))
                        for end, side in zip((kind[0], kind[2]), (SOURCE, TARGET), strict=True))
                found[kind] = _clipped(_life(edges), *ends) or segment
        self._lives = found
        changes = np.unique(np.concatenate([np.concatenate(life) for life in found.values()]))
        changes = changes[(changes > _OPEN_START) & (changes < _OPEN_END)]
        self.starts = np.concatenate([[_OPEN_START], changes])

    def _make(self, number: int) -> Roads:
        moment = int(self.starts[number])
        stands = {kind: (start <= moment) & (moment < end) for kind, (start, end) in self._lives.items()}
        alive = stands.pop("segment")
        last = int(self.starts[number + 1]) if number + 1 < len(self) else _OPEN_END
        kept = {kind: rows for kind, rows in stands.items() if isinstance(kind, tuple)}
        if IN in kept:
            kept[IN] = _whole(self._tables.edges[IN], kept[IN])
        made = replace(self._base, **relations_of_tables(self._tables, kept), alive=None if alive.all() else alive,
                       period=(moment, last) if len(self) > 1 else None)
        for name in _SHARED:
            made.__dict__[name] = getattr(self._base, name)
        return made


def _life(table: pa.Table) -> Life | None:
    names = ("valid_from", "valid_to")
    if not any(name in table.column_names for name in names):
        return None
    start, end = (np.asarray(numbers(table[name])) if name in table.column_names else np.full(len(table), other)
                  for name, other in zip(names, (_OPEN_START, _OPEN_END), strict=True))
    return start, end


def _clipped(life: Life | None, *ends: tuple[Life | None, np.ndarray]) -> Life | None:
    """A life clipped to those of other rows; None where nothing has a life."""
    for other, rows in ends:
        if other is not None:
            part = other[0][rows], other[1][rows]
            life = part if life is None else (np.maximum(life[0], part[0]), np.minimum(life[1], part[1]))
    return life


def _whole(member: pa.Table, rows: np.ndarray) -> np.ndarray:
    """Rows of the sequences all of whose places have a segment that stands: a part of one forbids nothing."""
    sequence, order = numbers(member[TARGET]), numbers(member["order"])
    places = np.bincount(np.unique(np.stack([sequence, order]), axis=1)[0])
    return rows & (np.bincount(sequence[rows], minlength=len(places)) == places)[sequence]


def _together(life: Life) -> bool:
    """Whether there is an instant at which all live."""
    return bool(life[0].max(initial=_OPEN_START) < life[1].min(initial=_OPEN_END))
