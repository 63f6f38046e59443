"""The one contract of models: ``model(window) -> Forecast``, a config dataclass, and what the model declares."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stgraph import io
from stgraph.errors import InputError, TransductiveError
from stgraph.windows import City, Forecast, Window

FORMAT = "stgraph-model"
VERSION = 1


@dataclass(frozen=True)
class Sizes:
    """Sizes that come from the data and the task, never typed in per data set.

    Args:
        channels: Channels ``C`` that are read and forecast.
        history: Input steps ``T``.
        horizon: Output steps ``H``.
        slots_per_day: Slots of a day.
        nodes: Nodes ``N`` of the one network of a transductive model; None for an inductive one.
        network: Hash of that network's node ids; None for an inductive model.
    """

    channels: int
    history: int
    horizon: int
    slots_per_day: int
    nodes: int | None = None
    network: str | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a model is, needs and gives.

    Args:
        inductive: Whether it runs on a network it never saw; else it holds a table of one network's nodes.
        needs: Beyond the window's values: any of ``edges``, ``positions``, ``profile``, ``lags`` and
            :func:`stgraph.windows.long_history`.
        gives: ``point``, ``quantiles`` or ``samples``; ``states`` for a model that others build on and that forecasts
            nothing itself.
        training: ``gradient``, ``closed_form`` (a formula on the training rows) or ``none``.
        any_horizon: Whether one set of weights answers any history, any horizon and any number of slots a day.
        any_series: Whether it answers any number of channels and of slots a day.
        long_minutes: How far before the origin it reads where that is further than the window's input steps: to be told
            beside its accuracy.
    """

    inductive: bool
    needs: frozenset[str] = frozenset()
    gives: Literal["point", "quantiles", "samples", "states"] = "point"
    training: Literal["gradient", "closed_form", "none"] = "gradient"
    any_horizon: bool = False
    any_series: bool = False
    long_minutes: float = 0.0


