"""``stgraph data``: which public data sets are known, what they are, and how to get, check and build them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Annotated

import typer

from stgraph.cli.shared import note, print_json
from stgraph.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Known public data sets: list, describe, get, verify, build.")

Name = Annotated[str, typer.Argument(help="Name of a data set; see: stgraph data list.", show_default=False)]
Folder = Annotated[Path | None, typer.Argument(help="Folder of its files. Default: data/NAME.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.callback()
def data() -> None:
    """Known public data sets: list, describe, get, verify, build."""


@app.command("list")
def list_(json: Json = False) -> None:
    """List the known data sets.

    Example: stgraph data list
    """
    from stgraph.datasets import cards

    known = cards().values()
    if json:
        print_json({"datasets": [{
            "name": card.name, "title": card.title, "type": card.type, "place": card.place, "nodes": card.nodes,
            "steps": card.steps, "interval": card.interval, "quantity": card.quantity, "unit": card.unit,
            "licence": card.licence.name, "pinned": card.pinned,
            "public_address": all(file.sources for file in card.files)} for card in known]})
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, markup=False)
    table = Table(title=f"{len(known)} data sets", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading, width in (("name", 26), ("places", 6), ("steps", 7), ("every", 5)):
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True, width=width)
    table.add_column("what", no_wrap=True, width=max(20, console.width - 62))
    for card in known:
        table.add_row(card.name, f"{card.nodes:,}", f"{card.steps:,}", card.interval, card.title)
    console.print(table)
    note("Next: stgraph data info NAME")


@app.command()
def info(name: Name, json: Json = False) -> None:
    """Say all that is known about a data set: what, where, when, missing coding, clock, licence, files, how to build.

    Example: stgraph data info los_loop
    """
    from stgraph.datasets import build_line
    from stgraph.datasets import card as card_of

    card = card_of(name)
    line = build_line(card, Path("data") / name)
    if json:
        print_json(card.as_dict() | {"pinned": card.pinned, "build_line": line})
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{card.name}: {card.title}", title_justify="left", show_header=False)
    for field, value in (
            ("what", card.summary), ("type", card.type), ("place", card.place),
            ("size", f"{card.nodes:,} places, {card.steps:,} steps of {card.interval}, {card.start} to {card.end}"),
            ("measures", f"{card.quantity} in {card.unit}: {', '.join(card.channels)}"),
            ("missing", f"{card.missing.coding}"
                        f"{'' if card.missing.value is None else f' ({card.missing.value:g})'}; true zeros: "
                        f"{card.missing.true_zeros}. {card.missing.note}"),
            ("clock", f"{card.tz}. {card.clock_note}"), ("graph", card.graph),
            ("split", " / ".join(f"{share:.0%}" for share in card.split)),
            ("licence", f"{card.licence.name}. {card.licence.note} {card.licence.url}".strip()),
            ("name it", card.licence.attribution), ("cite", card.citation), ("from", "\n".join(card.provenance)),
            ("elsewhere", card.alternatives)):
        table.add_row(field, escape(value))
    for file in card.files:
        size = f"{file.bytes:,} bytes" if file.bytes else "size not known"
        pin = f"sha256 {file.sha256}" if file.sha256 else "digest NOT PINNED"
        where = "" if file.sources else ", no public address in this form"
        table.add_row("file", escape(f"{file.name}: {file.holds}\n{size}, {pin}{where}"))
    Console(stderr=True, highlight=False).print(table)
    note(f"Next: stgraph data get {card.name}, then\n{line}")


@app.command()
def get(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", "-o", show_default=False,
                                             help="Folder to put the files in. Default: data/NAME.")] = None,
    source: Annotated[Path | None, typer.Option("--from", show_default=False, help="Copy from this folder (or from "
                                                "NAME inside it) and check, rather than download.")] = None,
    max_bytes: Annotated[str | None, typer.Option("--max-bytes", show_default=False, help="Bytes to download, and "
                                                  "bytes to unpack, at most: 20GB. Default: 2GiB.")] = None,
    json: Json = False,
) -> None:
    """Get the files of a data set: resumed after a cut, checked against their digests, whole or not at all.

    Example: stgraph data get metr_la --out data/metr_la
    """
    from stgraph.datasets import UnpinnedWarning, build_line, card
    from stgraph.datasets import get as fetch

    folder = out or Path("data") / name
    limit = None if max_bytes is None else _bytes(max_bytes)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UnpinnedWarning)
        report = fetch(name, folder, progress=True, local=source, max_bytes=limit)
    unpinned = [str(one.message) for one in raised if issubclass(one.category, UnpinnedWarning)]
    if json:
        print_json(report | {"warnings": unpinned})
    for text in unpinned:
        note(f"WARNING: {text}", style="bold red")
    for file in report["files"]:
        note(f"{file['state']:>10}  {file['name']}  {file['bytes']:,} bytes  sha256 {file['sha256'][:16]}...")
    note(f"Licence: {report['licence']}. Name: {report['attribution']}.")
    note(f"Next: {build_line(card(name), folder)}")


@app.command()
def verify(name: Name, folder: Folder = None, json: Json = False) -> None:
    """Compare files with the digests of their card. Exit code 2 where one is missing or wrong.

    Example: stgraph data verify los_loop ../shared/data/los_loop
    """
    from stgraph.datasets import verify as check

    report = check(name, folder or Path("data") / name)
    if json:
        print_json(report)
    for file in report["files"]:
        style = {"ok": "green", "unpinned": "yellow"}.get(file["state"], "bold red")
        note(f"{file['state']:>8}  {file['name']}  {file['sha256']}", style=style)
    if not report["ok"]:
        note(f"Remedy: stgraph data get {name} --out {report['folder']}")
        raise typer.Exit(2)


@app.command()
def build(
    name: Name, folder: Folder = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", show_default=False,
                                             help="The bundle to write (.stg). Default: NAME.stg.")] = None,
    json: Json = False,
) -> None:
    """Make a bundle of a data set as its card says, also of those in odd file forms.

    Example: stgraph data build melbourne_scats ../shared/data/melbourne_scats -o melbourne.stg
    """
    from stgraph.datasets import build_source, card, edges_per_step

    files = folder or Path("data") / name
    source, options = build_source(card(name), files)
    options["out"] = str(out or f"{name}.stg")
    lists = edges_per_step(card(name), files)
    if lists is None:
        from stgraph.sources.sensors import build_sensors

        _, report = build_sensors(source, **options)
    else:
        from stgraph.sources.dynamic_edges import build_dynamic

        _, report = build_dynamic(source, lists, **options)
    if json:
        print_json(report)
    note(f"{report['out']}: {report['sensors']:,} sensors, {report['steps']:,} steps, {report['edges']:,} edges")
    note(f"Next: stgraph info {report['out']}")


def _bytes(text: str) -> int:
    """Bytes of ``20GB``, ``500 MiB`` or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?\s*", text)
    if match is None or float(match[1]) <= 0:
        raise InputError("not a number of bytes", field="--max-bytes", value=text, remedy="write it like 500MB or 20GB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kMGT".index(match[2].replace("K", "k") or " "))


