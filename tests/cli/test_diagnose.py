"""What `rltool diagnose` prints."""

from __future__ import annotations

import json

import rltool


def test_a_run_without_findings(cli, workplace):
    rltool.train("ppo", "CartPole-v1", total_timesteps=60_000, eval_freq=0, name="good")
    done = cli("diagnose", "good", "--no-curvature")
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].startswith("runs/good: ppo on CartPole-v1; 5 episodes played, return ")
    assert "nothing looks wrong" in lines
    assert "Hessian" not in done.out
    assert "serious" not in done.out


def test_a_run_with_findings(cli, copy_of_trained):
    rltool.train("a2c", "CartPole-v1", preset="none", num_envs=8, learning_rate=1.0, total_timesteps=8_000, name="wild")
    done = cli("diagnose", "wild", "--episodes", 3, "--curvature")
    assert done.code == 0
    assert "3 episodes played" in done.out
    lines = done.out.splitlines()
    place = lines.index("serious: the return has not risen over the whole training (never-learned)")
    assert lines[place + 1].startswith("  seen: 9.")
    assert lines[place + 2].startswith("  try:  ")
    assert "nothing looks wrong" not in done.out
    assert lines[-1].startswith("Hessian eigenvalues from ")


def test_json(cli, copy_of_trained):
    done = cli("diagnose", "mine", "--json", "--episodes", 2, "--seed", 4)
    assert done.code == 0
    assert set(done.json) == {"run", "healthy", "findings", "returns", "lengths", "hessian_eigenvalues", "surface"}
    assert len(done.json["returns"]) == len(done.json["lengths"]) == 2
    low, high = done.json["hessian_eigenvalues"]
    assert low < high
    assert all(set(f) == {"name", "severity", "what", "evidence", "advice"} for f in done.json["findings"])
    assert done.json["healthy"] is all(f["severity"] == "note" for f in done.json["findings"])
    assert cli("diagnose", "mine", "--json", "--no-curvature").json["hessian_eigenvalues"] is None
    assert cli("diagnose", "mine", "--json", "--episodes", 2, "--seed", 4).json == done.json


def test_numbers_that_are_none_in_the_metrics_are_overlooked(cli, copy_of_trained):
    file = copy_of_trained / "metrics.csv"
    header, *lines = file.read_text().splitlines()
    columns = len(header.split(","))
    lines += [",".join(["2000", *["nan"] * (columns - 1)]), ",".join(["inf"] * columns)]
    file.write_text("\n".join([header, *lines]) + "\n")
    done = cli("diagnose", "mine", "--json")
    assert done.code == 0, done.err
    json.dumps(done.json, allow_nan=False)


def test_mistakes(cli, copy_of_trained):
    assert "there is no run nowhere" in cli("diagnose", "nowhere").sentence(2)
    assert "Invalid value for '--episodes'" in cli("diagnose", "mine", "--episodes", 0).sentence(2)
    (copy_of_trained / "model.safetensors").write_bytes(b"half")
    assert "is damaged or was not written by rltool" in cli("diagnose", "mine").sentence(2)
