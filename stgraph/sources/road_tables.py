"""Street networks that people have as tables, arrays or lines: columns, shapes, and coordinates made comparable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pyproj
import shapely

from stgraph.errors import InputError
from stgraph.sources.arrays import NPZ, npz_entries, read_npz
from stgraph.sources.tables import CSV, PARQUET, find_column, form_of, names, read_table, table_columns, to_numbers
from stgraph.units import unit

GEO = (".geojson", ".json", ".gpkg", ".shp", ".fgb")
SHAPES = ("geometry", "geom", "wkt", "the_geom", "shape", "line", "linestring")
DEGREES = {"x": ("longitude", "lon", "lng", "long"), "y": ("latitude", "lat")}
PLAIN = {"x": ("x", "x_m", "easting", "x_coord", "xcoord", "pos_x"),
         "y": ("y", "y_m", "northing", "y_coord", "ycoord", "pos_y")}
PLACES = ("lonlat", "node_lonlat", "node_xy", "vertex_xy", "junction_xy", "xy", "pos", "coordinates", "nodes")
POINTS, STARTS = ("xy", "line_xy", "points"), ("ptr", "line_ptr", "offsets")
LONGEST_WHOLE = 18  # digits of a whole number that surely fits into 64 bits


@dataclass(frozen=True)
class Columns:
    """What a file holds for each node or edge.

    Args:
        data: Columns ``[rows]`` (texts as objects where the file is CSV), or arrays of any shape.
        file: For messages.
        shapes: shapely shapes ``[rows]``, None where a row has none; None without such a column.
        crs: Reference system of the shapes; None where the file does not say.
        arrays: Whether these are arrays of an NPZ file, which may have different lengths.
    """

    data: Mapping[str, Any]
    file: str
    shapes: np.ndarray | None = None
    crs: pyproj.CRS | None = None
    arrays: bool = False

    def find(self, option: str, given: str | None, known: Sequence[str]) -> str | None:
        """The column that the user named, or the first usual name that is there.

        Raises:
            InputError: for a name that is not there.
        """
        if given is not None and given not in self.data:
            raise InputError("no such array" if self.arrays else "no such column", file=self.file, field=option,
                             value=given, remedy=f"choose among {', '.join(self.data)}")
        return given if given is not None else find_column(list(self.data), known)

    def need(self, option: str, given: str | None, known: Sequence[str], what: str) -> str:
        """Like :meth:`find`, but it must be there.

        Raises:
            InputError: where it is not.
        """
        found = self.find(option, given, known)
        if found is None:
            raise InputError(f"no column of {what}", file=self.file, field=option, value=", ".join(self.data),
                             remedy=f"name it with --{option.replace('_', '-')}, or call it {known[0]}")
        return found

    def ids(self, name: str) -> np.ndarray:
        """A column as names: int64 where all are whole numbers, otherwise str."""
        values = self.data[name]
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            return values.astype(np.int64)
        found = np.array(names(values), dtype=str)
        sizes = np.char.str_len(found)
        if len(found) and np.char.isdigit(np.char.lstrip(found, "-")).all() and sizes.max() <= LONGEST_WHOLE:
            whole = found.astype(np.int64)
            if (whole.astype(str) == found).all():
                return whole
        return found

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, NaN where missing.

        Raises:
            InputError: where a field is not a number.
        """
        values = np.asarray(self.data[name])
        if values.dtype.kind in "fiub":
            return values.astype(np.float64)
        return to_numbers(pd.Series(values), self.file, name)

    def texts(self, name: str) -> np.ndarray:
        """A column as texts ``[rows]`` of dtype object; an empty one where missing."""
        column = pd.Series(np.asarray(self.data[name]))
        return column.astype(object).where(column.notna(), "").astype(str).str.strip().to_numpy(object)


def read_columns(path: Path | str, geometry_key: str | None = None) -> Columns:
    """Read CSV, Parquet, GeoParquet, NPZ, GeoJSON, GeoPackage, Shapefile or FlatGeobuf.

    Args:
        path: The file.
        geometry_key: Column of shapes in a CSV (WKT, or hexadecimal WKB) or Parquet (WKB) file; by default one of the
            usual names.

    Raises:
        InputError: where the file cannot be read, or has no rows.
    """
    path = Path(path)
    form = form_of(path)
    if form in NPZ:
        entries = npz_entries(path)
        return Columns({key: read_npz(path, key) for key, shape in entries.items() if shape is not None}, str(path),
                       arrays=True)
    if form in CSV:
        table, _ = read_table(path, text=table_columns(path))
        found = Columns({name: column.to_numpy(object) for name, column in table.items()}, str(path))
        key = found.find("geometry_key", geometry_key, SHAPES)
        return found if key is None else _with_shapes(found, key, None)
    if form in PARQUET:
        return _read_parquet(path, geometry_key)
    if form in GEO:
        return _read_geo(path)
    raise InputError("a file of this kind is not read", file=path, value=path.name,
                     remedy="give CSV, Parquet, NPZ, GeoJSON, GeoPackage, Shapefile or FlatGeobuf")


