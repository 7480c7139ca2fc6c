"""A guest with 1 TiB of RAM, of which little is kept."""

from __future__ import annotations

from typing import Final

import numpy as np

from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges

#: A page that is kept; one in each GiB is.
KEPT: Final = (700 << 30) + (12 << 20)


class Filtered(MemoryImage):
    """Each word of what was kept is its own address."""

    def guest(self) -> Guest:
        return Guest(MemoryMap.of([(0, 1 << 40)]), dump_level=31)

    def excluded(self) -> Ranges:
        kept = Ranges.of((at, at + 4096) for at in range(KEPT % (1 << 30), 1 << 40, 1 << 30))
        return self.guest().memory.ranges().subtract(kept)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        buffer[:] = np.arange(paddr, paddr + len(buffer), 8, dtype="<u8").data.cast("B")
