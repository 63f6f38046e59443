"""A map of a graph as a picture: streets as lines, regions as outlines, everything else that has a place as points.

North is up and the scale holds in all directions (a local metric projection), the unit stands at the colours, and the
attribution that the graph carries stands at the bottom, as the licence of OpenStreetMap asks for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError
from stgraph.graph import Geometry, GraphTables, load_tables
from stgraph.graph.plain import SOURCE, TARGET, numbers
from stgraph.graph.signal import Signal
from stgraph.io import atomic_path
from stgraph.report.map_margin import (
    FAINT,
    FOOT,
    HEAD,
    HEIGHT,
    INK,
    MANY,
    PAPER,
    STREET,
    WIDTH,
    WORDS,
    Colours,
    draw_margin,
)
from stgraph.roads import LocalProjection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from stgraph.graph import DynamicHeteroGraph

POINTS = (("#0b6fa4", "o"), ("#2e8540", "^"), ("#b8860b", "s"), ("#008b8b", "D"), ("#5d4037", "v"))
"""Colours and signs of layers of points that show no values; none is like a colour that stands for a value."""
CLASS_WIDTH = {"motorway": 3.4, "trunk": 3.0, "primary": 2.3, "secondary": 1.8, "tertiary": 1.35, "residential": 0.8,
               "living_street": 0.8, "service": 0.55, "track": 0.55, "footway": 0.5, "path": 0.5, "steps": 0.5}
"""Width of a street by its class, against 1 for any other; ramps (``motorway_link``) are a third narrower."""
QUIET = ("junction", "traffic_signal", "restriction")
"""Types that are drawn only if asked for."""
_DPI = 200
_SHOWN = {"m/s": ("km/h", 3.6)}
_ROWS = 256  # rows of a signal that its mean on the map is taken over


def draw_map(source: Path | str | DynamicHeteroGraph | GraphTables, out: Path | str, color: str | None = None,
             layers: str | None = None) -> dict[str, Any]:
    """Draw a map as a PNG.

    Args:
        source: A bundle or graph.
        out: The picture; written whole or not at all.
        color: What the colours show: an attribute (numbers, words or yes/no) or the mean of a signal or channel, of the
            first layer that has it; ``segment.speed`` names the layer too.
        layers: Node types with commas, drawn in this order, singular or plural: ``segments,sensors,events``. Default:
            everything that has a place but junctions, traffic signals and restrictions.

    Returns:
        ``picture, layers`` (how many of each are drawn), ``color, unit, attribution, seconds``.

    Raises:
        InputError: where matplotlib is missing, nothing has a place, or a layer or attribute does not exist.
    """
    started = time.perf_counter()
    _need_matplotlib()
    if Path(out).suffix.lower() != ".png":
        raise InputError("a map is written as PNG", file=out, field="picture", remedy="end the name in .png")
    tables = _tables(source)
    chosen = _layers(tables, layers)
    colours = None if color is None else _colours(tables, chosen, color)
    plane = _Plane(tables, chosen)
    shapes = {kind: plane.shape(tables, kind) for kind in chosen}
    shapes = {kind: shape for kind, shape in shapes.items() if shape.count}
    if not shapes:
        raise InputError("nothing in this graph has a place", field="layers", value=", ".join(chosen),
                         remedy="give locations when it is built")
    credit = attribution(tables.metadata)
    figure, axes = _sheet(shapes)
    points = [kind for kind, shape in shapes.items() if shape.form == "point"]
    signs = {kind: POINTS[place % len(POINTS)] for place, kind in enumerate(points)}
    if colours is not None and colours.words is not None:  # words have these colours: points are told by their form
        signs = {kind: (INK, form) for kind, (_, form) in signs.items()}
    drawn = {kind: _draw(axes, tables, kind, shape, colours, signs.get(kind, (STREET, "")))
             for kind, shape in shapes.items()}
    draw_margin(figure, axes, str(tables.metadata.get("name") or ""), drawn, colours, credit)
    with atomic_path(out) as work:
        figure.savefig(work, format="png", dpi=_DPI, facecolor=PAPER,
                       metadata={"Title": str(tables.metadata.get("name") or "map"), "Copyright": credit})
    return {"picture": str(out), "layers": {kind: int(one["count"]) for kind, one in drawn.items()},
            "color": None if colours is None else f"{colours.kind}.{colours.name}",
            "unit": None if colours is None else colours.unit, "attribution": credit,
            "seconds": round(time.perf_counter() - started, 3)}


def attribution(metadata: dict[str, Any]) -> str:
    """The line under a map: whom to name, under which licence, and whether the data is simulated."""
    said = []
    for source in metadata.get("sources") or ():
        if isinstance(source, dict) and (source.get("attribution") or source.get("licence")):
            parts = [str(source[key]) for key in ("attribution", "licence") if source.get(key)]
            said.append(", ".join(parts).replace("(c)", "©"))
    if not said:
        files = [str(source["file"]) for source in metadata.get("sources") or ()
                 if isinstance(source, dict) and source.get("file")]
        said = [f"Source: {', '.join(dict.fromkeys(files))}"] if files else []
    if metadata.get("simulated"):
        said.append("Simulated data")
    return " · ".join(dict.fromkeys(said)) or "Source not stated"


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("the package matplotlib is missing", field="picture",
                         remedy="pip install 'stgraph-city[picture]'") from error


def _tables(source: Path | str | DynamicHeteroGraph | GraphTables) -> GraphTables:
    if isinstance(source, (str, Path)):
        return load_tables(source, in_memory=False, verify=False)
    return source if isinstance(source, GraphTables) else GraphTables.of_graph(source)


# ---------------------------------------------------------------- what is drawn
def _layers(tables: GraphTables, asked: str | None) -> list[str]:
    if asked is None:
        found = [kind for kind, table in tables.nodes.items()
                 if kind not in QUIET and {"lonlat", "pos", "geometry"} & set(table.column_names)]
        return sorted(found, key=lambda kind: (kind != "region", kind != "segment"))
    chosen = []
    for word in (part.strip() for part in asked.split(",")):
        singular = [word, word.removesuffix("s"), word.removesuffix("ies") + "y"]
        kind = next((one for one in singular if one in tables.nodes), None)
        if kind is None:
            raise InputError("the graph has no such layer", field="layers", value=word,
                             remedy=f"choose among {', '.join(tables.nodes)}")
        chosen.append(kind)
    return list(dict.fromkeys(chosen))


def _colours(tables: GraphTables, layers: list[str], asked: str) -> Colours:
    named, _, short = asked.rpartition(".")
    for kind in [named] if named else layers:
        table = tables.nodes.get(kind)
        if table is not None and short in table.column_names:
            return _of_attribute(tables, kind, short)
    for kind in [named] if named else layers:
        for name, signal in tables.signals.get(kind, {}).items():
            if short == name or short in signal.channel_names:
                return _of_signal(kind, signal, short if short in signal.channel_names else signal.channel_names[0])
    known = sorted({name for kind in layers for name in (*tables.nodes[kind].column_names,
                                                         *tables.signals.get(kind, {}))} - {"lonlat", "geometry"})
    raise InputError("no layer on the map has this attribute or signal", field="color", value=asked,
                     remedy=f"choose among {', '.join(known)}")


def _of_attribute(tables: GraphTables, kind: str, name: str) -> Colours:
    column = tables.nodes[kind][name]
    if pa.types.is_string(column.type):
        column = column.combine_chunks().dictionary_encode()
    if pa.types.is_dictionary(column.type):
        words = (column.chunk(0) if isinstance(column, pa.ChunkedArray) else column).dictionary.to_pylist()
        return Colours(kind, numbers(column).astype(float), name, None, tuple(word or "(none)" for word in words))
    if not pa.types.is_primitive(column.type):
        raise InputError("this attribute is not one number or word for each", field="color", value=f"{kind}.{name}",
                         remedy="choose another attribute")
    values = numbers(column)
    if values.dtype == np.bool_:
        return Colours(kind, values.astype(float), name, None, ("no", "yes"))
    said = tables.schema.of(kind).get(name)
    unit, factor = _SHOWN.get(said.unit or "", (said.unit, 1.0)) if said is not None else (None, 1.0)
    return Colours(kind, values.astype(float) * factor, name, unit)


def _of_signal(kind: str, signal: Signal, channel: str) -> Colours:
    """Means over time in the unit of the source; of a long signal, over rows spread evenly."""
    index = signal.channel_names.index(channel)
    total, count = np.zeros(signal.shape[1]), np.zeros(signal.shape[1])
    for row in np.unique(np.linspace(0, signal.shape[0] - 1, min(signal.shape[0], _ROWS)).astype(int)):
        values, mask = signal.read(int(row), int(row) + 1)
        seen = mask[0, :, index]
        total, count = total + np.where(seen, values[0, :, index], 0.0), count + seen
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
    return Colours(kind, signal.to_source(mean, index), channel, signal.channels[index].source_unit)


@dataclass(frozen=True)
class _Shape:
    """Places of one layer in local metres: points ``xy [N, 2]``, or lines and rings with ``ptr``."""

    form: str  # point, line, ring
    xy: np.ndarray
    ptr: np.ndarray | None
    member: np.ndarray  # node of each point, line or ring

    @property
    def count(self) -> int:
        """How many nodes are drawn."""
        return len(np.unique(self.member))


class _Plane:
    """The projection of a map: around everything that is drawn; none where places are plain metres."""

    def __init__(self, tables: GraphTables, layers: list[str]) -> None:
        places = [numbers(tables.nodes[kind]["lonlat"]) for kind in layers
                  if "lonlat" in tables.nodes[kind].column_names]
        known = [one[np.isfinite(one).all(1)] for one in places]
        joined = np.concatenate(known) if known else np.zeros((0, 2))
        self.metric = not len(joined)
        self.projection = None if self.metric else LocalProjection.around(joined)

    def metres(self, xy: np.ndarray) -> np.ndarray:
        """Local metres ``[n, 2]``."""
        return xy if self.projection is None else self.projection.metres(xy)

    def shape(self, tables: GraphTables, kind: str) -> _Shape:
        """What is drawn of a node type."""
        table = tables.nodes[kind]
        place = "pos" if self.metric else "lonlat"
        if "geometry" in table.column_names:
            geometry = Geometry(table["geometry"])
            if geometry.kinds() <= {"LineString"}:
                return self._lines(*geometry.coordinates())
            if geometry.kinds() & {"Polygon", "MultiPolygon"}:
                return self._rings(geometry)
        road = ("junction", "segment", "junction")
        if kind == "segment" and road in tables.edges and place in tables.nodes["junction"].column_names:
            ends = np.column_stack([numbers(tables.edges[road][column]) for column in (SOURCE, TARGET)])
            return self._lines(2 * np.arange(len(ends) + 1), numbers(tables.nodes["junction"][place])[ends.reshape(-1)])
        xy = self.metres(numbers(table[place])) if place in table.column_names else np.zeros((0, 2))
        known = np.flatnonzero(np.isfinite(xy).all(1))
        return _Shape("point", xy[known], None, known)

    def _lines(self, ptr: np.ndarray, xy: np.ndarray) -> _Shape:
        return _Shape("line", self.metres(xy), ptr, np.arange(len(ptr) - 1))

    def _rings(self, geometry: Geometry) -> _Shape:
        import shapely

        parts, member = shapely.get_parts(geometry.shapely(), return_index=True)
        rings, inner = shapely.get_rings(parts, return_index=True)
        xy, of_ring = shapely.get_coordinates(rings, return_index=True)
        ptr = np.concatenate([[0], np.cumsum(np.bincount(of_ring, minlength=len(rings)))])
        return _Shape("ring", self.metres(xy), ptr, member[inner])


# ---------------------------------------------------------------- drawing
def _sheet(shapes: dict[str, _Shape]) -> tuple[Figure, Axes]:
    """A figure with one frameless map, as high as the land that it shows needs, and a strip for the attribution."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    xy = np.concatenate([shape.xy for shape in shapes.values()])
    xy = xy[np.isfinite(xy).all(1)]
    low, high = xy.min(0), xy.max(0)
    extent = np.maximum(high - low, 0.05 * (high - low).max())
    extent = np.where(extent > 0, extent, 1000.0)
    middle = (low + high) / 2
    width, height = 1.08 * extent
    tall = float(np.clip(WIDTH * height / width, *HEIGHT))
    width, height = max(width, height * WIDTH / tall), max(height, width * tall / WIDTH)
    whole = tall + HEAD + FOOT
    figure = Figure(figsize=(WIDTH, whole), facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, FOOT / whole, 1.0, tall / whole))
    axes.set_xlim(middle[0] - width / 2, middle[0] + width / 2)
    axes.set_ylim(middle[1] - height / 2, middle[1] + height / 2)
    axes.set_axis_off()
    return figure, axes


