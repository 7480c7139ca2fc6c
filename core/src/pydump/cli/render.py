"""What the commands print for people, and as JSON."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any, TextIO

from pydump.cli.console import line, talk, visible
from pydump.interfaces.format import Format
from pydump.interfaces.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydump.cli.jobs import Job
    from pydump.interfaces.compressor import Compressor
    from pydump.model.findings import CompareReport, Difference, VerifyReport
    from pydump.model.report import DumpReport
    from pydump.registry import Registry

_LABEL = 14


def size(n: int) -> str:
    """A number of bytes for people: ``256.2 MiB``."""
    value = float(n)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{n} byte{'' if n == 1 else 's'}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def columns(stream: TextIO | None = None) -> int | None:
    """How wide the terminal is that ``stream`` (standard output) is; None where it is none."""
    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else None


#: The version of what ``--json`` prints. It changes where a key goes or gets another meaning, not where one is added.
SCHEMA = 1


def print_json(value: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print a JSON object: ASCII, with a byte of a name that is not UTF-8 escaped, since JSON is Unicode text."""
    text = json.dumps({"schema": SCHEMA, **value}, indent=2, ensure_ascii=False)
    print(re.sub(r"[^\x00-\x7e]", _in_json, text), file=stream)


def _in_json(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # what os.fsdecode makes of a byte
        return rf"\\x{ord(character) - 0xDC00:02x}"
    return json.dumps(character)[1:-1] if character != "\x7f" else r"\u007f"


def table(lines: list[tuple[str, str]], stream: TextIO | None = None) -> None:
    """Labels and values in two columns; on a terminal values that do not fit it go on in the next line."""
    width = columns(stream)
    for label, value in lines:
        pieces = [value] if width is None else wrapped(visible(value), width - _LABEL)
        for i, piece in enumerate(pieces):
            line(f"{label if i == 0 else '':<{_LABEL}}{piece}", stream)


def wrapped(text: str, width: int) -> list[str]:
    """``text`` as lines of at most ``width`` columns, at least one."""
    return textwrap.wrap(text, max(width, 10), break_on_hyphens=False) or [""]


def grid(headers: tuple[str, ...], lines: Sequence[tuple[str, ...]], *, named: bool = False) -> None:
    """A table: on a terminal one that fits it; elsewhere plain columns, for other programs.

    Args:
        headers: The names of the columns.
        lines: The rows.
        named: Print the names of plain columns, too.
    """
    rows = [tuple(map(visible, row)) for row in lines]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=box.SIMPLE_HEAD)
        for header in headers:
            drawn.add_column(header, overflow="fold")  # a name that is cut off is of no use
        for row in rows:
            drawn.add_row(*map(Text, row))
        Console().print(drawn)
        return
    rows = [headers, *rows] if named else rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def report(r: DumpReport, stream: TextIO) -> None:
    """A finished dump, in a few lines."""
    codec = (
        ", not compressed"
        if r.compression == "none"
        else f", {r.compression}"
        if r.producer == "none" or (r.taken_size and r.taken_size + r.zero_size == r.stored_size)
        else f", {r.compression} by {r.producer}"
    )
    kind = f"{r.format}{' (flattened)' if r.flattened else ''}{codec}"
    rate = f" in {r.seconds:.2f} s with {r.workers} worker{'s' if r.workers > 1 else ''}"
    rows = [
        (
            "would write" if r.dry_run else "wrote",
            ", ".join(r.parts) or (r.output if r.output != "-" else "standard output"),
        ),
        ("format", kind),
        *([("", r.advice)] if r.advice and codec.endswith(r.producer) else []),
        (
            "guest",
            f"{_machine(r)}, {r.byte_order}-endian, {r.page_size}-byte pages, {_cpus(r.n_cpus)}"
            if r.byte_order
            else "not named: memory alone",
        ),
        ("memory", f"{size(r.ram_size)}, {size(r.zero_size)} of it zero pages" if r.zero_size else size(r.ram_size)),
        ("size", f"at most {size(r.output_size)}" if r.dry_run else f"{size(r.output_size)}{rate}"),
    ]
    if r.resumed_size:
        rows.append(("resumed", f"{size(r.resumed_size)} had been stored before"))
    if r.hashes:
        how = "computed while writing" if r.hashed == "while writing" else "computed by reading the output back"
        rows += [((r.hash or "") if i == 0 else "", digest) for i, digest in enumerate(r.hashes)] + [("", how)]
    if r.memory_hash:
        rows.append(("memory hash", f"{r.hash} {r.memory_hash}"))
    if r.taken_size:
        rows.append(("copied", f"{size(r.taken_size)} as compressed in the source, unchecked"))
        rows.append(("", "a damaged page among them is still damaged and not counted; pydump verify finds it"))
    rows += [("fixed" if i == 0 else "", defect) for i, defect in enumerate(r.fixed)]
    rows += _excluded(r)
    if r.paused_seconds is not None:
        rows.append(("guest paused", _paused(r.paused_seconds, r.consistent)))
    rows += [("note" if i == 0 else "", remark) for i, remark in enumerate(r.remarks)]
    if not r.has_vmcoreinfo and not r.windows:
        rows.append(("vmcoreinfo", "none: drgn and others will not know this kernel"))
    table(rows, stream)


