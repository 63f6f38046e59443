"""A city ready for a model: one bundle's signal, split, descriptors and lazily cut windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal, data_sha256, load
from stgraph.graph.time import DAY
from stgraph.windows.context import Context
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

    Raises:
        InputError: where the graph has no time axis or no such signal, or a part is too short for a window.
    """

    def __init__(self, graph: DynamicHeteroGraph, *, node_type: str | None = None, signal: str | None = None,
                 channels: Sequence[str] | None = None, history: int = 12, horizon: int = 12,
                 fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), name: str = "city",
                 sha256: str | None = None) -> None:
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

    @classmethod
    def open(cls, path: Path | str, **options: Any) -> City:
        """Open a ``.stg`` bundle; options as for the class."""
        path = Path(path)
        graph = load(path)
        options.setdefault("name", str(graph.metadata.get("name") or path.stem))
        return cls(graph, sha256=data_sha256(path), **options)

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
        """Edge index ``[2, E]`` and weight ``[E]`` of all relations among these nodes."""
        index, weight = [torch.zeros((2, 0), dtype=torch.long)], [torch.zeros(0)]
        for kind in self.graph.edge_types:
            if kind[0] == kind[2] == self.node_type:
                store = self.graph[kind]
                index.append(store.edge_index)
                given = store.edge_weight if "edge_weight" in store else torch.ones(store.edge_index.shape[1])
                weight.append(given.float())
        return torch.cat(index, 1), torch.cat(weight)

    @cached_property
    def context(self) -> Context:
        """Descriptors fitted on the training rows, and on no others."""
        return Context(self.signal, self.time, *self.split.rows("train"))

    def use_context(self, start: int, stop: int) -> None:
        """Fit the descriptors on other rows: the days that are given in a transfer, or all that is past."""
        self.context = Context(self.signal, self.time, start, stop)

    def prepare(self, needs: frozenset[str] = frozenset()) -> None:
        """Compute now what :meth:`window` would compute when first asked."""
        _ = self._calendar
        if "profile" in needs:
            self.context.profile(np.empty(0, np.int64))
        if "lags" in needs:
            _ = self._lag_rows

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
