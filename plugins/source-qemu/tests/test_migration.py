"""Migration streams put together from their description: what QEMU sends in other guests than our tests can boot."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable

import pytest

from pydump.errors import SourceError
from pydump.model.memory import Ranges
from pydump_qemu_stream.flat_view import Place, places
from pydump_source_qemu.migration import RamStream
from pydump_source_qemu.pipe import Pipe

PAGE = 4096
RAM, OTHER = 2, 3


def text(name: str) -> bytes:
    return bytes([len(name)]) + name.encode()


def start(section: int, name: str, body: bytes, *, kind: int = 1) -> bytes:
    """A START section, or another ``kind`` with a name."""
    return struct.pack(">BI", kind, section) + text(name) + struct.pack(">II", 0, 4) + body + end(section)


def part(section: int, body: bytes) -> bytes:
    return struct.pack(">BI", 2, section) + body + end(section)


def end(section: int) -> bytes:
    return struct.pack(">BI", 0x7E, section)


HEAD = struct.pack(">II", 0x5145564D, 3)
#: Two pages of RAM.
BLOCKS = start(RAM, "ram", struct.pack(">Q", 2 * PAGE | 4) + text("ram") + struct.pack(">QQ", 2 * PAGE, 16))
FIRST = struct.pack(">Q", 8) + text("ram") + b"A" * PAGE
SECOND = struct.pack(">Q", PAGE | 8 | 0x20) + b"B" * PAGE
PAGES = part(RAM, FIRST + SECOND + struct.pack(">Q", 16))
TAIL = start(9, "timer", b"x" * 24, kind=4) + b"\0"
SWITCHOVER_START = struct.pack(">BHH", 8, 11, 0)


def read(stream: bytes, wanted: tuple[int, int] = (0, 2 * PAGE), began: Callable[[], None] = lambda: None) -> bytes:
    """The RAM that a stream holds."""
    ram = bytearray(2 * PAGE)

    def write(paddr: int, data: object) -> None:
        ram[paddr : paddr + len(bytes(data))] = bytes(data)  # type: ignore[call-overload]

    reader, writer = os.pipe()
    feed = threading.Thread(target=lambda: (os.write(writer, stream), os.close(writer)))
    feed.start()
    try:
        at = {"ram": [Place(0, 2 * PAGE, 0)]}
        RamStream(Pipe(reader).read_some, at, Ranges.of([wanted]), write, lambda done: None, began, 1 << 30).read()
    finally:
        while os.read(reader, 1 << 16):
            pass
        feed.join()
        os.close(reader)
    return bytes(ram)


WHOLE = b"A" * PAGE + b"B" * PAGE
#: A device that QEMU announces before RAM; its body has what could be taken for a footer.
EARLY = start(7, "0000:00:03.0/virtio-mem-device-early", b"\x7e\0\0\0\x07\xff" + bytes(40), kind=4)
ATTRIBUTES = struct.pack(">QQ4sQ", 2, 4, b"\1\2\3\4", 1)
TABLE = struct.pack(">IIHH32sIHH", 0, 8, 2, 1, b"p" * 32, 0, 0, 0)


@pytest.mark.parametrize(
    "stream",
    [
        HEAD + BLOCKS + PAGES + TAIL,
        HEAD + EARLY + BLOCKS + PAGES + TAIL,
        HEAD + BLOCKS + EARLY + PAGES + TAIL,
        HEAD + BLOCKS + part(RAM, FIRST + struct.pack(">Q", 16)) + SWITCHOVER_START
        + part(RAM, struct.pack(">Q", PAGE | 8) + text("ram") + b"B" * PAGE + struct.pack(">Q", 16)) + TAIL,
        HEAD + BLOCKS + start(OTHER, "s390-storage_attributes", struct.pack(">Q", 1))
        + part(OTHER, ATTRIBUTES) + PAGES + part(OTHER, struct.pack(">QQ", 8, 1)) + TAIL,
        HEAD + BLOCKS + start(OTHER, "spapr/htab", struct.pack(">I", 18)) + PAGES + part(OTHER, TABLE) + TAIL,
        HEAD + BLOCKS + start(OTHER, "spapr/htab", b"\xff" * 4) + PAGES + part(OTHER, b"\xff" * 4) + TAIL,
    ],
    ids=["plain", "device before ram", "device in ram", "command in ram", "s390x", "ppc64 hash", "ppc64 radix"],
)  # fmt: skip
def test_ram_is_found_between_other_sections(stream: bytes) -> None:
    began = 0

    def begin() -> None:
        nonlocal began
        began += 1

    # The parts of other sections that come after RAM are read as well, or QEMU would wait for its reader for ever.
    assert read(stream, began=begin) == WHOLE
    assert began == 1


def test_only_what_is_wanted_must_come() -> None:
    """QEMU sends no page of virtio-mem that is unplugged."""
    stream = HEAD + BLOCKS + part(RAM, FIRST + struct.pack(">Q", 16)) + TAIL
    assert read(stream, (0, PAGE)) == b"A" * PAGE + bytes(PAGE)
    with pytest.raises(SourceError, match="lacks 1 pages of ram in 0x0..0x2000"):
        read(stream)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (HEAD + BLOCKS + part(OTHER, b""), "section 3 continues without a start"),
        (HEAD + start(OTHER, "vfio", bytes(2 << 20))[:-5] + bytes(5), "a section 'vfio' that does not end"),
        (HEAD + start(7, "early", bytes(2 << 20), kind=4)[:-5] + bytes(5), "a section 'early' that does not end"),
        (HEAD + BLOCKS + start(OTHER, "s390-storage_attributes", struct.pack(">Q", 4)), "unknown kind 0x4"),
        (HEAD + b"\x09", "a section of the unknown kind 9"),
    ],
)
def test_an_unknown_stream_is_refused(stream: bytes, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        read(stream)


def test_a_cut_stream_ends() -> None:
    with pytest.raises(EOFError):
        read(HEAD + BLOCKS + PAGES[:100])


def test_places_are_those_of_the_memory_that_the_guest_sees() -> None:
    """Source: what QEMU 7.2 prints for a PC."""
    view = """FlatView #0
 AS "I/O", root: io
  0000000000000000-0000000000000007 (prio 0, ram): io
FlatView #1
 AS "memory", root: system
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram KVM
  00000000000c0000-00000000000dffff (prio 1, rom): pc.ram @00000000000c0000
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  0000000100000000-000000017fffffff (prio 0, ram): pc.ram @00000000c0000000
"""
    assert places(view, Ranges.empty()) == {
        "pc.ram": [
            Place(0, 0xC0000, 0),
            Place(0xC0000, 0x20000, 0xC0000),
            Place(0xC0000000, 0x80000000, 0x100000000),
        ]
    }
