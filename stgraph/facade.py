"""The whole chain in a few lines of Python: ``load``, ``fit``, ``evaluate``, ``forecast``, ``report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stgraph import io
from stgraph.errors import InputError
from stgraph.evaluate import evaluate
from stgraph.evaluate.predict import forecast
from stgraph.graph import DynamicHeteroGraph
from stgraph.graph import load as load_graph
from stgraph.graph.time import instant
from stgraph.models import Forecaster, model_class, model_names
from stgraph.windows import City

if TYPE_CHECKING:
    import pandas as pd

WHOLE = {"fractions": (1.0, 0.0, 0.0)}  # a forecast needs no validation and no test part
_CITY_OPTIONS = ("node_type", "signal", "also", "channels", "history", "horizon", "fractions")


class Data:
    """A bundle opened for training and scoring.

    Args:
        path: The ``.stg`` folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.graph: DynamicHeteroGraph = load_graph(self.path)

    def city(self, **options: Any) -> City:
        """The windows of this data; options as for :class:`stgraph.windows.City`."""
        return City.open(self.path, **options)

    def fit(self, model: str = "profile_mlp", out: Path | str | None = None, **options: Any) -> Run:
        """Train a forecaster on this data; see :func:`fit`."""
        return fit(self, model=model, out=out, **options)


class Run:
    """A trained forecaster with the record of its training.

    Args:
        model: The forecaster.
        record: What ``run.json`` holds; empty for weights without a run.
        folder: Where it is stored; None where it is not.
        data: The data it was trained on; None where it is not known.
    """

    def __init__(self, model: Forecaster, record: dict[str, Any], folder: Path | None = None,
                 data: Path | None = None) -> None:
        self.model, self.record, self.folder, self.data = model, record, folder, data

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """Open a run's folder, or a folder that holds weights only."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError("no such run, weights or control", file=folder, field="model",
                             remedy=f"give the folder that `stgraph train --out` wrote, or one of {_untrained()}")
        model = Forecaster.from_pretrained(folder)
        if (folder / "run.json").is_file():
            record = io.read_json(folder / "run.json")
        else:  # weights alone say how their windows were cut
            record = io.read_json(folder / "model.json").get("manifest", {})
        path = next((item.get("path") for item in record.get("data", [])), None)
        return cls(model, record, folder, None if path is None else Path(path))

    def city(self, data: Data | Path | str | None = None, **options: Any) -> City:
        """A city cut as this run was trained: its channels, history, horizon and shares, unless others are given."""
        path = data.path if isinstance(data, Data) else Path(data) if data is not None else self.data
        if path is None:
            raise InputError("the run does not say which data it was trained on", file=self.folder, field="data",
                             remedy="name the bundle")
        return City.open(path, **(self.window_options() | options))

    def window_options(self) -> dict[str, Any]:
        """How this run cut its windows: the options of :class:`stgraph.windows.City`."""
        sizes = self.model.sizes
        options: dict[str, Any] = {"history": sizes.history, "horizon": sizes.horizon}
        if self.record.get("channels"):
            options["channels"] = self.record["channels"]
        options |= {name: value for name in ("node_type", "signal", "also")
                    if (value := (self.record.get("data") or [{}])[0].get(name))}
        if fractions := self.record.get("split", {}).get("fractions"):
            options["fractions"] = tuple(fractions)
        return options

    def evaluate(self, data: Data | Path | str | None = None, part: str = "test", **options: Any) -> dict[str, Any]:
        """Scores of the model and of the controls: the object of ``stgraph evaluate --json``."""
        record = evaluate(self.model, self.city(data, **options), part).record
        return record | {"seed": self.record.get("seed")}

    def forecast(self, data: Data | Path | str | None = None, at: str | None = None, **options: Any) -> pd.DataFrame:
        """The next ``horizon`` steps after the newest reading, or after the time ``at`` (ISO text, local clock)."""
        city = self.city(data, **(WHOLE | options))
        return forecast(self.model, city, None if at is None else instant(at, city.time.tz))

    def report(self, path: Path | str, data: Data | Path | str | None = None, part: str = "test") -> Path:
        """Write one self-contained HTML page about this run; see :mod:`stgraph.report`."""
        from stgraph.report.run import report_run

        return report_run(self.model, self.city(data), self.record, Path(path), part)


def load(path: Path | str) -> Data | Run:
    """Open a bundle (a :class:`Data`) or the folder of a run (a :class:`Run`).

    Raises:
        InputError: where the path is neither.
    """
    path = Path(path)
    return Run.open(path) if (path / "model.json").is_file() else Data(path)


def fit(data: Data | Path | str | Sequence[Data | Path | str], model: str = "profile_mlp",
        out: Path | str | None = None, *, minutes: float | None = None, steps: int | None = None,
        passes: float | None = None, settings: dict[str, Any] | None = None, **options: Any) -> Run:
    """Train a forecaster on one bundle or several.

    Args:
        data: A bundle, or several.
        model: Name of the model; see ``stgraph train --help``.
        out: Folder to keep the run in; None keeps it in memory only.
        minutes: Time budget; 2 where no budget is given.
        steps: Budget in training steps: the same seed then gives the same weights.
        passes: Budget in passes over the training windows.
        settings: The model's own settings, e.g. ``{"width": 64}``.
        options: Options of :class:`stgraph.windows.City` (``history``, ``horizon``, ``channels``, ...) and of
            :func:`stgraph.train.fit` (``seed``, ``batch_size``, ``progress``, ...).
    """
    from stgraph.train import Budget
    from stgraph.train import fit as train

    sources = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    paths = [source.path if isinstance(source, Data) else Path(source) for source in sources]
    city_options = {key: options.pop(key) for key in _CITY_OPTIONS if key in options}
    cities = [City.open(path, **city_options) for path in paths]
    budget = Budget(minutes=minutes, steps=steps, passes=passes)
    trained = train(cities, model, None if out is None else Path(out), settings=settings or {}, budget=budget,
                    paths=paths, **options)
    return Run(trained.model, trained.record, trained.folder, paths[0])


def open_model(name: str, city_options: dict[str, Any], data: Path | str) -> tuple[Run, City]:
    """A run, weights or a model that needs no training, with the city it shall answer for.

    Raises:
        InputError: where there is no such run or control.
    """
    if name in model_names() and not Path(name).exists():
        kind = model_class(name)
        if kind.describe(kind.Config()).training != "none":
            raise InputError(f"the model '{name}' has no weights yet", field="model", value=name,
                             remedy=f"train it: stgraph train --data {data} --model {name} --out runs/{name}")
        city = City.open(data, **city_options)
        return Run(kind.for_city(city), {}, None, Path(data)), city
    run = Run.open(name)
    return run, run.city(data, **city_options)


def _untrained() -> str:
    return ", ".join(name for name in model_names() if name.startswith(("last", "same", "slot")))
