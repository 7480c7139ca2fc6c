"""ppc64 page tables that no fixture has: 4 KiB pages, and the hash table."""

from __future__ import annotations

import pytest

from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.model.guest import ByteOrder, Guest
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.testing.ram import SparseRam
from pydump_arch_ppc64 import Ppc64Arch, Ppc64leArch

KERNEL = 0xC000000000000000
VALID, LEAF = 1 << 63, 1 << 62
#: What a directory entry's low bits say: log2 of the next table's entries.
NLS_9, NLS_5 = 9, 5
#: Referenced, changed, kernel read-write-execute, as the kernel sets them.
ATTRIBUTES = 0x18E | 3 << 62


def space_of(entries: dict[int, int], page_size: int, byte_order: ByteOrder = "little") -> AddressSpace | None:
    """swapper_pg_dir lies at 0x10000, and the text at 0."""
    ram = SparseRam(1 << 24, "big")  # the tables are big-endian under either kernel
    for paddr, value in entries.items():
        ram.put(paddr, value)
    text = f"PAGESIZE={page_size}\nSYMBOL(swapper_pg_dir)={KERNEL + 0x10000:x}\nSYMBOL(_stext)={KERNEL:x}\n"
    guest = Guest(ram.memory, byte_order=byte_order, vmcoreinfo=Vmcoreinfo(text.encode()))
    return (Ppc64leArch if byte_order == "little" else Ppc64Arch).address_space(guest, ram.read)


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_4k_pages(byte_order: ByteOrder) -> None:
    # Indexes of 13, 9, 9 and 9 bits: entries of 512 GiB, 1 GiB, 2 MiB and 4 KiB.
    entries = {
        0x10000: VALID | 0x30000 | NLS_9,
        0x30000: VALID | 0x40000 | NLS_9,
        0x30008: 0x4000_0000 | ATTRIBUTES,
        0x40000: 0x0 | ATTRIBUTES,
        0x40008: VALID | 0x50000 | NLS_9,
        0x50008: 0x77000 | ATTRIBUTES,
        0x10000 + 8 * 4096: VALID | 0x60000 | NLS_9,  # 0xc008000000000000, vmalloc space
        0x60000: VALID | 0x70000 | NLS_9,
        0x70000: VALID | 0x50000 | NLS_9,
    }
    space = space_of(entries, 4096, byte_order)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(KERNEL, 0, 2 << 20),
        Mapping(KERNEL + 0x201000, 0x77000, 0x1000),
        Mapping(KERNEL + (1 << 30), 1 << 30, 1 << 30),
        Mapping(0xC008000000001000, 0x77000, 0x1000),
    ]
    assert space.translate(0xC008000000001ABC) == 0x77ABC
    assert space.translate(0x0008000000001ABC) is None
    assert space.translate(0xD008000000001ABC) is None


def test_64k_pages() -> None:
    # The last index has 5 bits, and its table 256 bytes.
    entries = {
        0x10000: VALID | 0x30000 | NLS_9,
        0x30000: VALID | 0x40000 | NLS_9,
        0x40000: 0x0 | ATTRIBUTES,
        0x40008: VALID | 0x50100 | NLS_5,
        0x50108: 0x6010022030000 | ATTRIBUTES,
    }
    space = space_of(entries, 65536)
    assert space is not None
    assert list(space.mappings()) == [
        Mapping(KERNEL, 0, 2 << 20),
        Mapping(KERNEL + 0x210000, 0x6010022030000, 0x10000),
    ]


def test_the_hash_table_is_not_understood() -> None:
    """The kernel keeps tables for vmalloc space then too, but the linear mapping is not in them."""
    entries = {0x10000 + 8 * 4096: VALID | 0x60000 | NLS_9}
    assert space_of(entries, 65536) is None
    assert space_of(entries, 16384) is None


@pytest.mark.parametrize(("page_size", "last"), [(4096, NLS_9), (65536, NLS_5)])
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_what_the_processor_does_not_have_is_not_mapped(page_size: int, last: int, byte_order: ByteOrder) -> None:
    """Leaves of 512 GiB, and directory entries that say another size of the next table than the machine's is."""
    good = {
        0x10000: VALID | 0x30000 | NLS_9,
        0x30000: VALID | 0x40000 | NLS_9,
        0x40000: 0x0 | ATTRIBUTES,
        0x40008: VALID | 0x50100 | last,
        0x50100: 0x70000 | ATTRIBUTES,
    }
    vaddr = KERNEL + (2 << 20)
    space = space_of(good, page_size, byte_order)
    assert space is not None
    assert space.translate(vaddr) == 0x70000
    for wrong in (NLS_5 if last == NLS_9 else NLS_9, 0, 31):
        space = space_of(good | {0x40008: VALID | 0x50100 | wrong}, page_size, byte_order)
        assert space is not None
        assert space.translate(vaddr) is None
        assert [m.size for m in space.mappings()] == [2 << 20]
    assert space_of(good | {0x10000: VALID | 0x30000 | 13}, page_size, byte_order) is None
    assert space_of(good | {0x10000: ATTRIBUTES}, page_size, byte_order) is None, "a leaf of 512 GiB"
