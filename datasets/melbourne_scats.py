"""Melbourne SCATS counts: several detector approaches share one site number, so ids are site and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Counts ``[T, N, 1]`` in vehicles per 15 minutes; an approach at latitude and longitude 0 has no place."""
    with np.load(files["volume.npz"], allow_pickle=False) as archive:
        values, clock, sites = archive["volume"][..., None], archive["timestamp"], archive["scats_site"]
    ids = [f"{site}-{column}" for column, site in enumerate(sites)]
    places = pd.read_csv(files["approaches.csv"]).sort_values("column").set_axis(ids)
    places = places.loc[(places["latitude"] != 0) | (places["longitude"] != 0), ["longitude", "latitude"]]
    return Readings(values, ids, ["volume"], clock=clock, locations=places, file=str(files["volume.npz"]))
