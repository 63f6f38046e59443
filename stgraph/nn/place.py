"""What a place is like, without a table of nodes: codes that any network can be given.

:func:`place_features` reads them off a graph, :class:`PlaceCode` makes a vector of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.graph.time import DAY
from stgraph.partition import local_metres
from stgraph.windows import City, Context

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PARTS = ("walk", "laplacian", "degree", "metres", "patch", "profile")
_ENTRIES = 4_000_000  # of sparse rows that are held at a time
_DENSE = 1024         # components up to so many nodes are solved densely, which takes equal eigenvalues apart reliably
_KEPT = 8             # versions of the features of a graph


def place_features(source: City | DynamicHeteroGraph, node_type: str | None = None, *, walk_steps: int = 16,
                   vectors: int = 8, harmonics: int = 4, patches: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What a graph tells of its nodes; only what it has, each ``[N, items, numbers]`` float32, NaN where unknown.

    ========= ======================================================================================== ==============
    walk      probability that a random walk is back after 1 .. K steps, along the edges of each    ``[N, R, 2 K]``
              relation, then the same along them in either direction
    laplacian entries of the Laplacian's first eigenvectors with their eigenvalues                     ``[N, V, 2]``
    degree    logarithm of one plus the number of nodes that send, and that are sent to, per relation  ``[N, R, 2]``
    metres    kilometres east and north of the middle of the network, ``asinh`` of them                ``[N, 1, 2]``
    patch     the same from the middle of the node's patch                                             ``[N, 1, 2]``
    profile   of a city: level, scale and daily shape on the fitted rows, per channel                  ``[N, C, F]``
    ========= ======================================================================================== ==============

    All of it follows the nodes when they are numbered anew (eigenvectors up to their sign). Edges count whenever they
    live; parallel edges count once, by their mean weight; loops do not count. Kept with the graph until its edges or
    places change, so the arrays are shared: do not write to them.

    **The profile** is that of :class:`~stgraph.windows.Context`, which reads the fitted rows and no others. It is one
    descriptor for the whole span, so in training a row's own day is part of it (a few smooth numbers of all days);
    the profile of a single row, which leaves that day out, is ``Context.profile``.

    Args:
        source: A city, or a graph (which has no profile).
        node_type: Whose places; None for those that the city forecasts, in a graph for ``sensor``.
        walk_steps: Steps ``K`` of the random walk, see :func:`return_probabilities` for the cost.
        vectors: Eigenvectors ``V``, see :func:`laplacian_vectors` for the cost and what is done with equal eigenvalues.
        harmonics: Sines and cosines of the daily shape; ``F = 4 + 2 * harmonics``.
        patches: ``[N]`` the patch of each node, for the part ``patch``.

    Raises:
        InputError: where the graph has no such nodes, a weight is negative or not finite, or patches do not fit.
    """
    graph = source.graph if isinstance(source, City) else source
    kind = node_type or (source.node_type if isinstance(source, City) else "sensor")
    nodes = graph.size_of(kind)
    relations = [_adjacency(graph, one) for one in graph.edge_types if one[0] == one[2] == kind]
    relations = [one for one in relations if one.nnz]
    places = _metres(graph, kind)
    if patches is not None and np.shape(patches) != (nodes,):
        raise InputError("there is one patch per node", field="patches", value=np.shape(patches),
                         remedy=f"give the patch of each of the {nodes} nodes")
    arrays = [part for one in relations for part in (one.indptr, one.indices, one.data)]
    key = (kind, walk_steps, vectors, _digest(*arrays, places, patches))
    kept = graph.__dict__.setdefault("_place_features", {})  # goes with the graph, by what it was made from
    if key not in kept:
        if len(kept) == _KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = _of_graph(relations, places, patches, walk_steps, vectors)
    found = dict(kept[key])
    if isinstance(source, City) and kind == source.node_type:
        held = vars(source.context).setdefault("place_profiles", {})  # goes when other rows are fitted
        if harmonics not in held:
            held[harmonics] = profile_statistics(source.context, harmonics)
        found["profile"] = held[harmonics]
    return found


