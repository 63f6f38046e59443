"""Tokens of nodes that have attributes and no signal, and attributes told from states. No table of nodes or words."""

from __future__ import annotations

import math
import zlib
from functools import lru_cache

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.windows import AttributeWindow, Layer


class AttributeTokens(nn.Module):
    r"""Attributes of any names and words to vectors, by hashing; and back.

    .. math:: h = e_{type} + \sum_{words} e_{name=word} + \sum_{numbers} z\, e_{name} + W [\log(1 + a), a > 0]

    with ``e`` a table of ``buckets`` rows that names and words are hashed into (K. Weinberger et al.: Feature Hashing
    for Large Scale Multitask Learning, ICML 2009), ``z`` a number in deviations and ``a`` the minutes since the node
    began. So a city with other attributes, or more categories, needs no other weights; words that meet in one row share
    it. What is unknown adds nothing. An attribute that is hidden adds ``e`` of being asked for, and nothing of its own.

    Attributes are told from a state by the same table: a word scores ``(V h) . e_{name=word}``, a number is
    ``(V h) . e_{name}``, both over the root of the width.

    Args:
        width: Width ``D``.
        buckets: Rows of the table.

    Raises:
        InputError: for no rows.
    """

    def __init__(self, width: int, buckets: int = 1024) -> None:
        super().__init__()
        if buckets < 1:
            raise InputError("a table has at least one row", field="buckets", value=buckets, remedy="use 1024")
        self.buckets = buckets
        self.table = nn.Parameter(torch.randn(buckets, width) / math.sqrt(width))
        self.age = nn.Linear(2, width)
        self.tell = nn.Linear(width, width)

    def forward(self, window: AttributeWindow) -> Tensor:
        """The token of each node, ``[B, M, D]``, or ``[1, M, D]`` where it is the same for all windows."""
        layer, nodes = window.city, window.nodes
        begun = window.age > 0
        h = self.age(torch.stack([window.age.log1p(), begun.to(window.age)], -1)) + self._row(layer.node_type, "")
        for name, (codes, words) in layer.words.items():
            rows = self._rows(name, words)                                                    # [K, D]
            code = codes.to(nodes.device)[nodes]
            own = torch.where((code >= 0)[..., None], rows[code.clamp(min=0)], 0)             # [B or 1, M, D]
            h = h + self._unless_hidden(window, name, own)
        for name, numbers in layer.numbers.items():
            z = numbers.to(nodes.device)[nodes]
            own = z.nan_to_num(0).clamp(-_FAR, _FAR)[..., None] * self._row(name, "")
            h = h + self._unless_hidden(window, name, own)
        return h

    def told(self, state: Tensor, layer: Layer, name: str) -> Tensor:
        """An attribute told from states ``[B, M, D]``: scores of its words ``[B, M, K]``, or a number ``[B, M]``."""
        told = self.tell(state) / math.sqrt(state.shape[-1])
        if name in layer.words:
            return told @ self._rows(name, layer.words[name][1]).T
        return told @ self._row(name, "")

    def _unless_hidden(self, window: AttributeWindow, name: str, own: Tensor) -> Tensor:
        """What an attribute adds, ``[B or 1, M, D]``."""
        if name not in window.hidden:
            return own
        return torch.where(window.hidden[name][..., None], self._row(name, "?"), own)

    def _row(self, name: str, word: str) -> Tensor:
        return self.table[bucket(name, word, self.buckets)]

    def _rows(self, name: str, words: tuple[str, ...]) -> Tensor:
        return self.table[_buckets(name, words, self.buckets).to(self.table.device)]


@lru_cache(maxsize=256)
def _buckets(name: str, words: tuple[str, ...], buckets: int) -> Tensor:
    return torch.tensor([bucket(name, word, buckets) for word in words], dtype=torch.long)


def bucket(name: str, word: str, buckets: int) -> int:
    """The row of a table that an attribute's word is hashed into: the same on every machine."""
    return zlib.crc32(f"{name}={word}".encode()) % buckets


_FAR = 10.0  # deviations: what is farther off counts as so far
