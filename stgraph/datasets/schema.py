"""What is known about a data set: one TOML card, read into plain records and checked.

A card states facts, never guesses: an unknown digest is ``sha256 = ""`` and an unknown size ``bytes = 0``.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from stgraph.errors import InputError

TYPES = ("road", "metro", "bus", "bike", "parking", "grid", "trips", "air", "weather", "health")
CLOCKS = ("wall", "day", "none")
CODINGS = ("nan", "value", "nan and value", "none")
PROTOCOLS = ((0.7, 0.1, 0.2), (0.6, 0.2, 0.2))
FILE_OPTIONS = ("readings", "locations", "adjacency", "edges")
BUILD_OPTIONS = {
    "readings": str, "key": str, "ids_key": str, "time_key": str, "local_clock": bool, "channels": list,
    "locations": str, "adjacency": str, "adjacency_key": str, "edges": str, "edge_rule": str, "radius": (int, float),
    "quantity": str, "unit": str, "missing_value": (int, float), "interval": str, "start": str, "tz": str,
    "day_start": str, "steps_per_day": int, "weekdays_only": bool, "reader": str, "reader_options": dict,
}
"""What ``[build]`` may hold: the options of ``stgraph build sensors``, or the reader of an odd file form."""


@dataclass(frozen=True)
class Source:
    """Where a file can be had.

    Args:
        url: An http or https address.
        member: Name inside the archive that the address serves; empty where it serves the file itself.
    """

    url: str
    member: str = ""


@dataclass(frozen=True)
class Packed:
    """The same file gzipped, as some collections keep it."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Args:
        name: Name in the folder of the set.
        sha256: Hex digest; empty means not pinned: nobody has stated it.
        bytes: Size; 0 means not known.
        holds: What is in it, with shapes.
        sources: Addresses, tried in this order.
        packed: The gzipped form that a local collection may keep instead.
    """

    name: str
    sha256: str
    bytes: int
    holds: str
    sources: tuple[Source, ...] = ()
    packed: Packed | None = None


@dataclass(frozen=True)
class Missing:
    """How the files say that there is no reading.

    Args:
        coding: ``nan``, ``value``, ``nan and value`` or ``none``.
        true_zeros: Whether a zero can be a true reading: ``yes``, ``no`` or ``unknown``.
        note: Shares and what published scores do.
        value: The coded value.
    """

    coding: str
    true_zeros: str
    note: str
    value: float | None = None


@dataclass(frozen=True)
class Licence:
    """Under what terms the data stand.

    Args:
        name: As the source states it.
        attribution: The line that must travel with results.
        note: What is not settled.
        url: Where the terms stand.
    """

    name: str
    attribution: str
    note: str = ""
    url: str = ""


@dataclass(frozen=True)
class Card:
    """All that is stated about a data set.

    Args:
        name: Key, also the name of the card file.
        title: A line for lists.
        summary: What it is, in a few sentences.
        type: One of :data:`TYPES`.
        place: Where.
        nodes: Number of places ``N`` as the builder sees them.
        steps: Number of rows ``T``.
        interval: Time from row to row, such as ``5min``.
        start: First row on the clock of the files.
        end: Last row on the clock of the files.
        channels: Names of the ``C`` channels.
        quantity: What is measured (see :mod:`stgraph.units`).
        unit: The unit of the files.
        tz: IANA name of the place's time zone.
        clock: ``wall`` (files hold local wall-clock times), ``day`` (local dates) or ``none`` (no times in them).
        clock_note: What is known about daylight saving, and where the start comes from.
        graph: What edges can be had, and what they mean.
        split: Shares of training, validation and test rows, in time order.
        folder: Name of the set's folder inside a collection of sets.
        provenance: Who measured, who published, which commit.
        citation: The paper to cite.
        alternatives: Where else to look when every address is dead.
        missing: See :class:`Missing`.
        licence: See :class:`Licence`.
        files: See :class:`DataFile`.
        build: How to make a bundle: see :data:`BUILD_OPTIONS`.
    """

    name: str
    title: str
    summary: str
    type: str
    place: str
    nodes: int
    steps: int
    interval: str
    start: str
    end: str
    channels: tuple[str, ...]
    quantity: str
    unit: str
    tz: str
    clock: str
    clock_note: str
    graph: str
    split: tuple[float, ...]
    folder: str
    provenance: tuple[str, ...]
    citation: str
    alternatives: str
    missing: Missing
    licence: Licence
    files: tuple[DataFile, ...]
    build: dict[str, Any] = field(default_factory=dict)

    @property
    def pinned(self) -> bool:
        """Whether the digest of every file is known."""
        return all(file.sha256 for file in self.files)

    def file(self, name: str) -> DataFile:
        """The file of that name.

        Raises:
            InputError: where the card has no such file.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise InputError("the card lists no such file", file=f"{self.name}.toml", field="files", value=name,
                         remedy=f"it lists {', '.join(file.name for file in self.files)}")

    def locate(self, folder: Path | str) -> dict[str, Path]:
        """Path of every file in ``folder`` (or in the set's own folder inside it), plain or gzipped.

        Raises:
            InputError: where one is not there.
        """
        found: dict[str, Path] = {}
        for file in self.files:
            path = find(self, file, Path(folder))
            if path is None:
                raise InputError("a file of the data set is not there", file=Path(folder) / file.name,
                                 remedy=f"run: stgraph data get {self.name} --out {folder}")
            found[file.name] = path
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def find(card: Card, file: DataFile, folder: Path) -> Path | None:
    """Where a file lies in ``folder`` or in ``folder/<card.folder>``, plain before gzipped; None where it does not."""
    names = [file.name] + ([file.packed.name] if file.packed else [])
    for place in (folder, folder / card.folder):
        for name in names:
            if (place / name).is_file():
                return place / name
    return None


