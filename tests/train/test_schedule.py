"""Laws of the schedule: the rate rises, then falls; validation keeps to its share; the budget is filled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.train.schedule import learning_rate_factor, plan_validation, steps_that_fit


@given(st.integers(1, 20_000), st.data())
def test_rate_is_a_pure_function_between_zero_and_one(total, data):
    step = data.draw(st.integers(0, total - 1))
    factor = learning_rate_factor(step, total)
    assert factor == learning_rate_factor(step, total)
    assert 0 < factor <= 1


def test_rate_rises_to_one_then_falls_to_a_hundredth():
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    top = factors.index(1.0)
    assert top == 49  # 5 % of the steps
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)


@given(st.integers(200, 200_000), st.integers(1, 5000))
def test_validation_keeps_to_its_share(total, available):
    plan = plan_validation(total, available)
    validations = [step for step in range(1, total + 1) if plan.is_due(step, total)] if total < 2000 else None
    if validations is not None:
        assert len(validations) == plan.count(total)
        assert validations[-1] == total
    assert 1 <= plan.batches <= available
    assert 8 <= plan.count(total) <= 20
    cost = 0.35 * plan.count(total) * plan.batches
    assert cost / (cost + total) <= 0.151


def test_a_short_validation_part_is_scored_whole_and_none_is_never_due():
    assert plan_validation(10_000, 6).batches == 6
    assert plan_validation(10_000, 6).count(10_000) == 20
    empty = plan_validation(100, 0)
    assert not any(empty.is_due(step, 100) for step in range(1, 101))


@given(st.floats(1, 3600), st.floats(0.001, 2), st.floats(0.001, 2), st.integers(0, 500))
def test_the_budget_is_filled_and_not_passed(seconds, step, batch, available):
    def cost(total):
        plan = plan_validation(total, available)
        return total * step + plan.count(total) * plan.batches * batch

    steps = steps_that_fit(seconds, step, batch, available)
    assert steps == 1 or cost(steps) <= seconds
    if not available:
        assert cost(steps + 1) > seconds
