"""Demonstrations come back from disk to the last bit, and whatever is wrong with a file is one sentence."""

import dataclasses
import json
import pickle

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from rltool.envs import Demonstrations, load_demonstrations, save_demonstrations
from rltool.envs.demonstration_names import check_free, full_name, local_datasets
from rltool.envs.demonstration_report import describe, draw_demonstrations
from rltool.errors import UserError
from rltool.trees import map_tree, tree_leaves

VECTOR = spaces.Box(-1, 1, (3,))
OBSERVATIONS = {
    "box": VECTOR,
    "double": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "image": spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "multibinary": spaces.MultiBinary((2, 3)),
    "dict": spaces.Dict({"z": VECTOR, "a": spaces.Tuple([spaces.Discrete(3), spaces.Dict(k=VECTOR)])}),
    "tuple": spaces.Tuple([VECTOR] * 11),
}
ACTIONS = {
    "box": spaces.Box(-2, 2, (2,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (1,), np.float64),
    "discrete": spaces.Discrete(3, start=1),
    "multidiscrete": spaces.MultiDiscrete([2, 4]),
    "multibinary": spaces.MultiBinary(3),
}


def sample(space, n):
    batch = batch_space(space, n)
    batch.seed(n)
    return batch.sample()


def make(observation_space, action_space, lengths=(3, 1, 12), **changes):
    n, episodes = sum(lengths), len(lengths)
    demos = Demonstrations(
        observation_space,
        action_space,
        sample(observation_space, n),
        sample(action_space, n),
        np.random.default_rng(0).normal(size=n),
        np.cumsum(lengths) - 1,
        np.arange(episodes) % 2 == 0,
        sample(observation_space, episodes),
        "CartPole-v1",
        {"sutton_barto_reward": True},
    )
    return dataclasses.replace(demos, **changes)


def assert_same(one, two):
    assert one.observation_space == two.observation_space
    assert one.action_space == two.action_space
    for a, b in zip(
        [one.observations, one.final_observations, one.actions, one.rewards, one.ends, one.terminated],
        [two.observations, two.final_observations, two.actions, two.rewards, two.ends, two.terminated],
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            map_tree(np.testing.assert_array_equal, a, b)
            for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
                assert x.dtype == y.dtype
    assert (one.env_id, one.env_kwargs) == (two.env_id, two.env_kwargs)


@pytest.fixture(params=["minari", "npz"])
def place(request, datasets, tmp_path):
    """A name of each kind."""
    return "group/mine" if request.param == "minari" else tmp_path / "mine.npz"


@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_observations_of_every_space_come_back(observations, place):
    demos = make(OBSERVATIONS[observations], ACTIONS["discrete"])
    save_demonstrations(place, demos)
    assert_same(load_demonstrations(place), demos)
    assert_same(load_demonstrations(place, demos.observation_space, demos.action_space, "CartPole-v1"), demos)


@pytest.mark.parametrize("actions", ACTIONS)
def test_actions_of_every_space_come_back(actions, place, tmp_path):
    demos = make(VECTOR, ACTIONS[actions])
    save_demonstrations(place, demos)
    loaded = load_demonstrations(place, VECTOR, ACTIONS[actions])
    assert_same(loaded, demos)
    figures = json.loads(json.dumps(describe(loaded)))
    assert all(sum(counts) == len(demos) for counts in figures["actions"].values())
    assert draw_demonstrations(loaded, tmp_path / "a.png").stat().st_size > 10_000


def test_what_is_unknown_stays_unknown(place):
    demos = make(
        OBSERVATIONS["dict"],
        ACTIONS["box"],
        terminated=None,
        final_observations=None,
        env_id=None,
        env_kwargs={},
        rewards=np.full(16, np.nan),
    )
    save_demonstrations(place, demos)
    assert_same(load_demonstrations(place), demos)
    assert describe(load_demonstrations(place))["return"]["mean"] is None


def test_minari_reads_our_datasets(datasets):
    demos = make(OBSERVATIONS["image"], ACTIONS["discrete"], env_kwargs={"sutton_barto_reward": True, "frame_stack": 2})
    save_demonstrations("mine", demos, "ppo", "a few episodes")
    dataset = minari.load_dataset("mine-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 16)
    assert list(minari.list_local_datasets()) == local_datasets() == ["mine-v0"]
    assert dataset.storage.metadata["algorithm_name"] == "ppo"
    assert dataset.env_spec.kwargs == {"sutton_barto_reward": True}  # what is ours is not its constructor's
    assert dataset.recover_environment().unwrapped._sutton_barto_reward
    np.testing.assert_array_equal(dataset[2].observations[-1], demos.final_observations[2])


def test_we_read_datasets_of_minari(datasets):
    """As its own collector writes them."""
    from minari.data_collector import EpisodeBuffer

    env = gym.make("CartPole-v1")
    buffer = EpisodeBuffer(
        observations=np.zeros((4, 4), np.float32),
        actions=np.array([0, 1, 0]),
        rewards=np.ones(3),
        terminations=np.array([False, False, False]),
        truncations=np.array([False, False, True]),
    )
    with pytest.warns(UserWarning, match="author"):
        minari.create_dataset_from_buffers("cartpole/theirs-v2", [buffer], env=env)
    demos = load_demonstrations("cartpole/theirs-v2", env.observation_space, env.action_space, "CartPole-v1")
    assert (demos.env_id, demos.name, list(demos.terminated)) == ("CartPole-v1", "cartpole/theirs-v2", [False])
    with pytest.raises(UserError, match="recorded in CartPole-v1, not in Acrobot-v1"):
        load_demonstrations("cartpole/theirs-v2", env_id="Acrobot-v1")
    # Whoever leaves out the version means the latest.
    load_demonstrations("cartpole/theirs-v2", env_id="CartPole")


def test_a_taken_name_is_refused_and_can_be_replaced(place, datasets):
    first, second = make(VECTOR, ACTIONS["box"]), make(VECTOR, ACTIONS["box"], lengths=(2, 2))
    check_free(place)
    save_demonstrations(place, first)
    for attempt in (check_free, lambda name: save_demonstrations(name, second)):
        with pytest.raises(UserError, match="already; choose another name, or add --overwrite"):
            attempt(place)
    path = save_demonstrations(place, second, overwrite=True)
    assert_same(load_demonstrations(place), second)
    assert [file.name for file in path.parent.iterdir() if "mine" in file.name] == [path.name]  # nothing is left over


def test_what_is_replaced_survives_a_failure(datasets, monkeypatch):
    demos = make(VECTOR, ACTIONS["box"])
    save_demonstrations("mine", demos)
    monkeypatch.setattr(minari, "create_dataset_from_buffers", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_demonstrations("mine", make(VECTOR, ACTIONS["box"], lengths=(2,)), overwrite=True)
    assert_same(load_demonstrations("mine"), demos)


@pytest.mark.parametrize("name", ["a b", "demos.csv", "/abs/olute", "", "../up", "a//b", "-v0/.hidden"])
def test_impossible_names(name, datasets):
    with pytest.raises(UserError, match="names no demonstrations"):
        full_name(name)


def test_a_group_is_no_name(datasets):
    save_demonstrations("group-v0/mine", make(VECTOR, ACTIONS["box"]))
    with pytest.raises(UserError, match="a folder of other things"):
        save_demonstrations("group-v0", make(VECTOR, ACTIONS["box"]), overwrite=True)


def test_spaces_that_a_format_has_no_place_for(datasets, tmp_path):
    numbered = make(spaces.Dict({0: VECTOR, 1: VECTOR}), ACTIONS["box"])
    with pytest.raises(UserError, match=r"text without /.*save a file\.npz"):
        save_demonstrations("mine", numbered)
    save_demonstrations(tmp_path / "mine.npz", numbered)
    assert_same(load_demonstrations(tmp_path / "mine.npz"), numbered)
    graphs = dataclasses.replace(make(VECTOR, ACTIONS["box"]), observation_space=spaces.Graph(VECTOR, None))
    with pytest.raises(UserError, match="graphs cannot be saved"):
        save_demonstrations(tmp_path / "graphs.npz", graphs)


# What is wrong with a file.

OBSERVATION, DISCRETE, CONTINUOUS = spaces.Box(-1, 1, (2,)), spaces.Discrete(2), spaces.Box(-1, 1, (1,))
GOOD = {
    "observations": np.zeros((4, 2)),
    "actions": np.array([0, 1, 1, 0]),
    "rewards": np.ones(4),
    "episode_ends": np.array([0, 1, 0, 1], bool),
}
NAN, ROWS = np.full((4, 2), np.nan), np.full((4, 1), 0.5)
BAD = {
    "no actions": ({"actions": None}, DISCRETE, "has no array 'actions'; it has episode_ends, observations, rewards"),
    "no observations": ({"observations": None}, DISCRETE, "has no array 'observations'"),
    "objects": ({"actions": np.array([{}] * 4)}, DISCRETE, "holds Python objects, which are not read"),
    "text": ({"actions": np.array(list("abcd"))}, DISCRETE, "actions in .* are <U1, not numbers"),
    "continuous": ({"actions": ROWS}, DISCRETE, r"continuous \(float64 numbers\), and here they are from Discrete"),
    "fractions": ({"actions": ROWS[:, 0]}, DISCRETE, "are continuous"),
    "discrete": ({}, CONTINUOUS, r"are discrete \(int64 numbers\), and here they are from Box"),
    "shape": ({"actions": np.full((4, 3), 0.5)}, CONTINUOUS, r"have the shape \(4, 3\), not \(4, 1\)"),
    "outside": ({"actions": ROWS * 3}, CONTINUOUS, r"outside Box\(.*as \[1.5\] at timestep 0"),
    "no such action": ({"actions": np.array([0, 1, 2, 0])}, DISCRETE, r"outside Discrete\(2\), as 2 at timestep 2"),
    "negative action": ({"actions": np.array([0, 1, -1, 0])}, DISCRETE, "as -1 at timestep 2"),
    "NaN actions": ({"actions": ROWS * np.nan}, CONTINUOUS, "actions in .* are NaN or infinite at timestep 0"),
    "NaN observations": ({"observations": NAN}, DISCRETE, "observations in .* are NaN or infinite at timestep 0"),
    "infinite reward": ({"rewards": np.array([1, 2, np.inf, 0])}, DISCRETE, "and infinite"),
    "short rewards": ({"rewards": np.ones(3)}, DISCRETE, r"a number for each of the 4 actions"),
    "short observations": ({"observations": np.zeros((3, 2))}, DISCRETE, r"shape \(3, 2\), not \(4, 2\)"),
    "other observations": ({"observations": np.zeros((4, 5))}, DISCRETE, r"shape \(4, 5\), not \(4, 2\)"),
    "short ends": ({"episode_ends": np.ones(3, bool)}, DISCRETE, "true or false for each of 4 actions"),
    "numbered ends": ({"episode_ends": np.array([0, 0, 1, 3])}, DISCRETE, "true or false for each of 4 actions"),
    "cut off": ({"episode_ends": np.array([0, 1, 0, 0], bool)}, DISCRETE, "cut off: its last episode has no end"),
    "one step": ({"episode_ends": np.ones(4, bool)}, DISCRETE, "one timestep long .* nothing in it follows anything"),
    "empty": ({name: rows[:0] for name, rows in GOOD.items()}, DISCRETE, "are empty"),
    "terminated": ({"terminated": np.ones(3, bool)}, DISCRETE, "each of its 4 timesteps or 2 episodes"),
    "final": ({"final_observations": np.zeros((3, 2))}, DISCRETE, r"final_observations in .* shape \(3, 2\)"),
    "scalar": ({"actions": np.array(1)}, DISCRETE, "true or false for each of 1 actions"),
}


def write(path, **changes):
    np.savez(path, **{name: rows for name, rows in {**GOOD, **changes}.items() if rows is not None})
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_get_a_sentence(case, tmp_path):
    changes, action_space, sentence = BAD[case]
    with pytest.raises(UserError, match=sentence):
        load_demonstrations(write(tmp_path / "bad.npz", **changes), OBSERVATION, action_space)


def test_good_arrays_of_others(tmp_path):
    """Of other types, with one-step episodes, flags by timestep or by episode, and without knowing their spaces."""
    file = write(tmp_path / "a.npz", actions=np.array([0, 1, 1, 0], np.uint8), terminated=np.array([0, 1, 0, 0], bool))
    demos = load_demonstrations(str(file), OBSERVATION, DISCRETE, "CartPole-v1")
    assert (demos.actions.dtype, demos.observations.dtype, demos.rewards.dtype) == (np.int64, np.float32, np.float64)
    assert list(demos.terminated) == [True, False]
    assert load_demonstrations(file).action_space == spaces.Discrete(2)
    one_step = write(tmp_path / "b.npz", episode_ends=np.ones(4, bool), final_observations=np.ones((4, 2)))
    assert load_demonstrations(one_step, OBSERVATION, DISCRETE).num_episodes == 4


def test_nested_observations_of_others(tmp_path):
    parts = {"observations.b": np.zeros((4, 2)), "observations.a.0": np.zeros(4, int), "observations.a.1": np.ones(4)}
    file = write(tmp_path / "a.npz", observations=None, **parts)
    guessed = load_demonstrations(file).observations
    assert isinstance(guessed["a"], tuple)
    space = spaces.Dict(a=spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 2, ())]), b=OBSERVATION)
    assert load_demonstrations(file, space, DISCRETE).observations["a"][1].dtype == np.float32
    with pytest.raises(UserError, match=r"no array 'observations.c'"):
        load_demonstrations(file, spaces.Dict(c=OBSERVATION), DISCRETE)
    bad = write(tmp_path / "b.npz", observations=None, **{**parts, "observations.a.0": np.full(4, 2)})
    with pytest.raises(UserError, match=r"observations.a.0 in .* are outside Discrete"):
        load_demonstrations(bad, space, DISCRETE)


def test_files_that_are_none(tmp_path):
    good = write(tmp_path / "good.npz")
    with pytest.raises(UserError, match=r"no file '.*god.npz'; did you mean '.*good.npz'"):
        load_demonstrations(tmp_path / "god.npz")
    bad = tmp_path / "bad.npz"
    for content in (b"", b"nonsense", pickle.dumps([1, 2]), good.read_bytes()[:300]):
        bad.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            load_demonstrations(bad)
    content = bytearray(good.read_bytes())
    content[150] ^= 255
    bad.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_demonstrations(bad)


def test_datasets_that_are_none(datasets):
    with pytest.raises(UserError, match=r"no demonstrations 'mine-v0', nor any others in .*; rltool record makes some"):
        load_demonstrations("mine")
    path = save_demonstrations("mine", make(VECTOR, ACTIONS["box"]))
    with pytest.raises(UserError, match="no demonstrations 'mime-v0'; did you mean 'mine-v0'"):
        load_demonstrations("mime")
    data = path / "data" / "main_data.hdf5"
    metadata = path / "data" / "metadata.json"
    whole, described = data.read_bytes(), metadata.read_text()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="the demonstrations mine-v0 cannot be read"):
        load_demonstrations("mine")
    data.write_bytes(whole)
    for broken in ("{", "[]", described.replace('"total_episodes": 3', '"total_episodes": 4')):
        metadata.write_text(broken)
        with pytest.raises(UserError, match="the demonstrations mine-v0 cannot be read"):
            load_demonstrations("mine")


