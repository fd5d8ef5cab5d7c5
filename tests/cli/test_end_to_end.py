"""From a training to its films: what a newcomer does when everything goes well."""

from __future__ import annotations

import csv
import json
import shutil

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

import rltool
from rltool.agents import A2C
from rltool.training.methods import METHODS

TINY = ("--log-freq", 256, "--eval-freq", 512, "--save-freq", 512, "--eval-episodes", 2)
TINY += ("--seed", 3, "--preset", "none")
SIZES = {
    "reinforce": ("--num-envs", 4),
    "a2c": ("--num-envs", 4, "--num-steps", 8),
    "ppo": ("--num-envs", 4, "--num-steps", 32, "--batch-size", 64, "--num-epochs", 2),
}
COLUMNS = {
    "time/total_timesteps",
    "time/time_elapsed",
    "time/fps",
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "eval/mean_return",
    "train/learning_rate",
}
SUMMARY = {
    "method",
    "data",
    "finished",
    "mean_return",
    "total_timesteps",
    "seconds",
    "timesteps_per_second",
    "peak_memory_mb",
}


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("method", ["reinforce", "a2c", "ppo"])
def test_every_method_trains_evaluates_resumes_plots_and_is_listed(cli, workplace, method):
    done = cli("train", method, "CartPole-v1", "-n", 1_024, *TINY, *SIZES[method])
    assert done.code == 0, done.err
    run = workplace / "runs" / f"{method}-CartPole-v1-1"
    assert f"rltool eval runs/{run.name} --video" in done.out  # What to do next is said.
    assert f"{method} on CartPole-v1" in done.err
    assert "1,024/1,024 timesteps" in done.err

    config = read_json(run / "config.json")
    assert {"method", "data", "run", "config", "command", "versions", "git"} <= set(config)
    assert config["method"] == method
    assert config["run"]["seed"] == 3
    assert config["versions"]["rltool"] == "0.1.0"
    assert config["command"].startswith("rltool train")
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) >= COLUMNS
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 1_024
    summary = read_json(run / "summary.json")
    assert set(summary) >= SUMMARY
    assert summary["finished"] is True
    assert summary["total_timesteps"] == steps[-1]
    assert (run / "model.safetensors").stat().st_size > 0
    assert [p.suffix for p in sorted((run / "checkpoints").iterdir())] == [".safetensors"] * 2
    with Image.open(run / "learning_curve.png") as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image.convert("L")))) > 10  # Something is drawn.
    assert not [p for p in run.rglob("*") if p.name.endswith(".tmp")]
    assert (workplace / "runs" / "latest").resolve() == run

    report = cli("eval", "latest", "--episodes", 4, "--seed", 5, "--json")
    assert report.code == 0
    assert report.err == ""
    assert report.json["episodes"] == 4
    assert len(report.json["returns"]) == 4
    assert report.json["mean_return"] == pytest.approx(np.mean(report.json["returns"]))
    assert report.json == cli("eval", run.name, "--episodes", 4, "--seed", 5, "--json").json  # By its name, again.
    by_api = rltool.evaluate(rltool.load(run).agent, "CartPole-v1", episodes=4, seed=5)
    assert by_api.returns == report.json["returns"]

    again = cli("resume", run)
    assert again.code == 0
    assert "is finished at 1,024 timesteps" in again.out
    assert again.err == ""
    further = cli("resume", run, "-n", 1_536)
    assert further.code == 0, further.err
    assert "from timestep 1,0" in further.err
    assert read_json(run / "summary.json")["total_timesteps"] >= 1_536

    plotted = cli("plot", run, "--out", "curves/one.svg")
    assert plotted.code == 0
    assert (workplace / "curves" / "one.svg").read_text().lstrip().startswith("<?xml")
    listed = cli("list", "runs")
    assert f"runs/{run.name}\t{method}\tCartPole-v1\tfinished" in listed.out


def test_names_are_numbered_sanitized_and_never_overwritten(cli, workplace):
    small = ("-n", 64, "--eval-freq", 0, "--quiet")
    for _ in range(2):
        assert cli("train", "a2c", "CartPole-v1", *small).code == 0
    assert cli("train", "a2c", "odd_environments:Line-v0", *small, "--name", "my run: a/b~c@d>e").code == 0
    assert cli("train", "a2c", "odd_environments:Line-v0", *small).code == 0
    names = {path.name for path in (workplace / "runs").iterdir()}
    assert names == {
        "a2c-CartPole-v1-1",
        "a2c-CartPole-v1-2",
        "my-run--a-b-c-d-e",
        "a2c-odd_environments-Line-v0-1",
        "latest",
    }
    before = (workplace / "runs" / "a2c-CartPole-v1-1" / "config.json").read_bytes()
    refused = cli("train", "a2c", "CartPole-v1", "--name", "a2c-CartPole-v1-1")
    assert "exists; choose another --name" in refused.sentence(2)
    assert (workplace / "runs" / "a2c-CartPole-v1-1" / "config.json").read_bytes() == before
    shutil.rmtree(workplace / "runs" / "a2c-CartPole-v1-1")
    cli("train", "a2c", "CartPole-v1", *small)
    assert (workplace / "runs" / "a2c-CartPole-v1-3").is_dir()  # A number is not used twice.


