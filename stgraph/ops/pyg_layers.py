"""Forward passes of layers of PyTorch Geometric on our kernels; :mod:`stgraph.ops.drop_in` sets them on the layers.

Each takes the calls that it covers and hands the others to the layer's own ``forward``. What PyG derives from the
edges, self loops and symmetric weights among them, comes from PyG's own functions, once for each ``edge_index``.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import (
    GATConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GraphConv,
    Linear,
    SAGEConv,
    TransformerConv,
)
from torch_geometric.nn.aggr import MaxAggregation, MeanAggregation, SumAggregation
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import add_self_loops, remove_self_loops

from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.attention import gat_aggregate, graph_attention
from stgraph.ops.library import ops
from stgraph.ops.names import REDUCTIONS
from stgraph.ops.sparse import spmm

Kept = TypeVar("Kept")
LIMIT = 64
"""How many graphs are kept ready; the one that was not used for longest goes first."""
REDUCTION_OF = {SumAggregation: "sum", MeanAggregation: "mean", MaxAggregation: "max"}
"""Our reductions for PyG's aggregations."""
_PLAIN = (Tensor, torch.nn.Parameter)
_HOOKS = tuple(f"_{part}_forward_{when}hooks" for part in ("propagate", "message", "aggregate", "edge_update")
               for when in ("pre_", ""))


# ---------------------------------------------------------------- graphs that are kept
class _Entry(NamedTuple):
    of: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]
    value: Any


_KEPT: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
_LOCK = threading.RLock()


def kept(tensors: Sequence[Tensor], words: tuple[Any, ...], make: Callable[[], Kept]) -> Kept:
    """What was made of these very tensors before, if they live and were not edited since; else it is made now.

    Args:
        tensors: What it is made of.
        words: What else decides.
        make: Makes it.
    """
    if any(tensor.is_inference() for tensor in tensors):
        return _lasting(make)  # these do not say when they are edited
    key = (*map(id, tensors), *words)
    versions = tuple(tensor._version for tensor in tensors)
    with _LOCK:
        found = _KEPT.get(key)
        if found is not None and found.versions == versions \
                and all(ref() is tensor for ref, tensor in zip(found.of, tensors, strict=True)):
            _KEPT.move_to_end(key)
            return found.value
    value = _lasting(make)

    def forget(_: object) -> None:
        _KEPT.pop(key, None)

    with _LOCK:
        _KEPT[key] = _Entry(tuple(weakref.ref(tensor, forget) for tensor in tensors), versions, value)
        while len(_KEPT) > LIMIT:
            _KEPT.popitem(last=False)
    return value


def _lasting(make: Callable[[], Kept]) -> Kept:
    """Made so that a later call may save it for its gradient, even if this one is in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return make()


class _Structure:
    """The edges of a layer, its self loops among them, as the kernels want them."""

    def __init__(self, edge_index: Tensor, sources: int, destinations: int) -> None:
        self.adjacency = Adjacency.of_edges(edge_index, sources, destinations)
        self._entries: Adjacency | None = None

    @property
    def order(self) -> Tensor:
        """The edge of each entry."""
        assert self.adjacency.edge is not None
        return self.adjacency.edge

    @property
    def entries(self) -> Adjacency:
        """The same with the edges numbered as the entries stand."""
        if self._entries is None:
            made = Adjacency._checked(self.adjacency.rowptr, self.adjacency.col, None, self.adjacency.columns)
            _lasting(lambda: (made.row, made.transpose))
            self._entries = made
        return self._entries

    def at_sources(self, x: Tensor) -> Tensor:
        """Rows of ``x [..., N_source, F]`` at the source of each entry."""
        return _gathered(x, self.entries.col, self.entries.transpose.rowptr, self.entries.transpose.edge)

    def at_destinations(self, x: Tensor) -> Tensor:
        """Rows of ``x [..., N_destination, F]`` at the destination of each entry."""
        places = torch.arange(self.entries.edges, dtype=self.entries.col.dtype, device=self.entries.col.device)
        return _gathered(x, self.entries.row, self.entries.rowptr, places)

    def sum_at_sources(self, messages: Tensor) -> Tensor:
        """Sums of ``[..., E, F]``, entry by entry, for each source."""
        back = self.entries.transpose
        assert back.edge is not None
        return spmm(Adjacency._checked(back.rowptr, back.edge, None, self.entries.edges), messages)


def _gathered(x: Tensor, index: Tensor, rowptr: Tensor, places: Tensor | None) -> Tensor:
    return shapes.unfold(ops.gather_rows.default(shapes.features(x, "x"), index, rowptr, places), x)


def _structure(edge_index: Tensor, sources: int, destinations: int) -> _Structure:
    return kept((edge_index,), ("edges", sources, destinations),
                lambda: _Structure(edge_index, sources, destinations))


# ---------------------------------------------------------------- what a call must be like
def _pair(x: Any) -> tuple[Any, Any]:
    return (x[0], x[1]) if isinstance(x, (tuple, list)) and len(x) == 2 else (x, x)


def _covered(layer: Any, edge_index: Any, *features: Any) -> bool:
    """Whether a call is one for our kernels: plain tensors, and nobody looks at messages."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(edge_index) is not Tensor:
        return False
    if edge_index.layout != torch.strided or edge_index.dtype not in (torch.int32, torch.int64) \
            or edge_index.dim() != 2 or edge_index.shape[0] != 2 or torch.is_autocast_enabled(edge_index.device.type):
        return False
    if layer.explain or any(getattr(layer, name, None) for name in _HOOKS):
        return False
    first = features[0]
    return all(x is None or (type(x) in _PLAIN and x.layout == torch.strided and x.dtype in shapes.FLOATS
                             and x.dtype == first.dtype and x.device == edge_index.device) for x in features)


