"""``stgraph build merge``: bundles of one city, or of several, become one graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output


def merge(
    bundles: Annotated[list[Path], typer.Argument(help="The bundles (.stg): roads, sensors, trips, events, weather.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    interval: Annotated[str | None, typer.Option(
        help="Step of the common time axis: 15min, 1h. Default: the finest of the bundles.")] = None,
    instant: Annotated[bool, typer.Option(
        "--instant", help="Readings of coarser bundles were taken at their time, not over the step that begins "
                          "then.")] = False,
    allow_gaps: Annotated[bool, typer.Option(
        "--allow-gaps", help="There may be times of which no bundle says anything.")] = False,
    weather: Annotated[list[str] | None, typer.Option(
        help="Name of a bundle whose sensors are weather stations; may be repeated. Default: those that measure "
             "nothing else.")] = None,
    prefer: Annotated[str | None, typer.Option(
        help="Name of the bundle that is right where two contradict each other. Default: that is refused.")] = None,
    attach_limit: Annotated[float, typer.Option(help="Farthest a sensor may stand from its segment, m.")] = 50.0,
    event_limit: Annotated[float, typer.Option(help="Farthest an event may lie from its segment, m.")] = 200.0,
    stations: Annotated[int, typer.Option(help="How many weather stations affect a sensor: the nearest.")] = 3,
    weather_limit: Annotated[float | None, typer.Option(
        help="Farthest a weather station may be, m. Default: no limit.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the graph. Default: that of the bundle.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Bundles become one graph, their layers joined by ids, in space and in time.

    Example: stgraph build merge porto.stg sensors.stg events.stg weather.stg -o city.stg
    """
    given = locals()
    refuse_input_as_output(out, bundles)
    options = {word: value for word, value in given.items() if word not in ("bundles", "json") and value is not None}
    from stgraph.sources.merge import merge_tables

    _, report = merge_tables(bundles, **options)
    if json:
        print_json(report)
    _show(report)


def _show(report: dict[str, Any]) -> None:
    """The report for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(report["out"]), title_justify="left", show_header=False)
    for layer in report["layers"]:
        count = f"{layer['nodes']:,} of " + " and ".join(layer["bundles"])
        table.add_row(f"nodes: {layer['type']}", count if layer["how"] == "alone" else f"{count}, {layer['how']}")
    for join in report["joins"]:
        apart = ", ".join(f"{count:,} {reason}" for reason, count in join["reasons"].items())
        remarks = ", ".join(f"{count:,} {reason}" for reason, count in join["remarks"].items())
        table.add_row(join["relation"].replace("__", " "), f"{join['joined']:,} of {join['nodes']:,}" + (
            f"; left apart: {apart}" if apart else "") + (f"; of those joined: {remarks}" if remarks else ""))
    if report["time"]:
        table.add_row("time", f"{report['time']['length']:,} steps of {report['time']['step']} s")
        for bundle, how in report["time"]["how"].items():
            table.add_row(f"time of {bundle}", how)
    Console(stderr=True, markup=False).print(table)
    for text in report["notes"]:
        note(f"Note: {text}", style="yellow")
    note(f"Next: stgraph info {report['out']} --picture map.png")
