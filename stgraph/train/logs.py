"""The logs of a run: ``metrics.csv``, and TensorBoard events where tensorboard is installed."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

from stgraph.errors import InputError

COLUMNS = ("step", "seconds", "learning_rate", "train_loss", "validation")
TERM = "loss/"  # before the name of one of several losses, weighted; together they are the train_loss


class MetricsLog:
    """Rows of ``metrics.csv`` and the same values as TensorBoard events.

    A run with several losses has a column ``loss/NAME`` more for each, added when it first comes.

    Args:
        folder: Where to write.
        step: Step from which the run goes on; later rows of an earlier session are dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.path = folder / "metrics.csv"
        earlier = self._rows(step) if step else []
        folder.mkdir(parents=True, exist_ok=True)
        self._open(list(earlier[0]) if earlier else list(COLUMNS), earlier)
        self.events: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder), purge_step=step + 1 if step else None, max_queue=1000)

    def write(self, step: int, seconds: float, learning_rate: float, train_loss: float | None,
              validation: float | None = None, terms: dict[str, float] | None = None) -> None:
        """One row; what is None stays empty. ``terms`` are weighted losses by name."""
        row = {"step": step, "seconds": round(seconds, 3), "learning_rate": learning_rate, "train_loss": train_loss,
               "validation": validation, **{f"{TERM}{name}": value for name, value in (terms or {}).items()}}
        if new := [name for name in row if name not in self._writer.fieldnames]:
            self._stream.close()
            self._open([*self._writer.fieldnames, *new], self._rows(step))
        self._writer.writerow(row)
        if self.events is not None:
            for name in list(row)[2:]:
                if row[name] is not None:
                    self.events.add_scalar(name, row[name], step)

    def flush(self) -> None:
        """Bring what was written to the disk.

        Raises:
            InputError: where the disk is full.
        """
        try:
            self._stream.flush()
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", file=self.path,
                             remedy="free some disk space, then go on with --resume") from error
        if self.events is not None:
            self.events.flush()

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            self._stream.close()
            if self.events is not None:
                self.events.close()

    def _open(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        """Write the file anew, with these columns and rows."""
        self._stream = self.path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._stream, columns, restval="", lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(rows)

    def _rows(self, step: int) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            known = set(table.fieldnames or ())
            rows = [row for row in table if set(row) == known >= set(COLUMNS)]
        return [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step]
