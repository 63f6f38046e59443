"""Edits of a road network at a time: close a road, open it again, add one, change a speed.

An edit gives a new graph that shares everything unchanged with the old one. The past stays: ``graph.at(t)`` is the
network as it stood at ``t``, and equals one built from scratch with the edits that hold at ``t``.

A segment that changes has several **versions**, each a row of the node type ``segment`` with a life of its own
(``valid_from``, ``valid_to``), of which at most one lives at any time. The version with the earliest rows of the table
keeps the id of the segment; the next are called ``id@2``, ``id@3``, and the attribute ``version`` counts them. Ids
given to an edit name segments, whichever version's id it is.

All relations follow: the row of ``(junction, segment, junction)`` lives as long as its segment; moves and whatever else
is joined to a segment is joined to every version that it shares time with; traffic signals and turn restrictions live
while all their segments do; where every way on is closed, turning back is a move, as at the end of a dead end. A
version carries the whole series of its segment. What has no time in common at present (a move onto a road that is
closed for good) waits in the table ``dormant_edges``, in case a later edit opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stgraph.errors import InputError
from stgraph.graph.time import instant
from stgraph.roads.projection import great_circle

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph
    from stgraph.roads.versions import Version

IMPUTED = {"speed": "speed_imputed", "lanes": "lanes_imputed"}
"""Attributes that are filled in where they are not given, and the one that says so."""
_NEAR = 10.0  # m, of the end of a line from its junction
_NAMED = 100  # segments of one edit that the metadata name


def close_segment(graph: DynamicHeteroGraph, ids: str | int | Sequence[str | int], start: Any,
                  end: Any = None) -> DynamicHeteroGraph:
    """Close segments in ``[start, end)``.

    Args:
        graph: A graph that holds roads; it is not changed.
        ids: One id of a segment, or several.
        start: Seconds since 1970-01-01 UTC, an ISO text, or a pandas Timestamp; without an offset, on the graph's
            clock.
        end: First instant after; None for good.

    Raises:
        InputError: where a segment is not known, or is not open at any time in the interval, or the interval is empty.
    """
    first, last = _interval(graph, start, end)

    def edit(version: Version) -> list[Version]:
        return version.split([(version.start, min(version.end, first), {}),
                              (max(version.start, last), version.end, {})])

    return _edited(graph, ids, first, last, edit, {"edit": "close"})


def open_segment(graph: DynamicHeteroGraph, ids: str | int | Sequence[str | int], start: Any,
                 end: Any = None) -> DynamicHeteroGraph:
    """Open segments in ``[start, end)`` wherever they are closed, as they were when they were last open.

    Args:
        graph: A graph that holds roads; it is not changed.
        ids: One id of a segment, or several.
        start: As for :func:`close_segment`.
        end: First instant after which the segments are as they were before the edit; None for good.

    Raises:
        InputError: where a segment is not known, or is open all the time, or the interval is empty.
    """
    from stgraph.roads.editor import Editor

    first, last = _interval(graph, start, end)
    editor = Editor(graph)
    for number in editor.find(ids):
        versions = editor.segments.versions(number)
        gaps = _gaps(versions, first, last)
        if not gaps:
            raise InputError("the segment is open all the time", field="segment", value=editor.segments.name(number),
                             remedy="give an interval in which it is closed")
        for begin, stop in gaps:
            _open(versions, begin, stop)
    return editor.graph_after(_record(editor, ids, first, last, {"edit": "open"}))


def change_speed(graph: DynamicHeteroGraph, ids: str | int | Sequence[str | int], speed: float, start: Any,
                 end: Any = None) -> DynamicHeteroGraph:
    """Give segments another speed in ``[start, end)``.

    Args:
        graph: A graph that holds roads; it is not changed.
        ids: One id of a segment, or several.
        speed: m/s.
        start: As for :func:`close_segment`.
        end: First instant after; None for good.

    Raises:
        InputError: as for :func:`close_segment`, and where the speed is not a positive number.
    """
    if not 0 < speed < np.inf:
        raise InputError("a speed is a positive number", field="speed", value=speed,
                         remedy="give m/s, or close the segment")
    first, last = _interval(graph, start, end)
    values: dict[str, Any] = {"speed": float(speed)}
    if "speed" not in _segments(graph):
        raise InputError("the segments of this graph have no speed", field="segment.speed",
                         remedy="set graph['segment'].speed first, m/s")
    if "speed_imputed" in _segments(graph):
        values["speed_imputed"] = False

    def edit(version: Version) -> list[Version]:
        return version.split([(version.start, min(version.end, first), {}),
                              (max(version.start, first), min(version.end, last), values),
                              (max(version.start, last), version.end, {})])

    return _edited(graph, ids, first, last, edit, {"edit": "speed", "speed": float(speed)})


def add_segment(graph: DynamicHeteroGraph, from_junction: str | int, to_junction: str | int, start: Any,
                end: Any = None, *, segment_id: str | None = None, geometry: Any = None, length: float | None = None,
                **attributes: Any) -> DynamicHeteroGraph:
    """Add a segment that lives in ``[start, end)``, in one direction; a street both ways is two of them.

    It may be entered from every segment that ends at its first junction, and left for every one that starts at its
    last, but for turning back.

    Args:
        graph: A graph that holds roads; it is not changed.
        from_junction: Id of the junction where it starts.
        to_junction: Id of the junction where it ends.
        start: As for :func:`close_segment`.
        end: First instant after; None for good.
        segment_id: Its id; by default "from-to-key".
        geometry: Its line from junction to junction, ``[P, 2]`` in the coordinates of the network or a shapely
            LineString; by default straight.
        length: m; by default that of the line.
        **attributes: Values of more attributes of segments, such as ``speed`` (m/s) or ``road_class``. Speed and lanes
            are filled in where they are not given, by the median of the same class, and marked as imputed.

    Raises:
        InputError: where a junction or an attribute is not known, the id is taken, or the line does not lead from the
            one junction to the other.
    """
    from stgraph.roads.editor import Editor

    first, last = _interval(graph, start, end)
    editor = Editor(graph)
    ends = editor.junctions([from_junction, to_junction])
    line = _line(graph, ends, geometry)
    size = _length(graph, line) if length is None else float(length)
    if not 0 < size < np.inf:
        raise InputError("a length is a positive number", field="length", value=size, remedy="give metres")
    name = _free_name(editor, from_junction, to_junction, segment_id)
    values = _values(graph, line, size, attributes)
    editor.add(name, ends, line, first, last, values)
    return editor.graph_after({"edit": "add", "segments": [name], "count": 1, "from": first,
                               "to": None if end is None else last})


# ---------------------------------------------------------------- intervals
def _interval(graph: DynamicHeteroGraph, start: Any, end: Any) -> tuple[int, int]:
    from stgraph.graph.snapshot import OPEN_END

    tz = graph.time.tz if graph.time is not None else "UTC"
    first, last = (int(one) if isinstance(one, (int, np.integer)) else OPEN_END if one is None else instant(one, tz)
                   for one in (start, end))
    if first >= last:
        raise InputError("the interval ends before it starts", field="interval", value=f"{start} .. {end}",
                         remedy="give the earlier time first")
    return first, last


def _edited(graph: DynamicHeteroGraph, ids: Any, first: int, last: int, edit: Callable[[Version], list[Version]],
            record: dict[str, Any]) -> DynamicHeteroGraph:
    from stgraph.roads.editor import Editor

    editor = Editor(graph)
    for number in editor.find(ids):
        versions = editor.segments.versions(number)
        if not any(version.start < last and first < version.end for version in versions):
            raise InputError("the segment is closed all the time", field="segment", value=editor.segments.name(number),
                             remedy="give an interval in which it is open, or open it first")
        versions[:] = [part for version in versions
                       for part in (edit(version) if version.start < last and first < version.end else [version])]
    return editor.graph_after(_record(editor, ids, first, last, record))


def _record(editor: Any, ids: Any, first: int, last: int, record: dict[str, Any]) -> dict[str, Any]:
    from stgraph.graph.snapshot import OPEN_END

    names = [editor.segments.name(number) for number in editor.find(ids)]
    return {**record, "segments": names[:_NAMED], "count": len(names), "from": first,
            "to": None if last == OPEN_END else last}


def _gaps(versions: list[Version], first: int, last: int) -> list[tuple[int, int]]:
    """The parts of ``[first, last)`` in which no version lives, in order."""
    gaps, place = [], first
    for version in sorted(versions, key=lambda one: one.start):
        if version.end <= place:
            continue
        if version.start >= last:
            break
        if version.start > place:
            gaps.append((place, version.start))
        place = version.end
    return [*gaps, (place, last)] if place < last else gaps


def _open(versions: list[Version], begin: int, stop: int) -> None:
    """Fill a gap: by the version before it, or where there is none by the one after it."""
    before = [version for version in versions if version.end <= begin]
    model = max(before, key=lambda one: one.end) if before else min(versions, key=lambda one: one.start)
    if model.end == begin:
        model.end = stop
    elif model.start == stop:
        model.start = begin
    else:
        versions.append(model.copy(begin, stop))


# ---------------------------------------------------------------- a new segment
def _segments(graph: DynamicHeteroGraph) -> Any:
    graph._check_type("segment")
    return graph["segment"]


def _line(graph: DynamicHeteroGraph, ends: list[int], geometry: Any) -> np.ndarray:
    """The line ``[P, 2]`` of a new segment; its ends are the junctions themselves."""
    store = graph["junction"]
    corners = (store.lonlat if "lonlat" in store else store.pos)[ends].numpy()
    if geometry is None:
        return np.asarray(corners, np.float64)
    line = np.array(geometry.coords if hasattr(geometry, "coords") else geometry, np.float64)
    if line.ndim != 2 or line.shape[1] != 2 or len(line) < 2 or not np.isfinite(line).all():
        raise InputError("a line is two points or more", field="geometry", value=list(line.shape),
                         remedy="give it as [P, 2]")
    away = _distance(graph, line[[0, -1]], corners)
    if (away > _NEAR).any():
        raise InputError(f"the line ends {away.max():.0f} m from its junction", field="geometry",
                         value=line[[0, -1]][int(away.argmax())].tolist(),
                         remedy="start it at the first junction and end it at the second")
    line[[0, -1]] = corners
    return line


def _distance(graph: DynamicHeteroGraph, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Metres ``[n]`` between places ``[n, 2]``."""
    if "lonlat" in graph["junction"]:
        return great_circle(one, other)
    return np.asarray(np.linalg.norm(one - other, axis=1))


