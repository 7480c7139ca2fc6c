"""Writes ELF vmcores, in our layout and in QEMU's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pydump.errors import UnsupportedError
from pydump.interfaces.sink import Extent, Hole
from pydump.interfaces.writer import Batch, Encoded, Encoder, Writer
from pydump.layout.elf import (
    CLASSES,
    DUMP_ELF_INCOMPLETE,
    ET_CORE,
    EV_CURRENT,
    ORDERS,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    SHT_STRTAB,
    Elf32Ehdr,
    Elf32Phdr,
    Elf32Shdr,
    Elf64Ehdr,
    Elf64Phdr,
    Elf64Shdr,
    Ident,
)
from pydump.layout.notes import pack_notes
from pydump.layout.zero import zero_pages
from pydump.model.guest import ByteOrder, Section
from pydump.model.memory import Ranges
from pydump.model.note import VMCOREINFO_NAME, Note
from pydump.model.plan import Plan


@dataclass(frozen=True, slots=True)
class _Class:
    """The structs of one ELF class."""

    ei_class: int
    ehdr: type[Elf32Ehdr | Elf64Ehdr]
    phdr: type[Elf32Phdr | Elf64Phdr]
    shdr: type[Elf32Shdr | Elf64Shdr]
    limit: int


_CLASSES: Final = {
    bits: _Class(ei_class, ehdr, phdr, shdr, 1 << bits) for ei_class, (bits, ehdr, phdr, shdr) in CLASSES.items()
}
#: A PT_LOAD: vaddr, paddr, filesz, memsz.
_Row: TypeAlias = tuple[int, int, int, int]
_DATA: Final = {order: ei_data for ei_data, order in ORDERS.items()}
_SHSTRTAB: Final = ".shstrtab"
#: A hole begins and ends at a multiple of this: what file systems have as a block.
HOLE_UNIT: Final = 4096
#: A segment whose vaddr is ours to choose begins at a multiple of this: no architecture has larger base pages.
VADDR_UNIT: Final = 1 << 16
#: Bytes of a section that are copied in one go.
COPY_SIZE: Final = 4 << 20
#: Instead of a position in the stored stream: past the end of the file.
_NOWHERE: Final = np.uint64((1 << 64) - 1)


#: Runs of zeros in a batch's bytes, as ``(start, end)``.
_Zeros: TypeAlias = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ElfEncoder(Encoder[_Zeros]):
    """Leaves bytes as they are, at places that follow from the plan.

    Attributes:
        start: Where in the file the first byte of memory lies.
        sparse: Whether blocks of zeros become holes.
    """

    start: int
    sparse: bool

    def encode(self, batch: Batch) -> Encoded[_Zeros]:
        if batch.data is None:
            return Encoded(batch.position, 0, None, [], batch.size, batch.size)
        zeros = self._zeros(batch.data, self.start + batch.position) if self.sparse else []
        return Encoded(batch.position, 0, batch.data, zeros, batch.size, sum(end - start for start, end in zeros))

    def _zeros(self, data: memoryview, offset: int) -> _Zeros:
        """The parts of ``data`` that are zero and cover whole blocks of the file."""
        first = -offset % HOLE_UNIT
        last = max(first, first + (len(data) - first) // HOLE_UNIT * HOLE_UNIT)
        zero = zero_pages(data[first:last], HOLE_UNIT)
        edges = np.flatnonzero(np.diff(zero, prepend=False, append=False)) * HOLE_UNIT + first
        return [(start, end) for start, end in edges.reshape(-1, 2).tolist()]

    def extents(self, encoded: Encoded[_Zeros], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        at, done = self.start + encoded.position, 0
        if encoded.payload is None:
            yield Hole(at, encoded.size)
            return
        data = memoryview(encoded.payload)
        for first, last in encoded.table:
            if first > done:
                yield Extent(at + done, data[done:first])
            yield Hole(at + first, last - first)
            done = last
        if done < len(data):
            yield Extent(at + done, data[done:])


class ElfWriter(Writer):
    """An ELF vmcore in the layout that every reader takes.

    The program headers follow the ELF header (makedumpfile looks for them nowhere else), p_align is 0 (crash takes a
    page-aligned first PT_LOAD with another p_align for an old netdump), and section headers exist only where they
    say something: the number of program headers above 65,534, or what an architecture adds. What the source left out
    is the part of a PT_LOAD by which p_memsz exceeds p_filesz. What it had lost has a PT_LOAD whose bytes would lie
    past the file's end, as they do in the dumps that makedumpfile could not finish, and e_flags says so.
    """

    sequential: ClassVar[bool] = True
    #: Section headers before the program headers, as QEMU has them?
    _sections_first: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        guest = plan.guest
        assert guest.byte_order and guest.elf_class  # the planner gives complete facts
        if guest.machine is None:
            raise UnsupportedError(
                "an ELF file must name its machine, and the source does not name it",
                hint="install the architecture's plugin and name it with --arch",
            )
        self._byte_order: ByteOrder = guest.byte_order
        self._machine = guest.machine
        self._class = _CLASSES[guest.elf_class]
        self._sparse: bool = plan.options.sparse
        self.unit = 1
        self.stored = plan.readable()
        notes = guest.notes + (
            (Note(VMCOREINFO_NAME, 0, guest.vmcoreinfo.text),) if guest.vmcoreinfo is not None else ()
        )
        self._notes = pack_notes(notes, guest.byte_order)
        self._lost = plan.unreadable
        self._loads = self._segments(plan)
        self._sections = self._wanted_sections(guest.sections, len(self._loads) + 1)

        c = self._class
        n_shdrs = len(self._sections) + 1 if self._has_section_table() else 0
        ehsize, phsize, shsize = c.ehdr.nbytes(), c.phdr.nbytes() * (len(self._loads) + 1), c.shdr.nbytes() * n_shdrs
        self._n_shdrs = n_shdrs
        self._shoff = 0 if not n_shdrs else ehsize if self._sections_first else ehsize + phsize
        self._phoff = ehsize + (shsize if self._sections_first else 0)
        self._note_offset = ehsize + phsize + shsize
        self.start = self._note_offset + len(self._notes)
        self._section_offset = self.start + self.stored.size
        names = _string_table(self._sections)
        self._section_data = [*(s.data for s in self._sections[:-1]), names] if self._sections else []
        self.size_limit = self._section_offset + sum(map(len, self._section_data))
        if self.size_limit >= c.limit or guest.memory.end > c.limit:
            raise UnsupportedError("a 32-bit ELF file cannot hold this guest", hint="write --format kdump")

    def _segments(self, plan: Plan) -> NDArray[np.uint64]:
        """One row per PT_LOAD: vaddr, paddr, filesz, memsz, and where in the stored stream its bytes begin."""
        if plan.mappings is None:
            parts = [(block.paddr, block.end) for block in plan.guest.memory]
            mappings = plan.aliases
        else:
            mappings = tuple(map(tuple, plan.mappings.tolist()))
            mapped = Ranges.of((paddr, paddr + size) for _, paddr, size in mappings)
            # RAM that the kernel does not map is reached by its physical address all the same.
            parts = list(plan.guest.memory.ranges().subtract(mapped))
        rows = [
            row
            for part, runs in zip(parts, self._runs(parts), strict=True)
            for row in _block_rows(plan.vaddr, *part, runs)
        ]
        if plan.mappings is not None:
            rows = _apart(rows, mappings, self._class.limit)
        rows += self._mapped_rows(plan, mappings)
        table = np.array(rows, np.uint64).reshape(-1, 4)
        return np.column_stack([table, self._positions(table)])

    def _mapped_rows(self, plan: Plan, mappings: tuple[tuple[int, int, int], ...]) -> Iterator[_Row]:
        """The PT_LOADs of virtual mappings; an alias of RAM that has a PT_LOAD of its own has only what has bytes."""
        limit = self._class.limit
        spans = [(paddr, paddr + size) for _, paddr, size in mappings]
        for (vaddr, paddr, _), parts in zip(mappings, plan.guest.memory.ranges().clips(spans), strict=True):
            shift = vaddr - paddr
            for part, runs in zip(parts, self._runs(parts), strict=True):
                if plan.mappings is not None:
                    yield from _block_rows(lambda at, shift=shift: (at + shift) % limit, *part, runs)  # type: ignore[misc]
                else:
                    for start, end in runs:
                        yield (start + shift) % limit, start, end - start, end - start

    def _runs(self, windows: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """What of each window has bytes, here or lost."""
        for stored, lost in zip(self.stored.clips(windows), self._lost.clips(windows), strict=True):
            yield sorted(stored + lost)

    def _positions(self, table: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Where in the stored stream the bytes of each row begin; 0 for one without any, _NOWHERE for lost ones."""
        stored, lost = self.stored.array, self._lost.array
        positions = np.zeros(len(table), np.uint64)
        if len(lost):
            last = np.searchsorted(lost[:, 0], table[:, 1], side="right") - 1
            is_lost = (last >= 0) & (table[:, 1] < lost[last, 1]) & (table[:, 2] > 0)
            positions[is_lost] = _NOWHERE
        filled = np.flatnonzero((table[:, 2] > 0) & (positions != _NOWHERE))
        sizes = stored[:, 1] - stored[:, 0]
        paddrs = table[filled, 1]
        which = np.searchsorted(stored[:, 0], paddrs, side="right") - 1
        positions[filled] = (np.cumsum(sizes) - sizes)[which] + paddrs - stored[which, 0]
        return positions

    def _has_section_table(self) -> bool:
        return bool(self._sections) or len(self._loads) + 1 >= PN_XNUM

    def _wanted_sections(self, sections: tuple[Section, ...], n_phdrs: int) -> list[Section]:
        """The sections to write, the string table last; none where none is needed."""
        return [*sections, Section(_SHSTRTAB, SHT_STRTAB, b"")] if sections else []

    def headers(self) -> Iterator[Extent | Hole]:
        tables = (self._shdrs(), self._phdrs()) if self._sections_first else (self._phdrs(), self._shdrs())
        yield Extent(0, b"".join((self._ehdr(), *tables, self._notes)))

    def _ehdr(self) -> bytes:
        c = self._class
        ident = Ident(ei_class=bytes([c.ei_class]), ei_data=bytes([_DATA[self._byte_order]])).pack(self._byte_order)
        n_phdrs = len(self._loads) + 1
        return c.ehdr(
            e_ident=ident,
            e_type=ET_CORE,
            e_machine=self._machine,
            e_version=EV_CURRENT,
            e_phoff=self._phoff,
            e_shoff=self._shoff,
            e_flags=DUMP_ELF_INCOMPLETE if self._lost else 0,
            e_ehsize=self._ehsize(),
            e_phentsize=c.phdr.nbytes(),
            e_phnum=min(n_phdrs, PN_XNUM),
            e_shentsize=c.shdr.nbytes() if self._n_shdrs else 0,
            e_shnum=self._n_shdrs,
            e_shstrndx=self._n_shdrs - 1 if self._sections else 0,
        ).pack(self._byte_order)

    def _ehsize(self) -> int:
        return self._class.ehdr.nbytes()

    def _phdrs(self) -> bytes:
        loads, n_notes = self._loads, len(self._notes)
        table = np.zeros(len(loads) + 1, self._class.phdr.dtype(self._byte_order))
        table[0]["p_type"] = PT_NOTE
        table[0]["p_offset"] = self._note_offset
        table[0]["p_filesz"] = table[0]["p_memsz"] = n_notes
        rows = table[1:]
        rows["p_type"] = PT_LOAD
        rows["p_vaddr"], rows["p_paddr"], rows["p_filesz"], rows["p_memsz"] = loads[:, :4].T
        lost = loads[:, 4] == _NOWHERE
        rows["p_offset"] = np.where(lost, np.uint64(self.size_limit), np.uint64(self.start) + loads[:, 4])
        return table.tobytes()

    def _shdrs(self) -> bytes:
        if not self._n_shdrs:
            return b""
        c = self._class
        n_phdrs = len(self._loads) + 1
        table = [c.shdr(sh_info=n_phdrs if n_phdrs >= PN_XNUM else 0).pack(self._byte_order)]
        names = _string_table(self._sections)
        at = self._section_offset
        for section, data in zip(self._sections, self._section_data, strict=True):
            table.append(
                c.shdr(
                    sh_name=names.index(b"\0" + section.name.encode() + b"\0") + 1,
                    sh_type=section.type,
                    sh_flags=section.flags,
                    sh_addr=section.addr,
                    sh_offset=at,
                    sh_size=len(data),
                    sh_info=section.info,
                    sh_entsize=section.entsize,
                ).pack(self._section_byte_order())
            )
            at += len(data)
        return b"".join(table)

    def _section_byte_order(self) -> ByteOrder:
        return self._byte_order

    def encoder(self) -> ElfEncoder:
        return ElfEncoder(self.start, self._sparse)

    def finish(self, end: int) -> Iterator[Extent | Hole]:
        offset = self._section_offset
        for data in self._section_data:
            for at in range(0, len(data), COPY_SIZE):
                yield Extent(offset + at, data[at : at + COPY_SIZE])
            offset += len(data)

    def size(self, end: int) -> int:
        return self.size_limit


