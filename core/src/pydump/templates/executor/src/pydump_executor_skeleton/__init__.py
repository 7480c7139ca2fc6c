"""An executor: ``skeleton:N``, N processes that inherit nothing of this one, as those of another host."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, ClassVar, Self, TypeVar

from pydump.errors import PlanError, PydumpError, failure
from pydump.hookspecs import hookimpl
from pydump.interfaces.executor import Executor, Spec, Task, pickled

_R = TypeVar("_R")


class SkeletonExecutor(Executor):
    """Its workers unpickle the task and open the source for themselves.

    Args:
        workers: How many. They start with the first task, and end when this is closed.
    """

    name: ClassVar[str] = "skeleton"

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"))

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        if (argument and not argument.isdecimal()) or argument == "0":
            raise PlanError(f"skeleton:{argument} is not a number of workers", hint="write skeleton:4")
        return cls(int(argument or 2))

    def workers_for(self, n_pieces: int) -> int:
        return min(n_pieces, self._workers)

    def map(self, task: Task[_R]) -> Iterator[_R]:
        work = pickled(task)
        running: deque[Future[_R]] = deque()
        try:
            for spec in task.specs():
                running.append(self._pool.submit(_work, work, spec))
                if len(running) > 2 * self._workers:  # no more is made ahead than memory is there for
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise PydumpError("a worker of skeleton was killed", hint="there may be too little memory") from None
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _work(task: bytes, spec: Spec) -> Any:
    """In a worker: the result of a piece."""
    try:
        return _worker(task)(spec)
    except Exception as error:  # the error of any library, which this process may not have
        raise failure(error, "a worker of skeleton failed") from None


@lru_cache(maxsize=1)
def _worker(task: bytes) -> Callable[[Spec], Any]:
    """In a worker: what works on the pieces of a task. It opens the source, once for all of them."""
    opened: Task[Any] = pickle.loads(task)
    return opened.worker()


@hookimpl
def pydump_register_executors() -> Sequence[type[Executor]]:
    """``--executor skeleton:N``."""
    return [SkeletonExecutor]
