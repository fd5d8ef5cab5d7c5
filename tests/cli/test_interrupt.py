"""Ctrl-C: training stops after its update, everything is saved, and resuming gives what an unbroken run gives."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rltool

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from rltool.cli.main import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(process: subprocess.Popen[str], run: Path, rows: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "metrics.csv").exists() and (run / "metrics.csv").read_bytes().count(b"\n") > rows:
            return
        time.sleep(0.01)
    raise AssertionError(f"no rows: {process.communicate()}")


def rows_without_time(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("time/time_elapsed", "time/fps")} for row in rows]


OPTIONS = (
    "CartPole-v1",
    "--preset",
    "none",
    "--num-envs",
    4,
    "--log-freq",
    200,
    "--eval-freq",
    2_000,
    "--eval-episodes",
    2,
)


@pytest.mark.parametrize("method", ["a2c", "ppo", "reinforce"])
def test_ctrl_c_saves_and_resume_ends_as_if_nothing_had_happened(cli, workplace, method):
    options = [*OPTIONS, "--learning-rate-schedule", "linear", "--normalize-observations", "--normalize-returns"]
    options += ["--num-steps", 32, "--batch-size", 64, "--num-epochs", 4] if method == "ppo" else []
    process = start("train", method, *options, "-n", 24_000, "--save-freq", 5_000, "--name", "broken")
    run = workplace / "runs" / "broken"
    wait_for_rows(process, run, 4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "stopping after this update; Ctrl-C again stops at once" in err
    stopped = json.loads((run / "summary.json").read_text())
    assert stopped["finished"] is False
    assert 800 <= stopped["total_timesteps"] < 24_000
    assert f"stopped at timestep {stopped['total_timesteps']:,}; go on with: rltool resume runs/broken" in out
    assert (run / "model.safetensors").exists()
    assert (run / "learning_curve.png").exists()
    assert "\tstopped\t" in cli("list", "runs").out
    assert cli("eval", "broken", "--episodes", 1).code == 0

    stands = cli("resume", "broken", "-n", 1)
    assert stands.code == 0
    assert "stands at" in stands.out
    assert cli("resume", "broken", "--quiet").code == 0
    assert cli("train", method, *options, "-n", 24_000, "--save-freq", 5_000, "--name", "whole", "--quiet").code == 0
    whole = workplace / "runs" / "whole"
    assert rows_without_time(run) == rows_without_time(whole)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    one, two = (sorted((r / "checkpoints").iterdir())[-1] for r in (run, whole))
    assert one.name == two.name
    one, two = (rltool.training.checkpoint.load_state(path) for path in (one, two))
    assert all((one.tensors[name] == two.tensors[name]).all() for name in two.tensors)
    for state in (one, two):
        state.values["recorder"].pop("elapsed")
    assert one.values == two.values


def test_ctrl_c_and_resume_of_a_gan(cli, workplace):
    options = ["wgan-gp", "ring8", "--preset", "none", "--hidden-sizes", "16", "--batch-size", 32, "--noise-size", 2]
    options += ["--discriminator-steps", 1, "--schedule", "linear", "--ema", 0.99]
    options += ["--log-freq", 20, "--eval-freq", 300, "--eval-episodes", 200]
    process = start("train", *options, "-n", 800, "--name", "broken")
    run, whole = workplace / "runs" / "broken", workplace / "runs" / "whole"
    wait_for_rows(process, run, 4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    stopped = json.loads((run / "summary.json").read_text())
    assert stopped["finished"] is False
    assert 80 <= stopped["total_timesteps"] < 800
    assert "go on with: rltool resume runs/broken" in out
    assert cli("resume", "broken", "--quiet").code == 0
    assert cli("train", *options, "-n", 800, "--name", "whole", "--quiet").code == 0
    assert rows_without_time(run) == rows_without_time(whole)
    for name in ("model.safetensors", "samples.png", "training.gif"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_ctrl_c_stop_at_once(workplace):
    # One update takes minutes here.
    process = start("train", "ppo", "CartPole-v1", "-n", 10_000_000, "--num-envs", 4, "--num-steps", 200_000,
                    "--batch-size", 16, "--name", "r")  # fmt: skip
    deadline = time.monotonic() + 60
    while not (workplace / "runs" / "r" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "stopping after this update" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode not in (0, 2)
    assert "Traceback" not in err
    assert "stopped at once; go on from the last checkpoint with: rltool resume runs/r" in err


def test_ctrl_c_stops_all_seeds(workplace):
    process = start("train", "a2c", *OPTIONS, "-n", 5_000_000, "--seeds", "0-1", "--name", "many")
    many = workplace / "runs" / "many"
    for seed in range(min(2, os.cpu_count() or 1)):
        wait_for_rows(process, many / f"seed-{seed}", 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "go on with each seed: rltool resume" in err
    run = rltool.load(many / "seed-0")
    assert run.summary["finished"] is False
    assert run.checkpoints()


@pytest.mark.parametrize("method", ["a2c", "ppo", "reinforce"])
def test_a_smaller_budget_first_changes_nothing(cli, workplace, method):
    options = [*OPTIONS, *(("--num-steps", 50, "--batch-size", 40) if method == "ppo" else ()), "--eval-freq", 0]
    assert cli("train", method, *options, "-n", 4_000, "--name", "whole", "--quiet").code == 0
    assert cli("train", method, *options, "-n", 2_000, "--name", "parts", "--quiet").code == 0
    assert cli("resume", "parts", "-n", 4_000, "--quiet").code == 0
    whole, parts = workplace / "runs" / "whole", workplace / "runs" / "parts"
    if method != "reinforce":  # Its episodes do not end at the smaller budget, and those that it cuts are dropped.
        assert rows_without_time(whole) == rows_without_time(parts)
        assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert [row["time/total_timesteps"] for row in rltool.load("parts").metrics][-1] == 4_000
