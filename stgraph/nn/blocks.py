"""The block stack as configuration: parts by name, in any order, around one state.

A part maps the states ``h [B, S, N, D]`` of a node type (or of all types at once) to messages of the same shape; the
block adds them, ``h + part(norm(h))``. What a part needs beside ``h`` it finds in the :class:`Surroundings`, so a new
hybrid is another ``BlockConfig.parts`` and a new part is one :func:`register_part`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.conditioning import AdaptiveGate, AdaptiveLayerNorm, DiffusionTimeEmbedding, SwiGLU
from stgraph.nn.convolution import GatedDilatedConvolution
from stgraph.nn.hypergraph import HypergraphConvolution, LearnedHypergraph
from stgraph.nn.learned_graph import Candidates, LearnedGraph, LearnedMessagePassing
from stgraph.nn.message_passing import Relation, RelationName, TypedMessagePassing
from stgraph.nn.patch_attention import PatchAttention
from stgraph.nn.temporal import LinearTemporalEncoder, TemporalAttention
from stgraph.ops import Adjacency
from stgraph.partition import Partition

States = TypeVar("States", Tensor, dict[str, Tensor])


@dataclass(frozen=True)
class BlockConfig:
    """Structure of one block. Nothing here comes from a data set but names of relations and lengths of codes."""

    parts: tuple[str, ...] = ("time", "graph", "patch", "mlp")  # what is done, in this order
    width: int = 64  # channels D of the state
    heads: int = 4  # of all attention
    dropout: float = 0.0  # inside parts
    silence: bool = True  # tokens that were not observed are not looked at and send nothing
    diffusion: bool = False  # norms and residuals adapt to the time of a diffusion
    # time
    kernel: int = 2  # conv: taps
    dilation: int = 1  # conv: tokens between taps
    # graph
    relations: tuple[RelationName, ...] = ()  # graph: those with weights of their own; all others share
    bases: int = 2  # graph: matrices that relations are mixtures of
    gate: bool = False  # graph: both ends and edge features decide what an edge carries
    edge_features: int = 0  # graph: length of these features
    descriptors: int = 0  # learned_graph: length of the node descriptors that score edges; 0: the states do
    neighbours: int = 8  # learned_graph: edges chosen per node
    scorer: Literal["mlp", "bilinear"] = "mlp"  # learned_graph: how a pair is scored
    hyperedges: int = 16  # learned_hypergraph: number of hyperedges
    codes: int = 0  # learned_hypergraph: length of place codes that decide on membership
    # patch
    breadth: Literal["summaries", "same_slot", "none"] = "summaries"  # patch, patch_breadth: how patches meet
    summaries: int = 2  # patch: summaries of a patch
    hubs: int = 8  # patch: where summaries meet
    # mlp
    expansion: float = 2.0  # mlp: hidden width over the width


@dataclass
class Surroundings:
    """What stands around the states: the map, the clock, what was observed. A part takes what it needs.

    What belongs to one node type (``partition`` to ``observed``) may be given as a dict by type; a part passes over
    types for which its entry is missing.

    Args:
        relations: Edges by relation.
        partition: Patches of the nodes.
        incidence: Nodes -> hyperedges.
        candidates: Edges that a learned graph may choose from.
        descriptors: ``[N, F]`` by which it scores them.
        codes: ``[N, K]`` place codes.
        observed: ``[B, S, N]`` bool, True where a token holds something observed.
        minutes: ``[S]`` or ``[B, S]`` minutes of the tokens from any origin.
        span: Minutes that a token covers: a number, ``[S]`` or ``[B, S]``.
        times: ``[S]`` or ``[B, S]`` int64 seconds UTC of the tokens, where edges have lives.
        diffusion_time: ``[B]`` in ``[0, 1]``; None outside a diffusion.
        condition: ``[B, D]`` code of the diffusion time; a stack makes it.
        graphs: The graphs that the parts ``learned_graph`` chose, block after block, for the loss against the prior
            graph; make new surroundings for each batch, or empty it.
    """

    relations: Mapping[RelationName, Relation | Adjacency] = field(default_factory=dict)
    partition: Partition | Mapping[str, Partition] | None = None
    incidence: Relation | Adjacency | Mapping[str, Relation | Adjacency] | None = None
    candidates: Candidates | Mapping[str, Candidates] | None = None
    descriptors: Tensor | Mapping[str, Tensor] | None = None
    codes: Tensor | Mapping[str, Tensor] | None = None
    observed: Tensor | Mapping[str, Tensor] | None = None
    minutes: Tensor | None = None
    span: Tensor | float = 60.0
    times: Tensor | None = None
    diffusion_time: Tensor | None = None
    condition: Tensor | None = None
    graphs: list[LearnedGraph] = field(default_factory=list)

    def of(self, name: str, kind: str) -> Any:
        """The entry ``name`` of a node type; None where there is none."""
        value = getattr(self, name)
        return value.get(kind) if isinstance(value, Mapping) else value


# -------------------------------------------------------------------- the registry
@dataclass(frozen=True)
class Part:
    """How a part is made and called.

    Args:
        build: ``build(config) -> module``.
        call: ``call(module, h, surroundings, kind) -> message``, with ``h [B, S, N, D]`` of the node type ``kind``
            ("" where there is one type only); for a joint part ``h`` is the state of all types and there is no kind.
        needs: Entry of the surroundings without which a node type is passed over.
        joint: Whether it runs on all types at once.
    """

    build: Callable[[BlockConfig], nn.Module]
    call: Callable[..., Any]
    needs: str | None = None
    joint: bool = False


PARTS: dict[str, Part] = {}


def register_part(name: str, part: Part) -> None:
    """Make a part known by name.

    Raises:
        InputError: where the name is taken.
    """
    if name in PARTS:
        raise InputError("there is a part of this name", field="name", value=name, remedy="choose another name")
    PARTS[name] = part


def find_part(name: str) -> Part:
    """A part by name.

    Raises:
        InputError: for an unknown name.
    """
    if name not in PARTS:
        raise InputError("unknown part of a block", field="parts", value=name,
                         remedy=f"use {', '.join(sorted(PARTS))}")
    return PARTS[name]


def needs_of(parts: Sequence[str]) -> frozenset[str]:
    """Entries of the surroundings that these parts cannot do without.

    Raises:
        InputError: for an unknown name.
    """
    return frozenset(need for name in parts if (need := find_part(name).needs) is not None)


# -------------------------------------------------------------------- the block
class SpaceTimeBlock(nn.Module):
    """Parts one after the other, each ``h + part(norm(h))``; all node types share them.

    With ``config.diffusion`` the norm and what is added depend on the time of the diffusion (adaLN-zero).

    Args:
        config: The structure.

    Shapes:
        ``h [B, S, N, D]``, or a dict of these by node type -> the same.

    Raises:
        InputError: for an unknown part.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        self._found = [find_part(name) for name in config.parts]
        self.parts = nn.ModuleList(found.build(config) for found in self._found)
        count, width = len(config.parts), config.width
        self.norms: nn.ModuleList = nn.ModuleList(
            AdaptiveLayerNorm(width, width) if config.diffusion else nn.LayerNorm(width) for _ in range(count))
        self.gates = nn.ModuleList(AdaptiveGate(width, width) for _ in range(count)) if config.diffusion else None

    def forward(self, h: States, surroundings: Surroundings) -> States:
        """States after all parts.

        Args:
            h: States of one node type, or of several by name.
            surroundings: What parts need.

        Raises:
            InputError: where a part finds nothing of what it needs, for no node type.
        """
        states: dict[str, Tensor] = dict(h) if isinstance(h, dict) else {"": h}
        if not self.config.silence:
            surroundings = replace(surroundings, observed=None)
        for number, name in enumerate(self.config.parts):
            normal = {kind: self._norm(number, x, surroundings) for kind, x in states.items()}
            for kind, message in self._messages(number, name, normal, surroundings, isinstance(h, dict)).items():
                if self.gates is not None:
                    message = self.gates[number](message, surroundings.condition)
                states[kind] = states[kind] + message
        return states if isinstance(h, dict) else states[""]

    def _norm(self, number: int, x: Tensor, surroundings: Surroundings) -> Tensor:
        norm = self.norms[number]
        return norm(x, surroundings.condition) if self.config.diffusion else norm(x)

    def _messages(self, number: int, name: str, states: dict[str, Tensor], surroundings: Surroundings,
                  several: bool) -> dict[str, Tensor]:
        """What a part says to each node type that it has something for."""
        found, module = self._found[number], self.parts[number]
        if found.joint:
            out = found.call(module, states if several else states[""], surroundings)
            return out if several else {"": out}
        kinds = [kind for kind in states if found.needs is None or surroundings.of(found.needs, kind) is not None]
        if states and not kinds:
            raise InputError(f"the part '{name}' has nothing to work on", field=f"surroundings.{found.needs}",
                             remedy=f"give {found.needs}, or leave the part out of the config")
        return {kind: found.call(module, states[kind], surroundings, kind) for kind in kinds}