def _ends(source: Tensor, destination: Tensor | None, size: Any, axis: int) -> tuple[int, int] | None:
    """Numbers of sources and destinations, as PyG finds them; None where it would complain."""
    wanted = (None, None) if size is None else tuple(size)
    if len(wanted) != 2 or source.dim() < 2 or (destination is not None and destination.dim() != source.dim()):
        return None
    sources = source.shape[axis]
    destinations = wanted[1] if destination is None else destination.shape[axis]
    if wanted[0] not in (None, sources) or wanted[1] not in (None, destinations):
        return None
    return sources, sources if destinations is None else destinations


def _one_each(weight: Any, edge_index: Tensor) -> bool:
    """Whether there is no weight, or one per edge."""
    return weight is None or (weight.dim() == 1 and weight.shape[0] == edge_index.shape[1])


def _nodes(layer: Any, edge_index: Any, x: Any, size: Any = None, weight: Any = None) -> _Structure | None:
    """The graph of a call of a layer that adds up features; None where PyG must run it."""
    source, destination = _pair(x)
    if not isinstance(source, Tensor) or not _covered(layer, edge_index, source, destination, weight) \
            or not _one_each(weight, edge_index):
        return None
    ends = _ends(source, destination, size, -2)
    return None if ends is None else _structure(edge_index, *ends)


# ---------------------------------------------------------------- what layers share
class _EvenMaximum(torch.autograd.Function):
    """The maximum with the gradient that PyTorch gives: equals share it."""

    @staticmethod
    def forward(ctx: Any, graph: _Structure, x: Tensor, weight: Tensor | None) -> Tensor:
        """The kernel's maximum."""
        out = spmm(graph.adjacency, x, weight=weight, reduce="max")
        ctx.graph = graph
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Divided by the number of edges that reach the maximum, of which PyTorch counts one more where it is 0."""
        graph: _Structure = ctx.graph
        x, weight, out = ctx.saved_tensors
        of_source = graph.at_sources(x)
        scale = None if weight is None else weight.index_select(0, graph.order)[:, None]
        messages = of_source if scale is None else of_source * scale
        reached = (messages == graph.at_destinations(out.detach())).to(grad.dtype)
        total = ops.segment_reduce.default(graph.entries.rowptr, shapes.features(reached, "x"), REDUCTIONS["sum"])[0]
        count = shapes.unfold(total, reached) + (out == 0)
        through = graph.at_destinations(grad / count) * reached
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_x = graph.sum_at_sources(through if scale is None else through * scale)
        if weight is not None and ctx.needs_input_grad[2]:
            of_entry = (through * of_source).sum([axis for axis in range(x.dim()) if axis != x.dim() - 2])
            grad_weight = torch.zeros_like(weight).index_copy(0, graph.order.long(), of_entry)
        return None, grad_x, grad_weight


def _aggregate(layer: Any, graph: _Structure, x: Tensor, weight: Tensor | None = None) -> Tensor:
    reduce = REDUCTION_OF[type(layer.aggr_module)]
    if reduce == "max" and torch.is_grad_enabled() and (x.requires_grad or (weight is not None
                                                                            and weight.requires_grad)):
        return _EvenMaximum.apply(graph, x, weight)
    return spmm(graph.adjacency, x, weight=weight, reduce=reduce)


def _dropout(layer: Any) -> tuple[float, int]:
    """Rate and seed for this call; the seed comes from torch's generator, so that ``manual_seed`` decides."""
    if not layer.training or not layer.dropout:
        return 0.0, 0
    return float(layer.dropout), int(torch.randint(1 << 62, ()))


