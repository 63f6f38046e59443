"""``stgraph evaluate``, ``stgraph forecast`` and ``stgraph report``: what a trained model is worth and says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stgraph.cli.shared import note, number, print_json, scores_table, significance, verdict

Model = Annotated[list[str], typer.Option("--model", help="Folder of a run or of weights, or the name of a control. "
                                          "Several runs that differ in the seed give mean and spread.")]
DataOption = Annotated[Path, typer.Option("--data", help="The bundle (.stg).")]
Channels = Annotated[str | None, typer.Option("--channels", help="Channels, comma-separated; the run's own if not "
                                              "given.")]
Interval = Annotated[float | None, typer.Option("--interval", min=0.01, max=0.999, help="Coverage of intervals, such "
                                                "as 0.9; they are calibrated on the validation part.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def evaluate(
    model: Model,
    data: DataOption,
    split: Annotated[str, typer.Option("--split", help="Part to score: train, validation or test.")] = "test",
    against: Annotated[str | None, typer.Option("--against", help="A second run or control: adds a paired "
                                                "significance test over days.")] = None,
    interval: Interval = None,
    channels: Channels = None,
    json: Json = False,
) -> None:
    """Score a model and the four controls; with --interval also how sure it is.

    Example: stgraph evaluate --model runs/los --data los.stg --split test --interval 0.9
    """
    from stgraph.evaluate import block_bootstrap, summarise
    from stgraph.evaluate import evaluate as score
    from stgraph.evaluate.intervals import evaluate_intervals
    from stgraph.facade import open_model

    options = _options(channels)
    records, last = [], None
    for name in model:
        run, city = open_model(name, options, data)
        last = score(run.model, city, split)
        records.append(last.record | {"seed": run.record.get("seed")})
        if interval is not None:
            records[-1] |= evaluate_intervals(run.model, city, split, interval)
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
    if "interval" in result:
        Console(stderr=True, markup=False).print(_intervals_table(result))
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
    interval: Interval = None,
    channels: Channels = None,
    json: Json = False,
) -> None:
    """Forecast what comes after the newest readings; with --interval also bounds, in columns low and high.

    Example: stgraph forecast --model runs/los --data los.stg --interval 0.9 -o los-forecast.parquet
    """
    from stgraph.evaluate.intervals import CalibratedIntervals
    from stgraph.evaluate.predict import forecast as predict
    from stgraph.evaluate.predict import write_forecast
    from stgraph.facade import WHOLE, open_model
    from stgraph.graph.time import instant

    run, city = open_model(model, WHOLE | _options(channels), data)
    intervals = None
    if interval is not None:
        intervals = CalibratedIntervals(run.model, open_model(model, _options(channels), data)[1], interval)
    table = predict(run.model, city, None if at is None else instant(at, city.time.tz), intervals)
    write_forecast(table, out)
    result = {"model": run.model.name, "data": city.name, "data_sha256": city.sha256, "out": str(out),
              "rows": len(table), "columns": list(table.columns), "interval": interval,
              "sensors": city.num_nodes, "horizon": city.horizon,
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


def _intervals_table(result: dict[str, Any]) -> Any:
    """A rich table of coverage and width, and the CRPS below it."""
    from rich.table import Table

    found, crps = result["interval"], result["crps"]
    bands = {name: cells for name, cells in found.items() if isinstance(cells, dict)}
    scores = ", ".join(f"{name.replace('_', ' ')} {number(crps[name]['all'], 3)}" for name in crps
                       if isinstance(crps[name], dict))
    table = Table(title=f"Intervals of {100 * found['level']:g} %: share inside, mean width", title_justify="left",
                  caption=f"CRPS: {scores}", caption_justify="left")
    table.add_column(f"width in {found['unit']}")
    steps = list(bands["split"])
    for step in steps:
        table.add_column("all steps" if step == "all" else f"step {step}", justify="right")
    for name, cells in bands.items():
        table.add_row(name.replace("_", " "), *(
            f"{number(None if cells[step]['coverage'] is None else 100 * cells[step]['coverage'], 1)} %, "
            f"{number(cells[step]['width'])}" for step in steps))
    return table


def _options(channels: str | None) -> dict[str, Any]:
    return {"channels": channels.split(",")} if channels else {}
