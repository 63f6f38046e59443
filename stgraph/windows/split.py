"""The chronological split: first the parts, then the windows inside each; nothing crosses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stgraph.errors import InputError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Consecutive parts of the rows of a time axis.

    Args:
        length: Number of rows ``T`` of the axis.
        fractions: Shares of training, validation and test; they sum to 1.
        history: Input steps of a window.
        horizon: Output steps of a window.

    Raises:
        InputError: where the shares do not sum to one, or a part with a share holds no window.
    """

    length: int
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    history: int = 12
    horizon: int = 12

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) < 0 or not abs(sum(self.fractions) - 1) <= 1e-6:
            raise InputError("the shares of train, validation and test must be three and sum to 1", field="split",
                             value=self.fractions, remedy="give them like 0.7,0.1,0.2")
        if self.history < 1 or self.horizon < 1:
            raise InputError("history and horizon count at least one step", field="history, horizon",
                             value=(self.history, self.horizon))
        for part, fraction in zip(PARTS, self.fractions, strict=True):
            start, stop = self.rows(part)
            if fraction > 0 and stop - start < self.history + self.horizon:
                raise InputError(
                    f"the {part} part is too short for one window of {self.history} + {self.horizon} steps",
                    field="split", value=f"{stop - start} rows",
                    remedy="use more data, a shorter history or horizon, or other shares")

    def rows(self, part: str) -> tuple[int, int]:
        """First row and the row after the last of a part.

        Raises:
            InputError: for a part that is not one of train, validation, test.
        """
        if part not in PARTS:
            raise InputError("unknown part", field="split", value=part, remedy=f"use one of {', '.join(PARTS)}")
        first = round(self.length * self.fractions[0])
        second = round(self.length * (self.fractions[0] + self.fractions[1]))
        return {"train": (0, first), "validation": (first, second), "test": (second, self.length)}[part]

    def origins(self, part: str) -> tuple[int, int]:
        """First and one past the last forecast origin of a part: windows lie in the part as a whole.

        A window with origin ``o`` reads rows ``o - history .. o - 1`` and is scored on ``o .. o + horizon - 1``.
        """
        start, stop = self.rows(part)
        return start + self.history, max(start + self.history, stop - self.horizon + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"fractions": list(self.fractions), **{part: list(self.rows(part)) for part in PARTS}}
