"""Sparse products with a matrix per type of edge (Schlichtkrull et al., ESWC 2018): ``typed_spmm``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency, check_index, index_type
from stgraph.ops.autocast import as_product
from stgraph.ops.diffusion import Products, check_edge_weight, check_place, flat, unflat
from stgraph.ops.library import node_major
from stgraph.ops.segment import gather_rows
from stgraph.ops.sparse import spmm

ORDERS = ("aggregate", "transform")
BASIS_ORDERS = ("aggregate", "transform", "basis aggregate", "basis transform")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct pairs of a type and a node, sorted by type.

    Args:
        into: From nodes to pairs.
        out: From pairs to nodes.
        present: The types that have pairs, rising.
        sizes: Number of pairs of each of these.
        ends: Where the pairs of each of these end, int32.
    """

    into: Adjacency
    out: Adjacency
    present: tuple[int, ...]
    sizes: tuple[int, ...]
    ends: Tensor

    @property
    def count(self) -> int:
        """Number of pairs."""
        return sum(self.sizes)


class TypedAdjacency:
    """A graph whose edges have types, sorted by type when it is made, so that its products can be traced as a whole.

    Args:
        adjacency: All edges.
        edge_type: ``[E]`` int32 or int64, type of each edge in the order of the edges.
        types: Number of types R.

    Raises:
        InputError: where there is not one type per edge, or one is out of range.
    """

    def __init__(self, adjacency: Adjacency, edge_type: Tensor, types: int) -> None:
        if not isinstance(adjacency, Adjacency):
            raise InputError("expected an Adjacency", field="adjacency", value=type(adjacency).__name__,
                             remedy="make one with Adjacency.of_edges(...) or Adjacency.of(graph, relation)")
        check_index(edge_type, edge_type, "edge_type")
        if edge_type.shape[0] != adjacency.edges or edge_type.device != adjacency.col.device:
            raise InputError("there is one type per edge, on the device of the graph", field="edge_type",
                             value=f"{list(edge_type.shape)} on {edge_type.device}",
                             remedy=f"give [{adjacency.edges}] on {adjacency.col.device}")
        shapes.indices(edge_type, "edge_type", types, edge_type)
        self.adjacency, self.edge_type, self.types = adjacency, edge_type, int(types)
        with torch.inference_mode(False):
            self.by_destination = self._pairs(adjacency)
            turned = self._pairs(adjacency.transpose)
            self.by_source = dataclasses.replace(turned, into=turned.out.transpose, out=turned.into.transpose)

    @classmethod
    def of(cls, relations: list[Adjacency]) -> TypedAdjacency:
        """Several relations between the same nodes as types 0, 1, ..; their edges one relation after the other.

        Raises:
            InputError: where there is none, or they have other numbers of nodes.
        """
        sizes = {(one.columns, one.rows) for one in relations}
        if len(sizes) != 1:
            raise InputError("typed relations share their nodes", field="relations", value=sorted(sizes),
                             remedy="give one or more relations with the same numbers of sources and destinations")
        (sources, destinations), = sizes
        edges = torch.cat([edge_list(one) for one in relations], 1)
        counts = torch.tensor([one.edges for one in relations], device=edges.device)
        kind = torch.arange(len(relations), device=edges.device)
        edge_type = torch.repeat_interleave(kind, counts, output_size=edges.shape[1])
        return cls(Adjacency.of_edges(edges, sources, destinations), edge_type, len(relations))

    def to(self, device: torch.device | str) -> TypedAdjacency:
        """On another device."""
        return TypedAdjacency(self.adjacency.to(device), self.edge_type.to(device), self.types)

    def _pairs(self, adjacency: Adjacency) -> Pairs:
        """Pairs of type and row."""
        rows, device = adjacency.rows, adjacency.col.device
        edge = torch.arange(adjacency.edges, device=device) if adjacency.edge is None else adjacency.edge.long()
        kind = self.edge_type.long()[edge]
        kind, order = torch.sort(kind, stable=True)  # entries of a row keep their order
        number = kind * max(rows, 1) + adjacency.row.long()[order]
        pair, count = torch.unique_consecutive(number, return_counts=True)
        pointer = torch.cat([count.new_zeros(1), count.cumsum(0)])
        dtype = index_type(len(edge), adjacency.columns, rows)
        into = Adjacency(pointer.to(dtype), adjacency.col[order].to(dtype), edge[order].to(dtype),
                         columns=adjacency.columns)
        out = Adjacency.of_edges(torch.stack([torch.arange(len(pair), device=device), pair % max(rows, 1)]), len(pair),
                                 rows)
        present, sizes = torch.unique_consecutive(pair // max(rows, 1), return_counts=True)
        return Pairs(into, out, tuple(present.tolist()), tuple(sizes.tolist()), sizes.cumsum(0).int())

    def count(self) -> Tensor:
        """``[E]`` int64: how many edges of its type each edge's destination has."""
        into = self.by_destination.into
        assert into.edge is not None
        degree = into.rowptr.diff().long()
        of_entry = torch.repeat_interleave(degree, degree, output_size=into.edges)
        return torch.empty_like(of_entry).index_copy_(0, into.edge.long(), of_entry)

    def __repr__(self) -> str:
        return f"TypedAdjacency({self.types} types, {self.adjacency})"


def edge_list(adjacency: Adjacency) -> Tensor:
    """Sources and destinations ``[2, E]`` int64 of the edges in their order."""
    entries = torch.stack([adjacency.col, adjacency.row]).long()
    edge = adjacency.edge
    return entries if edge is None else torch.empty_like(entries).index_copy_(1, edge.long(), entries)


# ---------------------------------------------------------------- which way
@dataclasses.dataclass(frozen=True)
class TypedSizes:
    """What the choice of :func:`typed_order` depends on.

    Args:
        sources: Source nodes.
        destinations: Destination nodes.
        edges: Edges.
        by_source: Distinct pairs of type and source.
        by_destination: Distinct pairs of type and destination.
        present: Types that have edges.
        inputs: Channels F.
        outputs: Channels G.
        bases: Bases B; 0: every type has a matrix of its own.
        slabs: B * T.
    """

    sources: int
    destinations: int
    edges: int
    by_source: int
    by_destination: int
    present: int
    inputs: int
    outputs: int
    bases: int = 0
    slabs: int = 1


def typed_order(sizes: TypedSizes) -> str:
    """The way that moves the fewest numbers, counted as read and written by each pass.

    ``aggregate`` sums what the edges of a type bring to a node and multiplies the sums; ``transform`` multiplies the
    sources that have edges of a type and sums the products. With bases, ``basis aggregate`` and ``basis transform`` do
    the same for each basis with the coefficients as weights of the edges, and never form a matrix per type.

    Args:
        sizes: Of the graph and the features.
    """
    s, f, g = sizes, sizes.inputs, sizes.outputs
    matrices = s.present * f * g * (1 if not s.bases else 2) + s.bases * f * g
    moved = {
        "aggregate": s.slabs * (s.edges * f + s.by_destination * (2 * f + 2 * g) + s.destinations * g) + matrices,
        "transform": s.slabs * (s.by_source * (3 * f + g) + s.edges * g + s.destinations * g) + matrices,
    }
    if s.bases:
        shared = s.bases * (f * g + 2 * s.edges)
        moved["basis aggregate"] = shared + s.slabs * s.bases * (s.edges * f + s.destinations * (2 * f + 2 * g))
        moved["basis transform"] = shared + s.slabs * (s.sources * f + s.bases * (
            s.sources * g + s.edges * g + 2 * s.destinations * g))
    return min(moved, key=lambda way: moved[way])


def grouped_product(device: str, dtype: torch.dtype, inputs: int, outputs: int) -> bool:
    """Whether torch has a product of groups for the device, type and numbers of channels.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: Of the features.
        inputs: Channels F.
        outputs: Channels G.
    """
    size = torch.empty((), dtype=dtype).element_size()
    if not hasattr(torch.nn.functional, "grouped_mm") or any(not n or n * size % 16 for n in (inputs, outputs)):
        return False  # its rows start at multiples of 16 bytes
    if device == "cuda":
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability() >= (8, 0)
    return device == "cpu" and dtype in (torch.float32, torch.bfloat16)


# ---------------------------------------------------------------- the operator
@as_product
def typed_spmm(graph: TypedAdjacency, x: Tensor, weight: Tensor, coefficient: Tensor | None = None,
               edge_weight: Tensor | None = None, *, order: str | None = None) -> Tensor:
    """``out[i] = sum over in-edges e of i of edge_weight[e] * x[source of e] @ W[type of e]``. Deterministic.

    Types without edges cost nothing. Features that lie slab by slab are copied once to lie node by node where there are
    several slabs and matrices per type, and the result is copied back. Under ``torch.autocast`` all is done in its
    type, as by a linear layer.

    Args:
        graph: Edges with types.
        x: ``[..., N_source, F]``.
        weight: ``[R, F, G]``, one matrix per type; with coefficients ``[B, F, G]``, the bases.
        coefficient: ``[R, B]``: ``W[r] = sum over b of coefficient[r, b] * weight[b]``.
        edge_weight: ``[E]`` or ``[E, B or 1, T or 1, 1]`` in the order of the edges.
        order: One of :func:`typed_order`'s ways; None: its choice.

    Returns:
        ``[..., N_destination, G]`` in the layout of ``x``.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    if not isinstance(graph, TypedAdjacency):
        raise InputError("expected a TypedAdjacency", field="graph", value=type(graph).__name__,
                         remedy="make one with TypedAdjacency(adjacency, edge_type, types)")
    dense = shapes.features(x, "x", graph.adjacency.columns)
    check_place(graph.adjacency, dense)
    _check_matrices(graph, dense, weight, coefficient)
    check_edge_weight(edge_weight, "edge_weight", graph.adjacency, dense)
    ways = ORDERS if coefficient is None else BASIS_ORDERS
    if order is not None and order not in ways:
        raise InputError("unknown way", field="order", value=order, remedy=f"one of {', '.join(ways)}")
    order = order or typed_order(_sizes(graph, dense, weight, coefficient))
    if order.startswith("basis"):
        assert coefficient is not None
        out = _by_basis(graph, dense, weight, coefficient, edge_weight, order == "basis transform")
    else:
        out = _by_type(graph, dense, weight, coefficient, edge_weight, order == "transform")
    return shapes.unfold(out, x)


def _check_matrices(graph: TypedAdjacency, x: Tensor, weight: Tensor, coefficient: Tensor | None) -> None:
    bases, outputs = (weight.shape[0], weight.shape[2]) if isinstance(weight, Tensor) and weight.dim() == 3 else (1, 1)
    leading = graph.types if coefficient is None else bases
    shapes.same(weight, x, "weight", (leading, x.shape[-1], outputs))
    if coefficient is not None:
        shapes.same(coefficient, x, "coefficient", (graph.types, leading))


def _sizes(graph: TypedAdjacency, x: Tensor, weight: Tensor, coefficient: Tensor | None) -> TypedSizes:
    into = graph.by_destination
    return TypedSizes(graph.adjacency.columns, graph.adjacency.rows, graph.adjacency.edges, graph.by_source.count,
                      into.count, len(into.present), weight.shape[1], weight.shape[2],
                      0 if coefficient is None else weight.shape[0], x.shape[0] * x.shape[1])


def _by_type(graph: TypedAdjacency, x: Tensor, weight: Tensor, coefficient: Tensor | None, edge_weight: Tensor | None,
             transform: bool) -> Tensor:
    """Through pairs of type and node, which lie type by type."""
    pairs = graph.by_source if transform else graph.by_destination
    by_slab = x.shape[0] * x.shape[1] > 1 and not node_major(x)
    if by_slab:
        shapes.copies.count += 1
        x = x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    matrices = _present(weight, coefficient, pairs.present)
    if transform:
        out = spmm(pairs.out, _multiplied(spmm(pairs.into, x), matrices, pairs), weight=edge_weight)
    else:
        out = spmm(pairs.out, _multiplied(spmm(pairs.into, x, weight=edge_weight), matrices, pairs))
    return out.contiguous() if by_slab else out


def _present(weight: Tensor, coefficient: Tensor | None, present: tuple[int, ...]) -> Tensor:
    """The matrices of the types that have edges, ``[present, F, G]``."""
    table = weight if coefficient is None else coefficient
    if len(present) < table.shape[0]:
        each = table.unbind(0)
        table = torch.stack([each[kind] for kind in present]) if present else table[:0]
    return table if coefficient is None else torch.einsum("rb,bfg->rfg", table, weight)


def _multiplied(x: Tensor, matrices: Tensor, pairs: Pairs) -> Tensor:
    """``x [B, T, pairs, F]`` by the matrix of each pair's type: ``[B, T, pairs, G]``, node by node in memory."""
    b, t, count, width = x.shape
    rows = x.permute(2, 0, 1, 3).reshape(count * b * t, width)
    sizes = [size * b * t for size in pairs.sizes]
    if not sizes:
        out = rows.new_zeros((0, matrices.shape[2])) + rows.sum() + matrices.sum()
    elif len(sizes) == 1:
        out = rows @ matrices[0]
    elif len(rows) < 2**31 and grouped_product(x.device.type, x.dtype, width, matrices.shape[2]):  # ends are int32
        out = torch.nn.functional.grouped_mm(rows, matrices, offs=pairs.ends * (b * t))
    else:
        out = torch.cat([part @ matrix for part, matrix in zip(rows.split(sizes), matrices.unbind(0), strict=True)])
    return out.view(count, b, t, matrices.shape[2]).permute(1, 2, 0, 3)


def _by_basis(graph: TypedAdjacency, x: Tensor, bases: Tensor, coefficient: Tensor, edge_weight: Tensor | None,
              transform: bool) -> Tensor:
    """One product over all edges per basis, with the coefficients of the edges' types as weights."""
    adjacency = graph.adjacency
    of_edge: Sequence[Tensor] = gather_rows(coefficient, graph.edge_type).unbind(1)
    if edge_weight is not None:
        axes = (slice(None), *[None] * (edge_weight.dim() - 1))
        of_edge = [one[axes] * edge_weight for one in of_edge]
    by_node = node_major(x)
    out: Tensor | None = None
    if transform:
        for rows, one in zip(Products.apply(flat(x, by_node), bases, None), of_edge, strict=True):
            out = spmm(adjacency, unflat(rows, x.shape[:3], by_node), weight=one, addend=out)
        assert out is not None
        return out
    for basis, one in zip(bases.unbind(0), of_edge, strict=True):
        rows = flat(spmm(adjacency, x, weight=one), by_node)
        out = rows @ basis if out is None else out.addmm_(rows, basis)
    assert out is not None
    return unflat(out, (*x.shape[:2], adjacency.rows), by_node)
