"""How readings and the calendar enter a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgraph.windows import City, Window


class ChannelScaler(nn.Module):
    """Standardises channels by mean and deviation of the training rows; what was not observed becomes 0.

    Args:
        channels: Channels ``C``.
        fixed: Keep the numbers of the city that the model is made for, with its weights; else each window's city
            brings its own.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        if fixed:
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("deviation", torch.ones(channels))

    def fit(self, city: City) -> None:
        """Take the numbers of a city's training rows."""
        if self.fixed:
            self.mean.copy_(torch.from_numpy(city.context.mean))
            self.deviation.copy_(torch.from_numpy(city.context.deviation))

    def numbers(self, window: Window) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each ``[C]``, on the device of the window."""
        if self.fixed:
            return self.mean, self.deviation
        context = window.city.context
        return torch.from_numpy(context.mean).to(window.values), torch.from_numpy(context.deviation).to(window.values)

    def forward(self, window: Window) -> Tensor:
        """The input steps of a window, with time of day and day of week in ``[0, 1)`` beside: ``[B, T, N, C + 2]``."""
        mean, deviation = self.numbers(window)
        values = torch.where(window.mask, (window.values - mean) / deviation, 0.0)           # [B, T, N, C]
        clock = torch.stack([window.past.slot / window.past.slots_per_day, window.past.weekday / 7], -1)
        clock = clock.to(values)[:, :, None].expand(-1, -1, values.shape[2], -1)              # [B, T, N, 2]
        return torch.cat([values, clock], -1)

    def undo(self, scaled: Tensor, window: Window) -> Tensor:
        """Scaled values ``[..., C]`` back to SI units."""
        mean, deviation = self.numbers(window)
        return scaled * deviation + mean


class CalendarTable(nn.Module):
    """A learned vector for each slot of the day or day of the week.

    A row that no training batch showed has learned nothing; in its place the nearest one that was shown answers, a
    workday for a workday if there is one. (A week of data leaves two weekdays to the test part.)

    Args:
        size: Number of rows ``K``; the cycle closes after the last.
        width: Length ``D`` of a vector.
        weekly: Whether the rows are the days of the week, Monday first.
    """

    seen: Tensor

    def __init__(self, size: int, width: int, weekly: bool = False) -> None:
        super().__init__()
        self.weekly = weekly
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(size, width)))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    def forward(self, index: Tensor) -> Tensor:
        """Vectors ``[B, D]`` of rows ``[B]``."""
        if self.training:
            self.seen[index] = True
            return self.weight[index]
        return self.weight[self.stand_in(index)]

    def stand_in(self, index: Tensor) -> Tensor:
        """The nearest row seen in training, ``[B]``; the row itself where it was, or where none was."""
        size = len(self.weight)
        rows = torch.arange(size, device=index.device)
        away = (index[:, None] - rows).abs()
        away = torch.minimum(away, size - away)                                               # [B, K]
        if self.weekly:
            away = away + size * ((index[:, None] >= 5) != (rows >= 5))
        usable = self.seen | ~self.seen.any()
        return away.masked_fill(~usable, 2 * size + 1).argmin(1)
