"""What a model reads and what it answers: :class:`Window` and :class:`Forecast`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stgraph.windows.city import City
    from stgraph.windows.layer import AttributeWindow

_LONG = "long_history:"


def long_history(minutes: float) -> str:
    """The need of a model for the readings of so many minutes before each origin: one of its ``needs``.

    It names its own length, because a length in steps would be another one in each city.
    """
    return f"{_LONG}{float(minutes)!r}"


def long_minutes(needs: frozenset[str]) -> float:
    """The minutes of the longest :func:`long_history` among some needs; 0 where there is none."""
    return max((float(need.removeprefix(_LONG)) for need in needs if need.startswith(_LONG)), default=0.0)


@dataclass
class Calendar:
    """The clock of the place for some steps, each ``[B, L]`` int64.

    Args:
        slot: Slot of the day, ``0 .. slots_per_day - 1``.
        weekday: Day of the week, Monday 0.
        minute: Minute of the day, ``0 .. 1439``.
        slots_per_day: Slots of one day.
    """

    slot: Tensor
    weekday: Tensor
    minute: Tensor
    slots_per_day: int

    def to(self, device: torch.device | str) -> Calendar:
        """The calendar on another device."""
        return replace(self, slot=self.slot.to(device), weekday=self.weekday.to(device),
                       minute=self.minute.to(device))


@dataclass
class Window:
    """A batch of windows of one city; values are in SI units, not scaled.

    Args:
        values: ``[B, T, N, C]`` readings; 0 where nothing was observed.
        mask: ``[B, T, N, C]`` bool, True where observed.
        past: Calendar of the input steps ``[B, T]``.
        future: Calendar of the wanted steps ``[B, H]``: it is known in advance.
        origin: ``[B]`` row of the first wanted step.
        city: The city, with its graph, positions, partition and descriptors.
        target: ``[B, H, N, C]`` true readings; None when forecasting what is not known yet.
        target_mask: ``[B, H, N, C]`` bool; an entry that is False never counts in a loss or a score.
        profile_past: ``[B, T, N, C]`` usual value at the input steps, for models that need ``profile``.
        profile_future: ``[B, H, N, C]`` usual value at the wanted steps.
        lags: For models that need ``lags``: ``{"yesterday" | "last_week": (values, mask)}``, each ``[B, H, N, C]``:
            the reading at the same clock time a day or a week before each wanted step.
        long: For models that need :func:`long_history`: values and mask ``[B, L, N, C]`` of the last ``L`` steps before
            the origin, the input steps being the last of them. It reads back over the start of the part; rows before
            the start of the axis are not observed.
        others: For a city with other types of nodes beside its own, these at the same origins: windows where they have
            a signal, else what their attributes tell.
    """

    values: Tensor
    mask: Tensor
    past: Calendar
    future: Calendar
    origin: Tensor
    city: City
    target: Tensor | None = None
    target_mask: Tensor | None = None
    profile_past: Tensor | None = None
    profile_future: Tensor | None = None
    lags: dict[str, tuple[Tensor, Tensor]] | None = None
    long: tuple[Tensor, Tensor] | None = None
    others: dict[str, Window | AttributeWindow] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Number of windows ``B``."""
        return self.values.shape[0]

    @property
    def horizon(self) -> int:
        """Number of wanted steps ``H``."""
        return self.future.slot.shape[1]

    def to(self, device: torch.device | str) -> Window:
        """The window on another device."""
        moved: dict[str, Any] = {}
        for key, value in self.__dict__.items():
            if isinstance(value, Tensor | Calendar):
                moved[key] = value.to(device)
            elif key == "lags" and value is not None:
                moved[key] = {name: (a.to(device), b.to(device)) for name, (a, b) in value.items()}
            elif key == "long" and value is not None:
                moved[key] = (value[0].to(device), value[1].to(device))
            elif key == "others":
                moved[key] = {kind: other.to(device) for kind, other in value.items()}
        return replace(self, **moved)


@dataclass
class Forecast:
    """What a model answers, in SI units.

    Args:
        mean: ``[B, H, N, C]`` the point forecast.
        quantiles: ``[B, H, N, C, Q]`` at ``levels``, where the model gives them.
        levels: The ``Q`` quantile levels.
        samples: ``[S, B, H, N, C]`` sample paths, where the model gives them.
        others: Forecasts of the other types of nodes that have a signal, where the window held them.
    """

    mean: Tensor
    quantiles: Tensor | None = None
    levels: tuple[float, ...] = ()
    samples: Tensor | None = None
    others: dict[str, Forecast] = field(default_factory=dict)
