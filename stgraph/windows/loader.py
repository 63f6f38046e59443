"""Batches of windows: deterministic for a seed, resumable at any step, several cities in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stgraph.errors import InputError
from stgraph.windows.city import City
from stgraph.windows.window import Window

Batch = tuple[int, np.ndarray]  # index of the city, origins


class PartBatches(Dataset[Window]):
    """The windows of one part of one city in order, as batches.

    Args:
        city: The city.
        part: ``train``, ``validation`` or ``test``.
        batch_size: Windows in a batch.
        needs: What the model needs beyond the values.
    """

    def __init__(self, city: City, part: str, batch_size: int = 32, needs: frozenset[str] = frozenset()) -> None:
        self.city, self.cities, self.batch_size, self.needs = city, (city,), batch_size, needs
        self.first, self.last = city.split.origins(part)

    def __len__(self) -> int:
        return -(-max(0, self.last - self.first) // self.batch_size)

    def __getitem__(self, index: int) -> Window:
        start = self.first + index * self.batch_size
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.city.window(np.arange(start, min(start + self.batch_size, self.last)), self.needs)

    def city_of(self, index: int) -> City:
        """The city of batch number ``index``."""
        return self.city


class TrainingBatches(Dataset[Window]):
    """An endless, seeded order of training batches: batch number ``k`` depends on the seed and ``k`` alone.

    Each city is gone through in shuffled passes. In every pass of :attr:`steps_per_pass` batches the cities come in
    shuffled order, each as often as its share says, to within one. So a run that stops after batch ``k`` goes on with
    batch ``k + 1`` as if it had not stopped, whatever the number of loader workers.

    Args:
        cities: The cities; they may differ in nodes, interval and length.
        batch_size: Windows in a batch.
        steps: Number of batches.
        seed: Seed of the order.
        needs: What the model needs beyond the values.
        weights: Share of batches from each city; None for in proportion to their windows.

    Raises:
        InputError: where weights do not fit, there are no cities, or one has no window to train on.
    """

    def __init__(self, cities: Sequence[City], batch_size: int, steps: int, seed: int = 0,
                 needs: frozenset[str] = frozenset(), weights: Sequence[float] | None = None) -> None:
        if not cities:
            raise InputError("no city to train on", field="data", remedy="give at least one bundle")
        if weights is not None and (len(weights) != len(cities) or min(weights) < 0 or sum(weights) <= 0):
            raise InputError("one sampling weight per city is needed, none negative", field="weights", value=weights)
        self.cities, self.batch_size, self.steps, self.seed, self.needs = cities, batch_size, steps, seed, needs
        self._origins = [city.split.origins("train") for city in cities]
        counts = np.array([last - first for first, last in self._origins], float)
        if not counts.all():
            raise InputError("the train part holds no window", field="split",
                             value=cities[int(np.argmin(counts))].name, remedy="give it a share, such as 0.7,0.1,0.2")
        share = counts if weights is None else np.asarray(weights, float)
        self._edges = np.cumsum(share / share.sum())
        self._passes: dict[int, tuple[int, np.ndarray]] = {}  # of each city: the number of its pass, its order
        self._before = [np.zeros(len(cities), np.int64)]  # batches of each city before pass k
        self._order: tuple[int, np.ndarray, np.ndarray] = (-1, counts, counts)

    @property
    def steps_per_pass(self) -> int:
        """Batches in which every window of every city would be seen about once."""
        return max(1, round(sum(last - first for first, last in self._origins) / self.batch_size))

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Window:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        index, origins = self.batch(step)
        return self.cities[index].window(origins, self.needs)

    def city_of(self, index: int) -> City:
        """The city of batch number ``index``."""
        return self.cities[self._turn(index)[0]]

    def batch(self, step: int) -> Batch:
        """Which city and which origins batch number ``step`` holds."""
        index, turn = self._turn(step)
        first, last = self._origins[index]
        size = min(self.batch_size, last - first)
        per_pass = (last - first) // size
        number, position = divmod(turn, per_pass)
        if self._passes.get(index, (-1,))[0] != number:
            order = np.random.default_rng((self.seed, 2, index, number)).permutation(last - first) + first
            self._passes[index] = (number, order)
        return index, self._passes[index][1][position * size : (position + 1) * size]

    def _turn(self, step: int) -> tuple[int, int]:
        """The city of a step, and how many batches of it came before."""
        if len(self.cities) == 1:
            return 0, step
        number, position = divmod(step, self.steps_per_pass)
        if self._order[0] != number:
            while len(self._before) <= number:
                self._before.append(self._before[-1] + self._counts(len(self._before) - 1))
            cities = np.repeat(np.arange(len(self.cities)), self._counts(number))
            cities = np.random.default_rng((self.seed, 1, number)).permutation(cities)
            turns = np.zeros_like(cities)
            for city in range(len(self.cities)):
                mine = cities == city
                turns[mine] = self._before[number][city] + np.arange(mine.sum())
            self._order = number, cities, turns
        return int(self._order[1][position]), int(self._order[2][position])

    def _counts(self, number: int) -> np.ndarray:
        """Batches of each city in a pass: its share to within one, and its share on average."""
        offset = np.random.default_rng((self.seed, 0, number)).random()
        upto = np.clip(np.ceil(self._edges * self.steps_per_pass - offset), 0, self.steps_per_pass).astype(np.int64)
        upto[-1] = self.steps_per_pass
        return np.diff(upto, prepend=0)


def loader(batches: PartBatches | TrainingBatches, workers: int = 0, start: int = 0) -> Iterator[Window]:
    """Windows in order, from batch number ``start`` on; cut by ``workers`` processes where asked.

    The order and the values do not depend on the number of workers.
    """
    if workers == 0:
        for index in range(start, len(batches)):
            yield batches[index]
        return
    for city in batches.cities:
        city.prepare(batches.needs)  # here, so that the workers share it
    order = range(start, len(batches))
    ready = DataLoader(batches, batch_size=None, sampler=order, num_workers=workers, collate_fn=_without_city,
                       generator=torch.Generator())  # the global one is left as it was
    for index, window in zip(order, ready, strict=True):
        window.city = batches.city_of(index)  # a graph does not travel through the queue
        for kind, other in window.others.items():
            other.city = window.city.others[kind]
        yield window


def _without_city(window: Any) -> Any:
    for one in (window, *window.others.values()):
        one.city = None
    return window
