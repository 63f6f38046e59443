"""Weave: departures from what is usual at a place, woven over time, the graph and patches of neighbours. Inductive.

One architecture that holds three lineages: tokens of minutes and queries of the future's calendar (OpenCity), message
passing over given and found relations (OpenCity, STEP), attention inside and across bounded patches (PatchSTG), and
the answer of the profile MLP where none of these has anything to add. Every part is named in the config, in any order.
Nothing is typed in per data set and no parameter's shape depends on nodes, channels, interval, history or horizon.
Cost is linear in nodes and edges.

What is woven are departures of each node from its own profile, not readings: what is usual needs no message. The
profile leaves each training row's own day out (:mod:`stgraph.windows.context`).

What was seen are tokens; what is wanted are tokens too, which show the profile and the clock but no reading. A forecast
wants the steps to come, filling gaps wants the steps of the window itself: the same weights do both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.nn import CalendarEmbedding, FutureQueries, PatchLayout, PlaceCode, QuantileHead, place_features
from stgraph.nn.blocks import BlockConfig, SpaceTimeStack, Surroundings
from stgraph.nn.calendar import next_day
from stgraph.nn.learned_graph import residual_graph
from stgraph.nn.message_passing import Relation, RelationName
from stgraph.nn.series import interpolate, off_cells, on_cells
from stgraph.nn.time_patches import patch_layout
from stgraph.ops import Adjacency
from stgraph.partition import Partition, feature, kdtree, local_metres
from stgraph.windows import Calendar, City, Context, Forecast, Window


@dataclass(frozen=True)
class WeaveConfig:
    """Structure of the model. Turning parts off gives the models it holds: see ``parts``."""

    width: int = 96  # of the state of a token
    layers: int = 3  # blocks
    parts: str = "graph,mlp"  # of a block, in this order: any of stgraph.nn.blocks, such as time, graph, patch, mlp
    heads: int = 4  # of all attention; twice their number divides the width
    expansion: float = 2.0  # hidden width of an MLP, in widths
    dropout: float = 0.1  # inside parts
    minutes: float = 180.0  # a token
    cell: float = 5.0  # minutes of a cell of a token: what is read and answered apart; divides ``minutes``
    harmonics: int = 4  # of the time of day
    place: str = ""  # parts of the place code beside level, scale and spread, of those of stgraph.nn.place_features
    given: bool = True  # graph: the relations of the city, in both directions
    alike: int = 8  # graph: edges a node gets from the series whose departures are most like its own; 0: none
    city_mean: bool = True  # the city's mean departure is read too
    lags: bool = False  # departures of the wanted steps a day and a week ago are read too
    patch_size: int = 32  # patch: nodes of a patch at most
    quantiles: str = ""  # levels to answer beside the middle one, such as 0.05,0.5,0.95
    node_codes: bool = False  # a learned vector for each node of one network: transductive
    diffusion: bool = False  # can be trained to take noise away
    types: str = ""  # of nodes that have projections in and out of their own; all others share


@dataclass(frozen=True)
class Wanted:
    """The steps that are asked for.

    Args:
        calendar: Their clock, ``[B, L]``.
        profile: ``[B, L, N, C]`` what is usual then.
        base: ``[B, L, N, C]`` the nearest readings: the last one for steps to come.
        layout: How they lie on tokens.
        extra: ``[B, L, N, C, K]`` more that is known of them.
    """

    calendar: Calendar
    profile: Tensor
    base: Tensor
    layout: PatchLayout
    extra: Tensor | None = None


class Ends(nn.Module):
    """Projections in and out of one type of nodes; what lies between is shared by all types."""

    def __init__(self, config: WeaveConfig, cells: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        width = config.width
        self.read = nn.Linear((4 + config.city_mean) * cells, width)
        self.ask = nn.Linear((2 + 4 * config.lags) * cells, width)
        self.series = nn.Linear(3, width)
        self.gate, self.correct = nn.Linear(width, cells), nn.Linear(width, cells)
        for layer in (self.gate, self.correct):  # it starts from the mean of profile and nearest reading
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.spread = QuantileHead(width, cells, levels) if levels else None
        self.noisy = nn.Linear(2 * cells, width) if config.diffusion else None
        self.velocity = nn.Linear(width, cells) if config.diffusion else None


class Weave(Forecaster):
    """Each node and channel is a series; series meet in the parts ``graph`` and ``patch``.

    Shapes: states are ``h [B C, S, N, D]`` with ``S`` tokens of what is wanted.
    """

    name = "weave"
    Config = WeaveConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "weight_decay": 1e-4, "batch_size": 32}

    def __init__(self, config: WeaveConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        width, cells = config.width, round(config.minutes / config.cell)
        if cells < 1 or abs(cells * config.cell - config.minutes) > 1e-6:
            raise InputError("the cells do not divide the token", field="cell", value=config.cell,
                             remedy=f"choose a divisor of {config.minutes:g} minutes")
        self.cells, self.levels = cells, tuple(float(level) for level in _names(config.quantiles))
        self.embedding_width = width
        self.ends = nn.ModuleDict({kind: Ends(config, cells, self.levels) for kind in ("any", *_names(config.types))})
        self.clock = CalendarEmbedding(width, config.harmonics)
        self.place = PlaceCode(width, _names(config.place)) if config.place else None
        self.nodes = nn.Parameter(torch.zeros(sizes.nodes, width)) if config.node_codes and sizes.nodes else None
        self.recall = FutureQueries(width, config.heads, config.dropout)
        block = BlockConfig(_names(config.parts), width, config.heads, config.dropout, silence=False,
                            diffusion=config.diffusion, relations=RELATIONS, expansion=config.expansion)
        self.stack = SpaceTimeStack([block] * config.layers)
        self.norm = nn.LayerNorm(width)
        self._around: WeakKeyDictionary[Context, tuple[Surroundings, dict[str, Any]]] = WeakKeyDictionary()

    @classmethod
    def describe(cls, config: WeaveConfig) -> Capabilities:
        """Inductive, unless it holds codes of nodes; needs the profile, and the days before where it reads them."""
        return Capabilities(inductive=not config.node_codes, any_horizon=True, any_series=True,
                            needs=frozenset({"profile", "lags"} if config.lags else {"profile"}),
                            gives="quantiles" if config.quantiles else "point")

    # ---------------------------------------------------------------- tasks
    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        wanted = self.to_come(window)
        h = self.states(window, wanted)
        mean = self.answer(h, window, wanted)
        spread = self.ends_of(window).spread
        if spread is None:
            return Forecast(mean)
        around = off_cells(spread(h).flatten(-2), wanted.layout, mean.shape[-1])        # [B, H, N, C, Q]
        quantiles = mean[..., None] + self.scale(window)[..., None] * around
        middle = min(range(len(self.levels)), key=lambda k: abs(self.levels[k] - 0.5))
        return Forecast(quantiles[..., middle], quantiles, self.levels)

    def reconstruct(self, window: Window, hidden: Tensor) -> Tensor:
        """Every entry of the window, ``[B, L, N, C]``; see :class:`stgraph.objectives.protocols.Reconstructs`."""
        wanted = self.inside(window)
        return self.answer(self.states(window, wanted), window, wanted)

    def embed(self, window: Window) -> Tensor:
        """The state of each node before the first step to come, ``[B, N, D]``, the mean over its channels."""
        h = self.states(window, self.to_come(window))[:, 0]
        return h.unflatten(0, (window.batch_size, -1)).mean(1)

    def denoise(self, window: Window, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """See :class:`stgraph.objectives.protocols.Denoises`.

        Raises:
            InputError: for a model without ``diffusion``.
        """
        ends = self.ends_of(window)
        if ends.noisy is None or ends.velocity is None:
            raise InputError("this model was not made to take noise away", field="diffusion", value=False,
                             remedy="train it with --set diffusion=true")
        wanted = self.inside(window)
        code = ends.noisy(on_cells(torch.stack([noisy, condition.to(noisy)], -1), wanted.layout))
        h = self.states(window, wanted, code, time)
        return off_cells(ends.velocity(h), wanted.layout, noisy.shape[-1])[..., 0]

    # ---------------------------------------------------------------- what is wanted
    def to_come(self, window: Window) -> Wanted:
        """The steps after the window."""
        assert window.profile_future is not None, "the window was cut without a profile"
        usual = window.profile_future
        last = interpolate(window.values, window.mask, torch.zeros_like(window.values))[:, -1:]
        seen = window.mask.any(1, keepdim=True)
        extra = self.days_before(window) if self.config.lags else None
        return Wanted(window.future, usual, torch.where(seen, last, usual),
                      self.layout(window, usual.shape[1], ahead=True), extra)

    def inside(self, window: Window) -> Wanted:
        """The steps of the window itself."""
        assert window.profile_past is not None, "the window was cut without a profile"
        usual = window.profile_past
        return Wanted(window.past, usual, interpolate(window.values, window.mask, usual),
                      self.layout(window, usual.shape[1]))

    def layout(self, window: Window, steps: int, ahead: bool = False) -> PatchLayout:
        """How so many steps lie on tokens."""
        return patch_layout(steps, window.city.time.step / 60, self.config.minutes, self.cells, ahead,
                            str(window.values.device))

    def days_before(self, window: Window) -> Tensor:
        """Departures a day and a week before each wanted step, and where they are known: ``[B, H, N, C, 4]``."""
        assert window.lags is not None, "the window was cut without lags"
        assert window.profile_future is not None, "the window was cut without a profile"
        found = []
        for earlier, there in (window.lags["yesterday"], window.lags["last_week"]):
            departure = (earlier - window.profile_future) / self.scale(window)
            found += [torch.where(there, departure, 0), there.to(departure)]
        return torch.stack(found, -1)

    # ---------------------------------------------------------------- tokens, blocks, answer
    def states(self, window: Window, wanted: Wanted, code: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """States of the wanted tokens after all blocks, ``[B C, S, N, D]``.

        Args:
            window: What was seen.
            wanted: What is asked for.
            code: ``[B C, S, N, D]`` more that is known of the wanted tokens.
            time: ``[B]`` of a diffusion.
        """
        channels = window.values.shape[-1]
        layout = self.layout(window, window.values.shape[1])
        past = self.ends_of(window).read(on_cells(self.seen(window), layout, mean_of=2))
        h = self.query(window, wanted)
        h = h if code is None else h + code
        h = h + self.recall(past, h, minutes=(wanted.layout.minutes, layout.minutes))
        around = replace(self.surroundings(window), minutes=wanted.layout.minutes, span=wanted.layout.span,
                         diffusion_time=None if time is None else time.repeat_interleave(channels))
        return self.norm(self.stack(h, around))

    def seen(self, window: Window) -> Tensor:
        """What is known of each step of the window, without a unit: ``[B, T, N, C, K]``.

        Departure from the profile, departure from the level, whether it was observed, the profile, and perhaps the
        city's mean departure.
        """
        assert window.profile_past is not None, "the window was cut without a profile"
        level, scale = self.numbers(window, "level", "scale")
        departure = torch.where(window.mask, (window.values - window.profile_past) / self.scale(window), 0)
        seen = window.mask.to(departure)
        parts = [departure, torch.where(window.mask, (window.values - level) / scale, 0), seen,
                 (window.profile_past - level) / scale]
        if self.config.city_mean:
            mean = departure.sum(2, keepdim=True) / seen.sum(2, keepdim=True).clamp(min=1)
            parts.append(mean.expand_as(departure))
        return torch.stack(parts, -1)

    def query(self, window: Window, wanted: Wanted) -> Tensor:
        """What is known beforehand of the wanted tokens, ``[B C, S, N, D]``."""
        ends = self.ends_of(window)
        level, scale, spread, mean, deviation = self.numbers(window, "level", "scale", "spread", "mean", "deviation")
        usual = (wanted.profile - level) / scale
        known = torch.stack([usual, torch.ones_like(usual)], -1)
        known = known if wanted.extra is None else torch.cat([known, wanted.extra], -1)
        place = torch.stack([(level - mean) / deviation, (scale / deviation).log(), (spread / scale).log()], -1)
        place = ends.series(place).transpose(0, 1).repeat(window.batch_size, 1, 1)[:, None]  # [B C, 1, N, D]
        if self.place is not None:
            place = place + self.place(self.surrounding_features(window), window.values.shape[2])
        if self.nodes is not None:
            place = place + self.nodes
        clock = self.token_clock(wanted).repeat_interleave(usual.shape[-1], 0)[:, :, None]   # [B C, S, 1, D]
        return ends.ask(on_cells(known, wanted.layout)) + place + clock

    def token_clock(self, wanted: Wanted) -> Tensor:
        """The code of the clock at the middle of each wanted token, ``[B, S, D]``."""
        calendar, layout = wanted.calendar, wanted.layout
        minute = calendar.minute[:, layout.middle_step] + layout.middle_offset
        return self.clock(minute % 1440, next_day(calendar.weekday[:, layout.middle_step], minute))

    def answer(self, h: Tensor, window: Window, wanted: Wanted) -> Tensor:
        """``g * profile + (1 - g) * nearest reading + spread * d``, ``[B, L, N, C]``."""
        ends = self.ends_of(window)
        both = torch.stack([ends.gate(h), ends.correct(h)], -1).flatten(-2)                   # [B C, S, N, 2 G]
        gate, correction = off_cells(both, wanted.layout, window.values.shape[-1]).unbind(-1)
        return torch.lerp(wanted.base, wanted.profile, gate.sigmoid()) + self.scale(window) * correction

    # ---------------------------------------------------------------- the city
    def ends_of(self, window: Window) -> Ends:
        """The projections of the window's type of nodes."""
        kind = window.city.node_type
        ends = self.ends[kind if kind in self.ends else "any"]
        assert isinstance(ends, Ends)
        return ends

    @staticmethod
    def numbers(window: Window, *names: str) -> list[Tensor]:
        """Numbers of the city's context by name: ``level``, ``scale``, ``spread`` ``[N, C]``, ``mean`` ... ``[C]``."""
        return [torch.from_numpy(getattr(window.city.context, name)).to(window.values) for name in names]

    def scale(self, window: Window) -> Tensor:
        """The usual size of a departure, ``[N, C]``."""
        return self.numbers(window, "spread")[0]

    def surroundings(self, window: Window) -> Surroundings:
        """Relations and patches of the window's city; made once for its descriptors, then kept."""
        return self._made(window)[0]

    def surrounding_features(self, window: Window) -> dict[str, Any]:
        """Features of the city's places."""
        return self._made(window)[1]

    def _made(self, window: Window) -> tuple[Surroundings, dict[str, Any]]:
        city, device = window.city, window.values.device
        if city.context not in self._around:
            found = {name: relation.to(device) for name, relation in relations(city, self.config).items()}
            cut = patches(city, self.config.patch_size).to(device) if "patch" in self.config.parts else None
            features = place_features(city) if self.place is not None else {}
            self._around[city.context] = Surroundings(relations=found, partition=cut), features
        return self._around[city.context]


RELATIONS = ("given", "reversed given", "alike")


def relations(city: City, config: WeaveConfig) -> dict[RelationName, Relation]:
    """The given edges without loops, in both directions, and those between series that depart alike."""
    found: dict[RelationName, Relation] = {}
    index, weight = city.edges
    apart = index[0] != index[1]
    if config.given and bool(apart.any()):
        adjacency = Adjacency.of_edges(index[:, apart], city.num_nodes, city.num_nodes)
        found["given"] = Relation(adjacency, weight[apart])
        found["reversed given"] = found["given"].reversed()
    if config.alike:
        found["alike"] = residual_graph(city, config.alike)
    return found


def patches(city: City, size: int) -> Partition:
    """Patches of at most ``size`` neighbours: by place, or by profile where places are not known."""
    count = -(-city.num_nodes // size)
    if torch.isfinite(city.lonlat).all(1).any():
        return kdtree(local_metres(city.lonlat.numpy()), count)
    profile = city.context.day_profile() / city.context.deviation                     # [slots, N, C]
    return feature(profile.transpose(1, 2, 0).reshape(city.num_nodes, -1), count)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
