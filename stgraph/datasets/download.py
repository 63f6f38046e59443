"""One file from one address: resumed after a cut, bounded in size, over http or https only.

Resuming follows RFC 9110: ``Range`` with ``If-Range``, so a file that changed at the server is never glued to the
beginning of its older self.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from stgraph.errors import InputError
from stgraph.version import __version__

Report = Callable[[int, int], None]
"""Told the bytes that are here and the bytes expected (0: not known)."""
_CHUNK = 1 << 18
_PASSING = {408, 425, 429}


class Unavailable(Exception):
    """An address that did not yield the file; the text says why."""


@dataclass(frozen=True)
class Patience:
    """How long to insist: ``tries`` in a row without a new byte, ``pause`` seconds doubling between them."""

    tries: int = 5
    pause: float = 1.0
    longest: float = 30.0
    timeout: float = 30.0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https only, and never from https down to http."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: http.client.HTTPMessage, newurl: str) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before, after) == ("https", "http"):
            raise urllib.error.HTTPError(newurl, 403, "redirect to an address that is not allowed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), urllib.request.HTTPHandler(),
                    urllib.request.HTTPSHandler(context=ssl.create_default_context()), _Redirects(),
                    urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()):
        opener.add_handler(handler)
    return opener


def download(url: str, part: Path, limit: int, size: int = 0, report: Report | None = None,
             patience: Patience | None = None) -> None:
    """Bring the content of ``url`` into ``part``, going on from what is already there.

    Args:
        url: An http or https address.
        part: The file to fill; ``part`` + ``.json`` beside it remembers what it is the beginning of (see
            :func:`discard`).
        limit: Bytes that it may have at most.
        size: Bytes that it must have; 0 where not known.
        report: Told of every piece.
        patience: See :class:`Patience`.

    Raises:
        Unavailable: where the address is dead, unreachable, or keeps cutting without a new byte.
        InputError: where the content is larger than ``limit`` or the disk is full.
    """
    patience = patience or Patience()
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unavailable("not an http or https address")
    without_gain, wait = 0, patience.pause
    while True:
        before = _have(part, url)
        try:
            if _piece(url, part, limit, size, report, patience.timeout):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in _PASSING:
                raise Unavailable(f"the server answered {error.code} {error.reason}") from error
            reason, wait = f"the server answered {error.code} {error.reason}", max(wait, _retry_after(error.headers))
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise Unavailable(f"the certificate of the server is not valid: {error.reason.verify_message}"
                                  ) from error
            reason = f"the host cannot be reached ({error.reason})"
            if isinstance(error.reason, socket.gaierror):  # no such host, or no network: waiting does not help
                raise Unavailable(reason) from error
        except (http.client.HTTPException, OSError) as error:
            reason = f"the connection was cut ({type(error).__name__})"
        if _have(part, url) > before:
            without_gain, wait = 0, patience.pause
            continue
        without_gain += 1
        if without_gain >= patience.tries:
            raise Unavailable(f"{reason}; gave up after {patience.tries} tries without a new byte")
        time.sleep(min(wait, patience.longest))
        wait *= 2


def discard(part: Path) -> None:
    """Remove a file that :func:`download` filled, and the note beside it."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _piece(url: str, part: Path, limit: int, size: int, report: Report | None, timeout: float) -> bool:
    """One request; True when the file is complete, False when the connection ended early."""
    have = _have(part, url)
    if size and have == size:
        return True
    headers = {"User-Agent": f"stgraph/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _state(part)["validator"]}
    try:
        answer = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return True  # unchanged, or the server would have sent all of it; and all of it is here
        discard(part)
        return False
    with answer:
        start, total = _span(answer, have)
        total = total or size
        if size and total != size:
            raise Unavailable(f"the file there has {total:,} bytes, the card says {size:,}")
        _within(part, total, limit)
        if start != have or not have:
            have = 0
            with _disk(part):
                discard(part)
                _remember(part, url, answer.headers)
        have = _receive(answer, part, have, total, limit, report)
    return not total or have == total


def _receive(answer: Any, part: Path, have: int, total: int, limit: int, report: Report | None) -> int:
    with _disk(part):
        sink = part.open("ab")
    with sink:
        while chunk := answer.read(_CHUNK):
            have += len(chunk)
            _within(part, have, limit)
            with _disk(part):
                sink.write(chunk)
            if report:
                report(have, total)
    return have


@contextlib.contextmanager
def _disk(part: Path) -> Iterator[None]:
    """Tell a full or forbidden disk from a broken connection: both are OSErrors."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=part,
                         remedy="free some disk space or choose another folder, then run the same command again: "
                                "it goes on from where it stopped") from error


def _span(answer: Any, have: int) -> tuple[int, int]:
    """First byte of the answer and bytes of the whole file (0: not known)."""
    if answer.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise http.client.HTTPException("the server sent another part than was asked for")
        return have, 0 if match[2] == "*" else int(match[2])
    return 0, int(answer.headers.get("Content-Length") or 0)


def _within(part: Path, count: int, limit: int) -> None:
    if count > limit:
        discard(part)
        raise InputError(f"the download has more than the allowed {limit:,} bytes", file=part, value=count,
                         remedy="if you trust it, allow more with --max-bytes")


def _have(part: Path, url: str) -> int:
    """Bytes that are here and can be gone on from: of the same address, with a validator to check them by."""
    state = _state(part)
    if not part.is_file() or state.get("url") != url or not state.get("validator"):
        return 0
    return part.stat().st_size


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _state(part: Path) -> dict[str, str]:
    try:
        state = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _remember(part: Path, url: str, headers: Message) -> None:
    tag = headers.get("ETag", "")
    validator = headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    part.parent.mkdir(parents=True, exist_ok=True)
    _note(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _retry_after(headers: Mapping[str, str] | Message) -> float:
    text = headers.get("Retry-After", "") or ""
    return float(text) if text.isdigit() else 0.0
