"""The layout of nodes in slots: nothing is lost, nothing is answered twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stgraph.partition import Partition


def test_gather_then_scatter_gives_back_every_node_in_order() -> None:
    partition = Partition.from_slots(np.array([[3, 0, -1], [2, 4, 1]]))
    x = torch.randn(2, 5, 3)
    laid = partition.gather(x, 1)
    assert laid.shape == (2, 6, 3)
    assert torch.equal(laid[:, [0, 1, 3, 4, 5]], x[:, [3, 0, 2, 4, 1]])
    assert torch.equal(partition.scatter(laid, 1), x)
    assert torch.equal(partition.scatter(partition.gather(x.transpose(1, 2), 2), -1), x.transpose(1, 2))


def test_what_copies_and_empty_slots_hold_never_comes_back() -> None:
    nodes = np.array([[0, 1, 2], [2, 3, -1]])
    genuine = np.array([[True, True, False], [True, True, False]])  # node 2 is at home in the second patch
    partition = Partition.from_slots(nodes, genuine)
    x = torch.randn(4)
    laid = partition.gather(x, 0)
    assert laid[2] == x[2]
    laid[[2, 5]] = float("nan")
    assert torch.equal(partition.scatter(laid, 0), x)
    assert partition.valid.tolist() == [True] * 5 + [False]
    assert [part.tolist() for part in partition.parts()] == [[0, 1], [2, 3]]


def test_gradients_reach_each_node_once() -> None:
    partition = Partition.from_slots(np.array([[1, 0, 2], [2, 3, 0]]),
                                     np.array([[True, True, False], [True, True, False]]))
    x = torch.randn(4, requires_grad=True)
    partition.scatter(partition.gather(x, 0), 0).sum().backward()
    assert torch.equal(x.grad, torch.ones(4))


@pytest.mark.parametrize("nodes", [[[0, 1], [1, 2]], [[0, 1], [3, -1]]], ids=["answered twice", "forgotten"])
def test_a_node_that_is_answered_twice_or_not_at_all_is_refused(nodes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="exactly one genuine slot"):
        Partition.from_slots(np.array(nodes))


def test_sizes_follow_the_table() -> None:
    partition = Partition.from_slots(np.array([[3, 0, -1], [2, 4, 1]]))
    assert (partition.patches, partition.patch_size, partition.num_nodes) == (2, 3, 5)
    moved = partition.to("meta")
    assert {array.device.type for array in (moved.all_idx, moved.slot_of_real, moved.node_of_real, moved.valid)} == {
        "meta"}
