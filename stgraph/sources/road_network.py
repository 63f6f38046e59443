"""Junctions, directed segments and their lines, read from tables, arrays or lines; for :mod:`stgraph.sources.roads`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stgraph.errors import InputError
from stgraph.roads.projection import LocalProjection, great_circle
from stgraph.sources.road_tables import (
    DEGREES,
    PLACES,
    PLAIN,
    POINTS,
    STARTS,
    Columns,
    Plane,
    choose_plane,
    lines_of,
    point_lines,
    read_columns,
    system_of,
)
from stgraph.sources.tables import names as as_names
from stgraph.units import unit

if TYPE_CHECKING:
    from stgraph.sources.roads import RoadOptions

NODE_IDS = ("node_id", "junction_id", "osmid", "osm_node_id", "osm_id", "id", "node")
FROM = ("from", "from_id", "from_node", "from_node_id", "from_junction", "from_nodeid", "u", "source", "src",
        "start_node", "edge_from", "tail")
TO = ("to", "to_id", "to_node", "to_node_id", "to_junction", "to_nodeid", "v", "target", "dst", "end_node", "edge_to",
      "head")
PAIRS = ("edge_index", "edges", "edge_list")
LENGTHS = {"length_m": "m", "length_km": "km", "distance_m": "m", "distance_km": "km", "length": None,
           "edge_length": None, "distance": None}
ONEWAY = ("oneway", "one_way", "is_oneway")
FORWARD = ("yes", "y", "true", "1", "1.0", "f", "ft", "forward", "oneway", "one-way")
BACKWARD = ("-1", "-1.0", "reverse", "backward", "t", "tf")
BOTH_WAYS = ("", "no", "n", "false", "0", "0.0", "b", "both", "two-way", "twoway", "reversible", "alternating", "none",
             "nan", "null", "unknown", "-")
"""What a column of one-way streets says, in small letters: along its row, against it, both ways. F and T are from and
to, as in data of navigation; ``reversible`` and ``alternating`` streets are driven both ways in turn."""


@dataclass
class Network:
    """A network as it was read: ``J`` junctions, ``S`` segments; ``row`` says which row of the table each one is."""

    junction_id: np.ndarray
    junction_xy: np.ndarray
    tail: np.ndarray
    head: np.ndarray
    line_ptr: np.ndarray
    line_xy: np.ndarray
    plane: Plane
    row: np.ndarray
    columns: Columns
    junction_columns: Columns
    used: set[str] = field(default_factory=set)  # columns of the segments that have been given a meaning
    backward: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # ways back, which are no row's own, [S]
    oneway: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def crs_of(chosen: RoadOptions, columns: Columns) -> Any:
    """The reference system that the user names, or that the shapes of the file carry.

    Raises:
        InputError: where the two differ.
    """
    said = system_of(chosen.crs) if chosen.crs is not None else None
    if said is not None and columns.crs is not None and not said.equals(columns.crs, ignore_axis_order=True):
        raise InputError("the file has another reference system", file=columns.file, field="crs", value=chosen.crs,
                         remedy=f"leave out --crs: the file says {columns.crs.to_string()[:60]}")
    return said if said is not None else columns.crs


# -------------------------------------------------------------------- junctions and segments
def from_tables(chosen: RoadOptions) -> Network:
    """Read junctions and segments.

    Raises:
        InputError: for files that cannot be read, ends that are no junction, places that are missing or make no sense.
    """
    nodes = read_columns(str(chosen.nodes))
    edges = nodes if nodes.arrays and chosen.nodes == chosen.edges else \
        read_columns(str(chosen.edges), chosen.geometry_key)
    place, degrees, used = _places(nodes, chosen)
    if not len(place):
        raise InputError("there are no junctions", file=nodes.file, field="nodes", value="0 rows",
                         remedy="export the file again")
    plane = choose_plane(place, nodes.file, crs_of(chosen, nodes), chosen.coordinate_unit, degrees)
    ids, id_column = _junction_ids(nodes, chosen, len(place))
    source, target, ends_used, by = _ends(edges, chosen, ids, nodes)
    if not len(source):
        raise InputError("there are no segments", file=edges.file, field="edges", value="0 rows",
                         remedy="export the file again")
    junction_xy = plane.apply(place)
    ptr, xy, facts = table_lines(edges, chosen, plane, junction_xy, source, target)
    network = Network(ids, junction_xy, source, target, ptr, xy, plane, np.arange(len(source)),
                      _per_row(edges, len(source), len(ids) if edges is nodes else -1),
                      _per_row(nodes, len(ids), -1, used | id_column), ends_used)
    network.facts = {"ends_by": by, **facts}
    if plane.text == "longitude and latitude" and not degrees and chosen.crs is None:
        network.warnings.append("coordinates without a reference system are taken for longitude and latitude: all are "
                                "within -180..180 and -90..90")
    return network


def _per_row(columns: Columns, rows: int, others: int, used: set[str] | None = None) -> Columns:
    """The columns that have a value for each row, without those that have been used."""
    def fits(name: str, values: Any) -> bool:
        if not columns.arrays:
            return True
        mine = getattr(values, "ndim", 1) == 1 and len(values) == rows
        return mine and (rows != others or not name.lower().startswith(("node", "vertex", "junction", "osm_node")))
    return Columns({name: values for name, values in columns.data.items()
                    if fits(name, values) and name not in (used or ())}, columns.file, arrays=columns.arrays)


def _places(nodes: Columns, chosen: RoadOptions) -> tuple[np.ndarray, bool, set[str]]:
    """Coordinates ``[J, 2]``, whether their columns are called longitude and latitude, and which columns they are."""
    if nodes.arrays and chosen.x_key is None:
        name = nodes.need("nodes_key", chosen.nodes_key, PLACES, "coordinates")
        found = np.asarray(nodes.data[name])
        if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "fiu":
            raise InputError("places of junctions are an array [junctions, 2]", file=nodes.file, field=name,
                             value=f"{found.dtype} {found.shape}", remedy="name the array with --nodes-key")
        return found.astype(np.float64), "lonlat" in name.lower(), {name}
    plain = chosen.coordinate_unit is not None or (chosen.crs is not None and not system_of(chosen.crs).is_geographic)
    for known in (PLAIN, DEGREES) if plain else (DEGREES, PLAIN):
        x, y = (nodes.find(f"{axis}_key", getattr(chosen, f"{axis}_key"), known[axis]) for axis in ("x", "y"))
        if x is not None and y is not None:
            degrees = known is DEGREES and chosen.x_key is None
            return np.column_stack([nodes.numbers(x), nodes.numbers(y)]), degrees, {x, y}
    if nodes.shapes is None:
        raise InputError("no columns of coordinates", file=nodes.file, field="x_key", value=", ".join(nodes.data),
                         remedy="name them with --x-key and --y-key, or call them longitude and latitude, or x and y")
    wrong = np.flatnonzero(shapely.get_type_id(nodes.shapes) != 0)
    if len(wrong):
        raise InputError(f"{len(wrong)} junctions are no points, first in row {wrong[0] + 1}", file=nodes.file,
                         field="geometry", value=str(nodes.shapes[wrong[0]]), remedy="give every junction a point")
    return np.column_stack([shapely.get_x(nodes.shapes), shapely.get_y(nodes.shapes)]), False, set()


def _junction_ids(nodes: Columns, chosen: RoadOptions, count: int) -> tuple[np.ndarray, set[str]]:
    """Ids ``[J]``, numbers from 0 where the source has none, and the column they stand in."""
    name = nodes.find("node_id_key", chosen.node_id_key, NODE_IDS)
    if name is None:
        return np.arange(count), set()
    ids = nodes.ids(name)
    if len(ids) != count:
        raise InputError("there is not one id for each junction", file=nodes.file, field=name,
                         value=f"{len(ids)} ids, {count} places", remedy="name the array with --node-id-key")
    twice = pd.Series(ids).duplicated().to_numpy()
    if twice.any():
        raise InputError(f"two junctions have one id ({int(twice.sum())} in all)", file=nodes.file, field=name,
                         value=ids[twice][0], remedy="give each junction an id of its own")
    return ids, {name}


def _ends(edges: Columns, chosen: RoadOptions, ids: np.ndarray,
          nodes: Columns) -> tuple[np.ndarray, np.ndarray, set[str], str]:
    """Positions of the two ends of each row, the columns they stand in, and how they name junctions."""
    pair = edges.find("edges_key", chosen.edges_key, PAIRS) if edges.arrays and chosen.from_key is None else None
    if pair is not None:
        both = np.asarray(edges.data[pair])
        if both.ndim != 2 or 2 not in both.shape:
            raise InputError("pairs of ends are an array [segments, 2] or [2, segments]", file=edges.file, field=pair,
                             value=both.shape,
                             remedy="name the array with --edges-key, or two with --from-key and --to-key")
        both = both if both.shape[1] == 2 else both.T
        ends, used = [Columns({pair: side}, edges.file).ids(pair) for side in both.T], {pair}
    else:
        found = [edges.need(option, getattr(chosen, option), known, what) for option, known, what in
                 (("from_key", FROM, "first ends"), ("to_key", TO, "last ends"))]
        ends, used = [edges.ids(name) for name in found], set(found)
        if len(ends[0]) != len(ends[1]):
            raise InputError("the ends are not as many", file=edges.file, field=found[1],
                             value=f"{len(ends[0])} and {len(ends[1])}", remedy="name them with --from-key, --to-key")
    places = [_find_ids(side, ids) for side in ends]
    missing = (places[0] < 0) | (places[1] < 0)
    if not missing.any():
        return places[0], places[1], used, "id"
    if edges.arrays and all(side.dtype.kind == "i" and side.min() >= 0 and side.max() < len(ids) for side in ends):
        return ends[0], ends[1], used, "position"
    row = int(missing.argmax())
    side = 0 if places[0][row] < 0 else 1
    raise InputError(f"{int(missing.sum())} segments have an end that is no junction, first in row {row + 1}",
                     file=edges.file, field=("from_key", "to_key")[side], value=ends[side][row],
                     remedy=f"junctions are called {', '.join(map(str, ids[:3]))}, ... in {Path(nodes.file).name}; "
                            "name the column of ids with --node-id-key")


def _find_ids(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    if wanted.dtype.kind != ids.dtype.kind:
        wanted, ids = np.array(as_names(wanted), dtype=str), np.array(as_names(ids), dtype=str)
    return pd.Index(ids).get_indexer(pd.Index(wanted))


def table_lines(edges: Columns, chosen: RoadOptions, plane: Plane, junction_xy: np.ndarray, tail: np.ndarray,
                 head: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Lines of the segments: those given, turned round where they run against their row; otherwise straight.

    Args:
        edges: Shapes ``[S]``, or none.
        chosen: For the reference system of the shapes.
        plane: That of the junctions.
        junction_xy: ``[J, 2]`` in the coordinates of the network.
        tail: ``[S]``.
        head: ``[S]``.

    Returns:
        ``line_ptr [S + 1]``, ``line_xy [P, 2]``, and what to report.

    Raises:
        InputError: for shapes that are no lines, or end far from their junctions.
    """
    straight = np.stack([junction_xy[tail], junction_xy[head]], axis=1)
    if edges.shapes is None:
        return 2 * np.arange(len(tail) + 1), straight.reshape(-1, 2), {"lines": "straight"}
    ptr, xy, row = lines_of(edges.shapes, edges.file, split=False)
    own = choose_plane(xy, edges.file, crs_of(chosen, edges), chosen.coordinate_unit, False) if len(xy) else plane
    if own.metric != plane.metric:
        raise InputError("junctions and lines are in different reference systems", file=edges.file, field="geometry",
                         value=f"{plane.text}; {own.text}", remedy="bring both into one")
    xy = own.apply(xy)
    first, last = xy[ptr[:-1]], xy[ptr[1:] - 1]
    begin, end = straight[row, 0], straight[row, 1]
    gap = np.maximum(_distance(plane, first, begin), _distance(plane, last, end))
    turned = np.maximum(_distance(plane, last, begin), _distance(plane, first, end))
    against = turned < gap
    gap = np.minimum(gap, turned)
    if len(gap) and np.median(gap) > 1000.0:
        raise InputError(f"lines end far from their junctions, {np.median(gap):,.0f} m in the median", file=edges.file,
                         field="geometry", value=f"line from {first[0].tolist()}, junction {begin[0].tolist()}",
                         remedy="give both in one reference system, or name it with --crs")
    _turn_round(ptr, xy, against)
    size = np.full(len(tail), 2, np.int64)
    size[row] = np.diff(ptr)
    whole = np.concatenate([[0], np.cumsum(size)])
    given = np.zeros(len(tail), bool)
    given[row] = True
    points = np.empty((whole[-1], 2))
    is_given = np.repeat(given, size)
    points[is_given], points[~is_given] = xy, straight[~given].reshape(-1, 2)
    return whole, points, {
        "lines": "given", "lines_straight": int((~given).sum()), "lines_turned_round": int(against.sum()),
        "lines_off_junctions": int((gap > 1.0).sum()), "largest_gap_m": round(float(gap.max(initial=0.0)), 3)}


