"""Who encodes: this process alone, or forked workers. The bytes that come out are the same."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, Final

from pydump.engine.batches import BATCH_SIZE, Batches, Spec
from pydump.errors import Cancelled, PlanError, PluginError, PydumpError
from pydump.interfaces.format import Encoded, Writer
from pydump.interfaces.sink import Extent, Hole, Sink
from pydump.signals import put_off

#: Encoded batches a worker may hold while it waits for its turn.
MAX_PENDING: Final = 3
#: Batches of one worker that may be on their way to the parent.
SLOTS: Final = 3
#: Source: sys/prctl.h.
PR_SET_PDEATHSIG: Final = 1
#: Source: malloc.h of glibc.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
#: What glibc's malloc is to keep rather than give back to the kernel, and to serve from what it keeps.
KEPT: Final = 64 << 20
LARGEST_KEPT: Final = 16 << 20
#: Room for one batch on its way: its payload, which is never longer than the batch, and its descriptors.
SLOT_SIZE: Final = BATCH_SIZE + (4 << 20)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the pipeline adds up to.

    Attributes:
        end: Where the last payload ends.
        zero_size: Bytes of guest memory that were found to be zero.
        taken_size: Bytes of guest memory whose pages were taken over unread.
    """

    end: int
    zero_size: int = 0
    taken_size: int = 0


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
        at, done, zero, taken = job.writer.start, 0, 0, 0
        buffer = job.batches.buffer()
        for extent in job.writer.layout():
            job.sink.write(extent)
        for spec in job.batches.specs():
            encoded = job.writer.place(_encode(job, spec, buffer), at)
            for extent in job.writer.extents(encoded, at):
                job.sink.write(extent)
            at += encoded.grows
            done += encoded.size
            zero += encoded.zero_size
            taken += encoded.taken_size
            job.progress(done)
        return Outcome(at, zero, taken)


def _encode(job: Job, spec: Spec, buffer: memoryview) -> Encoded:
    batch = job.batches.load(spec, buffer)
    try:
        return job.writer.encode(batch)
    except (PydumpError, MemoryError):
        raise
    except Exception as error:  # a format or codec that breaks is named, with where it was
        paddr = spec.runs[0][0] if spec.runs else spec.position
        raise PluginError(
            type(job.writer).__module__.partition(".")[0], f"{type(error).__name__}: {error}, at paddr {paddr:#x}"
        ) from error


class _Shared:
    """Numbers that all processes see, and the lock that guards them."""

    NEXT, TICKET, OFFSET, DONE, ZERO, TAKEN = range(6)

    def __init__(self, context: Any, start: int) -> None:
        self.turn = context.Condition(context.Lock())
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self.numbers = memoryview(self._map).cast("q")
        self.numbers[self.OFFSET] = start

    def claim(self) -> int:
        """The number of the next batch that nobody has."""
        with self.turn:
            index = self.numbers[self.NEXT]
            self.numbers[self.NEXT] = index + 1
            return index

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
        context = get_context("fork")
        shared = _Shared(context, job.writer.start)
        slots = None if job.sink.shared else [mmap.mmap(-1, SLOT_SIZE * SLOTS) for _ in range(self.workers)]
        pipes = [context.Pipe() for _ in range(self.workers)]
        parent = os.getpid()
        processes = []
        try:
            for number in range(self.workers):
                slot = slots[number] if slots else None
                process = context.Process(target=_work, args=(job, shared, number, pipes, slot, parent), daemon=True)
                # Ctrl-C reaches the child as well, before it has said what is to become of it.
                with put_off():
                    process.start()
                    processes.append(process)
            for _, theirs in pipes:
                theirs.close()
            for extent in job.writer.layout():
                job.sink.write(extent)
            self._follow(job, shared, [ours for ours, _ in pipes], processes, slots)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
                process.close()
            for ours, _ in pipes:
                ours.close()
        numbers = shared.numbers
        job.progress(numbers[_Shared.DONE])
        return Outcome(numbers[_Shared.OFFSET], numbers[_Shared.ZERO], numbers[_Shared.TAKEN])

    def _follow(
        self, job: Job, shared: _Shared, pipes: list[Any], processes: list[Any], slots: list[mmap.mmap] | None
    ) -> None:
        """Until every worker has said that it is done: write what they send, tell how far they are, notice a death."""
        running: dict[Any, Any] = dict(zip(pipes, processes, strict=True))
        number = {pipe: i for i, pipe in enumerate(pipes)}
        waiting: dict[int, tuple[Any, int, list[tuple[int, int, int]]]] = {}
        following = 0
        while running:
            pipe: Any
            for pipe in connection.wait(list(running), timeout=0.1):
                try:
                    kind, content = pipe.recv()
                except EOFError:
                    process = running[pipe]
                    process.join()
                    raise _died(process.exitcode) from None
                if kind == "error":
                    raise content
                if kind == "done":
                    del running[pipe]
                else:
                    index, slot, pieces = content
                    waiting[index] = (pipe, slot, pieces)
            while following in waiting:
                assert slots is not None
                pipe, slot, pieces = waiting.pop(following)
                view = memoryview(slots[number[pipe]])
                for offset, place, size in pieces:
                    job.sink.write(Hole(offset, size) if place < 0 else Extent(offset, view[place : place + size]))
                with contextlib.suppress(BrokenPipeError):
                    pipe.send(slot)
                following += 1
            job.progress(shared.numbers[_Shared.DONE])


