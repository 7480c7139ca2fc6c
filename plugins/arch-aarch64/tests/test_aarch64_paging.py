"""aarch64 page tables that no fixture has: 16 and 64 KiB pages, 52-bit addresses, big-endian."""

from __future__ import annotations

import pytest

from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.model.guest import ByteOrder, Guest
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.testing.ram import SparseRam
from pydump_arch_aarch64 import Aarch64Arch
from pydump_arch_aarch64.paging import Aarch64Tables

#: Of descriptors: valid, and table or page rather than block.
BLOCK, TABLE = 1, 3
#: Access flag, and inner shareable, as the kernel sets them.
ATTRIBUTES = 1 << 10 | 3 << 8
#: The kernel image is mapped this far above where it lies.
VOFFSET = 0xFFFF_8000_0000_0000


def space_of(
    entries: dict[int, int],
    *,
    page_size: int,
    va_bits: int,
    t1sz: int | None,
    tables: int,
    text: int,
    byte_order: ByteOrder = "little",
    voffset: int = VOFFSET,
    pa_bits: int | None = None,
) -> AddressSpace | None:
    """The address space whose swapper_pg_dir lies at ``tables``, and the kernel's text at ``text``."""
    ram = SparseRam(1 << 24, byte_order)
    for paddr, value in entries.items():
        ram.put(paddr, value)
    lines = [
        f"PAGESIZE={page_size}",
        f"SYMBOL(swapper_pg_dir)={voffset + tables:x}",
        f"SYMBOL(_stext)={voffset + text:x}",
        f"NUMBER(VA_BITS)={va_bits}",
        f"NUMBER(kimage_voffset)={voffset:#x}",
    ]
    if pa_bits is not None:
        lines.append(f"NUMBER(MAX_PHYSMEM_BITS)={pa_bits}")
    if t1sz is not None:
        lines.append(f"NUMBER(TCR_EL1_T1SZ)={t1sz:#x}")
    guest = Guest(ram.memory, byte_order=byte_order, vmcoreinfo=Vmcoreinfo("\n".join(lines).encode()))
    return Aarch64Arch.address_space(guest, ram.read)


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("t1sz", [16, None])
def test_4k_pages_48_bits(byte_order: ByteOrder, t1sz: int | None) -> None:
    # 0xffff800000000000 is entry 256 of the top table; the text is a block of 2 MiB, and a page follows.
    entries = {
        0x1800: 0x2000 | TABLE,
        0x2000: 0x3000 | TABLE,
        0x3010: 0x400000 | BLOCK | ATTRIBUTES,
        0x3018: 0x4000 | TABLE,
        0x4000: 0x77000 | TABLE | ATTRIBUTES,
        0x4008: 0x78000 | BLOCK,  # what is a block elsewhere is nothing here
    }
    space = space_of(
        entries, page_size=4096, va_bits=48, t1sz=t1sz, tables=0x1000, text=0x400000, byte_order=byte_order
    )
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(VOFFSET + 0x400000, 0x400000, 2 << 20),
        Mapping(VOFFSET + 0x600000, 0x77000, 0x1000),
    ]
    assert space.translate(VOFFSET + 0x601000) is None
    assert space.translate(0x0000_8000_0040_0000) is None, "an address of TTBR0"


def test_16k_pages_47_bits() -> None:
    # Three levels of 11 bits: the top one's entry 0 is 0xffff800000000000 when 47 bits are translated.
    entries = {
        0x4000: 0x8000 | TABLE,
        0x8000: 0x200_0000 | BLOCK | ATTRIBUTES,  # 32 MiB
        0x8008: 0xC000 | TABLE,
        0xC010: 0x1_0000 | TABLE | ATTRIBUTES,
    }
    space = space_of(entries, page_size=16384, va_bits=47, t1sz=17, tables=0x4000, text=0, voffset=VOFFSET)
    assert space is None, "the text would lie at 32 MiB"
    entries[0x8000] = BLOCK | ATTRIBUTES
    space = space_of(entries, page_size=16384, va_bits=47, t1sz=17, tables=0x4000, text=0x10000)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(VOFFSET, 0, 32 << 20),
        Mapping(VOFFSET + (32 << 20) + 0x8000, 0x10000, 0x4000),
    ]


@pytest.mark.parametrize("t1sz", [12, 16])
def test_64k_pages_52_bits(t1sz: int) -> None:
    """Bits 12 to 15 of a descriptor are bits 48 to 51 of the address.

    On a CPU that has but 48 bits the kernel uses the end of the same large table: 0xffff800000000000 is entry 0x3e0 of
    1,024 either way.
    """
    entries = {
        0x10000 + 8 * 0x3E0: 0x20000 | TABLE,
        0x20000: 0x0000_0000 | BLOCK | ATTRIBUTES,  # 512 MiB
        0x20008: 0x30000 | TABLE,
        0x30000: 0x1234_0001_0000 | 0xF000 | TABLE | ATTRIBUTES,
    }
    space = space_of(entries, page_size=65536, va_bits=52, t1sz=t1sz, tables=0x10000, text=0x400000)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(VOFFSET, 0, 512 << 20),
        Mapping(VOFFSET + (512 << 20), 0xF_1234_0001_0000, 0x10000),
    ]


