"""The table walk itself, on an invented machine: 3 levels of 4 entries, 16-byte pages."""

from __future__ import annotations

from typing import Any

import pytest

from pydump.errors import SourceError
from pydump.interfaces import paging
from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.interfaces.paging import Level, PageTables, levels_of
from pydump.model.memory import MemoryMap
from pydump.testing.ram import SparseRam

LEVELS = levels_of(4, 2, 2, 2)
ROOT, MIDDLE, LAST = 0x100, 0x200, 0x300
TABLE, LEAF = 1, 3


class Toy(PageTables):
    """Bit 0: in use; bit 1: maps memory; the rest is where."""

    def decode(self, level: Level, entries: Any, index: Any) -> Any:
        import numpy as np

        return entries & np.uint64(1) != 0, entries & np.uint64(2) != 0, entries & ~np.uint64(3)


def toy(entries: dict[int, int], **how: Any) -> Toy:
    ram = SparseRam(0x1000, "big")
    for paddr, value in entries.items():
        ram.put(paddr, value)
    return Toy(ram.read, ram.memory, ROOT, LEVELS, byte_order="big", **how)


def test_levels() -> None:
    assert levels_of(4, 2, 2, 2) == (Level(8, 2), Level(6, 2), Level(4, 2))


def test_a_table_that_lies_in_ram_in_part() -> None:
    entries = {ROOT + 8: MIDDLE | TABLE, MIDDLE: LAST | TABLE, LAST: 0x6010 | LEAF, LAST + 24: 0x7000 | LEAF}
    space = toy(entries)
    space._memory = MemoryMap.of([(0, LAST + 8), (LAST + 24, 0x100)])
    assert list(space.mappings()) == [Mapping(0x100, 0x6010, 0x10), Mapping(0x130, 0x7000, 0x10)]
    space._memory = MemoryMap.of([(0, LAST), (LAST + 24, 0x100)])
    assert list(space.mappings()) == [Mapping(0x130, 0x7000, 0x10)]


def test_tables_that_are_used_over_and_over_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    class Counting(Toy):
        def _leaves(self, within: Any, target: Any, level: Level) -> Any:
            nonlocal most
            most = max(most, len(within))
            return super()._leaves(within, target, level)

    ram = SparseRam(0x10000, "big")
    for i in range(64):  # 64 tables that are all the same one
        ram.put(ROOT + 8 * i, 0x2000 | TABLE)
        ram.put(0x2000 + 8 * i, 0x3000 | TABLE)
        ram.put(0x3000 + 8 * i, 0x4000 + 0x100 * (i * 7 % 64) | LEAF)
    monkeypatch.setattr(paging, "DECODED_AT_ONCE", 256)
    space = Counting(ram.read, ram.memory, ROOT, levels_of(8, 6, 6, 6), byte_order="big")
    assert sum(m.size for m in space.mappings()) == 64 * 64 * 64 << 8
    assert most == 256
    monkeypatch.setattr(paging, "MAX_MAPPINGS", 10_000)
    with pytest.raises(SourceError, match="have no end"):
        list(space.mappings())


def test_pages_of_all_sizes() -> None:
    space = toy(
        {
            ROOT + 8: MIDDLE | TABLE,
            ROOT + 24: 0x4000 | LEAF,  # 256 bytes
            MIDDLE + 0: LAST | TABLE,
            MIDDLE + 16: 0x5040 | LEAF,  # 64 bytes
            LAST + 8: 0x6010 | LEAF,
            LAST + 24: 0x7000 | LEAF,
        }
    )
    assert list(space.mappings()) == [
        Mapping(0x110, 0x6010, 0x10),
        Mapping(0x130, 0x7000, 0x10),
        Mapping(0x180, 0x5040, 0x40),
        Mapping(0x300, 0x4000, 0x100),
    ]
    assert [space.translate(v) for v in (0, 0x10F, 0x110, 0x11F, 0x120, 0x1BF, 0x1C0, 0x3AB, 0x400, 1 << 63)] == [
        None,
        None,
        0x6010,
        0x601F,
        None,
        0x507F,
        None,
        0x40AB,
        None,
        None,
    ]


def test_neighbours_are_joined_across_tables_and_sizes() -> None:
    space = toy(
        {
            ROOT + 0: MIDDLE | TABLE,
            ROOT + 8: 0x4100 | LEAF,
            **{MIDDLE + 8 * i: 0x4000 + 0x40 * i | LEAF for i in range(3)},
            MIDDLE + 24: LAST | TABLE,
            **{LAST + 8 * i: 0x40C0 + 0x10 * i | LEAF for i in range(4)},
        }
    )
    assert list(space.mappings()) == [Mapping(0, 0x4000, 0x200)]


def test_the_bits_below_a_large_page_do_not_count() -> None:
    space = toy({ROOT: 0x40F0 | LEAF})
    assert space.translate(5) == 0x4005
    assert list(space.mappings()) == [Mapping(0, 0x4000, 0x100)]


def test_signed_addresses() -> None:
    space = toy({ROOT + 8: 0x1000 | LEAF, ROOT + 16: 0x2000 | LEAF}, signed=True)
    high = (1 << 64) - 0x200
    assert list(space.mappings()) == [Mapping(0x100, 0x1000, 0x100), Mapping(high, 0x2000, 0x100)]
    assert space.translate(high + 1) == 0x2001
    assert space.translate(0x101) == 0x1001
    assert space.translate(0x201) is None, "bit 9 is set, and those above it are not"


