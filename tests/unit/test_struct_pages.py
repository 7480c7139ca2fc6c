"""Each rule by which struct pages are told apart, on made-up struct pages in both byte orders and word sizes.

Source of the layouts and values: include/linux/{mm_types,page-flags}.h and kernel/vmcore_info.c (crash_core.c before
6.9) of the Linux versions that the tests name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, cast

import pytest

from pydump.errors import PlanError
from pydump.kernel.memory import KernelMemory
from pydump.kernel.pages import Candidates, Classifier, PageClass, PageRules
from pydump.model.guest import ByteOrder
from pydump.model.vmcoreinfo import Vmcoreinfo

LRU, PRIVATE, SWAPCACHE, SWAPBACKED, HWPOISON, HEAD, SLAB = (1 << n for n in (5, 13, 10, 19, 21, 16, 9))
FLAGS = {"lru": 5, "private": 13, "swapcache": 10, "swapbacked": 19, "hwpoison": 21}
#: Linux 6.1: the order and the destructor stand in the second struct page.
OLD = {
    "NUMBER(PG_slab)": 9,
    "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": -129,
    "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)": -257,
    "NUMBER(HUGETLB_PAGE_DTOR)": 2,
    "OFFSET(page.compound_dtor)": 16,
    "OFFSET(page.compound_order)": 17,
}
#: Linux 6.3 to 6.5: the same as fields of struct folio.
FOLIO = {k: v for k, v in OLD.items() if "compound" not in k} | {
    "OFFSET(folio._folio_dtor)": 64 + 16,
    "OFFSET(folio._folio_order)": 64 + 17,
}
#: Linux 6.6 to 6.8: the order is the low byte of the second struct page's flags, and hugetlb is a flag there.
FLAGGED = {k: v for k, v in OLD.items() if "compound" not in k and "DTOR" not in k} | {"NUMBER(PG_hugetlb)": 8}
#: Linux 6.12: page types are values in the top byte of _mapcount.
TYPED = {
    "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": -184549376,
    "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": -268435456,
    "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)": -201326592,
    "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)": -251658240,
    "NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)": -167772160,
}
KERNELS = {"6.1": OLD, "6.3": FOLIO, "6.6": FLAGGED, "6.12": TYPED}


@dataclass
class Machine:
    """Makes struct pages of one word size and byte order, and sorts them."""

    byte_order: ByteOrder
    word_size: int
    keys: dict[str, int]

    def rules(self, without: str = "") -> PageRules:
        w = self.word_size
        lines = {
            "OSRELEASE": "6.1.0",
            "SIZE(page)": 64,
            "OFFSET(page.flags)": 0,
            "OFFSET(page.compound_head)": w,
            "OFFSET(page.mapping)": 3 * w,
            "OFFSET(page.private)": 5 * w,
            "OFFSET(page._mapcount)": 48,
            "NUMBER(PG_head_mask)": HEAD,
            "LENGTH(zone.free_area)": 11,
            **{f"NUMBER(PG_{name})": bit for name, bit in FLAGS.items()},
            **self.keys,
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items() if key != without)
        kernel = KernelMemory(
            cast(Any, None),
            cast(Any, None),
            Vmcoreinfo(text.encode()),
            byte_order=self.byte_order,
            word_size=w,
            page_size=4096,
        )
        return PageRules.of(kernel)

    def page(
        self, flags: int = 0, mapping: int = 0, mapcount: int = -1, private: int = 0, tail: int = 0, extra: bytes = b""
    ) -> bytes:
        order = "<" if self.byte_order == "little" else ">"
        word = "Q" if self.word_size == 8 else "I"
        data = bytearray(64)
        for at, value in ((0, flags), (1, tail), (3, mapping), (5, private)):
            struct.pack_into(order + word, data, at * self.word_size, value)
        struct.pack_into(order + "i", data, 48, mapcount)
        if extra:
            data[16 : 16 + len(extra)] = extra
        return bytes(data)

    def compound(self, order: int, head: bytes, *, hugetlb: bool = False) -> list[bytes]:
        """The head and the second struct page of a compound page, as this kernel writes them."""
        if "OFFSET(page.compound_order)" in self.keys or "OFFSET(folio._folio_order)" in self.keys:
            return [head, self.page(tail=1, extra=bytes([2 if hugetlb else 1, order]))]
        return [head, self.page(tail=1, flags=order | (hugetlb and "NUMBER(PG_hugetlb)" in self.keys) << 8)]

    def sort(self, *pages: bytes, pfn: int = 0) -> Candidates:
        return Classifier(self.rules()).classify(pfn, memoryview(b"".join(pages)), len(pages))

    def mark(self, name: str) -> int:
        return self.keys[f"NUMBER(PAGE_{name}_MAPCOUNT_VALUE)"]


@pytest.fixture(params=KERNELS, ids=lambda name: f"linux-{name}")
def keys(request: pytest.FixtureRequest) -> dict[str, int]:
    return KERNELS[request.param]


@pytest.fixture(params=[("little", 8), ("big", 8), ("little", 4), ("big", 4)], ids=lambda p: f"{p[0]}-{8 * p[1]}")
def machine(request: pytest.FixtureRequest, keys: dict[str, int]) -> Machine:
    byte_order, word_size = request.param
    return Machine(byte_order, word_size, keys)


def found(candidates: Candidates) -> list[tuple[int, int]]:
    return list(zip(candidates.pfn.tolist(), candidates.classes.tolist(), strict=True))


def test_pages_in_use_are_in_no_class(machine: Machine) -> None:
    assert found(machine.sort(machine.page(), machine.page(flags=PRIVATE | SWAPBACKED), machine.page(mapcount=0))) == []


@pytest.mark.parametrize(
    ("flags", "mapping", "expected"),
    [
        (LRU, 0x1000, PageClass.CACHE),
        (LRU | PRIVATE, 0x1000, PageClass.CACHE_PRIVATE),
        (SWAPCACHE | SWAPBACKED, 0x1000, PageClass.CACHE),
        (SWAPCACHE, 0x1000, None),
        (LRU | SWAPBACKED, 0x1001, PageClass.USER),
        (0, 0x1001, PageClass.USER),
        (LRU, 0x1003, PageClass.USER),
        (HWPOISON, 0, PageClass.HWPOISON),
        (LRU | HWPOISON, 0x1000, PageClass.CACHE | PageClass.HWPOISON),
    ],
)
def test_flags_and_mapping(machine: Machine, flags: int, mapping: int, expected: PageClass | None) -> None:
    sorted_ = machine.sort(machine.page(flags=flags, mapping=mapping), pfn=7)
    assert found(sorted_) == ([(7, int(expected))] if expected else [])
    assert sorted_.compound_order.tolist() == ([0] if expected else [])


def test_free_blocks(machine: Machine) -> None:
    free = machine.page(mapcount=machine.mark("BUDDY"), private=3)
    sorted_ = machine.sort(free, *[machine.page()] * 7, free, pfn=16)
    assert found(sorted_) == [(16, PageClass.FREE), (24, PageClass.FREE)]
    assert sorted_.block_order.tolist() == [3, 3]


@pytest.mark.parametrize(("pfn", "order"), [(16, 11), (16, 1 << 31), (4, 3)], ids=["large", "nonsense", "misaligned"])
def test_a_free_block_that_cannot_be_is_kept(machine: Machine, pfn: int, order: int) -> None:
    sorted_ = machine.sort(machine.page(mapcount=machine.mark("BUDDY"), private=order), pfn=pfn)
    assert found(sorted_) == []
    assert sorted_.odd == 1


def test_tails_are_never_looked_at(machine: Machine) -> None:
    pages = [
        machine.page(tail=0x1001, flags=LRU, mapping=0x1001),
        machine.page(tail=1, mapcount=machine.mark("BUDDY")),
        machine.page(tail=3, flags=HWPOISON),
    ]
    assert found(machine.sort(*pages)) == []


def test_slab_is_not_taken_for_memory_of_programs(machine: Machine) -> None:
    """Since 6.2 a slab's own field lies where mapping is, and may be odd."""
    slab = machine.keys.get("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)")
    page = machine.page(mapping=0x1001, flags=SLAB if slab is None else 0, mapcount=-1 if slab is None else slab)
    assert found(machine.sort(page)) == []


