"""``stgraph build osm``: an extract of OpenStreetMap becomes a road network."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output
from stgraph.errors import InputError

_FETCH, _ROADS, _MORE, _LIMITS, _GRAPH = "Instead of a file", "Which roads", "More than roads", "Limits", "The graph"


class Network(StrEnum):
    """Named networks, as in osmnx."""

    DRIVE, DRIVE_SERVICE, BIKE, WALK = "drive", "drive_service", "bike", "walk"
    ALL_PUBLIC, ALL = "all_public", "all"


def _option(flag: str, panel: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False)


Place = Annotated[str | None, _option("--place", _FETCH,
    "Fetch a place by its name through osmnx, for instance 'Porto, Portugal'. Answers are cached.")]
Box = Annotated[str | None, _option("--bbox", _FETCH,
    "Fetch a box through osmnx: west,south,east,north in degrees, for instance --bbox=-8.63,41.14,-8.60,41.16.")]
Cache = Annotated[Path | None, _option("--cache", _FETCH, "Folder for what was fetched, with --place or --bbox.")]
Which = Annotated[Network, _option("--network", _ROADS,
    "Whose roads, as in osmnx: drive, drive_service (with service roads), bike, walk, all_public, all. "
    "Default: drive.")]
Filter = Annotated[str | None, _option("--filter", _ROADS,
    """Own choice of ways, as for Overpass: '["highway"~"motorway|trunk"]["access"!~"private"]'. --network then only """
    "says who moves: on foot (walk) every way leads both ways.")]
Raw = Annotated[bool, _option("--no-simplify", _ROADS,
    "Every node of a way is a junction, instead of only those where ways meet or end.")]
Poi = Annotated[bool, _option("--poi", _MORE, "Add points of interest of the same extract, each at its segment.")]
LandUse = Annotated[bool, _option("--land-use", _MORE, "Add land use: regions, and what lies in them.")]
MaxBytes = Annotated[int | None, _option("--max-bytes", _LIMITS,
    "Bytes that the file may unpack to. Default: 8 GiB, and no more than 100 times its size.")]
MaxObjects = Annotated[int | None, _option("--max-objects", _LIMITS,
    "Nodes and roads that the file may hold. Default: 400 million.")]
Simulated = Annotated[bool, _option("--simulated", _GRAPH, "Mark the map as simulated: made up, nobody's data.")]
Name = Annotated[str | None, _option("--name", _GRAPH, "Name of the network. Default: that of the bundle.")]


def osm(
    file: Annotated[Path | None, typer.Argument(
        help="OpenStreetMap data: .osm.pbf, .osm, .osm.gz, .osm.bz2; or a graph that osmnx saved as GraphML.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    place: Place = None,
    bbox: Box = None,
    cache: Cache = None,
    network: Which = Network.DRIVE,
    filter: Filter = None,
    no_simplify: Raw = False,
    poi: Poi = False,
    land_use: LandUse = False,
    max_bytes: MaxBytes = None,
    max_objects: MaxObjects = None,
    name: Name = None,
    simulated: Simulated = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """A map of OpenStreetMap becomes a road network: junctions, directed segments, turns, traffic signals.

    Example: stgraph build osm porto.osm.pbf -o porto.stg
    """
    refuse_input_as_output(out, [file])
    if file is not None and cache is not None:
        raise InputError("the options do not go together", field="cache", value=str(cache),
                         remedy="leave out --cache: a file is not fetched")
    from stgraph.sources.osm.memory import keep_no_spare_memory

    keep_no_spare_memory()
    from stgraph.sources.osm.build import write_osm

    options: dict[str, Any] = {"place": place, "bbox": _box(bbox), "cache": cache, "network": network.value,
                               "filter": filter, "name": name, "simplify": not no_simplify, "poi": poi,
                               "land_use": land_use, "max_bytes": max_bytes, "simulated": simulated}
    if max_objects is not None:
        options["max_objects"] = max_objects
    report = write_osm(file, out, **options)
    if json:
        print_json(report)
    else:
        _show(report)


def _box(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError("a box is four numbers: west, south, east, north", field="bbox", value=text,
                         remedy="an example: --bbox=-8.63,41.14,-8.60,41.16") from error


def _show(report: dict[str, Any]) -> None:
    """The report for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(report["out"]), title_justify="left", show_header=False)
    table.add_row("junctions", f"{report['junctions']:,}")
    table.add_row("segments", f"{report['segments']:,}, {report['length_km']:,.1f} km")
    applied = (f"; {report['restrictions_applied']:,} of {report['restrictions']:,} restrictions applied, "
               f"{report['forbidden_sequences']:,} sequences forbidden") if "restrictions" in report else ""
    table.add_row("turns", f"{report['turns']:,}{applied}")
    table.add_row("traffic signals", f"{report['traffic_signals']:,}")
    table.add_row("filled in", f"speed {100 * report['imputed_speed_share']:.0f} %, lanes "
                               f"{100 * report['imputed_lanes_share']:.0f} % of the segments")
    if "regions" in report:
        table.add_row("also", f"{report['points_of_interest']:,} points of interest, {report['regions']:,} regions")
    if "bounds" in report:
        table.add_row("west, south, east, north", ", ".join(f"{degrees:.5f}" for degrees in report["bounds"]))
    table.add_row("took", f"{report['seconds']:.2f} s, {report['peak_memory_mb']:,.0f} MB")
    table.add_row("data", f"{report['attribution']}, {report['licence']}" if report["attribution"] else "simulated")
    Console(stderr=True, markup=False).print(table)
    for warning in report.get("warnings", ()):
        note(f"Note: {warning}.", style="yellow")
    if report.get("clipped_ways"):
        note(f"Note: {report['clipped_ways']:,} of {report['ways']:,} ways lead out of the file and were cut there.",
             style="yellow")
    note(f"Next: stgraph info {report['out']}")