class SpaceTimeStack(nn.Module):
    """Blocks one after the other, and the code of the diffusion time where one of them wants it.

    Args:
        blocks: Their structures, of one width.

    Shapes:
        As :class:`SpaceTimeBlock`.

    Raises:
        InputError: for an unknown part, or blocks of several widths.
    """

    def __init__(self, blocks: Sequence[BlockConfig]) -> None:
        super().__init__()
        widths = {config.width for config in blocks}
        if len(widths) > 1:
            raise InputError("blocks of a stack have one width", field="width", value=sorted(widths),
                             remedy="choose one of them")
        self.blocks = nn.ModuleList(SpaceTimeBlock(config) for config in blocks)
        self.time = DiffusionTimeEmbedding(widths.pop()) if any(config.diffusion for config in blocks) else None

    def forward(self, h: States, surroundings: Surroundings) -> States:
        """States after all blocks."""
        if self.time is not None and surroundings.diffusion_time is not None:
            surroundings = replace(surroundings, condition=self.time(surroundings.diffusion_time))
        for block in self.blocks:
            h = block(h, surroundings)
        return h


# -------------------------------------------------------------------- the parts
def _graph(config: BlockConfig) -> nn.Module:
    return TypedMessagePassing(config.width, config.relations, config.bases, gate=config.gate,
                               heads=config.heads if config.gate else 1, edge_features=config.edge_features,
                               dropout=config.dropout)


