"""``stgraph impute``: the gaps of a bundle's signal, filled by a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stgraph.cli.shared import note, print_json, refuse_input_as_output
from stgraph.errors import InputError


def impute(
    model: Annotated[str, typer.Option("--model", help="Folder of a run or of weights of a model that reconstructs.")],
    data: Annotated[Path, typer.Option("--data", help="The bundle (.stg) whose gaps are filled.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write (.stg).")],
    channels: Annotated[str | None, typer.Option("--channels", help="Channels, comma-separated; the run's own if not "
                                                 "given.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Fill the gaps of a signal, and note which entries were filled.

    Example: stgraph impute --model runs/air --data air.stg --out air-filled.stg
    """
    refuse_input_as_output(out, [data, model if Path(model).exists() else None])
    if out.suffix != ".stg":
        raise InputError("a graph is saved as a .stg bundle", field="out", value=out, remedy="end the name in .stg")
    from stgraph.evaluate.imputation import filled_graph
    from stgraph.facade import WHOLE, open_model
    from stgraph.graph import data_sha256, save
    from stgraph.io import sha256

    options = WHOLE | ({"channels": channels.split(",")} if channels else {})
    run, city = open_model(model, options, data)
    weights = None if run.folder is None else sha256(run.folder / "weights.safetensors")
    graph = filled_graph(run.model, city, {"model": run.model.name, "weights_sha256": weights,
                                           "data_sha256": city.sha256}, device=device)
    save(graph, out)
    told, silent = graph.metadata["filled"][-1], int((city.context.count == 0).any(1).sum())
    result = {"data": str(data), "out": str(out), "out_sha256": data_sha256(out), "silent_sensors": silent, **told}
    note(f"Filled {told['entries']:,} entries ({100 * told['share']:.1f} %) in {told['runs']:,} runs, the longest "
         f"{told['longest_run_s'] / 3600:g} h; the bundle is in {out}, the runs are in its table 'filled'.")
    if silent:
        note(f"{silent} sensor(s) show nothing at all: what stands there now is what the others tell.")
    if json:
        print_json(result)
