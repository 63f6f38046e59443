"""Both backends in one process: the compiled kernels, and PyTorch's operators put in their place."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # kernel_graphs.py

from stgraph.ops import attention, backend, gru, library, torch_backend
from stgraph.ops.names import NAMESPACE

TWINS = {name: getattr(torch_backend, name) for name in library.SCHEMAS} | gru.TWINS
TWINS |= {"weighted_sum_gradients": library._weighted_sum_gradients}
for _name in ("gat_aggregate", "graph_attention"):
    TWINS |= {_name: attention._forward, f"{_name}_backward": attention._backward}


@functools.cache
def _native() -> str:
    """Why the kernels cannot be tested; empty where they can."""
    found = backend()
    return "" if found.name == "native" else f"{found.reason} {found.log}"


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the backend under test."""
    if request.param == "native":
        if _native():
            pytest.skip(f"no compiled kernels: {_native()}")
        yield "native"
    elif _native():
        yield "torch"
    else:
        over = torch.library.Library(NAMESPACE, "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, function in TWINS.items():
                over.impl(name, function, "CPU", allow_override=True)
        yield "torch"
        over._destroy()
