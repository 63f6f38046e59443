"""Get the files of a data set, from a local collection or from the net, and say whether they are the right ones."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stgraph.datasets.archive import UnsafeArchive, allowance, unpack
from stgraph.datasets.download import Patience, Report, Unavailable, discard, download
from stgraph.datasets.registry import card as card_of
from stgraph.datasets.schema import Card, DataFile, Source, find
from stgraph.errors import InputError
from stgraph.io import atomic_path, read_json, sha256, write_json

DEFAULT_BUDGET = 2 * 2**30
"""Bytes that one ``get`` may bring and unpack without being told so."""
RECORD = "digests.json"
"""In the folder of a set: the digest that was seen of every file, and where it came from."""


class UnpinnedWarning(UserWarning):
    """A file was taken whose digest nobody has stated: what came may not be what was meant."""


@dataclass
class _Visit:
    """One call of :func:`get`: its card, its places and what is left of its budget."""

    card: Card
    folder: Path
    patience: Patience
    max_bytes: int | None
    to_bring: int
    to_unpack: int
    bar: _Bars
    archives: dict[str, Path] = field(default_factory=dict)


def get(name: str, folder: Path | str, progress: bool = True, local: Path | str | None = None,
        max_bytes: int | None = None, patience: Patience | None = None) -> dict[str, Any]:
    """Bring the files of a data set into ``folder``; what is there already and right is left alone.

    A folder of local copies (``local``, else ``$STGRAPH_DATA`` where it holds the file) is used before the net.
    Every file is checked against its digest before it takes its name; one whose card pins no digest is taken with an
    :class:`UnpinnedWarning`, and the digest that was seen is recorded in ``digests.json``.

    Args:
        name: Name of a card.
        folder: Where the files shall lie; made where needed.
        progress: Show a bar on stderr.
        local: A folder with the files, or with the set's own folder; the net is then not asked.
        max_bytes: Bytes to bring at most, and bytes to unpack at most; None allows :data:`DEFAULT_BUDGET`.
        patience: How long to insist on a failing address.

    Returns:
        ``{"name", "folder", "files": [{"name", "state", "sha256", "bytes", "from", "pinned"}], "licence",
        "attribution"}`` with state ``present``, ``copied`` or ``downloaded``.

    Raises:
        InputError: where a file cannot be had from any source, is not the one the card describes, or is too large.
            What stood in the folder before is unchanged.
    """
    card, folder = card_of(name), Path(folder)
    budget = max_bytes or DEFAULT_BUDGET
    results = []
    with _Bars(progress) as bar:
        visit = _Visit(card, folder, patience or Patience(), max_bytes, budget, budget, bar)
        try:
            for file in card.files:
                results.append(_get_file(visit, file, None if local is None else Path(local)))
                _record(visit, results)
                discard(_part(folder / file.name))
        except InputError:
            _forget_archives(visit)  # after a Ctrl-C they stay, and the next call goes on from them
            raise
        _forget_archives(visit)
    return {"name": card.name, "folder": str(folder), "files": results, "licence": card.licence.name,
            "attribution": card.licence.attribution}


def verify(name: str, folder: Path | str) -> dict[str, Any]:
    """Compare the files in ``folder`` with the card.

    Returns:
        ``{"name", "folder", "ok", "files": [{"name", "state", "sha256", "expected"}]}``; state is ``ok``, ``missing``,
        ``wrong``, or ``unpinned`` where neither the card nor ``digests.json`` says what it should be or only the
        latter does.
    """
    card, folder = card_of(name), Path(folder)
    seen = _recorded(folder)
    results = []
    for file in card.files:
        path = find(card, file, folder)
        digest = sha256(path) if path else ""
        packed = bool(path and file.packed and path.name == file.packed.name)
        pin = file.packed.sha256 if packed and file.packed else file.sha256
        expected = pin or seen.get(file.name, "")
        state = ("missing" if not path else "wrong" if expected and digest != expected
                 else "ok" if pin else "unpinned")
        results.append({"name": path.name if path else file.name, "state": state, "sha256": digest,
                        "expected": expected})
    good = all(result["state"] in ("ok", "unpinned") for result in results)
    return {"name": card.name, "folder": str(folder), "ok": good, "files": results}


# -------------------------------------------------------------------- one file
def _get_file(visit: _Visit, file: DataFile, local: Path | None) -> dict[str, Any]:
    target = visit.folder / file.name
    if target.is_file():
        digest = sha256(target)
        expected = file.sha256 or _recorded(visit.folder).get(file.name, "")
        if not expected:
            _warn_unpinned(visit.card, file, digest, str(target))
        if digest == (expected or digest):
            return _result(file, target, "present", digest, "")
    collection = local or (Path(os.environ["STGRAPH_DATA"]) if os.environ.get("STGRAPH_DATA") else None)
    found = find(visit.card, file, collection) if collection else None
    if found is not None:
        try:
            return _copy(visit, file, found, target)
        except _Wrong:
            if local is not None:
                raise
    if local is not None:
        raise InputError("the folder does not hold this file", file=local, field="--from", value=file.name,
                         remedy=f"put it there, or leave --from out. {visit.card.alternatives}")
    return _download(visit, file, target)


def _copy(visit: _Visit, file: DataFile, found: Path, target: Path) -> dict[str, Any]:
    with atomic_path(target) as work:
        if file.packed and found.name == file.packed.name:
            _gunzip(found, work, visit.to_unpack)
        else:
            shutil.copyfile(found, work)
        _check(visit.card, file, work, str(found))
    return _result(file, target, "copied", sha256(target), str(found))


def _download(visit: _Visit, file: DataFile, target: Path) -> dict[str, Any]:
    if file.bytes > visit.to_bring:
        raise InputError("the file is larger than what is left of the allowed bytes", file=target,
                         value=f"{file.bytes:,}", remedy=f"allow more, e.g. --max-bytes {2 * file.bytes}")
    failures = []
    for source in file.sources:
        try:
            with _arrived(visit, file, source, target) as arrived:
                _check(visit.card, file, arrived, source.url)
                digest = sha256(arrived)
                with atomic_path(target) as work:
                    shutil.move(arrived, work)
            return _result(file, target, "downloaded", digest, source.url)
        except Unavailable as error:
            failures.append(f"{source.url}: {error}")
        except (_Wrong, UnsafeArchive) as error:
            failures.append(f"{source.url}: {error.problem} ({error.value})")
    problem = "cannot be downloaded" + ("".join(f"\n  {line}" for line in failures) if failures else
                                        ": no public address serves it in this form")
    raise InputError(problem, file=target, field=visit.card.name,
                     remedy=f"{visit.card.alternatives.rstrip('. ')}. With the files in a folder of yours: "
                            f"stgraph data get {visit.card.name} --from FOLDER")


@contextlib.contextmanager
def _arrived(visit: _Visit, file: DataFile, source: Source, target: Path) -> Iterator[Path]:
    """The file of a source under a passing name; gone afterwards, but for what a cut download can go on from."""
    part = _part(target)
    if not source.member:
        download(source.url, part, visit.to_bring, file.bytes, visit.bar.reporter(file.name), visit.patience)
        visit.to_bring -= part.stat().st_size
        try:
            yield part
        finally:
            discard(part)
        return
    archive = _archive(visit, source.url)
    folder = target.with_name(target.name + ".unpacked.part")
    limit = min(visit.to_unpack, allowance(archive.stat().st_size, visit.max_bytes, DEFAULT_BUDGET))
    try:
        (path,) = unpack(archive, folder, limit, {source.member})
        visit.to_unpack -= path.stat().st_size
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _archive(visit: _Visit, url: str) -> Path:
    """The archive of an address, brought once for all members that are taken from it."""
    if url not in visit.archives:
        part = visit.folder / f"archive-{len(visit.archives)}.part"
        download(url, part, visit.to_bring, 0, visit.bar.reporter(url.rsplit("/", 1)[-1]), visit.patience)
        visit.to_bring -= part.stat().st_size
        visit.archives[url] = part
    return visit.archives[url]


def _forget_archives(visit: _Visit) -> None:
    for part in visit.archives.values():
        discard(part)


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


class _Wrong(InputError):
    """What came is not what the card describes."""


def _check(card: Card, file: DataFile, path: Path, origin: str) -> None:
    digest = sha256(path)
    if not file.sha256:
        _warn_unpinned(card, file, digest, origin)
    elif digest != file.sha256:
        raise _Wrong("not the file that the card describes: its sha256 is different", file=origin, field=file.name,
                     value=f"sha256 {digest}",
                     remedy=f"it should be {file.sha256}; take another copy. {card.alternatives}")


def _warn_unpinned(card: Card, file: DataFile, digest: str, origin: str) -> None:
    warnings.warn(f"{card.name}: the digest of {file.name} is NOT PINNED, so nobody vouches for what came from "
                  f"{origin}; seen: sha256 {digest}", UnpinnedWarning, stacklevel=2)


def _gunzip(packed: Path, work: Path, limit: int) -> None:
    try:
        with gzip.open(packed) as source, work.open("wb") as sink:
            while chunk := source.read(1 << 20):
                limit -= len(chunk)
                if limit < 0:
                    raise InputError("the file unfolds to more bytes than allowed", file=packed,
                                     remedy="if you trust it, allow more with --max-bytes")
                sink.write(chunk)
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"damaged: {error}", file=packed, remedy="take another copy") from error


def _result(file: DataFile, target: Path, state: str, digest: str, origin: str) -> dict[str, Any]:
    return {"name": file.name, "state": state, "sha256": digest, "bytes": target.stat().st_size, "from": origin,
            "pinned": bool(file.sha256)}


def _recorded(folder: Path) -> dict[str, str]:
    record = folder / RECORD
    if not record.is_file():
        return {}
    table = read_json(record)
    return {name: entry["sha256"] for name, entry in table.get("files", {}).items()}


def _record(visit: _Visit, results: list[dict[str, Any]]) -> None:
    """Write down the digests seen, but for pinned files that were there already."""
    path = visit.folder / RECORD
    before = read_json(path)["files"] if path.is_file() else {}
    fresh = {result["name"]: {name: result[name] for name in ("sha256", "bytes", "from", "pinned")}
             for result in results
             if result["state"] != "present" or (not result["pinned"] and result["name"] not in before)}
    if fresh:
        write_json(path, {"name": visit.card.name, "licence": visit.card.licence.name,
                          "attribution": visit.card.licence.attribution, "files": before | fresh})


# -------------------------------------------------------------------- progress
class _Bars:
    """A progress bar on stderr for each file, or nothing."""

    def __init__(self, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
                                  TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True),
                                  disable=not shown)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def reporter(self, name: str) -> Report:
        task = self._progress.add_task(name, total=None)
        return lambda have, total: self._progress.update(task, completed=have, total=total or None)
