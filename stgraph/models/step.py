"""STEP: any forecaster, corrected by what a frozen encoder knows of the last week of each series.

Z. Shao, Z. Zhang, F. Wang, Y. Xu: Pre-training Enhanced Spatial-temporal Graph Neural Network for Multivariate Time
Series Forecasting, KDD 2022. In two stages:

    stgraph train --data los.stg --model step_encoder --out runs/encoder
    stgraph train --data los.stg --model step --set encoder=runs/encoder --set backend=stid --out runs/step

Different here. The states correct the forecast of the back-end through a gate, so any forecaster will do, while the
paper adds them inside Graph WaveNet. They are computed once at each patch boundary instead of once a sample, so they
are up to one patch old; they are those of evaluation in training too (the published encoder keeps its dropout). For the
learned graph a node is described by its mean state over the training rows, not by a layer as long as the training
series (which on two sets held the validation part), and ``k`` of a few candidates are chosen, not any of all ``N^2``
pairs. For stage 1 see :mod:`stgraph.models.step_encoder`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stgraph import io
from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes, config_from, model_class
from stgraph.models.step_encoder import CachedStates, StepEncoder, last_states, steps_of_patch
from stgraph.nn import ChannelScaler, freeze
from stgraph.nn.learned_graph import Candidates, LearnedGraph, LearnedMessagePassing, find_candidates
from stgraph.windows import City, Forecast, Window

_ON_EDGES = ("dcrnn", "graph_wavenet", "opencity", "weave")  # they read edges where there are any, and need none
_LOOKS = 32  # boundaries of the training rows whose mean state describes a node


@dataclass
class STEPConfig:
    """Structure of STEP."""

    encoder: str = ""  # folder of a run of step_encoder; its weights are kept with those of this model
    backend: str = "stid"  # any forecaster that is trained by gradient
    backend_settings: str = ""  # its settings that differ from its defaults, such as width=64,layers=2
    states: bool = True  # False leaves them out, to see what the join is worth without them
    ahead: int = 0  # tokens to come whose decoded states are given beside the last one; 0 as in the paper
    width: int = 128  # of the code that joins states and forecast
    dropout: float = 0.1  # on that code
    graph: str = "auto"  # messages along a learned graph: on, off, or auto: where the back-end reads edges
    k: int = 8  # edges per node of the learned graph
    encoder_settings: str = ""  # filled in: the settings of the encoder
    encoder_sha256: str = ""  # filled in: which weights the encoder has


class STEP(Forecaster):
    r"""Stage 2: a forecaster, corrected by what the frozen encoder knows of the last week.

    .. math:: h = \mathrm{ReLU}(W_s s + W_x [x, o, \hat y, a]), \qquad u = \mathrm{MLP}(h + \mathrm{messages}(h)),
              \qquad y = \hat y + \sigma\, \mathrm{sigmoid}(W_g u) \odot W_c u

    with ``s`` the state at the last patch boundary, ``x``, ``o`` the window and what of it was observed, ``y^`` the
    forecast of the back-end and ``a`` the age of the state in patches. ``W_c`` starts at 0: first it is the back-end.
    Inductive where the back-end is.
    """

    name = "step"
    Config = STEPConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "weight_decay": 1e-4, "batch_size": 32}

    def __init__(self, config: STEPConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        settings = _settings(config.encoder_settings, "encoder_settings")
        self.encoder = freeze(StepEncoder(config_from(StepEncoder, settings), sizes))
        kind, chosen = _backend(config)
        self.backend = kind(chosen, sizes)
        series = sizes.channels * (2 * sizes.history + sizes.horizon)
        width, known = config.width, self.encoder.config.width
        self.scaler = ChannelScaler(sizes.channels, fixed=not self.capabilities.inductive)
        self.now = nn.Linear(series + 1, width)
        self.state = nn.Linear((1 + config.ahead) * known, width) if config.states else None
        self.messages = None
        if _learns_graph(config):
            self.messages = LearnedMessagePassing(width, known, config.k, dropout=config.dropout)
        self.mlp = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, width), nn.ReLU())
        self.gate, self.correction = (nn.Linear(width, sizes.horizon * sizes.channels) for _ in range(2))
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        self._own: Any = config.encoder_sha256 or object()  # by which the states of a city are kept

    @classmethod
    def describe(cls, config: STEPConfig) -> Capabilities:
        """What the back-end is, needs and gives, and the minutes of the encoder; its windows hold no long history."""
        kind, chosen = _backend(config)
        abilities = kind.describe(chosen)
        encoder = config_from(StepEncoder, _settings(config.encoder_settings, "encoder_settings"))
        minutes = StepEncoder.describe(encoder).long_minutes if config.states or _learns_graph(config) else 0.0
        return replace(abilities, any_horizon=False, any_series=False,
                       long_minutes=max(minutes, abilities.long_minutes))

    @classmethod
    def for_city(cls, city: City, config: STEPConfig | None = None) -> STEP:
        """A new model on the trained encoder that the config names.

        Raises:
            InputError: where there is no such encoder, it does not fit the city, or it was trained on rows that are
                validation or test here.
        """
        config = cls.Config() if config is None else config
        if not config.encoder:
            raise InputError("the model 'step' builds on a trained encoder, and none is named", field="encoder",
                             remedy="train one with stgraph train --model step_encoder --out runs/encoder, then add "
                                    "--set encoder=runs/encoder")
        encoder, card = Forecaster.from_pretrained(config.encoder), io.read_json(f"{config.encoder}/model.json")
        if not isinstance(encoder, StepEncoder):
            raise InputError(f"this is a '{encoder.name}', not a 'step_encoder'", field="encoder", value=config.encoder,
                             remedy="name the folder of a run of step_encoder")
        _check_no_leak(config.encoder, card["manifest"], city)
        encoder.check(city)
        config = replace(config, encoder_settings=_words(encoder.config), encoder_sha256=card["weights_sha256"])
        model = super().for_city(city, config)
        assert isinstance(model, STEP)
        model.encoder.load_state_dict(encoder.state_dict())
        return model

    def prepare(self, city: City) -> None:
        """Fit the scaler and the back-end's buffers on the training rows; what the back-end chose is noted."""
        self.scaler.fit(city)
        self.backend.prepare(city)
        self.config = replace(self.config, backend_settings=_words(self.backend.config))

    def check(self, city: City) -> None:
        """Refuse what the back-end, the encoder or the join cannot answer.

        Raises:
            TransductiveError: for a network that a transductive back-end was not trained on.
            InputError: for other channels, another window, or data that do not fill one patch.
        """
        self.encoder.check(city)
        self.backend.check(city)
        for field in ("history", "horizon"):
            if getattr(self.sizes, field) != getattr(city, field):
                raise InputError(f"the model '{self.name}' was trained with {field} {getattr(self.sizes, field)}",
                                 field=field, value=getattr(city, field),
                                 remedy=f"use --{field} {getattr(self.sizes, field)}, or train with the other")

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units, with the back-end's quantiles and samples, all corrected alike."""
        answer = self.backend(window)
        mean, deviation = self.scaler.numbers(window)
        x = torch.where(window.mask, (window.values - mean) / deviation, 0)          # [B, T, N, C]
        y = (answer.mean - mean) / deviation                                          # [B, H, N, C]
        series = torch.cat([x, window.mask.to(x), y], 1).permute(0, 2, 1, 3).flatten(2)  # [B, N, (2 T + H) C]
        age = self.age(window)[:, None, None].expand(-1, series.shape[1], 1)
        h = self.now(torch.cat([series, age], -1))                                    # [B, N, D']
        h = torch.relu(h if self.state is None else h + self.state(self.context(window)))
        if self.messages is not None and series.shape[1] > 1:
            candidates, descriptors = self.places(window)
            seen = window.mask.any(3).any(1, keepdim=True)                            # [B, 1, N]
            h = h + self.messages(h[:, None], candidates, descriptors, seen)[0][:, 0]
        h = self.mlp(h)
        change = self.gate(h).sigmoid() * self.correction(h)
        change = change.unflatten(-1, (-1, self.sizes.channels)).transpose(1, 2) * deviation  # [B, H, N, C]
        return replace(answer, mean=answer.mean + change,
                       quantiles=None if answer.quantiles is None else answer.quantiles + change[..., None],
                       samples=None if answer.samples is None else answer.samples + change)

    def learned_graph(self, window: Window) -> LearnedGraph:
        """The learned graph with its scores, for the objective ``graph_prior``.

        Raises:
            InputError: where the model learns none.
        """
        if self.messages is None:
            raise InputError("this model learns no graph", field="graph", value=self.config.graph,
                             remedy="train it with --set graph=on")
        candidates, descriptors = self.places(window)
        return self.messages.learner(descriptors, candidates)

    # ---------------------------------------------------------------- what is kept for each city
    def context(self, window: Window) -> Tensor:
        """The states ``[B, N, (1 + ahead) D]`` at the last patch boundary before each origin."""
        city, states = window.city, self.states_of(window.city)
        with torch.inference_mode(False), torch.no_grad():  # what is kept must not be bound to an evaluation
            if self.training:  # all at once, in the first step, so that steps cost the same from then on
                states.fill(np.arange(city.split.rows("validation")[1] // states.every + 1), self.encoder, city)
            return states.at(window.origin.cpu().numpy() // states.every, self.encoder, city).to(window.values)

    def states_of(self, city: City) -> CachedStates:
        """The states of a city, which all models on this encoder share."""
        kept, ahead = self._kept(city), self.config.ahead
        if ahead not in kept:
            with torch.inference_mode(False):
                kept[ahead] = CachedStates(self.encoder, city, ahead)
        return kept[ahead]

    def age(self, window: Window) -> Tensor:
        """How long before each origin that boundary lies, in patches, ``[B]``."""
        every = steps_of_patch(self.encoder, window.city)
        return (window.origin % every / every).to(window.values)

    def places(self, window: Window) -> tuple[Candidates, Tensor]:
        """What the learned graph chooses from, and a descriptor ``[N, D]`` of each node: its mean state, standardised.

        It is the mean over boundaries that are evenly spaced in the rows that the city's context was fitted on; the
        most similar ones make the prior graph.
        """
        city, device = window.city, window.values.device
        kept = self._kept(city)
        key = ("places", self.config.k, device)
        if key not in kept:
            with torch.inference_mode(False), torch.no_grad():
                rows = np.linspace(city.context.start, city.context.stop, _LOOKS + 1)[1:].astype(np.int64)
                mean = torch.stack([last_states(self.encoder, city, rows[one : one + 1])[0]
                                    for one in range(_LOOKS)]).mean(0)                # [N, D]
                described = (mean - mean.mean(0)) / mean.std(0, correction=0).clamp(min=1e-6)
                k = self.config.k
                found = find_candidates(described, nearest=2 * k, prior=k, random=k // 2).to(device)
                _ = found.adjacency
                kept[key] = found, described.to(device)
        return kept[key]

    def _kept(self, city: City) -> dict[Any, Any]:
        """What was computed for a city by this encoder; it goes when the city's context is fitted on other rows."""
        return vars(city.context).setdefault("step_states", {}).setdefault(self._own, {})


# -------------------------------------------------------------------- settings
def _backend(config: STEPConfig) -> tuple[type[Forecaster], Any]:
    """The class and the config of the back-end."""
    kind = model_class(config.backend)
    chosen = config_from(kind, _settings(config.backend_settings, "backend_settings"))
    abilities = kind.describe(chosen) if kind is not STEP else None
    if abilities is None or abilities.training != "gradient" or abilities.gives == "states":
        raise InputError("this model cannot be the back-end of 'step'", field="backend", value=config.backend,
                         remedy="name a forecaster that is trained by gradient, such as stid or graph_wavenet")
    if config.graph not in ("auto", "on", "off"):
        raise InputError("unknown choice", field="graph", value=config.graph, remedy="use one of auto, on, off")
    return kind, chosen


def _learns_graph(config: STEPConfig) -> bool:
    """Whether messages run along a learned graph."""
    return config.graph == "on" or (config.graph == "auto" and config.backend in _ON_EDGES)


def _settings(text: str, field: str) -> dict[str, str]:
    """``"width=64,layers=2"`` as a dictionary."""
    pairs = [pair.partition("=") for pair in filter(None, text.split(","))]
    if any(not equals or not key.strip() for key, equals, _ in pairs):
        raise InputError("not a list of settings", field=field, value=text, remedy="write it like width=64,layers=2")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _words(config: Any) -> str:
    """The settings that differ from their defaults, as :func:`_settings` reads them."""
    fields = dataclasses.fields(config)
    return ",".join(f"{one.name}={value}" for one in fields if (value := getattr(config, one.name)) != one.default)


def _check_no_leak(folder: str, manifest: dict[str, Any], city: City) -> None:
    """Refuse an encoder that learned from rows of this very city which are validation or test now."""
    share = manifest.get("split", {}).get("fractions", [0.0])[0]
    known = {item.get("data_sha256") for item in manifest.get("data", [])}
    if city.sha256 is not None and city.sha256 in known and share > city.split.fractions[0] + 1e-9:
        raise InputError("the encoder was trained on rows that are for validation or test here", field="split",
                         file=folder, value=city.split.fractions[0], remedy=f"give {share:g} of the rows to training, "
                                                                            "or train the encoder on fewer")
