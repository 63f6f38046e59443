"""A web server that misbehaves on order, and cards that point at it."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from stgraph.datasets import registry
from stgraph.datasets.download import Patience
from stgraph.datasets.schema import Card, parse_card


@dataclass
class Served:
    """What stands at one path, and how it is served.

    Args:
        content: The bytes.
        cuts: How many bytes each of the next answers sends before the connection breaks.
        statuses: Status codes that the next answers have instead of content.
        headers: Validators such as ETag.
        location: Where to redirect to.
        length: Whether the answer states its length.
        ranges: Whether byte ranges are honoured.
    """

    content: bytes
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    location: str = ""
    length: bool = True
    ranges: bool = True


class Site:
    """A local server: ``site.files[path]`` is served, ``site.asked`` lists (path, Range, If-Range) of each request."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str | None, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *_: Any) -> None:
                """Be quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        self.asked.append((request.path, wanted, condition))
        request.close_connection = True
        served = self.files.get(request.path)
        status = 404 if served is None else served.statuses.pop(0) if served.statuses else 200
        if served is None or status != 200 or served.location:
            request.send_response(302 if served and served.location else status)
            if served and served.location:
                request.send_header("Location", served.location)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        self.send(request, served, self.first_byte(served, wanted, condition))

    def first_byte(self, served: Served, wanted: str | None, condition: str | None) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        unchanged = condition in (None, served.headers.get("ETag"), served.headers.get("Last-Modified"))
        return int(match[1]) if match and served.ranges and unchanged else 0

    def send(self, request: BaseHTTPRequestHandler, served: Served, start: int) -> None:
        total = len(served.content)
        if start and start >= total:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{total}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        for name, value in served.headers.items():
            request.send_header(name, value)
        if served.length:
            request.send_header("Content-Length", str(total - start))
        request.end_headers()
        stop = min(total, start + served.cuts.pop(0)) if served.cuts else total
        request.wfile.write(served.content[start:stop])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A running server on a free port."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


@pytest.fixture
def served() -> type[Served]:
    """The description of a served file."""
    return Served


@pytest.fixture
def impatient() -> Patience:
    """Give up soon."""
    return Patience(tries=3, pause=0.01, longest=0.02, timeout=5)


def table_of(**changes: Any) -> dict[str, Any]:
    """The tables of a complete small card."""
    table: dict[str, Any] = {
        "name": "toy", "title": "A toy", "summary": "For tests.", "type": "road", "place": "Nowhere", "nodes": 2,
        "steps": 3, "interval": "5min", "start": "2020-01-01T00:00", "end": "2020-01-01T00:10", "channels": ["speed"],
        "quantity": "speed", "unit": "mph", "tz": "UTC", "clock": "none", "clock_note": "None.", "graph": "None.",
        "split": [0.7, 0.1, 0.2], "folder": "toy", "provenance": ["made up"], "citation": "None.",
        "alternatives": "Ask the neighbour, who keeps a copy.",
        "missing": {"coding": "none", "true_zeros": "no", "note": ""},
        "licence": {"name": "CC0", "attribution": "Nobody"},
        "files": [{"name": "toy.npz", "sha256": "", "bytes": 0, "holds": "speed [3, 2]"}],
        "build": {"readings": "toy.npz", "quantity": "speed"},
    }
    return table | changes


@pytest.fixture
def card_table() -> Callable[..., dict[str, Any]]:
    """Make the tables of a small card, with changes."""
    return table_of


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Card]:
    """Make a card of the given files the only known one; the content of a file pins its digest."""

    def make(*files: dict[str, Any], **changes: Any) -> Card:
        entries = []
        for file in files:
            content = file.pop("content", None)
            pin = {} if content is None else {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            entries.append({"sha256": "", "bytes": 0, "holds": "bytes"} | pin | file)
        changes = {"build": {"readings": entries[0]["name"]}} | changes
        card = parse_card(table_of(files=entries, **changes), "toy.toml")
        monkeypatch.setattr(registry, "_cards", lambda: {card.name: card})
        return card

    monkeypatch.delenv("STGRAPH_DATA", raising=False)
    return make