def _of_graph(relations: list[csr_array], places: np.ndarray | None, patches: np.ndarray | None, walk_steps: int,
              vectors: int) -> dict[str, np.ndarray]:
    found = {}
    if relations:
        found["walk"] = np.stack([_walks(one, walk_steps) for one in relations], 1)
        found["laplacian"] = laplacian_vectors(_union(relations), vectors)
        degrees = [np.stack([np.diff(one.tocsc().indptr), np.diff(one.indptr)], 1) for one in relations]
        found["degree"] = np.log1p(np.stack(degrees, 1))
    if places is not None:
        found["metres"] = np.arcsinh(places / 1000)[:, None]
        if patches is not None:
            _, patch = np.unique(patches, return_inverse=True)
            known = np.isfinite(places).all(1)
            middle = np.stack([np.bincount(patch[known], axis[known], patch.max() + 1) for axis in places.T], 1) \
                / np.maximum(np.bincount(patch[known], minlength=patch.max() + 1), 1)[:, None]
            found["patch"] = np.arcsinh((places - middle[patch]) / 1000)[:, None]
    return {name: values.astype(np.float32) for name, values in found.items()}


# -------------------------------------------------------------------- from edges
def _walks(adjacency: csr_array, steps: int) -> np.ndarray:
    """Return probabilities along the edges and in either direction, ``[N, 2 K]``: one-way streets never lead back."""
    along, either = return_probabilities(adjacency, steps), adjacency + adjacency.T
    symmetric = abs(adjacency - adjacency.T).max() == 0
    return np.concatenate([along, along if symmetric else return_probabilities(either, steps)], 1)


def return_probabilities(adjacency: csr_array, steps: int) -> np.ndarray:
    r"""Probability that a random walk from each node is back after ``1 .. K`` steps: the diagonals of ``P^k``, exact.

    A walk of ``k = a + b`` steps is cut in the middle, :math:`(P^{a+b})_{ii} = \sum_j (P^a)_{ij} (P^b)_{ji}`, so only
    the nodes within ``K / 2`` hops of ``i`` (on the way there, and on the way back) are touched. Time is
    ``O(N * ball * degree * K)`` with ``ball`` the nodes within ``K / 2`` hops, at most ``N``; in road and sensor
    networks it is some hundreds. Memory is bounded: nodes are taken in groups that are halved while they hold more than
    four million entries (100 MB), which one node alone never does below four million nodes within its reach. A node
    that nothing leaves never returns.

    V. Dwivedi et al.: Graph Neural Networks with Learnable Structural and Positional Representations, ICLR 2022.

    Args:
        adjacency: ``[N, N]``, row ``i`` holds the weights with which ``i`` sends, none negative.
        steps: ``K``.

    Returns:
        ``[N, K]`` float64.
    """
    from scipy import sparse

    total = np.asarray(adjacency.sum(1), dtype=np.float64)
    inverse = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
    there = sparse.csr_array(sparse.diags_array(inverse) @ adjacency)
    back = sparse.csr_array(there.T)
    out = np.empty((adjacency.shape[0], steps))
    groups = [np.arange(first, min(first + 4096, len(out))) for first in range(0, len(out), 4096)]
    while groups:
        nodes = groups.pop()
        found = _returns(there, back, nodes, steps)
        if found is None:
            groups += np.array_split(nodes, 2)
        else:
            out[nodes] = found
    return out


def _returns(there: csr_array, back: csr_array, nodes: np.ndarray, steps: int) -> np.ndarray | None:
    """Return probabilities of some nodes, ``[n, K]``; None where that takes too many entries at a time."""
    from scipy import sparse

    start = (np.ones(len(nodes)), nodes, np.arange(len(nodes) + 1))
    forward = backward = sparse.csr_array(start, shape=(len(nodes), there.shape[0]))
    out = np.empty((len(nodes), steps))
    for step in range(steps):
        if step % 2 == 0:
            forward = forward @ there
        else:
            backward = backward @ back
        if forward.nnz + backward.nnz > _ENTRIES and len(nodes) > 1:
            return None
        out[:, step] = forward.multiply(backward).sum(1)
    return out


