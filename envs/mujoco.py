"""Gymnasium's MuJoCo tasks, batched: MuJoCo steps each environment, and all else is done for all of them at once.

Half of the time that Gymnasium's environments take is spent in Python around the physics. Here one `MjModel` serves all
environments, each has an `MjData`, and observations, rewards and ends of episodes are computed for the whole batch.
While MuJoCo computes, it releases Python's lock: the environments are stepped by a few threads. Trajectories are those
of Gymnasium's environments, bit for bit, whatever the number of threads.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rltool.envs.batched import AutoresetVectorEnv, Bools, Floats, check_floats
from rltool.envs.threads import Helpers, usable_cores

Infos = dict[str, NDArray[Any]]
Outcome = tuple[Floats, Bools, Infos]  # rewards, terminated, and what the infos say about the rewards

# All that the next step depends on.
STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# A thread must have so much to do in a step to be worth waking up.
SECONDS_PER_THREAD = 100e-6


# The tasks. `c` are the options of Gymnasium's environment, its `dt` and its initial state; `before` and `now` have
# MuJoCo's arrays by name, each with one row for each environment. What is computed is what Gymnasium computes, in the
# same order, for the sake of the last bit.


@dataclass(frozen=True)
class Task:
    """What tells one task from another.

    Attributes:
        single_env: Gymnasium's environment, which has the model, the spaces and the options.
        observe: `(c, now)` to observations.
        judge: `(c, before, now, actions)` to an `Outcome`.
        draw: `(c, generator)` to an initial `qpos` and `qvel`.
        place: `(c, now)` to the infos of a reset, which are those of a step, too.
        fields: MuJoCo's arrays that these need.
    """

    single_env: type[MujocoEnv]
    observe: Callable[[Any, Any], Floats]
    judge: Callable[[Any, Any, Any, Floats], Outcome]
    draw: Callable[[Any, np.random.Generator], tuple[Floats, Floats]]
    place: Callable[[Any, Any], Infos] = lambda c, now: {}
    fields: tuple[str, ...] = ("qpos", "qvel")


def draw_uniform(c: Any, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Uniform noise around the model's state."""
    scale = c.reset_noise_scale
    qpos = c.init_qpos + generator.uniform(-scale, scale, c.init_qpos.size)
    return qpos, c.init_qvel + generator.uniform(-scale, scale, c.init_qvel.size)


