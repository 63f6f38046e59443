"""How fast to learn at each step and when to validate: pure functions of the number of steps.

No clock is read here, so a run with a minute budget and a run with the number of steps that it settled on are one and
the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM_UP_SHARE, WARM_UP_STEPS = 0.05, 500
LAST_FACTOR = 0.01
VALIDATION_SHARE = 0.15
VALIDATION_COST = 0.35  # time of a validation batch over that of a training step: no backward pass, the same cutting


def learning_rate_factor(step: int, total: int) -> float:
    """What the learning rate is multiplied with at a step, ``0 .. total - 1``.

    A linear warm-up, then half a cosine down to one hundredth (Loshchilov and Hutter, SGDR, ICLR 2017, without
    restarts).
    """
    warm = max(1, min(round(WARM_UP_SHARE * total), WARM_UP_STEPS))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, total - 1 - warm)
    return LAST_FACTOR + (1 - LAST_FACTOR) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


@dataclass(frozen=True)
class ValidationPlan:
    """When to validate, and on how much.

    Args:
        every: Steps from one validation to the next; the last step always validates.
        batches: Batches scored each time, evenly spaced over the validation part.
        available: Batches of the whole validation part; 0 where there is none.
    """

    every: int
    batches: int
    available: int

    def is_due(self, step: int, total: int) -> bool:
        """Whether to validate after ``step`` of ``total`` steps."""
        return self.available > 0 and (step % self.every == 0 or step == total)

    def count(self, total: int) -> int:
        """Number of validations in a run of ``total`` steps."""
        return math.ceil(total / self.every) if self.available else 0


def plan_validation(total: int, available: int) -> ValidationPlan:
    """Twenty validations of the whole part, or ten of as many batches as cost at most 15 % of the time.

    Args:
        total: Training steps of the run.
        available: Batches of the validation part.
    """
    affordable = VALIDATION_SHARE / (1 - VALIDATION_SHARE) * total / VALIDATION_COST
    every = max(1, math.ceil(total / 20))
    if 20 * available <= affordable:
        return ValidationPlan(every, available, available)
    every = max(1, math.ceil(total / 10))
    return ValidationPlan(every, min(available, max(4, int(affordable / 10))), available)


def steps_that_fit(seconds: float, step_seconds: float, batch_seconds: float, available: int) -> int:
    """The largest number of steps whose training and validation fit into some seconds; at least 1.

    Args:
        seconds: What may be spent.
        step_seconds: One training step.
        batch_seconds: One validation batch.
        available: Batches of the validation part.
    """
    def cost(total: int) -> float:
        plan = plan_validation(total, available)
        return total * step_seconds + plan.count(total) * plan.batches * batch_seconds

    low, high = 1, max(1, int(seconds / step_seconds))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= seconds else (low, middle - 1)
    return low
