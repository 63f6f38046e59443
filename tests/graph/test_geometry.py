"""Shapes: our bytes are shapely's bytes, and choosing nodes chooses shapes."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import Geometry

LINES = st.lists(st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=2, max_size=5), max_size=6)


def ragged(lines: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in lines])]).astype(np.int64)
    return ptr, np.array([point for line in lines for point in line], np.float64).reshape(-1, 2)


@given(LINES)
def test_lines_are_written_as_shapely_writes_them(lines: list[list[tuple[float, float]]]) -> None:
    ours = Geometry.from_lines(*ragged(lines))
    theirs = shapely.to_wkb([shapely.LineString(line) for line in lines], byte_order=1)
    assert ours.wkb.to_pylist() == list(theirs)


@given(LINES)
def test_lines_come_back(lines: list[list[tuple[float, float]]]) -> None:
    ptr, xy = ragged(lines)
    back = Geometry.from_lines(ptr, xy).coordinates()
    np.testing.assert_array_equal(back[0], ptr)
    np.testing.assert_array_equal(back[1], xy)


@given(LINES, st.randoms())
def test_chosen_lines_are_the_lines_of_the_chosen(lines: list[list[tuple[float, float]]], chance: object) -> None:
    index = [chance.randrange(len(lines)) for _ in range(4)] if lines else []  # type: ignore[attr-defined]
    ptr, xy = Geometry.from_lines(*ragged(lines))[np.array(index, int)].coordinates()
    expected = ragged([lines[i] for i in index])
    np.testing.assert_array_equal(ptr, expected[0])
    np.testing.assert_array_equal(xy, expected[1])


def test_points_and_slices() -> None:
    points = Geometry.from_points(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert [shape.wkt for shape in points[1:].shapely()] == ["POINT (3 4)", "POINT (5 6)"]
    assert points[np.array([True, False, True])].shape == (2,)
    assert points.kinds() == {"Point"}


def test_what_is_not_a_line_is_refused() -> None:
    with pytest.raises(InputError, match="not a line"):
        Geometry.from_shapely([shapely.LineString([(0, 0), (1, 1)]), shapely.Point(0, 0)]).coordinates()
