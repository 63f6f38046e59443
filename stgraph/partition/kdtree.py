"""Balanced median splits: of places (KD-tree), of daily profiles, and the padded leaves of PatchSTG.

A split halves a set at the median of some key, so patches hold the same number of nodes, not the same area. The order
inside a patch goes on along the same tree: slot ``i`` means about the same relative place in every patch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np

from stgraph.errors import InputError
from stgraph.partition.partition import Partition

EARTH_RADIUS = 6_371_008.8  # m, mean
_COMPONENTS = 16

Key = Callable[[np.ndarray, int], np.ndarray]
"""``key(members, level) -> [len(members)]``: what a set is sorted by before it is halved."""


def local_metres(lonlat: np.ndarray) -> np.ndarray:
    """Longitude and latitude ``[N, 2]`` in degrees to metres east and north of their middle; NaN stays NaN.

    The local equirectangular frame: good enough to sort by and to compare extents of a city or a region.
    """
    lonlat = np.asarray(lonlat, dtype=np.float64)
    known = lonlat[np.isfinite(lonlat).all(1)]
    if not len(known):
        return np.full(lonlat.shape, np.nan)
    longitude, latitude = np.radians(lonlat).T
    middle = np.angle(np.exp(1j * np.radians(known[:, 0])).mean())  # a mean that survives the date line
    east = (longitude - middle + np.pi) % (2 * np.pi) - np.pi
    north = latitude - np.radians(known[:, 1]).mean()
    return EARTH_RADIUS * np.stack([east * np.cos(np.radians(known[:, 1]).mean()), north], 1)


# -------------------------------------------------------------------- the splits
def kdtree_leaves(coordinates: np.ndarray, depth: int) -> list[np.ndarray]:
    """The ``2 ** depth`` leaves of PatchSTG's tree, left to right (KDD 2025, section on irregular patching).

    Each level sorts by latitude or longitude in turn, latitude first; the first half (rounded down) goes left. Equal
    values keep the order of the nodes. Sizes differ by at most one.

    Args:
        coordinates: ``[N, 2]`` east and north, in metres or degrees.
        depth: Levels of the tree.

    Returns:
        ``2 ** depth`` ascending int64 arrays of nodes.

    Raises:
        InputError: where a place is not known, or there are more leaves than nodes.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    unknown = int((~np.isfinite(coordinates).all(1)).sum())
    if unknown:
        raise InputError("nodes without a place cannot be sorted into the leaves of the tree", field="coordinates",
                         value=f"{unknown} of {len(coordinates)} nodes", remedy="use padding=masked, which spreads "
                         "them evenly, or partition=feature")
    if depth < 0 or 2**depth > len(coordinates):
        raise InputError("every leaf of the tree needs a node", field="depth", value=depth,
                         remedy=f"choose at most {int(math.log2(max(1, len(coordinates))))} for "
                                f"{len(coordinates)} nodes")
    return _median_split(np.arange(len(coordinates)), 2**depth, _alternating(coordinates))


