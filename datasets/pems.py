"""PEMS03/04/07/08 as published with ASTGCN and STSGCN: an NPZ ``[T, N, C]`` and a table of distances, no times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings


def read(files: dict[str, Path], readings: str, distances: str, metres: float, ids: str = "") -> Readings:
    """Flow ``[T, N, 1]`` in vehicles per 5 minutes; occupancy and speed, where the file has them, are left out.

    Args:
        files: Path of each file of the card.
        readings: Name of the NPZ; key ``data``, channel 0 is flow.
        distances: Name of the table of directed distances: from, to, distance.
        metres: Metres per unit of that table.
        ids: Name of a file with one sensor id a line, which the table of distances uses; positions where empty.
    """
    with np.load(files[readings], allow_pickle=False) as archive:
        flow = archive["data"][..., :1].astype(np.float32)
    names = files[ids].read_text().split() if ids else [str(i) for i in range(flow.shape[1])]
    edges = pd.read_csv(files[distances]).iloc[:, :3].set_axis(["from", "to", "distance_m"], axis=1)
    edges = edges.astype({"from": "int64", "to": "int64"}).astype({"from": str, "to": str})
    edges["distance_m"] = edges["distance_m"] * metres
    return Readings(flow, names, ["flow"], edges=edges, file=str(files[readings]))
