"""Threads that help to do the same for many things, where most of the work releases Python's lock."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

Job = tuple[Callable[[Any], Any], Iterator[Any], list[BaseException]]


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Helpers:
    """Threads that wait to help this one.

    Whoever is free takes the next thing, so that nobody waits for long: a helper whose core is taken by another process
    does less, and one that wakes up late, or never (after a fork there are none), nothing.

    Args:
        count: How many threads there are beside the calling one.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._helpers = [(SimpleQueue[Job | None](), threading.Lock()) for _ in range(count)]
        for helper in self._helpers:
            threading.Thread(target=_help, args=helper, daemon=True).start()
        self.dismiss = weakref.finalize(self, _dismiss, self._helpers)

    def for_each(self, function: Callable[[Any], Any], things: Iterable[Any]) -> None:
        """Call the function with each of the things, in any order.

        Raises:
            BaseException: What one of the calls raised; then others may not have been made, but all have ended.
        """
        todo = iter(things)
        errors: list[BaseException] = []
        for jobs, _ in self._helpers:
            jobs.put((function, todo, errors))
        try:
            for thing in todo:
                function(thing)
        finally:
            deque(todo, maxlen=0)  # After an error nobody shall begin with another one.
            for _, working in self._helpers:
                with working:
                    pass
        if errors:
            raise errors[0]


def _help(jobs: SimpleQueue[Job | None], working: threading.Lock) -> None:
    while (job := jobs.get()) is not None:
        function, todo, errors = job
        with working:  # A thing is taken with the lock held only: who finds none left knows what to wait for.
            try:
                for thing in todo:
                    function(thing)
            except BaseException as error:
                errors.append(error)
                deque(todo, maxlen=0)
        del job, function, todo, errors  # They must not live on while this thread sleeps.


def _dismiss(helpers: Iterable[tuple[SimpleQueue[Job | None], threading.Lock]]) -> None:
    for jobs, _ in helpers:
        jobs.put(None)
