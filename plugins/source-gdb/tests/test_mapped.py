"""RAM by the kernel's mapping of all of it, of machines that are larger than a test can boot."""

from __future__ import annotations

import pytest

from pydump.errors import ReadError, SourceError
from pydump_source_gdb import mapped
from pydump_source_gdb.linear import Linear
from pydump_source_gdb.mapped import mapped_ram

#: As Linux places it with KASLR: a multiple of 1 GiB, in the middle of a table.
BASE = 0xFFFF8D6D80000000
CR3 = 0x2A6A000
PRESENT, LARGE = 0x8000000000000063, 0x80
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Tables:
    """Page tables that map what a test says. Source of the entries: Intel SDM volume 3, 4.5."""

    def __init__(self, levels: int) -> None:
        self.registers = {"cr3": CR3 | 0x801, "cr4": 1 << 12 if levels == 5 else 0}
        self._shifts = (48, 39, 30, 21, 12)[5 - levels :]
        self._entries = {CR3: [0] * 512}

    def map(self, vaddr: int, paddr: int, shift: int) -> None:
        """Map so many bytes: 1 << shift."""
        table = CR3
        for level in self._shifts[: self._shifts.index(shift)]:
            entry = self._entries[table][vaddr >> level & 511]
            if not entry:
                entry = (0x1000_0000 + 0x1000 * len(self._entries)) | PRESENT
                self._entries[table][vaddr >> level & 511] = entry
                self._entries[entry & 0xFFFFFFF000] = [0] * 512
            table = entry & 0xFFFFFFF000
        self._entries[table][vaddr >> shift & 511] = paddr | PRESENT | (LARGE if shift > 12 else 0)

    def read(self, vaddr: int, size: int) -> bytes:
        """Read a table."""
        if vaddr - BASE not in self._entries or size != 4096:
            raise ReadError(vaddr, size, "no table is there")
        return b"".join(entry.to_bytes(8, "little") for entry in self._entries[vaddr - BASE])


@pytest.mark.parametrize("levels", [4, 5])
def test_ram_is_what_the_kernel_maps_at_its_own_address(levels: int) -> None:
    """Pages of every size, the hole below 4 GiB, memory that was plugged in far above, and what follows the mapping."""
    tables = Tables(levels)
    for paddr in range(0, 2 * MIB, 4 * KIB):
        tables.map(BASE + paddr, paddr, 12)
    for paddr in range(2 * MIB, GIB, 2 * MIB):
        tables.map(BASE + paddr, paddr, 21)
    tables.map(BASE + GIB, GIB, 30)
    tables.map(BASE + 2 * GIB, 2 * GIB, 12)
    tables.map(BASE + (600 * GIB), 600 * GIB, 30)
    tables.map(BASE - GIB, 5 * GIB, 30)
    tables.map(BASE + (700 * GIB), 4096, 12)
    tables.map(BASE + (701 * GIB), 701 * GIB, 30)
    found = mapped_ram(Linear(BASE), tables.registers, tables.read)
    assert [(block.paddr, block.end) for block in found] == [
        (0, 640 * KIB),
        (MIB, 2 * GIB + 4 * KIB),
        (600 * GIB, 601 * GIB),
    ]


def test_tables_without_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAX_TABLES", 8)
    tables = Tables(4)
    for paddr in range(0, 8 * GIB, GIB):
        tables.map(BASE + paddr, paddr, 21)
    with pytest.raises(SourceError, match="more than 8 page tables"):
        mapped_ram(Linear(BASE), tables.registers, tables.read)
