"""The beginning of QEMU's ELF stream: the guest's facts, and where in the stream its memory comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydump.errors import SourceError
from pydump.layout.elf import (
    ELFCLASS32,
    ELFCLASS64,
    ELFDATA2LSB,
    ELFDATA2MSB,
    ELFMAG,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    Elf32Ehdr,
    Elf32Phdr,
    Elf64Ehdr,
    Elf64Phdr,
    Ident,
)
from pydump.layout.notes import unpack_notes
from pydump.model.guest import ByteOrder, Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_source_qemu.pipe import Pipe

_CLASSES: Final[dict[int, tuple[int, Any, Any]]] = {
    ELFCLASS32: (32, Elf32Ehdr, Elf32Phdr),
    ELFCLASS64: (64, Elf64Ehdr, Elf64Phdr),
}
_ORDERS: Final[dict[int, ByteOrder]] = {ELFDATA2LSB: "little", ELFDATA2MSB: "big"}
#: Longer than headers and notes of any guest; what claims more is no ELF head.
MAX_HEAD: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class Load:
    """A run of guest memory in the stream.

    Attributes:
        offset: Where in the stream it begins.
        paddr: Its guest-physical address.
        size: Bytes.
    """

    offset: int
    paddr: int
    size: int


@dataclass(frozen=True, slots=True)
class Head:
    """What comes before memory.

    Attributes:
        guest: The facts.
        loads: The memory that follows, in the order of the stream.
    """

    guest: Guest
    loads: tuple[Load, ...]


def read_head(pipe: Pipe) -> Head:
    """Read headers and notes; what is left in the pipe is memory (and maybe what lies between).

    Raises:
        EOFError: The stream ended before.
        SourceError: It is no ELF stream as QEMU writes them.
    """
    data = bytearray(pipe.read(Ident.nbytes()))
    if not data.startswith(ELFMAG) or data[4] not in _CLASSES or data[5] not in _ORDERS:
        raise SourceError("what QEMU sends is no ELF stream")
    elf_class, ehdr, phdr = _CLASSES[data[4]]
    order = _ORDERS[data[5]]

    def reach(end: int) -> None:
        if end > MAX_HEAD:
            raise SourceError(f"QEMU's ELF stream has {end:#x} bytes of headers and notes")
        data.extend(pipe.read(max(0, end - len(data))))

    reach(ehdr.nbytes())
    header = ehdr.unpack(data, order)
    if header.e_phnum == PN_XNUM:
        raise SourceError("QEMU's ELF stream has more segments than its header can count")
    reach(header.e_phoff + header.e_phnum * header.e_phentsize)
    segments = [phdr.unpack(data, order, header.e_phoff + i * header.e_phentsize) for i in range(header.e_phnum)]
    spans = [(s.p_offset, s.p_offset + s.p_filesz) for s in segments if s.p_type == PT_NOTE]
    reach(max((end for _, end in spans), default=0))
    try:
        notes = [note for start, end in spans for note in unpack_notes(memoryview(data)[start:end], order)]
    except ValueError as error:
        raise SourceError(f"the notes that QEMU sends are damaged: {error}") from None
    # What a filter left out has no bytes in the stream.
    loads = sorted((Load(s.p_offset, s.p_paddr, s.p_filesz) for s in segments if s.p_type == PT_LOAD and s.p_filesz),
                   key=lambda load: load.offset)  # fmt: skip
    text = next((note.desc for note in notes if note.is_vmcoreinfo), None)
    guest = Guest(
        MemoryMap.of((load.paddr, load.size) for load in loads),
        machine=header.e_machine,
        byte_order=order,
        elf_class=elf_class,
        notes=tuple(note for note in notes if not note.is_vmcoreinfo),
        vmcoreinfo=None if text is None else Vmcoreinfo(text),
    )
    return Head(guest, tuple(loads))
