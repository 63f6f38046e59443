"""Other views of a window for contrast: readings hidden, shifted or smoothed, edges dropped.

Every augmentation maps a window to a window of the same shapes and reads its history only: neither targets nor
anything after the last input step enters, and targets pass through as they are. (The published temporal shift and
smoothing of STGCL read one or all of the future steps.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.graph.schema import EdgeType
from stgraph.graph.snapshot import take
from stgraph.objectives.masks import count_to_hide, draw_mask
from stgraph.objectives.views import uniform
from stgraph.windows import Window

Augmentation = Callable[[Window, torch.Generator | None], Window]


class InputMasking:
    """Hide a share of the observed readings.

    Args:
        rate: Share to hide, exactly.
        kind: A mask of :data:`stgraph.objectives.masks.MASKS`.
    """

    def __init__(self, rate: float = 0.01, kind: str = "random") -> None:
        self.rate, self.kind = _share("rate", rate), kind

    def __call__(self, window: Window, generator: torch.Generator | None = None) -> Window:
        """The other view."""
        visible = window.mask & ~draw_mask(self.kind, window.mask, self.rate, generator=generator)
        return replace(window, values=torch.where(visible, window.values, 0), mask=visible)


class TemporalShift:
    """``a x_t + (1 - a) x_{t-1}`` where both were observed, with one ``a`` between ``least`` and 1 for each sample.

    Args:
        least: Smallest share of a step's own reading.
    """

    def __init__(self, least: float = 0.5) -> None:
        self.least = _share("least", least)

    def __call__(self, window: Window, generator: torch.Generator | None = None) -> Window:
        """The other view."""
        values, mask = window.values, window.mask
        own = self.least + (1 - self.least) * uniform((len(values), 1, 1, 1), values.device, generator)
        before = torch.cat([values[:, :1], values[:, :-1]], 1)
        both = mask & torch.cat([mask[:, :1], mask[:, :-1]], 1)
        return replace(window, values=torch.where(both, own * values + (1 - own) * before, values))


class InputSmoothing:
    """The slow waves of the history as they are, the quick ones shrunk by random factors alike among neighbours.

    The cosine transform of each series (gaps filled with its mean) keeps its ``keep`` lowest coefficients; each other
    one is multiplied by a factor between ``least`` and 1, averaged with those of the neighbours in the graph.

    Args:
        keep: Share of the coefficients to keep, rounded up.
        least: Smallest factor.
    """

    def __init__(self, keep: float = 0.5, least: float = 0.5) -> None:
        self.keep, self.least = _share("keep", keep), _share("least", least)

    def __call__(self, window: Window, generator: torch.Generator | None = None) -> Window:
        """The other view."""
        values, mask = window.values, window.mask
        steps = values.shape[1]
        mean = torch.where(mask, values, 0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        basis = _cosines(steps).to(values)                                                    # [K, T]
        waves = torch.einsum("kt,btnc->bknc", basis, torch.where(mask, values, mean))
        factor = self.least + (1 - self.least) * uniform(values.shape, values.device, generator)
        factor = _among_neighbours(factor, window.city.edges[0].to(values.device))
        factor[:, :math.ceil(self.keep * steps)] = 1.0
        smooth = torch.einsum("kt,bknc->btnc", basis, waves * factor)
        return replace(window, values=torch.where(mask, smooth, 0))


class EdgeDropping:
    """A city whose relations have lost a share of their edges: see :func:`drop_edges`. Readings stay.

    Args:
        rate: Share of the neighbouring pairs to drop.
    """

    def __init__(self, rate: float = 0.05) -> None:
        self.rate = _share("rate", rate)

    def __call__(self, window: Window, generator: torch.Generator | None = None) -> Window:
        """The other view; its city is a copy that shares readings and descriptors."""
        _ = window.city.context  # fitted once, for the copy too
        city = copy.copy(window.city)
        vars(city).pop("edges", None)
        kinds = [kind for kind in city.graph.edge_types if kind[0] == kind[2] == city.node_type]
        city.graph = drop_edges(city.graph, self.rate, kinds, generator)
        return replace(window, city=city)


def drop_edges(graph: DynamicHeteroGraph, rate: float, kinds: Iterable[EdgeType] | None = None,
               generator: torch.Generator | None = None) -> DynamicHeteroGraph:
    """A graph without a share of its edges; their attributes and signals go with them.

    Within a node type both directions between two nodes count as one pair and go together, so a symmetric relation
    stays symmetric; loops stay. The number of pairs dropped is exact.

    Args:
        graph: The graph; it is not changed.
        rate: Share of the pairs to drop.
        kinds: Relations; None for all.
        generator: Where the randomness comes from; None for torch's own.

    Raises:
        InputError: for a share outside 0 to 1.
    """
    _share("rate", rate)
    kept: dict[EdgeType, Tensor] = {}
    for kind in graph.edge_types if kinds is None else kinds:
        source, target = graph[kind].edge_index.cpu()
        if kind[0] == kind[2]:
            source, target = torch.minimum(source, target), torch.maximum(source, target)
        pairs, pair = torch.unique(source * (graph.size_of(kind[2]) + 1) + target, return_inverse=True)
        loop = torch.zeros(len(pairs), dtype=torch.bool)
        if kind[0] == kind[2]:
            loop[pair] = source == target
        free = (~loop).nonzero().squeeze(1)
        order = uniform((len(free),), "cpu", generator).argsort()
        gone = torch.zeros(len(pairs), dtype=torch.bool)
        gone[free[order[: int(count_to_hide(rate, torch.tensor(len(free))))]]] = True
        kept[kind] = (~gone[pair]).nonzero().squeeze(1)
    return take(graph, {}, kept)


class Compose:
    """One augmentation after the other.

    Args:
        parts: Augmentations.
    """

    def __init__(self, parts: Sequence[Augmentation]) -> None:
        self.parts = list(parts)

    def __call__(self, window: Window, generator: torch.Generator | None = None) -> Window:
        """The other view."""
        for part in self.parts:
            window = part(window, generator)
        return window


AUGMENTATIONS: dict[str, Callable[[], Augmentation]] = {
    "mask": InputMasking, "shift": TemporalShift, "smooth": InputSmoothing, "edges": EdgeDropping,
}


def augmentation(names: str) -> Augmentation:
    """An augmentation by name, or several joined by ``+``: ``mask``, ``shift``, ``smooth``, ``edges``.

    Raises:
        InputError: for a name that is not known.
    """
    for name in names.split("+"):
        if name not in AUGMENTATIONS:
            raise InputError("unknown augmentation", field="view", value=name,
                             remedy=f"use {', '.join(AUGMENTATIONS)}, or several joined by +")
    return Compose([AUGMENTATIONS[name]() for name in names.split("+")])


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError("a share lies between 0 and 1", field=name, value=value)
    return value


def _cosines(steps: int) -> Tensor:
    """The orthonormal cosine basis (DCT-II), ``[K, T]`` with ``K = T``, slowest wave first."""
    time, wave = torch.arange(steps, dtype=torch.float64), torch.arange(steps, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / steps * (time + 0.5) * wave) * math.sqrt(2 / steps)
    basis[0] /= math.sqrt(2)
    return basis


def _among_neighbours(factor: Tensor, edges: Tensor) -> Tensor:
    """Half a node's own factor and half the mean of its neighbours' along the edges; ``[B, K, N, C]``."""
    source, target = edges
    count = torch.zeros(factor.shape[2], dtype=factor.dtype, device=factor.device)
    count.index_add_(0, target, torch.ones_like(target, dtype=factor.dtype))
    around = torch.zeros_like(factor).index_add_(2, target, factor[:, :, source]) / count.clamp(min=1)[:, None]
    return torch.where(count[:, None] > 0, (factor + around) / 2, factor)
