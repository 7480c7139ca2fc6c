"""Runs the jobs of a batch, each in a process of its own, so that a file that ends one does not end the others."""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydump.cli import children
from pydump.cli.batch import BatchJob, Done, Journal, state
from pydump.engine.locate import find_stored
from pydump.errors import PydumpError
from pydump.registry import installed

#: Bytes of messages that are kept of a job; its error is in the last line.
MAX_MESSAGES: Final = 64 << 10
#: Bytes of JSON that are read of a job's report.
MAX_REPORT: Final = 16 << 20


class Running:
    """A job in a process of its own.

    Args:
        job: Which.
        workers: Worker processes that it may use.
        executor: The executor that does the work, or None.
        replace: Replace an output that is there.

    Attributes:
        process: The process.
    """

    def __init__(self, job: BatchJob, workers: int, executor: str | None, *, replace: bool = False) -> None:
        self.job = job
        self._before, self._began = state(job.source), time.monotonic()
        self._out, self._messages = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  (done() closes)
        self.process = children.start(job.words(workers, executor, replace=replace), self._out, self._messages)

    def done(self) -> Done:
        """Wait until it has ended, and return how."""
        job, code = self.job, self.process.wait()
        error = _error(self._messages, code)
        report = None
        if job.to and job.command != "dump" and code in (0, 3, 4):
            failed = _keep(self._out, job.to)
            code, error = (1, failed) if failed else (code, error)
        elif job.command != "dmesg" and self._out.seek(0, os.SEEK_END) <= MAX_REPORT:
            self._out.seek(0)
            report = _parsed(self._out.read())
        self._out.close()
        self._messages.close()
        if report is not None and report.get("faults"):  # what verify found
            error = f"{report.get('n_faults')} defects, the first: {report['faults'][0]}"
        after = state(job.to) if job.to else None
        return Done(job, code, error, round(time.monotonic() - self._began, 3), self._before, after, report)


def _keep(out: Any, to: str) -> str:
    """Write what a command has printed to ``to``, whole or not at all; returns what went wrong."""
    from pydump.interfaces.sink import Extent

    sink = None
    try:
        stored = find_stored(to, installed())
        sink = stored.storage.writer(stored.url, force=True, sync=False)
        size = 0
        out.seek(0)
        while piece := out.read(1 << 20):
            sink.write(Extent(size, piece))
            size += len(piece)
        sink.commit(size)
    except PydumpError as error:
        if sink is not None:
            sink.abort()
        return error.message
    return ""


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _error(messages: Any, code: int) -> str | None:
    """What a job has said last, if it did not end well."""
    if code == 0:
        return None
    messages.seek(max(0, messages.seek(0, os.SEEK_END) - MAX_MESSAGES))
    lines = messages.read().decode(errors="replace").splitlines()
    if lines:
        return str(lines[-1]).removeprefix("pydump: ").removeprefix("error: ")
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def run_all(
    jobs: Sequence[BatchJob], journal: Journal, at_once: int, workers: int, executor: str | None = None
) -> Iterator[Done]:
    """Run jobs in processes of this host; each is yielded when it has ended.

    If the run is interrupted, jobs that are running are ended, and they leave nothing.

    Args:
        jobs: Which, in the order in which they begin.
        journal: Where to write which jobs have begun and ended.
        at_once: How many run at a time.
        workers: Worker processes of each.
        executor: The executor that does their work, or None.
    """
    left = iter(jobs)
    running: dict[int, Running] = {}
    poll = select.poll()
    try:
        while True:
            while len(running) < at_once and (job := next(left, None)) is not None:
                journal.begin(job)
                one = Running(job, workers, executor, replace=journal.replaces(job))
                fd = os.pidfd_open(one.process.pid)
                running[fd] = one
                poll.register(fd, select.POLLIN)
            if not running:
                return
            for fd, _ in poll.poll():
                poll.unregister(fd)
                os.close(fd)
                done = running.pop(fd).done()
                journal.add(done)
                yield done
    finally:
        children.end([one.process for one in running.values()])
        for fd in running:
            os.close(fd)
