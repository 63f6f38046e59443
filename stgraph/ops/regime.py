"""Which kernel multiplies a sparse matrix with features: a pure function of sizes, so that it can be read and tested.

The limits come from counting bytes and operations for a GPU of the Hopper kind (DRAM, L2 and shared memory against
matrix units) and from measurements on a CPU. The ones for a GPU are not measured on a GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from stgraph.errors import InputError

DENSE_NODES = 360
"""Up to so many nodes a dense product in reduced precision only waits for memory."""
DENSE_DENSITY = 0.007
"""From this density on a dense product in reduced precision is as quick as a sparse one."""
DENSE_DENSITY_STRICT = 0.04
"""The same in full float32, where matrix units do not help."""
DENSE_DENSITY_CPU = 0.45
"""The same on a CPU (measured: at a density of 0.04 the sparse product took a twentieth of the time)."""
STAGED_BYTES = 200_000
"""Shared memory that staged sources may take of a block's 227 KiB."""
STAGED_CHANNELS = 64
"""Channels of a tile whose sources are staged."""
BLOCK_DEGREE = 8.0
"""From this mean degree on a row block with its halo can pay."""
BLOCK_REUSE = 4.0
"""Times that a source in a halo must be read to be worth staging."""
FINITE = os.environ.get("STGRAPH_FINITE", "0") not in ("", "0")
"""Whether ``STGRAPH_FINITE=1`` promises that features hold neither NaN nor infinity. Only then may a product be dense:
its zeros turn a NaN or an infinity of any node into a NaN of every node."""
LONG_ROW = 512
"""Rows with more entries are cut into windows; ``kWindow`` of ``kernels/cuda/spmm.cu``."""


class Regime(Enum):
    """A way to run a sparse product."""

    DENSE = "dense"
    """The adjacency as a dense matrix, one matrix product."""
    STAGED = "staged"
    """All sources of a tile in shared memory."""
    BLOCK = "block"
    """Blocks of rows, the sources of each in shared memory."""
    ROWS = "rows"
    """Every row by itself from global memory."""


@dataclass(frozen=True)
class Choice:
    """The kernel for a product.

    Args:
        regime: Which one.
        split: Whether rows of more than :data:`LONG_ROW` entries are cut into windows (only for ``Regime.ROWS``).
        reason: The condition that decided.
    """

    regime: Regime
    split: bool
    reason: str


def choose(*, device: str, rows: int, sources: int, edges: int, channels: int, itemsize: int, reduce: str = "sum",
           reduced_precision: bool = False, shared_weight: bool = True, finite: bool = True,
           longest_row: int | None = None, reuse: float | None = None, widest: int | None = None) -> Choice:
    """Choose the kernel of a sparse product.

    Args:
        device: ``cpu`` or ``cuda``.
        rows: Destination nodes.
        sources: Source nodes.
        edges: Entries of the matrix.
        channels: Numbers per node that are multiplied at once: all of batch, time and features where they lie
            together, else the features.
        itemsize: Bytes of a number.
        reduce: ``sum``, ``mean`` or ``max``; a maximum is always taken row by row.
        reduced_precision: Whether matrix units may round: 16-bit features, or float32 with TF32 allowed.
        shared_weight: Whether one number per edge serves all channels; else there is no one matrix.
        finite: Whether features hold neither NaN nor infinity, so that products with zeros are harmless.
        longest_row: Entries of the longest row; None: not known, so there may be long ones.
        reuse: Entries per distinct source of a row block, from :func:`stgraph.ops.block_dense.plan`; None: no plan.
        widest: Sources of the plan's widest halo; None: it fits shared memory.

    Raises:
        InputError: for sizes below 0, or an unknown device or reduction.
    """
    if device not in ("cpu", "cuda"):
        raise InputError("unknown device", field="device", value=device, remedy="cpu or cuda")
    if reduce not in ("sum", "mean", "max"):
        raise InputError("unknown reduction", field="reduce", value=reduce, remedy="sum, mean or max")
    if min(rows, sources, edges, channels) < 0 or itemsize < 1:
        raise InputError("sizes are not below 0", field="sizes", value=(rows, sources, edges, channels, itemsize),
                         remedy="give the sizes of the graph and of the features")
    split = edges > LONG_ROW if longest_row is None else longest_row > LONG_ROW
    by_rows = Choice(Regime.ROWS, split and device == "cuda", "nothing else applies")
    if edges == 0 or channels == 0 or rows == 0:
        return Choice(Regime.ROWS, False, "nothing to multiply")
    if reduce == "max":
        return Choice(Regime.ROWS, by_rows.split, "a maximum needs the edge that gave it")
    density = edges / (rows * sources)
    one_matrix = shared_weight and finite
    if device == "cpu":
        if one_matrix and density >= DENSE_DENSITY_CPU:
            return Choice(Regime.DENSE, False, f"density {density:.2g} of at least {DENSE_DENSITY_CPU}")
        return by_rows
    staged = fits(sources, channels, itemsize)
    if one_matrix and reduced_precision and (max(rows, sources) <= DENSE_NODES or density >= DENSE_DENSITY):
        return Choice(Regime.DENSE, False, "matrix units may be used, and the matrix is small or dense")
    if one_matrix and not reduced_precision and density >= DENSE_DENSITY_STRICT and not staged:
        return Choice(Regime.DENSE, False, f"density {density:.2g}, and the sources do not fit shared memory")
    if staged:
        return Choice(Regime.STAGED, False, "all sources fit shared memory")
    if edges / rows >= BLOCK_DEGREE and reuse is not None and reuse >= BLOCK_REUSE \
            and (widest is None or fits(widest, channels, itemsize)):
        return Choice(Regime.BLOCK, False, f"a source in a halo is read {reuse:.1f} times")
    return by_rows


def fits(sources: int, channels: int, itemsize: int) -> bool:
    """Whether a tile of channels of so many sources fits the shared memory of a block."""
    return sources * min(channels, STAGED_CHANNELS) * itemsize <= STAGED_BYTES
