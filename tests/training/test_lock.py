"""One process at a time trains a run, and a dead one holds nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

import rltool
from rltool.training.lock import locked

SENTENCE = "is being trained by another process; wait until it ends, or stop it first"
OPTIONS = {"preset": "none", "num_envs": 4, "log_freq": 200, "eval_freq": 0, "save_freq": 400}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_lock_is_held_once_and_given_back(tmp_path):
    for _ in range(2):
        with (
            locked(tmp_path, "runs/mine"),
            pytest.raises(rltool.UserError, match=f"runs/mine {SENTENCE}"),
            locked(tmp_path, "runs/mine"),
        ):
            pytest.fail("held twice")


def test_a_run_that_is_being_trained_cannot_be_resumed(tmp_path):
    tried = []

    def callback(learner, metrics):
        if learner.timesteps == 600:
            run = tmp_path / "r"
            before = contents(run)
            with pytest.raises(rltool.UserError, match=SENTENCE):
                rltool.resume(run)
            assert contents(run) == before
            tried.append(learner.timesteps)

    run = rltool.train("a2c", "CartPole-v1", total_timesteps=800, run_dir=str(tmp_path), name="r", callback=callback,
                       **OPTIONS)  # fmt: skip
    assert tried == [600]
    assert rltool.resume(run.path, 1_000).summary["total_timesteps"] == 1_000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_another_process_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    arguments = f"'a2c', 'CartPole-v1', total_timesteps=10**8, run_dir=sys.argv[1], name='r', **{OPTIONS}"
    script = f"import sys, rltool; rltool.train({arguments})"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    run = tmp_path / "r"
    try:
        deadline = time.monotonic() + 60
        while not list(run.glob("checkpoints/*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.02)
        command = [sys.executable, "-c", "from rltool.cli.main import main; main()", "resume", str(run)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert second.stderr.endswith(f"r {SENTENCE}\n")
        assert second.stderr.count("\n") == 1
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = rltool.load(run).checkpoints()[-1].stem.removeprefix("step-")
    assert rltool.resume(run, int(done) + 400).summary["total_timesteps"] == int(done) + 400
