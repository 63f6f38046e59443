"""Scaling each window by itself: what goes in comes out, and only the numbers know of units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.nn import WindowScaler


def readings(seed: int = 0, double: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values ``[3, 12, 5, 2]``, a mask, and the city's mean and deviation ``[2]``."""
    torch.manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    values = torch.tensor([60, 0.2], dtype=dtype) + torch.randn(3, 12, 5, 2, dtype=dtype) * torch.tensor(
        [8, 0.05], dtype=dtype)
    return values, torch.rand(3, 12, 5, 2) > 0.3, torch.tensor([55, 0.3], dtype=dtype), torch.tensor(
        [10, 0.1], dtype=dtype)


def test_each_series_has_its_own_mean_and_deviation() -> None:
    values, mask, mean, deviation = readings(double=True)
    scaled, scale = WindowScaler()(values, mask, mean, deviation)
    for b, n, c in np.ndindex(3, 5, 2):
        seen = values[b, mask[b, :, n, c], n, c]
        assert scale.mean[b, 0, n, c] == pytest.approx(float(seen.mean()))
        assert scale.deviation[b, 0, n, c] == pytest.approx(float(seen.std(correction=0)))
        assert float(scale.features[b, n, c]) == pytest.approx(float((seen.mean() - mean[c]) / deviation[c]))
        assert float(scale.features[b, n, 2 + c]) == pytest.approx(float((seen.std(correction=0) / deviation[c]).log()))
    assert (scaled[~mask] == 0).all()


def test_there_and_back() -> None:
    values, mask, mean, deviation = readings()
    scaled, scale = WindowScaler()(values, mask, mean, deviation)
    torch.testing.assert_close(scale.undo(scaled)[mask], values[mask], rtol=1e-6, atol=1e-6)
    future = torch.randn(4, 3, 7, 5, 2)  # samples of another length
    torch.testing.assert_close(scale.apply(scale.undo(future), torch.ones_like(future, dtype=torch.bool)), future,
                               rtol=1e-4, atol=1e-4)


def test_another_unit_changes_the_numbers_only() -> None:
    values, mask, mean, deviation = readings(double=True)
    scaled, scale = WindowScaler()(values, mask, mean, deviation)
    other, moved = WindowScaler()(1.8 * values + 32, mask, 1.8 * mean + 32, 1.8 * deviation)
    torch.testing.assert_close(other, scaled)
    torch.testing.assert_close(moved.features, scale.features)
    torch.testing.assert_close(moved.mean, 1.8 * scale.mean + 32)
    torch.testing.assert_close(moved.deviation, 1.8 * scale.deviation)


def test_series_that_say_nothing_take_the_numbers_of_the_city() -> None:
    values, mask, mean, deviation = readings()
    mask[:, :, 1] = False                       # never observed
    values[:, :, 2], mask[:, :, 2] = 7.0, True  # constant
    mask[:, 1:, 3], mask[:, 0, 3] = False, True  # observed once
    scaled, scale = WindowScaler(floor=0.1)(values, mask, mean, deviation)
    assert torch.equal(scale.mean[:, 0, 1], mean.expand(3, 2))
    assert torch.equal(scale.deviation[:, 0, 1], deviation.expand(3, 2))
    assert (scale.features[:, 1] == 0).all()
    for node in (2, 3):
        torch.testing.assert_close(scale.deviation[:, 0, node], 0.1 * deviation.expand(3, 2))
        assert scaled[:, :, node].abs().max() < 1e-4
    assert torch.equal(scale.mean[:, 0, 3], values[:, 0, 3])


def test_what_was_not_observed_counts_for_nothing() -> None:
    values, mask, mean, deviation = readings()
    scaled, scale = WindowScaler()(values, mask, mean, deviation)
    again, same = WindowScaler()(torch.where(mask, values, torch.nan), mask, mean, deviation)
    assert torch.equal(again, scaled)
    assert torch.equal(same.features, scale.features)


def test_numbers_per_node_and_the_order_of_nodes() -> None:
    values, mask, _, _ = readings()
    mean, deviation = torch.randn(5, 2), torch.rand(5, 2) + 0.5
    order = torch.randperm(5)
    scaled, scale = WindowScaler()(values, mask, mean, deviation)
    moved, other = WindowScaler()(values[:, :, order], mask[:, :, order], mean[order], deviation[order])
    assert torch.equal(moved, scaled[:, :, order])
    assert torch.equal(other.features, scale.features[:, order])


def test_gradients_run_through_the_scaled_values_only() -> None:
    values, mask, mean, deviation = readings()
    values.requires_grad_()
    scaled, scale = WindowScaler()(values, mask, mean, deviation)
    scaled.sum().backward()
    torch.testing.assert_close(values.grad, torch.where(mask, 1 / scale.deviation, 0).expand_as(values))


@pytest.mark.parametrize("floor", [0, -1, 1.5])
def test_a_floor_that_is_no_share_is_refused(floor: float) -> None:
    with pytest.raises(InputError, match="floor"):
        WindowScaler(floor)


def test_real_gaps_leave_no_trace(shared_data: Path) -> None:
    """Air quality with 13 % of the readings really missing, in windows of two days."""
    values = torch.from_numpy(np.load(shared_data / "aqi36_beijing" / "pm25.npz")["pm25"][: 48 * 60, :, None])
    values = values.unflatten(0, (60, 48))
    mask = values.isfinite()
    mean = values[mask].mean()[None]
    deviation = values[mask].std()[None]
    scaled, scale = WindowScaler()(values, mask, mean, deviation)
    assert scaled.isfinite().all()
    assert scale.features.isfinite().all()
    torch.testing.assert_close(scale.undo(scaled)[mask], values[mask], rtol=1e-5, atol=1e-4)
    free = (scale.deviation > 0.0501 * deviation).expand_as(values) & mask
    count = free.sum(1)
    square = torch.where(free, scaled, 0).square().sum(1)[count > 0] / count[count > 0]
    torch.testing.assert_close(square, torch.ones_like(square), rtol=1e-4, atol=1e-4)
