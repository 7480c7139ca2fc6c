"""The page tables of x86 CPUs.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, chapter 4 "Paging".
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

PRESENT: Final = 1 << 0
PAGE_SIZE: Final = 1 << 7
#: Bits 12 to 51 of an 8-byte entry.
ADDRESS: Final = (1 << 52) - (1 << 12)
#: Bits that a PAE entry must not have set; those of an entry of the top level beside them.
PAE_RESERVED: Final = (1 << 63) - (1 << 52)
PAE_TOP_RESERVED: Final = 1 << 63 | 0x1E6
#: The bit of a 4 MiB page that is not part of the address.
LARGE_RESERVED: Final = 1 << 21

CR0_PG: Final = 1 << 31
CR4_PAE: Final = 1 << 5
CR4_LA57: Final = 1 << 12


class LongTables(PageTables):
    """Tables of 8-byte entries: 4 and 5 levels of a 64-bit CPU, and PAE.

    Args:
        large: The shifts of the levels whose entries may map memory themselves.
        reserved: Bits that no entry may have set.
        top_reserved: Bits that no entry of the top table may have set.
        encrypted: The bit by which memory encryption marks an address, or 0.
    """

    def __init__(
        self,
        read: ReadPhysical,
        memory: MemoryMap,
        root: int,
        levels: tuple[Level, ...],
        *,
        large: tuple[int, ...],
        signed: bool,
        reserved: int = 0,
        top_reserved: int = 0,
        encrypted: int = 0,
    ) -> None:
        super().__init__(read, memory, root, levels, byte_order="little", signed=signed)
        self._large = large
        self._reserved = reserved & ~encrypted
        self._top_reserved = top_reserved
        self._address = ADDRESS & ~encrypted

    @classmethod
    def long_mode(
        cls, read: ReadPhysical, memory: MemoryMap, root: int, *, la57: bool, encrypted: int = 0
    ) -> LongTables:
        """4 levels, or 5 with ``la57``."""
        levels = levels_of(12, *((9,) * (5 if la57 else 4)))
        return cls(read, memory, root, levels, large=(21, 30), signed=True, encrypted=encrypted)

    @classmethod
    def pae(cls, read: ReadPhysical, memory: MemoryMap, root: int) -> LongTables:
        """A 32-bit CPU's 3 levels."""
        return cls(
            read,
            memory,
            root,
            levels_of(12, 2, 9, 9),
            large=(21,),
            signed=False,
            reserved=PAE_RESERVED,
            top_reserved=PAE_TOP_RESERVED,
        )

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        present = (entries & np.uint64(PRESENT) != 0) & (entries & np.uint64(self._reserved) == 0)
        target = entries & np.uint64(self._address)
        if level.shift == 12:
            return present, present, target
        if level is self._levels[0]:
            present &= entries & np.uint64(self._top_reserved) == 0
        leaf = entries & np.uint64(PAGE_SIZE) != 0
        if level.shift not in self._large:
            return present & ~leaf, np.zeros_like(present), target
        # The bits of a large page's address that are below its size are reserved, but for bit 12, which is PAT.
        below = np.uint64((1 << level.shift) - (1 << 13) & self._address)
        return present & ~(leaf & (target & below != 0)), leaf, target


class ShortTables(PageTables):
    """A 32-bit CPU's 2 levels of 4-byte entries; a 4 MiB page may lie above 4 GiB (PSE-36)."""

    def __init__(self, read: ReadPhysical, memory: MemoryMap, root: int) -> None:
        super().__init__(read, memory, root, levels_of(12, 10, 10), byte_order="little", entry_size=4)

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        present = entries & np.uint64(PRESENT) != 0
        target = entries & np.uint64(0xFFFFF000)
        if level.shift == 12:
            return present, present, target
        leaf = entries & np.uint64(PAGE_SIZE) != 0
        present &= ~(leaf & (entries & np.uint64(LARGE_RESERVED) != 0))
        large = entries & np.uint64(0xFFC00000) | (entries >> np.uint64(13) & np.uint64(0xFF)) << np.uint64(32)
        return present, leaf, np.where(leaf, large, target)
