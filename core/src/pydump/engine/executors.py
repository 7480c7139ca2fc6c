"""Who encodes: this process alone, or forked workers. The bytes that come out are the same."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Final

from pydump.engine.batches import Batches, Spec
from pydump.engine.courier import Courier, Inbox, in_pieces, shared_memory
from pydump.engine.workers import Claims, forked, messages, useful_workers
from pydump.errors import PluginError, PydumpError
from pydump.interfaces.sink import Sink
from pydump.interfaces.writer import Encoded, Writer

#: Encoded batches a worker may hold while it waits for its turn.
MAX_PENDING: Final = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the pipeline adds up to.

    Attributes:
        end: Where the last payload ends.
        zero_size: Bytes of guest memory that were found to be zero.
        taken_size: Bytes of guest memory whose pages were taken over unread.
        lost_size: Bytes of guest memory in pages that are damaged in the source.
        first_lost: The paddr of the first such page, or None.
    """

    end: int
    zero_size: int = 0
    taken_size: int = 0
    lost_size: int = 0
    first_lost: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A pipeline: batches through a writer into a sink."""

    batches: Batches
    writer: Writer
    sink: Sink
    #: Called with the bytes of guest memory done so far.
    progress: Callable[[int], None]


class Executor(ABC):
    """Runs a job."""

    #: Processes that encode.
    workers: int

    @abstractmethod
    def run(self, job: Job) -> Outcome:
        """Encode and write every batch.

        Raises:
            PydumpError: Anything failed; no process is left running.
        """


class SerialExecutor(Executor):
    """Everything in this process."""

    workers = 1

    def run(self, job: Job) -> Outcome:
        at, done, zero, taken, lost = job.writer.start, 0, 0, 0, 0
        first_lost: int | None = None
        buffer = job.batches.buffer()
        for extent in job.writer.layout():
            job.sink.write(extent)
        for spec in job.batches.specs():
            encoded = job.writer.place(_encode(job, spec, buffer), at)
            for extent in in_pieces(job.writer.extents(encoded, at)):
                job.sink.write(extent)
            at += encoded.grows
            done += encoded.size
            zero += encoded.zero_size
            taken += encoded.taken_size
            lost += encoded.lost_size
            first_lost = encoded.first_lost if first_lost is None else first_lost
            job.progress(done)
        return Outcome(at, zero, taken, lost, first_lost)


def _encode(job: Job, spec: Spec, buffer: memoryview) -> Encoded:
    batch = job.batches.load(spec, buffer)
    try:
        encoded = job.writer.encode(batch)
        if not batch.lost:
            return encoded
        sizes = [end - start for start, end in batch.lost]
        return replace(encoded, lost_size=sum(sizes), first_lost=spec.paddr(batch.lost[0][0]))
    except (PydumpError, MemoryError):
        raise
    except Exception as error:  # a format or codec that breaks is named, with where it was
        raise PluginError(
            type(job.writer).__module__.partition(".")[0],
            f"{type(error).__name__}: {error}, at paddr {spec.runs[0][0]:#x}",
        ) from error


class _Shared:
    """Numbers that all processes see, and the lock that guards them."""

    TICKET, OFFSET, DONE, ZERO, TAKEN, LOST, FIRST_LOST = range(7)

    def __init__(self, start: int) -> None:
        context = get_context("fork")
        self.claims = Claims()
        self.turn = context.Condition(context.Lock())
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self.numbers = memoryview(self._map).cast("q")
        self.numbers[self.OFFSET] = start

    def place(self, writer: Writer, index: int, encoded: Encoded, *, wait: bool) -> tuple[Encoded, int] | None:
        """Give batch ``index`` its place, when all batches before it have theirs.

        Args:
            writer: Whose batch it is.
            index: The batch's number.
            encoded: What became of it.
            wait: Wait for its turn; else None when it has not come.

        Returns:
            What is written, and its start offset.
        """
        numbers = self.numbers
        with self.turn:
            while numbers[self.TICKET] != index:
                if not wait:
                    return None
                self.turn.wait()
            start = numbers[self.OFFSET]
            placed = writer.place(encoded, start)
            numbers[self.OFFSET] = start + placed.grows
            numbers[self.TICKET] = index + 1
            numbers[self.DONE] += placed.size
            numbers[self.ZERO] += placed.zero_size
            numbers[self.TAKEN] += placed.taken_size
            if placed.first_lost is not None and not numbers[self.LOST]:
                numbers[self.FIRST_LOST] = placed.first_lost
            numbers[self.LOST] += placed.lost_size
            self.turn.notify_all()
            return placed, start


class ForkedExecutor(Executor):
    """Forked workers, which inherit source, writer and sink.

    A worker claims the next batch, reads and encodes it, and gets its start offset when the batches before have
    theirs. Where the sink takes writes from any process it writes the extents itself; else they go to the parent
    through shared memory, and the parent writes them in order.

    Args:
        workers: Processes that encode.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, job: Job) -> Outcome:
        shared = _Shared(job.writer.start)
        memories = [None if job.sink.shared else shared_memory() for _ in range(self.workers)]
        inbox = Inbox(job.sink)
        with forked(self.workers, lambda number, pipe: _work(job, shared, pipe, memories[number])) as workers:
            for extent in job.writer.layout():
                job.sink.write(extent)
            for worker, message in messages(workers, lambda: job.progress(shared.numbers[_Shared.DONE])):
                memory = memories[worker.number]
                assert memory is not None
                inbox.take(message, worker.pipe, memory)
        numbers = shared.numbers
        job.progress(numbers[_Shared.DONE])
        lost = numbers[_Shared.LOST]
        first_lost = numbers[_Shared.FIRST_LOST] if lost else None
        return Outcome(numbers[_Shared.OFFSET], numbers[_Shared.ZERO], numbers[_Shared.TAKEN], lost, first_lost)


