"""The encoder of STEP: a transformer learns to fill in the hidden hours of a week, each series by itself.

Z. Shao, Z. Zhang, F. Wang, Y. Xu: Pre-training Enhanced Spatial-temporal Graph Neural Network for Multivariate Time
Series Forecasting, KDD 2022 (there TSFormer). It is the first of two stages; the second is :mod:`stgraph.models.step`.

    stgraph train --data los.stg --model step_encoder --out runs/encoder

Different here: tokens are minutes, not steps, with rotary positions and the calendar in place of a table of positions;
layers normalise first; each sample has its own mask (published: one for a batch); a history that is short or has gaps
is masked (published: a history that is not whole is set to zero); true zeros count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.graph.time import DAY
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.nn import CalendarEmbedding, ChannelScaler, PatchValues, TemporalAttention, TimePatches
from stgraph.nn.calendar import next_day
from stgraph.windows import City, Forecast, Window, long_history

_SERIES = 32  # encoded at a time: some 25 MB, which a processor keeps close


@dataclass
class StepEncoderConfig:
    """Structure of the encoder; the defaults are the paper's for a week."""

    minutes: float = 60.0  # length of a token, the patch
    tokens: int = 168  # tokens of the long history: one week
    resolution_minutes: float = 5.0  # length of a cell inside a token; it divides the token
    width: int = 96  # of a token's state
    heads: int = 4  # attention heads; twice as many divide the width
    layers: int = 4  # of the encoder
    decoder_layers: int = 1  # of the decoder, which only training needs
    expansion: int = 4  # width inside an MLP, in widths
    dropout: float = 0.1  # on attention weights, messages and MLPs


class Layer(nn.Module):
    """``h += attention(norm(h)); h += mlp(norm(h))`` over the tokens of each node, ``[B, S, N, D]``."""

    def __init__(self, config: StepEncoderConfig) -> None:
        super().__init__()
        width, inside = config.width, config.expansion * config.width
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = TemporalAttention(width, config.heads, config.dropout)
        self.mlp = nn.Sequential(nn.Linear(width, inside), nn.ReLU(), nn.Dropout(config.dropout),
                                 nn.Linear(inside, width), nn.Dropout(config.dropout))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, minutes: Tensor, seen: Tensor) -> Tensor:
        """Same shape as ``h``; only tokens that are ``seen [B, S, N]`` are looked at."""
        h = h + self.drop(self.attention(self.norm_attention(h), minutes, seen))
        return h + self.mlp(self.norm_mlp(h))


