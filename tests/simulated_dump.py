"""A dump without memory and codec: each batch takes as long as it is told, so that the driver of a cluster is seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydump.interfaces.executor import Job, Spec, Task
from pydump.interfaces.sink import Extent, Hole, Placement, SharedOutput, Sink
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.model.memory import Ranges

#: Bytes of guest memory in a batch, as in a real dump.
BATCH = 4 << 20
#: What each batch becomes.
PAYLOAD = 16


@dataclass(frozen=True)
class Sleeping(Task[Encoded[Any]]):
    """So many batches, each of which takes ``seconds``."""

    count: int
    seconds: float
    label = "encode"
    piece_size = BATCH
    result_size = BATCH

    @property
    def total(self) -> int:  # type: ignore[override]
        return self.count * BATCH

    def specs(self) -> Iterator[Spec]:
        for number in range(self.count):
            yield Spec(number * BATCH, BATCH, ((number * BATCH, (number + 1) * BATCH),))

    def worker(self) -> Callable[[Spec], Encoded[Any]]:
        def encode(spec: Spec) -> Encoded[Any]:
            time.sleep(self.seconds)
            payload = (spec.position // BATCH).to_bytes(PAYLOAD, "big")
            return Encoded(spec.position, PAYLOAD, payload, None, spec.size, 0)

        return encode


@dataclass(frozen=True)
class PayloadOnly(Encoder[None]):
    """Writes what is there."""

    def encode(self, batch: Batch) -> Encoded[None]:
        raise NotImplementedError

    def extents(self, encoded: Encoded[None], start: int, answer: Any = None) -> Iterator[Extent | Hole]:
        assert encoded.payload is not None
        yield Extent(start, encoded.payload)


class NoHeaders(Writer):
    """Payload end to end."""

    stored = Ranges.empty()
    unit = start = size_limit = 0

    def headers(self) -> Iterator[Extent | Hole]:
        return iter(())

    def encoder(self) -> Encoder[Any]:
        return PayloadOnly()


#: What was written in this process, by offset.
WRITTEN: dict[int, bytes] = {}


class Kept(SharedOutput):
    """An output in this process, in which the workers are threads."""

    def reached(self) -> bool:
        return True

    def write(self, extents: Iterable[Extent | Hole]) -> None:
        for extent in extents:
            assert isinstance(extent, Extent)
            WRITTEN[extent.offset] = bytes(extent.data)


class KeptSink(Sink):
    """The same, as the driver has it."""

    placement: Placement = "anywhere"  # type: ignore[misc]

    def share(self) -> SharedOutput:
        return Kept()

    def write(self, extent: Extent | Hole) -> None: ...

    def commit(self, size: int) -> None: ...

    def abort(self) -> None: ...


def job(count: int, seconds: float) -> Job:
    """A dump of ``count`` batches, each of which takes ``seconds``."""
    return Job(Sleeping(count, seconds), PayloadOnly(), NoHeaders(), KeptSink(), lambda done: None)


def run(threads: int, count: int, seconds: float) -> tuple[float, float]:
    """Have a cluster of threads do it; the seconds it took, once the cluster stands, and those of the CPU.

    Args:
        threads: Of the workers.
        count: Batches.
        seconds: Each of them takes.
    """
    from distributed import Client, LocalCluster

    from pydump_executor_dask import DaskExecutor
    from pydump_executor_dask.cluster import Cluster

    WRITTEN.clear()
    own = LocalCluster(n_workers=1, threads_per_worker=threads, processes=False, dashboard_address=None)
    with DaskExecutor(Cluster(Client(own), own.scheduler_address, 30, own)) as executor:
        began, cpu = time.monotonic(), time.process_time()
        outcome = executor.run(job(count, seconds))
        took = time.monotonic() - began, time.process_time() - cpu
    assert outcome.end == count * PAYLOAD
    return took
