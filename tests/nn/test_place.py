"""Codes of places: equal to dense algebra, the same however nodes are numbered and signs fall."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.nn import PlaceCode, place_features
from stgraph.nn import place as place_module
from stgraph.nn.place import laplacian_vectors, profile_statistics, return_probabilities
from stgraph.windows import City


def random_graph(nodes: int = 12, edges: int = 40, seed: int = 0) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, nodes, (2, edges))
    index = index[:, index[0] != index[1]]
    dense = np.zeros((nodes, nodes))
    dense[index[0], index[1]] = rng.uniform(0.1, 2, index.shape[1])
    return sparse.csr_array(dense)


def symmetric(nodes: int = 12, edges: int = 40, seed: int = 0) -> sparse.csr_array:
    one = random_graph(nodes, edges, seed)
    return sparse.csr_array(one + one.T)


def ring(nodes: int) -> sparse.csr_array:
    dense = np.roll(np.eye(nodes), 1, 1)
    return sparse.csr_array(dense + dense.T)


def city_of(adjacency: sparse.csr_array, order: np.ndarray | None = None, channels: int = 1, days: int = 8,
            step: int = 3600) -> City:
    """A city with the edges of a matrix; ``order`` names which node comes where."""
    nodes = adjacency.shape[0]
    rng = np.random.default_rng(5)
    lonlat, level, phase = rng.uniform(0, 0.1, (nodes, 2)), rng.uniform(5, 9, (nodes, 1)), rng.uniform(0, 6, (nodes, 1))
    order = np.arange(nodes) if order is None else order
    hour = np.arange(24 * days)[:, None, None]
    values = level + np.sin(hour * np.pi / 12 + phase) + 0.1 * rng.normal(size=(24 * days, nodes, channels))
    values = values.repeat(3600 // step, 0)[:, order].astype(np.float32)
    entries = sparse.coo_array(adjacency[order][:, order])
    graph = DynamicHeteroGraph(time=TimeAxis(0, step, len(values)))
    graph["sensor"].node_id = np.array([f"s{i}" for i in order])
    graph["sensor"].lonlat = torch.from_numpy(lonlat[order])
    graph["sensor", "near", "sensor"].edge_index = torch.from_numpy(np.stack(entries.coords).astype(np.int64))
    graph["sensor", "near", "sensor"].edge_weight = torch.from_numpy(entries.data).float()
    graph.add_signal("sensor", "readings", Signal(values, None, [Channel(f"c{i}") for i in range(channels)]))
    return City(graph, history=6, horizon=3)


# -------------------------------------------------------------------- random walks
@pytest.mark.parametrize("entries", [10**6, 60], ids=["at once", "in small groups"])
def test_return_probabilities_are_the_diagonals_of_powers(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_module, "_ENTRIES", entries)
    dense = random_graph().toarray()
    dense[3] = 0  # nothing leaves node 3
    move = dense / np.where(dense.sum(1, keepdims=True) > 0, dense.sum(1, keepdims=True), 1)
    found, power = return_probabilities(sparse.csr_array(dense), 9), np.eye(12)
    for step in range(9):
        power = power @ move
        np.testing.assert_allclose(found[:, step], np.diag(power), atol=1e-12)
    assert (found[3] == 0).all()


def test_return_probabilities_by_hand() -> None:
    line = sparse.csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0.0]]))
    np.testing.assert_allclose(return_probabilities(line, 4), [[0, 0.5, 0, 0.5], [0, 1, 0, 1], [0, 0.5, 0, 0.5]])
    arrow = sparse.csr_array(np.array([[0, 1.0], [0, 0]]))
    assert (return_probabilities(arrow, 4) == 0).all()


def test_a_long_road_takes_memory_for_its_balls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 nodes in a ring: a walk of 8 steps touches 9 of them each way, not 20,000."""
    most = 0
    inner = place_module._returns

    def watched(*arguments: Any) -> np.ndarray | None:
        nonlocal most
        most = max(most, len(arguments[2]))
        return inner(*arguments)

    monkeypatch.setattr(place_module, "_returns", watched)
    monkeypatch.setattr(place_module, "_ENTRIES", 4096 * 10)
    nodes = np.arange(20_000)
    sides = np.tile(nodes, 2), np.concatenate([nodes + 1, nodes - 1]) % 20_000
    found = return_probabilities(sparse.csr_array(sparse.coo_array((np.ones(40_000), sides))), 8)
    assert most == 4096  # no group had to be halved
    np.testing.assert_allclose(found, np.tile([0, 1 / 2, 0, 3 / 8, 0, 5 / 16, 0, 35 / 128], (20_000, 1)))