class Forecaster(nn.Module):
    """Base of all models.

    A subclass names itself (``name``), its config dataclass (``Config``), says what it is
    (:meth:`describe`) and answers a :class:`~stgraph.windows.Window` with a :class:`~stgraph.windows.Forecast`.

    Args:
        config: The structure; sizes from data are not in it.
        sizes: The sizes from data.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    several_types: ClassVar[bool] = False  # whether it takes several types of nodes in one pass
    recipe: ClassVar[dict[str, Any]] = {}  # training settings that suit the model: learning_rate, batch_size, ...

    def __init__(self, config: Any, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.sizes = sizes

    @classmethod
    def describe(cls, config: Any) -> Capabilities:
        """What a model with this config is, needs and gives."""
        raise TypeError(f"{cls.__name__} does not say what it is")

    @property
    def capabilities(self) -> Capabilities:
        """What this model is, needs and gives."""
        return self.describe(self.config)

    @property
    def parameter_count(self) -> int:
        """Numbers that were learned or fitted."""
        fitted = self.buffers() if self.capabilities.training == "closed_form" else self.parameters()
        return sum(values.numel() for values in fitted)

    @classmethod
    def for_city(cls, city: City, config: Any | None = None) -> Forecaster:
        """A new model for a city: sizes, scaler and partition come from it (its training rows only).

        Raises:
            InputError: where the city lacks what the model needs.
        """
        config = cls.Config() if config is None else config
        abilities = cls.describe(config)
        check_needs(cls.name, abilities, city)
        sizes = Sizes(city.num_channels, city.history, city.horizon, city.time.slots_per_day)
        if not abilities.inductive:
            sizes = dataclasses.replace(sizes, nodes=city.num_nodes, network=network_hash(city))
        model = cls(config, sizes)
        model.prepare(city)
        return model

    def prepare(self, city: City) -> None:
        """Fit what is not learned by gradient (scaler, partition) on the training rows; fills buffers only."""

    def fit(self, city: City) -> None:
        """Fit a closed-form model on the training rows; models trained by gradient have nothing to do here."""

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def check(self, city: City) -> None:
        """Refuse a city this model cannot answer, by name and with what to do instead.

        Raises:
            TransductiveError: for a network that a transductive model was not trained on.
            InputError: for another number of channels, another window, or a city without what the model needs.
        """
        sizes, abilities = self.sizes, self.capabilities
        if not abilities.any_series and sizes.channels != city.num_channels:
            raise InputError(f"the model '{self.name}' was trained on {sizes.channels} channel(s)", field="channels",
                             value=f"{city.num_channels}: {', '.join(city.signal.channel_names)}",
                             remedy="choose channels with --channels, or train on this data")
        if not abilities.any_horizon:
            for field in ("history", "horizon"):
                if getattr(sizes, field) != getattr(city, field):
                    raise InputError(f"the model '{self.name}' was trained with {field} {getattr(sizes, field)}",
                                     field=field, value=getattr(city, field),
                                     remedy=f"use --{field} {getattr(sizes, field)}, or train with the other")
        if not (abilities.any_series or abilities.any_horizon) and sizes.slots_per_day != city.time.slots_per_day:
            raise InputError(f"the model '{self.name}' was trained on {sizes.slots_per_day} slots a day",
                             field="interval", value=f"{city.time.step} s",
                             remedy="resample the data, or train on it")
        if not abilities.inductive and sizes.network != network_hash(city):
            raise TransductiveError(
                f"the model '{self.name}' is transductive: it learned a table of the {sizes.nodes} nodes it was "
                "trained on and has nothing to say on other nodes", field="model", value=city.name,
                remedy="use an inductive model (profile_mlp), or train on this data")
        check_needs(self.name, abilities, city)

    # ---------------------------------------------------------------- weights on disk
    def save_pretrained(self, folder: Path | str, manifest: dict[str, Any] | None = None) -> None:
        """Write ``model.json`` and ``weights.safetensors`` to a folder; each whole or not at all.

        Args:
            folder: Where to write; made if it does not exist.
            manifest: What the weights were trained on: hashes, seed, scores.
        """
        folder = Path(folder)
        with io.atomic_path(folder / "weights.safetensors") as work:
            work.write_bytes(save({key: value.contiguous() for key, value in self.state_dict().items()}))
        io.write_json(folder / "model.json", {
            "format": FORMAT, "version": VERSION, "model": self.name,
            "config": dataclasses.asdict(self.config), "sizes": dataclasses.asdict(self.sizes),
            "weights_sha256": io.sha256(folder / "weights.safetensors"), "manifest": manifest or {}})

    @staticmethod
    def from_pretrained(folder: Path | str) -> Forecaster:
        """Read a model that :meth:`save_pretrained` wrote. Nothing in the files is executed.

        Raises:
            InputError: where files are missing, altered, truncated or from a newer version.
        """
        folder = Path(folder)
        card = folder / "model.json"
        described = io.read_json(card)
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            raise InputError("not the description of a stgraph model", file=card, field="format",
                             remedy="give the folder that `stgraph train --out` wrote")
        if described.get("version", 0) > VERSION:
            raise InputError("made by a newer stgraph", file=card, field="version", value=described["version"],
                             remedy=f"upgrade stgraph; this one reads up to version {VERSION}")
        weights = folder / "weights.safetensors"
        if not weights.is_file():
            raise InputError("no such file", file=weights, remedy="copy the whole folder of the run")
        if io.sha256(weights) != described.get("weights_sha256"):
            raise InputError("the weights are not those that the description names", file=weights,
                             field="weights_sha256", remedy="copy the folder again, or train again")
        kind = model_class(described.get("model", ""))
        try:
            model = kind(config_from(kind, described["config"], card), Sizes(**described["sizes"]))
            state = load_file(weights)
            for key, value in model.state_dict().items():  # buffers fitted on data may have any length
                if key in state and value.shape != state[key].shape:
                    model.resize(key, state[key])
            model.load_state_dict(state)
        except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"the description and the weights do not fit: {error}", file=card,
                             remedy="copy the folder again, or train again") from error
        model.eval()
        return model

    def resize(self, key: str, value: Tensor) -> None:
        """Give a buffer another shape before its values are read; parameters keep theirs.

        Raises:
            RuntimeError: for a parameter.
        """
        owner_name, _, attribute = key.rpartition(".")
        owner = self.get_submodule(owner_name)
        if attribute not in owner._buffers:
            raise RuntimeError(f"the weight '{key}' has shape {tuple(value.shape)}")
        owner.register_buffer(attribute, torch.zeros_like(value))


def network_hash(city: City) -> str:
    """A hash of the node ids in order: what a transductive model is tied to.

    Where the nodes were only numbered, as any other network's would be, their places and edges count too.
    """
    names = [str(name) for name in city.node_ids]
    digest = hashlib.sha256("\n".join(names).encode())
    if names == [str(number) for number in range(len(names))]:
        digest.update(city.lonlat.nan_to_num().numpy().tobytes() + city.edges[0].numpy().tobytes())
    return digest.hexdigest()


def check_needs(name: str, abilities: Capabilities, city: City) -> None:
    """Refuse a city that lacks what a model needs.

    Raises:
        InputError: naming the model, what it needs and what to do.
    """
    if "positions" in abilities.needs and not torch.isfinite(city.lonlat).all(1).any():
        raise InputError(f"the model '{name}' needs coordinates and the graph has none", field="lonlat",
                         value=city.name, remedy="build the graph with --locations, or choose another model or "
                                                 "partition")
    if "edges" in abilities.needs and city.edges[0].shape[1] == 0:
        raise InputError(f"the model '{name}' needs edges and the graph has none", field="edge_index",
                         value=city.name, remedy="build the graph with --adjacency, --edges or --locations")


# -------------------------------------------------------------------- the registry
_MODELS = {
    "last_value": "controls:LastValue",
    "same_slot_yesterday": "controls:SameSlotYesterday",
    "same_slot_last_week": "controls:SameSlotLastWeek",
    "slot_mean": "controls:SlotMean",
    "var": "var:VectorAutoregression",
    "profile_mlp": "profile_mlp:ProfileMLP",
    "stid": "stid:STID",
    "patchstg": "patchstg:PatchSTG",
    "opencity": "opencity:OpenCity",
    "staeformer": "staeformer:STAEformer",
    "dcrnn": "dcrnn:DCRNN",
    "graph_wavenet": "graph_wavenet:GraphWaveNet",
    "step_encoder": "step_encoder:StepEncoder",
    "step": "step:STEP",
    "weave": "weave:Weave",
}
CONTROLS = ("last_value", "same_slot_yesterday", "same_slot_last_week", "slot_mean")


def model_names() -> list[str]:
    """Names of all models; none is imported."""
    return list(_MODELS)


def model_class(name: str) -> type[Forecaster]:
    """The class of a model; only its own file is imported.

    Raises:
        InputError: for a name that is not known.
    """
    if name not in _MODELS:
        raise InputError("unknown model", field="model", value=name, remedy=f"use one of {', '.join(_MODELS)}")
    module, _, kind = _MODELS[name].partition(":")
    return getattr(importlib.import_module(f"stgraph.models.{module}"), kind)


def config_from(kind: type[Forecaster], values: dict[str, Any], file: object | None = None) -> Any:
    """A model's config from plain values; text is converted to the type of the field.

    Raises:
        InputError: for a field that does not exist or a value that does not convert.
    """
    fields = {field.name: field for field in dataclasses.fields(kind.Config)}
    chosen = {}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"the model '{kind.name}' has no such setting", file=file, field=key, value=value,
                             remedy=f"settings are {', '.join(fields) or 'none'}")
        chosen[key] = _convert(key, value, fields[key].default, file)
    return kind.Config(**chosen)


def _convert(key: str, value: Any, default: Any, file: object | None) -> Any:
    wanted = type(default)
    if isinstance(value, str) and wanted is bool:
        if value.lower() in ("true", "yes", "1", "false", "no", "0"):
            return value.lower() in ("true", "yes", "1")
    elif isinstance(value, wanted):
        return value
    elif wanted in (int, float, str) and not isinstance(value, bool):
        try:
            converted = wanted(value)
            if wanted is not int or float(value) == converted:
                return converted
        except (TypeError, ValueError):
            pass
    raise InputError("the setting has another type", file=file, field=key, value=value,
                     remedy=f"give a {wanted.__name__}, such as {default}")
