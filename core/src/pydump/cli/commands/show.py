"""Commands that show what is in a vmcore: ``info``, ``read``, ``dmesg``, ``size`` and ``map``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from pydump.cli.arguments import (
    Arch,
    Executor,
    Json,
    MapBy,
    ProgressStyle,
    SourceArg,
    SourcesArg,
    Style,
    Vmlinux,
    Workers,
)
from pydump.cli.console import warn
from pydump.cli.ending import incomplete
from pydump.cli.program import ReadingCommand as Command  # noqa: F401  (what each function here becomes)
from pydump.cli.session import session
from pydump.errors import PlanError, PydumpError

if TYPE_CHECKING:
    from pydump.model.findings import MapReport, SizeReport


def info(
    context: typer.Context,
    files: SourcesArg,
    arch: Arch = None,
    notes: Annotated[bool, Option("--notes", help="Print the notes and the registers they hold.")] = False,
    vmcoreinfo: Annotated[
        bool, Option("--vmcoreinfo", help="Print the VMCOREINFO text, from memory if need be.")
    ] = False,
    vmlinux: Vmlinux = None,
    paddr: Annotated[
        str | None, Option("--paddr", metavar="ADDR", help="Show what the dump holds at this guest-physical address.")
    ] = None,
    vaddr: Annotated[
        str | None, Option("--vaddr", metavar="ADDR", help="Show what it holds at this virtual address of the kernel.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a vmcore is, how large, and of which guest.

    Exit codes: 0 complete, 1 failed, 2 cannot be done as asked, 3 shown, but the vmcore lacks pages. Of several files
    it is the highest.
    """
    import pydump
    from pydump.cli import facts
    from pydump.cli.plugin_options import given
    from pydump.cli.several import each
    from pydump.options import parse_number

    if paddr is not None and vaddr is not None:
        raise PlanError("--paddr and --vaddr exclude each other", hint="leave one of the two out")
    asked, flag = (vaddr, "--vaddr") if paddr is None else (paddr, "--paddr")
    if [asked is not None, notes, vmcoreinfo].count(True) > 1:
        raise PlanError("--paddr or --vaddr, --notes and --vmcoreinfo exclude each other", hint="use one of them")
    as_json = as_json or session.json

    def one(file: str) -> tuple[dict[str, Any], int]:
        with pydump.open(file, arch=session.arch if arch is None else arch, options=given(context)) as opened:
            if asked is not None:
                found = opened.look_up(parse_number(asked, flag), virtual=paddr is None)
                if not as_json:
                    facts.address(found)
                return asdict(found), 0
            if vmcoreinfo:
                text = opened.find_vmcoreinfo()
                if text is None:
                    windows = "the guest runs Windows" if opened.known.windows else None
                    raise PydumpError(f"{file} has no VMCOREINFO", hint=windows)
                raw = text.text.rstrip(b"\0")
                if not as_json:
                    _print_text(raw)
                return {"vmcoreinfo": raw.decode("utf-8", "replace")}, 0
            symbols = None if vmlinux is None else opened.symbols(vmlinux)
            warn(opened.warnings)
            shown = facts.info_json(opened, file, symbols, notes=notes) if as_json else {}
            if not as_json:
                facts.info(opened, file, symbols, notes=notes)
            lost, more = facts.absent_sizes(opened.image)[1], opened.image.more_lost()
            return shown, incomplete(lost or 0, opened.warnings, more=more) if lost or more else 0

    code = each(files, one, as_json=as_json, blank=not vmcoreinfo)
    if code:
        raise typer.Exit(code)


def _print_text(text: bytes) -> None:
    """Print text of the guest: on a terminal without what it would obey, elsewhere as it is."""
    from pydump.builtin.descriptors import write_all
    from pydump.cli import console

    if sys.stdout.isatty():
        for line in text.decode("utf-8", "replace").removesuffix("\n").split("\n"):
            console.line(line)
    else:
        write_all(1, text)


