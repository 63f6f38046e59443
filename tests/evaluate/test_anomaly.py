"""Anomalies: the stated rate of false alarms, and what was planted is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from stgraph.errors import InputError
from stgraph.evaluate.anomaly import AnomalyDetector


def residuals(rows: int, seed: int = 0) -> torch.Tensor:
    """Skewed residuals of five nodes with spreads from 0.1 to 10 and a bias, two channels."""
    rng = np.random.default_rng(seed)
    size = np.geomspace(0.1, 10, 5)[:, None] * np.array([1.0, 30.0])
    return torch.from_numpy((rng.gamma(2, 1, (rows, 5, 2)) - 1) * size)


@pytest.mark.parametrize("rate", [0.2, 0.05, 0.01])
def test_the_rate_of_false_alarms_is_the_stated_one(rate: float) -> None:
    residual = residuals(24_000)
    seen = torch.rand(residual.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    detector = AnomalyDetector(rate).fit(torch.where(seen, residual, torch.nan)[:12_000], seen[:12_000])
    for channel in range(2):
        flags = detector.flag(residual[12_000:], seen[12_000:])[..., channel]
        count = int(seen[12_000:, :, channel].sum())
        # two finite samples stand against each other, so twice the variance of a binomial
        low, high = binom.interval(1 - 1e-6, count, rate)
        middle = rate * count
        slack = 2**0.5
        assert middle - slack * (middle - low) <= int(flags.sum()) <= middle + slack * (high - middle)
        by_node = flags.float().mean(0) / seen[12_000:, :, channel].float().mean(0)
        assert (by_node / rate - 1).abs().max() < 0.6  # no node is the one that always alarms
    assert not detector.flag(residual, seen)[~seen].any()


def test_planted_spikes_are_found_by_the_spread_of_their_own_node() -> None:
    residual = residuals(4000)
    seen = torch.ones_like(residual, dtype=torch.bool)
    detector = AnomalyDetector(0.001).fit(residual[:3000], seen[:3000])
    new = residual[3000:].clone()
    new[100, 0, 0] += 3.0  # 30 of its own deviations, a fraction of those of node 4
    new[200, 4, 1] -= 10_000
    new[300, 4, 0] += 3.0
    flags = detector.flag(new, seen[3000:])
    assert flags[100, 0, 0]
    assert flags[200, 4, 1]
    assert flags.sum() < 2 + 4 * 0.001 * flags.numel()
    assert detector.score(new, seen[3000:])[300, 4, 0] < 5


def test_anomalies_in_validation_hardly_move_the_scores() -> None:
    residual = residuals(5000)
    seen = torch.ones_like(residual, dtype=torch.bool)
    spoilt = residual.clone()
    spoilt[::50] += 1e6
    one, other = (AnomalyDetector(0.05).fit(r, seen) for r in (residual, spoilt))
    assert (other.spread / one.spread - 1).abs().max() < 0.1
    assert (other.threshold / one.threshold).max() < 2


def test_still_and_silent_nodes_are_safe() -> None:
    residual = residuals(500)
    seen = torch.ones_like(residual, dtype=torch.bool)
    residual[:, 0] = 0.0  # stands still
    seen[:, 1] = False  # silent
    detector = AnomalyDetector(0.05).fit(residual, seen)
    assert (detector.spread > 0).all()
    assert torch.isfinite(detector.score(residual, torch.ones_like(seen))).all()
    assert not detector.flag(residual, seen)[:, 0].any()


def test_too_few_readings_and_bad_rates() -> None:
    residual = residuals(3)
    seen = torch.ones_like(residual, dtype=torch.bool)
    assert torch.isinf(AnomalyDetector(0.001).fit(residual, seen).threshold).all()
    with pytest.raises(InputError, match="no observed residual"):
        AnomalyDetector().fit(residual, ~seen)
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError):
            AnomalyDetector(rate)
