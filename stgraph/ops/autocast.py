"""What ``torch.autocast`` means here: dense products are done in its type, all else in the widest type given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Given = ParamSpec("Given")
Result = TypeVar("Result")
_DEVICES = ("cpu", "cuda")
_CAST = frozenset((torch.float32, torch.float16, torch.bfloat16))  # float64 stays what it is, as everywhere in torch


def as_product(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Under autocast floats enter in its type, as they do a matrix product of torch; inside there is no autocast."""
    return _settled(function, lambda device, _: torch.get_autocast_dtype(device))


def in_the_widest(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Under autocast floats enter in the widest type among them; inside there is no autocast."""
    return _settled(function, lambda _, found: functools.reduce(torch.promote_types, [x.dtype for x in found]))


def mixed(*given: object) -> bool:
    """Whether autocast is on and floats of several types meet."""
    tensors = [x for x in given if isinstance(x, Tensor)]
    return len({x.dtype for x in tensors}) > 1 and torch.is_autocast_enabled(tensors[0].device.type)


def _settled(function: Callable[Given, Result],
             type_of: Callable[[str, list[Tensor]], torch.dtype]) -> Callable[Given, Result]:
    @functools.wraps(function)
    def run(*given: Given.args, **named: Given.kwargs) -> Result:
        tensors = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else ""
        if device not in _DEVICES or not torch.is_autocast_enabled(device):
            return function(*given, **named)
        cast = [value for value in tensors if value.dtype in _CAST]
        dtype = type_of(device, cast) if cast else torch.float32

        def settled(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.dtype in _CAST else value

        with torch.autocast(device, enabled=False):
            return function(*map(settled, given), **{name: settled(value) for name, value in named.items()})

    return run
