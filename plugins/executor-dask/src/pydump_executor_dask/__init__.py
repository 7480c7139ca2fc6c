"""The workers of a dask cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.executor import Executor, Job, Outcome, Task
from pydump.options import option

if TYPE_CHECKING:
    from pydump_executor_dask.cluster import Cluster

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class DaskOptions:
    """How long to wait for others."""

    patience: int = option(30, help="seconds to wait for a scheduler, and for workers when none is left", low=1)


class DaskExecutor(Executor):
    """Workers of a dask cluster. They read and encode; this process says where what they made goes.

    They write it themselves to a file or an upload that all of them reach. Else it comes here, and is written here.

    Args:
        cluster: The cluster.
    """

    name: ClassVar[str] = "dask"
    Options: ClassVar[type] = DaskOptions

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        from pydump_executor_dask.cluster import Cluster

        return cls(Cluster.open(argument, (options or DaskOptions()).patience))

    def workers_for(self, n_pieces: int) -> int:
        return min(n_pieces, self._cluster.n_threads())

    def map(self, task: Task[_R]) -> Iterator[_R]:
        return self._cluster.map(task)

    def run(self, job: Job) -> Outcome:
        from pydump_executor_dask.writing import run_shared

        share = job.sink.share()
        if share is None or not self._cluster.all_hold(share.reached):
            return super().run(job)
        return run_shared(self._cluster, job, share)

    def close(self) -> None:
        self._cluster.close()


@hookimpl
def pydump_register_executors() -> Sequence[type[Executor]]:
    """``--executor dask:…``."""
    return [DaskExecutor]
