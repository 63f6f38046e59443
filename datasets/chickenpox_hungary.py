"""Hungarian chickenpox: JSON with a list of rows, a county index and directed county pairs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Standardised week-to-week change ``[T, N, 1]``; edges join neighbouring counties."""
    path = files["chickenpox.json"]
    with (gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as stream:
        content = json.load(stream)
    ids = sorted(content["node_ids"], key=content["node_ids"].__getitem__)
    values = np.array(content["FX"], dtype=np.float32)[..., None]
    pairs = [(ids[start], ids[end]) for start, end in content["edges"] if start != end]
    edges = pd.DataFrame(pairs, columns=["from", "to"]).assign(weight=1.0)
    return Readings(values, ids, ["change"], edges=edges, file=str(path))
