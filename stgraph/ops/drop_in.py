"""Our kernels inside layers of PyTorch Geometric: :func:`accelerate`, :func:`restore`, :func:`report`.

A layer keeps its class, parameters, options and hooks; only ``forward`` is set on the object, and calls our operators
where PyG would make a message for every edge. Whatever such a call does not cover goes to the layer's own ``forward``.
"""

from __future__ import annotations

import copy
import inspect
import types
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

from stgraph.errors import InputError
from stgraph.ops.pyg_layers import ADAPTERS, REDUCTION_OF, Adapter

Module = TypeVar("Module", bound=torch.nn.Module)
_METHODS = ("forward", "message", "aggregate", "update", "message_and_aggregate", "edge_update")
_COMMON = frozenset(("self", "in_channels", "out_channels", "bias", "kwargs"))


# ---------------------------------------------------------------- the public functions
@dataclass(frozen=True)
class Layer:
    """What became of one message passing layer.

    Args:
        name: Where it stands in the module.
        kind: Its class.
        swapped: Whether it runs on our kernels.
        reason: Why not.
    """

    name: str
    kind: str
    swapped: bool
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """All message passing layers of a module; as text, one line for each."""

    layers: tuple[Layer, ...]

    @property
    def swapped(self) -> tuple[Layer, ...]:
        """Those on our kernels."""
        return tuple(layer for layer in self.layers if layer.swapped)

    @property
    def left(self) -> tuple[Layer, ...]:
        """Those left as they are."""
        return tuple(layer for layer in self.layers if not layer.swapped)

    def __str__(self) -> str:
        lines = [f"{layer.name or '(the module itself)'}: {layer.kind}: "
                 f"{'swapped' if layer.swapped else f'left alone, {layer.reason}'}" for layer in self.layers]
        return "\n".join(lines) or "no layers of PyTorch Geometric"


def accelerate(module: Module, *, inplace: bool = True) -> Module:
    """Let the layers of PyTorch Geometric in a module aggregate with our kernels, with the same outputs and gradients.

    GCNConv, GATConv, GATv2Conv, SAGEConv, GraphConv and GINConv (sum, mean, max), and TransformerConv without edge
    features are swapped; all others, and subclasses that change a step of message passing, are left alone;
    :func:`report` says which and why. Parameters, ``state_dict`` and calls stay what they are. Done twice it does no
    more than once; :func:`restore` takes it back.

    The compressed graph is kept for as long as ``edge_index`` lives and is made anew when that is edited in place.
    Dropout of attention during training has PyG's distribution but other random numbers. A call that is not covered
    runs PyG's own code: see ``docs/pyg.md``.

    Args:
        module: Any module; its parts are looked through.
        inplace: Change this module; else a deep copy.

    Returns:
        The module.

    Raises:
        InputError: where ``module`` is no torch module.
    """
    _check(module)
    if not inplace:
        module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, MessagePassing) and not _swapped(layer) and not _refusal(layer):
            adapter = _adapter(layer)
            assert adapter is not None  # else there was a refusal
            layer.forward = types.MethodType(adapter.forward, layer)
    return module


def restore(module: Module) -> Module:
    """Take :func:`accelerate` back: every layer runs its own ``forward`` again.

    Raises:
        InputError: where ``module`` is no torch module.
    """
    _check(module)
    for layer in module.modules():
        if _swapped(layer):
            del layer.forward
    return module


def report(module: torch.nn.Module) -> Report:
    """Which message passing layers of a module run on our kernels, which do not, and why.

    Raises:
        InputError: where ``module`` is no torch module.
    """
    _check(module)
    return Report(tuple(
        Layer(name, type(layer).__name__, _swapped(layer),
              "" if _swapped(layer) else _refusal(layer) or "it was not accelerated yet")
        for name, layer in module.named_modules() if isinstance(layer, MessagePassing)))


def _check(module: object) -> None:
    if not isinstance(module, torch.nn.Module):
        raise InputError("expected a torch module", field="module", value=type(module).__name__,
                         remedy="give a layer of PyTorch Geometric, or a model that holds some")


# ---------------------------------------------------------------- which layers can be swapped
def _adapter(layer: torch.nn.Module) -> type[Adapter] | None:
    return next((adapter for adapter in ADAPTERS if isinstance(layer, adapter.kind)), None)


def _swapped(layer: torch.nn.Module) -> bool:
    function = getattr(layer.__dict__.get("forward"), "__func__", None)
    return any(function is adapter.forward for adapter in ADAPTERS)


def _refusal(layer: Any) -> str:
    """Why a layer must be left alone; empty if it need not."""
    adapter = _adapter(layer)
    if adapter is None:
        return "there is no adapter for this class"
    changed = _changed(layer, adapter.kind)
    if changed:
        return f"it has its own {changed}"
    kind: Any = adapter.kind
    unknown = [name for name in inspect.signature(kind.__init__).parameters if name not in _COMMON | adapter.options]
    unknown += [name for name in inspect.signature(kind.forward).parameters
                if name != "self" and name not in inspect.signature(adapter.forward).parameters]
    if unknown:
        return f"this version of PyG has an option that is not known here: {', '.join(unknown)}"
    if layer.flow != "source_to_target":
        return "messages flow from target to source"
    if layer.node_dim != adapter.node_axis:
        return f"node_dim is {layer.node_dim}"
    if layer.decomposed_layers != 1:
        return "its features are decomposed"
    if type(layer.aggr_module) not in (REDUCTION_OF if adapter.node_axis == -2 else (SumAggregation,)):
        return f"there is no kernel for the aggregation {layer.aggr_module}"
    return adapter.refusal(layer)


def _changed(layer: Any, kind: type) -> str:
    """The step of message passing that this object or its class does in its own way; empty if none."""
    for name in _METHODS:
        own = layer.__dict__.get(name)
        if getattr(type(layer), name) is not getattr(kind, name) or (
                own is not None and getattr(own, "__func__", None) is not getattr(kind, name)):
            return name
    for name in ("propagate", "edge_updater"):  # PyG writes these for each class, in modules named after it
        written = {f"{base.__module__}_{base.__name__}_{name}" for base in type(layer).__mro__}
        for function in (getattr(type(layer), name), layer.__dict__.get(name)):
            function = getattr(function, "__func__", function)
            if function is not None and function is not getattr(MessagePassing, name) \
                    and getattr(function, "__module__", None) not in written:
                return name
    return ""
