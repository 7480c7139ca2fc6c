"""The commands."""

from __future__ import annotations

import codecs
import contextlib
import errno
import inspect
import io
import json
import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperOption

from pydump.errors import Cancelled, PlanError, PydumpError

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.format import Format
    from pydump.interfaces.sink import Sink
    from pydump.interfaces.source import Source
    from pydump.model.report import DumpReport, Milestone, ProgressCallback
    from pydump.model.vmcoreinfo import Vmcoreinfo
    from pydump.options import OptionField

#: Options of ``pydump`` and of each command: they may stand before its name and after it.
LOUDNESS = {
    ("--verbose", "-v"): "Say what is chosen, and why.",
    ("--quiet", "-q"): "Say nothing but errors.",
}
#: Bytes of address space that NumPy and its libraries take at least.
LIBRARIES = 80 << 20
#: Set by the shell when it asks what a word may become; what was typed is in COMP_WORDS.
COMPLETION = "_PYDUMP_COMPLETE"
#: Exit codes that no error carries.
EXIT_INCOMPLETE = 3
EXIT_DIFFERS = 4
EXIT_INTERRUPTED = 130
#: What an error of the operating system comes from that no file of ours is in.
_OS_HINTS = {errno.EMFILE: "; raise the limit with ulimit -n", errno.EBADF: ": standard output is closed"}


class ProgressStyle(StrEnum):
    """How progress is shown on standard error."""

    auto = "auto"
    bar = "bar"
    plain = "plain"
    json = "json"
    none = "none"


class CompatTarget(StrEnum):
    """Whose bytes to write."""

    qemu = "qemu"


def _completes(role: str) -> Callable[[str], list[str]]:
    """Completes the names that plugins have for ``role``."""

    def complete(incomplete: str) -> list[str]:
        from pydump.registry import installed

        registry = installed()
        # Aliases of architectures are for files that say them.
        offered = registry.names(role) if role == "arch" else registry.words(role)
        return [word for word in offered if word.startswith(incomplete)]

    return complete


def _roles(incomplete: str) -> list[str]:
    """Completes what ``new-plugin`` can make."""
    from pydump.cli.skeleton import ROLES

    return [role for role in ROLES if role.startswith(incomplete)]


def _job_numbers(incomplete: str) -> list[tuple[str, str]]:
    """Completes the numbers of jobs, each with its output."""
    from pydump.cli.jobs import jobs

    return [(str(job.number), job.output) for job in jobs() if str(job.number).startswith(incomplete)]


Arch = Annotated[
    str | None,
    Option(
        "--arch",
        metavar="NAME",
        help="The guest's architecture, in place of what the source says.",
        autocompletion=_completes("arch"),
    ),
]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
Style = Annotated[ProgressStyle, Option("--progress", help="How to show progress on standard error.")]
SourceArg = Annotated[
    str,
    Argument(
        metavar="SOURCE",
        help="A vmcore, parts of one separated by commas, '-', raw:PATH@PADDR[,PATH@PADDR…] for bare memory, or "
        "qmp:SOCKET or qmp:HOST:PORT for a guest that runs under QEMU.",
    ),
]
Vmlinux = Annotated[
    Path | None,
    Option("--vmlinux", metavar="FILE", help="The kernel's own file with its symbols, of the very build that ran."),
]
FileArg = Annotated[str, Argument(metavar="FILE", help="A vmcore, parts of one separated by commas, or '-'.")]

#: Their help says what is installed, where it is printed: see :func:`_say_what_is_installed`.
FORMAT = Option("--format", metavar="NAME", autocompletion=_completes("format"))
COMPRESSION = Option("--compression", metavar="NAME", autocompletion=_completes("compressor"))

