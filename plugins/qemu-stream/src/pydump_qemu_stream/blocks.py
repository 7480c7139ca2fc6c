"""The memory of RAM blocks, read at random from a file with a stream. Offsets are those within a block."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pydump.errors import DamagedPageError, PydumpError
from pydump.model.memory import Ranges
from pydump_qemu_stream.index import ABSENT, DELTA, FILLED, KIND_SHIFT, PLAIN, VALUE, ZLIB, Runs
from pydump_qemu_stream.reader import damaged
from pydump_qemu_stream.xbzrle import apply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.backing import Backing
    from pydump_qemu_stream.ram import Block

#: Bytes between two pages in the file that are read and thrown away rather than made two reads of.
GAP: Final = 16 << 10


class BlockMemory(ABC):
    """The memory of one RAM block."""

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset`` on; what is lost is zero.

        Raises:
            DamagedPageError: A page cannot be unpacked. Its paddr is its offset in the block.
        """

    @abstractmethod
    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of what may hold data within the range, ascending; the rest is zero."""

    @abstractmethod
    def lost(self) -> Ranges:
        """What the file should hold and does not."""

    def sent(self) -> Ranges:
        """What the guest has: all of it, unless QEMU leaves out pages that are not plugged in."""
        return Ranges.of([(0, self.size)])

    size: int


class StreamedBlock(BlockMemory):
    """A block whose pages lie in the stream.

    Args:
        backing: The file.
        block: The block.
        runs: Its pages.
        complete: Has all RAM come? Then a page that did not come is zero.
    """

    def __init__(self, backing: Backing, block: Block, runs: Runs, *, complete: bool) -> None:
        self._backing = backing
        self.page_size = self._page_size = block.page_size
        self._runs = runs
        self._complete = complete
        self._rooms: list[bytearray] = []
        self._spans = runs.spans(data=True) * block.page_size
        self.size = block.size

    def sent(self) -> Ranges:
        return self._came().clip(0, self.size)

    def lost(self) -> Ranges:
        return Ranges.empty() if self._complete else Ranges.of([(0, self.size)]).subtract(self._came())

    def _came(self) -> Ranges:
        return Ranges.of_array(self._runs.spans(data=False) * self._page_size)

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        import numpy as np

        end = offset + size
        a = int(np.searchsorted(self._spans[:, 1], offset, side="right"))
        b = int(np.searchsorted(self._spans[:, 0], end, side="left"))
        for start, stop in self._spans[a:b].tolist():
            yield max(start, offset), min(stop, end)

    def place(self, offset: int) -> int | None:
        """Where in the file the page of ``offset`` is, or None where it is not there as it is."""
        place = int(self._runs.places(offset // self._page_size, 1)[0])
        return place + offset % self._page_size if place >> KIND_SHIFT == PLAIN else None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        import numpy as np

        size, page_size = len(buffer), self._page_size
        first, last = offset // page_size, -(-(offset + size) // page_size)
        whole = not offset % page_size and not size % page_size
        # A batch's last page may be a part of one, or a small read lie within one.
        pages = np.frombuffer(buffer if whole else bytearray((last - first) * page_size), np.uint8)
        pages = pages.reshape(-1, page_size)
        self._read_pages([(first, last)], pages)
        if not whole:
            start = offset - first * page_size
            buffer[:] = pages.reshape(-1)[start : start + size].data

    def read_pages(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Fill ``buffer`` with many runs of whole pages, end to end; raises as :meth:`read_into`.

        Args:
            runs: The first page of each, and one past its last.
            buffer: As long as all of them.
        """
        import numpy as np

        self._read_pages(runs, np.frombuffer(buffer, np.uint8).reshape(-1, self._page_size))

    def _read_pages(self, runs: Sequence[tuple[int, int]], pages: NDArray[np.uint8]) -> None:
        import numpy as np

        places = np.concatenate([self._runs.places(first, last - first) for first, last in runs])
        kinds = places >> KIND_SHIFT
        plain = np.flatnonzero(kinds == PLAIN)
        self._gather(places[plain], plain, pages)
        if len(plain) == len(pages):
            return
        pages[kinds == ABSENT] = 0
        filled = kinds == FILLED
        pages[filled] = (places[filled] & 0xFF)[:, None]
        for i in np.flatnonzero((kinds == ZLIB) | (kinds == DELTA)).tolist():
            try:
                pages[i] = np.frombuffer(self._unpacked(int(places[i])), np.uint8)
            except (PydumpError, zlib.error) as error:
                number = np.concatenate([np.arange(first, last) for first, last in runs])[i]
                where = int(number) * self._page_size
                raise DamagedPageError(where, self._page_size, str(error)) from None

    def _gather(self, positions: NDArray[np.int64], which: NDArray[np.int64], pages: NDArray[np.uint8]) -> None:
        """Read plain pages, neighbours in the file together.

        Args:
            positions: Where each is, shape (n,).
            which: The row of ``pages`` that each goes to, shape (n,).
            pages: Shape (m, page size).
        """
        import numpy as np

        if not len(positions):
            return
        size, stride = self._page_size, self._runs.stride
        step = np.diff(positions)
        breaks = np.flatnonzero((step < size) | (step > size + GAP)) + 1
        bounds = [0, *breaks.tolist(), len(positions)]
        rows = pages.view(f"V{size}")[:, 0]
        for a, b in zip(bounds, bounds[1:], strict=False):
            start = int(positions[a])
            n_bytes = int(positions[b - 1]) + size - start
            # Memory that is used again costs no page faults. Threads may read at the same time.
            room = self._rooms.pop() if self._rooms else bytearray()
            if len(room) < n_bytes:
                room = bytearray(n_bytes)
            self._backing.read_into(start, memoryview(room)[:n_bytes])
            if (step[a : b - 1] == stride).all():
                rows[which[a:b]] = np.ndarray((b - a,), f"V{size}", room, strides=(stride,))
            else:  # every place at which a page may begin, as one element each
                at_any = np.ndarray((n_bytes - size + 1,), f"V{size}", room, strides=(1,))
                rows[which[a:b]] = at_any[positions[a:b] - start]
            self._rooms.append(room)

    def _unpacked(self, place: int) -> bytes | bytearray:
        """The content of a page that is not plain."""
        kind, value = place >> KIND_SHIFT, place & VALUE
        if kind == PLAIN:
            return self._backing.read(value, self._page_size)
        if kind in (FILLED, ABSENT):
            return bytes([value & 0xFF]) * self._page_size
        if kind == ZLIB:
            decoder = zlib.decompressobj()
            page = decoder.decompress(self._sized(value, 4), self._page_size)
            if len(page) != self._page_size or not decoder.eof:
                raise damaged("a compressed page does not unpack to a page")
            return page
        base, *deltas = self._runs.chains[value]
        content = bytearray(self._unpacked(base))
        for position in deltas:
            apply(self._sized(position, 2), content)
        return content

    def _sized(self, position: int, length_size: int) -> bytes:
        """The bytes at ``position``, behind their length."""
        size = int.from_bytes(self._backing.read(position - length_size, length_size), "big")
        return self._backing.read(position, size)


