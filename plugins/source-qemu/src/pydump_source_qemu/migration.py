"""Guest memory from the migration stream that a running QEMU sends as a background snapshot."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from pydump.errors import SourceError
from pydump.model.memory import Ranges
from pydump_qemu_stream.flat_view import Place
from pydump_qemu_stream.ram import Block
from pydump_qemu_stream.reader import Reader, StreamError, damaged
from pydump_qemu_stream.records import PAGE_SIZE
from pydump_qemu_stream.state import Devices, read_devices
from pydump_qemu_stream.stream import MAX_SKIPPED, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The devices that say something of the guest beside its memory.
DEVICES: Final = ("cpu", "vmcoreinfo")


class RamStream:
    """Reads the RAM of a migration stream, and the devices behind it.

    Args:
        fill: Fills the beginning of a buffer with what comes next, and gives how much; EOFError at the end.
        parts: As :func:`pydump_qemu_stream.flat_view.places` gives them.
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
        self._fill = fill
        self._most = most
        self._regions = parts
        self._wanted = wanted
        self._write = write
        self._tell = tell
        self._began = began
        self._parts: dict[str, list[Place]] = {}
        self._came: dict[str, NDArray[np.bool]] = {}
        self._regions_seen: set[str] = set()
        self._done = 0
        self._page_size = PAGE_SIZE

    def read(self) -> None:
        """Read all RAM, and nothing behind it; what the guest does not see is thrown away.

        Raises:
            EOFError: The stream ends before its RAM does.
            SourceError: Something in it is unknown, or a page is missing.
        """
        stream = self._stream(MAX_SKIPPED)
        try:
            stream.read_ram()
        except StreamError as error:
            raise _unreadable(error) from None
        self._check(stream.page_size)

    def read_with_devices(self, longest: int) -> Devices:
        """Read all RAM as :meth:`read` does, and what devices say; raises as that.

        Args:
            longest: Bytes that the state of a device has at most.
        """
        stream = self._stream(longest)
        fault = ""
        try:
            stream.read()
        except (StreamError, EOFError) as error:
            if not stream.ended:
                raise (_unreadable(error) if isinstance(error, StreamError) else error) from None
            fault = error.message if isinstance(error, StreamError) else "the stream ends before its devices do"
        self._check(stream.page_size)
        stream.devices = list(stream.states)
        devices = read_devices(stream.states.__getitem__, stream, [])
        if fault:
            devices.warnings.append(fault)
        return devices

    def _stream(self, longest: int) -> Stream:
        # It refers to this, and has a large buffer, so nothing keeps it.
        return Stream(Reader(self._fill), self, self._most, longest, DEVICES)

    def missing(self) -> Ranges:
        """What the guest sees of the blocks, in paddr, of which no page has come."""
        lacking: list[tuple[int, int]] = []
        for name, parts in self._parts.items():
            edges = np.flatnonzero(np.diff(~self._came[name], prepend=False, append=False)) * self._page_size
            absent = Ranges.of_array(edges.reshape(-1, 2))
            for part in parts:
                shift = part.paddr - part.offset
                lacking += [(a + shift, b + shift) for a, b in absent.clip(part.offset, part.offset + part.size)]
        return Ranges.of(lacking)

    def blocks(self, blocks: list[Block]) -> None:
        """The blocks, of which those are kept that the guest sees."""
        for block in blocks:
            region = self._region(block.name)
            self._parts[block.name] = self._regions.get(region, [])
            self._regions_seen.add(region)
            try:
                self._came[block.name] = np.zeros(block.n_pages, np.bool)
            except MemoryError:
                raise SourceError(f"no memory to read the block {block.name!r} of {block.size >> 30} GiB") from None

    def begin(self) -> None:
        """RAM is write-protected now."""
        self._began()

    def part_read(self) -> None:
        """Say how far it is."""
        self._tell(self._done)

    def pages(self, block: Block, page: int, content: NDArray[np.uint8], position: int) -> None:
        """Write what the guest sees of these pages."""
        self._mark(block, page, len(content))
        self._write_pages(block, page, content)

    def filled(self, block: Block, page: int, count: int, byte: int) -> None:
        """Memory is zero before anything comes, so zeros are written only where something came before."""
        if self._mark(block, page, count).any() or byte:
            self._write_pages(block, page, np.full((count, block.page_size), byte, np.uint8))

    def packed(self, block: Block, page: int, kind: int, content: bytes, position: int) -> None:
        """QEMU refuses these capabilities together with a background snapshot."""
        raise damaged(f"a page of {block.name!r} is compressed")

    def _write_pages(self, block: Block, page: int, content: NDArray[np.uint8]) -> None:
        offset = page * block.page_size
        for start, stop, paddr in self._seen(block.name, offset, content.size):
            first, last = (start - offset) // block.page_size, -(-(stop - offset) // block.page_size)
            run = content[first:last].reshape(-1)
            skip = start - offset - first * block.page_size
            self._write(paddr, run[skip : skip + stop - start])

    def _mark(self, block: Block, page: int, count: int) -> NDArray[np.bool]:
        """Note that pages have come, and give which of them had come before."""
        pages = self._came[block.name]
        before = pages[page : page + count].copy()
        pages[page : page + count] = True
        self._done += count * block.page_size
        return before

    def _seen(self, block: str, offset: int, size: int) -> list[tuple[int, int, int]]:
        """``(start, stop, paddr)`` of the parts of a range of the block that the guest sees."""
        parts, end = self._parts[block], offset + size
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

    def _region(self, block: str) -> str:
        """The memory region of a block, which may have the path of its device before it; empty if it is not seen."""
        name, slash = block, "/"
        while slash and name not in self._regions:
            _, slash, name = name.partition("/")
        return name if slash else ""

    def _check(self, page_size: int) -> None:
        """Check that every wanted page has come."""
        self._page_size = page_size
        for region in self._regions.keys() - self._regions_seen:
            if any(self._wanted.clip(part.paddr, part.paddr + part.size) for part in self._regions[region]):
                raise SourceError(f"QEMU's snapshot does not have the memory {region}", hint="take --pause copy")
        for name, parts in self._parts.items():
            came = self._came[name]
            for part in parts:
                for start, end in self._wanted.clip(part.paddr, part.paddr + part.size):
                    shift = part.offset - part.paddr
                    first, last = (start + shift) // page_size, -(-(end + shift) // page_size)
                    missing = last - first - np.count_nonzero(came[first:last])
                    if missing:
                        raise SourceError(f"QEMU's snapshot lacks {missing} pages of {name} in {start:#x}..{end:#x}")


def _unreadable(error: StreamError) -> SourceError:
    return SourceError(f"QEMU's snapshot cannot be read: {error.message}", hint="take --pause copy")
