"""Edge rules on five stations by hand, and the laws that hold for any stations."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.sources.edges import EdgeRule, make_edges
from stgraph.sources.pairs import (
    Pairs,
    geodesic,
    list_pairs,
    matrix_pairs,
    nearest_pairs,
    pairs_within,
    read_adjacency,
    read_edges,
)

IDS = ["a", "b", "c", "d", "e"]
EQUATOR = np.array([[0, 0], [0.01, 0], [0.02, 0], [0.05, 0], [0.06, 0]], float)  # longitude, latitude
UNIT = 6_378_137 * np.pi / 180 * 0.01  # m of 0.01 degrees along the equator of WGS 84
NOWHERE = np.full((5, 2), np.nan)
LIST = pd.DataFrame({"from": list("abcda"), "to": list("bcdea"), "distance_m": [100.0, 200.0, 300.0, 400.0, 0.0]})


def edge_set(edges) -> set[tuple[str, str]]:
    return {(IDS[i], IDS[j]) for i, j in edges.index.T}


def weights(edges) -> dict[tuple[str, str], float]:
    return {(IDS[i], IDS[j]): float(weight) for (i, j), weight in zip(edges.index.T, edges.weight, strict=True)}


# -------------------------------------------------------------------- five stations by hand
def test_nearest_neighbours_by_hand():
    """From each sensor's nearest to it; b has two at the same distance, and takes the first by name."""
    edges = make_edges(EdgeRule("knn", neighbours=1), EQUATOR, IDS)
    assert edge_set(edges) == {("b", "a"), ("a", "b"), ("b", "c"), ("e", "d"), ("d", "e")}
    np.testing.assert_allclose(edges.distance, [UNIT] * 5, rtol=1e-6)
    assert (edges.weight == 1).all()
    two = make_edges(EdgeRule("knn", neighbours=2), EQUATOR, IDS)
    assert edge_set(two) == {("b", "a"), ("c", "a"), ("a", "b"), ("c", "b"), ("b", "c"), ("a", "c"), ("e", "d"),
                             ("c", "d"), ("d", "e"), ("c", "e")}


def test_all_within_a_radius_by_hand():
    edges = make_edges(EdgeRule("distance", radius=2.5 * UNIT), EQUATOR, IDS)
    assert edge_set(edges) == {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"), ("a", "c"), ("c", "a"), ("d", "e"),
                               ("e", "d")}
    listed = make_edges(EdgeRule("distance", radius=200), NOWHERE, IDS, list_pairs(LIST, IDS))
    assert weights(listed) == {("a", "b"): 1, ("b", "c"): 1}


def test_gaussian_kernel_of_a_list_by_hand():
    """sigma is the standard deviation of 0, 100, 200, 300, 400: 141.42 m, so the weights are exp(-0.5), exp(-2) ..."""
    edges = make_edges(EdgeRule("auto"), EQUATOR, IDS, list_pairs(LIST, IDS))
    assert edges.rule == "gaussian"
    assert edges.sigma == pytest.approx(np.sqrt(20_000))
    assert weights(edges) == pytest.approx({("a", "b"): np.exp(-0.5), ("b", "c"): np.exp(-2)})
    assert edges.distance.tolist() == [100, 200]
    assert edges.loops == 1
    lower = make_edges(EdgeRule("gaussian", threshold=0.01), EQUATOR, IDS, list_pairs(LIST, IDS))
    assert weights(lower)["c", "d"] == pytest.approx(np.exp(-4.5))
    wide = make_edges(EdgeRule("gaussian", sigma=1000, radius=300), EQUATOR, IDS, list_pairs(LIST, IDS))
    assert weights(wide) == pytest.approx({("a", "b"): np.exp(-0.01), ("b", "c"): np.exp(-0.04),
                                           ("c", "d"): np.exp(-0.09)})


def test_gaussian_kernel_of_places_by_hand():
    multiples = np.array([1, 2, 5, 6, 1, 4, 5, 3, 4, 1])  # of UNIT: all ten pairs
    edges = make_edges(EdgeRule("gaussian"), EQUATOR, IDS)
    assert edges.sigma == pytest.approx(multiples.std() * UNIT, rel=1e-6)
    expected = {("a", "b"): 1, ("b", "c"): 1, ("d", "e"): 1, ("a", "c"): 2}
    kept = {pair: np.exp(-(number / multiples.std()) ** 2) for pair, number in expected.items()}
    kept |= {(end, start): weight for (start, end), weight in kept.items()}
    assert weights(edges) == pytest.approx({pair: weight for pair, weight in kept.items() if weight >= 0.1}, rel=1e-5)
    assert len(edges.weight) == 8


