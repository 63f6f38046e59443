"""The record as tables for people, on a terminal."""

from __future__ import annotations

from typing import Any

from stgraph.bench.ways import OWN


def sentences(record: dict[str, Any]) -> list[str]:
    """On what, how, and what the columns mean: a line each."""
    machine, malloc, before = record["machine"], record["malloc"], record["abilities"]["before"]
    caches = ", ".join(f"{name} {size / 2**20:g} MiB" for name, size in machine["caches"].items())
    gpu = machine["gpu"] if isinstance(machine["gpu"], str) else machine["gpu"]["name"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    found = machine["backend"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {caches}; load "
        f"{record['load_before']} before, {record['load_after']} after. GPU: {gpu}.",
        f"{versions}. Kernels: {found['name']} ({found['reason']}).",
        f"Copy {before['copy_gb_s']:.1f} GB/s, dense product {before['gemm_gflop_s']:.0f} GFLOP/s; both are measured "
        "again in the rounds of every case.",
        f"Allocator: {malloc['choice']} ({malloc['how']}); a fresh 64 MiB tensor costs "
        f"{malloc['faults_of_a_fresh_64_mib']:,} page faults. Seed {record['seed']}.",
        "Copy floor: minimal bytes at the speed of a copy or operations at that of a dense product, whichever takes "
        "longer. Every way was compared with float64 before it was timed.",
    ]
    if record["shrink"] > 1:
        lines.append(f"Sizes are divided by {record['shrink']}: these numbers only show that everything runs.")
    made = [name for name, graph in record["graphs"].items() if graph["origin"].startswith("made")]
    if record["data"] is None:
        lines.append("No data folder: all graphs are made, of the shapes of the real ones.")
    elif made:
        lines.append(f"Made graphs: {'; '.join(made)}.")
    return lines


def missing(record: dict[str, Any]) -> list[str]:
    """Rivals that were not there, were wrong, or refused: a line for each reason, with names and numbers of cases."""
    found: dict[str, dict[str, int]] = {}
    for entry in record["cases"]:
        named = [(one["name"], one["reason"]) for one in entry["absent"]]
        named += [(f"{one['name']} ({one['variant']})", _without_number(one["reason"])) for one in entry["refused"]]
        for name, reason in named:
            of = found.setdefault(reason, {})
            of[name] = of.get(name, 0) + 1
    return [f"{reason}: {', '.join(f'{name}, {count} case' + 's' * (count > 1) for name, count in of.items())}"
            for reason, of in found.items()]


def _without_number(reason: str) -> str:
    """A wrong result in words: how wrong is said with the case."""
    return "wrong result, not timed" if reason.startswith("wrong") else reason


def rivals_text(entry: dict[str, Any], most: int | None = None) -> str:
    """How many times as long each rival takes, the quickest first."""
    texts = [f"{way['name']} {way['times_ours']:.3g}x" for way in entry["ways"]
             if way["name"] != OWN and way["times_ours"] is not None]
    return ", ".join(texts[:most])


def floor_text(entry: dict[str, Any], way: dict[str, Any]) -> str:
    """How many times the floor a way takes; a call on a tiny input has none that means anything."""
    return "–" if entry["case"]["family"] == "overhead" else f"{way['times_floor']:.2f}"


def verdict_word(met: bool | None) -> str:
    """Of a promise."""
    return "not told" if met is None else "met" if met else "MISSED"


def show(record: dict[str, Any], console: Any) -> None:
    """Print the record.

    Args:
        record: Of :func:`stgraph.bench.runner.run`.
        console: A rich console.
    """
    from rich.table import Table

    table = Table(title="Cases", title_justify="left")
    table.add_column("case")
    for name in ("ms", "quartiles", "CPU ms", "GB/s", "of copy", "x floor"):
        table.add_column(name, justify="right")
    table.add_column("quickest rival")
    for entry in record["cases"]:
        own = next((way for way in entry["ways"] if way["name"] == OWN), None)
        if own is None:
            table.add_row(entry["title"], "WRONG", *[""] * 6, style="red")
            continue
        low, high = own["quartiles_ms"]
        table.add_row(entry["title"], f"{own['median_ms']:.4g}", f"{low:.4g}–{high:.4g}", f"{own['cpu_ms']:.4g}",
                      f"{own['gb_s']:.1f}", f"{100 * own['copy_share']:.0f} %", floor_text(entry, own),
                      rivals_text(entry, 1))
    console.print(table)
    for line in missing(record):
        console.print(f"Not timed: {line}")
    if record["bars"]:
        table = Table(title="Bars", title_justify="left")
        for name in ("case", "bar", "measured", ""):
            table.add_column(name)
        for bar in record["bars"]:
            table.add_row(bar["case"], bar["bar"], bar["measured"], verdict_word(bar["met"]),
                          style="red" if bar["met"] is False else None)
        console.print(table)
    for line in sentences(record):
        console.print(line)
