"""``stgraph info``: what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stgraph.cli.shared import note, number, print_json

if TYPE_CHECKING:
    from rich.table import Table


def info(
    bundle: Annotated[Path, typer.Argument(help="The bundle (.stg).")],
    distribution: Annotated[bool, typer.Option(
        "--distribution", help="Compare values: weekdays and weekends, early and late, from place to place.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw a map (PNG) too.")] = None,
    color: Annotated[str | None, typer.Option(
        help="What the colours of the map show: an attribute such as speed, or a signal.")] = None,
    layers: Annotated[str | None, typer.Option(
        help="What is on the map: segments,sensors,events. Default: all that has a place.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Say what a bundle holds: counts, spans, gaps, units, likeness in space and time, provenance, licence.

    Example: stgraph info los.stg --picture map.png --color speed
    """
    from stgraph.errors import InputError
    from stgraph.graph import data_sha256, load, load_tables
    from stgraph.graph.info import describe

    if picture is None and (color or layers):
        raise InputError("there is no map to draw this on", field="color" if color else "layers",
                         value=color or layers, remedy="give --picture map.png")
    tables = load_tables(bundle)
    # a node type without a column has a number of nodes all the same; only the graph knows it
    known = all(table.num_columns for table in tables.nodes.values())
    result = {"bundle": str(bundle), "data_sha256": data_sha256(bundle),
              **describe(tables if known else load(bundle), distribution)}
    if picture is not None:
        from stgraph.report.map import draw_map

        result["map"] = draw_map(tables, picture, color, layers)
    if json:
        print_json(result)
    _show(bundle, result)


def _show(bundle: Path, result: dict[str, Any]) -> None:
    """The summary for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(bundle), title_justify="left", show_header=False)
    for part in ("nodes", "edges"):
        for kind, count in result[part].items():
            table.add_row(f"{part}: {kind}", f"{count:,}")
            _attribute_rows(table, kind, result["attributes"].get(kind, {}))
            if kind in result["lives"]:
                lives = result["lives"][kind]
                table.add_row("  lives", f"{lives['bounded']:,} do not live always; {lives['changes']:,} changes")
    if result["time"]:
        span = result["time"]
        table.add_row("time", f"{span['from']} to {span['to']}, every {span['step_s']} s, {span['steps']:,} steps")
    for name, signal in result["signals"].items():
        _signal_rows(table, name, signal)
    for name in result["tables"]:
        table.add_row("table", name)
    for source in result["sources"]:
        table.add_row("source", ", ".join(f"{key}: {value}" for key, value in source.items() if value))
    table.add_row("data sha256", result["data_sha256"])
    Console(stderr=True, markup=False).print(table)
    if result["simulated"]:
        note("This data is simulated.")
    if "map" in result:
        note(f"Map: {result['map']['picture']} ({result['map']['attribution']})")


def _attribute_rows(table: Table, kind: str, attributes: dict[str, dict[str, Any]]) -> None:
    for name, found in attributes.items():
        unit = f" {found['unit']}" if found["unit"] not in (None, "1") else ""
        if "words" in found:
            words = ", ".join(f"{word or '(none)'} {count:,}" for word, count in found["words"].items())
            more = found["distinct"] - len(found["words"])
            text = words + (f", {more:,} others" if more > 0 else "")
        elif "share" in found:
            text = f"{100 * (found['share'] or 0):.1f} % yes"
        elif found.get("mean") is not None and (found["unit"] or found["dtype"].startswith("float")) and \
                name not in ("valid_from", "valid_to"):
            text = f"{_instant(found['min'])} to {_instant(found['max'])} UTC" if _is_instant(found) else \
                f"{found['min']:,.6g} to {found['max']:,.6g}{unit}, mean {found['mean']:,.4g}{unit}"
            text += "" if found["known_share"] == 1 else f", {100 * found['known_share']:.1f} % known"
        elif "distinct" in found:
            text = f"{found['distinct']:,} distinct"
        else:
            continue
        table.add_row(f"  {name}", text)


def _is_instant(found: dict[str, Any]) -> bool:
    """Whether seconds are counted from 1970 rather than from a start: none of them is before 1975."""
    return found["unit"] == "s" and found["min"] > 5 * 365 * 86_400


def _instant(utc: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int(utc), UTC).strftime("%Y-%m-%d %H:%M")


def _signal_rows(table: Table, name: str, signal: dict[str, Any]) -> None:
    for channel in signal["channels"]:
        level = "no reading" if channel["mean"] is None else \
            f"{channel['min']:.4g} to {channel['max']:.4g}, mean {channel['mean']:.4g}"
        table.add_row(f"signal: {name}", f"{channel['name']} in {channel['source_unit']}, "
                      f"{100 * channel['observed_share']:.1f} % observed, {level}")
        gaps = channel["gaps"]
        table.add_row("  gaps", "none" if not gaps["number"] else (
            f"{gaps['number']:,} in single series, the longest {gaps['longest_steps']:,} steps, "
            f"{100 * gaps['share']:.2f} % of the readings; {signal['rows_without_reading']:,} steps without any, "
            f"{signal['longest_gap_steps']:,} in a row"))
        past = [f"{lag} {value:.3f}" for lag, value in channel["autocorrelation"].items() if value is not None]
        if past:
            table.add_row("  autocorrelation", ", ".join(past))
        for relation, found in channel["moran"].items():
            table.add_row(f"  Moran's I, {relation}", _moran(found))
        if "distribution" in channel:
            table.add_row("  unlike (0 to 1)", _distribution(channel["distribution"]))
    if signal["sample"]:
        sample = signal["sample"]
        table.add_row("  sampled", f"{sample['rows']:,} of {sample['of_rows']:,} steps, gaps and past of "
                                   f"{sample['series']:,} of {sample['of_series']:,} series")


def _moran(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return f"not defined on {found['nodes']:,} nodes"
    rest = found["residual"]
    after = "" if rest is None else f"; {rest['value']:.3f} after the daily profile (z {number(rest['z'], 1)})"
    return f"{found['value']:.3f} (z {number(found['z'], 1)}, {found['expected']:.3f} by chance){after}"


def _distribution(found: dict[str, Any]) -> str:
    parts = [f"{name.replace('_', ' and ')} {found[name]:.2f}" for name in ("weekday_weekend", "halves")
             if found[name] is not None]
    if found["places"]:
        places = found["places"]
        parts.append(f"places {places['median']:.2f} in the middle, {places['largest']:.2f} at {places['most_unlike']}")
    return ", ".join(parts)
