"""New York taxi trips from zone to zone: here the departures and arrivals of each zone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Trips that leave and trips that reach each zone, ``[T, N, 2]``, summed over the other end."""
    path = files["nyc_taxi_od.npz"]
    with np.load(path, allow_pickle=False) as archive:
        trips = archive["trips"].astype(np.float32)  # [from, to, T]
    values = np.stack([trips.sum(axis=1).T, trips.sum(axis=0).T], axis=-1)
    return Readings(values, [str(i) for i in range(len(trips))], ["departures", "arrivals"], file=str(path))
