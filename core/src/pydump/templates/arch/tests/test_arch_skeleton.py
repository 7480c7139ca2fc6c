from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.arch import Arch
from pydump.model.guest import Cpu, Guest
from pydump.testing.arch import ArchTests
from pydump.testing.page_tables import PageTableExample
from pydump.testing.ram import SparseRam
from pydump_arch_skeleton import SkeletonArch


class TestSkeleton(ArchTests):
    arch: ClassVar[type[Arch]] = SkeletonArch

    def example(self) -> PageTableExample:
        """Made-up tables. Take those of a real guest, and what another program translates with them."""
        ram, kernel = SparseRam(1 << 20, "little"), 0xFFFFFFC000000000
        ram.put(0x1000 + 256 * 8, 0x2000 | 1)
        ram.put(0x2000, 0x3000 | 1)
        ram.put(0x2008, 0x40000000 | 3)  # a large page, of 2 MiB
        ram.put(0x3000, 0x5000 | 3)
        notes = self.arch.cpu_notes((Cpu(0, {"ptbr": 0x1000}),), "little")
        translations = {kernel: 0x5000, kernel + 0x1000: None, kernel + 0x200123: 0x40000123, 0: None}
        return PageTableExample(Guest(ram.memory, notes=notes), ram.read, translations)
