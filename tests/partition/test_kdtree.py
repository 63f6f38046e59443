"""Balanced splits: equal sizes, equal to a slow reference, the same for any order of the nodes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from stgraph.errors import InputError
from stgraph.partition import (
    Partition,
    feature,
    kdtree,
    kdtree_leaves,
    local_metres,
    patchstg_partition,
    patchstg_shape,
)


def places(nodes: int, seed: int = 0) -> np.ndarray:
    """``[N, 2]`` places in a 30 km square."""
    return np.random.default_rng(seed).uniform(0, 30_000, (nodes, 2))


def assert_balanced(partition: Partition, nodes: int, parts: int) -> None:
    """Every node has one genuine slot, sizes differ by at most one, and reading back gives what was laid out."""
    members = partition.parts()
    sizes = [len(part) for part in members]
    assert len(members) == partition.patches == parts
    assert sorted(np.concatenate(members)) == list(range(nodes))
    assert max(sizes) - min(sizes) <= 1
    assert partition.patch_size == math.ceil(nodes / parts)
    x = torch.arange(2 * nodes).view(nodes, 2)
    assert torch.equal(partition.scatter(partition.gather(x, 0), 0), x)
    assert int(partition.valid.sum()) == nodes


@settings(max_examples=60, deadline=None)
@given(nodes=st.integers(1, 60), share=st.floats(0, 1), grid=st.integers(1, 12), unplaced=st.floats(0, 0.9),
       seed=st.integers(0, 99))
def test_any_set_of_places_is_balanced(nodes: int, share: float, grid: int, unplaced: float, seed: int) -> None:
    """Also with places that coincide (few cells), places that are not known, and sizes that are no power of two."""
    rng = np.random.default_rng(seed)
    coordinates = rng.integers(0, grid, (nodes, 2)).astype(float)
    coordinates[rng.permutation(nodes)[: int(unplaced * nodes)], seed % 2] = np.nan
    parts = 1 + int(share * (nodes - 1))
    assert_balanced(kdtree(coordinates, parts), nodes, parts)
    assert_balanced(feature(coordinates[:, :1].repeat(3, 1) if nodes == 1 else rng.normal(size=(nodes, 5)), parts),
                    nodes, parts)


# -------------------------------------------------------------------- the leaves of the paper
def reference_leaves(members: list[int], coordinates: np.ndarray, depth: int, axis: int = 1) -> list[list[int]]:
    """The rule of the paper, word for word."""
    if depth == 0:
        return [sorted(members)]
    ranked = sorted(members, key=lambda node: (coordinates[node, axis], node))
    half = len(members) // 2
    return (reference_leaves(ranked[:half], coordinates, depth - 1, 1 - axis)
            + reference_leaves(ranked[half:], coordinates, depth - 1, 1 - axis))


@pytest.mark.parametrize(("nodes", "depth"), [(1, 0), (8, 3), (37, 4), (100, 6), (207, 7)])
@pytest.mark.parametrize("ties", [False, True])
def test_leaves_equal_the_rule_of_the_paper(nodes: int, depth: int, ties: bool) -> None:
    coordinates = np.floor(places(nodes) / 6_000) if ties else places(nodes)
    leaves = [leaf.tolist() for leaf in kdtree_leaves(coordinates, depth)]
    assert leaves == reference_leaves(list(range(nodes)), coordinates, depth)
    assert {len(leaf) for leaf in leaves} <= {nodes // 2**depth, math.ceil(nodes / 2**depth)}


def test_joined_leaves_are_the_leaves_of_the_smaller_tree() -> None:
    coordinates = places(100)
    small, deep = kdtree_leaves(coordinates, 2), kdtree_leaves(coordinates, 5)
    for number, leaf in enumerate(small):
        assert leaf.tolist() == sorted(np.concatenate(deep[8 * number : 8 * number + 8]).tolist())


@pytest.mark.parametrize(("nodes", "depth", "patches", "size"),
                         [(716, 9, 16, 64), (2352, 11, 16, 256), (3834, 11, 64, 64), (8600, 12, 512, 24)],
                         ids=["SD", "GBA", "GLA", "CA"])
def test_published_sizes(nodes: int, depth: int, patches: int, size: int) -> None:
    partition = patchstg_partition(places(nodes), depth, patches, padding="masked")
    assert (partition.patches, partition.patch_size, partition.num_nodes) == (patches, size, nodes)
    assert int(partition.valid.sum()) == nodes


def test_leaves_are_filled_with_the_most_similar_nodes_outside() -> None:
    """Against the rule with the whole matrix of similarities, walked entry by entry."""
    nodes, depth, size = 27, 2, 7
    rng = np.random.default_rng(3)
    coordinates, profile = places(nodes), rng.uniform(1, 5, (nodes, 12))
    unit = profile / np.linalg.norm(profile, axis=1, keepdims=True)
    cosine = unit @ unit.T
    similarity = np.exp((cosine - cosine.mean()) / cosine.std())
    partition = patchstg_partition(coordinates, depth, 2, profile)
    laid = partition.all_idx.view(4, size)
    filled = 0
    for leaf, slots in zip(kdtree_leaves(coordinates, depth), laid.tolist(), strict=True):
        block = similarity[leaf]
        block[:, leaf] = 0
        expected = leaf.tolist()
        for entry in np.argsort(-block.ravel(), kind="stable"):
            if len(expected) < size and entry % nodes not in expected:
                expected.append(int(entry % nodes))
                filled += 1
        assert slots == expected
    assert filled == 4 * size - nodes > 0
    assert partition.valid.all()
    x = torch.randn(nodes)
    assert torch.equal(partition.scatter(partition.gather(x, 0), 0), x)
    assert sorted(np.concatenate(partition.parts())) == list(range(nodes))


def test_sizes_left_open_are_chosen_from_the_number_of_nodes() -> None:
    assert patchstg_shape(716) == (9, 16)
    assert patchstg_shape(716, depth=4, patches=8) == (4, 8)
    assert patchstg_shape(1) == (0, 1)


# -------------------------------------------------------------------- the direct split
@pytest.mark.parametrize("parts", [1, 7, 16])
def test_another_order_of_the_nodes_gives_the_same_layout(parts: int) -> None:
    coordinates, profile = places(60), np.random.default_rng(1).normal(size=(60, 24))
    order = np.random.default_rng(2).permutation(60)
    for split, data in ((kdtree, coordinates), (feature, profile)):
        one, other = split(data, parts), split(data[order], parts)
        assert torch.equal(one.valid, other.valid)
        assert [part.tolist() for part in one.parts()] == [order[part].tolist() for part in other.parts()]


def test_a_slot_means_the_same_relative_place_in_each_patch() -> None:
    """On a lattice of 4 x 4 tiles of 4 x 4 points, patches are translations of one another, slot by slot."""
    lattice = np.stack(np.meshgrid(np.arange(16.0), np.arange(16.0)), -1).reshape(-1, 2)
    coordinates = lattice[np.random.default_rng(0).permutation(256)]
    laid = coordinates[kdtree(coordinates, 16).all_idx.view(16, 16).numpy()]
    offsets = laid - laid.min(1, keepdims=True)
    assert (offsets == offsets[0]).all()
    assert offsets.max() == 3


def test_sets_are_cut_across_their_longer_side() -> None:
    line = np.stack([np.zeros(40), np.random.default_rng(0).permutation(40) * 100.0], 1)  # a motorway
    for coordinates in (line, line[:, ::-1]):
        for part in kdtree(coordinates, 8).parts():
            assert np.ptp(coordinates[part], axis=0).max() == 400


def test_nodes_without_a_place_go_to_the_smallest_patches() -> None:
    coordinates = places(11)
    coordinates[[4, 9], [0, 1]] = np.nan
    placed = np.setdiff1d(np.arange(11), [4, 9])
    known, every = kdtree(coordinates[placed], 4).parts(), kdtree(coordinates, 4).parts()
    assert [set(part) - {4, 9} for part in every] == [set(placed[part]) for part in known]
    small = [number for number, part in enumerate(known) if len(part) == 2]
    assert [number for node in (4, 9) for number, part in enumerate(every) if node in part] == small[:2]


def test_more_patches_than_nodes_leaves_none_empty() -> None:
    with pytest.warns(UserWarning, match="5 patches asked for, 3 made"):
        partition = kdtree(places(3), 5)
    assert_balanced(partition, 3, 3)


def test_profiles_are_grouped_by_shape_not_by_level() -> None:
    clock = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rng = np.random.default_rng(0)
    morning = np.arange(20) % 2 == 0
    shape = np.where(morning[:, None], np.sin(clock), np.cos(clock))
    profile = rng.uniform(10, 1000, (20, 1)) + rng.uniform(1, 50, (20, 1)) * (shape + rng.normal(0, 0.1, (20, 24)))
    assert {frozenset(morning[part]) for part in feature(profile, 2).parts()} == {frozenset([True]), frozenset([False])}
    constant = feature(np.ones((6, 24)), 3)
    assert [part.tolist() for part in constant.parts()] == [[0, 1], [2, 3], [4, 5]]


# -------------------------------------------------------------------- the local frame
@pytest.mark.parametrize("centre", [(-118.3, 34.1), (144.9, -37.8), (180.0, -17.0)], ids=["LA", "Melbourne", "Fiji"])
def test_local_metres_keep_distances(centre: tuple[float, float]) -> None:
    lonlat = np.asarray(centre) + np.random.default_rng(0).uniform(-0.2, 0.2, (20, 2))
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180  # some west and some east of the date line
    metres = local_metres(lonlat)
    first, second = np.triu_indices(20, 1)
    true = Geod(ellps="WGS84").inv(*lonlat[first].T, *lonlat[second].T)[2]
    assert np.allclose(np.linalg.norm(metres[first] - metres[second], axis=1), true, rtol=0.01)
    east = local_metres(np.array([[0.0, 60.0], [1.0, 60.0], [0.5, np.nan]]))
    assert east[1, 0] > east[0, 0]
    assert np.isnan(east[2]).any()


# -------------------------------------------------------------------- what cannot be split
def test_what_cannot_be_split_is_named() -> None:
    hole = places(9)
    hole[3, 1] = np.nan
    cases = [
        (lambda: kdtree_leaves(hole, 2), "coordinates", "1 of 9 nodes", "padding=masked"),
        (lambda: kdtree_leaves(places(9), 4), "depth", "4", "at most 3"),
        (lambda: kdtree(np.full((4, 2), np.nan), 2), "coordinates", "4 nodes", "partition=feature"),
        (lambda: kdtree(places(4), 0), "parts", "0", "1 or more"),
        (lambda: feature(places(4), -1), "parts", "-1", "1 or more"),
        (lambda: patchstg_partition(places(9), 3, 3, padding="masked"), "patches", "3", "power of two up to 8"),
        (lambda: patchstg_partition(places(9), 2, 2), "profile", None, "padding=masked"),
    ]
    for call, field, value, remedy in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert (caught.value.field, caught.value.value) == (field, value)
        assert remedy in caught.value.remedy
