"""Frozen modules: they learn nothing more and stay in evaluation mode whatever happens around them."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Freeze a module and all its parts, in place.

    Its parameters need no gradient, so no optimizer moves them, and it is in evaluation mode for good: ``train()`` on
    it, on a part of it or on what holds it leaves it there, so dropout stays off and running statistics stand. (The
    training loops of STEP and STD-MAE put their frozen encoders back into training mode.) Gradients still pass through
    to its inputs. Copies of a frozen module are frozen.

    Returns:
        The module itself.
    """
    for part in module.modules():
        if not is_frozen(part):
            part.__class__ = _frozen_kind(type(part))  # type: ignore[arg-type]
        part.training = False
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return module


def is_frozen(module: nn.Module) -> bool:
    """Whether a module was frozen."""
    return isinstance(module, _Frozen)


class _Frozen:
    """What a frozen module does differently from its class; comes first among the bases."""

    def train(self, mode: bool = True) -> Any:
        """Stay in evaluation mode, with every part."""
        return super().train(False)  # type: ignore[misc]

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Stay without gradients."""
        return super().requires_grad_(False)  # type: ignore[misc]


@cache
def _frozen_kind(kind: type[nn.Module]) -> type[nn.Module]:
    """The class with :class:`_Frozen` before it, under its own name."""
    return type(kind.__name__, (_Frozen, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
