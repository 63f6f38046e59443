"""A run that was stopped goes on to the same result, or says why it cannot."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import Tiny, TinyMean, make_city, make_model

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.train import Budget, TrainingInterrupted, fit
from stgraph.train.state import read_checkpoint

STEPS = 60


@pytest.fixture(scope="module")
def city():
    return make_city()


@pytest.fixture(scope="module")
def uninterrupted(city):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = quick(city, None)
    torch.set_num_threads(before)
    return trained


def quick(city, out, kind=Tiny, steps=STEPS, **options):
    return fit([city], make_model(city, kind), out, budget=Budget(steps=steps), progress=False, **options)


def stop_at(step: int) -> type[Tiny]:
    """A model during whose training step ``step`` (from 1) Ctrl-C is pressed."""
    class Stopped(Tiny):
        calls = 0

        def forward(self, window):
            if self.training:
                type(self).calls += 1
                if self.calls == step:
                    os.kill(os.getpid(), signal.SIGINT)
            return super().forward(window)

    return Stopped


def same(first: Forecaster, second: Forecaster) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(),
                                                 strict=True))


def test_kill_nine_then_resume_equals_uninterrupted(city, tmp_path):
    out, steps = tmp_path / "run", 400
    script = Path(__file__).with_name("slow_run.py")
    process = subprocess.Popen([sys.executable, str(script), str(out), str(steps)])
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            checkpoint = out / "checkpoints" / "last.ckpt"
            if checkpoint.is_file() and read_checkpoint(checkpoint)["stgraph"]["step"] > 30:
                break
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (out / "weights.safetensors").exists()
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    stood_at = read_checkpoint(out / "checkpoints" / "last.ckpt")["stgraph"]["step"]
    assert 30 < stood_at < steps
    resumed = quick(city, out, steps=steps, resume=True)
    whole = quick(city, None, steps=steps)
    assert same(resumed.model, whole.model)
    assert resumed.record["best_validation"] == whole.record["best_validation"]
    assert resumed.record["resumed"] == 1
    with (out / "logs" / "metrics.csv").open() as stream:
        logged = [int(row["step"]) for row in csv.DictReader(stream)]
    assert logged == sorted(set(logged))
    assert logged[0] < stood_at < logged[-1] == steps


@pytest.mark.parametrize("step", [1, 3, 17, 59])  # 3: a step that validates
def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_result(city, uninterrupted, tmp_path, step):
    out = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=f"after step {step} of {STEPS}.*--resume") as caught:
        quick(city, out, stop_at(step))
    assert str(out) in str(caught.value)
    assert signal.getsignal(signal.SIGINT) is before
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["steps_done"], record["steps"]) == ("interrupted", step, STEPS)
    assert (out / "model.json").is_file()
    assert (out / "weights.safetensors").is_file()
    resumed = quick(city, out, resume=True)
    assert same(resumed.model, uninterrupted.model)
    assert resumed.record["best_validation"] == uninterrupted.record["best_validation"]
    assert resumed.record["status"] == "finished"


def test_a_best_validation_before_the_stop_is_still_the_best(city, tmp_path):
    whole = quick(city, None, learning_rate=0.5)  # so fast that the last validation is not the best
    best = whole.record["best_validation"]
    assert best["step"] < STEPS - 5
    with pytest.raises(TrainingInterrupted):
        quick(city, tmp_path / "run", stop_at(STEPS - 2), learning_rate=0.5)
    resumed = quick(city, tmp_path / "run", learning_rate=0.5, resume=True)
    assert resumed.record["best_validation"] == best
    assert same(resumed.model, whole.model)


def test_ctrl_c_twice_and_resume_twice(city, uninterrupted, tmp_path):
    for step, resume in ((10, False), (15, True)):
        with pytest.raises(TrainingInterrupted):
            quick(city, tmp_path / "run", stop_at(step), resume=resume)
    resumed = quick(city, tmp_path / "run", resume=True)
    assert resumed.record["resumed"] == 2
    assert same(resumed.model, uninterrupted.model)


def test_ctrl_c_without_a_folder_says_that_nothing_was_kept(city):
    with pytest.raises(TrainingInterrupted, match="nothing was kept"):
        quick(city, None, stop_at(5))


def test_a_run_killed_before_its_first_checkpoint_starts_again(city, uninterrupted, tmp_path):
    with pytest.raises(TrainingInterrupted):
        quick(city, tmp_path / "run", stop_at(5))
    run = tmp_path / "run" / "run.json"
    record = json.loads(run.read_text()) | {"status": "running", "steps_done": 0}
    run.write_text(json.dumps(record))
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    assert same(quick(city, tmp_path / "run", resume=True).model, uninterrupted.model)


def test_a_run_killed_while_it_wrote_its_weights_is_completed(city, uninterrupted, tmp_path):
    out = tmp_path / "run"
    quick(city, out)
    (out / "weights.safetensors").unlink()
    run = out / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"status": "running"}))
    resumed = quick(city, out, resume=True)
    assert same(resumed.model, uninterrupted.model)
    assert (out / "weights.safetensors").is_file()
    assert resumed.record["stopped_by"] == "budget"


def test_resume_refuses_what_differs_and_names_it(city, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        quick(city, out, stop_at(5))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    city.sha256 = None
    other_data = make_city()
    other_data.sha256 = "0" * 64
    two_channels = make_city(channels=2)
    attempts = [
        ("seed", lambda: quick(city, out, resume=True, seed=1)),
        ("batch_size", lambda: quick(city, out, resume=True, batch_size=16)),
        ("learning_rate", lambda: quick(city, out, resume=True, learning_rate=0.1)),
        ("precision", lambda: quick(city, out, resume=True, precision="bf16-mixed")),
        ("steps", lambda: quick(city, out, resume=True, steps=STEPS + 1)),
        ("minutes", lambda: fit([city], make_model(city), out, budget=Budget(minutes=1), resume=True)),
        ("model", lambda: quick(city, out, TinyMean, resume=True)),
        ("width", lambda: fit([city], make_model(city, width=16), out, budget=Budget(steps=STEPS), resume=True)),
        ("data_sha256", lambda: quick(other_data, out, resume=True)),
        ("channels", lambda: quick(two_channels, out, resume=True)),
        ("nodes", lambda: quick(make_city(nodes=5), out, resume=True)),
        ("fractions", lambda: quick(make_city(fractions=(0.6, 0.2, 0.2)), out, resume=True)),
    ]
    for field, attempt in attempts:
        with pytest.raises(InputError) as caught:
            attempt()
        assert caught.value.field == field
        assert caught.value.remedy
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_given_back(city, tmp_path, monkeypatch):
    first = quick(city, tmp_path / "run")
    monkeypatch.setattr("stgraph.models.base.model_class", lambda name: Tiny)
    second = quick(city, tmp_path / "run", resume=True)
    assert same(first.model, second.model)
    assert second.record == first.record


def test_a_taken_folder_is_refused_unless_it_may_be_replaced(city, tmp_path):
    out = tmp_path / "run"
    quick(city, out, steps=5)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds a run") as caught:
        quick(city, out, steps=6)
    assert caught.value.field == "out"
    assert quick(city, out, steps=6, overwrite=True).record["steps"] == 6
    assert (out / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    with pytest.raises(InputError, match="holds no run"):
        quick(city, tmp_path / "other", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not a folder"):
        quick(city, tmp_path / "file")


def test_resume_needs_a_run(city, tmp_path):
    with pytest.raises(InputError, match="no run to go on with") as caught:
        quick(city, tmp_path / "none", resume=True)
    assert caught.value.field == "resume"
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError):
        quick(city, None, resume=True)
    with pytest.raises(InputError) as caught:
        quick(city, tmp_path / "none", resume=True, overwrite=True)
    assert caught.value.field == "resume, overwrite"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused_by_name(city, tmp_path, share):
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        quick(city, out, stop_at(5))
    checkpoint = out / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="not a whole checkpoint") as caught:
        quick(city, out, resume=True)
    assert caught.value.file == str(checkpoint)
    assert "--overwrite" in caught.value.remedy


def test_a_checkpoint_that_would_run_code_is_refused(city, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        quick(city, out, stop_at(5))
    torch.save({"stgraph": Evil()}, out / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match="not a whole checkpoint"):
        quick(city, out, resume=True)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_is_told_and_the_earlier_checkpoint_stands(city, uninterrupted, tmp_path, monkeypatch):
    out = tmp_path / "run"
    plain, calls = Path.write_bytes, []

    def write_bytes(path, data):
        if path.name == "last.ckpt":
            calls.append(path)
            if len(calls) == 3:
                plain(path, bytes(data)[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(InputError, match="No space left") as caught:
            quick(city, out, checkpoint_seconds=0.0)
    assert caught.value.file == str(out / "checkpoints" / "last.ckpt")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["last.ckpt"]
    assert read_checkpoint(out / "checkpoints" / "last.ckpt")["stgraph"]["step"] == 1
    assert same(quick(city, out, resume=True).model, uninterrupted.model)
