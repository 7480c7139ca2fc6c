"""The kernel's radix page tables on ppc64.

Source: Power ISA version 3.0B, book III, 5.7.10 "Radix Tree Translation"; their geometry under Linux:
arch/powerpc/include/asm/book3s/64/radix-4k.h and radix-64k.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydump.interfaces.arch import ReadPhysical
from pydump.interfaces.paging import Level, PageTables, levels_of
from pydump.model.memory import MemoryMap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.paging import Decoded

#: Where Linux maps all of RAM; all kernel addresses begin here. Source: arch/powerpc/Kconfig.
PAGE_OFFSET: Final = 0xC000000000000000

VALID: Final = 1 << 63
LEAF: Final = 1 << 62
#: The real page number of a leaf, and where the next table lies.
RPN: Final = 0x01FFFFFFFFFFF000
NLB: Final = 0x0FFFFFFFFFFFFF00
#: log2 of the number of entries in the next table.
NLS: Final = 0x1F
#: Shifts of the levels whose entries may map memory: pages of 4 KiB, 64 KiB, 2 MiB and 1 GiB. Source: POWER9 Processor
#: User's Manual, "Radix Tree Translation": supported page sizes.
PAGE_SHIFTS: Final = (12, 16, 21, 30)

#: Levels by page size.
LEVELS: Final = {4096: levels_of(12, 13, 9, 9, 9), 65536: levels_of(16, 13, 9, 9, 5)}


class RadixTables(PageTables):
    """Kernel addresses; the entries are big-endian in either byte order."""

    def __init__(self, read: ReadPhysical, memory: MemoryMap, root: int, *, page_size: int) -> None:
        super().__init__(read, memory, root, LEVELS[page_size], byte_order="big", fixed=PAGE_OFFSET)

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        valid = entries & np.uint64(VALID) != 0
        leaf = entries & np.uint64(LEAF) != 0
        below = next((each.bits for each in self._levels if each.shift < level.shift), 0)
        # A table of another size than the next level's would be indexed by other bits.
        points = ~leaf & (entries & np.uint64(NLS) == below)
        valid &= points | leaf if level.shift in PAGE_SHIFTS else points
        return valid, leaf, np.where(leaf, entries & np.uint64(RPN), entries & np.uint64(NLB))