def test_a_given_matrix_by_hand():
    """Entry [i, j] is the edge i -> j."""
    matrix = np.zeros((5, 5), np.float32)
    matrix[0, 1], matrix[3, 2], matrix[4, 4] = 0.5, 2, 1
    edges = make_edges(EdgeRule("auto"), EQUATOR, IDS, matrix_pairs(matrix, IDS, IDS, False))
    assert (edges.rule, edges.loops, edges.distance) == ("given", 1, None)
    assert weights(edges) == {("a", "b"): 0.5, ("d", "c"): 2}


def test_a_matrix_of_distances_by_hand():
    matrix = np.full((5, 5), np.inf)
    np.fill_diagonal(matrix, 0)
    matrix[0, 1], matrix[1, 2], matrix[2, 3], matrix[3, 4] = 100, 200, 300, 400
    pairs = matrix_pairs(matrix, IDS, IDS, True)
    for rule in ("gaussian", "knn"):
        one, other = (make_edges(EdgeRule(rule, sigma=150, neighbours=1), NOWHERE, IDS, given)
                      for given in (pairs, list_pairs(LIST, IDS)))
        assert weights(one) == weights(other)
        assert len(one.weight) > 1


def test_the_automatic_rule():
    assert make_edges(EdgeRule(), EQUATOR, IDS).rule == "knn"
    assert make_edges(EdgeRule(), NOWHERE, IDS).rule == "none"
    assert make_edges(EdgeRule(), NOWHERE, IDS).index.shape == (2, 0)
    weighted = LIST.assign(weight=0.25)
    both = make_edges(EdgeRule(), EQUATOR, IDS, list_pairs(weighted, IDS))
    assert both.rule == "given"
    assert both.distance.tolist() == [100, 200, 300, 400]
    assert set(both.weight) == {0.25}
    assert set(make_edges(EdgeRule(), EQUATOR, IDS, list_pairs(LIST[["from", "to"]], IDS)).weight) == {1}


# -------------------------------------------------------------------- laws
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 30), neighbours=st.integers(1, 9), grid=st.booleans(),
       centre=st.sampled_from([(0, 0), (179.99, -37), (-118, 34), (12, 89.9)]))
def test_the_order_of_the_sensors_does_not_matter_and_neighbours_are_the_nearest(seed, count, neighbours, grid, centre):
    random = np.random.default_rng(seed)
    offset = random.integers(0, 4, (count, 2)) / 100 if grid else random.normal(0, 0.05, (count, 2))  # grid: many ties
    lonlat = np.array(centre) + offset
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180
    lonlat[:, 1] = np.clip(lonlat[:, 1], -90, 90)
    lonlat[random.random(count) < 0.1] = np.nan
    ids = [f"s{i}" for i in random.permutation(count)]
    order = random.permutation(count)
    one = nearest_pairs(lonlat, ids, neighbours)
    other = nearest_pairs(lonlat[order], [ids[i] for i in order], neighbours)
    assert set(zip(one.source, one.target, strict=True)) == set(zip(order[other.source], order[other.target],
                                                                    strict=True))
    known = np.flatnonzero(~np.isnan(lonlat).any(1))
    for target in known:
        others = known[known != target]
        everything = np.sort(geodesic(lonlat[others], np.repeat(lonlat[[target]], len(others), axis=0)))
        found = np.sort(one.distance[one.target == target])
        np.testing.assert_allclose(found, everything[:neighbours], atol=2e-3)


def test_neighbours_across_the_date_line_are_neighbours():
    lonlat = np.array([[179.99, 10], [-179.99, 10], [179.0, 10], [-179.0, 10], [0, 10]])
    edges = make_edges(EdgeRule("knn", neighbours=1), lonlat, IDS)
    assert {("a", "b"), ("b", "a")} <= edge_set(edges)
    assert edges.distance.min() == pytest.approx(2193, rel=0.01)
    within = make_edges(EdgeRule("distance", radius=5000), lonlat, IDS)
    assert edge_set(within) == {("a", "b"), ("b", "a")}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), radius=st.floats(100, 20_000))
def test_pairs_within_a_radius_are_those_of_all_pairs(seed, radius):
    lonlat = np.array([-118, 34]) + np.random.default_rng(seed).normal(0, 0.05, (25, 2))
    every, near = pairs_within(lonlat, None), pairs_within(lonlat, radius)
    kept = every.distance <= radius
    assert set(zip(near.source, near.target, strict=True)) == set(zip(every.source[kept], every.target[kept],
                                                                      strict=True))