class StepEncoder(Forecaster):
    """Stage 1: the long history of each node by itself -> a state for each of its tokens. It forecasts nothing."""

    name = "step_encoder"
    Config = StepEncoderConfig
    recipe: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-3, "weight_decay": 1e-4, "batch_size": 8,
        "objectives": (("masked(kind=whole_step,rate=0.75,minutes=60,span=long)", 1.0),)}

    def __init__(self, config: StepEncoderConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        width, shape = config.width, (config.minutes, config.width, sizes.channels, config.resolution_minutes)
        if config.tokens < 1:
            raise InputError("a long history has at least one token", field="tokens", value=config.tokens)
        self.scaler = ChannelScaler(sizes.channels, fixed=False)
        self.patches, self.clock = TimePatches(*shape), CalendarEmbedding(width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm, self.hand_over = nn.LayerNorm(width), nn.Linear(width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.decoder = nn.ModuleList(Layer(config) for _ in range(config.decoder_layers))
        self.decoder_norm, self.values = nn.LayerNorm(width), PatchValues(*shape)

    @classmethod
    def describe(cls, config: StepEncoderConfig) -> Capabilities:
        """Inductive; reads the long history; gives states."""
        minutes = config.minutes * config.tokens
        return Capabilities(inductive=True, needs=frozenset({long_history(minutes)}), gives="states",
                            any_horizon=True, long_minutes=minutes)

    def check(self, city: City) -> None:
        """Any nodes, interval, history and horizon will do.

        Raises:
            InputError: for another number of channels, or data that do not fill one patch.
        """
        super().check(city)
        there = city.time.length * city.time.step / 60
        if there < self.config.minutes:
            raise InputError(f"the model '{self.name}' reads a long history in patches of {self.config.minutes:g} "
                             "minutes, and the data do not fill one", field="history", value=f"{there:g} minutes",
                             remedy="give more data, or train an encoder with shorter patches, as by --set minutes=30")

    def forward(self, window: Window) -> Forecast:
        """Nothing to be had here.

        Raises:
            InputError: always.
        """
        raise InputError(f"the model '{self.name}' gives states and no forecast", field="model", value=self.name,
                         remedy="train a forecaster on it: stgraph train --model step --set encoder=FOLDER")

    def states(self, window: Window) -> Tensor:
        """The state of each token of a window whose input steps are the long history: ``[B, S, N, D]``.

        A token without a reading only asks and is not looked at; so a history may be short or have gaps.
        """
        h, seen, _, minutes = self.tokens(window)
        return self.encode(h, minutes, seen)

    def reconstruct(self, window: Window, hidden: Tensor) -> Tensor:
        """Values ``[B, L, N, C]`` of all steps; see :class:`stgraph.objectives.protocols.Reconstructs`.

        The encoder runs on visible tokens only; where these are the same for all nodes, as with ``whole_step``, that
        is a share ``1 - rate`` of the work.

        Raises:
            InputError: for a window of one token, which has nothing to be filled in from.
        """
        h, seen, clock, minutes = self.tokens(window)                                # [B, S, N, D], [B, S, N]
        if h.shape[1] < 2:
            raise InputError("one token alone has nothing to be filled in from", field="span",
                             value=f"{h.shape[1]} token", remedy="use masked(kind=whole_step,rate=0.75,span=long)")
        shown = seen.any(2)                                                           # [B, S]
        count = max(1, int(shown.sum(1).max()))
        first = (~shown).long().argsort(dim=1, stable=True)[:, :count]                # [B, V] visible ones, in order
        pick = first[..., None].expand(-1, -1, h.shape[2])                            # [B, V, N]
        wide = pick[..., None].expand(-1, -1, -1, h.shape[3])
        code = self.hand_over(self.encode(h.gather(1, wide), minutes[first], seen.gather(1, pick)))
        blank = (self.mask_token + clock)[:, :, None].expand_as(h)
        h = torch.where(seen[..., None], blank.to(code.dtype).scatter(1, wide, code), blank)
        step = window.city.time.step / 60
        _, asked = self.patches(window.values, hidden, step)                          # tokens with a hidden reading
        h = self.decode(h, minutes, seen | asked)
        return self.scaler.undo(self.values(h, hidden.shape[1], step), window)

    def outlook(self, window: Window, ahead: int) -> Tensor:
        """The state of the last token and those of the next ``ahead`` ones: ``[B, N, (1 + ahead) D]``.

        To the decoder the tokens to come are hidden ones, as any in training: it knows their clock and fills them in
        from the whole long history. So they hold what the week says of the hours that are to be forecast.
        """
        h, seen, clock, minutes = self.tokens(window)
        h = self.encode(h, minutes, seen)
        if not ahead:
            return h[:, -1]
        coming, when = self.coming(window, ahead)                                     # [B, A, D], [A]
        blank = (self.mask_token + torch.cat([clock, coming], 1))[:, :, None].expand(-1, -1, h.shape[2], -1)
        past, asked = blank[:, : h.shape[1]], blank[:, h.shape[1]:]
        full = torch.cat([torch.where(seen[..., None], self.hand_over(h), past), asked], 1)
        looked_at = torch.cat([seen, seen.new_ones(asked.shape[:3])], 1)
        decoded = self.decode(full, torch.cat([minutes, when]), looked_at)[:, -ahead:]
        return torch.cat([h[:, -1:], decoded], 1).transpose(1, 2).flatten(2)

    def coming(self, window: Window, ahead: int) -> tuple[Tensor, Tensor]:
        """The clock ``[B, A, D]`` of the tokens after a window, and the minutes to their middles ``[A]``."""
        time = window.city.time
        step = time.step / 60
        middle = (np.arange(ahead) + 0.5) * max(self.config.minutes, step)
        rows = (window.origin.cpu().numpy()[:, None] + (middle // step).astype(np.int64)).ravel()
        minute = time.local(time.times(rows)) % DAY / 60 + np.tile(middle % step, window.batch_size)
        weekday, device = torch.from_numpy(time.calendar(rows)[1]), self.mask_token.device
        minutes = torch.from_numpy(minute)
        clock = self.clock((minutes % 1440).float().to(device), next_day(weekday, minutes).to(device))
        return clock.view(-1, ahead, clock.shape[-1]), torch.from_numpy(middle).to(clock)

    def tokens(self, window: Window) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens ``[B, S, N, D]`` with their clock, which hold a reading, the clock ``[B, S, D]``, minutes ``[S]``."""
        mean, deviation = self.scaler.numbers(window)
        step = window.city.time.step / 60
        scaled = torch.where(window.mask, (window.values - mean) / deviation, 0)
        h, seen = self.patches(scaled, window.mask, step)
        clock = self.clock(*self.patches.clock(window.past, step))
        return h + clock[:, :, None], seen, clock, self.patches.layout(scaled.shape[1], step).minutes

    def encode(self, h: Tensor, minutes: Tensor, seen: Tensor) -> Tensor:
        """All layers of the encoder, same shape as ``h``."""
        for layer in self.layers:
            h = layer(h, minutes, seen)
        return self.norm(h)

    def decode(self, h: Tensor, minutes: Tensor, seen: Tensor) -> Tensor:
        """All layers of the decoder, same shape as ``h``."""
        for layer in self.decoder:
            h = layer(h, minutes, seen)
        return self.decoder_norm(h)


# -------------------------------------------------------------------- states of a city, each computed once
class CachedStates:
    """The last state of an encoder at the patch boundaries of a city, computed in blocks when first asked for.

    Row ``b`` of :attr:`values` is the state of every node before row ``b * every``: it knows the readings before that
    row and no others. A block is always computed as a whole, so that it does not matter who asks first.

    Args:
        encoder: The encoder.
        city: The city.
        ahead: Tokens to come whose states are kept too.
    """

    def __init__(self, encoder: StepEncoder, city: City, ahead: int = 0) -> None:
        self.ahead = ahead
        self.every = steps_of_patch(encoder, city)
        count = city.time.length // self.every + 1
        self.block = max(1, _SERIES // city.num_nodes)
        self.values = torch.zeros(count, city.num_nodes, (1 + ahead) * encoder.config.width)
        self.known = np.zeros(math.ceil(count / self.block), bool)

    def fill(self, boundaries: np.ndarray, encoder: StepEncoder, city: City) -> None:
        """Compute what is missing of the states at boundaries ``[B]``."""
        blocks = np.unique(boundaries // self.block)
        for block in blocks[~self.known[blocks]]:
            rows = np.arange(block * self.block, min((block + 1) * self.block, len(self.values)))
            self.values[rows[0] : rows[-1] + 1] = last_states(encoder, city, rows * self.every, self.ahead)
            self.known[block] = True

    def at(self, boundaries: np.ndarray, encoder: StepEncoder, city: City) -> Tensor:
        """States ``[B, N, (1 + ahead) D]`` at boundaries ``[B]``, on the CPU."""
        self.fill(boundaries, encoder, city)
        return self.values[torch.from_numpy(boundaries)]


def steps_of_patch(encoder: StepEncoder, city: City) -> int:
    """Whole steps of a city in one patch, at least 1."""
    return max(1, int(encoder.config.minutes * 60 / city.time.step + 1e-6))


def last_states(encoder: StepEncoder, city: City, origins: np.ndarray, ahead: int = 0) -> Tensor:
    """What :meth:`StepEncoder.outlook` gives before some rows, ``[B, N, (1 + ahead) D]``, on the CPU, no gradient."""
    device = encoder.mask_token.device
    whole = city.long_window(origins, encoder.capabilities.long_minutes)
    found = []
    # what is kept must not be bound to an evaluation, nor to the precision of a training
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for first in range(0, city.num_nodes, _SERIES):
            nodes = slice(first, first + _SERIES)
            part = replace(whole, values=whole.values[:, :, nodes], mask=whole.mask[:, :, nodes])
            found.append(encoder.outlook(part if device.type == "cpu" else part.to(device), ahead).cpu())
    return torch.cat(found, 1)
