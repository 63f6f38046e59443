"""A plugin for pytest: what a test of the operators makes, it makes on a GPU (or on ``STGRAPH_TEST_DEVICE``).

Random numbers are drawn on the CPU, where the generators of the tests are, and moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

DEVICE = os.environ.get("STGRAPH_TEST_DEVICE", "cuda")


class Drawn(TorchFunctionMode):
    """Draws where the generator is."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if given.get("generator") is None:
            return function(*args, **given)
        return function(*args, **(given | {"device": given["generator"].device})).to(DEVICE)


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    """Around every test."""
    with torch.device(DEVICE), Drawn():
        yield
