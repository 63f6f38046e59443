"""``stgraph build``: what people have becomes a ``.stg`` bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.build_events import events
from stgraph.cli.build_merge import merge
from stgraph.cli.build_moving import dynamic, moving
from stgraph.cli.build_osm import osm
from stgraph.cli.build_raster import raster
from stgraph.cli.build_roads import roads
from stgraph.cli.build_trips import trips
from stgraph.cli.shared import note, print_json, refuse_input_as_output

app = typer.Typer(no_args_is_help=True, help="Make a graph bundle (.stg) from what you have.")
_READ, _WHAT, _TIME, _PLACE, _EDGE, _GRAPH = ("Where things are in the file", "What the readings are", "Time", "Places",
                                              "Edges", "The graph")


class Rule(StrEnum):
    """Edge rules."""

    AUTO, GIVEN, DISTANCE, GAUSSIAN, KNN = "auto", "given", "distance", "gaussian", "knn"


def _option(flag: str, panel: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False)


@app.callback()
def build() -> None:
    """Make a graph bundle (.stg) from what you have."""


Key = Annotated[str | None, _option("--key", _READ,
    "Array of an NPZ file, or frame of an HDF5 file. Default: the only one that fits.")]
IdsKey = Annotated[str | None, _option("--ids-key", _READ,
    "Array of sensor names in an NPZ file; also looked for beside --adjacency and in --locations.")]
TimeKey = Annotated[str | None, _option("--time-key", _READ,
    "Array or column of times. Default in a table: the index or first column.")]
SensorKey = Annotated[str | None, _option("--sensor-key", _READ,
    "Column of sensor names: the table is a long one, a row for each sensor and time.")]
ValueKey = Annotated[list[str] | None, _option("--value-key", _READ,
    "Column of readings in a long table; repeat it for several channels.")]
LocalClock = Annotated[bool, _option("--local-clock", _READ,
    "Whole-number times count on the local wall clock of --tz, not in UTC.")]
Quantity = Annotated[str, _option("--quantity", _WHAT,
    "What is measured: speed, flow, occupancy, count, ...; one for all channels, or one each: flow,speed.")]
Unit = Annotated[str | None, _option("--unit", _WHAT,
    "Unit of the file: mph, km/h, veh/5min, ...; one for all channels, or one each. Default: SI.")]
Channels = Annotated[str | None, _option("--channels", _WHAT, "Names of the channels: inflow,outflow.")]
MissingValue = Annotated[list[float] | None, _option("--missing-value", _WHAT,
    "A number that stands for a missing reading; may be repeated. NaN and empty always do.")]
Tz = Annotated[str | None, _option("--tz", _TIME, "Time zone of the place, such as America/Los_Angeles. Default: UTC.")]
Start = Annotated[str | None, _option("--start", _TIME,
    "Time of the first row, where the file has no times: 2012-03-01T00:00.")]
Interval = Annotated[str | None, _option("--interval", _TIME,
    "From one row to the next: 5min, 1h, 1D. Default: the most common difference of the times.")]
DayStart = Annotated[str | None, _option("--day-start", _TIME,
    "Service days: clock time of the first row of a day, HH:MM.")]
StepsPerDay = Annotated[int | None, _option("--steps-per-day", _TIME, "Service days: rows of one day.")]
WeekdaysOnly = Annotated[bool, _option("--weekdays-only", _TIME,
    "Service days: the data leave out Saturdays and Sundays.")]
Repair = Annotated[bool, _option("--repair", _TIME,
    "Sort times, merge duplicates (mean of what was observed), round times off the grid; all is reported.")]
Locations = Annotated[Path | None, _option("--locations", _PLACE,
    "CSV or Parquet with columns for the sensor's name, longitude and latitude.")]
LocationsKey = Annotated[str | None, _option("--locations-key", _PLACE,
    "Column of sensor names in --locations. Default: sensor_id, station_id, id, ...")]
Adjacency = Annotated[Path | None, _option("--adjacency", _EDGE,
    "Matrix in NPZ, NPY or CSV: entry [i, j] is the weight of the edge i -> j; its distance in metres where "
    "--edge-rule is distance, gaussian or knn.")]
AdjacencyKey = Annotated[str | None, _option("--adjacency-key", _EDGE, "Array of an NPZ file with the matrix.")]
Edges = Annotated[Path | None, _option("--edges", _EDGE,
    "CSV or Parquet of edges: from, to and distance_m (or cost) or weight.")]
DistanceUnit = Annotated[str | None, _option("--distance-unit", _EDGE,
    "Unit of the distances in --edges: m, km, mile. Default: m.")]
RoadMap = Annotated[Path | None, _option("--roads", _EDGE,
    "Bundle of roads: sensors are put on segments, and edges are shortest ways by road in driving direction, up to "
    "--radius (default: 10000 m).")]
HeadingKey = Annotated[str | None, _option("--heading-key", _EDGE,
    "--roads: column of --locations with the direction a sensor watches: degrees, or N, NE, northbound.")]
RoadNameKey = Annotated[str | None, _option("--road-name-key", _EDGE,
    "--roads: column of --locations with the name of the road: I-880 N, US 101, Main Street.")]
AttachLimit = Annotated[float, _option("--attach-limit", _EDGE,
    "--roads: farthest a sensor may be from its road in metres. Default: 50.")]
At = Annotated[str | None, _option("--at", _EDGE,
    "--roads: when, where the roads were edited: 2024-05-01T06:00, on the clock of --tz. Default: the last reading.")]
EdgeRule = Annotated[Rule, _option("--edge-rule", _EDGE,
    "auto: what is given, by the Gaussian kernel where it is distances; else the nearest, where places are "
    "known. given: as it is. gaussian: exp(-d^2/sigma^2), not below --threshold. distance: all within "
    "--radius. knn: the nearest --neighbours.")]
Neighbours = Annotated[int, _option("--neighbours", _EDGE, "knn: how many, by geodesic distance. Default: 8.")]
Radius = Annotated[float | None, _option("--radius", _EDGE, "distance, gaussian: longest edge in metres.")]
Threshold = Annotated[float, _option("--threshold", _EDGE, "gaussian: smallest weight. Default: 0.1.")]
Sigma = Annotated[float | None, _option("--sigma", _EDGE,
    "gaussian: width in metres. Default: standard deviation of the distances.")]
Name = Annotated[str | None, _option("--name", _GRAPH, "Name of the city. Default: that of the bundle.")]
AllowEmpty = Annotated[bool, _option("--allow-empty", _GRAPH, "Keep sensors without a single reading.")]
Simulated = Annotated[bool, _option("--simulated", _GRAPH, "Mark the data as simulated.")]
Licence = Annotated[str | None, _option("--licence", _GRAPH, "Licence of the data; travels with the graph.")]
Attribution = Annotated[str | None, _option("--attribution", _GRAPH, "Whom to name; travels with the graph.")]


@app.command()
def sensors(
    readings: Annotated[Path, typer.Argument(help="Readings: CSV or Parquet (wide or long), pandas HDF5, NPZ, NPY.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    key: Key = None,
    ids_key: IdsKey = None,
    time_key: TimeKey = None,
    sensor_key: SensorKey = None,
    value_key: ValueKey = None,
    local_clock: LocalClock = False,
    quantity: Quantity = "value",
    unit: Unit = None,
    channels: Channels = None,
    missing_value: MissingValue = None,
    tz: Tz = None,
    start: Start = None,
    interval: Interval = None,
    day_start: DayStart = None,
    steps_per_day: StepsPerDay = None,
    weekdays_only: WeekdaysOnly = False,
    repair: Repair = False,
    locations: Locations = None,
    locations_key: LocationsKey = None,
    adjacency: Adjacency = None,
    adjacency_key: AdjacencyKey = None,
    edges: Edges = None,
    distance_unit: DistanceUnit = None,
    roads: RoadMap = None,
    heading_key: HeadingKey = None,
    road_name_key: RoadNameKey = None,
    attach_limit: AttachLimit = 50.0,
    at: At = None,
    edge_rule: EdgeRule = Rule.AUTO,
    neighbours: Neighbours = 8,
    radius: Radius = None,
    threshold: Threshold = 0.1,
    sigma: Sigma = None,
    name: Name = None,
    allow_empty: AllowEmpty = False,
    simulated: Simulated = False,
    licence: Licence = None,
    attribution: Attribution = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Readings of sensors, their places and connections become one graph.

    Example: stgraph build sensors speed.csv --locations sensors.csv --quantity speed --unit mph
    --tz America/Los_Angeles -o city.stg
    """
    given = locals()
    refuse_input_as_output(out, [readings, locations, adjacency, edges, roads])
    options = {word: value for word, value in given.items() if word not in ("readings", "json") and value is not None}
    from stgraph.sources.sensors import build_sensors

    _, report = build_sensors(readings, **options)
    if json:
        print_json(report)
    _show(report)


