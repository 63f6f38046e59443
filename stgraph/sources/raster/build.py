"""``build raster``: cells of a grid and their readings become one graph."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal, TimeAxis, data_sha256, save
from stgraph.graph.signal import Channel
from stgraph.graph.time import instant, seconds
from stgraph.sources import values as raw
from stgraph.sources.arrays import NPY, NPZ
from stgraph.sources.clock import axis_from_start, lay_out, to_utc
from stgraph.sources.raster.arrays import open_arrays
from stgraph.sources.raster.blocks import Blocks, block_rows, blocks_of
from stgraph.sources.raster.fill import filled
from stgraph.sources.raster.grid import Grid, check_ring, lengths, plane_places, stencil
from stgraph.sources.raster.gridded import NETCDF, is_zarr, open_gridded
from stgraph.sources.raster.options import RasterOptions, checked, provenance, span, words_of
from stgraph.sources.raster.reshape import ADJACENT, CELL, COARSE, FILLED, READINGS, coarsen
from stgraph.sources.raster.source import Raster
from stgraph.sources.tables import form_of
from stgraph.units import QUANTITIES, unit_for

_CF_UNITS = {"m s-1": "m/s", "m s**-1": "m/s", "m.s-1": "m/s", "km h-1": "km/h", "kelvin": "K", "degrees_c": "degC",
             "degree_celsius": "degC", "celsius": "degC", "deg_c": "degC", "°c": "degC", "degrees_f": "degF",
             "degree_fahrenheit": "degF", "fahrenheit": "degF", "deg_f": "degF", "°f": "degF", "hpa": "hPa", "pa": "Pa",
             "mbar": "hPa", "millibar": "hPa", "millibars": "hPa", "ug m-3": "ug/m3", "ug m**-3": "ug/m3",
             "µg m-3": "ug/m3", "dimensionless": "1", "": "1"}


@dataclass
class _Timed:
    """The axis, and the row of the file for each row of it; -1 where the file has none."""

    axis: TimeAxis
    rows: np.ndarray
    gaps: dict[str, int]


def build_raster(source: Path | str, **options: Any) -> tuple[DynamicHeteroGraph, dict[str, Any]]:
    """Make a graph of a raster: nodes ``cell``, edges ``cell adjacent cell``, and the signal ``readings``.

    Nodes stand in the order of rows and then columns, with ``node_id`` "row,column", ``row`` and ``column`` int32, and
    ``lonlat`` (degrees) or ``pos`` (m). Edges have ``distance`` (m) and weight 1. Readings ``[T, N, C]`` are float32 in
    SI units, with a mask of what was observed; where they are large, they stay on disk until the graph is saved, and
    memory holds one block of rows.

    With ``interpolate`` there is a second signal ``filled``, see :func:`stgraph.sources.raster.fill.filled`: its
    channels ``NAME_interpolated`` flag every filled entry, and the attribute ``interpolated`` the cells that have no
    reading of their own at all. ``readings`` and its mask stay as they are, so scores never count a fill.

    Args:
        source: NPZ or NPY ``[T, H, W(, C)]``, NetCDF, or a Zarr folder.
        **options: Fields of :class:`RasterOptions`; with ``out`` the graph is saved there as a ``.stg`` bundle.

    Returns:
        The graph, and the report that the command prints with ``--json``.

    Raises:
        InputError: where something given cannot be used; file, field, value and remedy are named, and nothing is
            written.
    """
    started = time.perf_counter()
    chosen = checked(options)
    raster = _open(Path(source), chosen)
    timed = _on_axis(raster, chosen)
    grid = _grid(raster, chosen)
    channels = _channels(raster, chosen)
    readings = _readings(raster, grid, timed, channels, chosen)
    observed = _observed(readings, raster.file)
    index = stencil(grid.row, grid.column, grid.rows, grid.columns, chosen.neighbours, chosen.wrap_longitude)
    graph = _graph(grid, timed.axis, readings, index, chosen)
    report = _report(raster, grid, timed, readings, observed, index, chosen)
    if chosen.interpolate:
        report |= _interpolate(graph, readings, observed, index)
    if chosen.coarsen is not None:
        graph = coarsen(graph, chosen.coarsen)
        report["coarse_cells"] = graph.size_of(COARSE)
    places = graph.metadata["grid"]
    graph.metadata = provenance("raster", "raster", raster.file, chosen, report) | {"grid": places}
    graph.validate()
    if chosen.out is not None:
        save(graph, chosen.out)
        report |= {"out": chosen.out, "data_sha256": data_sha256(chosen.out)}
    return graph, report | {"seconds": round(time.perf_counter() - started, 3)}


# -------------------------------------------------------------------- file, time, grid, channels
def _open(path: Path, chosen: RasterOptions) -> Raster:
    if path.is_dir() and is_zarr(path):
        return open_gridded(path, chosen)
    form = form_of(path)
    if form in (*NPZ, *NPY):
        return open_arrays(path, form, chosen)
    if form in NETCDF:
        return open_gridded(path, chosen)
    raise InputError("this ending is not known", file=path, field="raster", value=form or path.name,
                     remedy=f"give one of {', '.join((*NPZ, *NPY, *NETCDF))}, or a Zarr folder")


def _on_axis(raster: Raster, chosen: RasterOptions) -> _Timed:
    tz, length = chosen.tz or "UTC", raster.shape[0]
    step = seconds(chosen.interval) if chosen.interval is not None else None
    if raster.stamps is None:
        if chosen.start is None or step is None:
            raise InputError("the raster has no times", file=raster.file, field="start",
                             remedy="give --start and --interval, or name the times with --time-key")
        instant(chosen.start, tz)
        axis = axis_from_start(chosen.start, step, length, tz, None)
        return _Timed(axis, np.arange(length), {"gaps": 0, "longest_gap_steps": 0, "missing_steps": 0})
    where: dict[str, Any] = {"file": raster.file, "field": chosen.time_key or "time"}
    back = np.flatnonzero(np.diff(raster.stamps.seconds) <= 0)
    if len(back) and not raster.stamps.on_clock:  # a local clock may step back in autumn
        raise InputError(f"the times do not increase: row {back[0] + 2} is not after row {back[0] + 1}",
                         value=np.datetime64(int(raster.stamps.seconds[back[0] + 1]), "s"),
                         remedy="sort the steps by time and keep each once", **where)
    try:
        utc, keep, notes = to_utc(raster.stamps, tz, repair=False, **where)
        layout = lay_out(utc[keep], tz, step, None, repair=False, **where)
    except InputError as error:  # a raster is not repaired: steps are whole pictures
        raise InputError(error.problem, value=error.value,
                         remedy="sort the steps by time, keep each once, evenly spaced; or give another --interval",
                         **where) from error
    if notes.nonexistent:
        raster.notes.append(f"{notes.nonexistent} steps are in the hour that the clock of {tz} skips: left out")
    rows = np.full(layout.axis.length, -1, np.int64)
    rows[layout.rows] = np.flatnonzero(keep)
    return _Timed(layout.axis, rows, layout.gaps())


def _grid(raster: Raster, chosen: RasterOptions) -> Grid:
    _, rows, columns, _ = raster.shape
    pos = raster.pos
    if raster.lonlat is None and chosen.size is not None:
        pos = plane_places(rows, columns, chosen.size)
    if raster.lonlat is None and pos is None:
        raise InputError("the cells have no place", file=raster.file, field="cell_size",
                         remedy="give --cell-size in metres, or coordinates: --latitude-key and --longitude-key")
    if chosen.wrap_longitude:
        if raster.lonlat is None:
            raise InputError("only columns with longitudes reach around the globe", file=raster.file,
                             field="wrap_longitude", remedy="give coordinates, or leave out --wrap-longitude")
        check_ring(raster.lonlat, raster.file)
    there = np.ones((rows, columns), bool) if raster.left_out is None else ~raster.left_out
    row, column = np.nonzero(there)
    return Grid(rows, columns, row, column, None if raster.lonlat is None else raster.lonlat[there],
                None if pos is None or raster.lonlat is not None else pos[there])


def _channels(raster: Raster, chosen: RasterOptions) -> list[Channel]:
    """Channels with the units that the user says, else those of the file that are known."""
    unit = chosen.unit
    if unit is None and any(raster.units):
        quantities = words_of(chosen.quantity)
        quantities = quantities * len(raster.units) if len(quantities) == 1 else quantities
        found = []
        for said, quantity in zip(raster.units, quantities, strict=False):
            name = _CF_UNITS.get((said or "").strip().lower(), (said or "").strip())
            try:
                found.append(unit_for(quantity, name).name)
            except InputError:
                found.append(QUANTITIES.get(quantity, "1"))
                raster.notes.append(f"the unit '{said}' of the file is not known for a {quantity}: numbers are kept as "
                                    "they are; say it with --unit")
        unit = ",".join(found) if len(found) == len(raster.units) else None
    return raw.channels_of(raster.shape[3], raster.channels, words_of(chosen.channels), chosen.quantity, unit,
                           raster.file)


# -------------------------------------------------------------------- readings
def _readings(raster: Raster, grid: Grid, timed: _Timed, channels: list[Channel], chosen: RasterOptions) -> Signal:
    """Readings ``[T, N, C]`` of the cells that are there, made block by block from the file."""
    flat, ids = grid.flat, grid.ids
    whole = len(flat) == grid.rows * grid.columns
    shape = (timed.axis.length, len(flat), raster.shape[3])

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows = timed.rows[start:stop]
        held = np.flatnonzero(rows >= 0)
        values = np.full((stop - start, *shape[1:]), np.nan, np.float32)
        if len(held):
            first = int(rows[held[0]])
            block = raster.read(first, int(rows[held[-1]]) + 1)
            block = block.reshape(len(block), -1, shape[2])[rows[held] - first]
            values[held] = block if whole else block[:, flat]
        values, _ = raw.code_missing(values, chosen.missing_value)
        if np.isinf(values).any():
            row, cell, channel = np.argwhere(np.isinf(values))[0]
            raise InputError(f"an infinite reading in row {rows[row] + 1} of cell {ids[cell]}", file=raster.file,
                             field=channels[channel].name, value=values[row, cell, channel],
                             remedy="correct it, or make it NaN where nothing was measured")
        signal = raw.to_signal(values, channels)
        return signal.values, signal.mask

    return Blocks(shape, make, block_rows(shape[1] * shape[2], raster.chunk)).signal(channels)


def _observed(readings: Signal, file: str) -> np.ndarray:
    """How many steps each cell and channel was observed in, ``[N, C]``."""
    starts = blocks_of(readings)
    seen = np.zeros(readings.shape[1:], np.int64)
    for start in starts:
        seen += readings.read(start, min(start + starts.step, readings.shape[0]))[1].sum(0)
    if not seen.any():
        raise InputError("the raster has not a single reading", file=file, field="raster",
                         remedy="correct --missing-value, or name another array with --key")
    return seen


def _interpolate(graph: DynamicHeteroGraph, readings: Signal, observed: np.ndarray,
                 index: np.ndarray) -> dict[str, Any]:
    """Add the filled signal and the flag of cells that have nothing of their own; what the report says of it."""
    signal = filled(readings, index)
    starts, count, width = blocks_of(signal), 0, readings.shape[2]
    for start in starts:
        count += int(signal.read(start, min(start + starts.step, signal.shape[0]))[0][..., width:].sum())
    silent = ~observed.any(1)
    graph[CELL].interpolated = torch.from_numpy(silent)
    graph.declare(CELL, "interpolated", description="no reading of its own: whatever 'filled' says here was filled")
    graph.add_signal(CELL, FILLED, signal)
    return {"interpolated_share": round(count / max(1, int(np.prod(readings.shape, dtype=object))), 6),
            "interpolated_cells": int(silent.sum())}


# -------------------------------------------------------------------- graph and report
def _graph(grid: Grid, axis: TimeAxis, readings: Signal, index: np.ndarray,
           chosen: RasterOptions) -> DynamicHeteroGraph:
    graph = DynamicHeteroGraph(time=axis)
    graph[CELL].node_id = grid.ids
    graph[CELL].row = torch.from_numpy(grid.row.astype(np.int32))
    graph[CELL].column = torch.from_numpy(grid.column.astype(np.int32))
    graph.declare(CELL, "row", description="row of the raster, from 0")
    graph.declare(CELL, "column", description="column of the raster, from 0")
    if grid.lonlat is not None:
        graph[CELL].lonlat = torch.from_numpy(grid.lonlat)
    else:
        graph[CELL].pos = torch.from_numpy(grid.pos)
    graph[CELL].num_nodes = len(grid.row)
    graph[ADJACENT].edge_index = torch.from_numpy(index)
    graph[ADJACENT].edge_weight = torch.ones(index.shape[1])
    graph[ADJACENT].distance = torch.from_numpy(lengths(index, grid.lonlat, grid.pos))
    graph.add_signal(CELL, READINGS, readings)
    graph.metadata["grid"] = {CELL: {"rows": grid.rows, "columns": grid.columns, "neighbours": chosen.neighbours,
                                     "wrap_longitude": chosen.wrap_longitude}}
    return graph


def _report(raster: Raster, grid: Grid, timed: _Timed, readings: Signal, observed: np.ndarray, index: np.ndarray,
            chosen: RasterOptions) -> dict[str, Any]:
    length, count, _ = readings.shape
    head = readings.select(rows=slice(0, min(length, raw.BLOCK, blocks_of(readings).step)))
    sample = Signal(np.asarray(head.values[:]), np.asarray(head.mask[:]), readings.channels)
    warnings = [*raster.notes, *raw.implausible(sample, bool(chosen.missing_value))]
    if raster.stamps is not None and raster.stamps.on_clock and chosen.tz is None:
        warnings.append("the times are on a local clock and no --tz was given: they are read as UTC")
    return {
        "cells": count, "rows": grid.rows, "columns": grid.columns, "left_out": grid.rows * grid.columns - count,
        "channels": readings.channel_names, "quantity": [one.quantity for one in readings.channels],
        "unit": [one.source_unit for one in readings.channels], **span(timed.axis), **timed.gaps, "form": raster.form,
        "observed_share": round(int(observed.sum()) / max(1, observed.size * length), 6),
        "empty_cells": int((~observed.any(1)).sum()), "edges": index.shape[1], "neighbours": chosen.neighbours,
        "wrap_longitude": chosen.wrap_longitude, "warnings": warnings,
    }