def _heads_joined(layer: Any, out: Tensor) -> Tensor:
    return out.flatten(-2) if layer.concat else out.mean(dim=-2)


def _attends(layer: Any, edge_index: Any, x: Any, edge_attr: Any, size: Any,
             asked: Any) -> tuple[Tensor, Tensor | None, tuple[int, int]] | None:
    """Features of sources and destinations and their numbers for a layer of attention; None where PyG must run it."""
    source, destination = _pair(x)
    if asked is not None or not isinstance(source, Tensor) or source.dim() != 2 \
            or not _covered(layer, edge_index, source, destination, edge_attr) \
            or (layer.training and not 0.0 <= layer.dropout < 1.0):
        return None
    if edge_attr is not None and (edge_attr.dim() > 2 or edge_attr.shape[0] != edge_index.shape[1]):
        return None
    ends = _ends(source, destination, size, 0)
    return None if ends is None else (source, destination, ends)


def _looped(layer: Any, edge_index: Tensor, ends: tuple[int, int],
            edge_attr: Tensor | None) -> tuple[_Structure, Tensor | None]:
    """The graph with one self loop per node, where the layer wants that, and the features of its edges."""
    if not layer.add_self_loops:
        return _structure(edge_index, *ends), edge_attr
    loops = min(ends)

    def with_loops() -> _Structure:
        edges, _ = add_self_loops(remove_self_loops(edge_index)[0], num_nodes=loops)
        return _Structure(edges, *ends)

    graph = kept((edge_index,), ("self loops", *ends), with_loops)
    if edge_attr is not None:
        _, edge_attr = add_self_loops(*remove_self_loops(edge_index, edge_attr), fill_value=layer.fill_value,
                                      num_nodes=loops)
    return graph, edge_attr


# ---------------------------------------------------------------- one adapter for each class
class Adapter:
    """A class of layers, the options of it that are known, and its forward pass on our kernels."""

    kind: type
    options: frozenset[str]
    node_axis = -2
    forward: Callable[..., Any]

    @staticmethod
    def refusal(layer: Any) -> str:
        """Why this layer must be left alone, beside what holds for all; empty if it need not."""
        return ""


class GcnLayer(Adapter):
    kind = GCNConv
    options = frozenset(("improved", "cached", "add_self_loops", "normalize"))

    @staticmethod
    def forward(layer: Any, x: Any, edge_index: Any, edge_weight: Any = None) -> Any:
        if not isinstance(x, Tensor) or not _covered(layer, edge_index, x, edge_weight) or x.dim() < 2 \
                or not _one_each(edge_weight, edge_index):
            return type(layer).forward(layer, x, edge_index, edge_weight)
        nodes = x.shape[-2]
        if layer.normalize:
            graph, weight = GcnLayer._normalised(layer, edge_index, edge_weight, nodes, x.dtype)
        else:
            graph, weight = _structure(edge_index, nodes, nodes), edge_weight
        out = _aggregate(layer, graph, layer.lin(x), weight)
        return out if layer.bias is None else out + layer.bias

    @staticmethod
    def _normalised(layer: Any, edge_index: Tensor, edge_weight: Tensor | None, nodes: int,
                    dtype: torch.dtype) -> tuple[_Structure, Tensor]:
        """Self loops and symmetric weights, from PyG's own function; made once where they can be."""
        def made() -> tuple[Tensor, Tensor]:
            return gcn_norm(edge_index, edge_weight, nodes, layer.improved, layer.add_self_loops, layer.flow, dtype)

        def both() -> tuple[_Structure, Tensor]:
            edges, weight = made()
            return _Structure(edges, nodes, nodes), weight

        if layer.cached:  # as PyG: the first graph is that of all calls
            if layer._cached_edge_index is None:
                layer._cached_edge_index = made()
            edges, weight = layer._cached_edge_index
            return _structure(edges, nodes, nodes), weight
        words = (nodes, layer.improved, layer.add_self_loops, dtype)
        if edge_weight is None:
            return kept((edge_index,), ("norm", *words), both)
        if not edge_weight.requires_grad:
            return kept((edge_index, edge_weight), ("norm", *words), both)
        edges, weight = made()
        return kept((edge_index,), ("loops left", nodes, layer.add_self_loops),
                    lambda: _Structure(edges, nodes, nodes)), weight


