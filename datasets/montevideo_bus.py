"""Montevideo bus stops: node-link JSON with projected positions and road distances between consecutive stops."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
from pyproj import Transformer

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Boardings ``[T, N, 1]`` in persons per hour; positions from UTM 21S, distances in metres."""
    path = files["montevideo_bus.json"]
    with (gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as stream:
        graph = json.load(stream)
    nodes = graph["nodes"]
    ids = [str(node["bus_stop"]) for node in nodes]
    values = np.array([node["y"] for node in nodes], dtype=np.float32).T[..., None]
    to_degrees = Transformer.from_crs("EPSG:32721", "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform([node["lon"] for node in nodes], [node["lat"] for node in nodes])
    edges = pd.DataFrame({"from": [str(link["source"]) for link in graph["links"]],
                          "to": [str(link["target"]) for link in graph["links"]],
                          "distance_m": [float(link["weight"]) for link in graph["links"]]})
    return Readings(values, ids, ["boardings"], edges=edges, file=str(path),
                    locations=pd.DataFrame({"longitude": longitude, "latitude": latitude}, index=ids))
