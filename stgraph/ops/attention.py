"""Attention over the in-edges of each node: ``gat_aggregate`` and ``graph_attention``, with their gradients.

The kernels hold nothing per edge and channel: scores are made row by row, forward and again in the backward pass, from
the logarithm of each row's sum of exponentials. What PyTorch's own operators run in their place does hold messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency, entry_rows
from stgraph.ops.autocast import in_the_widest
from stgraph.ops.library import define, ops, ready
from stgraph.ops.names import NAMESPACE, REDUCTIONS
from stgraph.ops.torch_backend import by_edge, wide

_GRAPH = "Tensor rowptr, Tensor col, Tensor? edge"
_GAT = "Tensor score_destination, Tensor score_source, Tensor v, Tensor? score_edge"
_DOT = "Tensor q, Tensor k, Tensor v, Tensor? bias"
_NUMBERS = "float {factor}, float dropout, SymInt seed"
_FORWARD = "({graph}, {inputs}, {numbers}, Tensor? rowptr_t, Tensor? col_t, Tensor? edge_t) -> (Tensor, Tensor)"
_BACKWARD = ("({graph}, {inputs}, Tensor grad, Tensor out, Tensor lse, {numbers}, bool by_edge, Tensor rowptr_t, "
             "Tensor col_t, Tensor? edge_t) -> (Tensor, Tensor, Tensor, Tensor)")
_HASHES = 1 << 24
_WORD = (1 << 64) - 1


# ---------------------------------------------------------------- layouts
def node_major(x: Tensor) -> bool:
    """Whether nodes are the slowest axis of ``x [B, T, N, ...]``."""
    b, t, n = x.shape[:3]
    node = x.stride(2)
    return bool((b > 1 or t > 1) and n > 1 and (b == 1 or node > x.stride(0)) and (t == 1 or node > x.stride(1)))


def made(like: Tensor, rows: Any, rest: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised ``[B, T, rows, *rest]`` in the layout of ``like``."""
    b, t = like.shape[:2]
    if node_major(like):
        axes = (1, 2, 0, *range(3, 3 + len(rest)))
        return like.new_empty((rows, b, t, *rest), dtype=dtype).permute(axes)
    return like.new_empty((b, t, rows, *rest), dtype=dtype)


