"""A city ready for a model: one bundle's signal, split, descriptors and lazily cut windows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal, data_sha256, load
from stgraph.graph.time import DAY, seconds
from stgraph.windows.context import Context
from stgraph.windows.layer import Layer
from stgraph.windows.split import Split
from stgraph.windows.window import Calendar, Window, long_minutes


class City:
    """A graph with one signal to forecast, and the windows on it.

    Args:
        graph: The graph.
        node_type: Whose signal is forecast; None for ``sensor``, else for the only type that has signals.
        signal: Name of the signal; None where the node type has only one.
        channels: Channels to read and to forecast; None for all.
        history: Input steps ``T``.
        horizon: Output steps ``H``.
        fractions: Shares of train, validation and test.
        name: Name in logs and tables.
        sha256: Hash of the bundle's data; None for a graph that was never saved.
        also: Other types of nodes that windows hold beside these, each with options: ``signal`` and ``channels`` as
            above; for a type without a signal ``memory``, how long what has a ``time`` is remembered, such as ``6h``
            (the input steps, where nothing is said).

    Attributes:
        others: These types: a city of its own where there is a signal, else a :class:`~stgraph.windows.Layer`.

    Raises:
        InputError: where the graph has no time axis or no such signal, or a part is too short for a window; for another
            type that is not there, or an option that it does not have.
    """

    def __init__(self, graph: DynamicHeteroGraph, *, node_type: str | None = None, signal: str | None = None,
                 channels: Sequence[str] | None = None, history: int = 12, horizon: int = 12,
                 fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), name: str = "city",
                 sha256: str | None = None, also: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        if graph.time is None:
            raise InputError("the graph has no time axis, so there is nothing to forecast", field="time",
                             remedy="build it with readings: stgraph build sensors")
        self.graph, self.name, self.sha256 = graph, name, sha256
        self.node_type = _with_signals(graph) if node_type is None else node_type
        self.signal: Signal = graph.signal(self.node_type, signal).select(channels=channels)
        self.signal_name = signal or next(iter(graph.signals(self.node_type)))
        self.time = graph.time
        self.history, self.horizon = history, horizon
        self.split = Split(self.time.length, fractions, history, horizon)
        self.also = {kind: dict(options) for kind, options in (also or {}).items()}
        self.others: dict[str, City | Layer] = {kind: self._other(kind, **options)
                                                for kind, options in self.also.items()}

    @classmethod
    def open(cls, path: Path | str, **options: Any) -> City:
        """Open a ``.stg`` bundle; options as for the class."""
        path = Path(path)
        graph = load(path)
        options.setdefault("name", str(graph.metadata.get("name") or path.stem))
        return cls(graph, sha256=data_sha256(path), **options)

    # ---------------------------------------------------------------- other types of nodes
    def _other(self, kind: str, **options: Any) -> City | Layer:
        """Nodes of another type of the same graph."""
        if kind == self.node_type:
            raise InputError("this type of nodes is forecast already", field="also", value=kind,
                             remedy="name other types")
        known = ("signal", "channels") if self.graph.signals(kind) else ("memory",)
        for name, value in options.items():
            if name not in known:
                raise InputError(f"the type '{kind}' {'has' if len(known) > 1 else 'has no'} signal and takes no such "
                                 "option", field=f"also.{kind}.{name}", value=value,
                                 remedy=f"use {' and '.join(known)}")
        if len(known) > 1:
            return City(self.graph, node_type=kind, history=self.history, horizon=self.horizon,
                        fractions=self.split.fractions, name=f"{self.name}, {kind}", sha256=self.sha256, **options)
        memory = seconds(options.get("memory", self.history * self.time.step))
        return Layer(self.graph, kind, memory, self._start(self.split.rows("train")[1]))

    def led_by(self, kind: str) -> City:
        """The same types of nodes, windows and split, with another type in the place of this one.

        Raises:
            InputError: for a type that is not among the others, or has no signal.
        """
        if not isinstance(self.others.get(kind), City):
            raise InputError("not another type with a signal", field="node_type", value=kind,
                             remedy="name one of the types that the city holds beside its own")
        own = {"signal": self.signal_name, "channels": self.signal.channel_names}
        return City(self.graph, node_type=kind, history=self.history, horizon=self.horizon,
                    fractions=self.split.fractions, name=self.name, sha256=self.sha256, **self.also[kind],
                    also={self.node_type: own} | {name: options for name, options in self.also.items() if name != kind})

    def _start(self, row: int) -> int:
        """First second UTC of a row, which may be one after the last."""
        return int(self.time.times(np.array([row]))[0])

    # ---------------------------------------------------------------- what the map tells
    @property
    def num_nodes(self) -> int:
        """Number of nodes ``N``."""
        return self.signal.shape[1]

    @property
    def num_channels(self) -> int:
        """Number of channels ``C``."""
        return self.signal.shape[2]

    @property
    def node_ids(self) -> np.ndarray:
        """The user's ids of the nodes, ``[N]`` str."""
        return np.asarray(self.graph[self.node_type].node_id)

    @property
    def lonlat(self) -> Tensor:
        """Longitude and latitude ``[N, 2]`` in degrees; NaN where the place is not known."""
        store = self.graph[self.node_type]
        return store.lonlat if "lonlat" in store else torch.full((self.num_nodes, 2), float("nan"))

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Edge index ``[2, E]`` and weight ``[E]`` of all relations among these nodes.

        Of edges that live from time to time, those that began before the training rows end.
        """
        return self._edges(self._start(self.split.rows("train")[1]))

    @cached_property
    def lasting_edges(self) -> tuple[Tensor, Tensor]:
        """Those of :attr:`edges` whose relation does not change with time."""
        return self._edges(None)

    def _edges(self, known: int | None) -> tuple[Tensor, Tensor]:
        """Edges of all relations; of those with lives what began before a second, or nothing."""
        index, weight = [torch.zeros((2, 0), dtype=torch.long)], [torch.zeros(0)]
        for kind in self.graph.edge_types:
            store = self.graph[kind]
            lives = "valid_from" in store or "valid_to" in store
            if {kind[0], kind[2]} != {self.node_type} or (lives and known is None):
                continue
            ends = store.edge_index
            given = store.edge_weight.float() if "edge_weight" in store else torch.ones(ends.shape[1])
            if "valid_from" in store:
                began = store.valid_from < known
                ends, given = ends[:, began], given[began]
            index.append(ends)
            weight.append(given)
        return torch.cat(index, 1), torch.cat(weight)

    @cached_property
    def context(self) -> Context:
        """Descriptors fitted on the training rows, and on no others."""
        return Context(self.signal, self.time, *self.split.rows("train"))

    def use_context(self, start: int, stop: int) -> None:
        """Fit the descriptors on other rows: the days that are given in a transfer, or all that is past."""
        self.context = Context(self.signal, self.time, start, stop)
        for other in self.others.values():
            if isinstance(other, City):
                other.use_context(start, stop)
            else:
                other.use_context(self._start(stop))

    def prepare(self, needs: frozenset[str] = frozenset()) -> None:
        """Compute now what :meth:`window` would compute when first asked."""
        _ = self._calendar
        if "profile" in needs:
            self.context.profile(np.empty(0, np.int64))
        if "lags" in needs:
            _ = self._lag_rows
        for other in self.others.values():
            if isinstance(other, City):
                other.prepare(needs)

    # ---------------------------------------------------------------- windows
    @cached_property
    def _calendar(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.arange(self.time.length + self.horizon)
        slot, weekday, _ = self.time.calendar(rows)
        minute = self.time.local(self.time.times(rows)) % DAY // 60
        return slot, weekday, minute

    def calendar(self, rows: np.ndarray) -> Calendar:
        """The calendar of rows ``[B, L]``, up to ``horizon`` rows after the end."""
        slot, weekday, minute = self._calendar
        return Calendar(torch.from_numpy(slot[rows]), torch.from_numpy(weekday[rows]), torch.from_numpy(minute[rows]),
                        self.time.slots_per_day)

    def window(self, origins: Sequence[int] | np.ndarray, needs: frozenset[str] = frozenset(),
               target: bool = True) -> Window:
        """Cut windows at forecast origins; only their rows are read.

        Args:
            origins: Rows of the first wanted step, ``history <= origin``, and ``origin + horizon <= T`` with targets.
            needs: What the model needs beyond the values: ``profile``, ``lags``, :func:`~stgraph.windows.long_history`.
            target: Whether to read the true values too.

        Raises:
            InputError: for an origin whose window leaves the axis.
        """
        origin = np.asarray(origins, dtype=np.int64)
        last = self.time.length - (self.horizon if target else 0)
        if origin.min() < self.history or origin.max() > last:
            raise InputError("a window leaves the time axis", field="origin", value=f"{origin.min()} to {origin.max()}",
                             remedy=f"choose origins from {self.history} to {last}")
        past = origin[:, None] + np.arange(-self.history, 0)
        future = origin[:, None] + np.arange(self.horizon)
        read, seen = self._read(np.concatenate([past, future], 1) if target else past)
        readings = read[:, : self.history], seen[:, : self.history]
        calendars = self.calendar(past), self.calendar(future)
        window = Window(*_tensors(*readings), *calendars, torch.from_numpy(origin), self)
        targets = None
        if target:
            targets = read[:, self.history :], seen[:, self.history :]
            window.target, window.target_mask = _tensors(*targets)
        if "profile" in needs:
            window.profile_past = torch.from_numpy(self.context.profile(past, readings))
            window.profile_future = torch.from_numpy(self.context.profile(future, targets))
        if "lags" in needs:
            window.lags = {name: self._lag(future, origin, rows) for name, rows in self._lag_rows.items()}
        if minutes := long_minutes(needs):
            rows, start = self._long_rows(origin, self.long_steps(minutes))
            window.long = self._since(rows, start)
        for kind, other in self.others.items():
            window.others[kind] = other.window(origin, needs, target) if isinstance(other, City) else \
                other.window(self.time.times(origin))
        return window

    # ---------------------------------------------------------------- the long history
    def long_steps(self, minutes: float) -> int:
        """Steps ``L`` of a long history of so many minutes, at least 1."""
        return max(1, round(minutes * 60 / self.time.step))

    def long_window(self, origins: Sequence[int] | np.ndarray, minutes: float) -> Window:
        """Windows whose input steps are the long history before the origins, which may be any rows from 0 to ``T``."""
        origin = np.asarray(origins, dtype=np.int64)
        rows, start = self._long_rows(origin, self.long_steps(minutes))
        future = self.calendar(origin[:, None] + np.arange(self.horizon))
        return Window(*self._since(rows, start), self.calendar(rows), future, torch.from_numpy(origin), self)

    def long_calendar(self, origins: np.ndarray, steps: int) -> Calendar:
        """The calendar of the ``steps`` rows before the origins ``[B]``; before the start of the axis, of its start."""
        return self.calendar(self._long_rows(origins, steps)[0])

    @staticmethod
    def _long_rows(origin: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows ``[B, L]`` before the origins, 0 in place of those before the axis, and how many these are, ``[B]``."""
        rows = origin[:, None] + np.arange(-steps, 0)
        return np.maximum(rows, 0), (rows < 0).sum(1)

    def _since(self, rows: np.ndarray, start: np.ndarray) -> tuple[Tensor, Tensor]:
        """Values and mask of rows ``[B, L]``, the first ``start`` of each not observed."""
        values, mask = self._read(rows)
        there = np.arange(rows.shape[1]) >= start[:, None]
        return _tensors(values, mask & there[..., None, None])

    @cached_property
    def _lag_rows(self) -> dict[str, np.ndarray]:
        """For each row (and ``horizon`` beyond), the row at the same clock time a day and a week before; -1 if none."""
        rows = np.arange(self.time.length + self.horizon)
        if self.time.steps_per_day:
            week = 5 if self.time.weekdays_only else 7
            shift = {"yesterday": self.time.steps_per_day, "last_week": week * self.time.steps_per_day}
            return {name: np.maximum(rows - steps, -1) for name, steps in shift.items()}
        utc = self.time.times(rows)
        offset = self.time.local(utc) - utc
        found = {}
        for name, days in (("yesterday", 1), ("last_week", 7)):
            earlier = utc - days * DAY
            earlier += offset - (self.time.local(earlier) - earlier)  # the same clock time across a change of offset
            found[name] = np.clip((earlier - self.time.start) // self.time.step, -1, rows - 1)
        return found

    def _lag(self, future: np.ndarray, origin: np.ndarray, earlier: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = earlier[future]
        while (late := rows >= origin[:, None]).any():  # a horizon beyond the lag goes back once more
            rows = np.where(late, earlier[rows], rows)
        known = rows >= 0
        values, mask = self._read(np.where(known, rows, np.maximum(rows.max(1, keepdims=True), 0)))
        return _tensors(values, mask & known[..., None, None])

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask ``[B, L, N, C]`` of rows ``[B, L]``."""
        values, mask = self.signal.values, self.signal.mask
        if isinstance(values, np.ndarray) and (mask is None or isinstance(mask, np.ndarray)):
            found = values[rows]
            return found, np.ones(found.shape, bool) if mask is None else mask[rows]
        low, high = rows.min(1), rows.max(1) + 1
        if high.max() - low.min() <= rows.size:  # windows side by side: one contiguous read, else one a window
            block, seen = self.signal.read(int(low.min()), int(high.max()))
            return block[rows - low.min()], seen[rows - low.min()]
        parts = [self.signal.read(int(first), int(last)) for first, last in zip(low, high, strict=True)]
        index = rows - low[:, None]
        return (np.stack([part[0][row] for part, row in zip(parts, index, strict=True)]),
                np.stack([part[1][row] for part, row in zip(parts, index, strict=True)]))


def also_of(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Other types of nodes from words of the command line: ``type``, ``type:signal``, ``type:signal:channel+channel``,
    or ``type:duration`` for one without a signal.

    Raises:
        InputError: for words of another form, or a type that is named twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        kind, *rest = (part.strip() for part in text.split(":"))
        if not kind or len(rest) > 2 or not all(rest) or kind in found:
            raise InputError("not another type of nodes" if kind not in found else "the type is named twice",
                             field="also", value=text, remedy="write it like segment:traffic:count, region or event:6h")
        options: dict[str, Any] = {}
        if rest and len(rest) == 1 and re.fullmatch(r"\d+(\.\d+)?\s*[A-Za-z]+", rest[0]):
            options["memory"] = rest[0]
        elif rest:
            options["signal"] = rest[0]
        if len(rest) == 2:
            options["channels"] = rest[1].split("+")
        found[kind] = options
    return found


def _with_signals(graph: DynamicHeteroGraph) -> str:
    """The node type whose signal is meant where none is named.

    Raises:
        InputError: where several could be meant.
    """
    kinds = [kind for kind in graph.node_types if graph.signals(kind)]
    if "sensor" in kinds or not kinds:
        return "sensor"
    if len(kinds) > 1:
        raise InputError("several types of nodes have signals", field="node_type", value=", ".join(kinds),
                         remedy="name one with --node-type")
    return str(kinds[0])


def _tensors(values: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """Float32 values, 0 where nothing was observed, and bool mask, each in memory of its own."""
    return (torch.from_numpy(np.where(mask, values, np.float32(0)).astype(np.float32, copy=False)),
            torch.from_numpy(np.ascontiguousarray(mask)))
