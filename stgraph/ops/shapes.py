"""From what users give to what operators take: four axes, a contiguous last one, weights per edge; with checks."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops.names import DEBUG, REDUCTIONS

FLOATS = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))


class Copies:
    """How many copies of features were made because their strides did not suit the kernels.

    Args:
        count: So far in this process; may be set to 0.
    """

    count: int = 0


copies = Copies()


DEBUGGING = os.environ.get(DEBUG, "0") not in ("", "0")
"""Whether ``STGRAPH_DEBUG`` asks for checks that read all of a tensor."""


def features(x: Tensor, name: str, nodes: int | None = None) -> Tensor:
    """``x [..., N, F]`` as ``[B, T, N, F]`` with a contiguous last axis, without a copy where strides allow.

    Raises:
        InputError: naming the argument, for types and shapes.
    """
    if not isinstance(x, Tensor) or x.dtype not in FLOATS or x.layout is not torch.strided:
        raise InputError("features are a dense tensor of floats", field=name,
                         value=f"{x.layout}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__,
                         remedy="give float32, float64, float16 or bfloat16")
    axes = x.dim()
    if axes < 2 or (nodes is not None and x.shape[-2] != nodes):
        raise InputError("features are [..., N, F]", field=name, value=list(x.shape),
                         remedy="give one row per node" if nodes is None else f"the graph has N = {nodes} there")
    return four(x, axes)


def four(x: Tensor, axes: int) -> Tensor:
    """``[..., N, F]`` as ``[B, T, N, F]`` with a contiguous last axis."""
    if axes == 3:
        x = x.unsqueeze(1)
    elif axes == 2:
        x = x.unsqueeze(0).unsqueeze(0)
    elif axes > 4:
        flat = x.flatten(0, axes - 4)
        if not torch.compiler.is_compiling() and flat.data_ptr() != x.data_ptr():
            copies.count += 1
        x = flat
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        copies.count += 1
        x = x.contiguous()
    return x


def unfold(out: Tensor, like: Tensor) -> Tensor:
    """The result ``[B, T, M, F]`` with the leading axes of what the user gave."""
    axes = like.dim()
    if axes == 4:
        return out
    if axes == 3:
        return out.squeeze(1)
    if axes == 2:
        return out.squeeze(0).squeeze(0)
    return out.unflatten(0, like.shape[:-3])


def weights(weight: Tensor, edges: int, batch: int, time: int, width: int, per: str | None, heads: int | None,
            like: Tensor) -> Tensor:
    """Weights as ``[E, B or 1, T or 1, H or 1]``.

    Args:
        weight: ``[E]``; ``[E, H]``; ``[E, T]`` with ``per='time'``; ``[E, B]`` with ``per='batch'``; or all four axes.
        edges: Number of edges.
        batch: Size of the batch axis of the features.
        time: Size of their time axis.
        width: Number of their channels.
        per: ``time`` or ``batch``: what the second axis of the weight runs over; None: heads.
        heads: Number of heads, where told.
        like: The features, whose type and device it must have.

    Raises:
        InputError: naming the argument.
    """
    if not isinstance(weight, Tensor) or weight.dtype != like.dtype or weight.device != like.device:
        found = f"{weight.dtype} on {weight.device}" if isinstance(weight, Tensor) else type(weight).__name__
        raise InputError("weights have the type and device of the features", field="weight", value=found,
                         remedy=f"features are {like.dtype} on {like.device}")
    axes = weight.dim()
    if axes == 1 and per is None and (heads is None or heads == 1) and weight.shape[0] == edges:
        return weight.view(edges, 1, 1, 1)
    if axes == 1:
        out = weight[:, None, None, None] if per is None else None
    elif axes == 2 and per in ("time", "batch", None):
        out = weight[:, None, :, None] if per == "time" else \
            weight[:, :, None, None] if per == "batch" else weight[:, None, None, :]
    else:
        out = weight if axes == 4 and per is None else None
    wanted = (edges, batch, time, out.shape[3]) if out is not None else ()
    if out is None or out.shape[0] != edges or any(size not in (1, want) for size, want in
                                                   zip(out.shape[1:3], wanted[1:3], strict=True)):
        raise InputError("weights do not fit the graph and the features", field="weight", value=list(weight.shape),
                         remedy=f"give [E], [E, H], [E, T] with per='time', or [E, B] with per='batch', where "
                                f"E = {edges}, T = {time}, B = {batch}")
    if (heads is not None and out.shape[3] != heads) or out.shape[3] < 1 or width % out.shape[3]:
        raise InputError("heads divide the channels and are the last axis of the weight", field="heads",
                         value=out.shape[3] if heads is None else heads,
                         remedy=f"the weight has {out.shape[3]} heads, the features have {width} channels")
    return out


def finite(value: Tensor | None, name: str) -> None:
    """Refuse numbers that are not finite.

    Raises:
        InputError: naming the argument.
    """
    if value is not None and not torch.compiler.is_compiling() and not bool(torch.isfinite(value).all()):
        raise InputError("there are numbers that are not finite", field=name,
                         value=f"first at {(~torch.isfinite(value)).nonzero()[0].tolist()}",
                         remedy="mask or mend them first")


def reduction(name: str) -> int:
    """Number of a reduction.

    Raises:
        InputError: for an unknown name.
    """
    if name not in REDUCTIONS:
        raise InputError("unknown reduction", field="reduce", value=name, remedy=f"one of {', '.join(REDUCTIONS)}")
    return REDUCTIONS[name]


def same(other: Tensor, like: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """Refuse a second tensor of another type, device or shape than it must have.

    Raises:
        InputError: naming the argument.
    """
    if not isinstance(other, Tensor) or other.dtype != like.dtype or other.device != like.device \
            or tuple(other.shape) != tuple(shape):
        found = f"{other.dtype} {list(other.shape)} on {other.device}" if isinstance(other, Tensor) \
            else type(other).__name__
        raise InputError("tensors do not fit together", field=name, value=found,
                         remedy=f"give {like.dtype} {list(shape)} on {like.device}")


def indices(value: Tensor, name: str, limit: int, like: Tensor) -> None:
    """Refuse what are no positions ``0 .. limit - 1``; values are looked at on the CPU, elsewhere when debugging.

    Raises:
        InputError: naming the argument.
    """
    if not isinstance(value, Tensor) or value.dtype not in (torch.int32, torch.int64) or value.dim() != 1 \
            or value.device != like.device:
        found = f"{value.dtype} {list(value.shape)} on {value.device}" if isinstance(value, Tensor) \
            else type(value).__name__
        raise InputError("positions are one axis of int32 or int64 on the device of the features", field=name,
                         value=found, remedy="convert them with .int() or .long()")
    if torch.compiler.is_compiling() or not len(value) or not (value.device.type == "cpu" or DEBUGGING):
        return
    low, high = (int(v) for v in value.aminmax())
    if low < 0 or high >= limit:
        raise InputError("a position is out of range", field=name, value=f"{low} .. {high}",
                         remedy=f"positions run from 0 to {limit - 1}")
