"""Which pages of a process hold data, by the kernel that runs the test."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pydump_qemu_stream.host import Region
from pydump_qemu_stream.maps import PAGE, Mapping, held, mapping_of

PAGES = 4096


def address_of(mapping: mmap.mmap) -> int:
    """Where it lies in this process."""
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def shmem() -> int:
    """Bytes of shared memory that this process maps."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssShmem"))


@pytest.fixture
def ours() -> Iterator[tuple[int, int]]:
    """This process's memory and pagemap."""
    with contextlib.ExitStack() as stack:
        fds = [os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("mem", "pagemap")]
        for fd in fds:
            stack.callback(os.close, fd)
        yield fds[0], fds[1]


@pytest.mark.parametrize("huge", [False, True])
def test_pages_that_were_only_read_hold_nothing(ours: tuple[int, int], huge: bool) -> None:
    memory, pagemap = ours
    mapping = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    address, size = address_of(mapping), PAGES * PAGE
    assert not held(pagemap, address, size, memory)
    assert not any(mapping[:: PAGE // 2])
    assert held(pagemap, address, size).size >= size // 2  # mapped, as the kernel's zeros
    assert not held(pagemap, address, size, memory)
    mapping[7 * PAGE + 1] = 1
    found = held(pagemap, address, size, memory)
    assert (address + 7 * PAGE, address + 8 * PAGE) in list(found) or huge
    assert found.clip(address + 7 * PAGE, address + 8 * PAGE).size == PAGE
    assert found.size <= (2 << 20 if huge else PAGE)


def test_a_private_mapping_holds_its_own_pages_and_those_of_its_file(ours: tuple[int, int]) -> None:
    memory, pagemap = ours
    file = os.memfd_create("test")
    os.truncate(file, PAGES * PAGE)
    os.pwrite(file, b"file", 3 * PAGE)
    mapping = mmap.mmap(file, PAGES * PAGE, flags=mmap.MAP_PRIVATE)
    mapping[9 * PAGE] = 1
    region = Region(1 << 32, PAGES * PAGE, address_of(mapping), memory, pagemap, False, file, 0)
    before, blocks = shmem(), os.fstat(file).st_blocks
    pages = [(start - (1 << 32)) // PAGE for start, _ in region.data_ranges(region.paddr, region.size)]
    assert pages == [3, 9]
    assert list(region.data_ranges(region.paddr + 4 * PAGE, PAGE)) == []
    assert (shmem(), os.fstat(file).st_blocks) == (before, blocks)
    buffer = bytearray(4)
    region.read_into(region.paddr + 3 * PAGE, memoryview(buffer))
    assert buffer == b"file"
    os.close(file)


@pytest.mark.parametrize(
    ("line", "mapping"),
    [
        (
            "7f0000000000-7f0040000000 rw-s 00001000 00:01 1027                       /memfd:m (deleted)\n",
            Mapping(0x7F0000000000, 0x7F0040000000, True, 0x1000, 1, 1027, "/memfd:m (deleted)"),
        ),
        (
            "7f0000000000-7f0040000000 rw-p 00000000 00:00 0 \n",
            Mapping(0x7F0000000000, 0x7F0040000000, False, 0, 0, 0, ""),
        ),
    ],
)
def test_lines_of_maps(line: str, mapping: Mapping) -> None:
    assert mapping_of(line) == mapping
