"""How alike neighbours are (Moran's I), how alike a series is to its own past, and how unlike two samples are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from stgraph.errors import InputError


@dataclass(frozen=True)
class MoranResult:
    """Moran's I, with what is expected where nothing depends on place.

    Args:
        value: Moran's I; NaN where it is not defined: fewer than three nodes, no edges among them, or all values equal.
        expected: ``-1 / (n - 1)``, its mean over all arrangements of the values.
        deviation: Standard deviation of I for independent normal values (Cliff and Ord, *Spatial Processes*, 1981).
        z: ``(value - expected) / deviation``.
        nodes: ``n``, the nodes that were used: with a value and with a neighbour that has one.
    """

    value: float
    expected: float
    deviation: float
    z: float
    nodes: int


def morans_i(values: np.ndarray, edge_index: np.ndarray, weight: np.ndarray | None = None,
             standardise: bool = True) -> MoranResult:
    r"""Moran's I of one value per node (P. A. P. Moran, "Notes on continuous stochastic phenomena", Biometrika 1950).

    .. math:: I = \frac{n}{\sum_{ij} w_{ij}} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}, \quad z_i = x_i - \bar x

    Row ``i`` of ``w`` holds the weights of the edges that come into node ``i``. Edges from a node to itself are left
    out, of parallel edges the heaviest counts, and nodes without a value or without a neighbour are left out.

    Args:
        values: ``[N]``, NaN where not known.
        edge_index: ``[2, E]`` positions of sources and targets.
        weight: ``[E]``, not negative; None for 1 everywhere.
        standardise: Whether the weights coming into each node are divided by their sum.

    Raises:
        InputError: where shapes do not fit, or a weight is negative or not a number.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise InputError("Moran's I takes one value per node", field="values", value=list(values.shape),
                         remedy="give them as [N]")
    row, column, weight = _neighbours(np.asarray(edge_index), weight, len(values))
    known = np.isfinite(values)
    used = known[row] & known[column]
    row, column, weight = row[used], column[used], weight[used]
    member = np.zeros(len(values), bool)
    member[row] = member[column] = True
    count = int(member.sum())
    if count < 3:
        return MoranResult(float("nan"), float("nan"), float("nan"), float("nan"), count)
    if standardise:
        weight = weight / np.bincount(row, weight, len(values))[row]
    deviation = np.where(member, values - values[member].mean(), 0.0)
    square = float((deviation ** 2).sum())
    total = float(weight.sum())
    expected = -1.0 / (count - 1)
    spread = sqrt(max(_variance(row, column, weight, count, len(values)), 0.0))
    constant = square <= count * (np.finfo(float).eps * np.abs(values[member]).max()) ** 2
    value = float("nan") if constant else count / total * float((weight * deviation[row] * deviation[column]).sum()) \
        / square
    return MoranResult(value, expected, spread, (value - expected) / spread if spread > 0 else float("nan"), count)


