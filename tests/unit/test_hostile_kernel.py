"""What a guest's kernel says of its own structures costs little time and memory, however large the numbers are.

A guest writes its own VMCOREINFO, page tables, struct pages, log and symbols. A file of a few KiB can claim terabytes
of RAM that is zero, and page tables can map one page of data a million times.
"""

from __future__ import annotations

import contextlib
import resource
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import pydump
from pydump.engine.facts import complete
from pydump.engine.vmcoreinfo import MAX_PLACES, find_vmcoreinfo
from pydump.errors import DamagedPageError, PydumpError
from pydump.interfaces.arch import AddressSpace, Arch
from pydump.interfaces.arch import Mapping as Mapped
from pydump.interfaces.image import MemoryImage
from pydump.kernel.classes import classify
from pydump.kernel.kallsyms import Kallsyms
from pydump.kernel.log import read_log
from pydump.kernel.memory import KernelMemory, PhysicalMemory
from pydump.kernel.pages import PageClass, PageRules
from pydump.kernel.vmemmap import StructPages, struct_pages
from pydump.kernel.zones import free_pages
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed
from pydump.testing.peak import peak_of

pytestmark = pytest.mark.slow

TIB = 1 << 40
#: What each of these may take at most.
SECONDS, BYTES = 10, 1 << 30


class Holes(MemoryImage):
    """RAM that is zero, but for a few places."""

    def __init__(self, size: int, contents: dict[int, bytes]) -> None:
        self._memory = MemoryMap.of([(0, size)])
        self._contents = contents

    def guest(self) -> Guest:
        return Guest(self._memory)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        end = paddr + len(buffer)
        buffer[:] = bytes(len(buffer))
        for at, data in self._contents.items():
            low, high = max(at, paddr), min(at + len(data), end)
            if low < high:
                buffer[low - paddr : high - paddr] = data[low - at : high - at]

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        for at, data in sorted(self._contents.items()):
            low, high = max(at, paddr), min(at + len(data), paddr + size)
            if low < high:
                yield low, high


class Linear(AddressSpace):
    """Virtual addresses are physical ones, and above ``folded`` all lead to the MiB at 0."""

    def __init__(self, folded: int = 1 << 63) -> None:
        self._folded = folded

    def translate(self, vaddr: int) -> int | None:
        return vaddr if vaddr < self._folded else vaddr & 0xFFFFF

    def mappings(self) -> Iterator[Mapped]:
        raise NotImplementedError

    def runs(self, vaddr: int, size: int) -> Iterator[Mapped]:
        end = vaddr + size
        if vaddr < self._folded:
            yield Mapped(vaddr, vaddr, min(end, self._folded) - vaddr)
        for at in range(max(vaddr, self._folded), end, 1 << 20):
            yield Mapped(at, at & 0xFFFFF, min(1 << 20, end - at))


def kernel(contents: dict[int, bytes], keys: Mapping[str, object], *, folded: int = 1 << 63) -> KernelMemory:
    text = "OSRELEASE=6.1.0\n" + "".join(f"{key}={value}\n" for key, value in keys.items())
    source = Holes(64 * TIB, contents)
    return KernelMemory(
        PhysicalMemory(source),
        Linear(folded),
        Vmcoreinfo(text.encode()),
        byte_order="little",
        word_size=8,
        page_size=4096,
    )


def bounded(work: Callable[[], object]) -> None:
    """Run ``work`` in a process of its own: it ends soon, with a result or a PydumpError, and takes little memory."""

    def run() -> None:
        with contextlib.suppress(PydumpError):
            work()

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert peak_of(run) < BYTES
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS


PAGE_KEYS = {
    "SIZE(page)": 64,
    "OFFSET(page.flags)": 0,
    "OFFSET(page.compound_head)": 8,
    "OFFSET(page.mapping)": 24,
    "OFFSET(page.private)": 40,
    "OFFSET(page._mapcount)": 48,
    "OFFSET(page.compound_order)": 17,
    "NUMBER(PG_head_mask)": 1 << 16,
    "NUMBER(PG_lru)": 5,
    "NUMBER(PG_private)": 13,
    "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": -129,
    "LENGTH(zone.free_area)": 11,
}


