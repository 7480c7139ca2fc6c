"""The x86_64 architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from pydump.interfaces.arch import Arch, KernelTables, ReadPhysical
from pydump.interfaces.quirks import Quirks
from pydump.layout.registers import NoteKind
from pydump.model.guest import ByteOrder, Guest
from pydump_arch_x86_64.notes import PRSTATUS_X86_64, QEMU_X86_64, interrupt_tables
from pydump_arch_x86_64.paging import ADDRESS, CR0_PG, CR4_LA57, LongTables
from pydump_arch_x86_64.pc import check_placed

#: Where the kernel image is linked to lie, less phys_base. Source: Documentation/arch/x86/x86_64/mm.rst of Linux.
START_KERNEL_MAP: Final = 0xFFFFFFFF80000000


class X86_64Quirks(Quirks):  # noqa: N801  (the architecture's own name)
    """QEMU takes the decimal digits of phys_base for hexadecimal ones."""

    def phys_base(self, guest: Guest) -> int:
        return (guest.vmcoreinfo and guest.vmcoreinfo.hexadecimal("NUMBER(phys_base)")) or 0


class X86_64Arch(Arch):  # noqa: N801  (the architecture's own name)
    """64-bit x86."""

    name: ClassVar[str] = "x86_64"
    aliases: ClassVar[tuple[str, ...]] = ("x86-64", "amd64")
    machine: ClassVar[int] = 62
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    section_size_bits: ClassVar[tuple[int, ...]] = (27,)
    max_physmem_bits: ClassVar[tuple[int, ...]] = (46, 52, 44)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (PRSTATUS_X86_64, QEMU_X86_64)
    quirks: ClassVar[Quirks] = X86_64Quirks(notes_by_kind=True, machine="x86_64")

    @classmethod
    def complete(cls, guest: Guest) -> Guest:
        check_placed(guest)
        return super().complete(guest)

    @classmethod
    def phys_base(cls, guest: Guest) -> int:
        """How far the kernel lies from where it was linked to lie: VMCOREINFO's, which KASLR may make negative."""
        return (guest.vmcoreinfo and guest.vmcoreinfo.number("phys_base")) or 0

    @classmethod
    def kept_vaddrs(cls, guest: Guest) -> tuple[tuple[int, int], ...]:
        """The interrupt descriptor table of each CPU."""
        return interrupt_tables(cls.cpus(guest.notes, guest.byte_order or cls.byte_order), gate_size=16)

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """The tables that VMCOREINFO or Windows names, then those of the first CPU that has paging on."""
        if guest.windows and guest.memory.find(guest.windows.directory_table_base & ADDRESS):
            root = guest.windows.directory_table_base & ADDRESS
            yield KernelTables(LongTables.long_mode(read, guest.memory, root, la57=cls._la57(guest)))
            return
        info = guest.vmcoreinfo
        # The name changed in Linux 4.13, and swapper_pg_dir is a macro for either.
        names = ("init_top_pgt", "swapper_pg_dir", "init_level4_pgt")
        tables = next((found for name in names if info and (found := info.symbol(name))), None)
        if info is not None and tables is not None:
            offset = START_KERNEL_MAP - cls.phys_base(guest)
            space = LongTables.long_mode(
                read,
                guest.memory,
                tables - offset,
                la57=bool(info.number("pgtable_l5_enabled")),
                encrypted=info.number("sme_mask") or 0,
            )
            yield KernelTables(space, offset)
        for cpu in cls.cpus(guest.notes, guest.byte_order or cls.byte_order):
            values = cpu.registers
            if values.get("cr0", 0) & CR0_PG and guest.memory.find(values["cr3"] & ADDRESS):
                la57 = bool(values["cr4"] & CR4_LA57)
                yield KernelTables(LongTables.long_mode(read, guest.memory, values["cr3"] & ADDRESS, la57=la57))
                return

    @classmethod
    def _la57(cls, guest: Guest) -> bool:
        """Whether a CPU says that page tables have 5 levels."""
        cpus = cls.cpus(guest.notes, guest.byte_order or cls.byte_order)
        return any(cpu.registers.get("cr4", 0) & CR4_LA57 for cpu in cpus)