def test_the_last_page_of_the_address_space() -> None:
    space = toy({ROOT + 24: 0x1000 | LEAF, ROOT + 0: 0x1100 | LEAF}, signed=True)
    assert list(space.mappings()) == [Mapping(0, 0x1100, 0x100), Mapping((1 << 64) - 0x100, 0x1000, 0x100)]
    assert space.translate((1 << 64) - 1) == 0x10FF


def test_fixed_bits() -> None:
    space = toy({ROOT: 0x1000 | LEAF}, fixed=0xC0 << 56)
    assert list(space.mappings()) == [Mapping(0xC0 << 56, 0x1000, 0x100)]
    assert space.translate(0xC0 << 56 | 7) == 0x1007
    assert space.translate(7) is None


def test_tables_outside_ram_are_empty() -> None:
    space = toy({ROOT: 0x10000 | TABLE, ROOT + 8: MIDDLE | TABLE, MIDDLE: 0x20000 | TABLE, MIDDLE + 8: 0x99000 | LEAF})
    assert space.translate(0) is None
    assert space.translate(0x100) is None
    assert list(space.mappings()) == [Mapping(0x140, 0x99000, 0x40)]


def test_aliases_are_all_there() -> None:
    upper = {ROOT + 8 * i: MIDDLE | TABLE for i in range(4)} | {MIDDLE + 8 * i: LAST | TABLE for i in range(4)}
    space = toy({**upper, LAST: 0x500 | LEAF})
    assert list(space.mappings()) == [Mapping(vaddr, 0x500, 0x10) for vaddr in range(0, 0x400, 0x40)]


def test_tables_that_point_to_themselves_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = {ROOT + 8 * i: ROOT | TABLE for i in range(4)}
    assert list(toy(loop).mappings()) == []  # the last level's entries are no leaves
    monkeypatch.setattr(paging, "MAX_ENTRIES", 64)
    with pytest.raises(SourceError, match="no end"):
        list(toy(loop).mappings())


def test_endless_aliases_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_MAPPINGS", 3)
    with pytest.raises(SourceError, match="no end"):
        list(toy({ROOT + 8 * i: 0x1000 | LEAF for i in range(4)}).mappings())


def test_entries_of_four_bytes() -> None:
    ram = SparseRam(0x1000, "little")
    ram.put(ROOT + 4, 0x4000 | LEAF, size=4)
    space = Toy(ram.read, ram.memory, ROOT, LEVELS, byte_order="little", entry_size=4)
    assert list(space.mappings()) == [Mapping(0x100, 0x4000, 0x100)]
    assert space.translate(0x123) == 0x4023


@pytest.mark.parametrize("how", [{}, {"signed": True}, {"fixed": 0xC0 << 56}], ids=["plain", "signed", "fixed"])
def test_runs_are_the_mappings_of_a_range(how: dict[str, Any]) -> None:
    tables = {
        ROOT + 0: MIDDLE | TABLE,
        ROOT + 8: 0x4100 | LEAF,
        ROOT + 24: MIDDLE | TABLE,
        MIDDLE + 0: 0x4000 | LEAF,
        MIDDLE + 16: LAST | TABLE,
        MIDDLE + 24: 0x7000 | LEAF,
        **{LAST + 8 * i: 0x40C0 + 0x10 * i | LEAF for i in (0, 1, 3)},
    }
    space = toy(tables, **how)
    mappings = list(space.mappings())
    base = mappings[0].vaddr & ~0x3FF
    bounds = [base + at for at in range(0, 0x401, 13)] + [0, 0x400, (1 << 64) - 0x205, (1 << 64) - 1, 1 << 64]
    for start in bounds:
        for end in bounds:
            expected = [
                Mapping(max(m.vaddr, start), m.paddr + max(m.vaddr, start) - m.vaddr, stop - max(m.vaddr, start))
                for m in mappings
                if (stop := min(m.vaddr + m.size, end)) > max(m.vaddr, start)
            ]
            assert list(space.runs(start, end - start)) == expected, (hex(start), hex(end))


def test_runs_read_only_the_tables_of_the_range() -> None:
    entries = {ROOT + 8 * i: MIDDLE | TABLE for i in range(4)} | {MIDDLE + 8 * i: LAST | TABLE for i in range(4)}
    space = toy(entries | {LAST + 8 * i: 0x500 | LEAF for i in range(4)})
    read: list[int] = []

    def counting(paddr: int, size: int, read_physical: Any = space._read) -> Any:
        read.append(size)
        return read_physical(paddr, size)

    space._read = counting
    assert list(space.runs(0x150, 8)) == [Mapping(0x150, 0x500, 8)]
    assert sum(read) == 8 + 8 + 4 * 8, "one entry of each upper table, and one table of the last level"


def test_runs_of_an_address_space_that_only_translates() -> None:
    class Shifted(AddressSpace):
        def translate(self, vaddr: int) -> int | None:
            return None if vaddr // 0x1000 % 4 == 2 else vaddr + 0x10000

        def mappings(self) -> Any:
            raise NotImplementedError

    assert list(Shifted().runs(0x800, 0x3000)) == [Mapping(0x800, 0x10800, 0x1800), Mapping(0x3000, 0x13000, 0x800)]
    assert list(Shifted().runs(0x2000, 0x1000)) == []
