"""The grid: which cells there are, where they lie, and which are neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stgraph.errors import InputError
from stgraph.sources.pairs import geodesic

_HALF = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}
"""One of the two directions to each neighbour: rows down, columns right."""


@dataclass(frozen=True)
class Grid:
    """Cells of a raster, in the order of rows and, within a row, of columns.

    Args:
        rows: Number of rows ``H`` of the raster.
        columns: Number of columns ``W`` of the raster.
        row: ``[N]`` int64, row of each cell that is there.
        column: ``[N]`` int64, column of each cell that is there.
        lonlat: ``[N, 2]`` longitude and latitude in degrees; None where not known.
        pos: ``[N, 2]`` metres on a plane; None where not known.
    """

    rows: int
    columns: int
    row: np.ndarray
    column: np.ndarray
    lonlat: np.ndarray | None = None
    pos: np.ndarray | None = None

    @property
    def flat(self) -> np.ndarray:
        """Position of each cell in the flattened raster, ``[N]``."""
        return self.row * self.columns + self.column

    @property
    def ids(self) -> np.ndarray:
        """``"row,column"`` of each cell, ``[N]`` str."""
        return np.char.add(np.char.add(self.row.astype(str), ","), self.column.astype(str))


def stencil(row: np.ndarray, column: np.ndarray, rows: int, columns: int, neighbours: int,
            wrap: bool) -> np.ndarray:
    """Both directions of every pair of neighbouring cells, sorted by source and target.

    A full grid has ``2 (H (W - 1) + (H - 1) W)`` edges with four neighbours and ``4 (H - 1)(W - 1)`` more with eight;
    where the last column meets the first, ``W`` stands for ``W - 1``.

    Args:
        row: ``[N]`` row of each cell.
        column: ``[N]`` column of each cell.
        rows: Rows of the raster.
        columns: Columns of the raster.
        neighbours: 4 or 8.
        wrap: Whether the last column is next to the first.

    Returns:
        ``[2, E]`` int64 positions of cells.

    Raises:
        InputError: where fewer than three columns would meet themselves.
    """
    if wrap and columns < 3:
        raise InputError("fewer than three columns do not close a ring", field="wrap_longitude", value=columns,
                         remedy="leave out --wrap-longitude")
    place = np.full((rows, columns), -1, np.int64)
    place[row, column] = np.arange(len(row))
    pairs = []
    for down, right in _HALF[neighbours]:
        to_row, to_column = row + down, column + right
        if wrap:
            to_column = to_column % columns
        inside = np.flatnonzero((to_row < rows) & (to_column >= 0) & (to_column < columns))
        target = place[to_row[inside], to_column[inside]]
        pairs.append(np.stack([inside[target >= 0], target[target >= 0]]))
    index = np.concatenate(pairs, axis=1)
    index = np.concatenate([index, index[::-1]], axis=1)
    return index[:, np.lexsort((index[1], index[0]))]


def lengths(index: np.ndarray, lonlat: np.ndarray | None, pos: np.ndarray | None) -> np.ndarray:
    """Distance in m of each edge, ``[E]`` float32: on the ellipsoid, or on the plane."""
    source, target = index
    if lonlat is not None:
        return geodesic(lonlat[source], lonlat[target]).astype(np.float32)
    assert pos is not None
    return np.hypot(*(pos[source] - pos[target]).T).astype(np.float32)


def plane_places(rows: int, columns: int, size: tuple[float, float]) -> np.ndarray:
    """Middle of each cell, ``[H, W, 2]`` m: x grows with the column, y falls with the row, as on a picture."""
    height, width = size
    x, y = (np.arange(columns) + 0.5) * width, -(np.arange(rows) + 0.5) * height
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


def globe_places(longitude: np.ndarray, latitude: np.ndarray, rows: int, columns: int, file: object) -> np.ndarray:
    """Middle of each cell, ``[H, W, 2]`` degrees, from coordinates of rows and columns or of every cell.

    Longitudes of 180 to 360 degrees become those west of Greenwich.

    Args:
        longitude: ``[W]`` or ``[H, W]`` degrees.
        latitude: ``[H]`` or ``[H, W]`` degrees.
        rows: Rows of the raster.
        columns: Columns of the raster.
        file: For messages.

    Raises:
        InputError: for coordinates of another shape, missing, or out of range (which are often exchanged).
    """
    longitude, latitude = np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
    for name, values, size in (("longitude", longitude, columns), ("latitude", latitude, rows)):
        if values.shape not in ((size,), (rows, columns)):
            raise InputError("the coordinates do not go with the raster", file=file, field=name,
                             value=f"shape {values.shape}",
                             remedy=f"give one for each of the {size} {'columns' if name == 'longitude' else 'rows'}, "
                                    f"or {rows} x {columns}")
        if not np.isfinite(values).all():
            raise InputError("some coordinates are missing", file=file, field=name,
                             value=f"{int((~np.isfinite(values)).sum())} of {values.size}",
                             remedy="give every cell its place, or leave the coordinates out and give --cell-size")
    if (wrong := np.abs(latitude) > 90).any() or (longitude < -180).any() or (longitude > 360).any():
        exchanged = wrong.any() and (np.abs(longitude) <= 90).all()
        raise InputError("coordinates are out of range" + ("; longitude and latitude look exchanged" if exchanged
                                                           else ""), file=file,
                         field="latitude" if wrong.any() else "longitude",
                         value=f"longitude {longitude.min():g}..{longitude.max():g}, "
                               f"latitude {latitude.min():g}..{latitude.max():g}",
                         remedy="swap the two" if exchanged else
                                "give degrees: longitude within -180..360, latitude within -90..90")
    longitude = np.where(longitude > 180, longitude - 360, longitude)
    latitude = latitude[:, None] if latitude.ndim == 1 else latitude
    return np.stack(np.broadcast_arrays(longitude, latitude), axis=-1)


def check_ring(lonlat: np.ndarray, file: object) -> None:
    """Refuse to join the last column with the first where they are not neighbours on the globe.

    Args:
        lonlat: ``[H, W, 2]`` degrees.
        file: For messages.

    Raises:
        InputError: where the step between them is not the step between the others.
    """
    steps = np.diff(lonlat[0, :, 0], append=lonlat[0, 0, 0]) % 360
    if abs(steps[-1] - np.median(steps)) > 0.02 * np.median(steps):
        raise InputError("the columns do not reach around the globe", file=file, field="wrap_longitude",
                         value=f"{steps[-1]:g} degrees from the last to the first, {np.median(steps):g} elsewhere",
                         remedy="leave out --wrap-longitude")


def masked_cells(mask: np.ndarray, rows: int, columns: int, file: object, field: str) -> np.ndarray:
    """Cells to leave out, ``[H, W]`` bool, from a grid (what is not 0) or a list ``[M, 2]`` of rows and columns.

    Raises:
        InputError: for a mask of another shape, a cell outside of the raster, and where no cell would be left.
    """
    out = np.zeros((rows, columns), bool)
    if mask.shape == (rows, columns):
        out = np.nan_to_num(mask.astype(np.float64), nan=1.0) != 0
    elif mask.size and (mask.ndim != 2 or mask.shape[1] != 2):
        raise InputError("the mask has another shape than the raster", file=file, field=field,
                         value=f"shape {mask.shape}",
                         remedy=f"give {rows} x {columns}, not 0 where a cell is left out, or a list [M, 2] of rows "
                                "and columns")
    elif mask.size:
        cells = mask.astype(np.int64)
        wrong = ((cells < 0) | (cells >= (rows, columns))).any(1) | (cells != mask).any(1)
        if wrong.any():
            raise InputError("a masked cell is not in the raster", file=file, field=field,
                             value=mask[wrong][0].tolist(),
                             remedy=f"rows run from 0 to {rows - 1}, columns from 0 to {columns - 1}")
        out[cells[:, 0], cells[:, 1]] = True
    if out.all():
        raise InputError("the mask leaves no cell", file=file, field=field,
                         remedy="what is not 0 is left out: turn it around")
    return out
