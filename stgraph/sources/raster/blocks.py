"""Signals that are computed in blocks of rows: what is asked for is made, and one block is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stgraph.graph.signal import Channel, Signal

EAGER_BYTES = 256 << 20
"""A signal up to this size is made at once and held in memory."""
BLOCK_BYTES = 16 << 20
"""Float32 values of one block."""


class Blocks:
    """Values ``[T, N, C]`` float32 and mask, made block by block.

    Values and mask of a block are made together. The last block is kept, and so is the mask of the last rows of values
    that were asked for: whoever reads values and then mask, or goes through the rows, has each block made once.

    Args:
        shape: ``(T, N, C)``.
        make: Gives values and mask of rows ``start <= row < stop``.
        rows: Rows of a block; blocks start at multiples of it.
    """

    def __init__(self, shape: tuple[int, int, int], make: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
                 rows: int | None = None) -> None:
        self.shape = shape
        self.rows = rows or block_rows(shape[1] * shape[2])
        self._make = make
        self._block: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None
        self._mask: tuple[int, int, np.ndarray] | None = None

    def read(self, start: int, stop: int, part: int) -> np.ndarray:
        """Values (part 0) or mask (part 1) of some rows."""
        if part and self._mask is not None and self._mask[:2] == (start, stop):
            return self._mask[2]
        values = np.empty((0 if part else max(0, stop - start), *self.shape[1:]), np.float32)
        mask = np.empty((max(0, stop - start), *self.shape[1:]), bool)
        for first in range(start - start % self.rows, stop, self.rows):
            last = min(first + self.rows, self.shape[0])
            if self._block is None or self._block[0] != first:
                self._block = (first, self._make(first, last))
            low, high = max(first, start), min(last, stop)
            mask[low - start:high - start] = self._block[1][1][low - first:high - first]
            if not part:
                values[low - start:high - start] = self._block[1][0][low - first:high - first]
        self._mask = None if part else (start, stop, mask)
        return mask if part else values

    def signal(self, channels: Sequence[Channel]) -> Signal:
        """The signal; in memory where it is small."""
        lazy = Signal(_Part(self, 0), _Part(self, 1), channels)
        if lazy.nbytes > EAGER_BYTES:
            return lazy
        values, mask = np.empty(self.shape, np.float32), np.empty(self.shape, bool)
        for start in range(0, self.shape[0], self.rows):
            rows = slice(start, min(start + self.rows, self.shape[0]))
            values[rows], mask[rows] = lazy.read(rows.start, rows.stop)
        return Signal(values, mask, channels)


class _Part:
    """Values or mask of blocks, as an array of which consecutive rows can be sliced."""

    def __init__(self, blocks: Blocks, part: int) -> None:
        self._blocks, self._part = blocks, part
        self.shape = blocks.shape
        self.dtype = np.dtype(bool if part else np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self.shape[0])
        return self._blocks.read(start, max(start, stop), self._part)[::step]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


def block_rows(width: int, chunk: int = 1) -> int:
    """Rows of a block, a multiple of the rows of a stored chunk.

    Args:
        width: Values of one row.
        chunk: Rows of a chunk; a block of fewer would unpack it several times.
    """
    wanted = max(1, BLOCK_BYTES // max(1, 4 * width))
    return chunk * max(1, wanted // chunk)


def blocks_of(signal: Signal) -> range:
    """First rows of the blocks that a signal is best read in."""
    blocks = getattr(signal.values, "_blocks", None)
    step = blocks.rows if isinstance(blocks, Blocks) else block_rows(signal.shape[1] * signal.shape[2])
    return range(0, signal.shape[0], step)
