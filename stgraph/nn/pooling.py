"""From nodes to patches and back: the coarse level of a hierarchy over a partition."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.patch_attention import to_slots
from stgraph.ops import gather_rows
from stgraph.partition import Partition

Pooling = Literal["mean", "sum", "attention"]


def _genuine(partition: Partition) -> Tensor:
    """Whether a slot is one that its node is answered from, ``[P, L]`` bool; copies and empty slots are not."""
    real = torch.zeros_like(partition.valid).index_fill(0, partition.slot_of_real, True)
    return real.view(partition.patches, partition.patch_size)


def patch_of_node(partition: Partition) -> Tensor:
    """The patch that holds each node, ``[N]`` int64."""
    patch = partition.slot_of_real // partition.patch_size
    return torch.empty_like(patch).index_copy(0, partition.node_of_real, patch)


class PatchPool(nn.Module):
    r"""One state for each patch: ``z_p = sum_i s_i h_i`` over its nodes, each counted once.

    Args:
        how: ``sum`` (``s_i = 1``), ``mean``, or ``attention`` (``s`` the softmax in the patch of a learned score
            ``v . tanh(W h_i)``).
        width: Channels ``D``, for ``attention``.

    Shapes:
        ``h [B, S, N, D]`` -> ``[B, S, P, D]``; an empty patch gives 0.

    Raises:
        InputError: for an unknown kind, or attention without a width.
    """

    def __init__(self, how: Pooling = "mean", width: int = 0) -> None:
        super().__init__()
        if how not in get_args(Pooling) or (how == "attention" and width < 1):
            raise InputError("unknown pooling, or attention without a width", field="how", value=how,
                             remedy=f"use one of {', '.join(get_args(Pooling))}, attention with the width")
        self.how = how
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False)) \
            if how == "attention" else None

    def forward(self, h: Tensor, partition: Partition) -> Tensor:
        """States of the patches."""
        x = to_slots(h, partition)                                                            # [B, S, P, L, D]
        real = _genuine(partition)[..., None]                                                 # [P, L, 1]
        if self.score is not None:
            share = self.score(x).masked_fill(~real, torch.finfo(x.dtype).min).softmax(-2)
            return torch.where(real, share * x, 0.0).sum(-2)
        total = torch.where(real, x, 0.0).sum(-2)
        return total if self.how == "sum" else total / real.sum(1).clamp(min=1)


class PatchUnpool(nn.Module):
    """Each node takes its patch's state, whole or its share of it.

    ``copy`` undoes a mean or attention pooling of equal nodes; ``share`` splits what a sum added up, so that the total
    over nodes equals the total over patches, exactly what a coarse forecast of counts needs.

    Args:
        how: ``copy`` or ``share``.

    Shapes:
        ``z [B, S, P, D]`` -> ``[B, S, N, D]``.

    Raises:
        InputError: for an unknown kind.
    """

    def __init__(self, how: Literal["copy", "share"] = "copy") -> None:
        super().__init__()
        if how not in ("copy", "share"):
            raise InputError("unknown unpooling", field="how", value=how, remedy="use copy or share")
        self.how = how

    def forward(self, z: Tensor, partition: Partition, size: Tensor | None = None) -> Tensor:
        """States of the nodes.

        Args:
            z: States of the patches.
            partition: The partition they were pooled by.
            size: For ``share``: what shares are in proportion to, not negative, ``[N]`` or ``[B, S, N, D]`` (the fine
                values that were added up, say); None, or where a patch's sizes add up to 0: equal shares.

        Raises:
            InputError: where the states are of other patches.
        """
        if z.shape[2] != partition.patches:
            raise InputError("the partition has other patches", field="partition", value=partition.patches,
                             remedy=f"the states have {z.shape[2]}")
        patch = patch_of_node(partition)
        fine = gather_rows(z, patch)
        if self.how == "copy":
            return fine
        ones = z.new_ones((1, 1, partition.num_nodes, 1))
        size = ones if size is None else size.to(z)[None, None, :, None] if size.dim() == 1 else size.to(z)
        total = torch.where(_genuine(partition)[..., None], to_slots(size, partition), 0.0).sum(-2)
        count = torch.where(_genuine(partition)[..., None], to_slots(ones, partition), 0.0).sum(-2)
        mass, number = gather_rows(total, patch), gather_rows(count, patch)
        return fine * torch.where(mass > 0, size / torch.where(mass > 0, mass, 1.0), 1.0 / number)
