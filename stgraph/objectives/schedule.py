"""Numbers that change as training goes on: weights that fade, rates that grow."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from stgraph.errors import InputError


class Schedule(nn.Module, ABC):
    """A number for each training step; how many steps were seen is kept with the weights of a checkpoint.

    Calling it gives the number of now and, in training mode, moves on by one step.
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @abstractmethod
    def at(self, step: int) -> float:
        """The number of one step, counted from 0."""

    def forward(self) -> float:
        """The number of now."""
        value = self.at(int(self.step))
        if self.training:
            self.step += 1
        return value


class Ramp(Schedule):
    """From ``first`` to ``last`` in so many steps, in a straight line, and ``last`` from then on.

    Args:
        first: The number of the first step.
        last: The number at the end.
        steps: Steps from one to the other; 0 gives ``last`` at once.
    """

    def __init__(self, first: float, last: float, steps: int) -> None:
        super().__init__()
        if steps < 0:
            raise InputError("steps are not negative", field="steps", value=steps)
        self.first, self.last, self.steps = first, last, steps

    def at(self, step: int) -> float:
        """See :class:`Schedule`."""
        return self.last if step >= self.steps else self.first + step / self.steps * (self.last - self.first)


class Fading(Schedule):
    """``first / (floor(step / every) + 1)``: 1, 1/2, 1/3, ... of the first number, each for ``every`` steps.

    Z. Shao et al.: Pre-training Enhanced Spatial-temporal Graph Neural Network (STEP), KDD 2022, there in epochs.

    Args:
        first: The number of the first steps.
        every: Steps until it falls.
    """

    def __init__(self, first: float, every: int) -> None:
        super().__init__()
        if every < 1:
            raise InputError("a weight stays for at least one step", field="every", value=every)
        self.first, self.every = first, every

    def at(self, step: int) -> float:
        """See :class:`Schedule`."""
        return self.first / (step // self.every + 1)
