"""What is assumed of a guest whose architecture no plugin knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydump.interfaces.arch import Arch
from pydump.interfaces.quirks import Quirks
from pydump.model.guest import ByteOrder, Guest
from pydump.model.note import Note


class _AsStated(Quirks):
    """QEMU's dump of an unknown machine is taken to state what the image does."""

    def stated(self, guest: Guest) -> Guest:
        return guest


class GenericArch(Arch):
    """Takes the facts as the image states them. It is never registered; ``guest.arch`` stays None."""

    name: ClassVar[str] = "generic"
    machine: ClassVar[int] = 0
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096, *(1 << n for n in range(9, 21)))
    quirks: ClassVar[Quirks] = _AsStated()

    @classmethod
    def phys_base(cls, guest: Guest) -> int:
        return guest.phys_base or 0

    @classmethod
    def count_cpus(cls, notes: Sequence[Note]) -> int:
        return sum(note.name == "CORE" and note.type == 1 for note in notes)

    @classmethod
    def complete(cls, guest: Guest) -> Guest:
        completed = super().complete(guest)
        names = replace(completed.utsname, machine=guest.utsname.machine or "unknown")
        return replace(completed, arch=None, machine=guest.machine, utsname=names)
