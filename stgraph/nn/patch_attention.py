"""Attention inside patches of nodes (depth) and between patches (breadth), at a cost linear in the nodes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from stgraph.errors import InputError
from stgraph.ops import gather_rows
from stgraph.partition import Partition

Breadth = Literal["summaries", "same_slot", "none"]


# -------------------------------------------------------------------- nodes to slots and back
def to_slots(h: Tensor, partition: Partition) -> Tensor:
    """Lay nodes ``[B, S, N, D]`` out in patches ``[B, S, P, L, D]``; an empty slot shows some node.

    Raises:
        InputError: where the partition is of other nodes.
    """
    if h.shape[2] != partition.num_nodes:
        raise InputError("the partition is of other nodes", field="partition", value=f"{partition.num_nodes} nodes",
                         remedy=f"the states have {h.shape[2]}")
    return gather_rows(h, partition.all_idx).unflatten(2, (partition.patches, partition.patch_size))


def from_slots(x: Tensor, partition: Partition) -> Tensor:
    """Read the genuine slots of ``[B, S, P, L, D]`` back as nodes ``[B, S, N, D]``."""
    slot = torch.empty_like(partition.slot_of_real).index_copy(0, partition.node_of_real, partition.slot_of_real)
    return gather_rows(x.flatten(2, 3), slot)


def attend(query: Tensor, answers: Tensor, heads: int, allowed: Tensor | None = None,
           dropout: float = 0.0) -> Tensor:
    """Attention within each group, ``softmax(q k^T / sqrt(d)) v`` per head.

    Args:
        query: ``[X, G, Lq, D]``.
        answers: ``[X, G, Lk, 2 D]``, the keys ``k`` and beside them the values ``v``.
        heads: Divides ``D``.
        allowed: ``[X or 1, G, Lk]`` bool, False for keys that nobody may look at; a group without any gets 0.
        dropout: Of the weights.

    Returns:
        ``[X, G, Lq, D]``.
    """
    groups = query.shape[1]
    # groups take the place of heads, so that the fused kernels for four axes apply
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(2, 3).flatten(1, 2) for x in (query, *answers.chunk(2, -1)))
    mask = some = None
    if allowed is not None:
        some = allowed.any(-1, keepdim=True)                                                  # [X or 1, G, 1]
        mask = (allowed | ~some).repeat_interleave(heads, 1)[:, :, None]                      # [X, G * heads, 1, Lk]
    mixed = scaled_dot_product_attention(q, k, v, mask, dropout)                              # [X, G * heads, Lq, d]
    mixed = mixed.unflatten(1, (groups, heads)).transpose(2, 3).flatten(3)
    return mixed if some is None else torch.where(some[..., None], mixed, 0.0)


class GroupAttention(nn.Module):
    """Self-attention within each group of a table ``[X, G, L, D]``: ``out(softmax(q k^T / sqrt(d)) v)``.

    Args:
        width: Channels ``D``.
        heads: Attention heads; divides ``width``.
        dropout: On the weights and on the result.
    """

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, allowed: Tensor | None = None) -> Tensor:
        """``h [X, G, L, D]``, ``allowed [X or 1, G, L]`` bool or None -> ``[X, G, L, D]``."""
        query, answers = self.qkv(h).split([h.shape[-1], 2 * h.shape[-1]], -1)
        mixed = attend(query, answers, self.heads, allowed, self.rate if self.training else 0.0)
        return self.dropout(self.out(mixed))


class SummaryBreadth(nn.Module):
    """Breadth by way of summaries: slots -> summaries of their patch -> hubs -> summaries -> slots.

    Each patch is read by ``R'`` learned queries into as many summaries, all summaries by a few hubs; summaries look at
    the hubs, slots at the summaries of their patch (induced points, after Lee et al., Set Transformer, ICML 2019, on
    two levels). With a bounded size of patches the cost is linear in the nodes.

    Args:
        width: Channels ``D``.
        heads: Attention heads; divides ``width``.
        summaries: ``R'`` per patch.
        hubs: Number of hubs.
        dropout: On weights and result.
    """

    def __init__(self, width: int, heads: int = 4, summaries: int = 2, hubs: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.summary = nn.Parameter(torch.randn(summaries, width) * width**-0.5)
        self.hub = nn.Parameter(torch.randn(hubs, width) * width**-0.5)
        self.read_slots, self.read_summaries = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.ask_hubs, self.read_hubs = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.ask, self.answer = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, h: Tensor, allowed: Tensor | None = None) -> Tensor:
        """``h [X, P, L, D]``, ``allowed [X or 1, P, L]`` bool or None -> ``[X, P, L, D]``."""
        batch, patches = h.shape[:2]
        rate = self.rate if self.training else 0.0
        query = self.summary.expand(batch, patches, -1, -1)
        summary = attend(query, self.read_slots(h), self.heads, allowed, rate)  # [X, P, R', D]
        every = summary.flatten(1, 2)[:, None]                                                # [X, 1, P R', D]
        full = None
        if allowed is not None:  # an empty patch has nothing to tell
            full = allowed.any(-1).repeat_interleave(len(self.summary), 1)[:, None]           # [X or 1, 1, P R']
        query = self.hub.expand(batch, 1, -1, -1)
        hub = attend(query, self.read_summaries(every), self.heads, full, rate)
        every = every + attend(self.ask_hubs(every), self.read_hubs(hub), self.heads, None, rate)
        summary = every.squeeze(1).unflatten(1, (patches, -1))
        mixed = attend(self.ask(h), self.answer(summary), self.heads, None, rate)
        return self.dropout(self.out(mixed))


# -------------------------------------------------------------------- the block
class PatchAttention(nn.Module):
    r"""Nodes look at the nodes of their patch, then at what other patches show.

    .. math:: d = \mathrm{Attn}_L(h), \qquad m = d + \mathrm{Breadth}(\mathrm{LN}(h + d))

    After PatchSTG (Y. Fang et al., KDD 2025, arXiv 2412.09972). ``breadth="same_slot"`` is the paper's: slot ``l`` of
    all patches, cost ``N (L + P) D``. ``breadth="summaries"`` (:class:`SummaryBreadth`) costs ``N (L + R') D``, linear
    where patches are bounded. Empty slots are never looked at, copies are looked at and not answered.

    Args:
        width: Channels ``D``.
        heads: Attention heads; divides ``width``.
        breadth: How patches see each other: ``summaries``, ``same_slot`` or ``none``.
        depth: Whether nodes of a patch see each other; without it only the breadth is left, ``m = Breadth(h)``.
        summaries: ``R'`` per patch, for ``summaries``.
        hubs: Places where summaries meet, for ``summaries``.
        dropout: On weights and results.

    Shapes:
        ``h [B, S, N, D]`` and a :class:`~stgraph.partition.Partition` of the ``N`` nodes -> ``[B, S, N, D]``.

    Raises:
        InputError: for heads that do not divide the width, an unknown breadth, or neither depth nor breadth.
    """

    def __init__(self, width: int, heads: int = 4, breadth: Breadth = "summaries", depth: bool = True,
                 summaries: int = 2, hubs: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError("the attention heads divide the width", field="heads", value=heads,
                             remedy=f"choose a divisor of {width}")
        if breadth not in get_args(Breadth) or (breadth == "none" and not depth):
            raise InputError("unknown breadth, or nothing to do", field="breadth", value=breadth,
                             remedy=f"use one of {', '.join(get_args(Breadth))}, and none only with depth")
        if min(summaries, hubs) < 1:
            raise InputError("there is at least one summary and one hub", field="summaries",
                             value=f"summaries={summaries}, hubs={hubs}", remedy="choose 1 or more")
        self.kind = breadth
        self.depth = GroupAttention(width, heads, dropout) if depth else None
        self.norm = nn.LayerNorm(width) if depth and breadth != "none" else None
        self.breadth: nn.Module | None = None
        if breadth == "same_slot":
            self.breadth = GroupAttention(width, heads, dropout)
        elif breadth == "summaries":
            self.breadth = SummaryBreadth(width, heads, summaries, hubs, dropout)

    def forward(self, h: Tensor, partition: Partition, observed: Tensor | None = None) -> Tensor:
        """Messages ``[B, S, N, D]``.

        Args:
            h: States.
            partition: The patches.
            observed: ``[B, S, N]`` bool; nobody looks at what was not observed.

        Raises:
            InputError: where the partition is of other nodes.
        """
        batch, tokens = h.shape[:2]
        x = to_slots(h, partition).flatten(0, 1)                                              # [B S, P, L, D]
        allowed = None
        if observed is not None or partition.valid.numel() > partition.num_nodes:
            allowed = partition.valid.view(1, partition.patches, -1)
            if observed is not None:
                allowed = allowed & partition.gather(observed, 2).flatten(0, 1).view(len(x), *allowed.shape[1:])
        message = None if self.depth is None else self.depth(x, allowed)
        if self.breadth is not None:
            seen = x if self.norm is None or message is None else self.norm(x + message)
            if self.kind == "same_slot":
                across = None if allowed is None else allowed.transpose(1, 2)
                heard = self.breadth(seen.transpose(1, 2), across).transpose(1, 2)
            else:
                heard = self.breadth(seen, allowed)
            message = heard if message is None else message + heard
        assert message is not None  # refused when made
        return from_slots(message.unflatten(0, (batch, tokens)), partition)


def patch_attention_cost(tokens: int, patches: int, patch_size: int, width: int, breadth: Breadth = "summaries",
                         depth: bool = True, summaries: int = 2, hubs: int = 8) -> int:
    """Floating-point operations of the products in one forward pass of :class:`PatchAttention`, two per multiplication.

    Args:
        tokens: Batch times time tokens, ``B S``.
        patches: ``P``.
        patch_size: ``L``.
        width: ``D``.
        breadth: As of the block.
        depth: As of the block.
        summaries: As of the block.
        hubs: As of the block.
    """
    slots, met = patches * patch_size, patches * summaries
    own = 4 * slots * width  # projections to query, key, value and out
    total = own * width + 2 * slots * patch_size * width if depth else 0
    if breadth == "same_slot":
        total += own * width + 2 * slots * patches * width
    elif breadth == "summaries":
        slot_side = own * width + 2 * 2 * slots * summaries * width
        summary_side = (2 + 1 + 2) * met * width**2 + 2 * hubs * width**2 + 2 * 2 * met * hubs * width
        total += slot_side + summary_side
    return 2 * tokens * total
