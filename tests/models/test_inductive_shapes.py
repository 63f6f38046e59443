"""No weight of an inductive model knows the city: the state dicts made for two cities have the same shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import Forecaster, config_from, model_class, model_names
from stgraph.models.step_encoder import StepEncoder, StepEncoderConfig
from stgraph.windows import City

NODES = (5, 53)  # the second is no width of any model
SMALL_ENCODER = {"minutes": 60.0, "tokens": 12, "width": 16, "heads": 2, "layers": 1}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in model_names() if name != "step"),
    ("stid", {"node_table": False}), ("patchstg", {"node_table": False}),
    ("graph_wavenet", {"adaptive": "learned"}), ("graph_wavenet", {"adaptive": "none"}), ("dcrnn", {"steps": 0}),
    ("opencity", {"place": "laplacian,walk,degree,profile"}),
    ("weave", {"parts": "time,linear_time,conv,graph,patch_depth,patch_breadth,patch,mlp", "patch_size": 4}),
    ("weave", {"place": "laplacian,walk,degree,profile,metres", "lags": True, "quantiles": "0.1,0.5,0.9"}),
    ("weave", {"diffusion": True, "types": "sensor"}), ("weave", {"node_codes": True}),
    ("step", {"backend": "profile_mlp"}), ("step", {"backend": "weave", "graph": "on"}),
    ("step", {"backend": "stid"}),
]


def made_city(nodes: int, channels: int, step: int, history: int, horizon: int) -> City:
    """Twenty days of waves on a ring of placed nodes."""
    rng = np.random.default_rng(nodes)
    rows = 20 * 86_400 // step
    phase = rng.uniform(0, 6, (nodes, channels))
    values = 20 + 4 * np.sin(np.arange(rows)[:, None, None] * 2 * np.pi * step / 86_400 + phase)
    graph = DynamicHeteroGraph(time=TimeAxis(0, step, rows))
    graph["sensor"].node_id = np.array([f"n{i}" for i in range(nodes)])
    graph["sensor"].lonlat = torch.from_numpy(rng.uniform(0, 0.1, (nodes, 2)))
    ring = torch.arange(nodes)
    graph["sensor", "near", "sensor"].edge_index = torch.stack([ring, ring.roll(-1)])
    graph.add_signal("sensor", "x", Signal((values + rng.normal(0, 0.5, values.shape)).astype(np.float32), None,
                                           [Channel(f"c{i}") for i in range(channels)]))
    return City(graph, history=history, horizon=horizon)


def cities_for(name: str, config: Any) -> tuple[City, City]:
    """Two cities as different as the model allows: always in nodes, in channels, interval and window where it may."""
    can = model_class(name).describe(config)
    series, steps = can.any_series, can.any_horizon
    return made_city(NODES[0], 1, 3600, 6, 3), made_city(
        NODES[1], 2 if series else 1, 1800 if series or steps else 3600, 11 if steps else 6, 5 if steps else 3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with an encoder that learned nothing yet."""
    folder: Path = tmp_path_factory.mktemp("encoder")
    StepEncoder.for_city(made_city(5, 1, 3600, 6, 3), StepEncoderConfig(**SMALL_ENCODER)).save_pretrained(folder)
    return str(folder)


def made(name: str, options: dict[str, Any], encoder: str) -> tuple[Any, tuple[City, City], list[Forecaster]]:
    """The config, the two cities, and the model made for each."""
    kind = model_class(name)
    config = config_from(kind, options | ({"encoder": encoder} if name == "step" else {}))
    cities = cities_for(name, config)
    models = []
    for city in cities:
        torch.manual_seed(0)
        model = kind.for_city(city, config).eval()
        model.fit(city)
        models.append(model)
    return config, cities, models


def ids(variant: Any) -> str:
    return variant if isinstance(variant, str) else ",".join(f"{key}={value}" for key, value in variant.items())


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=ids)
@torch.no_grad()
def test_state_dicts_of_two_cities(name: str, options: dict[str, Any], encoder: str) -> None:
    """Inductive: equal keys and shapes, after a forecast too, and the other city's weights answer this one.

    Transductive: some shape holds the number of nodes, so the scan can tell.
    """
    config, cities, models = made(name, options, encoder)
    abilities = model_class(name).describe(config)
    for model, city in zip(models, cities, strict=True):
        if abilities.gives != "states":
            model(city.window([150, 170], abilities.needs))
    small, large = (model.state_dict() for model in models)
    shapes = [{key: tuple(value.shape) for key, value in state.items()} for state in (small, large)]
    if not abilities.inductive:
        assert shapes[0] != shapes[1]
        assert any(nodes in shape for nodes, shape in zip(NODES, map(_sizes, shapes), strict=True))
        return
    assert shapes[0] == shapes[1]
    assert NODES[1] not in _sizes(shapes[1])
    if abilities.gives != "states":
        models[1].load_state_dict(small)
        models[0].check(cities[1])
        answer = models[1](cities[1].window([150, 170], abilities.needs)).mean
        torch.testing.assert_close(models[0](cities[1].window([150, 170], abilities.needs)).mean, answer)
        assert answer.shape == (2, cities[1].horizon, NODES[1], cities[1].num_channels)
        assert answer.isfinite().all()


def _sizes(shapes: dict[str, tuple[int, ...]]) -> set[int]:
    return {size for shape in shapes.values() for size in shape}


def test_every_model_is_scanned_and_both_kinds_are_among_them(encoder: str) -> None:
    inductive = {name: set() for name in model_names()}
    for name, options in VARIANTS:
        config = config_from(model_class(name), options | ({"encoder": encoder} if name == "step" else {}))
        inductive[name].add(model_class(name).describe(config).inductive)
    assert all(inductive.values())
    assert {name for name, kinds in inductive.items() if kinds == {False}} == {"staeformer", "var"}
    assert {name for name, kinds in inductive.items() if len(kinds) == 2} == {"stid", "patchstg", "graph_wavenet",
                                                                               "weave", "step"}
