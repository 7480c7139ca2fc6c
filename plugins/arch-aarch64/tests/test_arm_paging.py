"""What no recorded guest of 32-bit Arm has in its page tables: supersections and large pages."""

from __future__ import annotations

from pydump.interfaces.arch import Mapping
from pydump.testing.ram import SparseRam
from pydump_arch_aarch64.arm_paging import LpaeTables, ShortTables

ROOT, SECOND = 0x4000, 0x8000


def test_short_descriptors() -> None:
    """Arm ARM (ARMv7-A) figures B3-4 and B3-5."""
    ram = SparseRam(1 << 20, "little")
    ram.put(ROOT + 4 * 0xC00, SECOND | 1, size=4)  # a table
    ram.put(ROOT + 4 * 0xC01, 0x12300000 | 2, size=4)  # a section
    ram.put(ROOT + 4 * 0xC02, 0x12400000 | 3, size=4)  # one that may not be executed
    for i in range(16):  # 16 MiB at 0xAB_21000000: bits 36 to 39 in 5 to 8, 32 to 35 in 20 to 23
        ram.put(ROOT + 4 * (0xC10 + i), 0x21000000 | 0xB << 20 | 1 << 18 | 0xA << 5 | 2, size=4)
    for i in range(16):  # 64 KiB
        ram.put(SECOND + 4 * (16 + i), 0x87650000 | 1, size=4)
    ram.put(SECOND + 4 * 255, 0x43210000 | 2, size=4)
    space = ShortTables(ram.read, ram.memory, ROOT, byte_order="little")
    assert list(space.mappings()) == [
        Mapping(0xC0010000, 0x87650000, 0x10000),
        Mapping(0xC00FF000, 0x43210000, 0x1000),
        Mapping(0xC0100000, 0x12300000, 0x200000),
        Mapping(0xC1000000, 0xAB21000000, 0x1000000),
    ]
    assert space.translate(0xC1ABCDEF) == 0xAB21ABCDEF
    assert space.translate(0xC001FFFF) == 0x8765FFFF
    assert space.translate(0xC0020000) is None
    assert space.translate(0x1C0010000) is None


def test_long_descriptors_reach_40_bits() -> None:
    """Arm ARM (ARMv7-A) figures B3-13 and B3-14; in the last level an entry whose bit 1 is clear is none."""
    ram = SparseRam(1 << 20, "big")
    ram.put(ROOT + 8 * 3, SECOND | 3)
    ram.put(SECOND, 0xFF_00200000 | 1)
    ram.put(SECOND + 8, 0x9000 | 3)
    ram.put(0x9000, 0x12_34567000 | 1 << 54 | 3)
    ram.put(0x9008, 0x12_34568000 | 1)
    ram.put(ROOT + 8, 0x40_40000000 | 1)
    space = LpaeTables(ram.read, ram.memory, ROOT, byte_order="big")
    assert list(space.mappings()) == [
        Mapping(0x40000000, 0x40_40000000, 1 << 30),
        Mapping(0xC0000000, 0xFF_00200000, 2 << 20),
        Mapping(0xC0200000, 0x12_34567000, 0x1000),
    ]
