"""Dumps that go on behind the command line: what each is, how far it has come, and how it ended.

A job is a JSON file in ``$XDG_STATE_HOME/pydump/jobs`` (``~/.local/state`` where that is not set), written by the
process that dumps. Completed and total are those of QEMU's query-dump; so is status, which is also "incomplete".
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydump.cli.ending import EXIT_INCOMPLETE
from pydump.errors import Cancelled, PlanError, PydumpError
from pydump.model.progress import Progress
from pydump.process import start_time

Status = Literal["active", "completed", "incomplete", "failed"]

#: Seconds between two writes of how far a job is.
INTERVAL = 0.5
#: Seconds between two attempts to write how a job has ended, and how many there are.
PAUSE, ATTEMPTS = 1, 30
#: Jobs that have ended are shown until as many others have ended after them.
KEPT = 50
#: A job's file has some KiB, most of it warnings.
MAX_SIZE = 1 << 20
#: What a job's file is called.
FILE_NAME = re.compile(r"([1-9][0-9]{0,8})\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class Job:
    """A dump.

    Attributes:
        number: What the user calls it: the number in its file's name.
        pid: The process that dumps.
        pid_started: When that process started, in clock ticks since boot: another with its pid has another start.
        source: As the user named it.
        output: Its path.
        status: "active", "completed", "incomplete" (written, but memory is missing in it) or "failed".
        phase: What is being done, as in :class:`~pydump.model.progress.Progress`.
        completed: Bytes of guest memory done in this phase.
        total: Bytes of guest memory in all.
        began: Seconds since the epoch.
        ended: The same, or None while it is active.
        exit_code: What the command would have ended with, or None.
        error: What went wrong, or None.
        report: The finished dump's report.
    """

    number: int
    pid: int
    pid_started: int
    source: str
    output: str
    status: Status = "active"
    phase: str = ""
    completed: int = 0
    total: int = 0
    began: float = 0.0
    ended: float | None = None
    exit_code: int | None = None
    error: str | None = None
    report: dict[str, Any] | None = None


def directory() -> Path:
    """Where jobs are kept."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state) / "pydump" / "jobs"


@contextlib.contextmanager
def _opened_directory(*, create: bool = False) -> Iterator[int]:
    """The directory of jobs, open; what is in it is reached through this, so renaming it has no effect.

    Args:
        create: Make it, and the directories above it, where they are not there: for us alone, under any umask.

    Raises:
        FileNotFoundError: It is not there.
        PydumpError: Others can write to it, or could have put it there.
    """
    where = directory()
    missing = [path for path in (where, *where.parents) if not path.exists()] if create else []
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            path.chmod(0o700)
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for status in (os.stat("..", dir_fd=fd), os.fstat(fd)):
            ours = status.st_uid == os.geteuid()
            if not ours or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                whose = "is open to other users" if ours else f"belongs to user {status.st_uid}"
                raise PydumpError(
                    f"no job can be kept in {where}: it or the directory above it {whose}",
                    hint="set XDG_STATE_HOME to a directory of your own",
                )
        yield fd
    finally:
        os.close(fd)


class JobFile:
    """The job of this process, on the disk.

    Args:
        source: As the user named it.
        output: Its path.

    Raises:
        PydumpError: The directory cannot be written to.
    """

    def __init__(self, source: str, output: str) -> None:
        self._next = 0.0
        try:
            with _opened_directory(create=True) as where:
                known = _jobs(where)
                for job in [job for job in known if job.status != "active"][:-KEPT]:
                    os.unlink(f"{job.number}.json", dir_fd=where)
                number = max((job.number for job in known), default=0) + 1
                while not self._claimed(number, where):
                    number += 1
            pid = os.getpid()
            output = _absolute(output)
            self.job = Job(number, pid, start_time(pid) or 0, source, output, began=time.time())
            try:
                self._write()
            except BaseException:
                self.remove()
                raise
        except OSError as error:
            why = f"cannot keep a job in {directory()}: {error.strerror}"
            raise PydumpError(why, hint="set XDG_STATE_HOME, or leave --detach out") from None

    @staticmethod
    def _claimed(number: int, where: int) -> bool:
        """Whether no other job has the number, so that this one has it now."""
        try:
            os.close(_created(f"{number}.json", where))
        except FileExistsError:
            return False
        return True

    def tell(self, progress: Progress) -> None:
        """How far it is. That this cannot be written down is no reason to end it."""
        now = time.monotonic()
        if now >= self._next or progress.phase != self.job.phase:
            self._next = now + INTERVAL
            self.job = replace(self.job, phase=progress.phase, completed=progress.done, total=progress.total)
            with contextlib.suppress(OSError):
                self._write()

    def end(self, exit_code: int, *, report: dict[str, Any] | None = None, error: str | None = None) -> None:
        """It has ended. Where that cannot be written down yet, there may be room in a moment."""
        self.job = replace(
            self.job,
            status="failed" if error else "incomplete" if exit_code == EXIT_INCOMPLETE else "completed",
            completed=self.job.total if error is None else self.job.completed,
            ended=time.time(),
            exit_code=exit_code,
            error=error,
            report=report,
        )
        for _ in range(ATTEMPTS):
            with contextlib.suppress(OSError):
                self._write()
                return
            time.sleep(PAUSE)

    def remove(self) -> None:
        """It never became a job."""
        with contextlib.suppress(FileNotFoundError, PydumpError), _opened_directory() as where:
            for name in (self._name, self._temporary):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=where)

    @property
    def _name(self) -> str:
        return f"{self.job.number}.json"

    @property
    def _temporary(self) -> str:
        return f"{self.job.number}.new"

    def _write(self) -> None:
        with _opened_directory(create=True) as where:  # somebody may have tidied up
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=where)
            with open(_created(self._temporary, where), "w") as file:
                file.write(json.dumps(asdict(self.job)))
            os.replace(self._temporary, self._name, src_dir_fd=where, dst_dir_fd=where)


