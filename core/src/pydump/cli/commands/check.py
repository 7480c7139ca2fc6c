"""Commands that check: ``verify`` and ``compare``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer import Argument, Option

from pydump.cli.arguments import Arch, Executor, Json, ProgressStyle, SourcesArg, Style, Workers
from pydump.cli.console import warn
from pydump.cli.ending import EXIT_DIFFERS
from pydump.cli.program import ReadingCommand as Command  # noqa: F401  (what each function here becomes)
from pydump.cli.session import session


def verify(
    context: typer.Context,
    files: SourcesArg,
    arch: Arch = None,
    hash_memory: Annotated[
        bool, Option("--hash-memory", help="Hash guest memory. The hash does not depend on the format.")
    ] = False,
    workers: Workers = None,
    executor: Executor = None,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
) -> None:
    """Check every structure, every descriptor, every page.

    Exit code 4 if a defect is found; of several files the highest exit code.
    """
    import pydump
    from pydump.cli import render
    from pydump.cli.plugin_options import given
    from pydump.cli.progress import shown
    from pydump.cli.several import each

    as_json = as_json or session.json

    def one(file: str) -> tuple[dict[str, Any], int]:
        with shown(ProgressStyle.none if session.quiet else progress) as tell:
            report = pydump.verify(
                file,
                arch=session.arch if arch is None else arch,
                options=given(context),
                hash_memory=hash_memory,
                workers=workers,
                executor=executor,
                progress=tell,
            )
        if not as_json:
            render.verify(report, quiet=session.quiet)
        return asdict(report), 0 if report.ok else EXIT_DIFFERS

    code = each(files, one, as_json=as_json)
    if code:
        raise typer.Exit(code)


def compare(
    context: typer.Context,
    left: Annotated[str, Argument(metavar="A", help="A vmcore.")],
    right: Annotated[str, Argument(metavar="B", help="Another.")],
    arch: Arch = None,
    ignore_excluded: Annotated[
        bool,
        Option("--ignore-excluded", help="Do not count pages that one of them leaves out."),
    ] = False,
    workers: Workers = None,
    executor: Executor = None,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
) -> None:
    """Compare guest memory and notes of two vmcores.

    Prints where they differ; exit code 4 if they do.
    """
    import pydump
    from pydump.cli import render
    from pydump.cli.plugin_options import given
    from pydump.cli.progress import shown
    from pydump.cli.several import refuse_twice

    refuse_twice((left, right))
    with shown(ProgressStyle.none if session.quiet else progress) as tell:
        report = pydump.compare(
            left,
            right,
            arch=session.arch if arch is None else arch,
            options=given(context),
            ignore_excluded=ignore_excluded,
            workers=workers,
            executor=executor,
            progress=tell,
        )
    warn(report.warnings)
    if as_json or session.json:
        render.print_json(asdict(report))
    else:
        render.compare(report, quiet=session.quiet, ignored=ignore_excluded)
    if not report.same:
        raise typer.Exit(EXIT_DIFFERS)