# -------------------------------------------------------------------- eigenvectors
def dense_laplacian(adjacency: sparse.csr_array) -> np.ndarray:
    dense = adjacency.toarray()
    root = 1 / np.sqrt(dense.sum(1))
    return np.eye(len(dense)) - root[:, None] * dense * root


def test_eigenvectors_are_those_of_the_laplacian() -> None:
    adjacency = symmetric()
    found, laplacian = laplacian_vectors(adjacency, 5), dense_laplacian(adjacency)
    expected = np.linalg.eigvalsh(laplacian)
    for column in range(5):
        vector, value = found[:, column, 0], found[0, column, 1]
        assert value == pytest.approx(expected[column + 1])
        np.testing.assert_allclose(laplacian @ vector, value * vector, atol=1e-10)
        assert (vector**2).mean() == pytest.approx(1)
    assert (found[:, :, 1] == found[:1, :, 1]).all()


@pytest.mark.parametrize("rounds", ["lanczos", "factorised"])
def test_the_sparse_solvers_find_what_the_dense_one_finds(rounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip of street blocks, 3 by 60, of uneven lengths: small gaps, none equal."""
    rng = np.random.default_rng(0)
    across, along = sparse.diags_array([1.0, 1], offsets=[1, -1], shape=(3, 3)), \
        sparse.diags_array([1.0, 1], offsets=[1, -1], shape=(60, 60))
    strip = sparse.coo_array(sparse.kron(sparse.eye_array(60), across) + sparse.kron(along, sparse.eye_array(3)))
    upper = strip.coords[0] < strip.coords[1]
    half = sparse.coo_array((rng.uniform(0.5, 2, upper.sum()), tuple(axis[upper] for axis in strip.coords)), (180, 180))
    adjacency = sparse.csr_array(half + half.T)
    dense = laplacian_vectors(adjacency, 6)
    monkeypatch.setattr(place_module, "_DENSE", 10)
    if rounds == "factorised":
        from scipy.sparse import linalg

        inner = linalg.eigsh

        def impatient(*arguments: Any, **options: Any) -> Any:
            if "sigma" not in options:
                raise linalg.ArpackNoConvergence("no", np.empty(0), np.empty((0, 0)))
            return inner(*arguments, **options)

        monkeypatch.setattr(linalg, "eigsh", impatient)
    found = laplacian_vectors(adjacency, 6)
    np.testing.assert_allclose(found[..., 1], dense[..., 1], rtol=1e-6)
    np.testing.assert_allclose(np.abs(found[..., 0]), np.abs(dense[..., 0]), atol=1e-5)


def test_each_component_has_vectors_of_its_own() -> None:
    first, second = symmetric(seed=1), symmetric(9, 30, seed=2)
    both = sparse.block_diag([first, sparse.csr_array((1, 1)), second, ring(2)], format="csr")
    found = laplacian_vectors(sparse.csr_array(both), 4)
    np.testing.assert_allclose(np.abs(found[:12]), np.abs(laplacian_vectors(first, 4)), atol=1e-9)
    np.testing.assert_allclose(np.abs(found[13:22]), np.abs(laplacian_vectors(second, 4)), atol=1e-9)
    assert np.isnan(found[12]).all()  # a lone node
    np.testing.assert_allclose(np.abs(found[22:, 0]), [[1, 2], [1, 2]])  # a pair has one vector: +1, -1
    assert np.isnan(found[22:, 1:]).all()


def test_equal_eigenvalues_give_what_does_not_hang_on_the_basis() -> None:
    found = laplacian_vectors(ring(10), 5)
    assert not np.isnan(found[:, [0, 2], 0]).any()
    np.testing.assert_allclose(found[:, [0, 2], 0], np.sqrt(2))  # sine and cosine of the same wave
    assert np.isnan(found[:, [1, 3, 4]]).all()                   # seconds of a pair, and a pair that is cut
    star = sparse.csr_array(np.pad(np.ones((1, 6)), ((0, 6), (1, 0))) + np.pad(np.ones((6, 1)), ((1, 0), (0, 6))))
    turned = laplacian_vectors(star, 7)
    order = np.array([0, 3, 1, 2, 6, 5, 4])
    np.testing.assert_allclose(np.abs(laplacian_vectors(sparse.csr_array(star[order][:, order]), 7)),
                               np.abs(turned[order]), atol=1e-9)
    assert np.isnan(turned[:, 1:5]).all()
    np.testing.assert_allclose(np.abs(turned[0, [0, 5]]), [[0, 1], [np.sqrt(3.5), 2]], atol=1e-9)


# -------------------------------------------------------------------- features of a graph
def test_features_follow_the_nodes() -> None:
    adjacency, order = random_graph(20, 60), np.random.default_rng(1).permutation(20)
    patches = np.arange(20) % 3
    straight = place_features(city_of(adjacency), patches=patches)
    moved = place_features(city_of(adjacency, order), patches=patches[order])
    assert set(straight) == {"walk", "laplacian", "degree", "metres", "patch", "profile"}
    for part, values in straight.items():
        wanted, found = values[order], moved[part]
        if part == "laplacian":
            wanted, found = np.abs(wanted), np.abs(found)
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=part)


def test_features_by_hand() -> None:
    graph = DynamicHeteroGraph()
    graph["sensor"].pos = torch.tensor([[0.0, 0], [2000, 0], [4000, 3000], [torch.nan, 0]])
    graph["sensor", "near", "sensor"].edge_index = torch.tensor([[0, 0, 1, 2], [1, 1, 2, 2]])  # twice, and a loop
    graph["sensor", "near", "sensor"].edge_weight = torch.tensor([1.0, 3, 2, 5])
    graph["sensor", "over", "sensor"].edge_index = torch.tensor([[3, 1], [0, 0]])
    graph["sensor", "silent", "sensor"].edge_index = torch.empty((2, 0), dtype=torch.long)
    found = place_features(graph, walk_steps=2, patches=np.array([7, 7, 9, 9]))
    assert "profile" not in found
    np.testing.assert_allclose(np.expm1(found["degree"][:, 0]), [[0, 1], [1, 1], [1, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.expm1(found["degree"][:, 1]), [[2, 0], [0, 1], [0, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(found["walk"][:, 0], [[0, 0, 0, 0.5], [0, 0, 0, 1], [0, 0, 0, 0.5], [0, 0, 0, 0]])
    np.testing.assert_allclose(np.sinh(found["metres"][:3, 0]), [[-2, -1], [0, -1], [2, 2]], atol=1e-5)
    np.testing.assert_allclose(np.sinh(found["patch"][:3, 0]), [[-1, 0], [1, 0], [0, 0]], atol=1e-5)
    assert np.isnan(found["metres"][3]).any()
    bare = DynamicHeteroGraph()
    bare["sensor"].num_nodes = 3
    assert place_features(bare) == {}


def test_features_are_kept_until_the_graph_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    city, calls = city_of(random_graph()), []
    inner = place_module._of_graph
    monkeypatch.setattr(place_module, "_of_graph", lambda *arguments: calls.append(1) or inner(*arguments))
    first = place_features(city)
    again = place_features(city)
    assert len(calls) == 1
    assert all(again[part] is first[part] for part in first)
    city.graph["sensor", "near", "sensor"].edge_weight[0] += 1
    assert not np.array_equal(place_features(city)["walk"], first["walk"])
    city.use_context(0, 48)
    assert not np.array_equal(place_features(city)["profile"], first["profile"])
    assert len(calls) == 2


def test_the_profile_reads_fitted_rows_only_and_hardly_the_interval() -> None:
    city = city_of(random_graph())
    expected = profile_statistics(city.context, 4)
    _, stop = city.split.rows("train")
    city.signal.values[stop:] = 1e6
    np.testing.assert_array_equal(profile_statistics(city_of_signal(city).context, 4), expected)
    fine = profile_statistics(city_of(random_graph(), step=900).context, 4)
    np.testing.assert_allclose(fine, expected, atol=0.02)
    level = city.context.signal.values[:stop, :, 0].mean(0)
    mean, deviation = city.context.mean[0], city.context.deviation[0]
    np.testing.assert_allclose(expected[:, 0, 0], (level - mean) / deviation, rtol=1e-3, atol=1e-4)


def city_of_signal(city: City) -> City:
    """The same graph and signal, fitted anew."""
    return City(city.graph, history=6, horizon=3)


def test_a_wave_is_found_in_the_profile() -> None:
    """sin(t + p) has the harmonics cos(p), sin(p) over its scale of 1 / sqrt(2), a little less by the hour's mean."""
    city = city_of(random_graph())
    phase = np.random.default_rng(5)
    phase.uniform(0, 0.1, (12, 2))
    phase.uniform(5, 9, (12, 1))
    shift = phase.uniform(0, 6, (12, 1)) - np.pi / 24  # a reading is that of the hour's beginning
    found = profile_statistics(city.context, 2)[:, 0, 4:]
    expected = np.sqrt(2) * np.concatenate([np.cos(shift), np.sin(shift), 0 * shift, 0 * shift], 1)
    np.testing.assert_allclose(found, expected, atol=0.08)


def test_what_no_walk_can_have_is_refused() -> None:
    city = city_of(random_graph())
    with pytest.raises(InputError, match="patches"):
        place_features(city, patches=np.zeros(5))
    city.graph["sensor", "near", "sensor"].edge_weight[0] = -1
    with pytest.raises(InputError, match="edge_weight"):
        place_features(city)


# -------------------------------------------------------------------- the code
def test_the_code_does_not_hear_signs() -> None:
    torch.manual_seed(0)
    features = place_features(city_of(random_graph()))
    code = PlaceCode(16)
    found = code(features, 12)
    flipped = dict(features, laplacian=features["laplacian"] * np.array([[-1, 1]] * 4 + [[1, 1]] * 4, np.float32))
    torch.testing.assert_close(code(flipped, 12), found)
    turning = PlaceCode(16, signs="flip")
    assert torch.equal(turning.eval()(features, 12), turning(features, 12))
    assert not torch.allclose(turning(flipped, 12), turning(features, 12))
    answers = [turning.train()(features, 12) for _ in range(8)]
    assert any(not torch.allclose(answers[0], one) for one in answers[1:])


def test_a_part_that_is_missing_is_answered_by_what_was_learned() -> None:
    torch.manual_seed(0)
    features = place_features(city_of(random_graph()))
    code = PlaceCode(16, ("walk", "degree", "metres", "profile"))
    torch.nn.init.normal_(code.absent["metres"])
    without = code({part: values for part, values in features.items() if part != "metres"}, 12)
    features = dict(features, metres=features["metres"].copy())
    features["metres"][4] = np.nan
    found = code(features, 12)
    torch.testing.assert_close(found[4], without[4])
    assert not torch.allclose(found[5], without[5])
    assert torch.equal(code({}, 12), sum(code.absent.values()).expand(12, -1))
    assert "laplacian" not in code.item


def test_the_same_weights_read_any_city() -> None:
    code = PlaceCode(16)
    for nodes, channels in ((12, 1), (30, 2)):
        city = city_of(random_graph(nodes, 4 * nodes), channels=channels)
        city.graph["sensor", "over", "sensor"].edge_index = torch.tensor([[0], [nodes - 1]])
        assert code(place_features(city), nodes).shape == (nodes, 16)


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    features = place_features(city_of(random_graph()), patches=np.arange(12) % 2)
    code = PlaceCode(16)
    (code(features, 12).square().sum() + code({}, 12).sum()).backward()
    for name, one in code.named_parameters():
        assert one.grad.abs().sum() > 0, name


def test_codes_of_another_size_are_refused() -> None:
    features = place_features(city_of(random_graph()), walk_steps=4)
    with pytest.raises(InputError, match="walk"):
        PlaceCode(16)(features, 12)
    with pytest.raises(InputError, match="parts"):
        PlaceCode(16, ("walks",))
    with pytest.raises(InputError, match="signs"):
        PlaceCode(16, signs="both")  # type: ignore[arg-type]


def test_a_real_bus_network(shared_data: Path) -> None:
    """675 stops, directed lines, several components: walks equal dense powers, vectors solve each component."""
    with gzip.open(shared_data / "montevideo_bus" / "montevideo_bus.json.gz") as file:
        read = json.load(file)
    row = {node["bus_stop"]: i for i, node in enumerate(read["nodes"])}
    links = np.array([[row[link["source"]], row[link["target"]]] for link in read["links"]]).T
    graph = DynamicHeteroGraph()
    graph["stop"].pos = torch.tensor([[node["lon"], node["lat"]] for node in read["nodes"]], dtype=torch.float64)
    graph["stop", "next", "stop"].edge_index = torch.from_numpy(links)
    found = place_features(graph, "stop")
    dense = np.zeros((675, 675))
    dense[links[0], links[1]] = 1
    np.fill_diagonal(dense, 0)
    both = dense + dense.T
    for walk, edges in ((found["walk"][:, 0, :16], dense), (found["walk"][:, 0, 16:], both)):
        move = edges / np.maximum(edges.sum(1, keepdims=True), 1)
        power = np.eye(675)
        for step in range(16):
            power = power @ move
            np.testing.assert_allclose(walk[:, step], np.diag(power), atol=1e-6)
    root = 1 / np.sqrt(np.maximum(both.sum(1), 1e-9))
    laplacian = np.eye(675) - root[:, None] * both * root
    vector, value = np.nan_to_num(found["laplacian"].astype(np.float64).transpose(2, 0, 1))
    parts = sparse.csgraph.connected_components(sparse.csr_array(both))[1]
    alone = np.array([len(np.unique(value[parts == part, 0])) == 1 for part in range(parts.max() + 1)])
    assert alone.all()
    residual = laplacian @ vector - value * vector
    squares = np.stack([np.bincount(parts, column**2) for column in vector.T], 1)
    lengths = np.sqrt(squares / np.bincount(parts)[:, None])
    plain = (np.abs(lengths - 1) < 1e-3)[parts]  # of single vectors; of a group of equal ones the length is larger
    assert plain[:, 0].mean() > 0.9
    assert np.abs(residual[plain]).max() < 1e-4
    code = PlaceCode(16)(found, 675)
    assert code.isfinite().all()