def _neighbours(edge_index: np.ndarray, weight: np.ndarray | None,
                size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and weights without loops, without edges of weight 0, and with one entry for each pair."""
    if edge_index.ndim != 2 or len(edge_index) != 2:
        raise InputError("an edge index is [2, E]", field="edge_index", value=list(edge_index.shape),
                         remedy="give sources in its first and targets in its second row")
    weight = np.ones(edge_index.shape[1]) if weight is None else np.asarray(weight, np.float64)
    if weight.shape != edge_index.shape[1:]:
        raise InputError("one weight per edge is needed", field="weight", value=list(weight.shape),
                         remedy=f"give {edge_index.shape[1]}")
    if not (weight >= 0).all() or not np.isfinite(weight).all():
        raise InputError("a weight is negative or not a number", field="weight", value=float(weight.min()),
                         remedy="give weights of 0 and more")
    kept = (edge_index[0] != edge_index[1]) & (weight > 0)
    key, weight = edge_index[1, kept].astype(np.int64) * size + edge_index[0, kept], weight[kept]
    order = np.lexsort((-weight, key))
    key, weight = key[order], weight[order]
    first = np.ones(len(key), bool)
    first[1:] = key[1:] != key[:-1]
    return key[first] // max(size, 1), key[first] % max(size, 1), weight[first]


def _variance(row: np.ndarray, column: np.ndarray, weight: np.ndarray, count: int, size: int) -> float:
    """Variance of I for independent normal values (Cliff and Ord 1981, equation 2.35)."""
    total = float(weight.sum())
    sums = np.bincount(row, weight, size) + np.bincount(column, weight, size)
    here, there = row * size + column, column * size + row  # `here` is ascending
    place = np.minimum(np.searchsorted(here, there), len(here) - 1)
    opposite = np.where(here[place] == there, weight[place], 0.0)
    # 1/2 of the sum over all ordered pairs of (w_ij + w_ji)^2, by the pairs that have an edge
    pairs = float((weight ** 2).sum() + (weight * opposite).sum())
    square = (count ** 2 * pairs - count * float((sums ** 2).sum()) + 3 * total ** 2) / ((count ** 2 - 1) * total ** 2)
    return square - 1.0 / (count - 1) ** 2


def autocorrelation(values: np.ndarray, mask: np.ndarray | None = None, lags: Sequence[int] = (1,)) -> np.ndarray:
    r"""Correlation of a series with itself some steps earlier, over the pairs of which both were observed.

    .. math:: r_k = \frac{\frac{1}{P_k} \sum_{(t, t + k)} (x_t - \bar x)(x_{t+k} - \bar x)}
                         {\frac{1}{P_0} \sum_t (x_t - \bar x)^2}

    with the mean over all ``P_0`` observed values and ``P_k`` observed pairs at lag ``k``.

    Args:
        values: ``[T]`` or ``[T, N]``.
        mask: Of the same shape, True where observed; None where all were. Values that are not finite never are.
        lags: Numbers of steps, not negative.

    Returns:
        ``[len(lags)]`` or ``[len(lags), N]`` float64; NaN where there is no pair, or the series does not vary.

    Raises:
        InputError: where shapes do not fit, or a lag is negative.
    """
    sums = AutocorrelationSums(lags)
    observed = np.isfinite(values) if mask is None else mask & np.isfinite(values)
    if observed.shape != np.shape(values):
        raise InputError("the mask has another shape than the values", field="mask", value=list(observed.shape),
                         remedy=f"give it as {list(np.shape(values))}")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(observed, values, 0.0).sum(0, dtype=np.float64) / observed.sum(0)
    sums.add(values, observed, mean)
    return sums.result()


class AutocorrelationSums:
    """The sums behind :func:`autocorrelation`, over several stretches of a long series.

    Args:
        lags: Numbers of steps, not negative.

    Raises:
        InputError: for a negative lag.
    """

    def __init__(self, lags: Sequence[int]) -> None:
        self.lags = [int(lag) for lag in lags]
        if any(lag < 0 for lag in self.lags):
            raise InputError("a lag is negative", field="lags", value=min(self.lags), remedy="give numbers of steps")
        self.products: list[np.ndarray | float] = [0.0 for _ in self.lags]
        self.pairs: list[np.ndarray | float] = [0.0 for _ in self.lags]
        self.squares: np.ndarray | float = 0.0
        self.count: np.ndarray | float = 0.0
        self.rounding: np.ndarray | float = 0.0

    def add(self, values: np.ndarray, mask: np.ndarray, mean: np.ndarray) -> None:
        """One stretch ``[T]`` or ``[T, N]`` with its mask, and the mean of the whole series, a number or ``[N]``."""
        centred = np.where(mask, np.asarray(values, np.float64) - mean, 0.0)
        self.squares = self.squares + (centred ** 2).sum(0)
        self.count = self.count + mask.sum(0)
        self.rounding = np.maximum(self.rounding, 8 * np.finfo(float).eps * np.abs(mean))
        for index, lag in enumerate(self.lags):
            if lag < len(centred):
                early = slice(None, len(centred) - lag)
                self.products[index] = self.products[index] + (centred[lag:] * centred[early]).sum(0)
                self.pairs[index] = self.pairs[index] + (mask[lag:] & mask[early]).sum(0)

    def result(self) -> np.ndarray:
        """The correlations ``[len(lags)]`` or ``[len(lags), N]``."""
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = np.asarray(self.squares / self.count)
            varies = variance > np.square(self.rounding)
            found = [np.where(varies, np.divide(product, pairs) / variance, np.nan)
                     for product, pairs in zip(self.products, self.pairs, strict=True)]
        return np.stack([np.broadcast_to(one, variance.shape) for one in found]) if found else \
            np.zeros((0, *variance.shape))


def smirnov(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference between two empirical distribution functions (N. V. Smirnov, 1939): 0 alike, 1 apart.

    Args:
        one: Values ``[n]``.
        other: Values ``[m]``.

    Returns:
        The statistic; NaN where a sample is empty.
    """
    if not len(one) or not len(other):
        return float("nan")
    one, other = np.sort(one), np.sort(other)
    places = np.concatenate([one, other])
    below = [np.searchsorted(sample, places, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(below[0] - below[1]).max())