class MappedBlock(BlockMemory):
    """A block of mapped-ram: each page has its place in the file, and a bitmap says which hold data.

    Raises:
        FormatError: The file ends before the bitmap does.
    """

    def __init__(self, backing: Backing, block: Block) -> None:
        import numpy as np

        if block.mapped is None:
            raise damaged(f"block {block.name!r} has no place in the file")
        self._backing = backing
        self._page_size = block.page_size
        self._start = block.mapped.pages_offset
        self.size = block.size
        bits = np.frombuffer(backing.read(block.mapped.bitmap_offset, -(-block.n_pages // 64) * 8), np.uint8)
        self._bits = _little_endian(bits, block.n_pages)

    def lost(self) -> Ranges:
        end = max(0, self._backing.size - self._start)
        if end >= self.size:
            return Ranges.empty()
        return Ranges.of([(start, stop) for start, stop in self._data(end, self.size)])

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        yield from self._data(offset, offset + size)

    def _present(self, first: int, last: int) -> NDArray[np.bool]:
        """Which of the pages from ``first`` to before ``last`` hold data, shape (n,)."""
        import numpy as np

        bits = np.unpackbits(self._bits[first // 8 : -(-last // 8)], bitorder="little")
        return bits[first % 8 : first % 8 + last - first].astype(np.bool)

    def _data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        import numpy as np

        size = self._page_size
        first, last = start // size, -(-end // size)
        edges = np.flatnonzero(np.diff(self._present(first, last).astype(np.int8), prepend=0, append=0)) + first
        for a, b in (edges.reshape(-1, 2) * size).tolist():
            yield max(a, start), min(b, end)

    def place(self, offset: int) -> int | None:
        """Where in the file the byte of ``offset`` is, or None where its page is zero."""
        page = offset // self._page_size
        return self._start + offset if self._present(page, page + 1)[0] else None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        at = offset
        there = max(offset, min(end, self._backing.size - self._start))
        for start, stop in self._data(offset, end):
            buffer[at - offset : start - offset] = bytes(start - at)
            held = max(start, min(stop, there))
            if held > start:
                self._backing.read_into(self._start + start, buffer[start - offset : held - offset])
            buffer[held - offset : stop - offset] = bytes(stop - held)
            at = stop
        buffer[at - offset :] = bytes(end - at)


class SharedBlock(BlockMemory):
    """A block that the stream leaves out because its memory is in a file of its own (x-ignore-shared).

    Args:
        backing: The file, or None where it is not there: then all of the block is lost.
        block: The block.
    """

    def __init__(self, backing: Backing | None, block: Block) -> None:
        self._backing = backing
        self.size = block.size
        self._there = min(block.size, backing.size) if backing is not None else 0

    def lost(self) -> Ranges:
        return Ranges.of([(self._there, self.size)])

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        end = min(offset + size, self._there)
        if self._backing is not None and end > offset:
            yield from self._backing.data_ranges(offset, end - offset)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        n = max(0, min(len(buffer), self._there - offset))
        if self._backing is not None and n:
            self._backing.read_into(offset, buffer[:n])
        buffer[n:] = bytes(len(buffer) - n)


def _little_endian(bits: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    """A bitmap of ``n`` bits whose words are the source host's, in little-endian bytes.

    Only the last word tells: bits behind the last page are clear. Where it is full, both orders are possible, and
    hosts are little-endian.
    """
    import numpy as np

    if n % 64 and np.unpackbits(bits[-8:], bitorder="little")[n % 64 :].any():
        return bits.reshape(-1, 8)[:, ::-1].reshape(-1)
    return bits
