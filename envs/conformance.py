"""A check that a vector environment does what Gymnasium's API promises, in each of its autoreset modes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

AnyVectorEnv = VectorEnv[Any, Any, Any]


class ConformanceError(AssertionError):
    """A vector environment breaks the API; the sentence says where."""


class _Step(NamedTuple):
    observations: Any
    rewards: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: dict[str, Any]

    @property
    def done(self) -> NDArray[np.bool_]:
        return self.terminated | self.truncated


def check_vector_env(
    make: Callable[[AutoresetMode], AnyVectorEnv],
    modes: Iterable[AutoresetMode] = tuple(AutoresetMode),
    max_steps: int = 1000,
    seed: int = 0,
    refuses_ended: bool = True,
) -> None:
    """Put a vector environment through random episodes, and check all that holds whatever its dynamics are.

    Checked are the metadata, the spaces, shapes and dtypes, that a seed decides everything, that returned arrays are
    never written to again, that episodes are truncated at the known time limit, what each autoreset mode says about
    the steps around the end of an episode, and that the modes agree up to the first end of an episode.

    Args:
        make: makes the environment, always with the same options, in the autoreset mode it is given.
        modes: the autoreset modes that the environment supports.
        max_steps: steps to try in each mode; less if every environment has ended two episodes before. At least one
            episode must end within them, so give environments with long episodes a shorter time limit.
        seed: seeds environments and actions.
        refuses_ended: whether, with autoreset disabled, stepping an environment whose episode has ended must be an
            error (Gymnasium's `AsyncVectorEnv` lets it pass).

    Raises:
        ConformanceError: for the first thing that is wrong.
    """
    first_episodes = {mode: _check_mode(make, mode, max_steps, seed) for mode in modes}
    (reference_mode, reference), *others = first_episodes.items()
    for mode, steps in others:
        same = len(steps) == len(reference) and all(map(_same, steps, reference))
        _expect(same, f"{mode.value} and {reference_mode.value} differ before the first autoreset")
    if refuses_ended and AutoresetMode.DISABLED in first_episodes:
        _check_refuses_ended(make(AutoresetMode.DISABLED), max_steps, seed)


def _check_mode(
    make: Callable[[AutoresetMode], AnyVectorEnv], mode: AutoresetMode, max_steps: int, seed: int
) -> list[tuple[Any, ...]]:
    """Check one mode; return its steps until the first end of an episode, without what depends on the mode."""
    env, twin = make(mode), make(mode)
    with contextlib.closing(env), contextlib.closing(twin):
        _check_declaration(env, mode)
        observations, infos = env.reset(seed=seed)
        twin_observations, _ = twin.reset(seed=seed)
        _check_observations(env, observations, "reset")
        _expect(isinstance(infos, dict), "reset must return a dict of infos")
        _expect(_same(observations, twin_observations), "two resets with the same seed differ")

        actions, limit = _Actions(env, seed), _time_limit(env)
        lengths, ends = np.zeros(env.num_envs, int), np.zeros(env.num_envs, int)
        ended = np.zeros(env.num_envs, np.bool_)
        first_episode: list[tuple[Any, ...]] = []
        for _ in range(max_steps):
            kept = copy.deepcopy(observations)
            batch, twin_batch = actions.sample(ended)
            step, twin_step = _Step(*env.step(batch)), _Step(*twin.step(twin_batch))
            _expect(_same(observations, kept), "step changes observations that were returned before")
            _check_step(env, step)
            _expect(
                _same(step[:4], twin_step[:4]),
                "two environments with the same seed and actions differ"
                if not ended.any()
                else f"{mode.value}: the step after the end of an episode must ignore the action",
            )

            if not ends.any():
                final = _final_observations(env, step) if mode is AutoresetMode.SAME_STEP else step.observations
                first_episode.append(copy.deepcopy((final, *step[1:4])))
            resetting = ended if mode is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
            if resetting.any():
                _expect(
                    not step.rewards[resetting].any() and not step.done[resetting].any(),
                    "NextStep: the step that resets must give reward 0, and neither terminated nor truncated",
                )
            lengths = np.where(resetting, 0, lengths + 1)
            if limit is not None:
                _expect(
                    bool(step.truncated[lengths >= limit].all()) and bool((lengths <= limit).all()),
                    f"an episode must be truncated at its time limit of {limit} steps",
                )
            ends += step.done
            if (ends >= 2).all():
                break

            kept_step = copy.deepcopy(step[:4])
            observations, ended = step.observations, step.done
            if mode is AutoresetMode.SAME_STEP:
                _check_final(env, step)
                lengths[ended] = 0
                ended = np.zeros_like(ended)
            elif mode is AutoresetMode.DISABLED and ended.any():
                observations = _check_reset_mask(env, step)
                twin_observations, _ = twin.reset(options={"reset_mask": ended.copy()})
                _expect(_same(observations, twin_observations), "two resets with the same mask differ")
                lengths[ended] = 0
                ended = np.zeros_like(ended)
                _expect(_same(step[:4], kept_step), "reset changes arrays that were returned before")
        _expect(
            bool(ends.any()),
            f"no episode ended within {max_steps} steps; shorten the time limit for this check",
        )
    return first_episode


class _Actions:
    """Random actions, once more with other ones for the environments whose action must not matter."""

    def __init__(self, env: AnyVectorEnv, seed: int) -> None:
        self.space, self.single_space, self.num_envs = env.action_space, env.single_action_space, env.num_envs
        self.space.seed(seed)

    def sample(self, ignored: NDArray[np.bool_]) -> tuple[Any, Any]:
        batch, other = self.space.sample(), self.space.sample()
        if not isinstance(batch, np.ndarray):
            return batch, batch
        mask = ignored.reshape(-1, *[1] * (batch.ndim - 1))
        return batch, np.where(mask, other, batch).astype(batch.dtype)


def _check_declaration(env: AnyVectorEnv, mode: AutoresetMode) -> None:
    found = env.metadata.get("autoreset_mode")
    _expect(found is mode, f"metadata['autoreset_mode'] is {found!r}, not {mode!r}")
    for name in ("observation", "action"):
        single, batched = getattr(env, f"single_{name}_space"), getattr(env, f"{name}_space")
        _expect(
            batched == batch_space(single, env.num_envs),
            f"the {name} space {batched} is not {env.num_envs} times {single}",
        )


def _check_observations(env: AnyVectorEnv, observations: Any, where: str) -> None:
    _expect(
        env.observation_space.contains(observations),
        f"{where} returns observations that are not in the observation space {env.observation_space}: {observations!r}",
    )


def _check_step(env: AnyVectorEnv, step: _Step) -> None:
    _check_observations(env, step.observations, "step")
    for name, array, kind in (
        ("rewards", step.rewards, np.floating),
        ("terminated", step.terminated, np.bool_),
        ("truncated", step.truncated, np.bool_),
    ):
        good = isinstance(array, np.ndarray) and array.shape == (env.num_envs,) and np.issubdtype(array.dtype, kind)
        _expect(good, f"{name} must be a {kind.__name__} array of shape ({env.num_envs},), not {array!r}")
    _expect(isinstance(step.infos, dict), "step must return a dict of infos")


def _check_final(env: AnyVectorEnv, step: _Step) -> None:
    """SameStep: the infos hold the last observation of each episode that ended, and of no other."""
    if not step.done.any():
        _expect("final_obs" not in step.infos, "SameStep: infos hold final_obs although no episode ended")
        return
    for name in ("final_obs", "_final_obs", "final_info", "_final_info"):
        _expect(name in step.infos, f"SameStep: infos lack '{name}' although an episode ended")
    for name in ("_final_obs", "_final_info"):
        _expect(
            np.array_equal(step.infos[name], step.done),
            f"SameStep: infos['{name}'] must be terminated | truncated",
        )
    for observation, done in zip(step.infos["final_obs"], step.done, strict=True):
        good = env.single_observation_space.contains(observation) if done else observation is None
        _expect(good, f"SameStep: infos['final_obs'] holds {observation!r}, where done is {done}")


def _final_observations(env: AnyVectorEnv, step: _Step) -> Any:
    """The observations before the reset of those that ended."""
    _check_final(env, step)
    if not step.done.any():
        return step.observations
    rows = [
        final if done else row
        for row, final, done in zip(_rows(env, step.observations), step.infos["final_obs"], step.done, strict=True)
    ]
    out: Any = create_empty_array(env.single_observation_space, len(rows))
    return concatenate(env.single_observation_space, rows, out)


def _check_reset_mask(env: AnyVectorEnv, step: _Step) -> Any:
    """Disabled: resets those that ended, and returns the observations."""
    mask = step.done
    observations, _ = env.reset(options={"reset_mask": mask.copy()})
    _check_observations(env, observations, "reset")
    pairs = zip(_rows(env, observations), _rows(env, step.observations), mask, strict=True)
    _expect(
        all(_same(new, old) for new, old, reset in pairs if not reset),
        "Disabled: a reset with a mask must leave the other environments as they are",
    )
    return observations


def _check_refuses_ended(env: AnyVectorEnv, max_steps: int, seed: int) -> None:
    """Disabled: an environment whose episode has ended must not be stepped."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(max_steps):
        if _Step(*env.step(env.action_space.sample())).done.any():
            break
    try:
        env.step(env.action_space.sample())
    except Exception:
        return
    finally:
        with contextlib.suppress(Exception):  # a worker that refused may be gone already
            env.close()
    raise ConformanceError("Disabled: a step of an environment whose episode has ended must be refused")


def _time_limit(env: AnyVectorEnv) -> int | None:
    """The number of steps after which episodes are truncated, where the environment tells."""
    limit = getattr(env.unwrapped, "max_episode_steps", None)
    return limit if limit is not None or env.spec is None else env.spec.max_episode_steps


def _rows(env: AnyVectorEnv, observations: Any) -> list[Any]:
    return list(iterate(env.observation_space, observations))


def _same(one: Any, other: Any) -> bool:
    return bool(data_equivalence(one, other, exact=True))


def _expect(condition: bool, sentence: str) -> None:
    if not condition:
        raise ConformanceError(sentence)
