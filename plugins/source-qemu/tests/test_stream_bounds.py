"""What of a migration stream is not believed. Source: migration/{savevm,ram,vmstate}.c of QEMU 7.2."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest

from pydump.errors import SourceError
from pydump.model.memory import Ranges
from pydump_qemu_stream.flat_view import MAX_PLACES, Place, most_ram, places
from pydump_qemu_stream.records import MAX_BLOCKS, MAX_CAPABILITIES
from pydump_source_qemu.migration import RamStream

PAGE = bytes(range(256)) * 16
HEAD = struct.pack(">II", 0x5145564D, 3)
RAM = b"\x01" + struct.pack(">I", 2) + b"\x03ram" + struct.pack(">II", 0, 4)
EOS = struct.pack(">Q", 0x10)
END = EOS + b"\x03" + struct.pack(">I", 2) + EOS + b"\x00"
VIEW = 'FlatView #1\n AS "memory", root: system\n Root memory region: system\n'


def configuration(name: bytes, data: bytes) -> bytes:
    """A configuration section with a subsection."""
    return b"\x07" + struct.pack(">I", 2) + b"pc\x05" + bytes([len(name)]) + name + struct.pack(">I", 1) + data


def blocks(*named: tuple[bytes, int], total: int | None = None) -> bytes:
    """The list of RAM blocks."""
    size = sum(size for _, size in named) if total is None else total
    return struct.pack(">Q", size | 4) + b"".join(bytes([len(n)]) + n + struct.pack(">Q", size) for n, size in named)


def page(offset: int, block: bytes = b"ram", data: bytes = PAGE) -> bytes:
    """A page of a block."""
    return struct.pack(">Q", offset | 8) + bytes([len(block)]) + block + data


def line(start: int, end: int, name: str = "ram", offset: int = 0) -> str:
    """A line of a flat view."""
    return f"  {start:016x}-{end - 1:016x} (prio 0, ram): {name} @{offset:016x}\n"


def read(stream: bytes, parts: dict[str, list[Place]] | None = None) -> dict[int, bytes]:
    """What is written where."""
    file, written = io.BytesIO(stream), {}

    def fill(buffer: memoryview) -> int:
        n = file.readinto(buffer)
        if n == 0:
            raise EOFError
        return n

    def write(paddr: int, data: Any) -> None:
        written[paddr] = bytes(data)

    parts = {"ram": [Place(0, 8192, 0x10000)]} if parts is None else parts
    wanted = Ranges.of((part.paddr, part.paddr + part.size) for part in parts["ram"])
    RamStream(fill, parts, wanted, write, lambda done: None, lambda: None, most_ram(Ranges.empty())).read()
    return written


def test_pages_go_where_the_guest_sees_them() -> None:
    bits = configuration(b"configuration/target-page-bits", struct.pack(">I", 12))
    stream = HEAD + bits + RAM + blocks((b"dev/ram", 8192)) + page(0, b"dev/ram") + page(4096, b"dev/ram")
    assert read(stream + END) == {0x10000: PAGE, 0x11000: PAGE}


def test_pages_of_1_kib_have_offsets_of_1_kib() -> None:
    """RAM_SAVE_FLAG_* take the bits below TARGET_PAGE_SIZE: ram_load_precopy() in migration/ram.c."""
    bits = configuration(b"configuration/target-page-bits", struct.pack(">I", 10))
    pages = b"".join(page(offset, data=PAGE[:1024]) for offset in range(0, 8192, 1024))
    written = read(HEAD + bits + RAM + blocks((b"ram", 8192)) + pages + END)
    assert sorted(written) == list(range(0x10000, 0x12000, 1024))


SOUND = HEAD + RAM + blocks((b"ram", 8192))


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"QEVM" + bytes(4), "not a migration stream of version 3"),
        *((HEAD + configuration(b"configuration/target-page-bits", struct.pack(">I", bits)), "pages of 2")
          for bits in (0, 9, 17, 64, (1 << 32) - 1)),
        (HEAD + configuration(b"configuration/capabilities", struct.pack(">I", MAX_CAPABILITIES + 1)), "capabilities"),
        (HEAD + b"\x07" + struct.pack(">I", (1 << 32) - 1), "a part of 0xffffffff bytes"),
        (HEAD + RAM + EOS + b"\x07", "unknown kind 7"),
        (HEAD + RAM + blocks((b"ram", 1 << 62)), "a list of blocks with 0x4000000000000000 bytes"),
        (HEAD + RAM + blocks((b"ram", 8192), total=4096), "block 'ram' has 0x2000 bytes"),
        (HEAD + RAM + blocks((b"ram", 4096), (b"ram", 4096)), "block 'ram' has 0x1000 bytes"),
        (HEAD + RAM + blocks(*((b"%d" % i, 0) for i in range(MAX_BLOCKS + 1)), (b"ram", 4096)), "block '16384' has"),
        (SOUND + blocks((b"ram", 8192)), "a list of blocks with 0x2000 bytes"),
        (SOUND + page(8192), "page 0x2000 of no block 'ram'"),
        (SOUND + page(0, b"rom"), "page 0x0 of no block 'rom'"),
        (SOUND + struct.pack(">Q", 0x420), "unknown kind 0x420"),
        (SOUND + page(4096) + END, "lacks 1 pages of ram"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_damaged_stream_is_refused(stream: bytes, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        read(stream)


def test_a_stream_that_does_not_end_is_refused() -> None:
    with pytest.raises(SourceError, match="data follows its end"):
        read(SOUND + (page(0) + page(4096)) * 16000)


def test_a_stream_that_ends_early() -> None:
    for stream in (HEAD, SOUND, SOUND + page(0)[:-1]):
        with pytest.raises(EOFError):
            read(stream)


MEMORY = Ranges.of([(0, 0x2000)])


@pytest.mark.parametrize(
    ("view", "why"),
    [
        ("text", "lacks the memory at 0x0"),
        (VIEW, "lacks the memory at 0x0"),
        (VIEW + line(0, 0x1000), "lacks the memory at 0x1000"),
        (VIEW + line(0, 0x2000) + line(0x1000, 0x3000), "damaged at 0x1000"),
        (VIEW + line(0x3000, 0x2000), "damaged at 0x3000"),
        (VIEW + line(0, 0x2000, offset=(1 << 64) - 1), "0x2000 bytes at 0x0"),
        (VIEW + line(0, 1 << 62), "0x4000000000000000 bytes at 0x0"),
        (VIEW + "".join(line(i << 13, (i + 1) << 13) for i in range(MAX_PLACES + 1)), "damaged at 0x2000000"),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_a_list_of_regions_that_does_not_add_up_is_refused(view: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        places(view, MEMORY)
