"""What people see while a model trains, on stderr: a bar in a terminal, a line per validation elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_REFRESH = 0.5  # seconds; drawing more often costs training time on two cores


class TrainingProgress:
    """Shows how far a run is, the time left, the loss and the best validation.

    Args:
        name: Name of the model.
        total: Steps of the run.
        step: Steps already done.
        show: Whether to show anything.
    """

    def __init__(self, name: str, total: int, step: int = 0, show: bool = True) -> None:
        self.name, self.total, self.show = name, total, show
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._best = ""
        self._first, self._started = step, time.perf_counter()
        self._drawn = self._started
        self._bar: Progress | None = None
        if show and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"), BarColumn(bar_width=16), TaskProgressColumn(),
                TimeRemainingColumn(compact=True), TextColumn("left{task.fields[words]}"),
                console=self.console, auto_refresh=False, speed_estimate_period=60)
            self._task = self._bar.add_task(name, total=total, completed=step, words="")
            self._bar.start()

    @property
    def is_due(self) -> bool:
        """Whether enough time has gone by to draw again."""
        return self._bar is not None and time.perf_counter() - self._drawn >= _REFRESH

    def draw(self, step: int, loss: float | None) -> None:
        """Draw the bar."""
        if self._bar is not None:
            words = "" if loss is None else f", loss {loss:.3f}"
            self._bar.update(self._task, completed=step, words=f"{words}{self._best}", refresh=True)
            self._drawn = time.perf_counter()

    def validated(self, step: int, seconds: float, loss: float | None, words: str, best: bool) -> None:
        """A validation was made: its errors in words, and whether they are the best so far."""
        if best:
            self._best = f", best {words}"
        if self._bar is not None:
            self.draw(step, loss)
        elif self.show:
            rate = (time.perf_counter() - self._started) / max(1, step - self._first)
            left = rate * (self.total - step)
            shown = "" if loss is None else f", loss {loss:.4f}"
            self.note(f"{self.name}: step {step:,} of {self.total:,}, {seconds:.0f} s, about {left:.0f} s left{shown}, "
                      f"validation {words}{' (best)' if best else ''}")

    def note(self, text: str) -> None:
        """One line for people."""
        if self.show:
            self.console.print(text)

    def close(self, step: int) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
            self._bar.stop()
