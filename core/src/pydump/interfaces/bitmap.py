"""Page bitmaps: bit ``pfn % 8`` of byte ``pfn // 8``, packed from ranges, counted, and turned back into ranges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from pydump.interfaces.backing import Backing
from pydump.model.memory import Ranges

#: Bits that are packed or unpacked at a time.
CHUNK_BITS: Final = 1 << 23
#: A run of zeros with so many bits, at a multiple of them, stands by itself. That is a block of the file system.
HOLE_BITS: Final = 4096 * 8
#: Bytes of bitmap whose set bits are counted together.
PIECE_BYTES: Final = 512
#: The same in bits.
PIECE_BITS: Final = PIECE_BYTES * 8


def pack(pages: Ranges, n_bits: int) -> Iterator[tuple[int, NDArray[np.uint8] | int]]:
    """The bitmap of ``n_bits`` bits (a multiple of 8) in pieces.

    Args:
        pages: Ranges of pfns whose bits are set.
        n_bits: Bits in all; pages beyond are left out.

    Yields:
        The number of a piece's first byte, and its bytes, or how many bytes from there on are zero.
    """
    array = pages.clip(0, n_bits).array.astype(np.int64)
    ends = array[:, 1].copy()
    done = 0
    while done < n_bits:
        next_ = int(np.searchsorted(ends, done, "right"))
        first = max(done, int(array[next_, 0]) // HOLE_BITS * HOLE_BITS) if next_ < len(array) else n_bits
        if first > done:
            yield done // 8, (first - done) // 8
        done = first
        if done < n_bits:
            part = pages.clip(done, min(done + CHUNK_BITS, n_bits)).array.astype(np.int64) - done
            n = min(-(-int(part[-1, 1]) // HOLE_BITS) * HOLE_BITS, n_bits - done)
            yield done // 8, _packed(part, n)
            done += n


def _packed(part: NDArray[np.int64], n: int) -> NDArray[np.uint8]:
    """``n`` bits, of which those in the ranges ``part`` are set."""
    if len(part) == 1 and part[0, 0] == 0 and part[0, 1] == n:
        return np.full(n // 8, 0xFF, np.uint8)
    edges = np.zeros(n + 1, np.int8)
    edges[part[:, 0]] = 1
    edges[part[:, 1]] = -1
    return np.packbits(np.cumsum(edges[:n], dtype=np.int8), bitorder="little")


@dataclass(frozen=True, slots=True)
class Bitmap:
    """The set bits of a bitmap, in pieces of ``PIECE_BYTES``; what is all zero takes no room.

    Attributes:
        numbers: Which pieces have set bits, ascending, shape (n,).
        data: Their bytes, shape (n, PIECE_BYTES).
    """

    numbers: NDArray[np.int64]
    data: NDArray[np.uint8]

    @classmethod
    def read(cls, backing: Backing, offset: int, size: int) -> Self:
        """Read a bitmap of ``size`` bytes; what lies past the end of the file counts as zero."""
        numbers, pieces = [np.empty(0, np.int64)], [np.empty((0, PIECE_BYTES), np.uint8)]
        limit = min(size, max(0, backing.size - offset))
        done = 0
        for start, end in backing.data_ranges(offset, limit):
            done = max(done, (start - offset) // PIECE_BYTES * PIECE_BYTES)
            while done < end - offset:
                n_pieces = min(CHUNK_BITS // PIECE_BITS, -(-(end - offset - done) // PIECE_BYTES))
                rows = np.zeros((n_pieces, PIECE_BYTES), np.uint8)
                backing.read_into(offset + done, rows.reshape(-1)[: limit - done].data)
                used = np.flatnonzero(rows.any(axis=1))
                numbers.append(used + done // PIECE_BYTES)
                pieces.append(rows[used])
                done += rows.size
        return cls(np.concatenate(numbers), np.concatenate(pieces))

    def same(self, other: Bitmap) -> bool:
        """Have both the same bits?"""
        return np.array_equal(self.numbers, other.numbers) and np.array_equal(self.data, other.data)

    def ranges(self, n_bits: int) -> Ranges:
        """The runs of set bits among the first ``n_bits``."""
        runs = [np.empty((0, 2), np.int64)]
        for at in range(0, len(self.numbers), CHUNK_BITS // PIECE_BITS):
            some = slice(at, at + CHUNK_BITS // PIECE_BITS)
            firsts, rows = self.numbers[some] * PIECE_BITS, self.data[some]
            full = (rows == 0xFF).all(axis=1)
            whole = np.stack([firsts[full], firsts[full] + PIECE_BITS], axis=1)
            edges = np.zeros((int((~full).sum()), PIECE_BITS + 2), np.int8)
            edges[:, 1:-1] = np.unpackbits(rows[~full], axis=1, bitorder="little")
            which, bits = np.nonzero(np.diff(edges, axis=1))
            parts = (bits + firsts[~full][which]).reshape(-1, 2)
            both = np.concatenate([whole, parts])
            runs.append(both[np.argsort(both[:, 0], kind="stable")])
        return Ranges.of_array(np.concatenate(runs)).clip(0, n_bits)


class Rank:
    """Which bits are set, and how many before a given one."""

    def __init__(self, bitmap: Bitmap) -> None:
        self._numbers = bitmap.numbers
        # A piece of zeros at the end, for bits that lie in no piece.
        self._or_none = np.append(bitmap.numbers, -1)
        self._data = np.concatenate([bitmap.data, np.zeros((1, PIECE_BYTES), np.uint8)])
        self._words = self._data.view("<u8")
        counts = np.bitwise_count(self._words).sum(1, dtype=np.int64)
        self._before = np.cumsum(counts) - counts

    def _rows(self, pieces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each piece, which row comes first at or after it, and which row holds it: the last one if none does."""
        after = np.searchsorted(self._numbers, pieces)
        last = len(self._numbers)
        held = np.where(self._or_none[after] == pieces, after, last)
        return after, held

    def is_set(self, bits: NDArray[np.int64]) -> NDArray[np.bool]:
        """Whether each of ``bits``, which ascend, is set."""
        if not len(bits):
            return np.empty(0, bool)
        # They lie in few pieces, one beside the other.
        first, last = int(bits[0]) // PIECE_BITS, int(bits[-1]) // PIECE_BITS
        if last - first < len(bits):
            rows = self._rows(np.arange(first, last + 1))[1][bits // PIECE_BITS - first]
        else:
            rows = self._rows(bits // PIECE_BITS)[1]
        bytes_ = self._data.reshape(-1)[rows * PIECE_BYTES + (bits >> 3) % PIECE_BYTES]
        found: NDArray[np.bool] = (bytes_ >> (bits & 7).astype(np.uint8) & 1).astype(bool)
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
        pieces, rest = np.divmod(bits, PIECE_BITS)
        after, held = self._rows(pieces)
        words, word = self._words[held], rest // 64
        whole = np.bitwise_count(words) * (np.arange(words.shape[1]) < word[:, None])
        last = words[np.arange(len(bits)), word] & ((np.uint64(1) << (rest % 64).astype(np.uint64)) - np.uint64(1))
        counts: NDArray[np.int64] = self._before[after] + whole.sum(1, dtype=np.int64) + np.bitwise_count(last)
        return counts
