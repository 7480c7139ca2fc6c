"""Completes a plan: the header to write, and what the dump holds instead of guest memory.

The guest's memory stays as it is. QEMU writes the contexts into it and restores it after the dump.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydump.errors import PlanError
from pydump.layout.windows import HEADERS, windows_facts
from pydump.model.memory import Ranges
from pydump.model.windows import WindowsFacts
from pydump_format_windmp.contexts import find_contexts, pack_context, unpack_context
from pydump_format_windmp.facts import X86, Found, find_facts
from pydump_format_windmp.layout import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.kernel.memory import KernelMemory
    from pydump.model.guest import Cpu
    from pydump.model.plan import Plan

CONTROL_REGISTERS: Final = "windmp holds the general registers of each CPU, and no control registers"
_LARGEST: Final = max(layout.nbytes() for layout in HEADERS.values())


def complete(plan: Plan, image: MemoryImage, arch: type[Arch]) -> Plan:
    """The plan with the facts of Windows, and the contexts of the CPUs, which the dump holds instead of memory.

    Raises:
        PlanError: The file that should give the header does not, or nothing does that QEMU would take.
    """
    guest = replace(plan.guest, memory=image.guest().memory)
    cpus = arch.cpus(guest.notes, "little") if guest.machine in X86 else ()
    given = read_header(plan.options.header) if plan.options.header else guest.windows
    if given is None and plan.compat == "qemu":
        raise PlanError("QEMU writes no Windows crash dump without the guest's own header", hint="leave --compat out")
    found = find_facts(image, guest, arch, cpus, given)
    overlays, lost = _overlays(found, cpus)
    facts, warnings = found.facts, found.warnings
    if plan.compat is None and any(kind.matches(note) for note in guest.notes for kind in arch.note_kinds[1:]):
        warnings += (CONTROL_REGISTERS,)
    if plan.compat is None and cpus:
        facts = _with_context(facts, cpus[0])
        lost = lost[1:] if lost[:1] == (0,) else lost
    if lost and plan.compat is None:
        listed = ", ".join(map(str, lost[:8])) + (", …" if len(lost) > 8 else "")
        warnings += (
            f"the dump has no place for the registers of CPU {listed}: Windows does not say where it saves them",
        )
    return replace(
        plan,
        guest=replace(plan.guest, windows=facts),
        excluded=plan.excluded.subtract(_held_pages(image, overlays)),
        overlays=tuple(overlays),
        warnings=plan.warnings + warnings,
    )


def read_header(path: str) -> WindowsFacts:
    """The facts of the header that a file begins with.

    Raises:
        PlanError: The file cannot be read, or does not begin with one.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_LARGEST)
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from None
    found = (windows_facts(head[: layout.nbytes()]) for layout in HEADERS.values())
    facts = next((one for one in found if one is not None), None)
    if facts is None:
        raise PlanError(f"{path} does not begin with the header of a Windows crash dump", hint="it is 8 KiB long, or 4")
    return facts


def _held_pages(image: MemoryImage, overlays: Sequence[tuple[int, bytes]]) -> Ranges:
    """The pages that are written otherwise than the guest has them: no filter leaves them out."""
    pages = Ranges.of((paddr, paddr + len(data)) for paddr, data in overlays).page_aligned(PAGE_SIZE)
    return pages.subtract(image.excluded())


def _overlays(found: Found, cpus: Sequence[Cpu]) -> tuple[list[tuple[int, bytes]], tuple[int, ...]]:
    """What the dump holds instead of memory, ``(paddr, bytes)`` each, and the CPUs that have no place."""
    kernel, kdbg, facts = found.kernel, found.kdbg, found.facts
    if kernel is None or kdbg is None:
        return [], tuple(cpu.index for cpu in cpus)
    overlays = [*_pieces(kernel, kdbg.vaddr, kdbg.data)] if kdbg.encoded else []
    contexts = find_contexts(kernel, kdbg, facts.bits, min(len(cpus), facts.n_cpus or len(cpus)))
    lost = []
    for i, cpu in enumerate(cpus):
        vaddr = contexts[i] if i < len(contexts) else None
        if vaddr is None:
            lost.append(cpu.index)
        else:
            overlays += _pieces(kernel, vaddr, pack_context(cpu, facts.bits))
    return overlays, tuple(lost)


def _pieces(kernel: KernelMemory, vaddr: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """``data`` at a virtual address, as pieces at the paddrs behind it."""
    for run in kernel.runs(vaddr, len(data)):
        at = run.vaddr - vaddr
        yield run.paddr, data[at : at + run.size]


def _with_context(facts: WindowsFacts, cpu: Cpu) -> WindowsFacts:
    """A header with the registers of a CPU as its context, unless Windows has put one there."""
    fields = HEADERS[facts.bits].unpack(facts.header, "little")
    if unpack_context(fields.context_record, facts.bits) is not None:
        return facts
    context = pack_context(cpu, facts.bits)
    rest = fields.context_record[len(context) :]
    return replace(facts, header=fields.replace(context_record=context + rest).pack("little"))