def load_card(path: Path) -> Card:
    """Read one card.

    Raises:
        InputError: where the file is not TOML, or a field is missing, unknown or out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"not readable as TOML: {error}", file=path, remedy="mend the card") from error
    return parse_card(table, path)


def parse_card(table: dict[str, Any], path: Path | str) -> Card:
    """A card from the tables of its TOML file; ``path`` is for messages.

    Raises:
        InputError: where a field is missing, unknown or out of range.
    """
    plain = dict(table)
    plain["missing"] = _record(Missing, plain.get("missing", {}), path, "missing")
    plain["licence"] = _record(Licence, plain.get("licence", {}), path, "licence")
    plain["files"] = tuple(_file(entry, path) for entry in plain.get("files", []))
    card = _record(Card, plain, path, "")
    _check(card, path)
    return card


def _file(table: dict[str, Any], path: Path | str) -> DataFile:
    plain = dict(table)
    plain["sources"] = tuple(
        Source(entry) if isinstance(entry, str) else _record(Source, entry, path, "files.sources")
        for entry in plain.get("sources", [])
    )
    if "packed" in plain:
        plain["packed"] = _record(Packed, plain["packed"], path, "files.packed")
    return _record(DataFile, plain, path, "files")


Record = TypeVar("Record")
_PLAIN = {"str": (str,), "int": (int,), "float | None": (int, float)}


def _record(kind: type[Record], table: dict[str, Any], path: Path | str, where: str) -> Record:
    """A frozen record from a TOML table: every field known, none missing, plain types right, lists as tuples."""
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    prefix = where + "." if where else ""
    for name in table:
        if name not in known:
            raise InputError("unknown field", file=path, field=prefix + name, remedy=f"use {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name not in table:
            if item.default is MISSING and item.default_factory is MISSING:
                raise InputError("required field is missing", file=path, field=prefix + name, remedy="add it")
            continue
        value = table[name]
        expected = _PLAIN.get(str(item.type))
        if expected and (not isinstance(value, expected) or isinstance(value, bool)):
            raise InputError(f"must be of type {item.type}", file=path, field=prefix + name, value=value,
                             remedy="mend the card")
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _check(card: Card, path: Path | str) -> None:
    def refuse(field_name: str, value: Any, remedy: str) -> InputError:
        return InputError("value not allowed", file=path, field=field_name, value=value, remedy=remedy)

    if not re.fullmatch(r"[a-z][a-z0-9_]*", card.name):
        raise refuse("name", card.name, "use small letters, digits and _")
    for name, allowed in (("type", TYPES), ("clock", CLOCKS)):
        if getattr(card, name) not in allowed:
            raise refuse(name, getattr(card, name), f"use one of {', '.join(allowed)}")
    if card.missing.coding not in CODINGS:
        raise refuse("missing.coding", card.missing.coding, f"use one of {', '.join(CODINGS)}")
    if card.missing.true_zeros not in ("yes", "no", "unknown"):
        raise refuse("missing.true_zeros", card.missing.true_zeros, "use yes, no or unknown")
    if ("value" in card.missing.coding) != (card.missing.value is not None):
        raise refuse("missing.value", card.missing.value, "give it exactly where the coding is a value")
    if card.split not in PROTOCOLS:
        raise refuse("split", card.split, "use [0.7, 0.1, 0.2] or [0.6, 0.2, 0.2]")
    if card.nodes < 1 or card.steps < 1 or not card.channels or not card.files:
        raise refuse("nodes, steps, channels, files", "empty", "state at least one of each")
    for file in card.files:
        _check_file(file, refuse)
    _check_build(card, path)


def _check_file(file: DataFile, refuse: Any) -> None:
    for item in (file, file.packed):
        if item is None:
            continue
        if item.name != PurePosixPath(item.name).name or "\\" in item.name or item.name in ("", ".", ".."):
            raise refuse("files.name", item.name, "use a plain file name")
        if item.sha256 and not re.fullmatch(r"[0-9a-f]{64}", item.sha256):
            raise refuse("files.sha256", item.sha256, "use 64 small hexadecimal digits, or nothing for not pinned")
        if item.bytes < 0:
            raise refuse("files.bytes", item.bytes, "use 0 for not known")
    for source in file.sources:
        parts = urlsplit(source.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise refuse("files.sources", source.url, "use an http or https address")


def _check_build(card: Card, path: Path | str) -> None:
    for name, value in card.build.items():
        if name not in BUILD_OPTIONS:
            raise InputError("unknown option", file=path, field=f"build.{name}",
                             remedy=f"use {', '.join(BUILD_OPTIONS)}")
        if not isinstance(value, BUILD_OPTIONS[name]):  # type: ignore[arg-type]
            raise InputError("value of the wrong type", file=path, field=f"build.{name}", value=value,
                             remedy="mend the card")
        if name in FILE_OPTIONS:
            card.file(value)
    if ("reader" in card.build) == ("readings" in card.build):
        raise InputError("a card names either the readings file or a reader", file=path, field="build",
                         remedy="give one of build.readings and build.reader")
    if not re.fullmatch(r"[a-z0-9_]+", card.build.get("reader", "x")):
        raise InputError("not the name of a reader", file=path, field="build.reader", value=card.build["reader"],
                         remedy="use small letters, digits and _")
