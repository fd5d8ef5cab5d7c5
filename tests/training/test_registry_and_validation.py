"""Names, entry points of other packages, and the sentences about wrong options."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest
from pydantic import BaseModel, Field, model_validator

import rltool
from rltool.errors import UserError, unknown
from rltool.lazy import lazy_exports
from rltool.registry import Registry
from rltool.training.methods import METHODS, Method
from rltool.training.options import resolve_options
from rltool.validation import validate


def test_registry():
    registry = Registry("thing")

    @registry.register("one")
    class One:
        """The first.

        More of it.
        """

    registry.add("two", "math:pi", "a number")
    assert registry.names() == ["one", "two"]
    assert [entry.summary for entry in registry] == ["The first.", "a number"]
    assert registry["one"].load() is One
    assert registry["two"].load() == pytest.approx(3.14159, abs=1e-4)
    with pytest.raises(UserError, match=r"no thing 'tow'; did you mean 'two'\?"):
        registry["tow"]
    with pytest.raises(UserError, match="no thing 'xyz'; choose one of one, two"):
        registry["xyz"]
    with pytest.raises(UserError, match=r"choose one of \(none known\)"):
        Registry("thing")["x"]


@pytest.mark.parametrize("target", ["no_such_module:x", "math:no_such_thing"])
def test_an_entry_that_cannot_be_loaded_says_so(target):
    registry = Registry("thing")
    registry.add("broken", target, "from a-package")
    with pytest.raises(UserError, match=r"'broken' \(from a-package\) cannot be loaded: .*no_such"):
        registry["broken"].load()


def package(folder, name, group, points):
    """An installed package with entry points, as pip leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) + "\n")


def test_entry_points_of_other_packages(tmp_path, monkeypatch):
    package(tmp_path, "another", "tests.things", {"theirs": "math:tau"})
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("thing", group="tests.things")
    registry.add("ours", 1)
    assert registry.names() == ["ours", "theirs"]
    assert registry["theirs"].load() == pytest.approx(6.283, abs=1e-3)
    assert registry["theirs"].summary == "from another"


def test_two_packages_of_one_name(tmp_path, monkeypatch):
    package(tmp_path, "another", "tests.things", {"ours": "math:tau"})
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("thing", group="tests.things")
    registry.add("ours", 1)
    with pytest.raises(UserError, match="two packages register the thing 'ours'; uninstall one of them"):
        registry.names()


def test_a_method_of_a_third_party_is_listed_and_trains(tmp_path):
    package(tmp_path / "site", "toy-method", "rltool.methods", {"toy": "toy_method:METHOD"})
    (tmp_path / "site" / "toy_method.py").write_text(
        textwrap.dedent(
            '''
            from pydantic import Field
            from rltool.agents.config import A2CConfig
            from rltool.training.methods import Method


            class ToyConfig(A2CConfig):
                """Options of the toy."""

                sparkle: float = Field(0.5, ge=0, description="How much it sparkles.")


            METHOD = Method(ToyConfig, "toy_learner:Toy")
            '''
        )
    )
    (tmp_path / "site" / "toy_learner.py").write_text(
        textwrap.dedent(
            '''
            from rltool.agents.a2c import A2C
            from toy_method import ToyConfig


            class Toy(A2C):
                """A2C that sparkles."""

                method = "toy"
                config_class = ToyConfig
            '''
        )
    )
    script = textwrap.dedent(
        """
        import sys
        from rltool.cli.main import main
        for arguments in sys.argv[1:]:
            sys.argv = ["rltool", *arguments.split()]
            try:
                main()
            except SystemExit as end:
                print("exit", end.code)
        """
    )
    commands = [
        "list methods",
        "train toy --help",
        "train toy CartPole-v1 --sparkle -1",
        "train toy CartPole-v1 --sparkle 2 -n 64 --eval-freq 0 --name t --quiet",
        "eval t --episodes 1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *commands],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert "toy\tfrom toy-method" in done.stdout
    assert "How much it sparkles." in done.stdout
    assert "sparkle -1.0 will not do" in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("exit")] == [
        f"exit {code}" for code in (0, 0, 2, 0, 0)
    ], done.stderr
    assert '"sparkle": 2.0' in (tmp_path / "runs" / "t" / "config.json").read_text()


class Options(BaseModel):
    """Something to validate."""

    learning_rate: float = Field(0.1, gt=0)
    sizes: tuple[int, ...] = (1, 2)

    @model_validator(mode="after")
    def _check(self):
        if sum(self.sizes) > 10:
            raise ValueError("The sizes are too large; make them smaller")
        return self


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rat": 1}, "no option 'learning_rat'; did you mean 'learning_rate'?"),
        ({"zzz": 1}, "no option 'zzz'; choose one of learning_rate, sizes"),
        ({"learning_rate": -1}, "learning-rate -1 will not do: input should be greater than 0"),
        ({"learning_rate": "fast"}, "learning-rate 'fast' will not do: input should be a valid number"),
        ({"sizes": (1, "x")}, "sizes 'x' will not do"),
        ({"sizes": (9, 9)}, "The sizes are too large; make them smaller"),
        ([1], "options are a table"),
        (None, "options are a table"),
    ],
)
def test_validation_is_one_sentence(options, sentence):
    with pytest.raises(UserError) as caught:
        validate(Options, options)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_validation_of_good_options():
    assert validate(Options, {"learning_rate": 1}).learning_rate == 1.0
    assert validate(Options, {}) == Options()


