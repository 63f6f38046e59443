"""The typed schema: what every attribute of a graph is, in which unit, and what plain values describe it on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stgraph.errors import InputError
from stgraph.units import unit as unit_named

if TYPE_CHECKING:
    import torch

EdgeType: TypeAlias = tuple[str, str, str]
GraphType: TypeAlias = str | EdgeType

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Types of the numbers of an attribute; texts are numpy arrays and are called ``str``, shapes ``geometry``."""
GEOMETRY = "geometry"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")

KNOWN: dict[str, tuple[str | None, str]] = {
    "node_id": (None, "identifier in the source"),
    "lonlat": ("degree", "longitude and latitude, WGS 84; not a number where unknown"),
    "pos": ("m", "place in a local metric projection"),
    "edge_index": ("1", "positions of the source and the destination node"),
    "edge_weight": ("1", "strength of the connection"),
    "distance": ("m", "length of the way from source to destination"),
    "valid_from": ("s", "first second of its life, UTC"),
    "valid_to": ("s", "first second after its life, UTC"),
    "n_id": ("1", "position of the node in the graph this one was cut from"),
    "e_id": ("1", "position of the edge in the graph this one was cut from"),
    "user_index": ("1", "position of the node in the order of the user"),
}
"""Unit and description of attributes whose meaning is fixed by their name."""


@dataclass(frozen=True)
class Attribute:
    """One declared attribute of a node or edge type.

    Args:
        dtype: One of :data:`DTYPES`, ``str``, or ``geometry``.
        shape: Sizes; the letter ``N`` or ``E`` stands for the number of nodes or edges.
        unit: SI unit of the values; None where it was never said.
        description: What it means, in words.
        categories: The words that the codes ``0, 1, ...`` of an ``int32`` attribute stand for; None: plain numbers.
    """

    dtype: str
    shape: tuple[str | int, ...]
    unit: str | None = None
    description: str = ""
    categories: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        value = {"dtype": self.dtype, "shape": list(self.shape), "unit": self.unit, "description": self.description}
        return value if self.categories is None else value | {"categories": list(self.categories)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Attribute:
        """The reverse of :meth:`to_dict`."""
        words = value.get("categories")
        return cls(value["dtype"], tuple(value["shape"]), value["unit"], value["description"],
                   None if words is None else tuple(str(word) for word in words))


@dataclass
class Schema:
    """Declared attributes of every node type and every edge type of a graph.

    Args:
        nodes: Per node type, its attributes by name.
        edges: Per edge type ``(source, relation, destination)``, its attributes by name.
    """

    nodes: dict[str, dict[str, Attribute]] = field(default_factory=dict)
    edges: dict[EdgeType, dict[str, Attribute]] = field(default_factory=dict)

    def of(self, kind: GraphType) -> dict[str, Attribute]:
        """The attributes declared for a type; an empty dictionary that takes declarations where there are none."""
        return self.nodes.setdefault(kind, {}) if isinstance(kind, str) else self.edges.setdefault(kind, {})

    def drop(self, kind: GraphType) -> None:
        """Forget a type."""
        if isinstance(kind, str):
            self.nodes.pop(kind, None)
        else:
            self.edges.pop(kind, None)

    def items(self) -> Iterator[tuple[GraphType, dict[str, Attribute]]]:
        """Every type with its attributes, node types first."""
        yield from self.nodes.items()
        yield from self.edges.items()

    def copy(self) -> Schema:
        """An independent copy."""
        return Schema({kind: dict(value) for kind, value in self.nodes.items()},
                      {kind: dict(value) for kind, value in self.edges.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        def plain(attributes: dict[str, Attribute]) -> dict[str, Any]:
            return {name: attribute.to_dict() for name, attribute in attributes.items()}

        return {"nodes": {kind: plain(attributes) for kind, attributes in self.nodes.items()},
                "edges": [{"type": list(kind), "attributes": plain(attributes)}
                          for kind, attributes in self.edges.items()]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Schema:
        """The reverse of :meth:`to_dict`."""
        def read(attributes: dict[str, Any]) -> dict[str, Attribute]:
            return {name: Attribute.from_dict(attribute) for name, attribute in attributes.items()}

        return cls({kind: read(attributes) for kind, attributes in value["nodes"].items()},
                   {edge_type(entry["type"]): read(entry["attributes"]) for entry in value["edges"]})


def edge_type(kind: Any) -> EdgeType:
    """Three texts as an edge type ``(source, relation, destination)``."""
    source, relation, destination = kind
    return str(source), str(relation), str(destination)


def label(kind: GraphType) -> str:
    """A type as one word for messages, files and folders: ``sensor`` or ``sensor__near__sensor``."""
    return kind if isinstance(kind, str) else "__".join(kind)


def check_name(name: str, what: str) -> None:
    """Refuse a type, relation, attribute or signal name that cannot be part of a file name.

    Raises:
        InputError: for a name with other characters than letters, digits, ``_``, ``.`` and ``-``, with a leading
            dot, or with a double underscore.
    """
    if not _NAME.fullmatch(name) or "__" in name:
        raise InputError(f"the name of a {what} is made of letters, digits, '-', '.' and single '_'", field=what,
                         value=name, remedy="rename it")


def describe(value: Any, letter: str) -> tuple[str, tuple[str | int, ...]]:
    """Data type and shape of an attribute; its first axis (the second of an edge index) is named by the letter.

    Args:
        value: A tensor, a numpy array of texts, or shapes.
        letter: ``N`` for nodes, ``E`` for edges.

    Raises:
        InputError: for a value that a graph cannot hold.
    """
    from torch import Tensor

    from stgraph.graph.geometry import Geometry

    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise InputError("a graph does not hold this type of numbers", field="dtype", value=value.dtype,
                             remedy=f"convert it to one of {', '.join(DTYPES)}")
    elif isinstance(value, Geometry):
        dtype = GEOMETRY
    elif isinstance(value, np.ndarray) and value.dtype.kind == "U":
        dtype = "str"
    elif isinstance(value, np.ndarray):
        raise InputError("numbers are kept as tensors, texts as numpy arrays of str", field="dtype", value=value.dtype,
                         remedy="use torch.from_numpy(values), or numpy.asarray(texts, dtype=str)")
    else:
        raise InputError("an attribute is a tensor, or a numpy array of str", field="dtype",
                         value=type(value).__name__,
                         remedy="use torch.tensor(values) or numpy.asarray(texts, dtype=str)")
    if not value.ndim:
        raise InputError("an attribute has one entry per node or edge, not a single value", field="shape", value=value,
                         remedy="put single values into graph.metadata")
    return dtype, (letter, *value.shape[1:])


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a name of :data:`DTYPES`."""
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def infer(name: str, value: Any, letter: str) -> Attribute:
    """The declaration of an attribute nobody declared; its unit is known only where its name fixes it.

    Raises:
        InputError: for a value that a graph cannot hold.
    """
    dtype, shape = describe(value, letter)
    unit, description = KNOWN.get(name, (None, ""))
    if name == "edge_index":
        shape = (2, "E")
    return Attribute(dtype, shape, unit, description)


def check_unit(name: str | None) -> None:
    """Refuse a unit that is not SI: values are stored in SI.

    Raises:
        InputError: for a unit that is not known, or is known but not SI.
    """
    if name is None:
        return
    found = unit_named(name)
    if found.si != name:
        raise InputError("attributes are stored in SI units", field="unit", value=name,
                         remedy=f"convert the values to {found.si} and declare that")
