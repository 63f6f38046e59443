"""Masked attributes: what is hidden is never read, what is scored was hidden, and a rule is found."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toys import Toy, toy_city

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))  # joint_city.py
from joint_city import joint_city, joint_graph

from stgraph.errors import InputError
from stgraph.models.weave import Weave, WeaveConfig
from stgraph.nn.attributes import AttributeTokens, bucket
from stgraph.objectives import make_objective
from stgraph.objectives.attributes import MaskedAttributes
from stgraph.windows import City, Window

NEEDS = frozenset({"profile", "lags"})


class Fixed(nn.Module):
    """Tells the same whatever it is shown."""

    def __init__(self, told: Tensor) -> None:
        super().__init__()
        self.given = told

    def tell(self, window: Window, kind: str, name: str) -> Tensor:
        self.window = window
        return self.given


@pytest.fixture(scope="module")
def city() -> City:
    return joint_city()


@pytest.mark.parametrize("name", ["type", "weight"])
def test_the_loss_is_that_of_the_hidden_nodes(city: City, name: str) -> None:
    window = city.window([100, 150, 200], NEEDS)
    other = window.others["event"]
    shape = (*other.present.shape, 3) if name == "type" else other.present.shape
    model, objective = Fixed(torch.randn(shape)), MaskedAttributes("event", name, rate=0.5, seed=1)
    loss = objective(model, window)[f"event.{name}"]
    hidden = model.window.others["event"].hidden[name]
    count = int(other.present.sum())
    assert int(hidden.sum()) == max(1, round(0.5 * count))
    assert bool((other.present | ~hidden).all())
    rows = [(b, m) for b, m in hidden.nonzero().tolist()]
    layer, nodes = city.others["event"], other.nodes
    if name == "type":
        each = [functional.cross_entropy(model.given[b, m], layer.words["type"][0][nodes[b, m]]) for b, m in rows]
    else:
        each = [functional.huber_loss(model.given[b, m], layer.numbers["weight"][nodes[b, m]]) for b, m in rows]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert not window.others["event"].hidden  # the window itself is as it was


def test_a_seed_hides_the_same_and_none_hides_anew(city: City) -> None:
    other = city.window(list(range(100, 132)), NEEDS).others["event"]
    one, two = (MaskedAttributes("event", "type", seed=3).draw(other) for _ in range(2))
    assert torch.equal(one, two)
    objective = MaskedAttributes("event", "type")
    assert not torch.equal(objective.draw(other), objective.draw(other))


def test_what_is_unknown_is_never_asked_for(city: City) -> None:
    graph = joint_graph()
    graph["event"].weight[::2] = float("nan")
    window = joint_city(graph=graph).window([100, 150, 200], NEEDS)
    other = window.others["event"]
    hidden = MaskedAttributes("event", "weight", rate=1.0).draw(other)
    assert bool(hidden.any())
    assert not bool(hidden[other.nodes % 2 == 0].any())


def test_nothing_to_hide_gives_nothing(city: City) -> None:
    graph = joint_graph()
    graph["event"].time[:] = 10**9
    window = joint_city(graph=graph).window([100], NEEDS)
    assert float(MaskedAttributes("event", "type")(Fixed(torch.zeros(1, 0, 3)), window)["event.type"]) == 0


@pytest.mark.parametrize("name", ["type", "weight"])
def test_a_hidden_attribute_is_not_read(name: str) -> None:
    """Another word, or number, in its place: the same is told."""
    graph = joint_graph()
    values = graph["event"][name]
    values[:] = values.flip(0)
    one, two = joint_city(), joint_city(graph=graph)
    torch.manual_seed(0)
    model = Weave.for_city(one, WeaveConfig(width=16, layers=1, parts="graph,mlp")).eval()
    told = []
    for found in (one, two):
        window = found.window([220, 260], NEEDS)
        other = window.others["event"]
        shown = replace(other, hidden={name: other.present})
        with torch.no_grad():
            told.append(model.tell(replace(window, others={**window.others, "event": shown}), "event", name))
            open_ = model.tell(window, "event", name)
        assert not torch.allclose(told[-1], open_)
    torch.testing.assert_close(told[0][other.present], told[1][other.present])


def test_it_finds_a_rule_in_what_stands_around() -> None:
    """Each event's type is that of the region it lies in, which a reading shows: found without any other hint."""
    graph = joint_graph(days=20)
    place = graph["event", "at", "region"].edge_index[1]
    graph["event"].type = place[torch.argsort(graph["event", "at", "region"].edge_index[0])].int()
    city = joint_city({"region": {}, "event": {"memory": "24h"}}, graph)
    torch.manual_seed(0)
    model = Weave.for_city(city, WeaveConfig(width=16, layers=2, parts="graph,mlp", dropout=0.0, buckets=64))
    objective = make_objective("attributes(type=event,name=type,rate=1.0)")
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    window = city.window(list(range(60, 300, 8)), NEEDS)
    first = last = None
    for _ in range(60):
        last = objective(model, window)["event.type"]
        first = first if first is not None else last.item()
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
    assert last is not None
    assert last.item() < 0.2 * first


def test_a_token_is_the_sum_of_its_parts() -> None:
    """By hand: the type, the word, the number times its row, and the age."""
    city = joint_city()
    layer = city.others["event"]
    window = city.window([60, 100], NEEDS).others["event"]
    tokens = AttributeTokens(8, 50)
    table = tokens.table

    def row(name: str, word: str) -> Tensor:
        return table[bucket(name, word, 50)]

    found, seen = tokens(window), window.present.nonzero().tolist()
    assert seen
    for b, m in seen:
        node = int(window.nodes[b, m])
        word = layer.words["type"][1][int(layer.words["type"][0][node])]
        expected = row("event", "") + row("type", word) + layer.numbers["weight"][node] * row("weight", "")
        expected = expected + tokens.age(torch.tensor([window.age[b, m].log1p(), 1.0]))
        torch.testing.assert_close(found[b, m], expected)


def test_who_cannot_tell_is_refused(city: City) -> None:
    with pytest.raises(InputError, match="does not offer tell"):
        make_objective("attributes(type=event,name=type)").prepare(Toy.for_city(toy_city()))
    window = city.window([100], NEEDS)
    for settings, match in (("type=event,name=colour", "no such attribute"), ("type=segment,name=type", "no nodes of"),
                            ("type=event,name=type,rate=0", "share")):
        with pytest.raises(InputError, match=match):
            make_objective(f"attributes({settings})")(Fixed(torch.zeros(())), window)
    with pytest.raises(InputError, match="needs a setting"):
        make_objective("attributes(type=event)")
