"""What does not fit is refused by name, with what was expected, before an operator touches memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stgraph import ops
from stgraph.errors import InputError
from stgraph.ops import Adjacency, shapes
from stgraph.ops.names import NAMESPACE

pytestmark = pytest.mark.usefixtures("kernels")

ROWPTR, COL = [0, 2, 2, 5], [1, 3, 0, 2, 2]
ROWS, COLUMNS, EDGES, HEADS, WIDTH = 3, 4, 5, 2, 6
INF, NAN = float("inf"), float("nan")


def ints(values: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def graph() -> Adjacency:
    return Adjacency(ints(ROWPTR), ints(COL), columns=COLUMNS)


def square() -> Adjacency:
    """The same edges between nodes of one type."""
    return Adjacency(ints([*ROWPTR, EDGES]), ints(COL), columns=COLUMNS)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def given(operator: str) -> dict[str, Any]:
    """Arguments of this operator that fit."""
    cells = {"v": ones(COLUMNS, HEADS, WIDTH)}
    return {
        "Adjacency": lambda: {"rowptr": ints(ROWPTR), "col": ints(COL), "edge": ints([4, 3, 2, 1, 0]),
                              "columns": COLUMNS},
        "Adjacency.of_edges": lambda: {"edge_index": torch.stack([ints(COL), ints([0, 0, 2, 2, 2])]),
                                       "sources": COLUMNS, "destinations": ROWS},
        "spmm": lambda: {"rowptr": ints(ROWPTR), "col": ints(COL), "x": ones(COLUMNS, WIDTH), "weight": ones(EDGES),
                         "addend": ones(ROWS, WIDTH)},
        "sddmm": lambda: {"adjacency": graph(), "a": ones(ROWS, WIDTH), "b": ones(COLUMNS, WIDTH)},
        "segment_reduce": lambda: {"ptr": ints(ROWPTR), "src": ones(5, WIDTH)},
        "gather_rows": lambda: {"x": ones(COLUMNS, WIDTH), "index": ints(COL)},
        "gat_aggregate": lambda: {"adjacency": graph(), "score_source": ones(COLUMNS, HEADS),
                                  "score_destination": ones(ROWS, HEADS), "score_edge": ones(EDGES, HEADS), **cells},
        "graph_attention": lambda: {"adjacency": graph(), "q": ones(ROWS, HEADS, WIDTH),
                                    "k": ones(COLUMNS, HEADS, WIDTH), "bias": ones(EDGES, HEADS), **cells},
        "diffusion_conv": lambda: {"forward": square(), "backward": square().transpose, "x": ones(COLUMNS, WIDTH),
                                   "weight": ones(5, WIDTH, 3), "bias": ones(3), "forward_weight": ones(EDGES),
                                   "backward_weight": ones(EDGES)},
        "typed_spmm": lambda: {"graph": ops.TypedAdjacency(graph(), ints([1, 0, 1, 1, 0]), 2),
                               "x": ones(COLUMNS, WIDTH), "weight": ones(3, WIDTH, 4), "coefficient": ones(2, 3),
                               "edge_weight": ones(EDGES)},
        "gru_gate": lambda: {name: ones(COLUMNS, WIDTH) for name in ("z_pre", "r_pre", "h")},
        "gru_blend": lambda: {name: ones(COLUMNS, WIDTH) for name in ("z", "h", "candidate_pre")},
    }[operator]()


OPERATORS = ("Adjacency", "Adjacency.of_edges", "spmm", "sddmm", "segment_reduce", "gather_rows", "gat_aggregate",
             "graph_attention", "diffusion_conv", "typed_spmm", "gru_gate", "gru_blend")
FEATURES = {"spmm": ("x", "weight", "addend"), "sddmm": ("a", "b"), "segment_reduce": ("src",), "gather_rows": ("x",),
            "gat_aggregate": ("score_source", "score_destination", "v", "score_edge"),
            "graph_attention": ("q", "k", "v", "bias"),
            "diffusion_conv": ("x", "weight", "forward_weight", "backward_weight", "bias"),
            "typed_spmm": ("x", "weight", "coefficient", "edge_weight"), "gru_gate": ("z_pre", "r_pre", "h"),
            "gru_blend": ("z", "h", "candidate_pre")}
INDICES = {"Adjacency": ("rowptr", "col", "edge"), "Adjacency.of_edges": ("edge_index",), "spmm": ("rowptr", "col"),
           "segment_reduce": ("ptr",), "gather_rows": ("index",)}
PLACES = [(operator, field) for operator, fields in FEATURES.items() for field in fields]
NUMBERS = [(operator, field) for operator, fields in INDICES.items() for field in fields]


class Untouched(TorchDispatchMode):
    """Fails where one of our operators runs."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.namespace != NAMESPACE, f"{function} ran"
        return function(*args, **(kwargs or {}))


