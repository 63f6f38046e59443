"""What a raster file holds, whatever its form; and the check that it is not far larger than it looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stgraph.errors import InputError
from stgraph.sources.clock import Stamps
from stgraph.sources.raster.options import CHANNEL, COLUMN, ROLES, ROW, TIME

ALWAYS_BELIEVED = 256 << 20
"""Bytes that a file may unfold to whatever its size."""
RATIO = 200
"""Unfolded bytes for each byte on disk that are believed without being told so."""


@dataclass
class Raster:
    """A raster whose readings are still on disk, or packed in memory.

    Args:
        shape: ``(T, H, W, C)``.
        read: Gives rows ``start <= row < stop`` as ``[rows, H, W, C]`` float32, NaN where missing.
        chunk: Rows of time that are stored together.
        stamps: Time of each row; None where the file has no times, or they are not wanted.
        lonlat: ``[H, W, 2]`` degrees, middle of each cell; None where not known.
        pos: ``[H, W, 2]`` m; None where not known.
        left_out: ``[H, W]`` bool, cells that are no cells; None where all are.
        channels: Name of each channel; empty where the file has none.
        units: Unit of each channel as the file says it; None where it does not.
        form: ``array``, ``netcdf`` or ``zarr``.
        file: For messages.
        notes: What to tell the user.
    """

    shape: tuple[int, int, int, int]
    read: Callable[[int, int], np.ndarray]
    chunk: int = 1
    stamps: Stamps | None = None
    lonlat: np.ndarray | None = None
    pos: np.ndarray | None = None
    left_out: np.ndarray | None = None
    channels: list[str] = field(default_factory=list)
    units: list[str | None] = field(default_factory=list)
    form: str = "array"
    file: str = ""
    notes: list[str] = field(default_factory=list)


def roles_of(axes: str | None, count: int, file: object) -> list[str]:
    """The meaning of each axis of an array.

    Args:
        axes: Words such as ``time,row,column,channel`` in the order of the axes; None for that order.
        count: Number of axes of the array.
        file: For messages.

    Raises:
        InputError: for another number of axes than words, a word twice or not known, and where time, row or column
            is missing.
    """
    if axes is None:
        if count not in (3, 4):
            raise InputError("a raster has three or four axes: time, row, column and, if several, channel", file=file,
                             field="axes", value=f"{count} axes",
                             remedy="reshape the array, or name another one with --key")
        return list(ROLES[:count])
    words = [word.strip() for word in axes.split(",")]
    if sorted(words) not in (sorted(ROLES), sorted(ROLES[:3])):
        raise InputError("not the axes of a raster", file=file, field="axes", value=axes,
                         remedy=f"write {','.join(ROLES)} in the order of the array")
    if len(words) != count:
        raise InputError(f"{len(words)} axes are named, but the array has {count}", file=file, field="axes", value=axes,
                         remedy="name every axis once; channel may be absent")
    return words


def named_roles(axes: str | None, file: object) -> dict[str, str]:
    """Dimensions of a NetCDF or Zarr file by their meaning, from words such as ``time=t,row=y,column=x``.

    Raises:
        InputError: for a word of another form, or a meaning that is not known.
    """
    found: dict[str, str] = {}
    for word in axes.split(",") if axes else []:
        role, _, dimension = (part.strip() for part in word.partition("="))
        if role not in ROLES or not dimension or role in found:
            raise InputError("dimensions of a file have names", file=file, field="axes", value=axes,
                             remedy=f"write like {TIME}=time,{ROW}=lat,{COLUMN}=lon; {CHANNEL}= may be added")
        found[role] = dimension
    return found


def check_believable(unfolded: int, on_disk: int, max_bytes: int | None, file: object) -> None:
    """Refuse a file that unfolds into far more than it takes on disk.

    Args:
        unfolded: Bytes of the readings as they are read.
        on_disk: Bytes of the file.
        max_bytes: What the user allows; None for a ratio of the size.
        file: For messages.

    Raises:
        InputError: for such a file.
    """
    limit = max_bytes if max_bytes is not None else max(ALWAYS_BELIEVED, RATIO * on_disk)
    if unfolded > limit:
        raise InputError(f"{on_disk:,} bytes on disk unfold to {unfolded:,}", file=file, field="max_bytes",
                         value=limit, remedy=f"where you trust the file, give --max-bytes {unfolded}")


def disk_bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
