"""``pydump dump``, and what of it goes on in the background."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from typer import Argument, Option

from pydump.cli import program
from pydump.cli.arguments import Arch, Executor, Json, ProgressStyle, SourceArg, Style, Workers, completes
from pydump.cli.console import afterwards, tell, warn
from pydump.cli.ending import EXIT_INCOMPLETE, fail
from pydump.cli.session import session
from pydump.errors import PlanError

if TYPE_CHECKING:
    from pydump.model.report import DumpReport, Milestone, ProgressCallback
    from pydump.model.vmcoreinfo import Vmcoreinfo


#: The panels of the help page, and which of the command's own parameters stand in each; plugins add theirs.
PANELS: Final = {
    "Arguments": ("source", "output"),
    "Input": ("arch", "vmcoreinfo", "cpus"),
    "What to write": ("begin", "length", "ram_only", "no_vmcoreinfo", "paging"),
    "Filter": ("dump_level", "exclude", "filter_anyway"),
    "Format and compression": ("format_", "compression", "flatten", "compat"),
    "Live guest": (),
    "Running": ("workers", "executor", "nice", "max_rate", "detach", "dry_run", "progress", "verbose", "quiet", "help"),
    "Output": ("split", "hash_", "hash_memory", "force", "no_sync", "as_json"),
}


class CompatTarget(StrEnum):
    """Whose bytes to write."""

    qemu = "qemu"


class HashAlgorithm(StrEnum):
    """How an output is hashed."""

    sha256 = "sha256"
    sha512 = "sha512"


class Command(program.ReadingCommand):
    """``dump``: it has the options of all installed plugins."""

    panels = tuple(PANELS)

    def panel_of(self, param: Any) -> str:
        """The panel of an option: a plugin's is that of its role."""
        return param.rich_help_panel or next(panel for panel, names in PANELS.items() if param.name in names)

    def _look_up(self) -> list[Any]:
        from pydump.cli import plugin_options
        from pydump.registry import installed

        registry = installed()
        params: list[Any] = self.params
        for param in params:
            if param.name == "format_":
                param.help = plugin_options.formats(registry)
            elif param.name == "compression":
                param.help = plugin_options.compressions(registry)
        return plugin_options.parameters(registry)


