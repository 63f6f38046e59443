"""``stgraph info``: what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stgraph.cli.shared import note, print_json


def info(
    bundle: Annotated[Path, typer.Argument(help="The bundle (.stg).")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Say what a bundle holds: counts, span, gaps, units, provenance, licence.

    Example: stgraph info los.stg
    """
    from stgraph.graph import data_sha256, load
    from stgraph.graph.info import describe

    result = {"bundle": str(bundle), "data_sha256": data_sha256(bundle), **describe(load(bundle))}
    if json:
        print_json(result)
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(bundle), title_justify="left", show_header=False)
    for kind, count in result["nodes"].items():
        table.add_row(f"nodes: {kind}", f"{count:,}")
    for kind, count in result["edges"].items():
        table.add_row(f"edges: {kind}", f"{count:,}")
    if result["time"]:
        span = result["time"]
        table.add_row("time", f"{span['from']} to {span['to']}, every {span['step_s']} s, {span['steps']:,} steps")
    for name, signal in result["signals"].items():
        for channel in signal["channels"]:
            table.add_row(f"signal: {name}", f"{channel['name']} in {channel['source_unit']}, "
                          f"{100 * channel['observed_share']:.1f} % observed, {channel['min']:.4g} to "
                          f"{channel['max']:.4g}, mean {channel['mean']:.4g}")
    for source in result["sources"]:
        table.add_row("source", ", ".join(f"{key}: {value}" for key, value in source.items() if value))
    table.add_row("data sha256", result["data_sha256"])
    Console(stderr=True, markup=False).print(table)
    if result["simulated"]:
        note("This data is simulated.")
