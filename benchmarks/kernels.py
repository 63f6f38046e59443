"""How quick are the sparse operators? All sizes beside all rivals that are installed, each checked against float64.

    python benchmarks/kernels.py --data ../shared/data           # about 25 minutes on two cores
    python benchmarks/kernels.py --data ../shared/data --bars    # only what promises were made about: three minutes

It is what ``stgraph bench kernels`` does; sizes stand at the top of ``stgraph/bench/case.py``, what the columns mean in
``docs/kernels.md``. Results go to ``kernels.md``, ``kernels.json`` and, as drawings, ``kernels/`` in
``benchmarks/results/``; with ``--device cuda`` to ``kernels-cuda.*``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from stgraph.bench.case import FAMILIES
from stgraph.bench.plots import check_drawing, draw
from stgraph.bench.runner import Settings, run
from stgraph.bench.show import floor_text, missing, rivals_text, sentences, verdict_word
from stgraph.bench.ways import OWN
from stgraph.io import write_json, write_text

HERE = Path(__file__).parent
TITLES = {
    "spmm": "Products", "narrow": "Few channels", "backward": "Gradients of products", "attention": "Attention",
    "overhead": "A call on a tiny input", "order": "Order of the nodes", "density": "Sparse or dense",
    "reductions": "Other operators", "sizes": "All sizes", "bfloat16": "bfloat16"}
PICTURES = {"rivals": "Rivals, times as long as ours", "roofline": "Roofline", "density": "Sparse and dense by density",
            "order": "Order of the nodes"}


def page(record: dict[str, Any], command: str, drawings: list[str], folder: str) -> str:
    """The results as a page: promises first."""
    bars = record["bars"]
    kept = sum(bar["met"] is True for bar in bars)
    lines = ["# Kernels", "", f"Written by `{command}` on {record['date']}.", "",
             f"## Bars: {kept} of {len(bars)} met", "", "| case | bar | measured | |", "|---|---|---|---|"]
    lines += [f"| {bar['case']} | {bar['bar']} | {bar['measured']} | "
              f"{'**missed**' if bar['met'] is False else verdict_word(bar['met'])} |" for bar in bars]
    lines += ["", "## On what, and how", "", *(f"* {line}" for line in sentences(record)), ""]
    lines += [f"![{PICTURES[name]}]({folder}/{name}.svg)" for name in drawings]
    for family in FAMILIES:
        entries = [entry for entry in record["cases"] if entry["case"]["family"] == family]
        if entries:
            lines += ["", f"## {TITLES[family]}", "", *table(entries, family in ("spmm", "backward", "attention"))]
    lines += ["", "## Not timed", "", *(f"* {line}" for line in missing(record)), "", "## Graphs", "",
              "| graph | nodes | edges | from |", "|---|---|---|---|"]
    lines += [f"| {name} | {graph['nodes']:,} | {graph['edges']:,} | {graph['origin']}"
              f"{''.join(f' (`{file}`, SHA-256 `{digest[:16]}`)' for file, digest in graph['files'].items())} |"
              for name, graph in record["graphs"].items()]
    return "\n".join(lines) + "\n"


def table(entries: list[dict[str, Any]], peaks: bool) -> list[str]:
    """Rows of a group of cases: all ways where memory was measured, else ours with the rivals in one column."""
    if not peaks:
        head = "| case | ms | quartiles | CPU ms | GB/s | of copy | x floor | gather GB/s | inputs | times as long |"
        return [head, "|---|" + "---:|" * 7 + "---|---|", *(_short_row(entry) for entry in entries)]
    head = "| case | way | ms | quartiles | CPU ms | GB/s | of copy | x floor | x ours | beside results MB | error |"
    return [head, "|---|---|" + "---:|" * 9, *(row for entry in entries for row in _long_rows(entry))]


def _short_row(entry: dict[str, Any]) -> str:
    own = next((way for way in entry["ways"] if way["name"] == OWN), None)
    if own is None:
        return f"| {entry['title']} | **ours is wrong** | | | | | | | | |"
    return (f"| {entry['title']} | {_numbers(entry, own)} | {own['gather_gb_s']:.1f} | "
            f"{'rotated' if entry['rotated'] else 'in the cache'} | {rivals_text(entry)} |")


def _numbers(entry: dict[str, Any], way: dict[str, Any]) -> str:
    low, high = way["quartiles_ms"]
    return (f"{way['median_ms']:.4g} | {low:.4g}–{high:.4g} | {way['cpu_ms']:.4g} | {way['gb_s']:.2f} | "
            f"{100 * way['copy_share']:.0f} % | {floor_text(entry, way)}")


def _long_rows(entry: dict[str, Any]) -> list[str]:
    rows: list[str] = []
    for way in entry["ways"]:
        peak = way.get("peak", {})
        beside = f"{max(peak['workspace_bytes'], 0) / 1e6:,.1f}" if "workspace_bytes" in peak else "–"
        ratio = "–" if way["times_ours"] is None else f"{way['times_ours']:.2f}"
        rows.append(f"| {'' if rows else entry['title']} | {way['name']} ({way['variant']}) | {_numbers(entry, way)} | "
                    f"{ratio} | {beside} | {way['error']:.0e} |")
    return rows or [f"| {entry['title']} | **ours is wrong** | | | | | | | | | |"]


def main() -> None:
    """Run, write, print the promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--bars", action="store_true", help="only what promises were made about")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--malloc", default="keep")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    check_drawing()
    data = chosen.data if chosen.data.is_dir() else None
    record = run(Settings("bars" if chosen.bars else "full", chosen.device, threads=chosen.threads, data=data,
                          malloc=chosen.malloc), lambda line: print(line, file=sys.stderr, flush=True))
    name = "kernels" if chosen.device == "cpu" else "kernels-cuda"
    options = "".join(f" --{word} {value}" for word, value in (("device", chosen.device), ("threads", chosen.threads),
                                                              ("malloc", chosen.malloc))
                      if value not in (None, "cpu", "keep"))
    drawings = draw(record, chosen.out / name)
    write_json(chosen.out / f"{name}.json", record)
    text = page(record, f"python benchmarks/kernels.py{' --bars' if chosen.bars else ''}{options}", drawings, name)
    write_text(chosen.out / f"{name}.md", text)
    print(text.partition("## On what")[0])


if __name__ == "__main__":
    main()
