"""The s390x architecture."""

from __future__ import annotations

from typing import ClassVar, Final

from pydump.interfaces.arch import AddressSpace, Arch, ReadPhysical
from pydump.layout.registers import NoteKind, splice
from pydump.model.guest import ByteOrder, Guest
from pydump.model.note import Note
from pydump_arch_s390x.notes import NOTES, PR_PID_OFFSET
from pydump_arch_s390x.paging import ORIGIN, REAL_SPACE, TYPE_SHIFT, DatTables

#: Linux's PID_MAX_LIMIT on 64-bit machines: no pr_pid is larger, and 1 in the wrong byte order is.
PID_MAX_LIMIT: Final = 1 << 22


class S390xArch(Arch):
    """64-bit IBM Z."""

    name: ClassVar[str] = "s390x"
    machine: ClassVar[int] = 22
    byte_order: ClassVar[ByteOrder] = "big"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = NOTES
    qemu_machine: ClassVar[str] = "S390X"

    @classmethod
    def corrected_notes(cls, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        """pr_pid in the guest's byte order; QEMU writes it in the host's."""
        pids = [note.desc[PR_PID_OFFSET : PR_PID_OFFSET + 4] for note in notes if _has_pid(note)]
        too_large = any(int.from_bytes(pid, byte_order) > PID_MAX_LIMIT for pid in pids)
        swapped = too_large and all(int.from_bytes(pid[::-1], byte_order) <= PID_MAX_LIMIT for pid in pids)
        return _with_swapped_pids(notes) if swapped else notes

    @classmethod
    def mistaken_notes(cls, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        """pr_pid in a little-endian host's byte order."""
        return _with_swapped_pids(notes)

    @classmethod
    def address_space(cls, guest: Guest, read: ReadPhysical) -> AddressSpace | None:
        """By the tables that VMCOREINFO names, or else by those of a CPU's home space, which is the kernel's."""
        return cls._by_vmcoreinfo(guest, read) or cls._by_registers(guest, read)

    @classmethod
    def _by_vmcoreinfo(cls, guest: Guest, read: ReadPhysical) -> AddressSpace | None:
        info = guest.vmcoreinfo
        if info is None:
            return None
        tables, text = info.symbol("swapper_pg_dir"), info.symbol("_stext")
        if tables is None or text is None:
            return None
        # Up to Linux 6.9 the kernel lies at the same virtual as physical address.
        physical = info.hexadecimal("KERNELOFFPHYS")
        offset = 0 if physical is None else physical - (info.hexadecimal("KERNELOFFSET") or 0)
        root = tables + offset
        if guest.memory.find(root) is None:
            return None
        # Every entry says of which kind its table is.
        kind = int.from_bytes(read(root, 8), "big") >> TYPE_SHIFT & 3
        space = DatTables(read, guest.memory, root, kind=kind)
        return space if space.translate(text) == text + offset else None

    @classmethod
    def _by_registers(cls, guest: Guest, read: ReadPhysical) -> AddressSpace | None:
        for cpu in cls.cpus(guest.notes, guest.byte_order or cls.byte_order):
            home = cpu.registers.get("cr13", 0)
            if home & ORIGIN and not home & REAL_SPACE:
                kind, length = home >> TYPE_SHIFT & 3, home & 3
                return DatTables(read, guest.memory, home & ORIGIN, kind=kind, length=length)
        return None


def _with_swapped_pids(notes: tuple[Note, ...]) -> tuple[Note, ...]:
    return tuple(
        splice(note, PR_PID_OFFSET, note.desc[PR_PID_OFFSET : PR_PID_OFFSET + 4][::-1]) if _has_pid(note) else note
        for note in notes
    )


def _has_pid(note: Note) -> bool:
    return NOTES[0].matches(note) and NOTES[0].fits(note)
