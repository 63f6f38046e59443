"""Mixing along time, each node by itself: attention, queries of the future, a linear-time recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu, softplus

from stgraph.errors import InputError

_MOST_SERIES = 2**16 - 1  # in one call: the fused kernels of CUDA have no launch for more (pytorch/pytorch#142228)


class TemporalAttention(nn.Module):
    r"""Self-attention over the tokens of each node, with rotary positions in minutes.

    .. math:: \alpha_{st} \propto \exp\big( (R_{m_s} q_s) \cdot (R_{m_t} k_t) / \sqrt{d} \big), \qquad
              \mathrm{out}_s = W_o \sum_t \alpha_{st} v_t

    ``R_m`` turns pairs of channels by ``m / 60`` times geometric frequencies, so the weight of two tokens depends on
    the minutes between them, not on their numbers: tokens of other lengths and service days need no other weights.
    A. Vaswani et al., NeurIPS 2017; J. Su et al.: RoFormer, arXiv 2104.09864. Cost ``O(B N (S^2 D + S D^2))``.

    Args:
        width: Width ``D``.
        heads: Heads; they divide the width into even parts.
        dropout: On attention weights.

    Shapes:
        ``h [B, S, N, D]``, minutes ``[S]`` or ``[B, S]`` (from any origin), mask None or ``[B, S, N]`` bool, True where
        a token may be looked at -> ``[B, S, N, D]``. A node without any such token gets the bias alone.

    Raises:
        InputError: where the heads do not divide the width into even parts.
    """

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        _check(width, heads)
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h: Tensor, minutes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Same shape as ``h``."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).unbind(3)              # [B, S, N, heads, d]
        q, k = rotate(q, minutes), rotate(k, minutes)
        return self.out(_attend(q, k, v, mask, self.dropout if self.training else 0.0))


class FutureQueries(nn.Module):
    r"""What is known of the wanted future asks, what is known of the past is the key, and the past's content answers.

    .. math:: \mathrm{out}_l = W_o \sum_s \mathrm{softmax}_s\big( W_q c_l \cdot W_k c_s / \sqrt{d} \big)\, W_v h_s

    with ``c`` the codes (calendar, place) of a future instant and of a past token. With codes alone as keys the weights
    depend on the calendar and the place and not on readings, which carries over to other cities: Z. Li et al.:
    OpenCity, arXiv 2408.10269. Any number of instants may be asked for, at any interval; what was observed later
    cannot enter, for only the calendar of the future does. Cost ``O(B N (L S D + (L + S) D^2))``.

    Args:
        width: Width ``D``.
        heads: Heads; they divide the width into even parts.
        dropout: On attention weights.

    Shapes:
        ``h [B, S, N, D]``, query ``[B, L, N, D]`` or ``[B, L, D]`` (the same for all nodes), key None (the tokens
        themselves), ``[B, S, N, D]`` or ``[B, S, D]``, mask None or ``[B, S, N]`` bool, minutes None or the pair
        ``[L]`` or ``[B, L]``, ``[S]`` or ``[B, S]`` from one origin, by which queries and keys are turned as in
        :class:`TemporalAttention` -> ``[B, L, N, D]``.

    Raises:
        InputError: where the heads do not divide the width into even parts.
    """

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        _check(width, heads)
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, query: Tensor, key: Tensor | None = None, mask: Tensor | None = None,
                minutes: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The answer to each query, ``[B, L, N, D]``."""
        q, k, v = (one.unflatten(-1, (self.heads, -1)) for one in (
            self._each_node(self.query(query), h), self._each_node(self.key(h if key is None else key), h),
            self.value(h)))
        if minutes is not None:
            q, k = rotate(q, minutes[0]), rotate(k, minutes[1])
        return self.out(_attend(q, k, v, mask, self.dropout if self.training else 0.0))

    @staticmethod
    def _each_node(code: Tensor, h: Tensor) -> Tensor:
        return code if code.dim() == 4 else code[:, :, None].expand(-1, -1, h.shape[2], -1)