def draw_normal_velocity(c: Any, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Uniform noise around the model's positions, normal noise around its velocities."""
    scale = c.reset_noise_scale
    qpos = c.init_qpos + generator.uniform(-scale, scale, c.init_qpos.size)
    return qpos, c.init_qvel + scale * generator.standard_normal(c.init_qvel.size)


def draw_reacher(c: Any, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """An arm nearly straight, and a goal within its reach."""
    qpos = generator.uniform(-0.1, 0.1, c.init_qpos.size) + c.init_qpos
    while True:
        goal = generator.uniform(-0.2, 0.2, 2)
        if np.linalg.norm(goal) < 0.2:
            break
    qpos[-2:] = goal
    qvel = c.init_qvel + generator.uniform(-0.005, 0.005, c.init_qvel.size)
    qvel[-2:] = 0
    return qpos, qvel


def norms(vectors: Floats) -> Floats:
    """Lengths of `(N, n)` vectors; like `np.linalg.norm` of each, by the dot product, which may round otherwise."""
    return np.sqrt((vectors[:, None, :] @ vectors[:, :, None])[:, 0, 0])


def positions(c: Any, now: Any, skipped: int) -> Floats:
    """The positions that are observed: without the first ones, which say where in the world the robot is."""
    return now.qpos[:, skipped:] if c.exclude_current_positions_from_observation else now.qpos


def control_cost(c: Any, actions: Floats) -> Floats:
    """The weighted sum of squares of each action."""
    return c.ctrl_cost_weight * np.sum(np.square(actions), axis=1)


def place_x(c: Any, now: Any) -> Infos:
    """How far the robot has come."""
    return {"x_position": now.qpos[:, 0]}


def place_xz(c: Any, now: Any) -> Infos:
    """How far, and how far above its initial height."""
    return {"x_position": now.qpos[:, 0], "z_distance_from_origin": now.qpos[:, 1] - c.init_qpos[1]}


def place_xy(c: Any, now: Any) -> Infos:
    """Where on the plane, and how far from its origin."""
    x, y = now.qpos[:, 0], now.qpos[:, 1]
    return {"x_position": x, "y_position": y, "distance_from_origin": norms(now.qpos[:, :2])}


def judge_run(c: Any, before: Any, now: Any, actions: Floats) -> Outcome:
    """HalfCheetah and Swimmer: speed."""
    velocity = (now.qpos[:, 0] - before.qpos[:, 0]) / c.dt
    forward, cost = c.forward_reward_weight * velocity, control_cost(c, actions)
    infos = {"x_velocity": velocity, "reward_forward": forward, "reward_ctrl": -cost}
    return forward - cost, np.zeros(len(actions), np.bool_), infos


def judge_swim(c: Any, before: Any, now: Any, actions: Floats) -> Outcome:
    """Swimmer: the same in a plane."""
    rewards, terminated, infos = judge_run(c, before, now, actions)
    return rewards, terminated, infos | {"y_velocity": (now.qpos[:, 1] - before.qpos[:, 1]) / c.dt}


def observe_run(c: Any, now: Any, skipped: int = 1) -> Floats:
    """HalfCheetah, Swimmer: positions and velocities."""
    return np.concatenate((positions(c, now, skipped), now.qvel), axis=1)


def judge_upright(c: Any, before: Any, now: Any, actions: Floats, is_healthy: Callable[[Any, Any], Bools]) -> Outcome:
    """Hopper and Walker2d: speed, and to stay upright."""
    _, _, infos = judge_run(c, before, now, actions)
    healthy = is_healthy(c, now)
    survive = healthy * c.healthy_reward
    rewards = infos["reward_forward"] + survive + infos["reward_ctrl"]
    return rewards, ~healthy & c.terminate_when_unhealthy, infos | {"reward_survive": survive}


def observe_upright(c: Any, now: Any) -> Floats:
    """Hopper, Walker2d: positions, and velocities within bounds."""
    return np.concatenate((positions(c, now, 1), np.clip(now.qvel, -10, 10)), axis=1)


def walker_is_healthy(c: Any, now: Any) -> Bools:
    """Height and angle of the torso within bounds."""
    return within(now.qpos[:, 1], c.healthy_z_range) & within(now.qpos[:, 2], c.healthy_angle_range)


def hopper_is_healthy(c: Any, now: Any) -> Bools:
    """The same, and all else within bounds."""
    state = np.concatenate((now.qpos[:, 2:], now.qvel), axis=1)
    return walker_is_healthy(c, now) & within(state, c.healthy_state_range).all(axis=1)


def within(values: Floats, bounds: tuple[float, float]) -> Bools:
    """Whether values lie between two others; NaN does not."""
    return (bounds[0] < values) & (values < bounds[1])


def judge_ant(c: Any, before: Any, now: Any, actions: Floats) -> Outcome:
    """Ant: speed, to stay upright, and light steps."""
    body = c.body(c.main_body).id
    velocity = (now.xpos[:, body, :2] - before.xpos[:, body, :2]) / c.dt
    state, (low, high) = np.concatenate((now.qpos, now.qvel), axis=1), c.healthy_z_range
    healthy = np.isfinite(state).all(axis=1) & (low <= state[:, 2]) & (state[:, 2] <= high)
    forward, survive = velocity[:, 0] * c.forward_reward_weight, healthy * c.healthy_reward
    contact = c.contact_cost_weight * np.sum(np.square(contact_forces(c, now)).reshape(len(actions), -1), axis=1)
    cost = control_cost(c, actions)
    return (
        forward + survive - (cost + contact),
        ~healthy & c.terminate_when_unhealthy,
        {
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": forward,
            "reward_ctrl": -cost,
            "reward_contact": -contact,
            "reward_survive": survive,
        },
    )


def observe_ant(c: Any, now: Any) -> Floats:
    """Ant: positions, velocities and the forces on all bodies but the world."""
    parts = [positions(c, now, 2), now.qvel]
    if c.include_cfrc_ext_in_observation:
        parts.append(contact_forces(c, now)[:, 1:].reshape(len(now.qpos), -1))
    return np.concatenate(parts, axis=1)


def contact_forces(c: Any, now: Any) -> Floats:
    """External forces on each body, within bounds."""
    return np.clip(now.cfrc_ext, *c.contact_force_range)


def judge_pendulum(c: Any, before: Any, now: Any, actions: Floats) -> Outcome:
    """InvertedPendulum: 1 until it falls."""
    state = observe_pendulum(c, now)
    fallen = ~np.isfinite(state).all(axis=1) | (np.abs(state[:, 1]) > 0.2)
    return (~fallen).astype(np.float64), fallen, {"reward_survive": (~fallen).astype(np.int64)}


def observe_pendulum(c: Any, now: Any) -> Floats:
    """InvertedPendulum: the state."""
    return np.concatenate((now.qpos, now.qvel), axis=1)


def judge_double_pendulum(c: Any, before: Any, now: Any, actions: Floats) -> Outcome:
    """InvertedDoublePendulum: the tip high up and in the middle, and all at rest."""
    (x, _, y), (_, v1, v2) = now.site_xpos[:, 0].T, now.qvel.T
    fallen = y <= 1
    distance = 0.01 * square(x) + square(y - 2)
    motion = 1e-3 * square(v1) + 5e-3 * square(v2)
    survive = c.healthy_reward * (~fallen).astype(np.int64)
    infos = {"reward_survive": survive, "distance_penalty": -distance, "velocity_penalty": -motion}
    return survive - distance - motion, fallen, infos


def square(values: Floats) -> Floats:
    """Squares by C's `pow`, as NumPy has them of single numbers: one in a thousand differs from `values * values`."""
    return np.array([value**2 for value in values.tolist()])


def observe_double_pendulum(c: Any, now: Any) -> Floats:
    """InvertedDoublePendulum: the cart, sines and cosines of the angles, velocities, the force on the cart."""
    angles = now.qpos[:, 1:].copy()
    rest = np.clip(now.qvel, -10, 10), np.clip(now.qfrc_constraint, -10, 10)[:, :1]
    return np.concatenate((now.qpos[:, :1], np.sin(angles), np.cos(angles), *rest), axis=1)


def judge_reach(c: Any, before: Any, now: Any, actions: Floats) -> Outcome:
    """Reacher: nearness, and small torques."""
    distance = -norms(to_target(c, now)) * c.reward_dist_weight
    cost = -np.square(actions).sum(axis=1) * c.reward_control_weight
    return distance + cost, np.zeros(len(actions), np.bool_), {"reward_dist": distance, "reward_ctrl": cost}


def observe_reach(c: Any, now: Any) -> Floats:
    """Reacher: the arm's angles and velocities, the target, and the way to it."""
    angles = now.qpos[:, :2].copy()
    rest = now.qpos[:, 2:], now.qvel[:, :2], to_target(c, now)[:, :2]
    return np.concatenate((np.cos(angles), np.sin(angles), *rest), axis=1)


def to_target(c: Any, now: Any) -> Floats:
    """From the target to the finger, `(N, 3)`."""
    return now.xpos[:, c.body("fingertip").id] - now.xpos[:, c.body("target").id]


class MujocoVectorEnv(AutoresetVectorEnv):
    """Environments of one task, with the trajectories, infos and seeds of Gymnasium's, which also draws the frames.

    Attributes:
        task: What is to be done.
        model: MuJoCo's model.
        threads: How many step the environments.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        infos: bool = True,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        """Set up `num_envs` environments; call `reset` before `step`.

        Args:
            task: what is to be done.
            num_envs: see `AutoresetVectorEnv`.
            max_episode_steps: see `AutoresetVectorEnv`.
            autoreset_mode: see `AutoresetVectorEnv`.
            infos: False leaves out all infos but those about final observations.
            threads: how many step the environments; None for as many as are worth their while. No result depends on it.
            **options: those of Gymnasium's environment.
        """
        single: Any = task.single_env(**options)
        super().__init__(single, num_envs, max_episode_steps, autoreset_mode)
        self.task = task
        self.model: Any = single.model
        self._constants = SimpleNamespace(
            **(_defaults(task.single_env) | options),
            dt=single.dt,
            init_qpos=single.init_qpos,
            init_qvel=single.init_qvel,
            body=self.model.body,
        )
        self._datas = [mujoco.MjData(self.model) for _ in range(num_envs)]
        self._controls = [data.ctrl for data in self._datas]
        self._shapes = {name: (num_envs, *getattr(single.data, name).shape) for name in task.fields}
        self._views = {name: [getattr(data, name).reshape(-1) for data in self._datas] for name in task.fields}
        self._advance = _advance(self.model, single.frame_skip, "cfrc_ext" in task.fields)
        self.threads = self._worthwhile_threads() if threads is None else threads
        self._helpers = Helpers(self.threads - 1)
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self._seeds: list[int | None] = [None] * num_envs
        self._now: Any = None
        self._with_infos = infos
        self._judged: Infos = {}
        self._begun = np.zeros(num_envs, np.bool_)

    def _worthwhile_threads(self) -> int:
        scratch, seconds = mujoco.MjData(self.model), []
        for _ in range(5):
            start = time.perf_counter()
            self._advance(scratch)
            seconds.append(time.perf_counter() - start)
        worthwhile = int(self.num_envs * min(seconds) / SECONDS_PER_THREAD)
        return max(1, min(worthwhile, usable_cores(), self.num_envs))

    def _check_actions(self, actions: Any) -> Floats:
        return check_floats(actions, (self.num_envs, self.model.nu))

    # Stepping.

    def _transition(self, actions: Floats) -> tuple[Floats, Bools]:
        if self._now is None:
            raise ResetNeeded(f"{type(self).__name__} has no state yet: call reset() first")
        for control, action in zip(self._controls, actions, strict=True):
            control[:] = action
        # Where an episode has ended, the physics may have gone wild: it is left alone until its reset.
        going = [data for data, ended in zip(self._datas, self.prev_done.tolist(), strict=True) if not ended]
        self._helpers.for_each(self._advance, going)
        before, self._now = self._now, self._read()
        rewards, terminated, judged = self.task.judge(self._constants, before, self._now, actions)
        if self._with_infos:
            self._judged = self.task.place(self._constants, self._now) | judged
        return rewards, terminated

    def _observe(self) -> Floats:
        return self.task.observe(self._constants, self._now)

    def _read(self) -> SimpleNamespace:
        """Copies of MuJoCo's arrays, each with one row for each environment."""
        return SimpleNamespace(
            **{name: np.concatenate(self._views[name]).reshape(shape) for name, shape in self._shapes.items()}
        )

    def step(self, actions: Any) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:
        """See `AutoresetVectorEnv`; the infos are those of Gymnasium's `SyncVectorEnv`."""
        self._begun = np.zeros(self.num_envs, np.bool_)
        *results, infos = super().step(actions)
        return *results, infos | self._infos()  # type: ignore[return-value]

    def _infos(self) -> dict[str, Any]:
        """What a step says: all about those that went on, and where those are that have just begun."""
        if not self._with_infos:
            return {}
        everywhere = np.ones(self.num_envs, np.bool_)
        if not self._begun.any():
            return _masked(self._judged, everywhere)
        places = self.task.place(self._constants, self._now)
        return _masked(self._judged, ~self._begun) | _masked(places, everywhere)

    def _final_infos(self, done: Bools) -> dict[str, Any]:
        return super()._final_infos(done) | {"final_info": _masked(self._judged, done) if self._with_infos else {}}

    # Beginning.

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start new episodes; see `AutoresetVectorEnv`.

        Args:
            seed: environment i gets seed + i, or the i-th of several; None: its generator goes on.
            options: only "reset_mask" means anything here.

        Returns:
            observations, `(num_envs, observation)`, and infos about those that were reset.
        """
        observations, _ = super().reset(seed=seed, options=options)
        infos = self.task.place(self._constants, self._now) if self._with_infos else {}
        return observations, _masked(infos, self._begun)

    def _seed(self, seed: Any, mask: Bools) -> None:
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"there are {len(seeds)} seeds for {self.num_envs} environments")
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None:
                self._generators[i], self._seeds[i] = seeding.np_random(seeds[i])

    def _begin(self, mask: Bools | None, options: dict[str, Any]) -> None:
        if mask is None:
            mask = np.ones(self.num_envs, np.bool_)
        elif self._now is None:
            raise ResetNeeded(f"{type(self).__name__} has no state yet: call reset() first")
        for i in np.flatnonzero(mask).tolist():
            data = self._datas[i]
            mujoco.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = self.task.draw(self._constants, self._generators[i])
            mujoco.mj_forward(self.model, data)
        self._begun, self._now = mask, self._read()

    @property  # type: ignore[misc]  # Only to read, as `SyncVectorEnv`'s.
    def np_random(self) -> Any:
        """Each environment's random generator."""
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> Any:
        """Each environment's seed."""
        return tuple(self._seeds)

    # Keeping.

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next: arrays, and the generators' states as JSON-able dicts."""
        physics = np.empty((self.num_envs, mujoco.mj_stateSize(self.model, STATE)))
        for data, row in zip(self._datas, physics, strict=True):
            mujoco.mj_getState(self.model, data, row, STATE)
        return {
            "physics": physics,
            "begun": self._now is not None,
            "steps": self.steps.copy(),
            "prev_done": self.prev_done.copy(),
            "np_random": [generator.bit_generator.state for generator in self._generators],
            **vars(self._read()),  # Some of these were derived from the state before MuJoCo's last step.
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on, bit for bit, from where `get_state` was called on environments of this task and number.

        Args:
            state: what `get_state` returned; it is copied.

        Raises:
            ValueError: if it comes from another number of environments.
        """
        self._check_size(state["steps"])
        for data, row in zip(self._datas, state["physics"], strict=True):
            mujoco.mj_setState(self.model, data, row, STATE)
        for name, views in self._views.items():
            for view, row in zip(views, state[name], strict=True):
                view[:] = row.reshape(-1)
        self._now = self._read() if state["begun"] else None
        self.steps, self.prev_done = np.array(state["steps"], np.int32), np.array(state["prev_done"], np.bool_)
        for generator, each in zip(self._generators, state["np_random"], strict=True):
            generator.bit_generator.state = each

    def close_extras(self, **kwargs: Any) -> None:
        """Let the threads end."""
        self._helpers.dismiss()
        super().close_extras(**kwargs)


def _defaults(single_env: type[MujocoEnv]) -> dict[str, Any]:
    """The options of Gymnasium's environment."""
    parameters = inspect.signature(single_env).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD}


def _advance(model: Any, frame_skip: int, forces: bool) -> Callable[[Any], None]:
    """What steps an environment; external forces on bodies are computed only where they are asked for."""

    def advance(data: Any) -> None:
        mujoco.mj_step(model, data, nstep=frame_skip)
        if forces:
            mujoco.mj_rnePostConstraint(model, data)

    return advance


def _masked(infos: Infos, mask: Bools) -> dict[str, Any]:
    """Infos of some environments, in the format of Gymnasium's vector environments: zeros for the others."""
    if not mask.any():
        return {}
    masked: dict[str, Any] = {}
    for name, values in infos.items():
        masked[name], masked[f"_{name}"] = np.where(mask, values, values.dtype.type(0)), mask.copy()
    return masked


# What `make_vector_env` makes, by the name of Gymnasium's environment.
ant = functools.partial(
    MujocoVectorEnv,
    Task(AntEnv, observe_ant, judge_ant, draw_normal_velocity, place_xy, ("qpos", "qvel", "xpos", "cfrc_ext")),
)
half_cheetah = functools.partial(
    MujocoVectorEnv, Task(HalfCheetahEnv, observe_run, judge_run, draw_normal_velocity, place_x)
)
hopper = functools.partial(
    MujocoVectorEnv,
    Task(
        HopperEnv,
        observe_upright,
        functools.partial(judge_upright, is_healthy=hopper_is_healthy),
        draw_uniform,
        place_xz,
    ),
)
inverted_double_pendulum = functools.partial(
    MujocoVectorEnv,
    Task(
        InvertedDoublePendulumEnv,
        observe_double_pendulum,
        judge_double_pendulum,
        draw_normal_velocity,
        fields=("qpos", "qvel", "site_xpos", "qfrc_constraint"),
    ),
)
inverted_pendulum = functools.partial(
    MujocoVectorEnv, Task(InvertedPendulumEnv, observe_pendulum, judge_pendulum, draw_uniform)
)
reacher = functools.partial(
    MujocoVectorEnv, Task(ReacherEnv, observe_reach, judge_reach, draw_reacher, fields=("qpos", "qvel", "xpos"))
)
swimmer = functools.partial(
    MujocoVectorEnv,
    Task(SwimmerEnv, functools.partial(observe_run, skipped=2), judge_swim, draw_uniform, place_xy),
)
walker2d = functools.partial(
    MujocoVectorEnv,
    Task(
        Walker2dEnv,
        observe_upright,
        functools.partial(judge_upright, is_healthy=walker_is_healthy),
        draw_uniform,
        place_xz,
    ),
)
