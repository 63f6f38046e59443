"""One freeway detector as a single series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Speed ``[T, 1, 1]`` in mph."""
    with np.load(files["speed.npz"], allow_pickle=False) as archive:
        values, clock = archive["speed_mph"][:, None, None], archive["timestamp"]
    return Readings(values, ["005inc16395"], ["speed"], clock=clock, file=str(files["speed.npz"]))