class SageLayer(Adapter):
    kind = SAGEConv
    options = frozenset(("aggr", "normalize", "root_weight", "project"))

    @staticmethod
    def forward(layer: Any, x: Any, edge_index: Any, size: Any = None) -> Any:
        graph = _nodes(layer, edge_index, x, size)
        if graph is None:
            return type(layer).forward(layer, x, edge_index, size)
        source, destination = _pair(x)
        if layer.project:
            source = layer.lin(source).relu()
        out = layer.lin_l(_aggregate(layer, graph, source))
        if layer.root_weight and destination is not None:
            out = out + layer.lin_r(destination)
        return functional.normalize(out, p=2.0, dim=-1) if layer.normalize else out


class GraphLayer(Adapter):
    kind = GraphConv
    options = frozenset(("aggr",))

    @staticmethod
    def forward(layer: Any, x: Any, edge_index: Any, edge_weight: Any = None, size: Any = None) -> Any:
        graph = _nodes(layer, edge_index, x, size, edge_weight)
        if graph is None:
            return type(layer).forward(layer, x, edge_index, edge_weight, size)
        source, destination = _pair(x)
        out = layer.lin_rel(_aggregate(layer, graph, source, edge_weight))
        return out if destination is None else out + layer.lin_root(destination)


class GinLayer(Adapter):
    kind = GINConv
    options = frozenset(("nn", "eps", "train_eps"))

    @staticmethod
    def forward(layer: Any, x: Any, edge_index: Any, size: Any = None) -> Any:
        graph = _nodes(layer, edge_index, x, size)
        if graph is None:
            return type(layer).forward(layer, x, edge_index, size)
        source, destination = _pair(x)
        out = _aggregate(layer, graph, source)
        return layer.nn(out if destination is None else out + (1 + layer.eps) * destination)


class GatLayer(Adapter):
    kind = GATConv
    options = frozenset(("heads", "concat", "negative_slope", "dropout", "add_self_loops", "edge_dim", "fill_value",
                         "residual"))
    node_axis = 0

    @staticmethod
    def refusal(layer: Any) -> str:
        """The slope of the leaky ReLU is not negative."""
        return "" if layer.negative_slope >= 0 else "its slope is negative"

    @staticmethod
    def forward(layer: Any, x: Any, edge_index: Any, edge_attr: Any = None, size: Any = None,
                return_attention_weights: Any = None) -> Any:
        found = _attends(layer, edge_index, x, edge_attr, size, return_attention_weights)
        if found is None:
            return type(layer).forward(layer, x, edge_index, edge_attr, size, return_attention_weights)
        source, destination, ends = found
        heads, width = layer.heads, layer.out_channels
        residual = None if layer.res is None or destination is None else layer.res(destination)
        from_source, from_destination = (layer.lin, layer.lin) if layer.lin is not None \
            else (layer.lin_src, layer.lin_dst)
        value = from_source(source).view(-1, heads, width)
        sent = (value * layer.att_src).sum(-1)
        if destination is None:
            heard = value.new_zeros(ends[1], heads)
        else:
            own = value if destination is source and from_source is from_destination \
                else from_destination(destination).view(-1, heads, width)
            heard = (own * layer.att_dst).sum(-1)
        graph, edge_attr = _looped(layer, edge_index, ends, edge_attr if layer.lin_edge is not None else None)
        dropout, seed = _dropout(layer)
        out = _heads_joined(layer, gat_aggregate(
            graph.adjacency, sent, heard, value, GatLayer._edge_scores(layer, edge_attr), layer.negative_slope, dropout,
            seed))
        out = out if residual is None else out + residual
        return out if layer.bias is None else out + layer.bias

    @staticmethod
    def _edge_scores(layer: Any, edge_attr: Tensor | None) -> Tensor | None:
        """What the features of the edges add to the scores, ``[E, H]``."""
        if edge_attr is None:
            return None
        edge_attr = edge_attr.view(-1, 1) if edge_attr.dim() == 1 else edge_attr
        linear = layer.lin_edge
        if type(linear) is Linear and linear.bias is None and linear.in_channels > 0 \
                and not linear._forward_hooks and not linear._forward_pre_hooks:
            # scores are linear in the features: nothing of E x H x D is made
            folded = (linear.weight.view(layer.heads, layer.out_channels, -1) * layer.att_edge[0, :, :, None]).sum(1)
            return edge_attr @ folded.t()
        return (linear(edge_attr).view(-1, layer.heads, layer.out_channels) * layer.att_edge).sum(-1)


