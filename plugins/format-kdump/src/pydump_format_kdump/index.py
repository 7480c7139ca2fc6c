"""An index of the bitmaps, for readers to which each byte comes over a network: where RAM is, and pages counted.

The bitmaps have 64 MiB for each TiB of addresses, and the number of a page's descriptor is the number of bits before
its own. The index says how many there are before each chunk of the second bitmap, so that one chunk tells the rest. It
lies before the bitmaps, in the last blocks that the sub header counts as its own, where other readers look at nothing::

    RAM as (start, end) in pfns
    (chunk, bits before it) for each chunk that has any
    IndexEnd, which ends where the bitmaps begin

All numbers have the byte order of the dump.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.bitmap import Bitmap, Rank
from pydump.layout.struct import U32, U64, Bytes8, Layout, prefix
from pydump.model.guest import ByteOrder
from pydump.model.memory import Ranges

MAGIC: Final = b"PYDUMPIX"
#: A dump whose bitmaps have no more bytes than this each has no index: they are read faster than it.
LEAST_BITMAP: Final = 64 << 10
#: Bytes of a chunk of the bitmap, at least.
SMALLEST_CHUNK: Final = 16 << 10
#: Chunks of a bitmap, at most: they grow for larger ones.
MAX_CHUNKS: Final = 1 << 14
#: A map of more RAM blocks than this is not indexed, and not believed.
MAX_RAM: Final = 1 << 14
#: Chunks that are kept: 2 MiB.
KEPT: Final = 128


class IndexEnd(Layout):
    """The end of an index, which says how long it is."""

    magic: Bytes8 = MAGIC
    n_ram: U32 = 0
    n_chunks: U32 = 0
    n_dumped: U64 = 0
    chunk_size: U32 = 0
    checksum: U32 = 0


@dataclass(frozen=True, slots=True)
class Index:
    """What the bitmaps say, in short.

    Attributes:
        ram: Pages that are RAM, in pfns.
        n_dumped: How many pages have a descriptor.
        chunk_bits: Bits of the second bitmap in a chunk.
        chunks: The numbers of the chunks that have set bits, ascending, shape (n,).
        before: How many bits are set before each of them, shape (n,).
    """

    ram: Ranges
    n_dumped: int
    chunk_bits: int
    chunks: NDArray[np.int64]
    before: NDArray[np.int64]

    @classmethod
    def of(cls, present: Ranges, dumped: Ranges, n_bits: int) -> Index:
        """The index of two bitmaps.

        Args:
            present: The bits that are set in the first, as ranges.
            dumped: Those of the second.
            n_bits: Bits of each.
        """
        chunk_bits = SMALLEST_CHUNK * 8
        while -(-n_bits // chunk_bits) > MAX_CHUNKS:
            chunk_bits *= 2
        edges = np.arange(0, -(-n_bits // chunk_bits) + 1) * chunk_bits
        counts = count_before(dumped, edges)
        used = np.flatnonzero(np.diff(counts))
        return cls(present, dumped.size, chunk_bits, used, counts[used])

    def pack(self, byte_order: ByteOrder) -> bytes:
        """Its bytes."""
        word = f"{prefix(byte_order)}u8"
        rows = self.ram.array.astype(word), np.stack([self.chunks, self.before], axis=1).astype(word)
        body = b"".join(part.tobytes() for part in rows)
        end = IndexEnd(
            n_ram=len(self.ram), n_chunks=len(self.chunks), n_dumped=self.n_dumped, chunk_size=self.chunk_bits // 8
        )
        return body + end.replace(checksum=zlib.crc32(body + end.pack(byte_order))).pack(byte_order)


def count_before(pages: Ranges, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of ``pages`` lie before each of ``edges``."""
    if not pages:
        return np.zeros(len(edges), np.int64)
    starts, ends = pages.array.astype(np.int64).T
    before = np.concatenate([[0], np.cumsum(ends - starts)])
    which = np.searchsorted(starts, edges, "right") - 1
    inside = np.minimum(edges, ends[which]) - starts[which]
    counts: NDArray[np.int64] = np.where(which < 0, 0, before[which] + inside)
    return counts