def _turn_round(ptr: np.ndarray, xy: np.ndarray, which: np.ndarray) -> None:
    """Reverse the order of points of some lines, in place."""
    size = np.diff(ptr)
    place = np.arange(len(xy))
    mirrored = np.repeat(ptr[:-1] + ptr[1:] - 1, size) - place
    xy[:] = xy[np.where(np.repeat(which, size), mirrored, place)]


def _distance(plane: Plane, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return np.linalg.norm(end - start, axis=1) if plane.metric else great_circle(start, end)


# -------------------------------------------------------------------- lines without junctions
def from_lines(chosen: RoadOptions) -> Network:
    """Read lines; their ends, where they coincide, are the junctions.

    Raises:
        InputError: for a file that cannot be read or holds no lines, and places that make no sense.
    """
    columns = read_columns(str(chosen.lines), chosen.geometry_key)
    used: set[str] = set()
    if columns.arrays:
        names = [columns.need(option, getattr(chosen, option), known, what) for option, known, what in
                 (("geometry_key", POINTS, "points"), ("starts_key", STARTS, "starts of lines"))]
        ptr, xy = point_lines(np.asarray(columns.data[names[0]]), np.asarray(columns.data[names[1]]), columns.file)
        row, used = np.arange(len(ptr) - 1), set(names)
    elif columns.shapes is None:
        raise InputError("no column of lines", file=columns.file, field="geometry_key", value=", ".join(columns.data),
                         remedy="name it with --geometry-key, or give --nodes and --edges")
    else:
        ptr, xy, row = lines_of(columns.shapes, columns.file, split=True)
        if not len(row):
            raise InputError("no row has a line", file=columns.file, field="geometry", remedy="export it again")
    plane = choose_plane(xy, columns.file, crs_of(chosen, columns), chosen.coordinate_unit, False)
    xy = plane.apply(xy)
    ends = np.stack([xy[ptr[:-1]], xy[ptr[1:] - 1]], axis=1).reshape(-1, 2)
    places, of = _joined(ends, plane, chosen.snap)
    tail, head = np.ascontiguousarray(of[::2]), np.ascontiguousarray(of[1::2])
    xy[ptr[:-1]], xy[ptr[1:] - 1] = places[tail], places[head]
    network = Network(np.arange(len(places)), places, tail, head, ptr, xy, plane, row,
                      _per_row(columns, len(row), -1), Columns({}, columns.file), used)
    rows = len(columns.shapes) if columns.shapes is not None else len(row)
    network.facts = {"lines": "given", "lines_split": int(len(row) - len(np.unique(row))),
                     "rows_without_a_line": int(rows - len(np.unique(row)))}
    return network


def _joined(ends: np.ndarray, plane: Plane, snap: float) -> tuple[np.ndarray, np.ndarray]:
    """Junctions where ends coincide, or are no more than ``snap`` m apart, in the order of their first end.

    Returns:
        Places ``[J, 2]`` and the junction of each end.
    """
    _, first, of = np.unique(ends, axis=0, return_index=True, return_inverse=True)
    if snap > 0:
        metres = ends[first] if plane.metric else LocalProjection.around(ends).metres(ends[first])
        one, other = cKDTree(metres).query_pairs(snap, output_type="ndarray").T
        _, group = connected_components(coo_array((np.ones(len(one)), (one, other)), (len(first), len(first))))
        leader = np.full(group.max() + 1, len(ends))
        np.minimum.at(leader, group, first)
        first, of = leader, group[of]
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return ends[first[order]], rank[of.reshape(-1)]


# -------------------------------------------------------------------- directions and lengths
def set_directions(network: Network, chosen: RoadOptions) -> None:
    """Say which segments are one-way, and turn those round that are driven against their row; with ``two_way``, add
    the way back of all other rows.

    Raises:
        InputError: where most rows have their way back already, or it is not known what a word means.
    """
    name = network.columns.find("oneway_key", chosen.oneway_key, ONEWAY)
    network.used |= {name} if name else set()
    count = len(network.tail)
    way = _ways(network.columns, name)[network.row] if name else np.zeros(count, np.int64)
    backward = way < 0
    network.tail, network.head = (np.where(backward, network.head, network.tail),
                                  np.where(backward, network.tail, network.head))
    _turn_round(network.line_ptr, network.line_xy, backward)
    junctions = len(network.junction_id)
    both = np.isin(network.head * junctions + network.tail, network.tail * junctions + network.head)
    network.backward = np.zeros(count, bool)
    network.oneway = way != 0 if name else ~both
    both &= network.tail != network.head
    if not chosen.two_way:
        if count > 20 and both.mean() < 0.01:
            network.warnings.append("no street is driven both ways: if rows stand for both directions, "
                                    "say so with --two-way")
        return
    if both.mean() > 0.5:
        raise InputError(f"{100 * both.mean():.0f} % of the rows have their way back in the table already",
                         file=network.columns.file, field="two_way", value=True, remedy="leave out --two-way")
    if not name:
        network.oneway = np.zeros(count, bool)
    _add_ways_back(network, np.flatnonzero(~network.oneway))


def _ways(columns: Columns, name: str) -> np.ndarray:
    """1 where a row is driven along it only, -1 against it only, 0 both ways, ``[rows]``; so of lists all of one kind.

    Raises:
        InputError: for a word that is not known.
    """
    meaning = dict.fromkeys(BOTH_WAYS, 0) | dict.fromkeys(FORWARD, 1) | dict.fromkeys(BACKWARD, -1)
    codes, words = pd.factorize(np.char.lower(columns.texts(name).astype(str)))
    way = np.zeros(len(words), np.int64)
    for place, word in enumerate(words.tolist()):
        parts = {part.strip(" '\"") for part in re.split(r"[;|,]", word.strip("[]()"))}
        unknown = sorted(parts - set(meaning))
        if unknown:
            rows = np.flatnonzero(codes == place)
            raise InputError(f"it is not known whether this is a one-way street, in {len(rows)} rows, first in row "
                             f"{rows[0] + 1}", file=columns.file, field=name, value=unknown[0],
                             remedy=f"write one of {', '.join(FORWARD)} where a street is one-way along its row, "
                                    f"{', '.join(BACKWARD)} against it, {', '.join(filter(None, BOTH_WAYS))} or "
                                    "nothing where it is both ways; or name another column with --oneway-key")
        kinds = {meaning[part] for part in parts}
        way[place] = kinds.pop() if len(kinds) == 1 else 0
    return way[codes]


def _add_ways_back(network: Network, rows: np.ndarray) -> None:
    size = np.diff(network.line_ptr)
    mirror = network.line_xy.copy()
    _turn_round(network.line_ptr, mirror, np.ones(len(size), bool))
    network.line_xy = np.concatenate([network.line_xy, mirror[np.repeat(~network.oneway, size)]])
    network.line_ptr = np.concatenate([[0], np.cumsum(np.concatenate([size, size[rows]]))])
    network.tail, network.head = (np.concatenate([network.tail, network.head[rows]]),
                                  np.concatenate([network.head, network.tail[rows]]))
    network.row = np.concatenate([network.row, network.row[rows]])
    network.backward = np.concatenate([network.backward, np.ones(len(rows), bool)])
    network.oneway = np.concatenate([network.oneway, np.zeros(len(rows), bool)])


def lengths_of(network: Network, chosen: RoadOptions) -> np.ndarray:
    """Length of each segment in m: as given, or along its line.

    Raises:
        InputError: for lengths that are negative or missing, or do not fit the lines.
    """
    step = np.zeros(len(network.line_xy))
    step[1:] = _distance(network.plane, network.line_xy[:-1], network.line_xy[1:])
    step[network.line_ptr[:-1]] = 0.0
    measured = np.add.reduceat(step, network.line_ptr[:-1])
    name = network.columns.find("length_key", chosen.length_key, tuple(LENGTHS))
    network.used |= {name} if name else set()
    if name is None or chosen.lengths == "measured":
        network.facts["lengths"] = "measured"
        return measured
    said = chosen.length_unit or LENGTHS.get(name.strip().lower()) or \
        (chosen.coordinate_unit if network.plane.metric else None) or "m"
    given = network.columns.numbers(name)[network.row] * unit(said).factor
    bad = ~np.isfinite(given) | (given < 0)
    if bad.any() and chosen.lengths == "given":
        first = int(bad.argmax())
        raise InputError(f"{len(np.unique(network.row[bad]))} lengths are negative or missing, first in row "
                         f"{network.row[first] + 1}", file=network.columns.file, field=name,
                         value=given[first] / unit(said).factor,
                         remedy="correct them, or measure these along their lines: --lengths mended")
    _check_lengths(network, given, measured, name, said)
    nothing = int(((given == 0) & (measured > 1.0)).sum())
    if nothing:
        network.warnings.append(f"{nothing} of {len(given)} lengths given are 0 on lines that have a length; "
                                "--lengths measured takes the lines")
    network.facts |= {"lengths": "given", "length_unit": said,
                      "lengths_mended": len(np.unique(network.row[bad]))}
    return np.where(bad, measured, given)


def _check_lengths(network: Network, given: np.ndarray, measured: np.ndarray, name: str, said: str) -> None:
    """Refuse lengths in another unit than said, and places whose axes are exchanged, which lengths give away."""
    good = np.flatnonzero(np.isfinite(given) & (given > 0) & (measured > 1.0))
    if len(good) < 5:
        return
    ratio = float(np.median(given[good] / measured[good]))
    network.facts["length_ratio"] = round(ratio, 4)
    if not 0.2 < ratio < 5.0:
        fits = [other for other in ("m", "km", "mile", "ft")
                if 0.8 < ratio * unit(other).factor / unit(said).factor < 1.25]
        raise InputError(f"the lengths are {ratio:.3g} times those of the lines, in the median",
                         file=network.columns.file, field=name, value=said,
                         remedy=f"say --length-unit {fits[0]}" if fits else
                                "correct --length-unit, --coordinate-unit or --crs, or measure: --lengths measured")
    if not network.plane.metric and _exchanged_fits(network, given, good):
        raise InputError("longitude and latitude look exchanged: exchanged, they fit the lengths given",
                         file=network.columns.file, field="coordinates", value=network.junction_xy[0].tolist(),
                         remedy="exchange --x-key and --y-key; or, if the places are right, measure the lengths: "
                                "--lengths measured")
    short = float((given[good] < 0.9 * measured[good]).mean())
    if short > 0.05:
        network.warnings.append(f"{100 * short:.0f} % of the lengths given are shorter than their lines by 10 % or "
                                "more; --lengths measured takes the lines")


def _exchanged_fits(network: Network, given: np.ndarray, rows: np.ndarray) -> bool:
    """Whether distances between ends follow the lengths much better with latitude taken for longitude, and are about
    as long as them."""
    first, last = network.line_xy[network.line_ptr[rows]], network.line_xy[network.line_ptr[rows + 1] - 1]
    if not (np.abs(network.line_xy[:, ::-1]) <= (180.0, 90.0)).all():
        return False
    spread, middle = [], 0.0
    for start, end in ((first, last), (first[:, ::-1], last[:, ::-1])):
        low, middle, high = np.percentile(np.log(np.maximum(great_circle(start, end), 1e-3) / given[rows]),
                                          (25, 50, 75))
        spread.append(float(high - low))
    return spread[0] > 0.05 and spread[1] < spread[0] / 3 and abs(float(middle)) < 0.2
