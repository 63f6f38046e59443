"""Hypergraphs: what several nodes do together, as groups given by an incidence or learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.message_passing import Relation, aggregate
from stgraph.ops import Adjacency


def event_incidence(place: Tensor, group: Tensor, token: Tensor, places: int, groups: int, tokens: int) -> Relation:
    """Incidence of events: at each time token a group joins the places where it had events, weighted by their number.

    Memory grows with the pairs of place and group that had any event, not with places times groups.

    Args:
        place: ``[K]`` int64 place of each event.
        group: ``[K]`` int64 its type, or any other group.
        token: ``[K]`` int64 time token.
        places: Number of places ``N``.
        groups: Number of groups ``M``, the hyperedges.
        tokens: Number of time tokens ``S``.

    Returns:
        Places -> groups with weights ``[E, S]`` float32, for :class:`HypergraphConvolution`.

    Raises:
        InputError: where a place, group or token is out of range.
    """
    for name, value, limit in (("place", place, places), ("group", group, groups), ("token", token, tokens)):
        if len(value) and not 0 <= int(value.min()) <= int(value.max()) < limit:
            raise InputError("an event is out of range", field=name, value=f"{int(value.min())} .. {int(value.max())}",
                             remedy=f"positions run from 0 to {limit - 1}")
    pair, which = torch.unique(group * places + place, return_inverse=True)
    weight = torch.zeros((len(pair), tokens), device=place.device)
    weight.index_put_((which, token), torch.ones(len(token), device=place.device), accumulate=True)
    adjacency = Adjacency.of_edges(torch.stack([pair % places, pair // places]), places, groups)
    return Relation(adjacency, weight)


class HypergraphConvolution(nn.Module):
    r"""Nodes to the hyperedges they are in, and back: means of means.

    .. math:: m = D^{-1} H\, \sigma(B^{-1} H^\top h)\, \Theta

    ``H [N, M]`` is the incidence (weights not negative), ``D`` its sums over hyperedges, ``B`` over nodes; ``sigma``
    is the identity, or a projection with leaky ReLU. After Feng et al., "Hypergraph Neural Networks" (AAAI 2019), and
    the global branch of ST-HSL (Z. Li et al., ICDE 2022). A node in no hyperedge gets 0. Cost ``E D + N D^2``.

    Args:
        width: Channels ``D``.
        between: Whether hyperedges have a layer of their own; as in ST-HSL, with leaky ReLU.
        dropout: On the result.

    Shapes:
        ``h [B, S, N, D]`` and an incidence, :class:`~stgraph.nn.message_passing.Relation` of ``N`` sources and ``M``
        destinations, -> ``[B, S, N, D]``.
    """

    def __init__(self, width: int, between: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.between = nn.Sequential(nn.Linear(width, width, bias=False), nn.LeakyReLU()) if between else None
        self.out, self.dropout = nn.Linear(width, width, bias=False), nn.Dropout(dropout)

    def forward(self, h: Tensor, incidence: Relation | Adjacency, times: Tensor | None = None,
                observed: Tensor | None = None) -> Tensor:
        """Messages ``[B, S, N, D]``.

        Args:
            h: States.
            incidence: Nodes -> hyperedges, with weights ``[E]``, ``[E, S]`` or ``[E, B or 1, S or 1]``.
            times: ``[S]`` or ``[B, S]`` int64 seconds of the tokens, where memberships have lives.
            observed: ``[B, S, N]`` bool; nodes that are not observed tell their hyperedges nothing.

        Raises:
            InputError: where the incidence is of other nodes.
        """
        relation = incidence if isinstance(incidence, Relation) else Relation(incidence)
        adjacency, weight = relation.adjacency, relation.weights(h, times)
        if adjacency.columns != h.shape[2]:
            raise InputError("the incidence is of other nodes", field="incidence", value=f"{adjacency.columns} nodes",
                             remedy=f"the states have {h.shape[2]}")
        group = aggregate(adjacency, h, weight, observed=observed)                            # [B, S, M, D]
        if self.between is not None:
            group = self.between(group)
        return self.dropout(self.out(aggregate(adjacency.transpose, group, weight)))


class LearnedHypergraph(nn.Module):
    r"""Hyperedges that are learned: each has a prototype, and nodes belong to those that they are like.

    .. math:: g = \mathrm{LeakyReLU}\big(\mathrm{softmax}_N(K)^\top V h\big), \qquad
              m = \Theta\, \mathrm{softmax}_M(Q)\, g

    ``K`` and ``Q [N, M]`` are two linear maps of a node's state and place code, so all nodes meet by way of ``M``
    hyperedges, a mixing matrix of rank ``M`` that is never formed; cost ``N M D``. ST-HSL (Z. Li et al., ICDE 2022)
    learns the incidence as a table per day, node and category, which ties it to one city and one history; here it is
    read from states, so one set of weights serves any network.

    Args:
        width: Channels ``D``.
        hyperedges: Number ``M``.
        codes: Length of place codes that also decide where a node belongs; 0 for none.
        dropout: On the result.

    Shapes:
        ``h [B, S, N, D]``, ``code [N, codes]`` or None -> ``[B, S, N, D]``.
    """

    def __init__(self, width: int, hyperedges: int = 16, codes: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.member, self.reader = nn.Linear(width, hyperedges), nn.Linear(width, hyperedges)
        self.code = nn.Linear(codes, 2 * hyperedges, bias=False) if codes else None
        self.value, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, code: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """Messages ``[B, S, N, D]``.

        Args:
            h: States.
            code: ``[N, codes]`` place codes, where the block was made with some.
            observed: ``[B, S, N]`` bool; nodes that are not observed belong to no hyperedge, but hear of them.

        Raises:
            InputError: where the block reads place codes and none are given.
        """
        member, reader = self.member(h), self.reader(h)                                       # [B, S, N, M]
        if self.code is not None:
            if code is None:
                raise InputError("the hypergraph reads place codes", field="code", remedy="give codes [N, F]")
            by_place = self.code(code).chunk(2, -1)
            member, reader = member + by_place[0], reader + by_place[1]
        if observed is not None:
            member = member.masked_fill(~observed[..., None], torch.finfo(member.dtype).min)
        share = member.softmax(2)
        if observed is not None:  # where no node is observed the shares would be equal
            share = torch.where(observed[..., None], share, 0.0)
            h = torch.where(observed[..., None], h, 0.0)
        group = nn.functional.leaky_relu(share.transpose(2, 3) @ self.value(h))               # [B, S, M, D]
        return self.dropout(self.out(reader.softmax(-1) @ group))
