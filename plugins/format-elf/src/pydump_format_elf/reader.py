"""Reads ELF vmcores: QEMU's, makedumpfile's, /proc/vmcore copies, and others that keep the rules loosely."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.pieces import PiecesImage
from pydump.layout.elf import DUMP_ELF_INCOMPLETE, PT_LOAD, PT_NOTE
from pydump.layout.notes import MAX_NOTES, MAX_NOTES_SIZE, read_notes, split_vmcoreinfo
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.model.note import Note
from pydump_format_elf.headers import first_bytes, read_headers
from pydump_format_elf.loads import find_loads
from pydump_format_elf.sections import read_sections
from pydump_format_elf.virtualbox import is_virtualbox, read_cpus, without_devices

#: Notes that only the core of a process has: NT_AUXV, NT_SIGINFO and NT_FILE.
#: Source: fs/binfmt_elf.c of the Linux kernel, fill_note_info; fs/proc/kcore.c has none of them.
_OF_A_PROCESS: Final = frozenset({6, 0x53494749, 0x46494C45})
_NT_PRPSINFO: Final = 3
_NT_TASKSTRUCT: Final = 4


class ElfImage(PiecesImage):
    """An ELF vmcore.

    Raises:
        FormatError: Its headers say nothing of guest memory that can be true.
    """

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self.path = backing.path
        headers = read_headers(backing)
        self._headers = headers
        types = headers.segments["p_type"]
        notes, note_faults = self._read_notes(headers.segments[types == PT_NOTE])
        self._notes, self._vmcoreinfo, no_text = split_vmcoreinfo(notes)
        self._check_notes()
        segments = headers.segments[types == PT_LOAD]
        self._is_virtualbox, self._device_size = is_virtualbox(self._notes, headers.byte_order), 0
        if self._is_virtualbox:
            segments, self._device_size = without_devices(segments)
        incomplete = bool(headers.header.e_flags & DUMP_ELF_INCOMPLETE)
        loads = find_loads(backing, segments, headers.elf_class, incomplete=incomplete)
        super().__init__(backing, loads.pieces, loads.memory)
        self._excluded, self._lost, self._mappings = loads.excluded, loads.lost, loads.mappings
        self._warnings = (*headers.warnings, *note_faults, *no_text, *loads.warnings)
        places = Ranges.of((offset, offset + end - start) for start, end, offset in self._pieces)
        self._sections, self._repeated = read_sections(
            backing, headers.header, headers.shdr, headers.byte_order, places
        )

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
            cpus=read_cpus(self._notes, self._headers.byte_order) if self._is_virtualbox else (),
            vmcoreinfo=self._vmcoreinfo,
            sections=self._sections,
        )

    def excluded(self) -> Ranges:
        return self._excluded

    def unreadable(self) -> Ranges:
        return self._lost

    def more_lost(self) -> bool:
        return self._headers.cut

    def mappings(self) -> NDArray[np.uint64]:
        return self._mappings

    def defects(self) -> Iterator[str]:
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
        count = len(self._pieces)
        segments = f"{count} segment{'' if count == 1 else 's'}"
        maker = " by VirtualBox" if self._is_virtualbox else ""
        rows = [("format", f"ELF{self._headers.elf_class} core{maker}, {segments}{flattened}")]
        if self._device_size:
            rows.append(("not read", f"{self._device_size} bytes of memory of devices"))
        return tuple(rows)

    def warnings(self) -> tuple[str, ...]:
        return self._warnings
