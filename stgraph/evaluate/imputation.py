"""Gaps in a signal: drawn, filled by a model or in plain ways, and scored on what was hidden.

A *way* to fill is ``way(city, first, last)``: all readings of rows ``first .. last - 1``, ``[rows, N, C]`` in SI units,
with what was observed left as it is. A model becomes one by ``partial(fill, model)``; :data:`PLAIN` are the ways that
a model has to beat. Every way may read what was observed in these rows and what is known from the fitted rows; a model
that reads days before a window reads those.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stgraph.errors import InputError
from stgraph.evaluate.evaluate import scored_channels
from stgraph.evaluate.kriging import fit_variogram, krige, sample_covariance
from stgraph.evaluate.metrics import MaskedErrors
from stgraph.graph import Signal
from stgraph.models import Forecaster
from stgraph.objectives.masks import draw_mask
from stgraph.objectives.protocols import Reconstructs, require
from stgraph.partition import local_metres
from stgraph.windows import City, Context, Window, long_minutes

if TYPE_CHECKING:
    import pyarrow as pa

    from stgraph.graph import DynamicHeteroGraph

GAPS = ("random", "block", "dead")
Way = Callable[[City, int, int], np.ndarray]


# -------------------------------------------------------------------- gaps
def draw_gaps(kind: str, observed: np.ndarray, rate: float, *, length: int = 1, seed: int = 0) -> list[np.ndarray]:
    """What to hide of some rows, by a seed.

    Args:
        kind: ``random``: single entries; ``block``: runs of ``length`` steps of one series; ``dead``: sensors that show
            nothing in all rows.
        observed: ``[T, N, C]`` bool.
        rate: Share of the observed entries (of ``dead``: of the sensors) that is hidden.
        length: Steps of a run.
        seed: Seed of the draw.

    Returns:
        Masks ``[T, N, C]``, True where hidden, never where nothing was observed. One mask; of ``dead`` about ``1 /
        rate``, among which each sensor is dead once, so that a score does not hang on which sensors were drawn.

    Raises:
        InputError: for an unknown kind, or a share that is not between 0 and 1 (of ``dead``: at most a half).
    """
    if kind not in GAPS:
        raise InputError("unknown kind of gaps", field="kind", value=kind, remedy=f"use one of {', '.join(GAPS)}")
    if not 0 < rate <= (0.5 if kind == "dead" else 1):
        raise InputError("a share lies between 0 and 1, of dead sensors between 0 and a half", field="rate", value=rate)
    if kind == "dead":
        nodes = np.random.default_rng(seed).permutation(observed.shape[1])
        folds = [nodes[first::round(1 / rate)] for first in range(min(round(1 / rate), len(nodes)))]
        return [observed & np.isin(np.arange(len(nodes)), fold)[:, None] for fold in folds]
    generator = torch.Generator().manual_seed(seed)
    return [draw_mask(kind, torch.from_numpy(observed)[None], rate, length=length, generator=generator)[0].numpy()]


def with_gaps(city: City, hidden: np.ndarray) -> City:
    """The same city without some readings; its descriptors are fitted on the same rows, without them.

    Args:
        city: The city; its signal is read into memory.
        hidden: ``[T, N, C]`` bool over all rows.
    """
    values, mask = city.signal.read(0, city.time.length)
    mask = mask & ~hidden
    other = copy.copy(city)
    other.signal = Signal(np.where(mask, values, np.float32(0)), mask, city.signal.channels)
    other.context = Context(other.signal, city.time, city.context.start, city.context.stop)
    return other


# -------------------------------------------------------------------- a model fills
def fill(model: Forecaster, city: City, first: int = 0, last: int | None = None, *, batch_size: int = 64,
         device: str | torch.device = "cpu") -> np.ndarray:
    """All readings of some rows, the gaps filled by a model that reconstructs: a way to fill.

    The rows are covered by windows of the model's length that overlap by half, all inside ``first .. last``; an entry
    is taken from the window in whose middle it lies. The length is that of the input steps, or of the long history
    for a model of states such as ``step_encoder``.

    Args:
        model: A forecaster that offers :class:`~stgraph.objectives.protocols.Reconstructs`.
        city: The city; what it did not observe is a gap.
        first: First row.
        last: Row after the last; None for all.
        batch_size: Windows at a time; it does not change the result.
        device: Where the model runs.

    Returns:
        ``[rows, N, C]`` in SI units; observed entries to the last bit.

    Raises:
        InputError: where the model does not reconstruct or cannot answer for this city, or there are less rows than a
            window has.
    """
    require(model, Reconstructs, "impute")
    model.check(city)
    last = city.time.length if last is None else last
    needs = model.capabilities.needs
    minutes = long_minutes(needs) if model.capabilities.gives == "states" else 0.0
    length = city.long_steps(minutes) if minutes else city.history
    if last - first < length:
        raise InputError(f"the model '{model.name}' fills gaps in windows of {length} steps, and there are less",
                         field="rows", value=last - first, remedy="give more data, or train with a shorter history")
    values, mask = city.signal.read(first, last)
    values = np.where(mask, values, values.dtype.type(0))
    origins, owned = _cover(first, last, length)
    gaps = np.add.reduceat(~mask.all((1, 2)), owned[:-1]) > 0  # of the rows that a window answers for
    model = model.to(device).eval()
    chosen = np.flatnonzero(gaps)
    for start in range(0, len(chosen), batch_size):
        batch = chosen[start : start + batch_size]
        window = city.long_window(origins[batch], minutes) if minutes else \
            city.window(origins[batch], needs, target=False)
        answer = _reconstruct(model, window.to(device))
        for number, found in zip(batch, answer, strict=True):
            rows = slice(owned[number], owned[number + 1])
            offset = origins[number] - length - first
            inside = found[rows.start - offset : rows.stop - offset]
            values[rows] = np.where(mask[rows], values[rows], inside)
    return values


def _reconstruct(model: Any, window: Window) -> np.ndarray:
    with torch.inference_mode():
        answer: np.ndarray = model.reconstruct(window, ~window.mask).float().cpu().numpy()
    return answer


def _cover(first: int, last: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows over some rows: the row after the last of each ``[K]``, and bounds ``[K + 1]`` of the rows it answers
    for, counted from ``first``."""
    starts = np.unique(np.append(np.arange(first, last - length, max(1, length // 2)), last - length))
    middle = (starts[1:] + starts[:-1] + length) // 2  # half way between two centres
    return starts + length, np.concatenate([[0], middle - first, [last - first]])


def filled_graph(model: Forecaster, city: City, note: dict[str, Any], *, device: str | torch.device = "cpu"
                 ) -> DynamicHeteroGraph:
    """The city's graph with every gap of its channels filled by a model, and a note of what was filled.

    Filled entries count as observed from then on. Which ones they are stands in the table ``filled``: one row for each
    run of filled steps of a series, with ``node``, ``channel``, ``first`` and ``last`` (instants, UTC) and ``steps``.
    ``metadata["filled"]`` is a list with one entry for each time a graph was filled.

    Args:
        model: A forecaster that reconstructs.
        city: The city; its graph is changed.
        note: What to say of the model in ``metadata["filled"]``, plain values.
        device: Where the model runs.

    Raises:
        InputError: as for :func:`fill`.
    """
    import pyarrow as pa

    values, (_, mask) = fill(model, city, device=device), city.signal.read(0, city.time.length)
    graph, whole = city.graph, city.graph.signal(city.node_type, city.signal_name)
    complete, seen = (part.copy() for part in whole.read(0, city.time.length))
    places = [whole.channel_names.index(name) for name in city.signal.channel_names]
    complete[..., places], seen[..., places] = values, True
    graph.add_signal(city.node_type, city.signal_name, Signal(complete, seen, whole.channels))
    table = _runs(city, ~mask)
    entry = {"node_type": city.node_type, "signal": city.signal_name, "channels": city.signal.channel_names,
             "entries": int((~mask).sum()), "share": round(float((~mask).mean()), 6), "runs": len(table),
             "longest_run_s": max(table["steps"].to_pylist(), default=0) * city.time.step, **note}
    earlier = [graph.table("filled")] if "filled" in graph.tables else []
    graph.tables["filled"] = pa.concat_tables([*earlier, table])
    graph.metadata["filled"] = [*graph.metadata.get("filled", []), entry]
    return graph


def _runs(city: City, gaps: np.ndarray) -> pa.Table:
    """One row for each run of gaps of a series; ``gaps [T, N, C]``."""
    import pyarrow as pa

    series = gaps.transpose(1, 2, 0).reshape(-1, len(gaps)).astype(np.int8)                   # [N C, T]
    change = np.diff(series, axis=1, prepend=0, append=0)
    (which, start), (_, stop) = np.nonzero(change == 1), np.nonzero(change == -1)
    node, channel = np.divmod(which, gaps.shape[2])
    first, last = (pa.array(city.time.times(rows).astype("datetime64[s]"), pa.timestamp("ms", "UTC"))
                   for rows in (start, stop - 1))
    names = np.array(city.signal.channel_names, dtype=object)
    return pa.table({"node": pa.array(city.node_ids[node].astype(object), pa.string()),
                     "channel": pa.array(names[channel], pa.string()), "first": first, "last": last,
                     "steps": pa.array((stop - start).astype(np.int64))})


# -------------------------------------------------------------------- plain ways
def by_mean(city: City, first: int, last: int) -> np.ndarray:
    """The mean of each series over the fitted rows."""
    values, mask = city.signal.read(first, last)
    return np.where(mask, values, city.context.level)


def by_profile(city: City, first: int, last: int) -> np.ndarray:
    """What is usual at the slot of the day and week: :meth:`stgraph.windows.Context.profile`."""
    values, mask = city.signal.read(first, last)
    return np.where(mask, values, city.context.profile(np.arange(first, last), (values, mask)))


def by_line(city: City, first: int, last: int) -> np.ndarray:
    """Straight lines in time between the readings of a series, level before the first and after the last one; the
    mean of the fitted rows where the series shows nothing."""
    values, mask = city.signal.read(first, last)
    return _line(values, mask, city.context.level)


def by_kriging(city: City, first: int, last: int, neighbours: int = 16) -> np.ndarray:
    """Ordinary kriging from the readings of the nearest places at the same step; the variogram is that of the fitted
    rows. The mean of the series where no place shows anything.

    Raises:
        InputError: where the graph has no coordinates.
    """
    values, mask = city.signal.read(first, last)
    known = city.signal.read(city.context.start, city.context.stop)
    distance = distances(city)
    models = [fit_variogram(known[0][..., c], known[1][..., c], distance) for c in range(city.num_channels)]
    return krige(values, mask, np.stack([model.covariance(distance) for model in models]),
                 np.broadcast_to(distance, (len(models), *distance.shape)), city.context.level, neighbours)


def by_covariance(city: City, first: int, last: int, neighbours: int = 16, shrinkage: float = 0.02) -> np.ndarray:
    """The best linear guess from the places most like this one at the same step, by the covariance of the fitted rows.

    Simple kriging with the sample covariance in place of a function of distance: it knows which places go together
    whatever lies between them, which no way does that shall serve a place without a past. For departures, whose mean
    is 0.

    Args:
        city: The city.
        first: First row.
        last: Row after the last.
        neighbours: Places that a guess is made from.
        shrinkage: How far the covariance of two places is drawn to 0.
    """
    values, mask = city.signal.read(first, last)
    past, seen = city.signal.read(city.context.start, city.context.stop)
    covariance = np.stack([sample_covariance(past[..., c], seen[..., c], shrinkage) for c in range(city.num_channels)])
    size = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    unlike = 1 - np.abs(covariance) / (size[:, :, None] * size[:, None])
    return krige(values, mask, covariance, unlike, city.context.level, neighbours, unbiased=False)


def of_departures(way: Way) -> Way:
    """The same way on departures from the profile, in spreads of each series, with the profile put back."""
    return partial(_of_departures, way)


def _of_departures(way: Way, city: City, first: int, last: int) -> np.ndarray:
    context, channels = city.context, city.signal.channels
    rows = np.r_[context.start : context.stop, first:last]
    fitted = context.stop - context.start
    values, mask = (np.concatenate(parts) for parts in zip(
        city.signal.read(context.start, context.stop), city.signal.read(first, last), strict=True))
    usual = context.profile(rows, (values, mask))
    departures = np.where(mask, (values - usual) / context.spread, 0).astype(np.float32)
    other = copy.copy(city)
    other.signal = Signal(departures, mask, channels)
    other.context = copy.copy(context)
    other.context.signal, other.context.start, other.context.stop = other.signal, 0, fitted
    other.context.level = np.zeros_like(context.level)
    found = way(other, fitted, len(rows))
    return np.where(mask[fitted:], values[fitted:], usual[fitted:] + context.spread * found)


PLAIN: Mapping[str, Way] = {
    "mean": by_mean, "profile": by_profile, "line in time": by_line,
    "line in time, departures": of_departures(by_line), "kriging": by_kriging,
    "kriging, departures": of_departures(by_kriging), "covariance, departures": of_departures(by_covariance),
}


def distances(city: City) -> np.ndarray:
    """Metres from place to place, ``[N, N]``.

    Raises:
        InputError: where a place has no coordinates.
    """
    lonlat = city.lonlat.numpy()
    if not np.isfinite(lonlat).all():
        raise InputError("kriging needs the coordinates of all places", field="lonlat", value=city.name,
                         remedy="build the graph with --locations")
    place = local_metres(lonlat)
    return np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))


def _line(values: np.ndarray, mask: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    found = np.where(mask, values, np.broadcast_to(fallback, values.shape))
    rows = np.arange(len(values))
    for node, channel in np.ndindex(values.shape[1:]):
        seen = mask[:, node, channel]
        if seen.any() and not seen.all():
            found[~seen, node, channel] = np.interp(rows[~seen], rows[seen], values[seen, node, channel])
    return found


# -------------------------------------------------------------------- scores
def score_gaps(ways: Mapping[str, Way], city: City, gaps: Sequence[np.ndarray], part: str = "test"
               ) -> dict[str, dict[str, Any]]:
    """How well some ways give back what was hidden in a part; every way gets the same gaps.

    Args:
        ways: Ways by name.
        city: The city.
        gaps: Masks ``[rows, N, C]`` over the rows of the part, True where hidden; the scores are over all of them.
        part: ``train``, ``validation`` or ``test``.

    Returns:
        For each way ``mae``, ``rmse`` in the unit of the source over the hidden, observed entries of the scored
        channels, ``count`` of these, and ``daily``: sum of absolute errors and count by local day.
    """
    first, last = city.split.rows(part)
    truth, mask = city.signal.read(first, last)
    days = city.time.clock[first:last].astype("datetime64[s]").astype("datetime64[D]")
    scored = scored_channels(city)
    errors = {name: MaskedErrors(1, city.num_nodes, city.num_channels) for name in ways}
    daily = {name: np.zeros(len(days)) for name in ways}
    count = np.zeros(len(days))
    for gap in gaps:
        hidden = mask & gap
        everywhere = np.zeros(city.signal.shape, bool)
        everywhere[first:last] = hidden
        gapped = with_gaps(city, everywhere)
        wanted = _source(city, truth)
        count += hidden[..., scored].sum((1, 2))
        for name, way in ways.items():
            answer = _source(city, way(gapped, first, last))
            errors[name].update(*(torch.from_numpy(part)[:, None] for part in (answer, wanted, hidden)))
            daily[name] += np.where(hidden, np.abs(answer - wanted), 0)[..., scored].sum((1, 2))
    names, day = np.unique(days, return_inverse=True)
    total = np.bincount(day, count)
    return {name: {**{key: value for key, value in errors[name].score(slice(None), scored).items() if key != "mape"},
                   "count": int(total.sum()),
                   "daily": {str(when): (float(sums), float(seen)) for when, sums, seen in zip(
                       names, np.bincount(day, daily[name]), total, strict=True) if seen}}
            for name in ways}


def _source(city: City, values: np.ndarray) -> np.ndarray:
    """``[..., C]`` in the unit of the source, float64."""
    wide = np.asarray(values, np.float64)
    return np.stack([city.signal.to_source(wide[..., c], c) for c in range(city.num_channels)], -1)
