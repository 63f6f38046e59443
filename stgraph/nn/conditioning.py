"""Gated feed-forward, and layers whose effect depends on the time of a diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stgraph.errors import InputError


class SwiGLU(nn.Module):
    r"""Gated feed-forward layer on the last axis: :math:`W_d\,(\mathrm{silu}(W_a h) \odot W_b h)`.

    N. Shazeer: GLU Variants Improve Transformer, arXiv 2002.05202.

    Args:
        width: Width ``D``.
        hidden: Width inside; None for ``2 D``.
        dropout: On what is inside.

    Shapes:
        ``[..., D] -> [..., D]``.
    """

    def __init__(self, width: int, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Same shape as ``h``."""
        gate, value = self.up(h).chunk(2, -1)
        return self.down(self.dropout(nn.functional.silu(gate) * value))


class DiffusionTimeEmbedding(nn.Module):
    """A vector for the time of a diffusion or flow, by sines and cosines of geometric frequencies and an MLP.

    J. Ho et al.: Denoising Diffusion Probabilistic Models, NeurIPS 2020; here for a continuous time in ``[0, 1]``.

    Args:
        width: Width of the vector.
        frequencies: Number of frequencies; from 1 to 1000 radians over the whole time.

    Shapes:
        time ``[B]`` -> ``[B, width]``.
    """

    def __init__(self, width: int, frequencies: int = 32) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.inside, self.outside = nn.Linear(2 * frequencies, width), nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """The vector of each time."""
        weight = self.inside.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        angle = time.to(exact)[..., None] * torch.logspace(0, 3, self.frequencies, device=weight.device, dtype=exact)
        waves = torch.cat([angle.sin(), angle.cos()], -1) * math.sqrt(2)
        return self.outside(nn.functional.silu(self.inside(waves.to(weight.dtype))))


class AdaptiveLayerNorm(nn.Module):
    r"""Layer norm whose scale and shift depend on a condition: :math:`LN(h)\,(1 + a(c)) + b(c)`.

    ``a`` and ``b`` start at 0, so it starts as the plain norm, which it also is without a condition.
    W. Peebles, S. Xie: Scalable Diffusion Models with Transformers, ICCV 2023.

    Args:
        width: Width ``D``.
        condition_width: Width ``K`` of the condition.

    Shapes:
        ``h [B, ..., D]``, condition ``[B, K]`` (one per sample) or ``[B, ..., K]``, or None -> ``[B, ..., D]``.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zeros(condition_width, 2 * width)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """Same shape as ``h``."""
        normal = self.norm(h)
        if condition is None:
            return normal
        scale, shift = self.modulation(nn.functional.silu(_beside(condition, h))).chunk(2, -1)
        return normal * (1 + scale) + shift


class AdaptiveGate(nn.Module):
    """What a part of a block adds, times a factor per channel that depends on a condition and starts at 0.

    So a block ``h + gate(part(norm(h, c)), c)`` starts as the identity (adaLN-zero, see :class:`AdaptiveLayerNorm`).
    Without a condition the factor is 1.

    Args:
        width: Width ``D``.
        condition_width: Width ``K`` of the condition.

    Shapes:
        ``h [B, ..., D]``, condition ``[B, K]`` or ``[B, ..., K]``, or None -> ``[B, ..., D]``.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.modulation = _zeros(condition_width, width)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """Same shape as ``h``."""
        if condition is None:
            return h
        return h * self.modulation(nn.functional.silu(_beside(condition, h)))


def _zeros(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _beside(condition: Tensor, h: Tensor) -> Tensor:
    """The condition with as many axes as ``h``: one per sample holds for all of it."""
    if condition.dim() == h.dim():
        return condition
    if condition.dim() != 2 or len(condition) not in (1, len(h)):
        raise InputError("a condition is one vector a sample, or has all axes of the features", field="condition",
                         value=list(condition.shape), remedy=f"the features are {list(h.shape)}")
    return condition.view(len(condition), *(1,) * (h.dim() - 2), -1)
