"""The RAM section of a migration stream: the list of blocks, and records of pages.

A record's page offset and flags share a number; the flags have the bits below the page size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydump.layout.struct import U32, U64, Layout
from pydump_qemu_stream.reader import Reader, StreamError, damaged
from pydump_qemu_stream.records import (
    ENCODING_FLAG_XBZRLE,
    IGNORE_SHARED,
    MAPPED_RAM,
    MAX_BLOCKS,
    RAM_SAVE_FLAG_COMPRESS_PAGE,
    RAM_SAVE_FLAG_CONTINUE,
    RAM_SAVE_FLAG_EOS,
    RAM_SAVE_FLAG_MEM_SIZE,
    RAM_SAVE_FLAG_MULTIFD_FLUSH,
    RAM_SAVE_FLAG_PAGE,
    RAM_SAVE_FLAG_XBZRLE,
    RAM_SAVE_FLAG_ZERO,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Records looked at together: at first, and how many times more each time all are alike.
FEW: Final = 16
TIMES: Final = 8


@cache
def _dtype(gap: int, size: int) -> np.dtype[Any]:
    """Contents of ``size`` bytes, behind a record each where there is a ``gap`` of eight bytes before them."""
    import numpy as np

    content = ("content", "u1", (size,))
    return np.dtype([content] if not gap else [("record", ">u8"), content])


class MappedHeader(Layout):
    """What precedes a block of mapped-ram. Source: struct MappedRamHeader in migration/ram.c of QEMU 10.0.

    Here, the offsets are those of the file that is read.
    """

    version: U32 = 1
    page_size: U64 = 0
    bitmap_offset: U64 = 0
    pages_offset: U64 = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A RAM block of QEMU's.

    Attributes:
        name: Its name.
        size: Bytes.
        page_size: Bytes of a page of the stream.
        address: Of x-ignore-shared: where in its memory region it begins; else None.
        mapped: Where in the file its pages are, of mapped-ram; else None.
    """

    name: str
    size: int
    page_size: int
    address: int | None = None
    mapped: MappedHeader | None = None

    @property
    def n_pages(self) -> int:
        """Pages, counting a last partial one."""
        return -(-self.size // self.page_size)


class Taker(Protocol):
    """What is done with the RAM of a stream. ``page`` is the first page's number in its block."""

    def blocks(self, blocks: list[Block]) -> None:
        """All blocks; called once, before any page."""

    def begin(self) -> None:
        """The first part begins; called once."""

    def pages(self, block: Block, page: int, content: NDArray[np.uint8], position: int) -> None:
        """Pages that follow each other: their content of shape (n, page size), and where the first one's begins.

        Between two of them there are the eight bytes of a record.
        """

    def filled(self, block: Block, page: int, count: int, byte: int) -> None:
        """Pages that follow each other and are filled with one byte."""

    def packed(self, block: Block, page: int, kind: int, content: bytes, position: int) -> None:
        """A page that is compressed with zlib, or an XBZRLE delta of its last version.

        Args:
            block: Its block.
            page: Its number.
            kind: RAM_SAVE_FLAG_COMPRESS_PAGE or RAM_SAVE_FLAG_XBZRLE.
            content: The compressed bytes.
            position: Where in the stream they begin.
        """

    def part_read(self) -> None:
        """A part of RAM has been read."""


class RamRecords:
    """Reads the bodies of RAM sections.

    Args:
        reader: The stream.
        taker: Gets what is found.
        page_size: Bytes of a page.
        capabilities: Those that the stream lists.
        most: Bytes that all blocks have at most.
    """

    def __init__(self, reader: Reader, taker: Taker, page_size: int, capabilities: frozenset[str], most: int) -> None:
        self._reader = reader
        self._taker = taker
        self._page_size = page_size
        self._shared = IGNORE_SHARED in capabilities
        self._mapped = MAPPED_RAM in capabilities
        self._most = most
        self._blocks: dict[str, Block] = {}
        self._block: Block | None = None

    def read(self) -> None:
        """Read the body of a section.

        Raises:
            EOFError: The stream ends before.
            StreamError: It is damaged, or has a record of an unknown kind.
        """
        reader, mask = self._reader, self._page_size - 1
        while True:
            record = reader.number(8)
            offset, flags = record & ~mask, record & mask
            if flags == RAM_SAVE_FLAG_EOS:
                break
            if flags == RAM_SAVE_FLAG_MEM_SIZE:
                self._block_list(offset)
            elif flags != RAM_SAVE_FLAG_MULTIFD_FLUSH:
                self._page(offset, flags)
        self._taker.part_read()

    def _page(self, offset: int, flags: int) -> None:
        reader, kind = self._reader, flags & ~RAM_SAVE_FLAG_CONTINUE
        if kind not in (
            RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_ZERO, RAM_SAVE_FLAG_XBZRLE, RAM_SAVE_FLAG_COMPRESS_PAGE
        ):  # fmt: skip
            raise StreamError(f"the migration stream has a RAM record of the unknown kind {flags:#x}")
        if not flags & RAM_SAVE_FLAG_CONTINUE:
            name = reader.text(1)
            self._block = self._blocks.get(name)
            if self._block is None:
                raise damaged(f"page {offset:#x} of no block {name!r}")
        block = self._block
        page = offset // self._page_size
        if block is None or page >= block.n_pages:
            raise damaged(f"page {offset:#x} of no block {block.name if block else ''!r}")
        if kind == RAM_SAVE_FLAG_PAGE:
            reader.need(self._page_size)
            self._take_pages(block, page, 1, reader.at, 0)
            reader.at += self._page_size
            self._more_pages(block, page + 1)
        elif kind == RAM_SAVE_FLAG_ZERO:
            byte = reader.number(1)
            self._taker.filled(block, page, 1 + self._more_filled(block, page + 1, byte), byte)
        else:
            if kind == RAM_SAVE_FLAG_XBZRLE:
                if reader.number(1) != ENCODING_FLAG_XBZRLE:
                    raise damaged(f"page {offset:#x} of {block.name!r} is a delta of an unknown kind")
                size = reader.number(2)
            else:
                size = reader.number(4)
            # zlib makes a page that does not compress a little longer.
            if size > 2 * self._page_size:
                raise damaged(f"page {offset:#x} of {block.name!r} has {size:#x} bytes")
            position = reader.position
            self._taker.packed(block, page, kind, reader.take(size), position)

    def _take_pages(self, block: Block, page: int, count: int, at: int, gap: int) -> None:
        """Hand on ``count`` pages; in the buffer, the first one's content begins at ``at``, behind ``gap`` bytes."""
        import numpy as np

        records = np.frombuffer(self._reader.data, _dtype(gap, self._page_size), count, at - gap)
        self._taker.pages(block, page, records["content"], self._reader.position - self._reader.at + at)

    def _more_pages(self, block: Block, page: int) -> None:
        """Pages that follow, as many as have been read ahead, all at once."""
        n = self._alike(block, page, RAM_SAVE_FLAG_PAGE, self._page_size)
        if n:
            self._take_pages(block, page, n, self._reader.at + 8, 8)
            self._reader.at += n * (8 + self._page_size)

    def _more_filled(self, block: Block, page: int, byte: int) -> int:
        n = self._alike(block, page, RAM_SAVE_FLAG_ZERO, 1, byte)
        self._reader.at += n * 9
        return n

    def _alike(self, block: Block, page: int, kind: int, size: int, byte: int | None = None) -> int:
        """How many records follow that are of this kind, of this block, and of the pages from ``page`` on.

        Args:
            block: The block.
            page: The number of the page whose record may follow.
            kind: Their flag, beside RAM_SAVE_FLAG_CONTINUE.
            size: Bytes behind each record.
            byte: What the byte behind it must be, or None for anything.
        """
        import numpy as np

        reader, dtype = self._reader, _dtype(8, size)
        most = min((reader.end - reader.at) // dtype.itemsize, block.n_pages - page)
        record = page * self._page_size | kind | RAM_SAVE_FLAG_CONTINUE
        # Where zeros and data alternate, no record is like the one before: do not start NumPy for that.
        if most <= 0 or reader.data[reader.at : reader.at + 8] != record.to_bytes(8, "big"):
            return 0
        done, step = 0, FEW
        while done < most:
            n = min(step, most - done)
            records = np.frombuffer(reader.data, dtype, n, reader.at + done * dtype.itemsize)
            first = record + done * self._page_size
            expected = np.uint64(first) + np.arange(n, dtype=np.uint64) * np.uint64(self._page_size)
            unlike = records["record"] != expected
            if byte is not None:
                unlike |= records["content"][:, 0] != byte
            if unlike.any():
                return done + int(unlike.argmax())
            done += n
            step *= TIMES
        return done

    def _block_list(self, total: int) -> None:
        """The list of blocks."""
        reader = self._reader
        if self._blocks or total > self._most:
            raise damaged(f"a list of blocks with {total:#x} bytes")
        reader.most += 4 * total  # a page is no longer than itself and a block's name, and may come again
        try:
            while total > 0:
                name, used = reader.text(1), reader.number(8)
                if used > total or name in self._blocks or len(self._blocks) == MAX_BLOCKS:
                    raise damaged(f"block {name!r} has {used:#x} bytes")
                total -= used
                self._skip_page_size()
                address = reader.number(8) if self._shared else None
                mapped = self._mapped_header(name) if self._mapped else None
                self._blocks[name] = Block(name, used, self._page_size, address, mapped)
                if mapped is not None:
                    reader.skip_to(mapped.pages_offset + used)
        finally:  # of a file that was cut, what is there
            self._taker.blocks(list(self._blocks.values()))

    def _skip_page_size(self) -> None:
        """Skip the block's page size, which is there where the guest may migrate by postcopy and has large pages.

        A power of two in eight bytes is neither the next block's name nor a record, nor where a header begins.
        """
        if self._shared or self._mapped or self._reader.peek():
            return
        self._reader.need(8)
        value = int.from_bytes(self._reader.data[self._reader.at : self._reader.at + 8], "big")
        if value > self._page_size and not value & value - 1:
            self._reader.skip(8)

    def _mapped_header(self, name: str) -> MappedHeader:
        header = MappedHeader.unpack(self._reader.take(MappedHeader.nbytes()), "big")
        if header.version != 1 or header.page_size != self._page_size:
            raise StreamError(f"the mapped RAM of block {name!r} has the unknown version {header.version}")
        # The bitmap follows. Offsets are those of the file that QEMU wrote, of which this may be the end.
        here = self._reader.position
        header = header.replace(bitmap_offset=here, pages_offset=header.pages_offset - header.bitmap_offset + here)
        if header.pages_offset < here:
            raise damaged(f"the pages of block {name!r} are at {header.pages_offset:#x}")
        return header