def test_the_order_of_a_compound_page(machine: Machine) -> None:
    pages = machine.compound(9, machine.page(flags=HEAD | LRU, mapping=0x1001))
    sorted_ = machine.sort(*pages, pfn=512)
    assert found(sorted_) == [(512, PageClass.USER)]
    assert sorted_.compound_order.tolist() == [9]


def test_a_misaligned_compound_page_is_one_page(machine: Machine) -> None:
    """The fake heads of hugetlb pages whose struct pages are mapped again look like this."""
    sorted_ = machine.sort(*machine.compound(9, machine.page(flags=HEAD | LRU, mapping=0x1001)), pfn=576)
    assert sorted_.compound_order.tolist() == [0]


def test_the_head_at_the_end_of_memory_has_no_second_struct_page(machine: Machine) -> None:
    sorted_ = machine.sort(machine.page(flags=HEAD | LRU, mapping=0x1000))
    assert sorted_.compound_order.tolist() == [0]


def test_hugetlb_pages_belong_to_programs(machine: Machine) -> None:
    mark = machine.keys.get("NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)", -1)
    pages = machine.compound(9, machine.page(flags=HEAD, mapping=0x1000, mapcount=mark), hugetlb=True)
    sorted_ = machine.sort(*pages, pfn=1024)
    assert found(sorted_) == [(1024, PageClass.USER)]
    assert sorted_.compound_order.tolist() == [9]
    assert found(machine.sort(*machine.compound(9, machine.page(flags=HEAD, mapping=0x1000)), pfn=1024)) == []


def test_offline_and_unaccepted_pages(machine: Machine) -> None:
    assert found(machine.sort(machine.page(mapcount=machine.mark("OFFLINE")))) == [(0, PageClass.OFFLINE)]
    if "NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)" in machine.keys:
        sorted_ = machine.sort(machine.page(mapcount=machine.mark("UNACCEPTED")))
        assert found(sorted_) == [(0, PageClass.UNACCEPTED)]
        assert sorted_.block_order.tolist() == [10], "all of the largest block"


def test_struct_pages_that_could_not_be_read_are_in_no_class(machine: Machine) -> None:
    import numpy as np

    data = machine.page(flags=LRU) + machine.page(flags=LRU)
    valid = np.array([False, True])
    assert found(Classifier(machine.rules()).classify(0, memoryview(data), 2, valid)) == [(1, PageClass.CACHE)]


@pytest.mark.parametrize(
    "key",
    [
        "SIZE(page)",
        "OFFSET(page.flags)",
        "OFFSET(page._mapcount)",
        "OFFSET(page.compound_head)",
        "NUMBER(PG_lru)",
        "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)",
        "LENGTH(zone.free_area)",
    ],
)
def test_a_key_that_is_not_there_is_named(key: str) -> None:
    with pytest.raises(PlanError) as error:
        Machine("little", 8, OLD).rules(without=key)
    assert key in error.value.message


def test_linux_7_1_calls_the_head_compound_info() -> None:
    keys = TYPED | {"OFFSET(page.compound_info)": 8}
    assert Machine("little", 8, keys).rules(without="OFFSET(page.compound_head)").dtype.fields["tail"][1] == 8  # type: ignore[index]
