"""Balanced patches of a network: which nodes are looked at together."""

from stgraph.partition.kdtree import feature, kdtree, kdtree_leaves, local_metres, patchstg_partition, patchstg_shape
from stgraph.partition.partition import Partition

__all__ = ["Partition", "feature", "kdtree", "kdtree_leaves", "local_metres", "patchstg_partition", "patchstg_shape"]
