"""``pydump dump``, and what of it goes on in the background."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from pydump.cli import program
from pydump.cli.arguments import Json, ProgressStyle, SourceArg, Style
from pydump.cli.console import afterwards, warn
from pydump.cli.declared import asked, of_request
from pydump.cli.ending import fail, incomplete
from pydump.cli.session import session
from pydump.errors import PlanError

if TYPE_CHECKING:
    from pydump.model.progress import Milestone, ProgressCallback
    from pydump.model.report import DumpReport


class Command(program.ReadingCommand):
    """``dump``: it has the options of a request, and of all installed plugins."""

    panels = (
        "Arguments", "Input", "What to write", "Filter", "Format and compression", "Live guest", "Running", "Output",
    )  # fmt: skip

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params[2:2] = of_request()

    def panel_of(self, param: Any) -> str:
        """The panel of an option: a plugin's is that of its role."""
        return param.rich_help_panel or ("Output" if param.name == "as_json" else "Running")

    def _look_up(self) -> list[Any]:
        from pydump.cli import plugin_options
        from pydump.registry import installed

        registry = installed()
        params: list[Any] = self.params
        for param in params:
            if param.name == "format":
                param.help = plugin_options.formats(registry)
            elif param.name == "compression":
                param.help = plugin_options.compressions(registry)
            elif param.name == "exclude":
                param.help = plugin_options.classes(registry)
        return plugin_options.parameters(registry)


def dump(
    context: typer.Context,
    source: SourceArg,
    output: Annotated[str, Argument(metavar="OUTPUT", help="A path, '-' for standard output, or fd:N.")],
    nice: Annotated[
        bool, Option("--nice", help="After the capture, use CPUs and disks only while they are idle.")
    ] = False,
    detach: Annotated[
        bool, Option("--detach", help="Return once the guest is captured; follow progress with pydump status.")
    ] = False,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
) -> None:
    """Write a vmcore from guest memory: capture, convert or repair.

    Exit codes: 0 complete, 1 failed, 2 cannot be done as asked, 3 written, but the source lacks pages,
    130 interrupted.
    """
    import pydump
    from pydump.builtin.descriptors import is_stdout
    from pydump.cli.plugin_options import given
    from pydump.cli.progress import shown
    from pydump.process import be_nice

    session.stdout_is_data = is_stdout(output)
    wanted = asked(context)
    wanted["arch"] = session.arch if wanted["arch"] is None else wanted["arch"]
    dry_run = wanted["dry_run"]
    _refuse_transient(output, wanted["split"])
    session.lost = _lost(output, resume=wanted["resume"])

    def work(tell: ProgressCallback | None, captured: Callable[[], None] | None = None) -> DumpReport:
        def reached(milestone: Milestone) -> None:
            session.written = milestone == "written"
            if nice and milestone == "captured":
                be_nice()
            if captured is not None and milestone == "captured":
                captured()

        return pydump.dump(source, output, **wanted, options=given(context), progress=tell, reached=reached)

    if detach:
        _detach(source, output, work, dry_run=dry_run, as_json=as_json or session.json)
        return
    with shown(ProgressStyle.none if session.quiet or dry_run else progress) as tell:
        report = work(tell)
    _show(report, output, as_json=as_json or session.json)


def _lost(output: str, *, resume: bool) -> str:
    """What is said of the output where the run is interrupted."""
    from pydump.builtin.descriptors import names_descriptor

    if names_descriptor(output):
        return "; the output is not complete"
    return "; --resume continues it" if resume else "; nothing was left at the output"


def _show(report: DumpReport, output: str, *, as_json: bool) -> None:
    """Print the report of a dump, and end with the exit code of an incomplete one."""
    from pydump.builtin.descriptors import is_stdout
    from pydump.cli import render

    warn(report.warnings)
    stream = sys.stderr if is_stdout(output) else sys.stdout
    with contextlib.nullcontext() if report.dry_run else afterwards():
        if as_json:
            render.print_json(asdict(report), stream)
        elif not session.quiet:
            render.report(report, stream)
    if not report.complete:  # to say nothing of it would hide that the file lacks memory
        raise typer.Exit(incomplete(report.unreadable_size, report.warnings, more=report.more_lost))


def _refuse_transient(output: str, split: int | None) -> None:
    """Refuse an output that is gone when this process ends."""
    from pydump.engine.locate import find_stored
    from pydump.engine.outputs import targets
    from pydump.registry import installed

    for name in targets(output, split):
        storage = find_stored(name, installed()).storage
        if storage.transient:
            raise PlanError(
                f"{name} would be lost when pydump ends: {storage.name} keeps it in this process only",
                hint="name a file; from Python, pydump.dump() writes there",
            )


def _detach(source: str, output: str, work: Callable[..., DumpReport], *, dry_run: bool, as_json: bool) -> None:
    """Leave a job behind, and say which."""
    from pydump.builtin.descriptors import names_descriptor
    from pydump.cli import render
    from pydump.cli.detach import detached

    if dry_run or names_descriptor(output):
        hint = "leave --dry-run out" if dry_run else "name a file as the output"
        raise PlanError("--detach writes a file in the background", hint=hint)
    started = detached(source, output, work)
    if started.error is not None:
        raise typer.Exit(fail(started.error, started.exit_code))
    with afterwards():
        if as_json:
            print(json.dumps({"schema": render.SCHEMA, "job": started.job}))
        elif not session.quiet:
            print(f"job {started.job} continues in the background; pydump status {started.job} shows its progress")
