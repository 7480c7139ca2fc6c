"""Page bitmaps: bit ``pfn % 8`` of byte ``pfn // 8``, packed from ranges, counted, and turned back into ranges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pydump.interfaces.backing import Backing
from pydump.model.memory import Ranges

#: Bits that are unpacked at a time.
CHUNK_BITS = 1 << 23
#: Bytes of bitmap whose set bits are counted together.
RANK_BYTES = 512


def pack(pages: Ranges, n_bits: int) -> Iterator[NDArray[np.uint8]]:
    """The bitmap of ``n_bits`` bits (a multiple of 8) in pieces.

    Args:
        pages: Ranges of pfns whose bits are set.
        n_bits: Bits in all; pages beyond are left out.
    """
    for first in range(0, n_bits, CHUNK_BITS):
        n = min(CHUNK_BITS, n_bits - first)
        part = pages.clip(first, first + n).array.astype(np.int64) - first
        if len(part) == 0:
            yield np.zeros(n // 8, np.uint8)
        elif len(part) == 1 and part[0, 0] == 0 and part[0, 1] == n:
            yield np.full(n // 8, 0xFF, np.uint8)
        else:
            edges = np.zeros(n + 1, np.int8)
            edges[part[:, 0]] = 1
            edges[part[:, 1]] = -1
            yield np.packbits(np.cumsum(edges[:n], dtype=np.int8), bitorder="little")


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A bitmap in memory.

    Attributes:
        data: Its bytes, filled up with zeros to whole pieces of ``RANK_BYTES`` and one more.
        extents: ``(start, end)`` of the bytes among which some may be set, ascending; holes are never looked at.
    """

    data: NDArray[np.uint8]
    extents: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, backing: Backing, offset: int, size: int) -> Self:
        """Read a bitmap of ``size`` bytes; where the file has a hole is untouched memory, which takes no room."""
        backing.check(offset, size)
        data = np.zeros((size // RANK_BYTES + 1) * RANK_BYTES, np.uint8)
        extents: list[tuple[int, int]] = []
        for start, end in backing.data_ranges(offset, size):
            backing.read_into(start, data[start - offset : end - offset].data)
            first = extents.pop()[0] if extents and extents[-1][1] == start - offset else start - offset
            extents.append((first, end - offset))
        return cls(data, tuple(extents))

    def pieces(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """What may have set bits, a piece at a time, each with the number of its first byte."""
        for start, end in self.extents:
            for at in range(start, end, CHUNK_BITS // 8):
                yield at, self.data[at : min(end, at + CHUNK_BITS // 8)]

    def same(self, other: Bitmap) -> bool:
        """Have both the same bits, as far as that is told cheaply?"""
        return self.extents == other.extents and all(
            np.array_equal(piece, other.data[at : at + len(piece)]) for at, piece in self.pieces()
        )

    def runs(self, n_bits: int) -> Iterator[NDArray[np.int64]]:
        """The runs of set bits as arrays of shape (n, 2) of half-open ranges; a run may be cut between arrays."""
        for at, piece in self.pieces():
            first = at * 8
            n = min(len(piece) * 8, n_bits - first)
            if n <= 0 or not piece.any():
                continue
            if n % 8 == 0 and (piece[: n // 8] == 0xFF).all():
                yield np.array([[first, first + n]], np.int64)
                continue
            edges = np.zeros(n + 2, np.int8)
            edges[1:-1] = np.unpackbits(piece, bitorder="little", count=n)
            yield np.flatnonzero(np.diff(edges)).reshape(-1, 2) + first


class Rank:
    """Which bits are set, and how many before a given one."""

    def __init__(self, bitmap: Bitmap) -> None:
        self._data = bitmap.data
        # The bits in pieces of RANK_BYTES as numbers, in which they are counted.
        self._words = bitmap.data.view("<u8").reshape(-1, RANK_BYTES // 8)
        counts = np.zeros(len(self._words) + 1, np.int64)
        for at, piece in bitmap.pieces():
            first, end = at // RANK_BYTES, -(-(at + len(piece)) // RANK_BYTES)
            counts[first + 1 : end + 1] = np.bitwise_count(self._words[first:end]).sum(1, dtype=np.int64)
        self._before = np.cumsum(counts, out=counts)

    def is_set(self, bits: NDArray[np.int64]) -> NDArray[np.bool]:
        """Whether each of ``bits`` is set."""
        found: NDArray[np.bool] = (self._data[bits >> 3] >> (bits & 7).astype(np.uint8) & 1).astype(bool)
        return found

    def __call__(self, bit: int) -> int:
        """How many bits are set before ``bit``."""
        return int(self._count(np.array([bit]))[0])

    def of_set(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bits are set before each of ``bits``, which are set themselves, and ascend."""
        starts = np.concatenate([[0], np.flatnonzero(bits[1:] - bits[:-1] != 1) + 1])
        if len(starts) == 1:
            return np.arange(len(bits)) + self._count(bits[:1])
        lengths = np.diff(starts, append=len(bits))
        counts: NDArray[np.int64] = np.repeat(self._count(bits[starts]) - starts, lengths) + np.arange(len(bits))
        return counts

    def _count(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        piece, rest = np.divmod(bits, RANK_BYTES * 8)
        words, word = self._words[piece], rest // 64
        whole = np.bitwise_count(words) * (np.arange(words.shape[1]) < word[:, None])
        last = words[np.arange(len(bits)), word] & ((np.uint64(1) << (rest % 64).astype(np.uint64)) - np.uint64(1))
        counts: NDArray[np.int64] = self._before[piece] + whole.sum(1, dtype=np.int64) + np.bitwise_count(last)
        return counts
