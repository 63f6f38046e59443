"""``stgraph edit``: close a road, open it again, add one, change a speed, at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stgraph.cli.shared import note, print_json
from stgraph.errors import InputError

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph


def edit(
    bundle: Annotated[Path, typer.Argument(help="A bundle (.stg) that holds roads.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    start: Annotated[str, typer.Option("--from", help="First instant: 2024-05-01T06:00, on the clock of the bundle.")],
    end: Annotated[str | None, typer.Option("--to", help="First instant after. Default: for good.")] = None,
    close: Annotated[list[str] | None, typer.Option(help="Id of a segment to close; may be repeated.")] = None,
    reopen: Annotated[list[str] | None, typer.Option(
        "--open", help="Id of a segment to open again; may be repeated.")] = None,
    change_speed: Annotated[list[str] | None, typer.Option(
        help="Id of a segment that gets another speed; may be repeated.")] = None,
    add: Annotated[tuple[str, str] | None, typer.Option(
        help="Junctions that a new segment leads from and to.")] = None,
    speed: Annotated[float | None, typer.Option(help="For --change-speed and --add, in --unit.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of --speed: km/h, mph, m/s.")] = "km/h",
    both_ways: Annotated[bool, typer.Option("--both-ways", help="For --add: a segment in each direction.")] = False,
    segment_id: Annotated[str | None, typer.Option("--id", help="For --add: its id. Default: from-to-key.")] = None,
    line: Annotated[str | None, typer.Option(help="For --add: its line as WKT, junction to junction. "
                                                  "Default: straight.")] = None,
    road_class: Annotated[str | None, typer.Option(help="For --add: its class, such as residential.")] = None,
    lanes: Annotated[int | None, typer.Option(help="For --add: its lanes.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Edit the roads of a bundle at a time; the past stays, and snapshots and ways follow.

    Example: stgraph edit porto.stg --close 112664292-112664296-0 --from 2024-05-01T06:00 --to 2024-05-03 -o works.stg
    """
    chosen = {"close": close, "open": reopen, "change-speed": change_speed, "add": add}
    given = [name for name, value in chosen.items() if value]
    if len(given) != 1:
        raise InputError("one kind of edit at a time", field="edit", value=", ".join(given) or None,
                         remedy="give one of --close, --open, --change-speed, --add")
    if out.suffix != ".stg":
        raise InputError("a graph is saved as a .stg bundle", field="out", value=out, remedy="end the name in .stg")
    if given != ["add"] and (both_ways or segment_id or line or road_class or lanes):
        raise InputError("the option is one of --add", field=given[0],
                         remedy="leave out --both-ways, --id, --line, --road-class and --lanes")
    if (speed is None) == (given == ["change-speed"]) and given != ["add"]:
        raise InputError("a speed goes with --change-speed", field="speed", value=speed,
                         remedy="give --change-speed ID --speed 30")
    from stgraph.graph import data_sha256, load, save
    from stgraph.units import unit_for

    graph = load(bundle)
    factor = unit_for("speed", unit).factor
    before = len(graph.metadata.get("edits", []))
    attributes = {name: value for name, value in (
        ("speed", None if speed is None else speed * factor), ("road_class", road_class), ("lanes", lanes))
        if value is not None}
    edited = _apply(graph, chosen, start, end, {"both_ways": both_ways, "id": segment_id, "line": line, **attributes})
    save(edited, out)
    made = edited.metadata["edits"][before:]
    report = {"edits": made, "segments": sum(entry["count"] for entry in made),
              "rows": edited.size_of("segment"), "rows_before": graph.size_of("segment"), "out": str(out),
              "data_sha256": data_sha256(out)}
    if json:
        print_json(report)
    words = {"close": "closed", "open": "opened", "speed": "given another speed", "add": "added"}
    count = report["segments"]
    note(f"{count} segment{'s' if count != 1 else ''} {words[made[0]['edit']]} from {start}"
         f"{f' to {end}' if end else ' on'}: {out}")


def _apply(graph: DynamicHeteroGraph, chosen: dict[str, Any], start: str, end: str | None,
           options: dict[str, Any]) -> DynamicHeteroGraph:
    from stgraph.roads import edit as edits

    if chosen["close"]:
        return edits.close_segment(graph, chosen["close"], start, end)
    if chosen["open"]:
        return edits.open_segment(graph, chosen["open"], start, end)
    if chosen["change-speed"]:
        return edits.change_speed(graph, chosen["change-speed"], options["speed"], start, end)
    one, other = chosen["add"]
    attributes: dict[str, Any] = {name: options[name] for name in ("speed", "road_class", "lanes") if name in options}
    if options["both_ways"] and "oneway" in graph["segment"]:
        attributes["oneway"] = False
    shape = None if options["line"] is None else _line(options["line"])
    graph = edits.add_segment(graph, one, other, start, end, segment_id=options["id"], geometry=shape, **attributes)
    if options["both_ways"]:
        back = None if options["id"] is None else f"{options['id']}-back"
        graph = edits.add_segment(graph, other, one, start, end, segment_id=back,
                                  geometry=None if shape is None else shape.reverse(), **attributes)
    return graph


def _line(text: str) -> Any:
    import shapely

    try:
        found = shapely.from_wkt(text)
    except shapely.errors.GEOSException as error:
        raise InputError(f"not well-known text: {error}", field="line", value=text,
                         remedy="write LINESTRING (lon lat, lon lat)") from error
    if found is None or found.geom_type != "LineString":
        raise InputError("not a line", field="line", value=text, remedy="write LINESTRING (lon lat, lon lat)")
    return found
