"""Playing by hand, without a screen: keys are posted as pygame would, a list of them for each look at the keyboard."""

import os

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rltool.agents import human
from rltool.agents.human import PlayFailedError, find_controls, human_episodes
from rltool.envs import load_demonstrations, make_env
from rltool.errors import TrainingError, UserError

pygame = pytest.importorskip("pygame")


class Corridor(gym.Env):
    """Three timesteps; the reward is the action. It can be drawn."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as Gymnasium declares it
    observation_space = spaces.Box(0, 9, (1,))
    action_space = spaces.Discrete(4)

    def __init__(self, render_mode=None, shape=None, mask=None):
        self.render_mode = render_mode
        self.infos = {} if mask is None else {"action_mask": np.array(mask, np.int8)}
        if shape is not None:
            self.action_space = spaces.Box(-1, 2, (shape,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), self.infos

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), float(np.sum(action)), self.t == 3, False, self.infos

    def render(self):
        return np.full((20, 30, 3), 60 * self.t, np.uint8)


gym.register("Corridor-v0", Corridor)


@pytest.fixture
def play(monkeypatch):
    """`play(script, ...)` plays; an entry of the script is the keys struck (or "+key" pressed, "-key" let go)."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    windows = []

    def call(script, *arguments, **options):
        script = iter([*script, ["escape"]])

        class Clock:
            def tick(self, fps):
                windows.append(pygame.surfarray.array3d(pygame.display.get_surface()))
                for key in next(script):
                    if key == "ctrl-c":
                        raise KeyboardInterrupt
                    if key == "close":
                        pygame.event.post(pygame.event.Event(pygame.QUIT))
                        continue
                    for kind, letters in ((pygame.KEYDOWN, "+"), (pygame.KEYUP, "-")):
                        if key[0] in letters or key[0] not in "+-":
                            code = pygame.key.key_code(key.lstrip("+-"))
                            pygame.event.post(pygame.event.Event(kind, key=code))

        monkeypatch.setattr(pygame.time, "Clock", Clock)
        call.windows = windows
        return human_episodes(*arguments, **options)

    return call


def taps(text):
    return [[key] for key in text.split()]


def test_each_stroke_is_one_timestep(play):
    """The world waits; a key that is held for long counts once; any key goes on after the end."""
    demos = play([["+1"], [], [], ["-1"], *taps("2 3"), [], ["space"], *taps("0 0 3"), []], "Corridor-v0")
    assert demos.actions.tolist() == [1, 2, 3, 0, 0, 3]
    assert demos.returns.tolist() == [6, 3]
    assert demos.observations.ravel().tolist() == [0, 1, 2] * 2
    assert demos.final_observations.ravel().tolist() == [3, 3]
    assert demos.terminated.all()
    load_demonstrations(demos, demos.observation_space, spaces.Discrete(4), "Corridor-v0")


def test_discarding_and_ending(play):
    """R forgets an episode that goes on, or the one that is just over; Esc the unfinished one alone."""
    script = taps("1 r 2 2 2 space 3 3 3 r 1 1 1 space 3")
    demos = play(script, "Corridor-v0", episodes=5)
    assert demos.returns.tolist() == [6, 3]
    assert play(taps("1 1 1 space 2 2 2 space 3 3 3"), "Corridor-v0", episodes=2).returns.tolist() == [3, 6]
    assert play([*taps("1 1 1 space 2"), ["close"]], "Corridor-v0").returns.tolist() == [3]
    with pytest.raises(UserError, match="no episode was finished"):
        play(taps("1 1"), "Corridor-v0")


def test_an_interrupt_keeps_what_is_finished(play):
    assert play([*taps("1 1 1 space 2"), ["ctrl-c"]], "Corridor-v0").returns.tolist() == [3]
    with pytest.raises(KeyboardInterrupt):
        play([*taps("1 1"), ["ctrl-c"]], "Corridor-v0")


def test_keys_that_do_nothing_are_ignored(play):
    assert play(taps("9 x up 1 f5 2 3"), "Corridor-v0").actions.tolist() == [1, 2, 3]


def test_what_the_mask_forbids_is_not_done(play):
    demos = play(taps("1 0 3 2 0"), "Corridor-v0", env_kwargs={"mask": [1, 0, 1, 0]})
    assert demos.actions.tolist() == [0, 2, 0]
    assert demos.observations["action_mask"].tolist() == [[1, 0, 1, 0]] * 3


def test_held_keys_go_on(play):
    """CartPole goes on for as long as a key is held, and waits otherwise."""
    demos = play([["+right"], [], [], ["-right", "+left"], ["-left"], [], ["+right"], *[[]] * 20], "CartPole-v1")
    assert demos.actions[:6].tolist() == [1, 1, 1, 0, 1, 1]
    env = make_env("CartPole-v1")
    np.testing.assert_array_equal(demos.observations[0], env.reset(seed=0)[0])
    for action, observation in zip(demos.actions, demos.observations[1:], strict=False):
        np.testing.assert_array_equal(env.step(action)[0], observation)


