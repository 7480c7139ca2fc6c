"""Commands about pydump itself: ``status``, ``plugins`` and ``new-plugin``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from pydump.cli.arguments import Json
from pydump.cli.session import session
from pydump.errors import PlanError


def _job_numbers(incomplete: str) -> list[tuple[str, str]]:
    """Completes the numbers of jobs, each with its output."""
    from pydump.cli.jobs import jobs

    return [(str(job.number), job.output) for job in jobs() if str(job.number).startswith(incomplete)]


def _roles(incomplete: str) -> list[str]:
    """Completes what ``new-plugin`` can make."""
    from pydump.cli.skeleton import ROLES

    return [role for role in ROLES if role.startswith(incomplete)]


def status(
    job: Annotated[
        str | None,
        Argument(metavar="JOB", help="A job's number, or its output. Default: all jobs.", autocompletion=_job_numbers),
    ] = None,
    wait: Annotated[bool, Option("--wait", help="Wait until they have ended; exit as the worst of them did.")] = False,
    cancel: Annotated[bool, Option("--cancel", help="End the job; nothing is left at its output.")] = False,
    clear: Annotated[bool, Option("--clear", help="Forget the job, or all jobs, that have ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show dumps that were started with --detach.

    It says how far they are, and how they ended.
    """
    from pydump.cli import jobs, render

    if cancel and job is None:
        raise PlanError("--cancel needs a job", hint="pydump status lists them")
    found = jobs.jobs() if job is None else [jobs.job_of(job)]
    if cancel:
        jobs.cancel(found[0])
    if wait or cancel:
        found = jobs.ended(found)
    if clear:
        jobs.clear(found if job is not None else [one for one in found if one.status != "active"])
        found = found if job is not None else [one for one in found if one.status == "active"]
    if as_json or session.json:
        render.print_json({"jobs": [asdict(one) for one in found]} if job is None else asdict(found[0]))
    else:
        render.jobs(found)
    if wait:
        raise typer.Exit(max((one.exit_code or 0 for one in found), default=0))


def plugins(as_json: Json = False) -> None:
    """Show what is installed, what does not work, and why."""
    from pydump.cli import render
    from pydump.registry import installed

    render.plugins(installed(), as_json=as_json or session.json)


def new_plugin(
    role: Annotated[
        str,
        Argument(
            metavar="ROLE", help="arch, compressor, executor, filter, format, source or storage.", autocompletion=_roles
        ),
    ],
    name: Annotated[
        str,
        Argument(
            metavar="NAME",
            help="What --arch, --format, --compression or --exclude will call it, or what stands before the colon of a "
            "source, storage or executor: NAME:PATH.",
        ),
    ],
    memory_only: Annotated[
        bool, Option("--memory-only", help="A format that holds memory alone, without notes and other facts.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a working plugin to start from into a new folder here."""
    from pydump.cli import console, render, skeleton

    folder = skeleton.new_plugin(role, name, Path(), memory_only=memory_only)
    if as_json or session.json:
        render.print_json({"role": role, "name": name, "folder": str(folder)})
    elif not session.quiet:
        if role == "compressor":
            console.line(skeleton.users_of_compressors())
        console.line(f"{folder}: pip install -e './{folder}[test]', then pytest {folder}")
