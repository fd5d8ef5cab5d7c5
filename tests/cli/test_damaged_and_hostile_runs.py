"""Runs that are half-written, foreign or meant to do harm: one sentence, and no code of theirs is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
import safetensors.torch
import torch

import rltool
from rltool.training.checkpoint import State, load_state, save_state

TOUCH = "from pathlib import Path\nPath(r'{}').touch()\n"


def edit(run, **changes):
    """Change `config.json`; dotted names reach into it."""
    config = json.loads((run / "config.json").read_text())
    for name, value in changes.items():
        place, _, key = name.rpartition("__")
        (config[place] if place else config)[key] = value
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("verb", ["eval", "resume", "plot", "diagnose", "reproduce"])
@pytest.mark.parametrize(
    "content",
    [
        '{"method": "a2c", "da',
        "",
        "[]",
        "null",
        "{}",
        '{"method": "a2c"}',
        '{"method": "a2c", "data": 3, "run": {}, "config": {}}',
        '{"method": ["a2c"], "data": "CartPole-v1", "run": {}, "config": {}}',
        '{"method": "a2c", "data": "CartPole-v1", "run": [], "config": {}}',
        '{"method": "a2c", "data": "CartPole-v1", "run": {}, "config": "x"}',
        "\x80\x04\x95 pickle",
    ],
)
def test_a_config_that_is_no_config(cli, copy_of_trained, verb, content):
    (copy_of_trained / "config.json").write_bytes(content.encode("latin1"))
    said = cli(verb, "mine").sentence(2)
    assert "config.json" in said
    listed = cli("list", "runs")  # One damaged run does not hide the others.
    assert listed.code == 0
    assert listed.out == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "os.system"}, "no method 'os.system'"),
        ({"method": "os:system"}, "no method 'os:system'"),
        ({"data": "CartPole-v7"}, "did you mean 'CartPole-v1'?"),
        ({"run__seed": "one"}, "seed 'one' will not do"),
        ({"run__threads": -1}, "threads -1 will not do"),
        ({"run__surprise": 1}, "no option 'surprise'"),
        ({"run__env_kwargs": "x"}, "env-kwargs 'x' will not do"),
        ({"run__track": "os.system"}, "track 'os.system' will not do"),
        ({"config__gamma": 3}, "gamma 3 will not do"),
        ({"config__backbone": "os:system"}, "no backbone 'os:system'"),
        ({"config__hidden_sizes": "__import__('os')"}, "hidden-sizes"),
    ],
)
def test_options_of_a_run_are_checked(cli, copy_of_trained, changes, sentence):
    edit(copy_of_trained, **changes)
    assert sentence in cli("resume", "mine", "-n", 3_000).sentence(2)


def test_places_named_in_a_config_are_not_used(cli, copy_of_trained, workplace):
    edit(copy_of_trained, run__name="../../x", run__run_dir="/nowhere")
    done = cli("resume", "mine", "-n", 1_600)
    assert done.code == 0, done.err
    assert not (workplace.parent / "x").exists()
    assert not (workplace.parent.parent / "x").exists()
    assert rltool.load("mine").summary["total_timesteps"] == 1_600


def test_a_summary_that_is_none_is_overlooked(cli, copy_of_trained, trained, workplace):
    shutil.copytree(trained, workplace / "runs" / "good")
    for content in ('{"total', "[]", '{"finished": 1}', '{"finished": true, "total_timesteps": 3, "mean_return": "x"}'):
        (copy_of_trained / "summary.json").write_text(content)
        listed = cli("list", "runs")
        assert listed.code == 0, listed.err
        assert "runs/good\ta2c" in listed.out


@pytest.mark.parametrize("damage", ["truncated", "garbled", "empty", "pickle", "foreign", "header"])
def test_weights_that_are_none_cannot_be_loaded_and_run_nothing(cli, copy_of_trained, workplace, damage):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(workplace / "HARM"),)

    file = copy_of_trained / "model.safetensors"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        file.write_bytes(bytes(reversed(content)))
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "pickle":
        file.write_bytes(pickle.dumps(Harm()))
    elif damage == "foreign":
        safetensors.torch.save_file({"a": torch.zeros(3)}, file)
    else:
        file.write_bytes(b"\xff" * 8 + content[8:])
    said = cli("eval", "mine").sentence(2)
    assert "model.safetensors is damaged or was not written by rltool" in said
    for copy in (copy_of_trained / "checkpoints").iterdir():
        copy.write_bytes(file.read_bytes())
    assert "no checkpoint in runs/mine can be read" in cli("resume", "mine", "-n", 3_000).sentence(2)
    assert not (workplace / "HARM").exists()


@pytest.mark.parametrize("values", ["[]", "3", '{"method": "a2c"}', '{"method": "a2c", "config": 3, "env_id": "x"}'])
def test_weights_with_strange_values(cli, copy_of_trained, values):
    tensors = load_state(copy_of_trained / "model.safetensors").tensors
    safetensors.torch.save_file(tensors, copy_of_trained / "model.safetensors", {"rltool": values})
    done = cli("eval", "mine")
    assert done.code in (1, 2)
    assert "Traceback" not in done.err


def test_weights_of_another_method_or_shape(cli, copy_of_trained):
    state = load_state(copy_of_trained / "model.safetensors")
    save_state(copy_of_trained / "model.safetensors", State(state.tensors, state.values | {"method": "ppo"}))
    assert cli("eval", "mine").code == 2
    tensors = {name: tensor[:1].clone() for name, tensor in state.tensors.items()}
    save_state(copy_of_trained / "model.safetensors", State(tensors, state.values))
    done = cli("eval", "mine")
    assert done.code in (1, 2)
    assert "Traceback" not in done.err


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(cli, copy_of_trained):
    newest = copy_of_trained / "checkpoints" / "step-000000001500.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[:1_000])
    done = cli("resume", "mine", "-n", 2_000)
    assert done.code == 0, done.err
    assert "step-000000001500.safetensors is damaged; going on from the checkpoint before it" in done.err
    assert "from timestep 1,000" in done.err
    assert newest.with_suffix(".damaged").read_bytes() == content[:1_000]
    assert [row["time/total_timesteps"] for row in rltool.load("mine").metrics] == [500, 1_000, 1_500, 2_000]


@pytest.mark.parametrize("place", [60, 0.5, -1])
def test_one_flipped_byte_of_a_checkpoint_is_found(cli, copy_of_trained, place):
    newest = copy_of_trained / "checkpoints" / "step-000000001500.safetensors"
    content = bytearray(newest.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 1
    newest.write_bytes(content)
    done = cli("resume", "mine", "-n", 2_000)
    assert done.code == 0, done.err
    assert "step-000000001500.safetensors is damaged; going on from the checkpoint before it" in done.err
    assert newest.with_suffix(".damaged").read_bytes() == content


@pytest.mark.parametrize("place", ["config", "checkpoint", "model"])
def test_a_newer_format_is_one_sentence_and_nothing_is_set_aside(cli, copy_of_trained, monkeypatch, place):
    if place == "config":
        edit(copy_of_trained, format=7)
    else:
        folder = copy_of_trained / "checkpoints" if place == "checkpoint" else copy_of_trained
        for file in folder.glob("*.safetensors"):
            state = load_state(file)
            with monkeypatch.context() as patch:
                patch.setattr("rltool.training.checkpoint.FORMAT", 7)
                patch.setattr("rltool.training.checkpoint.checksum.__defaults__", (7,))
                save_state(file, state)
    before = sorted(path.name for path in copy_of_trained.rglob("*"))
    said = cli(*(("eval", "mine") if place == "model" else ("resume", "mine", "-n", 2_000))).sentence(2)
    assert said.endswith("was written by a newer rltool (format 7); upgrade rltool")
    assert sorted(path.name for path in copy_of_trained.rglob("*")) == before


def test_a_checkpoint_of_another_network_is_damaged_too(cli, copy_of_trained):
    newest = copy_of_trained / "checkpoints" / "step-000000001500.safetensors"
    state = load_state(newest)
    state.tensors = {name: torch.zeros(3) for name in state.tensors}
    save_state(newest, state)
    done = cli("resume", "mine", "-n", 2_000)
    assert done.code == 0
    assert "is damaged" in done.err


def test_a_run_without_checkpoint_starts_again(cli, copy_of_trained):
    before = load_state(copy_of_trained / "model.safetensors").tensors
    shutil.rmtree(copy_of_trained / "checkpoints")
    (copy_of_trained / "checkpoints").mkdir()
    for name in ("summary.json", "model.safetensors"):
        (copy_of_trained / name).unlink()
    assert "model.safetensors" in cli("eval", "mine").sentence(2)
    done = cli("resume", "mine")
    assert done.code == 0
    assert "from timestep 0" in done.err
    after = load_state(copy_of_trained / "model.safetensors").tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_lost_its_summary_gets_it_back(cli, copy_of_trained):
    """As after a crash between the last checkpoint and the summary."""
    (copy_of_trained / "summary.json").unlink()
    assert "going on" in cli("list", "runs").out
    done = cli("resume", "mine")
    assert done.code == 0, done.err
    assert rltool.load("mine").summary["finished"] is True
    assert "finished" in cli("list", "runs").out


# Modules that a run names.


def test_a_module_that_a_run_names_is_announced(cli, command, workplace):
    cli("train", "a2c", "odd_environments:Line-v0", "-n", 64, "--eval-freq", 0, "--quiet", "--name", "m")
    done = command("eval", "m", "--json", cwd=workplace)
    assert done.code == 0, done.err
    assert done.err.splitlines()[0] == "importing odd_environments, which the run names for odd_environments:Line-v0"
    assert done.json["episodes"] == 20


@pytest.mark.parametrize("place", ["inside", "above"])
@pytest.mark.parametrize("where", ["config", "weights"])
@pytest.mark.parametrize("verb", ["eval", "resume", "diagnose", "reproduce"])
def test_a_module_is_never_imported_from_the_runs_own_folder(
    cli, copy_of_trained, workplace, monkeypatch, place, where, verb
):
    (copy_of_trained / "evil_module.py").write_text(TOUCH.format(workplace / "HARM"))
    module = "evil_module" if place == "inside" else "mine.evil_module"
    if where == "config":
        edit(copy_of_trained, data=f"{module}:CartPole-v1")
    else:
        state = load_state(copy_of_trained / "model.safetensors")
        state.values["env_id"] = f"{module}:CartPole-v1"
        save_state(copy_of_trained / "model.safetensors", state)
    monkeypatch.chdir(copy_of_trained if place == "inside" else copy_of_trained.parent)
    done = cli(verb, "." if place == "inside" else "mine", *(("-n", 3_000) if verb == "resume" else ()))
    assert not (workplace / "HARM").exists()
    if where == "config" or verb in ("eval", "diagnose"):  # The others do not read the model's environment.
        assert "never" in done.sentence(2)
    assert "Traceback" not in done.err


def test_a_link_to_a_module_does_not_get_around_it(cli, copy_of_trained, workplace, monkeypatch):
    (copy_of_trained / "evil_module.py").write_text(TOUCH.format(workplace / "HARM"))
    edit(copy_of_trained, data="innocent.evil_module:CartPole-v1")
    (workplace / "innocent").symlink_to(copy_of_trained, target_is_directory=True)
    assert "never" in cli("eval", "mine").sentence(2)
    assert not (workplace / "HARM").exists()


def test_nothing_in_a_run_is_executable(trained):
    endings = {path.suffix for path in trained.rglob("*") if path.is_file() and path.name != ".lock"}
    assert endings == {".json", ".csv", ".png", ".safetensors"}
    for path in trained.rglob("*.safetensors"):
        assert b"cpython" not in path.read_bytes()
        assert path.read_bytes()[8:9] == b"{"
