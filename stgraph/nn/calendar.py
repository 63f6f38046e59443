"""The clock and the day as a vector, for tokens of the past and for what is asked of the future."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stgraph.nn.inputs import CalendarTable
from stgraph.windows import Calendar


class CalendarEmbedding(nn.Module):
    r"""Time of day, day of the week and perhaps whether it is a holiday -> a vector.

    .. math:: c = W_2\, \mathrm{silu}\left(W_1 [\sin(k \phi), \cos(k \phi)]_{k \le K} + d_{day} + o_{holiday}\right),
              \qquad \phi = 2 \pi\, \text{minute} / 1440

    Time of day enters by its sines and cosines, so it is continuous, midnight included, needs no table of slots, and is
    the same at every interval. A day of the week that no training batch showed is answered by the nearest one that was
    shown, a workday for a workday (:class:`~stgraph.nn.CalendarTable`). The vectors of a holiday, of no holiday and of
    "not known" start at 0: one that was never shown changes nothing.

    Args:
        width: Width ``D`` of the vector.
        harmonics: Sines and cosines ``K`` of the day; 8 resolve about an hour and a half.

    Shapes:
        minute ``[...]`` (0 to 1440, fractions allowed), weekday ``[...]`` int64, Monday 0, holiday None or ``[...]``
        bool or integer: 1 yes, 0 no, -1 not known; all broadcast -> ``[..., D]``.
    """

    def __init__(self, width: int, harmonics: int = 8) -> None:
        super().__init__()
        self.harmonics = harmonics
        self.time = nn.Linear(2 * harmonics, width)
        self.day = CalendarTable(7, width, weekly=True)
        self.holiday = nn.Parameter(torch.zeros(3, width))  # not known, no, yes
        self.mix = nn.Linear(width, width)

    def forward(self, minute: Tensor, weekday: Tensor, holiday: Tensor | None = None) -> Tensor:
        """The vector of each instant."""
        weight = self.time.weight
        exact = torch.promote_types(weight.dtype, torch.float32)  # 16 bits cannot tell minutes of a day
        number = torch.arange(1, self.harmonics + 1, device=weight.device, dtype=exact)
        angle = minute.to(exact)[..., None] * (2 * math.pi / 1440) * number
        hidden = self.time(torch.cat([angle.sin(), angle.cos()], -1).to(weight.dtype))
        hidden = hidden + self.day(weekday.flatten()).view(*weekday.shape, -1)
        known = torch.zeros((), dtype=torch.long, device=weight.device) if holiday is None else holiday.long() + 1
        return self.mix(nn.functional.silu(hidden + self.holiday[known]))

    def of_steps(self, calendar: Calendar, step_minutes: float, holiday: Tensor | None = None) -> Tensor:
        """The vector at the middle of each step of a calendar, ``[B, L, D]``: what is asked of the future."""
        minute = calendar.minute + step_minutes / 2
        return self(minute % 1440, next_day(calendar.weekday, minute), holiday)


def next_day(weekday: Tensor, minute: Tensor) -> Tensor:
    """The day of the week of minutes that may lie beyond the midnight that ends it."""
    return (weekday + (minute // 1440).long()) % 7