def laplacian_vectors(adjacency: csr_array, vectors: int) -> np.ndarray:
    r"""The first eigenvectors of the symmetric Laplacian :math:`I - D^{-1/2} A D^{-1/2}`, with their eigenvalues.

    **Disconnected networks.** Each connected component has eigenvectors of its own: column ``j`` is the ``j``-th one of
    the component that the node is in, after the trivial one. Nothing then hangs on the arbitrary basis of the null
    space, and a component's code does not change when another one is added. Components with fewer nodes leave NaN.

    **Equal eigenvalues** (rings, grids, stars) leave the basis of their space arbitrary, which no treatment of signs
    mends. Such a group gives one column, the length of each node's part in the space, :math:`\sqrt{\sum_j v_{ij}^2}`,
    which is the same in every basis; its other columns are NaN, as is a group that the last column cuts. Eigenvalues
    count as equal within a millionth of their size. The Lanczos method for large components may, rarely, find one
    vector too few of such a group. Signs stay arbitrary and are the encoder's work.

    Vectors have a mean square of 1 over their component. Components up to 1,024 nodes are solved densely; beyond that
    Lanczos runs on the sparse matrix, ``O(E V)`` per round; where it does not settle within 50 rounds (long, road-like
    networks with small gaps) it runs on the factorised matrix, which for such networks takes about ``O(N log N)``
    memory. Always the same start, so always the same answer.

    Args:
        adjacency: ``[N, N]`` symmetric, without loops, no weight negative.
        vectors: ``V``.

    Returns:
        ``[N, V, 2]`` float64: entry and eigenvalue.
    """
    from scipy.sparse.csgraph import connected_components

    out = np.full((adjacency.shape[0], vectors, 2), np.nan)
    _, label = connected_components(adjacency, directed=False)
    order = np.argsort(label, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        if len(members) < 2 or not vectors:
            continue
        values, basis = _lowest(adjacency[members][:, members], min(len(members), vectors + 2))
        values, basis = values[1:], basis[:, 1:] * np.sqrt(len(members))
        columns = _without_basis(values, basis, complete=len(members) <= vectors + 2)[:, :vectors]
        out[members, : columns.shape[1], 0] = columns
        out[members, : columns.shape[1], 1] = np.where(np.isnan(columns), np.nan, values[:vectors])
    return out


def _without_basis(values: np.ndarray, basis: np.ndarray, complete: bool) -> np.ndarray:
    """Columns in which a group of equal eigenvalues gives its length; a last group that may go on gives nothing."""
    apart = np.diff(values) > 1e-6 * values[1:] + 1e-12
    group = np.concatenate([[0], np.cumsum(apart)]).astype(np.int64)
    size = np.bincount(group)
    first = np.searchsorted(group, np.arange(len(size)))
    columns = np.where(size[group] == 1, basis, np.nan)
    length = np.sqrt(np.add.reduceat(basis**2, first, axis=1))
    columns[:, first[size > 1]] = length[:, size > 1]
    if not complete and size[-1] > 1:
        columns[:, group == len(size) - 1] = np.nan
    return columns


def _lowest(adjacency: csr_array, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``wanted`` lowest eigenvalues of the Laplacian of a connected component, rising, and their vectors."""
    from scipy import sparse
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    nodes = adjacency.shape[0]
    root = sparse.diags_array(1 / np.sqrt(adjacency.sum(1)))
    smooth = root @ adjacency @ root                                  # its eigenvalues are 1 less the Laplacian's
    if nodes <= _DENSE:
        values, basis = eigh(smooth.toarray(), subset_by_index=[nodes - wanted, nodes - 1])
        return 1 - values[::-1], basis[:, ::-1]
    start = np.random.default_rng(0).standard_normal(nodes)
    try:
        values, basis = eigsh(smooth, wanted, which="LA", v0=start, ncv=max(40, 3 * wanted), maxiter=50, tol=1e-12)
        values = 1 - values
    except ArpackNoConvergence:
        laplacian = sparse.csc_array(sparse.eye_array(nodes) - smooth)
        values, basis = eigsh(laplacian, wanted, sigma=-1e-6, which="LM", v0=start)
    order = np.argsort(values)
    return values[order], basis[:, order]


def _adjacency(graph: DynamicHeteroGraph, relation: tuple[str, str, str]) -> csr_array:
    """Weights ``[N, N]`` of a relation, row ``i`` what ``i`` sends; no loops, parallel edges by their mean."""
    from scipy import sparse

    store, nodes = graph[relation], graph.size_of(relation[0])
    source, target = store.edge_index.cpu().numpy()
    weight = store.edge_weight.cpu().numpy().astype(np.float64) if "edge_weight" in store else np.ones(len(source))
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise InputError("a weight of an edge is negative or not finite", field=f"{relation[1]}.edge_weight",
                         value=weight[~(weight >= 0)][0] if not (weight >= 0).all() else weight.max(),
                         remedy="a random walk needs weights of at least 0")
    real = (source != target) & (weight > 0)
    where = (source[real], target[real])
    shape = (nodes, nodes)
    total, count = (sparse.csr_array(sparse.coo_array((one, where), shape=shape))
                    for one in (weight[real], np.ones(real.sum())))
    total.data /= count.data
    return total


def _union(relations: list[csr_array]) -> csr_array:
    """All relations as one without direction, each in units of its own mean weight."""
    return sum((one + one.T) / one.data.mean() for one in relations).tocsr()


def _metres(graph: DynamicHeteroGraph, kind: str) -> np.ndarray | None:
    """Metres east and north of the middle of the network, ``[N, 2]``; None where no place is known."""
    store = graph[kind]
    if "lonlat" in store:
        places = local_metres(store.lonlat.cpu().numpy())
    elif "pos" in store:
        places = store.pos.cpu().numpy().astype(np.float64)
    else:
        return None
    known = np.isfinite(places).all(1)
    return np.where(known[:, None], places - places[known].mean(0), np.nan) if known.any() else None


def _digest(*parts: np.ndarray | None) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


# -------------------------------------------------------------------- from readings
def profile_statistics(context: Context, harmonics: int) -> np.ndarray:
    """How each node and channel usually behaves, without units: ``[N, C, 4 + 2 * harmonics]`` float32.

    Level among the city's readings (in deviations), logarithms of its scale over the city's deviation and of its spread
    about the profile over its scale, the share of rows that was observed, then sines and cosines of the day's shape (in
    scales about the level). The shape is read on the clock, at the middle of each slot, so the interval hardly matters.
    A node without any reading is NaN.
    """
    level, scale = context.level, context.scale
    step = context.time.step
    slot = int(context.time.calendar(np.arange(1))[0][0])
    begin = int(context.time.local(context.time.times(np.arange(1)))[0]) % DAY - slot * step
    angle = (begin + (np.arange(context.slots) + 0.5) * step) * (2 * np.pi / DAY)
    shape = (context.day_profile() - level) / scale                                    # [slots, N, C]
    waves = np.stack([wave(k * angle) for k in range(1, harmonics + 1) for wave in (np.sin, np.cos)], 1)
    waves = waves.reshape(context.slots, 2 * harmonics) * (2 / context.slots)
    numbers = np.stack([(level - context.mean) / context.deviation, np.log(scale / context.deviation),
                        np.log(context.spread / scale), context.count / (context.stop - context.start)], -1)
    found = np.concatenate([numbers, np.einsum("snc,sk->nck", shape, waves)], -1)
    return np.where(context.count[..., None] > 0, found, np.nan).astype(np.float32)


class PlaceCode(nn.Module):
    r"""A vector for each node from what is known of its place; the same weights for any network.

    .. math:: c_i = \sum_{p} \begin{cases} \rho_p\big(\operatorname{mean}_{m} \phi_p(x_{pim})\big) & \text{known} \\
              \alpha_p & \text{not known} \end{cases}

    over the parts ``p`` of :func:`place_features` and the items ``m`` of a part: relations, channels, eigenvectors.
    Items share an encoder and are averaged, so other numbers of relations, channels or vectors need no other weights. A
    part that the features lack, or that is NaN for a node, costs nothing and is answered by a learned vector.

    An eigenvector is only known up to its sign. ``signs="invariant"`` encodes :math:`\phi(v) + \phi(-v)`, which is
    exactly the same for both (D. Lim et al.: Sign and Basis Invariant Networks, ICLR 2023) but forgets on which side a
    node lies. ``"flip"`` encodes ``v`` and turns the sign of each vector at random in training, which teaches the model
    not to lean on it; in evaluation the sign is the solver's. Basis changes are met by :func:`laplacian_vectors`.

    Args:
        width: Width ``D``.
        parts: Which parts to read.
        walk_steps: Steps of the random walk in the features.
        harmonics: Harmonics of the daily shape in the features.
        hidden: Width of the encoders; None for ``D``.
        signs: ``invariant`` or ``flip``.

    Shapes:
        features as of :func:`place_features`, arrays or tensors -> ``[N, D]``.

    Raises:
        InputError: for a part or a treatment of signs that does not exist, or features of another size.
    """

    def __init__(self, width: int, parts: tuple[str, ...] = PARTS, *, walk_steps: int = 16, harmonics: int = 4,
                 hidden: int | None = None, signs: Literal["invariant", "flip"] = "invariant") -> None:
        super().__init__()
        for field, chosen, known in (("parts", parts, PARTS), ("signs", (signs,), ("invariant", "flip"))):
            if bad := [one for one in chosen if one not in known]:
                raise InputError("unknown choice", field=field, value=bad[0], remedy=f"use {', '.join(known)}")
        hidden = width if hidden is None else hidden
        sizes = {"walk": 2 * walk_steps, "profile": 4 + 2 * harmonics}  # the others are pairs
        self.width, self.signs, self.sizes = width, signs, {part: sizes.get(part, 2) for part in parts}
        self.item = nn.ModuleDict({part: nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
                                   for part, size in self.sizes.items()})
        self.whole = nn.ModuleDict({part: nn.Sequential(nn.SiLU(), nn.Linear(hidden, width)) for part in parts})
        self.absent = nn.ParameterDict({part: torch.zeros(width) for part in parts})

    def forward(self, features: Mapping[str, np.ndarray | Tensor], nodes: int) -> Tensor:
        """The code of each of ``nodes`` nodes, ``[N, D]``."""
        like = next(self.parameters())
        code = like.new_zeros(nodes, self.width)
        for part, size in self.sizes.items():
            if part not in features:
                code = code + self.absent[part]
                continue
            x = torch.as_tensor(features[part]).to(like)                                # [N, items, size]
            if x.dim() != 3 or (x.shape[0], x.shape[2]) != (nodes, size):
                raise InputError("the features are not those that the code reads", field=part, value=list(x.shape),
                                 remedy=f"give [{nodes}, items, {size}]")
            known = x.isfinite().all(-1, keepdim=True)                                  # [N, items, 1]
            encoded = torch.where(known, self._encode(part, torch.where(known, x, 0)), 0)
            mean = encoded.sum(1) / known.sum(1).clamp(min=1)
            code = code + torch.where(known.any(1), self.whole[part](mean), self.absent[part])
        return code

    def _encode(self, part: str, x: Tensor) -> Tensor:
        """Each item ``[N, items, size]`` -> ``[N, items, hidden]``."""
        if part != "laplacian":
            return self.item[part](x)
        turned = x * x.new_tensor([-1, 1])                                              # the eigenvalue stays
        if self.signs == "invariant":
            return self.item[part](x) + self.item[part](turned)
        if self.training:
            x = torch.where(torch.rand(x.shape[1], 1, device=x.device) < 0.5, x, turned)
        return self.item[part](x)
