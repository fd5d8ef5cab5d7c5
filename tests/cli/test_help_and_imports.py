"""Help is complete and fits the screen; nothing that needs no agent waits for PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import rltool
from rltool.training.config import RunConfig
from rltool.training.methods import METHODS

VERBS = ["train", "eval", "sample", "adapt", "attack", "defend", "plot", "diagnose", "resume", "reproduce", "list"]


def test_version(cli):
    done = cli("--version")
    assert (done.code, done.out) == (0, f"rltool {rltool.__version__}\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(cli, verb):
    done = cli(verb, "--help")
    assert done.code == 0
    assert "Usage: rltool " + verb in done.out
    assert done.err == ""
    assert cli(verb, "-h").out == done.out or verb == "train"


def test_the_front_page_lists_the_verbs_in_the_order_of_use(cli):
    page = cli("--help").out
    places = [page.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize("arguments", [(), ("train",), ("list",)])
def test_without_arguments_help_is_shown_and_nothing_else_said(cli, arguments):
    done = cli(*arguments)
    assert "Usage: rltool" in done.out
    assert done.err == ""


@pytest.mark.parametrize("method", ["reinforce", "a2c", "ppo"])
def test_help_of_a_method_shows_every_option_with_its_default(cli, monkeypatch, method):
    monkeypatch.setenv("COLUMNS", "80")
    page = cli("train", method, "--help").out
    config = METHODS[method].load().config
    for name in {**RunConfig.model_fields, **config.model_fields}:
        flag = "--env-arg" if name == "env_kwargs" else f"--{name.replace('_', '-')}"
        assert any(flag in line.split() for line in page.splitlines()), f"{flag} is missing or cut short"
    assert max(map(len, page.splitlines())) <= 80
    words = " ".join(page.replace("│", " ").split())
    for name, field in config.model_fields.items():
        first_words = " ".join((field.description or "").split()[:2])
        assert (first_words or "?") in words, name
    for default in ("[default: 100000]", "[default: runs]", "[default: 0.99]", "default: 64,64]"):
        assert default in words
    assert "(100000)" not in page


def test_help_of_switches_names_both_ways(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    page = cli("train", "ppo", "--help").out
    assert "default: yes; --no-normalize-advantages" in page
    assert "tanh, relu, elu" in page


PRINT_MODULES = """
import json, sys
from rltool.cli.main import main
sys.argv = ["rltool", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit as end:
    print("exit", end.code, file=sys.stderr)
heavy = {"torch", "gymnasium", "matplotlib", "numpy", "stable_baselines3", "tensorboard"} & set(sys.modules)
print("heavy", json.dumps(sorted(heavy)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["train", "ppo", "--help"], 0),
        (["eval", "--help"], 0),
        (["diagnose", "--help"], 0),
        (["reproduce", "--help"], 0),
        (["train", "ppo", "CartPole-v1", "--gama", "1"], 2),
        (["train", "poo", "CartPole-v1"], 2),
        (["train", "ppo"], 2),
        (["train", "ppo", "CartPole-v1", "--gamma", "x"], 2),
        (["list", "methods"], 0),
        (["list", "backbones"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_nothing_heavy_is_imported_where_it_is_not_needed(arguments, code):
    done = subprocess.run(
        [sys.executable, "-c", PRINT_MODULES, json.dumps(arguments)], capture_output=True, text=True, timeout=60
    )
    lines = done.stderr.splitlines()
    assert lines[-2:] == [f"exit {code}", "heavy []"], done.stderr


def test_a_value_out_of_range_is_found_without_torch(tmp_path):
    arguments = ["train", "ppo", "CartPole-v1", "--gamma", "2"]
    done = subprocess.run(
        [sys.executable, "-c", PRINT_MODULES, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    lines = done.stderr.splitlines()
    assert lines[-2] == "exit 2", done.stderr
    assert "torch" not in lines[-1]


def test_importing_the_package_imports_nothing_heavy():
    script = "import sys, rltool.agents, rltool.envs, rltool.networks; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n"


def test_completion_knows_environments_and_runs(copy_of_trained):
    from rltool.cli.completion import complete_environment, complete_run

    assert "CartPole-v1" in complete_environment("CartP")
    assert complete_run("runs/m") == ["runs/mine"]
