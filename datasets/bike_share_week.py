"""Velib and Velo'v: station load of one week, with positions in the same NPZ and hours given as labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Share of docks that hold a bike, ``[T, N, 1]`` in 0 to 1."""
    (path,) = files.values()
    with np.load(path, allow_pickle=False) as archive:
        values, ids = archive["load"][..., None], archive["station_id"].tolist()
        places = pd.DataFrame({"longitude": archive["lon"], "latitude": archive["lat"]}, index=ids)
    return Readings(values, ids, ["load"], locations=places, file=str(path))
