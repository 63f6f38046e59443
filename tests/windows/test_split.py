"""The split: parts follow each other, windows lie inside their part."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.windows import PARTS, Split


@given(st.integers(200, 5000), st.integers(1, 9), st.integers(1, 9), st.integers(50, 80), st.integers(5, 20))
def test_parts_cover_every_row_once_and_no_window_crosses(length: int, history: int, horizon: int, train: int,
                                                           validation: int) -> None:
    fractions = (train / 100, validation / 100, (100 - train - validation) / 100)
    try:
        split = Split(length, fractions, history, horizon)
    except InputError:
        assert min(fractions) * length < history + horizon + 2
        return
    edges = [split.rows(part) for part in PARTS]
    assert edges[0][0] == 0
    assert edges[-1][1] == length
    assert all(left[1] == right[0] for left, right in pairwise(edges))
    for part in PARTS:
        (start, stop), (first, last) = split.rows(part), split.origins(part)
        inside = [o for o in range(length + 1) if o - history >= start and o + horizon <= stop]
        assert list(range(first, last)) == inside


def test_the_default_is_70_10_20() -> None:
    split = Split(1000)
    assert [split.rows(part) for part in PARTS] == [(0, 700), (700, 800), (800, 1000)]
    assert split.origins("validation") == (712, 789)
    assert split.to_dict() == {"fractions": [0.7, 0.1, 0.2], "train": [0, 700], "validation": [700, 800],
                               "test": [800, 1000]}


def test_a_part_without_a_share_holds_no_window() -> None:
    split = Split(100, (0.0, 0.0, 1.0), 5, 5)
    first, last = split.origins("train")
    assert first == last


@pytest.mark.parametrize(("options", "field", "words"), [
    ({"length": 100}, "split", "validation part is too short for one window of 12 \\+ 12 steps"),
    ({"length": 1000, "fractions": (0.7, 0.1, 0.1)}, "split", "sum to 1"),
    ({"length": 1000, "fractions": (0.7, 0.5, -0.2)}, "split", "sum to 1"),
    ({"length": 1000, "history": 0}, "history, horizon", "at least one step"),
])
def test_what_cannot_be_split_is_refused(options: dict, field: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Split(**options)
    assert caught.value.field == field


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match="use one of train, validation, test") as caught:
        Split(1000).rows("holdout")
    assert caught.value.value == "holdout"
