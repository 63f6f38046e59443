"""Sparse products by blocks of rows and their halos.

Neighbouring rows of a road or sensor graph read largely the same sources, once nodes stand in an order that keeps
neighbours together. A :class:`BlockPlan` lists the distinct sources of each block of rows, its halo.
:func:`block_dense_spmm` gathers the halos and multiplies each with a small dense matrix in PyTorch's own operators; it
is what the CUDA kernel that stages halos in shared memory (``kernels/cuda/staged.cu``) has to beat, and takes the same
plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.autocast import in_the_widest

ROW_BLOCK = 128
"""Rows per block where nothing else is said."""


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """Blocks of consecutive rows and the distinct sources that each reads.

    Args:
        adjacency: The graph.
        row_block: Rows per block; the last block may have fewer.
        pointer: ``[blocks + 1]`` where the halo of each block starts.
        halo: ``[pointer[-1]]`` sources, rising within a block.
        local: ``[E]`` position of each entry's source in the halo of its block.
        widest: Sources of the largest halo.
    """

    adjacency: Adjacency
    row_block: int
    pointer: Tensor
    halo: Tensor
    local: Tensor
    widest: int

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.pointer) - 1

    @property
    def reuse(self) -> float:
        """Entries per staged source: how often a row in shared memory is read."""
        return len(self.local) / max(len(self.halo), 1)


def plan(adjacency: Adjacency, row_block: int = ROW_BLOCK) -> BlockPlan:
    """Find the halo of each block of rows; :meth:`Adjacency.halo_plan` does it once for a graph.

    Args:
        adjacency: The graph; index tensors of the plan have its type and device.
        row_block: Rows per block.

    Raises:
        InputError: where ``row_block`` is below 1.
    """
    if row_block < 1:
        raise InputError("a block has at least one row", field="row_block", value=row_block, remedy="128 is usual")
    dtype, device = adjacency.col.dtype, adjacency.col.device
    blocks = -(-adjacency.rows // row_block)
    block = adjacency.row.long() // row_block
    # one number per pair of block and source; they rise with the block, so each halo is one run of them
    pairs, place = torch.unique(block * max(adjacency.columns, 1) + adjacency.col.long(), return_inverse=True)
    owner = pairs // max(adjacency.columns, 1)
    pointer = torch.searchsorted(owner, torch.arange(blocks + 1, device=device))
    local = place - pointer[block] if len(block) else place
    widest = int(pointer.diff().max()) if blocks else 0
    return BlockPlan(adjacency, row_block, pointer.to(dtype), (pairs % max(adjacency.columns, 1)).to(dtype),
                     local.to(dtype), widest)


@in_the_widest
def block_dense_spmm(blocks: BlockPlan, x: Tensor, weight: Tensor | None = None, reduce: str = "sum",
                     addend: Tensor | None = None) -> Tensor:
    """``out[i] = sum over the entries e of row i of weight[e] * x[col[e]]`` with one small dense matrix per block.

    Gradients with respect to ``x``, ``weight`` and ``addend`` come from PyTorch. Memory: one number per row and place
    in the widest halo, and the gathered halos. Products with the zeros of a block are products too: a NaN or an
    infinity in a source reaches all rows of the blocks that read it, not only its neighbours.

    Args:
        blocks: From :func:`plan`.
        x: ``[..., N_source, F]``.
        weight: ``[E]`` in the order of the edges; None: all ones.
        reduce: ``sum`` or ``mean``.
        addend: ``[..., N_destination, F]``, added to the result.

    Returns:
        ``[..., N_destination, F]``.

    Raises:
        InputError: naming the argument.
    """
    graph = blocks.adjacency
    if reduce not in ("sum", "mean"):
        raise InputError("a block product is a sum or a mean", field="reduce", value=reduce, remedy="sum or mean")
    shapes.features(x, "x", graph.columns)
    if weight is not None:
        shapes.same(weight, x, "weight", (graph.edges,))
    if addend is not None:
        shapes.same(addend, x, "addend", (*x.shape[:-2], graph.rows, x.shape[-1]))
    matrices = _matrices(blocks, x, weight)
    if reduce == "mean":
        count = torch.nn.functional.pad(graph.rowptr.diff().clamp(min=1), (0, blocks.blocks * blocks.row_block
                                                                           - graph.rows), value=1)
        matrices = matrices / count.view(blocks.blocks, blocks.row_block, 1).to(matrices.dtype)
    # nodes first, everything else beside each other: one wide row per node
    width = math.prod(x.shape[:-2]) * x.shape[-1]
    rows = x.movedim(-2, 0).reshape(graph.columns, width)
    if graph.columns:
        gathered = rows.index_select(0, _padded_halo(blocks).flatten()).view(blocks.blocks, blocks.widest, width)
    else:
        gathered = rows.new_zeros((blocks.blocks, blocks.widest, width))
    out = torch.bmm(matrices, gathered).view(blocks.blocks * blocks.row_block, width)[:graph.rows]
    out = out.view(graph.rows, *x.shape[:-2], x.shape[-1]).movedim(0, -2)
    return out if addend is None else out + addend


def _matrices(blocks: BlockPlan, x: Tensor, weight: Tensor | None) -> Tensor:
    """The weights of each block as a dense ``[blocks, row_block, widest halo]``; repeated edges add up."""
    graph = blocks.adjacency
    row = graph.row.long()
    values = x.new_ones(graph.edges) if weight is None else weight
    if weight is not None and graph.edge is not None:
        values = weight.index_select(0, graph.edge)
    place = row * blocks.widest + blocks.local.long()
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    flat = wide.new_zeros(blocks.blocks * blocks.row_block * blocks.widest)
    # index_put sorts on a GPU, where index_add would use atomics
    flat = flat.index_put((place,), wide, accumulate=True)
    return flat.to(x.dtype).view(blocks.blocks, blocks.row_block, blocks.widest)


def _padded_halo(blocks: BlockPlan) -> Tensor:
    """Sources ``[blocks, widest halo]``; beyond the end of a halo its last source again, whose weight there is 0."""
    start, end = blocks.pointer[:-1, None].long(), blocks.pointer[1:, None].long()
    at = torch.minimum(start + torch.arange(blocks.widest, device=start.device), end - 1).clamp(min=0)
    return blocks.halo.long()[at] if len(blocks.halo) else at
