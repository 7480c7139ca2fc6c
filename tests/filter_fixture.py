"""filter_fixture.py DUMP OUTPUT: cut a dump of a Linux guest down to what choosing pages and reading the log take.

OUTPUT is a kdump that holds the struct pages, the page tables, the zones, the log and VMCOREINFO; all other RAM is
marked as excluded. ``tests/data/filtering`` has what it made of real guests.
"""

from __future__ import annotations

import lzma
import sys
import tempfile
from pathlib import Path

import pydump
from pydump.interfaces.image import MemoryImage
from pydump.kernel.classes import classify
from pydump.kernel.log import read_log
from pydump.kernel.memory import KernelMemory
from pydump.kernel.pages import PageRules
from pydump.kernel.vmemmap import struct_pages
from pydump.kernel.zones import free_pages
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.registry import installed
from pydump_filter_linux.keep import must_keep


class Recorded(MemoryImage):
    """A source that records what is read of it, and then leaves out the rest."""

    def __init__(self, source: MemoryImage) -> None:
        self._source = source
        self._read: list[tuple[int, int]] = []
        self._excluded = Ranges.empty()

    def guest(self) -> Guest:
        return self._source.guest()

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self._read.append((paddr, paddr + len(buffer)))
        self._source.read_into(paddr, buffer)

    def excluded(self) -> Ranges:
        return self._excluded

    def keep_what_was_read(self, page_size: int) -> None:
        """Leave out all pages of which nothing was read."""
        read = Ranges.of(sorted(set(self._read))).page_aligned(page_size)
        self._excluded = self.guest().memory.ranges().subtract(read)


def cut(dump: str, output: Path) -> None:
    """Write what of ``dump`` is needed to ``output``, compressed by xz."""
    with tempfile.TemporaryDirectory() as directory:
        whole, small = Path(directory, "whole"), Path(directory, "small")
        pydump.dump(dump, whole, compression="none")  # with VMCOREINFO, and the facts completed
        with pydump.open(whole) as opened:
            guest, source = opened.guest, Recorded(opened.image)
            assert guest.arch
            arch = installed().arch(guest.arch)
            kernel = KernelMemory.of(source, guest, arch)
            places = struct_pages(kernel, arch)
            classify(kernel, PageRules.of(kernel), places, guest.memory.ranges())
            free_pages(kernel)
            must_keep(kernel, guest, arch, places, None)
            list(read_log(kernel))
            source.keep_what_was_read(kernel.page_size)
            pydump.dump(source, small, compression="none")
        output.write_bytes(lzma.compress(small.read_bytes(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    cut(sys.argv[1], Path(sys.argv[2]))
