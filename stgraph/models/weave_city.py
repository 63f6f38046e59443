"""What stands around the nodes of a city for :mod:`stgraph.models.weave`: relations, patches, features of places."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from stgraph.nn import place_features
from stgraph.nn.between import Between
from stgraph.nn.learned_graph import residual_graph
from stgraph.nn.message_passing import Relation, RelationName
from stgraph.ops import Adjacency
from stgraph.partition import Partition, feature, kdtree, local_metres
from stgraph.windows import City, Layer

if TYPE_CHECKING:
    from stgraph.models.weave import WeaveConfig

RELATIONS = ("given", "reversed given", "alike")


class Around:
    """What stands around the nodes of one type of a city, whatever the window.

    Attributes:
        relations: Lasting ones among these nodes.
        partition: Their patches, where a part needs them.
    """

    def __init__(self, city: City, config: WeaveConfig, device: torch.device) -> None:
        kind = city.node_type
        self.relations: dict[RelationName, Relation] = {
            (kind, name, kind): relation.to(device) for name, relation in relations(city, config).items()}
        self.partition = patches(city, config.patch_size).to(device) if "patch" in config.parts else None
        self._graph = city.graph
        self._features: dict[str, dict[str, Any]] = {}
        self._between: dict[tuple[str, ...], Between] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Around:
        return self  # it belongs to the city: a copy of the model shares it

    def features(self, city: City | Layer) -> dict[str, Any]:
        """Features of the places of these nodes, or of a layer beside them."""
        kind = city.node_type
        if kind not in self._features:
            self._features[kind] = place_features(city if isinstance(city, City) else city.graph, kind)
        return self._features[kind]

    def between(self, kinds: Collection[str], others: Mapping[str, City | Layer]) -> Between:
        """Relations between types of nodes, and those that change with time."""
        key = tuple(sorted(kinds))
        if key not in self._between:
            timed = [kind for kind in key if isinstance(other := others.get(kind), Layer) and other.timed]
            pooled = [kind for kind in key if not isinstance(others.get(kind), Layer)]
            with torch.inference_mode(False):  # as the rest, it may be met again in training
                self._between[key] = Between(self._graph, key, timed, pooled)
        return self._between[key]


def relations(city: City, config: WeaveConfig) -> dict[str, Relation]:
    """The given edges that last, without loops, in both directions, and those between series that depart alike."""
    found: dict[str, Relation] = {}
    index, weight = city.lasting_edges
    apart = index[0] != index[1]
    if config.given and bool(apart.any()):
        adjacency = Adjacency.of_edges(index[:, apart], city.num_nodes, city.num_nodes)
        found["given"] = Relation(adjacency, weight[apart])
        found["reversed given"] = found["given"].reversed()
    if config.alike:
        found["alike"] = residual_graph(city, config.alike)
    return found


def each_channel(relation: Relation, channels: int) -> Relation:
    """A relation whose weights ``[E, B, 1]``, if they differ by window, are those of each of its channels."""
    weight = relation.weight
    if weight is None or weight.dim() < 3 or channels == 1:
        return relation
    return replace(relation, weight=weight.repeat_interleave(channels, 1))


def patches(city: City, size: int) -> Partition:
    """Patches of at most ``size`` neighbours: by place, or by profile where places are not known."""
    count = -(-city.num_nodes // size)
    if torch.isfinite(city.lonlat).all(1).any():
        return kdtree(local_metres(city.lonlat.numpy()), count)
    profile = city.context.day_profile() / city.context.deviation                     # [slots, N, C]
    return feature(profile.transpose(1, 2, 0).reshape(city.num_nodes, -1), count)


def relation_names(config: WeaveConfig) -> tuple[str, ...]:
    """Names of relations that have weights of their own."""
    between = names(config.relations)
    return (*RELATIONS, *between, *(f"reversed {name}" for name in between))


def names(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
