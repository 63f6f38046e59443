"""Kriging from the places around: variograms and covariances from data, and local systems solved many at a time."""

from __future__ import annotations

import numpy as np

from stgraph.errors import InputError

_ENTRIES = 4096  # kriged at a time


class Variogram:
    r"""An exponential variogram, ``gamma(h) = nugget + sill (1 - exp(-h / range))`` for ``h > 0``.

    Args:
        nugget: What two readings at one place differ by, squared and halved.
        sill: What distance adds.
        range: Distance over which it is added, in metres.
    """

    def __init__(self, nugget: float, sill: float, range: float) -> None:
        self.nugget, self.sill, self.range = nugget, sill, range

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """``gamma`` of distances in metres."""
        return np.where(distance > 0, self.nugget + self.sill * -np.expm1(-distance / self.range), 0)

    def covariance(self, distance: np.ndarray) -> np.ndarray:
        """Covariance ``[N, N]`` of the places of a distance matrix: sill and nugget less ``gamma``.

        Two places at one point differ by the nugget; a little more on the diagonal keeps it regular without one. Of a
        field that never differs it is the identity, by which neighbours count alike.
        """
        here = np.eye(len(distance)) * (self.nugget + 1e-6 * (self.sill + self.nugget) or 1.0)
        return self.sill * np.exp(-distance / self.range) + here


def fit_variogram(values: np.ndarray, mask: np.ndarray, distance: np.ndarray, bins: int = 15) -> Variogram:
    """The exponential variogram of readings, by least squares over bins of pairs of places.

    Pairs are sorted into bins of equal count by distance, up to half of the largest one (A. Journel, C. Huijbregts:
    Mining Geostatistics, 1978). Bins weigh ``pairs / gamma^2`` (N. Cressie, Mathematical Geology 1985). The range is
    sought on a grid; nugget and sill are not negative.

    Args:
        values: ``[T, N]``.
        mask: ``[T, N]`` bool.
        distance: ``[N, N]`` metres.
        bins: Number of bins at most.

    Raises:
        InputError: where no two places were observed at the same time.
    """
    from scipy.optimize import nnls

    first, second = np.triu_indices(len(distance), 1)
    square, count = _half_square_differences(values, mask)
    apart, half, pairs = distance[first, second], square[first, second], count[first, second]
    near = (pairs > 0) & (apart <= max(apart.max(initial=0) / 2, np.quantile(apart, 0.1) if len(apart) else 0))
    if not near.any():
        raise InputError("no two places were observed at the same time", field="mask",
                         remedy="use more data, or a way without neighbours")
    order = np.argsort(apart[near], kind="stable")
    groups = [group for group in np.array_split(order, min(bins, len(order))) if len(group)]
    h, gamma, weight = (np.array(column) for column in zip(*(
        (apart[near][g].mean(), np.average(half[near][g], weights=pairs[near][g]), pairs[near][g].sum())
        for g in groups), strict=True))
    scale = np.sqrt(weight / weight.sum()) / np.maximum(gamma, 1e-9 * max(gamma.max(), 1e-12))
    widest = max(apart.max(), 1.0)
    best: tuple[float, Variogram] | None = None
    for reach in np.geomspace(max(h[0] / 3, widest / 1000), 3 * widest, 60):
        columns = np.stack([np.ones_like(h), -np.expm1(-h / reach)], 1)
        (nugget, sill), error = nnls(columns * scale[:, None], gamma * scale)
        if best is None or error < best[0] - 1e-12:
            best = error, Variogram(float(nugget), float(sill), float(reach))
    assert best is not None
    return best[1]


def sample_covariance(values: np.ndarray, mask: np.ndarray, shrinkage: float) -> np.ndarray:
    """Second moments about 0 over the steps that show both places, drawn to their diagonal, ``[N, N]``."""
    seen, value = mask.astype(np.float64), np.where(mask, values, 0).astype(np.float64)
    moment = value.T @ value / np.maximum(seen.T @ seen, 1)
    own = np.diagonal(moment)
    own = np.where(own > 0, own, max(own.mean(), 1e-12))
    return np.where(np.eye(len(own), dtype=bool), own, (1 - shrinkage) * moment)


