"""The 32-bit arm architecture.

Source of the notes: struct pt_regs and user_vfp (arch/arm/include/asm/{ptrace,user}.h) of the Linux kernel; the order
is that of QEMU's target/arm/arch_dump.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from pydump.interfaces.arch import Arch, KernelTables, ReadPhysical
from pydump.interfaces.quirks import Quirks
from pydump.layout.registers import NoteKind, numbered, run
from pydump.model.guest import ByteOrder, Guest
from pydump_arch_aarch64.arm_paging import LpaeTables, ShortTables

#: Where the linear mapping may begin: CONFIG_PAGE_OFFSET, the default first. Source: arch/arm/Kconfig of Linux.
PAGE_OFFSETS: Final = (0xC0000000, 0xB0000000, 0x80000000, 0x40000000)


class ArmQuirks(Quirks):
    """QEMU writes the lowest RAM address as phys_base."""

    def phys_base(self, guest: Guest) -> int:
        return guest.memory.start


class ArmArch(Arch):
    """32-bit Arm."""

    name: ClassVar[str] = "arm"
    aliases: ClassVar[tuple[str, ...]] = tuple(f"armv{v}{order}" for v in ("5te", "6", "7", "8") for order in "lb")
    machine: ClassVar[int] = 40
    byte_order: ClassVar[ByteOrder] = "little"
    bi_endian: ClassVar[bool] = True
    elf_class: ClassVar[int] = 32
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    section_size_bits: ClassVar[tuple[int, ...]] = (28, 27, 26)
    max_physmem_bits: ClassVar[tuple[int, ...]] = (32, 36)
    quirks: ClassVar[Quirks] = ArmQuirks()
    #: pr_fpvalid is 0 on a CPU without floating point, which then has no VFP note.
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (
        NoteKind(
            "PRSTATUS",
            "CORE",
            1,
            148,
            run(24, 4, "pr_pid")
            + run(72, 4, numbered("r{}", 13) + " sp lr pc cpsr")
            + run(144, 4, "pr_fpvalid", default=1),
        ),
        NoteKind("VFP", "LINUX", 0x400, 260, run(0, 8, numbered("d{}", 32)) + run(256, 4, "fpscr"), when="pr_fpvalid"),
    )

    @classmethod
    def uts_machine(cls, byte_order: ByteOrder) -> str:
        return "armv7l" if byte_order == "little" else "armv7b"

    @classmethod
    def phys_base(cls, guest: Guest) -> int:
        """The lowest RAM address."""
        return guest.memory.start

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """The kernel's own tables, which VMCOREINFO names: in memory that begins where the linear mapping does."""
        info = guest.vmcoreinfo
        tables = info.symbol("swapper_pg_dir") if info else None
        if info is None or tables is None:
            return
        kind = LpaeTables if info.get("CONFIG_ARM_LPAE") == "y" else ShortTables
        for page_offset in PAGE_OFFSETS:
            for block in guest.memory:
                offset = page_offset - block.paddr
                space = kind(read, guest.memory, tables - offset, byte_order=guest.byte_order or cls.byte_order)
                yield KernelTables(space, offset)
