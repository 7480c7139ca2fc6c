"""Executors that show whether a format's encoder can run anywhere."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar

from pydump.engine.encoding import Encoding
from pydump.interfaces.executor import Executor, Job, Outcome, Task
from pydump.interfaces.writer import Encoded

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
