"""Which observed values to hide: a registry of masks with an exact count.

Every mask chooses among what was observed, in each sample by itself, and hides ``rate`` of it, rounded to the nearest
whole number. ``random`` and ``block`` count entries; ``tube``, ``whole_node`` and ``whole_step`` count places, nodes
and runs of steps that hold an observation; ``future`` counts steps.

=============  ==================================================================================================
``random``     single entries
``block``      runs of ``length`` steps of one series at a random phase; the last one drawn is cut to the count
``tube``       one channel of one place at all steps (UniST: the same cells at all times)
``whole_node``  a node with all its channels at all steps (the spatial half of STD-MAE)
``whole_step``  ``length`` consecutive steps of all nodes, counted from the first (the temporal half of STD-MAE)
``future``     the last steps
=============  ==================================================================================================

Masks of hourly tokens (S tokens of a node) are drawn alike, from what was observed of each token, ``[B, S, N]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.objectives.views import uniform


class _Draw(NamedTuple):
    """What a mask is drawn from: ``observed [B, T, N, C]``, the rate, steps of a run, region of each node ``[N]``."""

    observed: Tensor
    rate: float
    length: int
    groups: Tensor
    generator: torch.Generator | None


def draw_mask(kind: str, observed: Tensor, rate: float, *, length: int = 1, groups: Tensor | None = None,
              generator: torch.Generator | None = None) -> Tensor:
    """What to hide, by a mask of the registry.

    Args:
        kind: A key of :data:`MASKS`.
        observed: ``[B, T, N, C]`` or ``[B, S, N]`` bool.
        rate: Share to hide, 0 to 1.
        length: Steps of a run, for ``block`` and ``whole_step``.
        groups: ``[N]`` int64 region of each node, from 0; the nodes of a region are hidden together by ``block``,
            ``tube`` and ``whole_node``. None: each node by itself.
        generator: Where the randomness comes from; None for torch's own.

    Returns:
        Bool of the same shape, True where hidden; never where nothing was observed.

    Raises:
        InputError: for an unknown mask, a rate outside 0 to 1, or a run without steps.
    """
    if kind not in MASKS:
        raise InputError("unknown mask", field="kind", value=kind, remedy=f"use one of {', '.join(MASKS)}")
    if not 0 <= rate <= 1:
        raise InputError("a share lies between 0 and 1", field="rate", value=rate)
    if length < 1:
        raise InputError("a run has at least one step", field="length", value=length)
    full = observed if observed.dim() == 4 else observed[..., None]
    nodes = torch.arange(full.shape[2], device=full.device) if groups is None else groups.to(full.device)
    return MASKS[kind](_Draw(full, rate, length, nodes, generator)).view(observed.shape)


def draw_decoupled(observed: Tensor, time_rate: float, node_rate: float, *, length: int = 1,
                   generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Two masks of one window, for two encoders: whole steps for one, whole nodes for the other.

    H. Gao, R. Jiang, Z. Dong et al.: Spatial-Temporal-Decoupled Masked Pre-training for Spatiotemporal Forecasting,
    IJCAI 2024.

    Args:
        observed: ``[B, T, N, C]`` or ``[B, S, N]`` bool.
        time_rate: Share of the runs of steps to hide in the first mask.
        node_rate: Share of the nodes to hide in the second.
        length: Steps of a run.
        generator: Where the randomness comes from.
    """
    return (draw_mask("whole_step", observed, time_rate, length=length, generator=generator),
            draw_mask("whole_node", observed, node_rate, generator=generator))


def count_to_hide(rate: float, available: Tensor) -> Tensor:
    """``rate`` of so many, rounded half up, int64."""
    return (rate * available.double() + 0.5).floor().long()


# -------------------------------------------------------------------- the masks
def _random(draw: _Draw) -> Tensor:
    return _first_entries(uniform(draw.observed.shape, draw.observed.device, draw.generator), draw)


def _block(draw: _Draw) -> Tensor:
    batch, steps, _, channels = draw.observed.shape
    device, regions = draw.observed.device, int(draw.groups.max()) + 1
    phase = (uniform((batch, 1, regions, channels), device, draw.generator) * draw.length).long()
    score = uniform((batch, (steps - 1) // draw.length + 2, regions, channels), device, draw.generator)
    run = (torch.arange(steps, device=device)[:, None, None] + phase) // draw.length         # [B, T, regions, C]
    return _first_entries(score.gather(1, run)[:, :, draw.groups], draw)


def _tube(draw: _Draw) -> Tensor:
    channels = draw.observed.shape[3]
    unit = draw.groups[:, None] * channels + torch.arange(channels, device=draw.groups.device)
    return _whole_units(unit[None], draw)


def _whole_node(draw: _Draw) -> Tensor:
    return _whole_units(draw.groups[None, :, None], draw)


def _whole_step(draw: _Draw) -> Tensor:
    steps = torch.arange(draw.observed.shape[1], device=draw.observed.device)
    return _whole_units((steps // draw.length)[:, None, None], draw)


def _future(draw: _Draw) -> Tensor:
    steps = draw.observed.shape[1]
    first = steps - int(count_to_hide(draw.rate, torch.tensor(steps)))
    late = torch.arange(steps, device=draw.observed.device) >= first
    return draw.observed & late[:, None, None]


MASKS: dict[str, Callable[[_Draw], Tensor]] = {
    "random": _random, "block": _block, "tube": _tube, "whole_node": _whole_node, "whole_step": _whole_step,
    "future": _future,
}


def _first_entries(score: Tensor, draw: _Draw) -> Tensor:
    """The observed entries of lowest score; those of equal score along one series, step after step."""
    by_series = score.masked_fill(~draw.observed, 2.0).permute(0, 2, 3, 1)                   # [B, N, C, T]
    chosen = _lowest(by_series.flatten(1), count_to_hide(draw.rate, draw.observed.flatten(1).sum(1)))
    return chosen.view(by_series.shape).permute(0, 3, 1, 2).contiguous()


def _whole_units(unit: Tensor, draw: _Draw) -> Tensor:
    """All observed entries of some units; ``unit`` numbers them and broadcasts to ``[T, N, C]``."""
    flat = unit.expand(draw.observed.shape[1:]).flatten()
    seen = draw.observed.new_zeros((len(draw.observed), int(unit.max()) + 1), dtype=torch.float32)
    seen.index_add_(1, flat, draw.observed.flatten(1).float())
    score = uniform(seen.shape, seen.device, draw.generator).masked_fill(seen == 0, 2.0)
    chosen = _lowest(score, count_to_hide(draw.rate, (seen > 0).sum(1)))                     # [B, U]
    return chosen[:, flat].view(draw.observed.shape) & draw.observed


def _lowest(score: Tensor, count: Tensor) -> Tensor:
    """True at the ``count [B]`` lowest of ``score [B, M]``; the first of equals."""
    order = score.argsort(dim=1, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places) < count[:, None]
