"""Typed, time-varying, sparse message passing: what nodes hear along the edges of several relations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.ops import Adjacency, sddmm, spmm

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph

RelationName = str | tuple[str, str, str]
"""A relation among nodes of one type, or ``(source type, relation, destination type)``."""


@dataclass(frozen=True)
class Relation:
    """The edges of one relation and what is known of each, in the order of the edges.

    Args:
        adjacency: ``E`` edges.
        weight: ``[E]``, ``[E, S]`` per time token, or ``[E, B or 1, S or 1]``; None: all ones.
        valid_from: ``[E]`` int64 seconds from which on an edge lives; None: always did.
        valid_to: ``[E]`` int64 seconds from which on it does no more; None: never ends.
        features: ``[E, K]`` for a learned gate.

    Raises:
        InputError: where a tensor has not one row per edge.
    """

    adjacency: Adjacency
    weight: Tensor | None = None
    valid_from: Tensor | None = None
    valid_to: Tensor | None = None
    features: Tensor | None = None

    def __post_init__(self) -> None:
        for name, axes in (("weight", (1, 2, 3)), ("valid_from", (1,)), ("valid_to", (1,)), ("features", (2,))):
            value = getattr(self, name)
            if value is not None and (value.dim() not in axes or value.shape[0] != self.adjacency.edges):
                raise InputError("a relation has one row per edge", field=name, value=list(value.shape),
                                 remedy=f"give {self.adjacency.edges} rows and {' or '.join(map(str, axes))} axes")

    @classmethod
    def of(cls, graph: DynamicHeteroGraph, kind: tuple[str, str, str], weight: str = "edge_weight") -> Relation:
        """A relation of a graph, with the attribute ``weight`` and the lives of its edges where it has them."""
        store = graph[kind]
        return cls(Adjacency.of(graph, kind), store[weight].float() if weight in store else None,
                   store.valid_from if "valid_from" in store else None,
                   store.valid_to if "valid_to" in store else None)

    def reversed(self) -> Relation:
        """The same edges from their destinations to their sources."""
        return replace(self, adjacency=self.adjacency.transpose)

    def to(self, device: torch.device | str) -> Relation:
        """On another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, adjacency=self.adjacency.to(device), **moved)

    def weights(self, like: Tensor, times: Tensor | None = None) -> Tensor | None:
        """What each edge weighs at each token, ``[E, B or 1, S or 1, 1]`` in the type of ``like``; None: all ones.

        Args:
            like: The features.
            times: ``[S]`` or ``[B, S]`` int64 seconds of the tokens; an edge weighs 0 where it does not live.

        Raises:
            InputError: where edges have lives and tokens have no times.
        """
        weight = None
        if self.weight is not None:
            given = self.weight.to(like.dtype)
            weight = given[:, None, None, None] if given.dim() == 1 else \
                given[:, None, :, None] if given.dim() == 2 else given[..., None]
        if self.valid_from is None and self.valid_to is None:
            return weight
        if times is None:
            raise InputError("edges live from time to time, so the times of the tokens must be known", field="times",
                             remedy="give the seconds of the tokens, or a relation without valid_from and valid_to")
        now = times if times.dim() == 2 else times[None]                                      # [B or 1, S]
        alive = torch.ones((self.adjacency.edges, *now.shape), dtype=torch.bool, device=now.device)
        if self.valid_from is not None:
            alive = alive & (self.valid_from[:, None, None] <= now)
        if self.valid_to is not None:
            alive = alive & (now < self.valid_to[:, None, None])
        living = alive[..., None].to(like.dtype)
        return living if weight is None else weight * living


def relations_of(graph: DynamicHeteroGraph, weight: str = "edge_weight") -> dict[RelationName, Relation]:
    """All relations of a graph by their types."""
    return {kind: Relation.of(graph, kind, weight) for kind in graph.edge_types}


def with_reversed(relations: Mapping[RelationName, Relation]) -> dict[RelationName, Relation]:
    """The relations, and each of them against its direction under the name ``"reversed NAME"``."""
    out = dict(relations)
    for key, relation in relations.items():
        back: RelationName = f"reversed {key}" if isinstance(key, str) else (key[2], f"reversed {key[1]}", key[0])
        out[back] = relation.reversed()
    return out


