"""Finds VMCOREINFO in guest RAM, for guests whose source has no note of it.

Linux keeps it twice, each on pages of its own: the text, and an ELF note that holds a copy of the text.
Source: kernel/crash_core.c and include/linux/crash_core.h (vmcore_info.[ch] since 6.9) of the Linux kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydump.engine.scan import Piece, data_pages, scan
from pydump.errors import PlanError
from pydump.interfaces.executor import Executor
from pydump.interfaces.image import MemoryImage, ReadsHeads
from pydump.layout.elf import Nhdr
from pydump.layout.struct import U16, U32, U64, Bytes8, Layout
from pydump.model.guest import ByteOrder
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import VMCOREINFO_NAME
from pydump.model.vmcoreinfo import MAX_TEXT, Vmcoreinfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Both copies begin at a multiple of this, whatever the guest's page size.
ALIGNMENT: Final = 4096
#: Pages whose heads are read at once.
HEADS_AT_ONCE: Final = 1 << 12
#: More different texts than this are not kept.
MAX_CANDIDATES: Final = 16
#: Places that are looked at closely, of notes and of texts each: a kernel has one, and what ran before it a few more.
MAX_PLACES: Final = 1024

NOTE_NAME: Final = VMCOREINFO_NAME.encode().ljust(12, b"\0")
NOTE_HEAD: Final = Nhdr.nbytes() + len(NOTE_NAME)
TEXT_HEAD: Final = b"OSRELEASE="
#: What the text is made of: lines of printable ASCII.
TEXT: Final = re.compile(rb"[\n\x20-\x7e]+")

#: Where s390x's lowcore, at paddr 0, points to the note and to struct os_info.
#: Source: arch/s390/include/asm/lowcore.h.
LOWCORE_VMCORE_INFO: Final = 0xE0C
LOWCORE_OS_INFO: Final = 0xE18
OS_INFO_MAGIC: Final = b"OSINFOSZ"


class OsInfo(Layout):
    """struct os_info up to its first entry, which is VMCOREINFO's. Source: arch/s390/include/asm/os_info.h."""

    magic: Bytes8 = OS_INFO_MAGIC
    csum: U32 = 0
    version_major: U16 = 0
    version_minor: U16 = 0
    crashkernel_addr: U64 = 0
    crashkernel_size: U64 = 0
    vmcoreinfo_addr: U64 = 0
    vmcoreinfo_size: U64 = 0


@dataclass(frozen=True, slots=True)
class _Memory:
    """Guest RAM by address; what is not there reads as nothing."""

    source: MemoryImage
    map: MemoryMap

    def read(self, paddr: int, size: int) -> bytes:
        """Up to ``size`` bytes, fewer where RAM ends."""
        block = self.map.find(paddr)
        if block is None:
            return b""
        buffer = bytearray(min(size, block.end - paddr))
        self.source.read_into(paddr, memoryview(buffer))
        return bytes(buffer)


def find_vmcoreinfo(
    source: MemoryImage, memory: MemoryMap, byte_order: ByteOrder, *, executor: Executor | None = None
) -> tuple[Vmcoreinfo, ...]:
    """What may be the guest kernel's VMCOREINFO, the likeliest first; nothing where RAM holds none that makes sense.

    Copies may lie about: of a kernel that ran before, of a crash kernel, in a file. The note is preferred to the plain
    text, for only the kernel writes one, and then the text that says most.

    Args:
        source: Reads the memory.
        memory: Where to look.
        byte_order: The guest's.
        executor: Whose workers search; default: as many local ones as there are CPUs.

    Raises:
        ReadError: The source cannot read its own memory.
    """
    ram = _Memory(source, memory)
    named = _from_lowcore(ram) if byte_order == "big" else None
    if named is not None:
        return (named,)
    found: dict[bytes, tuple[bool, int, int, Vmcoreinfo]] = {}
    left = {True: MAX_PLACES, False: MAX_PLACES}
    pages = data_pages(source, memory.ranges().whole_pages(ALIGNMENT), ALIGNMENT)
    if isinstance(source, ReadsHeads):
        heads: Iterable[list[tuple[int, bool]]] = _read_heads(source, pages)
    else:
        heads = scan(source, pages, _Heads(), unit=ALIGNMENT, executor=executor)
    for paddr, is_note in chain.from_iterable(heads):
        left[is_note] -= 1
        if left[is_note] < 0:
            continue
        candidate = _note_at(ram, paddr, byte_order) if is_note else _text_at(ram, paddr)
        if candidate is None:
            continue
        rank = (is_note, len(candidate.keys()), -paddr)
        if candidate.text not in found or rank > found[candidate.text][:3]:
            found[candidate.text] = (*rank, candidate)
        if len(found) > MAX_CANDIDATES:
            del found[min(found, key=lambda text: found[text][:3])]
    return tuple(entry[3] for entry in sorted(found.values(), key=lambda entry: entry[:3], reverse=True))


