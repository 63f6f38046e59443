"""Diffusion convolution (Li et al., ICLR 2018): features filtered by random walks along and against the edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.autocast import as_product
from stgraph.ops.library import node_major
from stgraph.ops.sparse import sddmm, spmm

RECURRENCES = ("power", "chebyshev")
ORDERS = ("horner", "powers")


# ---------------------------------------------------------------- dense products in any layout
def flat(x: Tensor, by_node: bool) -> Tensor:
    """``[B, T, N, F]`` as ``[M, F]`` in the order of memory; a view where nothing lies between the rows."""
    b, t, n, f = x.shape
    return (x.permute(2, 0, 1, 3) if by_node else x).reshape(b * t * n, f)


def unflat(rows: Tensor, leading: Sequence[int], by_node: bool) -> Tensor:
    """The reverse of :func:`flat`; ``leading`` are B, T and N."""
    b, t, n = leading
    return rows.unflatten(0, (n, b, t)).permute(1, 2, 0, 3) if by_node else rows.unflatten(0, (b, t, n))


class Products(torch.autograd.Function):
    """``x @ weight[k]`` for every k by one product, as slices of it; their gradients are never put side by side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        """Slices ``[M, G]`` for ``x [M, F]`` and ``weight [K, F, G]``; the bias is added to the first."""
        count, width, outputs = weight.shape
        ctx.save_for_backward(x, weight)
        ctx.bias_axes = 0 if bias is None else bias.dim()
        out = x @ weight.transpose(0, 1).reshape(width, count * outputs)
        if bias is not None:
            out[:, :outputs] += bias
        return out.view(len(x), count, outputs).unbind(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """One product per slice, added up in their order; in the type of the forward pass."""
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_each = weight.unbind(0)
                grad_x = grads[0] @ of_each[0].T
                for grad, matrix in zip(grads[1:], of_each[1:], strict=True):
                    grad_x = grad_x.addmm_(grad, matrix.T)
            if ctx.needs_input_grad[1]:
                grad_weight = torch.stack([x.T @ grad for grad in grads])
            if ctx.needs_input_grad[2]:
                grad_bias = grads[0] if ctx.bias_axes == 2 else grads[0].sum(0)
        return grad_x, grad_weight, grad_bias


# ---------------------------------------------------------------- random walks
@dataclass(frozen=True, eq=False)
class Walks:
    """The two random walks of a graph; both share the indices of one :class:`Adjacency` and its transpose.

    Args:
        forward: Rows are sources: a node collects from where its edges lead.
        backward: Rows are destinations: a node collects from where its edges come from.
        forward_weight: ``[E]`` or ``[E, B or 1, T or 1, 1]`` of ``D_O^-1 W``; its rows sum to 1, or to 0.
        backward_weight: The same of ``D_I^-1 W^T``.
    """

    forward: Adjacency
    backward: Adjacency
    forward_weight: Tensor
    backward_weight: Tensor


def random_walks(adjacency: Adjacency, weight: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Walks:
    """The matrices ``D_O^-1 W`` and ``D_I^-1 W^T`` of a graph, where ``W[j, i]`` is the weight of an edge j to i.

    A node without out-edges (in-edges) has an empty row in the first (second). Gradients reach the weights.

    Args:
        adjacency: The graph, from a type of nodes to itself.
        weight: ``[E]`` or ``[E, B or 1, T or 1, 1]`` in the order of the edges; None: all ones.
        dtype: Of the matrices where no weight is given.

    Raises:
        InputError: for a graph between two types, or a weight of another shape, or on another device.
    """
    _square(adjacency, "adjacency")
    device = adjacency.col.device
    if weight is None:
        weight = torch.ones(adjacency.edges, dtype=dtype, device=device)
    if not _per_edge(weight, adjacency.edges) or weight.dtype not in shapes.FLOATS or weight.device != device:
        raise InputError("weights do not fit the graph", field="weight", value=_described(weight),
                         remedy=f"give floats [E] or [E, B or 1, T or 1, 1] on {device}, where E = {adjacency.edges}")
    axes = weight.dim()
    four = weight if axes == 4 else weight[:, None, None, None]
    along, against = (_divided(one, four) for one in (adjacency.transpose, adjacency))
    if axes == 1:
        along, against = along.view(-1), against.view(-1)
    return Walks(adjacency.transpose, adjacency, along, against)


def _divided(adjacency: Adjacency, weight: Tensor) -> Tensor:
    """Each weight ``[E, B?, T?, 1]`` by the sum of its row, 0 where that is 0."""
    _, batch, time, _ = weight.shape
    ones = weight.new_ones((batch, time, adjacency.columns, 1))
    total = spmm(adjacency, ones, weight=weight)
    inverse = torch.where(total == 0, 0.0, ones / torch.where(total == 0, 1.0, total))
    return sddmm(adjacency, inverse, ones).permute(2, 0, 1, 3) * weight


def _square(adjacency: Adjacency, name: str) -> None:
    if not isinstance(adjacency, Adjacency):
        raise InputError("expected an Adjacency", field=name, value=type(adjacency).__name__,
                         remedy="make one with Adjacency.of_edges(...) or Adjacency.of(graph, relation)")
    if adjacency.rows != adjacency.columns:
        raise InputError("a walk needs a graph from a type of nodes to itself", field=name,
                         value=f"{adjacency.columns} -> {adjacency.rows} nodes", remedy="give such a relation")


def _described(value: object) -> str:
    return f"{value.dtype} {list(value.shape)} on {value.device}" if isinstance(value, Tensor) else type(value).__name__


def _per_edge(weight: object, edges: int) -> bool:
    """Whether this is ``[E]`` or ``[E, any, any, 1]``."""
    return isinstance(weight, Tensor) and weight.dim() in (1, 4) and weight.shape[0] == edges \
        and (weight.dim() == 1 or weight.shape[3] == 1)


def check_edge_weight(weight: Tensor | None, name: str, graph: Adjacency, x: Tensor) -> None:
    """Refuse weights of edges that fit neither the graph nor the features; None fits.

    Args:
        weight: ``[E]`` or ``[E, B or 1, T or 1, 1]``.
        name: What the user calls them.
        graph: The graph.
        x: ``[B, T, N, F]``, whose type and device they must have.

    Raises:
        InputError: with this name.
    """
    b, t = x.shape[:2]
    if weight is None or (_per_edge(weight, graph.edges) and weight.dtype == x.dtype and weight.device == x.device and (
            weight.dim() == 1 or (weight.shape[1] in (1, b) and weight.shape[2] in (1, t)))):
        return
    raise InputError("weights do not fit the graph and the features", field=name, value=_described(weight),
                     remedy=f"give {x.dtype} [E] or [E, B or 1, T or 1, 1] on {x.device}, where E = {graph.edges}, "
                            f"B = {b}, T = {t}")


def check_place(graph: Adjacency, x: Tensor) -> None:
    """Refuse features on another device than the graph.

    Raises:
        InputError: naming ``x``.
    """
    if x.device != graph.col.device:
        raise InputError("the graph and the features are on different devices", field="x", value=str(x.device),
                         remedy=f"the graph is on {graph.col.device}")


# ---------------------------------------------------------------- the convolution
def diffusion_order(nodes: int, edges: int, inputs: int, outputs: int, steps: int, directions: int) -> str:
    """``horner`` or ``powers``: which moves fewer numbers per slab, counted as read and written by each pass.

    Horner multiplies with all matrices first and walks on ``outputs`` channels; powers walks on ``inputs`` channels and
    multiplies after each step.

    Args:
        nodes: Number of nodes.
        edges: Number of edges.
        inputs: Channels F.
        outputs: Channels G.
        steps: Length of the walks, K.
        directions: 1 or 2.
    """
    walks = directions * steps
    horner = nodes * (inputs + (1 + walks) * outputs) + walks * (edges + 2 * nodes) * outputs
    powers = nodes * (inputs + outputs) + walks * ((edges + 2 * nodes) * inputs + 2 * nodes * outputs)
    return "powers" if powers < horner else "horner"


@as_product
def diffusion_conv(forward: Adjacency, x: Tensor, weight: Tensor, backward: Adjacency | None = None,
                   forward_weight: Tensor | None = None, backward_weight: Tensor | None = None,
                   bias: Tensor | None = None, *, recurrence: str = "power", order: str | None = None) -> Tensor:
    """Diffusion convolution: ``x W_0 + sum over k of P_f^k x W_k + sum over k of P_b^k x W_(K+k)``, ``k = 1 .. K``.

    Both directions share the term without a step. Either one product gives all ``Y_k = x W_k`` and then
    ``z = P z + Y_k`` from the highest power down, or the powers come first and each is multiplied and added to the
    result; the one that moves less memory is taken. The powers are put side by side only where all of them take no more
    than the result. Under ``torch.autocast`` all is done in its type, as by a linear layer.

    Args:
        forward: The graph whose rows P_f are, for instance :attr:`Walks.forward`.
        x: ``[..., N, F]``.
        weight: ``[1 + K, F, G]``, or ``[1 + 2 K, F, G]`` with both directions.
        backward: The graph of P_b; None: one direction.
        forward_weight: Weights of P_f, ``[E]`` or ``[E, B or 1, T or 1, 1]``; None: all ones.
        backward_weight: The same of P_b.
        bias: ``[G]``, or ``[..., N, G]``; added to the result.
        recurrence: ``power``, or ``chebyshev``: the polynomials ``T_k = 2 P T_(k-1) - T_(k-2)`` in place of the powers,
            which only changes what the weights are made into.
        order: ``horner`` or ``powers``; None: by :func:`diffusion_order`.

    Returns:
        ``[..., N, G]`` in the layout of ``x``.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    _square(forward, "forward")
    dense = shapes.features(x, "x", forward.columns)
    check_place(forward, dense)
    check_edge_weight(forward_weight, "forward_weight", forward, dense)
    walks = [(forward, forward_weight)]
    if backward is not None:
        _square(backward, "backward")
        if backward.rows != forward.rows or backward.col.device != dense.device:
            raise InputError("both directions have the same nodes, on one device", field="backward",
                             value=f"{backward.rows} nodes on {backward.col.device}",
                             remedy=f"the forward graph has {forward.rows} on {dense.device}")
        check_edge_weight(backward_weight, "backward_weight", backward, dense)
        walks.append((backward, backward_weight))
    elif backward_weight is not None:
        raise InputError("there is no walk backward that these could be the weights of", field="backward_weight",
                         value=_described(backward_weight), remedy="give the graph of that walk too")
    steps = _steps(weight, dense, len(walks))
    if recurrence not in RECURRENCES or order not in (None, *ORDERS):
        wrong = recurrence not in RECURRENCES
        raise InputError("unknown way", field="recurrence" if wrong else "order", value=recurrence if wrong else order,
                         remedy=f"one of {', '.join(RECURRENCES if wrong else ORDERS)}")
    if recurrence == "chebyshev":
        weight = _as_powers(weight, steps, len(walks))
    by_node = node_major(dense)
    added = _addition(bias, x, weight.shape[2], by_node)
    if order is None:
        edges = max(adjacency.edges for adjacency, _ in walks)
        order = diffusion_order(forward.rows, edges, weight.shape[1], weight.shape[2], steps, len(walks))
    run = _horner if order == "horner" else _powers
    return shapes.unfold(run(walks, dense, weight, steps, added, by_node), x)


def _horner(walks: Sequence[tuple[Adjacency, Tensor | None]], x: Tensor, weight: Tensor, steps: int,
            added: Tensor | None, by_node: bool) -> Tensor:
    terms = [unflat(rows, x.shape[:3], by_node) for rows in Products.apply(flat(x, by_node), weight, added)]
    out = terms[0]
    for direction, (adjacency, edge_weight) in enumerate(walks):
        own = terms[1 + direction * steps:1 + (direction + 1) * steps]
        if own:
            z = own[-1]
            for term in own[-2::-1]:
                z = spmm(adjacency, z, weight=edge_weight, addend=term)
            out = spmm(adjacency, z, weight=edge_weight, addend=out)
    return out


def _powers(walks: Sequence[tuple[Adjacency, Tensor | None]], x: Tensor, weight: Tensor, steps: int,
            added: Tensor | None, by_node: bool) -> Tensor:
    def powers() -> Iterator[Tensor]:
        yield flat(x, by_node)
        for adjacency, edge_weight in walks:
            z = x
            for _ in range(steps):
                z = spmm(adjacency, z, weight=edge_weight)
                yield flat(z, by_node)

    count, width, outputs = weight.shape
    if count * width <= outputs:  # few channels: all powers take no more than the result, and one product is quicker
        rows, matrix = torch.cat(list(powers()), 1), weight.reshape(count * width, outputs)
        out = rows @ matrix if added is None else torch.addmm(added, rows, matrix)
        return unflat(out, x.shape[:3], by_node)
    terms = zip(powers(), weight.unbind(0), strict=True)  # one after the other: a power is gone when it was added
    rows, matrix = next(terms)
    out = rows @ matrix if added is None else torch.addmm(added, rows, matrix)
    for rows, matrix in terms:
        out = out.addmm_(rows, matrix)
    return unflat(out, x.shape[:3], by_node)


def _steps(weight: Tensor, x: Tensor, directions: int) -> int:
    """Length of the walks from the number of matrices."""
    if not isinstance(weight, Tensor) or weight.dtype != x.dtype or weight.device != x.device or weight.dim() != 3 \
            or weight.shape[1] != x.shape[-1] or weight.shape[0] < 1 or (weight.shape[0] - 1) % directions:
        raise InputError("weights are one matrix for no step and one per step and direction", field="weight",
                         value=_described(weight),
                         remedy=f"give {x.dtype} [1 + {directions} K, {x.shape[-1]}, G] on {x.device}")
    return (weight.shape[0] - 1) // directions


def _addition(bias: Tensor | None, x: Tensor, outputs: int, by_node: bool) -> Tensor | None:
    """The bias ``[G]`` as it is, or ``[..., N, G]`` as rows ``[M, G]``."""
    if bias is None:
        return None
    if not isinstance(bias, Tensor) or bias.dim() == 1:
        shapes.same(bias, x, "bias", (outputs,))
        return bias
    shapes.same(bias, x, "bias", (*x.shape[:-1], outputs))
    return flat(shapes.four(bias, bias.dim()), by_node)


def _as_powers(weight: Tensor, steps: int, directions: int) -> Tensor:
    """Weights of Chebyshev polynomials as weights of powers: each polynomial is a sum of powers."""
    polynomials = torch.zeros(steps + 1, steps + 1, dtype=torch.float64)
    polynomials[0, 0] = 1.0
    for k in range(1, steps + 1):
        polynomials[k, 1:] = (2.0 if k > 1 else 1.0) * polynomials[k - 1, :-1]
        if k > 1:
            polynomials[k] -= polynomials[k - 2]
    mixing = torch.zeros(weight.shape[0], weight.shape[0], dtype=torch.float64)
    mixing[0, 0] = 1.0
    for direction in range(directions):
        own = slice(1 + direction * steps, 1 + (direction + 1) * steps)
        mixing[own, 0] = polynomials[1:, 0]
        mixing[own, own] = polynomials[1:, 1:]
    return torch.einsum("kp,kfg->pfg", mixing.to(weight), weight)
