"""Reads ELF vmcores: QEMU's, makedumpfile's, /proc/vmcore copies, and others that keep the rules loosely."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError, PlanError, ReadError
from pydump.interfaces.backing import Backing
from pydump.interfaces.source import Source
from pydump.layout.elf import (
    DUMP_ELF_INCOMPLETE,
    ELFCLASS32,
    ELFCLASS64,
    ELFDATA2LSB,
    ELFDATA2MSB,
    ELFMAG,
    ET_CORE,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    Elf32Ehdr,
    Elf32Phdr,
    Elf32Shdr,
    Elf64Ehdr,
    Elf64Phdr,
    Elf64Shdr,
    Ident,
)
from pydump.layout.notes import MAX_NOTES, MAX_NOTES_SIZE, unpack_notes
from pydump.model.guest import ByteOrder, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_format_elf.sections import read_sections

_CLASSES: Final[dict[int, Any]] = {
    ELFCLASS32: (32, Elf32Ehdr, Elf32Phdr, Elf32Shdr),
    ELFCLASS64: (64, Elf64Ehdr, Elf64Phdr, Elf64Shdr),
}
_ORDERS: Final[dict[int, ByteOrder]] = {ELFDATA2LSB: "little", ELFDATA2MSB: "big"}
#: More RAM than this is not believed.
MAX_RAM: Final = 1 << 47


class ElfSource(Source):
    """An ELF vmcore.

    Raises:
        FormatError: A header is damaged, or the file ends before what its headers promise.
    """

    name: ClassVar[str] = "elf"

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self.path = backing.path
        ident = backing.read(0, min(backing.size, Ident.nbytes()))
        if len(ident) < Ident.nbytes() or not ident.startswith(ELFMAG):
            raise FormatError(self.path, "it has no ELF header", offset=0)
        ei_class, ei_data = ident[4], ident[5]
        if ei_class not in _CLASSES or ei_data not in _ORDERS:
            raise FormatError(self.path, f"ELF class {ei_class}, data encoding {ei_data}: both are 1 or 2", offset=4)
        self._elf_class, ehdr, self._phdr, self._shdr = _CLASSES[ei_class]
        self._byte_order = _ORDERS[ei_data]
        self._header = ehdr.unpack(backing.read(0, ehdr.nbytes()), self._byte_order)
        if self._header.e_type != ET_CORE:
            raise FormatError(self.path, f"an ELF file of type {self._header.e_type}, not a core file", offset=16)
        table = self._program_headers()
        if not len(table):
            raise FormatError(self.path, "it has no program headers, and so no memory", offset=0)
        self._notes, self._vmcoreinfo = self._read_notes(table[table["p_type"] == PT_NOTE])
        self._read_loads(table[table["p_type"] == PT_LOAD])
        places = Ranges.of((offset, offset + end - start) for start, end, offset in self._loads)
        self._sections, self._repeated = read_sections(backing, self._header, self._shdr, self._byte_order, places)

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        raise PlanError("an ELF file is opened by its path")

    def _program_headers(self) -> NDArray[Any]:
        header = self._header
        count = header.e_phnum
        if count == PN_XNUM:
            first = self._shdr.unpack(self._backing.read(header.e_shoff, self._shdr.nbytes()), self._byte_order)
            count = first.sh_info or count
        if count and header.e_phentsize != self._phdr.nbytes():
            raise FormatError(
                self.path, f"program headers of {header.e_phentsize} bytes, not {self._phdr.nbytes()}", offset=0
            )
        dtype = self._phdr.dtype(self._byte_order)
        return np.frombuffer(self._backing.read(header.e_phoff, count * dtype.itemsize), dtype)

    def _read_notes(self, segments: NDArray[Any]) -> tuple[tuple[Note, ...], Vmcoreinfo | None]:
        notes: list[Note] = []
        total = 0
        for segment in segments:
            offset, size = int(segment["p_offset"]), int(segment["p_filesz"])
            total += size
            if total > MAX_NOTES_SIZE:
                raise FormatError(self.path, f"{total:#x} bytes of notes", offset=offset)
            try:
                notes += unpack_notes(self._backing.read(offset, size), self._byte_order)
            except ValueError as error:
                raise FormatError(self.path, f"notes: {error}", offset=offset) from None
            if len(notes) > MAX_NOTES:
                raise FormatError(self.path, f"notes: there are more than {MAX_NOTES} of them", offset=offset)
        text = next((note.desc for note in notes if note.is_vmcoreinfo), None)
        others = tuple(note for note in notes if not note.is_vmcoreinfo)
        return others, None if text is None else Vmcoreinfo(text)

    def _read_loads(self, segments: NDArray[Any]) -> None:
        """Where RAM is, and where in the file.

        Segments may overlap: /proc/vmcore maps the kernel's text twice, and a QEMU dump with paging=true has one
        segment for each virtual mapping. The first to claim an address has it. Where one has bytes of what another
        says was left out, they are such mappings, and a p_memsz beyond p_filesz says nothing of RAM.
        """
        nowhere = np.uint64((1 << self._elf_class) - 1)
        rows = np.stack([segments[name].astype(np.uint64) for name in _LOAD_FIELDS], axis=1)
        rows = rows[(rows[:, 0] != nowhere) & (rows[:, 3] | rows[:, 2] > 0)]
        rows = rows[np.lexsort((-rows[:, 2].astype(np.int64), rows[:, 0]))]
        size = self._backing.size
        loads: list[tuple[int, int, int]] = []  # paddr, end, file offset
        blocks: list[tuple[int, int]] = []
        absent: list[tuple[int, int]] = []  # RAM whose contents the file does not have
        lost: list[tuple[int, int]] = []
        overlap = False
        covered = claimed = 0
        for paddr, offset, filesz, memsz in rows.tolist():
            end = paddr + max(filesz, memsz)
            if end >= 1 << 64:
                raise FormatError(
                    self.path,
                    f"a PT_LOAD at paddr {paddr:#x} of {end - paddr:#x} bytes reaches the end of the address space",
                )
            if filesz and offset + filesz > size:
                if not self._header.e_flags & DUMP_ELF_INCOMPLETE:
                    raise FormatError(
                        self.path,
                        f"the PT_LOAD at paddr {paddr:#x} ends at {offset + filesz:#x}, the file at {size:#x}",
                        offset=offset,
                        hint="the file is truncated",
                    )
                kept = max(0, size - offset)
                lost.append((paddr + kept, paddr + filesz))
                filesz = kept
            overlap |= paddr < claimed
            start = max(paddr, covered)
            if paddr + filesz > start:
                loads.append((start, paddr + filesz, offset + start - paddr))
                covered = paddr + filesz
            if end > max(paddr, claimed):
                blocks.append((max(paddr, claimed), end))
                claimed = end
            if memsz > filesz:
                absent.append((paddr + filesz, end))
        self._starts = [start for start, _, _ in loads]
        self._loads = loads
        held = Ranges.of((start, end) for start, end, _ in loads)
        self._lost = Ranges.of(lost).subtract(held)
        left_out = Ranges.of(absent)
        self._excluded = Ranges.empty() if left_out.intersect(held) else left_out.subtract(self._lost)
        if overlap:  # mappings, not RAM blocks: neighbours are one
            blocks = list(held.union(self._lost).union(self._excluded))
        self._memory = MemoryMap.of((start, end - start) for start, end in blocks)
        if self._memory.size > MAX_RAM:
            raise FormatError(self.path, f"its PT_LOADs claim {self._memory.size >> 40} TiB of RAM", offset=0)

    def guest(self) -> Guest:
        return Guest(
            self._memory,
            machine=self._header.e_machine,
            byte_order=self._byte_order,
            elf_class=self._elf_class,
            notes=self._notes,
            vmcoreinfo=self._vmcoreinfo,
            sections=self._sections,
        )

    def excluded(self) -> Ranges:
        return self._excluded

    def unreadable(self) -> Ranges:
        return self._lost

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        at, end = paddr, paddr + len(buffer)
        while at < end:
            i = bisect_right(self._starts, at) - 1
            if i >= 0 and at < self._loads[i][1]:
                start, stop, offset = self._loads[i]
                stop = min(stop, end)
                self._backing.read_into(offset + at - start, buffer[at - paddr : stop - paddr])
            else:
                if self._memory.find(at) is None:
                    raise ReadError(paddr, len(buffer), f"there is no RAM at {at:#x}")
                stop = min(end, self._starts[i + 1]) if i + 1 < len(self._starts) else end
                buffer[at - paddr : stop - paddr] = bytes(stop - at)
            at = stop

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Ranges that follow each other in the file, as those between which pages were left out do, are one read."""
        at = done = 0
        offset = next_offset = -1
        for start, end in runs:
            i = bisect_right(self._starts, start) - 1
            here = self._loads[i][2] + start - self._loads[i][0] if i >= 0 and end <= self._loads[i][1] else -1
            if here < 0 or here != next_offset:
                if at > done:
                    self._backing.read_into(offset, buffer[done:at])
                done, offset = at, here
            at += end - start
            next_offset = here + end - start
            if here < 0:
                self.read_into(start, buffer[done:at])
                done, next_offset = at, -1
        if at > done:
            self._backing.read_into(offset, buffer[done:at])

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """What the holes of a sparse file leave over."""
        end = paddr + size
        i = max(0, bisect_right(self._starts, paddr) - 1)
        while i < len(self._loads) and self._loads[i][0] < end:
            start, stop, offset = self._loads[i]
            first, last = max(start, paddr), min(stop, end)
            if last > first:
                base = offset - start
                for a, b in self._backing.data_ranges(first + base, last - first):
                    yield a - base, b - base
            i += 1

    def flaws(self) -> Iterator[str]:
        header, ehsize = self._header, type(self._header).nbytes()
        if header.e_phoff != ehsize:
            yield f"the program headers are at {header.e_phoff:#x}, and makedumpfile looks at {ehsize:#x}"
        if header.e_ehsize != ehsize:
            yield f"e_ehsize is {header.e_ehsize}, not {ehsize}"
        for name in self._repeated:
            yield f"the section {name!r} repeats memory or another section, and is not kept"

    def describe(self) -> tuple[tuple[str, str], ...]:
        flattened = ", flattened" if self._backing.flattened else ""
        return (("format", f"ELF{self._elf_class} core, {len(self._loads)} segments{flattened}"),)

    def close(self) -> None:
        self._backing.close()


_LOAD_FIELDS: Final = ("p_paddr", "p_offset", "p_filesz", "p_memsz")
