"""Clocks, and rounds in which all ways of doing the same thing take turns, so that a machine's moods hit all alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Call = Callable[[], Any]
LEAST_SAMPLE = 0.003
"""Seconds: quicker calls are timed several in a row."""
WARM_BELOW = 0.02
"""Seconds: quicker calls have one untimed call before each sample, so that nobody pays for what ran before."""
MOST_CALLS = 4000
FEWEST, MOST = 3, 31
"""Samples of a way."""


@dataclass
class Timed:
    """Samples of one way: seconds per call.

    Args:
        calls: One callable per set of inputs.
        first: Seconds of a call, roughly.
        wall: Samples; on a GPU from its own events.
        cpu: Processor seconds of the same samples, of all threads.
    """

    calls: list[Call]
    first: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def per_sample(self) -> int:
        """Calls in a row for one sample."""
        return max(1, min(MOST_CALLS, round(LEAST_SAMPLE / max(self.first, 1e-7))))

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return float(np.median(self.wall))

    @property
    def median_cpu(self) -> float:
        """Processor seconds of a call."""
        return float(np.median(self.cpu))

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        low, middle, high = (float(value) for value in np.percentile(self.wall, [25, 50, 75]))
        return {"median_ms": 1e3 * middle, "quartiles_ms": [1e3 * low, 1e3 * high],
                "cpu_ms": 1e3 * self.median_cpu, "samples": len(self.wall),
                "calls_per_sample": self.per_sample}


class Clock:
    """Time of calls on a device: the wall clock on a CPU, events on a GPU.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"

    def sample(self, calls: list[Call], count: int, held: list[Any]) -> tuple[float, float]:
        """Seconds per call, of the wall and of the processor; results stay in ``held`` while their inputs rotate."""
        sets = len(calls)
        if self.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
        cpu, wall = time.process_time(), time.perf_counter()
        if self.cuda:
            begin.record()
        if sets == 1:
            call = calls[0]
            for _ in range(count):
                held[0] = call()
        else:
            for number in range(count):
                held[number % sets] = calls[number % sets]()
        if self.cuda:
            end.record()
            end.synchronize()
        spent = time.perf_counter() - wall, time.process_time() - cpu
        elapsed = begin.elapsed_time(end) / 1e3 if self.cuda else spent[0]
        return elapsed / count, spent[1] / count

    def rough(self, calls: list[Call]) -> float:
        """Seconds of a call, after one that set things up: the quicker of two, or the only one where it takes long."""
        held: list[Any] = [None] * len(calls)
        spent = self.sample(calls[-1:], 1, held)[0]
        if spent > 0.3:
            return spent
        if spent < LEAST_SAMPLE:  # one short call is mostly noise
            count = max(1, min(200, round(LEAST_SAMPLE / max(spent, 1e-7))))
            return self.sample(calls, count, held)[0]
        return min(spent, self.sample(calls, 1, held)[0])


def rounds(ways: dict[str, Timed], clock: Clock, seconds: float) -> None:
    """Take samples of all ways by turns, spread evenly, for about so many seconds in all.

    A slow way has fewer samples, at least three, or two where a call takes half a second. Results are held until the
    same set of inputs comes again, so that results, too, are not written over memory that is still in a cache.
    """
    if not ways:
        return
    share = seconds / len(ways)
    costs = {name: way.first * (way.per_sample + (way.first < WARM_BELOW)) for name, way in ways.items()}
    wanted = {name: int(np.clip(share / max(cost, 1e-9), 2 if cost > 0.5 else FEWEST, MOST))
              for name, cost in costs.items()}
    held: dict[str, list[Any]] = {name: [None] * len(way.calls) for name, way in ways.items()}
    total = max(wanted.values())
    for turn in range(total):
        for name, way in ways.items():
            if (turn + 1) * wanted[name] // total == turn * wanted[name] // total:
                continue
            start = len(way.wall) % len(way.calls)
            turned = way.calls[start:] + way.calls[:start]
            if way.first < WARM_BELOW:
                clock.sample(turned[-1:], 1, held[name])
            wall, cpu = clock.sample(turned, way.per_sample, held[name])
            way.wall.append(wall)
            way.cpu.append(cpu)
        for name, way in ways.items():
            if way.first >= WARM_BELOW:  # large results of one way must not crowd out those of the next
                held[name] = [None] * len(way.calls)