class QemuElfWriter(ElfWriter):
    """QEMU's bytes, for those who compare: section headers before the program headers, and its mistakes.

    e_ehsize is the size of a pointer, there is always a string table, and its section header is in the byte order of
    the machine QEMU runs on, which is taken to be little-endian, as nearly all are.

    Source: QEMU 7.2 dump/dump.c, write_elf_header and write_elf_section_headers.
    """

    _sections_first: ClassVar[bool] = True

    def _wanted_sections(self, sections: tuple[Section, ...], n_phdrs: int) -> list[Section]:
        return [*sections, Section(_SHSTRTAB, SHT_STRTAB, b"")]

    def _ehsize(self) -> int:
        return 8

    def _section_byte_order(self) -> ByteOrder:
        return "little"


def _block_rows(vaddr: Callable[[int], int], paddr: int, block_end: int, runs: list[tuple[int, int]]) -> Iterator[_Row]:
    """The PT_LOADs of a run of RAM: each with what follows it that the source left out, as memory without bytes."""
    first = runs[0][0] if runs else block_end
    if first > paddr:
        yield vaddr(paddr), paddr, 0, first - paddr
    for (start, end), following in zip(runs, [*(run[0] for run in runs[1:]), block_end], strict=False):
        yield vaddr(start), start, end - start, following - start


