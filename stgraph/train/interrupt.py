"""Ctrl-C in training: the step is finished, the state is kept, and the message says how to go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or a termination signal; the text says what was kept and how to go on."""


class StopSignals(contextlib.AbstractContextManager["StopSignals"]):
    """While this is open, the first Ctrl-C (or SIGTERM) only sets :attr:`asked`; the second one acts at once.

    Signals can be caught in the main thread only; in another thread nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