def kdtree(coordinates: np.ndarray, parts: int) -> Partition:
    """Balanced patches of neighbouring places: a KD-tree with any number of leaves, no copies.

    A set is always cut across its longer side; inside a patch the axes alternate from north to east, so that a slot
    means the same relative place in each patch. Sizes differ by at most one. Nodes without a place go to the smallest
    patches, in order.

    Args:
        coordinates: ``[N, 2]`` east and north in metres (:func:`local_metres`), NaN where not known.
        parts: Number of patches; more than there are nodes is cut down to one node each, with a warning.

    Raises:
        InputError: where no place is known, or ``parts`` is not positive.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    placed = np.isfinite(coordinates).all(1)
    if not placed.any():
        raise InputError("no node has coordinates", field="coordinates", value=f"{len(coordinates)} nodes",
                         remedy="build the graph with --locations, or use partition=feature")

    def longer_side(members: np.ndarray, level: int) -> np.ndarray:
        inside = coordinates[members]
        return inside[:, int(np.argmax(np.ptp(inside, axis=0)))]

    return _patches(np.flatnonzero(placed), np.flatnonzero(~placed), parts, longer_side, _alternating(coordinates))


def feature(profile: np.ndarray, parts: int) -> Partition:
    """Balanced patches of nodes with a similar course of the day, for networks without coordinates.

    A set is halved at the median of its first principal component, again and again, also inside a patch.

    Args:
        profile: ``[N, F]`` training profile of each node; only its shape counts, not its level and spread.
        parts: Number of patches; more than there are nodes is cut down to one node each, with a warning.

    Raises:
        InputError: where ``parts`` is not positive.
    """
    shape = np.asarray(profile, dtype=np.float64)
    shape = shape - shape.mean(1, keepdims=True)
    spread = shape.std(1, keepdims=True)
    shape = np.divide(shape, spread, out=np.zeros_like(shape), where=spread > 1e-9)
    centred = shape - shape.mean(0)
    if centred.shape[1] > _COMPONENTS:  # the few directions that differ between nodes
        centred = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -_COMPONENTS:]

    def first_component(members: np.ndarray, level: int) -> np.ndarray:
        inside = centred[members] - centred[members].mean(0)
        axis = np.linalg.eigh(inside.T @ inside)[1][:, -1]
        return inside @ axis * np.sign(axis[np.argmax(np.abs(axis))])  # an eigenvector has no sign of its own

    return _patches(np.arange(len(shape)), np.arange(0), parts, first_component, first_component)


def patchstg_shape(nodes: int, depth: int = 0, patches: int = 0) -> tuple[int, int]:
    """Depth of the tree and number of patches, chosen where 0: leaves of two or one nodes, patches about square.

    Raises:
        InputError: where the leaves cannot be joined to that number of patches.
    """
    depth = depth or int(math.log2(nodes))
    patches = patches or 2 ** (depth // 2)
    if patches < 1 or 2**depth % patches:
        raise InputError("the patches must join equal numbers of leaves", field="patches", value=patches,
                         remedy=f"choose a power of two up to {2**depth}")
    return depth, patches


def patchstg_partition(coordinates: np.ndarray, depth: int, patches: int, profile: np.ndarray | None = None,
                       padding: Literal["similar", "masked"] = "similar") -> Partition:
    """PatchSTG's own patches: leaves of the tree, filled up to equal size, then joined in order (KDD 2025).

    Args:
        coordinates: ``[N, 2]`` east and north, in metres or degrees.
        depth: Levels of the tree; its leaves have ``ceil(N / 2 ** depth)`` slots.
        patches: Number of patches; divides ``2 ** depth``.
        profile: ``[N, F]`` training profile of each node, for ``similar``.
        padding: How a leaf is filled up: with read-only copies of the outside nodes whose profile is most like (by
            cosine) that of any member, or left empty.

    Raises:
        InputError: where the sizes do not fit.
    """
    nodes = len(coordinates)
    patchstg_shape(nodes, depth, patches)
    leaves = kdtree_leaves(coordinates, depth)
    size = -(-nodes // len(leaves))
    table = np.full((len(leaves), size), -1, dtype=np.int64)
    for row, leaf in zip(table, leaves, strict=True):
        row[: len(leaf)] = leaf
    genuine = table >= 0
    if padding == "similar":
        if profile is None:
            raise InputError("similar padding needs the training profile of the nodes", field="profile",
                             remedy="give it, or use padding=masked")
        unit = np.asarray(profile, dtype=np.float64)
        length = np.linalg.norm(unit, axis=1, keepdims=True)
        unit = np.divide(unit, length, out=np.zeros_like(unit), where=length > 0)
        for row, leaf in zip(table, leaves, strict=True):
            if len(leaf) == size:
                continue
            likeness = (unit[leaf] @ unit.T).max(0)
            for slot in range(len(leaf), size):
                likeness[row[:slot]] = -np.inf  # distinct, and none of the leaf's own
                row[slot] = np.argmax(likeness)
    return Partition.from_slots(table.reshape(patches, -1), genuine.reshape(patches, -1))


# -------------------------------------------------------------------- shared parts
def _median_split(members: np.ndarray, parts: int, key: Key, level: int = 0) -> list[np.ndarray]:
    """Halve a set at the median of its key until there are ``parts`` sets, whose sizes differ by at most one."""
    if parts == 1:
        return [members]
    if not len(members):
        return [members] * parts
    left = parts // 2
    each, rest = divmod(len(members), parts)
    count = left * each + rest * left // parts
    order = np.argsort(key(members, level), kind="stable")
    return (_median_split(np.sort(members[order[:count]]), left, key, level + 1)
            + _median_split(np.sort(members[order[count:]]), parts - left, key, level + 1))


def _alternating(coordinates: np.ndarray) -> Key:
    """North on even levels, east on odd ones."""
    return lambda members, level: coordinates[members, (level + 1) % 2]


def _patches(members: np.ndarray, others: np.ndarray, parts: int, between: Key, inside: Key) -> Partition:
    """Split ``members`` by one key, lay each patch out by the other, then give ``others`` to the smallest patches."""
    nodes = len(members) + len(others)
    if parts < 1:
        raise InputError("a partition has at least one patch", field="parts", value=parts, remedy="choose 1 or more")
    if parts > nodes:
        warnings.warn(f"{parts} patches asked for, {nodes} made: a patch needs a node", stacklevel=3)
        parts = nodes
    sets = _median_split(members, parts, between)
    extra: list[list[int]] = [[] for _ in sets]
    for node in others:
        min(zip(sets, extra, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))[1].append(int(node))
    size = max(len(a) + len(b) for a, b in zip(sets, extra, strict=True))
    table = np.full((parts, size), -1, dtype=np.int64)
    for row, placed, added in zip(table, sets, extra, strict=True):
        for slot, found in enumerate(_median_split(placed, size, inside)):
            row[slot : slot + len(found)] = found
        row[np.flatnonzero(row < 0)[: len(added)]] = added
    return Partition.from_slots(table)