def read_index(backing: Backing, end: int, n_bits: int, byte_order: ByteOrder) -> Index | None:
    """The index that ends at ``end``, or None where there is none, or none that can be believed.

    Args:
        backing: The file.
        end: Where the bitmaps begin.
        n_bits: Bits of each bitmap.
        byte_order: Of the dump.
    """
    size = IndexEnd.nbytes()
    tail = IndexEnd.unpack(backing.read(end - size, size), byte_order)
    if tail.magic != MAGIC or tail.n_ram > MAX_RAM or tail.n_chunks > MAX_CHUNKS:
        return None
    n_body = 16 * (tail.n_ram + tail.n_chunks)
    if n_body + size > end or tail.chunk_size < SMALLEST_CHUNK or tail.chunk_size & (tail.chunk_size - 1):
        return None
    body = backing.read(end - size - n_body, n_body)
    if zlib.crc32(body + tail.replace(checksum=0).pack(byte_order)) != tail.checksum:
        return None
    rows = np.frombuffer(body, f"{prefix(byte_order)}u8").reshape(-1, 2).astype(np.int64)
    ram, chunks = rows[: tail.n_ram], rows[tail.n_ram :]
    found = Index(Ranges.of_array(ram), tail.n_dumped, 8 * tail.chunk_size, chunks[:, 0], chunks[:, 1])
    return found if _makes_sense(ram, found, n_bits) else None


def _makes_sense(ram: NDArray[np.int64], index: Index, n_bits: int) -> bool:
    """Whether RAM ascends and lies below ``n_bits``, and whether chunks do and have as many bits as can be."""
    edges = ram.reshape(-1)
    counts = np.diff(np.append(index.before, index.n_dumped))
    return bool(
        (np.diff(edges) > 0).all()
        and (not len(edges) or 0 <= edges[0] <= edges[-1] <= n_bits)
        and (np.diff(index.chunks) > 0).all()
        and (not len(counts) or (index.before[0] == 0 and index.chunks[0] >= 0 and index.n_dumped <= n_bits))
        and (not len(counts) or index.chunks[-1] * index.chunk_bits < n_bits)
        and ((counts > 0) & (counts <= index.chunk_bits)).all()
        and (len(counts) or not index.n_dumped)
    )


class IndexedRank:
    """Which bits of the second bitmap are set, and how many before a given one; chunks are read where they are needed.

    Args:
        backing: The file.
        offset: Where the second bitmap begins.
        index: Its index.
        n_bits: Bits of it.
    """

    def __init__(self, backing: Backing, offset: int, index: Index, n_bits: int) -> None:
        self._backing = backing
        self._offset = offset
        self._index = index
        self._n_bits = n_bits
        self._kept: OrderedDict[int, Rank] = OrderedDict()

    def __call__(self, bit: int) -> int:
        """How many bits are set before ``bit``."""
        index = self._index
        if bit >= self._n_bits:
            return index.n_dumped
        number, rest = divmod(bit, index.chunk_bits)
        row = int(np.searchsorted(index.chunks, number))
        before = int(index.before[row]) if row < len(index.before) else index.n_dumped
        inside = rest and row < len(index.chunks) and index.chunks[row] == number
        return before + self._chunk(row)(rest) if inside else before

    def is_set(self, bits: NDArray[np.int64]) -> NDArray[np.bool]:
        """Whether each of ``bits``, which ascend, is set."""
        found = np.zeros(len(bits), bool)
        for row, some, base in self._by_chunk(bits):
            found[some] = self._chunk(row).is_set(bits[some] - base)
        return found

    def of_set(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bits are set before each of ``bits``, which are set themselves, and ascend."""
        found = np.zeros(len(bits), np.int64)
        for row, some, base in self._by_chunk(bits):
            found[some] = self._chunk(row).of_set(bits[some] - base) + self._index.before[row]
        return found

    def _by_chunk(self, bits: NDArray[np.int64]) -> list[tuple[int, slice, int]]:
        """For each chunk with set bits in which some of ``bits`` lie: its row, which of them, and its first bit."""
        index = self._index
        numbers = bits // index.chunk_bits
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        stops = np.append(starts[1:], len(bits))
        rows = np.searchsorted(index.chunks, numbers[starts])
        return [
            (row, slice(start, stop), int(index.chunks[row]) * index.chunk_bits)
            for row, start, stop in zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)
            if row < len(index.chunks) and index.chunks[row] == numbers[start]
        ]

    def _chunk(self, row: int) -> Rank:
        """The bits of a chunk.

        Raises:
            FormatError: There are not as many as the index says.
        """
        rank = self._kept.pop(row, None)
        if rank is None:
            index, size = self._index, self._index.chunk_bits // 8
            start = int(index.chunks[row]) * size
            size = min(size, -(-self._n_bits // 8) - start)
            rank = Rank(Bitmap.read(self._backing, self._offset + start, size))
            stop = int(index.before[row + 1]) if row + 1 < len(index.before) else index.n_dumped
            if rank(8 * size) != stop - int(index.before[row]):
                raise FormatError(
                    self._backing.path,
                    "the 2nd bitmap is not what its index says",
                    offset=self._offset + start,
                    hint="fetch the file: a local file is read without the index",
                )
        self._kept[row] = rank
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return rank
