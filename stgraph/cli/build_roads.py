"""``stgraph build roads``: a street network given as tables, arrays or lines becomes a ``.stg`` bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output

_FILES, _WHERE, _WHAT, _GRAPH = "Files", "Where things are in the files", "What they mean", "The graph"


class Lengths(StrEnum):
    """Where lengths come from."""

    GIVEN, MENDED, MEASURED = "given", "mended", "measured"


def _option(flag: str, panel: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False)


_Text = str | None
Nodes = Annotated[Path | None, _option("--nodes", _FILES,
    "Junctions: CSV, Parquet, NPZ, or points in GeoParquet, GeoJSON, GeoPackage, Shapefile.")]
Edges = Annotated[Path | None, _option("--edges", _FILES,
    "Segments: the same forms; a row is one direction of a street. May be the same NPZ file.")]
Lines = Annotated[Path | None, _option("--lines", _FILES,
    "Lines alone, instead of --nodes and --edges: ends that coincide become junctions.")]
NodesKey = Annotated[_Text, _option("--nodes-key", _WHERE, "Array [junctions, 2] of places in an NPZ file.")]
EdgesKey = Annotated[_Text, _option("--edges-key", _WHERE, "Array [segments, 2] of both ends in an NPZ file.")]
NodeIdKey = Annotated[_Text, _option("--node-id-key", _WHERE,
    "Column of ids of junctions. Default: node_id, junction_id, osmid, id, ...; else their positions from 0.")]
EdgeIdKey = Annotated[_Text, _option("--edge-id-key", _WHERE,
    "Column of ids of segments. Default: segment_id, edge_id, id, ...; else made of those of the junctions.")]
XKey = Annotated[_Text, _option("--x-key", _WHERE, "Column of longitude or x. Default: longitude, lon, x, ...")]
YKey = Annotated[_Text, _option("--y-key", _WHERE, "Column of latitude or y.")]
FromKey = Annotated[_Text, _option("--from-key", _WHERE,
    "Column of first ends. Default: from, from_id, u, source, edge_from, ...")]
ToKey = Annotated[_Text, _option("--to-key", _WHERE, "Column of last ends. Default: to, to_id, v, target, ...")]
GeometryKey = Annotated[_Text, _option("--geometry-key", _WHERE,
    "Column of lines (WKT or WKB), or array [points, 2] of an NPZ file. Default: geometry, wkt, xy, ...")]
StartsKey = Annotated[_Text, _option("--starts-key", _WHERE,
    "Array [lines + 1] of where each line starts among the points of an NPZ file. Default: ptr, offsets, ...")]
LengthKey = Annotated[_Text, _option("--length-key", _WHERE,
    "Column of lengths. Default: length, length_m, length_km, distance, edge_length.")]
ClassKey = Annotated[_Text, _option("--class-key", _WHERE, "Column of road classes. Default: road_class, highway, ...")]
LanesKey = Annotated[_Text, _option("--lanes-key", _WHERE, "Column of lanes. Default: lanes, lane_count, ...")]
SpeedKey = Annotated[_Text, _option("--speed-key", _WHERE,
    "Column of speeds. Default: speed_kmh, speed_mph, free_speed, speed, maxspeed, ...")]
NameKey = Annotated[_Text, _option("--name-key", _WHERE, "Column of street names. Default: name, street, ...")]
OnewayKey = Annotated[_Text, _option("--oneway-key", _WHERE,
    "Column that says yes, 1, F or FT where a street is one-way, -1, T or TF where against its row, no, 0 or B where "
    "both ways. Default: oneway.")]
Crs = Annotated[_Text, _option("--crs", _WHAT,
    "Reference system of the coordinates, such as EPSG:25831. Default: the file's own; else longitude and latitude "
    "where all are in range, plain metres where they are not.")]
CoordinateUnit = Annotated[_Text, _option("--coordinate-unit", _WHAT,
    "The coordinates are those of a plane, in m, km, ft or mile, without a reference system.")]
LengthUnit = Annotated[_Text, _option("--length-unit", _WHAT,
    "Unit of the lengths: m, km, mile, ft. Default: as the column's name says; that of --coordinate-unit; m.")]
SpeedUnit = Annotated[_Text, _option("--speed-unit", _WHAT,
    "Unit of the speeds: km/h, mph, m/s. Default: as the column's name or its texts say; m/s.")]
TwoWay = Annotated[bool, _option("--two-way", _WHAT,
    "Rows stand for both directions, except where the column of one-way streets says otherwise.")]
LengthsFrom = Annotated[Lengths, _option("--lengths", _WHAT,
    "given: as the table has them, measured along the line where it has none. mended: also where they are negative "
    "or missing. measured: always along the line. Default: given.")]
Snap = Annotated[float, _option("--snap", _WHAT,
    "Ends of lines no farther apart than this, in metres, become one junction. Default: 0.")]
Name = Annotated[_Text, _option("--name", _GRAPH, "Name of the city. Default: that of the bundle.")]
Simulated = Annotated[bool, _option("--simulated", _GRAPH, "Mark the data as simulated.")]
Licence = Annotated[_Text, _option("--licence", _GRAPH, "Licence of the data; travels with the graph.")]
Attribution = Annotated[_Text, _option("--attribution", _GRAPH, "Whom to name; travels with the graph.")]


def roads(
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    nodes: Nodes = None,
    edges: Edges = None,
    lines: Lines = None,
    nodes_key: NodesKey = None,
    edges_key: EdgesKey = None,
    node_id_key: NodeIdKey = None,
    edge_id_key: EdgeIdKey = None,
    x_key: XKey = None,
    y_key: YKey = None,
    from_key: FromKey = None,
    to_key: ToKey = None,
    geometry_key: GeometryKey = None,
    starts_key: StartsKey = None,
    length_key: LengthKey = None,
    class_key: ClassKey = None,
    lanes_key: LanesKey = None,
    speed_key: SpeedKey = None,
    name_key: NameKey = None,
    oneway_key: OnewayKey = None,
    crs: Crs = None,
    coordinate_unit: CoordinateUnit = None,
    length_unit: LengthUnit = None,
    speed_unit: SpeedUnit = None,
    two_way: TwoWay = False,
    lengths: LengthsFrom = Lengths.GIVEN,
    snap: Snap = 0.0,
    name: Name = None,
    simulated: Simulated = False,
    licence: Licence = None,
    attribution: Attribution = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """A street network given as tables of junctions and segments, as arrays or as lines becomes a graph of roads.

    Example: stgraph build roads --nodes junctions.csv --edges segments.csv --crs EPSG:25831 -o city.stg
    """
    given = locals()
    refuse_input_as_output(out, [nodes, edges, lines])
    options = {word: value for word, value in given.items() if word != "json" and value is not None}
    from stgraph.sources.roads import build_roads

    _, report = build_roads(**options)
    if json:
        print_json(report)
    _show(report)


def _show(report: dict[str, Any]) -> None:
    """The report for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(report["out"]), title_justify="left", show_header=False)
    table.add_row("junctions", f"{report['junctions']:,} ({report['coordinates']}), "
                               f"{report['largest_component']:,} in the largest connected part of "
                               f"{report['components']:,}")
    table.add_row("segments", f"{report['segments']:,}, {report['length_km']:,.1f} km, "
                              f"{report['one_way_segments']:,} one-way")
    table.add_row("lengths", f"{report['lengths']}" + (f", {report['lengths_mended']:,} mended"
                                                       if report.get("lengths_mended") else ""))
    table.add_row("turns", f"{report['turns']:,}")
    table.add_row("attributes", ", ".join(report["attributes"]))
    for what in ("self_loops", "parallel_segments", "duplicate_segments", "zero_length_segments", "isolated_junctions",
                 "lines_straight", "lines_turned_round", "lines_off_junctions", "lines_split", "rows_without_a_line"):
        if report.get(what):
            table.add_row(what.replace("_", " "), f"{report[what]:,}")
    if report["columns_left_out"]:
        table.add_row("columns left out", ", ".join(report["columns_left_out"]))
    Console(stderr=True, markup=False).print(table)
    for warning in report["warnings"]:
        note(f"Note: {warning}", style="yellow")