def _show(report: dict[str, Any]) -> None:
    """The report for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(report["out"]), title_justify="left", show_header=False)
    units = ", ".join(name if unit == "1" else f"{name} in {unit}"
                      for name, unit in zip(report["channels"], report["unit"], strict=True))
    table.add_row("sensors", f"{report['sensors']:,}, {units}")
    table.add_row("time", f"{report['start']} to {report['end']}, every {report['interval_s']} s, "
                          f"{report['steps']:,} steps")
    table.add_row("observed", f"{100 * report['observed_share']:.4g} %; {report['gaps']} gaps in time, the longest "
                              f"{report['longest_gap_steps']} steps")
    if "roads" in report:
        notes = "".join(f"; {count} {what}" for what, count in report["attach_notes"].items())
        table.add_row("on roads", f"{report['attached']:,} on {report['roads']}, at most "
                                  f"{report['attach_distance_m']['max']:.4g} m away{notes}")
    sigma = f", sigma {report['sigma_m']:,.0f} m" if "sigma_m" in report else ""
    table.add_row("edges", f"{report['edges']:,} ({report['edge_rule']}{sigma})")
    for what, label in (("without_location", "without a place"), ("unused_locations", "places of no sensor"),
                        ("isolated_sensors", "without an edge"), ("unused_in_edges", "edges of no sensor"),
                        ("all_missing_sensors", "without readings")):
        if report[what] and (what != "without_location" or report["locations_matched"] != "none"):
            names = ", ".join(report[what][:6]) + (", ..." if len(report[what]) > 6 else "")
            table.add_row(label, f"{len(report[what])}: {names}")
    for what, count in report["repaired"].items():
        table.add_row(f"repaired: {what.replace('_', ' ')}", f"{count:,}")
    Console(stderr=True, markup=False).print(table)
    for warning in report["warnings"]:
        note(f"Note: {warning}", style="yellow")
    stem = Path(report["out"]).stem
    note(f"Next: stgraph train --data {report['out']} --model stid --out runs/{stem}")


app.command()(roads)
app.command()(trips)
app.command()(raster)
app.command()(moving)
app.command()(dynamic)
app.command()(osm)
app.command()(events)
app.command()(merge)
