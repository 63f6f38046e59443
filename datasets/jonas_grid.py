"""JONAS: taxi and shared-bike flow per cell of a grid, cells as sensors, edges to the eight neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stgraph.sources.readings import Readings


def read(files: dict[str, Path]) -> Readings:
    """Counts ``[T, N, 4]``: taxi and bike, two flow directions each; masked cells (water) are left out."""
    (path,) = files.values()
    with np.load(path, allow_pickle=False) as archive:
        flow = np.concatenate([archive["taxi"], archive["bike"]], axis=-1).astype(np.float32)  # [T, rows, columns, 4]
        masked = {(int(row), int(column)) for row, column in archive["mask"].reshape(-1, 2)}
    rows, columns = flow.shape[1:3]
    cells = [(row, column) for row in range(rows) for column in range(columns) if (row, column) not in masked]
    names = {cell: f"r{cell[0]}c{cell[1]}" for cell in cells}
    pairs = [(names[cell], names[near]) for cell in cells for near in _around(*cell) if near in names]
    values = flow[:, [cell[0] for cell in cells], [cell[1] for cell in cells]]
    return Readings(values, list(names.values()), ["taxi_0", "taxi_1", "bike_0", "bike_1"],
                    edges=pd.DataFrame(pairs, columns=["from", "to"]).assign(weight=1.0), file=str(path))


def _around(row: int, column: int) -> list[tuple[int, int]]:
    return [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
