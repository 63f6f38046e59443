"""Names that the sources of the kernels and the Python side share."""

from __future__ import annotations

NAMESPACE = "stgraph"
"""Namespace of the operators, ``torch.ops.stgraph``; the sources in ``kernels/`` use the same."""

CHOICE = "STGRAPH_KERNELS"
"""Environment variable: ``auto`` (compiled kernels where they can be had), ``require`` (or an error), ``torch``."""

REDUCTIONS = {"sum": 0, "mean": 1, "max": 2}
"""Reductions by name, as the kernels number them."""

DEBUG = "STGRAPH_DEBUG"
"""Environment variable: ``1`` checks columns and weights on every call, which reads all of them."""