def test_unknown_names():
    assert str(unknown("method", "pp0", ["ppo", "a2c"])) == "no method 'pp0'; did you mean 'ppo'?"
    assert str(unknown("method", "x", iter(["ppo", "a2c"]))) == "no method 'x'; choose one of ppo, a2c"


def test_lazy_exports():
    assert {"train", "load", "evaluate", "make_vector_env", "UserError"} <= set(dir(rltool))
    assert rltool.UserError is UserError
    for name in rltool.__all__:
        assert getattr(rltool, name) is not None
    with pytest.raises(AttributeError, match="module 'rltool' has no attribute 'trian'"):
        rltool.trian
    get, listing, names = lazy_exports("rltool", {"errors": ["unknown"]})
    assert names == ["unknown"]
    assert get("unknown") is unknown
    assert "unknown" in listing()


# Values: what is given wins over the preset, the preset over the default.


def test_values_win_in_order():
    from rltool.training.methods import Method

    known = METHODS["a2c"].load()
    method = Method(known.config, known.learner, presets={"Env-v0": {"gamma": 0.5, "num_envs": 3, "log_freq": 7}})
    run, config, preset = resolve_options(method, "Env-v0", {"num_envs": 4})
    assert (config.num_envs, config.gamma, config.gae_lambda, run.log_freq, preset) == (4, 0.5, 1.0, 7, "Env-v0")
    run, config, preset = resolve_options(method, "Env-v0", {"preset": "none"})
    assert (config, preset, run.preset) == (known.config(), "none", "none")
    assert resolve_options(method, "Other-v0", {})[2] == "none"
    assert resolve_options(method, "Other-v0", {"preset": "Env-v0"})[1].gamma == 0.5
    with pytest.raises(UserError, match=r"no preset 'Env-v1'; did you mean 'Env-v0'\?"):
        resolve_options(method, "Env-v0", {"preset": "Env-v1"})
    with pytest.raises(UserError, match=r"no option 'gama'; did you mean 'gamma'\?"):
        resolve_options(method, "Env-v0", {"gama": 1})


def test_arguments_of_the_environment_add_to_the_presets():
    from rltool.training.methods import Method

    known = METHODS["a2c"].load()
    presets = {"Env-v0": {"env_kwargs": {"frame_stack": 4, "g": 9.8}}}
    method = Method(known.config, known.learner, presets=presets)
    run, _, _ = resolve_options(method, "Env-v0", {"env_kwargs": {"g": 1.6}})
    assert run.env_kwargs == {"frame_stack": 4, "g": 1.6}
    assert resolve_options(method, "Env-v0", {"preset": "none"})[0].env_kwargs == {}


@pytest.mark.parametrize("method", ["reinforce", "a2c", "ppo"])
def test_every_preset_is_valid_and_belongs_to_an_environment(method):
    known = METHODS[method].load()
    ids = rltool.envs.environment_ids()
    for name in known.presets:
        run, config, preset = resolve_options(known, name, {})
        assert preset == name
        # Atari's are there with the extra of that name; those of a module are registered when it is imported.
        assert name in ids or name.startswith("ALE/") or importlib.util.find_spec(name.partition(":")[0])
        assert run.total_timesteps % config.num_envs == 0


def test_an_option_brings_its_own_preset():
    known = METHODS["ppo"].load()
    tuned = {"Env-v0": {"num_envs": 4, "gamma": 0.9}}
    hardened = {("robust", "sa"): {"Env-v0": {"epsilon": 0.3, "gamma": 0.8}}}
    method = Method(known.config, known.learner, presets=tuned, variants=hardened)
    assert resolve_options(method, "Env-v0", {})[1].gamma == 0.9
    config = resolve_options(method, "Env-v0", {"robust": "sa"})[1]
    assert (config.num_envs, config.gamma, config.epsilon) == (4, 0.8, 0.3)
    assert resolve_options(method, "Env-v0", {"robust": "sa", "epsilon": 0.1})[1].epsilon == 0.1
    for options in ({"robust": "pgd"}, {"robust": "sa", "preset": "none"}):
        with pytest.raises(UserError, match="add --epsilon"):
            resolve_options(method, "Env-v0", options)


def test_every_preset_of_hardened_agents_is_valid():
    known = METHODS["ppo"].load()
    for (option, kind), presets in known.variants.items():
        for name in presets:
            assert name in known.presets  # Otherwise nobody would look here.
            run, config, _ = resolve_options(known, name, {option: kind})
            assert config.epsilon > 0
            assert run.total_timesteps % config.num_envs == 0
