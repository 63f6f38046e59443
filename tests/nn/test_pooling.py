"""Pooling and unpooling over patches: sums keep the mass, means keep what is equal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from stgraph.errors import InputError
from stgraph.nn.pooling import PatchPool, PatchUnpool, patch_of_node
from stgraph.partition import Partition, kdtree, local_metres, patchstg_partition

B, S, N, D = 2, 3, 11, 4
KINDS = ["empty slots", "copies", "empty patch", "another order"]


def partitions() -> list[Partition]:
    """With empty slots, with copies, with an empty patch, with its nodes told in another order."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(N, 2))
    table = np.array([[3, 1, 0, 2], [-1, -1, -1, -1], [10, 9, -1, 8], [4, 7, 6, 5]])
    plain = kdtree(places, 3)
    turned = Partition(plain.all_idx, plain.slot_of_real.flip(0), plain.node_of_real.flip(0), plain.valid, 3)
    return [plain, patchstg_partition(places, 3, 4, rng.random((N, 5))), Partition.from_slots(table), turned]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("partition", partitions(), ids=KINDS)
def test_pools_equal_a_loop_over_patches(partition: Partition) -> None:
    h, score = torch.randn(B, S, N, D), PatchPool("attention", D)
    patch = patch_of_node(partition)
    for number, nodes in enumerate(partition.parts()):
        assert (patch[nodes] == number).all()
        x = h[:, :, nodes]
        share = score.score(x).softmax(2)
        for pool, wanted in ((PatchPool("sum"), x.sum(2)), (score, (share * x).sum(2)),
                             (PatchPool("mean"), x.sum(2) / max(len(nodes), 1))):
            torch.testing.assert_close(pool(h, partition)[:, :, number], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("partition", partitions(), ids=KINDS)
def test_sums_shared_out_keep_the_mass(partition: Partition) -> None:
    h = torch.randn(B, S, N, D).double()
    pool, share = PatchPool("sum"), PatchUnpool("share")
    coarse = pool(h, partition)
    torch.testing.assert_close(coarse.sum(2), h.sum(2))
    for size in (None, torch.rand(N), torch.rand(B, S, N, D), torch.zeros(N)):
        fine = share(coarse, partition, size)
        torch.testing.assert_close(fine.sum(2), h.sum(2))
        torch.testing.assert_close(pool(fine, partition), coarse)  # every patch for itself
    counts = torch.rand(B, S, N, D).double()
    torch.testing.assert_close(share(pool(counts, partition), partition, counts), counts)


@pytest.mark.parametrize("how", ["mean", "attention"])
def test_copies_of_equal_nodes_come_back(how) -> None:
    for partition in partitions()[:2]:
        z = torch.randn(B, S, partition.patches, D)
        fine = PatchUnpool("copy")(z, partition)
        torch.testing.assert_close(PatchPool(how, D)(fine, partition), z, rtol=1e-5, atol=1e-6)


def test_copies_and_empty_slots_count_for_nothing() -> None:
    partition = partitions()[0]
    other = Partition(torch.where(partition.valid, partition.all_idx, 5), partition.slot_of_real,
                      partition.node_of_real, partition.valid, partition.patches)
    h = torch.randn(B, S, N, D)
    for how in ("sum", "mean", "attention"):
        torch.manual_seed(1)
        pool = PatchPool(how, D)
        assert torch.equal(pool(h, partition), pool(h, other))


def test_gradients_reach_every_node_and_weight() -> None:
    pool, partition = PatchPool("attention", D).double(), partitions()[0]
    h = torch.randn(1, 2, N, D).double().requires_grad_()
    pool(h, partition).square().sum().backward()
    assert (h.grad.abs().sum(-1) > 0).all()
    assert all(p.grad.abs().sum() > 0 for p in pool.parameters())
    assert torch.autograd.gradcheck(
        lambda x, z, size: PatchUnpool("share")(z + pool(x, partition), partition, size),
        (h, torch.randn(1, 2, 3, D).double().requires_grad_(), torch.rand(N).double().requires_grad_()))


def test_a_district_has_the_sum_of_its_real_stations(shared_data) -> None:
    table = pd.read_csv(shared_data / "los_loop/sensors.csv")
    partition = kdtree(local_metres(table[["longitude", "latitude"]].to_numpy()), 10)
    speed = torch.from_numpy(np.load(shared_data / "los_loop/speed.npz")["speed_mph"][:24]).double()[None, :, :, None]
    coarse = PatchPool("sum")(speed, partition)
    assert coarse.shape == (1, 24, 10, 1)
    torch.testing.assert_close(PatchUnpool("share")(coarse, partition, speed), speed)
    torch.testing.assert_close(coarse.sum(), speed.sum())


@pytest.mark.parametrize(("call", "field"), [
    (lambda: PatchPool("max"), "how"),
    (lambda: PatchPool("attention"), "how"),
    (lambda: PatchUnpool("split"), "how"),
    (lambda: PatchUnpool()(torch.ones(1, 1, 7, 2), partitions()[0]), "partition"),
    (lambda: PatchPool()(torch.ones(1, 1, 7, 2), partitions()[0]), "partition"),
])
def test_bad_input_is_refused_by_name(call, field: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    assert raised.value.field == field