def _paused(seconds: float, consistent: bool) -> str:
    """How long pydump had the guest paused; one that was paused before is not said to have been paused for 0 ms."""
    if seconds:
        how = f"for {1000 * seconds:.1f} ms"
    else:
        how = "already, before the capture" if consistent else "not by pydump"
    return how + ("" if consistent else "; the memory is not consistent")


def _excluded(r: DumpReport) -> list[tuple[str, str]]:
    """What was left out and why, and what was checked first."""
    here = sum(n for _, n in r.excluded_classes)
    parts = [f"{size(n)} {name}" for name, n in r.excluded_classes if n]
    if r.excluded_size > here:
        parts.append(f"{size(r.excluded_size - here)} that the source does not hold")
    rows = [("excluded", ", ".join(parts))] if parts else []
    if r.short_size:
        rows.append(
            ("kept", f"{size(r.short_size)} of them: {r.format} stores short runs, kdump leaves out single pages")
        )
    return rows + [("checked" if i == 0 else "", f"{check.name}: {check.detail}") for i, check in enumerate(r.checks)]


def _machine(r: DumpReport) -> str:
    if r.arch is None and r.machine is None:
        return "a machine that its file does not name"
    return r.arch or f"e_machine {r.machine}"


def _cpus(n: int) -> str:
    return f"{n} CPU{'' if n == 1 else 's'}"


def verify(r: VerifyReport, *, quiet: bool) -> None:
    """What a check found."""
    for fault in r.faults:
        line(fault)
    if r.n_faults > len(r.faults):
        line(f"… and {r.n_faults - len(r.faults)} more")
    if r.ok and not quiet:
        line(f"{r.path}: sound; {size(r.checked_size)} of guest memory read back in {r.seconds:.2f} s")
    elif not r.ok:
        intact = "; all of its memory can be read, and a dump of it by pydump fixes them" if r.intact else ""
        line(f"{r.path}: {r.n_faults} fault{'s' if r.n_faults != 1 else ''}{intact}")
    if r.memory_hash:
        line(f"{r.path}: the memory has SHA-256 {r.memory_hash}")


def compare(r: CompareReport, *, quiet: bool, ignored: bool = False) -> None:
    """Where two dumps differ.

    Args:
        r: The report.
        quiet: Whether to print differences only.
        ignored: Whether what one of them leaves out was not counted.
    """
    for difference in r.differences:
        line(_difference(difference, r))
    if r.n_differences > len(r.differences):
        line(f"… and {r.n_differences - len(r.differences)} more")
    if r.same and not quiet:
        line(f"the same guest: {size(r.compared_size)} of memory compared in {r.seconds:.2f} s")
    elif not r.same:
        line(f"{r.left} and {r.right} differ in {r.n_differences} place{'s' if r.n_differences != 1 else ''}")
        if all(difference.kind in ("held", "ram") for difference in r.differences):
            hint = (
                "; --ignore-excluded does not count pages that one of them leaves out: at one dump level ELF leaves "
                "out zero pages and keeps short runs of others, and kdump does neither"
            )
            line(f"what both hold is the same{'' if ignored else hint}")


