"""METR-LA and PEMS-BAY as published with DCRNN: a pandas HDF5 table, a table of places, a table of road distances."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stgraph.sources.arrays import read_pandas_hdf5
from stgraph.sources.readings import Readings
from stgraph.sources.tables import names


def read(files: dict[str, Path], speeds: str, locations: str, distances: str, header: bool) -> Readings:
    """Speeds ``[T, N, 1]`` in mph, places, and road distances (m) between the sensors of the set.

    Args:
        files: Path of each file of the card.
        speeds: Name of the HDF5 file.
        locations: Name of the table of places.
        distances: Name of the table of distances; it also lists sensors that are not of the set.
        header: Whether the two tables have a header.
    """
    values, columns, index = read_pandas_hdf5(files[speeds], None)
    ids = names(columns)
    header_names = None if header else ["sensor_id", "latitude", "longitude"]
    places = pd.read_csv(files[locations], names=header_names, dtype={"sensor_id": str}).set_index("sensor_id")
    edges = pd.read_csv(files[distances], names=["from", "to", "distance_m"], header=0 if header else None,
                        dtype={"from": str, "to": str})
    edges = edges[edges["from"].isin(ids) & edges["to"].isin(ids) & (edges["from"] != edges["to"])]
    clock = pd.DatetimeIndex(index).as_unit("s").asi8
    return Readings(values[..., None], ids, ["speed"], clock=clock, locations=places[["longitude", "latitude"]],
                    edges=edges.reset_index(drop=True), file=str(files[speeds]))
