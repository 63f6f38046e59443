"""Steps to tokens of a fixed duration and back, whatever the interval of the readings.

A token is an hour (or another duration), not a number of steps. Weights live on a canonical grid of short cells inside
the token; readings are spread over the cells in proportion to the time they share, so that one set of weights reads 5,
10, 15, 30 and 60 minutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.calendar import next_day
from stgraph.windows import Calendar

_EPSILON = 1e-6  # of an interval: less is rounding


@dataclass(frozen=True, eq=False)
class PatchLayout:
    """How ``T`` steps and ``S`` tokens of ``G`` cells lie on one another in time.

    Args:
        tokens: Number of tokens ``S``.
        span: Minutes that a token covers.
        step: ``[S * G, J]`` int64, the steps that share time with each cell (0 where fewer than ``J`` do).
        share: ``[S * G, J]`` how much of the cell each of them covers; 0 where there is none.
        cell: ``[T, K]`` int64, the cells that share time with each step.
        part: ``[T, K]`` how much of the step each of them covers.
        minutes: ``[S]`` from now to the middle of each token, or of what the window holds of it; less than 0 for
            tokens of the past.
        middle_step: ``[S]`` int64, the step in which that middle lies.
        middle_offset: ``[S]`` minutes from that step's beginning to the middle.
    """

    tokens: int
    span: float
    step: Tensor
    share: Tensor
    cell: Tensor
    part: Tensor
    minutes: Tensor
    middle_step: Tensor
    middle_offset: Tensor


@lru_cache(maxsize=128)
def patch_layout(steps: int, step_minutes: float, minutes: float, cells: int, ahead: bool = False,
                 device: str = "cpu") -> PatchLayout:
    """Lay out steps and tokens.

    The last token ends with the last step and the earliest may be covered in part; with ``ahead`` the first token
    begins with the first step and the last may be covered in part. Steps longer than ``minutes`` are tokens each.

    Args:
        steps: Number of steps ``T``, at least 1.
        step_minutes: Length of a step.
        minutes: Length of a token.
        cells: Cells ``G`` of a token.
        ahead: Whether the steps begin now; else they end now.
        device: Where the tensors live.

    Raises:
        InputError: for no steps, or steps of no length.
    """
    if steps < 1 or not 0 < step_minutes < math.inf:
        raise InputError("there is no time to cut into tokens", field="steps, step_minutes",
                         value=(steps, step_minutes), remedy="give at least one step of more than 0 minutes")
    span, length = max(minutes, step_minutes), steps * step_minutes
    tokens = max(1, math.ceil(length / span - _EPSILON))
    lead = 0.0 if ahead else tokens * span - length        # minutes of the first token before the first step
    step, share = _overlaps(-lead, span / cells, tokens * cells, step_minutes, steps)
    cell, part = _overlaps(lead, step_minutes, steps, span / cells, tokens * cells)
    begin = np.arange(tokens) * span - lead
    middle = (np.maximum(begin, 0) + np.minimum(begin + span, length)) / 2
    middle_step = np.minimum(np.floor(middle / step_minutes + _EPSILON), steps - 1)
    tensors = [step, share, cell, part, middle - (0 if ahead else length), middle_step.astype(np.int64),
               np.maximum(middle - middle_step * step_minutes, 0)]
    with torch.inference_mode(False):  # it is kept, and may be met again in training
        placed = [torch.from_numpy(one if one.dtype == np.int64 else one.astype(np.float32)).to(device)
                  for one in tensors]
    return PatchLayout(tokens, span, *placed)


def _overlaps(start: float, length: float, count: int, step: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``steps`` intervals ``[k, k + 1) * step`` lie on each of ``count`` intervals that begin at ``start``.

    Returns ``[count, J]`` numbers of intervals and the share of each that they cover, 0 where there is none.
    """
    begin = (start + np.arange(count) * length)[:, None]
    found = np.floor(begin / step + _EPSILON).astype(np.int64) + np.arange(math.ceil(length / step) + 1)
    share = (np.minimum(begin + length, (found + 1) * step) - np.maximum(begin, found * step)) / length
    share[(share < _EPSILON) | (found < 0) | (found >= steps)] = 0
    most = np.flatnonzero((share > 0).any(0)).max(initial=0) + 1
    return np.where(share > 0, found, 0)[:, :most], np.minimum(share[:, :most], 1)


