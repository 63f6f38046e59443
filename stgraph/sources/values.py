"""Readings in the unit of the source become a signal in SI units with a mask of what was observed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stgraph.errors import InputError
from stgraph.graph.signal import Channel, Signal
from stgraph.units import unit_for

BLOCK = 4096  # rows converted at a time, so that float64 copies stay small
_PLAUSIBLE = {"speed": (0, 90), "flow": (0, 40_000), "occupancy": (0, 1), "share": (0, 1), "density": (0, 2_000),
              "count": (0, np.inf), "concentration": (0, 10_000), "temperature": (170, 340),
              "travel_time": (0, 172_800)}
"""Range of a quantity in SI units outside of which a reading is worth a warning."""
_HINTS = {"speed": "are they in km/h or mph? see --unit", "temperature": "are they in degC? see --unit",
          "occupancy": "are they in %? see --unit", "share": "are they in %? see --unit",
          "flow": "are they counts per interval? see --unit veh/5min"}


def channels_of(count: int, named: Sequence[str], chosen: Sequence[str], quantity: str,
                unit: str | None, file: object) -> list[Channel]:
    """Describe the channels.

    Args:
        count: Number of channels ``C``.
        named: Names that the file gives; empty where it gives none.
        chosen: Names that the user gives; empty for those of the file, or of the quantities.
        quantity: Quantity of all channels, or one for each, separated by commas.
        unit: Unit of all channels, or one for each, separated by commas; None for the SI units.
        file: For messages.

    Raises:
        InputError: for another number of names, quantities or units than channels, and a unit that does not fit.
    """
    quantities = [part.strip() for part in quantity.split(",")]
    units = [part.strip() for part in unit.split(",")] if unit else [None]
    for field, parts, fitting in (("channels", chosen, (0, count)), ("quantity", quantities, (1, count)),
                                  ("unit", units, (1, count))):
        if len(parts) not in fitting:
            raise InputError(f"{len(parts)} given for {count} channel{'s' * (count != 1)}", file=file, field=field,
                             value=", ".join(str(part) for part in parts),
                             remedy=f"give {count}, separated by commas" if count > 1 else "give one")
    quantities = quantities * count if len(quantities) == 1 else quantities
    units = units * count if len(units) == 1 else units
    fallback = quantities if len(set(quantities)) == count else [f"{name}{i}" for i, name in enumerate(quantities)]
    labels = list(chosen) or list(named) or fallback
    if len(set(labels)) < count:
        raise InputError("two channels have one name", file=file, field="channels", value=", ".join(labels),
                         remedy="give each channel a name of its own")
    return [Channel(label, kind, unit_for(kind, name).name)
            for label, kind, name in zip(labels, quantities, units, strict=True)]


def code_missing(values: np.ndarray, codes: Sequence[float]) -> tuple[np.ndarray, int]:
    """Put NaN where a reading is one of the codes for missing; also how many there were."""
    if not len(codes):
        return values, 0
    with np.errstate(over="ignore"):  # a code too large for 32 bits is infinite there, as the readings are
        coded = np.isin(values, np.asarray(codes, np.float32))
    return np.where(coded, np.float32(np.nan), values), int(coded.sum())


def check_finite(values: np.ndarray, ids: Sequence[str], file: object) -> None:
    """Refuse infinite readings.

    Raises:
        InputError: naming row (from 1) and sensor of the first.
    """
    for start in range(0, len(values), BLOCK):
        bad = np.argwhere(np.isinf(values[start:start + BLOCK]))
        if len(bad):
            row, sensor, channel = bad[0]
            raise InputError(f"an infinite reading in row {start + row + 1} of sensor {ids[sensor]}", file=file,
                             field=ids[sensor], value=values[start + row, sensor, channel],
                             remedy="correct it, or leave it empty where nothing was measured")


def on_grid(values: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """Put rows of a file on the rows of an axis; where several meet, the mean of what was observed.

    Args:
        values: ``[rows of the file, N, C]``, NaN where missing.
        rows: ``[rows of the file]`` int64, row on the axis.
        length: Rows of the axis ``T``.

    Returns:
        ``[T, N, C]``, NaN where missing.
    """
    if len(rows) == length and np.array_equal(rows, np.arange(length)):
        return values
    out = np.full((length, *values.shape[1:]), np.nan, values.dtype)
    found, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    single = counts[inverse] == 1
    out[rows[single]] = values[single]
    if not single.all():
        many = np.flatnonzero(counts > 1)
        group = np.searchsorted(many, inverse[~single])
        several = values[~single].astype(np.float64)
        total = np.zeros((len(many), *values.shape[1:]))
        observed = np.zeros_like(total)
        np.add.at(total, group, np.nan_to_num(several))
        np.add.at(observed, group, ~np.isnan(several))
        out[found[many]] = np.where(observed > 0, total / np.maximum(observed, 1), np.nan)
    return out


def to_signal(values: np.ndarray, channels: Sequence[Channel]) -> Signal:
    """A signal ``[T, N, C]`` in SI units, float32; what is NaN is 0 and not observed."""
    si, mask = np.empty(values.shape, np.float32), np.empty(values.shape, bool)
    factor = np.array([channel.source.factor for channel in channels])
    offset = np.array([channel.source.offset for channel in channels])
    for start in range(0, len(values), BLOCK):
        block = slice(start, start + BLOCK)
        mask[block] = ~np.isnan(values[block])
        si[block] = np.where(mask[block], values[block] * factor + offset, 0)  # float64 until here
    return Signal(si, mask, channels)


def empty_sensors(signal: Signal, ids: Sequence[str]) -> list[str]:
    """Sensors without a single observed reading."""
    seen = np.flatnonzero(np.asarray(signal.mask).any(axis=(0, 2)))
    return [ids[sensor] for sensor in np.setdiff1d(np.arange(len(ids)), seen)]


def implausible(signal: Signal, missing_named: bool) -> list[str]:
    """Sentences about readings that are outside of what their quantity can be."""
    said = []
    for i, channel in enumerate(signal.channels):
        seen = signal.values[..., i][signal.mask[..., i]]
        if channel.quantity not in _PLAUSIBLE or not len(seen):
            continue
        low, high = _PLAUSIBLE[channel.quantity]
        for wrong, limit, hint in (
                (seen < low, f"below {low:g}", "does a number stand for missing? see --missing-value"),
                (seen > high, f"above {high:g}", _HINTS.get(channel.quantity, "is --unit right?"))):
            if wrong.any():
                said.append(f"{channel.name}: {int(wrong.sum())} readings are {limit} {channel.unit}, up to "
                            f"{(seen.min() if limit.startswith('below') else seen.max()):g}; {hint}")
        zeros = float((seen == 0).mean())
        if channel.quantity == "speed" and zeros > 0 and not missing_named:
            said.append(f"{channel.name}: {zeros:.2%} of the readings are exactly 0; "
                        "where 0 stands for missing, say --missing-value 0")
    return said
