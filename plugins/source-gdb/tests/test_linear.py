"""Physical memory through the kernel's mapping of all RAM."""

from __future__ import annotations

import pytest

from pydump.errors import PlanError, ReadError
from pydump_source_gdb.linear import Linear, find_linear, stated_linear

BASE = 0xFFFF8D6D80000000
CR3 = 0x2A6A000


class Paged:
    """The memory of a CPU whose tables map 4 GiB of RAM at BASE, by the first two pages of a GiB or by a large one.

    Source of the entries: Intel SDM volume 3, 4.5.
    """

    def __init__(self, levels: int, *, large: bool, at: int = 0) -> None:
        self.tables: dict[int, int] = {}
        table = CR3
        for n, shift in enumerate((48, 39, 30, 21, 12)[5 - levels :]):
            index = BASE >> shift & 511
            leaf = shift == 12 or (shift == 30 and large)
            target = at if leaf else 0x5000_0000 + 0x1000 * n
            self.tables[table + 8 * index] = target | (0x80 if leaf and shift > 12 else 0) | 0x8000000000000063
            table = target
            if leaf:
                break

    def read(self, vaddr: int, size: int) -> bytes:
        if not BASE <= vaddr < BASE + (4 << 30):
            raise ReadError(vaddr, size, "nothing is mapped")
        return self.tables.get(vaddr - BASE, 0).to_bytes(8, "little")


CPU = {"cr0": 0x80050033, "cr3": CR3 | 0x801, "cr4": 0x750EF0, "gs_base": BASE + 0xCF800000, "kernel_gs_base": 0x7F00}


@pytest.mark.parametrize(("levels", "cr4"), [(4, 0x750EF0), (5, 0x751EF0)])
@pytest.mark.parametrize("large", [False, True])
def test_the_mapping_is_where_the_tables_say_it(levels: int, cr4: int, large: bool) -> None:
    memory = Paged(levels, large=large)
    assert find_linear("x86_64", CPU | {"cr4": cr4}, memory.read) == Linear(BASE)
    # A CPU that runs a program has the kernel's GS elsewhere.
    swapped = {"gs_base": 0, "kernel_gs_base": CPU["gs_base"]}
    assert find_linear("x86_64", CPU | {"cr4": cr4} | swapped, memory.read) == Linear(BASE)


def test_a_mapping_of_something_else_is_not_taken() -> None:
    assert find_linear("x86_64", CPU, Paged(4, large=False, at=0x1000).read) is None
    assert find_linear("x86_64", CPU | {"gs_base": 0}, Paged(4, large=False).read) is None
    assert find_linear("x86_64", CPU | {"gs_base": 1 << 63}, Paged(4, large=False).read) is None
    assert find_linear("x86_64", {"gs_base": BASE}, Paged(4, large=False).read) is None


@pytest.mark.parametrize(
    ("arch", "registers", "found"),
    [
        ("i386", {"cr0": 0x60000010}, Linear(0)),
        ("x86_64", {"cr0": 0x60000010}, Linear(0)),
        ("ppc64", {"msr": 0x8000000000009032}, Linear(0xC000000000000000)),
        ("ppc64", {"msr": 0x8000000000001000}, Linear(0)),
        ("aarch64", {"pc": 0}, None),
        (None, {}, None),
    ],
)
def test_without_paging_addresses_are_physical(arch: str | None, registers: dict[str, int], found: Linear) -> None:
    def read(vaddr: int, size: int) -> bytes:
        raise ReadError(vaddr, size, "nothing is mapped")

    assert find_linear(arch, registers, read) == found


def test_what_the_user_writes() -> None:
    linear = stated_linear("0xffffaf8000000000@2G")
    assert linear == Linear(0xFFFFAF8000000000, 2 << 30)
    assert linear.to_vaddr(0x80001000) == 0xFFFFAF8000001000
    assert linear.to_paddr(0xFFFFAF8000001000) == 0x80001000
    assert stated_linear("0xc000000000000000") == Linear(0xC000000000000000)


@pytest.mark.parametrize("text", ["@", "@0", "x@y", "0x10000000000000000", "1@2@3"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        stated_linear(text)
