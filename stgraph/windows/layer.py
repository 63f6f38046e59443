"""Nodes without a signal: known by their attributes, and there from when they happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.graph.schema import KNOWN

OVER = ("trip", "group")
"""Types of which attributes tell what is known only when they are over."""


@dataclass
class AttributeWindow:
    """Nodes without a signal as they are known at the origins of ``B`` windows.

    Args:
        nodes: ``[B, M]`` int64, the nodes that are there for each window, by their numbers in the graph, and any other
            in the places left over; ``[1, M]`` all nodes, where they are there always.
        present: ``[B, M]`` bool, whether there is a node in a place: one that began before the origin, and is not over
            or forgotten.
        age: As ``nodes``: minutes since it began; 0 for what was always there.
        city: The layer.
        hidden: For some attributes ``[B, M]`` bool, True where the attribute is not to be read.
    """

    nodes: Tensor
    present: Tensor
    age: Tensor
    city: Layer
    hidden: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> AttributeWindow:
        """On another device."""
        return replace(self, nodes=self.nodes.to(device), present=self.present.to(device), age=self.age.to(device),
                       hidden={name: hidden.to(device) for name, hidden in self.hidden.items()})


class Layer:
    """A type of nodes without a signal: its attributes, and when each node is there.

    A node with a ``time``, such as an event, is there from then on until it is forgotten; one with ``valid_from`` or
    ``valid_to`` while it lives; all others always. What begins with the first wanted step, or later, is not there yet.

    Numbers are those attributes that measure something: floats, truth values, and integers with a unit. Words are those
    with categories. Texts, such as names and ids, are not read.

    Args:
        graph: The graph.
        node_type: Whose attributes.
        memory: Seconds after which a node with a ``time`` is forgotten.
        stop: First second that descriptors do not see: the end of the training rows.

    Raises:
        InputError: for a type of which attributes are known only when it is over, such as trips; for nodes on clocks of
            their own; for attributes of any other shape than one entry a node.
    """

    def __init__(self, graph: DynamicHeteroGraph, node_type: str, memory: int, stop: int) -> None:
        self.graph, self.node_type, self.memory = graph, node_type, memory
        self.num_nodes = graph.size_of(node_type)
        store = graph[node_type]
        if node_type in OVER:
            raise InputError("what these nodes tell is known only when they are over", field="also", value=node_type,
                             remedy="leave them out; build trips --signals gives the traffic of segments")
        if "time" in store and "sequence" in store:
            raise InputError("the nodes have clocks of their own", field=f"{node_type}.sequence",
                             remedy="leave this type out")
        self.begins, self.ends = self._lives()
        self.use_context(stop)

    @property
    def timed(self) -> bool:
        """Whether nodes come and go."""
        return self.begins is not None

    @property
    def node_ids(self) -> np.ndarray:
        """The user's ids of the nodes, ``[N]`` str."""
        return np.asarray(self.graph[self.node_type].node_id)

    def use_context(self, stop: int) -> None:
        """Fit means and deviations on the nodes that began before a second."""
        known = torch.ones(self.num_nodes, dtype=torch.bool) if self.begins is None else self.begins < stop
        store, declared = self.graph[self.node_type], self.graph.schema.of(self.node_type)
        self.numbers: dict[str, Tensor] = {}
        """Attributes in deviations from their mean, ``[N]`` float32 each; NaN where unknown."""
        self.words: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
        """Codes ``[N]`` int64, -1 where unknown, and the words they stand for."""
        for name, value in store.items():
            if name in KNOWN or name in ("time", "num_nodes") or not isinstance(value, Tensor) or value.dim() != 1:
                continue
            attribute = declared.get(name)
            if attribute is not None and attribute.categories is not None:
                empty = torch.tensor([not word for word in (*attribute.categories, "")])
                self.words[name] = torch.where(empty[value.long()], -1, value.long()), attribute.categories
            elif value.is_floating_point() or value.dtype == torch.bool or (attribute and attribute.unit):
                self.numbers[name] = _standardised(value.double(), known)

    def window(self, moments: np.ndarray) -> AttributeWindow:
        """The nodes at the origins of windows.

        Args:
            moments: ``[B]`` int64 seconds UTC at which the first wanted steps begin: nothing of then or later is known.
        """
        now = torch.from_numpy(np.asarray(moments, np.int64))[:, None]                        # [B, 1]
        if self.begins is None or self.ends is None:
            everyone = torch.arange(self.num_nodes)[None]
            return AttributeWindow(everyone, torch.ones((len(now), self.num_nodes), dtype=torch.bool),
                                   torch.zeros(everyone.shape), self)
        some = ((self.begins < now.max()) & (self.ends >= now.min())).nonzero()[:, 0]
        there = (self.begins[some] < now) & (self.ends[some] >= now)
        some, there = some[there.any(0)], there[:, there.any(0)]
        most = int(there.sum(1).max()) if len(some) else 0
        place = there.int().argsort(dim=1, descending=True, stable=True)[:, :most]            # who is there comes first
        nodes, present = some[place], there.gather(1, place)
        begun = self.begins[nodes]
        counts = present & (begun > torch.iinfo(torch.int64).min)                              # others always were
        return AttributeWindow(nodes, present, torch.where(counts, (now - begun) / 60, 0.0).float(), self)

    def _lives(self) -> tuple[Tensor | None, Tensor | None]:
        """First second of each node, and the second from which on it is not there any more; None: always there."""
        store, bounds = self.graph[self.node_type], torch.iinfo(torch.int64)
        begins = torch.full((self.num_nodes,), bounds.min, dtype=torch.int64)
        ends = torch.full((self.num_nodes,), bounds.max, dtype=torch.int64)
        found = False
        if "valid_from" in store or "valid_to" in store:
            found = True
            begins = store.valid_from if "valid_from" in store else begins
            ends = store.valid_to if "valid_to" in store else ends
        if "time" in store and store.time.dtype == torch.int64:
            found = True
            begins, ends = torch.maximum(begins, store.time), torch.minimum(ends, store.time + self.memory)
        return (begins, ends) if found else (None, None)


def _standardised(value: Tensor, known: Tensor) -> Tensor:
    """In deviations from the mean of the known nodes, ``[N]`` float32; a constant attribute gives 0."""
    seen = value[known & value.isfinite()]
    if not len(seen):
        return torch.full_like(value, float("nan")).float()
    deviation = float(seen.std(correction=0))
    return ((value - seen.mean()) / (deviation if deviation > 1e-9 else 1.0)).float()
