"""Worker processes: how many, and that none is left over or lost unnoticed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest

from pydump.builtin.workers import Claims, forked, messages, useful_workers
from pydump.errors import PlanError, PydumpError


def test_there_are_never_more_workers_than_pieces() -> None:
    assert [useful_workers(n, 3) for n in (1, 2, 3, 9)] == [1, 2, 3, 3]
    assert useful_workers(None, 1000) == len(os.sched_getaffinity(0))
    assert useful_workers(None, 0) == 1


def test_no_workers_are_refused() -> None:
    with pytest.raises(PlanError, match="at least 1"):
        useful_workers(0, 3)


def test_thousands_of_workers_are_refused() -> None:
    most = max(256, os.cpu_count() or 1)
    assert useful_workers(most, 3) == 3
    with pytest.raises(PlanError, match=f"^--workers must be at most {most} here"):
        useful_workers(most + 1, 3)


def test_a_pool_worker_of_the_user_works_alone() -> None:
    """Multiprocessing lets a daemonic process, such as one of a Pool, have no children."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(useful_workers, (None, 1000)) == 1
        with pytest.raises(PydumpError, match="^workers cannot be started: this process is a daemonic worker"):
            pool.apply(useful_workers, (2, 1000))


def test_each_number_is_claimed_once() -> None:
    claims = Claims()

    def work(number: int, pipe: Any) -> None:
        while (claimed := claims.claim()) < 200:
            pipe.send(claimed)

    with forked(3, work) as workers:
        found = [message for _, message in messages(workers, lambda: None)]
    assert sorted(found) == list(range(200))


def test_no_worker_outlives_the_block() -> None:
    def work(number: int, pipe: Any) -> None:
        time.sleep(600)

    pids: list[int] = []

    def stop_early() -> None:
        with forked(3, work) as workers:
            pids.extend(worker.process.pid for worker in workers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_early()
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "^a worker process was ended by SIGKILL; was memory short"),
        (lambda: os._exit(7), "^a worker process ended unexpectedly with exit code 7$"),
        (lambda: 1 // 0, "^a worker process failed: ZeroDivisionError: "),
    ],
    ids=["killed", "exit", "bug"],
)
def test_a_worker_that_ends_early_is_an_error(how: Any, says: str) -> None:
    def work(number: int, pipe: Any) -> None:
        if number == 1:
            how()
        time.sleep(600)

    with forked(2, work) as workers, pytest.raises(PydumpError, match=says):
        list(messages(workers, lambda: None))
