"""Files: written whole or not at all, hashed, and never executed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stgraph.errors import InputError


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder's sorted relative names and digests."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(target: Path | str, folder: bool = False) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its place when the block ends well.

    On any error the temporary files are removed and what stood at ``target`` stays as it was. Everything is flushed to
    disk before the rename, so a power cut leaves the old or the new, never a half.

    Args:
        target: Where the result shall stand.
        folder: Yield an empty folder rather than the path of a file that does not exist yet.

    Raises:
        InputError: where the disk is full or the folder cannot be written to.
    """
    target = Path(target)
    if target.is_dir() and not folder:
        raise InputError("a folder is there", file=target, remedy="name a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise _disk_error(target, error) from error
    work = scratch / target.name
    try:
        if folder:
            work.mkdir()
        yield work
        _flush(work)
        if target.is_dir() and not target.is_symlink():
            old = scratch / ".replaced"  # a folder cannot be renamed over a folder that is not empty
            target.rename(old)
            try:
                work.rename(target)
            except OSError:
                old.rename(target)
                raise
        else:
            os.replace(work, target)
        _flush(target.parent, deep=False)
    except OSError as error:
        raise _disk_error(target, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(target: Path | str, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(target) as work:
        work.write_text(text, encoding="utf-8")


def write_json(target: Path | str, value: Any) -> None:
    """Write JSON whole or not at all; keys keep their order."""
    write_text(target, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON, or say which file is not JSON.

    Raises:
        InputError: where the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file", file=path, remedy="check the path") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"not readable as JSON: {error}", file=path, remedy="make the file again") from error


def peak_memory_mb() -> float:
    """Most memory this process has held at once, MB (2^20 bytes).

    Linux says it since the program was started; elsewhere the figure may include that of the process that started it.
    """
    import resource

    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _flush(path: Path, deep: bool = True) -> None:
    if deep and path.is_dir():
        for child in path.iterdir():
            _flush(child)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_error(target: Path, error: OSError) -> InputError:
    return InputError(f"cannot be written: {error.strerror or error}", file=target,
                      remedy="free some disk space or choose another place; what stood there before is unchanged")
