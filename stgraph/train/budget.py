"""What a run may cost."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from stgraph.errors import InputError

DEFAULT_MINUTES = 2.0
HARD_STOP = 1.25


@dataclass(frozen=True)
class Budget:
    """One of minutes, steps or passes; none of them means two minutes, or what a resumed run was given.

    Args:
        minutes: Wall time of the whole training. The first steps are timed, then the number of steps is fixed and
            recorded; a run that lasts 1.25 times as long all the same is stopped.
        steps: Training steps (batches).
        passes: How often each training window is seen on average.

    Raises:
        InputError: where two are given, or one is not positive.
    """

    minutes: float | None = None
    steps: int | None = None
    passes: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) > 1:
            raise InputError("only one budget can hold", field=", ".join(given), value=list(given.values()),
                             remedy="give minutes, steps or passes")
        for name, value in given.items():
            if not 0 < value < math.inf:
                raise InputError("a budget must be positive", field=name, value=value)

    @property
    def is_open(self) -> bool:
        """Whether nothing was asked for."""
        return self == Budget()

    @property
    def seconds(self) -> float | None:
        """The seconds of a minute budget."""
        return None if self.minutes is None else 60 * self.minutes