def dump(
    context: typer.Context,
    source: SourceArg,
    output: Annotated[str, Argument(metavar="OUTPUT", help="A path, '-' for standard output, or fd:N.")],
    arch: Arch = None,
    format_: Annotated[str, Option("--format", metavar="NAME", autocompletion=completes("format"))] = "kdump",
    compression: Annotated[
        str | None, Option("--compression", metavar="NAME", autocompletion=completes("compressor"))
    ] = None,
    flatten: Annotated[bool, Option("--flatten", help="Write a flattened stream, as for a pipe.")] = False,
    split: Annotated[
        int | None,
        Option(
            "--split",
            metavar="N",
            help="Split the dump over N files: OUTPUT has %d for their number, or lists them with commas.",
        ),
    ] = None,
    hash_: Annotated[
        HashAlgorithm | None,
        Option("--hash", help="Hash the output, and write OUTPUT.sha256 for sha256sum -c."),
    ] = None,
    hash_memory: Annotated[
        bool, Option("--hash-memory", help="Hash guest memory. The hash does not depend on the format.")
    ] = False,
    begin: Annotated[str | None, Option("--begin", metavar="PADDR", help="Start at this address.")] = None,
    length: Annotated[str | None, Option("--length", metavar="SIZE", help="Write this many bytes.")] = None,
    workers: Workers = None,
    executor: Executor = None,
    nice: Annotated[
        bool, Option("--nice", help="After the capture, use CPUs and disks only while they are idle.")
    ] = False,
    max_rate: Annotated[
        str | None,
        Option(
            "--max-rate",
            metavar="BYTES/S",
            help="Read guest memory no faster, such as 200M, and so write no faster. It does not apply while the guest "
            "is paused, or to what QEMU sends of a snapshot: the guest would wait.",
        ),
    ] = None,
    vmcoreinfo: Annotated[
        Path | None,
        Option(
            "--vmcoreinfo",
            metavar="FILE",
            help="VMCOREINFO text to write instead of the source's; 'memory' for the one in guest memory.",
        ),
    ] = None,
    no_vmcoreinfo: Annotated[
        bool, Option("--no-vmcoreinfo", help="Write no VMCOREINFO, not even one in memory.")
    ] = False,
    cpus: Annotated[
        Path | None,
        Option("--cpus", metavar="FILE", help="JSON with the registers of each CPU, instead of the source's."),
    ] = None,
    paging: Annotated[bool, Option("--paging", help="ELF only: give segments the kernel's virtual addresses.")] = False,
    dump_level: Annotated[
        int | None,
        Option(
            "--dump-level",
            "-d",
            metavar="N",
            help="Leave out pages, as makedumpfile numbers them: 1 zero, 2 cache, 4 private cache, 8 user, 16 free.",
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        Option("--exclude", metavar="CLASSES", help="Leave out these pages: zero,cache,cache-private,user,free."),
    ] = None,
    filter_anyway: Annotated[
        bool, Option("--filter-anyway", help="Leave pages out even if the checks on them fail.")
    ] = False,
    ram_only: Annotated[bool, Option("--ram-only", help="Leave out firmware and device memory.")] = False,
    compat: Annotated[CompatTarget | None, Option("--compat", help="Write QEMU's bytes, defects included.")] = None,
    detach: Annotated[
        bool, Option("--detach", help="Return once the guest is captured; follow progress with pydump status.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show what would be done; write nothing.")] = False,
    force: Annotated[bool, Option("--force", help="Replace an existing output.")] = False,
    no_sync: Annotated[bool, Option("--no-sync", help="Do not wait until the data is on the disk.")] = False,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
) -> None:
    """Write a vmcore from guest memory: capture, convert or repair.

    Exit codes: 0 complete, 1 failed, 2 cannot be done as asked, 3 written, but the source lacks pages,
    130 interrupted.
    """
    import pydump
    from pydump.builtin.descriptors import is_stdout, names_descriptor
    from pydump.cli.plugin_options import given as plugin_options_of
    from pydump.cli.progress import shown
    from pydump.engine.cpus import read_cpus
    from pydump.options import parse_number
    from pydump.process import be_nice

    session.stdout_is_data = is_stdout(output)
    _refuse_transient(output, split)
    session.lost = "; the output is not complete" if names_descriptor(output) else "; nothing was left at the output"

    def work(tell: ProgressCallback | None, captured: Callable[[], None] | None = None) -> DumpReport:
        def reached(milestone: Milestone) -> None:
            session.written = milestone == "written"
            if nice and milestone == "captured":
                be_nice()
            if captured is not None and milestone == "captured":
                captured()

        return pydump.dump(
            source,
            output,
            format=format_,
            compression=compression,
            arch=arch or session.arch,
            begin=None if begin is None else parse_number(begin),
            length=None if length is None else parse_number(length),
            vmcoreinfo=_given(vmcoreinfo),
            no_vmcoreinfo=no_vmcoreinfo,
            cpus=None if cpus is None else read_cpus(cpus),
            paging=paging,
            compat=None if compat is None else "qemu",
            dump_level=dump_level,
            exclude=() if exclude is None else [name.strip() for name in exclude.split(",")],
            filter_anyway=filter_anyway,
            ram_only=ram_only,
            flatten=flatten,
            split=split,
            hash=None if hash_ is None else hash_.value,
            hash_memory=hash_memory,
            force=force,
            sync=not no_sync,
            workers=workers,
            executor=executor,
            max_rate=None if max_rate is None else parse_number(max_rate),
            dry_run=dry_run,
            options=plugin_options_of(context),
            progress=tell,
            reached=reached,
        )

    if detach:
        _detach(source, output, work, dry_run=dry_run, as_json=as_json or session.json)
        return
    with shown(ProgressStyle.none if session.quiet or dry_run else progress) as tell:
        report = work(tell)
    _show(report, output, as_json=as_json or session.json)


def _given(vmcoreinfo: Path | None) -> Vmcoreinfo | Literal["memory"] | None:
    """The VMCOREINFO that the user names: a file's, or that of guest memory."""
    from pydump.engine.vmcoreinfo import read_vmcoreinfo

    if vmcoreinfo is None or str(vmcoreinfo) == "memory":
        return None if vmcoreinfo is None else "memory"
    return read_vmcoreinfo(vmcoreinfo)


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
        if session.quiet:
            for warning in report.warnings:
                tell(f"pydump: warning: {warning}")
        if report.unreadable_size:
            tell(f"pydump: incomplete: {report.unreadable_size} bytes of guest memory are unreadable")
        raise typer.Exit(EXIT_INCOMPLETE)


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
