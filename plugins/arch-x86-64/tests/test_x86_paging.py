"""x86 page tables that no fixture has: 5 levels, PAE, PSE-36, encrypted memory; and those of a small guest."""

from __future__ import annotations

import lzma
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pydump.interfaces.arch import AddressSpace, Arch, Mapping
from pydump.layout.notes import unpack_notes
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.testing.ram import SparseRam
from pydump_arch_x86_64 import I386Arch, X86_64Arch

DATA = Path(__file__).parents[3] / "tests/data"

PRESENT, LARGE = 1, 0x80


def space_of(arch: type[Arch], ram: SparseRam, **facts: int | str) -> AddressSpace | None:
    """The address space of a guest with these registers, and with a VMCOREINFO if there is one among the facts."""
    text = facts.pop("vmcoreinfo", None)
    registers = {name: value for name, value in facts.items() if isinstance(value, int)}
    guest = Guest(
        ram.memory,
        byte_order="little",
        notes=arch.cpu_notes([Cpu(0, registers)], "little"),
        vmcoreinfo=Vmcoreinfo(text.encode()) if isinstance(text, str) else None,
    )
    return arch.address_space(guest, ram.read)


def ram_with(entries: dict[int, int], *, size: int = 8) -> SparseRam:
    ram = SparseRam(1 << 24, "little")
    for paddr, value in entries.items():
        ram.put(paddr, value, size=size)
    return ram


class TestNano:
    """A boot ROM's page table: two top-level entries share all that lies below."""

    ram = lzma.decompress((DATA / "paging/nano-x86_64/ram.raw.xz").read_bytes())
    guest = Guest(
        MemoryMap.of([(0, len(ram))]),
        byte_order="little",
        notes=unpack_notes((DATA / "notes/nano-x86_64/notes.bin").read_bytes(), "little"),
    )

    def space(self) -> AddressSpace:
        space = X86_64Arch.address_space(X86_64Arch.complete(self.guest), self.read)
        assert space is not None
        return space

    def read(self, paddr: int, size: int) -> bytes:
        return self.ram[paddr : paddr + size]

    def test_covers_what_info_mem_shows(self) -> None:
        shown = (DATA / "paging/nano-x86_64/hmp-mem.txt").read_text()
        ranges = re.findall(r"^([0-9a-f]{16})-([0-9a-f]{16})", shown, re.M)
        theirs = Ranges.of((int(start, 16), int(end, 16)) for start, end in ranges)
        assert len(theirs) == 4
        assert Ranges.of((m.vaddr, m.vaddr + m.size) for m in self.space().mappings()) == theirs

    def test_is_what_qemu_puts_into_an_elf_file_but_for_its_wrong_sign_bits(self) -> None:
        elf = lzma.decompress((DATA / "paging/nano-x86_64/elf-paging.xz").read_bytes())
        at, n = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
        headers = [struct.unpack_from("<IIQQQQQQ", elf, at + 56 * i) for i in range(n)]
        # p_vaddr, p_paddr and p_memsz of each PT_LOAD; QEMU gives low addresses 0xffff in their high bits, and appends
        # what RAM is not mapped with p_vaddr 0.
        qemus = {(v, p, size) for kind, _, _, v, p, _, size, _ in headers if kind == 1 and v}
        ours = {(m.vaddr | 0xFFFF << 48, m.paddr, m.size) for m in self.space().mappings()}
        assert ours == qemus
        low = [m for m in self.space().mappings() if m.vaddr < 1 << 47]
        assert low[0] == Mapping(0, 0, 0x200000)

    def test_a_cpu_without_paging_is_passed_over(self) -> None:
        first, second = X86_64Arch.cpus(self.guest.notes, "little")
        swapped = X86_64Arch.cpu_notes([replace(second, index=0), replace(first, index=1)], "little")
        space = X86_64Arch.address_space(replace(self.guest, notes=swapped), self.read)
        assert space is not None
        assert space.translate(0xFFFF800000000000) == 0
        off = X86_64Arch.cpu_notes([second], "little")
        assert X86_64Arch.address_space(replace(self.guest, notes=off), self.read) is None


