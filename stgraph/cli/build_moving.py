"""``stgraph build moving`` and ``stgraph build dynamic``: stations that move, and edges listed for each step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output

_READ, _WHAT, _TIME, _EDGE, _GRAPH = ("Where things are in the file", "What the readings are", "Time", "Edges",
                                      "The graph")


def _option(flag: str, panel: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False)


TimeKey = Annotated[str | None, _option("--time-key", _READ, "Column or array of times. Default: time, timestamp, ...")]
LocalClock = Annotated[bool, _option("--local-clock", _READ,
    "Whole-number times count on the local wall clock of --tz, not in UTC.")]
ValueKey = Annotated[list[str] | None, _option("--value-key", _READ,
    "Column of readings; repeat it for several channels. Default: all other columns.")]
Quantity = Annotated[str, _option("--quantity", _WHAT,
    "What is measured: speed, count, temperature, ...; one for all channels, or one each.")]
Unit = Annotated[str | None, _option("--unit", _WHAT, "Unit of the file, one for all channels, or one each. "
                                     "Default: SI.")]
Channels = Annotated[str | None, _option("--channels", _WHAT, "Names of the channels.")]
MissingValue = Annotated[list[float] | None, _option("--missing-value", _WHAT,
    "A number that stands for a missing reading; may be repeated. NaN and empty always do.")]
Tz = Annotated[str | None, _option("--tz", _TIME, "Time zone of the place. Default: UTC.")]
Interval = Annotated[str | None, _option("--interval", _TIME,
    "One step: 5min, 1h, 1D. Default: the most common time from one row to the next.")]
Repair = Annotated[bool, _option("--repair", _TIME, "Sort times, merge duplicates; all is reported.")]
Name = Annotated[str | None, _option("--name", _GRAPH, "Name of the graph. Default: that of the bundle.")]
Simulated = Annotated[bool, _option("--simulated", _GRAPH, "Mark the data as simulated.")]
Licence = Annotated[str | None, _option("--licence", _GRAPH, "Licence of the data; travels with the graph.")]
Attribution = Annotated[str | None, _option("--attribution", _GRAPH, "Whom to name; travels with the graph.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def moving(
    points: Annotated[Path, typer.Argument(help="CSV or Parquet: station, time, longitude, latitude, readings.")],
    out: Out,
    station_key: Annotated[str | None, _option("--station-key", _READ, "Column of the stations' names.")] = None,
    time_key: TimeKey = None,
    longitude_key: Annotated[str | None, _option("--longitude-key", _READ, "Column of longitudes, degrees.")] = None,
    latitude_key: Annotated[str | None, _option("--latitude-key", _READ, "Column of latitudes, degrees.")] = None,
    value_key: ValueKey = None,
    local_clock: LocalClock = False,
    quantity: Quantity = "value",
    unit: Unit = None,
    channels: Channels = None,
    missing_value: MissingValue = None,
    tz: Tz = None,
    interval: Interval = None,
    repair: Repair = False,
    neighbours: Annotated[int, _option("--neighbours", _EDGE, "Edges to each station from so many nearest. "
                                       "Default: 4.")] = 4,
    radius: Annotated[float | None, _option("--radius", _EDGE, "Instead: edges between all not farther apart, in "
                                            "metres.")] = None,
    name: Name = None,
    simulated: Simulated = False,
    licence: Licence = None,
    attribution: Attribution = None,
    json: Json = False,
) -> None:
    """Stations that move (buoys, balloons, probe cars) become one graph: places per step, edges made anew per step.

    Example: stgraph build moving buoys.csv --interval 1h --neighbours 4 --quantity temperature --unit degC -o buoys.stg
    """
    given = locals()
    refuse_input_as_output(out, [points])
    options = {word: value for word, value in given.items() if word not in ("points", "json") and value is not None}
    from stgraph.sources.moving import build_moving

    _, report = build_moving(points, **options)
    if json:
        print_json(report)
    share = f"{100 * report['position_share']:.4g} % of places known"
    _show(report, [("stations", f"{report['stations']:,}, {', '.join(report['channels']) or 'no readings'}; {share}"),
                   ("points", f"{report['points']:,}, {report['points_merged_in_steps']:,} of them share a step")])


def dynamic(
    readings: Annotated[Path, typer.Argument(help="Readings, as for stgraph build sensors.")],
    out: Out,
    edges: Annotated[Path, typer.Option("--edges", help="CSV or Parquet, a row for each step and edge: step (row from "
                                        "0) or time, from, to, weight.")],
    key: Annotated[str | None, _option("--key", _READ, "Array of an NPZ file, or frame of an HDF5 file.")] = None,
    ids_key: Annotated[str | None, _option("--ids-key", _READ, "Array of sensor names in an NPZ file.")] = None,
    time_key: TimeKey = None,
    sensor_key: Annotated[str | None, _option("--sensor-key", _READ, "Column of sensor names of a long table.")] = None,
    value_key: ValueKey = None,
    local_clock: LocalClock = False,
    locations: Annotated[Path | None, _option("--locations", _READ,
                                              "CSV or Parquet: sensor, longitude, latitude.")] = None,
    quantity: Quantity = "value",
    unit: Unit = None,
    channels: Channels = None,
    missing_value: MissingValue = None,
    tz: Tz = None,
    start: Annotated[str | None, _option("--start", _TIME, "Time of the first row, where the file has no "
                                         "times.")] = None,
    interval: Interval = None,
    repair: Repair = False,
    allow_empty: Annotated[bool, _option("--allow-empty", _GRAPH, "Keep sensors without a single reading.")] = False,
    name: Name = None,
    simulated: Simulated = False,
    licence: Licence = None,
    attribution: Attribution = None,
    json: Json = False,
) -> None:
    """Readings of sensors and a list of edges for each step become one graph whose edges live in time.

    Example: stgraph build dynamic cases.csv --edges movements.csv --quantity count -o epidemic.stg
    """
    given = locals()
    refuse_input_as_output(out, [readings, edges, locations])
    options = {word: value for word, value in given.items()
               if word not in ("readings", "json", "edges") and value is not None}
    from stgraph.sources.dynamic_edges import build_dynamic

    _, report = build_dynamic(readings, edges, **options)
    if json:
        print_json(report)
    _show(report, [("sensors", f"{report['sensors']:,}, {', '.join(report['channels'])}"),
                   ("listed edges", f"{report['edge_rows']:,} of {report['edge_pairs']:,} pairs; "
                                    f"{report['steps_without_edges']:,} steps have none")])


def _show(report: dict[str, Any], rows: list[tuple[str, str]]) -> None:
    """The report for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(report["out"]), title_justify="left", show_header=False)
    low, high = report["edges_per_step"]
    for label, text in (*rows, ("time", f"{report['start']} to {report['end']}, every {report['interval_s']} s, "
                                        f"{report['steps']:,} steps"),
                        ("edges", f"{report['edges']:,} with a life; {low:,} to {high:,} in a step")):
        table.add_row(label, text)
    Console(stderr=True, markup=False).print(table)
    for warning in report["warnings"]:
        note(f"Note: {warning}", style="yellow")
    note(f"Next: stgraph info {report['out']}")
