"""Reads the core of a Xen guest (``xl dump-core``): an ELF file without program headers.

Pages lie one after the other in the section .xen_pages. The section .xen_pfn, or .xen_p2m for a paravirtualized guest,
says where each belongs.

Source: Xen, docs/misc/dump-core-format.txt; xen/include/public/arch-x86/xen.h and xen-x86_64.h for registers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.pieces import PiecesImage, held_pieces
from pydump.layout.elf import CLASSES, ORDERS, SHT_STRTAB
from pydump.layout.notes import MAX_NOTES_SIZE, read_notes
from pydump.layout.struct import U64, Layout
from pydump.model.guest import ByteOrder, Cpu, Guest
from pydump.model.memory import MemoryMap, Ranges

EM_X86_64: Final = 62
NOTES: Final = ".note.Xen"
PAGES: Final = ".xen_pages"
PFN: Final = ".xen_pfn"
P2M: Final = ".xen_p2m"
PRSTATUS: Final = ".xen_prstatus"
#: The type of the note that has the header.
HEADER_TYPE: Final = 0x2000001
#: xch_magic of a guest whose page tables hold machine addresses.
MAGIC_PV: Final = 0xF00FEBED
#: xc_core writes some ten sections.
MAX_SECTIONS: Final = 64
MAX_NAMES: Final = 1 << 16
#: No guest has more pages.
MAX_PAGES: Final = 1 << 35
MAX_CPUS: Final = 4096
#: Frame numbers that are read at once.
PFNS_AT_ONCE: Final = 1 << 20
#: Runs of pages that are read.
MAX_RUNS: Final = 1 << 20

#: Struct vcpu_guest_context of x86-64: its size, and where registers are in it.
CONTEXT_SIZE: Final = 5168
_USER_REGS: Final = 520
_USER: Final = struct.Struct("<15Q8xQH6xQQ" + "H6x" * 5)
_USER_NAMES: Final = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi rip cs rflags rsp ss es ds fs gs".split()
)
_CONTROL: Final = 4984
_BASES: Final = 5144


class CoreHeader(Layout):
    """The content of the header's note."""

    xch_magic: U64 = 0
    xch_nr_vcpus: U64 = 0
    xch_nr_pages: U64 = 0
    xch_page_size: U64 = 0


class _Place(NamedTuple):
    """Where in the file a section is, in bytes."""

    offset: int
    size: int


def xen_sections(backing: Backing) -> tuple[Mapping[str, _Place], ByteOrder, int] | None:
    """The sections of a Xen core, its byte order and e_machine; None for any other ELF file."""
    head = backing.read(0, min(backing.size, 64))
    if len(head) < 64 or head[4] not in CLASSES or head[5] not in ORDERS:
        return None
    _, ehdr, _, shdr = CLASSES[head[4]]
    byte_order = ORDERS[head[5]]
    header: Any = ehdr.unpack(head, byte_order)
    count, size = header.e_shnum, shdr.nbytes()
    if header.e_phnum or not 2 < count <= MAX_SECTIONS or header.e_shentsize != size:
        return None
    if header.e_shoff + count * size > backing.size or header.e_shstrndx >= count:
        return None
    table = backing.read(header.e_shoff, count * size)
    rows = [shdr.unpack(table, byte_order, i * size) for i in range(count)]
    names = rows[header.e_shstrndx]
    if names.sh_type != SHT_STRTAB or names.sh_offset + min(names.sh_size, MAX_NAMES) > backing.size:
        return None
    strings = backing.read(names.sh_offset, min(names.sh_size, MAX_NAMES))
    places = {
        strings[row.sh_name :].split(b"\0", 1)[0].decode("latin-1"): _Place(row.sh_offset, row.sh_size)
        for row in rows[1:]
    }
    return (places, byte_order, header.e_machine) if PAGES in places and NOTES in places else None


class XenImage(PiecesImage):
    """The core of a Xen guest.

    Args:
        backing: The file.
        places: Where its sections are.
        byte_order: Of all its numbers.
        machine: ELF e_machine.

    Raises:
        FormatError: Its header is damaged, or the frame numbers are not there.
    """

    def __init__(self, backing: Backing, places: Mapping[str, _Place], byte_order: ByteOrder, machine: int) -> None:
        self._byte_order = byte_order
        self._machine = machine
        warnings: list[str] = []
        header = _read_header(backing, places[NOTES], byte_order)
        self._page_size = header.xch_page_size
        self._is_pv = header.xch_magic == MAGIC_PV
        runs = _read_runs(backing, places, header, byte_order, warnings)
        self._more_lost = bool(warnings)  # pages are stated whose places are not there
        pieces, self._lost = held_pieces(backing, runs)
        ram = Ranges.of((paddr, paddr + size) for paddr, _, size in runs)
        super().__init__(backing, pieces, MemoryMap.of((start, end - start) for start, end in ram))
        self._cpus = _read_cpus(backing, places, header, machine, warnings)
        if self._is_pv:
            warnings.append(
                "the guest is paravirtualized: its page tables hold machine addresses, which are not followed"
            )
        if self._lost:
            warnings.append(f"the file is cut off: {self._lost.size} bytes of guest memory are lost")
        self._warnings = (*backing.warnings, *warnings)

    def guest(self) -> Guest:
        elf_class = 64 if self._machine == EM_X86_64 else None
        return Guest(
            self._memory,
            machine=self._machine,
            byte_order=self._byte_order,
            elf_class=elf_class,
            page_size=self._page_size,
            cpus=self._cpus,
        )

    def unreadable(self) -> Ranges:
        return self._lost

    def more_lost(self) -> bool:
        return self._more_lost

    def describe(self) -> tuple[tuple[str, str], ...]:
        kind = "paravirtualized" if self._is_pv else "HVM or PVH"
        return (("format", f"Xen core of a guest that is {kind}"),)

    def warnings(self) -> tuple[str, ...]:
        return self._warnings


