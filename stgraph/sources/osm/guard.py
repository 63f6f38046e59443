"""What form an OpenStreetMap file has, and whether it may be unpacked.

A file of two megabytes can unpack to gigabytes. So its unpacked size is known before it is parsed: summed from the
headers of its blobs (PBF), where a blob that lies about its size is refused later by osmium, or counted in one
streaming pass that keeps nothing (gzip, bzip2).
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stgraph.errors import InputError

MOST_BYTES = 8 << 30
"""Unpacked bytes that are read without asking: an extract of a large country."""
MOST_RATIO, RATIO_FROM = 100, 64 << 20
"""A file that unpacks to more than 64 MiB may not grow a hundredfold; map data grow three- to thirtyfold."""
BLOB_HEADER, BLOB = 64 << 10, 32 << 20  # the most that the format allows
_CHUNK, _START = 1 << 20, 4096
_AGAIN = "download the file again"


def form_of(path: Path) -> str:
    """The form of a file by its first bytes, as osmium calls it: ``pbf``, ``osm``, ``osm.gz`` or ``osm.bz2``.

    Raises:
        InputError: where there is no such file, or it is something else.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path, remedy="check the path") from error
    if not start:
        raise InputError("the file is empty", file=path, remedy=_AGAIN)
    if start[:2] == b"\x1f\x8b":
        return "osm.gz"
    if start[:3] == b"BZh":
        return "osm.bz2"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return "osm"
    if b"OSMHeader" in start[4:24]:
        return "pbf"
    raise InputError("this is not an OpenStreetMap file", file=path, value=start[:12],
                     remedy="give .osm.pbf, .osm, .osm.gz or .osm.bz2")


def is_graphml(path: Path) -> bool:
    """Whether a file, plain or gzipped, is GraphML rather than OpenStreetMap data.

    Raises:
        InputError: as :func:`form_of`, and for a damaged file.
    """
    form = form_of(path)
    if form not in ("osm", "osm.gz"):
        return False
    try:
        with (gzip.open if form == "osm.gz" else open)(path, "rb") as stream:
            return b"<graphml" in stream.read(_START)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"damaged: {error}", file=path, remedy=_AGAIN) from error


def check_size(path: Path, form: str, max_bytes: int | None = None) -> int:
    """Refuse a file that unpacks to more than is allowed, without unpacking it into memory.

    Args:
        path: The file.
        form: What :func:`form_of` says of it.
        max_bytes: The most bytes; by default :data:`MOST_BYTES`, and no more than :data:`MOST_RATIO` times the size
            of the file.

    Returns:
        The size in bytes when unpacked.

    Raises:
        InputError: for a file that is larger, truncated, or whose blobs are larger than the format allows.
    """
    size = path.stat().st_size
    most = max_bytes if max_bytes is not None else min(MOST_BYTES, max(RATIO_FROM, MOST_RATIO * size))
    total = 0
    for part in _sizes(path, form):
        total += part
        if total > most:
            raise InputError(f"the file unpacks to more than {most:,} bytes, from {size:,}", file=path,
                             field="max_bytes", remedy="if you trust it, allow more with --max-bytes")
    return total


def _sizes(path: Path, form: str) -> Iterator[int]:
    if form == "pbf":
        yield from _blob_sizes(path)
    elif form == "osm":
        yield path.stat().st_size
    else:
        try:
            with (gzip.open if form == "osm.gz" else bz2.open)(path) as stream:
                while part := stream.read(_CHUNK):
                    yield len(part)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"damaged: {error}", file=path, remedy=_AGAIN) from error


def _blob_sizes(path: Path) -> Iterator[int]:
    """Unpacked size of each blob, read off the headers alone."""
    end = path.stat().st_size
    with path.open("rb") as stream:
        position = 0
        while position < end:
            stream.seek(position)
            length = int.from_bytes(stream.read(4), "big")
            if length > BLOB_HEADER:
                raise _damaged(path, f"the header of a blob at byte {position} is {length:,} bytes long")
            header = _fields(stream, position + 4, position + 4 + length, path)
            size = header.get(3, 0)
            if size > BLOB:
                raise _damaged(path, f"the blob at byte {position} is {size:,} bytes long")
            start = position + 4 + length
            if start + size > end:
                raise _damaged(path, "the file ends in the middle of a blob")
            blob = _fields(stream, start, start + size, path)
            raw = max(blob.get(2, 0), blob.get(1, 0))  # the size it declares, or the bytes that stand there as they are
            if raw > BLOB:
                raise _damaged(path, f"the blob at byte {position} unpacks to {raw:,} bytes")
            yield raw
            position = start + size


def _fields(stream: BinaryIO, position: int, end: int, path: Path) -> dict[int, int]:
    """Fields of a message of the protocol buffers: the value of numbers, the length of everything else."""
    found: dict[int, int] = {}
    while position < end:
        stream.seek(position)
        head = stream.read(min(20, end - position))
        key, used = _varint(head, 0, path)
        value, used = _varint(head, used, path)
        if key & 7 not in (0, 2):
            raise _damaged(path, f"no field of a blob at byte {position}")
        found[key >> 3] = value
        position += used + (value if key & 7 == 2 else 0)
    if position > end:
        raise _damaged(path, f"a field is longer than the blob it stands in, before byte {end}")
    return found


def _varint(data: bytes, at: int, path: Path) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise _damaged(path, "a number is cut off")


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(f"damaged: {problem}", file=path, remedy=_AGAIN)
