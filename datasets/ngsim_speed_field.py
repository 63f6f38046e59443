"""NGSIM speed field: cells along one road as a line of sensors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Speed ``[T, N, 1]`` in the unit of the source; edges join consecutive cells both ways."""
    path = files["ngsim_speed_field.npz"]
    with np.load(path, allow_pickle=False) as archive:
        values = archive["speed"].T[..., None]
    ids = [str(i) for i in range(values.shape[1])]
    pairs = [pair for one, other in pairwise(ids) for pair in ((one, other), (other, one))]
    edges = pd.DataFrame(pairs, columns=["from", "to"]).assign(weight=1.0)
    return Readings(values, ids, ["speed"], edges=edges, file=str(path))
