"""Layers on a graph. All are called as ``layer(x, graph, edge_weight, relation=...)`` on features ``[..., T, N, D]``.

``graph`` is an :class:`stgraph.ops.Adjacency`, or a :class:`stgraph.graph.DynamicHeteroGraph` of which ``relation``
names one edge type (needless where it has one only); its compressed rows are made once, and once per device.
``edge_weight`` is ``[E]``, ``[T, E]`` with one row per step of ``x``, the name of an attribute of the relation, or
None. Leading axes are free; entries of a batch do not see each other. No parameter has the size of a graph. Under
``torch.autocast`` they work in its type, as linear layers do. Before ``torch.compile(fullgraph=True)`` call a layer
once: what it makes of a graph cannot be traced.
"""

from __future__ import annotations

from stgraph.nn.graph.attention import GraphAttention, GraphTransformer
from stgraph.nn.graph.common import adjacency_of
from stgraph.nn.graph.convolution import DiffusionConvolution, GraphConvolution
from stgraph.nn.graph.recurrent import GraphGRUCell
from stgraph.nn.graph.relational import RelationalConvolution

__all__ = ["DiffusionConvolution", "GraphAttention", "GraphConvolution", "GraphGRUCell", "GraphTransformer",
           "RelationalConvolution", "adjacency_of"]
