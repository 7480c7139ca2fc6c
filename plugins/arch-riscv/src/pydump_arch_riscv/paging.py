"""The page tables of RISC-V CPUs.

Source: The RISC-V Instruction Set Manual, volume II, "Sv32", "Sv39", "Sv48", "Sv57" and "Svnapot"; what is reserved:
"Virtual Address Translation Process".
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

VALID: Final = 1 << 0
#: Read, write, execute: an entry with none of them points to a table; one that may be written but not read is none.
RWX: Final = 7 << 1
READ: Final = 1 << 1
WRITE: Final = 1 << 2
#: User, accessed, dirty, and all bits above the page number: an entry that points to a table has none of them.
UAD: Final = 1 << 4 | 3 << 6
HIGH: Final = (1 << 64) - (1 << 54)
#: What no extension has given a meaning. Bits 59 to 63 are Svnapot's, Svpbmt's, Svrsw60t59b's, or on T-Head's CPUs hold
#: the memory type.
RESERVED: Final = (1 << 59) - (1 << 54)
#: Svnapot: this entry and 15 others map 64 KiB together, and the low bits of their page number say only that.
NAPOT: Final = 1 << 63
NAPOT_PAGES: Final = 16
NAPOT_64K: Final = 8

#: Levels by bits of address.
LEVELS: Final = {
    32: levels_of(12, 10, 10),
    39: levels_of(12, 9, 9, 9),
    48: levels_of(12, 9, 9, 9, 9),
    57: levels_of(12, 9, 9, 9, 9, 9),
}


class RiscvTables(PageTables):
    """Sv32, Sv39, Sv48 or Sv57, by ``va_bits``."""

    def __init__(
        self, read: ReadPhysical, memory: MemoryMap, root: int, *, va_bits: int, byte_order: ByteOrder
    ) -> None:
        wide = va_bits > 32
        super().__init__(
            read, memory, root, LEVELS[va_bits], byte_order=byte_order, entry_size=8 if wide else 4, signed=wide
        )

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        valid = (entries & np.uint64(VALID) != 0) & (entries & np.uint64(RESERVED) == 0)
        valid &= entries & np.uint64(READ | WRITE) != WRITE
        leaf = entries & np.uint64(RWX) != 0
        valid &= leaf | (entries & np.uint64(UAD | HIGH) == 0)
        page = entries >> np.uint64(10) & np.uint64((1 << 44) - 1)
        if level.shift == 12:
            napot, within = entries & np.uint64(NAPOT) != 0, np.uint64(NAPOT_PAGES - 1)
            valid &= ~napot | (page & within == NAPOT_64K)
            page = np.where(napot, page & ~within | index & within, page)
        else:  # a large page lies at a multiple of its size
            valid &= ~leaf | (page & np.uint64((1 << level.shift - 12) - 1) == 0)
        return valid, leaf, page << np.uint64(12)
