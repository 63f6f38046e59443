"""Blocks that several models are built from; the layers on a graph, which load the kernels, when first used."""

from typing import TYPE_CHECKING, Any

from stgraph.nn.calendar import CalendarEmbedding
from stgraph.nn.conditioning import AdaptiveGate, AdaptiveLayerNorm, DiffusionTimeEmbedding, SwiGLU
from stgraph.nn.convolution import CausalStack, GatedDilatedConvolution
from stgraph.nn.frozen import freeze, is_frozen
from stgraph.nn.inputs import CalendarTable, ChannelScaler
from stgraph.nn.place import PlaceCode, place_features
from stgraph.nn.temporal import FutureQueries, LinearTemporalEncoder, TemporalAttention, linear_recurrence
from stgraph.nn.time_patches import PatchLayout, PatchValues, TimePatches
from stgraph.nn.window_scale import WindowScale, WindowScaler

if TYPE_CHECKING:
    from stgraph.nn.blocks import BlockConfig, Part, SpaceTimeBlock, SpaceTimeStack, Surroundings, register_part
    from stgraph.nn.graph import (
        DiffusionConvolution,
        GraphAttention,
        GraphConvolution,
        GraphGRUCell,
        GraphTransformer,
        RelationalConvolution,
    )
    from stgraph.nn.heads import (
        AnomalyHead,
        ClassificationHead,
        ClusterHead,
        KrigeHead,
        QuantileHead,
        ReconstructHead,
    )
    from stgraph.nn.hypergraph import HypergraphConvolution, LearnedHypergraph, event_incidence
    from stgraph.nn.learned_graph import (
        Candidates,
        LearnedGraph,
        LearnedMessagePassing,
        SparseGraphLearner,
        correlation_graph,
        find_candidates,
        residual_graph,
    )
    from stgraph.nn.message_passing import Relation, TypedMessagePassing, relations_of, with_reversed
    from stgraph.nn.patch_attention import PatchAttention, patch_attention_cost
    from stgraph.nn.pooling import PatchPool, PatchUnpool

__all__ = [
    "AdaptiveGate", "AdaptiveLayerNorm", "CalendarEmbedding", "CalendarTable", "CausalStack", "ChannelScaler",
    "DiffusionTimeEmbedding", "FutureQueries", "GatedDilatedConvolution", "LinearTemporalEncoder", "PatchLayout",
    "PatchValues", "PlaceCode", "SwiGLU", "TemporalAttention", "TimePatches", "WindowScale", "WindowScaler",
    "freeze", "is_frozen", "linear_recurrence", "place_features",
]
__all__ += ["DiffusionConvolution", "GraphAttention", "GraphConvolution", "GraphGRUCell", "GraphTransformer",
            "RelationalConvolution"]
_HOME = {
    "blocks": ("BlockConfig", "Part", "SpaceTimeBlock", "SpaceTimeStack", "Surroundings", "register_part"),
    "heads": ("AnomalyHead", "ClassificationHead", "ClusterHead", "KrigeHead", "QuantileHead", "ReconstructHead"),
    "hypergraph": ("HypergraphConvolution", "LearnedHypergraph", "event_incidence"),
    "learned_graph": ("Candidates", "LearnedGraph", "LearnedMessagePassing", "SparseGraphLearner", "correlation_graph",
                      "find_candidates", "residual_graph"),
    "message_passing": ("Relation", "TypedMessagePassing", "relations_of", "with_reversed"),
    "patch_attention": ("PatchAttention", "patch_attention_cost"),
    "pooling": ("PatchPool", "PatchUnpool"),
}
__all__ += ["AnomalyHead", "ClassificationHead", "ClusterHead", "KrigeHead", "QuantileHead", "ReconstructHead"]
__all__ += ["BlockConfig", "Candidates", "HypergraphConvolution", "LearnedGraph", "LearnedHypergraph",
            "LearnedMessagePassing", "Part", "PatchAttention", "PatchPool", "PatchUnpool", "Relation",
            "SpaceTimeBlock", "SpaceTimeStack", "SparseGraphLearner", "Surroundings", "TypedMessagePassing",
            "correlation_graph", "event_incidence", "find_candidates", "patch_attention_cost", "register_part",
            "relations_of", "residual_graph", "with_reversed"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'stgraph.nn' has no attribute '{name}'")
    home = next((module for module, names in _HOME.items() if name in names), "graph")
    return getattr(import_module(f"stgraph.nn.{home}"), name)
