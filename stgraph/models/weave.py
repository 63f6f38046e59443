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

from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.models.profile_mlp import gated_answer, series_features
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
        needs = frozenset({"profile", "lags"} if config.lags else {"profile"})
        return Capabilities(inductive=True, needs=needs, any_series=True)

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        batch, _, nodes, channels = window.values.shape
        h = self.inside(self.features(window))                                       # [B, N, C, D]
        h = h.permute(0, 2, 1, 3).reshape(batch * channels, 1, nodes, -1)            # [B C, 1, N, D]
        h = self.norm(self.stack(h, self.surroundings(window)))
        return gated_answer(window, self.outside(h).view(batch, channels, nodes, -1).transpose(1, 2))

    def features(self, window: Window) -> Tensor:
        """What is known of each series, ``[B, N, C, F]``: all without a unit."""
        parts = series_features(window, self.config.harmonics)
        if self.config.city_mean:
            seen = window.mask.movedim(1, -1).sum(1, keepdim=True)
            parts.append((parts[0].sum(1, keepdim=True) / seen.clamp(min=1)).expand_as(parts[0]))
        if self.config.lags:
            assert window.lags is not None, "the window was cut without lags"
            assert window.profile_future is not None, "the window was cut without a profile"
            future = window.profile_future.movedim(1, -1)
            spread = torch.from_numpy(window.city.context.spread).to(future)[..., None]
            for earlier, there in (window.lags["yesterday"], window.lags["last_week"]):
                there = there.movedim(1, -1)
                parts += [torch.where(there, (earlier.movedim(1, -1) - future) / spread, 0), there.to(future)]
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
