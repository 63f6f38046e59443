"""Threads are chosen by size alone, and put back."""

from __future__ import annotations

import torch
from tiny import make_city, make_model

from stgraph.train import Budget, fit
from stgraph.train.threads import WORTH_SHARING, choose_threads, threads


def test_small_work_gets_one_thread_and_large_work_all_of_them():
    torch.set_num_threads(2)
    city = make_city()
    model = make_model(city)
    assert choose_threads(model, [city], 32) == 1
    parameters = sum(parameter.numel() for parameter in model.parameters())
    enough = WORTH_SHARING // (parameters * city.num_nodes) + 1
    assert choose_threads(model, [city], enough) == 2
    assert choose_threads(model, [city, make_city(nodes=4 * city.num_nodes)], enough // 4 + 1) == 2


def test_threads_are_put_back_and_recorded():
    torch.set_num_threads(2)
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    city = make_city()
    trained = fit([city], make_model(city), budget=Budget(steps=2), progress=False)
    assert trained.record["threads"] == 1
    assert torch.get_num_threads() == 2
