"""The command ``batch``: many dumps, each a job of its own."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer import Argument, Option

from pydump.cli.arguments import Executor, Json
from pydump.cli.console import line, talk
from pydump.cli.ending import EXIT_INCOMPLETE
from pydump.cli.program import Command as _Command
from pydump.cli.session import session
from pydump.errors import PlanError, PydumpError

if TYPE_CHECKING:
    from pydump.cli.batch import BatchJob, Done

#: Exit codes of jobs in words.
ENDS: Final = {0: "complete", 2: "refused", 3: "incomplete", 4: "with defects"}


class Command(_Command):
    """What follows the command of the jobs belongs to it, options too."""

    allow_interspersed_args = False
    ignore_unknown_options = True


def batch(
    words: Annotated[
        list[str],
        Argument(
            metavar="JOBS | COMMAND [OPTIONS]",
            help="A file with a job on each line, or '-'; with --each dump, verify, info, size or dmesg, with options.",
        ),
    ],
    pattern: Annotated[
        str | None, Option("--each", metavar="PATTERN", help="Run the command for each file that matches.")
    ] = None,
    to: Annotated[
        str,
        Option(
            "--to",
            metavar="TEMPLATE",
            help="With --each: where to write; {name} is the file's name, {file} with its extension.",
        ),
    ] = "",
    at_once: Annotated[int | None, Option("--jobs", metavar="N", help="Jobs at a time. Default: the CPUs.")] = None,
    resume: Annotated[
        bool, Option("--resume", help="Skip jobs that wrote their output, if it and the source are unchanged.")
    ] = False,
    journal: Annotated[
        Path | None,
        Option("--journal", metavar="FILE", help="Where to write which jobs have ended. Default: JOBS.done."),
    ] = None,
    executor: Executor = None,
    as_json: Json = False,
) -> None:
    """Run many jobs, each in a process of its own.

    A job is dump, verify, info, size or dmesg with its options.

    Exit code 3 if a job failed, found a defect or was incomplete; the summary names each.
    """
    from pydump.cli import batch as work
    from pydump.cli.batch_run import run_all

    if pattern is None:
        if len(words) != 1 or to:
            hint = "or name one file with jobs, after the options of batch: pydump batch --json JOBS"
            raise PlanError("a command for many files needs --each PATTERN", hint=hint)
        jobs = _listed(words[0])
        where = journal or (Path(f"{words[0]}.done") if words[0] != "-" else None)
    else:
        jobs = work.each(work.matching(pattern), to, words[0], words[1:])
        where = journal or Path("pydump-batch.done")
    if where is None:
        raise PlanError("jobs from standard input need --journal FILE")
    _check_options(jobs)
    cpus = len(os.sched_getaffinity(0))
    at_once = cpus if at_once is None else at_once
    if at_once < 1:
        raise PlanError("--jobs must be at least 1")
    at_once = max(1, min(at_once, len(jobs)))
    with closing(work.Journal(where, jobs, resume=resume)) as kept:
        complete = [job for job in jobs if resume and kept.complete(job)]
        skipped = set(complete)
        for job in complete:
            if kept.exit_code(job) and not (as_json or session.json):
                talk(f"skipped {ENDS[kept.exit_code(job)]}  {job.command} {job.source}: unchanged since an earlier run")
        ended = []
        try:
            left = [job for job in jobs if job not in skipped]
            for done in run_all(left, kept, at_once, max(1, cpus // at_once), executor):
                ended.append(done)
                _show(done, len(ended) + len(complete), len(jobs), as_json=as_json or session.json)
        except BaseException:
            talk(f"{len(ended) + len(complete)} of {len(jobs)} jobs have ended; --resume runs the others")
            raise
        codes = [done.exit_code for done in ended] + [kept.exit_code(job) for job in complete]
    if not (as_json or session.json) and not session.quiet:
        _summary(codes, len(complete))
    if any(codes):
        raise typer.Exit(EXIT_INCOMPLETE)


def _check_options(jobs: Sequence[BatchJob]) -> None:
    """Parse the command line of each kind of job, before any of them begins.

    Raises:
        TyperException: An option is unknown, or has a wrong value.
        PlanError: A word is not an option, or a job would not write what batch waits for.
    """
    from pydump.builtin.descriptors import names_descriptor

    for job in jobs:
        if job.to and names_descriptor(job.to):
            raise PlanError(f"a job cannot write to {job.to}", hint="name a file")
    before = dict(vars(session))
    try:
        for job in {(job.command, job.options): job for job in jobs}.values():
            _check_words(job)
    finally:  # --json of a job is not ours
        vars(session).clear()
        vars(session).update(before)


def _check_words(job: BatchJob) -> None:
    """Parse the options of a job alone, then with the files that batch adds."""
    from pydump.cli.program import command_named

    command, name = command_named(job.command), f"pydump {job.command}"
    with command.make_context(name, list(job.options), resilient_parsing=True) as context:
        files = [str(param.name) for param in command.params if param.param_type_name == "argument"]
        extra = [*(context.params[file] for file in files if context.params.get(file)), *context.args]
    if extra:
        word = extra[0] if isinstance(extra[0], str) else extra[0][0]
        raise PlanError(
            f"{word} is not an option of {job.command}",
            hint="leave it out: --each names what is read, --to what is written; in a list, source and to",
        )
    with command.make_context(
        name, [*job.options, "--", job.source, *([job.to] if job.command == "dump" else [])]
    ) as context:
        if context.params.get("detach"):
            raise PlanError("--detach does not go with batch", hint="leave it out: batch waits for each job")


def _listed(name: str) -> list[BatchJob]:
    """The jobs in a file, or of standard input.

    Raises:
        PydumpError: It cannot be read, or a line is not a job.
    """
    from pydump.cli.batch import read_jobs

    if name == "-":
        return read_jobs(sys.stdin, "standard input")
    try:
        with open(name) as file:
            return read_jobs(file, name)
    except (OSError, UnicodeDecodeError) as error:
        raise PydumpError(f"cannot read {name}: {getattr(error, 'strerror', error)}") from None


def _show(done: Done, count: int, total: int, *, as_json: bool) -> None:
    """Print that a job has ended: as a JSON line on standard output, or a message."""
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps({"schema": 1, **asdict(done)}), flush=True)
        return
    how = ENDS.get(done.exit_code, "failed")
    why = f": {done.error}" if done.error else ""
    talk(f"{count}/{total} {how}  {done.job.command} {done.job.source}  {done.seconds:.1f} s{why}")


def _summary(codes: Sequence[int], skipped: int) -> None:
    """Print how many jobs ended in which way."""
    for how, count in sorted(Counter(ENDS.get(code, "failed") for code in codes).items()):
        line(f"{count:6}  {how}")
    if skipped:
        line(f"{skipped:6}  of them skipped: unchanged since an earlier run")
