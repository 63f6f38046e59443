"""To and from other libraries: PyG, networkx, GeoPandas, scipy, and DGL where it can be imported.

Attributes, ids, time axis, schema and provenance go there and back; signals stay with the graph they belong to,
since none of these libraries knows series beside a graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from stgraph.errors import InputError
from stgraph.graph.dynamic import DynamicHeteroGraph
from stgraph.graph.geometry import Geometry
from stgraph.graph.schema import GEOMETRY, Attribute, EdgeType, GraphType, Schema, edge_type, label, torch_dtype
from stgraph.graph.time import TimeAxis

if TYPE_CHECKING:
    import geopandas
    import networkx
    import scipy.sparse

_HEADER = "stgraph"  # where networkx and GeoPandas carry time axis, schema and provenance


# ---------------------------------------------------------------- PyG
def to_pyg(graph: DynamicHeteroGraph) -> HeteroData:
    """A plain ``HeteroData`` that shares the attributes."""
    return HeteroData.from_dict(graph.to_dict())


def from_pyg(data: HeteroData) -> DynamicHeteroGraph:
    """A graph that shares the attributes of a ``HeteroData``; declare units and add signals afterwards."""
    return DynamicHeteroGraph.from_dict(data.to_dict())


# ---------------------------------------------------------------- networkx
def to_networkx(graph: DynamicHeteroGraph) -> networkx.MultiDiGraph:
    """A directed multigraph: nodes ``(type, id)``, edges keyed ``(relation, position)``, attributes as plain values.

    The id is the user's, or the position where there is none.
    """
    import networkx

    out: networkx.MultiDiGraph[tuple[str, Any]] = networkx.MultiDiGraph()
    out.graph[_HEADER] = _header(graph)
    keys = {kind: [(kind, one) for one in _ids(graph, kind)] for kind in graph.node_types}
    for kind, names in keys.items():
        out.add_nodes_from(zip(names, _records(graph, kind), strict=True))
    for kind in graph.edge_types:
        sources, destinations = graph[kind].edge_index.tolist()
        for position, (source, destination, record) in enumerate(
                zip(sources, destinations, _records(graph, kind), strict=True)):
            out.add_edge(keys[kind[0]][source], keys[kind[2]][destination], key=(kind[1], position), **record)
    return out


def from_networkx(source: networkx.Graph) -> DynamicHeteroGraph:
    """A graph from networkx: one of ours, or any other.

    Node keys ``(type, id)`` name the type; other keys become ids of type ``node``. Edge keys ``(relation, position)``
    name the relation; other edges are ``near``. An undirected edge becomes two directed ones. Attributes must be
    there for every node or edge of a type, as numbers, lists of numbers, or texts.

    Raises:
        InputError: for an attribute that is missing somewhere, or is neither number nor text.
    """
    header = source.graph.get(_HEADER)
    nodes: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (header or {}).get("counts", {})}
    place: dict[Hashable, tuple[str, int]] = {}
    for key, record in source.nodes(data=True):
        kind, name = _node_key(key)
        records = nodes.setdefault(kind, [])
        place[key] = kind, len(records)
        records.append({"node_id": str(name), **record} if header is None else record)
    edges: dict[EdgeType, list[tuple[int, int, int, dict[str, Any]]]] = {}
    for one, other, key, record in _edges(source):
        ours = isinstance(key, tuple) and len(key) == 2 and isinstance(key[1], int)
        relation, position = key if ours else ("near", 0)
        directions = [(one, other)] if source.is_directed() or one == other else [(one, other), (other, one)]
        for start, end in directions:
            edges.setdefault((place[start][0], str(relation), place[end][0]), []).append(
                (int(position), place[start][1], place[end][1], record))
    graph = _begin(header)
    for kind, records in nodes.items():
        _fill(graph, kind, _columns(kind, records), len(records))
    for relation_type in dict.fromkeys([*(kind for kind in graph.schema.edges), *edges]):
        found = sorted(edges.get(relation_type, []), key=lambda entry: entry[0])  # stable: others keep their order
        _fill(graph, relation_type, _columns(relation_type, [entry[3] for entry in found]), len(found),
              [[entry[1] for entry in found], [entry[2] for entry in found]])
    return graph


def _node_key(key: Hashable) -> tuple[str, Any]:
    return key if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) else ("node", key)


def _edges(source: Any) -> Iterator[tuple[Hashable, Hashable, Any, dict[str, Any]]]:
    if source.is_multigraph():
        return iter(source.edges(keys=True, data=True))
    return ((one, other, None, record) for one, other, record in source.edges(data=True))


# ---------------------------------------------------------------- GeoPandas
def to_geopandas(graph: DynamicHeteroGraph) -> dict[GraphType, geopandas.GeoDataFrame]:
    """One table per type in EPSG:4326: nodes as points, edges as straight lines between their ends.

    Tables of edges have the columns ``source`` and ``target`` with ids. Geometry is empty where a place is unknown.
    """
    import geopandas
    import shapely

    out: dict[GraphType, geopandas.GeoDataFrame] = {}
    header = _header(graph)
    places: dict[str, np.ndarray] = {}
    for kind in graph.node_types:
        store = graph[kind]
        unknown = torch.full((graph.size_of(kind), 2), float("nan"), dtype=torch.float64)
        places[kind] = (store.lonlat if "lonlat" in store else unknown).cpu().numpy()
        known = np.isfinite(places[kind]).all(1)
        points = np.full(len(known), None, dtype=object)
        points[known] = shapely.points(places[kind][known])
        if "geometry" in store and isinstance(store.geometry, Geometry):
            points = store.geometry.shapely()
        columns = {name: values for name, values in _plain(graph, kind).items() if name not in ("lonlat", "geometry")}
        if "lonlat" in store and points is not None and "geometry" in store:
            columns["lonlat"] = places[kind].tolist()
        out[kind] = geopandas.GeoDataFrame(columns, index=range(len(known)), geometry=points, crs="EPSG:4326")
    for kind in graph.edge_types:
        sources, destinations = graph[kind].edge_index.cpu().numpy()
        ends = np.stack([places[kind[0]][sources], places[kind[2]][destinations]], axis=1)
        known = np.isfinite(ends).all((1, 2))
        lines = np.full(len(known), None, dtype=object)
        lines[known] = shapely.linestrings(ends[known])
        columns = {"source": np.asarray(_ids(graph, kind[0]), dtype=object)[sources],
                   "target": np.asarray(_ids(graph, kind[2]), dtype=object)[destinations], **_plain(graph, kind)}
        out[kind] = geopandas.GeoDataFrame(columns, index=range(len(known)), geometry=lines, crs="EPSG:4326")
    for table in out.values():
        table.attrs[_HEADER] = header
    return out


def from_geopandas(tables: Mapping[GraphType, geopandas.GeoDataFrame]) -> DynamicHeteroGraph:
    """A graph from tables: node types are texts, edge types triples, as :func:`to_geopandas` makes them.

    Tables of nodes may have a ``node_id`` column (otherwise the index is the id); their points, brought to EPSG:4326,
    become ``lonlat``. Tables of edges have ``source`` and ``target`` with ids. Other columns become attributes.

    Raises:
        InputError: for an end of an edge that is no node, a geometry that is no point, or a column that is neither
            numbers nor texts.
    """
    header = next((table.attrs[_HEADER] for table in tables.values() if _HEADER in table.attrs), None)
    graph = _begin(header)
    positions: dict[str, dict[Any, int]] = {}
    for kind, table in tables.items():
        if not isinstance(kind, str):
            continue
        columns = {name: list(table[name]) for name in table.columns if name != table.geometry.name}
        if header is None:
            columns.setdefault("node_id", [str(one) for one in table.index])
        if "geometry" in graph.schema.of(kind):
            columns["geometry"] = list(table.geometry)
        elif header is None or "lonlat" in graph.schema.of(kind):
            columns["lonlat"] = _lonlat(kind, table)
        _fill(graph, kind, columns, len(table))
        positions[kind] = {one: position for position, one in enumerate(_ids(graph, kind))}
    for kind, table in tables.items():
        if isinstance(kind, str):
            continue
        ends: list[list[int]] = []
        for column, node_type in (("source", kind[0]), ("target", kind[2])):
            known = positions.get(node_type, {})
            lost = [one for one in table[column] if one not in known]
            if lost:
                raise InputError(f"{len(lost)} ends of edges are no node of type '{node_type}'",
                                 field=f"{label(kind)}.{column}", value=lost[0],
                                 remedy="add the nodes, or drop the edges")
            ends.append([known[one] for one in table[column]])
        columns = {name: list(table[name]) for name in table.columns
                   if name not in ("source", "target", table.geometry.name)}
        _fill(graph, kind, columns, len(table), ends)
    return graph


def _lonlat(kind: str, table: geopandas.GeoDataFrame) -> list[tuple[float, float]]:
    points = (table.to_crs("EPSG:4326") if table.crs is not None else table).geometry
    empty = points.isna() | points.is_empty
    wrong = points[~empty & (points.geom_type != "Point")]
    if len(wrong):
        raise InputError("places of nodes are points", field=f"{kind}.{table.geometry.name}",
                         value=wrong.geom_type.iloc[0], remedy="take representative points first")
    unknown = float("nan")
    return [(unknown, unknown) if none else (point.x, point.y) for point, none in zip(points, empty, strict=True)]


# ---------------------------------------------------------------- scipy
def to_scipy(graph: DynamicHeteroGraph, kind: EdgeType, weight: str | None = "edge_weight") -> scipy.sparse.coo_array:
    """The relation as a sparse matrix ``[sources, destinations]``, entries in the order of the edge list.

    Args:
        graph: The graph.
        kind: The relation.
        weight: Edge attribute ``[E]`` that gives the values; None, or an ``edge_weight`` that is not set: ones.

    Raises:
        InputError: where the graph has no such type or attribute.
    """
    import scipy.sparse

    shape = graph.size_of(kind[0]), graph.size_of(kind[2])
    graph.size_of(kind)
    store = graph[kind]
    index = store.edge_index.cpu().numpy()
    if weight is not None and weight not in store and weight != "edge_weight":
        raise InputError("the relation has no such attribute", field=f"{label(kind)}.{weight}",
                         remedy=f"choose among {', '.join(store.keys())}")
    values = np.ones(index.shape[1], np.float32) if weight is None or weight not in store else \
        store[weight].cpu().numpy()
    return scipy.sparse.coo_array((values, (index[0], index[1])), shape=shape)


def from_scipy(matrix: Any, node_type: str = "sensor", relation: str = "near",
               node_id: Sequence[str] | None = None) -> DynamicHeteroGraph:
    """A graph of one relation from a square matrix; entry ``[i, j]`` is the weight of the edge from ``i`` to ``j``.

    Args:
        matrix: Sparse or dense ``[N, N]``; stored entries become edges, zeros of a dense matrix do not.
        node_type: Name of the node type.
        relation: Name of the relation.
        node_id: Ids of the nodes; None for their positions.

    Raises:
        InputError: for a matrix that is not square, or another number of ids.
    """
    import scipy.sparse

    found = scipy.sparse.coo_array(matrix)
    size = found.shape[0]
    if found.shape != (size, size):
        raise InputError("an adjacency is square", field="matrix", value=found.shape, remedy="give it as [N, N]")
    ids = np.asarray(range(size) if node_id is None else node_id, dtype=str)
    if len(ids) != size:
        raise InputError("the matrix has another number of nodes than there are ids", field="node_id",
                         value=f"{size} nodes, {len(ids)} ids", remedy="give one id per row")
    graph = DynamicHeteroGraph()
    graph[node_type].node_id = ids
    store = graph[node_type, relation, node_type]
    store.edge_index = torch.from_numpy(np.stack([found.row, found.col]).astype(np.int64))
    store.edge_weight = torch.from_numpy(np.array(found.data))
    return graph


# ---------------------------------------------------------------- DGL
def to_dgl(graph: DynamicHeteroGraph) -> Any:
    """A ``dgl.heterograph`` with every tensor attribute; texts stay behind, DGL does not hold them.

    Raises:
        InputError: where DGL cannot be imported.
    """
    dgl = _import_dgl()
    out = dgl.heterograph(
        {kind: tuple(graph[kind].edge_index) for kind in graph.edge_types},
        num_nodes_dict={kind: graph.size_of(kind) for kind in graph.node_types})
    for kind in (*graph.node_types, *graph.edge_types):
        frame = out.nodes[kind].data if isinstance(kind, str) else out.edges[kind].data
        for name, value in graph[kind].items():
            if isinstance(value, Tensor) and name != "edge_index":
                frame[name] = value
    return out


def _import_dgl() -> Any:
    try:
        import dgl
    except Exception as error:  # its binary parts fail with FileNotFoundError, AttributeError and others
        raise InputError(f"DGL cannot be imported: {type(error).__name__}: {error}", field="to_dgl",
                         remedy="install a DGL that was built for your torch (2.1.0 needs torch 2.0 to 2.2), "
                                "or use to_pyg()") from error
    return dgl


# ---------------------------------------------------------------- plain values and back
def _header(graph: DynamicHeteroGraph) -> dict[str, Any]:
    schema = graph.complete_schema()
    return {"time": None if graph.time is None else graph.time.to_dict(), "schema": schema.to_dict(),
            "metadata": dict(graph.metadata), "counts": {kind: graph.size_of(kind) for kind in graph.node_types}}


def _begin(header: dict[str, Any] | None) -> DynamicHeteroGraph:
    graph = DynamicHeteroGraph()
    if header is not None:
        graph.schema = Schema.from_dict(header["schema"])
        graph.metadata = header["metadata"]
        graph.time = None if header["time"] is None else TimeAxis.from_dict(header["time"])
    return graph


def _ids(graph: DynamicHeteroGraph, kind: str) -> list[Any]:
    store = graph[kind]
    return store.node_id.tolist() if "node_id" in store else list(range(graph.size_of(kind)))


def _plain(graph: DynamicHeteroGraph, kind: GraphType) -> dict[str, list[Any]]:
    """Attributes of a type as lists of plain values, one entry per node or edge."""
    return {name: list(value.shapely()) if isinstance(value, Geometry) else value.tolist()
            for name, value in graph._store(kind).items() if name not in ("edge_index", "num_nodes")}


def _records(graph: DynamicHeteroGraph, kind: GraphType) -> list[dict[str, Any]]:
    columns = _plain(graph, kind)
    return [{name: values[i] for name, values in columns.items()} for i in range(graph.size_of(kind))]


def _columns(kind: GraphType, records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for record in records for name in record))
    for name in names:
        lost = sum(name not in record for record in records)
        if lost:
            raise InputError("an attribute is missing", field=f"{label(kind)}.{name}",
                             value=f"missing in {lost} of {len(records)}", remedy="set it everywhere or nowhere")
    return {name: [record[name] for record in records] for name in names}


def _fill(graph: DynamicHeteroGraph, kind: GraphType, columns: Mapping[str, Sequence[Any]], size: int,
          ends: list[list[int]] | None = None) -> None:
    """Set the attributes of a type from lists, in the types that the schema declares."""
    store = graph.get_node_store(kind) if isinstance(kind, str) else graph.get_edge_store(*edge_type(kind))
    declared = graph.schema.of(kind)
    if ends is not None:
        store["edge_index"] = torch.tensor(ends, dtype=torch.int64).reshape(2, size)
    for name in dict.fromkeys([*(one for one in declared if one != "edge_index"), *columns]):
        if name in columns or not size:
            store[name] = _values(f"{label(kind)}.{name}", columns.get(name, ()), declared.get(name))
    if isinstance(kind, str) and not store.can_infer_num_nodes:
        store["num_nodes"] = size


def _values(field: str, values: Sequence[Any], declared: Attribute | None) -> Any:
    if declared is not None and declared.dtype == GEOMETRY:
        return Geometry.from_shapely(values)
    if declared is not None and len(values) == 0:
        shape = (0, *(int(one) for one in declared.shape[1:]))
        if declared.dtype == "str":
            return np.zeros(shape, "U1")
        return torch.zeros(shape, dtype=torch_dtype(declared.dtype))
    try:
        found = np.asarray(values, dtype=None if declared is None else declared.dtype)
        if found.dtype.kind == "U" and found.ndim == 1 and not all(isinstance(one, str) for one in values):
            raise TypeError("some are texts and some are not")
        return found if found.dtype.kind == "U" else torch.from_numpy(found)
    except (TypeError, ValueError) as error:
        raise InputError("an attribute is neither numbers nor texts", field=field, value=values[0],
                         remedy="convert it, or drop it") from error
