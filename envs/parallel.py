"""Environments stepped together: by one process or by a few, each of which steps a group of them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, concatenate, create_empty_array, iterate

from rltool.trees import Tree, map_tree, tree_leaves

EnvMaker = Callable[[], gym.Env[Any, Any]]
EnvsMaker = Callable[[], list[gym.Env[Any, Any]]]
Reply = tuple[Any, Exception | None]  # One of them is None.
Infos = list[tuple[int, dict[str, Any]]]  # With the numbers of the environments within their group.

# A process that waits for a message looks out for it so long before it sleeps, since waking it up takes 20 to 50
# microseconds. Long enough for a policy to act, and little to lose where others want the core.
SPIN_SECONDS = 100e-6
# How long a worker may take to end before it is killed.
END_SECONDS = 5.0
ALIVE_SECONDS = 1.0  # How often a sleeping process looks whether the other one lives.
ALIGNMENT = 64  # bytes: a cache line
# Messages without content: a step whose actions are in the rows, and a reply whose results all are.
USUAL: tuple[str, tuple[Any, ...]] = ("step", (None,))
NOTHING: tuple[list[Any], Infos] = ([], [])


class ParallelVectorEnv(VectorEnv[Any, Any, Any]):
    """Steps copies of an environment together, with the results of Gymnasium's `SyncVectorEnv`, in a few processes.

    Each process steps a group of environments one after another: this one the first group, workers the others. So a
    step takes one message to each worker and back, however many environments there are; rewards and observations
    (those of a fixed size) come back in shared memory. Trajectories do not depend on the number of processes.

    What an environment raises is raised here, with the worker's traceback as a note, and all go on from there. Workers
    ignore Ctrl-C, which reaches all processes of a terminal: they end when this process closes them, or ends.

    Args:
        makers: Functions that make the environments, which must have equal spaces.
        processes: How many step them, this one included; with one, there are no workers.
        autoreset_mode: An `AutoresetMode` or its value.
        infos: False leaves out all infos but `final_obs`: merging the many of MuJoCo's takes a tenth of a step.

    Attributes:
        envs: The environments of this process: the first group.

    Raises:
        RuntimeError: The spaces differ.
    """

    def __init__(
        self,
        makers: Sequence[EnvMaker],
        processes: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        infos: bool = True,
    ) -> None:
        self.num_envs = len(makers)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        # Rounded down: this process, which also has the messages to write, gets the smallest group.
        bounds = [self.num_envs * i // processes for i in range(processes + 1)]
        self._parts = [slice(*pair) for pair in itertools.pairwise(dict.fromkeys(bounds))]
        self._workers: list[_Worker] = []

        self.envs = _make_all(makers[self._parts[0]])
        self.metadata = self.envs[0].metadata | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = self.envs[0].render_mode
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        context = multiprocessing.get_context()
        rows = _empty_rows(self.single_observation_space, self.single_action_space, self.num_envs)
        size = sum(map(_aligned, tree_leaves(rows)))
        memory = context.RawArray("B", size) if len(self._parts) > 1 else bytearray(size)
        shared = _Shared(
            self.single_observation_space,
            self.single_action_space,
            self.num_envs,
            self.autoreset_mode,
            infos,
            memory,
        )
        self._rows = shared.rows()
        try:
            for part in self._parts[1:]:
                self._workers.append(_Worker(context, functools.partial(_make_all, makers[part]), shared, part))
            self._group = _Group(self.envs, shared, self._parts[0])
            _results([worker.answer() for worker in self._workers])
        except BaseException:
            self.close()
            raise

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tree, dict[str, Any]]:
        """Begin a new episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: Environment i gets seed + i, or the i-th of several.
            options: Passed on to each environment; `reset_mask`, boolean `(num_envs,)`, is taken out.

        Returns:
            Observations of all environments `(num_envs, ...)`, and the infos of those that were reset.
        """
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"there are {len(seeds)} seeds for {self.num_envs} environments")
        mask = np.ones(self.num_envs, bool)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            options = {name: value for name, value in options.items() if name != "reset_mask"}
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
                raise ValueError(f"options['reset_mask'] must be boolean ({self.num_envs},), not {mask!r}")
        replies = self._run("reset", [(seeds[part], options, mask[part]) for part in self._parts])
        return self._observations(replies), self._infos(replies)

    def step(self, actions: Any) -> tuple[Tree, Any, Any, Any, dict[str, Any]]:
        """Take a step in every environment.

        Args:
            actions: An element of the action space.

        Returns:
            Observations `(num_envs, ...)`, rewards, terminated and truncated `(num_envs,)`, and infos.

        Raises:
            ResetNeeded: An episode has ended, and nothing resets it.
        """
        if not isinstance(actions, np.ndarray) or self.action_space.shape is None:
            actions = list(iterate(self.action_space, actions))
        rows = self._rows
        if self._workers and _alike(actions, rows.actions):
            np.copyto(rows.actions, actions)
            replies = self._run("step", [(None,)] * len(self._parts))
        else:
            replies = self._run("step", [(actions[part],) for part in self._parts])
        return (
            self._observations(replies),
            rows.rewards.copy(),
            rows.terminated.copy(),
            rows.truncated.copy(),
            self._infos(replies),
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Each environment's attribute of this name or, if it can be called, what it returns."""
        return tuple(itertools.chain(*self._run("call", [(name, args, kwargs)] * len(self._parts))))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Each environment's attribute of this name."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute in each environment: to its own value out of a list or tuple, or all to the same."""
        if not isinstance(values, list | tuple):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"there are {len(values)} values for {self.num_envs} environments")
        self._run("set_attr", [(name, values[part]) for part in self._parts])

    def render(self) -> tuple[Any, ...]:
        """A frame of each environment."""
        return self.call("render")

    @property  # type: ignore[misc]  # Only to read, as `SyncVectorEnv`'s.
    def np_random(self) -> Any:
        """Each environment's random generator; those of workers as copies."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        """Each environment's seed."""
        return self.get_attr("np_random_seed")

    def close_extras(self, **_: Any) -> None:
        """Close the environments and end the workers."""
        for worker in self._workers:
            worker.dismiss()
        for env in self.envs:
            env.close()
        for worker in self._workers:
            worker.end()

    def __del__(self) -> None:
        """End the workers of a vector environment that nobody closed."""
        if getattr(self, "_workers", None):
            self.close()

    def _run(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a command, given its arguments for each group, returns for each group."""
        if self.closed:
            raise ClosedEnvironmentError("the environments have been closed")
        for worker, each in zip(self._workers, arguments[1:], strict=True):
            worker.ask(command, each)
        # If this group fails, the others' replies are waited for all the same: then all stand at the same step.
        mine = _attempt(getattr(self._group, command), *arguments[0])
        return _results([mine, *[worker.answer() for worker in self._workers]])

    def _observations(self, replies: Sequence[tuple[Any, Any]]) -> Tree:
        if self._group.fixed_size:
            return map_tree(np.copy, self._rows.observations)
        observations = [each for of_group, _ in replies for each in of_group]
        out: Any = create_empty_array(self.single_observation_space, self.num_envs)
        return concatenate(self.single_observation_space, observations, out)

    def _infos(self, replies: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part, (_, infos) in zip(self._parts, replies, strict=True):
            for i, info in infos:
                merged = self._add_info(merged, info, part.start + i)
        return merged


# What the processes share: arrays with one row for each environment.

ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class _Rows(NamedTuple):
    observations: Tree  # () where they have no fixed size
    rewards: Any
    terminated: Any
    truncated: Any
    actions: Any  # () where they are no array


class _Shared(NamedTuple):
    """What all processes know."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    num_envs: int
    autoreset_mode: AutoresetMode
    infos: bool
    memory: Any

    def rows(self) -> _Rows:
        """The arrays, which lie in the memory one after another."""
        rows = _empty_rows(self.observation_space, self.action_space, self.num_envs)
        starts = iter(itertools.accumulate(map(_aligned, tree_leaves(rows)), initial=0))
        return map_tree(lambda leaf: np.ndarray(leaf.shape, leaf.dtype, self.memory, next(starts)), rows)


def _empty_rows(observation_space: gym.Space[Any], action_space: gym.Space[Any], num_envs: int) -> _Rows:
    observations = create_empty_array(observation_space, num_envs) if _has_fixed_size(observation_space) else ()
    actions: Any = create_empty_array(action_space, num_envs) if isinstance(action_space, ARRAY_SPACES) else ()
    return _Rows(observations, np.zeros(num_envs), np.zeros(num_envs, bool), np.zeros(num_envs, bool), actions)


def _has_fixed_size(space: gym.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(map(_has_fixed_size, space.values()))
    if isinstance(space, spaces.Tuple):
        return all(map(_has_fixed_size, space))
    return isinstance(space, ARRAY_SPACES)


def _aligned(array: np.ndarray) -> int:
    """Bytes to reserve for an array."""
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT


def _alike(one: Any, other: Any) -> bool:
    both = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return both and one.shape == other.shape and one.dtype == other.dtype


# What each process does.


def _make_all(makers: Sequence[EnvMaker]) -> list[gym.Env[Any, Any]]:
    return [make() for make in makers]


class _Group:
    """The environments of one process, and their part of the rows."""

    def __init__(self, envs: list[gym.Env[Any, Any]], shared: _Shared, part: slice) -> None:
        for env in envs:
            if env.observation_space != shared.observation_space or env.action_space != shared.action_space:
                raise RuntimeError("the environments differ in their spaces")
        self.envs = envs
        self.rows: _Rows = map_tree(lambda leaf: leaf[part], shared.rows())
        self.observation_space = shared.observation_space
        self.fixed_size = _has_fixed_size(shared.observation_space)
        self.mode = shared.autoreset_mode
        self.all_infos = shared.infos
        self.observations: list[Any] = [None] * len(envs)
        self.ended = [False] * len(envs)

    def reset(
        self, seeds: Sequence[int | None], options: dict[str, Any] | None, mask: np.ndarray
    ) -> tuple[list[Any], Infos]:
        infos = []
        for i in np.flatnonzero(mask).tolist():
            self.observations[i], info = self.envs[i].reset(seed=seeds[i], options=options)
            self.ended[i] = False
            infos.append((i, info))
        return self._results(infos if self.all_infos else [])

    def step(self, actions: Sequence[Any] | None) -> tuple[list[Any], Infos]:
        _, rewards, terminated, truncated, given = self.rows
        if actions is None:
            actions = given.copy()  # Environments may keep their actions.
        infos = []
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if self.ended[i] and self.mode is AutoresetMode.NEXT_STEP:
                observation, info = env.reset()
                rewards[i], terminated[i], truncated[i], self.ended[i] = 0.0, False, False, False
            elif self.ended[i] and self.mode is AutoresetMode.DISABLED:
                raise ResetNeeded("the episode has ended: call reset() before step()")
            else:
                observation, rewards[i], terminated[i], truncated[i], info = env.step(action)
                self.ended[i] = bool(terminated[i] or truncated[i])
                if self.ended[i] and self.mode is AutoresetMode.SAME_STEP:
                    final = {"final_obs": observation}
                    infos.append((i, final | {"final_info": info} if self.all_infos else final))
                    observation, info = env.reset()
            self.observations[i] = observation
            if self.all_infos and info:
                infos.append((i, info))
        return self._results(infos)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return [each(*args, **kwargs) if callable(each) else each for each in found]

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        for env, value in zip(self.envs, values, strict=True):
            env.set_wrapper_attr(name, value)

    def _results(self, infos: Infos) -> tuple[list[Any], Infos]:
        """Observations that do not fit into rows, and the infos with the numbers of their environments."""
        if not self.fixed_size:
            return self.observations, infos
        concatenate(self.observation_space, self.observations, self.rows.observations)
        return [], infos


class _Channel:
    """Numbered messages in one direction between two processes; one without content takes no system call.

    Ctrl-C may come at any point in the process that started the other one, and the next message arrives all the same:
    whether one is there is told by its number. The semaphore lets the receiver sleep, and orders reading after writing.
    """

    def __init__(self, context: Any) -> None:
        self.receiver, self.sender = context.Pipe(duplex=False)
        self._signal = context.Semaphore(0)
        self._sent = context.RawValue("L")
        self._has_content = context.RawValue("b")
        self.taken = 0  # known to the receiver's process only

    @property
    def sent(self) -> int:
        """How many messages there have been."""
        return self._sent.value

    def put(self, content: bytes | None) -> None:
        self._has_content.value = content is not None
        if content is None:
            self._sent.value += 1
            self._signal.release()
            return
        with _uninterrupted():
            self._sent.value += 1
            self._signal.release()  # Before the content: what is long is written only as fast as it is read.
            self.sender.send_bytes(content)

    def get(self, other_lives: Callable[[], bool]) -> bytes | None:
        """The content of the next message.

        Raises:
            EOFError: The other process has ended.
        """
        end = time.perf_counter() + SPIN_SECONDS
        while self._sent.value == self.taken and time.perf_counter() < end:
            pass
        while True:
            signaled = self._signal.acquire(True, ALIVE_SECONDS)
            if self._sent.value > self.taken:
                break
            if not signaled and not other_lives():
                raise EOFError
        if not self._has_content.value:
            self.taken += 1
            return None
        with _uninterrupted():
            self.taken += 1
            return self.receiver.recv_bytes()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C, so that messages are read and written in whole."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """A process that steps a group, as the one that starts it sees it; the first answer is that it has started."""

    def __init__(self, context: Any, make: Callable[[], Any], shared: _Shared, part: slice) -> None:
        self._questions, self._answers = _Channel(context), _Channel(context)
        arguments = (self._questions, self._answers, CloudpickleWrapper(make), shared, part)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        self._questions.receiver.close()
        self._answers.sender.close()

    def ask(self, command: str, arguments: tuple[Any, ...]) -> None:
        """Have a command carried out."""
        if self._answers.taken <= self._questions.sent:  # Ctrl-C came between a question and its answer.
            self.answer()
        usual = command == "step" and arguments[0] is None
        with contextlib.suppress(OSError):  # `answer` says what has become of the process.
            self._questions.put(None if usual else pickle.dumps((command, arguments)))

    def answer(self) -> Reply:
        """What the command returned or raised."""
        try:
            content = self._answers.get(self._process.is_alive)
        except (EOFError, OSError):
            self._process.join(END_SECONDS)
            code = self._process.exitcode
            return None, RuntimeError(f"a process that steps environments ended unasked, with exit code {code}")
        return (NOTHING, None) if content is None else pickle.loads(content)

    def dismiss(self) -> None:
        with contextlib.suppress(OSError):
            self._questions.put(b"")

    def end(self) -> None:
        self._questions.sender.close()
        self._answers.receiver.close()
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(questions: _Channel, answers: _Channel, make: EnvsMaker, shared: _Shared, part: slice) -> None:
    """What a worker does until it is dismissed, or the process that started it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    questions.sender.close()
    answers.receiver.close()
    parent: Any = multiprocessing.parent_process()
    groups: list[_Group] = []

    def carry_out(content: bytes | None) -> Any:
        command, arguments = USUAL if content is None else pickle.loads(content)
        return getattr(groups[0], command)(*arguments)

    reply = _attempt(lambda: groups.append(_Group(make(), shared, part)))
    with contextlib.suppress(EOFError, OSError):
        while True:
            answers.put(_packed(*reply))
            content = questions.get(parent.is_alive)
            if content == b"":
                break
            reply = _attempt(carry_out, content)
    for group in groups:
        for env in group.envs:
            env.close()


def _attempt(function: Callable[..., Any], *arguments: Any) -> Reply:
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def _packed(result: Any, error: Exception | None) -> bytes | None:
    if error is None and result == NOTHING:
        return None
    if error is not None:
        error.add_note("".join(["In a worker process: ", *traceback.format_exception(error)]))
    try:
        message = pickle.dumps((result, error))
        if error is not None:
            pickle.loads(message)  # There are exceptions that can be written, but not read.
    except Exception as failure:
        seen = error or failure
        message = pickle.dumps((None, RuntimeError(f"{type(seen).__name__}: {seen}")))
    return message


def _results(replies: Sequence[Reply]) -> list[Any]:
    """The results, or the first error."""
    for _, error in replies:
        if error is not None:
            raise error
    return [result for result, _ in replies]
