"""``stgraph build trips``: GPS points become walks on a road map, and counts, speeds and ways of its segments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output

_READ, _CLEAN, _MATCH, _OUT, _GRAPH = ("Where things are in the files", "Cleaning (0 turns a rule off)",
                                       "Map matching", "What comes out", "The graph")


def _option(flag: str, panel: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False)


TripKey = Annotated[list[str] | None, _option("--trip-key", _READ,
    "Column that names a trip; several, separated by commas, name it together. Default: trip, trajectory, cab, "
    "vehicle_id, uid, ...; without one, each file is one trip.")]
TimeKey = Annotated[str | None, _option("--time-key", _READ, "Column of times. Default: time, timestamp, datetime.")]
LonKey = Annotated[str | None, _option("--lon-key", _READ,
    "Column of longitudes, or of x on a metric map. Default: lon, lng, longitude, x.")]
LatKey = Annotated[str | None, _option("--lat-key", _READ,
    "Column of latitudes, or of y on a metric map. Default: lat, latitude, y.")]
SplitKey = Annotated[str | None, _option("--split-key", _READ,
    "Column whose changes split a trip: occupied; occupied=1 keeps only the parts with that value.")]
Where = Annotated[list[str] | None, _option("--where", _READ,
    "column=value: leave other rows out; may be repeated.")]
CoordinateUnit = Annotated[str, _option("--coordinate-unit", _READ,
    "Unit of x and y on a metric map: m, km. Default: m.")]
Tz = Annotated[str | None, _option("--tz", _READ,
    "Time zone of the place, such as Europe/Lisbon: of times without an offset, and of the time bins.")]
PointInterval = Annotated[str | None, _option("--point-interval", _READ,
    "Time between points, where the files have no times: 1s.")]
Repair = Annotated[bool, _option("--repair", _READ,
    "Sort times that decrease within a trip, and drop those that stand twice; all is reported.")]
MaxSpeed = Annotated[float, _option("--max-speed", _CLEAN,
    "Fastest that a vehicle moves, m/s: points out of reach of both neighbours are dropped, trips split where they are "
    "still out of reach. Default: 60.")]
Slack = Annotated[float, _option("--slack", _CLEAN, "Distance beyond that which is noise, m. Default: 100.")]
MaxGap = Annotated[str, _option("--max-gap", _CLEAN,
    "Split a trip where no point was seen for longer. Default: 10min.")]
StopRadius = Annotated[float, _option("--stop-radius", _CLEAN,
    "Split a trip where it stays within so many metres. Default: 50.")]
StopTime = Annotated[str, _option("--stop-time", _CLEAN, "... for so long. Default: 5min.")]
MinPoints = Annotated[int, _option("--min-points", _CLEAN, "Drop parts with fewer points. Default and least: 2.")]
MinLength = Annotated[float, _option("--min-length", _CLEAN,
    "Drop parts whose bounding box has a shorter diagonal, m. Default: 50.")]
Sigma = Annotated[float, _option("--sigma", _MATCH, "Standard deviation of the error of points, m. Default: 10.")]
Radius = Annotated[float | None, _option("--radius", _MATCH,
    "A vehicle is not farther from its point, m. Default: 10 m plus 3.5 sigma.")]
Limit = Annotated[float | None, _option("--limit", _MATCH,
    "Longest way between two points, m; more is a break. Default: by the journey, what is driven at 35 m/s in the "
    "median time between its points: 1000, 2000, 4000, 8000 or 12000.")]
Bridge = Annotated[str, _option("--bridge", _MATCH,
    "Points without a street nearby are left out up to this long, then there is a break. Default: 1min.")]
Interval = Annotated[str, _option("--interval", _OUT, "Length of a time bin: 5min, 1h. Default: 15min.")]
Signals = Annotated[bool, _option("--signals", _OUT,
    "Add counts and speeds as a dense signal of the driven segments. The table 'traffic' holds them anyway.")]
Penetration = Annotated[float | None, _option("--penetration", _OUT,
    "Share of all vehicles that were recorded: adds the flow of all, veh/h, to --signals.")]
Recover = Annotated[str | None, _option("--recover", _OUT,
    "Add the table 'recovered': where vehicles were, so often: 1s.")]
Tokens = Annotated[bool, _option("--tokens", _OUT,
    "Add the table 'tokens': every traversal as numbers without ids, for models of trips.")]
MaxTraversals = Annotated[int, _option("--max-traversals", _OUT,
    "With more, trips are no nodes of the graph, only rows of its tables. Default: 5000000.")]
Name = Annotated[str | None, _option("--name", _GRAPH, "Name of the city. Default: that of the bundle.")]
Simulated = Annotated[bool, _option("--simulated", _GRAPH, "Mark the data as simulated.")]
Licence = Annotated[str | None, _option("--licence", _GRAPH, "Licence of the points; travels with the graph.")]
Attribution = Annotated[str | None, _option("--attribution", _GRAPH, "Whom to name; travels with the graph.")]


def trips(
    traces: Annotated[list[Path], typer.Argument(help="Points: CSV and GPX (perhaps gzipped), Parquet, NPZ.")],
    roads: Annotated[Path, typer.Option("--roads", help="The map: a bundle of build osm or build roads. Where it was "
                                                        "edited, each journey meets the roads of its time.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    trip_key: TripKey = None,
    time_key: TimeKey = None,
    lon_key: LonKey = None,
    lat_key: LatKey = None,
    split_key: SplitKey = None,
    where: Where = None,
    coordinate_unit: CoordinateUnit = "m",
    tz: Tz = None,
    point_interval: PointInterval = None,
    repair: Repair = False,
    max_speed: MaxSpeed = 60.0,
    slack: Slack = 100.0,
    max_gap: MaxGap = "10min",
    stop_radius: StopRadius = 50.0,
    stop_time: StopTime = "5min",
    min_points: MinPoints = 2,
    min_length: MinLength = 50.0,
    sigma: Sigma = 10.0,
    radius: Radius = None,
    limit: Limit = None,
    bridge: Bridge = "1min",
    interval: Interval = "15min",
    signals: Signals = False,
    penetration: Penetration = None,
    recover: Recover = None,
    tokens: Tokens = False,
    max_traversals: MaxTraversals = 5_000_000,
    name: Name = None,
    simulated: Simulated = False,
    licence: Licence = None,
    attribution: Attribution = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """GPS points are cleaned, matched to a road map, and counted by segment and time.

    Example: stgraph build trips --roads porto.stg points.parquet -o trips.stg
    """
    given = locals()
    refuse_input_as_output(out, [roads, *traces])
    options = {word: value for word, value in given.items()
               if word not in ("traces", "roads", "json") and value is not None}
    from stgraph.sources.trips.build import build_trips

    _, report = build_trips(traces, roads, **options)
    if json:
        print_json(report)
    _show(report)


def _show(report: dict[str, Any]) -> None:
    """The report for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(report["out"]), title_justify="left", show_header=False)
    dropped = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in report["dropped"].items() if count)
    splits = ", ".join(f"{count:,} at {what.replace('_', ' ')}" for what, count in report["splits"].items() if count)
    table.add_row("points", f"{report['points']:,}; {report['matched']:,} matched, {report['unmatched']:,} without a "
                            "street nearby")
    if dropped:
        table.add_row("dropped", dropped)
    table.add_row("trips", f"{report['trips']:,}, {report['journeys']:,} journeys" + (f"; split {splits}" if splits
                                                                                    else ""))
    table.add_row("walks", f"{report['traversals']:,} traversals of {report['segments']:,} segments, "
                           f"{report['length_km']:,.1f} km, {report['breaks']:,} breaks")
    table.add_row("time", f"{report['start']} to {report['end']}, bins of {report['interval_s']} s")
    table.add_row("took", f"{report['seconds']:.1f} s, {report['points_per_second']:,} points/s, "
                          f"{report['peak_memory_mb']:,.0f} MB")
    Console(stderr=True, markup=False).print(table)
    for warning in report["warnings"]:
        note(f"Note: {warning}", style="yellow")
    note(f"Next: stgraph info {report['out']}")
