"""Where a run stands: what goes into a checkpoint beside the weights and the optimizer."""

from __future__ import annotations

import io as streams
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stgraph import io
from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.train.validation import Score

KEY = "stgraph"


@dataclass
class TrainingState:
    """Where a run stands.

    Args:
        total: Steps of the whole run.
        step: Steps done.
        seconds: Wall time used, over all sessions.
        validation_seconds: Wall time used by validation.
        best: Score, step and errors of the best validation.
        best_weights: Weights at the best validation.
        last_score: The newest validation score.
        stale: Validations since the best.
        noise: State of torch's generator, from which dropout draws.
        gpu_noise: The same of the GPU.
        stopped_by: Why the run ended; None while it goes on.
    """

    total: int
    step: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    best: dict[str, Any] | None = None
    best_weights: dict[str, Tensor] | None = None
    last_score: float | None = None
    stale: int = 0
    noise: Tensor = field(default_factory=torch.get_rng_state)
    gpu_noise: Tensor | None = None
    stopped_by: str | None = None

    def validated(self, score: Score, model: Forecaster) -> bool:
        """Take a validation in; keep the weights where it is the best so far.

        Returns:
            Whether it is.
        """
        self.last_score = score.value
        if score.value is None or (self.best is not None and not score.value < self.best["score"]):
            self.stale += 1
            return False
        self.stale = 0
        self.best = {"score": score.value, "step": self.step, "cities": score.cities}
        self.best_weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        return True

    def catch_noise(self, on_gpu: bool) -> None:
        """Note where the generators stand."""
        self.noise = torch.get_rng_state()
        self.gpu_noise = torch.cuda.get_rng_state() if on_gpu else None

    def restore_noise(self) -> None:
        """Set the generators to where they stood."""
        torch.set_rng_state(self.noise)
        if self.gpu_noise is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.gpu_noise)

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return dict(self.__dict__)


def write_checkpoint(checkpoint: dict[str, Any], path: Path | str) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        InputError: where the disk is full; an earlier checkpoint stays as it was.
    """
    buffer = streams.BytesIO()  # torch's own writer hides a full disk behind an error of its own
    torch.save(checkpoint, buffer)
    with io.atomic_path(path) as work:
        work.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Nothing in the file is executed.

    Raises:
        InputError: where the file is missing, truncated or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", file=path, remedy="start the run again without --resume, with --overwrite")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(KEY), dict):
            raise ValueError("it holds no training state")
        TrainingState(**checkpoint[KEY])
    except Exception as error:  # torch names a broken file in many ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"not a whole checkpoint: {reason}", file=path,
                         remedy="start the run again without --resume, with --overwrite") from error
    return checkpoint
