"""Cells without a reading take values from around them, and the filling stays visible."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from stgraph.graph.signal import Channel, Signal
from stgraph.sources.raster.blocks import Blocks, block_rows


def filled(signal: Signal, index: np.ndarray) -> Signal:
    """The signal with its holes filled: the value of a cell without a reading is the mean of its neighbours'.

    For each step this is the discrete Laplace equation on the stencil, with the readings as its boundary (harmonic
    interpolation): a fill never lies outside of the readings around it, and a plane is continued exactly inside of
    them. What no reading reaches over the stencil stays not observed.

    Args:
        signal: ``[T, N, C]``.
        index: ``[2, E]`` int64, both directions of each pair of neighbouring cells.

    Returns:
        ``[T, N, 2 C]``: the channels, then for each a channel ``NAME_interpolated`` that is 1 where the value was
        filled and 0 where it was read.
    """
    length, count, width = signal.shape
    channels = [*signal.channels, *(Channel(f"{one.name}_interpolated", "share") for one in signal.channels)]
    holes = _Holes(index, count)

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        values, mask = signal.read(start, stop)
        out, known = np.zeros((stop - start, count, 2 * width), np.float32), np.zeros((stop - start, count, 2 * width),
                                                                                     bool)
        for channel in range(width):
            made, reached = holes.fill(values[..., channel], mask[..., channel])
            out[..., channel], out[..., width + channel] = made, reached & ~mask[..., channel]
            known[..., channel] = known[..., width + channel] = reached
        return out, known

    return Blocks((length, count, 2 * width), make, block_rows(2 * count * width)).signal(channels)


class _Holes:
    """Solves the Laplace equation for one pattern of holes after another; the last pattern is kept."""

    def __init__(self, index: np.ndarray, count: int) -> None:
        ones = np.ones(index.shape[1])
        self.near = csr_array((ones, (index[0], index[1])), shape=(count, count))
        self.laplacian = (diags_array(np.asarray(self.near.sum(1)).reshape(-1)) - self.near).tocsr()
        _, self.part = connected_components(self.near, directed=False)
        self._kept: tuple[np.ndarray, np.ndarray, object] | None = None

    def fill(self, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values ``[rows, N]`` with holes filled, and where there is a value now."""
        out, reached = np.where(mask, values, np.float32(0)), mask.copy()
        patterns, which = np.unique(np.packbits(mask, axis=1), axis=0, return_inverse=True)
        for pattern in range(len(patterns)):
            rows = np.flatnonzero(which.reshape(-1) == pattern)
            seen = mask[rows[0]]
            if seen.all() or not seen.any():
                continue
            unknown, solver = self._solver(seen)
            if not len(unknown):
                continue
            known = np.flatnonzero(seen)
            pull = -self.laplacian[unknown][:, known] @ values[np.ix_(rows, known)].T.astype(np.float64)
            out[np.ix_(rows, unknown)] = solver.solve(np.ascontiguousarray(pull)).T  # type: ignore[attr-defined]
            reached[np.ix_(rows, unknown)] = True
        return out, reached

    def _solver(self, seen: np.ndarray) -> tuple[np.ndarray, object]:
        """Cells to fill, and the factors of their equations."""
        if self._kept is None or not np.array_equal(self._kept[0], seen):
            with_reading = np.isin(self.part, self.part[seen])
            unknown = np.flatnonzero(~seen & with_reading)
            solver = splu(self.laplacian[unknown][:, unknown].tocsc()) if len(unknown) else None
            self._kept = (seen.copy(), unknown, solver)
        return self._kept[1], self._kept[2]
