"""Where a PC has RAM, by what the kernel's mapping of all RAM maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from pydump.errors import SourceError
from pydump.model.memory import MemoryMap, Ranges
from pydump_source_gdb.linear import ADDRESS, LARGE, PRESENT, Linear, ReadVirtual, table_shifts

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Page tables that are read: 32 GiB in pages of 4 KiB, or 16 TiB in pages of 2 MiB.
MAX_TABLES: Final = 1 << 14
ENTRIES: Final = 512


def mapped_ram(linear: Linear, registers: Mapping[str, int], read: ReadVirtual) -> MemoryMap:
    """The RAM that Linux maps on x86_64: all that it uses, memory that was plugged in later as well.

    The mapping ends where the tables map something else, which is what lies above it. Linux also maps what a PC has
    between 640 KiB and 1 MiB, which is not RAM.

    Args:
        linear: The mapping.
        registers: Of a CPU that uses it: cr3 and cr4.
        read: Reads memory as this CPU sees it.

    Raises:
        ReadError: A table cannot be read.
        SourceError: There are more tables than are read.

    Source: Intel SDM volume 3, 4.5; init_mem_mapping in arch/x86/mm/init.c of Linux.
    """
    walk = _Walk(linear, read)
    walk.table(registers["cr3"] & ADDRESS, table_shifts(registers), linear.vaddr)
    found = Ranges.of((start, end) for part in walk.found for start, end in part.tolist())
    return MemoryMap.of((start, end - start) for start, end in found.subtract(Ranges.of([(0xA0000, 0x100000)])))


class _Walk:
    def __init__(self, linear: Linear, read: ReadVirtual) -> None:
        self.found: list[NDArray[np.uint64]] = []
        self._linear = linear
        self._read = read
        self._tables = 0

    def table(self, paddr: int, shifts: tuple[int, ...], vaddr: int) -> bool:
        """Take what a table maps from ``vaddr`` on.

        Args:
            paddr: Where the table lies.
            shifts: log2 of the bytes that an entry stands for, in this table and in those below.
            vaddr: An address that it has an entry for.

        Returns:
            Whether all of it is part of the mapping.
        """
        self._tables += 1
        if self._tables > MAX_TABLES:
            raise SourceError(f"the kernel's mapping of RAM has more than {MAX_TABLES} page tables")
        shift = shifts[0]
        first = vaddr >> shift & ENTRIES - 1
        vaddr = (vaddr >> shift) - first << shift
        entries = np.frombuffer(self._read(self._linear.to_vaddr(paddr), 8 * ENTRIES), "<u8")
        present = entries & PRESENT != 0
        present[:first] = False
        leaf = np.full(ENTRIES, True) if shift == 12 else (entries & LARGE != 0) & (shift < 39)
        at = (np.arange(ENTRIES, dtype=np.uint64) << shift) + np.uint64(self._linear.to_paddr(vaddr) % (1 << 64))
        other = present & leaf & (entries & (ADDRESS & -(1 << shift)) != at)
        stop = int(other.argmax()) if other.any() else ENTRIES
        for index in np.flatnonzero(present & ~leaf).tolist():
            if index > stop:
                break
            below = max(vaddr + (index << shift), self._linear.vaddr)
            if not self.table(int(entries[index]) & ADDRESS, shifts[1:], below):
                stop = index
        starts = at[:stop][(present & leaf)[:stop]]
        self.found.append(np.stack([starts, starts + np.uint64(1 << shift)], axis=1))
        return stop == ENTRIES
