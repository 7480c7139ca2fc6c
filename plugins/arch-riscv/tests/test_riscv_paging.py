"""RISC-V page tables that no fixture has: Sv39, Sv57, Svnapot, and what kernels before 6.4 say."""

from __future__ import annotations

import pytest

from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.testing.ram import SparseRam
from pydump_arch_riscv import Riscv32Arch, Riscv64Arch
from pydump_arch_riscv.paging import RiscvTables

LINK = 0xFFFFFFFF80000000
#: Valid; valid, readable, writable, executable, accessed, dirty.
TABLE, LEAF = 0x01, 0xCF
NAPOT = 1 << 63
NAPOT_64K = 8


def entry(paddr: int, flags: int) -> int:
    return paddr >> 12 << 10 | flags


def space_of(entries: dict[int, int], va_bits: int, *facts: str) -> AddressSpace | None:
    """The kernel is linked at LINK, loaded at 0x200000, and its swapper_pg_dir lies at 0x201000."""
    ram = SparseRam(1 << 24, "little")
    for paddr, value in entries.items():
        ram.put(paddr, value)
    lines = ["PAGESIZE=4096", f"SYMBOL(swapper_pg_dir)={LINK + 0x1000:x}", f"SYMBOL(_stext)={LINK + 0x2000:x}"]
    text = "\n".join([*lines, f"NUMBER(VA_BITS)={va_bits}", *facts])
    guest = Guest(ram.memory, byte_order="little", vmcoreinfo=Vmcoreinfo(text.encode()))
    return Riscv64Arch.address_space(guest, ram.read)


OFFSET = f"NUMBER(va_kernel_pa_offset)={LINK - 0x200000:#x}"


@pytest.mark.parametrize(
    "facts",
    [
        [OFFSET],
        # Linux 6.0 to 6.3 under firmware: RAM begins 2 MiB below the kernel; and without: where it begins.
        [f"NUMBER(KERNEL_LINK_ADDR)={LINK:#x}", "NUMBER(phys_ram_base)=0x0"],
        [f"NUMBER(KERNEL_LINK_ADDR)={LINK:#x}", "NUMBER(phys_ram_base)=0x200000"],
    ],
)
def test_sv39(facts: list[str]) -> None:
    entries = {
        0x201FF0: entry(0x3000, TABLE),
        0x3000: entry(0x200000, LEAF),
        0x3008: entry(0x4000, TABLE),
        0x4010: entry(0x1F_FFFF_F000, LEAF),
        0x201C00: entry(0xC0000000, LEAF),  # a GiB of the linear mapping: entry 384
    }
    space = space_of(entries, 39, *facts)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(0xFFFFFFE000000000, 0xC0000000, 1 << 30),
        Mapping(LINK, 0x200000, 2 << 20),
        Mapping(LINK + 0x202000, 0x1F_FFFF_F000, 0x1000),
    ]
    assert space.translate(LINK + 0x202ABC) == 0x1F_FFFF_FABC
    assert space.translate(0x0000007F80000000) is None


def test_sv57() -> None:
    entries = {
        0x201FF8: entry(0x3000, TABLE),
        0x3FF8: entry(0x4000, TABLE),
        0x4FF0: entry(0x5000, TABLE),
        0x5000: entry(0x200000, LEAF),
        0x201800: entry(0x1_0000_0000_0000, LEAF),  # 256 TiB, the first of the upper half
    }
    space = space_of(entries, 57, OFFSET)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(0xFF00_0000_0000_0000, 0x1_0000_0000_0000, 1 << 48),
        Mapping(LINK, 0x200000, 2 << 20),
    ]


def test_napot() -> None:
    """16 entries say the same: a page number whose low bits are 1000."""
    entries = {0x201FF0: entry(0x3000, TABLE), 0x3000: entry(0x200000, LEAF), 0x3008: entry(0x4000, TABLE)}
    entries |= {0x4000 + 8 * i: entry((0x70 | NAPOT_64K) << 12, LEAF) | NAPOT for i in range(16, 32)}
    space = space_of(entries, 39, OFFSET)
    assert space is not None
    assert list(space.mappings())[1] == Mapping(LINK + 0x210000, 0x70000, 0x10000)
    assert space.translate(LINK + 0x21FFFF) == 0x7FFFF


@pytest.mark.parametrize("va_bits", [32, 40])
def test_other_sizes_are_not_understood(va_bits: int) -> None:
    assert space_of({}, va_bits, OFFSET) is None


def test_riscv32_is_not_understood() -> None:
    guest = Guest(MemoryMap.of([(0, 1 << 20)]), byte_order="little", vmcoreinfo=Vmcoreinfo(b"PAGESIZE=4096\n"))
    assert Riscv32Arch.address_space(guest, lambda paddr, size: bytes(size)) is None


