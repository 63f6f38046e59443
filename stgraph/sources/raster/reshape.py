"""Back from cells to arrays, and from a fine grid to a coarse one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph, Signal
from stgraph.graph.schema import EdgeType
from stgraph.sources.raster.blocks import Blocks
from stgraph.sources.raster.grid import lengths, stencil

CELL, COARSE = "cell", "coarse_cell"
READINGS, FILLED = "readings", "filled"
ADJACENT: EdgeType = (CELL, "adjacent", CELL)
SUMMED = ("count", "flow")
"""Quantities of which a coarse cell has the sum; of others it has the mean."""


def to_raster(graph: DynamicHeteroGraph, values: Signal | np.ndarray | str = READINGS, kind: str = CELL,
              source_unit: bool = False, empty: float = np.nan) -> np.ndarray:
    """Values of cells as an array in the rows and columns of the raster they came from.

    Places come from the attributes ``row`` and ``column``, so the order of the cells does not matter, and cells may
    be missing.

    Args:
        graph: A graph of :func:`build_raster`, or a part of one.
        values: Name of a signal, a signal, or any array ``[T, N, C]`` such as a forecast.
        kind: Node type of the cells.
        source_unit: Whether a signal is given in the unit of its source rather than in SI.
        empty: What stands where nothing was observed, and where there is no cell.

    Returns:
        ``[T, H, W, C]`` in the data type of the values.

    Raises:
        InputError: where the graph has no such grid, or the values are not of its cells.
    """
    grid = _grid_of(graph, kind)
    signal = graph.signal(kind, values) if isinstance(values, str) else values
    mask = None
    if isinstance(signal, Signal):
        array, mask = signal.read(0, signal.shape[0])
        if source_unit:
            array = np.stack([signal.to_source(array[..., i].astype(np.float64), i)
                              for i in range(array.shape[2])], axis=2).astype(array.dtype)
    else:
        array = np.asarray(signal)
    row, column = (graph[kind][name].numpy().astype(np.int64) for name in ("row", "column"))
    if array.ndim != 3 or array.shape[1] != len(row):
        raise InputError("the values are not of the cells of this graph", field="values", value=f"shape {array.shape}",
                         remedy=f"give them as [T, {len(row)}, C]")
    out = np.full((array.shape[0], grid["rows"], grid["columns"], array.shape[2]), empty, array.dtype)
    out[:, row, column] = array if mask is None else np.where(mask, array, np.asarray(empty, array.dtype))
    return out


def coarsen(graph: DynamicHeteroGraph, factor: int, kind: str = CELL, into: str = COARSE,
            reduce: str = "auto") -> DynamicHeteroGraph:
    """A graph with a second resolution: blocks of ``factor x factor`` cells become cells of their own.

    New are nodes ``into`` with ``members`` (number of cells inside), edges ``(kind, inside, into)``, the stencil
    ``(into, adjacent, into)``, and the signal ``readings``. A sum is the sum of what was observed inside, a mean its
    mean; where nothing was observed inside, nothing is. So sums of a step are the same on both grids, and so is the
    mean over all cells, when weighted with the number of readings inside. Blocks at the last row and column may be
    smaller.

    Args:
        graph: A graph of :func:`build_raster`; it is not changed.
        factor: Cells on a side of a block.
        kind: Node type of the fine cells.
        into: Node type of the coarse cells.
        reduce: ``sum``, ``mean``, or ``auto``: sums of counts and flows, means of the rest.

    Raises:
        InputError: where the graph has no such grid, or the type exists already.
    """
    grid = _grid_of(graph, kind)
    if factor < 2 or reduce not in ("auto", "sum", "mean"):
        raise InputError("out of range", field="reduce" if factor > 1 else "factor",
                         value=reduce if factor > 1 else factor, remedy="give 2 or more cells; auto, sum or mean")
    if into in graph.node_types:
        raise InputError("the graph has such nodes already", field="into", value=into, remedy="choose another name")
    fine_row, fine_column = (graph[kind][name].numpy().astype(np.int64) // factor for name in ("row", "column"))
    rows, columns = -(-grid["rows"] // factor), -(-grid["columns"] // factor)
    flat, group, members = np.unique(fine_row * columns + fine_column, return_inverse=True, return_counts=True)
    row, column = np.divmod(flat, columns)
    wrap = bool(grid["wrap_longitude"]) and columns > 2
    index = stencil(row, column, rows, columns, grid["neighbours"], wrap)
    out = copy.copy(graph)
    out[into].node_id = np.char.add(np.char.add(row.astype(str), ","), column.astype(str))
    for name, values in (("row", row), ("column", column), ("members", members)):
        out[into][name] = torch.from_numpy(values.astype(np.int32))
    inside = csr_array((np.ones(len(group), np.float32), (group, np.arange(len(group)))),
                       shape=(len(flat), len(group)))
    _place(out, kind, into, inside, members)
    out[into, "adjacent", into].edge_index = torch.from_numpy(index)
    out[into, "adjacent", into].edge_weight = torch.ones(index.shape[1])
    places = {name: out[into][name].numpy() for name in ("lonlat", "pos") if name in out[into]}
    out[into, "adjacent", into].distance = torch.from_numpy(lengths(index, places.get("lonlat"), places.get("pos")))
    out[kind, "inside", into].edge_index = torch.from_numpy(np.stack([np.arange(len(group)), group]))
    for name, text in (("row", "row of the coarse raster"), ("column", "column of the coarse raster"),
                       ("members", "cells inside")):
        out.declare(into, name, description=text)
    out.add_signal(into, READINGS, _reduced(graph.signal(kind, READINGS), inside, reduce))
    out.metadata["grid"] = {**out.metadata["grid"],
                            into: {"rows": rows, "columns": columns, "neighbours": grid["neighbours"],
                                   "wrap_longitude": wrap, "factor": factor, "of": kind}}
    return out


def _grid_of(graph: DynamicHeteroGraph, kind: str) -> dict[str, Any]:
    grids = graph.metadata.get("grid", {})
    if kind not in grids or kind not in graph.node_types:
        raise InputError("the graph has no such grid", field="kind", value=kind,
                         remedy=f"choose among {', '.join(grids)}" if grids else "make one with stgraph build raster")
    found: dict[str, Any] = grids[kind]
    return found


def _place(out: DynamicHeteroGraph, kind: str, into: str, inside: csr_array, members: np.ndarray) -> None:
    """The middle of the members; on the globe by way of points in space, so that the date line is no matter."""
    if "lonlat" not in out[kind]:
        out[into].pos = torch.from_numpy(inside @ out[kind].pos.numpy() / members[:, None])
        return
    longitude, latitude = np.radians(out[kind].lonlat.numpy()).T
    x, y, z = (inside @ one for one in (np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
                                        np.sin(latitude)))
    out[into].lonlat = torch.from_numpy(np.degrees(np.stack([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))], axis=1)))


def _reduced(signal: Signal, inside: csr_array, reduce: str) -> Signal:
    length, _, width = signal.shape
    summed = [reduce == "sum" or (reduce == "auto" and one.quantity in SUMMED) for one in signal.channels]

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        values, mask = signal.read(start, stop)
        out = np.zeros((stop - start, inside.shape[0], width), np.float32)
        seen = np.zeros(out.shape, bool)
        for channel in range(width):
            known = mask[..., channel]
            total = (inside @ np.where(known, values[..., channel], 0).T.astype(np.float64)).T
            count = (inside @ known.T.astype(np.float32)).T
            seen[..., channel] = count > 0
            out[..., channel] = total if summed[channel] else total / np.maximum(count, 1)
        return out, seen

    return Blocks((length, inside.shape[0], width), make).signal(signal.channels)
