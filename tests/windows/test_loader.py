"""Batches: every window of a part once, an order that depends on the seed alone, cities in their shares."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from stgraph.errors import InputError
from stgraph.graph import TimeAxis, load, save
from stgraph.windows import City, PartBatches, TrainingBatches, Window, loader

NEEDS = frozenset({"profile", "lags"})


@pytest.fixture
def cities(make_city, readings) -> list[City]:
    """Three cities that differ in nodes, channels, interval, length and calendar."""
    axes = [TimeAxis(0, 3600, 24 * 40), TimeAxis(0, 900, 96 * 20, "Europe/Berlin"),
            TimeAxis(1_456_693_200, 7200, 9 * 30, "Asia/Shanghai", steps_per_day=9, weekdays_only=True)]
    return [make_city(*readings(time.length, nodes, channels, seed=nodes), time, name=f"city {nodes}")
            for time, nodes, channels in zip(axes, (3, 5, 2), (1, 2, 1), strict=True)]


def training_windows(city: City) -> int:
    first, last = city.split.origins("train")
    return last - first


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("size", [7, 10_000])
def test_a_part_gives_each_of_its_windows_once_and_in_order(cities: list[City], part: str, size: int) -> None:
    city = cities[0]
    batches = PartBatches(city, part, size)
    seen = torch.cat([window.origin for window in loader(batches)])
    assert seen.tolist() == list(range(*city.split.origins(part)))
    start, stop = city.split.rows(part)
    assert seen.min() - city.history >= start
    assert seen.max() + city.horizon <= stop
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_training_reads_no_row_of_another_part(cities: list[City]) -> None:
    """The rows after the training part are poison, and no batch, profile or lag tastes of it."""
    for city in cities:
        start, stop = city.split.rows("train")
        city.signal.values[stop:] = np.nan
        batches = TrainingBatches([city], 16, 100, needs=NEEDS)
        for step in range(0, 100, 9):
            window = batches[step]
            tensors = [window.values, window.target, window.profile_past, window.profile_future,
                       *(values for values, _ in window.lags.values())]
            assert all(torch.isfinite(tensor).all() for tensor in tensors)
            assert window.origin.min() - city.history >= start
            assert window.origin.max() + city.horizon <= stop


def test_a_pass_holds_every_window_once(cities: list[City]) -> None:
    batches = TrainingBatches(cities[:1], 8, 200, seed=3)
    count = training_windows(cities[0])
    per_pass = count // 8
    for number in range(2):
        origins = np.concatenate([batches.batch(number * per_pass + k)[1] for k in range(per_pass)])
        assert len(set(origins)) == len(origins) == per_pass * 8
    assert not np.array_equal(batches.batch(0)[1], batches.batch(per_pass)[1])


def test_a_batch_depends_on_the_seed_and_its_number_alone(cities: list[City]) -> None:
    def made(steps: int, order: list[int], seed: int = 5) -> dict[int, tuple[int, list[int]]]:
        batches = TrainingBatches(cities, 16, steps, seed=seed)
        return {k: (batches.batch(k)[0], batches.batch(k)[1].tolist()) for k in order}

    forward = made(500, list(range(300)))
    assert made(300, list(range(300))) == forward
    assert made(500, list(reversed(range(300)))) == forward  # any order of asking, so any point of resuming
    assert made(500, [217]) == {217: forward[217]}
    assert made(500, list(range(300)), seed=6) != forward


def test_a_run_resumes_at_any_step(cities: list[City]) -> None:
    whole = list(loader(TrainingBatches(cities, 16, 40, seed=1)))
    rest = list(loader(TrainingBatches(cities, 16, 40, seed=1), start=23))
    assert len(rest) == 17
    for one, other in zip(whole[23:], rest, strict=True):
        assert one.city is other.city
        assert torch.equal(one.origin, other.origin)
        assert torch.equal(one.values, other.values)


def test_an_epoch_over_unlike_cities_has_the_right_counts(cities: list[City]) -> None:
    size = 16
    batches = TrainingBatches(cities, size, 10_000)
    steps = batches.steps_per_pass
    total = sum(map(training_windows, cities))
    assert steps == round(total / size)
    for epoch in range(3):
        epoch_steps = range(epoch * steps, (epoch + 1) * steps)
        counts = Counter(batches.city_of(k).name for k in epoch_steps)
        for city in cities:
            assert abs(counts[city.name] - steps * training_windows(city) / total) < 1
    for k in range(12):
        window = batches[k]
        assert window.city is batches.city_of(k)
        assert window.values.shape == (size, 12, window.city.num_nodes, window.city.num_channels)
        assert window.past.slots_per_day == window.city.time.slots_per_day


def test_sampling_weights_are_honoured(cities: list[City]) -> None:
    steps = 4 * TrainingBatches(cities, 16, 1).steps_per_pass
    batches = TrainingBatches(cities, 16, steps, weights=[1, 0, 3])
    counts = Counter(batches.city_of(k).name for k in range(steps))
    assert counts["city 5"] == 0
    assert abs(counts["city 3"] - steps / 4) <= 4
    assert abs(counts["city 2"] - steps * 3 / 4) <= 4


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(cities: list[City], workers: int) -> None:
    def windows(count: int) -> list[Window]:
        return list(loader(TrainingBatches(cities, 8, 9, seed=2, needs=NEEDS), workers=count, start=2))

    for one, other in zip(windows(0), windows(workers), strict=True):
        assert one.city is other.city
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.target_mask, other.target_mask)
        assert torch.equal(one.profile_future, other.profile_future)
        assert torch.equal(one.future.slot, other.future.slot)
        assert torch.equal(one.lags["last_week"][0], other.lags["last_week"][0])


def test_workers_read_a_bundle_on_disk(cities: list[City], tmp_path: Path) -> None:
    save(cities[0].graph, tmp_path / "city.stg")
    far = City(load(tmp_path / "city.stg", in_memory=False))
    assert far.window([50]).values.any()  # the parent reads too, before it has children
    pairs = zip(loader(TrainingBatches([far], 8, 6), workers=2), loader(TrainingBatches(cities[:1], 8, 6)), strict=True)
    for one, other in pairs:
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.target_mask, other.target_mask)


def test_what_cannot_be_batched_is_refused(cities: list[City]) -> None:
    with pytest.raises(InputError, match="no city to train on"):
        TrainingBatches([], 8, 10)
    for weights in ([1, 2], [1, -1, 1], [0, 0, 0]):
        with pytest.raises(InputError, match="one sampling weight per city") as caught:
            TrainingBatches(cities, 8, 10, weights=weights)
        assert caught.value.field == "weights"
    held_out = City(cities[0].graph, fractions=(0.0, 0.5, 0.5), name="held out")
    with pytest.raises(InputError, match="train part holds no window") as caught:
        TrainingBatches([cities[1], held_out], 8, 10)
    assert caught.value.value == "held out"