def executor_for(workers: int | None, total: int) -> Executor:
    """The executor for ``total`` bytes of guest memory.

    Args:
        workers: Processes that encode, or None for the CPUs this process may use. There are never more than batches.
        total: Bytes.

    Raises:
        PlanError: ``workers`` is no number of processes.
    """
    if workers is not None and workers < 1:
        raise PlanError("--workers must be at least 1")
    useful = min(workers or len(os.sched_getaffinity(0)), -(-total // BATCH_SIZE))
    return ForkedExecutor(useful) if useful > 1 else SerialExecutor()


def _died(exitcode: int | None) -> PydumpError:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "was memory short?" if -exitcode == signal.SIGKILL else None
        return PydumpError(f"a worker process was ended by {name}", hint=hint)
    return PydumpError(f"a worker process ended unexpectedly with exit code {exitcode}")


def _work(job: Job, shared: _Shared, number: int, pipes: list[Any], slot: mmap.mmap | None, parent: int) -> None:
    """A worker's life."""
    for ending in (signal.SIGINT, signal.SIGHUP):  # they reach the whole group; the parent ends the workers
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pipe = pipes[number][1]
    short = pickle.dumps(("error", PydumpError("out of memory")))  # made while there is some
    try:
        _end_with(parent)
        _keep_memory()
        for ours, theirs in pipes:  # else nobody would see the end of a pipe whose worker has died
            ours.close()
            if theirs is not pipe:
                theirs.close()
        courier = _Courier(pipe, slot) if slot is not None else None
        for index, encoded, start in _encoded(job, shared):
            extents = job.writer.extents(encoded, start)
            if courier is not None:
                courier.send(index, extents)
            else:
                for extent in extents:
                    job.sink.write(extent)
        pipe.send(("done", None))
    except PydumpError as error:
        pipe.send(("error", error))
    except (BrokenPipeError, EOFError):
        pass  # the parent has given up
    except MemoryError:
        with contextlib.suppress(MemoryError):
            pipe.send_bytes(short)
    except Exception as error:  # a bug, here or in a plugin: the parent tells of it in one line
        said = f"a worker process failed: {type(error).__name__}: {error}"
        pipe.send(("error", PydumpError(said, hint="--workers 1 with PYDUMP_DEBUG=1 shows the traceback")))


def _encoded(job: Job, shared: _Shared) -> Iterator[tuple[int, Encoded, int]]:
    """The batches that this worker gets, each with its number and its start offset, in ascending order."""
    free: list[memoryview] = []
    pending: deque[tuple[int, Encoded, memoryview]] = deque()
    wanted = shared.claim()
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
        wanted = shared.claim()
    for index, encoded, _ in pending:
        placed = shared.place(job.writer, index, encoded, wait=True)
        assert placed is not None
        yield index, *placed


class _Courier:
    """Carries extents to the parent: their bytes through shared memory, where they are through a pipe."""

    def __init__(self, pipe: Any, slots: mmap.mmap) -> None:
        self._pipe = pipe
        self._view = memoryview(slots)
        self._free = deque(range(SLOTS))

    def send(self, index: int, extents: Iterator[Extent | Hole]) -> None:
        """Send a batch's extents, once there is room."""
        while not self._free or self._pipe.poll():
            self._free.append(self._pipe.recv())
        slot = self._free.popleft()
        pieces: list[tuple[int, int, int]] = []
        at = slot * SLOT_SIZE
        for extent in extents:
            if isinstance(extent, Hole):
                pieces.append((extent.offset, -1, extent.size))
            else:
                self._view[at : at + extent.size] = memoryview(extent.data).cast("B")
                pieces.append((extent.offset, at, extent.size))
                at += extent.size
        self._pipe.send(("batch", (index, slot, pieces)))


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise Cancelled("the parent process is gone")


def _keep_memory() -> None:
    """Have malloc keep what was freed: what a batch needs the next one needs as well.

    Else it may give its memory back to the kernel and get it again, page by page, with each page that is compressed:
    python-lzo takes 128 KiB for each, the very size at which glibc begins to do so.
    """
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
