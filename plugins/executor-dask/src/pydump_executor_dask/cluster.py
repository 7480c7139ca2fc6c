"""Has tasks done by a cluster, and bounds what is on its way."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from multiprocessing import resource_tracker
from typing import Any, Final, NoReturn, Self, TypeVar

from distributed import Client, Future, LocalCluster
from distributed import TimeoutError as DaskTimeoutError
from distributed.utils import LoopRunner
from tornado.ioloop import IOLoop

from pydump.errors import PlanError, PydumpError
from pydump.interfaces.executor import Spec, Task, pickled
from pydump.signals import put_off
from pydump_executor_dask.worker import installed, keep, work

_R = TypeVar("_R")

#: Bytes of memory that one dask task reads, and pieces of it, at most: its results travel together.
RUN_SIZE: Final = 16 << 20
RUN_LENGTH: Final = 64
#: Dask tasks of each thread that are under way: while one is done the next is ready.
AHEAD: Final = 2


class Cluster:
    """A dask cluster.

    Args:
        client: Connected to its scheduler; also an attribute.
        address: The scheduler's.
        patience: Seconds to wait for workers when none is left.
        own: The cluster, if it ends with this object.
    """

    def __init__(self, client: Client, address: str, patience: int, own: LocalCluster | None = None) -> None:
        self.client = client
        self._address = address
        self._patience = patience
        self._own = own
        self._threads, self._counted = 1, -1.0

    @classmethod
    def open(cls, argument: str, patience: int) -> Self:
        """Connect to the cluster of ``tcp://HOST:PORT``, or start one for ``local[:N]``.

        Raises:
            PlanError: The argument is something else, or the workers have other versions than this process.
            PydumpError: No scheduler answers there, or it has no workers.
        """
        for name in [*logging.root.manager.loggerDict]:  # what goes wrong is said in one line
            if name.split(".")[0] in ("distributed", "tornado"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        kind, _, count = argument.partition(":")
        if not argument or kind == "local":
            if count and not (count.isdecimal() and int(count)):
                raise PlanError(f"dask:{argument}: {count!r} is not a number of workers", hint="dask:local:2 is two")
            cluster = cls._started(int(count) if count else None, patience)
        elif "://" in argument:
            try:
                client = Client(argument, timeout=patience)
            except (OSError, ValueError, DaskTimeoutError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise PydumpError(f"no dask scheduler answers at {argument}: {reason}") from None
            cluster = cls(client, argument, patience)
        else:
            raise PlanError(f"dask:{argument} is not a cluster", hint="write dask:tcp://HOST:8786 or dask:local:N")
        try:
            cluster._check()
        except BaseException:
            cluster.close()
            raise
        return cluster

    @classmethod
    def _started(cls, n_workers: int | None, patience: int) -> Self:
        """A cluster of our own.

        Ctrl-C is put off until it is there: a worker that loses this process before it knows what to do prints a
        traceback.
        """
        cluster = None
        try:
            with put_off():
                own = LocalCluster(
                    loop=_loop(),
                    n_workers=n_workers,
                    threads_per_worker=1,
                    # Without the dashboard dask has an HTTP server all the same, on a port that is often taken.
                    scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                    silence_logs=logging.CRITICAL,
                )
                cluster = cls(Client(own), own.scheduler_address, patience, own)
        except BaseException:
            if cluster is not None:
                cluster.close()
            raise
        return cluster

    def _check(self) -> None:
        """Refuse workers that are not there, or that have other versions of pydump and its plugins."""
        try:
            self.client.wait_for_workers(1, timeout=self._patience)
            found: dict[str, Any] = self.client.run(installed, on_error="return")
        except (OSError, DaskTimeoutError):
            raise PydumpError(f"the dask scheduler at {self._address} has no workers") from None
        ours = installed()
        for worker, theirs in found.items():
            if isinstance(theirs, Exception):
                raise PlanError(f"the dask worker {worker} cannot load pydump: {theirs}", hint="install it there")
            for name in sorted(ours.keys() | theirs.keys()):
                here, there = ours.get(name, "missing"), theirs.get(name, "missing")
                if here != there:
                    raise PlanError(
                        f"{name} is {there} on the dask worker {worker}, and {here} here",
                        hint="install the same versions in both places",
                    )

    def n_threads(self) -> int:
        """Threads of all workers, at least one."""
        now = time.monotonic()
        if now > self._counted + 1:  # it is a question to the scheduler
            self._threads, self._counted = max(1, sum(map(int, self.client.nthreads().values()))), now
        return self._threads

    def map(self, task: Task[_R]) -> Iterator[_R]:
        """The results of a task in order, see :meth:`pydump.interfaces.executor.Executor.map`."""
        running: deque[Future[Any]] = deque()
        with self.watched(running):
            shared, token = self.keep(pickled(task), "task")
            for number, specs in enumerate(runs(task.specs())):
                key = f"pydump-{task.label.replace(' ', '-')}-{token}-{number}"
                running.append(self.client.submit(work, shared, token, specs, key=key, priority=-number))
                if len(running) > AHEAD * self.n_threads():
                    yield from self._results(running.popleft())
            while running:
                yield from self._results(running.popleft())

    def keep(self, data: bytes, what: str) -> tuple[Future[bytes], str]:
        """Have bytes kept by the cluster, which come to each worker once; and a word that tells them from others."""
        token = hashlib.sha256(data + str(time.monotonic_ns()).encode()).hexdigest()[:16]
        # A task, not scattered data: it can be made again if the worker that has it dies.
        return self.client.submit(keep, data, key=f"pydump-{what}-{token}"), token

    def all_hold(self, question: Callable[[], bool]) -> bool:
        """Whether each worker answers a question with yes."""
        try:
            return all(answer is True for answer in self.client.run(question, on_error="return").values())
        except (OSError, DaskTimeoutError) as error:
            self._explain(error)

    @contextlib.contextmanager
    def watched(self, *running: Collection[Future[Any]]) -> Iterator[None]:
        """Say what is wrong with the cluster where dask fails; leave no dask task behind."""
        try:
            yield
        except PydumpError:
            raise
        except (Exception, DaskTimeoutError) as error:
            self._explain(error)
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel([future for some in running for future in some])

    def _explain(self, error: BaseException) -> NoReturn:
        """Raise what a user can make something of."""
        lost = isinstance(error, (OSError, DaskTimeoutError)) or "Cancelled" in type(error).__name__
        if lost or self.client.status != "running":
            raise PydumpError(f"the dask scheduler at {self._address} is gone") from error
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise PydumpError(f"the dask cluster at {self._address} failed: {reason}") from error

    def _results(self, future: Future[Any]) -> Iterator[Any]:
        for data, failed in self.wait(future):
            result = pickle.loads(data)
            if failed:
                raise result
            yield result

    def end(self, future: Future[None]) -> None:
        """Wait for a dask task that returns nothing: one that has ended well is not asked for that."""
        if future.status != "finished":
            self.wait(future)

    def first(self, futures: deque[Future[_R]]) -> list[_R]:
        """Take the first result, and those after it that are there: they come together."""
        found = [self.wait(futures.popleft())]
        ready: list[Future[_R]] = []
        while futures and futures[0].status == "finished":
            ready.append(futures.popleft())
        if ready:
            try:
                found += self.client.gather(ready)
            except Exception:  # a worker has died meanwhile
                found += [self.wait(future) for future in ready]
        return found

    def wait(self, future: Future[_R]) -> _R:
        """What a dask task returned; does not wait for ever where there are no workers."""
        alone = None
        while True:
            try:
                found = future.result(timeout=1)
            except DaskTimeoutError:
                if self.client.nthreads():
                    alone = None
                    continue
                alone = alone or time.monotonic()
                if time.monotonic() - alone > self._patience:
                    raise PydumpError(f"the dask scheduler at {self._address} has lost all its workers") from None
            else:
                return found

    def close(self) -> None:
        """Disconnect; end a cluster of our own."""
        for one in (self.client, self._own):
            if one is not None:
                with contextlib.suppress(Exception):
                    one.close()


def _loop() -> IOLoop:
    """The loop of a cluster of our own, in a thread that blocks SIGINT, and so do the workers that it starts.

    Ctrl-C goes to every process of the terminal's group. The workers are told by this process to end, and end with it;
    of themselves they would print a traceback each.
    """
    _start_tracker()  # it unblocks the signal in the thread that starts it
    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner.start()  # a thread, and a process, inherit what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    loop: IOLoop = runner.loop
    return loop


def _start_tracker() -> None:
    """Start the process that removes the semaphores of this one when it has ended, without a warning of each."""
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    sys.warnoptions.append(quiet)  # it is started with these
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


def runs(specs: Iterator[Spec], run_size: int = RUN_SIZE) -> Iterator[list[Spec]]:
    """Pieces that are done together: those of ``run_size`` bytes that are read."""
    run: list[Spec] = []
    size = 0
    for spec in specs:
        here = 0 if spec.hole else spec.size
        if run and (size + here > run_size or len(run) == RUN_LENGTH):
            yield run
            run, size = [], 0
        run.append(spec)
        size += here
    if run:
        yield run
