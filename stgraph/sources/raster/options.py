"""What ``build raster`` is told, checked before anything is read; and what a graph remembers of its making."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stgraph.errors import InputError
from stgraph.graph.time import TimeAxis, seconds, zone
from stgraph.io import sha256

TIME, ROW, COLUMN, CHANNEL = "time", "row", "column", "channel"
ROLES = (TIME, ROW, COLUMN, CHANNEL)


@dataclass(frozen=True)
class RasterOptions:
    """What :func:`build_raster` is told. Every field is an option of ``stgraph build raster``, which explains it."""

    # where things are in the file
    key: tuple[str, ...] = ()
    axes: str | None = None
    mask_key: str | None = None
    time_key: str | None = None
    latitude_key: str | None = None
    longitude_key: str | None = None
    local_clock: bool = False
    max_bytes: int | None = None
    # what the readings are
    quantity: str = "value"
    unit: str | None = None
    channels: str | None = None
    missing_value: tuple[float, ...] = ()
    # time
    tz: str | None = None
    start: str | None = None
    interval: str | None = None
    # the grid
    cell_size: str | None = None
    neighbours: int = 4
    wrap_longitude: bool = False
    interpolate: bool = False
    coarsen: int | None = None
    # the graph
    name: str | None = None
    simulated: bool = False
    licence: str | None = None
    attribution: str | None = None
    out: str | None = None

    @property
    def size(self) -> tuple[float, float] | None:
        """Height and width of a cell in m; None where they were not given."""
        if self.cell_size is None:
            return None
        parts = str(self.cell_size).split(",")
        try:
            height, width = (float(part) for part in (parts * 2 if len(parts) == 1 else parts))
        except ValueError:
            height = width = -1.0
        if not (0 < height < np.inf and 0 < width < np.inf):
            raise InputError("not the size of a cell", field="cell_size", value=self.cell_size,
                             remedy="give metres: 1000, or height,width: 1000,800")
        return height, width


def checked(options: dict[str, Any]) -> RasterOptions:
    """Options as given from Python or the command line: paths become text, lists tuples; contradictions are refused.

    Raises:
        InputError: naming the option.
    """
    plain: dict[str, Any] = {}
    for name, value in options.items():
        plain[name] = str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
    for name in ("key", "missing_value"):
        if name in plain and not isinstance(plain[name], tuple):
            plain[name] = (plain[name],)
    chosen = RasterOptions(**plain)
    zone(chosen.tz or "UTC")
    if chosen.interval is not None:
        seconds(chosen.interval)
    _ = chosen.size
    for field, wrong, remedy in (
            ("neighbours", chosen.neighbours not in (4, 8), "give 4 or 8"),
            ("coarsen", chosen.coarsen is not None and chosen.coarsen < 2, "give 2 or more cells"),
            ("max_bytes", chosen.max_bytes is not None and chosen.max_bytes < 1, "give a positive number of bytes")):
        if wrong:
            raise InputError("out of range", field=field, value=getattr(chosen, field), remedy=remedy)
    for field, wrong, remedy in (
            ("start", chosen.start is not None and chosen.time_key is not None,
             "the file has times (--time-key), so leave out --start"),
            ("interval", chosen.start is not None and chosen.interval is None, "give --interval with --start"),
            ("longitude_key", (chosen.longitude_key is None) != (chosen.latitude_key is None),
             "give --latitude-key and --longitude-key"),
            ("cell_size", chosen.cell_size is not None and chosen.latitude_key is not None,
             "give coordinates or --cell-size, not both")):
        if wrong:
            raise InputError("the options do not go together", field=field, value=getattr(chosen, field),
                             remedy=remedy)
    check_out(chosen.out)
    return chosen


def check_out(out: str | None) -> None:
    """Refuse a bundle by another ending.

    Raises:
        InputError: for such a name.
    """
    if out is not None and Path(out).suffix != ".stg":
        raise InputError("a graph is saved as a .stg bundle", field="out", value=out, remedy="end the name in .stg")


# -------------------------------------------------------------------- what a graph remembers
def command_line(verb: str, source: str, options: Any, files: Sequence[str] = ("out",)) -> str:
    """The command that says the same as the options, with the names of files and not their folders.

    Args:
        verb: Verb of ``stgraph build``.
        source: Its argument.
        options: A dataclass whose fields are the options of the verb.
        files: Fields that hold paths.
    """
    words = ["stgraph", "build", verb, Path(source).name]
    for one in fields(options):
        value = getattr(options, one.name)
        if value == one.default:
            continue
        option = f"--{one.name.replace('_', '-')}"
        if value is True:
            words.append(option)
        for part in () if value is True else value if isinstance(value, tuple) else (value,):
            words += [option, Path(part).name if one.name in files else f"{part}"]
    return shlex.join(words)


def provenance(verb: str, role: str, file: str, options: Any, report: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a graph made from one file: names of files, never their folders.

    Args:
        verb: Verb of ``stgraph build``.
        role: What the file holds.
        file: The file; empty where there is none.
        options: A dataclass with ``name``, ``simulated``, ``licence``, ``attribution`` and ``out``.
        report: What the command prints; its warnings become notes.
    """
    sources = []
    if file:
        entry = {"role": role, "file": Path(file).name, "licence": options.licence,
                 "attribution": options.attribution}
        if Path(file).exists():
            entry["sha256"] = sha256(Path(file))
        sources.append({key: value for key, value in entry.items() if value})
    stem = Path(options.out).stem if options.out else Path(file).stem
    return {"name": options.name or stem or verb, "simulated": options.simulated, "sources": sources,
            "command": command_line(verb, file or role.upper(), options), "notes": report["warnings"],
            "build": {key: value for key, value in report.items() if key != "warnings"}}


def span(axis: TimeAxis) -> dict[str, Any]:
    """The time axis as a report says it."""
    first, last = (pd.Timestamp(int(one), unit="s", tz="UTC").tz_convert(axis.tz).isoformat()
                   for one in axis.times(np.array([0, axis.length - 1])))
    return {"steps": axis.length, "interval_s": axis.step, "start": first, "end": last, "tz": axis.tz}


def words_of(text: str | None) -> list[str]:
    """Words separated by commas."""
    return [part.strip() for part in text.split(",")] if text else []
