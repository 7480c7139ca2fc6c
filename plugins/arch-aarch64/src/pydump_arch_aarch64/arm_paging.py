"""The kernel's page tables on 32-bit Arm: short descriptors, and long ones with the Large Physical Address Extension.

Source: Arm Architecture Reference Manual for ARMv7-A and ARMv7-R, B3.5 "Short-descriptor translation table format" and
B3.6 "Long-descriptor translation table format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydump.interfaces.arch import ReadPhysical
from pydump.interfaces.paging import Level, PageTables, levels_of
from pydump.model.guest import ByteOrder
from pydump.model.memory import MemoryMap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.paging import Decoded

#: The two low bits of a short descriptor: nothing; a table or, of the last level, a large page; else it maps memory.
TYPE: Final = 3
POINTS: Final = 1
#: A section that is one of 16 alike which map 16 MiB together, as those of a large page map 64 KiB.
SUPERSECTION: Final = 1 << 18
ALIKE: Final = 16


class ShortTables(PageTables):
    """2 levels of 4-byte entries: 4,096 sections of a MiB, 256 pages."""

    def __init__(self, read: ReadPhysical, memory: MemoryMap, root: int, *, byte_order: ByteOrder) -> None:
        super().__init__(read, memory, root, levels_of(12, 12, 8), byte_order=byte_order, entry_size=4)

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        kind = entries & np.uint64(TYPE)
        present, points = kind != 0, kind == POINTS
        which = index & np.uint64(ALIKE - 1)
        if level.shift == 12:
            large = entries & np.uint64(0xFFFF0000) | which << np.uint64(12)
            return present, present, np.where(points, large, entries & np.uint64(0xFFFFF000))
        above = (entries >> np.uint64(20) & np.uint64(15)) << np.uint64(32)
        above |= (entries >> np.uint64(5) & np.uint64(15)) << np.uint64(36)
        wide = entries & np.uint64(0xFF000000) | which << np.uint64(20) | above
        section = np.where(entries & np.uint64(SUPERSECTION), wide, entries & np.uint64(0xFFF00000))
        return present, ~points, np.where(points, entries & np.uint64(0xFFFFFC00), section)


class LpaeTables(PageTables):
    """3 levels of 8-byte entries."""

    def __init__(self, read: ReadPhysical, memory: MemoryMap, root: int, *, byte_order: ByteOrder) -> None:
        super().__init__(read, memory, root, levels_of(12, 2, 9, 9), byte_order=byte_order)

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        kind = entries & np.uint64(TYPE)
        valid, full = kind & np.uint64(1) != 0, kind == TYPE
        target = entries & np.uint64((1 << 40) - (1 << 12))
        return (full, full, target) if level.shift == 12 else (valid, ~full, target)
