"""Cells that events fall into: a regular grid in local metres, or H3 (Uber, 2018), which needs the package ``h3``.

A grid cell ``row,column`` covers ``[column, column + 1) x [row, row + 1)`` times its size, east and north of the origin
of a local projection (azimuthal equidistant: 1 in 10,000 within 150 km of the origin, 1 in 70 at 1,800 km). Only cells
with events exist, unless the full box is asked for; a graph of events that has cells can itself be a map, so that two
years share them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError
from stgraph.graph import Geometry, GraphTables
from stgraph.graph.plain import SOURCE, TARGET, column, numbers
from stgraph.roads import LocalProjection
from stgraph.roads.projection import circular_mean, great_circle
from stgraph.sources.events.places import Attached, Map

ADJACENT = ("cell", "adjacent", "cell")
MOST_CELLS = 20_000_000
_STEPS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}  # the other half is the reverse


@dataclass(frozen=True)
class Extent:
    """Which places lie on the map: a box of local metres, or a circle around the origin; both may be absent.

    Args:
        low: South-west corner ``[2]``.
        high: North-east corner ``[2]``.
        middle: Middle of the circle ``[2]``.
        radius: m.
    """

    low: np.ndarray | None = None
    high: np.ndarray | None = None
    middle: np.ndarray | None = None
    radius: float = math.inf

    def inside(self, metres: np.ndarray) -> np.ndarray:
        """Whether each of ``[n, 2]`` lies on the map, ``[n]`` bool."""
        if self.low is not None and self.high is not None:
            return np.asarray(((metres >= self.low) & (metres <= self.high)).all(1))
        if self.middle is not None:
            return np.asarray(np.hypot(*(metres - self.middle).T) <= self.radius)
        return np.ones(len(metres), bool)


def extent_of(found: Map | None, xy: np.ndarray, plain: bool,
              limit: float | None) -> tuple[LocalProjection | None, Extent]:
    """The plane for cells, and what lies on it.

    With a map: the plane around it, and its box, ``limit`` metres wider. Without: the plane around the middle (median)
    of the events, and all of it, or what lies within ``limit`` metres of the middle. The origin is rounded to a
    ten-thousandth of a degree, 11 m.

    Args:
        found: The map.
        xy: Known places of the events ``[n, 2]``.
        plain: Whether they are in plain metres.
        limit: m.
    """
    if found is not None:
        projection, places = found.projection(), found.xy
        places = places[np.isfinite(places).all(1)]
        metres = places if projection is None else projection.metres(places)
        margin = limit or 0.0
        return projection, Extent(metres.min(0) - margin, metres.max(0) + margin)
    radius = math.inf if limit is None else limit
    if plain:
        return None, Extent(middle=np.median(xy, axis=0), radius=radius)
    longitude = np.sort(xy[:, 0])  # a sum in file order would differ in its last digits
    mean = circular_mean(longitude)
    east = float(np.median((longitude - mean + 180.0) % 360.0 - 180.0))
    turned = round((mean + east + 180.0) % 360.0 - 180.0, 4)
    return (LocalProjection(turned, round(float(np.median(xy[:, 1])), 4)),
            Extent(middle=np.zeros(2), radius=radius))


# -------------------------------------------------------------------- regular grid
class GridLayer:
    """A regular grid.

    Args:
        size: Side of a cell, m.
        projection: The plane; None where coordinates are metres already.
        extent: What lies on the map.
        neighbours: 4 or 8 cells around each are near it.
        full: Whether all cells of the box exist, rather than those with events.
        known: Cells of a map, with columns ``row`` and ``column``, to which events are confined.
    """

    kind = "cell"
    limit: float | None = None

    def __init__(self, size: float, projection: LocalProjection | None, extent: Extent, neighbours: int = 4,
                 full: bool = False, known: GraphTables | None = None) -> None:
        self.size, self.projection, self.extent = size, projection, extent
        self.neighbours, self.full = neighbours, full
        self._known = known
        self._cells = None if known is None else np.stack(
            [numbers(known.nodes["cell"][name]) for name in ("row", "column")])

    def attach(self, xy: np.ndarray) -> Attached:
        """The cell of each event; a place on a border belongs to the cell north or east of it."""
        metres = xy if self.projection is None else self.projection.metres(xy)
        there = np.flatnonzero(self.extent.inside(metres))
        cells = np.floor(metres[there].T[::-1] / self.size).astype(np.int64)
        if self._cells is None:
            self._cells = self._make(cells)
        place = np.full(len(xy), -1)
        place[there] = _lookup(self._cells, cells)
        return Attached(place, np.where(place < 0, np.nan, 0.0))

    def _make(self, cells: np.ndarray) -> np.ndarray:
        """Cells that exist, by row and column."""
        if not self.full or not cells.shape[1]:
            return np.unique(cells, axis=1)
        low, high = cells.min(1), cells.max(1)
        if self.extent.low is not None and self.extent.high is not None:
            low, high = (np.floor(corner[::-1] / self.size).astype(np.int64)
                         for corner in (self.extent.low, self.extent.high))
        rows, columns = (int(count) for count in high - low + 1)
        if rows * columns > MOST_CELLS:
            raise InputError("the full grid has too many cells", field="full_grid", value=f"{rows} x {columns}",
                             remedy="leave out --full-grid, choose larger cells, or keep outliers away with --limit")
        return np.stack([low[0] + np.repeat(np.arange(rows), columns), low[1] + np.tile(np.arange(columns), rows)])

    def tables(self) -> GraphTables:
        """The cells, and which lie beside which."""
        if self._known is not None:
            return self._known
        assert self._cells is not None  # made by attach
        middle = (self._cells.T[:, ::-1] + 0.5) * self.size
        corners = self._cells.T[:, None, ::-1] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        source, target = _beside(self._cells, self.neighbours)
        tables = cell_tables(
            [f"{row},{east}" for row, east in self._cells.T.tolist()],
            self._places(middle), self._places(corners.reshape(-1, 2) * self.size).reshape(-1, 4, 2), source, target,
            np.linalg.norm(middle[source] - middle[target], axis=1), self.projection is None,
            {"row": column(self._cells[0]), "column": column(self._cells[1])})
        origin = None if self.projection is None else [self.projection.longitude, self.projection.latitude]
        tables.metadata["cells"] = {"grid_m": self.size, "origin": origin, "neighbours": self.neighbours}
        return tables

    def _places(self, metres: np.ndarray) -> np.ndarray:
        return metres if self.projection is None else self.projection.lonlat(metres)


def grid_of_map(found: Map) -> GridLayer | None:
    """The grid whose cells a graph of events has; None for other cells."""
    described = found.tables.metadata.get("cells") or {}
    table = found.tables.nodes["cell"]
    if "grid_m" not in described or not {"row", "column"} <= set(table.column_names):
        return None
    origin = described["origin"]
    return GridLayer(float(described["grid_m"]), None if origin is None else LocalProjection(*origin), Extent(),
                     int(described["neighbours"]), known=found.tables)


def _lookup(cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position of each of ``wanted [2, n]`` among ``cells [2, N]``; -1 where it is not there."""
    if not cells.shape[1]:
        return np.full(wanted.shape[1], -1)
    low, high = cells.min(1), cells.max(1)
    width = high[1] - low[1] + 1
    inside = ((wanted >= low[:, None]) & (wanted <= high[:, None])).all(0)
    keys = (cells[0] - low[0]) * width + cells[1] - low[1]
    order = np.argsort(keys, kind="stable")
    key = np.where(inside, (wanted[0] - low[0]) * width + wanted[1] - low[1], -1)
    at = np.minimum(np.searchsorted(keys[order], key), len(keys) - 1)
    return np.where(keys[order][at] == key, order[at], -1)


