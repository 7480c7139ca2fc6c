"""The page tables of s390x.

Source: z/Architecture Principles of Operation (SA22-7832), chapter 3, "Dynamic Address Translation".
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

#: Bits of an address-space control element: where its top table lies, that there is none, and of which kind it is.
ORIGIN: Final = 0xFFFFFFFFFFFFF000
REAL_SPACE: Final = 0x20
TYPE_SHIFT: Final = 2
#: Entries of a top, region or segment table come by the 512; which of them there are, say their offset and length.
UNIT: Final = 512
OFFSET_SHIFT: Final = 6

#: Bits of a region or segment table entry: not in use, maps memory itself (format control), its table's kind.
INVALID: Final = 0x20
FORMAT_CONTROL: Final = 0x400
#: Where an entry's page table lies.
PAGE_TABLE_ORIGIN: Final = 0xFFFFFFFFFFFFF800
#: Bits of a page table entry: not in use; must be zero.
PAGE_INVALID: Final = 0x400
PAGE_ZERO: Final = 0x800

REGION_THIRD_SHIFT: Final = 31
SEGMENT_SHIFT: Final = 20
PAGE_SHIFT: Final = 12

#: All five levels; a table of kind 3 (region-first) begins with the first, one of kind 0 (segment) with the fourth.
LEVELS: Final = levels_of(PAGE_SHIFT, 11, 11, 11, 11, 8)


class DatTables(PageTables):
    """Addresses from 0 up. What is said to lie at 0 to 8191 lies in each CPU's prefix area instead.

    Args:
        root: The paddr of the top table.
        kind: Of the top table, as an address-space control element and the entries of the table say it.
        length: Of the top table, in units of 512 entries less one.
    """

    def __init__(self, read: ReadPhysical, memory: MemoryMap, root: int, *, kind: int, length: int = 3) -> None:
        part = (0, (length + 1) * UNIT)
        super().__init__(read, memory, root, LEVELS[3 - kind :], byte_order="big", root_part=part)

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        if level.shift == PAGE_SHIFT:
            present = entries & np.uint64(PAGE_INVALID | PAGE_ZERO) == 0
            return present, present, entries
        kind = len(LEVELS) - 2 - LEVELS.index(level)
        present = (entries & np.uint64(INVALID) == 0) & (entries >> np.uint64(TYPE_SHIFT) & np.uint64(3) == kind)
        may_be_leaf = level.shift <= REGION_THIRD_SHIFT
        leaf = (entries & np.uint64(FORMAT_CONTROL) != 0) & may_be_leaf
        origin = PAGE_TABLE_ORIGIN if level.shift == SEGMENT_SHIFT else ORIGIN
        return present, leaf, entries & np.uint64(origin)

    def part(self, entry: int) -> tuple[int, int]:
        """By its table offset and table length."""
        return (entry >> OFFSET_SHIFT & 3) * UNIT, ((entry & 3) + 1) * UNIT
