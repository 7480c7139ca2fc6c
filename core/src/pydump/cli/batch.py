"""Many jobs from a list: what each is, how it is run, and a journal of those that have ended.

A job is one ``pydump`` command in a process of its own, so that a file that ends one does not end the others. The
journal has a line for each job that has begun or ended. It is what ``--resume`` reads.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from pydump.engine.locate import find_stored
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.storage import Storage
from pydump.registry import installed

#: The commands that a job can be.
COMMANDS: Final = ("dump", "verify", "info", "size", "dmesg")
#: Those that work with several processes.
PARALLEL: Final = ("dump", "verify")
#: Exit codes of jobs that have done what can be done.
ENDED_WELL: Final = (0, 3, 4)
#: How each line of a journal begins, and no line of a list of jobs.
BEGINNING: Final = '{"schema": '


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One command.

    Attributes:
        command: One of :data:`COMMANDS`.
        source: What it reads, as on the command line.
        to: What it writes: the output of ``dump``; for others a file for what they print, or "" for none.
        options: More words of the command line.
    """

    command: str
    source: str
    to: str = ""
    options: tuple[str, ...] = ()

    def words(self, workers: int, executor: str | None = None, *, replace: bool = False) -> list[str]:
        """The command line after ``pydump``.

        Args:
            workers: Worker processes, if the options do not say.
            executor: The executor that does the work in their place, or None.
            replace: Replace an output that is there.
        """
        words = [self.command, *self.options]
        if replace and self.command == "dump" and "--force" not in self.options:
            words.append("--force")
        said = {word.partition("=")[0] for word in self.options}
        if self.command in PARALLEL and not said & {"--workers", "--executor"}:
            words += ["--workers", str(workers)] if executor is None else ["--executor", executor]
        if not self.to or self.command == "dump":
            words += [] if self.command == "dmesg" else ["--json"]
        if self.command in ("dump", "verify"):
            words += ["--progress", "none"]
        return [*words, "--", self.source, *([self.to] if self.command == "dump" else [])]


@dataclass(frozen=True, slots=True)
class Done:
    """A job that has ended.

    Attributes:
        job: Which.
        exit_code: Of its process.
        error: Its last message if it failed or is incomplete, else None.
        seconds: How long it took.
        source_state: What tells whether the source has changed: see :func:`state`.
        output_state: The same of what it wrote.
        report: What the command printed with ``--json``, or None.
    """

    job: BatchJob
    exit_code: int
    error: str | None
    seconds: float
    source_state: list[list[int]] | str | None
    output_state: list[list[int]] | str | None
    report: dict[str, Any] | None = None