def test_a_kernel_that_kaslr_moved_above_its_ram() -> None:
    """The alias of the kernel image begins where paddr 0 is, not below."""
    facts = f"NUMBER(KERNEL_LINK_ADDR)={LINK:#x}\nNUMBER(va_kernel_pa_offset)={LINK + 0xFE00000:#x}\n"
    guest = Guest(MemoryMap.of([(0, 1 << 24)]), vmcoreinfo=Vmcoreinfo(facts.encode()))
    assert Riscv64Arch.load_aliases(guest) == (Mapping(LINK + 0xFE00000, 0, (1 << 64) - LINK - 0xFE00000),)


def test_sv32() -> None:
    """4-byte entries, whose page numbers have 22 bits; the kernel lies in the linear mapping."""
    ram = SparseRam(1 << 24, "little")
    offset = 0xC0000000 - 0x400000
    entries = {
        0x401C00: entry(0x400000, LEAF),  # 4 MiB at 0xC0000000
        0x401FFC: entry(0x3000, TABLE),
        0x3FFC: entry(0x3_FFFF_F000, LEAF),
    }
    for paddr, value in entries.items():
        ram.put(paddr, value, size=4)
    lines = ["PAGESIZE=4096", "SYMBOL(swapper_pg_dir)=c0001000", "SYMBOL(_stext)=c0002000", "NUMBER(VA_BITS)=32"]
    lines += [f"NUMBER(va_kernel_pa_offset)={offset:#x}", "NUMBER(PAGE_OFFSET)=0xc0000000"]
    text = "\n".join([*lines, "NUMBER(KERNEL_LINK_ADDR)=0xc0000000", "NUMBER(phys_ram_base)=0x400000"])
    guest = Guest(ram.memory, byte_order="little", vmcoreinfo=Vmcoreinfo(text.encode()))
    space = Riscv32Arch.address_space(guest, ram.read)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(0xC0000000, 0x400000, 4 << 20),
        Mapping(0xFFFFF000, 0x3_FFFF_F000, 0x1000),
    ]
    assert Riscv32Arch.load_aliases(guest) == ()


#: An entry of Sv39 and what makes a CPU fault on it. Source: the privileged manual's steps 3 to 5 of translation.
FORBIDDEN = {
    "a page that may be written and not read": (0x4010, entry(0x5000, LEAF) & ~0b1010),
    "a page with reserved bits": (0x4010, entry(0x5000, LEAF) | 1 << 54),
    "a table with the user bit": (0x3008, entry(0x4000, TABLE) | 1 << 4),
    "a table with the accessed bit": (0x3008, entry(0x4000, TABLE) | 1 << 6),
    "a table with the dirty bit": (0x3008, entry(0x4000, TABLE) | 1 << 7),
    "a table with a memory type": (0x3008, entry(0x4000, TABLE) | 1 << 61),
    "a table that is NAPOT": (0x3008, entry(0x4000, TABLE) | NAPOT),
    "a 2 MiB page that is not aligned": (0x3008, entry(0x201000, LEAF)),
    "a 1 GiB page that is not aligned": (0x201FF0, entry(0x200000, LEAF)),
    "a NAPOT page of no known size": (0x4010, entry(0x74000, LEAF) | NAPOT),
    "a table in the last level": (0x4010, entry(0x5000, TABLE)),
}


@pytest.mark.parametrize(("at", "value"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_reserved_encoding_is_not_mapped(at: int, value: int) -> None:
    ram = SparseRam(1 << 24, "little")
    for paddr, good in {
        0x201FF0: entry(0x3000, TABLE),
        0x3000: entry(0x200000, LEAF),
        0x3008: entry(0x4000, TABLE),
        0x4010: entry(0x5000, LEAF),
    }.items():
        ram.put(paddr, good)
    space = RiscvTables(ram.read, ram.memory, 0x201000, va_bits=39, byte_order="little")
    vaddr = LINK + 0x202000
    assert space.translate(vaddr) == 0x5000
    ram.put(at, value)
    assert space.translate(vaddr) is None
    assert not any(m.vaddr <= vaddr < m.vaddr + m.size for m in space.mappings())


def test_an_sv32_page_of_4_mib_that_is_not_aligned_is_not_mapped() -> None:
    ram = SparseRam(1 << 24, "little")
    ram.put(0x1C00, entry(0x400000, LEAF), size=4)
    ram.put(0x1C04, entry(0x401000, LEAF), size=4)
    space = RiscvTables(ram.read, ram.memory, 0x1000, va_bits=32, byte_order="little")
    assert list(space.mappings()) == [Mapping(0xC0000000, 0x400000, 4 << 20)]


def test_memory_types_are_no_address() -> None:
    """Svpbmt's bits, and those of T-Head's CPUs: all of 59 to 63."""
    ram = SparseRam(1 << 24, "little")
    ram.put(0x1000, entry(0xC0000000, LEAF) | 0b01 << 61)
    ram.put(0x1008, entry(0x100000000, LEAF) | 0b111 << 60)
    space = RiscvTables(ram.read, ram.memory, 0x1000, va_bits=39, byte_order="little")
    assert list(space.mappings()) == [Mapping(0, 0xC0000000, 2 << 30)]
