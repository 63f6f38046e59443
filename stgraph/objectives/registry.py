"""Objectives by name, with settings and weights in one line of text.

``mae:1,masked(kind=block,rate=0.5):0.5`` are two objectives: the mean absolute error with weight 1 and masked
modelling of blocks with weight 0.5.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from typing import Any

from torch import nn

from stgraph.errors import InputError

_OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("regression:MaskedRegression", {"kind": "mae"}),
    "mse": ("regression:MaskedRegression", {"kind": "mse"}),
    "huber": ("regression:MaskedRegression", {"kind": "huber"}),
    "quantile": ("regression:MaskedRegression", {"kind": "quantile"}),
    "regression": ("regression:MaskedRegression", {}),
    "masked": ("masked:MaskedModelling", {}),
    "decoupled": ("masked:DecoupledMasked", {}),
    "contrast": ("contrastive:Contrast", {}),
    "temporal_contrast": ("contrastive:TemporalContrast", {}),
    "spatial_contrast": ("contrastive:SpatialContrast", {}),
    "diffusion": ("diffusion:DiffusionForecast", {}),
    "graph_prior": ("graph_prior:GraphPrior", {}),
    "attributes": ("attributes:MaskedAttributes", {}),
}
_ITEM = re.compile(r"\s*(?P<name>\w+)\s*(?:\((?P<settings>[^()]*)\))?\s*(?::\s*(?P<weight>[^:()]+?))?\s*")
_COMMA = re.compile(r",(?![^(]*\))")  # outside parentheses


def objective_names() -> list[str]:
    """Names of all objectives; none is imported."""
    return list(_OBJECTIVES)


def make_objective(text: str) -> nn.Module:
    """An objective from its name, with settings in parentheses where they differ: ``masked(kind=block,rate=0.5)``.

    Raises:
        InputError: for a name or a setting that does not exist, or a value of another type.
    """
    name, settings, weight = _read(text)
    if weight is not None:
        raise InputError("a weight has no place here", field="objectives", value=text)
    return _make(name, settings)


def parse_objectives(text: str) -> list[tuple[str, float]]:
    """Objectives and weights from text such as ``mae:1,masked(rate=0.5):0.5``; a weight left out is 1.

    Raises:
        InputError: for text that is not of this form, an unknown name or setting, or a weight that is negative or not
            finite.
    """
    found = []
    for item in _COMMA.split(text):
        name, settings, weight = _read(item)
        _make(name, settings)
        try:
            value = 1.0 if weight is None else float(weight)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise InputError("a weight is a number, not negative", field="objectives", value=item.strip(),
                             remedy="write it like mae:1,masked:0.5")
        words = ",".join(f"{key}={given}" for key, given in settings.items())
        found.append((f"{name}({words})" if words else name, value))
    return found


def _read(item: str) -> tuple[str, dict[str, str], str | None]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise InputError("not an objective", field="objectives", value=item.strip(),
                         remedy="write it like mae, masked:0.5 or masked(kind=block,rate=0.5):0.5")
    settings = {}
    for pair in filter(None, (part.strip() for part in (match["settings"] or "").split(","))):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or not value:
            raise InputError("not a setting", field="objectives", value=pair, remedy="write it like rate=0.5")
        settings[key] = value
    return match["name"], settings, match["weight"]


def _make(name: str, settings: dict[str, str]) -> nn.Module:
    if name not in _OBJECTIVES:
        raise InputError("unknown objective", field="objectives", value=name,
                         remedy=f"use one of {', '.join(_OBJECTIVES)}")
    place, fixed = _OBJECTIVES[name]
    module, _, kind = place.partition(":")
    made = getattr(importlib.import_module(f"stgraph.objectives.{module}"), kind)
    known = {key: parameter for key, parameter in inspect.signature(made).parameters.items() if key not in fixed}
    chosen = {}
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"the objective '{name}' has no such setting", field=key, value=value,
                             remedy=f"settings are {', '.join(known) or 'none'}")
        chosen[key] = _convert(key, value, str(known[key].annotation))
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in chosen:
            raise InputError(f"the objective '{name}' needs a setting", field=key,
                             remedy=f"write it like {name}({key}=...); settings are {', '.join(known)}")
    return made(**fixed, **chosen)


def _convert(key: str, value: str, wanted: str) -> Any:
    """Text as the type that a signature names; lists are joined by ``+``."""
    try:
        if wanted.startswith("Sequence[float]"):
            return [float(part) for part in value.split("+")]
        if wanted.startswith("Sequence[str]"):
            return value.split("+")
        if wanted.startswith("int"):
            return int(value)
        if wanted.startswith("float"):
            return float(value)
    except ValueError as error:
        raise InputError("the setting has another type", field=key, value=value,
                         remedy=f"give a {wanted.split(' ')[0]}") from error
    return value
