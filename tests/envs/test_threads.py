"""Helpers: each thing is done once, errors are raised here, and nobody is left behind."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from rltool.envs.threads import Helpers


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_thing_is_done_once_before_it_returns(count: int) -> None:
    helpers = Helpers(count)
    for size in (0, 1, 5, 100):
        done: list[int] = []
        helpers.for_each(lambda i: (time.sleep(1e-4), done.append(i)), range(size))
        assert sorted(done) == list(range(size))


def test_helpers_do_work() -> None:
    seen: set[int] = set()
    both = threading.Barrier(2, timeout=10)

    def meet(_: int) -> None:
        seen.add(threading.get_ident())
        both.wait()

    Helpers(1).for_each(meet, range(2))
    assert len(seen) == 2


@pytest.mark.parametrize("here", [True, False])
def test_errors_are_raised_here_and_all_has_ended(here: bool) -> None:
    me, running = threading.get_ident(), []
    helpers = Helpers(2)

    def fail(i: int) -> None:
        if (threading.get_ident() == me) is here:
            raise ZeroDivisionError(i)
        running.append(i)
        time.sleep(0.01)
        running.remove(i)

    with pytest.raises(ZeroDivisionError):
        helpers.for_each(fail, range(1000))
    assert running == []
    done: list[int] = []
    helpers.for_each(done.append, range(10))
    assert sorted(done) == list(range(10))


def test_threads_end_with_what_they_help() -> None:
    before = set(threading.enumerate())
    helpers = Helpers(3)
    helpers.for_each(lambda _: None, range(5))
    theirs = set(threading.enumerate()) - before
    assert len(theirs) == 3
    del helpers
    gc.collect()
    for thread in theirs:
        thread.join(10)
    assert not any(thread.is_alive() for thread in theirs)
