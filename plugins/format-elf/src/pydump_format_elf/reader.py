"""Reads ELF vmcores: QEMU's, makedumpfile's, /proc/vmcore copies, and others that keep the rules loosely."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError, PlanError, ReadError
from pydump.interfaces.backing import Backing
from pydump.interfaces.source import Place, Source
from pydump.layout.elf import PT_LOAD, PT_NOTE
from pydump.layout.notes import MAX_NOTES, MAX_NOTES_SIZE, read_notes, split_vmcoreinfo
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.model.note import Note
from pydump_format_elf.headers import first_bytes, read_headers
from pydump_format_elf.loads import find_loads
from pydump_format_elf.sections import read_sections

#: Notes that only the core of a process has: NT_AUXV, NT_SIGINFO and NT_FILE.
#: Source: fs/binfmt_elf.c of the Linux kernel, fill_note_info; fs/proc/kcore.c has none of them.
_OF_A_PROCESS: Final = frozenset({6, 0x53494749, 0x46494C45})
_NT_PRPSINFO: Final = 3
_NT_TASKSTRUCT: Final = 4


class ElfSource(Source):
    """An ELF vmcore.

    Raises:
        FormatError: Its headers say nothing of guest memory that can be true.
    """

    name: ClassVar[str] = "elf"

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self.path = backing.path
        headers = read_headers(backing)
        self._headers = headers
        types = headers.segments["p_type"]
        notes, note_faults = self._read_notes(headers.segments[types == PT_NOTE])
        self._notes, self._vmcoreinfo, no_text = split_vmcoreinfo(notes)
        self._check_notes()
        loads = find_loads(backing, headers.segments[types == PT_LOAD], headers.elf_class)
        self._loads, self._memory, self._excluded, self._lost = loads.pieces, loads.memory, loads.excluded, loads.lost
        self._mappings = loads.mappings
        self._starts = [start for start, _, _ in loads.pieces]
        self._warnings = (*headers.warnings, *note_faults, *no_text, *loads.warnings)
        places = Ranges.of((offset, offset + end - start) for start, end, offset in self._loads)
        self._sections, self._repeated = read_sections(
            backing, headers.header, headers.shdr, headers.byte_order, places
        )

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        raise PlanError("an ELF file is opened by its path")

    def _read_notes(self, segments: NDArray[Any]) -> tuple[list[Note], list[str]]:
        """The notes that the file has, and a line for each fault."""
        notes: list[Note] = []
        faults: list[str] = []
        total = 0
        for segment in segments:
            offset, size = int(segment["p_offset"]), int(segment["p_filesz"])
            there = first_bytes(self._backing, offset, size)
            if there < size:
                faults.append(f"the file ends after {there} of {size} bytes of notes")
            if total + there > MAX_NOTES_SIZE:
                faults.append(f"there are more than {MAX_NOTES_SIZE >> 20} MiB of notes: what follows is not read")
                break
            total += there
            data = self._backing.read(offset, there) if there else b""
            found, odd = read_notes(data, self._headers.byte_order, int(segment["p_align"]))
            notes += found
            # What lies past the end of the file has been said.
            faults += [f"notes at {offset:#x}: {fault}" for fault in odd if there == size]
            if len(notes) > MAX_NOTES:
                del notes[MAX_NOTES:]
                faults.append(f"there are more than {MAX_NOTES} notes: what follows is not read")
                break
        return notes, faults

    def _check_notes(self) -> None:
        """Refuse the core of a process, whose notes say what it is whatever its p_paddr."""
        types = {note.type for note in self._notes if note.name == "CORE"}
        a_process = bool(types & _OF_A_PROCESS) or (_NT_PRPSINFO in types and _NT_TASKSTRUCT not in types)
        if a_process and self._vmcoreinfo is None:
            raise FormatError(
                self.path, "it is the core of a process, not of a machine", hint="a debugger reads it: gdb -c FILE"
            )

    def guest(self) -> Guest:
        return Guest(
            self._memory,
            machine=self._headers.header.e_machine,
            byte_order=self._headers.byte_order,
            elf_class=self._headers.elf_class,
            notes=self._notes,
            vmcoreinfo=self._vmcoreinfo,
            sections=self._sections,
        )

    def excluded(self) -> Ranges:
        return self._excluded

    def unreadable(self) -> Ranges:
        return self._lost

    def mappings(self) -> NDArray[np.uint64]:
        return self._mappings

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

    def place(self, paddr: int) -> Place | None:
        """Where the byte at ``paddr`` is stored, and how many follow it to the end of its 4 KiB."""
        i = bisect_right(self._starts, paddr) - 1
        if i < 0 or paddr >= self._loads[i][1]:
            return None
        start, stop, offset = self._loads[i]
        size = min(stop, paddr - paddr % 4096 + 4096) - paddr
        return Place(self.path, offset + paddr - start, size, "none")

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
        header = self._headers.header
        ehsize = type(header).nbytes()
        if header.e_phoff != ehsize:
            yield f"the program headers are at {header.e_phoff:#x}, and makedumpfile looks at {ehsize:#x}"
        if header.e_ehsize != ehsize:
            yield f"e_ehsize is {header.e_ehsize}, not {ehsize}"
        for name in self._repeated:
            yield f"the section {name!r} repeats memory or another section, and is not kept"

    def describe(self) -> tuple[tuple[str, str], ...]:
        flattened = ", flattened" if self._backing.flattened else ""
        count = len(self._loads)
        segments = f"{count} segment{'' if count == 1 else 's'}"
        return (("format", f"ELF{self._headers.elf_class} core, {segments}{flattened}"),)

    def warnings(self) -> tuple[str, ...]:
        return self._warnings

    def close(self) -> None:
        self._backing.close()
