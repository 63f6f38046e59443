"""Trains slowly in a folder until something stops it; started by the test that kills it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from tiny import Tiny, make_city, make_model

from stgraph.train import Budget, fit


class Slow(Tiny):
    """Sleeps a little in each step."""

    def forward(self, window):
        time.sleep(0.01)
        return super().forward(window)


if __name__ == "__main__":
    torch.set_num_threads(1)
    city = make_city()
    fit([city], make_model(city, Slow), Path(sys.argv[1]), budget=Budget(steps=int(sys.argv[2])), progress=False,
        checkpoint_seconds=0.1)
