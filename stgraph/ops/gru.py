"""The gates of a recurrent unit (Cho et al. 2014), each in one pass over memory: ``gru_gate`` and ``gru_blend``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stgraph.ops import shapes
from stgraph.ops.autocast import in_the_widest
from stgraph.ops.library import define, like, ops, ready
from stgraph.ops.names import NAMESPACE
from stgraph.ops.torch_backend import in_layout, wide

SCHEMAS = {
    "gru_gate": "(Tensor z_pre, Tensor r_pre, Tensor h) -> (Tensor, Tensor)",
    "gru_gate_backward": "(Tensor grad_z, Tensor grad_reset, Tensor z, Tensor r_pre, Tensor h) "
                         "-> (Tensor, Tensor, Tensor)",
    "gru_blend": "(Tensor z, Tensor h, Tensor candidate_pre) -> Tensor",
    "gru_blend_backward": "(Tensor grad, Tensor z, Tensor h, Tensor candidate_pre) -> (Tensor, Tensor, Tensor)",
}
"""The operators on ``[B, T, N, F]`` with a contiguous last axis; results have the layout of ``h``."""


# ---------------------------------------------------------------- in PyTorch's own operators
def _gate(z_pre: Tensor, r_pre: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return in_layout(wide(z_pre).sigmoid(), h), in_layout(wide(r_pre).sigmoid() * wide(h), h)


def _gate_backward(grad_z: Tensor, grad_reset: Tensor, z: Tensor, r_pre: Tensor,
                   h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    share, reset, through = wide(z), wide(r_pre).sigmoid(), wide(grad_reset)
    return (in_layout(wide(grad_z) * share * (1 - share), h), in_layout(through * wide(h) * reset * (1 - reset), h),
            in_layout(through * reset, h))


def _blend(z: Tensor, h: Tensor, candidate_pre: Tensor) -> Tensor:
    share = wide(z)
    return in_layout(share * wide(h) + (1 - share) * wide(candidate_pre).tanh(), h)


def _blend_backward(grad: Tensor, z: Tensor, h: Tensor, candidate_pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    through, share, candidate = wide(grad), wide(z), wide(candidate_pre).tanh()
    return (in_layout(through * (wide(h) - candidate), h), in_layout(through * share, h),
            in_layout(through * (1 - share) * (1 - candidate * candidate), h))


TWINS: dict[str, Callable[..., Any]] = {
    "gru_gate": _gate, "gru_gate_backward": _gate_backward, "gru_blend": _blend,
    "gru_blend_backward": _blend_backward,
}
for _name, _schema in SCHEMAS.items():
    define(_name, _schema, TWINS[_name])


# ---------------------------------------------------------------- fakes
def _fakes(results: int, layout: int) -> Any:
    def fake(*inputs: Tensor) -> Any:
        h = inputs[layout]
        made = tuple(like(h, h.shape[2]) for _ in range(results))
        return made if results > 1 else made[0]

    return fake


for _name, _results, _layout in (("gru_gate", 2, 2), ("gru_gate_backward", 3, 4), ("gru_blend", 1, 1),
                                 ("gru_blend_backward", 3, 2)):
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fakes(_results, _layout))


# ---------------------------------------------------------------- gradients
def _keep_gate(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[0], *inputs[1:])


def _gate_gradient(ctx: Any, grad_z: Tensor, grad_reset: Tensor) -> tuple[Tensor, ...]:
    return ops.gru_gate_backward(ready(grad_z), ready(grad_reset), *ctx.saved_tensors)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _blend_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return ops.gru_blend_backward(ready(grad), *ctx.saved_tensors)


def _gate_second(ctx: Any, of_z: Tensor, of_r: Tensor, of_h: Tensor) -> tuple[Tensor, ...]:
    """Derivatives of ``g z (1 - z)``, ``k h r (1 - r)`` and ``k r``, where g and k are the gradients that came in."""
    g, k, z, r_pre, h = ctx.saved_tensors
    r = r_pre.sigmoid()
    slope = r * (1 - r)
    return (of_z * z * (1 - z), of_r * h * slope + of_h * r, of_z * g * (1 - 2 * z),
            of_r * k * h * slope * (1 - 2 * r) + of_h * k * slope, of_r * k * slope)


def _blend_second(ctx: Any, of_z: Tensor, of_h: Tensor, of_c: Tensor) -> tuple[Tensor, ...]:
    """Derivatives of ``g (h - c)``, ``g z`` and ``g (1 - z) (1 - c c)``, where c is the tanh of the candidate."""
    g, z, h, candidate_pre = ctx.saved_tensors
    c = candidate_pre.tanh()
    slope = 1 - c * c
    return (of_z * (h - c) + of_h * z + of_c * (1 - z) * slope, of_h * g - of_c * g * slope, of_z * g,
            -of_z * g * slope - of_c * g * (1 - z) * 2 * c * slope)


for _name, _backward, _context in (("gru_gate", _gate_gradient, _keep_gate), ("gru_blend", _blend_gradient, _keep),
                                   ("gru_gate_backward", _gate_second, _keep),
                                   ("gru_blend_backward", _blend_second, _keep)):
    torch.library.register_autograd(f"{NAMESPACE}::{_name}", _backward, setup_context=_context)


# ---------------------------------------------------------------- the public functions
def _four(h: Tensor, **others: Tensor) -> tuple[Tensor, ...]:
    """All as ``[B, T, N, F]``; ``h`` last.

    Raises:
        InputError: naming the argument.
    """
    last = shapes.features(h, "h")
    out = []
    for name, value in others.items():
        shapes.same(value, h, name, tuple(h.shape))
        out.append(shapes.four(value, value.dim()))
    return (*out, last)


@in_the_widest
def gru_gate(z_pre: Tensor, r_pre: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The two gates of a recurrent unit: ``z = sigmoid(z_pre)`` and ``sigmoid(r_pre) * h``, in one pass.

    Args:
        z_pre: ``[..., N, F]`` update gate before its sigmoid; a slice of a wider tensor will do.
        r_pre: ``[..., N, F]`` reset gate before its sigmoid.
        h: ``[..., N, F]`` state.

    Returns:
        ``z`` and ``r * h``, each ``[..., N, F]`` in the layout of ``h``.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    share, reset, state = _four(h, z_pre=z_pre, r_pre=r_pre)
    z, kept = ops.gru_gate.default(share, reset, state)
    return shapes.unfold(z, h), shapes.unfold(kept, h)


@in_the_widest
def gru_blend(z: Tensor, h: Tensor, candidate_pre: Tensor) -> Tensor:
    """The next state of a recurrent unit: ``z * h + (1 - z) * tanh(candidate_pre)``, in one pass.

    Args:
        z: ``[..., N, F]`` update gate, from :func:`gru_gate`.
        h: ``[..., N, F]`` state.
        candidate_pre: ``[..., N, F]`` candidate before its tanh.

    Returns:
        ``[..., N, F]`` in the layout of ``h``.

    Raises:
        InputError: naming the argument, before any memory is touched.
    """
    share, candidate, state = _four(h, z=z, candidate_pre=candidate_pre)
    return shapes.unfold(ops.gru_blend.default(share, state, candidate), h)
