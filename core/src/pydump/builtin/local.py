"""This process, and workers forked from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self, TypeVar

from pydump.errors import PlanError
from pydump.interfaces.executor import Executor, Job, Outcome, Task

R = TypeVar("R")


class LocalExecutor(Executor):
    """Forked workers, which inherit all that this process has; or this process alone, where one worker is enough.

    Args:
        workers: Processes that work, or None for the CPUs this process may use. There are never more than pieces.

    Raises:
        PlanError: ``workers`` is less than 1.
    """

    name: ClassVar[str] = "local"
    inherits: ClassVar[bool] = True

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise PlanError("--workers must be at least 1")
        self._workers = workers

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        if argument and not argument.isdecimal():
            raise PlanError(
                f"local:{argument}: {argument!r} is not a number of workers", hint="local:4 is four workers"
            )
        return cls(int(argument) if argument else None)

    def workers_for(self, n_pieces: int) -> int:
        from pydump.builtin.workers import useful_workers

        return useful_workers(self._workers, n_pieces)

    def map(self, task: Task[R]) -> Iterator[R]:
        if (count := self.workers_for(task.n_pieces)) > 1:
            from pydump.builtin.forked import map_forked

            return map_forked(task, count)
        return map(task.worker(), task.specs())

    def run(self, job: Job) -> Outcome:
        if (count := self.workers_for(job.encoding.n_pieces)) > 1:
            from pydump.builtin.forked import run_forked

            return run_forked(job, count)
        return super().run(job)
