"""The training loop, on Lightning: the only module that imports it.

A run is one Lightning epoch of exactly the batches that are still to come. Lightning steps, clips, casts, moves and
stores; where the run stands is kept in a :class:`~stgraph.train.state.TrainingState`, so a resumed run starts a fresh
loop at the next batch rather than bringing Lightning's own counters back into the middle of an epoch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.objectives import GradientBalance
from stgraph.train.logs import MetricsLog
from stgraph.train.progress import TrainingProgress
from stgraph.train.schedule import ValidationPlan, learning_rate_factor
from stgraph.train.settings import TrainingSettings
from stgraph.train.state import KEY, TrainingState, read_checkpoint, write_checkpoint
from stgraph.train.validation import Validation
from stgraph.windows import TrainingBatches, Window, loader

_LOSS_CHECK = 50  # steps from one look at the loss to the next on a GPU, where looking means waiting


class Remaining:
    """The batches that are still to come, as a sized iterable.

    Args:
        batches: All batches.
        start: Number of the first one wanted.
        workers: Processes that cut windows.
    """

    def __init__(self, batches: TrainingBatches, start: int, workers: int) -> None:
        self.batches, self.start, self.workers = batches, start, workers

    def __len__(self) -> int:
        return len(self.batches) - self.start

    def __iter__(self) -> Iterator[Window]:
        stream = loader(self.batches, self.workers, self.start)
        noise: Tensor | None = torch.get_rng_state()
        for window in stream:
            if noise is not None:
                torch.set_rng_state(noise)  # starting worker processes draws from the generator of dropout
                noise = None
            yield window


class Learner(LightningModule):
    """A forecaster with its objectives, its optimizer and where the run stands.

    Args:
        model: The forecaster.
        settings: How to train.
        state: Where the run stands.
    """

    def __init__(self, model: Forecaster, settings: TrainingSettings, state: TrainingState) -> None:
        super().__init__()
        self.model, self.settings, self.state = model, settings, state
        objectives, self.objective_weights = settings.make_objectives(model)
        self.objectives = nn.ModuleList(objectives)
        self.balance = GradientBalance() if settings.balance else None
        self.loss_sum: Tensor | float = 0.0
        self.term_sums: dict[str, Tensor | float] = {}
        self.loss_count = 0
        self.last_loss: float | None = None

    def training_step(self, window: Window, batch_idx: int) -> Tensor:
        """The weighted sum of the objectives on one batch.

        Raises:
            InputError: where it is not finite.
        """
        weighted = self.weighted_terms(window)
        terms = list(weighted.values())
        loss = terms[0] if len(terms) == 1 else torch.stack(terms).sum()
        if not self.settings.on_gpu or self.state.step % _LOSS_CHECK == 0:
            self.last_loss = loss.item()
            if not math.isfinite(self.last_loss):
                raise InputError(f"the loss of '{self.model.name}' is not finite at step {self.state.step + 1}",
                                 field="loss", value=self.last_loss,
                                 remedy="lower --learning-rate, or look for extreme readings in the data")
        self.loss_sum = self.loss_sum + (loss.detach() if self.settings.on_gpu else self.last_loss or 0.0)
        self.loss_count += 1
        if len(terms) > 1:
            for name, term in weighted.items():
                self.term_sums[name] = self.term_sums.get(name, 0.0) + term.detach()
        return loss

    def weighted_terms(self, window: Window) -> dict[str, Tensor]:
        """Every loss of every objective by name, weighted; their sum is the loss. A name used again gets a number."""
        losses: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for objective, weight in zip(self.objectives, self.objective_weights, strict=True):
            for name, value in objective(self.model, window).items():
                own = name
                while own in losses:
                    own = f"{name}_{int(own.removeprefix(name).lstrip('_') or 1) + 1}"
                losses[own], weights[own] = value, weight
        if self.balance is not None:
            factors = self.balance(losses, self.model.parameters())
            weights = {name: weights[name] * factors[name] for name in losses}
        return {name: weights[name] * value for name, value in losses.items()}

    def take_terms(self) -> dict[str, float]:
        """Mean of each weighted loss since the last call; to be called before :meth:`take_loss`. Empty for only one."""
        means = {name: float(total) / max(1, self.loss_count) for name, total in self.term_sums.items()}
        self.term_sums = {}
        return means

    def take_loss(self) -> float | None:
        """Mean loss of the steps since the last call; None where there were none."""
        mean = float(self.loss_sum) / self.loss_count if self.loss_count else None
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.settings.learning_rate * learning_rate_factor(self.state.step, self.state.total)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its fused form in full precision (Lightning clips no gradient of a fused step that may be scaled)."""
        return torch.optim.AdamW(self.parameters(), lr=self.settings.learning_rate,
                                 weight_decay=self.settings.weight_decay, fused=self.settings.precision == "32-true")

    def on_train_batch_start(self, batch: Window, batch_idx: int) -> None:
        """Set the learning rate, which depends on the step alone."""
        for group in self.optimizers(use_pl_optimizer=False).param_groups:
            group["lr"] = self.learning_rate

    def transfer_batch_to_device(self, batch: Window, device: torch.device, dataloader_idx: int) -> Window:
        """Move a window, unless it is there already."""
        return batch if device.type == "cpu" else batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where the run stands; leave out Lightning's counters."""
        self.state.catch_noise(self.settings.on_gpu)
        checkpoint.pop("loops", None)
        checkpoint[KEY] = self.state.to_dict()


