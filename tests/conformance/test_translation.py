"""Kernel addresses of real guests translate as drgn, libkdumpfile and QEMU translate them."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.errors import ReadError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed
from pydump.testing.page_tables import PageTableExample, PageTableTests

DATA = Path(__file__).parents[1] / "data/paging"
GUESTS = ("x86_64", "i386", "aarch64", "arm", "arm-lpae", "s390x", "ppc64", "riscv64")


@cache
def document(name: str) -> Any:
    return json.loads(lzma.decompress((DATA / f"{name}.json.xz").read_bytes()))


class Golden(PageTableTests):
    """A guest of whose memory only the page tables are known."""

    name: ClassVar[str]

    def example(self) -> PageTableExample:
        said = document(self.name)
        tables = {int(paddr, 0): bytes.fromhex(data) for paddr, data in said["tables"].items()}
        self.n_reads = 0

        def read(paddr: int, size: int) -> bytes:
            self.n_reads += 1
            for start, data in tables.items():
                if start <= paddr and paddr + size <= start + len(data):
                    return data[paddr - start : paddr - start + size]
            raise ReadError(paddr, size, "no page table lies there")

        guest = Guest(
            MemoryMap.of(map(tuple, said["memory"])),
            byte_order=said["byte_order"],
            vmcoreinfo=Vmcoreinfo("\n".join(said["vmcoreinfo"]).encode()),
        )
        translations = {
            int(vaddr, 0): None if paddr is None else int(paddr, 0) for vaddr, paddr in said["translations"]
        }
        return PageTableExample(guest, read, translations)

    @pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x5a"])
    def test_vmcoreinfo_of_another_boot_is_not_believed(self, filler: bytes) -> None:
        """Where the tables should lie there is something else."""
        guest = self.arch.complete(self.example().guest)
        assert self.arch.address_space(guest, lambda paddr, size: filler * size) is None

    def test_without_vmcoreinfo_and_registers_nothing_is_known(self) -> None:
        guest = self.arch.complete(Guest(MemoryMap.of([(0, 1 << 20)])))
        assert self.arch.address_space(guest, lambda paddr, size: bytes(size)) is None


def _golden(name: str) -> type:
    arch = installed().arch(document(name)["arch"])
    return type(f"Test_{name}".replace("-", "_"), (Golden,), {"name": name, "arch": arch})


globals().update({made.__name__: made for made in map(_golden, GUESTS)})


def test_a_table_that_is_used_many_times_is_read_once() -> None:
    """x86_64's ESPFIX area maps one page 65,536 times, through tables that are used over and over."""
    golden = _golden("x86_64")()
    space = golden.space(golden.example())
    golden.n_reads = 0
    assert len(list(space.mappings())) > 65536
    assert golden.n_reads < 200