def read(
    context: typer.Context,
    file: SourceArg,
    address: Annotated[
        str,
        Argument(metavar="ADDR", help="Guest-physical address, as 0x1000; with --vaddr virtual, with --symbol a name."),
    ],
    size: Annotated[str, Argument(metavar="SIZE", help="Bytes, as 4096 or 4K.")],
    arch: Arch = None,
    vaddr: Annotated[bool, Option("--vaddr", help="ADDR is a virtual address of the guest's kernel.")] = False,
    symbol: Annotated[
        bool, Option("--symbol", help="ADDR is a symbol of the guest's kernel: NAME or NAME+OFFSET.")
    ] = False,
    vmlinux: Vmlinux = None,
    as_hex: Annotated[bool, Option("--hex", help="A hex dump, even if standard output is not a terminal.")] = False,
) -> None:
    """Write bytes of guest memory; on a terminal a hex dump."""
    import pydump
    from pydump.builtin.descriptors import write_all
    from pydump.cli import render
    from pydump.cli.plugin_options import given
    from pydump.options import parse_number

    if symbol and vaddr:
        raise PlanError("--symbol and --vaddr exclude each other", hint="leave one of the two out")
    if vmlinux is not None and not symbol:
        raise PlanError("--vmlinux has no effect without --symbol", hint="pydump read FILE NAME SIZE --symbol")
    session.stdout_is_data = True
    length = parse_number(size, "SIZE")
    start = 0 if symbol else parse_number(address, "ADDR")
    with pydump.open(file, arch=session.arch if arch is None else arch, options=given(context)) as opened:
        warn(opened.image.warnings())
        if symbol:
            start = opened.symbols(vmlinux).address(address)
        for at, data in opened.pieces(start, length, virtual=vaddr or symbol):
            if as_hex or sys.stdout.isatty():
                render.hexdump(data, at)
            else:
                write_all(1, data)


def dmesg(
    context: typer.Context,
    file: SourceArg,
    arch: Arch = None,
    follow: Annotated[
        bool, Option("--follow", "-f", help="Go on with new records of a guest that runs, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the kernel's log."""
    import pydump
    from pydump.cli import kernel_log
    from pydump.cli.plugin_options import given

    if follow:
        found = pydump.follow(file, arch=session.arch if arch is None else arch, options=given(context))
        kernel_log.print_followed(found, as_json=as_json or session.json)
        return
    with pydump.open(file, arch=session.arch if arch is None else arch, options=given(context)) as opened:
        warn(opened.image.warnings())
        if as_json or session.json:
            kernel_log.print_json(opened.log())
        else:
            kernel_log.print_lines(opened.log())


def size(context: typer.Context, file: SourceArg, arch: Arch = None, as_json: Json = False) -> None:
    """Show what each dump level would leave of a guest.

    Nothing is written.     Exit code 3 if the guest's memory is not all there.
    """
    import pydump
    from pydump.cli import render, sizes
    from pydump.cli.plugin_options import given

    report = pydump.sizes(file, arch=session.arch if arch is None else arch, options=given(context))
    warn(report.warnings)
    if as_json or session.json:
        render.print_json(asdict(report))
    else:
        sizes.show(report)
    _end(report.unreadable_size, report)


def map_(
    context: typer.Context,
    file: SourceArg,
    output: Annotated[
        str | None, Option("--output", "-o", metavar="PATH", help="Draw a picture: a name in .png, .svg or .html.")
    ] = None,
    arch: Arch = None,
    by: Annotated[
        MapBy, Option("--by", help="Show contents, or classes of pages: free, cache, memory of programs.")
    ] = MapBy.content,
    force: Annotated[bool, Option("--force", help="Replace an existing picture.")] = False,
    workers: Workers = None,
    executor: Executor = None,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
) -> None:
    """Show what guest memory is made of.

    The map tells zeros, data and how well it compresses, what was left out, and what is lost. Exit code 3 if some of it
    is lost.
    """
    import pydump
    from pydump.cli import maps, render
    from pydump.cli.plugin_options import given
    from pydump.cli.progress import shown

    if output is not None:
        maps.check(output, force=force)
    across = maps.across(None if as_json or session.json else render.columns())
    cells = maps.max_cells("terminal", across) if output is None else maps.max_cells("picture")
    with shown(ProgressStyle.none if session.quiet else progress) as tell:
        report = pydump.survey(
            file,
            arch=session.arch if arch is None else arch,
            options=given(context),
            max_cells=cells,
            by_class=by is MapBy.page_class,
            workers=workers,
            executor=executor,
            progress=tell,
        )
    warn(report.warnings)
    if output is not None:
        maps.save(report, output, force=force)
    if as_json or session.json:
        render.print_json(asdict(report))
    elif output is not None:
        if not session.quiet:
            render.table([("wrote", output), *maps.totals(report)])
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        for line in maps.terminal(report, colour=colour, unicode=unicode, columns=across):
            print(line)
        print()
        render.table(maps.totals(report))
    _end(report.total("unreadable_size"), report)


def _end(lost: int, report: SizeReport | MapReport) -> None:
    """End with the exit code of what lacks memory, if it does."""
    if lost or report.more_lost:
        raise typer.Exit(incomplete(lost, report.warnings, more=report.more_lost))
