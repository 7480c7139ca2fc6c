"""Read guest memory from QEMU's migration stream, as a background snapshot sends it.

All numbers are big-endian.

Source: migration/{savevm,ram,vmstate}.c of QEMU 7.2 and 10.0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pydump.errors import SourceError
from pydump.model.memory import Ranges
from pydump_source_qemu.flat_view import Place
from pydump_source_qemu.reader import Reader, damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

QEMU_VM_FILE_MAGIC: Final = 0x5145564D
QEMU_VM_FILE_VERSION: Final = 3
QEMU_VM_EOF: Final = 0
QEMU_VM_SECTION_START: Final = 1
QEMU_VM_SECTION_PART: Final = 2
QEMU_VM_SECTION_END: Final = 3
QEMU_VM_SECTION_FULL: Final = 4
QEMU_VM_SUBSECTION: Final = 5
QEMU_VM_CONFIGURATION: Final = 7
QEMU_VM_COMMAND: Final = 8
QEMU_VM_SECTION_FOOTER: Final = 0x7E
RAM_SAVE_FLAG_ZERO: Final = 0x02
RAM_SAVE_FLAG_MEM_SIZE: Final = 0x04
RAM_SAVE_FLAG_PAGE: Final = 0x08
RAM_SAVE_FLAG_EOS: Final = 0x10
RAM_SAVE_FLAG_CONTINUE: Final = 0x20
#: The bits of the flags of storage attributes.
FLAGS: Final = 0xFFF
#: TARGET_PAGE_SIZE, unless the stream says another, and how many bits another can have.
PAGE_SIZE: Final = 4096
PAGE_BITS: Final = range(10, 17)
#: More blocks of RAM and capabilities than these are not believed.
MAX_BLOCKS: Final = 1 << 14
MAX_CAPABILITIES: Final = 1 << 8
#: Sections that come in parts: RAM and the two others that there are.
MAX_SECTIONS: Final = 16
#: Sections of devices that take turns with RAM. Each ends its part of the stream in a way of its own.
STORAGE_ATTRIBUTES: Final = "s390-storage_attributes"
HASH_TABLE: Final = "spapr/htab"
#: Source: hw/s390x/s390-stattrib.c.
STATTR_FLAG_EOS: Final = 0x01
STATTR_FLAG_MORE: Final = 0x02
STATTR_FLAG_DONE: Final = 0x08
#: There is no hash table, for the guest uses radix page tables. Source: hw/ppc/spapr.c, htab_save_setup.
NO_HASH_TABLE: Final = 0xFFFFFFFF
#: Bytes of an entry. Source: HASH_PTE_SIZE_64 of target/ppc/mmu-hash64.h.
HASH_PTE_SIZE: Final = 16
#: Bytes of a section that is skipped without knowing its length.
MAX_SKIPPED: Final = 1 << 20


class RamStream:
    """Reads a migration stream up to the end of its RAM.

    Args:
        fill: Fills the beginning of a buffer with what comes next, and gives how much; EOFError at the end.
        parts: As :func:`pydump_source_qemu.flat_view.places` gives them.
        wanted: The paddrs that must come. QEMU sends no page of a virtio-mem block that is unplugged, for one.
        write: Called with a paddr and a page run's bytes, an array of shape (n,), uint8.
        tell: Called with the bytes of RAM that have come.
        began: Called once, before the first page. QEMU has write-protected RAM by then.
        most: Bytes that all blocks have at most.
    """

    def __init__(
        self,
        fill: Callable[[memoryview], int],
        parts: Mapping[str, list[Place]],
        wanted: Ranges,
        write: Callable[[int, NDArray[np.uint8]], None],
        tell: Callable[[int], None],
        began: Callable[[], None],
        most: int,
    ) -> None:
        self._reader = Reader(fill)
        self._regions = parts
        self._wanted = wanted
        self._write = write
        self._tell = tell
        self._began = began
        self._page_size = PAGE_SIZE
        self._parts: dict[str, list[Place]] = {}
        self._came: dict[str, NDArray[np.bool]] = {}
        self._block = ""
        self._regions_seen: set[str] = set()
        self._done = 0
        self._most_ram = most

    def read(self) -> None:
        """Read all RAM; what the guest does not see is thrown away.

        Raises:
            EOFError: The stream ends before its RAM does.
            SourceError: Something in it is unknown, or a page is missing.
        """
        if self._reader.number(4) != QEMU_VM_FILE_MAGIC or self._reader.number(4) != QEMU_VM_FILE_VERSION:
            raise SourceError("what QEMU sends is no migration stream of version 3")
        sections: dict[int, str] = {}
        began = False
        while True:
            kind = self._reader.number(1)
            if kind == QEMU_VM_CONFIGURATION and not sections:
                self._configuration()
            elif kind == QEMU_VM_COMMAND:
                self._reader.number(2)
                self._reader.skip(self._reader.number(2))
            elif kind in (QEMU_VM_SECTION_START, QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END):
                section = self._reader.number(4)
                if kind == QEMU_VM_SECTION_START:
                    sections[section] = self._reader.text(1)
                    self._reader.skip(8)  # instance, version
                    if len(sections) > MAX_SECTIONS:
                        raise damaged("it has too many sections")
                elif section not in sections:
                    raise damaged(f"section {section} goes on and never began")
                elif not began:
                    began = True
                    self._began()
                self._live(sections[section])
                self._footer(section)
            elif kind in (QEMU_VM_SECTION_FULL, QEMU_VM_EOF) and began:
                break  # devices come after RAM
            elif kind == QEMU_VM_SECTION_FULL:  # but for those that QEMU 8 and later must know early
                self._skip_device(self._reader.number(4))
            else:
                raise SourceError(f"QEMU's snapshot has a section of the unknown kind {kind}")
        self._check()

    def _live(self, name: str) -> None:
        """The body of a section that comes in parts."""
        if name == "ram":
            self._ram()
        elif name == STORAGE_ATTRIBUTES:
            while (flags := self._reader.number(8) & FLAGS) != STATTR_FLAG_EOS:
                if flags == STATTR_FLAG_MORE:
                    self._reader.skip(self._reader.number(8))
                elif flags != STATTR_FLAG_DONE:
                    raise SourceError(f"QEMU's snapshot has storage attributes of the unknown kind {flags:#x}")
        elif name == HASH_TABLE:
            header = self._reader.number(4)
            while not header:  # else it is the table's size, or there is none
                _, n_valid, _ = record = (self._reader.number(4), self._reader.number(2), self._reader.number(2))
                if not any(record):
                    break
                self._reader.skip(n_valid * HASH_PTE_SIZE)
        else:
            raise SourceError(f"QEMU's snapshot has a part {name!r} that only QEMU can read", hint="take --pause copy")

    def _footer(self, section: int) -> None:
        if self._reader.peek() == QEMU_VM_SECTION_FOOTER:  # machine types up to 2.3 have none
            self._reader.skip(1)
            if self._reader.number(4) != section:
                raise damaged("a section's end does not match its beginning")

    def _skip_device(self, section: int) -> None:
        """Skip a device's section. The stream does not say how long it is, so look for its footer."""
        footer = bytes([QEMU_VM_SECTION_FOOTER]) + section.to_bytes(4, "big")
        after = {QEMU_VM_SECTION_START, QEMU_VM_SECTION_PART, QEMU_VM_SECTION_FULL, QEMU_VM_COMMAND}
        last = b""
        for _ in range(MAX_SKIPPED):
            last = last[1 - len(footer) :] + bytes([self._reader.number(1)])
            if last == footer and self._reader.peek() in after:
                return
        raise SourceError(f"QEMU's snapshot has a device that does not end: {section}", hint="take --pause copy")

    def _configuration(self) -> None:
        self._reader.text(4)
        while self._reader.peek() == QEMU_VM_SUBSECTION:
            self._reader.skip(1)
            name = self._reader.text(1)
            self._reader.skip(4)
            if name == "configuration/target-page-bits":
                bits = self._reader.number(4)
                if bits not in PAGE_BITS:
                    raise damaged(f"pages of 2^{bits} bytes")
                self._page_size = 1 << bits
            elif name == "configuration/capabilities":
                count = self._reader.number(4)
                if count > MAX_CAPABILITIES:
                    raise damaged(f"{count} capabilities")
                for _ in range(count):
                    self._reader.text(1)
            elif name == "configuration/uuid":
                self._reader.skip(16)
            else:
                raise SourceError(f"QEMU's snapshot has an unknown part {name!r}", hint="take --pause copy")

    def _ram(self) -> None:
        """The records of a RAM section. A record's offset and flags share a number; the flags have the low bits."""
        mask = self._page_size - 1
        while True:
            record = self._reader.number(8)
            offset, flags = record & ~mask, record & mask
            if flags == RAM_SAVE_FLAG_EOS:
                break
            if flags == RAM_SAVE_FLAG_MEM_SIZE:
                self._blocks(offset)
                continue
            if not flags & RAM_SAVE_FLAG_CONTINUE:
                self._block = self._reader.text(1)
            kind = flags & ~RAM_SAVE_FLAG_CONTINUE
            if kind == RAM_SAVE_FLAG_PAGE:
                self._reader.need(self._page_size)
                page = np.frombuffer(self._reader.data, np.uint8, self._page_size, self._reader.at)
                self._reader.at += self._page_size
                self._page_run(offset, page.reshape(1, -1))
            elif kind == RAM_SAVE_FLAG_ZERO:
                if self._reader.number(1):
                    raise SourceError("QEMU's snapshot has a page that is filled with one byte other than zero")
                self._zero_run(offset, 1)
            else:
                raise SourceError(f"QEMU's snapshot has a RAM record of the unknown kind {flags:#x}")
            self._more(offset + self._page_size, kind)
        self._tell(self._done)

    def _more(self, offset: int, kind: int) -> None:
        """Records like the last one, for the pages that follow its own: as many as have come, all at once."""
        size = self._page_size if kind == RAM_SAVE_FLAG_PAGE else 1
        dtype = np.dtype([("record", ">u8"), ("content", "u1", (size,))])
        count = (self._reader.end - self._reader.at) // dtype.itemsize
        if count < 2:
            return
        records = np.frombuffer(self._reader.data, dtype, count, self._reader.at)
        expected = offset + np.arange(count, dtype=np.uint64) * np.uint64(self._page_size)
        unlike = records["record"] != expected | np.uint64(kind | RAM_SAVE_FLAG_CONTINUE)
        if kind == RAM_SAVE_FLAG_ZERO:
            unlike |= records["content"][:, 0] != 0
        n = int(unlike.argmax()) if unlike.any() else count
        if n and kind == RAM_SAVE_FLAG_PAGE:
            self._page_run(offset, records["content"][:n])
        elif n:
            self._zero_run(offset, n)
        self._reader.at += n * dtype.itemsize

    def _page_run(self, offset: int, pages: NDArray[Any]) -> None:
        size = len(pages) * self._page_size
        self._mark(offset, len(pages))
        for start, stop, paddr in self._seen(offset, size):
            first, last = (start - offset) // self._page_size, -(-(stop - offset) // self._page_size)
            run = pages[first:last].reshape(-1)
            skip = start - offset - first * self._page_size
            self._write(paddr, run[skip : skip + stop - start])

    def _zero_run(self, offset: int, n: int) -> None:
        came = self._mark(offset, n)
        if came.any():  # it held something before: a page was sent twice
            for start, stop, paddr in self._seen(offset, n * self._page_size):
                self._write(paddr, np.zeros(stop - start, np.uint8))

    def _mark(self, offset: int, n: int) -> NDArray[np.bool]:
        """Note that pages have come, and give which of them had come before."""
        first = offset // self._page_size
        pages = self._came.get(self._block)
        if pages is None or first + n > len(pages):
            raise damaged(f"page {offset:#x} of no block {self._block!r}")
        before = pages[first : first + n].copy()
        pages[first : first + n] = True
        self._done += n * self._page_size
        return before

    def _seen(self, offset: int, size: int) -> list[tuple[int, int, int]]:
        """``(start, stop, paddr)`` of the parts of a range of the block that the guest sees."""
        parts, end = self._parts[self._block], offset + size
        i = bisect_right(parts, offset, key=lambda part: part.offset) - 1
        # A part that is seen twice stands beside itself.
        while i > 0 and parts[i - 1].offset + parts[i - 1].size > offset:
            i -= 1
        found = []
        for part in parts[max(i, 0) :]:
            if part.offset >= end:
                break
            start, stop = max(part.offset, offset), min(part.offset + part.size, end)
            if start < stop:
                found.append((start, stop, part.paddr + start - part.offset))
        return found

    def _blocks(self, total: int) -> None:
        """The list of blocks, with the sizes of those that are seen by the guest."""
        if self._came or total > self._most_ram:
            raise damaged(f"a list of blocks with {total:#x} bytes")
        self._reader.most += 4 * total  # a page is no longer than itself and a block's name, and may come again
        while total > 0:
            name, used = self._reader.text(1), self._reader.number(8)
            if used > total or name in self._came or len(self._came) == MAX_BLOCKS:
                raise damaged(f"block {name!r} has {used:#x} bytes")
            total -= used
            region = self._region(name)
            self._parts[name] = self._regions.get(region, [])
            self._regions_seen.add(region)
            try:
                self._came[name] = np.zeros(-(-used // self._page_size), np.bool)
            except MemoryError:
                raise SourceError(f"no memory to read the block {name!r} of {used >> 30} GiB") from None

    def _region(self, block: str) -> str:
        """The memory region of a block, which may have the path of its device before it; empty if it is not seen."""
        name, slash = block, "/"
        while slash and name not in self._regions:
            _, slash, name = name.partition("/")
        return name if slash else ""

    def _check(self) -> None:
        """Whether every wanted page has come."""
        for region in self._regions.keys() - self._regions_seen:
            if any(self._wanted.clip(part.paddr, part.paddr + part.size) for part in self._regions[region]):
                raise SourceError(f"QEMU's snapshot does not have the memory {region}", hint="take --pause copy")
        for name, parts in self._parts.items():
            came = self._came[name]
            for part in parts:
                for start, end in self._wanted.clip(part.paddr, part.paddr + part.size):
                    shift = part.offset - part.paddr
                    first, last = (start + shift) // self._page_size, -(-(end + shift) // self._page_size)
                    missing = last - first - np.count_nonzero(came[first:last])
                    if missing:
                        raise SourceError(f"QEMU's snapshot lacks {missing} pages of {name} in {start:#x}..{end:#x}")
