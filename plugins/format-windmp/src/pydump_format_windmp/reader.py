"""Reads Windows crash dumps: full and bitmap dumps, and the kernel and complete dumps of Windows 10 and later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydump.interfaces.pieces import PiecesImage
from pydump.layout.windows import UNSET, windows_facts
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import VMCOREINFO_NAME, Note
from pydump_format_windmp.contents import read_contents
from pydump_format_windmp.contexts import find_contexts, read_contexts, unpack_context
from pydump_format_windmp.facts import MACHINES, X86, find_block, kernel_memory
from pydump_format_windmp.layout import BITMAP_TYPES, PAGE_SIZE, DumpType

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.backing import Backing

#: MachineImageType to ELF e_machine; where Windows has not set it, that of the header's bits.
_MACHINES = {machine_type: machine for machine, (_, machine_type) in MACHINES.items()}
_UNSET = {64: 62, 32: 3}


class WindmpImage(PiecesImage):
    """A Windows crash dump.

    Its header is the guest's VMCOREINFO note, as QEMU has it, so that a dump of any format keeps it.

    Raises:
        FormatError: Its headers do not say where guest memory lies.
    """

    def __init__(self, backing: Backing) -> None:
        self._contents = contents = read_contents(backing)
        super().__init__(backing, contents.pieces, MemoryMap.of((start, end - start) for start, end in contents.ram))
        self._facts = windows_facts(contents.header)

    def guest(self) -> Guest:
        assert self._facts is not None
        bits = self._facts.bits
        machine_type = self._contents.fields.machine_image_type
        machine = _UNSET[bits] if machine_type == UNSET else _MACHINES.get(machine_type)
        return Guest(
            self._memory,
            machine=machine,
            byte_order="little" if machine else None,
            elf_class=bits if machine else None,
            page_size=PAGE_SIZE if machine in X86 else None,
            notes=(Note(VMCOREINFO_NAME, 0, self._contents.header),),
            windows=self._facts,
        )

    def cpus(self, guest: Guest, arch: type[Arch]) -> tuple[Cpu, ...]:
        """The registers that Windows or QEMU saved in memory; else the ones in the header, as those of CPU 0."""
        facts = self._facts
        assert facts is not None
        if guest.machine not in X86:
            return ()
        kernel = kernel_memory(self, guest, arch, facts)
        kdbg = find_block(kernel, facts, ()) if kernel else None
        found: tuple[Cpu, ...] = ()
        if kernel and kdbg:
            found = read_contexts(kernel, find_contexts(kernel, kdbg, facts.bits, facts.n_cpus), facts.bits)
        if not found:
            registers = unpack_context(self._contents.fields.context_record, facts.bits)
            found = (Cpu(0, registers),) if registers else ()
        return found

    def excluded(self) -> Ranges:
        return self._contents.excluded

    def unreadable(self) -> Ranges:
        return self._contents.lost

    def more_lost(self) -> bool:
        return self._contents.cut

    def describe(self) -> tuple[tuple[str, str], ...]:
        contents = self._contents
        if contents.kind == DumpType.FULL:
            kind = "full"
        elif contents.kind in BITMAP_TYPES:
            kind = "bitmap"
        else:
            kind = "complete" if contents.kind == DumpType.COMPLETE else "kernel"
        flattened = ", flattened" if self._backing.flattened else ""
        return (("format", f"Windows crash dump, {contents.bits} bits, {kind} (type {contents.kind:d}){flattened}"),)

    def warnings(self) -> tuple[str, ...]:
        return self._contents.warnings