def _apart(rows: list[_Row], mappings: tuple[tuple[int, int, int], ...], limit: int) -> list[_Row]:
    """Segments of RAM that is not mapped, moved to where no mapping is: gdb takes the first that holds an address.

    Args:
        rows: Theirs.
        mappings: vaddr, paddr and size of what is mapped.
        limit: One past the last vaddr.
    """
    taken: list[list[int]] = []
    for start, end in sorted((vaddr, min(vaddr + size, limit)) for vaddr, _, size in mappings):
        if taken and start <= taken[-1][1]:
            taken[-1][1] = max(taken[-1][1], end)
        else:
            taken.append([start, end])
    starts = [start for start, _ in taken]
    kept = [(row[0], row[0] + row[3]) for row in rows if not _overlaps(row[0], row[0] + row[3], taken, starts)]
    edges = [(0, 0), *sorted([*map(tuple, taken), *kept]), (limit, limit)]
    # All of them go into the widest gap; a 32-bit guest can have none that is wide enough.
    at, room = max(((a[1], b[0] - a[1]) for a, b in zip(edges, edges[1:], strict=False)), key=lambda gap: gap[1])
    at, end = -(-at // VADDR_UNIT) * VADDR_UNIT, at + room
    apart = []
    for vaddr, paddr, filesz, memsz in rows:
        if _overlaps(vaddr, vaddr + memsz, taken, starts) and at + memsz <= end:
            vaddr, at = at, at + -(-memsz // VADDR_UNIT) * VADDR_UNIT
        apart.append((vaddr, paddr, filesz, memsz))
    return apart


def _overlaps(start: int, end: int, taken: list[list[int]], starts: list[int]) -> bool:
    """Does ``[start, end)`` meet any of the ranges ``taken``, which begin at ``starts``?"""
    i = bisect_left(starts, end)
    return i > 0 and taken[i - 1][1] > start


def _string_table(sections: list[Section]) -> bytes:
    return b"".join(b"\0" + section.name.encode() for section in sections) + b"\0" if sections else b""
