"""One run from its first to its last step: rehearse, train, keep the best weights, write the record."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.train.budget import HARD_STOP, Budget
from stgraph.train.folder import RunFolder
from stgraph.train.interrupt import StopSignals, TrainingInterrupted
from stgraph.train.logs import MetricsLog
from stgraph.train.progress import TrainingProgress
from stgraph.train.schedule import plan_validation, steps_that_fit
from stgraph.train.settings import TrainingSettings
from stgraph.train.state import KEY, TrainingState, read_checkpoint
from stgraph.train.validation import Validation
from stgraph.windows import City, TrainingBatches

REHEARSAL_SHARE = 0.03  # of a minute budget
FINISH_SECONDS = 0.2  # kept back for writing the weights


@dataclass
class Trained:
    """What a training gives.

    Args:
        model: The forecaster with its best weights, in evaluation mode, on the CPU.
        folder: The folder of the run; None where it was kept in memory.
        record: What ``run.json`` holds.
    """

    model: Forecaster
    folder: Path | None
    record: dict[str, Any]


@dataclass
class Job:
    """One run.

    Args:
        model: The forecaster with its first weights.
        cities: The cities.
        settings: How to train.
        budget: What the run may cost.
        folder: Where to keep the run; None for nowhere.
        record: What is known of the run; with ``resumed`` above 0 it goes on.
        progress: Whether to show progress.
        checkpoint_seconds: Seconds from one checkpoint to the next.
        started: ``time.perf_counter()`` when the user's time began to count.
    """

    model: Forecaster
    cities: list[City]
    settings: TrainingSettings
    budget: Budget
    folder: RunFolder | None
    record: dict[str, Any]
    progress: bool
    checkpoint_seconds: float
    started: float

    def __post_init__(self) -> None:
        abilities = self.model.capabilities
        judges = self.settings.make_objectives(self.model) if abilities.gives == "states" else None
        self.validation = Validation(self.cities, self.settings.batch_size, abilities.needs, self.settings.precision,
                                     judges)

    # ---------------------------------------------------------------- the two ways
    def by_formula(self) -> Trained:
        """Fit a closed-form model, or keep one that needs no training; score it on the whole validation part."""
        training = self.model.capabilities.training
        if training == "closed_form":
            self.model.fit(self.cities[0])
        state = TrainingState(total=0, stopped_by="closed form" if training == "closed_form" else "no training")
        state.validated(self.validation.score(self.model, self.validation.available), self.model)
        if self.folder is not None:
            self.folder.clear()
        return self._finish(state)

    def by_gradient(self) -> Trained:
        """Train step by step."""
        before = time.perf_counter()
        from stgraph.train import loop  # brings Lightning along, which takes seconds

        self.started += time.perf_counter() - before  # imports are not training
        with StopSignals() as stop:
            state = self._first_state(stop)
            checkpoint = self.folder.checkpoint if self.folder is not None and state.step else None
            watch, log, bar = self._watch(state, stop)
            learner = loop.Learner(self.model, self.settings, state)
            try:
                if state.stopped_by is None:
                    loop.run(learner, self._batches(state.total), watch, checkpoint)
                else:
                    self.model.load_state_dict(_weights(read_checkpoint(checkpoint or "")))
            except InputError as error:
                if error.field == "loss" and state.best is not None:
                    state.stopped_by = "loss not finite"
                    self._finish(state, "failed")
                raise
            except KeyboardInterrupt as error:
                raise TrainingInterrupted(self._resume_words("Stopped at once.")) from error
            finally:
                bar.close(state.step)
                if log is not None:
                    log.close()
        if state.stopped_by == "interrupt":
            self._finish(state, "interrupted")
            raise TrainingInterrupted(self._resume_words(f"Stopped after step {state.step:,} of {state.total:,}."))
        return self._finish(state)

    # ---------------------------------------------------------------- parts of a run
    def _first_state(self, stop: StopSignals) -> TrainingState:
        """Where the run starts: at its beginning, or at its last checkpoint."""
        if self.record["resumed"] and self.folder is not None:
            self.started = time.perf_counter()  # earlier sessions are counted in the checkpoint
            if self.folder.checkpoint.is_file() or self.record["steps_done"]:
                state = TrainingState(**read_checkpoint(self.folder.checkpoint)[KEY])
                if state.total != self.record["steps"]:
                    raise InputError("the checkpoint belongs to another run", file=self.folder.checkpoint,
                                     field="steps", value=state.total,
                                     remedy="start the run again without --resume, with --overwrite")
                state.stopped_by = None if state.stopped_by == "interrupt" else state.stopped_by
                self.folder.write(self.record)
                return state
        state = TrainingState(total=self.record["steps"])
        state.catch_noise(self.settings.on_gpu)
        state.total = state.total or self._total(stop)
        if stop.asked:
            raise TrainingInterrupted("Stopped before the first step; nothing was kept.")
        self.record["steps"] = state.total
        plan = plan_validation(state.total, self.validation.available)
        self.record["validation"] = asdict(plan)
        if plan.batches < plan.available:
            self.record["notes"].append(f"each validation scores {plan.batches} of {plan.available} batches, evenly "
                                        "spaced, to keep within 15 % of the time")
        if self.folder is not None:
            self.folder.clear()
            self.folder.write(self.record)
        return state

    def _total(self, stop: StopSignals) -> int:
        """Steps of the run; under a minute budget as many as the timed first steps promise."""
        if self.budget.steps is not None:
            return self.budget.steps
        if self.budget.passes is not None:
            return max(1, round(self.budget.passes * self._batches(1).steps_per_pass))
        assert self.budget.seconds is not None
        step_seconds, batch_seconds = self._rehearse(self.budget.seconds * REHEARSAL_SHARE, stop)
        left = self.budget.seconds - (time.perf_counter() - self.started) - FINISH_SECONDS
        return steps_that_fit(left, step_seconds, batch_seconds, self.validation.available)

    def _rehearse(self, seconds: float, stop: StopSignals) -> tuple[float, float]:
        """Seconds of a training step and of a validation batch, measured on a copy that is thrown away."""
        from stgraph.train import loop

        rehearsal = loop.Rehearsal(seconds, lambda: stop.asked)
        batches = self._batches(rehearsal.WARM_UP + rehearsal.MOST)
        learner = loop.Learner(copy.deepcopy(self.model), self.settings, TrainingState(total=len(batches)))
        loop.run(learner, batches, rehearsal)
        before = time.perf_counter()
        scored = sum(len(chosen) for chosen in self.validation.choose(4))
        if scored and not stop.asked:
            self.validation.score(learner.model.to(learner.settings.torch_device), 4, learner.settings.torch_device)
        return rehearsal.step_seconds, (time.perf_counter() - before) / max(1, scored)

    def _batches(self, steps: int) -> TrainingBatches:
        return TrainingBatches(self.cities, self.settings.batch_size, steps, self.settings.seed,
                               self.model.capabilities.needs, self.settings.weights)

    def _watch(self, state: TrainingState, stop: StopSignals) -> tuple[Any, MetricsLog | None, TrainingProgress]:
        """What looks after each step."""
        from stgraph.train import loop

        bar = TrainingProgress(self.model.name, state.total, state.step, self.progress)
        log = None
        if self.folder is not None:
            log = MetricsLog(self.folder.logs, state.step)
            if log.events is None and not state.step:
                self.record["notes"].append("tensorboard is not installed: the log is metrics.csv alone")
        watch = loop.Watch(
            self.validation, plan_validation(state.total, self.validation.available), started=self.started,
            deadline=None if self.budget.seconds is None else HARD_STOP * self.budget.seconds,
            checkpoint=self.folder.checkpoint if self.folder else None, checkpoint_seconds=self.checkpoint_seconds,
            metrics=log, progress=bar, is_stopped=lambda: stop.asked)
        return watch, log, bar

    # ---------------------------------------------------------------- the end
    def _finish(self, state: TrainingState, status: str = "finished") -> Trained:
        """Take the best weights, complete the record and write both."""
        if state.best_weights is not None:
            self.model.load_state_dict(state.best_weights)
        self.model.eval()
        record = self.record
        record |= {"status": status, "stopped_by": state.stopped_by, "steps": state.total, "steps_done": state.step,
                   "parameters": self.model.parameter_count, "best_validation": state.best,
                   "seconds": round(state.seconds, 3), "validation_seconds": round(state.validation_seconds, 3)}
        if state.stopped_by == "time limit":
            record["notes"].append(f"stopped after {state.step} of {state.total} steps: {HARD_STOP} times the "
                                   f"{self.budget.minutes} minutes were over")
        if self.folder is not None:
            manifest = {key: record[key] for key in ("data", "channels", "split", "seed", "steps", "steps_done",
                                                     "best_validation", "status", "stopped_by", "created",
                                                     "versions")}
            self.model.save_pretrained(self.folder.path, manifest)
        if not record["resumed"]:
            record["seconds"] = round(time.perf_counter() - self.started, 3)
        if self.folder is not None:
            self.folder.write(record)
        return Trained(self.model, self.folder.path if self.folder else None, record)

    def _resume_words(self, what: str) -> str:
        if self.folder is None:
            return f"{what} The run had no folder, so nothing was kept."
        return f"{what} Go on with: stgraph train --out {self.folder.path} --resume"


def _weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The forecaster's own weights in a checkpoint."""
    prefix = "model."
    return {key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items()
            if key.startswith(prefix)}
