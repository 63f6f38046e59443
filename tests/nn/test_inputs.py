"""How readings and the calendar enter a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.nn import CalendarTable, ChannelScaler
from stgraph.windows import City


@pytest.mark.parametrize(("seen", "expected"), [
    ([], [0, 1, 2, 3, 4, 5, 6]),
    ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]),
    ([3, 4, 5, 6, 0], [0, 0, 3, 3, 4, 5, 6]),  # Thursday to Monday: Tuesday answers as Monday
    ([0, 4, 6], [0, 0, 0, 4, 4, 6, 6]),  # Saturday as Sunday, not as Friday
    ([2], [2] * 7),
], ids=["untrained", "all", "a week less two days", "weekend for weekend", "one"])
def test_a_day_never_seen_is_answered_by_the_nearest_of_its_kind(seen: list[int], expected: list[int]) -> None:
    table = CalendarTable(7, 4, weekly=True)
    if seen:
        table.train()(torch.tensor(seen))
    table.eval()
    assert table.stand_in(torch.arange(7)).tolist() == expected
    assert torch.equal(table(torch.arange(7)), table.weight[expected])


def test_slots_of_the_day_are_a_cycle() -> None:
    table = CalendarTable(24, 2)
    table(torch.tensor([1, 12]))
    assert table.eval().stand_in(torch.tensor([22, 23, 0, 6, 7, 16])).tolist() == [1, 1, 1, 1, 12, 12]


def test_training_reads_the_row_itself_and_teaches_no_other() -> None:
    table = CalendarTable(24, 2)
    table(torch.tensor([3, 3, 5])).sum().backward()
    assert table.weight.grad[:, 0].nonzero().flatten().tolist() == [3, 5]
    assert table.seen.nonzero().flatten().tolist() == [3, 5]


def test_inputs_are_standard_values_and_the_clock() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.normal([50, 2], [10, 0.1], (240, 4, 2)).astype(np.float32), rng.random((240, 4, 2)) > 0.2
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, 240))  # a Thursday at midnight
    graph["sensor"].node_id = np.array(list("abcd"))
    graph.add_signal("sensor", "readings", Signal(values, mask, [Channel("speed"), Channel("share")]))
    city = City(graph)
    for fixed in (True, False):
        scaler = ChannelScaler(2, fixed)
        scaler.fit(city)
        window = city.window(range(12, 156))
        inputs = scaler(window)
        observed = [inputs[..., c][window.mask[..., c]] for c in range(2)]
        assert max(abs(one.mean()) + abs(one.std() - 1) for one in observed) < 0.03
        assert (inputs[..., :2][~window.mask] == 0).all()
        back = scaler.undo(inputs[..., :2], window)
        torch.testing.assert_close(back[window.mask], window.values[window.mask], rtol=1e-5, atol=1e-4)
        assert torch.equal(inputs[0, :, 0, 2], torch.arange(12) / 24)
        assert (inputs[0, :, :, 3] == 3 / 7).all()
