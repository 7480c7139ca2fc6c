"""The i386 architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from pydump.interfaces.arch import AddressSpace, Arch, KernelTables, ReadPhysical
from pydump.interfaces.quirks import Quirks
from pydump.layout.registers import NoteKind
from pydump.model.guest import ByteOrder, Guest
from pydump_arch_x86_64.notes import PRSTATUS_I386, QEMU_I386, interrupt_tables
from pydump_arch_x86_64.paging import CR0_PG, CR4_PAE, LongTables, ShortTables
from pydump_arch_x86_64.pc import check_placed

#: Where the linear mapping may begin: CONFIG_PAGE_OFFSET, the default first. Source: arch/x86/Kconfig of Linux.
PAGE_OFFSETS: Final = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)


class I386Arch(Arch):
    """32-bit x86; also a 64-bit CPU that is not in long mode.

    Its dumps are ELF64 on QEMU's PC machines, whose ROM ends at 4 GiB.
    """

    name: ClassVar[str] = "i386"
    aliases: ClassVar[tuple[str, ...]] = ("i486", "i586", "i686", "x86")
    machine: ClassVar[int] = 3
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 32
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    section_size_bits: ClassVar[tuple[int, ...]] = (26, 29, 30)
    max_physmem_bits: ClassVar[tuple[int, ...]] = (32, 36)
    u64_align: ClassVar[int] = 4
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (PRSTATUS_I386, QEMU_I386)
    quirks: ClassVar[Quirks] = Quirks(notes_by_kind=True, machine="i686")

    @classmethod
    def complete(cls, guest: Guest) -> Guest:
        check_placed(guest)
        return super().complete(guest)

    @classmethod
    def uts_machine(cls, byte_order: ByteOrder) -> str:
        return "i686"

    @classmethod
    def kept_vaddrs(cls, guest: Guest) -> tuple[tuple[int, int], ...]:
        """The interrupt descriptor table of each CPU."""
        return interrupt_tables(cls.cpus(guest.notes, guest.byte_order or cls.byte_order), gate_size=8)

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """The tables that VMCOREINFO or Windows names, then those of the first CPU that has paging on."""
        if guest.windows:
            root, pae = guest.windows.directory_table_base, guest.windows.pae
            yield KernelTables(cls._tables(guest, read, root & (~0x1F if pae else ~0xFFF), pae=pae))
            return
        cpus = [
            cpu.registers
            for cpu in cls.cpus(guest.notes, guest.byte_order or cls.byte_order)
            if cpu.registers.get("cr0", 0) & CR0_PG
        ]
        info = guest.vmcoreinfo
        tables = info.symbol("swapper_pg_dir") if info else None
        if info is not None and tables is not None:
            pae = info.get("CONFIG_X86_PAE") == "y" or any(values["cr4"] & CR4_PAE for values in cpus)
            for offset in PAGE_OFFSETS:
                yield KernelTables(cls._tables(guest, read, tables - offset, pae=pae), offset)
        for values in cpus[:1]:
            pae = bool(values["cr4"] & CR4_PAE)
            yield KernelTables(cls._tables(guest, read, values["cr3"] & (~0x1F if pae else ~0xFFF), pae=pae))

    @classmethod
    def _tables(cls, guest: Guest, read: ReadPhysical, root: int, *, pae: bool) -> AddressSpace:
        if pae:
            return LongTables.pae(read, guest.memory, root)
        return ShortTables(read, guest.memory, root)
