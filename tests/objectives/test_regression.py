"""The loss equals hand values and never sees what was not observed."""

from __future__ import annotations

import pytest
import torch

from stgraph.errors import InputError
from stgraph.objectives import MaskedRegression

HAND = {"mae": (2.0 + 0.5) / 2, "mse": (4.0 + 0.25) / 2, "huber": (1.5 + 0.125) / 2}


@pytest.mark.parametrize("kind", HAND)
def test_hand_values_over_the_observed_entries(kind: str) -> None:
    forecast, target = torch.tensor([3.0, 1.5, 7.0]), torch.tensor([1.0, 1.0, 100.0])
    mask = torch.tensor([True, True, False])
    assert MaskedRegression(kind).loss(forecast, target, mask) == pytest.approx(HAND[kind])  # type: ignore[arg-type]


@pytest.mark.parametrize("filler", [0.0, 1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", HAND)
def test_masked_targets_have_no_gradient_at_all(kind: str, filler: float) -> None:
    forecast = torch.randn(2, 3, 4, 1, requires_grad=True)
    mask = torch.rand(forecast.shape) > 0.5
    mask[0, 0, 0, 0], mask[1, 2, 3, 0] = True, False
    target = torch.where(mask, torch.randn(forecast.shape), filler)
    loss = MaskedRegression(kind).loss(forecast, target, mask)  # type: ignore[arg-type]
    loss.backward()
    assert torch.isfinite(loss)
    assert forecast.grad is not None
    assert (forecast.grad[~mask] == 0).all()
    assert (forecast.grad[mask] != 0).any()


def test_a_batch_without_observed_targets_gives_zero() -> None:
    mask = torch.zeros(1, 2, 3, 1, dtype=torch.bool)
    assert MaskedRegression().loss(torch.ones(mask.shape), torch.ones(mask.shape), mask) == 0


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(InputError, match="unknown loss"):
        MaskedRegression("mape")  # type: ignore[arg-type]
