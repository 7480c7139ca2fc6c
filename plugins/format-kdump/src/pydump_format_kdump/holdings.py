"""What the bitmaps say: where RAM is, which pages are in the dump, which were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.bitmap import Bitmap, Rank
from pydump.model.memory import Ranges
from pydump_format_kdump.headers import Headers
from pydump_format_kdump.layout import DiskDumpHeader32

#: A map of more blocks than this is not believed: real RAM lies in a few dozen.
MAX_RAM_BLOCKS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a dump holds, in pfns as the file counts them.

    Attributes:
        present: Pages that are RAM.
        dumped: Pages that have a descriptor.
        unknown: Pages that are RAM and of which the file does not say whether they have one: it lacks that part of the
            second bitmap.
        rank: The number of each page's descriptor.
        first_paddr: The address of pfn 0.
    """

    present: Ranges
    dumped: Ranges
    unknown: Ranges
    rank: Rank
    first_paddr: int


def read_holdings(backing: Backing, headers: Headers) -> Holdings:
    """Read the bitmaps.

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
    first_bits = Bitmap.read(backing, at, need)
    second_bits = Bitmap.read(backing, second, need) if both else first_bits
    present = first_bits.ranges(max_mapnr)
    dumped = present if first_bits.same(second_bits) else second_bits.ranges(max_mapnr)
    absent = [((start - second) * 8, (end - second) * 8) for start, end in backing.missing(second, need)]
    ram = present.union(dumped)
    if len(ram) > MAX_RAM_BLOCKS:
        raise FormatError(backing.path, f"the 1st bitmap has {len(ram)} runs of pages", offset=at)
    unknown = present.subtract(dumped).intersect(Ranges.of(absent)) if absent else Ranges.empty()
    return Holdings(ram, dumped, unknown, Rank(second_bits), _first_paddr(headers, ram))


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
