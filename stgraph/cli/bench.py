"""``stgraph bench``: how quick it is on this machine, beside others."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stgraph.cli.shared import note, print_json

app = typer.Typer(no_args_is_help=True, help="Measure how quick it is on this machine.")


class Malloc(StrEnum):
    """Settings of the allocator."""

    KEEP, DEFAULT = "keep", "default"


class Device(StrEnum):
    """Where to run."""

    CPU, CUDA = "cpu", "cuda"


@app.callback()
def bench() -> None:
    """Measure how quick it is on this machine."""


@app.command()
def kernels(
    quick: Annotated[bool, typer.Option("--quick", help="Only what promises were made about, few rounds: within a "
                                                        "minute.")] = False,
    bars: Annotated[bool, typer.Option("--bars", help="Only what promises were made about: about three "
                                                      "minutes.")] = False,
    only: Annotated[str | None, typer.Option("--only", help="Groups of cases, with commas: spmm, narrow, backward, "
                                             "attention, overhead, order, density, reductions, sizes, "
                                             "bfloat16.")] = None,
    device: Annotated[Device, typer.Option("--device", help="Where to run.")] = Device.CPU,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of torch. Default: as it chooses.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, float64, bfloat16 or float16.")] = "float32",
    malloc: Annotated[Malloc, typer.Option("--malloc", help="keep: freed memory stays with the process, for all ways "
                                           "alike; default: as the system does.")] = Malloc.KEEP,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of real data sets. Default: $STGRAPH_DATA, else "
                                              "../shared/data; without it all graphs are made.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the record (JSON) and the "
                                             "drawings.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of features and made graphs.")] = 4,
    shrink: Annotated[int, typer.Option("--shrink", help="Divide the sizes of all graphs, to see that everything "
                                        "runs.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Time the sparse operators beside their rivals; each result is checked against float64 first.

    Example: stgraph bench kernels --quick
    """
    from rich.console import Console

    from stgraph.errors import InputError
    from stgraph.io import write_json

    if quick and bars:
        raise InputError("one of both", field="--quick", value="--quick --bars", remedy="leave one out")
    if out is not None:
        from stgraph.bench.plots import check_drawing

        check_drawing()
    from stgraph.bench.runner import Settings, data_folder, run
    from stgraph.bench.show import show
    from stgraph.bench.ways import OWN

    suite = "quick" if quick else "bars" if bars else "full"
    families = None if only is None else tuple(word.strip() for word in only.split(",") if word.strip())
    record = run(Settings(suite, device.value, dtype, threads, families, data_folder(data), malloc.value, seed, shrink),
                 note)
    width = None if sys.stderr.isatty() else 160
    show(record, Console(stderr=True, markup=False, highlight=False, width=width))
    if out is not None:
        from stgraph.bench.plots import draw

        write_json(out / "kernels.json", record)
        record["drawings"] = draw(record, out)
        note(f"Written: {out}")
    if json:
        print_json(record)
    if any(case["ways"] == [] or case["ways"][0]["name"] != OWN for case in record["cases"]):
        note("Our own result is wrong in some case: see above.", style="red")
        raise typer.Exit(1)