app = typer.Typer(
    name="pydump",
    help="Guest memory in, a vmcore that every tool opens out.",
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Say:
    """What the user wants to hear."""

    arch: str | None = None
    json = False
    verbose = False
    quiet = False
    written = False


_say = _Say()


def _talk(line: str) -> None:
    if not _say.quiet:
        _tell(f"pydump: {line}")


def _tell(line: str) -> None:
    """Say something on standard error; that nobody hears it changes nothing."""
    from pydump.cli import console

    with contextlib.suppress(OSError):
        console.line(line, sys.stderr)
        sys.stderr.flush()


@contextlib.contextmanager
def _afterwards() -> Iterator[None]:
    """Tell of what is done already: if that fails, it is none the less done."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _silence_stdout()
        if error.errno not in (errno.EPIPE, errno.EBADF):  # else nobody wants to hear it
            _talk(f"warning: cannot print the report: {error.strerror}")


def _silence_stdout() -> None:
    """Send what is still to be printed, and what waits to be, nowhere."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def _adjust(context: Any, parameter: Any, value: bool) -> None:
    """Note that ``-v`` or ``-q`` was given."""
    if value:
        setattr(_say, parameter.name, True)


class _Command(TyperCommand):
    """A command that also takes ``-v`` and ``-q`` after its name: who repeats a command adds them at the end."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for flags, text in LOUDNESS.items():
            self.params.append(
                TyperOption(param_decls=list(flags), is_flag=True, expose_value=False, callback=_adjust, help=text)
            )

    def invoke(self, ctx: Any) -> Any:
        """Load what the command needs, then run it."""
        if _say.verbose:
            _hear_reasons()
        if self.name != "plugins":
            _warn_of_broken_plugins()
        if self.name in ("dump", "info", "verify", "compare", "read", "map"):
            _load()
        # From here on there may be something to undo.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _terminated)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupted)
        return super().invoke(ctx)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    arch: Arch = None,
    version: Annotated[bool, Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Say what is chosen, and why.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Json = False,
) -> None:
    """Guest memory in, a vmcore that every tool opens out.

    With --arch NAME and no command: the dump facts of that architecture.
    """
    _say.arch, _say.json, _say.verbose, _say.quiet = arch, as_json, verbose, quiet
    if version:
        from pydump import __version__

        print(f"pydump {__version__}")
    elif context.invoked_subcommand is None:
        if arch is None:
            print(context.get_help())
            raise typer.Exit(2)
        from pydump.cli import render
        from pydump.registry import installed

        render.arch(installed().arch(arch), installed(), as_json=as_json)


def dump(
    source: SourceArg,
    output: Annotated[str, Argument(metavar="OUTPUT", help="A path, '-' for standard output, or fd:N.")],
    arch: Arch = None,
    format_: Annotated[str, FORMAT] = "kdump",
    compression: Annotated[str | None, COMPRESSION] = None,
    flatten: Annotated[bool, Option("--flatten", help="Write a flattened stream, as for a pipe.")] = False,
    begin: Annotated[str | None, Option("--begin", metavar="PADDR", help="Only guest memory from here on.")] = None,
    length: Annotated[str | None, Option("--length", metavar="SIZE", help="Only so many bytes of it.")] = None,
    workers: Annotated[
        int | None, Option("--workers", metavar="N", help="Processes that encode. Default: the CPUs.")
    ] = None,
    vmcoreinfo: Annotated[
        Path | None,
        Option(
            "--vmcoreinfo",
            metavar="FILE",
            help="VMCOREINFO text to write in place of the source's; 'memory' for the one in guest memory.",
        ),
    ] = None,
    no_vmcoreinfo: Annotated[bool, Option("--no-vmcoreinfo", help="Write none, and look for none in memory.")] = False,
    cpus: Annotated[
        Path | None,
        Option("--cpus", metavar="FILE", help="JSON with the registers of each CPU, in place of the source's."),
    ] = None,
    paging: Annotated[bool, Option("--paging", help="ELF only: segments with the kernel's virtual addresses.")] = False,
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
        bool, Option("--filter-anyway", help="Leave pages out even where the checks on them fail.")
    ] = False,
    ram_only: Annotated[bool, Option("--ram-only", help="Leave out firmware and device memory.")] = False,
    compat: Annotated[CompatTarget | None, Option("--compat", help="Write QEMU's bytes, mistakes included.")] = None,
    detach: Annotated[
        bool, Option("--detach", help="Return when the guest is captured; pydump status tells of the rest.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    force: Annotated[bool, Option("--force", help="Replace an existing output.")] = False,
    no_sync: Annotated[bool, Option("--no-sync", help="Do not wait until the data is on the disk.")] = False,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
    **plugin_options: Any,
) -> None:
    """Write a vmcore from guest memory: capture, convert or repair.

    Exit codes: 0 complete, 1 failed, 2 cannot be done as asked, 3 written although the source had lost pages,
    130 interrupted.
    """
    import pydump
    from pydump.builtin.raw import parse_number
    from pydump.builtin.sinks import is_stdout
    from pydump.cli import render
    from pydump.cli.progress import shown
    from pydump.engine.cpus import read_cpus
    from pydump.engine.vmcoreinfo import read_vmcoreinfo

    given: Vmcoreinfo | Literal["memory"] | None = None
    if vmcoreinfo is not None:
        given = "memory" if str(vmcoreinfo) == "memory" else read_vmcoreinfo(vmcoreinfo)

    def work(tell: ProgressCallback | None, captured: Callable[[], None] | None = None) -> DumpReport:
        def reached(milestone: Milestone) -> None:
            _say.written = milestone == "written"
            if captured is not None and milestone == "captured":
                captured()

        return pydump.dump(
            source,
            output,
            format=format_,
            compression=compression,
            arch=arch or _say.arch,
            begin=None if begin is None else parse_number(begin),
            length=None if length is None else parse_number(length),
            vmcoreinfo=given,
            no_vmcoreinfo=no_vmcoreinfo,
            cpus=None if cpus is None else read_cpus(cpus),
            paging=paging,
            compat=None if compat is None else "qemu",
            dump_level=dump_level,
            exclude=() if exclude is None else [name.strip() for name in exclude.split(",")],
            filter_anyway=filter_anyway,
            ram_only=ram_only,
            flatten=flatten,
            force=force,
            sync=not no_sync,
            workers=workers,
            dry_run=dry_run,
            options=_by_plugin(plugin_options),
            progress=tell,
            reached=reached,
        )

    if detach:
        _detach(source, output, work, dry_run=dry_run, as_json=as_json or _say.json)
        return
    with shown(ProgressStyle.none if _say.quiet or dry_run else progress) as tell:
        report = work(tell)
    _warn(report.warnings)
    stream = sys.stderr if is_stdout(output) else sys.stdout
    with contextlib.nullcontext() if dry_run else _afterwards():
        if as_json or _say.json:
            render.print_json(asdict(report), stream)
        elif not _say.quiet:
            render.report(report, stream)
    if not report.complete:
        if report.unreadable_size:
            _talk(f"incomplete: {report.unreadable_size} bytes of guest memory are unreadable; the output says which")
        raise typer.Exit(EXIT_INCOMPLETE)


def _detach(source: str, output: str, work: Callable[..., DumpReport], *, dry_run: bool, as_json: bool) -> None:
    """Leave a job behind, and say which."""
    from pydump.builtin.sinks import names_descriptor
    from pydump.cli.detach import detached

    if dry_run or names_descriptor(output):
        raise PlanError("--detach needs an output with a name", hint="leave --dry-run out, and name a file")
    started = detached(source, output, work)
    if started.error is not None:
        raise typer.Exit(_fail(started.error, started.exit_code))
    with _afterwards():
        if as_json:
            print(json.dumps({"job": started.job}))
        elif not _say.quiet:
            print(f"job {started.job} goes on in the background; pydump status {started.job} tells how far it is")


@app.command(cls=_Command)
def status(
    job: Annotated[
        str | None,
        Argument(metavar="JOB", help="A job's number, or its output. Default: all jobs.", autocompletion=_job_numbers),
    ] = None,
    as_json: Json = False,
) -> None:
    """How far dumps are that were started with --detach, and how they ended."""
    from pydump.cli import render
    from pydump.cli.jobs import job_of, jobs

    found = jobs() if job is None else [job_of(job)]
    if as_json or _say.json:
        render.print_json([asdict(one) for one in found] if job is None else asdict(found[0]))
    else:
        render.jobs(found)


@app.command(cls=_Command)
def info(
    file: SourceArg,
    arch: Arch = None,
    notes: Annotated[bool, Option("--notes", help="Print the notes and the registers they hold.")] = False,
    vmcoreinfo: Annotated[bool, Option("--vmcoreinfo", help="Print the VMCOREINFO text.")] = False,
    vmlinux: Vmlinux = None,
    paddr: Annotated[
        str | None, Option("--paddr", metavar="ADDR", help="What the dump has of this guest-physical address.")
    ] = None,
    vaddr: Annotated[
        str | None, Option("--vaddr", metavar="ADDR", help="What it has of this virtual address of the kernel.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What a vmcore is, how large, and whose."""
    import pydump
    from pydump.builtin.raw import parse_number
    from pydump.builtin.sinks import write_all
    from pydump.cli import console, render

    if paddr is not None and vaddr is not None:
        raise PlanError("--paddr and --vaddr exclude each other", hint="leave one of the two out")
    asked = vaddr if paddr is None else paddr
    with pydump.open(file, arch=arch or _say.arch) as opened:
        if asked is not None:
            found = opened.look_up(parse_number(asked), virtual=paddr is None)
            render.address(found, as_json=as_json or _say.json)
        elif vmcoreinfo:
            if opened.vmcoreinfo is None:
                raise PydumpError(f"{file} has no VMCOREINFO")
            text = opened.vmcoreinfo.text.rstrip(b"\0")
            if as_json or _say.json:
                render.print_json({"vmcoreinfo": text.decode("utf-8", "replace")})
            elif sys.stdout.isatty():
                for each in text.decode("utf-8", "replace").removesuffix("\n").split("\n"):
                    console.line(each)
            else:
                write_all(1, text)
        else:
            symbols = None if vmlinux is None else opened.symbols(vmlinux)
            _warn(opened.warnings)
            render.info(opened, file, symbols, notes=notes, as_json=as_json or _say.json)


@app.command(cls=_Command)
def verify(file: FileArg, as_json: Json = False, progress: Style = ProgressStyle.auto) -> None:
    """Check every structure, every descriptor, every page. Exit code 4 where something is wrong."""
    import pydump
    from pydump.cli import render
    from pydump.cli.progress import shown

    with shown(ProgressStyle.none if _say.quiet else progress) as tell:
        report = pydump.verify(file, progress=tell)
    if as_json or _say.json:
        render.print_json(asdict(report))
    else:
        render.verify(report, quiet=_say.quiet)
    if not report.ok:
        raise typer.Exit(EXIT_DIFFERS)


@app.command(cls=_Command)
def compare(
    left: Annotated[str, Argument(metavar="A", help="A vmcore.")],
    right: Annotated[str, Argument(metavar="B", help="Another.")],
    arch: Arch = None,
    ignore_excluded: Annotated[
        bool,
        Option("--ignore-excluded", help="Do not count what one of them left out, as a filtered dump does."),
    ] = False,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
) -> None:
    """Are these the same guest memory and notes? Exit code 4 where they are not, and where they part."""
    import pydump
    from pydump.cli import render
    from pydump.cli.progress import shown

    with shown(ProgressStyle.none if _say.quiet else progress) as tell:
        report = pydump.compare(left, right, arch=arch or _say.arch, ignore_excluded=ignore_excluded, progress=tell)
    _warn(report.warnings)
    if as_json or _say.json:
        render.print_json(asdict(report))
    else:
        render.compare(report, quiet=_say.quiet)
    if not report.same:
        raise typer.Exit(EXIT_DIFFERS)


@app.command(cls=_Command)
def read(
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
    as_hex: Annotated[bool, Option("--hex", help="A hex dump, also where standard output is no terminal.")] = False,
) -> None:
    """Guest memory to standard output; on a terminal as a hex dump."""
    import pydump
    from pydump.builtin.raw import parse_number
    from pydump.builtin.sinks import write_all
    from pydump.cli import render

    if symbol and vaddr:
        raise PlanError("--symbol and --vaddr exclude each other", hint="leave one of the two out")
    if vmlinux is not None and not symbol:
        raise PlanError("--vmlinux says where symbols are, and none is asked for", hint="read FILE NAME SIZE --symbol")
    length = parse_number(size)
    start = 0 if symbol else parse_number(address)
    with pydump.open(file, arch=arch or _say.arch) as opened:
        _warn(opened.source.warnings())
        if symbol:
            start = opened.symbols(vmlinux).address(address)
        for at, data in opened.pieces(start, length, virtual=vaddr or symbol):
            if as_hex or sys.stdout.isatty():
                render.hexdump(data, at)
            else:
                write_all(1, data)


@app.command(cls=_Command)
def dmesg(file: SourceArg, arch: Arch = None, as_json: Json = False) -> None:
    """Print the kernel's log."""
    import pydump
    from pydump.cli import kernel_log

    with pydump.open(file, arch=arch or _say.arch) as opened:
        if as_json or _say.json:
            kernel_log.print_json(opened.log())
        else:
            kernel_log.print_lines(opened.log())


@app.command(cls=_Command)
def size(file: SourceArg, arch: Arch = None, as_json: Json = False) -> None:
    """Show what each dump level would leave of a guest, before anything is written."""
    import pydump
    from pydump.cli import render, sizes

    report = pydump.sizes(file, arch=arch or _say.arch)
    for warning in report.warnings:
        _talk(f"warning: {warning}")
    if as_json or _say.json:
        render.print_json(asdict(report))
    else:
        sizes.show(report)


@app.command(name="map", cls=_Command)
def map_(
    file: SourceArg,
    output: Annotated[
        str | None, Option("--output", "-o", metavar="PATH", help="Draw a picture: a name in .png, .svg or .html.")
    ] = None,
    arch: Arch = None,
    force: Annotated[bool, Option("--force", help="Replace an existing picture.")] = False,
    as_json: Json = False,
    progress: Style = ProgressStyle.auto,
) -> None:
    """What guest memory is made of: zeros, data and how well it compresses, what was left out or lost."""
    import pydump
    from pydump.cli import maps, render
    from pydump.cli.progress import shown

    if output is not None:
        maps.check(output, force=force)
    across = maps.across(None if as_json or _say.json else render.columns())
    cells = maps.max_cells("terminal", across) if output is None else maps.max_cells("picture")
    with shown(ProgressStyle.none if _say.quiet else progress) as tell:
        report = pydump.survey(file, arch=arch or _say.arch, max_cells=cells, progress=tell)
    _warn(report.warnings)
    if output is not None:
        maps.save(report, output, force=force)
    if as_json or _say.json:
        render.print_json(asdict(report))
    elif output is not None:
        if not _say.quiet:
            render.table([("wrote", output), *maps.totals(report)])
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        for line in maps.terminal(report, colour=colour, unicode=unicode, columns=across):
            print(line)
        print()
        render.table(maps.totals(report))


@app.command(cls=_Command)
def plugins(as_json: Json = False) -> None:
    """What is installed, what does not work, and why."""
    from pydump.cli import render
    from pydump.registry import installed

    render.plugins(installed(), as_json=as_json or _say.json)


@app.command("new-plugin", cls=_Command)
def new_plugin(
    role: Annotated[
        str, Argument(metavar="ROLE", help="arch, format, compressor, source or sink.", autocompletion=_roles)
    ],
    name: Annotated[
        str,
        Argument(
            metavar="NAME", help="What --arch, --format or --compression will call it, or stands before NAME:PATH."
        ),
    ],
) -> None:
    """Write a working plugin to start from into a new folder here."""
    from pydump.cli import console, skeleton

    folder = skeleton.new_plugin(role, name, Path())
    if not _say.quiet:
        console.line(f"{folder}: pip install -e './{folder}[test]', then pytest {folder}")


def run(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    typed = os.environ.get("COMP_WORDS", "").split()[1:] if COMPLETION in os.environ else arguments
    name = _command_name(typed)
    _say.written = False
    try:
        _escape_unprintable()
        _add_dump(name)
        code = _command(name).main(arguments, prog_name="pydump", standalone_mode=False)
        sys.stdout.flush()
        if code == EXIT_INTERRUPTED:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except PydumpError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; nothing was left at the output", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        page = context.command_path if context else "pydump"
        return _fail(f"{error.format_message().rstrip('.')}; see {page} --help", error.exit_code)
    except MemoryError:
        return _fail("out of memory", 1)
    except OSError as error:  # what the standard streams and the process's limits come to; files have their own errors
        hint = _OS_HINTS.get(error.errno or 0, "")
        return _fail(f"{error.strerror}{f': {error.filename}' if error.filename else ''}{hint}", 1)
    except ImportError as error:  # NumPy wraps what the loader says in a page of advice
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        return _fail(f"cannot load a library: {root}", 1)
    except Exception as error:  # a bug: still one line, unless someone is looking for it
        if os.environ.get("PYDUMP_DEBUG"):
            raise
        return _fail(f"internal error: {type(error).__name__}: {error}; set PYDUMP_DEBUG=1 for the traceback", 1)


def _command_name(arguments: list[str]) -> str | None:
    """The first word that is not an option of ``pydump`` itself, nor the value of one."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            return next(words, None)
        if word == "--arch":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _command(name: str | None) -> Any:
    """What typer makes of the commands, or of the one that is run alone: those with many options take their time."""
    commands = app.registered_commands
    chosen = [c for c in commands if c.callback is not None and c.callback.__name__ == name]
    app.registered_commands = chosen or commands
    try:
        return typer.main.get_command(app)
    finally:
        app.registered_commands = commands


def _escape_unprintable() -> None:
    r"""Print what is no text in a name as ``\xff``, and characters that the terminal has not by their numbers."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return "".join(map(escape, error.object[error.start : error.end])), error.end

    def escape(character: str) -> str:
        if "\udc80" <= character <= "\udcff":  # what os.fsdecode makes of a byte
            return rf"\x{ord(character) - 0xDC00:02x}"
        return character.encode("ascii", "backslashreplace").decode()

    codecs.register_error("pydump", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pydump")


def _fail(message: str, code: int) -> int:
    _tell("pydump: error: " + " ".join(message.split()))
    return code


def _hear_reasons() -> None:
    """Say what plugins tell their logger: what they chose, and why."""
    import logging

    class Reasons(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _tell(f"pydump: {record.getMessage()}")

    logger = logging.getLogger("pydump")
    logger.addHandler(Reasons())
    logger.setLevel(logging.INFO)


def _interrupted(number: int, frame: Any) -> None:
    if not _say.written:
        raise KeyboardInterrupt


def _terminated(number: int, frame: Any) -> None:
    if _say.written:  # it is done: to say otherwise would be wrong
        return
    raise Cancelled(f"ended by {signal.Signals(number).name}; nothing was left at the output")


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        _talk(f"warning: {warning}")


def _warn_of_broken_plugins() -> None:
    if _say.quiet:
        return
    from pydump.registry import installed

    for plugin in installed().broken:
        _tell(f"pydump: warning: plugin {plugin.name} does not work: {plugin.error}")


def _load() -> None:
    """Load what takes long, while Ctrl-C can still end the process at once.

    Raises:
        MemoryError: There is too little for it: NumPy's linear algebra would print a line of its own, and exit.
    """
    try:
        mmap.mmap(-1, LIBRARIES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError from None
    import numpy  # noqa: F401  (loaded at its first use)

    import pydump.api  # noqa: F401


def _add_dump(name: str | None) -> None:
    """Register ``dump`` as the first command, with what is installed when it is the one that is run."""
    signature = inspect.signature(dump, eval_str=True)
    # Those of plugins, whose names have "__" in them, are there from the last run in this process.
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD and "__" not in p.name]
    if name == "dump":
        _say_what_is_installed()
        parameters += _plugin_parameters()
    dump.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    dump.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command(cls=_Command)(dump)
    app.registered_commands.insert(0, app.registered_commands.pop())


def _say_what_is_installed() -> None:
    """Complete the help of ``--format`` and ``--compression``."""
    from pydump.registry import installed

    registry = installed()
    formats = registry.formats()
    names = ", ".join(registry.names("format")) or "none is installed: pip install pydump-format-kdump"
    alias = next((alias for cls in formats for alias in cls.aliases), None)
    FORMAT.help = f"{names}, or QEMU's names, as {alias}." if alias else f"{names}."
    usable = dict.fromkeys(name for cls in formats for name in cls.compressors if name in registry.names("compressor"))
    COMPRESSION.help = f"{', '.join(usable)} or none. Default: {next(iter(usable))}." if usable else "none."


def _plugin_parameters() -> list[inspect.Parameter]:
    """``--<name>-<field>``, or the flag it declares, for each option of each compressor, format, source and sink."""
    from pydump.options import option_fields
    from pydump.registry import installed

    parameters = []
    registry = installed()
    classes: list[type[Source | Sink | Format | Compressor]] = [
        *registry.sources(),
        *registry.sinks(),
        *registry.formats(),
        *registry.compressors(),
    ]
    for cls in classes:
        for declared in option_fields(cls.Options):
            parameters.append(_parameter(cls.name, declared))
    return parameters


def _parameter(owner: str, declared: OptionField) -> inspect.Parameter:
    flag = declared.flag_of(owner)
    text = f"{owner}: {declared.help}"
    if declared.low is not None:
        text += f", {declared.low} to {declared.high}"
    default = f" Default: {declared.default}." if declared.default not in ("", None, False) else ""
    # The choices are shown, checked and completed as those of the command line's own options are.
    kind: Any = StrEnum(declared.name, {choice: choice for choice in declared.choices}) if declared.choices else None
    return inspect.Parameter(
        f"{owner}__{declared.name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[(kind or declared.type) | None, Option(flag, help=f"{text}.{default}")],
    )


def _by_plugin(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if value is not None:
            owner, _, name = key.partition("__")
            options.setdefault(owner, {})[name] = value.value if isinstance(value, StrEnum) else value
    return options
