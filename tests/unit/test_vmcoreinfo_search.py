"""VMCOREINFO is found in RAM, and nothing else is taken for it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pydump.builtin.raw import BytesImage, RawImage, RawSource
from pydump.engine.vmcoreinfo import find_vmcoreinfo
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import ByteOrder, Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo

DATA = Path(__file__).parents[1] / "data/vmcoreinfo"
TEXT = (DATA / "x86_64.txt").read_bytes()
OTHER = (DATA / "aarch64.txt").read_bytes()
SIZE = 9 << 20


def note(text: bytes, byte_order: ByteOrder = "little") -> bytes:
    """The note as a kernel lays it into a page of its own."""
    order = "<" if byte_order == "little" else ">"
    return struct.pack(order + "III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text


def ram_with(places: dict[int, bytes], size: int = SIZE) -> bytearray:
    ram = bytearray(size)
    for paddr, data in places.items():
        ram[paddr : paddr + len(data)] = data
    return ram


def search(places: dict[int, bytes], byte_order: ByteOrder = "little") -> bytes | None:
    source = BytesImage(Guest(MemoryMap()), {0: ram_with(places)})
    found = find_vmcoreinfo(source, source.guest().memory, byte_order)
    return found[0].text if found else None


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "i386", "s390x", "ppc64", "riscv64"])
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_note_and_text_are_found(arch: str, byte_order: ByteOrder) -> None:
    text = (DATA / f"{arch}.txt").read_bytes()
    assert search({0x123000: note(text, byte_order)}, byte_order) == text
    assert search({SIZE - 4096: note(text, byte_order)}, byte_order) == text
    assert search({0x400000 - 4096: text}, byte_order) == text


def test_the_note_is_preferred_to_the_text_and_the_longer_text_to_the_shorter() -> None:
    shorter = TEXT[: TEXT.index(b"NUMBER(PG_lru)")]
    assert search({0x1000: OTHER, 0x200000: note(TEXT), 0x800000: OTHER}) == TEXT
    assert search({0x1000: shorter, 0x300000: TEXT}) == TEXT
    assert search({0x1000: TEXT, 0x300000: shorter}) == TEXT


def test_of_many_the_likeliest_few_are_kept() -> None:
    texts = [b"OSRELEASE=6.%d\nPAGESIZE=4096\n" % i + b"X=1\n" * (i == 7) for i in range(40)]
    places = {0x1000 * (i + 1): text for i, text in enumerate(texts)} | {0x100000: note(texts[3])}
    source = BytesImage(Guest(MemoryMap()), {0: ram_with(places, 2 << 20)})
    found = [each.text for each in find_vmcoreinfo(source, source.guest().memory, "little")]
    assert (len(found), found[:3]) == (16, [texts[3], texts[7], texts[0]])


@pytest.mark.parametrize(
    "data",
    [
        note(TEXT)[:24] + b"OSRELEASE=" + b"\x80" * (len(TEXT) - 10),  # no text
        note(TEXT)[:24] + b"X" + TEXT[1:],  # does not begin as it should
        note(TEXT.replace(b"PAGESIZE=4096", b"PAGESIZE=4095")),  # no page size
        note(TEXT, "big"),  # of the other byte order
        struct.pack("<III", 11, 1 << 30, 0) + note(TEXT)[12:],  # longer than a page
        struct.pack("<III", 11, len(TEXT), 1) + note(TEXT)[12:],  # of another type
        b"OSRELEASE=6.1.0\n" * 100,  # a text that does not know its page size
        TEXT.replace(b"\nSYMBOL(_stext)", b"\n\x01SYMBOL(_stext)"),
        TEXT.ljust(4097, b"\n"),  # a text that is longer than its page
    ],
)
def test_what_makes_no_sense_is_not_taken(data: bytes) -> None:
    assert search({0x5000: data}) is None
    assert search({0x5000: data, 0x7000: TEXT}) == TEXT


def test_a_note_not_at_the_start_of_a_page_is_no_note() -> None:
    assert search({0x5010: note(TEXT)}) is None


def test_a_note_in_the_last_page_of_ram() -> None:
    whole = BytesImage(Guest(MemoryMap()), {0: bytes(0x2000) + note(TEXT).ljust(4096, b"\0")})
    assert find_vmcoreinfo(whole, whole.guest().memory, "little") == (Vmcoreinfo(TEXT),)
    cut = BytesImage(Guest(MemoryMap()), {0: bytes(0x2000) + note(TEXT + b"\n" * 900)[:4096]})
    assert find_vmcoreinfo(cut, cut.guest().memory, "little") == ()


def test_blocks_that_begin_and_end_within_a_page() -> None:
    contents: dict[int, bytes | bytearray | memoryview] = {
        0x800: bytes(0x900),
        0x10801: bytes(0x7FF) + note(TEXT).ljust(0x2000, b"\0") + b"x",
        0x20000: bytes(100),
    }
    source = BytesImage(Guest(MemoryMap()), contents)
    assert find_vmcoreinfo(source, source.guest().memory, "little") == (Vmcoreinfo(TEXT),)


def test_no_memory() -> None:
    assert find_vmcoreinfo(BytesImage(Guest(MemoryMap()), {}), MemoryMap(), "little") == ()


class Watched(MemoryImage):
    """Notes which addresses are read."""

    def __init__(self, inner: RawImage) -> None:
        self.inner = inner
        self.read: list[tuple[int, int]] = []

    def guest(self) -> Guest:
        return self.inner.guest()

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self.read.append((paddr, len(buffer)))
        self.inner.read_into(paddr, buffer)

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        return self.inner.data_ranges(paddr, size)


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    with path.open("wb") as file:
        os.truncate(path, 64 << 30)
        file.seek(40 << 30)
        file.write(note(TEXT))
    with Watched(RawSource.open(f"{path}@0x40000000")) as source:
        found = find_vmcoreinfo(source, source.guest().memory, "little")
    assert found == (Vmcoreinfo(TEXT),)
    assert source.read[0][0] // 4096 * 4096 == (40 << 30) + 0x40000000
    assert sum(size for _, size in source.read) < 1 << 20


class TestLowcore:
    """s390x says where it is; nothing else need be read."""

    text = (DATA / "s390x.txt").read_bytes()

    def search(self, places: dict[int, bytes]) -> tuple[bytes | None, int]:
        source = CountingSource(Guest(MemoryMap()), {0: ram_with(places)})
        found = find_vmcoreinfo(source, source.guest().memory, "big")
        return (found[0].text if found else None), source.bytes_read

    def test_vmcore_info(self) -> None:
        found, n_read = self.search({0xE0C: struct.pack(">Q", 0x1B000), 0x1B000: note(self.text, "big")})
        assert found == self.text
        assert n_read < 4096

    def test_os_info(self) -> None:
        # arch/s390/include/asm/os_info.h: magic, csum, version 1.1, crash kernel, then entries of addr, size, csum.
        os_info = b"OSINFOSZ" + struct.pack(">IHHQQ", 0, 1, 1, 0, 0) + struct.pack(">QQI", 0x2B010, len(self.text), 0)
        found, n_read = self.search({0xE18: struct.pack(">Q", 0x1C000), 0x1C000: os_info, 0x2B010: self.text})
        assert found == self.text
        assert n_read < 8192

    @pytest.mark.parametrize("pointer", [0x1B000, 0x1B008, 1 << 40, (1 << 64) - 1])
    def test_a_pointer_to_nothing_leaves_the_search(self, pointer: int) -> None:
        places = {0xE0C: struct.pack(">Q", pointer), 0xE18: struct.pack(">Q", pointer)}
        assert self.search(places)[0] is None
        assert self.search({**places, 0x40000: note(self.text, "big")})[0] == self.text


class CountingSource(BytesImage):
    """Counts the bytes that are read."""

    bytes_read = 0

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self.bytes_read += len(buffer)
        super().read_into(paddr, buffer)


class Slow(BytesImage):
    """Of each page only the head comes quickly."""

    def __init__(self, ram: bytes) -> None:
        super().__init__(Guest(MemoryMap()), {0: ram})
        self.ram = ram
        self.read = 0

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self.read += len(buffer)
        super().read_into(paddr, buffer)

    def read_heads(self, pages: Sequence[int], size: int) -> bytes:
        return b"".join(self.ram[page : page + size] for page in pages)


@pytest.mark.parametrize("paddr", [0, 0x123000, SIZE - 4096])
def test_a_source_that_is_slow_is_not_read_whole(paddr: int) -> None:
    source = Slow(bytes(ram_with({paddr: note(TEXT)})))
    assert [one.text for one in find_vmcoreinfo(source, source.guest().memory, "little")] == [TEXT]
    assert source.read < SIZE // 100
