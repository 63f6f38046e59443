"""The calendar as a vector: continuous over midnight, the same at every interval, safe with days never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.nn import CalendarEmbedding, TimePatches
from stgraph.windows import Calendar, City


def embedding(double: bool = False) -> CalendarEmbedding:
    torch.manual_seed(0)
    made = CalendarEmbedding(16)
    return made.double() if double else made


def test_time_of_day_is_continuous_and_midnight_is_no_seam() -> None:
    code = embedding(double=True)
    minute = torch.linspace(0, 1440, 14401, dtype=torch.float64)
    found = code(minute, torch.zeros_like(minute, dtype=torch.long))
    torch.testing.assert_close(found[-1], found[0])
    step = found.diff(dim=0).norm(dim=1)
    seam = (found[-2] - found[1]).norm()  # 0.2 minutes apart, across midnight
    assert seam <= 2.001 * step.max()
    assert step.max() < 0.01 * (found - found[7200]).norm(dim=1).max()
    assert step.min() > 0


def test_a_day_never_seen_is_answered_by_the_nearest_of_its_kind() -> None:
    code = embedding().train()
    minute = torch.tensor([[480.0, 481.0]])
    code(minute.expand(4, -1), torch.tensor([0, 3, 4, 6])[:, None].expand(-1, 2))
    code.eval()
    found = [code(minute, torch.full((1, 2), day)) for day in range(7)]
    for day, stand_in in ((1, 0), (2, 3), (5, 6)):
        assert torch.equal(found[day], found[stand_in])
    assert not torch.allclose(found[0], found[6])


def test_a_holiday_never_shown_changes_nothing_and_one_that_was_does() -> None:
    code = embedding().train()
    optimiser = torch.optim.AdamW(code.parameters(), 0.1)
    minute, weekday = torch.tensor([100, 900]), torch.tensor([2, 5])
    for _ in range(3):
        optimiser.zero_grad()
        code(minute, weekday, torch.zeros(2, dtype=torch.bool)).square().sum().backward()
        optimiser.step()
    plain, unknown, off = (code.eval()(minute, weekday, flag) for flag in (
        torch.tensor(0), None, torch.tensor([True, True])))
    assert torch.equal(unknown, off)  # neither was shown
    assert not torch.allclose(plain, unknown)
    assert torch.equal(code(minute, weekday, torch.tensor([-1, -1])), unknown)


def test_shapes_broadcast_so_that_regions_may_have_holidays_of_their_own() -> None:
    code = embedding()
    torch.nn.init.normal_(code.holiday)
    minute, weekday = torch.randint(1440, (2, 5)), torch.randint(7, (2, 5))
    holiday = torch.randint(-1, 2, (2, 5, 3))
    found = code(minute[..., None], weekday[..., None], holiday)
    assert found.shape == (2, 5, 3, 16)
    torch.testing.assert_close(found[1, 4, 2], code(minute[1, 4], weekday[1, 4], holiday[1, 4, 2]))


def test_every_weight_learns() -> None:
    code = embedding().train()
    code(torch.randint(1440, (64,)), torch.arange(64) % 7, torch.arange(64) % 3 - 1).square().sum().backward()
    for name, one in code.named_parameters():
        assert (one.grad.flatten(1) if one.dim() > 1 else one.grad[:, None]).abs().sum(1).min() > 0, name


def test_the_future_asks_alike_at_every_interval() -> None:
    """The hour from 8 asked for at 60 minutes lies in the middle of the steps asked for at 20 minutes."""
    code = embedding()
    hour = code.of_steps(Calendar(*(torch.tensor([[one]]) for one in (8, 2, 480)), 24), 60)
    thirds = code.of_steps(Calendar(*(torch.tensor([one]) for one in ([24, 25, 26], [2] * 3, [480, 500, 520])), 72), 20)
    torch.testing.assert_close(thirds[:, 1:2], hour)
    late = code.of_steps(Calendar(*(torch.tensor([[one]]) for one in (23, 6, 1410)), 24), 120)  # its middle is Monday's
    torch.testing.assert_close(late[0, 0], code(torch.tensor(30), torch.tensor(0)))
    midnight = code.of_steps(Calendar(*(torch.tensor([[one]]) for one in (23, 6, 1410)), 24), 60)
    torch.testing.assert_close(midnight[0, 0], code(torch.tensor(0), torch.tensor(0)))


def test_real_tokens_have_the_clock_of_their_place(shared_data: Path) -> None:
    """Los Angeles over the start of summer time: 02:00 to 02:59 does not exist on 12 March 2017."""
    arrays = np.load(shared_data / "pems_bay_16" / "speed.npz")
    start = int(np.datetime64("2017-03-11T08:00", "s").astype(np.int64))  # midnight there
    row = int(np.searchsorted(arrays["timestamp"], start - 8 * 3600))
    values = arrays["speed_mph"][row : row + 2 * 288 - 12, :, None].astype(np.float32)
    graph = DynamicHeteroGraph(time=TimeAxis(start, 300, len(values), "America/Los_Angeles"))
    graph["sensor"].node_id = arrays["sensor_id"].astype(str)
    graph.add_signal("sensor", "readings", Signal(values, values > 0, [Channel("speed")]))
    city = City(graph, history=36, horizon=12, fractions=(1, 0, 0))
    window = city.window([288 + 36])  # midnight to 4:00 on the clock
    minute, weekday = TimePatches(60, 8, 1).clock(window.past, 5)
    assert minute.tolist() == [[30.0, 90.0, 210.0]]
    assert weekday.tolist() == [[6, 6, 6]]
    code = embedding()
    torch.testing.assert_close(code(minute, weekday)[0, 2], code(torch.tensor(210), torch.tensor(6)))


@pytest.mark.parametrize("harmonics", [1, 12])
def test_harmonics_are_a_choice(harmonics: int) -> None:
    assert CalendarEmbedding(8, harmonics)(torch.tensor([5]), torch.tensor([1])).shape == (1, 8)
