"""Forked worker processes: none outlives its parent, and none dies or stops unnoticed."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import mmap
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, current_process, get_context
from typing import Any, Final

from pydump.errors import PlanError, PluginError, PydumpError, failure
from pydump.process import die_with_parent
from pydump.signals import put_off

#: Source: malloc.h of glibc.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
#: What glibc's malloc is to keep rather than give back to the kernel, and to serve from what it keeps.
KEPT, LARGEST_KEPT = 64 << 20, 16 << 20
#: As many workers may be asked for on any host; on a larger one as many as it has CPUs.
MOST_WORKERS: Final = 256
#: Seconds between two looks at whether workers are stopped, and looks after which that is an error.
LOOK, LOOKS = 1.0, 10


@dataclass(slots=True)
class Worker:
    """A worker as its parent sees it.

    Attributes:
        number: 0 for the first.
        process: Its process.
        pipe: The parent's end of the pipe to it.
        stopped: Looks that have found it stopped, one after the other.
    """

    number: int
    process: Any
    pipe: Any
    stopped: int = 0


class Claims:
    """The numbers 0, 1, 2 and so on; each goes to one process only."""

    def __init__(self) -> None:
        self._lock = get_context("fork").Lock()
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self._numbers = memoryview(self._map).cast("q")

    def claim(self) -> int:
        """The next number that nobody has."""
        with self._lock:
            number = self._numbers[0]
            self._numbers[0] = number + 1
            return number


def useful_workers(wanted: int | None, pieces: int) -> int:
    """How many processes to work with; 1 means this process alone.

    Args:
        wanted: What the user asks for, or None for the CPUs this process may use.
        pieces: Pieces of work; more workers than these would have nothing to do.

    Raises:
        PlanError: ``wanted`` is less than 1, or more than any host has a use for.
        PydumpError: The user asks for several, and they cannot be started here.
    """
    if wanted is not None and wanted < 1:
        raise PlanError("--workers must be at least 1")
    if wanted is not None and wanted > (most := max(MOST_WORKERS, os.cpu_count() or 1)):
        raise PlanError(
            f"--workers must be at most {most} here", hint="more workers than CPUs take memory and no time off"
        )
    useful = min(wanted or len(os.sched_getaffinity(0)), pieces)
    if useful > 1 and (why := _no_workers()):
        if wanted is not None:
            raise PydumpError(f"workers cannot be started: {why[0]}", hint=f"--workers 1 does without{why[1]}")
        _say_alone(why[0])
        useful = 1
    return max(1, useful)


@functools.cache
def _say_alone(why: str) -> None:
    """Say once why there are no workers, however many scans and dumps there are."""
    logging.getLogger("pydump").info("one process does all the work: %s", why)


def _no_workers() -> tuple[str, str] | None:
    """Why there can be no workers here and how that could change, or None where there can be."""
    if current_process().daemon:  # multiprocessing refuses them
        return "this process is a daemonic worker of multiprocessing itself", ""
    try:
        get_context("fork").Lock()
    except OSError as error:
        return f"semaphores in /dev/shm: {error.strerror or error}", "; or make /dev/shm writable"
    return None


@contextlib.contextmanager
def forked(count: int, work: Callable[[int, Any], None]) -> Iterator[list[Worker]]:
    """Start workers, which inherit all that this process has; at the end of the block none is left.

    Args:
        count: How many.
        work: What each of them does; given its number and its end of the pipe. What it raises reaches
            :func:`messages`.
    """
    context = get_context("fork")
    pipes = [context.Pipe() for _ in range(count)]
    parent = os.getpid()
    processes: list[Any] = []
    try:
        for number in range(count):
            process = context.Process(target=_live, args=(work, number, pipes, parent), daemon=True)
            # Ctrl-C reaches the child as well, before it has said what is to become of it.
            with put_off():
                process.start()
                processes.append(process)
        for _, theirs in pipes:
            theirs.close()
        yield [Worker(i, process, ours) for i, (process, (ours, _)) in enumerate(zip(processes, pipes, strict=True))]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
            process.close()
        for ours, theirs in pipes:
            ours.close()
            theirs.close()


def messages(workers: Sequence[Worker], tick: Callable[[], None]) -> Iterator[tuple[Worker, Any]]:
    """What workers send, each with its worker, until all are done.

    Args:
        workers: What :func:`forked` gave.
        tick: Called some ten times a second, and whenever something has come.

    Raises:
        PydumpError: One failed, died, or was stopped and not continued.
    """
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
                yield worker, message
        tick()
        if (now := time.monotonic()) >= look:
            look = now + LOOK
            for worker in running.values():
                _notice_stop(worker)


def _notice_stop(worker: Worker) -> None:
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


def _died(exitcode: int | None) -> PydumpError:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "was memory short?" if -exitcode == signal.SIGKILL else None
        return PydumpError(f"a worker process was ended by {name}", hint=hint)
    return PydumpError(f"a worker process ended unexpectedly with exit code {exitcode}")


def _live(work: Callable[[int, Any], None], number: int, pipes: list[tuple[Any, Any]], parent: int) -> None:
    """A worker's life."""
    for ending in (signal.SIGINT, signal.SIGHUP):  # they reach the whole group; the parent ends the workers
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pipe = pipes[number][1]
    short = pickle.dumps(PydumpError("out of memory"))  # made while there is some
    try:
        die_with_parent(parent, signal.SIGKILL)
        _keep_memory()
        for ours, theirs in pipes:  # else nobody would see the end of a pipe whose worker has died
            ours.close()
            if theirs is not pipe:
                theirs.close()
        work(number, pipe)
        pipe.send(None)
    except PydumpError as error:
        pipe.send(error)
    except MemoryError:
        with contextlib.suppress(MemoryError):
            pipe.send_bytes(short)
    except Exception as error:  # a bug, here or in a plugin: the parent says so in one line
        failed = failure(error, "a worker process failed")
        if isinstance(failed, PluginError) or not isinstance(error, BrokenPipeError | EOFError):
            pipe.send(failed)  # else the parent has given up


def _keep_memory() -> None:
    """Have malloc keep what was freed: what a batch needs the next one needs as well.

    Else it may give its memory back to the kernel and get it again, page by page, with each page that is compressed:
    python-lzo takes 128 KiB for each, the very size at which glibc begins to do so.
    """
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