def test_a_world_that_does_not_wait(play):
    """Box actions: arrows, together too, and the middle while none is held; it begins with a key."""
    demos = play([["return"], [], ["+left"], ["+up"]], "Corridor-v0", env_kwargs={"shape": 2, "max_episode_steps": 3})
    assert demos.actions.tolist() == [[0, 0], [-1, 0], [-1, 2]]
    assert demos.env_kwargs == {"shape": 2, "max_episode_steps": 3}
    idle = play([["return"], *[[]] * 40], "MountainCar-v0", env_kwargs={"max_episode_steps": 30})
    assert set(idle.actions) == {1}
    assert not idle.terminated.any()


def test_the_window_shows_frames_and_keys(play):
    play(taps("1 2 3"), "Corridor-v0")
    first, last = play.windows[0], play.windows[-1]
    assert first.shape[0] == 540  # enlarged
    assert first[240, 300].sum() == 0
    assert (last[240, 100] == 180).all()
    assert (first[:, 361:] > 200).any()  # text
    assert last.shape == first.shape


@pytest.mark.parametrize(
    ("env_id", "keys", "action"),
    [
        ("FrozenLake-v1", {"up"}, 3),
        ("LunarLander-v3", {"up"}, 2),
        ("Acrobot-v1", set(), 1),
        ("rltool/KeyDoor-v0", {"down"}, 2),
        ("CartPole-v1", set(), None),
        ("CartPole-v1", {"1"}, 1),
        ("Pendulum-v1", {"left"}, [-2]),
        ("LunarLanderContinuous-v3", {"up", "right"}, [1, 1]),
        ("CarRacing-v3", {"down", "left"}, [-1, 0, 1]),
        ("Hopper-v5", {"right", "down", "w"}, [1, -1, 1]),
    ],
)
def test_keys_of_known_environments(env_id, keys, action):
    with make_env(env_id) as env:
        controls = find_controls(env)
        chosen = controls.action(set(), keys)
        assert np.array_equal(chosen, action) if action is not None else chosen is None
        for known in controls.actions.values():
            assert known in env.action_space
        assert controls.help


def test_atari_is_played_by_the_meanings_of_its_actions():
    pytest.importorskip("ale_py")
    with make_env("ALE/Pong-v5") as env:
        controls = find_controls(env)
        assert [controls.action(keys, set()) for keys in (set(), {"space"}, {"right", "space"})] == [0, 1, 4]


def test_actions_that_no_keys_are_for():
    with make_env("Ant-v5") as env, pytest.raises(UserError, match="Discrete actions or a Box of one to three numbers"):
        find_controls(env)


def test_no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="needs a display, and there is none"):
        human_episodes("CartPole-v1")


def test_an_environment_that_cannot_be_drawn(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    gym.register("Undrawn-v0", Corridor, kwargs={})
    monkeypatch.setattr(Corridor, "metadata", {"render_modes": []})
    with pytest.raises(UserError, match="cannot render rgb_array"):
        human_episodes("Undrawn-v0")


@pytest.mark.parametrize("breaks", ["step", "render", "close"])
def test_what_was_finished_before_a_failure_is_not_lost(play, monkeypatch, breaks):
    """In the second episode the environment fails, or can be drawn no longer; or it cannot be closed in the end."""
    begun, working = set(), getattr(Corridor, breaks)

    def reset(self, *, seed=None, options=None):
        begun.add(seed)
        return reset_before(self, seed=seed, options=options)

    def broken(self, *arguments):
        if 1 in begun:  # The seed of the second episode; how often an environment is tried before is not told.
            raise RuntimeError("the floor is lava")
        return working(self, *arguments)

    reset_before = Corridor.reset
    monkeypatch.setattr(Corridor, "reset", reset)
    monkeypatch.setattr(Corridor, breaks, broken)
    with pytest.raises(PlayFailedError, match="the floor is lava") as caught:
        play(taps("1 2 3 space 2 2"), "Corridor-v0", episodes=5)
    assert caught.value.demonstrations.returns.tolist() == [6]
    assert caught.value.demonstrations.actions.tolist() == [1, 2, 3]


def test_what_was_finished_before_the_window_failed_is_not_lost(play, monkeypatch):
    def show(self, frame, text):
        if "is over" in text[0]:
            raise pygame.error("display lost")

    monkeypatch.setattr(human.Window, "show", show)
    monkeypatch.setattr(human.Window, "keys", lambda self: {"2"})
    with pytest.raises(PlayFailedError, match="the window failed: error: display lost") as caught:
        play([], "Corridor-v0")
    assert caught.value.demonstrations.returns.tolist() == [6]


def test_a_failure_in_the_first_episode_is_told(play, monkeypatch):
    monkeypatch.setattr(Corridor, "step", lambda self, action: 1 / 0)
    with pytest.raises(TrainingError, match="ZeroDivisionError") as caught:
        play(taps("1"), "Corridor-v0")
    assert not isinstance(caught.value, PlayFailedError)
