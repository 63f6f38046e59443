"""Edge rules: which sensors are joined, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stgraph.errors import InputError
from stgraph.sources.pairs import Pairs, nearest_pairs, pairs_within

RULES = ("auto", "given", "distance", "gaussian", "knn")


@dataclass(frozen=True)
class EdgeRule:
    """How edges are chosen.

    Args:
        name: ``auto``: what is given, with the Gaussian kernel where only distances are; else ``knn`` where places
            are known; else no edges. ``given``: the adjacency or edge list as it is. ``gaussian``:
            ``exp(-d^2 / sigma^2)``, not below ``threshold`` (Li et al., DCRNN, ICLR 2018). ``distance``: all within
            ``radius``, weight 1. ``knn``: from each sensor's nearest ``neighbours`` to it, weight 1.
        neighbours: Number of nearest sensors.
        radius: Largest distance in m; for the Gaussian kernel too, where given.
        threshold: Smallest weight of the Gaussian kernel.
        sigma: Width of the Gaussian kernel in m; None for the standard deviation of all known distances.
    """

    name: str = "auto"
    neighbours: int = 8
    radius: float | None = None
    threshold: float = 0.1
    sigma: float | None = None

    def __post_init__(self) -> None:
        for field, wrong, remedy in (
                ("edge_rule", self.name not in RULES, f"use one of {', '.join(RULES)}"),
                ("neighbours", self.neighbours < 1, "give a positive number of sensors"),
                ("radius", self.radius is not None and not 0 < self.radius < np.inf, "give a positive number of m"),
                ("threshold", not 0 < self.threshold < 1, "give a weight between 0 and 1"),
                ("sigma", self.sigma is not None and not 0 < self.sigma < np.inf, "give a positive number of m")):
            if wrong:
                raise InputError("out of range", field=field,
                                 value=self.name if field == "edge_rule" else getattr(self, field), remedy=remedy)


@dataclass(frozen=True)
class Edges:
    """The edges of a graph, sorted by source and target, without loops.

    Args:
        index: ``[2, E]`` int64, source and target.
        weight: ``[E]`` float32.
        distance: ``[E]`` float32 in m; None where not known.
        rule: The rule that was applied; ``none`` where nothing is known to join sensors by.
        sigma: Width of the Gaussian kernel in m; None for other rules.
        loops: How many edges from a sensor to itself were left out.
    """

    index: np.ndarray
    weight: np.ndarray
    distance: np.ndarray | None
    rule: str
    sigma: float | None = None
    loops: int = 0


def make_edges(rule: EdgeRule, lonlat: np.ndarray, ids: list[str], given: Pairs | None = None) -> Edges:
    """Apply an edge rule.

    Args:
        rule: The rule.
        lonlat: ``[N, 2]`` degrees, NaN where unknown.
        ids: Names of the sensors.
        given: Pairs of an adjacency, an edge list or ways by road; their distances are taken before those of
            coordinates. Where there is not one pair there is no edge.

    Raises:
        InputError: where the rule needs what was not given.
    """
    placed = int((~np.isnan(lonlat).any(1)).sum())
    name = _resolve(rule.name, given, placed)
    if name == "none":
        return _finish(Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64)), np.zeros(0), name)
    if name == "given":
        assert given is not None
        weight = given.weight if given.weight is not None else np.ones(len(given.source))
        return _finish(given, weight, name)
    if given is not None and given.distance is None:
        raise InputError("the rule needs distances, but what is given has only weights", file=given.file,
                         field="edge_rule", value=name, remedy="give a column distance_m, or --edge-rule given")
    if given is None and placed < 2:
        raise InputError("the rule needs places or distances, and neither is given", field="edge_rule", value=name,
                         remedy="give --locations, or --edges with a column distance_m")
    if name == "distance" and rule.radius is None:
        raise InputError("the rule needs a radius", field="radius", remedy="give --radius in metres")
    if given is not None and not len(given.source):
        return _finish(given, np.zeros(0), name)
    if name == "knn":
        pairs = nearest_pairs(lonlat, ids, rule.neighbours) if given is None else _nearest(given, ids, rule.neighbours)
        return _finish(pairs, np.ones(len(pairs.source)), name)
    pairs = pairs_within(lonlat, rule.radius) if given is None else given
    assert pairs.distance is not None
    if name == "distance":
        return _finish(pairs, (pairs.distance <= float(rule.radius or 0)).astype(np.float64), name)
    sigma = rule.sigma or (float(pairs.distance.std()) if len(pairs.distance) else 0.0)
    if not sigma > 0:
        raise InputError("the width of the Gaussian kernel cannot be told from distances that are all equal",
                         file=pairs.file or None, field="sigma", value=sigma, remedy="give --sigma in metres")
    weight = np.exp(-np.square(pairs.distance / sigma))
    weight[weight < rule.threshold] = 0
    if rule.radius is not None:
        weight[pairs.distance > rule.radius] = 0
    return replace(_finish(pairs, weight, name), sigma=sigma)


def _resolve(name: str, given: Pairs | None, placed: int) -> str:
    """The rule that ``auto`` stands for."""
    if name == "given" and given is None:
        raise InputError("the rule needs an adjacency or an edge list", field="edge_rule", value=name,
                         remedy="give --adjacency or --edges")
    if name != "auto":
        return name
    if given is not None:
        return "gaussian" if given.weight is None and given.distance is not None else "given"
    return "knn" if placed > 1 else "none"


def _nearest(pairs: Pairs, ids: list[str], count: int) -> Pairs:
    """Of each sensor's incoming pairs, the ``count`` shortest; ties in the order of names."""
    assert pairs.distance is not None
    order = np.lexsort((np.asarray(ids, dtype=str)[pairs.source], np.round(pairs.distance, 3), pairs.target))
    order = order[pairs.source[order] != pairs.target[order]]
    target = pairs.target[order]
    order = order[np.arange(len(target)) - np.searchsorted(target, target) < count]
    return replace(pairs, source=pairs.source[order], target=pairs.target[order], distance=pairs.distance[order])


def _finish(pairs: Pairs, weight: np.ndarray, rule: str) -> Edges:
    """Leave out edges without weight and loops, and sort."""
    loop = (pairs.source == pairs.target) & (weight > 0)
    kept = np.flatnonzero((weight > 0) & ~loop)
    kept = kept[np.lexsort((pairs.target[kept], pairs.source[kept]))]
    return Edges(np.stack([pairs.source[kept], pairs.target[kept]]).astype(np.int64), weight[kept].astype(np.float32),
                 None if pairs.distance is None else pairs.distance[kept].astype(np.float32), rule,
                 loops=int(loop.sum()))
