"""Laws of training: repeatable, resumable, honest about what it kept."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from tiny import Tiny, TinyMean, TinyTable, make_city, make_model

from stgraph.errors import InputError, TransductiveError
from stgraph.models import Forecaster
from stgraph.train import Budget, fit
from stgraph.train.validation import Validation


@pytest.fixture(scope="module")
def city():
    return make_city()


def same(first: Forecaster, second: Forecaster) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(),
                                                 strict=True))


def quick(city, model=None, out=None, steps=30, **options):
    return fit([city], model or make_model(city), out, budget=Budget(steps=steps), progress=False, **options)


def test_a_tiny_set_is_learned_by_heart():
    city = make_city(nodes=2, days=5, hidden=0.0)
    model = make_model(city, width=64, dropout=0.0)
    batches = Validation([city], 32, frozenset())
    batches.parts = [type(batches.parts[0])(city, "train", 32)]
    before = batches.score(model, 99).value
    trained = quick(city, model, steps=300, learning_rate=0.02)
    after = batches.score(trained.model, 99).value
    assert after < 0.25 * before


def test_same_seed_same_bits_and_another_seed_others(city):
    first, second, other = (quick(city, seed=seed).model for seed in (3, 3, 4))
    assert same(first, second)
    assert not same(first, other)


def test_minutes_and_the_steps_it_settled_on_are_the_same_run(city, monkeypatch):
    monkeypatch.setattr("stgraph.train.job.HARD_STOP", 100.0)  # on a busy machine too
    timed = fit([city], make_model(city), budget=Budget(minutes=0.03), progress=False)
    assert timed.record["steps"] > 1
    again = quick(city, steps=timed.record["steps"])
    assert same(timed.model, again.model)
    assert timed.record["minutes"] == 0.03
    assert again.record["minutes"] is None


def test_the_hard_stop_is_told(city, monkeypatch):
    monkeypatch.setattr("stgraph.train.job.steps_that_fit", lambda *a: 10**6)
    trained = fit([city], make_model(city), budget=Budget(minutes=0.02), progress=False)
    assert trained.record["stopped_by"] == "time limit"
    assert trained.record["steps_done"] < 10**6
    assert trained.record["seconds"] < 60 * 0.02 * 1.25 + 1.0
    assert "1.25 times" in trained.record["notes"][-1]


def test_the_weights_kept_are_those_of_the_best_validation(city, tmp_path):
    trained = quick(city, out=tmp_path / "run", steps=60, learning_rate=0.5)  # so fast that it does not end best
    with (tmp_path / "run" / "logs" / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["validation"]]
    scores = {int(row["step"]): float(row["validation"]) for row in rows}
    best = trained.record["best_validation"]
    assert best["score"] == min(scores.values())
    assert scores[best["step"]] == best["score"]
    assert best["step"] < 60
    validation = Validation([city], 32, frozenset())
    assert validation.score(trained.model, validation.available).value == pytest.approx(best["score"], rel=1e-12)


def test_validation_is_the_masked_mean_over_all_elements(city):
    model = make_model(city)
    error, count = 0.0, 0
    first, last = city.split.origins("validation")
    for origin in range(first, last):
        window = city.window([origin])
        with torch.no_grad():
            each = (model.eval()(window).mean - window.target).abs().numpy()
        mask = window.target_mask.numpy()
        error, count = error + each[mask].sum(dtype=np.float64), count + mask.sum()
    score = Validation([city], 5, frozenset()).score(model, 10**9)
    assert score.value == pytest.approx(error / count / city.context.deviation[0], rel=1e-5)
    assert score.cities["tiny"]["speed"]["mae"] == pytest.approx(error / count / 0.44704, rel=1e-5)
    assert score.cities["tiny"]["speed"]["unit"] == "mph"


def test_hidden_targets_do_not_matter():
    results = []
    for junk in (0.0, 1e6, math.nan):
        city = make_city(hidden=0.3)
        city.context  # noqa: B018 - descriptors are fitted before the junk is put in
        values = city.signal.values
        model = make_model(city)
        values[~city.signal.mask] = junk
        results.append(quick(city, model).model)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_several_cities_of_other_sizes_train_one_model():
    cities = [make_city(nodes=3, name="a"), make_city(nodes=7, days=14, name="b", seed=1)]
    trained = fit(cities, make_model(cities[0]), budget=Budget(steps=30), progress=False)
    assert set(trained.record["best_validation"]["cities"]) == {"a", "b"}
    assert [item["nodes"] for item in trained.record["data"]] == [3, 7]
    only_b = fit(cities, make_model(cities[0]), budget=Budget(steps=30), progress=False, weights=[0, 1])
    alone = fit(cities[1:], make_model(cities[0]), budget=Budget(steps=30), progress=False)
    assert not same(only_b.model, trained.model)
    assert trained.record["city_weights"] is None
    assert only_b.record["city_weights"] == [0, 1]
    assert alone.record["best_validation"]["score"] != only_b.record["best_validation"]["score"]


def test_a_transductive_model_is_refused_on_two_cities_by_name(tmp_path):
    cities = [make_city(name="a"), make_city(name="b")]
    with pytest.raises(TransductiveError, match="'tiny_table' is transductive") as caught:
        fit(cities, make_model(cities[0], TinyTable), tmp_path / "run", budget=Budget(steps=5), progress=False)
    assert caught.value.value == "a, b"
    assert not (tmp_path / "run").exists()


def test_a_formula_goes_through_the_same_door(city, tmp_path):
    trained = fit([city], make_model(city, TinyMean), tmp_path / "run", progress=False)
    assert torch.equal(trained.model.mean, torch.from_numpy(city.context.mean))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["stopped_by"] == "closed form"
    assert record["steps"] == 0
    assert record["best_validation"]["score"] > 0
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_passes_become_steps(city):
    trained = fit([city], make_model(city), budget=Budget(passes=2), batch_size=16, progress=False)
    windows = np.diff(city.split.origins("train"))[0]
    assert trained.record["steps"] == 2 * round(windows / 16)


def test_patience_ends_a_run_that_does_not_improve(city):
    trained = quick(city, steps=400, learning_rate=2.0, patience=2)
    assert trained.record["stopped_by"] == "patience"
    assert trained.record["steps_done"] < 400


def test_two_objectives_are_weighted(city):
    one, two, three = (quick(city, make_model(city, dropout=0.0), objectives=objectives) for objectives in (
        [("mae", 1.0)], [("mae", 1.0), ("mse", 0.0)], [("mae", 1.0), ("mse", 1.0)]))
    assert same(one.model, two.model)
    assert not same(one.model, three.model)


def test_workers_do_not_change_the_result(city):
    assert same(quick(city, steps=8).model, quick(city, steps=8, workers=1).model)


def test_bf16_trains_and_16_is_refused_without_a_gpu(city):
    trained = quick(city, precision="bf16-mixed")
    assert not same(trained.model, quick(city).model)
    assert all(value.dtype == torch.float32 for value in trained.model.state_dict().values())
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="needs a GPU") as caught:
            quick(city, precision="16-mixed")
        assert caught.value.field == "precision"


def test_a_loss_that_is_not_finite_names_step_and_model_and_keeps_the_best(city, tmp_path):
    class Breaks(Tiny):
        calls = 0

        def forward(self, window):
            forecast = super().forward(window)
            if self.training:
                type(self).calls += 1
                if self.calls == 20:
                    forecast.mean = forecast.mean * math.inf
            return forecast

    with pytest.raises(InputError, match="'tiny' is not finite at step 20") as caught:
        quick(city, make_model(city, Breaks), tmp_path / "run", steps=40)
    assert caught.value.field == "loss"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["stopped_by"] == "loss not finite"
    assert 0 < record["best_validation"]["step"] < 20
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_the_record_is_complete(city, tmp_path):
    trained = quick(city, out=tmp_path / "run", seed=5, paths=["data/tiny.stg"], command=["stgraph", "train"])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record == json.loads(json.dumps(trained.record))
    wanted = {"model", "config", "sizes", "data", "split", "history", "horizon", "seed", "steps", "minutes", "seconds",
              "parameters", "best_validation", "stopped_by", "batch_size", "learning_rate", "versions", "device",
              "machine", "command", "created", "resumed", "channels", "threads", "notes"}
    assert wanted <= set(record)
    assert record["data"] == [{"name": "tiny", "path": "data/tiny.stg", "data_sha256": None, "channels": ["speed"],
                               "node_type": "sensor", "signal": "readings", "nodes": 4, "rows": 240,
                               "interval_s": 3600}]
    assert record["seed"] == 5
    assert record["stopped_by"] == "budget"
    assert record["command"] == ["stgraph", "train"]
    assert {"python", "torch", "stgraph", "lightning"} <= set(record["versions"])
    described = json.loads((tmp_path / "run" / "model.json").read_text())
    assert described["manifest"]["best_validation"] == record["best_validation"]
    events = list((tmp_path / "run" / "logs").glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert events[0].stat().st_size > 500


def test_stdout_stays_empty_and_stderr_has_a_line_per_validation(city, tmp_path, capfd):
    fit([city], make_model(city), tmp_path / "run", budget=Budget(steps=20))
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 10
    assert all(line.startswith("tiny: step ") for line in lines)
    assert "mph" in lines[-1]
    quick(city)
    assert capfd.readouterr() == ("", "")


def test_no_validation_part_keeps_the_last_weights():
    city = make_city(fractions=(0.8, 0.0, 0.2))
    trained = quick(city)
    assert trained.record["best_validation"] is None
    assert trained.record["validation"]["available"] == 0


def test_the_callers_generator_is_left_alone(city):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    model = Tiny.for_city(city)
    torch.manual_seed(7)
    quick(city, model)
    assert torch.equal(torch.rand(3), wanted)


def test_unknown_settings_are_refused_by_name(city):
    with pytest.raises(InputError) as caught:
        quick(city, momentum=0.9)
    assert caught.value.field == "momentum"
    for name, value in (("batch_size", 0), ("precision", "8-bit"), ("patience", 0), ("objectives", ()),
                        ("device", "tpu"), ("learning_rate", math.nan)):
        with pytest.raises(InputError) as caught:
            quick(city, **{name: value})
        assert caught.value.field == name


def test_budgets_are_checked():
    with pytest.raises(InputError) as caught:
        Budget(minutes=1, steps=2)
    assert caught.value.field == "minutes, steps"
    with pytest.raises(InputError):
        Budget(steps=0)
