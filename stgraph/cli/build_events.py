"""``stgraph build events``: rows of (type, place, time, marks) become event nodes at exactly one place each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output

_READ, _TIME, _PLACE, _GRAPH = "Where things are in the file", "Time", "Places", "The graph"


def _option(flag: str, panel: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False)


_Text = str | None
TypeKey = Annotated[_Text, _option("--type-key", _READ,
    "Column of types. Default: event_type, offense, category, kind, class, type; without one, all are one type.")]
TimeKey = Annotated[_Text, _option("--time-key", _READ, "Column of times. Default: time, datetime, date, t, ...")]
LonKey = Annotated[_Text, _option("--lon-key", _READ, "Column of longitudes. Default: longitude, lon, lng.")]
LatKey = Annotated[_Text, _option("--lat-key", _READ, "Column of latitudes. Default: latitude, lat.")]
XKey = Annotated[_Text, _option("--x-key", _READ, "Column of eastings, with --crs. Default: x, easting.")]
YKey = Annotated[_Text, _option("--y-key", _READ, "Column of northings, with --crs. Default: y, northing.")]
Crs = Annotated[_Text, _option("--crs", _READ,
    "Reference system of the coordinates, such as EPSG:3797; none: plain metres. Default: that of the file's points; "
    "plain metres where the map is.")]
IdKey = Annotated[_Text, _option("--id-key", _READ, "Column of identifiers. Default: the number of the row, from 0.")]
MarkOption = Annotated[list[str] | None, _option("--mark", _READ,
    "Column to keep, with the unit of its numbers: premise, or depth:km; may be repeated.")]
SequenceKey = Annotated[list[str] | None, _option("--sequence-key", _READ,
    "Column that tells sequences apart, each with a clock of its own; repeat it where several do together.")]
Tz = Annotated[_Text, _option("--tz", _TIME,
    "Time zone of the place, such as America/Chicago. Needed for times without an offset; bins start at its midnight.")]
Start = Annotated[_Text, _option("--start", _TIME, "Times are numbers that count from here: 2010-01-01.")]
TimeUnit = Annotated[_Text, _option("--time-unit", _TIME,
    "Times are numbers in this unit: d, h, min, s, ms, us, ns; from --start, 1970, or the start of their sequence.")]
TimeFormat = Annotated[_Text, _option("--time-format", _TIME,
    "Form of texts that are not ISO 8601, as for strptime: '%m/%d/%Y %I:%M:%S %p'.")]
LocalClock = Annotated[bool, _option("--local-clock", _TIME, "Numbers count on the local wall clock of --tz.")]
Bin = Annotated[_Text, _option("--bin", _TIME,
    "Time bins of the hyperedges (place, bin, type): 15min, 1h, 1D; none. Default: 1h, and 1D where there are only "
    "dates.")]
On = Annotated[Path | None, _option("--on", _PLACE,
    "Graph to put events on: the nearest segment, the region around, or the nearest sensor. With --grid or --h3: "
    "its box says what is on the map.")]
To = Annotated[_Text, _option("--to", _PLACE,
    "Node type of the graph that events go to. Default: segment, region, sensor or cell, the first that is there.")]
Regions = Annotated[Path | None, _option("--regions", _PLACE,
    "File of polygons: GeoJSON, GeoPackage or GeoParquet. A place on a border belongs to the region listed first.")]
RegionKey = Annotated[_Text, _option("--region-key", _PLACE,
    "Column of names in --regions. Default: region_id, geoid, fid, id, code, name; else the row number.")]
Grid = Annotated[_Text, _option("--grid", _PLACE, "Side of the cells of a regular grid: 500m, 1km.")]
H3 = Annotated[int | None, _option("--h3", _PLACE, "Resolution of H3 cells, 0 to 15; needs the extra hexagons.")]
Limit = Annotated[_Text, _option("--limit", _PLACE,
    "Farthest that an event may lie from its place; farther ones are kept apart. Default: 200m from a segment, 5km "
    "from a sensor, inside of a region. With --grid or --h3: from the middle of the events, or from the box of --on; "
    "default: no limit, or the box.")]
Neighbours = Annotated[int | None, _option("--neighbours", _PLACE, "Cells near a cell of --grid: 4 or 8. Default: 4.")]
FullGrid = Annotated[bool, _option("--full-grid", _PLACE, "All cells of the box, rather than those with events.")]
Name = Annotated[_Text, _option("--name", _GRAPH, "Name of the graph. Default: that of the bundle.")]
Simulated = Annotated[bool, _option("--simulated", _GRAPH, "Mark the data as simulated.")]
Licence = Annotated[_Text, _option("--licence", _GRAPH, "Licence of the data; travels with the graph.")]
Attribution = Annotated[_Text, _option("--attribution", _GRAPH, "Whom to name; travels with the graph.")]


def events(
    events: Annotated[Path, typer.Argument(help="Events: CSV, Parquet, GeoParquet, GeoJSON or NPZ.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")] = Path("events.stg"),
    on: On = None,
    to: To = None,
    regions: Regions = None,
    region_key: RegionKey = None,
    grid: Grid = None,
    h3: H3 = None,
    limit: Limit = None,
    neighbours: Neighbours = None,
    full_grid: FullGrid = False,
    type_key: TypeKey = None,
    time_key: TimeKey = None,
    lon_key: LonKey = None,
    lat_key: LatKey = None,
    x_key: XKey = None,
    y_key: YKey = None,
    crs: Crs = None,
    id_key: IdKey = None,
    mark: MarkOption = None,
    sequence_key: SequenceKey = None,
    tz: Tz = None,
    start: Start = None,
    time_unit: TimeUnit = None,
    time_format: TimeFormat = None,
    local_clock: LocalClock = False,
    bin: Bin = None,
    name: Name = None,
    simulated: Simulated = False,
    licence: Licence = None,
    attribution: Attribution = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Events become nodes, each at exactly one place; those outside of the map are reported and kept apart.

    Example: stgraph build events crimes.csv --on roads.stg --type-key offense --tz America/Chicago -o crimes.stg
    """
    given = locals()
    refuse_input_as_output(out, [events, on, regions])
    options = {word: value for word, value in given.items() if word not in ("events", "json") and value is not None}
    from stgraph.sources.events.build import build_events

    _, report = build_events(events, **options)
    if json:
        print_json(report)
    _show(report)


def _show(report: dict[str, Any]) -> None:
    """The report for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(report["out"]), title_justify="left", show_header=False)
    table.add_row("events", f"{report['events']:,} of {report['read']:,}, {report['types']} type"
                            + ("s" if report["types"] != 1 else ""))
    table.add_row("time", f"{report['start']} to {report['end']} ({report['tz']})"
                  + (f", {report['sequences']:,} sequences" if report["sequences"] else ""))
    table.add_row("places", f"{report['places_used']:,} of {report['places']:,} ({report['place']})")
    if report["distance_m"]["largest"]:
        table.add_row("distance", ", ".join(f"{name} {metres:,.1f} m" for name, metres in report["distance_m"].items()))
    if report["groups"]:
        table.add_row("hyperedges", f"{report['groups']:,} of place, {report['bin_s']:,} s and type")
    for reason, count in report["reasons"].items():
        table.add_row(f"kept apart: {reason}", f"{count:,}")
    Console(stderr=True, markup=False).print(table)
    for warning in report["warnings"]:
        note(f"Note: {warning}", style="yellow")
    note(f"Next: stgraph info {report['out']}")
