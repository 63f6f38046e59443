"""Convolution over several relations of a heterogeneous graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.graph.common import Kept, Relation, adjacency_of, as_four, edge_weights, glorot, multiply, with_bias
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.typed import TypedAdjacency, typed_spmm

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

NORMALISATIONS = ("mean", None)


class RelationalConvolution(nn.Module):
    """Relational graph convolution: ``out_i = sum over relations r and in-edges j of w_ij / c_ir W_r x_j + R x_i + b``.

    ``c_ir`` is the number of in-edges of relation ``r`` at node ``i`` (``mean``), or 1. Types of nodes may have any
    widths. With ``bases`` the matrices of all relations that start at one type of nodes are sums of that many shared
    ones, ``W_r = sum over b of a_rb V_b``. Relations between the same two types are one product; a type of nodes that
    is not given, or a relation that the graph lacks, costs nothing.

    Schlichtkrull et al., "Modeling relational data with graph convolutional networks", ESWC 2018.

    Args:
        inputs: Channels of each type of nodes.
        outputs: Channels of the result, the same for all types.
        relations: The edge types, ``(source, relation, destination)``.
        bases: Number of shared matrices per type of source; None: every relation has its own.
        normalise: ``mean`` or None.
        root: Whether ``R x`` is added, one matrix per type that relations lead to.
        bias: Whether a number per channel is added, one vector per type that relations lead to.

    Raises:
        InputError: naming the argument.

    Shapes: ``x`` by type ``[..., T, N, channels]``, ``edge_weight`` by relation ``[E]`` or ``[T, E]``; result by type
    ``[..., T, N, outputs]``, for each type that is given and that relations lead to, and for each that is sent to.
    """

    def __init__(self, inputs: Mapping[str, int], outputs: int, relations: Sequence[Relation], bases: int | None = None,
                 normalise: str | None = "mean", root: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.relations = tuple(dict.fromkeys(relations))
        unknown = [kind for source, _, destination in self.relations
                   for kind in ((source, destination) if root else (source,)) if kind not in inputs]
        if unknown or not self.relations:
            raise InputError("relations are between types with a number of channels", field="relations",
                             value=unknown[0] if unknown else None, remedy=f"types with channels: {', '.join(inputs)}")
        if normalise not in NORMALISATIONS or (bases is not None and bases < 1):
            raise InputError("unknown normalisation" if normalise not in NORMALISATIONS else "at least one basis",
                             field="bases" if normalise in NORMALISATIONS else "normalise",
                             value=bases if normalise in NORMALISATIONS else normalise,
                             remedy="normalise is mean or None, bases 1 or more, or None")
        self.outputs, self.normalise = outputs, normalise
        self.by_source = {kind: [one for one in self.relations if one[0] == kind]
                          for kind in dict.fromkeys(source for source, _, _ in self.relations)}
        self.pairs = list(dict.fromkeys((source, destination) for source, _, destination in self.relations))
        targets = list(dict.fromkeys(destination for _, _, destination in self.relations))
        counts = {kind: len(own) if bases is None else bases for kind, own in self.by_source.items()}
        self.weight = nn.ParameterDict({kind: glorot(count, inputs[kind], outputs, fan_in=inputs[kind], fan_out=outputs)
                                        for kind, count in counts.items()})
        self.coefficient = None if bases is None else nn.ParameterDict(
            {kind: glorot(len(own), bases, fan_in=bases, fan_out=1) for kind, own in self.by_source.items()})
        self.root = nn.ParameterDict({kind: glorot(inputs[kind], outputs, fan_in=inputs[kind], fan_out=outputs)
                                      for kind in targets} if root else {})
        self.bias = nn.ParameterDict({kind: nn.Parameter(torch.zeros(outputs)) for kind in targets} if bias else {})
        self._graphs = {pair: Kept() for pair in self.pairs}
        self._weights = {pair: Kept() for pair in self.pairs}

    def forward(self, x: Mapping[str, Tensor], graph: DynamicHeteroGraph | Mapping[Relation, Adjacency],
                edge_weight: Mapping[Relation, Tensor] | str | None = None) -> dict[str, Tensor]:
        """See the class; ``graph`` may also be a mapping from relations to adjacencies."""
        known = list(graph) if isinstance(graph, Mapping) else graph.edge_types
        out = {kind: multiply(x[kind], matrix) for kind, matrix in self.root.items() if kind in x}
        for source, destination in self.pairs:
            if source not in x:
                continue
            own = [one for one in self.by_source[source] if one[2] == destination and one in known]
            found = [adjacency_of(graph[one], None, x[source].device) if isinstance(graph, Mapping)
                     else adjacency_of(graph, one, x[source].device) for one in own]
            here = [place for place, one in enumerate(found) if one.edges]
            if here:
                sent = self._sent(x[source], graph, [own[place] for place in here], [found[place] for place in here],
                                  edge_weight)
                out[destination] = out[destination] + sent if destination in out else sent
        return {kind: with_bias(value, self.bias.get(kind)) for kind, value in out.items()}

    def _sent(self, x: Tensor, graph: DynamicHeteroGraph | Mapping[Relation, Adjacency], relations: list[Relation],
              adjacencies: list[Adjacency], edge_weight: Mapping[Relation, Tensor] | str | None) -> Tensor:
        """What the relations between two types bring to the second."""
        source, _, destination = relations[0]
        typed = self._graphs[source, destination].get(tuple(adjacencies), lambda: TypedAdjacency.of(adjacencies))
        given = [None if edge_weight is None or (not isinstance(edge_weight, str) and one not in edge_weight) else
                 edge_weights(edge_weight if isinstance(edge_weight, str) else edge_weight[one],
                              adjacency if isinstance(graph, Mapping) else graph, one, adjacency, x)
                 for one, adjacency in zip(relations, adjacencies, strict=True)]
        weights = self._weights[source, destination].get(
            (typed.adjacency, *given, x.dtype, x.dim() == 3), lambda: self._edge_weights(typed, adjacencies, given, x))
        places = [self.by_source[source].index(one) for one in relations]
        if self.coefficient is None:
            return typed_spmm(typed, x, _rows(self.weight[source], places), edge_weight=weights)
        return typed_spmm(typed, x, self.weight[source], _rows(self.coefficient[source], places), edge_weight=weights)

    def _edge_weights(self, typed: TypedAdjacency, adjacencies: list[Adjacency], given: list[Tensor | None],
                      x: Tensor) -> Tensor | None:
        """Weights of all edges, one relation after the other, over the number of their like at each node."""
        whole: Tensor | None = None
        if any(one is not None for one in given):
            leading = next((one.shape[:1] for one in given if one is not None and one.dim() == 2), ())
            parts = [x.new_ones((*leading, adjacency.edges)) if one is None else one.to(x).expand(*leading, -1)
                     for one, adjacency in zip(given, adjacencies, strict=True)]
            whole = torch.cat(parts, -1)
        if self.normalise == "mean":
            inverse = 1.0 / typed.count().to(x.dtype)
            whole = inverse if whole is None else whole * inverse
        return as_four(whole, x)


def _rows(table: Tensor, places: list[int]) -> Tensor:
    """Some rows of a table; the table itself where these are all."""
    if places == list(range(table.shape[0])):
        return table
    each = table.unbind(0)
    return torch.stack([each[place] for place in places])
