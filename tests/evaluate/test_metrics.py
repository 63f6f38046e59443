"""Scores equal hand values, do not depend on batching, and never see what was not observed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.evaluate import MaskedErrors, block_bootstrap, summarise
from stgraph.evaluate.metrics import SlicedErrors


def test_hand_values() -> None:
    errors = MaskedErrors(horizon=3, nodes=2, channels=1)
    target = torch.tensor([[[10.0, 0.0], [20.0, 5.0], [40.0, 8.0]]])[..., None]
    forecast = torch.tensor([[[12.0, 1.0], [20.0, 5.0], [30.0, 999.0]]])[..., None]
    mask = torch.ones_like(target, dtype=torch.bool)
    mask[0, 2, 1] = False  # the reading of the second node at the last step is missing
    errors.update(forecast, target, mask)
    scores = errors.compute()["all"]
    assert scores["mae"] == pytest.approx((2 + 1 + 0 + 0 + 10) / 5)
    assert scores["rmse"] == pytest.approx(((4 + 1 + 100) / 5) ** 0.5)
    assert scores["mape"] == pytest.approx(100 * (2 / 10 + 0 + 0 + 10 / 40) / 4)  # the true zero has no percentage
    assert errors.compute()["3"]["mae"] == pytest.approx(10)
    assert errors.mae_by("node").tolist() == pytest.approx([4, 0.5])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 6))
def test_batching_does_not_change_the_scores(seed: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    forecast, target = torch.randn(2, 7, 4, 3, 2, generator=generator)
    mask = torch.rand(target.shape, generator=generator) > 0.4
    whole, parts = MaskedErrors(4, 3, 2), MaskedErrors(4, 3, 2)
    whole.update(forecast, target, mask)
    for piece in (slice(0, cut), slice(cut, 7)):
        parts.update(forecast[piece], target[piece], mask[piece])
    for step, scores in whole.compute().items():
        for name, value in scores.items():
            assert parts.compute()[step][name] == pytest.approx(value, rel=1e-12)


def test_unobserved_targets_may_hold_anything() -> None:
    target, mask = torch.rand(2, 12, 3, 1), torch.rand(2, 12, 3, 1) > 0.5
    scores = []
    for filler in (0.0, float("nan"), float("inf"), 1e30):
        errors = MaskedErrors(12, 3, 1)
        errors.update(torch.ones_like(target), torch.where(mask, target, filler), mask)
        scores.append(errors.compute())
    assert all(score == scores[0] for score in scores)


def test_nothing_observed_gives_no_score() -> None:
    errors = MaskedErrors(2, 1, 1)
    errors.update(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1, 1, dtype=torch.bool))
    assert errors.compute()["all"] == {"mae": None, "rmse": None, "mape": None}


def test_slices_add_up_to_the_whole() -> None:
    error, mask = torch.randn(5, 4, 3, 1), torch.rand(5, 4, 3, 1) > 0.3
    group = torch.randint(0, 3, (5, 4))
    slices, each = SlicedErrors(["a", "b", "c"]), SlicedErrors(["a", "b", "c"])
    slices.update(error, mask, group)
    each.update(error, mask, group[..., None, None].expand(mask.shape))  # the same groups, said for every element
    assert slices.table() == each.table()
    assert slices.count.sum() == mask.sum()
    assert slices.absolute.sum() == pytest.approx(error[mask].abs().sum().item(), rel=1e-6)
    naive = error.abs()[mask & (group[..., None, None] == 1)].mean().item()
    assert slices.table()["b"]["mae"] == pytest.approx(naive, rel=1e-6)


def _days(errors: np.ndarray, count: int = 100) -> dict[str, tuple[float, float]]:
    return {f"2020-01-{day + 1:02d}": (float(error * count), float(count)) for day, error in enumerate(errors)}


def test_bootstrap_sees_a_real_difference_and_no_other() -> None:
    random = np.random.default_rng(0)
    common = random.normal(5, 1, 25)
    better = block_bootstrap(_days(common - 0.5 + random.normal(0, 0.1, 25)), _days(common))
    assert better["difference"] == pytest.approx(-0.5, abs=0.1)
    assert better["high"] < 0
    assert better["p_value"] < 0.01
    alike = block_bootstrap(_days(common + random.normal(0, 1, 25)), _days(common))
    assert alike["low"] < 0 < alike["high"]
    same = block_bootstrap(_days(common), _days(common))
    assert (same["difference"], same["p_value"]) == (0, 1)


def test_bootstrap_keeps_quiet_on_few_days_and_refuses_unlike_elements() -> None:
    assert block_bootstrap(_days(np.ones(3)), _days(np.zeros(3)))["p_value"] is None
    with pytest.raises(InputError, match="not scored on the same elements"):
        block_bootstrap(_days(np.ones(6)), _days(np.ones(6), count=99))


def test_spread_over_seeds_is_the_sample_deviation() -> None:
    records = [{"seed": i, "horizons": {"all": {"mae": value}}} for i, value in enumerate((1.0, 2.0, 4.0))]
    scores = summarise(records)["horizons"]["all"]["mae"]
    assert scores["mean"] == pytest.approx(7 / 3)
    assert scores["spread"] == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert summarise(records[:1])["horizons"]["all"]["mae"]["spread"] is None