@pytest.mark.parametrize("name", ["../../escaped", "..", ".", "/absolute", "latest"])
def test_a_name_cannot_leave_the_folder_of_runs(cli, workplace, name):
    (workplace / "a" / "b" / "runs").mkdir(parents=True)
    done = cli(
        "train", "a2c", "CartPole-v1", "-n", 32, "--eval-freq", 0, "--quiet", "--name", name, "--run-dir", "a/b/runs"
    )
    inside = {p.name for p in (workplace / "a" / "b" / "runs").glob("*")}
    assert {p.name for p in workplace.iterdir()} == {"odd_environments.py", "a"}
    assert {p.name for p in (workplace / "a").iterdir()} == {"b"}
    assert len(list((workplace / "a" / "b").iterdir())) == 1
    if done.code == 0:
        assert inside == {"..-..-escaped" if name.startswith("..") else "-absolute", "latest"}
    else:
        assert done.code == 2
        assert inside == set()


def test_two_runs_of_one_seed_are_the_same_bytes(cli, workplace):
    for name in ("one", "two"):
        done = cli("train", "ppo", "CartPole-v1", "-n", 512, *TINY, *SIZES["ppo"], "--name", name, "--json")
        assert done.code == 0
        assert set(done.json) >= SUMMARY
        assert done.json["run"].endswith(name)
        assert done.err == ""
    one, two = workplace / "runs" / "one", workplace / "runs" / "two"
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    rows = [
        [
            {k: v for k, v in row.items() if not k.startswith("time/t") and k != "time/fps"}
            for row in rltool.load(p).metrics
        ]
        for p in (one, two)
    ]
    assert rows[0] == rows[1]


def test_several_seeds_make_a_folder_each_and_are_summed_up(command, workplace):
    done = command(
        "train", "a2c", "CartPole-v1", "-n", 256, "--seeds", "0-1", "--name", "many", "--eval-episodes", 2, "--json"
    )
    assert done.code == 0, done.err
    report = done.json
    folders = [workplace / "runs" / "many" / f"seed-{s}" for s in (0, 1)]
    summaries = [read_json(folder / "summary.json") for folder in folders]
    returns = [summary["mean_return"] for summary in summaries]
    assert report["seeds"] == [0, 1]
    assert report["failed"] == {}
    assert report["mean_return"] == pytest.approx(np.mean(returns)) == pytest.approx(report["iqm"])
    low, high = report["interval_95"]
    assert min(returns) <= low <= high <= max(returns)
    assert [read_json(folder / "config.json")["run"]["seed"] for folder in folders] == [0, 1]
    assert read_json(workplace / "runs" / "many" / "summary.json") == report
    assert "seed 0: return" in done.err  # Progress does not disturb the JSON.


def test_seeds_of_one_configuration_become_one_curve(cli, workplace):
    for seed in (0, 1):
        cli("train", "a2c", "CartPole-v1", "-n", 512, "--seed", seed, "--log-freq", 64, "--eval-freq", 0, "--quiet",
            "--run-dir", "runs/many", "--name", f"seed-{seed}")  # fmt: skip
    for options in ((), ("--statistic", "iqm"), ("--x", "seconds"), ("--metric", "train/value_loss")):
        done = cli("plot", "many", "--out", "many.png", *options)
        assert (done.code, done.out) == (0, "many.png\n"), done.err
        with Image.open(workplace / "many.png") as image:
            image.load()


def test_films_can_be_watched(cli, copy_of_trained):
    assert cli("eval", copy_of_trained, "--episodes", 1, "--video", "--gif", "--json").code == 0
    film = copy_of_trained / "videos" / "CartPole-v1-seed0.mp4"
    reader = imageio_ffmpeg.read_frames(str(film))
    meta = next(reader)
    width, height = meta["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    assert (width, height) == (600, 400)
    assert len(frames) >= 8
    assert not all((frame == frames[0]).all() for frame in frames)
    assert meta["fps"] == 50
    with Image.open(film.with_suffix(".gif")) as image:
        pictures = [np.asarray(page.convert("RGB")) for page in ImageSequence.Iterator(image)]
    assert len(pictures) > 1
    assert not all((p == pictures[0]).all() for p in pictures)


def test_one_film_an_episode_and_they_are_named(cli, copy_of_trained):
    done = cli("eval", "mine", "--episodes", 2, "--seed", 4, "--gif")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.startswith("filmed ")]
    assert {p.name for p in (copy_of_trained / "videos").iterdir()} == {f"CartPole-v1-seed{s}.gif" for s in (4, 5)}


