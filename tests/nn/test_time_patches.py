"""Tokens of a duration: the same weights at every interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.nn import PatchValues, TimePatches
from stgraph.nn.time_patches import patch_layout, spread
from stgraph.windows import Calendar


def patches(minutes: float = 60, channels: int = 2, resolution: float = 5, double: bool = False) -> TimePatches:
    torch.manual_seed(0)
    made = TimePatches(minutes, 16, channels, resolution)
    return made.double() if double else made


def hourly(hours: int = 5) -> Tensor:
    """``[2, hours, 3, 2]``."""
    return torch.randn(2, hours, 3, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("interval", [0.5, 1, 2.5, 5, 10, 15, 20, 30, 60])
def test_a_signal_constant_over_each_hour_gives_the_same_tokens_at_any_interval(interval: float) -> None:
    tokens, layer = hourly(), patches()
    seen = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) > 0.2
    seen[1, 3, 0] = False
    expected, held = layer(tokens, seen, 60)
    repeats = round(60 / interval)
    found, mask = layer(tokens.repeat_interleave(repeats, 1), seen.repeat_interleave(repeats, 1), interval)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(mask, held)
    assert torch.equal(held, seen.any(-1))


def test_the_tokens_are_the_sum_of_the_formula() -> None:
    layer, steps = patches(double=True), 16  # four and a third of hours of 15 minutes, less one step
    values, mask = torch.randn(1, steps, 2, 2, dtype=torch.float64), torch.rand(1, steps, 2, 2) > 0.3
    found, _ = layer(values, mask, 15)
    weight = layer.project.weight.unflatten(1, (12, 2, 2))  # [D, G, held or observed, C]
    for token in range(4):
        expected = layer.project.bias.expand(2, -1).clone()
        for cell in range(12):
            step = 4 * token + cell // 3
            seen = mask[0, step].double()
            expected = expected + (values[0, step] * seen) @ weight[:, cell, 0].T + seen @ weight[:, cell, 1].T
        torch.testing.assert_close(found[0, token], expected)


def test_the_last_token_ends_now_and_the_earliest_may_be_partial() -> None:
    layer = patches()
    values, mask = torch.randn(1, 30, 3, 2), torch.ones(1, 30, 3, 2, dtype=torch.bool)
    found, held = layer(values, mask, 5)  # two and a half hours
    assert found.shape == (1, 3, 3, 16)
    assert held.all()
    layout = layer.layout(30, 5)
    torch.testing.assert_close(layout.minutes, torch.tensor([-135.0, -90.0, -30.0]))
    padded = torch.cat([torch.zeros(1, 6, 3, 2), values], 1), torch.cat([torch.zeros(1, 6, 3, 2).bool(), mask], 1)
    assert torch.equal(layer(*padded, 5)[0], found)
    later, _ = layer(values[:, 12:], mask[:, 12:], 5)
    torch.testing.assert_close(later[:, 1:], found[:, 2:])
    values[:, :18] += 1
    assert torch.equal(layer(values, mask, 5)[0][:, 2], found[:, 2])


@pytest.mark.parametrize(("steps", "interval"), [(36, 5), (6, 60), (13, 7), (40, 2.4), (9, 25), (5, 90), (1, 5)])
@pytest.mark.parametrize("ahead", [False, True])
def test_time_is_neither_lost_nor_made(steps: int, interval: float, ahead: bool) -> None:
    layout = patch_layout(steps, interval, 60, 12, ahead)
    cell_minutes = layout.span / 12
    covered = (layout.share * cell_minutes).sum()
    assert float(covered) == pytest.approx(steps * interval, rel=1e-5)
    torch.testing.assert_close(layout.part.sum(1), torch.ones(steps))
    by_step = torch.zeros(steps).index_add(0, layout.step.flatten(), (layout.share * cell_minutes).flatten())
    torch.testing.assert_close(by_step, torch.full((steps,), float(interval)), rtol=1e-4, atol=1e-4)
    assert layout.tokens == -(-steps * interval // layout.span)
    values = torch.randn(1, steps, 2, 1)
    held, observed = spread(values, torch.ones_like(values, dtype=torch.bool), layout)
    total = (held * observed).sum(1) * cell_minutes
    torch.testing.assert_close(total, values.sum(1) * interval, rtol=1e-4, atol=1e-4)


def test_a_cell_seen_in_part_holds_the_mean_of_that_part() -> None:
    layout = patch_layout(60, 1, 60, 12)
    values = torch.arange(60.0).view(1, 60, 1, 1)
    mask = torch.ones(1, 60, 1, 1, dtype=torch.bool)
    mask[0, [1, 3, 4]] = False
    mask[0, 5:10] = False
    held, observed = spread(values, mask, layout)
    torch.testing.assert_close(held[0, :3, 0, 0], torch.tensor([1.0, 0.0, 12.0]))
    torch.testing.assert_close(observed[0, :3, 0, 0], torch.tensor([0.4, 0.0, 1.0]))


def test_a_step_longer_than_a_token_is_a_token_that_says_so() -> None:
    layer = patches()
    torch.nn.init.normal_(layer.span)
    values, mask = hourly(), torch.ones(2, 5, 3, 2, dtype=torch.bool)
    hour, _ = layer(values, mask, 60)
    long, held = layer(values, mask, 180)
    assert held.shape == (2, 5, 3)
    torch.testing.assert_close(long - hour, (layer.span * np.log(3)).float().expand_as(hour), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.layout(5, 180).minutes, torch.tensor([-810.0, -630.0, -450.0, -270.0, -90.0]))


def test_what_was_not_observed_counts_for_nothing_but_that_it_is_missing_does() -> None:
    layer = patches()
    values, mask = torch.randn(2, 24, 3, 2), torch.rand(2, 24, 3, 2) > 0.3
    mask[0, :12, 1] = False
    found, held = layer(values, mask, 5)
    other, same = layer(torch.where(mask, values, torch.nan), mask, 5)
    assert torch.equal(other, found)
    assert torch.equal(same, held)
    assert held.sum() == held.numel() - 1
    assert not held[0, 0, 1]
    assert not torch.allclose(layer(torch.where(mask, values, 0), torch.ones_like(mask), 5)[0], found)


def test_nodes_are_read_one_by_one_and_every_weight_learns() -> None:
    layer = patches()
    values, mask = torch.randn(2, 18, 4, 2), torch.rand(2, 18, 4, 2) > 0.2
    order = torch.tensor([2, 0, 3, 1])
    found, _ = layer(values, mask, 10)
    torch.testing.assert_close(layer(values[:, :, order], mask[:, :, order], 10)[0], found[:, :, order])
    torch.testing.assert_close(layer(values[1:], mask[1:], 10)[0], found[1:])
    (layer(values, mask, 10)[0].square().sum() + layer(values, mask, 120)[0].square().sum()).backward()
    assert all(one.grad.abs().sum() > 0 for one in layer.parameters())


def test_gradients_are_those_of_the_formula() -> None:
    layer = TimePatches(30, 3, 1, 10).double()
    values = torch.randn(1, 5, 2, 1, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(1, 5, 2, 1) > 0.3
    assert torch.autograd.gradcheck(lambda x: layer(x, mask, 7)[0], (values,))
    back = PatchValues(30, 3, 1, 10).double()
    tokens = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: back(h, 5, 7), (tokens,))


@pytest.mark.parametrize("ahead", [False, True])
def test_coarse_values_are_means_of_fine_ones(ahead: bool) -> None:
    torch.manual_seed(0)
    layer, h = PatchValues(60, 16, 2), torch.randn(2, 3, 4, 16)
    fine = layer(h, 36, 5, ahead)
    assert fine.shape == (2, 36, 4, 2)
    for interval in (10, 15, 30, 60):
        coarse = layer(h, 180 // interval, interval, ahead)
        torch.testing.assert_close(coarse, fine.unflatten(1, (-1, interval // 5)).mean(2), rtol=1e-4, atol=1e-5)
    part = layer(h, 30, 5, ahead)  # the partial token is the earliest of the past, the last of the future
    torch.testing.assert_close(part, fine[:, :30] if ahead else fine[:, 6:])


def test_values_are_found_again_when_both_ways_are_each_others_inverse() -> None:
    there, back = TimePatches(60, 24, 1), PatchValues(60, 24, 1)
    with torch.no_grad():
        for one in (*there.parameters(), *back.parameters()):
            one.zero_()
        there.project.weight[:, :].copy_(torch.eye(24))       # cell g: value, share observed
        back.project.weight[:, ::2].copy_(torch.eye(12))
    for steps, interval in ((30, 5), (20, 10), (7, 60), (8, 30), (6, 20)):
        values = torch.randn(2, steps, 3, 1)
        h, _ = there(values, torch.ones_like(values, dtype=torch.bool), interval)
        torch.testing.assert_close(back(h, steps, interval), values)


def test_the_clock_of_a_token_is_the_middle_of_it() -> None:
    layer = patches()
    for interval in (5, 10, 15, 30, 60):
        minute = (torch.arange(0, 180, interval) + 22 * 60 + 30)[None]  # from 22:30 on a Sunday
        calendar = Calendar(minute % 1440 // interval, (6 + minute // 1440) % 7, minute % 1440, 1440 // interval)
        found, weekday = layer.clock(calendar, interval)
        torch.testing.assert_close(found, torch.tensor([[1380.0, 0.0, 60.0]]))
        assert weekday.tolist() == [[6, 0, 0]]
    short = Calendar(*(torch.tensor([[5, 6, 7, 8]]) * factor for factor in (1, 0, 20)), 72)
    torch.testing.assert_close(layer.clock(short, 20)[0], torch.tensor([[110.0, 150.0]]))  # 20 minutes, then an hour


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="resolution_minutes"):
        TimePatches(60, 8, 1, resolution_minutes=7)
    with pytest.raises(InputError, match="need 3 tokens"):
        PatchValues(60, 8, 1)(torch.zeros(1, 2, 1, 8), 36, 5)
    with pytest.raises(InputError, match="step_minutes"):
        patch_layout(4, 0, 60, 12)


def test_real_counts_of_10_and_30_minutes_are_one_signal(shared_data: Path) -> None:
    """The subway's counts come at 10 and at 30 minutes; weights that do not vary within 30 minutes cannot tell."""
    arrays = np.load(shared_data / "beijing_subway" / "beijing_subway.npz")
    fine = torch.from_numpy(arrays["flow_10min"][:90].astype(np.float32) / 100)[None]
    coarse = torch.from_numpy(arrays["flow_30min"][:30].astype(np.float32) / 300)[None]
    layer = patches()
    with torch.no_grad():
        weight = layer.project.weight.unflatten(1, (2, 6, 4))
        weight.copy_(weight.mean(2, keepdim=True).expand_as(weight))
    found, expected = (layer(one, torch.ones_like(one, dtype=torch.bool), interval)[0]
                       for one, interval in ((fine, 10), (coarse, 30)))
    assert found.shape == (1, 15, 276, 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
