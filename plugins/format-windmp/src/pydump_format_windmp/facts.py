"""The header of a dump of a guest: as Windows or a file gives it, or made from what guest memory says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pydump.errors import PlanError, PydumpError
from pydump.kernel.memory import KernelMemory
from pydump.layout.windows import HEADERS, LIVE_SYSTEM_DUMP, DumpHeader, DumpHeader32, windows_facts
from pydump.model.windows import WindowsFacts
from pydump_format_windmp.image import find_image
from pydump_format_windmp.kdbg import Kdbg, find_kdbg, read_kdbg
from pydump_format_windmp.shared_data import SharedData, read_shared_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.model.guest import Cpu, Guest

#: MajorVersion of a free build of Windows; MinorVersion is the build number. Source: elf2dmp's, from KdVersionBlock.
FREE_BUILD: Final = 15
#: ELF e_machine to the bits of the header and its MachineImageType. Source: Microsoft's "PE Format", Machine Types.
MACHINES: Final = {62: (64, 0x8664), 3: (32, 0x14C), 183: (64, 0xAA64), 40: (32, 0x1C4)}
#: Machines whose registers and page tables are known.
X86: Final = (62, 3)
#: The bits of CR0 and CR4 that turn paging and PAE on, and those of CR3 that are an address.
_CR0_PG, _CR4_PAE = 1 << 31, 1 << 5
_CR3: Final = ((1 << 52) - 1) & ~0xFFF
_CR3_PAE: Final = 0xFFFFFFE0
#: Where a processor's control block holds CR3 of the kernel, where user mode has page tables of its own.
#: Source: elf2dmp's fix_dtb.
_KERNEL_CR3: Final = 0x7000
#: What a header has no other source for than the debugger's data block, in Microsoft's names.
_OF_KDBG: Final = "KdDebuggerDataBlock, PfnDatabase, PsLoadedModuleList and PsActiveProcessHead"


@dataclass(frozen=True, slots=True)
class Found:
    """What a dump of a Windows guest needs.

    Attributes:
        facts: The facts of its header.
        kernel: The kernel's memory, or None where its page tables are not there.
        kdbg: The debugger's data block, or None.
        warnings: What is missing, a line each.
    """

    facts: WindowsFacts
    kernel: KernelMemory | None
    kdbg: Kdbg | None
    warnings: tuple[str, ...]


def kernel_memory(image: MemoryImage, guest: Guest, arch: type[Arch], facts: WindowsFacts) -> KernelMemory | None:
    """The kernel's memory by the page tables that ``facts`` name, or None where they are not there."""
    try:
        return KernelMemory.of(image, replace(guest, windows=facts), arch)
    except PydumpError:
        return None


def find_block(kernel: KernelMemory, facts: WindowsFacts, cpus: Sequence[Cpu]) -> Kdbg | None:
    """The debugger's data block: where the header says, where the driver put a decoded copy, or in the kernel's image.

    Source: QEMU's dump/win_dump.c, check_kdbg, for the second: the driver of virtio-win leaves the address of a
    decoded copy in the first parameter of the bugcheck.
    """
    for vaddr in (facts.kd_debugger_data_block, facts.bugcheck[1]):
        found = read_kdbg(kernel, vaddr) if vaddr else None
        if found is not None:
            return found
    for idt_base in sorted({cpu.registers.get("idt_base", 0) for cpu in cpus} - {0}):
        try:
            image = find_image(kernel, idt_base, facts.bits)
        except PydumpError:  # the page tables have no end
            return None
        found = find_kdbg(image) if image else None
        if found is not None:
            return found
    return None


def find_facts(
    image: MemoryImage, guest: Guest, arch: type[Arch], cpus: Sequence[Cpu], facts: WindowsFacts | None
) -> Found:
    """Complete ``facts``, or make them where nobody gives them.

    Args:
        image: Guest memory.
        guest: The guest's completed facts.
        arch: Its architecture.
        cpus: Its CPUs.
        facts: What Windows or the user gives, or None.

    Raises:
        PlanError: Nobody gives them, memory shows no Windows, and the guest runs Linux.
    """
    if facts is None:
        return _made(image, guest, arch, cpus)
    kernel = kernel_memory(image, guest, arch, facts)
    kdbg = find_block(kernel, facts, cpus) if kernel else None
    fields = HEADERS[facts.bits].unpack(facts.header, "little")
    if kernel is None or kdbg is None:
        why = "the page tables at its DirectoryTableBase do not lead to it" if kernel is None else "it is not in memory"
        warning = f"the kernel debugger's data block cannot be read, for {why}: the header stays as Windows made it"
        return Found(facts, kernel, None, (warning,))
    return Found(_facts(_patched(fields, kernel, kdbg)), kernel, kdbg, ())


