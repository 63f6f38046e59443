"""From the choice of a kernel to the kernel: which way a sparse product takes on a GPU, and the product by that way.

:func:`stgraph.ops.regime.choose` decides from sizes; here they are read off the tensors, the halo plan is found where
it may pay, and the chosen one is called: a dense product, blocks of rows with their halos, or ``spmm``, whose CUDA side
stages all sources or goes row by row by the same limits.
"""

from __future__ import annotations

from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from stgraph.ops import regime
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.block_dense import ROW_BLOCK, BlockPlan
from stgraph.ops.halo import ops
from stgraph.ops.library import node_major
from stgraph.ops.names import REDUCTIONS
from stgraph.ops.regime import BLOCK_DEGREE, Choice, Regime, choose

_NAMES = {number: name for name, number in REDUCTIONS.items()}
_matrices: WeakKeyDictionary[Adjacency, tuple[tuple[object, ...], Tensor | None, Tensor]] = WeakKeyDictionary()


def decide(graph: Adjacency, x: Tensor, weight: Tensor | None = None, addend: Tensor | None = None, reduce: int = 0,
           *, device: str | None = None, lasting: bool = True) -> Choice:
    """The way of a product.

    Args:
        graph: The graph; its halo plan is found and kept where blocks may pay.
        x: ``[B, T, N_source, F]`` with a contiguous last axis.
        weight: ``[E, B or 1, T or 1, H or 1]``.
        addend: ``[B, T, N_destination, F]``.
        reduce: Number of the reduction.
        device: ``cpu`` or ``cuda``; None: that of ``x``.
        lasting: Whether the graph is used again, so that a plan may be made for it. None is made while a program is
            traced or a CUDA graph captured either, because its sizes must be read back.
    """
    shared = weight is None or all(size == 1 or step == 0
                                   for size, step in zip(weight.shape[1:], weight.stride()[1:], strict=True))
    learned = weight is not None and weight.requires_grad and torch.is_grad_enabled()
    tracing = torch.compiler.is_compiling()
    rounds = x.element_size() == 2 or (x.dtype == torch.float32 and not tracing and _rounds())
    by_sizes = partial(choose, device=device or x.device.type, rows=graph.rows, sources=graph.columns,
                       edges=graph.edges, channels=_channels(x, addend, shared), itemsize=x.element_size(),
                       reduce=_NAMES[reduce], reduced_precision=rounds, shared_weight=shared and not learned,
                       finite=regime.FINITE)
    choice = by_sizes()
    if choice.regime is not Regime.ROWS or reduce == REDUCTIONS["max"] or graph.edges < BLOCK_DEGREE * graph.rows:
        return choice
    blocks: BlockPlan | None = graph.blocks
    if blocks is None and lasting and not tracing and not (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        blocks = graph.halo_plan()
    return choice if blocks is None else by_sizes(reuse=blocks.reuse, widest=blocks.widest)


def run(graph: Adjacency, x: Tensor, weight: Tensor | None = None, addend: Tensor | None = None, reduce: int = 0, *,
        lasting: bool = True) -> Tensor:
    """``spmm`` by the way that :func:`decide` names; arguments as there.

    Returns:
        ``[B, T, N_destination, F]`` in the layout of ``x``.
    """
    return product(decide(graph, x, weight, addend, reduce, lasting=lasting).regime, graph, x, weight, addend, reduce)


def product(way: Regime, graph: Adjacency, x: Tensor, weight: Tensor | None, addend: Tensor | None,
            reduce: int) -> Tensor:
    """``spmm`` by a given way; arguments as for :func:`decide`."""
    if way is Regime.DENSE:
        return _dense(graph, x, weight, addend, reduce)
    needs = x.requires_grad and torch.is_grad_enabled()
    back = graph.transpose.parts if needs else (None, None, None)
    if way is not Regime.BLOCK:
        return ops.spmm.default(*graph.parts, weight, x, addend, reduce, *back)[0]
    blocks = graph.blocks or graph.halo_plan()
    there = _parts(blocks)
    again: tuple[Tensor | None, ...] = (None, None, None)
    widest = 0
    # on a CPU the operator is spmm: what pays there is not asked
    if needs and blocks.row_block == ROW_BLOCK \
            and decide(graph.transpose, x, weight, device="cuda").regime is Regime.BLOCK:
        turned = graph.transpose.halo_plan()
        again, widest = _parts(turned), turned.widest
    return ops.spmm_halo.default(*graph.parts, weight, x, addend, reduce, *there, blocks.row_block, blocks.widest,
                                 *back, *again, widest)


def _parts(blocks: BlockPlan) -> tuple[Tensor, Tensor, Tensor]:
    return blocks.pointer, blocks.halo, blocks.local


def _channels(x: Tensor, addend: Tensor | None, shared: bool) -> int:
    """Numbers per node that are multiplied at once: all where they lie in one piece and share a weight, else F."""
    b, t, _, f = x.shape

    def one_piece(y: Tensor) -> bool:
        return (t == 1 or y.stride(1) == f) and (b == 1 or y.stride(0) == t * f)

    whole = shared and one_piece(x) and (addend is None or one_piece(addend))
    return b * t * f if whole and (b * t == 1 or node_major(x)) else f


def _rounds() -> bool:
    """Whether the user lets float32 products on a GPU round to TF32."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


# ---------------------------------------------------------------- dense
def _dense(graph: Adjacency, x: Tensor, weight: Tensor | None, addend: Tensor | None, reduce: int) -> Tensor:
    """One matrix product; the zeros of the matrix are multiplied too."""
    matrix = _matrix(graph, x, weight)
    b, t, n, f = x.shape
    if node_major(x):
        out = (matrix @ x.permute(2, 0, 1, 3).reshape(n, b * t * f)).view(-1, b, t, f).permute(1, 2, 0, 3)
    else:
        out = matrix @ x
    if reduce == REDUCTIONS["mean"]:
        out = out / graph.rowptr.diff().clamp(min=1).to(out.dtype)[:, None]
    return out if addend is None else out + addend


def _matrix(graph: Adjacency, x: Tensor, weight: Tensor | None) -> Tensor:
    """The weights as ``[N_destination, N_source]``, repeated edges added up; the last one of a graph is kept."""
    if torch.compiler.is_compiling() or (weight is not None and (weight.requires_grad or weight.is_inference())):
        return _made(graph, x, weight)
    state = () if weight is None else (weight.data_ptr(), weight.stride(0), weight._version)
    key = (x.dtype, *state)
    kept = _matrices.get(graph)
    if kept is None or kept[0] != key:
        with torch.no_grad():
            kept = (key, weight, _made(graph, x, weight))  # the weight is held, so that its place is not used again
        _matrices[graph] = kept
    return kept[2]


def _made(graph: Adjacency, x: Tensor, weight: Tensor | None) -> Tensor:
    values = x.new_ones(graph.edges) if weight is None else weight[:, 0, 0, 0]
    if weight is not None and graph.edge is not None:
        values = values.index_select(0, graph.edge)
    wide = values.float() if values.element_size() == 2 else values
    flat = wide.new_zeros(graph.rows * graph.columns)
    place = graph.row.long() * graph.columns + graph.col.long()
    # index_put sorts on a GPU, where index_add would use atomics
    return flat.index_put((place,), wide, accumulate=True).to(x.dtype).view(graph.rows, graph.columns)
