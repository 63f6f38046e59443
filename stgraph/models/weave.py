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

Nodes of several types are woven at once: those with a signal as above, others by tokens of their attributes, along the
relations that stand at the window's origin. A type that is not there costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.models.weave_city import Around, each_channel, names, relation_names, relations
from stgraph.nn import CalendarEmbedding, FutureQueries, PatchLayout, PlaceCode, QuantileHead
from stgraph.nn.attributes import AttributeTokens
from stgraph.nn.blocks import BlockConfig, SpaceTimeStack, Surroundings
from stgraph.nn.calendar import next_day
from stgraph.nn.message_passing import Relation, RelationName
from stgraph.nn.series import interpolate, off_cells, on_cells
from stgraph.nn.time_patches import patch_layout
from stgraph.partition import Partition
from stgraph.windows import AttributeWindow, Calendar, City, Context, Forecast, Layer, Window

__all__ = ["Weave", "WeaveConfig", "relations"]


@dataclass(frozen=True)
class WeaveConfig:
    """Structure of the model. Turning parts off gives the models it holds: see ``parts``."""

    width: int = 96  # of the state of a token
    layers: int = 3  # blocks
    parts: str = "mlp"  # of a block, in this order: any of stgraph.nn.blocks, such as time, graph, patch, mlp
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
    lags: bool = True  # departures of the wanted steps a day and a week ago are read too
    patch_size: int = 32  # patch: nodes of a patch at most
    breadth: Literal["summaries", "same_slot"] = "summaries"  # patch: how patches meet
    quantiles: str = ""  # levels to answer beside the middle one, such as 0.05,0.5,0.95
    node_codes: bool = False  # a learned vector for each node of one network: transductive
    diffusion: bool = False  # can be trained to take noise away
    types: str = ""  # of nodes that have projections in and out of their own; all others share
    relations: str = ""  # graph: between types, such as at,on,in, that have weights of their own; all others share
    buckets: int = 0  # rows of the table of attributes; 0: none, and 1024 for a city with types known by them


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

    Shapes: states are ``h [B C, S, N, D]`` with ``S`` tokens of what is wanted, for each type of nodes.
    """

    name = "weave"
    Config = WeaveConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "weight_decay": 1e-4, "batch_size": 32}
    several_types: ClassVar[bool] = True

    def __init__(self, config: WeaveConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        width, cells = config.width, round(config.minutes / config.cell)
        if cells < 1 or abs(cells * config.cell - config.minutes) > 1e-6:
            raise InputError("the cells do not divide the token", field="cell", value=config.cell,
                             remedy=f"choose a divisor of {config.minutes:g} minutes")
        self.cells, self.levels = cells, tuple(float(level) for level in names(config.quantiles))
        self.embedding_width = width
        self.ends = nn.ModuleDict({kind: Ends(config, cells, self.levels) for kind in ("any", *names(config.types))})
        self.clock = CalendarEmbedding(width, config.harmonics)
        self.place = PlaceCode(width, names(config.place)) if config.place else None
        self.nodes = nn.Parameter(torch.zeros(sizes.nodes, width)) if config.node_codes and sizes.nodes else None
        self.recall = FutureQueries(width, config.heads, config.dropout)
        block = BlockConfig(names(config.parts), width, config.heads, config.dropout, silence=False,
                            diffusion=config.diffusion, relations=relation_names(config),
                            expansion=config.expansion, breadth=config.breadth)
        self.stack = SpaceTimeStack([block] * config.layers)
        self.norm = nn.LayerNorm(width)
        self.attributes = AttributeTokens(width, config.buckets) if config.buckets else None
        self._around: WeakKeyDictionary[Context, dict[str, Around]] = WeakKeyDictionary()

    @classmethod
    def describe(cls, config: WeaveConfig) -> Capabilities:
        """Inductive, unless it holds codes of nodes; needs the profile, and the days before where it reads them."""
        return Capabilities(inductive=not config.node_codes, any_horizon=True, any_series=True,
                            needs=frozenset({"profile", "lags"} if config.lags else {"profile"}),
                            gives="quantiles" if config.quantiles else "point")

    @classmethod
    def for_city(cls, city: City, config: WeaveConfig | None = None) -> Forecaster:
        """A new model for a city; with a table of attributes where types of nodes are known by nothing else."""
        config = cls.Config() if config is None else config
        if not config.buckets and any(isinstance(other, Layer) for other in city.others.values()):
            config = replace(config, buckets=BUCKETS)
        return super().for_city(city, config)

    def check(self, city: City) -> None:
        """As :meth:`Forecaster.check`; types of nodes that meet have as many channels, or one."""
        super().check(city)
        for kind, other in city.others.items():
            if isinstance(other, Layer) and self.attributes is None:
                raise InputError("this model reads no attributes", field="also", value=kind,
                                 remedy=f"train it with --set buckets={BUCKETS}, or leave this type out")
            if isinstance(other, City) and other.num_channels not in (1, city.num_channels):
                raise InputError(f"types of nodes that meet have one channel, or as many as '{city.node_type}'",
                                 field="also", value=f"{kind}: {', '.join(other.signal.channel_names)}",
                                 remedy="choose channels, such as --also "
                                        f"{kind}:{other.signal_name}:{other.signal.channel_names[0]}")
        if city.others and not {"graph", "learned_graph"} & set(names(self.config.parts)):
            raise InputError("types of nodes meet in messages only, and this model passes none", field="parts",
                             value=self.config.parts, remedy="train it with --set parts=graph,mlp")
        if city.others and self.nodes is not None:
            raise InputError("codes of nodes are for one type of nodes", field="node_codes", value=True,
                             remedy="leave out node_codes, or the other types")

    # ---------------------------------------------------------------- tasks
    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units; of all types with a signal that the window holds."""
        states, wanted = self.woven(window)
        found = {kind: self.forecast(states[kind], one, wanted[kind]) for kind, one in signals(window).items()}
        forecast = found.pop(window.city.node_type)
        forecast.others = found
        return forecast

    def forecast(self, h: Tensor, window: Window, wanted: Wanted) -> Forecast:
        """The forecast that states of the wanted tokens tell."""
        mean = self.answer(h, window, wanted)
        spread = self.ends_of(window).spread
        if spread is None:
            return Forecast(mean)
        around = off_cells(spread(h).flatten(-2), wanted.layout, mean.shape[-1])        # [B, H, N, C, Q]
        quantiles = mean[..., None] + self.scale(window)[..., None] * around
        middle = min(range(len(self.levels)), key=lambda k: abs(self.levels[k] - 0.5))
        return Forecast(quantiles[..., middle], quantiles, self.levels)

    def reconstruct(self, window: Window, hidden: Tensor) -> Tensor:
        """Every entry of the window's own type, ``[B, L, N, C]``, from that type alone; see
        :class:`stgraph.objectives.protocols.Reconstructs`."""
        wanted = self.inside(window)
        return self.answer(self.states(window, wanted), window, wanted)

    def embed(self, window: Window) -> Tensor:
        """The state of each node before the first step to come, ``[B, N, D]``, the mean over its channels."""
        return self.of_nodes(self.woven(window)[0][window.city.node_type], window)

    def tell(self, window: Window, kind: str, name: str) -> Tensor:
        """See :class:`stgraph.objectives.attributes.TellsAttributes`."""
        other = window.others[kind]
        assert isinstance(other, AttributeWindow), "the type has a signal"
        assert self.attributes is not None, "the model reads no attributes"
        return self.attributes.told(self.of_nodes(self.woven(window)[0][kind], window), other.city, name)

    @staticmethod
    def of_nodes(h: Tensor, window: Window) -> Tensor:
        """States ``[B, N, D]`` of nodes before the first wanted step, the mean over channels."""
        return h[:, 0].unflatten(0, (window.batch_size, -1)).mean(1)

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
        unknown = usual.new_zeros(*usual.shape, 4) if self.config.lags else None  # the days before are of steps to come
        return Wanted(window.past, usual, interpolate(window.values, window.mask, usual),
                      self.layout(window, usual.shape[1]), unknown)

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
    def woven(self, window: Window) -> tuple[dict[str, Tensor], dict[str, Wanted]]:
        """States of the steps to come of every type of nodes after all blocks, and what was asked of those with a
        signal."""
        wanted = {kind: self.to_come(one) for kind, one in signals(window).items()}
        tokens = {kind: self.tokens(one, wanted[kind]) for kind, one in signals(window).items()}
        own = wanted[window.city.node_type]
        tokens |= {kind: self.attribute_tokens(one, window, own) for kind, one in window.others.items()
                   if isinstance(one, AttributeWindow) and one.nodes.numel()}
        return self.mixed(tokens, window, own), wanted

    def states(self, window: Window, wanted: Wanted, code: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """States of the wanted tokens of the window's own type alone after all blocks, ``[B C, S, N, D]``.

        Args:
            window: What was seen.
            wanted: What is asked for.
            code: ``[B C, S, N, D]`` more that is known of the wanted tokens.
            time: ``[B]`` of a diffusion.
        """
        own = window.city.node_type
        return self.mixed({own: self.tokens(window, wanted, code)}, window, wanted, time)[own]

    def mixed(self, tokens: dict[str, Tensor], window: Window, wanted: Wanted, time: Tensor | None = None
              ) -> dict[str, Tensor]:
        """Tokens ``[B C, S, N, D]`` of each type through all blocks; one channel meets each of several others."""
        batch = window.batch_size
        channels = max(h.shape[0] for h in tokens.values()) // batch
        around = replace(self.surroundings(window, tokens, channels), minutes=wanted.layout.minutes,
                         span=wanted.layout.span,
                         diffusion_time=None if time is None else time.repeat_interleave(channels))
        several = {kind: h if h.shape[0] == batch * channels else h.repeat_interleave(channels, 0)
                   for kind, h in tokens.items()}
        return {kind: self.norm(h if h.shape[0] == tokens[kind].shape[0] else h.unflatten(0, (batch, -1)).mean(1))
                for kind, h in self.stack(several, around).items()}

    def tokens(self, window: Window, wanted: Wanted, code: Tensor | None = None) -> Tensor:
        """The wanted tokens before the blocks, each told of its own past, ``[B C, S, N, D]``."""
        layout = self.layout(window, window.values.shape[1])
        past = self.ends_of(window).read(on_cells(self.seen(window), layout, mean_of=2))
        h = self.query(window, wanted)
        h = h if code is None else h + code
        return h + self.recall(past, h, minutes=(wanted.layout.minutes, layout.minutes))

    def attribute_tokens(self, other: AttributeWindow, window: Window, wanted: Wanted) -> Tensor:
        """Tokens of nodes that have attributes and no signal, ``[B, S, M, D]``."""
        assert self.attributes is not None, "the model reads no attributes"
        h = self.attributes(other)
        if self.place is not None:
            nodes = other.nodes.flatten().cpu().numpy()
            features = self.made(window).features(other.city)
            h = h + self.place({name: part[nodes] for name, part in features.items()}, len(nodes)).view(
                *other.nodes.shape, -1)
        return h[:, None] + self.token_clock(wanted)[:, :, None]

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
            place = place + self.place(self.made(window).features(window.city), window.values.shape[2])
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
        both = torch.stack([ends.gate(h).sigmoid(), ends.correct(h)], -1).flatten(-2)         # [B C, S, N, 2 G]
        gate, correction = off_cells(both.to(wanted.base), wanted.layout, window.values.shape[-1]).unbind(-1)
        return torch.lerp(wanted.base, wanted.profile, gate) + self.scale(window) * correction

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

    def surroundings(self, window: Window, kinds: Collection[str], channels: int) -> Surroundings:
        """Relations and patches of some types of the window's nodes, as they stand at the origins of the window."""
        found: dict[RelationName, Relation] = {}
        cut: dict[str, Partition] = {}
        for kind, one in signals(window).items():
            if kind in kinds:
                made = self.made(one)
                found |= made.relations
                cut |= {kind: made.partition} if made.partition is not None else {}
        if self.config.given:
            between = self.made(window).between(kinds, window.city.others)
            layers = {kind: one for kind, one in window.others.items() if isinstance(one, AttributeWindow)}
            moments = window.origin
            if between.living:
                times = window.city.time.times(window.origin.cpu().numpy())
                moments = torch.from_numpy(times).to(window.origin)
            found |= {name: each_channel(one, channels) for name, one in between.at(moments, layers).items()}
        return Surroundings(relations=found, partition=cut)

    def made(self, window: Window) -> Around:
        """What stands around the nodes of the window's own type; made once for its descriptors, then kept."""
        city, device = window.city, window.values.device
        kept = self._around.setdefault(city.context, {})
        if str(device) not in kept:
            with torch.inference_mode(False):  # it may be met again in training
                kept[str(device)] = Around(city, self.config, device)
        return kept[str(device)]


BUCKETS = 1024


def signals(window: Window) -> dict[str, Window]:
    """The window by its type of nodes, and the others that have a signal."""
    return {window.city.node_type: window} | {kind: one for kind, one in window.others.items()
                                              if isinstance(one, Window)}
