"""Page bitmaps: bit ``pfn % 8`` of byte ``pfn // 8``, packed from ranges, counted, and turned back into ranges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

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


def runs(bitmap: NDArray[np.uint8], n_bits: int) -> Iterator[NDArray[np.int64]]:
    """The runs of set bits as arrays of shape (n, 2) of half-open pfn ranges; a run may be cut between arrays."""
    for first in range(0, n_bits, CHUNK_BITS):
        n = min(CHUNK_BITS, n_bits - first)
        piece = bitmap[first // 8 : (first + n + 7) // 8]
        if not piece.any():
            continue
        if n % 8 == 0 and (piece == 0xFF).all():
            yield np.array([[first, first + n]], np.int64)
            continue
        edges = np.zeros(n + 2, np.int8)
        edges[1:-1] = np.unpackbits(piece, bitorder="little", count=n)
        yield np.flatnonzero(np.diff(edges)).reshape(-1, 2) + first


class Rank:
    """How many bits are set before a given one."""

    def __init__(self, bitmap: NDArray[np.uint8]) -> None:
        self._bitmap = bitmap
        whole = len(bitmap) // RANK_BYTES * RANK_BYTES
        counts = np.bitwise_count(bitmap[:whole].view(np.uint64)).reshape(-1, RANK_BYTES // 8).sum(1, dtype=np.int64)
        self._before = np.concatenate([[0], np.cumsum(counts)])

    @property
    def total(self) -> int:
        """How many bits are set in all."""
        return self(len(self._bitmap) * 8)

    def __call__(self, pfn: int) -> int:
        """How many bits are set before ``pfn``."""
        chunk, rest = divmod(pfn, RANK_BYTES * 8)
        piece = self._bitmap[chunk * RANK_BYTES : chunk * RANK_BYTES + rest // 8]
        count = int(self._before[chunk]) + int(np.bitwise_count(piece).sum(dtype=np.int64))
        if rest % 8:
            count += int(self._bitmap[pfn // 8] & ((1 << rest % 8) - 1)).bit_count()
        return count

    def set_bits(self, first: int, end: int) -> NDArray[np.int64]:
        """The set bits in ``[first, end)``, ascending."""
        start = first // 8
        bits = np.unpackbits(self._bitmap[start : (end + 7) // 8], bitorder="little")
        return np.flatnonzero(bits[first - start * 8 : end - start * 8]) + first