def _length(graph: DynamicHeteroGraph, line: np.ndarray) -> float:
    return float(_distance(graph, line[:-1], line[1:]).sum())


def _middle(graph: DynamicHeteroGraph, line: np.ndarray) -> np.ndarray:
    """The place half-way along a line."""
    along = np.concatenate([[0.0], np.cumsum(_distance(graph, line[:-1], line[1:]))])
    line = line.copy()
    if "lonlat" in graph["junction"]:
        line[:, 0] = line[0, 0] + (line[:, 0] - line[0, 0] + 180.0) % 360.0 - 180.0  # the short way round the globe
    place = np.array([np.interp(along[-1] / 2, along, line[:, axis]) for axis in (0, 1)])
    if "lonlat" in graph["junction"]:
        place[0] = (place[0] + 180.0) % 360.0 - 180.0
    return place


def _free_name(editor: Any, from_junction: str | int, to_junction: str | int, wanted: str | None) -> str:
    if wanted is not None:
        if editor.segments.knows(wanted):
            raise InputError("the id is taken", field="segment_id", value=wanted, remedy="choose another")
        return wanted
    key = 0
    while editor.segments.knows(f"{from_junction}-{to_junction}-{key}"):
        key += 1
    return f"{from_junction}-{to_junction}-{key}"


