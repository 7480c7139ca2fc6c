"""Does the rest of a command in a process of its own, once the guest runs again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pydump.cli.ending import EXIT_INCOMPLETE
from pydump.cli.jobs import JobFile
from pydump.cli.session import session
from pydump.errors import Cancelled, PydumpError
from pydump.model.progress import ProgressCallback
from pydump.model.report import DumpReport
from pydump.process import die_with_parent, outlive_parent


@dataclass(frozen=True, slots=True)
class Started:
    """What the process that was left behind has said: a job, or why there is none.

    Attributes:
        job: The job's number, or None.
        error: What went wrong before there was one, or None.
        exit_code: What the command ends with.
    """

    job: int | None = None
    error: str | None = None
    exit_code: int = 0


def detached(source: str, output: str, work: Callable[[ProgressCallback, Callable[[], None]], DumpReport]) -> Started:
    """Have ``work`` done by a child process, and return when it has captured the guest.

    Until then the child ends with this process, and what goes wrong is this process's to say.

    Args:
        source: As the user named it.
        output: Likewise.
        work: Called in the child with where to tell progress, and what to call when the guest has been captured.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            code = _child(parent, writer, source, output, work)
        finally:  # whatever else comes, such as one more signal, this process must not go on as if it were its parent
            os._exit(code)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            said = pipe.read()
    except BaseException:  # Ctrl-C reaches the child as well; what else ends this process ends it too
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if said:
        started = Started(**json.loads(said))
        if started.error is not None:
            os.waitpid(pid, 0)  # else our end, which ends it, may come before its own
        return started
    _, status = os.waitpid(pid, 0)
    return Started(error=f"the process that dumps ended with {os.waitstatus_to_exitcode(status)}", exit_code=1)


def _child(parent: int, writer: int, source: str, output: str, work: Callable[..., DumpReport]) -> int:
    """Returns the exit code."""
    die_with_parent(parent, signal.SIGTERM)
    job: JobFile | None = None
    told = False

    def say(**what: Any) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writer, json.dumps(what).encode())
            os.close(writer)

    def captured() -> None:
        assert job is not None
        _leave()
        say(job=job.job.number)

    try:
        job = JobFile(source, output)
        report = work(job.tell, captured)
        job.end(0 if report.complete else EXIT_INCOMPLETE, report=asdict(report))
        return 0
    except BaseException as error:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends already
            signal.signal(number, signal.SIG_IGN)
        code, message = _told_as(error)
        if job is not None and told:
            job.end(code, error=message)
        else:
            if job is not None:
                job.remove()
            say(error=message, exit_code=code)
        return code


def _told_as(error: BaseException) -> tuple[int, str]:
    if isinstance(error, PydumpError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Cancelled.exit_code, f"interrupted{session.lost}"
    return 1, f"internal error: {type(error).__name__}: {error}"


def _leave() -> None:
    """Outlive the parent and its terminal."""
    outlive_parent()
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    if nothing > 2:  # else one of these was closed, and is it now
        os.close(nothing)