def test_a_dataset_cannot_have_its_environment_made(datasets):
    """Without spaces, Minari makes the environment, from any entry point that the file names."""
    path = save_demonstrations("mine", make(VECTOR, ACTIONS["box"])) / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"]
    metadata["env_spec"] = metadata["env_spec"].replace(
        "gymnasium.envs.classic_control.cartpole:CartPoleEnv", "os:abort"
    )
    path.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="does not say what its spaces are"):
        load_demonstrations("mine")


def test_demonstrations_that_do_not_fit(place):
    demos = make(VECTOR, ACTIONS["box"])
    save_demonstrations(place, demos)
    for source in (place, demos):
        with pytest.raises(UserError, match="recorded in CartPole-v1, not in Pendulum-v1"):
            load_demonstrations(source, env_id="Pendulum-v1")
        with pytest.raises(UserError, match=r"action space of .* is Box\(.*, and here it is Discrete\(2\)"):
            load_demonstrations(source, VECTOR, DISCRETE)
        with pytest.raises(
            UserError, match=r"observation space of .* is Box\(.*\(3,\).*, and here it is Box\(.*\(2,\)"
        ):
            load_demonstrations(source, OBSERVATION, ACTIONS["box"])
        with pytest.raises(UserError, match="observation space"):
            load_demonstrations(source, OBSERVATIONS["dict"], ACTIONS["box"])
    # The bounds of a Box may differ, as long as the actions are inside.
    load_demonstrations(place, spaces.Box(-5, 5, (3,)), spaces.Box(-3, 3, (2,)), "module:CartPole-v1")
    with pytest.raises(UserError, match="outside Box"):
        load_demonstrations(place, VECTOR, spaces.Box(-0.1, 0.1, (2,)))


def test_demonstrations_in_memory_are_checked():
    demos = make(VECTOR, ACTIONS["box"])
    assert_same(load_demonstrations(demos), demos)
    for changes in ({"ends": np.array([2, 3])}, {"ends": np.array([5, 2, 15])}, {"ends": np.array([3, 3, 15])}):
        with pytest.raises(UserError, match="cut off"):
            load_demonstrations(dataclasses.replace(demos, **changes))