def test_the_published_graph_of_pems_bay_comes_out_of_its_distances(shared_data):
    """DCRNN's own adjacency of 325 stations: the same edges with the same weights."""
    folder = shared_data / "sensor_graphs"
    with np.load(folder / "pems_bay_adj.npz", allow_pickle=False) as archive:
        published, ids = archive["adj"], [str(name) for name in archive["sensor_id"]]
    listed = read_edges(folder / "pems_bay_distances.csv.gz", ids)
    edges = make_edges(EdgeRule(), np.full((325, 2), np.nan), ids, listed)
    made = np.zeros_like(published)
    made[edges.index[0], edges.index[1]] = edges.weight
    np.fill_diagonal(published, 0)
    np.testing.assert_allclose(made, published, atol=2e-6)
    assert len(edges.weight) == 2694 - 325


# -------------------------------------------------------------------- files
def test_edge_lists_by_any_usual_names(tmp_path):
    for number, words in enumerate((["source", "target", "cost_m"], ["src", "dst", "Cost"], ["From", "To", "dist"])):
        path = tmp_path / f"{number}.csv"
        LIST.set_axis(words, axis=1).to_csv(path, index=False)
        assert read_edges(path, IDS).distance.tolist() == [100, 200, 300, 400, 0]
    LIST.assign(distance_m=LIST["distance_m"] / 1000).rename(columns={"distance_m": "distance_km"}).to_parquet(
        tmp_path / "a.parquet")
    np.testing.assert_allclose(read_edges(tmp_path / "a.parquet", IDS).distance, [100, 200, 300, 400, 0])
    LIST.rename(columns={"distance_m": "distance"}).to_csv(tmp_path / "a.csv", index=False)
    np.testing.assert_allclose(read_edges(tmp_path / "a.csv", IDS, "mile").distance[0], 160_934.4)


def test_names_of_no_sensor_are_reported(tmp_path):
    LIST.to_csv(tmp_path / "a.csv", index=False)
    pairs = read_edges(tmp_path / "a.csv", ["a", "b", "zz"])
    assert pairs.unused == ("c", "d", "e")
    assert list(zip(pairs.source, pairs.target, strict=True)) == [(0, 1), (0, 0)]


@pytest.mark.parametrize(("change", "problem", "field", "value"), [
    ({"distance_m": [1, 2, -3, 4, 5]}, "in row 3 is negative", "distance_m", "-3"),
    ({"distance_m": [1, np.nan, 3, 4, 5]}, "in row 2 is negative or not a finite number", "distance_m", "nan"),
    ({"distance_m": [1, 2, "far", 4, 5]}, "not a number in row 3", "distance_m", "far"),
    ({"from": list("abcdb"), "to": list("bcdec")}, "1 edges are given twice with different values", "edges", "b -> c"),
    ({"from": list("vwxyz")}, "no edge joins two sensors", "edges", "sensors a, b, c")])
def test_faulty_edge_lists(tmp_path, change, problem, field, value):
    LIST.assign(**change).to_csv(tmp_path / "edges.csv", index=False)
    with pytest.raises(InputError, match=problem) as error:
        read_edges(tmp_path / "edges.csv", IDS)
    assert error.value.file.endswith("edges.csv")
    assert error.value.field == field
    assert value in error.value.value
    assert error.value.remedy


def test_an_edge_list_without_ends(tmp_path):
    LIST.rename(columns={"to": "there"}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match="no column 'to'") as error:
        read_edges(tmp_path / "a.csv", IDS)
    assert error.value.value == "from, there, distance_m"


def test_matrices_in_every_form_are_the_same(tmp_path):
    matrix = np.arange(25, dtype=float).reshape(5, 5) % 7
    np.savez(tmp_path / "a.npz", adj=matrix)
    np.save(tmp_path / "a.npy", matrix)
    np.savetxt(tmp_path / "plain.csv", matrix, delimiter=",")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes()))
    np.savetxt(tmp_path / "distinct.csv", np.arange(25).reshape(5, 5), delimiter=",")
    pd.DataFrame(matrix, columns=IDS).to_csv(tmp_path / "header.csv", index=False)
    pd.DataFrame(matrix, IDS, IDS).to_csv(tmp_path / "both.csv")
    pd.DataFrame(matrix).to_csv(tmp_path / "counted.csv")
    order = [3, 1, 4, 0, 2]
    turned = [IDS[i] for i in order]
    pd.DataFrame(matrix, IDS, IDS).loc[turned, turned].to_csv(tmp_path / "turned.csv")
    np.savez(tmp_path / "turned.npz", adj=matrix[np.ix_(order, order)], names=np.array(turned))
    for name in ("a.npz", "a.npy", "plain.csv", "a.csv.gz", "header.csv", "both.csv", "counted.csv", "turned.csv",
                 "turned.npz"):
        found = read_adjacency(tmp_path / name, None, "names", IDS)
        made = np.zeros((5, 5))
        made[found.source, found.target] = found.weight
        assert np.array_equal(made, matrix), name
    assert read_adjacency(tmp_path / "distinct.csv", None, None, IDS).weight.tolist() == list(range(1, 25))