def _summed(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# ---------------------------------------------------------------- in PyTorch's own operators
def _mix(z: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on one word."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift to the right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def dropout_mask(edge: Tensor, batch: int, time: int, heads: int, dropout: float, seed: int) -> Tensor:
    """What weights are multiplied by, 0 or 1 / (1 - dropout): ``[B, T, E, H]`` float64.

    A hash of seed, edge, batch entry, step and head decides, so that forward and backward pass agree without a mask in
    memory, and every backend drops the same.

    Args:
        edge: ``[E]`` edges of the entries.
        batch: Size of the batch axis.
        time: Size of the time axis.
        heads: Number of heads.
        dropout: Rate, in steps of 2^-24.
        seed: Any integer of 64 bits.
    """
    slab = torch.arange(batch * time, device=edge.device).view(batch, time, 1, 1)
    head = torch.arange(heads, device=edge.device)
    place = (edge.long()[:, None] * (batch * time) + slab) * heads + head
    z = place * _signed(0x9E3779B97F4A7C15) + _signed(_mix(seed & _WORD))
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift(z, 31)
    return (_shift(z, 40) >= int(dropout * _HASHES)).double() / (1.0 - dropout)


def _row_sums(row: Tensor, rowptr: Tensor, messages: Tensor) -> Tensor:
    """Sums of consecutive messages ``[B, T, E, ...]`` for each row, in order."""
    b, t, entries, *rest = messages.shape
    rows = rowptr.shape[0] - 1
    if messages.is_cuda:  # index_add would use atomics there
        flat = messages.movedim(2, 0).reshape(entries, -1)
        out = torch.segment_reduce(flat, "sum", offsets=rowptr.long(), axis=0, initial=0, unsafe=True)
        return out.view(rows, b, t, *rest).movedim(0, 2)
    return messages.new_zeros((b, t, rows, *rest)).index_add_(2, row, messages)


class _Entries:
    """Scores and messages of all entries of a graph, in the type in which they are summed."""

    def __init__(self, rowptr: Tensor, col: Tensor, edge: Tensor | None, query: Tensor, key: Tensor, v: Tensor,
                 bias: Tensor | None, factor: float, dropout: float, seed: int) -> None:
        self.rowptr, self.edge = rowptr, edge
        self.row, self.col = entry_rows(rowptr, col.shape[0]), col
        self.value = wide(v).index_select(2, col)
        self.query, self.key = wide(query).index_select(2, self.row), wide(key).index_select(2, col)
        product = query.dim() == 5
        score = (self.query * self.key).sum(-1) * factor if product else self.query + self.key
        if bias is not None:
            score = score + (wide(bias) if edge is None else wide(bias).index_select(0, edge))
        self.slope = torch.ones_like(score).where(score > 0, factor)
        self.score = score if product else torch.where(score > 0, score, score * factor)
        self.mask = None
        if dropout:
            of_entry = torch.arange(len(col), device=col.device) if edge is None else edge
            self.mask = dropout_mask(of_entry, v.shape[0], v.shape[1], v.shape[3], dropout, seed).to(score.dtype)

    def softmax(self) -> tuple[Tensor, Tensor]:
        """Probabilities ``[B, T, E, H]`` and the logarithm of each row's sum of exponentials."""
        b, t, _, h = self.score.shape
        index = self.row.long()[:, None].expand(self.score.shape)
        best = self.score.new_full((b, t, self.rowptr.shape[0] - 1, h), -torch.inf)
        best = best.scatter_reduce(2, index, self.score.detach(), "amax")
        shift = torch.where(best == -torch.inf, 0.0, best)
        mass = (self.score - shift.index_select(2, self.row)).exp()
        total = _row_sums(self.row, self.rowptr, mass)
        lse = torch.where(total == 0, -torch.inf, shift + total.log())
        share = mass / torch.where(total == 0, 1.0, total).index_select(2, self.row)
        return share, lse

    def again(self, lse: Tensor) -> Tensor:
        """The probabilities from what the forward pass kept."""
        return (self.score - torch.where(lse == -torch.inf, 0.0, lse).index_select(2, self.row)).exp()

    def kept(self, share: Tensor) -> Tensor:
        """After dropout."""
        return share if self.mask is None else share * self.mask


def _laid_out(out: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    return made(like, out.shape[2], out.shape[3:], dtype).copy_(out)


def _forward(rowptr: Tensor, col: Tensor, edge: Tensor | None, query: Tensor, key: Tensor, v: Tensor,
             bias: Tensor | None, factor: float, dropout: float, seed: int, rowptr_t: Tensor | None,
             col_t: Tensor | None, edge_t: Tensor | None) -> tuple[Tensor, Tensor]:
    entries = _Entries(rowptr, col, edge, query, key, v, bias, factor, dropout, seed)
    share, lse = entries.softmax()
    out = _row_sums(entries.row, rowptr, entries.kept(share)[..., None] * entries.value)
    return _laid_out(out, v, v.dtype), _laid_out(lse, v, lse.dtype)


def _backward(rowptr: Tensor, col: Tensor, edge: Tensor | None, query: Tensor, key: Tensor, v: Tensor,
              bias: Tensor | None, grad: Tensor, out: Tensor, lse: Tensor, factor: float, dropout: float, seed: int,
              per_edge: bool, rowptr_t: Tensor, col_t: Tensor,
              edge_t: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entries = _Entries(rowptr, col, edge, query, key, v, bias, factor, dropout, seed)
    share = entries.again(lse)
    delta = (wide(grad) * wide(out)).sum(-1)
    of_row = wide(grad).index_select(2, entries.row)
    through = entries.kept((of_row * entries.value).sum(-1)) - delta.index_select(2, entries.row)
    through = share * through
    turned = torch.argsort(col, stable=True)  # the entries in the order of the transposed rows

    def columns(messages: Tensor) -> Tensor:
        return _row_sums(col.index_select(0, turned), rowptr_t, messages.index_select(2, turned))

    if query.dim() == 5:
        scaled = (through * factor)[..., None]
        grad_query = _row_sums(entries.row, rowptr, scaled * entries.key)
        grad_key = columns(scaled * entries.query)
    else:
        through = through * entries.slope
        grad_query, grad_key = _row_sums(entries.row, rowptr, through), columns(through)
    grad_value = columns(entries.kept(share)[..., None] * of_row)
    summed = through.new_empty((0, v.shape[3]))
    if per_edge:
        summed = by_edge(through.sum((0, 1)), edge)
    return (_laid_out(grad_query, query, query.dtype), _laid_out(grad_key, key, key.dtype),
            _laid_out(grad_value, v, v.dtype), summed)


# ---------------------------------------------------------------- the operators
def _fake(rowptr: Tensor, col: Tensor, edge: Tensor | None, query: Tensor, key: Tensor, v: Tensor,
          bias: Tensor | None, factor: float, dropout: float, seed: int, rowptr_t: Tensor | None,
          col_t: Tensor | None, edge_t: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = rowptr.shape[0] - 1
    return made(v, rows, v.shape[3:]), made(v, rows, v.shape[3:4], _summed(v.dtype))


def _fake_backward(rowptr: Tensor, col: Tensor, edge: Tensor | None, query: Tensor, key: Tensor, v: Tensor,
                   bias: Tensor | None, grad: Tensor, out: Tensor, lse: Tensor, factor: float, dropout: float,
                   seed: int, per_edge: bool, rowptr_t: Tensor, col_t: Tensor,
                   edge_t: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    edges = col.shape[0] if per_edge else 0
    return (made(query, query.shape[2], query.shape[3:]), made(key, key.shape[2], key.shape[3:]),
            made(v, v.shape[2], v.shape[3:]), v.new_empty((edges, v.shape[3]), dtype=_summed(v.dtype)))


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *_, ctx.factor, ctx.dropout, ctx.seed, rowptr_t, col_t, edge_t = inputs
    ctx.save_for_backward(*inputs[:7], *output, rowptr_t, col_t, edge_t)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(name: str) -> Any:
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 13
        *inputs, out, lse, rowptr_t, col_t, edge_t = ctx.saved_tensors
        bias = inputs[6]
        per_edge = ctx.needs_input_grad[6]
        if grad.stride(-1) != 1 and grad.shape[-1] > 1:
            grad = grad.contiguous()
        query, key, value, summed = getattr(ops, f"{name}_backward")(
            *inputs, grad, out, lse, ctx.factor, ctx.dropout, ctx.seed, per_edge, rowptr_t, col_t, edge_t)
        return (None, None, None, query, key, value, summed.to(bias.dtype) if per_edge else None, *(None,) * 6)

    return backward


def _composed(rowptr: Tensor, col: Tensor, edge: Tensor | None, query: Tensor, key: Tensor, v: Tensor,
              bias: Tensor | None, factor: float, dropout: float, seed: int, rowptr_t: Tensor) -> Tensor:
    """The forward pass of operators that can be differentiated any number of times; messages stand in memory."""
    b, t, _, h = v.shape[:4]
    rows, count = rowptr.shape[0] - 1, col.shape[0]
    entries = torch.arange(count, dtype=col.dtype, device=col.device)
    row, turned = entry_rows(rowptr, count), torch.argsort(col, stable=True).to(col.dtype)

    def at_rows(x: Tensor) -> Tensor:
        return ops.gather_rows(ready(wide(x).flatten(3)), row, rowptr, entries).reshape(b, t, count, *x.shape[3:])

    def at_columns(x: Tensor) -> Tensor:
        return ops.gather_rows(ready(wide(x).flatten(3)), col, rowptr_t, turned).reshape(b, t, count, *x.shape[3:])

    def reduced(x: Tensor, reduce: str) -> Tensor:
        out = ops.segment_reduce(rowptr, ready(x.flatten(3)), REDUCTIONS[reduce])[0]
        return out.reshape(b, t, rows, *x.shape[3:])

    product = query.dim() == 5
    score = (at_rows(query) * at_columns(key)).sum(-1) * factor if product else at_rows(query) + at_columns(key)
    if bias is not None:
        score = score + (wide(bias) if edge is None else wide(bias).index_select(0, edge))
    score = score if product else torch.where(score > 0, score, score * factor)
    best = reduced(score.detach(), "max")  # any shift gives the same shares
    mass = (score - at_rows(torch.where(best.isinf(), 0.0, best))).exp()
    total = reduced(mass, "sum")
    share = mass / at_rows(torch.where(total == 0, 1.0, total))
    if dropout:
        share = share * dropout_mask(entries if edge is None else edge, b, t, h, dropout, seed).to(share.dtype)
    return reduced(share[..., None] * at_columns(v), "sum")


def _second_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, _, ctx.factor, ctx.dropout, ctx.seed, _, rowptr_t, _, _ = inputs
    ctx.save_for_backward(*tensors, rowptr_t)
    ctx.set_materialize_grads(False)


def _second(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
    """The derivative of the backward pass: that of the composed forward pass, taken twice.

    Whatever depends on the inputs is made from them again, so the result and the logarithms of the sums get no gradient
    of their own.
    """
    rowptr, col, edge, query, key, v, bias, grad, rowptr_t = ctx.saved_tensors
    if all(g is None for g in given):
        return (None,) * 17
    again = torch.is_grad_enabled()

    def apart(x: Tensor) -> Tensor:  # one tensor may be given twice, as query and as key
        return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()

    with torch.enable_grad():
        through, biased = apart(grad), None if bias is None else apart(bias)
        asks, answers, values = apart(query), apart(key), apart(v)
        out = _composed(rowptr, col, edge, asks, answers, values, biased, ctx.factor, ctx.dropout, ctx.seed, rowptr_t)
        inputs = (asks, answers, values, biased)
        wanted = [(x, g) for x, g in zip(inputs, given, strict=True) if x is not None and g is not None]
        first = torch.autograd.grad(out, [x for x, _ in wanted], wide(through), create_graph=True)
        second = torch.autograd.grad(first, [x for x in (*inputs, through) if x is not None],
                                     [g.to(f.dtype) for f, (_, g) in zip(first, wanted, strict=True)],
                                     create_graph=again, allow_unused=True)
    found = iter(second)
    return (None, None, None, *(None if x is None else next(found) for x in (*inputs, through)), *(None,) * 9)


for _name, _inputs, _factor in (("gat_aggregate", _GAT, "slope"), ("graph_attention", _DOT, "scale")):
    _parts = {"graph": _GRAPH, "inputs": _inputs, "numbers": _NUMBERS.format(factor=_factor)}
    define(_name, _FORWARD.format(**_parts), _forward)
    define(f"{_name}_backward", _BACKWARD.format(**_parts), _backward)
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake)
    torch.library.register_fake(f"{NAMESPACE}::{_name}_backward", _fake_backward)
    torch.library.register_autograd(f"{NAMESPACE}::{_name}", _gradient(_name), setup_context=_context)
    torch.library.register_autograd(f"{NAMESPACE}::{_name}_backward", _second, setup_context=_second_context)


# ---------------------------------------------------------------- the public functions
def _cells(x: Tensor, name: str, nodes: int, axes: int, like: Tensor | None = None) -> Tensor:
    """``[..., N, H]`` (2 axes) or ``[..., N, H, D]`` (3) with two leading axes and, of 3, a contiguous last one.

    Raises:
        InputError: naming the argument.
    """
    wanted = "[..., N, H, D]" if axes == 3 else "[..., N, H]"
    if not isinstance(x, Tensor) or x.dtype not in shapes.FLOATS:
        raise InputError("expected a tensor of floats", field=name,
                         value=x.dtype if isinstance(x, Tensor) else type(x).__name__,
                         remedy="give float32, float64, float16 or bfloat16")
    if x.dim() < axes or x.shape[-axes] != nodes:
        raise InputError(f"expected {wanted}", field=name, value=list(x.shape),
                         remedy=f"the graph has N = {nodes} there")
    if like is not None:
        lead = like.dim() - 3
        shape = (*like.shape[:lead], nodes, *like.shape[lead + 1:lead + axes])
        shapes.same(x, like, name, shape)
    leading = x.dim() - axes
    if leading > 2:
        flat = x.flatten(0, leading - 2)
        if not torch.compiler.is_compiling() and flat.data_ptr() != x.data_ptr():
            shapes.copies.count += 1
        x = flat
    elif leading == 1:
        x = x.unsqueeze(1)
    elif leading == 0:
        x = x[None, None]
    if axes == 3 and x.stride(-1) != 1 and x.shape[-1] > 1:
        shapes.copies.count += 1
        x = x.contiguous()
    return x


def _checked(adjacency: Adjacency, v: Tensor, bias: Tensor | None, name: str, dropout: float) -> Tensor:
    """The values ``[B, T, N, H, D]``, after a look at what does not depend on the kind of attention.

    Raises:
        InputError: naming the argument.
    """
    if not isinstance(adjacency, Adjacency):
        raise InputError("expected an Adjacency", field="adjacency", value=type(adjacency).__name__,
                         remedy="make one with Adjacency(rowptr, col, columns=...) or Adjacency.of_edges(...)")
    value = _cells(v, "v", adjacency.columns, 3)
    if v.device != adjacency.col.device:
        raise InputError("the graph and the features are on different devices", field="v", value=str(v.device),
                         remedy=f"the graph is on {adjacency.col.device}")
    if bias is not None:
        shapes.same(bias, v, name, (adjacency.edges, v.shape[-2]))
    if shapes.DEBUGGING:
        adjacency.check()
        if bias is not None:  # minus infinity takes an edge out
            shapes.finite(torch.where(bias == -torch.inf, 0.0, bias), name)
    if not 0.0 <= dropout < 1.0:
        raise InputError("a rate of dropout is at least 0 and below 1", field="dropout", value=dropout,
                         remedy="give 0 for none")
    return value


def _back(adjacency: Adjacency, *inputs: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The transposed graph, where a gradient is wanted."""
    if not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in inputs):
        return None, None, None
    back = adjacency.transpose
    return back.rowptr, back.col, back.edge


def _unfold(out: Tensor, like: Tensor) -> Tensor:
    """The result ``[B, T, N, H, D]`` with the leading axes of what the user gave."""
    leading = like.dim() - 3
    if leading == 2:
        return out
    if leading < 2:
        return out.squeeze(1) if leading else out.squeeze(0).squeeze(0)
    return out.unflatten(0, like.shape[:leading - 1])


@in_the_widest
def gat_aggregate(adjacency: Adjacency, score_source: Tensor, score_destination: Tensor, v: Tensor,
                  score_edge: Tensor | None = None, slope: float = 0.2, dropout: float = 0.0,
                  seed: int = 0) -> Tensor:
    """Additive attention over in-edges (Velickovic et al. 2018).

    The weight of an edge from ``j`` to ``i`` is the softmax, over the in-edges of ``i``, of
    ``leaky_relu(score_source[j] + score_destination[i] + score_edge[e])``; the result is the weighted sum of ``v[j]``.
    A node without in-edges, or with scores of minus infinity only, gets 0. Deterministic.

    Args:
        adjacency: The graph.
        score_source: ``[..., N_source, H]``.
        score_destination: ``[..., N_destination, H]``.
        v: ``[..., N_source, H, D]``, with the leading axes of the scores; the last two of these are batch and time.
        score_edge: ``[E, H]`` in the order of the edges.
        slope: Of the leaky ReLU below 0, not negative.
        dropout: Rate at which weights are dropped, the others scaled up; a function of seed, edge, batch entry, step
            and head.
        seed: Of the dropout; give another one in each step of training.

    Returns:
        ``[..., N_destination, H, D]`` in the layout of ``v``.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    value = _checked(adjacency, v, score_edge, "score_edge", dropout)
    if not 0.0 <= slope < math.inf:
        raise InputError("a slope is a finite number and not negative", field="slope", value=slope,
                         remedy="give 0 or more")
    source = _cells(score_source, "score_source", adjacency.columns, 2, v)
    destination = _cells(score_destination, "score_destination", adjacency.rows, 2, v)
    out = ops.gat_aggregate.default(adjacency.rowptr, adjacency.col, adjacency.edge, destination, source, value,
                                    score_edge, slope, dropout, seed,
                                    *_back(adjacency, destination, source, value, score_edge))[0]
    return _unfold(out, v)


@in_the_widest
def graph_attention(adjacency: Adjacency, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None,
                    scale: float | None = None, dropout: float = 0.0, seed: int = 0) -> Tensor:
    """Attention by products over in-edges (the layer of Shi et al. 2021; Vaswani et al. 2017 on a graph).

    The weight of an edge from ``j`` to ``i`` is the softmax, over the in-edges of ``i``, of
    ``scale * q[i] . k[j] + bias[e]``; the result is the weighted sum of ``v[j]``. A node without in-edges, or with
    scores of minus infinity only, gets 0. Deterministic.

    Args:
        adjacency: The graph.
        q: ``[..., N_destination, H, D]``.
        k: ``[..., N_source, H, D]``.
        v: ``[..., N_source, H, D]``; the last two of the leading axes are batch and time.
        bias: ``[E, H]`` in the order of the edges; minus infinity takes an edge out.
        scale: Of the products; None: ``1 / sqrt(D)``.
        dropout: As in :func:`gat_aggregate`.
        seed: As in :func:`gat_aggregate`.

    Returns:
        ``[..., N_destination, H, D]`` in the layout of ``v``.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    value = _checked(adjacency, v, bias, "bias", dropout)
    query = _cells(q, "q", adjacency.rows, 3, v)
    key = _cells(k, "k", adjacency.columns, 3, v)
    if scale is not None and not math.isfinite(scale):
        raise InputError("a scale is a finite number", field="scale", value=scale, remedy="give None for 1 / sqrt(D)")
    factor = 1.0 / math.sqrt(max(v.shape[-1], 1)) if scale is None else float(scale)
    out = ops.graph_attention.default(adjacency.rowptr, adjacency.col, adjacency.edge, query, key, value, bias, factor,
                                      dropout, seed, *_back(adjacency, query, key, value, bias))[0]
    return _unfold(out, v)
