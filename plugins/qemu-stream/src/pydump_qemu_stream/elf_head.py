"""The beginning of QEMU's ELF stream: the guest's facts, and where in the stream its memory comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from pydump.errors import SourceError
from pydump.layout.elf import (
    CLASSES,
    ELFMAG,
    ET_CORE,
    ORDERS,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    Elf64Phdr,
    Ident,
)
from pydump.layout.notes import MAX_NOTES, MAX_NOTES_SIZE, split_vmcoreinfo, unpack_notes
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.note import Note

#: More RAM than this is not believed.
MAX_RAM: Final = 1 << 47
#: Bytes from the start of the stream to its memory: a full table of segments, notes, and room for other tables.
MAX_HEAD: Final = (1 << 16) * Elf64Phdr.nbytes() + MAX_NOTES_SIZE + (1 << 20)


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


class Pipe(Protocol):
    """What the stream comes through."""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes; EOFError where the stream ends before."""
        ...


def read_head(pipe: Pipe) -> Head:
    """Read headers and notes; what is left in the pipe is memory (and maybe what lies between).

    Raises:
        EOFError: The stream ended before.
        SourceError: It is not an ELF stream as QEMU writes them.
    """
    data = bytearray(pipe.read(Ident.nbytes()))
    if not data.startswith(ELFMAG) or data[4] not in CLASSES or data[5] not in ORDERS:
        raise SourceError("what QEMU sends is not an ELF stream")
    elf_class, ehdr, phdr, _ = CLASSES[data[4]]
    order = ORDERS[data[5]]

    def reach(end: int) -> None:
        if end > MAX_HEAD:
            raise _damaged(f"its headers and notes end at {end:#x}")
        while len(data) < end:
            data.extend(pipe.read(min(1 << 20, end - len(data))))

    reach(ehdr.nbytes())
    header = ehdr.unpack(data, order)
    if header.e_type != ET_CORE:
        raise _damaged(f"its type is {header.e_type}, not that of a core file")
    if header.e_phnum == PN_XNUM:
        raise SourceError("QEMU's ELF stream has more segments than its header can count")
    if header.e_phnum and (header.e_phentsize != phdr.nbytes() or header.e_phoff < ehdr.nbytes()):
        raise _damaged(f"program headers of {header.e_phentsize} bytes at {header.e_phoff:#x}")
    reach(header.e_phoff + header.e_phnum * phdr.nbytes())
    segments = [phdr.unpack(data, order, header.e_phoff + i * phdr.nbytes()) for i in range(header.e_phnum)]
    tables_end = len(data)
    spans = [(s.p_offset, s.p_offset + s.p_filesz) for s in segments if s.p_type == PT_NOTE and s.p_filesz]
    if any(start < tables_end for start, _ in spans):
        raise _damaged("its notes begin within its headers")
    if (size := sum(end - start for start, end in spans)) > MAX_NOTES_SIZE:
        raise _damaged(f"it has {size:#x} bytes of notes")
    reach(max((end for _, end in spans), default=0))
    notes: list[Note] = []
    for start, end in spans:
        try:
            notes += unpack_notes(memoryview(data)[start:end], order)
        except ValueError as error:
            raise SourceError(f"the notes that QEMU sends are damaged: {error}") from None
        if len(notes) > MAX_NOTES:
            raise _damaged(f"it has more than {MAX_NOTES} notes")
    # What a filter left out has no bytes in the stream.
    loads = tuple(Load(s.p_offset, s.p_paddr, s.p_filesz) for s in segments if s.p_type == PT_LOAD and s.p_filesz)
    loads = tuple(sorted(loads, key=lambda load: load.offset))
    others, text, _ = split_vmcoreinfo(notes)
    guest = Guest(
        _memory(loads, len(data)),
        machine=header.e_machine,
        byte_order=order,
        elf_class=elf_class,
        notes=others,
        vmcoreinfo=text,
    )
    return Head(guest, loads)


def _memory(loads: tuple[Load, ...], head_end: int) -> MemoryMap:
    """Where RAM lies, if the stream can hold it as it says.

    Args:
        loads: In the order of the stream.
        head_end: How much of the stream has been read.
    """
    at = head_end
    for load in loads:
        if load.offset < at:
            raise _damaged(f"the memory at paddr {load.paddr:#x} begins at {load.offset:#x}, which is before {at:#x}")
        if load.offset - at > MAX_HEAD:
            raise _damaged(f"there are {load.offset - at:#x} bytes before the memory at paddr {load.paddr:#x}")
        at = load.offset + load.size
    try:
        memory = MemoryMap.of((load.paddr, load.size) for load in loads)
    except ValueError as error:
        raise _damaged(str(error)) from None
    if memory.size > MAX_RAM:
        raise _damaged(f"it claims {memory.size >> 40} TiB of RAM")
    return memory


def _damaged(why: str) -> SourceError:
    return SourceError(f"QEMU's ELF stream is damaged: {why}")
