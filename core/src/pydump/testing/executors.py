"""Executors that show whether a format's encoder, and whatever else is done with memory, can run anywhere."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydump.engine.encoding import Encoding
from pydump.errors import failure
from pydump.interfaces.executor import Executor, Job, Outcome, Spec, Task, pickled
from pydump.interfaces.writer import Encoded
from pydump.process import die_with_parent

R = TypeVar("R")


class CopyingExecutor(Executor):
    """Works in this process, with a copy of the encoder, and gives back copies of results, as another process does.

    Attributes:
        sizes: The bytes of each batch and of its payload.
    """

    name: ClassVar[str] = "copying"

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        return cls()

    def workers_for(self, n_pieces: int) -> int:
        return 1

    def map(self, task: Task[R]) -> Iterator[R]:
        for result in map(task.worker(), task.specs()):
            copy: R = pickle.loads(pickle.dumps(result))
            if isinstance(copy, Encoded):
                self.sizes.append((copy.size, len(copy.payload or b"")))
            yield copy

    def run(self, job: Job) -> Outcome:
        encoder = pickle.loads(pickle.dumps(job.encoder))
        assert isinstance(job.encoding, Encoding)
        return super().run(replace(job, encoder=encoder, encoding=Encoding(job.encoding.batches, encoder)))


class SpawnedExecutor(Executor):
    """Works in processes that inherit nothing, as those of another host do: they unpickle the task and open the source.

    Args:
        workers: How many. They start with the first task, and end when this is closed.
    """

    name: ClassVar[str] = "spawned"

    def __init__(self, workers: int = 2) -> None:
        self._workers = workers
        self._pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=die_with_parent, initargs=(os.getpid(), signal.SIGKILL)
        )

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        return cls(int(argument or 2))

    def workers_for(self, n_pieces: int) -> int:
        return min(n_pieces, self._workers)

    def map(self, task: Task[R]) -> Iterator[R]:
        with tempfile.NamedTemporaryFile(prefix="pydump-task-") as file:
            file.write(pickled(task))
            file.flush()
            running: deque[Future[R]] = deque()
            for spec in task.specs():
                running.append(self._pool.submit(_work, file.name, spec))
                if len(running) > 2 * self._workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _work(path: str, spec: Spec) -> Any:
    """In a worker: the result of a piece."""
    try:
        return _worker(path)(spec)
    except Exception as error:  # opening the source again, or whatever a plugin makes of it
        raise failure(error, "a worker process failed") from None


@lru_cache(maxsize=1)
def _worker(path: str) -> Callable[[Spec], Any]:
    task: Task[Any] = pickle.loads(Path(path).read_bytes())
    return task.worker()
