"""The x86_64 architecture."""

from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.arch import Arch
from pydump.layout.registers import NoteKind
from pydump.model.guest import ByteOrder, Guest
from pydump_arch_x86_64.notes import PRSTATUS_X86_64, QEMU_X86_64


class X86_64Arch(Arch):  # noqa: N801  (the architecture's own name)
    """64-bit x86."""

    name: ClassVar[str] = "x86_64"
    aliases: ClassVar[tuple[str, ...]] = ("x86-64", "amd64")
    machine: ClassVar[int] = 62
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (PRSTATUS_X86_64, QEMU_X86_64)
    notes_by_kind: ClassVar[bool] = True
    qemu_machine: ClassVar[str] = "x86_64"

    @classmethod
    def phys_base(cls, guest: Guest) -> int:
        """How far the kernel lies from where it was linked to lie: VMCOREINFO's, which KASLR may make negative."""
        return (guest.vmcoreinfo and guest.vmcoreinfo.number("phys_base")) or 0

    @classmethod
    def qemu_phys_base(cls, guest: Guest) -> int:
        """QEMU takes the decimal digits for hexadecimal ones."""
        text = guest.vmcoreinfo.get("NUMBER(phys_base)") if guest.vmcoreinfo else None
        return int(text, 16) if text else 0
