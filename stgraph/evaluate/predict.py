"""Forecasts of what is not known yet, as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stgraph import io
from stgraph.errors import InputError
from stgraph.evaluate.conformal import Band
from stgraph.models import Forecaster
from stgraph.windows import City, Forecast


def forecast(model: Forecaster, city: City, at: int | None = None,
             intervals: Callable[[Forecast], Band] | None = None) -> pd.DataFrame:
    """Forecast the ``horizon`` steps that follow the newest window, or the window before an instant.

    A model that reads a profile gets it from all rows before the origin, and from none after it.

    Args:
        model: The forecaster.
        city: The city.
        at: Seconds since 1970-01-01 UTC of the first wanted step; None for the step after the last row.
        intervals: Intervals of a forecast, such as :class:`stgraph.evaluate.intervals.CalibratedIntervals`.

    Returns:
        One row per sensor, channel and step: ``sensor``, ``time`` (with the time zone of the place), ``horizon``
        (steps ahead, from 1), ``channel``, ``value``, ``unit`` (of the source). With intervals ``low`` and ``high``;
        of a model with quantiles ``q5`` ``q50`` ..., in percent.

    Raises:
        InputError: where the model cannot answer for this city, or the instant leaves no full window before it.
    """
    model.check(city)
    origin = city.time.length
    if at is not None:
        origin = int(np.searchsorted(city.time.times(np.arange(city.time.length + 1)), at))
    if not city.history <= origin <= city.time.length:
        first, last = (pd.Timestamp(int(t), unit="s", tz="UTC").tz_convert(city.time.tz).isoformat()
                       for t in city.time.times(np.array([city.history, city.time.length])))
        raise InputError("no full window of history lies before this time", field="at",
                         value=None if at is None else pd.Timestamp(at, unit="s", tz="UTC").isoformat(),
                         remedy=f"choose a time from {first} to {last}")
    if "profile" in model.capabilities.needs or model.capabilities.inductive:
        city.use_context(0, origin)
    window = city.window([origin], model.capabilities.needs, target=False)
    with torch.inference_mode():
        answer = model.eval()(window)
    steps, nodes, channels = answer.mean.shape[1:]
    described = city.signal.channels
    columns = {"value": answer.mean}
    if intervals is not None:
        band = intervals(answer)
        columns |= {"low": band.low, "high": band.high}
    if answer.quantiles is not None:
        columns |= {f"q{100 * level:g}": one for level, one in zip(answer.levels, answer.quantiles.unbind(-1),
                                                                   strict=True)}
    numbers = {name: np.stack([city.signal.to_source(one[0, ..., i].double().numpy(), i) for i in range(channels)], -1)
               for name, one in columns.items()}
    times = pd.DatetimeIndex(city.time.times(np.arange(origin, origin + steps)).astype("datetime64[s]"), tz="UTC")
    return pd.DataFrame({
        "sensor": np.tile(np.repeat(city.node_ids.astype(str), channels), steps),
        "time": np.repeat(times.tz_convert(city.time.tz), nodes * channels),
        "horizon": np.repeat(np.arange(1, steps + 1, dtype=np.int32), nodes * channels),
        "channel": np.tile([c.name for c in described], steps * nodes),
        "value": numbers.pop("value").reshape(-1),
        "unit": np.tile([c.source_unit for c in described], steps * nodes),
        **{name: one.reshape(-1) for name, one in numbers.items()},
    })


def write_forecast(table: pd.DataFrame, path: Path | str) -> None:
    """Write a forecast as Parquet, whole or not at all."""
    with io.atomic_path(path) as work:
        table.to_parquet(work, index=False)
