"""The s390x architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from pydump.interfaces.arch import Arch, KernelTables, ReadPhysical
from pydump.interfaces.quirks import Quirks
from pydump.layout.registers import NoteKind, splice
from pydump.model.guest import ByteOrder, Guest
from pydump.model.note import Note
from pydump_arch_s390x.notes import NOTES, PR_PID_OFFSET
from pydump_arch_s390x.paging import ORIGIN, REAL_SPACE, TYPE_SHIFT, DatTables

#: Linux's PID_MAX_LIMIT on 64-bit machines: no pr_pid is larger, and 1 in the wrong byte order is.
PID_MAX_LIMIT: Final = 1 << 22


#: Bytes of a CPU's prefix area. Source: z/Architecture Principles of Operation, chapter 3, "Prefixing".
PREFIX_SIZE: Final = 8192


class S390xQuirks(Quirks):
    """QEMU writes pr_pid in the host's byte order."""

    def corrected(self, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        pids = [note.desc[PR_PID_OFFSET : PR_PID_OFFSET + 4] for note in notes if _has_pid(note)]
        too_large = any(int.from_bytes(pid, byte_order) > PID_MAX_LIMIT for pid in pids)
        swapped = too_large and all(int.from_bytes(pid[::-1], byte_order) <= PID_MAX_LIMIT for pid in pids)
        return _with_swapped_pids(notes) if swapped else notes

    def mistaken(self, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        return _with_swapped_pids(notes)


class S390xArch(Arch):
    """64-bit IBM Z."""

    name: ClassVar[str] = "s390x"
    machine: ClassVar[int] = 22
    byte_order: ClassVar[ByteOrder] = "big"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    section_size_bits: ClassVar[tuple[int, ...]] = (28,)
    max_physmem_bits: ClassVar[tuple[int, ...]] = (46, 42)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = NOTES
    quirks: ClassVar[Quirks] = S390xQuirks(machine="S390X")

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """The tables that VMCOREINFO names, then those of a CPU's home space, which is the kernel's."""
        info = guest.vmcoreinfo
        tables = info.symbol("swapper_pg_dir") if info else None
        if info is not None and tables is not None:
            # Up to Linux 6.9 the kernel lies at the same virtual as physical address.
            physical = info.hexadecimal("KERNELOFFPHYS")
            offset = 0 if physical is None else (info.hexadecimal("KERNELOFFSET") or 0) - physical
            root = tables - offset
            if guest.memory.find(root) is not None:
                # Every entry says of which kind its table is.
                kind = int.from_bytes(read(root, 8), "big") >> TYPE_SHIFT & 3
                yield KernelTables(DatTables(read, guest.memory, root, kind=kind), offset)
        for cpu in cls.cpus(guest.notes, guest.byte_order or cls.byte_order):
            home = cpu.registers.get("cr13", 0)
            if home & ORIGIN and not home & REAL_SPACE:
                kind, length = home >> TYPE_SHIFT & 3, home & 3
                yield KernelTables(DatTables(read, guest.memory, home & ORIGIN, kind=kind, length=length))

    @classmethod
    def kept_paddrs(cls, guest: Guest) -> tuple[tuple[int, int], ...]:
        """The prefix area of each CPU, and that of an address of 0, where the kernel's own lowcore may lie."""
        cpus = cls.cpus(guest.notes, guest.byte_order or cls.byte_order)
        prefixes = {0, *(cpu.registers.get("prefix", 0) for cpu in cpus)}
        return tuple((prefix, prefix + PREFIX_SIZE) for prefix in sorted(prefixes))


def _with_swapped_pids(notes: tuple[Note, ...]) -> tuple[Note, ...]:
    return tuple(
        splice(note, PR_PID_OFFSET, note.desc[PR_PID_OFFSET : PR_PID_OFFSET + 4][::-1]) if _has_pid(note) else note
        for note in notes
    )


def _has_pid(note: Note) -> bool:
    return NOTES[0].matches(note) and NOTES[0].fits(note)
