"""Reads chunk files, damaged ones as well: whatever is wrong is a FormatError."""

from __future__ import annotations

import json
from bisect import bisect_right
from itertools import accumulate
from typing import Any

from pydump.errors import CompressionError, FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.format import Decompressors
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest, Utsname
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_format_chunks import CHUNK, ENTRY, PREFIX


class ChunksImage(MemoryImage):
    """A chunk file.

    Raises:
        FormatError: It is damaged.
        UnknownPluginError: Its compressor is not installed.
    """

    def __init__(self, backing: Backing, compressor: Decompressors) -> None:
        self._backing = backing
        _, length = PREFIX.unpack(backing.read(0, PREFIX.size))
        header = backing.read(PREFIX.size, length)
        try:
            facts = json.loads(header)
            self._guest = _guest(facts)
            self._excluded, self._unreadable, self._chunks = (
                Ranges.of((int(start), int(end)) for start, end in facts[name])
                for name in ("excluded", "unreadable", "chunks")
            )
            compression = str(facts["compression"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise FormatError(backing.path, f"its header is damaged: {error!r}", offset=PREFIX.size) from None
        ram = self._guest.memory.ranges()
        held = ram.subtract(self._excluded).subtract(self._unreadable)
        if held.page_aligned(CHUNK) != self._chunks or self._excluded.union(self._unreadable).subtract(ram):
            raise FormatError(backing.path, "its header contradicts itself", offset=PREFIX.size)
        self._table = PREFIX.size + length
        backing.check(self._table, self._chunks.size // CHUNK * ENTRY.size)
        self._codec = None if compression == "none" else compressor(compression)
        self._starts = [start for start, _ in self._chunks]
        self._first = list(accumulate(((end - start) // CHUNK for start, end in self._chunks), initial=0))
        self._last: tuple[int, bytes] = (-1, b"")

    def guest(self) -> Guest:
        return self._guest

    def excluded(self) -> Ranges:
        return self._excluded

    def unreadable(self) -> Ranges:
        return self._unreadable

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))
        for start, end in self._chunks.clip(paddr, paddr + len(buffer)):
            for at in range(start // CHUNK * CHUNK, end, CHUNK):
                first, last = max(at, start), min(at + CHUNK, end)
                buffer[first - paddr : last - paddr] = self._chunk(at)[first - at : last - at]

    def _chunk(self, paddr: int) -> bytes:
        """The chunk that begins at ``paddr``; the last one is kept, for those who read little by little."""
        if self._last[0] != paddr:
            i = bisect_right(self._starts, paddr) - 1
            entry = self._table + (self._first[i] + (paddr - self._starts[i]) // CHUNK) * ENTRY.size
            offset, size, compressed = ENTRY.unpack(self._backing.read(entry, ENTRY.size))
            self._last = paddr, self._unpacked(entry, offset, size, compressed)
        return self._last[1]

    def _unpacked(self, entry: int, offset: int, size: int, compressed: int) -> bytes:
        if offset == 0:
            return bytes(CHUNK)
        data = self._backing.read(offset, size)
        if not compressed and size == CHUNK:
            return data
        if not compressed or self._codec is None:
            raise FormatError(self._backing.path, f"a chunk of {size} bytes that is not compressed", offset=entry)
        try:
            return self._codec.decompress(data, CHUNK)
        except CompressionError as error:
            raise FormatError(self._backing.path, error.message, offset=offset) from None

    def close(self) -> None:
        self._backing.close()


def _guest(facts: Any) -> Guest:
    """The guest that a header describes; raises whatever a damaged one leads to."""
    if facts["byte_order"] not in ("little", "big") or facts["elf_class"] not in (32, 64):
        raise ValueError("no such machine")
    page_size = int(facts["page_size"])
    if page_size < 512 or page_size & (page_size - 1):
        raise ValueError(f"no page has {page_size} bytes")
    return Guest(
        MemoryMap.of((int(paddr), int(size)) for paddr, size in facts["ram"]),
        arch=facts["arch"] and str(facts["arch"]),
        machine=facts["machine"] and int(facts["machine"]),
        byte_order=facts["byte_order"],
        elf_class=facts["elf_class"],
        page_size=page_size,
        phys_base=facts["phys_base"] and int(facts["phys_base"]),
        notes=tuple(Note(str(name), int(type_), bytes.fromhex(desc)) for name, type_, desc in facts["notes"]),
        vmcoreinfo=facts["vmcoreinfo"] and Vmcoreinfo(bytes.fromhex(facts["vmcoreinfo"])),
        utsname=Utsname(*map(str, facts["utsname"])),
    )