def test_five_levels() -> None:
    ram = ram_with({0x1FF8: 0x2003, 0x2FF8: 0x3003, 0x3FF0: 0x140000000 | LARGE | PRESENT, 0x3FF8: 0x4003})
    ram.put(0x4FF8, 0x600000 | LARGE | PRESENT)
    registers = {"cr0": 0x80050033, "cr3": 0x1000 | 0x7, "cr4": 0x1000}
    space = space_of(X86_64Arch, ram, **registers)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(0xFFFFFFFF80000000, 0x140000000, 1 << 30),
        Mapping(0xFFFFFFFFFFE00000, 0x600000, 2 << 20),
    ]
    assert space.translate(0xFFFFFFFF80001234) == 0x140001234
    assert space.translate(0x01FFFFFF80001234) is None, "not the sign extension of bit 56"
    # The same by VMCOREINFO, as Linux says it.
    text = "SYMBOL(init_top_pgt)=ffffffff80001000\nSYMBOL(_stext)=ffffffffffe00000\nNUMBER(pgtable_l5_enabled)=1\n"
    assert space_of(X86_64Arch, ram, vmcoreinfo=text) is None, "_stext does not lie where phys_base puts it"
    ram.put(0x4FF8, 0x7FE00000 | LARGE | PRESENT)
    space = space_of(X86_64Arch, ram, vmcoreinfo=text)
    assert space is not None
    assert space.translate(0xFFFFFFFFFFE00005) == 0x7FE00005


def test_the_encryption_bit_is_no_address() -> None:
    c_bit = 1 << 51
    # phys_base moves the tables as well: 0xffffffff80001000 lies at 0x401000.
    ram = ram_with({0x401FF8: 0x2003 | c_bit, 0x2FF0: 0x3003 | c_bit, 0x3000: 0x400000 | c_bit | LARGE | PRESENT})
    text = (
        "SYMBOL(init_top_pgt)=ffffffff80001000\nSYMBOL(_stext)=ffffffff80000000\n"
        f"NUMBER(phys_base)=4194304\nNUMBER(pgtable_l5_enabled)=0\nNUMBER(sme_mask)={c_bit}\n"
    )
    space = space_of(X86_64Arch, ram, vmcoreinfo=text)
    assert space is not None
    assert space.translate(0xFFFFFFFF80000010) == 0x400010


def test_a_large_pages_attribute_bit_is_no_address() -> None:
    pat = 1 << 12
    ram = ram_with({0x1000: 0x2003, 0x2000: 0x3003, 0x3000: 0x600000 | pat | LARGE | PRESENT})
    space = space_of(X86_64Arch, ram, cr0=1 << 31, cr3=0x1000)
    assert space is not None
    assert list(space.mappings()) == [Mapping(0, 0x600000, 2 << 20)]
    assert space.translate(0x10) == 0x600010


def test_pae() -> None:
    no_execute = 1 << 63
    ram = ram_with({0x1038: 0x2001, 0x2000: 0x3003, 0x2008: 0x140000000 | LARGE | PRESENT, 0x3008: 0x9001 | no_execute})
    space = space_of(I386Arch, ram, cr0=1 << 31, cr3=0x1020, cr4=0x20)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(0xC0001000, 0x9000, 0x1000),
        Mapping(0xC0200000, 0x140000000, 2 << 20),
    ]
    assert space.translate(0xC0001234) == 0x9234
    assert space.translate(0x1_C000_1234) is None


@pytest.mark.parametrize("page_offset", [0xC0000000, 0x80000000])
def test_pae_by_vmcoreinfo(page_offset: int) -> None:
    ram = ram_with({0x1000 + 8 * (page_offset >> 30): 0x2001, 0x2008: 0x200000 | LARGE | PRESENT})
    text = f"SYMBOL(swapper_pg_dir)={page_offset + 0x1000:x}\nSYMBOL(_stext)={page_offset + 0x200000:x}\n"
    assert space_of(I386Arch, ram, vmcoreinfo=text) is None
    space = space_of(I386Arch, ram, vmcoreinfo=text + "CONFIG_X86_PAE=y\n")
    assert space is not None
    assert space.translate(page_offset + 0x200010) == 0x200010