def test_an_environment_of_a_module_can_be_filmed(cli, workplace):
    cli("train", "a2c", "odd_environments:Painted-v0", "-n", 64, "--eval-freq", 0, "--quiet", "--name", "painted")
    done = cli("eval", "painted", "--episodes", 1, "--video")
    assert done.code == 0, done.err
    (film,) = (workplace / "runs" / "painted" / "videos").iterdir()
    reader = imageio_ffmpeg.read_frames(str(film))
    assert next(reader)["fps"] == 10
    brightness = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    assert brightness == pytest.approx([20 * t for t in range(11)], abs=4)


def test_an_environment_that_draws_nothing_says_so(cli, workplace):
    cli("train", "a2c", "odd_environments:Line-v0", "-n", 64, "--eval-freq", 0, "--quiet", "--name", "line")
    said = cli("eval", "line", "--video").sentence(2)
    assert "render" in said or "film" in said


def test_arguments_of_the_environment_travel_with_the_run(cli, workplace):
    done = cli(
        "train", "a2c", "Pendulum-v1", "-n", 400, "--env-arg", "g=9.81", "--name", "p", "--num-envs", 2, "--json"
    )
    assert done.code == 0, done.err
    assert read_json(workplace / "runs" / "p" / "config.json")["run"]["env_kwargs"] == {"g": 9.81}
    assert rltool.load("p").build().env.single.g == 9.81
    here, elsewhere = (
        cli("eval", "p", "--episodes", 1, "--json", *extra).json["mean_return"] for extra in ((), ("--env-arg", "g=1"))
    )
    assert here != elsewhere


def test_tensorboard_reads_what_is_tracked(cli, workplace):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cli("train", "a2c", "CartPole-v1", "-n", 512, *TINY, "--track", "tensorboard", "--name", "t", "--quiet")
    events = EventAccumulator(str(workplace / "runs" / "t"))
    events.Reload()
    rows = [row for row in rltool.load("t").metrics if "rollout/ep_rew_mean" in row]
    curve = events.Scalars("rollout/ep_rew_mean")
    assert [point.step for point in curve] == [row["time/total_timesteps"] for row in rows]
    assert [point.value for point in curve] == pytest.approx([row["rollout/ep_rew_mean"] for row in rows], rel=1e-6)
    assert {"eval/mean_return", "train/value_loss", "time/fps"} <= set(events.Tags()["scalars"])


def test_an_agent_plays_elsewhere_if_the_spaces_agree(cli, trained):
    done = cli("eval", trained, "--env", "CartPole-v0", "--episodes", 2, "--json")
    assert done.code == 0
    assert done.json["env"] == "CartPole-v0"
    sampled = cli("eval", trained, "--episodes", 2, "--stochastic", "--json")
    assert sampled.json["deterministic"] is False
    assert sampled.json["returns"] == cli("eval", trained, "--episodes", 2, "--stochastic", "--json").json["returns"]


def test_a_file_of_weights_plays_too(cli, trained):
    done = cli("eval", trained / "model.safetensors", "--episodes", 2, "--json")
    assert done.json["returns"] == cli("eval", trained, "--episodes", 2, "--json").json["returns"]


def test_a_file_of_weights_plays_where_it_was_trained(cli, workplace):
    A2C("CartPole-v1", env_kwargs={"max_episode_steps": 5}).save(workplace / "five.safetensors")
    assert cli("eval", "five.safetensors", "--episodes", 2, "--json").json["mean_length"] == 5


def test_lists_are_plain_lines_where_nobody_watches(cli, trained):
    methods = cli("list", "methods").out
    assert [line.split("\t")[0] for line in methods.splitlines()] == METHODS.names()
    assert "CartPole-v1\t" in cli("list", "envs", "cartpole").out
    assert "Pendulum-v1" not in cli("list", "envs", "cartpole").out
    assert {"mlp", "cnn"} <= {line.split("\t")[0] for line in cli("list", "backbones").out.splitlines()}
    empty = cli("list", "runs", "--run-dir", "nowhere")
    assert empty.code == 0
    assert empty.out == ""
    assert "no runs in nowhere" in empty.err


def test_a_budget_that_does_not_divide_is_rounded_up_and_said_so(cli):
    done = cli("train", "a2c", "CartPole-v1", "-n", 101, "--num-envs", 4, "--eval-freq", 0, "--name", "odd")
    assert "the budget is rounded up to 104 timesteps, a multiple of 4 environments" in done.err
    assert rltool.load("odd").summary["total_timesteps"] == 104


def test_quiet_is_quiet(cli):
    done = cli("train", "a2c", "CartPole-v1", "-n", 64, "--eval-freq", 0, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
