"""The ppc64 architecture in both byte orders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Final

from pydump.interfaces.arch import Arch, KernelTables, ReadPhysical
from pydump.interfaces.quirks import Quirks
from pydump.layout.registers import NoteKind, recode
from pydump.model.guest import ByteOrder, Guest
from pydump.model.note import Note
from pydump_arch_ppc64.notes import NOTES, PRSTATUS, with_pids, without_pids
from pydump_arch_ppc64.paging import LEVELS, PAGE_OFFSET, RadixTables

#: Bits of the machine state register: little-endian mode, data and instruction relocation, problem (user) state.
MSR_LE: Final = 1
MSR_DR: Final = 1 << 4
MSR_IR: Final = 1 << 5
MSR_PR: Final = 1 << 14


class Ppc64Quirks(Quirks):
    """QEMU's dumps are big-endian whatever the guest is, and pr_pid, which distinguishes the CPUs, is 0."""

    def stated(self, guest: Guest) -> Guest:
        order = guest.byte_order or "big"
        notes = guest.notes if order == "big" else recode(NOTES, guest.notes, order, "big")
        return super().stated(replace(guest, byte_order="big", notes=notes))

    def corrected(self, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        return with_pids(notes, byte_order)

    def mistaken(self, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        return without_pids(notes)


class Ppc64Arch(Arch):
    """64-bit Power, big-endian unless its CPUs say otherwise."""

    name: ClassVar[str] = "ppc64"
    aliases: ClassVar[tuple[str, ...]] = ("powerpc64",)
    machine: ClassVar[int] = 21
    byte_order: ClassVar[ByteOrder] = "big"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (65536, 4096)
    section_size_bits: ClassVar[tuple[int, ...]] = (24,)
    max_physmem_bits: ClassVar[tuple[int, ...]] = (51, 47, 46, 44)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = NOTES
    #: 65536 is what QEMU takes for a pseries machine; other machines get 4096.
    quirks: ClassVar[Quirks] = Ppc64Quirks(page_size=65536)

    @classmethod
    def uts_machine(cls, byte_order: ByteOrder) -> str:
        return "ppc64le" if byte_order == "little" else "ppc64"

    @classmethod
    def complete(cls, guest: Guest) -> Guest:
        """In the guest's byte order: QEMU puts little-endian pseries guests into big-endian files."""
        stated = guest.byte_order or cls.byte_order
        order = cls.guest_byte_order(guest.notes, stated)
        notes = guest.notes if order == stated else recode(NOTES, guest.notes, stated, order)
        settled = super().complete(replace(guest, byte_order=order, notes=notes))
        return replace(settled, arch=cls.uts_machine(order))

    @classmethod
    def guest_byte_order(cls, notes: tuple[Note, ...], stated: ByteOrder) -> ByteOrder:
        """The byte order the guest's kernel runs in: that of any CPU which is in the kernel.

        A CPU that has not started, or is in firmware, runs big-endian and unrelocated under either kernel. Where none
        is in the kernel, programs tell: they are of its byte order, but for one that asked for another
        (PR_SET_ENDIAN).

        Args:
            notes: The CPUs' notes.
            stated: The byte order the notes are in.
        """
        msrs = [
            PRSTATUS.unpack(note, stated)["msr"] for note in notes if PRSTATUS.matches(note) and PRSTATUS.fits(note)
        ]
        in_kernel = [msr for msr in msrs if not msr & MSR_PR]
        if any(msr & MSR_LE for msr in in_kernel):
            return "little"
        if any(msr & (MSR_DR | MSR_IR) for msr in in_kernel):
            return stated
        return "little" if any(msr & MSR_LE for msr in msrs) else stated

    @classmethod
    def load_vaddr(cls, guest: Guest, paddr: int) -> int:
        """The linear mapping, through which readers reach the page tables."""
        return PAGE_OFFSET + paddr

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """The kernel's own tables, which VMCOREINFO names. A guest that uses the hash table is not understood."""
        info = guest.vmcoreinfo
        tables = info.symbol("swapper_pg_dir") if info else None
        if info is not None and tables is not None and info.page_size in LEVELS:
            # With the hash table these tables exist too, but the linear mapping is not in them, nor is _stext.
            space = RadixTables(read, guest.memory, tables - PAGE_OFFSET, page_size=info.page_size)
            yield KernelTables(space, PAGE_OFFSET)


class Ppc64leArch(Ppc64Arch):
    """64-bit Power, little-endian."""

    name: ClassVar[str] = "ppc64le"
    aliases: ClassVar[tuple[str, ...]] = ("powerpc64le", "ppc64el")
    byte_order: ClassVar[ByteOrder] = "little"

    @classmethod
    def guest_byte_order(cls, notes: tuple[Note, ...], stated: ByteOrder) -> ByteOrder:
        return "little"
