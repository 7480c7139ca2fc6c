"""s390x page tables that no fixture has: five levels, 2 GiB pages, KASLR, and no VMCOREINFO."""

from __future__ import annotations

import pytest

from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.model.guest import Cpu, Guest
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.testing.ram import SparseRam
from pydump_arch_s390x import S390xArch

#: Of region and segment table entries: their table's kind and length; a large page; not in use.
REGION_FIRST, REGION_SECOND, REGION_THIRD, SEGMENT = 0xF, 0xB, 0x7, 0x3
FORMAT_CONTROL, INVALID = 0x400, 0x20
#: Of page table entries: not in use; protected.
PAGE_INVALID, PROTECTED = 0x400, 0x200


class Ram(SparseRam):
    """RAM with tables in it; an entry that is not filled in is marked so, for 0 would be one in use."""

    def __init__(self) -> None:
        super().__init__(1 << 24, "big")

    def table(self, paddr: int, kind: int, entries: dict[int, int]) -> None:
        for i in range(2048):
            self.put(paddr + 8 * i, (entries[i] | kind) if i in entries else kind | INVALID)

    def page_table(self, paddr: int, entries: dict[int, int]) -> None:
        for i in range(256):
            self.put(paddr + 8 * i, entries.get(i, PAGE_INVALID))


def three_levels() -> Ram:
    ram = Ram()
    ram.table(0x10000, REGION_THIRD, {0: 0x20000, 3: 0x8000_0000 | FORMAT_CONTROL | 0x1000})
    ram.table(0x20000, SEGMENT, {0: 0x30800, 1: 0x700000 | FORMAT_CONTROL})
    ram.page_table(0x30800, {1: 0x9000, 2: 0xA000 | PROTECTED, 255: 0x12345000})
    return ram


MAPPINGS = [
    Mapping(0x1000, 0x9000, 0x2000),
    Mapping(0xFF000, 0x12345000, 0x1000),
    Mapping(0x100000, 0x700000, 1 << 20),
    Mapping(3 << 31, 0x8000_0000, 2 << 30),
]


def by_registers(ram: Ram, *homes: int) -> AddressSpace | None:
    notes = S390xArch.cpu_notes([Cpu(i, {"cr13": home}) for i, home in enumerate(homes)], "big")
    return S390xArch.address_space(Guest(ram.memory, byte_order="big", notes=notes), ram.read)


def by_vmcoreinfo(ram: Ram, text: str) -> AddressSpace | None:
    guest = Guest(ram.memory, byte_order="big", vmcoreinfo=Vmcoreinfo(text.encode()))
    return S390xArch.address_space(guest, ram.read)


def test_by_the_home_space_of_a_cpu_that_has_one() -> None:
    space = by_registers(three_levels(), 0, 0x10000 | REGION_THIRD)
    assert space is not None
    assert list(space.mappings()) == MAPPINGS
    assert [space.translate(v) for v in (0, 0x1FFF, 0x100010, 3 << 31 | 5, 1 << 42)] == [
        None,
        0x9FFF,
        0x700010,
        0x8000_0005,
        None,
    ]


def test_a_real_space_has_no_tables() -> None:
    assert by_registers(three_levels(), 0x10020) is None
    assert by_registers(three_levels(), 0, 0) is None


def test_five_levels() -> None:
    ram = three_levels()
    ram.table(0x40000, REGION_FIRST, {1: 0x50000})
    ram.table(0x50000, REGION_SECOND, {2: 0x10000})
    space = by_registers(ram, 0x40000 | REGION_FIRST)
    assert space is not None
    base = (1 << 53) + (2 << 42)
    assert list(space.mappings()) == [Mapping(base + m.vaddr, m.paddr, m.size) for m in MAPPINGS]
    assert space.translate(base + 0x100010) == 0x700010


def test_the_kind_of_the_top_table_follows_from_its_entries() -> None:
    ram = three_levels()
    ram.table(0x50000, REGION_SECOND, {0: 0x10000})
    for tables in (0x10000, 0x50000):
        text = f"SYMBOL(swapper_pg_dir)={tables:x}\nSYMBOL(_stext)=700000\n"
        assert by_vmcoreinfo(ram, text) is None, "_stext is not mapped to itself"
        ram.table(0x20000, SEGMENT, {0: 0x30800, 7: 0x700000 | FORMAT_CONTROL})
        space = by_vmcoreinfo(ram, text)
        assert space is not None
        assert space.translate(0x700123) == 0x700123
        ram.table(0x20000, SEGMENT, {0: 0x30800})