def _difference(d: Difference, r: CompareReport) -> str:
    """A difference in a line."""
    where = "" if d.paddr is None or d.size is None else f"paddr {d.paddr:#x}..{d.paddr + d.size:#x}"
    only = r.left if d.left else r.right
    match d.kind:
        case "contents":
            return f"paddr {d.paddr:#x}: the pages differ from byte {d.offset or 0:#x} on"
        case "damaged":
            whose = "both" if d.left and d.right else only
            return f"{where}: damaged in {whose}, and not compared"
        case "held":
            return f"{where}: only {only} holds it"
        case "ram":
            return f"{where}: RAM only in {only}, which leaves its contents out"
        case "vmcoreinfo":
            return "vmcoreinfo: " + ("the texts differ" if d.left and d.right else f"only {only} has it")
        case _:
            return f"{d.name}: " + (
                f"{d.left} and {d.right}" if d.offset is None else f"differs from byte {d.offset} on"
            )


def jobs(found: list[Job]) -> None:
    """A line for each job, with what went wrong."""
    if not found:
        talk("no jobs; pydump dump --detach starts one")
        return
    lines = []
    for job in found:
        share = f"{100 * job.completed // job.total}%" if job.total else ""
        state = f"{job.phase} {share}".strip() if job.status == "active" else job.status
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.began))
        error = f": {job.error}" if job.error else ""
        done = f"{size(job.completed)} of {size(job.total)}"
        lines.append((str(job.number), state + error, done, job.output, job.source, began))
    grid(("job", "status", "memory", "output", "source", "began"), lines, named=True)


def hexdump(data: bytes, paddr: int) -> None:
    """Sixteen bytes a line, as ``hexdump -C`` prints them; on a narrow terminal fewer, and addresses without zeros."""
    width = columns()
    digits = 16 if width is None else max(8, len(f"{paddr + len(data):x}"))
    across = next((n for n in (16, 8) if width is None or digits + 4 * n + n // 8 + 4 <= width), 4)
    for at in range(0, len(data), across):
        row = data[at : at + across]
        halves = [row[i : i + 8].hex(" ").ljust(3 * min(8, across) - 1) for i in range(0, across, 8)]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        line(f"{paddr + at:0{digits}x}  {'  '.join(halves)}  |{text}|")


def plugins(registry: Registry, *, as_json: bool) -> None:
    """What is installed, what compresses there, and what is broken."""
    codecs = {cls.name: _codec(cls) for cls in registry.compressors()}
    if as_json:
        listed = [
            {
                "plugin": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "provides": [f"{role} {cls.name}" for role, cls in plugin.classes],
                "formats": {
                    cls.name: {"reads": cls.reads(), "writes": cls.writes(), "carries": sorted(cls.carries)}
                    for role, cls in plugin.classes
                    if role == "format"
                },
                "producers": {cls.name: codecs[cls.name][0] for role, cls in plugin.classes if role == "compressor"},
                "advice": {
                    cls.name: codecs[cls.name][1]
                    for role, cls in plugin.classes
                    if role == "compressor" and codecs[cls.name][1]
                },
                "error": plugin.error,
            }
            for plugin in registry.plugins
        ]
        print_json({"plugins": listed})
        return
    lines = []
    for plugin in registry.plugins:
        provides = [
            f"{role} {cls.name}" + (_by(*codecs[cls.name]) if role == "compressor" else halves(cls))
            for role, cls in plugin.classes
        ]
        says = f"broken: {plugin.error}" if plugin.error else ", ".join(provides)
        lines.append((plugin.name, f"{plugin.distribution} {plugin.version}", says))
    grid(("plugin", "distribution", "provides"), lines)


def halves(cls: type[Any]) -> str:
    """Whether a format or a storage reads, writes or both, in brackets; nothing for the class of another role."""
    if not (isinstance(cls, type) and issubclass(cls, Format | Storage)):
        return ""
    done = [word for word, can in (("read", cls.reads()), ("write", cls.writes())) if can]
    return f" ({' and '.join(done)})"


def _codec(compressor: type[Compressor]) -> tuple[str, str]:
    """The library that compresses, or why there is none; and the advice that goes with it."""
    try:
        codec = compressor()
        return codec.producer, codec.advice
    except Exception as error:  # whatever loading a library leads to: the others are still listed
        hint = getattr(error, "hint", None)
        return f"nothing that works: {error}", hint or ""


def _by(producer: str, advice: str) -> str:
    return f" by {producer}" + (f" ({advice})" if advice else "")
