"""Ridge vector autoregression: every node's next departure from its profile is linear in the last ones of all nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.windows import City, Forecast, Window

MOST_INPUTS = 4096  # the normal equations then take 128 MB
_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class VectorAutoregressionConfig:
    """Settings of the autoregression."""

    order: int = 3  # input steps p, at most the history
    ridge: float = 2000.0  # weight of "no influence", in rows of data


class VectorAutoregression(Forecaster):
    """VAR(p), fitted in closed form and iterated over the horizon.

    With the departure from the profile ``z_t = (x_t - profile_t) / spread`` of all nodes and channels,
    ``z_t = sum_k z_{t-k} A_k``; the ``A_k`` minimise the squared error over the training rows plus
    ``ridge * sum_k |A_k|^2`` (Hoerl and Kennard, Ridge regression, Technometrics 1970). A reading that is missing
    counts as the usual one, ``z = 0``. Transductive: ``A_k`` is a table of pairs of nodes.

    Args:
        config: Order and ridge.
        sizes: The sizes from data.

    Raises:
        InputError: for an order that is not in ``1 .. history``, a ridge that is not positive, or a network so large
            that ``order * nodes * channels`` passes 4,096.
    """

    name = "var"
    Config = VectorAutoregressionConfig
    coefficients: Tensor
    spread: Tensor

    def __init__(self, config: VectorAutoregressionConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        if not 1 <= config.order <= sizes.history:
            raise InputError("the order must lie within the history", field="order", value=config.order,
                             remedy=f"choose 1 to {sizes.history}")
        if not 0 < config.ridge < math.inf:
            raise InputError("the ridge must be positive", field="ridge", value=config.ridge,
                             remedy="give it in rows of data, such as 2000")
        width = (sizes.nodes or 0) * sizes.channels
        if config.order * width > MOST_INPUTS:
            raise InputError(f"the network is too large for a vector autoregression of order {config.order}",
                             field="order", value=f"{config.order} x {width} = {config.order * width} inputs",
                             remedy=f"at most {MOST_INPUTS} fit: lower the order, choose fewer channels, or use "
                                    "another model")
        self.register_buffer("coefficients", torch.zeros(config.order * width, width))
        self.register_buffer("spread", torch.ones(sizes.nodes or 0, sizes.channels))

    @classmethod
    def describe(cls, config: Any) -> Capabilities:
        """Transductive, needs the profile, fitted by a formula."""
        return Capabilities(inductive=False, needs=frozenset({"profile"}), training="closed_form")

    def prepare(self, city: City) -> None:
        """Take the spread of each node's departures."""
        self.spread.copy_(torch.from_numpy(city.context.spread))

    def fit(self, city: City) -> None:
        """Accumulate the normal equations over the training rows, block by block, and solve them."""
        order, (inputs, outputs) = self.config.order, self.coefficients.shape
        gram, cross = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
        start, stop = city.split.rows("train")
        for first in range(start + order, stop, _CHUNK_ROWS):
            last = min(first + _CHUNK_ROWS, stop)
            z = self._departures(city, first - order, last)
            x = np.concatenate([z[order - k : len(z) - k] for k in range(1, order + 1)], 1)  # newest step first
            gram += x.T @ x
            cross += x.T @ z[order:]
        gram[np.diag_indices(inputs)] += self.config.ridge
        solved = linalg.solve(gram, cross, assume_a="pos", overwrite_a=True, overwrite_b=True)
        self.coefficients.copy_(torch.from_numpy(solved))

    def _departures(self, city: City, first: int, last: int) -> np.ndarray:
        """Scaled departures of rows ``first .. last - 1``, ``[rows, N * C]``; 0 where nothing was observed."""
        values, mask = city.signal.read(first, last)
        profile = city.context.profile(np.arange(first, last), (values, mask))
        departure = np.where(mask, values - profile, 0) / self.spread.numpy()
        return departure.reshape(last - first, -1)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        assert window.profile_past is not None, "the window was cut without a profile"
        assert window.profile_future is not None, "the window was cut without a profile"
        past = torch.where(window.mask, (window.values - window.profile_past) / self.spread, 0).flatten(2)
        state: Tensor = past[:, -self.config.order :].flip(1).flatten(1)  # [B, p * N * C], newest step first
        steps = []
        for _ in range(window.horizon):
            steps.append(state @ self.coefficients)
            state = torch.cat([steps[-1], state[:, : -steps[-1].shape[1]]], 1)
        departure = torch.stack(steps, 1).unflatten(2, window.values.shape[2:])  # [B, H, N, C]
        return Forecast(window.profile_future + departure * self.spread)
