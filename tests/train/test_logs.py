"""The log goes on where the run goes on."""

from __future__ import annotations

import csv

from stgraph.train.logs import COLUMNS, MetricsLog


def test_rows_after_the_checkpoint_are_dropped_when_a_run_goes_on(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(1, 11):
        log.write(step, step / 10, 0.1, 1 / step, 2.0 if step % 5 == 0 else None)
    log.close()
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("11,0.")  # cut off by a crash
    log = MetricsLog(tmp_path, step=7)
    log.write(8, 0.9, 0.1, 42.0)
    log.close()
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(rows[0]) == list(COLUMNS)
    assert rows[4]["validation"] == "2.0"
    assert rows[5]["validation"] == ""
    assert rows[7]["train_loss"] == "42.0"


def test_without_tensorboard_the_csv_stands_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    log = MetricsLog(tmp_path)
    log.write(1, 0.1, 0.1, 1.0)
    log.close()
    assert log.events is None
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