def aggregate(adjacency: Adjacency, x: Tensor, weight: Tensor | None = None, normalised: bool = True,
              observed: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """Weighted sum, or mean, of what the sources of each destination show.

    ``out[j] = sum_e gate[e] weight[e] x[source of e] / sum_e |weight[e]|`` over the in-edges of ``j``; 0 where these
    weigh nothing.

    Args:
        adjacency: The graph.
        x: ``[B, S, N_source, D]``.
        weight: ``[E, B or 1, S or 1, 1]``; None: all ones.
        normalised: Whether to divide.
        observed: ``[B, S, N_source]`` bool; sources that are not observed send nothing and count for nothing.
        gate: ``[E, B, S, heads]``; None: all ones.

    Returns:
        ``[B, S, N_destination, D]``.
    """
    if weight is None and observed is None and gate is None:
        return spmm(adjacency, x, reduce="mean" if normalised else "sum")
    if observed is not None:
        x = torch.where(observed[..., None], x, 0.0)
    carried = weight if gate is None else gate if weight is None else weight * gate
    total = spmm(adjacency, x, weight=carried)
    if not normalised:
        return total
    if observed is not None:
        ones = observed[..., None].to(x.dtype)
    else:
        batch, time = (1, 1) if weight is None else weight.shape[1:3]
        ones = x.new_ones((batch, time, adjacency.columns, 1))
    # not abs(): its gradient at 0 would hide from an edge that was not chosen what it adds to the sum
    mass = spmm(adjacency, ones, weight=None if weight is None else torch.where(weight < 0, -weight, weight))
    return total / torch.where(mass > 0, mass, 1.0)


class TypedMessagePassing(nn.Module):
    r"""Messages along the edges of several relations among nodes of several types.

    .. math:: m_j = \sum_r W_r \sum_{i \in N_r(j)} w_{rij}(t)\, h_i, \qquad W_r = \sum_b a_{rb} V_b

    after Schlichtkrull et al., "Modeling Relational Data with Graph Convolutional Networks" (ESWC 2018). Features are
    added up before they are projected, so no edge ever holds a vector, and a relation costs ``E D + N D^2``.
    ``a_r`` is a mixture that all relations share plus what is the relation's own, so a relation that the weights have
    no name for, in another city, is read by the shared mixture, which every relation trained.

    ``w`` is the edge's weight at the token, 0 where the edge does not live, divided by the sum over the in-edges of
    ``j``. With ``gate`` it is multiplied by ``2 sigmoid(q_j . k_i / sqrt(d) + f . features + c_r)``, 1 where nothing
    was learned, per head.

    Args:
        width: Channels ``D``.
        relations: Names that get weights of their own: names of relations, whatever the types, or triples.
        bases: Number of matrices ``V``.
        normalised: Whether weights are divided by their sum over in-edges.
        gate: Whether both ends and the features of an edge decide how much it carries.
        heads: Heads of the gate; divides ``width``.
        edge_features: Features ``K`` of an edge that the gate reads.
        dropout: On the messages.

    Shapes:
        ``h [B, S, N, D]`` -> ``[B, S, N, D]``, or a dict of these by node type -> a dict of the same types.

    Raises:
        InputError: for sizes that do not fit.
    """

    def __init__(self, width: int, relations: Sequence[RelationName] = (), bases: int = 2, normalised: bool = True,
                 gate: bool = False, heads: int = 1, edge_features: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError("the heads of the gate divide the width", field="heads", value=heads,
                             remedy=f"choose a divisor of {width}")
        if bases < 1:
            raise InputError("a relation is a mixture of at least one basis", field="bases", value=bases,
                             remedy="choose 1 or more")
        self.width, self.heads, self.normalised, self.gated = width, heads, normalised, gate
        self.names = {name: place for place, name in enumerate(dict.fromkeys(relations))}
        self.basis = nn.Parameter(torch.stack([nn.init.xavier_uniform_(torch.empty(width, width))
                                               for _ in range(bases)]))                       # [b, D, D]
        self.shared = nn.Parameter(torch.full((bases,), bases**-0.5))
        self.own = nn.Parameter(torch.zeros(len(self.names), bases)) if self.names else None
        if gate:
            self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
            self.shared_gate = nn.Parameter(torch.zeros(heads))
            self.own_gate = nn.Parameter(torch.zeros(len(self.names), heads)) if self.names else None
            self.feature = nn.Linear(edge_features, heads, bias=False) if edge_features else None
        self.dropout = nn.Dropout(dropout)

    @overload
    def forward(self, h: Tensor, relations: Mapping[RelationName, Relation | Adjacency], times: Tensor | None = None,
                observed: Tensor | None = None) -> Tensor: ...
    @overload
    def forward(self, h: dict[str, Tensor], relations: Mapping[RelationName, Relation | Adjacency],
                times: Tensor | None = None,
                observed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]: ...
    def forward(self, h: Tensor | dict[str, Tensor], relations: Mapping[RelationName, Relation | Adjacency],
                times: Tensor | None = None,
                observed: Tensor | Mapping[str, Tensor] | None = None) -> Tensor | dict[str, Tensor]:
        """Messages, 0 for nodes that nobody sends to.

        Args:
            h: States of one type, or of several by name; a relation with a type that is absent is passed over.
            relations: What edges there are in this city.
            times: ``[S]`` or ``[B, S]`` int64 seconds of the tokens, where edges have lives.
            observed: ``[B, S, N]`` bool (by type as ``h``): nodes that are not observed send nothing.

        Raises:
            InputError: naming the relation, where it does not fit the nodes.
        """
        states = h if isinstance(h, dict) else {"": h}
        seen = {} if observed is None else {"": observed} if isinstance(observed, Tensor) else observed
        out: dict[str, Tensor] = {}
        for key, given in relations.items():
            source, destination = self._ends(key, isinstance(h, dict))
            if source not in states or destination not in states:
                continue
            relation = given if isinstance(given, Relation) else Relation(given)
            x, to = states[source], states[destination]
            if (relation.adjacency.columns, relation.adjacency.rows) != (x.shape[2], to.shape[2]):
                raise InputError("a relation does not fit the nodes", field=f"relations[{key!r}]",
                                 value=f"{relation.adjacency.columns} -> {relation.adjacency.rows}",
                                 remedy=f"there are {x.shape[2]} -> {to.shape[2]} nodes")
            weight, gate = relation.weights(x, times), self._gate(relation, x, to, self._place(key))
            heard = aggregate(relation.adjacency, x, weight, self.normalised, seen.get(source), gate)
            message = heard @ self.projection(key)
            out[destination] = out[destination] + message if destination in out else message
        out = {kind: self.dropout(out[kind]) if kind in out else torch.zeros_like(x) for kind, x in states.items()}
        return out if isinstance(h, dict) else out[""]

    def projection(self, name: RelationName) -> Tensor:
        """``W_r`` of a relation, ``[D, D]``, for row vectors; the shared mixture for an unknown one."""
        place = self._place(name)
        mixture = self.shared if place is None or self.own is None else self.shared + self.own[place]
        return torch.einsum("b,bij->ij", mixture, self.basis)

    def _place(self, name: RelationName) -> int | None:
        """Row of a relation's own weights: those of the triple, else those of its middle name."""
        if name in self.names or isinstance(name, str):
            return self.names.get(name)
        return self.names.get(name[1])

    @staticmethod
    def _ends(key: RelationName, several: bool) -> tuple[str, str]:
        if not several:
            if not isinstance(key, str) and key[0] != key[2]:
                raise InputError("states of one type hear relations among that type only", field="relations",
                                 value=key, remedy="give the states as a dict by node type")
            return "", ""
        if isinstance(key, str):
            raise InputError("a relation between node types is named (source, relation, destination)",
                             field="relations", value=key, remedy="give the types at both ends")
        return key[0], key[2]

    def _gate(self, relation: Relation, x: Tensor, to: Tensor, place: int | None) -> Tensor | None:
        """How much each edge carries, ``[E, B, S, heads]`` between 0 and 2; None without a gate."""
        if not self.gated:
            return None
        score = sddmm(relation.adjacency, self.query(to), self.key(x), self.heads)            # [B, S, E, heads]
        score = score * math.sqrt(self.heads / self.width) + self.shared_gate
        if place is not None and self.own_gate is not None:
            score = score + self.own_gate[place]
        if self.feature is not None and relation.features is not None:
            score = score + self.feature(relation.features.to(x.dtype))
        return 2 * score.sigmoid().permute(2, 0, 1, 3)