def _draw(axes: Axes, tables: GraphTables, kind: str, shape: _Shape, colours: Colours | None,
          sign: tuple[str, str]) -> dict[str, Any]:
    """One layer; gives what the legend needs."""
    shown = colours if colours is not None and colours.kind == kind else None
    scale = None if shown is None else _scale(shown, shape)
    if shape.form == "line":
        _draw_lines(axes, tables, kind, shape, shown, scale)
    elif shape.form == "ring":
        _draw_rings(axes, shape, shown, scale)
    else:
        _draw_points(axes, shape, shown, scale, sign)
    return {"count": shape.count, "form": shape.form, "sign": sign, "scale": scale}


def _scale(colours: Colours, shape: _Shape) -> tuple[Colormap, Normalize]:
    """From values to colours, dark for large, leaving out a hundredth at each end; or one colour for each word.

    Lines count by their length, so that a few long motorways are not lost among many short streets.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize

    if colours.words is not None:
        counts = np.bincount(colours.values.astype(int), minlength=len(colours.words))
        palette = [FAINT] * len(colours.words)
        for colour, code in zip(WORDS, np.argsort(-counts, kind="stable"), strict=False):
            palette[code] = colour
        return ListedColormap(palette), BoundaryNorm(np.arange(len(palette) + 1) - 0.5, len(palette))
    known = np.flatnonzero(np.isfinite(colours.values))
    low, high = 0.0, 1.0
    if len(known):
        weight = _lengths(shape)[known] if shape.form == "line" else np.ones(len(known))
        order = np.argsort(colours.values[known], kind="stable")
        share = np.cumsum(weight[order])
        ends = np.minimum(np.searchsorted(share, [0.01 * share[-1], 0.99 * share[-1]]), len(order) - 1)
        low, high = colours.values[known[order[ends]]]
    ramp = ListedColormap(colormaps["magma_r"](np.linspace(0.22, 0.93, 256)), name="paper")
    return ramp.with_extremes(bad=FAINT), Normalize(low, high if high > low else low + 1.0)


def _lengths(shape: _Shape) -> np.ndarray:
    """Length of each line, ``[S]``."""
    assert shape.ptr is not None
    step = np.zeros(len(shape.xy))
    step[1:] = np.linalg.norm(np.diff(shape.xy, axis=0), axis=1)
    step[shape.ptr[:-1]] = 0.0
    return np.add.reduceat(step, shape.ptr[:-1])


def _draw_lines(axes: Axes, tables: GraphTables, kind: str, shape: _Shape, shown: Colours | None,
                scale: tuple[Colormap, Normalize] | None) -> None:
    from matplotlib.collections import LineCollection

    assert shape.ptr is not None
    width = _widths(tables, kind, shape, axes)
    values = None if shown is None else shown.values
    # the narrow ones first, so that a motorway is not cut by every lane that it crosses
    order = np.lexsort((np.zeros(len(width)) if values is None else np.nan_to_num(values, nan=-np.inf), width))
    once = _one_direction(shape, values)
    order = order[once[order]]
    lines = [shape.xy[shape.ptr[i]:shape.ptr[i + 1]] for i in order]
    collection = LineCollection(lines, linewidths=width[order], capstyle="round", joinstyle="round", zorder=2,
                                colors=STREET if values is None else None)
    if values is not None and scale is not None:
        collection.set(array=np.ma.masked_invalid(values[order]), cmap=scale[0], norm=scale[1])
    axes.add_collection(collection, autolim=False)


def _widths(tables: GraphTables, kind: str, shape: _Shape, axes: Axes) -> np.ndarray:
    """Width of each line in points: by class, and thinner where streets are dense."""
    count = len(shape.member)
    share = np.ones(count)
    if "road_class" in tables.nodes[kind].column_names:
        column = tables.nodes[kind]["road_class"].combine_chunks()
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        by_word = [CLASS_WIDTH.get((word or "").removesuffix("_link"), 1.0) * (0.7 if (word or "").endswith("_link")
                                                                             else 1.0)
                   for word in column.dictionary.to_pylist()]
        share = np.array(by_word)[numbers(column)]
    total = float(np.nansum(_lengths(shape))) or 1.0
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    spacing = (right - left) * (top - bottom) / total * (72 * WIDTH / (right - left))  # between streets, points
    return share * float(np.clip(0.085 * spacing, 0.3, 1.2))


def _one_direction(shape: _Shape, values: np.ndarray | None) -> np.ndarray:
    """Which lines to draw ``[S]``: of two that lie on each other and look alike, one."""
    from stgraph.roads.network import reverse_segments

    assert shape.ptr is not None
    ends = np.concatenate([shape.xy[shape.ptr[:-1]], shape.xy[shape.ptr[1:] - 1]])
    _, corner = np.unique(ends, axis=0, return_inverse=True)
    corner = corner.reshape(-1)
    count = len(shape.member)
    other = reverse_segments(corner[:count], corner[count:], shape.ptr, shape.xy)
    here = np.arange(count)
    alike = np.ones(count, bool) if values is None else \
        (values == values[other]) | (np.isnan(values) & np.isnan(values[other]))
    return (other < 0) | (here < other) | ~alike


def _draw_rings(axes: Axes, shape: _Shape, shown: Colours | None, scale: tuple[Colormap, Normalize] | None) -> None:
    from matplotlib.collections import PolyCollection

    assert shape.ptr is not None
    rings = [shape.xy[shape.ptr[i]:shape.ptr[i + 1]] for i in range(len(shape.member))]
    collection = PolyCollection(rings, facecolors="none" if shown is None else None, edgecolors="#b4b0a4",
                                linewidths=0.7, zorder=1)
    if shown is not None and scale is not None:
        collection.set(array=np.ma.masked_invalid(shown.values[shape.member]), cmap=scale[0], norm=scale[1], alpha=0.6)
    axes.add_collection(collection, autolim=False)


def _draw_points(axes: Axes, shape: _Shape, shown: Colours | None, scale: tuple[Colormap, Normalize] | None,
                 sign: tuple[str, str]) -> None:
    count = len(shape.xy)
    many = count > MANY
    size = float(np.clip(60_000.0 / max(count, 1), 0.9, 6.0) if many else np.clip(20_000.0 / max(count, 1), 14.0, 48.0))
    look: dict[str, Any] = {"s": size, "zorder": 4, "linewidths": 0.0 if many else 0.6,
                            "edgecolors": "none" if many else PAPER, "alpha": 0.4 if many else 0.95,
                            "rasterized": many, "marker": "o" if many else sign[1]}
    if shown is not None and scale is not None:
        values = shown.values[shape.member]
        order = np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")
        axes.scatter(shape.xy[order, 0], shape.xy[order, 1], c=np.ma.masked_invalid(values[order]), cmap=scale[0],
                     norm=scale[1], plotnonfinite=True, **look)
    else:
        axes.scatter(shape.xy[:, 0], shape.xy[:, 1], color=sign[0], **look)