def _read_header(backing: Backing, place: _Place, byte_order: ByteOrder) -> CoreHeader:
    size = min(place.size, MAX_NOTES_SIZE, max(0, backing.size - place.offset))
    notes, _ = read_notes(backing.read(place.offset, size) if size else b"", byte_order)
    desc = next((note.desc for note in notes if (note.name, note.type) == ("Xen", HEADER_TYPE)), b"")
    if len(desc) < CoreHeader.nbytes():
        raise FormatError(backing.path, f"{NOTES} has no header of a Xen core", offset=place.offset)
    header = CoreHeader.unpack(desc, byte_order)
    page_size = header.xch_page_size
    if not 4096 <= page_size <= 1 << 16 or page_size & (page_size - 1) or header.xch_nr_pages > MAX_PAGES:
        raise FormatError(
            backing.path, f"{header.xch_nr_pages} pages of {page_size} bytes are stated", offset=place.offset
        )
    return header


def _read_runs(
    backing: Backing, places: Mapping[str, _Place], header: CoreHeader, byte_order: ByteOrder, warnings: list[str]
) -> list[tuple[int, int, int]]:
    """``(paddr, file offset, size)`` of pages that follow each other in memory and in the file."""
    width = 2 if P2M in places else 1
    place = places.get(P2M) or places.get(PFN)
    if place is None:
        raise FormatError(backing.path, f"it has neither {PFN} nor {P2M}: where its pages belong is not known")
    there = max(0, min(place.size, backing.size - place.offset))
    count = min(header.xch_nr_pages, places[PAGES].size // header.xch_page_size, there // (8 * width))
    if count < header.xch_nr_pages:
        warnings.append(f"{header.xch_nr_pages} pages are stated, and the places of {count} are there")
    runs: list[tuple[int, int, int]] = []
    for first in range(0, count, PFNS_AT_ONCE):
        n = min(PFNS_AT_ONCE, count - first)
        data = backing.read(place.offset + 8 * width * first, 8 * width * n)
        pfns = np.frombuffer(data, "<u8" if byte_order == "little" else ">u8").reshape(n, width)[:, 0]
        runs += _runs(pfns.astype(np.uint64), first, header.xch_page_size, places[PAGES].offset)
        if len(runs) > MAX_RUNS:
            raise FormatError(backing.path, f"its pages are in more than {MAX_RUNS} runs", offset=place.offset)
    return runs


def _runs(pfns: NDArray[np.uint64], first: int, page_size: int, pages: int) -> list[tuple[int, int, int]]:
    """Runs of some pages.

    Args:
        pfns: Theirs, in the order of the file; what no address can have is no page.
        first: The number of the first of them in the file.
        page_size: Bytes of a page.
        pages: Where in the file pages begin.
    """
    starts = np.flatnonzero(np.concatenate([[True], np.diff(pfns) != 1]))
    lengths = np.diff(np.append(starts, len(pfns)))
    rows = zip(pfns[starts].tolist(), starts.tolist(), lengths.tolist(), strict=True)
    return [
        (pfn * page_size, pages + (first + start) * page_size, n * page_size)
        for pfn, start, n in rows
        if pfn + n <= MAX_PAGES
    ]


def _read_cpus(
    backing: Backing, places: Mapping[str, _Place], header: CoreHeader, machine: int, warnings: list[str]
) -> tuple[Cpu, ...]:
    place = places.get(PRSTATUS)
    count = min(header.xch_nr_vcpus, MAX_CPUS)
    if machine != EM_X86_64 or place is None or place.size < count * CONTEXT_SIZE:
        warnings.append(f"{PRSTATUS} has no registers of x86-64 CPUs")
        return ()
    there = max(0, min(count, (backing.size - place.offset) // CONTEXT_SIZE))
    if there < count:
        warnings.append(f"the file has the registers of {there} of {count} CPUs")
    data = backing.read(place.offset, there * CONTEXT_SIZE) if there else b""
    return tuple(Cpu(i, _registers(data[i * CONTEXT_SIZE : (i + 1) * CONTEXT_SIZE])) for i in range(there))


def _registers(context: bytes) -> dict[str, int]:
    registers = dict(zip(_USER_NAMES, _USER.unpack_from(context, _USER_REGS), strict=True))
    control = struct.unpack_from("<5Q", context, _CONTROL)
    registers |= {f"cr{i}": value for i, value in enumerate(control)} | {"orig_rax": 0}
    fs_base, kernel, user = struct.unpack_from("<3Q", context, _BASES)
    in_user_mode = registers["cs"] & 3
    registers |= {"fs_base": fs_base, "gs_base": user if in_user_mode else kernel}
    return registers | {"kernel_gs_base": kernel if in_user_mode else user}


def open_xen(backing: Backing) -> XenImage | None:
    """The core of a Xen guest, or None for any other ELF file.

    Raises:
        FormatError: It is one, and damaged.
    """
    found = xen_sections(backing)
    return None if found is None else XenImage(backing, *found)