def function_of(operator: str) -> Callable[..., Any]:
    owner: Any = ops
    for part in operator.split("."):
        owner = getattr(owner, part)
    return owner


def refused(operator: str, *fields: str, **change: Any) -> InputError:
    """The error that the change brings; it names one of the fields and says what to do."""
    with Untouched(), pytest.raises(InputError) as caught:
        function_of(operator)(**{**given(operator), **change})
    assert caught.value.field in fields, str(caught.value)
    assert caught.value.remedy
    assert caught.value.value is not None
    return caught.value


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_fits_is_taken(operator: str) -> None:
    function_of(operator)(**given(operator))
    if not operator.startswith("Adjacency"):  # the guard below sees operators
        with pytest.raises(AssertionError, match="ran"), Untouched():
            function_of(operator)(**given(operator))


# ---------------------------------------------------------------- features, weights and scores
@pytest.mark.parametrize(("operator", "field"), PLACES)
def test_another_type(operator: str, field: str) -> None:
    fits = given(operator)[field]
    for wrong in (torch.int64, torch.bool, torch.complex64):
        refused(operator, field, **{field: fits.to(wrong)})
    message = str(refused(operator, field, **{field: fits.tolist()}))
    assert "list" in message or field == "x"


@pytest.mark.parametrize(("operator", "field"), PLACES)
def test_types_that_do_not_go_together(operator: str, field: str) -> None:
    if len(FEATURES[operator]) > 1:  # whichever of the two is named, the one that came is told
        assert "torch.float" in str(refused(operator, *FEATURES[operator], **{field: given(operator)[field].double()}))


@pytest.mark.parametrize(("operator", "field"), PLACES)
def test_another_device(operator: str, field: str) -> None:
    error = refused(operator, *FEATURES[operator], *INDICES.get(operator, ()),
                    **{field: given(operator)[field].to("meta")})
    assert "meta" in str(error) or (error.field != field and "cpu" in str(error))


@pytest.mark.parametrize(("operator", "field"), PLACES)
def test_another_shape(operator: str, field: str) -> None:
    fits = given(operator)[field]
    if operator in ("diffusion_conv", "typed_spmm"):
        refused(operator, *FEATURES[operator], **{field: torch.cat([fits, fits], max(-2, -fits.dim()))})
        refused(operator, *FEATURES[operator], **{field: ones(1)})
        return
    nodes = 0 if operator in ("gat_aggregate", "graph_attention") else -2
    named = {*FEATURES[operator], *INDICES.get(operator, ()), "heads"}
    if field == "weight":
        refused(operator, "weight", weight=ones(EDGES + 1))
    elif operator != "gather_rows":
        refused(operator, *named, **{field: fits.narrow(nodes, 0, 1)})
        if (operator, field) != ("spmm", "x"):  # bare tensors do not say how many sources there are
            refused(operator, *named, **{field: torch.cat([fits, fits.narrow(nodes, 0, 1)], nodes)})
    refused(operator, *named, **{field: ones(1)})
    refused(operator, *named, **{field: torch.tensor(1.0)})
    if operator not in ("segment_reduce", "gather_rows") and field != "weight":
        if (operator, field) != ("gat_aggregate", "v"):  # values may be as wide as they like there
            refused(operator, *named, **{field: torch.cat([fits, fits], -1)})
        refused(operator, *named, **{field: fits[None].expand(3, *fits.shape)})


@pytest.mark.parametrize(("operator", "change"), [
    ("spmm", {"weight": ones(EDGES, 4)}), ("spmm", {"heads": 3, "weight": ones(EDGES, 2)}),
    ("sddmm", {"heads": 4}), ("sddmm", {"heads": 0}), ("sddmm", {"heads": -1}),
])
def test_heads_that_do_not_divide(operator: str, change: dict[str, Any]) -> None:
    refused(operator, "heads", **change)


