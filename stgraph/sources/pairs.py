"""Pairs of sensors with a distance or a weight: from matrices, edge lists and coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
from scipy.spatial import cKDTree

from stgraph.errors import InputError
from stgraph.sources.arrays import NPY, NPZ, npz_entries, read_array, read_npz
from stgraph.sources.tables import (
    CSV,
    PARQUET,
    check_names,
    find_column,
    form_of,
    names,
    read_table,
    separator_of,
    table_columns,
    to_numbers,
)
from stgraph.units import unit

FROM, TO = ("from", "source", "src", "from_id"), ("to", "target", "dst", "destination", "to_id")
DISTANCE = {"distance_m": 1.0, "cost_m": 1.0, "dist_m": 1.0, "distance_km": 1000.0, "distance": None, "cost": None,
            "dist": None, "length": None}
WEIGHT = ("weight", "edge_weight")
EARTH_RADIUS = 6_371_008.8  # m, mean
FLATTENING = 1.02  # a distance on the sphere and on the ellipsoid differ by less than this factor, either way
ALL_PAIRS = 2000  # sensors up to which every pair may be looked at


@dataclass(frozen=True)
class Pairs:
    """Directed pairs of sensors.

    Args:
        source: ``[E]`` int64, where the edge starts.
        target: ``[E]`` int64, where it ends.
        distance: ``[E]`` float64 in m; None where not known.
        weight: ``[E]`` float64; None where not known.
        unused: Names in the file that are no sensor of the readings.
        file: For messages.
    """

    source: np.ndarray
    target: np.ndarray
    distance: np.ndarray | None = None
    weight: np.ndarray | None = None
    unused: tuple[str, ...] = ()
    file: str = ""


# -------------------------------------------------------------------- matrices
def read_adjacency(path: Path | str, key: str | None, ids_key: str | None, ids: Sequence[str],
                   as_distance: bool = False) -> Pairs:
    """Pairs of a square matrix ``[N, N]`` in NPZ, NPY or CSV; entry ``[i, j]`` is the edge from ``i`` to ``j``.

    Where the file names its rows (a 1-d array of names in the NPZ file, a first line of names in CSV), they are
    matched with the sensors by name, and rows of others are left out; without names they are taken as they are.

    Args:
        path: The file.
        key: Which array of an NPZ file.
        ids_key: Array of names in an NPZ file; taken where it is there and has one name per row.
        ids: Names of the sensors.
        as_distance: Whether entries are distances in m rather than weights.

    Raises:
        InputError: for a pickle, a matrix of the wrong size, and an entry that is negative or not a number.
    """
    path = Path(path)
    form = form_of(path)
    if form in (".pkl", ".pickle"):
        raise InputError("a pickle is not read: it can run code", file=path, field="adjacency", value=path.name,
                         remedy="once, where you trust the file: ids, _, matrix = pickle.load(open(f, 'rb'), "
                                "encoding='latin1'); numpy.savez(g, adj=matrix, sensor_id=ids); "
                                "then --adjacency g.npz --adjacency-key adj --ids-key sensor_id")
    rows: list[str] | None = None
    if form in (*NPZ, *NPY):
        matrix = read_array(path, form, key, (2,))
        rows = _matrix_names(path, ids_key, len(matrix)) if form in NPZ else None
    elif form in CSV:
        matrix, rows = _csv_matrix(path)
    else:
        raise InputError("an adjacency is an NPZ, NPY or CSV file", file=path, field="adjacency", value=path.name,
                         remedy="save the matrix with numpy.savez")
    if matrix.shape[0] != matrix.shape[1] or (len(matrix) != len(ids) and rows is None):
        raise InputError("the adjacency has the wrong size", file=path, field=key or "adjacency",
                         value=" x ".join(str(size) for size in matrix.shape),
                         remedy=f"give it as {len(ids)} x {len(ids)}, one row and column for each sensor, or name its "
                                "rows in an array that --ids-key names")
    return matrix_pairs(matrix, rows or list(ids), ids, as_distance, path, key or "adjacency")


def matrix_pairs(matrix: np.ndarray, rows: Sequence[str], ids: Sequence[str], as_distance: bool, file: object = "",
                 field: str = "adjacency") -> Pairs:
    """Pairs of a matrix whose rows and columns have names.

    Args:
        matrix: ``[M, M]``. Of weights: 0 is no edge. Of distances in m: infinity is no edge.
        rows: Name of each row and column.
        ids: Names of the sensors.
        as_distance: Whether entries are distances.
        file: For messages.
        field: For messages.

    Raises:
        InputError: for an entry that is negative or not a number, an infinite weight, or where no name fits.
    """
    bad = ~(matrix >= 0) if as_distance else ~((matrix >= 0) & (matrix < np.inf))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(f"{int(bad.sum())} entries of the adjacency are negative or not finite numbers", file=file,
                         field=field, value=f"{matrix[row, column]} in row {row}, column {column} (from 0)",
                         remedy="write 0 where there is no edge")
    place = {name: node for node, name in enumerate(ids)}
    node = np.array([place.get(name, -1) for name in rows])
    if (node < 0).all():
        raise InputError("no sensor of the readings is in the adjacency", file=file, field=field,
                         value=f"sensors {', '.join(ids[:3])}; rows {', '.join(rows[:3])}",
                         remedy="name the sensors of both files with --ids-key")
    source, target = np.nonzero(np.isfinite(matrix) if as_distance else matrix)
    known = (node[source] >= 0) & (node[target] >= 0)
    source, target = source[known], target[known]
    entries = matrix[source, target].astype(np.float64)
    return Pairs(node[source], node[target], entries if as_distance else None, None if as_distance else entries,
                 tuple(name for name in rows if name not in place), str(file))


def _matrix_names(path: Path, ids_key: str | None, count: int) -> list[str] | None:
    if ids_key is None or npz_entries(path).get(ids_key) != (count,):
        return None
    found = names(read_npz(path, ids_key))
    check_names(found, path, ids_key)
    return found


def _csv_matrix(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """A matrix with or without a first line of names, and with or without a first column of names."""
    header = table_columns(path)
    if len(set(header)) < len(header):  # numbers that repeat: there are no names
        return _plain_csv(path), None
    first, rest = read_table(path, text=header[:1], numbers=header[1:])
    if len(rest) == len(header) and len(header) > 1:
        matrix = np.column_stack([to_numbers(first[header[0]], path, header[0]), rest])
        columns = names(np.asarray(header))
    elif pd.to_numeric(pd.Series(header), errors="coerce").notna().all():
        return _plain_csv(path), None
    else:
        matrix, columns = rest, names(np.asarray(header[1:]))
        if set(rows := names(first[header[0]])) == set(columns) and rows != columns:
            raise InputError("rows and columns are in different orders", file=path, field="adjacency",
                             value=f"rows {', '.join(rows[:3])}; columns {', '.join(columns[:3])}",
                             remedy="sort them alike")
    counted = columns == [str(i) for i in range(len(columns))]  # numbers that a library wrote are no names
    return matrix, None if counted else columns


def _plain_csv(path: Path) -> np.ndarray:
    try:
        return pd.read_csv(path, header=None, dtype=np.float64, sep=separator_of(path)).to_numpy()
    except (pd.errors.ParserError, ValueError) as error:
        raise InputError(f"not readable as a matrix: {error}", file=path, field="adjacency",
                         remedy="write numbers separated by commas, every row as long as the first") from error


# -------------------------------------------------------------------- edge lists
def read_edges(path: Path | str, ids: Sequence[str], distance_unit: str | None = None) -> Pairs:
    """A CSV or Parquet table of directed edges: ``from, to`` and a ``distance``, a ``weight``, both, or neither.

    ``source, target`` and ``src, dst`` are known too, and ``cost``, ``cost_m``, ``distance_m`` for the distance.

    Args:
        path: The table.
        ids: Names of the sensors.
        distance_unit: Unit of the distances; None for the one in the column's name, or m.

    Raises:
        InputError: where a column is missing, a value is not a number or negative, or no name fits.
    """
    path = Path(path)
    if form_of(path) not in (*CSV, *PARQUET):
        raise InputError("an edge list is a CSV or Parquet table", file=path, field="edges", value=path.name,
                         remedy="write columns from, to, distance_m")
    columns = table_columns(path)
    ends = {"from": find_column(columns, FROM), "to": find_column(columns, TO)}
    for wanted, column in ends.items():
        if column is None:
            raise InputError(f"no column '{wanted}'", file=path, field=wanted, value=", ".join(columns),
                             remedy="name the columns from, to, and distance_m or weight")
    distance, weight = find_column(columns, tuple(DISTANCE)), find_column(columns, WEIGHT)
    table, _ = read_table(path, text=[name for name in (ends["from"], ends["to"], distance, weight) if name])
    frame = pd.DataFrame({"from": names(table[str(ends["from"])]), "to": names(table[str(ends["to"])])})
    if distance:
        factor = unit(distance_unit).factor if distance_unit else DISTANCE[distance.strip().lower()] or 1.0
        frame["distance_m"] = to_numbers(table[distance], path, distance) * factor
    if weight:
        frame["weight"] = to_numbers(table[weight], path, weight)
    return list_pairs(frame, ids, str(path))


def list_pairs(frame: pd.DataFrame, ids: Sequence[str], file: str = "") -> Pairs:
    """Pairs of a table with columns ``from``, ``to`` and, if known, ``distance_m`` (m) and ``weight``.

    Raises:
        InputError: where a value is missing or negative, one pair has two values, or no name fits.
    """
    numbers = [name for name in ("distance_m", "weight") if name in frame]
    for name in numbers:
        bad = np.flatnonzero(~((frame[name] >= 0) & (frame[name] < np.inf)))
        if len(bad):
            raise InputError(f"the {name} in row {bad[0] + 1} is negative or not a finite number", file=file,
                             field=name, value=frame[name].iloc[bad[0]], remedy="correct it, or remove the row")
    place = {name: row for row, name in enumerate(ids)}
    source, target = (frame[end].map(place) for end in ("from", "to"))
    known = (source.notna() & target.notna()).to_numpy()
    listed = pd.unique(pd.concat([frame["from"], frame["to"]]))
    if not known.any():
        raise InputError("no edge joins two sensors of the readings", file=file, field="edges",
                         value=f"sensors {', '.join(ids[:3])}; edges name {', '.join(map(str, listed[:3]))}",
                         remedy="name the sensors of the readings with --ids-key")
    kept = frame[known].assign(source=source[known].astype(np.int64), target=target[known].astype(np.int64))
    kept = kept.drop_duplicates(["source", "target", *numbers])
    twice = kept.duplicated(["source", "target"])
    if twice.any():
        first = kept[twice].iloc[0]
        raise InputError(f"{int(twice.sum())} edges are given twice with different values", file=file, field="edges",
                         value=f"{first['from']} -> {first['to']}", remedy="keep one row for each edge")
    return Pairs(kept["source"].to_numpy(), kept["target"].to_numpy(),
                 kept["distance_m"].to_numpy(np.float64) if "distance_m" in kept else None,
                 kept["weight"].to_numpy(np.float64) if "weight" in kept else None,
                 tuple(str(name) for name in listed if name not in place), file)


# -------------------------------------------------------------------- coordinates
def nearest_pairs(lonlat: np.ndarray, ids: Sequence[str], count: int) -> Pairs:
    """Edges to each sensor from its ``count`` nearest, by distance on the WGS 84 ellipsoid.

    Sensors equally far (to the millimetre) are taken in the order of their names, so the order of the sensors does
    not matter. Sensors without a place have no edges.

    Args:
        lonlat: ``[N, 2]`` degrees, NaN where unknown.
        ids: Names of the sensors.
        count: How many neighbours.
    """
    known = np.flatnonzero(~np.isnan(lonlat).any(1))
    count = min(count, len(known) - 1)
    if count < 1:
        return _no_pairs()
    sphere = _on_sphere(lonlat[known])
    tree = cKDTree(sphere)
    reach = tree.query(sphere, k=count + 1)[0][:, -1] * FLATTENING + 1e-9  # holds every neighbour at that distance
    candidates = tree.query_ball_point(sphere, reach)
    target = np.repeat(np.arange(len(known)), [len(found) for found in candidates])
    source = np.concatenate([np.asarray(found, np.int64) for found in candidates])
    source, target = known[source[source != target]], known[target[source != target]]
    distance = geodesic(lonlat[source], lonlat[target])
    order = np.lexsort((np.asarray(ids, dtype=str)[source], np.round(distance, 3), target))
    source, target, distance = source[order], target[order], distance[order]
    rank = np.arange(len(target)) - np.searchsorted(target, target)
    nearest = rank < count
    return Pairs(source[nearest], target[nearest], distance[nearest])


def pairs_within(lonlat: np.ndarray, radius: float | None) -> Pairs:
    """Both directions of every pair of sensors nearer than ``radius`` m, or of every pair, by geodesic distance.

    Raises:
        InputError: where every pair of very many sensors would have to be looked at.
    """
    known = np.flatnonzero(~np.isnan(lonlat).any(1))
    if radius is None and len(known) > ALL_PAIRS:
        raise InputError(f"every pair of {len(known)} sensors would be too many", field="radius",
                         remedy="give --radius in metres, or --edge-rule knn")
    if radius is None:
        first, second = np.triu_indices(len(known), 1)
    else:
        chord = 2 * np.sin(min(radius * FLATTENING / (2 * EARTH_RADIUS), np.pi / 2))
        first, second = cKDTree(_on_sphere(lonlat[known])).query_pairs(chord, output_type="ndarray").T
    first, second = known[first], known[second]
    distance = geodesic(lonlat[first], lonlat[second])
    near = np.ones(len(first), bool) if radius is None else distance <= radius
    first, second, distance = first[near], second[near], distance[near]
    return Pairs(np.concatenate([first, second]), np.concatenate([second, first]), np.tile(distance, 2))


def geodesic(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance in m on the WGS 84 ellipsoid between places ``[E, 2]`` of longitude and latitude in degrees."""
    if not len(start):
        return np.zeros(0)
    return np.asarray(pyproj.Geod(ellps="WGS84").inv(start[:, 0], start[:, 1], end[:, 0], end[:, 1])[2])


def _on_sphere(lonlat: np.ndarray) -> np.ndarray:
    """Points ``[N, 3]`` on the unit sphere: neighbours across the date line are neighbours there."""
    longitude, latitude = np.radians(lonlat).T
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)],
                    axis=1)


def _no_pairs() -> Pairs:
    nothing = np.zeros(0, np.int64)
    return Pairs(nothing, nothing, np.zeros(0))
