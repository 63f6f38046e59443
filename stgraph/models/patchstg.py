"""PatchSTG: attention inside patches of neighbouring nodes, then between patches, at near-linear cost.

Y. Fang, Y. Liang, B. Hui et al.: Efficient Large-Scale Traffic Forecasting with Transformers: A Spatial Data
Management Perspective, KDD 2025 (arXiv 2412.09972). Different here: patches are split directly into equal sizes with
empty slots masked (``padding="masked"``; ``"similar"`` is the paper's), and a network without coordinates is split by
its training profiles.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from stgraph.errors import InputError
from stgraph.models.base import Capabilities, Forecaster, Sizes
from stgraph.nn import CalendarTable, ChannelScaler
from stgraph.partition import Partition, feature, kdtree, local_metres, patchstg_partition, patchstg_shape
from stgraph.windows import City, Forecast, Window


@dataclass
class PatchSTGConfig:
    """Structure of PatchSTG. The defaults suit some hundred nodes on a CPU.

    The paper's for San Diego are ``input_width=64, slot_width=32, weekday_width=32, node_width=64, layers=5,
    padding="similar", patches=16``.
    """

    input_width: int = 32  # of the window's code
    slot_width: int = 16  # of the vector for the slot of the day
    weekday_width: int = 16  # of the vector for the day of the week
    node_width: int = 16  # of the vector of each node
    layers: int = 2  # blocks of depth and breadth attention
    heads: int = 1  # attention heads; divides the sum of the widths
    mlp_ratio: float = 1.0  # hidden width of an MLP over its width
    dropout: float = 0.1  # on attention weights, projections and MLPs
    node_table: bool = True  # one learned vector a node; without it the model runs on networks it never saw
    partition: str = "auto"  # kdtree (coordinates), feature (training profiles), or auto: kdtree where possible
    padding: str = "masked"  # masked (equal split, empty slots hidden) or similar (the paper's leaves and copies)
    patches: int = 0  # number of patches; 0: about the square root of the number of slots
    depth: int = 0  # similar padding only: levels of the tree; 0: as many as there are nodes for


class Attention(nn.Module):
    """Self-attention along one axis of a table of slots.

    Shapes:
        ``h [B, G, L, D]``, ``allowed`` None or ``[G, L, L]`` bool, True where a slot may look -> ``[B, G, L, D]``.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, allowed: Tensor | None) -> Tensor:
        """Same shape as ``h``."""
        batch, groups, length, _ = h.shape
        # groups take the place of heads, so that the fused kernels for four axes apply
        q, k, v = (self.qkv(h).view(batch, groups, length, 3, self.heads, -1)
                   .permute(3, 0, 1, 4, 2, 5).flatten(2, 3))                  # each [B, G * heads, L, D / heads]
        if allowed is not None and self.heads > 1:
            allowed = allowed.repeat_interleave(self.heads, 0)
        mixed = scaled_dot_product_attention(q, k, v, allowed, self.dropout if self.training else 0.0)
        mixed = mixed.unflatten(1, (groups, self.heads)).transpose(2, 3).reshape(h.shape)
        return self.drop(self.out(mixed))


class Mixer(nn.Module):
    """``h += attention(norm(h)); h += mlp(norm(h))`` along the second last axis ``[B, G, L, D]``."""

    def __init__(self, width: int, config: PatchSTGConfig) -> None:
        super().__init__()
        hidden = round(width * config.mlp_ratio)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, config.dropout)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(config.dropout),
                                 nn.Linear(hidden, width), nn.Dropout(config.dropout))

    def forward(self, h: Tensor, allowed: Tensor | None) -> Tensor:
        """Same shape as ``h``."""
        h = h + self.attention(self.norm_attention(h), allowed)
        return h + self.mlp(self.norm_mlp(h))


class Block(nn.Module):
    """Depth: slots of one patch look at each other. Breadth: the same slot of all patches look at each other."""

    def __init__(self, width: int, config: PatchSTGConfig) -> None:
        super().__init__()
        self.depth, self.breadth = Mixer(width, config), Mixer(width, config)

    def forward(self, h: Tensor, in_patch: Tensor | None, across: Tensor | None) -> Tensor:
        """``h [B, R, S, D]``; masks None or ``[R, S, S]`` and ``[S, R, R]``."""
        h = self.depth(h, in_patch)
        return self.breadth(h.transpose(1, 2), across).transpose(1, 2)