def test_a_four_mebibyte_page_may_lie_above_four_gibibytes() -> None:
    # PSE-36: bits 13 to 20 of the entry are bits 32 to 39 of the address.
    ram = ram_with({0x1C00: 0x00400000 | 0x35 << 13 | LARGE | PRESENT, 0x1C04: 0x2003, 0x2004: 0x5003}, size=4)
    space = space_of(I386Arch, ram, cr0=1 << 31, cr3=0x1000, cr4=0x10)
    assert space is not None
    assert list(space.mappings()) == [Mapping(0xC0000000, 0x35_0040_0000, 4 << 20), Mapping(0xC0401000, 0x5000, 0x1000)]
    assert space.translate(0xC0000001) == 0x35_0040_0001


#: An entry that maps or points to something, its paddr, and bits that make a CPU fault on it. Source: Intel SDM, volume
#: 3, tables 4-5 to 4-20: reserved (must be 0).
FORBIDDEN = [
    (X86_64Arch, 0x1000, LARGE),  # a PML4 entry
    (X86_64Arch, 0x2008, 1 << 13),  # a 1 GiB page: bits 13 to 29
    (X86_64Arch, 0x2008, 1 << 29),
    (X86_64Arch, 0x3008, 1 << 13),  # a 2 MiB page: bits 13 to 20
    (X86_64Arch, 0x3008, 1 << 20),
    (I386Arch, 0x1000, 1 << 1),  # a PAE PDPT entry: bits 1 and 2, 5 to 8, and all from the address's end on
    (I386Arch, 0x1000, LARGE),
    (I386Arch, 0x1000, 1 << 8),
    (I386Arch, 0x1000, 1 << 63),
    (I386Arch, 0x1000, 1 << 52),
    (I386Arch, 0x2008, 1 << 20),  # a 2 MiB page
    (I386Arch, 0x2008, 1 << 62),
    (I386Arch, 0x3000, 1 << 62),  # a PAE page
]


@pytest.mark.parametrize(("arch", "at", "bits"), FORBIDDEN)
def test_an_entry_with_reserved_bits_is_not_mapped(arch: type[Arch], at: int, bits: int) -> None:
    if arch is X86_64Arch:
        entries = {0x1000: 0x2003, 0x2000: 0x3003, 0x2008: 0x4000_0000 | LARGE | 3, 0x3008: 0x600000 | LARGE | 3}
        entries |= {0x3000: 0x4003, 0x4000: 0x9003}
        vaddr = {0x1000: 0, 0x2008: 1 << 30, 0x3008: 2 << 20}[at]
    else:
        entries = {0x1000: 0x2001, 0x2000: 0x3003, 0x2008: 0x600000 | LARGE | 3, 0x3000: 0x9003}
        vaddr = {0x1000: 0, 0x2008: 2 << 20, 0x3000: 0}[at]
    for forbidden in (0, bits):
        ram = ram_with(entries | {at: entries[at] | forbidden})
        space = space_of(arch, ram, cr0=1 << 31, cr3=0x1000, cr4=0x20)
        assert space is not None
        assert (space.translate(vaddr) is None) == bool(forbidden)
        assert any(m.vaddr <= vaddr < m.vaddr + m.size for m in space.mappings()) != bool(forbidden)


def test_a_five_level_top_entry_that_says_it_is_a_page_is_not_mapped() -> None:
    ram = ram_with({0x1FF8: 0x2003, 0x2FF8: 0x3003, 0x3FF0: 0x140000000 | LARGE | PRESENT})
    for at in (0x1FF8, 0x2FF8):
        space = space_of(X86_64Arch, ram, cr0=1 << 31, cr3=0x1000, cr4=0x1020)
        assert space is not None
        assert space.translate(0xFFFFFFFF80000000) == 0x140000000
        ram.put(at, 0x2083 if at == 0x1FF8 else 0x3083)
        assert space.translate(0xFFFFFFFF80000000) is None
        assert list(space.mappings()) == []
        ram.put(at, 0x2003 if at == 0x1FF8 else 0x3003)


def test_a_four_mebibyte_page_with_its_reserved_bit_is_not_mapped() -> None:
    for reserved in (0, 1 << 21):
        ram = ram_with({0x1C00: 0x00400000 | LARGE | PRESENT | reserved}, size=4)
        space = space_of(I386Arch, ram, cr0=1 << 31, cr3=0x1000, cr4=0x10)
        assert space is not None
        assert (space.translate(0xC0000000) is None) == bool(reserved)
