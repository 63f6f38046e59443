"""Windows as an objective shows them to a model: past and future joined, values hidden."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.windows import Calendar, Window

_SHORTEST_DAY = 22 * 3600  # a day in which the clock is put forward, with an hour to spare


def joint(window: Window) -> Window:
    """Input and wanted steps as one window of ``L = T + H`` steps; its targets are now values.

    Where the targets are not known, the last ``H`` steps are not observed. ``future`` stays the calendar of the
    wanted steps, which is known in advance.
    """
    missing = window.target is None or window.target_mask is None
    shape = (window.batch_size, window.horizon, *window.values.shape[2:])
    target = window.values.new_zeros(shape) if missing else window.target
    seen = window.mask.new_zeros(shape) if missing else window.target_mask
    assert target is not None
    assert seen is not None
    profile = None
    if window.profile_past is not None and window.profile_future is not None:
        profile = torch.cat([window.profile_past, window.profile_future], 1)
    return replace(window, values=torch.cat([window.values, torch.where(seen, target, 0)], 1),
                   mask=torch.cat([window.mask, seen], 1), past=_join(window.past, window.future),
                   profile_past=profile, target=None, target_mask=None)


def long(window: Window) -> Window:
    """The long history as the window: its ``L`` steps are now the values.

    Raises:
        InputError: where the window was cut without one.
    """
    if window.long is None:
        raise InputError("the window holds no long history", field="span", value="long",
                         remedy="use span=past, or a model that needs a long history, such as step_encoder")
    values, mask = window.long
    past = window.city.long_calendar(window.origin.cpu().numpy(), values.shape[1]).to(values.device)
    return replace(window, values=values, mask=mask, past=past, profile_past=None, long=None)


def hide(window: Window, hidden: Tensor) -> Window:
    """The window without its hidden values and without its targets.

    The values of a day or a week before (``lags``) go too where the window reaches back so far that they may be
    among the hidden ones, and the long history loses the hidden input steps. A profile stays: it never holds a row's
    own reading; in windows longer than a day it does hold what other days of the window showed.

    Args:
        window: Any window of ``L`` steps.
        hidden: ``[B, L, N, C]`` bool.
    """
    visible = window.mask & ~hidden
    return replace(window, values=torch.where(visible, window.values, 0), mask=visible, target=None, target_mask=None,
                   lags=_lags_outside(window), long=_long_outside(window, hidden))


def scale_of(window: Window) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over the fitted rows, ``[C]`` each."""
    context = window.city.context
    return torch.from_numpy(context.mean).to(window.values), torch.from_numpy(context.deviation).to(window.values)


def uniform(shape: tuple[int, ...] | torch.Size, device: torch.device | str,
            generator: torch.Generator | None = None) -> Tensor:
    """Numbers in ``[0, 1)``, drawn where the generator lives, so that a seed gives the same on every device."""
    where = device if generator is None else generator.device
    return torch.rand(shape, device=where, generator=generator).to(device)


def normal(shape: tuple[int, ...] | torch.Size, device: torch.device | str,
           generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers, drawn as by :func:`uniform`."""
    where = device if generator is None else generator.device
    return torch.randn(shape, device=where, generator=generator).to(device)


def seeded(seed: int | None) -> torch.Generator | None:
    """A generator on the CPU; None, which stands for torch's own, without a seed."""
    return None if seed is None else torch.Generator().manual_seed(seed)


def _join(past: Calendar, future: Calendar) -> Calendar:
    return replace(past, slot=torch.cat([past.slot, future.slot], 1), minute=torch.cat([past.minute, future.minute], 1),
                   weekday=torch.cat([past.weekday, future.weekday], 1))


def _long_outside(window: Window, hidden: Tensor) -> tuple[Tensor, Tensor] | None:
    if window.long is None:
        return None
    values, mask = window.long
    steps = window.city.history  # the input steps come first in the window and last in the long history
    both = min(steps, mask.shape[1])
    gone = torch.zeros_like(mask)
    gone[:, mask.shape[1] - both:] = hidden[:, steps - both : steps]
    return torch.where(gone, 0, values), mask & ~gone


def _lags_outside(window: Window) -> dict[str, tuple[Tensor, Tensor]] | None:
    if window.lags is None:
        return None
    time = window.city.time
    day = time.steps_per_day or _SHORTEST_DAY // time.step
    days = {"yesterday": 1, "last_week": 5 if time.weekdays_only else 7}
    reach = window.values.shape[1] + window.horizon
    return {name: (values, mask) if reach < days[name] * day else (torch.zeros_like(values), torch.zeros_like(mask))
            for name, (values, mask) in window.lags.items()}
