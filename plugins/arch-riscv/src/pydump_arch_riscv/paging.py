"""The page tables of RISC-V CPUs.

Source: The RISC-V Instruction Set Manual, volume II, "Sv32", "Sv39", "Sv48", "Sv57" and "Svnapot".
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
#: Read, write, execute: an entry with none of them points to a table.
RWX: Final = 7 << 1
#: Svnapot: this entry and 15 others map 64 KiB together, and the low bits of their page number say only that.
NAPOT: Final = 1 << 63
NAPOT_PAGES: Final = 16

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

        valid = entries & np.uint64(VALID) != 0
        leaf = entries & np.uint64(RWX) != 0
        page = entries >> np.uint64(10) & np.uint64((1 << 44) - 1)
        if level.shift == 12:
            within = np.uint64(NAPOT_PAGES - 1)
            page = np.where(entries & np.uint64(NAPOT), page & ~within | index & within, page)
        return valid, leaf, page << np.uint64(12)
