"""Finds VMCOREINFO in guest RAM, for the guests whose dump came without it.

The kernel keeps it twice (kernel/vmcore_info.c): as text at the start of a page, which begins with ``OSRELEASE=``, and
as a complete ELF note in pages of its own, whose name ``VMCOREINFO`` stands at offset 12. Both are looked for at the
start of every 4 KiB of RAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pydump.errors import ReadError
from pydump.interfaces.source import KnowsHoles, Source
from pydump.layout.elf import Nhdr
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import VMCOREINFO_NAME
from pydump.model.vmcoreinfo import Vmcoreinfo

if TYPE_CHECKING:
    from pydump.model.guest import ByteOrder

#: The least page any kernel has; what is looked for is aligned to it.
STEP: Final = 4096
#: Bytes read at a time, a multiple of STEP.
PIECE: Final = 8 << 20
#: The kernel gives the text one page, and the largest page is this long.
MAX_TEXT: Final = 64 << 10

_NAME: Final = VMCOREINFO_NAME.encode() + b"\0"
_TEXT: Final = b"OSRELEASE="
_DESC_AT: Final = Nhdr.nbytes() + 12  # the name's 11 bytes, padded to 4


def find_vmcoreinfo(source: Source, memory: MemoryMap, byte_order: ByteOrder) -> Vmcoreinfo | None:
    """The VMCOREINFO that lies in a guest's RAM.

    Args:
        source: Where to read.
        memory: Where RAM lies.
        byte_order: The guest's.

    Returns:
        The soundest and most complete one, or None where there is none.
    """
    readable = memory.ranges().subtract(source.excluded()).subtract(source.unreadable())
    best: tuple[int, bool] = (0, False)
    found: Vmcoreinfo | None = None
    for paddr, is_note in _candidates(source, readable):
        text = _note_text(source, readable, paddr, byte_order) if is_note else _page_text(source, readable, paddr)
        if text is not None and (rank := (text.count(b"\n"), is_note)) > best:
            best, found = rank, Vmcoreinfo(text)
    return found


def _candidates(source: Source, readable: Ranges) -> Iterator[tuple[int, bool]]:
    """``(paddr, is a note)`` of every place that begins as VMCOREINFO does."""
    import numpy as np

    buffer = memoryview(bytearray(PIECE))
    head_text = int.from_bytes(_TEXT[:8], "little")
    head_name = int.from_bytes(_NAME[:4], "little")
    for start, end in _pieces(source, readable):
        size = end - start
        source.read_into(start, buffer[:size])
        words = np.frombuffer(buffer[:size], "<u4").reshape(-1, STEP // 4)
        texts = (words[:, 0] == head_text & 0xFFFFFFFF) & (words[:, 1] == head_text >> 32)
        notes = words[:, Nhdr.nbytes() // 4] == head_name
        for i in np.flatnonzero(texts | notes).tolist():
            at = i * STEP
            if texts[i] and bytes(buffer[at : at + len(_TEXT)]) == _TEXT:
                yield start + at, False
            name_at = at + Nhdr.nbytes()
            if notes[i] and bytes(buffer[name_at : name_at + len(_NAME)]) == _NAME:
                yield start + at, True


def _pieces(source: Source, readable: Ranges) -> Iterator[tuple[int, int]]:
    """What may hold data, in aligned pieces."""
    for start, end in readable:
        ranges = source.data_ranges(start, end - start) if isinstance(source, KnowsHoles) else [(start, end)]
        done = -(-start // STEP) * STEP
        for data_start, data_end in ranges:
            first = max(done, data_start // STEP * STEP)
            last = min(end // STEP, -(-data_end // STEP)) * STEP
            for at in range(first, last, PIECE):
                yield at, min(last, at + PIECE)
            done = max(done, last)


def _note_text(source: Source, readable: Ranges, paddr: int, byte_order: ByteOrder) -> bytes | None:
    """The text of the note at ``paddr``; None where its header does not make sense in this byte order."""
    head = Nhdr.unpack(_read(source, readable, paddr, Nhdr.nbytes()), byte_order)
    if head.n_namesz != len(_NAME) or head.n_type != 0 or not len(_TEXT) < head.n_descsz <= MAX_TEXT:
        return None
    return _sound(_read(source, readable, paddr + _DESC_AT, head.n_descsz).rstrip(b"\0"))


def _page_text(source: Source, readable: Ranges, paddr: int) -> bytes | None:
    """The text that begins the page at ``paddr`` and ends before its first NUL."""
    return _sound(_read(source, readable, paddr, MAX_TEXT).split(b"\0", 1)[0])


def _read(source: Source, readable: Ranges, paddr: int, size: int) -> bytes:
    """Up to ``size`` bytes, as many as are readable without a gap; the rest is zero."""
    run = next(iter(readable.clip(paddr, paddr + size)), (paddr, paddr))
    buffer = bytearray(size)
    if run[0] == paddr:
        try:
            source.read_into(paddr, memoryview(buffer)[: run[1] - paddr])
        except ReadError:
            return bytes(size)
    return bytes(buffer)


def _sound(text: bytes) -> bytes | None:
    """``text`` if it is what a kernel writes: lines of printable KEY=VALUE with a release and a page size."""
    lines = text.split(b"\n")
    if lines[-1:] == [b""]:
        lines.pop()
    if not all(b"=" in line and line.isascii() and line.decode().isprintable() for line in lines):
        return None
    info = Vmcoreinfo(text)
    return text if info.osrelease and info.page_size and len(lines) > 2 else None
