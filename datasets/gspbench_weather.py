"""Daily station temperature with a ready graph, kept as the arrays of a sparse matrix inside the NPZ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Midpoint of the day's extremes ``[T, N, 1]`` in degC, places, and the weights of the file's 6-NN graph."""
    (path,) = (path for name, path in files.items() if name.endswith(".npz"))
    with np.load(path, allow_pickle=False) as archive:
        ids = archive["station_ids"].tolist()
        values = np.where(archive["observation_mask"], archive["daily_temperature_midrange_c"], np.nan)[..., None]
        clock = archive["dates"].astype("datetime64[s]").astype(np.int64)
        latitude, longitude = archive["coordinates"].T
        weights = csr_array((archive["adjacency_data"], archive["adjacency_indices"], archive["adjacency_indptr"]),
                            shape=tuple(archive["adjacency_shape"])).tocoo()
    names = np.array(ids)
    edges = pd.DataFrame({"from": names[weights.coords[0]], "to": names[weights.coords[1]], "weight": weights.data})
    return Readings(values.astype(np.float32), ids, ["temperature"], clock=clock, edges=edges, file=str(path),
                    locations=pd.DataFrame({"longitude": longitude, "latitude": latitude}, index=ids))