def _from_lowcore(ram: _Memory) -> Vmcoreinfo | None:
    """What an s390x kernel's lowcore points to."""
    note = int.from_bytes(ram.read(LOWCORE_VMCORE_INFO, 8), "big")
    found = _note_at(ram, note, "big") if note else None
    if found is not None:
        return found
    address = int.from_bytes(ram.read(LOWCORE_OS_INFO, 8), "big")
    data = ram.read(address, OsInfo.nbytes()) if address else b""
    if not data.startswith(OS_INFO_MAGIC) or len(data) < OsInfo.nbytes():
        return None
    os_info = OsInfo.unpack(data, "big")
    return _sensible(ram.read(os_info.vmcoreinfo_addr, min(os_info.vmcoreinfo_size, MAX_TEXT)))


def _note_at(ram: _Memory, paddr: int, byte_order: ByteOrder) -> Vmcoreinfo | None:
    head = ram.read(paddr, NOTE_HEAD)
    if len(head) < NOTE_HEAD or head[Nhdr.nbytes() :] != NOTE_NAME:
        return None
    header = Nhdr.unpack(head, byte_order)
    if (header.n_namesz, header.n_type) != (len(VMCOREINFO_NAME) + 1, 0) or header.n_descsz > MAX_TEXT:
        return None
    text = ram.read(paddr + NOTE_HEAD, header.n_descsz)
    return _sensible(text) if len(text) == header.n_descsz else None


def _text_at(ram: _Memory, paddr: int) -> Vmcoreinfo | None:
    text, end, _ = ram.read(paddr, MAX_TEXT + 1).partition(b"\0")
    found = _sensible(text) if end else None
    return found if found is not None and len(text) <= (found.page_size or 0) else None


def read_vmcoreinfo(path: Path) -> Vmcoreinfo:
    """The VMCOREINFO text in a file, as ``makedumpfile -g`` or ``pydump info --vmcoreinfo`` writes it.

    Raises:
        PlanError: The file cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from None
    found = _sensible(text) if len(text) <= MAX_TEXT else None
    if found is None:
        raise PlanError(
            f"{path} is not a VMCOREINFO text",
            hint="it begins with OSRELEASE= and names the PAGESIZE; pydump info --vmcoreinfo prints one",
        )
    return found


def _sensible(text: bytes) -> Vmcoreinfo | None:
    """``text`` as VMCOREINFO, if it can be one."""
    text = text.rstrip(b"\0")
    if not text.startswith(TEXT_HEAD) or not TEXT.fullmatch(text):
        return None
    found = Vmcoreinfo(text)
    return found if found.osrelease and found.page_size else None


class _Heads:
    """Finds the pages that begin like one of the two: a list of paddr, and whether it is like the note."""

    def examine(self, piece: Piece) -> list[tuple[int, bool]]:
        return [] if piece.hole else _alike(piece.read(), ALIGNMENT, piece.pages(ALIGNMENT))


def _alike(heads: bytes | bytearray | memoryview, size: int, pages: NDArray[np.uint64]) -> list[tuple[int, bool]]:
    """The pages that begin like one of the two: paddr, and whether it is like the note.

    Args:
        heads: The first bytes of each page, end to end.
        size: How many of each, a multiple of 8.
        pages: Their paddr.
    """
    import numpy as np

    note_word = np.frombuffer(NOTE_NAME[4:], np.uint64)[0]
    text_word = np.frombuffer(TEXT_HEAD[:8], np.uint64)[0]
    words = np.frombuffer(heads, np.uint64).reshape(-1, size // 8)
    is_note = words[:, (Nhdr.nbytes() + 4) // 8] == note_word
    found = np.flatnonzero(is_note | (words[:, 0] == text_word))
    return list(zip(pages[found].tolist(), is_note[found].tolist(), strict=True))


def _read_heads(source: ReadsHeads, pages: Ranges) -> Iterator[list[tuple[int, bool]]]:
    """What :class:`_Heads` finds, without reading whole pages."""
    import numpy as np

    for start, end in pages:
        for at in range(start, end, HEADS_AT_ONCE * ALIGNMENT):
            some = np.arange(at, min(end, at + HEADS_AT_ONCE * ALIGNMENT), ALIGNMENT, dtype=np.uint64)
            yield _alike(source.read_heads(some.tolist(), NOTE_HEAD), NOTE_HEAD, some)
