"""The one graph type: PyG's ``HeteroData`` with a typed schema, a time axis, signals, and lives of nodes and edges."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import ReferenceType, ref

import numpy as np
from torch import Tensor
from torch_geometric.data import HeteroData

from stgraph.errors import InputError
from stgraph.graph.csr import CSR, build_csr
from stgraph.graph.geometry import Geometry
from stgraph.graph.schema import Attribute, EdgeType, GraphType, Schema, check_unit, infer, label
from stgraph.graph.signal import Signal
from stgraph.graph.time import TimeAxis

if TYPE_CHECKING:
    import geopandas
    import networkx
    import pyarrow as pa
    import scipy.sparse


class Provenance(dict[str, Any]):
    """Where a graph comes from, as plain values for JSON.

    PyG asks a graph for its types by calling ``graph.metadata()``; so that its samplers work, calling this dictionary
    gives ``(node types, edge types)``.
    """

    owner: ReferenceType[HeteroData] | None = None

    def __call__(self) -> tuple[list[str], list[EdgeType]]:
        graph = self.owner() if self.owner is not None else None
        return ([], []) if graph is None else (graph.node_types, graph.edge_types)

    def __reduce__(self) -> tuple[Any, ...]:
        return Provenance, (dict(self),)  # the way back to the graph is set again by the graph


class DynamicHeteroGraph(HeteroData):
    """A heterogeneous graph that lives in time.

    Node types are texts, edge types triples ``(source, relation, destination)``; their attributes are those of PyG:
    ``graph["sensor"].node_id`` ``[N]`` numpy str, ``.lonlat`` ``[N, 2]`` float64 degrees,
    ``graph["sensor", "near", "sensor"].edge_index`` ``[2, E]`` int64, ``.edge_weight`` ``[E]``. ``valid_from`` and
    ``valid_to`` ``[N]`` or ``[E]`` int64, seconds UTC, say when a node or edge lives, ``[from, to)``; absent means
    always. Series of a type are signals ``[T, N, C]`` on :attr:`time`.

    Signals stay on the host and with their graph: ``to(device)`` moves attributes, and a PyG batch of several graphs
    holds their nodes, edges and attributes, not their signals.

    Args:
        _mapping: Attributes per type, as for ``HeteroData``.
        time: The time axis of the signals.
        metadata: Where the graph comes from, plain values for JSON.
        **kwargs: Attributes per type, as for ``HeteroData``.

    Attributes:
        time: The time axis; None for a graph without signals.
        schema: Declared attributes of every type.
        tables: Loose Arrow tables that travel with the graph, in memory or as paths of Parquet files.
    """

    time: TimeAxis | None
    schema: Schema
    tables: dict[str, Any]

    def __init__(self, _mapping: dict[Any, Any] | None = None, time: TimeAxis | None = None,
                 metadata: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.__dict__.update(time=time, schema=Schema(), _signals={}, _csr={}, tables={},
                             _metadata=Provenance(metadata or {}))
        super().__init__(_mapping, **kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        if key in ("time", "schema", "metadata", "tables"):
            object.__setattr__(self, key, value)
        else:
            super().__setattr__(key, value)

    # ---------------------------------------------------------------- provenance
    @property
    def metadata(self) -> Provenance:
        """Name, sources with licences and attribution, build command, ``simulated``, notes: plain values for JSON."""
        found: Provenance = self.__dict__["_metadata"]
        found.owner = ref(self)
        return found

    @metadata.setter
    def metadata(self, value: dict[str, Any]) -> None:
        self.__dict__["_metadata"] = Provenance(value)

    @property
    def simulated(self) -> bool:
        """Whether the readings come from a simulation."""
        return bool(self.metadata.get("simulated", False))

    # ---------------------------------------------------------------- sizes
    def size_of(self, kind: GraphType) -> int:
        """Number of nodes or edges of a type.

        Raises:
            InputError: where the graph has no such type, or its number of nodes was never said.
        """
        self._check_type(kind)
        if not isinstance(kind, str):
            return int(self._edge_store_dict[kind].num_edges)
        store = self._node_store_dict[kind]
        if store.can_infer_num_nodes:
            return int(store.num_nodes)
        for value in store.values():
            if isinstance(value, (Tensor, np.ndarray, Geometry)) and value.ndim:
                return int(value.shape[0])
        raise InputError("the number of nodes is not known", field=kind, remedy=f"set graph['{kind}'].num_nodes")

    def _check_type(self, kind: GraphType) -> None:
        if kind not in self._node_store_dict and kind not in self._edge_store_dict:
            known = ", ".join(label(one) for one in (*self.node_types, *self.edge_types))
            raise InputError("the graph has no such type", field="type", value=kind,
                             remedy=f"choose among {known}" if known else "the graph is empty")

    # ---------------------------------------------------------------- signals
    def add_signal(self, kind: GraphType, name: str, signal: Signal) -> None:
        """Attach a signal to a node type, or to an edge type (weights per step).

        Args:
            kind: Node type, or edge type triple.
            name: Its name, unique within the type; a signal of this name is replaced.
            signal: ``[T, N, C]``, or ``[T, E, C]`` for an edge type.

        Raises:
            InputError: where the graph has no such type or no time axis, or the sizes do not fit.
        """
        if self.time is None:
            raise InputError("a signal needs a time axis", field="time", remedy="set graph.time first")
        expected = (self.time.length, self.size_of(kind))
        if signal.shape[:2] != expected:
            raise InputError("the signal has another number of steps or places than the graph",
                             field=f"{label(kind)}.{name}", value=signal.shape,
                             remedy=f"give it as [{expected[0]}, {expected[1]}, channels]")
        self._signals.setdefault(kind, {})[name] = signal

    def signal(self, kind: GraphType, name: str | None = None) -> Signal:
        """A signal of a type by name; without a name, its only one.

        Raises:
            InputError: where there is no such signal, or several to choose from.
        """
        found = self.signals(kind)
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name is None or name not in found:
            problem = "no such signal" if found and name is not None else \
                "several signals to choose from" if found else "the type has no signal"
            raise InputError(problem, field=label(kind), value=name,
                             remedy=f"choose among {', '.join(found)}" if found else "add one with add_signal")
        return found[name]

    def signals(self, kind: GraphType) -> dict[str, Signal]:
        """All signals of a type by name.

        Raises:
            InputError: where the graph has no such type.
        """
        self._check_type(kind)
        return dict(self._signals.get(kind, {}))

    # ---------------------------------------------------------------- schema
    def table(self, name: str) -> pa.Table:
        """A loose table by name.

        Raises:
            InputError: where there is no such table.
        """
        import pyarrow.parquet as pq

        if name not in self.tables:
            raise InputError("the graph has no such table", field="tables", value=name,
                             remedy=f"choose among {', '.join(self.tables)}" if self.tables else "it has none")
        found = self.tables[name]
        return pq.read_table(found) if isinstance(found, Path) else found

    def declare(self, kind: GraphType, attribute: str, unit: str | None = None, description: str = "",
                categories: Sequence[str] | None = None) -> Attribute:
        """Declare what an attribute is; its data type and shape are read off its present value.

        Args:
            kind: Node or edge type.
            attribute: Name of an attribute that is set.
            unit: SI unit of its values.
            description: What it means, in words.
            categories: The words that the codes of an ``int32`` attribute stand for.

        Returns:
            The declaration, as put into :attr:`schema`.

        Raises:
            InputError: where there is no such attribute, or the unit is not SI.
        """
        self._check_type(kind)
        store = self._store(kind)
        if attribute not in store:
            raise InputError("the attribute is not set", field=f"{label(kind)}.{attribute}",
                             remedy="assign it, then declare it")
        check_unit(unit)
        found = infer(attribute, store[attribute], self._letter(kind))
        if categories is not None and found.dtype != "int32":
            raise InputError("codes of words are int32", field=f"{label(kind)}.{attribute}", value=found.dtype,
                             remedy="convert them with .int()")
        declared = Attribute(found.dtype, found.shape, unit or found.unit, description or found.description,
                             None if categories is None else tuple(categories))
        self.schema.of(kind)[attribute] = declared
        return declared

    def complete_schema(self) -> Schema:
        """Declare every attribute nobody declared, forget declarations of what is gone, and give the schema.

        Raises:
            InputError: for an attribute that a graph cannot hold, or that is not what was declared.
        """
        for kind, _ in list(self.schema.items()):
            if kind not in self._node_store_dict and kind not in self._edge_store_dict:
                self.schema.drop(kind)
        for kind in (*self.node_types, *self.edge_types):
            store, declared, letter = self._store(kind), self.schema.of(kind), self._letter(kind)
            for name in [name for name in declared if name not in store]:
                del declared[name]
            for name, value in store.items():
                if name == "num_nodes":
                    continue
                try:
                    found = infer(name, value, letter)
                except InputError as error:
                    raise InputError(error.problem, field=f"{label(kind)}.{name}", value=error.value,
                                     remedy=error.remedy) from error
                given = declared.setdefault(name, found)
                if (given.dtype, given.shape) != (found.dtype, found.shape):
                    raise InputError("the attribute is not what the schema declares", field=f"{label(kind)}.{name}",
                                     value=f"{found.dtype} {list(found.shape)}",
                                     remedy=f"convert it to {given.dtype} {list(given.shape)}, or declare it again")
        return self.schema

    def _store(self, kind: GraphType) -> Any:
        return self._node_store_dict[kind] if isinstance(kind, str) else self._edge_store_dict[kind]

    @staticmethod
    def _letter(kind: GraphType) -> str:
        return "N" if isinstance(kind, str) else "E"

    def validate(self, raise_on_error: bool = True) -> bool:
        """Check every promise of the graph, and complete its schema.

        Args:
            raise_on_error: Whether the first fault is raised; otherwise False is returned.

        Raises:
            InputError: naming the field and the remedy.
        """
        from stgraph.graph.validate import check

        try:
            check(self)
        except InputError:
            if raise_on_error:
                raise
            return False
        return True

    # ---------------------------------------------------------------- time
    def at(self, t: Any) -> DynamicHeteroGraph:
        """The graph as it stands at an instant: see :func:`stgraph.graph.snapshot.at`."""
        from stgraph.graph.snapshot import at

        return at(self, t)

    def window(self, t0: Any, t1: Any) -> DynamicHeteroGraph:
        """What lives at some time in ``[t0, t1)``: see :func:`stgraph.graph.snapshot.window`."""
        from stgraph.graph.snapshot import window

        return window(self, t0, t1)

    # ---------------------------------------------------------------- order and sparse forms
    def reorder(self, order: Literal["hilbert", "degree"] | np.ndarray | Tensor,
                type: str | None = None) -> DynamicHeteroGraph:
        """A graph whose nodes stand in another order: see :func:`stgraph.graph.order.reorder`."""
        from stgraph.graph.order import reorder

        return reorder(self, order, type)

    def undo_reorder(self) -> DynamicHeteroGraph:
        """The graph in the order of the user again."""
        from stgraph.graph.order import undo_reorder

        return undo_reorder(self)

    def to_user_order(self, type: str, array: Any, dim: int = 0) -> Any:
        """Results ``[..., N, ...]`` in the order of the user; ``dim`` is the axis of the nodes."""
        from stgraph.graph.order import to_user_order

        return to_user_order(self, type, array, dim)

    def csr(self, edge_type: EdgeType, transpose: bool = False) -> CSR:
        """Compressed rows of a relation, kept until its edge index changes.

        Args:
            edge_type: The relation.
            transpose: False: rows are destinations and columns the sources of their incoming edges, the form of
                message passing. True: rows are sources and columns destinations.

        Raises:
            InputError: where the graph has no such type, or an index is out of range.
        """
        self._check_type(edge_type)
        index: Tensor = self._edge_store_dict[edge_type].edge_index
        sources, destinations = self.size_of(edge_type[0]), self.size_of(edge_type[2])
        version = 0 if index.is_inference() else index._version
        state = (version, sources, destinations)
        kept = self._csr.get((edge_type, transpose))
        if kept is not None and kept[0] is index and kept[1] == state:
            return kept[2]
        row, col = (index[0], index[1]) if transpose else (index[1], index[0])
        rows, columns = (sources, destinations) if transpose else (destinations, sources)
        built = build_csr(row, col, rows, columns)
        self._csr[edge_type, transpose] = (index, state, built)
        return built

    # ---------------------------------------------------------------- parts of the graph (PyG's names)
    def subgraph(self, subset_dict: dict[str, Tensor]) -> DynamicHeteroGraph:
        """The graph of some nodes and the edges among them; signals follow.

        Args:
            subset_dict: Per node type, positions (in the wanted order) or a mask; types that are left out stay whole.
        """
        from stgraph.graph.snapshot import positions, take

        return take(self, {kind: positions(subset, self.size_of(kind)) for kind, subset in subset_dict.items()})

    def edge_subgraph(self, subset_dict: dict[EdgeType, Tensor]) -> DynamicHeteroGraph:
        """The graph with some edges of some types, and all nodes; signals follow."""
        from stgraph.graph.snapshot import positions, take

        return take(self, {}, {kind: positions(subset, self.size_of(kind)) for kind, subset in subset_dict.items()})

    def rename(self, name: str, new_name: str) -> DynamicHeteroGraph:
        """Rename a node type in place, with its signals and declarations."""
        self._check_type(name)
        super().rename(name, new_name)

        def renamed(kind: GraphType) -> GraphType:
            if isinstance(kind, str):
                return new_name if kind == name else kind
            source, relation, destination = kind
            return (new_name if source == name else source, relation, new_name if destination == name else destination)

        self.__dict__["_signals"] = {renamed(kind): found for kind, found in self._signals.items()}
        schema = Schema()
        for kind, attributes in self.schema.items():
            schema.of(renamed(kind)).update(attributes)
        self.schema = schema
        self._csr.clear()
        return self

    def sort(self, sort_by_row: bool = True) -> DynamicHeteroGraph:
        """PyG's sorted edge lists; refused where a type has signals per edge, which could not follow."""
        self._refuse_edge_signals("sort")
        return super().sort(sort_by_row)

    def coalesce(self) -> DynamicHeteroGraph:
        """PyG's sorted edge lists without doubles; refused where a type has signals per edge."""
        self._refuse_edge_signals("coalesce")
        return super().coalesce()

    def _refuse_edge_signals(self, operation: str) -> None:
        for kind, found in self._signals.items():
            if not isinstance(kind, str) and found:
                raise InputError(f"signals of edges cannot follow {operation}()", field=label(kind),
                                 value=", ".join(found),
                                 remedy="use edge_subgraph with the wanted positions, or graph.csr(...)")

    # ---------------------------------------------------------------- to and from other libraries
    def to_pyg(self) -> HeteroData:
        """A plain ``HeteroData`` with the same attributes."""
        from stgraph.graph.convert import to_pyg

        return to_pyg(self)

    @classmethod
    def from_pyg(cls, data: HeteroData) -> DynamicHeteroGraph:
        """A graph with the attributes of a ``HeteroData``."""
        from stgraph.graph.convert import from_pyg

        return from_pyg(data)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """A networkx graph: see :func:`stgraph.graph.convert.to_networkx`."""
        from stgraph.graph.convert import to_networkx

        return to_networkx(self)

    @classmethod
    def from_networkx(cls, graph: networkx.Graph) -> DynamicHeteroGraph:
        """The reverse of :meth:`to_networkx`, and a reader of any networkx graph."""
        from stgraph.graph.convert import from_networkx

        return from_networkx(graph)

    def to_geopandas(self) -> dict[GraphType, geopandas.GeoDataFrame]:
        """One table per type, EPSG:4326: see :func:`stgraph.graph.convert.to_geopandas`."""
        from stgraph.graph.convert import to_geopandas

        return to_geopandas(self)

    @classmethod
    def from_geopandas(cls, tables: dict[GraphType, geopandas.GeoDataFrame]) -> DynamicHeteroGraph:
        """The reverse of :meth:`to_geopandas`."""
        from stgraph.graph.convert import from_geopandas

        return from_geopandas(tables)

    def to_scipy(self, edge_type: EdgeType, weight: str | None = "edge_weight") -> scipy.sparse.coo_array:
        """A sparse matrix of one relation: see :func:`stgraph.graph.convert.to_scipy`."""
        from stgraph.graph.convert import to_scipy

        return to_scipy(self, edge_type, weight)

    @classmethod
    def from_scipy(cls, matrix: Any, node_type: str = "sensor", relation: str = "near",
                   node_id: Sequence[str] | None = None) -> DynamicHeteroGraph:
        """A graph of one relation from a sparse matrix."""
        from stgraph.graph.convert import from_scipy

        return from_scipy(matrix, node_type, relation, node_id)

    def to_dgl(self) -> Any:
        """A DGL heterograph, where DGL can be imported."""
        from stgraph.graph.convert import to_dgl

        return to_dgl(self)

    # ---------------------------------------------------------------- on disk
    def save(self, path: Path | str) -> None:
        """Write a ``.stg`` bundle: see :func:`stgraph.graph.bundle.save`."""
        from stgraph.graph.bundle import save

        save(self, path)

    @classmethod
    def load(cls, path: Path | str, in_memory: bool | Literal["auto"] = "auto",
             verify: bool = True) -> DynamicHeteroGraph:
        """Read a ``.stg`` bundle: see :func:`stgraph.graph.bundle.load`."""
        from stgraph.graph.bundle import load

        return load(path, in_memory, verify)

    # ---------------------------------------------------------------- copies
    def __copy__(self) -> DynamicHeteroGraph:
        out = super().__copy__()
        out.__dict__.update(schema=self.schema.copy(), _csr=dict(self._csr), tables=dict(self.tables),
                            _metadata=Provenance(self.__dict__["_metadata"]),
                            _signals={kind: dict(found) for kind, found in self._signals.items()})
        return out

    def clone(self, *args: str) -> DynamicHeteroGraph:
        """An independent copy; signals in memory are copied, signals on disk stay there."""
        out = super().clone(*args)
        out.__dict__["_metadata"] = copy.deepcopy(self.__dict__["_metadata"])
        out.__dict__["_signals"] = {kind: {name: signal.copy() for name, signal in found.items()}
                                    for kind, found in self._signals.items()}
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_csr": {}}

    def __delitem__(self, *args: Any) -> None:
        kind = self._to_canonical(*args)
        super().__delitem__(*args)
        self._signals.pop(kind, None)
        self.schema.drop(kind)

    def __repr__(self) -> str:
        lines = [f"  {label(kind)}: {name}={list(signal.shape)}" for kind, found in self._signals.items()
                 for name, signal in found.items()]
        if self.time is not None:
            lines.insert(0, f"  {self.time}")
        return "\n".join([super().__repr__(), *lines])
