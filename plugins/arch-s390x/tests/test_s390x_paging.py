"""s390x page tables that no fixture has: five levels, 2 GiB pages, KASLR, and no VMCOREINFO."""

from __future__ import annotations

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
