"""Where RAM is. The device trees are what QEMU 7.2 writes with ``-machine dumpdtb=FILE``."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import pytest

from gdb_stub import FLAT_VIEW
from pydump.errors import PlanError, ReadError, SourceError
from pydump_qemu_stream.flat_view import MAX_PLACES
from pydump_source_gdb.ram import device_tree_ram, e820_ram, flat_view_ram, stated_ram

DATA = Path(__file__).parent / "data"


def test_what_the_user_writes() -> None:
    memory = stated_ram("4G-0x140000000,0-512M")
    assert [(block.paddr, block.end) for block in memory] == [(0, 512 << 20), (4 << 30, 5 << 30)]


@pytest.mark.parametrize("text", ["0", "1G-0", "1G-1G", "0-1G,512M-2G", "a-b", "0-1G,", "-", "0-99999999999999999999"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        stated_ram(text)


def test_the_ram_of_a_flat_view() -> None:
    blocks = [(block.paddr, block.size) for block in flat_view_ram(FLAT_VIEW)]
    assert blocks == [(0x1000, 0x1000), (0x80000000, 0x10000)]
    assert not flat_view_ram("unknown command: 'info mtree'\n")


def test_more_ram_than_any_guest_has_is_not_believed() -> None:
    head = 'FlatView #0\n AS "memory", root: system\n'
    line = "  {:016x}-{:016x} (prio 0, ram): ram\n"
    with pytest.raises(SourceError):
        flat_view_ram(head + line.format(0, 1 << 62))
    with pytest.raises(SourceError):
        flat_view_ram(head + "".join(line.format(n << 46, (n << 46) + (1 << 46) - 1) for n in range(3)))
    with pytest.raises(SourceError):
        flat_view_ram(head + "".join(line.format(n << 16, (n << 16) + 15) for n in range(MAX_PLACES + 1)))


def reader(memory: dict[int, bytes], end: int):  # type: ignore[no-untyped-def]
    """Reads memory up to ``end``, which is zero but for what is given."""

    def read(paddr: int, size: int) -> bytes:
        if paddr + size > end:
            raise ReadError(paddr, size, "nothing is there")
        data = bytearray(size)
        for at, content in memory.items():
            for i in range(max(at, paddr), min(at + len(content), paddr + size)):
                data[i - paddr] = content[i - at]
        return bytes(data)

    return read


def boot_params(entries: list[tuple[int, int, int]]) -> bytes:
    """A struct boot_params. Source: Documentation/arch/x86/zero-page.rst of Linux."""
    params = bytearray(4096)
    params[0x1E8] = len(entries)
    params[0x1FE:0x206] = b"\x55\xaa\xeb\x6aHdrS"
    for i, entry in enumerate(entries):
        params[0x2D0 + 20 * i : 0x2E4 + 20 * i] = struct.pack("<QQI", *entry)
    return bytes(params)


def test_the_ram_that_firmware_told_linux_of() -> None:
    # What a guest of 256 MiB has, and before it the header of the kernel's file, which has no table.
    entries = [(0, 0x9FC00, 1), (0x9FC00, 0x400, 2), (0xF0000, 0x10000, 2), (0x100000, 0xFEE0000, 1)]
    header = bytes(0x1E8) + b"\xff" + bytes(21) + b"\x55\xaa\xeb\x6aHdrS"
    read = reader({0x10000: header, 0x14790: boot_params(entries)}, 1 << 30)
    assert [(block.paddr, block.size) for block in e820_ram(read)] == [(0, 0x9FC00), (0x100000, 0xFEE0000)]
    assert not e820_ram(reader({}, 1 << 30))
    assert not e820_ram(reader({}, 0))


@pytest.mark.parametrize("entries", [[], [(0, 1 << 62, 1)], [(0, 2 << 20, 1), (1 << 20, 2 << 20, 1)], [(0, 1, 2)]])
def test_a_table_that_cannot_be_is_passed_over(entries: list[tuple[int, int, int]]) -> None:
    assert not e820_ram(reader({0x7000: boot_params(entries)}, 1 << 20))


@pytest.mark.parametrize(
    ("name", "start", "ram"),
    [("riscv64-virt", 0x80000000, (0x80000000, 64 << 20)), ("ppc64-pseries", 0, (0, 256 << 20))],
)
def test_the_ram_in_a_device_tree(name: str, start: int, ram: tuple[int, int]) -> None:
    tree = gzip.decompress((DATA / f"{name}.dtb.gz").read_bytes())
    read = reader({start + 0x3000: tree}, start + (8 << 20))
    assert [(block.paddr, block.size) for block in device_tree_ram(read, start)] == [ram]
    assert not device_tree_ram(reader({}, start + (1 << 20)), start)
    damaged = random.Random(1)
    for _ in range(200):
        copy = bytearray(tree)
        for _ in range(8):
            copy[damaged.randrange(8, len(copy))] = damaged.randrange(256)
        device_tree_ram(lambda paddr, size, copy=copy: bytes(copy[:size]), start)