def test_struct_pages_of_64_tib_of_zeros() -> None:
    one = kernel({0: b"\1" * 4096}, PAGE_KEYS)
    place = StructPages(0, 64 * TIB // 4096, 0)
    bounded(lambda: classify(one, PageRules.of(one), (place,), one.physical.ram))


def test_struct_pages_that_are_all_the_same_memory() -> None:
    one = kernel({0: b"\1" * (1 << 20)}, PAGE_KEYS, folded=1 << 20)
    place = StructPages(0, 64 * TIB // 4096, 1 << 20)
    with pytest.raises(PydumpError, match="more data than the guest's memory"):
        classify(one, PageRules.of(one), (place,), one.physical.ram)
    bounded(lambda: classify(one, PageRules.of(one), (place,), one.physical.ram))


@pytest.mark.parametrize("spanned", [1 << 40, (1 << 64) - 1])
def test_a_node_without_end(spanned: int) -> None:
    """Without sparse memory the kernel's node says how many struct pages there are: only those of RAM count."""
    keys = {
        "SIZE(page)": 64,
        "SYMBOL(mem_map)": "1000",
        "SYMBOL(contig_page_data)": "2000",
        "OFFSET(pglist_data.node_mem_map)": 0,
        "OFFSET(pglist_data.node_start_pfn)": 8,
        "OFFSET(pglist_data.node_spanned_pages)": 16,
    }
    one = kernel({0x1000: struct.pack("<Q", 0x10000), 0x2000: struct.pack("<QQQ", 0x10000, 0, spanned)}, keys)
    assert struct_pages(one, Arch) == (StructPages(0, 64 * TIB // 4096, 0x10000),)


@pytest.mark.parametrize("extreme", [True, False])
@pytest.mark.parametrize(("section_bits", "physmem_bits"), [(13, 57), (27, 46), (30, 57), (57, 57)])
def test_sections_without_end(section_bits: int, physmem_bits: int, extreme: bool) -> None:
    """Each root of mem_section leads to the same sections, all of which are present."""
    n = 1 << physmem_bits - section_bits
    keys = {
        "SIZE(page)": 64,
        "SYMBOL(mem_section)": f"{1 << 20:x}",
        "SIZE(mem_section)": 16,
        "OFFSET(mem_section.section_mem_map)": 0,
        "LENGTH(mem_section)": max(1, n // 256) if extreme else n,
        "NUMBER(SECTION_SIZE_BITS)": section_bits,
        "NUMBER(MAX_PHYSMEM_BITS)": physmem_bits,
    }
    one = kernel({0: struct.pack("<QQ", 0x10003, 0x20003) * (1 << 16)}, keys, folded=1 << 20)
    bounded(lambda: struct_pages(one, Arch))


RING_KEYS = {
    "SYMBOL(prb)": "0",
    "OFFSET(printk_ringbuffer.desc_ring)": 0,
    "OFFSET(printk_ringbuffer.text_data_ring)": 64,
    "OFFSET(prb_desc_ring.count_bits)": 0,
    "OFFSET(prb_desc_ring.descs)": 8,
    "OFFSET(prb_desc_ring.infos)": 16,
    "OFFSET(prb_desc_ring.head_id)": 24,
    "OFFSET(prb_desc_ring.tail_id)": 32,
    "OFFSET(prb_data_ring.size_bits)": 0,
    "OFFSET(prb_data_ring.data)": 8,
    "SIZE(prb_desc)": 24,
    "OFFSET(prb_desc.state_var)": 0,
    "OFFSET(prb_desc.text_blk_lpos)": 8,
    "OFFSET(prb_data_blk_lpos.begin)": 0,
    "OFFSET(prb_data_blk_lpos.next)": 8,
    "SIZE(printk_info)": 88,
    "OFFSET(printk_info.seq)": 0,
    "OFFSET(printk_info.ts_nsec)": 8,
    "OFFSET(printk_info.text_len)": 16,
    "OFFSET(printk_info.caller_id)": 20,
    "OFFSET(atomic_long_t.counter)": 0,
}


def ring(count_bits: int, size_bits: int, descriptors: bytes, text: bytes, infos: bytes) -> KernelMemory:
    n = 1 << count_bits
    head = struct.pack("<Q", 8) + struct.pack("<QQQQQ", count_bits, 1 << 20, 2 << 20, n - 1, 0)
    head = head.ljust(8 + 64, b"\0") + struct.pack("<QQ", size_bits, 3 << 20)
    return kernel({0: head, 1 << 20: descriptors, 2 << 20: infos, 3 << 20: text}, RING_KEYS)


@pytest.mark.parametrize(("count_bits", "size_bits"), [(21, 27), (24, 27), (24, 31), (31, 10), (1 << 31, 1 << 31)])
def test_a_log_without_end(count_bits: int, size_bits: int) -> None:
    made = ring(min(count_bits, 40), min(size_bits, 40), b"", b"", b"")
    bounded(lambda: sum(1 for _ in read_log(made)))


def test_records_of_a_log_that_share_their_text() -> None:
    """8192 records that each reach from their own number to the end of the ring: half a GiB of text from 64 KiB."""
    n, size = 1 << 13, 1 << 16
    descriptors = b"".join(struct.pack("<QQQ", 1 << 62 | i, 8 * i, size) for i in range(n))
    info = struct.pack("<QQHBBI", 0, 0, 0xFFFF, 0, 0, 0).ljust(88, b"\0")
    made = ring(13, 16, descriptors, b"".join(struct.pack("<Q", i) for i in range(n)), info * n)
    with pytest.raises(PydumpError, match="does not add up"):
        list(read_log(made))


def old_log(length: int, head: int) -> KernelMemory:
    keys = {
        "SYMBOL(log_buf)": "0",
        "SYMBOL(log_buf_len)": "8",
        "SYMBOL(log_first_idx)": "c",
        "SYMBOL(log_next_idx)": "10",
        "SIZE(printk_log)": head,
        "OFFSET(printk_log.ts_nsec)": 0,
        "OFFSET(printk_log.len)": 8,
        "OFFSET(printk_log.text_len)": 10,
        "OFFSET(printk_log.dict_len)": 12,
    }
    record = struct.pack("<QHHHBB", 0, 16, 0xFFFF, 0xFFFF, 0, 0)
    return kernel({0: struct.pack("<QIII", 1 << 20, length, 0, 1), 1 << 20: record * (1 << 15)}, keys)


@pytest.mark.parametrize("length", [1 << 20, 1 << 27, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("head", [1, 16, 65535])
def test_a_record_buffer_without_end(length: int, head: int) -> None:
    made = old_log(length, head)
    bounded(lambda: sum(len(record.text) for record in read_log(made)))


@pytest.mark.parametrize("count", [1, 1 << 20, 1 << 22, (1 << 32) - 1])
@pytest.mark.parametrize("names", [b"\xff\xff" + b"\0" * 100, b"\xff\xff" * (1 << 18), b"\1a" * (1 << 18)])
def test_symbols_without_end(count: int, names: bytes) -> None:
    """Names whose stated length is 32 KiB each, all in the same memory."""
    keys = {
        "SYMBOL(kallsyms_num_syms)": "100000",
        "SYMBOL(kallsyms_names)": f"{1 << 21:x}",
        "SYMBOL(kallsyms_token_table)": "102000",
        "SYMBOL(kallsyms_token_index)": "110000",
        "SYMBOL(kallsyms_offsets)": "0",
        "SYMBOL(_stext)": "1000",
    }
    contents = {
        0: names.ljust(1 << 20, b"\0"),
        0x100000: struct.pack("<I", count),
        0x102000: b"x" * 16000 + b"\0" * 64,
    }
    one = kernel(contents, keys, folded=1 << 21)
    bounded(lambda: Kallsyms.read(one).names)


@pytest.mark.parametrize("area_size", [104, 4096, 1 << 20, 1 << 24])
def test_nodes_without_end(area_size: int) -> None:
    keys = {
        "SYMBOL(node_data)": "0",
        "LENGTH(node_data)": 1 << 24,
        "SIZE(zone)": 4096,
        "SIZE(free_area)": area_size,
        "SIZE(list_head)": 16,
        "LENGTH(free_area.free_list)": 6,
        "OFFSET(pglist_data.node_zones)": 0,
        "OFFSET(pglist_data.nr_zones)": 0,
        "OFFSET(zone.free_area)": 0,
        "OFFSET(free_area.free_list)": 0,
        "LENGTH(zone.free_area)": 64,
    }
    # Each node lies elsewhere, and has 16 zones.
    nodes = struct.pack("<8192Q", *range(1 << 20, (1 << 20) + 8192 * 16, 16))
    one = kernel({0: nodes, 1 << 20: struct.pack("<QQ", 16, 0) * 8192}, keys)
    bounded(lambda: free_pages(one))


def test_vmcoreinfo_on_every_page() -> None:
    """Only so many places that look like VMCOREINFO are read; the first note and text are among them."""
    text = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n" + b"X" * 3000 + b"\n"
    n = 16 * MAX_PLACES
    source = pydump.BytesImage(Guest(MemoryMap(())), {0: text.ljust(4096, b"\0") * n})
    began = time.process_time()
    (found,) = find_vmcoreinfo(source, source.guest().memory, "little")
    assert found.osrelease == "6.1.0"
    assert time.process_time() - began < SECONDS / 2


@pytest.fixture(scope="module")
def linux(qemu: Callable[[str, str], Path]) -> Iterator[pydump.Dump]:
    with pydump.open(qemu("linux-x86_64", "elf")) as opened:
        yield opened


KEYS = (
    *("SIZE(page)", "SIZE(mem_section)", "LENGTH(mem_section)", "OFFSET(page.flags)", "OFFSET(page._mapcount)"),
    *("LENGTH(zone.free_area)", "SIZE(free_area)", "SIZE(printk_info)", "SIZE(prb_desc)", "NUMBER(PG_lru)"),
    *("OFFSET(prb_desc.state_var)", "OFFSET(printk_info.text_len)", "LENGTH(printk_info_device)"),
    *("OFFSET(page.compound_order)", "OFFSET(page.compound_dtor)", "OFFSET(folio._folio_order)", "NUMBER(phys_base)"),
    *("OFFSET(mem_section.section_mem_map)", "NUMBER(SECTION_SIZE_BITS)", "NUMBER(MAX_PHYSMEM_BITS)"),
)


@pytest.mark.parametrize("value", ["-1", "0", "7", "16777216", "18446744073709551615"])
def test_no_number_of_vmcoreinfo_ends_in_an_internal_error(value: str, linux: pydump.Dump) -> None:
    registry = installed()
    stated = linux.stated
    assert stated.vmcoreinfo is not None
    text = stated.vmcoreinfo.text.rstrip(b"\0\n").decode()
    (linux_filter,) = (cls for cls in registry.filters() if cls.name == "linux")
    for key in KEYS:
        hostile = Vmcoreinfo(f"{text}\n{key}={value}\n".encode())
        guest, arch, _ = complete(replace(stated, vmcoreinfo=hostile), None, registry)
        assert arch is not None
        for work in (
            lambda: linux_filter.classify(linux.image, guest, arch),  # noqa: B023
            lambda: list(read_log(KernelMemory.of(linux.image, guest, arch))),  # noqa: B023
        ):
            with contextlib.suppress(PydumpError):
                work()


class Damaged(Holes):
    """One page of it cannot be read."""

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        if paddr < 0x3000 and paddr + len(buffer) > 0x2000:
            raise DamagedPageError(0x2000, 0x1000, "its page does not decompress")
        super().read_into(paddr, buffer)


def test_struct_pages_in_a_damaged_page_are_unreadable_and_no_others() -> None:
    """64 struct pages of 64 bytes lie in the page at 0x2000; the pages behind them are free ones."""
    free = bytearray(64)
    struct.pack_into("<i", free, 48, -129)
    one = kernel({}, PAGE_KEYS)
    one.physical._source = Damaged(64 * TIB, {0: bytes(free) * 512})
    found = classify(one, PageRules.of(one), (StructPages(0, 512, 0),), one.physical.ram)
    assert (found.n_pages, found.n_unreadable, found.n_free) == (512, 64, 512 - 64)
    assert found.of(PageClass.FREE) == Ranges.of([(0, 128 * 4096), (192 * 4096, 512 * 4096)])