def _facts(fields: DumpHeader) -> WindowsFacts:
    facts = windows_facts(fields.pack("little"))
    assert facts is not None
    return facts


def _patched(fields: DumpHeader, kernel: KernelMemory, kdbg: Kdbg) -> DumpHeader:
    """A header with what the debugger's data block says.

    Source: QEMU's dump/win_dump.c, patch_mm_pfn_database and patch_bugcheck_data.
    """
    block = kdbg.fields
    mask = (1 << 8 * kernel.word_size) - 1
    changes: dict[str, Any] = {
        "kd_debugger_data_block": kdbg.vaddr,
        "pfn_database": block.mm_pfn_database & mask,
    }
    try:
        words = kernel.read_array(block.ki_bugcheck_data & mask, kernel.word, 5).tolist()
    except PydumpError:
        words = []
    if words:
        names = ("bugcheck_code", *(f"bugcheck_parameter{i}" for i in range(1, 5)))
        changes |= dict(zip(names, (words[0] & 0xFFFFFFFF, *words[1:]), strict=True))
    if not changes.get("bugcheck_code", fields.bugcheck_code):
        changes["bugcheck_code"] = LIVE_SYSTEM_DUMP
    return fields.replace(**changes)


def _made(image: MemoryImage, guest: Guest, arch: type[Arch], cpus: Sequence[Cpu]) -> Found:
    """A header made from what memory says."""
    bits, machine_type = MACHINES.get(guest.machine or 0, (64, 0))
    start = HEADERS[bits](
        major_version=FREE_BUILD,
        machine_image_type=machine_type,
        number_processors=guest.n_cpus or 0,
        bugcheck_code=LIVE_SYSTEM_DUMP,
        comment=b"made by pydump from guest memory",
    )
    for table, pae in _tables(image, guest, arch, cpus, bits) if guest.machine in X86 else ():
        fields = start.replace(directory_table_base=table)
        if isinstance(fields, DumpHeader32):
            fields = fields.replace(pae_enabled=int(pae))
        kernel = kernel_memory(image, guest, arch, _facts(fields))
        shared = read_shared_data(kernel, bits) if kernel else None
        if kernel is not None and shared is not None:
            return _filled(fields, kernel, shared, cpus, bits)
    if guest.vmcoreinfo is not None:
        raise PlanError(
            "the guest runs Linux, and a Windows crash dump holds a guest that runs Windows",
            hint="write --format kdump or elf; --windmp-header FILE takes the header of another dump of the guest",
        )
    why = "its registers lead to no memory of Windows" if cpus else "no registers lead to its page tables"
    warning = (
        f"the guest has no header of a Windows crash dump, and {why}: the header states only where memory is; "
        "--windmp-header FILE takes that of another dump of the guest"
    )
    return Found(_facts(start), None, None, (warning,))


def _tables(
    image: MemoryImage, guest: Guest, arch: type[Arch], cpus: Sequence[Cpu], bits: int
) -> Iterator[tuple[int, bool]]:
    """Page tables that may be the kernel's: those of each CPU, and what a control block says; and whether PAE is on."""
    for cpu in cpus:
        if cpu.registers.get("cr0", 0) & _CR0_PG:
            pae = bool(cpu.registers.get("cr4", 0) & _CR4_PAE)
            yield cpu.registers["cr3"] & (_CR3_PAE if bits == 32 and pae else _CR3), pae
    if bits == 64:
        for cpu in cpus:
            start = _facts(HEADERS[64](directory_table_base=cpu.registers.get("cr3", 0) & _CR3))
            kernel = kernel_memory(image, guest, arch, start)
            try:
                yield (kernel.read_word(cpu.registers["kernel_gs_base"] + _KERNEL_CR3) & _CR3 if kernel else 0), True
            except (PydumpError, KeyError):
                continue


def _filled(fields: DumpHeader, kernel: KernelMemory, shared: SharedData, cpus: Sequence[Cpu], bits: int) -> Found:
    """A header of which the page tables are known, with all that memory says, and what it does not say."""
    fields = fields.replace(
        minor_version=shared.build,
        product_type=shared.product_type,
        suite_mask=shared.suite_mask,
        system_time=shared.system_time,
        system_up_time=shared.up_time,
    )
    kdbg = find_block(kernel, _facts(fields), cpus)
    unknown = [] if shared.build else ["MinorVersion"]
    if kdbg is None:
        unknown.append(_OF_KDBG)
    else:
        block, mask = kdbg.fields, (1 << bits) - 1
        fields = _patched(fields, kernel, kdbg).replace(
            ps_loaded_module_list=block.ps_loaded_module_list & mask,
            ps_active_process_head=block.ps_active_process_head & mask,
        )
    warnings = (f"the header is made from guest memory: {', '.join(unknown)} stay zero",) if unknown else ()
    return Found(_facts(fields), kernel, kdbg, warnings)