class PatchSTG(Forecaster):
    """Window, clock and node vectors, laid out in patches, mixed along depth and breadth, read back -> ``H`` steps.

    The calendar is that of the last input step, as in the paper.
    """

    name = "patchstg"
    Config = PatchSTGConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 5e-3, "weight_decay": 1e-4, "batch_size": 16}
    all_idx: Tensor
    slot_of_real: Tensor
    node_of_real: Tensor
    valid: Tensor

    def __init__(self, config: PatchSTGConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        _check(config)
        width = config.input_width + config.slot_width + config.weekday_width + config.node_table * config.node_width
        if width % config.heads:
            raise InputError("the attention heads must divide the width", field="heads", value=config.heads,
                             remedy=f"choose a divisor of {width}")
        self.scaler = ChannelScaler(sizes.channels, fixed=config.node_table)
        self.window = nn.Linear(sizes.history * (sizes.channels + 2), config.input_width)
        self.slot = CalendarTable(sizes.slots_per_day, config.slot_width)
        self.weekday = CalendarTable(7, config.weekday_width, weekly=True)
        self.node = None
        if config.node_table:
            self.node = nn.Parameter(nn.init.xavier_uniform_(torch.empty(sizes.nodes or 0, config.node_width)))
            for key in ("all_idx", "valid", "slot_of_real", "node_of_real"):
                self.register_buffer(key, torch.zeros(0, dtype=torch.bool if key == "valid" else torch.long))
        self.blocks = nn.ModuleList(Block(width, config) for _ in range(config.layers))
        self.head = nn.Linear(width, sizes.horizon * sizes.channels)

    @classmethod
    def describe(cls, config: PatchSTGConfig) -> Capabilities:
        """Inductive only without the node table."""
        needs = frozenset({"positions"} if config.partition == "kdtree" else ())
        return Capabilities(inductive=not config.node_table, needs=needs)

    def prepare(self, city: City) -> None:
        """Fit the scaler on the training rows and lay out the nodes; the kind of partition is noted in the config."""
        self.scaler.fit(city)
        if self.node is None:
            return
        self.config = dataclasses.replace(self.config, partition=_kind(self.config, city))
        laid = make_partition(self.config, city).to(self.head.weight.device)
        for key in ("slot_of_real", "node_of_real"):
            self.register_buffer(key, getattr(laid, key))
        for key in ("all_idx", "valid"):  # [R, S]: the number of patches is kept by the shape
            self.register_buffer(key, getattr(laid, key).view(laid.patches, -1))

    def partition(self, city: City) -> Partition:
        """The layout of a city's nodes: the one that came with the weights, or the city's own, made once."""
        if self.node is not None:
            return Partition(self.all_idx.flatten(), self.slot_of_real, self.node_of_real, self.valid.flatten(),
                             len(self.valid))
        device = self.head.weight.device
        made = vars(city.context).setdefault("partitions", {})  # kept with the descriptors that it was made from
        key = (self.config.partition, self.config.padding, self.config.patches, self.config.depth, str(device))
        if key not in made:
            made[key] = make_partition(self.config, city).to(device)
        return made[key]

    def forward(self, window: Window) -> Forecast:
        """Forecast ``[B, H, N, C]`` in SI units."""
        partition = self.partition(window.city)
        inputs = self.scaler(window)                                                # [B, T, N, C + 2]
        code = self.window(inputs.transpose(1, 2).flatten(2))                       # [B, N, input_width]
        codes = [code, *(vector[:, None].expand(-1, code.shape[1], -1) for vector in (
            self.slot(window.past.slot[:, -1]), self.weekday(window.past.weekday[:, -1])))]
        if self.node is not None:
            codes.append(self.node.expand(code.shape[0], -1, -1))
        h = partition.gather(torch.cat(codes, -1), 1)                               # [B, M, D]
        h = partition.scatter(self.mix(h, partition), 1)                            # [B, N, D]
        y = self.head(h).unflatten(-1, (self.sizes.horizon, self.sizes.channels))   # [B, N, H, C]
        return Forecast(self.scaler.undo(y.transpose(1, 2), window))

    def mix(self, h: Tensor, partition: Partition) -> Tensor:
        """All blocks on the slots ``[B, M, D]`` of a partition."""
        h = h.unflatten(1, (partition.patches, partition.patch_size))               # [B, R, S, D]
        in_patch = across = None
        if self.config.padding == "masked" and partition.valid.numel() > partition.num_nodes:
            valid = partition.valid.view(partition.patches, partition.patch_size)
            in_patch, across = _allowed(valid), _allowed(valid.T)
        for block in self.blocks:
            h = block(h, in_patch, across)
        return h.flatten(1, 2)


def _allowed(valid: Tensor) -> Tensor:
    """``[G, L]`` valid slots -> ``[G, L, L]``: look at valid slots; an empty slot also at itself, lest it be NaN."""
    return valid[:, None, :] | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)


# -------------------------------------------------------------------- the layout of a city
def make_partition(config: PatchSTGConfig, city: City) -> Partition:
    """Lay out a city's nodes by their places, or by their training profiles.

    Raises:
        InputError: where the city lacks coordinates for the chosen kind, or the sizes do not fit.
    """
    if config.padding == "similar":
        if _kind(config, city) == "feature":
            raise InputError("the paper's padding needs a tree on coordinates", field="padding", value=city.name,
                             remedy="use padding=masked")
        depth, patches = patchstg_shape(city.num_nodes, config.depth, config.patches)
        return patchstg_partition(_places(city), depth, patches, _profile(city))
    patches = min(config.patches or round(math.sqrt(city.num_nodes)), city.num_nodes)
    if _kind(config, city) == "feature":
        return feature(_profile(city), patches)
    return kdtree(_places(city), patches)


def _kind(config: PatchSTGConfig, city: City) -> str:
    if config.partition != "auto":
        return config.partition
    return "kdtree" if torch.isfinite(city.lonlat).all(1).any() else "feature"


def _places(city: City) -> np.ndarray:
    return local_metres(city.lonlat.numpy())


def _profile(city: City) -> np.ndarray:
    """Training profile of the day, channels in deviations: ``[N, C * slots]``."""
    profile = city.context.day_profile() / city.context.deviation               # [slots, N, C]
    return profile.transpose(1, 2, 0).reshape(city.num_nodes, -1)


def _check(config: PatchSTGConfig) -> None:
    for field, choices in (("partition", ("auto", "kdtree", "feature")), ("padding", ("masked", "similar"))):
        if getattr(config, field) not in choices:
            raise InputError("unknown choice", field=field, value=getattr(config, field),
                             remedy=f"use one of {', '.join(choices)}")
