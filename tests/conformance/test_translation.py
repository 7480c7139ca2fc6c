"""Kernel addresses of real guests translate as drgn, libkdumpfile and QEMU translate them."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from pydump.interfaces.arch import AddressSpace
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed

DATA = Path(__file__).parents[1] / "data/paging"
GUESTS = ("x86_64", "i386", "aarch64", "arm", "arm-lpae", "s390x", "ppc64", "riscv64")


class Golden:
    """A guest of whose memory only the page tables are known."""

    def __init__(self, name: str) -> None:
        document: dict[str, Any] = json.loads(lzma.decompress((DATA / f"{name}.json.xz").read_bytes()))
        self.tables = {int(paddr, 0): bytes.fromhex(data) for paddr, data in document["tables"].items()}
        self.translations = [(int(v, 0), None if p is None else int(p, 0)) for v, p in document["translations"]]
        self.n_reads = 0
        self.arch = installed().arch(document["arch"])
        self.guest = self.arch.complete(
            Guest(
                MemoryMap.of(map(tuple, document["memory"])),
                byte_order=document["byte_order"],
                vmcoreinfo=Vmcoreinfo("\n".join(document["vmcoreinfo"]).encode()),
            )
        )

    def space(self) -> AddressSpace:
        space = self.arch.address_space(self.guest, self.read)
        assert space is not None
        return space

    def read(self, paddr: int, size: int) -> bytes:
        self.n_reads += 1
        for start, data in self.tables.items():
            if start <= paddr and paddr + size <= start + len(data):
                return data[paddr - start : paddr - start + size]
        raise AssertionError(f"{size:#x} bytes at {paddr:#x} are no page table")


@pytest.fixture(scope="module", params=GUESTS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_translate_agrees(golden: Golden) -> None:
    space = golden.space()
    assert len(golden.translations) > 100
    assert [(v, space.translate(v)) for v, _ in golden.translations] == golden.translations


def test_mappings_agree(golden: Golden) -> None:
    mappings = list(golden.space().mappings())
    for left, right in zip(mappings, mappings[1:], strict=False):
        assert left.vaddr + left.size <= right.vaddr, "ascending, without overlap"
        assert (left.vaddr + left.size, left.paddr + left.size) != (right.vaddr, right.paddr), "joined"
    for vaddr, paddr in golden.translations:
        inside = [m for m in mappings if m.vaddr <= vaddr < m.vaddr + m.size]
        assert [m.paddr + vaddr - m.vaddr for m in inside] == ([] if paddr is None else [paddr])


def test_runs_agree(golden: Golden) -> None:
    """The walk of a range gives what translating each of its pages gives."""
    space = golden.space()
    for vaddr, _ in golden.translations[::9]:
        start, size = max(0, vaddr - 0x5432), 0x20000
        size = min(size, (1 << 64) - start)
        assert list(space.runs(start, size)) == list(AddressSpace.runs(space, start, size)), hex(vaddr)


def test_a_table_that_is_used_many_times_is_read_once() -> None:
    """x86_64's ESPFIX area maps one page 65,536 times, through tables that are used over and over."""
    golden = Golden("x86_64")
    golden.n_reads = 0
    assert len(list(golden.space().mappings())) > 65536
    assert golden.n_reads < 200


@pytest.mark.parametrize("name", GUESTS)
def test_without_vmcoreinfo_and_registers_nothing_is_known(name: str) -> None:
    arch = Golden(name).arch
    guest = arch.complete(Guest(MemoryMap.of([(0, 1 << 20)])))
    assert arch.address_space(guest, lambda paddr, size: bytes(size)) is None


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x5a"])
def test_vmcoreinfo_of_another_boot_is_not_believed(golden: Golden, filler: bytes) -> None:
    """Where the tables should lie there is something else."""
    assert golden.arch.address_space(golden.guest, lambda paddr, size: filler * size) is None
