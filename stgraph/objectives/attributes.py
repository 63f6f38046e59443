"""Masked attribute modelling: hide an attribute of some nodes, ask for it back from what stands around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from stgraph.errors import InputError
from stgraph.objectives.views import seeded, uniform
from stgraph.windows import AttributeWindow, City, Layer, Window


@runtime_checkable
class TellsAttributes(Protocol):
    """For masked attributes: say what a node's attribute is."""

    def tell(self, window: Window, kind: str, name: str) -> Tensor:
        """Scores ``[B, M, K]`` of the words of an attribute, or the number ``[B, M]`` in deviations.

        Args:
            window: A window; ``window.others[kind].hidden[name]`` is True where the attribute may not be read.
            kind: A type of nodes without a signal.
            name: An attribute of theirs.
        """
        ...


class MaskedAttributes(nn.Module):
    r"""Cross-entropy of a hidden word, or Huber error (threshold one deviation) of a hidden number.

    .. math:: L = \frac{1}{|M|} \sum_{(b, m) \in M} \ell(\hat a_{bm}, a_m)

    over the hidden nodes ``M``, all of which are there in their window and have the attribute. The model reads windows
    from which these were taken out, so it tells them from the other attributes of the node, its age, the nodes it has
    relations with, and what these show. After W. Hu et al.: Strategies for Pre-training Graph Neural Networks, ICLR
    2020 (attribute masking), there for molecules.

    Args:
        type: Type of nodes without a signal.
        name: Attribute of theirs: one with categories, or a number.
        rate: Share of the nodes to hide; at least one where any has the attribute.
        seed: Hide the same nodes whenever called; None draws from torch's generator, anew each time.

    Raises:
        InputError: for a share outside 0 to 1.
    """

    def __init__(self, type: str, name: str, rate: float = 0.3, seed: int | None = None) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise InputError("a share lies between 0 and 1", field="rate", value=rate)
        self.kind, self.name, self.rate, self.seed = type, name, rate, seed

    def prepare(self, model: nn.Module) -> None:
        """Refuse a model that tells no attributes.

        Raises:
            InputError: naming it.
        """
        if not isinstance(model, TellsAttributes):
            raise InputError(f"the model '{getattr(model, 'name', type(model).__name__)}' cannot be trained by "
                             "'attributes': it does not offer tell(window, kind, name)", field="objectives",
                             value="attributes", remedy="use weave, or leave the objective out")

    def check(self, city: City) -> None:
        """Refuse a city whose windows do not hold these nodes, or whose nodes have no such attribute.

        Raises:
            InputError: naming those that there are.
        """
        layers = {kind: layer for kind, layer in city.others.items() if isinstance(layer, Layer)}
        if self.kind not in layers:
            raise InputError("the windows hold no nodes of this type that are known by their attributes",
                             field="objectives", value=f"attributes(type={self.kind})",
                             remedy=f"use one of {', '.join(layers)}" if layers else f"add --also {self.kind}")
        known = [*layers[self.kind].words, *layers[self.kind].numbers]
        if self.name not in known:
            raise InputError(f"the type '{self.kind}' has no such attribute", field="objectives",
                             value=f"attributes(name={self.name})",
                             remedy=f"use one of {', '.join(known)}" if known else "it has none: leave it out")

    def forward(self, model: TellsAttributes, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{"TYPE.NAME": scalar}``; 0 where there was nothing to hide."""
        self.check(window.city)
        other = window.others[self.kind]
        assert isinstance(other, AttributeWindow)
        hidden = self.draw(other)
        if not bool(hidden.any()):
            return {f"{self.kind}.{self.name}": window.values.new_zeros(())}
        shown = replace(other, hidden={**other.hidden, self.name: hidden})
        told = model.tell(replace(window, others={**window.others, self.kind: shown}), self.kind, self.name)
        truth = self._truth(other).expand_as(hidden)[hidden]
        loss = functional.cross_entropy if self.name in other.city.words else functional.huber_loss
        return {f"{self.kind}.{self.name}": loss(told[hidden], truth)}

    def draw(self, other: AttributeWindow) -> Tensor:
        """Which nodes to hide the attribute of, ``[B, M]`` bool."""
        truth = self._truth(other)
        there = other.present & (truth >= 0 if self.name in other.city.words else truth.isfinite())
        chance = torch.where(there, uniform(there.shape, there.device, seeded(self.seed)), 2.0)
        count = int(there.sum())
        wanted = min(count, max(1, round(self.rate * count)))
        hidden = torch.zeros_like(there)
        hidden.view(-1)[chance.view(-1).argsort()[:wanted]] = True
        return hidden

    def _truth(self, other: AttributeWindow) -> Tensor:
        """Codes or numbers of the nodes, ``[B or 1, M]``."""
        layer = other.city
        values = layer.words[self.name][0] if self.name in layer.words else layer.numbers[self.name]
        return values.to(other.nodes.device)[other.nodes]
