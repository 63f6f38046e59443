"""How many threads of torch a training deserves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from stgraph.models import Forecaster
from stgraph.windows import City

WORTH_SHARING = 200_000_000  # multiply-adds of a forward pass; about 20 ms of a training step on one core


def choose_threads(model: Forecaster, cities: Sequence[City], batch_size: int) -> int:
    """One thread for a small model on few sensors, where waiting for each other costs more than it saves; else torch's.

    Fixed by sizes and not by timing, so that a run can be repeated to the bit. The work is taken as parameters times
    rows, as in a model that treats each node alike.

    Args:
        model: The model.
        cities: The cities; the largest counts.
        batch_size: Windows in a batch.
    """
    rows = batch_size * max(city.num_nodes for city in cities)
    work = rows * sum(parameter.numel() for parameter in model.parameters())
    return torch.get_num_threads() if work > WORTH_SHARING else 1


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
