"""What steps environments in several processes: groups of them, the memory they share, and messages in between."""

from __future__ import annotations

import contextlib
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
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper, concatenate, create_empty_array

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


ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class Rows(NamedTuple):
    """What the processes share: arrays with one row for each environment."""

    observations: Tree  # () where they have no fixed size
    rewards: Any
    terminated: Any
    truncated: Any
    actions: Any  # () where they are no array


class Shared(NamedTuple):
    """What all processes know."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    num_envs: int
    autoreset_mode: AutoresetMode
    infos: bool
    memory: Any

    def rows(self) -> Rows:
        """The arrays, which lie in the memory one after another."""
        rows = empty_rows(self.observation_space, self.action_space, self.num_envs)
        starts = iter(itertools.accumulate(map(aligned, tree_leaves(rows)), initial=0))
        return map_tree(lambda leaf: np.ndarray(leaf.shape, leaf.dtype, self.memory, next(starts)), rows)


def empty_rows(observation_space: gym.Space[Any], action_space: gym.Space[Any], num_envs: int) -> Rows:
    """Rows of zeros, of the spaces' shapes and types."""
    observations = create_empty_array(observation_space, num_envs) if _has_fixed_size(observation_space) else ()
    actions: Any = create_empty_array(action_space, num_envs) if isinstance(action_space, ARRAY_SPACES) else ()
    return Rows(observations, np.zeros(num_envs), np.zeros(num_envs, bool), np.zeros(num_envs, bool), actions)


def _has_fixed_size(space: gym.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(map(_has_fixed_size, space.values()))
    if isinstance(space, spaces.Tuple):
        return all(map(_has_fixed_size, space))
    return isinstance(space, ARRAY_SPACES)


def aligned(array: np.ndarray) -> int:
    """Bytes to reserve for an array."""
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT


# What each process does.


def make_all(makers: Sequence[EnvMaker]) -> list[gym.Env[Any, Any]]:
    """The environments of a group."""
    return [make() for make in makers]


class Group:
    """The environments of one process, and their part of the rows."""

    def __init__(self, envs: list[gym.Env[Any, Any]], shared: Shared, part: slice) -> None:
        for env in envs:
            if env.observation_space != shared.observation_space or env.action_space != shared.action_space:
                raise RuntimeError("the environments differ in their spaces")
        self.envs = envs
        self.rows: Rows = map_tree(lambda leaf: leaf[part], shared.rows())
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


class Worker:
    """A process that steps a group, as the one that starts it sees it; the first answer is that it has started."""

    def __init__(self, context: Any, make: Callable[[], Any], shared: Shared, part: slice) -> None:
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


def _work(questions: _Channel, answers: _Channel, make: EnvsMaker, shared: Shared, part: slice) -> None:
    """What a worker does until it is dismissed, or the process that started it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    questions.sender.close()
    answers.receiver.close()
    parent: Any = multiprocessing.parent_process()
    groups: list[Group] = []

    def carry_out(content: bytes | None) -> Any:
        command, arguments = USUAL if content is None else pickle.loads(content)
        return getattr(groups[0], command)(*arguments)

    reply = attempt(lambda: groups.append(Group(make(), shared, part)))
    with contextlib.suppress(EOFError, OSError):
        while True:
            answers.put(_packed(*reply))
            content = questions.get(parent.is_alive)
            if content == b"":
                break
            reply = attempt(carry_out, content)
    for group in groups:
        for env in group.envs:
            env.close()


def attempt(function: Callable[..., Any], *arguments: Any) -> Reply:
    """What a function returns, or raises."""
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


def results_of(replies: Sequence[Reply]) -> list[Any]:
    """The results, or the first error."""
    for _, error in replies:
        if error is not None:
            raise error
    return [result for result, _ in replies]
