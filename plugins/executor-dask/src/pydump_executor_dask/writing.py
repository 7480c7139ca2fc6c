"""A dump that workers write themselves: this process hears how large each batch became, and says where it goes."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pydump.interfaces.executor import Job, Outcome, Tally, pickled
from pydump.interfaces.sink import SharedOutput, SharedParts
from pydump_executor_dask.cluster import AHEAD, RUN_SIZE, Cluster, runs
from pydump_executor_dask.worker import Encodings, encode, summary, write

if TYPE_CHECKING:
    from collections.abc import Collection

    from distributed import Future


#: Runs of batches that each thread gets, at least, if they are not to be smaller than those of a scan.
RUNS_EACH: Final = 8
#: Bytes of memory in a run, at most: a worker may have four of them for each thread. A run takes scheduler, worker and
#: driver some 15 ms, however large it is.
LARGEST_RUN: Final = 128 << 20


class Writes(ABC):
    """Has workers write runs of batches that have their place."""

    #: What is under way.
    running: Collection[Future[Any]]

    @abstractmethod
    def add(self, made: Future[Encodings], places: list[tuple[int, Any]], worker: str) -> None:
        """Have the next run written, where it is if that can be: see :func:`pydump_executor_dask.worker.write`."""

    @abstractmethod
    def settle(self, most: int) -> None:
        """Wait until at most so many runs are not yet written.

        Raises:
            SinkError: One could not be written.
        """


class Extents(Writes):
    """To a file.

    Args:
        cluster: Whose workers write.
        job: What is written.
        share: The file.
    """

    def __init__(self, cluster: Cluster, job: Job, share: SharedOutput) -> None:
        self._cluster = cluster
        self._output, _ = cluster.keep(pickle.dumps((job.encoder, share)), "output")
        self.running: deque[Future[None]] = deque()

    def add(self, made: Future[Encodings], places: list[tuple[int, Any]], worker: str) -> None:
        how = {"workers": [worker], "allow_other_workers": True, "priority": 1}
        key = str(made.key).replace("encode", "write", 1)
        self.running.append(self._cluster.client.submit(write, made, self._output, places, key=key, **how))

    def settle(self, most: int) -> None:
        while len(self.running) > most:
            self._cluster.end(self.running.popleft())


def run_shared(cluster: Cluster, job: Job, share: SharedOutput | SharedParts) -> Outcome:
    """Write a dump to an output that all workers reach.

    What a worker made of a run of batches stays in its memory until it is written there. A worker that dies takes it
    with it: dask has it made, and written, again, and that gives the same bytes.

    Raises:
        PydumpError: It failed; no work goes on.
    """
    from pydump_executor_dask.uploading import Uploads

    for extent in job.writer.headers():
        job.sink.write(extent)
    tally, client = Tally(job.writer), cluster.client
    made: deque[Future[Encodings]] = deque()
    sizes: deque[Future[Any]] = deque()
    with cluster.watched(made, sizes):
        writes = Uploads(cluster, job, share) if isinstance(share, SharedParts) else Extents(cluster, job, share)

        def place() -> None:
            """Have the oldest run written, and those after it that are ready."""
            for data, error, worker in cluster.first(sizes):
                encodings = made.popleft()
                places = [tally.place(one) for one in pickle.loads(data)]
                if error is not None:
                    raise error
                writes.add(encodings, places, worker)
            job.progress(tally.done)

        with cluster.watched(writes.running):
            task, token = cluster.keep(pickled(job.encoding), "task")
            share_of_each = job.encoding.total // (RUNS_EACH * cluster.n_threads())
            run_size = min(max(share_of_each, RUN_SIZE), LARGEST_RUN)
            for number, specs in enumerate(runs(job.encoding.specs(), run_size)):
                made.append(
                    client.submit(encode, task, token, specs, key=f"pydump-encode-{token}-{number}", priority=-number)
                )
                sizes.append(client.submit(summary, made[-1], key=f"pydump-sizes-{token}-{number}", priority=1))
                if len(made) > AHEAD * cluster.n_threads():
                    place()
                writes.settle(cluster.n_threads())
            while made:
                place()
            writes.settle(0)
    return tally.outcome()
