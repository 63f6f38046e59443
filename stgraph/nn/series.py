"""Series on a canonical grid: each node and channel by itself, its steps spread over cells of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from stgraph.nn.time_patches import PatchLayout


def on_cells(features: Tensor, layout: PatchLayout, mean_of: int = 0) -> Tensor:
    """Features of steps, laid on the cells of tokens.

    Args:
        features: ``[B, T, N, C, K]``; the first ``mean_of`` are 0 where not observed, and the one after them is 1
            where observed, else 0.
        layout: How steps and cells lie on one another.
        mean_of: How many features are means over the observed part of a cell; the others are sums weighted by how
            much of the cell a step covers, so what the steps do not cover is 0.

    Returns:
        ``[B C, S, N, G K]``: each channel a sample of its own.
    """
    total = features.new_zeros(())
    for step, share in zip(layout.step.T, layout.share.T, strict=True):  # as many as meet in one cell
        total = total + share.to(features)[:, None, None, None] * features[:, step]          # [B, S G, N, C, K]
    if mean_of:
        seen = total[..., mean_of : mean_of + 1]
        total = torch.cat([total[..., :mean_of] / torch.where(seen > 0, seen, 1), total[..., mean_of:]], -1)
    cells = total.unflatten(1, (layout.tokens, -1)).permute(0, 4, 1, 3, 2, 5)                # [B, C, S, N, G, K]
    return cells.reshape(-1, layout.tokens, features.shape[2], cells.shape[-2] * cells.shape[-1])


def off_cells(cells: Tensor, layout: PatchLayout, channels: int) -> Tensor:
    """Back from cells to steps, each the mean of the cells it covers.

    Args:
        cells: ``[B C, S, N, G K]``.
        layout: As it was laid on.
        channels: ``C``.

    Returns:
        ``[B, T, N, C, K]``.
    """
    count = len(layout.step) // layout.tokens
    x = cells.unflatten(0, (-1, channels)).unflatten(-1, (count, -1))                        # [B, C, S, N, G, K]
    x = x.permute(0, 2, 4, 3, 1, 5).flatten(1, 2)                                            # [B, S G, N, C, K]
    out = x.new_zeros(())
    for cell, part in zip(layout.cell.T, layout.part.T, strict=True):
        out = out + part.to(x)[:, None, None, None] * x[:, cell]
    return out


def interpolate(values: Tensor, mask: Tensor, otherwise: Tensor) -> Tensor:
    """Straight lines in time between observed readings; the nearest one before the first and after the last.

    Args:
        values: ``[B, T, N, C]``.
        mask: Of the same shape, True where observed.
        otherwise: What stands where a series shows nothing at all, to be broadcast to the same shape.

    Returns:
        ``[B, T, N, C]``, the readings themselves where observed.
    """
    length = values.shape[1]
    steps = torch.arange(length, device=values.device)[:, None, None].expand_as(values)
    before = torch.where(mask, steps, -1).cummax(1).values
    after = torch.where(mask, steps, length).flip(1).cummin(1).values.flip(1)
    low, high = torch.where(before < 0, after, before), torch.where(after == length, before, after)
    some = mask.any(1, keepdim=True)
    low, high = torch.where(some, low, 0), torch.where(some, high, 0)
    share = (steps - low) / (high - low).clamp(min=1)
    first, last = values.gather(1, low), values.gather(1, high)
    return torch.where(some, torch.lerp(first, last, share.to(values)), otherwise)
