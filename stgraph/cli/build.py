"""``stgraph build``: what people have becomes a ``.stg`` bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json

app = typer.Typer(no_args_is_help=True, help="Make a graph bundle (.stg) from what you have.")
_READ, _WHAT, _TIME, _PLACE, _EDGE, _GRAPH = ("Where things are in the file", "What the readings are", "Time", "Places",
                                              "Edges", "The graph")


class Rule(StrEnum):
    """Edge rules."""

    AUTO, GIVEN, DISTANCE, GAUSSIAN, KNN = "auto", "given", "distance", "gaussian", "knn"


def _option(*words: str, panel: str, text: str) -> Any:
    return typer.Option(*words, rich_help_panel=panel, help=text, show_default=False)


@app.callback()
def build() -> None:
    """Make a graph bundle (.stg) from what you have."""


@app.command()
def sensors(
    readings: Annotated[Path, typer.Argument(help="Readings: CSV or Parquet (wide or long), pandas HDF5, NPZ, NPY.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    key: Annotated[str | None, _option("--key", panel=_READ, text="Array of an NPZ file, or frame of an HDF5 file. "
                                       "Default: the only one that fits.")] = None,
    ids_key: Annotated[str | None, _option("--ids-key", panel=_READ, text="Array of sensor names in an NPZ file; also "
                                           "looked for beside --adjacency and in --locations.")] = None,
    time_key: Annotated[str | None, _option("--time-key", panel=_READ, text="Array or column of times. Default in a "
                                            "table: the index or first column.")] = None,
    sensor_key: Annotated[str | None, _option("--sensor-key", panel=_READ, text="Column of sensor names: the table is "
                                              "a long one, a row for each sensor and time.")] = None,
    value_key: Annotated[list[str] | None, _option("--value-key", panel=_READ, text="Column of readings in a long "
                                                   "table; repeat it for several channels.")] = None,
    local_clock: Annotated[bool, _option("--local-clock", panel=_READ, text="Whole-number times count on the local "
                                         "wall clock of --tz, not in UTC.")] = False,
    quantity: Annotated[str, _option("--quantity", panel=_WHAT, text="What is measured: speed, flow, occupancy, "
                                     "count, ...; one for all channels, or one each: flow,speed.")] = "value",
    unit: Annotated[str | None, _option("--unit", panel=_WHAT, text="Unit of the file: mph, km/h, veh/5min, ...; one "
                                        "for all channels, or one each. Default: SI.")] = None,
    channels: Annotated[str | None, _option("--channels", panel=_WHAT, text="Names of the channels: "
                                            "inflow,outflow.")] = None,
    missing_value: Annotated[list[float] | None, _option("--missing-value", panel=_WHAT, text="A number that stands "
                                                         "for a missing reading; may be repeated. NaN and empty "
                                                         "always do.")] = None,
    tz: Annotated[str | None, _option("--tz", panel=_TIME, text="Time zone of the place, such as America/Los_Angeles. "
                                      "Default: UTC.")] = None,
    start: Annotated[str | None, _option("--start", panel=_TIME, text="Time of the first row, where the file has no "
                                         "times: 2012-03-01T00:00.")] = None,
    interval: Annotated[str | None, _option("--interval", panel=_TIME, text="From one row to the next: 5min, 1h, 1D. "
                                            "Default: the most common difference of the times.")] = None,
    day_start: Annotated[str | None, _option("--day-start", panel=_TIME, text="Service days: clock time of the first "
                                             "row of a day, HH:MM.")] = None,
    steps_per_day: Annotated[int | None, _option("--steps-per-day", panel=_TIME, text="Service days: rows of one "
                                                 "day.")] = None,
    weekdays_only: Annotated[bool, _option("--weekdays-only", panel=_TIME, text="Service days: the data leave out "
                                           "Saturdays and Sundays.")] = False,
    repair: Annotated[bool, _option("--repair", panel=_TIME, text="Sort times, merge duplicates (mean of what was "
                                    "observed), round times off the grid; all is reported.")] = False,
    locations: Annotated[Path | None, _option("--locations", panel=_PLACE, text="CSV or Parquet with columns for the "
                                              "sensor's name, longitude and latitude.")] = None,
    locations_key: Annotated[str | None, _option("--locations-key", panel=_PLACE, text="Column of sensor names in "
                                                 "--locations. Default: sensor_id, station_id, id, ...")] = None,
    adjacency: Annotated[Path | None, _option("--adjacency", panel=_EDGE, text="Matrix in NPZ, NPY or CSV: entry "
                                              "[i, j] is the weight of the edge i -> j; its distance in metres where "
                                              "--edge-rule is distance, gaussian or knn.")] = None,
    adjacency_key: Annotated[str | None, _option("--adjacency-key", panel=_EDGE, text="Array of an NPZ file with the "
                                                 "matrix.")] = None,
    edges: Annotated[Path | None, _option("--edges", panel=_EDGE, text="CSV or Parquet of edges: from, to and "
                                          "distance_m (or cost) or weight.")] = None,
    distance_unit: Annotated[str | None, _option("--distance-unit", panel=_EDGE, text="Unit of the distances in "
                                                 "--edges: m, km, mile. Default: m.")] = None,
    edge_rule: Annotated[Rule, _option("--edge-rule", panel=_EDGE, text="auto: what is given, by the Gaussian kernel "
                                       "where it is distances; else the nearest, where places are known. given: as it "
                                       "is. gaussian: exp(-d^2/sigma^2), not below --threshold. distance: all within "
                                       "--radius. knn: the nearest --neighbours.")] = Rule.AUTO,
    neighbours: Annotated[int, _option("--neighbours", panel=_EDGE, text="knn: how many, by geodesic distance. "
                                       "Default: 8.")] = 8,
    radius: Annotated[float | None, _option("--radius", panel=_EDGE, text="distance, gaussian: longest edge in "
                                            "metres.")] = None,
    threshold: Annotated[float, _option("--threshold", panel=_EDGE, text="gaussian: smallest weight. Default: "
                                        "0.1.")] = 0.1,
    sigma: Annotated[float | None, _option("--sigma", panel=_EDGE, text="gaussian: width in metres. Default: standard "
                                           "deviation of the distances.")] = None,
    name: Annotated[str | None, _option("--name", panel=_GRAPH, text="Name of the city. Default: that of the "
                                        "bundle.")] = None,
    allow_empty: Annotated[bool, _option("--allow-empty", panel=_GRAPH, text="Keep sensors without a single "
                                         "reading.")] = False,
    simulated: Annotated[bool, _option("--simulated", panel=_GRAPH, text="Mark the data as simulated.")] = False,
    licence: Annotated[str | None, _option("--licence", panel=_GRAPH, text="Licence of the data; travels with the "
                                           "graph.")] = None,
    attribution: Annotated[str | None, _option("--attribution", panel=_GRAPH, text="Whom to name; travels with the "
                                               "graph.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Readings of sensors, their places and connections become one graph.

    Example: stgraph build sensors speed.csv --locations sensors.csv --quantity speed --unit mph
    --tz America/Los_Angeles -o city.stg
    """
    given = locals()
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
    sigma = f", sigma {report['sigma_m']:,.0f} m" if "sigma_m" in report else ""
    table.add_row("edges", f"{report['edges']:,} ({report['edge_rule']}{sigma})")
    for what, label in (("without_location", "without a place"), ("unused_locations", "places of no sensor"),
                        ("isolated_sensors", "without an edge"), ("unused_in_edges", "edges of no sensor"),
                        ("all_missing_sensors", "without readings")):
        if report[what]:
            names = ", ".join(report[what][:6]) + (", ..." if len(report[what]) > 6 else "")
            table.add_row(label, f"{len(report[what])}: {names}")
    for what, count in report["repaired"].items():
        table.add_row(f"repaired: {what.replace('_', ' ')}", f"{count:,}")
    Console(stderr=True).print(table)
    for warning in report["warnings"]:
        note(f"Note: {warning}", style="yellow")
    stem = Path(report["out"]).stem
    note(f"Next: stgraph train --data {report['out']} --model stid --out runs/{stem}")