def krige(values: np.ndarray, mask: np.ndarray, covariance: np.ndarray, unlike: np.ndarray, fallback: np.ndarray,
          neighbours: int = 16, unbiased: bool = True) -> np.ndarray:
    r"""Local kriging of every gap from the readings of the same step.

    .. math:: \begin{pmatrix} C & 1 \\ 1^T & 0 \end{pmatrix} \begin{pmatrix} w \\ \mu \end{pmatrix}
              = \begin{pmatrix} c \\ 1 \end{pmatrix}, \qquad \hat x = \sum_i w_i x_i

    over the ``neighbours`` observed places least ``unlike`` the wanted one: ordinary kriging (G. Matheron, Economic
    Geology 1963). Without the row and column of ones, which make the weights sum to 1, it is simple kriging of values
    whose mean is 0.

    Args:
        values: ``[T, N, C]``.
        mask: ``[T, N, C]`` bool.
        covariance: ``[C, N, N]`` of the places.
        unlike: ``[C, N, N]`` by which neighbours are chosen, the least first: a distance.
        fallback: ``[N, C]`` value where no place shows anything.
        neighbours: Places that a guess is made from, at most.
        unbiased: Whether the weights sum to 1.
    """
    found = np.where(mask, values, np.broadcast_to(fallback, values.shape))
    nodes = values.shape[1]
    size = min(neighbours, nodes - 1)
    if size < 1:
        return found
    for channel in range(values.shape[2]):
        order = np.argsort(unlike[channel] + np.where(np.eye(nodes, dtype=bool), np.inf, 0), 1, kind="stable")[:, :-1]
        rows, wanted = np.nonzero(~mask[..., channel])
        for start in range(0, len(rows), _ENTRIES):
            row, node = rows[start : start + _ENTRIES], wanted[start : start + _ENTRIES]
            there = mask[row[:, None], order[node], channel]                                  # [W, N - 1]
            nearest = np.argsort(~there, 1, kind="stable")[:, :size]
            near, seen = np.take_along_axis(order[node], nearest, 1), np.take_along_axis(there, nearest, 1)
            weight = _kriging_weights(covariance[channel], node, near, seen, unbiased)        # [W, K]
            guess = (weight * np.where(seen, values[row[:, None], near, channel], 0)).sum(1)
            some = seen.any(1)
            found[row[some], node[some], channel] = guess[some]
    return found


def _kriging_weights(covariance: np.ndarray, node: np.ndarray, near: np.ndarray, seen: np.ndarray, unbiased: bool
                     ) -> np.ndarray:
    """Weights ``[W, K]`` of neighbours ``near [W, K]``, 0 where they were not ``seen``."""
    count, size = near.shape
    system = np.zeros((count, size + 1, size + 1))
    both = seen[:, :, None] & seen[:, None]
    system[:, :size, :size] = np.where(both, covariance[near[:, :, None], near[:, None]], np.eye(size))
    right = np.zeros((count, size + 1))
    right[:, :size] = np.where(seen, covariance[node[:, None], near], 0)
    held = np.full(count, unbiased) & seen.any(1)
    system[:, size, :size] = system[:, :size, size] = seen & held[:, None]
    system[:, size, size], right[:, size] = ~held, held
    weight: np.ndarray = np.linalg.solve(system, right[..., None])[:, :size, 0]
    return weight


def _half_square_differences(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of ``(x_i - x_j)^2 / 2`` over the steps that show both, and their number, ``[N, N]`` each."""
    seen = mask.astype(np.float64)
    value = np.where(mask, values, 0) - seen * (values[mask].mean(dtype=np.float64) if mask.any() else 0.0)
    count, square = seen.T @ seen, np.square(value).T @ seen
    return np.maximum(square + square.T - 2 * value.T @ value, 0) / 2 / np.maximum(count, 1), count
