"""``stgraph build raster``: arrays, NetCDF and Zarr become a grid of cells."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output

_READ, _WHAT, _TIME, _GRID, _GRAPH = ("Where things are in the file", "What the readings are", "Time", "The grid",
                                      "The graph")


class Neighbours(StrEnum):
    """Stencils."""

    FOUR, EIGHT = "4", "8"


def _option(flag: str, panel: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False)


Key = Annotated[list[str] | None, _option("--key", _READ,
    "Array of an NPZ file, or variable of NetCDF and Zarr; repeat it to put several side by side as channels. "
    "Default: the only array that fits, or all variables.")]
Axes = Annotated[str | None, _option("--axes", _READ,
    "Axes of an array in their order: time,row,column,channel (the default). Dimensions of NetCDF and Zarr by name: "
    "time=t,row=y,column=x.")]
MaskKey = Annotated[str | None, _option("--mask-key", _READ,
    "Cells to leave out: a grid that is not 0 there, or a list [M, 2] of rows and columns.")]
TimeKey = Annotated[str | None, _option("--time-key", _READ,
    "Array of times in an NPZ file. NetCDF and Zarr: default the coordinate of the time dimension.")]
LatitudeKey = Annotated[str | None, _option("--latitude-key", _READ,
    "Latitudes in degrees, one for each row or cell.")]
LongitudeKey = Annotated[str | None, _option("--longitude-key", _READ,
    "Longitudes in degrees, one for each column or cell.")]
LocalClock = Annotated[bool, _option("--local-clock", _READ,
    "Times without an offset count on the local wall clock of --tz, not in UTC.")]
MaxBytes = Annotated[int | None, _option("--max-bytes", _READ,
    "Bytes that the file may unfold to. Default: 200 times its size, and at least 256 MiB.")]
Quantity = Annotated[str, _option("--quantity", _WHAT,
    "What is measured: speed, flow, count, temperature, ...; one for all channels, or one each.")]
Unit = Annotated[str | None, _option("--unit", _WHAT,
    "Unit of the file, one for all channels, or one each. Default: what the file says, else SI.")]
Channels = Annotated[str | None, _option("--channels", _WHAT, "Names of the channels: inflow,outflow.")]
MissingValue = Annotated[list[float] | None, _option("--missing-value", _WHAT,
    "A number that stands for a missing reading; may be repeated. NaN and _FillValue always do.")]
Tz = Annotated[str | None, _option("--tz", _TIME, "Time zone of the place. Default: UTC.")]
Start = Annotated[str | None, _option("--start", _TIME,
    "Time of the first step, where the file has no usable times: 2015-10-24T00:00.")]
Interval = Annotated[str | None, _option("--interval", _TIME,
    "From one step to the next: 30min, 1h. Default: the most common difference of the times.")]
CellSize = Annotated[str | None, _option("--cell-size", _GRID,
    "Side of a cell in metres, or height,width, where the file has no coordinates. Row 0 is the northern edge.")]
Stencil = Annotated[Neighbours, _option("--neighbours", _GRID, "4: sides; 8: corners too. Default: 4.")]
WrapLongitude = Annotated[bool, _option("--wrap-longitude", _GRID,
    "A global grid: the last column is next to the first.")]
Interpolate = Annotated[bool, _option("--interpolate", _GRID,
    "Add the signal 'filled': holes take the mean of what is around them, and a channel NAME_interpolated flags each.")]
Coarsen = Annotated[int | None, _option("--coarsen", _GRID,
    "Add a second resolution: blocks of so many cells on a side.")]
Name = Annotated[str | None, _option("--name", _GRAPH, "Name of the grid. Default: that of the bundle.")]
Simulated = Annotated[bool, _option("--simulated", _GRAPH, "Mark the data as simulated.")]
Licence = Annotated[str | None, _option("--licence", _GRAPH, "Licence of the data; travels with the graph.")]
Attribution = Annotated[str | None, _option("--attribution", _GRAPH, "Whom to name; travels with the graph.")]


def raster(
    array: Annotated[Path, typer.Argument(help="NPZ or NPY [T, H, W(, C)], NetCDF, or a Zarr folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    key: Key = None,
    axes: Axes = None,
    mask_key: MaskKey = None,
    time_key: TimeKey = None,
    latitude_key: LatitudeKey = None,
    longitude_key: LongitudeKey = None,
    local_clock: LocalClock = False,
    max_bytes: MaxBytes = None,
    quantity: Quantity = "value",
    unit: Unit = None,
    channels: Channels = None,
    missing_value: MissingValue = None,
    tz: Tz = None,
    start: Start = None,
    interval: Interval = None,
    cell_size: CellSize = None,
    neighbours: Stencil = Neighbours.FOUR,
    wrap_longitude: WrapLongitude = False,
    interpolate: Interpolate = False,
    coarsen: Coarsen = None,
    name: Name = None,
    simulated: Simulated = False,
    licence: Licence = None,
    attribution: Attribution = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Rasters [T, H, W, C] become a grid of cells with stencil edges; they come back exactly with to_raster.

    Example: stgraph build raster jonas_nyc.npz --key taxi --key bike --mask-key mask --cell-size 1000
    --start 2015-10-24T00:00 --interval 30min --tz Etc/GMT+5 --quantity count -o nyc.stg
    """
    given = locals()
    refuse_input_as_output(out, [array])
    options = {word: value for word, value in given.items() if word not in ("array", "json") and value is not None}
    options["neighbours"] = int(neighbours)
    from stgraph.sources.raster import build_raster

    _, report = build_raster(array, **options)
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
    left_out = f", {report['left_out']:,} left out" if report["left_out"] else ""
    table.add_row("cells", f"{report['cells']:,} of {report['rows']:,} x {report['columns']:,}{left_out}; {units}")
    table.add_row("time", f"{report['start']} to {report['end']}, every {report['interval_s']} s, "
                          f"{report['steps']:,} steps")
    table.add_row("observed", f"{100 * report['observed_share']:.4g} %; {report['gaps']} gaps in time, the longest "
                              f"{report['longest_gap_steps']} steps; {report['empty_cells']:,} cells without a reading")
    table.add_row("edges", f"{report['edges']:,} ({report['neighbours']} neighbours"
                           f"{', around the globe' if report['wrap_longitude'] else ''})")
    if "interpolated_share" in report:
        table.add_row("interpolated", f"{100 * report['interpolated_share']:.4g} % in the signal 'filled', flagged")
    if "coarse_cells" in report:
        table.add_row("coarse cells", f"{report['coarse_cells']:,}")
    Console(stderr=True, markup=False).print(table)
    for warning in report["warnings"]:
        note(f"Note: {warning}", style="yellow")
    note(f"Next: stgraph info {report['out']}")
