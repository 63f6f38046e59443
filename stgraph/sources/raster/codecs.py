"""Which Zarr folders may be opened: some of the codecs that a store can name run code of its writer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stgraph.errors import InputError

ALLOWED = {
    "bytes", "transpose", "sharding_indexed", "crc32c", "gzip", "zstd", "blosc",  # Zarr 3
    "zlib", "bz2", "lzma", "lz4", "shuffle", "delta", "fixedscaleoffset", "scale_offset", "cast_value", "quantize",
    "bitround", "packbits", "astype", "crc32", "adler32", "fletcher32",  # numcodecs
    "vlen-utf8", "string",
}
"""Codecs that only compress or reorder numbers and texts."""
_PARTS = {".zarray": ("compressor", "filters"), "zarr.json": ("codecs",)}


def check_codecs(folder: Path) -> None:
    """Refuse a Zarr folder whose arrays name a codec that is not known to be harmless, such as ``pickle``.

    Raises:
        InputError: naming the file and the codec.
    """
    for path in sorted(one for name in (*_PARTS, ".zmetadata") for one in folder.rglob(name)):
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"not readable as JSON: {error}", file=path, remedy="make the store again") from error
        for name in _codecs(described):
            if name.removeprefix("numcodecs.") not in ALLOWED:
                raise InputError("the store names a codec that is not known to be harmless", file=path, field="codec",
                                 value=name, remedy="write it again with zstd, gzip or blosc")


def _codecs(value: Any) -> Iterator[str]:
    """Every codec that a description names, at any depth."""
    if isinstance(value, list):
        for entry in value:
            yield from _codecs(entry)
    if not isinstance(value, dict):
        return
    for key, entry in value.items():
        if key in ("compressor", "filters", "codecs", "index_codecs"):
            for codec in entry if isinstance(entry, list) else [entry]:
                if isinstance(codec, str):
                    yield codec
                elif isinstance(codec, dict):
                    yield str(codec.get("id") or codec.get("name"))
        if key != "attributes":
            yield from _codecs(entry)
