"""Pinball loss and channel weights equal hand values; quantiles that are learned are the quantiles."""

from __future__ import annotations

import pytest
import torch
from toys import Bare, Toy, ToyConfig, toy_city

from stgraph.errors import InputError
from stgraph.objectives import MaskedRegression


def test_pinball_by_hand() -> None:
    """Levels 0.1 and 0.9; forecasts 2 too low and 1 too high; a hidden entry that is not a number."""
    quantiles = torch.tensor([[1.0, 4.0], [0.0, 0.0]]).view(1, 2, 1, 1, 2)
    target = torch.tensor([3.0, float("nan")]).view(1, 2, 1, 1)
    mask = torch.tensor([True, False]).view(1, 2, 1, 1)
    quantiles.requires_grad_()
    loss = MaskedRegression("quantile").pinball(quantiles, (0.1, 0.9), target, mask)
    assert loss.item() == pytest.approx((0.1 * 2 + 0.1 * 1) / 2)
    loss.backward()
    torch.testing.assert_close(quantiles.grad[0, :, 0, 0], torch.tensor([[-0.05, 0.05], [0.0, 0.0]]))


def test_the_least_pinball_loss_is_at_the_quantile() -> None:
    sample = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    levels, grid = (0.05, 0.5, 0.9), torch.linspace(-3, 3, 601)
    objective, seen = MaskedRegression("quantile"), torch.ones_like(sample, dtype=torch.bool)
    for level in levels:
        losses = torch.stack([objective.pinball(v.expand(*sample.shape, 1), (level,), sample, seen) for v in grid])
        assert grid[losses.argmin()] == pytest.approx(float(sample.quantile(level)), abs=0.02)


def test_channel_weights_are_a_weighted_mean() -> None:
    forecast, target = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 10.0], [3.0, 20.0]]]])
    mask = torch.tensor([[[[True, True], [True, False]]]])
    assert MaskedRegression("mae").loss(forecast, target, mask) == pytest.approx((1 + 3 + 10) / 3)
    weighted = MaskedRegression("mae", [1.0, 3.0]).loss(forecast, target, mask)
    assert weighted == pytest.approx((1 + 3 + 3 * 10) / (1 + 1 + 3))
    only = MaskedRegression("mse", [0.0, 1.0]).loss(forecast, target, mask)
    assert only == pytest.approx(100.0)
    assert MaskedRegression("mae", [1, 1]).loss(forecast, target, mask) == pytest.approx((1 + 3 + 10) / 3)
    assert MaskedRegression("mae", [0.0, 1.0]).loss(forecast, target, mask & torch.tensor([True, False])) == 0


def test_the_objective_asks_for_quantiles_and_trains_them() -> None:
    city = toy_city()
    window = city.window([50, 60])
    with pytest.raises(InputError, match="'bare' gives no quantiles"):
        MaskedRegression("quantile")(Bare.for_city(city), window)
    model = Toy.for_city(city, ToyConfig(levels=(0.1, 0.5, 0.9)))
    loss = MaskedRegression("quantile")(model, window)["quantile"]
    answer, scale = model(window), torch.from_numpy(city.context.deviation)
    by_hand = [max(q * d, (q - 1) * d) for i, q in enumerate(answer.levels)
               for d in ((window.target - answer.quantiles[..., i]) / scale)[window.target_mask].tolist()]
    assert loss.item() == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-4)
    loss.backward()
    assert model.head.weight.grad.any()


def test_bad_weights_are_refused() -> None:
    for weights in ([-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(InputError):
            MaskedRegression("mae", weights)
    three = torch.ones(1, 1, 1, 3)
    with pytest.raises(InputError, match="3 channels"):
        MaskedRegression("mae", [1.0, 2.0]).loss(three, three, three > 0)