def test_a_matrix_with_names_may_be_of_more_or_fewer_sensors(tmp_path):
    np.savez(tmp_path / "a.npz", adj=np.arange(9).reshape(3, 3), names=np.array(["c", "x", "a"]))
    found = read_adjacency(tmp_path / "a.npz", "adj", "names", IDS)
    assert found.unused == ("x",)
    assert {(IDS[i], IDS[j]): w for i, j, w in zip(found.source, found.target, found.weight, strict=True)} == {
        ("c", "a"): 2, ("a", "c"): 6, ("a", "a"): 8}


@pytest.mark.parametrize(("matrix", "problem", "value"), [
    (np.ones((4, 4)), "wrong size", "4 x 4"), (np.ones((5, 4)), "wrong size", "5 x 4"),
    (np.diag([1, 1, -1, 1, 1.0]), "1 entries of the adjacency are negative", "-1.0 in row 2, column 2"),
    (np.diag([1, 1, 1, np.nan, np.nan]), "2 entries of the adjacency are negative or not finite", "nan in row 3"),
    (np.diag([np.inf, 1, 1, 1, 1]), "1 entries", "inf in row 0, column 0")])
def test_faulty_matrices(tmp_path, matrix, problem, value):
    np.savez(tmp_path / "adj.npz", adj=matrix)
    with pytest.raises(InputError, match=problem) as error:
        read_adjacency(tmp_path / "adj.npz", "adj", None, IDS)
    assert error.value.file.endswith("adj.npz")
    assert error.value.field == "adj"
    assert value in error.value.value
    assert error.value.remedy


def test_a_pickled_adjacency_is_refused_and_the_way_out_is_said(tmp_path):
    (tmp_path / "adj_mx.pkl").write_bytes(b"\x80\x02]q\x00.")
    with pytest.raises(InputError, match="pickle is not read") as error:
        read_adjacency(tmp_path / "adj_mx.pkl", None, None, IDS)
    assert "numpy.savez" in error.value.remedy
    assert "--adjacency-key" in error.value.remedy


# -------------------------------------------------------------------- rules that cannot be
@pytest.mark.parametrize(("rule", "places", "given_pairs", "problem", "field"), [
    (EdgeRule("given"), EQUATOR, None, "needs an adjacency or an edge list", "edge_rule"),
    (EdgeRule("knn"), NOWHERE, None, "needs places or distances", "edge_rule"),
    (EdgeRule("gaussian"), NOWHERE, None, "needs places or distances", "edge_rule"),
    (EdgeRule("distance"), EQUATOR, None, "needs a radius", "radius"),
    (EdgeRule("knn"), EQUATOR, Pairs(np.array([0]), np.array([1]), weight=np.ones(1)), "needs distances", "edge_rule"),
    (EdgeRule("gaussian"), NOWHERE, Pairs(np.array([0]), np.array([1]), np.ones(1)), "all equal", "sigma")])
def test_a_rule_that_lacks_something(rule, places, given_pairs, problem, field):
    with pytest.raises(InputError, match=problem) as error:
        make_edges(rule, places, IDS, given_pairs)
    assert error.value.field == field
    assert error.value.remedy


@pytest.mark.parametrize(("field", "value"), [("name", "near"), ("neighbours", 0), ("radius", -1.0),
                                              ("threshold", 0.0), ("threshold", 1.0), ("sigma", 0.0)])
def test_a_rule_out_of_range(field, value):
    with pytest.raises(InputError, match="out of range") as error:
        EdgeRule(**{field: value})
    assert error.value.value == str(value)


def test_very_many_pairs_are_refused():
    lonlat = np.random.default_rng(0).normal(0, 1, (2001, 2))
    with pytest.raises(InputError, match="every pair of 2001 sensors") as error:
        make_edges(EdgeRule("gaussian"), lonlat, [str(i) for i in range(2001)])
    assert error.value.field == "radius"
