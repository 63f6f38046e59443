"""Weave on nodes of several types at once: what they tell each other, and what must never be told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from joint_city import ALSO, HOUR, SIZES, joint_city, joint_graph
from torch import Tensor

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.models.weave import Weave, WeaveConfig
from stgraph.objectives import make_objective
from stgraph.windows import AttributeWindow, City, Window

ORIGINS = [250, 260, 272]  # in the test part of 12 days


def random_model(city: City, **options: object) -> Weave:
    """A model whose every weight matters."""
    torch.manual_seed(0)
    settings = {"parts": "graph,mlp", "width": 16, "layers": 2, "alike": 2, "types": "sensor,segment",
                "relations": "at,on", "patch_size": 2}
    model = Weave.for_city(city, WeaveConfig(**(settings | options)))
    for ends in model.ends.values():
        for layer in (ends.correct, ends.gate):
            torch.nn.init.normal_(layer.weight, std=0.3)
    for name, weight in model.named_parameters():
        if name.endswith(".own"):
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def window_of(city: City, model: Weave, origins: list[int] = ORIGINS, target: bool = True) -> Window:
    return city.window(origins, model.capabilities.needs, target)


def answers(model: Weave, window: Window) -> dict[str, Tensor]:
    with torch.no_grad():
        found = model(window)
    return {window.city.node_type: found.mean} | {kind: other.mean for kind, other in found.others.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for kind in one:
        torch.testing.assert_close(one[kind], other[kind], rtol=1e-5, atol=1e-5)


def test_every_type_with_a_signal_is_answered() -> None:
    city = joint_city()
    found = answers(model := random_model(city), window_of(city, model))
    assert {kind: tuple(one.shape) for kind, one in found.items()} == {
        kind: (3, 3, SIZES[kind], 1) for kind in ("sensor", "segment", "region")}


@pytest.mark.parametrize("parts", ["graph,mlp", "time,graph,patch,mlp"])
def test_each_type_hears_the_others(parts: str) -> None:
    """A reading, an attribute of an event or of a junction changed: every type within reach answers otherwise."""
    city = joint_city(hidden=0)
    model = random_model(city, parts=parts)
    before = answers(model, window_of(city, model))
    window = window_of(city, model)
    window.others["segment"].values[:, -1] += 5  # type: ignore[union-attr]
    after = answers(model, window)
    assert all(not torch.allclose(before[kind], after[kind]) for kind in ("sensor", "segment", "region"))
    for kind, name in (("event", "weight"), ("junction", "lanes")):
        graph = joint_graph(hidden=0)
        graph[kind][name] = graph[kind][name].flip(0)
        other = joint_city(graph=graph)
        assert not torch.allclose(before["segment"], answers(model, window_of(other, model))["segment"]), kind


def test_the_window_of_one_type_is_answered_as_without_the_others() -> None:
    """Bit for bit: the window without the others is that of a city without them."""
    city, alone = joint_city(), joint_city(also={})
    model = random_model(city)
    window = replace(window_of(city, model), others={})
    assert torch.equal(answers(model, window)["sensor"], answers(model, window_of(alone, model))["sensor"])


@pytest.mark.parametrize("gone", list(ALSO))
def test_a_type_left_out_leaves_what_a_city_without_it_has(gone: str) -> None:
    city = joint_city()
    without = joint_city(also={kind: options for kind, options in ALSO.items() if kind != gone})
    model = random_model(city)
    window = window_of(city, model)
    window.others.pop(gone)
    found = answers(model, window)
    same(found, answers(model, window_of(without, model)))
    graph = joint_graph()
    del graph[gone]
    for kind in [kind for kind in graph.edge_types if gone in (kind[0], kind[2])]:
        del graph[kind]
    graph._signals.pop(gone, None)
    same(found, answers(model, window_of(joint_city(without.also, graph), model)))


def test_relabelling_the_nodes_of_every_type_permutes_all_answers() -> None:
    rng = np.random.default_rng(1)
    orders = {kind: rng.permutation(size) for kind, size in SIZES.items()}
    city, shuffled = joint_city(), joint_city(orders=orders)
    model = random_model(city)
    one, other = answers(model, window_of(city, model)), answers(model, window_of(shuffled, model))
    for kind, found in one.items():
        torch.testing.assert_close(other[kind], found[:, :, orders[kind]], rtol=1e-4, atol=1e-4)


def test_what_is_missing_never_counts() -> None:
    city = joint_city(hidden=0.3)
    model = random_model(city)
    window = window_of(city, model)
    before = answers(model, window)
    for one in (window, window.others["segment"], window.others["region"]):
        assert isinstance(one, Window)
        one.values = torch.where(one.mask, one.values, 1e6)
    same(before, answers(model, window))


def changed_later(graph: DynamicHeteroGraph, moment: int) -> DynamicHeteroGraph:
    """The graph with other events, other moves and other readings from an instant on."""
    events, moves = graph["event"], graph["segment", "then", "segment"]
    later = events.time >= moment
    assert later.any()
    assert not later.all()
    events.type[later] = (events.type[later] + 1) % 3
    events.weight[later] += 100
    for kind in (("event", "at", "segment"), ("event", "at", "region")):
        graph[kind].edge_index[1, later] = 0
    moves.edge_index[:, moves.valid_to > moment] = torch.tensor([[0], [5]])
    for kind in ("sensor", "segment", "region"):
        graph.signal(kind).values[moment // HOUR:] = 7
    return graph


@pytest.mark.parametrize("origin", [245, 250, 271])
def test_nothing_that_comes_later_changes_an_answer(origin: int) -> None:
    """Events of the first wanted second and after, moves of bins that are not over, readings to come: all others."""
    graphs = [joint_graph(), joint_graph()]
    for graph in graphs:
        graph["event"].time[torch.argsort(graph["event"].time)[-10]] = origin * HOUR
    city, other = joint_city(graph=graphs[0]), joint_city(graph=changed_later(graphs[1], origin * HOUR))
    model = random_model(city)
    one, two = (answers(model, window_of(city, model, [origin], target=False)) for city in (city, other))
    assert all(torch.equal(one[kind], two[kind]) for kind in one)


def test_a_window_of_training_days_knows_nothing_of_later_events() -> None:
    """Means and deviations of attributes are those of the training rows; what happens beside them stays unseen."""
    graph = joint_graph()
    graph["event"].type[graph["event"].time >= 100 * HOUR] = 1
    city, other = joint_city(), joint_city(graph=graph)
    model = random_model(city)
    same(*(answers(model, window_of(city, model, [100], target=False)) for city in (city, other)))


def test_batches_do_not_mix_what_windows_know() -> None:
    """An event that one window of a batch knows is not told to an earlier one beside it."""
    city = joint_city()
    model = random_model(city)
    together = answers(model, window_of(city, model, [200, 203, 206]))
    for place, origin in enumerate((200, 203, 206)):
        alone = answers(model, window_of(city, model, [origin]))
        same(alone, {kind: one[place : place + 1] for kind, one in together.items()})


def test_a_missing_type_costs_nothing() -> None:
    """No module of it is called, and no parameter of it gets a gradient."""
    city = joint_city()
    model = random_model(city).train()
    called: list[str] = []
    watched = {"ends.segment.read": model.ends["segment"].read, "attributes": model.attributes}
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    window = window_of(joint_city(also={"region": {}}), model)
    sum(make_objective("mae")(model, window).values()).backward()
    assert not called
    for name, parameter in model.named_parameters():
        if name.startswith(("ends.segment", "attributes")):
            assert parameter.grad is None, name
    sum(make_objective("mae")(model, window_of(city, model)).values()).backward()
    assert {"ends.segment.read", "attributes"} == set(called)


def test_every_loss_reaches_the_blocks() -> None:
    city = joint_city()
    model = random_model(city).train()
    window = window_of(city, model)
    losses = make_objective("mae")(model, window)
    assert list(losses) == ["mae/sensor", "mae/segment", "mae/region"]
    for name in ("type", "weight"):
        losses |= make_objective(f"attributes(type=event,name={name})")(model, window)
    for name, loss in losses.items():
        blocks = [parameter for _, parameter in model.stack.named_parameters()]
        gradients = torch.autograd.grad(loss, blocks, retain_graph=True, allow_unused=True)
        reached = sum(one is not None and bool(one.any()) for one in gradients)
        assert reached > 0.6 * len(blocks), name


def test_no_shape_depends_on_the_city() -> None:
    """Other counts of nodes, other words and other attributes: the same weights answer."""
    city, graph = joint_city(), joint_graph(days=14)
    graph["event"].type = torch.arange(SIZES["event"]).int() % 7
    graph.declare("event", "type", None, "what happened", [f"word {i}" for i in range(7)])
    graph["event"].depth = torch.rand(SIZES["event"])
    model, other = random_model(city), joint_city(graph=graph)
    model.check(other)
    assert all(torch.isfinite(one).all() for one in answers(model, window_of(other, model)).values())
    shapes = {name: value.shape for name, value in random_model(other).state_dict().items()}
    assert shapes == {name: value.shape for name, value in model.state_dict().items()}


def test_a_type_of_one_channel_meets_one_of_two() -> None:
    city = joint_city(channels=2)
    model = random_model(city)
    model.check(city)
    found = answers(model, window_of(city, model))
    assert [one.shape[-1] for one in found.values()] == [2, 1, 1]
    graph = joint_graph(channels=2)
    with pytest.raises(InputError, match="one channel") as caught:
        model.check(City(graph, node_type="segment", history=6, horizon=3, also={"sensor": {}}))
    assert "--also sensor:readings:channel 0" in str(caught.value)


def test_the_type_in_front_does_not_matter() -> None:
    """Led by segments, the same weights answer the same for every type."""
    city = joint_city()
    model = random_model(city)
    same(dict(sorted(answers(model, window_of(city, model)).items())),
         dict(sorted(answers(model, window_of(city.led_by("segment"), model)).items())))


def test_what_a_model_cannot_read_is_refused() -> None:
    city = joint_city()
    with pytest.raises(InputError, match="reads no attributes"):
        Weave.for_city(joint_city(also={}), WeaveConfig(parts="graph,mlp")).check(city)
    with pytest.raises(InputError, match="passes none"):
        Weave.for_city(city).check(city)
    with pytest.raises(InputError, match="for one type of nodes"):
        Weave.for_city(city, WeaveConfig(node_codes=True, parts="graph,mlp")).check(city)


def test_places_of_layers_are_coded(make_city) -> None:
    graph = joint_graph()
    for kind in ("event", "junction", "sensor"):
        graph[kind].lonlat = torch.rand(SIZES[kind], 2, dtype=torch.float64)
    city = joint_city(graph=graph)
    model = random_model(city, place="metres,degree")
    torch.nn.init.normal_(model.place.absent["degree"])
    before = answers(model, window_of(city, model))
    other = joint_graph()
    for kind in ("event", "junction", "sensor"):
        other[kind].lonlat = graph[kind].lonlat.clone()
    other["junction"].lonlat[0] += 1
    after = answers(model, window_of(joint_city(graph=other), model))
    assert not torch.allclose(before["segment"], after["segment"])


def test_windows_move_with_their_others() -> None:
    city = joint_city()
    model = random_model(city)
    moved = window_of(city, model).to("cpu")
    assert isinstance(moved.others["event"], AttributeWindow)
    same(answers(model, moved), answers(model, window_of(city, model)))
