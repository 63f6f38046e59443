"""What the layers share: a relation as the kernels want it, weights of edges, dense products in any layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from stgraph.errors import InputError
from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.autocast import as_product
from stgraph.ops.diffusion import flat, unflat
from stgraph.ops.library import node_major
from stgraph.ops.typed import edge_list

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

Relation = tuple[str, str, str]
Made = TypeVar("Made")

# Compressed rows of edge lists, and what follows from them, for as long as those live.
_RELATIONS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_MOVED: WeakKeyDictionary[Adjacency, dict[torch.device, Adjacency]] = WeakKeyDictionary()
_LOOPLESS: WeakKeyDictionary[Adjacency, Tensor] = WeakKeyDictionary()
_LOOPED: WeakKeyDictionary[Adjacency, Adjacency] = WeakKeyDictionary()


# ---------------------------------------------------------------- graphs
def adjacency_of(graph: Adjacency | DynamicHeteroGraph, relation: Relation | None = None,
                 device: torch.device | None = None) -> Adjacency:
    """The compressed rows of a relation, kept until its edge index changes, and kept per device.

    Args:
        graph: An adjacency, or a graph.
        relation: The edge type; None: the only one of the graph.
        device: Where the features are; None: where the graph is.

    Raises:
        InputError: where the graph has no such relation, or several to choose from.
    """
    found = graph if isinstance(graph, Adjacency) else _of_relation(graph, relation)
    if device is None or found.col.device == device:
        return found
    moved = _MOVED.setdefault(found, {})
    if device not in moved:
        with torch.inference_mode(False):
            moved[device] = found.to(device)
    return moved[device]


def _of_relation(graph: DynamicHeteroGraph, relation: Relation | None) -> Adjacency:
    relation = relation_of(graph, relation)
    index: Tensor = graph[relation].edge_index
    version = 0 if index.is_inference() else index._version
    state = (version, graph.size_of(relation[0]), graph.size_of(relation[2]))
    kept: tuple[tuple[int, ...], Adjacency] | None = _RELATIONS.get(index)
    if kept is None or kept[0] != state:
        with torch.inference_mode(False):
            kept = (state, Adjacency.of(graph, relation))
        _RELATIONS[index] = kept
    return kept[1]


def relation_of(graph: DynamicHeteroGraph, relation: Relation | None) -> Relation:
    """The relation that is meant.

    Raises:
        InputError: where the graph has no such relation, or several to choose from.
    """
    known = getattr(graph, "edge_types", None)
    if known is None:
        raise InputError("expected an Adjacency or a DynamicHeteroGraph", field="graph", value=type(graph).__name__,
                         remedy="make an adjacency with Adjacency.of_edges(...)")
    if relation is None and len(known) == 1:
        return known[0]
    if relation is None or relation not in known:
        raise InputError("no such relation" if relation else "several relations to choose from, or none",
                         field="relation", value=relation,
                         remedy="choose among " + ", ".join(map(str, known)) if known else "the graph has none")
    return relation


def loopless(adjacency: Adjacency) -> Tensor:
    """``[N]`` bool: the nodes without an edge to themselves."""
    if adjacency not in _LOOPLESS:
        with torch.inference_mode(False):
            source, destination = edge_list(adjacency)
            loops = torch.zeros(adjacency.rows, dtype=torch.int64, device=source.device)
            _LOOPLESS[adjacency] = loops.index_add_(0, destination, (source == destination).long()) == 0
    return _LOOPLESS[adjacency]


def looped(adjacency: Adjacency) -> Adjacency:
    """With an edge from each node to itself, where it has none: those stand after the others."""
    if adjacency not in _LOOPED:
        with torch.inference_mode(False):
            added = loopless(adjacency).nonzero()[:, 0]
            edges = torch.cat([edge_list(adjacency), torch.stack([added, added])], 1)
            _LOOPED[adjacency] = Adjacency.of_edges(edges, adjacency.columns, adjacency.rows)
    return _LOOPED[adjacency]


def square(adjacency: Adjacency, x: Tensor) -> None:
    """Refuse a relation between two types of nodes, or features of other nodes.

    Raises:
        InputError: naming the argument.
    """
    if adjacency.rows != adjacency.columns:
        raise InputError("the layer needs a relation from a type of nodes to itself", field="relation",
                         value=f"{adjacency.columns} -> {adjacency.rows} nodes",
                         remedy="use RelationalConvolution for relations between types")
    shapes.features(x, "x", adjacency.columns)


# ---------------------------------------------------------------- weights of edges
def edge_weights(weight: Tensor | str | None, graph: Adjacency | DynamicHeteroGraph, relation: Relation | None,
                 adjacency: Adjacency, x: Tensor) -> Tensor | None:
    """The weights that are meant, ``[E]`` or ``[T, E]``, as they were given.

    Raises:
        InputError: where there is no such attribute, or the shape does not fit.
    """
    if isinstance(weight, str):
        if isinstance(graph, Adjacency) or weight not in graph[relation_of(graph, relation)]:
            raise InputError("the relation has no such attribute", field="edge_weight", value=weight,
                             remedy="name an attribute of the relation of a graph, or give the weights")
        weight = graph[relation_of(graph, relation)][weight]
    if weight is None:
        return None
    steps = x.shape[-3] if x.dim() > 2 else 0
    if not isinstance(weight, Tensor) or tuple(weight.shape) not in ((adjacency.edges,), (steps, adjacency.edges)):
        raise InputError("weights do not fit the edges", field="edge_weight",
                         value=list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__,
                         remedy=f"give [E] or [T, E], where E = {adjacency.edges} and T = {steps}")
    return weight


def as_four(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """Weights in the type and on the device of ``x``; those per step as ``[E, B or 1, T or 1, 1]``.

    Of features with three axes the operators see the first as the batch.
    """
    if weight is None:
        return None
    weight = weight.to(x)
    if weight.dim() == 1:
        return weight
    return weight.t()[:, :, None, None] if x.dim() == 3 else weight.t()[:, None, :, None]


def on_nodes(values: Tensor, x: Tensor) -> Tensor:
    """Numbers of nodes ``[B or 1, T or 1, N, 1]`` made with :func:`as_four`, so that they multiply ``x``."""
    return values[:, 0] if x.dim() == 3 else values[0] if x.dim() > 3 else values[0, 0]


class Kept:
    """The last result of a computation, for as long as its inputs are the same objects with the same contents.

    Nothing is kept where a gradient is wanted, nor while a program is traced; nor does it travel with a module.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._state: tuple[Any, ...] = ()
        self._value: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return Kept()

    def get(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """The result of ``make``, which depends on nothing but the key."""
        tensors = [part for part in key if isinstance(part, Tensor)]
        tracing = torch.compiler.is_compiling()
        if (tracing and tensors) or any(one.requires_grad or one.is_inference() for one in tensors):
            return make()
        state = tuple(part._version if isinstance(part, Tensor) else None for part in key)
        same = len(key) == len(self._key) and state == self._state and all(
            mine is given or (not isinstance(given, (Tensor, Adjacency)) and mine == given)
            for mine, given in zip(self._key, key, strict=True))
        if tracing and not same:
            return make()
        if not same:
            with torch.inference_mode(False), torch.no_grad():
                self._value = make()
            self._key, self._state = key, state
        return self._value


# ---------------------------------------------------------------- dense products
@as_product
def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [..., N, F] @ weight [F, G] + bias [G]`` without a copy of features that lie node by node.

    Raises:
        InputError: where ``x`` has other channels or another type.
    """
    four = shapes.features(x, "x")
    if x.shape[-1] != weight.shape[0] or x.dtype != weight.dtype:
        raise InputError("features do not fit the layer", field="x", value=f"{x.dtype} {list(x.shape)}",
                         remedy=f"give {weight.shape[0]} channels of {weight.dtype}")
    by_node = node_major(four)
    rows = flat(four, by_node)
    out = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return shapes.unfold(unflat(out, four.shape[:3], by_node), x)


def with_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    """The result plus a number per channel, in the type of the result."""
    return out if bias is None else out + bias.to(out.dtype)


def glorot(*shape: int, fan_in: int, fan_out: int) -> torch.nn.Parameter:
    """Uniform numbers of the variance of Glorot and Bengio (2010)."""
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return torch.nn.Parameter(torch.empty(shape).uniform_(-limit, limit))
