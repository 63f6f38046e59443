"""``stgraph evaluate``, ``stgraph forecast`` and ``stgraph report``: what a trained model is worth and says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, print_json, scores_table, significance, verdict

Model = Annotated[list[str], typer.Option("--model", help="Folder of a run or of weights, or the name of a control. "
                                          "Several runs that differ in the seed give mean and spread.")]
DataOption = Annotated[Path, typer.Option("--data", help="The bundle (.stg).")]
Channels = Annotated[str | None, typer.Option("--channels", help="Channels, comma-separated; the run's own if not "
                                              "given.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def evaluate(
    model: Model,
    data: DataOption,
    split: Annotated[str, typer.Option("--split", help="Part to score: train, validation or test.")] = "test",
    against: Annotated[str | None, typer.Option("--against", help="A second run or control: adds a paired "
                                                "significance test over days.")] = None,
    channels: Channels = None,
    json: Json = False,
) -> None:
    """Score a model and the four controls.

    Example: stgraph evaluate --model runs/los --data los.stg --split test
    """
    from stgraph.evaluate import block_bootstrap, summarise
    from stgraph.evaluate import evaluate as score
    from stgraph.facade import open_model

    options = _options(channels)
    records, last = [], None
    for name in model:
        run, city = open_model(name, options, data)
        last = score(run.model, city, split)
        records.append(last.record | {"seed": run.record.get("seed")})
    result = records[-1] | ({"seeds": summarise(records)} if len(records) > 1 else {})
    if against and last:
        rival_run, rival_city = open_model(against, run.window_options() | options, data)
        rival = score(rival_run.model, rival_city, split, controls=False)
        result["against"] = {"model": against, "horizons": rival.record["horizons"],
                             **block_bootstrap(last.daily, rival.daily)}
    from rich.console import Console

    Console(stderr=True, markup=False).print(scores_table(result))
    note(verdict(result), style="bold")
    if "seeds" in result:
        scores = result["seeds"]["horizons"]["all"]["mae"]
        note(f"Over {len(records)} runs: mean absolute error {scores['mean']:.3f} ± {scores['spread']:.3f} (the table "
             "is that of the last).")
    if "against" in result:
        note(significance(result["against"], result["unit"]))
    if json:
        print_json(result)


def forecast(
    model: Annotated[str, typer.Option("--model", help="Folder of a run or of weights, or the name of a control.")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")],
    at: Annotated[str | None, typer.Option("--at", help="First wanted time (ISO, on the clock of the place); the "
                                           "step after the last reading if not given.")] = None,
    channels: Channels = None,
    json: Json = False,
) -> None:
    """Forecast what comes after the newest readings.

    Example: stgraph forecast --model runs/los --data los.stg -o los-forecast.parquet
    """
    from stgraph.evaluate.predict import forecast as predict
    from stgraph.evaluate.predict import write_forecast
    from stgraph.facade import WHOLE, open_model
    from stgraph.graph.time import instant

    run, city = open_model(model, WHOLE | _options(channels), data)
    table = predict(run.model, city, None if at is None else instant(at, city.time.tz))
    write_forecast(table, out)
    result = {"model": run.model.name, "data": city.name, "data_sha256": city.sha256, "out": str(out),
              "rows": len(table), "sensors": city.num_nodes, "horizon": city.horizon,
              "from": table["time"].iloc[0].isoformat(), "to": table["time"].iloc[-1].isoformat(),
              "unit": table["unit"].iloc[0]}
    note(f"{result['rows']:,} values for {city.num_nodes} sensors, {result['from']} to {result['to']}, in {out}")
    if json:
        print_json(result)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    data: Annotated[Path | None, typer.Option("--data", help="The bundle; the one it was trained on if not "
                                              "given.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; RUN/report.html if not given.")] = None,
    split: Annotated[str, typer.Option("--split", help="Part to show.")] = "test",
    picture: Annotated[Path | None, typer.Option("--picture", help="Also a PNG of the page (needs Chromium).")] = None,
    json: Json = False,
) -> None:
    """One self-contained HTML page about a run: map, curves, tables, provenance.

    Example: stgraph report runs/los
    """
    from stgraph.facade import Run

    opened = Run.open(run)
    page = opened.report(out or run / "report.html", data, split)
    note(f"Report: {page}")
    if picture:
        from stgraph.report.picture import screenshot

        screenshot(page, picture, height=1000)  # the first screen: headline, map, curves
        note(f"Picture: {picture}")
    if json:
        print_json({"run": str(run), "data": str(data or opened.data), "report": str(page),
                    "picture": None if picture is None else str(picture)})


def _options(channels: str | None) -> dict[str, Any]:
    return {"channels": channels.split(",")} if channels else {}
