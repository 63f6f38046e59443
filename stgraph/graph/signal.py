"""Signals: regular series of a node or edge type, with the mask of what was really observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stgraph.errors import InputError
from stgraph.units import Unit, unit, unit_for


@dataclass(frozen=True)
class Channel:
    """One measured quantity of a signal.

    Args:
        name: Its name, e.g. ``speed``.
        quantity: What is measured; a key of :data:`stgraph.units.QUANTITIES`.
        source_unit: The unit of the source; values are stored in its SI unit.
    """

    name: str
    quantity: str = "value"
    source_unit: str = "1"

    def __post_init__(self) -> None:
        unit_for(self.quantity, self.source_unit)

    @property
    def unit(self) -> str:
        """The SI unit of the stored values."""
        return self.source.si

    @property
    def source(self) -> Unit:
        """The unit of the source, with its factor to SI."""
        return unit(self.source_unit)

    def to_dict(self) -> dict[str, str]:
        """Plain values for JSON; ``unit`` is given for readers of the file and not read back."""
        return {"name": self.name, "quantity": self.quantity, "source_unit": self.source_unit, "unit": self.unit}

    @classmethod
    def from_dict(cls, value: dict[str, str]) -> Channel:
        """The reverse of :meth:`to_dict`."""
        return cls(value["name"], value["quantity"], value["source_unit"])


class LazyArray:
    """A part of an array ``[T, N, C]`` that is not in memory; what is sliced is read, nothing else.

    Args:
        array: Anything that slices like an array: a Zarr array, a memory map, another part.
        rows: First row and first row after the part; None for all.
        nodes: Positions of nodes; None for all.
        channels: Positions of channels; None for all.
    """

    def __init__(self, array: Any, rows: tuple[int, int] | None = None, nodes: np.ndarray | None = None,
                 channels: Sequence[int] | None = None) -> None:
        self.array, self.nodes, self.channels = array, nodes, channels
        self.first, self.last = rows if rows is not None else (0, int(array.shape[0]))
        self.dtype = np.dtype(array.dtype)
        self.shape = (max(0, self.last - self.first), array.shape[1] if nodes is None else len(nodes),
                      array.shape[2] if channels is None else len(channels))

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self.shape[0])
        found = np.asarray(self.array[self.first + start:self.first + max(start, stop)])
        if self.nodes is not None:
            found = found[:, self.nodes]
        return (found if self.channels is None else found[:, :, self.channels])[::step]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


def in_memory(array: Any) -> bool:
    """Whether an array lies in memory, rather than on disk."""
    return isinstance(array, np.ndarray) and not isinstance(array, np.memmap)


@dataclass(eq=False)
class Signal:
    """Values ``[T, N, C]`` in SI units and, of the same shape, whether each was observed.

    ``values`` and ``mask`` are anything that slices like an array and need not lie in memory: numpy arrays, memory
    maps, Zarr arrays. Entries that were not observed hold 0 and carry no meaning.

    Args:
        values: ``[T, N, C]`` float.
        mask: ``[T, N, C]`` bool, True where observed; None where every entry was.
        channels: One :class:`Channel` per last-axis entry.

    Raises:
        InputError: where shapes do not fit.
    """

    values: Any
    mask: Any = None
    channels: Sequence[Channel] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        self.channels = tuple(self.channels)
        if len(self.values.shape) != 3:
            raise InputError("a signal has three axes [T, N, C]", field="values", value=tuple(self.values.shape),
                             remedy="add the missing axis, e.g. values[..., None] for one channel")
        if self.mask is not None and tuple(self.mask.shape) != tuple(self.values.shape):
            raise InputError("the mask has another shape than the values", field="mask", value=tuple(self.mask.shape),
                             remedy=f"give it as {tuple(self.values.shape)}")
        if len(self.channels) != self.values.shape[2]:
            raise InputError("one channel description per last-axis entry is needed", field="channels",
                             value=[channel.name for channel in self.channels],
                             remedy=f"describe {self.values.shape[2]} channels")

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(T, N, C)``."""
        return tuple(self.values.shape)

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels in order."""
        return [channel.name for channel in self.channels]

    @property
    def nbytes(self) -> int:
        """Bytes of values and mask when held in memory."""
        size = int(np.prod(self.shape))
        return size * np.dtype(self.values.dtype).itemsize + (size if self.mask is not None else 0)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask of rows ``start <= row < stop``: ``[stop - start, N, C]`` float and bool.

        Only these rows are read from disk; arrays in memory give views.
        """
        values = np.asarray(self.values[start:stop])
        mask = np.ones(values.shape, bool) if self.mask is None else np.asarray(self.mask[start:stop])
        return values, mask

    def select(self, nodes: Any = None, channels: Sequence[str] | None = None, rows: slice | None = None) -> Signal:
        """A signal of some nodes, channels and rows; what lies on disk is not read, but seen through a view.

        Args:
            nodes: Index array of nodes; None for all.
            channels: Channel names in the wanted order; None for all.
            rows: A slice of consecutive rows; None for all.

        Raises:
            InputError: for a channel that does not exist.
        """
        pick: list[int] | None = None
        if channels is not None:
            for name in channels:
                if name not in self.channel_names:
                    raise InputError("no such channel", field="channels", value=name,
                                     remedy=f"choose among {', '.join(self.channel_names)}")
            pick = [self.channel_names.index(name) for name in channels]
            pick = None if pick == list(range(len(self.channels))) else pick
        described = self.channels if pick is None else [self.channels[i] for i in pick]
        chosen = None if nodes is None else np.asarray(nodes)

        def part(array: Any) -> Any:
            if not in_memory(array):
                start, stop, _ = (rows or slice(None)).indices(array.shape[0])
                return LazyArray(array, (start, stop), chosen, pick)
            array = array if rows is None else array[rows]
            array = array if pick is None else np.take(array, pick, axis=2)
            return array if chosen is None else np.take(array, chosen, axis=1)

        if rows is None and pick is None and chosen is None:
            return self
        return Signal(part(self.values), None if self.mask is None else part(self.mask), described)

    def copy(self) -> Signal:
        """An independent copy of what lies in memory; what lies on disk is shared."""
        values, mask = (array.copy() if in_memory(array) else array for array in (self.values, self.mask))
        return Signal(values, mask, self.channels)

    def to_source(self, values: Any, channel: int) -> Any:
        """Values of one channel in the unit of the source."""
        source = self.channels[channel].source
        return (values - source.offset) / source.factor