class LinearTemporalEncoder(nn.Module):
    r"""Gated linear recurrence over the tokens of each node: all of the past in time linear in ``S``.

    .. math:: a_t = \exp(-r_t\, \Delta_t / 60), \qquad s_t = a_t \odot s_{t-1} + (1 - a_t) \odot v_t, \qquad
              \mathrm{out}_t = W_o\,(s_t \odot \mathrm{silu}(g_t))

    with rate ``r_t > 0`` (per hour), value ``v_t`` and gate ``g_t`` linear in ``h_t`` and :math:`\Delta_t` the minutes
    of the token: two half-hours of one content do what one hour does. A token that is masked leaves the state as it
    was. Rates start spread evenly (in the logarithm) from one hour to one week. Computed by a parallel scan
    (:func:`linear_recurrence`). After E. Martin, C. Cundy: Parallelizing Linear Recurrent Neural Nets, ICLR 2018, and
    S. De et al.: Griffin, arXiv 2402.19427. Cost ``O(B N S D^2)``.

    Args:
        width: Width ``D``.
        hidden: Width of the state; None for ``D``.
        bidirectional: Add a second recurrence from the last token to the first, for tasks that may see both sides.
        dropout: On the gated state.

    Shapes:
        ``h [B, S, N, D]``, minutes a number or ``[S]`` or ``[B, S]``, mask None or ``[B, S, N]`` bool, True where a
        token counts -> ``[B, S, N, D]``.
    """

    def __init__(self, width: int, hidden: int | None = None, bidirectional: bool = False,
                 dropout: float = 0.0) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        directions = 2 if bidirectional else 1
        inside = [nn.Linear(width, 3 * hidden) for _ in range(directions)]
        self.inside = nn.ModuleList(inside)
        self.out = nn.Linear(directions * hidden, width)
        self.dropout = nn.Dropout(dropout)
        rates = torch.logspace(0, -2.225, hidden)  # per hour: one hour to one week
        for layer in inside:
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.bias[:hidden] = rates.expm1().log()

    def forward(self, h: Tensor, minutes: Tensor | float = 60.0, mask: Tensor | None = None) -> Tensor:
        """Same shape as ``h``."""
        exact = torch.promote_types(h.dtype, torch.float32)  # 16 bits cannot tell a decay of a week from none
        span = torch.as_tensor(minutes, dtype=exact, device=h.device) / 60
        if span.dim():
            span = span[..., None, None]                                               # [S, 1, 1] or [B, S, 1, 1]
        states = []
        for direction, layer in enumerate(self.inside):
            rate, value, gate = layer(h).to(exact).chunk(3, -1)
            exponent = softplus(rate) * span
            decay, entry = (-exponent).exp(), -(-exponent).expm1() * value
            if mask is not None:
                decay, entry = torch.where(mask[..., None], decay, 1), torch.where(mask[..., None], entry, 0)
            if direction:
                state = linear_recurrence(decay.flip(1), entry.flip(1)).flip(1)
            else:
                state = linear_recurrence(decay, entry)
            states.append(state * silu(gate))
        return self.out(self.dropout(torch.cat(states, -1).to(h.dtype)))


def linear_recurrence(decay: Tensor, entry: Tensor) -> Tensor:
    """``s_t = decay_t * s_{t-1} + entry_t`` along axis 1, from ``s_{-1} = 0``, for all ``t`` at once.

    Neighbours are joined in pairs, the half as long row is solved the same way, and the states in between follow:
    work linear in ``S``, depth ``2 log2 S``. Nothing is divided by, so decays may be 0.
    G. Blelloch: Prefix Sums and Their Applications, 1990.

    Args:
        decay: ``[B, S, ...]``.
        entry: ``[B, S, ...]``.

    Returns:
        ``[B, S, ...]``.
    """
    length = entry.shape[1]
    if length < 2:
        return entry
    pairs = length // 2
    first, second = slice(0, 2 * pairs, 2), slice(1, None, 2)
    odd = linear_recurrence(decay[:, second] * decay[:, first], decay[:, second] * entry[:, first] + entry[:, second])
    later = slice(2, None, 2)
    even = torch.cat([entry[:, :1], decay[:, later] * odd[:, : (length - 1) // 2] + entry[:, later]], 1)
    joined = torch.stack([even[:, :pairs], odd], 2).flatten(1, 2)
    return joined if length == 2 * pairs else torch.cat([joined, even[:, -1:]], 1)


def rotate(x: Tensor, minutes: Tensor) -> Tensor:
    """Turn pairs of channels (``i`` with ``i + d / 2``) by angles in proportion to the time.

    Args:
        x: ``[B, S, N, heads, d]``, ``d`` even.
        minutes: ``[S]`` or ``[B, S]``.
    """
    half = x.shape[-1] // 2
    frequency = torch.logspace(0, -4 * (half - 1) / half, half, device=x.device)       # radians per hour
    angle = minutes.to(frequency)[..., None] / 60 * frequency                          # [(B,) S, d / 2]
    cosine, sine = (one[..., None, None, :].to(x.dtype) for one in (angle.cos(), angle.sin()))
    first, second = x.split(half, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention along axis 1 of ``q [B, L, N, heads, d]``, ``k, v [B, S, N, heads, d]`` -> ``[B, L, N, heads * d]``."""
    batch, _, nodes = q.shape[:3]
    q, k, v = (one.permute(0, 2, 3, 1, 4).flatten(0, 1) for one in (q, k, v))           # [B * N, heads, S, d]
    allowed = some = None
    if mask is not None:
        allowed = mask.transpose(1, 2).flatten(0, 1)[:, None, None]                    # [B * N, 1, 1, S]
        some = allowed.any(-1, keepdim=True)
        allowed = allowed | ~some                                                      # where there is none, no NaN
    turns = (slice(first, first + _MOST_SERIES) for first in range(0, max(1, len(q)), _MOST_SERIES))
    mixed = torch.cat([scaled_dot_product_attention(
        q[turn], k[turn], v[turn], None if allowed is None else allowed[turn], dropout) for turn in turns])
    if some is not None:
        mixed = torch.where(some, mixed, 0)                                             # [B * N, heads, L, d]
    return mixed.unflatten(0, (batch, nodes)).permute(0, 3, 1, 2, 4).flatten(3)


def _check(width: int, heads: int) -> None:
    if heads < 1 or width % (2 * heads):
        raise InputError("the heads divide the width into even parts", field="heads", value=heads,
                         remedy=f"choose one so that 2 * heads divides {width}")
