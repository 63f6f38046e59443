"""One result of all ways to cut a network into patches of equal size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Partition:
    """Nodes laid out in ``R`` patches of ``S`` slots each, ``M = R * S``.

    A slot is genuine (its node is answered from here), a read-only copy of a node that lives elsewhere, or empty.

    Args:
        all_idx: ``[M]`` int64, the node in each slot, patch after patch; 0 in an empty slot.
        slot_of_real: ``[N]`` int64, the genuine slots.
        node_of_real: ``[N]`` int64, the nodes in them.
        valid: ``[M]`` bool, False in empty slots: nobody may look there.
        patches: Number of patches ``R``.
    """

    all_idx: Tensor
    slot_of_real: Tensor
    node_of_real: Tensor
    valid: Tensor
    patches: int

    @classmethod
    def from_slots(cls, nodes: np.ndarray, genuine: np.ndarray | None = None) -> Partition:
        """A partition from a table of slots.

        Args:
            nodes: ``[R, S]`` int, the node in each slot, -1 in an empty one.
            genuine: ``[R, S]`` bool, False where a node is a copy; None where there are no copies.

        Raises:
            ValueError: unless the nodes ``0 .. N - 1`` have exactly one genuine slot each.
        """
        valid = nodes >= 0
        slots = np.flatnonzero(valid if genuine is None else genuine & valid)
        slots = slots[np.argsort(nodes.ravel()[slots], kind="stable")]
        real = nodes.ravel()[slots]
        if not np.array_equal(real, np.arange(nodes.max(initial=-1) + 1)):
            raise ValueError("every node must have exactly one genuine slot")
        return cls(torch.from_numpy(np.where(valid, nodes, 0).ravel().astype(np.int64)), torch.from_numpy(slots),
                   torch.from_numpy(real.astype(np.int64)), torch.from_numpy(valid.ravel()), len(nodes))

    @property
    def patch_size(self) -> int:
        """Slots ``S`` of a patch."""
        return self.all_idx.numel() // self.patches

    @property
    def num_nodes(self) -> int:
        """Number of nodes ``N``."""
        return self.node_of_real.numel()

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """Lay nodes out in slots: axis ``dim`` goes from ``N`` to ``M``."""
        return x.index_select(dim, self.all_idx)

    def scatter(self, x: Tensor, dim: int) -> Tensor:
        """Read the genuine slots back in the order of the nodes: axis ``dim`` goes from ``M`` to ``N``."""
        real = x.index_select(dim, self.slot_of_real)
        return torch.empty_like(real).index_copy(dim, self.node_of_real, real)

    def parts(self) -> list[np.ndarray]:
        """The nodes whose genuine slot lies in each patch, ``R`` int64 arrays in slot order."""
        slots, order = torch.sort(self.slot_of_real)
        nodes = self.node_of_real[order].cpu().numpy()
        ends = torch.searchsorted(slots, self.patch_size * torch.arange(1, self.patches, device=slots.device))
        return np.split(nodes, ends.cpu().numpy())

    def to(self, device: torch.device | str) -> Partition:
        """The partition on another device."""
        return replace(self, all_idx=self.all_idx.to(device), slot_of_real=self.slot_of_real.to(device),
                       node_of_real=self.node_of_real.to(device), valid=self.valid.to(device))
