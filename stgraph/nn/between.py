"""Relations among nodes of several types as they stand at the origins of windows: nothing later is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stgraph.graph import DynamicHeteroGraph
from stgraph.nn.message_passing import Relation, RelationName, with_reversed
from stgraph.ops import Adjacency
from stgraph.windows import AttributeWindow


@dataclass(frozen=True)
class _Edges:
    """One relation: ends ``[2, E]``, weights ``[E]`` or None, and lives ``[E]`` seconds or None."""

    index: Tensor
    weight: Tensor | None
    begins: Tensor | None
    ends: Tensor | None

    @cached_property
    def by_end(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """For sources and for targets: the edges in their order, and where those of each node begin ``[N + 1]``."""
        found = []
        for end in self.index:
            count = torch.bincount(end, minlength=1)
            found.append((end.argsort(stable=True), torch.cat([count.new_zeros(1), count.cumsum(0)])))
        return tuple(found)

    def of_nodes(self, end: int, layer: AttributeWindow) -> tuple[Tensor, Tensor, Tensor]:
        """The edges of the nodes that are there: the window, the edge, and the place of the node, each ``[P]``."""
        order, first = (one.to(layer.nodes.device) for one in self.by_end[end])
        window, place = layer.present.nonzero(as_tuple=True)
        node = layer.nodes[window, place].clamp(max=len(first) - 1)
        last = first[(node + 1).clamp(max=len(first) - 1)]
        count = last - first[node]
        which = torch.repeat_interleave(torch.arange(len(node), device=node.device), count)
        step = torch.arange(len(which), device=node.device) - (count.cumsum(0) - count)[which]
        return window[which], order[first[node][which] + step], place[which]

    def alive(self, edge: Tensor | slice, moments: Tensor) -> Tensor:
        """Whether edges count at moments that broadcast to them."""
        if self.begins is None or self.ends is None:
            return torch.ones(self.index[0, edge].shape, dtype=torch.bool, device=moments.device)
        begins, ends = self.begins.to(moments.device)[edge], self.ends.to(moments.device)[edge]
        return (begins < moments) & (ends >= moments)


class Between:
    """Relations that lead from one type to another, and those whose edges or nodes come and go; both directions.

    An edge counts for a window where it began before the window's origin and had not ended then, and where its ends
    are there. One that counts something over its life (the attribute ``count``) is known when it is over, and counts
    from then on for as long as it lasted. Loops are left out.

    Args:
        graph: The graph.
        kinds: The types of nodes.
        timed: Those of them whose nodes come and go.
        pooled: Those of them whose lasting relations of their own are not wanted here.
    """

    def __init__(self, graph: DynamicHeteroGraph, kinds: Collection[str], timed: Collection[str] = (),
                 pooled: Collection[str] = ()) -> None:
        self.sizes = {kind: graph.size_of(kind) for kind in kinds}
        self.timed = frozenset(timed)
        self.fixed: dict[RelationName, Relation] = {}
        self.living: dict[tuple[str, str, str], _Edges] = {}
        for kind in graph.edge_types:
            source, _, target = kind
            if source not in self.sizes or target not in self.sizes:
                continue
            edges = _edges_of(graph, kind)
            if edges.begins is not None or self.timed & {source, target}:
                self.living[kind] = edges
            elif not (source == target and source in pooled):
                adjacency = Adjacency.of_edges(edges.index, self.sizes[source], self.sizes[target])
                self.fixed[kind] = Relation(adjacency, edges.weight)
        self.fixed = with_reversed(self.fixed)
        self._placed: dict[torch.device, dict[RelationName, Relation]] = {}

    def at(self, moments: Tensor, layers: Mapping[str, AttributeWindow]) -> dict[RelationName, Relation]:
        """The relations at the origins of windows.

        Args:
            moments: ``[B]`` int64 seconds UTC at which the first wanted steps begin.
            layers: The types whose nodes come and go, as the windows hold them.
        """
        found: dict[RelationName, Relation] = {
            kind: relation for kind, edges in self.living.items()
            if (relation := self._living(kind, edges, moments, layers)) is not None}
        device = moments.device
        if device not in self._placed:
            self._placed[device] = {name: relation.to(device) for name, relation in self.fixed.items()}
        return self._placed[device] | with_reversed(found)

    def _living(self, kind: tuple[str, str, str], edges: _Edges, moments: Tensor,
                layers: Mapping[str, AttributeWindow]) -> Relation | None:
        """The edges that count for any of the windows, weight ``[E, B, 1]``; None where there are none."""
        ends = {0: kind[0], 1: kind[2]}
        timed = {end: name for end, name in ends.items() if name in self.timed}
        if timed:
            window, edge, place = edges.of_nodes(min(timed), layers[timed[min(timed)]])
            alive = edges.alive(edge, moments[window])
            index = edges.index.to(moments.device)[:, edge]
            index[min(timed)] = place
            if len(timed) == 2:
                slot = _slots(layers[kind[2]], self.sizes[kind[2]])[window, index[1]]
                index[1], alive = slot, alive & (slot >= 0)
            window, edge, index = window[alive], edge[alive], index[:, alive]
            weight = torch.nn.functional.one_hot(window, len(moments)).float()                # [E, B]
        else:
            among = edges.alive(slice(None), moments[:, None])                                # [B, E]
            edge = among.any(0).nonzero()[:, 0]
            index, weight = edges.index.to(moments.device)[:, edge], among[:, edge].T.float()
        if not len(edge):
            return None
        if edges.weight is not None:
            weight = weight * edges.weight.to(moments.device)[edge, None]
        sizes = [layers[name].nodes.shape[1] if end in timed else self.sizes[name] for end, name in ends.items()]
        return Relation(Adjacency.of_edges(index, *sizes), weight[:, :, None])


def _slots(layer: AttributeWindow, nodes: int) -> Tensor:
    """Where each node stands in each window, ``[B, N]``; -1 where it is not there."""
    found = torch.full((layer.present.shape[0], nodes), -1, device=layer.nodes.device)
    window, place = layer.present.nonzero(as_tuple=True)
    found[window, layer.nodes[window, place]] = place
    return found


def _edges_of(graph: DynamicHeteroGraph, kind: tuple[str, str, str]) -> _Edges:
    store = graph[kind]
    index = store.edge_index
    apart = index[0] != index[1] if kind[0] == kind[2] else torch.ones(index.shape[1], dtype=torch.bool)
    weight = store.edge_weight.float()[apart] if "edge_weight" in store else None
    if "valid_from" not in store and "valid_to" not in store:
        return _Edges(index[:, apart], weight, None, None)
    bounds = torch.iinfo(torch.int64)
    begins = store.valid_from if "valid_from" in store else torch.full_like(index[0], bounds.min)
    ends = store.valid_to if "valid_to" in store else torch.full_like(index[0], bounds.max)
    if "count" in store and "valid_from" in store and "valid_to" in store:
        begins, ends = ends - 1, 2 * ends - begins - 1
    return _Edges(index[:, apart], weight, begins[apart], ends[apart])