def read_jobs(text: Iterable[str], name: str) -> list[BatchJob]:
    """The jobs of a list: a JSON object in each line; empty lines and lines that begin with ``#`` are skipped.

    Raises:
        PlanError: A line is not a job; the message has its number.
    """
    jobs: list[BatchJob] = []
    for number, line in enumerate(text, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            jobs.append(_job(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise PlanError(
                f"{name}, line {number}: {error}",
                hint='a job is {"command": "dump", "source": "a.elf", "to": "a.kdump", "options": ["-d", "31"]}',
            ) from None
    return _distinct(jobs)


def _job(value: Any) -> BatchJob:
    """The job that a JSON value describes.

    Raises:
        ValueError: It describes none.
    """
    if not isinstance(value, Mapping) or not all(isinstance(value.get(key), str) for key in ("command", "source")):
        raise ValueError("not an object with the strings command and source")
    unknown = set(value) - {"command", "source", "to", "options"}
    if unknown:
        raise ValueError(f"unknown key: {min(unknown)}")
    options, to = value.get("options", []), value.get("to", "")
    if not isinstance(to, str) or not isinstance(options, list) or not all(isinstance(word, str) for word in options):
        raise ValueError("to must be a string, and options a list of strings")
    if value["command"] not in COMMANDS:
        raise ValueError(f"unknown command {value['command']!r}; available: {', '.join(COMMANDS)}")
    if value["command"] == "dump" and not to:
        raise ValueError('dump needs an output: "to"')
    return BatchJob(value["command"], value["source"], to, tuple(options))


def each(sources: Sequence[str], to: str, command: str, options: Sequence[str]) -> list[BatchJob]:
    """One job for each source.

    Args:
        sources: What they read.
        to: A template of what they write: ``{name}`` is the source's file name without its last extension, ``{file}``
            with it. "" for none.
        command: Of all of them.
        options: Likewise.

    Raises:
        PlanError: Two would write the same file, or the template or the command is wrong.
    """
    jobs = []
    for source in sources:
        file = source.rstrip("/").rpartition("/")[2]
        try:
            target = to.format(name=os.path.splitext(file)[0], file=file)
        except (LookupError, AttributeError, TypeError, ValueError):
            raise PlanError(f"--to {to} is not a template", hint="available: {name} and {file}") from None
        try:
            jobs.append(_job({"command": command, "source": source, "to": target, "options": list(options)}))
        except ValueError as error:
            raise PlanError(str(error)) from None
    return _distinct(jobs)


def _distinct(jobs: list[BatchJob]) -> list[BatchJob]:
    """``jobs``, if no two of them write the same output."""
    targets: dict[str, str] = {}
    for job in jobs:
        if job.to in targets:
            raise PlanError(f"{targets[job.to]} and {job.source} would both be written to {job.to}")
        if job.to:
            targets[job.to] = job.source
    return jobs


def matching(pattern: str) -> list[str]:
    """The files that a pattern names, in order.

    Raises:
        PlanError: There are none.
    """
    storage = _storage(pattern)
    found = sorted(glob.glob(pattern)) if storage is None else list(storage.matching(pattern))
    if not found:
        raise PlanError(f"no file matches {pattern}")
    return found


def _storage(name: str) -> type[Storage] | None:
    """The storage of a URL; None for a path of this host."""
    if "://" not in name or os.path.lexists(name):
        return None
    return find_stored(name, installed()).storage


def state(name: str) -> list[list[int]] | str | None:
    """What changes with each file that ``name`` names: size and time of change, or what its storage says; or None."""
    try:
        storage = _storage(name)
        if storage is not None:
            return storage.state(name)
    except PydumpError:  # the job will say it
        return None
    try:
        paths = [name] if os.path.exists(name) else name.split(",")
        return [[status.st_size, status.st_mtime_ns] for status in map(os.stat, paths)]
    except (OSError, ValueError):
        return None


class Journal:
    """The jobs that have ended, a JSON object in each line.

    Args:
        path: The file; it is made if it is not there.
        jobs: What this run consists of. What the file has of other jobs stays in it.
        resume: Go on where an earlier run of these jobs ended; otherwise none may have begun, or all have ended well.

    Raises:
        PlanError: It is not a journal, or an earlier run of these jobs is not complete and ``resume`` is not set.
        PydumpError: It cannot be written.
    """

    def __init__(self, path: Path, jobs: Sequence[BatchJob], *, resume: bool) -> None:
        self.path = path
        self._known: dict[BatchJob, dict[str, Any]] = {}
        self._begun: dict[BatchJob, dict[str, Any]] = {}
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
            self._file: TextIO = os.fdopen(fd, "r+")
            lines = self._file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise PydumpError(f"cannot use the journal {path}: {getattr(error, 'strerror', error)}") from None
        try:
            self._read(lines)
            if not resume:
                self._begin_anew(jobs)
        except PlanError:
            self._file.close()
            raise
        if lines and not lines.endswith("\n"):  # the run was killed while it wrote
            self._file.write("\n")

    def _read(self, lines: str) -> None:
        """Take in what earlier runs have written.

        Raises:
            PlanError: That is something else, which nothing may be added to.
        """
        if not lines.startswith(BEGINNING[: len(lines)]):
            raise PlanError(f"{self.path} is not a journal of pydump batch", hint="--journal FILE names another")
        for line in lines.splitlines():
            try:
                value = json.loads(line)
                (self._begun if value.get("begun") else self._known)[_job(value["job"])] = value
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # a line that was cut off: the job runs again

    def _begin_anew(self, jobs: Sequence[BatchJob]) -> None:
        """Forget earlier runs, so that every job runs.

        Raises:
            PlanError: Some of the jobs have ended well and some have not: those would be refused or done twice.
        """
        known = [job for job in jobs if job in self._known or job in self._begun]
        well = [job for job in known if self._known.get(job, {}).get("exit_code") in ENDED_WELL]
        if known and len(well) < len(jobs):
            given = next((job.command for job in jobs if "--resume" in job.options), None)
            raise PlanError(
                f"{self.path} is the journal of an earlier run of these jobs, which is not complete",
                hint=f"put --resume before {given}: after it, it is an option of {given}"
                if given
                else "--resume continues it; --journal FILE names another; or remove it to begin anew",
            )
        self._known, self._begun = {}, {}

    def complete(self, job: BatchJob) -> bool:
        """Whether a job has ended before as it should, and neither its source nor its output has changed since."""
        value = self._known.get(job)
        if value is None or value.get("exit_code") not in ENDED_WELL:
            return False
        return bool(value.get("source_state") == state(job.source) and value.get("output_state") == state(job.to or ""))

    def exit_code(self, job: BatchJob) -> int:
        """What a job that is complete has ended with."""
        return int(self._known[job]["exit_code"])

    def replaces(self, job: BatchJob) -> bool:
        """Whether the job's output, if it is there, was made by a run that was killed before it could say so."""
        begun = self._begun.get(job)
        return begun is not None and job not in self._known and begun.get("output_state") is None

    def begin(self, job: BatchJob) -> None:
        """Write down that a job begins.

        Raises:
            PydumpError: That cannot be written.
        """
        self._write({"begun": True, "job": asdict(job), "output_state": state(job.to) if job.to else None})

    def add(self, done: Done) -> None:
        """Write down that a job has ended.

        Raises:
            PydumpError: That cannot be written.
        """
        self._write(asdict(done))

    def _write(self, value: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps({"schema": 1, **value}) + "\n")
            self._file.flush()
        except OSError as error:
            raise PydumpError(f"cannot write the journal {self.path}: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
