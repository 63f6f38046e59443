"""Sparse message passing on features ``[..., N, F]``: compiled kernels, or PyTorch's own operators.

Names are imported when first used; the first use of an operator loads the kernels (see :func:`stgraph.ops.backend`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stgraph.ops.adjacency import Adjacency
    from stgraph.ops.attention import gat_aggregate, graph_attention
    from stgraph.ops.diffusion import Walks, diffusion_conv, random_walks
    from stgraph.ops.drop_in import accelerate
    from stgraph.ops.gru import gru_blend, gru_gate
    from stgraph.ops.loader import Backend, KernelWarning, backend
    from stgraph.ops.segment import gather_rows, segment_reduce
    from stgraph.ops.shapes import copies
    from stgraph.ops.sparse import sddmm, spmm
    from stgraph.ops.typed import TypedAdjacency, typed_spmm

_HOME = {
    "Adjacency": "adjacency", "accelerate": "drop_in",
    "Backend": "loader", "KernelWarning": "loader", "backend": "loader", "copies": "shapes",
    "gat_aggregate": "attention", "gather_rows": "segment", "graph_attention": "attention", "sddmm": "sparse",
    "segment_reduce": "segment", "spmm": "sparse",
    "TypedAdjacency": "typed", "Walks": "diffusion", "diffusion_conv": "diffusion", "gru_blend": "gru",
    "gru_gate": "gru", "random_walks": "diffusion", "typed_spmm": "typed",
}
__all__ = ["Adjacency", "Backend", "KernelWarning", "TypedAdjacency", "Walks", "accelerate", "backend", "copies",
           "diffusion_conv", "gat_aggregate", "gather_rows", "graph_attention", "gru_blend", "gru_gate", "random_walks",
           "sddmm", "segment_reduce", "spmm", "typed_spmm"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stgraph.ops' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"stgraph.ops.{_HOME[name]}"), name)
    globals()[name] = found  # the next use of the name costs nothing
    return found
