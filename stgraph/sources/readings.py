"""What every reader of sensor files hands over: values on places and times, before any graph is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass
class Readings:
    """Raw readings in the source's own unit, as read and not yet repaired.

    Args:
        values: Readings ``[T, N, C]`` float32; NaN where the file has none.
        ids: Name of each of the ``N`` sensors, in the order of ``values``.
        channels: Name of each of the ``C`` channels.
        utc: Time of each row, seconds since 1970-01-01 UTC, ``[T]`` int64; None where the file has no such times.
        clock: Time of each row on the local wall clock, counted in seconds as if that clock were UTC, ``[T]`` int64;
            None where the file has no such times. At most one of ``utc`` and ``clock`` is given.
        locations: Table indexed by sensor name with columns ``longitude`` and ``latitude`` (degree, WGS 84).
        edges: Table of directed edges with columns ``from``, ``to`` (sensor names) and ``distance_m`` (m) or
            ``weight``.
        file: Where the readings came from, for messages.
    """

    values: np.ndarray
    ids: list[str]
    channels: list[str]
    utc: np.ndarray | None = None
    clock: np.ndarray | None = None
    locations: pd.DataFrame | None = None
    edges: pd.DataFrame | None = None
    file: str = ""