def test_a_relocated_kernel_lies_elsewhere_than_it_is_linked() -> None:
    """Linux 6.10: the image is mapped at KERNELOFFSET and lies at KERNELOFFPHYS."""
    ram = Ram()
    offset = 0x3FF_8000_0000
    ram.table(0x210000, REGION_THIRD, {offset >> 31: 0x220000})
    ram.table(0x220000, SEGMENT, {3: 0x500000 | FORMAT_CONTROL})
    text = (
        f"SYMBOL(swapper_pg_dir)={offset + 0x10000:x}\nSYMBOL(_stext)={offset + 0x300000:x}\n"
        f"IDENTITYBASE=0\nKERNELOFFSET={offset:x}\nKERNELOFFPHYS=200000\n"
    )
    space = by_vmcoreinfo(ram, text)
    assert space is not None
    assert space.translate(offset + 0x300004) == 0x500004


def test_vmcoreinfo_without_ram_there() -> None:
    assert by_vmcoreinfo(three_levels(), "SYMBOL(swapper_pg_dir)=99000000\nSYMBOL(_stext)=100000\n") is None


@pytest.mark.parametrize("kind", [REGION_FIRST, REGION_SECOND, REGION_THIRD, SEGMENT])
@pytest.mark.parametrize("said", [REGION_FIRST, REGION_SECOND, REGION_THIRD, SEGMENT])
def test_an_entry_of_another_table_type_is_not_mapped(kind: int, said: int) -> None:
    """Principles of Operation, chapter 3: a translation-specification exception."""
    ram = three_levels()
    kinds = [REGION_FIRST, REGION_SECOND, REGION_THIRD, SEGMENT]
    below = kinds[kinds.index(kind) + 1 :]
    tables = {REGION_FIRST: 0x40000, REGION_SECOND: 0x50000, REGION_THIRD: 0x10000, SEGMENT: 0x20000}
    ram.table(0x40000, REGION_FIRST, {0: 0x50000})
    ram.table(0x50000, REGION_SECOND, {0: 0x10000})
    target = tables[below[0]] if below else 0x30800
    ram.put(tables[kind], target | said & 0xC | kind & 3)
    space = by_registers(ram, 0x40000 | REGION_FIRST)
    assert space is not None
    there = said == kind
    assert (space.translate(0x1000) == 0x9000) == there
    assert (Mapping(0x1000, 0x9000, 0x2000) in space.mappings()) == there


@pytest.mark.parametrize(("offset", "length"), [(0, 3), (0, 0), (1, 3), (2, 2), (2, 1), (3, 0)])
def test_an_index_outside_of_table_offset_and_length_is_not_mapped(offset: int, length: int) -> None:
    """TF and TL of a region entry: the next table has its entries from 512 TF to 512 (TL + 1) - 1 alone.

    A megabyte lies behind segment entry 0 and, as the tables are made here, behind 512 * 2 + 7.
    """
    ram = three_levels()
    ram.table(0x20000, SEGMENT, {0: 0x700000 | FORMAT_CONTROL, 1031: 0x800000 | FORMAT_CONTROL})
    ram.put(0x10000, 0x20000 | offset << 6 | REGION_THIRD & ~3 | length)
    space = by_registers(ram, 0x10000 | REGION_THIRD)
    assert space is not None
    for index, paddr in ((0, 0x700000), (1031, 0x800000)):
        inside = 512 * offset <= index < 512 * (length + 1)
        assert space.translate(index << 20) == (paddr if inside else None)
        assert (Mapping(index << 20, paddr, 1 << 20) in list(space.mappings())) == inside


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_an_index_beyond_the_control_elements_table_length_is_not_mapped(length: int) -> None:
    ram = three_levels()
    ram.table(0x10000, REGION_THIRD, {600: 0x8000_0000 | FORMAT_CONTROL})
    space = by_registers(ram, 0x10000 | REGION_THIRD & ~3 | length)
    assert space is not None
    assert [m.vaddr for m in space.mappings()] == ([600 << 31] if length else [])
    assert space.translate(600 << 31) == (0x8000_0000 if length else None)


def test_a_page_table_entry_whose_bit_52_is_set_is_not_mapped() -> None:
    ram = three_levels()
    ram.put(0x30808, 0x9000 | 0x800)
    space = by_registers(ram, 0x10000 | REGION_THIRD)
    assert space is not None
    assert space.translate(0x1000) is None
    assert next(space.mappings()) == Mapping(0x2000, 0xA000, 0x1000)