def _values(graph: DynamicHeteroGraph, line: np.ndarray, size: float, given: dict[str, Any]) -> dict[str, Any]:
    """A value for every attribute of segments: as given, computed, imputed, or unknown."""
    from stgraph.graph import Geometry

    store = _segments(graph)
    own = {"node_id", "valid_from", "valid_to", "version", "length", "geometry", "lonlat", "pos", "n_id", "num_nodes"}
    for name in given:
        if name not in store or name in own:
            raise InputError("segments of this graph have no such attribute", field=name, value=given[name],
                             remedy=f"choose among {', '.join(one for one in store if one not in own)}")
    values: dict[str, Any] = {}
    alike = _same_class(graph, given)
    for name, present in store.items():
        declared = graph.schema.of("segment").get(name)
        if name in given:
            values[name] = given[name]
        elif name == "geometry":
            values[name] = Geometry.from_lines(np.array([0, len(line)]), line)
        elif name in ("lonlat", "pos"):
            values[name] = _middle(graph, line)
        elif name == "length":
            values[name] = size
        elif name in IMPUTED and len(alike):
            found = present[alike].double()
            values[name] = float(found[~found.isnan()].median()) if not found.isnan().all() else float("nan")
        elif name in IMPUTED.values():
            values[name] = next(one for one, flag in IMPUTED.items() if flag == name) not in given
        elif name == "oneway":
            values[name] = True
        elif declared is not None and declared.categories is not None:
            values[name] = "unclassified" if name == "road_class" else ""
        elif isinstance(present, np.ndarray):
            values[name] = ""
        elif name not in own:
            values[name] = float("nan") if present.is_floating_point() else 0
    return values


def _same_class(graph: DynamicHeteroGraph, given: dict[str, Any]) -> np.ndarray:
    """Positions of the segments of the same class, or of all."""
    store = _segments(graph)
    everything = np.arange(graph.size_of("segment"))
    declared = graph.schema.of("segment").get("road_class")
    if "road_class" not in given or declared is None:
        return everything
    if declared.categories is None:
        return np.flatnonzero(np.asarray(store.road_class) == given["road_class"])
    if given["road_class"] not in declared.categories:
        return everything
    found = np.flatnonzero(store.road_class.numpy() == declared.categories.index(given["road_class"]))
    return found if len(found) else everything
