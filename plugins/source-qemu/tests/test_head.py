"""The head of QEMU's ELF stream, sound and damaged. Source: the ELF specification; dump/dump.c of QEMU."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pydump.errors import SourceError
from pydump.layout.elf import PT_LOAD, PT_NOTE, Elf64Ehdr, Elf64Phdr
from pydump_qemu_stream.elf_head import Head, read_head
from pydump_source_qemu.pipe import Pipe

DUMP = Path(__file__).parents[3] / "tests/data/qemu/nano-x86_64/elf.xz"
EHDR = Elf64Ehdr.nbytes()
PHDR = Elf64Phdr.nbytes()


@pytest.fixture(scope="module")
def stream() -> bytes:
    """A dump that QEMU 7.2 wrote."""
    return lzma.decompress(DUMP.read_bytes())


@pytest.fixture
def head(stream: bytes) -> bytes:
    """Its first bytes, with all of its headers and notes."""
    return stream[:4096]


@pytest.fixture
def read() -> Iterator[Callable[[bytes], Head]]:
    """Reads a stream that ends after some bytes."""
    pipes: list[Pipe] = []

    def read(data: bytes) -> Head:
        fd = os.memfd_create("stream")
        pipes.append(Pipe(fd))
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return read_head(pipes[-1])

    yield read
    for pipe in pipes:
        pipe.close()


def with_header(data: bytes, **changes: int) -> bytes:
    """``data`` with other values in its ELF header."""
    return Elf64Ehdr.unpack(data, "little").replace(**changes).pack("little") + data[EHDR:]


def with_segment(data: bytes, kind: int, n: int = 0, **changes: int) -> bytes:
    """``data`` with other values in its ``n``-th segment of a kind."""
    header = Elf64Ehdr.unpack(data, "little")
    segments = [Elf64Phdr.unpack(data, "little", header.e_phoff + i * PHDR) for i in range(header.e_phnum)]
    i = [i for i, segment in enumerate(segments) if segment.p_type == kind][n]
    at = header.e_phoff + i * PHDR
    return data[:at] + segments[i].replace(**changes).pack("little") + data[at + PHDR :]


def test_a_head_of_qemu(head: bytes, read: Callable[[bytes], Head], stream: bytes) -> None:
    loads = read(head).loads
    assert loads[0].paddr == 0
    assert loads[-1].offset + loads[-1].size <= len(stream)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"e_type": 2}, "its type is 2"),
        ({"e_phnum": 0xFFFF}, "more segments than its header can count"),
        ({"e_phentsize": PHDR - 1}, f"program headers of {PHDR - 1} bytes"),
        ({"e_phentsize": 0}, "program headers of 0 bytes"),
        ({"e_phoff": 0}, "bytes at 0x0"),
        ({"e_phoff": (1 << 64) - 1}, "its headers and notes end at"),
    ],
)
def test_a_damaged_header_is_refused(
    head: bytes, read: Callable[[bytes], Head], change: dict[str, int], why: str
) -> None:
    with pytest.raises(SourceError, match=why):
        read(with_header(head, **change))


@pytest.mark.parametrize(
    ("segment", "change", "why"),
    [
        ((PT_NOTE, 0), {"p_offset": 8}, "notes begin within its headers"),
        ((PT_NOTE, 0), {"p_offset": 1 << 63}, "headers and notes end at"),
        ((PT_NOTE, 0), {"p_filesz": 1 << 40}, "bytes of notes"),
        ((PT_LOAD, 0), {"p_offset": 0}, "begins at 0x0, which is before"),
        ((PT_LOAD, 1), {"p_offset": 0x8A8}, "begins at 0x8a8, which is before"),
        ((PT_LOAD, -1), {"p_offset": 1 << 62}, "bytes before the memory"),
        ((PT_LOAD, 1), {"p_paddr": 0x1000}, "RAM blocks overlap"),
        ((PT_LOAD, -1), {"p_paddr": (1 << 64) - 4096}, "no such RAM block"),
        ((PT_LOAD, -1), {"p_filesz": 1 << 60}, "TiB of RAM"),
    ],
)
def test_a_damaged_segment_is_refused(
    head: bytes, read: Callable[[bytes], Head], segment: tuple[int, int], change: dict[str, int], why: str
) -> None:
    with pytest.raises(SourceError, match=why):
        read(with_segment(head, *segment, **change))


def test_notes_that_many_segments_share_are_counted_each_time(read: Callable[[bytes], Head]) -> None:
    """64,000 segments that name the same mebibyte of notes are 62 GiB of work."""
    count, size = 64000, 1 << 20
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    fields: dict[str, Any] = {"e_type": 4, "e_phoff": EHDR, "e_phnum": count, "e_phentsize": PHDR}
    header = with_header(ident + bytes(EHDR - 16), **fields)
    segment = Elf64Phdr(p_type=PT_NOTE, p_offset=EHDR + count * PHDR, p_filesz=size).pack("little")
    with pytest.raises(SourceError, match="bytes of notes"):
        read(header + segment * count)
