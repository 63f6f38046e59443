"""The folder of a run: what lies where, and when it may be written to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stgraph import io
from stgraph.errors import InputError

_OWN = ("model.json", "weights.safetensors", "run.json", "report.html", "checkpoints", "logs")


class RunFolder:
    """The folder of a run.

    It holds ``run.json`` (the record), ``model.json`` and ``weights.safetensors`` (the best weights),
    ``checkpoints/last.ckpt`` (to go on from) and ``logs`` (CSV and TensorBoard).

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.run = self.path / "run.json"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.logs = self.path / "logs"

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.run.is_file() or self.checkpoint.is_file()

    def check_free(self, overwrite: bool) -> None:
        """Refuse to write over what is here, unless it is a run and that was asked for.

        Raises:
            InputError: where the folder holds a run, or something else.
        """
        blocked = next((parent for parent in self.path.parents if parent.exists() and not parent.is_dir()), None)
        if blocked is not None:
            raise InputError("not a folder", file=blocked, field="out", remedy="choose another name for --out")
        if self.path.exists() and not self.path.is_dir():
            raise InputError("not a folder", file=self.path, field="out", remedy="choose another name for --out")
        if self.holds_run and not overwrite:
            raise InputError("the folder already holds a run", file=self.path, field="out",
                             remedy="go on with --resume, replace it with --overwrite, or choose another --out")
        if self.path.is_dir() and not self.holds_run and any(self.path.iterdir()):
            raise InputError("the folder is not empty and holds no run", file=self.path, field="out",
                             remedy="choose another --out")

    def clear(self) -> None:
        """Remove an earlier run: only what a run writes."""
        for name in _OWN:
            target = self.path / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def record(self) -> dict[str, Any]:
        """The record of the run that is here.

        Raises:
            InputError: where there is none.
        """
        if not self.run.is_file():
            raise InputError("there is no run to go on with", file=self.path, field="resume",
                             remedy="leave out --resume to start one")
        record = io.read_json(self.run)
        if not isinstance(record, dict) or not isinstance(record.get("steps"), int):
            raise InputError("not the record of a run", file=self.run,
                             remedy="start the run again without --resume, with --overwrite")
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Write ``run.json``, whole or not at all."""
        io.write_json(self.run, record)
