"""The long history equals naive slicing, reads what was before and nothing else, and hides what is hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from stgraph.errors import InputError
from stgraph.graph import TimeAxis
from stgraph.graph.signal import LazyArray
from stgraph.objectives import MaskedModelling
from stgraph.objectives.views import hide, joint, long
from stgraph.windows import City, PartBatches, TrainingBatches, Window, loader, long_history, long_minutes

DAY = frozenset({long_history(24 * 60)})
Make = Callable[..., City]


@pytest.fixture
def city(make_city: Make, readings: Callable) -> City:
    return make_city(*readings(24 * 20), history=6, horizon=4)


def test_a_need_names_its_length() -> None:
    assert long_minutes(frozenset({"profile", long_history(60), long_history(10080.5)})) == 10080.5
    assert long_minutes(frozenset({"profile"})) == 0


def test_it_is_the_rows_before_the_origin(city: City) -> None:
    origins = [24, 100, 37, city.time.length - 4]
    values, mask = city.window(origins, DAY).long
    assert values.dtype == torch.float32
    for row, origin in enumerate(origins):
        np.testing.assert_array_equal(values[row], city.signal.values[origin - 24 : origin])
        np.testing.assert_array_equal(mask[row], city.signal.mask[origin - 24 : origin])
    assert city.window(origins).long is None


def test_the_input_steps_are_its_last_ones(city: City) -> None:
    window = city.window([30, 200], DAY)
    assert torch.equal(window.long[0][:, -6:], window.values)
    assert torch.equal(window.long[1][:, -6:], window.mask)


def test_rows_before_the_axis_are_not_observed(city: City) -> None:
    values, mask = city.window([6, 10], DAY).long
    assert values.shape == (2, 24, 3, 2)
    for row, origin in enumerate((6, 10)):
        assert not mask[row, : 24 - origin].any()
        assert (values[row, : 24 - origin] == 0).all()
        np.testing.assert_array_equal(values[row, 24 - origin :], city.signal.values[:origin])
        np.testing.assert_array_equal(mask[row, 24 - origin :], city.signal.mask[:origin])


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_no_row_from_the_origin_on_is_read(make_city: Make, readings: Callable, part: str) -> None:
    """Whatever stands in the later rows, the long history is the same; the earlier ones it may read in any part."""
    values, mask = readings(24 * 20)
    first, last = make_city(values, mask, history=6, horizon=4).split.origins(part)
    for origin in (first, (first + last) // 2, last - 1):
        other = values.copy()
        other[origin:] += 1000
        one, two = (make_city(one, mask, history=6, horizon=4).window([origin], DAY).long for one in (values, other))
        assert torch.equal(one[0], two[0])
        earlier = values.copy()
        earlier[max(0, origin - 24) : origin] += 1000
        three = make_city(earlier, mask, history=6, horizon=4).window([origin], DAY).long
        assert (three[0] != one[0])[one[1]].all()


def test_windows_of_training_end_before_the_rows_of_validation(city: City) -> None:
    _, stop = city.split.rows("train")
    origins = np.concatenate([window.origin for window in PartBatches(city, "train", 50, DAY)])
    assert origins.max() + city.horizon == stop
    held_out = PartBatches(city, "validation", 50, DAY)[0]
    first = int(held_out.origin[0])
    assert first - 24 < stop <= first  # history, which was known then
    np.testing.assert_array_equal(held_out.long[0][0], city.signal.values[first - 24 : first])


@pytest.mark.parametrize("origins", [[50, 51, 52, 53], [50, 300, 17]], ids=["side by side", "far apart"])
def test_a_signal_on_disk_gives_the_same(make_city: Make, readings: Callable, origins: list[int]) -> None:
    values, mask = readings(24 * 20)
    near = make_city(values, mask).window(origins, DAY).long
    far = make_city(LazyArray(values), LazyArray(mask)).window(origins, DAY).long
    assert torch.equal(near[0], far[0])
    assert torch.equal(near[1], far[1])


@pytest.mark.parametrize(("step", "expected"), [(300, 288), (900, 96), (3600, 24), (7200, 12), (172_800, 1)])
def test_its_length_is_in_minutes(make_city: Make, readings: Callable, step: int, expected: int) -> None:
    city = make_city(*readings(400), TimeAxis(0, step, 400), history=6, horizon=4)
    assert city.window([390], DAY).long[0].shape[1] == expected


def test_worker_processes_bring_it_along(city: City) -> None:
    batches = TrainingBatches([city], 8, 3, needs=DAY)
    for here, there in zip(loader(batches), loader(batches, workers=1), strict=True):
        assert torch.equal(here.long[0], there.long[0])
        assert torch.equal(here.long[1], there.long[1])


def test_as_the_window_it_has_the_clock_of_its_rows(city: City) -> None:
    window = city.window([40, 200], DAY)
    view, direct = long(window), city.long_window([40, 200], 24 * 60)
    for one in (view, direct):
        assert torch.equal(one.values, window.long[0])
        assert torch.equal(one.mask, window.long[1])
        assert one.past.minute[0].tolist() == [(row % 24) * 60 for row in range(16, 40)]
        assert torch.equal(one.past.minute[:, -6:], window.past.minute)
        assert torch.equal(one.past.weekday[:, -6:], window.past.weekday)
    assert view.long is None
    with pytest.raises(InputError, match="no long history"):
        long(city.window([40]))


@pytest.mark.parametrize("span", ["past", "joint", "long"])
def test_what_is_hidden_is_hidden_in_it_too(city: City, span: str) -> None:
    """Values at hidden places may be anything: what a model gets to see does not change."""
    window = city.window([10, 100], DAY)
    shown = {"past": window, "joint": joint(window), "long": long(window)}[span]
    hidden = MaskedModelling("random", 0.5, seed=1).draw(shown)
    seen = hide(shown, hidden)
    if span == "long":
        assert seen.long is None
        return
    values, mask = seen.long
    assert torch.equal(mask[:, :-6], window.long[1][:, :-6])
    assert torch.equal(mask[:, -6:], window.long[1][:, -6:] & ~hidden[:, :6])
    assert hidden[:, :6].any()
    assert (values[:, -6:][hidden[:, :6]] == 0).all()
    junk = window.long[0].clone()
    junk[:, -6:][hidden[:, :6]] = 1e6
    assert torch.equal(hide(replace(shown, long=(junk, window.long[1])), hidden).long[0], values)


def test_masked_modelling_of_it_is_refused_where_no_model_reads_it(city: City) -> None:
    from stgraph.models import Capabilities, Forecaster, Sizes

    class Near(Forecaster):
        name, Config = "near", dict

        @classmethod
        def describe(cls, config: object) -> Capabilities:
            return Capabilities(inductive=True)

        def reconstruct(self, window: Window, hidden: torch.Tensor) -> torch.Tensor:
            return window.values

    with pytest.raises(InputError, match="'near' reads no long history"):
        MaskedModelling(span="long").prepare(Near({}, Sizes(2, 6, 4, 24)))
    with pytest.raises(InputError, match="unknown span"):
        MaskedModelling(span="week")