def _created(name: str, where: int) -> int:
    """A new file that only we can read, under any umask, open for writing."""
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=where)
    os.fchmod(fd, 0o600)
    return fd


def jobs() -> list[Job]:
    """All jobs, the oldest first. One whose process is gone without a word has failed.

    Raises:
        PydumpError: Somebody else could have put them there.
    """
    try:
        with _opened_directory() as where:
            return _jobs(where)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PydumpError(f"cannot read {directory()}: {error.strerror}", hint="set XDG_STATE_HOME") from None


def _jobs(where: int) -> list[Job]:
    found = []
    for name in os.listdir(where):
        named = FILE_NAME.fullmatch(name)
        job = _read(name, where, int(named[1])) if named else None
        if job is not None:
            gone = job.status == "active" and start_time(job.pid) != job.pid_started
            found.append(_lost(job) if gone else job)
    return sorted(found, key=lambda job: job.number)


def _read(name: str, where: int, number: int) -> Job | None:
    """The job in a file of ours; None where it is no such file, is being made, or was made by another version."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=where)
    except OSError:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(fd)
        return None
    with open(fd, "rb") as file:
        try:
            values = json.loads(file.read(MAX_SIZE))
            job = Job(**values | {"number": number})
        except (OSError, ValueError, TypeError, RecursionError):
            return None
    return job if _makes_sense(job) else None


def _makes_sense(job: Job) -> bool:
    """Whether each value has its type, and each number a size that something can be done with."""
    numbers = (job.pid, job.pid_started, job.completed, job.total, *([] if job.exit_code is None else [job.exit_code]))
    times = (job.began, *([] if job.ended is None else [job.ended]))
    texts = (job.source, job.output, job.phase, *([] if job.error is None else [job.error]))
    return (
        all(type(number) is int and 0 <= number < 1 << 64 for number in numbers)
        and all(type(moment) in (int, float) and 0 <= moment < 1 << 36 for moment in times)
        and all(type(text) is str and "\0" not in text for text in texts)
        and job.status in get_args(Status)
        and (job.report is None or type(job.report) is dict)
    )


def _lost(job: Job) -> Job:
    """A job whose process has gone without saying how it ended: what became of its output, by looking."""
    try:
        there = os.stat(job.output).st_ctime >= job.began
    except OSError:
        there = False
    if not there:
        return replace(job, status="failed", exit_code=1, error="its process was ended; its output is not there")
    # An output is there as a whole or not at all.
    return replace(job, status="completed", completed=job.total)


def job_of(name: str) -> Job:
    """The job with a number, or the last one with an output.

    Raises:
        PlanError: There is none.
    """
    known = jobs()
    found = [job for job in known if str(job.number) == name or job.output == _absolute(name)]
    if not found:
        numbers = ", ".join(str(job.number) for job in known)
        hint = f"available: {numbers}" if known else "pydump dump --detach starts one"
        raise PlanError(f"there is no job {name}", hint=hint)
    return found[-1]


def ended(wanted: Sequence[Job]) -> list[Job]:
    """Wait until none of these jobs is active; returns them as they are then.

    Raises:
        Cancelled: Ctrl-C. The jobs go on.
    """
    numbers = {job.number for job in wanted}
    try:
        while True:
            known = [job for job in jobs() if job.number in numbers]
            if all(job.status != "active" for job in known):
                return known
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        raise Cancelled("interrupted while waiting; the jobs go on") from None


def cancel(job: Job) -> None:
    """Ask the process of a job to end.

    Raises:
        PlanError: It has ended already.
    """
    late = PlanError(f"job {job.number} has ended already", hint=f"pydump status {job.number} shows how")
    if job.status != "active":
        raise late
    try:
        process = os.pidfd_open(job.pid)
    except ProcessLookupError:
        raise late from None
    try:
        if start_time(job.pid) != job.pid_started:  # another process has its number now
            raise late
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        raise late from None
    finally:
        os.close(process)


def clear(wanted: Sequence[Job]) -> None:
    """Forget jobs that have ended.

    Raises:
        PlanError: One of them is active.
    """
    for job in wanted:
        if job.status == "active":
            raise PlanError(f"job {job.number} is active", hint=f"pydump status --cancel {job.number} ends it")
    with contextlib.suppress(FileNotFoundError), _opened_directory() as where:
        for job in wanted:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{job.number}.json", dir_fd=where)


def _absolute(output: str) -> str:
    """An output as another directory's user would name it: a path from the root, a URL as it is."""
    return output if "://" in output else os.path.abspath(output)