def test_4k_pages_52_bits() -> None:
    """LPA2: five levels, and bits 8 and 9 of a descriptor are bits 50 and 51 of the address."""
    entries = {
        0x1078: 0x2000 | TABLE,  # entry 15 of 16
        0x2800: 0x3000 | TABLE,
        0x3000: 0x4000 | TABLE,
        0x4010: 0x400000 | BLOCK | 1 << 10,
        0x4018: 0x5000 | TABLE,
        0x5000: 0x3_0000_0007_7000 | 0x300 | TABLE | 1 << 10,
    }
    space = space_of(entries, page_size=4096, va_bits=52, t1sz=12, tables=0x1000, text=0x400000)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(VOFFSET + 0x400000, 0x400000, 2 << 20),
        Mapping(VOFFSET + 0x600000, 0xF_0000_0007_7000, 0x1000),
    ]


def test_4k_pages_built_for_52_bits_on_a_cpu_with_48() -> None:
    """The top level is left out, and bits 8 and 9 say how the page is shared, as ever."""
    entries = {0x1800: 0x2000 | TABLE, 0x2000: 0x3000 | TABLE, 0x3010: 0x400000 | BLOCK | ATTRIBUTES}
    space = space_of(entries, page_size=4096, va_bits=52, t1sz=16, tables=0x1000, text=0x400000)
    assert space is not None
    assert list(space.mappings()) == [Mapping(VOFFSET + 0x400000, 0x400000, 2 << 20)]


#: Granule, bits of address, bits of physical address, top table, the entry that is a block, and the block's size where
#: the architecture has one. Source: Arm ARM, D8.3.1: 1 GiB and 2 MiB; 32 MiB; 512 MiB; with 52-bit addresses also
#: 512 GiB; 64 GiB; 4 TiB.
BLOCK_LEVELS = [
    (12, 48, 48, 0x1000, [256], None),
    (12, 48, 52, 0x1000, [256], None),
    (12, 48, 48, 0x1000, [256, 0], 1 << 30),
    (12, 48, 48, 0x1000, [256, 0, 0], 2 << 20),
    (12, 52, 52, 0x1000, [15], None),
    (12, 52, 52, 0x1000, [15, 256], 512 << 30),
    (14, 47, 48, 0x4000, [0], None),
    (14, 47, 48, 0x4000, [0, 0], 32 << 20),
    (14, 48, 48, 0x4000, [1], None),
    (14, 48, 48, 0x4000, [1, 0], None),
    (14, 52, 52, 0x4000, [31], None),
    (14, 52, 52, 0x4000, [31, 0], 64 << 30),
    (16, 48, 48, 0x10000, [32], None),
    (16, 48, 52, 0x10000, [32], 4 << 40),
    (16, 48, 48, 0x10000, [32, 0], 512 << 20),
    (16, 52, 52, 0x10000, [0x3E0], 4 << 40),
]


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize(("granule", "va_bits", "pa_bits", "root", "path", "size"), BLOCK_LEVELS)
def test_a_block_at_a_level_that_has_none_is_not_mapped(
    granule: int, va_bits: int, pa_bits: int, root: int, path: list[int], size: int | None, byte_order: ByteOrder
) -> None:
    ram = SparseRam(1 << 24, byte_order)
    table = root
    for index in path[:-1]:
        ram.put(table + 8 * index, table + (1 << granule) | TABLE)
        table += 1 << granule
    ram.put(table + 8 * path[-1], BLOCK | ATTRIBUTES & ~(3 << 8))
    space = Aarch64Tables(
        ram.read, ram.memory, root, page_size=1 << granule, va_bits=va_bits, pa_bits=pa_bits, byte_order=byte_order
    )
    mappings = list(space.mappings())
    assert [(m.paddr, m.size) for m in mappings] == ([] if size is None else [(0, size)])
    assert all(space.translate(m.vaddr + m.size - 1) == m.size - 1 for m in mappings)


def test_vmcoreinfo_says_whether_a_block_of_4_tib_can_be() -> None:
    """64 KiB pages: one in the top table is there with 52-bit physical addresses only."""
    entries = {0x10000 + 8 * 0x20: BLOCK | ATTRIBUTES}
    for bits, there in ((48, False), (52, True)):
        space = space_of(entries, page_size=65536, va_bits=48, t1sz=16, tables=0x10000, text=0x400000, pa_bits=bits)
        assert (space is not None) == there