def executor_for(workers: int | None, batches: Batches) -> Executor:
    """The executor for some batches.

    Args:
        workers: Processes that encode, or None for the CPUs this process may use. There are never more than batches
            with data.
        batches: What is encoded.

    Raises:
        PlanError: ``workers`` is less than 1.
    """
    useful = useful_workers(workers, -(-batches.total // batches.batch_size))
    return ForkedExecutor(useful) if useful > 1 else SerialExecutor()


def _work(job: Job, shared: _Shared, pipe: Any, memory: mmap.mmap | None) -> None:
    """What a worker does.

    Args:
        job: The pipeline.
        shared: What all workers see.
        pipe: Leads to the parent.
        memory: What messages to the parent lie in, or None where the worker writes to the sink itself.
    """
    courier = Courier(pipe, memory) if memory is not None else None
    for index, encoded, start in _encoded(job, shared):
        extents = job.writer.extents(encoded, start)
        if courier is not None:
            courier.send(index, extents)
        else:
            for extent in in_pieces(extents):
                job.sink.write(extent)


def _encoded(job: Job, shared: _Shared) -> Iterator[tuple[int, Encoded, int]]:
    """The batches that this worker gets, each with its number and its start offset, in ascending order."""
    free: list[memoryview] = []
    pending: deque[tuple[int, Encoded, memoryview]] = deque()
    wanted = shared.claims.claim()
    for number, spec in enumerate(job.batches.specs()):
        if number != wanted:
            continue
        # The buffer that was used last is still in the processor's cache.
        buffer = free.pop() if free else job.batches.buffer()
        pending.append((number, _encode(job, spec, buffer), buffer))
        while pending:
            index, oldest, buffer = pending[0]
            placed = shared.place(job.writer, index, oldest, wait=len(pending) > MAX_PENDING)
            if placed is None:
                break
            pending.popleft()
            yield index, *placed
            free.append(buffer)
        wanted = shared.claims.claim()
    for index, encoded, _ in pending:
        placed = shared.place(job.writer, index, encoded, wait=True)
        assert placed is not None
        yield index, *placed
