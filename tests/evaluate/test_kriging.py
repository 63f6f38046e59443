"""Kriging equals its textbook system solved one by one, is exact where it must be, and finds a planted variogram."""

from __future__ import annotations

import numpy as np
import pytest

from stgraph.errors import InputError
from stgraph.evaluate.kriging import Variogram, fit_variogram, krige, sample_covariance


def field(nodes: int = 12, rows: int = 60, seed: int = 0, channels: int = 1, hidden: float = 0.3
          ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Variogram]:
    """Distances, values, mask of a Gaussian field with a known variogram."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 10_000, (nodes, 2))
    distance = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    model = Variogram(0.5, 4.0, 3000.0)
    root = np.linalg.cholesky(model.covariance(distance))
    values = np.einsum("ij,tjc->tic", root, rng.normal(size=(rows, nodes, channels)))
    mask = rng.random(values.shape) >= hidden
    return distance, np.where(mask, values, 0), mask, model


def one_by_one(z: np.ndarray, seen: np.ndarray, distance: np.ndarray, covariance: np.ndarray, node: int, size: int,
               unbiased: bool) -> float | None:
    """The system in variogram form for one gap: what a textbook writes."""
    near = [other for other in np.argsort(distance[node], kind="stable") if other != node and seen[other]][:size]
    if not near:
        return None
    if not unbiased:
        return float(np.linalg.solve(covariance[np.ix_(near, near)], covariance[near, node]) @ z[near])
    gamma = covariance.max() - covariance
    np.fill_diagonal(gamma, 0)  # a reading does not differ from itself
    system = np.ones((len(near) + 1, len(near) + 1))
    system[:-1, :-1], system[-1, -1] = gamma[np.ix_(near, near)], 0
    return float(np.linalg.solve(system, np.append(gamma[near, node], 1))[:-1] @ z[near])


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("size", [1, 4, 50])
def test_every_gap_is_the_solution_of_its_own_system(size: int, unbiased: bool) -> None:
    distance, values, mask, model = field(channels=2)
    mask[7], mask[8] = False, False
    mask[8, 3] = True  # one place alone, and none at all
    covariance = np.stack([model.covariance(distance), Variogram(0.1, 1.0, 900.0).covariance(distance)])
    fallback = np.arange(24.0).reshape(12, 2)
    found = krige(values, mask, covariance, np.stack([distance] * 2), fallback, size, unbiased)
    assert np.array_equal(found[mask], values[mask])
    for row, node, channel in np.argwhere(~mask):
        wanted = one_by_one(values[row, :, channel], mask[row, :, channel], distance, covariance[channel], node, size,
                            unbiased)
        assert found[row, node, channel] == pytest.approx(fallback[node, channel] if wanted is None else wanted,
                                                          rel=1e-6, abs=1e-8)


def test_weights_that_sum_to_one_carry_a_constant_through() -> None:
    distance, values, mask, model = field()
    here, there = model.covariance(distance)[None], distance[None]
    moved, still = (krige(np.where(mask, values + shift, 0), mask, here, there, np.zeros((12, 1)), 5)
                    for shift in (100.0, 0.0))
    np.testing.assert_allclose(moved, still + 100)
    flat = Variogram(0, 0, 1.0).covariance(distance)[None]
    level = krige(np.where(mask, 7.0, 0), mask, flat, there, np.zeros((12, 1)))
    np.testing.assert_allclose(level, 7.0)


def test_true_covariances_give_the_conditional_mean_and_beat_others() -> None:
    """The error of the right variogram is least, and that of simple kriging is the Gaussian conditional variance."""
    distance, values, _, model = field(nodes=10, rows=6000, seed=1, hidden=0)
    mask = np.ones(values.shape, bool)
    mask[:, 4] = False
    error, others = {}, {"short": Variogram(0.5, 4.0, 300.0), "noisy": Variogram(8.0, 4.0, 3000.0)}
    for name, used in {"right": model, **others}.items():
        found = krige(values, mask, used.covariance(distance)[None], distance[None], np.zeros((10, 1)), 9, False)
        error[name] = float(np.square(found - values)[:, 4].mean())
    assert min(error, key=error.get) == "right"
    c = model.covariance(distance)
    known = [node for node in range(10) if node != 4]
    left = c[4, 4] - c[4, known] @ np.linalg.solve(c[np.ix_(known, known)], c[known, 4])
    assert error["right"] == pytest.approx(left, rel=0.06)


def test_a_planted_variogram_is_found() -> None:
    distance, values, mask, model = field(nodes=60, rows=4000, seed=2, hidden=0.2)
    found = fit_variogram(values[..., 0] + 50, mask[..., 0], distance)
    assert found.sill == pytest.approx(model.sill, rel=0.15)
    assert found.range == pytest.approx(model.range, rel=0.2)
    assert found.nugget == pytest.approx(model.nugget, abs=0.15)
    h = np.linspace(500, 6000, 12)
    np.testing.assert_allclose(found(h), model(h), rtol=0.05)
    assert found(np.zeros(1)) == 0


def test_what_was_not_observed_has_no_say_in_the_fit() -> None:
    distance, values, mask, _ = field(seed=3)
    values, mask = values[..., 0], mask[..., 0]
    one, other = (fit_variogram(np.where(mask, values, junk), mask, distance) for junk in (0.0, 1e6))
    assert vars(one) == vars(other)
    np.testing.assert_array_equal(*(sample_covariance(np.where(mask, values, junk), mask, 0.1) for junk in (0.0, 1e6)))


def test_the_sample_covariance_by_hand() -> None:
    values = np.array([[1.0, 2.0], [3.0, -1.0], [2.0, 9.0]])
    mask = np.array([[True, True], [True, True], [True, False]])
    found = sample_covariance(values, mask, 0.5)
    np.testing.assert_allclose(found, [[14 / 3, 0.5 * (2 - 3) / 2], [0.5 * (2 - 3) / 2, 2.5]])


def test_places_never_seen_together_are_refused() -> None:
    mask = np.array([[True, False], [False, True]])
    with pytest.raises(InputError, match="no two places"):
        fit_variogram(np.ones((2, 2)), mask, np.array([[0.0, 5.0], [5.0, 0.0]]))
