"""The architecture role: the facts of a machine, how CPU state becomes notes, how addresses translate.

An architecture is a class without instances: constants, and class methods that take and return values. Most of one is
data: its numbers, and its notes as tables of :class:`~pydump.layout.registers.NoteKind`, which packing, unpacking and
the register table follow from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Final, NamedTuple, final

from pydump.interfaces.quirks import Quirks
from pydump.layout.registers import NoteKind, Register, pack_cpus, registers_of, unpack_cpus
from pydump.model.guest import ByteOrder, Cpu, Guest, Section, Utsname
from pydump.model.note import Note
from pydump.model.plan import Compat

#: Bytes of the smallest page of any architecture.
SMALLEST_PAGE: Final = 4096

#: Reads guest memory, ``(paddr, size) -> bytes``. Raises ReadError where there is none.
ReadPhysical = Callable[[int, int], bytes]


class Mapping(NamedTuple):
    """A run of virtual addresses that is contiguous in paddr.

    Attributes:
        vaddr: Where it begins, as an unsigned number with its real sign bits.
        paddr: The guest-physical address behind ``vaddr``.
        size: Bytes.
    """

    vaddr: int
    paddr: int
    size: int


class AddressSpace(ABC):
    """The guest kernel's virtual addresses."""

    @abstractmethod
    def translate(self, vaddr: int) -> int | None:
        """The paddr behind ``vaddr``, or None where nothing is mapped."""

    @abstractmethod
    def mappings(self) -> Iterator[Mapping]:
        """Every mapping, ascending in vaddr, neighbours that continue each other joined."""

    def runs(self, vaddr: int, size: int) -> Iterator[Mapping]:
        """What ``[vaddr, vaddr + size)`` maps, ascending; neighbours that continue each other are joined.

        What is not mapped is left out. This default asks :meth:`translate` for each page of 4 KiB, the smallest of
        any architecture; page tables answer a range with one walk.

        Args:
            vaddr: Where the range begins.
            size: Bytes.
        """
        last: Mapping | None = None
        at, end = vaddr, vaddr + size
        while at < end:
            stop = min(end, (at // SMALLEST_PAGE + 1) * SMALLEST_PAGE)
            paddr = self.translate(at)
            if last and (paddr is None or paddr != last.paddr + last.size):
                yield last
                last = None
            if paddr is not None:
                last = Mapping(last.vaddr, last.paddr, stop - last.vaddr) if last else Mapping(at, paddr, stop - at)
            at = stop
        if last:
            yield last


class KernelTables(NamedTuple):
    """Page tables that may be the kernel's.

    Attributes:
        space: The address space they describe.
        offset: What the vaddr of the kernel's image exceeds its paddr by, which ``_stext`` must confirm; None where
            a register names the tables and nothing needs to be confirmed.
    """

    space: AddressSpace
    offset: int | None = None


class Arch:
    """The facts of an architecture."""

    #: Its registry name, as in ``--arch x86_64``.
    name: ClassVar[str]
    #: Other names for it, lower case, such as what ``uname -m`` or QEMU's kdump header may say.
    aliases: ClassVar[tuple[str, ...]] = ()
    #: ELF e_machine.
    machine: ClassVar[int]
    #: The byte order when nothing else says.
    byte_order: ClassVar[ByteOrder]
    #: 32 or 64.
    elf_class: ClassVar[int]
    #: Page sizes a kernel can have, in bytes, the commonest first.
    page_sizes: ClassVar[tuple[int, ...]]
    #: Alignment of a 64-bit field inside a struct, in bytes, which is 4 on i386, else 8.
    u64_align: ClassVar[int] = 8
    #: Does Linux run in either byte order under this name?
    bi_endian: ClassVar[bool] = False
    #: The notes of a CPU, in the order in which QEMU writes them; the first one, PRSTATUS, is what makes a CPU.
    note_kinds: ClassVar[tuple[NoteKind, ...]] = ()
    #: The register table; it follows from the notes unless a class says its own.
    registers: ClassVar[tuple[Register, ...]] = ()
    #: log2 of the bytes of a sparse memory section, for kernels before 5.13, which do not state it; likeliest first.
    section_size_bits: ClassVar[tuple[int, ...]] = ()
    #: Bits of the highest paddr, for kernels before 5.8, which do not state it; likeliest first.
    max_physmem_bits: ClassVar[tuple[int, ...]] = ()
    #: How QEMU's dumps of this machine differ from right ones; used by ``--compat qemu``, and to correct such dumps.
    quirks: ClassVar[Quirks] = Quirks()

    def __init_subclass__(cls) -> None:
        if "registers" not in cls.__dict__:
            cls.registers = registers_of(cls.note_kinds)

    @classmethod
    def uts_machine(cls, byte_order: ByteOrder) -> str:
        """What ``uname -m`` prints in such a guest."""
        return cls.name

    @classmethod
    def phys_base(cls, guest: Guest) -> int:
        """The phys_base of a kdump header, signed, from VMCOREINFO or else from where RAM lies."""
        return 0

    @classmethod
    def owns(cls, guest: Guest) -> bool:
        """Is this guest of this architecture? Asked when its file names no machine (a kdump header need not).

        The notes decide: the size of NT_PRSTATUS differs between architectures of one class and byte order.
        """
        if not cls.note_kinds:
            return False
        prstatus = cls.note_kinds[0]
        sizes = {len(note.desc) for note in guest.notes if prstatus.matches(note)}
        return sizes == {prstatus.size} and (cls.bi_endian or guest.byte_order in (None, cls.byte_order))

    @classmethod
    def complete(cls, guest: Guest) -> Guest:
        """``guest`` with every fact filled in that this architecture knows, and QEMU's known defects corrected."""
        vmcoreinfo = guest.vmcoreinfo
        byte_order = guest.byte_order or cls.byte_order
        uts = guest.utsname
        page_size = vmcoreinfo.page_size if vmcoreinfo else None
        stated_page_size = page_size if page_size in cls.page_sizes else None
        windows = guest.windows
        stated = windows.release if windows else vmcoreinfo.osrelease if vmcoreinfo else None
        release = uts.release or stated or "unknown"
        completed = replace(
            guest,
            arch=cls.name,
            machine=cls.machine,
            byte_order=byte_order,
            elf_class=guest.elf_class or cls.elf_class,
            page_size=stated_page_size or guest.page_size or cls.page_sizes[0],
            utsname=Utsname(
                uts.sysname or ("Windows" if windows else "Linux"),
                uts.nodename,
                release,
                uts.version or "unknown",
                cls.uts_machine(byte_order),
                uts.domainname,
            ),
            n_cpus=guest.n_cpus or cls.count_cpus(guest.notes) or (windows.n_cpus if windows else 0),
        )
        if vmcoreinfo is not None or guest.phys_base is None:
            completed = replace(completed, phys_base=cls.phys_base(completed))
        return replace(completed, notes=cls.quirks.corrected(completed.notes, byte_order))

    @classmethod
    def count_cpus(cls, notes: Sequence[Note]) -> int:
        """How many CPUs the notes speak of."""
        return sum(cls.note_kinds[0].matches(note) for note in notes) if cls.note_kinds else 0

    @classmethod
    def cpu_notes(cls, cpus: Sequence[Cpu], byte_order: ByteOrder, *, compat: Compat | None = None) -> tuple[Note, ...]:
        """The notes QEMU writes for these CPUs, in its order. A register that is not given has its default, mostly 0.

        Args:
            cpus: The CPUs in ascending index.
            byte_order: Of the notes.
            compat: "qemu" for QEMU's bytes, mistakes included.

        Raises:
            PlanError: A register's name is unknown or its value does not fit; the hint lists the right names.
        """
        notes = pack_cpus(cls.note_kinds, cpus, byte_order, by_kind=cls.quirks.notes_by_kind)
        return cls.quirks.mistaken(notes, byte_order) if compat == "qemu" else notes

    @classmethod
    def cpus(cls, notes: Sequence[Note], byte_order: ByteOrder) -> tuple[Cpu, ...]:
        """The register values that the notes hold; the inverse of :meth:`cpu_notes`.

        A CPU whose note is not as long as it should be lacks the note's registers.
        """
        return unpack_cpus(cls.note_kinds, notes, byte_order) if cls.note_kinds else ()

    @classmethod
    def elf_sections(cls, guest: Guest) -> tuple[Section, ...]:
        """ELF sections this architecture adds to a dump of ``guest``."""
        return guest.sections

    @classmethod
    def load_vaddr(cls, guest: Guest, paddr: int) -> int | None:
        """The p_vaddr that readers need on the PT_LOAD which begins at ``paddr``, or None for p_vaddr = p_paddr."""
        return None

    @classmethod
    def load_aliases(cls, guest: Guest) -> tuple[Mapping, ...]:
        """Mappings that readers need as PT_LOADs beside those of the RAM blocks; what is no RAM is left out."""
        return ()

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        """Page tables that may be the kernel's, the likeliest first; none when too little is known of the guest.

        Args:
            guest: The completed facts.
            read: Reads guest memory; what the source does not hold reads as zeros.
        """
        return iter(())

    @classmethod
    def kept_vaddrs(cls, guest: Guest) -> tuple[tuple[int, int], ...]:
        """``(vaddr, size)`` of what the registers name and no dump may leave out, such as interrupt tables."""
        return ()

    @classmethod
    def kept_paddrs(cls, guest: Guest) -> tuple[tuple[int, int], ...]:
        """``(start, end)`` in paddr of what the registers name and no dump may leave out, such as prefix areas."""
        return ()

    @final
    @classmethod
    def address_space(cls, guest: Guest, read: ReadPhysical) -> AddressSpace | None:
        """The kernel's address space: the first of :meth:`kernel_tables` that has ``_stext`` where it must be.

        Returns:
            None when too little is known (no VMCOREINFO, no registers), or no tables fit.
        """
        text = guest.vmcoreinfo.symbol("_stext") if guest.vmcoreinfo else None
        for tables in cls.kernel_tables(guest, read):
            if tables.offset is None or (text is not None and tables.space.translate(text) == text - tables.offset):
                return tables.space
        return None
