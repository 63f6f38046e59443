"""The cards that ship with the package, and how to read or build the set of a card."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import shlex
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stgraph.datasets.schema import FILE_OPTIONS, Card, load_card
from stgraph.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from stgraph.sources.readings import Readings

_PACKAGE = "stgraph_datasets"


@cache
def _folder() -> Path:
    """The folder of the cards: in the installed package, else beside the source tree."""
    try:
        return Path(str(package_files(_PACKAGE)))
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[2] / "datasets"


@cache
def _cards() -> dict[str, Card]:
    found: dict[str, Card] = {}
    for path in sorted(_folder().glob("*.toml")):
        card = load_card(path)
        if card.name != path.stem:
            raise InputError("the card is not named like its file", file=path, field="name", value=card.name,
                             remedy=f"name it {path.stem}")
        found[card.name] = card
    return found


def cards() -> dict[str, Card]:
    """Every card by name, in alphabetical order.

    Raises:
        InputError: where a card is faulty.
    """
    return dict(_cards())


def card(name: str) -> Card:
    """The card of that name.

    Raises:
        InputError: where there is none; close names are offered.
    """
    found = _cards()
    if name not in found:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), found, n=3)
        raise InputError("no data set of that name", field="name", value=name,
                         remedy=f"did you mean {' or '.join(close)}?" if close else "see: stgraph data list")
    return found[name]


def read(card: Card, folder: Path | str) -> Readings:
    """Readings of a set whose file form needs a reader script, ``values`` ``[T, N, C]``.

    Args:
        card: A card with ``build.reader``.
        folder: Where its files lie.

    Raises:
        InputError: where the card has no reader, or a file is missing or not of the expected form.
    """
    name = card.build.get("reader")
    if name is None:
        raise InputError("this set is in a usual form and has no reader", field="name", value=card.name,
                         remedy=f"run: {build_line(card, folder)}")
    readings: Readings = _from_reader(card, folder, "read", card.build.get("reader_options", {}))
    return readings


def edges_per_step(card: Card, folder: Path | str) -> pd.DataFrame | None:
    """The edges of each step, for :func:`stgraph.sources.dynamic_edges.build_dynamic`; None for sets without.

    Args:
        card: Any card.
        folder: Where its files lie.

    Raises:
        InputError: where a file is missing or not of the expected form.
    """
    name = card.build.get("reader")
    if name is None or not hasattr(_reader(name), "edges_per_step"):
        return None
    lists: pd.DataFrame = _from_reader(card, folder, "edges_per_step", {})
    return lists


def _from_reader(card: Card, folder: Path | str, function: str, options: dict[str, Any]) -> Any:
    located = card.locate(folder)
    try:
        return getattr(_reader(card.build["reader"]), function)(located, **options)
    except (KeyError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not of the form its card describes: {error}", file=next(iter(located.values())).parent,
                         field=card.name, remedy=f"run: stgraph data verify {card.name} {folder}") from error


def build_options(card: Card) -> dict[str, Any]:
    """What ``[build]`` says besides the reader: the options of ``stgraph build sensors`` by their Python names."""
    return {name: value for name, value in card.build.items() if not name.startswith("reader")}


def build_source(card: Card, folder: Path | str) -> tuple[Path | Readings, dict[str, Any]]:
    """What :func:`stgraph.sources.sensors.build_sensors` takes: a file or readings, and its options.

    Raises:
        InputError: where a file is missing or not of the expected form.
    """
    located = card.locate(folder)
    options: dict[str, Any] = {name: str(located[value]) if name in FILE_OPTIONS else value
                               for name, value in build_options(card).items()}
    options |= {"name": card.name, "licence": card.licence.name, "attribution": card.licence.attribution}
    if "channels" in options:
        options["channels"] = ",".join(options["channels"])
    if "missing_value" in options:
        options["missing_value"] = (float(options["missing_value"]),)
    if "reader" not in card.build:
        return Path(options.pop("readings")), options
    options.pop("local_clock", None)  # the readings say it themselves
    return read(card, folder), options


def sensor_build_arguments(card: Card, folder: Path | str) -> list[str]:
    """The words after ``stgraph`` that build the set from ``folder``, without ``-o``: options of ``build sensors``, or
    ``data build`` where the set needs a reader."""
    if "reader" in card.build:
        return ["data", "build", card.name, str(folder)]
    options = build_options(card)
    words = ["build", "sensors", str(Path(folder) / options.pop("readings"))]
    for name, value in options.items():
        if value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if name in FILE_OPTIONS:
            words.append(str(Path(folder) / value))
        elif isinstance(value, list):
            words.append(",".join(map(str, value)))
        elif value is not True:
            words.append(str(value))
    return words


def build_line(card: Card, folder: Path | str) -> str:
    """The command line that builds the set, to be pasted into a shell."""
    return shlex.join(["stgraph", *sensor_build_arguments(card, folder), "-o", f"{card.name}.stg"])


def _reader(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        if error.name not in (_PACKAGE, f"{_PACKAGE}.{name}"):
            raise
    path = _folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{_PACKAGE}_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError("no such reader", file=path, field="build.reader", value=name, remedy="mend the card")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
