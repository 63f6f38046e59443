"""Is one model better than another, or is it the luck of the days?"""

from __future__ import annotations

from typing import Any

import numpy as np

from stgraph.errors import InputError


def block_bootstrap(first: dict[str, tuple[float, float]], second: dict[str, tuple[float, float]],
                    resamples: int = 5000, seed: int = 0) -> dict[str, Any]:
    """Paired bootstrap over days (Künsch 1989: whole blocks are drawn, so dependence inside a day is kept).

    Args:
        first: For each local day: sum of absolute errors and count of elements of the first model.
        second: The same days and elements for the second model.
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        ``difference`` (MAE of the first minus MAE of the second), its 95 % interval ``low``..``high``, a two-sided
        ``p_value``, and ``days``; fewer than five days carry no verdict and ``p_value`` is None.

    Raises:
        InputError: where the two were not scored on the same elements.
    """
    days = sorted(first)
    a, b = (np.array([table.get(day, (0.0, -1.0)) for day in days], float) for table in (first, second))
    if sorted(second) != days or not np.array_equal(a[:, 1], b[:, 1]):
        raise InputError("the two models were not scored on the same elements", field="daily",
                         remedy="evaluate both on the same bundle, part, history and horizon")
    difference = (a[:, 0].sum() - b[:, 0].sum()) / a[:, 1].sum()
    result = {"difference": float(difference), "low": None, "high": None, "p_value": None, "days": len(days)}
    if len(days) < 5:
        return result
    draws = np.random.default_rng(seed).integers(0, len(days), (resamples, len(days)))
    sampled = (a[draws, 0].sum(1) - b[draws, 0].sum(1)) / a[draws, 1].sum(1)
    low, high = np.quantile(sampled, [0.025, 0.975])
    tail = min((sampled <= 0).mean(), (sampled >= 0).mean())
    return result | {"low": float(low), "high": float(high), "p_value": float(min(1, 2 * max(tail, 1 / resamples)))}
