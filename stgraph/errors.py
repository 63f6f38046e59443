"""Errors a user can mend: each names the file, the field, the value and the remedy.

The command line turns an :class:`InputError` into exit code 2 and prints the message without a traceback;
every other exception is our fault and ends with exit code 1.
"""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Something the user gave cannot be used as it is.

    Args:
        problem: What is wrong, as a sentence without a final full stop.
        file: The file (or folder) that holds the fault.
        field: The column, key, option or attribute at fault.
        value: The offending value, or a short sample of it.
        remedy: What to do instead, as a sentence without a final full stop.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object | None = None,
        field: str | None = None,
        value: Any = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.field = field
        self.value = None if value is None else _short(value)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = [part for part in (self.file, self.field and f"field '{self.field}'") if part]
        lines = [": ".join([", ".join(where), self.problem]) if where else self.problem]
        if self.value is not None:
            lines[0] += f" (value: {self.value})"
        if self.remedy:
            lines.append(f"Remedy: {self.remedy}.")
        return ".\n".join(lines) if self.remedy else lines[0] + "."

    def as_dict(self) -> dict[str, str | None]:
        """The parts of the message, for ``--json``."""
        return {
            "message": self.problem,
            "file": self.file,
            "field": self.field,
            "value": self.value,
            "remedy": self.remedy,
        }


class BundleError(InputError):
    """A ``.stg`` bundle is half-written, truncated, altered, or from a newer version."""


class TransductiveError(InputError):
    """A model that learned a table of one network's nodes was asked about another network."""


def _short(value: Any, limit: int = 160) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