def _read_parquet(path: Path, geometry_key: str | None) -> Columns:
    try:
        table = arrow_parquet.read_table(path, use_pandas_metadata=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not readable as Parquet: {error}", file=path, remedy="write it again") from error
    if not table.num_rows:
        raise _no_rows(path)
    try:
        described = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
        primary = described.get("primary_column")
        column = described.get("columns", {}).get(primary, {})
        encoding, crs = column.get("encoding", "WKB"), column.get("crs", "OGC:CRS84")
        system = pyproj.CRS.from_user_input(crs) if primary and crs is not None else None
    except (ValueError, AttributeError, pyproj.exceptions.CRSError) as error:
        raise InputError(f"the description of its shapes is not readable: {error}", file=path, field="geo",
                         remedy="write it again with geopandas") from error
    if encoding != "WKB":
        raise InputError("shapes in this encoding are not read", file=path, field=primary, value=encoding,
                         remedy="write them as WKB, the default of geopandas")
    found = Columns({name: table[name].to_numpy(zero_copy_only=False) if not pa.types.is_nested(table[name].type)
                     else _objects(table[name].to_pylist()) for name in table.column_names}, str(path))
    key = found.find("geometry_key", geometry_key, [*([primary] if primary else []), *SHAPES])
    return found if key is None else _with_shapes(found, key, system)


def _objects(values: list[Any]) -> np.ndarray:
    """Lists and the like, one in each row ``[n]``; numpy alone would make more dimensions of them."""
    return np.fromiter(values, object, len(values))


def _with_shapes(found: Columns, key: str, crs: pyproj.CRS | None) -> Columns:
    values = np.asarray(found.data[key], dtype=object)
    wrong = [row for row, value in enumerate(values)
             if value is not None and value == value and not isinstance(value, (str, bytes))]
    if wrong:
        raise InputError(f"not a shape in row {wrong[0] + 1} of column {key}", file=found.file, field=key,
                         value=values[wrong[0]], remedy="write shapes as WKT or WKB, or call the column otherwise")
    known = np.array([value is not None and value == value and value not in ("", b"") for value in values], bool)
    shapes = np.full(len(values), None, dtype=object)
    binary = bool(known.any()) and (isinstance(values[known][0], bytes) or str(values[known][0])[:2] in ("00", "01"))
    shapes[known] = shapely.from_wkb(values[known], on_invalid="ignore") if binary \
        else shapely.from_wkt(values[known], on_invalid="ignore")
    bad = np.flatnonzero(known & shapely.is_missing(shapes))
    if len(bad):
        raise InputError(f"not a shape in row {bad[0] + 1} of column {key}", file=found.file, field=key,
                         value=values[bad[0]], remedy="write shapes as WKT: LINESTRING (x y, x y)")
    rest = {name: column for name, column in found.data.items() if name != key}
    return Columns(rest, found.file, shapes, crs)


def _read_geo(path: Path) -> Columns:
    import geopandas  # only here: the other forms do without it

    try:
        frame = geopandas.read_file(path)
    except Exception as error:  # drivers raise their own kinds
        raise InputError(f"not readable as {path.suffix[1:]}: {error}", file=path, remedy="export it again") from error
    if not len(frame) or "geometry" not in frame:
        raise _no_rows(path)
    data = {name: frame[name].to_numpy(object if frame[name].dtype.kind not in "fiub" else None)
            for name in frame.columns if name != "geometry"}
    return Columns(data, str(path), frame.geometry.to_numpy(), frame.crs)


def _no_rows(path: Path) -> InputError:
    return InputError("the file has no rows", file=path, value="0 rows", remedy="export it again")


# -------------------------------------------------------------------- lines
def lines_of(shapes: np.ndarray, file: str, split: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of line shapes.

    Args:
        shapes: shapely lines ``[rows]``; several parts that meet are joined, None stands for a row without.
        file: For messages.
        split: Give each part of a multi-part line as a line of its own, rather than refuse it.

    Returns:
        ``ptr [L + 1]``, ``xy [P, 2]``, and the row of each line ``[L]``, ascending; rows without a shape have none.

    Raises:
        InputError: for a shape that is no line, empty, or in several parts that do not meet.
    """
    there = np.flatnonzero(~shapely.is_missing(shapes))
    parts = shapely.force_2d(shapes[there])
    kind = shapely.get_type_id(parts)
    parts[kind == 5] = shapely.line_merge(parts[kind == 5])
    kind = shapely.get_type_id(parts)
    wrong = ~np.isin(kind, (1, 5) if split else (1,)) | shapely.is_empty(parts)
    if wrong.any():
        row = int(there[wrong.argmax()])
        raise InputError(f"{int(wrong.sum())} shapes are not one line, first in row {row + 1}", file=file,
                         field="geometry", value=str(shapes[row]),
                         remedy="give every row one line (LINESTRING); split lines of several parts")
    lines, of = shapely.get_parts(parts, return_index=True)
    xy, line = shapely.get_coordinates(lines, return_index=True)
    return np.searchsorted(line, np.arange(len(lines) + 1)), xy, there[of]


def point_lines(points: np.ndarray, starts: np.ndarray, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Check lines given as an array of points ``[P, 2]`` and of where each line starts ``[L + 1]``.

    Raises:
        InputError: where the two do not fit together.
    """
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "fiu":
        raise InputError("the points of lines are an array [points, 2]", file=file, field="points",
                         value=f"{points.dtype} {points.shape}", remedy="name the array with --geometry-key")
    ptr = starts.astype(np.int64) if starts.dtype.kind in "iu" and starts.ndim == 1 else np.zeros(0, np.int64)
    if len(ptr) < 2 or ptr[0] != 0 or ptr[-1] != len(points) or (np.diff(ptr) < 2).any():
        raise InputError("the starts of lines do not fit the points", file=file, field="starts",
                         value=f"{len(ptr)} starts for {len(points)} points",
                         remedy="give whole numbers from 0 to the number of points, at least two points a line")
    return ptr, points.astype(np.float64)


# -------------------------------------------------------------------- coordinates
@dataclass(frozen=True)
class Plane:
    """How coordinates of a source become those of the network: degrees of WGS 84, or plain metres.

    Args:
        metric: Whether the result is plain metres.
        text: In words, for the report.
        factor: Metres in one unit of the source, where the result is plain metres.
        transformer: To longitude and latitude; None where they are that already.
    """

    metric: bool
    text: str
    factor: float = 1.0
    transformer: pyproj.Transformer | None = None

    def apply(self, xy: np.ndarray) -> np.ndarray:
        """Coordinates ``[n, 2]`` of the network."""
        if self.transformer is not None:
            xy = np.column_stack(self.transformer.transform(xy[:, 0], xy[:, 1]))
        return np.ascontiguousarray(xy * self.factor if self.metric else xy, np.float64)


def system_of(text: str) -> pyproj.CRS:
    """A reference system by what the user calls it.

    Raises:
        InputError: where there is none of that name.
    """
    try:
        return pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError as error:
        raise InputError("there is no such reference system", field="crs", value=text,
                         remedy="give a code such as EPSG:25831, or a PROJ string") from error


def choose_plane(xy: np.ndarray, file: str, crs: pyproj.CRS | None, coordinate_unit: str | None,
                 degrees: bool) -> Plane:
    """Find out what coordinates are.

    Args:
        xy: ``[n, 2]``, east or longitude first.
        file: For messages.
        crs: Their reference system, where it is known.
        coordinate_unit: Unit of plain coordinates, where the user says that they are that.
        degrees: Whether columns are called longitude and latitude.

    Raises:
        InputError: for a missing coordinate, degrees that are said to be metres, metres that are said to be degrees,
            exchanged axes, a mixture, and places where the reference system is not used.
    """
    missing = np.flatnonzero(~np.isfinite(xy).all(1))
    if len(missing):
        raise InputError(f"{len(missing)} coordinates are missing or not finite, first in row {missing[0] + 1}",
                         file=file, field="coordinates", value=xy[missing[0]].tolist(),
                         remedy="give every junction a place, or remove it and its edges")
    fits = _in_degrees(xy)
    if crs is not None:
        return _known_plane(xy, file, crs, fits)
    if coordinate_unit is not None:
        found = unit(coordinate_unit)
        if found.si != "m":
            raise InputError("coordinates are not measured in this", field="coordinate_unit", value=coordinate_unit,
                             remedy="give m, km, ft or mile")
        if fits.all() and _too_small(xy * found.factor):
            raise InputError(f"the whole network would be {np.ptp(xy, axis=0).max() * found.factor:.3g} m wide: these "
                             "look like degrees", file=file, field="coordinate_unit", value=coordinate_unit,
                             remedy="leave out --coordinate-unit, or give --crs EPSG:4326")
        return Plane(True, f"plane, {found.name}", found.factor)
    if degrees or fits.all():
        _refuse_out_of_range(xy, fits, file)
        return Plane(False, "longitude and latitude")
    far = np.abs(xy).max(1) > 10_000.0
    if fits.any() and not (~fits & ~far).any():
        raise InputError(f"{int(fits.sum())} coordinates look like degrees, {int(far.sum())} like metres", file=file,
                         field="coordinates", value=f"{xy[fits][0].tolist()} and {xy[far][0].tolist()}",
                         remedy="bring all into one reference system")
    if _in_degrees(xy[:, ::-1]).all():
        raise InputError("these are longitude and latitude exchanged, or coordinates of a plane", file=file,
                         field="coordinates", value=xy[~fits][0].tolist(),
                         remedy="name the columns with --x-key (longitude) and --y-key (latitude); for a plane say "
                                "--coordinate-unit m (or km)")
    return Plane(True, "plane, m")


def _known_plane(xy: np.ndarray, file: str, crs: pyproj.CRS, fits: np.ndarray) -> Plane:
    name = crs.to_string() if crs.to_authority() is None else ":".join(crs.to_authority())
    if crs.is_geographic:
        _refuse_out_of_range(xy, fits, file)
    elif fits.all() and _too_small(xy):
        raise InputError(f"these look like degrees, and {name} has {crs.axis_info[0].unit_name}s", file=file,
                         field="crs", value=xy[0].tolist(),
                         remedy="give --crs EPSG:4326, or name the columns with --x-key and --y-key")
    transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lonlat = np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
    bad = np.flatnonzero(~_in_degrees(lonlat))
    middle = np.median(lonlat, axis=0) if not len(bad) else np.full(2, np.nan)
    if len(bad) or not _in_area(crs, middle):
        exchanged = np.median(np.column_stack(transformer.transform(xy[:, 1], xy[:, 0])), axis=0)
        hint = "; east and north look exchanged" if _in_area(crs, exchanged) else ""
        where = f"longitude {middle[0]:.2f}, latitude {middle[1]:.2f}" if not len(bad) else "no place on Earth"
        area = f" ({crs.area_of_use.name})" if crs.area_of_use is not None else ""
        raise InputError(f"the coordinates do not lie where {name} is used{area}{hint}", file=file, field="crs",
                         value=where, remedy="exchange --x-key and --y-key" if hint else "give their own --crs")
    same = crs.is_geographic and crs.equals(pyproj.CRS("EPSG:4326"), ignore_axis_order=True)
    return Plane(False, name, transformer=None if same else transformer)


def _in_degrees(xy: np.ndarray) -> np.ndarray:
    return (np.abs(xy[:, 0]) <= 180.0) & (np.abs(xy[:, 1]) <= 90.0)


def _too_small(xy: np.ndarray) -> bool:
    """Whether a network would be smaller than a house, were its coordinates metres."""
    return 1e-4 < float(np.ptp(xy, axis=0).max()) < 10.0


def _in_area(crs: pyproj.CRS, lonlat: np.ndarray, margin: float = 5.0) -> bool:
    """Whether a place lies where a reference system is used, or not far from it."""
    area = crs.area_of_use
    if area is None or not np.isfinite(lonlat).all():
        return bool(np.isfinite(lonlat).all())
    width = (area.east - area.west) % 360.0 or 360.0
    east = (lonlat[0] - area.west + margin) % 360.0
    return bool(east <= width + 2 * margin and area.south - margin <= lonlat[1] <= area.north + margin)


def _refuse_out_of_range(xy: np.ndarray, fits: np.ndarray, file: str) -> None:
    if fits.all():
        return
    exchanged = _in_degrees(xy[:, ::-1]).all()
    row = int((~fits).argmax())
    raise InputError(f"{int((~fits).sum())} coordinates are no degrees, first in row {row + 1}"
                     + ("; longitude and latitude look exchanged" if exchanged else ""), file=file, field="coordinates",
                     value=f"longitude {xy[row, 0]}, latitude {xy[row, 1]}",
                     remedy="exchange --x-key and --y-key" if exchanged else
                            "say what they are, with --crs or --coordinate-unit")
