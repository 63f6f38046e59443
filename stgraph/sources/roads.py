"""``build roads``: a street network that people have as tables, arrays or lines becomes a graph of roads."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stgraph.errors import InputError
from stgraph.graph import data_sha256, save
from stgraph.graph.plain import categories
from stgraph.io import peak_memory_mb, sha256
from stgraph.roads.network import Roads, parallel_key, reverse_segments
from stgraph.roads.turns import make_turns
from stgraph.sources.osm.attributes import KMH, USUAL_SPEED, impute, parse_lanes, parse_speed, usual
from stgraph.sources.road_network import Network, from_lines, from_tables, lengths_of, set_directions
from stgraph.sources.road_tables import Columns
from stgraph.units import unit

EDGE_IDS = ("segment_id", "edge_id", "link_id", "road_id", "id")
SPEEDS = {"speed_ms": "m/s", "speed_kmh": "km/h", "speed_kph": "km/h", "speed_mph": "mph", "maxspeed_kmh": "km/h",
          "maxspeed_mph": "mph", "free_speed": None, "speed": None, "speed_limit": None, "maxspeed": None}
CLASSES = ("road_class", "highway", "fclass", "class", "functional_class", "type")
LANES = ("lanes", "lane_count", "num_lanes", "n_lanes")
NAMES = ("name", "street", "street_name", "road_name")
TAKEN = {"node_id", "lonlat", "pos", "length", "geometry", "distance", "source_index", "target_index", "num_nodes",
         "x", "y"}
LENGTH_CHOICES = ("given", "mended", "measured")


@dataclass(frozen=True)
class RoadOptions:
    """What :func:`build_roads` is told. Every field is an option of ``stgraph build roads``, which explains it."""

    nodes: str | None = None
    edges: str | None = None
    lines: str | None = None
    # where things are in the files
    nodes_key: str | None = None
    edges_key: str | None = None
    node_id_key: str | None = None
    edge_id_key: str | None = None
    x_key: str | None = None
    y_key: str | None = None
    from_key: str | None = None
    to_key: str | None = None
    geometry_key: str | None = None
    starts_key: str | None = None
    length_key: str | None = None
    class_key: str | None = None
    lanes_key: str | None = None
    speed_key: str | None = None
    name_key: str | None = None
    oneway_key: str | None = None
    # what they mean
    crs: str | None = None
    coordinate_unit: str | None = None
    length_unit: str | None = None
    speed_unit: str | None = None
    two_way: bool = False
    lengths: str = "given"
    snap: float = 0.0
    # the graph
    name: str | None = None
    simulated: bool = False
    licence: str | None = None
    attribution: str | None = None
    out: str | None = None

    def command(self) -> str:
        """The command line that says the same, with the names of files and not their folders."""
        words = ["stgraph", "build", "roads"]
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                option = f"--{one.name.replace('_', '-')}"
                words += [option] if value is True else \
                    [option, Path(value).name if one.name in _FILES else f"{value}"]
        return shlex.join(words)


_FILES = ("nodes", "edges", "lines", "out")


def build_roads(**options: Any) -> tuple[Roads, dict[str, Any]]:
    """Make a road network of tables of junctions and segments, of arrays, or of lines.

    A row is one direction of a street; with ``two_way`` it is both, unless a column ``oneway`` says otherwise. Parallel
    segments and loops are kept as the source has them.

    Args:
        **options: Fields of :class:`RoadOptions`; with ``out`` the network is saved there as a ``.stg`` bundle.

    Returns:
        The roads, and the report that the command prints with ``--json``.

    Raises:
        InputError: where something given cannot be used; file, field, value and remedy are named, and nothing is
            written.
    """
    started = time.perf_counter()
    chosen = _checked_options(options)
    network = from_lines(chosen) if chosen.lines is not None else from_tables(chosen)
    set_directions(network, chosen)
    length = lengths_of(network, chosen)
    segment_id = _segment_id(network, chosen)
    attributes = _attributes(network, chosen, length)
    reverse = reverse_segments(network.tail, network.head, network.line_ptr, network.line_xy)
    turn_index, turn_angle = make_turns(network.tail, network.head, network.line_ptr, network.line_xy, reverse,
                                        network.plane.metric)
    roads = Roads(network.junction_id, network.junction_xy, network.tail, network.head, length, network.line_ptr,
                  network.line_xy, network.plane.metric, attributes, _junction_attributes(network), turn_index,
                  turn_angle, segment_id=segment_id)
    report = _report(network, roads)
    roads.metadata.update(_metadata(chosen, report))
    if chosen.out is not None:
        save(roads.tables(), chosen.out)
        report |= {"out": chosen.out, "data_sha256": data_sha256(chosen.out)}
    return roads, report | {"seconds": round(time.perf_counter() - started, 3), "peak_memory_mb": peak_memory_mb()}


def _checked_options(options: dict[str, Any]) -> RoadOptions:
    plain: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    chosen = RoadOptions(**plain)
    if chosen.lines is None and (chosen.nodes is None or chosen.edges is None):
        raise InputError("a network is made of junctions and segments, or of lines", field="nodes",
                         remedy="give --nodes and --edges, or --lines")
    for field_name, wrong, remedy in (
            ("lines", chosen.lines is not None and (chosen.nodes is not None or chosen.edges is not None),
             "give --lines alone, or --nodes and --edges"),
            ("coordinate_unit", chosen.crs is not None and chosen.coordinate_unit is not None,
             "a reference system has its own unit: leave out --coordinate-unit"),
            ("x_key", (chosen.x_key is None) != (chosen.y_key is None), "give --x-key and --y-key together"),
            ("from_key", (chosen.from_key is None) != (chosen.to_key is None), "give --from-key and --to-key together"),
            ("snap", chosen.snap != 0 and chosen.lines is None, "--snap joins the ends of --lines")):
        if wrong:
            raise InputError("the options do not go together", field=field_name, value=getattr(chosen, field_name),
                             remedy=remedy)
    if chosen.lengths not in LENGTH_CHOICES:
        raise InputError("no such choice", field="lengths", value=chosen.lengths,
                         remedy=f"choose among {', '.join(LENGTH_CHOICES)}")
    if chosen.snap < 0:
        raise InputError("a distance is not negative", field="snap", value=chosen.snap, remedy="give metres")
    for field_name, si in (("length_unit", "m"), ("speed_unit", "m/s")):
        value = getattr(chosen, field_name)
        if value is not None and unit(value).si != si:
            raise InputError(f"not a unit that converts to {si}", field=field_name, value=value,
                             remedy="give m, km, mile or ft" if si == "m" else "give km/h, mph or m/s")
    if chosen.out is not None and Path(chosen.out).suffix != ".stg":
        raise InputError("a graph is saved as a .stg bundle", field="out", value=chosen.out,
                         remedy="end the name in .stg")
    return chosen




# -------------------------------------------------------------------- attributes
def _attributes(network: Network, chosen: RoadOptions, length: np.ndarray) -> dict[str, Any]:
    """Columns of the segments: those with a meaning in SI units, the others as they are."""
    found: dict[str, Any] = {}
    rows, columns = network.row, network.columns
    codes, words = np.zeros(len(rows), np.int64), [""]
    if name := _take(network, "class_key", chosen.class_key, CLASSES):
        codes, words = _coded(columns.texts(name))
        codes = codes[rows]
        found["road_class"] = categories(codes, words)
    lanes, lanes_name = _lanes(network, chosen)
    if lanes_name:
        found |= _filled("lanes", lanes[rows], codes, length, np.ones(len(rows)))
        found["lanes"] = np.clip(np.floor(found["lanes"] + 0.5), 1, 99).astype(np.int16)
    speed, speed_name = _speeds(network, chosen)
    if speed_name:
        found |= _filled("speed", speed[rows], codes, length, usual(words, codes, USUAL_SPEED, 30) * KMH)
        found["speed"] = found["speed"].astype(np.float32)
    found["oneway"] = network.oneway
    if name := _take(network, "name_key", chosen.name_key, NAMES):
        found["name"] = categories(*_at(_coded(columns.texts(name)), rows))
    more, network.facts["columns_left_out"] = _other_columns(columns, network.used, {*TAKEN, *found})
    return found | {name: values.take(pa.array(rows)) for name, values in more.items()}


def _take(network: Network, option: str, given: str | None, known: tuple[str, ...]) -> str | None:
    name = network.columns.find(option, given, known)
    network.used |= {name} if name else set()
    return name


def _coded(texts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    codes, words = pd.factorize(texts, sort=True)
    return codes, [str(word) for word in words]


def _at(coded: tuple[np.ndarray, list[str]], rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    return coded[0][rows], coded[1]


def _lanes(network: Network, chosen: RoadOptions) -> tuple[np.ndarray, str | None]:
    """Lanes ``[rows]``, NaN where not known, and their column; None where no row knows."""
    name = _take(network, "lanes_key", chosen.lanes_key, LANES)
    if name is None:
        return np.zeros(0), None
    values = np.array([parse_lanes(text) for text in network.columns.texts(name)])
    if np.isnan(values).all():
        network.warnings.append(f"column {name}: no value is a number of lanes")
        return values, None
    return values, name


def _speeds(network: Network, chosen: RoadOptions) -> tuple[np.ndarray, str | None]:
    """Speed in m/s ``[rows]``, NaN where not known, and its column; None where no row knows."""
    name = _take(network, "speed_key", chosen.speed_key, tuple(SPEEDS))
    if name is None:
        return np.zeros(0), None
    columns = network.columns
    said = chosen.speed_unit or SPEEDS.get(name.strip().lower())
    texts = columns.texts(name)
    if said is None and pd.Series(texts).str.contains(r"[a-zA-Z;|]").any():  # tags of OpenStreetMap: "50", "30 mph"
        values = np.array([parse_speed(text) for text in texts])
        network.facts["speed_unit"] = "as written, km/h where a number stands alone"
    else:
        values = columns.numbers(name) * unit(said or "m/s").factor
        network.facts["speed_unit"] = said or "m/s"
    wrong = int((~(values > 0) & (texts != "")).sum())
    values = np.where(values > 0, values, np.nan)
    if np.isnan(values).all():
        network.warnings.append(f"column {name}: no value is a speed")
        return values, None
    if wrong:
        network.warnings.append(f"column {name}: {wrong} of {len(values)} values are no speed above 0 and were filled "
                                "in")
    middle = float(np.nanmedian(values))
    if not 1.0 <= middle <= 42.0:
        raise InputError(f"the median speed would be {middle * 3.6:,.0f} km/h", file=columns.file, field=name,
                         value=network.facts["speed_unit"], remedy="say --speed-unit km/h, mph or m/s")
    if said is None and "written" not in network.facts["speed_unit"] and middle > 20.0:
        network.warnings.append(f"column {name} is taken for m/s (median {middle:.3g}): if it is not, say --speed-unit")
    return values, name


def _filled(name: str, value: np.ndarray, codes: np.ndarray, length: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """A column whose gaps hold the mean of the class, and another one that says where."""
    known = ~np.isnan(value)
    return {name: impute(np.where(known, value, 0.0), known, codes, length, other), f"{name}_imputed": ~known}


def _other_columns(columns: Columns, used: set[str], taken: set[str]) -> tuple[dict[str, pa.Array], list[str]]:
    """Columns without a meaning of their own, as Arrow arrays ``[rows]``, and the names of those left out."""
    found: dict[str, pa.Array] = {}
    left: list[str] = []
    for name, values in columns.data.items():
        plain = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_.-]+", "_", name)).lstrip(".")
        if name in used:
            continue
        column = _plain_column(columns, name, np.asarray(values))
        if column is None or not plain or plain in taken or plain in found:
            left.append(name)
        else:
            found[plain] = column
    return found, left


def _plain_column(columns: Columns, name: str, values: np.ndarray) -> pa.Array | None:
    """Numbers, truth values or texts; words where few; None for anything else."""
    if values.dtype.kind in "biuf":
        return pa.array(values.astype(np.float64) if values.dtype.itemsize > 8 or values.dtype == np.uint64 else values)
    texts = columns.texts(name)
    if values.dtype.kind not in "OUS" or any(isinstance(one, (list, dict, bytes, np.ndarray)) for one in values[:100]):
        return None
    numbers = pd.to_numeric(pd.Series(texts).replace("", None), errors="coerce")
    if numbers.notna().any() and (numbers.notna() | (texts == "")).all():
        whole = numbers.notna().all() and (numbers % 1 == 0).all() and numbers.abs().max() < 2**53
        return pa.array(numbers.to_numpy(np.float64).astype(np.int64 if whole else np.float64))
    codes, words = _coded(texts)
    return categories(codes, words) if len(words) <= max(1000, len(texts) // 4) else pa.array(texts, pa.string())


def _junction_attributes(network: Network) -> dict[str, Any]:
    found, left = _other_columns(network.junction_columns, set(), set(TAKEN))
    network.facts["columns_left_out"] += left
    return found


def _segment_id(network: Network, chosen: RoadOptions) -> np.ndarray | None:
    """Ids of the source, a way back called after its row; None where the source has none that tell rows apart."""
    name = network.columns.find("edge_id_key", chosen.edge_id_key, EDGE_IDS)
    if name is None:
        return None
    ids = network.columns.ids(name).astype(str)
    alone = len(set(ids.tolist())) == len(ids) and len(np.unique(network.row[~network.backward])) == \
        int((~network.backward).sum()) and not np.isin(ids, ("", "nan")).any()
    if not alone:
        if chosen.edge_id_key is not None:
            raise InputError("some ids belong to more than one segment, or are missing", file=network.columns.file,
                             field=name, remedy="name another column with --edge-id-key, or leave it out")
        return None
    network.facts["segment_ids"] = name
    network.used.add(name)
    ids = ids[network.row]
    return np.where(network.backward, np.char.add(ids, "-back"), ids)


# -------------------------------------------------------------------- report
def _report(network: Network, roads: Roads) -> dict[str, Any]:
    count, segments = len(roads.junction_id), len(roads.tail)
    joined = coo_array((np.ones(segments), (roads.tail, roads.head)), (count, count))
    group = connected_components(joined, directed=False)[1]
    degree = np.bincount(roads.tail, minlength=count) + np.bincount(roads.head, minlength=count)
    loops = roads.tail == roads.head
    parallel = parallel_key(roads.tail, roads.head, count) > 0
    shape = pd.DataFrame({"tail": roads.tail, "head": roads.head, "length": roads.length})
    return {
        "junctions": count, "segments": segments, "length_km": round(float(roads.length.sum()) / 1000.0, 3),
        "turns": roads.turn_index.shape[1], "coordinates": network.plane.text, "metric": roads.metric,
        "components": len(np.unique(group[degree > 0])), "largest_component": int(np.bincount(group).max()),
        "isolated_junctions": int((degree == 0).sum()), "self_loops": int(loops.sum()),
        "parallel_segments": int(parallel.sum()), "duplicate_segments": int(shape.duplicated().sum()),
        "zero_length_segments": int((roads.length == 0).sum()), "one_way_segments": int(network.oneway.sum()),
        "attributes": [*roads.attributes], "junction_attributes": [*roads.junction_attributes], **network.facts,
        "warnings": network.warnings,
    }


def _metadata(chosen: RoadOptions, report: dict[str, Any]) -> dict[str, Any]:
    """Where the network comes from; names of files, never their folders."""
    sources: list[dict[str, Any]] = []
    for role in _FILES[:-1]:
        path = getattr(chosen, role)
        if path and not any(entry["file"] == Path(path).name for entry in sources):
            entry = {"role": role, "file": Path(path).name, "licence": chosen.licence,
                     "attribution": chosen.attribution, "sha256": sha256(Path(path))}
            sources.append({key: value for key, value in entry.items() if value})
    default = Path(chosen.out or chosen.lines or chosen.edges or "roads").stem
    return {"name": chosen.name or default, "simulated": chosen.simulated, "sources": sources,
            "command": chosen.command(), "notes": report["warnings"],
            "build": {key: value for key, value in report.items() if key != "warnings"}}
