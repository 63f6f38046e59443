"""OpenCity: hourly tokens, queries of the future's calendar and one hop of messages a block; no table of nodes.

Z. Li, L. Xia, L. Shi, Y. Xu, D. Yin, C. Huang: OpenCity: Open Spatio-Temporal Foundation Models for Traffic
Prediction, arXiv 2408.10269. Different here, and why:

* A day in and a day out become any history and any horizon. After the first block a token stands for the future; what
  it carries over is the past token of the same hour on the latest day that the window shows (for a day in and a day
  out that is the token of the same number, as in the paper), the last one where the window is too short.
* Tokens are read and written on cells of 5 minutes, and one head answers each token, so weights mean the same at every
  interval (paper: padding with zeros, so that a column meant other lead times at another interval).
* Messages run along sparse edges, one hop a block as in the paper, of one relation or several; the graph belongs to
  the city of the window (paper: a dense matrix, looked up by the number of nodes). Edges count in both directions.
* The deviation of a window has a floor in proportion to the node's own, and counts observed readings only; what was
  not observed is marked, and tokens without any reading are not looked at.
* Time of day is continuous and read at the middle of a token (paper: tables at its first step); eigenvectors are
  encoded whatever their sign; return probabilities and degrees stand beside them.
* Attention of the shared blocks has a projection after its heads, and among future tokens the minutes between them.
* Every channel is a series by itself, so another number of channels needs no other weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.nn import (
    CalendarEmbedding,
    FutureQueries,
    PatchLayout,
    PatchValues,
    PlaceCode,
    Relation,
    SwiGLU,
    TemporalAttention,
    TimePatches,
    TypedMessagePassing,
    WindowScaler,
    place_features,
)
from stgraph.nn.calendar import next_day
from stgraph.nn.message_passing import RelationName
from stgraph.ops import Adjacency
from stgraph.windows import Calendar, City, Context, Forecast, Window

Relations = dict[RelationName, Relation]
_LIVES = {"valid_from": torch.iinfo(torch.int64).min, "valid_to": torch.iinfo(torch.int64).max}  # of what always lives


@dataclass(frozen=True)
class OpenCityConfig:
    """Structure of OpenCity. The defaults suit some hundred nodes on a CPU.

    The paper's have ``heads=16, place="laplacian"`` and width 128 with 3 layers (mini), 256 with 3 (base) or 512 with
    6 (plus).
    """

    width: int = 64  # of a token
    layers: int = 3  # blocks; messages reach as many hops
    heads: int = 4  # of both attentions; twice their number divides the width
    dropout: float = 0.1  # on what a node hears
    attention_dropout: float = 0.3  # on attention weights
    own: float = 0.05  # share of a node's own state beside what it hears
    minutes: float = 60.0  # a token; a multiple of 5
    place: str = "laplacian,walk,degree"  # parts of the place code, of those of stgraph.nn.place_features
    relations: str = ""  # names of relations with weights of their own, by commas; all others share
    bases: int = 1  # matrices that relations are mixtures of
    floor: float = 0.05  # least deviation of a window, as a share of the node's


class Block(nn.Module):
    r"""Time by the calendar, time by content, neighbours, gated feed-forward; pre-norm with an inner residual.

    .. math::
        c = N(N(h') + \mathrm{Attn}(q, k, N(h))), \qquad t = N(c + \mathrm{Attn}(c, c, c)), \qquad
        g = \tfrac{1}{R} \sum_r \bar A_r\, t\, W_r

        h \leftarrow h' + \mathrm{drop}(W_2 (0.05\, t + 0.95\, g) + b), \qquad
        h \leftarrow h + \mathrm{SwiGLU}(N(h))

    with ``N`` RMS norms, ``q`` and ``k`` codes of calendar and place, :math:`h'` what is carried over.

    Shapes:
        ``h [B, S, N, D]``, carried, query ``[B, L, N, D]``, key ``[B, S, N, D]``, seen None or ``[B, S, N]`` bool,
        minutes ``[L]``, times None or ``[B, 1]`` int64 -> ``[B, L, N, D]``.
    """

    def __init__(self, config: OpenCityConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.attention_dropout
        names = [name.strip() for name in config.relations.split(",") if name.strip()]
        self.own = config.own
        self.before, self.between, self.after, self.last = (nn.RMSNorm(width, eps=1e-6) for _ in range(4))
        self.calendar = FutureQueries(width, heads, dropout)
        self.content = TemporalAttention(width, heads, dropout)
        self.neighbours = TypedMessagePassing(width, names, config.bases)
        self.mix, self.drop = nn.Linear(width, width), nn.Dropout(config.dropout)
        self.feed = SwiGLU(width)

    def forward(self, h: Tensor, carried: Tensor, query: Tensor, key: Tensor, seen: Tensor | None, minutes: Tensor,
                relations: Relations, times: Tensor | None = None) -> Tensor:
        """States of the future tokens."""
        normal = self.before(h)
        kept = normal if carried is h else self.before(carried)
        c = self.between(kept + self.calendar(normal, query, key, seen))               # [B, L, N, D]
        t = self.after(c + self.content(c, minutes))
        heard = self.neighbours(t, relations, times) / len(relations)
        h = carried + self.drop(self.mix(self.own * t + (1 - self.own) * heard))
        return h + self.feed(self.last(h))


class OpenCity(Forecaster):
    """Each series on its own scale, in tokens of an hour; the calendar to come asks the hours that were.

    The window should show a day: with less than two tokens the calendar has nothing to choose from.
    """

    name = "opencity"
    Config = OpenCityConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "weight_decay": 0.0, "batch_size": 8}

    def __init__(self, config: OpenCityConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        if config.layers < 1:
            raise InputError("the first block turns past into future", field="layers", value=config.layers,
                             remedy="choose at least 1")
        self.parts = tuple(part.strip() for part in config.place.split(",") if part.strip())
        if not self.parts:
            raise InputError("calendar and place choose among the hours", field="place", value=config.place,
                             remedy="name at least one part, such as laplacian")
        self.scaler = WindowScaler(config.floor)
        self.patches = TimePatches(config.minutes, config.width, channels=1)
        self.clock = CalendarEmbedding(config.width)
        self.place = PlaceCode(config.width, self.parts)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = PatchValues(config.minutes, config.width, channels=1)
        self._maps: WeakKeyDictionary[Context, dict[str, Any]] = WeakKeyDictionary()

    @classmethod
    def describe(cls, config: OpenCityConfig) -> Capabilities:
        """Inductive, and at home at any horizon and interval."""
        return Capabilities(inductive=True, any_horizon=True, any_series=True)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        city, channels = window.city, window.values.shape[-1]
        level, scale = (torch.from_numpy(one).to(window.values) for one in (city.context.level, city.context.scale))
        scaled, undo = self.scaler(window.values, window.mask, level, scale)           # [B, T, N, C]
        minutes, steps = city.time.step / 60, window.values.shape[1]
        past, future = self.patches.layout(steps, minutes), self.head.layout(window.horizon, minutes, ahead=True)
        tokens, seen = self.patches(_series(scaled), _series(window.mask), minutes)    # [B C, S, N, D], [B C, S, N]

        features, relations = self.map_of(city, tokens.device)
        place = self.place(features, city.num_nodes)                                   # [N, D]
        key, query = (self.known(calendar, layout).repeat_interleave(channels, 0)[:, :, None] + place
                      for calendar, layout in ((window.past, past), (window.future, future)))
        times = None
        if any(one.valid_from is not None for one in relations.values()):              # edges as they are now
            now = torch.from_numpy(city.time.times(window.origin.cpu().numpy())).to(tokens.device)
            times = now.repeat_interleave(channels)[:, None]

        same = same_hour(past, future, window.past.slots_per_day * minutes)            # [L]
        length = self.patches.minutes
        carried = tokens[:, same] + position_code(future.minutes / length, tokens)[:, None]
        tokens = tokens + position_code(past.minutes / length, tokens)[:, None]
        h = self.blocks[0](tokens, carried, query, key, seen, future.minutes, relations, times)
        for block in self.blocks[1:]:
            h = block(h, h, query, key[:, same], None, future.minutes, relations, times)   # [B C, L, N, D]
        y = self.head(h, window.horizon, minutes, ahead=True)                          # [B C, H, N, 1]
        return Forecast(undo.undo(y[..., 0].unflatten(0, (-1, channels)).movedim(1, -1)))

    def known(self, calendar: Calendar, layout: PatchLayout) -> Tensor:
        """The code of the clock at the middle of each token, ``[B, S, D]``."""
        minute = calendar.minute[:, layout.middle_step] + layout.middle_offset
        return self.clock(minute % 1440, next_day(calendar.weekday[:, layout.middle_step], minute))

    def map_of(self, city: City, device: torch.device) -> tuple[dict[str, np.ndarray], Relations]:
        """Place features and relations of a city, made once and kept as long as its descriptors are."""
        made = self._maps.setdefault(city.context, {})
        if "features" not in made:
            source = city if "profile" in self.parts else city.graph
            made["features"] = place_features(source, city.node_type, walk_steps=16 if "walk" in self.parts else 1,
                                              vectors=8 if "laplacian" in self.parts else 0)
        if str(device) not in made:
            made[str(device)] = {name: one.to(device) for name, one in smoothing_relations(city).items()}
        return made["features"], made[str(device)]


def _series(x: Tensor) -> Tensor:
    """Each channel as a sample of its own: ``[B, T, N, C]`` to ``[B C, T, N, 1]``."""
    return x.movedim(-1, 1).flatten(0, 1)[..., None]


def same_hour(past: PatchLayout, future: PatchLayout, day: float) -> Tensor:
    """The past token at the same time of day as each future one, on the latest day shown; else the last: ``[L]``.

    Args:
        past: Tokens that end now.
        future: Tokens that begin now.
        day: Minutes of a (service) day.
    """
    before = day - future.minutes % day                                                # minutes before now, (0, day]
    token = past.tokens - 1 - torch.floor(before / past.span).long()
    return torch.where(token >= 0, token, past.tokens - 1)


def position_code(number: Tensor, like: Tensor) -> Tensor:
    """Sines and cosines of token numbers (from now, fractions allowed) ``[S]`` at geometric frequencies: ``[S, D]``.

    A. Vaswani et al.: Attention Is All You Need, NeurIPS 2017.
    """
    half = like.shape[-1] // 2
    angle = number.float()[:, None] * torch.logspace(0, -4 * (half - 1) / half, half, device=like.device)
    return torch.cat([angle.sin(), angle.cos()], -1).to(like)


def smoothing_relations(city: City) -> Relations:
    r"""Every relation among a city's nodes, ready to smooth along: :math:`I + D^{-1/2} A D^{-1/2}` as edges.

    ``A`` is the mean of the weights there and back, so it is symmetric; message passing divides by the sums of rows.
    Loops of the graph do not count. A city without edges has the identity alone.
    """
    graph, nodes = city.graph, city.num_nodes
    kinds = [kind for kind in graph.edge_types if kind[0] == kind[2] == city.node_type]
    out: Relations = {}
    itself = torch.arange(nodes).expand(2, -1)
    for kind in kinds:
        store = graph[kind]
        real = store.edge_index[0] != store.edge_index[1]
        index = store.edge_index[:, real]
        weight = store.edge_weight[real].float() if "edge_weight" in store else torch.ones(index.shape[1])
        index, weight = torch.cat([index, index.flip(0)], 1), weight.repeat(2) / 2
        root = torch.zeros(nodes).index_add(0, index[1], weight).sqrt()
        weight = weight / (root[index[0]] * root[index[1]]).clamp(min=torch.finfo(torch.float32).tiny)
        lives = {}
        if "valid_from" in store or "valid_to" in store:
            for name, always in _LIVES.items():
                given = store[name][real] if name in store else torch.full((int(real.sum()),), always)
                lives[name] = torch.cat([given, given, torch.full((nodes,), always)])
        out[kind] = Relation(Adjacency.of_edges(torch.cat([index, itself], 1), nodes, nodes),
                             torch.cat([weight, torch.ones(nodes)]), **lives)
    return out or {"itself": Relation(Adjacency.of_edges(itself, nodes, nodes))}