class Gat2Layer(Adapter):
    kind = GATv2Conv
    options = GatLayer.options | {"share_weights"}
    node_axis = 0

    @staticmethod
    def forward(layer: Any, x: Any, edge_index: Any, edge_attr: Any = None,
                return_attention_weights: Any = None) -> Any:
        found = _attends(layer, edge_index, x, edge_attr, None, return_attention_weights)
        if found is None or found[1] is None or (edge_attr is not None and layer.lin_edge is None):
            return type(layer).forward(layer, x, edge_index, edge_attr, return_attention_weights)
        source, destination, ends = found
        heads, width = layer.heads, layer.out_channels
        residual = None if layer.res is None else layer.res(destination)
        value = layer.lin_l(source)
        own = value if layer.share_weights and destination is source else layer.lin_r(destination)
        graph, edge_attr = _looped(layer, edge_index, ends, edge_attr)
        met = graph.at_sources(value) + graph.at_destinations(own)
        if edge_attr is not None:
            edge_attr = edge_attr.view(-1, 1) if edge_attr.dim() == 1 else edge_attr
            met = met + layer.lin_edge(edge_attr.index_select(0, graph.order))
        met = functional.leaky_relu(met, layer.negative_slope).view(-1, heads, width)
        score = (met * layer.att).sum(-1)
        dropout, seed = _dropout(layer)
        # the scores stand per edge; a slope of 1 leaves them as they are
        out = _heads_joined(layer, gat_aggregate(
            graph.entries, value.new_zeros(ends[0], heads), value.new_zeros(ends[1], heads),
            value.view(-1, heads, width), score, 1.0, dropout, seed))
        out = out if residual is None else out + residual
        return out if layer.bias is None else out + layer.bias


class TransformerLayer(Adapter):
    kind = TransformerConv
    options = frozenset(("heads", "concat", "beta", "dropout", "edge_dim", "root_weight"))
    node_axis = 0

    @staticmethod
    def refusal(layer: Any) -> str:
        """Features of edges enter keys and values, one of each per edge."""
        return "" if layer.lin_edge is None else "keys and values differ per edge (edge_dim)"

    @staticmethod
    def forward(layer: Any, x: Any, edge_index: Any, edge_attr: Any = None,
                return_attention_weights: Any = None) -> Any:
        found = None if edge_attr is not None \
            else _attends(layer, edge_index, x, None, None, return_attention_weights)
        if found is None or found[1] is None:
            return type(layer).forward(layer, x, edge_index, edge_attr, return_attention_weights)
        source, destination, ends = found
        shape = (-1, layer.heads, layer.out_channels)
        dropout, seed = _dropout(layer)
        out = _heads_joined(layer, graph_attention(
            _structure(edge_index, *ends).adjacency, layer.lin_query(destination).view(shape),
            layer.lin_key(source).view(shape), layer.lin_value(source).view(shape), dropout=dropout, seed=seed))
        if not layer.root_weight:
            return out
        skip = layer.lin_skip(destination)
        if layer.lin_beta is None:
            return out + skip
        gate = layer.lin_beta(torch.cat([out, skip, out - skip], dim=-1)).sigmoid()
        return gate * skip + (1 - gate) * out


ADAPTERS: tuple[type[Adapter], ...] = (GcnLayer, GatLayer, Gat2Layer, SageLayer, GraphLayer, GinLayer, TransformerLayer)
