"""England: daily cases of COVID-19 and the movements between regions of each day, from one JSON file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Daily cases ``[T, N, 1]``; regions are numbered as in the file, which does not name them."""
    path = files["england_covid.json"]
    cases = np.array(_content(path)["y"], dtype=np.float32)
    return Readings(cases[..., None], [str(i) for i in range(cases.shape[1])], ["cases"], file=str(path))


def edges_per_step(files: dict[str, Path]) -> pd.DataFrame:
    """Movements of each day: ``step``, ``from``, ``to``, ``weight`` (people); within a region too."""
    mapping = _content(files["england_covid.json"])["edge_mapping"]
    parts = []
    for step, weights in mapping["edge_weight"].items():
        source, target = np.array(mapping["edge_index"][step], dtype=np.int64).T
        parts.append(pd.DataFrame({"step": int(step), "from": source, "to": target, "weight": weights}))
    return pd.concat(parts, ignore_index=True)


def _content(path: Path) -> dict[str, Any]:
    with (gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as stream:
        content: dict[str, Any] = json.load(stream)
    return content
