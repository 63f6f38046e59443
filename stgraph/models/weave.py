"""Weave: departures from what is usual at a place, woven over the graph and over patches of neighbours. Inductive.

One architecture that holds three lineages: message passing over the given and a learned relation (OpenCity's residual
graph, STEP's k-sparse graph), attention inside and across bounded patches (PatchSTG), and the answer of the profile MLP
where neither has anything to add. Every part is named in the config, in any order; nothing is typed in per data set and
no parameter's shape depends on the number of nodes. Cost is linear in nodes and edges.

What goes over the edges are departures of each node from its own profile, not readings: what is usual needs no
message. The profile leaves each training row's own day out (:mod:`stgraph.windows.context`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes, check_needs
from stgraph.models.controls import last_observed
from stgraph.models.profile_mlp import calendar_code
from stgraph.nn.blocks import BlockConfig, SpaceTimeStack, Surroundings
from stgraph.nn.learned_graph import residual_graph
from stgraph.nn.message_passing import Relation, RelationName
from stgraph.ops import Adjacency
from stgraph.partition import Partition, feature, kdtree, local_metres
from stgraph.windows import City, Forecast, Window


@dataclass(frozen=True)
class WeaveConfig:
    """Structure of the model. Turning parts off gives the models it holds: see ``parts``."""

    width: int = 96  # of the state of each series
    layers: int = 3  # blocks
    parts: str = "graph,mlp"  # of a block, in this order: any of graph, learned_graph, patch, linear_time, mlp ...
    expansion: float = 2.0  # hidden width of an MLP, in widths
    dropout: float = 0.1  # inside parts
    harmonics: int = 4  # of the time of day
    given: bool = True  # graph: the relations of the city, in both directions
    alike: int = 8  # graph: edges a node gets from the series whose departures are most like its own; 0: none
    city_mean: bool = True  # the city's mean departure is an input
    lags: bool = False  # departures of the wanted steps a day and a week ago are inputs
    patch_size: int = 32  # patch: nodes of a patch at most


class Weave(Forecaster):
    """Series by series as in the profile MLP, with blocks of parts between the features and the answer.

    Shapes: a series is a node and a channel; states are ``h [B C, 1, N, D]``, one token for the whole window.
    """

    name = "weave"
    Config = WeaveConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "weight_decay": 1e-4, "batch_size": 32}

    def __init__(self, config: WeaveConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        parts = tuple(part for part in config.parts.split(",") if part)
        features = (4 + config.city_mean) * sizes.history + (1 + 4 * config.lags) * sizes.horizon + 2 * config.harmonics
        self.inside = nn.Linear(features + 7 + 3, config.width)
        block = BlockConfig(parts, config.width, dropout=config.dropout, relations=RELATIONS,
                            expansion=config.expansion, silence=False)
        self.stack = SpaceTimeStack([block] * config.layers)
        self.norm = nn.LayerNorm(config.width)
        self.outside = nn.Linear(config.width, 2 * sizes.horizon)
        nn.init.zeros_(self.outside.weight)  # it starts from the mean of profile and last value
        nn.init.zeros_(self.outside.bias)
        self._around: WeakKeyDictionary[Any, Surroundings] = WeakKeyDictionary()

    @classmethod
    def describe(cls, config: WeaveConfig) -> Capabilities:
        """Inductive; needs the profile, and the days before where it reads them."""
        return Capabilities(inductive=True, needs=frozenset({"profile", "lags"} if config.lags else {"profile"}))

    def check(self, city: City) -> None:
        """Any number of nodes, channels and slots of a day will do; history and horizon must be those of training.

        Raises:
            InputError: for another history or horizon.
        """
        for field in ("history", "horizon"):
            trained, given = getattr(self.sizes, field), getattr(city, field)
            if trained != given:
                raise InputError(f"the model '{self.name}' was trained with {field} {trained}", field=field,
                                 value=given, remedy=f"use --{field} {trained}, or train with the other")
        check_needs(self.name, self.capabilities, city)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        assert window.profile_future is not None, "the window was cut without a profile"
        batch, _, nodes, channels = window.values.shape
        h = self.inside(self.features(window))                                       # [B, N, C, D]
        h = h.permute(0, 2, 1, 3).reshape(batch * channels, 1, nodes, -1)            # [B C, 1, N, D]
        h = self.norm(self.stack(h, self.surroundings(window)))
        answer = self.outside(h).view(batch, channels, nodes, -1).transpose(1, 2)    # [B, N, C, 2 H]
        gate, correction = answer.chunk(2, -1)
        usual = window.profile_future.movedim(1, -1)                                 # [B, N, C, H]
        last, seen = last_observed(window)
        last = torch.where(seen[..., None], last[..., None], usual)
        spread = torch.from_numpy(window.city.context.spread).to(usual)[..., None]
        return Forecast((torch.lerp(last, usual, gate.sigmoid()) + spread * correction).movedim(-1, 1))

    def features(self, window: Window) -> Tensor:
        """What is known of each series, ``[B, N, C, F]``: all without a unit."""
        assert window.profile_past is not None, "the window was cut without a profile"
        assert window.profile_future is not None, "the window was cut without a profile"
        context = window.city.context
        level, scale, spread = (torch.from_numpy(value).to(window.values)[..., None]  # [N, C, 1]
                                for value in (context.level, context.scale, context.spread))
        mean, deviation = (torch.from_numpy(value).to(level) for value in (context.mean, context.deviation))  # [C]
        past, future = window.profile_past.movedim(1, -1), window.profile_future.movedim(1, -1)  # [B, N, C, T or H]
        values, mask = window.values.movedim(1, -1), window.mask.movedim(1, -1)
        departure = torch.where(mask, (values - past) / spread, 0)                    # [B, N, C, T]
        place = torch.stack([(level[..., 0] - mean) / deviation, (scale[..., 0] / deviation).log(),
                             (spread[..., 0] / scale[..., 0]).log()], -1)             # [N, C, 3]
        clock = calendar_code(window.future, self.config.harmonics).to(values)[:, None, None]
        parts = [departure, torch.where(mask, (values - level) / scale, 0), mask.to(values), (past - level) / scale,
                 (future - level) / scale, clock.expand(*values.shape[:3], -1), place.expand(len(values), -1, -1, -1)]
        if self.config.city_mean:
            whole = departure.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
            parts.append(whole.expand_as(departure))
        if self.config.lags:
            assert window.lags is not None, "the window was cut without lags"
            for earlier, there in (window.lags["yesterday"], window.lags["last_week"]):
                there = there.movedim(1, -1)
                parts += [torch.where(there, (earlier.movedim(1, -1) - future) / spread, 0), there.to(values)]
        return torch.cat(parts, -1)

    def surroundings(self, window: Window) -> Surroundings:
        """Relations and patches of the window's city; made once for its descriptors, then kept."""
        city, device = window.city, window.values.device
        if city.context not in self._around:
            self._around[city.context] = Surroundings(
                relations={name: relation.to(device) for name, relation in relations(city, self.config).items()},
                partition=patches(city, self.config.patch_size).to(device) if "patch" in self.config.parts else None)
        kept = self._around[city.context]
        return Surroundings(relations=kept.relations, partition=kept.partition)


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
