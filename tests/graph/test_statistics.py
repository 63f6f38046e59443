"""Moran's I, autocorrelation and Smirnov's statistic: by hand, by brute force, and as theory has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from stgraph.errors import InputError
from stgraph.graph.statistics import AutocorrelationSums, autocorrelation, morans_i, smirnov


def path(count: int) -> np.ndarray:
    """Edges both ways between neighbours in a row."""
    here = np.arange(count - 1)
    return np.concatenate([np.stack([here, here + 1]), np.stack([here + 1, here])], axis=1)


def grid(side: int) -> np.ndarray:
    """Edges both ways between the four neighbours in a square."""
    number = np.arange(side * side).reshape(side, side)
    one = np.concatenate([np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()]),
                          np.stack([number[:-1].ravel(), number[1:].ravel()])], axis=1)
    return np.concatenate([one, one[::-1]], axis=1)


def brute(values: np.ndarray, index: np.ndarray, weight: np.ndarray, standardise: bool) -> tuple[float, float]:
    """Moran's I and its variance from the whole matrix; every node must have a value and a neighbour."""
    count = len(values)
    w = np.zeros((count, count))
    for (source, target), one in zip(index.T, weight, strict=True):
        if source != target:
            w[target, source] = max(w[target, source], one)
    if standardise:
        sums = w.sum(1, keepdims=True)
        w = np.divide(w, sums, out=np.zeros_like(w), where=sums > 0)
    z = values - values.mean()
    s0, s1 = w.sum(), ((w + w.T) ** 2).sum() / 2
    s2 = ((w.sum(0) + w.sum(1)) ** 2).sum()
    variance = (count ** 2 * s1 - count * s2 + 3 * s0 ** 2) / ((count ** 2 - 1) * s0 ** 2) - 1 / (count - 1) ** 2
    return count / s0 * (z @ w @ z) / (z @ z), variance


# -------------------------------------------------------------------- Moran's I
def test_four_nodes_in_a_row_by_hand() -> None:
    """z = (-1.5, -0.5, 0.5, 1.5); neighbours give 2 (0.75 - 0.25 + 0.75) = 2.5; I = 4 / 6 * 2.5 / 5 = 1 / 3."""
    plain = morans_i(np.array([1.0, 2.0, 3.0, 4.0]), path(4), standardise=False)
    assert plain.value == pytest.approx(1 / 3)
    assert (plain.expected, plain.nodes) == (pytest.approx(-1 / 3), 4)
    # rows: -1.5 * -0.5 + -0.5 * (-1.5 + 0.5) / 2 + 0.5 * (-0.5 + 1.5) / 2 + 1.5 * 0.5 = 2; over 5
    assert morans_i(np.array([1.0, 2.0, 3.0, 4.0]), path(4)).value == pytest.approx(2 / 5)
    # S0 = 6, S1 = 12, S2 = 4 + 16 + 16 + 4 = 40: (16 * 12 - 4 * 40 + 3 * 36) / (15 * 36) - 1 / 9
    assert plain.deviation == pytest.approx(np.sqrt(140 / 540 - 1 / 9))
    assert plain.z == pytest.approx((1 / 3 + 1 / 3) / np.sqrt(140 / 540 - 1 / 9))


@pytest.mark.parametrize("count", [5, 20, 301])
def test_a_perfect_gradient_along_a_row(count: int) -> None:
    """For x_i = i on a path, I = (n - 3) / (n - 1)."""
    found = morans_i(7.0 - 3.0 * np.arange(count), path(count), standardise=False)
    assert found.value == pytest.approx((count - 3) / (count - 1))


def test_a_chequerboard_is_minus_one() -> None:
    values = np.indices((6, 6)).sum(0).ravel() % 2
    assert morans_i(values, grid(6)).value == pytest.approx(-1.0)


def test_white_noise_gives_its_expectation_and_deviation() -> None:
    chance = np.random.default_rng(0)
    index, draws = grid(8), 1500
    results = [morans_i(chance.normal(size=64), index) for _ in range(draws)]
    values = np.array([one.value for one in results])
    deviation = results[0].deviation
    assert abs(values.mean() - results[0].expected) < 4 * deviation / np.sqrt(draws)
    assert abs(values.std() / deviation - 1) < 4 / np.sqrt(2 * draws)
    assert abs(np.std([one.z for one in results]) - 1) < 4 / np.sqrt(2 * draws)


@given(st.integers(0, 10_000), st.booleans())
def test_it_equals_brute_force(seed: int, standardise: bool) -> None:
    chance = np.random.default_rng(seed)
    count = int(chance.integers(3, 12))
    ring = np.stack([np.arange(count), np.roll(np.arange(count), 1)])  # so that every node has a neighbour
    index = np.concatenate([ring, chance.integers(0, count, (2, 15))], axis=1)
    weight = chance.random(index.shape[1]) + 0.01
    values = chance.normal(size=count)
    found = morans_i(values, index, weight, standardise)
    value, variance = brute(values, index, weight, standardise)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.deviation ** 2 == pytest.approx(max(variance, 0.0), abs=1e-12)


