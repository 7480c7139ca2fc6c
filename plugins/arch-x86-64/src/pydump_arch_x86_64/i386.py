"""The i386 architecture."""

from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.arch import Arch
from pydump.layout.registers import NoteKind
from pydump.model.guest import ByteOrder
from pydump_arch_x86_64.notes import PRSTATUS_I386, QEMU_I386


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
    u64_align: ClassVar[int] = 4
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (PRSTATUS_I386, QEMU_I386)
    notes_by_kind: ClassVar[bool] = True
    qemu_machine: ClassVar[str] = "i686"

    @classmethod
    def uts_machine(cls, byte_order: ByteOrder) -> str:
        return "i686"