@pytest.mark.parametrize(("operator", "field", "values"), [
    ("spmm", "reduce", ("median", "add", "")), ("segment_reduce", "reduce", ("min",)),
    ("spmm", "weight", (ones(EDGES, 7, 1, 1), ones(EDGES, 1, 7, 1))),
    ("gat_aggregate", "slope", (-0.1, NAN, INF)), ("graph_attention", "scale", (NAN, INF, -INF)),
    ("gat_aggregate", "dropout", (1.0, -0.1, NAN)), ("graph_attention", "dropout", (1.0, 2, NAN)),
    ("gat_aggregate", "adjacency", ((ints(ROWPTR), ints(COL)), ints(ROWPTR))),
    ("graph_attention", "adjacency", ((ints(ROWPTR), ints(COL)), ints(ROWPTR))),
    ("Adjacency", "columns", (-1,)), ("Adjacency.of_edges", "sources", (-1,)),
    ("Adjacency.of_edges", "destinations", (-2,)),
])
def test_numbers_and_words_out_of_bounds(operator: str, field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        refused(operator, field, **{field: value})


# ---------------------------------------------------------------- indices
@pytest.mark.parametrize(("operator", "field"), NUMBERS)
def test_indices_of_another_type(operator: str, field: str) -> None:
    fits = given(operator)[field]
    both = ("rowptr", "col", field)  # where two must agree, either may be named
    for wrong in (torch.float32, torch.int16, torch.uint8, torch.bool):
        refused(operator, *both, **{field: fits.to(wrong)})
    refused(operator, *both, **{field: fits.tolist()})
    if operator in ("Adjacency", "spmm"):
        refused(operator, *both, **{field: fits.int()})


@pytest.mark.parametrize(("operator", "field"), NUMBERS)
def test_indices_of_another_shape_or_device(operator: str, field: str) -> None:
    fits = given(operator)[field]
    both = ("rowptr", "col", field)
    refused(operator, *both, **{field: fits[None]})
    refused(operator, *both, **{field: torch.tensor(1)})
    if operator != "gather_rows":
        refused(operator, *both, **{field: fits[:-1]})
    if operator != "Adjacency.of_edges":  # edges alone may be anywhere
        assert "meta" in str(refused(operator, *both, **{field: fits.to("meta")}))


@pytest.mark.parametrize(("operator", "field"),
                         [("Adjacency", "rowptr"), ("spmm", "rowptr"), ("segment_reduce", "ptr")])
@pytest.mark.parametrize("wrong", [[0, 3, 2, 5], [0, 2, 2, 4], [0, 2, 2, 6], [1, 2, 2, 5], [-1, 2, 2, 5], [0, 9, 2, 5],
                                   [0, -1, 2, 5], []])
def test_row_pointers_that_fall_or_miss_the_ends(operator: str, field: str, wrong: list[int]) -> None:
    for dtype in (torch.int64,) if operator != "segment_reduce" else (torch.int64, torch.int32):
        refused(operator, field, **{field: ints(wrong, dtype)})


@pytest.mark.parametrize(("operator", "field"), [("Adjacency", "col"), ("spmm", "col"), ("gather_rows", "index")])
@pytest.mark.parametrize("wrong", [[1, 3, 0, 2, 4], [1, 3, -1, 2, 2], [2**40, 0, 0, 0, 0], [-2**63, 0, 0, 0, 0]])
def test_columns_out_of_range(operator: str, field: str, wrong: list[int]) -> None:
    message = str(refused(operator, field, **{field: ints(wrong)}))
    assert str(min(wrong)) in message
    assert str(max(wrong)) in message


def test_edges_out_of_range() -> None:
    for wrong in ([[0, 4], [0, 1]], [[0, -1], [0, 1]], [[0, 1], [0, 3]], [[0, 1], [0, -1]]):
        refused("Adjacency.of_edges", "edge_index", edge_index=torch.tensor(wrong))


def test_edge_positions_that_come_twice_or_never() -> None:
    for wrong in ([0, 1, 2, 3, 3], [0, 1, 2, 3, 5], [-1, 1, 2, 3, 4], [0, 1, 2, 3]):
        refused("Adjacency", "edge", edge=ints(wrong))


# ---------------------------------------------------------------- numbers that are not finite, edited graphs
@pytest.mark.parametrize("wrong", [INF, -INF, NAN])
def test_weights_that_are_not_finite(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = ones(EDGES)
    weight[3] = wrong
    message = str(refused("spmm", "weight", weight=weight))  # a single call on bare tensors looks at them
    assert "3" in message
    monkeypatch.setattr(shapes, "DEBUGGING", True)
    with Untouched(), pytest.raises(InputError) as caught:
        ops.spmm(graph(), ones(COLUMNS, WIDTH), weight=weight)
    assert caught.value.field == "weight"
    for operator, field in (("gat_aggregate", "score_edge"), ("graph_attention", "bias")):
        scores = ones(EDGES, HEADS)
        scores[3, 1] = wrong
        if wrong == -INF:  # takes an edge out
            function_of(operator)(**{**given(operator), field: scores})
        else:
            assert "3, 1" in str(refused(operator, field, **{field: scores}))


@pytest.mark.parametrize("operator", ["gat_aggregate", "graph_attention"])
@pytest.mark.parametrize("part", ["rowptr", "col", "edge"])
def test_a_graph_that_was_edited_is_seen_when_debugging(operator: str, part: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "DEBUGGING", True)
    made = Adjacency(ints(ROWPTR), ints(COL), ints([4, 3, 2, 1, 0]), columns=COLUMNS)
    made.check()
    getattr(made, part)[1] = 77
    refused(operator, part, adjacency=made)
    with pytest.raises(InputError):
        made.check()