class TimePatches(nn.Module):
    r"""Readings to tokens of ``minutes`` each: one linear map of all cells of a token and of how much was observed.

    .. math:: h_s = \sum_{g < G} \left( W_g \bar x_{sg} + V_g o_{sg} \right) + b
              + u \log(\text{span} / \text{minutes})

    with :math:`\bar x_{sg}` the mean over the observed part of cell ``g`` of token ``s`` (0 if there is none) and
    :math:`o_{sg}` the share of the cell that was observed, each per channel. The last token ends now; the earliest may
    be covered in part, and then the rest of its cells counts as not observed. A reading holds for its whole step, so a
    signal that is constant over each hour gives the same hourly tokens at any interval that divides the hour. Where a
    step is longer than a token, each step is one token, and ``u`` tells how long it is. No shape depends on ``T``, on
    ``N`` or on the interval; the cost is ``O(T N C)`` to spread and ``O(S N G C D)`` to map.

    Idea: Y. Nie et al.: A Time Series is Worth 64 Words, ICLR 2023; OpenCity (arXiv 2408.10269) for the hour as
    token, where coarser readings used the first columns of the weights, so that a column meant different times.

    Args:
        minutes: Length of a token.
        width: Width ``D`` of a token.
        channels: Channels ``C``.
        resolution_minutes: Length of a cell; it divides ``minutes``.

    Shapes:
        values, mask ``[B, T, N, C]`` -> tokens ``[B, S, N, D]`` and ``[B, S, N]`` bool, whether any reading of the
        token was observed.

    Raises:
        InputError: where cells do not divide the token.
    """

    def __init__(self, minutes: float, width: int, channels: int, resolution_minutes: float = 5) -> None:
        super().__init__()
        self.minutes, self.cells = minutes, _cells(minutes, resolution_minutes)
        self.project = nn.Linear(2 * self.cells * channels, width)
        self.span = nn.Parameter(torch.zeros(width))

    def layout(self, steps: int, step_minutes: float) -> PatchLayout:
        """How so many steps are laid out."""
        return patch_layout(steps, float(step_minutes), self.minutes, self.cells, device=str(self.span.device))

    def forward(self, values: Tensor, mask: Tensor, step_minutes: float) -> tuple[Tensor, Tensor]:
        """Tokens, and which of them hold an observed reading."""
        layout = self.layout(values.shape[1], step_minutes)
        held, observed = spread(values, mask, layout)                                  # [B, S * G, N, C] each
        inputs = torch.cat([held, observed], -1).unflatten(1, (layout.tokens, self.cells))
        h = self.project(inputs.transpose(2, 3).flatten(3))                            # [B, S, N, D]
        if layout.span > self.minutes:
            h = h + math.log(layout.span / self.minutes) * self.span
        return h, (observed > 0).unflatten(1, (layout.tokens, self.cells)).any(2).any(-1)

    def clock(self, calendar: Calendar, step_minutes: float) -> tuple[Tensor, Tensor]:
        """Minute of the day (with fractions) and day of the week at the middle of each token, ``[B, S]`` each."""
        layout = self.layout(calendar.minute.shape[1], step_minutes)
        minute = calendar.minute[:, layout.middle_step] + layout.middle_offset
        return minute % 1440, next_day(calendar.weekday[:, layout.middle_step], minute)


class PatchValues(nn.Module):
    """Tokens to values of steps, the way back from :class:`TimePatches`: a value per cell, averaged over each step.

    So the values at 60 minutes are the means of those that the same weights give at 5 minutes.

    Args:
        minutes: Length of a token.
        width: Width ``D`` of a token.
        channels: Values ``C`` per step.
        resolution_minutes: Length of a cell; it divides ``minutes``.

    Shapes:
        tokens ``[B, S, N, D]`` -> ``[B, T, N, C]``.

    Raises:
        InputError: where cells do not divide the token.
    """

    def __init__(self, minutes: float, width: int, channels: int, resolution_minutes: float = 5) -> None:
        super().__init__()
        self.minutes, self.cells, self.channels = minutes, _cells(minutes, resolution_minutes), channels
        self.project = nn.Linear(width, self.cells * channels)

    def layout(self, steps: int, step_minutes: float, ahead: bool = False) -> PatchLayout:
        """How so many steps are laid out."""
        return patch_layout(steps, float(step_minutes), self.minutes, self.cells, ahead,
                            str(self.project.weight.device))

    def forward(self, h: Tensor, steps: int, step_minutes: float, ahead: bool = False) -> Tensor:
        """Values of ``steps`` steps that end with the last token, or with ``ahead`` begin with the first.

        Raises:
            InputError: unless there are as many tokens as the steps need.
        """
        layout = self.layout(steps, step_minutes, ahead)
        if h.shape[1] != layout.tokens:
            raise InputError("the tokens do not cover the steps", field="h", value=h.shape[1],
                             remedy=f"{steps} steps of {step_minutes:g} minutes need {layout.tokens} tokens")
        cells = self.project(h).unflatten(-1, (self.cells, self.channels))             # [B, S, N, G, C]
        cells = cells.transpose(2, 3).flatten(1, 2)                                    # [B, S * G, N, C]
        out = cells.new_zeros(len(h), steps, *cells.shape[2:])
        for cell, part in zip(layout.cell.T, layout.part.T, strict=True):
            out = out + part[:, None, None].to(cells) * cells[:, cell]
        return out


def spread(values: Tensor, mask: Tensor, layout: PatchLayout) -> tuple[Tensor, Tensor]:
    """Readings ``[B, T, N, C]`` on the cells of tokens.

    Returns:
        Mean over the observed part of each cell (0 where nothing of it was observed) and the share of it that was
        observed, each ``[B, S * G, N, C]``.
    """
    seen = torch.where(mask, values, 0)
    total = observed = seen.new_zeros(())
    for step, share in zip(layout.step.T, layout.share.T, strict=True):                # as many as meet in one cell
        weight = share[:, None, None].to(seen)
        total = total + weight * seen[:, step]
        observed = observed + weight * mask[:, step]
    return total / torch.where(observed > 0, observed, 1), observed


def _cells(minutes: float, resolution: float) -> int:
    cells = round(minutes / resolution) if resolution > 0 else 0
    if cells < 1 or abs(cells * resolution - minutes) > _EPSILON * minutes:
        raise InputError("the cells do not divide the token", field="resolution_minutes", value=resolution,
                         remedy=f"choose a divisor of {minutes:g} minutes")
    return cells