def _beside(cells: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Ordered pairs of cells that lie beside each other."""
    sources, targets = [], []
    for step in _STEPS[neighbours]:
        at = _lookup(cells, cells + np.array(step)[:, None])
        there = np.flatnonzero(at >= 0)
        sources += [there, at[there]]
        targets += [at[there], there]
    source, target = np.concatenate(sources), np.concatenate(targets)
    order = np.lexsort((target, source))
    return source[order], target[order]


# -------------------------------------------------------------------- H3
class HexagonLayer:
    """Cells of H3, a hierarchy of hexagons on the globe.

    Args:
        resolution: 0 (1,107 km across) to 15 (1 m); 8 is about a kilometre.
        projection: The plane in which the extent is.
        extent: What lies on the map.
        known: Ids of the cells of a map, to which events are confined, with its tables.
    """

    kind = "cell"
    limit: float | None = None

    def __init__(self, resolution: int, projection: LocalProjection, extent: Extent,
                 known: Map | None = None) -> None:
        self.resolution, self.projection, self.extent, self._map = resolution, projection, extent, known
        self._cells = np.zeros(0, np.int64)

    def attach(self, xy: np.ndarray) -> Attached:
        """The cell of each event."""
        h3 = _h3()
        there = np.flatnonzero(self.extent.inside(self.projection.metres(xy)))
        cell_of: Callable[[float, float, int], int] = h3.latlng_to_cell
        cells = np.fromiter((cell_of(latitude, longitude, self.resolution)
                             for longitude, latitude in xy[there].tolist()), np.int64, len(there))
        place = np.full(len(xy), -1)
        if self._map is None:
            self._cells, place[there] = np.unique(cells, return_inverse=True)
        else:
            ids = self._map.tables.nodes["cell"]["node_id"].to_pylist()
            self._cells = np.array([h3.str_to_int(name) for name in ids], np.int64)
            place[there] = _lookup(np.stack([np.zeros_like(self._cells), self._cells]),
                                   np.stack([np.zeros_like(cells), cells]))
        return Attached(place, np.where(place < 0, np.nan, 0.0))

    def tables(self) -> GraphTables:
        """The cells with events, and which lie beside which."""
        if self._map is not None:
            return self._map.tables
        h3 = _h3()
        ids = self._cells.tolist()
        position = {cell: at for at, cell in enumerate(ids)}
        edges = sorted((at, position[other]) for cell, at in position.items()
                       for other in h3.grid_disk(cell, 1) if other != cell and other in position)
        source, target = np.array(edges, np.int64).reshape(-1, 2).T
        middle = np.array([h3.cell_to_latlng(cell)[::-1] for cell in ids], np.float64).reshape(-1, 2)
        rings = [[corner[::-1] for corner in h3.cell_to_boundary(cell)] for cell in ids]
        tables = cell_tables([h3.int_to_str(cell) for cell in ids], middle, rings, source, target,
                             great_circle(middle[source], middle[target]), False, {})
        tables.metadata["cells"] = {"h3": self.resolution}
        return tables


def hexagons_of_map(found: Map) -> HexagonLayer | None:
    """The H3 cells that a graph of events has; None for other cells."""
    described = found.tables.metadata.get("cells") or {}
    projection = found.projection()
    if "h3" not in described or projection is None:
        return None
    return HexagonLayer(int(described["h3"]), projection, Extent(), found)


def _h3() -> Any:
    try:
        return importlib.import_module("h3.api.basic_int")
    except ImportError as error:
        raise InputError("the package h3 is not installed", field="h3",
                         remedy="install it with: pip install 'stgraph-city[hexagons]'; or choose --grid") from error


def cell_tables(ids: list[str], middle: np.ndarray, rings: Any, source: np.ndarray, target: np.ndarray,
                distance: np.ndarray, plain: bool, more: dict[str, pa.Array]) -> GraphTables:
    """Nodes ``cell`` with outlines, and the relation ``adjacent``.

    Args:
        ids: Of the cells.
        middle: ``[N, 2]``.
        rings: Corners of each cell.
        source: Positions of cells ``[E]``.
        target: Positions of cells ``[E]``.
        distance: From middle to middle, m, ``[E]``.
        plain: Whether coordinates are plain metres.
        more: More columns of the cells.
    """
    import shapely

    shapes = shapely.polygons(rings) if isinstance(rings, np.ndarray) else \
        np.array([shapely.Polygon(ring) for ring in rings], dtype=object)
    tables = GraphTables()
    tables.nodes["cell"] = pa.table({"node_id": column(ids), "pos" if plain else "lonlat": column(middle), **more,
                                     "geometry": Geometry.from_shapely(shapes).wkb})
    tables.edges[ADJACENT] = pa.table({SOURCE: column(source), TARGET: column(target), "distance": column(distance)})
    tables.declare("cell", "geometry", "m" if plain else "degree", "outline")
    for name in more:
        tables.declare("cell", name, "1", f"{name} of the grid, counted from its origin")
    tables.declare(ADJACENT, "distance", "m", "from middle to middle")
    return tables
