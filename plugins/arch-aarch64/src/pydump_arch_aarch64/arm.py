"""The 32-bit arm architecture.

Source of the notes: struct pt_regs and user_vfp (arch/arm/include/asm/{ptrace,user}.h) of the Linux kernel; the order
is that of QEMU's target/arm/arch_dump.c.
"""

from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.arch import Arch
from pydump.layout.registers import NoteKind, numbered, run
from pydump.model.guest import ByteOrder, Guest


class ArmArch(Arch):
    """32-bit Arm."""

    name: ClassVar[str] = "arm"
    aliases: ClassVar[tuple[str, ...]] = tuple(f"armv{v}{order}" for v in ("5te", "6", "7", "8") for order in "lb")
    machine: ClassVar[int] = 40
    byte_order: ClassVar[ByteOrder] = "little"
    bi_endian: ClassVar[bool] = True
    elf_class: ClassVar[int] = 32
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
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
    def qemu_phys_base(cls, guest: Guest) -> int:
        return guest.memory.start
