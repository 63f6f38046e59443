"""Unpack zip, tar and gzip files that nobody vouches for.

Every name is checked before anything is written: no absolute path, no ``..``, no link, no device. Bytes are counted
while they are unpacked, whatever the archive declares, so a small file that unfolds into a huge one is stopped.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from stgraph.errors import InputError
from stgraph.io import atomic_path

MAX_RATIO = 200
"""Unpacked bytes per packed byte that are still believed without being told so."""
ALWAYS_ALLOWED = 16 * 2**20
MAX_MEMBERS = 100_000
_CHUNK = 1 << 20

Member = tuple[str, Callable[[], IO[bytes]]]


class UnsafeArchive(InputError):
    """An archive that must not be unpacked, or cannot be."""


def allowance(packed_bytes: int, max_bytes: int | None, default: int) -> int:
    """How many bytes an archive may unfold to: what the user said, else a ratio of its size within the default."""
    if max_bytes is not None:
        return max_bytes
    return min(default, max(ALWAYS_ALLOWED, MAX_RATIO * packed_bytes))


def unpack(archive: Path, folder: Path, max_bytes: int, members: set[str] | None = None) -> list[Path]:
    """Write the files of an archive into ``folder``, all of them or none.

    Args:
        archive: A zip, a tar (plain, gz, bz2, xz) or a gzip of one file; the last takes the name of the one member
            asked for, else that of the archive without ``.gz``.
        folder: Made new; what stood there is replaced when everything is unpacked.
        max_bytes: Bytes that the unpacked files may have together.
        members: Names to write; the others are checked but left out. None for all.

    Returns:
        Paths of the written files.

    Raises:
        UnsafeArchive: for an unsafe name, a link, a damaged archive, or a member that is not in it.
        InputError: for too many bytes.
    """
    with atomic_path(folder, folder=True) as work:
        try:
            written = _write(archive, work, max_bytes, members)
        except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError,
                RuntimeError, NotImplementedError) as error:
            raise UnsafeArchive(f"the archive is damaged: {error}", file=archive,
                                remedy="get it again, or use another source") from error
        absent = (members or set()) - set(written)
        if absent:
            raise UnsafeArchive("the archive has no such member", file=archive, field="member",
                                value=", ".join(sorted(absent)), remedy="use another source")
    return [folder / name for name in written]


def _write(archive: Path, work: Path, max_bytes: int, members: set[str] | None) -> list[str]:
    written: list[str] = []
    left = max_bytes
    seen: set[str] = set()
    for name, opened in _members(archive, members):
        if name in seen or len(seen) >= MAX_MEMBERS:
            raise _unsafe(archive, name, "the archive holds one name twice, or far too many")
        seen.add(name)
        if members is not None and name not in members:
            continue
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened() as source, target.open("xb") as sink:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise InputError(f"the archive unfolds to more than {max_bytes:,} bytes", file=archive,
                                     field="member", value=name,
                                     remedy="if you trust it, allow more with --max-bytes")
                sink.write(chunk)
        written.append(name)
    return written


def _members(archive: Path, members: set[str] | None) -> Iterator[Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            checked = [_zip_member(archive, entry) for entry in zipped.infolist()]
            for entry in filter(None, checked):
                yield _safe(archive, entry.filename), lambda entry=entry: zipped.open(entry)  # type: ignore[misc]
    elif _is_tar(archive):
        with tarfile.open(archive) as tarred:
            for part in [_tar_member(archive, entry) for entry in tarred]:
                if part is not None:
                    yield _safe(archive, part.name), lambda part=part: _content(tarred, part)  # type: ignore[misc]
    elif _is_gzip(archive):
        name = next(iter(members)) if members and len(members) == 1 else archive.stem
        yield _safe(archive, name), lambda: cast(IO[bytes], gzip.GzipFile(archive))
    else:
        raise UnsafeArchive("neither zip, tar nor gzip", file=archive, remedy="use another source")


def _zip_member(archive: Path, entry: zipfile.ZipInfo) -> zipfile.ZipInfo | None:
    _safe(archive, entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir():
        return None
    if kind not in (0, stat.S_IFREG):
        raise _unsafe(archive, entry.filename, "the archive holds a link or a device")
    return entry


def _tar_member(archive: Path, entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    _safe(archive, entry.name)
    if entry.isdir():
        return None
    if not entry.isreg():
        raise _unsafe(archive, entry.name, "the archive holds a link or a device")
    return entry


def _content(tarred: tarfile.TarFile, entry: tarfile.TarInfo) -> Any:
    content = tarred.extractfile(entry)
    if content is None:
        raise tarfile.TarError(f"{entry.name} has no content")
    return content


def _safe(archive: Path, name: str) -> str:
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    if path.is_absolute() or windows.drive or "\\" in name or "\0" in name or ".." in path.parts or not path.parts:
        raise _unsafe(archive, name, "the archive holds a path that leads out of its folder")
    return str(path)


def _unsafe(archive: Path, name: str, problem: str) -> UnsafeArchive:
    return UnsafeArchive(f"{problem}; nothing was unpacked", file=archive, field="member", value=name,
                         remedy="do not use this archive; take another source")


def _is_tar(path: Path) -> bool:
    """Whether there is a tar with something in it: compressed zeros pass for a tar without members."""
    try:
        with tarfile.open(path) as tarred:
            return tarred.next() is not None
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError):
        return False


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"
