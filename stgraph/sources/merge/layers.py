"""Which node types of which bundles are one layer, and what they are called in the merged graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, GraphTables, data_sha256, load_tables
from stgraph.graph.plain import column, numbers
from stgraph.graph.schema import EdgeType
from stgraph.roads.network import ROAD
from stgraph.sources.merge.unite import BOOKKEEPING, alike, known

ROADS = ("junction", "segment", "traffic_signal", "restriction")
"""Node types of a road network: they are one layer, or not, together."""
WEATHER = "weather"
_WEATHER = re.compile(r"temp|wind|rain|precip|humid|pressure|snow|visib|dew|cloud|gust|solar|radiation", re.IGNORECASE)
_SAMPLE = 2000  # shared ids that are compared


@dataclass
class Bundle:
    """One bundle to merge.

    Args:
        name: Unique among those merged.
        tables: What is in it.
        digest: Hash of its data; empty for a graph in memory.
    """

    name: str
    tables: GraphTables
    digest: str = ""

    @property
    def has_roads(self) -> bool:
        """Whether it holds a road network."""
        return ROAD in self.tables.edges and {"junction", "segment"} <= set(self.tables.nodes) and \
            len(self.tables.edges[ROAD]) == len(self.tables.nodes["segment"])


@dataclass
class Group:
    """Node types of one or several bundles that are one layer.

    Args:
        family: What the type is called in the bundles.
        members: Positions of the bundles.
        kind: What it is called in the merged graph.
        prefix: Put before ids; empty where they are kept.
    """

    family: str
    members: list[int]
    kind: str = ""
    prefix: str = ""


@dataclass
class Layers:
    """All layers of a merged graph.

    Args:
        bundles: The bundles, in an order of their own.
        groups: The layers.
        notes: What a reader should know.
    """

    bundles: list[Bundle]
    groups: list[Group]
    notes: list[str] = field(default_factory=list)

    def group(self, bundle: int, family: str) -> Group:
        """The layer of a node type of a bundle."""
        return next(group for group in self.groups if group.family == family and bundle in group.members)

    def of_kind(self, kind: str) -> list[Group]:
        """The layers that make up a node type of the merged graph."""
        return [group for group in self.groups if group.kind == kind]

    def kind_of(self, bundle: int, edge: EdgeType) -> EdgeType:
        """An edge type of a bundle in the merged graph."""
        return self.group(bundle, edge[0]).kind, edge[1], self.group(bundle, edge[2]).kind


def open_bundles(sources: Sequence[Path | str | DynamicHeteroGraph | GraphTables], weather: Sequence[str],
                 names: Sequence[str] | None = None) -> tuple[list[Bundle], list[str]]:
    """The bundles in an order that does not depend on the one given: roads first, then by size and name.

    Args:
        sources: Paths of bundles, or graphs.
        weather: Names of bundles whose sensors are weather stations.
        names: What to call them; by default as their files, or their metadata, are called.

    Returns:
        The bundles, and notes on what was taken for weather.

    Raises:
        InputError: where two have one name, or a name is not known.
    """
    found = []
    for place, source in enumerate(sources):
        if isinstance(source, (str, Path)):
            tables, name, digest = load_tables(source), Path(source).stem, data_sha256(source)
        else:
            tables = source if isinstance(source, GraphTables) else GraphTables.of_graph(source)
            name, digest = str(tables.metadata.get("name") or f"graph-{place + 1}"), ""
        name = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9.-]", "_", names[place] if names is not None else name))
        found.append(Bundle(name.strip("_.") or f"graph-{place + 1}", _copy(tables), digest))
    called = [bundle.name for bundle in found]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise InputError("two bundles have one name", field="bundles", value=twice[0],
                         remedy="rename the folder of one of them")
    for name in weather:
        if name not in called:
            raise InputError("no bundle has this name", field="weather", value=name,
                             remedy=f"choose among {', '.join(called)}")
    notes = [note for bundle in found if (note := _name_weather(bundle, bundle.name in weather, len(found) > 1))]
    found.sort(key=lambda one: (not one.has_roads, -sum(map(len, one.tables.nodes.values())), one.name))
    return found, notes


def _copy(tables: GraphTables) -> GraphTables:
    return GraphTables({kind: _plain_lists(table) for kind, table in tables.nodes.items()},
                       {kind: _plain_lists(table) for kind, table in tables.edges.items()}, dict(tables.metadata),
                       tables.time,
                       {kind: dict(found) for kind, found in tables.signals.items()}, dict(tables.tables),
                       tables.schema.copy())


def _plain_lists(table: pa.Table) -> pa.Table:
    """Parquet calls what is in a list by another name than pyarrow does; that would tell equal columns apart."""
    for place, name in enumerate(table.column_names):
        if pa.types.is_fixed_size_list(table[name].type):
            values = numbers(table[name])
            table = table.set_column(place, name, column(values))
    return table


def _name_weather(bundle: Bundle, said: bool, several: bool) -> str | None:
    """Call sensors weather stations where that was said, or all that they measure is weather."""
    tables = bundle.tables
    channels = [channel for signal in tables.signals.get("sensor", {}).values() for channel in signal.channels]
    measured = bool(channels) and all(channel.quantity == "temperature" or _WEATHER.search(channel.name)
                                      for channel in channels)
    if "sensor" not in tables.nodes or WEATHER in tables.nodes or not several or not (said or measured):
        return None
    tables.nodes = {WEATHER if kind == "sensor" else kind: table for kind, table in tables.nodes.items()}
    tables.signals = {WEATHER if kind == "sensor" else kind: found for kind, found in tables.signals.items()}

    def renamed(edge: EdgeType) -> EdgeType:
        return (WEATHER if edge[0] == "sensor" else edge[0], edge[1], WEATHER if edge[2] == "sensor" else edge[2])

    tables.edges = {renamed(edge): table for edge, table in tables.edges.items()}
    schema = type(tables.schema)()
    for kind, attributes in tables.schema.items():
        called = renamed(kind) if not isinstance(kind, str) else WEATHER if kind == "sensor" else kind
        schema.of(called).update(attributes)
    tables.schema = schema
    return None if said else (f"the sensors of {bundle.name} are taken for weather stations: they measure "
                              f"{', '.join(dict.fromkeys(channel.name for channel in channels))}")


# ---------------------------------------------------------------- which types are one layer
def find_layers(bundles: list[Bundle], notes: list[str]) -> Layers:
    """Decide by the rules of :mod:`stgraph.sources.merge`.

    Raises:
        InputError: where road networks in degrees and in plain metres meet.
    """
    verdicts = {(i, j): _verdicts(bundles[i], bundles[j]) for j in range(len(bundles)) for i in range(j)}
    families = list(dict.fromkeys(kind for bundle in bundles for kind in bundle.tables.nodes))
    layers = Layers(bundles, [], list(notes))
    for family in families:
        layers.groups += _groups(family, bundles, verdicts)
    for family in families:
        _name_groups(family, layers)
    return layers


def _verdicts(one: Bundle, other: Bundle) -> dict[str, bool]:
    """For each type that two bundles both have, whether it is one layer."""
    common = [kind for kind in one.tables.nodes if kind in other.tables.nodes]
    found: dict[str, bool | None] = {kind: _same_layer(one, other, kind) for kind in common}
    roads = [found[kind] for kind in ROADS if found.get(kind) is not None]
    if any(kind in found for kind in ROADS):
        for kind in ROADS:
            if kind in found:
                found[kind] = any(bool(one) for one in roads)
    while open_kinds := [kind for kind, verdict in found.items() if verdict is None]:
        changed = False
        for kind in open_kinds:  # nothing to tell by: as the types that it is joined to
            beside = [found[end] for edge in one.tables.edges for end in (edge[0], edge[2])
                      if kind in (edge[0], edge[2]) and found.get(end) is not None]
            if beside:
                found[kind], changed = any(bool(verdict) for verdict in beside), True
        if not changed:
            for kind in open_kinds:
                both = set(one.tables.signals.get(kind, {})) & set(other.tables.signals.get(kind, {}))
                found[kind] = not both
    return {kind: bool(verdict) for kind, verdict in found.items()}


def _same_layer(one: Bundle, other: Bundle, kind: str) -> bool | None:
    """Whether shared ids mean the same nodes: by their places, else by their other attributes; None: cannot be told."""
    tables = [bundle.tables.nodes[kind] for bundle in (one, other)]
    if any("node_id" not in table.column_names for table in tables):
        return False
    place = pc.index_in(tables[0]["node_id"], pc.unique(tables[1]["node_id"]))
    shared = np.flatnonzero(np.asarray(pc.is_valid(place)))
    if not len(shared):
        return False
    shared = shared[np.unique(np.linspace(0, len(shared) - 1, min(len(shared), _SAMPLE)).astype(int))]
    twin = np.asarray(pc.index_in(tables[0]["node_id"].take(pa.array(shared)), tables[1]["node_id"]))
    common = [name for name in tables[0].column_names if name in tables[1].column_names and
              name not in ("node_id", *BOOKKEEPING)]
    places = [name for name in ("lonlat", "pos") if name in common]
    for judges in (places, [name for name in common if name not in places]):
        agree, told = np.ones(len(shared), bool), np.zeros(len(shared), bool)
        for name in judges:
            both = tables[0][name].take(pa.array(shared)), tables[1][name].take(pa.array(twin))
            told |= known(both[0]) & known(both[1])
            agree &= alike(name, *both)
        if told.any():
            return bool(agree[told].mean() > 0.5)
    return None


def _groups(family: str, bundles: list[Bundle], verdicts: dict[tuple[int, int], dict[str, bool]]) -> list[Group]:
    """Bundles whose type is one layer, directly or through others."""
    members = [place for place, bundle in enumerate(bundles) if family in bundle.tables.nodes]
    root = {place: place for place in members}
    for (i, j), found in verdicts.items():
        if found.get(family):
            low, high = sorted((root[i], root[j]))
            root = {place: low if one == high else one for place, one in root.items()}
    return [Group(family, [place for place in members if root[place] == first])
            for first in dict.fromkeys(root[place] for place in members)]


# ---------------------------------------------------------------- names
def _name_groups(family: str, layers: Layers) -> None:
    """One type where all layers have the same form; otherwise each form is a type of its own, named by bundles."""
    groups = [group for group in layers.groups if group.family == family]
    forms: dict[Any, list[Group]] = {}
    for group in groups:
        forms.setdefault(_form(group, layers.bundles), []).append(group)
    for alike_groups in forms.values():
        suffix = "-".join(_called(group, layers.bundles) for group in alike_groups)
        for group in alike_groups:
            group.kind = family if len(forms) == 1 else f"{family}_{suffix}"
        if len(alike_groups) > 1:
            _prefix(alike_groups, layers)
    if len(forms) > 1:
        layers.notes.append(f"{family} is of several kinds and kept apart: " + ", ".join(
            dict.fromkeys(group.kind for group in groups)))


def _called(group: Group, bundles: list[Bundle]) -> str:
    return min(bundles[place].name for place in group.members)


def _form(group: Group, bundles: list[Bundle]) -> Any:
    """What two layers must have in common to be one type: of roads the kind of places, of others all columns and
    channels."""
    tables = [bundles[place].tables for place in group.members]
    columns = {(name, _word(table.nodes[group.family][name].type)) for table in tables
               for name in table.nodes[group.family].column_names if name not in BOOKKEEPING}
    if group.family in ROADS:
        metric = any(name == "pos" for name, _ in columns)
        degrees = any(name == "lonlat" for name, _ in columns)
        if group.family in ("junction", "segment"):
            return (metric, degrees)
        return None
    channels = {(name, channel.name, channel.quantity) for table in tables
                for name, signal in table.signals.get(group.family, {}).items() for channel in signal.channels}
    return frozenset(columns), frozenset(channels)


def _word(kind: pa.DataType) -> str:
    return "words" if pa.types.is_dictionary(kind) else str(kind)


def _prefix(groups: list[Group], layers: Layers) -> None:
    """Where ids of two layers of one type collide, all ids of those layers get the name of a bundle before them."""
    ids = [pa.chunked_array([chunk for place in group.members
                             if "node_id" in layers.bundles[place].tables.nodes[group.family].column_names
                             for chunk in layers.bundles[place].tables.nodes[group.family]["node_id"].chunks],
                            pa.string()) for group in groups]
    for i, group in enumerate(groups):
        if any(i != j and pc.any(pc.is_in(ids[i], pc.unique(ids[j]))).as_py() for j in range(len(groups))):
            group.prefix = f"{_called(group, layers.bundles)}/"
            layers.notes.append(f"ids of {group.family} collide: those of {_called(group, layers.bundles)} begin with "
                                f"{group.prefix}")


def check_roads(layers: Layers) -> None:
    """Refuse roads that cannot be put together.

    Raises:
        InputError: where degrees and plain metres meet, or a bundle without the roads has segments that they lack.
    """
    if not any(bundle.has_roads for bundle in layers.bundles):
        return
    if len({group.kind for group in layers.groups if group.family == "segment"}) > 1:
        raise InputError("road networks in degrees and in plain metres cannot be in one graph", field="segment",
                         value=", ".join(group.kind for group in layers.groups if group.family == "segment"),
                         remedy="give the plain one its reference system with stgraph build roads --crs")
    for group in layers.groups:
        roads = [place for place in group.members if layers.bundles[place].has_roads]
        if group.family != "segment":
            continue
        if not roads:
            name = _called(group, layers.bundles)
            raise InputError("there are segments whose roads are not there", file=name, field="segment",
                             remedy=f"merge the roads that {name} was built on too")
        known = pc.unique(pa.chunked_array([chunk for place in roads for chunk in
                                            layers.bundles[place].tables.nodes["segment"]["node_id"].chunks]))
        for place in group.members:
            ids = layers.bundles[place].tables.nodes["segment"]["node_id"]
            strange = ids.filter(pc.invert(pc.is_in(ids, known)))
            if len(strange):
                raise InputError(f"{len(strange)} segments are not among the roads", file=layers.bundles[place].name,
                                 field="segment.node_id", value=strange[0].as_py(),
                                 remedy=f"build it on the roads of {layers.bundles[roads[0]].name}")
