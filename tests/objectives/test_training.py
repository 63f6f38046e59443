"""A run of several objectives: each logged, together the loss; repeatable, resumable, refused by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from toys import Bare, Toy, toy_city

from stgraph.cli.main import main
from stgraph.errors import InputError
from stgraph.graph import save
from stgraph.objectives import Contrast, MaskedModelling, parse_objectives
from stgraph.train import Budget, fit
from stgraph.train.logs import COLUMNS, MetricsLog
from stgraph.train.settings import TrainingSettings

MIXED = "mae:1,masked(kind=block,rate=0.5):0.5,contrast:0.1"


@pytest.fixture(scope="module")
def city():
    return toy_city()


def quick(city, out=None, steps=12, objectives=MIXED, **options):
    torch.manual_seed(0)
    return fit([city], Toy.for_city(city), out, budget=Budget(steps=steps), progress=False,
               objectives=parse_objectives(objectives), **options)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(),
                                                 strict=True))


@pytest.mark.parametrize("balance", [False, True])
def test_every_term_is_logged_and_their_sum_is_the_loss(city, tmp_path, balance):
    quick(city, tmp_path / "run", balance=balance)
    rows = rows_of(tmp_path / "run")
    assert list(rows[0]) == [*COLUMNS, "loss/mae", "loss/masked", "loss/contrast"]
    for row in rows:
        terms = [float(row[f"loss/{name}"]) for name in ("mae", "masked", "contrast")]
        assert sum(terms) == pytest.approx(float(row["train_loss"]), rel=1e-5)
        assert all(term > 0 for term in terms)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["objectives"] == [
        ["mae", 1.0], ["masked(kind=block,rate=0.5)", 0.5], ["contrast", 0.1]]


def test_balance_makes_a_small_loss_pull_as_much_as_a_large_one(city, monkeypatch):
    """In the first step, whatever the scale of a loss: both gradients have the norm of their mean."""
    import stgraph.train.loop as loop

    norms = {}
    original = loop.Learner.weighted_terms

    def watched(learner, window):
        terms = original(learner, window)
        if not norms:
            for name, term in terms.items():
                found = torch.autograd.grad(term, list(learner.model.parameters()), retain_graph=True,
                                            allow_unused=True)
                norms[name] = torch.cat([g.flatten() for g in found if g is not None]).norm().item()
        return terms

    monkeypatch.setattr(loop.Learner, "weighted_terms", watched)
    quick(city, steps=1, objectives="mse,masked(seed=0)", balance=True)
    assert norms["mse"] == pytest.approx(norms["masked"], rel=1e-4)
    norms.clear()
    quick(city, steps=1, objectives="mse,masked(seed=0)")
    assert not 0.9 < norms["mse"] / norms["masked"] < 1.1


def test_one_objective_is_logged_as_before(city, tmp_path):
    quick(city, tmp_path / "run", objectives="mae")
    assert list(rows_of(tmp_path / "run")[0]) == list(COLUMNS)


def test_terms_of_one_name_are_told_apart(city, tmp_path):
    quick(city, tmp_path / "run", objectives="masked(rate=0.2),masked(kind=block):2,masked(kind=tube)")
    assert list(rows_of(tmp_path / "run")[0])[5:] == ["loss/masked", "loss/masked_2", "loss/masked_3"]


def test_the_same_seed_gives_the_same_bits_also_of_what_objectives_learn(city, monkeypatch):
    first, second, other = (quick(city, seed=seed).model for seed in (3, 3, 4))
    assert same(first, second)
    assert not same(first, other)
    monkeypatch.setattr("stgraph.train.job.HARD_STOP", 100.0)
    torch.manual_seed(0)
    timed = fit([city], Toy.for_city(city), budget=Budget(minutes=0.02), progress=False,
                objectives=parse_objectives(MIXED))
    again = quick(city, steps=timed.record["steps"])  # the rehearsal left no trace in the projection
    assert same(timed.model, again.model)


def test_an_objective_given_as_a_module_is_left_as_it_was(city):
    objective = Contrast()
    objective.prepare(Toy.for_city(city))
    before = [p.clone() for p in objective.parameters()]
    torch.manual_seed(0)
    fit([city], Toy.for_city(city), budget=Budget(steps=3), progress=False, objectives=[("mae", 1), (objective, 1)])
    assert all(torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True))


def test_weights_are_those_that_were_given(city):
    """A weight of 0 changes nothing where the objective draws from no shared noise."""
    quiet = [("mae", 1.0), (MaskedModelling("random", 0.5, seed=0), 0.0)]
    torch.manual_seed(0)
    with_zero = fit([city], Toy.for_city(city), budget=Budget(steps=8), progress=False, objectives=quiet,
                    weight_decay=0.0)
    assert same(with_zero.model, quick(city, steps=8, objectives="mae", weight_decay=0.0).model)


def test_a_run_that_stopped_goes_on_to_the_same_bits(city, tmp_path, monkeypatch):
    """Projection weights, step counts of schedules and running norms are in the checkpoint."""
    import stgraph.train.loop as loop

    mixed = "mae:1,masked(rate=0.1,last_rate=0.6,ramp_steps=10):0.5,contrast:0.1"
    whole = quick(city, objectives=mixed, balance=True)
    asked = iter([False] * 6 + [True] + [False] * 99)
    original = loop.Watch.__init__
    monkeypatch.setattr(loop.Watch, "__init__",
                        lambda self, *a, **k: original(self, *a, **{**k, "is_stopped": lambda: next(asked)}))
    with pytest.raises(BaseException, match="Stopped after step 7"):
        quick(city, tmp_path / "run", objectives=mixed, balance=True)
    resumed = quick(city, tmp_path / "run", objectives=mixed, balance=True, resume=True)
    assert same(whole.model, resumed.model)
    rows = rows_of(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})
    assert all(row["loss/contrast"] for row in rows)


def test_a_log_grows_columns_and_keeps_them(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, 0.1, 0.1, 1.0)
    log.write(2, 0.2, 0.1, 3.0, terms={"a": 1.0, "b": 2.0})
    log.write(3, 0.3, 0.1, 3.0, 0.5)
    log.close()
    log = MetricsLog(tmp_path, step=2)
    log.write(3, 0.3, 0.1, 5.0, terms={"a": 4.0, "b": 1.0})
    log.close()
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [*COLUMNS, "loss/a", "loss/b"]
    assert [row["loss/a"] for row in rows] == ["", "1.0", "4.0"]
    assert [row["step"] for row in rows] == ["1", "2", "3"]


def test_what_cannot_be_trained_is_refused_by_name(city, tmp_path):
    with pytest.raises(InputError, match="'bare' cannot be trained by 'masked'"):
        TrainingSettings(objectives=[("masked", 1.0)]).make_objectives(Bare.for_city(city))
    for objectives in ([("mask", 1.0)], [("masked(rate=7)", 1.0)]):
        with pytest.raises(InputError):
            fit([city], Toy.for_city(city), tmp_path / "run", budget=Budget(steps=1), progress=False,
                objectives=objectives)
    assert not (tmp_path / "run").exists()


def test_the_command_line_names_objectives(tmp_path, capfd):
    save(toy_city().graph, tmp_path / "one.stg")
    words = ["train", "--data", str(tmp_path / "one.stg"), "--model", "stid", "--set", "width=4", "--history", "6",
             "--horizon", "3", "--steps", "5", "--json"]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--out", str(tmp_path / "run"), "--objective", "mae:1,huber:0.5"])
    assert caught.value.code == 0
    assert {"loss/mae", "loss/huber"} < set(rows_of(tmp_path / "run")[0])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["objectives"] == [["mae", 1.0], ["huber", 0.5]]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--out", str(tmp_path / "other"), "--objective", "mape"])
    assert caught.value.code == 2
    assert not (tmp_path / "other").exists()
    assert "unknown objective" in capfd.readouterr().err
