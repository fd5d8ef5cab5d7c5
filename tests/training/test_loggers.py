"""`metrics.csv`: columns that come later, and files that ended in the middle of a line."""

from __future__ import annotations

import csv

import pytest

from rltool.training.loggers import FIRST_COLUMNS, CSVLogger, read_metrics

ROW = {"time/total_timesteps": 100, "time/time_elapsed": 0.5, "time/fps": 200.0}


def test_columns_that_come_later_are_added(tmp_path):
    logger = CSVLogger(tmp_path / "metrics.csv")
    logger.write(ROW)
    logger.write({**ROW, "time/total_timesteps": 200, "eval/mean_return": 1.25, "train/kl": 1e-9})
    logger.write({**ROW, "time/total_timesteps": 300})
    with open(tmp_path / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [*FIRST_COLUMNS, "eval/mean_return", "train/kl"]
    assert [row["eval/mean_return"] for row in table] == ["", "1.25", ""]
    assert [row["time/total_timesteps"] for row in table] == ["100", "200", "300"]  # Whole numbers read as such.
    rows = read_metrics(tmp_path / "metrics.csv")
    assert rows[0] == ROW
    assert rows[1]["train/kl"] == 1e-9


def test_a_file_without_rows_has_a_header(tmp_path):
    CSVLogger(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text().strip() == ",".join(FIRST_COLUMNS)
    assert read_metrics(tmp_path / "metrics.csv") == []
    assert read_metrics(tmp_path / "none.csv") == []


def test_values_survive_to_nine_digits(tmp_path):
    logger = CSVLogger(tmp_path / "metrics.csv")
    logger.write({**ROW, "train/a": 0.1234567891, "train/b": -1.5e-30, "train/c": 1e22})
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert row["train/a"] == pytest.approx(0.1234567891, rel=1e-9)
    assert (row["train/b"], row["train/c"]) == (-1.5e-30, 1e22)


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = CSVLogger(path)
    for k in (1, 2, 3):
        logger.write({**ROW, "time/total_timesteps": 1_000 * k, "rollout/ep_rew_mean": 123.456})
    whole = path.read_bytes()
    start = whole.rstrip().rfind(b"\n") + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        assert [row["time/total_timesteps"] for row in read_metrics(path)] == [1_000, 2_000]
    path.write_bytes(whole)
    assert len(read_metrics(path)) == 3


def test_going_on_after_a_torn_line(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = CSVLogger(path)
    for k in (1, 2):
        logger.write({**ROW, "time/total_timesteps": 100 * k, "train/loss": 1.5})
    path.write_bytes(path.read_bytes()[:-5])
    CSVLogger(path, keep_until=150).write({**ROW, "time/total_timesteps": 200, "train/loss": 2.5})
    assert [(r["time/total_timesteps"], r["train/loss"]) for r in read_metrics(path)] == [(100, 1.5), (200, 2.5)]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage\n\x80", b"a,b\n1,2\n", b'"time/total_timesteps\n1\n'])
def test_garbage_has_no_rows(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    assert read_metrics(tmp_path / "metrics.csv") == []
