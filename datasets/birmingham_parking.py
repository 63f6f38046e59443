"""Birmingham car parks: ``[car park, day, half-hour]``, 18 half-hours a day."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Parked cars ``[T, N, 1]``, days one after the other; 0 is a missing reading and stays 0 here."""
    path = files["birmingham_parking.npz"]
    with np.load(path, allow_pickle=False) as archive:
        occupancy = archive["occupancy"].astype(np.float32)
    values = occupancy.reshape(len(occupancy), -1).T[..., None]
    return Readings(values, [str(i) for i in range(len(occupancy))], ["occupancy"], file=str(path))
