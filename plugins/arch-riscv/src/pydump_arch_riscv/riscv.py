"""The riscv64 and riscv32 architectures.

Source of the notes: struct elf_prstatus and struct user_regs_struct of the Linux kernel (arch/riscv/include/uapi/asm/
ptrace.h), which QEMU's target/riscv/arch_dump.c writes too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from pydump.interfaces.arch import Arch, KernelTables, Mapping, ReadPhysical
from pydump.layout.registers import NoteKind, run
from pydump.model.guest import ByteOrder, Guest
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_arch_riscv.paging import LEVELS, RiscvTables

#: pc and x1 to x31, by their names in the calling convention.
GENERAL: Final = "pc ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"


class Riscv64Arch(Arch):
    """64-bit RISC-V."""

    name: ClassVar[str] = "riscv64"
    machine: ClassVar[int] = 243
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    section_size_bits: ClassVar[tuple[int, ...]] = (27,)
    max_physmem_bits: ClassVar[tuple[int, ...]] = (56,)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (
        NoteKind("PRSTATUS", "CORE", 1, 376, run(32, 4, "pr_pid") + run(112, 8, GENERAL)),
    )

    @classmethod
    def phys_base(cls, guest: Guest) -> int:
        """Where RAM begins, as VMCOREINFO says; QEMU's memory map begins with a boot ROM."""
        return (guest.vmcoreinfo and guest.vmcoreinfo.number("phys_ram_base")) or 0

    @classmethod
    def load_vaddr(cls, guest: Guest, paddr: int) -> int | None:
        """The linear mapping: readers have no other way to the page tables than p_vaddr."""
        page_offset = cls._page_offset(guest)
        base = cls.phys_base(guest)
        if page_offset is None or paddr < base:
            return None
        vaddr = page_offset + paddr - base
        return vaddr if 0 <= vaddr < 1 << cls.elf_class else None  # else the numbers make no sense together

    @classmethod
    def _page_offset(cls, guest: Guest) -> int | None:
        return guest.vmcoreinfo.number("PAGE_OFFSET") if guest.vmcoreinfo else None

    @classmethod
    def load_aliases(cls, guest: Guest) -> tuple[Mapping, ...]:
        """The kernel image, which is linked at the end of the address space and not in the linear mapping."""
        info = guest.vmcoreinfo
        link, offset = (info.number("KERNEL_LINK_ADDR"), info.number("va_kernel_pa_offset")) if info else (None, None)
        if link is None or offset is None or link == cls._page_offset(guest):  # 32 bits: it is in the linear mapping
            return ()
        if link < 0 or offset < 0:
            return ()
        start, end = max(link, offset), 1 << cls.elf_class  # KASLR may move it so that paddr 0 lies behind its begin
        return (Mapping(start, start - offset, end - start),) if start < end else ()

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """The kernel's own tables, which VMCOREINFO names; the notes have no satp."""
        info = guest.vmcoreinfo
        if info is None:
            return
        tables, va_bits = info.symbol("swapper_pg_dir"), info.number("VA_BITS")
        if tables is None or va_bits not in LEVELS:
            return
        for offset in cls._kernel_offsets(info):
            space = RiscvTables(
                read, guest.memory, tables - offset, va_bits=va_bits, byte_order=guest.byte_order or cls.byte_order
            )
            yield KernelTables(space, offset)

    @classmethod
    def _kernel_offsets(cls, info: Vmcoreinfo) -> tuple[int, ...]:
        """What the kernel image's virtual and physical addresses may differ by."""
        offset = info.number("va_kernel_pa_offset")
        if offset is not None:
            return (offset,)
        # Linux before 6.4 does not say: it is loaded where RAM begins or, behind the firmware, 2 MiB above.
        link, ram = info.number("KERNEL_LINK_ADDR"), info.number("phys_ram_base")
        return () if link is None or ram is None else (link - ram - (2 << 20), link - ram)


class Riscv32Arch(Riscv64Arch):
    """32-bit RISC-V."""

    name: ClassVar[str] = "riscv32"
    elf_class: ClassVar[int] = 32
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (
        NoteKind("PRSTATUS", "CORE", 1, 204, run(24, 4, "pr_pid") + run(72, 4, GENERAL)),
    )
