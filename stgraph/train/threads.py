"""How many threads of torch a training deserves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from stgraph.models import Forecaster
from stgraph.windows import City


def choose_threads(model: Forecaster, cities: Sequence[City], batch_size: int) -> int:
    """Threads for a model on some cities: fixed by sizes, not by timing, so that a run can be repeated to the bit."""
    return torch.get_num_threads()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
