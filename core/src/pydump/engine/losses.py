"""What an output cannot hold of its source: said by name, and refused where a reader could not notice."""

from __future__ import annotations

from dataclasses import replace

from pydump.engine.exclude import ZERO
from pydump.errors import UnsupportedError
from pydump.interfaces.arch import Arch
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Format
from pydump.interfaces.writer import Writer
from pydump.model.memory import Ranges
from pydump.model.plan import Plan
from pydump.plugins import returned


def losses(format_: type[Format], plan: Plan, writer: Writer, arch: type[Arch]) -> tuple[str, ...]:
    """What is in the plan and will not be in the output, a line each.

    Args:
        format_: The output's format.
        plan: What is written.
        writer: The format's writer for it.
        arch: The guest's architecture.
    """
    guest, lost = plan.guest, []
    carries = format_.carries | writer.carries
    notes = guest.notes if "notes" not in carries else ()
    if "windows" in carries:
        notes = tuple(note for note in notes if not note.is_vmcoreinfo)
    if "registers" in carries:
        notes = tuple(note for note in notes if not any(kind.matches(note) for kind in arch.note_kinds))
    if notes:
        names = ", ".join(dict.fromkeys(note.name for note in notes))
        of_cpus = "" if "registers" in carries else ", with the registers of each CPU"
        lost.append(f"{len(notes)} note{'s' if len(notes) > 1 else ''} ({names}{of_cpus})")
    if guest.vmcoreinfo is not None and "vmcoreinfo" not in carries:
        lost.append("VMCOREINFO")
    if "arch" not in carries and guest.byte_order is not None:
        lost.append(
            "the architecture" + (f" (read it with --arch {guest.arch})" if guest.arch and format_.reads() else "")
        )
    lines = [f"{format_.name} has no place for {_listed(lost)}"] if lost else []
    if "excluded" not in carries:
        for what, ranges in (("excluded", plan.excluded), ("unreadable", plan.unreadable)):
            zero = ranges.intersect(writer.stored).size
            if zero:
                lines.append(f"{zero} bytes that are {what} are zero in the output: {format_.name} cannot say which")
            if ranges.size > zero:
                gone = ranges.size - zero
                lines.append(f"{gone} bytes that are {what} are not RAM in the output: {format_.name} cannot say more")
    return tuple(lines)


def refuse_zeros_for_pages(
    format_: type[Format], plan: Plan, compressor: Compressor | None, exclude: frozenset[str]
) -> None:
    """Refuse to leave pages out of a format that would hold zeros in their place without notice.

    Args:
        format_: The output's format.
        plan: What is written.
        compressor: The compressor of the output.
        exclude: The classes of pages that are left out.

    Raises:
        UnsupportedError: It would.
    """
    if "excluded" in format_.carries or not exclude - {ZERO}:
        return
    block = plan.guest.memory.blocks[0]
    page = Ranges.of([(block.paddr, min(block.end, block.paddr + (plan.guest.page_size or 1)))])
    without = replace(plan, excluded=plan.excluded.union(page))
    writer = returned(format_.writer(without, compressor), Writer, format_.writer)
    if writer.stored.intersect(page):
        raise UnsupportedError(
            f"{format_.name} cannot say which pages were left out: they would be zero, as if the guest had zeros there",
            hint="leave out --dump-level and --exclude, or write --format kdump",
        )


def _listed(things: list[str]) -> str:
    return ", ".join(things[:-1]) + (" and " if len(things) > 1 else "") + things[-1]
