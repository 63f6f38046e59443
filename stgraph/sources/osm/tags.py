"""Tags of ways as columns of codes: every distinct value is held, and looked at, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Tags:
    """Tags of ``W`` ways.

    Args:
        count: ``W``.
        words: The distinct values.
        columns: Per key, the place of each way's value in ``words``, ``[W]`` int32; -1 where a way has no such tag.
    """

    count: int
    words: list[str]
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, columns: Mapping[str, list[str | None]]) -> Tags:
        """Tags given as lists of values ``[W]`` per key, None where a way has no such tag."""
        words: dict[str, int] = {}
        coded = {key: np.array([-1 if value is None else words.setdefault(value, len(words)) for value in values],
                               np.int32) for key, values in columns.items()}
        return cls(len(next(iter(coded.values()))), list(words), coded)

    def codes(self, key: str) -> np.ndarray:
        """The column of a key, ``[W]``; -1 throughout where no way has it."""
        found = self.columns.get(key)
        return np.full(self.count, -1, np.int32) if found is None else found

    def values_of(self, key: str, function: Callable[[str], Any], dtype: Any, missing: Any) -> np.ndarray:
        """What a function makes of the value of a key, ``[W]``; it is called once for each distinct value.

        Args:
            key: The tag.
            function: Gets the value as a text.
            dtype: Type of the column that comes back.
            missing: What stands where a way has no such tag.
        """
        codes = self.codes(key)
        table = np.full(len(self.words) + 1, missing, dtype)  # the last row is for code -1
        used = np.zeros(len(self.words) + 1, bool)
        used[codes] = True
        for code in np.flatnonzero(used[:-1]).tolist():
            table[code] = function(self.words[code])
        return table[codes]

    def has(self, key: str) -> np.ndarray:
        """Whether each way has the tag, and it does not say no, ``[W]`` bool."""
        return self.values_of(key, lambda value: value != "no", np.bool_, False)

    def take(self, rows: np.ndarray) -> Tags:
        """The tags of some of the ways: positions, or a mask."""
        columns = {key: column[rows] for key, column in self.columns.items()}
        count = int(rows.sum()) if rows.dtype == bool else len(rows)
        return Tags(count, self.words, columns)