class Watch(Callback):
    """After each step: validate, log, store, stop.

    Args:
        validation: The validation part.
        plan: When to validate.
        started: ``time.perf_counter()`` at the start of this session.
        deadline: Seconds after which to stop at once; None for never.
        checkpoint: Where to store; None for nowhere.
        checkpoint_seconds: Seconds from one checkpoint to the next.
        metrics: Where to log; None for nowhere.
        progress: What people see.
        is_stopped: Whether the user asked to stop.
    """

    def __init__(self, validation: Validation, plan: ValidationPlan, *, started: float, deadline: float | None,
                 checkpoint: Path | None, checkpoint_seconds: float, metrics: MetricsLog | None,
                 progress: TrainingProgress, is_stopped: Callable[[], bool]) -> None:
        self.validation, self.plan, self.started, self.deadline = validation, plan, started, deadline
        self.checkpoint, self.checkpoint_seconds, self.metrics = checkpoint, checkpoint_seconds, metrics
        self.progress, self.is_stopped = progress, is_stopped
        self._stored = time.perf_counter()
        self._before = 0.0
        self._log_every = 1

    def on_train_start(self, trainer: Trainer, learner: LightningModule) -> None:
        """Set the generators; store the start, so that a run can be resumed from its first second on."""
        state = learner.state
        state.restore_noise()
        self._before = state.seconds
        self._log_every = max(1, min(50, state.total // 100))
        if state.step == 0:
            self._store(trainer)

    def on_train_batch_end(self, trainer: Trainer, learner: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:
        """What has to be done after a step."""
        state = learner.state
        state.step += 1
        now = time.perf_counter()
        state.seconds = self._before + now - self.started
        if self.plan.is_due(state.step, state.total):
            self._validate(learner)
        elif state.step % self._log_every == 0 or state.step == state.total:
            terms = learner.take_terms()
            self._write(learner, learner.take_loss(), None, terms)
        if self.progress.is_due:
            self.progress.draw(state.step, learner.last_loss)
        state.stopped_by = self._reason(state, learner.settings.patience)
        if state.stopped_by:
            trainer.should_stop = True
        if state.stopped_by or now - self._stored >= self.checkpoint_seconds:
            self._store(trainer)

    def _reason(self, state: TrainingState, patience: int | None) -> str | None:
        """Why to stop now; None to go on."""
        if state.step >= state.total:
            return "budget"
        if self.is_stopped():
            return "interrupt"
        if patience is not None and state.stale >= patience:
            return "patience"
        return "time limit" if self.deadline is not None and state.seconds > self.deadline else None

    def _validate(self, learner: Learner) -> None:
        terms = learner.take_terms()
        loss = learner.take_loss()
        before = time.perf_counter()
        score = self.validation.score(learner.model, self.plan.batches, learner.device)
        best = learner.state.validated(score, learner.model)
        learner.state.validation_seconds += time.perf_counter() - before
        self._write(learner, loss, score.value, terms)
        if self.metrics is not None:
            self.metrics.flush()
        self.progress.validated(learner.state.step, learner.state.seconds, loss, score.words(), best)

    def _write(self, learner: Learner, loss: float | None, score: float | None, terms: dict[str, float]) -> None:
        if self.metrics is not None:
            state = learner.state
            rate = learner.settings.learning_rate * learning_rate_factor(state.step - 1, state.total)
            self.metrics.write(state.step, state.seconds, rate, loss, score, terms)

    def _store(self, trainer: Trainer) -> None:
        if self.checkpoint is not None:
            trainer.save_checkpoint(self.checkpoint)
            if self.metrics is not None:
                self.metrics.flush()
        self._stored = time.perf_counter()


class Rehearsal(Callback):
    """Times the first steps of a copy of the model, after a few to warm up.

    Args:
        seconds: When to end, once a few steps were timed.
        is_stopped: Whether the user asked to stop.
    """

    WARM_UP, LEAST, MOST = 3, 3, 200

    def __init__(self, seconds: float, is_stopped: Callable[[], bool]) -> None:
        self.seconds, self.is_stopped = seconds, is_stopped
        self.steps = 0
        self.started = self.warm = self.last = time.perf_counter()

    @property
    def step_seconds(self) -> float:
        """Seconds of one step."""
        return (self.last - self.warm) / max(1, self.steps - self.WARM_UP)

    def on_train_batch_end(self, trainer: Trainer, learner: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:
        """Count and time a step; the work of a GPU is waited for."""
        self.steps += 1
        if learner.device.type == "cuda":
            torch.cuda.synchronize()
        self.last = time.perf_counter()
        if self.steps == self.WARM_UP:
            self.warm = self.last
        timed = self.steps - self.WARM_UP
        if self.is_stopped() or (timed >= self.LEAST and self.last - self.started >= self.seconds):
            trainer.should_stop = True


class AtomicCheckpoints(CheckpointIO):
    """Checkpoints that are whole or not there, and whose reading executes nothing."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        write_checkpoint(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; never with anything but plain values and tensors."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def run(learner: Learner, batches: TrainingBatches, callback: Callback, checkpoint: Path | None = None) -> None:
    """Train on the batches that are still to come.

    Args:
        learner: The model and where the run stands; the model is on the CPU afterwards.
        batches: All batches of the run.
        callback: What to do after each step.
        checkpoint: A checkpoint to take weights and optimizer from.

    Raises:
        KeyboardInterrupt: where the user insisted on stopping at once.
    """
    settings = learner.settings
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cuda" if settings.on_gpu else "cpu", devices=1, precision=settings.precision,
            max_epochs=1, gradient_clip_val=settings.clip, callbacks=[callback],
            plugins=[AtomicCheckpoints(), LightningEnvironment()], limit_val_batches=0, num_sanity_val_steps=0,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False)
        try:
            trainer.fit(learner, Remaining(batches, learner.state.step, settings.workers), ckpt_path=checkpoint)
        except SystemExit as error:  # Lightning ends the process on a second Ctrl-C, and on SIGTERM
            if learner.state.stopped_by != "interrupt":
                raise KeyboardInterrupt from error


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's banners and what does not apply to a run of one process from the user."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning")
    before = [(logger := logging.getLogger(name), logger.level) for name in names]
    with warnings.catch_warnings():
        for text in (r".*GPU available but not used.*", r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
                     r".*in eval mode at the start of training.*"):  # frozen modules are, by intention
            warnings.filterwarnings("ignore", message=text)
        for logger, _ in before:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in before:
                logger.setLevel(level)
