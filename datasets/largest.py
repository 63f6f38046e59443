"""LargeST as published: a year of 5-minute flow of all California in pandas HDF5, sensor table, road-distance matrix.

The benchmark form is made here: the districts of the subset, means over 15 minutes of what was observed, rounded.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings

_ROWS = 3 * 96


def read(files: dict[str, Path], districts: list[int]) -> Readings:
    """Flow ``[T, N, 1]`` in vehicles per 5 minutes (mean over 15), places, and edges with their published weights.

    Args:
        files: Path of each file of the card.
        districts: PeMS districts of the subset; empty for all.
    """
    meta = pd.read_csv(files["ca_meta.csv"], dtype={"ID": str})
    chosen = meta[meta["District"].isin(districts)] if districts else meta
    ids = chosen["ID"].tolist()
    with h5py.File(files["ca_his_raw_2019.h5"], "r") as file:
        table = file["t"]
        position = {name.decode(): i for i, name in enumerate(table["block0_items"][:].tolist())}
        columns = np.array([position[name] for name in ids])
        seconds = _seconds(table["axis1"])
        length = len(seconds) // 3 * 3
        flow = np.empty((length // 3, len(ids), 1), dtype=np.float32)
        for first in range(0, length, _ROWS):  # a few days at a time: all of it has 7 GB
            block = table["block0_values"][first:min(first + _ROWS, length)][:, columns]
            flow[first // 3:first // 3 + len(block) // 3, :, 0] = _mean_of_three(block)
    places = chosen.set_index("ID")[["Lng", "Lat"]].set_axis(["longitude", "latitude"], axis=1)
    return Readings(flow, ids, ["flow"], clock=seconds[:length:3], locations=places,
                    edges=_edges(files["ca_rn_adj.npy"], chosen["ID2"].to_numpy(), ids),
                    file=str(files["ca_his_raw_2019.h5"]))


def _seconds(axis: h5py.Dataset) -> np.ndarray:
    kind = axis.attrs["kind"]
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    unit = kind[len("datetime64["):-1] or "ns"  # older pandas wrote nanoseconds and did not say so
    return np.asarray(axis[:].view(f"datetime64[{unit}]").astype("datetime64[s]").astype(np.int64))


def _mean_of_three(block: np.ndarray) -> np.ndarray:
    """Mean of every three rows over what was observed, rounded; NaN where nothing was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an empty mean is a missing reading, as meant
        means = np.nanmean(block.reshape(-1, 3, block.shape[1]), axis=1)
    return np.asarray(np.round(means))


def _edges(path: Path, rows: np.ndarray, ids: list[str]) -> pd.DataFrame:
    weights = np.load(path, mmap_mode="r", allow_pickle=False)[np.ix_(rows, rows)]
    start, end = np.nonzero(weights)
    off = start != end
    start, end = start[off], end[off]
    names = np.array(ids)
    return pd.DataFrame({"from": names[start], "to": names[end], "weight": weights[start, end]})
