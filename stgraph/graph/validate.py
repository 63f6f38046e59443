"""The promises of a graph, checked: every fault names the field and the remedy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph.geometry import Geometry
from stgraph.graph.schema import EdgeType, GraphType, check_name, label
from stgraph.graph.signal import Signal
from stgraph.graph.snapshot import lives

if TYPE_CHECKING:
    from stgraph.graph.dynamic import DynamicHeteroGraph

_BLOCK = 4_000_000  # entries of a signal looked at in one go


def check(graph: DynamicHeteroGraph) -> None:
    """Check names, sizes, data types, places, lives, signals, schema and provenance; complete the schema.

    Raises:
        InputError: for the first fault found.
    """
    for kind in graph.node_types:
        check_name(kind, "node type")
    for edge_kind in graph.edge_types:
        _check_edge_type(graph, edge_kind)
    for kind in (*graph.node_types, *graph.edge_types):
        _check_attributes(graph, kind)
    for kind in graph.node_types:
        _check_nodes(graph, kind)
    for kind in (*graph.node_types, *graph.edge_types):
        _check_lives(graph, kind)
    for kind, found in graph._signals.items():
        for name, signal in found.items():
            _check_signal(graph, kind, name, signal)
    graph.complete_schema()
    check_plain(graph.metadata, "metadata")


def check_plain(value: dict[str, Any], field: str) -> None:
    """Refuse a dictionary that JSON cannot hold.

    Raises:
        InputError: naming the first key at fault.
    """
    for key, entry in value.items():
        try:
            json.dumps({key: entry}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"not a plain value for JSON: {error}", field=f"{field}.{key}", value=entry,
                             remedy="use texts, finite numbers, booleans, lists and dictionaries") from error


def _check_edge_type(graph: DynamicHeteroGraph, kind: EdgeType) -> None:
    source, relation, destination = kind
    check_name(relation, "relation")
    for node_type in (source, destination):
        if node_type not in graph._node_store_dict:
            raise InputError("an edge type names a node type that does not exist", field=label(kind), value=node_type,
                             remedy=f"add nodes of type '{node_type}', or remove the relation")
    store = graph._edge_store_dict[kind]
    index = store.get("edge_index")
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.dim() != 2 or index.shape[0] != 2:
        found = f"{index.dtype} {list(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise InputError("an edge index is an int64 tensor [2, E]", field=f"{label(kind)}.edge_index", value=found,
                         remedy="give sources in its first and destinations in its second row")
    for side, node_type, name in ((0, source, "source"), (1, destination, "destination")):
        size, ends = graph.size_of(node_type), index[side]
        wrong = ((ends < 0) | (ends >= size)).nonzero().squeeze(1)
        if len(wrong):
            edge = int(wrong[0])
            raise InputError(f"a {name} is not a node: '{node_type}' has {size}", field=f"{label(kind)}.edge_index",
                             value=f"{int(ends[edge])} at edge {edge}, {len(wrong)} in all",
                             remedy=f"positions run from 0 to {size - 1}")


def _check_attributes(graph: DynamicHeteroGraph, kind: GraphType) -> None:
    size = graph.size_of(kind)
    for name, value in graph._store(kind).items():
        check_name(name, "attribute")
        if name in ("edge_index", "num_nodes") or not isinstance(value, (Tensor, np.ndarray, Geometry)):
            continue
        if value.ndim and value.shape[0] != size:
            raise InputError(f"an attribute has one entry per {'node' if isinstance(kind, str) else 'edge'}",
                             field=f"{label(kind)}.{name}", value=list(value.shape), remedy=f"give {size} entries")


def _check_nodes(graph: DynamicHeteroGraph, kind: str) -> None:
    store = graph._node_store_dict[kind]
    if "node_id" in store:
        ids = store.node_id
        if not isinstance(ids, np.ndarray) or ids.dtype.kind != "U" or ids.ndim != 1:
            raise InputError("ids are a numpy array [N] of str", field=f"{kind}.node_id",
                             value=getattr(ids, "dtype", type(ids).__name__),
                             remedy="use numpy.asarray(ids, dtype=str)")
        known, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise InputError(f"{int((counts > 1).sum())} ids belong to more than one node", field=f"{kind}.node_id",
                             value=known[counts > 1][0], remedy="give every node its own id")
    if "lonlat" in store:
        check_lonlat(store.lonlat, f"{kind}.lonlat")
    if "pos" in store and isinstance(store.pos, Tensor) and torch.isinf(store.pos).any():
        raise InputError("a place is infinite", field=f"{kind}.pos", remedy="use NaN for a place that is not known")


def check_lonlat(lonlat: Any, field: str) -> None:
    """Refuse coordinates that are no longitude and latitude ``[N, 2]`` in degrees; NaN is an unknown place.

    Raises:
        InputError: for another shape or type, half a place, and values out of range, which are often swapped columns.
    """
    if not isinstance(lonlat, Tensor) or lonlat.dtype != torch.float64 or lonlat.dim() != 2 or lonlat.shape[1] != 2:
        found = f"{lonlat.dtype} {list(lonlat.shape)}" if isinstance(lonlat, Tensor) else type(lonlat).__name__
        raise InputError("places are a float64 tensor [N, 2] of longitude and latitude", field=field, value=found,
                         remedy="give degrees, longitude first")
    known = ~torch.isnan(lonlat)
    half = (known[:, 0] != known[:, 1]).nonzero().squeeze(1)
    if len(half):
        raise InputError("a place has one coordinate and not the other", field=field,
                         value=f"{lonlat[half[0]].tolist()} at node {int(half[0])}",
                         remedy="give both, or NaN for both where the place is not known")
    size = lonlat.abs()
    wrong = (known[:, 0] & ((size[:, 0] > 180) | (size[:, 1] > 90))).nonzero().squeeze(1)
    if len(wrong):
        first = lonlat[wrong[0]]
        swapped = abs(float(first[0])) <= 90 and abs(float(first[1])) <= 180
        remedy = "longitude comes first: swap the columns" if swapped else \
            "give degrees, WGS 84: longitude within 180, latitude within 90"
        raise InputError("coordinates are out of range", field=field,
                         value=f"{first.tolist()} at node {int(wrong[0])}, {len(wrong)} in all", remedy=remedy)


def _check_lives(graph: DynamicHeteroGraph, kind: GraphType) -> None:
    store = graph._store(kind)
    for name in ("valid_from", "valid_to"):
        value = store.get(name)
        if value is not None and (not isinstance(value, Tensor) or value.dtype != torch.int64 or value.dim() != 1):
            raise InputError("times are an int64 tensor of seconds, UTC", field=f"{label(kind)}.{name}",
                             value=getattr(value, "dtype", type(value).__name__),
                             remedy="convert them; OPEN_START and OPEN_END stand for always")
    if "valid_from" in store and "valid_to" in store:
        wrong = (store.valid_from >= store.valid_to).nonzero().squeeze(1)
        if len(wrong):
            first = int(wrong[0])
            raise InputError(f"a life ends before it starts, {len(wrong)} in all", field=f"{label(kind)}.valid_from",
                             value=f"[{int(store.valid_from[first])}, {int(store.valid_to[first])}) at {first}",
                             remedy="the interval is [valid_from, valid_to)")
    life = None if isinstance(kind, str) else lives(graph, kind)
    if life is not None:
        never = (life[0] >= life[1]).nonzero().squeeze(1)
        if len(never):
            first = int(never[0])
            ends = [int(end) for end in store.edge_index[:, first]]
            raise InputError(f"an edge lives only while both its ends do, and these never do, {len(never)} in all",
                             field=f"{label(kind)}.valid_from", value=f"edge {first} from {ends[0]} to {ends[1]}",
                             remedy="mend the intervals of the edge or its ends, or remove the edge")


def _check_signal(graph: DynamicHeteroGraph, kind: GraphType, name: str, signal: Signal) -> None:
    field = f"{label(kind)}.{name}"
    check_name(name, "signal")
    if graph.time is None:
        raise InputError("a signal needs a time axis", field="time", remedy="set graph.time")
    graph._check_type(kind)
    if signal.shape[:2] != (graph.time.length, graph.size_of(kind)):
        raise InputError("the signal has another number of steps or places than the graph", field=field,
                         value=signal.shape,
                         remedy=f"give it as [{graph.time.length}, {graph.size_of(kind)}, channels]")
    if np.dtype(signal.values.dtype).kind != "f":
        raise InputError("values of a signal are floats", field=f"{field}.values", value=signal.values.dtype,
                         remedy="convert them to float32")
    if signal.mask is not None and np.dtype(signal.mask.dtype) != np.bool_:
        raise InputError("a mask is boolean, True where observed", field=f"{field}.mask", value=signal.mask.dtype,
                         remedy="convert it to bool")
    if len(set(signal.channel_names)) < len(signal.channel_names):
        raise InputError("two channels have one name", field=f"{field}.channels", value=signal.channel_names,
                         remedy="give every channel its own name")
    rows = max(1, _BLOCK // max(1, signal.shape[1] * signal.shape[2]))
    for start in range(0, signal.shape[0], rows):
        values, mask = signal.read(start, min(start + rows, signal.shape[0]))
        wrong = np.argwhere(~np.isfinite(values) & mask)
        if len(wrong):
            row, place, channel = (int(one) for one in wrong[0])
            raise InputError("an observed value is not a finite number", field=f"{field}.values",
                             value=f"{values[row, place, channel]} at row {start + row}, place {place}, "
                                   f"channel {signal.channel_names[channel]}",
                             remedy="store 0 there and set the mask to False")
