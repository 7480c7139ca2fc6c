"""A dump that workers write themselves: this process hears how large each batch became, and says where it goes."""

from __future__ import annotations

import pickle
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pydump.interfaces.executor import Job, Outcome, Tally, pickled
from pydump_executor_dask.cluster import AHEAD, RUN_SIZE, Cluster, runs
from pydump_executor_dask.worker import Encodings, encode, summary, write

if TYPE_CHECKING:
    from distributed import Future

    from pydump.interfaces.sink import SharedOutput


#: Runs of batches that each thread gets, at least, if they are not to be smaller than those of a scan.
RUNS_EACH: Final = 12
#: Bytes of memory in a run, at most: a worker may have four of them for each thread.
LARGEST_RUN: Final = 64 << 20


def run_shared(cluster: Cluster, job: Job, share: SharedOutput) -> Outcome:
    """Write a dump to an output that all workers reach.

    What a worker made of a run of batches stays in its memory until it is written there. A worker that dies takes it
    with it: dask has it made, and written, again, and that gives the same bytes.

    Raises:
        PydumpError: It failed; no work goes on.
    """
    for extent in job.writer.headers():
        job.sink.write(extent)
    tally, client = Tally(job.writer), cluster.client
    made: deque[Future[Encodings]] = deque()
    sizes: deque[Future[Any]] = deque()
    written: deque[Future[None]] = deque()

    def place() -> None:
        """Have the oldest run written, and those after it that are ready."""
        for data, error in cluster.first(sizes):
            encodings = made.popleft()
            places = [tally.place(one) for one in pickle.loads(data)]
            if error is not None:
                raise error
            key = str(encodings.key).replace("encode", "write", 1)
            written.append(client.submit(write, encodings, output, places, key=key, priority=1))
        job.progress(tally.done)

    with cluster.watched(made, sizes, written):
        task, token = cluster.keep(pickled(job.encoding), "task")
        output, _ = cluster.keep(pickle.dumps((job.encoder, share)), "output")
        share_of_each = job.encoding.total // (RUNS_EACH * cluster.n_threads())
        run_size = min(max(share_of_each, RUN_SIZE), LARGEST_RUN)
        for number, specs in enumerate(runs(job.encoding.specs(), run_size)):
            made.append(
                client.submit(encode, task, token, specs, key=f"pydump-encode-{token}-{number}", priority=-number)
            )
            sizes.append(client.submit(summary, made[-1], key=f"pydump-sizes-{token}-{number}", priority=1))
            ahead = AHEAD * cluster.n_threads()
            if len(made) > ahead:
                place()
            while len(written) > cluster.n_threads():
                cluster.end(written.popleft())
        while made:
            place()
        while written:
            cluster.end(written.popleft())
    return tally.outcome()
