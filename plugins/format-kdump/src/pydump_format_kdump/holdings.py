"""What the bitmaps say: where RAM is, which pages are in the dump, which were left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.bitmap import Bitmap, Rank
from pydump.model.memory import Ranges
from pydump_format_kdump.headers import Headers
from pydump_format_kdump.index import IndexedRank, read_index
from pydump_format_kdump.layout import DiskDumpHeader32

#: A map of more blocks than this is not believed: real RAM lies in a few dozen.
MAX_RAM_BLOCKS: Final = 1 << 20


class DescRank(Protocol):
    """Which pages have a descriptor, and its number."""

    def __call__(self, bit: int) -> int:
        """How many descriptors are of pages before ``bit``."""

    def is_set(self, bits: NDArray[np.int64]) -> NDArray[np.bool]:
        """Whether each of ``bits``, which ascend, has a descriptor."""

    def of_set(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the descriptor of each of ``bits``, which have one, and ascend."""


class Holdings:
    """What a dump holds, in pfns as the file counts them.

    Attributes:
        present: Pages that are RAM.
        n_dumped: How many have a descriptor.
        unknown: Pages that are RAM and of which the file does not say whether they have one: it lacks that part of the
            second bitmap.
        rank: The number of each page's descriptor.
        first_paddr: The address of pfn 0.
        indexed: Whether an index told this, and the bitmaps are read where they are needed.
    """

    def __init__(
        self,
        present: Ranges,
        dumped: Ranges | Callable[[], Ranges],
        unknown: Ranges,
        rank: DescRank,
        n_dumped: int,
        first_paddr: int,
    ) -> None:
        self.present = present
        self._dumped = dumped
        self.unknown = unknown
        self.rank = rank
        self.n_dumped = n_dumped
        self.first_paddr = first_paddr

    @property
    def indexed(self) -> bool:
        return callable(self._dumped)

    @cached_property
    def dumped(self) -> Ranges:
        """Pages that have a descriptor."""
        return self._dumped() if callable(self._dumped) else self._dumped

    @cached_property
    def excluded(self) -> Ranges:
        """Pages that were left out."""
        return self.present.subtract(self.dumped).subtract(self.unknown)

    @property
    def n_excluded(self) -> int:
        """How many those are."""
        return self.present.size - self.n_dumped - self.unknown.size if self.indexed else self.excluded.size


def read_holdings(backing: Backing, headers: Headers) -> Holdings:
    """Read the bitmaps; of a remote file only their index, where it has one.

    Raises:
        FormatError: They say what cannot be.
    """
    max_mapnr, block_size = headers.max_mapnr, headers.block_size
    at, size = headers.bitmaps, headers.descs - headers.bitmaps
    need = -(-max_mapnr // 8)
    one = -(-need // block_size) * block_size
    # makedumpfile writes both bitmaps; an older or cut-down writer only the one that matters.
    both = size >= 2 * one
    second = at + size // 2 if both else at

    def dumped_later() -> Ranges:
        return Bitmap.read(backing, second, need).ranges(max_mapnr)

    if backing.remote and both and not any(backing.missing(0, headers.descs)):
        index = read_index(backing, at, max_mapnr, headers.byte_order)
        if index is not None:
            by_index = IndexedRank(backing, second, index, max_mapnr)
            lowest = _first_paddr(headers, index.ram)
            return Holdings(index.ram, dumped_later, Ranges.empty(), by_index, index.n_dumped, lowest)
    first_bits = Bitmap.read(backing, at, need)
    second_bits = Bitmap.read(backing, second, need) if both else first_bits
    present = first_bits.ranges(max_mapnr)
    dumped = present if first_bits.same(second_bits) else second_bits.ranges(max_mapnr)
    absent = [((start - second) * 8, (end - second) * 8) for start, end in backing.missing(second, need)]
    ram = present.union(dumped)
    if len(ram) > MAX_RAM_BLOCKS:
        raise FormatError(backing.path, f"the 1st bitmap has {len(ram)} runs of pages", offset=at)
    unknown = present.subtract(dumped).intersect(Ranges.of(absent)) if absent else Ranges.empty()
    rank = Rank(second_bits)
    return Holdings(ram, dumped, unknown, rank, rank(max_mapnr), _first_paddr(headers, ram))


def _first_paddr(headers: Headers, ram: Ranges) -> int:
    """The address of pfn 0: phys_base where makedumpfile ran on 32-bit ARM, where RAM begins there, and else 0.

    Such a file shows itself by RAM that would lie below phys_base. Nobody writes such memory otherwise: phys_base of a
    32-bit ARM guest is where its RAM begins.

    Source: makedumpfile.h, ARCH_PFN_OFFSET under __arm__; crash's diskdump.c, paddr_to_pfn() under ARM.
    """
    phys_base: int = headers.sub.phys_base
    if not isinstance(headers.main, DiskDumpHeader32) or not headers.main.machine.startswith(b"arm"):
        return 0
    if not ram or phys_base % headers.block_size:
        return 0
    return phys_base if int(ram.array[0, 0]) * headers.block_size < phys_base else 0


def in_bytes(pages: Ranges, headers: Headers, first_paddr: int) -> Ranges:
    """Ranges of pfns as ranges of paddr."""
    return Ranges(pages.array * np.uint64(headers.block_size) + np.uint64(first_paddr))