def test_what_is_unknown_or_alone_does_not_count() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 1e9, np.nan])
    index = np.concatenate([path(4), [[5, 3, 4], [0, 5, 4]]], axis=1)  # through the unknown, and a loop
    assert morans_i(values, index) == morans_i(values[:4], path(4))


def test_where_it_is_not_defined() -> None:
    assert np.isnan(morans_i(np.full(9, 0.1), grid(3)).value)
    assert np.isnan(morans_i(np.array([1.0, 2.0]), path(2)).value)
    assert morans_i(np.arange(5.0), np.zeros((2, 0), np.int64)).nodes == 0


@pytest.mark.parametrize(("values", "index", "weight", "field"), [
    (np.zeros((3, 2)), path(3), None, "values"), (np.zeros(3), np.zeros(4), None, "edge_index"),
    (np.zeros(3), path(3), np.ones(3), "weight"), (np.zeros(3), path(3), -np.ones(4), "weight"),
    (np.zeros(3), path(3), np.full(4, np.nan), "weight")])
def test_faults_of_moran_name_their_parts(values: np.ndarray, index: np.ndarray, weight: np.ndarray | None,
                                          field: str) -> None:
    with pytest.raises(InputError) as error:
        morans_i(values, index, weight)
    assert error.value.field == field


# -------------------------------------------------------------------- autocorrelation
def test_five_steps_by_hand() -> None:
    """x - mean = (-2, -1, 0, 1, 2), variance 2: lag 1 (2 + 0 + 0 + 2) / 4 / 2, lag 2 (0 - 1 + 0) / 3 / 2."""
    found = autocorrelation(np.arange(1.0, 6.0), lags=(0, 1, 2, 4, 5))
    np.testing.assert_allclose(found[:4], [1.0, 0.5, -1 / 6, -2.0])
    assert np.isnan(found[4])


def test_a_daily_wave_repeats_after_a_day() -> None:
    wave = np.sin(2 * np.pi * np.arange(24 * 5) / 24)
    np.testing.assert_allclose(autocorrelation(wave, lags=(24, 12)), [1.0, -1.0], atol=1e-12)


def test_white_noise_is_not_like_its_past() -> None:
    found = autocorrelation(np.random.default_rng(1).normal(size=40_000), lags=(1, 12, 288))
    assert np.abs(found).max() < 4 / np.sqrt(40_000)


@given(st.integers(0, 10_000))
def test_the_mask_is_honoured(seed: int) -> None:
    chance = np.random.default_rng(seed)
    values, mask = chance.normal(size=(30, 3)), chance.random((30, 3)) < 0.7
    found = autocorrelation(np.where(mask, values, 1e6), mask, (1, 7))
    for column in range(3):
        seen = mask[:, column]
        centred = values[:, column] - values[seen, column].mean()
        for row, lag in enumerate((1, 7)):
            pairs = [centred[t] * centred[t + lag] for t in range(30 - lag) if seen[t] and seen[t + lag]]
            assert found[row, column] == pytest.approx(np.mean(pairs) / np.mean(centred[seen] ** 2))


def test_stretches_add_up_but_for_pairs_across_them() -> None:
    values = np.random.default_rng(2).normal(size=50)
    mask = np.ones(50, bool)
    mask[20:23] = False  # no pair at lag 1 to 3 crosses here
    whole, parts = autocorrelation(values, mask, (1, 3)), AutocorrelationSums((1, 3))
    for part in (slice(0, 20), slice(23, 50)):
        parts.add(values[part], mask[part], values[mask].mean())
    np.testing.assert_allclose(parts.result(), whole)


def test_what_does_not_vary_has_no_correlation() -> None:
    assert np.isnan(autocorrelation(np.full(100, 0.1), lags=(1,))).all()
    assert np.isnan(autocorrelation(np.zeros((4, 2)), np.zeros((4, 2), bool), (1,))).all()


def test_faults_of_autocorrelation() -> None:
    with pytest.raises(InputError, match="negative"):
        autocorrelation(np.zeros(4), lags=(-1,))
    with pytest.raises(InputError, match="another shape"):
        autocorrelation(np.zeros(4), np.ones((1, 4), bool), (1,))


# -------------------------------------------------------------------- distributions
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_smirnov_equals_scipy(one: list[int], other: list[int]) -> None:
    assert smirnov(np.array(one), np.array(other)) == pytest.approx(ks_2samp(one, other).statistic)


def test_smirnov_by_hand() -> None:
    assert smirnov(np.arange(10), np.arange(10) + 5) == pytest.approx(0.5)
    assert smirnov(np.arange(3), np.arange(3) + 10) == 1.0
    assert np.isnan(smirnov(np.zeros(0), np.zeros(3)))
