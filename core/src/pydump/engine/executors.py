"""Who encodes: this process alone, or forked workers. The bytes that come out are the same."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import pickle
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, Final

from pydump.engine.batches import Batches, Spec
from pydump.engine.courier import Courier, Inbox, in_pieces, shared_memory
from pydump.errors import Cancelled, PlanError, PluginError, PydumpError
from pydump.interfaces.format import Encoded, Writer
from pydump.interfaces.sink import Sink
from pydump.signals import put_off

#: Encoded batches a worker may hold while it waits for its turn.
MAX_PENDING: Final = 3
#: Source: sys/prctl.h.
PR_SET_PDEATHSIG: Final = 1
#: Source: malloc.h of glibc.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
#: What glibc's malloc is to keep rather than give back to the kernel, and to serve from what it keeps.
KEPT, LARGEST_KEPT = 64 << 20, 16 << 20
#: Seconds between two looks at whether workers are stopped, and looks after which that is an error.
LOOK, LOOKS = 1.0, 10


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
            for extent in in_pieces(job.writer.extents(encoded, at)):
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
        memories = [None if job.sink.shared else shared_memory() for _ in range(self.workers)]
        pipes = [context.Pipe() for _ in range(self.workers)]
        parent = os.getpid()
        processes: list[Any] = []
        try:
            for number, memory in enumerate(memories):
                process = context.Process(target=_work, args=(job, shared, number, pipes, memory, parent), daemon=True)
                # Ctrl-C reaches the child as well, before it has said what is to become of it.
                with put_off():
                    process.start()
                    processes.append(process)
            for _, theirs in pipes:
                theirs.close()
            for extent in job.writer.layout():
                job.sink.write(extent)
            _follow(job, shared, list(map(_Worker, processes, (ours for ours, _ in pipes), memories)))
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


@dataclass(slots=True)
class _Worker:
    """A worker as its parent sees it.

    Attributes:
        process: Its process.
        pipe: The parent's end of the pipe to it.
        memory: What its messages lie in, or None where it writes to the sink itself.
        stopped: Looks that have found it stopped, one after the other.
    """

    process: Any
    pipe: Any
    memory: mmap.mmap | None
    stopped: int = 0


def _follow(job: Job, shared: _Shared, workers: list[_Worker]) -> None:
    """Write what workers send and report progress until all are done.

    Raises:
        PydumpError: One failed, died, or was stopped and not continued.
    """
    inbox = Inbox(job.sink)
    running = {worker.pipe: worker for worker in workers}
    look = time.monotonic() + LOOK
    while running:
        for pipe in connection.wait(list(running), timeout=0.1):
            worker = running[pipe]
            try:
                message = worker.pipe.recv()
            except EOFError:
                worker.process.join()
                raise _died(worker.process.exitcode) from None
            if isinstance(message, PydumpError):
                raise message
            if message is None:  # it is done
                del running[pipe]
            else:
                assert worker.memory is not None
                inbox.take(message, worker.pipe, worker.memory)
        job.progress(shared.numbers[_Shared.DONE])
        if (now := time.monotonic()) >= look:
            look = now + LOOK
            for worker in running.values():
                _notice_stop(worker)


def _notice_stop(worker: _Worker) -> None:
    """Count looks that find a worker stopped: the clock goes on while Ctrl-Z has stopped this process as well.

    Raises:
        PydumpError: It has been stopped for too long: all would wait for it, with a guest that is paused perhaps.
    """
    pid = worker.process.pid
    try:
        stop = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # it has ended
        stop = None
    worker.stopped = worker.stopped + 1 if stop is not None else 0
    if stop is not None and worker.stopped > LOOKS:
        name = signal.Signals(stop.si_status).name
        raise PydumpError(
            f"worker process {pid} was stopped by {name} and did not continue within {LOOK * LOOKS:g} seconds",
            hint=f"find out who stopped it; kill -CONT {pid} would have continued it",
        )


def executor_for(workers: int | None, batches: Batches) -> Executor:
    """The executor for some batches.

    Args:
        workers: Processes that encode, or None for the CPUs this process may use. There are never more than batches
            with data.
        batches: What is encoded.

    Raises:
        PlanError: ``workers`` is less than 1.
    """
    if workers is not None and workers < 1:
        raise PlanError("--workers must be at least 1")
    useful = min(workers or len(os.sched_getaffinity(0)), -(-batches.total // batches.batch_size))
    if useful > 1 and (why := _no_locks()):
        if workers is not None:
            raise PydumpError(
                f"workers cannot be started: semaphores in /dev/shm: {why}",
                hint="--workers 1 does without; or make /dev/shm writable",
            )
        logging.getLogger("pydump").info("one process encodes: semaphores in /dev/shm: %s", why)
        useful = 1
    return ForkedExecutor(useful) if useful > 1 else SerialExecutor()


def _no_locks() -> str | None:
    """Why processes cannot share a lock here, or None where they can."""
    try:
        get_context("fork").Lock()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _died(exitcode: int | None) -> PydumpError:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "was memory short?" if -exitcode == signal.SIGKILL else None
        return PydumpError(f"a worker process was ended by {name}", hint=hint)
    return PydumpError(f"a worker process ended unexpectedly with exit code {exitcode}")


def _work(job: Job, shared: _Shared, number: int, pipes: list[Any], memory: mmap.mmap | None, parent: int) -> None:
    """A worker's life."""
    for ending in (signal.SIGINT, signal.SIGHUP):  # they reach the whole group; the parent ends the workers
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pipe = pipes[number][1]
    short = pickle.dumps(PydumpError("out of memory"))  # made while there is some
    try:
        _end_with(parent)
        _keep_memory()
        for ours, theirs in pipes:  # else nobody would see the end of a pipe whose worker has died
            ours.close()
            if theirs is not pipe:
                theirs.close()
        courier = Courier(pipe, memory) if memory is not None else None
        for index, encoded, start in _encoded(job, shared):
            extents = job.writer.extents(encoded, start)
            if courier is not None:
                courier.send(index, extents)
            else:
                for extent in in_pieces(extents):
                    job.sink.write(extent)
        pipe.send(None)
    except PydumpError as error:
        pipe.send(error)
    except (BrokenPipeError, EOFError):
        pass  # the parent has given up
    except MemoryError:
        with contextlib.suppress(MemoryError):
            pipe.send_bytes(short)
    except Exception as error:  # a bug, here or in a plugin: the parent tells of it in one line
        said = f"a worker process failed: {type(error).__name__}: {error}"
        pipe.send(PydumpError(said, hint="--workers 1 with PYDUMP_DEBUG=1 shows the traceback"))


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