def _learned_graph(config: BlockConfig) -> nn.Module:
    return LearnedMessagePassing(config.width, config.descriptors, config.neighbours, scorer=config.scorer,
                                 dropout=config.dropout)


def _patches(config: BlockConfig, depth: bool = True, breadth: bool = True) -> nn.Module:
    return PatchAttention(config.width, config.heads, config.breadth if breadth else "none", depth, config.summaries,
                          config.hubs, config.dropout)


def _call_time(module: nn.Module, h: Tensor, around: Surroundings, kind: str) -> Tensor:
    minutes = around.minutes
    if minutes is None:  # tokens one after the other
        span = torch.as_tensor(around.span, device=h.device)
        minutes = (span if span.dim() else span.expand(h.shape[1])).cumsum(-1)
    return module(h, minutes, around.of("observed", kind))


def _call_learned(module: nn.Module, h: Tensor, around: Surroundings, kind: str) -> Tensor:
    message, graph = module(h, around.of("candidates", kind), around.of("descriptors", kind),
                            around.of("observed", kind))
    around.graphs.append(graph)
    return message


def _call_patch(module: nn.Module, h: Tensor, around: Surroundings, kind: str) -> Tensor:
    return module(h, around.of("partition", kind), around.of("observed", kind))


register_part("time", Part(
    lambda config: TemporalAttention(config.width, config.heads, config.dropout), _call_time))
register_part("linear_time", Part(
    lambda config: LinearTemporalEncoder(config.width, dropout=config.dropout),
    lambda module, h, around, kind: module(h, around.span, around.of("observed", kind))))
register_part("conv", Part(
    lambda config: GatedDilatedConvolution(config.width, config.kernel, config.dilation),
    lambda module, h, around, kind: module(h, around.of("observed", kind))))
register_part("graph", Part(
    _graph, lambda module, h, around: module(h, around.relations, around.times, around.observed), joint=True))
register_part("learned_graph", Part(_learned_graph, _call_learned, needs="candidates"))
register_part("patch", Part(_patches, _call_patch, needs="partition"))
register_part("patch_depth", Part(lambda config: _patches(config, breadth=False), _call_patch, needs="partition"))
register_part("patch_breadth", Part(lambda config: _patches(config, depth=False), _call_patch, needs="partition"))
register_part("hypergraph", Part(
    lambda config: HypergraphConvolution(config.width, dropout=config.dropout),
    lambda module, h, around, kind: module(h, around.of("incidence", kind), around.times, around.of("observed", kind)),
    needs="incidence"))
register_part("learned_hypergraph", Part(
    lambda config: LearnedHypergraph(config.width, config.hyperedges, config.codes, config.dropout),
    lambda module, h, around, kind: module(h, around.of("codes", kind), around.of("observed", kind))))
register_part("mlp", Part(
    lambda config: SwiGLU(config.width, round(config.expansion * config.width), config.dropout),
    lambda module, h, around, kind: module(h)))
