"""Dumps that go on behind the command line: what each is, how far it has come, and how it ended.

A job is a JSON file in ``$XDG_STATE_HOME/pydump/jobs`` (``~/.local/state`` where that is not set), written by the
process that dumps. Status, completed and total are those of QEMU's query-dump.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydump.errors import PlanError, PydumpError
from pydump.model.report import Progress

Status = Literal["active", "completed", "failed"]

#: Seconds between two writes of how far a job is.
INTERVAL = 0.5
#: Seconds between two attempts to write how a job has ended, and how many there are.
PAUSE, ATTEMPTS = 1, 30
#: Jobs that have ended are shown until as many others have ended after them.
KEPT = 50


@dataclass(frozen=True, slots=True)
class Job:
    """A dump.

    Attributes:
        number: What the user calls it.
        pid: The process that dumps.
        pid_started: When that process started, in clock ticks since boot: another with its pid has another start.
        source: As the user named it.
        output: Its path.
        status: "active", "completed" or "failed".
        phase: What is being done, as in :class:`~pydump.model.report.Progress`.
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
        where = directory()
        try:
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget(where)
            number = max((job.number for job in jobs()), default=0) + 1
            while True:
                try:
                    os.close(os.open(where / f"{number}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                    break
                except FileExistsError:
                    number += 1
            self._path = where / f"{number}.json"
            self.job = Job(
                number, os.getpid(), _started(os.getpid()) or 0, source, os.path.abspath(output), began=time.time()
            )
            try:
                self._write()
            except BaseException:
                self.remove()
                raise
        except OSError as error:
            raise PydumpError(
                f"cannot keep a job in {where}: {error.strerror}", hint="set XDG_STATE_HOME, or leave --detach out"
            ) from None

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
            status="failed" if error else "completed",
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
        self._path.unlink(missing_ok=True)
        self._temporary.unlink(missing_ok=True)

    @property
    def _temporary(self) -> Path:
        return self._path.with_suffix(".new")

    def _write(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have tidied up
        self._temporary.write_text(json.dumps(asdict(self.job)))
        self._temporary.replace(self._path)


def jobs() -> list[Job]:
    """All jobs, the oldest first. One whose process is gone without a word has failed."""
    found = []
    for path in directory().glob("[0-9]*.json"):
        try:
            job = Job(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # it is being made, or was made by another version
        if job.status == "active" and _started(job.pid) != job.pid_started:
            job = _lost(job)
        found.append(job)
    return sorted(found, key=lambda job: job.number)


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
    found = [job for job in known if str(job.number) == name or job.output == os.path.abspath(name)]
    if not found:
        numbers = ", ".join(str(job.number) for job in known) or "none"
        raise PlanError(f"there is no job {name}", hint=f"known are {numbers}")
    return found[-1]


def _forget(where: Path) -> None:
    for job in [job for job in jobs() if job.status != "active"][:-KEPT]:
        (where / f"{job.number}.json").unlink(missing_ok=True)


def _started(pid: int) -> int | None:
    """When a process that runs was started. Source: proc(5), /proc/pid/stat: fields 3 and 22."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # field 2 is free text
        return None if fields[0] == "Z" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
