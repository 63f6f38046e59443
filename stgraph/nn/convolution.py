"""Causal convolutions along time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stgraph.errors import InputError


class GatedDilatedConvolution(nn.Module):
    r"""Gated causal convolution over the tokens of each node.

    .. math:: g_t = \tanh\Big(b + \sum_{i < K} F_i h_{t - i d}\Big) \odot
              \sigma\Big(c + \sum_{i < K} G_i h_{t - i d}\Big)

    with dilation ``d``. Token ``t`` reads tokens ``t, t - d, .., t - (K - 1) d`` and no later one: its receptive field
    is ``1 + (K - 1) d`` tokens. A. van den Oord et al.: WaveNet, arXiv 1609.03499; Z. Wu et al.: Graph WaveNet, IJCAI
    2019. Nothing here runs over nodes.

    Args:
        width: Width ``D``.
        kernel: Taps ``K``.
        dilation: Tokens ``d`` between taps.
        padded: Put zeros before the first token, so that ``S`` stays; else ``S`` falls by ``(K - 1) d``, as in Graph
            WaveNet.

    Shapes:
        ``h [B, S, N, D]``, mask None or ``[B, S, N]`` bool (tokens where it is False count as 0) -> ``[B, S, N, D]``.

    Raises:
        InputError: for a kernel or dilation below 1, or, without padding, fewer tokens than the receptive field.
    """

    def __init__(self, width: int, kernel: int = 2, dilation: int = 1, padded: bool = True) -> None:
        super().__init__()
        if min(kernel, dilation) < 1:
            raise InputError("a convolution has at least one tap and a dilation of at least one",
                             field="kernel, dilation", value=(kernel, dilation))
        self.kernel, self.dilation, self.padded = kernel, dilation, padded
        self.receptive_field = 1 + (kernel - 1) * dilation  # tokens that one output reads, itself among them
        self.taps = nn.Linear(kernel * width, 2 * width)  # earliest tap first; filter, then gate

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Gated features of each token."""
        if mask is not None:
            h = torch.where(mask[..., None], h, 0)
        reach = self.receptive_field - 1
        if self.padded:
            h = torch.cat([h.new_zeros(len(h), reach, *h.shape[2:]), h], 1)
        length = h.shape[1] - reach
        if length < 1:
            raise InputError("the history is shorter than the receptive field", field="h", value=h.shape[1],
                             remedy=f"give at least {self.receptive_field} tokens, or a padded convolution")
        shifted = [h[:, i * self.dilation : i * self.dilation + length] for i in range(self.kernel)]
        value, gate = self.taps(torch.cat(shifted, -1)).chunk(2, -1)
        return value.tanh() * gate.sigmoid()


class CausalStack(nn.Module):
    r"""Gated dilated convolutions one on another; every layer adds to the answer.

    .. math:: g_l = \mathrm{conv}_l(x_l), \qquad x_{l+1} = x_l + R_l g_l, \qquad \mathrm{out} = \sum_l P_l g_l

    The receptive field is ``1 + (K - 1)`` times the sum of the dilations. The last layer has no ``R``, which would feed
    nothing. Time is linear in ``S``.

    Args:
        width: Width ``D``.
        dilations: Of each layer; doubling them covers a history of ``S`` tokens with ``log2 S`` layers.
        kernel: Taps of each layer.
        dropout: On what each layer gives.

    Shapes:
        ``h [B, S, N, D]``, mask None or ``[B, S, N]`` bool (tokens where it is False enter as 0) -> ``[B, S, N, D]``.

    Raises:
        InputError: without a layer, or for a kernel or dilation below 1.
    """

    def __init__(self, width: int, dilations: Sequence[int] = (1, 2, 4, 8), kernel: int = 2,
                 dropout: float = 0.0) -> None:
        super().__init__()
        if not dilations:
            raise InputError("a stack has at least one layer", field="dilations", value=tuple(dilations))
        self.receptive_field = 1 + (kernel - 1) * sum(dilations)  # tokens that one output reads, itself among them
        self.layers = nn.ModuleList(GatedDilatedConvolution(width, kernel, dilation) for dilation in dilations)
        self.onward = nn.ModuleList(nn.Linear(width, width) for _ in dilations[1:])
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in dilations)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Same shape as ``h``."""
        if mask is not None:
            h = torch.where(mask[..., None], h, 0)
        answer = torch.zeros_like(h)
        for number, (layer, out) in enumerate(zip(self.layers, self.out, strict=True)):
            gated = self.dropout(layer(h))
            answer = answer + out(gated)
            if number < len(self.onward):
                h = h + self.onward[number](gated)
        return answer
