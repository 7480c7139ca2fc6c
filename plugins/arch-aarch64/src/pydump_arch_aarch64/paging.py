"""The kernel's page tables on aarch64: those that TTBR1_EL1 points to.

Source: Arm Architecture Reference Manual for A-profile, D8.3 "Translation table descriptor formats"; its use by the
Linux kernel: arch/arm64/include/asm/pgtable-hwdef.h, Documentation/arch/arm64/memory.rst.
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
#: Set in an entry that points to a table, and in one of the last level; clear in a block.
TABLE: Final = 1 << 1


#: Shifts of the levels that have block descriptors, by the granule's shift; and those that 52-bit addresses add.
#: Source: Arm ARM, D8.3.1, "Block descriptor": the levels of each granule, FEAT_LPA and FEAT_LPA2.
BLOCKS: Final = {12: (21, 30), 14: (25,), 16: (29,)}
BLOCKS_52: Final = {12: (39,), 14: (36,), 16: (42,)}


class Aarch64Tables(PageTables):
    """Kernel addresses, whose high bits are all ones.

    Args:
        page_size: The translation granule: 4096, 16384 or 65536.
        va_bits: Bits of address that the tables translate.
        pa_bits: Bits of guest-physical address: 48 or 52.
    """

    def __init__(
        self,
        read: ReadPhysical,
        memory: MemoryMap,
        root: int,
        *,
        page_size: int,
        va_bits: int,
        pa_bits: int,
        byte_order: ByteOrder,
    ) -> None:
        page_shift = page_size.bit_length() - 1
        stride = page_shift - 3
        n_whole, top = divmod(va_bits - page_shift, stride)
        bits = ((top,) if top else ()) + (stride,) * n_whole
        fixed = (1 << 64) - (1 << va_bits)
        super().__init__(read, memory, root, levels_of(page_shift, *bits), byte_order=byte_order, fixed=fixed)
        self._last = page_shift
        #: With 52-bit addresses and small granules the top two address bits lie where shareability is otherwise.
        self._lpa2 = va_bits == 52 and page_shift < 16
        wide = self._lpa2 or (page_shift == 16 and pa_bits == 52)
        self._blocks = BLOCKS[page_shift] + (BLOCKS_52[page_shift] if wide else ())
        self._low = (1 << (50 if self._lpa2 else 48)) - (1 << page_shift)

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        valid = entries & np.uint64(VALID) != 0
        is_table = entries & np.uint64(TABLE) != 0
        target = entries & np.uint64(self._low)
        if self._lpa2:
            target |= (entries & np.uint64(0x300)) << np.uint64(50 - 8)
        elif self._last == 16:
            target |= (entries & np.uint64(0xF000)) << np.uint64(48 - 12)
        if level.shift == self._last:
            return valid & is_table, valid, target
        if level.shift not in self._blocks:
            return valid & is_table, ~is_table, target
        return valid, ~is_table, target
